//! Bytes that may be a module: Selvedge compiles them or says where they are wrong, and soon.
//!
//! ```text
//!   bytes --+--> as they are, behind a module's header or not -------------+--> check: a module, or an error with an offset
//!           +--> corpus: a script's module --> mutate: with some changes --+
//! ```
//!
//! Rules
//! 1. What is taken is valid, as a validator says that knows every proposal.
//! 2. What is refused has its offset in the bytes.
//! 3. Either happens within [`LIMIT`]. A slow answer is asked for again: the machine may have had other things to do.

use crate::corpus::MODULES;
use crate::mutate::mutate;
use arbitrary::Unstructured;
use selvedge::{CompileError, Config, Engine, MemoryStyle, Module, OptLevel};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use wasmparser::{Validator, WasmFeatures};

/// How long an answer may take, for at most [`MAX_BYTES`].
pub const LIMIT: Duration = Duration::from_secs(3);
/// Longer inputs are cut.
pub const MAX_BYTES: usize = 64 << 10;
/// How often a slow answer is asked for.
const TRIES: usize = 3;
/// What every module begins with.
const HEADER: &[u8] = b"\0asm\x01\0\0\0";

/// What was said to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// They are a module.
    Taken,
    /// They are not, and this is where.
    Refused {
        /// The offset of the error.
        offset: u64,
    },
}

/// The bytes to decode that `data` stands for.
pub fn bytes(data: &[u8]) -> Option<Vec<u8>> {
    let mut u = Unstructured::new(data);
    let mut bytes = match u.int_in_range(0..=15).ok()? {
        0 => u.take_rest().to_vec(),
        1 => [HEADER, u.take_rest()].concat(),
        2 => u.choose(&MODULES).ok()?.clone(),
        _ => {
            let (module, other) = (u.choose(&MODULES).ok()?, u.choose(&MODULES).ok()?);
            mutate(module, other, &mut u).ok()?
        }
    };
    bytes.truncate(MAX_BYTES);
    Some(bytes)
}

static ENGINES: LazyLock<[Engine; 2]> = LazyLock::new(|| {
    let mut plain = every_proposal();
    let mut other = every_proposal();
    other
        .opt_level(OptLevel::None)
        .fuel(true)
        .memory_style(MemoryStyle::Bounded);
    [&mut plain, &mut other].map(|config| {
        let engine = Engine::new(config);
        engine.unwrap_or_else(|error| panic!("no engine: {error:#}"))
    })
});

fn every_proposal() -> Config {
    let mut config = Config::new();
    config
        .parallel_compilation(false)
        .wasm_wide_arithmetic(true)
        .wasm_custom_page_sizes(true);
    config
}

/// Compiles the bytes in two ways, which must answer alike.
///
/// # Errors
/// What is wrong with the answers.
pub fn check(bytes: &[u8]) -> Result<Answer, String> {
    let [plain, other] = ENGINES.each_ref().map(|engine| check_with(engine, bytes));
    let (plain, other) = (plain?, other?);
    match plain == other {
        true => Ok(plain),
        false => Err(format!(
            "{plain:?} optimised, {other:?} not optimised and metered"
        )),
    }
}

fn check_with(engine: &Engine, bytes: &[u8]) -> Result<Answer, String> {
    let result = in_time(|| Module::new(engine, bytes))?;
    let Err(error) = result else {
        let valid = Validator::new_with_features(WasmFeatures::all()).validate_all(bytes);
        return match valid {
            Ok(_) => Ok(Answer::Taken),
            Err(error) => Err(format!("taken, but not valid: {error}")),
        };
    };
    let is_text = !bytes.starts_with(&HEADER[..4]);
    let offset = error
        .downcast_ref::<CompileError>()
        .and_then(CompileError::offset);
    match offset {
        Some(offset) if offset <= bytes.len() as u64 => Ok(Answer::Refused { offset }),
        // The text format has lines.
        None if is_text => Ok(Answer::Refused { offset: 0 }),
        Some(_) => Err(format!("the offset is beyond {} bytes: {error:#}", bytes.len())),
        None => Err(format!("no offset: {error:#}")),
    }
}

/// The answer, if one of a few tries is in time.
fn in_time<T>(mut answer: impl FnMut() -> T) -> Result<T, String> {
    let mut fastest = Duration::MAX;
    for _ in 0..TRIES {
        let start = Instant::now();
        let answer = answer();
        let took = start.elapsed();
        if took <= LIMIT {
            return Ok(answer);
        }
        fastest = fastest.min(took);
    }
    Err(format!("took {fastest:?} and more, {TRIES} times"))
}
