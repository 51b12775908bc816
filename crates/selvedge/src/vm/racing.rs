//! Copies and fills of memory that other threads' guests may access at the same time.
//!
//! A race with `ptr::copy` would be undefined behaviour. These are single string instructions in assembly: to Rust they are what
//! guest code is, accesses by a machine whose memory model gives every racing byte some value that was written there.

use std::arch::asm;

/// Copies `length` bytes, also of overlapping ranges.
///
/// # Safety
/// Both ranges are mapped and stay so; Rust holds no reference to what is written, and what is read is either that of a memory or
/// not written by anybody.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    let overtakes = to.addr().wrapping_sub(from.addr()) < length;
    if !overtakes {
        // SAFETY: the caller's promise; the direction flag is clear (System V ABI, "Registers").
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") length => _, inout("rsi") from => _, inout("rdi") to => _,
                options(nostack, preserves_flags)
            );
        }
        return;
    }
    // The destination lies behind the source and in it: from the end. `length` is not 0, as something is below it.
    let (from, to) = (from.wrapping_add(length - 1), to.wrapping_add(length - 1));
    // SAFETY: the caller's promise; the direction flag is put back.
    unsafe {
        asm!(
            "std", "rep movsb", "cld",
            inout("rcx") length => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack)
        );
    }
}

/// Sets `length` bytes.
///
/// # Safety
/// As for [`copy`].
pub(crate) unsafe fn fill(to: *mut u8, value: u8, length: usize) {
    // SAFETY: the caller's promise; the direction flag is clear.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") length => _, inout("rdi") to => _, in("al") value,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_do_what_the_plain_ones_do() {
        for (from, to, length) in [
            (0, 20, 10),
            (20, 0, 10),
            (0, 5, 20),
            (5, 0, 20),
            (3, 3, 9),
            (1, 2, 0),
            (0, 1, 1),
        ] {
            let mut bytes: Vec<u8> = (0..40).collect();
            let mut expected = bytes.clone();
            expected.copy_within(from..from + length, to);
            let start = bytes.as_mut_ptr();
            // SAFETY: both ranges lie in the vector, which nobody else uses.
            unsafe { copy(start.wrapping_add(from), start.wrapping_add(to), length) };
            assert_eq!(bytes, expected, "{from} to {to}, {length} bytes");
        }
    }

    #[test]
    fn a_fill_sets_its_range_alone() {
        let mut bytes = [1; 8];
        // SAFETY: the range lies in the array.
        unsafe { fill(bytes.as_mut_ptr().wrapping_add(2), 9, 3) };
        assert_eq!(bytes, [1, 1, 9, 9, 9, 1, 1, 1]);
    }
}
