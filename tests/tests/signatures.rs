//! Signatures come and go with those who use them: what modules brought is given back, and a number that is used again is
//! never taken for what it was before.

use selvedge::{
    Engine, ExternType, Func, FuncType, GlobalType, HeapType, Instance, Linker, Module, RefType, Result,
    Store, Table, TableType, Tag, TagType, Trap, Val, ValType,
};
use std::sync::{Mutex, PoisonError};

/// The tests count the signatures of the process, or fill it with them: one after the other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> impl Drop {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The binary format of a number.
fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A module of so many signatures that no other `seed` has, each with `i32` and `i64` by the bits of its number.
fn many(seed: usize, count: usize) -> Vec<u8> {
    let mut types = leb(count);
    for number in 0..count {
        types.extend([0x60, 40]);
        let bits = number | seed << 20;
        types.extend((0..40).map(|bit| if bits >> bit & 1 == 0 { 0x7f } else { 0x7e }));
        types.push(0);
    }
    [b"\0asm\x01\0\0\0\x01", &leb(types.len())[..], &types].concat()
}

/// Signatures that nothing else in this process has, in the text format.
fn unusual(number: usize) -> String {
    let parameters = (0..16).map(|bit| if number >> bit & 1 == 0 { " f32" } else { " f64" });
    format!("(param{})", parameters.collect::<String>())
}

fn trap_of(result: Result<()>) -> Trap {
    *result
        .expect_err("a trap")
        .downcast_ref::<Trap>()
        .expect("a trap")
}

#[test]
fn modules_of_many_signatures_leave_none() {
    let _alone = alone();
    let engine = Engine::default();
    let before = FuncType::count();
    // More than sixteen million parameters, which once was all that a process could have.
    for seed in 0..48 {
        let module = Module::new(&engine, many(seed, 10_000)).unwrap();
        assert!(FuncType::count() >= before + 10_000);
        drop(module);
        assert!(
            FuncType::count() < before + 100,
            "{} now, {before} before",
            FuncType::count()
        );
    }
    // A module that is refused after its types leaves none either.
    let mut refused = many(99, 10_000);
    refused.extend([3, 2, 1, 0]);
    assert!(Module::new(&engine, refused).is_err());
    assert!(FuncType::count() < before + 100);
}

#[test]
fn equal_signatures_of_modules_and_engines_are_equal_while_one_is_there() {
    let _alone = alone();
    let text = format!("(module (func (export \"f\") {}))", unusual(1));
    let of = |engine: &Engine| match Module::new(engine, &text).unwrap().get_export("f") {
        Some(ExternType::Func(ty)) => ty,
        other => panic!("{other:?}"),
    };
    let first = of(&Engine::default());
    let second = of(&Engine::default());
    assert_eq!(first, second);
    assert_eq!(first.number(), second.number());
    let id = first.id();
    drop((first, second));
    assert_eq!(id.get(), None);
}

/// A store whose table has functions of a module that is gone, and a module with other signatures, which would have got the numbers.
#[test]
fn a_function_in_a_table_keeps_its_signature_from_being_taken_for_another() {
    let _alone = alone();
    let engine = Engine::default();
    for round in 0..20 {
        let mut store = Store::new(&engine, ());
        let owner = format!(
            "(module (type $t (func {})) (table (export \"t\") 2 funcref) (elem (i32.const 0) $f) (func $f (type $t)))",
            unusual(2 * round)
        );
        let owner = Module::new(&engine, owner).unwrap();
        let exporter = Instance::new(&mut store, &owner, &[]).unwrap();
        let table = exporter.get_table(&mut store, "t").unwrap();
        // One of the host's too, whose signature nobody else has.
        let gone = Module::new(
            &engine,
            format!("(module (import \"\" \"\" (func {})))", unusual(1000 + round)),
        );
        let gone = gone.unwrap();
        let ExternType::Func(ty) = gone.imports().next().unwrap().ty() else {
            panic!("a function")
        };
        let host = Func::new(&mut store, ty, |_, _, _| Ok(())).unwrap();
        table.set(&mut store, 1, Val::FuncRef(Some(host))).unwrap();
        drop((owner, gone));
        // Whatever is free is taken.
        let takers = (0..4).map(|seed| Module::new(&engine, many(seed, 50)).unwrap());
        let takers = takers.collect::<Vec<_>>();
        let caller = |number: usize| {
            let arguments = (0..16).map(|bit| {
                if number >> bit & 1 == 0 {
                    "(f32.const 0)"
                } else {
                    "(f64.const 0)"
                }
            });
            let arguments = arguments.collect::<String>();
            let text = format!(
                "(module (import \"\" \"t\" (table 2 funcref)) (type $u (func {}))
                   (func (export \"call\") (param i32) (call_indirect (type $u) {arguments} (local.get 0))))",
                unusual(number)
            );
            Module::new(&engine, text).unwrap()
        };
        let mut call = |number: usize, index: i32| {
            let module = caller(number);
            let instance = Instance::new(&mut store, &module, &[table.into()]).unwrap();
            instance.call::<i32, ()>(&mut store, "call", index)
        };
        assert_eq!(trap_of(call(2 * round + 1, 0)), Trap::BadSignature);
        assert_eq!(trap_of(call(2 * round + 1, 1)), Trap::BadSignature);
        call(2 * round, 0).unwrap();
        call(1000 + round, 1).unwrap();
        drop(takers);
    }
}

#[test]
fn types_of_the_hosts_tables_and_globals_stay_while_the_store_does() {
    let _alone = alone();
    let engine = Engine::default();
    let text = format!(
        "(module (type $t (func {})) (import \"\" \"t\" (table 1 (ref null $t))) (import \"\" \"g\" (global (ref null $t))))",
        unusual(3)
    );
    let mut store = Store::new(&engine, ());
    let (table, global, id) = {
        let module = Module::new(&engine, &text).unwrap();
        let mut imports = module.imports();
        let (Some(ExternType::Table(table)), Some(ExternType::Global(global))) = (
            imports.next().map(|import| import.ty()),
            imports.next().map(|import| import.ty()),
        ) else {
            panic!("a table and a global")
        };
        let HeapType::ConcreteFunc(id) = table.element.heap_type() else {
            panic!("a type of functions")
        };
        let table = Table::new(&mut store, table, Val::FuncRef(None)).unwrap();
        let global = selvedge::Global::new(&mut store, global, Val::FuncRef(None)).unwrap();
        (table, global, id)
    };
    let again = Module::new(&engine, &text).unwrap();
    Instance::new(&mut store, &again, &[table.into(), global.into()]).unwrap();
    drop((store, again));
    assert_eq!(id.get(), None);
}

#[test]
fn a_name_of_a_signature_that_is_gone_fits_nothing() {
    let _alone = alone();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let text = format!("(module (func (export \"f\") {}))", unusual(4));
    let id = match Module::new(&engine, &text).unwrap().get_export("f") {
        Some(ExternType::Func(ty)) => ty.id(),
        other => panic!("{other:?}"),
    };
    assert_eq!(id.get(), None);
    let element = RefType::new(true, HeapType::ConcreteFunc(id));
    // The number is somebody else's now, and a function of the same signature is another's.
    let _taker = Module::new(&engine, many(5, 50)).unwrap();
    let module = Module::new(&engine, &text).unwrap();
    let f = Instance::new(&mut store, &module, &[])
        .unwrap()
        .get_func(&mut store, "f");
    let table = Table::new(&mut store, TableType::new(element, 1, None), Val::FuncRef(None)).unwrap();
    let error = table
        .set(&mut store, 0, Val::FuncRef(f))
        .expect_err("another type");
    assert!(error.to_string().contains("(func ..)"), "{error}");
    let ty = GlobalType {
        content: ValType::Ref(element),
        mutable: true,
    };
    assert!(selvedge::Global::new(&mut store, ty, Val::FuncRef(f)).is_err());
    let takes = FuncType::new([ValType::Ref(element)], []);
    let host = Func::new(&mut store, takes, |_, _, _| Ok(())).unwrap();
    assert!(host.call(&mut store, &[Val::FuncRef(f)], &mut []).is_err());
    host.call(&mut store, &[Val::FuncRef(None)], &mut []).unwrap();
}

#[test]
fn tags_keep_what_they_carry() {
    let _alone = alone();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let importing = |number: usize| {
        let text = format!("(module (import \"\" \"e\" (tag {})))", unusual(number));
        Module::new(&engine, text).unwrap()
    };
    let ty = match importing(6).imports().next().unwrap().ty() {
        ExternType::Tag(ty) => ty,
        other => panic!("{other:?}"),
    };
    let tag = Tag::new(&mut store, TagType::new(ty.signature)).unwrap();
    let _taker = Module::new(&engine, many(6, 50)).unwrap();
    Instance::new(&mut store, &importing(6), &[tag.into()]).unwrap();
    let error = Instance::new(&mut store, &importing(7), &[tag.into()]).expect_err("another type");
    assert!(error.to_string().contains("incompatible import type"), "{error}");
    assert_eq!(tag.ty(&store).signature.params().len(), 16);
}

/// A module may ask for functions of any signature, and a host may define them: their trampolines go too, but not those in use.
#[test]
fn the_engine_keeps_some_trampolines_and_those_in_use() {
    let _alone = alone();
    let engine = Engine::default();
    let signature = |number: usize| {
        let types = (0..12).map(|bit| [ValType::I32, ValType::I64][number >> bit & 1]);
        FuncType::new(types, [ValType::V128])
    };
    let arguments = |number: usize| {
        let values = (0..12).map(|bit| [Val::I32(1), Val::I64(2)][number >> bit & 1]);
        values.collect::<Vec<_>>()
    };
    let mut store = Store::new(&engine, ());
    let make = |store: &mut Store<()>, number: usize| {
        let echo = move |_: selvedge::Caller<'_, ()>, _: &[Val], results: &mut [Val]| {
            results[0] = Val::V128((number as u128).into());
            Ok(())
        };
        Func::new(store, signature(number), echo).unwrap()
    };
    let before = FuncType::count();
    let kept = [0, 1, 2].map(|number| make(&mut store, number));
    for number in 3..1200 {
        make(&mut Store::new(&engine, ()), number);
    }
    let count = FuncType::count() - before;
    assert!(count <= 300, "{count} signatures");
    for (number, func) in kept.iter().enumerate() {
        let mut results = [Val::I32(0)];
        func.call(&mut store, &arguments(number), &mut results).unwrap();
        assert!(matches!(results[0], Val::V128(bits) if u128::from(bits) == number as u128));
    }
}

/// Threads load, link, call and drop modules with the same few signatures: those that are equal link, others trap.
#[test]
fn threads_come_and_go_with_the_same_signatures() {
    let _alone = alone();
    let engine = Engine::default();
    let before = FuncType::count();
    let provider = |number: usize| {
        format!(
            "(module (type $t (func {})) (func $f (export \"f\") (type $t)) (table (export \"t\") 1 funcref) (elem (i32.const 0) $f))",
            unusual(number)
        )
    };
    let user = |number: usize| {
        let arguments = (0..16).map(|bit| {
            if number >> bit & 1 == 0 {
                "(f32.const 0)"
            } else {
                "(f64.const 0)"
            }
        });
        let (ty, arguments) = (unusual(number), arguments.collect::<String>());
        format!(
            "(module (type $t (func {ty})) (import \"p\" \"t\" (table 1 funcref))
               (func (export \"call\") (call_indirect (type $t) {arguments} (i32.const 0))))"
        )
    };
    let importer = |number: usize| format!("(module (import \"p\" \"f\" (func {})))", unusual(number));
    let work = &|seed: usize| {
        for round in 0..60 {
            let (number, other) = (500 + (round + seed) % 3, 500 + (round + seed + 1) % 3);
            let mut store = Store::new(&engine, ());
            let mut linker = Linker::new(&engine);
            let module = Module::new(&engine, provider(number)).unwrap();
            let instance = linker.instantiate(&mut store, &module).unwrap();
            linker.instance(&mut store, "p", instance).unwrap();
            drop(module);
            let mut instantiate = |text: String| {
                let module = Module::new(&engine, text).unwrap();
                linker.instantiate(&mut store, &module)
            };
            instantiate(importer(number)).unwrap();
            assert!(instantiate(importer(other)).is_err());
            let (right, wrong) = (
                instantiate(user(number)).unwrap(),
                instantiate(user(other)).unwrap(),
            );
            right.call::<(), ()>(&mut store, "call", ()).unwrap();
            let wrong = wrong.call::<(), ()>(&mut store, "call", ());
            assert_eq!(trap_of(wrong), Trap::BadSignature);
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || work(seed));
        }
    });
    assert!(FuncType::count() < before + 100);
}
