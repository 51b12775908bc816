//! Lanes: constants, splats, reading and replacing one, moving bytes about.

use cranelift_codegen::ir::types::{I8X16, I32};
use cranelift_codegen::ir::{ConstantData, InstBuilder, Opcode, Type, Value};

use crate::translate::Translator;

impl Translator<'_> {
    /// `v128.const`
    pub(crate) fn v128_const(&mut self, bytes: [u8; 16]) {
        let vector = self.vector_of(I8X16, bytes);
        self.push(vector);
    }

    /// `splat`: pop a number, push a vector that has it in every lane.
    pub(crate) fn splat(&mut self, shape: Type) {
        let number = self.pop_lane(shape);
        let vector = self.b.ins().splat(shape, number);
        self.push_vector(vector);
    }

    /// `extract_lane`
    pub(crate) fn extract(&mut self, shape: Type, lane: u8) {
        let vector = self.pop_vector(shape);
        let number = self.b.ins().extractlane(vector, lane);
        self.push(number);
    }

    /// `extract_lane_s`, `extract_lane_u`: the lane as an i32.
    pub(crate) fn extract_extending(&mut self, extend: Opcode, shape: Type, lane: u8) {
        let vector = self.pop_vector(shape);
        let number = self.b.ins().extractlane(vector, lane);
        let number = self.converted(extend, I32, number);
        self.push(number);
    }

    /// `replace_lane`: pop a number and a vector, push the vector with the number in a lane.
    pub(crate) fn replace(&mut self, shape: Type, lane: u8) {
        let number = self.pop_lane(shape);
        let vector = self.pop_vector(shape);
        let vector = self.b.ins().insertlane(vector, number, lane);
        self.push_vector(vector);
    }

    /// `i8x16.shuffle`: the bytes at 16 places in two vectors behind each other.
    pub(crate) fn shuffle(&mut self, places: &[u8; 16]) {
        let (first, second) = self.pop_vectors(I8X16);
        let mask = ConstantData::from(places.as_slice());
        let mask = self.b.func.dfg.immediates.push(mask);
        let vector = self.b.ins().shuffle(first, second, mask);
        self.push_vector(vector);
    }

    /// Pops a number as a lane of the shape holds it: an i32 stands for the narrow integers.
    fn pop_lane(&mut self, shape: Type) -> Value {
        let number = self.pop();
        let lane = shape.lane_type();
        match lane.is_int() && lane.bits() < 32 {
            true => self.b.ins().ireduce(lane, number),
            false => number,
        }
    }
}
