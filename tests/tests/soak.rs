//! Stores, instances and modules come and go, and leave nothing: no memory, no mappings, no file descriptors.
//!
//! One test, since it looks at the whole process. It makes a hundred thousand stores, or as many as `SOAK_STORES` says. A million:
//!
//!     SOAK_STORES=1000000 cargo test --test soak -- --nocapture

use selvedge::{Caller, Config, Engine, Instance, Linker, MemoryStyle, Module, Store, TypedFunc};
use selvedge_tests::Usage;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Instant;

/// Fails if there is more of anything than there was, but for what allocators and pools keep.
#[track_caller]
fn check_no_more(before: Usage, after: Usage) {
    let grown = format!("{before:?} before, {after:?} now");
    assert!(after.resident_kib <= before.resident_kib + (8 << 10), "{grown}");
    assert!(after.mappings <= before.mappings + 32, "{grown}");
    assert!(after.descriptors <= before.descriptors, "{grown}");
}

const DATA_BYTES: usize = 10_000;

/// How many stores come and go.
fn stores() -> usize {
    let stores = std::env::var("SOAK_STORES").map(|number| number.parse().expect("SOAK_STORES is a number"));
    stores.unwrap_or(100_000)
}

fn guest(engine: &Engine, number: usize) -> Module {
    let data = format!("\\{:02x}", number % 256).repeat(DATA_BYTES);
    let text = format!(
        r#"(module (import "host" "wait" (func $wait))
             (memory (export "m") 1) (table 10 funcref) (elem (i32.const 1) $number)
             (global $calls (mut i32) (i32.const 0)) (data (i32.const 5000) "{data}")
             (func $number (export "number") (result i32) (i32.const {number}))
             (func (export "byte") (param i32) (result i32)
               (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
               (i32.store (i32.const 40000) (i32.const 1))
               (i32.load8_u (local.get 0)))
             (func (export "grow") (result i32) (memory.grow (i32.const 2)))
             (func (export "park") (call $wait)))"#
    );
    Module::new(engine, text).unwrap()
}

fn make_linker(engine: &Engine) -> Linker<()> {
    let mut linker = Linker::new(engine);
    linker
        .func_wrap_async("host", "wait", async |_: Caller<'_, ()>, (): ()| {
            std::future::pending::<()>().await
        })
        .unwrap();
    linker
}

/// One life: instantiated, called, sometimes grown, sometimes dropped while it waits.
fn life(engine: &Engine, linker: &Linker<()>, module: &Module, round: usize, byte: i32) {
    let mut store = Store::new(engine, ());
    let instance: Instance = linker.instantiate(&mut store, module).unwrap();
    let load: TypedFunc<i32, i32> = instance.typed(&mut store, "byte").unwrap();
    assert_eq!(load.call(&mut store, 5000).unwrap(), byte);
    assert_eq!(load.call(&mut store, 4999).unwrap(), 0);
    if round.is_multiple_of(16) {
        assert_eq!(instance.call::<_, i32>(&mut store, "grow", ()).unwrap(), 1);
    }
    if round.is_multiple_of(5) {
        let mut call = instance.call_async::<_, _, ()>(&mut store, "park", ());
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut call).poll(&mut context).is_pending());
    }
}

/// So many lives, by turns with each engine.
fn lives(count: usize, engines: &[(Engine, Linker<()>, Module); 2]) {
    for round in 0..count {
        let (engine, linker, module) = &engines[round % 2];
        life(engine, linker, module, round / 2, 77);
    }
}

/// Modules go while instances of them run on, and others come in their place.
fn modules(count: usize, (engine, linker, module): &(Engine, Linker<()>, Module)) {
    let mut survivors: std::collections::VecDeque<(Store<()>, Instance, usize)> = Default::default();
    for number in 0..count {
        let short = guest(engine, number);
        life(engine, linker, &short, number, (number % 256) as i32);
        life(engine, linker, module, number, 77);
        let mut store = Store::new(engine, ());
        let instance = linker.instantiate(&mut store, &short).unwrap();
        drop(short);
        survivors.push_back((store, instance, number));
        if survivors.len() > 10 {
            let (mut store, instance, number) = survivors.pop_front().unwrap();
            let byte: i32 = instance
                .call(&mut store, "byte", (5000 + DATA_BYTES - 1) as i32)
                .unwrap();
            assert_eq!(byte, (number % 256) as i32);
            assert_eq!(
                instance.call::<_, i32>(&mut store, "number", ()).unwrap(),
                number as i32
            );
        }
    }
}

/// Engines, too: with what they pooled, and the file of their images.
fn engine_lives(count: usize) {
    for number in 0..count {
        let engine = Engine::default();
        let module = guest(&engine, number);
        life(&engine, &make_linker(&engine), &module, number, number as i32);
    }
}

#[test]
fn what_comes_and_goes_leaves_nothing() {
    let engines = [MemoryStyle::Reserved, MemoryStyle::Bounded].map(|style| {
        let engine = Engine::new(Config::new().memory_style(style)).unwrap();
        let (linker, module) = (make_linker(&engine), guest(&engine, 77));
        (engine, linker, module)
    });
    lives(2000, &engines);
    let (before, start) = (Usage::now(), Instant::now());
    let stores = stores();
    lives(stores, &engines);
    let after = Usage::now();
    println!(
        "{stores} stores in {:.1?}: {before:?} before, {after:?} now",
        start.elapsed()
    );
    check_no_more(before, after);

    modules(30, &engines[0]);
    let before = Usage::now();
    modules(200, &engines[0]);
    check_no_more(before, Usage::now());

    engine_lives(3);
    let before = Usage::now();
    engine_lives(30);
    check_no_more(before, Usage::now());
}
