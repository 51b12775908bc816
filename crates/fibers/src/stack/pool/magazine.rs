//! A thread's own few stacks: taken and returned without a lock, an allocation or a locked instruction.
//!
//! Each thread has four *bins*; a bin is bound to one pool and holds up to 16 of its stacks, hottest last. The
//! owner works on a bin alone, but when a pool is exhausted or closed, another thread empties the pool's
//! bins (*robs* them). The two meet as in Dekker's algorithm, with the costs on the robber's side (`barrier`):
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
//! 3. A thread unbinds its bins before they vanish: `Exit` is made before the first binding, and its drop
//!    takes the lock of each pool.

use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use std::time::Duration;

use super::barrier;
use super::region::SlotHeader;
use super::shared::{self, Shared};

/// How many stacks a bin holds.
pub(super) const CAPACITY: usize = 16;

/// How many stacks move between a bin and the pool's list at a time.
pub(super) const BATCH: usize = CAPACITY / 2;

const BINS_A_THREAD: usize = 4;

/// The pool of a bin that is being robbed; no pool lies at this address.
const ROBBED: *mut Shared = ptr::without_provenance_mut(1);

/// Some stacks of one pool, for one thread.
pub(super) struct Bin {
    pool: AtomicPtr<Shared>,
    busy: AtomicBool,
    len: AtomicUsize,
    stacks: [AtomicPtr<SlotHeader>; CAPACITY],
}

thread_local! {
    // Without a destructor, so that reaching them costs nothing; `EXIT` empties them.
    static BINS: [Bin; BINS_A_THREAD] = const { [const { Bin::new() }; BINS_A_THREAD] };
    static EXIT: Exit = const { Exit };
    static NEXT_VICTIM: Cell<usize> = const { Cell::new(0) };
}

/// Empties the thread's bins when the thread ends.
struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        BINS.with(|bins| bins.iter().for_each(|bin| bin.give_back()));
    }
}

/// The stack of `pool` that this thread returned last.
#[inline]
pub(super) fn pop(pool: &'static Shared) -> Option<NonNull<SlotHeader>> {
    with_bin_of(pool, Bin::pop_own).flatten()
}

/// Puts a stack of `pool` into this thread's bin; `false` when there is no bin or no room.
#[inline]
pub(super) fn push(pool: &'static Shared, slot: NonNull<SlotHeader>) -> bool {
    with_bin_of(pool, |bin| bin.push_own(slot)).unwrap_or(false)
}

/// Runs `work` on this thread's bin of `pool`, which no robber touches meanwhile.
#[inline]
fn with_bin_of<R>(pool: &'static Shared, work: impl FnOnce(&Bin) -> R) -> Option<R> {
    BINS.with(|bins| {
        let bin = bins.iter().find(|bin| bin.is_bound_to(pool))?;
        bin.busy.store(true, Ordering::Relaxed);
        barrier::light();
        // A robber may have come between the look and the mark.
        let result = bin.is_bound_to(pool).then(|| work(bin));
        bin.busy.store(false, Ordering::Release);
        result
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

/// Unbinds a bin. `None` when a robber is at work on it; it will be free soon.
fn evict(bins: &[Bin; BINS_A_THREAD]) -> Option<&Bin> {
    let victim = NEXT_VICTIM.get();
    NEXT_VICTIM.set((victim + 1) % BINS_A_THREAD);
    bins[victim].give_back();
    bins[victim].is_unbound().then_some(&bins[victim])
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

impl Bin {
    const fn new() -> Bin {
        Bin {
            pool: AtomicPtr::new(ptr::null_mut()),
            busy: AtomicBool::new(false),
            len: AtomicUsize::new(0),
            stacks: [const { AtomicPtr::new(ptr::null_mut()) }; CAPACITY],
        }
    }

    #[inline]
    pub(super) fn is_bound_to(&self, pool: &'static Shared) -> bool {
        self.pool.load(Ordering::Acquire) == ptr::from_ref(pool).cast_mut()
    }

    fn is_unbound(&self) -> bool {
        self.pool.load(Ordering::Acquire).is_null()
    }

    /// Binds an unbound bin of this thread; the caller holds the pool's lock and adds it to the list.
    pub(super) fn bind(&self, pool: &'static Shared) {
        debug_assert!(self.is_unbound() && self.len() == 0);
        self.pool.store(ptr::from_ref(pool).cast_mut(), Ordering::Release);
    }

    /// How many stacks it holds; a guess unless nobody can change it.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// The hottest stack. For those whom invariant 2 lets change the bin.
    #[inline]
    pub(super) fn pop_own(&self) -> Option<NonNull<SlotHeader>> {
        let len = self.len().checked_sub(1)?;
        let slot = self.stacks[len % CAPACITY].load(Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        NonNull::new(slot)
    }

    /// Adds a stack as the hottest; `false` when there is no room. As for `pop_own`.
    #[inline]
    pub(super) fn push_own(&self, slot: NonNull<SlotHeader>) -> bool {
        let len = self.len();
        if len >= CAPACITY {
            return false;
        }
        self.stacks[len].store(slot.as_ptr(), Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// Takes the coldest `BATCH` stacks out of a full bin, coldest first. As for `pop_own`.
    pub(super) fn take_coldest(&self) -> [NonNull<SlotHeader>; BATCH] {
        debug_assert_eq!(self.len(), CAPACITY);
        let batch = core::array::from_fn(|i| {
            NonNull::new(self.stacks[i].load(Ordering::Relaxed)).expect("a full bin has no holes")
        });
        for i in BATCH..CAPACITY {
            self.stacks[i - BATCH].store(self.stacks[i].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.len.store(CAPACITY - BATCH, Ordering::Relaxed);
        batch
    }

    /// Empties and unbinds a bin of another thread, or of this one, coldest stack first. The caller holds its pool's
    /// lock, and has removed it from the pool's list.
    pub(super) fn rob(&self, mut each: impl FnMut(NonNull<SlotHeader>)) {
        self.pool.store(ROBBED, Ordering::Relaxed);
        barrier::heavy();
        while self.busy.load(Ordering::Acquire) {
            // Longer than a look into the bin takes; and a sleep lets an owner of lower priority run.
            std::thread::sleep(Duration::from_micros(10));
        }
        self.drain(&mut each);
    }

    /// The same for a bin of this thread: nobody else can be at it.
    pub(super) fn drain(&self, each: &mut dyn FnMut(NonNull<SlotHeader>)) {
        for stack in &self.stacks[..self.len()] {
            each(NonNull::new(stack.load(Ordering::Relaxed)).expect("a bin has no holes"));
        }
        self.len.store(0, Ordering::Relaxed);
        self.pool.store(ptr::null_mut(), Ordering::Release);
    }

    /// Returns this thread's stacks to their pool and unbinds the bin.
    fn give_back(&self) {
        let pool = loop {
            let pool = self.pool.load(Ordering::Acquire);
            if pool != ROBBED {
                break pool;
            }
            std::thread::sleep(Duration::from_micros(10)); // the robber is at our memory: not before it is done
        };
        // SAFETY: a bin is bound to control blocks, which are never freed (invariant 3 of the pool).
        if let Some(pool) = unsafe { pool.as_ref() } {
            shared::drain_bin(pool, self);
        }
    }
}
