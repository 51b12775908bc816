//! Tests that need a process of their own: they crash it, or count what the whole process has.
//!
//! Such a test gives its own path and a body to [`run`]. The first time round `run` starts the test binary again for
//! that test alone; there, the body runs.

use std::ffi::OsStr;
use std::process::{Command, Output};

const VARIABLE: &str = "SELVEDGE_TEST_CHILD";
/// What child processes are started with, for tests of another architecture: an emulator and its options.
const RUNNER: &str = "SELVEDGE_TEST_RUNNER";

/// Runs `body` in a child process and gives what came of it; `test` is the caller's path in this crate.
///
/// The child exits with 0 when the body returns.
pub(crate) fn run(test: &str, body: impl FnOnce()) -> Output {
    if std::env::var_os(VARIABLE).is_some_and(|name| name == test) {
        leave_no_core();
        body();
        std::process::exit(0);
    }
    let binary = std::env::current_exe().expect("the test binary has a path");
    let runner = std::env::var(RUNNER).unwrap_or_default();
    let mut words = runner
        .split_whitespace()
        .map(OsStr::new)
        .chain([binary.as_os_str()]);
    let output = Command::new(words.next().expect("the binary at least"))
        .args(words)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .output()
        .expect("the test binary can be run again");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("running 1 test"), "no test is called {test}: {out}");
    output
}

/// As [`run`], for a body that returns.
pub(crate) fn check(test: &str, body: impl FnOnce()) {
    let output = run(test, body);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the child of {test} ended with {}: {errors}",
        output.status
    );
}

/// A child that crashes on purpose writes no file.
fn leave_no_core() {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) }, 0);
}
