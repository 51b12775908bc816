//! A call on another stack, which is told to tools.

use core::mem::ManuallyDrop;

use crate::hooks::{self, Bounds, Left};
use crate::stack::Stack;
use crate::start;

/// Calls `body` on `stack`, a stack or a `&mut` to one, and comes back. Panics pass through.
///
/// For code that needs more stack than there is. In a fiber, `body` may suspend it: the fiber is then parked with this stack too.
///
/// A panic is caught there and goes on here. gdb may stop its walk at the call where `stack` lies above the caller's; backtraces do
/// not, and neither does it in [`raw::call_on_stack`](crate::raw::call_on_stack), which costs twice as much.
///
/// Cost: a call. Suspends when `body` does.
///
/// ```
/// use fibers::{GuardedStack, on_stack};
///
/// fn depth_first(depth: u32) -> u32 {
///     let frame = std::hint::black_box([depth; 1000]);
///     if depth == 10_000 { 0 } else { depth_first(depth + 1).wrapping_add(frame[7] - depth + 1) }
/// }
/// let mut large = GuardedStack::new(128 << 20)?;
/// assert_eq!(on_stack(&mut large, || depth_first(0)), 10_000);
/// # Ok::<(), fibers::StackError>(())
/// ```
#[inline]
pub fn on_stack<R>(stack: impl Stack, body: impl FnOnce() -> R) -> R {
    let base = stack.base();
    let _borrowed = hooks::stack_borrowed(base, stack.limit());
    // SAFETY: the stack is ours until this returns, and ends in a guard or in what its implementor promises instead.
    unsafe { call(base, Bounds::new(base, stack.limit()), body) }
}

/// Calls `body` with the stack pointer `base`, in the stack with these bounds.
///
/// # Safety
/// As for [`raw::on_stack`](crate::raw::on_stack).
#[inline(always)]
pub(crate) unsafe fn call<R>(base: usize, bounds: Bounds, body: impl FnOnce() -> R) -> R {
    /// The callee's side: it finishes its stack when it returns or panics.
    struct Callee(Bounds);

    impl Drop for Callee {
        #[inline(always)]
        fn drop(&mut self) {
            hooks::about_to_call(&self.0, false);
        }
    }

    /// The caller's side.
    struct Caller(ManuallyDrop<Left>);

    impl Drop for Caller {
        #[inline(always)]
        fn drop(&mut self) {
            // SAFETY: taken once, as this is the drop.
            hooks::switched(unsafe { ManuallyDrop::take(&mut self.0) });
        }
    }

    let _caller = Caller(ManuallyDrop::new(hooks::about_to_call(&bounds, true)));
    let told = || {
        let _callee = Callee(hooks::switched(Left::NOTHING));
        body()
    };
    // SAFETY: the caller's promise.
    unsafe { start::call_on(base, told) }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::{Fiber, FiberResult, GuardedStack};

    fn stack() -> GuardedStack {
        GuardedStack::new(64 << 10).expect("a stack")
    }

    #[test]
    fn a_call_runs_on_the_stack_and_lets_values_and_panics_through() {
        let mut stack = stack();
        let range = stack.limit()..stack.base();
        let (inside, text) = on_stack(&mut stack, || {
            let local = 0u8;
            (
                range.contains(&((&raw const local) as usize)),
                String::from("text"),
            )
        });
        assert!(inside && text == "text");
        let call = AssertUnwindSafe(|| on_stack(&mut stack, || std::panic::resume_unwind(Box::new(7u8))));
        assert_eq!(catch_unwind(call).unwrap_err().downcast_ref(), Some(&7u8));
        assert_eq!(on_stack(stack, || 5), 5);
    }

    #[test]
    fn a_fiber_suspends_in_a_call_on_another_stack_and_is_unwound_there() {
        struct Note(std::rc::Rc<()>);
        let rc = std::rc::Rc::new(());
        for resumes in 1..=3 {
            let note = Note(rc.clone());
            let mut fiber = Fiber::<u32, u32, u32, _>::with_stack(stack(), move |suspender, first| {
                on_stack(stack(), || {
                    let note = note;
                    let second = suspender.suspend(first + 1);
                    drop(note.0);
                    suspender.suspend(second + 2)
                })
            });
            for number in 0..resumes {
                let given = fiber.resume(number);
                let expected = [
                    FiberResult::Yield(1),
                    FiberResult::Yield(3),
                    FiberResult::Return(2),
                ];
                assert_eq!(given, expected[number as usize]);
            }
            drop(fiber);
            assert_eq!(std::rc::Rc::strong_count(&rc), 1);
        }
    }
}
