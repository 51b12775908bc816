//! Programs as they are written for Wasmtime, moved in the way that "Moving from Wasmtime" says: a comment shows what a line was where it
//! is not the same. The programs are those that people start from: hello, linking, memory, multi-value, externref, fuel, and so on.

use selvedge::{
    AsContext, AsContextMut, Caller, Config, Context, Engine, Error, Extern, ExternRef, ExternType, Func,
    FuncType, Global, GlobalType, Instance, Linker, Memory, MemoryType, Module, OptLevel, RefType,
    ResourceLimiter, Result, RootScope, SharedMemory, Store, StoreContextMut, StoreLimits,
    StoreLimitsBuilder, Table, TableType, Trap, Val, ValType, WasmBacktrace, bail,
};
use selvedge_tests::{drive, wait};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

struct MyState {
    name: String,
    count: usize,
}

const HELLO: &str = r#"(module (import "" "" (func $hello)) (func (export "run") (call $hello)))"#;

#[test]
fn no_method_of_wasmtime_is_missing_on_the_page() {
    let page = include_str!("../../crates/selvedge/MOVING-FROM-WASMTIME.md");
    let names = include_str!("../fixtures/wasmtime-48-names.txt");
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let words: HashSet<&str> = page.split(|c| !is_part(c)).collect();
    let names = names.lines().filter(|line| !line.starts_with('#'));
    let missing: Vec<_> = names
        .clone()
        .filter(|name| name.split("::").any(|part| !words.contains(part)))
        .collect();
    assert!(names.count() > 400, "a list of all");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn hello() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, HELLO)?;
    let mut store = Store::new(
        &engine,
        MyState {
            name: "hello, world!".to_string(),
            count: 0,
        },
    );
    let hello_func = Func::wrap(&mut store, |mut caller: Caller<'_, MyState>| {
        assert_eq!(caller.data().name, "hello, world!");
        caller.data_mut().count += 1;
    })?; // was: without `?`
    let imports = [hello_func.into()];
    let instance = Instance::new(&mut store, &module, &imports)?;
    let run = instance.typed::<(), ()>(&mut store, "run")?; // was: get_typed_func
    run.call(&mut store, ())?;
    assert_eq!(store.into_data().count, 1);
    Ok(())
}

#[test]
fn gcd() -> Result<()> {
    let mut store = Store::<()>::default();
    let module = Module::new(
        store.engine(),
        r#"(module (func (export "gcd") (param i32 i32) (result i32) (local i32)
            (loop $next
              (if (local.get 1) (then
                (local.set 2 (i32.rem_u (local.get 0) (local.get 1)))
                (local.set 0 (local.get 1))
                (local.set 1 (local.get 2))
                (br $next))))
            (local.get 0)))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let gcd = instance.typed::<(i32, i32), i32>(&mut store, "gcd")?;
    assert_eq!(gcd.call(&mut store, (6, 27))?, 3);
    Ok(())
}

#[test]
fn linking() -> Result<()> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "double", |x: i32| x * 2)?;
    let linking1 = Module::new(
        &engine,
        r#"(module (import "linking2" "double" (func $double (param i32) (result i32)))
            (import "linking2" "memory" (memory 1))
            (func (export "run") (result i32) (call $double (i32.load8_u (i32.const 0)))))"#,
    )?;
    let linking2 = Module::new(
        &engine,
        r#"(module (import "host" "double" (func $f (param i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 0) "\15")
            (func (export "double") (param i32) (result i32) (call $f (local.get 0))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let linking2 = linker.instantiate(&mut store, &linking2)?;
    linker.instance(&mut store, "linking2", linking2)?;
    let linking1 = linker.instantiate(&mut store, &linking1)?;
    let run = linking1.typed::<(), i32>(&mut store, "run")?;
    assert_eq!(run.call(&mut store, ())?, 42);
    let double = linker.get(&mut store, "linking2", "double")?;
    assert!(matches!(double, Extern::Func(_)));
    let global = Global::new(
        &mut store,
        GlobalType::new(ValType::I32, false), // was: Mutability::Const
        Val::I32(3),
    )?;
    linker.define("host", "three", global)?; // was: define(&store, ..)
    Ok(())
}

#[test]
fn memory() -> Result<()> {
    let mut store: Store<()> = Store::default();
    let module = Module::new(
        store.engine(),
        r#"(module (memory (export "memory") 2 3)
            (func (export "size") (result i32) (memory.size))
            (func (export "load") (param i32) (result i32) (i32.load8_s (local.get 0)))
            (func (export "store") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
            (data (i32.const 0x1000) "\01\02\03\04"))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let memory = instance
        .get_memory(&mut store, "memory")
        .context("failed to find `memory` export")?;
    let size = instance.typed::<(), i32>(&mut store, "size")?;
    let load_fn = instance.typed::<i32, i32>(&mut store, "load")?;
    let store_fn = instance.typed::<(i32, i32), ()>(&mut store, "store")?;

    assert_eq!(memory.size(&store), 2);
    assert_eq!(memory.data_size(&store), 0x20000);
    assert_eq!(memory.data_mut(&mut store)[0], 0);
    assert_eq!(memory.data_mut(&mut store)[0x1003], 4);
    assert_eq!(size.call(&mut store, ())?, 2);
    assert_eq!(load_fn.call(&mut store, 0x1003)?, 4);
    assert!(load_fn.call(&mut store, 0x20000).is_err()); // out of bounds trap
    memory.data_mut(&mut store)[0x1003] = 5;
    store_fn.call(&mut store, (0x1002, 6))?;
    assert_eq!(memory.data(&store)[0x1002], 6);
    assert!(store_fn.call(&mut store, (0x20000, 0)).is_err()); // out of bounds trap

    memory.grow(&mut store, 1)?;
    assert_eq!(memory.size(&store), 3);
    assert!(memory.grow(&mut store, 1).is_err());
    assert!(memory.grow(&mut store, 0).is_ok());
    let mut buffer = [0; 2];
    memory.read(&store, 0x1002, &mut buffer)?;
    assert_eq!(buffer, [6, 5]);

    let memory2 = Memory::new(&mut store, MemoryType::new(5, Some(5)))?;
    assert_eq!(memory2.size(&store), 5);
    assert!(memory2.grow(&mut store, 1).is_err());
    assert_eq!(memory2.ty(&store).minimum, 5); // was: minimum()
    assert!(!memory2.data_ptr(&store).is_null());
    Ok(())
}

#[test]
fn multi() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let module = Module::new(
        &engine,
        r#"(module (func $f (import "" "f") (param i32 i64) (result i64 i32))
            (func (export "g") (param i32 i64) (result i64 i32) (call $f (local.get 0) (local.get 1))))"#,
    )?;
    let callback_type = FuncType::new([ValType::I32, ValType::I64], [ValType::I64, ValType::I32]); // was: new(&engine, ..)
    let callback_func = Func::new(
        &mut store,
        callback_type.clone(),
        |_: Caller<'_, ()>, args, results| {
            results[0] = Val::I64(args[1].unwrap_i64() + 1);
            results[1] = Val::I32(args[0].unwrap_i32() + 1);
            Ok(())
        },
    )?;
    assert!(callback_func.matches_ty(&store, &callback_type));
    let instance = Instance::new(&mut store, &module, &[callback_func.into()])?;
    let g = instance.get_func(&mut store, "g").context("no `g`")?;
    let mut results = [Val::I32(0), Val::I32(0)];
    g.call(&mut store, &[Val::I32(1), Val::I64(3)], &mut results)?;
    assert_eq!(results[0].unwrap_i64(), 4);
    assert_eq!(results[1].unwrap_i32(), 2);
    let typed = g.typed::<(i32, i64), (i64, i32)>(&store)?;
    assert_eq!(typed.call(&mut store, (5, 6))?, (7, 6));
    let (params, results): (Vec<_>, Vec<_>) = (
        callback_type.params().iter().collect(), // was: an iterator
        callback_type.results().iter().collect(),
    );
    assert_eq!((params.len(), results.len()), (2, 2));
    Ok(())
}

#[test]
fn interrupt() -> Result<()> {
    let engine = Engine::new(&Config::new())?; // was: epoch_interruption(true)
    let mut store = Store::new(&engine, ());
    let module = Module::new(
        &engine,
        r#"(module (import "" "go" (func $go)) (func (export "run") (call $go) (loop (br 0))))"#,
    )?;
    let handle = store.interrupt_handle()?; // was: set_epoch_deadline(1)
    let mut linker = Linker::new(&engine);
    linker.func_wrap("", "go", move || {
        let handle = handle.clone();
        std::thread::spawn(move || handle.interrupt()); // was: engine.increment_epoch()
    })?;
    let instance = linker.instantiate(&mut store, &module)?;
    let run = instance.typed::<(), ()>(&mut store, "run")?;
    let error = run.call(&mut store, ()).unwrap_err();
    assert_eq!(error.downcast::<Trap>()?, Trap::Interrupt);
    Ok(())
}

#[test]
fn fuel() -> Result<()> {
    let mut config = Config::new();
    config.fuel(true); // was: consume_fuel
    let engine = Engine::new(&config)?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(10_000)?;
    let module = Module::new(
        store.engine(),
        r#"(module (func $fibonacci (export "fibonacci") (param i32) (result i32)
            (if (i32.lt_s (local.get 0) (i32.const 2)) (then (return (local.get 0))))
            (i32.add (call $fibonacci (i32.sub (local.get 0) (i32.const 1)))
                (call $fibonacci (i32.sub (local.get 0) (i32.const 2))))))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let fibonacci = instance.typed::<i32, i32>(&mut store, "fibonacci")?;
    for n in 1.. {
        let fuel_before = store.get_fuel()?;
        let output = match fibonacci.call(&mut store, n) {
            Ok(v) => v,
            Err(e) => {
                assert_eq!(e.downcast::<Trap>()?, Trap::OutOfFuel);
                assert_eq!(store.get_fuel()?, 0);
                break;
            }
        };
        assert!(output > 0 && fuel_before > store.get_fuel()?);
        store.set_fuel(10_000)?;
    }
    Ok(())
}

#[test]
fn externref() -> Result<()> {
    let mut store = Store::<()>::default();
    let module = Module::new(
        store.engine(),
        r#"(module (table $table (export "table") 10 externref)
            (global $global (export "global") (mut externref) (ref.null extern))
            (func (export "func") (param externref) (result externref) (local.get 0)))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let externref = ExternRef::new(&mut store, "Hello, World!")?; // was: Rooted<ExternRef>
    let data = externref.data(&store)?; // was: an option within
    assert_eq!(data.downcast_ref::<&str>(), Some(&"Hello, World!"));

    let table = instance.get_table(&mut store, "table").context("no `table`")?;
    table.set(&mut store, 3, Some(externref).into())?;
    let element = table.get(&mut store, 3).context("no element 3")?; // was: a Ref
    assert!(ExternRef::ref_eq(
        &store,
        element.unwrap_externref().context("null")?,
        externref
    )?);
    table.fill(&mut store, 5, element, 2)?;
    Table::copy(&mut store, &table, 0, &table, 3, 7)?;
    let held: Vec<bool> = (0..10)
        .map(|at| !table.get(&mut store, at).is_none_or(|element| element.is_null()))
        .collect();
    assert_eq!(
        held,
        [true, false, true, true, false, false, false, false, false, false]
    );

    let global = instance.get_global(&mut store, "global").context("no `global`")?;
    global.set(&mut store, Some(externref).into())?;
    assert!(matches!(global.get(&mut store), Val::ExternRef(Some(_))));

    let func = instance.typed::<Option<ExternRef>, Option<ExternRef>>(&mut store, "func")?;
    let returned = func.call(&mut store, Some(externref))?;
    assert!(ExternRef::ref_eq(&store, returned.context("null")?, externref)?);
    {
        let mut scope = RootScope::new(&mut store);
        let counter = ExternRef::new(&mut scope, 1_u32)?;
        if let Some(count) = counter.data_mut(&mut scope)?.downcast_mut::<u32>() {
            *count += 1;
        }
        assert_eq!(counter.data(&scope)?.downcast_ref::<u32>(), Some(&2));
    }
    store.gc(); // was: gc(None)?
    Ok(())
}

#[test]
fn multimemory() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let module = Module::new(
        &engine,
        r#"(module (memory (export "memory0") 2 3) (memory (export "memory1") 2 4)
            (func (export "size1") (result i32) (memory.size 1)))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let memory1 = instance
        .get_memory(&mut store, "memory1")
        .context("no `memory1`")?;
    memory1.grow(&mut store, 2)?;
    let size1 = instance.typed::<(), i32>(&mut store, "size1")?;
    assert_eq!(size1.call(&mut store, ())?, 4);
    Ok(())
}

#[test]
fn threads() -> Result<()> {
    let mut config = Config::new();
    config.wasm_threads(true);
    let engine = Engine::new(&config)?;
    let module = Module::new(
        &engine,
        r#"(module (import "env" "memory" (memory 1 1 shared)) (import "" "done" (func $done))
            (func (export "run") (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1))) (call $done)))"#,
    )?;
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
    let mut linker = Linker::<u32>::new(&engine);
    linker.func_wrap("", "done", |mut caller: Caller<'_, u32>| *caller.data_mut() += 1)?;
    linker.define("env", "memory", memory.clone())?;
    let children: Vec<_> = (0..4)
        .map(|_| {
            let (engine, module, linker) = (engine.clone(), module.clone(), linker.clone());
            std::thread::spawn(move || -> Result<u32> {
                let mut store = Store::new(&engine, 0);
                let instance = linker.instantiate(&mut store, &module)?;
                let run = instance.typed::<(), ()>(&mut store, "run")?;
                run.call(&mut store, ())?;
                Ok(store.into_data())
            })
        })
        .collect();
    for child in children {
        assert_eq!(child.join().expect("no panic")?, 1);
    }
    assert_eq!(memory.data()[0].load(Ordering::SeqCst), 4); // was: UnsafeCell
    Ok(())
}

#[test]
fn serialize() -> Result<()> {
    let engine = Engine::default();
    let bytes = engine.precompile_module(HELLO.as_bytes())?; // was: also module.serialize()
    assert!(Engine::detect_precompiled(&bytes)); // was: an option
    // SAFETY: made above.
    let module = unsafe { Module::deserialize(&engine, &bytes)? };
    let mut store = Store::new(&engine, 0);
    let mut linker = Linker::<i32>::new(&engine);
    linker.func_wrap("", "", |mut caller: Caller<'_, i32>| *caller.data_mut() += 1)?;
    let instance_pre = linker.instantiate_pre(&module)?;
    let instance = instance_pre.instantiate(&mut store)?;
    let export = module.get_export_index("run").context("no `run`")?;
    let run = instance
        .get_module_export(&mut store, &export)
        .and_then(Extern::into_func)
        .context("no function")?;
    run.call(&mut store, &[], &mut [])?;
    assert_eq!(*store.data(), 1);
    assert!(Module::same(instance.module(&store), &module));
    Ok(())
}

#[test]
fn tokio() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module (import "host" "sleep" (func $sleep (param i32) (result i32)))
            (func (export "run") (param i32) (result i32) (call $sleep (local.get 0))))"#,
    )?;
    let mut linker = Linker::<u64>::new(&engine);
    // was: |caller, (n,): (i32,)| Box::new(async move { .. })
    linker.func_wrap_async(
        "host",
        "sleep",
        async |mut caller: Caller<'_, u64>, n: i32| -> Result<i32> {
            *caller.data_mut() += 1;
            wait(3).await;
            Ok(n + 1)
        },
    )?;
    let task = async move {
        let mut store = Store::new(&engine, 0);
        store.set_fuel(u64::MAX)?;
        let every = std::num::NonZeroU64::new(10_000).context("not zero")?;
        store.set_fuel_policy(selvedge::FuelPolicy::Yield { every })?; // was: fuel_async_yield_interval(Some(10_000))
        let instance = linker.instantiate_async(&mut store, &module).await?;
        let run = instance.typed::<i32, i32>(&mut store, "run")?;
        run.call_async(&mut store, 41).await
    };
    fn is_send<F: Send>(future: F) -> F {
        future
    }
    let (answer, pending) = drive(is_send(task));
    assert_eq!((answer?, pending), (42, 3));
    Ok(())
}

#[test]
fn limits() -> Result<()> {
    struct State {
        limits: StoreLimits,
    }
    let engine = Engine::default();
    let limits = StoreLimitsBuilder::new()
        .memory_bytes(1 << 20) // was: memory_size
        .instances(2)
        .build();
    let mut store = Store::new(&engine, State { limits });
    store.limiter(|state| &mut state.limits);
    let memory = Memory::new(&mut store, MemoryType::new(16, None))?;
    assert!(memory.grow(&mut store, 1).is_err());
    let required = Module::new(&engine, "(module (memory 16) (table 3 funcref))")?.resources_required();
    assert_eq!((required.largest_memory_bytes, required.tables), (1 << 20, 1));

    struct Mine(usize);
    impl ResourceLimiter for Mine {
        fn memory_growing(&mut self, _: u64, desired: u64, _: Option<u64>) -> Result<bool> {
            Ok(desired <= self.0 as u64) // was: usize
        }
        fn table_growing(&mut self, _: u64, _: u64, _: Option<u64>) -> Result<bool> {
            Err(Error::msg("no tables"))
        }
    }
    let mut store = Store::new(&engine, Mine(1 << 16));
    store.limiter(|mine| mine);
    Memory::new(&mut store, MemoryType::new(1, None))?;
    let ty = TableType::new(RefType::FUNCREF, 1, None);
    let error = Table::new(&mut store, ty, Val::FuncRef(None)).unwrap_err(); // was: Ref::Func(None)
    assert_eq!(error.to_string(), "no tables");
    Ok(())
}

/// What reads a string of the guest that called: in many embedders.
fn read_string<T>(caller: &mut Caller<'_, T>, at: u32, length: u32) -> Result<String> {
    let memory = match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => memory,
        _ => bail!("failed to find host memory"),
    };
    let bytes = memory
        .data(&caller)
        .get(at as usize..)
        .and_then(|bytes| bytes.get(..length as usize));
    Ok(std::str::from_utf8(bytes.context("pointer/length out of bounds")?)?.to_owned())
}

/// Helpers over whatever lends a store, in the two forms that are usual.
fn double(mut store: impl AsContextMut<Data = u64>) -> u64 {
    let mut context = store.as_context_mut();
    *context.data_mut() *= 2;
    *context.as_context().data()
}

fn add<'a>(store: impl Into<StoreContextMut<'a, u64>>, more: u64) -> u64 {
    let mut store: StoreContextMut<'a, u64> = store.into();
    *store.data_mut() += more;
    double(&mut store)
}

#[test]
fn helpers_over_whatever_lends_a_store() -> Result<()> {
    let engine = Engine::default();
    let mut linker = Linker::<u64>::new(&engine);
    linker.func_wrap(
        "env",
        "log",
        |mut caller: Caller<'_, u64>, at: u32, length: u32| -> Result<()> {
            assert_eq!(read_string(&mut caller, at, length)?, "Hello");
            assert!(read_string(&mut caller, u32::MAX, 1).is_err());
            assert_eq!(double(&mut caller), 2);
            assert_eq!(add(&mut caller, 1), 6);
            assert_eq!(add(caller, 1), 14);
            Ok(())
        },
    )?;
    let module = Module::new(
        &engine,
        r#"(module (import "env" "log" (func $log (param i32 i32))) (memory (export "memory") 1)
            (data (i32.const 8) "Hello") (func (export "run") (call $log (i32.const 8) (i32.const 5))))"#,
    )?;
    let mut store = Store::new(&engine, 1);
    let instance = linker.instantiate(&mut store, &module)?;
    instance
        .typed::<(), ()>(&mut store, "run")?
        .call(&mut store, ())?;
    assert_eq!(double(store.as_context_mut()), 28);
    assert_eq!(add(&mut store, 0), 56);
    assert_eq!(format!("{store:?}"), "Store { data: 56, .. }");
    Ok(())
}

#[test]
fn imports_are_defined_by_what_they_ask_for() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "a" "f" (func (param i32) (result i64))) (import "a" "g" (global i32))
            (import "a" "m" (memory 1)) (import "a" "t" (table 2 funcref)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let mut imports = Vec::new();
    for import in module.imports() {
        imports.push(match import.ty() {
            ExternType::Func(ty) => {
                let results = ty.results().to_vec();
                Func::new(&mut store, ty, move |_: Caller<'_, ()>, _, out| {
                    for (out, ty) in out.iter_mut().zip(&results) {
                        *out = Val::default_for(*ty)?; // was: ty.default_value()
                    }
                    Ok(())
                })?
                .into()
            }
            ty => Extern::default_for(&mut store, ty)?, // was: ty.default_value(&mut store)?
        });
    }
    assert!(import_types(&module).all(|ty| ty.global().is_none_or(|global| !global.mutable)));
    Instance::new(&mut store, &module, &imports)?;
    Ok(())
}

fn import_types(module: &Module) -> impl Iterator<Item = ExternType> + '_ {
    module.imports().map(|import| import.ty())
}

#[test]
fn traps_and_errors_come_out_as_what_they_are() -> Result<()> {
    #[derive(Debug)]
    struct Exit(i32);
    impl std::fmt::Display for Exit {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "exit {}", self.0)
        }
    }
    impl std::error::Error for Exit {}

    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module $app (import "host" "exit" (func $exit (param i32)))
            (func $inner (unreachable)) (func (export "trap") (call $inner))
            (func (export "exit") (call $exit (i32.const 3))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    linker.func_wrap(
        "host",
        "exit",
        |caller: Caller<'_, ()>, code: i32| -> Result<()> {
            let frames = WasmBacktrace::capture(&caller);
            assert_eq!(frames.frames().len(), 1);
            Err(Exit(code).into())
        },
    )?;
    let instance = linker.instantiate(&mut store, &module)?;
    let error = instance
        .typed::<(), ()>(&mut store, "trap")?
        .call(&mut store, ())
        .unwrap_err();
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Unreachable)); // was: UnreachableCodeReached
    let frames = error.backtrace().context("no backtrace")?.frames(); // was: downcast_ref::<WasmBacktrace>()
    assert_eq!(
        (frames[0].func_name(), frames[0].module_name()),
        (Some("inner"), Some("app"))
    ); // was: module().name()
    assert!(frames[0].wasm_offset().is_some()); // was: module_offset()
    let error = instance
        .typed::<(), ()>(&mut store, "exit")?
        .call(&mut store, ())
        .unwrap_err();
    assert_eq!(error.downcast::<Exit>()?.0, 3);
    Ok(())
}

#[test]
fn a_call_that_must_end() -> Result<()> {
    use selvedge::GuestCall;
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (func (export "run") (loop (br 0))))"#)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let run = instance.typed::<(), ()>(&mut store, "run")?;
    // was: set_epoch_deadline, and a thread that counts
    let call = run
        .call_async(&mut store, ())
        .with_timeout(Duration::from_millis(20));
    let error = drive(call).0.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
    Ok(())
}

#[test]
#[expect(deprecated, reason = "the warning says the name here")]
fn names_of_wasmtime_work_where_they_mean_the_same() -> Result<()> {
    let mut config = Config::new();
    config
        .async_support(true)
        .consume_fuel(true)
        .max_wasm_stack(64 << 10)
        .async_stack_size(2 << 20)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true);
    let engine = Engine::new(&config)?;
    let limits = StoreLimitsBuilder::new()
        .memory_size(1 << 16)
        .trap_on_grow_failure(true)
        .build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    store.set_fuel(1 << 40)?;
    let module = Module::new(
        &engine,
        r#"(module (memory 1) (func (export "grow") (result i32) (memory.grow (i32.const 1)))
            (func (export "trap") (unreachable))
            (func (export "spin") (local i32)
                (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 1000)))))
            (func $deep (export "deep") (call $deep)))"#,
    )?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let grow = instance.get_typed_func::<(), i32>(&mut store, "grow")?;
    assert!(grow.call(&mut store, ()).is_err());
    let error = instance
        .get_typed_func::<(), ()>(&mut store, "deep")?
        .call(&mut store, ())
        .unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(&Trap::StackOverflow)));
    let error = instance
        .get_typed_func::<(), ()>(&mut store, "trap")?
        .call(&mut store, ())
        .unwrap_err();
    assert!(matches!(
        error.downcast_ref(),
        Some(&Trap::UnreachableCodeReached)
    ));
    let frame = &error.backtrace().context("no backtrace")?.frames()[0];
    assert_eq!(frame.module_offset(), frame.wasm_offset());
    assert!(Val::null_func_ref().is_null() && Val::null_extern_ref().is_null());
    assert!(store.fuel_async_yield_interval(Some(0)).is_err());
    store.fuel_async_yield_interval(Some(100))?;
    let spin = instance.get_typed_func::<(), ()>(&mut store, "spin")?;
    let (answer, yields) = drive(spin.call_async(&mut store, ()));
    answer?;
    assert!(yields > 10, "{yields}");
    store.fuel_async_yield_interval(None)?;
    spin.call(&mut store, ())
}

#[test]
fn a_caller_sets_how_its_guest_goes_on_without_fuel() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let mut linker = Linker::<u64>::new(&engine);
    linker.func_wrap("", "yield", |mut caller: Caller<'_, u64>| -> Result<()> {
        let every = std::num::NonZeroU64::new(*caller.data()).context("not zero")?;
        caller.set_fuel_policy(selvedge::FuelPolicy::Yield { every })
    })?;
    let module = Module::new(
        &engine,
        r#"(module (import "" "yield" (func $yield)) (func (export "run") (local i32) (call $yield)
            (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 1000))))))"#,
    )?;
    let mut store = Store::new(&engine, 500);
    store.set_fuel(1 << 40)?;
    let instance = linker.instantiate(&mut store, &module)?;
    let run = instance.typed::<(), ()>(&mut store, "run")?;
    let (answer, yields) = drive(run.call_async(&mut store, ()));
    answer?;
    assert!(yields > 5, "{yields}");
    store.set_fuel_policy(selvedge::FuelPolicy::Trap)?;
    run.call(&mut store, ())?; // nobody to yield to: it goes on
    assert!(store.get_fuel()? < 1 << 40);
    Ok(())
}
