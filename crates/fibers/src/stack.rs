//! What a fiber needs of a stack: where it begins and ends, and what lies at its edge.

pub(crate) mod limits;
pub(crate) mod mapped;
#[cfg(feature = "pool")]
pub mod pool;

/// A piece of memory that a fiber can run on.
///
/// The *base* is its highest address, the *limit* its lowest, guard included.
///
/// # Safety
/// From the creation of the value to its drop, and wherever the value is moved:
/// - `base`, `limit` and `guard_bytes` do not change, and `base` is a multiple of 16;
/// - `limit + guard_bytes .. base` is readable and writable, and used by nobody else;
/// - touching `limit .. limit + guard_bytes` faults, and that is a page at least; or the implementor sees to it
///   by other means that nothing runs deeper than the stack goes.
pub unsafe trait Stack {
    /// The highest address, exclusive; a multiple of 16.
    fn base(&self) -> usize;

    /// The lowest address, guard included.
    fn limit(&self) -> usize;

    /// How many bytes from the limit on are guard.
    fn guard_bytes(&self) -> usize;
}

// SAFETY: the borrowed stack is exclusively ours for as long as the borrow lasts.
unsafe impl<S: Stack> Stack for &mut S {
    fn base(&self) -> usize {
        S::base(self)
    }

    fn limit(&self) -> usize {
        S::limit(self)
    }

    fn guard_bytes(&self) -> usize {
        S::guard_bytes(self)
    }
}

/// The size of a page, in bytes. x86-64 has one: 4 KiB (System V ABI, AMD64 supplement, 3.3.1), as riscv64; where an aarch64
/// kernel has larger ones, making a stack is an error.
pub(crate) const PAGE_BYTES: usize = 4096;

/// `bytes` rounded up to whole pages; `None` when that is not a number.
pub(crate) fn whole_pages(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(PAGE_BYTES)
}

/// The error number of the last system call that failed.
pub(crate) fn last_errno() -> i32 {
    // SAFETY: no preconditions.
    let number = unsafe { libc::__errno_location() };
    // SAFETY: the C library gives a valid pointer to this thread's number.
    unsafe { *number }
}
