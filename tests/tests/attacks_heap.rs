//! Hostile use of references and exceptions: what a guest may try to do to the heap, and what must come of it.

use selvedge::{Config, Engine, Instance, Module, Store, StoreLimitsBuilder};

/// Keeps some exceptions in a list, and throws others away. A node takes 32 bytes.
const LIST: &str = r#"(module
    (tag $node (param exnref))
    (global $list (mut exnref) (ref.null exn))
    (func $caught (param exnref) (result exnref)
        (block $caught (result exnref)
            (try_table (catch_all_ref $caught) (throw $node (local.get 0)))
            unreachable))
    (func (export "keep") (param i32)
        (loop $l
            (global.set $list (call $caught (global.get $list)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
    (func (export "waste") (param i32)
        (loop $l
            (drop (call $caught (ref.null exn)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
    (func (export "let_go") (global.set $list (ref.null exn))))"#;

#[test]
fn a_heap_that_is_kept_nearly_full_is_not_collected_at_every_throw() {
    const LIMIT_BYTES: usize = 1 << 20;
    const NODE_BYTES: usize = 32;
    let mut config = Config::new();
    config.max_reference_heap_bytes(LIMIT_BYTES);
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, LIST).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    // With a tenth of it free, collections are rare, and a guest may throw as much as it likes.
    let nine_tenths = (LIMIT_BYTES / NODE_BYTES * 9 / 10) as i32;
    instance.call::<_, ()>(&mut store, "keep", nine_tenths).unwrap();
    instance.call::<_, ()>(&mut store, "waste", 100_000).unwrap();
    // With next to nothing free, each of the million would be a collection of all.
    let rest = (LIMIT_BYTES / NODE_BYTES) as i32 - nine_tenths - 20;
    instance.call::<_, ()>(&mut store, "keep", rest).unwrap();
    let refused = instance
        .call::<_, ()>(&mut store, "waste", 1_000_000)
        .unwrap_err();
    assert!(
        refused.to_string().starts_with("the reference heap is full"),
        "{refused}"
    );
    // What is free by then is found.
    instance.call::<(), ()>(&mut store, "let_go", ()).unwrap();
    instance.call::<_, ()>(&mut store, "waste", 100_000).unwrap();
    assert!(store.reference_heap_bytes() < LIMIT_BYTES);
}

#[test]
fn the_exceptions_of_a_guest_count_against_the_limits_of_its_store() {
    const LIMIT_BYTES: usize = 64 << 10;
    let engine = Engine::default();
    let module = Module::new(&engine, LIST).unwrap();
    let limits = |bytes| StoreLimitsBuilder::new().reference_heap_bytes(bytes).build();
    let mut store = Store::new(&engine, limits(LIMIT_BYTES));
    store.limiter(|limits| limits);
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let refused = instance.call::<_, ()>(&mut store, "keep", 1 << 20).unwrap_err();
    assert!(refused.to_string().contains("of 65536 bytes"), "{refused}");
    assert!(store.reference_heap_bytes() <= LIMIT_BYTES);
    instance.call::<(), ()>(&mut store, "let_go", ()).unwrap();
    instance.call::<_, ()>(&mut store, "waste", 100_000).unwrap();

    // A new limit holds for a heap that is there, and goes no higher than the engine's.
    *store.data_mut() = limits(4096);
    store.limiter(|limits| limits);
    assert!(instance.call::<_, ()>(&mut store, "keep", 1 << 12).is_err());
    assert!(store.reference_heap_bytes() <= LIMIT_BYTES);
    let mut config = Config::new();
    config.max_reference_heap_bytes(4096);
    let engine = Engine::new(&config).unwrap();
    let mut store = Store::new(&engine, limits(LIMIT_BYTES));
    store.limiter(|limits| limits);
    let module = Module::new(&engine, LIST).unwrap();
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let refused = instance.call::<_, ()>(&mut store, "keep", 1 << 20).unwrap_err();
    assert!(refused.to_string().contains("of 4096 bytes"), "{refused}");
}
