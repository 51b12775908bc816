//! The memory of an instance: one block, which begins with the vmctx.
//!
//! ```text
//!   vmctx = InstanceVm | imported functions .. function records | host records | lists            |
//!           header       what generated code knows, by layout     of imports     of the runtime's
//!   start                                                                        + lists
//! ```
//!
//! The lists are the store's indices of the memories and of the tables, imports first, four bytes each, and then a byte for each data
//! and each element segment: whether it was dropped. There may be a million instances: so this is one allocation, with no word twice.
//!
//! Invariants
//! 1. The block is 16-aligned, of [`block_layout`]'s size for its module and its number of host records, and does not move or end
//!    before its store. What nobody has written yet is zero.
//! 2. A host record of the block owns one count of its function, unless it is still zero.
//! 3. The module of an instance never changes, so neither does what the offsets mean.

use super::super::host::HostFunc;
use super::super::store::StoreVm;
use super::super::vmctx::{HostRecord, VMImportedFunc};
use crate::error::{Error, Result};
use crate::module::Module;
use selvedge_compiler::{ModuleInfo, VmLayout, layout};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::mem::{self, offset_of};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

/// An instance: the header of its vmctx. What follows it in the block is reached through `start`.
#[repr(C)]
pub(crate) struct InstanceVm {
    /// Generated code reads it as the store's context, with which the store begins.
    store: *mut StoreVm,
    pub(crate) module: Module,
    /// The block's first byte, which is this header's: a pointer to the whole block.
    start: NonNull<u8>,
    host_records: u32,
    /// Offset of the lists.
    lists: u32,
}

const _: () = {
    assert!(offset_of!(InstanceVm, store) == layout::CONTEXT_STORE as usize);
    assert!(size_of::<InstanceVm>() == layout::VMCTX_HEADER_BYTES as usize);
};

/// Offset of the host records: the vmctx ends there.
fn records_offset(info: &ModuleInfo) -> usize {
    info.layout.size() as usize
}

fn lists_offset(info: &ModuleInfo, host_records: u32) -> usize {
    records_offset(info) + host_records as usize * size_of::<HostRecord>()
}

/// The size of a block, which is less than 4 GiB: a module has at most a million of everything.
fn block_layout(info: &ModuleInfo, host_records: u32) -> Layout {
    let indices = (info.memories.len() + info.tables.len()) * size_of::<u32>();
    let flags = info.data.len() + info.elements.len();
    let bytes = lists_offset(info, host_records) + indices + flags;
    let bytes = u32::try_from(bytes).expect("an instance is smaller than 4 GiB");
    Layout::from_size_align(bytes as usize, 16).expect("less than 4 GiB")
}

impl InstanceVm {
    /// The instance of a vmctx.
    pub(crate) fn from_vmctx(vmctx: *mut u8) -> *mut InstanceVm {
        vmctx.cast()
    }

    pub(crate) fn store(&self) -> *mut StoreVm {
        self.store
    }

    pub(super) fn info(&self) -> &ModuleInfo {
        self.module.info()
    }

    pub(super) fn layout(&self) -> &VmLayout {
        &self.info().layout
    }

    pub(super) fn vmctx(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The address of a field of the vmctx.
    pub(super) fn at<T>(&self, offset: u32) -> *mut T {
        debug_assert!(offset as usize + size_of::<T>() <= self.layout().size() as usize);
        self.start.as_ptr().wrapping_add(offset as usize).cast()
    }

    /// Writes a field of the vmctx behind its header.
    pub(super) fn write<T>(&self, offset: u32, value: T) {
        debug_assert!(offset >= layout::VMCTX_HEADER_BYTES);
        // SAFETY: inside the block (`at`), aligned as the layout's arrays are; no generated code runs meanwhile.
        unsafe { self.at::<T>(offset).write(value) };
    }

    fn lists(&self) -> *mut u8 {
        self.start.as_ptr().wrapping_add(self.lists as usize)
    }

    /// The store's indices of the instance's memories, imports first.
    #[inline]
    pub(crate) fn memories(&self) -> &[u32] {
        let count = self.info().memories.len();
        // SAFETY: invariant 1: the first list has so many; it is written by `set_objects` only, under a unique borrow.
        unsafe { slice::from_raw_parts(self.lists().cast(), count) }
    }

    /// The store's indices of the instance's tables, imports first.
    #[inline]
    pub(crate) fn tables(&self) -> &[u32] {
        let info = self.info();
        let start = self.lists().cast::<u32>().wrapping_add(info.memories.len());
        // SAFETY: as above, for the second list.
        unsafe { slice::from_raw_parts(start, info.tables.len()) }
    }

    /// Writes the lists of memories and tables.
    pub(super) fn set_objects(&mut self, memories: &[u32], tables: &[u32]) {
        let info = self.info();
        assert_eq!(
            (memories.len(), tables.len()),
            (info.memories.len(), info.tables.len())
        );
        let places = self.lists().cast::<u32>();
        for (index, object) in memories.iter().chain(tables).enumerate() {
            // SAFETY: invariant 1: one place each, as just compared; the borrow is unique.
            unsafe { places.wrapping_add(index).write(*object) };
        }
    }

    /// Where it stands whether a segment was dropped: data segments first, then element segments.
    fn flag(&self, index: usize) -> *mut bool {
        let info = self.info();
        assert!(index < info.data.len() + info.elements.len());
        let indices = (info.memories.len() + info.tables.len()) * size_of::<u32>();
        self.lists().wrapping_add(indices + index).cast()
    }

    fn is_dropped(&self, index: usize) -> bool {
        // SAFETY: invariant 1: in the block, zero or written by `drop_data` and `drop_elements`.
        unsafe { self.flag(index).read() }
    }

    pub(super) fn is_data_dropped(&self, segment: u32) -> bool {
        self.is_dropped(segment as usize)
    }

    pub(super) fn are_elements_dropped(&self, segment: u32) -> bool {
        self.is_dropped(self.info().data.len() + segment as usize)
    }

    pub(crate) fn drop_data(&mut self, segment: u32) {
        // SAFETY: invariant 1; the borrow is unique.
        unsafe { self.flag(segment as usize).write(true) };
    }

    pub(crate) fn drop_elements(&mut self, segment: u32) {
        let index = self.info().data.len() + segment as usize;
        // SAFETY: as above.
        unsafe { self.flag(index).write(true) };
    }

    /// A host record, also one that is still zero.
    fn record(&self, index: u32) -> *mut HostRecord {
        assert!(index < self.host_records);
        let records = self.start.as_ptr().wrapping_add(records_offset(self.info()));
        records.cast::<HostRecord>().wrapping_add(index as usize)
    }

    /// Writes a host record, once, which keeps its function from now on: its address.
    ///
    /// # Safety
    /// `record.func` is a count of the function that nobody else gives back.
    pub(super) unsafe fn set_record(&mut self, index: u32, record: HostRecord) -> *mut HostRecord {
        let place = self.record(index);
        // SAFETY: inside the block, which is aligned; the borrow is unique.
        unsafe { place.write(record) };
        place
    }

    /// The host function behind an imported function, if it is one: those have a record of this instance as their context.
    pub(super) fn host_func(&self, function: u32) -> Option<Arc<HostFunc>> {
        if function >= self.info().imported_functions || self.host_records == 0 {
            return None;
        }
        let entry = self.at::<VMImportedFunc>(self.layout().imported_function(function));
        // SAFETY: in the vmctx, written when the instance was linked.
        let context = unsafe { (*entry).ctx };
        let offset = context.addr().wrapping_sub(self.record(0).addr());
        let index = u32::try_from(offset / size_of::<HostRecord>()).ok()?;
        if index >= self.host_records {
            return None;
        }
        // SAFETY: in the block, as just compared, and written: an entry names it.
        let func = unsafe { (*self.record(index)).func };
        // SAFETY: invariant 2: a count of the record's is alive.
        unsafe { Arc::increment_strong_count(func) };
        // SAFETY: the count that was just added.
        Some(unsafe { Arc::from_raw(func) })
    }
}

/// Owns an instance. Moving it claims nothing about the block: generated code holds its address meanwhile.
pub(crate) struct InstanceBox {
    place: NonNull<InstanceVm>,
    _owns: PhantomData<InstanceVm>,
}

impl InstanceBox {
    /// An instance of which nothing but the header is written, with room for so many host records.
    ///
    /// # Errors
    /// No memory for it.
    pub(super) fn new(module: Module, store: *mut StoreVm, host_records: u32) -> Result<InstanceBox> {
        let layout = block_layout(module.info(), host_records);
        // SAFETY: a block has at least the header, so the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or_else(|| {
            Error::msg(format!(
                "the system refuses {} bytes for an instance",
                layout.size()
            ))
        })?;
        let lists = lists_offset(module.info(), host_records) as u32;
        let place = start.cast::<InstanceVm>();
        let header = InstanceVm {
            store,
            module,
            start,
            host_records,
            lists,
        };
        // SAFETY: the block begins with the header, and is aligned for it.
        unsafe { place.write(header) };
        Ok(InstanceBox {
            place,
            _owns: PhantomData,
        })
    }

    /// The address, valid as long as this lives.
    pub(crate) fn as_ptr(&self) -> *mut InstanceVm {
        self.place.as_ptr()
    }
}

impl Deref for InstanceBox {
    type Target = InstanceVm;
    fn deref(&self) -> &InstanceVm {
        // SAFETY: made in `new`, freed only on drop; who else holds the address does not write the header.
        unsafe { self.place.as_ref() }
    }
}

impl DerefMut for InstanceBox {
    fn deref_mut(&mut self) -> &mut InstanceVm {
        // SAFETY: as above, and the borrow is unique (store invariant 1).
        unsafe { self.place.as_mut() }
    }
}

impl Drop for InstanceBox {
    fn drop(&mut self) {
        let layout = block_layout(self.info(), self.host_records);
        for index in 0..self.host_records {
            // SAFETY: invariant 1: in the block, zero or written; a plain word, taken out.
            let func = unsafe { mem::replace(&mut (*self.record(index)).func, ptr::null()) };
            if !func.is_null() {
                // SAFETY: invariant 2: the record's count, given back once.
                drop(unsafe { Arc::from_raw(func) });
            }
        }
        // SAFETY: made in `new`; not used after.
        unsafe { ptr::drop_in_place(self.place.as_ptr()) };
        // SAFETY: allocated in `new` with this layout, by invariant 3.
        unsafe { dealloc(self.place.as_ptr().cast(), layout) };
    }
}
