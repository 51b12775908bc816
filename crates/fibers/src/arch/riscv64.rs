//! Switching between stacks on riscv64 (the standard LP64D calling convention).
//!
//! *Base* `B` is the highest address of a fiber's piece of stack, 16-aligned. *link* is the address
//! `B - 16`: the word there, the parent link, says who resumed the fiber. A parked side is one word.
//!
//! ```text
//!   a running fiber                             its parent, parked in `switch_and_link`
//!                                               P+16 -> sp at entry of the inline assembly
//!   B      -> +------------------------+        P    -> | saved s1, pad  | P is 16-aligned
//!   B-8       | base_return() constant |        P-8     | saved ra       | into the inline code
//!   B-16 link | P, the parent link     | ---->  P-16    | saved s0       |
//!             ~ frames                 ~                ~ free: a borrower may use it ~
//!             +------------------------+
//!
//!   a parked fiber                              a new fiber, before its first resume
//!             ~ frames                 ~        B-8     | base_return() constant |
//!             | saved s1               |        B-16    | parent link: not yet   |
//!             | saved s0               |        obj  -> | initial object         | aligned to 16
//!             | pad                    |                | base_return() constant |
//!   sp     -> | code address           |                | initial function       |
//!             +------------------------+                | pad                    |
//!                                               sp   -> | fiber_entry            |
//! ```
//!
//! A frame pointer points behind its record here: `[s0 - 16]` = next frame pointer, `[s0 - 8]` = a code address. P is
//! such a frame pointer; the link's is B.
//!
//! - To resume: write P to the link, `sp = sp + 16`, `a0` = word, `a1` = link, `t0` = P, jump to `[sp]`. Nothing
//!   else is in a register; the code at `[sp]` restores what it wants. Bit 0 of `a1` set says
//!   that the fiber shall unwind (links are 16-aligned).
//! - To go back: `a0` = word, `a2` = the `sp` that parks (0: never comes back), `s0` and `ra` from the record, `sp` = P,
//!   `ret`. The inlined code behind the return address pops s1.
//! - Code that is resumed may be preceded by the 20 bytes of `parking_prelude_riscv64!`, which park the
//!   parent. Then the parent can call it there with `a2` = sp. All code of this file has them.
//!
//! Invariants
//! 1. Exactly one side is running; every other is parked and is resumed once.
//! 2. The parent link is valid from the first resume until the fiber has come back.
//! 3. Both the link and P - 16 are frame records, and s0 holds B in the code at a fiber's base: a walk by frame
//!    pointers goes on at the parent.
//! 4. In that code the CFA is `[s0 - 16] + 16`, which is the sp that the compiler's own CFI assumes at the inline
//!    assembly: s1 at CFA-16, the return address at CFA-24, s0 at CFA-32. A walk by DWARF goes on there too.
//!
//! The parent's `jalr ra` pairs with the `ret` that comes back. The predictor takes every jump through ra or t0 for
//! a return or a call (unprivileged ISA, 2.5.1, return-address prediction hints), so fibers are entered through t1, and it
//! stays in step as long as a fiber suspends at the depth at which it was resumed. Functions that
//! suspend are inlined for the same reason.
//!
//! The CFI is right at every instruction, in the inlined code too (`tests/single_step.rs` looks). Inlined code cannot
//! know whether the compiler describes the function around it by sp or by s0, so it makes it use s0
//! ([`FrameAnchor`]): then what is pushed changes nothing. Where s0 is the other side's the inlined code says that the parent is next.
//!
//! The frames at a fiber's base are marked as signal frames: gdb refuses stacks that grow upwards
//! between frames otherwise. A signal frame's return address is looked up as it is, not one byte before, so each
//! is followed by an instruction of the same function.
//!
//! - Where the size of an instruction counts, compressed ones are off.
//! - fs0 to fs11 are clobbers, as all floating-point and vector registers are: the compiler saves those that are in
//!   use. So are s2 to s11.
//! - gp and tp are neither read nor written: the one belongs to the program, the other to the thread.
//! - Landing pads and shadow stacks (Zicfilp, Zicfiss) are not supported.
//!
//! Not saved: fcsr and vcsr. Who changes the rounding mode must restore it before switching; every switch would pay
//! for what nobody uses.

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
pub const FRAME_POINTER_OFFSET: usize = 16;

/// Offset of the parent's saved s1 from its frame record.
pub const PARENT_S1_OFFSET: usize = 16;

/// Size of [`parking_prelude_riscv64`](crate::parking_prelude_riscv64), in bytes.
pub const PRELUDE_BYTES: usize = 20;

/// CFI of code at the base of a fiber: s0 = link + 16. For `naked_asm!`, after `.cfi_startproc`.
///
/// The escape is `0x0f` DW_CFA_def_cfa_expression, 5 bytes: `0x78 0x70` DW_OP_breg8 (s0) -16,
/// `0x06` DW_OP_deref, `0x23 0x10` DW_OP_plus_uconst 16.
#[macro_export]
macro_rules! base_cfi_riscv64 {
    () => {
        ".cfi_escape 0x0f, 5, 0x78, 0x70, 0x06, 0x23, 0x10
         .cfi_offset s1, -16
         .cfi_offset ra, -24
         .cfi_offset s0, -32"
    };
}

/// The 20 bytes before a code address that
/// [`raw::switch_and_link_direct`](crate::raw::switch_and_link_direct) can resume.
///
/// They are entered by `jalr ra` with a0 = word, a1 = link, a2 = sp on the parent's stack, where s1 lies at `16(sp)` and
/// the 16 bytes below are free; behind them all is as after a resume. They change t0.
#[macro_export]
macro_rules! parking_prelude_riscv64 {
    () => {
        ".option push
         .option norvc
         sd s0, 0(sp)
         sd ra, 8(sp)
         addi t0, sp, 16
         sd t0, 0(a1)
         addi sp, a2, 16
         .option pop"
    };
}

/// CFI of a called prelude or thunk: what the inlined code pushed is the s1 of invariant 4, and room for the frame record.
macro_rules! called_cfi {
    () => {
        ".cfi_def_cfa sp, 32
         .cfi_offset s1, -16"
    };
}

/// The same when the frame record is there.
macro_rules! pushed_cfi {
    () => {
        ".cfi_offset ra, -24
         .cfi_offset s0, -32"
    };
}

/// The same while a1 = link and s0 is still the parent's: `0x7b 0x00` is DW_OP_breg11 (a1) +0.
macro_rules! entry_cfi {
    () => {
        ".cfi_escape 0x0f, 5, 0x7b, 0x00, 0x06, 0x23, 0x10
         .cfi_offset s1, -16
         .cfi_offset ra, -24
         .cfi_offset s0, -32"
    };
}

/// CFI of inlined code where this function is not in the walk any more, and its caller is the parent: follows the rule
/// for the CFA, which differs from place to place. s1 to s11 and fs0 to fs11 (40, 41, 50 to 59) are lost in any case.
macro_rules! parent_cfi {
    () => {
        inline_cfi!(
            ".cfi_offset s1, -16
             .cfi_offset ra, -24
             .cfi_offset s0, -32
             .cfi_same_value s2
             .cfi_same_value s3
             .cfi_same_value s4
             .cfi_same_value s5
             .cfi_same_value s6
             .cfi_same_value s7
             .cfi_same_value s8
             .cfi_same_value s9
             .cfi_same_value s10
             .cfi_same_value s11
             .cfi_same_value 40
             .cfi_same_value 41
             .cfi_same_value 50
             .cfi_same_value 51
             .cfi_same_value 52
             .cfi_same_value 53
             .cfi_same_value 54
             .cfi_same_value 55
             .cfi_same_value 56
             .cfi_same_value 57
             .cfi_same_value 58
             .cfi_same_value 59"
        )
    };
}

/// A local of this type, whose address the inlined assembly gets, makes the compiler align the frame, and so address it,
/// and describe it, by s0. Cost: one `addi` in a switch, two instructions in the function's prologue.
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
        base_cfi_riscv64!(),
        ".option push",
        ".option norvc",
        "nop",
        "ebreak", // base_return()
        "ebreak",
        ".option pop",
        ".cfi_endproc",
    )
}

/// The constant at `base - 8`: a code address whose CFI, with s0 = link + 16, leads to the parent.
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
        base_cfi_riscv64!(), // s0 = the end of the loan's second record, which starts with P
        ".option push",
        ".option norvc",
        "nop",
        "call {die}", // lent_return(); overwrites what is below: nobody returns
        "ebreak",
        ".option pop",
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
/// `parked` came from a parent link: P, or the end of a loan's first record.
pub(crate) unsafe fn lend(loan: &mut Loan, parked: usize) -> usize {
    let record = parked - FRAME_POINTER_OFFSET;
    // SAFETY: the caller's promise: either names a frame record.
    if unsafe { ((record + PARENT_RETURN_OFFSET) as *const usize).read() } == lent_return() {
        crate::unwind::die("a fiber lent its parent's stack while it ran there");
    }
    let first = (&raw const loan.0) as usize + FRAME_POINTER_OFFSET;
    loan.0 = [first + 16, lent_return(), parked, lent_return()];
    first
}

/// The prelude, and then the code address of a typed fiber that was never resumed, where sp = sp + 16,
/// a0 = word, a1 = link.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn fiber_entry() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        called_cfi!(),
        ".option push",
        ".option norvc",
        "sd s0, 0(sp)", // the prelude, spelled out for its CFI
        "sd ra, 8(sp)",
        pushed_cfi!(),
        "addi t0, sp, 16",
        "sd t0, 0(a1)",
        entry_cfi!(),
        "addi sp, a2, 16",
        ".option pop",
        "addi s0, a1, 16",
        base_cfi_riscv64!(),
        "ld t1, 0(sp)", // the initial function
        "ld ra, 8(sp)", // base_return(), as if it had been called
        "addi sp, sp, 16",
        "mv a2, sp", // the initial object
        "jr t1",     // word and link are in a0 and a1 already
        "ebreak",
        ".cfi_endproc",
    )
}

/// Called by the inlined half of `switch_and_link`: parks the parent and jumps into the fiber.
///
/// a0 = word, a1 = link, a2 = sp. The inlined code has pushed s1 and made room for the frame record.
#[unsafe(naked)]
unsafe extern "C" fn switch_thunk() {
    naked_asm!(
        ".cfi_startproc",
        called_cfi!(),
        "sd s0, 0(sp)", // the frame record of invariant 3
        "sd ra, 8(sp)",
        pushed_cfi!(),
        "addi t0, sp, 16",
        "sd t0, 0(a1)", // the parent is parked: it can be returned to from now on
        entry_cfi!(),
        "ld t1, 0(a2)",
        "addi sp, a2, 16",
        "jr t1",
        ".cfi_endproc",
    )
}

/// As `switch_thunk`, with bit 0 of a1 set for the fiber.
#[unsafe(naked)]
unsafe extern "C" fn throw_thunk() {
    naked_asm!(
        ".cfi_startproc",
        called_cfi!(),
        "sd s0, 0(sp)",
        "sd ra, 8(sp)",
        pushed_cfi!(),
        "addi t0, sp, 16",
        "sd t0, 0(a1)",
        "ori a1, a1, 1", // the flag
        // As `entry_cfi`, with an a1 that is 1 too large: `0x7f` is -1.
        ".cfi_escape 0x0f, 5, 0x7b, 0x7f, 0x06, 0x23, 0x10",
        "ld t1, 0(a2)",
        "addi sp, a2, 16",
        "jr t1",
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
        "addi sp, sp, -32",
        ".cfi_def_cfa sp, 32",
        "sd ra, 24(sp)",
        "sd s0, 16(sp)",
        ".cfi_offset ra, -8",
        ".cfi_offset s0, -16",
        "addi s0, sp, 32",
        ".cfi_def_cfa s0, 0",
        "lla t0, 2f",
        "2:", // what the unwinder takes for the return address of the second half
        "sd t0, 8(sp)",
        "mv sp, a1",
        ".cfi_endproc",
        // To the unwinder the second half is a function of its own, called by the first: a signal frame,
        // as the stacks may lie in either order. The caller must not be called by a signal frame: its
        // landing pad would be looked up behind the call instead of at it.
        ".cfi_startproc",
        signal_frame!(),
        ".cfi_escape 0x0f, 2, 0x78, 0x70", // DW_CFA_def_cfa_expression, 2 bytes: breg8 (s0) -16
        ".cfi_offset ra, -8",
        "jalr a2", // arg is in a0
        "addi sp, s0, -16",
        "ld ra, 8(sp)",
        "ld s0, 0(sp)",
        ".cfi_def_cfa sp, 16", // s0 is the caller's: from here on this is the whole function
        ".cfi_restore ra",
        "addi sp, sp, 16",
        ".cfi_def_cfa_offset 0",
        "ret",
        ".cfi_endproc",
    )
}

/// Resumes a fiber: parks this side, writes the parent link and hands over `word`.
///
/// Returns the word that the fiber gave and its new `sp`, or 0 when it never comes back.
/// All registers are clobbered but sp, gp, tp, s0 and s1. Cost: with the way back, a call, a jump and a return.
///
/// # Safety
/// `sp` came from [`init_stack`](super::init_stack), [`init_entry`](super::init_entry) or this function for the fiber whose link is `link`, and has not
/// been resumed since; its stack is valid. What the fiber does with `word` is sound.
#[inline(always)]
pub unsafe fn switch_and_link(word: u64, sp: usize, link: usize) -> (u64, usize) {
    let answer: u64;
    let parked: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: the caller's promise makes `sp` and `link` a parked fiber; s0 and s1 are restored, the
    // other registers are declared as clobbered, and the stack stays aligned.
    unsafe {
        asm!(
            "addi sp, sp, -32 # {anchor}",
            "sd s1, 16(sp)", // reserved by the compiler, so it cannot be a clobber; the thunk saves s0
            "call {thunk}",
            "ld s1, 0(sp)", // sp = P
            "addi sp, sp, 16",
            thunk = sym switch_thunk,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("a0") word => answer,
            inlateout("a1") link => _,
            inlateout("a2") sp => parked,
            lateout("s2") _, lateout("s3") _, lateout("s4") _, lateout("s5") _, lateout("s6") _,
            lateout("s7") _, lateout("s8") _, lateout("s9") _, lateout("s10") _, lateout("s11") _,
            lateout("fs0") _, lateout("fs1") _, lateout("fs2") _, lateout("fs3") _, lateout("fs4") _, lateout("fs5") _,
            lateout("fs6") _, lateout("fs7") _, lateout("fs8") _, lateout("fs9") _, lateout("fs10") _, lateout("fs11") _,
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
            "addi sp, sp, -32 # {anchor}",
            "sd s1, 16(sp)",
            "ld t1, 0(a2)",
            "jalr ra, -{prelude}(t1)",
            "ld s1, 0(sp)",
            "addi sp, sp, 16",
            prelude = const PRELUDE_BYTES,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("a0") word => answer,
            inlateout("a1") link => _,
            inlateout("a2") sp => parked,
            lateout("s2") _, lateout("s3") _, lateout("s4") _, lateout("s5") _, lateout("s6") _,
            lateout("s7") _, lateout("s8") _, lateout("s9") _, lateout("s10") _, lateout("s11") _,
            lateout("fs0") _, lateout("fs1") _, lateout("fs2") _, lateout("fs3") _, lateout("fs4") _, lateout("fs5") _,
            lateout("fs6") _, lateout("fs7") _, lateout("fs8") _, lateout("fs9") _, lateout("fs10") _, lateout("fs11") _,
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
#[cold]
#[inline(never)]
pub unsafe fn switch_and_throw(sp: usize, link: usize) -> (u64, usize) {
    let answer: u64;
    let parked: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: as in `switch_and_link`.
    unsafe {
        asm!(
            "addi sp, sp, -32 # {anchor}",
            "sd s1, 16(sp)",
            "call {thunk}",
            "ld s1, 0(sp)",
            "addi sp, sp, 16",
            thunk = sym throw_thunk,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("a0") 0u64 => answer,
            inlateout("a1") link => _,
            inlateout("a2") sp => parked,
            lateout("s2") _, lateout("s3") _, lateout("s4") _, lateout("s5") _, lateout("s6") _,
            lateout("s7") _, lateout("s8") _, lateout("s9") _, lateout("s10") _, lateout("s11") _,
            lateout("fs0") _, lateout("fs1") _, lateout("fs2") _, lateout("fs3") _, lateout("fs4") _, lateout("fs5") _,
            lateout("fs6") _, lateout("fs7") _, lateout("fs8") _, lateout("fs9") _, lateout("fs10") _, lateout("fs11") _,
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
    // SAFETY: the caller's promise makes `parent` a parked parent; s0 and s1 are restored, the other registers
    // are declared as clobbered.
    unsafe {
        asm!(
            "addi sp, sp, -32 # {anchor}",
            "sd s0, 16(sp)",
            "sd s1, 24(sp)",
            "lla t1, 2f",
            "sd t1, 0(sp)",
            "mv a2, sp",      // our sp
            "ld s0, -16(t0)", // t0 is P
            inline_cfi!(".cfi_remember_state\n.cfi_def_cfa t0, 16"),
            parent_cfi!(),
            inline_cfi!(".cfi_same_value s0"),
            "ld ra, -8(t0)",
            inline_cfi!(".cfi_same_value ra"),
            "mv sp, t0", // the parent's stack is live from here
            "ret",       // pairs with the parent's call
            inline_cfi!(".cfi_def_cfa sp, 32"),
            // The prelude, spelled out for its CFI. It is entered with what the `ret` would have taken.
            ".option push",
            ".option norvc",
            "sd s0, 0(sp)",
            "sd ra, 8(sp)",
            "addi t0, sp, 16",
            inline_cfi!(".cfi_def_cfa t0, 16\n.cfi_offset ra, -24\n.cfi_offset s0, -32"),
            "sd t0, 0(a1)",
            "addi sp, a2, 16",
            ".option pop",
            "2:", // sp = sp + 16, a0 = word, a1 = link or link + 1, t0 = P
            "ld s0, 0(sp)",
            inline_cfi!(".cfi_restore_state"),
            "ld s1, 8(sp)",
            "addi sp, sp, 16",
            anchor = in(reg) anchor.as_ptr(),
            inlateout("a0") word => answer,
            inlateout("t0") parent => resumer,
            lateout("a1") flagged,
            lateout("s2") _, lateout("s3") _, lateout("s4") _, lateout("s5") _, lateout("s6") _,
            lateout("s7") _, lateout("s8") _, lateout("s9") _, lateout("s10") _, lateout("s11") _,
            lateout("fs0") _, lateout("fs1") _, lateout("fs2") _, lateout("fs3") _, lateout("fs4") _, lateout("fs5") _,
            lateout("fs6") _, lateout("fs7") _, lateout("fs8") _, lateout("fs9") _, lateout("fs10") _, lateout("fs11") _,
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
    // SAFETY: the caller's promise makes `[link]` a parked parent, and `sp` and `to` a parked fiber; s0 and s1 are
    // restored, the other registers are declared as clobbered.
    unsafe {
        asm!(
            "addi sp, sp, -32 # {anchor}",
            "sd s0, 16(sp)",
            "sd s1, 24(sp)",
            "lla t0, 2f",
            "sd t0, 0(sp)",
            "sd sp, 0(a4)", // parked: our sp
            "ld t0, 0(a1)", // P
            "sd t0, 0(a3)", // the parent is the other's
            "mv a1, a3",
            "ld t1, 0(a2)",
            "addi sp, a2, 16", // the other stack is live from here; s0 is still ours, and so is the walk
            "jr t1",
            // From here on as in `switch_yield_word`.
            inline_cfi!(".cfi_remember_state\n.cfi_def_cfa sp, 32"),
            parent_cfi!(),
            inline_cfi!(".cfi_same_value s0\n.cfi_same_value ra"),
            ".option push",
            ".option norvc",
            "sd s0, 0(sp)",
            "sd ra, 8(sp)",
            "addi t0, sp, 16",
            inline_cfi!(".cfi_def_cfa t0, 16\n.cfi_offset ra, -24\n.cfi_offset s0, -32"),
            "sd t0, 0(a1)",
            "addi sp, a2, 16",
            ".option pop",
            "2:", // sp = sp + 16, a0 = word, a1 = link or link + 1, t0 = P
            "ld s0, 0(sp)",
            inline_cfi!(".cfi_restore_state"),
            "ld s1, 8(sp)",
            "addi sp, sp, 16",
            anchor = in(reg) anchor.as_ptr(),
            lateout("t0") resumer,
            inlateout("a0") word => answer,
            inlateout("a1") link => flagged,
            inlateout("a2") sp => _,
            inlateout("a3") to => _, inlateout("a4") parked => _,
            lateout("s2") _, lateout("s3") _, lateout("s4") _, lateout("s5") _, lateout("s6") _,
            lateout("s7") _, lateout("s8") _, lateout("s9") _, lateout("s10") _, lateout("s11") _,
            lateout("fs0") _, lateout("fs1") _, lateout("fs2") _, lateout("fs3") _, lateout("fs4") _, lateout("fs5") _,
            lateout("fs6") _, lateout("fs7") _, lateout("fs8") _, lateout("fs9") _, lateout("fs10") _, lateout("fs11") _,
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
            "ld t0, 0(a1)", // P
            "ld s0, -16(t0)",
            inline_cfi!(".cfi_remember_state\n.cfi_def_cfa t0, 16"),
            parent_cfi!(),
            inline_cfi!(".cfi_same_value s0"),
            "ld ra, -8(t0)",
            inline_cfi!(".cfi_same_value ra"),
            "mv sp, t0",
            "ret",
            inline_cfi!(".cfi_restore_state"),
            in("a0") word,
            in("a1") link,
            in("a2") mark,
            options(noreturn),
        )
    }
}

/// The stack pointer of the running code.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let here;
    // SAFETY: a register is read.
    unsafe { asm!("mv {}, sp", out(reg) here, options(nomem, nostack, preserves_flags)) };
    here
}

/// Starts to load what a resume of a parked fiber touches first. Any values are allowed.
#[inline(always)]
pub fn prefetch(sp: usize, link: usize) {
    // SAFETY: prefetch.r and prefetch.w of Zicbop do not fault; without it they are `ori x0, ..`, which does nothing.
    unsafe {
        asm!(
            ".insn i 0x13, 6, x0, {sp}, 1",
            ".insn i 0x13, 6, x0, {link}, 3",
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
    /// The return address.
    pub ra: u64,
    /// The stack pointer for it.
    pub sp: u64,
    /// The base, which is the link's frame pointer.
    pub s0: u64,
    /// The first argument.
    pub a0: u64,
    /// The link, the second argument.
    pub a1: u64,
}

impl TrapHandlerRegs {
    /// Writes the registers into the context that a signal handler returns to. Async-signal-safe.
    pub fn write_to(&self, context: &mut libc::ucontext_t) {
        let gregs = &mut context.uc_mcontext.__gregs;
        gregs[libc::REG_PC] = self.pc;
        gregs[libc::REG_RA] = self.ra;
        gregs[libc::REG_SP] = self.sp;
        gregs[libc::REG_S0] = self.s0;
        gregs[libc::REG_A0] = self.a0;
        gregs[libc::REG_A0 + 1] = self.a1;
    }
}

/// The stack pointer of the code that a signal interrupted. Async-signal-safe.
pub fn interrupted_stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.__gregs[libc::REG_SP] as usize
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
    TrapHandlerRegs {
        pc: func as *const () as u64,
        ra: base_return() as u64,
        sp: at as u64,
        s0: base as u64,
        a0: at as u64,
        a1: (base - LINK_OFFSET) as u64,
    }
}

/// The same for an entry written in assembly, which starts like a new fiber's: sp = a1 = link, a0 = `arg`.
///
/// Writes nothing. Async-signal-safe. s0 = link + 16 already.
///
/// # Safety
/// As for [`setup_trap_trampoline`]; `link` is that fiber's, and `entry` the address of such code.
pub unsafe fn setup_trap_trampoline_raw(link: usize, entry: usize, arg: usize) -> TrapHandlerRegs {
    TrapHandlerRegs {
        pc: entry as u64,
        ra: base_return() as u64,
        sp: link as u64,
        s0: (link + FRAME_POINTER_OFFSET) as u64,
        a0: arg as u64,
        a1: link as u64,
    }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
pub(crate) mod tests;
