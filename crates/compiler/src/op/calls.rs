//! Calls.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Inst, InstBuilder, SigRef, Value, types};
use smallvec::SmallVec;

use crate::TrapCode;
use crate::abi::POINTER;
use crate::layout::{
    FUNC_REF_CODE, FUNC_REF_CONTEXT, FUNC_REF_TYPE_ID, IMPORTED_FUNC_CODE, IMPORTED_FUNC_CONTEXT,
};
use crate::regions::Region;
use crate::translate::Translator;

impl Translator<'_> {
    /// `call x`
    pub(crate) fn call(&mut self, function: u32) {
        self.fuel_flush();
        let info = self.env.info;
        let ty = info.functions[function as usize];
        let sig = self.imports.signature(self.b.func, ty, &info.types[ty as usize]);
        let args = info.types[ty as usize].params().len();
        let call = match function < info.imported_functions {
            true => self.call_import(function, sig, args),
            false => self.call_defined(function, sig, args),
        };
        self.push_results(call, ty);
    }

    /// A function of this module: it has the same vmctx.
    fn call_defined(&mut self, function: u32, sig: SigRef, args: usize) -> Inst {
        let callee = self.imports.function(self.b.func, function, sig);
        let args = self.pop_args(self.vmctx, args);
        self.b.ins().call(callee, &args)
    }

    /// An imported function: its code and context are in the vmctx.
    fn call_import(&mut self, function: u32, sig: SigRef, args: usize) -> Inst {
        let entry = self.env.info.layout.imported_function(function) as i32;
        let flags = Region::Vmctx.anywhere(self.b.func);
        let code = self
            .b
            .ins()
            .load(POINTER, flags, self.vmctx, entry + IMPORTED_FUNC_CODE);
        let context = self
            .b
            .ins()
            .load(POINTER, flags, self.vmctx, entry + IMPORTED_FUNC_CONTEXT);
        let args = self.pop_args(context, args);
        self.b.ins().call_indirect(sig, code, &args)
    }

    /// `call_indirect x y`: pop an index into the table; call the function there, if it has the type.
    pub(crate) fn call_indirect(&mut self, ty: u32, table: u32) {
        let index = self.pop();
        let record = self.table_element(table, index);
        let null = self.b.ins().icmp_imm_s(IntCC::Equal, record, 0);
        self.trap_if(null, TrapCode::IndirectCallToNull);
        self.check_type(record, ty);
        self.fuel_flush();
        self.call_record(record, ty);
    }

    /// Traps unless the function of a record has the type: the ids are equal throughout the process.
    fn check_type(&mut self, record: Value, ty: u32) {
        let flags = Region::FuncRef.constant(self.b.func);
        let have = self.b.ins().load(types::I32, flags, record, FUNC_REF_TYPE_ID);
        let flags = Region::Vmctx.anywhere(self.b.func);
        let offset = self.env.info.layout.type_id(ty) as i32;
        let want = self.b.ins().load(types::I32, flags, self.vmctx, offset);
        let differs = self.b.ins().icmp(IntCC::NotEqual, have, want);
        self.trap_if(differs, TrapCode::BadSignature);
    }

    fn call_record(&mut self, record: Value, ty: u32) {
        let info = self.env.info;
        let sig = self.imports.signature(self.b.func, ty, &info.types[ty as usize]);
        let flags = Region::FuncRef.constant(self.b.func);
        let code = self.b.ins().load(POINTER, flags, record, FUNC_REF_CODE);
        let context = self.b.ins().load(POINTER, flags, record, FUNC_REF_CONTEXT);
        let args = self.pop_args(context, info.types[ty as usize].params().len());
        let call = self.b.ins().call_indirect(sig, code, &args);
        self.push_results(call, ty);
    }

    /// The arguments of a call: a context, then the topmost `count` operands.
    fn pop_args(&mut self, context: Value, count: usize) -> Vec<Value> {
        self.carried += count;
        let mut args = Vec::with_capacity(1 + count);
        args.push(context);
        args.extend(self.stack.drain(self.stack.len() - count..));
        args
    }

    /// The results of a call of a function of type `ty`.
    fn push_results(&mut self, call: Inst, ty: u32) {
        let results: SmallVec<[Value; 4]> = self.b.inst_results(call).into();
        self.carried += results.len();
        for (ty, result) in self.env.info.types[ty as usize].results().iter().zip(&results) {
            self.track(*ty, *result);
        }
        self.stack.extend(results);
    }
}
