//! What tools that watch stacks are told: the sanitizers (`sanitizer`), valgrind (`valgrind`).
//!
//! Without these features everything here is empty and of no size. The typed fibers and the safe
//! [`on_stack`](crate::on_stack) call it; the raw layer does not, as what runs on it need not be instrumented.
//!
//! ```text
//!   resumer                                  fiber
//!   tag = stack_created(base, limit)
//!   bounds = Bounds::new(base, limit)
//!   left = about_to_resume(&bounds, link)
//!   ------------------------------------->   note_parent(link, switched(Left::NOTHING))   at its start
//!                                            left = about_to_suspend(&parent_of(link))
//!   bounds = switched(left)  <------------
//!   left = about_to_resume(..) ---------->   note_parent(link, switched(left))            after a suspend
//!                                            about_to_finish(link)                        at its end
//!   switched(left)           <------------
//!   drop(tag)
//! ```
//!
//! A fiber may be parked on another stack than its own, in a call (`on_stack`): so the resumer learns its bounds anew. A
//! fiber keeps its parent's bounds in a note above its base: [`NOTE_BYTES`] of a stack are given away for it.

#[cfg(feature = "sanitizer")]
mod sanitizer;
#[cfg(feature = "valgrind")]
mod valgrind;

#[cfg(all(feature = "sanitizer", feature = "std"))]
pub(crate) use sanitizer::about_to_transfer;
#[cfg(feature = "sanitizer")]
pub(crate) use sanitizer::{
    Bounds, Left, NOTE_BYTES, about_to_call, about_to_finish, about_to_resume, about_to_suspend, note_parent,
    parent_of, switched,
};
#[cfg(all(not(feature = "sanitizer"), feature = "std"))]
pub(crate) use untold::about_to_transfer;
#[cfg(not(feature = "sanitizer"))]
pub(crate) use untold::{
    Bounds, Left, NOTE_BYTES, about_to_call, about_to_finish, about_to_resume, about_to_suspend, note_parent,
    parent_of, switched,
};

/// What the tools know a stack by; its drop says that the stack is no fiber's any more.
pub(crate) struct StackTag {
    #[cfg(feature = "valgrind")]
    _valgrind: valgrind::Registered,
    #[cfg(feature = "sanitizer")]
    _sanitizer: sanitizer::Announced,
}

/// There is a stack from `limit`, guard included, to `base`, on which a fiber is about to be made.
#[inline(always)]
#[cfg_attr(
    not(any(feature = "sanitizer", feature = "valgrind")),
    expect(unused_variables, reason = "nobody is told")
)]
pub(crate) fn stack_created(base: usize, limit: usize) -> StackTag {
    StackTag {
        #[cfg(feature = "valgrind")]
        _valgrind: valgrind::Registered::new(base, limit),
        #[cfg(feature = "sanitizer")]
        _sanitizer: sanitizer::Announced::new(base, limit),
    }
}

/// What the tools know a stack by that is borrowed for a call.
pub(crate) struct Borrowed {
    #[cfg(feature = "valgrind")]
    _valgrind: valgrind::Registered,
}

/// There is a stack from `limit`, guard included, to `base`, on which something is about to be called.
#[inline(always)]
#[cfg_attr(
    not(any(feature = "sanitizer", feature = "valgrind")),
    expect(unused_variables, reason = "nobody is told")
)]
pub(crate) fn stack_borrowed(base: usize, limit: usize) -> Borrowed {
    #[cfg(feature = "sanitizer")]
    sanitizer::clear_marks(base, limit);
    Borrowed {
        #[cfg(feature = "valgrind")]
        _valgrind: valgrind::Registered::new(base, limit),
    }
}

/// The frames from `limit` to `base` are abandoned. Async-signal-safe.
#[inline(always)]
#[cfg_attr(
    not(feature = "sanitizer"),
    expect(unused_variables, reason = "nobody is told")
)]
pub(crate) fn frames_abandoned(base: usize, limit: usize) {
    #[cfg(feature = "sanitizer")]
    sanitizer::clear_marks(base, limit);
}

/// The same operations where nobody is told.
#[cfg(not(feature = "sanitizer"))]
mod untold {
    #[derive(Clone, Copy)]
    pub(crate) struct Bounds;

    pub(crate) struct Left;

    pub(crate) const NOTE_BYTES: usize = 0;

    impl Bounds {
        #[inline(always)]
        pub(crate) fn new(_base: usize, _limit: usize) -> Bounds {
            Bounds
        }
    }

    impl Left {
        pub(crate) const NOTHING: Left = Left;
    }

    /// # Safety
    /// None.
    #[inline(always)]
    pub(crate) unsafe fn about_to_resume(_: &Bounds, _link: usize) -> Left {
        Left
    }

    /// # Safety
    /// None.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) unsafe fn about_to_transfer(_: &Bounds, _from: usize, _link: usize) -> Left {
        Left
    }

    #[inline(always)]
    pub(crate) fn about_to_suspend(_: &Bounds) -> Left {
        Left
    }

    #[inline(always)]
    pub(crate) fn about_to_call(_: &Bounds, _comes_back: bool) -> Left {
        Left
    }

    /// # Safety
    /// None.
    #[inline(always)]
    pub(crate) unsafe fn about_to_finish(_link: usize) {}

    #[inline(always)]
    pub(crate) fn switched(_: Left) -> Bounds {
        Bounds
    }

    /// # Safety
    /// None.
    #[inline(always)]
    pub(crate) unsafe fn note_parent(_link: usize, _: Bounds) {}

    /// # Safety
    /// None.
    #[inline(always)]
    pub(crate) unsafe fn parent_of(_link: usize) -> Bounds {
        Bounds
    }
}
