//! Memory instructions.
//!
//! An access of `size` bytes at `index + offset` is in bounds if `index + offset + size <= length`. Where the index is
//! 32 bits wide, the sum is taken in 64 bits and cannot overflow; where it is 64 bits wide, the check sees to it.
//!
//! - *Reserved* memory: behind the base lie 4 GiB that an index alone reaches, and a guard of 2 GiB. If
//!   `offset + size` fits into the guard, the access faults or is in bounds: no check, the offset goes into
//!   the instruction. An offset beyond that is checked.
//! - *Bounded* memory, and any with 64-bit indices or pages of one byte: checked, unless an earlier check or the index itself tells that
//!   it is in bounds (`crates/compiler/src/bounds.rs`).
//!
//! Either way the access has a trap code, so that a fault names it.

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::immediates::Offset32;
use cranelift_codegen::ir::{Inst, InstBuilder, MemFlags, MemFlagsData, Opcode, Type, Value, types};
use cranelift_frontend::Variable;
use wasmparser::{FunctionBody, MemArg, MemArgTarget};

use crate::abi::{POINTER, address_type};
use crate::bounds;
use crate::layout::{MEMORY_BASE, MEMORY_LENGTH, MEMORY_REF_BASE, MEMORY_REF_DEFINITION};
use crate::loops::{Loops, Open};
use crate::regions::{self, Region};
use crate::translate::Translator;
use crate::{Builtin, MemoryStyle, MemoryType, TrapCode};

/// The memory that an operator accesses.
pub(crate) fn memory_of(memarg: &MemArg) -> u32 {
    match memarg.target {
        MemArgTarget::Memory(memory) => memory,
        MemArgTarget::Array(_) => unreachable!("refused by validation: garbage collection"),
    }
}

impl Translator<'_> {
    /// `load`, and `loadN` with an extension.
    pub(crate) fn load(&mut self, opcode: Opcode, ty: Type, size: u64, memarg: &MemArg) {
        let index = self.pop();
        let value = self.load_at(index, opcode, ty, size, memarg);
        self.push(value);
    }

    /// What a load at an index loads.
    pub(crate) fn load_at(
        &mut self,
        index: Value,
        opcode: Opcode,
        ty: Type,
        size: u64,
        memarg: &MemArg,
    ) -> Value {
        let (address, offset) = self.address(index, memarg, size);
        let flags = match self.fuel.is_on() {
            true => regions::numbered_load(self.b.func, self.sites.last_access()),
            false => regions::memory_load(self.b.func),
        };
        let flags = self.intern(flags);
        let (inst, dfg) = self.b.ins().Load(opcode, ty, flags, offset, address);
        dfg.first_result(inst)
    }

    /// `store`, and `storeN`.
    pub(crate) fn store(&mut self, opcode: Opcode, size: u64, memarg: &MemArg) {
        let (index, value) = self.pop2();
        self.store_at(index, value, opcode, size, memarg);
    }

    /// Stores a value at an index.
    pub(crate) fn store_at(
        &mut self,
        index: Value,
        value: Value,
        opcode: Opcode,
        size: u64,
        memarg: &MemArg,
    ) {
        let (address, offset) = self.address(index, memarg, size);
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

    /// The address and the immediate offset of an access, checked as the memory's style wants it, and a site of its own
    /// for its trap. Every access of an operator goes through here.
    pub(crate) fn address(&mut self, index: Value, memarg: &MemArg, size: u64) -> (Value, Offset32) {
        let memory = memory_of(memarg);
        let narrow = self.b.func.dfg.resolve_aliases(index);
        let index = self.widen(index);
        // A site of its own: widening the index may take in the load that made it, which is another access.
        self.mark_site();
        self.sites.mark_access();
        let end = memarg.offset.checked_add(size);
        let in_guard = end.is_some_and(|end| end <= MemoryStyle::GUARD_BYTES);
        if self.memory_style(memory) == MemoryStyle::Bounded || !in_guard {
            match end {
                Some(end) if self.is_in_bounds(memory, narrow, end) => {}
                Some(end) => {
                    self.check_bounds(memory, index, Some(end));
                    self.bounds.learn(memory, narrow, end);
                }
                None => self.check_bounds(memory, index, None),
            }
        }
        let base = self.memory_base(memory);
        let address = self.b.ins().iadd(base, index);
        match i32::try_from(memarg.offset) {
            Ok(offset) => (address, Offset32::new(offset)),
            Err(_) => (
                self.b.ins().iadd_imm_s(address, memarg.offset as i64),
                Offset32::new(0),
            ),
        }
    }

    /// Whether `index + end` is known to lie within a memory.
    fn is_in_bounds(&self, memory: u32, index: Value, end: u64) -> bool {
        let least = self.least_length(memory);
        let most = bounds::most(&self.b.func.dfg, index).checked_add(end);
        most.is_some_and(|most| most <= least) || self.bounds.are_known(memory, index, end)
    }

    /// Traps unless `index + end <= length`. No `end`: it lies beyond all addresses.
    fn check_bounds(&mut self, memory: u32, index: Value, end: Option<u64>) {
        let last = end.and_then(|end| self.last_index(memory, end));
        let beyond = match (last, end) {
            (Some(last), _) => self.b.ins().icmp(IntCC::UnsignedGreaterThan, index, last),
            (None, end) => self.is_beyond(memory, index, end),
        };
        self.trap_if(beyond, TrapCode::MemoryOutOfBounds);
    }

    /// Whether `index + end > length`.
    fn is_beyond(&mut self, memory: u32, index: Value, end: Option<u64>) -> Value {
        match end {
            None => self.b.ins().iconst(types::I8, 1),
            Some(end) if self.memory_type(memory).is_64() => self.is_beyond64(memory, index, end),
            Some(end) => {
                // At most 2^33 and a bit: no overflow.
                let end = self.b.ins().iadd_imm_s(index, end as i64);
                let length = self.memory_length(memory);
                self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, length)
            }
        }
    }

    /// Whether `index + end > length` where the sum may overflow.
    fn is_beyond64(&mut self, memory: u32, index: Value, end: u64) -> Value {
        let length = self.memory_length(memory);
        if end <= self.least_length(memory) {
            // The difference is not negative.
            let last = self.b.ins().iadd_imm_s(length, (end as i64).wrapping_neg());
            return self.b.ins().icmp(IntCC::UnsignedGreaterThan, index, last);
        }
        let end = self.b.ins().iadd_imm_s(index, end as i64);
        let overflows = self.b.ins().icmp(IntCC::UnsignedLessThan, end, index);
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, length);
        self.b.ins().bor(overflows, beyond)
    }

    fn memory_type(&self, memory: u32) -> MemoryType {
        self.env.info.memories[memory as usize]
    }

    /// What the length in bytes is never below.
    fn least_length(&self, memory: u32) -> u64 {
        let ty = self.memory_type(memory);
        ty.minimum.saturating_mul(ty.page_size())
    }

    fn memory_style(&self, memory: u32) -> MemoryStyle {
        self.env.settings.memory_style.of(&self.memory_type(memory))
    }

    fn memory_base(&mut self, memory: u32) -> Value {
        // A shared memory never moves either.
        let style = match self.memory_type(memory).is_shared() {
            true => MemoryStyle::Reserved,
            false => self.memory_style(memory),
        };
        match style {
            MemoryStyle::Reserved => {
                let flags = Region::Vmctx.anywhere(self.b.func);
                let offset = self.env.info.layout.memory(memory) as i32 + MEMORY_REF_BASE;
                self.b.ins().load(POINTER, flags, self.vmctx, offset)
            }
            MemoryStyle::Bounded => self.memory_field(memory, MEMORY_BASE),
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
        let ty = self.memory_type(memory);
        let length = self.memory_length(memory);
        let pages = match ty.page_size_log2() {
            0 => length,
            log2 => self.b.ins().ushr_imm_u(length, i64::from(log2)),
        };
        let pages = match ty.is_64() {
            true => pages,
            false => self.b.ins().ireduce(types::I32, pages),
        };
        self.push(pages);
    }

    /// `memory.grow`: pop the pages to add; push the old size, or -1.
    pub(crate) fn memory_grow(&mut self, memory: u32) {
        let delta = self.pop();
        self.builtin(Builtin::MemoryGrow, &[memory], &[delta]);
        let old = self.builtin_result(address_type(self.memory_type(memory).is_64()));
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

/// Loops, where memory is bounded.
impl Translator<'_> {
    fn has_bounded_memory(&self) -> bool {
        let memories = &self.env.info.memories;
        let style = self.env.settings.memory_style;
        memories.iter().any(|ty| style.of(ty) == MemoryStyle::Bounded)
    }

    /// Looks at the loops of a function that is about to be translated.
    pub(crate) fn look_at_loops(&mut self, body: &FunctionBody<'_>) {
        if self.has_bounded_memory() {
            self.known_loops = Loops::of(body);
        }
    }

    /// In front of a loop.
    ///
    /// What checks and accesses to the first memory load is loaded here: if nothing in the loop can change it, Cranelift takes
    /// these values for those in the loop; else nothing uses them, and no code is made of them.
    pub(crate) fn before_loop(&mut self) -> BeforeLoop {
        let (locals, calls) = self.known_loops.look_at(self.offset);
        // Metered loops have a call in them that may let the host grow memories; shared ones are grown by others at any time, and who has seen
        // that they were may use what there is more.
        let is_shared = self.env.info.memories.first().is_some_and(MemoryType::is_shared);
        let is_length_fixed = self.has_bounded_memory() && !is_shared && !calls && !self.fuel.is_on();
        let length = is_length_fixed.then(|| {
            self.memory_base(0);
            self.memory_length(0)
        });
        // Not validated yet: the operators that name them come later.
        let declared = self.locals();
        let locals = locals.into_iter().take_while(|local| *local < declared);
        let fixed = locals.map(Variable::from_u32);
        BeforeLoop {
            length,
            fixed: fixed.map(|local| (local, self.b.use_var(local))).collect(),
        }
    }

    /// In a loop that is entered by an instruction: locals that it does not set are the values they were before, of which
    /// all is known that was known before.
    pub(crate) fn enter_loop(&mut self, before: BeforeLoop, entry: Inst) {
        for (local, value) in before.fixed {
            self.b.def_var(local, value);
        }
        self.known_loops.enter(Open {
            entry,
            length: before.length,
            last: Vec::new(),
        });
    }

    /// In a loop in which the length of a memory does not change: the largest index that has `end` bytes behind it, computed
    /// before the loop.
    ///
    /// Cranelift would compute a difference with a constant anew in each block that uses it. The operation with two results it leaves where it is.
    fn last_index(&mut self, memory: u32, end: u64) -> Option<Value> {
        if memory != 0 || end > self.least_length(memory) {
            return None;
        }
        let open = self.known_loops.of_one_length()?;
        if let Some((_, last)) = open.last.iter().find(|(known, _)| *known == end) {
            return Some(*last);
        }
        let length = open.length.filter(|_| open.last.len() < MOST_LAST)?;
        let site = self.b.func.srcloc(open.entry);
        let mut before = FuncCursor::new(self.b.func).at_inst(open.entry).with_srcloc(site);
        let bytes = before.ins().iconst(types::I64, end as i64);
        let (last, _) = before.ins().usub_overflow(length, bytes);
        open.last.push((end, last));
        Some(last)
    }
}

/// What is found in front of a loop.
pub(crate) struct BeforeLoop {
    /// The length of the first memory, if that does not change in the loop.
    length: Option<Value>,
    /// The locals that the loop reads and does not set, with their values.
    fixed: Vec<(Variable, Value)>,
}

/// For so many ends the largest index is kept in a loop, each in a register if there is one.
const MOST_LAST: usize = 4;
