//! The short way of a call from the store itself: a function of few integers, in a store that is idle and *plain* (no fuel, nobody who
//! may stop the guest).
//!
//! Such a call needs no argument slots and no entry trampoline: its values go to the guest in the registers in which its code wants
//! them, and the result comes back in one ([`arch::call_few`]). Its activation is written at a place and with words that are known
//! beforehand, and ends without looking at what it cannot have: it is outermost, entered by a sync call, and never parks.
//!
//! The invariants are those of [`super::activation`]: to everybody else this is an activation like any other.

use super::activation::{self, Activation};
use super::arch::{self, DONE};
use super::host_stack;
use super::store::StoreVm;
use super::vmctx::VMFuncRef;
use crate::error::Result;
use selvedge_compiler::layout::MAX_REGISTERS;
use std::ptr::NonNull;

/// Whether a sync call on behalf of `owner` may go the short way now, if its types allow it.
#[inline(always)]
pub(crate) fn is_open(store: &StoreVm, owner: *const Activation) -> bool {
    store.is_plain && owner.is_null() && store.top.is_null()
}

/// Calls `func` with its arguments' bits and waits for it to return. The answer is its result's bits.
///
/// # Errors
/// As for [`activation::call_sync`].
///
/// # Safety
/// `vm` is a live store whose calls may go the short way ([`is_open`]), `func` one of its function records, of few integers
/// ([`selvedge_compiler::layout::is_few_integers`]), and the values those of its parameters. No reference into the store is held.
#[inline(always)]
pub(crate) unsafe fn call(
    vm: *mut StoreVm,
    func: NonNull<VMFuncRef>,
    values: [u64; MAX_REGISTERS],
) -> Result<u64> {
    // SAFETY: the caller's promise; store invariant 1: nobody else refers to it, and no user code runs until the reference ends.
    let store = unsafe { &mut *vm };
    let host_sp = arch::stack_pointer();
    host_stack::check(host_sp)?;
    store.outer_host_sp = host_sp;
    store.take_stack()?;
    // SAFETY: the store is idle, so nobody uses its stack, which has room for this (`Config::stack_bytes` sees to it).
    let act = unsafe { Activation::write_outermost(store.stack_base()) };
    // SAFETY: just written.
    let link = unsafe { (*act).link() };
    store.top = act;
    store.cx.link = link;
    // SAFETY: one of the store's records, by the caller's promise; records live as long as the store.
    let VMFuncRef { code, ctx, .. } = unsafe { func.read() };
    // SAFETY: the store is plain, `link` its stack's, and the rest the caller's promise. Under a sync call nothing parks (the shims see
    // to it).
    let (word, result) = unsafe { arch::call_few(link, code, ctx, values) };
    if word != DONE {
        // SAFETY: the guest has just come back; no reference into the store is held.
        return Err(unsafe { activation::end_early(vm, act, word) });
    }
    // SAFETY: the guest came back, and each host function of it has cut off what it leaked: `act` is the innermost.
    let store = unsafe { &mut *vm };
    store.leave_outermost();
    Ok(result)
}
