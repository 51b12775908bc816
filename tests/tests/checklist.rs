//! What embedders rely on, behaviour by behaviour, and the test that shows it.
//!
//! [`CHECKLIST`] names a test of this folder for each; a test here reads the sources and keeps the names true. Those that
//! had no better place are below.

use selvedge::{
    Caller, Config, Engine, Exception, Extern, FuelPolicy, FuncType, Growth, GuestCall, Instance, Linker,
    MemoryType, Module, Result, SharedMemory, Store, Tag, TagType, Trap,
};
use selvedge_tests::{drive, poll_once, wait};
use std::num::NonZeroU64;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// Behaviour, file, test.
const CHECKLIST: &[(&str, &str, &str)] = &[
    // Waiting
    (
        "polled on another thread at every suspension, then returns",
        "async_calls",
        "polled_on_another_thread_each_time_and_returns",
    ),
    (
        "the same, then traps",
        "async_calls",
        "polled_on_another_thread_each_time_and_traps",
    ),
    (
        "the same, then the host fails",
        "async_calls",
        "polled_on_another_thread_each_time_and_host_fails",
    ),
    (
        "the same, then the host panics",
        "async_calls",
        "polled_on_another_thread_each_time_and_host_panics",
    ),
    (
        "nested calls polled on another thread each time",
        "checklist",
        "nested_calls_move_between_threads",
    ),
    (
        "a guest that yields for fuel, polled on another thread each time",
        "checklist",
        "a_guest_that_yields_moves_between_threads",
    ),
    (
        "every kind of suspension: start function, host, fuel, fuel asked for, memory, table, by guest and host, exceptions, nested, atomic wait, with a deadline",
        "checklist",
        "every_kind_of_suspension_moves_between_threads",
    ),
    (
        "dropped at every suspension",
        "async_calls",
        "dropped_at_every_suspension_point_the_store_stays_usable",
    ),
    (
        "nested, dropped at every suspension",
        "async_calls",
        "nested_calls_are_dropped_at_every_suspension_point",
    ),
    (
        "every kind of suspension, dropped at each",
        "checklist",
        "every_kind_of_suspension_may_be_dropped",
    ),
    (
        "dropped on another thread than polled on",
        "checklist",
        "a_parked_call_is_dropped_on_another_thread",
    ),
    (
        "two stores polled in turn",
        "async_calls",
        "two_stores_are_polled_in_turn_on_one_thread",
    ),
    (
        "a call in another store's host function",
        "checklist",
        "a_host_function_drives_another_store",
    ),
    ("never polled", "async_calls", "creating_a_future_runs_nothing"),
    (
        "forgotten",
        "async_calls",
        "a_forgotten_call_is_never_touched_again",
    ),
    (
        "waiting where nobody can wait",
        "async_calls",
        "pending_host_function_under_a_sync_call_is_an_error_that_names_it",
    ),
    (
        "start functions that wait",
        "interrupts",
        "a_start_function_may_wait_and_yield",
    ),
    // Overflow
    (
        "in a guest, ten thousand times",
        "stacks",
        "recursion_to_the_limit_ten_thousand_times_leaks_nothing",
    ),
    (
        "in a nested guest",
        "checklist",
        "an_overflow_in_a_nested_guest_is_an_error_for_its_caller",
    ),
    (
        "in a guest that has waited",
        "checklist",
        "a_guest_that_has_waited_may_overflow_on_another_thread",
    ),
    (
        "next to a host call",
        "stacks",
        "host_function_uses_a_mebibyte_with_the_guest_stack_nearly_full",
    ),
    (
        "in the host, by recursion through it",
        "stacks",
        "recursion_through_the_host_is_a_trap_on_a_small_thread",
    ),
    (
        "in the guest, by recursion through the host",
        "stacks",
        "recursion_through_the_host_is_a_trap_when_the_guest_stack_ends_first",
    ),
    (
        "by async recursion through the host",
        "checklist",
        "async_recursion_through_the_host_is_a_trap",
    ),
    ("across stores", "attacks", "recursion_across_stores_is_a_trap"),
    (
        "of frames larger than a guard",
        "stacks",
        "large_frames_probe_every_page_of_the_guard",
    ),
    (
        "on a thread of the C library's",
        "handlers",
        "threads_of_the_c_library_enter_guests_and_overflow",
    ),
    // Errors and panics
    (
        "through three nested calls",
        "async_calls",
        "panics_and_errors_cross_three_nested_activations",
    ),
    (
        "in a later poll",
        "async_calls",
        "a_panic_in_a_later_poll_ends_the_call_and_no_more",
    ),
    (
        "of a waker",
        "attacks",
        "a_panic_of_the_waker_ends_the_call_and_nothing_else",
    ),
    (
        "of who is asked for fuel",
        "interrupts",
        "who_is_asked_for_fuel_may_refuse_panic_wait_or_be_dropped",
    ),
    (
        "each call to the system fails once",
        "faults",
        "every_call_that_fails_in_a_new_process_is_an_error_or_done_without",
    ),
    (
        "each call to the system fails again and again",
        "faults",
        "a_call_that_fails_again_and_again_leaks_nothing",
    ),
    (
        "each allocation fails",
        "faults",
        "an_allocation_that_fails_is_an_error_or_ends_the_process_where_it_may",
    ),
    // Signals
    (
        "a foreign handler from before us",
        "signals",
        "a_handler_installed_before_us_gets_its_faults",
    ),
    (
        "a foreign handler on the guest's stack",
        "signals",
        "a_handler_that_faults_on_the_guests_stack_is_not_the_guests_fault",
    ),
    (
        "an embedder's handler before ours",
        "signals",
        "signals_that_are_left_to_the_embedder_are_the_embedders",
    ),
    (
        "SIGURG of others",
        "signals",
        "urgent_signals_of_others_reach_their_handler_and_ours_do_not",
    ),
    (
        "a host's own fault still ends the process",
        "stacks",
        "segfault_in_host_code_still_kills_the_process",
    ),
    (
        "our handlers allocate nothing",
        "handlers",
        "no_handler_allocates_whatever_the_trap",
    ),
    (
        "a signal inside of the allocator",
        "handlers",
        "a_handler_may_interrupt_who_holds_the_allocators_lock",
    ),
    (
        "a fault of a guest whose thread has the allocator's lock",
        "handlers",
        "a_guest_may_fault_while_its_own_thread_holds_the_allocators_lock",
    ),
    (
        "a guest stopped by a signal whose thread has the allocator's lock",
        "handlers",
        "a_guest_may_be_stopped_while_its_own_thread_holds_the_allocators_lock",
    ),
    // Stopping
    (
        "a guest that runs, from another thread",
        "interrupts",
        "a_guest_that_runs_is_stopped_whatever_it_does",
    ),
    (
        "a guest that waits",
        "interrupts",
        "a_guest_that_waits_is_woken_and_ends",
    ),
    (
        "a deadline",
        "interrupts",
        "a_deadline_ends_a_guest_that_runs_and_one_that_waits",
    ),
    (
        "the right guest and no other",
        "interrupts",
        "stops_at_any_time_hit_their_guest_and_no_other",
    ),
    // Fuel
    (
        "every control structure, to the unit",
        "fuel_control",
        "every_path_costs_its_operators",
    ),
    (
        "every control structure, to the yield",
        "fuel_control",
        "every_path_yields_once_for_each_slice_that_a_check_finds_used_up",
    ),
    (
        "bulk operations",
        "fuel_control",
        "bulk_operations_cost_what_they_move",
    ),
    (
        "bulk operations that cannot be paid",
        "fuel",
        "bulk_operations_pay_by_length_before_they_write",
    ),
    (
        "operations on tables that cannot be paid, by one unit",
        "fuel",
        "operations_on_tables_pay_by_length_before_they_write",
    ),
    (
        "what is yielded, counted exactly",
        "fuel",
        "yields_are_exactly_what_arithmetic_says",
    ),
    (
        "tail calls across modules",
        "tail_calls",
        "fuel_is_exact_and_yields_do_not_let_the_stack_grow",
    ),
    ("exceptions", "exceptions", "fuel_is_exact_through_a_throw"),
    ("after a trap", "fuel", "what_is_left_after_a_trap_is_exact"),
    (
        "seen by host functions",
        "fuel",
        "host_functions_see_and_set_the_exact_count",
    ),
    (
        "asked for at zero",
        "interrupts",
        "fuel_is_asked_for_at_zero_and_no_more_of_it_is_a_trap",
    ),
    // Limits
    (
        "a guest, refused",
        "limits",
        "a_guest_grows_as_far_as_its_limits_and_gets_minus_one_beyond",
    ),
    (
        "a guest, granted and refused asynchronously",
        "limits",
        "a_guest_waits_for_the_answer_and_goes_on_with_it",
    ),
    (
        "a guest that is dropped while it waits",
        "limits",
        "a_growth_that_is_given_up_while_it_waits_does_not_happen",
    ),
    (
        "the host, growing, granted and refused asynchronously",
        "limits",
        "the_host_waits_for_the_answer_when_it_grows_something",
    ),
    (
        "the host, making, granted and refused asynchronously",
        "limits",
        "the_host_waits_for_the_answer_when_it_makes_something",
    ),
    (
        "instances, granted and refused asynchronously",
        "limits",
        "an_instance_waits_for_the_answers_for_what_it_has",
    ),
    (
        "the host, dropped while it waits",
        "limits",
        "what_is_given_up_while_the_limiter_thinks_does_not_happen",
    ),
    (
        "nobody to wait",
        "limits",
        "where_nobody_can_wait_an_answer_that_is_not_ready_is_an_error",
    ),
    // Calls and traps
    (
        "typed, untyped, sync, async, from the store",
        "calls",
        "every_way_to_call_from_the_store",
    ),
    (
        "the same from host functions",
        "calls",
        "every_way_to_call_from_a_host_function_in_every_way_to_call_it",
    ),
    (
        "every trap, with its place",
        "backtraces",
        "every_trap_says_its_module_function_name_and_offset",
    ),
    (
        "source lines, inlined functions",
        "backtraces",
        "a_trap_says_the_lines_of_its_source_and_what_was_inlined",
    ),
    (
        "nested activations, each once",
        "async_calls",
        "backtrace_of_nested_calls_shows_each_activation_once",
    ),
    (
        "a parked call",
        "async_calls",
        "a_parked_call_has_a_backtrace_and_says_what_fuel_is_left",
    ),
    (
        "anyhow's errors, by type",
        "anyhow",
        "an_error_of_anyhows_goes_through_the_guest_with_its_type",
    ),
    // Types
    (
        "futures are `Send` if the data is",
        "send",
        "futures_are_send_when_the_data_is",
    ),
    (
        "local data never leaves its thread",
        "async_calls",
        "local_data_may_be_shared_with_futures_that_are_not_send",
    ),
    (
        "things of another store",
        "linking",
        "things_of_another_store_are_refused",
    ),
    // Cost
    (
        "warm calls allocate nothing",
        "allocations",
        "warm_calls_allocate_nothing",
    ),
];

#[test]
fn every_behaviour_has_its_test() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (behaviour, file, test) in CHECKLIST {
        let path = folder.join(file).with_extension("rs");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let defined = format!("#[test]\nfn {test}()");
        assert!(
            text.contains(&defined),
            "{behaviour}: no test {test} in {file}.rs"
        );
    }
}

/// `run(n)` waits, calls itself with n - 1 through the host, and waits; at 0 it does what `how` says.
const NEST: &str = r#"(module
    (import "host" "wait" (func $wait))
    (import "host" "nest" (func $nest (param i32 i32) (result i32)))
    (func $down (param i32) (result i32)
      (i32.add (i32.const 1) (call $down (i32.add (local.get 0) (i32.const 1)))))
    (func (export "run") (param $n i32) (param $how i32) (result i32)
      (call $wait)
      (if (i32.eqz (local.get $n)) (then
        (if (local.get $how) (then (return (call $down (i32.const 0)))))
        (return (i32.const 100))))
      (i32.add (i32.const 1) (call $nest (i32.sub (local.get $n) (i32.const 1)) (local.get $how)))))"#;

fn nest() -> Result<(Store<()>, Instance)> {
    let engine = Engine::default();
    let module = Module::new(&engine, NEST)?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "wait", async |_: Caller<'_, ()>, (): ()| wait(1).await)?;
    linker.func_wrap_async(
        "host",
        "nest",
        async |mut caller: Caller<'_, ()>, (n, how): (i32, i32)| -> Result<i32> {
            let run = caller.get_export("run").and_then(Extern::into_func);
            let run = run.expect("exported").typed::<(i32, i32), i32>(&caller)?;
            let result = run.call_async(&mut caller, (n, how)).await;
            wait(1).await;
            result
        },
    )?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

/// Polls on a new thread each time; how many polls were pending.
fn drive_across_threads<F: Future<Output: Send> + Send>(future: F) -> (F::Output, u64) {
    let mut future = pin!(future);
    let mut pending = 0;
    loop {
        let future = future.as_mut();
        let polled = std::thread::scope(|scope| scope.spawn(|| poll_once(future)).join());
        match polled.expect("no panic") {
            Poll::Ready(output) => return (output, pending),
            Poll::Pending => pending += 1,
        }
    }
}

#[test]
fn nested_calls_move_between_threads() -> Result<()> {
    let (mut store, instance) = nest()?;
    let call = instance.call_async::<_, _, i32>(&mut store, "run", (4, 0));
    let (result, pending) = drive_across_threads(call);
    assert_eq!(result?, 104);
    assert_eq!(pending, 5 + 4, "each guest waits once, each host function once");
    Ok(())
}

#[test]
fn a_parked_call_is_dropped_on_another_thread() -> Result<()> {
    let (mut store, instance) = nest()?;
    for polls in 0..9 {
        let mut call = Box::pin(instance.call_async::<_, _, i32>(&mut store, "run", (4, 0)));
        for _ in 0..polls {
            assert!(poll_once(call.as_mut()).is_pending());
        }
        std::thread::scope(|scope| scope.spawn(move || drop(call)).join()).expect("no panic");
    }
    assert_eq!(
        drive(instance.call_async::<_, _, i32>(&mut store, "run", (1, 0))).0?,
        101
    );
    Ok(())
}

#[test]
fn an_overflow_in_a_nested_guest_is_an_error_for_its_caller() -> Result<()> {
    let (mut store, instance) = nest()?;
    for depth in [0, 1, 3, 1, 0] {
        let call = instance.call_async::<_, _, i32>(&mut store, "run", (depth, 1));
        let error = drive(call).0.expect_err("recursion without end");
        assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow), "{error:?}");
    }
    assert_eq!(
        drive(instance.call_async::<_, _, i32>(&mut store, "run", (3, 0))).0?,
        103
    );
    Ok(())
}

#[test]
fn a_guest_that_has_waited_may_overflow_on_another_thread() -> Result<()> {
    let (mut store, instance) = nest()?;
    for _ in 0..20 {
        let call = instance.call_async::<_, _, i32>(&mut store, "run", (1, 1));
        let error = drive_across_threads(call).0.expect_err("recursion without end");
        assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow), "{error:?}");
    }
    Ok(())
}

#[test]
fn async_recursion_through_the_host_is_a_trap() {
    // Each level takes host stack when it is polled, and guest stack for good.
    let run = || -> Result<()> {
        let (mut store, instance) = nest()?;
        for _ in 0..2 {
            let call = instance.call_async::<_, _, i32>(&mut store, "run", (i32::MAX, 0));
            let error = drive(call).0.expect_err("recursion without end");
            assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow), "{error:?}");
        }
        assert_eq!(
            drive(instance.call_async::<_, _, i32>(&mut store, "run", (20, 0))).0?,
            120
        );
        Ok(())
    };
    let thread = std::thread::Builder::new().stack_size(4 << 20).spawn(run);
    thread
        .expect("a thread")
        .join()
        .expect("no panic")
        .expect("no error");
}

#[test]
fn a_guest_that_yields_moves_between_threads() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module (func (export "sum") (param $n i64) (result i64) (local $sum i64)
            (loop $l
              (local.set $sum (i64.add (local.get $sum) (local.get $n)))
              (br_if $l (i64.ne (i64.const 0) (local.tee $n (i64.sub (local.get $n) (i64.const 1))))))
            (local.get $sum)))"#,
    )?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(1 << 30)?;
    let every = NonZeroU64::new(100).expect("not zero");
    store.set_fuel_policy(FuelPolicy::Yield { every })?;
    let instance = drive(Instance::new_async(&mut store, &module, &[])).0?;
    let (sum, pending) = drive_across_threads(instance.call_async::<_, i64, i64>(&mut store, "sum", 1000));
    assert_eq!(sum?, 500_500);
    // A turn costs 11; the last check, before the branch that is not taken, finds 1 + 1000 * 11.
    assert_eq!(pending, 110);
    Ok(())
}

/// A guest's host function drives a call of another guest: inside of a poll, on the same thread, to its end.
#[test]
fn a_host_function_drives_another_store() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "other" (func $other (param i32) (result i32)))
            (func (export "run") (param i32) (result i32) (i32.add (i32.const 1) (call $other (local.get 0)))))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async(
        "host",
        "other",
        async |_: Caller<'_, ()>, n: i32| -> Result<i32> {
            wait(1).await;
            let (mut store, instance) = nest()?;
            let (result, pending) = drive(instance.call_async::<_, _, i32>(&mut store, "run", (n, 0)));
            assert_eq!(pending, 2 * n as u64 + 1);
            wait(1).await;
            result
        },
    )?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let (result, pending) = drive_across_threads(instance.call_async::<_, i32, i32>(&mut store, "run", 2));
    assert_eq!((result?, pending), (103, 2));
    Ok(())
}

/// Suspends in every way there is: in a start function; in host functions, alone and nested, with what is thrown after and before them; for
/// fuel, by turns; for a memory and a table that grow, and a memory that the host grows; in an atomic wait, until somebody notifies.
const SUSPENDING: &str = r#"(module
    (import "host" "wait" (func $wait)) (import "host" "nested" (func $nested))
    (import "host" "throw" (func $throw)) (import "host" "grow" (func $grow))
    (import "host" "shared" (memory $shared 1 1 shared)) (memory $own (export "own") 1) (table $t 1 externref)
    (tag $e) (global $caught (mut i32) (i32.const 0))
    (func $spend (export "spend") (local $n i32)
      (loop $l (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100)))))
    (func $begin (call $wait) (call $spend) (call $wait)) (start $begin)
    (func (export "inner") (call $wait) (call $spend) (drop (memory.grow $own (i32.const 1))))
    (func $count (global.set $caught (i32.add (global.get $caught) (i32.const 1))))
    (func (export "run") (result i32)
      (call $wait) (call $spend) (call $nested) (call $grow)
      (block $of_host (try_table (catch_all $of_host) (call $throw)) (return (i32.const -1)))
      (call $count) (call $wait)
      (block $own (try_table (catch $e $own) (call $wait) (call $spend) (throw $e)))
      (call $count) (call $wait)
      (drop (table.grow $t (ref.null extern) (i32.const 1)))
      (if (i32.ne (i32.const 0) (memory.atomic.wait32 $shared (i32.const 0) (i32.const 0) (i64.const -1)))
        (then (return (i32.const -2))))
      (i32.add (i32.mul (memory.size $own) (i32.const 100))
        (i32.add (i32.mul (table.size $t) (i32.const 10)) (global.get $caught)))))"#;

/// What `run` answers when it has been run to its end so often, and nothing else has grown anything.
fn answer(turns: i32) -> i32 {
    (1 + 2 * turns) * 100 + (1 + turns) * 10 + 2 * turns
}

/// A guest that suspends, and the memory that it waits in.
struct Suspending {
    store: Store<u32>,
    instance: Instance,
    shared: SharedMemory,
    /// With a policy to yield, or with somebody who is asked at zero and waits.
    yields: bool,
}

async fn throw_later(mut caller: Caller<'_, u32>) -> Result<()> {
    wait(1).await;
    let tag = Tag::new(&mut caller, TagType::new(FuncType::new([], [])))?;
    Err(Exception::new(&mut caller, tag, &[])?.into())
}

async fn grow_later(mut caller: Caller<'_, u32>) -> Result<()> {
    let own = caller.get_export("own").and_then(Extern::into_memory);
    own.expect("exported").grow_async(&mut caller, 1).await.map(drop)
}

async fn call_inner(mut caller: Caller<'_, u32>) -> Result<()> {
    let inner = caller.get_export("inner").and_then(Extern::into_func);
    let inner = inner.expect("exported").typed::<(), ()>(&caller)?;
    inner.call_async(&mut caller, ()).await?;
    wait(1).await;
    Ok(())
}

impl Suspending {
    fn new(yields: bool) -> Result<Suspending> {
        let engine = Engine::new(Config::new().fuel(true))?;
        let module = Module::new(&engine, SUSPENDING)?;
        let mut linker = Linker::<u32>::new(&engine);
        linker.func_wrap_async("host", "wait", async |_: Caller<'_, u32>, (): ()| wait(1).await)?;
        linker.func_wrap_async("host", "nested", async |caller: Caller<'_, u32>, (): ()| {
            call_inner(caller).await
        })?;
        linker.func_wrap_async("host", "throw", async |caller: Caller<'_, u32>, (): ()| {
            throw_later(caller).await
        })?;
        linker.func_wrap_async("host", "grow", async |caller: Caller<'_, u32>, (): ()| {
            grow_later(caller).await
        })?;
        let shared = SharedMemory::new(&engine, MemoryType::shared(1, 1))?;
        linker.define("host", "shared", shared.clone())?;
        let mut store = Store::new(&engine, 0);
        store.limiter_async(async |mut caller, _growth: Growth| {
            wait(1).await;
            *caller.data_mut() += 1;
            Ok(true)
        });
        match yields {
            true => store.set_fuel_policy(FuelPolicy::Yield {
                every: NonZeroU64::new(100).expect("not zero"),
            })?,
            false => store.on_fuel_zero_async(async |_caller| {
                wait(1).await;
                Ok(200)
            })?,
        }
        store.set_fuel(if yields { 100_000 } else { 100 })?;
        let (instance, pending) = drive_across_threads(linker.instantiate_async(&mut store, &module));
        assert!(
            pending >= 2 + 2 + 3,
            "two growths, two waits, and fuel for 600: {pending}"
        );
        Ok(Suspending {
            instance: instance?,
            store,
            shared,
            yields,
        })
    }

    /// A call of `run`, with a deadline that is far away or without.
    fn call(&mut self, has_deadline: bool) -> Result<Pin<Box<dyn Future<Output = Result<i32>> + Send + '_>>> {
        self.store.set_fuel(if self.yields { 100_000 } else { 100 })?;
        let call = self.instance.call_async::<_, (), i32>(&mut self.store, "run", ());
        Ok(match has_deadline {
            true => Box::pin(call.with_timeout(Duration::from_secs(100_000))),
            false => Box::pin(call),
        })
    }
}

/// Polls, on a thread of its own each time, until ready or `polls` times; whoever waits in the memory then is notified but for the last time. The output, how often it was
/// polled, and after which polls it waited in the memory.
fn drive_notified<F: Future<Output: Send> + Send + ?Sized>(
    mut future: Pin<&mut F>,
    shared: &SharedMemory,
    polls: usize,
) -> Result<(Option<F::Output>, usize, Vec<usize>)> {
    let mut waited = Vec::new();
    for poll in 1..=polls {
        let future = future.as_mut();
        let polled = std::thread::scope(|scope| scope.spawn(|| poll_once(future)).join());
        match polled.expect("no panic") {
            Poll::Ready(output) => return Ok((Some(output), poll, waited)),
            Poll::Pending if poll < polls && shared.atomic_notify(0, u32::MAX)? > 0 => waited.push(poll),
            Poll::Pending => {}
        }
    }
    Ok((None, polls, waited))
}

const WAYS: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

#[test]
fn every_kind_of_suspension_moves_between_threads() -> Result<()> {
    for (yields, has_deadline) in WAYS {
        let mut guest = Suspending::new(yields)?;
        let shared = guest.shared.clone();
        for turn in 1..=3 {
            let mut call = guest.call(has_deadline)?;
            let (result, polls, waited) = drive_notified(call.as_mut(), &shared, 1000)?;
            assert_eq!(result.expect("it ends")?, answer(turn));
            assert_eq!(waited.len(), 1, "one atomic wait");
            assert!(
                polls > 5 + 2 + 3 + 1 + 1 + 3,
                "five waits, two nested, three growths, one throw, one atomic, and fuel: {polls}"
            );
        }
        assert_eq!(
            *guest.store.data(),
            2 + 3 * 3,
            "the limiter was asked for what there is at first, and for what grew"
        );
    }
    Ok(())
}

#[test]
fn every_kind_of_suspension_may_be_dropped() -> Result<()> {
    for (yields, has_deadline) in WAYS {
        let mut guest = Suspending::new(yields)?;
        let shared = guest.shared.clone();
        let (mut waited_after, mut polls) = (Vec::new(), 0);
        let done = loop {
            polls += 1;
            let mut call = guest.call(has_deadline)?;
            let (result, _, waited) = drive_notified(call.as_mut(), &shared, polls)?;
            waited_after.extend(waited);
            drop(call);
            assert_eq!(shared.atomic_notify(0, u32::MAX)?, 0, "nobody waits any more");
            if let Some(result) = result {
                break result?;
            }
            assert!(polls < 1000, "it never ends");
        };
        // All that came farther were woken after the same poll, after which one was dropped: so that one waited.
        let wait = waited_after[0];
        assert!(
            wait < polls && waited_after.iter().all(|after| *after == wait),
            "{waited_after:?}"
        );
        assert_eq!(
            waited_after.len(),
            polls - wait,
            "each that came farther waited there"
        );
        assert!(
            done > answer(1),
            "what was dropped had grown something before: {done}"
        );
        let mut call = guest.call(has_deadline)?;
        let (again, ..) = drive_notified(call.as_mut(), &shared, 1000)?;
        assert_eq!(
            again.expect("it ends")?,
            done + 212,
            "the store is as good as before"
        );
    }
    Ok(())
}
