//! Free stacks: a list of any length linked through their headers, and a handful on the way.

use core::ptr::{self, NonNull};

use super::magazine;
use super::region::SlotHeader;

/// Free stacks, the one added last first. Its owner holds the pool's lock.
pub(super) struct List {
    head: *mut SlotHeader,
    len: usize,
}

impl List {
    pub(super) const fn new() -> List {
        List {
            head: ptr::null_mut(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn pop(&mut self) -> Option<NonNull<SlotHeader>> {
        let slot = NonNull::new(self.head)?;
        // SAFETY: headers are always valid (invariant 1 of the pool).
        self.head = unsafe { slot.as_ref() }.next();
        self.len -= 1;
        Some(slot)
    }

    pub(super) fn push(&mut self, slot: NonNull<SlotHeader>) {
        // SAFETY: headers are always valid (invariant 1 of the pool).
        unsafe { slot.as_ref() }.set_next(self.head);
        self.head = slot.as_ptr();
        self.len += 1;
    }
}

/// The stacks of one bin at most, coldest first, that one thread has in its hands.
pub(super) struct Handful {
    slots: [Option<NonNull<SlotHeader>>; magazine::MOST],
    len: usize,
}

impl Handful {
    pub(super) const fn new() -> Handful {
        Handful {
            slots: [None; magazine::MOST],
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    pub(super) fn push(&mut self, slot: NonNull<SlotHeader>) {
        self.slots[self.len] = Some(slot);
        self.len += 1;
    }

    /// Takes the hottest.
    pub(super) fn pop(&mut self) -> Option<NonNull<SlotHeader>> {
        self.len = self.len.checked_sub(1)?;
        self.slots[self.len].take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = NonNull<SlotHeader>> {
        self.slots[..self.len].iter().flatten().copied()
    }
}
