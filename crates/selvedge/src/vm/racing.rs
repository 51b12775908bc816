//! Copies and fills of memory that other threads' guests may access at the same time.
//!
//! A race with `ptr::copy` would be undefined behaviour. These are string instructions or loops in assembly: to Rust they are what
//! guest code is, accesses by a machine whose memory model gives every racing byte some value that was written there.

use std::arch::asm;

/// Copies `length` bytes, also of overlapping ranges.
///
/// # Safety
/// Both ranges are mapped and stay so; Rust holds no reference to what is written, and what is read is either that of a memory or
/// not written by anybody.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    let overtakes = to.addr().wrapping_sub(from.addr()) < length;
    if overtakes {
        // SAFETY: the caller's promise. The destination lies behind the source and in it.
        unsafe { copy_from_the_end(from, to, length) };
    } else {
        // SAFETY: the caller's promise. No byte is read behind one that was written.
        unsafe { copy_from_the_start(from, to, length) };
    }
}

/// # Safety
/// As for [`copy`]; the destination does not begin within the source.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_from_the_start(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's promise; the direction flag is clear (System V ABI, "Registers").
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") length => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// As for [`copy`]; `length` is not 0.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_from_the_end(from: *const u8, to: *mut u8, length: usize) {
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
#[cfg(target_arch = "x86_64")]
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

/// By sixteen bytes, then one by one.
///
/// # Safety
/// As for [`copy`]; the destination does not begin within the source.
#[cfg(target_arch = "aarch64")]
unsafe fn copy_from_the_start(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's promise. Sixteen bytes are read before they are written, so the destination may begin less than
    // that before the source.
    unsafe {
        asm!(
            "b 3f",
            "2:",
            "ldp {a}, {b}, [{from}], #16",
            "stp {a}, {b}, [{to}], #16",
            "3:",
            "subs {length}, {length}, #16",
            "b.hs 2b",
            "adds {length}, {length}, #16",
            "b.eq 5f",
            "4:",
            "ldrb {a:w}, [{from}], #1",
            "strb {a:w}, [{to}], #1",
            "subs {length}, {length}, #1",
            "b.ne 4b",
            "5:",
            length = inout(reg) length => _, from = inout(reg) from => _, to = inout(reg) to => _,
            a = out(reg) _, b = out(reg) _,
            options(nostack)
        );
    }
}

/// By sixteen bytes, then one by one.
///
/// # Safety
/// As for [`copy`].
#[cfg(target_arch = "aarch64")]
unsafe fn copy_from_the_end(from: *const u8, to: *mut u8, length: usize) {
    let (from, to) = (from.wrapping_add(length), to.wrapping_add(length));
    // SAFETY: the caller's promise; as in `copy_from_the_start`.
    unsafe {
        asm!(
            "b 3f",
            "2:",
            "ldp {a}, {b}, [{from}, #-16]!",
            "stp {a}, {b}, [{to}, #-16]!",
            "3:",
            "subs {length}, {length}, #16",
            "b.hs 2b",
            "adds {length}, {length}, #16",
            "b.eq 5f",
            "4:",
            "ldrb {a:w}, [{from}, #-1]!",
            "strb {a:w}, [{to}, #-1]!",
            "subs {length}, {length}, #1",
            "b.ne 4b",
            "5:",
            length = inout(reg) length => _, from = inout(reg) from => _, to = inout(reg) to => _,
            a = out(reg) _, b = out(reg) _,
            options(nostack)
        );
    }
}

/// Sets `length` bytes.
///
/// # Safety
/// As for [`copy`].
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn fill(to: *mut u8, value: u8, length: usize) {
    let values = u64::from_ne_bytes([value; 8]);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "b 3f",
            "2:",
            "stp {values}, {values}, [{to}], #16",
            "3:",
            "subs {length}, {length}, #16",
            "b.hs 2b",
            "adds {length}, {length}, #16",
            "b.eq 5f",
            "4:",
            "strb {values:w}, [{to}], #1",
            "subs {length}, {length}, #1",
            "b.ne 4b",
            "5:",
            length = inout(reg) length => _, to = inout(reg) to => _, values = in(reg) values,
            options(nostack)
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
