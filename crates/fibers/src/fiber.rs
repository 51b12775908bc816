//! The safe fiber: a closure on a stack of its own, resumed and suspended with values.
//!
//! ```text
//!   new ----> parked, not started ----> running ----> parked ----> running ...
//!                     |                   ^  |           |
//!                     | drop: the closure |  |           | drop: unwound to its base
//!                     v                   |  v           v
//!                  finished <---------- return or panic: finished
//! ```
//!
//! A fiber owns its stack and everything is `'static`, so that forgetting one leaks its stack and breaks nothing. Fibers that
//! borrow are in `scoped`; what both are made of is in `parked`.

use core::fmt;
use core::mem::ManuallyDrop;

use crate::hooks;
use crate::parked::{Core, FiberResult, drop_at};
use crate::stack::Stack;
use crate::suspender::Suspender;
use crate::trap::TrapHandler;

#[cfg(feature = "pool")]
use crate::stack::pool::{PoolConfig, PoolError, PooledStack, StackPool};

macro_rules! define_fiber {
    ($($default:tt)*) => {
        /// A function on a stack of its own, which can suspend in the middle.
        ///
        /// Dropping a fiber that is parked in its function unwinds it, so that what lies on its stack is
        /// dropped, with a panic whose payload is [`ForcedUnwind`](crate::ForcedUnwind). Where nothing can be
        /// unwound (`panic = "abort"`, or no feature `unwind`) that aborts and says so.
        ///
        /// A fiber stays on its thread, as its type does not tell what lies on its stack:
        ///
        /// ```compile_fail,E0277
        /// fn send<T: Send>() {}
        /// send::<fibers::Fiber<(), (), (), fibers::GuardedStack>>();
        /// ```
        ///
        /// # What the types do not see
        /// Code that lends something for the time of a call takes for granted that calls end in order; those in a
        /// suspended fiber may end later. So:
        /// - A fiber that is suspended in `LocalKey::with` has to end before that
        ///   thread-local is dropped: do not keep such a fiber in a thread-local itself.
        /// - Do not suspend in a call that has put a reference into a thread-local place for its time, as scoped
        ///   thread-locals do.
        pub struct Fiber<Input, Yield, Return, S: Stack $($default)*> {
            core: Core<Input, Yield, Return>,
            drop_initial: unsafe fn(*mut u8),
            tag: ManuallyDrop<hooks::StackTag>,
            stack: ManuallyDrop<S>,
        }
    };
}

#[cfg(feature = "pool")]
define_fiber!(= PooledStack);
#[cfg(not(feature = "pool"))]
define_fiber!();

#[cfg(feature = "pool")]
impl<Input, Yield, Return> Fiber<Input, Yield, Return> {
    /// A fiber that will run `body`, on a stack of the process's own pool: 65536 stacks of 1 MiB.
    ///
    /// # Errors
    /// As [`StackPool::new`] and [`StackPool::take`].
    pub fn new<F>(body: F) -> Result<Self, PoolError>
    where
        F: FnOnce(&Suspender<Input, Yield>, Input) -> Return + 'static,
        Input: 'static,
        Yield: 'static,
        Return: 'static,
    {
        Ok(Fiber::with_stack(default_pool()?.take()?, body))
    }
}

/// The pool of [`Fiber::new`].
#[cfg(feature = "pool")]
fn default_pool() -> Result<&'static StackPool, PoolError> {
    static POOL: std::sync::OnceLock<Result<StackPool, PoolError>> = std::sync::OnceLock::new();
    let make = || {
        StackPool::new(PoolConfig {
            max_stacks: 1 << 16,
            ..PoolConfig::default()
        })
    };
    POOL.get_or_init(make).as_ref().map_err(|error| *error)
}

impl<Input, Yield, Return, S: Stack> Fiber<Input, Yield, Return, S> {
    /// A fiber that will run `body` on `stack`.
    ///
    /// Cost: a few nanoseconds. `body` is moved to the stack.
    ///
    /// # Panics
    /// When the stack has no room for `body` and 1 KiB more.
    #[inline]
    pub fn with_stack<F>(stack: S, body: F) -> Self
    where
        F: FnOnce(&Suspender<Input, Yield>, Input) -> Return + 'static,
        Input: 'static,
        Yield: 'static,
        Return: 'static,
        S: 'static,
    {
        // SAFETY: nothing is borrowed, as the bounds say.
        unsafe { Self::with_stack_unchecked(stack, body) }
    }

    /// [`with_stack`](Self::with_stack) for values and stacks that borrow.
    ///
    /// # Panics
    /// As `with_stack`.
    ///
    /// # Safety
    /// What `body`, the values and the stack borrow stays borrowed until the fiber is finished or dropped; if it
    /// is forgotten, for ever. `body` does not use the suspender of another fiber.
    #[inline]
    pub unsafe fn with_stack_unchecked<F>(stack: S, body: F) -> Self
    where
        F: FnOnce(&Suspender<Input, Yield>, Input) -> Return,
    {
        let tag = ManuallyDrop::new(hooks::stack_created(stack.base(), stack.limit()));
        Fiber {
            // SAFETY: the stack is the fiber's, and stays in place when that is moved; the fiber's drop and `into_stack` end the
            // core first. For what is borrowed, the caller's promise.
            core: unsafe { Core::new(&stack, body) },
            drop_initial: drop_at::<F>,
            tag,
            stack: ManuallyDrop::new(stack),
        }
    }

    /// Runs the fiber until it suspends or ends, and gives it `input`: what its function is called with, or what
    /// its suspend returns.
    ///
    /// Cost: with the suspend that answers, two switches of about a nanosecond each. Values of up to 8 bytes
    /// travel in a register.
    ///
    /// # Panics
    /// When the fiber is finished. When its function panics: that panic goes on here, with its payload.
    #[inline]
    pub fn resume(&mut self, input: Input) -> FiberResult<Yield, Return> {
        self.core.resume(input)
    }

    /// Starts to load what [`resume`](Self::resume) touches first, for a fiber that is resumed a few fibers later.
    #[inline]
    pub fn prefetch(&self) {
        self.core.prefetch();
    }

    /// Whether the fiber was resumed.
    pub fn started(&self) -> bool {
        self.core.started()
    }

    /// Whether the fiber is finished: its function has returned, panicked or was unwound.
    pub fn done(&self) -> bool {
        self.core.done()
    }

    /// Ends the fiber: unwinds what is on its stack, as a drop does. Nothing happens to one that is finished.
    ///
    /// # Panics
    /// When a destructor on the fiber's stack panics, or its function panics otherwise: that panic goes on here.
    ///
    /// # Aborts
    /// When the fiber has frames and nothing can be unwound, and when it catches the unwinding and suspends again and again:
    /// both say so.
    #[inline]
    pub fn force_unwind(&mut self) {
        // SAFETY: `drop_initial` was made with the core.
        unsafe { self.core.end(self.drop_initial) }
    }

    /// Declares the fiber finished, whatever is on its stack. Cost: nothing.
    ///
    /// # Safety
    /// Nothing on the fiber's stack needs to be dropped or is referred to from elsewhere; a closure that was never
    /// started is forgotten.
    pub unsafe fn force_reset(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { self.core.reset() }
    }

    /// The stack, after [`force_unwind`](Self::force_unwind).
    ///
    /// # Panics
    /// As `force_unwind`.
    #[inline]
    pub fn into_stack(self) -> S {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so the stack is moved out once. It stays in place, and is dropped should the
        // fiber's unwinding panic.
        let stack = unsafe { ManuallyDrop::take(&mut this.stack) };
        // SAFETY: the same.
        let _tag = unsafe { ManuallyDrop::take(&mut this.tag) };
        this.force_unwind();
        stack
    }

    /// What a signal handler needs to end this fiber when its code traps.
    ///
    /// To be made and put where the handler finds it before the fiber is resumed.
    pub fn trap_handler(&self) -> TrapHandler<Return> {
        self.core.trap_handler(self.stack.limit())
    }
}

// The parts are moved out and go to `finish` as words: a drop that took the fiber's address would keep it in memory, where moving
// it waits for the stores before. That is half the time of a short fiber's life.
impl<Input, Yield, Return, S: Stack> Drop for Fiber<Input, Yield, Return, S> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the fiber is dropped, so nobody uses the stack after this.
        let stack = unsafe { ManuallyDrop::take(&mut self.stack) };
        // SAFETY: the same.
        let tag = unsafe { ManuallyDrop::take(&mut self.tag) };
        // SAFETY: `drop_initial` was made with the core, and the stack is its.
        unsafe { self.core.parts().finish(self.drop_initial, tag, stack) }
    }
}

// SAFETY: `&Fiber` gives numbers only, and asks the stack for its.
unsafe impl<Input, Yield, Return, S: Stack + Sync> Sync for Fiber<Input, Yield, Return, S> {}

impl<Input, Yield, Return, S: Stack> fmt::Debug for Fiber<Input, Yield, Return, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fiber")
            .field("started", &self.started())
            .field("done", &self.done())
            .finish()
    }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod tests;
