//! The process-wide region, its extents, and the way from an address to its slot.
//!
//! The tables are statics with a documented layout, so that assembly and signal handlers can read them:
//!
//! ```text
//!   offset = address - REGION_START;           none if offset >= REGION_BYTES
//!   id     = GRANULES[offset / GRANULE_BYTES]; none if 0
//!   extent = EXTENTS[id];                      index = (address - extent.start) / extent.stride
//!   header = extent.start + (index + 1) * extent.stride - HEADER_BYTES, none if index >= extent.slots
//! ```
//!
//! Invariants
//! 1. An entry of `EXTENTS` is written once, before its granules name it. Only this module writes the tables.
//! 2. What a granule names lies in memory that is readable and writable, but for the guards at the low end of its slots.
//! 3. An extent that no pool has waits in `Reserved::idle`; extents never change their stride, so that 1 holds.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use super::guard::{self, NewGuards};
use super::shared::Shared;
use super::{Guards, PoolError};
use crate::stack::limits::{self, KernelLimit};
use crate::stack::{PAGE_BYTES, last_errno};

/// Size of a granule, the unit in which extents are taken from the region, in bytes.
pub const GRANULE_BYTES: usize = 64 << 20;

/// How many granules the region can have: 1 TiB of them.
pub const GRANULE_COUNT: usize = 16384;

/// Length of [`EXTENTS`]: each has a granule at least, and number 0 is none.
pub const EXTENT_COUNT: usize = GRANULE_COUNT + 1;

/// Size of a slot's header, in bytes.
pub const HEADER_BYTES: usize = 64;

/// What is asked for where [`GRANULE_COUNT`] granules are refused, in bytes: addresses are scarce then, and stacks are not all that a
/// process wants them for. Kernels for 39-bit addresses have 512 GiB.
const SCARCE_REGION_BYTES: usize = 64 << 30;

/// The smallest region worth having, in bytes.
const MIN_REGION_BYTES: usize = 16 << 30;

/// The region's first address, once `REGION_BYTES` is not 0.
pub static REGION_START: Published<AtomicUsize> = Published(AtomicUsize::new(0));

/// The region's size in bytes; 0 until there is one. To be read before `REGION_START`.
pub static REGION_BYTES: Published<AtomicUsize> = Published(AtomicUsize::new(0));

/// The extent that each granule belongs to; 0: none yet.
pub static GRANULES: [Published<AtomicU32>; GRANULE_COUNT] =
    [const { Published(AtomicU32::new(0)) }; GRANULE_COUNT];

/// The extents, by number.
pub static EXTENTS: [Extent; EXTENT_COUNT] = [const { Extent::none() }; EXTENT_COUNT];

/// An atomic of the tables, with the layout of what is in it: everybody may read it, and only this module writes
/// it, as [`slot_of`] makes references of what it says.
///
/// ```compile_fail,E0624
/// use std::sync::atomic::Ordering;
/// fibers::pool::EXTENTS[1].start.store(0x5000, Ordering::Relaxed);
/// ```
#[derive(Debug)]
#[repr(transparent)]
pub struct Published<A>(A);

impl Published<AtomicUsize> {
    /// What it holds.
    #[inline]
    pub fn load(&self, ordering: Ordering) -> usize {
        self.0.load(ordering)
    }

    fn store(&self, value: usize, ordering: Ordering) {
        self.0.store(value, ordering);
    }
}

impl Published<AtomicU32> {
    /// What it holds.
    #[inline]
    pub fn load(&self, ordering: Ordering) -> u32 {
        self.0.load(ordering)
    }

    fn store(&self, value: u32, ordering: Ordering) {
        self.0.store(value, ordering);
    }
}

/// A run of granules, cut into slots. 32 bytes.
#[derive(Debug)]
#[repr(C)]
pub struct Extent {
    /// Address of the first slot. At offset 0.
    pub start: Published<AtomicUsize>,
    /// From slot to slot, in bytes. At offset 8.
    pub stride: Published<AtomicUsize>,
    /// How many slots there are. At offset 16.
    pub slots: Published<AtomicUsize>,
    /// 2^64 by the pages of the stride, rounded up: the high half of its product with a number of pages from `start` is the
    /// index of the slot that they end in. At offset 24.
    pub reciprocal: Published<AtomicUsize>,
}

impl Extent {
    const fn none() -> Extent {
        let [start, stride, slots, reciprocal] = [const { Published(AtomicUsize::new(0)) }; 4];
        Extent {
            start,
            stride,
            slots,
            reciprocal,
        }
    }
}

/// The top 64 bytes of a slot.
///
/// The words are atomics since a signal handler and other threads may look at any slot at any time.
/// What they say holds while the slot is taken.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct SlotHeader {
    owner: AtomicPtr<()>,
    stack_limit: AtomicUsize,
    stack_base: AtomicUsize,
    guard_end: AtomicUsize,
    pool: AtomicPtr<Shared>,
    next: AtomicPtr<SlotHeader>,
}

const _: () = assert!(size_of::<SlotHeader>() == HEADER_BYTES && size_of::<Extent>() == 32);

/// `Extent::reciprocal` of a stride, which is pages, two at least.
///
/// Exact for every address of the region: with `s` pages a stride it is `(2^64 + e) / s`, `e < s`, so the product with `n` pages is
/// `n / s` and `n * e / s` parts in 2^64 beyond, which is less than the `1 / s` that the next whole number is away.
pub(super) fn reciprocal_of(stride: usize) -> usize {
    const PAGES: u128 = (GRANULE_COUNT * GRANULE_BYTES / PAGE_BYTES) as u128;
    const { assert!(PAGES * PAGES <= 1 << 64) };
    let pages = (stride / PAGE_BYTES) as u128;
    (1_u128 << 64).div_ceil(pages) as usize
}

impl SlotHeader {
    /// Offset of the owner, a word, from the header's address. The word after it is the limit, then the base,
    /// then the end of the guard.
    pub const OWNER_OFFSET: usize = 0;

    /// Sets the word that the slot's user has for itself: [`TakenHeader::register`].
    ///
    /// ```compile_fail,E0624
    /// fibers::pool::slot_of(0x5000).unwrap().register(std::ptr::without_provenance_mut(1));
    /// ```
    #[inline]
    pub(super) fn register(&self, owner: *mut ()) {
        self.owner.store(owner, Ordering::Release);
    }

    /// The word that [`register`](TakenHeader::register) set. Async-signal-safe.
    #[inline]
    pub fn owner(&self) -> *mut () {
        self.owner.load(Ordering::Acquire)
    }

    /// The lowest address of the slot, guard included. Async-signal-safe.
    #[inline]
    pub fn stack_limit(&self) -> usize {
        self.stack_limit.load(Ordering::Relaxed)
    }

    /// The base: the highest address of the stack, exclusive. Async-signal-safe.
    #[inline]
    pub fn stack_base(&self) -> usize {
        self.stack_base.load(Ordering::Relaxed)
    }

    /// The lowest address of the stack that does not fault. Async-signal-safe.
    #[inline]
    pub fn guard_end(&self) -> usize {
        self.guard_end.load(Ordering::Relaxed)
    }

    /// The pool that the slot belongs to.
    #[inline]
    pub(super) fn pool(&self) -> &'static Shared {
        let pool = self.pool.load(Ordering::Relaxed);
        // SAFETY: null, or a control block, and those are never freed (invariant 3 of the pool).
        unsafe { pool.as_ref() }.expect("a taken slot names its pool")
    }

    /// The slot below this one in the pool's list.
    pub(super) fn next(&self) -> *mut SlotHeader {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn set_next(&self, next: *mut SlotHeader) {
        self.next.store(next, Ordering::Relaxed);
    }
}

/// The header of a taken slot, borrowed from its [`PooledStack`](super::PooledStack).
///
/// Only so is the owner set: who finds a header by address may trust that the stack's user has written it.
#[derive(Clone, Copy, Debug)]
pub struct TakenHeader<'stack>(pub(super) &'stack SlotHeader);

impl TakenHeader<'_> {
    /// Sets the word that the slot's user has for itself. It is null when a stack is taken and returned.
    #[inline]
    pub fn register(&self, owner: *mut ()) {
        self.0.register(owner);
    }
}

impl core::ops::Deref for TakenHeader<'_> {
    type Target = SlotHeader;

    #[inline]
    fn deref(&self) -> &SlotHeader {
        self.0
    }
}

/// The header of the slot that `address` lies in, guard included. Async-signal-safe: no lock, no
/// allocation, no thread-local.
///
/// Cost: one division. The slot may be free or never used: then the owner is null.
pub fn slot_of(address: usize) -> Option<&'static SlotHeader> {
    let bytes = REGION_BYTES.load(Ordering::Acquire);
    let offset = address.wrapping_sub(REGION_START.load(Ordering::Relaxed));
    if offset >= bytes {
        return None;
    }
    let id = GRANULES[offset / GRANULE_BYTES].load(Ordering::Acquire) as usize;
    if id == 0 {
        return None;
    }
    let (start, stride, slots) = EXTENTS[id].load();
    let index = (address - start) / stride;
    // SAFETY: invariants 1 and 2: the header of such a slot is mapped for the life of the process, and every
    // bit pattern of it is a value.
    (index < slots).then(|| unsafe { &*header_of(start + index * stride, stride).as_ptr() })
}

impl Extent {
    fn load(&self) -> (usize, usize, usize) {
        let load = |word: &Published<AtomicUsize>| word.load(Ordering::Relaxed);
        (load(&self.start), load(&self.stride), load(&self.slots))
    }
}

/// Where the header of the slot at `slot` is.
fn header_of(slot: usize, stride: usize) -> NonNull<SlotHeader> {
    let at = (slot + stride - HEADER_BYTES) as *mut SlotHeader;
    NonNull::new(at).expect("slots do not lie at address 0")
}

/// An extent as its pool knows it.
#[derive(Debug)]
pub(super) struct Run {
    id: usize,
    granules: usize,
    pub(super) stride: usize,
    pub(super) guard_bytes: usize,
    pub(super) slots: usize,
    /// Slots from the start on that have their guard; guards stay for ever.
    pub(super) guarded: usize,
    /// Slots from the start on that the pool has cut.
    pub(super) cut: usize,
}

impl Run {
    /// The address of slot `index`, its limit.
    pub(super) fn slot(&self, index: usize) -> usize {
        EXTENTS[self.id].load().0 + index * self.stride
    }

    pub(super) fn header(&self, index: usize) -> NonNull<SlotHeader> {
        header_of(self.slot(index), self.stride)
    }

    /// The addresses of the slots that the pool has cut, and their size in bytes.
    pub(super) fn cut_bytes(&self) -> (usize, usize) {
        (self.slot(0), self.cut * self.stride)
    }

    /// Makes guards for some slots more, up to `wanted`, one at least. There are slots without one.
    pub(super) fn make_guards(&mut self, wanted: usize, guards: Guards) -> Result<(), PoolError> {
        let end = self.slots.min(self.guarded + wanted.clamp(1, guard::MAX_A_CALL));
        let mut ranges = NewGuards::new();
        for index in self.guarded..end {
            ranges.push(self.slot(index), self.guard_bytes);
        }
        // SAFETY: the low ends of slots of this extent that were not cut yet.
        self.guarded += unsafe { guard::install(&ranges, guards, self.guarded) }?;
        Ok(())
    }

    /// Writes the header of a slot that becomes part of `pool`.
    pub(super) fn write_header(&self, index: usize, colour_bytes: usize, pool: &'static Shared) {
        // SAFETY: invariant 2: headers of extents are mapped, and any bit pattern of them is a value.
        let header = unsafe { self.header(index).as_ref() };
        header.register(core::ptr::null_mut());
        header.stack_limit.store(self.slot(index), Ordering::Relaxed);
        header
            .guard_end
            .store(self.slot(index) + self.guard_bytes, Ordering::Relaxed);
        let base = self.slot(index) + self.stride - HEADER_BYTES - colour_bytes;
        header.stack_base.store(base, Ordering::Relaxed);
        header
            .pool
            .store(core::ptr::from_ref(pool).cast_mut(), Ordering::Relaxed);
        header.set_next(core::ptr::null_mut());
    }
}

/// What of the region is given out.
struct Reserved {
    granules: usize,
    next_granule: usize,
    next_extent: usize,
    /// What kept the region from having all granules.
    limit: Option<KernelLimit>,
    /// Extents that no pool has.
    idle: Vec<Run>,
}

static RESERVED: Mutex<Reserved> = Mutex::new(Reserved {
    granules: 0,
    next_granule: 0,
    next_extent: 1,
    limit: None,
    idle: Vec::new(),
});

/// Makes the region, at the first call.
pub(super) fn reserve() -> Result<(), PoolError> {
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    if reserved.granules > 0 {
        return Ok(());
    }
    check_page_size()?;
    let mut bytes = GRANULE_COUNT * GRANULE_BYTES;
    let start = loop {
        match map(bytes) {
            Ok(start) => break start,
            Err((errno, limit)) if bytes <= MIN_REGION_BYTES => {
                return Err(PoolError::Reserve { bytes, errno, limit });
            }
            Err((_, limit)) => reserved.limit = Some(limit),
        }
        bytes = SCARCE_REGION_BYTES.min(bytes / 2);
    };
    // Stacks are not for core dumps, and not for huge pages: a stack that uses one page shall cost one.
    for advice in [libc::MADV_DONTDUMP, libc::MADV_NOHUGEPAGE] {
        // SAFETY: our own mapping, which holds nothing. Kernels without the advice refuse it, which is as well.
        unsafe { libc::madvise(start as *mut _, bytes, advice) };
    }
    reserved.granules = bytes / GRANULE_BYTES;
    REGION_START.store(start, Ordering::Relaxed);
    REGION_BYTES.store(bytes, Ordering::Release);
    Ok(())
}

/// Slots are cut at 4 KiB; aarch64 kernels can have larger pages.
fn check_page_size() -> Result<(), PoolError> {
    // SAFETY: no preconditions.
    let value = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    if value == PAGE_BYTES {
        return Ok(());
    }
    Err(PoolError::Config {
        field: "the kernel's page size",
        value,
        min: PAGE_BYTES,
        max: PAGE_BYTES,
    })
}

/// Reserves address space. The error is the kernel's number, and which limit was met.
fn map(bytes: usize) -> Result<usize, (i32, KernelLimit)> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping somewhere.
    let start = unsafe { libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err((last_errno(), limits::met_by(bytes, 0)));
    }
    Ok(start as usize)
}

/// An extent with room for some of `wanted` slots, one at least.
pub(super) fn acquire(stride: usize, guard_bytes: usize, wanted: usize) -> Result<Run, PoolError> {
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |run: &Run| run.stride == stride && run.guard_bytes == guard_bytes;
    if let Some(at) = reserved.idle.iter().position(fits) {
        return Ok(reserved.idle.swap_remove(at));
    }
    let free = reserved.granules - reserved.next_granule;
    let least = stride.div_ceil(GRANULE_BYTES);
    if least > free {
        return Err(PoolError::RegionFull {
            wanted_bytes: stride,
            free_bytes: free * GRANULE_BYTES,
            region_bytes: reserved.granules * GRANULE_BYTES,
            limit: reserved.limit,
        });
    }
    let granules = stride
        .saturating_mul(wanted)
        .div_ceil(GRANULE_BYTES)
        .clamp(least, free);
    let run = match open(&reserved, granules, stride, guard_bytes) {
        // A kernel that counts what could be used may still have the least.
        Err(PoolError::Commit { .. }) if granules > least => open(&reserved, least, stride, guard_bytes)?,
        result => result?,
    };
    reserved.next_granule += run.granules;
    reserved.next_extent += 1;
    Ok(run)
}

/// Makes the next `granules` usable and publishes them as an extent.
fn open(reserved: &Reserved, granules: usize, stride: usize, guard_bytes: usize) -> Result<Run, PoolError> {
    let first = reserved.next_granule;
    let start = REGION_START.load(Ordering::Relaxed) + first * GRANULE_BYTES;
    let bytes = granules * GRANULE_BYTES;
    // SAFETY: these granules are the region's, and no extent has them.
    if unsafe { libc::mprotect(start as *mut _, bytes, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        return Err(PoolError::Commit {
            bytes,
            errno: last_errno(),
            limit: limits::met_by(0, bytes),
        });
    }
    let (id, slots) = (reserved.next_extent, bytes / stride);
    EXTENTS[id].start.store(start, Ordering::Relaxed);
    EXTENTS[id].stride.store(stride, Ordering::Relaxed);
    EXTENTS[id].slots.store(slots, Ordering::Relaxed);
    EXTENTS[id]
        .reciprocal
        .store(reciprocal_of(stride), Ordering::Relaxed);
    for granule in &GRANULES[first..first + granules] {
        granule.store(id as u32, Ordering::Release);
    }
    Ok(Run {
        id,
        granules,
        stride,
        guard_bytes,
        slots,
        guarded: 0,
        cut: 0,
    })
}

/// Takes an extent back: its memory goes to the kernel, its address space to the next pool of this shape.
///
/// # Safety
/// No slot of the extent is in use, and nobody will use one.
pub(super) unsafe fn release(mut run: Run) {
    let bytes = run.cut * run.stride;
    // SAFETY: the caller's promise; the headers become zeros, which is a value of theirs. Guards stay.
    unsafe { libc::madvise(run.slot(0) as *mut _, bytes, libc::MADV_DONTNEED) };
    run.cut = 0;
    RESERVED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .idle
        .push(run);
}
