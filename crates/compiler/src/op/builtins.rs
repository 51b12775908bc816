//! Calls of the runtime: operands into an array on the stack, results out of it.

use cranelift_codegen::ir::{InstBuilder, StackSlot, StackSlotData, StackSlotKind, Type, Value, types};

use crate::Builtin;
use crate::abi::POINTER;
use crate::layout::{ARG_SLOT_BYTES, CONTEXT_STORE, STORE_BUILTIN_CALL};
use crate::regions::Region;
use crate::translate::Translator;

impl Translator<'_> {
    /// Calls a builtin with immediates and operands, in this order, each as a `u64`. What is owed is
    /// paid first: the builtin may charge by length.
    pub(crate) fn builtin(&mut self, builtin: Builtin, immediates: &[u32], operands: &[Value]) {
        self.fuel_flush();
        let slot = self.builtin_slot();
        let args = self.b.ins().stack_addr(POINTER, slot, 0);
        let mut offset = 0;
        for immediate in immediates {
            let value = self.b.ins().iconst(types::I64, i64::from(*immediate));
            self.store_arg(value, args, &mut offset);
        }
        for operand in operands {
            let value = self.widen(*operand);
            self.store_arg(value, args, &mut offset);
        }
        let sig = self.imports.builtin(self.b.func);
        let code = self.builtin_code();
        self.count_call();
        let id = self.b.ins().iconst(types::I32, builtin as i64);
        self.b.ins().call_indirect(sig, code, &[self.vmctx, args, id]);
    }

    /// The result of the builtin just called.
    pub(crate) fn builtin_result(&mut self, ty: Type) -> Value {
        let slot = self.builtin_slot();
        let args = self.b.ins().stack_addr(POINTER, slot, 0);
        let flags = Region::Args.mutable(self.b.func);
        self.b.ins().load(ty, flags, args, 0)
    }

    pub(crate) fn store_arg(&mut self, value: Value, args: Value, offset: &mut i32) {
        let flags = Region::Args.mutable(self.b.func);
        self.b.ins().store(flags, value, args, *offset);
        *offset += ARG_SLOT_BYTES as i32;
    }

    /// One array serves all the builtin calls of a function.
    fn builtin_slot(&mut self) -> StackSlot {
        let data = StackSlotData::new(
            StackSlotKind::ExplicitSlot,
            Builtin::MAX_OPERANDS * ARG_SLOT_BYTES,
            4,
        );
        *self
            .builtin_args
            .get_or_insert_with(|| self.b.create_sized_stack_slot(data))
    }

    pub(crate) fn builtin_code(&mut self) -> Value {
        let flags = Region::Vmctx.anywhere(self.b.func);
        let store = self.b.ins().load(POINTER, flags, self.vmctx, CONTEXT_STORE);
        let flags = Region::Store.anywhere(self.b.func);
        self.b.ins().load(POINTER, flags, store, STORE_BUILTIN_CALL)
    }
}
