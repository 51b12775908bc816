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
//! *Returns as the processor predicts them.* It keeps a stack of the addresses that calls have pushed, which parking upsets: the guest's
//! call is on it above the resumer's, and goes on only after the resumer has returned. So who parks takes the guest's address off first,
//! by a return to the next instruction, the one wrong guess that there has to be; the return to the resumer is right then. And who
//! is resumed goes on in the guest by a jump, so that the resumer's address stays where it is.
//!
//! Not saved: MXCSR and the x87 control word. Guests cannot change them.

use super::{EXIT_TRAP, SUSPEND, UNWIND, Values};
use crate::vm::activation::Entry;
use crate::vm::builtins::dispatch;
use crate::vm::fuel::refill;
use crate::vm::store::VMStoreContext;
use crate::vm::vmctx::HostRecord;
use fibers::parking_prelude_x86_64;
use fibers::pool::find_slot_asm;
use std::arch::{asm, naked_asm};
use std::io;
use std::mem::{MaybeUninit, offset_of};

/// The most that is kept below the frame record that `guest_fp` names. A swap keeps ten words and eight more when it parks, at most; a
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

/// Where [`in_a_line`] starts.
const LINE_BYTES: usize = 1 << 6;

/// The stack swap that import trampolines call.
pub(crate) fn host_call(fuel: bool) -> *const u8 {
    in_a_line(match fuel {
        true => host_call_metered as *const u8,
        false => host_call_plain as *const u8,
    })
}

/// The stack swap that guest code calls itself, without a trampoline, where the values allow it.
pub(crate) fn import(fuel: bool, values: Values) -> Option<*const u8> {
    let function = match (values, fuel) {
        (Values::Slots, _) => return None,
        (Values::Registers, false) => import_plain as *const u8,
        (Values::Registers, true) => import_metered as *const u8,
        (Values::Spilled, false) => import_spilled_plain as *const u8,
        (Values::Spilled, true) => import_spilled_metered as *const u8,
    };
    Some(in_a_line(function))
}

/// The stack swap through which guest code calls built-in operations.
pub(crate) fn builtin_call(fuel: bool) -> *const u8 {
    in_a_line(match fuel {
        true => builtin_call_metered as *const u8,
        false => builtin_call_plain as *const u8,
    })
}

/// Where the code of a stack swap begins: at the first cache line from the function's address on. What lies before are `nop`s that nobody
/// runs. Else it is the linker that decides whether a call of the host takes a cycle more, a tenth of it.
fn in_a_line(swap: *const u8) -> *const u8 {
    swap.map_addr(|address| address.next_multiple_of(LINE_BYTES))
}

/// Where a new activation starts behind the parking prelude, with `rsp = link` and `rdi` its [`Activation`](crate::vm::activation::Activation).
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
        code = const offset_of!(Entry, code),
        ctx = const offset_of!(Entry, ctx),
        args = const offset_of!(Entry, args),
        entry = const offset_of!(Entry, entry),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// Bytes that a swap with slots of its own has for them and for alignment, below the word that names the store.
const SLOTS_BYTES: usize = 72;

/// [`guest_start`] for an activation with slots of its own and a function of few integers in an engine without fuel: no entry trampoline.
/// The slots begin at the base; up to four are read, whatever they hold, and the result goes into the first.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "sysv64" fn guest_start_few() {
    naked_asm!(
        parking_prelude_x86_64!(),
        "mov rbp, rsp",
        "mov rax, [rdi + {code}]",
        "mov rdi, [rdi + {ctx}]",
        "mov rsi, [rbp + 16]",
        "mov rdx, [rbp + 32]",
        "mov rcx, [rbp + 48]",
        "mov r8, [rbp + 64]",
        "call rax",
        "mov [rbp + 16], rax",
        "xor eax, eax", // DONE
        "xor edx, edx",
        "mov rsp, [rbp]",
        "pop rbp",
        "ret",
        code = const offset_of!(Entry, code),
        ctx = const offset_of!(Entry, ctx),
    )
}

/// Where [`call_few`] goes: parks the parent at the link `rax`, calls `r9`, comes back with [`super::DONE`] and the result.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn guest_few() {
    naked_asm!(
        "push rbp",
        "mov [rax], rsp", // P: the parent is parked from here
        // Guest code keeps rbx and r12, and it does not park: the way back needs nothing from memory, which would be what one call
        // after the other waits for.
        "lea rbx, [rsp + 8]",
        "mov r12, rbp",
        "mov rsp, rax",
        "mov rbp, rax", // the frame record {P, address in the thunk}
        "call r9",
        "mov rsp, rbx",
        "mov rbp, r12",
        "mov rdx, rax",
        "xor eax, eax", // DONE
        "ret",
    )
}

/// As in `fibers`: its address makes the compiler address the frame around inlined assembly, and describe it, by rbp.
#[repr(align(32))]
struct FrameAnchor(#[expect(dead_code, reason = "only its place counts")] [u8; 32]);

/// Calls a guest's function of few integers on the stack below `link`, in an engine without fuel. Comes back with a word, as from a resume, and
/// if that is [`super::DONE`] with the result.
///
/// # Safety
/// `link` is the 16-aligned address of a parent link, `VMStoreContext::link` of the store whose guest it is, which may run on the stack
/// below; `code`, `context` and `values` are those of one of its functions ([`selvedge_compiler::layout::is_few_integers`]). It
/// never parks.
#[inline(always)]
pub(crate) unsafe fn call_few(
    link: usize,
    code: *const u8,
    context: *mut u8,
    values: [u64; 4],
) -> (u64, u64) {
    let (word, result);
    let anchor = MaybeUninit::<FrameAnchor>::uninit();
    let [a, b, c, d] = values;
    // SAFETY: the caller's promise. Every register that guest code or a host function may change is named; rbx and rbp are
    // put back by the guest's way out, as after a resume.
    unsafe {
        asm!(
            "push rbx # {anchor}",
            "call {guest_few}",
            "pop rbx",
            guest_few = sym guest_few,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("rax") link => word,
            inlateout("rdi") context => _,
            inlateout("rsi") a => _,
            inlateout("rdx") b => result,
            inlateout("rcx") c => _,
            inlateout("r8") d => _,
            inlateout("r9") code => _,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
    (word, result)
}

/// The body of a swap. On entry `rdi` points to a block whose first word is the store (a vmctx or a host record) and
/// the call's operands are in registers. `$before` stores what the host is to find; `$call` is the call and keeps `rbp`. `$make_room` and
/// `$drop_room` keep what lies below the word that names the store out of the way of what a park saves; `$result` and, for a call that was parked,
/// `$parked_result` load the result.
macro_rules! swap {
    ($call:literal, $before:literal, $load_fuel:literal, $result:literal,
     $make_room:literal, $drop_room:literal, $parked_result:literal, $($operands:tt)*) => {
        naked_asm!(
            ".p2align 6", // `LINE_BYTES`
            ".cfi_startproc",
            "push rbp",
            ".cfi_def_cfa rsp, 16",
            ".cfi_offset rbp, -16",
            "mov rbp, rsp", // the frame record of invariant 3
            ".cfi_def_cfa_register rbp",
            "push rdi",     // where the store is found again afterwards
            "mov rax, [rdi]",
            $before, // while the guard is the guest's
            "mov [rax + {guest_fp}], rbp",
            "mov r10, [rax + {link}]",
            "mov rsp, [r10]", // the host's stack is live from here
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
            $result,
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
            // Park. First the guest's call, which the processor expects to return.
            "lea rdx, [rip + 6f]",
            "push rdx",
            "ret",
            "6:",
            // What the guest expects to find again, then the address to go on at.
            $make_room,
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
            $drop_room,
            "lea rbp, [rsp + 8]",
            $load_fuel,
            $parked_result,
            "mov rsp, rbp",
            "pop rbp",
            "pop rcx", // no call of a host function brings a result there
            "jmp rcx",
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
    swap!(
        "call [rdi + {shim}]",
        "",
        "",
        "",
        "",
        "",
        "",
        shim = const offset_of!(HostRecord, shim),
    )
}

/// As [`host_call_plain`]; the slice in r15 is in the store meanwhile, where the host may change it.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn host_call_metered() {
    swap!(
        "call [rdi + {shim}]",
        "mov [rax + {fuel}], r15",
        "mov rcx, [rbp - 8]\nmov rcx, [rcx]\nmov r15, [rcx + {fuel}]",
        "",
        "",
        "",
        "",
        shim = const offset_of!(HostRecord, shim),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// A swap for few integers, which guest code calls itself ([`selvedge_compiler::layout::is_few_integers`]): `$call` finds four parameters in
/// rsi, rdx, rcx and r8, and leaves the result in rdx.
///
/// Four slots lie below the word that names the store: `[rbp - 80]` and up. What parks finds its result in the first of them.
macro_rules! register_swap {
    ($call:literal, $before:literal, $load_fuel:literal, $($operands:tt)*) => {
        swap!(
            $call,
            $before,
            $load_fuel,
            "mov rax, rdx",
            // Below the slots the word that names the store once more: `unwind_parked` looks for it there.
            "sub rsp, {slots_bytes}\npush qword ptr [rbp - 8]",
            "add rsp, {slots_bytes} + 8",
            "mov rax, [rbp - 80]",
            slots_bytes = const SLOTS_BYTES,
            $($operands)*
        )
    };
}

/// `rdi`: the host record, then up to four values. Comes back only when the host function succeeded, with its result in `rax`.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn import_plain() {
    register_swap!(
        "lea r9, [rbp - 80]\ncall [rdi + {shim}]",
        "",
        "",
        shim = const offset_of!(HostRecord, shim),
    )
}

/// As [`import_plain`], with the fuel slice in the store meanwhile.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn import_metered() {
    register_swap!(
        "lea r9, [rbp - 80]\ncall [rdi + {shim}]",
        "mov [rax + {fuel}], r15",
        "mov rcx, [rbp - 8]\nmov rcx, [rcx]\nmov r15, [rcx + {fuel}]",
        shim = const offset_of!(HostRecord, shim),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// As [`import_plain`], for a shim that wants slots.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn import_spilled_plain() {
    register_swap!(
        "lea rsi, [rbp - 80]\ncall [rdi + {shim}]\nmov rdx, [rbp - 80]",
        "mov [rbp - 80], rsi\nmov [rbp - 64], rdx\nmov [rbp - 48], rcx\nmov [rbp - 32], r8",
        "",
        shim = const offset_of!(HostRecord, shim),
    )
}

/// As [`import_spilled_plain`], with the fuel slice in the store meanwhile.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn import_spilled_metered() {
    register_swap!(
        "lea rsi, [rbp - 80]\ncall [rdi + {shim}]\nmov rdx, [rbp - 80]",
        "mov [rbp - 80], rsi\nmov [rbp - 64], rdx\nmov [rbp - 48], rcx\nmov [rbp - 32], r8\nmov [rax + {fuel}], r15",
        "mov rcx, [rbp - 8]\nmov rcx, [rcx]\nmov r15, [rcx + {fuel}]",
        shim = const offset_of!(HostRecord, shim),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// `rdi`: the vmctx, `rsi`: the slots, `edx`: the number of the operation.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn builtin_call_plain() {
    swap!(
        "call {dispatch}",
        "",
        "",
        "",
        "",
        "",
        "",
        dispatch = sym dispatch,
    )
}

/// As [`builtin_call_plain`], with the fuel slice in the store meanwhile.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "sysv64" fn builtin_call_metered() {
    swap!(
        "call {dispatch}",
        "mov [rax + {fuel}], r15",
        "mov rcx, [rbp - 8]\nmov rcx, [rcx]\nmov r15, [rcx + {fuel}]",
        "",
        "",
        "",
        "",
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
/// Keeps every register but r15 and the flags. Cranelift keeps values in xmm registers only, 128 bits each; `$save` and `$restore` are
/// those, in `$bytes` below the thirteen others.
macro_rules! fuel_check {
    ($bytes:literal, [$($save:literal),*], [$($restore:literal),*]) => {
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
            "sub rsp, {bytes}",
            $($save,)*
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
            "mov r15, [rbx + {fuel}]",
            $($restore,)*
            "add rsp, {bytes}",
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
            // Park: as in a swap.
            "lea rdx, [rip + 5f]",
            "push rdx",
            "ret",
            "5:",
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
            "mov r15, [rbx + {fuel}]",
            $($restore,)*
            "add rsp, {bytes}",
            "pop r14", "pop r13", "pop r12", "pop rbx",
            "pop r11", "pop r10", "pop r9", "pop r8",
            "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rax",
            "pop rbp",
            // A jump with no register to spare: the word below the stack pointer is in the red zone, which signals leave alone
            // (System V ABI, 3.2.2).
            "lea rsp, [rsp + 8]",
            "jmp [rsp - 8]",
            ".cfi_endproc",
            bytes = const $bytes,
            find_slot = sym find_slot_asm,
            refill = sym refill,
            fuel = const offset_of!(VMStoreContext, fuel),
            guest_fp = const offset_of!(VMStoreContext, guest_fp),
            link = const offset_of!(VMStoreContext, link),
            suspend = const SUSPEND,
        )
    };
}

/// The fuel check of functions in which no value is in a vector register.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "sysv64" fn fuel_check_integers() {
    fuel_check!(0, [], [])
}

/// The fuel check of any function.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "sysv64" fn fuel_check() {
    fuel_check!(
        0x108, // sixteen of them and a word; the stack may be 16-aligned or not: movups
        [
            "movups [rsp], xmm0",
            "movups [rsp + 0x10], xmm1",
            "movups [rsp + 0x20], xmm2",
            "movups [rsp + 0x30], xmm3",
            "movups [rsp + 0x40], xmm4",
            "movups [rsp + 0x50], xmm5",
            "movups [rsp + 0x60], xmm6",
            "movups [rsp + 0x70], xmm7",
            "movups [rsp + 0x80], xmm8",
            "movups [rsp + 0x90], xmm9",
            "movups [rsp + 0xa0], xmm10",
            "movups [rsp + 0xb0], xmm11",
            "movups [rsp + 0xc0], xmm12",
            "movups [rsp + 0xd0], xmm13",
            "movups [rsp + 0xe0], xmm14",
            "movups [rsp + 0xf0], xmm15"
        ],
        [
            "movups xmm0, [rsp]",
            "movups xmm1, [rsp + 0x10]",
            "movups xmm2, [rsp + 0x20]",
            "movups xmm3, [rsp + 0x30]",
            "movups xmm4, [rsp + 0x40]",
            "movups xmm5, [rsp + 0x50]",
            "movups xmm6, [rsp + 0x60]",
            "movups xmm7, [rsp + 0x70]",
            "movups xmm8, [rsp + 0x80]",
            "movups xmm9, [rsp + 0x90]",
            "movups xmm10, [rsp + 0xa0]",
            "movups xmm11, [rsp + 0xb0]",
            "movups xmm12, [rsp + 0xc0]",
            "movups xmm13, [rsp + 0xd0]",
            "movups xmm14, [rsp + 0xe0]",
            "movups xmm15, [rsp + 0xf0]"
        ]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_begin_in_a_line_of_their_own() {
        let imports =
            [Values::Registers, Values::Spilled].map(|values| [false, true].map(|fuel| import(fuel, values)));
        let swaps = [false, true].map(|fuel| [Some(host_call(fuel)), Some(builtin_call(fuel))]);
        for start in imports.into_iter().chain(swaps).flatten().flatten() {
            assert!(start.addr().is_multiple_of(LINE_BYTES));
            // SAFETY: code of this program can be read.
            let first = unsafe { start.read() };
            assert_eq!(first, 0x55, "push rbp");
        }
    }
}
