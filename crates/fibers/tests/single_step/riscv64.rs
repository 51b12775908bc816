//! What follows an instruction, on riscv64: unprivileged ISA, 2.5, control transfer, and 26.4, compressed.

use super::Next;

/// An instruction that traps.
pub type Trap = u16;

/// `c.ebreak`, as long as the shortest instruction.
pub const TRAP: Trap = 0x9002;

/// Size of the `ebreak` of [`trap`], in bytes.
const TRAP_BYTES: u64 = 4;

/// Traps into the handler, which goes on behind it.
#[inline(always)]
pub fn trap() {
    // SAFETY: the handler takes it; the registers stay.
    unsafe { std::arch::asm!(".option push", ".option norvc", "ebreak", ".option pop") };
}

/// The registers, by number; number 0, which is always 0, has the program counter.
fn registers(context: &libc::ucontext_t) -> &[u64; 32] {
    &context.uc_mcontext.__gregs
}

/// The program counter and the stack pointer.
pub fn pc_and_sp(context: &libc::ucontext_t) -> (usize, usize) {
    let registers = registers(context);
    (registers[0] as usize, registers[2] as usize)
}

/// What decides whether a walk is one of the fiber's frames: the frame pointer, which a fiber that goes on restores after its
/// stack pointer. Until then the walk is the parent's.
pub fn decides(context: &libc::ucontext_t) -> usize {
    // It points behind the frame record; in code without frames it may be anything.
    (registers(context)[8] as usize).wrapping_sub(1)
}

/// Goes on behind an `ebreak`.
pub fn skip_trap(context: &mut libc::ucontext_t) {
    context.uc_mcontext.__gregs[0] += TRAP_BYTES;
}

/// Where the function that was called returns to.
pub fn return_address(context: &libc::ucontext_t) -> usize {
    registers(context)[1] as usize
}

/// Makes what was written what is executed.
pub fn flush(_: usize) {
    // SAFETY: `fence.i`, which user code may do.
    unsafe { std::arch::asm!(".4byte 0x0000100f") };
}

/// Where the instruction at the program counter leads.
pub fn next(context: &libc::ucontext_t) -> Next {
    let (pc, _) = pc_and_sp(context);
    // SAFETY: the instruction that runs next.
    let low = unsafe { (pc as *const u16).read() };
    if low & 3 != 3 {
        return after_compressed(u32::from(low), pc, registers(context));
    }
    // SAFETY: as above: it has a second half.
    let high = unsafe { ((pc + 2) as *const u16).read() };
    after_long(u32::from(low) | (u32::from(high) << 16), pc, registers(context))
}

/// Bits `from..from + bits` of the code, moved to `to`.
fn bits(code: u32, from: u32, bits: u32, to: u32) -> u32 {
    ((code >> from) & ((1 << bits) - 1)) << to
}

/// The address at an offset of so many bits, with a sign.
fn at(pc: usize, offset: u32, bits: u32) -> usize {
    let shift = 32 - bits;
    pc.wrapping_add_signed((((offset << shift) as i32) >> shift) as isize)
}

fn value(registers: &[u64; 32], number: u32) -> u64 {
    if number == 0 {
        0
    } else {
        registers[number as usize]
    }
}

/// ra is the only register that calls link to; the linker's stubs use t1.
fn linking(register: u32, to: usize, back: usize) -> Next {
    if register == 1 {
        Next::Call(to, back)
    } else {
        Next::Jump(to)
    }
}

fn after_long(code: u32, pc: usize, registers: &[u64; 32]) -> Next {
    let register = |from: u32| bits(code, from, 5, 0);
    match code & 0x7f {
        0x6f => {
            let offset =
                bits(code, 31, 1, 20) | bits(code, 12, 8, 12) | bits(code, 20, 1, 11) | bits(code, 21, 10, 1);
            linking(register(7), at(pc, offset, 21), pc + 4) // jal
        }
        0x67 => {
            let from = value(registers, register(15)) as usize;
            linking(register(7), at(from, code >> 20, 12) & !1, pc + 4) // jalr
        }
        0x63 => {
            let offset =
                bits(code, 31, 1, 12) | bits(code, 7, 1, 11) | bits(code, 25, 6, 5) | bits(code, 8, 4, 1);
            let (a, b) = (value(registers, register(15)), value(registers, register(20)));
            let holds = match bits(code, 13, 2, 0) {
                0 => a == b,
                2 => (a as i64) < (b as i64),
                _ => a < b,
            };
            let is_taken = holds != (bits(code, 12, 1, 0) == 1);
            Next::Jump(if is_taken { at(pc, offset, 13) } else { pc + 4 }) // beq, bne, blt, bge, bltu, bgeu
        }
        _ => Next::Jump(pc + 4),
    }
}

fn after_compressed(code: u32, pc: usize, registers: &[u64; 32]) -> Next {
    let next = pc + 2;
    match (code & 3, code >> 13) {
        (1, 5) => {
            let offset = bits(code, 12, 1, 11)
                | bits(code, 11, 1, 4)
                | bits(code, 9, 2, 8)
                | bits(code, 8, 1, 10)
                | bits(code, 7, 1, 6)
                | bits(code, 6, 1, 7)
                | bits(code, 3, 3, 1)
                | bits(code, 2, 1, 5);
            Next::Jump(at(pc, offset, 12)) // c.j
        }
        (1, kind @ (6 | 7)) => {
            let offset = bits(code, 12, 1, 8)
                | bits(code, 10, 2, 3)
                | bits(code, 5, 2, 6)
                | bits(code, 3, 2, 1)
                | bits(code, 2, 1, 5);
            let is_zero = value(registers, 8 + bits(code, 7, 3, 0)) == 0;
            let is_taken = is_zero == (kind == 6);
            Next::Jump(if is_taken { at(pc, offset, 9) } else { next }) // c.beqz, c.bnez
        }
        (2, 4) if bits(code, 2, 5, 0) == 0 && bits(code, 7, 5, 0) != 0 => {
            let to = value(registers, bits(code, 7, 5, 0)) as usize;
            linking(bits(code, 12, 1, 0), to, next) // c.jr, c.jalr
        }
        _ => Next::Jump(next),
    }
}
