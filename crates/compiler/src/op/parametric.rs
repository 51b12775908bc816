//! Parametric instructions.

use cranelift_codegen::ir::InstBuilder;

use crate::translate::Translator;

impl Translator<'_> {
    /// `select`: pop an i32 and two values; push the first of them if the i32 is not zero, else the second.
    pub(crate) fn select(&mut self) {
        let (first, second, condition) = self.pop3();
        let value = self.b.ins().select(condition, first, second);
        self.push(value);
    }
}
