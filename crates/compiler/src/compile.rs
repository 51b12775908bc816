//! The whole way: parse, compile every function, make the trampolines, link.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::function::{Compiled, Worker};
use crate::limits::Budget;
use crate::link::Linker;
use crate::parse::{Body, Parsed, parse};
use crate::threads::Threads;
use crate::translate::Env;
use crate::{
    CompileError, CompiledModule, FuncType, HostTrampolines, Image, Proposal, Settings, features, trampolines,
};

/// Compiles a module.
///
/// The result depends on nothing but the arguments and the processor.
///
/// # Errors
///
/// `Invalid` if it is malformed or invalid; `Unsupported` if it would be valid with a proposal that is not
/// supported; `TooLarge` beyond the limits of this crate; `Processor` or `Target` as in [`Settings::host`].
/// Of several errors, the one of the first function is told; what is outside of functions comes before them.
pub fn compile(wasm: &[u8], settings: &Settings) -> Result<CompiledModule, CompileError> {
    compile_valid(wasm, settings).map_err(|error| {
        let error = features::explain(wasm, settings.features, error);
        what_is_missing_first(wasm, settings, error)
    })
}

/// What is not supported even with the function references that `error` asks for, if that comes no later.
fn what_is_missing_first(wasm: &[u8], settings: &Settings, error: CompileError) -> CompileError {
    let references = Proposal::FunctionReferences;
    match &error {
        CompileError::Unsupported { feature, .. } if *feature == references.name() => {}
        _ => return error,
    }
    let mut features = settings.features;
    features.set(references, true);
    match compile_valid(wasm, &settings.clone().features(features)) {
        Err(other @ CompileError::Unsupported { .. }) if other.offset() <= error.offset() => other,
        _ => error,
    }
}

fn compile_valid(wasm: &[u8], settings: &Settings) -> Result<CompiledModule, CompileError> {
    let isa = settings.isa()?;
    let Parsed { info, bodies } = parse(wasm, settings)?;
    let env = Env {
        info: &info,
        settings,
        isa: &*isa,
        budget: &Budget::of(wasm.len()),
    };
    let mut linker = Linker::new(info.imported_functions);
    let compiled = functions(env, bodies);
    env.budget.check()?;
    for compiled in compiled {
        linker.function(compiled?)?;
    }
    let image = link(linker, env)?;
    Ok(CompiledModule { info, image })
}

/// Every function's code, in order.
fn functions(env: Env<'_>, bodies: Vec<Body<'_>>) -> Vec<Result<Compiled, CompileError>> {
    let threads = env.settings.parallel.then(Threads::available).flatten();
    match threads {
        Some(threads) => threads.run(|| {
            bodies
                .into_par_iter()
                .map_init(Worker::new, |worker, body| worker.function(env, body))
                .collect()
        }),
        None => {
            let mut worker = Worker::new();
            bodies
                .into_iter()
                .map(|body| worker.function(env, body))
                .collect()
        }
    }
}

/// Adds the trampolines and resolves what refers to what.
fn link(mut linker: Linker, env: Env<'_>) -> Result<Image, CompileError> {
    let Env {
        info, settings, isa, ..
    } = env;
    let mut worker = Worker::new();
    let mut entries = vec![None; info.types.len()];
    let mut made = HashMap::new();
    for (function, _) in info.layout.func_refs() {
        let index = info.functions[function as usize];
        if entries[index as usize].is_none() {
            let ty = &info.types[index as usize];
            let offset = once(&mut made, ty, || {
                env.budget.take_trampoline(ty)?;
                linker.trampoline(trampolines::entry(&mut worker, ty, index, settings.fuel, isa)?)
            })?;
            entries[index as usize] = Some(offset);
        }
    }
    let mut imports = Vec::with_capacity(info.imported_functions as usize);
    let mut made = HashMap::new();
    for index in &info.functions[..info.imported_functions as usize] {
        let ty = &info.types[*index as usize];
        let make = || {
            env.budget.take_trampoline(ty)?;
            linker.trampoline(trampolines::import(&mut worker, ty, *index, isa)?)
        };
        imports.push(once(&mut made, ty, make)?);
    }
    Ok(linker.finish(entries, imports, settings, isa))
}

/// One trampoline for each signature, however many type indices it has.
fn once<'a>(
    made: &mut HashMap<&'a FuncType, u32>,
    ty: &'a FuncType,
    make: impl FnOnce() -> Result<u32, CompileError>,
) -> Result<u32, CompileError> {
    if let Some(offset) = made.get(ty) {
        return Ok(*offset);
    }
    let offset = make()?;
    made.insert(ty, offset);
    Ok(offset)
}

/// Compiles the trampolines of one signature: to call a host function as a guest function, and the reverse.
///
/// # Errors
///
/// `Processor` or `Target` as in [`Settings::host`]; `Trampoline` if the signature is out of all proportion (a
/// module has at most 1 000 parameters and 1 000 results).
pub fn compile_host_trampolines(ty: &FuncType, settings: &Settings) -> Result<HostTrampolines, CompileError> {
    let isa = settings.isa()?;
    let (mut linker, mut worker) = (Linker::new(0), Worker::new());
    let entry = linker.trampoline(trampolines::entry(&mut worker, ty, 0, settings.fuel, &*isa)?)?;
    let import = linker.trampoline(trampolines::import(&mut worker, ty, 0, &*isa)?)?;
    let image = linker.finish(vec![Some(entry)], vec![import], settings, &*isa);
    Ok(HostTrampolines { image, entry, import })
}
