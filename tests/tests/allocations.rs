//! Nothing allocates on the way of a call.

use selvedge::{Caller, Config, Engine, FuelPolicy, Linker, Module, Result, Store};
use selvedge_tests::allocator::{TestAllocator, counted};
use selvedge_tests::{poll_once, wait};
use std::num::NonZeroU64;
use std::pin::pin;
use std::task::Poll;

#[global_allocator]
static ALLOCATOR: TestAllocator = TestAllocator;

/// Allocations of a hundred runs, after a few to get warm.
fn allocations(mut run: impl FnMut()) -> u64 {
    (0..5).for_each(|_| run());
    counted(|| (0..100).for_each(|_| run()))
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 100);
}

#[test]
fn warm_calls_allocate_nothing() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "sync" (func $sync (param i32) (result i32)))
            (import "host" "ready" (func $ready (param i32) (result i32)))
            (import "host" "waits" (func $waits (param i32) (result i32)))
            (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
            (func (export "sync") (param i32) (result i32) local.get 0 call $sync)
            (func (export "ready") (param i32) (result i32) local.get 0 call $ready)
            (func (export "waits") (param i32) (result i32) local.get 0 call $waits))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap("host", "sync", |n: i32| n + 1)?;
    linker.func_wrap_async("host", "ready", async |_: Caller<'_, ()>, n: i32| -> i32 {
        n + 1
    })?;
    linker.func_wrap_async(
        "host",
        "waits",
        async |_: Caller<'_, ()>, n: i32| -> Result<i32> {
            wait(1).await;
            Ok(n + 1)
        },
    )?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let add = instance.typed::<(i32, i32), i32>(&mut store, "add")?;
    assert_eq!(
        allocations(|| assert_eq!(add.call(&mut store, (1, 2)).ok(), Some(3))),
        0,
        "sync call"
    );
    let by_name =
        allocations(|| assert_eq!(instance.call::<_, i32>(&mut store, "add", (1, 2)).ok(), Some(3)));
    assert_eq!(by_name, 0, "sync call by name");
    for (name, pending) in [("sync", 0), ("ready", 0), ("waits", 1)] {
        let func = instance.typed::<i32, i32>(&mut store, name)?;
        let count = allocations(|| {
            let mut call = pin!(func.call_async(&mut store, 1));
            for _ in 0..pending {
                assert!(poll_once(call.as_mut()).is_pending());
            }
            let Poll::Ready(Ok(2)) = poll_once(call) else {
                panic!("the host is ready")
            };
        });
        assert_eq!(count, 0, "async call of {name}");
        let count = allocations(|| {
            let mut call = pin!(func.call_async(&mut store, 1));
            let _ = poll_once(call.as_mut());
        });
        assert_eq!(count, 0, "async call of {name}, polled once and dropped");
    }
    Ok(())
}

#[test]
fn a_fuel_yield_allocates_nothing() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(&engine, r#"(module (func (export "forever") loop $l br $l end))"#)?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(u64::MAX)?;
    let every = NonZeroU64::new(1000).expect("not zero");
    store.set_fuel_policy(FuelPolicy::Yield { every })?;
    let instance = selvedge::Instance::new(&mut store, &module, &[])?;
    let mut call = pin!(instance.call_async::<_, _, ()>(&mut store, "forever", ()));
    assert_eq!(allocations(|| assert!(poll_once(call.as_mut()).is_pending())), 0);
    Ok(())
}
