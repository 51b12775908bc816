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

mod abi;
mod bounds;
mod builtin;
mod cold;
mod compile;
mod const_expr;
mod costs;
mod debug;
mod error;
mod features;
mod fuel;
mod func_type;
mod function;
pub mod image;
mod in_place;
mod labels;
pub mod layout;
mod limits;
mod link;
mod listing;
mod loops;
mod module;
mod op;
mod opcodes;
mod outline;
mod parse;
mod precompiled;
mod rec_group;
mod ref_type;
mod regions;
mod settings;
mod sites;
mod stubs;
mod threads;
mod tight;
mod trampolines;
mod translate;
mod trap;
mod turns;
mod types;
mod unwind;

pub use builtin::Builtin;
pub use compile::{compile, compile_host_trampolines};
pub use const_expr::{ConstExpr, ConstOp, evaluate as evaluate_const};
pub use costs::{FuelCosts, UnknownOperator};
pub use debug::DebugSections;
pub use error::CompileError;
pub use features::{Features, Proposal};
pub use func_type::{FuncType, FuncTypeId};
pub use image::{CallSite, CatchClause, FaultSite, HostTrampolines, Image, StackMaps, TryCall, TryCalls};
pub use layout::VmLayout;
pub use listing::{Listing, listing};
pub use module::{
    CompiledModule, DataMode, DataSegment, ElementItems, ElementMode, ElementSegment, Export, ExternIndex,
    Import, ModuleInfo,
};
pub use precompiled::{LoadError, is_precompiled, load, precompile, precompile_conditions};
pub use ref_type::{HeapType, RefType};
pub use settings::{MemoryStyle, OptLevel, Settings};
pub use trap::TrapCode;
pub use types::{ExternType, GlobalType, MemoryType, TableType, TagType, ValType};
