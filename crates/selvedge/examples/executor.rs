//! An executor of one's own, in thirty lines: guest calls are plain futures and need nothing of a particular one.
//!
//! Guests that compute for long would keep the others waiting; here they yield each time another thousand units of fuel are spent.

use selvedge::{Caller, Config, Engine, FuelPolicy, Linker, Module, Result, Store};
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

type Task = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Wakes a task by sending its number to the executor.
struct Ready {
    number: usize,
    queue: Sender<usize>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        // Nobody listens once all tasks are done.
        let _ = self.queue.send(self.number);
    }
}

/// Polls tasks as they get ready, until all are done.
fn run_all(tasks: Vec<Task>) -> Result<()> {
    let (queue, ready): (Sender<usize>, Receiver<usize>) = channel();
    let mut left = tasks.len();
    let mut tasks: Vec<(Task, Waker)> =
        Vec::from_iter(tasks.into_iter().enumerate().map(|(number, task)| {
            let queue = queue.clone();
            queue.send(number).expect("the other end is here");
            (task, Waker::from(Arc::new(Ready { number, queue })))
        }));
    while left > 0 {
        let number = ready.recv().expect("the executor itself has a sender");
        let (task, waker) = &mut tasks[number];
        if let Poll::Ready(result) = task.as_mut().poll(&mut Context::from_waker(waker)) {
            result?;
            left -= 1;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "say" (func $say (param i32)))
            (func (export "run") (param $turns i32)
              (loop $again
                (if (i32.eqz (i32.rem_u (local.get $turns) (i32.const 1000)))
                  (then (call $say (local.get $turns))))
                (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))))"#,
    )?;
    // Who said something, in order. The closure's clone of it belongs to the linker.
    let log: Arc<Mutex<Vec<&str>>> = Arc::default();
    let mut linker = Linker::<&'static str>::new(&engine);
    let said = log.clone();
    linker.func_wrap(
        "host",
        "say",
        move |caller: Caller<'_, &'static str>, turns: i32| {
            println!("{} has {turns} turns to go", caller.data());
            said.lock().expect("nobody panics").push(*caller.data());
        },
    )?;
    let mut tasks: Vec<Task> = Vec::new();
    for name in ["warp", "weft"] {
        let mut store = Store::new(&engine, name);
        store.set_fuel(1_000_000)?;
        let every = NonZeroU64::new(1000).expect("not zero");
        store.set_fuel_policy(FuelPolicy::Yield { every })?;
        // Instantiating may run guest code, so with this policy it is async as well.
        let (linker, module) = (linker.clone(), module.clone());
        tasks.push(Box::pin(async move {
            let instance = linker.instantiate_async(&mut store, &module).await?;
            instance.call_async(&mut store, "run", 3000).await
        }));
    }
    run_all(tasks)?;
    assert_eq!(
        *log.lock().expect("nobody panics"),
        ["warp", "weft", "warp", "weft", "warp", "weft"]
    );
    Ok(())
}
