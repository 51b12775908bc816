//! The way from an address to its slot for assembly, in the registers of each architecture; `region` has it in Rust.

use core::arch::naked_asm;

#[cfg(target_arch = "x86_64")]
use super::super::PAGE_BYTES;
use super::region::{EXTENTS, GRANULE_BYTES, GRANULES, HEADER_BYTES, REGION_BYTES, REGION_START};

/// `naked_asm!` with what a lookup needs: the tables and their numbers.
macro_rules! lookup {
    ($($line:literal,)* $($name:ident = $value:expr)?) => {
        naked_asm!(
            $($line,)*
            bytes = sym REGION_BYTES,
            start = sym REGION_START,
            granules = sym GRANULES,
            extents = sym EXTENTS,
            granule_shift = const GRANULE_BYTES.trailing_zeros(),
            header_bytes = const HEADER_BYTES,
            $($name = const $value,)?
        )
    };
}

/// [`slot_of`](super::slot_of) for assembly that has no stack to spare: jump here with the address in rax and the code
/// address to go on at in r8. It goes on there with the header's address, or 0, in rax.
///
/// Changes rax, rcx, rdx, r8 to r11 and the flags; touches no stack.
///
/// # Safety
/// To be jumped to with the registers as said; not to be called.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub unsafe extern "C" fn find_slot_asm() {
    lookup!(
        "mov rcx, [rip + {bytes}]", // before the start, as in `slot_of`
        "mov rdx, rax",
        "sub rdx, [rip + {start}]",
        "cmp rdx, rcx",
        "jae 2f",
        "shr rdx, {granule_shift}",
        "lea rcx, [rip + {granules}]",
        "mov ecx, [rcx + 4 * rdx]", // the extent's number
        "test ecx, ecx",
        "jz 2f",
        "shl rcx, 5", // 32 bytes each
        "lea rdx, [rip + {extents}]",
        "add rcx, rdx",
        "mov r9, [rcx]", // start
        "sub rax, r9",
        "shr rax, {page_shift}",
        "mul qword ptr [rcx + 24]", // pages an address times 2^64 / pages a stride: the index in rdx
        "cmp rdx, [rcx + 16]",      // slots
        "jae 2f",
        "inc rdx",
        "imul rdx, [rcx + 8]", // stride
        "lea rax, [rdx + r9 - {header_bytes}]",
        "jmp r8",
        "2:",
        "xor eax, eax",
        "jmp r8",
        page_shift = PAGE_BYTES.trailing_zeros()
    )
}

/// [`slot_of`](super::slot_of) for assembly that has no stack to spare: branch here with the address in x9 and the code
/// address to go on at in x16. It goes on there with the header's address, or 0, in x9.
///
/// Changes x9 to x15 and the flags; touches no stack.
///
/// # Safety
/// To be branched to with the registers as said; not to be called.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
pub unsafe extern "C" fn find_slot_asm() {
    lookup!(
        "hint #38", // bti jc
        "adrp x10, {bytes}",
        "add x10, x10, :lo12:{bytes}",
        "ldar x10, [x10]", // before the start, as in `slot_of`
        "adrp x11, {start}",
        "ldr x11, [x11, :lo12:{start}]",
        "sub x11, x9, x11",
        "cmp x11, x10",
        "b.hs 2f",
        "lsr x11, x11, #{granule_shift}",
        "adrp x10, {granules}",
        "add x10, x10, :lo12:{granules}",
        "add x10, x10, x11, lsl #2",
        "ldar w10, [x10]", // the extent's number
        "cbz w10, 2f",
        "adrp x11, {extents}",
        "add x11, x11, :lo12:{extents}",
        "add x10, x11, x10, lsl #5", // 32 bytes each
        "ldp x11, x12, [x10]",       // start, stride
        "ldr x13, [x10, #16]",       // slots
        "sub x9, x9, x11",
        "udiv x9, x9, x12",
        "cmp x9, x13",
        "b.hs 2f",
        "madd x9, x9, x12, x12",
        "add x9, x9, x11",
        "sub x9, x9, #{header_bytes}",
        "br x16",
        "2:",
        "mov x9, #0",
        "br x16",
    )
}

/// [`slot_of`](super::slot_of) for assembly that has no stack to spare: jump here with the address in t1 and the code
/// address to go on at in t2. It goes on there with the header's address, or 0, in t1.
///
/// Changes t1 to t6; touches no stack.
///
/// # Safety
/// To be jumped to with the registers as said; not to be called.
#[cfg(target_arch = "riscv64")]
#[unsafe(naked)]
pub unsafe extern "C" fn find_slot_asm() {
    lookup!(
        ".option push",
        ".option arch, +m", // which the assembler does not know of outside functions
        "lla t3, {bytes}",
        "ld t3, 0(t3)",
        "fence r, rw", // before the start, as in `slot_of`
        "lla t4, {start}",
        "ld t4, 0(t4)",
        "sub t4, t1, t4",
        "bgeu t4, t3, 2f",
        "srli t4, t4, {granule_shift}",
        "slli t4, t4, 2",
        "lla t3, {granules}",
        "add t3, t3, t4",
        "lwu t3, 0(t3)", // the extent's number
        "fence r, rw",
        "beqz t3, 2f",
        "slli t3, t3, 5", // 32 bytes each
        "lla t4, {extents}",
        "add t3, t3, t4",
        "ld t4, 0(t3)",  // start
        "ld t5, 8(t3)",  // stride
        "ld t6, 16(t3)", // slots
        "sub t1, t1, t4",
        "divu t1, t1, t5",
        "bgeu t1, t6, 2f",
        "addi t1, t1, 1",
        "mul t1, t1, t5",
        "add t1, t1, t4",
        "addi t1, t1, -{header_bytes}",
        "jr t2",
        "2:",
        "li t1, 0",
        "jr t2",
        ".option pop",
    )
}

#[cfg(all(test, feature = "unwind"))]
pub(super) mod tests {
    use super::*;

    /// Calls `find_slot_asm` as assembly does.
    #[cfg(target_arch = "x86_64")]
    pub(in crate::stack::pool) fn find_by_assembly(address: usize) -> usize {
        let found: usize;
        // SAFETY: the registers are as `find_slot_asm` wants them, and those it changes are declared.
        unsafe {
            core::arch::asm!(
                "lea r8, [rip + 2f]",
                "jmp {find}",
                "2:",
                find = sym find_slot_asm,
                inout("rax") address => found,
                out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        found
    }

    /// Calls `find_slot_asm` as assembly does.
    #[cfg(target_arch = "aarch64")]
    pub(in crate::stack::pool) fn find_by_assembly(address: usize) -> usize {
        let found: usize;
        // SAFETY: the registers are as `find_slot_asm` wants them, and those it changes are declared.
        unsafe {
            core::arch::asm!(
                "adr x16, 2f",
                "b {find}",
                "2:",
                "hint #36", // bti j
                find = sym find_slot_asm,
                inout("x9") address => found,
                out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _,
            );
        }
        found
    }

    /// Calls `find_slot_asm` as assembly does.
    #[cfg(target_arch = "riscv64")]
    pub(in crate::stack::pool) fn find_by_assembly(address: usize) -> usize {
        let found: usize;
        // SAFETY: the registers are as `find_slot_asm` wants them, and those it changes are declared.
        unsafe {
            core::arch::asm!(
                "lla t2, 2f",
                "jump {find}, t3",
                "2:",
                find = sym find_slot_asm,
                inout("t1") address => found,
                out("t2") _, out("t3") _, out("t4") _, out("t5") _, out("t6") _,
            );
        }
        found
    }
}
