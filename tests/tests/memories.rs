//! Memories and tables beyond the first version: several of them, with 64-bit addresses, with pages of one byte.

use selvedge::{
    Caller, Config, Engine, Error, Instance, Linker, Memory, MemoryStyle, MemoryType, Module, RefType,
    Result, Store, Table, TableType, Trap, Val,
};

/// Every way of compiling that a memory access depends on.
fn engines() -> Vec<Engine> {
    let ways = [
        (MemoryStyle::Reserved, false),
        (MemoryStyle::Reserved, true),
        (MemoryStyle::Bounded, false),
        (MemoryStyle::Bounded, true),
    ];
    let engine = |(style, fuel)| {
        let mut config = Config::new();
        config.memory_style(style).fuel(fuel).wasm_custom_page_sizes(true);
        Engine::new(&config).expect("the settings are supported")
    };
    ways.into_iter().map(engine).collect()
}

/// A store, with fuel if it needs any, and an instance without imports.
fn instance(engine: &Engine, text: &str) -> Result<(Store<()>, Instance)> {
    let mut store = Store::new(engine, ());
    let _ = store.set_fuel(1_000_000);
    let instance = Instance::new(&mut store, &Module::new(engine, text)?, &[])?;
    Ok((store, instance))
}

fn trap_of<T: std::fmt::Debug>(result: Result<T>) -> Option<Trap> {
    result.expect_err("it traps").downcast_ref::<Trap>().copied()
}

#[test]
fn memories_of_a_module_are_apart() -> Result<()> {
    for engine in engines() {
        let (mut store, instance) = instance(
            &engine,
            r#"(module (memory $a (export "a") 1) (memory $b (export "b") 2 3)
                (data (memory $b) (i32.const 4) "\2a")
                (func (export "move") (memory.copy $a $b (i32.const 0) (i32.const 4) (i32.const 8)))
                (func (export "get") (param i32) (result i32)
                    (i32.add (i32.load $a (local.get 0)) (i32.load $b (local.get 0))))
                (func (export "grow") (result i32) (memory.grow $b (i32.const 1)))
                (func (export "sizes") (result i32 i32) (memory.size $a) (memory.size $b)))"#,
        )?;
        let get = instance.typed::<i32, i32>(&mut store, "get")?;
        assert_eq!(get.call(&mut store, 4)?, 42);
        instance.call::<(), ()>(&mut store, "move", ())?;
        assert_eq!(get.call(&mut store, 0)?, 42);
        // The last word of the smaller one is the last that both have.
        assert_eq!(get.call(&mut store, 65_532)?, 0);
        assert_eq!(
            trap_of(get.call(&mut store, 65_533)),
            Some(Trap::MemoryOutOfBounds)
        );
        assert_eq!(instance.call::<(), i32>(&mut store, "grow", ())?, 2);
        assert_eq!(instance.call::<(), i32>(&mut store, "grow", ())?, -1);
        assert_eq!(instance.call::<(), (i32, i32)>(&mut store, "sizes", ())?, (1, 3));
        let b = instance.get_memory(&mut store, "b").expect("exported");
        assert_eq!(b.data(&store)[4], 42);
    }
    Ok(())
}

#[test]
fn addresses_of_64_bits_do_not_wrap() -> Result<()> {
    const MODULE: &str = r#"(module (memory (export "m") i64 1 4)
        (func (export "near") (param i64) (result i64) (i64.load offset=8 (local.get 0)))
        (func (export "far") (param i64) (result i64) (i64.load offset=0x10000 (local.get 0)))
        (func (export "farther") (param i64) (result i64) (i64.load offset=0x7ffffffffffffff8 (local.get 0)))
        (func (export "nowhere") (param i64) (result i64) (i64.load offset=0xfffffffffffffffc (local.get 0)))
        (func (export "put") (param i64 i64) (i64.store offset=8 (local.get 0) (local.get 1)))
        (func (export "grow") (param i64) (result i64) (memory.grow (local.get 0))))"#;
    for engine in engines() {
        let (mut store, instance) = instance(&engine, MODULE)?;
        instance.call::<_, ()>(&mut store, "put", (65_520_i64, 7_i64))?;
        assert_eq!(instance.call::<_, i64>(&mut store, "near", 65_520_i64)?, 7);
        for index in [65_521_i64, 65_536, i64::MAX, i64::MIN, -1, -8, -9, -16, -17] {
            for name in ["near", "far", "farther", "nowhere"] {
                let result = instance.call::<_, i64>(&mut store, name, index);
                assert_eq!(trap_of(result), Some(Trap::MemoryOutOfBounds), "{name} {index}");
            }
        }
        assert_eq!(instance.call::<_, i64>(&mut store, "grow", 1_i64)?, 1);
        assert_eq!(instance.call::<_, i64>(&mut store, "far", 65_528_i64)?, 0);
        assert!(instance.call::<_, i64>(&mut store, "far", 65_529_i64).is_err());
        assert_eq!(instance.call::<_, i64>(&mut store, "grow", 3_i64)?, -1);
        assert_eq!(instance.call::<_, i64>(&mut store, "grow", -1_i64)?, -1);
        let memory = instance.get_memory(&mut store, "m").expect("exported");
        assert!(memory.ty(&store).is_64());
        assert_eq!(memory.grow(&mut store, 2)?, 2);
        assert!(memory.grow(&mut store, u64::MAX).is_err());
    }
    Ok(())
}

#[test]
fn a_guest_that_asks_for_more_than_the_host_has_gets_no() -> Result<()> {
    for engine in engines() {
        let (mut store, instance) = instance(
            &engine,
            r#"(module (memory i64 0) (table i64 0 funcref)
                (func (export "memory") (param i64) (result i64) (memory.grow (local.get 0)))
                (func (export "table") (param i64) (result i64) (table.grow (ref.null func) (local.get 0))))"#,
        )?;
        for delta in [1_i64 << 33, 1 << 47, 1 << 48, i64::MAX, i64::MIN, -1] {
            assert_eq!(instance.call::<_, i64>(&mut store, "memory", delta)?, -1);
            assert_eq!(instance.call::<_, i64>(&mut store, "table", delta)?, -1);
        }
    }
    let huge = Module::new(&Engine::default(), "(module (memory i64 0x1000000000000))")?;
    let mut store = Store::new(huge.engine(), ());
    assert!(Instance::new(&mut store, &huge, &[]).is_err());
    Ok(())
}

#[test]
fn tables_of_64_bit_indices_work_with_those_of_32() -> Result<()> {
    for engine in engines() {
        let (mut store, instance) = instance(
            &engine,
            r#"(module (type $get (func (result i32)))
                (table $wide (export "wide") i64 4 6 funcref) (table $narrow 4 funcref)
                (elem (table $wide) (i64.const 1) func $one)
                (elem $more func $two)
                (func $one (result i32) (i32.const 1)) (func $two (result i32) (i32.const 2))
                (func (export "call") (param i64) (result i32) (call_indirect $wide (type $get) (local.get 0)))
                (func (export "narrow") (param i32) (result i32) (call_indirect $narrow (type $get) (local.get 0)))
                (func (export "copy") (param i32 i64 i32) (table.copy $narrow $wide (local.get 0) (local.get 1) (local.get 2)))
                (func (export "init") (param i64) (table.init $wide $more (local.get 0) (i32.const 0) (i32.const 1)))
                (func (export "fill") (param i64 i64) (table.fill $wide (local.get 0) (ref.func $two) (local.get 1)))
                (func (export "set") (param i64) (table.set $wide (local.get 0) (table.get $wide (i64.const 1))))
                (func (export "grow") (param i64) (result i64) (table.grow $wide (ref.func $two) (local.get 0)))
                (func (export "size") (result i64) (table.size $wide)))"#,
        )?;
        assert_eq!(instance.call::<_, i32>(&mut store, "call", 1_i64)?, 1);
        let beyond = instance.call::<_, i32>(&mut store, "call", (1_i64 << 32) + 1);
        assert_eq!(trap_of(beyond), Some(Trap::TableOutOfBounds));
        instance.call::<_, ()>(&mut store, "copy", (3, 1_i64, 1))?;
        assert_eq!(instance.call::<_, i32>(&mut store, "narrow", 3)?, 1);
        let wrapped = instance.call::<_, ()>(&mut store, "copy", (0, -1_i64, 2));
        assert_eq!(trap_of(wrapped), Some(Trap::TableOutOfBounds));
        instance.call::<_, ()>(&mut store, "init", 2_i64)?;
        assert_eq!(instance.call::<_, i32>(&mut store, "call", 2_i64)?, 2);
        instance.call::<_, ()>(&mut store, "set", 3_i64)?;
        assert_eq!(instance.call::<_, i32>(&mut store, "call", 3_i64)?, 1);
        assert!(instance.call::<_, ()>(&mut store, "set", -1_i64).is_err());
        assert_eq!(instance.call::<_, i64>(&mut store, "grow", 2_i64)?, 4);
        assert_eq!(instance.call::<_, i64>(&mut store, "grow", 1_i64)?, -1);
        assert_eq!(instance.call::<_, i32>(&mut store, "call", 5_i64)?, 2);
        instance.call::<_, ()>(&mut store, "fill", (0_i64, 6_i64))?;
        assert!(
            instance
                .call::<_, ()>(&mut store, "fill", (1_i64, -1_i64))
                .is_err()
        );
        assert_eq!(instance.call::<_, i64>(&mut store, "size", ())?, 6);
        let wide = instance.get_table(&mut store, "wide").expect("exported");
        assert!(wide.ty(&store).is_64);
    }
    Ok(())
}

#[test]
fn pages_of_one_byte_end_where_they_say() -> Result<()> {
    for engine in engines() {
        let (mut store, instance) = instance(
            &engine,
            r#"(module (memory (export "m") 5 9 (pagesize 1))
                (func (export "get") (param i32) (result i32) (i32.load (local.get 0)))
                (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
                (func (export "fill") (param i32) (memory.fill (i32.const 0) (i32.const 9) (local.get 0)))
                (func (export "size") (result i32) (memory.size)))"#,
        )?;
        assert_eq!(instance.call::<_, i32>(&mut store, "get", 1)?, 0);
        let beyond = instance.call::<_, i32>(&mut store, "get", 2);
        assert_eq!(trap_of(beyond), Some(Trap::MemoryOutOfBounds));
        assert!(instance.call::<_, ()>(&mut store, "fill", 6).is_err());
        instance.call::<_, ()>(&mut store, "fill", 5)?;
        assert_eq!(instance.call::<_, i32>(&mut store, "grow", 3)?, 5);
        assert_eq!(instance.call::<_, i32>(&mut store, "get", 4)?, 9);
        assert_eq!(instance.call::<_, i32>(&mut store, "grow", 2)?, -1);
        assert_eq!(instance.call::<_, i32>(&mut store, "size", ())?, 8);
        let memory = instance.get_memory(&mut store, "m").expect("exported");
        assert_eq!(memory.page_size(&store), 1);
        assert_eq!(memory.data(&store), [9, 9, 9, 9, 9, 0, 0, 0]);
        assert_eq!(memory.grow(&mut store, 1)?, 8);
        assert_eq!(memory.data_size(&store), 9);
    }
    Ok(())
}

#[test]
fn imports_of_other_addresses_or_pages_do_not_link() -> Result<()> {
    let engine = &engines()[0];
    let mut store = Store::new(engine, ());
    let types = [
        ("1", MemoryType::new(1, None)),
        ("i64 1", MemoryType::new64(1, None)),
        ("1 (pagesize 1)", MemoryType::new(1, None).with_page_size_log2(0)),
    ];
    for (wanted, _) in types {
        let module = Module::new(engine, format!(r#"(module (import "h" "m" (memory {wanted})))"#))?;
        for (found, ty) in types {
            let memory = Memory::new(&mut store, ty)?;
            let linked = Instance::new(&mut store, &module, &[memory.into()]);
            assert_eq!(linked.is_ok(), wanted == found, "{found} for {wanted}");
        }
    }
    let module = Module::new(engine, r#"(module (import "h" "t" (table i64 1 funcref)))"#)?;
    for (ty, links) in [
        (TableType::new(RefType::FUNCREF, 1, None), false),
        (TableType::new64(RefType::FUNCREF, 1, None), true),
    ] {
        let table = Table::new(&mut store, ty, Val::FuncRef(None))?;
        assert_eq!(Instance::new(&mut store, &module, &[table.into()]).is_ok(), links);
    }
    Ok(())
}

#[test]
fn what_is_switched_off_is_refused_by_name() {
    let refused = |configure: fn(&mut Config), text: &str| -> Error {
        let mut config = Config::new();
        configure(&mut config);
        Module::new(&Engine::new(&config).expect("supported"), text).expect_err("it is off")
    };
    let two = refused(
        |config| {
            config.wasm_multi_memory(false);
        },
        "(module (memory 1) (memory 1))",
    );
    assert!(two.to_string().contains("multiple memories"), "{two}");
    for text in ["(module (memory i64 1))", "(module (table i64 1 funcref))"] {
        let wide = refused(
            |config| {
                config.wasm_memory64(false);
            },
            text,
        );
        assert!(wide.to_string().contains("64-bit memories"), "{wide}");
    }
    let bytes = refused(|_| {}, "(module (memory 1 (pagesize 1)))");
    assert!(bytes.to_string().contains("custom page sizes"), "{bytes}");
}

#[test]
fn memories_that_grow_in_between_are_read_where_they_are_now() -> Result<()> {
    for engine in engines() {
        let text = r#"(module
            (import "host" "grow" (func $host))
            (memory (export "m") 1)
            (func $guest (drop (memory.grow (i32.const 64))))
            (func (export "calls") (param i32) (result i64)
                (i64.store offset=8 (local.get 0) (i64.const 1))
                (call $host)
                (i64.store (local.get 0) (i64.add (i64.load offset=8 (local.get 0)) (i64.const 2)))
                (call $guest)
                (i64.store offset=8 (local.get 0) (i64.add (i64.load (local.get 0)) (i64.const 4)))
                (drop (memory.grow (i32.const 64)))
                (i64.load offset=8 (local.get 0)))
            (func (export "loop") (param $at i32) (param $turns i32) (result i64)
                (i64.store (local.get $at) (i64.const 0))
                (loop
                    (if (i32.and (local.get $turns) (i32.const 1)) (then (call $host)))
                    (i64.store (local.get $at) (i64.add (i64.load (local.get $at)) (i64.const 1)))
                    (br_if 0 (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
                (i64.load (local.get $at))))"#;
        let mut store = Store::new(&engine, ());
        let _ = store.set_fuel(1_000_000);
        let mut linker = Linker::new(&engine);
        linker.func_wrap("host", "grow", |mut caller: Caller<'_, ()>| -> Result<()> {
            let memory = caller
                .get_export("m")
                .and_then(|found| found.into_memory())
                .expect("exported");
            memory.grow(&mut caller, 64).map(drop)
        })?;
        let instance = linker.instantiate(&mut store, &Module::new(&engine, text)?)?;
        assert_eq!(instance.call::<_, i64>(&mut store, "calls", 64)?, 7);
        assert_eq!(instance.call::<_, i64>(&mut store, "loop", (128, 9))?, 9);
        let memory = instance.get_memory(&mut store, "m").expect("exported");
        assert_eq!(memory.size(&store), 1 + 3 * 64 + 5 * 64);
        let words = [(64, 3), (72, 7), (128, 9)];
        for (at, word) in words {
            assert_eq!(memory.data(&store)[at], word, "at {at}");
        }
    }
    Ok(())
}
