//! Fuel: yields are exactly what arithmetic says, and what is left is exact after every way to stop.

use selvedge::{
    Caller, Config, Engine, Error, FuelCosts, FuelPolicy, Instance, Linker, MemoryStyle, Module, OptLevel,
    Result, Store, Trap,
};
use selvedge_tests::{Wakes, drive};
use std::num::{NonZeroU32, NonZeroU64};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// One unit for the call, two before the loop; 5 for each turn (global.get, const, sub, global.set.. as counted below).
const LOOP: &str = r#"(module
    (func (export "count") (param i64)
      loop $l
        local.get 0 i64.const 1 i64.sub local.tee 0 i64.eqz br_if 1
        br $l
      end)
    (func (export "trap") (param i32)
      local.get 0 i32.eqz if unreachable end
      nop
      i32.const 70000 i32.load drop)
    (func (export "divide") (param i32 i32) (result i32)
      local.get 0 local.get 1 i32.div_s)
    (memory (export "memory") 1)
    (func (export "fill") (param i32)
      i32.const 0 i32.const 7 local.get 0 memory.fill))"#;

/// Units of a turn of `count` that goes on: local.get, i64.const, i64.sub, local.tee, i64.eqz, br_if, br.
const TURN: u64 = 7;
/// Units of the call of `count`: a function's entry. The last turn leaves before its `br`.
const ENTRY: u64 = 1;

fn metered() -> Result<(Store<()>, Instance)> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(&engine, LOOP)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    Ok((store, instance))
}

/// What `count(turns)` costs.
fn cost(turns: u64) -> u64 {
    ENTRY + turns * TURN - 1
}

#[test]
fn a_call_costs_what_its_operators_cost() -> Result<()> {
    let (mut store, instance) = metered()?;
    for turns in [1, 2, 3, 10, 1000] {
        store.set_fuel(1_000_000)?;
        instance.call::<i64, ()>(&mut store, "count", turns)?;
        assert_eq!(1_000_000 - store.get_fuel()?, cost(turns as u64), "{turns} turns");
    }
    Ok(())
}

#[test]
fn out_of_fuel_is_a_trap_that_leaves_nothing_and_the_store_goes_on() -> Result<()> {
    let (mut store, instance) = metered()?;
    store.set_fuel(5000)?;
    let error = instance
        .call::<i64, ()>(&mut store, "count", 1_000_000)
        .expect_err("too little fuel");
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
    assert_eq!(store.get_fuel()?, 0);
    store.set_fuel(cost(3))?;
    instance.call::<i64, ()>(&mut store, "count", 3)?;
    assert_eq!(store.get_fuel()?, 0, "exactly enough is enough");
    Ok(())
}

#[test]
fn what_is_left_after_a_trap_is_exact() -> Result<()> {
    let (mut store, instance) = metered()?;
    let mut left_after = |name: &str, arguments: (i32, i32), trap: Trap| -> Result<u64> {
        store.set_fuel(1000)?;
        let result = match name {
            "divide" => instance.call::<_, i32>(&mut store, name, arguments).map(drop),
            _ => instance.call::<_, ()>(&mut store, name, arguments.0),
        };
        let error = result.expect_err("a trap");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&trap), "{name}");
        store.get_fuel()
    };
    // Entry, local.get, i32.eqz, if; unreachable is free.
    assert_eq!(left_after("trap", (0, 0), Trap::Unreachable)?, 1000 - 4);
    // Entry, local.get, i32.eqz, if, i32.const, i32.load: the operator that faults is paid, what follows is not.
    assert_eq!(left_after("trap", (1, 0), Trap::MemoryOutOfBounds)?, 1000 - 6);
    assert_eq!(
        left_after("divide", (1, 0), Trap::IntegerDivisionByZero)?,
        1000 - 4
    );
    assert_eq!(
        left_after("divide", (i32::MIN, -1), Trap::IntegerOverflow)?,
        1000 - 4
    );
    Ok(())
}

/// Where a short loop traps, in its first turn or in its second, by a fault or by a branch.
#[test]
fn what_is_left_after_a_trap_in_a_short_loop_is_exact() -> Result<()> {
    for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
        let engine = Engine::new(Config::new().fuel(true).memory_style(style))?;
        let module = Module::new(
            &engine,
            r#"(module (memory (export "memory") 1)
                (func (export "walk") (param i32) (result i32) (local i32)
                  (loop $l
                    (local.set 1 (i32.add (local.get 1) (i32.load (local.get 0))))
                    (i32.store offset=4 (local.get 0) (i32.const 1))
                    (br_if $l (local.tee 0 (i32.add (local.get 0) (i32.const 4)))))
                  (local.get 1))
                (func (export "divide") (param i32)
                  (loop $l
                    (drop (i32.rem_s (i32.const 1) (local.get 0)))
                    (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                    (br $l))))"#,
        )?;
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        for turns in 0..7_i32 {
            store.set_fuel(1000)?;
            let walk = instance.call::<i32, i32>(&mut store, "walk", 65_532 - 4 * turns);
            let error = walk.expect_err("a fault");
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
            // Entry; 13 a turn; get, get, load, add, set, get, const, store.
            assert_eq!(
                store.get_fuel()?,
                1000 - (1 + 13 * turns as u64 + 8),
                "{turns} turns, {style:?}"
            );
            store.set_fuel(1000)?;
            let divide = instance.call::<i32, ()>(&mut store, "divide", turns);
            let error = divide.expect_err("a division by zero");
            assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::IntegerDivisionByZero));
            // Entry; 8 a turn; const, get, rem.
            assert_eq!(
                store.get_fuel()?,
                1000 - (1 + 8 * turns as u64 + 3),
                "{turns} turns, {style:?}"
            );
        }
    }
    Ok(())
}

/// A guest that runs out in the midst of two turns finishes them: at most what they cost, and always the same.
#[test]
fn a_short_loop_runs_out_at_the_end_of_its_second_turn() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module (global (export "turns") (mut i32) (i32.const 0))
            (func (export "spin") (loop $l (global.set 0 (i32.add (global.get 0) (i32.const 1))) (br $l))))"#,
    )?;
    for units in 0..40_u64 {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        store.set_fuel(units)?;
        let error = instance
            .call::<(), ()>(&mut store, "spin", ())
            .expect_err("it never ends");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
        assert_eq!(store.get_fuel()?, 0);
        let turns = instance
            .get_global(&mut store, "turns")
            .expect("exported")
            .get(&mut store);
        // Entry; 5 a turn. The first pair of turns after which more is spent than there was.
        let pairs = (1..).find(|pairs| 1 + 10 * pairs > units).expect("there is one");
        assert_eq!(turns.i32(), Some(2 * pairs as i32), "{units} units");
    }
    Ok(())
}

/// Polls to the end and counts.
fn pendings<F: Future<Output = Result<()>>>(call: F) -> (Result<()>, u64, u64) {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut call = pin!(call);
    let mut pending = 0;
    loop {
        match call.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => pending += 1,
            Poll::Ready(result) => return (result, pending, wakes.count()),
        }
    }
}

/// Yields of `count(turns)` with a slice of `every`: the loop is short, so that every second `br` looks, and finds what was spent until then; the call
/// has yielded once for every multiple of `every` below that.
fn expected_yields(turns: u64, every: u64) -> u64 {
    let looked_for = (turns - 1) / 2 * 2;
    let at_last_check = ENTRY + looked_for * TURN;
    (at_last_check - 1) / every
}

#[test]
fn yields_are_exactly_what_arithmetic_says() -> Result<()> {
    for every in [1, 2, 6, 7, 8, 50, 63, 64, 699, 700, 701, 100_000] {
        for turns in [1, 2, 100, 1001] {
            let (mut store, instance) = metered()?;
            store.set_fuel(1 << 40)?;
            store.set_fuel_policy(FuelPolicy::Yield {
                every: NonZeroU64::new(every).expect("not zero"),
            })?;
            let call = instance.call_async::<_, _, ()>(&mut store, "count", turns as i64);
            let (result, pending, woken) = pendings(call);
            result?;
            assert_eq!(
                pending,
                expected_yields(turns, every),
                "{turns} turns, a yield every {every}"
            );
            assert_eq!(woken, pending, "each yield wakes its task once");
            assert_eq!((1 << 40) - store.get_fuel()?, cost(turns), "yields cost nothing");
        }
    }
    Ok(())
}

#[test]
fn with_n_units_and_a_yield_every_k_the_guest_yields_until_they_are_spent() -> Result<()> {
    // 700 units are 100 turns less the entry: the check that finds them overspent is the one after the 100th turn.
    for (units, every) in [
        (700, 70),
        (700, 14),
        (700, 7),
        (701, 100),
        (701, 7),
        (10_000, 999),
    ] {
        let (mut store, instance) = metered()?;
        store.set_fuel(units)?;
        store.set_fuel_policy(FuelPolicy::Yield {
            every: NonZeroU64::new(every).expect("not zero"),
        })?;
        let (result, pending, _) = pendings(instance.call_async::<_, _, ()>(&mut store, "count", i64::MAX));
        let error = result.expect_err("too little fuel");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
        assert_eq!(store.get_fuel()?, 0);
        // Every second turn looks. The last check that finds no more spent than there was has yielded for every multiple of `every` below
        // that; the next one traps.
        let at_last_check = ENTRY + (units - ENTRY) / (2 * TURN) * (2 * TURN);
        assert_eq!(
            pending,
            (at_last_check - 1) / every,
            "{units} units, a yield every {every}"
        );
        // Where two turns cost no more than a slice: every, every, .. and the rest; each but the first is granted by a yield.
        if every >= 2 * TURN {
            assert_eq!(
                pending,
                units.div_ceil(every) - 1,
                "{units} units, a yield every {every}"
            );
        }
    }
    Ok(())
}

/// Loops that keep values of every kind in registers, and one that keeps integers alone but is called with others alive.
const REGISTERS: &str = r#"(module
    (import "host" "seed" (func $seed (result i64)))
    (func $integers (param $n i64) (result i64)
        (local $a i64) (local $b i64) (local $c i64) (local $d i64) (local $e i64) (local $f i64)
        (local.set $a (call $seed)) (local.set $b (call $seed)) (local.set $c (call $seed))
        (local.set $d (call $seed)) (local.set $e (call $seed)) (local.set $f (call $seed))
        (loop $l
            (local.set $a (i64.add (local.get $a) (local.get $f)))
            (local.set $b (i64.xor (local.get $b) (local.get $a)))
            (local.set $c (i64.add (local.get $c) (local.get $b)))
            (local.set $d (i64.rotl (local.get $d) (local.get $c)))
            (local.set $e (i64.sub (local.get $e) (local.get $d)))
            (local.set $f (i64.mul (local.get $f) (local.get $e)))
            (br_if $l (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))
        (i64.xor (i64.xor (local.get $a) (local.get $b))
            (i64.xor (i64.xor (local.get $c) (local.get $d)) (i64.xor (local.get $e) (local.get $f)))))
    (func (export "mixed") (param $n i64) (result i64)
        (local $v v128) (local $w v128) (local $x f64) (local $y f32) (local $sum i64) (local $i i64)
        (local.set $i (local.get $n))
        (local.set $v (i64x2.splat (call $seed)))
        (local.set $w (i64x2.replace_lane 1 (local.get $v) (call $seed)))
        (local.set $x (f64.convert_i64_s (call $seed)))
        (local.set $y (f32.convert_i64_s (call $seed)))
        (loop $l
            (local.set $v (i64x2.add (local.get $v) (local.get $w)))
            (local.set $w (v128.xor (local.get $w) (i64x2.shl (local.get $v) (i32.const 7))))
            (local.set $x (f64.add (f64.mul (local.get $x) (f64.const 0.75)) (f64.promote_f32 (local.get $y))))
            (local.set $y (f32.sub (f32.demote_f64 (local.get $x)) (f32.const 0.25)))
            (local.set $sum (i64.add (local.get $sum) (i64.const 3)))
            (br_if $l (i64.ne (local.tee $i (i64.sub (local.get $i) (i64.const 1))) (i64.const 0))))
        (local.set $sum (i64.add (local.get $sum) (call $integers (local.get $n))))
        (i64.xor
            (i64.xor (local.get $sum) (i64x2.extract_lane 0 (local.get $v)))
            (i64.xor
                (i64.xor (i64x2.extract_lane 1 (local.get $v)) (i64x2.extract_lane 1 (local.get $w)))
                (i64.xor (i64.reinterpret_f64 (local.get $x)) (i64.extend_i32_u (i32.reinterpret_f32 (local.get $y))))))))"#;

/// The bits of every register that a loop may keep a value in are lost to who runs between two polls.
#[inline(never)]
fn overwrite_registers(seed: u64) -> u64 {
    let floats: [f64; 32] =
        std::array::from_fn(|i| std::hint::black_box(seed.wrapping_mul(i as u64 + 3)) as f64);
    let mixed = floats.iter().fold([1.5; 8], |mut sums: [f64; 8], x| {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.mul_add(*x, i as f64);
        }
        sums
    });
    mixed.iter().fold(0, |bits, x| bits ^ x.to_bits())
}

#[test]
fn values_in_registers_outlive_refills_and_yields() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(&engine, REGISTERS)?;
    let mut linker = Linker::<u64>::new(&engine);
    linker.func_wrap("host", "seed", |mut caller: Caller<'_, u64>| {
        let seed = caller.data_mut();
        *seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(7);
        *seed as i64
    })?;
    let run = |every: Option<u64>| -> Result<(i64, u64)> {
        let mut store = Store::new(&engine, 1);
        store.set_fuel(1 << 40)?;
        if let Some(every) = every {
            let every = NonZeroU64::new(every).expect("not zero");
            store.set_fuel_policy(FuelPolicy::Yield { every })?;
        }
        let instance = linker.instantiate(&mut store, &module)?;
        let mut call = pin!(instance.call_async::<_, _, i64>(&mut store, "mixed", 500_i64));
        let mut yields = 0;
        loop {
            match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => return result.map(|result| (result, yields)),
                Poll::Pending => yields += 1,
            }
            std::hint::black_box(overwrite_registers(yields));
        }
    };
    let (expected, none) = run(None)?;
    assert_eq!(none, 0);
    for every in [1, 7, 30, 1000] {
        let (result, yields) = run(Some(every))?;
        assert_eq!(result, expected, "a yield every {every}");
        assert!(yields > 10, "{yields} yields, one every {every}");
    }
    Ok(())
}

#[test]
fn a_yielding_store_refuses_a_sync_call_by_name() -> Result<()> {
    let (mut store, instance) = metered()?;
    store.set_fuel(1000)?;
    let every = NonZeroU64::new(10).expect("not zero");
    store.set_fuel_policy(FuelPolicy::Yield { every })?;
    let error = instance
        .call::<i64, ()>(&mut store, "count", 1)
        .expect_err("nobody to yield to");
    assert!(error.to_string().contains("call_async"), "{error}");
    store.set_fuel_policy(FuelPolicy::Trap)?;
    instance.call::<i64, ()>(&mut store, "count", 1)
}

#[test]
fn a_call_dropped_at_a_yield_leaves_the_store_usable() -> Result<()> {
    let (mut store, instance) = metered()?;
    store.set_fuel(1 << 30)?;
    let every = NonZeroU64::new(1000).expect("not zero");
    store.set_fuel_policy(FuelPolicy::Yield { every })?;
    {
        let mut call = pin!(instance.call_async::<_, _, ()>(&mut store, "count", i64::MAX));
        for _ in 0..5 {
            assert!(
                call.as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
        }
    }
    let spent = (1 << 30) - store.get_fuel()?;
    assert!((5000..5000 + 2 * TURN).contains(&spent), "{spent} spent");
    drive(instance.call_async::<_, _, ()>(&mut store, "count", 3_i64)).0
}

#[test]
fn bulk_operations_pay_by_length_before_they_write() -> Result<()> {
    let (mut store, instance) = metered()?;
    store.set_fuel(10_000)?;
    instance.call::<i32, ()>(&mut store, "fill", 65_536)?;
    // Entry, three operands, memory.fill; then a unit for each 64 bytes.
    assert_eq!(10_000 - store.get_fuel()?, 5 + 65_536 / 64);
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    memory.data_mut(&mut store).fill(0);
    store.set_fuel(500)?;
    let error = instance
        .call::<i32, ()>(&mut store, "fill", 65_536)
        .expect_err("too little fuel");
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
    assert!(
        memory.data(&store).iter().all(|byte| *byte == 0),
        "nothing was written"
    );
    Ok(())
}

/// As many elements as a table of them has units: one too few writes nothing, exactly enough writes all.
#[test]
fn operations_on_tables_pay_by_length_before_they_write() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module (table $t 10 funcref) (table $from 10 funcref) (func $f)
            (elem $segment func $f $f $f $f $f $f $f $f) (elem (table $from) (i32.const 0) func $f $f $f $f $f $f $f $f)
            (func (export "init") (table.init $t $segment (i32.const 0) (i32.const 0) (i32.const 8)))
            (func (export "copy") (table.copy $t $from (i32.const 0) (i32.const 0) (i32.const 8)))
            (func (export "fill") (table.fill $t (i32.const 0) (ref.func $f) (i32.const 8)))
            (func (export "grow") (drop (table.grow $t (ref.func $f) (i32.const 8))))
            (func (export "filled") (result i32) (local $n i32) (local $at i32)
              (loop $next
                (local.set $n (i32.add (local.get $n) (i32.eqz (ref.is_null (table.get $t (local.get $at))))))
                (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (table.size $t))))
              (local.get $n)))"#,
    )?;
    for name in ["init", "copy", "fill", "grow"] {
        let run = |units: u64| -> Result<(Result<()>, u64, i32)> {
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[])?;
            store.set_fuel(units)?;
            let ended = instance.call::<(), ()>(&mut store, name, ());
            let left = store.get_fuel()?;
            store.set_fuel(1_000_000)?;
            let filled = instance.call::<(), i32>(&mut store, "filled", ())?;
            Ok((ended, left, filled))
        };
        let (ended, left, filled) = run(1_000)?;
        ended?;
        assert_eq!(filled, 8, "{name}");
        let cost = 1_000 - left;
        assert!(
            (12..=14).contains(&cost),
            "{name}: entry, operands, and a unit for each of 8 elements: {cost}"
        );
        let (ended, left, filled) = run(cost)?;
        ended?;
        assert_eq!((left, filled), (0, 8), "{name}: exactly enough");
        let (ended, left, filled) = run(cost - 1)?;
        let error = ended.expect_err("a unit too few");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel), "{name}");
        assert_eq!((left, filled), (0, 0), "{name}: nothing was written");
    }
    Ok(())
}

#[test]
fn host_functions_see_and_set_the_exact_count() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module (import "host" "look" (func $look))
            (func (export "run") nop call $look i32.const 1 drop call $look call $look))"#,
    )?;
    let mut linker = Linker::<Vec<u64>>::new(&engine);
    linker.func_wrap("host", "look", |mut caller: Caller<'_, Vec<u64>>| -> Result<()> {
        let left = caller.get_fuel()?;
        caller.data_mut().push(left);
        match caller.data().len() {
            2 => caller.set_fuel(50),
            4.. => Err(Error::msg("asked too often")),
            _ => Ok(()),
        }
    })?;
    let mut store = Store::new(&engine, Vec::new());
    let instance = linker.instantiate(&mut store, &module)?;
    store.set_fuel(100)?;
    instance.call::<(), ()>(&mut store, "run", ())?;
    // Entry and call; const and call; then from 50: a call.
    assert_eq!(*store.data(), [98, 96, 49]);
    assert_eq!(store.get_fuel()?, 49);
    instance
        .call::<(), ()>(&mut store, "run", ())
        .expect_err("the host fails");
    assert_eq!(store.get_fuel()?, 47, "exact after a host error");
    Ok(())
}

#[test]
fn an_engine_without_fuel_says_so() {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let error = store.set_fuel(1).expect_err("not metered");
    assert!(error.to_string().contains("Config::fuel"), "{error}");
    assert!(store.get_fuel().is_err());
}

#[test]
fn a_table_of_costs_changes_what_operators_and_bulk_operations_cost() -> Result<()> {
    let mut costs = FuelCosts::new();
    costs.set("i64.sub", 100)?.set("br", 0)?.set("memory.fill", 30)?;
    costs.set_bytes_per_unit(NonZeroU32::new(1).expect("not zero"));
    let engine = Engine::new(Config::new().fuel(true).fuel_costs(costs))?;
    let module = Module::new(&engine, LOOP)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    store.set_fuel(1_000_000)?;
    instance.call::<i64, ()>(&mut store, "count", 10)?;
    // The last turn has no `br` by default, and none costs anything here.
    assert_eq!(1_000_000 - store.get_fuel()?, cost(10) + 10 * 99 - 9);
    store.set_fuel(1_000_000)?;
    instance.call::<i32, ()>(&mut store, "fill", 1000)?;
    assert_eq!(1_000_000 - store.get_fuel()?, ENTRY + 3 + 30 + 1000);
    Ok(())
}

#[test]
fn the_dearest_straight_code_is_counted_exactly() -> Result<()> {
    let mut costs = FuelCosts::new();
    costs.set("i32.eqz", 255)?;
    let engine = Engine::new(Config::new().fuel(true).fuel_costs(costs))?;
    let wat = format!(
        r#"(module (func (export "f") (param i32) (result i32) (local.get 0) {}))"#,
        "i32.eqz ".repeat(100_000)
    );
    let module = Module::new(&engine, wat)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    store.set_fuel(30_000_000)?;
    assert_eq!(instance.call::<i32, i32>(&mut store, "f", 1)?, 1);
    assert_eq!(30_000_000 - store.get_fuel()?, ENTRY + 1 + 100_000 * 255);
    Ok(())
}

/// A bulk operation returns to the instruction behind it, which may be an access that faults itself: which of the two trapped is not told by
/// the address alone.
#[test]
fn a_trap_of_a_bulk_operation_is_not_taken_for_one_of_the_access_behind_it() -> Result<()> {
    let text = r#"(module (memory 1) (func (export "f") (param $at i32) (param $count i32) (result i32) (local i64)
        (i32.load (local.get $at))
        (memory.copy (local.get $count) (local.get $count) (local.get $count))
        (i64.store16 offset=3 (local.get $at) (local.get 2))))"#;
    // The copy does not fit; the store does not: units spent, and how far behind the copy the operator lies.
    for (at, count, units) in [(38_804, 38_804, 7), (65_532, 5, 10)] {
        let mut offsets = Vec::new();
        for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
            for level in [OptLevel::Speed, OptLevel::None] {
                let engine = Engine::new(Config::new().fuel(true).memory_style(style).opt_level(level))?;
                let module = Module::new(&engine, text)?;
                let mut store = Store::new(&engine, ());
                store.set_fuel(1_000)?;
                let instance = Instance::new(&mut store, &module, &[])?;
                let error = instance.call::<(i32, i32), i32>(&mut store, "f", (at, count));
                let error = error.expect_err("out of bounds");
                assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
                assert_eq!(
                    1_000 - store.get_fuel()?,
                    units,
                    "{style:?}, {level:?}, {count} bytes"
                );
                let frames = error.backtrace().expect("frames");
                offsets.push(frames.frames()[0].wasm_offset());
            }
        }
        assert!(
            offsets[0].is_some() && offsets.iter().all(|offset| *offset == offsets[0]),
            "{offsets:?}"
        );
    }
    Ok(())
}

/// A load, a check that is not the last of the loop's turns, and the same load: the host may write in between, and move the memory.
#[test]
fn what_the_host_does_at_a_check_is_seen_behind_it() -> Result<()> {
    // The block keeps the first loop from being short: that one looks in its only turn, the second in each second turn.
    const LOADS: &str = r#"(module (memory (export "memory") 1 9)
        (func (export "change") (param i32) (result i32) (local i32)
            (loop $l
                (block)
                (local.set 1 (i32.load (i32.const 8)))
                (br_if $l (local.get 0)))
            (i32.sub (i32.load (i32.const 8)) (local.get 1)))
        (func (export "short") (param i32) (result i32) (local i32)
            (loop $l
                (local.set 1 (i32.load (i32.const 8)))
                (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i32.sub (i32.load (i32.const 8)) (local.get 1))))"#;
    for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
        let engine = Engine::new(Config::new().fuel(true).memory_style(style))?;
        let module = Module::new(&engine, LOADS)?;
        // The turn behind the check has loaded what the host wrote.
        for (name, argument, more) in [
            ("change", 0, 7),
            ("short", 2, 7),
            ("short", 3, 0),
            ("short", 4, 0),
        ] {
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[])?;
            let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
            store.on_fuel_zero(move |mut caller| {
                memory.grow(&mut caller, 8)?;
                memory.write(&mut caller, 8, &[7])?;
                Ok(1000)
            })?;
            store.set_fuel(1)?;
            let result = instance.call::<i32, i32>(&mut store, name, argument)?;
            assert_eq!(result, more, "{style:?}, {name}({argument})");
            let written = memory.data(&store)[8];
            assert_eq!(written, 7, "{style:?}, {name}({argument}): it was asked");
        }
    }
    Ok(())
}
