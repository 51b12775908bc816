//! Parametric instructions.

use cranelift_codegen::ir::InstBuilder;

use crate::translate::Translator;
use crate::{CompileError, parse};

impl Translator<'_> {
    /// `select`: pop an i32 and two values; push the first of them if the i32 is not zero, else the second.
    pub(crate) fn select(&mut self) {
        let (first, second, condition) = self.pop3();
        let value = self.b.ins().select(condition, first, second);
        self.push(value);
    }

    /// `select t`: the same, of a type that is said.
    pub(crate) fn typed_select(&mut self, ty: wasmparser::ValType) -> Result<(), CompileError> {
        self.select();
        self.track(parse::val_type(&self.env.info.types, ty)?, self.top(1)[0]);
        Ok(())
    }
}
