//! Stopping guests: by a handle from another thread, by a deadline, whatever the guest is doing.

use selvedge::{
    Caller, Config, Engine, Exception, FuelPolicy, FuncType, GuestCall, Instance, InterruptHandle, Linker,
    Module, Result, Store, Tag, TagType, Trap,
};
use selvedge_tests::{Wakes, in_child, poll_once};
use std::future::{pending, poll_fn};
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

const GUEST: &str = r#"(module
    (import "host" "touch" (func $touch))
    (import "host" "wait" (func $wait))
    (import "host" "nested" (func $nested (result i32)))
    (memory (export "memory") 1)
    (func $spin (export "spin") (loop $l
        (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
        (br $l)))
    (func (export "touch_forever") (loop $l (call $touch) (br $l)))
    (func (export "grow_forever") (loop $l
        (drop (memory.grow (i32.const 0)))
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))
        (br $l)))
    (func (export "wait") (call $wait))
    (func (export "wait_then_spin") (call $wait) (call $spin))
    (func (export "nested") (result i32) (call $nested))
    (func (export "nested_then_spin") (drop (call $nested)) (call $spin))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#;

#[derive(Default)]
struct State {
    touched: AtomicU64,
}

fn guest(config: &Config) -> Result<(Store<Arc<State>>, Instance)> {
    let engine = Engine::new(config)?;
    let mut linker = Linker::<Arc<State>>::new(&engine);
    linker.func_wrap("host", "touch", |caller: Caller<'_, Arc<State>>| {
        caller.data().touched.fetch_add(1, Ordering::Relaxed);
    })?;
    linker.func_wrap_async("host", "wait", async |_caller, (): ()| pending::<()>().await)?;
    // 1: the inner call was interrupted; the guest that asked goes on.
    linker.func_wrap_async("host", "nested", async |mut caller, (): ()| -> Result<i32> {
        let inner = caller.get_export("spin").and_then(|spin| spin.into_func());
        let inner = inner.expect("the guest has it").typed::<(), ()>(&caller)?;
        let timeout = Duration::from_millis(20);
        let result = inner.call_async(&mut caller, ()).with_timeout(timeout).await;
        Ok(i32::from(result.is_err_and(|error| was_interrupted(&error))))
    })?;
    let module = Module::new(&engine, GUEST)?;
    let mut store = Store::new(&engine, Arc::new(State::default()));
    let instance = linker.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

fn was_interrupted(error: &selvedge::Error) -> bool {
    error.downcast_ref() == Some(&Trap::Interrupt)
}

fn metered() -> Config {
    let mut config = Config::new();
    config.fuel(true);
    config
}

/// With fuel enough for ever, where fuel counts.
fn both() -> Result<[(Store<Arc<State>>, Instance); 2]> {
    let mut with_fuel = guest(&metered())?;
    with_fuel.0.set_fuel(u64::MAX)?;
    Ok([guest(&Config::new())?, with_fuel])
}

/// Asks for a stop from another thread after a while.
fn interrupt_soon(handle: InterruptHandle) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        handle.interrupt();
    })
}

struct Unpark(Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// Polls when woken, and only then.
fn block_on<F: Future>(future: F) -> F::Output {
    let unpark = Arc::new(Unpark(thread::current(), AtomicBool::new(true)));
    let waker = unpark.clone().into();
    let mut future = pin!(future);
    loop {
        while !unpark.1.swap(false, Ordering::SeqCst) {
            thread::park();
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
    }
}

#[test]
fn a_guest_that_runs_is_stopped_whatever_it_does() -> Result<()> {
    for (mut store, instance) in both()? {
        let handle = store.interrupt_handle()?;
        for name in ["spin", "touch_forever", "grow_forever", "spin"] {
            let thread = interrupt_soon(handle.clone());
            let error = instance
                .call::<(), ()>(&mut store, name, ())
                .expect_err("it never returns");
            assert!(was_interrupted(&error), "{name}: {error:#}");
            thread.join().expect("no panic");
            let sum: i32 = instance.call(&mut store, "add", (1, 2))?;
            assert_eq!(sum, 3, "the store stays usable");
        }
    }
    Ok(())
}

#[test]
fn the_backtrace_names_the_function_that_was_stopped() -> Result<()> {
    for (mut store, instance) in both()? {
        let thread = interrupt_soon(store.interrupt_handle()?);
        let error = instance
            .call::<(), ()>(&mut store, "spin", ())
            .expect_err("it never returns");
        let backtrace = error.backtrace().expect("a trap has one");
        assert_eq!(backtrace.frames()[0].func_name(), Some("spin"));
        thread.join().expect("no panic");
    }
    Ok(())
}

#[test]
fn a_guest_that_waits_is_woken_and_ends() -> Result<()> {
    for (mut store, instance) in both()? {
        let thread = interrupt_soon(store.interrupt_handle()?);
        let result = block_on(instance.call_async::<_, (), ()>(&mut store, "wait", ()));
        assert!(result.is_err_and(|error| was_interrupted(&error)));
        thread.join().expect("no panic");
    }
    Ok(())
}

#[test]
fn with_nothing_to_stop_the_next_call_ends_and_the_one_after_runs() -> Result<()> {
    for (mut store, instance) in both()? {
        store.interrupt_handle()?.interrupt();
        let error = instance
            .call::<_, i32>(&mut store, "add", (1, 2))
            .expect_err("it was asked to end");
        assert!(was_interrupted(&error));
        assert_eq!(instance.call::<_, i32>(&mut store, "add", (1, 2))?, 3);
    }
    Ok(())
}

#[test]
fn a_deadline_ends_a_guest_that_runs_and_one_that_waits() -> Result<()> {
    for (mut store, instance) in both()? {
        for name in ["spin", "wait"] {
            let call = instance.call_async::<_, (), ()>(&mut store, name, ());
            let error = block_on(call.with_timeout(Duration::from_millis(10))).expect_err("it never returns");
            assert!(was_interrupted(&error), "{name}");
            assert!(format!("{error:#}").contains("deadline"), "{error:#}");
        }
        assert_eq!(instance.call::<_, i32>(&mut store, "add", (1, 2))?, 3);
    }
    Ok(())
}

#[test]
fn a_deadline_that_has_passed_ends_the_call_and_one_far_away_does_not() -> Result<()> {
    let (mut store, instance) = guest(&Config::new())?;
    let call = instance.call_async::<_, (), ()>(&mut store, "wait_then_spin", ());
    let error = block_on(call.with_deadline(Instant::now())).expect_err("it is late already");
    assert!(was_interrupted(&error));
    let call = instance.call_async::<_, _, i32>(&mut store, "add", (1, 2));
    assert_eq!(block_on(call.with_timeout(Duration::from_secs(3600)))?, 3);
    let call = instance.call_async::<_, _, i32>(&mut store, "add", (1, 2));
    assert_eq!(
        block_on(call.with_timeout(Duration::MAX))?,
        3,
        "no deadline at all"
    );
    Ok(())
}

#[test]
fn a_deadline_of_a_nested_call_ends_that_call_alone() -> Result<()> {
    for (mut store, instance) in both()? {
        let call = instance.call_async::<_, (), i32>(&mut store, "nested", ());
        assert_eq!(block_on(call.with_timeout(Duration::from_secs(3600)))?, 1);
        let call = instance.call_async::<_, (), ()>(&mut store, "nested_then_spin", ());
        let error =
            block_on(call.with_timeout(Duration::from_millis(1))).expect_err("the outer deadline is sooner");
        assert!(was_interrupted(&error), "{error:#}");
    }
    Ok(())
}

/// Deadlines that pass while their call ends leave no request behind for the next call.
#[test]
fn a_deadline_next_to_the_end_of_its_call_does_not_reach_the_next() -> Result<()> {
    let (mut store, instance) = guest(&Config::new())?;
    for round in 0..2000_u32 {
        let call = instance.call_async::<_, _, i32>(&mut store, "add", (1, 2));
        match block_on(call.with_timeout(Duration::from_nanos(u64::from(round) * 50))) {
            Ok(sum) => assert_eq!(sum, 3),
            Err(error) => assert!(was_interrupted(&error), "{error:#}"),
        }
        assert_eq!(
            instance.call::<_, i32>(&mut store, "add", (round as i32, 1))?,
            round as i32 + 1
        );
    }
    Ok(())
}

#[test]
fn a_host_function_may_ask_for_the_end_of_its_own_guest() -> Result<()> {
    for fuel in [false, true] {
        let engine = Engine::new(Config::new().fuel(fuel))?;
        let mut linker = Linker::<()>::new(&engine);
        linker.func_wrap("host", "stop", |mut caller: Caller<'_, ()>| -> Result<()> {
            caller.interrupt_handle()?.interrupt();
            Ok(())
        })?;
        let module = Module::new(
            &engine,
            r#"(module (import "host" "stop" (func $stop)) (func (export "f") (call $stop) (loop $l (br $l))))"#,
        )?;
        let mut store = Store::new(&engine, ());
        if fuel {
            store.set_fuel(u64::MAX)?;
        }
        let instance = linker.instantiate(&mut store, &module)?;
        let error = instance
            .call::<(), ()>(&mut store, "f", ())
            .expect_err("it was asked to end");
        assert!(was_interrupted(&error), "{error:#}");
    }
    Ok(())
}

/// Calls guests that never return until each was stopped this often.
fn be_stopped(times: u32, send: &mpsc::Sender<InterruptHandle>) -> Result<()> {
    let (mut store, instance) = guest(&Config::new())?;
    let (mut other, other_instance) = guest(&Config::new())?;
    send.send(store.interrupt_handle()?)
        .expect("the test waits for it");
    for round in 0..times {
        let name = ["touch_forever", "grow_forever", "spin"][round as usize % 3];
        let error = instance
            .call::<(), ()>(&mut store, name, ())
            .expect_err("it never returns");
        assert!(was_interrupted(&error), "{error:#}");
        let sum: i32 = other_instance.call(&mut other, "add", (1, 2))?;
        assert_eq!(sum, 3, "the other guest of this thread goes on");
    }
    Ok(())
}

/// Stops that come at any time, to guests on two threads at once; nothing is lost, and nothing hits another guest.
#[test]
fn stops_at_any_time_hit_their_guest_and_no_other() -> Result<()> {
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (send, receive) = mpsc::channel();
            let thread = thread::spawn(move || be_stopped(60, &send));
            (thread, receive.recv().expect("the worker sends it"))
        })
        .collect();
    let mut seed = 1_u64;
    while !workers.iter().all(|(thread, _)| thread.is_finished()) {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_nanos(seed >> 48));
        workers[(seed >> 33) as usize % 2].1.interrupt();
    }
    for (thread, _) in workers {
        thread.join().expect("no panic")?;
    }
    Ok(())
}

#[test]
fn a_handle_outlives_its_store() -> Result<()> {
    let (mut store, _) = guest(&Config::new())?;
    let handle = store.interrupt_handle()?;
    drop(store);
    handle.interrupt();
    Ok(())
}

#[test]
fn a_stopped_metered_guest_has_paid_exactly_for_what_it_did() -> Result<()> {
    let (mut store, instance) = guest(&metered())?;
    store.set_fuel(u64::MAX)?;
    let thread = interrupt_soon(store.interrupt_handle()?);
    let error = instance
        .call::<(), ()>(&mut store, "spin", ())
        .expect_err("it never returns");
    assert!(was_interrupted(&error));
    thread.join().expect("no panic");
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    let turns = u32::from_le_bytes(memory.data(&store)[..4].try_into().expect("four bytes"));
    // Each turn: two constants, a load, a constant, an addition, a store, a branch. One for the call.
    assert_eq!(u64::MAX - store.get_fuel()?, 1 + 7 * u64::from(turns));
    Ok(())
}

#[test]
fn being_watched_does_not_change_when_a_guest_yields() -> Result<()> {
    let count = |watched: bool| -> Result<(u64, u64)> {
        let (mut store, instance) = guest(&metered())?;
        store.set_fuel(1_000_000)?;
        store.set_fuel_policy(FuelPolicy::Yield {
            every: NonZeroU64::new(150_000).expect("not zero"),
        })?;
        if watched {
            store.interrupt_handle()?;
        }
        let spin = instance.call_async::<_, (), ()>(&mut store, "spin", ());
        let (result, yields) = selvedge_tests::drive(spin);
        assert_eq!(
            result.expect_err("it spins").downcast_ref(),
            Some(&Trap::OutOfFuel)
        );
        Ok((yields, store.get_fuel()?))
    };
    assert_eq!(count(false)?, (6, 0));
    assert_eq!(count(true)?, (6, 0));
    Ok(())
}

#[test]
fn a_watched_guest_holds_on_to_a_waker_while_it_waits_and_not_when_it_yields() -> Result<()> {
    let (mut store, instance) = guest(&metered())?;
    store.set_fuel(u64::MAX)?;
    store.set_fuel_policy(FuelPolicy::Yield {
        every: NonZeroU64::new(1000).expect("not zero"),
    })?;
    let handle = store.interrupt_handle()?;
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let ours = Arc::strong_count(&wakes);
    let mut context = Context::from_waker(&waker);
    {
        let mut spin = pin!(instance.call_async::<_, _, ()>(&mut store, "spin", ()));
        for woken in 1..=3 {
            assert!(spin.as_mut().poll(&mut context).is_pending());
            // It has woken its task itself: whoever asks for its end need not.
            assert_eq!((wakes.count(), Arc::strong_count(&wakes)), (woken, ours));
        }
        thread::scope(|scope| scope.spawn(|| handle.interrupt()).join()).expect("asks");
        let Poll::Ready(Err(error)) = spin.as_mut().poll(&mut context) else {
            panic!("the poll after a yield looks at the request");
        };
        assert!(was_interrupted(&error), "{error:#}");
    }
    let woken = wakes.count();
    let mut wait = pin!(instance.call_async::<_, _, ()>(&mut store, "wait", ()));
    assert!(wait.as_mut().poll(&mut context).is_pending());
    assert_eq!((wakes.count(), Arc::strong_count(&wakes)), (woken, ours + 1));
    thread::scope(|scope| scope.spawn(|| handle.interrupt()).join()).expect("asks");
    assert_eq!((wakes.count(), Arc::strong_count(&wakes)), (woken + 1, ours));
    assert!(wait.as_mut().poll(&mut context).is_ready());
    Ok(())
}

#[test]
fn fuel_is_asked_for_at_zero_and_no_more_of_it_is_a_trap() -> Result<()> {
    let engine = Engine::new(&metered())?;
    let module = Module::new(&engine, r#"(module (func (export "spin") (loop $l (br $l))))"#)?;
    let mut store = Store::new(&engine, 0_u32);
    store.set_fuel(10)?;
    store.on_fuel_zero(|mut caller| {
        assert_eq!(caller.get_fuel()?, 0);
        *caller.data_mut() += 1;
        Ok(if *caller.data() < 5 { 100 } else { 0 })
    })?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let error = instance
        .call::<(), ()>(&mut store, "spin", ())
        .expect_err("in the end");
    assert_eq!(error.downcast_ref(), Some(&Trap::OutOfFuel));
    assert_eq!((*store.data(), store.get_fuel()?), (5, 0));
    Ok(())
}

/// The guest that ran out has its registers saved below the place where the call begins.
#[test]
fn who_is_asked_for_fuel_may_call_the_guest_whose_values_stay() -> Result<()> {
    let engine = Engine::new(&metered())?;
    let module = r#"(module
        (func $deep (export "deep") (param i64) (result i64)
            (if (result i64) (i64.eqz (local.get 0))
                (then (i64.const 0))
                (else (i64.add (i64.const 1) (call $deep (i64.sub (local.get 0) (i64.const 1)))))))
        (func (export "mix") (param $n i64) (result i64)
            (local $a i64) (local $b i64) (local $c i64) (local $d i64) (local $x f64) (local $y f64)
            (loop $l
                (local.set $a (i64.add (local.get $a) (i64.const 3)))
                (local.set $b (i64.xor (local.get $b) (local.get $a)))
                (local.set $c (i64.add (local.get $c) (local.get $b)))
                (local.set $d (i64.rotl (i64.add (local.get $d) (local.get $c)) (i64.const 7)))
                (local.set $x (f64.add (local.get $x) (f64.const 1.5)))
                (local.set $y (f64.add (local.get $y) (local.get $x)))
                (br_if $l (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))
            (i64.add (i64.add (local.get $a) (i64.add (local.get $b) (local.get $c)))
                (i64.add (local.get $d) (i64.trunc_f64_s (f64.add (local.get $x) (local.get $y)))))))"#;
    let module = Module::new(&engine, module)?;
    let run = |units: u64| -> Result<(i64, u32)> {
        let mut store = Store::new(&engine, 0_u32);
        store.set_fuel(units)?;
        let instance = Instance::new(&mut store, &module, &[])?;
        store.on_fuel_zero(move |mut caller| {
            *caller.data_mut() += 1;
            caller.set_fuel(10_000)?;
            assert_eq!(instance.call::<i64, i64>(&mut caller, "deep", 20)?, 20);
            caller.set_fuel(0)?;
            Ok(1_000)
        })?;
        let mixed = instance.call::<i64, i64>(&mut store, "mix", 1_000)?;
        Ok((mixed, *store.data()))
    };
    let (expected, asked) = run(1_000_000)?;
    assert_eq!(asked, 0);
    let (mixed, asked) = run(100)?;
    assert_eq!(mixed, expected);
    assert!(asked > 10, "asked {asked} times");
    Ok(())
}

#[test]
fn who_is_asked_for_fuel_may_refuse_panic_wait_or_be_dropped() -> Result<()> {
    let engine = Engine::new(&metered())?;
    let module = Module::new(&engine, r#"(module (func (export "spin") (loop $l (br $l))))"#)?;
    let mut store = Store::new(&engine, 0_u32);
    let instance = Instance::new(&mut store, &module, &[])?;

    store.on_fuel_zero(|_| Err(selvedge::Error::msg("the account is empty")))?;
    let error = instance
        .call::<(), ()>(&mut store, "spin", ())
        .expect_err("refused");
    assert_eq!(error.to_string(), "the account is empty");

    store.on_fuel_zero(|_| panic!("no bank"))?;
    let call = std::panic::AssertUnwindSafe(|| instance.call::<(), ()>(&mut store, "spin", ()));
    let payload = std::panic::catch_unwind(call).expect_err("the panic goes on");
    assert_eq!(payload.downcast_ref(), Some(&"no bank"));

    // Waits once for each hundred units, three times; then there is no more.
    store.on_fuel_zero_async(async |mut caller: Caller<'_, u32>| {
        let mut waited = false;
        poll_fn(|_| {
            if std::mem::replace(&mut waited, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        *caller.data_mut() += 1;
        Ok(if *caller.data() <= 3 { 100 } else { 0 })
    })?;
    let error = instance
        .call::<(), ()>(&mut store, "spin", ())
        .expect_err("it would wait");
    assert!(error.to_string().contains("on_fuel_zero"), "{error:#}");
    let spin = instance.call_async::<_, (), ()>(&mut store, "spin", ());
    let (result, polls) = selvedge_tests::drive(spin);
    assert_eq!(polls, 4);
    assert_eq!(
        result.expect_err("in the end").downcast_ref(),
        Some(&Trap::OutOfFuel)
    );
    assert_eq!((*store.data(), store.get_fuel()?), (4, 0));

    let mut call = Box::pin(instance.call_async::<_, (), ()>(&mut store, "spin", ()));
    assert!(poll_once(call.as_mut()).is_pending());
    drop(call);
    store.on_fuel_zero(|_| Ok(0))?;
    assert!(instance.call::<(), ()>(&mut store, "spin", ()).is_err());
    Ok(())
}

#[test]
fn a_start_function_may_wait_and_yield() -> Result<()> {
    let engine = Engine::new(&metered())?;
    let module = Module::new(
        &engine,
        r#"(module (import "host" "wait" (func $wait))
            (global $n (mut i32) (i32.const 0))
            (func $start (call $wait) (loop $l
                (global.set $n (i32.add (global.get $n) (i32.const 1)))
                (br_if $l (i32.lt_u (global.get $n) (i32.const 100)))))
            (start $start)
            (func (export "n") (result i32) (global.get $n)))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "wait", async |_caller, (): ()| {
        selvedge_tests::wait(2).await
    })?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(100_000)?;
    store.set_fuel_policy(FuelPolicy::Yield {
        every: NonZeroU64::new(100).expect("not zero"),
    })?;
    let error = linker
        .instantiate(&mut store, &module)
        .expect_err("it would yield");
    assert!(format!("{error:#}").contains("instantiate_async"), "{error:#}");
    let (instance, pending) = selvedge_tests::drive(linker.instantiate_async(&mut store, &module));
    assert!(pending > 5, "{pending} times");
    store.set_fuel_policy(FuelPolicy::Trap)?;
    assert_eq!(instance?.call::<(), i32>(&mut store, "n", ())?, 100);
    Ok(())
}

/// Ends the process when a test hangs: in a child.
fn within_a_minute(test: &str, body: impl FnOnce() -> Result<()>) {
    let child = in_child(test, || {
        // SAFETY: takes a number: alarm(2).
        unsafe { libc::alarm(60) };
        body().expect("no error");
    });
    assert!(child.status.success(), "{child:?}");
}

/// Host functions of every way to be called, each of which takes longer than a signal waits for the next one.
const NAPPING: &str = r#"(module
    (import "host" "nap" (func $nap))
    (import "host" "nap_in_slots" (func $nap_in_slots (param f64)))
    (import "host" "nap_of_values" (func $nap_of_values))
    (import "host" "nap_async" (func $nap_async))
    (import "host" "nap_and_throw" (func $nap_and_throw))
    (func $in_nap (export "nap") (loop $l (call $nap) (br $l)))
    (func $in_nap_in_slots (export "nap_in_slots") (loop $l (call $nap_in_slots (f64.const 1)) (br $l)))
    (func $in_nap_of_values (export "nap_of_values") (loop $l (call $nap_of_values) (br $l)))
    (func $in_nap_async (export "nap_async") (loop $l (call $nap_async) (br $l)))
    (func $in_nap_and_throw (export "nap_and_throw") (loop $l
        (block $h (try_table (catch_all $h) (call $nap_and_throw)))
        (br $l)))
    (func (export "seven") (result i32) (i32.const 7)))"#;

fn napping(config: &Config) -> Result<(Store<Option<Tag>>, Instance)> {
    let nap = || thread::sleep(Duration::from_millis(5));
    let engine = Engine::new(config)?;
    let mut linker = Linker::<Option<Tag>>::new(&engine);
    linker.func_wrap("host", "nap", nap)?;
    linker.func_wrap("host", "nap_in_slots", move |_: f64| nap())?;
    linker.func_new("host", "nap_of_values", FuncType::new([], []), move |_, _, _| {
        nap();
        Ok(())
    })?;
    linker.func_wrap_async("host", "nap_async", async move |_caller, (): ()| nap())?;
    linker.func_wrap(
        "host",
        "nap_and_throw",
        move |mut caller: Caller<'_, Option<Tag>>| -> Result<()> {
            nap();
            let tag = caller.data().expect("set below");
            Err(Exception::new(&mut caller, tag, &[])?.into())
        },
    )?;
    let mut store = Store::new(&engine, None);
    let tag = Tag::new(&mut store, TagType::new(FuncType::new([], [])))?;
    *store.data_mut() = Some(tag);
    let instance = linker.instantiate(&mut store, &Module::new(&engine, NAPPING)?)?;
    Ok((store, instance))
}

#[test]
fn a_guest_that_spends_its_time_in_host_functions_is_stopped() {
    let test = "a_guest_that_spends_its_time_in_host_functions_is_stopped";
    within_a_minute(test, || {
        for config in [Config::new(), metered()] {
            let (mut store, instance) = napping(&config)?;
            let _ = store.set_fuel(u64::MAX);
            for name in [
                "nap",
                "nap_in_slots",
                "nap_of_values",
                "nap_async",
                "nap_and_throw",
            ] {
                let call = instance.call_async::<_, (), ()>(&mut store, name, ());
                let error =
                    block_on(call.with_timeout(Duration::from_millis(50))).expect_err("it never returns");
                assert!(was_interrupted(&error), "{name}: {error:#}");
                let frames = error.backtrace().expect("a trap has one").frames();
                assert_eq!(frames[0].func_name(), Some(format!("in_{name}").as_str()));
                let thread = interrupt_soon(store.interrupt_handle()?);
                let error = instance
                    .call::<(), ()>(&mut store, name, ())
                    .expect_err("it never returns");
                assert!(was_interrupted(&error), "{name}: {error:#}");
                thread.join().expect("no panic");
                assert_eq!(instance.call::<(), i32>(&mut store, "seven", ())?, 7);
            }
        }
        Ok(())
    });
}

/// Guests that go through all of a large memory, again and again.
const BULK_BYTES: usize = 256 << 20;
const BULK: &str = r#"(module (memory (export "memory") 4096)
    (global $value (mut i32) (i32.const 1))
    (func (export "fill") (loop $l
        (memory.fill (i32.const 0) (global.get $value) (i32.const 0x1000_0000))
        (global.set $value (i32.add (global.get $value) (i32.const 1)))
        (br $l)))
    (func (export "copy_up") (loop $l
        (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1)))
        (memory.copy (i32.const 1) (i32.const 0) (i32.const 0x0fff_ffff))
        (br $l)))
    (func (export "copy_down") (loop $l
        (memory.copy (i32.const 0) (i32.const 1) (i32.const 0x0fff_ffff))
        (br $l))))"#;

#[test]
fn a_guest_that_spends_its_time_in_bulk_operations_is_stopped_in_the_middle_of_one() {
    let test = "a_guest_that_spends_its_time_in_bulk_operations_is_stopped_in_the_middle_of_one";
    within_a_minute(test, || {
        for config in [Config::new(), metered()] {
            let engine = Engine::new(&config)?;
            let mut store = Store::new(&engine, ());
            let _ = store.set_fuel(u64::MAX);
            let instance = Instance::new(&mut store, &Module::new(&engine, BULK)?, &[])?;
            let memory = instance.get_memory(&mut store, "memory").expect("exported");
            let mut stop = |name: &str| {
                let call = instance.call_async::<_, (), ()>(&mut store, name, ());
                let error =
                    block_on(call.with_timeout(Duration::from_millis(20))).expect_err("it never returns");
                assert!(was_interrupted(&error), "{name}: {error:#}");
                let bytes = memory.data(&store);
                (bytes[0], bytes[BULK_BYTES - 1])
            };
            for name in ["copy_up", "copy_down"] {
                stop(name);
            }
            // A stop may come next to the end of one; then again.
            loop {
                let (first, last) = stop("fill");
                if first != last {
                    break;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn being_watched_does_not_change_what_bulk_operations_do() -> Result<()> {
    const BYTES: usize = 16 << 20;
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory (export "memory") 256)
            (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
            (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    store.interrupt_handle()?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    let mut expected: Vec<u8> = (0..BYTES as u32)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    memory.data_mut(&mut store).copy_from_slice(&expected);
    let most = BYTES - 5000;
    for (to, from, length) in [
        (5000, 0, most),
        (0, 5000, most),
        (3, 4, BYTES - 4),
        (0, 8 << 20, 8 << 20),
        (7, 7, 9 << 20),
        (4 << 20, 0, 12 << 20),
        (1, 2, 0),
    ] {
        instance.call::<_, ()>(&mut store, "copy", (to as i32, from as i32, length as i32))?;
        expected.copy_within(from..from + length, to);
        assert!(memory.data(&store) == expected, "{from} to {to}, {length} bytes");
    }
    instance.call::<_, ()>(&mut store, "fill", (100, 9, 13 << 20))?;
    expected[100..100 + (13 << 20)].fill(9);
    assert!(memory.data(&store) == expected, "filled");
    Ok(())
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn an_idle_store_that_is_interrupted_gets_no_signals() {
    let test = "an_idle_store_that_is_interrupted_gets_no_signals";
    within_a_minute(test, || {
        let (mut store, instance) = guest(&Config::new())?;
        // Watched first by a call that is made and does not run yet.
        let call = instance.call_async::<_, _, i32>(&mut store, "add", (1, 2));
        assert_eq!(block_on(call.with_timeout(Duration::from_secs(3600)))?, 3);
        let handle = store.interrupt_handle()?;
        // From here on no guest looks any more; whatever is sent is counted.
        // SAFETY: a `sigaction` of zeros is one: no flags, nothing masked.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = count_signal as *const () as usize;
        // SAFETY: the handler only adds to an atomic.
        let result = unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) };
        assert_eq!(result, 0);
        handle.interrupt();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(SIGNALS.load(Ordering::SeqCst), 0);
        // A call that waits does not need them either.
        assert!(instance.call::<_, i32>(&mut store, "add", (1, 2)).is_err());
        let mut call = Box::pin(instance.call_async::<_, (), ()>(&mut store, "wait", ()));
        assert!(poll_once(call.as_mut()).is_pending());
        handle.interrupt();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(SIGNALS.load(Ordering::SeqCst), 0);
        Ok(())
    });
}

/// The host function asks for the handle in the poll in which its call parks for the first time.
#[test]
fn a_call_that_is_watched_from_its_own_host_function_is_woken() {
    let test = "a_call_that_is_watched_from_its_own_host_function_is_woken";
    within_a_minute(test, || {
        for polls_before in [0, 1] {
            let engine = Engine::default();
            let mut linker = Linker::<mpsc::Sender<InterruptHandle>>::new(&engine);
            linker.func_wrap_async(
                "host",
                "wait",
                async move |mut caller: Caller<'_, mpsc::Sender<InterruptHandle>>, (): ()| -> Result<()> {
                    selvedge_tests::wait(polls_before).await;
                    let handle = caller.interrupt_handle()?;
                    caller.data().send(handle).expect("the test waits for it");
                    pending::<()>().await;
                    Ok(())
                },
            )?;
            let module = Module::new(
                &engine,
                r#"(module (import "host" "wait" (func $wait)) (func (export "wait") (call $wait)))"#,
            )?;
            let (send, receive) = mpsc::channel::<InterruptHandle>();
            let mut store = Store::new(&engine, send);
            let instance = linker.instantiate(&mut store, &module)?;
            let thread = thread::spawn(move || {
                let handle = receive.recv().expect("the host function sends it");
                thread::sleep(Duration::from_millis(10)); // most likely parked by now; right either way
                handle.interrupt();
            });
            let result = block_on(instance.call_async::<_, (), ()>(&mut store, "wait", ()));
            assert!(result.is_err_and(|error| was_interrupted(&error)));
            thread.join().expect("no panic");
        }
        Ok(())
    });
}
