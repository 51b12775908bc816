//! Why a guest stopped.
//!
//! The numbers are those of [`selvedge_compiler::TrapCode`]: what compiled code and the signal handler write into
//! the store is such a number, and `Trap` is how the embedder sees it. A trap is a value; where it happened is the
//! [`WasmBacktrace`](crate::WasmBacktrace) beside it in the [`Error`](crate::Error).

use selvedge_compiler::TrapCode;
use std::fmt;

/// Why a guest stopped: the guest's own fault, told apart from errors of the host.
///
/// After a trap the instance stays usable; what the guest wrote before it stays written. Found in an error by
/// `error.downcast_ref::<Trap>()`, through any number of contexts. The numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Trap {
    /// The guest ran into the guard at the limit of its stack. At which depth depends on the processor.
    StackOverflow = 1,
    /// Fuel reached zero and the store's policy is to trap. Fuel left: 0, never negative.
    OutOfFuel = 2,
    /// A load, a store or a bulk operation reached beyond the end of a linear memory.
    MemoryOutOfBounds = 3,
    /// A table operation or an indirect call named an element beyond the end of a table.
    TableOutOfBounds = 4,
    /// An indirect call named an element that is null.
    IndirectCallToNull = 5,
    /// An indirect call expected another signature than its callee has.
    BadSignature = 6,
    /// The quotient of the lowest integer by -1, or a float too large for the integer type it is converted to.
    IntegerOverflow = 7,
    /// An integer division or remainder by zero.
    IntegerDivisionByZero = 8,
    /// A conversion of NaN to an integer.
    BadConversionToInteger = 9,
    /// The guest executed `unreachable`.
    Unreachable = 10,
    /// The guest was asked to stop, or its time was over.
    Interrupt = 11,
    /// A null where a reference is needed: called by reference, or asserted not to be null.
    NullReference = 12,
    /// An atomic access at an address that is not a multiple of its size.
    UnalignedAtomic = 13,
    /// The guest waits on a memory that is not shared: nobody could wake it.
    ExpectedSharedMemory = 14,
}

impl Trap {
    /// Every trap, in the order of the numbers.
    pub const ALL: [Trap; 14] = [
        Trap::StackOverflow,
        Trap::OutOfFuel,
        Trap::MemoryOutOfBounds,
        Trap::TableOutOfBounds,
        Trap::IndirectCallToNull,
        Trap::BadSignature,
        Trap::IntegerOverflow,
        Trap::IntegerDivisionByZero,
        Trap::BadConversionToInteger,
        Trap::Unreachable,
        Trap::Interrupt,
        Trap::NullReference,
        Trap::UnalignedAtomic,
        Trap::ExpectedSharedMemory,
    ];

    /// The trap with this number, as compiled code and the signal handler write it; none for 0 and for unknown ones.
    pub(crate) fn from_code(code: u32) -> Option<Trap> {
        Trap::ALL.get(code.checked_sub(1)? as usize).copied()
    }

    /// The specification's words where it has some.
    fn words(self) -> &'static str {
        match self {
            Trap::StackOverflow => "call stack exhausted",
            Trap::OutOfFuel => "all fuel consumed",
            Trap::MemoryOutOfBounds => "out of bounds memory access",
            // The specification says "undefined element" of calls and "out of bounds table access" of the rest.
            Trap::TableOutOfBounds => "undefined element: out of bounds table access",
            Trap::IndirectCallToNull => "uninitialized element",
            Trap::BadSignature => "indirect call type mismatch",
            Trap::IntegerOverflow => "integer overflow",
            Trap::IntegerDivisionByZero => "integer divide by zero",
            Trap::BadConversionToInteger => "invalid conversion to integer",
            Trap::Unreachable => "unreachable",
            Trap::Interrupt => "interrupted",
            // The specification says "null function reference" of calls and "null reference" of the rest.
            Trap::NullReference => "null function reference: null reference",
            Trap::UnalignedAtomic => "unaligned atomic",
            Trap::ExpectedSharedMemory => "expected shared memory",
        }
    }
}

impl From<TrapCode> for Trap {
    /// # Panics
    /// For a code that the compiler has and this crate does not: a mistake of ours that the tests exclude.
    fn from(code: TrapCode) -> Trap {
        let number = code as u32;
        Trap::from_code(number).unwrap_or_else(|| panic!("trap code {number} has no `Trap`"))
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl std::error::Error for Trap {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_compilers() {
        for trap in Trap::ALL {
            let code = TrapCode::from_u8(trap as u8).expect("the compiler knows the number");
            assert_eq!(Trap::from(code), trap);
            assert_eq!(
                format!("{code:?}"),
                format!("{trap:?}"),
                "one name for one number"
            );
        }
    }

    #[test]
    fn every_code_of_the_compiler_has_a_trap() {
        for number in 0..=u8::MAX {
            let known = TrapCode::from_u8(number).is_some();
            assert_eq!(
                known,
                Trap::from_code(number.into()).is_some(),
                "trap code {number}"
            );
        }
    }

    #[test]
    fn unknown_numbers_are_no_trap() {
        assert_eq!(Trap::from_code(0), None);
        assert_eq!(Trap::from_code(Trap::ALL.len() as u32 + 1), None);
        assert_eq!(Trap::from_code(u32::MAX), None);
    }

    #[test]
    fn words_are_the_specifications() {
        assert_eq!(Trap::MemoryOutOfBounds.to_string(), "out of bounds memory access");
        assert_eq!(Trap::IntegerDivisionByZero.to_string(), "integer divide by zero");
    }
}
