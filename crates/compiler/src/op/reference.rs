//! Reference instructions. A null is a zero, of the width of its type.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, types};

use crate::abi::clif_ref_type;
use crate::translate::Translator;
use crate::{CompileError, TrapCode, parse};

impl Translator<'_> {
    /// `ref.null t`
    pub(crate) fn ref_null(&mut self, ty: wasmparser::HeapType) -> Result<(), CompileError> {
        let heap = parse::heap_type(&self.env.info.types, ty)?;
        let null = self.b.ins().iconst(clif_ref_type(heap), 0);
        self.push(null);
        Ok(())
    }

    /// `ref.is_null`: pop a reference; push whether it is null.
    pub(crate) fn ref_is_null(&mut self) {
        let reference = self.pop();
        let is_null = self.b.ins().icmp_imm_s(IntCC::Equal, reference, 0);
        let is_null = self.b.ins().uextend(types::I32, is_null);
        self.push(is_null);
    }

    /// `ref.as_non_null`: trap if the reference is null.
    pub(crate) fn ref_as_non_null(&mut self) {
        let reference = self.top(1)[0];
        let is_null = self.b.ins().icmp_imm_s(IntCC::Equal, reference, 0);
        self.trap_if(is_null, TrapCode::NullReference);
    }

    /// `ref.func x`: push the address of the function's record, which lies in the vmctx.
    pub(crate) fn ref_func(&mut self, function: u32) {
        let offset = self
            .env
            .info
            .layout
            .func_ref(function)
            .expect("validated: the reference is declared");
        let record = self.b.ins().iadd_imm_s(self.vmctx, i64::from(offset));
        self.push(record);
    }
}
