//! Fibers that borrow: their stacks, their closures, their values.
//!
//! What lies on a stack may hold references into what it borrows, so a fiber that borrows has to be over before the
//! borrow is. A destructor does not see to that: a value can be forgotten. So a scoped fiber runs for the time of one call:
//!
//! ```text
//!   ScopedFiber { stack, body }        plain data: nothing has started, nothing is erased from its type
//!        |  scope(run)
//!        v
//!   frame of `scope`: core, stack      never moved, swapped or forgotten: nobody else has the value
//!        |  run(ScopedFiberRef<'_>)    a reference; what is done to it (forget, swap, leak) is done to a reference
//!        v
//!   the core is ended                  also when `run` panics; a fiber that does not end aborts the process
//! ```
//!
//! Why the ways in which such interfaces broke elsewhere are closed:
//! - *Forgetting a suspended fiber.* There is no value of one to forget. Before `scope` it has not started; in it, it lies in a
//!   frame that is left by returning or unwinding only. That frame may itself lie on a fiber: if that one is forgotten, the
//!   frame stays for ever, and with it all that the scope borrows from it; what it borrows from elsewhere is `'static` or
//!   belongs to an outer scope, which cannot be forgotten in turn.
//! - *Swapping two fibers* of one type, so that each is ended with the other's borrow. The body's type is part of
//!   `ScopedFiber`; the reference does not give out what it points to.
//! - *Variance.* The reference is invariant in the values: one to a fiber that wants `&'static` inputs does not turn into
//!   one that takes shorter ones, nor do results grow longer. Before it starts, a fiber whose values are said to be
//!   others still has its body's type, which has to fit them in `scope`.
//! - *Keeping the suspender.* The body gets it by a reference of any lifetime, which fits nowhere outside. A scoped fiber *inside*
//!   may borrow it, and may suspend the outer fiber: then both are parked as one (`suspender`).
//! - *Another thread.* The reference is not `Send`; before it starts the fiber is, if its stack and body are.

use core::fmt;
use core::marker::PhantomData;

use crate::hooks;
use crate::parked::{Core, FiberResult, drop_at};
use crate::stack::Stack;
use crate::suspender::Suspender;
use crate::trap::TrapHandler;

/// A fiber that may borrow its stack and whatever its function uses. It runs in [`scope`](Self::scope), and ends there.
///
/// ```
/// use fibers::{FiberResult, GuardedStack, ScopedFiber};
///
/// let mut stack = GuardedStack::new(64 << 10)?;
/// let mut sum = 0;
/// let adder = ScopedFiber::with_stack(&mut stack, |suspender, mut number: u32| {
///     while number > 0 {
///         sum += number;
///         number = suspender.suspend(sum);
///     }
/// });
/// let last = adder.scope(|mut fiber| {
///     assert_eq!(fiber.resume(1), FiberResult::Yield(1));
///     assert_eq!(fiber.resume(20), FiberResult::Yield(21));
///     fiber.resume(0) // to its end: it would be unwound otherwise
/// });
/// assert_eq!((sum, last), (21, FiberResult::Return(())));
/// # Ok::<(), fibers::StackError>(())
/// ```
///
/// # What does not compile
/// A reference that outlives the scope:
/// ```compile_fail,E0521
/// # use fibers::{GuardedStack, ScopedFiber, Suspender};
/// let mut stack = GuardedStack::new(64 << 10).unwrap();
/// let mut kept = None;
/// ScopedFiber::with_stack(&mut stack, |_: &Suspender<(), ()>, ()| ()).scope(|fiber| kept = Some(fiber));
/// ```
/// A stack for two fibers, or one that is freed under a fiber:
/// ```compile_fail,E0499
/// # use fibers::{GuardedStack, ScopedFiber, Suspender};
/// let mut stack = GuardedStack::new(64 << 10).unwrap();
/// let one = ScopedFiber::with_stack(&mut stack, |_: &Suspender<(), ()>, ()| ());
/// let two = ScopedFiber::with_stack(&mut stack, |_: &Suspender<(), ()>, ()| ());
/// one.scope(|mut one| two.scope(|mut two| (one.resume(()), two.resume(()))));
/// ```
/// ```compile_fail,E0505
/// # use fibers::{GuardedStack, ScopedFiber, Suspender};
/// let mut stack = GuardedStack::new(64 << 10).unwrap();
/// ScopedFiber::with_stack(&mut stack, |_: &Suspender<(), ()>, ()| ()).scope(|mut fiber| { drop(stack); fiber.resume(()) });
/// ```
/// Borrows that end before the fiber:
/// ```compile_fail,E0597
/// # use fibers::{GuardedStack, ScopedFiber, Suspender};
/// let fiber = {
///     let number = 5;
///     ScopedFiber::with_stack(GuardedStack::new(64 << 10).unwrap(), |_: &Suspender<(), ()>, ()| drop(&number))
/// };
/// fiber.scope(|mut fiber| fiber.resume(()));
/// ```
/// ```compile_fail,E0597
/// # use fibers::{GuardedStack, ScopedFiber};
/// # let mut stack = GuardedStack::new(64 << 10).unwrap();
/// let fiber = ScopedFiber::with_stack(&mut stack, |suspender, mut text: &str| loop {
///     let next = suspender.suspend(());
///     assert_ne!(text, next); // uses the first input after the second resume
///     text = next;
/// });
/// fiber.scope(|mut fiber| {
///     fiber.resume("long");
///     {
///         let short = String::from("short");
///         fiber.resume(&short);
///     }
///     fiber.resume("again");
/// });
/// ```
/// Keeping the suspender:
/// ```compile_fail,E0521
/// # use fibers::{GuardedStack, ScopedFiber, Suspender};
/// # let mut stack = GuardedStack::new(64 << 10).unwrap();
/// let mut kept: Option<&Suspender<(), ()>> = None;
/// ScopedFiber::with_stack(&mut stack, |suspender, ()| kept = Some(suspender)).scope(|mut fiber| fiber.resume(()));
/// ```
/// Sending a started fiber, or its suspender, to another thread:
/// ```compile_fail,E0277
/// # use fibers::{GuardedStack, ScopedFiber, Suspender};
/// # let mut stack = GuardedStack::new(64 << 10).unwrap();
/// ScopedFiber::with_stack(&mut stack, |_: &Suspender<(), ()>, ()| ()).scope(|mut fiber| {
///     std::thread::scope(|threads| { threads.spawn(move || fiber.resume(())); });
/// });
/// ```
/// ```compile_fail,E0277
/// # use fibers::{GuardedStack, ScopedFiber, Suspender};
/// # let mut stack = GuardedStack::new(64 << 10).unwrap();
/// ScopedFiber::with_stack(&mut stack, |suspender: &Suspender<(), ()>, ()| {
///     std::thread::scope(|threads| { threads.spawn(|| suspender.suspend(())); });
/// });
/// ```
pub struct ScopedFiber<Input, Yield, Return, F, S> {
    stack: S,
    body: F,
    marker: PhantomData<fn(Input) -> FiberResult<Yield, Return>>,
}

impl<Input, Yield, Return, F, S> ScopedFiber<Input, Yield, Return, F, S>
where
    F: FnOnce(&Suspender<Input, Yield>, Input) -> Return,
    S: Stack,
{
    /// A fiber that will run `body` on `stack`: a stack, or a `&mut` to one. Cost: nothing yet.
    #[inline]
    pub fn with_stack(stack: S, body: F) -> Self {
        ScopedFiber {
            stack,
            body,
            marker: PhantomData,
        }
    }

    /// The stack, and the body that will not run on it.
    pub fn into_parts(self) -> (S, F) {
        (self.stack, self.body)
    }

    /// Calls `run` with the fiber, and ends that when `run` returns or panics: what is parked is unwound.
    ///
    /// Cost: a few nanoseconds to make the fiber and to end one that is finished.
    ///
    /// # Panics
    /// When the stack has no room for the body and 1 KiB more; when `run` panics; when the fiber panics while it is unwound.
    ///
    /// # Aborts
    /// When the fiber has frames and nothing can be unwound, and when it catches the unwinding and suspends again and again.
    #[inline]
    pub fn scope<T>(self, run: impl FnOnce(ScopedFiberRef<'_, Input, Yield, Return>) -> T) -> T {
        let ScopedFiber { stack, body, .. } = self;
        let _tag = hooks::stack_created(stack.base(), stack.limit());
        let limit = stack.limit();
        let mut scope = Scope::<Input, Yield, Return, F> {
            // SAFETY: `stack` is not touched until this function ends, and `scope` is dropped before it and ends the core,
            // on every way out. What is borrowed outlives `self`, and so this call.
            core: unsafe { Core::new(&stack, body) },
            body: PhantomData,
        };
        run(ScopedFiberRef {
            core: &mut scope.core,
            drop_initial: drop_at::<F>,
            limit,
        })
    }
}

impl<Input, Yield, Return, F, S: Stack> fmt::Debug for ScopedFiber<Input, Yield, Return, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedFiber").finish_non_exhaustive()
    }
}

/// The core of a fiber whose body has the type `F`, in a frame of `scope`.
struct Scope<Input, Yield, Return, F> {
    core: Core<Input, Yield, Return>,
    body: PhantomData<F>,
}

impl<Input, Yield, Return, F> Drop for Scope<Input, Yield, Return, F> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the core was made with an `F`.
        unsafe { self.core.end(drop_at::<F>) }
    }
}

/// A [`ScopedFiber`] in its scope.
pub struct ScopedFiberRef<'scope, Input, Yield, Return> {
    core: &'scope mut Core<Input, Yield, Return>,
    drop_initial: unsafe fn(*mut u8),
    limit: usize,
}

impl<Input, Yield, Return> ScopedFiberRef<'_, Input, Yield, Return> {
    /// The same for a shorter time, for functions that take it by value.
    pub fn reborrow(&mut self) -> ScopedFiberRef<'_, Input, Yield, Return> {
        ScopedFiberRef {
            core: self.core,
            drop_initial: self.drop_initial,
            limit: self.limit,
        }
    }

    /// As [`Fiber::resume`](crate::Fiber::resume).
    ///
    /// # Panics
    /// When the fiber is finished. When its function panics: that panic goes on here, with its payload.
    #[inline]
    pub fn resume(&mut self, input: Input) -> FiberResult<Yield, Return> {
        self.core.resume(input)
    }

    /// Starts to load what [`resume`](Self::resume) touches first.
    #[inline]
    pub fn prefetch(&self) {
        self.core.prefetch();
    }

    /// Whether the fiber was resumed.
    pub fn started(&self) -> bool {
        self.core.started()
    }

    /// Whether the fiber is finished.
    pub fn done(&self) -> bool {
        self.core.done()
    }

    /// As [`Fiber::force_unwind`](crate::Fiber::force_unwind).
    ///
    /// # Panics
    /// As there.
    pub fn force_unwind(&mut self) {
        // SAFETY: `scope` made both of the same body.
        unsafe { self.core.end(self.drop_initial) }
    }

    /// As [`Fiber::force_reset`](crate::Fiber::force_reset).
    ///
    /// # Safety
    /// As there.
    pub unsafe fn force_reset(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { self.core.reset() }
    }

    /// As [`Fiber::trap_handler`](crate::Fiber::trap_handler).
    pub fn trap_handler(&self) -> TrapHandler<Return> {
        self.core.trap_handler(self.limit)
    }
}

impl<Input, Yield, Return> fmt::Debug for ScopedFiberRef<'_, Input, Yield, Return> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedFiberRef")
            .field("started", &self.started())
            .field("done", &self.done())
            .finish()
    }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod tests;
