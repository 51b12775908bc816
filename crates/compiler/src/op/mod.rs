//! The operators, by the chapters of the specification: core/exec/instructions.

mod atomic;
mod builtins;
mod calls;
mod control;
pub(crate) mod exceptions;
mod memory;
mod numeric;
mod parametric;
mod reference;
mod simd;
mod table;
mod variable;
mod wide;
