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
    /// A vector of 128 bits, its lanes as the operator says.
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

    /// Whether it is [`ValType::FUNCREF`].
    pub fn is_funcref(&self) -> bool {
        *self == ValType::FUNCREF
    }

    /// Whether it is [`ValType::EXTERNREF`].
    pub fn is_externref(&self) -> bool {
        *self == ValType::EXTERNREF
    }

    /// Whether a value of this type may be used where `other` is asked for.
    pub fn matches(&self, other: &ValType) -> bool {
        match (self, other) {
            (ValType::Ref(ty), ValType::Ref(other)) => ty.matches(other),
            _ => self == other,
        }
    }

    /// Whether values of this type refer into the store's heap, 32 bits wide: then frames that hold them say so in stack maps.
    pub const fn is_heap_reference(self) -> bool {
        match self {
            ValType::Ref(ty) => ty.is_heap_reference(),
            _ => false,
        }
    }
}

impl From<RefType> for ValType {
    fn from(ty: RefType) -> ValType {
        ValType::Ref(ty)
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

impl GlobalType {
    /// A global that holds a value of type `content`, which can be set if it is `mutable`.
    pub const fn new(content: ValType, mutable: bool) -> GlobalType {
        GlobalType { content, mutable }
    }
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
    /// Whether its indices are i64, not i32.
    pub is_64: bool,
    /// How many elements it has when it is made.
    pub minimum: u64,
    /// How many elements it may grow to; `None`: as many as the runtime's limits allow.
    pub maximum: Option<u64>,
}

impl TableType {
    /// A table of `minimum` elements that may grow to `maximum`, with i32 indices.
    pub const fn new(element: RefType, minimum: u64, maximum: Option<u64>) -> TableType {
        TableType {
            element,
            is_64: false,
            minimum,
            maximum,
        }
    }

    /// A table with i64 indices.
    pub const fn new64(element: RefType, minimum: u64, maximum: Option<u64>) -> TableType {
        TableType {
            is_64: true,
            ..TableType::new(element, minimum, maximum)
        }
    }
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = if self.is_64 { "i64 " } else { "" };
        write!(f, "(table {address}{}", self.minimum)?;
        if let Some(maximum) = self.maximum {
            write!(f, " {maximum}")?;
        }
        write!(f, " {})", self.element)
    }
}

/// The type of a linear memory. Sizes are in pages, of [`MemoryType::PAGE_BYTES`] unless its type says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MemoryType {
    /// How many pages it has when it is made.
    pub minimum: u64,
    /// How many pages it may grow to; `None`: as many as addresses reach, [`MemoryType::most_pages`].
    pub maximum: Option<u64>,
    is_64: bool,
    is_shared: bool,
    page_size_log2: u8,
}

impl MemoryType {
    /// The size of a page in bytes, unless a memory's type says otherwise.
    pub const PAGE_BYTES: u64 = 65_536;

    /// A memory of `minimum` pages that may grow to `maximum`, with i32 addresses.
    pub const fn new(minimum: u64, maximum: Option<u64>) -> MemoryType {
        MemoryType {
            minimum,
            maximum,
            is_64: false,
            is_shared: false,
            page_size_log2: MemoryType::PAGE_BYTES.trailing_zeros() as u8,
        }
    }

    /// A memory with i64 addresses.
    pub const fn new64(minimum: u64, maximum: Option<u64>) -> MemoryType {
        MemoryType {
            is_64: true,
            ..MemoryType::new(minimum, maximum)
        }
    }

    /// The same with pages of 2 to the power of `log2` bytes. Sizes stay the same number of pages.
    ///
    /// The custom page sizes proposal knows pages of one byte (0) and of 65 536 (16, the default).
    ///
    /// # Panics
    ///
    /// With any other number.
    pub const fn with_page_size_log2(self, log2: u8) -> MemoryType {
        assert!(log2 == 0 || log2 == 16, "a page has 2^0 or 2^16 bytes");
        MemoryType {
            page_size_log2: log2,
            ..self
        }
    }

    /// The same with other sizes, in pages.
    pub const fn with_limits(self, minimum: u64, maximum: Option<u64>) -> MemoryType {
        MemoryType {
            minimum,
            maximum,
            ..self
        }
    }

    /// A memory that several threads may use at once, with i32 addresses.
    pub const fn shared(minimum: u64, maximum: u64) -> MemoryType {
        MemoryType::new(minimum, Some(maximum)).with_shared()
    }

    /// The same, but for several threads at once. It needs a maximum: such a memory does not move.
    pub const fn with_shared(self) -> MemoryType {
        MemoryType {
            is_shared: true,
            ..self
        }
    }

    /// Whether several threads may use it at once.
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether its addresses are i64, not i32.
    pub const fn is_64(&self) -> bool {
        self.is_64
    }

    /// The size of its pages in bytes.
    pub const fn page_size(&self) -> u64 {
        1 << self.page_size_log2
    }

    /// The size of its pages in bytes, as a power of two.
    pub const fn page_size_log2(&self) -> u8 {
        self.page_size_log2
    }

    /// The most pages that a memory with such addresses and pages can have, whatever its maximum.
    pub const fn most_pages(&self) -> u64 {
        let address_bits = if self.is_64 { 64 } else { 32 };
        let pages_log2 = address_bits - self.page_size_log2 as u32;
        // A number of pages that addresses cannot tell is one too many.
        match (self.is_64, pages_log2) {
            (true, 64) => u64::MAX,
            (false, 32) => u32::MAX as u64,
            _ => 1 << pages_log2,
        }
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = if self.is_64 { "i64 " } else { "" };
        write!(f, "(memory {address}{}", self.minimum)?;
        if let Some(maximum) = self.maximum {
            write!(f, " {maximum}")?;
        }
        if self.is_shared {
            f.write_str(" shared")?;
        }
        if self.page_size() != MemoryType::PAGE_BYTES {
            write!(f, " (pagesize {})", self.page_size())?;
        }
        f.write_str(")")
    }
}

/// The type of an exception tag: the values that its exceptions carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TagType {
    /// The values, as parameters; there are no results.
    pub signature: FuncType,
}

impl TagType {
    /// A tag whose exceptions carry the parameters of `signature`, which has no results.
    pub const fn new(signature: FuncType) -> TagType {
        TagType { signature }
    }
}

impl fmt::Display for TagType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(tag")?;
        if !self.signature.params().is_empty() {
            f.write_str(" (param")?;
            for ty in self.signature.params() {
                write!(f, " {ty}")?;
            }
            f.write_str(")")?;
        }
        f.write_str(")")
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
    /// An exception tag.
    Tag(TagType),
}

/// One accessor for each kind.
macro_rules! kinds {
    ($($name:ident $unwrap:ident $kind:ident $ty:ident $what:literal),* $(,)?) => {
        impl ExternType {$(
            #[doc = concat!("The type of ", $what, ", if it is one.")]
            pub const fn $name(&self) -> Option<&$ty> {
                match self {
                    ExternType::$kind(ty) => Some(ty),
                    _ => None,
                }
            }

            #[doc = concat!("As [`", stringify!($name), "`](ExternType::", stringify!($name), "), where that is known.")]
            ///
            /// # Panics
            ///
            /// If it is of another kind.
            #[track_caller]
            pub fn $unwrap(&self) -> &$ty {
                match self.$name() {
                    Some(ty) => ty,
                    None => panic!("expected {}, found {self}", $what),
                }
            }
        )*}

        $(impl From<$ty> for ExternType {
            fn from(ty: $ty) -> ExternType {
                ExternType::$kind(ty)
            }
        })*
    };
}

kinds! {
    func unwrap_func Func FuncType "a function",
    table unwrap_table Table TableType "a table",
    memory unwrap_memory Memory MemoryType "a memory",
    global unwrap_global Global GlobalType "a global",
    tag unwrap_tag Tag TagType "a tag",
}

impl fmt::Display for ExternType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExternType::Func(ty) => ty.fmt(f),
            ExternType::Table(ty) => ty.fmt(f),
            ExternType::Memory(ty) => ty.fmt(f),
            ExternType::Global(ty) => ty.fmt(f),
            ExternType::Tag(ty) => ty.fmt(f),
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
        let table = TableType::new(RefType::FUNCREF, 1, Some(2));
        assert_eq!(ExternType::Table(table).to_string(), "(table 1 2 funcref)");
        let table = TableType::new64(RefType::EXTERNREF, 1, None);
        assert_eq!(table.to_string(), "(table i64 1 externref)");
        let tag = TagType::new(FuncType::new([ValType::I32, ValType::EXNREF], []));
        assert_eq!(ExternType::Tag(tag).to_string(), "(tag (param i32 exnref))");
        assert_eq!(MemoryType::new(1, None).to_string(), "(memory 1)");
        assert_eq!(MemoryType::shared(1, 2).to_string(), "(memory 1 2 shared)");
        let bytes = MemoryType::new64(1, Some(2)).with_page_size_log2(0);
        assert_eq!(bytes.to_string(), "(memory i64 1 2 (pagesize 1))");
    }

    #[test]
    fn addresses_and_pages_say_how_large_a_memory_can_be() {
        let of = |ty: MemoryType| ty.most_pages();
        assert_eq!(of(MemoryType::new(0, None)), 1 << 16);
        assert_eq!(of(MemoryType::new64(0, None)), 1 << 48);
        assert_eq!(
            of(MemoryType::new(0, None).with_page_size_log2(0)),
            u32::MAX.into()
        );
        assert_eq!(of(MemoryType::new64(0, None).with_page_size_log2(0)), u64::MAX);
    }
}
