//! A value on the heap whose address others hold: [`Kept`].

use crate::error::Result;
use crate::room::refused;
use std::alloc::{Layout, alloc};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Owns a `T` that stays where it is. Unlike a `Box`, moving it claims nothing about what it points to: vmctxs, records and
/// generated code hold the address of the `T` meanwhile.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    place: NonNull<T>,
    _owns: PhantomData<T>,
}

impl<T> Kept<T> {
    pub(crate) fn new(value: T) -> Kept<T> {
        Kept {
            place: NonNull::from(Box::leak(Box::new(value))),
            _owns: PhantomData,
        }
    }

    /// As [`new`](Kept::new), for what a module decides the number of; `what` says in an error what it is.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn try_new(value: T, what: &str) -> Result<Kept<T>> {
        let layout = Layout::new::<T>();
        const { assert!(size_of::<T>() > 0) };
        // SAFETY: the size is not zero, as just said.
        let place = unsafe { alloc(layout) }.cast::<T>();
        let place = NonNull::new(place).ok_or_else(|| refused(layout.size(), what))?;
        // SAFETY: just allocated, for a `T`.
        unsafe { place.write(value) };
        Ok(Kept {
            place,
            _owns: PhantomData,
        })
    }

    /// The address, valid as long as this lives.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.place.as_ptr()
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: made in `new`, freed only on drop; who else holds the address does not write while this is borrowed
        // (store invariant 1).
        unsafe { self.place.as_ref() }
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the borrow is unique.
        unsafe { self.place.as_mut() }
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        // SAFETY: came out of a box in `new`, or from the allocator that boxes are from in `try_new`; taken back once.
        drop(unsafe { Box::from_raw(self.place.as_ptr()) });
    }
}
