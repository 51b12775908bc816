//! The types of WebAssembly that an embedder meets: of values, tables, memories, globals. Those of functions and of
//! references are in files of their own.
//!
//! `Display` writes each as the text format does, so that an error can show both sides of a mismatch.
//! Spec: core/syntax/types.

use std::fmt;

use crate::{FuncType, RefType};

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
    /// A 128-bit vector.
    V128,
    /// A reference. Tables hold them.
    Ref(RefType),
}

impl ValType {
    /// A function of any signature, or null.
    pub const FUNCREF: ValType = ValType::Ref(RefType::FUNCREF);
    /// Something of the host's, or null.
    pub const EXTERNREF: ValType = ValType::Ref(RefType::EXTERNREF);
    /// An exception, or null.
    pub const EXNREF: ValType = ValType::Ref(RefType::EXNREF);

    /// Whether values of this type are references.
    pub const fn is_ref(&self) -> bool {
        matches!(self, ValType::Ref(_))
    }

    /// The type of references, if values of this type are.
    pub const fn as_ref(&self) -> Option<RefType> {
        match self {
            ValType::Ref(ty) => Some(*ty),
            _ => None,
        }
    }

    /// Whether a value of this type may be used where `other` is asked for.
    pub fn matches(&self, other: &ValType) -> bool {
        match (self, other) {
            (ValType::Ref(ty), ValType::Ref(other)) => ty.matches(other),
            _ => self == other,
        }
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
            ValType::Ref(ty) => return ty.fmt(f),
        })
    }
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
    pub element: RefType,
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
        let ty = FuncType::new([ValType::I32, ValType::F64], [ValType::EXTERNREF]);
        assert_eq!(ty.to_string(), "(func (param i32 f64) (result externref))");
        assert_eq!(FuncType::new([], []).to_string(), "(func)");
        let global = GlobalType {
            content: ValType::I64,
            mutable: true,
        };
        assert_eq!(global.to_string(), "(global (mut i64))");
        let table = TableType {
            element: RefType::FUNCREF,
            minimum: 1,
            maximum: Some(2),
        };
        assert_eq!(ExternType::Table(table).to_string(), "(table 1 2 funcref)");
        assert_eq!(MemoryType::new(1, None).to_string(), "(memory 1)");
    }
}
