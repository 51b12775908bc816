//! A WebAssembly runtime whose guests run on fibers.
//!
//! Every guest runs on a stack of its own that ends in a guard. Host functions run on the host's stack. A guest that
//! waits for an `async` host function is parked: its stack is set aside, and nothing else of it is anywhere.
//!
//! ```
//! use selvedge::{Caller, Engine, Linker, Module, Result, Store};
//!
//! # fn block_on<F: std::future::Future>(f: F) -> F::Output {
//! #     let mut f = std::pin::pin!(f);
//! #     let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
//! #     loop { if let std::task::Poll::Ready(v) = f.as_mut().poll(&mut cx) { return v } }
//! # }
//! let engine = Engine::default();
//! let module = Module::new(&engine, r#"(module
//!     (import "host" "fetch" (func $fetch (param i32) (result i32)))
//!     (func (export "run") (param i32) (result i32) local.get 0 call $fetch))"#)?;
//! let mut linker = Linker::<()>::new(&engine);
//! linker.func_wrap_async("host", "fetch", async |_caller: Caller<'_, ()>, n: i32| -> Result<i32> {
//!     std::future::ready(()).await; // a database, a socket, a timer
//!     Ok(n * 2)
//! })?;
//! let mut store = Store::new(&engine, ());
//! let instance = linker.instantiate(&mut store, &module)?;
//! let answer: i32 = block_on(instance.call_async(&mut store, "run", 21))?;
//! assert_eq!(answer, 42);
//! # Ok::<(), selvedge::Error>(())
//! ```
//!
//! Names and shapes follow Wasmtime's embedding API where it has one: see [`moving_from_wasmtime`]. How large a module may be: [`implementation_limits`].

#![warn(missing_docs, missing_debug_implementations)]

mod backtrace;
mod config;
mod engine;
mod error;
mod exception;
mod externs;
mod func;
mod global;
mod host_fn;
mod instance;
mod limits;
mod link;
mod linker;
mod memory;
mod module;
mod moving;
mod profiling;
mod reference;
mod room;
mod shared_memory;
mod source;
mod store;
mod table;
mod trap;
mod value;
mod vector;
mod vm;

pub use backtrace::{FrameInfo, WasmBacktrace};
pub use config::{Config, WasmBacktraceDetails};
pub use engine::{Engine, EngineWeak};
pub use error::{Chain, Context, Error, Result};
pub use exception::{Exception, Tag};
pub use externs::Extern;
pub use fibers::pool::PoolStats;
pub use func::{Func, TypedFunc};
pub use global::Global;
pub use host_fn::{FuelAsyncFn, HostAsyncFn, HostFn, HostValsAsyncFn, HostValsFn};
pub use instance::Instance;
pub use limits::{Growth, GrowthKind, ResourceLimiter, StoreLimits, StoreLimitsBuilder};
pub use linker::{InstancePre, Linker, UnknownImportError};
pub use memory::Memory;
pub use module::{ExportType, ImportType, Module, ModuleExport, ModuleFunction, ResourcesRequired};
pub use profiling::ProfilingStrategy;
pub use reference::{ExnRef, ExternRef, OwnedExternRef, RootScope};
pub use selvedge_compiler::{
    CompileError, ExternType, FuelCosts, FuncType, FuncTypeId, GlobalType, HeapType, LoadError, MemoryStyle,
    MemoryType, OptLevel, RefType, TableType, TagType, UnknownOperator, ValType,
};
pub use shared_memory::SharedMemory;
pub use source::FrameSymbol;
pub use store::{
    AsContext, AsContextMut, Caller, FuelPolicy, InterruptHandle, Local, Store, StoreContext, StoreContextMut,
};
pub use table::Table;
pub use trap::Trap;
pub use value::{Val, WasmRet, WasmTy, WasmTyList};
pub use vector::V128;
pub use vm::call::{CallFuture, CallValsFuture};
pub use vm::deadline::{GuestCall, WithDeadline};
pub use vm::signals::handle_signal;
pub use vm::waiters::WaitResult;

#[doc = include_str!("../LIMITS.md")]
pub mod implementation_limits {}

#[doc = include_str!("../MOVING-FROM-WASMTIME.md")]
pub mod moving_from_wasmtime {}
