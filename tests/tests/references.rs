//! What references keep alive, and for how long: drop counts are exact after a collection.

use selvedge::{
    Caller, Config, Engine, ExternRef, Global, GlobalType, Instance, Linker, Module, OwnedExternRef, Result,
    RootScope, Store, Table, TableType, Val,
};
use selvedge_tests::{drive, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Counts values alive.
struct Alive(Arc<AtomicI64>, i32);

type Count = Arc<AtomicI64>;

fn alive(count: &Count, number: i32) -> Alive {
    count.fetch_add(1, Ordering::SeqCst);
    Alive(count.clone(), number)
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn number(reference: Option<ExternRef>, store: &impl selvedge::AsContext) -> i32 {
    let reference = reference.expect("not null");
    reference
        .data(store)
        .unwrap()
        .downcast_ref::<Alive>()
        .expect("of ours")
        .1
}

/// The functions of the host that the guests here import: make a reference, read one, collect.
fn linker(engine: &Engine) -> Linker<Count> {
    let mut linker = Linker::<Count>::new(engine);
    linker
        .func_wrap(
            "host",
            "new",
            |mut caller: Caller<'_, Count>, n: i32| -> Result<Option<ExternRef>> {
                let value = alive(caller.data(), n);
                Ok(Some(ExternRef::new(&mut caller, value)?))
            },
        )
        .unwrap();
    linker
        .func_wrap(
            "host",
            "number",
            |caller: Caller<'_, Count>, reference: Option<ExternRef>| number(reference, &caller),
        )
        .unwrap();
    linker
        .func_wrap("host", "gc", |mut caller: Caller<'_, Count>| -> i32 {
            caller.gc();
            caller.data().load(Ordering::SeqCst) as i32
        })
        .unwrap();
    linker
        .func_wrap_async(
            "host",
            "gc_later",
            async |mut caller: Caller<'_, Count>, (): ()| -> Result<i32> {
                wait(2).await;
                caller.gc();
                wait(1).await;
                Ok(caller.data().load(Ordering::SeqCst) as i32)
            },
        )
        .unwrap();
    linker
}

const IMPORTS: &str = r#"
    (import "host" "new" (func $new (param i32) (result externref)))
    (import "host" "number" (func $number (param externref) (result i32)))
    (import "host" "gc" (func $gc (result i32)))
    (import "host" "gc_later" (func $gc_later (result i32)))"#;

fn guest(config: &Config, body: &str) -> (Store<Count>, Instance) {
    let engine = Engine::new(config).unwrap();
    let module = Module::new(&engine, format!("(module {IMPORTS} {body})")).unwrap();
    let mut store = Store::new(&engine, Count::default());
    let instance = linker(&engine).instantiate(&mut store, &module).unwrap();
    (store, instance)
}

fn configs() -> Vec<Config> {
    let mut metered = Config::new();
    metered.fuel(true);
    let mut eager = Config::new();
    eager.collect_at_every_allocation(true);
    vec![Config::new(), metered, eager]
}

/// Runs the same with every setting; a metered store gets fuel.
fn everywhere(body: &str, run: impl Fn(Store<Count>, Instance)) {
    for config in configs() {
        let (mut store, instance) = guest(&config, body);
        let _ = store.set_fuel(1 << 60);
        run(store, instance);
    }
}

#[test]
fn references_in_frames_locals_globals_and_tables_survive() {
    let body = r#"
        (global $kept (mut externref) (ref.null extern))
        (table $table 4 externref)
        (func $deep (param $n i32) (param $r externref) (result i32)
          (local $mine externref)
          (local.set $mine (call $new (local.get $n)))
          (if (local.get $n)
            (then (drop (call $deep (i32.sub (local.get $n) (i32.const 1)) (local.get $mine))))
            (else (drop (call $gc))))
          ;; Both were live across the collection.
          (i32.eqz (i32.and
            (i32.eq (call $number (local.get $mine)) (local.get $n))
            (i32.eq (call $number (local.get $r)) (i32.add (local.get $n) (i32.const 1)))))
          if unreachable end
          local.get $n)
        (func (export "run") (param $n i32) (result i32)
          (global.set $kept (call $new (i32.const -1)))
          (table.set $table (i32.const 2) (call $new (i32.const -2)))
          (drop (call $new (i32.const -3)))
          (drop (call $deep (local.get $n) (call $new (i32.add (local.get $n) (i32.const 1)))))
          (i32.add (call $number (global.get $kept)) (call $number (table.get $table (i32.const 2)))))
        (func (export "forget")
          (global.set $kept (ref.null extern))
          (table.set $table (i32.const 2) (ref.null extern)))"#;
    everywhere(body, |mut store, instance| {
        let count = store.data().clone();
        assert_eq!(instance.call::<_, i32>(&mut store, "run", 200).unwrap(), -3);
        store.gc();
        assert_eq!(count.load(Ordering::SeqCst), 2, "the global's and the table's");
        instance.call::<_, ()>(&mut store, "forget", ()).unwrap();
        store.gc();
        assert_eq!(
            (count.load(Ordering::SeqCst), store.reference_heap_bytes()),
            (0, 0)
        );
    });
}

/// Many references live at once, on the operand stack, across branches, in loops, as results of blocks and selects.
#[test]
fn references_on_the_operand_stack_survive() {
    let body = r#"
        (func $pair (param i32) (result externref externref)
          (call $new (local.get 0)) (call $new (i32.add (local.get 0) (i32.const 1))))
        (func (export "run") (param $n i32) (result i32) (local $sum i32) (local $one i32) (local $two i32) (local $last externref)
          (local.set $last (call $new (i32.const 7)))
          (loop $again
            (call $pair (local.get $n))
            (block (param externref externref) (result externref externref)
              (br_if 0 (i32.and (call $gc) (i32.const 1)))
              (drop (call $gc)))
            (local.set $one (call $number))
            (local.set $two (call $number))
            (local.set $sum (i32.add (local.get $sum) (i32.add (local.get $two) (i32.sub (local.get $one) (i32.const 1)))))
            (local.set $last (select (result externref)
              (call $new (call $number (local.get $last))) (local.get $last) (i32.and (local.get $n) (i32.const 1))))
            (drop (call $gc))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
          (i32.add (local.get $sum) (call $number (local.get $last))))"#;
    everywhere(body, |mut store, instance| {
        assert_eq!(instance.call::<_, i32>(&mut store, "run", 10).unwrap(), 110 + 7);
        store.gc();
        assert_eq!(store.data().load(Ordering::SeqCst), 0);
    });
}

#[test]
fn references_of_a_parked_guest_survive_a_collection_by_its_host_function() {
    let body = r#"
        (func (export "run") (param $r externref) (result externref) (local $mine externref)
          (local.set $mine (call $new (i32.const 5)))
          (drop (call $new (i32.const 6)))
          ;; $r, $mine and nothing else.
          (if (i32.ne (call $gc_later) (i32.const 2)) (then unreachable))
          (if (i32.ne (call $number (local.get $r)) (i32.const 4)) (then unreachable))
          (local.get $mine))"#;
    everywhere(body, |mut store, instance| {
        {
            let value = alive(store.data(), 4);
            let mut scope = RootScope::new(&mut store);
            let given = ExternRef::new(&mut scope, value).unwrap();
            let (result, pending) =
                drive(instance.call_async::<_, _, Option<ExternRef>>(&mut scope, "run", Some(given)));
            assert_eq!((number(result.unwrap(), &scope), pending), (5, 3));
        }
        store.gc();
        assert_eq!(store.data().load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_million_references_take_bounded_memory() {
    let body = r#"
        (func (export "run") (param $n i32)
          (loop $again
            (drop (call $new (local.get $n)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))"#;
    let (mut store, instance) = guest(&Config::new(), body);
    let count = store.data().clone();
    for _ in 0..10 {
        instance.call::<_, ()>(&mut store, "run", 100_000).unwrap();
        assert!(
            store.reference_heap_bytes() <= 64 << 10,
            "{}",
            store.reference_heap_bytes()
        );
        assert!(count.load(Ordering::SeqCst) <= 4096, "{count:?}");
    }
    store.gc();
    assert_eq!(
        (count.load(Ordering::SeqCst), store.reference_heap_bytes()),
        (0, 0)
    );
    for n in 0..100_000 {
        let mut scope = RootScope::new(&mut store);
        let value = alive(&count, n);
        ExternRef::new(&mut scope, value).unwrap();
        drop(scope);
        assert!(count.load(Ordering::SeqCst) <= 4096, "{count:?}");
    }
    drop(store);
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_handle_ends_with_its_scope_and_an_owned_one_does_not() {
    let engine = Engine::default();
    let count = Count::default();
    let mut store = Store::new(&engine, ());
    let (stale, owned): (ExternRef, OwnedExternRef) = {
        let mut scope = RootScope::new(&mut store);
        let reference = ExternRef::new(&mut scope, alive(&count, 1)).unwrap();
        ExternRef::new(&mut scope, alive(&count, 2)).unwrap();
        (reference, reference.to_owned(&mut scope).unwrap())
    };
    let other = ExternRef::new(&mut store, alive(&count, 3)).unwrap();
    store.gc();
    assert_eq!(
        count.load(Ordering::SeqCst),
        2,
        "the one without a handle is gone"
    );
    assert_eq!(
        stale.data(&store).err().unwrap().to_string(),
        "a reference was used after its scope: make it an owned one in time (`to_owned`)"
    );
    let again = owned.to_scoped(&mut store).unwrap();
    assert_eq!(number(Some(again), &store), 1);
    assert!(!ExternRef::ref_eq(&store, again, other).unwrap());
    let mut second = Store::new(&engine, ());
    assert!(owned.to_scoped(&mut second).is_err());
    assert!(again.data(&second).is_err());
    drop(owned);
    let _ = again; // still rooted by its scoped handle: there is no scope around it
    store.gc();
    assert_eq!(count.load(Ordering::SeqCst), 2);
    drop(store);
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn the_hosts_own_globals_and_tables_keep_what_they_hold() {
    let mut store = Store::new(&Engine::default(), ());
    let count = Count::default();
    let (global, table) = {
        let mut scope = RootScope::new(&mut store);
        let one = Val::from(ExternRef::new(&mut scope, alive(&count, 1)).unwrap());
        let two = Val::from(ExternRef::new(&mut scope, alive(&count, 2)).unwrap());
        let externref = || Val::ExternRef(None).ty();
        let global = Global::new(
            &mut scope,
            GlobalType {
                content: externref(),
                mutable: true,
            },
            one,
        )
        .unwrap();
        let ty = TableType {
            element: selvedge::RefType::EXTERNREF,
            minimum: 3,
            maximum: None,
            is_64: false,
        };
        (global, Table::new(&mut scope, ty, two).unwrap())
    };
    store.gc();
    assert_eq!(count.load(Ordering::SeqCst), 2);
    global.set(&mut store, Val::ExternRef(None)).unwrap();
    for index in 0..3 {
        table.set(&mut store, index, Val::ExternRef(None)).unwrap();
    }
    store.gc();
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_full_heap_is_an_error_with_the_numbers_and_the_store_goes_on() {
    let mut config = Config::new();
    config.max_reference_heap_bytes(4096);
    let mut store = Store::new(&Engine::new(&config).unwrap(), ());
    let count = Count::default();
    {
        let mut scope = RootScope::new(&mut store);
        for n in 0..255 {
            ExternRef::new(&mut scope, alive(&count, n)).unwrap();
        }
        let error = ExternRef::new(&mut scope, alive(&count, 0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the reference heap is full: 4080 of 4096 bytes in use (see `Config::max_reference_heap_bytes`)"
        );
        assert_eq!(
            count.load(Ordering::SeqCst),
            255,
            "the value that found no room is dropped"
        );
    }
    ExternRef::new(&mut store, alive(&count, 0)).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
