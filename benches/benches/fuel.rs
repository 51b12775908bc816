//! What does metering cost? A loop and a recursion with and without fuel, in Selvedge and in wasmtime; and
//! a yield.

use selvedge_benches::guest::block_on;
use selvedge_benches::{Contest, Question, side};
use std::num::NonZeroU64;

const KERNELS: &str = r#"(module
    (func (export "loop") (param $n i32) (result i32) (local $x i32)
        (loop $again
            (local.set $x (i32.xor (i32.mul (local.get $x) (i32.const 31)) (local.get $n)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $x))
    (func $fib (export "fib") (param $n i32) (result i32)
        (if (result i32) (i32.lt_u (local.get $n) (i32.const 2))
            (then (local.get $n))
            (else (i32.add
                (call $fib (i32.sub (local.get $n) (i32.const 1)))
                (call $fib (i32.sub (local.get $n) (i32.const 2))))))))"#;

/// Kernels and their arguments: a fifth of a millisecond or so.
const RUNS: [(&str, i32); 2] = [("loop", 100_000), ("fib", 20)];
/// More than is ever used.
const PLENTY: u64 = 1 << 62;
/// Units between two yields.
const YIELD_EVERY: u64 = 100;
/// Turns of the loop for two thousand yields; a turn costs 10 or 11 units in either engine.
const YIELD_TURNS: i32 = 20_000;
/// Yields of so many turns.
const YIELDS: u32 = 2000;

struct Ours {
    store: selvedge::Store<()>,
    instance: selvedge::Instance,
}

impl Ours {
    fn new(fuel: bool) -> selvedge::Result<Ours> {
        let engine = selvedge::Engine::new(selvedge::Config::new().fuel(fuel))?;
        let module = selvedge::Module::new(&engine, KERNELS)?;
        let mut store = selvedge::Store::new(&engine, ());
        if fuel {
            store.set_fuel(PLENTY)?;
        }
        let instance = selvedge::Instance::new(&mut store, &module, &[])?;
        Ok(Ours { store, instance })
    }

    /// Runs a kernel.
    fn kernel(&mut self, name: &str, argument: i32) -> impl FnMut() {
        let func = self.instance.typed::<i32, i32>(&mut self.store, name);
        let func = func.unwrap_or_else(|error| panic!("selvedge: {error:#}"));
        move || {
            func.call(&mut self.store, argument).expect("kernels return");
        }
    }
}

struct Theirs {
    store: wasmtime::Store<()>,
    instance: wasmtime::Instance,
}

impl Theirs {
    fn new(fuel: bool) -> wasmtime::Result<Theirs> {
        let engine = wasmtime::Engine::new(wasmtime::Config::new().consume_fuel(fuel))?;
        let module = wasmtime::Module::new(&engine, KERNELS)?;
        let mut store = wasmtime::Store::new(&engine, ());
        if fuel {
            store.set_fuel(PLENTY)?;
        }
        let instance = wasmtime::Instance::new(&mut store, &module, &[])?;
        Ok(Theirs { store, instance })
    }

    /// Runs a kernel.
    fn kernel(&mut self, name: &str, argument: i32) -> impl FnMut() {
        let func = self.instance.get_typed_func::<i32, i32>(&mut self.store, name);
        let func = func.unwrap_or_else(|error| panic!("wasmtime: {error:#}"));
        move || {
            func.call(&mut self.store, argument).expect("kernels return");
        }
    }
}

fn metering(contest: &mut Contest, run: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (name, argument) = RUNS[run];
    let question = |what: [&'static str; 2], goal| Question::new(what[run], goal);
    let (mut on, mut off) = (Ours::new(true)?, Ours::new(false)?);
    contest.duel(
        question(["loop, fuel on / off", "fib, fuel on / off"], 1.15),
        side("selvedge, fuel", on.kernel(name, argument)),
        side("selvedge", off.kernel(name, argument)),
    );
    let (mut their_on, mut their_off) = (Theirs::new(true)?, Theirs::new(false)?);
    contest.duel(
        question(
            [
                "loop, fuel on / off, wasmtime's own",
                "fib, fuel on / off, wasmtime's own",
            ],
            1.0,
        )
        .without_goal(),
        side("wasmtime, fuel", their_on.kernel(name, argument)),
        side("wasmtime", their_off.kernel(name, argument)),
    );
    contest.duel(
        question(["loop, no fuel", "fib, no fuel"], 1.0).without_goal(),
        side("selvedge", off.kernel(name, argument)),
        side("wasmtime", their_off.kernel(name, argument)),
    );
    contest.duel(
        question(["loop, both with fuel", "fib, both with fuel"], 1.0),
        side("selvedge, fuel", on.kernel(name, argument)),
        side("wasmtime, fuel", their_on.kernel(name, argument)),
    );
    Ok(())
}

/// The loop between two yields counts too: it is some 10 turns.
fn yields(contest: &mut Contest) -> Result<(), Box<dyn std::error::Error>> {
    let (mut ours, mut theirs) = (Ours::new(true)?, Theirs::new(true)?);
    let every = NonZeroU64::new(YIELD_EVERY).ok_or("a yield every 0 units")?;
    ours.store
        .set_fuel_policy(selvedge::FuelPolicy::Yield { every })?;
    theirs.store.fuel_async_yield_interval(Some(YIELD_EVERY))?;
    let func = ours.instance.typed::<i32, i32>(&mut ours.store, "loop")?;
    let their_func = theirs
        .instance
        .get_typed_func::<i32, i32>(&mut theirs.store, "loop")?;
    contest.duel(
        Question::new("a fuel yield, and the turns up to it", 0.3).times(YIELDS),
        side("selvedge", || {
            block_on(func.call_async(&mut ours.store, YIELD_TURNS)).expect("kernels return");
        }),
        side("wasmtime", || {
            block_on(their_func.call_async(&mut theirs.store, YIELD_TURNS)).expect("kernels return");
        }),
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut contest = Contest::from_args("fuel");
    for run in 0..RUNS.len() {
        metering(&mut contest, run)?;
    }
    yields(&mut contest)?;
    contest.finish();
    Ok(())
}
