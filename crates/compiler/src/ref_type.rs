//! Reference types, and what fits where: subtyping.
//!
//! ```text
//!   (ref null func)  funcref          (ref null extern)  externref        (ref null exn)  exnref
//!         |                                  |                                   |
//!   (ref null (func ..)), each signature     |                                   |
//!         |                                  |                                   |
//!   (ref null nofunc)                 (ref null noextern)                 (ref null noexn)
//! ```
//!
//! A type fits where one above it in its column is asked for, and one that is not nullable where a nullable one is.
//! Spec: core/valid/matching.

use std::fmt;

use crate::FuncTypeId;

/// The type of a reference: what it refers to, and whether it may be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RefType {
    nullable: bool,
    heap: HeapType,
}

impl RefType {
    /// A function of any signature, or null.
    pub const FUNCREF: RefType = RefType::new(true, HeapType::Func);
    /// Something of the host's, or null.
    pub const EXTERNREF: RefType = RefType::new(true, HeapType::Extern);
    /// An exception, or null.
    pub const EXNREF: RefType = RefType::new(true, HeapType::Exn);
    /// The null that fits every nullable type of functions.
    pub const NULLFUNCREF: RefType = RefType::new(true, HeapType::NoFunc);
    /// The null that fits every nullable type of things of the host's.
    pub const NULLEXTERNREF: RefType = RefType::new(true, HeapType::NoExtern);
    /// The null that fits every nullable type of exceptions.
    pub const NULLEXNREF: RefType = RefType::new(true, HeapType::NoExn);

    /// A type of references to `heap`, or null if that is allowed.
    pub const fn new(nullable: bool, heap: HeapType) -> RefType {
        RefType { nullable, heap }
    }

    /// Whether null is a value of it.
    pub const fn is_nullable(&self) -> bool {
        self.nullable
    }

    /// What its references refer to.
    pub const fn heap_type(&self) -> HeapType {
        self.heap
    }

    /// Whether these refer into the store's heap, 32 bits wide: then frames that hold them say so in stack maps.
    pub const fn is_heap_reference(&self) -> bool {
        !matches!(self.heap.top(), HeapType::Func)
    }

    /// Whether a value of this type may be used where `other` is asked for.
    pub fn matches(&self, other: &RefType) -> bool {
        (other.nullable || !self.nullable) && self.heap.matches(&other.heap)
    }
}

impl fmt::Display for RefType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nullable, self.heap) {
            (true, HeapType::Func) => f.write_str("funcref"),
            (true, HeapType::NoFunc) => f.write_str("nullfuncref"),
            (true, HeapType::Extern) => f.write_str("externref"),
            (true, HeapType::NoExtern) => f.write_str("nullexternref"),
            (true, HeapType::Exn) => f.write_str("exnref"),
            (true, HeapType::NoExn) => f.write_str("nullexnref"),
            (true, heap) => write!(f, "(ref null {heap})"),
            (false, heap) => write!(f, "(ref {heap})"),
        }
    }
}

/// What a reference refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeapType {
    /// A function of any signature.
    Func,
    /// A function of this signature: [`FuncType::id`](crate::FuncType::id). The name keeps no signature alive.
    ConcreteFunc(FuncTypeId),
    /// No function.
    NoFunc,
    /// Something of the host's.
    Extern,
    /// Nothing of the host's.
    NoExtern,
    /// An exception.
    Exn,
    /// No exception.
    NoExn,
}

impl HeapType {
    /// The type above it that has none above: how its references are represented goes by that.
    pub const fn top(&self) -> HeapType {
        match self {
            HeapType::Func | HeapType::ConcreteFunc(_) | HeapType::NoFunc => HeapType::Func,
            HeapType::Extern | HeapType::NoExtern => HeapType::Extern,
            HeapType::Exn | HeapType::NoExn => HeapType::Exn,
        }
    }

    /// Whether a reference to this may be used where one to `other` is asked for.
    pub fn matches(&self, other: &HeapType) -> bool {
        self == other
            || match self {
                HeapType::ConcreteFunc(_) => *other == HeapType::Func,
                HeapType::NoFunc => other.top() == HeapType::Func,
                HeapType::NoExtern => *other == HeapType::Extern,
                HeapType::NoExn => *other == HeapType::Exn,
                HeapType::Func | HeapType::Extern | HeapType::Exn => false,
            }
    }
}

impl fmt::Display for HeapType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeapType::Func => "func",
            HeapType::ConcreteFunc(id) => return id.write(f),
            HeapType::NoFunc => "nofunc",
            HeapType::Extern => "extern",
            HeapType::NoExtern => "noextern",
            HeapType::Exn => "exn",
            HeapType::NoExn => "noexn",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FuncType, ValType};

    fn signature(ty: ValType) -> FuncType {
        FuncType::new([ty], [])
    }

    #[test]
    fn types_fit_where_one_above_is_asked_for() {
        let (one, other) = (signature(ValType::I32), signature(ValType::I64));
        let (one, other) = (
            HeapType::ConcreteFunc(one.id()),
            HeapType::ConcreteFunc(other.id()),
        );
        assert!(one.matches(&one) && one.matches(&HeapType::Func));
        assert!(HeapType::NoFunc.matches(&one) && HeapType::NoFunc.matches(&HeapType::Func));
        assert!(!one.matches(&other) && !HeapType::Func.matches(&one) && !one.matches(&HeapType::NoFunc));
        assert!(!HeapType::NoFunc.matches(&HeapType::Extern) && !HeapType::Extern.matches(&HeapType::Func));
    }

    #[test]
    fn a_null_does_not_fit_where_none_is_allowed() {
        let nullable = RefType::FUNCREF;
        let not = RefType::new(false, HeapType::Func);
        assert!(not.matches(&nullable) && !nullable.matches(&not) && not.matches(&not));
        assert!(!RefType::NULLFUNCREF.matches(&not));
    }

    #[test]
    fn references_print_as_in_the_text_format() {
        assert_eq!(RefType::new(false, HeapType::Func).to_string(), "(ref func)");
        assert_eq!(RefType::EXNREF.to_string(), "exnref");
        let ty = signature(ValType::I32);
        assert_eq!(
            RefType::new(true, HeapType::ConcreteFunc(ty.id())).to_string(),
            "(ref null (func (param i32)))"
        );
    }
}
