//! WebAssembly to machine code: a pure function from a module's bytes and [`Settings`] to an [`Image`].
//!
//! ```
//! let wasm = wat::parse_str("(module (func (export \"one\") (result i32) i32.const 1))").unwrap();
//! let settings = selvedge_compiler::Settings::host()?;
//! let module = selvedge_compiler::compile(&wasm, &settings)?;
//! assert_eq!(module.info.exports[0].name, "one");
//! # Ok::<(), selvedge_compiler::CompileError>(())
//! ```
//!
//! It knows no store, no stack and no process. [`layout`] says where the code expects what in memory, and
//! [`image`] what the runtime has to do with the text before it can run.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod builtin;
mod error;
pub mod image;
pub mod layout;
mod module;
mod settings;
mod stubs;
mod trap;
mod types;

pub use builtin::Builtin;
pub use error::CompileError;
pub use image::{CallSite, FaultSite, HostTrampolines, Image};
pub use layout::VmLayout;
pub use module::{
    CompiledModule, ConstExpr, DataMode, DataSegment, ElementItems, ElementMode, ElementSegment, Export,
    ExternIndex, Import, ModuleInfo,
};
pub use settings::{MemoryStyle, OptLevel, Settings};
pub use trap::TrapCode;
pub use types::{ExternType, FuncType, GlobalType, MemoryType, TableType, ValType};

/// Compiles a module.
///
/// # Errors
///
/// See [`CompileError`].
pub fn compile(wasm: &[u8], settings: &Settings) -> Result<CompiledModule, CompileError> {
    let _ = (wasm, settings.isa()?, stubs::text_start(), stubs::fuel_stub());
    Err(CompileError::Target {
        target: "not supported yet".to_owned(),
    })
}

/// Compiles the trampolines of one signature: to call a host function as a guest function, and the reverse.
///
/// # Errors
///
/// See [`CompileError`].
pub fn compile_host_trampolines(ty: &FuncType, settings: &Settings) -> Result<HostTrampolines, CompileError> {
    let _ = (ty, settings);
    Err(CompileError::Target {
        target: "not supported yet".to_owned(),
    })
}
