//! Bad input gets an error that names the thing and the number that decided.

use selvedge::{
    CompileError, Engine, Extern, Func, Global, GlobalType, Instance, Linker, Memory, MemoryType, Module,
    RefType, Result, Store, Table, TableType, Val, ValType,
};

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
        "unknown import: `env::f` has not been defined"
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
        "the module has 1 imports, but 0 were given"
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
fn unknown_imports_can_trap_or_answer_zero() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "env" "f" (func $f (param i32) (result i64)))
            (func (export "run") (result i64) i32.const 1 call $f))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let mut zero = Linker::<()>::new(&engine);
    zero.define_unknown_imports_as_default_values(&module)?;
    let instance = zero.instantiate(&mut store, &module)?;
    assert_eq!(instance.call::<(), i64>(&mut store, "run", ())?, 0);
    let mut trap = Linker::<()>::new(&engine);
    trap.define_unknown_imports_as_traps(&module)?;
    let instance = trap.instantiate(&mut store, &module)?;
    let error = error_of(instance.call::<(), i64>(&mut store, "run", ()));
    assert!(error.contains("unknown import `env::f` was called"), "{error}");
    Ok(())
}
