//! What may happen at a check of fuel, where the guest keeps everything in registers and the host does as it likes.

use selvedge::{
    Caller, Config, Engine, Error, ExternRef, FuelPolicy, FuncType, Global, GlobalType, Instance, Linker,
    MemoryStyle, Module, Result, RootScope, Store, Tag, TagType, Trap, Val, ValType,
};
use selvedge_tests::{drive, wait};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

fn metered() -> Config {
    let mut config = Config::new();
    config.fuel(true);
    config
}

/// Counts values alive.
struct Alive(Arc<AtomicI64>, i32);

type Count = Arc<AtomicI64>;

fn reference(caller: &mut Caller<'_, Count>, number: i32) -> Result<ExternRef> {
    let count = caller.data().clone();
    count.fetch_add(1, Ordering::SeqCst);
    ExternRef::new(caller, Alive(count, number))
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Loops with a reference and an exception that nothing but a local holds; `$waste` allocates and throws away.
const HOLDS: &str = r#"(module
    (import "host" "new" (func $new (param i32) (result externref)))
    (import "host" "number" (func $number (param externref) (result i32)))
    (tag $e (param i32))
    (func $caught (param i32) (result exnref)
        (block $h (result exnref)
            (try_table (catch_all_ref $h) (throw $e (local.get 0)))
            unreachable))
    (func $value (param exnref) (result i32)
        (block $h (result i32)
            (try_table (catch $e $h) (throw_ref (local.get 0)))
            unreachable))
    (func (export "waste") (param i32)
        (loop $l
            (drop (call $caught (i32.const 9)))
            (drop (call $new (i32.const 9)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
    (func (export "hold") (param $n i32) (result i32) (local $r externref) (local $x exnref)
        (local.set $r (call $new (i32.const 40)))
        (local.set $x (call $caught (i32.const 2)))
        (loop $l
            (block)
            (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (i32.add (call $number (local.get $r)) (call $value (local.get $x))))
    (func (export "hold_and_call") (param $n i32) (result i32) (local $r externref) (local $x exnref) (local $sum i32)
        (local.set $r (call $new (i32.const 40)))
        (local.set $x (call $caught (i32.const 2)))
        (loop $l
            (local.set $sum (i32.add (call $number (local.get $r)) (call $value (local.get $x))))
            (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $sum)))"#;

fn holder(config: &mut Config) -> (Store<Count>, Instance) {
    let engine = Engine::new(config.collect_at_every_allocation(true)).unwrap();
    let module = Module::new(&engine, HOLDS).unwrap();
    let mut linker = Linker::<Count>::new(&engine);
    let new = |mut caller: Caller<'_, Count>, n: i32| -> Result<Option<ExternRef>> {
        reference(&mut caller, n).map(Some)
    };
    linker.func_wrap("host", "new", new).unwrap();
    let number = |caller: Caller<'_, Count>, reference: Option<ExternRef>| {
        let reference = reference.expect("not null").data(&caller).expect("it lives");
        reference.downcast_ref::<Alive>().expect("of ours").1
    };
    linker.func_wrap("host", "number", number).unwrap();
    let mut store = Store::new(&engine, Count::default());
    let instance = linker.instantiate(&mut store, &module).unwrap();
    (store, instance)
}

/// The host at a check: makes references, collects, and lets the guest do the same.
fn allocate(caller: &mut Caller<'_, Count>, instance: Instance) -> Result<()> {
    for _ in 0..5 {
        reference(caller, 7)?;
        caller.gc();
    }
    caller.set_fuel(10_000)?;
    instance.call::<i32, ()>(&mut *caller, "waste", 3)?;
    caller.set_fuel(0)
}

#[test]
fn references_that_only_registers_hold_at_a_check_outlive_what_the_host_collects_there() {
    for name in ["hold", "hold_and_call"] {
        for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
            let (mut store, instance) = holder(metered().memory_style(style));
            store
                .on_fuel_zero(move |mut caller| allocate(&mut caller, instance).map(|()| 9))
                .unwrap();
            let mut scope = RootScope::new(&mut store);
            assert_eq!(instance.call::<i32, i32>(&mut scope, name, 50).unwrap(), 42);
            drop(scope);
            store.gc();
            assert_eq!(store.data().load(Ordering::SeqCst), 0, "{name}: collected later");
        }
    }
}

#[test]
fn references_that_only_registers_hold_at_a_check_outlive_a_host_that_waits_there() {
    for name in ["hold", "hold_and_call"] {
        for every in [None, NonZeroU64::new(1), NonZeroU64::new(7)] {
            let (mut store, instance) = holder(&mut metered());
            if let Some(every) = every {
                store.set_fuel_policy(FuelPolicy::Yield { every }).unwrap();
            }
            store
                .on_fuel_zero_async(async |mut caller: Caller<'_, Count>| {
                    reference(&mut caller, 7)?;
                    wait(1).await;
                    caller.gc();
                    reference(&mut caller, 7)?;
                    wait(1).await;
                    reference(&mut caller, 7)?;
                    Ok(30)
                })
                .unwrap();
            let mut scope = RootScope::new(&mut store);
            let (result, pending) = drive(instance.call_async::<_, _, i32>(&mut scope, name, 50));
            assert_eq!(result.unwrap(), 42);
            assert!(pending >= 10, "{pending}");
            drop(scope);
            store.gc();
            assert_eq!(store.data().load(Ordering::SeqCst), 0, "{name}: collected later");
        }
    }
}

/// A call that is forgotten at a check stays on the guest's stack until another begins.
#[test]
fn a_call_that_is_forgotten_at_a_check_keeps_no_collection_from_finding_the_rest() {
    let (mut store, instance) = holder(&mut metered());
    store.set_fuel(1 << 40).unwrap();
    let every = NonZeroU64::new(10).expect("not zero");
    store.set_fuel_policy(FuelPolicy::Yield { every }).unwrap();
    let mut call = Box::pin(instance.call_async::<_, _, i32>(&mut store, "hold", 1 << 20));
    for _ in 0..20 {
        assert!(selvedge_tests::poll_once(call.as_mut()).is_pending());
    }
    std::mem::forget(call);
    store.gc();
    let count = store.data().clone();
    let kept = ExternRef::new(&mut store, Alive(count.clone(), 5)).unwrap();
    store.gc();
    let value = kept
        .data(&store)
        .unwrap()
        .downcast_ref::<Alive>()
        .map(|alive| alive.1);
    assert_eq!(value, Some(5));
    let (result, _) = drive(instance.call_async::<_, _, i32>(&mut store, "hold", 3));
    assert_eq!(result.unwrap(), 42);
}

/// Reads in a loop, and once more behind it, what the host may change.
const READS: &str = r#"(module
    (import "host" "global" (global $g (mut i64)))
    (table $t (export "table") 1 10000 funcref)
    (memory (export "memory") 1 64)
    (global $own (export "own") (mut i32) (i32.const 1))
    (elem (i32.const 0) $one)
    (func $one)
    (func (export "read") (param $n i32) (result i64) (local $before i64)
        (loop $l
            (block)
            (local.set $before (i64.extend_i32_u (i32.add
                (i32.add (global.get $own) (i32.wrap_i64 (global.get $g)))
                (i32.add
                    (i32.add (table.size $t) (memory.size))
                    (i32.add (i32.load (i32.const 8)) (i32.mul (ref.is_null (table.get $t (i32.const 0))) (i32.const 20)))))))
            (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (i64.or (i64.shl (local.get $before) (i64.const 32)) (i64.extend_i32_u (i32.add
            (i32.add (global.get $own) (i32.wrap_i64 (global.get $g)))
            (i32.add
                (i32.add (table.size $t) (memory.size))
                (i32.add (i32.load (i32.const 8)) (i32.mul (ref.is_null (table.get $t (i32.const 0))) (i32.const 20)))))))))"#;

/// Runs [`READS`] with so many units. How often the host was asked for more, and what was read in the loop and behind it.
fn read(engine: &Engine, units: u64) -> Result<(u32, i64, i64)> {
    let module = Module::new(engine, READS)?;
    let mut store = Store::new(engine, 0_u32);
    let global = Global::new(&mut store, GlobalType::new(ValType::I64, true), Val::I64(100))?;
    let mut linker = Linker::new(engine);
    linker.define("host", "global", global)?;
    let instance = linker.instantiate(&mut store, &module)?;
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    let table = instance.get_table(&mut store, "table").expect("exported");
    let own = instance.get_global(&mut store, "own").expect("exported");
    store.on_fuel_zero(move |mut caller| {
        *caller.data_mut() += 1;
        memory.grow(&mut caller, 8)?;
        memory.write(&mut caller, 8, &[7])?;
        table.grow(&mut caller, 900, Val::FuncRef(None))?;
        table.set(&mut caller, 0, Val::FuncRef(None))?;
        own.set(&mut caller, Val::I32(5))?;
        global.set(&mut caller, Val::I64(300))?;
        Ok(1000)
    })?;
    store.set_fuel(units)?;
    let read = instance.call::<i32, i64>(&mut store, "read", 1)?;
    Ok((*store.data(), read >> 32, read & 0xffff_ffff))
}

#[test]
fn tables_globals_and_memories_that_the_host_changes_at_a_check_are_read_again() -> Result<()> {
    const BEFORE: i64 = 1 + 100 + 1 + 1;
    const AFTER: i64 = 5 + 300 + 901 + 9 + 7 + 20;
    for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
        let engine = Engine::new(metered().memory_style(style))?;
        // One check lies between the two reads. Whoever has enough until then never asks.
        let mut asked = 0;
        for units in 0..40 {
            match read(&engine, units)? {
                (0, first, second) => assert_eq!((first, second), (BEFORE, BEFORE), "{units} units"),
                (1, first, second) => {
                    asked += 1;
                    assert_eq!((first, second), (BEFORE, AFTER), "{units} units, {style:?}");
                }
                (times, ..) => panic!("asked {times} times"),
            }
        }
        assert!(asked > 0 && asked < 40, "{asked} of 40 runs asked");
    }
    Ok(())
}

/// Of `$spin`'s checks one is at the entry, one leads back; `outer` is where it was called.
#[test]
fn running_out_of_fuel_says_the_place_of_the_check_and_of_the_calls_around() -> Result<()> {
    let engine = Engine::new(&metered())?;
    let module = Module::new(
        &engine,
        r#"(module
            (func $leaf)
            (func $spin (param f64 i32) (result f64)
                (loop $l
                    (local.set 0 (f64.add (local.get 0) (f64.const 1.5)))
                    (call $leaf)
                    (br_if $l (local.get 1)))
                (local.get 0))
            (func (export "outer") (drop (call $spin (f64.const 0) (i32.const 1)))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let mut places = Vec::new();
    for units in 0..40 {
        store.set_fuel(units)?;
        let error = instance
            .call::<(), ()>(&mut store, "outer", ())
            .expect_err("it never ends");
        assert_eq!(error.downcast_ref(), Some(&Trap::OutOfFuel));
        let frames = error.backtrace().expect("a trap has one").frames();
        let place: Vec<_> = frames
            .iter()
            .map(|frame| (frame.func_index(), frame.wasm_offset().expect("of an operator")))
            .collect();
        places.push(place);
    }
    places.dedup();
    // What follows the entry's locals; `br_if`; and `call` in the caller.
    assert_eq!(places, [[(1, 44), (2, 84)], [(1, 65), (2, 84)]]);
    Ok(())
}

/// Deeper and deeper, with a check at each entry that asks the host: the stack ends in the check sooner or later.
#[test]
fn a_stack_that_ends_in_a_check_is_an_overflow_like_any_other() -> Result<()> {
    for vectors in ["", "(drop (f64.add (local.get 1) (f64.const 1)))"] {
        let module = format!(
            r#"(module (func $deep (export "deep") (param i32 f64) {vectors}
                (call $deep (i32.add (local.get 0) (i32.const 1)) (local.get 1))))"#
        );
        let engine = Engine::new(&metered())?;
        let module = Module::new(&engine, module)?;
        let mut store = Store::new(&engine, 0_u64);
        store.on_fuel_zero(|mut caller| {
            *caller.data_mut() += 1;
            Ok(10)
        })?;
        let instance = Instance::new(&mut store, &module, &[])?;
        for _ in 0..3 {
            let error = instance
                .call::<(i32, f64), ()>(&mut store, "deep", (0, 1.0))
                .expect_err("it never ends");
            assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow), "{error:#}");
            assert!(*store.data() > 1000);
        }
    }
    Ok(())
}

/// Whom a check asks may fail, with an exception of the guest's too: no handler around the check is for that.
#[test]
fn what_ends_a_guest_at_a_check_is_caught_by_no_handler_around_it() -> Result<()> {
    let engine = Engine::new(&metered())?;
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "tag" (tag $e (param i32)))
            (func (export "throw") (throw $e (i32.const 1)))
            (func $nothing)
            (func (export "spin") (result i32)
                (block $h
                    (try_table (catch_all $h)
                        (loop $l (call $nothing) (br $l))))
                (i32.const 1)))"#,
    )?;
    let mut store = Store::new(&engine, 0_u32);
    let tag = Tag::new(&mut store, TagType::new(FuncType::new([ValType::I32], [])))?;
    let mut linker = Linker::new(&engine);
    linker.define("host", "tag", tag)?;
    let instance = linker.instantiate(&mut store, &module)?;
    for units in 0..20 {
        store.set_fuel(units)?;
        store.on_fuel_zero(|_| Err(Error::msg("no more")))?;
        let refused = instance
            .call::<(), i32>(&mut store, "spin", ())
            .expect_err("no more");
        assert!(refused.to_string().contains("no more"), "{refused}");
        store.set_fuel(units)?;
        store.on_fuel_zero(move |mut caller| {
            caller.set_fuel(100)?;
            instance.call::<(), ()>(&mut caller, "throw", ())?;
            Ok(1)
        })?;
        let thrown = instance.call::<(), i32>(&mut store, "spin", ());
        assert!(thrown.is_err(), "{units} units: {thrown:?}");
    }
    Ok(())
}
