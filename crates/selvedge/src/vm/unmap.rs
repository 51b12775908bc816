//! Unmapping, also where the kernel refuses it.
//!
//! `munmap(2)` can fail with ENOMEM: neighbours of the same kind are one mapping to the kernel, so taking the middle of one out makes
//! two, and a process has only so many. It has unmapped nothing then: the memory is given back at once, and the addresses, which stay
//! ours, wait here until a later call.
//!
//! Invariant: what waits is mapped, and nobody uses it.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Start and length of what could not be unmapped.
static WAITING: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
/// How many these are, to be asked without the lock.
static WAITING_COUNT: AtomicUsize = AtomicUsize::new(0);

/// How many are tried at a time.
const TRIES: usize = 8;

/// Unmaps pages, now or later.
///
/// # Safety
/// They are the caller's own, whole, and nobody uses them any more.
pub(super) unsafe fn unmap(start: *mut c_void, bytes: usize) {
    retry();
    // SAFETY: the caller's promise.
    if unsafe { libc::munmap(start, bytes) } == 0 {
        return;
    }
    // SAFETY: as above. Where it fails too, for locked pages, the memory waits with the addresses.
    unsafe { libc::madvise(start, bytes, libc::MADV_DONTNEED) };
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.push((start.expose_provenance(), bytes));
    WAITING_COUNT.store(waiting.len(), Ordering::Relaxed);
}

/// Tries again what waits: before more is mapped, and when something else was unmapped.
pub(super) fn retry() {
    if WAITING_COUNT.load(Ordering::Relaxed) > 0 {
        retry_some();
    }
}

/// The last few, so that a kernel that goes on to refuse is not asked without end.
#[cold]
fn retry_some() {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let Some(&(start, bytes)) = waiting.last() else {
            break;
        };
        // SAFETY: the invariant; it is taken off the list if this succeeds.
        if unsafe { libc::munmap(ptr::with_exposed_provenance_mut(start), bytes) } != 0 {
            break;
        }
        waiting.pop();
    }
    WAITING_COUNT.store(waiting.len(), Ordering::Relaxed);
}
