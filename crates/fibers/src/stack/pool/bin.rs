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
//! One stack more may be *leased*: it waits in the bin for whom it served last, who finds it as it was by the lease's number. The number is
//! a lock of its own kind, so that going on with a lease is two comparisons and a store:
//!
//! ```text
//!   owner, renewing lease n             robber, holding the pool's lock
//!   number is n? else there is none     pool = ROBBED
//!   number = IN_USE                     heavy fence
//!   light fence                         number is IN_USE? then leave the stack, pool = as it was
//!   nobody robs? else wait: whoever     take the stack, stack = null, number = VACANT
//!   robs leaves it or has taken it      pool = null
//!   ...
//!   number = n
//! ```
//!
//! Invariants
//! 1. A bin that is bound to a pool is in the pool's list of bins; binding and unbinding hold its lock. Only
//!    the owner binds, and only a bin whose pool is null.
//! 2. `len` and `stacks` of a bound bin are changed by its owner, busy or holding the lock, or by a
//!    robber that has found it not busy.
//! 3. `leased` is not null exactly while `number` is not VACANT, but for whom a robber has come before: he finds null and puts the number right.
//!    Busy or not, the owner alone makes it something else than null, and while `number` is IN_USE nobody makes it null.
//! 4. A bin whose lease is in use is not robbed of that, and stays bound; its thread's end unbinds it all the same.
//!
//! `tests/pool_loom.rs` explores the interleavings of this file's code, with a pool of three lines around it.

use core::ptr::{self, NonNull};

use super::sync::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, heavy, light, light_if_asymmetric, pause,
};

/// Up to `CAPACITY` stacks `T` of one pool `P`, hottest last, and one that is leased.
#[repr(C, align(64))]
pub(super) struct Bin<P, T, const CAPACITY: usize> {
    // First, and in one cache line, what is looked at each time.
    number: AtomicU64,
    pool: AtomicPtr<P>,
    /// What `number` is when the use of the lease ends. The owner's alone.
    next_number: AtomicU64,
    leased: AtomicPtr<T>,
    busy: AtomicBool,
    len: AtomicUsize,
    stacks: [AtomicPtr<T>; CAPACITY],
}

/// The number of a bin whose lease is in use.
const IN_USE: u64 = 1;
/// The number of a bin without a lease.
pub(super) const VACANT: u64 = 2;
/// The least number that a lease may have.
pub(super) const FIRST_LEASE: u64 = 3;

/// What came of asking for a lease.
#[derive(Debug)]
pub(super) enum Engaged<S> {
    /// This one is leased, and in use.
    Stack(S),
    /// There is no stack to lease.
    Empty,
    /// The thread's lease is in use.
    InUse,
}

/// The pool of a bin that is being robbed; no pool lies at this address.
fn robbed<P>() -> *mut P {
    ptr::without_provenance_mut(1)
}

impl<P, T, const CAPACITY: usize> Bin<P, T, CAPACITY> {
    /// An unbound bin, of [`VACANT`] twice, null pointers, `false` and 0: made of them, as not everybody's atomics are made by a constant.
    pub(super) const fn from_parts(
        [number, next_number]: [AtomicU64; 2],
        pool: AtomicPtr<P>,
        leased: AtomicPtr<T>,
        busy: AtomicBool,
        len: AtomicUsize,
        stacks: [AtomicPtr<T>; CAPACITY],
    ) -> Self {
        Bin {
            number,
            next_number,
            pool,
            leased,
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

    /// How many stacks it holds, without a leased one; a guess unless nobody can change it.
    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// How many stacks nobody uses; a guess likewise.
    pub(super) fn idle(&self) -> usize {
        self.len() + usize::from(self.number.load(Ordering::Relaxed) >= FIRST_LEASE)
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

    /// Goes on with a lease of this thread: whether there is one of this number. It is in use then.
    ///
    /// Only where the fences are not the same on both sides (`sync`): else nobody makes leases.
    #[inline(always)]
    pub(super) fn renew(&self, number: u64) -> bool {
        if self.number.load(Ordering::Relaxed) != number {
            return false;
        }
        self.number.store(IN_USE, Ordering::Relaxed);
        light_if_asymmetric();
        if self.pool.load(Ordering::Acquire) > robbed() {
            return true;
        }
        self.renew_when_settled()
    }

    /// A robber came between the look and the mark: waits until he has gone, with the stack or without.
    #[cold]
    #[inline(never)]
    fn renew_when_settled(&self) -> bool {
        self.settled_pool();
        let is_here = !self.leased.load(Ordering::Relaxed).is_null();
        if !is_here {
            self.number.store(VACANT, Ordering::Relaxed); // his own word may have come before ours
        }
        is_here
    }

    /// The stack of the lease that the owner uses.
    #[inline]
    pub(super) fn leased(&self) -> NonNull<T> {
        let stack = NonNull::new(self.leased.load(Ordering::Relaxed));
        stack.expect("a lease in use has its stack")
    }

    /// The number of the lease that the owner uses.
    pub(super) fn lease_number(&self) -> u64 {
        self.next_number.load(Ordering::Relaxed)
    }

    /// Ends the use of a lease, which waits under its number from now on; but gives its stack where the thread's bins have ended in the meantime.
    #[inline(always)]
    pub(super) fn rest(&self) -> Option<NonNull<T>> {
        // By invariant 4 nothing else unbinds it, and after that nobody looks here any more.
        if self.pool.load(Ordering::Relaxed).is_null() {
            return self.take_leased();
        }
        self.number.store(self.lease_number(), Ordering::Release);
        None
    }

    /// Makes a lease, in use, of the stack that was leased before, whatever its number, or else of the hottest. As for `pop`.
    #[inline]
    pub(super) fn engage(&self, number: u64) -> Engaged<NonNull<T>> {
        let stack = match self.number.load(Ordering::Relaxed) {
            IN_USE => return Engaged::InUse,
            VACANT => self.pop(),
            _ => NonNull::new(self.leased.load(Ordering::Relaxed)),
        };
        let Some(stack) = stack else {
            return Engaged::Empty;
        };
        self.use_leased(stack, number);
        Engaged::Stack(stack)
    }

    /// Makes a lease, in use, of a stack that the owner has; `false` where there is one. As for `pop`.
    pub(super) fn engage_new(&self, stack: NonNull<T>, number: u64) -> bool {
        let is_vacant = self.number.load(Ordering::Relaxed) == VACANT;
        if is_vacant {
            self.use_leased(stack, number);
        }
        is_vacant
    }

    #[inline]
    fn use_leased(&self, stack: NonNull<T>, number: u64) {
        debug_assert!(number >= FIRST_LEASE);
        self.leased.store(stack.as_ptr(), Ordering::Relaxed);
        self.next_number.store(number, Ordering::Relaxed);
        self.number.store(IN_USE, Ordering::Relaxed);
    }

    /// Ends a lease that nobody uses, and gives its stack. As for `pop`.
    pub(super) fn end_lease(&self) -> Option<NonNull<T>> {
        match self.number.load(Ordering::Relaxed) {
            IN_USE | VACANT => None,
            _ => self.take_leased(),
        }
    }

    /// The stack of a lease that was seen not to be in use, or is no longer.
    #[cold]
    #[inline(never)]
    fn take_leased(&self) -> Option<NonNull<T>> {
        let stack = self.leased.load(Ordering::Relaxed);
        self.leased.store(ptr::null_mut(), Ordering::Relaxed);
        self.number.store(VACANT, Ordering::Relaxed);
        NonNull::new(stack)
    }

    /// Empties a bound bin that was marked by [`mark_all`], coldest stack first, and unbinds it; but one whose lease is in use stays
    /// bound to `pool`, as it was, and that is the answer. One that was unbound may have vanished.
    pub(super) fn rob(&self, pool: *const P, each: impl FnMut(NonNull<T>)) -> bool {
        while self.busy.load(Ordering::Acquire) {
            pause();
        }
        self.drain(pool, each)
    }

    /// Leaves a bound bin that was marked as it was.
    pub(super) fn spare(&self, pool: *const P) {
        self.pool.store(pool.cast_mut(), Ordering::Release);
    }

    /// The same as [`rob`](Bin::rob) for a bin of this thread, without mark and fence, as nobody else can be at it.
    pub(super) fn drain(&self, pool: *const P, each: impl FnMut(NonNull<T>)) -> bool {
        let stays = self.take_all(each);
        let pool = if stays { pool.cast_mut() } else { ptr::null_mut() };
        self.pool.store(pool, Ordering::Release);
        stays
    }

    /// As [`drain`](Bin::drain) when the thread ends. Where a lease is in use then, be it in a fiber that another thread-local keeps, its end gives
    /// the stack ([`rest`](Bin::rest)).
    pub(super) fn drain_for_ever(&self, each: impl FnMut(NonNull<T>)) -> bool {
        self.take_all(each);
        self.pool.store(ptr::null_mut(), Ordering::Release);
        false
    }

    /// Takes all stacks that nobody uses, coldest first, and says whether the leased one is in use.
    fn take_all(&self, mut each: impl FnMut(NonNull<T>)) -> bool {
        // One look decides. An owner who marks it in use after a robber's look sees the robber, and waits.
        let number = self.number.load(Ordering::Acquire);
        for stack in &self.stacks[..self.len()] {
            each(NonNull::new(stack.load(Ordering::Relaxed)).expect("a bin has no holes"));
        }
        self.len.store(0, Ordering::Relaxed);
        if number >= FIRST_LEASE {
            self.take_leased().into_iter().for_each(each);
        }
        number == IN_USE
    }
}

/// Begins to rob bound bins, of other threads or of this one, with one heavy fence. The caller holds their pool's lock, and goes on with
/// [`rob`](Bin::rob) or [`spare`](Bin::spare) for each. Until then nobody takes a stack out of one.
pub(super) fn mark_all<'bin, P: 'bin, T: 'bin, const CAPACITY: usize>(
    bins: impl Iterator<Item = &'bin Bin<P, T, CAPACITY>>,
) {
    bins.for_each(|bin| bin.pool.store(robbed(), Ordering::Relaxed));
    heavy();
}
