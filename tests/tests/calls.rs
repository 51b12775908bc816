//! Every way to call: typed and untyped, sync and async, from the store and from host functions, nested in each other.

use selvedge::{AsContextMut, Caller, Engine, Func, Instance, Linker, Module, Result, Store, TypedFunc, Val};
use selvedge_tests::{drive, wait};

/// `double(n)`; `host(way, n)` asks the host to call `double` in that way; `both(way, n)` does so twice around a wait.
const GUEST: &str = r#"(module
    (import "host" "sync" (func $sync (param i32 i32) (result i32)))
    (import "host" "async" (func $async (param i32 i32) (result i32)))
    (func (export "double") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
    (func (export "via_sync") (param i32 i32) (result i32) (call $sync (local.get 0) (local.get 1)))
    (func (export "via_async") (param i32 i32) (result i32) (call $async (local.get 0) (local.get 1)))
    (func (export "via_both") (param i32 i32) (result i32)
      (call $async (i32.const 6) (call $sync (local.get 0) (call $async (local.get 0) (local.get 1))))))"#;

/// How often there is a way.
const SYNC_WAYS: i32 = 3;
const ALL_WAYS: i32 = 6;

fn handles(mut store: impl AsContextMut, instance: Instance) -> Result<(Func, TypedFunc<i32, i32>)> {
    let func = instance.get_func(&mut store, "double").expect("exported");
    Ok((func, func.typed(&store)?))
}

/// Calls `double(n)` in one of the ways that do not wait.
fn call_sync(mut store: impl AsContextMut, instance: Instance, way: i32, n: i32) -> Result<i32> {
    let (func, typed) = handles(&mut store, instance)?;
    match way {
        0 => instance.call(&mut store, "double", n),
        1 => typed.call(&mut store, n),
        _ => {
            let mut results = [Val::I32(0)];
            func.call(&mut store, &[Val::I32(n)], &mut results)?;
            Ok(results[0].i32().expect("an i32"))
        }
    }
}

/// In one of all ways.
async fn call_async<S: AsContextMut>(mut store: S, instance: Instance, way: i32, n: i32) -> Result<i32> {
    let (func, typed) = handles(&mut store, instance)?;
    match way - SYNC_WAYS {
        0 => instance.call_async(&mut store, "double", n).await,
        1 => typed.call_async(&mut store, n).await,
        2 => {
            let mut results = [Val::I32(0)];
            func.call_async(&mut store, &[Val::I32(n)], &mut results).await?;
            Ok(results[0].i32().expect("an i32"))
        }
        _ => call_sync(store, instance, way, n),
    }
}

/// The data is the instance, for the host functions that call back.
type State = Option<Instance>;

/// Host functions that are plain functions, not closures.
fn host_sync(mut caller: Caller<'_, State>, way: i32, n: i32) -> Result<i32> {
    let instance = caller.data().expect("set");
    match way {
        // A guest that never waits may be called by `call_async` where nobody can wait: one poll is enough.
        3..ALL_WAYS => drive(call_async(&mut caller, instance, way, n)).0,
        6 => instance.call(&mut caller, "via_sync", (0, n)),
        _ => call_sync(&mut caller, instance, way, n),
    }
}

async fn host_async(mut caller: Caller<'_, State>, (way, n): (i32, i32)) -> Result<i32> {
    let instance = caller.data().expect("set");
    wait(1).await;
    let result = match way {
        6 => instance.call_async(&mut caller, "via_sync", (3, n)).await,
        _ => call_async(&mut caller, instance, way, n).await,
    };
    wait(1).await;
    result
}

fn guest() -> Result<(Store<State>, Instance)> {
    let engine = Engine::default();
    let module = Module::new(&engine, GUEST)?;
    let mut linker = Linker::<State>::new(&engine);
    linker.func_wrap("host", "sync", host_sync)?;
    linker.func_wrap_async("host", "async", host_async)?;
    let mut store = Store::new(&engine, None);
    let instance = linker.instantiate(&mut store, &module)?;
    *store.data_mut() = Some(instance);
    Ok((store, instance))
}

#[test]
fn every_way_to_call_from_the_store() -> Result<()> {
    let (mut store, instance) = guest()?;
    for way in 0..SYNC_WAYS {
        assert_eq!(call_sync(&mut store, instance, way, 21)?, 42, "way {way}");
    }
    for way in 0..ALL_WAYS {
        let (result, pending) = drive(call_async(&mut store, instance, way, 21));
        assert_eq!((result?, pending), (42, 0), "way {way}");
    }
    Ok(())
}

#[test]
fn every_way_to_call_from_a_host_function_in_every_way_to_call_it() -> Result<()> {
    let (mut store, instance) = guest()?;
    for way in 0..=ALL_WAYS {
        assert_eq!(
            instance.call::<_, i32>(&mut store, "via_sync", (way, 21))?,
            42,
            "way {way}"
        );
        for (name, waits) in [("via_sync", 0), ("via_async", 2)] {
            let (result, pending) = drive(instance.call_async::<_, _, i32>(&mut store, name, (way, 21)));
            assert_eq!((result?, pending), (42, waits), "{name}, way {way}");
        }
    }
    Ok(())
}

#[test]
fn calls_nest_in_any_order() -> Result<()> {
    let (mut store, instance) = guest()?;
    for way in 0..ALL_WAYS {
        let (result, pending) = drive(instance.call_async::<_, _, i32>(&mut store, "via_both", (way, 5)));
        assert_eq!(
            (result?, pending),
            (40, 4),
            "way {way}: doubled three times, two host calls wait twice each"
        );
    }
    Ok(())
}
