//! How typed fibers and calls get onto their stacks, where the function is known when the code is compiled.
//!
//! The raw layer takes functions as values: a word on the stack, and an indirect jump. Here the type names the function,
//! so that the trampoline is made for it and jumps there directly. Architectures without such a trampoline
//! use those of the raw layer.

use core::mem::ManuallyDrop;

use crate::arch::{self, Word};
use crate::unwind::{self, PANICKED, RETURNED};
use crate::value::{decode, encode};

/// The first function of a typed fiber.
pub(crate) trait Main {
    /// What lies on the stack for it.
    type Object;

    /// Runs at the base of a fiber, with the first resume's word, the link and the object, and never returns.
    ///
    /// # Safety
    /// Entered as [`prepare`] arranges it.
    unsafe extern "C" fn main(word: Word, link: usize, object: *mut Self::Object) -> !;
}

/// Prepares a stack so that the first resume calls `M::main` with the object, which is moved to the stack. Returns the `sp`.
///
/// # Safety
/// As for [`init_stack`](crate::raw::init_stack).
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn prepare<M: Main>(base: usize, object: M::Object) -> usize {
    // SAFETY: the caller's promise.
    unsafe { arch::init_start::<M>(base, object) }
}

/// The same with the trampoline of the raw layer.
///
/// # Safety
/// As for [`init_stack`](crate::raw::init_stack).
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) unsafe fn prepare<M: Main>(base: usize, object: M::Object) -> usize {
    type WordMain<T> = unsafe extern "C" fn(Word, usize, *mut T) -> !;
    let main: WordMain<M::Object> = M::main;
    // SAFETY: the types differ in `MaybeUninit<u64>` for `u64`, which is passed in the same way.
    let main = unsafe { core::mem::transmute::<WordMain<M::Object>, arch::InitialFunc<M::Object>>(main) };
    // SAFETY: the caller's promise.
    unsafe { arch::init_stack(base, main, object) }
}

/// Drops the object of a fiber that was never resumed.
///
/// # Safety
/// The `sp` came from [`prepare`] for an object that `drop` expects, was never resumed, and never will be.
#[inline]
pub(crate) unsafe fn drop_object(sp: usize, drop: unsafe fn(*mut u8)) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the object lies above the entry's address, and the caller promises that it is still there.
    unsafe {
        drop((sp + size_of::<usize>()) as *mut u8)
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promise.
    unsafe {
        arch::drop_initial_obj(sp, drop)
    }
}

/// What a call on another stack gives: a word, and whether that is a value or a panic.
#[repr(C)]
pub(crate) struct Answer {
    word: Word,
    mark: usize,
}

/// A function that is called on another stack.
pub(crate) trait StackCall {
    /// Takes a word and gives one.
    ///
    /// # Safety
    /// The word is what the implementor expects. A panic's word is read before the stack is used again.
    unsafe extern "C" fn call(word: Word) -> Answer;
}

/// A closure and its value; both fit into a word.
struct InWords<F, R>(core::marker::PhantomData<fn(F) -> R>);

impl<F: FnOnce() -> R, R> StackCall for InWords<F, R> {
    unsafe extern "C" fn call(word: Word) -> Answer {
        // SAFETY: the caller encoded an `F`, and forgets it.
        let body = unsafe { decode::<F>(word) };
        match unwind::catch(body) {
            Ok(value) => Answer {
                word: encode(&ManuallyDrop::new(value)),
                mark: RETURNED,
            },
            Err(payload) => panicked(payload),
        }
    }
}

/// A closure, and later its value, in a slot whose address is the word.
struct InSlot<F, R>(core::marker::PhantomData<fn(F) -> R>);

/// The slot: all at offset 0.
#[repr(C)]
union Slot<F, R> {
    body: ManuallyDrop<F>,
    value: ManuallyDrop<R>,
}

impl<F: FnOnce() -> R, R> StackCall for InSlot<F, R> {
    unsafe extern "C" fn call(word: Word) -> Answer {
        // SAFETY: the caller encoded an address.
        let slot = unsafe { decode::<*mut Slot<F, R>>(word) };
        // SAFETY: the slot holds `body`, and nobody reads it again.
        let body = unsafe { slot.cast::<F>().read() };
        match unwind::catch(body) {
            Ok(value) => {
                // SAFETY: the slot is valid and holds nothing now.
                unsafe { slot.cast::<R>().write(value) };
                Answer { word, mark: RETURNED }
            }
            Err(payload) => panicked(payload),
        }
    }
}

/// The answer that is a panic: a box of its payload, which stays valid whatever becomes of the stack.
#[cold]
#[inline(never)]
fn panicked(payload: unwind::Payload) -> Answer {
    Answer {
        word: encode(&ManuallyDrop::new(unwind::pack(payload))),
        mark: PANICKED,
    }
}

/// Calls `body` with the stack pointer `base`, and comes back. Panics go on in the caller.
///
/// # Safety
/// `base` is 16-aligned, and the memory below it is a stack that nobody uses until this returns, with room
/// for `body`.
#[inline(always)]
pub(crate) unsafe fn call_on<F: FnOnce() -> R, R>(base: usize, body: F) -> R {
    if size_of::<F>() <= size_of::<Word>() && size_of::<R>() <= size_of::<Word>() {
        let body = ManuallyDrop::new(body);
        // SAFETY: the caller's promise for the stack; the word is the body, which is not used again.
        let word = unsafe { enter::<InWords<F, R>>(encode(&body), base) };
        // SAFETY: `call` returned, so it encoded an `R`.
        return unsafe { decode(word) };
    }
    let mut slot = Slot::<F, R> {
        body: ManuallyDrop::new(body),
    };
    let word = encode(&ManuallyDrop::new(&raw mut slot));
    // SAFETY: the caller's promise for the stack; `call` gets the slot it expects. When it panicked, the slot is empty and
    // a union drops nothing.
    unsafe { enter::<InSlot<F, R>>(word, base) };
    // SAFETY: `call` returned, so it wrote the value.
    ManuallyDrop::into_inner(unsafe { slot.value })
}

/// Runs `C::call` with the stack pointer `base`, and goes on with its panic.
///
/// # Safety
/// As for [`call_on`], and the word is what `C` expects.
#[inline(always)]
unsafe fn enter<C: StackCall>(word: Word, base: usize) -> Word {
    // SAFETY: the caller's promise.
    let (word, mark) = unsafe { enter_marked::<C>(word, base) };
    if mark != RETURNED {
        // SAFETY: the mark says that a panic's word came.
        let packed = unsafe { decode(word) };
        // SAFETY: as above; it is used here only.
        unsafe { unwind::resume_packed(packed) }
    }
    word
}

/// Runs `C::call` with the stack pointer `base`.
///
/// # Safety
/// As for [`call_on`], and the word is what `C` expects.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn enter_marked<C: StackCall>(word: Word, base: usize) -> (Word, usize) {
    // SAFETY: the caller's promise.
    unsafe { arch::stack_call::<C>(word, base) }
}

/// The same with the trampoline of the raw layer.
///
/// # Safety
/// As for [`call_on`], and the word is what `C` expects.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn enter_marked<C: StackCall>(word: Word, base: usize) -> (Word, usize) {
    /// # Safety
    /// `word` points to one that `C` expects, in an answer.
    unsafe extern "C-unwind" fn through_memory<C: StackCall>(answer: *mut u8) {
        let answer = answer.cast::<Answer>();
        // SAFETY: the caller's.
        let given = unsafe { answer.read() };
        // SAFETY: the caller's promise.
        let given = unsafe { C::call(given.word) };
        // SAFETY: the caller's.
        unsafe { answer.write(given) };
    }
    let mut answer = Answer { word, mark: RETURNED };
    // SAFETY: the caller's promise.
    unsafe { arch::call_on_stack((&raw mut answer).cast(), base, through_memory::<C>) };
    (answer.word, answer.mark)
}
