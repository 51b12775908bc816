use std::cell::{Cell, RefCell};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use super::*;
use crate::stack::mapped::GuardedStack;
use crate::testing::{in_child, on_signals_of};
use crate::unwind::ForcedUnwind;

fn stack() -> GuardedStack {
    GuardedStack::new(64 << 10).expect("a stack")
}

/// Part of a mapping, so that tests can choose which stack lies higher.
struct Half {
    base: usize,
    _whole: Rc<GuardedStack>,
}

// SAFETY: the tests use each half for one stack, and go a few KiB deep.
unsafe impl Stack for Half {
    fn base(&self) -> usize {
        self.base
    }

    fn limit(&self) -> usize {
        self.base - (128 << 10)
    }

    fn guard_bytes(&self) -> usize {
        0
    }
}

/// Two stacks, the second above the first.
fn halves() -> [Half; 2] {
    let whole = Rc::new(GuardedStack::new(256 << 10).expect("a stack"));
    [128 << 10, 0].map(|below| Half {
        base: whole.base() - below,
        _whole: whole.clone(),
    })
}

/// Runs `inner` on a fiber that is resumed by a fiber, with its stack above the resumer's, and below.
#[inline(never)]
fn in_both_orders(inner: fn(&Suspender<(), ()>, ())) {
    for swap in [false, true] {
        let mut halves = halves();
        if swap {
            halves.reverse();
        }
        let [outer_stack, inner_stack] = halves;
        let mut outer = Fiber::<(), (), (), Half>::with_stack(outer_stack, move |_, ()| {
            resume_to_the_end(Fiber::with_stack(inner_stack, inner));
        });
        assert_eq!(outer.resume(()), FiberResult::Return(()));
    }
}

#[inline(never)]
fn resume_to_the_end(mut fiber: Fiber<(), (), (), Half>) {
    while fiber.resume(()).into_yield().is_some() {}
}

#[test]
fn values_travel_both_ways() {
    let mut fiber = Fiber::<u32, u64, &str, _>::with_stack(stack(), |suspender, first| {
        let second = suspender.suspend(u64::from(first) + 1);
        let third = suspender.suspend(u64::from(second) + 2);
        assert_eq!((first, second, third), (10, 20, 30));
        "done"
    });
    assert!(!fiber.started() && !fiber.done());
    assert_eq!(fiber.resume(10), FiberResult::Yield(11));
    assert!(fiber.started() && !fiber.done());
    assert_eq!(fiber.resume(20), FiberResult::Yield(22));
    assert_eq!(fiber.resume(30), FiberResult::Return("done"));
    assert!(fiber.started() && fiber.done());
}

#[test]
fn values_larger_than_a_word_and_of_no_size_travel_too() {
    type Large = (String, [u64; 5]);
    let mut fiber = Fiber::<Large, Large, (), _>::with_stack(stack(), |suspender, mut large| {
        for _ in 0..3 {
            large.0.push('!');
            large = suspender.suspend(large);
        }
    });
    let mut large = (String::from("a"), [1, 2, 3, 4, 5]);
    for _ in 0..3 {
        large = fiber.resume(large).into_yield().unwrap();
    }
    assert_eq!(large, (String::from("a!!!"), [1, 2, 3, 4, 5]));
    assert_eq!(fiber.resume(large), FiberResult::Return(()));

    let mut padded = Fiber::<(u8, u32), Option<u32>, Box<u8>, _>::with_stack(stack(), |suspender, (a, b)| {
        let (c, d) = suspender.suspend(Some(u32::from(a) + b));
        Box::new(c + d as u8)
    });
    assert_eq!(padded.resume((1, 2)), FiberResult::Yield(Some(3)));
    assert_eq!(padded.resume((3, 4)), FiberResult::Return(Box::new(7)));
}

#[test]
fn a_fiber_runs_on_its_own_stack_and_keeps_floats() {
    let stack = stack();
    let range = stack.limit()..stack.base();
    let mut fiber = Fiber::<f64, f64, f64, _>::with_stack(stack, move |suspender, x| {
        let local = 0u8;
        assert!(range.contains(&((&raw const local) as usize)));
        let y = suspender.suspend(x * 2.0);
        x + y
    });
    assert_eq!(fiber.resume(1.5), FiberResult::Yield(3.0));
    assert_eq!(fiber.resume(4.0), FiberResult::Return(5.5));
}

/// Does `$switch` while values that depend on `$seed` are alive, as many of each kind as there are registers that calls
/// preserve.
macro_rules! keeping {
    ($seed:expr, $switch:expr, $($number:literal: $whole:ident $float:ident),*) => {
        $(
            let $whole = std::hint::black_box($seed + $number);
            let $float = std::hint::black_box(($seed + $number) as f64);
        )*
        $switch;
        $(assert_eq!(($whole, $float), ($seed + $number, ($seed + $number) as f64));)*
    };
}

#[test]
fn what_is_in_registers_survives_on_both_sides() {
    fn keep(seed: u64, mut switch: impl FnMut()) {
        for round in 0..10 {
            let seed = seed + 100 * round;
            keeping!(
                seed, switch(),
                0: a b, 1: c d, 2: e f, 3: g h, 4: i j, 5: k l, 6: m n, 7: o p, 8: q r, 9: s t, 10: u v, 11: w x, 12: y z
            );
        }
    }
    let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), |suspender, ()| {
        keep(5_000, || suspender.suspend(()));
    });
    keep(70_000, || assert_eq!(fiber.resume(()), FiberResult::Yield(())));
    assert_eq!(fiber.resume(()), FiberResult::Return(()));
}

#[test]
fn a_fiber_resumes_fibers_above_and_below_itself() {
    in_both_orders(|suspender, ()| {
        for _ in 0..10 {
            suspender.suspend(());
        }
    });
}

#[test]
fn a_backtrace_reaches_the_resumer_in_both_address_orders() {
    in_both_orders(|suspender, ()| {
        for _ in 0..2 {
            let text = format!("{:?}", backtrace::Backtrace::new());
            let at = text
                .find("resume_to_the_end")
                .unwrap_or_else(|| panic!("the resumer is missing: {text}"));
            assert!(
                text[at..].contains("in_both_orders"),
                "the resumer's resumer is missing: {text}"
            );
            suspender.suspend(());
        }
    });
}

#[test]
fn a_panic_goes_on_in_the_resumer_with_its_payload() {
    #[derive(Debug, PartialEq)]
    struct Payload(u32);
    let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), |suspender, ()| {
        suspender.suspend(());
        std::panic::resume_unwind(Box::new(Payload(7)));
    });
    fiber.resume(());
    let payload = catch_unwind(AssertUnwindSafe(|| fiber.resume(()))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&Payload(7)));
    assert!(fiber.done());
    let again = catch_unwind(AssertUnwindSafe(|| fiber.resume(()))).unwrap_err();
    assert_eq!(again.downcast_ref(), Some(&"a finished fiber was resumed"));
}

#[test]
fn a_panic_crosses_nested_fibers_in_both_address_orders() {
    let result = catch_unwind(|| in_both_orders(|_, ()| std::panic::resume_unwind(Box::new(3u8))));
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&3u8));
}

/// Notes its name when it is dropped.
struct Note(&'static str, Rc<RefCell<Vec<&'static str>>>);

impl Drop for Note {
    fn drop(&mut self) {
        self.1.borrow_mut().push(self.0);
    }
}

#[test]
fn a_drop_while_suspended_runs_destructors_in_order() {
    let notes = Rc::new(RefCell::new(Vec::new()));
    let captured = Note("captured", notes.clone());
    let in_fiber = notes.clone();
    let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), move |suspender, ()| {
        let _first = Note("first", in_fiber.clone());
        let _captured = &captured;
        let nested = || {
            let _second = Note("second", in_fiber.clone());
            suspender.suspend(());
        };
        nested();
        unreachable!();
    });
    fiber.resume(());
    assert!(notes.borrow().is_empty());
    drop(fiber);
    assert_eq!(*notes.borrow(), ["second", "first", "captured"]);
}

#[test]
fn a_forced_unwind_can_be_told_from_a_panic() {
    let told = Rc::new(Cell::new(false));
    let in_fiber = told.clone();
    let mut fiber = Fiber::<(), (), u8, _>::with_stack(stack(), move |suspender, ()| {
        let payload = catch_unwind(AssertUnwindSafe(|| suspender.suspend(()))).unwrap_err();
        in_fiber.set(payload.is::<ForcedUnwind>());
        5 // instead of resuming it: the value is dropped
    });
    fiber.resume(());
    fiber.force_unwind();
    assert!(fiber.done() && told.get());
}

#[test]
fn a_panic_during_a_forced_unwind_goes_on() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            // Caught where it is thrown, as two panics at a time would abort.
            let _ = catch_unwind(|| std::panic::resume_unwind(Box::new(1u8)));
        }
    }
    let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), |suspender, ()| {
        let _panics = Panics;
        let _ = catch_unwind(AssertUnwindSafe(|| suspender.suspend(())));
        std::panic::resume_unwind(Box::new(2u8));
    });
    fiber.resume(());
    let payload = catch_unwind(AssertUnwindSafe(|| fiber.force_unwind())).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&2u8));
    assert!(fiber.done());
}

#[test]
fn a_fiber_is_dropped_by_a_panic_of_its_resumer() {
    let notes = Rc::new(RefCell::new(Vec::new()));
    let note = Note("dropped", notes.clone());
    let result = catch_unwind(AssertUnwindSafe(move || {
        let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), move |suspender, ()| {
            let _note = note;
            suspender.suspend(());
        });
        fiber.resume(());
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(result.is_err() && *notes.borrow() == ["dropped"]);
}

#[test]
fn the_closure_of_a_fiber_that_never_started_is_dropped() {
    let notes = Rc::new(RefCell::new(Vec::new()));
    let note = Note("closure", notes.clone());
    let fiber = Fiber::<(), (), (), _>::with_stack(stack(), move |_, ()| drop(note));
    drop(fiber);
    assert_eq!(*notes.borrow(), ["closure"]);
}

#[test]
fn a_stack_can_be_taken_back_and_used_again() {
    let mut stack = stack();
    for round in 0..3 {
        let mut fiber = Fiber::<(), u32, (), _>::with_stack(stack, move |suspender, ()| {
            suspender.suspend(round);
        });
        assert_eq!(fiber.resume(()), FiberResult::Yield(round));
        stack = fiber.into_stack();
    }
}

#[test]
fn a_reset_fiber_forgets_its_frames() {
    let rc = Rc::new(());
    let in_fiber = rc.clone();
    let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), move |suspender, ()| {
        suspender.suspend(());
        drop(in_fiber);
    });
    fiber.resume(());
    // SAFETY: the reference count that is lost is what the test is about.
    unsafe { fiber.force_reset() };
    assert!(fiber.done());
    drop(fiber);
    assert_eq!(Rc::strong_count(&rc), 2);
}

#[test]
fn a_closure_larger_than_the_stack_is_refused() {
    let large = [0u8; 100 << 10];
    let make = || Fiber::<(), (), u8, _>::with_stack(stack(), move |_, ()| large[5]);
    let payload = catch_unwind(make).unwrap_err();
    let text = payload.downcast_ref::<String>().unwrap();
    assert!(text.starts_with("a stack of 65536 bytes has no room"), "{text}");
}

#[test]
fn the_parents_stack_can_be_borrowed_and_panics_pass() {
    let stack = stack();
    let range = stack.limit()..stack.base();
    let mut fiber = Fiber::<(), (), u8, _>::with_stack(stack, move |suspender, ()| {
        for _ in 0..2 {
            let inside = suspender.on_parent_stack(|| {
                let large = [1u8; 200 << 10]; // more than the fiber has
                range.contains(&(std::hint::black_box(&large).as_ptr() as usize))
            });
            assert!(!inside);
            suspender.suspend(());
        }
        suspender.on_parent_stack(|| std::panic::resume_unwind(Box::new(9u8)))
    });
    fiber.resume(());
    fiber.resume(());
    let payload = catch_unwind(AssertUnwindSafe(|| fiber.resume(()))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&9u8));
}

#[test]
fn a_backtrace_on_the_parents_stack_reaches_the_resumer() {
    in_both_orders(|suspender, ()| {
        let text = suspender.on_parent_stack(|| format!("{:?}", backtrace::Backtrace::new()));
        let at = text
            .find("on_parent_stack")
            .unwrap_or_else(|| panic!("the fiber is missing: {text}"));
        let at = text[at..].find("resume_to_the_end").map(|more| at + more);
        let at = at.unwrap_or_else(|| panic!("the resumer is missing: {text}"));
        assert!(
            text[at..].contains("in_both_orders"),
            "the resumer's resumer is missing: {text}"
        );
    });
}

/// What crates offer that make anything `Send` by checking the thread at each access.
struct OfOneThread<T>(T, std::thread::ThreadId);

// SAFETY: `get` gives the value to its own thread only, and the test drops it there.
unsafe impl<T> Send for OfOneThread<T> {}

impl<T> OfOneThread<T> {
    fn get(&self) -> &T {
        assert_eq!(self.1, std::thread::current().id());
        &self.0
    }
}

/// Runs a fiber whose function smuggles its suspender to the parent's stack and does `misuse` with it there.
fn abort_on_the_parents_stack(name: &str, misuse: fn(&Suspender<(), ()>), message: &str) {
    let output = in_child(name, || {
        let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), move |suspender, ()| {
            let hidden = OfOneThread(suspender, std::thread::current().id());
            suspender.on_parent_stack(move || misuse(hidden.get()));
        });
        fiber.resume(());
        fiber.resume(());
        std::process::exit(0);
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(text.contains(message), "{text}");
}

#[test]
fn a_fiber_that_suspends_on_its_parents_stack_aborts() {
    abort_on_the_parents_stack(
        "fiber::tests::a_fiber_that_suspends_on_its_parents_stack_aborts",
        |suspender| suspender.suspend(()),
        "fibers: a fiber suspended while it ran on its parent's stack\n",
    );
}

#[test]
fn a_fiber_that_lends_its_parents_stack_twice_aborts() {
    abort_on_the_parents_stack(
        "fiber::tests::a_fiber_that_lends_its_parents_stack_twice_aborts",
        |suspender| suspender.on_parent_stack(|| ()),
        "fibers: a fiber lent its parent's stack while it ran there\n",
    );
}

#[test]
fn a_prefetch_changes_nothing() {
    let mut fiber = Fiber::<(), (), u8, _>::with_stack(stack(), |suspender, ()| {
        suspender.suspend(());
        3
    });
    fiber.prefetch();
    fiber.resume(());
    fiber.prefetch();
    assert_eq!(fiber.resume(()), FiberResult::Return(3));
    fiber.prefetch();
}

#[test]
fn default_fibers_share_a_pool() {
    let fibers: Vec<_> = (0..100u32)
        .map(|number| {
            let mut fiber = Fiber::new(move |suspender, ()| suspender.suspend(number)).unwrap();
            assert_eq!(fiber.resume(()), FiberResult::Yield(number));
            fiber
        })
        .collect();
    for mut fiber in fibers {
        assert_eq!(fiber.resume(()), FiberResult::Return(()));
    }
}

#[test]
fn a_fiber_that_another_thread_drops_is_unwound_there_and_returns_its_stack() {
    /// Notes which thread dropped it.
    struct Note(Arc<Mutex<Option<ThreadId>>>);
    impl Drop for Note {
        fn drop(&mut self) {
            *self.0.lock().expect("no panic while it is held") = Some(std::thread::current().id());
        }
    }
    /// What a user says who knows what lies on the fiber's stack.
    struct IsSend(Fiber<(), (), ()>);
    // SAFETY: the fiber has a `Note`, which is `Send`.
    unsafe impl Send for IsSend {}
    impl IsSend {
        fn drop_it(self) {
            drop(self.0);
        }
    }
    let pool = StackPool::new(PoolConfig {
        max_stacks: 1,
        ..PoolConfig::default()
    });
    let pool = pool.unwrap();
    for is_started in [true, false, true] {
        let dropped = Arc::new(Mutex::new(None));
        let in_fiber = dropped.clone();
        let mut fiber = Fiber::with_stack(pool.take().unwrap(), move |suspender, ()| {
            let _note = Note(in_fiber);
            suspender.suspend(());
        });
        if is_started {
            fiber.resume(());
        }
        assert!(pool.take().is_err(), "its stack is the only one");
        let fiber = IsSend(fiber);
        let thread = std::thread::spawn(move || {
            fiber.drop_it();
            std::thread::current().id()
        });
        let thread = thread.join().unwrap();
        assert_eq!(*dropped.lock().unwrap(), is_started.then_some(thread));
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.parked, stats.created), (0, 1, 1));
    }
}

#[test]
fn sizes_that_no_stack_has_are_refused_with_the_range() {
    for bytes in [
        0,
        1,
        4095,
        GuardedStack::MAX_BYTES + 1,
        usize::MAX - 4096,
        usize::MAX,
    ] {
        let text = GuardedStack::new(bytes).unwrap_err().to_string();
        let range = "allowed is 4096 to 70368744177664";
        assert_eq!(text, format!("a stack cannot have {bytes} bytes, {range}"));
    }
    let stack = GuardedStack::new(4097).unwrap();
    assert_eq!(stack.base() - stack.limit() - stack.guard_bytes(), 8192);
}

#[test]
fn guarded_stacks_leave_no_mapping_behind() {
    fn mappings() -> usize {
        std::fs::read_to_string("/proc/self/maps")
            .expect("maps can be read")
            .lines()
            .count()
    }
    let output = in_child("fiber::tests::guarded_stacks_leave_no_mapping_behind", || {
        let before = mappings();
        let mut live: Vec<_> = (0..50).map(|_| stack()).collect();
        assert!(mappings() >= before + 50);
        for _ in 0..1000 {
            let mut fiber =
                Fiber::<(), (), (), _>::with_stack(stack(), |suspender, ()| suspender.suspend(()));
            fiber.resume(());
            live[0] = fiber.into_stack();
        }
        drop(live);
        // The vector and the unwinder may have grown the heap.
        assert!(
            mappings() <= before + 2,
            "{} mappings, {before} before",
            mappings()
        );
        std::process::exit(0);
    });
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let local = std::hint::black_box([depth; 16]);
    if depth == u64::MAX {
        0
    } else {
        recurse(std::hint::black_box(depth + 1)) + local[3]
    }
}

/// Overflows fibers that all use one stack, one after the other, and expects the handler's value of each.
fn overflow_on(mut stack: impl Stack + 'static, times: u32) {
    for round in 0..times {
        let mut fiber = Fiber::<(), u32, Result<u64, String>, _>::with_stack(stack, move |suspender, ()| {
            suspender.suspend(round);
            Ok(recurse(0))
        });
        assert_eq!(fiber.resume(()), FiberResult::Yield(round));
        let handler = fiber.trap_handler();
        let result = on_signals_of(
            move |stack_pointer| {
                handler.is_stack_pointer_inside(stack_pointer).then(|| {
                    // SAFETY: the fiber recursed, and has nothing to drop.
                    unsafe { handler.setup_trap_trampoline(move || Err(format!("overflow {round}"))) }
                })
            },
            || fiber.resume(()),
        );
        assert_eq!(result, FiberResult::Return(Err(format!("overflow {round}"))));
        assert!(fiber.done());
        stack = fiber.into_stack();
    }
}

#[test]
fn an_overflow_is_recovered_twice_on_one_stack() {
    let output = in_child(
        "fiber::tests::an_overflow_is_recovered_twice_on_one_stack",
        || {
            overflow_on(stack(), 2);
            let pool = StackPool::new(PoolConfig {
                stack_bytes: 64 << 10,
                max_stacks: 1,
                ..PoolConfig::default()
            });
            overflow_on(pool.expect("a pool").take().expect("a stack"), 3);
            let guards = crate::pool::Guards::Protect;
            let pool = StackPool::new(PoolConfig {
                stack_bytes: 64 << 10,
                guards,
                ..PoolConfig::default()
            });
            overflow_on(pool.expect("a pool").take().expect("a stack"), 2);
            std::process::exit(0);
        },
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_trap_handler_gives_a_value_or_a_panic() {
    fn trapping(depth: u32) -> u64 {
        if depth > 0 {
            return trapping(depth - 1) + 1;
        }
        // SAFETY: a fault, which the handler answers.
        unsafe { (16 as *const u64).read_volatile() }
    }
    let output = in_child("fiber::tests::a_trap_handler_gives_a_value_or_a_panic", || {
        for panics in [false, true] {
            let body = move |_: &Suspender<(), ()>, ()| trapping(20);
            let mut fiber = Fiber::<(), (), u64, _>::with_stack(stack(), body);
            let handler = fiber.trap_handler();
            let answer = move || {
                let frames = backtrace::Backtrace::new();
                assert!(format!("{frames:?}").contains("on_signals_of"), "{frames:?}");
                if panics {
                    std::panic::resume_unwind(Box::new(6u8))
                } else {
                    42
                }
            };
            let handle = move |stack_pointer| {
                handler.is_stack_pointer_inside(stack_pointer).then(|| {
                    // SAFETY: the fiber read an address, and has nothing to drop.
                    unsafe { handler.setup_trap_trampoline(answer) }
                })
            };
            let result = on_signals_of(handle, || catch_unwind(AssertUnwindSafe(|| fiber.resume(()))));
            match result {
                Ok(value) => assert!(!panics && value == FiberResult::Return(42)),
                Err(payload) => assert!(panics && payload.downcast_ref() == Some(&6u8)),
            }
        }
        std::process::exit(0);
    });
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
