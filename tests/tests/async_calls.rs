//! Parked calls: polled anywhere, ended any way, dropped at any time, nested in any order.

use selvedge::{Caller, Config, Engine, Error, Instance, Linker, Local, Module, Result, Store, Trap, Val};
use selvedge_tests::{drive, poll_once, wait};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

/// `run(n)` waits n times for the host and adds up what it says, then ends as told.
const WAITER: &str = r#"(module
    (import "host" "wait" (func $wait (param i32) (result i32)))
    (import "host" "end" (func $end (param i32)))
    (memory (export "memory") 1)
    (func (export "run") (param $n i32) (param $how i32) (result i32) (local $sum i32)
      loop $again
        local.get $sum local.get $n call $wait i32.add local.set $sum
        local.get $n i32.const 1 i32.sub local.tee $n br_if $again
      end
      local.get $how i32.const 1 i32.eq if unreachable end
      local.get $how call $end
      local.get $sum)
    (func (export "ready") (param i32) (result i32) local.get 0 i32.const 1 i32.add))"#;

#[derive(Debug)]
struct HostError(u32);

impl std::fmt::Display for HostError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host error {}", self.0)
    }
}

impl std::error::Error for HostError {}

/// Counts values alive.
struct Alive(Arc<AtomicU32>);

impl Alive {
    fn new(count: &Arc<AtomicU32>) -> Alive {
        count.fetch_add(1, Ordering::SeqCst);
        Alive(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct State {
    alive: Arc<AtomicU32>,
    calls: u32,
}

fn linker(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::<State>::new(engine);
    linker.func_wrap_async(
        "host",
        "wait",
        async |mut caller: Caller<'_, State>, n: i32| -> Result<i32> {
            let _alive = Alive::new(&caller.data().alive);
            caller.data_mut().calls += 1;
            wait(1).await;
            Ok(n)
        },
    )?;
    linker.func_wrap("host", "end", |how: i32| -> Result<()> {
        match how {
            2 => Err(Error::from(HostError(7))),
            3 => panic!("as asked"),
            _ => Ok(()),
        }
    })?;
    Ok(linker)
}

fn set_up() -> Result<(Store<State>, Instance)> {
    let engine = Engine::default();
    let module = Module::new(&engine, WAITER)?;
    let mut store = Store::new(&engine, State::default());
    let instance = linker(&engine)?.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

/// Polls on a new thread each time; the output of the last poll, with panics caught.
fn drive_across_threads<F>(mut future: Pin<&mut F>) -> (std::thread::Result<F::Output>, u32)
where
    F: Future + Send,
    F::Output: Send,
{
    let mut polls = 0;
    loop {
        polls += 1;
        let future = future.as_mut();
        let polled = std::thread::scope(|scope| {
            let thread = scope.spawn(|| catch_unwind(AssertUnwindSafe(|| poll_once(future))));
            thread.join().expect("the panic was caught")
        });
        match polled {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(output)) => return (Ok(output), polls),
            Err(payload) => return (Err(payload), polls),
        }
    }
}

#[test]
fn polled_on_another_thread_each_time_and_returns() -> Result<()> {
    let (mut store, instance) = set_up()?;
    let (output, polls) =
        drive_across_threads(pin!(instance.call_async::<_, _, i32>(&mut store, "run", (10, 0))));
    assert_eq!(output.expect("no panic")?, 55);
    assert_eq!(polls, 11);
    Ok(())
}

#[test]
fn polled_on_another_thread_each_time_and_traps() -> Result<()> {
    let (mut store, instance) = set_up()?;
    let (output, _) = drive_across_threads(pin!(instance.call_async::<_, _, i32>(&mut store, "run", (5, 1))));
    let error = output.expect("no panic").expect_err("unreachable");
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Unreachable));
    assert_eq!(error.backtrace().expect("a backtrace").frames().len(), 1);
    assert_eq!(instance.call::<_, i32>(&mut store, "ready", 1)?, 2);
    Ok(())
}

#[test]
fn polled_on_another_thread_each_time_and_host_fails() -> Result<()> {
    let (mut store, instance) = set_up()?;
    let (output, _) = drive_across_threads(pin!(instance.call_async::<_, _, i32>(&mut store, "run", (5, 2))));
    let error = output.expect("no panic").expect_err("the host fails");
    assert_eq!(error.downcast_ref::<HostError>().expect("its type is kept").0, 7);
    assert_eq!(instance.call::<_, i32>(&mut store, "ready", 1)?, 2);
    Ok(())
}

#[test]
fn polled_on_another_thread_each_time_and_host_panics() -> Result<()> {
    let (mut store, instance) = set_up()?;
    let (output, _) = drive_across_threads(pin!(instance.call_async::<_, _, i32>(&mut store, "run", (5, 3))));
    let payload = output.expect_err("the host panics");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"as asked"));
    assert_eq!(instance.call::<_, i32>(&mut store, "ready", 1)?, 2);
    Ok(())
}

#[test]
fn dropped_at_every_suspension_point_the_store_stays_usable() -> Result<()> {
    let (mut store, instance) = set_up()?;
    let alive = store.data().alive.clone();
    for polls in 0..8 {
        {
            let mut call = pin!(instance.call_async::<_, _, i32>(&mut store, "run", (7, 0)));
            for _ in 0..polls {
                assert!(poll_once(call.as_mut()).is_pending());
            }
            assert_eq!(alive.load(Ordering::SeqCst), u32::from(polls > 0));
        }
        assert_eq!(
            alive.load(Ordering::SeqCst),
            0,
            "the host future is dropped with the call"
        );
        assert_eq!(instance.call::<_, i32>(&mut store, "ready", polls)?, polls + 1);
    }
    assert_eq!(
        drive(instance.call_async::<_, _, i32>(&mut store, "run", (3, 0))).0?,
        6
    );
    Ok(())
}

#[test]
fn creating_a_future_runs_nothing() -> Result<()> {
    let (mut store, instance) = set_up()?;
    drop(instance.call_async::<_, _, i32>(&mut store, "run", (1, 0)));
    assert_eq!(store.data().calls, 0);
    Ok(())
}

#[test]
fn errors_of_entry_are_what_the_first_poll_says() -> Result<()> {
    let (mut store, instance) = set_up()?;
    let error = drive(instance.call_async::<_, (), ()>(&mut store, "absent", ()))
        .0
        .expect_err("no such export");
    assert!(error.to_string().contains("`absent`"), "{error}");
    let error = drive(instance.call_async::<_, i64, ()>(&mut store, "ready", 1))
        .0
        .expect_err("wrong types");
    assert!(
        format!("{error:#}").contains("(func (param i32) (result i32))"),
        "{error:#}"
    );
    Ok(())
}

#[test]
fn two_stores_are_polled_in_turn_on_one_thread() -> Result<()> {
    let (mut first, one) = set_up()?;
    let (mut second, two) = set_up()?;
    let mut one = pin!(one.call_async::<_, _, i32>(&mut first, "run", (20, 0)));
    let mut two = pin!(two.call_async::<_, _, i32>(&mut second, "run", (20, 0)));
    for _ in 0..20 {
        assert!(poll_once(one.as_mut()).is_pending());
        assert!(poll_once(two.as_mut()).is_pending());
    }
    for call in [one, two] {
        let Poll::Ready(sum) = poll_once(call) else {
            panic!("the last wait is over")
        };
        assert_eq!(sum?, 210);
    }
    Ok(())
}

#[test]
fn pending_host_function_under_a_sync_call_is_an_error_that_names_it() -> Result<()> {
    let (mut store, instance) = set_up()?;
    let error = instance
        .call::<_, i32>(&mut store, "run", (1, 0))
        .expect_err("it would wait");
    assert!(error.to_string().contains("`host::wait`"), "{error}");
    assert!(error.to_string().contains("call_async"), "{error}");
    assert_eq!(store.data().alive.load(Ordering::SeqCst), 0);
    assert_eq!(instance.call::<_, i32>(&mut store, "ready", 1)?, 2);
    Ok(())
}

#[test]
fn a_forgotten_call_is_never_touched_again() -> Result<()> {
    let (mut store, instance) = set_up()?;
    let alive = store.data().alive.clone();
    {
        let mut call = Box::pin(instance.call_async::<_, _, i32>(&mut store, "run", (3, 0)));
        assert!(poll_once(call.as_mut()).is_pending());
        std::mem::forget(call);
    }
    assert_eq!(instance.call::<_, i32>(&mut store, "ready", 1)?, 2);
    assert_eq!(
        drive(instance.call_async::<_, _, i32>(&mut store, "run", (3, 0))).0?,
        6
    );
    assert_eq!(
        alive.load(Ordering::SeqCst),
        1,
        "what was forgotten is not dropped"
    );
    drop(store);
    assert_eq!(alive.load(Ordering::SeqCst), 1, "not with the store either");
    Ok(())
}

/// `outer` calls the host, which calls `inner`, which waits.
const NESTED: &str = r#"(module
    (import "host" "nest" (func $nest (param i32) (result i32)))
    (import "host" "wait" (func $wait (param i32) (result i32)))
    (func (export "outer") (param i32) (result i32) local.get 0 call $nest i32.const 1000 i32.add)
    (func (export "inner") (param i32) (result i32)
      local.get 0 call $wait local.get 0 i32.const 1 i32.add call $wait i32.add)
    (func (export "trap") (param i32) (result i32) unreachable))"#;

fn nested(engine: &Engine) -> Result<(Store<State>, Instance)> {
    let module = Module::new(engine, NESTED)?;
    let mut linker = linker(engine)?;
    linker.func_wrap_async(
        "host",
        "nest",
        async |mut caller: Caller<'_, State>, depth: i32| -> Result<i32> {
            let name = if depth > 0 {
                "outer"
            } else if depth == 0 {
                "inner"
            } else {
                "trap"
            };
            let func = caller
                .get_export(name)
                .and_then(selvedge::Extern::into_func)
                .expect("exported");
            let func = func.typed::<i32, i32>(&caller)?;
            let _alive = Alive::new(&caller.data().alive);
            wait(1).await;
            let result = func.call_async(&mut caller, depth - 1).await?;
            wait(1).await;
            Ok(result)
        },
    )?;
    let mut store = Store::new(engine, State::default());
    let instance = linker.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

#[test]
fn nested_calls_wait_inside_each_other() -> Result<()> {
    let engine = Engine::default();
    let (mut store, instance) = nested(&engine)?;
    // depth 2: outer(2) -> nest -> outer(1) -> nest -> outer(0) -> nest -> inner(-1)
    let (result, pending) = drive(instance.call_async::<_, _, i32>(&mut store, "outer", 2));
    assert_eq!(result?, -1 + 3000);
    assert_eq!(pending, 3 * 2 + 2);
    assert_eq!(store.data().alive.load(Ordering::SeqCst), 0);
    Ok(())
}

#[test]
fn nested_calls_are_dropped_at_every_suspension_point() -> Result<()> {
    let engine = Engine::default();
    let (mut store, instance) = nested(&engine)?;
    for polls in 0..8 {
        {
            let mut call = pin!(instance.call_async::<_, _, i32>(&mut store, "outer", 2));
            for _ in 0..polls {
                assert!(poll_once(call.as_mut()).is_pending());
            }
        }
        assert_eq!(
            store.data().alive.load(Ordering::SeqCst),
            0,
            "after {polls} polls"
        );
    }
    assert_eq!(
        drive(instance.call_async::<_, _, i32>(&mut store, "outer", 0)).0?,
        -1 + 1000
    );
    Ok(())
}

#[test]
fn backtrace_of_nested_calls_shows_each_activation_once() -> Result<()> {
    let engine = Engine::default();
    let (mut store, instance) = nested(&engine)?;
    let error = drive(instance.call_async::<_, _, i32>(&mut store, "outer", -1))
        .0
        .expect_err("it traps");
    let frames = error.backtrace().expect("a backtrace").frames();
    let indices: Vec<_> = frames.iter().map(|frame| frame.func_index()).collect();
    assert_eq!(indices, [4, 2], "trap, then outer: {error:?}");
    Ok(())
}

#[test]
fn a_forgotten_nested_call_is_cut_off_when_its_host_function_goes_on() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, NESTED)?;
    let mut linker = linker(&engine)?;
    linker.func_wrap_async(
        "host",
        "nest",
        async |mut caller: Caller<'_, State>, n: i32| -> Result<i32> {
            let inner = caller
                .get_export("inner")
                .and_then(selvedge::Extern::into_func)
                .expect("exported");
            let inner = inner.typed::<i32, i32>(&caller)?;
            {
                let mut call = Box::pin(inner.call_async(&mut caller, n));
                assert!(poll_once(call.as_mut()).is_pending());
                std::mem::forget(call);
            }
            wait(1).await;
            inner.call_async(&mut caller, n).await
        },
    )?;
    let mut store = Store::new(&engine, State::default());
    let instance = linker.instantiate(&mut store, &module)?;
    for n in 0..50 {
        assert_eq!(
            drive(instance.call_async::<_, _, i32>(&mut store, "outer", n)).0?,
            2 * n + 1001
        );
    }
    Ok(())
}

#[test]
fn panics_and_errors_cross_three_nested_activations() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "down" (func $down (param i32 i32)))
            (func (export "run") (param i32 i32) local.get 0 local.get 1 call $down))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap(
        "host",
        "down",
        |mut caller: Caller<'_, ()>, depth: i32, how: i32| -> Result<()> {
            if depth == 0 {
                return if how == 0 {
                    Err(HostError(3).into())
                } else {
                    std::panic::panic_any(HostError(4))
                };
            }
            let run = caller
                .get_export("run")
                .and_then(selvedge::Extern::into_func)
                .expect("exported");
            run.typed::<(i32, i32), ()>(&caller)?
                .call(&mut caller, (depth - 1, how))
        },
    )?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let error = instance
        .call::<_, ()>(&mut store, "run", (2, 0))
        .expect_err("the host fails");
    assert_eq!(error.downcast_ref::<HostError>().expect("its type is kept").0, 3);
    assert_eq!(error.backtrace().expect("a backtrace").frames().len(), 3);
    let payload = catch_unwind(AssertUnwindSafe(|| {
        instance.call::<_, ()>(&mut store, "run", (2, 1))
    }));
    let payload = payload.expect_err("the host panics");
    assert_eq!(
        payload
            .downcast_ref::<HostError>()
            .expect("its payload is kept")
            .0,
        4
    );
    let error = instance
        .call::<_, ()>(&mut store, "run", (0, 0))
        .expect_err("the store is usable");
    assert!(error.is::<HostError>());
    Ok(())
}

#[test]
fn a_panic_in_a_later_poll_ends_the_call_and_no_more() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "f" (func $f (param i32)))
            (func (export "run") (param i32) local.get 0 call $f))"#,
    )?;
    let mut linker = Linker::<State>::new(&engine);
    linker.func_wrap_async(
        "host",
        "f",
        async |caller: Caller<'_, State>, how: i32| -> Result<()> {
            let _alive = Alive::new(&caller.data().alive);
            wait(2).await;
            match how {
                0 => Ok(()),
                1 => Err(HostError(1).into()),
                _ => panic!("later"),
            }
        },
    )?;
    let mut store = Store::new(&engine, State::default());
    let instance = linker.instantiate(&mut store, &module)?;
    for _ in 0..3 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            drive(instance.call_async::<_, _, ()>(&mut store, "run", 2))
        }));
        assert_eq!(
            result.expect_err("it panics").downcast_ref::<&str>(),
            Some(&"later")
        );
        assert_eq!(store.data().alive.load(Ordering::SeqCst), 0);
        let error = drive(instance.call_async::<_, _, ()>(&mut store, "run", 1))
            .0
            .expect_err("it fails");
        assert!(error.is::<HostError>() && error.backtrace().is_some());
        let (done, pending) = drive(instance.call_async::<_, _, ()>(&mut store, "run", 0));
        done?;
        assert_eq!(pending, 2);
    }
    Ok(())
}

#[test]
fn a_future_may_hold_the_data_and_the_memory_across_an_await() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "fill" (func $fill)) (memory (export "memory") 1)
            (func (export "run") (result i32) call $fill i32.const 100 i32.load8_u))"#,
    )?;
    let mut linker = Linker::<Vec<u8>>::new(&engine);
    linker.func_wrap_async(
        "host",
        "fill",
        async |mut caller: Caller<'_, Vec<u8>>, (): ()| -> Result<()> {
            let memory = caller
                .get_export("memory")
                .and_then(selvedge::Extern::into_memory)
                .expect("exported");
            let (bytes, data) = memory.data_and_store_mut(&mut caller);
            let place = &mut bytes[100..101];
            wait(1).await;
            data.push(9);
            wait(1).await;
            place.copy_from_slice(&data[..1]);
            Ok(())
        },
    )?;
    let mut store = Store::new(&engine, Vec::new());
    let instance = linker.instantiate(&mut store, &module)?;
    assert_eq!(
        drive(instance.call_async::<_, _, i32>(&mut store, "run", ())).0?,
        9
    );
    Ok(())
}

#[test]
fn local_data_may_be_shared_with_futures_that_are_not_send() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "f" (func $f (param i32) (result i32)))
            (func (export "run") (param i32) (result i32) local.get 0 call $f))"#,
    )?;
    type Log = Local<Rc<RefCell<Vec<i32>>>>;
    let mut linker = Linker::<Log>::new(&engine);
    let scale = String::from("10");
    linker.func_wrap_async_local(
        "host",
        "f",
        async move |caller: Caller<'_, Log>, n: i32| -> Result<i32> {
            let log: Rc<RefCell<Vec<i32>>> = Rc::clone(caller.data());
            wait(1).await;
            log.borrow_mut().push(n);
            Ok(n * scale.parse::<i32>()?)
        },
    )?;
    let log = Rc::new(RefCell::new(Vec::new()));
    let mut store = Store::new(&engine, Local::new(log.clone()));
    let instance = linker.instantiate(&mut store, &module)?;
    assert_eq!(
        drive(instance.call_async::<_, _, i32>(&mut store, "run", 4)).0?,
        40
    );
    assert_eq!(*log.borrow(), [4]);
    Ok(())
}

#[test]
fn untyped_calls_wait_as_typed_ones_do() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "swap" (func $swap (param i32 f64) (result f64 i32)))
            (func (export "run") (param i32 f64) (result f64 i32) local.get 0 local.get 1 call $swap))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    let ty = selvedge::FuncType::new(
        [selvedge::ValType::I32, selvedge::ValType::F64],
        [selvedge::ValType::F64, selvedge::ValType::I32],
    );
    linker.func_new_async(
        "host",
        "swap",
        ty,
        async |_caller: Caller<'_, ()>, params: &[Val], results: &mut [Val]| {
            wait(2).await;
            results[0] = params[1];
            results[1] = params[0];
            Ok(())
        },
    )?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let run = instance.get_func(&mut store, "run").expect("exported");
    let mut results = [Val::I32(0); 2];
    let (done, pending) = drive(run.call_async(&mut store, &[Val::I32(1), Val::from(2.5)], &mut results));
    done?;
    assert_eq!(pending, 2);
    assert_eq!((results[0].f64(), results[1].i32()), (Some(2.5), Some(1)));
    let error = drive(run.call_async(&mut store, &[Val::I32(1)], &mut results))
        .0
        .expect_err("one argument");
    assert!(error.to_string().contains("takes 2 arguments, but 1"), "{error}");
    Ok(())
}

#[test]
fn a_parked_call_has_a_backtrace_and_says_what_fuel_is_left() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module $m (import "host" "wait" (func $wait))
            (func $inner (call $wait)) (func $outer (export "f") (call $inner)))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "wait", async |_caller, (): ()| {
        selvedge_tests::wait(1).await
    })?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(100)?;
    let instance = linker.instantiate(&mut store, &module)?;
    let mut call = Box::pin(instance.call_async::<_, (), ()>(&mut store, "f", ()));
    assert!(call.backtrace().frames().is_empty(), "nothing has run");
    assert!(selvedge_tests::poll_once(call.as_mut()).is_pending());
    let frames = call.backtrace();
    let names: Vec<_> = frames.frames().iter().map(|frame| frame.func_name()).collect();
    assert_eq!(names, [Some("inner"), Some("outer")]);
    // Two functions entered, two calls.
    assert_eq!(call.fuel(), 96);
    assert!(selvedge_tests::poll_once(call.as_mut()).is_ready());
    assert!(call.backtrace().frames().is_empty(), "it is over");
    Ok(())
}
