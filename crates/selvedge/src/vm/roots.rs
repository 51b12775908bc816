//! What the host holds of the reference heap: handles in scopes, and handles that own.
//!
//! A *scoped* handle is an entry of a stack: it ends with its scope, that is when the host function in which it was made returns,
//! or with a [`RootScope`](crate::RootScope). Scopes nest as activations do, so ending one is a truncation. An *owned* handle
//! counts: the store looks at the count when it collects.
//!
//! Invariant: a handle is right if and only if the entry at its index has its generation. Each truncation that takes something
//! away begins a new generation, so a handle that has ended finds another one or none.

use super::store::StoreVm;
use crate::error::{Error, Result};
use std::sync::Arc;

/// A scoped handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    store: u64,
    index: u32,
    generation: u32,
}

/// A handle that keeps its object as long as it lives, or its store.
#[derive(Clone, Debug)]
pub(crate) struct OwnedRoot {
    store: u64,
    reference: Arc<u32>,
}

/// The handles of one store.
#[derive(Default)]
pub(crate) struct Roots {
    scoped: Vec<(u32, u32)>,
    generation: u32,
    owned: Vec<Arc<u32>>,
    /// How many owned handles there may be before those that ended are looked for.
    prune_at: usize,
}

impl Roots {
    /// Where a scope begins.
    #[inline(always)]
    pub(crate) fn mark(&self) -> usize {
        self.scoped.len()
    }

    /// Ends the scope that began at `mark`.
    #[inline(always)]
    pub(crate) fn truncate(&mut self, mark: usize) {
        if self.scoped.len() > mark {
            self.end_scope(mark);
        }
    }

    #[cold]
    fn end_scope(&mut self, mark: usize) {
        self.scoped.truncate(mark);
        self.generation = self.generation.wrapping_add(1);
    }

    /// Takes owned handles away that nobody holds any more.
    pub(crate) fn prune(&mut self) {
        self.owned.retain(|reference| Arc::strong_count(reference) > 1);
        self.prune_at = (2 * self.owned.len()).max(64);
    }

    /// Every reference that the host holds.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let scoped = self.scoped.iter().map(|(reference, _)| *reference);
        scoped.chain(self.owned.iter().map(|reference| **reference))
    }
}

impl StoreVm {
    /// A scoped handle of a reference that is not null.
    pub(crate) fn root(&mut self, reference: u32) -> Root {
        let roots = &mut self.roots;
        roots.scoped.push((reference, roots.generation));
        Root {
            store: self.id,
            index: roots.scoped.len() as u32 - 1,
            generation: roots.generation,
        }
    }

    /// What a scoped handle refers to.
    pub(crate) fn rooted(&self, root: Root) -> Result<u32> {
        self.check(root.store, "a reference")?;
        match self.roots.scoped.get(root.index as usize) {
            Some((reference, generation)) if *generation == root.generation => Ok(*reference),
            _ => Err(Error::msg(
                "a reference was used after its scope: make it an owned one in time",
            )),
        }
    }

    /// An owned handle of a reference.
    pub(crate) fn own(&mut self, reference: u32) -> OwnedRoot {
        let shared = Arc::new(reference);
        if self.roots.owned.len() >= self.roots.prune_at {
            self.roots.prune();
        }
        self.roots.owned.push(shared.clone());
        OwnedRoot {
            store: self.id,
            reference: shared,
        }
    }

    /// What an owned handle refers to.
    pub(crate) fn owned(&self, root: &OwnedRoot) -> Result<u32> {
        self.check(root.store, "a reference")?;
        Ok(*root.reference)
    }
}
