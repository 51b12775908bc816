//! The inputs of a target on stable: a fixed sequence, for some seconds.

use crate::case::Numbers;
use std::time::{Duration, Instant};

/// How long, in seconds: `SELVEDGE_FUZZ_SECONDS`, or this.
const DEFAULT_SECONDS: u64 = 5;
/// Whether the number of each input is printed before it is used, by which to find the one that kills the process.
const NAMES: &str = "SELVEDGE_FUZZ_NAMES";
/// The number of the first input: `SELVEDGE_FUZZ_SEED`, or this.
const DEFAULT_SEED: u64 = 1;

/// Inputs with their numbers, until the time is over: one at least.
#[derive(Debug)]
pub struct Inputs {
    /// How long they last.
    pub seconds: u64,
    first: u64,
    next: u64,
    deadline: Instant,
    says_names: bool,
}

impl Inputs {
    /// As the environment says.
    ///
    /// # Panics
    /// A variable that is no number.
    pub fn from_environment() -> Inputs {
        let seconds = number_in("SELVEDGE_FUZZ_SECONDS", DEFAULT_SECONDS);
        let first = number_in("SELVEDGE_FUZZ_SEED", DEFAULT_SEED);
        Inputs {
            seconds,
            first,
            next: first,
            deadline: Instant::now() + Duration::from_secs(seconds),
            says_names: std::env::var_os(NAMES).is_some(),
        }
    }
}

impl Iterator for Inputs {
    type Item = (u64, Vec<u8>);

    fn next(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.next > self.first && Instant::now() > self.deadline {
            return None;
        }
        let seed = self.next;
        self.next += 1;
        if self.says_names {
            eprintln!("input {seed}");
        }
        Some((seed, bytes_of(seed)))
    }
}

/// The bytes of input number `seed`.
pub fn bytes_of(seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let count = 512 + numbers.next_u64() as usize % 6144;
    numbers.bytes(count)
}

fn number_in(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable);
    text.map_or(default, |text| {
        text.parse().unwrap_or_else(|error| panic!("{variable}: {error}"))
    })
}
