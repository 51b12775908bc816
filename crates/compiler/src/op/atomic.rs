//! Atomic memory instructions. Spec: the threads proposal, core/exec/instructions.
//!
//! Every access is sequentially consistent and naturally aligned; one that is not aligned traps before it is compared with the
//! memory's length. The width of an access is that of its natural alignment, which each operator knows; narrower ones are
//! zero-extended. Cranelift takes an atomic access for a fence: no other access moves across it.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AtomicRmwOp, InstBuilder, MemFlagsData, Type, Value, types};
use wasmparser::MemArg;

use crate::regions;
use crate::translate::Translator;
use crate::{Builtin, TrapCode};

impl Translator<'_> {
    /// `t.atomic.load`, and `t.atomic.loadN_u`.
    pub(crate) fn atomic_load(&mut self, ty: Type, memarg: &MemArg) {
        let index = self.pop();
        let address = self.atomic_address(index, memarg);
        let flags = regions::memory_load(self.b.func);
        let value = self.b.ins().atomic_load(width(memarg), flags, address);
        self.push_widened(value, ty);
    }

    /// `t.atomic.store`, and `t.atomic.storeN`.
    pub(crate) fn atomic_store(&mut self, memarg: &MemArg) {
        let (index, value) = self.pop2();
        let address = self.atomic_address(index, memarg);
        let value = self.narrowed(value, memarg);
        let flags = self.atomic_flags();
        self.b.ins().atomic_store(flags, value, address);
    }

    /// `t.atomic.rmw.op`, and `t.atomic.rmwN.op_u`: push what was there.
    pub(crate) fn atomic_rmw(&mut self, op: AtomicRmwOp, memarg: &MemArg) {
        let (index, value) = self.pop2();
        let ty = self.b.func.dfg.value_type(value);
        let address = self.atomic_address(index, memarg);
        let value = self.narrowed(value, memarg);
        let flags = self.atomic_flags();
        let old = self.b.ins().atomic_rmw(width(memarg), flags, op, address, value);
        self.push_widened(old, ty);
    }

    /// `t.atomic.rmw.cmpxchg`, and `t.atomic.rmwN.cmpxchg_u`: push what was there.
    ///
    /// What is expected is wrapped to the width of the access before it is compared.
    pub(crate) fn atomic_cmpxchg(&mut self, memarg: &MemArg) {
        let (index, expected, value) = self.pop3();
        let ty = self.b.func.dfg.value_type(value);
        let address = self.atomic_address(index, memarg);
        let narrow = self.narrowed(expected, memarg);
        let value = self.narrowed(value, memarg);
        let flags = self.atomic_flags();
        let old = self.b.ins().atomic_cas(flags, address, narrow, value);
        self.push_widened(old, ty);
    }

    /// `atomic.fence`
    pub(crate) fn atomic_fence(&mut self) {
        self.b.ins().fence();
    }

    /// `memory.atomic.waitN`: pop index, expected value and timeout; push 0 (woken), 1 (not expected) or 2 (timed out).
    pub(crate) fn atomic_wait(&mut self, builtin: Builtin, memarg: &MemArg) {
        let (index, expected, timeout) = self.pop3();
        let offset = self.b.ins().iconst(types::I64, memarg.offset as i64);
        let memory = super::memory::memory_of(memarg);
        self.builtin(builtin, &[memory], &[index, offset, expected, timeout]);
        let how = self.builtin_result(types::I32);
        self.push(how);
    }

    /// `memory.atomic.notify`: pop index and count; push how many were woken.
    pub(crate) fn atomic_notify(&mut self, memarg: &MemArg) {
        let (index, count) = self.pop2();
        let offset = self.b.ins().iconst(types::I64, memarg.offset as i64);
        let memory = super::memory::memory_of(memarg);
        self.builtin(Builtin::MemoryAtomicNotify, &[memory], &[index, offset, count]);
        let woken = self.builtin_result(types::I32);
        self.push(woken);
    }

    /// The address of an access, aligned and checked.
    fn atomic_address(&mut self, index: Value, memarg: &MemArg) -> Value {
        let size = u64::from(width(memarg).bytes());
        if size > 1 {
            self.check_aligned(index, memarg.offset, size);
        }
        let (address, offset) = self.address(index, memarg, size);
        match i64::from(offset) {
            0 => address,
            offset => self.b.ins().iadd_imm_s(address, offset),
        }
    }

    /// Traps unless `index + offset` is a multiple of `size`.
    fn check_aligned(&mut self, index: Value, offset: u64, size: u64) {
        let index = self.widen(index);
        let low_bits = size - 1;
        let index = match offset & low_bits {
            0 => index,
            odd => self.b.ins().iadd_imm_s(index, odd as i64),
        };
        let odd = self.b.ins().band_imm_s(index, low_bits as i64);
        let unaligned = self.b.ins().icmp_imm_s(IntCC::NotEqual, odd, 0);
        self.trap_if(unaligned, TrapCode::UnalignedAtomic);
    }

    fn atomic_flags(&mut self) -> MemFlagsData {
        regions::memory_store(self.b.func, self.fuel.is_on())
    }

    /// The low bytes of an operand that an access stores or compares.
    fn narrowed(&mut self, value: Value, memarg: &MemArg) -> Value {
        let width = width(memarg);
        match self.b.func.dfg.value_type(value) == width {
            true => value,
            false => self.b.ins().ireduce(width, value),
        }
    }

    fn push_widened(&mut self, value: Value, ty: Type) {
        let value = match self.b.func.dfg.value_type(value) == ty {
            true => value,
            false => self.b.ins().uextend(ty, value),
        };
        self.push(value);
    }
}

/// The type of what an atomic operator accesses.
fn width(memarg: &MemArg) -> Type {
    match memarg.max_align {
        0 => types::I8,
        1 => types::I16,
        2 => types::I32,
        _ => types::I64,
    }
}
