//! Growing a memory or a table: the one place that says what it does, what it costs, and why it did not, whoever asked.
//!
//! A guest gets -1 where a limit or the system refuses; the host an error with the numbers. A guest's `table.grow` costs fuel by the
//! elements it adds; one that fails does nothing, and costs nothing.

use super::instance::InstanceVm;
use super::store::StoreVm;
use super::table::MAX_TABLE_ELEMENTS;
use crate::error::{Error, Result};
use crate::limits::{Growth, GrowthKind};
use crate::trap::Trap;
use selvedge_compiler::{Builtin, MemoryType, TableType};

/// What is to grow, by its store's index, and by how much.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grow {
    Memory { index: usize, pages: u64 },
    Table { index: usize, elements: u64, init: u64 },
}

/// The answer of an operation that failed without a trap: -1, in 32 or 64 bits.
pub(super) const FAILED: u64 = u64::MAX;

/// A memory that grows, or is made, as the limiter is asked about it.
pub(super) fn of_memory(ty: &MemoryType, current_pages: u64, desired_pages: u64) -> Growth {
    let bytes = |pages: u64| pages.saturating_mul(ty.page_size());
    Growth {
        kind: GrowthKind::Memory,
        current: bytes(current_pages),
        desired: bytes(desired_pages),
        maximum: ty.maximum.map(bytes),
    }
}

/// As [`of_memory`], of a table.
pub(super) fn of_table(ty: &TableType, current: u64, desired: u64) -> Growth {
    Growth {
        kind: GrowthKind::Table,
        current,
        desired,
        maximum: ty.maximum,
    }
}

impl Grow {
    /// What a guest asks for by `memory.grow` or `table.grow`.
    pub(super) fn of_guest(instance: &InstanceVm, builtin: Builtin, [object, b, c, ..]: [u64; 5]) -> Grow {
        match builtin {
            Builtin::MemoryGrow => Grow::Memory {
                index: instance.memories()[object as usize] as usize,
                pages: b,
            },
            _ => Grow::Table {
                index: instance.tables()[object as usize] as usize,
                init: b,
                elements: c,
            },
        }
    }

    /// What it means, if the type allows it.
    pub(super) fn growth(self, store: &StoreVm) -> Option<Growth> {
        match self {
            Grow::Memory { index, pages } => {
                let memory = &store.memories[index];
                let (ty, current) = (memory.ty(), memory.size_pages());
                let desired = current.checked_add(pages)?;
                (desired <= most_pages(&ty)).then(|| of_memory(&ty, current, desired))
            }
            Grow::Table { index, elements, .. } => {
                let table = &store.tables[index];
                Some(of_table(&table.ty, table.len(), table.grown(elements)?))
            }
        }
    }

    /// Does it for a guest: the old size, or -1.
    ///
    /// # Errors
    /// No fuel for it.
    pub(super) fn run(self, store: &mut StoreVm) -> std::result::Result<u64, Trap> {
        if let Grow::Table { index, elements, .. } = self
            && store.tables[index].grown(elements).is_some()
        {
            store.charge(elements)?;
        }
        Ok(self.try_run(store).unwrap_or(FAILED))
    }

    /// Does it for the host: the old size.
    ///
    /// # Errors
    /// Beyond the maximum, or no memory; nothing has changed then.
    pub(crate) fn run_for_host(self, store: &mut StoreVm) -> Result<u64> {
        self.try_run(store).ok_or_else(|| self.refusal(store))
    }

    fn try_run(self, store: &mut StoreVm) -> Option<u64> {
        match self {
            Grow::Memory { index, pages } => store.memories[index].grow(pages),
            Grow::Table {
                index,
                elements,
                init,
            } => store.tables[index].grow(elements, init),
        }
    }

    /// Why it was not done.
    #[cold]
    fn refusal(self, store: &StoreVm) -> Error {
        match self {
            Grow::Memory { index, pages } => {
                let memory = &store.memories[index];
                refused_memory(&memory.ty(), memory.size_pages(), pages)
            }
            Grow::Table { index, elements, .. } => {
                let table = &store.tables[index];
                refused_table(&table.ty, table.len(), elements)
            }
        }
    }
}

fn most_pages(ty: &MemoryType) -> u64 {
    ty.maximum.unwrap_or(u64::MAX).min(ty.most_pages())
}

/// Why a memory of `size` pages has not grown by `delta`.
#[cold]
pub(crate) fn refused_memory(ty: &MemoryType, size: u64, delta: u64) -> Error {
    let most = most_pages(ty);
    let reason = match size.checked_add(delta) {
        Some(pages) if pages <= most => the_system_refuses(pages.saturating_mul(ty.page_size())),
        _ => format!("its maximum is {most} pages"),
    };
    Error::msg(format!("memory of {size} pages cannot grow by {delta}: {reason}"))
}

/// Why a table of `size` elements has not grown by `delta`.
#[cold]
fn refused_table(ty: &TableType, size: u64, delta: u64) -> Error {
    let most = ty.maximum.unwrap_or(u64::MAX).min(MAX_TABLE_ELEMENTS);
    let reason = match size.checked_add(delta) {
        Some(elements) if elements <= most => the_system_refuses(elements * size_of::<u64>() as u64),
        _ if most < MAX_TABLE_ELEMENTS => format!("its maximum is {most} elements"),
        _ => format!("the limit is {most} elements"),
    };
    Error::msg(format!(
        "table of {size} elements cannot grow by {delta}: {reason}"
    ))
}

fn the_system_refuses(bytes: u64) -> String {
    format!("the system refuses {bytes} bytes")
}
