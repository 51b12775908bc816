//! Values of any type as the one word that a switch carries.
//!
//! A value of up to 8 bytes is the word; of a larger one, the word is the address. The sender forgets the value
//! and stays parked, or keeps its stack, until the receiver has read it.

use core::mem::ManuallyDrop;

use crate::arch::Word;

/// The word for a value, which the caller does not use again, but keeps in place until it is decoded.
#[inline(always)]
pub(crate) fn encode<T>(value: &ManuallyDrop<T>) -> Word {
    let from = core::ptr::from_ref(value).cast::<u8>();
    if size_of::<T>() > size_of::<Word>() {
        return Word::new(from as u64);
    }
    let mut word = Word::uninit();
    // SAFETY: both are valid for the value's size, which is not larger than the word's, and do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(from, word.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    word
}

/// The value of a word.
///
/// # Safety
/// The word came from `encode` for the same type; if larger than a word, the value is still in place. It is
/// decoded once.
#[inline(always)]
pub(crate) unsafe fn decode<T>(word: Word) -> T {
    if size_of::<T>() > size_of::<Word>() {
        // SAFETY: `encode` initialised the whole word.
        let at = unsafe { word.assume_init() } as *const T;
        // SAFETY: the caller's promise.
        return unsafe { at.read() };
    }
    // SAFETY: `encode` copied a `T` into the word, and the caller takes it out once.
    unsafe { word.as_ptr().cast::<T>().read_unaligned() }
}
