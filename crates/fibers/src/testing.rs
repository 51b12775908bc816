//! Help for tests that end their process.

use std::process::{Command, Output};

/// The variable that tells a test binary that it is the child.
const CHILD: &str = "FIBERS_TEST_CHILD";

/// Runs `body` in a child process: this test again, alone. Returns what the child left, in the parent only.
///
/// `name` is the test's full name; `body` must not return.
pub(crate) fn in_child(name: &str, body: impl FnOnce()) -> Output {
    if std::env::var_os(CHILD).is_some() {
        body();
        eprintln!("the child's body returned");
        std::process::exit(99);
    }
    let this = std::env::current_exe().expect("a test binary has a path");
    let output = Command::new(this)
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output();
    output.expect("a test binary can be run")
}
