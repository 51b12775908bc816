//! What a fiber's function has of its fiber: suspending, and the parent's stack.
//!
//! A suspender lies in the frame at the fiber's base, so it lives exactly as long as the function runs. It knows P, what the parent
//! link holds, which each resume gives anew: where the function is inlined P stays in a register, and a suspend need not load it.
//! The function gets it by a reference of any lifetime, so that it cannot be kept; it is not `Sync`, so that the reference
//! stays on the thread. Fibers that borrow it ([`ScopedFiber`](crate::ScopedFiber)) run inside the function: when one of them
//! suspends the outer fiber, both are parked as one, and go on or are unwound as one.
//!
//! Invariant: while the fiber runs, `parent` is what its link holds. Whoever makes a switch of the fiber, or writes the link, notes it.

use core::cell::Cell;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use crate::arch::{self, FRAME_POINTER_OFFSET, STACK_ALIGN};
use crate::hooks;
use crate::on_stack;
use crate::unwind;
use crate::value::{decode, encode};

/// What a fiber's function suspends with. It lies on the fiber's stack.
pub struct Suspender<Input, Yield> {
    /// What the parent link holds. The cell also keeps references to it from other threads.
    parent: Cell<usize>,
    link: usize,
    marker: PhantomData<fn(Yield) -> Input>,
}

impl<Input, Yield> Suspender<Input, Yield> {
    /// The suspender of a fiber that begins.
    ///
    /// # Safety
    /// This runs on the fiber with this link, and what is made is used there only.
    #[inline(always)]
    pub(crate) unsafe fn new(link: usize) -> Self {
        Suspender {
            // SAFETY: the fiber runs, so the link holds P.
            parent: Cell::new(unsafe { (link as *const usize).read() }),
            link,
            marker: PhantomData,
        }
    }

    /// Suspends the fiber: its resume returns `value`. Returns what the next resume gives.
    ///
    /// Unwinds instead when the fiber is dropped meanwhile ([`ForcedUnwind`](crate::ForcedUnwind)).
    ///
    /// Another thread, and another fiber, cannot do it:
    /// ```compile_fail,E0277
    /// use fibers::{Fiber, GuardedStack};
    /// let stack = GuardedStack::new(1 << 16).unwrap();
    /// Fiber::<(), (), (), _>::with_stack(stack, |suspender, ()| {
    ///     std::thread::scope(|threads| { threads.spawn(|| suspender.suspend(())); });
    /// });
    /// ```
    /// ```compile_fail,E0521
    /// use fibers::{Fiber, GuardedStack};
    /// let stack = || GuardedStack::new(1 << 16).unwrap();
    /// Fiber::<(), (), (), _>::with_stack(stack(), move |outer, ()| {
    ///     Fiber::<(), (), (), _>::with_stack(stack(), move |_, ()| outer.suspend(())).resume(());
    /// });
    /// ```
    // Inlined, so that the return predictor stays in step: see the head of the architecture's file.
    #[inline(always)]
    pub fn suspend(&self, value: Yield) -> Input {
        let value = ManuallyDrop::new(value);
        // SAFETY: the fiber runs, and noted its parent when it was resumed.
        let parent = unsafe { hooks::parent_of(self.link()) };
        let left = hooks::about_to_suspend(&parent);
        // SAFETY: a suspender is reachable on its fiber only, as it is not `Sync` and no closure that can be given to
        // another fiber may borrow it; so this runs there, and by the invariant `parent` is P. The value is decoded before the fiber goes on.
        let resumed = unsafe { arch::switch_yield_word(encode(&value), self.parent.get()) };
        self.parent.set(resumed.parent);
        // SAFETY: the fiber runs; its base is below its note.
        unsafe { hooks::note_parent(self.link(), hooks::switched(left)) };
        if resumed.unwind {
            unwind::throw();
        }
        // SAFETY: the resume of this fiber encoded an `Input`, and is parked.
        unsafe { decode(resumed.word) }
    }

    /// Calls `body` on the stack of whoever resumed this fiber, and comes back. Panics pass through.
    ///
    /// For code that needs more stack than the fiber has. Cost: two calls.
    ///
    /// # Aborts
    /// When the fiber suspends in `body`: what is parked would lie on the stack of somebody who goes on. `Send` keeps the
    /// suspender out, unless something hides it that is `Send` by checking the thread.
    ///
    /// ```compile_fail,E0277
    /// use fibers::{Fiber, GuardedStack};
    /// let stack = GuardedStack::new(1 << 16).unwrap();
    /// Fiber::<(), (), (), _>::with_stack(stack, |suspender, ()| suspender.on_parent_stack(|| suspender.suspend(())));
    /// ```
    #[inline]
    pub fn on_parent_stack<F, R>(&self, body: F) -> R
    where
        F: FnOnce() -> R + Send,
    {
        let parked = self.parent.get();
        let mut loan = arch::Loan::default();
        // SAFETY: `parked` is what the link holds.
        let lent = unsafe { arch::lend(&mut loan, parked) };
        // The loan stays in place until `_back` is dropped.
        self.set_parent(lent);
        let _back = GiveBack {
            suspender: self,
            parked,
        };
        // SAFETY: the fiber runs, and noted its parent when it was resumed.
        let parent = unsafe { hooks::parent_of(self.link()) };
        let free = (parked - FRAME_POINTER_OFFSET) & !(STACK_ALIGN - 1);
        // SAFETY: what is below the parent's frame record is free to be borrowed while it is parked.
        unsafe { on_stack::call(free, parent, body) }
    }

    #[inline(always)]
    pub(crate) fn link(&self) -> usize {
        self.link
    }

    /// Notes what the link holds after a switch that was not made by this suspender.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn note_parent(&self, parent: usize) {
        self.parent.set(parent);
    }

    /// Changes what the link holds.
    fn set_parent(&self, parent: usize) {
        self.parent.set(parent);
        // SAFETY: the word is the fiber's as long as it runs, and this is on it.
        unsafe { (self.link as *mut usize).write_volatile(parent) };
    }
}

/// Ends a loan of the parent's stack: writes P into the parent link.
struct GiveBack<'fiber, Input, Yield> {
    suspender: &'fiber Suspender<Input, Yield>,
    parked: usize,
}

impl<Input, Yield> Drop for GiveBack<'_, Input, Yield> {
    fn drop(&mut self) {
        self.suspender.set_parent(self.parked);
    }
}
