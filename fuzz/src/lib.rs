//! Differential fuzzing: Selvedge beside `wasmi` and `wasmtime`, over modules that `wasm-smith` makes of bytes, and over changed modules of the
//! specification's scripts ([`mutants`]).
//!
//! ```text
//!   bytes -> generate: Case { wasm, seed } --+--> ours (two setups, or three) -----+
//!              + references, or waits        +--> rival (wasmi), if it has all ----+--> trace: equal, step by step?
//!                                            +--> wasmtime_rival, with the feature +
//! ```
//!
//! A *case* is a module and a seed. A *guest* is the case in one engine; [`drive`](guest::drive) instantiates it and calls its
//! functions, with arguments that follow from the seed, and writes down a *trace*: what each step returned or how it
//! trapped, which host functions it called, and the memories, tables and globals after it. A *setup* is one way to run Selvedge:
//! memory style, optimisation, fuel, synchronous or parked at every host call and every few units of fuel.
//!
//! Rules
//! 1. The engines differ rightly in the depth of a stack overflow alone: a trace is compared up to the first one. So is one of `wasmtime`
//!    to where its fuel runs out: a `table.grow` by 2^60 elements is paid for there, also in vain.
//! 2. NaNs are one class. The modules make their own NaNs canonical, so that payloads do not get into memories.
//! 3. Every module ends: `wasm-smith` counts loops and calls in a global, and traps.
//! 4. Two setups with fuel have used the same number of units after each step, and `wasmtime` in each call that returns: it does not
//!    count what precedes a trap in its block. Bulk operations have other costs there: modules with such are left out.
//! 5. `wasmi` is an interpreter with faults of its own. Where it differs from `wasmtime` too, it is outvoted.
//!
//! Beside it, [`decode`] gives the compiler bytes that are no module, or hardly one.

#![warn(missing_docs)]

pub mod case;
mod change;
pub mod corpus;
pub mod decode;
pub mod generate;
pub mod guest;
mod host;
pub mod inputs;
pub mod mutants;
mod mutate;
mod operators;
pub mod ours;
mod parts;
mod references;
mod rewrite;
pub mod rival;
pub mod scripts;
mod sections;
mod statements;
pub mod trace;
pub mod value;
mod waits;
#[cfg(feature = "wasmtime")]
mod wasmtime_rival;
mod watchdog;

use case::{Case, Setup};
use generate::Beyond;
use trace::{Difference, Trace};

/// How often `wasmi` is asked again when the engines differ.
const REPEATS: usize = 4;

/// What became of an input.
#[derive(Debug)]
pub enum Outcome {
    /// The bytes make no module, or one that `wasmi` has no room for.
    Skipped,
    /// The engines agree.
    Agreed(Counts),
    /// They do not, but neither does `wasmi` with itself, as some of its code reads what was never written, or with `wasmtime`.
    Doubtful,
    /// The engines do not.
    Differs(Box<Difference>),
}

/// How much a comparison did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls whose ends and effects were compared.
    pub calls: u64,
    /// Those of them that trapped.
    pub traps: u64,
    /// Those of them that ended with an exception that nothing caught.
    pub exceptions: u64,
    /// Calls of host functions in them.
    pub host_calls: u64,
    /// Those that trapped at a null reference.
    pub nulls: u64,
    /// Traces cut off at a stack overflow.
    pub cut: u64,
    /// Traces that were compared with Wasmtime's.
    pub beside_wasmtime: u64,
}

impl Counts {
    /// These, also compared with Wasmtime's if there are some.
    fn beside(mut self, wasmtime: Option<Counts>) -> Counts {
        self.beside_wasmtime = wasmtime.map_or(0, |counts| counts.beside_wasmtime);
        self
    }

    /// Adds `other` to these.
    pub fn add(&mut self, other: Counts) {
        self.calls += other.calls;
        self.traps += other.traps;
        self.exceptions += other.exceptions;
        self.host_calls += other.host_calls;
        self.nulls += other.nulls;
        self.cut += other.cut;
        self.beside_wasmtime += other.beside_wasmtime;
    }
}

/// Makes a case of `data` and compares the engines over it.
pub fn run(data: &[u8]) -> Outcome {
    match generate::case(data) {
        Some(case) => run_case(&case),
        None => Outcome::Skipped,
    }
}

/// Compares the engines over one case.
pub fn run_case(case: &Case) -> Outcome {
    let Some(expected) = rival::run(case, usize::MAX) else {
        return Outcome::Skipped;
    };
    let traces = case.setups().map(|setup| ours::run(case, setup));
    let second = match with_wasmtime(case, &traces, true, usize::MAX) {
        Ok(compared) => compared,
        Err(difference) => return Outcome::Differs(difference.of_case(case)),
    };
    match compare_all(&expected, &traces) {
        Ok(counts) => Outcome::Agreed(counts.beside(second)),
        Err(_) if second.is_some() || !rival_repeats(case, &expected) => Outcome::Doubtful,
        Err(difference) => Outcome::Differs(difference.of_case(case)),
    }
}

/// Compares with `wasmtime`, fuel too where `fuel` says so. Nothing without the feature, or where it refuses the module.
fn with_wasmtime(
    case: &Case,
    ours: &[Trace],
    fuel: bool,
    steps: usize,
) -> Result<Option<Counts>, Box<Difference>> {
    let Some(second) = wasmtime_trace(case, steps) else {
        return Ok(None);
    };
    let mut counts = Counts::default();
    for trace in ours {
        counts.add(trace::compare(&second, trace)?);
        counts.beside_wasmtime += 1;
        mutants::contradiction(trace, &second)?;
        if fuel && !generate::has_bulk_operators(&case.wasm) {
            trace::compare_fuel_of_calls(&second, trace)?;
        }
    }
    Ok(Some(counts))
}

#[cfg(feature = "wasmtime")]
fn wasmtime_trace(case: &Case, steps: usize) -> Option<Trace> {
    wasmtime_rival::run(case, steps)
}

#[cfg(not(feature = "wasmtime"))]
fn wasmtime_trace(_: &Case, _: usize) -> Option<Trace> {
    None
}

/// Whether `wasmi` does the same a few times more.
fn rival_repeats(case: &Case, expected: &Trace) -> bool {
    let again = std::iter::repeat_with(|| rival::run(case, usize::MAX)).take(REPEATS);
    let mut again = again.flatten();
    again.all(|trace| trace::compare(expected, &trace).is_ok())
}

/// Makes a case of `data` with what `wasmi` does not have, and compares Selvedge with itself and with `wasmtime` over it. One of the setups
/// collects references at every allocation.
pub fn run_beyond(what: Beyond, data: &[u8]) -> Outcome {
    let case = generate::case_beyond(what, data).filter(|case| !ours::takes_exceptions(case));
    let Some(case) = case else {
        return Outcome::Skipped;
    };
    let plain = ours::run(&case, Setup::Plain);
    let others = [Setup::Metered, Setup::Yielding].map(|setup| ours::run(&case, setup));
    let fuel = !generate::has_exceptions(&case.wasm);
    let compared = compare_all(&plain, &others);
    match compared.and_then(|counts| Ok(counts.beside(with_wasmtime(&case, &others, fuel, usize::MAX)?))) {
        Ok(counts) => Outcome::Agreed(counts),
        Err(difference) => Outcome::Differs(difference.of_case(&case)),
    }
}

fn compare_all(expected: &Trace, ours: &[Trace; 2]) -> Result<Counts, Box<Difference>> {
    let mut counts = Counts::default();
    for trace in ours {
        counts.add(trace::compare(expected, trace)?);
    }
    trace::compare_fuel(&ours[0], &ours[1])?;
    Ok(counts)
}
