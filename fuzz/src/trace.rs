//! What a guest did, and where two traces part.

use crate::Counts;
use crate::case::{Case, Setup};
use crate::value::Value;
use std::fmt;

/// Why a guest stopped, in neither engine's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stop {
    Exception,
    Unreachable,
    MemoryOutOfBounds,
    TableOutOfBounds,
    CallToNull,
    BadSignature,
    DivisionByZero,
    /// The quotient of the lowest integer by -1, and a float that fits into no integer: one class, as `wasmi` has it otherwise.
    OverflowOrConversion,
    StackOverflow,
    /// A host function said so.
    Host,
    /// A rival's fuel ran out, as it has a guest pay for elements that a table does not get.
    Unpaid,
    NullReference,
    Unaligned,
    NotShared,
    /// Fuel that should not have run out, or a host function's fault: never right.
    Other,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With these results.
    Returned(Vec<Value>),
    /// By a trap.
    Stopped(Stop),
    /// The instance could not be made, for a reason that is no trap; or what is no trap in a call: never right there.
    Refused(String),
}

/// What can be seen of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Pages and a hash of the bytes, of each exported memory by name.
    pub memories: Vec<(u64, u64)>,
    /// Elements and a hash of which are null, of each exported table by name.
    pub tables: Vec<(u64, u64)>,
    /// The exported globals by name.
    pub globals: Vec<Value>,
}

/// An instantiation or a call.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done, with the arguments.
    pub what: String,
    /// How it ended.
    pub end: End,
    /// Calls of host functions since the start, and a hash of their arguments in order.
    pub host: (u64, u64),
    /// What can be seen afterwards.
    pub state: State,
    /// Units of fuel used since the start, where they are counted.
    pub fuel_used: Option<u64>,
}

/// What a guest did.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Who: an engine and its setup.
    pub who: String,
    /// Step by step.
    pub steps: Vec<Step>,
}

/// Where two traces part.
#[derive(Debug)]
pub struct Difference {
    /// The engines.
    pub who: [String; 2],
    /// The step, or that one trace is shorter.
    pub what: String,
    /// What each has there.
    pub found: [String; 2],
    /// The setups that the case is run in.
    pub setups: Vec<Setup>,
    /// The case's seed.
    pub seed: u64,
    /// The module as text.
    pub wat: String,
}

impl Difference {
    pub(crate) fn new(traces: [&Trace; 2], what: &str, found: [String; 2]) -> Box<Difference> {
        Box::new(Difference {
            who: traces.map(|trace| trace.who.clone()),
            what: what.to_owned(),
            found,
            setups: Vec::new(),
            seed: 0,
            wat: String::new(),
        })
    }

    /// A valid module is refused.
    pub(crate) fn refused(error: &str) -> Box<Difference> {
        let traces = ["a validator", "selvedge"].map(|who| Trace {
            who: who.to_owned(),
            steps: Vec::new(),
        });
        Difference::new(
            traces.each_ref(),
            "compiling",
            ["valid".to_owned(), error.to_owned()],
        )
    }

    /// With the case that shows it.
    pub fn of_case(mut self: Box<Self>, case: &Case) -> Box<Difference> {
        self.setups = case.all_setups();
        self.seed = case.seed;
        self.wat = case.text();
        self
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.wat)?;
        writeln!(
            f,
            "at {}, seed {:#x}, setups {:?}:",
            self.what, self.seed, self.setups
        )?;
        for (who, found) in self.who.iter().zip(&self.found) {
            writeln!(f, "  {who}: {found}")?;
        }
        Ok(())
    }
}

/// Compares two traces, up to the first stack overflow in either, or where a rival has no fuel left.
///
/// # Errors
/// The first difference.
pub fn compare(expected: &Trace, found: &Trace) -> Result<Counts, Box<Difference>> {
    let traces = [expected, found];
    let mut counts = Counts::default();
    for (a, b) in expected.steps.iter().zip(&found.steps) {
        if is_undecided(&a.end) || is_undecided(&b.end) {
            counts.cut += 1;
            return Ok(counts);
        }
        check(traces, &a.what, &a.what, &b.what)?;
        check_ends(traces, a, b)?;
        check(traces, &a.what, &a.host, &b.host)?;
        check(traces, &a.what, &a.state, &b.state)?;
        counts.calls += 1;
        counts.traps += u64::from(!matches!(a.end, End::Returned(_)));
        counts.exceptions += u64::from(matches!(a.end, End::Stopped(Stop::Exception)));
        counts.nulls += u64::from(matches!(a.end, End::Stopped(Stop::NullReference)));
        counts.host_calls = a.host.0;
    }
    let (a, b) = (expected.steps.len(), found.steps.len());
    let longer = if a > b { expected } else { found };
    // Who was driven further may have found what is not compared.
    if a != b && is_undecided(&longer.steps[a.min(b)].end) {
        counts.cut += 1;
        return Ok(counts);
    }
    check(traces, "the number of steps", &a, &b)?;
    Ok(counts)
}

/// Compares the fuel of two setups that both have some.
///
/// # Errors
/// The first step after which they have used different numbers of units.
pub fn compare_fuel(first: &Trace, second: &Trace) -> Result<(), Box<Difference>> {
    for (a, b) in first.steps.iter().zip(&second.steps) {
        if is_undecided(&a.end) || is_undecided(&b.end) {
            return Ok(());
        }
        if let (Some(used), Some(other)) = (a.fuel_used, b.fuel_used) {
            check([first, second], &format!("the fuel of {}", a.what), &used, &other)?;
        }
    }
    Ok(())
}

/// Compares the fuel of each call that returns, of two engines that both count it.
///
/// # Errors
/// The first call that used different numbers of units.
pub fn compare_fuel_of_calls(first: &Trace, second: &Trace) -> Result<(), Box<Difference>> {
    let pairs = first.steps.windows(2).zip(second.steps.windows(2));
    for (a, b) in pairs {
        if is_undecided(&a[1].end) || is_undecided(&b[1].end) {
            return Ok(());
        }
        let is_call = a[1].what != crate::guest::INSTANTIATE && matches!(a[1].end, End::Returned(_));
        if let (true, Some(used), Some(other)) = (is_call, fuel_of_last(a), fuel_of_last(b)) {
            check(
                [first, second],
                &format!("the fuel of {}", a[1].what),
                &used,
                &other,
            )?;
        }
    }
    Ok(())
}

/// What the second of two steps used.
fn fuel_of_last(steps: &[Step]) -> Option<u64> {
    Some(steps[1].fuel_used? - steps[0].fuel_used?)
}

/// Whether nothing can be said of what comes behind.
pub(crate) fn is_undecided(end: &End) -> bool {
    matches!(end, End::Stopped(Stop::StackOverflow | Stop::Unpaid))
}

/// Ends are compared but for the reason why an instance could not be made: the engines' words for that differ. An atomic access that is neither
/// aligned nor in bounds may end for either reason, but for the same in all of an engine's setups: which is looked at first differs, in
/// `wasmtime` by the operator's offset.
fn check_ends(traces: [&Trace; 2], a: &Step, b: &Step) -> Result<(), Box<Difference>> {
    let is_refused = |step: &Step| matches!(step.end, End::Refused(_));
    let is_start = a.what == crate::guest::INSTANTIATE;
    let fails = |step: &Step| is_refused(step) || step.end == End::Stopped(Stop::TableOutOfBounds);
    if is_start && fails(a) && fails(b) {
        return Ok(());
    }
    let is_either = |step: &Step| matches!(step.end, End::Stopped(Stop::MemoryOutOfBounds | Stop::Unaligned));
    let is_ours = |trace: &Trace| trace.who.starts_with("selvedge");
    if is_either(a) && is_either(b) && !traces.iter().all(|trace| is_ours(trace)) {
        return Ok(());
    }
    if is_refused(a) || is_refused(b) || a.end != b.end {
        return Err(Difference::new(
            traces,
            &a.what,
            [a, b].map(|step| format!("{:?}", step.end)),
        ));
    }
    Ok(())
}

fn check<T: PartialEq + fmt::Debug>(
    traces: [&Trace; 2],
    what: &str,
    a: &T,
    b: &T,
) -> Result<(), Box<Difference>> {
    match a == b {
        true => Ok(()),
        false => Err(Difference::new(
            traces,
            what,
            [format!("{a:?}"), format!("{b:?}")],
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_may_tell_either_of_two_reasons_and_setups_may_not() {
        let ending = |who: &str, stop: Stop| Trace {
            who: who.to_owned(),
            steps: vec![Step {
                what: "f".to_owned(),
                end: End::Stopped(stop),
                host: (0, 0),
                state: State::default(),
                fuel_used: None,
            }],
        };
        let beyond = ending("selvedge Metered", Stop::MemoryOutOfBounds);
        for (who, stop, is_same) in [
            ("wasmtime", Stop::Unaligned, true),
            ("wasmtime", Stop::TableOutOfBounds, false),
            ("selvedge Yielding", Stop::Unaligned, false),
        ] {
            let compared = compare(&ending(who, stop), &beyond);
            assert_eq!(compared.is_ok(), is_same, "{who}, {stop:?}");
        }
    }
}
