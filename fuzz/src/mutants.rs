//! Modules of the specification's scripts, changed and executed side by side.
//!
//! ```text
//!   bytes --+--> a module of a script, and another --> change --> rewrite --+--> Selvedge, metered -----------+
//!           |                                                              +--> another of its setups -------+--> trace
//!           +--> a seed: calls, with the script's arguments or others ------+--> wasmi, where it knows them --+
//!                                                                          +--> wasmtime, with the feature --+
//! ```
//!
//! What scripts do is small and hits one operator after the other in all its cases; a changed script does that with other operators, constants,
//! offsets, pieces of code than anybody thought of.
//!
//! Rules
//! 1. Everything is exported, so all that changes is seen.
//! 2. A module may run for ever. The metered setup comes first and is stopped after [`SCRIPT_FUEL_UNITS`]; nobody is driven further than that, and
//!    a rival that then was done with far fewer units contradicts it.
//! 3. NaNs are one class. Where a module computes with floats either it makes its NaNs canonical itself, and all can be compared; or each
//!    engine does, and `wasmi`, which cannot, is left out.
//! 4. `relaxed_madd` and `relaxed_nmadd` are compared between setups alone: where a product is rounded is theirs to choose, and each of its users
//!    would have two right results. So is `relaxed_dot`, unless its second operand is tamed.
//! 5. A wait is one for no time, or for another value than is there: it returns at once.
//! 6. Fuel is the same in two setups, and in `wasmtime` as said in [the crate's rules](crate).

use crate::case::{Case, Script, Setup};
use crate::change::change;
use crate::ours::SCRIPT_FUEL_UNITS;
use crate::parts::Parts;
use crate::rewrite::{canonicalize, export_all, is_of_choice, makes_nans, share, tame_dots, thin};
use crate::scripts::FOLDERS;
use crate::trace::{Difference, End, Stop, Trace};
use crate::waits::bound;
use crate::{Counts, Outcome, generate, ours, rival, trace, with_wasmtime};
use arbitrary::Unstructured;
use selvedge::CompileError;

/// At most so many changes are made; one module in sixteen is as it was.
const MAX_CHANGES: usize = 15;
/// So many functions are kept beside those that were changed, and what they call.
const OTHERS: usize = 3;
/// A rival that used this part of what a setup ran out of, and was done, contradicts it: costs differ by less.
const CONTRADICTION: u64 = 32;

/// A changed module of a script.
pub struct Mutant {
    /// Which scripts: an index into [`FOLDERS`].
    pub folder: usize,
    /// What to run.
    pub case: Case,
    /// Whether it has an operator whose result is an engine's choice.
    has_choice: bool,
    /// Whether it computes with floats.
    has_floats: bool,
}

/// Who was compared with the metered setup and another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rivals {
    /// `wasmi`.
    pub wasmi: bool,
    /// `wasmtime`.
    pub wasmtime: bool,
}

/// The mutant that `data` stands for. None if it is out of choices, or its change cannot be prepared.
pub fn mutant(data: &[u8]) -> Option<Mutant> {
    let (seed, data) = data.split_first_chunk::<8>()?;
    let seed = u64::from_le_bytes(*seed);
    let mut u = Unstructured::new(data);
    let folder = choose_folder(&mut u)?;
    let original = u.choose(&FOLDERS[folder].modules).ok()?;
    let lender = u.choose(&FOLDERS[folder].modules).ok()?;
    let (parts, donor) = (Parts::of(&original.wasm)?, Parts::of(&lender.wasm)?);
    let count = u.int_in_range(0..=MAX_CHANGES).ok()?;
    let changed = change(&parts, &donor, count, &mut u).ok()?;
    let mut parts = changed.parts;
    let mut others = Vec::new();
    if !changed.functions.is_empty() && u.ratio(3, 4).ok()? {
        for _ in 0..OTHERS {
            others.push(u.choose(&parts.functions).ok()?.index);
        }
        let wanted = [&changed.functions[..], &others].concat();
        if !thin(&mut parts, &wanted) {
            others.clear();
        }
    }
    if u.arbitrary().ok()? {
        share(&mut parts, false)?; // a wait traps there
    }
    if !bound(&mut parts, 0, &mut u).ok()? {
        return None;
    }
    let dots_are_tame = u.arbitrary().ok()?;
    if dots_are_tame {
        tame_dots(&mut parts);
    }
    export_all(&mut parts)?;
    let has_floats = makes_nans(&parts);
    let exact_nans = has_floats && u.arbitrary().ok()?;
    if has_floats && !exact_nans {
        canonicalize(&mut parts);
    }
    let has_choice = is_of_choice(&parts, dots_are_tame);
    let wasm = parts.join();
    Parts::of(&wasm)?;
    Some(Mutant {
        folder,
        has_choice,
        has_floats,
        case: Case {
            script: Some(Script {
                libraries: original.libraries.clone(),
                focus: names(&wasm, &changed.functions),
                others: names(&wasm, &others),
                calls: original.calls.clone(),
                exact_nans,
            }),
            wasm,
            seed,
        },
    })
}

/// Large folders more often, but not in proportion.
fn choose_folder(u: &mut Unstructured<'_>) -> Option<usize> {
    let weights = FOLDERS.iter().map(|folder| folder.modules.len().ilog2() + 1);
    let sum: u32 = weights.clone().sum();
    let mut rest = u.int_in_range(0..=sum - 1).ok()?;
    for (folder, weight) in weights.enumerate() {
        if rest < weight {
            return Some(folder);
        }
        rest -= weight;
    }
    None
}

/// What functions are exported as.
fn names(wasm: &[u8], functions: &[u32]) -> Vec<String> {
    let payloads = wasmparser::Parser::new(0).parse_all(wasm).map_while(Result::ok);
    let exports = payloads.filter_map(|payload| match payload {
        wasmparser::Payload::ExportSection(exports) => Some(exports.into_iter().map_while(Result::ok)),
        _ => None,
    });
    let exports = exports
        .flatten()
        .filter(|export| export.kind == wasmparser::ExternalKind::Func && functions.contains(&export.index));
    exports.map(|export| export.name.to_owned()).collect()
}

/// Compares the engines over a mutant.
pub fn run(mutant: &Mutant) -> (Outcome, Rivals) {
    let mut rivals = Rivals::default();
    let outcome = match compare(mutant, &mut rivals) {
        Ok(outcome) => outcome,
        Err(difference) => Outcome::Differs(difference.of_case(&mutant.case)),
    };
    (outcome, rivals)
}

fn compare(mutant: &Mutant, rivals: &mut Rivals) -> Result<Outcome, Box<Difference>> {
    let case = &mutant.case;
    let metered = match ours::run_script(case, Setup::Metered, usize::MAX) {
        Ok(trace) => trace,
        Err(error) if is_unsupported(&error) => return Ok(Outcome::Skipped),
        Err(error) => return Err(Difference::refused(&format!("{error:#}"))),
    };
    // To where it is decided: nobody knows when the others would end.
    let steps = metered.steps.len();
    let decided = steps
        - usize::from(
            metered
                .steps
                .last()
                .is_some_and(|step| trace::is_undecided(&step.end)),
        );
    if decided == 0 {
        return Ok(Outcome::Skipped);
    }
    let mut counts = Counts::default();
    let setup = case.setup_beside_metered();
    let other = ours::run_script(case, setup, decided);
    let other = other.map_err(|error| Difference::refused(&format!("{setup:?}: {error:#}")))?;
    counts.add(trace::compare(&metered, &other)?);
    trace::compare_fuel(&metered, &other)?;
    let traces = [metered];
    let fuel = !generate::has_bulk_operators(&case.wasm) && !generate::has_exceptions(&case.wasm);
    if !mutant.has_choice
        && let Some(more) = with_wasmtime(case, &traces, fuel, steps)?
    {
        rivals.wasmtime = true;
        counts.add(more);
    }
    let [metered] = traces;
    let knows_nans = !mutant.has_floats || !case.exact_nans();
    if knows_nans
        && !mutant.has_choice
        && !generate::may_meet_rival_bug(&case.wasm)
        && let Some(other) = rival::run(case, steps)
    {
        rivals.wasmi = true;
        match trace::compare(&other, &metered).and_then(|more| contradiction(&metered, &other).map(|()| more))
        {
            Ok(more) => counts.add(more),
            Err(_) if rivals.wasmtime => return Ok(Outcome::Doubtful),
            Err(difference) => return Err(difference),
        }
    }
    Ok(Outcome::Agreed(counts))
}

/// Refused by name, or beyond the limits of the compiler.
fn is_unsupported(error: &selvedge::Error) -> bool {
    let error = error.downcast_ref::<CompileError>();
    matches!(
        error,
        Some(CompileError::Unsupported { .. } | CompileError::TooLarge { .. })
    )
}

/// A step that ran out of fuel in ours is one for which a rival took little of what ours had left.
///
/// # Errors
/// That.
pub(crate) fn contradiction(ours: &Trace, rival: &Trace) -> Result<(), Box<Difference>> {
    let Some(last) = ours.steps.len().checked_sub(1) else {
        return Ok(());
    };
    let Some(other) = rival.steps.get(last) else {
        return Ok(());
    };
    let had = SCRIPT_FUEL_UNITS.saturating_sub(used_before(ours, last).unwrap_or(0));
    // What was used before a trap `wasmtime` does not count, in this step or in those before it.
    let used = match (&other.end, used_before(rival, last)) {
        (End::Returned(_), Some(before)) => other.fuel_used.and_then(|used| used.checked_sub(before)),
        _ => None,
    };
    let few = used.filter(|used| *used < had / CONTRADICTION);
    match few {
        Some(used) if ours.steps[last].end == End::Stopped(Stop::Unpaid) => Err(Difference::new(
            [rival, ours],
            &format!("the end of {}", other.what),
            [
                format!("{:?} with {used} units", other.end),
                format!("more than {had} units"),
            ],
        )),
        _ => Ok(()),
    }
}

/// What was used before this step.
fn used_before(trace: &Trace, step: usize) -> Option<u64> {
    match step.checked_sub(1) {
        Some(before) => trace.steps[before].fuel_used,
        None => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{State, Step};

    fn case(text: &str) -> Case {
        let wasm = wat::parse_str(text).expect("the test's module is well-formed");
        Case {
            script: Some(Script::default()),
            ..Case::new(wasm, 1)
        }
    }

    fn mutant_of(text: &str) -> Mutant {
        Mutant {
            folder: 0,
            case: case(text),
            has_choice: false,
            has_floats: false,
        }
    }

    #[test]
    fn what_never_ends_is_compared_up_to_there() {
        let endless = mutant_of(r#"(module (func (export "f") (loop (br 0))))"#);
        let (outcome, _) = run(&endless);
        assert!(
            matches!(outcome, Outcome::Agreed(counts) if counts.cut > 0),
            "{outcome:?}"
        );
    }

    #[test]
    fn what_never_ends_in_ours_alone_is_a_difference() {
        let endless = case(r#"(module (func (export "f") (loop (br 0))))"#);
        let brief = case(r#"(module (func (export "f")))"#);
        let ours = ours::run_script(&endless, Setup::Metered, usize::MAX).expect("supported");
        let rival = rival::run(&brief, ours.steps.len()).expect("wasmi has room");
        assert!(contradiction(&ours, &rival).is_err());
        let rival = rival::run(&endless, ours.steps.len()).expect("wasmi has room");
        assert!(contradiction(&ours, &rival).is_ok());
    }

    #[test]
    fn what_earlier_steps_used_is_not_this_ones() {
        let step = |end: End, fuel_used: u64| Step {
            what: "f".to_owned(),
            end,
            host: (0, 0),
            state: State::default(),
            fuel_used: Some(fuel_used),
        };
        let trace = |steps| Trace {
            who: String::new(),
            steps,
        };
        let trap = || End::Stopped(Stop::MemoryOutOfBounds);
        // A rival that does not count what a trap took.
        let rival = trace(vec![step(trap(), 10), step(End::Returned(vec![]), 20_010)]);
        let ours = |before: u64| {
            trace(vec![
                step(trap(), before),
                step(End::Stopped(Stop::Unpaid), SCRIPT_FUEL_UNITS),
            ])
        };
        assert!(contradiction(&ours(SCRIPT_FUEL_UNITS - 10_000), &rival).is_ok());
        assert!(contradiction(&ours(1000), &rival).is_err());
    }

    #[test]
    fn modules_are_linked_to_their_libraries_and_to_spectest() {
        let library = r#"(module (memory (export "m") 1) (func (export "g") (param i32) (i32.store8 (i32.const 7) (local.get 0))))"#;
        let mut mutant = mutant_of(
            r#"(module (import "a" "g" (func $g (param i32))) (import "a" "m" (memory 1)) (export "m" (memory 0))
            (import "spectest" "print_i32" (func $print (param i32))) (import "spectest" "global_f64" (global f64))
            (func (export "f") (param i32) (result f64) (call $g (local.get 0)) (call $print (i32.load (i32.const 4))) (global.get 0)))"#,
        );
        let wasm = wat::parse_str(library).expect("the test's module is well-formed");
        mutant.case.script.as_mut().expect("just made").libraries = vec![("a".to_owned(), wasm)];
        let (outcome, rivals) = run(&mutant);
        assert!(rivals.wasmi);
        assert!(
            matches!(outcome, Outcome::Agreed(counts) if counts.traps == 0 && counts.host_calls > 20),
            "{outcome:?}"
        );
    }

    #[test]
    fn inputs_make_the_same_mutants_each_time() {
        for seed in 1..40 {
            let data = crate::inputs::bytes_of(seed);
            let [first, second] = [0, 1].map(|_| mutant(&data).expect("enough choices").case);
            assert_eq!((first.wasm, first.seed), (second.wasm, second.seed));
        }
    }
}
