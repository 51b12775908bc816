//! Vectors as 128 bits, and tests of their lanes.

use cranelift_codegen::ir::types::{I8X16, I32};
use cranelift_codegen::ir::{InstBuilder, Type};

use crate::translate::Translator;

impl Translator<'_> {
    /// `v128.andnot`: the bits of the first that are not in the second.
    pub(crate) fn and_not(&mut self) {
        let (first, second) = self.pop_vectors(I8X16);
        let result = self.b.ins().band_not(first, second);
        self.push(result);
    }

    /// `v128.bitselect`: pop two vectors and a mask; push the bits of the first where the mask has ones, else those
    /// of the second.
    pub(crate) fn bitselect(&mut self) {
        let (first, second, mask) = self.pop3_vectors(I8X16);
        let result = self.b.ins().bitselect(mask, first, second);
        self.push(result);
    }

    /// `v128.any_true`: whether any bit is one.
    pub(crate) fn any_true(&mut self) {
        let vector = self.pop_vector(I8X16);
        let any = self.b.ins().vany_true(vector);
        self.push_bool(any);
    }

    /// `all_true`: whether no lane is zero.
    pub(crate) fn all_true(&mut self, shape: Type) {
        let vector = self.pop_vector(shape);
        let all = self.b.ins().vall_true(vector);
        self.push_bool(all);
    }

    /// `bitmask`: the highest bit of each lane, lane 0 lowest.
    pub(crate) fn bitmask(&mut self, shape: Type) {
        let vector = self.pop_vector(shape);
        let mask = self.b.ins().vhigh_bits(I32, vector);
        self.push(mask);
    }
}
