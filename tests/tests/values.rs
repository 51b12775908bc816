//! Values between host and guest, whichever way they travel: registers or slots, plain or metered, parked or not.

use selvedge::{
    Caller, Config, Engine, Func, FuncType, Instance, Linker, Module, Result, Store, Val, ValType,
};
use selvedge_tests::{drive, wait};

/// Each function hands its parameters to the host in another order than they came, and gives back what that says. Many values live
/// across the call.
const TEXT: &str = r#"(module
    (import "host" "two" (func $two (param i32 i64) (result i64)))
    (import "host" "four" (func $four (param i64 i32 i64 i32) (result i64)))
    (import "host" "five" (func $five (param i64 i32 i64 i32 i64) (result i64)))
    (import "host" "float" (func $float (param f64 i32) (result f64)))
    (import "host" "none" (func $none))
    (func (export "two") (param i64 i32) (result i64) (call $two (local.get 1) (local.get 0)))
    (func (export "four") (param i32 i64 i32 i64) (result i64) (local i64 i64 i64)
        (local.set 4 (i64.mul (local.get 1) (i64.const 3)))
        (local.set 5 (i64.mul (local.get 3) (i64.const 5)))
        (local.set 6 (call $four (local.get 1) (local.get 0) (local.get 3) (local.get 2)))
        (i64.sub (i64.add (local.get 6) (i64.add (local.get 4) (local.get 5)))
            (i64.add (i64.mul (local.get 1) (i64.const 3)) (i64.mul (local.get 3) (i64.const 5)))))
    (func (export "five") (param i64) (result i64)
        (call $five (local.get 0) (i32.const -2) (i64.const 3) (i32.const 4) (i64.const -5)))
    (func (export "float") (param i32 f64) (result f64) (call $float (local.get 1) (local.get 0)))
    (func (export "none") (call $none)))"#;

fn four(a: i64, b: i32, c: i64, d: i32) -> i64 {
    a ^ i64::from(b).rotate_left(8) ^ c.rotate_left(16) ^ i64::from(d).rotate_left(24)
}

/// Host functions that answer at once, or after they have waited.
fn typed(linker: &mut Linker<()>, waits: bool) -> Result<()> {
    if waits {
        linker.func_wrap_async("host", "two", async |_: Caller<'_, ()>, (a, b): (i32, i64)| {
            wait(2).await;
            i64::from(a) - b
        })?;
        linker.func_wrap_async(
            "host",
            "four",
            async |_: Caller<'_, ()>, (a, b, c, d): (i64, i32, i64, i32)| {
                wait(1).await;
                four(a, b, c, d)
            },
        )?;
        linker.func_wrap_async(
            "host",
            "five",
            async |_: Caller<'_, ()>, (a, b, c, d, e): (i64, i32, i64, i32, i64)| {
                wait(1).await;
                four(a, b, c, d) + e
            },
        )?;
        linker.func_wrap_async("host", "float", async |_: Caller<'_, ()>, (a, b): (f64, i32)| {
            wait(1).await;
            a * f64::from(b)
        })?;
        linker.func_wrap_async("host", "none", async |_: Caller<'_, ()>, (): ()| wait(1).await)?;
    } else {
        linker.func_wrap("host", "two", |a: i32, b: i64| i64::from(a) - b)?;
        linker.func_wrap("host", "four", four)?;
        linker.func_wrap("host", "five", |a: i64, b: i32, c: i64, d: i32, e: i64| {
            four(a, b, c, d) + e
        })?;
        linker.func_wrap("host", "float", |a: f64, b: i32| a * f64::from(b))?;
        linker.func_wrap("host", "none", || ())?;
    }
    Ok(())
}

/// The same with `four` over slices of values.
fn untyped(linker: &mut Linker<()>, waits: bool) -> Result<()> {
    typed(linker, waits)?;
    linker.allow_shadowing(true);
    let of = |values: &[Val]| match values {
        [Val::I64(a), Val::I32(b), Val::I64(c), Val::I32(d)] => Val::I64(four(*a, *b, *c, *d)),
        other => panic!("other values than those of the signature: {other:?}"),
    };
    let ty = FuncType::new(
        [ValType::I64, ValType::I32, ValType::I64, ValType::I32],
        [ValType::I64],
    );
    if waits {
        linker.func_new_async(
            "host",
            "four",
            ty,
            async move |_: Caller<'_, ()>, params: &[Val], results: &mut [Val]| {
                wait(3).await;
                results[0] = of(params);
                Ok(())
            },
        )?;
    } else {
        linker.func_new("host", "four", ty, move |_, params, results| {
            results[0] = of(params);
            Ok(())
        })?;
    }
    Ok(())
}

fn check(fuel: bool, waits: bool, define: fn(&mut Linker<()>, bool) -> Result<()>) -> Result<()> {
    let engine = Engine::new(Config::new().fuel(fuel))?;
    let module = Module::new(&engine, TEXT)?;
    let mut linker = Linker::<()>::new(&engine);
    define(&mut linker, waits)?;
    let mut store = Store::new(&engine, ());
    if fuel {
        store.set_fuel(1 << 40)?;
    }
    let i = linker.instantiate(&mut store, &module)?;
    let (a, c) = (0x0123_4567_89ab_cdef, -0x0fed_cba9_8765_4321);
    let two: i64 = drive(i.call_async(&mut store, "two", (i64::MIN + 1, -7))).0?;
    assert_eq!(two, i64::MAX - 7);
    let result: i64 = drive(i.call_async(&mut store, "four", (-3, a, 9, c))).0?;
    assert_eq!(result, four(a, -3, c, 9));
    let five: i64 = drive(i.call_async(&mut store, "five", a)).0?;
    assert_eq!(five, four(a, -2, 3, 4) - 5);
    let float: f64 = drive(i.call_async(&mut store, "float", (-4, 0.5))).0?;
    assert_eq!(float, -2.0);
    drive(i.call_async::<_, (), ()>(&mut store, "none", ())).0?;
    if !waits {
        assert_eq!(
            i.call::<_, i64>(&mut store, "four", (-3, a, 9, c))?,
            four(a, -3, c, 9)
        );
        assert_eq!(
            i.call::<_, i64>(&mut store, "two", (i64::MIN + 1, -7))?,
            i64::MAX - 7
        );
        assert_eq!(i.call::<_, i64>(&mut store, "five", a)?, four(a, -2, 3, 4) - 5);
        i.call::<(), ()>(&mut store, "none", ())?;
    }
    Ok(())
}

#[test]
fn values_arrive_whichever_way_they_travel() -> Result<()> {
    for fuel in [false, true] {
        for waits in [false, true] {
            check(fuel, waits, typed)?;
            check(fuel, waits, untyped)?;
        }
    }
    Ok(())
}

#[test]
fn a_host_function_is_called_by_the_host_as_by_a_guest() -> Result<()> {
    for fuel in [false, true] {
        let engine = Engine::new(Config::new().fuel(fuel))?;
        let mut store = Store::new(&engine, ());
        let func = Func::wrap(&mut store, four)?;
        let typed = func.typed::<(i64, i32, i64, i32), i64>(&store)?;
        assert_eq!(typed.call(&mut store, (-1, 2, -3, 4))?, four(-1, 2, -3, 4));
        let (result, _) = drive(typed.call_async(&mut store, (5, -6, 7, -8)));
        assert_eq!(result?, four(5, -6, 7, -8));
    }
    Ok(())
}

/// Recursion between host and guest, one inside the other, until there is no room: wherever the guard is met, it is an error.
#[test]
fn a_stack_that_ends_in_a_call_of_the_host_is_an_overflow() -> Result<()> {
    let text = r#"(module
        (import "host" "f" (func $f (param i32 i32 i32 i32) (result i32)))
        (func $deep (export "deep") (param i32) (result i32)
            (drop (call $f (local.get 0) (i32.const 1) (i32.const 2) (i32.const 3)))
            (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (local.get 0))))"#;
    let ty = FuncType::new([ValType::I32; 4], [ValType::I32]);
    for is_typed in [true, false] {
        for stack_bytes in (64 << 10..68 << 10).step_by(512) {
            let engine = Engine::new(Config::new().stack_bytes(stack_bytes))?;
            let module = Module::new(&engine, text)?;
            let mut store = Store::new(&engine, ());
            let func = match is_typed {
                true => Func::wrap(&mut store, |a: i32, b: i32, c: i32, d: i32| a + b + c + d)?,
                false => Func::new(&mut store, ty.clone(), |_, params, results| {
                    results[0] = params[0];
                    Ok(())
                })?,
            };
            let instance = Instance::new(&mut store, &module, &[func.into()])?;
            for _ in 0..2 {
                let error = instance
                    .call::<_, i32>(&mut store, "deep", 1)
                    .expect_err("it has no end");
                assert_eq!(
                    error.downcast_ref(),
                    Some(&selvedge::Trap::StackOverflow),
                    "{error:#}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn nans_are_canonical_where_that_is_asked_for() -> Result<()> {
    let wat = r#"(module
        (func (export "f32") (param i32) (result i32)
            (i32.reinterpret_f32 (f32.add (f32.reinterpret_i32 (local.get 0)) (f32.const 1))))
        (func (export "f64") (param i64) (result i64)
            (i64.reinterpret_f64 (f64.mul (f64.reinterpret_i64 (local.get 0)) (f64.const 2))))
        (func (export "lanes") (param i32) (result i32)
            (i32x4.extract_lane 3 (f32x4.sqrt (f32x4.splat (f32.reinterpret_i32 (local.get 0))))))
        (func (export "invalid") (result i32)
            (i32.reinterpret_f32 (f32.div (f32.const 0) (f32.const 0))))
        (func (export "copied") (param i32) (result i32)
            (i32.reinterpret_f32 (f32.neg (f32.reinterpret_i32 (local.get 0))))))"#;
    let bits = |canonical: bool, fuel: bool| -> Result<(i32, i64, i32, i32, i32)> {
        let mut config = Config::new();
        config.canonical_nans(canonical).fuel(fuel);
        let engine = Engine::new(&config)?;
        let module = Module::new(&engine, wat)?;
        let mut store = Store::new(&engine, ());
        if fuel {
            store.set_fuel(1_000)?;
        }
        let instance = Instance::new(&mut store, &module, &[])?;
        Ok((
            instance.call(&mut store, "f32", 0x7fa0_0001)?,
            instance.call(&mut store, "f64", 0xfff8_0000_0000_1234_u64)?,
            instance.call(&mut store, "lanes", 0x7fc0_0042)?,
            instance.call(&mut store, "invalid", ())?,
            instance.call(&mut store, "copied", 0x7fa0_0001)?,
        ))
    };
    let canonical = (
        0x7fc0_0000,
        0x7ff8_0000_0000_0000,
        0x7fc0_0000,
        0x7fc0_0000,
        0xffa0_0001_u32 as i32, // `neg` computes no NaN: it flips a sign
    );
    assert_eq!(bits(true, false)?, canonical);
    assert_eq!(bits(true, true)?, canonical);
    assert_ne!(
        bits(false, false)?.0,
        canonical.0,
        "else the processor's payload is kept"
    );
    Ok(())
}

#[test]
fn values_are_taken_out_by_kind() -> Result<()> {
    let mut store = Store::<()>::default();
    let func = Func::wrap(&mut store, || ())?;
    assert_eq!(Val::from(Some(func)).funcref(), Some(Some(func)));
    assert_eq!(Val::from(None::<Func>).unwrap_funcref(), None);
    assert!(Val::from(None::<Func>).is_null() && !Val::from(func).is_null());
    assert!(Val::I32(0).funcref().is_none() && !Val::I32(0).is_null());
    assert!(Val::FuncRef(None).externref().is_none());
    assert!(Val::ExternRef(None).unwrap_externref().is_none());
    assert!(matches!(Val::ExnRef(None).exnref(), Some(None)));
    assert_eq!(Val::from(7_u128).unwrap_v128().as_u128(), 7);
    assert_eq!(Val::from(1.5_f64).unwrap_f64(), 1.5);
    let wrong = std::panic::catch_unwind(|| Val::I64(1).unwrap_i32()).unwrap_err();
    let text = wrong.downcast_ref::<String>().expect("a message");
    assert_eq!(text, "expected an i32, found a value of type i64");
    Ok(())
}
