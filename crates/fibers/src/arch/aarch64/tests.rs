use super::*;

/// The code of `parking_prelude_aarch64!`: bti c; stp x29, x30, [sp, #-16]!; mov x3, sp; str x3, [x1]; add sp, x2, #16.
pub(crate) const PRELUDE: [u8; PRELUDE_BYTES] = [
    0x5f, 0x24, 0x03, 0xd5, 0xfd, 0x7b, 0xbf, 0xa9, 0xe3, 0x03, 0x00, 0x91, 0x23, 0x00, 0x00, 0xf9, 0x5f,
    0x40, 0x00, 0x91,
];

/// What an assembly entry at the base of a fiber looks like: it records a walk, and resets.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn walking_entry() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        "hint #36", // bti j
        "mov x29, sp",
        base_cfi_aarch64!(),
        "bl {walk}", // x0: the word; x1: the link
        "ldr x3, [x29]",
        "mov sp, x3",
        "mov x0, #5",
        "mov x2, #0",
        "ldp x29, x30, [sp], #16",
        "ret",
        ".cfi_endproc",
        walk = sym crate::raw::tests::walk,
    )
}

#[test]
fn a_raw_trampoline_starts_like_a_new_fiber() {
    let link = 0x1000 - LINK_OFFSET;
    // SAFETY: the registers are looked at only.
    let regs = unsafe { setup_trap_trampoline_raw(link, 0x5000, 7) };
    let link = link as u64;
    assert_eq!(
        regs,
        TrapHandlerRegs {
            pc: 0x5000,
            sp: link,
            x29: link,
            x30: base_return() as u64,
            x0: 7,
            x1: link
        }
    );
    // SAFETY: zeros are a value of this type.
    let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
    context.uc_mcontext.pstate = 0x8000_0c00;
    regs.write_to(&mut context);
    assert_eq!(interrupted_stack_pointer(&context) as u64, link);
    let machine = &context.uc_mcontext;
    assert_eq!(machine.pstate, 0x8000_0000, "the branch type is clear");
    assert_eq!((machine.pc, machine.regs[0], machine.regs[1]), (0x5000, 7, link));
    assert_eq!((machine.regs[29], machine.regs[30]), (link, base_return() as u64));
}
