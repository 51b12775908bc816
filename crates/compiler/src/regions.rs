//! What kinds of memory code touches, and what Cranelift may assume of an access to each.
//!
//! Accesses in different regions never alias. Only what never moves and never changes while a
//! function runs is `readonly` and `can_move` (and so may be hoisted out of a loop).

use std::borrow::Cow;

use cranelift_codegen::ir::{AliasRegionData, Function, MemFlagsData, TrapCode as ClifTrap};

use crate::TrapCode;

/// A kind of memory. The discriminant is the region's id in CLIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Region {
    /// The vmctx itself, globals aside: constant.
    Vmctx = 0,
    /// The store context.
    Store = 1,
    /// The bytes of linear memories.
    Memory = 2,
    /// Bases and lengths of memories.
    MemoryDefinition = 3,
    /// The elements of tables.
    Table = 4,
    /// Bases and lengths of tables.
    TableDefinition = 5,
    /// Cells of globals.
    Global = 6,
    /// Function records: constant, but only there if the pointer is not null.
    FuncRef = 7,
    /// Arrays of arguments and results.
    Args = 8,
    /// Objects of the reference heap.
    Heap = 9,
}

impl Region {
    fn description(self) -> &'static str {
        match self {
            Region::Vmctx => "vmctx",
            Region::Store => "store",
            Region::Memory => "memory",
            Region::MemoryDefinition => "memory definition",
            Region::Table => "table",
            Region::TableDefinition => "table definition",
            Region::Global => "global",
            Region::FuncRef => "function record",
            Region::Args => "arguments",
            Region::Heap => "reference heap",
        }
    }

    fn flags(self, func: &mut Function, flags: MemFlagsData) -> MemFlagsData {
        let description = Cow::Borrowed(self.description());
        let data = AliasRegionData {
            user_id: self as u32,
            description,
        };
        flags.with_alias_region(Some(func.dfg.alias_regions.insert(data)))
    }

    /// An aligned access that cannot fault, to what may change.
    pub(crate) fn mutable(self, func: &mut Function) -> MemFlagsData {
        self.flags(func, MemFlagsData::trusted())
    }

    /// An aligned load of what never changes, at an address that is valid where the load stands.
    pub(crate) fn constant(self, func: &mut Function) -> MemFlagsData {
        self.flags(func, MemFlagsData::trusted().with_readonly())
    }

    /// An aligned load of what never changes, at an address that is valid throughout the function.
    pub(crate) fn anywhere(self, func: &mut Function) -> MemFlagsData {
        self.flags(func, MemFlagsData::trusted().with_readonly().with_can_move())
    }
}

/// The trap code that marks the faults of stores where they must be told from those of loads.
const STORE_TRAP: u8 = 64;
/// The trap code of checks of fuel, where they are traps to Cranelift: see `crates/compiler/src/cold.rs`.
pub(crate) const FUEL_CHECK: ClifTrap = ClifTrap::unwrap_user(63);
/// The first of the trap codes that number a function's loads, where their fuel counts.
const FIRST_LOAD_TRAP: u8 = 65;
/// How many of those codes there are. Cranelift's own begin behind them.
const LOAD_TRAPS: u8 = 185;

/// Cranelift's code for a trap.
pub(crate) fn clif_trap(trap: TrapCode) -> ClifTrap {
    ClifTrap::unwrap_user(trap as u8)
}

/// A load of linear memory: any alignment, traps by a fault.
pub(crate) fn memory_load(func: &mut Function) -> MemFlagsData {
    let flags = MemFlagsData::new().with_trap_code(Some(clif_trap(TrapCode::MemoryOutOfBounds)));
    Region::Memory.flags(func, flags)
}

/// As [`memory_load`], and its trap code says which of the function's accesses it is, as far as there are codes: once the
/// optimiser has moved and rewritten what uses the value, a location no longer does.
pub(crate) fn numbered_load(func: &mut Function, access: usize) -> MemFlagsData {
    let code = FIRST_LOAD_TRAP + (access % usize::from(LOAD_TRAPS)) as u8;
    memory_load(func).with_trap_code(Some(ClifTrap::unwrap_user(code)))
}

/// The numbers of the accesses that a trap code stands for, ascending without end; None where it does not say.
pub(crate) fn accesses_of(clif: ClifTrap) -> Option<impl Iterator<Item = usize>> {
    let number = clif.as_raw().get().checked_sub(FIRST_LOAD_TRAP)?;
    let step = usize::from(LOAD_TRAPS);
    (number < LOAD_TRAPS).then(|| (usize::from(number)..).step_by(step))
}

/// A store to linear memory: any alignment, traps by a fault.
///
/// With `apart`, its trap code differs from a load's. Cranelift makes one instruction of a load, an
/// operation and a store of the same address only if their flags are equal: such an instruction faults as
/// the load but has the place of the store. Where the exact fuel of a fault counts, that may not be.
pub(crate) fn memory_store(func: &mut Function, apart: bool) -> MemFlagsData {
    let flags = memory_load(func);
    match apart {
        true => flags.with_trap_code(Some(ClifTrap::unwrap_user(STORE_TRAP))),
        false => flags,
    }
}

/// A load from a function record that faults if the record's address is null: that is the trap.
pub(crate) fn null_check(func: &mut Function, trap: TrapCode) -> MemFlagsData {
    let flags = MemFlagsData::new()
        .with_aligned()
        .with_readonly()
        .with_trap_code(Some(clif_trap(trap)));
    Region::FuncRef.flags(func, flags)
}

/// The trap of one of Cranelift's codes, its own included.
pub(crate) fn trap_of(clif: ClifTrap) -> Option<TrapCode> {
    match clif {
        ClifTrap::STACK_OVERFLOW => Some(TrapCode::StackOverflow),
        ClifTrap::INTEGER_OVERFLOW => Some(TrapCode::IntegerOverflow),
        ClifTrap::HEAP_OUT_OF_BOUNDS => Some(TrapCode::MemoryOutOfBounds),
        ClifTrap::INTEGER_DIVISION_BY_ZERO => Some(TrapCode::IntegerDivisionByZero),
        ClifTrap::BAD_CONVERSION_TO_INTEGER => Some(TrapCode::BadConversionToInteger),
        other => match other.as_raw().get() {
            STORE_TRAP => Some(TrapCode::MemoryOutOfBounds),
            raw if (FIRST_LOAD_TRAP..FIRST_LOAD_TRAP + LOAD_TRAPS).contains(&raw) => {
                Some(TrapCode::MemoryOutOfBounds)
            }
            raw => TrapCode::from_u8(raw),
        },
    }
}
