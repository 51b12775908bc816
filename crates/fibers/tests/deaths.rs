//! How a process dies, in children: what says why, and with which signal.
#![cfg(all(target_os = "linux", feature = "unwind"))]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Output};

use common::{child_command, is_child, stack};
use fibers::Fiber;

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let local = std::hint::black_box([depth; 16]);
    if depth == u64::MAX {
        return 0;
    }
    recurse(std::hint::black_box(depth + 1)) + local[3]
}

#[track_caller]
fn assert_died(output: &Output, signal: i32, message: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(signal), "{}: {text}", output.status);
    assert!(text.contains(message), "{message:?} is not in: {text}");
}

fn run_child(name: &str) -> Output {
    child_command(&[], name)
        .output()
        .expect("a test binary can be run")
}

#[test]
fn an_overflow_outside_a_fiber_is_told_by_the_standard_library() {
    if is_child() {
        let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), |suspender, ()| suspender.suspend(()));
        fiber.resume(());
        std::hint::black_box(recurse(0));
    }
    let output = run_child("an_overflow_outside_a_fiber_is_told_by_the_standard_library");
    assert_died(&output, libc::SIGABRT, "has overflowed its stack");
}

#[test]
fn a_guard_hit_without_a_handler_is_a_segmentation_fault() {
    if is_child() {
        let mut fiber = Fiber::<(), (), u64, _>::with_stack(stack(), |_, ()| recurse(0));
        fiber.resume(());
    }
    let output = run_child("a_guard_hit_without_a_handler_is_a_segmentation_fault");
    assert_died(&output, libc::SIGSEGV, "");
}

#[test]
fn a_fiber_that_never_stops_to_suspend_while_it_is_unwound_aborts() {
    if is_child() {
        let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), |suspender, ()| {
            loop {
                let _ = catch_unwind(AssertUnwindSafe(|| suspender.suspend(())));
            }
        });
        fiber.resume(());
        fiber.force_unwind();
    }
    let output = run_child("a_fiber_that_never_stops_to_suspend_while_it_is_unwound_aborts");
    assert_died(
        &output,
        libc::SIGABRT,
        "fibers: a fiber that was unwound has caught that and suspended",
    );
}

#[test]
fn a_panic_while_a_panic_drops_a_fiber_aborts() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("a destructor in the fiber");
        }
    }
    if is_child() {
        let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), |suspender, ()| {
            let _panics = Panics;
            suspender.suspend(());
        });
        fiber.resume(());
        drop(fiber);
    }
    let output = run_child("a_panic_while_a_panic_drops_a_fiber_aborts");
    assert_died(&output, libc::SIGABRT, "a destructor in the fiber");
}

/// Builds the library with `cargo` and `tests/programs/deaths.rs` with `rustc`, and returns that one's path.
fn build_program(name: &str, cargo: &[&str], rustc: &[&str]) -> String {
    let crate_dir = env!("CARGO_MANIFEST_DIR");
    let target = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    let program = format!("{target}/program");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "-q", "--offline", "--lib", "--target-dir", &target]);
    build.args(["--manifest-path", &format!("{crate_dir}/Cargo.toml")]);
    succeed(build.args(cargo));
    let mut compile = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    compile.args([
        "--edition=2024",
        "-o",
        &program,
        &format!("{crate_dir}/tests/programs/deaths.rs"),
    ]);
    compile.args(["--extern", &format!("fibers={target}/debug/libfibers.rlib")]);
    compile.args(["-L", &format!("dependency={target}/debug/deps")]);
    succeed(compile.args(rustc));
    program
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("the toolchain can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// With `panic = "abort"`, without the feature `unwind`, and without the standard library in the crate.
#[test]
fn dropping_a_suspended_fiber_without_unwinding_aborts_and_says_so() {
    let abort = ["--config", "profile.dev.panic='abort'"];
    let no_unwind = ["--no-default-features", "--features", "std"];
    for program in [
        build_program("abort", &abort, &["-Cpanic=abort"]),
        build_program("no-unwind", &no_unwind, &[]),
        build_program("no-std", &["--no-default-features"], &[]),
    ] {
        let run = |what: &str| Command::new(&program).arg(what).output().expect("it was built");
        let why = "fibers: a suspended fiber was dropped, and without unwinding its frames cannot be";
        assert_died(&run("drop"), libc::SIGABRT, why);
        assert_died(&run("panic"), libc::SIGABRT, "a panic in the fiber");
        for what in ["finish", "reset"] {
            let output = run(what);
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert_eq!(output.stdout, b"lived\n");
        }
    }
}
