//! A thread's own bins: four of them, each for one pool.
//!
//! Invariants, besides those of `bin`
//! 1. A thread unbinds its bins before they vanish: `Exit` is made before the first binding, and its drop
//!    takes the lock of each pool. So a bin in a pool's list is alive while the pool's lock is held.
//! 2. `CURRENT` is one of the thread's own bins, or `NO_BIN`, whose lease is vacant for ever.
//! 3. A number is given to one lease of the process, and never again.

use core::cell::Cell;
use core::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use super::bin::{self, Engaged, FIRST_LEASE, VACANT};
use super::region::SlotHeader;
use super::shared::{self, Shared};
use super::sync::{self, AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};

/// How many stacks a bin holds.
pub(super) const CAPACITY: usize = 16;

/// The same, and the one that is leased.
pub(super) const MOST: usize = CAPACITY + 1;

const BINS_A_THREAD: usize = 4;

/// Some stacks of one pool, for one thread.
pub(super) type Bin = bin::Bin<Shared, SlotHeader, CAPACITY>;

thread_local! {
    // Without a destructor, so that reaching them costs nothing; `EXIT` empties them.
    static BINS: [Bin; BINS_A_THREAD] = const { [const { unbound() }; BINS_A_THREAD] };
    static EXIT: Exit = const { Exit };
    static NEXT_VICTIM: Cell<usize> = const { Cell::new(0) };
    /// The bin whose lease was used last.
    static CURRENT: Cell<*const Bin> = const { Cell::new(&raw const NO_BIN) };
    /// The numbers that this thread gives next: from the first up to the second, exclusive.
    static NUMBERS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

static NO_BIN: Bin = unbound();

/// How many numbers a thread takes at a time. With one a nanosecond they last for centuries.
const NUMBERS_A_THREAD: u64 = 1 << 20;

static NEXT_NUMBERS: AtomicU64 = AtomicU64::new(FIRST_LEASE);

const fn unbound() -> Bin {
    Bin::from_parts(
        [const { AtomicU64::new(VACANT) }; 2],
        AtomicPtr::new(ptr::null_mut()),
        AtomicPtr::new(ptr::null_mut()),
        AtomicBool::new(false),
        AtomicUsize::new(0),
        [const { AtomicPtr::new(ptr::null_mut()) }; CAPACITY],
    )
}

/// Empties the thread's bins when the thread ends.
struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        CURRENT.set(&raw const NO_BIN);
        BINS.with(|bins| {
            bins.iter()
                .for_each(|bin| give_back(bin, shared::Leaving::ForEver))
        });
    }
}

/// The stack of `pool` that this thread returned last; or, if there is no other, the one that waits for whom it served last.
#[inline]
pub(super) fn pop(pool: &'static Shared) -> Option<NonNull<SlotHeader>> {
    with_bin_of(pool, |bin| bin.pop().or_else(|| end_lease(bin))).flatten()
}

/// As [`Bin::end_lease`]; nobody is left who would find its user by the stack.
#[cold]
#[inline(never)]
fn end_lease(bin: &Bin) -> Option<NonNull<SlotHeader>> {
    bin.end_lease().inspect(disown)
}

/// Forgets the user of a stack that was leased.
pub(super) fn disown(slot: &NonNull<SlotHeader>) {
    // SAFETY: headers are always valid (invariant 1 of the pool).
    unsafe { slot.as_ref() }.register(ptr::null_mut());
}

/// Puts a stack of `pool` into this thread's bin; `false` when there is no bin or no room.
#[inline]
pub(super) fn push(pool: &'static Shared, slot: NonNull<SlotHeader>) -> bool {
    with_bin_of(pool, |bin| bin.push(slot)).unwrap_or(false)
}

/// The bin, and the stack in it, whose lease this thread goes on with.
#[derive(Clone, Copy, Debug)]
pub(super) struct InUse {
    bin: OwnBin,
}

impl InUse {
    /// The stack.
    #[inline]
    pub(super) fn slot(self) -> NonNull<SlotHeader> {
        self.bin.as_bin().leased()
    }

    pub(super) fn number(self) -> u64 {
        self.bin.as_bin().lease_number()
    }

    /// Ends the use: the stack waits in its bin. It is the answer when the thread has no bins any more.
    #[inline(always)]
    pub(super) fn rest(self) -> Option<NonNull<SlotHeader>> {
        self.bin.as_bin().rest()
    }
}

/// Goes on with the lease of this number, if the thread has used it last, and nobody else its stack since.
#[inline(always)]
pub(super) fn renew(number: u64) -> Option<InUse> {
    let bin = CURRENT.get();
    // SAFETY: invariant 2: a static, or a thread-local without a destructor.
    let bin = unsafe { &*bin };
    bin.renew(number).then(|| InUse {
        bin: OwnBin::new(bin),
    })
}

/// Leases the stack of this thread that was leased last, or else the hottest, under a new number.
#[inline]
pub(super) fn engage(pool: &'static Shared) -> Engaged<InUse> {
    if !sync::is_asymmetric() {
        return Engaged::InUse; // nobody makes leases
    }
    BINS.with(|bins| {
        let Some(bin) = bins.iter().find(|bin| bin.is_bound_to(pool)) else {
            return Engaged::Empty;
        };
        match bin.own(pool, |bin| bin.engage(next_number())) {
            Some(Engaged::Stack(_)) => Engaged::Stack(use_now(bin)),
            Some(Engaged::InUse) => Engaged::InUse,
            Some(Engaged::Empty) | None => Engaged::Empty,
        }
    })
}

/// Leases a stack of `pool` that this thread has, if it has a bin for it, and no other lease in that.
pub(super) fn engage_new(pool: &'static Shared, slot: NonNull<SlotHeader>) -> Option<InUse> {
    BINS.with(|bins| {
        let bin = bins.iter().find(|bin| bin.is_bound_to(pool))?;
        let is_leased = bin.own(pool, |bin| bin.engage_new(slot, next_number())) == Some(true);
        is_leased.then(|| use_now(bin))
    })
}

/// The lease of a bin of this thread, which was made just now.
#[inline]
fn use_now(bin: &Bin) -> InUse {
    CURRENT.set(bin);
    InUse {
        bin: OwnBin::new(bin),
    }
}

/// A number that no lease had.
#[inline]
fn next_number() -> u64 {
    let (mut next, mut end) = NUMBERS.get();
    if next == end {
        next = NEXT_NUMBERS.fetch_add(NUMBERS_A_THREAD, Ordering::Relaxed);
        end = next + NUMBERS_A_THREAD;
    }
    NUMBERS.set((next + 1, end));
    next
}

/// Runs `work` on this thread's bin of `pool`, which no robber touches meanwhile.
#[inline]
fn with_bin_of<R>(pool: &'static Shared, work: impl FnOnce(&Bin) -> R) -> Option<R> {
    BINS.with(|bins| {
        let bin = bins.iter().find(|bin| bin.is_bound_to(pool))?;
        bin.own(pool, work)
    })
}

/// A bin of this thread for `pool`, bound to it or to none, or `None` when the thread is ending.
///
/// Must not be called with a pool's lock held: it may make room by giving another pool's stacks back.
pub(super) fn claim(pool: &'static Shared) -> Option<OwnBin> {
    EXIT.try_with(|_| ()).ok()?;
    BINS.with(|bins| {
        // One that is being robbed may stay bound: a pool has one bin a thread.
        bins.iter().for_each(|bin| _ = bin.settled_pool());
        let own = bins.iter().find(|bin| bin.is_bound_to(pool));
        own.or_else(|| bins.iter().find(|bin| bin.is_unbound()))
            .or_else(|| evict(bins))
            .map(OwnBin::new)
    })
}

/// Unbinds a bin, one whose lease is not in use.
fn evict(bins: &[Bin; BINS_A_THREAD]) -> Option<&Bin> {
    let first = NEXT_VICTIM.get();
    let victim = (first..first + BINS_A_THREAD).find(|victim| {
        let bin = &bins[victim % BINS_A_THREAD];
        give_back(bin, shared::Leaving::IfUnused);
        bin.is_unbound()
    })?;
    NEXT_VICTIM.set((victim + 1) % BINS_A_THREAD);
    Some(&bins[victim % BINS_A_THREAD])
}

/// Returns the stacks of a bin of this thread to their pool and unbinds it.
fn give_back(bin: &Bin, leaving: shared::Leaving) {
    // SAFETY: null, or a control block, and those are never freed (invariant 3 of the pool).
    if let Some(pool) = unsafe { bin.settled_pool().as_ref() } {
        shared::drain_bin(pool, bin, leaving);
    }
}

/// A bin of the running thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnBin(NonNull<Bin>);

impl OwnBin {
    fn new(bin: &Bin) -> OwnBin {
        OwnBin(NonNull::from(bin))
    }

    pub(super) fn as_bin(&self) -> &Bin {
        // SAFETY: a thread-local without a destructor, and the value cannot leave its thread (not `Send`).
        unsafe { self.0.as_ref() }
    }

    pub(super) fn as_ptr(self) -> NonNull<Bin> {
        self.0
    }
}
