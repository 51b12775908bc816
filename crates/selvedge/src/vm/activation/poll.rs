//! Polling an activation of an async call: its host future, then the guest, until it parks again or ends.
//!
//! ```text
//!   poll -> poll_any -> poll_watched -> poll_on -> the host future, settle -> resume
//!     |         |                        ^                                      ^
//!     |         +--- nobody may stop it -+                                      |
//!     +--- nothing pending, nothing above --------------------------------------+
//! ```
//!
//! Where an invariant is named by its number, it is one of [`super`].

use super::{Activation, Pending, drop_pending, end_early, pop, raise_stop, run};
use crate::error::{Error, Result};
use crate::vm::arch::{self, DONE, SUSPEND};
use crate::vm::host_stack;
use crate::vm::interrupt::index_of;
use crate::vm::limits::Grow;
use crate::vm::store::{Stop, StoreVm};
use crate::vm::vmctx::ValRaw;
use crate::vm::{throw, trap};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::task::{Context, Poll};

/// Polls an activation: the host future it waits for, then the guest. On success its results are in its slots.
///
/// On `Ready(Err(_))` and on a panic it has been popped; on `Ready(Ok(()))` the caller pops it.
///
/// # Safety
/// `act` is an activation of `vm` made for an async call that has not ended; no reference into the store is held.
#[inline]
pub(crate) unsafe fn poll(vm: *mut StoreVm, act: *mut Activation, cx: &mut Context<'_>) -> Poll<Result<()>> {
    // SAFETY: the caller's promise; invariant 2.
    let waits = unsafe { (*act).pending.is_some() };
    // SAFETY: the caller's promise; the reference ends with the statement.
    let is_simple = unsafe { &*vm }.has_nothing_but(act);
    if waits || !is_simple {
        // SAFETY: the caller's promise.
        return unsafe { poll_any(vm, act, cx) };
    }
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { arrive(vm, act) } {
        return Poll::Ready(Err(error));
    }
    // SAFETY: the caller's promise, and nothing is pending.
    let polled = unsafe { resume(vm, act, cx) };
    if polled.is_pending() {
        // SAFETY: the caller's promise; it has not ended.
        unsafe { park_if_watched(vm, act, cx) };
    }
    polled
}

/// [`poll`], whatever the activation waits for.
///
/// # Safety
/// As for [`poll`].
#[inline(never)]
unsafe fn poll_any(vm: *mut StoreVm, act: *mut Activation, cx: &mut Context<'_>) -> Poll<Result<()>> {
    // SAFETY: the caller's promise; a plain word.
    if unsafe { (*vm).cx.interrupt.is_null() } {
        // SAFETY: the caller's promise.
        let polled = unsafe { poll_on(vm, act, cx) };
        if polled.is_pending() {
            // SAFETY: the caller's promise; it has not ended.
            unsafe { park_if_watched(vm, act, cx) };
        }
        polled
    } else {
        // SAFETY: as above.
        unsafe { poll_watched(vm, act, cx) }
    }
}

/// [`poll`] for a store whose guest others may stop.
///
/// # Safety
/// As for [`poll`].
#[cold]
unsafe fn poll_watched(vm: *mut StoreVm, act: *mut Activation, cx: &mut Context<'_>) -> Poll<Result<()>> {
    // SAFETY: the caller's promise; a plain word.
    let state = unsafe { (*vm).cx.interrupt };
    // SAFETY: interrupt invariant 1; the store is borrowed by whoever polls.
    let state = unsafe { &*state };
    // SAFETY: the caller's promise.
    let index = unsafe { index_of(act) };
    if state.stops(index) {
        // What is above may be a call that the pending future still holds, and will end: nothing is cut off before that is gone.
        // SAFETY: the caller's promise.
        let error = trap::interrupted(unsafe { &*vm });
        // SAFETY: the caller's promise.
        unsafe { pop_always(vm, act) };
        return Poll::Ready(Err(error));
    }
    // SAFETY: the caller's promise.
    let polled = unsafe { poll_on(vm, act, cx) };
    if polled.is_pending() {
        // SAFETY: the caller's promise; it has not ended.
        unsafe { park_watched(vm, act, cx) };
    }
    polled
}

/// A call is pending: its host function may have had the store watched in this poll.
///
/// # Safety
/// As for [`park_watched`].
#[inline(always)]
unsafe fn park_if_watched(vm: *mut StoreVm, act: *mut Activation, cx: &Context<'_>) {
    // SAFETY: the caller's promise; a plain word.
    if !unsafe { (*vm).cx.interrupt.is_null() } {
        // SAFETY: the caller's promise.
        unsafe { park_watched(vm, act, cx) };
    }
}

/// A call of a watched store is pending: says whom to wake, and that nothing runs.
///
/// # Safety
/// `act` is an activation of `vm` that was polled and has not ended; `vm` is watched.
#[cold]
unsafe fn park_watched(vm: *mut StoreVm, act: *mut Activation, cx: &Context<'_>) {
    // SAFETY: the caller's promise; a plain word.
    let state = unsafe { (*vm).cx.interrupt };
    // SAFETY: interrupt invariant 1; the store is borrowed by whoever polls.
    let state = unsafe { &*state };
    // SAFETY: invariant 2.
    if unsafe { (*act).parent.is_null() } {
        state.nothing_runs();
    }
    // One that yields has woken its task already, and looks when that is polled: there is nobody to remember.
    // SAFETY: invariant 2.
    if unsafe { (*act).pending.is_none() } {
        return;
    }
    // SAFETY: invariant 2.
    let index = unsafe { index_of(act) };
    let remembered = catch_unwind(AssertUnwindSafe(|| {
        state.remember(cx.waker());
        if state.stops(index) {
            cx.waker().wake_by_ref(); // asked for before there was anyone to wake
        }
    }));
    if let Err(payload) = remembered {
        // SAFETY: the caller's promise.
        unsafe { pop_and_resume(vm, act, payload) };
    }
}

/// Begins a poll: sees to it that this thread, which may be another one than that which entered, can run the guest.
///
/// # Errors
/// As for [`host_stack::check`]; the activation has ended then.
///
/// # Safety
/// As for [`poll`].
#[inline]
unsafe fn arrive(vm: *mut StoreVm, act: *mut Activation) -> Result<()> {
    let host_sp = arch::stack_pointer();
    // SAFETY: invariant 2.
    let outermost = unsafe { (*act).parent.is_null() };
    if outermost {
        // SAFETY: the caller's promise; a plain word.
        unsafe { (*vm).outer_host_sp = host_sp };
    }
    host_stack::check(host_sp).inspect_err(|_| {
        // SAFETY: the caller's promise.
        unsafe { pop_always(vm, act) };
    })
}

/// Polls the host future, then runs the guest.
///
/// # Safety
/// As for [`poll`].
unsafe fn poll_on(vm: *mut StoreVm, act: *mut Activation, cx: &mut Context<'_>) -> Poll<Result<()>> {
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { arrive(vm, act) } {
        return Poll::Ready(Err(error));
    }
    // Read in place: it was written field by field a moment ago.
    // SAFETY: invariant 2; the reference ends before the future is polled.
    if let Some(pending) = unsafe { &(*act).pending } {
        let Pending {
            future,
            vtable,
            slots,
            ..
        } = *pending;
        #[expect(clippy::manual_map, reason = "the words are read only where there are some")]
        let grow = match &pending.grow {
            Some(grow) => Some(*grow),
            None => None,
        };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: invariant 3: the future lies there and is not done.
            let polled = unsafe { (vtable.poll)(future, vm, slots, cx) };
            if let Poll::Ready(Ok(())) = polled {
                // The values are in the slots; what is left of the future goes, and with it calls it had parked.
                // SAFETY: the caller's promise.
                unsafe { drop_pending(vm, act) };
            }
            polled
        }));
        // SAFETY: the caller's promise.
        match unsafe { end_of_host_poll(vm, act, polled) } {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        // SAFETY: as above.
        if let Err(error) = unsafe { settle(vm, act, grow, slots) } {
            return Poll::Ready(Err(error));
        }
    // SAFETY: the caller's promise; store invariant 1; the reference ends with the statement.
    } else if unsafe { &mut *vm }.owes_a_yield(act) {
        // SAFETY: the caller's promise.
        unsafe { wake(vm, act, cx) };
        return Poll::Pending;
    }
    // SAFETY: the caller's promise, and nothing is pending.
    unsafe { resume(vm, act, cx) }
}

impl StoreVm {
    /// Cuts off what lies above `act`, and takes one of the yields that it owes.
    #[inline(always)]
    fn owes_a_yield(&mut self, act: *mut Activation) -> bool {
        if self.top != act {
            self.cut_to(act);
        }
        self.fuel.take_owed_yield()
    }
}

/// After a later poll of a host future, which is gone if it was ready with values: keep waiting, or say how to go on.
///
/// # Safety
/// As for [`poll`], after the poll of the pending future.
#[inline(always)]
unsafe fn end_of_host_poll(
    vm: *mut StoreVm,
    act: *mut Activation,
    polled: std::result::Result<Poll<Result<()>>, Box<dyn Any + Send>>,
) -> Poll<Result<()>> {
    let stop = match polled {
        Ok(Poll::Pending) => return Poll::Pending,
        Ok(Poll::Ready(Ok(()))) => {
            // SAFETY: the caller's promise; store invariant 1.
            let store = unsafe { &mut *vm };
            if store.top != act {
                store.cut_to(act);
            }
            return Poll::Ready(Ok(()));
        }
        // SAFETY: the caller's promise.
        Ok(Poll::Ready(Err(mut error))) => match unsafe { catch_parked(vm, act, &error) } {
            // What was said about the exception goes with its error, and is user code.
            Ok(true) => match catch_unwind(AssertUnwindSafe(|| drop(error))) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(payload) => Stop::Panic(payload),
            },
            Ok(false) => {
                // SAFETY: the caller's promise; store invariant 1.
                trap::add_backtrace(unsafe { &mut *vm }, &mut error);
                Stop::Error(error)
            }
            Err(payload) => Stop::Panic(payload),
        },
        Err(payload) => Stop::Panic(payload),
    };
    // SAFETY: the caller's promise. A second panic, of a destructor, gives way to the first.
    let popped = catch_unwind(AssertUnwindSafe(|| unsafe { pop_always(vm, act) }));
    match (stop, popped) {
        (Stop::Error(_), Err(payload)) => resume_unwind(payload),
        (stop, _) => Poll::Ready(Err(raise_stop(Some(stop)))),
    }
}

/// A pending host function has failed: if that is an exception, whether the guest catches it. It does so when it is resumed.
///
/// # Safety
/// As for [`end_of_host_poll`].
unsafe fn catch_parked(vm: *mut StoreVm, act: *mut Activation, error: &Error) -> std::thread::Result<bool> {
    // SAFETY: invariant 2.
    let pending = unsafe { (*act).pending };
    // SAFETY: the caller's promise; store invariant 1.
    let asked_for_fuel = pending.is_some_and(|pending| unsafe { &mut *vm }.is_answer(pending.slots));
    if asked_for_fuel || !error.is::<throw::Exception>() {
        return Ok(false);
    }
    // SAFETY: the caller's promise.
    catch_unwind(AssertUnwindSafe(|| unsafe { drop_pending(vm, act) }))?;
    // SAFETY: the caller's promise; store invariant 1.
    let store = unsafe { &mut *vm };
    if store.top != act {
        store.cut_to(act);
    }
    // SAFETY: the caller's promise: it is parked in the host call whose future has failed.
    Ok(unsafe { store.is_caught_parked(act, error) })
}

/// After a host future is done: when it was asked for fuel, the guest may have to stop for want of it, and is popped; when it was
/// asked whether something may grow, that is done.
///
/// # Safety
/// As for [`pop`], with nothing pending.
#[inline(always)]
unsafe fn settle(
    vm: *mut StoreVm,
    act: *mut Activation,
    grow: Option<Grow>,
    slots: *mut ValRaw,
) -> Result<()> {
    // SAFETY: the caller's promise; store invariant 1.
    let store = unsafe { &mut *vm };
    let settled = match grow {
        Some(grow) => store.settle_growth(grow, slots),
        None => store.settle_answer(slots),
    };
    let Err(trap) = settled else {
        return Ok(());
    };
    // SAFETY: parked at a fuel check or in an operation, whose frame record `guest_fp` names.
    unsafe { store.set_trap_at_exit(trap) };
    let error = trap::take(store);
    // SAFETY: the caller's promise.
    unsafe { pop(vm, act) };
    Err(error)
}

/// [`pop`], which also takes the activation away when the pending future's destructor panics.
///
/// # Safety
/// As for [`pop`].
unsafe fn pop_always(vm: *mut StoreVm, act: *mut Activation) {
    // SAFETY: the caller's promise.
    let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { drop_pending(vm, act) }));
    // SAFETY: the caller's promise; nothing is pending any more.
    unsafe { pop(vm, act) };
    if let Err(payload) = dropped {
        resume_unwind(payload);
    }
}

/// Wakes the task of a call that yields; when the waker panics, the activation is popped.
///
/// # Safety
/// As for [`pop`].
#[inline(always)]
unsafe fn wake(vm: *mut StoreVm, act: *mut Activation, cx: &Context<'_>) {
    let woken = catch_unwind(AssertUnwindSafe(|| cx.waker().wake_by_ref()));
    if let Err(payload) = woken {
        // SAFETY: the caller's promise.
        unsafe { pop_and_resume(vm, act, payload) };
    }
}

/// Ends an activation whose waker has panicked, and goes on with that.
///
/// # Safety
/// As for [`pop`].
#[cold]
#[inline(never)]
unsafe fn pop_and_resume(vm: *mut StoreVm, act: *mut Activation, payload: Box<dyn Any + Send>) -> ! {
    // SAFETY: the caller's promise.
    unsafe { pop_always(vm, act) };
    resume_unwind(payload)
}

/// Ends an activation whose call's future is dropped, be it on another thread than that which polled it.
///
/// # Safety
/// As for [`pop`].
pub(crate) unsafe fn leave(vm: *mut StoreVm, act: *mut Activation) {
    // SAFETY: invariant 2.
    let outermost = unsafe { (*act).parent.is_null() };
    if outermost {
        // A destructor may enter the guest: its depth is measured on this thread's stack.
        // SAFETY: the caller's promise; a plain word.
        unsafe { (*vm).outer_host_sp = arch::stack_pointer() };
    }
    // SAFETY: the caller's promise.
    unsafe { pop_always(vm, act) };
}

/// Runs the guest until it parks or ends.
///
/// # Safety
/// As for [`poll`], with nothing pending.
#[inline(always)]
unsafe fn resume(vm: *mut StoreVm, act: *mut Activation, cx: &mut Context<'_>) -> Poll<Result<()>> {
    // SAFETY: invariant 2. The lifetime is erased: the pointer is used only while this poll lasts, and nulled after.
    unsafe { (*act).poll_context = ptr::from_mut(cx).cast() };
    // SAFETY: the caller's promise.
    let word = unsafe { run(vm, act) };
    // SAFETY: invariant 2.
    unsafe { (*act).poll_context = ptr::null_mut() };
    match word {
        DONE => Poll::Ready(Ok(())),
        SUSPEND => {
            // SAFETY: invariant 2.
            let yielded = unsafe { (*act).pending.is_none() };
            if yielded {
                // SAFETY: the caller's promise.
                unsafe { wake(vm, act, cx) };
            }
            Poll::Pending
        }
        // SAFETY: the guest has just come back.
        word => Poll::Ready(Err(unsafe { end_early(vm, act, word) })),
    }
}
