//! Programs that use anyhow: their errors go through guests and come out as what they are.

use anyhow::Context as _;
use selvedge::{Caller, Engine, Error, Instance, Linker, Module, Result, Store, Trap, WasmBacktrace};
use selvedge_tests::drive;
use std::fmt;

#[derive(Debug, PartialEq)]
struct Refused(u32);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with {}", self.0)
    }
}

impl std::error::Error for Refused {}

/// `run(n)` calls the host's `call(n)`; `trap` traps.
fn guest() -> Result<(Store<()>, Instance)> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "call" (func $call (param i32)))
            (func (export "run") (param i32) (call $call (local.get 0)))
            (func (export "trap") unreachable))"#,
    )?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async(
        "host",
        "call",
        async |mut caller: Caller<'_, ()>, n: i32| -> Result<()> {
            host(&mut caller, n).await.map_err(Error::from_anyhow)
        },
    )?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

/// A host function's body as users of anyhow write it.
async fn host(caller: &mut Caller<'_, ()>, n: i32) -> anyhow::Result<()> {
    match n {
        0 => Err(Refused(7)).context("asking the host"),
        1 => anyhow::bail!("no such thing as {n}"),
        _ => {
            let trap = caller.get_export("trap").and_then(selvedge::Extern::into_func);
            let trap = trap.context("no `trap`")?.typed::<(), ()>(&*caller)?;
            let result = trap.call_async(caller, ()).await;
            Ok(result.map_err(|error| error.context("in the nested guest"))?)
        }
    }
}

fn run(n: i32) -> Result<Error> {
    let (mut store, instance) = guest()?;
    Ok(drive(instance.call_async::<_, _, ()>(&mut store, "run", n))
        .0
        .expect_err("it fails"))
}

#[test]
fn an_error_of_anyhows_goes_through_the_guest_with_its_type() -> Result<()> {
    let error = run(0)?;
    assert_eq!(error.downcast_ref(), Some(&Refused(7)));
    assert_eq!(format!("{error:#}"), "asking the host: refused with 7");
    assert!(error.backtrace().is_some(), "the guest that called");
    assert_eq!(error.downcast::<Refused>().expect("it is one"), Refused(7));
    assert_eq!(run(1)?.to_string(), "no such thing as 1");
    Ok(())
}

#[test]
fn a_trap_that_went_through_anyhow_is_a_trap_with_its_backtrace() -> Result<()> {
    let error = run(2)?;
    assert_eq!(error.downcast_ref(), Some(&Trap::Unreachable));
    assert!(
        format!("{error:#}").starts_with("in the nested guest: "),
        "{error:#}"
    );
    let frames = error.backtrace().expect("the trap's").frames();
    assert_eq!(
        frames.len(),
        2,
        "the nested guest and the one around it: {error:?}"
    );
    Ok(())
}

#[test]
fn question_marks_lead_to_anyhow_and_types_are_found_there() -> Result<()> {
    fn program() -> anyhow::Result<()> {
        let (mut store, instance) = guest()?;
        instance
            .call::<(), ()>(&mut store, "trap", ())
            .map_err(anyhow::Error::from)
            .context("running the plug-in")?;
        Ok(())
    }
    let error = program().expect_err("it traps");
    assert_eq!(error.downcast_ref(), Some(&Trap::Unreachable));
    assert_eq!(error.to_string(), "running the plug-in");
    assert_eq!(error.root_cause().to_string(), "unreachable");
    let backtrace = error.downcast_ref::<WasmBacktrace>().expect("it is kept");
    assert_eq!(backtrace.frames().len(), 1);
    Ok(())
}

#[test]
fn there_and_back_an_error_is_what_it_was() {
    let there = anyhow::Error::from(Error::new(Refused(1)).context("first").context("second"));
    assert_eq!(there.downcast_ref(), Some(&Refused(1)));
    assert_eq!(format!("{there:#}"), "second: first: refused with 1");
    let back = Error::from_anyhow(there).context("third");
    assert_eq!(back.downcast_ref(), Some(&Refused(1)));
    assert_eq!(format!("{back:#}"), "third: second: first: refused with 1");
    assert_eq!(back.chain().count(), 4);

    let mut error = Error::from_anyhow(anyhow::Error::new(Refused(2)));
    error.downcast_mut::<Refused>().expect("it is one").0 = 3;
    assert!(error.is::<Refused>());
    let not_found = error.downcast::<Trap>().expect_err("it is none");
    assert_eq!(not_found.to_string(), "refused with 3");

    let message = anyhow::Error::from(Error::msg("just words"));
    assert_eq!(message.to_string(), "just words");
    assert_eq!(size_of::<Error>(), size_of::<usize>());
}
