//! Bad input gets an error that names the thing and the number that decided.

use selvedge::{
    Caller, CompileError, Config, Engine, Extern, Func, Global, GlobalType, Instance, Linker, Memory,
    MemoryType, Module, RefType, Result, SharedMemory, Store, Table, TableType, Trap, UnknownImportError,
    Val, ValType,
};
use selvedge_tests::{drive, wait};

fn error_of<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn unknown_and_incompatible_imports_are_named_with_their_types() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (import "env" "f" (func (param i32))))"#)?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::<()>::new(&engine);
    assert_eq!(
        error_of(linker.instantiate(&mut store, &module)),
        "unknown import: `env::f` has not been defined, expected (func (param i32))"
    );
    linker.func_wrap("env", "f", |_: i64| ())?;
    assert_eq!(
        error_of(linker.instantiate(&mut store, &module)),
        "incompatible import type for `env::f`: expected (func (param i32)), found (func (param i64))"
    );
    let error = error_of(linker.func_wrap("env", "f", |_: i32| ()).map(drop));
    assert!(error.contains("`env::f` is defined already"), "{error}");
    linker.allow_shadowing(true).func_wrap("env", "f", |_: i32| ())?;
    linker.instantiate(&mut store, &module)?;
    assert_eq!(
        error_of(Instance::new(&mut store, &module, &[])),
        "the module has 1 imports (`env::f`), but 0 were given"
    );
    Ok(())
}

#[test]
fn refused_modules_say_where_and_why() {
    let engine = Engine::default();
    let error = Module::new(&engine, b"\0asm\x01\0\0\0\x01\x02\x03").expect_err("cut off");
    assert!(error.downcast_ref::<CompileError>().is_some(), "{error:?}");
    let error = error_of(Module::new(&engine, "(module (type (struct)))"));
    assert!(error.contains("garbage collection"), "{error}");
    assert!(error.contains("offset") || error.contains("0x"), "{error}");
}

#[test]
fn things_of_another_store_are_refused() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory (export "m") 1) (table (export "t") 1 funcref) (global (export "g") (mut i32) (i32.const 1))
            (func (export "f")))"#,
    )?;
    let (mut one, mut two) = (Store::new(&engine, ()), Store::new(&engine, ()));
    let instance = Instance::new(&mut one, &module, &[])?;
    let func = instance.get_func(&mut one, "f").expect("exported");
    let table = instance.get_table(&mut one, "t").expect("exported");
    let memory = instance.get_memory(&mut one, "m").expect("exported");
    let global = instance.get_global(&mut one, "g").expect("exported");
    assert!(instance.get_export(&mut two, "f").is_none());
    for error in [
        error_of(func.call(&mut two, &[], &mut [])),
        error_of(func.typed::<(), ()>(&two)),
        error_of(table.set(&mut two, 0, Val::FuncRef(None))),
        error_of(memory.write(&mut two, 0, &[1])),
        error_of(memory.grow(&mut two, 1)),
        error_of(global.set(&mut two, Val::I32(2))),
        error_of(instance.call::<(), ()>(&mut two, "f", ())),
    ] {
        assert!(error.contains("belongs to store"), "{error}");
    }
    let foreign = Instance::new(&mut two, &module, &[])?;
    let foreign = foreign.get_func(&mut two, "f").expect("exported");
    let error = error_of(table.set(&mut one, 0, Val::FuncRef(Some(foreign))));
    assert!(error.contains("belongs to store"), "{error}");
    Ok(())
}

#[test]
fn host_made_things_are_imported_and_shared() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "memory" (memory 1 2)) (import "host" "table" (table 2 funcref))
            (import "host" "global" (global $g (mut i64))) (import "host" "twice" (func $twice (param i32) (result i32)))
            (elem (table 0) (i32.const 0) func $twice $add)
            (func $add (param i32) (result i32) local.get 0 i32.const 100 i32.add)
            (func (export "run") (param i32 i32) (result i32)
              global.get $g i64.const 1 i64.add global.set $g
              i32.const 8 local.get 1 i32.store8
              local.get 1 local.get 0 call_indirect (param i32) (result i32)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let memory = Memory::new(&mut store, MemoryType::new(1, Some(2)))?;
    let ty = TableType::new(RefType::FUNCREF, 2, None);
    let table = Table::new(&mut store, ty, Val::FuncRef(None))?;
    let global = Global::new(
        &mut store,
        GlobalType {
            content: ValType::I64,
            mutable: true,
        },
        Val::I64(5),
    )?;
    let twice = Func::wrap(&mut store, |n: i32| n * 2)?;
    let imports: [Extern; 4] = [memory.into(), table.into(), global.into(), twice.into()];
    let instance = Instance::new(&mut store, &module, &imports)?;
    assert_eq!(instance.call::<_, i32>(&mut store, "run", (0, 21))?, 42);
    assert_eq!(instance.call::<_, i32>(&mut store, "run", (1, 21))?, 121);
    assert_eq!(global.get(&mut store).i64(), Some(7));
    assert_eq!(memory.data(&store)[8], 21);
    let Some(Val::FuncRef(Some(held))) = table.get(&mut store, 0) else {
        panic!("the host function is in the table")
    };
    let mut results = [Val::I32(0)];
    held.call(&mut store, &[Val::I32(4)], &mut results)?;
    assert_eq!(results[0].i32(), Some(8));
    assert_eq!(memory.grow(&mut store, 1)?, 1);
    let error = error_of(memory.grow(&mut store, 1));
    assert_eq!(
        error,
        "memory of 2 pages cannot grow by 1: its maximum is 2 pages"
    );
    Ok(())
}

#[test]
fn what_cannot_grow_says_its_size_and_what_forbids_it() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut grow = |maximum, delta| {
        let ty = TableType::new(RefType::FUNCREF, 3, maximum);
        let table = Table::new(&mut store, ty, Val::FuncRef(None)).expect("a small table");
        error_of(table.grow(&mut store, delta, Val::FuncRef(None)))
    };
    assert_eq!(
        grow(Some(5), 3),
        "table of 3 elements cannot grow by 3: its maximum is 5 elements"
    );
    assert_eq!(
        grow(None, u64::MAX),
        format!(
            "table of 3 elements cannot grow by {}: the limit is 10000000 elements",
            u64::MAX
        )
    );
    let shared = SharedMemory::new(&engine, MemoryType::shared(1, 3))?;
    let error = error_of(shared.grow(5));
    assert_eq!(
        error,
        "memory of 1 pages cannot grow by 5: its maximum is 3 pages"
    );
    Ok(())
}

#[test]
fn unknown_imports_can_trap_or_answer_zero() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "env" "f" (func $f (param i32) (result i64)))
            (func (export "run") (result i64) i32.const 1 call $f))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let mut zero = Linker::<()>::new(&engine);
    zero.define_unknown_imports_as_default_values(&mut store, &module)?;
    let instance = zero.instantiate(&mut store, &module)?;
    assert_eq!(instance.call::<(), i64>(&mut store, "run", ())?, 0);
    let mut other = Store::new(&engine, ());
    zero.instantiate(&mut other, &module)?; // functions serve every store
    let mut trap = Linker::<()>::new(&engine);
    trap.define_unknown_imports_as_traps(&module)?;
    let instance = trap.instantiate(&mut store, &module)?;
    let error = instance.call::<(), i64>(&mut store, "run", ()).unwrap_err();
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::Unreachable));
    let unknown = error.downcast_ref::<UnknownImportError>().expect("it is named");
    assert_eq!((unknown.module(), unknown.name()), ("env", "f"));
    assert_eq!(unknown.ty().to_string(), "(func (param i32) (result i64))");
    Ok(())
}

#[test]
fn unknown_imports_of_every_kind_have_default_values() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "env" "memory" (memory 2 3)) (import "env" "shared" (memory 1 1 shared))
            (import "env" "table" (table 4 externref)) (import "env" "global" (global (mut f64)))
            (import "env" "tag" (tag (param i32))) (import "env" "f" (func $f (result f32 externref)))
            (func (export "sum") (result i64)
                (drop (drop (call $f)))
                (i64.add (i64.extend_i32_u (i32.add (memory.size 0) (memory.size 1)))
                    (i64.extend_i32_u (table.size 0)))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::<()>::new(&engine);
    linker.define_unknown_imports_as_traps(&module)?;
    let error = linker.instantiate(&mut store, &module).unwrap_err();
    let unknown = error
        .downcast_ref::<UnknownImportError>()
        .expect("only functions trap");
    assert_eq!(unknown.name(), "memory");
    let mut linker = Linker::<()>::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut store, &module)?;
    let instance = linker.instantiate(&mut store, &module)?;
    assert_eq!(instance.call::<(), i64>(&mut store, "sum", ())?, 7);
    let never_null = Module::new(&engine, r#"(module (import "env" "r" (global (ref extern))))"#)?;
    let error = error_of(linker.define_unknown_imports_as_default_values(&mut store, &never_null));
    assert!(
        error.contains("`env::r`") && error.contains("(ref extern)"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_linker_lists_what_it_holds_and_finds_it_by_name() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, Vec::new());
    let mut linker = logging(&engine)?;
    let memory = Memory::new(&mut store, MemoryType::new(1, None))?;
    linker
        .define("host", "a", memory)?
        .define("env", "memory", memory)?;
    linker.alias("host", "log", "env", "print")?;
    let names: Vec<_> = linker
        .iter(&mut store)?
        .map(|(module, name, item)| format!("{module} {name} {}", item.ty(&store)))
        .collect();
    assert_eq!(
        names,
        [
            "env memory (memory 1)",
            "env print (func (param i32))",
            "host a (memory 1)",
            "host log (func (param i32))"
        ]
    );
    let print = linker
        .get(&mut store, "env", "print")?
        .into_func()
        .expect("a function");
    print.call(&mut store, &[Val::I32(7)], &mut [])?;
    assert_eq!(store.data(), &[7]);
    let again = linker.get(&mut store, "host", "log")?.into_func();
    assert_eq!(again, Some(print), "one function has one handle");
    assert!(error_of(linker.get(&mut store, "env", "no")).contains("`env::no` has not been defined"));
    assert!(error_of(linker.alias("env", "no", "a", "b").map(drop)).contains("`env::no`"));
    assert!(error_of(linker.alias("host", "log", "env", "print").map(drop)).contains("is defined already"));
    let module = Module::new(
        &engine,
        r#"(module (import "env" "memory" (memory 1)) (import "x" "y" (func)))"#,
    )?;
    let mut imports = module.imports();
    let (known, unknown) = (imports.next().unwrap(), imports.next().unwrap());
    assert!(linker.get_by_import(&mut store, &known)?.into_memory().is_some());
    let error = linker.get_by_import(&mut store, &unknown).unwrap_err();
    assert!(error.is::<UnknownImportError>());
    Ok(())
}

/// A linker with `host::log`, whose numbers land in the store's data.
fn logging(engine: &Engine) -> Result<Linker<Vec<i32>>> {
    let mut linker = Linker::<Vec<i32>>::new(engine);
    linker.func_wrap("host", "log", |mut caller: Caller<'_, Vec<i32>>, n: i32| {
        caller.data_mut().push(n)
    })?;
    Ok(linker)
}

const COUNTING: &str = r#"(module (import "host" "log" (func $log (param i32)))
    (global $n (mut i32) (i32.const 0)) (memory (export "memory") 1)
    (func $next (export "next") (result i32)
      (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))"#;

const USER: &str = r#"(module (import "lib" "next" (func $next (result i32)))
    (func (export "twice") (result i32) (i32.add (i32.mul (call $next) (i32.const 10)) (call $next))))"#;

#[test]
fn a_command_lives_for_one_call() -> Result<()> {
    let engine = Engine::default();
    let command = format!(r#"{COUNTING} (func (export "_start") (call $log (call $next))))"#);
    let (command, user) = (Module::new(&engine, command)?, Module::new(&engine, USER)?);
    let mut store = Store::new(&engine, Vec::new());
    let mut linker = logging(&engine)?;
    linker.module(&mut store, "lib", &command)?;
    assert!(store.data().is_empty(), "nothing ran");
    let user = linker.instantiate(&mut store, &user)?;
    assert_eq!(
        user.call::<(), i32>(&mut store, "twice", ())?,
        11,
        "each call counts from the start"
    );
    let default = linker.get_default(&mut store, "lib")?.typed::<(), ()>(&store)?;
    default.call(&mut store, ())?;
    default.call(&mut store, ())?;
    assert_eq!(store.data(), &[1, 1]);
    Ok(())
}

#[test]
fn a_reactor_is_initialised_once_and_lives_on() -> Result<()> {
    let engine = Engine::default();
    let reactor = format!(r#"{COUNTING} (func (export "_initialize") (call $log (call $next))))"#);
    let (reactor, user) = (Module::new(&engine, reactor)?, Module::new(&engine, USER)?);
    let mut store = Store::new(&engine, Vec::new());
    let mut linker = logging(&engine)?;
    linker.module(&mut store, "lib", &reactor)?;
    assert_eq!(store.data(), &[1]);
    let user = linker.instantiate(&mut store, &user)?;
    assert_eq!(
        user.call::<(), i32>(&mut store, "twice", ())?,
        23,
        "all calls are to one instance"
    );
    assert!(matches!(
        linker.get(&mut store, "lib", "memory"),
        Ok(Extern::Memory(_))
    ));
    // What has no default does nothing.
    linker
        .get_default(&mut store, "lib")?
        .typed::<(), ()>(&store)?
        .call(&mut store, ())?;
    Ok(())
}

#[test]
fn modules_whose_functions_wait_are_linked_as_others_are() -> Result<()> {
    let engine = Engine::default();
    let waiting = r#"(module (import "host" "wait" (func $wait (result i32)))
        (func (export "next") (result i32) (call $wait))"#;
    let user = Module::new(&engine, USER)?;
    for (own, waits) in [
        (r#"(func (export "_start"))"#, 0),
        (r#"(func (export "_initialize") (drop (call $wait)))"#, 1),
    ] {
        let module = Module::new(&engine, format!("{waiting} {own})"))?;
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::<()>::new(&engine);
        linker.func_wrap_async("host", "wait", async |_: Caller<'_, ()>, (): ()| -> i32 {
            wait(1).await;
            4
        })?;
        let (defined, pending) = drive(linker.module_async(&mut store, "lib", &module));
        defined?;
        assert_eq!(pending, waits);
        let user = linker.instantiate(&mut store, &user)?;
        let (sum, pending) = drive(user.call_async::<_, (), i32>(&mut store, "twice", ()));
        assert_eq!((sum?, pending), (44, 2));
    }
    Ok(())
}

#[test]
fn modules_that_are_neither_command_nor_reactor_are_refused_by_name() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::<()>::new(&engine);
    let both = Module::new(
        &engine,
        r#"(module (func (export "_start")) (func (export "_initialize")))"#,
    )?;
    let error = error_of(linker.module(&mut store, "lib", &both).map(drop));
    assert!(
        error.contains("`_start`") && error.contains("`_initialize`"),
        "{error}"
    );
    let table = Module::new(
        &engine,
        r#"(module (func (export "_start")) (table (export "mine") 1 funcref))"#,
    )?;
    let error = error_of(linker.module(&mut store, "lib", &table).map(drop));
    assert!(error.contains("command `lib` exports `mine`"), "{error}");
    linker
        .allow_unknown_exports(true)
        .module(&mut store, "lib", &table)?;
    assert!(linker.get(&mut store, "lib", "mine").is_err(), "left out");
    assert!(linker.get(&mut store, "lib", "_start").is_ok());
    linker.allow_unknown_exports(false);
    let unknown = Module::new(
        &engine,
        r#"(module (import "no" "such" (func)) (func (export "_start")))"#,
    )?;
    let error = error_of(linker.module(&mut store, "lib", &unknown).map(drop));
    assert_eq!(
        error,
        "unknown import: `no::such` has not been defined, expected (func)"
    );
    linker.define(
        "other",
        "_start",
        Memory::new(&mut store, MemoryType::new(1, None))?,
    )?;
    let error = error_of(linker.get_default(&mut store, "other"));
    assert!(error.contains("`other::_start` is no function"), "{error}");
    Ok(())
}

#[test]
fn shadowing_counts_the_last_definition_for_what_is_linked_later() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "m" "f" (func $f (result i32))) (func (export "run") (result i32) (call $f)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap("m", "f", || 1)?;
    let (first, pre) = (
        linker.instantiate(&mut store, &module)?,
        linker.instantiate_pre(&module)?,
    );
    let copy = linker.clone();
    linker.allow_shadowing(true).func_wrap("m", "f", || 2)?;
    linker.alias_module("m", "n")?;
    linker.allow_shadowing(false);
    assert!(linker.alias_module("m", "n").is_err(), "defined already");
    let run = |store: &mut Store<()>, instance: Instance| instance.call::<(), i32>(store, "run", ());
    let second = linker.instantiate(&mut store, &module)?;
    assert_eq!(run(&mut store, first)?, 1);
    assert_eq!(run(&mut store, second)?, 2);
    let (before, copied) = (
        pre.instantiate(&mut store)?,
        copy.instantiate(&mut store, &module)?,
    );
    assert_eq!(run(&mut store, before)?, 1, "looked up before");
    assert_eq!(run(&mut store, copied)?, 1, "a clone is another linker");
    Ok(())
}

#[test]
fn imports_looked_up_once_serve_many_stores() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "log" (func $log (param i32))) (func (export "run") (param i32) (call $log (local.get 0))))"#,
    )?;
    let pre = logging(&engine)?.instantiate_pre(&module)?;
    std::thread::scope(|scope| {
        for n in 0..4 {
            let pre = pre.clone();
            scope.spawn(move || {
                let mut store = Store::new(pre.module().engine(), Vec::new());
                let instance = pre.instantiate(&mut store).expect("an instance");
                instance.call::<i32, ()>(&mut store, "run", n).expect("it runs");
                assert_eq!(store.data(), &[n]);
            });
        }
    });
    let wrong = Module::new(&engine, r#"(module (import "host" "log" (func (param i64))))"#)?;
    let error = error_of(logging(&engine)?.instantiate_pre(&wrong));
    assert!(
        error.contains("incompatible import type for `host::log`"),
        "{error}"
    );
    // What belongs to a store serves that store.
    let mut one = Store::new(&engine, Vec::new());
    let memory = Memory::new(&mut one, MemoryType::new(1, None))?;
    let mut linker = logging(&engine)?;
    linker.define("host", "memory", memory)?;
    let pre = linker.instantiate_pre(&Module::new(
        &engine,
        r#"(module (import "host" "memory" (memory 1)))"#,
    )?)?;
    pre.instantiate(&mut one)?;
    let error = error_of(pre.instantiate(&mut Store::new(&engine, Vec::new())));
    assert!(error.contains("belongs to store"), "{error}");
    Ok(())
}

#[test]
fn imports_and_exports_are_listed_with_their_types() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "a" "f" (func (param i32) (result f64))) (import "b" "m" (memory 1 2))
            (global (export "g") (mut i64) (i64.const 0)) (table (export "t") 1 4 externref) (tag (export "e") (param i32))
            (func (export "h") (param v128)))"#,
    )?;
    let imports: Vec<_> = module
        .imports()
        .map(|import| format!("{} {} {}", import.module(), import.name(), import.ty()))
        .collect();
    assert_eq!(
        imports,
        ["a f (func (param i32) (result f64))", "b m (memory 1 2)"]
    );
    let exports: Vec<_> = module
        .exports()
        .map(|export| format!("{} {}", export.name(), export.ty()))
        .collect();
    assert_eq!(exports.len(), 4);
    assert!(exports[0].starts_with("g (global (mut i64"), "{exports:?}");
    assert!(exports[1].starts_with("t (table 1 4 externref"), "{exports:?}");
    assert!(exports[3].starts_with("h (func (param v128"), "{exports:?}");
    assert!(module.get_export("h").is_some() && module.get_export("f").is_none());
    Ok(())
}

#[test]
fn errors_name_the_thing_and_what_to_do() -> Result<()> {
    let engine = Engine::default();
    let off = Engine::new(Config::new().wasm_simd(false))?;
    let vectors = "(module (func (drop (v128.const i64x2 0 0))))";
    let error = error_of(Module::new(&off, vectors));
    assert_eq!(
        error,
        "SIMD not supported (at offset 0x17): switched off by the setting `wasm_simd`"
    );
    let error = error_of(Module::new(&engine, [0xff, 0xfe]));
    assert!(error.contains("the 2 bytes are no module"), "{error}");
    let error = error_of(Module::new(&engine, engine.precompile_module(b"(module)")?));
    assert!(error.contains("`Module::deserialize`"), "{error}");
    let foreign = Module::new(&off, "(module)")?;
    let error = error_of(Instance::new(&mut Store::new(&engine, ()), &foreign, &[]));
    assert!(error.contains("compile it with `Store::engine`"), "{error}");
    Ok(())
}

#[test]
fn errors_of_exports_name_what_there_is() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory (export "memory") 1) (func (export "run") (param i32)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    assert_eq!(
        error_of(instance.call::<(), ()>(&mut store, "rum", ())),
        "the instance exports no function named `rum`: there are `run`"
    );
    assert_eq!(
        error_of(instance.typed::<(), ()>(&mut store, "memory")),
        "the instance exports no function named `memory`: its export of that name is (memory 1)"
    );
    assert_eq!(
        error_of(instance.typed::<i64, ()>(&mut store, "run")),
        "export `run`: function has type (func (param i32)), but is called as (func (param i64))"
    );
    let many: String = (0..10).map(|n| format!(r#"(func (export "f{n}"))"#)).collect();
    let many = Module::new(&engine, format!("(module {many})"))?;
    let many = Instance::new(&mut store, &many, &[])?;
    let error = error_of(many.call::<(), ()>(&mut store, "g", ()));
    assert!(
        error.ends_with("there are `f0`, `f1`, `f2`, `f3`, `f4`, `f5`, `f6`, `f7` and 2 more"),
        "{error}"
    );
    Ok(())
}

#[test]
fn errors_name_the_numbers_that_decided() -> Result<()> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let module = Module::new(&engine, r#"(module (table (export "t") 1 2 funcref))"#)?;
    let instance = Instance::new(&mut store, &module, &[])?;
    let table = instance.get_table(&mut store, "t").expect("exported");
    assert_eq!(
        error_of(table.grow(&mut store, 2, Val::FuncRef(None))),
        "table of 1 elements cannot grow by 2: its maximum is 2 elements"
    );
    let ty = TableType::new(RefType::FUNCREF, 3, Some(1));
    assert_eq!(
        error_of(Table::new(&mut store, ty, Val::FuncRef(None))),
        "a table's minimum of 3 elements is above its maximum of 1"
    );
    let start = Module::new(&engine, "(module (func $f (unreachable)) (start $f))")?;
    let error = Instance::new(&mut store, &start, &[]).unwrap_err();
    assert_eq!(format!("{error:#}"), "the module's start function: unreachable");
    assert_eq!(error.downcast_ref(), Some(&Trap::Unreachable));
    let data = Module::new(&engine, r#"(module (memory 1) (data (i32.const 65535) "ab"))"#)?;
    assert_eq!(
        error_of(Instance::new(&mut store, &data, &[])),
        "data segment 0 does not fit: 2 bytes from 65535 on: out of bounds memory access"
    );
    Ok(())
}

#[test]
fn tables_are_filled_and_copied_within_their_bounds() -> Result<()> {
    let mut store = Store::<()>::default();
    let func = Func::wrap(&mut store, || ())?;
    let table = |store: &mut Store<()>, element| {
        Table::new(
            store,
            TableType::new(element, 4, None),
            Val::null(element.heap_type())?,
        )
    };
    let (one, other) = (
        table(&mut store, RefType::FUNCREF)?,
        table(&mut store, RefType::FUNCREF)?,
    );
    let held = |store: &mut Store<()>, table: Table| -> Vec<bool> {
        (0..4)
            .map(|at| table.get(&mut *store, at).is_some_and(|value| !value.is_null()))
            .collect()
    };
    one.fill(&mut store, 1, func.into(), 2)?;
    assert_eq!(held(&mut store, one), [false, true, true, false]);
    Table::copy(&mut store, &one, 0, &one, 1, 3)?; // overlapping
    assert_eq!(held(&mut store, one), [true, true, false, false]);
    Table::copy(&mut store, &other, 2, &one, 0, 2)?;
    assert_eq!(held(&mut store, other), [false, false, true, true]);
    for error in [
        error_of(one.fill(&mut store, 3, func.into(), 2)),
        error_of(Table::copy(&mut store, &one, 3, &other, 0, 2)),
        error_of(Table::copy(&mut store, &one, 0, &other, 3, 2)),
        error_of(one.fill(&mut store, u64::MAX, func.into(), 2)),
    ] {
        assert!(error.contains("beyond the end of a table of 4"), "{error}");
    }
    assert_eq!(
        held(&mut store, one),
        [true, true, false, false],
        "nothing changed"
    );
    let externs = table(&mut store, RefType::EXTERNREF)?;
    let error = error_of(Table::copy(&mut store, &externs, 0, &one, 0, 1));
    assert!(
        error.contains("elements of type funcref do not fit into a table of externref"),
        "{error}"
    );
    assert!(one.fill(&mut store, 0, Val::I32(0), 1).is_err());
    let elsewhere = Store::<()>::default();
    assert!(Table::copy(elsewhere, &one, 0, &one, 0, 1).is_err());
    Ok(())
}

/// Of several definitions at once, one whose name is taken leaves the linker as it was; and nothing runs for them.
#[test]
fn what_is_defined_together_is_defined_as_a_whole_or_not_at_all() -> Result<()> {
    let engine = Engine::default();
    let functions = r#"(func (export "a")) (func (export "b")) (func (export "c"))"#;
    let reactor = format!(
        r#"(module (import "host" "runs" (func $runs)) {functions} (func (export "_initialize") (call $runs)) (start $runs))"#
    );
    let reactor = Module::new(&engine, reactor)?;
    let command = Module::new(
        &engine,
        format!(r#"(module {functions} (func (export "_start")))"#),
    )?;
    let mut store = Store::new(&engine, 0);
    let mut linker = Linker::<u32>::new(&engine);
    linker.func_wrap("host", "runs", |mut caller: Caller<'_, u32>| {
        *caller.data_mut() += 1
    })?;
    let instance = linker.instantiate(&mut store, &reactor)?;
    linker.instance(&mut store, "whole", instance)?;
    linker.func_wrap("taken", "b", || ())?;
    let names = |linker: &Linker<u32>, store: &mut Store<u32>| -> Vec<(String, String)> {
        let all = linker.iter(store).expect("room for trampolines");
        all.map(|(module, name, _)| (module.to_owned(), name.to_owned()))
            .collect()
    };
    let before = (names(&linker, &mut store), *store.data());
    let errors = [
        error_of(linker.instance(&mut store, "taken", instance).map(drop)),
        error_of(linker.alias_module("whole", "taken")),
        error_of(linker.module(&mut store, "taken", &reactor).map(drop)),
        error_of(linker.module(&mut store, "taken", &command).map(drop)),
        error_of(
            drive(linker.module_async(&mut store, "taken", &reactor))
                .0
                .map(drop),
        ),
        error_of(
            drive(linker.module_async(&mut store, "taken", &command))
                .0
                .map(drop),
        ),
    ];
    for error in errors {
        assert!(error.contains("`taken::b` is defined already"), "{error}");
    }
    assert_eq!((names(&linker, &mut store), *store.data()), before);
    linker
        .allow_shadowing(true)
        .module(&mut store, "taken", &reactor)?;
    assert_eq!(
        names(&linker, &mut store).len(),
        before.0.len() + 3,
        "`a`, `c`, `_initialize`"
    );
    assert_eq!(
        *store.data(),
        before.1 + 2,
        "its start function and `_initialize`"
    );
    Ok(())
}
