//! Why guest code stops: the codes that sites and stubs of an image carry.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a guest stopped. The numbers are part of the image's format and of the stubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum TrapCode {
    /// The guest ran into the guard of its stack.
    StackOverflow = 1,
    /// Fuel ran out.
    OutOfFuel = 2,
    /// An access beyond the end of a linear memory.
    MemoryOutOfBounds = 3,
    /// An access beyond the end of a table.
    TableOutOfBounds = 4,
    /// An indirect call of a null element.
    IndirectCallToNull = 5,
    /// An indirect call of a function of another signature.
    BadSignature = 6,
    /// A result that does not fit: the least integer divided by minus one, or a float too large.
    IntegerOverflow = 7,
    /// An integer divided by zero.
    IntegerDivisionByZero = 8,
    /// A NaN converted to an integer.
    BadConversionToInteger = 9,
    /// The `unreachable` operator.
    Unreachable = 10,
    /// The host interrupted the guest.
    Interrupt = 11,
    /// A null where a reference is needed.
    NullReference = 12,
    /// An atomic access at an address that is not a multiple of its size.
    UnalignedAtomic = 13,
    /// A wait on a memory that is not shared.
    ExpectedSharedMemory = 14,
}

impl TrapCode {
    /// Every code, in the order of the numbers.
    pub const ALL: [TrapCode; 14] = [
        TrapCode::StackOverflow,
        TrapCode::OutOfFuel,
        TrapCode::MemoryOutOfBounds,
        TrapCode::TableOutOfBounds,
        TrapCode::IndirectCallToNull,
        TrapCode::BadSignature,
        TrapCode::IntegerOverflow,
        TrapCode::IntegerDivisionByZero,
        TrapCode::BadConversionToInteger,
        TrapCode::Unreachable,
        TrapCode::Interrupt,
        TrapCode::NullReference,
        TrapCode::UnalignedAtomic,
        TrapCode::ExpectedSharedMemory,
    ];

    /// The code of a number, if it is one.
    pub const fn from_u8(number: u8) -> Option<TrapCode> {
        match number {
            1..=14 => Some(Self::ALL[number as usize - 1]),
            _ => None,
        }
    }
}

impl fmt::Display for TrapCode {
    /// The words of the specification's test suite.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrapCode::StackOverflow => "call stack exhausted",
            TrapCode::OutOfFuel => "all fuel consumed",
            TrapCode::MemoryOutOfBounds => "out of bounds memory access",
            TrapCode::TableOutOfBounds => "out of bounds table access",
            TrapCode::IndirectCallToNull => "uninitialized element",
            TrapCode::BadSignature => "indirect call type mismatch",
            TrapCode::IntegerOverflow => "integer overflow",
            TrapCode::IntegerDivisionByZero => "integer divide by zero",
            TrapCode::BadConversionToInteger => "invalid conversion to integer",
            TrapCode::Unreachable => "unreachable",
            TrapCode::Interrupt => "interrupt",
            TrapCode::NullReference => "null reference",
            TrapCode::UnalignedAtomic => "unaligned atomic",
            TrapCode::ExpectedSharedMemory => "expected shared memory",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_correspond() {
        for (i, code) in TrapCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, i + 1);
            assert_eq!(TrapCode::from_u8(code as u8), Some(code));
        }
        assert_eq!(TrapCode::from_u8(0), None);
        assert_eq!(TrapCode::from_u8(TrapCode::ALL.len() as u8 + 1), None);
    }
}
