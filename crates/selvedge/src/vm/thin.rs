//! A list of one word, for what most stores have none or one of.
//!
//! A `Vec` is three words where nothing is in it, and its first element brings room for four. There may be a million stores, each
//! with a dozen lists: here an empty one is a word, and one of one element is an allocation that holds it and its length.
//!
//! ```text
//!   place -> | length, capacity | up to 16 | element | element | room ~
//! ```
//!
//! Invariants
//! 1. `place` is null, or a block of [`layout`](Thin::layout)`(capacity)` bytes that begins with its [`Head`].
//! 2. The first `length` elements are initialised, and `length <= capacity`.

use crate::error::Result;
use crate::room::refused;
use std::alloc::{Layout, alloc, dealloc, realloc};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

/// What lies before the elements.
#[repr(C)]
struct Head {
    length: usize,
    capacity: usize,
}

/// See the head of this file.
pub(crate) struct Thin<T> {
    place: *mut Head,
    _owns: PhantomData<T>,
}

impl<T> Thin<T> {
    /// Where the elements begin, in bytes.
    const START: usize = size_of::<Head>();
    /// Blocks of the allocator's are aligned so anyway, and elements follow the head without a gap.
    const ALIGN: usize = {
        assert!(align_of::<T>() <= 16 && size_of::<T>() > 0);
        16
    };

    pub(crate) const fn new() -> Thin<T> {
        Thin {
            place: ptr::null_mut(),
            _owns: PhantomData,
        }
    }

    fn layout(capacity: usize) -> Layout {
        let elements = Layout::array::<T>(capacity).ok();
        let bytes = elements.and_then(|elements| elements.size().checked_add(Self::START));
        let layout = bytes.and_then(|bytes| Layout::from_size_align(bytes, Self::ALIGN).ok());
        layout.expect("a list is smaller than the address space")
    }

    /// Length and capacity.
    fn head(&self) -> (usize, usize) {
        if self.place.is_null() {
            return (0, 0);
        }
        // SAFETY: invariant 1.
        let head = unsafe { &*self.place };
        (head.length, head.capacity)
    }

    /// The elements' place: never null, aligned; of as many as there is capacity.
    fn elements(&self) -> *mut T {
        if self.place.is_null() {
            return NonNull::dangling().as_ptr();
        }
        self.place.wrapping_byte_add(Self::START).cast()
    }

    /// Adds an element; what was there may move. `what` says in an error what it is.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn push(&mut self, value: T, what: &str) -> Result<()> {
        self.reserve(1, what)?;
        let (length, _) = self.head();
        let end = self.elements().wrapping_add(length);
        // SAFETY: invariant 2, and there is room for one more: inside the block, aligned.
        unsafe { end.write(value) };
        // SAFETY: invariant 1; a block was just made if there was none.
        unsafe { (*self.place).length = length + 1 };
        Ok(())
    }

    /// Makes room for so many more elements; what is there may move.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn reserve(&mut self, more: usize, what: &str) -> Result<()> {
        let (length, capacity) = self.head();
        match capacity - length < more {
            true => self.grow(length, capacity, length + more, what),
            false => Ok(()),
        }
    }

    /// Room for `least` elements, and from the second on for twice as many as there was room for.
    #[cold]
    fn grow(&mut self, length: usize, old: usize, least: usize, what: &str) -> Result<()> {
        let capacity = least.max(2 * old);
        let layout = Self::layout(capacity);
        let place = if self.place.is_null() {
            // SAFETY: the layout has at least the head, so its size is not zero.
            unsafe { alloc(layout) }
        } else {
            // SAFETY: invariant 1: made with this layout; the new size is not zero, and was checked as a layout.
            unsafe { realloc(self.place.cast(), Self::layout(old), layout.size()) }
        };
        if place.is_null() {
            return Err(refused(layout.size(), what));
        }
        self.place = place.cast();
        // SAFETY: the block begins with the head, which is aligned.
        unsafe { self.place.write(Head { length, capacity }) };
        Ok(())
    }
}

impl<T> Deref for Thin<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: invariant 2; without a block there is no element.
        unsafe { slice::from_raw_parts(self.elements(), self.head().0) }
    }
}

impl<T> DerefMut for Thin<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { slice::from_raw_parts_mut(self.elements(), self.head().0) }
    }
}

impl<T> Drop for Thin<T> {
    fn drop(&mut self) {
        let (length, capacity) = self.head();
        if self.place.is_null() {
            return;
        }
        let elements = ptr::slice_from_raw_parts_mut(self.elements(), length);
        // SAFETY: invariant 2; nobody uses the list after this.
        unsafe { ptr::drop_in_place(elements) };
        // SAFETY: invariant 1; freed only here.
        unsafe { dealloc(self.place.cast(), Self::layout(capacity)) };
    }
}

impl<'a, T> IntoIterator for &'a Thin<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn elements_stay_as_the_list_grows_and_are_dropped_once() {
        let counted = Rc::new(());
        let mut list = Thin::new();
        assert!(list.is_empty());
        for number in 0..100_u64 {
            list.push((number, counted.clone()), "numbers").unwrap();
            assert_eq!(Rc::strong_count(&counted), list.len() + 1);
        }
        list[7].0 = 70;
        let sum: u64 = list.iter().map(|(number, _)| number).sum();
        assert_eq!(sum, 4950 + 63);
        drop(list);
        assert_eq!(Rc::strong_count(&counted), 1);
    }

    #[test]
    fn a_list_is_one_word_and_aligns_its_elements() {
        assert_eq!(size_of::<Thin<u8>>(), size_of::<usize>());
        let mut wide = Thin::<u128>::new();
        assert!(wide.iter().next().is_none());
        for number in 0..9 {
            wide.push(number, "numbers").unwrap();
            assert_eq!(wide.as_ptr().addr() % align_of::<u128>(), 0);
        }
        assert_eq!(&*wide, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
