//! Where compiled code finds things: offsets shared with the runtime.
//!
//! ```text
//!   store context    +0 fuel slice, i64     +8 builtin call, code    +16 heap base    +24.. the runtime's
//!   host record      +0 store context       +8 host call, code       +16, +24 the runtime's
//!   vmctx            +0 store context       +8, +16, +24 the runtime's
//!                    then, each 16-aligned, in this order:
//!                    imported functions     16 each: code, context
//!                    memories               16 each: definition, base
//!                    tables                  8 each: definition
//!                    imported globals        8 each: address of a 16-byte cell
//!                    defined globals        16 each: the cell
//!                    type ids                4 each, by type index
//!                    tag ids                 4 each, by tag index
//!                    function records       32 each, for every escaping function
//!   memory           +0 base                +8 length in bytes
//!   table            +0 base                +8 length in elements of 8 bytes
//!   function record  +0 code  +8 context  +16 entry trampoline  +24 type id, u32
//! ```
//!
//! *Escaping* functions are those that something besides a direct call can name: exported, started,
//! in an element segment, in a constant expression or in a `ref.func`. Only they have a record.
//!
//! Invariant: the store context of a context is at the same place in a vmctx and in a host record,
//! so that an entry trampoline need not know which one it is given.

use crate::ValType;

/// Offset in a store context of the slice of fuel that the pinned register is loaded from, an `i64`.
pub const STORE_FUEL: i32 = 0;
/// Offset in a store context of the code that compiled code calls for a [`crate::Builtin`].
pub const STORE_BUILTIN_CALL: i32 = 8;
/// Offset in a store context of the address of the reference heap's region.
pub const STORE_HEAP_BASE: i32 = 16;
/// Offset in an exception of its first value; each takes [`ARG_SLOT_BYTES`].
pub const EXCEPTION_VALUES: i32 = 16;
/// Offset in a vmctx and in a host record of the address of the store context.
pub const CONTEXT_STORE: i32 = 0;
/// Offset in a host record of the code that an import trampoline calls.
pub const HOST_RECORD_CALL: i32 = 8;
/// Size of a host record in bytes.
pub const HOST_RECORD_BYTES: u32 = 32;
/// Size of the fixed part at the start of a vmctx in bytes.
pub const VMCTX_HEADER_BYTES: u32 = 32;

/// Offset in an imported function's entry of its code.
pub const IMPORTED_FUNC_CODE: i32 = 0;
/// Offset in an imported function's entry of its context.
pub const IMPORTED_FUNC_CONTEXT: i32 = 8;
/// Size of an imported function's entry in bytes.
pub const IMPORTED_FUNC_BYTES: u32 = 16;

/// Offset in a memory's entry of the address of its definition.
pub const MEMORY_REF_DEFINITION: i32 = 0;
/// Offset in a memory's entry of a copy of its base. Only valid, and then constant, for a reserved or a shared memory.
pub const MEMORY_REF_BASE: i32 = 8;
/// Size of a memory's entry in bytes.
pub const MEMORY_REF_BYTES: u32 = 16;
/// Offset in a memory's definition of its base.
pub const MEMORY_BASE: i32 = 0;
/// Offset in a memory's definition of its length in bytes, a `u64`.
pub const MEMORY_LENGTH: i32 = 8;

/// Size of a table's entry in bytes.
pub const TABLE_REF_BYTES: u32 = 8;
/// Offset in a table's definition of its base.
pub const TABLE_BASE: i32 = 0;
/// Offset in a table's definition of its length in elements, a `u64`.
pub const TABLE_LENGTH: i32 = 8;
/// Size of a table's element in bytes.
pub const TABLE_ELEMENT_BYTES: u32 = 8;

/// Size of an imported global's entry in bytes.
pub const IMPORTED_GLOBAL_BYTES: u32 = 8;
/// Size of a global's cell in bytes. The value is in the low bytes.
pub const GLOBAL_BYTES: u32 = 16;
/// Size of a type id in bytes.
pub const TYPE_ID_BYTES: u32 = 4;

/// Size of a tag id in bytes: the tag's number in its store.
pub const TAG_ID_BYTES: u32 = 4;

/// Offset in a function record of its code, in the convention of Wasm functions.
pub const FUNC_REF_CODE: i32 = 0;
/// Offset in a function record of its context: the callee's vmctx or a host record.
pub const FUNC_REF_CONTEXT: i32 = 8;
/// Offset in a function record of the entry trampoline of its signature.
pub const FUNC_REF_ENTRY: i32 = 16;
/// Offset in a function record of the id of its type, a `u32`.
pub const FUNC_REF_TYPE_ID: i32 = 24;
/// Size of a function record in bytes.
pub const FUNC_REF_BYTES: u32 = 32;

/// Size of a slot in the arrays of arguments and results in bytes.
pub const ARG_SLOT_BYTES: u32 = 16;

/// The most parameters that [`is_few_integers`] allows.
pub const MAX_REGISTERS: usize = 4;

/// Whether a Wasm function of these types takes and returns all its values in integer registers, in the convention that it has: after
/// its context at most [`MAX_REGISTERS`] parameters, and one result. Types that match each other are alike in this.
///
/// By `CallConv::Tail` of Cranelift, so that the runtime's own code can take the place of the trampolines; an i32 has the low half:
///
/// | | context | parameters | result | kept by who returns |
/// | --- | --- | --- | --- | --- |
/// | x86-64 | rdi | rsi, rdx, rcx, r8 | rax | rbx, rbp, r12 to r14 |
/// | aarch64 | x2 | x3 to x6 | x2 | x19 to x29 but x21 with fuel, d8 to d15 |
pub const fn is_few_integers(params: &[ValType], results: &[ValType]) -> bool {
    const fn are_integers(types: &[ValType]) -> bool {
        let mut at = 0;
        while at < types.len() {
            if !matches!(types[at], ValType::I32 | ValType::I64 | ValType::Ref(_)) {
                return false;
            }
            at += 1;
        }
        true
    }
    params.len() <= MAX_REGISTERS && results.len() <= 1 && are_integers(params) && are_integers(results)
}

/// How many of what a vmctx holds; what a [`VmLayout`] is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmCounts {
    /// Functions, imported and defined.
    pub functions: u32,
    /// Imported functions.
    pub imported_functions: u32,
    /// Memories, imported and defined.
    pub memories: u32,
    /// Tables, imported and defined.
    pub tables: u32,
    /// Imported globals.
    pub imported_globals: u32,
    /// Globals defined in the module.
    pub defined_globals: u32,
    /// Types.
    pub types: u32,
    /// Exception tags, imported and defined.
    pub tags: u32,
}

/// The offsets of one module's vmctx.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmLayout {
    counts: VmCounts,
    /// The escaping functions, ascending; their records lie in this order.
    escaping: Vec<u32>,
    imported_functions: u32,
    memories: u32,
    tables: u32,
    imported_globals: u32,
    defined_globals: u32,
    type_ids: u32,
    tag_ids: u32,
    func_refs: u32,
    size: u32,
}

impl VmLayout {
    /// The layout for so many of everything, with records for the functions in `escaping`, which is
    /// ascending and without repetition.
    pub fn new(counts: VmCounts, escaping: Vec<u32>) -> VmLayout {
        debug_assert!(escaping.is_sorted_by(|a, b| a < b));
        let mut end = VMCTX_HEADER_BYTES;
        // The limits of wasmparser (a million of each) keep the sum below 2^31.
        let mut place = |count: u32, bytes: u32| {
            let start = end;
            end = (start + count * bytes).next_multiple_of(16);
            start
        };
        VmLayout {
            imported_functions: place(counts.imported_functions, IMPORTED_FUNC_BYTES),
            memories: place(counts.memories, MEMORY_REF_BYTES),
            tables: place(counts.tables, TABLE_REF_BYTES),
            imported_globals: place(counts.imported_globals, IMPORTED_GLOBAL_BYTES),
            defined_globals: place(counts.defined_globals, GLOBAL_BYTES),
            type_ids: place(counts.types, TYPE_ID_BYTES),
            tag_ids: place(counts.tags, TAG_ID_BYTES),
            func_refs: place(escaping.len() as u32, FUNC_REF_BYTES),
            size: place(0, 0),
            counts,
            escaping,
        }
    }

    /// How many of what this layout has room for.
    pub fn counts(&self) -> &VmCounts {
        &self.counts
    }

    /// Size of the vmctx in bytes.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Offset of the entry of the imported function with this index.
    pub fn imported_function(&self, index: u32) -> u32 {
        debug_assert!(index < self.counts.imported_functions);
        self.imported_functions + index * IMPORTED_FUNC_BYTES
    }

    /// Offset of the entry of the memory with this index (imports first).
    pub fn memory(&self, index: u32) -> u32 {
        debug_assert!(index < self.counts.memories);
        self.memories + index * MEMORY_REF_BYTES
    }

    /// Offset of the entry of the table with this index (imports first).
    pub fn table(&self, index: u32) -> u32 {
        debug_assert!(index < self.counts.tables);
        self.tables + index * TABLE_REF_BYTES
    }

    /// Offset of the entry of the imported global with this index.
    pub fn imported_global(&self, index: u32) -> u32 {
        debug_assert!(index < self.counts.imported_globals);
        self.imported_globals + index * IMPORTED_GLOBAL_BYTES
    }

    /// Offset of the cell of the global that is defined as the `index`-th (imports not counted).
    pub fn defined_global(&self, index: u32) -> u32 {
        debug_assert!(index < self.counts.defined_globals);
        self.defined_globals + index * GLOBAL_BYTES
    }

    /// Offset of the id of the type with this index.
    pub fn type_id(&self, index: u32) -> u32 {
        debug_assert!(index < self.counts.types);
        self.type_ids + index * TYPE_ID_BYTES
    }

    /// Offset of the id of the exception tag with this index (imports first).
    pub fn tag_id(&self, index: u32) -> u32 {
        debug_assert!(index < self.counts.tags);
        self.tag_ids + index * TAG_ID_BYTES
    }

    /// Offset of the record of the function with this index (imports first), if it escapes.
    pub fn func_ref(&self, function: u32) -> Option<u32> {
        let position = self.escaping.binary_search(&function).ok()?;
        Some(self.func_refs + position as u32 * FUNC_REF_BYTES)
    }

    /// The functions that have a record, ascending, each with the record's offset.
    pub fn func_refs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let offsets = (self.func_refs..).step_by(FUNC_REF_BYTES as usize);
        self.escaping.iter().copied().zip(offsets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_aligned_and_do_not_overlap() {
        let counts = VmCounts {
            functions: 9,
            imported_functions: 3,
            memories: 1,
            tables: 3,
            imported_globals: 1,
            defined_globals: 2,
            types: 5,
            tags: 0,
        };
        let layout = VmLayout::new(counts, vec![1, 8]);
        assert_eq!(layout.imported_function(2), 32 + 32);
        assert_eq!(layout.memory(0), 80);
        assert_eq!(layout.table(2), 96 + 16);
        assert_eq!(layout.imported_global(0), 128);
        assert_eq!(layout.defined_global(1), 144 + 16);
        assert_eq!(layout.type_id(4), 176 + 16);
        assert_eq!(layout.func_ref(1), Some(208));
        assert_eq!(layout.func_ref(8), Some(240));
        assert_eq!(layout.func_ref(0), None);
        assert_eq!(layout.func_refs().collect::<Vec<_>>(), [(1, 208), (8, 240)]);
        assert_eq!(layout.size(), 272);
    }

    #[test]
    fn an_empty_module_has_only_the_header() {
        assert_eq!(
            VmLayout::new(VmCounts::default(), vec![]).size(),
            VMCTX_HEADER_BYTES
        );
    }
}
