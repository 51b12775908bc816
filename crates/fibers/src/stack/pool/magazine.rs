//! A thread's own bins: four of them, each for one pool.
//!
//! Invariants, besides those of `bin`
//! 1. A thread unbinds its bins before they vanish: `Exit` is made before the first binding, and its drop
//!    takes the lock of each pool. So a bin in a pool's list is alive while the pool's lock is held.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use super::bin;
use super::region::SlotHeader;
use super::shared::{self, Shared};
use super::sync::{AtomicBool, AtomicPtr, AtomicUsize};

/// How many stacks a bin holds.
pub(super) const CAPACITY: usize = 16;

const BINS_A_THREAD: usize = 4;

/// Some stacks of one pool, for one thread.
pub(super) type Bin = bin::Bin<Shared, SlotHeader, CAPACITY>;

thread_local! {
    // Without a destructor, so that reaching them costs nothing; `EXIT` empties them.
    static BINS: [Bin; BINS_A_THREAD] = const { [const { unbound() }; BINS_A_THREAD] };
    static EXIT: Exit = const { Exit };
    static NEXT_VICTIM: Cell<usize> = const { Cell::new(0) };
}

const fn unbound() -> Bin {
    Bin::from_parts(
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
        BINS.with(|bins| bins.iter().for_each(give_back));
    }
}

/// The stack of `pool` that this thread returned last.
#[inline]
pub(super) fn pop(pool: &'static Shared) -> Option<NonNull<SlotHeader>> {
    with_bin_of(pool, Bin::pop).flatten()
}

/// Puts a stack of `pool` into this thread's bin; `false` when there is no bin or no room.
#[inline]
pub(super) fn push(pool: &'static Shared, slot: NonNull<SlotHeader>) -> bool {
    with_bin_of(pool, |bin| bin.push(slot)).unwrap_or(false)
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
        let own = bins.iter().find(|bin| bin.is_bound_to(pool));
        own.or_else(|| bins.iter().find(|bin| bin.is_unbound()))
            .or_else(|| evict(bins))
            .map(OwnBin::new)
    })
}

/// Unbinds a bin.
fn evict(bins: &[Bin; BINS_A_THREAD]) -> Option<&Bin> {
    let victim = NEXT_VICTIM.get();
    NEXT_VICTIM.set((victim + 1) % BINS_A_THREAD);
    give_back(&bins[victim]);
    bins[victim].is_unbound().then_some(&bins[victim])
}

/// Returns the stacks of a bin of this thread to their pool and unbinds it.
fn give_back(bin: &Bin) {
    // SAFETY: null, or a control block, and those are never freed (invariant 3 of the pool).
    if let Some(pool) = unsafe { bin.settled_pool().as_ref() } {
        shared::drain_bin(pool, bin);
    }
}

/// A bin of the running thread.
#[derive(Clone, Copy)]
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
