//! How fast is what we compile? Kernels in C (`benches/kernels`), in Selvedge, in wasmtime, and as native code from
//! the same sources.
//!
//! All of them have to compute the same before they are measured.

use selvedge_benches::{Contest, Question, native, side};
use std::path::{Path, PathBuf};

/// Kernels and their arguments: a fifth of a millisecond or so.
const KERNELS: [(&str, i32); 9] = [
    ("fib", 20),
    ("sieve", 40_000),
    ("matmul", 48),
    ("sha256", 300),
    ("nbody", 1000),
    ("quicksort", 4000),
    ("interpreter", 1500),
    ("callbacks", 300),
    ("mix", 20),
];
/// More than is ever used.
const PLENTY: u64 = 1 << 62;
/// No single kernel may be worse than this.
const WORST: f64 = 1.15;

/// Families of questions, what their first side is, what the second, and the goals of their means.
const PLAIN: &str = "selvedge / wasmtime";
const FUEL: &str = "selvedge, fuel / no fuel";
const FUELS: &str = "both with fuel";
const THEIR_FUEL: &str = "wasmtime, fuel / no fuel";
const BOUNDED: &str = "selvedge, bounded / reserved memory";
const NATIVE: &str = "selvedge / native";
#[cfg(feature = "wasmer")]
const WASMER: &str = "selvedge / wasmer";
#[cfg(feature = "wasmer")]
const WASMER_FUEL: &str = "wasmer, metering / none";

/// A kernel in an engine.
type Kernel = Box<dyn FnMut() -> i32>;

fn ours(wasm: &[u8], argument: i32, config: &selvedge::Config, fuel: bool) -> selvedge::Result<Kernel> {
    let engine = selvedge::Engine::new(config)?;
    let module = selvedge::Module::new(&engine, wasm)?;
    let mut store = selvedge::Store::new(&engine, ());
    if fuel {
        store.set_fuel(PLENTY)?;
    }
    let instance = selvedge::Instance::new(&mut store, &module, &[])?;
    let run = instance.typed::<i32, i32>(&mut store, "run")?;
    Ok(Box::new(move || {
        run.call(&mut store, argument).expect("kernels return")
    }))
}

fn our_plain(wasm: &[u8], argument: i32) -> selvedge::Result<Kernel> {
    ours(wasm, argument, &selvedge::Config::new(), false)
}

fn our_fuel(wasm: &[u8], argument: i32) -> selvedge::Result<Kernel> {
    ours(wasm, argument, selvedge::Config::new().fuel(true), true)
}

fn our_bounded(wasm: &[u8], argument: i32) -> selvedge::Result<Kernel> {
    let style = selvedge::MemoryStyle::Bounded;
    ours(wasm, argument, selvedge::Config::new().memory_style(style), false)
}

fn theirs(wasm: &[u8], argument: i32, fuel: bool) -> wasmtime::Result<Kernel> {
    let engine = wasmtime::Engine::new(wasmtime::Config::new().consume_fuel(fuel))?;
    let module = wasmtime::Module::new(&engine, wasm)?;
    let mut store = wasmtime::Store::new(&engine, ());
    if fuel {
        store.set_fuel(PLENTY)?;
    }
    let instance = wasmtime::Instance::new(&mut store, &module, &[])?;
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
    Ok(Box::new(move || {
        run.call(&mut store, argument).expect("kernels return")
    }))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn kernel(contest: &mut Contest, name: &str, argument: i32) -> Result<(), Box<dyn std::error::Error>> {
    let path = folder().join(name).with_extension("wasm");
    let wasm = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut plain = our_plain(&wasm, argument)?;
    let mut fuel = our_fuel(&wasm, argument)?;
    let mut bounded = our_bounded(&wasm, argument)?;
    let (mut their_plain, mut their_fuel) = (theirs(&wasm, argument, false)?, theirs(&wasm, argument, true)?);
    let expected = plain();
    for (who, result) in [
        ("selvedge, fuel", fuel()),
        ("selvedge, bounded memory", bounded()),
        ("wasmtime", their_plain()),
        ("wasmtime, fuel", their_fuel()),
    ] {
        assert_eq!(result, expected, "{name} in {who}");
    }
    contest.duel(
        question(name, PLAIN),
        side("selvedge", || _ = plain()),
        side("wasmtime", || _ = their_plain()),
    );
    contest.duel(
        question(name, FUEL),
        side("fuel", || _ = fuel()),
        side("no fuel", || _ = plain()),
    );
    contest.duel(
        no_goal(name, FUELS),
        side("selvedge, fuel", || _ = fuel()),
        side("wasmtime, fuel", || _ = their_fuel()),
    );
    contest.duel(
        no_goal(name, THEIR_FUEL),
        side("fuel", || _ = their_fuel()),
        side("no fuel", || _ = their_plain()),
    );
    contest.duel(
        no_goal(name, BOUNDED),
        side("bounded", || _ = bounded()),
        side("reserved", || _ = plain()),
    );
    #[cfg(feature = "wasmer")]
    beside_wasmer(contest, name, &wasm, argument, &mut plain)?;
    beside_native(contest, name, argument, &mut plain);
    Ok(())
}

/// Questions live as long as the process.
fn question(name: &str, family: &'static str) -> Question {
    let what: &'static str = format!("{name}: {family}").leak();
    Question::new(what, WORST).of(family)
}

fn no_goal(name: &str, family: &'static str) -> Question {
    question(name, family).without_goal()
}

#[cfg(feature = "wasmer")]
fn beside_wasmer(
    contest: &mut Contest,
    name: &str,
    wasm: &[u8],
    argument: i32,
    plain: &mut Kernel,
) -> Result<(), Box<dyn std::error::Error>> {
    let expected = plain();
    let mut rival = selvedge_benches::third::kernel(wasm, argument, false)?;
    let mut metered = selvedge_benches::third::kernel(wasm, argument, true)?;
    assert_eq!(rival(), expected, "{name} in wasmer");
    assert_eq!(metered(), expected, "{name} in wasmer, metered");
    contest.duel(
        no_goal(name, WASMER),
        side("selvedge", || _ = plain()),
        side("wasmer", || _ = rival()),
    );
    contest.duel(
        no_goal(name, WASMER_FUEL),
        side("metering", || _ = metered()),
        side("none", || _ = rival()),
    );
    Ok(())
}

fn beside_native(contest: &mut Contest, name: &str, argument: i32, plain: &mut Kernel) {
    let run = match native::kernel(&folder().join(name).with_extension("c")) {
        Ok(run) => run,
        Err(error) => return eprintln!("{name}: no native floor: {error}"),
    };
    assert_eq!(run(argument), plain(), "{name} as native code");
    contest.duel(
        no_goal(name, NATIVE),
        side("selvedge", || _ = plain()),
        side("native", || {
            std::hint::black_box(run(std::hint::black_box(argument)));
        }),
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut contest = Contest::from_args("kernels");
    contest.mean(PLAIN, Some(1.0));
    contest.mean(FUEL, Some(1.05));
    contest.mean(FUELS, None);
    contest.mean(THEIR_FUEL, None);
    contest.mean(BOUNDED, None);
    contest.mean(NATIVE, Some(1.5));
    #[cfg(feature = "wasmer")]
    {
        contest.mean(WASMER, None);
        contest.mean(WASMER_FUEL, None);
    }
    for (name, argument) in KERNELS {
        kernel(&mut contest, name, argument)?;
    }
    contest.finish();
    Ok(())
}
