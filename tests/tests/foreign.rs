//! Things in the wrong place: values, tables and linkers of one store or engine, used with another, and ranges beyond all ends.

use selvedge::{
    Caller, Config, Engine, Extern, ExternRef, ExternType, FuelPolicy, Func, FuncType, HeapType, Instance,
    Linker, Memory, MemoryStyle, MemoryType, Module, RefType, Result, RootScope, Store, Table, TableType,
    Val, ValType,
};
use std::num::NonZeroU64;

fn store() -> Store<()> {
    Store::default()
}

fn table(store: &mut Store<()>, element: RefType, init: Val) -> Result<Table> {
    Table::new(store, TableType::new(element, 4, None), init)
}

#[test]
fn tables_take_neither_functions_nor_values_of_another_store() -> Result<()> {
    let (mut mine, mut other) = (store(), store());
    let foreign_func = Func::wrap(&mut other, || 1)?;
    let foreign_value = ExternRef::new(&mut other, 1_u32)?;
    let funcs = table(&mut mine, RefType::FUNCREF, Val::FuncRef(None))?;
    let values = table(&mut mine, RefType::EXTERNREF, Val::ExternRef(None))?;
    for (table, foreign) in [
        (funcs, Val::from(foreign_func)),
        (values, Val::from(foreign_value)),
    ] {
        for result in [
            table.fill(&mut mine, 0, foreign, 4),
            table.fill(&mut mine, 4, foreign, 0),
            table.set(&mut mine, 0, foreign),
            table.grow(&mut mine, 1, foreign).map(drop),
        ] {
            let error = result.expect_err("it is another store's");
            assert!(format!("{error:#}").contains("belongs to store"), "{error:#}");
        }
        assert_eq!(table.size(&mine), 4);
        for index in 0..4 {
            assert!(table.get(&mut mine, index).is_some_and(|value| value.is_null()));
        }
        let foreign_table = self::table(&mut other, table.ty(&mine).element, foreign)?;
        for (to, from) in [(&table, &foreign_table), (&foreign_table, &table)] {
            let error = Table::copy(&mut mine, to, 0, from, 0, 1).expect_err("it is another store's");
            assert!(format!("{error:#}").contains("belongs to store"), "{error:#}");
        }
        let error = foreign_table.fill(&mut mine, 0, Val::FuncRef(None), 1);
        assert!(error.is_err());
    }
    Ok(())
}

#[test]
fn tables_take_only_what_fits_their_elements() -> Result<()> {
    let mut mine = store();
    let (ints, floats) = (
        FuncType::new([ValType::I32], []),
        FuncType::new([ValType::F64], []),
    );
    let takes_int = Func::new(&mut mine, ints.clone(), |_: Caller<'_, ()>, _, _| Ok(()))?;
    let takes_float = Func::new(&mut mine, floats, |_: Caller<'_, ()>, _, _| Ok(()))?;
    let int_ref = RefType::new(false, HeapType::ConcreteFunc(ints.id()));
    let typed = table(&mut mine, int_ref, takes_int.into())?;
    let untyped = table(&mut mine, RefType::FUNCREF, takes_float.into())?;
    for wrong in [
        Val::from(takes_float),
        Val::FuncRef(None),
        Val::ExternRef(None),
        Val::I32(0),
    ] {
        assert!(typed.fill(&mut mine, 0, wrong, 4).is_err(), "{wrong:?}");
    }
    let error = Table::copy(&mut mine, &typed, 0, &untyped, 0, 4).expect_err("they are any functions");
    assert!(format!("{error:#}").contains("do not fit"), "{error:#}");
    Table::copy(&mut mine, &untyped, 0, &typed, 0, 2)?;
    assert_eq!(
        untyped.get(&mut mine, 1).and_then(|v| v.unwrap_funcref()),
        Some(takes_int)
    );
    assert_eq!(
        untyped.get(&mut mine, 2).and_then(|v| v.unwrap_funcref()),
        Some(takes_float)
    );
    Ok(())
}

#[test]
fn ranges_of_tables_end_at_the_end_whatever_the_numbers() -> Result<()> {
    let mut mine = store();
    let values = table(&mut mine, RefType::EXTERNREF, Val::ExternRef(None))?;
    let null = Val::ExternRef(None);
    for (start, length) in [
        (0, 5),
        (4, 1),
        (5, 0),
        (1, u64::MAX),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1 << 61, 1),
        (1 << 32, 0),
    ] {
        assert!(values.fill(&mut mine, start, null, length).is_err());
        assert!(Table::copy(&mut mine, &values, start, &values, 0, length).is_err());
        assert!(Table::copy(&mut mine, &values, 0, &values, start, length).is_err());
        assert!(values.get(&mut mine, start.max(4)).is_none());
    }
    values.fill(&mut mine, 4, null, 0)?;
    Table::copy(&mut mine, &values, 4, &values, 4, 0)?;
    // Overlapping, both ways.
    for at in 0..4 {
        let value = ExternRef::new(&mut mine, at)?;
        values.set(&mut mine, at, value.into())?;
    }
    Table::copy(&mut mine, &values, 1, &values, 0, 3)?;
    Table::copy(&mut mine, &values, 0, &values, 1, 3)?;
    let mut numbers = Vec::new();
    for at in 0..4 {
        let value = values
            .get(&mut mine, at)
            .and_then(|value| value.unwrap_externref());
        let value = value
            .expect("it was set")
            .data(&mine)?
            .downcast_ref::<u64>()
            .copied();
        numbers.push(value.expect("a number"));
    }
    assert_eq!(numbers, [0, 1, 2, 2]);
    Ok(())
}

#[test]
fn values_are_changed_by_live_handles_of_their_store_alone() -> Result<()> {
    let (mut mine, mut other) = (store(), store());
    let value = ExternRef::new(&mut mine, 1_u64)?;
    let same_number = ExternRef::new(&mut other, 2_u64)?;
    assert!(value.data_mut(&mut other).is_err());
    assert!(same_number.data_mut(&mut mine).is_err());
    *value
        .data_mut(&mut mine)?
        .downcast_mut::<u64>()
        .expect("a number") += 1;
    let ended = {
        let mut scope = RootScope::new(&mut mine);
        let ended = ExternRef::new(&mut scope, String::from("short"))?;
        ended
            .data_mut(&mut scope)?
            .downcast_mut::<String>()
            .expect("a text")
            .push('!');
        ended
    };
    mine.gc();
    // The place of what has ended has somebody else.
    let next = ExternRef::new(&mut mine, 3_u64)?;
    assert!(ended.data_mut(&mut mine).is_err());
    assert_eq!(value.data(&mine)?.downcast_ref(), Some(&2_u64));
    assert_eq!(next.data(&mine)?.downcast_ref(), Some(&3_u64));
    Ok(())
}

#[test]
fn the_address_of_a_memory_is_that_of_its_bytes_also_of_none() -> Result<()> {
    for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
        let engine = Engine::new(Config::new().memory_style(style))?;
        let mut store = Store::new(&engine, ());
        for pages in [0, 1] {
            let memory = Memory::new(&mut store, MemoryType::new(pages, Some(20)))?;
            let address = memory.data_ptr(&store);
            assert!(!address.is_null());
            assert_eq!(address.cast_const(), memory.data(&store).as_ptr());
            memory.grow(&mut store, 9)?;
            let address = memory.data_ptr(&store);
            assert_eq!(address.cast_const(), memory.data(&store).as_ptr());
            let last = memory.data_size(&store) - 1;
            // SAFETY: inside the memory, which nothing else uses now.
            let last = unsafe { address.add(last) };
            // SAFETY: as above.
            unsafe { last.write(7) };
            assert_eq!(memory.data(&store).last(), Some(&7));
        }
    }
    Ok(())
}

#[test]
fn host_functions_of_a_linker_are_at_home_in_stores_of_any_engine() -> Result<()> {
    let text = r#"(module (import "host" "add" (func $add (param i32 f64) (result f64)))
        (func (export "run") (param i32) (result f64) (call $add (local.get 0) (f64.const 0.5))))"#;
    let mut linker = Linker::<()>::default();
    linker.func_wrap("host", "add", |a: i32, b: f64| f64::from(a) + b)?;
    linker.func_new(
        "host",
        "vals",
        FuncType::new([ValType::I32], [ValType::I32]),
        |_: Caller<'_, ()>, params, results| {
            results[0] = params[0];
            Ok(())
        },
    )?;
    for fuel in [false, true] {
        let engine = Engine::new(Config::new().fuel(fuel))?;
        let mut store = Store::new(&engine, ());
        if fuel {
            store.set_fuel(1_000_000)?;
        }
        let add = linker
            .get(&mut store, "host", "add")?
            .into_func()
            .expect("a function");
        let again = linker
            .get(&mut store, "host", "add")?
            .into_func()
            .expect("a function");
        assert_eq!(add, again);
        assert_eq!(
            add.typed::<(i32, f64), f64>(&store)?.call(&mut store, (1, 0.5))?,
            1.5
        );
        let vals = linker
            .get(&mut store, "host", "vals")?
            .into_func()
            .expect("a function");
        assert_eq!(vals.typed::<i32, i32>(&store)?.call(&mut store, 3)?, 3);
        // A module of the linker's engine is at home there alone.
        let strange = Module::new(linker.engine(), text)?;
        let error = linker
            .instantiate(&mut store, &strange)
            .expect_err("another engine's");
        assert!(format!("{error:#}").contains("another engine"), "{error:#}");
        let module = Module::new(&engine, text)?;
        let instance = linker.instantiate(&mut store, &module)?;
        assert_eq!(instance.call::<i32, f64>(&mut store, "run", 4)?, 4.5);
        let by_hand = Instance::new(&mut store, &module, &[add.into()])?;
        assert_eq!(by_hand.call::<i32, f64>(&mut store, "run", 5)?, 5.5);
        let pre = linker.instantiate_pre(&module)?;
        let mut other = Store::<()>::default();
        assert!(pre.instantiate(&mut other).is_err(), "another engine's store");
    }
    Ok(())
}

#[test]
fn what_a_linker_holds_of_one_store_is_refused_by_another() -> Result<()> {
    let engine = Engine::default();
    let (mut mine, mut other) = (Store::new(&engine, ()), Store::new(&engine, ()));
    let module = Module::new(
        &engine,
        r#"(module (import "env" "m" (memory 1)) (import "env" "t" (table 1 externref))
            (import "env" "g" (global i64)) (import "env" "f" (func (result i32 externref))))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut mine, &module)?;
    linker.instantiate(&mut mine, &module)?;
    let error = linker
        .instantiate(&mut other, &module)
        .expect_err("another store's");
    assert!(format!("{error:#}").contains("belongs to store"), "{error:#}");
    let items: Vec<_> = linker.iter(&mut other)?.collect();
    assert_eq!(items.len(), 4);
    for (_, name, item) in items {
        match item {
            Extern::Func(func) => {
                let mut results = [Val::I32(1), Val::I32(1)];
                func.call(&mut other, &[], &mut results)?;
                assert_eq!(results[0].i32(), Some(0));
                assert!(results[1].is_null());
            }
            Extern::Table(table) => assert!(table.get(&mut other, 0).is_none(), "{name}"),
            Extern::Memory(memory) => assert!(memory.write(&mut other, 0, b"x").is_err(), "{name}"),
            Extern::Global(global) => assert!(global.set(&mut other, Val::I64(1)).is_err(), "{name}"),
            _ => panic!("{name}"),
        }
    }
    Ok(())
}

#[test]
fn aliases_of_nothing_and_of_themselves_are_refused_unless_names_may_be_shadowed() -> Result<()> {
    let mut linker = Linker::<()>::default();
    linker.func_wrap("a", "f", || 1_i32)?;
    assert!(linker.alias("a", "g", "b", "g").is_err());
    assert!(linker.alias("a", "f", "a", "f").is_err());
    linker.alias("a", "f", "b", "f")?;
    linker.allow_shadowing(true);
    linker.alias("a", "f", "a", "f")?;
    linker.func_wrap("a", "f", || 2_i32)?;
    let mut store = Store::new(linker.engine(), ());
    let mut of = |module| -> Result<i32> {
        let func = linker
            .get(&mut store, module, "f")?
            .into_func()
            .expect("a function");
        func.typed::<(), i32>(&store)?.call(&mut store, ())
    };
    assert_eq!((of("a")?, of("b")?), (2, 1));
    Ok(())
}

#[test]
fn what_has_no_default_value_is_an_error_that_names_it() -> Result<()> {
    let mut mine = store();
    let never_null = RefType::new(false, HeapType::Func);
    let ty = TableType::new(never_null, 1, None);
    assert!(Extern::default_for(&mut mine, ExternType::Table(ty)).is_err());
    let ty = FuncType::new([], [ValType::Ref(never_null)]);
    assert!(Extern::default_for(&mut mine, ExternType::Func(ty)).is_err());
    let huge = TableType::new(RefType::FUNCREF, u64::MAX, None);
    assert!(Extern::default_for(&mut mine, ExternType::Table(huge)).is_err());
    let huge = MemoryType::new(u64::from(u32::MAX), None);
    assert!(Extern::default_for(&mut mine, ExternType::Memory(huge)).is_err());
    Ok(())
}

#[test]
fn a_host_function_that_has_its_sync_caller_yield_gets_an_error_and_no_hang() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module (import "host" "f" (func $f)) (func (export "run") (call $f) (loop $again (br $again))))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap("host", "f", |mut caller: Caller<'_, ()>| -> Result<()> {
        let every = NonZeroU64::new(10).expect("not zero");
        caller.set_fuel_policy(FuelPolicy::Yield { every })
    })?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(100_000)?;
    let instance = linker.instantiate(&mut store, &module)?;
    let error = instance
        .call::<(), ()>(&mut store, "run", ())
        .expect_err("it has no end");
    assert!(format!("{error:#}").contains("all fuel consumed"), "{error:#}");
    store.set_fuel_policy(FuelPolicy::Trap)?;
    store.set_fuel(1_000)?;
    assert!(instance.call::<(), ()>(&mut store, "run", ()).is_err());
    Ok(())
}
