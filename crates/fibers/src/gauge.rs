//! How much of a stack is left, for those who ask.

use crate::stack::Stack;

/// Tells how much of a stack is left. Made of the stack before a fiber gets it, and moved into the fiber's function.
///
/// ```
/// use fibers::{Fiber, FiberResult, GuardedStack, StackGauge};
///
/// let stack = GuardedStack::new(64 << 10)?;
/// let gauge = StackGauge::new(&stack);
/// let mut fiber = Fiber::<(), (), _, _>::with_stack(stack, move |_, ()| gauge.remaining_stack());
/// let left = fiber.resume(()).into_return().unwrap();
/// assert!(left.is_some_and(|bytes| (60 << 10..64 << 10).contains(&bytes)));
/// assert_eq!(gauge.remaining_stack(), None); // not there
/// # Ok::<(), fibers::StackError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackGauge {
    base: usize,
    guard_end: usize,
}

impl StackGauge {
    /// A gauge of a stack.
    pub fn new(stack: &impl Stack) -> StackGauge {
        StackGauge {
            base: stack.base(),
            guard_end: stack.limit() + stack.guard_bytes(),
        }
    }

    /// Bytes between the running code's stack pointer and the guard; `None` when that code runs on another stack.
    ///
    /// What is asked for next may take more than a frame seems to: leave some KiB. Cost: three instructions.
    #[inline]
    pub fn remaining_stack(&self) -> Option<usize> {
        let here = crate::arch::stack_pointer();
        (self.guard_end..self.base)
            .contains(&here)
            .then(|| here - self.guard_end)
    }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod tests {
    use super::*;
    use crate::{Fiber, GuardedStack, on_stack};

    #[inline(never)]
    fn deeper(gauge: StackGauge, levels: u32) -> Option<usize> {
        let frame = std::hint::black_box([levels; 256]);
        let left = if levels == 0 {
            gauge.remaining_stack()
        } else {
            deeper(gauge, levels - 1)
        };
        left.map(|bytes| bytes + (frame[levels as usize % 256] - levels) as usize)
    }

    #[test]
    fn what_is_left_shrinks_with_depth_and_is_of_one_stack_only() {
        let stack = GuardedStack::new(64 << 10).expect("a stack");
        let gauge = StackGauge::new(&stack);
        let body = move |suspender: &crate::Suspender<(), ()>, ()| {
            let [few, many] = [1, 21].map(|levels| deeper(gauge, levels).expect("on its stack"));
            assert!((20 * 1024..60 * 1024).contains(&(few - many)), "{few}, {many}");
            assert_eq!(suspender.on_parent_stack(|| gauge.remaining_stack()), None);
            let mut other = GuardedStack::new(64 << 10).expect("a stack");
            assert_eq!(on_stack(&mut other, || gauge.remaining_stack()), None);
        };
        Fiber::<(), (), (), _>::with_stack(stack, body).resume(());
        assert_eq!(gauge.remaining_stack(), None);
    }
}
