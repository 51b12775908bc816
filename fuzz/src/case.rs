//! What is compared: a module and a seed.

use crate::value::Value;

/// A module, and the seed of all that is done with it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The module's bytes. Its imports are of [`generate::IMPORTS`](crate::generate::IMPORTS), or what its script says.
    pub wasm: Vec<u8>,
    /// Chooses the setups and the arguments.
    pub seed: u64,
    /// Where the module is from a script: what the script says of it.
    pub script: Option<Script>,
}

/// What belongs to a module of a script. It may run for ever: then it is stopped, and compared up to there.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Modules that it imports from, by name, each after those that it imports from itself. `spectest` is not among them.
    pub libraries: Vec<(String, Vec<u8>)>,
    /// Exported functions that most calls are of.
    pub focus: Vec<String>,
    /// And those that the others are of. None: any.
    pub others: Vec<String>,
    /// Calls that the script makes: arguments to take, changed or not.
    pub calls: Vec<(String, Vec<Value>)>,
    /// Whether NaNs are the engine's to make alike: the module sees their bits.
    pub exact_nans: bool,
}

/// One way to run Selvedge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Reserved memories, optimised, no fuel, synchronous calls, typed host functions.
    Plain,
    /// Bounded memories, optimised, fuel, synchronous calls.
    Metered,
    /// Reserved memories, optimised, fuel that yields, async calls whose host functions wait once.
    Yielding,
    /// Bounded memories, not optimised, no fuel, async calls.
    Waiting,
    /// Bounded memories, optimised, no fuel, synchronous calls.
    Bounded,
}

impl Setup {
    /// Whether calls are async, and host functions wait.
    pub fn is_async(self) -> bool {
        matches!(self, Setup::Yielding | Setup::Waiting)
    }
}

impl Case {
    /// The module as text.
    pub fn text(&self) -> String {
        wasmprinter::print_bytes(&self.wasm).unwrap_or_else(|error| error.to_string())
    }

    /// A case of a random module.
    pub fn new(wasm: Vec<u8>, seed: u64) -> Case {
        Case {
            wasm,
            seed,
            script: None,
        }
    }

    /// Whether engines are to make NaNs canonical.
    pub fn exact_nans(&self) -> bool {
        self.script.as_ref().is_some_and(|script| script.exact_nans)
    }

    /// The setup to run beside [`Setup::Metered`].
    pub fn setup_beside_metered(&self) -> Setup {
        use Setup::*;
        [Plain, Yielding, Waiting, Bounded][(self.seed % 4) as usize]
    }

    /// All that the case is run in.
    pub fn all_setups(&self) -> Vec<Setup> {
        match &self.script {
            Some(_) => vec![Setup::Metered, self.setup_beside_metered()],
            None => self.setups().to_vec(),
        }
    }

    /// The two setups to run.
    pub fn setups(&self) -> [Setup; 2] {
        use Setup::*;
        const PAIRS: [[Setup; 2]; 9] = [
            [Plain, Metered],
            [Plain, Yielding],
            [Plain, Waiting],
            [Metered, Yielding],
            [Metered, Waiting],
            [Yielding, Waiting],
            [Plain, Bounded],
            [Metered, Bounded],
            [Yielding, Bounded],
        ];
        PAIRS[(self.seed % 9) as usize]
    }
}

/// The next number of a sequence that follows from a seed: splitmix64.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// That many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next_u64().to_le_bytes());
        words.flatten().take(count).collect()
    }
}

/// splitmix64's finaliser.
pub fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
