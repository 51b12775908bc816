use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::stack::mapped::GuardedStack;
use crate::{Fiber, ForcedUnwind};

fn stack() -> GuardedStack {
    GuardedStack::new(64 << 10).expect("a stack")
}

/// Says in `at` that it was dropped.
struct Note<'a>(&'a Cell<u32>);

impl Drop for Note<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn borrowed_values_go_in_and_out_and_the_stack_comes_back() {
    let mut stack = stack();
    let texts = [String::from("a"), String::from("bc")];
    let mut seen = Vec::new();
    for round in 0..3 {
        let fiber = ScopedFiber::with_stack(&mut stack, |suspender, mut text: &str| {
            for _ in 0..2 {
                seen.push(text);
                text = suspender.suspend(&text[..1]);
            }
            round
        });
        fiber.scope(|mut fiber| {
            assert!(!fiber.started());
            assert_eq!(fiber.resume(&texts[0]), FiberResult::Yield("a"));
            assert_eq!(fiber.reborrow().resume(&texts[1]), FiberResult::Yield("b"));
            assert_eq!(fiber.resume(""), FiberResult::Return(round));
            assert!(fiber.started() && fiber.done());
        });
    }
    assert_eq!(seen, ["a", "bc", "a", "bc", "a", "bc"]);
}

/// Makes a scoped fiber with a note on its stack and in its closure, and gives its reference to `run`.
fn with_notes<T>(run: impl FnOnce(ScopedFiberRef<'_, (), (), ()>) -> T) -> (u32, std::thread::Result<T>) {
    let dropped = Cell::new(0);
    let mut stack = stack();
    let captured = Note(&dropped);
    let fiber = ScopedFiber::with_stack(&mut stack, |suspender: &Suspender<(), ()>, ()| {
        let _captured = captured;
        let _local = Note(&dropped);
        suspender.suspend(());
    });
    let result = catch_unwind(AssertUnwindSafe(|| fiber.scope(run)));
    (dropped.get(), result)
}

#[test]
fn a_scope_ends_a_fiber_that_never_started() {
    let (dropped, result) = with_notes(|fiber| assert!(!fiber.started()));
    assert!(dropped == 1 && result.is_ok(), "{dropped}, {result:?}");
}

#[test]
#[expect(clippy::forget_non_drop, reason = "that it does nothing is what is tested")]
fn a_scope_ends_a_suspended_fiber_whatever_is_done_to_its_reference() {
    let (dropped, result) = with_notes(|mut fiber| {
        fiber.resume(());
        std::mem::forget(fiber);
    });
    assert!(dropped == 2 && result.is_ok(), "{dropped}, {result:?}");
}

#[test]
fn a_scope_that_panics_ends_its_fiber() {
    let (dropped, result) = with_notes(|mut fiber| {
        fiber.resume(());
        std::panic::resume_unwind(Box::new(7u8));
    });
    assert_eq!(dropped, 2);
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&7u8));
}

#[test]
fn a_fiber_can_be_ended_early_and_is_not_ended_twice() {
    for resumes in [0, 1] {
        let (dropped, result) = with_notes(|mut fiber| {
            for _ in 0..resumes {
                fiber.resume(());
            }
            fiber.force_unwind();
            assert!(fiber.done());
            let again = catch_unwind(AssertUnwindSafe(|| fiber.resume(()))).unwrap_err();
            assert_eq!(again.downcast_ref(), Some(&"a finished fiber was resumed"));
        });
        assert!(dropped == 1 + resumes && result.is_ok(), "{dropped}, {result:?}");
    }
}

#[test]
fn references_of_two_fibers_can_be_swapped() {
    let (mut one, mut two) = (stack(), stack());
    let (one_says, two_says) = (String::from("one"), String::from("two"));
    let first = ScopedFiber::with_stack(&mut one, |suspender: &Suspender<(), &str>, ()| {
        suspender.suspend(&one_says)
    });
    let second = ScopedFiber::with_stack(&mut two, |suspender: &Suspender<(), &str>, ()| {
        suspender.suspend(&two_says)
    });
    first.scope(|mut first| {
        second.scope(|mut second| {
            let (mut first, mut second) = (first.reborrow(), second.reborrow());
            std::mem::swap(&mut first, &mut second);
            assert_eq!(first.resume(()), FiberResult::Yield("two"));
            assert_eq!(second.resume(()), FiberResult::Yield("one"));
        });
        // The second is over; the first is where it was.
        assert!(first.started() && !first.done());
        assert_eq!(first.resume(()), FiberResult::Return(()));
    });
}

#[test]
fn a_panic_of_the_fiber_goes_through_its_scope() {
    let mut stack = stack();
    let fiber = ScopedFiber::with_stack(&mut stack, |_: &Suspender<(), ()>, ()| -> () {
        std::panic::resume_unwind(Box::new(3u8))
    });
    let result = catch_unwind(AssertUnwindSafe(|| fiber.scope(|mut fiber| fiber.resume(()))));
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&3u8));
}

/// A fiber in whose function a scoped fiber suspends the outer one: both are parked as one.
fn outer_and_inner(notes: std::rc::Rc<RefCell<Vec<&'static str>>>) -> Fiber<u32, u32, u32, GuardedStack> {
    struct OnDrop(&'static str, std::rc::Rc<RefCell<Vec<&'static str>>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.1.borrow_mut().push(self.0);
        }
    }
    Fiber::with_stack(stack(), move |outer: &Suspender<u32, u32>, first| {
        let _outer = OnDrop("outer", notes.clone());
        let mut stack = stack();
        let inner = ScopedFiber::with_stack(&mut stack, |inner: &Suspender<u32, u32>, number| {
            let _inner = OnDrop("inner", notes.clone());
            let number = outer.suspend(number + 1);
            let number = inner.suspend(number + 10);
            outer.suspend(number + 100)
        });
        inner.scope(|mut inner| {
            let number = inner.resume(first).into_yield().expect("a yield of the inner");
            let number = outer.suspend(number + 1000);
            inner.resume(number).into_return().expect("the inner returns")
        })
    })
}

#[test]
fn a_scoped_fiber_inside_may_suspend_the_outer_one() {
    let mut fiber = outer_and_inner(Default::default());
    assert_eq!(fiber.resume(0), FiberResult::Yield(1));
    assert_eq!(fiber.resume(5), FiberResult::Yield(1015));
    assert_eq!(fiber.resume(6), FiberResult::Yield(106));
    assert_eq!(fiber.resume(7), FiberResult::Return(7));
}

#[test]
fn fibers_that_are_parked_as_one_are_unwound_as_one() {
    for resumes in 1..=3 {
        let notes = std::rc::Rc::new(RefCell::new(Vec::new()));
        let mut fiber = outer_and_inner(notes.clone());
        for number in 0..resumes {
            fiber.resume(number);
        }
        drop(fiber);
        assert_eq!(*notes.borrow(), ["inner", "outer"], "after {resumes}");
    }
}

#[test]
fn a_fiber_that_catches_its_unwinding_and_suspends_is_told_again() {
    let mut stack = stack();
    let caught = Cell::new(0);
    let fiber = ScopedFiber::with_stack(&mut stack, |suspender: &Suspender<(), u32>, ()| {
        while caught.get() < 5 {
            let payload = catch_unwind(AssertUnwindSafe(|| suspender.suspend(caught.get()))).unwrap_err();
            assert!(payload.is::<ForcedUnwind>());
            caught.set(caught.get() + 1);
        }
    });
    fiber.scope(|mut fiber| {
        fiber.resume(());
        fiber.force_unwind();
        assert!(fiber.done());
    });
    assert_eq!(caught.get(), 5);
}

#[test]
fn a_fiber_that_has_not_started_may_change_threads() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let mut stack = stack();
    let text = String::from("text");
    let fiber = is_send(ScopedFiber::with_stack(
        &mut stack,
        |_: &Suspender<(), ()>, ()| text.len(),
    ));
    let length = std::thread::scope(|threads| {
        let started = threads.spawn(|| fiber.scope(|mut fiber| fiber.resume(()).into_return()));
        started.join().expect("no panic")
    });
    assert_eq!(length, Some(4));
}

#[test]
fn a_scope_in_a_forgotten_fiber_stays_and_breaks_nothing() {
    let dropped: &'static Cell<u32> = Box::leak(Box::new(Cell::new(0)));
    let mut outer = Fiber::<(), (), (), _>::with_stack(stack(), move |outer: &Suspender<(), ()>, ()| {
        let mut stack = stack();
        let fiber = ScopedFiber::with_stack(&mut stack, |inner: &Suspender<(), ()>, ()| {
            let _note = Note(dropped);
            inner.suspend(());
        });
        fiber.scope(|mut fiber| {
            fiber.resume(());
            outer.suspend(());
        });
    });
    outer.resume(());
    std::mem::forget(outer);
    assert_eq!(dropped.get(), 0);
}
