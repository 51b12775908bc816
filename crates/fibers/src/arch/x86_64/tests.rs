use super::*;

/// The code of `parking_prelude_x86_64!`.
pub(crate) const PRELUDE: [u8; PRELUDE_BYTES] = [0x55, 0x48, 0x89, 0x26, 0x48, 0x8d, 0x62, 0x08];

/// What an assembly entry at the base of a fiber looks like: it records a walk, and resets.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn walking_entry() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        "mov rbp, rsp",
        base_cfi_x86_64!(),
        "push rsi",
        "push rsi",
        "call {walk}", // rdi: the word; rsi: the link
        "pop rsi",
        "mov rsp, [rsi]",
        "mov rax, 5",
        "mov rdx, 0",
        "pop rbp",
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
            rip: 0x5000,
            rsp: link,
            rbp: link,
            rdi: 7,
            rsi: link
        }
    );
    // SAFETY: zeros are a value of this type.
    let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
    context.uc_mcontext.gregs[libc::REG_EFL as usize] = 0x646;
    regs.write_to(&mut context);
    assert_eq!(interrupted_stack_pointer(&context) as u64, link);
    assert_eq!(
        context.uc_mcontext.gregs[libc::REG_EFL as usize],
        0x246,
        "the direction flag is clear"
    );
    assert_eq!(context.uc_mcontext.gregs[libc::REG_RIP as usize], 0x5000);
}
