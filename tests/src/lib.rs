//! What the tests around the crates share: polling by hand, crashing in a child process, an allocator that counts and refuses.

pub mod allocator;
mod usage;

pub use usage::Usage;

use std::ffi::OsStr;
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
pub fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
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

/// What child processes are started with, for tests of another architecture: an emulator and its options.
const RUNNER: &str = "SELVEDGE_TEST_RUNNER";

/// What a child prints before it runs its test's body, so that a name that matches no test is not taken for success.
const STARTED: &str = "the child runs";

/// Runs `body` in a child process: the test of this name in this binary, again. Returns how the child ended.
///
/// In the child it runs `body` and exits with 0.
///
/// # Panics
/// When the child did not come to run the body.
pub fn in_child(test: &str, body: impl FnOnce()) -> Output {
    if std::env::var_os(CHILD).is_some() {
        println!("{STARTED}");
        body();
        std::process::exit(0);
    }
    let binary = std::env::current_exe().expect("a running test has a binary");
    let runner = std::env::var(RUNNER).unwrap_or_default();
    let mut words = runner
        .split_whitespace()
        .map(OsStr::new)
        .chain([binary.as_os_str()]);
    let output = Command::new(words.next().expect("the binary at least"))
        .args(words)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("the test binary can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains(STARTED), "no child for test {test}: {output:?}");
    output
}

/// The signal that ended a child.
pub fn signal_of(output: &Output) -> Option<i32> {
    output.status.signal()
}

/// Lines of `/proc/self/maps`: how many mappings the process has.
pub fn mapping_count() -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .expect("Linux has /proc")
        .lines()
        .count()
}

/// Programs that must not compile, as documentation tests.
///
/// A store whose data is not `Send` has futures that are not:
/// ```compile_fail
/// fn is_send<T: Send>() {}
/// is_send::<selvedge::CallFuture<'static, std::rc::Rc<()>, ()>>();
/// ```
/// Local data never leaves its thread:
/// ```compile_fail
/// fn is_send<T: Send>() {}
/// is_send::<selvedge::Store<selvedge::Local<u32>>>();
/// ```
/// A host future that is not `Send` is refused where it is defined, unless the data is local:
/// ```compile_fail
/// let mut linker = selvedge::Linker::<()>::new(&selvedge::Engine::default());
/// linker.func_wrap_async("host", "f", async |_: selvedge::Caller<'_, ()>, (): ()| {
///     let shared = std::rc::Rc::new(1);
///     std::future::ready(()).await;
///     drop(shared);
/// });
/// ```
/// A store is not used while a call of it is parked:
/// ```compile_fail
/// # let engine = selvedge::Engine::default();
/// # let module = selvedge::Module::new(&engine, "(module (func (export \"f\")))").unwrap();
/// let mut store = selvedge::Store::new(&engine, 1);
/// let instance = selvedge::Instance::new(&mut store, &module, &[]).unwrap();
/// let call = instance.call_async::<_, (), ()>(&mut store, "f", ());
/// store.data();
/// drop(call);
/// ```
/// A store is not dropped before a call of it:
/// ```compile_fail
/// # let engine = selvedge::Engine::default();
/// # let module = selvedge::Module::new(&engine, "(module (func (export \"f\")))").unwrap();
/// let call;
/// {
///     let mut store = selvedge::Store::new(&engine, 1);
///     let instance = selvedge::Instance::new(&mut store, &module, &[]).unwrap();
///     call = instance.call_async::<_, (), ()>(&mut store, "f", ());
/// }
/// ```
/// A caller does not outlive its host function:
/// ```compile_fail
/// let kept = std::sync::Mutex::new(None);
/// let mut linker = selvedge::Linker::<()>::new(&selvedge::Engine::default());
/// linker.func_wrap("host", "f", move |caller: selvedge::Caller<'_, ()>| { *kept.lock().unwrap() = Some(caller); });
/// ```
/// A future does not hold the data over a nested call:
/// ```compile_fail
/// # use selvedge::{Caller, Func, Linker, Engine};
/// let mut linker = Linker::<Vec<u8>>::new(&Engine::default());
/// linker.func_wrap_async("host", "f", async |mut caller: Caller<'_, Vec<u8>>, (): ()| -> selvedge::Result<()> {
///     let func = caller.get_export("f").and_then(selvedge::Extern::into_func).unwrap();
///     let func = func.typed::<(), ()>(&caller)?;
///     let data = caller.data_mut();
///     func.call_async(&mut caller, ()).await?;
///     data.push(1);
///     Ok(())
/// });
/// ```
/// A store's data has one type, to the lifetime:
/// ```compile_fail
/// fn shorten<'a>(store: selvedge::Store<&'static str>, _: &'a str) -> selvedge::Store<&'a str> { store }
/// ```
pub mod must_not_compile {}

/// The program of README.md, as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
