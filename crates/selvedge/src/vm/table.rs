//! Tables: arrays of references, 8 bytes each.
//!
//! A `funcref` element is the address of a function record or 0; an `externref` element is its number or 0.

use super::vmctx::VMTable;
use crate::error::{Error, Result};
use selvedge_compiler::TableType;
use std::alloc::{Layout, alloc_zeroed};
use std::ptr;

/// The most elements a table may have: ten million, as other engines have it, some 80 MB.
pub(crate) const MAX_TABLE_ELEMENTS: u64 = 10_000_000;

/// How many elements a table of this type begins with.
///
/// # Errors
/// More than a table may have.
pub(super) fn check_type(ty: &TableType) -> Result<usize> {
    if let Some(maximum) = ty.maximum.filter(|maximum| *maximum < ty.minimum) {
        return Err(Error::msg(format!(
            "a table's minimum of {} elements is above its maximum of {maximum}",
            ty.minimum
        )));
    }
    if ty.minimum > MAX_TABLE_ELEMENTS {
        return Err(Error::msg(format!(
            "table of {} elements exceeds the limit of {MAX_TABLE_ELEMENTS}",
            ty.minimum
        )));
    }
    Ok(ty.minimum as usize)
}

/// So many words, all zero: pages that nobody writes to take no memory.
///
/// # Errors
/// No memory for them: a guest may ask for much.
fn zeroed(count: usize) -> Result<Vec<u64>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let layout = Layout::array::<u64>(count).expect("at most MAX_TABLE_ELEMENTS");
    // SAFETY: the size is not zero.
    let words = unsafe { alloc_zeroed(layout) }.cast::<u64>();
    if words.is_null() {
        return Err(Error::msg(format!(
            "the system refuses a table of {count} elements"
        )));
    }
    // SAFETY: just allocated by the global allocator with the layout of that many words, all of which are initialised.
    Ok(unsafe { Vec::from_raw_parts(words, count, count) })
}

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
    /// More elements than a table may have, or than there is memory for.
    pub(super) fn new(ty: TableType, init: u64) -> Result<TableVm> {
        let elements = check_type(&ty)?;
        let mut table = TableVm {
            ty,
            elements: zeroed(elements)?,
            def: VMTable {
                base: ptr::null_mut(),
                length: 0,
            },
        };
        if init != 0 {
            table.elements.fill(init);
        }
        table.publish();
        Ok(table)
    }

    /// How many elements it has room for.
    pub(super) fn room(&self) -> usize {
        self.elements.capacity()
    }

    /// Makes an idle table, with room for them, one of so many elements that are `init`.
    pub(super) fn reset(&mut self, ty: TableType, elements: usize, init: u64) {
        debug_assert!(self.elements.is_empty() && elements <= self.room());
        self.ty = ty;
        self.elements.resize(elements, init);
        self.publish();
    }

    /// Makes it an idle table: it refers to nothing.
    pub(super) fn clear(&mut self) {
        self.elements.clear();
        self.def = VMTable {
            base: ptr::null_mut(),
            length: 0,
        };
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

    /// All elements, to write to.
    pub(crate) fn elements_mut(&mut self) -> &mut [u64] {
        &mut self.elements
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
