//! The mappings under linear memories: one owner each, and the system calls that change them.
//!
//! Invariants
//! 1. `[base, base + bytes)` is mapped, and belongs to this [`Mapping`] alone, from when it is made until it is dropped.
//! 2. Every change stays inside it: each method checks its range.

use crate::error::{Context, Error, Result};
use crate::vm::unmap;
use fibers::KernelLimit;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// What may be done with pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    None,
    ReadWrite,
}

impl Access {
    fn flags(self) -> libc::c_int {
        match self {
            Access::None => libc::PROT_NONE,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

const ANONYMOUS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Pages of this process. Dropping it unmaps them.
#[derive(Debug)]
pub(super) struct Mapping {
    base: *mut u8,
    bytes: u64,
}

// SAFETY: a mapping is an address and a length, and belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` rights are only added.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeros at an address of the kernel's choice. Takes no memory before they are written to.
    ///
    /// # Errors
    /// The kernel's, with the limit that was met.
    pub(super) fn new(bytes: u64, access: Access) -> Result<Mapping> {
        unmap::retry();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes as usize, access.flags(), ANONYMOUS, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(refused(bytes, access));
        }
        Ok(Mapping {
            base: base.cast(),
            bytes,
        })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The address of `start`, with `bytes` behind it inside.
    fn place(&self, start: u64, bytes: u64) -> *mut libc::c_void {
        let end = start.checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "{bytes} bytes at {start} of a mapping of {}",
            self.bytes
        );
        self.base.wrapping_add(start as usize).cast()
    }

    /// Makes the pages of these bytes readable and writable, while others may use those that are so already.
    ///
    /// # Errors
    /// The kernel's, with the limit that was met.
    pub(super) fn open(&self, start: u64, bytes: u64) -> Result<()> {
        let before = start % region::page::size() as u64;
        self.protect(start - before, bytes + before, Access::ReadWrite)
    }

    /// Makes pages fault.
    ///
    /// # Errors
    /// The kernel's, with the limit that was met.
    pub(super) fn close(&mut self, start: u64, bytes: u64) -> Result<()> {
        self.protect(start, bytes, Access::None)
    }

    fn protect(&self, start: u64, bytes: u64, access: Access) -> Result<()> {
        let place = self.place(start, bytes);
        // SAFETY: pages of ours (invariants 1 and 2); who takes rights away has borrowed the mapping uniquely.
        match unsafe { libc::mprotect(place, bytes as usize, access.flags()) } {
            0 => Ok(()),
            _ => Err(refused(bytes, access)),
        }
    }

    /// Gives the memory of pages back: they read as they did when they were mapped, as zeros or as the file's bytes. False if
    /// the kernel does not do so, for one because they are locked.
    #[must_use]
    pub(super) fn discard(&mut self, start: u64, bytes: u64) -> bool {
        let place = self.place(start, bytes);
        // SAFETY: pages of ours (invariants 1 and 2), borrowed uniquely.
        unsafe { libc::madvise(place, bytes as usize, libc::MADV_DONTNEED) == 0 }
    }

    /// Puts zeros where an image was.
    ///
    /// # Errors
    /// The kernel's, with the limit that was met.
    pub(super) fn map_zeros(&mut self, start: u64, bytes: u64) -> Result<()> {
        self.replace(start, bytes, ANONYMOUS, -1, 0)
    }

    /// Puts a file's bytes there, copied on write.
    ///
    /// # Errors
    /// The kernel's, with the limit that was met.
    pub(super) fn map_image(&mut self, start: u64, bytes: u64, file: &File, offset: u64) -> Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        self.replace(start, bytes, flags, file.as_raw_fd(), offset)
    }

    /// Maps anew what lies there, readable and writable.
    fn replace(
        &mut self,
        start: u64,
        bytes: u64,
        flags: libc::c_int,
        file: libc::c_int,
        offset: u64,
    ) -> Result<()> {
        let (place, access) = (self.place(start, bytes), Access::ReadWrite);
        let flags = flags | libc::MAP_FIXED;
        // SAFETY: replaces pages of ours (invariants 1 and 2), borrowed uniquely.
        let base = unsafe {
            libc::mmap(
                place,
                bytes as usize,
                access.flags(),
                flags,
                file,
                offset as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(refused(bytes, access));
        }
        Ok(())
    }

    /// Changes the length, and the address where there is no room behind it. Bytes that are added are zero.
    ///
    /// # Errors
    /// The kernel's, with the limit that was met; nothing changed then.
    pub(super) fn resize(&mut self, bytes: u64) -> Result<()> {
        let (old, new) = (self.bytes as usize, bytes as usize);
        // SAFETY: the whole mapping is ours (invariant 1) and borrowed uniquely: nobody keeps an address into it.
        let base = unsafe { libc::mremap(self.base.cast(), old, new, libc::MREMAP_MAYMOVE) };
        if base == libc::MAP_FAILED {
            return Err(refused(bytes.saturating_sub(self.bytes), Access::ReadWrite));
        }
        (self.base, self.bytes) = (base.cast(), bytes);
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours (invariant 1), and ends with this.
        unsafe { unmap::unmap(self.base.cast(), self.bytes as usize) };
    }
}

/// The error of a call that failed just now.
#[cold]
fn refused(bytes: u64, access: Access) -> Error {
    let error = Err::<(), _>(io::Error::last_os_error());
    let writable_bytes = match access {
        Access::None => 0,
        Access::ReadWrite => bytes,
    };
    let limit = KernelLimit::met_by(bytes as usize, writable_bytes as usize);
    let error = error.with_context(|| format!("cannot map {bytes} bytes: {limit}"));
    error.expect_err("made of an error")
}
