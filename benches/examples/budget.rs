//! Does one operation over and over, so that a tool can count its instructions: what a budget is made of.
//!
//! ```text
//! cargo build --release -p selvedge-benches --example budget
//! valgrind --tool=callgrind --toggle-collect='*turns*' target/release/examples/budget add 1000
//! ```
//!
//! Selvedge alone, without a rival.

use selvedge_benches::guest::{CALLS, Once, block_on};
use std::hint::black_box;
use std::num::NonZeroU64;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Repeats an operation; the function that is to be watched.
#[inline(never)]
fn turns(count: u32, mut operation: impl FnMut()) {
    for _ in 0..count {
        operation();
    }
}

struct Guest {
    store: selvedge::Store<()>,
    instance: selvedge::Instance,
}

impl Guest {
    fn new(config: &selvedge::Config) -> selvedge::Result<Guest> {
        let engine = selvedge::Engine::new(config)?;
        let module = selvedge::Module::new(&engine, CALLS)?;
        let mut linker = selvedge::Linker::<()>::new(&engine);
        linker.func_wrap("host", "sync", |n: i32| n + 1)?;
        linker.func_wrap_async("host", "ready", async |_: selvedge::Caller<'_, ()>, n: i32| n + 1)?;
        linker.func_wrap_async("host", "once", async |_: selvedge::Caller<'_, ()>, n: i32| {
            Once::default().await;
            n + 1
        })?;
        linker.func_wrap_async("host", "never", async |_: selvedge::Caller<'_, ()>, (): ()| {
            std::future::pending::<()>().await;
        })?;
        let mut store = selvedge::Store::new(&engine, ());
        if config_is_metered(&store) {
            store.set_fuel(1 << 60)?;
        }
        let instance = linker.instantiate(&mut store, &module)?;
        Ok(Guest { store, instance })
    }
}

fn config_is_metered(store: &selvedge::Store<()>) -> bool {
    store.get_fuel().is_ok()
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = &arguments[..] else {
        return Err("usage: budget OPERATION TURNS, where OPERATION is nop, add, kept, async, sync, ready, once, yield or deep".into());
    };
    let count: u32 = count.parse()?;
    let mut config = selvedge::Config::new();
    config.fuel(name == "yield").keep_stacks(name == "kept");
    let Guest { mut store, instance } = Guest::new(&config)?;
    match name.as_str() {
        "nop" => {
            let nop = instance.typed::<(), ()>(&mut store, "nop")?;
            turns(count, || nop.call(&mut store, ()).expect("nop returns"));
        }
        "add" | "kept" => {
            let add = instance.typed::<(i32, i32), i32>(&mut store, "add")?;
            turns(count, || {
                black_box(add.call(&mut store, black_box((3, 4))).expect("add returns"));
            });
        }
        "async" => {
            let add = instance.typed::<(i32, i32), i32>(&mut store, "add")?;
            turns(count, || {
                black_box(block_on(add.call_async(&mut store, black_box((3, 4)))).expect("add returns"));
            });
        }
        "sync" | "ready" | "once" => {
            let func = instance.typed::<i32, i32>(&mut store, name)?;
            let calls = count as i32;
            turns(1, || {
                black_box(block_on(func.call_async(&mut store, calls)).expect("loops end"));
            });
        }
        "yield" => {
            let every = NonZeroU64::new(10).expect("ten is not zero");
            store.set_fuel_policy(selvedge::FuelPolicy::Yield { every })?;
            let func = instance.typed::<i32, i32>(&mut store, "sync")?;
            let calls = count as i32;
            turns(1, || {
                black_box(block_on(func.call_async(&mut store, calls)).expect("loops end"));
            });
        }
        "deep" => {
            let func = instance.typed::<i32, i32>(&mut store, "deep")?;
            turns(count, || assert!(func.call(&mut store, 1).is_err()));
        }
        other => return Err(format!("no operation is named `{other}`").into()),
    }
    Ok(())
}
