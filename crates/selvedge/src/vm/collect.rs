//! Collecting the reference heap: who allocates, what is a root, when.
//!
//! The roots of a store are
//! - the handles that the host holds ([`super::roots`]);
//! - globals, in the instances that define them or the host's cells, and tables, by their types;
//! - the frames of all its activations, running and parked: at each call, the stack map of its return address names the
//!   places that hold references ([`selvedge_compiler::StackMaps`]).
//!
//! Arguments and results on their way lie in slots that nothing names. That is right because nothing allocates meanwhile: a host
//! function's parameters become handles before it runs, its results become words after it ended; a built-in that allocates makes
//! handles of its operands first. Calls of the fuel stub have no stack map: while a guest is in one, be it that the host is asked for
//! fuel there, nothing is collected.
//!
//! Invariant: a collection happens only while no slot and no frame in a fuel check holds the only copy of a reference: see
//! [`LazyHeap::forbid_collections`](super::lazy_heap::LazyHeap::forbid_collections).

use super::frames::{self, Segment};
use super::heap::HostValue;
use super::store::StoreVm;
use super::trap;
use super::vmctx::ValRaw;
use crate::error::{Error, Result};
use crate::room::refused;
use selvedge_compiler::ValType;

/// Whether values of a type are references into the heap of the store.
pub(crate) fn is_in_heap(ty: ValType) -> bool {
    ty.is_heap_reference()
}

impl StoreVm {
    /// A new external object. It has no root yet.
    pub(crate) fn new_external(&mut self, value: HostValue) -> Result<u32> {
        self.collect_if_due();
        let reference = match self.heap.new_external(value) {
            Ok(reference) => Some(reference),
            Err(value) => {
                self.collect_if_worthwhile();
                self.heap.new_external(value).ok()
            }
        };
        self.allocated(reference)
    }

    /// A new exception. It has no root yet; `slots` are read after the collection that this may be, so references in them need
    /// roots.
    pub(crate) fn new_exception(&mut self, tag: u32, slots: &[ValRaw]) -> Result<u32> {
        self.collect_if_due();
        let reference = match self.heap.new_exception(tag, slots) {
            Some(reference) => Some(reference),
            None => {
                self.collect_if_worthwhile();
                self.heap.new_exception(tag, slots)
            }
        };
        self.allocated(reference)
    }

    fn collect_if_due(&mut self) {
        if self.heap.is_collection_due() || self.engine.config().collect_always {
            self.collect();
        }
    }

    fn collect_if_worthwhile(&mut self) {
        if self.heap.is_collection_worthwhile() {
            self.collect();
        }
    }

    /// Publishes where the region is, or says that it is full.
    fn allocated(&mut self, reference: Option<u32>) -> Result<u32> {
        self.cx.heap_base = self.heap.base();
        let lacked_bytes = self.heap.set_refused(reference.is_none());
        reference.ok_or_else(|| match lacked_bytes {
            0 => Error::msg(format!(
                "the reference heap is full: {} of {} bytes in use (see `Config::max_reference_heap_bytes`)",
                self.heap.used_bytes(),
                self.heap.limit_bytes()
            )),
            bytes => refused(bytes, "the reference heap"),
        })
    }

    /// Frees what cannot be reached. The host values among it wait for [`StoreVm::take_dead`]. Without memory for the lists that it takes
    /// nothing is freed.
    pub(crate) fn collect(&mut self) {
        if self.heap.region_bytes() == 0 || !self.heap.can_collect() || self.waits_for_answer() {
            return;
        }
        let Some(segments) = self.segments() else {
            return;
        };
        if !self.heap.make_room_for_dead() {
            return;
        }
        self.roots.prune();
        for reference in self.roots.iter() {
            self.heap.mark(reference);
        }
        self.mark_globals();
        self.mark_tables();
        self.mark_frames(&segments);
        let tags = &self.tags;
        self.heap.trace(|tag| tags[tag as usize].references());
        self.heap.sweep();
        self.cx.heap_base = self.heap.base();
    }

    /// The host values that died: the caller drops them when it holds no reference into the store.
    #[must_use]
    pub(crate) fn take_dead(&mut self) -> Vec<HostValue> {
        self.heap.take_dead()
    }

    fn mark_globals(&mut self) {
        for instance in &self.instances {
            for (cell, ty) in instance.defined_globals() {
                if is_in_heap(ty.content) {
                    // SAFETY: a cell in the instance's vmctx; no generated code runs meanwhile.
                    self.heap.mark(unsafe { cell.read() }.u32());
                }
            }
        }
        for global in &self.globals {
            if is_in_heap(global.ty.content) {
                self.heap.mark(global.read().u32());
            }
        }
    }

    fn mark_tables(&mut self) {
        for table in &self.tables {
            if table.ty.element.is_heap_reference() {
                for element in table.range(0, table.len()).unwrap_or_default() {
                    self.heap.mark(*element as u32);
                }
            }
        }
    }

    /// The pieces of the stack that activations have; none without memory for the list.
    fn segments(&self) -> Option<Vec<Segment>> {
        let mut segments = Vec::new();
        for segment in frames::segments(self, self.cx.guest_fp) {
            segments.try_reserve(1).ok()?;
            segments.push(segment);
        }
        Some(segments)
    }

    /// The references in frames. A walk that meets a frame that it cannot believe ends; none does in code of ours.
    fn mark_frames(&mut self, segments: &[Segment]) {
        for segment in segments {
            for frame in segment.clone() {
                let Some((code, offset)) = trap::code_at(frame.pc) else {
                    continue;
                };
                for below in code.image().stack_map(offset) {
                    let place = frame.fp.wrapping_sub(*below as usize);
                    if segment.contains(place, 4) {
                        // SAFETY: in the activation's piece of the stack, as just compared; nobody writes there meanwhile.
                        self.heap.mark(unsafe { (place as *const u32).read() });
                    }
                }
            }
        }
    }
}
