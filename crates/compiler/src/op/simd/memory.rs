//! Loads and stores of vectors and lanes. Addresses, checks and sites are those of `op/memory.rs`.

use cranelift_codegen::ir::{InstBuilder, Opcode, Type};
use wasmparser::MemArg;

use crate::abi::POINTER;
use crate::translate::Translator;

impl Translator<'_> {
    /// `v128.loadNxM`: 8 bytes of lanes, each extended to twice its width.
    pub(crate) fn load_extending(&mut self, opcode: Opcode, memarg: &MemArg) {
        let index = self.pop();
        // The type that CLIF wants to be told is the address's here: the vector's follows from the opcode.
        let vector = self.load_at(index, opcode, POINTER, 8, memarg);
        self.push_vector(vector);
    }

    /// `v128.loadN_splat` and `v128.loadN_zero`: one lane, into all or into the lowest.
    pub(crate) fn load_into_lanes(&mut self, spread: Opcode, shape: Type, memarg: &MemArg) {
        let index = self.pop();
        let lane = shape.lane_type();
        let number = self.load_at(index, Opcode::Load, lane, lane.bytes().into(), memarg);
        let vector = self.converted(spread, shape, number);
        self.push_vector(vector);
    }

    /// `v128.loadN_lane`: pop a vector and an index, push the vector with what is loaded in a lane.
    pub(crate) fn load_lane(&mut self, shape: Type, lane: u8, memarg: &MemArg) {
        let vector = self.pop_vector(shape);
        let index = self.pop();
        let ty = shape.lane_type();
        let number = self.load_at(index, Opcode::Load, ty, ty.bytes().into(), memarg);
        let vector = self.b.ins().insertlane(vector, number, lane);
        self.push_vector(vector);
    }

    /// `v128.storeN_lane`: pop a vector and an index, store a lane.
    pub(crate) fn store_lane(&mut self, shape: Type, lane: u8, memarg: &MemArg) {
        let vector = self.pop_vector(shape);
        let index = self.pop();
        let number = self.b.ins().extractlane(vector, lane);
        let bytes = shape.lane_type().bytes();
        self.store_at(index, number, Opcode::Store, bytes.into(), memarg);
    }
}
