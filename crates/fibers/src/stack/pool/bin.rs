//! A bin: a few stacks of one pool that one thread takes and returns without a lock or a locked instruction.
//!
//! The *owner* works on its bin alone. When the pool is exhausted, closed or trimmed, another thread empties the
//! bin: it *robs* it. The two meet as in Dekker's algorithm, with the costs on the robber's side (the fences
//! of `sync`):
//!
//! ```text
//!   owner                               robber, holding the pool's lock
//!   busy = true                         pool = ROBBED
//!   light fence                         heavy fence
//!   pool is still mine? else back off   wait until not busy
//!   change len and stacks               take the stacks, len = 0
//!   busy = false                        pool = null
//! ```
//!
//! Invariants
//! 1. A bin that is bound to a pool is in the pool's list of bins; binding and unbinding hold its lock. Only
//!    the owner binds, and only a bin whose pool is null.
//! 2. `len` and `stacks` of a bound bin are changed by its owner, busy or holding the lock, or by a
//!    robber that has found it not busy.
//!
//! `tests/pool_loom.rs` explores the interleavings of this file's code, with a pool of three lines around it.

use core::ptr::{self, NonNull};

use super::sync::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, heavy, light, pause};

/// Up to `CAPACITY` stacks `T` of one pool `P`, hottest last.
pub(super) struct Bin<P, T, const CAPACITY: usize> {
    pool: AtomicPtr<P>,
    busy: AtomicBool,
    len: AtomicUsize,
    stacks: [AtomicPtr<T>; CAPACITY],
}

/// The pool of a bin that is being robbed; no pool lies at this address.
fn robbed<P>() -> *mut P {
    ptr::without_provenance_mut(1)
}

impl<P, T, const CAPACITY: usize> Bin<P, T, CAPACITY> {
    /// An unbound bin, of null pointers, `false` and 0: made of them, as not everybody's atomics are made by a constant.
    pub(super) const fn from_parts(
        pool: AtomicPtr<P>,
        busy: AtomicBool,
        len: AtomicUsize,
        stacks: [AtomicPtr<T>; CAPACITY],
    ) -> Self {
        Bin {
            pool,
            busy,
            len,
            stacks,
        }
    }

    #[inline]
    pub(super) fn is_bound_to(&self, pool: *const P) -> bool {
        ptr::eq(self.pool.load(Ordering::Acquire), pool)
    }

    pub(super) fn is_unbound(&self) -> bool {
        self.pool.load(Ordering::Acquire).is_null()
    }

    /// Binds an unbound bin of this thread; the caller holds the pool's lock and adds it to the list.
    pub(super) fn bind(&self, pool: *const P) {
        debug_assert!(self.is_unbound() && self.len() == 0);
        self.pool.store(pool.cast_mut(), Ordering::Release);
    }

    /// The pool of this thread's bin, null if none; not before a robber has done with it.
    pub(super) fn settled_pool(&self) -> *mut P {
        loop {
            let pool = self.pool.load(Ordering::Acquire);
            if pool != robbed() {
                return pool;
            }
            pause();
        }
    }

    /// Runs `work` on this thread's bin, if it is still bound to `pool`, as it was just now. No robber touches it meanwhile.
    #[inline]
    pub(super) fn own<R>(&self, pool: *const P, work: impl FnOnce(&Self) -> R) -> Option<R> {
        self.busy.store(true, Ordering::Relaxed);
        light();
        // A robber may have come between the look and the mark.
        let result = self.is_bound_to(pool).then(|| work(self));
        self.busy.store(false, Ordering::Release);
        result
    }

    /// How many stacks it holds; a guess unless nobody can change it.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// The hottest stack. For those whom invariant 2 lets change the bin.
    #[inline]
    pub(super) fn pop(&self) -> Option<NonNull<T>> {
        let len = self.len().checked_sub(1)?;
        let slot = self.stacks[len % CAPACITY].load(Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        NonNull::new(slot)
    }

    /// Adds a stack as the hottest; `false` when there is no room. As for `pop`.
    #[inline]
    pub(super) fn push(&self, slot: NonNull<T>) -> bool {
        let len = self.len();
        if len >= CAPACITY {
            return false;
        }
        self.stacks[len].store(slot.as_ptr(), Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// Takes the colder half out of a full bin, coldest first. As for `pop`.
    pub(super) fn spill(&self, mut each: impl FnMut(NonNull<T>)) {
        debug_assert_eq!(self.len(), CAPACITY);
        let half = CAPACITY / 2;
        for stack in &self.stacks[..half] {
            each(NonNull::new(stack.load(Ordering::Relaxed)).expect("a full bin has no holes"));
        }
        for i in half..CAPACITY {
            self.stacks[i - half].store(self.stacks[i].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.len.store(CAPACITY - half, Ordering::Relaxed);
    }

    /// Begins to rob a bound bin, of another thread or of this one. The caller holds its pool's lock, has
    /// removed it from the pool's list, and goes on with a heavy fence, one for any number of bins, and `rob`.
    pub(super) fn mark_robbed(&self) {
        self.pool.store(robbed(), Ordering::Relaxed);
    }

    /// Empties and unbinds a bin that was marked before the heavy fence, coldest stack first.
    pub(super) fn rob(&self, each: impl FnMut(NonNull<T>)) {
        while self.busy.load(Ordering::Acquire) {
            pause();
        }
        self.drain(each);
    }

    /// The same for a bin of this thread, without mark and fence, as nobody else can be at it.
    pub(super) fn drain(&self, mut each: impl FnMut(NonNull<T>)) {
        for stack in &self.stacks[..self.len()] {
            each(NonNull::new(stack.load(Ordering::Relaxed)).expect("a bin has no holes"));
        }
        self.len.store(0, Ordering::Relaxed);
        self.pool.store(ptr::null_mut(), Ordering::Release);
    }
}

/// Empties and unbinds all of `bins`, with one heavy fence.
pub(super) fn rob_all<'bin, P: 'bin, T: 'bin, const CAPACITY: usize>(
    bins: impl Iterator<Item = &'bin Bin<P, T, CAPACITY>> + Clone,
    mut each: impl FnMut(NonNull<T>),
) {
    bins.clone().for_each(Bin::mark_robbed);
    heavy();
    bins.for_each(|bin| bin.rob(&mut each));
}
