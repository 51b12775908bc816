//! The ways into and out of a guest on x86-64 (System V).

use super::{Left, REFILL, REFILLS, SAVED_SP};
use std::arch::naked_asm;

/// Calls an entry trampoline, so that a trap can come back here.
#[unsafe(naked)]
pub unsafe extern "C" fn enter(entry: u64, code: u64, ctx: u64, args: *mut [u64; 2], fuel: *mut i64) -> Left {
    naked_asm!(
        "push rbp", "mov rbp, rsp",
        "push rbx", "push r12", "push r13", "push r14", "push r15",
        "push r8", // where the fuel register goes; the stack is 16-aligned again
        "mov [rip + {saved}], rsp",
        "mov rax, rdi", "mov rdi, rsi", "mov rsi, rdx", "mov rdx, rcx",
        "call rax",
        "xor eax, eax",
        "jmp {leave}",
        saved = sym SAVED_SP,
        leave = sym leave,
    )
}

/// Where trap stubs lead: eax is the trap's number, [rsp] the site.
#[unsafe(naked)]
pub unsafe extern "C" fn raise() {
    naked_asm!(
        "mov rdx, [rsp]",
        "mov rsp, [rip + {saved}]", // the guest's frames are abandoned
        "jmp {leave}",
        saved = sym SAVED_SP,
        leave = sym leave,
    )
}

/// The end of `enter`, at its stack pointer.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "pop r8",
        "mov [r8], r15",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// The fuel check: counts itself, sets the register anew, touches nothing else but the flags.
#[unsafe(naked)]
pub unsafe extern "C" fn fuel_check() {
    naked_asm!(
        "inc qword ptr [rip + {refills}]",
        "mov r15, [rip + {refill}]",
        "ret",
        refills = sym REFILLS,
        refill = sym REFILL,
    )
}

/// Instruction fetches see what was stored.
pub fn make_visible(_text: &[u8]) {}
