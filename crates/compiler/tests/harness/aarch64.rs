//! The ways into and out of a guest on aarch64 (AAPCS64).

use super::{Left, REFILL, REFILLS, SAVED_SP};
use std::arch::{asm, naked_asm};

/// Calls an entry trampoline, so that a trap can come back here.
#[unsafe(naked)]
pub unsafe extern "C" fn enter(entry: u64, code: u64, ctx: u64, args: *mut [u64; 2], fuel: *mut i64) -> Left {
    naked_asm!(
        "stp x29, x30, [sp, #-176]!",
        "mov x29, sp",
        "stp x19, x20, [sp, #16]", "stp x21, x22, [sp, #32]", "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]", "stp x27, x28, [sp, #80]",
        "stp d8, d9, [sp, #96]", "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]", "stp d14, d15, [sp, #144]",
        "str x4, [sp, #160]", // where the fuel register goes
        "mov x10, sp",
        "adrp x9, {saved}",
        "str x10, [x9, :lo12:{saved}]",
        "mov x9, x0", "mov x0, x1", "mov x1, x2", "mov x2, x3",
        "blr x9",
        "mov x0, #0",
        "b {leave}",
        saved = sym SAVED_SP,
        leave = sym leave,
    )
}

/// Where trap stubs lead: w17 is the trap's number, x30 the site.
#[unsafe(naked)]
pub unsafe extern "C" fn raise() {
    naked_asm!(
        "mov w0, w17",
        "mov x1, x30",
        "adrp x9, {saved}",
        "ldr x9, [x9, :lo12:{saved}]",
        "mov sp, x9", // the guest's frames are abandoned
        "b {leave}",
        saved = sym SAVED_SP,
        leave = sym leave,
    )
}

/// The end of `enter`, at its stack pointer.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "ldr x4, [sp, #160]",
        "str x21, [x4]",
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp d8, d9, [sp, #96]",
        "ldp d10, d11, [sp, #112]",
        "ldp d12, d13, [sp, #128]",
        "ldp d14, d15, [sp, #144]",
        "ldp x29, x30, [sp], #176",
        "ret",
    )
}

/// The fuel check: counts itself, sets the register anew, touches nothing else but x16 and x17.
#[unsafe(naked)]
pub unsafe extern "C" fn fuel_check() {
    naked_asm!(
        "adrp x16, {refills}",
        "ldr x17, [x16, :lo12:{refills}]",
        "add x17, x17, #1",
        "str x17, [x16, :lo12:{refills}]",
        "adrp x16, {refill}",
        "ldr x21, [x16, :lo12:{refill}]",
        "ret",
        refills = sym REFILLS,
        refill = sym REFILL,
    )
}

/// Lets this thread fetch the instructions that were stored.
pub fn make_visible(text: &[u8]) {
    // No line is shorter than 16 bytes.
    for line in text.chunks(16) {
        // SAFETY: the bytes are mapped; neither instruction changes one.
        unsafe {
            asm!("dc cvau, {line}", "dsb ish", "ic ivau, {line}", line = in(reg) line.as_ptr(), options(nostack))
        };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
}
