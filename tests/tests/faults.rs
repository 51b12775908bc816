//! The system says no: each call to it that a guest's life needs fails, and it is an error or is done without; and nothing is lost.
//!
//! What fails is in `faults/calls.rs`: the n-th call of all that are made, for each n, alone, with the next one, or with all later ones of
//! its kind. `faults/places.rs` holds what has failed against the sources: a place that calls the system and that no failure has
//! reached fails the test.
//!
//! Allocations, too, fail one by one, in `faults/allocations.rs`: what a guest decides the size or number of is an error then, and where Rust aborts by design,
//! the place is in a list.

#[path = "faults/allocations.rs"]
mod allocations;
#[path = "faults/calls.rs"]
mod calls;
#[path = "faults/lives.rs"]
mod lives;
#[path = "faults/places.rs"]
mod places;

use calls::{CALLS, Call, PLANS, Plan, arm_thread, take_traces, with_failure};
use places::Reached;
use selvedge::{
    Caller, Config, Engine, Error, Extern, GuestCall, Instance, Linker, MemoryStyle, Module, Result, Store,
    Trap,
};
use selvedge_tests::allocator::{TestAllocator, with_largest};
use selvedge_tests::{Usage, drive, in_child, poll_once, wait};
use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::io;
use std::pin::Pin;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: TestAllocator = TestAllocator;

const GUEST: &str = r#"(module
    (import "host" "wait" (func $wait))
    (import "host" "nest" (func $nest))
    (memory (export "memory") 1)
    (data (i32.const 100) "an image")
    (table $t 1 externref)
    (func $down (export "overflow") (call $down))
    (func (export "wait") (call $wait))
    (func (export "nest") (call $nest))
    (func (export "spin") (loop $l (br $l)))
    (func (export "grow") (result i32)
      (i32.store8 (i32.const 5) (i32.const 77))
      (drop (memory.grow (i32.const 1)))
      (drop (memory.grow (i32.const 100)))
      (drop (table.grow $t (ref.null extern) (i32.const 1000)))
      (i32.load8_u (i32.const 5))))"#;

/// Another image, which comes to where the first was.
const OTHER: &str = r#"(module (memory 2) (data (i32.const 70000) "another")
    (func (export "byte") (result i32) (i32.load8_u (i32.const 70000))))"#;

/// As many stacks as a thread keeps for itself, and some.
const PARKED: usize = 40;

/// All that is done with guests, once.
fn live(style: MemoryStyle) -> Result<()> {
    let mut config = Config::new();
    config.memory_style(style);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, GUEST)?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "wait", async |_: Caller<'_, ()>, (): ()| wait(2).await)?;
    linker.func_wrap("host", "nest", |mut caller: Caller<'_, ()>| -> Result<()> {
        let down = caller.get_export("overflow").and_then(Extern::into_func);
        let down = down.expect("exported").typed::<(), ()>(&caller)?;
        is_trap(down.call(&mut caller, ()), Trap::StackOverflow)
    })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    is_trap(instance.call(&mut store, "overflow", ()), Trap::StackOverflow)?;
    let kept: i32 = instance.call(&mut store, "grow", ())?;
    assert_eq!(kept, 77, "what was there is there");
    instance.call::<(), ()>(&mut store, "nest", ())?;
    drive(instance.call_async::<_, (), ()>(&mut store, "wait", ())).0?;
    let spin = instance.call_async::<_, (), ()>(&mut store, "spin", ());
    is_trap(
        drive(spin.with_timeout(Duration::from_millis(1))).0,
        Trap::Interrupt,
    )?;
    // Two guests at a time, and one whose memory the host makes and grows.
    let mut other = Store::new(&engine, ());
    let second = linker.instantiate(&mut other, &module)?;
    let memory = second.get_memory(&mut other, "memory").expect("exported");
    memory.grow(&mut other, 1)?;
    let parked = second.call_async::<_, (), ()>(&mut other, "wait", ());
    let mut parked = Box::pin(parked);
    if let std::task::Poll::Ready(result) = poll_once(parked.as_mut()) {
        return result;
    }
    instance.call::<(), i32>(&mut store, "grow", ())?;
    drop(parked);
    drop((store, other));
    live_with_another_image(&engine)?;
    live_in_a_crowd(&engine, &module, &linker)?;
    live_on_a_foreign_thread(&engine)
}

/// The addresses of the first module's memory, if they are used again, hold this one's image.
fn live_with_another_image(engine: &Engine) -> Result<()> {
    let module = Module::new(engine, OTHER)?;
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let byte: i32 = instance.call(&mut store, "byte", ())?;
    assert_eq!(byte, i32::from(b'a'));
    Ok(())
}

/// So many at a time that stacks go through all of their pool's hands.
fn live_in_a_crowd(engine: &Engine, module: &Module, linker: &Linker<()>) -> Result<()> {
    let mut stores = Vec::new();
    for _ in 0..PARKED {
        let mut store = Store::new(engine, ());
        let instance = linker.instantiate(&mut store, module)?;
        stores.push((store, instance));
    }
    let calls = stores.iter_mut();
    let calls = calls.map(|(store, instance)| instance.call_async::<_, (), ()>(store, "wait", ()));
    let mut calls: Vec<_> = calls.collect();
    for call in &mut calls {
        if let std::task::Poll::Ready(result) = poll_once(Pin::new(call)) {
            return result;
        }
    }
    Ok(())
}

/// A thread that Rust has not made, so that all it makes and takes down is ours.
fn live_on_a_foreign_thread(engine: &Engine) -> Result<()> {
    struct Work {
        engine: Engine,
        result: Option<Result<()>>,
    }
    extern "C" fn run(work: *mut c_void) -> *mut c_void {
        arm_thread();
        // SAFETY: who started this thread waits for its end, and looks at nothing meanwhile.
        let work = unsafe { &mut *work.cast::<Work>() };
        work.result = Some(live_with_another_image(&work.engine));
        std::ptr::null_mut()
    }
    let mut work = Work {
        engine: engine.clone(),
        result: None,
    };
    let mut thread = 0;
    let argument = (&raw mut work).cast();
    // SAFETY: a function of this type, and its argument, which stays until the thread is joined.
    let error = unsafe { libc::pthread_create(&mut thread, std::ptr::null(), run, argument) };
    if error != 0 {
        return Err(Error::new(io::Error::from_raw_os_error(error)));
    }
    // SAFETY: started above, and joined once.
    let joined = unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
    assert_eq!(joined, 0);
    work.result.expect("the thread has run")
}

/// What ended a call as it should have is no failure.
fn is_trap(result: Result<()>, trap: Trap) -> Result<()> {
    match result {
        Err(error) if error.downcast_ref() == Some(&trap) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(Error::msg(format!("no {trap:?}"))),
    }
}

/// How the failure of a call may end: an error that tells the system's, or without it.
fn check(call: Call, n: u32, plan: Plan, result: &Result<()>) {
    let Err(error) = result else {
        println!("call {n}, {call:?} {plan:?}: done without");
        return;
    };
    let text = format!("{error:#}");
    println!("call {n}, {call:?} {plan:?}: {text}");
    assert!(
        error.downcast_ref::<Trap>().is_none(),
        "{call:?} is no guest's fault: {text}"
    );
    let is_the_systems = ["error ", "the system refuses"]
        .iter()
        .any(|part| text.contains(part));
    assert!(is_the_systems, "{call:?} says whose it is: {text}");
}

/// Runs `body` in a fork of this process, which has one thread; what it returns, or else panics.
fn in_fork(body: impl FnOnce() -> u8) -> u8 {
    // SAFETY: this process has no other thread whose locks the child could miss.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no fork");
    if child == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        // SAFETY: ends the child here.
        unsafe { libc::_exit(c_int::from(code)) };
    }
    let mut status = 0;
    // SAFETY: `status` is a place for the status.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    assert!(libc::WIFEXITED(status), "the child was killed: {status:#x}");
    libc::WEXITSTATUS(status) as u8
}

const STYLES: [MemoryStyle; 2] = [MemoryStyle::Reserved, MemoryStyle::Bounded];

/// Most of these calls are made once a process: so each failure has a process of its own.
#[test]
fn every_call_that_fails_in_a_new_process_is_an_error_or_done_without() {
    let test = "every_call_that_fails_in_a_new_process_is_an_error_or_done_without";
    let child = in_child(test, || {
        let traces = std::env::temp_dir().join(format!("selvedge-faults-{}", std::process::id()));
        let (mut failed, mut reached) = (BTreeSet::new(), Reached::default());
        for (style, plan) in STYLES.iter().flat_map(|style| PLANS.map(|plan| (*style, plan))) {
            for n in 1.. {
                assert!(n < 2000, "it never ends");
                let code = in_fork(|| {
                    let (failed, result) = with_failure(n, plan, || live(style));
                    let Some(call) = failed else {
                        result.expect("nothing failed");
                        return 0;
                    };
                    check(call, n, plan, &result);
                    // What waits for the kernel to take it back is tried again meanwhile.
                    let (_, next) = with_failure(u32::MAX, plan, || live(style));
                    next.expect("the next one works");
                    std::fs::write(&traces, places::write(&take_traces())).expect("room for a file");
                    1 + call as u8
                });
                match code {
                    0 => break,
                    101 => panic!("call {n} ({style:?}, {plan:?})"),
                    call => failed.insert(CALLS[usize::from(call) - 1]),
                };
                reached.read(&std::fs::read_to_string(&traces).expect("written by the fork"));
            }
        }
        let _ = std::fs::remove_file(&traces);
        assert_eq!(Vec::from_iter(failed), CALLS, "all of them were made, and failed");
        reached.check();
    });
    let output = String::from_utf8_lossy(&child.stdout);
    let summary = output
        .lines()
        .filter(|line| line.contains("places in the sources"));
    println!("{}", summary.collect::<String>());
    assert!(
        child.status.success(),
        "{output}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn a_call_that_fails_again_and_again_leaks_nothing() {
    let child = in_child("a_call_that_fails_again_and_again_leaks_nothing", || {
        for (style, plan) in STYLES.iter().flat_map(|style| PLANS.map(|plan| (*style, plan))) {
            for _ in 0..3 {
                live(style).expect("nothing fails");
            }
            for n in 1.. {
                // Once for what the failure itself makes for good.
                let (Some(call), result) = with_failure(n, plan, || live(style)) else {
                    break;
                };
                check(call, n, plan, &result);
                take_traces();
                // What the kernel would not take back at once goes with the next life.
                live(style).expect("the next one works");
                let before = Usage::now();
                let mut failed = BTreeSet::new();
                for _ in 0..4 {
                    // Perhaps another call: after a failure some are not tried again, and some twice.
                    let (call, _) = with_failure(n, plan, || live(style));
                    failed.insert(call.expect("the same life has as many calls"));
                    take_traces();
                }
                live(style).expect("the next one works");
                let after = Usage::now();
                let grown = format!("call {n}, {call:?} {plan:?}: {before:?}, then {after:?}");
                // A stack that the kernel twice refuses to let go of stays: it may run a handler on it.
                let is_kept = failed.contains(&Call::AlternateStack) && plan != Plan::Once;
                let (most, most_kib) = if is_kept { (8, 4 * 72) } else { (0, 0) };
                assert!(after.mappings <= before.mappings + 2 + most, "{grown}");
                assert!(after.address_kib < before.address_kib + 64 + most_kib, "{grown}");
                assert!(after.descriptors <= before.descriptors, "{grown}");
            }
        }
    });
    assert!(
        child.status.success(),
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn a_table_that_cannot_be_allocated_does_not_grow() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (table $t 1 externref)
            (func (export "grow") (param i32) (result i32)
              (table.grow $t (ref.null extern) (local.get 0))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = selvedge::Instance::new(&mut store, &module, &[])?;
    let mut grow = |delta: i32, largest: usize| -> Result<i32> {
        with_largest(largest, || instance.call(&mut store, "grow", delta))
    };
    assert_eq!(grow(100_000, 100_000)?, -1);
    assert_eq!(grow(10, 100_000)?, 1, "a little more still fits");
    assert_eq!(grow(100_000, usize::MAX)?, 11);
    Ok(())
}

/// A guest says how large its first table is, and how many globals its instance holds.
#[test]
fn an_instance_that_cannot_be_allocated_is_an_error() -> Result<()> {
    let engine = Engine::default();
    let globals = "(global (mut i64) (i64.const 1))".repeat(50_000);
    let guests = [
        (
            "(module (table 5000000 funcref))".to_owned(),
            "a table of 5000000 elements",
        ),
        (format!("(module {globals})"), "bytes for an instance"),
    ];
    for (text, message) in guests {
        let module = Module::new(&engine, &text)?;
        let mut store = Store::new(&engine, ());
        let made = with_largest(500_000, || Instance::new(&mut store, &module, &[]));
        let error = made.expect_err("there is no memory for it").to_string();
        assert!(
            error.contains("the system refuses") && error.contains(message),
            "{error}"
        );
        Instance::new(&mut store, &module, &[])?;
    }
    Ok(())
}

/// Exceptions live in the store's heap of references, which grows as a guest makes them.
#[test]
fn a_heap_of_references_that_cannot_be_allocated_is_an_error() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (tag $e) (table $kept 100000 exnref)
            (func (export "make") (param $n i32) (local $made exnref)
              (loop $again
                (local.set $made (block $caught (result exnref)
                  (try_table (catch_all_ref $caught) (throw $e))
                  unreachable))
                (table.set $kept (local.get $n) (local.get $made))
                (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = selvedge::Instance::new(&mut store, &module, &[])?;
    let made = with_largest(1 << 20, || instance.call::<i32, ()>(&mut store, "make", 99_999));
    let error = made.expect_err("a hundred thousand exceptions do not fit into 1 MiB");
    println!("{error:#}");
    assert!(error.to_string().contains("heap"), "{error:#}");
    instance.call::<i32, ()>(&mut store, "make", 99_999)
}

#[test]
fn an_allocation_that_fails_is_an_error_or_ends_the_process_where_it_may() {
    let test = "an_allocation_that_fails_is_an_error_or_ends_the_process_where_it_may";
    let child = in_child(test, || {
        let mut reached = BTreeSet::new();
        for style in STYLES {
            allocations::lead_all(style, style == STYLES[1], &mut reached);
        }
        allocations::check_reached(&reached);
    });
    println!("{}", String::from_utf8_lossy(&child.stdout));
    let said = String::from_utf8_lossy(&child.stderr);
    // Thousands of processes end as they may, and say so before the one that does not.
    let mut last: Vec<&str> = said.lines().rev().take(12).collect();
    last.reverse();
    assert!(child.status.success(), "{}", last.join("\n"));
}
