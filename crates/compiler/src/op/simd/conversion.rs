//! Conversions that change how many lanes there are.

use cranelift_codegen::ir::Opcode;
use cranelift_codegen::ir::types::{F64X2, I32X4, I64X2};

use crate::translate::Translator;

impl Translator<'_> {
    /// `f64x2.convert_low_i32x4`: the low two integers as floats.
    pub(crate) fn convert_low(&mut self, widen: Opcode, opcode: Opcode) {
        let vector = self.pop_vector(I32X4);
        let low = self.converted(widen, I32X4, vector);
        let result = self.converted(opcode, F64X2, low);
        self.push_vector(result);
    }

    /// `i32x4.trunc_sat_f64x2_zero`: two floats as the low two integers, the high ones zero. First as wide
    /// integers: what saturates those saturates the narrow ones too.
    pub(crate) fn trunc_zero(&mut self, opcode: Opcode, narrow: Opcode) {
        let vector = self.pop_vector(F64X2);
        let wide = self.converted(opcode, I64X2, vector);
        let zero = self.vector_of(I64X2, [0; 16]);
        let result = self.binary_of(narrow, wide, zero);
        self.push_vector(result);
    }
}
