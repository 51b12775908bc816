//! Vector instructions.
//!
//! Wasm has one type of vectors, CLIF one for each shape. On the operand stack, in locals and wherever values cross
//! between blocks and functions, a vector is 16 bytes (`i8x16`); an operator takes it off in the shape it works
//! on, and what it leaves is bytes again. Both casts are here, and are no instructions of the machine.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::I8X16;
use cranelift_codegen::ir::{
    ConstantData, Endianness, InstBuilder, InstructionData, MemFlagsData, Opcode, Type, Value,
};

use crate::translate::Translator;

mod bits;
mod conversion;
mod float;
mod integer;
mod lanes;
mod memory;
mod relaxed;

/// The operand stack.
impl Translator<'_> {
    /// Pops a vector in a shape.
    fn pop_vector(&mut self, shape: Type) -> Value {
        let vector = self.pop();
        self.cast(vector, shape)
    }

    /// Pops two vectors of one shape.
    fn pop_vectors(&mut self, shape: Type) -> (Value, Value) {
        let (first, second) = self.pop2();
        (self.cast(first, shape), self.cast(second, shape))
    }

    /// Pops three vectors of one shape.
    fn pop3_vectors(&mut self, shape: Type) -> (Value, Value, Value) {
        let (first, second, third) = self.pop3();
        let cast = |this: &mut Self, vector| this.cast(vector, shape);
        (cast(self, first), cast(self, second), cast(self, third))
    }

    /// Pushes a vector of any shape.
    fn push_vector(&mut self, vector: Value) {
        let bytes = self.cast(vector, I8X16);
        self.push(bytes);
    }

    /// The same bits in another shape: lane 0 has the low bytes. A cast back and forth is none.
    fn cast(&mut self, vector: Value, shape: Type) -> Value {
        let dfg = &self.b.func.dfg;
        if dfg.value_type(vector) == shape {
            return vector;
        }
        if let Some(before) = self.cast_from(vector)
            && self.b.func.dfg.value_type(before) == shape
        {
            return before;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.b.ins().bitcast(shape, flags, vector)
    }

    /// What a cast was made of.
    fn cast_from(&self, vector: Value) -> Option<Value> {
        let inst = self.b.func.dfg.value_def(vector).inst()?;
        match self.b.func.dfg.insts[inst] {
            InstructionData::LoadNoOffset {
                opcode: Opcode::Bitcast,
                arg,
                ..
            } => Some(arg),
            _ => None,
        }
    }

    /// The vector of these bytes.
    pub(crate) fn vector_of(&mut self, shape: Type, bytes: [u8; 16]) -> Value {
        let constant = self
            .b
            .func
            .dfg
            .constants
            .insert(ConstantData::from(bytes.as_slice()));
        self.b.ins().vconst(shape, constant)
    }
}

/// Operators that CLIF has, with the same meaning, lane by lane.
impl Translator<'_> {
    /// Pop a vector, push one. Its shape follows from the operator.
    pub(crate) fn vector_unary(&mut self, opcode: Opcode, shape: Type) {
        let operand = self.pop_vector(shape);
        let result = self.converted(opcode, shape, operand);
        self.push_vector(result);
    }

    /// Pop two vectors, push one. Its shape follows from the operator.
    pub(crate) fn vector_binary(&mut self, opcode: Opcode, shape: Type) {
        let (left, right) = self.pop_vectors(shape);
        let result = self.binary_of(opcode, left, right);
        self.push_vector(result);
    }

    /// Pop a vector, push its conversion lane by lane to another shape.
    pub(crate) fn vector_convert(&mut self, opcode: Opcode, from: Type, to: Type) {
        let operand = self.pop_vector(from);
        let result = self.converted(opcode, to, operand);
        self.push_vector(result);
    }

    /// Compare the lanes of two vectors: all ones where the condition holds, else zero.
    pub(crate) fn vector_int_compare(&mut self, condition: IntCC, shape: Type) {
        let (left, right) = self.pop_vectors(shape);
        let holds = self.b.ins().icmp(condition, left, right);
        self.push_vector(holds);
    }

    /// Compare the lanes of two vectors of floats: all ones where the condition holds, else zero.
    pub(crate) fn vector_float_compare(&mut self, condition: FloatCC, shape: Type) {
        let (left, right) = self.pop_vectors(shape);
        let holds = self.b.ins().fcmp(condition, left, right);
        self.push_vector(holds);
    }
}
