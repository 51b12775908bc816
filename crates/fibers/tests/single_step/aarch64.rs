//! What follows an instruction, on aarch64: Arm ARM, C4.1.66, branches.

use super::Next;

/// An instruction that traps.
pub type Trap = u32;

/// `brk #0`.
pub const TRAP: Trap = 0xd420_0000;

/// Traps into the handler, which goes on behind it.
#[inline(always)]
pub fn trap() {
    // SAFETY: the handler takes it; the registers stay.
    unsafe { std::arch::asm!("brk #0") };
}

/// The program counter and the stack pointer.
pub fn pc_and_sp(context: &libc::ucontext_t) -> (usize, usize) {
    let machine = &context.uc_mcontext;
    (machine.pc as usize, machine.sp as usize)
}

/// What decides whether a walk is one of the fiber's frames: the frame pointer, which a fiber that goes on restores after its
/// stack pointer. Until then the walk is the parent's.
pub fn decides(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.regs[29] as usize
}

/// Goes on behind a `brk`.
pub fn skip_trap(context: &mut libc::ucontext_t) {
    context.uc_mcontext.pc += 4;
}

/// Where the function that was called returns to.
pub fn return_address(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.regs[30] as usize
}

/// Makes what was written at `at` what is executed there.
pub fn flush(at: usize) {
    // SAFETY: maintenance of caches, which user code may do.
    unsafe {
        std::arch::asm!("dc cvau, {at}", "dsb ish", "ic ivau, {at}", "dsb ish", "isb", at = in(reg) at)
    };
}

/// Where the instruction at the program counter leads.
pub fn next(context: &libc::ucontext_t) -> Next {
    let machine = &context.uc_mcontext;
    let pc = machine.pc as usize;
    // SAFETY: the instruction that runs next.
    let code = unsafe { (pc as *const u32).read() };
    let register = |number: u32| machine.regs.get(number as usize).copied().unwrap_or(0); // 31: zero
    let field = |from: u32, bits: u32| (code >> from) & ((1 << bits) - 1);
    let offset = |from: u32, bits: u32| {
        let shift = 32 - bits;
        let words = ((field(from, bits) << shift) as i32) >> shift;
        pc.wrapping_add_signed(words as isize * 4)
    };
    let when = |taken: bool, to: usize| Next::Jump(if taken { to } else { pc + 4 });
    if code & 0x7c00_0000 == 0x1400_0000 {
        let to = offset(0, 26);
        return if code >> 31 == 1 {
            Next::Call(to, pc + 4) // bl
        } else {
            Next::Jump(to) // b
        };
    }
    if code & 0xff00_0000 == 0x5400_0000 {
        return when(holds(field(0, 4), machine.pstate), offset(5, 19)); // b.cond
    }
    if code & 0x7e00_0000 == 0x3400_0000 {
        let is_wide = code >> 31 == 1;
        let value = register(field(0, 5)) & if is_wide { u64::MAX } else { u32::MAX.into() };
        return when((value != 0) == (field(24, 1) == 1), offset(5, 19)); // cbz, cbnz
    }
    if code & 0x7e00_0000 == 0x3600_0000 {
        let bit = (register(field(0, 5)) >> ((field(31, 1) << 5) | field(19, 5))) & 1;
        return when(bit == field(24, 1).into(), offset(5, 14)); // tbz, tbnz
    }
    if code & 0xff9f_fc1f == 0xd61f_0000 {
        let to = register(field(5, 5)) as usize;
        return match field(21, 2) {
            1 => Next::Call(to, pc + 4), // blr
            _ => Next::Jump(to),         // br, ret
        };
    }
    Next::Jump(pc + 4)
}

/// Whether a condition holds: Arm ARM, C1.2.4.
fn holds(condition: u32, pstate: u64) -> bool {
    let flag = |bit: u32| (pstate >> bit) & 1 == 1;
    let (n, z, c, v) = (flag(31), flag(30), flag(29), flag(28));
    let result = match condition >> 1 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    result != (condition & 1 == 1)
}
