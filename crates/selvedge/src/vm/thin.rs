//! A list of one word, for what most stores have none of.

use std::ops::{Deref, DerefMut};

/// A `Vec` behind a pointer that is null while it is empty. There may be a million stores, each with several of these.
// The second pointer is the point: it is one word here, and is followed rarely.
#[allow(clippy::box_collection)]
pub(crate) struct Thin<T>(Option<Box<Vec<T>>>);

impl<T> Thin<T> {
    pub(crate) const fn new() -> Thin<T> {
        Thin(None)
    }

    pub(crate) fn push(&mut self, value: T) {
        self.0.get_or_insert_default().push(value);
    }
}

impl<T> Deref for Thin<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl<T> DerefMut for Thin<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.as_deref_mut().map_or(&mut [], Vec::as_mut_slice)
    }
}

impl<'a, T> IntoIterator for &'a Thin<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
