//! Variable instructions.

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value};
use cranelift_frontend::Variable;

use crate::abi::{POINTER, clif_type};
use crate::regions::Region;
use crate::translate::Translator;
use crate::{ConstExpr, GlobalType};

impl Translator<'_> {
    /// `local.get x`
    pub(crate) fn local_get(&mut self, local: u32) {
        let value = self.b.use_var(Variable::from_u32(local));
        self.push(value);
    }

    /// `local.set x`
    pub(crate) fn local_set(&mut self, local: u32) {
        let value = self.pop();
        self.b.def_var(Variable::from_u32(local), value);
    }

    /// `local.tee x`: set, and keep the value on the stack.
    pub(crate) fn local_tee(&mut self, local: u32) {
        let value = self.top(1)[0];
        self.b.def_var(Variable::from_u32(local), value);
    }

    /// `global.get x`
    pub(crate) fn global_get(&mut self, global: u32) {
        let value = match self.constant_global(global) {
            Some(value) => value,
            None => self.load_global(global),
        };
        self.push(value);
    }

    /// `global.set x`
    pub(crate) fn global_set(&mut self, global: u32) {
        let value = self.pop();
        let flags = Region::Global.mutable(self.b.func);
        let (base, offset) = self.global_cell(global);
        self.b.ins().store(flags, value, base, offset);
    }

    /// The value of a global that is known now and never set: a number, null, or a function's record.
    fn constant_global(&mut self, global: u32) -> Option<Value> {
        let info = self.env.info;
        let defined = global.checked_sub(info.imported_globals)?;
        let ty = info.globals[global as usize];
        if ty.mutable {
            return None;
        }
        match info.global_inits[defined as usize] {
            ConstExpr::I32(value) => self.i32_const(value),
            ConstExpr::I64(value) => self.i64_const(value),
            ConstExpr::F32(bits) => self.f32_const(bits),
            ConstExpr::F64(bits) => self.f64_const(bits),
            ConstExpr::V128(bits) => self.v128_const(bits.to_le_bytes()),
            ConstExpr::RefNull => {
                let null = self.zero(ty.content);
                self.push(null);
            }
            ConstExpr::RefFunc(function) => self.ref_func(function),
            ConstExpr::GlobalGet(_) | ConstExpr::Extended(..) => return None,
        }
        Some(self.pop())
    }

    fn load_global(&mut self, global: u32) -> Value {
        let ty = self.env.info.globals[global as usize];
        let flags = self.global_flags(ty);
        let (base, offset) = self.global_cell(global);
        let value = self.b.ins().load(clif_type(ty.content), flags, base, offset);
        self.track(ty.content, value);
        value
    }

    /// A global that cannot be set has its value before any code of the instance runs.
    fn global_flags(&mut self, ty: GlobalType) -> MemFlagsData {
        match ty.mutable {
            true => Region::Global.mutable(self.b.func),
            false => Region::Global.anywhere(self.b.func),
        }
    }

    /// Where a global's cell is: in the vmctx, or, if it is imported, elsewhere.
    fn global_cell(&mut self, global: u32) -> (Value, i32) {
        let info = self.env.info;
        match global.checked_sub(info.imported_globals) {
            Some(defined) => (self.vmctx, info.layout.defined_global(defined) as i32),
            None => {
                let flags = Region::Vmctx.anywhere(self.b.func);
                let offset = info.layout.imported_global(global) as i32;
                (self.b.ins().load(POINTER, flags, self.vmctx, offset), 0)
            }
        }
    }
}
