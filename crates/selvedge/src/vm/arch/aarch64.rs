//! Between the guest's stack and the host's on aarch64 (AAPCS64).
//!
//! The switch itself, the parent link and the saved context of a parked parent are those of `fibers`
//! (`fibers::raw` documents the layout). An activation's piece of the guest stack looks like this:
//!
//! ```text
//!   base      -> +------------------------+ the Activation, then its argument slots (async calls)
//!   base-0x08    | address in the thunk   | what a frame-pointer walk takes for the return address
//!   base-0x10    | parent link: P         | <- `link`, x29 of `guest_start`
//!                ~ guest frames           ~
//!                | x29, x30               | <- x29 of `host_call`, `guest_fp` of the store
//!                | pad, x0: vmctx or record |
//!                ~ free                   ~
//!
//!   the host's stack while the guest runs, low to high
//!   P -> x29, x30, x19, pad, then the frame of whoever resumed the guest; below P is free
//! ```
//!
//! A *swap* borrows the host's stack: it takes P from the parent link for its stack pointer, calls, and goes back by x29. No
//! context is saved, and every `bl` meets its `ret`.
//!
//! Invariants
//! 1. While the guest runs, `VMStoreContext::link` is the address of the running activation's parent link, and
//!    the word there is the P of whoever resumed it last.
//! 2. Everything here lies in the section `selvedge_text`, so that a fault on the guest's stack inside it is known
//!    as the guest's overflow ([`crate::vm::signals`]). Nothing here is called on the guest's stack but by guest code.
//! 3. While a swap runs the host, x29 holds the guest's frame record: the frame-pointer chain goes through the guest, the
//!    CFI leads straight to the host frame that resumed it (CFA = P + 32, the resumer's stack pointer).
//! 4. x21 is the fuel slice while a metered guest runs and an ordinary callee-saved register elsewhere.
//! 5. Guest code keeps nothing in x16 and x17 across a call, and never touches x18, which is the platform's.
//!
//! Not saved: FPCR and FPSR. Guests cannot change the first; nobody reads the second.
//!
//! Guest code neither signs return addresses nor marks branch targets: its pages are not mapped with PROT_BTI. What it branches
//! to here starts with `bti` all the same, so that a host that is protected may contain it.

use super::{EXIT_TRAP, SUSPEND, UNWIND, Values};
use crate::vm::activation::Entry;
use crate::vm::builtins::dispatch;
use crate::vm::fuel::refill;
use crate::vm::store::VMStoreContext;
use crate::vm::vmctx::HostRecord;
use fibers::parking_prelude_aarch64;
use fibers::pool::find_slot_asm;
use std::arch::{asm, naked_asm};
use std::io;
use std::mem::{MaybeUninit, offset_of};

/// The most that is kept below the frame record that `guest_fp` names. A swap keeps ten words, and when it parks twenty-two more, at
/// most; a fuel check 720 bytes of registers, and four words when it parks.
pub(crate) const EXIT_BYTES: usize = 720 + 32;

/// The stack pointer, to compare depths with.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let sp: usize;
    // SAFETY: copies a register; touches neither memory nor stack nor flags.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// Makes what was written to these bytes what every thread executes there. They are mapped and readable.
///
/// Arm Architecture Reference Manual, "Concurrent modification and execution of instructions": clean the data cache and
/// invalidate the instruction cache to where both meet, by lines, for all processors; then each thread has to synchronise its
/// context, which the kernel makes those do that run right now.
///
/// # Errors
/// When the kernel does not offer that.
pub(crate) fn make_instructions_visible(start: usize, bytes: usize) -> io::Result<()> {
    /// MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE and its registration: linux/membarrier.h, since 4.16.
    const SYNC_CORE: libc::c_int = 1 << 5;
    const REGISTER_SYNC_CORE: libc::c_int = 1 << 6;
    membarrier(REGISTER_SYNC_CORE)?;
    let sizes: u64;
    // SAFETY: copies a register that Linux lets programs read.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) sizes, options(nomem, nostack, preserves_flags)) };
    // The logarithms of the lines' lengths, in words of 4 bytes.
    let (data, instructions) = (4usize << (sizes >> 16 & 15), 4usize << (sizes & 15));
    for line in (start & !(data - 1)..start + bytes).step_by(data) {
        // SAFETY: the line holds bytes that are mapped; cleaning it changes none.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    for line in (start & !(instructions - 1)..start + bytes).step_by(instructions) {
        // SAFETY: as above.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
    membarrier(SYNC_CORE)
}

fn membarrier(command: libc::c_int) -> io::Result<()> {
    // SAFETY: takes integers: membarrier(2); none of the two commands changes what Rust sees.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The stack swap that import trampolines call.
pub(crate) fn host_call(fuel: bool) -> *const u8 {
    if fuel {
        host_call_metered as *const u8
    } else {
        host_call_plain as *const u8
    }
}

/// The stack swap that guest code calls itself, without a trampoline, where the values allow it.
pub(crate) fn import(fuel: bool, values: Values) -> Option<*const u8> {
    match (values, fuel) {
        (Values::Slots, _) => None,
        (Values::Registers, false) => Some(import_plain as *const u8),
        (Values::Registers, true) => Some(import_metered as *const u8),
        (Values::Spilled, false) => Some(import_spilled_plain as *const u8),
        (Values::Spilled, true) => Some(import_spilled_metered as *const u8),
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

/// Leaves the guest: goes on at the parent that is parked at the P of the link to which `$link` points (invariant 1), with what `x0`,
/// `x1` and `x2` hold.
macro_rules! leave {
    ($link:literal) => {
        concat!(
            "ldr x10, [",
            $link,
            "]\n",
            "mov sp, x10\n", // P: the host's stack is live from here
            "ldp x29, x30, [sp], #16\n",
            "ret"
        )
    };
}

/// Where a new activation starts behind the parking prelude, with `sp = link` and `x0` its [`Activation`](crate::vm::activation::Activation).
///
/// Calls the entry trampoline with (code, context, slots) and goes back to the parent with [`super::DONE`].
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "C" fn guest_start() {
    naked_asm!(
        parking_prelude_aarch64!(),
        "mov x29, sp", // the frame record {P, address in the thunk}
        "mov x9, x0",
        "ldr x0, [x9, #{code}]",
        "ldr x1, [x9, #{ctx}]",
        "ldr x2, [x9, #{args}]",
        // The entry trampoline loads the slice too, but may run out of stack before: then this is what is left.
        "ldr x10, [x1]",
        "ldr x21, [x10, #{fuel}]",
        "ldr x9, [x9, #{entry}]",
        "blr x9",
        "mov x0, #0", // DONE
        "mov x2, #0", // not resumable
        leave!("x29"),
        code = const offset_of!(Entry, code),
        ctx = const offset_of!(Entry, ctx),
        args = const offset_of!(Entry, args),
        entry = const offset_of!(Entry, entry),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// [`guest_start`] for an activation with slots of its own and a function of few integers in an engine without fuel: no entry trampoline.
/// The slots begin at the base; up to four are read, whatever they hold, and the result goes into the first.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "C" fn guest_start_few() {
    naked_asm!(
        parking_prelude_aarch64!(),
        "mov x29, sp", // the frame record {P, address in the thunk}; the base is 16 above
        "ldr x9, [x0, #{code}]",
        "ldr x2, [x0, #{ctx}]",
        "ldr x3, [x29, #16]",
        "ldr x4, [x29, #32]",
        "ldr x5, [x29, #48]",
        "ldr x6, [x29, #64]",
        "blr x9",
        "str x2, [x29, #16]",
        "mov x0, #0", // DONE
        "mov x2, #0",
        leave!("x29"),
        code = const offset_of!(Entry, code),
        ctx = const offset_of!(Entry, ctx),
    )
}

/// Where [`call_few`] goes: parks the parent at the link `x1`, calls `x0`, comes back with [`super::DONE`] and the result.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "C" fn guest_few() {
    naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "mov x9, sp",
        "str x9, [x1]", // P: the parent is parked from here
        "mov sp, x1",
        "mov x29, x1", // the frame record {P, address in the thunk}
        "blr x0",
        "mov x1, x2",
        "mov x0, #0", // DONE
        leave!("x29"),
    )
}

/// As in `fibers`: its address makes the compiler address the frame around inlined assembly, and describe it, by x29.
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
    // SAFETY: the caller's promise. Every register that guest code or a host function may change is named; x19 and x29 are
    // put back by the guest's way out, as after a resume.
    unsafe {
        asm!(
            "str x19, [sp, #-16]! // {anchor}", // reserved by the compiler, so it cannot be a clobber
            "bl {guest_few}",
            "ldr x19, [sp], #16",
            guest_few = sym guest_few,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("x0") code => word,
            inlateout("x1") link => result,
            inlateout("x2") context => _,
            inlateout("x3") a => _,
            inlateout("x4") b => _,
            inlateout("x5") c => _,
            inlateout("x6") d => _,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _, lateout("x24") _,
            lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    (word, result)
}

/// The body of a swap. After `$block`, `x0` points to a block whose first word is the store (a vmctx or a host record) and
/// the call's operands are in registers. `$before` stores what the host is to find; `$call` is the call and keeps `x29`. `$result` loads
/// the result. `$make_room` keeps what lies below the word that names the store out of the way of what a park saves; `$drop_room` undoes
/// it, and loads the result of a call that was parked.
macro_rules! swap {
    ($block:literal, $call:literal, $before:literal, $load_fuel:literal, $result:literal,
     $make_room:literal, $drop_room:literal, $($operands:tt)*) => {
        naked_asm!(
            ".cfi_startproc",
            "hint #34", // bti c
            $block,
            "stp x29, x30, [sp, #-16]!",
            ".cfi_def_cfa sp, 16",
            ".cfi_offset x30, -8",
            ".cfi_offset x29, -16",
            "mov x29, sp", // the frame record of invariant 3
            ".cfi_def_cfa_register x29",
            "stp xzr, x0, [sp, #-16]!", // where the store is found again afterwards
            "ldr x9, [x0]",
            $before, // while the guard is the guest's
            "str x29, [x9, #{guest_fp}]",
            "ldr x10, [x9, #{link}]",
            "ldr x10, [x10]",
            "mov sp, x10", // P: the host's stack is live from here
            // CFA is P + 32; x29, the return address and x19 of the resumer lie at P, P + 8 and P + 16.
            ".cfi_remember_state",
            ".cfi_def_cfa sp, 32",
            ".cfi_offset x30, -24",
            ".cfi_offset x29, -32",
            ".cfi_offset x19, -16",
            $call,
            "sub sp, x29, #16", // back on the guest's stack
            ".cfi_restore_state",
            "cbnz w0, 2f",
            $load_fuel,
            $result,
            "mov sp, x29",
            "ldp x29, x30, [sp], #16",
            "ret",
            "2:",
            "ldr x9, [x29, #-8]",
            "ldr x9, [x9]",
            "ldr x10, [x9, #{link}]",
            "cmp w0, #{unwind}",
            "b.eq 5f",
            "cmp w0, #{suspend}",
            "b.ne 3f",
            // Park: what the guest expects to find again, then the address to go on at.
            $make_room,
            "stp d8, d9, [sp, #-144]!",
            "stp d10, d11, [sp, #16]",
            "stp d12, d13, [sp, #32]",
            "stp d14, d15, [sp, #48]",
            "stp x19, x20, [sp, #64]",
            "stp x21, x22, [sp, #80]",
            "stp x23, x24, [sp, #96]",
            "stp x25, x26, [sp, #112]",
            "stp x27, x28, [sp, #128]",
            "adr x11, 4f",
            "str x11, [sp, #-16]!",
            "mov x2, sp",
            leave!("x10"),
            parking_prelude_aarch64!(),
            "4:", // resumed: sp is 16 bytes above the address; the results are in the slots
            "hint #36", // bti j
            "ldp d10, d11, [sp, #16]",
            "ldp d12, d13, [sp, #32]",
            "ldp d14, d15, [sp, #48]",
            "ldp x19, x20, [sp, #64]",
            "ldp x21, x22, [sp, #80]",
            "ldp x23, x24, [sp, #96]",
            "ldp x25, x26, [sp, #112]",
            "ldp x27, x28, [sp, #128]",
            "ldp d8, d9, [sp], #144",
            $drop_room,
            "add x29, sp, #16",
            $load_fuel,
            "mov sp, x29",
            "ldp x29, x30, [sp], #16",
            "ret",
            "3:", // leave for good; x0 says how
            "mov x2, #0",
            leave!("x10"),
            "5:", // to the handler of an exception; frames below it are gone
            $load_fuel,
            // x9 is the store in either case.
            "ldr x0, [x9, #{unwind_exception}]",
            "ldr x10, [x9, #{unwind_pc}]",
            "ldr x11, [x9, #{unwind_sp}]",
            "ldr x29, [x9, #{unwind_fp}]",
            "mov sp, x11",
            "mov x1, #0",
            "br x10",
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
pub(crate) unsafe extern "C" fn unwind_parked() {
    naked_asm!(
        parking_prelude_aarch64!(),
        "hint #36", // bti j
        "ldr x9, [sp, #152]", // behind eighteen registers and a word: the vmctx or record
        "ldr x9, [x9]",
        "ldr x21, [x9, #{fuel}]", // without fuel x21 is nothing: a call that throws keeps no register
        "ldr x0, [x9, #{unwind_exception}]",
        "ldr x10, [x9, #{unwind_pc}]",
        "ldr x11, [x9, #{unwind_sp}]",
        "ldr x29, [x9, #{unwind_fp}]",
        "mov sp, x11",
        "mov x1, #0",
        "br x10",
        fuel = const offset_of!(VMStoreContext, fuel),
        unwind_pc = const offset_of!(VMStoreContext, unwind_pc),
        unwind_sp = const offset_of!(VMStoreContext, unwind_sp),
        unwind_fp = const offset_of!(VMStoreContext, unwind_fp),
        unwind_exception = const offset_of!(VMStoreContext, unwind_exception),
    )
}

/// `x0`: the host record, `x1`: the slots. Comes back only when the host function succeeded.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "C" fn host_call_plain() {
    swap!(
        "",
        "ldr x10, [x0, #{shim}]\nblr x10",
        "",
        "",
        "",
        "",
        "",
        shim = const offset_of!(HostRecord, shim),
    )
}

/// As [`host_call_plain`]; the slice in x21 is in the store meanwhile, where the host may change it.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "C" fn host_call_metered() {
    swap!(
        "",
        "ldr x10, [x0, #{shim}]\nblr x10",
        "str x21, [x9, #{fuel}]",
        "ldr x9, [x29, #-8]\nldr x9, [x9]\nldr x21, [x9, #{fuel}]",
        "",
        "",
        "",
        shim = const offset_of!(HostRecord, shim),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// A swap for few integers, which guest code calls itself ([`selvedge_compiler::layout::is_few_integers`]): its block is in x2, and `$call`
/// finds four parameters in x3 to x6, and leaves the result in x1.
///
/// Four slots lie below the word that names the store: `[x29, #-80]` and up. What parks finds its result in the first of them. They are used only
/// while the stack pointer is below them or on the host's stack: there is no red zone, and a handler of the host's may run on this stack.
macro_rules! register_swap {
    ($call:literal, $before:literal, $load_fuel:literal, $($operands:tt)*) => {
        swap!(
            "mov x0, x2",
            $call,
            $before,
            $load_fuel,
            "mov x2, x1",
            // Below the slots the word that names the store once more: `unwind_parked` looks for it there.
            "ldr x11, [x29, #-8]\nsub sp, sp, #64\nstp xzr, x11, [sp, #-16]!",
            "ldr x2, [sp, #16]\nadd sp, sp, #80",
            $($operands)*
        )
    };
}

/// `x2`: the host record, then up to four values. Comes back only when the host function succeeded, with its result in `x2`.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "C" fn import_plain() {
    register_swap!(
        "mov x1, x3\nmov x2, x4\nmov x3, x5\nmov x4, x6\nsub x5, x29, #80\nldr x10, [x0, #{shim}]\nblr x10",
        "",
        "",
        shim = const offset_of!(HostRecord, shim),
    )
}

/// As [`import_plain`], with the fuel slice in the store meanwhile.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "C" fn import_metered() {
    register_swap!(
        "mov x1, x3\nmov x2, x4\nmov x3, x5\nmov x4, x6\nsub x5, x29, #80\nldr x10, [x0, #{shim}]\nblr x10",
        "str x21, [x9, #{fuel}]",
        "ldr x9, [x29, #-8]\nldr x9, [x9]\nldr x21, [x9, #{fuel}]",
        shim = const offset_of!(HostRecord, shim),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// As [`import_plain`], for a shim that wants slots.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "C" fn import_spilled_plain() {
    register_swap!(
        "sub x1, x29, #80\nldr x10, [x0, #{shim}]\nblr x10\nldr x1, [x29, #-80]",
        "sub sp, sp, #64\nstr x3, [sp]\nstr x4, [sp, #16]\nstr x5, [sp, #32]\nstr x6, [sp, #48]",
        "",
        shim = const offset_of!(HostRecord, shim),
    )
}

/// As [`import_spilled_plain`], with the fuel slice in the store meanwhile.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "C" fn import_spilled_metered() {
    register_swap!(
        "sub x1, x29, #80\nldr x10, [x0, #{shim}]\nblr x10\nldr x1, [x29, #-80]",
        "sub sp, sp, #64\nstr x3, [sp]\nstr x4, [sp, #16]\nstr x5, [sp, #32]\nstr x6, [sp, #48]\nstr x21, [x9, #{fuel}]",
        "ldr x9, [x29, #-8]\nldr x9, [x9]\nldr x21, [x9, #{fuel}]",
        shim = const offset_of!(HostRecord, shim),
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// `x0`: the vmctx, `x1`: the slots, `w2`: the number of the operation.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
unsafe extern "C" fn builtin_call_plain() {
    swap!(
        "",
        "bl {dispatch}",
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
unsafe extern "C" fn builtin_call_metered() {
    swap!(
        "",
        "bl {dispatch}",
        "str x21, [x9, #{fuel}]",
        "ldr x9, [x29, #-8]\nldr x9, [x9]\nldr x21, [x9, #{fuel}]",
        "",
        "",
        "",
        dispatch = sym dispatch,
        fuel = const offset_of!(VMStoreContext, fuel),
    )
}

/// Where an image's trap stubs branch: `w17` is the trap's number, `x30` names the site, `x29` is the frame.
///
/// Leaves the guest for good. The stack pointer alone says which store this is.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "C" fn raise() {
    naked_asm!(
        "hint #34", // bti c
        "mov x9, sp",
        "adr x16, 2f",
        "b {find_slot}", // no stack, changes x9 to x15; the slot's header in x9
        "2:",
        "hint #36",     // bti j
        "ldr x9, [x9]", // the owner: the store
        "str w17, [x9, #{trap_code}]",
        "str x30, [x9, #{trap_pc}]",
        "str x29, [x9, #{trap_fp}]",
        "str x21, [x9, #{trap_fuel}]",
        "ldr x10, [x9, #{link}]",
        "mov x0, #{exit_trap}",
        "mov x2, #0",
        leave!("x10"),
        find_slot = sym find_slot_asm,
        trap_code = const offset_of!(VMStoreContext, trap_code),
        trap_pc = const offset_of!(VMStoreContext, trap_pc),
        trap_fp = const offset_of!(VMStoreContext, trap_fp),
        trap_fuel = const offset_of!(VMStoreContext, trap_fuel),
        link = const offset_of!(VMStoreContext, link),
        exit_trap = const EXIT_TRAP,
    )
}

/// Where a signal handler sends a guest that faulted: `sp = x29 = link` (`setup_trap_trampoline_raw`).
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "C" fn trap_exit() {
    naked_asm!(
        "mov x0, #{exit_trap}",
        "mov x2, #0",
        leave!("x29"),
        exit_trap = const EXIT_TRAP,
    )
}

/// There is one for every function.
pub(crate) use fuel_check as fuel_check_integers;

/// Where an image's fuel stub branches when the slice in x21 is used up: refills it on the host's stack.
///
/// Keeps every register but x16, x17 (invariant 5), x21 and the flags, vectors with all their 128 bits.
#[unsafe(naked)]
#[unsafe(link_section = "selvedge_text")]
pub(crate) unsafe extern "C" fn fuel_check() {
    naked_asm!(
        ".cfi_startproc",
        "hint #34", // bti c
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa sp, 16",
        ".cfi_offset x30, -8",
        ".cfi_offset x29, -16",
        "mov x29, sp",
        ".cfi_def_cfa_register x29",
        "sub sp, sp, #720", // thirteen pairs, and thirty-two vectors
        "stp x0, x1, [sp]", "stp x2, x3, [sp, #16]",
        "stp x4, x5, [sp, #32]", "stp x6, x7, [sp, #48]",
        "stp x8, x9, [sp, #64]", "stp x10, x11, [sp, #80]",
        "stp x12, x13, [sp, #96]", "stp x14, x15, [sp, #112]",
        "stp x19, x20, [sp, #128]", "stp x22, x23, [sp, #144]",
        "stp x24, x25, [sp, #160]", "stp x26, x27, [sp, #176]",
        "str x28, [sp, #192]",
        "add x9, sp, #208",
        "stp q0, q1, [x9]", "stp q2, q3, [x9, #32]",
        "stp q4, q5, [x9, #64]", "stp q6, q7, [x9, #96]",
        "stp q8, q9, [x9, #128]", "stp q10, q11, [x9, #160]",
        "stp q12, q13, [x9, #192]", "stp q14, q15, [x9, #224]",
        "stp q16, q17, [x9, #256]", "stp q18, q19, [x9, #288]",
        "stp q20, q21, [x9, #320]", "stp q22, q23, [x9, #352]",
        "stp q24, q25, [x9, #384]", "stp q26, q27, [x9, #416]",
        "stp q28, q29, [x9, #448]", "stp q30, q31, [x9, #480]",
        "mov x9, sp",
        "adr x16, 2f",
        "b {find_slot}",
        "2:",
        "hint #36",      // bti j
        "ldr x19, [x9]", // the store
        "mov x20, sp",
        "str x21, [x19, #{fuel}]",
        "str x29, [x19, #{guest_fp}]",
        "ldr x9, [x19, #{link}]",
        "ldr x9, [x9]",
        "mov sp, x9",
        ".cfi_remember_state",
        ".cfi_def_cfa sp, 32", // as in a swap
        ".cfi_offset x30, -24",
        ".cfi_offset x29, -32",
        ".cfi_offset x19, -16",
        "mov x0, x19",
        "ldr x1, [x29, #8]", // the site
        "ldr x2, [x29]",     // and the frame it lies in
        "bl {refill}",
        "mov sp, x20",
        ".cfi_restore_state",
        "cbnz w0, 3f",
        "5:",
        "ldr x21, [x19, #{fuel}]",
        "add x9, sp, #208",
        "ldp q0, q1, [x9]", "ldp q2, q3, [x9, #32]",
        "ldp q4, q5, [x9, #64]", "ldp q6, q7, [x9, #96]",
        "ldp q8, q9, [x9, #128]", "ldp q10, q11, [x9, #160]",
        "ldp q12, q13, [x9, #192]", "ldp q14, q15, [x9, #224]",
        "ldp q16, q17, [x9, #256]", "ldp q18, q19, [x9, #288]",
        "ldp q20, q21, [x9, #320]", "ldp q22, q23, [x9, #352]",
        "ldp q24, q25, [x9, #384]", "ldp q26, q27, [x9, #416]",
        "ldp q28, q29, [x9, #448]", "ldp q30, q31, [x9, #480]",
        "ldp x0, x1, [sp]", "ldp x2, x3, [sp, #16]",
        "ldp x4, x5, [sp, #32]", "ldp x6, x7, [sp, #48]",
        "ldp x8, x9, [sp, #64]", "ldp x10, x11, [sp, #80]",
        "ldp x12, x13, [sp, #96]", "ldp x14, x15, [sp, #112]",
        "ldp x19, x20, [sp, #128]", "ldp x22, x23, [sp, #144]",
        "ldp x24, x25, [sp, #160]", "ldp x26, x27, [sp, #176]",
        "ldr x28, [sp, #192]",
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        "ret",
        "3:",
        "ldr x9, [x19, #{link}]",
        "mov x2, #0",
        "cmp w0, #{suspend}",
        "b.ne 4f",
        "str x19, [sp, #-16]!",
        "adr x10, 6f",
        "str x10, [sp, #-16]!",
        "mov x2, sp",
        "4:",
        leave!("x9"),
        parking_prelude_aarch64!(),
        "6:", // resumed
        "hint #36", // bti j
        "ldr x19, [sp], #16",
        "add x29, sp, #720",
        "b 5b",
        ".cfi_endproc",
        find_slot = sym find_slot_asm,
        refill = sym refill,
        fuel = const offset_of!(VMStoreContext, fuel),
        guest_fp = const offset_of!(VMStoreContext, guest_fp),
        link = const offset_of!(VMStoreContext, link),
        suspend = const SUSPEND,
    )
}
