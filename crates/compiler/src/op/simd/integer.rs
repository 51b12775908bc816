//! Integer operators that CLIF has in another form.

use cranelift_codegen::ir::types::I16X8;
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};

use crate::translate::Translator;

impl Translator<'_> {
    /// `shl`, `shr`: pop a count and a vector; shift each lane by the count, modulo the lane's width.
    pub(crate) fn vector_shift(&mut self, opcode: Opcode, shape: Type) {
        let count = self.pop();
        let vector = self.pop_vector(shape);
        let result = self.binary_of(opcode, vector, count);
        self.push_vector(result);
    }

    /// `extmul`: the products of the lanes of one half, twice as wide.
    pub(crate) fn mul_halves(&mut self, widen: Opcode, shape: Type) {
        let (left, right) = self.pop_vectors(shape);
        let product = self.product_of(widen, left, right);
        self.push_vector(product);
    }

    /// `extadd_pairwise`: the sums of neighbours, twice as wide.
    pub(crate) fn add_pairs(&mut self, low: Opcode, high: Opcode, shape: Type) {
        let vector = self.pop_vector(shape);
        let sums = self.sums_of_pairs(low, high, vector);
        self.push_vector(sums);
    }

    /// `i32x4.dot_i16x8_s`: the sums of the products of neighbours.
    pub(crate) fn dot(&mut self) {
        let (left, right) = self.pop_vectors(I16X8);
        let sums = self.dot_of(left, right);
        self.push_vector(sums);
    }

    /// The products of the lanes of one half, twice as wide.
    fn product_of(&mut self, widen: Opcode, left: Value, right: Value) -> Value {
        let shape = self.b.func.dfg.value_type(left);
        let left = self.converted(widen, shape, left);
        let right = self.converted(widen, shape, right);
        self.b.ins().imul(left, right)
    }

    /// The sums of neighbours, twice as wide.
    pub(super) fn sums_of_pairs(&mut self, low: Opcode, high: Opcode, vector: Value) -> Value {
        let shape = self.b.func.dfg.value_type(vector);
        let low = self.converted(low, shape, vector);
        let high = self.converted(high, shape, vector);
        self.b.ins().iadd_pairwise(low, high)
    }

    /// The sums of the signed products of neighbours, twice as wide.
    pub(super) fn dot_of(&mut self, left: Value, right: Value) -> Value {
        let low = self.product_of(Opcode::SwidenLow, left, right);
        let high = self.product_of(Opcode::SwidenHigh, left, right);
        self.b.ins().iadd_pairwise(low, high)
    }
}
