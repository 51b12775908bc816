//! The built binary, driven from outside: what it prints where, and its exit codes.

#[path = "cli/directives.rs"]
mod directives;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Functions to be named with `--invoke`.
const LIBRARY: &str = r#"(module
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "both") (param i64 f64) (result f64 i64) (local.get 1) (local.get 0))
    (func $divide (export "divide") (param i32 i32) (result i32)
        (i32.div_s (local.get 0) (local.get 1)))
    (func $recurse (export "recurse") (result i32) (i32.add (call $recurse) (i32.const 1)))
    (func $spin (export "spin") (loop (br 0)))
    (global (export "answer") i32 (i32.const 42)))"#;

/// Prints its arguments, or its variables, each ended by a NUL byte; ends with the `errno` of the write.
fn lister(what: &str) -> String {
    format!(
        r#"(module
    (import "wasi_snapshot_preview1" "{what}_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "{what}_get" (func $get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (drop (call $sizes (i32.const 0) (i32.const 20)))
        (drop (call $get (i32.const 64) (i32.const 4096)))
        (i32.store (i32.const 16) (i32.const 4096))
        (call $proc_exit (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 0)))))"#
    )
}

/// Ends with this code.
fn exits(code: u32) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const {code}))))"#
    )
}

/// Opens `path` in the first preopened directory and prints its first bytes; ends with the `errno`
/// of the first call that fails.
fn cat(path: &str) -> String {
    format!(
        r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 1024) "{path}")
    (func $check (param i32) (if (local.get 0) (then (call $proc_exit (local.get 0)))))
    (func (export "_start")
        (call $check (call $open (i32.const 3) (i32.const 1) (i32.const 1024) (i32.const {len})
            (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
        (i32.store (i32.const 16) (i32.const 4096))
        (i32.store (i32.const 20) (i32.const 512))
        (call $check (call $read (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 20)))
        (call $check (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 0)))))"#,
        len = path.len()
    )
}

/// A folder with one file, and the binary run beside it.
struct Files(TempDir);

impl Files {
    fn with(name: &str, contents: impl AsRef<[u8]>) -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.add(name, contents);
        files
    }

    fn add(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        // For tests of another architecture: an emulator and its options.
        let runner = std::env::var("SELVEDGE_TEST_RUNNER").unwrap_or_default();
        let mut words = runner.split_whitespace().chain([env!("CARGO_BIN_EXE_selvedge")]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(args)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().unwrap())
    }
}

/// How a run ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn of(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn assert_success(&self, stdout: &str) {
        assert_eq!(
            (self.code, self.stdout.as_str(), self.stderr.as_str()),
            (Some(0), stdout, "")
        );
    }

    /// One line on standard error that contains `message`, and exit code 2.
    #[track_caller]
    fn assert_bad_input(&self, message: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(2), ""), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(
            self.stderr.starts_with("selvedge: ") && self.stderr.ends_with('\n'),
            "{self:?}"
        );
        assert!(self.stderr.contains(message), "{self:?} lacks {message:?}");
    }

    /// The trap's name in the first line, a frame that names `function` below it, and exit code 134.
    #[track_caller]
    fn assert_trap(&self, trap: &str, function: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(134), ""), "{self:?}");
        let (first, frames) = self.stderr.split_once('\n').unwrap();
        assert_eq!(first, format!("selvedge: trap: {trap}"), "{self:?}");
        assert!(frames.contains(function), "{self:?} lacks {function:?}");
    }
}

#[test]
fn an_invoked_function_gets_parsed_arguments_and_its_results_are_printed_one_a_line() {
    let files = Files::with("lib.wat", LIBRARY);
    files
        .run(&["run", "--invoke", "add", "lib.wat", "2", "-5"])
        .assert_success("-3\n");
    files
        .run(&["run", "--invoke", "both", "lib.wat", "-1", "0.5"])
        .assert_success("0.5\n-1\n");
}

#[test]
fn a_binary_module_runs_as_the_text_does() {
    let files = Files::with("lib.wasm", wat::parse_str(LIBRARY).unwrap());
    files
        .run(&["run", "--invoke", "add", "lib.wasm", "0x10", "1"])
        .assert_success("17\n");
}

#[test]
fn proposals_are_switched_for_programs_and_scripts() {
    let wide = r#"(module (memory 3 (pagesize 1)) (func (export "wide") (result i64 i64) (i64.mul_wide_u (i64.const -1) (i64.const 2))))"#;
    let files = Files::with("wide.wat", wide);
    files.add(
        "wide.wast",
        format!(r#"{wide} (assert_return (invoke "wide") (i64.const -2) (i64.const 1))"#),
    );
    let run =
        |switches: &[&str]| files.run(&[&["run", "--invoke", "wide"][..], switches, &["wide.wat"]].concat());
    run(&[]).assert_bad_input("custom page sizes not supported");
    run(&["-W", "custom-page-sizes"]).assert_bad_input("wide arithmetic not supported");
    run(&["-Wcustom-page-sizes,wide-arithmetic=y"]).assert_success("-2\n1\n");
    run(&["--wasm", "custom-page-sizes", "--wasm=wide-arithmetic"]).assert_success("-2\n1\n");
    run(&["-W", "custom-page-sizes,wide-arithmetic,multi-value=n"])
        .assert_bad_input("multiple values not supported");
    run(&["-W", "wide"]).assert_bad_input("unknown proposal");
    run(&["-W", "simd=perhaps"]).assert_bad_input("expected y or n");
    // A script's module that is not supported is skipped.
    let skipped = files.run(&["wast", "wide.wast"]);
    let ended = files.run(&["wast", "-W", "custom-page-sizes,wide-arithmetic", "wide.wast"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(
        ended.stdout.contains("0 skipped") && !skipped.stdout.contains("0 skipped"),
        "{skipped:?}, {ended:?}"
    );
}

#[test]
fn the_guests_exit_code_is_handed_on() {
    for (code, handed_on) in [
        (0, 0),
        (3, 3),
        (126, 126),
        (255, 255),
        (256, 255),
        (u32::MAX, 255),
    ] {
        let ended = Files::with("exit.wat", exits(code)).run(&["run", "exit.wat"]);
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(handed_on), ""),
            "{code}"
        );
    }
}

#[test]
fn a_program_that_returns_exits_with_zero() {
    let files = Files::with("nop.wat", r#"(module (func (export "_start")))"#);
    files.run(&["run", "nop.wat"]).assert_success("");
}

#[test]
fn what_follows_the_file_goes_to_the_guest() {
    let files = Files::with("args.wat", lister("args"));
    files
        .run(&["run", "args.wat", "-c", "--fuel", "x", "--help", "--", "é"])
        .assert_success("args.wat\0-c\0--fuel\0x\0--help\0--\0é\0");
}

#[test]
fn the_guest_sees_the_variables_named_and_no_others() {
    let files = Files::with("env.wat", lister("environ"));
    let args = ["run", "--env", "A=1", "--env", "B=x=y", "--env", "C=", "env.wat"];
    files.run(&args).assert_success("A=1\0B=x=y\0C=\0");
    files.run(&["run", "env.wat"]).assert_success("");
}

#[test]
fn the_guest_reads_below_its_directory_and_nowhere_else() {
    let files = Files::with("cat.wat", cat("note.txt"));
    files.add("escape.wat", cat("../secret.txt"));
    files.add("secret.txt", "not for the guest");
    std::fs::create_dir(files.0.path().join("shared")).unwrap();
    files.add("shared/note.txt", "for the guest");
    files
        .run(&["run", "--dir", "shared::/data", "cat.wat"])
        .assert_success("for the guest");

    let escape = files.run(&["run", "--dir", "shared::/data", "escape.wat"]);
    const PERM: i32 = 63; // errno of preview 1
    assert_eq!(
        (escape.code, escape.stdout.as_str()),
        (Some(PERM), ""),
        "{escape:?}"
    );
    let without = files.run(&["run", "cat.wat"]);
    const BADF: i32 = 8; // errno of preview 1
    assert_eq!(
        (without.code, without.stdout.as_str()),
        (Some(BADF), ""),
        "{without:?}"
    );
}

#[test]
fn a_trap_prints_its_name_and_the_frames_and_exits_with_134() {
    let files = Files::with("lib.wat", LIBRARY);
    files
        .run(&["run", "--invoke", "divide", "lib.wat", "1", "0"])
        .assert_trap("integer divide by zero", "divide");
    files
        .run(&["run", "--invoke", "divide", "lib.wat", "-2147483648", "-1"])
        .assert_trap("integer overflow", "divide");
}

/// A C program compiled with `-g`: tests/fixtures/lines.
#[test]
fn a_trap_says_the_lines_of_its_source() {
    let wasm = include_bytes!("../../../tests/fixtures/lines/lines.wasm");
    let files = Files::with("lines.wasm", wasm);
    let output = files.run(&["run", "--invoke", "divide", "lines.wasm", "0"]);
    output.assert_trap("integer divide by zero", "at /src/inner.h:3:16");
    output.assert_trap("integer divide by zero", "at /src/lines.c:12:16");
}

#[test]
fn endless_recursion_is_a_trap_at_any_stack_size() {
    let files = Files::with("lib.wat", LIBRARY);
    files
        .run(&["run", "--invoke", "recurse", "lib.wat"])
        .assert_trap("call stack exhausted", "recurse");
    let args = ["run", "--stack-bytes", "65536", "--invoke", "recurse", "lib.wat"];
    files.run(&args).assert_trap("call stack exhausted", "recurse");
}

#[test]
fn a_guest_out_of_fuel_traps() {
    let files = Files::with("lib.wat", LIBRARY);
    let args = ["run", "--fuel", "100000", "--invoke", "spin", "lib.wat"];
    files.run(&args).assert_trap("all fuel consumed", "spin");
    files
        .run(&["run", "--fuel", "100", "--invoke", "add", "lib.wat", "1", "2"])
        .assert_success("3\n");
}

#[test]
fn a_start_function_that_traps_is_a_trap() {
    let files = Files::with(
        "start.wat",
        r#"(module (func $s unreachable) (start $s) (func (export "_start")))"#,
    );
    files
        .run(&["run", "start.wat"])
        .assert_trap("the module's start function: unreachable", "s");
}

#[test]
fn a_reactor_is_initialised_before_its_export_is_called() {
    let reactor = r#"(module (global $ready (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $ready (i32.const 1)))
        (func (export "ready") (result i32) (global.get $ready)))"#;
    Files::with("reactor.wat", reactor)
        .run(&["run", "--invoke", "ready", "reactor.wat"])
        .assert_success("1\n");
}

#[test]
fn unknown_imports_are_refused_or_trap_or_give_zeros() {
    let guest = r#"(module (import "env" "f" (func $f (result i32)))
        (func (export "without") (result i32) (i32.const 1))
        (func $caller (export "with") (result i32) (call $f)))"#;
    let files = Files::with("env.wat", guest);
    files
        .run(&["run", "--invoke", "without", "env.wat"])
        .assert_bad_input("`env::f`");

    let trap = |function| {
        files.run(&[
            "run",
            "--unknown-imports",
            "trap",
            "--invoke",
            function,
            "env.wat",
        ])
    };
    trap("without").assert_success("1\n");
    let called = trap("with");
    assert_eq!(called.code, Some(134), "{called:?}");
    assert!(called.stderr.contains("env::f"), "{called:?}");

    files
        .run(&[
            "run",
            "--unknown-imports",
            "default",
            "--invoke",
            "with",
            "env.wat",
        ])
        .assert_success("0\n");
}

#[test]
fn a_file_that_cannot_be_run_is_one_line() {
    let files = Files::with("lib.wat", LIBRARY);
    files.add("bytes.wasm", [0xff, 0xfe, 0x00]);
    files.add("bad.wat", "(module\n  (func (result i32)) (oops))");
    files.add("invalid.wat", "(module (func (result i32)))");
    files.add("truncated.wasm", &wat::parse_str(LIBRARY).unwrap()[..40]);
    files
        .run(&["run", "none.wasm"])
        .assert_bad_input("cannot read `none.wasm`");
    files.run(&["run", "."]).assert_bad_input("cannot read `.`");
    files
        .run(&["run", "bytes.wasm"])
        .assert_bad_input("`bytes.wasm` is not WebAssembly");
    files.add("text.wasm", "hello");
    files
        .run(&["run", "text.wasm"])
        .assert_bad_input("`text.wasm` is not WebAssembly");
    files.run(&["run", "bad.wat"]).assert_bad_input("bad.wat:2:");
    files
        .run(&["run", "invalid.wat"])
        .assert_bad_input("`invalid.wat`: ");
    files
        .run(&["run", "truncated.wasm"])
        .assert_bad_input("`truncated.wasm`: ");
    files
        .run(&["run", "lib.wat"])
        .assert_bad_input("no export `_start`, name one with --invoke");
}

#[test]
fn an_invocation_that_does_not_fit_is_one_line() {
    let files = Files::with("lib.wat", LIBRARY);
    let invoke = |name, args: &[&str]| files.run(&[&["run", "--invoke", name, "lib.wat"], args].concat());
    invoke("gone", &[]).assert_bad_input("no export `gone`; exported functions: `add`, `both`");
    invoke("answer", &[]).assert_bad_input("export `answer` is not a function");
    invoke("add", &["1"]).assert_bad_input("`add` takes 2 arguments (i32 i32), 1 given");
    invoke("add", &["1", "2", "3"]).assert_bad_input("3 given");
    invoke("add", &["1", "two"]).assert_bad_input("argument 2 of `add` is not of type i32: `two`");
    invoke("add", &["1", "4294967296"]).assert_bad_input("`4294967296`");
    invoke("both", &["1", "half"]).assert_bad_input("argument 2 of `both` is not of type f64: `half`");
}

#[test]
fn a_wrong_command_line_is_one_line() {
    let files = Files::with("lib.wat", LIBRARY);
    let run = |option: &str, value: &str| files.run(&["run", option, value, "lib.wat"]);
    run("--dir", "here").assert_bad_input("expected HOST::GUEST");
    run("--dir", "::/data").assert_bad_input("expected HOST::GUEST");
    run("--dir", "gone::/data").assert_bad_input("cannot open directory `gone`");
    run("--env", "A").assert_bad_input("expected K=V");
    run("--env", "=1").assert_bad_input("expected K=V");
    run("--fuel", "-1").assert_bad_input("'-1'");
    run("--fuel", "much").assert_bad_input("'much'");
    run("--stack-bytes", "0").assert_bad_input("stack");
    run("--unknown-imports", "ignore").assert_bad_input("ignore");
    run("--unheard-of", "x").assert_bad_input("--unheard-of");
    files.run(&["run"]).assert_bad_input("FILE");
    files.run(&["walk"]).assert_bad_input("walk");
    files.run(&[]).assert_bad_input("no command given");
}

#[test]
fn help_is_not_an_error() {
    let files = Files::with("lib.wat", LIBRARY);
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["wast", "--help"],
        &["--version"],
    ] {
        let ended = files.run(args);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(ended.stdout.contains("selvedge"), "{args:?}");
    }
}

#[test]
fn a_reader_that_leaves_early_causes_no_panic() {
    let files = Files::with("args.wat", lister("args"));
    files.add("lib.wat", LIBRARY);
    let closed = |args: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Ended::of(files.command(args).stdout(writer).output().unwrap())
    };
    for args in [&["run", "--invoke", "add", "lib.wat", "1", "2"][..], &["--help"]] {
        let ended = closed(args);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    const PIPE: i32 = 64; // errno of preview 1: a guest is told, and decides
    let guest = closed(&["run", "args.wat"]);
    assert_eq!((guest.code, guest.stderr.as_str()), (Some(PIPE), ""), "{guest:?}");
}

#[test]
fn a_closed_standard_error_causes_no_panic() {
    let files = Files::with("lib.wat", LIBRARY);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let args = ["run", "--invoke", "divide", "lib.wat", "1", "0"];
    let ended = files.command(&args).stderr(writer).output().unwrap();
    assert_eq!(ended.status.code(), Some(134));
}

#[test]
fn wast_counts_and_exits_with_one_when_a_script_fails() {
    let good = r#"(module (func (export "f") (result i32) (i32.const 1)))
        (assert_return (invoke "f") (i32.const 1))"#;
    let files = Files::with("good.wast", good);
    let ended = files.run(&["wast", "good.wast"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("0 failed"), "{ended:?}");

    files.add(
        "bad.wast",
        good.replace(
            "(assert_return (invoke \"f\") (i32.const 1))",
            "(assert_return (invoke \"f\") (i32.const 2))",
        ),
    );
    let ended = files.run(&["wast", "."]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("1 failed"), "{ended:?}");
    assert!(ended.stdout.contains("bad.wast"), "{ended:?}");

    files.run(&["wast", "gone.wast"]).assert_bad_input("gone.wast");
}

#[test]
fn standard_input_reaches_the_guest() {
    let guest = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 16) (i32.const 4096))
        (i32.store (i32.const 20) (i32.const 512))
        (drop (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 20)))
        (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 0)))))"#;
    let files = Files::with("echo.wat", guest);
    let mut child = files
        .command(&["run", "echo.wat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"said").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"said");
}
