//! Ten thousand guests that wait at once, on two threads of tokio's.
//!
//! A guest that waits is a stack set aside: a page or two of memory, no thread, no copy.

use selvedge::{Caller, Engine, Linker, Module, Result, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const GUESTS: u32 = 10_000;

/// What all guests share: where they meet, and how many have come.
struct Meeting {
    all_here: Barrier,
    arrived: AtomicU32,
}

fn main() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "meet" (func $meet (result i32)))
            (func (export "run") (param $number i32) (result i32)
              ;; Waits inside, and knows nothing of it.
              (i32.add (local.get $number) (call $meet))))"#,
    )?;
    let mut linker = Linker::<Arc<Meeting>>::new(&engine);
    linker.func_wrap_async(
        "host",
        "meet",
        async |caller: Caller<'_, Arc<Meeting>>, (): ()| -> Result<u32> {
            caller.data().arrived.fetch_add(1, Ordering::Relaxed);
            // Nobody goes on before the last one is here: then all guests are parked at once.
            caller.data().all_here.wait().await;
            Ok(caller.data().arrived.load(Ordering::Relaxed))
        },
    )?;
    let meeting = Arc::new(Meeting {
        all_here: Barrier::new(GUESTS as usize),
        arrived: AtomicU32::new(0),
    });
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?;
    let sum = tokio.block_on(async {
        let mut guests = JoinSet::new();
        for number in 0..GUESTS {
            let mut store = Store::new(&engine, meeting.clone());
            let instance = linker.instantiate(&mut store, &module)?;
            guests.spawn(async move {
                instance
                    .call_async::<_, u32, u32>(&mut store, "run", number)
                    .await
            });
        }
        let mut sum = 0;
        while let Some(answer) = guests.join_next().await {
            sum += u64::from(answer??);
        }
        Ok::<_, selvedge::Error>(sum)
    })?;
    println!("{GUESTS} guests waited for each other; their answers add up to {sum}");
    let guests = u64::from(GUESTS);
    assert_eq!(sum, guests * (guests - 1) / 2 + guests * guests);
    Ok(())
}
