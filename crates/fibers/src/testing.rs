//! Help for tests that end their process, or take its signals.

use std::cell::Cell;
use std::ffi::OsStr;
use std::process::{Command, Output};

use crate::raw::{TrapHandlerRegs, interrupted_stack_pointer};

/// The variable that tells a test binary that it is the child.
const CHILD: &str = "FIBERS_TEST_CHILD";

/// The variable that says what runs test binaries of another architecture: the words of cargo's runner.
const RUNNER: &str = "FIBERS_TEST_RUNNER";

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
    let runner = std::env::var(RUNNER).unwrap_or_default();
    let mut words = runner.split_whitespace();
    let mut command = Command::new(words.next().map_or(this.as_os_str(), OsStr::new));
    command.args(words);
    if !runner.is_empty() {
        command.arg(&this);
    }
    let output = command
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output();
    let output = output.expect("a test binary can be run");
    assert!(
        !String::from_utf8_lossy(&output.stdout).contains("running 0 tests"),
        "there is no test {name}"
    );
    output
}

/// What a test does about a signal: it gets the stack pointer, and gives the registers to return with.
type Handle = dyn Fn(usize) -> Option<TrapHandlerRegs>;

thread_local! {
    static HANDLE: Cell<Option<*const Handle>> = const { Cell::new(None) };
}

/// Runs `body` while SIGSEGV of this thread is handled by `handle`, on an alternate stack. For child processes.
#[inline(never)] // looked for in backtraces
pub(crate) fn on_signals_of<R>(
    handle: impl Fn(usize) -> Option<TrapHandlerRegs> + 'static,
    body: impl FnOnce() -> R,
) -> R {
    let mut space = vec![0u8; 64 << 10];
    let stack = libc::stack_t {
        ss_sp: space.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: space.len(),
    };
    let mut old_stack = stack;
    // SAFETY: the space lives until the old stack is set again.
    assert_eq!(unsafe { libc::sigaltstack(&stack, &mut old_stack) }, 0);
    // SAFETY: zeros are a value of this type.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a handler of the right signature.
    let done = unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    HANDLE.set(Some(&raw const handle as *const Handle));
    let result = body();
    HANDLE.set(None);
    // SAFETY: the stack that was there before.
    assert_eq!(unsafe { libc::sigaltstack(&old_stack, std::ptr::null_mut()) }, 0);
    result
}

unsafe extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: SA_SIGINFO: the kernel gives a context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: the closure lives while it is set.
    let handle = HANDLE.get().map(|handle| unsafe { &*handle });
    let regs = handle.and_then(|handle| handle(interrupted_stack_pointer(context)));
    let Some(regs) = regs else {
        // SAFETY: the default action, which ends the process when the instruction runs again.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    regs.write_to(context);
}
