//! What the host holds of the reference heap: handles in scopes, and handles that own.
//!
//! A *scoped* handle is an entry of a stack: it ends with its scope, that is when the host function in which it was made returns,
//! or with a [`RootScope`](crate::RootScope). Scopes nest as activations do, so ending one is a truncation. An *owned* handle
//! counts: the store looks at the count when it collects.
//!
//! Invariants
//! 1. An entry has a serial number that no other entry of the store has had before it, so a handle that has ended finds none.
//!    There are 2^64 - 2 of them; a store that has used them up gives handles that refer to nothing, and says so; and so does one
//!    that finds no memory for an entry.
//! 2. Serial numbers ascend along the stack.

use super::store::StoreVm;
use crate::error::{Error, Result};
use crate::room::{self, refused};
use std::sync::Arc;

/// A scoped handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    store: u64,
    serial: u64,
}

/// A handle that keeps its object as long as it lives, or its store.
#[derive(Clone, Debug)]
pub(crate) struct OwnedRoot {
    store: u64,
    reference: Arc<u32>,
}

/// The serial number of no entry: of a store that has used all up; and where there was no memory for one.
const NO_SERIAL: u64 = 0;
const NO_ROOM: u64 = 1;

/// What errors call the lists.
const WHAT: &str = "the host's references";

/// The handles of one store. Most stores have none, and there may be a million.
#[derive(Default)]
pub(crate) struct Roots {
    /// How many scoped ones there are: known here too for the way of a call, which asks twice.
    count: usize,
    lists: Option<Box<Lists>>,
}

#[derive(Default)]
struct Lists {
    /// Serial numbers and references.
    scoped: Vec<(u64, u32)>,
    /// The last serial number that was given out.
    last: u64,
    owned: Vec<Arc<u32>>,
    /// How many owned handles there may be before those that ended are looked for.
    prune_at: usize,
}

impl Lists {
    /// Takes owned handles away that nobody holds any more.
    fn prune(&mut self) {
        self.owned.retain(|reference| Arc::strong_count(reference) > 1);
        self.prune_at = (2 * self.owned.len()).max(64);
    }

    fn own(&mut self, reference: u32) -> Result<Arc<u32>> {
        if self.owned.len() >= self.prune_at {
            self.prune();
        }
        room::reserve(&mut self.owned, 1, WHAT)?;
        let shared = Arc::new(reference);
        self.owned.push(shared.clone());
        Ok(shared)
    }
}

impl Roots {
    /// Where a scope begins.
    #[inline(always)]
    pub(crate) fn mark(&self) -> usize {
        self.count
    }

    /// Ends the scope that began at `mark`.
    #[inline(always)]
    pub(crate) fn truncate(&mut self, mark: usize) {
        if self.count > mark {
            self.end_scope(mark);
        }
    }

    #[cold]
    fn end_scope(&mut self, mark: usize) {
        if let Some(lists) = &mut self.lists {
            lists.scoped.truncate(mark);
        }
        self.count = mark;
    }

    /// A new entry: its serial number.
    fn add(&mut self, reference: u32) -> u64 {
        let lists = self.lists.get_or_insert_default();
        let Some(serial) = lists.last.max(NO_ROOM).checked_add(1) else {
            return NO_SERIAL;
        };
        if lists.scoped.try_reserve(1).is_err() {
            return NO_ROOM;
        }
        lists.last = serial;
        lists.scoped.push((serial, reference));
        self.count = lists.scoped.len();
        serial
    }

    /// The reference of an entry, if there still is one.
    fn find(&self, serial: u64) -> Option<u32> {
        let scoped = &self.lists.as_ref()?.scoped;
        let index = scoped.binary_search_by_key(&serial, |(serial, _)| *serial).ok()?;
        Some(scoped[index].1)
    }

    /// As [`Lists::prune`].
    pub(crate) fn prune(&mut self) {
        if let Some(lists) = &mut self.lists {
            lists.prune();
        }
    }

    /// Every reference that the host holds.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.lists.iter().flat_map(|lists| {
            let scoped = lists.scoped.iter().map(|(_, reference)| *reference);
            scoped.chain(lists.owned.iter().map(|reference| **reference))
        })
    }
}

impl StoreVm {
    /// A scoped handle of a reference that is not null.
    pub(crate) fn root(&mut self, reference: u32) -> Root {
        Root {
            store: self.id,
            serial: self.roots.add(reference),
        }
    }

    /// What a scoped handle refers to.
    pub(crate) fn rooted(&self, root: Root) -> Result<u32> {
        self.check(root.store, "a reference")?;
        match self.roots.find(root.serial) {
            Some(reference) => Ok(reference),
            None if root.serial == NO_SERIAL => Err(Error::msg(
                "the store has made all 2^64 - 2 references that it has numbers for: use another store",
            )),
            None if root.serial == NO_ROOM => {
                Err(refused((self.roots.count + 1) * size_of::<(u64, u32)>(), WHAT))
            }
            None => Err(Error::msg(
                "a reference was used after its scope: make it an owned one in time (`to_owned`)",
            )),
        }
    }

    /// Makes room for so many scoped handles: the next ones are no failures.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn reserve_roots(&mut self, more: usize) -> Result<()> {
        room::reserve(&mut self.roots.lists.get_or_insert_default().scoped, more, WHAT)
    }

    /// An owned handle of a reference.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn own(&mut self, reference: u32) -> Result<OwnedRoot> {
        Ok(OwnedRoot {
            store: self.id,
            reference: self.roots.lists.get_or_insert_default().own(reference)?,
        })
    }

    /// What an owned handle refers to.
    pub(crate) fn owned(&self, root: &OwnedRoot) -> Result<u32> {
        self.check(root.store, "a reference")?;
        Ok(*root.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;

    /// A store's roots, of which as many were made as leave so many.
    fn roots_with_left(left: u64) -> StoreVm {
        let mut vm = StoreVm::new(Engine::default());
        vm.roots.lists.get_or_insert_default().last = u64::MAX - left;
        vm
    }

    #[test]
    fn a_handle_of_a_scope_that_ended_finds_no_later_entry() {
        // Around each power of two at which a counter could begin again.
        for last in [0, u64::from(u32::MAX) - 3, (1 << 33) - 3, u64::MAX - 10] {
            let mut vm = roots_with_left(u64::MAX - last);
            let outer = vm.root(1);
            let mark = vm.roots.mark();
            let ended: Vec<Root> = (0..4).map(|reference| vm.root(10 + reference)).collect();
            vm.roots.truncate(mark);
            let later: Vec<Root> = (0..4).map(|reference| vm.root(20 + reference)).collect();
            for root in ended {
                let error = vm.rooted(root).unwrap_err().to_string();
                assert!(error.contains("after its scope"), "{error}");
            }
            for (root, reference) in later.iter().zip(20..) {
                assert_eq!(vm.rooted(*root).unwrap(), reference);
            }
            assert_eq!(vm.rooted(outer).unwrap(), 1);
            assert_eq!(vm.roots.iter().count(), 5);
        }
    }

    #[test]
    fn a_store_without_serial_numbers_refuses_references_and_keeps_those_it_has() {
        let mut vm = roots_with_left(2);
        let (first, second) = (vm.root(1), vm.root(2));
        for _ in 0..3 {
            let refused = vm.root(3);
            let error = vm.rooted(refused).unwrap_err().to_string();
            assert!(error.contains("2^64 - 2"), "{error}");
        }
        assert_eq!((vm.rooted(first).unwrap(), vm.rooted(second).unwrap()), (1, 2));
        assert_eq!(vm.roots.mark(), 2);
        vm.roots.truncate(0);
        assert!(vm.rooted(first).is_err());
    }
}
