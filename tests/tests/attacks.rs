//! Hostile use: what a guest or a careless embedder may try, and what must come of it.

use selvedge::{
    CallFuture, Caller, Config, Engine, FuelPolicy, Func, FuncType, Growth, GuestCall, Instance,
    InterruptHandle, Linker, Memory, MemoryType, Module, Result, Store, Trap, Val, ValType,
};
use selvedge_tests::{drive, in_child, poll_once, wait};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

fn metered() -> Engine {
    Engine::new(Config::new().fuel(true)).unwrap()
}

/// The trap inside a result.
fn trap_of<R>(result: Result<R>) -> Option<Trap> {
    result.err()?.downcast_ref::<Trap>().copied()
}

/// Recursion without end.
const DEEP: &str = r#"(module
    (func $deep (export "deep") (param i32) (result i32)
      local.get 0 i32.const 1 i32.add call $deep))"#;

/// A future that an intrusive list would point into: whatever happens, its bytes stay its own until it is dropped.
struct Pinned {
    word: [AtomicU32; 4],
    seen: Arc<std::sync::Mutex<Option<&'static AtomicU32>>>,
}

impl Future for Pinned {
    type Output = i32;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<i32> {
        let word = &raw const self.word[0];
        // SAFETY: pinned: the bytes are valid until the destructor runs, and the test forgets the future.
        *self.seen.lock().unwrap() = Some(unsafe { &*word });
        Poll::Pending
    }
}

/// While no guest is entered the host asks a limiter, which forgets guest calls that wait: what it forgets lies above its own future.
#[test]
fn a_limiter_that_forgets_parked_calls_leaves_a_usable_store() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "wait" (func $wait (param i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "wait") (param i32) (result i32) (call $wait (local.get 0))))"#,
    )?;
    let mut linker = Linker::<Option<Instance>>::new(&engine);
    linker.func_wrap_async(
        "host",
        "wait",
        async |_: Caller<'_, Option<Instance>>, number: i32| {
            let kept = [number; 20]; // the future's own bytes, across the wait
            wait(1).await;
            kept.iter().sum::<i32>()
        },
    )?;
    let mut store = Store::new(&engine, None);
    let instance = linker.instantiate(&mut store, &module)?;
    *store.data_mut() = Some(instance);
    store.limiter_async(async |mut caller, _: Growth| {
        let instance = caller.data().expect("set above");
        for number in 0..3 {
            let call = instance.call_async::<_, i32, i32>(&mut caller, "wait", number);
            let mut call = Box::pin(call);
            assert!(poll_once(call.as_mut()).is_pending());
            std::mem::forget(call);
        }
        let call = instance.call_async::<_, i32, i32>(&mut caller, "wait", 5);
        let mut call = Box::pin(call);
        assert!(poll_once(call.as_mut()).is_pending());
        let Poll::Ready(answer) = poll_once(call.as_mut()) else {
            panic!("it waits once")
        };
        Ok(answer? == 100)
    });
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    for round in 1..20 {
        assert_eq!(memory.grow(&mut store, 1)?, round);
        let outer = instance.call_async::<_, i32, i32>(&mut store, "wait", round as i32);
        assert_eq!(drive(outer).0?, 20 * round as i32);
    }
    Ok(())
}

#[test]
fn bytes_of_a_forgotten_future_are_never_reused() {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "forget" (func $forget))
            (import "host" "inner" (func $inner (result i32)))
            (import "host" "fill" (func $fill))
            (func (export "inner") (result i32) call $inner)
            (func (export "run") call $forget call $fill))"#,
    )
    .unwrap();
    let seen = Arc::new(std::sync::Mutex::new(None));
    let mut linker = Linker::<()>::new(&engine);
    let place = seen.clone();
    linker
        .func_wrap_async("host", "inner", async move |_: Caller<'_, ()>, ()| -> i32 {
            let word = [const { AtomicU32::new(0x5e17) }; 4];
            Pinned {
                word,
                seen: place.clone(),
            }
            .await
        })
        .unwrap();
    let forget = async |mut caller: Caller<'_, ()>, ()| -> Result<()> {
        let inner = caller.get_export("inner").unwrap().into_func().unwrap();
        let inner = inner.typed::<(), i32>(&caller)?;
        let mut call = inner.call_async(&mut caller, ());
        assert!(poll_once(Pin::new(&mut call)).is_pending());
        std::mem::forget(call);
        Ok(())
    };
    linker.func_wrap_async("host", "forget", forget).unwrap();
    let fill = async |_: Caller<'_, ()>, ()| {
        let junk = [u64::MAX; 40];
        wait(1).await;
        std::hint::black_box(&junk);
    };
    linker.func_wrap_async("host", "fill", fill).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let run = instance.call_async::<_, (), ()>(&mut store, "run", ());
    drive(run).0.unwrap();
    let word = seen.lock().unwrap().expect("the inner future was polled");
    assert_eq!(word.load(Ordering::SeqCst), 0x5e17);
}

extern "C" fn poll_to_an_overflow(call: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: the thread that made us waits, and keeps the call where it is.
    let call = unsafe { &mut *call.cast::<CallFuture<'_, (), i32>>() };
    match poll_once(Pin::new(call)) {
        Poll::Ready(result) => assert_eq!(trap_of(result), Some(Trap::StackOverflow)),
        Poll::Pending => unreachable!("the guest waits for nothing"),
    }
    std::ptr::null_mut()
}

#[test]
fn a_call_polled_on_a_thread_without_an_alternate_stack_may_overflow() {
    let test = "a_call_polled_on_a_thread_without_an_alternate_stack_may_overflow";
    let output = in_child(test, || {
        let engine = Engine::default();
        let module = Module::new(&engine, DEEP).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let mut call = instance.call_async::<_, i32, i32>(&mut store, "deep", 0);
        let (mut thread, call) = (0, (&raw mut call).cast());
        // SAFETY: both pointers are valid until the thread is joined, which nothing below precedes.
        let made = unsafe { libc::pthread_create(&mut thread, std::ptr::null(), poll_to_an_overflow, call) };
        assert_eq!(made, 0);
        // SAFETY: the thread was made and is joined once.
        assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
    });
    assert!(output.status.success(), "the child ended with {}", output.status);
}

#[test]
fn an_overflow_on_the_way_in_leaves_the_fuel_as_it_was() {
    const PARAMS: usize = 900;
    #[derive(Default)]
    struct Seen {
        refused: u32,
    }
    let engine = metered();
    let params = "i64 ".repeat(PARAMS);
    let text = format!(
        r#"(module
            (import "host" "enter" (func $enter))
            (func (export "many") (param {params}))
            (func $deeper (export "deeper")
              call $enter
              call $deeper))"#
    );
    let module = Module::new(&engine, text).unwrap();
    let mut linker = Linker::<Seen>::new(&engine);
    let enter = |mut caller: Caller<'_, Seen>| -> Result<()> {
        let many = caller.get_export("many").unwrap().into_func().unwrap();
        let before = caller.get_fuel()?;
        let result = many.call(&mut caller, &[Val::I64(1); PARAMS], &mut []);
        let after = caller.get_fuel()?;
        assert!(after <= before && before - after < 10, "{before} became {after}");
        if result.is_err() {
            assert_eq!(trap_of(result), Some(Trap::StackOverflow));
            caller.data_mut().refused += 1;
        }
        Ok(())
    };
    linker.func_wrap("host", "enter", enter).unwrap();
    let mut store = Store::new(&engine, Seen::default());
    store.set_fuel(1_000_000).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let result: Result<()> = instance.call(&mut store, "deeper", ());
    assert_eq!(trap_of(result), Some(Trap::StackOverflow));
    assert!(store.data().refused > 100, "{} overflows", store.data().refused);
    assert!(store.get_fuel().unwrap() < 1_000_000);
}

#[test]
fn a_host_function_of_too_many_values_is_refused() {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    for (params, results) in [(1001, 0), (0, 20_000)] {
        let ty = FuncType::new(vec![ValType::I64; params], vec![ValType::I64; results]);
        let error = Func::new(&mut store, ty, |_, _, _| Ok(())).unwrap_err();
        let (count, text) = (params.max(results), error.to_string());
        assert_eq!(
            text,
            format!("a function of {count} parameters or results exceeds the limit of 1000")
        );
    }
    let ty = FuncType::new(vec![ValType::I64; 1000], vec![ValType::I64; 1000]);
    let copy = Func::new(&mut store, ty, |_, params, results| {
        results.copy_from_slice(params);
        Ok(())
    });
    let params: Vec<Val> = (0..1000).map(Val::I64).collect();
    let mut results = vec![Val::I64(0); 1000];
    copy.unwrap().call(&mut store, &params, &mut results).unwrap();
    assert!(
        (0..1000)
            .zip(&results)
            .all(|(at, result)| result.i64() == Some(at))
    );
}

#[test]
fn an_instance_of_another_store_cannot_be_linked() {
    let engine = Engine::default();
    let module = Module::new(&engine, DEEP).unwrap();
    let mut one = Store::new(&engine, ());
    let mut two = Store::new(&engine, ());
    let instance = Instance::new(&mut one, &module, &[]).unwrap();
    let mut linker = Linker::<()>::new(&engine);
    let error = linker.instance(&mut two, "deep", instance).unwrap_err();
    assert!(
        error.to_string().contains("an instance belongs to store"),
        "{error}"
    );
}

/// A waker that panics.
struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        panic!("woken");
    }
}

#[test]
fn a_panic_of_the_waker_ends_the_call_and_nothing_else() {
    let engine = metered();
    let module = Module::new(
        &engine,
        r#"(module
            (func (export "spin") (loop br 0))
            (func (export "three") (result i32) i32.const 3))"#,
    )
    .unwrap();
    let mut store = Store::new(&engine, ());
    store.set_fuel(1_000_000).unwrap();
    let every = 1000.try_into().unwrap();
    store.set_fuel_policy(FuelPolicy::Yield { every }).unwrap();
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let mut call = instance.call_async::<_, (), ()>(&mut store, "spin", ());
    let waker = Waker::from(Arc::new(Bomb));
    let polled = catch_unwind(AssertUnwindSafe(|| {
        Pin::new(&mut call).poll(&mut Context::from_waker(&waker))
    }));
    assert!(polled.is_err());
    drop(call);
    let three = instance.call_async::<_, (), i32>(&mut store, "three", ());
    assert_eq!(drive(three).0.unwrap(), 3);
}

/// Enters the guest when it is dropped.
struct EnterOnDrop<'a>(Caller<'a, Vec<i32>>);

impl Drop for EnterOnDrop<'_> {
    fn drop(&mut self) {
        let three = self.0.get_export("three").unwrap().into_func().unwrap();
        let three = three.typed::<(), i32>(&self.0).unwrap();
        let value = three.call(&mut self.0, ()).unwrap();
        self.0.data_mut().push(value);
    }
}

#[test]
fn a_destructor_may_enter_the_guest_on_any_thread() {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "wait" (func $wait))
            (func (export "three") (result i32) i32.const 3)
            (func (export "run") call $wait))"#,
    )
    .unwrap();
    let mut linker = Linker::<Vec<i32>>::new(&engine);
    let wait = async |caller: Caller<'_, Vec<i32>>, ()| {
        let _enter = EnterOnDrop(caller);
        wait(2).await;
    };
    linker.func_wrap_async("host", "wait", wait).unwrap();
    let mut store = Store::new(&engine, Vec::new());
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let mut call = instance.call_async::<_, (), ()>(&mut store, "run", ());
    assert!(poll_once(Pin::new(&mut call)).is_pending());
    std::thread::scope(|scope| {
        scope.spawn(move || drop(call));
    });
    let call = instance.call_async::<_, (), ()>(&mut store, "run", ());
    drive(call).0.unwrap();
    assert_eq!(store.data(), &[3, 3]);
}

#[test]
fn a_bulk_operation_that_cannot_be_paid_takes_what_is_left() {
    let engine = metered();
    let module = Module::new(
        &engine,
        r#"(module
            (memory 1)
            (func (export "fill") (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))))"#,
    )
    .unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    store.set_fuel(500).unwrap();
    let result: Result<()> = instance.call(&mut store, "fill", ());
    assert_eq!(trap_of(result), Some(Trap::OutOfFuel));
    assert_eq!(store.get_fuel().unwrap(), 0, "as `Trap::OutOfFuel` says");
}

/// `again` makes a store and calls into it, which calls `again`: no store nests.
fn in_a_new_store(engine: &Engine, module: &Module, depth: i32) -> Result<i32> {
    let mut linker = Linker::<(Engine, Module)>::new(engine);
    linker.func_wrap(
        "host",
        "again",
        |caller: Caller<'_, (Engine, Module)>, depth: i32| {
            let (engine, module) = caller.data();
            in_a_new_store(engine, module, depth + 1)
        },
    )?;
    let mut store = Store::new(engine, (engine.clone(), module.clone()));
    let instance = linker.instantiate(&mut store, module)?;
    instance.call(&mut store, "run", depth)
}

#[test]
fn recursion_across_stores_is_a_trap() {
    let run = || {
        let engine = Engine::new(Config::new().stack_bytes(64 << 10)).unwrap();
        let module = Module::new(
            &engine,
            r#"(module (import "host" "again" (func $again (param i32) (result i32)))
                (func (export "run") (param i32) (result i32) local.get 0 call $again))"#,
        )
        .unwrap();
        for _ in 0..2 {
            assert_eq!(
                trap_of(in_a_new_store(&engine, &module, 0)),
                Some(Trap::StackOverflow)
            );
        }
    };
    let child = in_child("recursion_across_stores_is_a_trap", || {
        let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run);
        thread.unwrap().join().unwrap();
    });
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn a_caller_lent_to_another_thread_can_call() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "f" (func $f (result i32)))
            (func (export "run") (result i32) call $f) (func (export "seven") (result i32) i32.const 7))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap("host", "f", |mut caller: Caller<'_, ()>| -> Result<i32> {
        let seven = caller
            .get_export("seven")
            .and_then(selvedge::Extern::into_func)
            .unwrap();
        let seven = seven.typed::<(), i32>(&caller)?;
        std::thread::scope(|scope| scope.spawn(|| seven.call(&mut caller, ())).join().unwrap())
    })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    assert_eq!(instance.call::<(), i32>(&mut store, "run", ())?, 7);
    Ok(())
}

/// Calls the guest when it is dropped.
struct CallsWhenDropped<'a>(Caller<'a, Arc<AtomicU32>>);

impl Drop for CallsWhenDropped<'_> {
    fn drop(&mut self) {
        let trap = self.0.get_export("trap").and_then(|export| export.into_func());
        let called = trap.unwrap().call(&mut self.0, &[], &mut []);
        assert_eq!(trap_of(called), Some(Trap::Interrupt));
        self.0.data().fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn an_interrupted_call_drops_the_calls_nested_in_it_before_its_own_frames_go() {
    let test = "an_interrupted_call_drops_the_calls_nested_in_it_before_its_own_frames_go";
    let output = in_child(test, || {
        let engine = Engine::default();
        let module = Module::new(
            &engine,
            r#"(module
                (import "host" "outer" (func $outer))
                (import "host" "inner" (func $inner))
                (func (export "inner") call $inner)
                (func (export "trap") unreachable)
                (func (export "run") call $outer))"#,
        )
        .unwrap();
        let mut linker = Linker::<Arc<AtomicU32>>::new(&engine);
        linker
            .func_wrap_async("host", "inner", async |caller: Caller<'_, Arc<AtomicU32>>, ()| {
                let _calls = CallsWhenDropped(caller);
                std::future::pending::<()>().await;
            })
            .unwrap();
        linker
            .func_wrap_async(
                "host",
                "outer",
                async |caller: Caller<'_, Arc<AtomicU32>>, ()| -> Result<()> {
                    let mut calls = CallsWhenDropped(caller);
                    let inner = calls.0.get_export("inner").and_then(|export| export.into_func());
                    let inner = inner.unwrap().typed::<(), ()>(&calls.0)?;
                    inner.call_async(&mut calls.0, ()).await
                },
            )
            .unwrap();
        let dropped = Arc::new(AtomicU32::new(0));
        let mut store = Store::new(&engine, dropped.clone());
        let handle = store.interrupt_handle().unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let mut run = instance.call_async::<_, (), ()>(&mut store, "run", ());
        assert!(poll_once(Pin::new(&mut run)).is_pending());
        handle.interrupt();
        match poll_once(Pin::new(&mut run)) {
            Poll::Ready(result) => assert_eq!(trap_of(result), Some(Trap::Interrupt)),
            Poll::Pending => panic!("the call was to end"),
        }
        drop(run);
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
        let again = instance.call::<(), ()>(&mut store, "trap", ());
        assert_eq!(trap_of(again), Some(Trap::Unreachable));
    });
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A guest that waits once, and then runs for ever.
fn waits_then_spins() -> (Store<()>, Instance) {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "wait" (func $wait))
            (func (export "nothing"))
            (func (export "wait") call $wait)
            (func (export "wait_then_spin") call $wait (loop $l (br $l))))"#,
    )
    .unwrap();
    let mut linker = Linker::new(&engine);
    linker
        .func_wrap_async("host", "wait", async |_: Caller<'_, ()>, ()| wait(1).await)
        .unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module).unwrap();
    (store, instance)
}

/// Ends the process when a test hangs.
fn within_seconds(seconds: u32) {
    // SAFETY: takes a number: alarm(2).
    unsafe { libc::alarm(seconds) };
}

#[test]
fn the_deadline_of_a_forgotten_call_ends_no_other() {
    let (mut store, instance) = waits_then_spins();
    let call = instance.call_async::<_, (), ()>(&mut store, "wait", ());
    let mut call = call.with_timeout(Duration::from_millis(60));
    assert!(poll_once(Pin::new(&mut call)).is_pending());
    std::mem::forget(call);
    let mut other = instance.call_async::<_, (), ()>(&mut store, "wait", ());
    assert!(poll_once(Pin::new(&mut other)).is_pending());
    std::thread::sleep(Duration::from_millis(150));
    match poll_once(Pin::new(&mut other)) {
        Poll::Ready(result) => result.unwrap(),
        Poll::Pending => panic!("it waits but once"),
    }
}

/// A waker that does one thing when it is woken, another when it is dropped.
struct Trouble {
    panics: bool,
    interrupts: std::sync::Mutex<Option<InterruptHandle>>,
}

impl Wake for Trouble {
    fn wake(self: Arc<Self>) {
        assert!(!self.panics, "the waker panics");
    }
    fn wake_by_ref(self: &Arc<Self>) {}
}

impl Drop for Trouble {
    fn drop(&mut self) {
        if let Some(handle) = self.interrupts.lock().unwrap().take() {
            handle.interrupt();
        }
    }
}

#[test]
fn a_waker_that_panics_does_not_keep_a_guest_from_being_stopped() {
    let test = "a_waker_that_panics_does_not_keep_a_guest_from_being_stopped";
    let output = in_child(test, || {
        within_seconds(60);
        let (mut store, instance) = waits_then_spins();
        let handle = store.interrupt_handle().unwrap();
        let mut call = instance.call_async::<_, (), ()>(&mut store, "wait_then_spin", ());
        let trouble = Trouble {
            panics: true,
            interrupts: Default::default(),
        };
        let waker = Waker::from(Arc::new(trouble));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut call).poll(&mut context).is_pending());
        // While the call is parked: once it runs again, it may answer before anybody is woken.
        let other = std::thread::spawn(move || handle.interrupt());
        assert!(other.join().is_err(), "it was woken as well");
        match Pin::new(&mut call).poll(&mut context) {
            Poll::Ready(result) => assert_eq!(trap_of(result), Some(Trap::Interrupt)),
            Poll::Pending => panic!("the guest waits but once"),
        }
    });
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_waker_may_interrupt_its_store_when_it_is_dropped() {
    let test = "a_waker_may_interrupt_its_store_when_it_is_dropped";
    let output = in_child(test, || {
        within_seconds(60);
        let (mut store, instance) = waits_then_spins();
        let handle = store.interrupt_handle().unwrap();
        let mut call = instance.call_async::<_, (), ()>(&mut store, "wait", ());
        let poll = |call: &mut CallFuture<'_, _, ()>, handle: Option<InterruptHandle>| {
            let trouble = Trouble {
                panics: false,
                interrupts: std::sync::Mutex::new(handle),
            };
            Pin::new(call).poll(&mut Context::from_waker(&Waker::from(Arc::new(trouble))))
        };
        assert!(poll(&mut call, Some(handle.clone())).is_pending());
        drop(call);
        // What the waker asked for came when nothing was left to stop: the next call ends.
        let mut call = instance.call_async::<_, (), ()>(&mut store, "wait", ());
        match poll(&mut call, None) {
            Poll::Ready(result) => assert_eq!(trap_of(result), Some(Trap::Interrupt)),
            Poll::Pending => panic!("the call was to end"),
        }
        drop(call);
        instance.call::<(), ()>(&mut store, "nothing", ()).unwrap();
    });
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A guest that calls its host, and a function that does nothing.
const HOSTED: &str = r#"(module
    (import "host" "nop" (func $nop (param i32) (result i32)))
    (func $inner (param i32) (result i32) (i32.add (call $nop (local.get 0)) (i32.const 1)))
    (func (export "run") (param i32) (result i32) (call $inner (local.get 0)))
    (func (export "idle")))"#;

fn hosted(
    linker: &mut Linker<Option<Instance>>,
    engine: &Engine,
) -> Result<(Store<Option<Instance>>, Instance)> {
    let module = Module::new(engine, HOSTED)?;
    let mut store = Store::new(engine, None);
    let instance = linker.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

/// On a stack that the store keeps the frames of the last call still lie where the next one's will.
#[test]
fn a_call_that_has_not_run_shows_no_frames_of_the_one_before() -> Result<()> {
    for keep in [false, true] {
        let engine = Engine::new(Config::new().keep_stacks(keep))?;
        let mut linker = Linker::new(&engine);
        linker.func_wrap("host", "nop", |number: i32| number)?;
        let (mut store, instance) = hosted(&mut linker, &engine)?;
        assert_eq!(instance.call::<i32, i32>(&mut store, "run", 5)?, 6);
        let call = instance.call_async::<_, (), ()>(&mut store, "idle", ());
        assert!(call.backtrace().frames().is_empty(), "nothing has run");
    }
    Ok(())
}

/// The forgotten call never ran, so there is no place below it where the limiter could enter the guest.
#[test]
fn a_limiter_that_calls_the_guest_after_a_call_was_forgotten() -> Result<()> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func_wrap(
        "host",
        "nop",
        |mut caller: Caller<'_, Option<Instance>>, number: i32| -> Result<i32> {
            if let Some(instance) = caller.data_mut().take() {
                std::mem::forget(instance.call_async::<_, (), ()>(&mut caller, "idle", ()));
                Memory::new(&mut caller, MemoryType::new(1, None))?;
            }
            Ok(number)
        },
    )?;
    let (mut store, instance) = hosted(&mut linker, &engine)?;
    store.limiter_async(async move |mut caller, _: Growth| {
        let number = instance.call_async::<_, i32, i32>(&mut caller, "run", 3).await?;
        Ok(number == 4 && instance.call::<i32, i32>(&mut caller, "run", 4)? == 5)
    });
    std::mem::forget(instance.call_async::<_, (), ()>(&mut store, "idle", ()));
    Memory::new(&mut store, MemoryType::new(1, None))?;
    *store.data_mut() = Some(instance);
    assert_eq!(instance.call::<i32, i32>(&mut store, "run", 7)?, 8);
    assert_eq!(store.data(), &None);
    Ok(())
}
