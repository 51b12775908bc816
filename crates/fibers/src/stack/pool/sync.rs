//! What [`bin`](super::bin) is made of: atomics, a pair of fences, and a pause.
//!
//! In a module of its own, so that a model checker can put its own in their place (`tests/pool_loom.rs`).
//!
//! The *fences* are for two sides that meet rarely: [`light`] is free for the frequent one, [`heavy`] is a system
//! call for the other. A thread marks its bin busy and then looks whether it is still its own; who empties a
//! foreign bin takes it and then looks whether it is busy. Each has a store before a load, so both need a full
//! fence between, or `membarrier(2)` on the rare side, which puts one into every running thread of the process.

pub(super) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use core::sync::atomic::{compiler_fence, fence};
use std::sync::Once;
use std::time::Duration;

/// `membarrier(2)`: MEMBARRIER_CMD_PRIVATE_EXPEDITED and its registration (linux/membarrier.h, since 4.14).
const PRIVATE_EXPEDITED: i32 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

/// How long to wait for who is at work on a bin: longer than that takes. A sleep lets an owner of lower priority run.
const PAUSE: Duration = Duration::from_micros(10);

/// Whether `heavy` is a system call. Written before any pool exists, so all sides agree.
static ASYMMETRIC: AtomicBool = AtomicBool::new(false);

/// Asks the kernel once; before the first `light` or `heavy`.
pub(super) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| ASYMMETRIC.store(membarrier(REGISTER_PRIVATE_EXPEDITED), Ordering::Relaxed));
}

/// The fence of the frequent side.
#[inline(always)]
pub(super) fn light() {
    compiler_fence(Ordering::SeqCst);
    if !ASYMMETRIC.load(Ordering::Relaxed) {
        full();
    }
}

/// Whether [`light`] costs nothing; known once there is a pool.
#[inline]
pub(super) fn is_asymmetric() -> bool {
    ASYMMETRIC.load(Ordering::Relaxed)
}

/// [`light`] for those who come here only where that costs nothing.
#[inline(always)]
pub(super) fn light_if_asymmetric() {
    compiler_fence(Ordering::SeqCst);
}

/// Out of the way of those who do not need it.
#[cold]
#[inline(never)]
fn full() {
    fence(Ordering::SeqCst);
}

/// The fence of the rare side.
pub(super) fn heavy() {
    fence(Ordering::SeqCst);
    if ASYMMETRIC.load(Ordering::Relaxed) && !membarrier(PRIVATE_EXPEDITED) {
        // Registered and refused: the other side's fences are void, so nothing may go on.
        eprintln!("fibers: membarrier failed: {}", std::io::Error::last_os_error());
        std::process::abort();
    }
}

/// Waits a little.
pub(super) fn pause() {
    std::thread::sleep(PAUSE);
}

fn membarrier(command: i32) -> bool {
    // SAFETY: a system call without pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
