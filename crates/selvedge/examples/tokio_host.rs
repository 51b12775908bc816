//! A guest that waits for timers of tokio's: to the guest an ordinary call, to the host an `.await`.
//!
//! Nothing of the runtime knows tokio: a host function may await whatever the executor that polls the call can drive.

use selvedge::{Caller, Engine, Linker, Module, Result, Store};
use std::time::{Duration, Instant};

/// What the host keeps for a guest: anything, and `Send` if calls are to move between threads.
struct State {
    slept: Duration,
}

fn main() -> Result<()> {
    // An engine for the process, a module for each program: both are shared by all guests.
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "sleep" (func $sleep (param i32) (result i32)))
            (func (export "nap_twice") (param $ms i32) (result i32)
              (i32.add (call $sleep (local.get $ms)) (call $sleep (local.get $ms)))))"#,
    )?;
    // What guests may import. The closure is `async`; while it waits, its guest is parked.
    let mut linker = Linker::<State>::new(&engine);
    linker.func_wrap_async(
        "host",
        "sleep",
        async |mut caller: Caller<'_, State>, ms: u32| -> Result<u32> {
            let start = Instant::now();
            tokio::time::sleep(Duration::from_millis(ms.into())).await;
            caller.data_mut().slept += start.elapsed();
            Ok(ms)
        },
    )?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()?;
    let slept = tokio.block_on(async {
        // A store for each guest. The call owns it, so it may be spawned: it is `Send` as `State` is.
        let mut store = Store::new(
            &engine,
            State {
                slept: Duration::ZERO,
            },
        );
        let instance = linker.instantiate(&mut store, &module)?;
        let guest = tokio::spawn(async move {
            let total: i32 = instance.call_async(&mut store, "nap_twice", 20).await?;
            assert_eq!(total, 40);
            Ok::<_, selvedge::Error>(store.into_data().slept)
        });
        guest.await?
    })?;
    println!("the guest slept twice for 20 ms, {slept:?} in all");
    assert!(slept >= Duration::from_millis(40));
    Ok(())
}
