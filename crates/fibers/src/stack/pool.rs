//! Stacks that are reused: a bounded pool, cut from one reservation of the process.
//!
//! ```text
//!   region: 1 TiB reserved once, in granules of 64 MiB
//!   extent: a run of granules, cut into slots of one stride
//!   slot:   | guard | stack .................. base | colour | header (64 bytes) |
//!           ^ limit                                       one page with the header ^ limit + stride
//! ```
//!
//! - A guard by `MADV_GUARD_INSTALL` costs no mapping, so a million stacks fit into one (`guard`).
//! - The header of the slot that an address lies in is found without a lock, also by a signal handler and by assembly
//!   (`region`, `find`): [`slot_of`], [`find_slot_asm`].
//! - A thread takes from and returns to a bin of its own, hottest first, without a lock or an allocation
//!   (`magazine`, `bin`); bins are filled from and spilled to the pool's list in batches (`shared`).
//! - Who uses a stack over and over on one thread leases it: it waits there for its user, unless others need it (`lease`).
//! - Bases are coloured: slot `i` gives away `64 * (i % 37)` bytes, so that the tops of many stacks do not
//!   compete for the same cache sets. Header, colour and 1.7 KiB of stack at least share a page: a parked fiber with
//!   small frames has no other.
//!
//! Invariants
//! 1. An extent keeps its stride for the life of the process and all its headers stay mapped and
//!    writable: a `&'static SlotHeader` found in it is always valid. Only what the words say may be old.
//! 2. A slot is in exactly one place: not cut yet, in the pool's list, in one magazine, or taken. A lease that is not in use is a place in a
//!    magazine; one in use is taken.
//! 3. A pool's control block is a pool's until that is closed and every slot is in the list; a slot that is not
//!    names it. Control blocks are reused and never freed: a thread may lock one that it remembers, and then look.
//!
//! A returned stack keeps what it touched until it leaves the bin; then what lies deeper than `keep_resident_bytes` goes
//! back to the kernel, for up to 16 stacks at a time (`resident`).
//!
//! Rejected: trimming on return (2 to 27 us against 10 ns); asking the kernel what is resident before trimming
//! (a call more for 0.5 us saved); an own thread that trims (a library should have none).

mod advise;
mod bin;
mod error;
mod find;
mod guard;
mod lease;
mod list;
mod magazine;
mod region;
mod resident;
mod shared;
mod sync;

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use std::sync::Arc;

pub use error::PoolError;
pub use find::find_slot_asm;
pub use lease::{LeaseId, LeasedStack, Lent};
pub use region::{
    EXTENT_COUNT, EXTENTS, Extent, GRANULE_BYTES, GRANULE_COUNT, GRANULES, HEADER_BYTES, Published,
    REGION_BYTES, REGION_START, SlotHeader, TakenHeader, slot_of,
};

use super::{PAGE_BYTES, Stack};
use shared::Shared;

/// How the guards of a pool are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guards {
    /// `MADV_GUARD_INSTALL` where the kernel has it (Linux 6.13), else as `Protect`.
    #[default]
    Auto,
    /// `mprotect`: two mappings a stack, of which the kernel allows `vm.max_map_count`.
    Protect,
}

/// What a [`StackPool`] hands out, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Size of a stack in bytes, without its guard, rounded up to pages; 8 KiB at least. The header and the colour,
    /// up to 2368 bytes, are part of it.
    pub stack_bytes: usize,
    /// How many stacks may be taken at a time; 1 at least.
    pub max_stacks: usize,
    /// Size of a guard in bytes, rounded up to pages; one page at least.
    pub guard_bytes: usize,
    /// A stack that waits in the pool keeps at most this much memory, in bytes, and a page at least; the last 16 that a
    /// thread has returned, and the one it has leased, keep all until the thread ends, or [`StackPool::trim`].
    pub keep_resident_bytes: usize,
    /// How guards are made.
    pub guards: Guards,
}

impl Default for PoolConfig {
    /// 1024 stacks of 1 MiB that keep 64 KiB.
    fn default() -> PoolConfig {
        PoolConfig {
            stack_bytes: 1 << 20,
            max_stacks: 1024,
            guard_bytes: PAGE_BYTES,
            keep_resident_bytes: 64 << 10,
            guards: Guards::Auto,
        }
    }
}

/// What a pool has, for people who watch it. A snapshot: other threads go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Stacks that are taken.
    pub in_use: usize,
    /// Stacks that wait to be taken, in the pool or with a thread that has returned them, or leases them to whom it served last.
    pub parked: usize,
    /// Stacks made so far: `in_use` and `parked`.
    pub created: usize,
    /// [`PoolConfig::max_stacks`].
    pub max_stacks: usize,
}

/// A handle of a pool of stacks; clones are handles of the same pool.
///
/// When the last handle and the last stack are gone, the memory goes back to the kernel, and the
/// address space to other pools with the same stack size.
///
/// Not for signal handlers. After a fork without exec, the child must not use pools that were made before: the
/// threads whose magazines they remember are gone.
#[derive(Clone)]
pub struct StackPool {
    handle: Arc<Handle>,
}

/// Closes the pool when it is dropped.
struct Handle(&'static Shared);

impl Drop for Handle {
    fn drop(&mut self) {
        shared::close(self.0);
    }
}

impl StackPool {
    /// Makes a pool. Takes no memory for stacks yet, but reserves the process's region at the first call.
    ///
    /// # Errors
    /// `Config` when a size is out of range, `Reserve` when the kernel refuses address space.
    pub fn new(config: PoolConfig) -> Result<StackPool, PoolError> {
        let shape = shared::Shape::new(&config)?;
        region::reserve()?;
        sync::init();
        Ok(StackPool {
            handle: Arc::new(Handle(Shared::open(shape))),
        })
    }

    /// Takes a stack: the one that this thread returned last, if any. Does not wait for one to come back.
    ///
    /// Cost: a few nanoseconds from the thread's magazine, else a lock; a new stack costs its page faults.
    ///
    /// # Errors
    /// `Full` when `max_stacks` are taken; the other variants when a new one cannot be made.
    #[inline]
    pub fn take(&self) -> Result<PooledStack, PoolError> {
        let shared = self.shared();
        let slot = match magazine::pop(shared) {
            Some(slot) => slot,
            None => shared::take_slow(shared)?,
        };
        Ok(PooledStack { slot })
    }

    #[inline]
    fn shared(&self) -> &'static Shared {
        self.handle.0
    }

    /// What the pool has now. Takes its lock.
    pub fn stats(&self) -> PoolStats {
        shared::stats(self.handle.0)
    }

    /// How much memory the pool's stacks have now, taken or parked, in bytes.
    ///
    /// Cost: asks the kernel, 4 ns for each page that there could be; blocks nobody.
    pub fn resident_bytes(&self) -> usize {
        shared::resident_bytes(self.handle.0)
    }

    /// Gives the memory of parked stacks back to the kernel, but for one page each; those that threads have returned
    /// and still have at hand too.
    ///
    /// For a host that has been busy, and is idle now. Cost: about half a microsecond a stack that was returned since the last
    /// time, more where there is memory to free; other threads go on meanwhile.
    pub fn trim(&self) {
        shared::trim(self.handle.0);
    }
}

impl fmt::Debug for StackPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

/// A stack of a [`StackPool`]; dropping it, on any thread, returns it. One pointer wide.
pub struct PooledStack {
    slot: NonNull<SlotHeader>,
}

// SAFETY: a taken slot belongs to the value alone (invariant 2), and any thread may return it: the magazine
// that receives it is the returning thread's. Test: `a_stack_returned_on_another_thread_is_reused`.
unsafe impl Send for PooledStack {}
// SAFETY: `&PooledStack` gives constants and atomics.
unsafe impl Sync for PooledStack {}

impl PooledStack {
    /// The header at the top of the slot.
    #[inline]
    pub fn header(&self) -> TakenHeader<'_> {
        // SAFETY: invariant 1.
        TakenHeader(unsafe { self.slot.as_ref() })
    }

    /// Gives the stack away as an address that [`from_raw`](PooledStack::from_raw) takes back.
    #[inline]
    pub fn into_raw(self) -> NonNull<SlotHeader> {
        ManuallyDrop::new(self).slot
    }

    /// The stack that `into_raw` gave away.
    ///
    /// # Safety
    /// `slot` came from `into_raw`, and is taken back once.
    #[inline]
    pub unsafe fn from_raw(slot: NonNull<SlotHeader>) -> PooledStack {
        PooledStack { slot }
    }
}

impl Drop for PooledStack {
    #[inline]
    fn drop(&mut self) {
        let header = self.header();
        header.register(core::ptr::null_mut());
        let pool = header.pool();
        if !magazine::push(pool, self.slot) {
            shared::give_slow(pool, self.slot);
        }
    }
}

impl fmt::Debug for PooledStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PooledStack({:#x}..{:#x})", self.limit(), self.base())
    }
}

// SAFETY: the slot is the value's alone until its drop (invariant 2); the numbers were written when it was cut, and
// bases are multiples of 16 as slots end at pages and 64 and 256 are such multiples.
unsafe impl Stack for PooledStack {
    #[inline]
    fn base(&self) -> usize {
        self.header().stack_base()
    }

    #[inline]
    fn limit(&self) -> usize {
        self.header().stack_limit()
    }

    #[inline]
    fn guard_bytes(&self) -> usize {
        self.header().guard_end() - self.header().stack_limit()
    }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod tests;
