//! Between the guest's stack and the host's on x86-64 (System V).
//!
//! The switch itself, the parent link and the saved context of a parked parent are those of `fibers`
//! (`fibers::raw` documents the layout). An activation's piece of the guest stack looks like this:
//!
//! ```text
//!   base      -> +------------------------+ the Activation, then its argument slots (async calls)
//!   base-0x08    | address in the thunk   | what a frame-pointer walk takes for the return address
//!   base-0x10    | parent link: P         | <- `link`, rbp of `guest_start`
//!   base-0x18    | return into guest_start| pushed by the call of the entry trampoline
//!                ~ guest frames           ~
//!                | rbp                    | <- rbp of `host_call`, `guest_fp` of the store
//!                | rdi: vmctx or record   |
//!                ~ free                   ~
//!
//!   the host's stack while the guest runs, low to high
//!   P -> rbp, return address, rbx, then the frame of whoever resumed the guest; below P is free
//! ```
//!
//! A *swap* borrows the host's stack: it takes P from the parent link, sets the stack pointer just below it, calls,
//! and goes back by rbp. No context is saved, and every `call` meets its `ret`.
//!
//! Invariants
//! 1. While the guest runs, `VMStoreContext::link` is the address of the running activation's parent link, and
//!    the word there is the P of whoever resumed it last.
//! 2. Everything here lies in the section `selvedge_text`, so that a fault on the guest's stack inside it is known
//!    as the guest's overflow ([`crate::vm::signals`]). Nothing here is called on the guest's stack but by guest code.
//! 3. While a swap runs the host, rbp holds the guest's frame record: the frame-pointer chain goes through the guest, the
//!    CFI leads straight to the host frame that resumed it (CFA = P + 24, the resumer's stack pointer).
//! 4. r15 is the fuel slice while a metered guest runs and an ordinary callee-saved register elsewhere.
//!
//! Not saved: MXCSR and the x87 control word. Guests cannot change them.

use super::{EXIT_TRAP, SUSPEND, UNWIND};
use crate::vm::activation::Activation;
use crate::vm::builtins::dispatch;
use crate::vm::fuel::refill;
use crate::vm::store::VMStoreContext;
use crate::vm::vmctx::HostRecord;
use fibers::parking_prelude_x86_64;
use fibers::pool::find_slot_asm;
use std::arch::{asm, naked_asm};
use std::io;
use std::mem::offset_of;

/// The most that is kept below the frame record that `guest_fp` names. A swap keeps one word, and six more when it parks; a
/// fuel check thirteen registers and 0x108 bytes of others, and two words when it parks.
pub(crate) const EXIT_BYTES: usize = 13 * 8 + 0x108 + 16;

/// The stack pointer, to compare depths with.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let sp: usize;
    // SAFETY: copies a register; touches neither memory nor stack nor flags.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// Makes what was written to these bytes what every thread executes there.
///
/// Nothing to do: instruction fetches are coherent with stores, and a reused address went through `mmap`, whose TLB flush
/// serialised every processor that runs this process.
#[expect(clippy::unnecessary_wraps, reason = "other architectures ask the kernel")]
pub(crate) fn make_instructions_visible(_start: usize, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// The stack swap through which guest code calls host functions.
pub(crate) fn host_call(fuel: bool) -> *const u8 {
    if fuel {
        host_call_metered as *const u8
    } else {
        host_call_plain as *const u8
    }
}

/// The stack swap through which guest code calls built-in operations.
pub(crate) fn builtin_call(fuel: bool) -> *const u8 {
    if fuel {
        builtin_call_metered as *const u8
    } else {
        builtin_call_plain as *const u8
    }
}

/// Where a new activation starts behind the parking prelude, with `rsp = link` and `rdi` its [`Activation`].
///
/// Calls the entry trampoline with (code, context, slots) and goes back to the parent with [`super::DONE`].
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "sysv64" fn guest_start() {
    naked_asm!(
        parking_prelude_x86_64!(),
        "mov rbp, rsp", // the frame record {P, address in the thunk}
        "mov rax, rdi",
        "mov rdi, [rax + {code}]",
        "mov rsi, [rax + {ctx}]",
        "mov rdx, [rax + {args}]",
        // The entry trampoline loads the slice too, but may run out of stack before: then this is what is left.
        "mov rcx, [rsi]",
        "mov r15, [rcx + {fuel}]",
        "call [rax + {entry}]",
        "xor eax, eax", // DONE
        "xor edx, edx", // not resumable
        "mov rsp, [rbp]",
        "pop rbp",
        "ret",
        code = const offset_of!(Activation, code),
        ctx = const offset_of!(Activation, ctx),
        args = const offset_of!(Activation, args),
        entry = const offset_of!(Activation, entry),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// The body of a swap. On entry `rdi` points to a block whose first word is the store (a vmctx or a host record) and
/// the call's operands are in registers. `$call` is the call; it keeps `rbp`.
macro_rules! swap {
    ($call:literal, $save_fuel:literal, $load_fuel:literal, $($operands:tt)*) => {
        naked_asm!(
            ".cfi_startproc",
            "push rbp",
            ".cfi_def_cfa rsp, 16",
            ".cfi_offset rbp, -16",
            "mov rbp, rsp", // the frame record of invariant 3
            ".cfi_def_cfa_register rbp",
            "push rdi",     // where the store is found again afterwards
            "mov rax, [rdi]",
            $save_fuel,
            "mov [rax + {guest_fp}], rbp",
            "mov rcx, [rax + {link}]",
            "mov rsp, [rcx]", // the host's stack is live from here
            "sub rsp, 8",     // P is 8 mod 16
            // CFA is P + 24; return address, rbp and rbx of the resumer lie at P + 8, P and P + 16.
            ".cfi_remember_state",
            ".cfi_def_cfa rsp, 32",
            ".cfi_offset rip, -16",
            ".cfi_offset rbp, -24",
            ".cfi_offset rbx, -8",
            $call,
            "lea rsp, [rbp - 8]", // back on the guest's stack
            ".cfi_restore_state",
            "test eax, eax",
            "jnz 2f",
            $load_fuel,
            "mov rsp, rbp",
            "pop rbp",
            "ret",
            "2:",
            "mov rsi, [rbp - 8]",
            "mov rsi, [rsi]",
            "mov rcx, [rsi + {link}]",
            "cmp eax, {unwind}",
            "je 5f",
            "cmp eax, {suspend}",
            "jne 3f",
            // Park: what the guest expects to find again, then the address to go on at.
            "push rbx", "push r12", "push r13", "push r14", "push r15",
            "lea rdx, [rip + 4f]",
            "push rdx",
            "mov rdx, rsp",
            "mov rsp, [rcx]",
            "pop rbp",
            "ret",
            parking_prelude_x86_64!(),
            "4:", // resumed: rsp is just above the address; the results are in the slots
            "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx",
            "lea rbp, [rsp + 8]",
            $load_fuel,
            "mov rsp, rbp",
            "pop rbp",
            "ret",
            "3:", // leave for good; eax says how
            "xor edx, edx",
            "mov rsp, [rcx]",
            "pop rbp",
            "ret",
            "5:", // to the handler of an exception, rsi being the store; frames below it are gone
            $load_fuel,
            "mov rax, [rsi + {unwind_exception}]",
            "mov rcx, [rsi + {unwind_pc}]",
            "mov rsp, [rsi + {unwind_sp}]",
            "mov rbp, [rsi + {unwind_fp}]",
            "xor edx, edx",
            "jmp rcx",
            ".cfi_endproc",
            unwind = const UNWIND,
            unwind_pc = const offset_of!(VMStoreContext, unwind_pc),
            unwind_sp = const offset_of!(VMStoreContext, unwind_sp),
            unwind_fp = const offset_of!(VMStoreContext, unwind_fp),
            unwind_exception = const offset_of!(VMStoreContext, unwind_exception),
            guest_fp = const offset_of!(VMStoreContext, guest_fp),
            link = const offset_of!(VMStoreContext, link),
            suspend = const SUSPEND,
            $($operands)*
        )
    };
}

/// Where a guest that was parked in a swap goes on when its host function ended with an exception that the guest catches. The
/// stack is as at "resumed" there.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "sysv64" fn unwind_parked() {
    naked_asm!(
        parking_prelude_x86_64!(),
        "mov rsi, [rsp + 40]", // behind five registers: the vmctx or record
        "mov rsi, [rsi]",
        "mov r15, [rsi + {fuel}]", // without fuel r15 is nothing: a call that throws keeps no register
        "mov rax, [rsi + {unwind_exception}]",
        "mov rcx, [rsi + {unwind_pc}]",
        "mov rsp, [rsi + {unwind_sp}]",
        "mov rbp, [rsi + {unwind_fp}]",
        "xor edx, edx",
        "jmp rcx",
        fuel = const offset_of!(VMStoreContext, fuel),
        unwind_pc = const offset_of!(VMStoreContext, unwind_pc),
        unwind_sp = const offset_of!(VMStoreContext, unwind_sp),
        unwind_fp = const offset_of!(VMStoreContext, unwind_fp),
        unwind_exception = const offset_of!(VMStoreContext, unwind_exception),
    )
}

/// `rdi`: the host record, `rsi`: the slots. Comes back only when the host function succeeded.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn host_call_plain() {
    swap!("call [rdi + {shim}]", "", "", shim = const offset_of!(HostRecord, shim),)
}

/// As [`host_call_plain`]; the slice in r15 is in the store meanwhile, where the host may change it.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn host_call_metered() {
    swap!(
        "call [rdi + {shim}]",
        "mov [rax + {fuel}], r15",
        "mov rcx, [rbp - 8]\nmov rcx, [rcx]\nmov r15, [rcx + {fuel}]",
        shim = const offset_of!(HostRecord, shim),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// `rdi`: the vmctx, `rsi`: the slots, `edx`: the number of the operation.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn builtin_call_plain() {
    swap!("call {dispatch}", "", "", dispatch = sym dispatch,)
}

/// As [`builtin_call_plain`], with the fuel slice in the store meanwhile.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn builtin_call_metered() {
    swap!(
        "call {dispatch}",
        "mov [rax + {fuel}], r15",
        "mov rcx, [rbp - 8]\nmov rcx, [rcx]\nmov r15, [rcx + {fuel}]",
        dispatch = sym dispatch,
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// Where an image's trap stubs jump: `eax` is the trap's number, the word at `rsp` names the site, `rbp` is the frame.
///
/// Leaves the guest for good. The stack pointer alone says which store this is.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "sysv64" fn raise() {
    naked_asm!(
        "mov edi, eax",
        "pop rsi",
        "mov rax, rsp",
        "lea r8, [rip + 2f]",
        "jmp {find_slot}", // no stack, keeps rdi and rsi; the slot's header in rax
        "2:",
        "mov rax, [rax]", // the owner: the store
        "mov [rax + {trap_code}], edi",
        "mov [rax + {trap_pc}], rsi",
        "mov [rax + {trap_fp}], rbp",
        "mov [rax + {trap_fuel}], r15",
        "mov rcx, [rax + {link}]",
        "mov eax, {exit_trap}",
        "xor edx, edx",
        "mov rsp, [rcx]",
        "pop rbp",
        "ret",
        find_slot = sym find_slot_asm,
        trap_code = const offset_of!(VMStoreContext, trap_code),
        trap_pc = const offset_of!(VMStoreContext, trap_pc),
        trap_fp = const offset_of!(VMStoreContext, trap_fp),
        trap_fuel = const offset_of!(VMStoreContext, trap_fuel),
        link = const offset_of!(VMStoreContext, link),
        exit_trap = const EXIT_TRAP,
    )
}

/// Where a signal handler sends a guest that faulted: `rsp = rbp = link` (`setup_trap_trampoline_raw`).
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "sysv64" fn trap_exit() {
    naked_asm!(
        "mov eax, {exit_trap}",
        "xor edx, edx",
        "mov rsp, [rsp]",
        "pop rbp",
        "ret",
        exit_trap = const EXIT_TRAP,
    )
}

/// Where an image's fuel stub jumps when the slice in r15 is used up: refills it on the host's stack.
///
/// Keeps every register but r15 and the flags. Cranelift keeps values in xmm registers only, 128 bits each.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "sysv64" fn fuel_check() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa rsp, 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rax", "push rcx", "push rdx", "push rsi", "push rdi",
        "push r8", "push r9", "push r10", "push r11",
        "push rbx", "push r12", "push r13", "push r14",
        "sub rsp, 0x108", // sixteen xmm registers and a word that keeps the stack 16-aligned or not: movups
        "movups [rsp], xmm0", "movups [rsp + 0x10], xmm1",
        "movups [rsp + 0x20], xmm2", "movups [rsp + 0x30], xmm3",
        "movups [rsp + 0x40], xmm4", "movups [rsp + 0x50], xmm5",
        "movups [rsp + 0x60], xmm6", "movups [rsp + 0x70], xmm7",
        "movups [rsp + 0x80], xmm8", "movups [rsp + 0x90], xmm9",
        "movups [rsp + 0xa0], xmm10", "movups [rsp + 0xb0], xmm11",
        "movups [rsp + 0xc0], xmm12", "movups [rsp + 0xd0], xmm13",
        "movups [rsp + 0xe0], xmm14", "movups [rsp + 0xf0], xmm15",
        "mov rax, rsp",
        "lea r8, [rip + 2f]",
        "jmp {find_slot}",
        "2:",
        "mov rbx, [rax]", // the store
        "mov r12, rsp",
        "mov [rbx + {fuel}], r15",
        "mov [rbx + {guest_fp}], rbp",
        "mov rcx, [rbx + {link}]",
        "mov rsp, [rcx]",
        "sub rsp, 8",
        ".cfi_remember_state",
        ".cfi_def_cfa rsp, 32", // as in a swap
        ".cfi_offset rip, -16",
        ".cfi_offset rbp, -24",
        ".cfi_offset rbx, -8",
        "mov rdi, rbx",
        "mov rsi, [rbp + 8]", // the site
        "mov rdx, [rbp]",     // and the frame it lies in
        "call {refill}",
        "mov rsp, r12",
        ".cfi_restore_state",
        "test eax, eax",
        "jnz 3f",
        "5:",
        "mov r15, [rbx + {fuel}]",
        "movups xmm0, [rsp]", "movups xmm1, [rsp + 0x10]",
        "movups xmm2, [rsp + 0x20]", "movups xmm3, [rsp + 0x30]",
        "movups xmm4, [rsp + 0x40]", "movups xmm5, [rsp + 0x50]",
        "movups xmm6, [rsp + 0x60]", "movups xmm7, [rsp + 0x70]",
        "movups xmm8, [rsp + 0x80]", "movups xmm9, [rsp + 0x90]",
        "movups xmm10, [rsp + 0xa0]", "movups xmm11, [rsp + 0xb0]",
        "movups xmm12, [rsp + 0xc0]", "movups xmm13, [rsp + 0xd0]",
        "movups xmm14, [rsp + 0xe0]", "movups xmm15, [rsp + 0xf0]",
        "add rsp, 0x108",
        "pop r14", "pop r13", "pop r12", "pop rbx",
        "pop r11", "pop r10", "pop r9", "pop r8",
        "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rax",
        "pop rbp",
        "ret",
        "3:",
        "mov rcx, [rbx + {link}]",
        "xor edx, edx",
        "cmp eax, {suspend}",
        "jne 4f",
        "push rbx",
        "lea rdx, [rip + 6f]",
        "push rdx",
        "mov rdx, rsp",
        "4:",
        "mov rsp, [rcx]",
        "pop rbp",
        "ret",
        parking_prelude_x86_64!(),
        "6:", // resumed
        "pop rbx",
        "lea rbp, [rsp + 0x170]", // 0x108 and thirteen registers below the frame record
        "jmp 5b",
        ".cfi_endproc",
        find_slot = sym find_slot_asm,
        refill = sym refill,
        fuel = const offset_of!(VMStoreContext, fuel),
        guest_fp = const offset_of!(VMStoreContext, guest_fp),
        link = const offset_of!(VMStoreContext, link),
        suspend = const SUSPEND,
    )
}
