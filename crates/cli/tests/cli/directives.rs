//! `selvedge wast`: every directive of a script, once right and once wrong.
//!
//! A case is what comes before, which must pass, and a command on the line after it. With the right command the
//! script passes whole; with the wrong one the exit code is 1, and the only failure names the command's line.

use super::Files;

/// A directive, and what is said of the wrong one.
struct Case {
    directive: &'static str,
    before: &'static str,
    right: &'static str,
    wrong: &'static str,
    words: &'static str,
}

/// Functions that do what most assertions are about.
const GUEST: &str = r#"(module $M
    (tag $e)
    (global (export "five") i32 (i32.const 5))
    (func (export "two") (result i32) (i32.const 2))
    (func (export "nan") (result f32) (f32.const nan))
    (func (export "odd-nan") (result f32) (f32.const nan:0x200001))
    (func (export "same") (param externref) (result externref) (local.get 0))
    (func (export "return"))
    (func (export "trap") (unreachable))
    (func (export "throw") (throw $e))
    (func $recurse (export "recurse") (call $recurse) (call $recurse)))"#;

/// A counter that is instantiated by later commands.
const COUNTER: &str = r#"(module definition $C
    (global $n (mut i32) (i32.const 0))
    (func (export "next") (result i32)
        (global.set $n (i32.add (global.get $n) (i32.const 1)))
        (global.get $n)))"#;

/// The instance of [`COUNTER`] twice, and one of them called.
const COUNTERS: &str = r#"(module definition $C
    (global $n (mut i32) (i32.const 0))
    (func (export "next") (result i32)
        (global.set $n (i32.add (global.get $n) (i32.const 1)))
        (global.get $n)))
(module instance $a $C)
(module instance $b $C)
(assert_return (invoke $a "next") (i32.const 1))"#;

/// A memory, and a thread that waits in it until another wakes it.
const THREADS: &str = r#"(module $Mem (memory (export "shared") 1 1 shared))
(thread $waits (shared (module $Mem))
    (register "mem" $Mem)
    (module (memory (import "mem" "shared") 1 1 shared)
        (func (export "run") (result i32)
            (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))
    (assert_return (invoke "run") (i32.const 0)))
(thread $wakes (shared (module $Mem))
    (register "mem" $Mem)
    (module (memory (import "mem" "shared") 1 1 shared)
        (func (export "run")
            (loop (br_if 0 (i32.eqz (memory.atomic.notify (i32.const 0) (i32.const 1)))))))
    (assert_return (invoke "run")))
(wait $wakes)"#;

/// All that `spectest` has, imported and used.
const SPECTEST: &str = r#"(module
    (import "spectest" "print" (func $print))
    (import "spectest" "print_i32" (func $print_i32 (param i32)))
    (import "spectest" "print_i64" (func $print_i64 (param i64)))
    (import "spectest" "print_f32" (func $print_f32 (param f32)))
    (import "spectest" "print_f64" (func $print_f64 (param f64)))
    (import "spectest" "print_i32_f32" (func $print_i32_f32 (param i32 f32)))
    (import "spectest" "print_f64_f64" (func $print_f64_f64 (param f64 f64)))
    (import "spectest" "global_i32" (global $i32 i32))
    (import "spectest" "global_i64" (global $i64 i64))
    (import "spectest" "global_f32" (global $f32 f32))
    (import "spectest" "global_f64" (global $f64 f64))
    (import "spectest" "table" (table 10 20 funcref))
    (import "spectest" "memory" (memory 1 2))
    (func (export "all") (result i32 i64 f32 f64 i32 i32)
        (call $print)
        (call $print_i32 (global.get $i32))
        (call $print_i64 (global.get $i64))
        (call $print_f32 (global.get $f32))
        (call $print_f64 (global.get $f64))
        (call $print_i32_f32 (global.get $i32) (global.get $f32))
        (call $print_f64_f64 (global.get $f64) (global.get $f64))
        (global.get $i32) (global.get $i64) (global.get $f32) (global.get $f64)
        (table.size) (memory.size)))"#;

const CASES: &[Case] = &[
    Case {
        directive: "module",
        before: "",
        right: "(module (func (result i32) (i32.const 1)))",
        wrong: "(module (func (result i32) (i64.const 1)))",
        words: "type mismatch",
    },
    Case {
        directive: "module quote",
        before: "",
        right: r#"(module quote "(func (result i32) (i32.const 1))")"#,
        wrong: r#"(module quote "(func (result i32) (i32.const)")"#,
        words: "cannot read the module",
    },
    Case {
        directive: "module binary",
        before: "",
        right: r#"(module binary "\00asm" "\01\00\00\00")"#,
        wrong: r#"(module binary "\00asm" "\02\00\00\00")"#,
        words: "version",
    },
    Case {
        directive: "module definition",
        before: GUEST,
        right: r#"(module definition $D (start $f) (func $f (unreachable)))"#,
        wrong: r#"(module definition $D (func (result i32)))"#,
        words: "type mismatch",
    },
    Case {
        directive: "module instance",
        before: COUNTER,
        right: "(module instance $a $C)",
        wrong: "(module instance $a $D)",
        words: "no module definition `$D`",
    },
    Case {
        directive: "module instance, twice",
        before: COUNTERS,
        right: r#"(assert_return (invoke $b "next") (i32.const 1))"#,
        wrong: r#"(assert_return (invoke $b "next") (i32.const 2))"#,
        words: "expected (i32.const 2), got (i32.const 1)",
    },
    Case {
        directive: "register",
        before: GUEST,
        right: r#"(register "guest" $M)"#,
        wrong: r#"(register "guest" $N)"#,
        words: "no instance `$N`",
    },
    Case {
        directive: "register, of the current module",
        before: r#"(module (func (export "f"))) (register "guest")"#,
        right: r#"(module (import "guest" "f" (func)))"#,
        wrong: r#"(module (import "guest" "g" (func)))"#,
        words: "unknown import",
    },
    Case {
        directive: "invoke",
        before: GUEST,
        right: r#"(invoke "return")"#,
        wrong: r#"(invoke "trap")"#,
        words: "unreachable",
    },
    Case {
        directive: "invoke, by name",
        before: GUEST,
        right: r#"(invoke $M "return")"#,
        wrong: r#"(invoke $M "nothing")"#,
        words: "no exported function `nothing`",
    },
    Case {
        directive: "get",
        before: GUEST,
        right: r#"(assert_return (get "five") (i32.const 5))"#,
        wrong: r#"(assert_return (get $M "five") (i32.const 6))"#,
        words: "expected (i32.const 6), got (i32.const 5)",
    },
    Case {
        directive: "assert_return",
        before: GUEST,
        right: r#"(assert_return (invoke "two") (i32.const 2))"#,
        wrong: r#"(assert_return (invoke "two") (i32.const 3))"#,
        words: "expected (i32.const 3), got (i32.const 2)",
    },
    Case {
        directive: "assert_return, of nothing",
        before: GUEST,
        right: r#"(assert_return (invoke "return"))"#,
        wrong: r#"(assert_return (invoke "two"))"#,
        words: "expected 0 results, got 1",
    },
    Case {
        directive: "assert_return, of what the host gave",
        before: GUEST,
        right: r#"(assert_return (invoke "same" (ref.extern 7)) (ref.extern 7))"#,
        wrong: r#"(assert_return (invoke "same" (ref.extern 7)) (ref.null extern))"#,
        words: "got (ref.extern 7)",
    },
    Case {
        directive: "nan:canonical",
        before: GUEST,
        right: r#"(assert_return (invoke "nan") (f32.const nan:canonical))"#,
        wrong: r#"(assert_return (invoke "odd-nan") (f32.const nan:canonical))"#,
        words: "expected (f32.const nan:canonical)",
    },
    Case {
        directive: "nan:arithmetic",
        before: GUEST,
        right: r#"(assert_return (invoke "nan") (f32.const nan:arithmetic))"#,
        wrong: r#"(assert_return (invoke "odd-nan") (f32.const nan:arithmetic))"#,
        words: "expected (f32.const nan:arithmetic)",
    },
    Case {
        directive: "either",
        before: GUEST,
        right: r#"(assert_return (invoke "two") (either (i32.const 1) (i32.const 2)))"#,
        wrong: r#"(assert_return (invoke "two") (either (i32.const 1) (i32.const 3)))"#,
        words: "expected (either (i32.const 1) (i32.const 3)), got (i32.const 2)",
    },
    Case {
        directive: "assert_trap",
        before: GUEST,
        right: r#"(assert_trap (invoke "trap") "unreachable")"#,
        wrong: r#"(assert_trap (invoke "trap") "integer overflow")"#,
        words: "expected trap `integer overflow`, got `unreachable`",
    },
    Case {
        directive: "assert_trap, of what returns",
        before: GUEST,
        right: r#"(assert_trap (invoke "trap") "unreachable")"#,
        wrong: r#"(assert_trap (invoke "two") "unreachable")"#,
        words: "got results [(i32.const 2)]",
    },
    Case {
        directive: "assert_trap, of a module",
        before: "",
        right: r#"(assert_trap (module (start $f) (func $f (unreachable))) "unreachable")"#,
        wrong: r#"(assert_trap (module (start $f) (func $f)) "unreachable")"#,
        words: "expected trap `unreachable`, got results []",
    },
    Case {
        directive: "assert_exhaustion",
        before: GUEST,
        right: r#"(assert_exhaustion (invoke "recurse") "call stack exhausted")"#,
        wrong: r#"(assert_exhaustion (invoke "two") "call stack exhausted")"#,
        words: "expected trap `call stack exhausted`, got results",
    },
    Case {
        directive: "assert_exhaustion, of another trap",
        before: GUEST,
        right: r#"(assert_exhaustion (invoke "recurse") "call stack exhausted")"#,
        wrong: r#"(assert_exhaustion (invoke "trap") "call stack exhausted")"#,
        words: "expected trap `call stack exhausted`, got `unreachable`",
    },
    Case {
        directive: "assert_exception",
        before: GUEST,
        right: r#"(assert_exception (invoke "throw"))"#,
        wrong: r#"(assert_exception (invoke "return"))"#,
        words: "expected an exception, got results []",
    },
    Case {
        directive: "assert_exception, of a trap",
        before: GUEST,
        right: r#"(assert_exception (invoke "throw"))"#,
        wrong: r#"(assert_exception (invoke "trap"))"#,
        words: "expected an exception",
    },
    Case {
        directive: "assert_invalid",
        before: "",
        right: r#"(assert_invalid (module (func (result i32))) "type mismatch")"#,
        wrong: r#"(assert_invalid (module (func)) "type mismatch")"#,
        words: "the module was accepted, expected: type mismatch",
    },
    Case {
        directive: "assert_malformed",
        before: "",
        right: r#"(assert_malformed (module quote "(func (result i32") "unclosed")"#,
        wrong: r#"(assert_malformed (module quote "(func)") "unclosed")"#,
        words: "the module was accepted, expected: unclosed",
    },
    Case {
        directive: "assert_malformed, of bytes",
        before: "",
        right: r#"(assert_malformed (module binary "\00asm\01\00") "unexpected end")"#,
        wrong: r#"(assert_malformed (module binary "\00asm\01\00\00\00") "unexpected end")"#,
        words: "the module was accepted, expected: unexpected end",
    },
    Case {
        directive: "assert_malformed_custom",
        before: "",
        right: r#"(assert_malformed_custom (module quote "(@name)") "@name annotation")"#,
        wrong: r#"(assert_malformed_custom (module quote "(func)") "@name annotation")"#,
        words: "its custom sections were read to their ends, expected: @name annotation",
    },
    Case {
        directive: "assert_malformed_custom, of names in bytes",
        before: "",
        right: r#"(assert_malformed_custom (module binary "\00asm\01\00\00\00\00\0b\04name\01\04\01\00\02f") "unexpected end")"#,
        wrong: r#"(assert_malformed_custom (module binary "\00asm\01\00\00\00\00\0b\04name\01\04\01\00\01f") "unexpected end")"#,
        words: "its custom sections were read to their ends, expected: unexpected end",
    },
    Case {
        directive: "assert_malformed_custom, of branch hints",
        before: "",
        right: r#"(assert_malformed_custom (module binary "\00asm\01\00\00\00\00\20\19metadata.code.branch_hint\01\00\01\00\01\02") "branch hint")"#,
        wrong: r#"(assert_malformed_custom (module binary "\00asm\01\00\00\00\00\20\19metadata.code.branch_hint\01\00\01\00\01\01") "branch hint")"#,
        words: "its custom sections were read to their ends, expected: branch hint",
    },
    Case {
        directive: "assert_unlinkable",
        before: "",
        right: r#"(assert_unlinkable (module (import "spectest" "nothing" (func))) "unknown import")"#,
        wrong: r#"(assert_unlinkable (module (import "spectest" "print" (func))) "unknown import")"#,
        words: "the module links, expected: unknown import",
    },
    Case {
        directive: "assert_unlinkable, for another reason",
        before: "",
        right: r#"(assert_unlinkable (module (import "spectest" "print" (func (param i32)))) "incompatible import type")"#,
        wrong: r#"(assert_unlinkable (module (import "spectest" "nothing" (func))) "incompatible import type")"#,
        words: "unknown import",
    },
    Case {
        // A script that begins with a thread is taken for the fields of one module by its parser.
        directive: "thread",
        before: "(module)",
        right: r#"(thread $T (module (func (export "f"))) (assert_return (invoke "f")))"#,
        wrong: r#"(thread $T (module (func (export "f"))) (assert_return (invoke "f") (i32.const 1)))"#,
        words: "expected 1 results, got 0",
    },
    Case {
        directive: "thread, of a module that is not there",
        before: r#"(module $Mem (memory (export "shared") 1 1 shared))"#,
        right: "(thread $T (shared (module $Mem)))",
        wrong: "(thread $T (shared (module $Nem)))",
        words: "no instance `$Nem`",
    },
    Case {
        directive: "wait",
        before: THREADS,
        right: "(wait $waits)",
        wrong: "(wait $wakes)",
        words: "no thread `$wakes`",
    },
    Case {
        directive: "spectest",
        before: SPECTEST,
        right: r#"(assert_return (invoke "all") (i32.const 666) (i64.const 666) (f32.const 666.6) (f64.const 666.6) (i32.const 10) (i32.const 1))"#,
        wrong: r#"(assert_return (invoke "all") (i32.const 666) (i64.const 666) (f32.const 666.6) (f64.const 666.6) (i32.const 10) (i32.const 2))"#,
        words: "result 5: expected (i32.const 2), got (i32.const 1)",
    },
    Case {
        directive: "spectest, shared",
        before: "",
        right: r#"(module (import "spectest" "shared_memory" (memory 1 2 shared)))"#,
        wrong: r#"(module (import "spectest" "memory" (memory 1 2 shared)))"#,
        words: "incompatible import type",
    },
];

/// A script of what comes before and the command on the next line, whose number is told.
fn script(case: &Case, command: &str) -> (String, usize) {
    let line = case.before.lines().count() + 1;
    let text = match case.before {
        "" => command.to_owned(),
        before => format!("{before}\n{command}"),
    };
    (text, line)
}

#[test]
fn a_script_passes_with_every_directive_right() {
    for case in CASES {
        let (text, _) = script(case, case.right);
        let ended = Files::with("right.wast", text).run(&["wast", "right.wast"]);
        assert_eq!(ended.code, Some(0), "{}: {ended:?}", case.directive);
        let all_passed = ended.stdout.lines().count() == 1 && ended.stdout.ends_with("0 failed, 0 skipped\n");
        assert!(all_passed, "{}: {ended:?}", case.directive);
    }
}

#[test]
fn a_wrong_directive_ends_with_one_and_names_its_line() {
    for case in CASES {
        let (text, line) = script(case, case.wrong);
        let ended = Files::with("wrong.wast", text).run(&["wast", "wrong.wast"]);
        assert_eq!(ended.code, Some(1), "{}: {ended:?}", case.directive);
        let said = ended.stdout.lines().next().unwrap_or_default();
        let place = format!("wrong.wast:{line}:");
        let is_named = said.starts_with(&place) && ended.stdout.contains(case.words);
        assert!(is_named, "{}: {place} {}: {ended:?}", case.directive, case.words);
        assert!(
            ended.stdout.ends_with("1 failed, 0 skipped\n"),
            "{}: {ended:?}",
            case.directive
        );
    }
}

/// What follows a failure is still run, and counts.
#[test]
fn the_commands_after_a_wrong_one_are_run() {
    let text = format!(
        "{GUEST}\n(assert_return (invoke \"two\") (i32.const 3))\n(assert_return (invoke \"two\") (i32.const 2))\n(invoke \"trap\")"
    );
    let ended = Files::with("wrong.wast", text).run(&["wast", "wrong.wast"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stdout.ends_with("2 passed, 2 failed, 0 skipped\n"),
        "{ended:?}"
    );
}

#[test]
fn directives_that_are_not_supported_are_skipped_by_name() {
    let text = r#"(module (func (export "f")))
(assert_suspension (invoke "f") "unhandled")
(assert_invalid_custom (module quote "(func)") "branch hint")"#;
    let ended = Files::with("skipped.wast", text).run(&["wast", "skipped.wast"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for reason in [
        "skipped.wast:2: skipped: suspensions",
        "skipped.wast:3: skipped: checks of custom sections against their module",
        "1 passed, 0 failed, 2 skipped",
    ] {
        assert!(ended.stdout.contains(reason), "{reason}: {ended:?}");
    }
}

#[test]
fn a_directive_that_nobody_knows_fails_the_script_at_its_line() {
    let text = "(module)\n(assert_nothing (invoke \"f\"))\n";
    let ended = Files::with("wrong.wast", text).run(&["wast", "wrong.wast"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.starts_with("wrong.wast:2:"), "{ended:?}");
}
