//! Tables that wait for their next store, so that an instance with a table costs neither an allocation nor a mapping for it.
//!
//! A table that waits has no elements, only room for some. Whoever takes it writes all it gets: what an earlier guest left there is
//! never seen ([`TableVm::reset`]).
//!
//! Invariant: an idle table has no elements and no definition, so it refers to nothing, and belongs to the pool alone.

use super::kept::Kept;
use super::table::{TableVm, check_type};
use crate::error::Result;
use selvedge_compiler::TableType;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest table that is kept, in elements: 256 KiB. To zero more of it takes longer than to map it anew.
pub(super) const MAX_POOLED_ELEMENTS: usize = 1 << 15;
/// What the idle tables of an engine may have room for together, in elements: 16 MiB.
const MAX_IDLE_ELEMENTS: usize = 1 << 21;
/// As many may wait: the smallest have no room at all.
const MAX_IDLE: usize = 4096;
/// How many of the tables that may be large enough are looked at.
const TRIES: usize = 8;
const CLASSES: usize = MAX_POOLED_ELEMENTS.ilog2() as usize + 1;

/// A table of the pool's.
struct IdleTable(Kept<TableVm>);

// SAFETY: by the invariant it is memory that nobody else refers to; a table's type is plain data.
unsafe impl Send for IdleTable {}

/// Idle tables by the power of two that their room reaches, the hottest last.
#[derive(Default)]
struct Idle {
    classes: [Vec<IdleTable>; CLASSES],
    count: usize,
    elements: usize,
}

fn class_of(elements: usize) -> usize {
    elements.max(1).ilog2() as usize
}

impl Idle {
    /// A table with room for so many elements, if one waits: of their own class, or of the next, where all are large enough.
    fn take(&mut self, elements: usize) -> Option<Kept<TableVm>> {
        let class = class_of(elements);
        let own = &mut self.classes[class];
        let fits = |index: &usize| own[*index].0.room() >= elements;
        let found = (0..own.len()).rev().take(TRIES).find(fits);
        let table = match found {
            Some(index) => own.swap_remove(index),
            None => self.classes.get_mut(class + 1)?.pop()?,
        };
        self.count -= 1;
        self.elements -= table.0.room();
        Some(table.0)
    }

    fn put(&mut self, table: Kept<TableVm>) {
        let room = table.room();
        if room > MAX_POOLED_ELEMENTS || self.count == MAX_IDLE || self.elements + room > MAX_IDLE_ELEMENTS {
            return;
        }
        let class = &mut self.classes[class_of(room)];
        if class.try_reserve(1).is_err() {
            return;
        }
        class.push(IdleTable(table));
        self.count += 1;
        self.elements += room;
    }
}

/// The idle tables of an engine. Shared by threads; its lock is held for a push or a pop.
#[derive(Default)]
pub(crate) struct TablePool {
    idle: Mutex<Idle>,
}

impl TablePool {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A table of `ty.minimum` elements that are `init`.
    ///
    /// # Errors
    /// More elements than a table may have, or than there is memory for.
    pub(crate) fn take(&self, ty: TableType, init: u64) -> Result<Kept<TableVm>> {
        let elements = check_type(&ty)?;
        if elements <= MAX_POOLED_ELEMENTS
            && let Some(mut table) = self.take_idle(elements)
        {
            table.reset(ty, elements, init);
            return Ok(table);
        }
        Kept::try_new(TableVm::new(ty, init)?, "a table")
    }

    fn take_idle(&self, elements: usize) -> Option<Kept<TableVm>> {
        self.idle().take(elements)
    }

    /// Takes back a table of a store that is no more.
    pub(crate) fn put(&self, mut table: Kept<TableVm>) {
        table.clear();
        self.idle().put(table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_compiler::RefType;

    fn ty(minimum: u64) -> TableType {
        TableType::new(RefType::FUNCREF, minimum, None)
    }

    fn words(table: &TableVm) -> Vec<u64> {
        table.range(0, table.len()).unwrap().to_vec()
    }

    #[test]
    fn a_table_is_used_again_and_keeps_nothing() {
        let pool = TablePool::default();
        let mut table = pool.take(ty(100), 0).unwrap();
        table.fill(77);
        let place = table.as_ptr();
        pool.put(table);
        for (elements, init) in [(100, 0), (65, 5), (100, 9), (0, 0), (3, 0)] {
            let table = pool.take(ty(elements), init).unwrap();
            assert_eq!(words(&table), vec![init; elements as usize]);
            assert_eq!(table.as_ptr() == place, elements > 50, "{elements}");
            pool.put(table);
        }
    }

    #[test]
    fn a_table_that_grows_in_its_old_room_finds_nothing_there() {
        let pool = TablePool::default();
        let mut table = pool.take(ty(100), 77).unwrap();
        table.grow(20, 77).unwrap();
        pool.put(table);
        let mut table = pool.take(ty(90), 1).unwrap();
        assert!(table.room() >= 120, "the same one");
        assert_eq!(table.get(90), None);
        table.grow(30, 2).unwrap();
        assert_eq!(words(&table)[..90], [1; 90]);
        assert_eq!(words(&table)[90..], [2; 30]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let pool = TablePool::default();
        let held: Vec<_> = (0..2 * MAX_IDLE).map(|_| pool.take(ty(1), 0).unwrap()).collect();
        held.into_iter().for_each(|table| pool.put(table));
        assert_eq!(pool.idle().count, MAX_IDLE);
        let pool = TablePool::default();
        let large = MAX_POOLED_ELEMENTS as u64;
        let held: Vec<_> = (0..100).map(|_| pool.take(ty(large), 0).unwrap()).collect();
        held.into_iter().for_each(|table| pool.put(table));
        let elements = pool.idle().elements;
        assert_eq!(elements, MAX_IDLE_ELEMENTS);
        pool.put(pool.take(ty(large + 1), 0).unwrap());
        assert_eq!(pool.idle().elements, elements);
    }
}
