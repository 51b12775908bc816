//! The fuzz target on stable: modules of a fixed sequence for some seconds, regressions, and a check of the checker.

use selvedge_fuzz::case::{Case, Setup};
use selvedge_fuzz::generate::Beyond;
use selvedge_fuzz::inputs::Inputs;
use selvedge_fuzz::trace::{Trace, compare};
use selvedge_fuzz::{Counts, Outcome, generate, ours, rival, run, run_beyond, run_case};

/// Fewer modules a second than this, and the test has stopped testing.
const MODULES_A_SECOND: u64 = 1;
/// So many modules that can throw, or follow a null reference, may end without one that does.
const MODULES_WITHOUT: u64 = 200;

/// Runs module number `seed`; an engine's panic names it.
fn run_or_say(seed: u64, bytes: &[u8]) -> Outcome {
    std::panic::catch_unwind(|| run(bytes)).unwrap_or_else(|panic| {
        let case = generate::case(bytes).expect("an engine panics over a case");
        println!(
            "module {seed}:\n{}\nan engine panics, seed {:#x}, setups {:?}",
            case.text(),
            case.seed,
            case.setups()
        );
        std::panic::resume_unwind(panic)
    })
}

/// Modules with what `wasmi` does not have, in three setups of ours, and in Wasmtime if that is there.
fn agree_beyond(what: Beyond) -> (u64, Counts) {
    let mut inputs = Inputs::from_environment();
    let (mut modules, mut skipped, mut counts) = (0_u64, 0_u64, Counts::default());
    for (seed, bytes) in &mut inputs {
        match run_beyond(what, &bytes) {
            Outcome::Agreed(more) => {
                modules += 1;
                counts.add(more);
            }
            Outcome::Differs(difference) => panic!("module {seed}: {difference}"),
            _ => skipped += 1,
        }
    }
    println!("{what:?}: {modules} modules, {skipped} skipped, {}", said(counts));
    assert!(modules >= inputs.seconds * MODULES_A_SECOND);
    assert!(skipped < modules, "{skipped} inputs were skipped");
    assert_beside_wasmtime(modules, counts);
    (modules, counts)
}

/// As CI looks for it.
fn said(counts: Counts) -> String {
    format!("{} beside wasmtime: {counts:?}", counts.beside_wasmtime)
}

/// With the feature, Wasmtime takes nearly all that there is, and each is compared with two setups.
fn assert_beside_wasmtime(modules: u64, counts: Counts) {
    let compared = counts.beside_wasmtime;
    if cfg!(feature = "wasmtime") {
        assert!(
            compared * 10 > modules * 2 * 9,
            "{compared} traces of {modules} modules"
        );
    } else {
        assert_eq!(compared, 0);
    }
}

/// Some calls have to end with an exception.
#[test]
fn random_modules_with_exceptions_do_the_same_in_all_setups() {
    let (modules, counts) = agree_beyond(Beyond::Exceptions);
    assert!(counts.exceptions > 0 || modules < MODULES_WITHOUT);
}

/// Some calls have to trap at a null reference.
#[test]
fn random_modules_with_references_do_the_same_in_all_setups() {
    let (modules, counts) = agree_beyond(Beyond::References);
    assert!(counts.nulls > 0 || modules < MODULES_WITHOUT);
}

#[test]
fn random_modules_that_wait_do_the_same_in_all_setups() {
    agree_beyond(Beyond::Waits);
}

#[test]
fn random_modules_do_in_both_engines_the_same() {
    let mut inputs = Inputs::from_environment();
    let (mut modules, mut skipped, mut doubtful, mut counts) = (0_u64, 0_u64, 0_u64, Counts::default());
    let mut differences = 0;
    for (seed, bytes) in &mut inputs {
        match run_or_say(seed, &bytes) {
            Outcome::Agreed(more) => {
                modules += 1;
                counts.add(more);
            }
            Outcome::Skipped => skipped += 1,
            Outcome::Doubtful => doubtful += 1,
            Outcome::Differs(difference) => {
                differences += 1;
                println!("module {seed}:\n{difference}");
            }
        }
    }
    println!(
        "{modules} modules ran, {skipped} were skipped, {doubtful} doubtful, {}",
        said(counts)
    );
    assert_eq!(differences, 0, "printed above");
    assert_beside_wasmtime(modules, counts);
    assert!(
        modules >= inputs.seconds * MODULES_A_SECOND,
        "only {modules} modules ran"
    );
    assert!(
        counts.calls > 4 * modules,
        "only {} calls were compared",
        counts.calls
    );
    assert!(counts.traps < counts.calls, "every call trapped");
    assert!(skipped < modules, "{skipped} inputs were skipped");
    assert!(doubtful <= 1 + modules / 100, "{doubtful} cases are doubtful");
}

fn case(text: &str, seed: u64) -> Case {
    let wasm = wat::parse_str(text).expect("the test's module is well-formed");
    Case::new(wasm, seed)
}

/// Setups are chosen by the seed: six seeds meet all of them.
fn agrees(text: &str) {
    for seed in 0..6 {
        match run_case(&case(text, seed)) {
            Outcome::Agreed(counts) => assert!(counts.calls > 0, "nothing was compared"),
            Outcome::Skipped | Outcome::Doubtful => panic!("wasmi has no answer to {text}"),
            Outcome::Differs(difference) => panic!("{difference}"),
        }
    }
}

#[test]
fn a_load_whose_address_is_loaded_is_charged_in_every_setup_alike() {
    agrees(
        r#"(module (memory 1 1)
        (func (export "f") (result i32) (i32.load8_u offset=5 (i32.load (i32.const 1431655765)))))"#,
    );
}

#[test]
fn a_load_whose_user_is_rewritten_is_charged_in_every_setup_alike() {
    agrees(
        r#"(module (memory 0 6) (func (export "f") (result i32)
        (i64.eqz (i64.or (i64.const 1048576) (i64.load (i32.const 1231151793))))
        (if (result i32) (then (i32.const 1)) (else (i32.const 7)))))"#,
    );
}

#[test]
fn a_load_whose_rewritten_user_is_an_address_is_charged_in_every_setup_alike() {
    agrees(
        r#"(module (memory 1 8) (func (export "f") (param i32) (result i32)
        (i32.load8_u (i32.add (i32.const 7) (i32.load (i32.add (i32.const 9) (i32.load offset=65536 (local.get 0))))))))"#,
    );
}

#[test]
fn growing_a_table_in_vain_yields_no_more_than_it_works() {
    agrees(
        r#"(module (table (export "t") 1 9 funcref) (func (export "f") (param $turns i32) (result i32)
        (local.set $turns (i32.const 3000))
        (loop $again
            (drop (table.grow (ref.null func) (i32.const -1024)))
            (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
        (table.grow (ref.null func) (i32.const 2))))"#,
    );
}

#[test]
fn host_functions_are_called_and_called_back_alike() {
    agrees(
        r#"(module
        (import "host" "mix" (func $mix (param i32 i64) (result i64)))
        (import "host" "again" (func $again (param i32) (result i32)))
        (import "host" "stop" (func $stop (param i32)))
        (global (export "sum") (mut i64) (i64.const 0))
        (func (export "f") (param i32) (result i32)
            (global.set 0 (i64.add (global.get 0) (call $mix (local.get 0) (i64.const 3))))
            (call $again (local.get 0)))
        (func (export "g") (param i32) (call $stop (local.get 0))))"#,
    );
}

/// What `wasmi` 2.0.0 gets wrong: when one of these agrees, what is left out for its sake can come back.
#[test]
fn rival_bugs() {
    let wrong = [
        // The operands of a select on `i32.eqz`; no random module has such: see `generate`.
        r#"(module (func (export "f") (param i32) (result i32)
            (select (i32.const 1) (local.get 0) (i32.eqz (local.get 0)))))"#,
        // The same by another operator.
        r#"(module (func (export "f") (param i32) (result i32)
            (select (i32.const 1) (i32.const 2) (i32.eq (local.get 0) (i32.const 0)))))"#,
        r#"(module (import "host" "variable" (global (mut i32))) (table $t 1 1 funcref)
            (func (export "f") (param funcref) (result i32)
                (select (i32.const 5) (table.size $t) (ref.is_null (local.get 0)))))"#,
        // A value below a loop's parameters, when the same was put into a local before.
        r#"(module (import "host" "constant" (global i64)) (func (export "f") (param i32) (result i64) (local i64)
            (local.tee 1 (global.get 0)) (local.get 0) (i32.const -4096) (loop (param i32) drop) drop))"#,
    ];
    for text in wrong {
        let outcome = run_case(&case(text, 0));
        assert!(
            matches!(outcome, Outcome::Differs(_) | Outcome::Doubtful),
            "wasmi is right now about {text}: {outcome:?}"
        );
    }
}

/// What each engine would say if the other module were its own.
fn traces(first: &str, second: &str) -> [Trace; 2] {
    let first = rival::run(&case(first, 1), usize::MAX).expect("wasmi has room");
    [first, ours::run(&case(second, 1), Setup::Plain)]
}

#[test]
fn a_planted_difference_is_found() {
    let planted = [
        // A result.
        (
            r#"(module (func (export "f") (param i32) (result i32) (i32.shr_s (local.get 0) (i32.const 1))))"#,
            r#"(module (func (export "f") (param i32) (result i32) (i32.shr_u (local.get 0) (i32.const 1))))"#,
        ),
        // A trap.
        (
            r#"(module (func (export "f") unreachable))"#,
            r#"(module (func (export "f") (drop (i32.div_u (i32.const 1) (i32.const 0)))))"#,
        ),
        // A byte of memory.
        (
            r#"(module (memory (export "m") 1 1) (func (export "f") (i32.store8 (i32.const 65535) (i32.const 1))))"#,
            r#"(module (memory (export "m") 1 1) (func (export "f") (i32.store8 (i32.const 65534) (i32.const 1))))"#,
        ),
        // A global, and whether an element is null.
        (
            r#"(module (global (export "g") (mut i32) (i32.const 0)) (func (export "f") (global.set 0 (i32.const 1))))"#,
            r#"(module (global (export "g") (mut i32) (i32.const 0)) (func (export "f") (global.set 0 (i32.const 2))))"#,
        ),
        (
            r#"(module (table (export "t") 2 2 funcref) (elem (i32.const 0) func 0) (func (export "f")))"#,
            r#"(module (table (export "t") 2 2 funcref) (elem (i32.const 1) func 0) (func (export "f")))"#,
        ),
        // What a host function was given.
        (
            r#"(module (import "host" "stop" (func (param i32))) (func (export "f") (call 0 (i32.const 1))))"#,
            r#"(module (import "host" "stop" (func (param i32))) (func (export "f") (call 0 (i32.const 2))))"#,
        ),
    ];
    for (first, second) in planted {
        let [a, b] = traces(first, first);
        compare(&a, &b).expect("one module is alike in both engines");
        let [a, b] = traces(first, second);
        let difference = compare(&a, &b);
        assert!(
            difference.is_err(),
            "the difference between {first} and {second} was not seen"
        );
    }
}
