//! What the runner reports of scripts that are right, wrong, and out of reach.

use super::*;
use crate::run_script;
use selvedge::{Config, Engine};

fn run(text: &str) -> Report {
    run_script("test.wast", text, &Options::default())
}

/// Line and message of the only failure.
fn only_failure(report: &Report) -> (usize, &str) {
    assert_eq!(report.failed.len(), 1, "{report:?}");
    (report.failed[0].line, &report.failed[0].message)
}

#[test]
fn a_wrong_expectation_is_reported_with_its_place() {
    let report = run(r#"
        (module (func (export "two") (result i32) (i32.const 2)))
        (assert_return (invoke "two") (i32.const 2))
        (assert_return (invoke "two") (i32.const 3))
        (assert_return (invoke "two") (i32.const 2))"#);
    assert_eq!(report.passed, 3);
    let failure = &report.failed[0];
    assert_eq!(
        failure.to_string(),
        "test.wast:4:10: result 0: expected (i32.const 3), got (i32.const 2)"
    );
    assert_eq!(report.failed.len(), 1);
}

#[test]
fn a_wrong_number_of_results_is_reported() {
    let report = run(r#"
        (module (func (export "two") (result i32) (i32.const 2)))
        (assert_return (invoke "two"))"#);
    assert_eq!(
        only_failure(&report),
        (3, "expected 0 results, got 1: [(i32.const 2)]")
    );
}

const NANS: &str = r#"
    (module
      (func (export "f32") (param i32) (result f32) (f32.reinterpret_i32 (local.get 0)))
      (func (export "f64") (param i64) (result f64) (f64.reinterpret_i64 (local.get 0))))
"#;

#[test]
fn nan_patterns_take_their_set_of_bits() {
    let report = run(&format!(
        r#"{NANS}
        (assert_return (invoke "f32" (i32.const 0x7fc00000)) (f32.const nan:canonical))
        (assert_return (invoke "f32" (i32.const 0xffc00000)) (f32.const nan:canonical))
        (assert_return (invoke "f32" (i32.const 0x7fc00001)) (f32.const nan:arithmetic))
        (assert_return (invoke "f32" (i32.const 0x7fa00000)) (f32.const nan:0x200000))
        (assert_return (invoke "f64" (i64.const 0xfff8000000000000)) (f64.const nan:canonical))
        (assert_return (invoke "f64" (i64.const 0x7ff8000000000001)) (f64.const nan:arithmetic))
        (assert_return (invoke "f32" (i32.const 1)) (either (f32.const nan:canonical) (f32.const 0x1p-149)))"#
    ));
    assert_eq!(
        (report.passed, report.failed, report.skipped),
        (8, vec![], vec![])
    );
}

#[test]
fn nan_patterns_refuse_other_bits() {
    let report = run(&format!(
        r#"{NANS}
        (assert_return (invoke "f32" (i32.const 0x7fc00001)) (f32.const nan:canonical))
        (assert_return (invoke "f32" (i32.const 0x7fa00000)) (f32.const nan:arithmetic))
        (assert_return (invoke "f32" (i32.const 0x7f800000)) (f32.const nan:arithmetic))
        (assert_return (invoke "f64" (i64.const 0x7ff8000000000001)) (f64.const nan:canonical))
        (assert_return (invoke "f64" (i64.const 0x7ff4000000000000)) (f64.const nan:arithmetic))
        (assert_return (invoke "f32" (i32.const 0x80000000)) (f32.const 0))"#
    ));
    assert_eq!((report.passed, report.failed.len()), (1, 6), "{report:?}");
}

#[test]
fn an_unlinkable_module_is_told_from_one_that_links() {
    let report = run(r#"
        (assert_unlinkable (module (import "spectest" "nothing" (func))) "unknown import")
        (assert_unlinkable (module (import "spectest" "print" (func (param i32)))) "incompatible import type")
        (assert_unlinkable (module (import "spectest" "print" (func))) "unknown import")"#);
    assert_eq!(report.passed, 2, "{report:?}");
    assert_eq!(
        only_failure(&report),
        (4, "the module links, expected: unknown import")
    );
}

#[test]
fn link_errors_are_told_apart() {
    let report = run(r#"
        (assert_unlinkable (module (import "spectest" "nothing" (func))) "incompatible import type")"#);
    let (line, message) = only_failure(&report);
    assert_eq!(line, 2);
    assert!(message.contains("unknown import"), "{message}");
}

#[test]
fn a_trap_is_compared_by_its_words() {
    let report = run(r#"
        (module (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1))))
        (assert_trap (invoke "div" (i32.const 1) (i32.const 0)) "integer divide by zero")
        (assert_trap (invoke "div" (i32.const 1) (i32.const 0)) "integer overflow")"#);
    assert_eq!(report.passed, 2);
    assert_eq!(
        only_failure(&report),
        (
            4,
            "expected trap `integer overflow`, got `integer divide by zero`"
        )
    );
}

#[test]
fn a_trap_that_does_not_come_is_reported_with_the_results() {
    let report = run(r#"
        (module (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1))))
        (assert_trap (invoke "div" (i32.const 6) (i32.const 2)) "integer divide by zero")"#);
    assert_eq!(
        only_failure(&report),
        (
            3,
            "expected trap `integer divide by zero`, got results [(i32.const 3)]"
        )
    );
}

#[test]
fn either_side_of_a_trap_message_may_be_the_longer_one() {
    assert!(is_same_trap("uninitialized element 7", "uninitialized element"));
    assert!(is_same_trap("undefined", "undefined element"));
    assert!(is_same_trap(
        "out of bounds table access",
        "undefined element: out of bounds table access"
    ));
    assert!(!is_same_trap("unreachable", "undefined element"));
}

#[test]
fn a_valid_module_is_not_refused() {
    let report = run(r#"
        (assert_invalid (module (func (result i32))) "type mismatch")
        (assert_malformed (module quote "(func (result i32") "unclosed")
        (assert_malformed (module binary "") "unexpected end")
        (assert_invalid (module (func)) "type mismatch")
        (assert_malformed (module quote "(func)") "unexpected token")"#);
    assert_eq!(report.passed, 3, "{report:?}");
    let lines: Vec<usize> = report.failed.iter().map(|failure| failure.line).collect();
    assert_eq!(lines, [5, 6]);
    assert_eq!(
        report.failed[0].message,
        "the module was accepted, expected: type mismatch"
    );
}

#[test]
fn a_module_that_fails_leaves_no_current_module() {
    let report = run(r#"
        (module (func (export "f")))
        (module (import "nowhere" "f" (func)))
        (invoke "f")"#);
    assert_eq!(report.passed, 1);
    assert_eq!(report.failed[1].message, "no current instance");
}

#[test]
fn names_and_registered_modules_are_found() {
    let report = run(r#"
        (module $A (global (export "g") i32 (i32.const 5)) (func (export "f") (result i32) (i32.const 1)))
        (register "a" $A)
        (module $B (import "a" "g" (global i32)) (export "again" (global 0)))
        (assert_return (get "again") (i32.const 5))
        (assert_return (get $A "g") (i32.const 5))
        (assert_return (invoke $A "f") (i32.const 1))
        (invoke $C "f")"#);
    assert_eq!(report.passed, 6, "{report:?}");
    assert_eq!(only_failure(&report), (8, "no instance `$C`"));
}

#[test]
fn a_definition_may_be_instantiated_more_than_once() {
    let report = run(r#"
        (module definition $M
          (global $g (mut i32) (i32.const 0))
          (func (export "next") (result i32)
            (global.set $g (i32.add (global.get $g) (i32.const 1)))
            (global.get $g)))
        (module instance $a $M)
        (module instance $b $M)
        (assert_return (invoke $a "next") (i32.const 1))
        (assert_return (invoke $a "next") (i32.const 2))
        (assert_return (invoke $b "next") (i32.const 1))"#);
    assert_eq!((report.passed, report.failed), (6, vec![]));
}

#[test]
fn references_are_compared_by_their_host_value() {
    let report = run(r#"
        (module
          (func $f (export "same") (param externref) (result externref) (local.get 0))
          (elem declare func $f)
          (func (export "func") (result funcref) (ref.func $f)))
        (assert_return (invoke "same" (ref.extern 7)) (ref.extern 7))
        (assert_return (invoke "same" (ref.null extern)) (ref.null extern))
        (assert_return (invoke "same" (ref.extern 7)) (ref.extern))
        (assert_return (invoke "func") (ref.func))
        (assert_return (invoke "same" (ref.extern 7)) (ref.extern 8))
        (assert_return (invoke "func") (ref.null func))"#);
    assert_eq!(report.passed, 5, "{report:?}");
    let lines: Vec<usize> = report.failed.iter().map(|failure| failure.line).collect();
    assert_eq!(lines, [10, 11]);
    assert!(
        report.failed[0]
            .message
            .contains("expected (ref.extern 8), got (ref.extern 7)")
    );
}

#[test]
fn what_is_not_supported_is_skipped_by_name() {
    let report = run(r#"
        (module (func (export "f") (param i32)))
        (invoke "f" (ref.host 1))"#);
    let skipped: Vec<String> = report.skipped.iter().map(Skip::to_string).collect();
    assert_eq!(skipped, ["test.wast:3: skipped: ref.host values not supported"]);
    assert_eq!(report.failed, []);
}

#[test]
fn an_exception_is_neither_a_result_nor_a_trap() {
    let report = run(r#"
        (module
          (tag $e)
          (func (export "throw") (throw $e))
          (func (export "return"))
          (func (export "trap") (unreachable))
          (func (export "null") (result exnref) (ref.null exn)))
        (assert_exception (invoke "throw"))
        (assert_return (invoke "null") (ref.null exn))
        (assert_exception (invoke "return"))
        (assert_exception (invoke "trap"))
        (assert_trap (invoke "throw") "unreachable")"#);
    assert_eq!(report.passed, 3, "{report:?}");
    let lines: Vec<usize> = report.failed.iter().map(|failure| failure.line).collect();
    assert_eq!(lines, [10, 11, 12]);
    assert!(
        report.failed[0]
            .message
            .contains("expected an exception, got results []")
    );
}

#[test]
fn vectors_are_compared_by_lanes_with_patterns() {
    let report = run(r#"
        (module (func (export "same") (param v128) (result v128) (local.get 0)))
        (assert_return (invoke "same" (v128.const f32x4 nan 1 -0 inf))
          (v128.const f32x4 nan:canonical 1 -0 inf))
        (assert_return (invoke "same" (v128.const i8x16 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15))
          (v128.const i32x4 0x03020100 0x07060504 0x0b0a0908 0x0f0e0d0c))
        (assert_return (invoke "same" (v128.const f64x2 nan:0x8000000000001 2))
          (either (v128.const i64x2 0 0) (v128.const f64x2 nan:arithmetic 2)))
        (assert_return (invoke "same" (v128.const f64x2 nan:0x8000000000001 2))
          (v128.const f64x2 nan:canonical 2))
        (assert_return (invoke "same" (v128.const i16x8 1 2 3 4 5 6 7 8))
          (v128.const i16x8 1 2 3 4 5 6 7 9))"#);
    assert_eq!(report.passed, 4, "{report:?}");
    let lines: Vec<usize> = report.failed.iter().map(|failure| failure.line).collect();
    assert_eq!(lines, [9, 11]);
    assert!(
        report.failed[1]
            .message
            .contains("got (v128.const i32x4 0x00020001"),
        "{report:?}"
    );
}

#[test]
fn a_script_that_does_not_parse_is_one_failure_with_its_line() {
    let report = run("(module)\n\n(assert_nothing)\n");
    assert_eq!(report.passed, 0);
    assert_eq!(only_failure(&report).0, 3);
}

#[test]
fn each_command_has_its_fuel_and_a_loop_runs_out_of_it() {
    let mut config = Config::new();
    config.fuel(true);
    let options = Options::new(Engine::new(&config).unwrap()).fuel_units(10_000);
    let report = run_script(
        "test.wast",
        r#"(module
          (func (export "spin") (loop (br 0)))
          (func (export "one") (result i32) (i32.const 1)))
        (invoke "spin")
        (assert_return (invoke "one") (i32.const 1))"#,
        &options,
    );
    assert_eq!(report.passed, 2);
    let (line, message) = only_failure(&report);
    assert_eq!(line, 4);
    assert!(message.contains("fuel"), "{message}");
}

/// The shape of the threads proposal's own scripts.
const THREADS: &str = r#"
    (module $Mem (memory (export "shared") 1 1 shared))
    (thread $waits (shared (module $Mem))
      (register "mem" $Mem)
      (module (memory (import "mem" "shared") 1 10 shared)
        (func (export "run") (result i32)
          (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))
      (assert_return (invoke "run") (i32.const 0)))
    (thread $wakes (shared (module $Mem))
      (register "mem" $Mem)
      (module (memory (import "mem" "shared") 1 1 shared)
        (func (export "run")
          (loop (br_if 0 (i32.eqz (memory.atomic.notify (i32.const 0) (i32.const 1)))))))
      (assert_return (invoke "run")))
    (wait $wakes)
    (wait $waits)"#;

#[test]
fn threads_of_a_script_share_memories_and_are_counted() {
    let report = run(THREADS);
    assert_eq!(
        (report.passed, report.failed.as_slice(), report.skipped.as_slice()),
        (11, [].as_slice(), [].as_slice())
    );
}

#[test]
fn failures_in_threads_and_unknown_threads_are_reported() {
    let report = run(r#"(module)
        (thread $T (module (func (export "f"))) (assert_return (invoke "f") (i32.const 1)))
        (wait $T)
        (wait $T)"#);
    let lines: Vec<_> = report.failed.iter().map(|failure| failure.line).collect();
    assert_eq!(lines, [2, 4], "{report:?}");
    assert_eq!(report.passed, 4);
}

#[test]
fn a_script_may_begin_with_any_command() {
    let report = run(
        r#"(thread $T (module (@custom "c" "x") (func (export "f") (result i32) (i32.const 1)))
            (assert_return (invoke "f") (i32.const 1)))
        (module (func (export "f") (result i32) (i32.const 2)))
        (assert_return (invoke "f") (i32.const 2))
        (wait $T)"#,
    );
    assert_eq!((report.passed, report.failed.as_slice()), (6, [].as_slice()));
    let report = run("(wait $T) (module)");
    assert_eq!((report.passed, only_failure(&report).0), (1, 1), "{report:?}");
    // Fields of a module are still one.
    let report = run(r#"(func (export "f"))"#);
    assert_eq!((report.passed, report.failed.as_slice()), (1, [].as_slice()));
}
