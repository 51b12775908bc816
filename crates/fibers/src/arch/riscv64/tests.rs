use super::*;

/// The code of `parking_prelude_riscv64!`.
pub(crate) const PRELUDE: [u8; PRELUDE_BYTES] = [
    0x23, 0x30, 0x81, 0x00, // sd s0, 0(sp)
    0x23, 0x34, 0x11, 0x00, // sd ra, 8(sp)
    0x93, 0x02, 0x01, 0x01, // addi t0, sp, 16
    0x23, 0xb0, 0x55, 0x00, // sd t0, 0(a1)
    0x13, 0x01, 0x06, 0x01, // addi sp, a2, 16
];

/// What an assembly entry at the base of a fiber looks like: it records a walk, and resets.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn walking_entry() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        "addi s0, sp, 16",
        base_cfi_riscv64!(),
        "call {walk}", // a0: the word; a1: the link
        "ld t1, -16(s0)",
        "li a0, 5",
        "li a2, 0",
        "ld s0, -16(t1)",
        "ld ra, -8(t1)",
        "mv sp, t1",
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
    let expected = TrapHandlerRegs {
        pc: 0x5000,
        ra: base_return() as u64,
        sp: link as u64,
        s0: 0x1000,
        a0: 7,
        a1: link as u64,
    };
    assert_eq!(regs, expected);
    // SAFETY: zeros are a value of this type.
    let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
    regs.write_to(&mut context);
    assert_eq!(interrupted_stack_pointer(&context), link);
    // The numbers of the registers; pc is in the place of x0.
    let gregs = &context.uc_mcontext.__gregs;
    let written = [
        (0, regs.pc),
        (1, regs.ra),
        (2, regs.sp),
        (8, regs.s0),
        (10, regs.a0),
        (11, regs.a1),
    ];
    for (number, value) in written {
        assert_eq!(gregs[number], value, "x{number}");
    }
    assert_eq!(gregs.iter().filter(|value| **value != 0).count(), written.len());
}
