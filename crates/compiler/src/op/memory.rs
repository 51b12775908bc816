//! Memory instructions.
//!
//! An access of `size` bytes at `index + offset` is in bounds if `index + offset + size <= length`. The index is
//! 32 bits wide, so the sum is taken in 64 bits and cannot overflow.
//!
//! - *Reserved* memory: behind the base lie 4 GiB that an index alone reaches, and a guard of 2 GiB. If
//!   `offset + size` fits into the guard, the access faults or is in bounds: no check, the offset goes into
//!   the instruction. An offset beyond that is checked.
//! - *Bounded* memory: always checked.
//!
//! Either way the access has a trap code, so that a fault names it.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::immediates::Offset32;
use cranelift_codegen::ir::{InstBuilder, MemFlags, MemFlagsData, Opcode, Type, Value, types};
use wasmparser::MemArg;

use crate::abi::POINTER;
use crate::layout::{MEMORY_BASE, MEMORY_LENGTH, MEMORY_REF_BASE, MEMORY_REF_DEFINITION};
use crate::regions::{self, Region};
use crate::translate::Translator;
use crate::{Builtin, MemoryStyle, MemoryType, TrapCode};

/// The only memory a module can have.
const MEMORY: u32 = 0;

impl Translator<'_> {
    /// `load`, and `loadN` with an extension.
    pub(crate) fn load(&mut self, opcode: Opcode, ty: Type, size: u64, memarg: &MemArg) {
        let index = self.pop();
        let (address, offset) = self.address(index, memarg.offset, size);
        let flags = regions::memory_load(self.b.func);
        let flags = self.intern(flags);
        let (inst, dfg) = self.b.ins().Load(opcode, ty, flags, offset, address);
        let value = dfg.first_result(inst);
        self.push(value);
    }

    /// `store`, and `storeN`.
    pub(crate) fn store(&mut self, opcode: Opcode, size: u64, memarg: &MemArg) {
        let (index, value) = self.pop2();
        let (address, offset) = self.address(index, memarg.offset, size);
        self.keep_earlier_stores(offset, size);
        let flags = regions::memory_store(self.b.func, self.fuel.is_on());
        let flags = self.intern(flags);
        let ty = self.b.func.dfg.value_type(value);
        self.b.ins().Store(opcode, ty, flags, offset, value, address);
    }

    /// Keeps Cranelift from dropping a store that this one overwrites: what then faults is this one, with
    /// more fuel spent. Only stores of the same size and immediate offset can be taken for overwritten.
    fn keep_earlier_stores(&mut self, offset: Offset32, size: u64) {
        if self.fuel.is_on() && !self.stores.insert((offset.into(), size)) {
            self.b.ins().sequence_point();
        }
    }

    fn intern(&mut self, flags: MemFlagsData) -> MemFlags {
        self.b.func.dfg.mem_flags.insert_unchecked(flags)
    }

    /// The address and the immediate offset of an access, checked as the memory's style wants it.
    fn address(&mut self, index: Value, offset: u64, size: u64) -> (Value, Offset32) {
        let index = self.widen(index);
        // A site of its own: widening the index may take in the load that made it, which is another access.
        self.mark_site();
        self.sites.mark_access();
        let in_guard = offset + size <= MemoryStyle::GUARD_BYTES;
        if self.env.settings.memory_style == MemoryStyle::Bounded || !in_guard {
            self.check_bounds(index, offset + size);
        }
        let base = self.memory_base();
        let address = self.b.ins().iadd(base, index);
        match i32::try_from(offset) {
            Ok(offset) => (address, Offset32::new(offset)),
            Err(_) => (self.b.ins().iadd_imm_s(address, offset as i64), Offset32::new(0)),
        }
    }

    /// Traps unless `index + end <= length`.
    fn check_bounds(&mut self, index: Value, end: u64) {
        let end = self.b.ins().iadd_imm_s(index, end as i64);
        let length = self.memory_length(MEMORY);
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, length);
        self.trap_if(beyond, TrapCode::MemoryOutOfBounds);
    }

    fn memory_base(&mut self) -> Value {
        match self.env.settings.memory_style {
            MemoryStyle::Reserved => {
                let flags = Region::Vmctx.anywhere(self.b.func);
                let offset = self.env.info.layout.memory(MEMORY) as i32 + MEMORY_REF_BASE;
                self.b.ins().load(POINTER, flags, self.vmctx, offset)
            }
            MemoryStyle::Bounded => self.memory_field(MEMORY, MEMORY_BASE),
        }
    }

    fn memory_length(&mut self, memory: u32) -> Value {
        self.memory_field(memory, MEMORY_LENGTH)
    }

    /// A field of a memory's definition, which growing changes.
    fn memory_field(&mut self, memory: u32, field: i32) -> Value {
        let flags = Region::Vmctx.anywhere(self.b.func);
        let offset = self.env.info.layout.memory(memory) as i32 + MEMORY_REF_DEFINITION;
        let definition = self.b.ins().load(POINTER, flags, self.vmctx, offset);
        let flags = Region::MemoryDefinition.mutable(self.b.func);
        self.b.ins().load(types::I64, flags, definition, field)
    }

    /// `memory.size`: push the size in pages.
    pub(crate) fn memory_size(&mut self, memory: u32) {
        let length = self.memory_length(memory);
        let pages = self
            .b
            .ins()
            .ushr_imm_u(length, i64::from(MemoryType::PAGE_BYTES.trailing_zeros()));
        let pages = self.b.ins().ireduce(types::I32, pages);
        self.push(pages);
    }

    /// `memory.grow`: pop the pages to add; push the old size, or -1.
    pub(crate) fn memory_grow(&mut self, memory: u32) {
        let delta = self.pop();
        self.builtin(Builtin::MemoryGrow, &[memory], &[delta]);
        let old = self.builtin_result(types::I32);
        self.push(old);
    }

    /// `memory.fill`: pop destination, value and length.
    pub(crate) fn memory_fill(&mut self, memory: u32) {
        let (to, value, length) = self.pop3();
        self.builtin(Builtin::MemoryFill, &[memory], &[to, value, length]);
    }

    /// `memory.copy`: pop destination, source and length.
    pub(crate) fn memory_copy(&mut self, to_memory: u32, from_memory: u32) {
        let (to, from, length) = self.pop3();
        self.builtin(
            Builtin::MemoryCopy,
            &[to_memory, from_memory],
            &[to, from, length],
        );
    }

    /// `memory.init x`: pop destination, offset in the segment, and length.
    pub(crate) fn memory_init(&mut self, memory: u32, segment: u32) {
        let (to, from, length) = self.pop3();
        self.builtin(Builtin::MemoryInit, &[memory, segment], &[to, from, length]);
    }

    /// `data.drop x`
    pub(crate) fn data_drop(&mut self, segment: u32) {
        self.builtin(Builtin::DataDrop, &[segment], &[]);
    }
}
