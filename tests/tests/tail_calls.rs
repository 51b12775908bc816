//! Tail calls take the place of their caller's frame, whatever the frames' sizes and wherever the callee is.

use selvedge::{Config, Engine, Error, FuelPolicy, Func, Instance, Linker, Module, Result, Store, Trap};
use selvedge_tests::drive;
use std::fmt::Write;
use std::num::NonZeroU64;

const CALLS: i64 = 1_000_000;

/// A small stack: a frame that stays would be noticed.
fn engine(fuel: bool) -> Result<Engine> {
    Engine::new(Config::new().fuel(fuel).stack_bytes(16 << 10))
}

/// `even` and `odd` in two modules, which meet by an import and by a table; `kind` is how `odd` calls back.
fn even_and_odd(engine: &Engine, kind: &str) -> Result<(Store<()>, Instance)> {
    let even = Module::new(
        engine,
        r#"(module
            (type $t (func (param i64) (result i32)))
            (table $odd (export "odd") 1 funcref)
            (func (export "even") (type $t)
              local.get 0 i64.eqz if i32.const 1 return end
              local.get 0 i64.const 1 i64.sub i32.const 0 return_call_indirect $odd (type $t)))"#,
    )?;
    let back = match kind {
        "import" => "return_call $even",
        "indirect" => "i32.const 1 return_call_indirect $table (type $t)",
        _ => "global.get $even return_call_ref $t",
    };
    let odd = Module::new(
        engine,
        format!(
            r#"(module
            (type $t (func (param i64) (result i32)))
            (import "even" "even" (func $even (type $t)))
            (import "even" "odd" (table $theirs 1 funcref))
            (global $even (ref $t) (ref.func $even))
            (table $table funcref (elem $odd $even))
            (elem (table $theirs) (i32.const 0) func $odd)
            (func $odd (type $t)
              local.get 0 i64.eqz if i32.const 0 return end
              local.get 0 i64.const 1 i64.sub {back}))"#
        ),
    )?;
    let mut store = Store::new(engine, ());
    let mut linker = Linker::new(engine);
    let instance = linker.instantiate(&mut store, &even)?;
    linker.instance(&mut store, "even", instance)?;
    linker.instantiate(&mut store, &odd)?;
    Ok((store, instance))
}

#[test]
fn a_million_calls_across_modules_use_no_stack() -> Result<()> {
    let engine = engine(false)?;
    for kind in ["import", "indirect", "reference"] {
        let (mut store, instance) = even_and_odd(&engine, kind)?;
        let call = |store: &mut Store<()>, n: i64| instance.call::<i64, i32>(store, "even", n);
        assert_eq!(
            (call(&mut store, CALLS)?, call(&mut store, CALLS + 1)?),
            (1, 0),
            "{kind}"
        );
    }
    Ok(())
}

#[test]
fn fuel_is_exact_and_yields_do_not_let_the_stack_grow() -> Result<()> {
    let engine = engine(true)?;
    let turns = 100_000;
    let mut costs = Vec::new();
    for kind in ["import", "indirect", "reference"] {
        let (mut store, instance) = even_and_odd(&engine, kind)?;
        store.set_fuel(u64::MAX >> 2)?;
        let before = store.get_fuel()?;
        instance.call::<i64, i32>(&mut store, "even", turns)?;
        let cost = before - store.get_fuel()?;
        // A turn: entry, get, eqz, if, get, const, sub, the callee's place if there is one, and the call.
        let even = 9;
        let odd = if kind == "import" { 8 } else { 9 };
        // The last: entry, get, eqz, if, const; `return` is free.
        assert_eq!(cost, turns as u64 / 2 * (even + odd) + 5, "{kind}");
        let every = NonZeroU64::new(1000).expect("not zero");
        store.set_fuel_policy(FuelPolicy::Yield { every })?;
        let before = store.get_fuel()?;
        let (result, pending) = drive(instance.call_async::<_, i64, i32>(&mut store, "even", turns));
        assert_eq!(result?, 1, "{kind}");
        assert_eq!(
            before - store.get_fuel()?,
            cost,
            "{kind}: however often it yields"
        );
        costs.push((cost, pending));
    }
    for (cost, pending) in costs {
        assert!(
            pending >= cost / 1100 && pending <= cost / 1000,
            "{pending} yields of {cost}"
        );
    }
    Ok(())
}

/// `small` and `large`, which call each other; `large` takes and checks `count` parameters more, and both give back as many.
fn small_and_large(count: usize) -> String {
    let params = "i64 ".repeat(count);
    let mut text = format!(
        r#"(module
        (type $small (func (param i64) (result i64 {params})))
        (func $small (export "small") (type $small)
          local.get 0"#
    );
    for index in 0..count {
        write!(text, " local.get 0 i64.const {index} i64.add").expect("a string takes all");
    }
    write!(
        text,
        " return_call $large) (func $large (param i64 {params}) (result i64 {params})"
    )
    .expect("a string takes all");
    for index in 0..count {
        write!(
            text,
            " local.get {} local.get 0 i64.const {index} i64.add i64.ne if unreachable end",
            index + 1
        )
        .expect("a string takes all");
    }
    text.push_str(" local.get 0 i64.eqz if");
    for index in 0..=count {
        write!(text, " local.get {index}").expect("a string takes all");
    }
    text.push_str(" return end local.get 0 i64.const 1 i64.sub return_call $small)\n");
    // Deep recursion that is no tail call, in a function whose frame has to make room for the arguments of one.
    text.push_str(r#"(func $deep (export "deep") (param i64) (result i64) (local i64)"#);
    write!(
        text,
        " local.get 0 i64.eqz if i64.const 0 return_call $sink end
          local.get 0 i64.const 1 i64.sub call $deep local.get 0 i64.add)
        (func $sink (param i64) (result i64) local.get 0 {} return_call $wide)
        (func $wide (param i64 {params}) (result i64) local.get 0 call $deep)
        (func (export \"overflow\") (param i64) (result i64) local.get 0 {} return_call $wider)
        (func $wider (param i64 {params}) (result i64)
          local.get 0 {} call $again drop local.get 0 {} return_call $again)
        (func $again (param i64 {params}) (result i64) local.get 0 {} return_call $wider))",
        "local.get 0 ".repeat(count),
        "local.get 0 ".repeat(count),
        "local.get 0 ".repeat(count),
        "local.get 0 ".repeat(count),
        "local.get 0 ".repeat(count),
    )
    .expect("a string takes all");
    text
}

#[test]
fn frames_of_other_sizes_are_taken_over_a_million_times() -> Result<()> {
    let engine = engine(false)?;
    for count in [1, 4, 5, 9, 60, 300] {
        let module = Module::new(&engine, small_and_large(count))?;
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let small = instance.get_func(&mut store, "small").expect("it is exported");
        let mut results = vec![selvedge::Val::I32(0); count + 1];
        let turns = CALLS / 2 / count as i64;
        small.call(&mut store, &[selvedge::Val::I64(turns)], &mut results)?;
        let results: Vec<_> = results.iter().map(selvedge::Val::i64).collect();
        let expected: Vec<_> = [0].into_iter().chain(0..count as i64).map(Some).collect();
        assert_eq!(results, expected, "{count} parameters more");
    }
    Ok(())
}

/// Where the stack ends within a frame differs with its size: all of it is tried.
#[test]
fn a_frame_that_makes_room_for_arguments_overflows_as_a_trap() -> Result<()> {
    for count in [5, 60, 300, 900] {
        let text = small_and_large(count);
        for pages in [2, 3, 4] {
            let engine = Engine::new(Config::new().stack_bytes(pages * 4096))?;
            let module = Module::new(&engine, &text)?;
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[])?;
            for name in ["overflow", "deep"] {
                let error = instance
                    .call::<i64, i64>(&mut store, name, 1_000_000)
                    .expect_err("it is endless");
                assert_eq!(
                    error.downcast_ref::<Trap>(),
                    Some(&Trap::StackOverflow),
                    "{name}, {count}, {pages}: {error:#}"
                );
            }
        }
    }
    Ok(())
}

const TO_THE_HOST: &str = r#"(module
    (type $t (func (param i32) (result i32)))
    (import "host" "twice" (func $twice (type $t)))
    (import "host" "fail" (func $fail (type $t)))
    (table funcref (elem $twice $fail))
    (func (export "import") (type $t) local.get 0 return_call $twice)
    (func (export "indirect") (type $t) local.get 0 i32.const 0 return_call_indirect (type $t))
    (func (export "reference") (type $t) local.get 0 ref.func $twice return_call_ref $t)
    (func $last (type $t) local.get 0 return_call $fail)
    (func $middle (type $t) local.get 0 call $last i32.const 1 i32.add)
    (func $first (export "fail") (type $t) local.get 0 return_call $middle)
    (func $divide (type $t) i32.const 1 local.get 0 i32.div_s)
    (func $passes (type $t) local.get 0 return_call $divide)
    (func (export "trap") (type $t) local.get 0 call $passes i32.const 1 i32.add))"#;

fn to_the_host(fuel: bool) -> Result<(Store<()>, Instance)> {
    let engine = engine(fuel)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "twice", |n: i32| n * 2)?;
    linker.func_wrap("host", "fail", |_: i32| -> Result<i32> { Err(Error::msg("no")) })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &Module::new(&engine, TO_THE_HOST)?)?;
    Ok((store, instance))
}

#[test]
fn a_host_function_takes_the_place_of_a_frame() -> Result<()> {
    let (mut store, instance) = to_the_host(false)?;
    for name in ["import", "indirect", "reference"] {
        assert_eq!(instance.call::<i32, i32>(&mut store, name, 21)?, 42, "{name}");
    }
    Ok(())
}

fn frames(error: &Error) -> Vec<&str> {
    let backtrace = error.backtrace().expect("it has one");
    let names = backtrace.frames().iter().map(|frame| frame.func_name());
    names.map(|name| name.unwrap_or("")).collect()
}

#[test]
fn a_backtrace_has_the_frames_that_are_there() -> Result<()> {
    let (mut store, instance) = to_the_host(false)?;
    let error = instance
        .call::<i32, i32>(&mut store, "fail", 1)
        .expect_err("the host fails");
    assert_eq!(frames(&error), ["middle"]);
    let error = instance
        .call::<i32, i32>(&mut store, "trap", 0)
        .expect_err("division by zero");
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::IntegerDivisionByZero));
    assert_eq!(frames(&error), ["divide", ""]);
    Ok(())
}

#[test]
fn async_host_functions_wait_in_the_place_of_a_frame() -> Result<()> {
    let engine = engine(false)?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "twice", async |_, n: i32| -> Result<i32> {
        selvedge_tests::wait(3).await;
        Ok(n * 2)
    })?;
    linker.func_wrap("host", "fail", |n: i32| n)?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &Module::new(&engine, TO_THE_HOST)?)?;
    for name in ["import", "indirect", "reference"] {
        let (result, pending) = drive(instance.call_async::<_, i32, i32>(&mut store, name, 4));
        assert_eq!((result?, pending), (8, 3), "{name}");
    }
    Ok(())
}

/// A null costs no compare: the load of the record faults.
#[test]
fn a_null_is_a_trap_with_exact_fuel() -> Result<()> {
    let engine = engine(true)?;
    let module = Module::new(
        &engine,
        r#"(module
        (type $t (func (param i32)))
        (table 1 funcref)
        (func (export "call_indirect") (call_indirect (type $t) (i32.const 1) (i32.const 0)))
        (func (export "return_call_indirect") (return_call_indirect (type $t) (i32.const 1) (i32.const 0)))
        (func (export "call_ref") (call_ref $t (i32.const 1) (ref.null $t)))
        (func (export "return_call_ref") (return_call_ref $t (i32.const 1) (ref.null $t)))
        (func (export "as_non_null") (drop (i32.const 1)) (drop (ref.as_non_null (ref.null $t)))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    for (name, trap, cost) in [
        ("call_indirect", Trap::IndirectCallToNull, 4),
        ("return_call_indirect", Trap::IndirectCallToNull, 4),
        ("call_ref", Trap::NullReference, 4),
        ("return_call_ref", Trap::NullReference, 4),
        ("as_non_null", Trap::NullReference, 4),
    ] {
        store.set_fuel(1000)?;
        let error = instance.call::<(), ()>(&mut store, name, ()).expect_err("a null");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&trap), "{name}");
        assert_eq!(1000 - store.get_fuel()?, cost, "{name}");
        assert_eq!(frames(&error).len(), 1, "{name}");
    }
    Ok(())
}

#[test]
fn typed_references_cross_between_host_and_guest_checked() -> Result<()> {
    let engine = engine(false)?;
    let module = Module::new(
        &engine,
        r#"(module
        (type $t (func (param i32) (result i32)))
        (func $inc (export "inc") (type $t) local.get 0 i32.const 1 i32.add)
        (func (export "apply") (param (ref $t) i32) (result i32) (call_ref $t (local.get 1) (local.get 0)))
        (func (export "get") (result (ref $t)) (ref.func $inc))
        (func (export "some") (param (ref func)) (result (ref func)) (local.get 0)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let inc = instance.call::<(), Func>(&mut store, "get", ())?;
    assert_eq!(instance.call::<Func, Func>(&mut store, "some", inc)?, inc);
    let apply = instance.get_func(&mut store, "apply").expect("it is exported");
    let mut results = [selvedge::Val::I32(0)];
    apply.call(&mut store, &[inc.into(), 41.into()], &mut results)?;
    assert_eq!(results[0].i32(), Some(42));
    let host = Func::wrap(&mut store, |n: i32| n * 3)?;
    apply.call(&mut store, &[host.into(), 14.into()], &mut results)?;
    assert_eq!(results[0].i32(), Some(42));
    let other = Func::wrap(&mut store, |n: i64| n)?;
    for wrong in [other.into(), selvedge::Val::FuncRef(None)] {
        let error = apply
            .call(&mut store, &[wrong, 1.into()], &mut results)
            .expect_err("not of the type");
        assert!(
            format!("{error:#}").contains("expected a value of type (ref (func (param i32) (result i32)))"),
            "{error:#}"
        );
    }
    let error = apply
        .typed::<(Option<Func>, i32), i32>(&store)
        .expect_err("any function is too general");
    assert!(error.to_string().contains("is called as"), "{error:#}");
    Ok(())
}
