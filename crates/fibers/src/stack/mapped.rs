//! A stack that is a mapping of its own, with a guard below it.

use core::fmt;
use core::ptr::NonNull;

use super::limits::{self, KernelLimit};
use super::{PAGE_BYTES, Stack, last_errno, whole_pages};

/// A stack from `mmap`, with one guard page; dropping it unmaps it.
///
/// Cost: microseconds in the kernel to make, to touch and to drop, and two mappings, of which a process has
/// `vm.max_map_count` (65530). A pool has neither cost.
pub struct GuardedStack {
    mapping: NonNull<libc::c_void>,
    bytes: usize,
}

/// Why there is no [`GuardedStack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackError {
    /// The size is not one that a stack can have.
    Size {
        /// Bytes that were wanted.
        bytes: usize,
        /// The smallest size, in bytes.
        min: usize,
        /// The largest, in bytes.
        max: usize,
    },
    /// The kernel did not map the memory.
    Map {
        /// Bytes that were wanted, guard included.
        bytes: usize,
        /// Its error number.
        errno: i32,
        /// The limit that was met.
        limit: KernelLimit,
    },
    /// The kernel did not make the part above the guard usable.
    Protect {
        /// Bytes that were wanted.
        bytes: usize,
        /// Its error number.
        errno: i32,
        /// The limit that was met.
        limit: KernelLimit,
    },
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            StackError::Size { bytes, min, max } => {
                write!(f, "a stack cannot have {bytes} bytes, allowed is {min} to {max}")
            }
            StackError::Map { bytes, errno, limit } => {
                write!(f, "cannot map {bytes} bytes for a stack: error {errno}, {limit}")
            }
            StackError::Protect { bytes, errno, limit } => {
                write!(
                    f,
                    "cannot make {bytes} bytes of a stack usable: error {errno}, {limit}"
                )
            }
        }
    }
}

impl core::error::Error for StackError {}

impl GuardedStack {
    /// The smallest size of a stack, in bytes.
    pub const MIN_BYTES: usize = PAGE_BYTES;

    /// The largest size of a stack, in bytes: half of the addresses that x86-64 gives a process (Linux,
    /// Documentation/arch/x86/x86_64/mm.rst). What a kernel really gives may be less: that is `StackError::Map`.
    pub const MAX_BYTES: usize = (1u64 << 46) as usize;

    /// Makes a stack of `stack_bytes`, rounded up to pages, and a guard page below it.
    ///
    /// # Errors
    /// `Size` when there are fewer than [`MIN_BYTES`](Self::MIN_BYTES) or more than [`MAX_BYTES`](Self::MAX_BYTES);
    /// `Map` and `Protect` when the kernel refuses.
    pub fn new(stack_bytes: usize) -> Result<GuardedStack, StackError> {
        if !(Self::MIN_BYTES..=Self::MAX_BYTES).contains(&stack_bytes) {
            return Err(StackError::Size {
                bytes: stack_bytes,
                min: Self::MIN_BYTES,
                max: Self::MAX_BYTES,
            });
        }
        let usable = whole_pages(stack_bytes).expect("the maximum is far from overflow");
        let bytes = usable + PAGE_BYTES;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        // SAFETY: a new mapping somewhere.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(StackError::Map {
                bytes,
                errno: last_errno(),
                limit: limits::met_by(bytes, 0),
            });
        }
        // From here on the value's drop unmaps it.
        let stack = GuardedStack {
            mapping: NonNull::new(start).expect("mmap does not give address 0"),
            bytes,
        };
        let first = (start as usize + PAGE_BYTES) as *mut libc::c_void;
        // SAFETY: part of our own new mapping.
        if unsafe { libc::mprotect(first, usable, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(StackError::Protect {
                bytes: usable,
                errno: last_errno(),
                limit: limits::met_by(0, usable),
            });
        }
        Ok(stack)
    }
}

impl Drop for GuardedStack {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more. It was made with these numbers, so it cannot fail but
        // for the limit of mappings, when the kernel would have to split one.
        unsafe { libc::munmap(self.mapping.as_ptr(), self.bytes) };
    }
}

impl fmt::Debug for GuardedStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuardedStack({:#x}..{:#x})", self.limit(), self.base())
    }
}

// SAFETY: the value owns its mapping; which thread unmaps it does not matter.
unsafe impl Send for GuardedStack {}
// SAFETY: `&GuardedStack` gives numbers only.
unsafe impl Sync for GuardedStack {}

// SAFETY: the mapping is the value's until its drop, its ends are at pages, and its first page stayed PROT_NONE.
unsafe impl Stack for GuardedStack {
    #[inline]
    fn base(&self) -> usize {
        self.limit() + self.bytes
    }

    #[inline]
    fn limit(&self) -> usize {
        self.mapping.as_ptr() as usize
    }

    #[inline]
    fn guard_bytes(&self) -> usize {
        PAGE_BYTES
    }
}
