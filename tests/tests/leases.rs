//! A store finds the stack of its last call again on the thread that it called on. What could go wrong with that: others on the thread and
//! on other threads, ends of stores, engines and threads, calls that end badly, and calls inside of calls.
//!
//! In builds with debug assertions each such call also compares what lies on its stack with what it was told.

use selvedge::{Caller, Config, Engine, Error, Instance, Linker, Module, Result, Store, Trap};
use selvedge_tests::{in_child, poll_once};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc::channel;

/// Short functions, a recursion without end, and calls of the host.
const GUEST: &str = r#"(module
    (import "host" "call" (func $call (param i32) (result i32)))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2)))
    (func (export "host") (param i32) (result i32) (i32.add (call $call (local.get 0)) (i32.const 1)))
    (func $deep (export "deep") (param i32) (result i32)
        (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (local.get 0)))
    (func (export "spin") (loop $again (br $again))))"#;

type Hook = Box<dyn FnMut(Caller<'_, Data>, i32) -> Result<i32> + Send>;

/// What the host function does, and the instance that it may call.
#[derive(Default)]
struct Data {
    hook: Option<Hook>,
    instance: Option<Instance>,
}

struct Guest {
    store: Store<Data>,
    instance: Instance,
}

impl Guest {
    fn new(engine: &Engine) -> Result<Guest> {
        let module = Module::new(engine, GUEST)?;
        let mut linker = Linker::<Data>::new(engine);
        linker.func_wrap(
            "host",
            "call",
            |mut caller: Caller<'_, Data>, n: i32| -> Result<i32> {
                let Some(mut hook) = caller.data_mut().hook.take() else {
                    return Ok(n);
                };
                hook(caller, n)
            },
        )?;
        let mut store = Store::new(engine, Data::default());
        let instance = linker.instantiate(&mut store, &module)?;
        store.data_mut().instance = Some(instance);
        Ok(Guest { store, instance })
    }

    /// The short way: a lease is made of the thread's stack, or gone on with.
    #[track_caller]
    fn add(&mut self) {
        let sum = self
            .instance
            .call::<(i32, i32), i32>(&mut self.store, "add", (3, 4));
        assert_eq!(sum.expect("it returns"), 7);
    }

    #[track_caller]
    fn overflow(&mut self) {
        let result = self.instance.call::<i32, i32>(&mut self.store, "deep", 1);
        assert!(is_overflow(&result.expect_err("it has no end")));
    }

    /// Calls the host function, which does this, once.
    fn host(
        &mut self,
        n: i32,
        hook: impl FnMut(Caller<'_, Data>, i32) -> Result<i32> + Send + 'static,
    ) -> Result<i32> {
        self.store.data_mut().hook = Some(Box::new(hook));
        self.instance.call(&mut self.store, "host", n)
    }
}

fn is_overflow(error: &Error) -> bool {
    error.downcast_ref::<Trap>() == Some(&Trap::StackOverflow)
}

fn in_use(engine: &Engine) -> usize {
    engine.stack_stats().in_use
}

#[test]
fn a_store_between_two_threads_calls_on_each_by_turns() -> Result<()> {
    let engine = Engine::default();
    let mut guest = Guest::new(&engine)?;
    let (to, there) = channel::<Guest>();
    let (back, here) = channel();
    let thread = std::thread::spawn(move || {
        for mut guest in there {
            (0..3).for_each(|_| guest.add());
            guest.overflow();
            guest.add();
            back.send(guest).expect("somebody waits");
        }
    });
    for _ in 0..20 {
        (0..3).for_each(|_| guest.add());
        // The limit of the stack that it runs on now decides, in calls from the host too.
        let nested = guest.host(1, |mut caller, _| {
            let instance = caller.data().instance.expect("set");
            let result = instance.call::<i32, i32>(&mut caller, "deep", 1);
            assert!(is_overflow(&result.expect_err("it has no end")));
            instance.call(&mut caller, "add", (1, 1))
        });
        assert_eq!(nested?, 3);
        to.send(guest).expect("the thread lives");
        guest = here.recv().expect("it comes back");
    }
    drop(to);
    thread.join().expect("it ends well");
    assert_eq!(in_use(&engine), 0);
    Ok(())
}

#[test]
fn stores_that_take_turns_on_a_thread_have_their_own_overflows() -> Result<()> {
    let engine = Engine::default();
    let mut guests = [Guest::new(&engine)?, Guest::new(&engine)?, Guest::new(&engine)?];
    for round in 0..30 {
        let guest = &mut guests[round % 3];
        guest.add();
        if round % 2 == 0 {
            guest.overflow();
            assert_eq!(guest.store.data().instance, Some(guest.instance));
        }
        guest.add();
        assert_eq!(in_use(&engine), 0);
    }
    assert!(
        engine.stack_stats().created <= 8,
        "they share what the thread has"
    );
    Ok(())
}

#[test]
fn the_short_way_and_the_others_take_turns_in_a_store() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(1))?;
    let mut guest = Guest::new(&engine)?;
    for _ in 0..5 {
        guest.add();
        let half: f64 = guest.instance.call(&mut guest.store, "half", 5.0)?;
        assert_eq!(half, 2.5);
        guest.add();
        guest.add();
        let mut call = pin!(
            guest
                .instance
                .call_async::<_, (i32, i32), i32>(&mut guest.store, "add", (1, 2))
        );
        let std::task::Poll::Ready(sum) = poll_once(call.as_mut()) else {
            panic!("it waits for nothing");
        };
        assert_eq!(sum?, 3);
    }
    guest.add();
    assert_eq!(engine.stack_stats().created, 1);
    Ok(())
}

#[test]
fn an_async_call_that_was_forgotten_leaves_the_short_way_right() -> Result<()> {
    let engine = Engine::default();
    let mut guest = Guest::new(&engine)?;
    guest.add();
    std::mem::forget(
        guest
            .instance
            .call_async::<_, (i32, i32), i32>(&mut guest.store, "add", (1, 2)),
    );
    assert_eq!(in_use(&engine), 1);
    guest.add();
    guest.add();
    let forget_inside = |mut caller: Caller<'_, Data>, n: i32| {
        let instance = caller.data().instance.expect("set");
        std::mem::forget(instance.call_async::<_, i32, i32>(&mut caller, "host", 1));
        Ok(n)
    };
    assert_eq!(guest.host(4, forget_inside)?, 5);
    guest.add();
    guest.overflow();
    assert_eq!(in_use(&engine), 0);
    Ok(())
}

#[test]
fn calls_in_calls_of_the_same_and_of_other_stores_and_engines_go_on() -> Result<()> {
    let (engine, other_engine) = (Engine::default(), Engine::default());
    let mut guest = Guest::new(&engine)?;
    guest.add();
    for _ in 0..3 {
        let mut same_engine = Guest::new(&engine)?;
        let mut another = Guest::new(&other_engine)?;
        let counted = [engine.clone(), other_engine.clone()];
        let result = guest.host(10, move |mut caller, n| {
            same_engine.add();
            another.add();
            same_engine.overflow();
            another.overflow();
            another.add();
            // One store's call in another's, in this one's.
            let [engine, other_engine] = counted.clone();
            let mut innermost = Guest::new(&engine)?;
            let third = another.host(n, move |_, n| {
                innermost.add();
                innermost.overflow();
                assert_eq!((in_use(&engine), in_use(&other_engine)), (1, 1));
                Ok(n + 5)
            })?;
            same_engine.add();
            let instance = caller.data().instance.expect("set");
            Ok(third + instance.call::<(i32, i32), i32>(&mut caller, "add", (100, 0))?)
        });
        assert_eq!(result?, 10 + 5 + 1 + 100 + 1);
        guest.add();
        guest.overflow();
    }
    assert_eq!((in_use(&engine), in_use(&other_engine)), (0, 0));
    Ok(())
}

#[test]
fn a_call_that_ends_badly_leaves_its_stack_for_the_next() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(1))?;
    let mut guest = Guest::new(&engine)?;
    for _ in 0..3 {
        guest.add();
        let error = guest.host(1, |_, _| Err(Error::msg("no"))).expect_err("it fails");
        assert!(format!("{error:#}").contains("no"));
        assert_eq!(in_use(&engine), 0);
        guest.add();
        let panicked = catch_unwind(AssertUnwindSafe(|| guest.host(1, |_, _| panic!("on purpose"))));
        assert!(panicked.is_err());
        assert_eq!(in_use(&engine), 0);
        guest.add();
        guest.overflow();
        assert_eq!(in_use(&engine), 0);
    }
    Ok(())
}

#[test]
fn the_first_call_of_a_thread_may_end_badly_too() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(1))?;
    for way in 0..3 {
        let mut guest = Guest::new(&engine)?;
        let thread = std::thread::spawn(move || {
            let panics: fn(Caller<'_, Data>, i32) -> Result<i32> = |_, _| panic!("on purpose");
            match way {
                0 => guest.overflow(),
                1 => drop(guest.host(1, |_, _| Err(Error::msg("no"))).expect_err("it fails")),
                _ => assert!(catch_unwind(AssertUnwindSafe(|| guest.host(1, panics))).is_err()),
            }
            guest.add();
        });
        thread.join().expect("it ends well");
        assert_eq!(in_use(&engine), 0);
    }
    Ok(())
}

#[test]
fn a_store_that_is_dropped_elsewhere_leaves_a_stack_that_others_use_and_overflow() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(1))?;
    for _ in 0..5 {
        let mut guest = Guest::new(&engine)?;
        guest.add();
        std::thread::spawn(move || drop(guest))
            .join()
            .expect("it ends well");
        // The slot still has the dead store's address; whoever runs there next has its own.
        let mut next = Guest::new(&engine)?;
        next.overflow();
        next.add();
        let half: f64 = next.instance.call(&mut next.store, "half", 1.0)?;
        assert_eq!(half, 0.5);
    }
    Ok(())
}

#[test]
fn a_thread_that_ends_gives_its_stack_back_and_the_store_goes_on_elsewhere() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(1))?;
    let mut guest = Guest::new(&engine)?;
    for _ in 0..5 {
        let call = move || {
            guest.add();
            guest
        };
        guest = std::thread::spawn(call).join().expect("it ends well");
        let stats = engine.stack_stats();
        assert_eq!((stats.in_use, stats.created), (0, 1));
        guest.add();
    }
    Ok(())
}

#[test]
fn an_engine_may_go_while_its_stack_waits_with_the_thread() -> Result<()> {
    let mut kept = Guest::new(&Engine::default())?;
    for _ in 0..20 {
        let engine = Engine::new(Config::new().stack_bytes(128 << 10))?;
        let mut guest = Guest::new(&engine)?;
        guest.add();
        drop(engine);
        guest.add();
        drop(guest);
        kept.add();
    }
    Ok(())
}

#[test]
fn a_thread_that_finds_no_stack_gets_the_one_that_waits_with_another_but_none_in_use() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(1))?;
    let mut here = Guest::new(&engine)?;
    let mut there = Guest::new(&engine)?;
    let (turn, turns) = channel::<()>();
    let (done, is_done) = channel();
    let thread = std::thread::spawn(move || {
        for () in turns {
            there.add();
            done.send(()).expect("somebody waits");
        }
    });
    for _ in 0..50 {
        here.add();
        here.add();
        turn.send(()).expect("the thread lives");
        is_done.recv().expect("it is done");
    }
    drop(turn);
    thread.join().expect("it ends well");
    let mut third = Guest::new(&engine)?;
    let result = here.host(1, move |_, n| {
        let refused = std::thread::scope(|scope| {
            let call = || {
                third
                    .instance
                    .call::<(i32, i32), i32>(&mut third.store, "add", (1, 2))
            };
            scope.spawn(call).join().expect("it ends well")
        });
        let error = refused.expect_err("the only stack is in use");
        assert!(format!("{error:#}").contains("1 of 1"), "{error:#}");
        Ok(n)
    });
    assert_eq!(result?, 2);
    Ok(())
}

#[test]
fn threads_that_take_each_others_waiting_stack_all_the_time_compute_what_they_should() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(2))?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut guest = Guest::new(&engine).expect("a guest");
            scope.spawn(move || {
                let add = guest
                    .instance
                    .typed::<(i32, i32), i32>(&mut guest.store, "add")
                    .expect("is there");
                let mut sums = 0;
                for n in 0..20_000 {
                    match add.call(&mut guest.store, (n, 1)) {
                        Ok(sum) => {
                            assert_eq!(sum, n + 1);
                            sums += 1;
                        }
                        Err(error) => assert!(format!("{error:#}").contains("2 of 2"), "{error:#}"),
                    }
                }
                assert!(sums > 0);
            });
        }
    });
    assert_eq!(in_use(&engine), 0);
    Ok(())
}

#[test]
fn trimming_between_calls_takes_what_lay_on_the_stack() -> Result<()> {
    let engine = Engine::default();
    let mut guest = Guest::new(&engine)?;
    for _ in 0..5 {
        guest.add();
        engine.trim_stacks();
        guest.add();
        guest.add();
        let trimmed = engine.clone();
        let result = guest.host(1, move |_, n| {
            trimmed.trim_stacks(); // not what is in use
            Ok(n)
        });
        assert_eq!(result?, 2);
    }
    Ok(())
}

#[test]
fn a_store_that_is_watched_from_within_a_call_can_be_stopped_in_the_next() -> Result<()> {
    for keep in [false, true] {
        let engine = Engine::new(Config::new().keep_stacks(keep))?;
        let mut guest = Guest::new(&engine)?;
        guest.add();
        guest.add();
        let (send, receive) = channel();
        let result = guest.host(1, move |mut caller, n| {
            send.send(caller.interrupt_handle()?).expect("somebody waits");
            Ok(n)
        });
        assert_eq!(result?, 2);
        guest.add();
        let handle = receive.recv().expect("it was sent");
        let thread = std::thread::spawn(move || handle.interrupt());
        let error = guest
            .instance
            .call::<(), ()>(&mut guest.store, "spin", ())
            .expect_err("it has no end but this");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt), "{error:#}");
        thread.join().expect("it ends well");
        guest.add();
    }
    Ok(())
}

#[test]
fn a_store_told_to_keep_its_stack_after_a_call_keeps_one_of_its_own() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(2))?;
    let (mut guest, mut other) = (Guest::new(&engine)?, Guest::new(&engine)?);
    guest.add();
    guest.store.keep_stack(true);
    guest.add();
    assert_eq!(in_use(&engine), 1, "it is not to be had by others");
    for _ in 0..3 {
        guest.add();
        other.add();
        guest.overflow();
        let half: f64 = guest.instance.call(&mut guest.store, "half", 3.0)?;
        assert_eq!(half, 1.5);
        guest.add();
    }
    guest.store.keep_stack(false);
    assert_eq!(in_use(&engine), 0);
    guest.add();
    assert_eq!(in_use(&engine), 0);
    Ok(())
}

/// A fiber of the host's that calls its own guest, and waits each time in the host function that the guest calls.
fn waiting_in_calls(engine: &Engine, calls: i32) -> fibers::Fiber<(), (), i32> {
    let engine = engine.clone();
    let body = move |suspender: &fibers::Suspender<(), ()>, ()| {
        let mut guest = Guest::new(&engine).expect("a guest");
        let suspender = std::ptr::from_ref(suspender).expose_provenance();
        let mut sum = 0;
        for n in 0..calls {
            guest.add();
            let wait = move |_: Caller<'_, Data>, n: i32| {
                let suspender = std::ptr::with_exposed_provenance::<fibers::Suspender<(), ()>>(suspender);
                // SAFETY: the fiber's own, which runs this and has not ended.
                let suspender = unsafe { &*suspender };
                suspender.suspend(());
                Ok(n)
            };
            sum += guest.host(n, wait).expect("it returns");
            guest.overflow();
        }
        sum
    };
    fibers::Fiber::new(body).expect("a fiber")
}

#[test]
fn fibers_of_the_host_that_wait_in_calls_go_on_in_any_order() -> Result<()> {
    const CALLS: i32 = 4;
    let engine = Engine::default();
    let mut here = Guest::new(&engine)?;
    here.add();
    let mut fibers: Vec<_> = (0..3).map(|_| waiting_in_calls(&engine, CALLS)).collect();
    let orders = [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0], [0, 2, 1]];
    for (round, order) in orders.into_iter().enumerate() {
        for at in order {
            match fibers[at].resume(()) {
                fibers::FiberResult::Yield(()) => assert!(round < CALLS as usize),
                fibers::FiberResult::Return(sum) => assert_eq!((round, sum), (CALLS as usize, 6 + CALLS)),
            }
            here.add();
            here.overflow();
            here.host(1, |_, n| Ok(n))?;
        }
        if round < CALLS as usize {
            assert_eq!(in_use(&engine), 3);
        }
        engine.trim_stacks();
    }
    drop(fibers);
    assert_eq!(in_use(&engine), 0);
    here.add();
    Ok(())
}

#[test]
fn a_fiber_of_the_host_that_is_dropped_in_a_call_gives_the_stack_back() -> Result<()> {
    let engine = Engine::default();
    let mut here = Guest::new(&engine)?;
    for _ in 0..5 {
        let mut fibers = [waiting_in_calls(&engine, 2), waiting_in_calls(&engine, 2)];
        for fiber in &mut fibers {
            fiber.resume(());
            here.add();
        }
        assert_eq!(in_use(&engine), 2);
        drop(fibers);
        assert_eq!(in_use(&engine), 0);
        here.add();
        here.overflow();
    }
    Ok(())
}

#[test]
fn an_engine_may_go_while_a_fiber_that_waits_in_a_call_is_forgotten() -> Result<()> {
    let thread = std::thread::spawn(|| -> Result<()> {
        let engine = Engine::new(Config::new().max_guest_stacks(2))?;
        let mut fiber = waiting_in_calls(&engine, 2);
        fiber.resume(());
        std::mem::forget(fiber);
        let mut other = Guest::new(&engine)?;
        other.add();
        other.overflow();
        drop(other);
        engine.trim_stacks();
        let stats = engine.stack_stats();
        assert_eq!((stats.in_use, stats.created), (1, 2));
        Ok(())
    });
    thread.join().expect("it ends well")?;
    let mut later = Guest::new(&Engine::default())?;
    later.add();
    Ok(())
}

/// Calls its guest when it is dropped, as a thread-local is when the thread ends.
struct CallsAtEnd(Guest, std::sync::mpsc::Sender<Result<i32>>);

impl Drop for CallsAtEnd {
    fn drop(&mut self) {
        let CallsAtEnd(guest, results) = self;
        let call = |guest: &mut Guest| guest.instance.call(&mut guest.store, "add", (20, 22));
        let first = call(guest);
        let second = call(guest);
        results.send(first).expect("somebody waits");
        results.send(second).expect("somebody waits");
    }
}

#[test]
fn calls_by_destructors_of_thread_locals_return_or_say_that_the_thread_ends() -> Result<()> {
    thread_local! {
        static BEFORE: std::cell::RefCell<Option<CallsAtEnd>> = const { std::cell::RefCell::new(None) };
        static AFTER: std::cell::RefCell<Option<CallsAtEnd>> = const { std::cell::RefCell::new(None) };
    }
    let engine = Engine::new(Config::new().max_guest_stacks(1))?;
    for _ in 0..5 {
        let (send, receive) = channel();
        let (mut first, second) = (Guest::new(&engine)?, Guest::new(&engine)?);
        let thread = std::thread::spawn(move || {
            BEFORE.with(|_| ()); // its destructor is known before anything of ours is
            first.add();
            AFTER.set(Some(CallsAtEnd(second, send.clone())));
            BEFORE.set(Some(CallsAtEnd(first, send)));
        });
        thread.join().expect("it ends well");
        let results: Vec<_> = receive.iter().collect();
        assert_eq!(results.len(), 4);
        for result in results {
            match result {
                Ok(sum) => assert_eq!(sum, 42),
                Err(error) => assert!(format!("{error:#}").contains("thread ends"), "{error:#}"),
            }
        }
        assert_eq!(in_use(&engine), 0);
        let mut next = Guest::new(&engine)?;
        next.overflow();
        next.add();
    }
    Ok(())
}

#[test]
fn a_fiber_that_a_thread_local_keeps_in_a_call_gives_its_stack_back_at_the_end() -> Result<()> {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<fibers::Fiber<(), (), i32>>> = const { std::cell::RefCell::new(None) };
    }
    let engine = Engine::default();
    for _ in 0..3 {
        let theirs = engine.clone();
        let thread = std::thread::spawn(move || {
            KEPT.with(|_| ());
            let mut fiber = waiting_in_calls(&theirs, 2);
            fiber.resume(());
            KEPT.set(Some(fiber));
        });
        thread.join().expect("it ends well");
        let mut next = Guest::new(&engine)?;
        next.add();
        next.overflow();
    }
    assert_eq!(in_use(&engine), 0);
    Ok(())
}

#[test]
fn the_fork_of_a_process_with_leases_takes_those_of_threads_that_it_has_not() {
    // In a process of its own, as a child has the locks of all threads as they were.
    let child = in_child(
        "the_fork_of_a_process_with_leases_takes_those_of_threads_that_it_has_not",
        || calls_in_a_fork().expect("it calls"),
    );
    assert!(child.status.success(), "{child:?}");
}

fn calls_in_a_fork() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(2))?;
    let [mut here, mut second, mut there] =
        [Guest::new(&engine)?, Guest::new(&engine)?, Guest::new(&engine)?];
    here.add();
    let (turn, turns) = channel::<()>();
    let (done, is_done) = channel();
    let thread = std::thread::spawn(move || {
        there.add();
        done.send(()).expect("somebody waits");
        turns.recv().expect("the other lives");
        there.add();
    });
    is_done.recv().expect("it calls");
    // SAFETY: the other threads wait and hold no lock; the child makes calls of guests, and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        here.add();
        here.overflow();
        let result = here.host(1, move |_, n| {
            second.add(); // on the stack that waits with a thread of the parent's
            Ok(n)
        });
        let is_well = matches!(result, Ok(2));
        // SAFETY: ends the child at once, without destructors.
        unsafe { libc::_exit(i32::from(!is_well)) };
    }
    let mut status = 0;
    // SAFETY: our child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    turn.send(()).expect("the thread lives");
    thread.join().expect("it ends well");
    assert_eq!(status, 0);
    here.add();
    Ok(())
}
