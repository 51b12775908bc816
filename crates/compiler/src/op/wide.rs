//! Wide arithmetic: integers of 128 bits as two of 64, the low one first.

use cranelift_codegen::ir::{InstBuilder, Opcode, Value, types};

use crate::translate::Translator;

impl Translator<'_> {
    /// `i64.add128` and `i64.sub128`: pop two wide integers, push one.
    pub(crate) fn wide_binary(&mut self, opcode: Opcode) {
        let right = self.pop_wide();
        let left = self.pop_wide();
        let result = self.binary_of(opcode, left, right);
        self.push_wide(result);
    }

    /// `i64.mul_wide_s` and `_u`: pop two integers, push their product, wide.
    pub(crate) fn mul_wide(&mut self, extend: Opcode) {
        let (left, right) = self.pop2();
        let left = self.converted(extend, types::I128, left);
        let right = self.converted(extend, types::I128, right);
        let product = self.b.ins().imul(left, right);
        self.push_wide(product);
    }

    fn pop_wide(&mut self) -> Value {
        let (low, high) = self.pop2();
        self.b.ins().iconcat(low, high)
    }

    fn push_wide(&mut self, wide: Value) {
        let (low, high) = self.b.ins().isplit(wide);
        self.push(low);
        self.push(high);
    }
}
