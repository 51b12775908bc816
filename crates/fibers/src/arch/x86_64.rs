//! Switching between stacks on x86-64 (System V).
//!
//! *Base* `B` is the highest address of a fiber's piece of stack, 16-aligned. *link* is the address
//! `B - 16`: the word there, the parent link, says who resumed the fiber. A parked side is one word.
//!
//! ```text
//!   a running fiber                             its parent, parked in `switch_and_link`
//!   B      -> +------------------------+        P+24 -> rsp at entry of the inline assembly
//!   B-8       | base_return() constant |        P+16    | saved rbx      |
//!   B-16 link | P, the parent link     | -----> P+8     | return address | into the inline code
//!             ~ frames                 ~        P    -> | saved rbp      | P is 8 mod 16
//!             +------------------------+                ~ free: a borrower may use it ~
//!
//!   a parked fiber                              a new fiber, before its first resume
//!             ~ frames                 ~        B-8     | base_return() constant |
//!             | saved rbp              |        B-16    | parent link: not yet   |
//!             | saved rbx              |        obj  -> | initial object         | aligned to 16
//!   sp     -> | code address           |                | base_return() constant |
//!             +------------------------+                | initial function       |
//!                                               sp   -> | fiber_entry            |
//! ```
//!
//! - To resume: write P to the link, `rsp = sp + 8`, `rdi` = word, `rsi` = link, `r8` = P, jump to `[sp]`. Nothing
//!   else is in a register; the code at `[sp]` restores what it wants. Bit 0 of `rsi` set says
//!   that the fiber shall unwind (links are 16-aligned).
//! - To go back: `rax` = word, `rdx` = the `sp` that parks (0: never comes back), `rsp` = P,
//!   `pop rbp`, `ret`. The inlined code behind the return address pops rbx.
//! - Code that is resumed may be preceded by the 8 bytes of `parking_prelude_x86_64!`, which park the
//!   parent: `push rbp`, `mov [rsi], rsp`, `lea rsp, [rdx + 8]`. Then the parent can call it there with
//!   `rdx` = sp. All code of this file has them: that saves a taken branch, a third of the time of a switch.
//!
//! Invariants
//! 1. Exactly one side is running; every other is parked and is resumed once.
//! 2. The parent link is valid from the first resume until the fiber has come back.
//! 3. Both the link and P are frame records (`[x]` = next record, `[x + 8]` = a code address), and rbp
//!    holds the link in the code at a fiber's base: a walk by frame pointers goes on at the parent.
//! 4. In that code the CFA is `[rbp] + 24`, which is the rsp that the compiler's own CFI assumes at the inline
//!    assembly: the return address at CFA-16, rbp at CFA-24, rbx at CFA-8. A walk by DWARF goes on there too.
//!
//! The parent's `call` pairs with the `ret` that comes back, and no `ret` goes into a fiber: so the return
//! predictor stays in step as long as a fiber suspends at the depth at which it was resumed. Functions that
//! suspend are inlined for the same reason.
//!
//! The CFI is right at every instruction, in the inlined code too (`tests/single_step.rs` looks). Inlined code cannot
//! know whether the compiler describes the function around it by rsp or by rbp, so it makes it use rbp
//! ([`FrameAnchor`]): then what is pushed changes nothing, and where rbp is the other side's the code says where the
//! function's own lies. One side at a time is in a walk: the fiber's frames until its rbp is given up, and the parent's
//! from then on. With `panic = "abort"` there may be no tables to write to, so the inlined code says nothing.
//!
//! The frames at a fiber's base are marked as signal frames: gdb refuses stacks that grow upwards
//! between frames otherwise. A signal frame's return address is looked up as it is, not one byte before, so each
//! is followed by an instruction of the same function.
//!
//! Not saved: MXCSR and the x87 control word. Who changes them must restore them before switching; every
//! switch would pay for what nobody uses.
//!
//! Rejected: passing the unwind flag in a register of its own (one more move on each resume); the prelude
//! as part of every code address (a guest's assembly would have to repeat it, and a throw to skip it).

use core::arch::{asm, naked_asm};
use core::mem::MaybeUninit;

use super::common::{
    LINK_OFFSET, PARENT_RETURN_OFFSET, Resumed, StackCallFunc, TrapFunc, Word, object_address, write_word,
};

use crate::start::{Main, StackCall};

/// `sp = base - ENTRY_OFFSET` for a fiber made by [`init_entry`](super::init_entry).
pub const ENTRY_OFFSET: usize = 24;

/// From the `sp` of a fiber made by [`init_stack`](super::init_stack) to its object.
pub(super) const OBJECT_OFFSET: usize = 24;

/// From the parent's frame record to its stack pointer at the inline assembly (its CFA).
pub const PARENT_CFA_OFFSET: usize = 24;

/// From a frame record to the frame pointer that names it; P, the value of a parent link, is such a frame pointer.
pub const FRAME_POINTER_OFFSET: usize = 0;

/// Offset of the parent's saved rbx from its frame record.
pub const PARENT_RBX_OFFSET: usize = 16;

/// Size of [`parking_prelude_x86_64`](crate::parking_prelude_x86_64), in bytes.
pub const PRELUDE_BYTES: usize = 8;

/// CFI of code at the base of a fiber: rbp = link. For `naked_asm!`, after `.cfi_startproc`.
///
/// The escape is `0x0f` DW_CFA_def_cfa_expression, 5 bytes: `0x76 0x00` DW_OP_breg6 (rbp) +0 (gdb does
/// not like reg6), `0x06` DW_OP_deref, `0x23 0x18` DW_OP_plus_uconst 24.
#[macro_export]
macro_rules! base_cfi_x86_64 {
    () => {
        ".cfi_escape 0x0f, 5, 0x76, 0x00, 0x06, 0x23, 0x18
         .cfi_offset rbx, -8
         .cfi_offset rip, -16
         .cfi_offset rbp, -24"
    };
}

/// The 8 bytes before a code address that
/// [`raw::switch_and_link_direct`](crate::raw::switch_and_link_direct) can resume.
///
/// They are entered by `call` with rdi = word, rsi = link, rdx = sp on the parent's stack; behind them all is as
/// after a resume.
#[macro_export]
macro_rules! parking_prelude_x86_64 {
    () => {
        "push rbp           # 55
         mov [rsi], rsp     # 48 89 26
         lea rsp, [rdx + 8] # 48 8d 62 08"
    };
}

/// CFI of a called prelude or thunk: what the inlined code pushed is the rbx of invariant 4. `push rbp` follows.
macro_rules! called_cfi {
    () => {
        ".cfi_def_cfa rsp, 16
         .cfi_offset rbx, -8
         .cfi_offset rip, -16"
    };
}

/// The same while rsi = link and rbp is still the parent's: `0x74` is DW_OP_breg4 (rsi).
macro_rules! entry_cfi {
    () => {
        ".cfi_escape 0x0f, 5, 0x74, 0x00, 0x06, 0x23, 0x18
         .cfi_offset rbx, -8
         .cfi_offset rip, -16
         .cfi_offset rbp, -24"
    };
}

/// CFI of inlined code where rsp = P: this function is not in the walk any more, and its caller is the parent.
macro_rules! parent_cfi {
    () => {
        inline_cfi!(
            ".cfi_remember_state
             .cfi_def_cfa rsp, 24
             .cfi_offset rbx, -8
             .cfi_offset rip, -16
             .cfi_offset rbp, -24
             .cfi_same_value r12
             .cfi_same_value r13
             .cfi_same_value r14
             .cfi_same_value r15"
        )
    };
}

/// A local of this type, whose address the inlined assembly gets, makes the compiler align the frame, and so address it,
/// and describe it, by rbp: CFA = rbp + 16. Cost: one `lea` in a switch, two instructions in the function's prologue.
#[repr(align(32))]
struct FrameAnchor(#[expect(dead_code, reason = "only its place counts")] [u8; 32]);

impl FrameAnchor {
    const fn new() -> MaybeUninit<FrameAnchor> {
        MaybeUninit::uninit()
    }
}

/// Never called: its second byte is the return address of every fiber's base, so that its CFI leads to
/// the parent. The first byte is there for walkers that look up `address - 1`.
#[unsafe(naked)]
unsafe extern "sysv64" fn fiber_base() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        base_cfi_x86_64!(),
        "nop",
        "int3", // base_return()
        "int3",
        ".cfi_endproc",
    )
}

/// The constant at `base - 8`: a code address whose CFI, with rbp = link, leads to the parent.
///
/// Also the right return address for a function that is entered by a jump from the base of a fiber.
#[inline(always)]
pub fn base_return() -> usize {
    fiber_base as *const () as usize + 1
}

/// Where a fiber comes that suspends while its parent's stack is lent ([`lend`]): its second byte, as in
/// [`fiber_base`], whose CFI leads to the parent all the same. rsp is above the loan, on the fiber's stack.
#[unsafe(naked)]
unsafe extern "sysv64" fn lent_parent() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        base_cfi_x86_64!(), // rbp = the second record of the loan, which starts with P
        "nop",
        "and rsp, -16", // lent_return()
        "call {die}",   // overwrites the loan and what is below: nobody returns
        "int3",
        ".cfi_endproc",
        die = sym suspended_while_lent,
    )
}

extern "sysv64" fn suspended_while_lent() -> ! {
    crate::unwind::die("a fiber suspended while it ran on its parent's stack")
}

fn lent_return() -> usize {
    lent_parent as *const () as usize + 1
}

/// What a parent link points to while the parent's stack is lent: two frame records, of which the first
/// stands for P, and the second leads to the real one.
pub(crate) type Loan = [usize; 4];

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
    let second = (&raw const loan[2]) as usize;
    *loan = [second, lent_return(), parked, lent_return()];
    (&raw const *loan) as usize
}

/// The prelude, and then the code address of a typed fiber that was never resumed, where rsp = sp + 8,
/// rdi = word, rsi = link.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn fiber_entry() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        called_cfi!(),
        "push rbp", // the prelude, spelled out for its CFI
        ".cfi_adjust_cfa_offset 8",
        ".cfi_offset rbp, -24",
        "mov [rsi], rsp",
        entry_cfi!(),
        "lea rsp, [rdx + 8]",
        "mov rbp, rsi",
        base_cfi_x86_64!(),
        "pop rax",            // the initial function; rsp: base_return(), as if it had been called
        "lea rdx, [rsp + 8]", // the initial object
        "jmp rax",            // word and link are in rdi and rsi already
        "int3",
        ".cfi_endproc",
    )
}

/// [`fiber_entry`] for a function that is known when the code is compiled, and behind it the address that it returns to.
///
/// The object lies above sp; the words that make the link a frame record are written here: a stack that is prepared
/// and not started costs less.
#[unsafe(naked)]
unsafe extern "C" fn start_entry<M: Main>() -> ! {
    naked_asm!(
        ".cfi_startproc",
        signal_frame!(),
        called_cfi!(),
        "push rbp", // the prelude
        ".cfi_adjust_cfa_offset 8",
        ".cfi_offset rbp, -24",
        "mov [rsi], rsp",
        entry_cfi!(),
        "lea rsp, [rdx + 8]",
        "mov rbp, rsi",
        base_cfi_x86_64!(),
        "mov rdx, rsp", // the object
        "lea rax, [rip + 2f]",
        "mov [rsi + 8], rax", // the link is a frame record from here on
        "push rax",           // as if the function had been called
        "jmp {main}",         // word and link are in rdi and rsi already
        "2:",
        "int3",
        ".cfi_endproc",
        main = sym M::main,
    )
}

/// Called by the inlined half of `switch_and_link`: parks the parent and jumps into the fiber.
///
/// rdi = word, rsi = link, rdx = sp. The inlined code has pushed rbx before the return address.
#[unsafe(naked)]
unsafe extern "sysv64" fn switch_thunk() {
    naked_asm!(
        ".cfi_startproc",
        called_cfi!(),
        "push rbp", // with the return address: the frame record of invariant 3
        ".cfi_adjust_cfa_offset 8",
        ".cfi_offset rbp, -24",
        "mov [rsi], rsp", // the parent is parked: it can be returned to from now on
        entry_cfi!(),
        "lea rsp, [rdx + 8]",
        "jmp [rdx]",
        ".cfi_endproc",
    )
}

/// As `switch_thunk`, with bit 0 of rsi set for the fiber.
#[unsafe(naked)]
unsafe extern "sysv64" fn throw_thunk() {
    naked_asm!(
        ".cfi_startproc",
        called_cfi!(),
        "push rbp",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_offset rbp, -24",
        "mov [rsi], rsp",
        "or rsi, 1", // the flag
        // As `entry_cfi`, with an rsi that is 1 too large: `0x7f` is -1.
        ".cfi_escape 0x0f, 5, 0x74, 0x7f, 0x06, 0x23, 0x18",
        "lea rsp, [rdx + 8]",
        "jmp [rdx]",
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
pub unsafe extern "sysv64-unwind" fn call_on_stack(arg: *mut u8, sp: usize, func: StackCallFunc) {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa rsp, 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa rbp, 16",
        "lea rax, [rip + 2f]",
        "2:", // what the unwinder takes for the return address of the second half
        "push rax",
        "mov rsp, rsi",
        ".cfi_endproc",
        // To the unwinder the second half is a function of its own, called by the first: a signal frame,
        // as the stacks may lie in either order. The caller must not be called by a signal frame: its
        // landing pad would be looked up behind the call instead of at it.
        ".cfi_startproc",
        signal_frame!(),
        ".cfi_def_cfa rbp, 0",
        ".cfi_offset rip, -8",
        "call rdx", // arg is in rdi
        "mov rsp, rbp",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    )
}

/// Calls `C::call` with the stack pointer `sp`, and comes back to this stack: a word each way, and a mark.
///
/// Inlined: one call and one return, where [`call_on_stack`] has two of each, which is what its time goes to. The function
/// around it is described by rbp ([`FrameAnchor`]), which the callee keeps: a walk comes out right on either stack.
///
/// # Safety
/// As for [`call_on_stack`], but for unwinding.
#[inline(always)]
pub(crate) unsafe fn stack_call<C: StackCall>(word: Word, sp: usize) -> (Word, usize) {
    let answer: Word;
    let mark: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: the caller's promise; the callee keeps r12 and rbp, as any function of this convention.
    unsafe {
        asm!(
            "mov r12, rsp # {anchor}",
            "mov rsp, {sp}",
            "call {call}",
            "mov rsp, r12",
            sp = in(reg) sp,
            call = sym C::call,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("rdi") word => _,
            lateout("rax") answer,
            lateout("rdx") mark,
            out("r12") _,
            clobber_abi("sysv64"),
        );
    }
    (answer, mark)
}

/// Resumes a fiber: parks this side, writes the parent link and hands over `word`.
///
/// Returns the word that the fiber gave and its new `sp`, or 0 when it never comes back.
/// All registers are clobbered but rsp, rbp and rbx. Cost: with the way back, a call, a jump and a return.
///
/// # Safety
/// `sp` came from [`init_stack`](super::init_stack), [`init_entry`](super::init_entry) or this function for the fiber whose link is `link`, and has not
/// been resumed since; its stack is valid. What the fiber does with `word` is sound.
#[inline(always)]
pub unsafe fn switch_and_link(word: u64, sp: usize, link: usize) -> (u64, usize) {
    let answer: u64;
    let parked: usize;
    let anchor = FrameAnchor::new();
    // SAFETY: the caller's promise makes `sp` and `link` a parked fiber; rbx and rbp are restored, the
    // other registers are declared as clobbered, and the stack is aligned for a call after one push
    // and the call (P is 8 mod 16).
    unsafe {
        asm!(
            "lea r8, [rsp - 24] # {anchor}", // P
            "push rbx", // reserved by the compiler, so it cannot be a clobber; rbp is pushed by the thunk
            "call {thunk}",
            "pop rbx",
            thunk = sym switch_thunk,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("rdi") word => _,
            inlateout("rsi") link => _,
            inlateout("rdx") sp => parked,
            lateout("rax") answer,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
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
            "lea r8, [rsp - 24] # {anchor}", // P
            "push rbx",
            "mov rcx, [rdx]",
            "sub rcx, {prelude}",
            "call rcx",
            "pop rbx",
            prelude = const PRELUDE_BYTES,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("rdi") word => _,
            inlateout("rsi") link => _,
            inlateout("rdx") sp => parked,
            lateout("rax") answer,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
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
            "lea r8, [rsp - 24] # {anchor}", // P
            "push rbx",
            "call {thunk}",
            "pop rbx",
            thunk = sym throw_thunk,
            anchor = in(reg) anchor.as_ptr(),
            inlateout("rdi") 0u64 => _,
            inlateout("rsi") link => _,
            inlateout("rdx") sp => parked,
            lateout("rax") answer,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
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
    // SAFETY: the caller's promise makes `parent` a parked parent; rbx and rbp are restored, the other registers
    // are declared as clobbered.
    unsafe {
        asm!(
            "push rbp # {anchor}",
            "push rbx",
            "lea rcx, [rip + 2f]",
            "push rcx",
            "mov rdx, rsp",   // our sp
            "mov rsp, r8",    // P: the parent's stack is live from here
            parent_cfi!(),
            "pop rbp",
            inline_cfi!(".cfi_def_cfa rsp, 16\n.cfi_same_value rbp"),
            "ret", // pairs with the parent's call
            // The prelude, spelled out for its CFI. It is entered with what the `ret` would have taken.
            "push rbp",
            inline_cfi!(".cfi_def_cfa rsp, 24\n.cfi_offset rbp, -24"),
            "mov [rsi], rsp",
            "lea rsp, [rdx + 8]",
            inline_cfi!(".cfi_restore_state\n.cfi_remember_state"),
            // Until rbp is ours, the CFA is 16 above where our rbp, saved at rsp + 8 and then at rsp, points to:
            // DW_CFA_def_cfa_expression, 5 bytes: DW_OP_breg7 (rsp), DW_OP_deref, DW_OP_plus_uconst 16.
            inline_cfi!(".cfi_escape 0x0f, 5, 0x77, 0x08, 0x06, 0x23, 0x10"),
            "2:", // rsp = sp + 8, rdi = word, rsi = link or link + 1, r8 = P
            "pop rbx",
            inline_cfi!(".cfi_escape 0x0f, 5, 0x77, 0x00, 0x06, 0x23, 0x10"),
            "pop rbp",
            inline_cfi!(".cfi_restore_state"),
            anchor = in(reg) anchor.as_ptr(),
            inlateout("rax") word => _,
            inlateout("r8") parent => resumer,
            lateout("rsi") flagged,
            lateout("rdi") answer,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
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
    // SAFETY: the caller's promise makes `[link]` a parked parent, and `sp` and `to` a parked fiber; rbx and rbp are
    // restored, the other registers are declared as clobbered.
    unsafe {
        asm!(
            "push rbp # {anchor}",
            "push rbx",
            "lea rcx, [rip + 2f]",
            "push rcx",
            "mov [r8], rsp", // parked: our sp
            "mov r8, [rsi]", // P
            "mov [r9], r8",  // the parent is the other's
            "mov rsi, r9",
            "lea rsp, [rdx + 8]", // the other stack is live from here; rbp is still ours, and so is the walk
            "jmp [rdx]",
            parent_cfi!(),
            inline_cfi!(".cfi_def_cfa rsp, 16\n.cfi_same_value rbp"),
            // From here on as in `switch_yield_word`.
            "push rbp",
            inline_cfi!(".cfi_def_cfa rsp, 24\n.cfi_offset rbp, -24"),
            "mov [rsi], rsp",
            "lea rsp, [rdx + 8]",
            inline_cfi!(".cfi_restore_state\n.cfi_remember_state"),
            inline_cfi!(".cfi_escape 0x0f, 5, 0x77, 0x08, 0x06, 0x23, 0x10"),
            "2:", // rsp = sp + 8, rdi = word, rsi = link or link + 1, r8 = P
            "pop rbx",
            inline_cfi!(".cfi_escape 0x0f, 5, 0x77, 0x00, 0x06, 0x23, 0x10"),
            "pop rbp",
            inline_cfi!(".cfi_restore_state"),
            anchor = in(reg) anchor.as_ptr(),
            inlateout("rdi") word => answer,
            inlateout("rsi") link => flagged,
            inlateout("rdx") sp => _,
            inlateout("r9") to => _,
            inlateout("r8") parked => resumer,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
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
            "mov rsp, [rsi]",
            parent_cfi!(),
            "pop rbp",
            inline_cfi!(".cfi_def_cfa rsp, 16\n.cfi_same_value rbp"),
            "ret",
            inline_cfi!(".cfi_restore_state"),
            in("rax") word,
            in("rdx") mark,
            in("rsi") link,
            options(noreturn),
        )
    }
}

/// [`init_stack`](super::init_stack) for a function that is known when the code is compiled; it uses less than [`INIT_OVERHEAD`](super::INIT_OVERHEAD).
///
/// The object lies at `object_address`.
///
/// # Safety
/// As for [`init_stack`](super::init_stack).
#[inline(always)]
pub(crate) unsafe fn init_start<M: Main>(base: usize, object: M::Object) -> usize {
    let at = object_address::<M::Object>(base);
    // SAFETY: the caller's promise; `at` is aligned and below the link.
    unsafe { (at as *mut M::Object).write(object) };
    // SAFETY: as above.
    unsafe { write_word(at - 8, start_entry::<M> as *const () as usize + PRELUDE_BYTES) };
    at - 8
}

/// The stack pointer of the running code.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let here;
    // SAFETY: a register is read.
    unsafe { asm!("mov {}, rsp", out(reg) here, options(nomem, nostack, preserves_flags)) };
    here
}

/// Starts to load what a resume of a parked fiber touches first. Any values are allowed.
#[inline(always)]
pub fn prefetch(sp: usize, link: usize) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint, which does not fault; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(sp as *const i8) };
    // SAFETY: as above.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(link as *const i8) };
}

/// Registers with which a signal handler has to return, so that a function runs at a fiber's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TrapHandlerRegs {
    /// The code to run.
    pub rip: u64,
    /// The stack pointer for it.
    pub rsp: u64,
    /// The link: the frame record at the base.
    pub rbp: u64,
    /// The first argument.
    pub rdi: u64,
    /// The link, the second argument.
    pub rsi: u64,
}

impl TrapHandlerRegs {
    /// Writes the registers into the context that a signal handler returns to.
    ///
    /// Clears the direction flag too, which a function may rely on. Async-signal-safe.
    pub fn write_to(&self, context: &mut libc::ucontext_t) {
        /// EFLAGS.DF: Intel SDM, volume 1, 3.4.3.2.
        const DIRECTION: i64 = 1 << 10;
        let gregs = &mut context.uc_mcontext.gregs;
        gregs[libc::REG_RIP as usize] = self.rip as i64;
        gregs[libc::REG_RSP as usize] = self.rsp as i64;
        gregs[libc::REG_RBP as usize] = self.rbp as i64;
        gregs[libc::REG_RDI as usize] = self.rdi as i64;
        gregs[libc::REG_RSI as usize] = self.rsi as i64;
        gregs[libc::REG_EFL as usize] &= !DIRECTION;
    }
}

/// The stack pointer of the code that a signal interrupted. Async-signal-safe.
pub fn interrupted_stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
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
    // SAFETY: as above.
    unsafe { write_word(at - 8, base_return()) };
    let link = (base - LINK_OFFSET) as u64;
    TrapHandlerRegs {
        rip: func as *const () as u64,
        rsp: at as u64 - 8,
        rbp: link,
        rdi: at as u64,
        rsi: link,
    }
}

/// The same for an entry written in assembly, which starts like a new fiber's: rsp = rsi = link, rdi = `arg`.
///
/// Writes nothing. Async-signal-safe. rbp = link already.
///
/// # Safety
/// As for [`setup_trap_trampoline`]; `link` is that fiber's, and `entry` the address of such code.
pub unsafe fn setup_trap_trampoline_raw(link: usize, entry: usize, arg: usize) -> TrapHandlerRegs {
    let link = link as u64;
    TrapHandlerRegs {
        rip: entry as u64,
        rsp: link,
        rbp: link,
        rdi: arg as u64,
        rsi: link,
    }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
pub(crate) mod tests;
