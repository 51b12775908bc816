//! One million guests, each with a store and an instance of its own, parked in `call_async` at once and then resumed, in one
//! process with the kernel's default limits.
//!
//!     cargo run --release -p selvedge --example million_guests [GUESTS [memory]]
//!
//! With `memory` each guest has a linear memory of one page, of which it writes one word; one hundred thousand of those are the
//! default. Prints what they cost, and fails if an answer is wrong, a guest takes more than 5 KiB (9.5 KiB with a memory that it has
//! written to: one more page of the host's) or the mappings are more than a handful. Where the bytes go is in ARCHITECTURE.md.

use selvedge::{
    CallFuture, Caller, Config, Engine, Error, Instance, Linker, MemoryStyle, Module, Result, Store,
};
use std::future::Future;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// With the guard, 64 KiB a slot.
const STACK_BYTES: usize = 60 << 10;
/// What a parked guest may take, all told.
const MAX_BYTES: usize = 5 << 10;
/// What a memory may add: a page of the host's that the guest writes to, the memory's own words, and page tables.
const MAX_MEMORY_BYTES: usize = 4608;
/// Mappings that may come with any number of guests: of the stacks, the heap, the memories.
const MAX_NEW_MAPPINGS: usize = 40;

/// Waits for `number`, and gives it plus what it kept meanwhile, in its frame and in its memory.
const GUEST: &str = r#"(module
    (import "host" "wait" (func $wait (param i32) (result i32)))
    (func (export "run") (param $number i32) (result i32)
        (i32.add (local.get $number) (call $wait (local.get $number)))))"#;

const GUEST_WITH_MEMORY: &str = r#"(module
    (import "host" "wait" (func $wait (param i32) (result i32)))
    (memory 1)
    (func (export "run") (param $number i32) (result i32)
        (i32.store (i32.const 4096) (local.get $number))
        (i32.add (call $wait (local.get $number)) (i32.load (i32.const 4096)))))"#;

/// Is ready when it is polled for the second time.
#[derive(Default)]
struct Gate {
    is_open: bool,
}

impl Future for Gate {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.is_open, true) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// What the process has.
struct Usage {
    mappings: usize,
    resident_bytes: usize,
    page_table_bytes: usize,
}

impl Usage {
    fn now() -> Result<Usage> {
        Ok(Usage {
            mappings: std::fs::read_to_string("/proc/self/maps")?.lines().count(),
            resident_bytes: status_bytes("VmRSS:")?,
            page_table_bytes: status_bytes("VmPTE:")?,
        })
    }
}

/// A number of `/proc/self/status`, there in KiB, in bytes.
fn status_bytes(key: &str) -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number = number.ok_or_else(|| Error::msg(format!("no {key} in /proc/self/status")))?;
    Ok(number.parse::<usize>()? * 1024)
}

fn print_time(what: &str, time: Duration, guests: usize) {
    let each = time.as_nanos() / guests as u128;
    println!("{what:<22} {:.2} s, {each} ns a guest", time.as_secs_f64());
}

/// A store and an instance of its own for each guest.
type Guests = Vec<(Store<()>, Instance)>;

/// A guest that has been called.
type Call<'a> = CallFuture<'a, (), i32>;

fn instantiate(linker: &Linker<()>, module: &Module, guests: usize) -> Result<Guests> {
    let start = Instant::now();
    let mut stores = Vec::with_capacity(guests);
    for _ in 0..guests {
        let mut store = Store::new(linker.engine(), ());
        let instance = linker.instantiate(&mut store, module)?;
        stores.push((store, instance));
    }
    print_time("to instantiate", start.elapsed(), guests);
    Ok(stores)
}

/// Calls each, up to where it waits.
fn park<'a>(stores: &'a mut Guests, context: &mut Context<'_>) -> Result<Vec<Call<'a>>> {
    let start = Instant::now();
    let mut calls = Vec::with_capacity(stores.len());
    for (number, (store, instance)) in stores.iter_mut().enumerate() {
        let mut call = instance.call_async(store, "run", (number as i32,));
        if pin!(&mut call).poll(context).is_ready() {
            return Err(Error::msg(format!("guest {number} did not wait")));
        }
        calls.push(call);
    }
    print_time("to park", start.elapsed(), calls.len());
    Ok(calls)
}

/// Lets each go on to its end, and looks at what it answers.
fn resume_all(calls: &mut [Call<'_>], context: &mut Context<'_>) -> Result<()> {
    let start = Instant::now();
    for (number, call) in calls.iter_mut().enumerate() {
        match Pin::new(call).poll(context) {
            Poll::Ready(Ok(answer)) if answer == (number as i32).wrapping_mul(2) => {}
            other => {
                return Err(Error::msg(format!(
                    "guest {number} gave a wrong answer: {other:?}"
                )));
            }
        }
    }
    print_time("to resume to the end", start.elapsed(), calls.len());
    Ok(())
}

/// Prints what a guest takes; whether that is no more than it may.
fn is_within_bounds(guests: usize, has_memory: bool, before: &Usage, after: &Usage) -> bool {
    let resident = after.resident_bytes.saturating_sub(before.resident_bytes);
    let page_tables = after.page_table_bytes.saturating_sub(before.page_table_bytes);
    let (each, tables_each) = (resident / guests, page_tables / guests);
    println!(
        "{guests} guests parked, each with a store, an instance, and 60 KiB of stack and a guard of 4 KiB"
    );
    println!(
        "{:<22} {} before, {} now",
        "mappings", before.mappings, after.mappings
    );
    println!("{:<22} {each} bytes a guest", "resident");
    println!("{:<22} {tables_each} bytes a guest", "page tables");
    let max_bytes = MAX_BYTES + if has_memory { MAX_MEMORY_BYTES } else { 0 };
    let is_small = each + tables_each <= max_bytes;
    let is_few = after.mappings <= before.mappings + MAX_NEW_MAPPINGS;
    if !is_small || !is_few {
        println!("failed: at most {max_bytes} bytes {is_small}, few mappings {is_few}");
    }
    is_small && is_few
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has_memory = arguments.iter().any(|argument| argument == "memory");
    let default = if has_memory { 100_000 } else { 1_000_000 };
    let number = arguments.iter().find(|argument| *argument != "memory");
    let guests: usize = number.map_or(Ok(default), |text| text.parse())?;
    let mut config = Config::new();
    config.stack_bytes(STACK_BYTES).max_guest_stacks(guests);
    config.memory_style(MemoryStyle::Bounded);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, if has_memory { GUEST_WITH_MEMORY } else { GUEST })?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "wait", async |_: Caller<'_, ()>, (number,): (i32,)| {
        Gate::default().await;
        number
    })?;

    let before = Usage::now()?;
    let mut stores = instantiate(&linker, &module, guests)?;
    let mut context = Context::from_waker(Waker::noop());
    let mut calls = park(&mut stores, &mut context)?;
    let is_good = is_within_bounds(guests, has_memory, &before, &Usage::now()?);
    resume_all(&mut calls, &mut context)?;
    drop(calls);
    let start = Instant::now();
    drop(stores);
    print_time("to drop", start.elapsed(), guests);
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
