//! What the benches of the two runtimes share: the guests' text, and polling.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

/// How many host calls a loop of a guest makes.
pub const HOST_CALLS: u32 = 1000;

/// Functions that do next to nothing, and loops over what the host has.
pub const CALLS: &str = r#"(module
    (import "host" "sync" (func $sync (param i32) (result i32)))
    (import "host" "ready" (func $ready (param i32) (result i32)))
    (import "host" "once" (func $once (param i32) (result i32)))
    (import "host" "never" (func $never))
    (memory 1)
    (func (export "nop"))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "sync") (param $n i32) (result i32) (local $x i32)
        (loop $again
            (local.set $x (call $sync (local.get $x)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $x))
    (func (export "ready") (param $n i32) (result i32) (local $x i32)
        (loop $again
            (local.set $x (call $ready (local.get $x)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $x))
    (func (export "once") (param $n i32) (result i32) (local $x i32)
        (loop $again
            (local.set $x (call $once (local.get $x)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $x))
    (func (export "never") (call $never))
    (func (export "unreachable") unreachable)
    (func (export "oob") (drop (i32.load (i32.const -4))))
    (func $fall (export "fall") (param $n i32) (result i32)
        (if (i32.eqz (local.get $n)) (then unreachable))
        (i32.add (call $fall (i32.sub (local.get $n) (i32.const 1))) (local.get $n)))
    (func $deep (export "deep") (param i32) (result i32)
        (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (local.get 0))))"#;

/// A module without memory, to make instances of.
pub const SMALL: &str =
    r#"(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#;

/// A module with a page of memory full of data: 64 KiB.
pub fn page_of_data() -> String {
    format!(
        r#"(module (memory (export "memory") 1) (data (i32.const 0) "{}") (func (export "nop")))"#,
        "selvedge".repeat(8192)
    )
}

/// A future that is pending once.
#[derive(Debug, Default)]
pub struct Once {
    is_ready: bool,
}

impl Future for Once {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match std::mem::replace(&mut self.is_ready, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Polls until the future is ready.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// Polls once and drops the future.
///
/// # Panics When the future is ready.
pub fn start_and_cancel<F: Future>(future: F) {
    let future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    assert!(
        future.poll(&mut context).is_pending(),
        "nothing is there to cancel"
    );
}
