//! Exceptions through guests and hosts: who catches, what is kept alive, what it costs.

use selvedge::{
    Caller, Config, Engine, Error, Exception, Extern, ExternRef, Func, FuncType, Instance, Linker, Module,
    Result, RootScope, Store, Tag, TagType, Trap, Val, ValType,
};
use selvedge_tests::{drive, in_child, wait};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

type Count = Arc<AtomicI64>;

/// Counts values alive.
struct Alive(Count);

impl Alive {
    fn new(count: &Count) -> Alive {
        count.fetch_add(1, Ordering::SeqCst);
        Alive(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A guest over these imports. `$e` carries a number and a reference.
const IMPORTS: &str = r#"
    (import "host" "e" (tag $e (param i32 externref)))
    (import "host" "new" (func $new (result externref)))
    (import "host" "throw" (func $host_throw (param i32)))
    (import "host" "throw_later" (func $host_throw_later (param i32)))
    (import "host" "fail" (func $fail))
    (import "host" "again" (func $again (param funcref)))
    (import "host" "again_later" (func $again_later (param funcref)))"#;

fn exception(caller: &mut Caller<'_, Count>, tag: Tag, number: i32) -> Result<Error> {
    let value = Alive::new(caller.data());
    let reference = ExternRef::new(&mut *caller, value)?;
    let values = [Val::I32(number), Val::ExternRef(Some(reference))];
    Ok(Exception::new(caller, tag, &values)?.into())
}

fn guest(config: &Config, body: &str) -> (Store<Count>, Instance, Tag) {
    let engine = Engine::new(config).unwrap();
    let mut store = Store::new(&engine, Count::default());
    let _ = store.set_fuel(1 << 50);
    let ty = TagType::new(FuncType::new([ValType::I32, ValType::EXTERNREF], []));
    let tag = Tag::new(&mut store, ty).unwrap();
    let mut linker = Linker::<Count>::new(&engine);
    linker.define("host", "e", tag).unwrap();
    define_throws(&mut linker, tag);
    define_calls_back(&mut linker);
    let module = Module::new(&engine, format!("(module {IMPORTS} {body})")).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    (store, instance, tag)
}

fn define_throws(linker: &mut Linker<Count>, tag: Tag) {
    linker
        .func_wrap(
            "host",
            "new",
            |mut caller: Caller<'_, Count>| -> Result<Option<ExternRef>> {
                let value = Alive::new(caller.data());
                Ok(Some(ExternRef::new(&mut caller, value)?))
            },
        )
        .unwrap();
    linker
        .func_wrap(
            "host",
            "throw",
            move |mut caller: Caller<'_, Count>, number: i32| -> Result<()> {
                Err(exception(&mut caller, tag, number)?)
            },
        )
        .unwrap();
    linker
        .func_wrap_async(
            "host",
            "throw_later",
            async move |mut caller: Caller<'_, Count>, number: i32| -> Result<()> {
                wait(2).await;
                caller.gc();
                Err(exception(&mut caller, tag, number)?)
            },
        )
        .unwrap();
    linker
        .func_wrap("host", "fail", || -> Result<()> {
            Err(Error::msg("the host has failed"))
        })
        .unwrap();
}

fn define_calls_back(linker: &mut Linker<Count>) {
    linker
        .func_wrap(
            "host",
            "again",
            |mut caller: Caller<'_, Count>, func: Option<Func>| -> Result<()> {
                let called = func.unwrap().call(&mut caller, &[], &mut []);
                called.map_err(|error| error.context("called again"))
            },
        )
        .unwrap();
    linker
        .func_wrap_async(
            "host",
            "again_later",
            async |mut caller: Caller<'_, Count>, func: Option<Func>| -> Result<()> {
                wait(1).await;
                func.unwrap().call_async(&mut caller, &[], &mut []).await
            },
        )
        .unwrap();
}

fn everywhere(body: &str, run: impl Fn(&mut Store<Count>, Instance, Tag)) {
    let mut metered = Config::new();
    metered.fuel(true);
    let mut eager = Config::new();
    eager.collect_at_every_allocation(true);
    for config in [Config::new(), metered, eager] {
        let (mut store, instance, tag) = guest(&config, body);
        run(&mut store, instance, tag);
        let count = store.data().clone();
        drop(store);
        assert_eq!(count.load(Ordering::SeqCst), 0, "a value outlives its store");
    }
}

/// The number of the uncaught exception in an error, and how many values are alive while it is held.
fn uncaught(store: &mut Store<Count>, tag: Tag, error: &Error) -> i32 {
    let exception = error
        .downcast_ref::<Exception>()
        .unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(exception.tag(&*store).unwrap(), tag);
    store.gc();
    let mut scope = RootScope::new(store);
    let values = exception.values(&mut scope).unwrap();
    let Val::ExternRef(Some(reference)) = values[1] else {
        panic!("{values:?}")
    };
    assert!(reference.data(&scope).unwrap().is::<Alive>());
    values[0].i32().unwrap()
}

#[test]
fn an_exception_that_nothing_catches_is_an_error_that_keeps_its_values() {
    let body = r#"
        (func $throw (export "throw") (param i32) (throw $e (local.get 0) (call $new)))
        (func (export "host") (param i32) (call $host_throw (local.get 0)))
        (func (export "passes") (param i32)
          ;; Another tag of the same type does not catch it.
          (block $h (result i32 externref)
            (try_table (catch $other $h) (call $throw (local.get 0)))
            (return))
          (unreachable))
        (tag $other (param i32 externref))"#;
    everywhere(body, |store, instance, tag| {
        for name in ["throw", "host", "passes"] {
            let error = instance.call::<_, ()>(store, name, 17).unwrap_err();
            assert!(error.backtrace().is_some());
            assert_eq!(uncaught(store, tag, &error), 17);
            assert_eq!(store.data().load(Ordering::SeqCst), 1);
            drop(error);
            store.gc();
            assert_eq!(store.data().load(Ordering::SeqCst), 0, "{name}");
        }
    });
}

#[test]
fn a_guest_catches_what_its_host_function_throws() {
    let body = r#"
        (func (export "sync") (param i32) (result i32)
          (block $h (result i32 externref)
            (try_table (catch $e $h) (call $host_throw (local.get 0)))
            (return (i32.const -1)))
          (drop))
        (func (export "async") (param i32) (result i32)
          (block $h (result i32 externref)
            (try_table (catch $e $h) (call $host_throw_later (local.get 0)))
            (return (i32.const -1)))
          (drop))
        (func (export "async_uncaught") (param i32) (call $host_throw_later (local.get 0)))"#;
    everywhere(body, |store, instance, tag| {
        assert_eq!(instance.call::<_, i32>(store, "sync", 5).unwrap(), 5);
        for number in 0..20 {
            let (result, pending) = drive(instance.call_async::<_, _, i32>(store, "async", number));
            assert_eq!((result.unwrap(), pending), (number, 2));
        }
        let (result, _) = drive(instance.call_async::<_, _, ()>(store, "async_uncaught", 3));
        assert_eq!(uncaught(store, tag, &result.unwrap_err()), 3);
    });
}

#[test]
fn an_exception_goes_through_host_frames_and_keeps_its_identity() {
    let body = r#"
        (func $inner (throw $e (i32.const 9) (call $new)))
        (func $outer (call $again (ref.func $inner)))
        (elem declare func $inner $outer)
        (func (export "run") (result i32) (local $x exnref)
          (block $h (result i32 externref exnref)
            (try_table (catch_ref $e $h) (call $again (ref.func $outer)))
            (return (i32.const -1)))
          (local.set $x) (drop) (drop)
          ;; Thrown again it is the same, and this time caught as any.
          (block $all (result exnref)
            (try_table (catch_all_ref $all) (throw_ref (local.get $x)))
            (return (i32.const -2)))
          (local.set $x)
          (block $h (result i32 externref)
            (try_table (catch $e $h) (throw_ref (local.get $x)))
            (return (i32.const -3)))
          (drop))
        (func (export "run_later") (result i32)
          (block $h (result i32 externref)
            (try_table (catch $e $h) (call $again_later (ref.func $inner)))
            (return (i32.const -1)))
          (drop))"#;
    everywhere(body, |store, instance, _| {
        assert_eq!(instance.call::<_, i32>(store, "run", ()).unwrap(), 9);
        assert_eq!(
            drive(instance.call_async::<_, _, i32>(store, "run_later", ()))
                .0
                .unwrap(),
            9
        );
        store.gc();
        assert_eq!(store.data().load(Ordering::SeqCst), 0);
    });
}

#[test]
fn traps_and_host_errors_are_not_caught() {
    let body = r#"
        (func $recurse (call $recurse) (call $recurse))
        (func (export "run") (param i32)
          (block $h
            (try_table (catch_all $h)
              (block $d (block $c (block $b (block $a (br_table $a $b $c $d (local.get 0)))
                (unreachable)) (call $fail)) (call $recurse))
              (throw_ref (ref.null exn)))))"#;
    everywhere(body, |store, instance, _| {
        let mut run = |how: i32| instance.call::<_, ()>(store, "run", how).unwrap_err();
        assert_eq!(run(0).downcast_ref(), Some(&Trap::Unreachable));
        assert_eq!(run(1).to_string(), "the host has failed");
        assert_eq!(run(2).downcast_ref(), Some(&Trap::StackOverflow));
        assert_eq!(run(3).downcast_ref(), Some(&Trap::NullReference));
    });
}

#[test]
fn a_throw_through_many_frames_is_linear_and_leaves_the_stack_usable() {
    let body = r#"
        (func $deep (param i32)
          (if (local.get 0)
            (then (call $deep (i32.sub (local.get 0) (i32.const 1))))
            (else (throw $e (i32.const 1) (ref.null extern)))))
        (func (export "run") (param $depth i32) (param $times i32) (result i32) (local $sum i32)
          (loop $again
            (block $h (result i32 externref)
              (try_table (catch $e $h) (call $deep (local.get $depth)))
              (unreachable))
            (drop)
            (local.set $sum (i32.add (local.get $sum)))
            (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
          (local.get $sum))"#;
    let mut config = Config::new();
    config.stack_bytes(16 << 20);
    let (mut store, instance, _) = guest(&config, body);
    assert_eq!(
        instance.call::<_, i32>(&mut store, "run", (100_000, 20)).unwrap(),
        20
    );
    assert_eq!(
        instance
            .call::<_, i32>(&mut store, "run", (0, 1_000_000))
            .unwrap(),
        1_000_000
    );
    assert!(
        store.reference_heap_bytes() <= 64 << 10,
        "{}",
        store.reference_heap_bytes()
    );
}

/// What a throw and its handler cost is what their operators cost: the count at the end says so to the unit.
#[test]
fn fuel_is_exact_through_a_throw() {
    let body = r#"
        (func $throw (param i32) (throw $e (local.get 0) (ref.null extern)))
        (func (export "caught") (result i32)
          (block $h (result i32 externref)
            (try_table (catch $e $h) (nop) (call $throw (i32.const 4)))
            (unreachable))
          (drop))
        (func (export "host") (result i32)
          (block $h (result i32 externref)
            (try_table (catch $e $h) (call $host_throw (i32.const 4)))
            (unreachable))
          (drop))
        (func (export "uncaught") (call $throw (i32.const 4)))"#;
    let mut config = Config::new();
    config.fuel(true);
    let (mut store, instance, _) = guest(&config, body);
    let mut spent = |name: &str, results: &mut [Val]| {
        store.set_fuel(1_000).unwrap();
        let func = instance.get_func(&mut store, name).unwrap();
        let _ = func.call(&mut store, &[], results);
        1_000 - store.get_fuel().unwrap()
    };
    // Entry, try_table, i32.const, call; entry, local.get, ref.null, throw; then drop, which is free.
    assert_eq!(spent("caught", &mut [Val::I32(0)]), 8);
    assert_eq!(spent("host", &mut [Val::I32(0)]), 4);
    assert_eq!(spent("uncaught", &mut []), 7);
}

#[test]
fn tags_are_matched_across_modules_and_by_identity() {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let thrower = Module::new(
        &engine,
        r#"(module (tag $e (export "e") (param i64)) (tag $f (export "f") (param i64))
          (func (export "throw_e") (throw $e (i64.const 1))) (func (export "throw_f") (throw $f (i64.const 2))))"#,
    );
    let catcher = Module::new(
        &engine,
        r#"(module
          (import "t" "e" (tag $e (param i64))) (import "t" "f" (tag $f (param i64)))
          (import "t" "throw_e" (func $throw_e)) (import "t" "throw_f" (func $throw_f))
          (func (export "run") (param i32) (result i64)
            (block $f (result i64)
              (block $e (result i64)
                (try_table (catch $f $f) (catch $e $e)
                  (if (local.get 0) (then (call $throw_e)) (else (call $throw_f))))
                (unreachable))
              (return (i64.add (i64.const 10))))
            (i64.add (i64.const 20))))"#,
    );
    let mut linker = Linker::<()>::new(&engine);
    let instance = linker.instantiate(&mut store, &thrower.unwrap()).unwrap();
    linker.instance(&mut store, "t", instance).unwrap();
    let catcher = catcher.unwrap();
    let run = linker.instantiate(&mut store, &catcher).unwrap();
    assert_eq!(run.call::<_, i64>(&mut store, "run", 1).unwrap(), 11);
    assert_eq!(run.call::<_, i64>(&mut store, "run", 0).unwrap(), 22);
    // A second instance has tags of its own.
    let other = linker.instantiate(
        &mut store,
        &Module::new(&engine, "(module (tag (export \"e\") (param i32)))").unwrap(),
    );
    let wrong = other.unwrap().get_tag(&mut store, "e").unwrap();
    let imports: Vec<Extern> = catcher.imports().map(|_| wrong.into()).collect();
    let error = Instance::new(&mut store, &catcher, &imports).unwrap_err();
    assert_eq!(
        error.to_string(),
        "incompatible import type for `t::e`: expected (tag (param i64)), found (tag (param i32))"
    );
}

#[test]
fn an_exception_of_another_store_is_an_error_like_any_other() {
    let engine = Engine::default();
    let mut other = Store::new(&engine, ());
    let tag = Tag::new(&mut other, TagType::new(FuncType::new([], []))).unwrap();
    let foreign = Exception::new(&mut other, tag, &[]).unwrap();
    let mut store = Store::new(&engine, ());
    assert!(foreign.tag(&store).is_err());
    assert!(foreign.values(&mut store).is_err());
    assert!(Exception::new(&mut store, tag, &[]).is_err());
    let mut linker = Linker::<()>::new(&engine);
    let thrown = foreign.clone();
    let throw = move || -> Result<()> { Err(thrown.clone().into()) };
    linker.func_wrap("host", "throw", throw).unwrap();
    let body = r#"(module (import "host" "throw" (func $throw))
        (func (export "run") (block $h (try_table (catch_all $h) (call $throw)))))"#;
    let module = Module::new(&engine, body).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let error = instance.call::<_, ()>(&mut store, "run", ()).unwrap_err();
    assert!(
        error.is::<Exception>(),
        "it went through the guest uncaught: {error:?}"
    );
    let results = Tag::new(&mut other, TagType::new(FuncType::new([], [ValType::I32])));
    assert_eq!(
        results.unwrap_err().to_string(),
        "a tag has no results, but (func (result i32)) has"
    );
}

#[test]
fn exceptions_can_be_switched_off_and_their_older_form_is_refused_by_name() {
    let mut config = Config::new();
    config.wasm_exceptions(false);
    let engine = Engine::new(&config).unwrap();
    let error = Module::new(&engine, "(module (tag))").unwrap_err();
    assert!(format!("{error:#}").contains("exceptions"), "{error:#}");
    let legacy = "(module (tag $e) (func try nop catch $e nop end))";
    let error = Module::new(&Engine::default(), legacy).unwrap_err();
    assert!(format!("{error:#}").contains("legacy exceptions"), "{error:#}");
}

/// Work that grows with calls times clauses around them is bounded: such a module compiles, or is refused with the numbers.
#[test]
fn many_clauses_around_many_calls_do_not_make_compiling_hang() {
    let engine = Engine::default();
    let nested = |depth: usize, clause: &str, calls: usize| {
        let (open, close) = (format!("try_table {clause} ").repeat(depth), "end ".repeat(depth));
        format!(
            "(module (tag $e) (func $f {open} {} {close}))",
            "call $f ".repeat(calls)
        )
    };
    Module::new(&engine, nested(10_000, "", 10_000)).unwrap();
    Module::new(&engine, nested(500, "(catch $e 0)", 500)).unwrap();
    let error = Module::new(&engine, nested(10_000, "(catch $e 0)", 10_000)).unwrap_err();
    assert!(error.to_string().contains("carry"), "{error}");
    let tags = "(tag) ".repeat(1_000);
    let clauses: String = (0..1_000).map(|tag| format!("(catch {tag} 0) ")).collect();
    let calls = "call $f ".repeat(100);
    let many = format!("(module {tags} (func $f try_table {clauses} {calls} end))");
    let error = Module::new(&engine, many).unwrap_err();
    assert!(error.to_string().contains("carry"), "{error}");
}

/// What an error says was being done, and panics when it is dropped.
struct Bomb;

impl std::fmt::Display for Bomb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bomb")
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the bomb went off");
    }
}

/// The guest catches the exception, so that the error which carried it is dropped on the way.
#[test]
fn a_destructor_that_panics_when_its_error_was_caught_is_a_panic_of_the_host() {
    let test = "a_destructor_that_panics_when_its_error_was_caught_is_a_panic_of_the_host";
    let child = in_child(test, || {
        let engine = Engine::default();
        let module = Module::new(
            &engine,
            r#"(module
                (import "host" "now" (func $now)) (import "host" "later" (func $later))
                (func (export "now") (block $h (try_table (catch_all $h) (call $now))))
                (func (export "later") (block $h (try_table (catch_all $h) (call $later))))
                (func (export "seven") (result i32) (i32.const 7)))"#,
        )
        .unwrap();
        let mut linker = Linker::<Tag>::new(&engine);
        let throw = |mut caller: Caller<'_, Tag>| -> Result<()> {
            let tag = *caller.data();
            Err(Error::from(Exception::new(&mut caller, tag, &[])?).context(Bomb))
        };
        linker.func_wrap("host", "now", throw).unwrap();
        linker
            .func_wrap_async("host", "later", async move |caller: Caller<'_, Tag>, (): ()| {
                wait(1).await;
                throw(caller)
            })
            .unwrap();
        let mut scratch = Store::new(&engine, ());
        let ty = || TagType::new(FuncType::new([], []));
        let tag = Tag::new(&mut scratch, ty()).unwrap();
        let mut store = Store::new(&engine, tag);
        *store.data_mut() = Tag::new(&mut store, ty()).unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        for name in ["now", "later", "now"] {
            let call = AssertUnwindSafe(|| drive(instance.call_async::<_, (), ()>(&mut store, name, ())));
            let payload = catch_unwind(call).expect_err("the panic goes on");
            assert_eq!(payload.downcast_ref(), Some(&"the bomb went off"), "{name}");
            assert_eq!(instance.call::<_, i32>(&mut store, "seven", ()).unwrap(), 7);
        }
        let call = AssertUnwindSafe(|| instance.call::<_, ()>(&mut store, "now", ()));
        assert!(catch_unwind(call).is_err());
    });
    assert!(child.status.success(), "{child:?}");
}
