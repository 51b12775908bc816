//! What compiled code asks the runtime to do, by number.

/// An operation that compiled code leaves to the runtime.
///
/// It is called as `builtin_call(vmctx, args, id)`; `args` is an array of 16-byte slots. Every
/// operand is a `u64` in the low bytes of its slot, in the order given here, a reference as in a table
/// element; the result, if there is one, is put into slot 0. A trap does not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Builtin {
    /// (memory, delta in pages) -> old size in pages, or -1.
    MemoryGrow = 0,
    /// (memory, destination, value, length)
    MemoryFill = 1,
    /// (destination memory, source memory, destination, source, length)
    MemoryCopy = 2,
    /// (memory, data segment, destination, source, length)
    MemoryInit = 3,
    /// (data segment)
    DataDrop = 4,
    /// (table, initial value, delta) -> old size, or -1.
    TableGrow = 5,
    /// (table, start, value, length)
    TableFill = 6,
    /// (destination table, source table, destination, source, length)
    TableCopy = 7,
    /// (table, element segment, destination, source, length)
    TableInit = 8,
    /// (element segment)
    ElemDrop = 9,
    /// (tag, values..), the values as in the slots of a call. Does not come back: a handler goes on, or the activation ends.
    Throw = 10,
    /// (exception). As `Throw`; a null traps.
    ThrowRef = 11,
    /// (memory, index, offset, expected i32, timeout in nanoseconds, none if negative) -> how it ended: see the operator.
    MemoryAtomicWait32 = 12,
    /// As `MemoryAtomicWait32`, of an i64.
    MemoryAtomicWait64 = 13,
    /// (memory, index, offset, most to wake) -> how many were woken.
    MemoryAtomicNotify = 14,
}

impl Builtin {
    /// Every builtin, in the order of the numbers.
    pub const ALL: [Builtin; 15] = [
        Builtin::MemoryGrow,
        Builtin::MemoryFill,
        Builtin::MemoryCopy,
        Builtin::MemoryInit,
        Builtin::DataDrop,
        Builtin::TableGrow,
        Builtin::TableFill,
        Builtin::TableCopy,
        Builtin::TableInit,
        Builtin::ElemDrop,
        Builtin::Throw,
        Builtin::ThrowRef,
        Builtin::MemoryAtomicWait32,
        Builtin::MemoryAtomicWait64,
        Builtin::MemoryAtomicNotify,
    ];

    /// The most operands that any builtin takes.
    pub const MAX_OPERANDS: u32 = 5;

    /// The builtin of a number, if it is one.
    pub fn from_u32(id: u32) -> Option<Builtin> {
        Self::ALL.get(id as usize).copied()
    }
}
