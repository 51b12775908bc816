//! Reserved memories that wait for their next guest, and the slab of bounded ones: one pool an engine.
//!
//! A *slot* is the reservation of one memory. Mapping and unmapping one costs some twenty times what the rest of an
//! instance does, so slots are kept, with the pages open that were open, and the image mapped that was mapped:
//!
//! ```text
//!   base            start     end         accessible                              + RESERVATION_BYTES
//!   | zeros         | image   | zeros     | PROT_NONE                             |
//! ```
//!
//! The next instance of the same module finds such a slot ready: nothing is mapped, protected or copied. When the memory is
//! dropped one `madvise` gives all that was written back to the kernel, and the bytes are again what they were.
//!
//! Invariants
//! 1. An idle slot is *clean*: `[start, end)` reads as the image it names, or as anything if that image is no more; all else below
//!    `accessible` as zeros; what is behind faults. A slot that could not be made clean is unmapped.
//! 2. Images have numbers that are never used again ([`super::image`]). A slot in use holds its image; an idle one only names it,
//!    and gets zeros there before anybody reads, if it is taken for another.
//! 3. `accessible` and the ends of an image are multiples of the host's page size.

use super::RESERVATION_BYTES;
use super::image::{Image, ImageFile};
use super::mapping::{Access, Mapping};
use super::slab::Slab;
use crate::error::{Context, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many reserved memories an address space of 2^47 bytes was seen to hold beside everything else.
const RESERVATIONS_SEEN: u64 = 21_843;

/// Where an image lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    id: u64,
    start: u64,
    bytes: u64,
}

/// The addresses of a reserved memory.
#[derive(Debug)]
pub(super) struct Slot {
    mapping: Mapping,
    accessible: u64,
    placed: Option<Placed>,
    /// The image while the slot is in use (invariant 2).
    image: Option<Arc<Image>>,
}

impl Slot {
    fn new() -> Result<Slot> {
        let mapping = Mapping::new(RESERVATION_BYTES, Access::None).with_context(|| {
            format!(
                "cannot reserve {RESERVATION_BYTES} bytes of addresses for a memory \
                 ({RESERVATIONS_SEEN} of them fit into an address space of 128 TiB)"
            )
        })?;
        Ok(Slot {
            mapping,
            accessible: 0,
            placed: None,
            image: None,
        })
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Makes a clean slot a memory of `length` bytes, of zeros but for the image.
    ///
    /// # Errors
    /// The kernel's; the slot is of no use then.
    fn prepare(&mut self, length: u64, image: Option<&Arc<Image>>) -> Result<()> {
        let wanted = image.map(|image| Placed {
            id: image.id(),
            start: image.start(),
            bytes: image.bytes(),
        });
        debug_assert!(wanted.is_none_or(|image| image.start + image.bytes <= length));
        let stays = self.placed == wanted;
        if let Some(old) = self.placed.take_if(|_| !stays) {
            self.mapping.map_zeros(old.start, old.bytes)?;
        }
        if self.accessible < length {
            self.mapping.open(self.accessible, length - self.accessible)?;
        } else if self.accessible > length {
            self.mapping.close(length, self.accessible - length)?;
        }
        self.accessible = length;
        if let Some(image) = image.filter(|_| !stays) {
            let (file, offset) = image.place();
            self.mapping
                .map_image(image.start(), image.bytes(), file, offset)?;
            self.placed = wanted;
        }
        self.image = image.cloned();
        Ok(())
    }

    /// Makes a slot clean again after a memory that has grown to `length` bytes. Whether it is.
    fn clean(&mut self, length: u64) -> bool {
        self.accessible = length;
        length == 0 || self.mapping.discard(0, length)
    }
}

/// Slots that nobody uses, by the image they name (0: none, or one that is no more), the hottest last.
#[derive(Debug, Default)]
struct Idle {
    by_image: HashMap<u64, Vec<Slot>>,
    count: usize,
}

impl Idle {
    fn take_of(&mut self, image: u64) -> Option<Slot> {
        let slot = self.by_image.get_mut(&image)?.pop()?;
        self.count -= 1;
        Some(slot)
    }

    /// Any slot, the coldest of its list.
    fn take_any(&mut self) -> Option<Slot> {
        let list = self.by_image.values_mut().find(|list| !list.is_empty())?;
        self.count -= 1;
        Some(list.remove(0))
    }

    /// Keeps a slot, or gives it back where there is no memory for its place in the list.
    fn put(&mut self, slot: Slot) -> Option<Slot> {
        let image = slot.placed.map_or(0, |image| image.id);
        let Some(list) = self.list(image, 1) else {
            return Some(slot);
        };
        list.push(slot);
        self.count += 1;
        None
    }

    /// The slots that name an image, with room for more; none without memory for that.
    fn list(&mut self, image: u64, more: usize) -> Option<&mut Vec<Slot>> {
        self.by_image.try_reserve(1).ok()?;
        let list = self.by_image.entry(image).or_default();
        list.try_reserve(more).ok()?;
        Some(list)
    }

    /// An image is no more: slots that name it are like any other. Those that there is no room for among the others.
    fn forget(&mut self, image: u64) -> Vec<Slot> {
        let Some(mut slots) = self.by_image.remove(&image) else {
            return Vec::new();
        };
        match self.list(0, slots.len()) {
            Some(others) => others.append(&mut slots),
            None => self.count -= slots.len(),
        }
        slots
    }
}

/// What the memories of an engine have in common. Shared by threads; its locks are held for a push or a pop.
#[derive(Debug)]
pub(crate) struct MemoryPool {
    idle: Mutex<Idle>,
    max_idle: usize,
    pub(super) images: ImageFile,
    pub(super) slab: Slab,
}

impl MemoryPool {
    /// A pool that keeps at most `max_idle` reserved memories for reuse.
    pub(crate) fn new(max_idle: usize) -> Arc<MemoryPool> {
        Arc::new(MemoryPool {
            idle: Mutex::default(),
            max_idle,
            images: ImageFile::default(),
            slab: Slab::new(),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A memory of `length` bytes: zeros, and the image.
    ///
    /// # Errors
    /// No addresses, mappings or memory.
    pub(super) fn take(&self, length: u64, image: Option<&Arc<Image>>) -> Result<Slot> {
        let mut slot = match self.idle_slot(image.map_or(0, |image| image.id())) {
            Some(slot) => slot,
            None => Slot::new()?,
        };
        slot.prepare(length, image)
            .with_context(|| format!("cannot get {length} bytes for a memory"))?;
        Ok(slot)
    }

    fn idle_slot(&self, image: u64) -> Option<Slot> {
        let mut idle = self.idle();
        let slot = idle.take_of(image).or_else(|| idle.take_of(0));
        // A full pool takes nothing back, so one module's slots would be of no use to the others for ever.
        slot.or_else(|| (idle.count >= self.max_idle).then(|| idle.take_any())?)
    }

    /// Takes a slot back whose memory has `length` bytes at its end, and unmaps it if it cannot be used again.
    pub(super) fn give_back(&self, mut slot: Slot, length: u64) {
        let image = slot.image.take();
        if self.max_idle > 0 && slot.clean(length) {
            let mut idle = self.idle();
            let left = match idle.count < self.max_idle {
                true => idle.put(slot),
                false => Some(slot),
            };
            drop(idle);
            drop(left); // unmapped without the lock
        }
        drop(image); // after the slot was put: if it was the last, the slot is moved to the others
    }

    /// An image is no more: slots that name it are like any other.
    pub(super) fn forget_image(&self, image: u64) {
        let left = self.idle().forget(image);
        drop(left); // unmapped without the lock
    }

    /// How many reserved memories wait for reuse.
    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.idle().count
    }
}
