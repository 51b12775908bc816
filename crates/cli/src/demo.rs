//! `selvedge demo`: what fibers are for, shown on embedded guests, each with its measured cost.

mod executor;
mod table;

use crate::failure::Failure;
use executor::{Timers, run_all};
use selvedge::{Caller, Config, Engine, Error, FuelPolicy, Instance, Linker, Module, Result, Store, Trap};
use std::future::Future;
use std::hint::black_box;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use table::{Table, bytes, duration};

/// Guests that wait at once.
const GUESTS: usize = 10_000;
/// Waits of each.
const WAITS: i32 = 3;
/// Overflows and calls that are averaged over.
const ROUNDS: u32 = 1_000;
/// Units of fuel between two yields of the endless loop.
const YIELD_EVERY: u64 = 10_000;

/// Asks the host to wait `n` times and adds up the milliseconds that the host says it waited.
const WAITER: &str = r#"(module $waiter
    (import "host" "sleep" (func $sleep (param i32) (result i32)))
    (func (export "run") (param $id i32) (param $n i32) (result i32) (local $sum i32)
      loop $again
        local.get $sum
        local.get $id i32.const 7 i32.mul local.get $n i32.add i32.const 50 i32.rem_u
        call $sleep
        i32.add local.set $sum
        local.get $n i32.const 1 i32.sub local.tee $n br_if $again
      end
      local.get $sum))"#;

const RUNAWAY: &str = r#"(module $runaway
    (func $down (export "down") (param i32) (result i32)
      local.get 0 i32.const 1 i32.add call $down i32.const 1 i32.add)
    (func (export "answer") (result i32) i32.const 42))"#;

const ENDLESS: &str = r#"(module $endless
    (global $turns (export "turns") (mut i64) (i64.const 0))
    (func (export "forever") loop $l
      global.get $turns i64.const 1 i64.add global.set $turns br $l end)
    (func (export "count") (param i64) (result i64) (local $i i64)
      loop $l
        local.get $i i64.const 1 i64.add local.tee $i local.get 0 i64.lt_s br_if $l
      end
      local.get $i))"#;

/// Runs the demonstration and prints its tables.
pub(crate) fn run() -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    let parts = [calls, ten_thousand, runaway, endless];
    for part in parts {
        let table = part().map_err(Failure::of_call)?;
        write!(out, "{table}").map_err(Failure::of_output)?;
        out.flush().map_err(Failure::of_output)?;
    }
    Ok(0)
}

/// What a call into a guest costs, with nothing in it.
fn calls() -> Result<Table> {
    let engine = Engine::default();
    let module = Module::new(&engine, RUNAWAY)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let answer = instance.typed::<(), i32>(&mut store, "answer")?;
    let mut table = Table::new("A guest has a stack of its own, and a call costs little more than without");
    let sync = average(ROUNDS * 1000, || answer.call(&mut store, ()).map(black_box))?;
    table.row(
        "a call into a guest and back",
        duration(sync),
        "two switches of stacks",
    );
    let ready = average(ROUNDS * 1000, || {
        block_on(answer.call_async(&mut store, ())).map(black_box)
    })?;
    table.row("the same as a future", duration(ready), "no allocation, no lock");
    Ok(table)
}

/// What ten thousand guests took.
struct Crowd {
    /// Until all had a store, an instance and a call.
    made: Duration,
    /// Until all waited.
    parking: Duration,
    /// Until all had ended.
    all: Duration,
    /// What waiting guests had resident.
    memory: u64,
    /// Mappings that came with them.
    mappings: usize,
}

/// Ten thousand guests parked at once on one thread, waiting for timers of the host.
fn ten_thousand() -> Result<Table> {
    let crowd = crowd()?;
    let count = GUESTS as u32;
    let mut table = Table::new("Ten thousand guests, each its own store, wait for timers on one thread");
    table.row(
        "a store, an instance and a call made",
        duration(crowd.made / count),
        "each",
    );
    table.row(
        "run until it waits, and parked",
        duration(crowd.parking / count),
        "each",
    );
    table.row(
        "memory of a parked guest",
        bytes(crowd.memory / GUESTS as u64),
        "resident, all told",
    );
    table.row(
        "mappings added for all of them",
        crowd.mappings.to_string(),
        "the kernel allows 65 530",
    );
    let waits = GUESTS as u64 * WAITS as u64;
    table.row(
        &format!("{waits} waits of up to 49 ms"),
        duration(crowd.all),
        "all together; every answer checked",
    );
    Ok(table)
}

/// Makes them, runs them, and checks what each answers.
fn crowd() -> Result<Crowd> {
    let engine = Engine::default();
    let module = Module::new(&engine, WAITER)?;
    let mut linker = Linker::<Timers>::new(&engine);
    linker.func_wrap_async(
        "host",
        "sleep",
        async |caller: Caller<'_, Timers>, millis: i32| -> i32 {
            let wait = caller.data().sleep(Duration::from_millis(millis as u64));
            wait.await;
            millis
        },
    )?;
    let timers = Timers::default();
    let (memory, mappings) = (resident_bytes(), mapping_count());
    let start = Instant::now();
    let mut guests = Vec::with_capacity(GUESTS);
    for _ in 0..GUESTS {
        let mut store = Store::new(&engine, timers.clone());
        let instance = linker.instantiate(&mut store, &module)?;
        guests.push((store, instance));
    }
    let mut calls = Vec::with_capacity(GUESTS);
    for (id, (store, instance)) in guests.iter_mut().enumerate() {
        calls.push(instance.call_async::<_, _, i32>(store, "run", (id as i32, WAITS)));
    }
    let made = start.elapsed();
    let mut parked = None;
    let start = Instant::now();
    let sums = run_all(&timers, calls, || {
        parked = Some((start.elapsed(), resident_bytes(), mapping_count()));
    });
    let all = start.elapsed();
    let (parking, parked_memory, parked_mappings) = parked.expect("every guest was polled once");
    for (id, sum) in sums.into_iter().enumerate() {
        let expected = (1..=WAITS).map(|n| (id as i32 * 7 + n) % 50).sum::<i32>();
        let sum = sum?;
        if sum != expected {
            return Err(Error::msg(format!(
                "guest {id} answered {sum} instead of {expected}"
            )));
        }
    }
    Ok(Crowd {
        made,
        parking,
        all,
        memory: parked_memory.saturating_sub(memory),
        mappings: parked_mappings.saturating_sub(mappings),
    })
}

/// A runaway recursion becomes a trap, and the instance is used again.
fn runaway() -> Result<Table> {
    let engine = Engine::default();
    let module = Module::new(&engine, RUNAWAY)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let down = instance.typed::<i32, i32>(&mut store, "down")?;
    let trap = average(ROUNDS, || match down.call(&mut store, 0) {
        Err(error) if error.downcast_ref::<Trap>() == Some(&Trap::StackOverflow) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(Error::msg("a recursion without end returned")),
    })?;
    let answer = instance.call::<(), i32>(&mut store, "answer", ())?;
    let mut table = Table::new("A recursion without end runs into the guard of its stack, and nothing else");
    table.row(
        "trapped, with a backtrace",
        duration(trap),
        &format!("half a megabyte of recursion, {ROUNDS} times on one store"),
    );
    table.row(
        "the same instance, asked again",
        answer.to_string(),
        "as it should",
    );
    Ok(table)
}

/// An endless loop yields while others go on, and is cancelled.
fn endless() -> Result<Table> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(&engine, ENDLESS)?;
    let (mut first, forever) = yielding(&engine, &module)?;
    let (mut second, count) = yielding(&engine, &module)?;
    let start = Instant::now();
    let Turns {
        yields,
        spent,
        counted,
        ended,
    } = take_turns(
        forever.call_async(&mut first, "forever", ()),
        count.call_async(&mut second, "count", 1_000_000_i64),
    )?;
    let (all, cancelled) = (start.elapsed(), ended.elapsed());
    let turns = forever
        .get_global(&mut first, "turns")
        .map_or(0, |turns| turns.get(&mut first).i64().unwrap_or(0));
    let mut table =
        Table::new("An endless loop yields, another guest finishes meanwhile, the loop is cancelled");
    table.row(
        "the other guest counted to",
        counted.to_string(),
        &format!("in {}, beside the loop", duration(all)),
    );
    table.row(
        "yields of the loop",
        yields.to_string(),
        &format!("every {YIELD_EVERY} units of fuel; {turns} turns"),
    );
    table.row(
        "a turn between two yields",
        duration(spent / yields),
        "with the loop's own work",
    );
    table.row(
        "cancelled by dropping both futures",
        duration(cancelled),
        "nothing unwinds",
    );
    let again = block_on(count.call_async::<_, _, i64>(&mut second, "count", 3_i64))?;
    table.row("the store, asked again", again.to_string(), "as it should");
    Ok(table)
}

/// A store whose guests yield, and an instance in it.
fn yielding(engine: &Engine, module: &Module) -> Result<(Store<()>, Instance)> {
    let every = NonZeroU64::new(YIELD_EVERY).ok_or_else(|| Error::msg("a yield needs units"))?;
    let mut store = Store::new(engine, ());
    store.set_fuel(u64::MAX)?;
    store.set_fuel_policy(FuelPolicy::Yield { every })?;
    let instance = Instance::new(&mut store, module, &[])?;
    Ok((store, instance))
}

/// What an endless loop did beside another guest.
struct Turns {
    yields: u32,
    /// In turns of the loop.
    spent: Duration,
    /// The other's answer.
    counted: i64,
    /// When only dropping both was left.
    ended: Instant,
}

/// Polls the two in turn until the other has an answer, and drops both.
fn take_turns(
    endless: impl Future<Output = Result<()>>,
    other: impl Future<Output = Result<i64>>,
) -> Result<Turns> {
    let (mut endless, mut other) = (pin!(endless), pin!(other));
    let (mut yields, mut spent) = (0, Duration::ZERO);
    let mut cx = Context::from_waker(Waker::noop());
    let counted = loop {
        let turn = Instant::now();
        if endless.as_mut().poll(&mut cx).is_ready() {
            return Err(Error::msg("an endless loop ended"));
        }
        spent += turn.elapsed();
        yields += 1;
        if let Poll::Ready(counted) = other.as_mut().poll(&mut cx) {
            break counted?;
        }
    };
    Ok(Turns {
        yields,
        spent,
        counted,
        ended: Instant::now(),
    })
}

/// The mean time of `rounds` runs.
fn average<O>(rounds: u32, mut run: impl FnMut() -> Result<O>) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..rounds {
        run()?;
    }
    Ok(start.elapsed() / rounds)
}

/// Polls until ready.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

/// Pages the process has in memory: the second field of `/proc/self/statm` (proc(5)); 0 where there is none.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Mappings of the process: the lines of `/proc/self/maps`.
fn mapping_count() -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .unwrap_or_default()
        .lines()
        .count()
}
