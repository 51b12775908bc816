//! What the tests around the crates share: polling by hand, and crashing in a child process.

use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::pin::{Pin, pin};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A waker that counts how often it was woken.
#[derive(Debug, Default)]
pub struct Wakes(AtomicU64);

impl Wakes {
    /// How often so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls once, with a waker that does nothing.
pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls until ready, and says how many polls were pending.
pub fn drive<F: Future>(future: F) -> (F::Output, u64) {
    let mut future = pin!(future);
    let mut pending = 0;
    loop {
        match poll_once(future.as_mut()) {
            Poll::Ready(output) => return (output, pending),
            Poll::Pending => pending += 1,
        }
    }
}

/// A future that is pending `times` times, and wakes each time.
pub fn wait(times: u32) -> impl Future<Output = ()> + Send {
    let mut left = times;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Set in the child that runs a test's dangerous part.
const CHILD: &str = "SELVEDGE_TEST_CHILD";

/// Runs `body` in a child process: the test of this name in this binary, again. Returns how the child ended.
///
/// In the child it runs `body` and exits with 0.
pub fn in_child(test: &str, body: impl FnOnce()) -> Output {
    if std::env::var_os(CHILD).is_some() {
        body();
        std::process::exit(0);
    }
    let binary = std::env::current_exe().expect("a running test has a binary");
    Command::new(binary)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("the test binary can be started")
}

/// The signal that ended a child.
pub fn signal_of(output: &Output) -> Option<i32> {
    output.status.signal()
}

/// Lines of `/proc/self/maps`: how many mappings the process has.
pub fn mapping_count() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("Linux has /proc").lines().count()
}
