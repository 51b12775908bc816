//! A store's reference heap, made when something is first allocated in it: most stores never do.

use super::heap::{Heap, HostValue};
use super::vmctx::ValRaw;
use std::any::Any;
use std::ptr::NonNull;

/// See the head of this file. The methods are the heap's; without one, nothing is in it.
pub(crate) struct LazyHeap {
    heap: Option<Box<Heap>>,
    limit_bytes: usize,
    /// How many reasons there are not to collect now.
    forbidden: u32,
}

impl LazyHeap {
    pub(crate) fn new(limit_bytes: usize) -> LazyHeap {
        LazyHeap {
            heap: None,
            limit_bytes,
            forbidden: 0,
        }
    }

    fn made(&mut self) -> &mut Heap {
        let limit_bytes = self.limit_bytes;
        self.heap.get_or_insert_with(|| Box::new(Heap::new(limit_bytes)))
    }

    /// The region's address; never read while it has no objects.
    pub(crate) fn base(&self) -> *const u8 {
        let none = NonNull::<u64>::dangling().as_ptr().cast_const().cast();
        self.heap.as_ref().map_or(none, |heap| heap.base())
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.heap.as_ref().map_or(0, |heap| heap.used_bytes())
    }

    pub(crate) fn limit_bytes(&self) -> usize {
        self.heap
            .as_ref()
            .map_or(self.limit_bytes, |heap| heap.limit_bytes())
    }

    /// Sets how many bytes the objects may take.
    pub(crate) fn set_limit(&mut self, bytes: usize) {
        self.limit_bytes = bytes;
        if let Some(heap) = &mut self.heap {
            heap.set_limit(bytes);
        }
    }

    pub(crate) fn region_bytes(&self) -> usize {
        self.heap.as_ref().map_or(0, |heap| heap.region_bytes())
    }

    /// Nothing is collected until [`allow_collections`](LazyHeap::allow_collections): references are somewhere that no map names.
    pub(crate) fn forbid_collections(&mut self) {
        self.forbidden += 1;
    }

    /// The end of a [`forbid_collections`](LazyHeap::forbid_collections).
    pub(crate) fn allow_collections(&mut self) {
        self.forbidden -= 1;
    }

    /// Whether a collection would find every reference.
    pub(crate) fn can_collect(&self) -> bool {
        self.forbidden == 0
    }

    pub(crate) fn is_collection_due(&self) -> bool {
        self.heap.as_ref().is_some_and(|heap| heap.is_collection_due())
    }

    pub(crate) fn is_collection_worthwhile(&self) -> bool {
        self.heap
            .as_ref()
            .is_some_and(|heap| heap.is_collection_worthwhile())
    }

    pub(crate) fn set_refused(&mut self, refused: bool) -> usize {
        self.heap.as_mut().map_or(0, |heap| heap.set_refused(refused))
    }

    pub(crate) fn make_room_for_dead(&mut self) -> bool {
        self.heap.as_mut().is_none_or(|heap| heap.make_room_for_dead())
    }

    pub(crate) fn new_external(&mut self, value: HostValue) -> Result<u32, HostValue> {
        self.made().new_external(value)
    }

    pub(crate) fn external(&self, reference: u32) -> Option<&(dyn Any + Send + Sync)> {
        self.heap.as_ref()?.external(reference)
    }

    pub(crate) fn external_mut(&mut self, reference: u32) -> Option<&mut (dyn Any + Send + Sync)> {
        self.heap.as_mut()?.external_mut(reference)
    }

    pub(crate) fn new_exception(&mut self, tag: u32, slots: &[ValRaw]) -> Option<u32> {
        self.made().new_exception(tag, slots)
    }

    pub(crate) fn exception_tag(&self, reference: u32) -> Option<u32> {
        self.heap.as_ref()?.exception_tag(reference)
    }

    pub(crate) fn exception_value(&self, reference: u32, field: usize) -> ValRaw {
        let heap = self.heap.as_ref().expect("an exception lies in a heap");
        heap.exception_value(reference, field)
    }

    pub(crate) fn mark(&mut self, reference: u32) {
        if let Some(heap) = &mut self.heap {
            heap.mark(reference);
        }
    }

    pub(crate) fn trace<'a>(&mut self, references: impl Fn(u32) -> &'a [u32]) {
        if let Some(heap) = &mut self.heap {
            heap.trace(references);
        }
    }

    pub(crate) fn sweep(&mut self) {
        if let Some(heap) = &mut self.heap {
            heap.sweep();
        }
    }

    #[must_use]
    pub(crate) fn take_dead(&mut self) -> Vec<HostValue> {
        self.heap.as_mut().map_or_else(Vec::new, |heap| heap.take_dead())
    }
}
