//! A plug-in that pays for what it does: so much fuel for each request, and an end when it is used up.
//!
//! Fuel is exact: the same call costs the same on every machine, whatever the optimiser does.

use selvedge::{Config, Engine, Instance, Module, Result, Store, Trap};

/// What a request may cost. About one unit an operator; [`selvedge::FuelCosts`] changes that.
const FUEL: u64 = 10_000;

fn main() -> Result<()> {
    // Metering is compiled in, so it is the engine's choice.
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module
            (func (export "sum_to") (param $n i64) (result i64) (local $sum i64)
              (loop $again
                (local.set $sum (i64.add (local.get $sum) (local.get $n)))
                (local.set $n (i64.sub (local.get $n) (i64.const 1)))
                (br_if $again (i64.ne (local.get $n) (i64.const 0))))
              (local.get $sum)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(FUEL)?;
    let plugin = Instance::new(&mut store, &module, &[])?;
    // The export's name and types are checked once.
    let sum_to = plugin.typed::<i64, i64>(&mut store, "sum_to")?;

    let mut costs = Vec::new();
    for n in [10, 20, 30] {
        store.set_fuel(FUEL)?;
        let sum = sum_to.call(&mut store, n)?;
        costs.push(FUEL - store.get_fuel()?);
        println!(
            "the sum to {n} is {sum} and cost {} units",
            costs[costs.len() - 1]
        );
        assert_eq!(sum, n * (n + 1) / 2);
    }
    // Ten more turns of the loop always cost the same.
    assert_eq!(costs[1] - costs[0], costs[2] - costs[1]);

    // This one would run for years.
    store.set_fuel(FUEL)?;
    let error = sum_to.call(&mut store, i64::MAX).expect_err("too little fuel");
    println!("the sum to {}: {error:#}", i64::MAX);
    assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
    assert_eq!(store.get_fuel()?, 0);

    // The store is as good as before: give it fuel and go on.
    store.set_fuel(FUEL)?;
    assert_eq!(sum_to.call(&mut store, 4)?, 10);
    Ok(())
}
