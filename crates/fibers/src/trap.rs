//! Leaving a fiber from a signal handler.

use core::marker::PhantomData;

use crate::arch::{self, TrapHandlerRegs};
use crate::unwind::run_to_end;

/// Lets a signal handler end a fiber whose code has trapped: by a guard hit, say.
///
/// Plain addresses, so that it can lie in a static or thread-local place that a handler reads. Made by
/// [`Fiber::trap_handler`](crate::Fiber::trap_handler).
pub struct TrapHandler<Return> {
    base: usize,
    limit: usize,
    marker: PhantomData<fn() -> Return>,
}

impl<Return> Clone for TrapHandler<Return> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Return> Copy for TrapHandler<Return> {}

impl<Return> TrapHandler<Return> {
    pub(crate) fn new(base: usize, limit: usize) -> Self {
        TrapHandler {
            base,
            limit,
            marker: PhantomData,
        }
    }

    /// Whether a stack pointer lies in the fiber's stack, guard included: only then did the fiber trap.
    ///
    /// Async-signal-safe. Meaningful while the fiber lives.
    pub fn is_stack_pointer_inside(&self, stack_pointer: usize) -> bool {
        (self.limit..self.base).contains(&stack_pointer)
    }

    /// Makes the fiber end with the value of `body`, as if it returned that; a panic in `body` goes on in the resumer.
    ///
    /// Moves `body` to the fiber's base, and returns the registers with which the handler has to return, see
    /// [`TrapHandlerRegs::write_to`]. `body` runs on the fiber's stack, of which it has all.
    /// Async-signal-safe.
    ///
    /// # Safety
    /// - The signal interrupted code on this fiber's stack, as
    ///   [`is_stack_pointer_inside`](Self::is_stack_pointer_inside) tells, in the thread that runs it, and the
    ///   handler runs on another stack.
    /// - The handler returns with these registers.
    /// - The stack has room for `body` and what it calls.
    /// - The frames of the fiber are abandoned: nothing in them needs to be dropped or is referred to from
    ///   elsewhere, and the interrupted code had no invariant broken at that instruction: it was not in
    ///   foreign code, held no lock and did not allocate.
    pub unsafe fn setup_trap_trampoline<F>(&self, body: F) -> TrapHandlerRegs
    where
        F: FnOnce() -> Return + 'static,
    {
        /// # Safety
        /// Entered as `setup_trap_trampoline` arranges it.
        unsafe extern "C" fn trap_main<F: FnOnce() -> R, R>(body: *mut F, link: usize) -> ! {
            // SAFETY: `setup_trap_trampoline` moved it there, and this runs once.
            let body = unsafe { body.read() };
            // SAFETY: this runs at the base of the fiber.
            unsafe { run_to_end(link, body) }
        }
        crate::hooks::frames_abandoned(self.base, self.limit);
        // SAFETY: the caller's promise.
        unsafe { arch::setup_trap_trampoline(self.base, body, trap_main::<F, Return>) }
    }
}
