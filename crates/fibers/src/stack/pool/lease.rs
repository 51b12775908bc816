//! Leases: a stack that waits, after its use, with the thread that used it, for the same user.
//!
//! Taking a stack and giving it back are two operations on the thread's bin, each of two dozen instructions, and whoever takes one has to
//! write to it whatever lies at its base. Who uses a stack over and over on one thread can leave it in the bin's lease
//! instead, and finds it again, with all that was written to it, by the number of the lease: eleven instructions. In between the stack
//! is nobody's: another user on this thread, another thread that finds the pool exhausted, [`StackPool::trim`] and the thread's end get it
//! like any other that waits in the bin (`bin`), and the number is no lease's then.
//!
//! A bin has one lease, which is that of its thread's last user. While it is in use, others on the thread take their stacks from the bin.
//!
//! Where the thread's bins end before the use does, as in a fiber that a thread-local keeps, the stack goes back to the pool at the end of its use.

use core::marker::PhantomData;
use core::num::NonZeroU64;

use super::bin::Engaged;
use super::magazine::{self, InUse};
use super::{PoolError, PooledStack, Stack, StackPool, TakenHeader, shared};

/// Names a lease: what its user keeps to go on with it. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(NonZeroU64);

impl LeaseId {
    /// An id that no lease has. Tags tell several of them apart, for users who have such states.
    pub const fn none(tag: u8) -> LeaseId {
        match NonZeroU64::new(u64::MAX - tag as u64) {
            Some(number) => LeaseId(number),
            None => unreachable!(),
        }
    }
}

/// A stack of a [`StackPool`] in use under a lease. Dropping it leaves it with the thread.
///
/// Forgetting it loses the stack to the pool, as forgetting a [`PooledStack`](super::PooledStack) does.
#[derive(Debug)]
pub struct LeasedStack<'pool> {
    in_use: InUse,
    /// The pool is not closed meanwhile; and the value does not leave the thread.
    _pool: PhantomData<(&'pool StackPool, *mut ())>,
}

impl StackPool {
    /// Goes on with a lease: the stack is as its user left it. None when others have taken it, on another thread, and for
    /// [`LeaseId::none`]; `lease` is for that.
    ///
    /// An id of another pool's is no error, but that pool's memory may then stay until the thread ends.
    ///
    /// Cost: eleven instructions, with those of the drop.
    #[inline(always)]
    pub fn renew(&self, lease: Option<LeaseId>) -> Option<LeasedStack<'_>> {
        let number = lease.map_or(0, |lease| lease.0.get());
        magazine::renew(number).map(LeasedStack::new)
    }

    /// Takes a stack under a new lease: the one that this thread leased last, if it is not in use. Its contents are anything, and so is the owner
    /// in its header.
    ///
    /// Without a lease, as by [`take`](StackPool::take), when that of this thread is in use, when the thread is ending, and where the
    /// kernel has no `membarrier(2)`.
    ///
    /// Cost: as for [`take`](StackPool::take).
    ///
    /// # Errors
    /// As for [`take`](StackPool::take).
    #[inline]
    pub fn lease(&self) -> Result<Lent<'_>, PoolError> {
        match magazine::engage(self.shared()) {
            Engaged::Stack(in_use) => Ok(Lent::Leased(LeasedStack::new(in_use))),
            Engaged::InUse => self.take().map(Lent::Taken),
            Engaged::Empty => self.lease_new(),
        }
    }

    /// [`lease`](StackPool::lease) when this thread has no stack.
    #[cold]
    #[inline(never)]
    fn lease_new(&self) -> Result<Lent<'_>, PoolError> {
        let shared = self.shared();
        let slot = shared::take_slow(shared)?;
        Ok(match magazine::engage_new(shared, slot) {
            Some(in_use) => Lent::Leased(LeasedStack::new(in_use)),
            None => Lent::Taken(PooledStack { slot }),
        })
    }
}

/// What [`StackPool::lease`] gives.
#[derive(Debug)]
pub enum Lent<'pool> {
    /// A stack under a lease.
    Leased(LeasedStack<'pool>),
    /// One without.
    Taken(PooledStack),
}

impl LeasedStack<'_> {
    #[inline(always)]
    fn new(in_use: InUse) -> Self {
        LeasedStack {
            in_use,
            _pool: PhantomData,
        }
    }

    /// By what the stack is found again.
    pub fn id(&self) -> LeaseId {
        LeaseId(NonZeroU64::new(self.in_use.number()).expect("numbers of leases are not 0"))
    }

    /// The header at the top of the slot.
    #[inline]
    pub fn header(&self) -> TakenHeader<'_> {
        // SAFETY: invariant 1 of the pool.
        TakenHeader(unsafe { self.in_use.slot().as_ref() })
    }
}

impl Drop for LeasedStack<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(slot) = self.in_use.rest() {
            drop(PooledStack { slot });
        }
    }
}

// SAFETY: as for `PooledStack`, until the drop: a stack in use leaves its bin for nobody (invariant 4 of `bin`).
unsafe impl Stack for LeasedStack<'_> {
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
