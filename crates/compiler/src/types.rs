//! The types of WebAssembly that an embedder meets: of values, functions, tables, memories, globals.
//!
//! `Display` writes each as the text format does, so that an error can show both sides of a mismatch.
//! Spec: core/syntax/types.

use std::fmt;
use std::sync::Arc;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValType {
    /// A 32-bit integer, signed or not as the operator says.
    I32,
    /// A 64-bit integer, signed or not as the operator says.
    I64,
    /// A 32-bit IEEE 754 number.
    F32,
    /// A 64-bit IEEE 754 number.
    F64,
    /// A 128-bit vector. Reserved: modules that use it are refused for now.
    V128,
    /// A function of any signature, or null.
    FuncRef,
    /// Something of the host's, or null.
    ExternRef,
}

impl ValType {
    /// Whether values of this type are references: they have a null, and tables hold them.
    pub const fn is_ref(self) -> bool {
        matches!(self, ValType::FuncRef | ValType::ExternRef)
    }
}

impl fmt::Display for ValType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValType::I32 => "i32",
            ValType::I64 => "i64",
            ValType::F32 => "f32",
            ValType::F64 => "f64",
            ValType::V128 => "v128",
            ValType::FuncRef => "funcref",
            ValType::ExternRef => "externref",
        })
    }
}

/// The signature of a function. A clone is two reference counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FuncType {
    params: Arc<[ValType]>,
    results: Arc<[ValType]>,
}

impl FuncType {
    /// A signature from its parameters and results, in order.
    pub fn new(
        params: impl IntoIterator<Item = ValType>,
        results: impl IntoIterator<Item = ValType>,
    ) -> FuncType {
        FuncType {
            params: params.into_iter().collect(),
            results: results.into_iter().collect(),
        }
    }

    /// The types of the parameters, in order.
    pub fn params(&self) -> &[ValType] {
        &self.params
    }

    /// The types of the results, in order.
    pub fn results(&self) -> &[ValType] {
        &self.results
    }
}

impl fmt::Display for FuncType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(func")?;
        write_list(f, "param", &self.params)?;
        write_list(f, "result", &self.results)?;
        f.write_str(")")
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, what: &str, types: &[ValType]) -> fmt::Result {
    if types.is_empty() {
        return Ok(());
    }
    write!(f, " ({what}")?;
    for ty in types {
        write!(f, " {ty}")?;
    }
    f.write_str(")")
}

/// The type of a global.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GlobalType {
    /// The type of the value it holds.
    pub content: ValType,
    /// Whether the value can be set.
    pub mutable: bool,
}

impl fmt::Display for GlobalType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mutable {
            true => write!(f, "(global (mut {}))", self.content),
            false => write!(f, "(global {})", self.content),
        }
    }
}

/// The type of a table. Sizes are in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableType {
    /// The reference type of its elements.
    pub element: ValType,
    /// How many elements it has when it is made.
    pub minimum: u64,
    /// How many elements it may grow to; `None`: as many as the runtime's limits allow.
    pub maximum: Option<u64>,
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(table {}", self.minimum)?;
        if let Some(maximum) = self.maximum {
            write!(f, " {maximum}")?;
        }
        write!(f, " {})", self.element)
    }
}

/// The type of a linear memory. Sizes are in pages of [`MemoryType::PAGE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MemoryType {
    /// How many pages it has when it is made.
    pub minimum: u64,
    /// How many pages it may grow to; `None`: up to the 65 536 that 32-bit addresses reach.
    pub maximum: Option<u64>,
}

impl MemoryType {
    /// The size of a page in bytes.
    pub const PAGE_BYTES: u64 = 65_536;

    /// A memory of `minimum` pages that may grow to `maximum`.
    pub const fn new(minimum: u64, maximum: Option<u64>) -> MemoryType {
        MemoryType { minimum, maximum }
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.maximum {
            Some(maximum) => write!(f, "(memory {} {maximum})", self.minimum),
            None => write!(f, "(memory {})", self.minimum),
        }
    }
}

/// The type of something that is imported or exported.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExternType {
    /// A function of this signature.
    Func(FuncType),
    /// A table.
    Table(TableType),
    /// A linear memory.
    Memory(MemoryType),
    /// A global.
    Global(GlobalType),
}

impl fmt::Display for ExternType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExternType::Func(ty) => ty.fmt(f),
            ExternType::Table(ty) => ty.fmt(f),
            ExternType::Memory(ty) => ty.fmt(f),
            ExternType::Global(ty) => ty.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_print_as_in_the_text_format() {
        let ty = FuncType::new([ValType::I32, ValType::F64], [ValType::ExternRef]);
        assert_eq!(ty.to_string(), "(func (param i32 f64) (result externref))");
        assert_eq!(FuncType::new([], []).to_string(), "(func)");
        let global = GlobalType {
            content: ValType::I64,
            mutable: true,
        };
        assert_eq!(global.to_string(), "(global (mut i64))");
        let table = TableType {
            element: ValType::FuncRef,
            minimum: 1,
            maximum: Some(2),
        };
        assert_eq!(ExternType::Table(table).to_string(), "(table 1 2 funcref)");
        assert_eq!(MemoryType::new(1, None).to_string(), "(memory 1)");
    }
}
