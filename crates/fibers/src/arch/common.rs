//! What needs no assembly, for all architectures: types, preparing a stack, and the public face of the switches.
//!
//! An architecture gives its numbers ([`ENTRY_OFFSET`], [`OBJECT_OFFSET`]), the entry of a new fiber and the switches themselves.

use core::mem::MaybeUninit;

use super::{
    ENTRY_OFFSET, OBJECT_OFFSET, PRELUDE_BYTES, base_return, fiber_entry, switch_and_finish,
    switch_and_link_direct_word, switch_transfer_word, switch_yield_word,
};

/// Alignment of a base, and of the stack pointer where fiber code starts, in bytes.
pub const STACK_ALIGN: usize = 16;

/// `link = base - LINK_OFFSET`: where the parent link lies.
pub const LINK_OFFSET: usize = 16;

/// `base - BASE_RETURN_OFFSET`: the word that holds [`base_return`], so that the link is a frame record.
pub const BASE_RETURN_OFFSET: usize = 8;

/// Offset of the parent's return address from its frame record.
pub const PARENT_RETURN_OFFSET: usize = 8;

/// Bytes below the base that [`init_stack`] uses besides the object and its alignment.
pub const INIT_OVERHEAD: usize = 48;

const _: () = assert!(LINK_OFFSET + OBJECT_OFFSET <= INIT_OVERHEAD);

/// A word that travels through a switch; it may be partly uninitialised, as a value with padding is.
pub(crate) type Word = MaybeUninit<u64>;

/// The function that a typed fiber starts with: the first word, the link, and the object on its stack.
///
/// It never returns; it ends in [`switch_and_reset`], and must not unwind.
pub type InitialFunc<T> = unsafe extern "C" fn(word: u64, link: usize, object: *mut T) -> !;

/// The function that [`setup_trap_trampoline`](super::setup_trap_trampoline) makes run: the value on the stack, and the link.
///
/// It never returns; it ends in [`switch_and_reset`], and must not unwind.
pub type TrapFunc<T> = unsafe extern "C" fn(value: *mut T, link: usize) -> !;

/// A function that [`call_on_stack`](super::call_on_stack) calls. It may unwind.
pub type StackCallFunc = unsafe extern "C-unwind" fn(arg: *mut u8);

/// What a fiber has when it goes on.
pub(crate) struct Resumed {
    /// The word that it was given; always written by who resumes.
    pub(crate) word: Word,
    /// Whether it shall unwind.
    pub(crate) unwind: bool,
    /// P: what its parent link holds now.
    pub(crate) parent: usize,
}

impl Resumed {
    /// `flagged_link` is the link, and has bit 0 when the fiber shall unwind.
    #[inline(always)]
    pub(super) fn new(word: Word, flagged_link: usize, parent: usize) -> Resumed {
        Resumed {
            word,
            unwind: flagged_link & 1 != 0,
            parent,
        }
    }
}

/// [`switch_and_link`](super::switch_and_link) for fibers whose code has the prelude: those of [`init_stack`] that park in
/// [`switch_yield`], and assembly that brings it along. Faster: on x86-64 by a third.
///
/// # Safety
/// As for `switch_and_link`; besides, the architecture's parking prelude precedes the code address at `sp`.
#[inline(always)]
pub unsafe fn switch_and_link_direct(word: u64, sp: usize, link: usize) -> (u64, usize) {
    // SAFETY: the caller's promise.
    let (word, sp) = unsafe { switch_and_link_direct_word(Word::new(word), sp, link) };
    // SAFETY: a fiber always writes the word before it switches.
    (unsafe { word.assume_init() }, sp)
}

/// Parks this fiber and hands `word` to its parent; returns at the next resume.
///
/// Returns the word of that resume, and `true` when the fiber shall unwind ([`switch_and_throw`](super::switch_and_throw); the
/// word means nothing then).
///
/// # Safety
/// The running code is on the fiber whose link is `link`, and was resumed by this module's protocol. No state of
/// this thread may be assumed unchanged afterwards if the fiber can be resumed on another thread.
#[inline(always)]
pub unsafe fn switch_yield(word: u64, link: usize) -> (u64, bool) {
    // SAFETY: the caller's promise: the link holds P.
    let parent = unsafe { (link as *const usize).read() };
    // SAFETY: the caller's promise.
    let resumed = unsafe { switch_yield_word(Word::new(word), parent) };
    // SAFETY: whoever resumes always writes the word.
    (unsafe { resumed.word.assume_init() }, resumed.unwind)
}

/// Parks this fiber and continues another in its place: that has this one's parent from now on.
///
/// Writes this fiber's `sp` to `parked`; it is then parked as in [`switch_yield`], and is resumed, thrown or transferred to
/// like any other; returns as `switch_yield` does. The parent sees nothing of this: its
/// [`switch_and_link`](super::switch_and_link) returns what the fiber gives that goes back to it, with that one's `sp`. So who
/// resumes must know by other means whose `sp` that is, and must not resume by a number that it had before.
///
/// Cost: less than a switch; no return is predicted.
///
/// # Safety
/// As for [`switch_yield`]; as for `switch_and_link` for `sp` and `to`, the link of another fiber; both fibers may run on this
/// thread. The parent expects what either of them may give it. `parked` can be written, and the fiber at `sp` may read it.
#[inline(always)]
pub unsafe fn switch_transfer(
    word: u64,
    link: usize,
    sp: usize,
    to: usize,
    parked: *mut usize,
) -> (u64, bool) {
    // SAFETY: the caller's promise.
    let resumed = unsafe { switch_transfer_word(Word::new(word), link, sp, to, parked) };
    // SAFETY: whoever resumes always writes the word.
    (unsafe { resumed.word.assume_init() }, resumed.unwind)
}

/// Goes back to the parent for the last time: its [`switch_and_link`](super::switch_and_link) returns `word` and the sp 0.
///
/// The stack is still there, so `word` may point to it until the parent frees or reuses it.
///
/// # Safety
/// As for [`switch_yield`], and nothing on the fiber's stack needs to be dropped.
#[inline(always)]
pub unsafe fn switch_and_reset(word: u64, link: usize) -> ! {
    // SAFETY: the caller's promise.
    unsafe { switch_and_finish(Word::new(word), link, 0) }
}

/// Prepares a stack so that the first resume calls `func` with `object`, which is moved to the stack.
///
/// Returns the `sp` for [`switch_and_link`](super::switch_and_link). Uses [`INIT_OVERHEAD`] bytes, the object's size and its
/// alignment.
///
/// # Safety
/// `base` is 16-aligned and the memory below it is writable, unused, and large enough.
#[inline]
pub unsafe fn init_stack<T>(base: usize, func: InitialFunc<T>, object: T) -> usize {
    // SAFETY: the caller's promise; the word lies within INIT_OVERHEAD.
    unsafe { write_word(base - BASE_RETURN_OFFSET, base_return()) };
    let at = object_address::<T>(base);
    // SAFETY: the caller's promise; `at` is aligned and below the link.
    unsafe { (at as *mut T).write(object) };
    // SAFETY: as above.
    unsafe { write_word(at - 8, base_return()) };
    // SAFETY: as above.
    unsafe { write_word(at - 16, func as *const () as usize) };
    let sp = at - OBJECT_OFFSET;
    // SAFETY: as above.
    unsafe { write_word(sp, fiber_entry as *const () as usize + PRELUDE_BYTES) };
    sp
}

/// Prepares a stack so that the first resume jumps to `entry` with the stack pointer and the link's register at `base - 16`, and
/// the word in its register.
///
/// Returns the `sp`, which is `base - ENTRY_OFFSET`. For entries written in assembly: they set the frame pointer first, and
/// describe themselves with the architecture's `base_cfi` macro.
///
/// # Safety
/// `base` is 16-aligned and the [`ENTRY_OFFSET`] bytes below it are writable and unused.
#[inline(always)]
pub unsafe fn init_entry(base: usize, entry: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { write_word(base - BASE_RETURN_OFFSET, base_return()) };
    // SAFETY: the caller's promise.
    unsafe { write_word(base - ENTRY_OFFSET, entry) };
    base - ENTRY_OFFSET
}

/// Drops the object of a fiber that was never resumed.
///
/// # Safety
/// `sp` came from [`init_stack`] with an object of the type that `drop` expects, was never resumed, and
/// never will be.
pub unsafe fn drop_initial_obj(sp: usize, drop: unsafe fn(*mut u8)) {
    // SAFETY: the object lies where `init_stack` put it, and the caller promises that it is still there.
    unsafe { drop((sp + OBJECT_OFFSET) as *mut u8) }
}

/// Where an object of type `T` lies on a stack: below the link, aligned for itself and for a call.
#[inline(always)]
pub(super) fn object_address<T>(base: usize) -> usize {
    let align = if align_of::<T>() > STACK_ALIGN {
        align_of::<T>()
    } else {
        STACK_ALIGN
    };
    (base - LINK_OFFSET - size_of::<T>()) & !(align - 1)
}

/// # Safety
/// `at` is 8-aligned and writable.
#[inline(always)]
pub(super) unsafe fn write_word(at: usize, word: usize) {
    // SAFETY: the caller's promise.
    unsafe { (at as *mut usize).write(word) }
}
