//! Calls, and tail calls, which take the place of their caller's frame.
//!
//! Null is address zero, and nothing is mapped there: a load from a null record faults, and that is the trap. So a
//! call by reference compares nothing, and `call_indirect` only the signature.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{FuncRef, InstBuilder, SigRef, Value, types};

use super::exceptions::Results;
use crate::abi::POINTER;
use crate::layout::{
    FUNC_REF_CODE, FUNC_REF_CONTEXT, FUNC_REF_TYPE_ID, IMPORTED_FUNC_CODE, IMPORTED_FUNC_CONTEXT,
};
use crate::regions::{self, Region};
use crate::translate::Translator;
use crate::{CompileError, Proposal, TrapCode};

/// What is called, found and checked already.
pub(crate) struct Callee {
    code: Code,
    context: Value,
    /// The index of its type.
    ty: u32,
}

/// Where a callee's code is.
#[derive(Clone, Copy)]
pub(crate) enum Code {
    /// In this image.
    Here(FuncRef),
    /// At an address.
    At(SigRef, Value),
}

/// One function for each operator.
impl Translator<'_> {
    /// `call x`
    pub(crate) fn call(&mut self, function: u32) {
        self.fuel_flush();
        let callee = self.callee_function(function);
        self.call_callee(callee);
    }

    /// `return_call x`
    pub(crate) fn return_call(&mut self, function: u32) {
        self.fuel_flush();
        let callee = self.callee_function(function);
        self.return_call_callee(callee);
    }

    /// `call_indirect x y`: pop an index into the table; call the function there, if it has the type.
    pub(crate) fn call_indirect(&mut self, ty: u32, table: u32) {
        let callee = self.callee_in_table(ty, table);
        self.call_callee(callee);
    }

    /// `return_call_indirect x y`
    pub(crate) fn return_call_indirect(&mut self, ty: u32, table: u32) {
        let callee = self.callee_in_table(ty, table);
        self.return_call_callee(callee);
    }

    /// `call_ref x`: pop a reference; call its function, which has the type.
    pub(crate) fn call_ref(&mut self, ty: u32) {
        let callee = self.callee_reference(ty);
        self.call_callee(callee);
    }

    /// `return_call_ref x`
    pub(crate) fn return_call_ref(&mut self, ty: u32) -> Result<(), CompileError> {
        self.require_tail_calls()?;
        let callee = self.callee_reference(ty);
        self.return_call_callee(callee);
        Ok(())
    }

    /// The validator asks of `return_call_ref` only that function references are on.
    pub(crate) fn require_tail_calls(&self) -> Result<(), CompileError> {
        self.env.settings.features.require(Proposal::TailCall)
    }
}

/// Where callees come from. What is owed is paid before a call, and after its checks.
impl Translator<'_> {
    fn callee_function(&mut self, function: u32) -> Callee {
        let info = self.env.info;
        let ty = info.functions[function as usize];
        let sig = self.imports.signature(self.b.func, ty, &info.types[ty as usize]);
        if function >= info.imported_functions {
            // A function of this module: it has the same vmctx.
            let code = Code::Here(self.imports.function(self.b.func, function, sig));
            let context = self.vmctx;
            return Callee { code, context, ty };
        }
        let entry = info.layout.imported_function(function) as i32;
        let flags = Region::Vmctx.anywhere(self.b.func);
        let code = self
            .b
            .ins()
            .load(POINTER, flags, self.vmctx, entry + IMPORTED_FUNC_CODE);
        let context = self
            .b
            .ins()
            .load(POINTER, flags, self.vmctx, entry + IMPORTED_FUNC_CONTEXT);
        Callee {
            code: Code::At(sig, code),
            context,
            ty,
        }
    }

    fn callee_in_table(&mut self, ty: u32, table: u32) -> Callee {
        let index = self.pop();
        let record = self.table_element(table, index);
        self.check_type(record, ty);
        self.fuel_flush();
        let flags = Region::FuncRef.constant(self.b.func);
        let context = self.b.ins().load(POINTER, flags, record, FUNC_REF_CONTEXT);
        self.callee_record(record, context, ty)
    }

    /// Traps unless the function of a record has the type: the ids are equal throughout the process. Of a null it is
    /// the load that traps.
    fn check_type(&mut self, record: Value, ty: u32) {
        let flags = regions::null_check(self.b.func, TrapCode::IndirectCallToNull);
        let have = self.b.ins().load(types::I32, flags, record, FUNC_REF_TYPE_ID);
        let flags = Region::Vmctx.anywhere(self.b.func);
        let offset = self.env.info.layout.type_id(ty) as i32;
        let want = self.b.ins().load(types::I32, flags, self.vmctx, offset);
        let differs = self.b.ins().icmp(IntCC::NotEqual, have, want);
        self.trap_if(differs, TrapCode::BadSignature);
    }

    fn callee_reference(&mut self, ty: u32) -> Callee {
        let record = self.pop();
        let flags = regions::null_check(self.b.func, TrapCode::NullReference);
        let context = self.b.ins().load(POINTER, flags, record, FUNC_REF_CONTEXT);
        self.fuel_flush();
        self.callee_record(record, context, ty)
    }

    /// The callee of a record that is not null and has the type.
    fn callee_record(&mut self, record: Value, context: Value, ty: u32) -> Callee {
        let signature = &self.env.info.types[ty as usize];
        let sig = self.imports.signature(self.b.func, ty, signature);
        let flags = Region::FuncRef.constant(self.b.func);
        let code = self.b.ins().load(POINTER, flags, record, FUNC_REF_CODE);
        Callee {
            code: Code::At(sig, code),
            context,
            ty,
        }
    }
}

/// The two ways to call.
impl Translator<'_> {
    fn call_callee(&mut self, callee: Callee) {
        let args = self.pop_args(callee.context, callee.ty);
        let results = self.emit_call(callee.code, &args);
        self.push_results(results, callee.ty);
    }

    fn return_call_callee(&mut self, callee: Callee) {
        let args = self.pop_args(callee.context, callee.ty);
        match callee.code {
            Code::Here(function) => self.b.ins().return_call(function, &args),
            Code::At(sig, code) => self.b.ins().return_call_indirect(sig, code, &args),
        };
        self.stop();
    }

    /// The arguments of a call of a function of type `ty`: a context, then the topmost operands.
    fn pop_args(&mut self, context: Value, ty: u32) -> Vec<Value> {
        let count = self.env.info.types[ty as usize].params().len();
        self.carried += count;
        let mut args = Vec::with_capacity(1 + count);
        args.push(context);
        args.extend(self.stack.drain(self.stack.len() - count..));
        args
    }

    /// The results of a call of a function of type `ty`.
    fn push_results(&mut self, results: Results, ty: u32) {
        self.carried += results.len();
        for (ty, result) in self.env.info.types[ty as usize].results().iter().zip(&results) {
            self.track(*ty, *result);
        }
        self.stack.extend(results);
    }
}
