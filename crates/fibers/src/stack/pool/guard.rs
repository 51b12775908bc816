//! Guard pages: by `madvise` where that has an effect, else by `mprotect`.
//!
//! The call may return 0 and install nothing (emulators do), so it is probed by its effect: a system
//! call that reads from the page must fail with EFAULT. It can fail on a range (locked memory); then that guard
//! is protected.
//!
//! Guards stay for ever: they survive `MADV_DONTNEED`, and an extent is used again with the same ones.

use core::sync::atomic::{AtomicU8, Ordering};

use super::advise::Ranges;
use super::{Guards, PoolError};
use crate::stack::{PAGE_BYTES, last_errno, limits};

/// MADV_GUARD_INSTALL: linux/mman-common.h, since Linux 6.13.
const GUARD_INSTALL: i32 = 102;

/// How many guards can be made at a time.
pub(super) const MAX_A_CALL: usize = 64;

/// The ranges that shall become guards.
pub(super) type NewGuards = Ranges<MAX_A_CALL>;

/// Makes the ranges fault; returns how many do: all of them, or fewer, but one at least.
///
/// # Errors
/// `Guard` when the first cannot be made; `made_before` is for its numbers.
///
/// # Safety
/// The ranges are whole pages of the region, inside an extent, and hold nothing.
pub(super) unsafe fn install(
    ranges: &NewGuards,
    guards: Guards,
    made_before: usize,
) -> Result<usize, PoolError> {
    let by_advice = guards == Guards::Auto && is_supported();
    let mut made = 0;
    while made < ranges.len() {
        if by_advice {
            // SAFETY: the caller's promise.
            made += unsafe { ranges.advise(made, GUARD_INSTALL) };
        }
        if made == ranges.len() {
            break;
        }
        let (start, len) = ranges.range(made);
        // SAFETY: the caller's promise.
        if unsafe { libc::mprotect(start, len, libc::PROT_NONE) } == 0 {
            made += 1;
        } else if made > 0 {
            break; // enough for now
        } else {
            return Err(PoolError::Guard {
                guards: made_before,
                errno: last_errno(),
                limit: limits::met_by(0, 0),
            });
        }
    }
    Ok(made)
}

/// Whether `MADV_GUARD_INSTALL` has an effect here; found out once.
pub(super) fn is_supported() -> bool {
    /// 0: not known yet, 1: yes, 2: no. Two threads may probe at a time; they find the same.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        0 => match probe() {
            Some(works) => {
                KNOWN.store(if works { 1 } else { 2 }, Ordering::Relaxed);
                works
            }
            None => false, // for now: no memory or no descriptor to find out with
        },
        known => known == 1,
    }
}

fn probe() -> Option<bool> {
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping somewhere.
    let page = unsafe { libc::mmap(core::ptr::null_mut(), PAGE_BYTES, prot, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page is ours and holds nothing.
    let is_taken = unsafe { libc::madvise(page, PAGE_BYTES, GUARD_INSTALL) } == 0;
    let works = if is_taken {
        is_unreadable(page)
    } else {
        Some(false)
    };
    // SAFETY: the page is ours, and nobody has its address.
    unsafe { libc::munmap(page, PAGE_BYTES) };
    works
}

/// Whether the kernel cannot read from `page`: it is asked to write it into a pipe. `None` without a pipe.
pub(super) fn is_unreadable(page: *const libc::c_void) -> Option<bool> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return None;
    }
    // SAFETY: the kernel checks the address itself.
    let faulted = unsafe { libc::write(ends[1], page, 1) } == -1 && last_errno() == libc::EFAULT;
    for end in ends {
        // SAFETY: our descriptor, closed once.
        unsafe { libc::close(end) };
    }
    Some(faulted)
}
