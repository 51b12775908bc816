//! An allocator with one lock, as a simple C library has it: who allocates in a signal handler waits for ever for who was interrupted with the
//! lock, which may be itself. Here the process is aborted then.
//!
//! The C library's own lock cannot stand in for it: no signal can be made to come, portably, while it is held. So this one is the
//! tests', and they can hold it as long as they want: also by hand, while a guest runs on their thread.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

thread_local! {
    /// Whether this thread's allocations take the lock.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Whether it holds the lock, and how.
    static HELD: Cell<Held> = const { Cell::new(Held::No) };
    /// The signal that interrupts its next allocation, while it holds the lock; 0: none.
    static INTERRUPT_NEXT: Cell<i32> = const { Cell::new(0) };
}

static IS_LOCKED: AtomicBool = AtomicBool::new(false);
/// Allocations that took the lock, and those that were interrupted.
static SEEN: AtomicU32 = AtomicU32::new(0);
static INTERRUPTED: AtomicU32 = AtomicU32::new(0);

/// Who holds the lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    /// An allocation that is going on.
    Allocating,
    /// The test.
    ByHand,
}

/// How many allocations of watched threads there were so far.
pub fn seen() -> u32 {
    SEEN.load(Ordering::SeqCst)
}

/// How many of them were interrupted.
pub fn interrupted() -> u32 {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Runs with this thread's allocations watched.
pub fn watched<R>(run: impl FnOnce() -> R) -> R {
    WATCHED.set(true);
    let result = run();
    WATCHED.set(false);
    result
}

/// The next allocation of this thread, which is watched, is interrupted by a signal.
pub fn interrupt_next(signal: i32) {
    INTERRUPT_NEXT.set(signal);
}

/// Takes the lock for this thread, as if it were in the middle of an allocation: until [`let_go`], or until it allocates, or gives
/// back, outside of a handler, which lets go first.
pub fn hold() {
    lock(Held::ByHand);
}

/// Lets go what [`hold`] has taken; whether it was still held.
pub fn let_go() -> bool {
    let is_held = HELD.get() == Held::ByHand;
    if is_held {
        unlock();
    }
    is_held
}

/// Whether this thread holds the lock by hand.
pub fn is_held() -> bool {
    HELD.get() == Held::ByHand
}

fn lock(how: Held) {
    while IS_LOCKED.swap(true, Ordering::Acquire) {
        std::hint::spin_loop();
    }
    HELD.set(how);
}

fn unlock() {
    HELD.set(Held::No);
    IS_LOCKED.store(false, Ordering::Release);
}

/// Whether this thread runs on its alternate signal stack: in a handler of ours.
fn is_in_handler() -> bool {
    let mut stack = libc::stack_t {
        ss_sp: ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    // SAFETY: asks, and changes nothing.
    let asked = unsafe { libc::sigaltstack(ptr::null(), &mut stack) };
    asked == 0 && stack.ss_flags & libc::SS_ONSTACK != 0
}

/// Runs an operation of the allocator, with the lock if its thread is watched.
pub(super) fn locked<R>(run: impl FnOnce() -> R) -> R {
    if !WATCHED.get() {
        return run();
    }
    SEEN.fetch_add(1, Ordering::SeqCst);
    if is_in_handler() || HELD.get() == Held::Allocating {
        std::process::abort();
    }
    let_go();
    lock(Held::Allocating);
    let signal = INTERRUPT_NEXT.replace(0);
    if signal != 0 {
        INTERRUPTED.fetch_add(1, Ordering::SeqCst);
        // SAFETY: of a signal that has a handler by now.
        unsafe { libc::raise(signal) };
    }
    let result = run();
    unlock();
    result
}
