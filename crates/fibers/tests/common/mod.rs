//! What the integration tests share: stacks whose order is chosen, and children that run one test alone.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::process::Command;
use std::rc::Rc;

use fibers::{Fiber, GuardedStack, Stack, Suspender};

/// The variable that tells a test binary that it is the child.
const CHILD: &str = "FIBERS_TEST_CHILD";

/// The variable that says what runs test binaries of another architecture: the words of cargo's runner.
const RUNNER: &str = "FIBERS_TEST_RUNNER";

/// Whether this process is the child of a test.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A command that runs the test with this full name in a child, where [`is_child`]; after `wrapper`, if any.
pub fn child_command(wrapper: &[&str], name: &str) -> Command {
    let this = std::env::current_exe().expect("a test binary has a path");
    let runner = std::env::var(RUNNER).unwrap_or_default();
    let words = wrapper.iter().copied().chain(runner.split_whitespace());
    let mut words = words.map(std::ffi::OsStr::new).chain([this.as_os_str()]);
    let mut command = Command::new(words.next().expect("there is a binary"));
    command.args(words).args([name, "--exact", "--nocapture"]);
    // One thread: what the child's stack looks like does not depend on the harness's number of threads.
    command
        .args(["--include-ignored", "--test-threads=1"])
        .env(CHILD, "1");
    command
}

/// The tools that have to be there and work, with a blank between; `1` stands for all. Set where tests run unattended.
const NO_SKIP: &str = "FIBERS_NO_SKIP";

/// Says that a test did nothing because a tool is missing or is not allowed to work. A failure for tools that have to be there.
pub fn skip(test: &str, tool: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
    let needed = std::env::var(NO_SKIP).unwrap_or_default();
    assert!(
        !needed.split(' ').any(|word| word == tool || word == "1"),
        "{test} was skipped, and {NO_SKIP} is \"{needed}\": {why}"
    );
}

/// Whether a tool can be run.
pub fn has_tool(name: &str) -> bool {
    Command::new(name)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// A stack of 64 KiB, by `mmap`.
pub fn stack() -> GuardedStack {
    GuardedStack::new(64 << 10).expect("a stack")
}

/// Part of a mapping, so that a test can choose which stack lies higher.
pub struct Half {
    base: usize,
    _whole: Rc<GuardedStack>,
}

// SAFETY: the tests use each half for one stack, and go a few KiB deep.
unsafe impl Stack for Half {
    fn base(&self) -> usize {
        self.base
    }

    fn limit(&self) -> usize {
        self.base - (128 << 10)
    }

    fn guard_bytes(&self) -> usize {
        0
    }
}

impl Half {
    /// One in a mapping of its own.
    pub fn alone() -> Half {
        let whole = Rc::new(GuardedStack::new(128 << 10).expect("a stack"));
        Half {
            base: whole.base(),
            _whole: whole,
        }
    }
}

/// Two stacks, the second above the first.
fn halves() -> [Half; 2] {
    let whole = Rc::new(GuardedStack::new(256 << 10).expect("a stack"));
    [128 << 10, 0].map(|below| Half {
        base: whole.base() - below,
        _whole: whole.clone(),
    })
}

/// Runs `test` on a fiber, with a stack for another one that lies above its own, and then with one below.
#[inline(never)]
pub fn in_both_orders(test: fn(Half)) {
    for swap in [false, true] {
        let mut halves = halves();
        if swap {
            halves.reverse();
        }
        let [outer_stack, inner_stack] = halves;
        let outer = move |_: &Suspender<(), ()>, ()| test(inner_stack);
        let mut outer = Fiber::<(), (), (), Half>::with_stack(outer_stack, outer);
        outer.resume(());
    }
}
