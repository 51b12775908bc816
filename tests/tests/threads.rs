//! Shared memories: guests on several threads, atomics, waiting and notifying.

use selvedge::{
    Config, Engine, Error, GuestCall, Instance, Linker, MemoryStyle, MemoryType, Module, Result,
    SharedMemory, Store, Trap, WaitResult,
};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

const GUEST: &str = r#"(module (import "env" "memory" (memory 1 4 shared))
    (func (export "add") (param i32 i32)
        (loop $again
            (drop (i32.atomic.rmw.add (local.get 0) (i32.const 1)))
            (br_if $again (local.tee 1 (i32.sub (local.get 1) (i32.const 1))))))
    (func (export "wait") (param i32 i32 i64) (result i32)
        (memory.atomic.wait32 (local.get 0) (local.get 1) (local.get 2)))
    (func (export "wait64") (param i32 i64 i64) (result i32)
        (memory.atomic.wait64 (local.get 0) (local.get 1) (local.get 2)))
    (func (export "notify") (param i32 i32) (result i32) (memory.atomic.notify (local.get 0) (local.get 1)))
    (func (export "grow") (result i32) (memory.grow (i32.const 1)))
    (func (export "watch") (param i32) (result i32)
        (i32.atomic.store (i32.const 16) (i32.const 1))
        (loop $again
            (if (i32.atomic.load (i32.const 20)) (then (return (i32.load (local.get 0)))))
            (br $again))
        (unreachable))
    (func (export "load") (param i32) (result i32) (i32.atomic.load (local.get 0)))
    (func (export "move") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
    (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
    (data "hello")
    (func (export "init") (memory.init 0 (i32.const 100) (i32.const 0) (i32.const 5))))"#;

fn engines() -> Vec<Engine> {
    let ways = [
        (MemoryStyle::Reserved, false),
        (MemoryStyle::Reserved, true),
        (MemoryStyle::Bounded, false),
        (MemoryStyle::Bounded, true),
    ];
    let engine = |(style, fuel)| {
        let mut config = Config::new();
        config.memory_style(style).fuel(fuel);
        config.max_blocking_wait(Some(Duration::from_millis(100)));
        Engine::new(&config).expect("the settings are supported")
    };
    ways.into_iter().map(engine).collect()
}

/// What guests on any thread are made from.
#[derive(Clone)]
struct Shared {
    engine: Engine,
    module: Module,
    memory: SharedMemory,
}

impl Shared {
    fn new(engine: Engine) -> Result<Shared> {
        Ok(Shared {
            module: Module::new(&engine, GUEST)?,
            memory: SharedMemory::new(&engine, MemoryType::shared(1, 4))?,
            engine,
        })
    }

    fn guest(&self) -> Result<(Store<()>, Instance)> {
        let mut linker = Linker::new(&self.engine);
        linker.define("env", "memory", self.memory.clone())?;
        let mut store = Store::new(&self.engine, ());
        let _ = store.set_fuel(1_000_000_000);
        let instance = linker.instantiate(&mut store, &self.module)?;
        Ok((store, instance))
    }
}

fn trap_of<T: std::fmt::Debug>(result: Result<T>) -> Option<Trap> {
    result.expect_err("it traps").downcast_ref::<Trap>().copied()
}

/// Wakes a thread.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

#[test]
fn guests_on_several_threads_count_together() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        thread::scope(|scope| {
            let count = || -> Result<()> {
                let (mut store, instance) = shared.guest()?;
                instance.call(&mut store, "add", (8, 100_000))
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(count)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        let bytes = &shared.memory.data()[8..12];
        let bytes = [0, 1, 2, 3].map(|at| bytes[at].load(Ordering::Relaxed));
        assert_eq!(u32::from_le_bytes(bytes), 300_000);
    }
    Ok(())
}

/// A guest in a loop may use a page that another has made, once it has seen that.
#[test]
fn a_loop_sees_what_others_grow() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        thread::scope(|scope| {
            let watching = scope.spawn(|| -> Result<i32> {
                let (mut store, instance) = shared.guest()?;
                let _ = store.set_fuel(1 << 60);
                instance.call(&mut store, "watch", 65_536)
            });
            while shared.memory.data()[16].load(Ordering::SeqCst) == 0 {
                assert!(!watching.is_finished(), "it waits for the other");
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(5)); // it is in the loop by now; later it would see no fault that is there
            let (mut store, instance) = shared.guest()?;
            assert_eq!(instance.call::<(), i32>(&mut store, "grow", ())?, 1);
            shared.memory.data()[20].store(1, Ordering::SeqCst);
            assert_eq!(watching.join().expect("no panic")?, 0);
            Ok::<_, Error>(())
        })?;
    }
    Ok(())
}

#[test]
fn a_blocked_guest_is_woken_by_another() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        thread::scope(|scope| {
            let waiting = scope.spawn(|| -> Result<i32> {
                let (mut store, instance) = shared.guest()?;
                instance.call(&mut store, "wait", (16, 0, 10_000_000_000_i64))
            });
            let (mut store, instance) = shared.guest()?;
            while instance.call::<_, i32>(&mut store, "notify", (16, 1))? == 0 {
                if waiting.is_finished() {
                    break; // the limit of blocking, on a slow machine
                }
                thread::yield_now();
            }
            match waiting.join().expect("no panic") {
                Ok(how) => assert_eq!(how, 0),
                Err(error) => assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Interrupt)),
            }
            Ok::<_, Error>(())
        })?;
    }
    Ok(())
}

#[test]
fn waits_end_by_mismatch_by_time_and_at_the_limit() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        let (mut store, instance) = shared.guest()?;
        assert_eq!(instance.call::<_, i32>(&mut store, "wait", (0, 1, -1_i64))?, 1);
        assert_eq!(
            instance.call::<_, i32>(&mut store, "wait64", (0, 1_i64, -1_i64))?,
            1
        );
        assert_eq!(instance.call::<_, i32>(&mut store, "wait", (0, 0, 0_i64))?, 2);
        let start = Instant::now();
        assert_eq!(
            instance.call::<_, i32>(&mut store, "wait", (0, 0, 5_000_000_i64))?,
            2
        );
        assert!(start.elapsed() >= Duration::from_millis(5));
        let endless = instance.call::<_, i32>(&mut store, "wait64", (0, 0_i64, -1_i64));
        assert_eq!(trap_of(endless), Some(Trap::Interrupt));
        assert!(start.elapsed() >= Duration::from_millis(105));
    }
    Ok(())
}

#[test]
fn a_blocked_guest_is_interrupted() -> Result<()> {
    let mut config = Config::new();
    config.max_blocking_wait(None);
    let shared = Shared::new(Engine::new(&config)?)?;
    let (mut store, instance) = shared.guest()?;
    let handle = store.interrupt_handle()?;
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(20));
            handle.interrupt();
        });
        let endless = instance.call::<_, i32>(&mut store, "wait", (0, 0, -1_i64));
        assert_eq!(trap_of(endless), Some(Trap::Interrupt));
    });
    assert_eq!(instance.call::<_, i32>(&mut store, "wait", (0, 1, -1_i64))?, 1);
    Ok(())
}

#[test]
fn a_guest_entered_asynchronously_is_parked_and_woken() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        let (mut store, instance) = shared.guest()?;
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut call = instance.call_async::<_, _, i32>(&mut store, "wait", (4, 0, -1_i64));
            assert!(pin!(&mut call).poll(&mut context).is_pending());
            assert!(pin!(&mut call).poll(&mut context).is_pending());
            // The thread is free: the other guest runs on it.
            let (mut other, notifier) = shared.guest()?;
            assert_eq!(notifier.call::<_, i32>(&mut other, "notify", (4, -1))?, 1);
            match pin!(&mut call).poll(&mut context) {
                Poll::Ready(how) => assert_eq!(how?, 0),
                Poll::Pending => panic!("it was notified"),
            }
        }
        // A dropped call waits no more.
        let mut call = instance.call_async::<_, _, i32>(&mut store, "wait", (4, 0, -1_i64));
        assert!(pin!(&mut call).poll(&mut context).is_pending());
        drop(call);
        assert_eq!(shared.memory.atomic_notify(4, 1)?, 0);
    }
    Ok(())
}

#[test]
fn a_parked_guest_times_out_and_meets_deadlines() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        let (mut store, instance) = shared.guest()?;
        let start = Instant::now();
        let how: i32 = block_on(instance.call_async(&mut store, "wait", (4, 0, 20_000_000_i64)))?;
        assert_eq!(how, 2);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(shared.memory.atomic_notify(4, 1)?, 0);
        let call = instance.call_async::<_, _, i32>(&mut store, "wait", (4, 0, -1_i64));
        let late = block_on(call.with_timeout(Duration::from_millis(20)));
        assert_eq!(trap_of(late), Some(Trap::Interrupt));
        assert_eq!(shared.memory.atomic_notify(4, 1)?, 0);
    }
    Ok(())
}

#[test]
fn parked_guests_are_woken_on_other_threads() -> Result<()> {
    let shared = Shared::new(Engine::default())?;
    thread::scope(|scope| {
        let wait = || -> Result<i32> {
            let (mut store, instance) = shared.guest()?;
            block_on(instance.call_async(&mut store, "wait", (0, 0, -1_i64)))
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(wait)).collect();
        let mut woken = 0;
        while woken < 4 {
            woken += shared.memory.atomic_notify(0, 1)?;
            thread::yield_now();
        }
        for thread in threads {
            assert_eq!(thread.join().expect("no panic")?, 0);
        }
        Ok(())
    })
}

#[test]
fn the_host_waits_and_notifies_too() -> Result<()> {
    let shared = Shared::new(Engine::default())?;
    let memory = &shared.memory;
    assert_eq!(memory.atomic_wait32(0, 1, None)?, WaitResult::Mismatch);
    let soon = Some(Duration::from_millis(1));
    assert_eq!(memory.atomic_wait64(8, 0, soon)?, WaitResult::TimedOut);
    assert_eq!(memory.atomic_wait32(2, 0, None), Err(Trap::UnalignedAtomic));
    assert_eq!(memory.atomic_notify(65_536, 1), Err(Trap::MemoryOutOfBounds));
    assert_eq!(
        memory.atomic_notify(u64::MAX - 3, 1),
        Err(Trap::MemoryOutOfBounds)
    );
    thread::scope(|scope| {
        scope.spawn(|| -> Result<()> {
            let (mut store, instance) = shared.guest()?;
            while instance.call::<_, i32>(&mut store, "notify", (0, 1))? == 0 {}
            Ok(())
        });
        assert_eq!(memory.atomic_wait32(0, 0, None)?, WaitResult::Woken);
        Ok(())
    })
}

#[test]
fn a_shared_memory_grows_for_all_at_once() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        let (mut one, first) = shared.guest()?;
        let (mut two, second) = shared.guest()?;
        let beyond = second.call::<_, i32>(&mut two, "load", 65_536);
        assert_eq!(trap_of(beyond), Some(Trap::MemoryOutOfBounds));
        let base = shared.memory.data().as_ptr();
        assert_eq!(first.call::<_, i32>(&mut one, "grow", ())?, 1);
        assert_eq!(second.call::<_, i32>(&mut two, "load", 65_536)?, 0);
        assert_eq!(shared.memory.grow(1)?, 2);
        assert_eq!(second.call::<_, i32>(&mut two, "load", 131_072)?, 0);
        assert_eq!(second.call::<_, i32>(&mut two, "grow", ())?, 3);
        assert_eq!(second.call::<_, i32>(&mut two, "grow", ())?, -1);
        assert!(shared.memory.grow(1).is_err());
        assert_eq!(shared.memory.data().as_ptr(), base);
        assert_eq!(shared.memory.ty(), MemoryType::shared(4, 4));
    }
    Ok(())
}

#[test]
fn bulk_operations_work_on_shared_memories() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        let (mut store, instance) = shared.guest()?;
        instance.call::<_, ()>(&mut store, "init", ())?;
        instance.call::<_, ()>(&mut store, "move", (102, 100, 5))?;
        instance.call::<_, ()>(&mut store, "fill", (110, 33, 2))?;
        let read = |at: usize, length: usize| -> Vec<u8> {
            shared.memory.data()[at..at + length]
                .iter()
                .map(|byte| byte.load(Ordering::Relaxed))
                .collect()
        };
        assert_eq!(read(100, 7), b"hehello");
        assert_eq!(read(109, 4), b"\0!!\0");
        let beyond = instance.call::<_, ()>(&mut store, "fill", (65_535, 0, 2));
        assert_eq!(trap_of(beyond), Some(Trap::MemoryOutOfBounds));
    }
    Ok(())
}

/// One function for each atomic operator, with its bits.
fn operators() -> Vec<(String, u32)> {
    let mut all = Vec::new();
    for (ty, bits) in [("i32", 32), ("i64", 64)] {
        for width in [8, 16, 32, 64].into_iter().filter(|width| *width <= bits) {
            let is_narrow = width < bits;
            let (n, u) = if is_narrow {
                (width.to_string(), "_u")
            } else {
                (String::new(), "")
            };
            let zero = format!("({ty}.const 0)");
            let mut add = |text: String| all.push((text, width / 8));
            add(format!(
                "(drop ({ty}.atomic.load{n}{u} offset=OFF (local.get 0)))"
            ));
            add(format!("({ty}.atomic.store{n} offset=OFF (local.get 0) {zero})"));
            for op in ["add", "sub", "and", "or", "xor", "xchg"] {
                for (open, close) in [("(drop ", ")"), ("(call $use", ")")] {
                    let open = if open == "(call $use" {
                        format!("(call $use{bits} ")
                    } else {
                        open.to_owned()
                    };
                    add(format!(
                        "{open}({ty}.atomic.rmw{n}.{op}{u} offset=OFF (local.get 0) {zero}){close}"
                    ));
                }
            }
            add(format!(
                "(drop ({ty}.atomic.rmw{n}.cmpxchg{u} offset=OFF (local.get 0) {zero} {zero}))"
            ));
        }
    }
    all.push((
        "(drop (memory.atomic.wait32 offset=OFF (local.get 0) (i32.const 1) (i64.const 0)))".to_owned(),
        4,
    ));
    all.push((
        "(drop (memory.atomic.wait64 offset=OFF (local.get 0) (i64.const 1) (i64.const 0)))".to_owned(),
        8,
    ));
    all.push((
        "(drop (memory.atomic.notify offset=OFF (local.get 0) (i32.const 1)))".to_owned(),
        4,
    ));
    all
}

#[test]
fn every_atomic_access_is_aligned_and_in_bounds_or_traps() -> Result<()> {
    let operators = operators();
    assert_eq!(operators.len(), 108);
    for offset in [0_u32, 8, 65_536 - 8] {
        let functions: String = operators
            .iter()
            .enumerate()
            .map(|(index, (text, _))| {
                let text = text.replace("OFF", &offset.to_string());
                format!("(func (export \"{index}\") (param i32) {text})")
            })
            .collect();
        let text = format!(
            "(module (memory 1 1 shared) (func $use32 (param i32)) (func $use64 (param i64)) {functions})"
        );
        for engine in engines() {
            let mut store = Store::new(&engine, ());
            let _ = store.set_fuel(1_000_000);
            let module = Module::new(&engine, &text)?;
            let instance = Instance::new(&mut store, &module, &[])?;
            for (index, (operator, size)) in operators.iter().enumerate() {
                let mut call = |at: u32| instance.call::<_, ()>(&mut store, &index.to_string(), at as i32);
                let last = 65_536 - offset - size;
                call(last)?;
                let beyond = [last + size, u32::MAX - size + 1];
                for at in beyond {
                    assert_eq!(
                        trap_of(call(at)),
                        Some(Trap::MemoryOutOfBounds),
                        "{operator} at {at}"
                    );
                }
                for at in (1..*size).flat_map(|odd| [odd, last + size + odd]) {
                    assert_eq!(
                        trap_of(call(at)),
                        Some(Trap::UnalignedAtomic),
                        "{operator} at {at}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_memory_that_is_not_shared_is_not_waited_on() -> Result<()> {
    for engine in engines() {
        let text = GUEST.replace(r#"(import "env" "memory" (memory 1 4 shared))"#, "(memory 1 4)");
        let mut store = Store::new(&engine, ());
        let _ = store.set_fuel(1_000_000);
        let instance = Instance::new(&mut store, &Module::new(&engine, text)?, &[])?;
        instance.call::<_, ()>(&mut store, "add", (0, 5))?;
        assert_eq!(instance.call::<_, i32>(&mut store, "load", 0)?, 5);
        let wait = instance.call::<_, i32>(&mut store, "wait", (0, 0, 0_i64));
        assert_eq!(trap_of(wait), Some(Trap::ExpectedSharedMemory));
        assert_eq!(instance.call::<_, i32>(&mut store, "notify", (0, 1))?, 0);
    }
    Ok(())
}

#[test]
fn an_exported_shared_memory_outlives_its_store() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory (export "m") 1 2 shared) (data (i32.const 3) "x"))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    assert!(instance.get_memory(&mut store, "m").is_none());
    let memory = instance.get_shared_memory(&mut store, "m").expect("exported");
    drop(store);
    assert_eq!(memory.data()[3].load(Ordering::Relaxed), b'x');
    let (mut store, guest) = Shared {
        module: Module::new(&engine, GUEST.replace("1 4", "1 2"))?,
        memory,
        engine,
    }
    .guest()?;
    assert_eq!(
        guest.call::<_, i32>(&mut store, "load", 0)?,
        i32::from(b'x') << 24
    );
    Ok(())
}

#[test]
fn shared_memories_link_only_with_shared_ones_and_their_limits() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 2))?;
    for (wanted, links) in [
        ("1 2 shared", true),
        ("1 3 shared", true),
        ("1 1 shared", false),
        ("2 2 shared", false),
        ("1 2", false),
    ] {
        let module = Module::new(&engine, format!(r#"(module (import "e" "m" (memory {wanted})))"#))?;
        let linked = Instance::new(&mut store, &module, &[memory.clone().into()]);
        assert_eq!(linked.is_ok(), links, "{wanted}");
    }
    let mut config = Config::new();
    config.memory_style(MemoryStyle::Bounded);
    let foreign = SharedMemory::new(&Engine::new(&config)?, MemoryType::shared(1, 2))?;
    let module = Module::new(&engine, r#"(module (import "e" "m" (memory 1 2 shared)))"#)?;
    let error = Instance::new(&mut store, &module, &[foreign.into()]).expect_err("its guard is missing");
    assert!(error.to_string().contains("memory style"), "{error}");
    let mut config = Config::new();
    config.wasm_threads(false);
    let error = Module::new(&Engine::new(&config)?, "(module (memory 1 2 shared))").expect_err("it is off");
    assert!(error.to_string().contains("threads"), "{error}");
    Ok(())
}

#[test]
fn a_wait_that_is_forgotten_ends_with_the_next_call_or_with_its_store() -> Result<()> {
    let mut context = Context::from_waker(Waker::noop());
    for engine in engines() {
        let shared = Shared::new(engine)?;
        let (mut store, instance) = shared.guest()?;
        let mut forget = |store: &mut Store<()>| {
            let mut call = instance.call_async::<_, _, i32>(store, "wait", (4, 0, 60_000_000_000_i64));
            assert!(pin!(&mut call).poll(&mut context).is_pending());
            std::mem::forget(call);
        };
        forget(&mut store);
        assert_eq!(instance.call::<_, i32>(&mut store, "notify", (4, -1))?, 0);
        forget(&mut store);
        drop(store);
        assert_eq!(shared.memory.atomic_notify(4, 1)?, 0);
    }
    Ok(())
}

#[test]
fn a_parked_wait_is_interrupted_from_another_thread() -> Result<()> {
    for engine in engines() {
        let shared = Shared::new(engine)?;
        let (mut store, instance) = shared.guest()?;
        let handle = store.interrupt_handle()?;
        let stopper = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            handle.interrupt();
        });
        let stopped = block_on(instance.call_async::<_, _, i32>(&mut store, "wait", (4, 0, -1_i64)));
        assert_eq!(trap_of(stopped), Some(Trap::Interrupt));
        assert_eq!(shared.memory.atomic_notify(4, 1)?, 0);
        stopper.join().expect("no panic");
        assert_eq!(instance.call::<_, i32>(&mut store, "notify", (4, 1))?, 0);
    }
    Ok(())
}

/// Who is told that its time is over was not counted, and who was counted is told so.
#[test]
fn as_many_waits_are_woken_as_notifies_say() -> Result<()> {
    const WAITS: i64 = 400;
    let shared = Shared::new(Engine::default())?;
    let done = AtomicBool::new(false);
    let wait = |is_parked: bool| -> Result<u32> {
        let (mut store, instance) = shared.guest()?;
        let mut woken = 0;
        for nanos in (0..WAITS).map(|round| 1 + round * 97) {
            let arguments = (0, 0, nanos);
            let how: i32 = match is_parked {
                true => block_on(instance.call_async(&mut store, "wait", arguments))?,
                false => instance.call(&mut store, "wait", arguments)?,
            };
            assert!(how == 0 || how == 2, "ended by {how}");
            woken += u32::from(how == 0);
        }
        Ok(woken)
    };
    let (woken, counted) = thread::scope(|scope| {
        let notifier = scope.spawn(|| {
            let mut counted = 0;
            while !done.load(Ordering::SeqCst) {
                counted += shared.memory.atomic_notify(0, 2).expect("a valid address");
            }
            counted
        });
        let wait = &wait;
        let waiters = [true, true, false].map(|is_parked| scope.spawn(move || wait(is_parked)));
        let woken = waiters.map(thread::ScopedJoinHandle::join);
        done.store(true, Ordering::SeqCst);
        (woken, notifier.join().expect("no panic"))
    });
    let mut sum = 0;
    for woken in woken {
        sum += woken.expect("no panic")?;
    }
    assert_eq!(sum, counted);
    Ok(())
}

#[test]
fn a_shared_memory_outlives_its_engine() -> Result<()> {
    for engine in engines() {
        let Shared {
            engine,
            module,
            memory,
        } = Shared::new(engine)?;
        let bytes = memory.data();
        drop((engine, module));
        assert_eq!(memory.grow(3)?, 1);
        bytes[65_535].store(7, Ordering::SeqCst);
        assert_eq!(memory.data()[65_535].load(Ordering::SeqCst), 7);
        assert_eq!(memory.data()[4 * 65_536 - 1].load(Ordering::SeqCst), 0);
        let now = Some(Duration::ZERO);
        assert_eq!(memory.atomic_wait32(0, 0, now)?, WaitResult::TimedOut);
    }
    Ok(())
}
