//! Calls that must be over by some time: [`WithDeadline`].

use super::call::{CallFuture, CallValsFuture};
use super::interrupt::{Alarm, InterruptState};
use crate::error::{Error, Result};
use crate::trap::Trap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The future of a guest call: [`CallFuture`] or [`CallValsFuture`].
///
/// ```
/// use selvedge::GuestCall;
/// # use selvedge::{Instance, Module, Result, Store, Trap};
/// # use std::{future::Future, time::Duration};
/// async fn run(store: &mut Store<()>, instance: Instance) -> Result<()> {
///     let call = instance.call_async::<_, (), ()>(store, "spin", ());
///     call.with_timeout(Duration::from_millis(10)).await
/// }
/// # let mut store = Store::<()>::default();
/// # let module = Module::new(store.engine(), r#"(module (func (export "spin") (loop (br 0))))"#)?;
/// # let instance = Instance::new(&mut store, &module, &[])?;
/// # let mut call = std::pin::pin!(run(&mut store, instance));
/// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// # let error = loop {
/// #     if let std::task::Poll::Ready(Err(error)) = call.as_mut().poll(&mut context) { break error }
/// # };
/// assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
/// # Ok::<(), selvedge::Error>(())
/// ```
pub trait GuestCall: Future + Unpin + Sized + private::Sealed {
    /// The call, ended with [`Trap::Interrupt`](crate::Trap::Interrupt) when it is not over by `at`, whether the guest runs
    /// or waits by then.
    ///
    /// Needs no particular executor: a thread of this crate's keeps the time, and the call's task is woken. A host function that
    /// blocks is waited for. The call is measured from outside: what `at` cuts off leaves the store as usable as a drop does, with
    /// memories, tables and globals as the guest left them.
    ///
    /// # Errors
    /// Those of the call; at the first poll, that the time cannot be kept: the system has no thread to give.
    fn with_deadline(self, at: Instant) -> WithDeadline<Self> {
        WithDeadline {
            call: self,
            at: Some(at),
            alarm: None,
        }
    }

    /// As [`with_deadline`](GuestCall::with_deadline), this long after now. A time that the clock cannot represent is none.
    fn with_timeout(self, timeout: Duration) -> WithDeadline<Self> {
        WithDeadline {
            call: self,
            at: Instant::now().checked_add(timeout),
            alarm: None,
        }
    }
}

/// A call as others may stop it: what they share with the store, and the call's index in it.
pub type Watched = (Arc<InterruptState>, u32);

mod private {
    use super::{Result, Watched};

    pub trait Sealed {
        /// None for a call that was not entered, whose error the first poll tells.
        fn watch(&mut self) -> Result<Option<Watched>>;
    }
}

impl<T, R> private::Sealed for CallFuture<'_, T, R> {
    fn watch(&mut self) -> Result<Option<Watched>> {
        CallFuture::watch(self)
    }
}

impl<T> private::Sealed for CallValsFuture<'_, T> {
    fn watch(&mut self) -> Result<Option<Watched>> {
        CallValsFuture::watch(self)
    }
}

impl<T, R> GuestCall for CallFuture<'_, T, R> where Self: Future {}
impl<T> GuestCall for CallValsFuture<'_, T> {}

/// A guest call with a deadline, made by [`GuestCall::with_deadline`].
///
/// # Cancellation
/// As for the call alone.
#[must_use = "a guest call runs only when its future is polled"]
pub struct WithDeadline<C> {
    // Dropped in this order: the call is over before its alarm is taken back.
    call: C,
    /// None once it is watched, or when there is none.
    at: Option<Instant>,
    alarm: Option<Alarm>,
}

impl<C: fmt::Debug> fmt::Debug for WithDeadline<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithDeadline")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

impl<C> Unpin for WithDeadline<C> {}

impl<C, R> Future for WithDeadline<C>
where
    C: GuestCall<Output = Result<R>>,
{
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R>> {
        let this = &mut *self;
        if let Some(at) = this.at.take() {
            match this.call.watch() {
                Ok(watched) => this.alarm = watched.map(|(state, index)| Alarm::new(state, index, at)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let polled = Pin::new(&mut this.call).poll(cx);
        let Poll::Ready(result) = polled else {
            return Poll::Pending;
        };
        let is_over = this.alarm.take().is_some_and(Alarm::has_rung);
        Poll::Ready(result.map_err(|error| if is_over { explain(error) } else { error }))
    }
}

#[cold]
fn explain(error: Error) -> Error {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => error.context("the call was not over at its deadline"),
        _ => error,
    }
}
