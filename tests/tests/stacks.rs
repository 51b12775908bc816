//! No guest can overflow the host: host functions run on the host's stack, guests end in a guard.

use selvedge::{Caller, Config, Engine, Error, Extern, Func, Instance, Linker, Module, Result, Store, Trap};
use selvedge_tests::{in_child, mapping_count, signal_of};
use std::hint::black_box;

const RECURSION: &str = r#"(module
    (func $down (export "down") (param i32) (result i32)
      local.get 0 i32.const 1 i32.add call $down i32.const 1 i32.add)
    (func (export "seven") (result i32) i32.const 7))"#;

fn is_trap(error: &Error, trap: Trap) -> bool {
    error.downcast_ref::<Trap>() == Some(&trap)
}

/// Uses a mebibyte of the stack it runs on.
#[inline(never)]
fn use_a_mebibyte(seed: u8) -> u32 {
    let mut block = [seed; 1 << 20];
    black_box(&mut block);
    block.iter().step_by(4096).map(|byte| u32::from(*byte)).sum()
}

#[test]
fn host_function_uses_a_mebibyte_with_the_guest_stack_nearly_full() -> Result<()> {
    let engine = Engine::new(Config::new().stack_bytes(64 << 10))?;
    // Goes down until the host sees that less than 200 bytes would be left for one more frame, then calls the host there.
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "deep" (func $deep (param i32) (result i32)))
            (func $down (export "down") (param i32) (result i32)
              local.get 0 i32.eqz
              if (result i32) i32.const 1 call $deep
              else local.get 0 i32.const 1 i32.sub call $down end))"#,
    )?;
    let mut linker = Linker::<u32>::new(&engine);
    linker.func_wrap("host", "deep", |mut caller: Caller<'_, u32>, seed: i32| {
        *caller.data_mut() += 1;
        use_a_mebibyte(seed as u8) as i32
    })?;
    let mut store = Store::new(&engine, 0);
    let instance = linker.instantiate(&mut store, &module)?;
    // The deepest recursion that still returns: one frame more overflows. A frame here is less than 200 bytes, so less than
    // that is left under the host function.
    let (mut works, mut overflows) = (1, 100_000);
    while overflows - works > 1 {
        let middle = (works + overflows) / 2;
        match instance.call::<i32, i32>(&mut store, "down", middle) {
            Ok(sum) => {
                assert_eq!(sum, 256);
                works = middle;
            }
            Err(error) => {
                assert!(is_trap(&error, Trap::StackOverflow), "{error:?}");
                overflows = middle;
            }
        }
    }
    assert!(
        works > (64 << 10) / 200,
        "a frame of less than 200 bytes fits {works} times"
    );
    assert_eq!(instance.call::<i32, i32>(&mut store, "down", works)?, 256);
    assert!(*store.data() > 5, "the host function ran at many depths");
    Ok(())
}

#[test]
fn recursion_to_the_limit_ten_thousand_times_leaks_nothing() -> Result<()> {
    let engine = Engine::new(Config::new().stack_bytes(64 << 10))?;
    let module = Module::new(&engine, RECURSION)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let down = instance.typed::<i32, i32>(&mut store, "down")?;
    let overflow = |store: &mut Store<()>| {
        let error = down.call(store, 0).expect_err("recursion without end");
        assert!(is_trap(&error, Trap::StackOverflow), "{error:?}");
    };
    overflow(&mut store);
    let (mappings, resident) = (mapping_count(), resident_bytes());
    for _ in 0..10_000 {
        overflow(&mut store);
    }
    assert_eq!(instance.call::<(), i32>(&mut store, "seven", ())?, 7);
    let grown = mapping_count().saturating_sub(mappings);
    assert!(grown < 16, "{grown} mappings more than before");
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 8 << 20, "{grown} resident bytes more than before");
    Ok(())
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .expect("resident pages")
        .parse()
        .expect("a number");
    pages * 4096
}

#[test]
fn overflow_has_a_capped_backtrace_with_names() -> Result<()> {
    let engine = Engine::new(Config::new().stack_bytes(64 << 10).max_backtrace_frames(5))?;
    let module = Module::new(&engine, RECURSION)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let error = instance
        .call::<i32, i32>(&mut store, "down", 0)
        .expect_err("recursion without end");
    let backtrace = error.backtrace().expect("a trap has a backtrace");
    assert_eq!(backtrace.frames().len(), 5);
    assert!(
        backtrace.omitted() > 100,
        "{} frames omitted",
        backtrace.omitted()
    );
    assert_eq!(backtrace.frames()[1].func_name(), Some("down"));
    Ok(())
}

#[test]
fn large_frames_probe_every_page_of_the_guard() -> Result<()> {
    // A thousand i64 locals kept live across a call: a frame of several pages.
    let locals = "(local ".to_owned() + &"i64 ".repeat(1500) + ")";
    let sets: String = (1..1500)
        .map(|n| format!("local.get 0 i64.const {n} i64.mul local.set {n} "))
        .collect();
    let sums: String = (1..1500).map(|n| format!("local.get {n} i64.add ")).collect();
    let text = format!(
        r#"(module (func $down (export "down") (param i64) (result i64) {locals}
            {sets} local.get 0 i64.const 1 i64.add call $down {sums}))"#
    );
    let engine = Engine::default();
    let module = Module::new(&engine, text)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    for _ in 0..100 {
        let error = instance
            .call::<i64, i64>(&mut store, "down", 1)
            .expect_err("recursion without end");
        assert!(is_trap(&error, Trap::StackOverflow), "{error:?}");
    }
    Ok(())
}

/// guest -> host -> guest without end.
fn mutual_recursion(engine: &Engine) -> Result<(Store<Option<Func>>, Instance)> {
    let module = Module::new(
        engine,
        r#"(module (import "host" "again" (func $again (param i32) (result i32)))
            (func (export "run") (param i32) (result i32) local.get 0 i32.const 1 i32.add call $again))"#,
    )?;
    let mut linker = Linker::<Option<Func>>::new(engine);
    linker.func_wrap(
        "host",
        "again",
        |mut caller: Caller<'_, Option<Func>>, depth: i32| -> Result<i32> {
            let run = caller
                .get_export("run")
                .and_then(Extern::into_func)
                .ok_or_else(|| Error::msg("no run"))?;
            let run = run.typed::<i32, i32>(&caller)?;
            run.call(&mut caller, depth)
        },
    )?;
    let mut store = Store::new(engine, None);
    let instance = linker.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

#[test]
fn recursion_through_the_host_is_a_trap_on_a_small_thread() {
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let run = || -> Result<()> {
        // A guest stack so large that the host's is what runs out.
        let engine = Engine::new(Config::new().stack_bytes(64 << 20))?;
        let (mut store, instance) = mutual_recursion(&engine)?;
        for _ in 0..3 {
            let error = instance
                .call::<i32, i32>(&mut store, "run", 0)
                .expect_err("recursion without end");
            assert!(is_trap(&error, Trap::StackOverflow), "{error:?}");
        }
        Ok(())
    };
    thread
        .spawn(run)
        .expect("a thread")
        .join()
        .expect("no panic")
        .expect("no error");
}

#[test]
fn recursion_through_the_host_is_a_trap_on_a_fiber_of_the_hosts() {
    const FIBER_BYTES: usize = 256 << 10;
    let test = "recursion_through_the_host_is_a_trap_on_a_fiber_of_the_hosts";
    let child = in_child(test, || {
        let mut config = Config::new();
        config.stack_bytes(64 << 20).max_host_stack_bytes(32 << 10);
        let engine = Engine::new(&config).expect("an engine");
        let stack = fibers::GuardedStack::new(FIBER_BYTES).expect("a stack");
        let mut fiber = fibers::Fiber::<(), (), (), _>::with_stack(stack, move |_, ()| {
            let (mut store, instance) = mutual_recursion(&engine).expect("a guest");
            for _ in 0..3 {
                let error = instance
                    .call::<i32, i32>(&mut store, "run", 0)
                    .expect_err("recursion without end");
                assert!(is_trap(&error, Trap::StackOverflow), "{error:?}");
                let frames = error.backtrace().expect("a trap has a backtrace").frames();
                assert!(frames.len() > 3, "some levels were entered: {}", frames.len());
            }
        });
        fiber.resume(()).into_return().expect("it does not suspend");
    });
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn recursion_through_the_host_is_a_trap_when_the_guest_stack_ends_first() -> Result<()> {
    let engine = Engine::new(Config::new().stack_bytes(64 << 10).max_host_stack_bytes(64 << 20))?;
    let (mut store, instance) = mutual_recursion(&engine)?;
    let error = instance
        .call::<i32, i32>(&mut store, "run", 0)
        .expect_err("recursion without end");
    assert!(is_trap(&error, Trap::StackOverflow), "{error:?}");
    let frames = error.backtrace().expect("a trap has a backtrace").frames();
    assert!(frames.len() > 10, "each activation shows once: {}", frames.len());
    Ok(())
}

/// Reads an address that is not mapped.
fn fault() {
    let address = black_box(8 as *const u32);
    // SAFETY: none: the point is the fault, in a child process.
    black_box(unsafe { address.read_volatile() });
}

#[test]
fn segfault_in_host_code_still_kills_the_process() {
    let child = in_child("segfault_in_host_code_still_kills_the_process", || {
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let func = Func::wrap(&mut store, fault).expect("a host function");
        let _ = func.call(&mut store, &[], &mut []);
    });
    assert_eq!(signal_of(&child), Some(libc::SIGSEGV), "{child:?}");
}

#[test]
fn overflow_of_the_host_stack_in_a_host_function_still_kills_the_process() {
    #[expect(unconditional_recursion)]
    fn forever(depth: u64) -> u64 {
        let block = black_box([depth; 64]);
        forever(depth + 1) + block[3]
    }
    let child = in_child(
        "overflow_of_the_host_stack_in_a_host_function_still_kills_the_process",
        || {
            let engine = Engine::default();
            let mut store = Store::new(&engine, ());
            let func = Func::wrap(&mut store, || forever(0) as i64).expect("a host function");
            let _ = func.call(&mut store, &[], &mut [selvedge::Val::I64(0)]);
        },
    );
    assert!(
        matches!(signal_of(&child), Some(libc::SIGSEGV | libc::SIGABRT)),
        "{child:?}"
    );
}

#[test]
fn a_store_keeps_its_stack_only_when_told_to() -> Result<()> {
    // One stack for all: who keeps it keeps it from the others.
    let engine = Engine::new(Config::new().max_guest_stacks(1))?;
    let module = Module::new(&engine, r#"(module (func (export "f")))"#)?;
    let mut store = Store::new(&engine, ());
    let mut other = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let other_instance = Instance::new(&mut other, &module, &[])?;
    instance.call::<(), ()>(&mut store, "f", ())?;
    other_instance.call::<(), ()>(&mut other, "f", ())?;
    store.keep_stack(true);
    instance.call::<(), ()>(&mut store, "f", ())?;
    let error = other_instance
        .call::<(), ()>(&mut other, "f", ())
        .expect_err("the only stack is kept");
    assert!(format!("{error:#}").contains("1 of 1"), "{error:#}");
    instance.call::<(), ()>(&mut store, "f", ())?;
    store.keep_stack(false);
    other_instance.call::<(), ()>(&mut other, "f", ())?;
    store.keep_stack(true);
    instance.call::<(), ()>(&mut store, "f", ())?;
    drop(store);
    other_instance.call::<(), ()>(&mut other, "f", ())
}

#[test]
fn an_engine_says_how_many_stacks_its_guests_have_and_refuses_more() -> Result<()> {
    let engine = Engine::new(Config::new().max_guest_stacks(2))?;
    let module = Module::new(
        &engine,
        r#"(module (import "host" "wait" (func $wait)) (func (export "run") (call $wait)))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "wait", async |_: Caller<'_, ()>, (): ()| {
        std::future::pending::<()>().await
    })?;
    let mut stores = [
        Store::new(&engine, ()),
        Store::new(&engine, ()),
        Store::new(&engine, ()),
    ];
    let mut calls = Vec::new();
    for (index, store) in stores.iter_mut().enumerate() {
        let instance = linker.instantiate(store, &module)?;
        let mut call = Box::pin(instance.call_async::<_, (), ()>(store, "run", ()));
        match selvedge_tests::poll_once(call.as_mut()) {
            std::task::Poll::Pending => calls.push(call),
            std::task::Poll::Ready(result) => {
                let error = result.expect_err("the host function never returns");
                assert_eq!(index, 2, "{error:#}");
                assert!(format!("{error:#}").contains("2 of 2"), "{error:#}");
            }
        }
    }
    let stats = engine.stack_stats();
    assert_eq!((stats.in_use, stats.max_stacks), (2, 2));
    assert!(engine.resident_stack_bytes() >= 2 * 4096);
    drop(calls);
    engine.trim_stacks();
    let stats = engine.stack_stats();
    assert_eq!((stats.in_use, stats.parked), (0, 2));
    Ok(())
}
