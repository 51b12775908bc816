//! Three ways to end a call that takes too long: a timeout, a handle on another thread, dropping the call.
//!
//! None of them needs checks in the guest's code, or the guest's help; after each the store is usable.

use selvedge::{Caller, Engine, GuestCall, Linker, Module, Result, Store, Trap};
use std::future::pending;
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_millis(30);

fn was_interrupted(result: Result<()>) -> bool {
    let error = result.expect_err("the call never ends by itself");
    println!("  {error:#}");
    error.downcast_ref::<Trap>() == Some(&Trap::Interrupt)
}

fn main() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "never" (func $never))
            (func (export "spin") (loop $l (br $l)))
            (func (export "wait") (call $never))
            (func (export "answer") (result i32) (i32.const 42)))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "never", async |_caller: Caller<'_, ()>, (): ()| {
        pending::<()>().await
    })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    tokio.block_on(async {
        // 1. A timeout, kept by a thread of the crate's: also ends a guest that never comes back to the executor.
        for export in ["spin", "wait"] {
            println!("{export}, with a timeout of {SOON:?}:");
            let call = instance.call_async::<_, (), ()>(&mut store, export, ());
            assert!(was_interrupted(call.with_timeout(SOON).await));
        }

        // 2. A handle, from any thread: here also for a call that is not async.
        println!("spin, interrupted by another thread:");
        let handle = store.interrupt_handle()?;
        let other = thread::spawn(move || {
            thread::sleep(SOON);
            handle.interrupt();
        });
        assert!(was_interrupted(instance.call(&mut store, "spin", ())));
        other.join().expect("the thread does not panic");

        // 3. Dropping the future, as every executor's own timeout does: for a guest that waits.
        println!("wait, with tokio's timeout:");
        let call = instance.call_async::<_, (), ()>(&mut store, "wait", ());
        let elapsed = tokio::time::timeout(SOON, call).await.expect_err("it never ends");
        println!("  {elapsed}");

        // Nothing is left behind.
        assert_eq!(instance.call::<(), i32>(&mut store, "answer", ())?, 42);
        Ok(())
    })
}
