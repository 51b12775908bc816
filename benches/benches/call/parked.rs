//! What a parked call takes: a store, an instance and a `call_async` that waits for ever, four thousand times.
//!
//! The number is what the process's resident bytes and page tables grow by, a call. Whoever is asked first pays for the heap's first pages;
//! the sums are tens of megabytes, against which that is nothing.

use selvedge_benches::Contest;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

/// Waits at once.
pub(super) const GUEST: &str = r#"(module
    (import "host" "never" (func $never))
    (func (export "run") (call $never)))"#;

/// What a call is polled as; it owns its store.
pub(super) type Parked = Pin<Box<dyn Future<Output = ()>>>;

/// How many are parked at once.
const CALLS: usize = 4000;

/// A number of `/proc/self/status`, there in KiB, in bytes.
fn status_bytes(key: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number = line.split_whitespace().next()?;
    Some(number.parse::<usize>().ok()? * 1024)
}

fn taken_bytes() -> Option<usize> {
    Some(status_bytes("VmRSS:")? + status_bytes("VmPTE:")?)
}

/// Bytes a parked call takes. Nothing where the system does not say.
fn bytes_each(mut make: impl FnMut() -> Parked) -> Option<usize> {
    let mut context = Context::from_waker(Waker::noop());
    let mut park = || {
        let mut call = make();
        assert!(call.as_mut().poll(&mut context).is_pending(), "it waits for ever");
        call
    };
    let mut calls = Vec::with_capacity(CALLS);
    // Whatever is made once, or kept for the next.
    drop(park());
    let before = taken_bytes()?;
    calls.extend(std::iter::repeat_with(park).take(CALLS));
    Some(taken_bytes()?.saturating_sub(before) / calls.len())
}

fn ours() -> selvedge::Result<impl FnMut() -> Parked> {
    let engine = selvedge::Engine::default();
    let module = selvedge::Module::new(&engine, GUEST)?;
    let mut linker = selvedge::Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "never", async |_: selvedge::Caller<'_, ()>, (): ()| {
        std::future::pending::<()>().await;
    })?;
    Ok(move || -> Parked {
        let mut store = selvedge::Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &module).expect("the module links");
        Box::pin(async move {
            _ = instance.call_async::<_, (), ()>(&mut store, "run", ()).await;
        })
    })
}

fn theirs() -> wasmtime::Result<impl FnMut() -> Parked> {
    let engine = wasmtime::Engine::default();
    let module = wasmtime::Module::new(&engine, GUEST)?;
    let mut linker = wasmtime::Linker::<()>::new(&engine);
    linker.func_wrap_async(
        "host",
        "never",
        |_, (): ()| Box::new(std::future::pending::<()>()),
    )?;
    let linked = linker.instantiate_pre(&module)?;
    Ok(move || -> Parked {
        let mut store = wasmtime::Store::new(&engine, ());
        let linked = linked.clone();
        Box::pin(async move {
            let instance = linked
                .instantiate_async(&mut store)
                .await
                .expect("the module links");
            let run = instance
                .get_typed_func::<(), ()>(&mut store, "run")
                .expect("is there");
            _ = run.call_async(&mut store, ()).await;
        })
    })
}

/// Asks everybody, and notes it below the table.
pub(super) fn note(contest: &mut Contest) -> Result<(), Box<dyn std::error::Error>> {
    if !contest.is_measured() || !contest.asks("parked") {
        return Ok(());
    }
    contest.note("bytes of a parked call with its store and instance:".to_owned());
    let mut note = |who: &str, bytes: Option<usize>| {
        let bytes = bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
        contest.note(format!("  {who} {bytes}"));
    };
    note("selvedge", bytes_each(ours()?));
    note("wasmtime", bytes_each(theirs()?));
    #[cfg(feature = "wasmer")]
    note("wasmer", bytes_each(super::wasmer::parker()));
    Ok(())
}
