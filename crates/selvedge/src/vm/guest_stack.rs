//! What a store has of guest stacks: one of its own, or the lease of one.
//!
//! ```text
//!             own: pool.take                         leased: pool.lease, pool.renew
//!   calls     async ones, and all but the short way  the short way (`few`)
//!   holds it  while something is active; for good    while the call lasts
//!             when it was told to keep it
//!   then      the thread's bin                       it waits with the thread, as the store left it, until others need it
//! ```
//!
//! A leased stack that waits has its store for its owner, be that dropped: nobody runs on it, so no signal's stack pointer leads there.
//!
//! Invariants
//! 1. `slot` with no `lease`, or with `KEPT`, is the store's own stack. With another it is the stack of that lease, which is the store's while it is
//!    in use and not afterwards: then only its address is known.
//! 2. Whatever is said of a lease that can be renewed (`few`) is said of `KEPT` too.

use crate::error::Result;
use fibers::pool::{LeaseId, LeasedStack, Lent, PooledStack, SlotHeader, StackPool};
use std::ptr::NonNull;

/// In the place of a lease: the stack is the store's own, which keeps it, and is ready for the short way.
const KEPT: Option<LeaseId> = Some(LeaseId::none(0));
/// A lease that is not to be renewed.
const OVER: Option<LeaseId> = Some(LeaseId::none(1));

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct GuestStack {
    slot: Option<NonNull<SlotHeader>>,
    lease: Option<LeaseId>,
}

impl GuestStack {
    pub(crate) const fn none() -> GuestStack {
        GuestStack {
            slot: None,
            lease: None,
        }
    }

    /// Whether there is a stack of the store's own.
    #[inline(always)]
    pub(crate) fn is_own(&self) -> bool {
        self.slot.is_some() && (self.lease.is_none() || self.is_kept())
    }

    /// Whether there is one that is ready for the short way.
    #[inline(always)]
    pub(crate) fn is_kept(&self) -> bool {
        self.lease == KEPT
    }

    /// The store's own stack is ready for the short way, and will be kept, until somebody else is to use it.
    pub(crate) fn set_kept(&mut self) {
        debug_assert!(self.is_own());
        self.lease = KEPT;
    }

    #[inline(always)]
    fn header(&self) -> Option<&SlotHeader> {
        // SAFETY: headers stay mapped as long as the process (invariant 1 of the pool).
        self.slot.map(|slot| unsafe { slot.as_ref() })
    }

    /// The base of the stack that the store uses; 0 if there was never one.
    #[inline(always)]
    pub(crate) fn base(&self) -> usize {
        self.header().map_or(0, SlotHeader::stack_base)
    }

    /// The lowest address of the stack that the store uses that does not fault; 0 if there was never one.
    #[inline(always)]
    pub(crate) fn guard_end(&self) -> usize {
        self.header().map_or(0, SlotHeader::guard_end)
    }

    /// Gets a stack of the store's own, unless there is one already. It names its owner.
    ///
    /// # Errors
    /// None is to be had.
    #[inline]
    pub(crate) fn take(&mut self, pool: &StackPool, owner: *mut ()) -> Result<()> {
        match self.is_own() {
            true => self.lease = None, // whoever takes it writes to it
            false => self.own(pool.take()?, owner),
        }
        Ok(())
    }

    #[inline]
    fn own(&mut self, stack: PooledStack, owner: *mut ()) {
        stack.header().register(owner);
        self.slot = Some(stack.into_raw());
        self.lease = None;
    }

    /// Gives the store's own stack back, if there is one, which is not ready for the short way.
    #[inline]
    pub(crate) fn release(&mut self) {
        debug_assert!(!self.is_kept());
        if self.lease.is_none()
            && let Some(slot) = self.slot.take()
        {
            // SAFETY: invariant 1: from `into_raw`, and taken back once.
            drop(unsafe { PooledStack::from_raw(slot) }); // the pool forgets the owner
        }
    }

    /// Goes on with the store's lease: the stack as the store left it, if nobody has used it since.
    #[inline(always)]
    pub(crate) fn renew<'pool>(&self, pool: &'pool StackPool) -> Option<LeasedStack<'pool>> {
        pool.renew(self.lease)
    }

    /// Leases a stack, or takes one where no lease is to be had. It names its owner.
    ///
    /// # Errors
    /// None is to be had.
    #[inline]
    pub(crate) fn lease<'pool>(
        &mut self,
        pool: &'pool StackPool,
        owner: *mut (),
    ) -> Result<Option<LeasedStack<'pool>>> {
        debug_assert!(!self.is_own());
        match pool.lease()? {
            Lent::Taken(stack) => {
                self.own(stack, owner);
                Ok(None)
            }
            Lent::Leased(stack) => {
                let header = stack.header();
                header.register(owner);
                self.slot = Some(NonNull::from(&*header));
                self.lease = Some(stack.id());
                Ok(Some(stack))
            }
        }
    }

    /// The next call that could go on with what is ready does not. A call that uses it goes on.
    pub(crate) fn forget_ready(&mut self) {
        self.lease = if self.is_own() { None } else { OVER };
    }
}

impl Drop for GuestStack {
    fn drop(&mut self) {
        self.forget_ready();
        self.release();
    }
}
