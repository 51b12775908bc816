//! The short way of a call from the store itself: a function of few integers, in a store that is idle and *plain* (no fuel, nobody who
//! may stop the guest).
//!
//! Such a call needs no argument slots and no entry trampoline: its values go to the guest in the registers in which its code wants
//! them, and the result comes back in one ([`arch::call_few`]). Its activation is written at a place and with words that are known
//! beforehand, and ends without looking at what it cannot have: it is outermost, entered by a sync call, and never parks.
//!
//! So nobody ever changes that activation, and the next call of the store on this thread finds it where it was: the stack is leased
//! ([`super::guest_stack`]), and going on with the lease is all there is to entering. The first call of a store on a thread makes the lease, as does
//! one that finds it gone ([`call_anew`]).
//!
//! The invariants are those of [`super::activation`]: to everybody else this is an activation like any other. And
//! 1. A lease that can be renewed says that its store is plain and idle, that the activation of the short way lies at the base of its stack, and
//!    that `VMStoreContext::link` is that activation's. For leases are made by `call_anew` alone, which writes all of this; what makes the store
//!    another one takes its lease away; nested activations put the link back; and a stack that others have used has another number.

use super::activation::{self, Activation};
use super::arch::{self, DONE};
use super::host_stack;
use super::store::StoreVm;
use super::vmctx::VMFuncRef;
use crate::error::Result;
use fibers::pool::LeasedStack;
use selvedge_compiler::layout::MAX_REGISTERS;
use std::ptr::NonNull;

/// Whether a sync call on behalf of `owner` may go the short way now, if its types allow it.
#[inline(always)]
pub(crate) fn is_open(store: &StoreVm, owner: *const Activation) -> bool {
    store.is_plain && owner.is_null() && store.top.is_null()
}

/// The right to enter at once: nothing is to be made for the call.
pub(crate) struct Ready<'store> {
    /// None: the store keeps its stack.
    stack: Option<LeasedStack<'store>>,
    host_sp: usize,
}

impl<'store> Ready<'store> {
    /// If the store has used the lease of this thread last, or keeps its stack, and this thread is prepared and has room.
    #[inline(always)]
    pub(crate) fn new(store: &'store StoreVm) -> Option<Ready<'store>> {
        let host_sp = arch::stack_pointer();
        if !host_stack::has_room(host_sp) {
            return None;
        }
        let stack = store.stack.renew(store.engine.stacks());
        (stack.is_some() || store.stack.is_kept()).then_some(Ready { stack, host_sp })
    }

    /// Calls `func` with its arguments' bits and waits for it to return. The answer is its result's bits.
    ///
    /// # Errors
    /// A trap, or a host function's error.
    ///
    /// # Safety
    /// `vm` is the store that this was made for, `func` one of its function records, of few integers
    /// ([`selvedge_compiler::layout::is_few_integers`]), and the values those of its parameters. No reference into the store is held.
    #[inline(always)]
    pub(crate) unsafe fn call(
        self,
        vm: *mut StoreVm,
        func: NonNull<VMFuncRef>,
        values: [u64; MAX_REGISTERS],
    ) -> Result<u64> {
        let Ready { stack, host_sp } = self;
        // SAFETY: the caller's promise; a plain word.
        let link = unsafe { (*vm).cx.link };
        // SAFETY: the caller's promise; the reference ends with the statement.
        debug_assert!(is_as_left(unsafe { &*vm }));
        // SAFETY: the caller's promise; invariant 1: the activation is there.
        let result = unsafe { enter(vm, Activation::above(link), host_sp, func, values)? };
        drop(stack);
        // SAFETY: the caller's promise; the guest came back.
        unsafe { &mut *vm }.leave_outermost();
        Ok(result)
    }
}

/// Whether a store that is ready is what invariant 1 says.
fn is_as_left(store: &StoreVm) -> bool {
    // SAFETY: whatever made the store ready has written an activation there, and the stack is in use.
    let is_written = unsafe { Activation::is_outermost(store.stack.base(), store.cx.link) };
    is_written && is_open(store, std::ptr::null())
}

/// [`Ready::call`] of a store that is not ready: leases a stack, or takes one where no lease is to be had, and writes the activation.
///
/// # Errors
/// As there, and no stack to be had, or the host's stack is too deep.
///
/// # Safety
/// `vm` is a live store whose calls may go the short way ([`is_open`]); else as for [`Ready::call`].
pub(crate) unsafe fn call_anew(
    vm: *mut StoreVm,
    func: NonNull<VMFuncRef>,
    values: [u64; MAX_REGISTERS],
) -> Result<u64> {
    let host_sp = arch::stack_pointer();
    host_stack::check(host_sp)?;
    // SAFETY: the caller's promise; store invariant 1: nobody else refers to it, and no user code runs until the reference ends.
    let store = unsafe { &mut *vm };
    let owner = store.context_ptr().cast();
    let stack = match store.keep_stack {
        true => store.stack.take(store.engine.stacks(), owner).map(|()| None)?,
        false => store.stack.lease(store.engine.stacks(), owner)?,
    };
    // SAFETY: the store is idle, so nobody uses its stack, which has room for this (`Config::stack_bytes` sees to it).
    let act = unsafe { Activation::write_outermost(store.stack.base()) };
    // SAFETY: just written.
    store.cx.link = unsafe { (*act).link() };
    if store.keep_stack {
        store.stack.set_kept();
    }
    // SAFETY: the caller's promise; written above.
    let result = unsafe { enter(vm, act, host_sp, func, values)? };
    drop(stack);
    // SAFETY: the caller's promise; the guest came back.
    let store = unsafe { &mut *vm };
    store.release_stack(); // its own, where it has one
    store.leave_outermost();
    Ok(result)
}

/// Runs the guest in the activation of the short way.
///
/// # Errors
/// A trap, or a host function's error; the activation has ended then.
///
/// # Safety
/// `act` is written at the base of the stack of `vm`, whose `link` is its; else as for [`call_anew`].
#[inline(always)]
unsafe fn enter(
    vm: *mut StoreVm,
    act: *mut Activation,
    host_sp: usize,
    func: NonNull<VMFuncRef>,
    values: [u64; MAX_REGISTERS],
) -> Result<u64> {
    // SAFETY: the caller's promise; store invariant 1: nobody else refers to it, and no user code runs until the reference ends.
    let store = unsafe { &mut *vm };
    store.outer_host_sp = host_sp;
    store.top = act;
    let link = store.cx.link;
    // SAFETY: one of the store's records, by the caller's promise; records live as long as the store.
    let VMFuncRef { code, ctx, .. } = unsafe { func.read() };
    // SAFETY: the store is plain, `link` its stack's, and the rest the caller's promise. Under a sync call nothing parks (the shims see
    // to it).
    let (word, result) = unsafe { arch::call_few(link, code, ctx, values) };
    if word != DONE {
        // Not by the pointer above, which would lie on the host's stack meanwhile.
        // SAFETY: the caller's promise; a plain word, which is what it was.
        let act = Activation::above(unsafe { (*vm).cx.link });
        // SAFETY: the guest has just come back; no reference into the store is held.
        return Err(unsafe { activation::end_early(vm, act, word) });
    }
    Ok(result)
}
