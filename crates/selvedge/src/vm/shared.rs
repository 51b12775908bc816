//! Memories that several stores use at once, from as many threads.
//!
//! A shared memory lies at one address from its first byte to the end of its maximum, is counted, and ends with the last of its
//! users. Guests read and write it by machine instructions, racing as they like. The host may only do what stays defined while they
//! race: atomic accesses to single bytes or words ([`SharedLinear::bytes`]), and copies by instructions that Rust does not see
//! through ([`super::racing`]). No `&[u8]` into it is ever made.
//!
//! Invariants
//! 1. The base never changes and the length never shrinks, so a range that was found inside stays inside.
//! 2. Only [`SharedLinear::grow`] changes the length, under its lock.

use super::linear::{Image, LinearMemory, MemoryLayout, MemoryPool, VMMemory};
use super::waiters::Waiters;
use crate::error::{Error, Result};
use selvedge_compiler::{MemoryStyle, MemoryType};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

/// A shared memory and who waits in it.
pub(crate) struct SharedLinear {
    memory: LinearMemory,
    growing: Mutex<()>,
    pub(crate) waiters: Waiters,
}

impl SharedLinear {
    /// # Errors
    /// A type that is not shared or not valid, or no addresses or memory.
    pub(crate) fn new(ty: &MemoryType, style: MemoryStyle, pool: &Arc<MemoryPool>) -> Result<SharedLinear> {
        if !ty.is_shared() {
            return Err(Error::msg(format!(
                "{ty} is not the type of a shared memory: see `MemoryType::shared`"
            )));
        }
        if ty.maximum.is_none() {
            return Err(Error::msg("a shared memory needs a maximum"));
        }
        Ok(SharedLinear {
            memory: LinearMemory::new(ty, style, pool)?,
            growing: Mutex::new(()),
            waiters: Waiters::default(),
        })
    }

    pub(crate) fn vm(&self) -> *mut VMMemory {
        self.memory.vm()
    }

    pub(crate) fn layout(&self) -> MemoryLayout {
        self.memory.layout()
    }

    pub(crate) fn ty(&self) -> MemoryType {
        self.memory.ty()
    }

    pub(crate) fn current_ty(&self) -> MemoryType {
        self.memory.current_ty()
    }

    pub(crate) fn size_pages(&self) -> u64 {
        self.memory.size_pages()
    }

    pub(crate) fn length_bytes(&self) -> u64 {
        self.memory.length_bytes()
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.memory.base()
    }

    /// As [`LinearMemory::grow`]; others may use the memory meanwhile.
    pub(crate) fn grow(&self, delta_pages: u64) -> Option<u64> {
        let _one_at_a_time = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the lock; a shared memory is never bounded.
        unsafe { self.memory.grow_in_place(delta_pages) }
    }

    /// The bytes that there are now.
    pub(crate) fn bytes(&self) -> &[AtomicU8] {
        let (base, length) = (self.base().cast::<AtomicU8>(), self.length_bytes() as usize);
        // SAFETY: mapped as long as `self` (invariant 1), and from here accessed atomically only; guests' accesses are not Rust's.
        unsafe { std::slice::from_raw_parts(base, length) }
    }

    /// The word at an address that was checked: aligned, and inside.
    pub(crate) fn word32(&self, address: u64) -> &AtomicU32 {
        debug_assert!(address.is_multiple_of(4) && address + 4 <= self.length_bytes());
        let place = self.base().wrapping_add(address as usize);
        // SAFETY: as in `bytes`; the base is aligned to a page and the address to the word.
        unsafe { AtomicU32::from_ptr(place.cast()) }
    }

    /// As [`word32`](SharedLinear::word32), of 64 bits.
    pub(crate) fn word64(&self, address: u64) -> &AtomicU64 {
        debug_assert!(address.is_multiple_of(8) && address + 8 <= self.length_bytes());
        let place = self.base().wrapping_add(address as usize);
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(place.cast()) }
    }
}

/// A memory of a store: its own, or one that it shares.
pub(crate) enum MemoryVm {
    Own(LinearMemory),
    Shared(Arc<SharedLinear>),
}

impl MemoryVm {
    /// A memory as a module defines it, with its image if it has one.
    ///
    /// # Errors
    /// No addresses or memory for it.
    pub(crate) fn new(
        ty: &MemoryType,
        style: MemoryStyle,
        pool: &Arc<MemoryPool>,
        image: Option<&Arc<Image>>,
    ) -> Result<MemoryVm> {
        match ty.is_shared() {
            true => Ok(MemoryVm::Shared(Arc::new(SharedLinear::new(ty, style, pool)?))),
            false => Ok(MemoryVm::Own(LinearMemory::with_image(ty, style, pool, image)?)),
        }
    }

    /// What generated code knows of it.
    pub(crate) fn vm(&self) -> *mut VMMemory {
        match self {
            MemoryVm::Own(memory) => memory.vm(),
            MemoryVm::Shared(memory) => memory.vm(),
        }
    }

    pub(crate) fn base(&self) -> *mut u8 {
        match self {
            MemoryVm::Own(memory) => memory.base(),
            MemoryVm::Shared(memory) => memory.base(),
        }
    }

    pub(crate) fn ty(&self) -> MemoryType {
        match self {
            MemoryVm::Own(memory) => memory.ty(),
            MemoryVm::Shared(memory) => memory.ty(),
        }
    }

    pub(crate) fn size_pages(&self) -> u64 {
        match self {
            MemoryVm::Own(memory) => memory.size_pages(),
            MemoryVm::Shared(memory) => memory.size_pages(),
        }
    }

    pub(crate) fn length_bytes(&self) -> u64 {
        match self {
            MemoryVm::Own(memory) => memory.length_bytes(),
            MemoryVm::Shared(memory) => memory.length_bytes(),
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, MemoryVm::Shared(_))
    }

    pub(crate) fn grow(&mut self, delta_pages: u64) -> Option<u64> {
        match self {
            MemoryVm::Own(memory) => memory.grow(delta_pages),
            MemoryVm::Shared(memory) => memory.grow(delta_pages),
        }
    }

    /// The store's own memory; none if it is shared.
    pub(crate) fn own(&self) -> Option<&LinearMemory> {
        match self {
            MemoryVm::Own(memory) => Some(memory),
            MemoryVm::Shared(_) => None,
        }
    }

    /// As [`own`](MemoryVm::own), to change.
    pub(crate) fn own_mut(&mut self) -> Option<&mut LinearMemory> {
        match self {
            MemoryVm::Own(memory) => Some(memory),
            MemoryVm::Shared(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn new(ty: &MemoryType, style: MemoryStyle) -> Result<SharedLinear> {
        SharedLinear::new(ty, style, &MemoryPool::new(4))
    }

    const STYLES: [MemoryStyle; 2] = [MemoryStyle::Reserved, MemoryStyle::Bounded];

    #[test]
    fn a_shared_memory_grows_in_place_while_others_use_it() {
        for style in STYLES {
            let memory = new(&MemoryType::shared(1, 65), style).unwrap();
            let first = &memory.bytes()[0];
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..16 {
                            let old = memory.grow(1).expect("64 pages are left");
                            let last =
                                memory.bytes()[old as usize * 65_536 + 65_535].swap(1, Ordering::Relaxed);
                            assert_eq!(last, 0);
                            first.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(memory.size_pages(), 65);
            assert_eq!(memory.grow(1), None);
            assert_eq!(memory.bytes()[0].load(Ordering::Relaxed), 64);
        }
    }

    #[test]
    fn a_type_that_is_not_shared_is_refused() {
        let error = new(&MemoryType::new(1, Some(2)), MemoryStyle::Reserved).err();
        assert!(error.unwrap().to_string().contains("(memory 1 2)"));
        let endless = MemoryType::new(1, None).with_shared();
        assert!(new(&endless, MemoryStyle::Bounded).is_err());
    }

    #[test]
    fn pages_of_one_byte_can_be_shared() {
        for style in STYLES {
            let ty = MemoryType::shared(3, 10_000).with_page_size_log2(0);
            let memory = new(&ty, style).unwrap();
            assert_eq!(memory.grow(9_000), Some(3));
            assert_eq!(memory.bytes().len(), 9_003);
            assert_eq!(memory.bytes()[9_002].load(Ordering::Relaxed), 0);
        }
    }
}
