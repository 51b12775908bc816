//! Wasmer, the third side, behind the feature `wasmer`: its compiler is a second Cranelift, which takes minutes to build.
//!
//! What it names as fast: typed functions, Cranelift optimising for speed, calls on stacks of its own pool. Metering is a
//! middleware that adds operators to the module.

use crate::guest;
use std::error::Error;
use std::sync::Arc;
use wasmer::sys::{CompilerConfig, Cranelift, EngineBuilder};
use wasmer::{Engine, Function, Imports, Instance, Module, Store, imports};

/// More points than are ever used.
const PLENTY: u64 = 1 << 62;

/// An engine that compiles on so many threads.
pub fn engine(threads: std::num::NonZeroUsize) -> Engine {
    let mut compiler = Cranelift::new();
    compiler.num_threads(threads);
    EngineBuilder::new(compiler).into()
}

/// An engine for one module, whose operators cost a point each.
fn metered_engine() -> Engine {
    let mut compiler = Cranelift::new();
    compiler.push_middleware(Arc::new(wasmer_middlewares::Metering::new(PLENTY, |_| 1)));
    EngineBuilder::new(compiler).into()
}

/// A kernel's function `run`.
///
/// # Errors
/// The module is invalid or has no such function.
pub fn kernel(
    wasm: &[u8],
    argument: i32,
    is_metered: bool,
) -> Result<Box<dyn FnMut() -> i32>, Box<dyn Error>> {
    let mut store = Store::new(match is_metered {
        true => metered_engine(),
        false => Engine::default(),
    });
    let module = Module::new(&store, wasm)?;
    let instance = Instance::new(&mut store, &module, &Imports::new())?;
    let run = instance.exports.get_typed_function::<i32, i32>(&store, "run")?;
    Ok(Box::new(move || {
        run.call(&mut store, argument).expect("kernels return")
    }))
}

/// The host functions of [`guest::CALLS`].
pub fn host(store: &mut Store) -> Imports {
    imports! {
        "host" => {
            "sync" => Function::new_typed(store, |n: i32| n + 1),
            "ready" => Function::new_typed_async(store, async |n: i32| n + 1),
            "once" => Function::new_typed_async(store, async |n: i32| {
                guest::Once::default().await;
                n + 1
            }),
            "never" => Function::new_typed_async(store, async || std::future::pending::<()>().await),
        }
    }
}
