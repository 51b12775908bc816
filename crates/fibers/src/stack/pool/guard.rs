//! Guard pages: by `madvise` where that has an effect, else by `mprotect`.
//!
//! The call may return 0 and install nothing (emulators do), so it is probed by its effect: a system
//! call that reads from the page must fail with EFAULT. It can fail on a range (locked memory); then that guard
//! is protected.

use core::sync::atomic::{AtomicU8, Ordering};

use super::{Guards, PoolError};
use crate::stack::{PAGE_BYTES, last_errno};

/// MADV_GUARD_INSTALL: linux/mman-common.h, since Linux 6.13.
const GUARD_INSTALL: i32 = 102;

/// Makes `len` bytes at `start` fault.
///
/// # Safety
/// The range is whole pages of the region, inside an extent, and holds nothing.
pub(super) unsafe fn install(
    start: usize,
    len: usize,
    guards: Guards,
    count: usize,
) -> Result<(), PoolError> {
    if guards == Guards::Auto && is_supported() {
        // SAFETY: the caller's promise.
        let done = unsafe { libc::madvise(start as *mut _, len, GUARD_INSTALL) };
        if done == 0 {
            return Ok(());
        }
    }
    // SAFETY: the caller's promise.
    if unsafe { libc::mprotect(start as *mut _, len, libc::PROT_NONE) } == 0 {
        return Ok(());
    }
    Err(PoolError::Guard {
        guards: count,
        max_map_count: max_map_count(),
        errno: last_errno(),
    })
}

/// Whether `MADV_GUARD_INSTALL` has an effect here; found out once.
pub(super) fn is_supported() -> bool {
    /// 0: not known yet, 1: yes, 2: no. Two threads may probe at a time; they find the same.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let works = probe();
            KNOWN.store(if works { 1 } else { 2 }, Ordering::Relaxed);
            works
        }
        known => known == 1,
    }
}

fn probe() -> bool {
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping somewhere.
    let page = unsafe { libc::mmap(core::ptr::null_mut(), PAGE_BYTES, prot, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the page is ours and holds nothing.
    let works = unsafe { libc::madvise(page, PAGE_BYTES, GUARD_INSTALL) } == 0 && is_unreadable(page);
    // SAFETY: the page is ours, and nobody has its address.
    unsafe { libc::munmap(page, PAGE_BYTES) };
    works
}

/// Whether the kernel cannot read from `page`: it is asked to write it into a pipe.
fn is_unreadable(page: *mut libc::c_void) -> bool {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return false;
    }
    // SAFETY: the kernel checks the address itself.
    let faulted = unsafe { libc::write(ends[1], page, 1) } == -1 && last_errno() == libc::EFAULT;
    for end in ends {
        // SAFETY: our descriptor, closed once.
        unsafe { libc::close(end) };
    }
    faulted
}

fn max_map_count() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
