//! Float operators that CLIF does not have.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Type, Value};

use crate::translate::Translator;

impl Translator<'_> {
    /// `pmin`: the second where it is less than the first, else the first, a NaN or not.
    pub(crate) fn pseudo_min(&mut self, shape: Type) {
        let (first, second) = self.pop_vectors(shape);
        let takes_second = self.b.ins().fcmp(FloatCC::LessThan, second, first);
        self.push_second_where(takes_second, first, second);
    }

    /// `pmax`: the second where the first is less than it, else the first, a NaN or not.
    pub(crate) fn pseudo_max(&mut self, shape: Type) {
        let (first, second) = self.pop_vectors(shape);
        let takes_second = self.b.ins().fcmp(FloatCC::LessThan, first, second);
        self.push_second_where(takes_second, first, second);
    }

    /// Cranelift knows a minimum and a maximum of the machine by this form.
    fn push_second_where(&mut self, mask: Value, first: Value, second: Value) {
        let shape = self.b.func.dfg.value_type(first);
        let mask = self.cast(mask, shape);
        let result = self.b.ins().bitselect(mask, second, first);
        self.push_vector(result);
    }
}
