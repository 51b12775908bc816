//! A guest that waits for the host: two calls on one thread, each parked while the other goes on.

use selvedge::{Caller, Engine, Linker, Module, Result, Store};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Stands for a timer or a socket: ready at the third poll.
fn slow() -> impl Future<Output = ()> + Send {
    let mut polls = 0;
    poll_fn(move |cx| {
        polls += 1;
        cx.waker().wake_by_ref();
        if polls < 3 { Poll::Pending } else { Poll::Ready(()) }
    })
}

fn main() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "fetch" (func $fetch (param i32) (result i32)))
            (func (export "run") (param i32) (result i32)
              local.get 0 call $fetch
              local.get 0 i32.const 1 i32.add call $fetch
              i32.add))"#,
    )?;
    let mut linker = Linker::<&str>::new(&engine);
    linker.func_wrap_async(
        "host",
        "fetch",
        async |caller: Caller<'_, &str>, n: i32| -> Result<i32> {
            println!("{} waits for {n}", caller.data());
            slow().await;
            Ok(n * 10)
        },
    )?;
    let mut one = Store::new(&engine, "one");
    let mut two = Store::new(&engine, "two");
    let first = linker.instantiate(&mut one, &module)?;
    let second = linker.instantiate(&mut two, &module)?;
    let mut first = pin!(first.call_async::<_, i32, i32>(&mut one, "run", 1));
    let mut second = pin!(second.call_async::<_, i32, i32>(&mut two, "run", 5));
    let mut cx = Context::from_waker(Waker::noop());
    let (mut a, mut b) = (None, None);
    while a.is_none() || b.is_none() {
        for (call, answer) in [(&mut first, &mut a), (&mut second, &mut b)] {
            if answer.is_none()
                && let Poll::Ready(result) = call.as_mut().poll(&mut cx)
            {
                *answer = Some(result?);
            }
        }
    }
    println!("one: {a:?}, two: {b:?}");
    assert_eq!((a, b), (Some(30), Some(110)));
    Ok(())
}
