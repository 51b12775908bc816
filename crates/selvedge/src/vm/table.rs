//! Tables: arrays of references, 8 bytes each.
//!
//! A `funcref` element is the address of a function record or 0; an `externref` element is its number or 0.

use super::vmctx::VMTable;
use crate::error::{Error, Result};
use selvedge_compiler::TableType;

/// The most elements a table may have: ten million, as other engines have it, some 80 MB.
pub(crate) const MAX_TABLE_ELEMENTS: u64 = 10_000_000;

/// A table and the definition that generated code reads.
pub(crate) struct TableVm {
    pub(crate) ty: TableType,
    elements: Vec<u64>,
    def: VMTable,
}

impl TableVm {
    /// A table of `ty.minimum` elements.
    ///
    /// # Errors
    /// More elements than a table may have.
    pub(crate) fn new(ty: TableType, init: u64) -> Result<TableVm> {
        if ty.minimum > MAX_TABLE_ELEMENTS {
            return Err(Error::msg(format!(
                "table of {} elements exceeds the limit of {MAX_TABLE_ELEMENTS}",
                ty.minimum
            )));
        }
        let mut table = TableVm {
            ty,
            elements: vec![init; ty.minimum as usize],
            def: VMTable {
                base: std::ptr::null_mut(),
                length: 0,
            },
        };
        table.publish();
        Ok(table)
    }

    /// Writes where the elements are into the definition.
    fn publish(&mut self) {
        self.def = VMTable {
            base: self.elements.as_mut_ptr(),
            length: self.elements.len() as u64,
        };
    }

    /// The definition; valid as long as the table, which does not move ([`super::store`], invariant 4).
    pub(crate) fn vm(&mut self) -> *mut VMTable {
        &raw mut self.def
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> u64 {
        self.elements.len() as u64
    }

    pub(crate) fn get(&self, index: u64) -> Option<u64> {
        // Generated code writes elements through the definition; `elements` is the same memory.
        self.elements.get(usize::try_from(index).ok()?).copied()
    }

    /// The elements from `start`, if there are `length` of them.
    pub(crate) fn range(&self, start: u64, length: u64) -> Option<&[u64]> {
        let end = start.checked_add(length)?;
        self.elements
            .get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// As [`range`](TableVm::range), to write to.
    pub(crate) fn range_mut(&mut self, start: u64, length: u64) -> Option<&mut [u64]> {
        let end = start.checked_add(length)?;
        self.elements
            .get_mut(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// Sets all elements.
    pub(crate) fn fill(&mut self, value: u64) {
        self.elements.fill(value);
    }

    /// The length after growing by `delta` elements, or nothing where a limit forbids it.
    pub(crate) fn grown(&self, delta: u64) -> Option<u64> {
        let limit = self.ty.maximum.unwrap_or(u64::MAX).min(MAX_TABLE_ELEMENTS);
        self.len().checked_add(delta).filter(|&new| new <= limit)
    }

    /// Adds `delta` elements; the old length, or nothing where a limit forbids it.
    pub(crate) fn grow(&mut self, delta: u64, init: u64) -> Option<u64> {
        let old = self.len();
        let new = self.grown(delta)?;
        self.elements.try_reserve_exact(delta as usize).ok()?;
        self.elements.resize(new as usize, init);
        self.publish();
        Some(old)
    }
}
