//! Switching between stacks on aarch64 (AAPCS64).
//!
//! *Base* `B` is the highest address of a fiber's piece of stack, 16-aligned. *link* is the address
//! `B - 16`: the word there, the parent link, says who resumed the fiber. A parked side is one word.
//!
//! ```text
//!   a running fiber                             its parent, parked in `switch_and_link`
//!   B      -> +------------------------+        P+32 -> sp at entry of the inline assembly
//!   B-8       | base_return() constant |        P+16    | saved x19, pad |
//!   B-16 link | P, the parent link     | -----> P+8     | saved x30      | into the inline code
//!             ~ frames                 ~        P    -> | saved x29      | P is 16-aligned
//!             +------------------------+                ~ free: a borrower may use it ~
//!
//!   a parked fiber                              a new fiber, before its first resume
//!             ~ frames                 ~        B-8     | base_return() constant |
//!             | saved x19              |        B-16    | parent link: not yet   |
//!             | saved x29              |        obj  -> | initial object         | aligned to 16
//!             | pad                    |                | base_return() constant |
//!   sp     -> | code address           |                | initial function       |
//!             +------------------------+                | pad                    |
//!                                               sp   -> | fiber_entry            |
//! ```
//!
//! - To resume: write P to the link, `sp = sp + 16`, `x0` = word, `x1` = link, `x3` = P, jump to `[sp]`. Nothing
//!   else is in a register; the code at `[sp]` restores what it wants. Bit 0 of `x1` set says
//!   that the fiber shall unwind (links are 16-aligned).
//! - To go back: `x0` = word, `x2` = the `sp` that parks (0: never comes back), `sp` = P,
//!   `ldp x29, x30, [sp], #16`, `ret`. The inlined code behind the return address pops x19.
//! - Code that is resumed may be preceded by the 20 bytes of `parking_prelude_aarch64!`, which park the
//!   parent. Then the parent can call it there with `x2` = sp. All code of this file has them.
//!
//! Invariants
//! 1. Exactly one side is running; every other is parked and is resumed once.
//! 2. The parent link is valid from the first resume until the fiber has come back.
//! 3. Both the link and P are frame records (`[x]` = next record, `[x + 8]` = a code address), and x29
//!    holds the link in the code at a fiber's base: a walk by frame pointers goes on at the parent.
//! 4. In that code the CFA is `[x29] + 32`, which is the sp that the compiler's own CFI assumes at the inline
//!    assembly: x19 at CFA-16, the return address at CFA-24, x29 at CFA-32. A walk by DWARF goes on there too.
//!
//! The parent's `blr` pairs with the `ret` that comes back, and a fiber is entered by `br`, which is no return to the
//! predictor: so that stays in step as long as a fiber suspends at the depth at which it was resumed. Functions that
//! suspend are inlined for the same reason.
//!
//! The CFI is right at every instruction, in the inlined code too (`tests/single_step.rs` looks). Inlined code cannot
//! know whether the compiler describes the function around it by sp or by x29, so it makes it use x29
//! ([`FrameAnchor`]): then what is pushed changes nothing. Where x29 is the other side's the inlined code says that the parent is next: it cannot
//! say where the function's own frame lies, as that is at another distance from x29 in each function.
//!
//! The frames at a fiber's base are marked as signal frames: gdb refuses stacks that grow upwards
//! between frames otherwise. A signal frame's return address is looked up as it is, not one instruction before, so each
//! is followed by an instruction of the same function.
//!
//! - The stack pointer is 16-aligned at every access, as the processor checks it. There is no red zone.
//! - d8 to d15 are clobbers, as all vector registers are: the compiler saves those that are in use. So are x20 to x28.
//! - x18, the platform's register, is neither read nor written, nor is the thread pointer: both belong to the thread.
//! - Branch targets: what is reached by `blr` or `br` starts with `bti` (spelled as a hint, so that any assembler
//!   takes it), or is jumped to through x16. An entry of somebody else's has to do so too.
//! - Pointer authentication: x30 is signed by the functions that the compiler makes, in their own frames. The copies of
//!   this file are not signed, and their CFI does not say so. A guarded control stack (GCS) is not supported: it
//!   wants one shadow for each stack.
//!
//! Not saved: FPCR and FPSR. Who changes FPCR must restore it before switching; every switch would pay
//! for what nobody uses.
//!
//! Rejected: parking in the inlined code instead of the prelude (`adr` for the return address, then a branch): the way back
//! would not pair.

use core::arch::{asm, naked_asm};
use core::mem::MaybeUninit;

use super::common::{
    LINK_OFFSET, PARENT_RETURN_OFFSET, Resumed, StackCallFunc, TrapFunc, Word, object_address,
};

/// `sp = base - ENTRY_OFFSET` for a fiber made by [`init_entry`](super::init_entry).
pub const ENTRY_OFFSET: usize = 32;

/// From the `sp` of a fiber made by [`init_stack`](super::init_stack) to its object.
pub(super) const OBJECT_OFFSET: usize = 32;

/// From the parent's frame record to its stack pointer at the inline assembly (its CFA).
pub const PARENT_CFA_OFFSET: usize = 32;

/// From a frame record to the frame pointer that names it; P, the value of a parent link, is such a frame pointer.
pub const FRAME_POINTER_OFFSET: usize = 0;

/// Offset of the parent's saved x19 from its frame record.
pub const PARENT_X19_OFFSET: usize = 16;

/// Size of [`parking_prelude_aarch64`](crate::parking_prelude_aarch64), in bytes.
pub const PRELUDE_BYTES: usize = 20;

/// CFI of code at the base of a fiber: x29 = link. For `naked_asm!`, after `.cfi_startproc`.
///
/// The escape is `0x0f` DW_CFA_def_cfa_expression, 5 bytes: `0x8d 0x00` DW_OP_breg29 (x29) +0,
/// `0x06` DW_OP_deref, `0x23 0x20` DW_OP_plus_uconst 32.
#[macro_export]
macro_rules! base_cfi_aarch64 {
    () => {
        ".cfi_escape 0x0f, 5, 0x8d, 0x00, 0x06, 0x23, 0x20
         .cfi_offset x19, -16
         .cfi_offset x30, -24
         .cfi_offset x29, -32"
    };
}

/// The 20 bytes before a code address that
/// [`raw::switch_and_link_direct`](crate::raw::switch_and_link_direct) can resume.
///
/// They are entered by `blr` with x0 = word, x1 = link, x2 = sp on the parent's stack; behind them all is as
/// after a resume. They change x3.
#[macro_export]
macro_rules! parking_prelude_aarch64 {
    () => {
        "hint #34                    // bti c
         stp x29, x30, [sp, #-16]!
         mov x3, sp
         str x3, [x1]
         add sp, x2, #16"
    };
}

/// CFI of a called prelude or thunk: what the inlined code pushed is the x19 of invariant 4. `stp x29, x30` follows.
macro_rules! called_cfi {
    () => {
        ".cfi_def_cfa sp, 16
         .cfi_offset x19, -16"
    };
}

/// The same when that has pushed the frame record.
macro_rules! pushed_cfi {
    () => {
        ".cfi_adjust_cfa_offset 16
         .cfi_offset x30, -24
         .cfi_offset x29, -32"
    };
}

/// The same while x1 = link and x29 is still the parent's: `0x71` is DW_OP_breg1 (x1).
macro_rules! entry_cfi {
    () => {
        ".cfi_escape 0x0f, 5, 0x71, 0x00, 0x06, 0x23, 0x20
         .cfi_offset x19, -16
         .cfi_offset x30, -24
         .cfi_offset x29, -32"
    };
}

/// CFI of inlined code where this function is not in the walk any more, and its caller is the parent: follows the rule
/// for the CFA, which differs from place to place. x19 to x28 and d8 to d15 (72 to 79) are lost in any case.
macro_rules! parent_cfi {
    () => {
        inline_cfi!(
            ".cfi_offset x19, -16
             .cfi_offset x30, -24
             .cfi_offset x29, -32
             .cfi_same_value x20
             .cfi_same_value x21
             .cfi_same_value x22
             .cfi_same_value x23
             .cfi_same_value x24
             .cfi_same_value x25
             .cfi_same_value x26
             .cfi_same_value x27
             .cfi_same_value x28
             .cfi_same_value 72
             .cfi_same_value 73
             .cfi_same_value 74
             .cfi_same_value 75
             .cfi_same_value 76
             .cfi_same_value 77
             .cfi_same_value 78
             .cfi_same_value 79"
        )
    };
}

/// A local of this type, whose address the inlined assembly gets, makes the compiler align the frame, and so address it,
/// and describe it, by x29. Cost: one `add` in a switch, two instructions in the function's prologue.
#[repr(align(32))]
struct FrameAnchor(#[expect(dead_code, reason = "only its place counts")] [u8; 32]);

impl FrameAnchor {
    const fn new() -> MaybeUninit<FrameAnchor> {
        MaybeUninit::uninit()
    }
}

/// Never called: its second instruction is the return address of every fiber's base, so that its CFI leads to
/// the parent. The first is there for walkers that look up `address - 1`.
#[unsafe(naked)]
unsafe extern "C" fn fiber_base() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        base_cfi_aarch64!(),
        "nop",
        "brk #0", // base_return()
        "brk #0",
        ".cfi_endproc",
    )
}

/// The constant at `base - 8`: a code address whose CFI, with x29 = link, leads to the parent.
///
/// Also the right return address for a function that is entered by a jump from the base of a fiber.
#[inline(always)]
pub fn base_return() -> usize {
    fiber_base as *const () as usize + 4
}

/// Where a fiber comes that suspends while its parent's stack is lent ([`lend`]): its second instruction, as in
/// [`fiber_base`], whose CFI leads to the parent all the same. sp is above the loan's first record, on the fiber's stack.
#[unsafe(naked)]
unsafe extern "C" fn lent_parent() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        base_cfi_aarch64!(), // x29 = the second record of the loan, which starts with P
        "nop",
        "bl {die}", // lent_return(); overwrites what is below: nobody returns
        "brk #0",
        ".cfi_endproc",
        die = sym suspended_while_lent,
    )
}

extern "C" fn suspended_while_lent() -> ! {
    crate::unwind::die("a fiber suspended while it ran on its parent's stack")
}

fn lent_return() -> usize {
    lent_parent as *const () as usize + 4
}

/// What a parent link points to while the parent's stack is lent: two frame records, of which the first
/// stands for P, and the second leads to the real one. Aligned as P is, as it becomes a stack pointer.
#[derive(Default)]
#[repr(C, align(16))]
pub(crate) struct Loan([usize; 4]);

/// Fills a loan of `parked`, P, and returns what has to be in the parent link: then walks go on at the parent, but a fiber
/// that suspends aborts: what it would park lies on the parent's stack.
///
/// # Safety
/// `parked` came from a parent link: P, or the address of a loan.
pub(crate) unsafe fn lend(loan: &mut Loan, parked: usize) -> usize {
    // SAFETY: the caller's promise: either is a frame record.
    if unsafe { ((parked + PARENT_RETURN_OFFSET) as *const usize).read() } == lent_return() {
        crate::unwind::die("a fiber lent its parent's stack while it ran there");
    }
    let second = (&raw const loan.0[2]) as usize;
    loan.0 = [second, lent_return(), parked, lent_return()];
    (&raw const loan.0) as usize
}

/// The prelude, and then the code address of a typed fiber that was never resumed, where sp = sp + 16,
/// x0 = word, x1 = link.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn fiber_entry() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        called_cfi!(),
        "hint #34", // the prelude, spelled out for its CFI: bti c
        "stp x29, x30, [sp, #-16]!",
        pushed_cfi!(),
        "mov x3, sp",
        "str x3, [x1]",
        entry_cfi!(),
        "add sp, x2, #16",
        "hint #36", // bti j
        "mov x29, x1",
        base_cfi_aarch64!(),
        "ldp x16, x30, [sp], #16", // the initial function; base_return(), as if it had been called
        "mov x2, sp",              // the initial object
        "br x16",                  // word and link are in x0 and x1 already
        "brk #0",
        ".cfi_endproc",
    )
}

/// Called by the inlined half of `switch_and_link`: parks the parent and jumps into the fiber.
///
/// x0 = word, x1 = link, x2 = sp. The inlined code has pushed x19.
#[unsafe(naked)]
unsafe extern "C" fn switch_thunk() {
    naked_asm!(
        ".cfi_startproc",
        called_cfi!(),
        "stp x29, x30, [sp, #-16]!", // the frame record of invariant 3
        pushed_cfi!(),
        "mov x3, sp",
        "str x3, [x1]", // the parent is parked: it can be returned to from now on
        entry_cfi!(),
        "ldr x16, [x2]",
        "add sp, x2, #16",
        "br x16",
        ".cfi_endproc",
    )
}

/// As `switch_thunk`, with bit 0 of x1 set for the fiber.
#[unsafe(naked)]
unsafe extern "C" fn throw_thunk() {
    naked_asm!(
        ".cfi_startproc",
        called_cfi!(),
        "stp x29, x30, [sp, #-16]!",
        pushed_cfi!(),
        "mov x3, sp",
        "str x3, [x1]",
        "orr x1, x1, #1", // the flag
        // As `entry_cfi`, with an x1 that is 1 too large: `0x7f` is -1.
        ".cfi_escape 0x0f, 5, 0x71, 0x7f, 0x06, 0x23, 0x20",
        "ldr x16, [x2]",
        "add sp, x2, #16",
        "br x16",
        ".cfi_endproc",
    )
}

/// Calls `func(arg)` with the stack pointer `sp`, and comes back to this stack. Unwinding passes through.
///
/// Cost: two calls. The callee's frame record leads to the caller.
///
/// # Safety
/// `sp` is 16-aligned, and the memory below it is a stack that nobody uses until this returns, with room
/// for `func`. Calling `func` with `arg` is sound.
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn call_on_stack(arg: *mut u8, sp: usize, func: StackCallFunc) {
    naked_asm!(
        ".cfi_startproc",
        "hint #34", // bti c: this function may be called by its address
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa sp, 16",
        ".cfi_offset x30, -8",
        ".cfi_offset x29, -16",
        "mov x29, sp",
        ".cfi_def_cfa x29, 16",
        "adr x3, 2f",
        "2:", // what the unwinder takes for the return address of the second half
        "str x3, [sp, #-16]!",
        "mov sp, x1",
        ".cfi_endproc",
        // To the unwinder the second half is a function of its own, called by the first: a signal frame,
        // as the stacks may lie in either order. The caller must not be called by a signal frame: its
        // landing pad would be looked up behind the call instead of at it.
        ".cfi_startproc",
        signal_frame!(),
        ".cfi_def_cfa x29, 0",
        ".cfi_offset x30, -16",
        "blr x2", // arg is in x0
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa sp, 0",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
    )
}

/// Resumes a fiber: parks this side, writes the parent link and hands over `word`.
///
/// Returns the word that the fiber gave and its new `sp`, or 0 when it never comes back.
/// All registers are clobbered but sp, x18, x19 and x29. Cost: with the way back, a call, a jump and a return.
///
/// # Safety
/// `sp` came from [`init_stack`](super::init_stack), [`init_entry`](super::init_entry) or this function for the fiber whose link is `link`, and has not
/// been resumed since; its stack is valid. What the fiber does with `word` is sound.
#[inline(always)]
pub unsafe fn switch_and_link(word: u64, sp: usize, link: usize) -> (u64, usize) {
    let answer: u64;
    let parked: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: the caller's promise makes `sp` and `link` a parked fiber; x19 and x29 are restored, the
    // other registers are declared as clobbered, and the stack stays aligned.
    unsafe {
        asm!(
            "str x19, [sp, #-16]! // {anchor}", // reserved by the compiler, so it cannot be a clobber; the thunk pushes x29
            "bl {thunk}",
            "ldr x19, [sp], #16",
            thunk = sym switch_thunk,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("x0") word => answer,
            inlateout("x1") link => _,
            inlateout("x2") sp => parked,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _, lateout("x24") _,
            lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    (answer, parked)
}

/// [`switch_and_link_direct`](super::switch_and_link_direct) with words that may be partly uninitialised.
///
/// # Safety
/// As for [`switch_and_link_direct`](super::switch_and_link_direct).
#[inline(always)]
pub(crate) unsafe fn switch_and_link_direct_word(word: Word, sp: usize, link: usize) -> (Word, usize) {
    let answer: Word;
    let parked: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: as in `switch_and_link`; the prelude does what the thunk does.
    unsafe {
        asm!(
            "str x19, [sp, #-16]! // {anchor}",
            "ldr x3, [x2]",
            "sub x3, x3, #{prelude}",
            "blr x3",
            "ldr x19, [sp], #16",
            prelude = const PRELUDE_BYTES,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("x0") word => answer,
            inlateout("x1") link => _,
            inlateout("x2") sp => parked,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _, lateout("x24") _,
            lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    (answer, parked)
}

/// Resumes a parked fiber so that it unwinds: its [`switch_yield`](super::switch_yield) returns the flag `true`.
///
/// Stable Rust cannot unwind out of inline assembly, so the code around `switch_yield` has to turn the
/// flag into `resume_unwind`. Returns as [`switch_and_link`] does.
///
/// # Safety
/// As for [`switch_and_link`]; besides, the fiber is parked in [`switch_yield`](super::switch_yield), not new.
// Inlined: between telling ThreadSanitizer of a switch and the switch no function may be entered (`hooks`).
#[inline(always)]
pub unsafe fn switch_and_throw(sp: usize, link: usize) -> (u64, usize) {
    let answer: u64;
    let parked: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: as in `switch_and_link`.
    unsafe {
        asm!(
            "str x19, [sp, #-16]! // {anchor}",
            "bl {thunk}",
            "ldr x19, [sp], #16",
            thunk = sym throw_thunk,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("x0") 0u64 => answer,
            inlateout("x1") link => _,
            inlateout("x2") sp => parked,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _, lateout("x24") _,
            lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    (answer, parked)
}

/// [`switch_yield`](super::switch_yield) with words that may be partly uninitialised, given P, which the parent link holds.
///
/// # Safety
/// As for [`switch_yield`](super::switch_yield).
#[inline(always)]
pub(crate) unsafe fn switch_yield_word(word: Word, parent: usize) -> Resumed {
    let answer: Word;
    let flagged: usize;
    let resumer: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: the caller's promise makes `parent` a parked parent; x19 and x29 are restored, the other registers
    // are declared as clobbered.
    unsafe {
        asm!(
            "stp x29, x19, [sp, #-16]! // {anchor}",
            "adr x4, 2f",
            "str x4, [sp, #-16]!",
            "mov x2, sp", // our sp
            "mov sp, x3", // P: the parent's stack is live from here
            inline_cfi!(".cfi_remember_state\n.cfi_def_cfa sp, 32"),
            parent_cfi!(),
            "ldp x29, x30, [sp], #16",
            inline_cfi!(".cfi_def_cfa sp, 16\n.cfi_same_value x29\n.cfi_same_value x30"),
            "ret", // pairs with the parent's call
            // The prelude, spelled out for its CFI. It is entered with what the `ret` would have taken.
            "hint #34", // bti c
            "stp x29, x30, [sp, #-16]!",
            inline_cfi!(".cfi_def_cfa sp, 32\n.cfi_offset x30, -24\n.cfi_offset x29, -32"),
            "mov x3, sp",
            inline_cfi!(".cfi_def_cfa x3, 32"),
            "str x3, [x1]",
            "add sp, x2, #16",
            "2:",       // sp = sp + 16, x0 = word, x1 = link or link + 1, x3 = P
            "hint #36", // bti j
            "ldp x29, x19, [sp], #16",
            inline_cfi!(".cfi_restore_state"),
            anchor = in(reg) anchor.as_ptr(),
            inlateout("x0") word => answer,
            inlateout("x3") parent => resumer,
            lateout("x1") flagged,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _, lateout("x24") _,
            lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    Resumed::new(answer, flagged, resumer)
}

/// [`switch_transfer`](super::switch_transfer) with words that may be partly uninitialised.
///
/// # Safety
/// As for [`switch_transfer`](super::switch_transfer).
#[inline(always)]
pub(crate) unsafe fn switch_transfer_word(
    word: Word,
    link: usize,
    sp: usize,
    to: usize,
    parked: *mut usize,
) -> Resumed {
    let answer: Word;
    let flagged: usize;
    let resumer: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: the caller's promise makes `[link]` a parked parent, and `sp` and `to` a parked fiber; x19 and x29 are
    // restored, the other registers are declared as clobbered.
    unsafe {
        asm!(
            "stp x29, x19, [sp, #-16]! // {anchor}",
            "adr x5, 2f",
            "str x5, [sp, #-16]!",
            "mov x5, sp",
            "str x5, [x3]", // parked: our sp
            "ldr x3, [x1]", // P
            "str x3, [x4]", // the parent is the other's
            "mov x1, x4",
            "ldr x16, [x2]",
            "add sp, x2, #16", // the other stack is live from here; x29 is still ours, and so is the walk
            "br x16",
            // From here on as in `switch_yield_word`.
            inline_cfi!(".cfi_remember_state\n.cfi_def_cfa sp, 16"),
            parent_cfi!(),
            inline_cfi!(".cfi_same_value x29\n.cfi_same_value x30"),
            "hint #34", // bti c
            "stp x29, x30, [sp, #-16]!",
            inline_cfi!(".cfi_def_cfa sp, 32\n.cfi_offset x30, -24\n.cfi_offset x29, -32"),
            "mov x3, sp",
            inline_cfi!(".cfi_def_cfa x3, 32"),
            "str x3, [x1]",
            "add sp, x2, #16",
            "2:",       // sp = sp + 16, x0 = word, x1 = link or link + 1, x3 = P
            "hint #36", // bti j
            "ldp x29, x19, [sp], #16",
            inline_cfi!(".cfi_restore_state"),
            anchor = in(reg) anchor.as_ptr(),
            inlateout("x0") word => answer,
            inlateout("x1") link => flagged,
            inlateout("x2") sp => _,
            inlateout("x3") parked => resumer,
            inlateout("x4") to => _,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _, lateout("x24") _,
            lateout("x25") _, lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    Resumed::new(answer, flagged, resumer)
}

/// [`switch_and_reset`](super::switch_and_reset) with a mark of the fiber's own in the place of its `sp`.
///
/// # Safety
/// As for [`switch_and_reset`](super::switch_and_reset), and the parent does not resume `mark`.
#[inline(always)]
pub(crate) unsafe fn switch_and_finish(word: Word, link: usize, mark: usize) -> ! {
    // SAFETY: the caller's promise makes `[link]` a parked parent, and nobody returns to this frame.
    unsafe {
        asm!(
            "ldr x3, [x1]",
            "mov sp, x3",
            inline_cfi!(".cfi_remember_state\n.cfi_def_cfa sp, 32"),
            parent_cfi!(),
            "ldp x29, x30, [sp], #16",
            inline_cfi!(".cfi_def_cfa sp, 16\n.cfi_same_value x29\n.cfi_same_value x30"),
            "ret",
            inline_cfi!(".cfi_restore_state"),
            in("x0") word,
            in("x1") link,
            in("x2") mark,
            options(noreturn),
        )
    }
}

/// The stack pointer of the running code.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let here;
    // SAFETY: a register is read.
    unsafe { asm!("mov {}, sp", out(reg) here, options(nomem, nostack, preserves_flags)) };
    here
}

/// Starts to load what a resume of a parked fiber touches first. Any values are allowed.
#[inline(always)]
pub fn prefetch(sp: usize, link: usize) {
    // SAFETY: hints, which do not fault.
    unsafe {
        asm!(
            "prfm pldl1keep, [{sp}]",
            "prfm pstl1keep, [{link}]",
            sp = in(reg) sp,
            link = in(reg) link,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Registers with which a signal handler has to return, so that a function runs at a fiber's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TrapHandlerRegs {
    /// The code to run.
    pub pc: u64,
    /// The stack pointer for it.
    pub sp: u64,
    /// The link: the frame record at the base.
    pub x29: u64,
    /// The return address.
    pub x30: u64,
    /// The first argument.
    pub x0: u64,
    /// The link, the second argument.
    pub x1: u64,
}

impl TrapHandlerRegs {
    /// Writes the registers into the context that a signal handler returns to.
    ///
    /// Clears the branch type too, so that any instruction may come next. Async-signal-safe.
    pub fn write_to(&self, context: &mut libc::ucontext_t) {
        /// PSTATE.BTYPE, the kind of branch that was taken last: linux/asm/ptrace.h, PSR_BTYPE_MASK.
        const BRANCH_TYPE: u64 = 3 << 10;
        let machine = &mut context.uc_mcontext;
        machine.pc = self.pc;
        machine.sp = self.sp;
        machine.regs[29] = self.x29;
        machine.regs[30] = self.x30;
        machine.regs[0] = self.x0;
        machine.regs[1] = self.x1;
        machine.pstate &= !BRANCH_TYPE;
    }
}

/// The stack pointer of the code that a signal interrupted. Async-signal-safe.
pub fn interrupted_stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}

/// Abandons a fiber's frames so that `func(value, link)` runs at its base; `value` is moved there.
///
/// Async-signal-safe. Destructors of the abandoned frames do not run.
///
/// # Safety
/// `base` belongs to a fiber that was resumed and has not come back, and whose code a signal interrupted;
/// the handler runs on another stack and returns with these registers. There is room below the base
/// for the value and for `func`. Nothing relies on the abandoned frames.
pub unsafe fn setup_trap_trampoline<T>(base: usize, value: T, func: TrapFunc<T>) -> TrapHandlerRegs {
    let at = object_address::<T>(base);
    // SAFETY: the caller's promise: the frames there are abandoned.
    unsafe { (at as *mut T).write(value) };
    let link = (base - LINK_OFFSET) as u64;
    TrapHandlerRegs {
        pc: func as *const () as u64,
        sp: at as u64,
        x29: link,
        x30: base_return() as u64,
        x0: at as u64,
        x1: link,
    }
}

/// The same for an entry written in assembly, which starts like a new fiber's: sp = x1 = link, x0 = `arg`.
///
/// Writes nothing. Async-signal-safe. x29 = link already.
///
/// # Safety
/// As for [`setup_trap_trampoline`]; `link` is that fiber's, and `entry` the address of such code.
pub unsafe fn setup_trap_trampoline_raw(link: usize, entry: usize, arg: usize) -> TrapHandlerRegs {
    let link = link as u64;
    TrapHandlerRegs {
        pc: entry as u64,
        sp: link,
        x29: link,
        x30: base_return() as u64,
        x0: arg as u64,
        x1: link,
    }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
pub(crate) mod tests;
