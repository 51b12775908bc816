//! How long does compiling take, and how large is what comes out? Real modules, in Selvedge and in wasmtime, on one
//! thread and on all, with fuel and without.
//!
//! `.ci/fetch-modules` gets the modules; what is missing is said and left out.

use selvedge_benches::{Contest, Question, side};
use std::path::{Path, PathBuf};

/// The modules, as `.ci/fetch-modules` and `.ci/fetch-python` name them, and how often each is compiled by either side.
const MODULES: [(&str, usize); 3] = [
    ("sqlite3.wasm", 9),
    ("esbuild.wasm", 3),
    ("python-3.12.0.wasm", 3),
];

fn our_engine(fuel: bool, parallel: bool) -> selvedge::Result<selvedge::Engine> {
    let mut config = selvedge::Config::new();
    selvedge::Engine::new(config.fuel(fuel).parallel_compilation(parallel))
}

fn their_engine(fuel: bool, parallel: bool) -> wasmtime::Result<wasmtime::Engine> {
    let mut config = wasmtime::Config::new();
    wasmtime::Engine::new(config.consume_fuel(fuel).parallel_compilation(parallel))
}

fn compile_ours(engine: &selvedge::Engine, wasm: &[u8]) -> impl FnMut() {
    move || drop(selvedge::Module::new(engine, wasm).expect("the module is valid"))
}

fn compile_theirs(engine: &wasmtime::Engine, wasm: &[u8]) -> impl FnMut() {
    move || drop(wasmtime::Module::new(engine, wasm).expect("the module is valid"))
}

fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("real-programs")
}

/// Sizes of the code, printed as a table.
fn sizes(name: &str, wasm: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let settings = selvedge_compiler::Settings::host()?;
    let [ours, our_fuel] = [false, true].map(|fuel| {
        let compiled = selvedge_compiler::compile(wasm, &settings.clone().fuel(fuel));
        compiled.map(|module| module.image.text.len())
    });
    let [theirs, their_fuel] = [false, true].map(|fuel| {
        let module = their_engine(fuel, true).and_then(|engine| wasmtime::Module::new(&engine, wasm));
        module.map(|module| module.text().len())
    });
    let (ours, our_fuel, theirs, their_fuel) = (ours?, our_fuel?, theirs?, their_fuel?);
    let ratio = |one: usize, other: usize| one as f64 / other as f64;
    println!(
        "{name}: {} bytes; code {ours}, wasmtime's {theirs} ({:.3}); with fuel {our_fuel} ({:.3} of ours without), \
         wasmtime's {their_fuel} ({:.3} of its own without)",
        wasm.len(),
        ratio(ours, theirs),
        ratio(our_fuel, ours),
        ratio(their_fuel, theirs),
    );
    Ok(())
}

fn module(
    contest: &mut Contest,
    name: &str,
    rounds: usize,
    wasm: &[u8],
) -> Result<(), Box<dyn std::error::Error>> {
    // Questions live as long as the process.
    let question = |what: &str, goal| {
        let what: &'static str = format!("{name}: {what}").leak();
        Question::new(what, goal).slow(rounds)
    };
    let (ours, theirs) = (our_engine(false, true)?, their_engine(false, true)?);
    let (our_fuel, their_fuel) = (our_engine(true, true)?, their_engine(true, true)?);
    let (our_thread, their_thread) = (our_engine(false, false)?, their_engine(false, false)?);
    contest.duel(
        question("all threads", 1.0),
        side("selvedge", compile_ours(&ours, wasm)),
        side("wasmtime", compile_theirs(&theirs, wasm)),
    );
    contest.duel(
        question("one thread", 1.0),
        side("selvedge", compile_ours(&our_thread, wasm)),
        side("wasmtime", compile_theirs(&their_thread, wasm)),
    );
    contest.duel(
        question("fuel on / off", 1.1),
        side("fuel", compile_ours(&our_fuel, wasm)),
        side("no fuel", compile_ours(&ours, wasm)),
    );
    contest.duel(
        question("fuel on / off, wasmtime's own", 1.0).without_goal(),
        side("fuel", compile_theirs(&their_fuel, wasm)),
        side("no fuel", compile_theirs(&theirs, wasm)),
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut contest = Contest::from_args("compile");
    for (name, rounds) in MODULES {
        if !contest.asks(name) {
            continue;
        }
        let path = folder().join(name);
        match std::fs::read(&path) {
            Err(error) => eprintln!(
                "left out: {}: {error} (.ci/fetch-modules gets it)",
                path.display()
            ),
            Ok(wasm) if contest.is_measured() => {
                sizes(name, &wasm)?;
                module(&mut contest, name, rounds, &wasm)?;
            }
            Ok(_) => println!("{name} is there"),
        }
    }
    contest.finish();
    Ok(())
}
