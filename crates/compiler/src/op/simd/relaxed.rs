//! Relaxed vector instructions: the specification leaves parts of their results to the implementation. Ours are
//! the same on every processor, whatever it has, so that a guest computes the same everywhere.
//!
//! | operator | what is open | what is chosen |
//! | --- | --- | --- |
//! | `swizzle` | an index above 15 | zero, as `i8x16.swizzle` |
//! | `trunc` | NaN, and what does not fit | zero, and the nearest, as `trunc_sat` |
//! | `madd`, `nmadd` | whether the product is rounded | it is: two operators of IEEE 754 |
//! | `laneselect` | a mask neither all ones nor all zeros | by bits, as `v128.bitselect` |
//! | `min`, `max` | NaN, and zeros of different sign | as `min` and `max` |
//! | `q15mulr` | -1 times -1 | saturates, as `q15mulr_sat` |
//! | `dot` | a second operand with a high bit; a sum that does not fit | signed; modulo 2^16 |
//!
//! A fused `madd` would need FMA, or else a call of a library for every lane: processors would differ in
//! results or by a hundredfold in time.

use cranelift_codegen::ir::types::{I8X16, I32X4};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type};

use crate::translate::Translator;

impl Translator<'_> {
    /// `relaxed_madd`: the first two multiplied, plus the third.
    pub(crate) fn relaxed_madd(&mut self, shape: Type) {
        let (left, right, addend) = self.pop3_vectors(shape);
        let product = self.b.ins().fmul(left, right);
        let result = self.b.ins().fadd(product, addend);
        self.push_vector(result);
    }

    /// `relaxed_nmadd`: the third minus the product of the first two.
    pub(crate) fn relaxed_nmadd(&mut self, shape: Type) {
        let (left, right, addend) = self.pop3_vectors(shape);
        let product = self.b.ins().fmul(left, right);
        let result = self.b.ins().fsub(addend, product);
        self.push_vector(result);
    }

    /// `i16x8.relaxed_dot_i8x16_i7x16_s`: the sums of the products of neighbours.
    pub(crate) fn relaxed_dot(&mut self) {
        let (left, right) = self.pop_vectors(I8X16);
        let sums = self.dot_of(left, right);
        self.push_vector(sums);
    }

    /// `i32x4.relaxed_dot_i8x16_i7x16_add_s`: the sums of four products each, plus the third operand.
    pub(crate) fn relaxed_dot_add(&mut self) {
        let addend = self.pop_vector(I32X4);
        let (left, right) = self.pop_vectors(I8X16);
        let pairs = self.dot_of(left, right);
        let sums = self.sums_of_pairs(Opcode::SwidenLow, Opcode::SwidenHigh, pairs);
        let result = self.b.ins().iadd(sums, addend);
        self.push_vector(result);
    }
}
