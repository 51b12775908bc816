//! The blocks that generated code reads and writes, as `repr(C)` structs.
//!
//! Their layout is the compiler's ([`selvedge_compiler::layout`]); the assertions at the end of this file hold the
//! two together. Nothing here owns anything: owners are [`super::store::StoreVm`] and
//! [`super::instance::InstanceVm`].

use super::host::HostFunc;
use super::instance::InstanceVm;
use super::linear::VMMemory;
use super::store::VMStoreContext;

/// One 16-byte slot of an argument or result array: a value in its low bytes, little-endian.
///
/// An `i32`, `f32` or `externref` occupies four bytes and the rest is unspecified.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct ValRaw {
    low: u64,
    high: u64,
}

impl ValRaw {
    pub(crate) const ZERO: ValRaw = ValRaw { low: 0, high: 0 };

    pub(crate) fn from_u64(low: u64) -> ValRaw {
        ValRaw { low, high: 0 }
    }

    pub(crate) fn from_u32(low: u32) -> ValRaw {
        ValRaw::from_u64(u64::from(low))
    }

    pub(crate) fn from_u128(value: u128) -> ValRaw {
        ValRaw {
            low: value as u64,
            high: (value >> 64) as u64,
        }
    }

    pub(crate) fn u128(self) -> u128 {
        u128::from(self.low) | u128::from(self.high) << 64
    }

    pub(crate) fn u64(self) -> u64 {
        self.low
    }

    pub(crate) fn words(self) -> [u64; 2] {
        [self.low, self.high]
    }

    pub(crate) fn from_words([low, high]: [u64; 2]) -> ValRaw {
        ValRaw { low, high }
    }

    /// The low four bytes; generated code leaves the others unspecified.
    pub(crate) fn u32(self) -> u32 {
        self.low as u32
    }
}

/// The context a host function's code is called with, where a guest function gets its vmctx.
#[repr(C)]
pub(crate) struct HostRecord {
    /// The store, at the same place as in a vmctx, so that trampolines need not know which of the two they hold.
    pub(crate) store: *mut VMStoreContext,
    /// [`super::arch::host_call`], in the variant that fits the engine's fuel setting. Called by import trampolines.
    pub(crate) host_call: *const u8,
    /// The monomorphic shim that converts values and catches panics: a [`HostShim`] or a [`RegisterShim`].
    pub(crate) shim: *const u8,
    /// The closure behind the shim; kept alive by `func`.
    pub(crate) closure: *const (),
    /// The instance that imported the function; null when the host calls it through a handle.
    pub(crate) instance: *mut InstanceVm,
    /// Kept alive by the owner of this record.
    pub(crate) func: *const HostFunc,
}

impl HostRecord {
    /// The function's shim for values in slots, however guests call it.
    ///
    /// # Safety
    /// `record` is a live record.
    pub(crate) unsafe fn slot_shim(record: *const HostRecord) -> HostShim {
        // SAFETY: the caller's promise; a plain word.
        let func = unsafe { (*record).func };
        // SAFETY: kept alive by the record's owner.
        unsafe { (*func).shim }
    }
}

/// Runs a host function on the host's stack: arguments in the slots, results into the same slots.
///
/// Returns [`super::arch::DONE`], [`super::arch::EXIT`] (the reason is in the store) or
/// [`super::arch::SUSPEND`].
pub(crate) type HostShim = unsafe extern "C" fn(*mut HostRecord, *mut ValRaw) -> u64;

/// The same with up to four values in registers, as bits; and slots, for the result of a call that parks.
pub(crate) type RegisterShim =
    unsafe extern "C" fn(*mut HostRecord, u64, u64, u64, u64, *mut ValRaw) -> Answer;

/// What a [`RegisterShim`] answers, in two registers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Answer {
    /// As of a [`HostShim`].
    pub(crate) word: u64,
    /// The result's bits, when it is [`super::arch::DONE`].
    pub(crate) bits: u64,
}

/// What a `funcref` points to.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct VMFuncRef {
    /// Code in the `tail` convention.
    pub(crate) code: *const u8,
    /// The vmctx or [`HostRecord`] to pass.
    pub(crate) ctx: *mut u8,
    /// The entry trampoline of the signature.
    pub(crate) entry: *const u8,
    /// The process-wide number of the signature.
    pub(crate) type_id: u32,
}

/// An imported function as a vmctx holds it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct VMImportedFunc {
    pub(crate) code: *const u8,
    pub(crate) ctx: *mut u8,
}

/// A memory as a vmctx holds it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct VMMemoryRef {
    pub(crate) def: *mut VMMemory,
    /// A copy of the definition's base; only used in the reserved style, where it never changes.
    pub(crate) base: *mut u8,
}

/// A table's elements and their number.
#[repr(C)]
pub(crate) struct VMTable {
    pub(crate) base: *mut u64,
    pub(crate) length: u64,
}

const _: () = {
    use selvedge_compiler::layout;
    use std::mem::offset_of;
    assert!(offset_of!(VMStoreContext, fuel) == layout::STORE_FUEL as usize);
    assert!(offset_of!(VMStoreContext, builtin_call) == layout::STORE_BUILTIN_CALL as usize);
    assert!(offset_of!(VMStoreContext, heap_base) == layout::STORE_HEAP_BASE as usize);
    assert!(offset_of!(HostRecord, store) == layout::CONTEXT_STORE as usize);
    assert!(offset_of!(HostRecord, host_call) == layout::HOST_RECORD_CALL as usize);
    assert!(offset_of!(VMImportedFunc, code) == layout::IMPORTED_FUNC_CODE as usize);
    assert!(offset_of!(VMImportedFunc, ctx) == layout::IMPORTED_FUNC_CONTEXT as usize);
    assert!(size_of::<VMImportedFunc>() == layout::IMPORTED_FUNC_BYTES as usize);
    assert!(offset_of!(VMMemoryRef, def) == layout::MEMORY_REF_DEFINITION as usize);
    assert!(offset_of!(VMMemoryRef, base) == layout::MEMORY_REF_BASE as usize);
    assert!(size_of::<VMMemoryRef>() == layout::MEMORY_REF_BYTES as usize);
    assert!(offset_of!(VMTable, base) == layout::TABLE_BASE as usize);
    assert!(offset_of!(VMTable, length) == layout::TABLE_LENGTH as usize);
    assert!(offset_of!(VMFuncRef, code) == layout::FUNC_REF_CODE as usize);
    assert!(offset_of!(VMFuncRef, ctx) == layout::FUNC_REF_CONTEXT as usize);
    assert!(offset_of!(VMFuncRef, entry) == layout::FUNC_REF_ENTRY as usize);
    assert!(offset_of!(VMFuncRef, type_id) == layout::FUNC_REF_TYPE_ID as usize);
    assert!(size_of::<VMFuncRef>() == layout::FUNC_REF_BYTES as usize);
    assert!(size_of::<ValRaw>() == layout::ARG_SLOT_BYTES as usize);
};
