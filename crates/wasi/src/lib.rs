//! WASI preview 1 for Selvedge, on the public embedding API alone.
//!
//! A store carries a [`WasiCtx`]: the arguments, the environment, the directories and the three
//! standard streams a guest may see, and nothing else of the host. [`add_to_linker`] defines the 46
//! functions of `wasi_snapshot_preview1` over it.
//!
//! ```
//! use selvedge::{Engine, Linker, Module, Store};
//! use selvedge_wasi::{Exit, OutputPipe, WasiCtx, add_to_linker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::default();
//! let module = Module::new(&engine, r#"(module
//!     (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
//!     (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
//!     (memory (export "memory") 1)
//!     (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\n")
//!     (func (export "_start")
//!         (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
//!         (call $proc_exit (i32.const 3))))"#)?;
//!
//! let mut linker = Linker::<WasiCtx>::new(&engine);
//! add_to_linker(&mut linker, |ctx| ctx)?;
//! let stdout = OutputPipe::new(1024);
//! let mut store = Store::new(&engine, WasiCtx::builder().arg("hello").stdout_pipe(&stdout).build()?);
//!
//! let instance = linker.instantiate(&mut store, &module)?;
//! let stopped = instance.call::<(), ()>(&mut store, "_start", ()).unwrap_err();
//! assert_eq!(stopped.downcast_ref::<Exit>(), Some(&Exit(3)));
//! assert_eq!(stdout.contents(), b"hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! # What a guest gets back
//!
//! | what happened | the guest sees |
//! | --- | --- |
//! | success, or an error of WASI | its `errno` |
//! | a pointer or length outside the memory | `EFAULT` (21); neither a trap nor a host fault |
//! | a pointer that is not aligned for its type, a flag or an enumeration out of range | `EINVAL` (28) |
//! | an error of the host that has no `errno`, such as a file last changed before 1970 | `EIO` (29) |
//! | `proc_exit` | nothing: the call ends with the error [`Exit`] |
//! | `proc_raise` | `ENOTSUP` (58) |
//! | it exports no memory named `memory` | nothing: the call ends with an error that says so |
//!
//! # What blocks
//!
//! The functions are synchronous host functions, for guests entered by `call`. `poll_oneoff`, and
//! reading from the host's standard input, block the calling thread for as long as the guest asks
//! or until input comes; files, and writing to a standard stream that nobody reads, block as they do
//! for a native program. Fuel does not run out meanwhile. In an executor, give such guests threads of
//! their own, or bytes in memory as standard input and no `poll_oneoff`.
//!
//! # Beneath
//!
//! Files, clocks and the decoding of arguments are `wasi-common`'s and `wiggle`'s; no type of theirs
//! appears in this crate's interface.
#![warn(missing_docs)]

mod ctx;
mod errno;
mod exit;
mod pipe;
mod preview1;

pub use ctx::{WasiCtx, WasiCtxBuilder};
pub use exit::Exit;
pub use pipe::OutputPipe;
pub use preview1::add_to_linker;
