//! What tools that watch stacks are told: AddressSanitizer (`sanitizer`), valgrind (`valgrind`).
//!
//! Without these features everything here is empty and of no size. [`Fiber`](crate::Fiber) and the safe
//! [`on_stack`](crate::on_stack) call it; the raw layer does not.
//!
//! ```text
//!   resumer                                  fiber
//!   tag = stack_created(base, limit)
//!   left = about_to_switch(&fiber, true)
//!   ------------------------------------->   parent = switched(Left::NOTHING)     at its start
//!                                            left = about_to_switch(&parent, true)
//!   fiber = switched(left)   <------------
//!   left = about_to_switch(&fiber, true) ->  parent = switched(left)              after a suspend
//!                                            about_to_switch(&parent, false)      at its end
//!   switched(left)           <------------
//!   drop(tag)
//! ```
//!
//! A fiber keeps its parent's bounds in [`ParentNote`], above its base: [`NOTE_BYTES`] of a stack are given away for it.
#![allow(unused_variables, reason = "without the features nobody is told")]

/// What valgrind knows a stack by; its drop says that the stack is no fiber's any more.
pub(crate) struct StackTag;

/// Where a stack lies that can be switched to.
#[derive(Clone, Copy)]
pub(crate) struct Bounds;

/// What has to be given back when the side that leaves goes on.
pub(crate) struct Left;

/// Where a fiber keeps the bounds of its parent's stack.
#[repr(C, align(16))]
struct ParentNote {
    bounds: Bounds,
}

/// Bytes at the top of a fiber's stack that its base lies below; a multiple of 16.
pub(crate) const NOTE_BYTES: usize = size_of::<ParentNote>();

impl Bounds {
    /// The stack from `limit` to `base`.
    #[inline(always)]
    pub(crate) fn new(base: usize, limit: usize) -> Bounds {
        Bounds
    }
}

impl Left {
    /// For a stack that runs for the first time.
    pub(crate) const NOTHING: Left = Left;
}

/// There is a stack from `limit`, guard included, to `base`.
#[inline(always)]
pub(crate) fn stack_created(base: usize, limit: usize) -> StackTag {
    StackTag
}

/// Control is about to leave for the stack `to`; unless it `comes_back`, the running stack is finished.
#[inline(always)]
pub(crate) fn about_to_switch(to: &Bounds, comes_back: bool) -> Left {
    Left
}

/// Control has come to this stack, which `left` before. Returns the bounds of the stack it came from.
#[inline(always)]
pub(crate) fn switched(left: Left) -> Bounds {
    Bounds
}

/// Keeps the bounds of the parent of the fiber with this link.
///
/// # Safety
/// The fiber runs, and [`NOTE_BYTES`] above its base are its own.
#[inline(always)]
pub(crate) unsafe fn note_parent(link: usize, parent: Bounds) {}

/// What was noted.
///
/// # Safety
/// As for [`note_parent`], and something was noted.
#[inline(always)]
pub(crate) unsafe fn parent_of(link: usize) -> Bounds {
    Bounds
}
