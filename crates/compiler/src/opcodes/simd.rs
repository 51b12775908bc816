//! The tables of vector operators, by the chapters of the specification.

use cranelift_codegen::ir::Opcode as Clif;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I16X8, I32X4, I64X2};
use wasmparser::Operator;

use crate::CompileError;
use crate::translate::Translator;

#[rustfmt::skip]
impl Translator<'_> {
    /// Translates a vector operator that is reached: of memories, or one of the tables below.
    pub(crate) fn dispatch_vector(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            V128Load { memarg } => self.load(Clif::Load, I8X16, 16, memarg),
            V128Load8x8S { memarg } => self.load_extending(Clif::Sload8x8, memarg),
            V128Load8x8U { memarg } => self.load_extending(Clif::Uload8x8, memarg),
            V128Load16x4S { memarg } => self.load_extending(Clif::Sload16x4, memarg),
            V128Load16x4U { memarg } => self.load_extending(Clif::Uload16x4, memarg),
            V128Load32x2S { memarg } => self.load_extending(Clif::Sload32x2, memarg),
            V128Load32x2U { memarg } => self.load_extending(Clif::Uload32x2, memarg),
            V128Load8Splat { memarg } => self.load_into_lanes(Clif::Splat, I8X16, memarg),
            V128Load16Splat { memarg } => self.load_into_lanes(Clif::Splat, I16X8, memarg),
            V128Load32Splat { memarg } => self.load_into_lanes(Clif::Splat, I32X4, memarg),
            V128Load64Splat { memarg } => self.load_into_lanes(Clif::Splat, I64X2, memarg),
            V128Load32Zero { memarg } => self.load_into_lanes(Clif::ScalarToVector, I32X4, memarg),
            V128Load64Zero { memarg } => self.load_into_lanes(Clif::ScalarToVector, I64X2, memarg),
            V128Load8Lane { memarg, lane } => self.load_lane(I8X16, *lane, memarg),
            V128Load16Lane { memarg, lane } => self.load_lane(I16X8, *lane, memarg),
            V128Load32Lane { memarg, lane } => self.load_lane(I32X4, *lane, memarg),
            V128Load64Lane { memarg, lane } => self.load_lane(I64X2, *lane, memarg),
            V128Store { memarg } => self.store(Clif::Store, 16, memarg),
            V128Store8Lane { memarg, lane } => self.store_lane(I8X16, *lane, memarg),
            V128Store16Lane { memarg, lane } => self.store_lane(I16X8, *lane, memarg),
            V128Store32Lane { memarg, lane } => self.store_lane(I32X4, *lane, memarg),
            V128Store64Lane { memarg, lane } => self.store_lane(I64X2, *lane, memarg),
            other => return self.dispatch_lanes(other),
        }
        Ok(())
    }

    /// Constants, lanes and bits.
    fn dispatch_lanes(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            // Constants and lanes.
            V128Const { value } => self.v128_const(*value.bytes()),
            I8x16Splat => self.splat(I8X16),
            I16x8Splat => self.splat(I16X8),
            I32x4Splat => self.splat(I32X4),
            I64x2Splat => self.splat(I64X2),
            F32x4Splat => self.splat(F32X4),
            F64x2Splat => self.splat(F64X2),
            I8x16ExtractLaneS { lane } => self.extract_extending(Clif::Sextend, I8X16, *lane),
            I8x16ExtractLaneU { lane } => self.extract_extending(Clif::Uextend, I8X16, *lane),
            I16x8ExtractLaneS { lane } => self.extract_extending(Clif::Sextend, I16X8, *lane),
            I16x8ExtractLaneU { lane } => self.extract_extending(Clif::Uextend, I16X8, *lane),
            I32x4ExtractLane { lane } => self.extract(I32X4, *lane),
            I64x2ExtractLane { lane } => self.extract(I64X2, *lane),
            F32x4ExtractLane { lane } => self.extract(F32X4, *lane),
            F64x2ExtractLane { lane } => self.extract(F64X2, *lane),
            I8x16ReplaceLane { lane } => self.replace(I8X16, *lane),
            I16x8ReplaceLane { lane } => self.replace(I16X8, *lane),
            I32x4ReplaceLane { lane } => self.replace(I32X4, *lane),
            I64x2ReplaceLane { lane } => self.replace(I64X2, *lane),
            F32x4ReplaceLane { lane } => self.replace(F32X4, *lane),
            F64x2ReplaceLane { lane } => self.replace(F64X2, *lane),
            I8x16Shuffle { lanes } => self.shuffle(lanes),
            I8x16Swizzle => self.vector_binary(Clif::Swizzle, I8X16),

            // Bits.
            V128Not => self.vector_unary(Clif::Bnot, I8X16),
            V128And => self.vector_binary(Clif::Band, I8X16),
            V128AndNot => self.and_not(),
            V128Or => self.vector_binary(Clif::Bor, I8X16),
            V128Xor => self.vector_binary(Clif::Bxor, I8X16),
            V128Bitselect => self.bitselect(),
            V128AnyTrue => self.any_true(),
            I8x16AllTrue => self.all_true(I8X16),
            I16x8AllTrue => self.all_true(I16X8),
            I32x4AllTrue => self.all_true(I32X4),
            I64x2AllTrue => self.all_true(I64X2),
            I8x16Bitmask => self.bitmask(I8X16),
            I16x8Bitmask => self.bitmask(I16X8),
            I32x4Bitmask => self.bitmask(I32X4),
            I64x2Bitmask => self.bitmask(I64X2),
            other => return self.dispatch_vector_comparison(other),
        }
        Ok(())
    }

    /// Comparisons.
    fn dispatch_vector_comparison(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            // Integers.
            I8x16Eq => self.vector_int_compare(IntCC::Equal, I8X16),
            I8x16Ne => self.vector_int_compare(IntCC::NotEqual, I8X16),
            I8x16LtS => self.vector_int_compare(IntCC::SignedLessThan, I8X16),
            I8x16LtU => self.vector_int_compare(IntCC::UnsignedLessThan, I8X16),
            I8x16GtS => self.vector_int_compare(IntCC::SignedGreaterThan, I8X16),
            I8x16GtU => self.vector_int_compare(IntCC::UnsignedGreaterThan, I8X16),
            I8x16LeS => self.vector_int_compare(IntCC::SignedLessThanOrEqual, I8X16),
            I8x16LeU => self.vector_int_compare(IntCC::UnsignedLessThanOrEqual, I8X16),
            I8x16GeS => self.vector_int_compare(IntCC::SignedGreaterThanOrEqual, I8X16),
            I8x16GeU => self.vector_int_compare(IntCC::UnsignedGreaterThanOrEqual, I8X16),
            I16x8Eq => self.vector_int_compare(IntCC::Equal, I16X8),
            I16x8Ne => self.vector_int_compare(IntCC::NotEqual, I16X8),
            I16x8LtS => self.vector_int_compare(IntCC::SignedLessThan, I16X8),
            I16x8LtU => self.vector_int_compare(IntCC::UnsignedLessThan, I16X8),
            I16x8GtS => self.vector_int_compare(IntCC::SignedGreaterThan, I16X8),
            I16x8GtU => self.vector_int_compare(IntCC::UnsignedGreaterThan, I16X8),
            I16x8LeS => self.vector_int_compare(IntCC::SignedLessThanOrEqual, I16X8),
            I16x8LeU => self.vector_int_compare(IntCC::UnsignedLessThanOrEqual, I16X8),
            I16x8GeS => self.vector_int_compare(IntCC::SignedGreaterThanOrEqual, I16X8),
            I16x8GeU => self.vector_int_compare(IntCC::UnsignedGreaterThanOrEqual, I16X8),
            I32x4Eq => self.vector_int_compare(IntCC::Equal, I32X4),
            I32x4Ne => self.vector_int_compare(IntCC::NotEqual, I32X4),
            I32x4LtS => self.vector_int_compare(IntCC::SignedLessThan, I32X4),
            I32x4LtU => self.vector_int_compare(IntCC::UnsignedLessThan, I32X4),
            I32x4GtS => self.vector_int_compare(IntCC::SignedGreaterThan, I32X4),
            I32x4GtU => self.vector_int_compare(IntCC::UnsignedGreaterThan, I32X4),
            I32x4LeS => self.vector_int_compare(IntCC::SignedLessThanOrEqual, I32X4),
            I32x4LeU => self.vector_int_compare(IntCC::UnsignedLessThanOrEqual, I32X4),
            I32x4GeS => self.vector_int_compare(IntCC::SignedGreaterThanOrEqual, I32X4),
            I32x4GeU => self.vector_int_compare(IntCC::UnsignedGreaterThanOrEqual, I32X4),
            I64x2Eq => self.vector_int_compare(IntCC::Equal, I64X2),
            I64x2Ne => self.vector_int_compare(IntCC::NotEqual, I64X2),
            I64x2LtS => self.vector_int_compare(IntCC::SignedLessThan, I64X2),
            I64x2GtS => self.vector_int_compare(IntCC::SignedGreaterThan, I64X2),
            I64x2LeS => self.vector_int_compare(IntCC::SignedLessThanOrEqual, I64X2),
            I64x2GeS => self.vector_int_compare(IntCC::SignedGreaterThanOrEqual, I64X2),

            // Floats.
            F32x4Eq => self.vector_float_compare(FloatCC::Equal, F32X4),
            F32x4Ne => self.vector_float_compare(FloatCC::NotEqual, F32X4),
            F32x4Lt => self.vector_float_compare(FloatCC::LessThan, F32X4),
            F32x4Gt => self.vector_float_compare(FloatCC::GreaterThan, F32X4),
            F32x4Le => self.vector_float_compare(FloatCC::LessThanOrEqual, F32X4),
            F32x4Ge => self.vector_float_compare(FloatCC::GreaterThanOrEqual, F32X4),
            F64x2Eq => self.vector_float_compare(FloatCC::Equal, F64X2),
            F64x2Ne => self.vector_float_compare(FloatCC::NotEqual, F64X2),
            F64x2Lt => self.vector_float_compare(FloatCC::LessThan, F64X2),
            F64x2Gt => self.vector_float_compare(FloatCC::GreaterThan, F64X2),
            F64x2Le => self.vector_float_compare(FloatCC::LessThanOrEqual, F64X2),
            F64x2Ge => self.vector_float_compare(FloatCC::GreaterThanOrEqual, F64X2),
            other => return self.dispatch_vector_integer(other),
        }
        Ok(())
    }

    /// Integers: arithmetic lane by lane.
    fn dispatch_vector_integer(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            I8x16Abs => self.vector_unary(Clif::Iabs, I8X16),
            I16x8Abs => self.vector_unary(Clif::Iabs, I16X8),
            I32x4Abs => self.vector_unary(Clif::Iabs, I32X4),
            I64x2Abs => self.vector_unary(Clif::Iabs, I64X2),
            I8x16Neg => self.vector_unary(Clif::Ineg, I8X16),
            I16x8Neg => self.vector_unary(Clif::Ineg, I16X8),
            I32x4Neg => self.vector_unary(Clif::Ineg, I32X4),
            I64x2Neg => self.vector_unary(Clif::Ineg, I64X2),
            I8x16Popcnt => self.vector_unary(Clif::Popcnt, I8X16),
            I8x16Shl => self.vector_shift(Clif::Ishl, I8X16),
            I16x8Shl => self.vector_shift(Clif::Ishl, I16X8),
            I32x4Shl => self.vector_shift(Clif::Ishl, I32X4),
            I64x2Shl => self.vector_shift(Clif::Ishl, I64X2),
            I8x16ShrS => self.vector_shift(Clif::Sshr, I8X16),
            I16x8ShrS => self.vector_shift(Clif::Sshr, I16X8),
            I32x4ShrS => self.vector_shift(Clif::Sshr, I32X4),
            I64x2ShrS => self.vector_shift(Clif::Sshr, I64X2),
            I8x16ShrU => self.vector_shift(Clif::Ushr, I8X16),
            I16x8ShrU => self.vector_shift(Clif::Ushr, I16X8),
            I32x4ShrU => self.vector_shift(Clif::Ushr, I32X4),
            I64x2ShrU => self.vector_shift(Clif::Ushr, I64X2),
            I8x16Add => self.vector_binary(Clif::Iadd, I8X16),
            I16x8Add => self.vector_binary(Clif::Iadd, I16X8),
            I32x4Add => self.vector_binary(Clif::Iadd, I32X4),
            I64x2Add => self.vector_binary(Clif::Iadd, I64X2),
            I8x16AddSatS => self.vector_binary(Clif::SaddSat, I8X16),
            I16x8AddSatS => self.vector_binary(Clif::SaddSat, I16X8),
            I8x16AddSatU => self.vector_binary(Clif::UaddSat, I8X16),
            I16x8AddSatU => self.vector_binary(Clif::UaddSat, I16X8),
            I8x16Sub => self.vector_binary(Clif::Isub, I8X16),
            I16x8Sub => self.vector_binary(Clif::Isub, I16X8),
            I32x4Sub => self.vector_binary(Clif::Isub, I32X4),
            I64x2Sub => self.vector_binary(Clif::Isub, I64X2),
            I8x16SubSatS => self.vector_binary(Clif::SsubSat, I8X16),
            I16x8SubSatS => self.vector_binary(Clif::SsubSat, I16X8),
            I8x16SubSatU => self.vector_binary(Clif::UsubSat, I8X16),
            I16x8SubSatU => self.vector_binary(Clif::UsubSat, I16X8),
            I16x8Mul => self.vector_binary(Clif::Imul, I16X8),
            I32x4Mul => self.vector_binary(Clif::Imul, I32X4),
            I64x2Mul => self.vector_binary(Clif::Imul, I64X2),
            other => return self.dispatch_vector_product(other),
        }
        Ok(())
    }

    /// Integers: the lesser, the greater and the mean; products and sums of neighbours.
    fn dispatch_vector_product(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            I8x16MinS => self.vector_binary(Clif::Smin, I8X16),
            I16x8MinS => self.vector_binary(Clif::Smin, I16X8),
            I32x4MinS => self.vector_binary(Clif::Smin, I32X4),
            I8x16MinU => self.vector_binary(Clif::Umin, I8X16),
            I16x8MinU => self.vector_binary(Clif::Umin, I16X8),
            I32x4MinU => self.vector_binary(Clif::Umin, I32X4),
            I8x16MaxS => self.vector_binary(Clif::Smax, I8X16),
            I16x8MaxS => self.vector_binary(Clif::Smax, I16X8),
            I32x4MaxS => self.vector_binary(Clif::Smax, I32X4),
            I8x16MaxU => self.vector_binary(Clif::Umax, I8X16),
            I16x8MaxU => self.vector_binary(Clif::Umax, I16X8),
            I32x4MaxU => self.vector_binary(Clif::Umax, I32X4),
            I8x16AvgrU => self.vector_binary(Clif::AvgRound, I8X16),
            I16x8AvgrU => self.vector_binary(Clif::AvgRound, I16X8),
            I16x8Q15MulrSatS => self.vector_binary(Clif::SqmulRoundSat, I16X8),
            I32x4DotI16x8S => self.dot(),
            I16x8ExtMulLowI8x16S => self.mul_halves(Clif::SwidenLow, I8X16),
            I16x8ExtMulHighI8x16S => self.mul_halves(Clif::SwidenHigh, I8X16),
            I16x8ExtMulLowI8x16U => self.mul_halves(Clif::UwidenLow, I8X16),
            I16x8ExtMulHighI8x16U => self.mul_halves(Clif::UwidenHigh, I8X16),
            I32x4ExtMulLowI16x8S => self.mul_halves(Clif::SwidenLow, I16X8),
            I32x4ExtMulHighI16x8S => self.mul_halves(Clif::SwidenHigh, I16X8),
            I32x4ExtMulLowI16x8U => self.mul_halves(Clif::UwidenLow, I16X8),
            I32x4ExtMulHighI16x8U => self.mul_halves(Clif::UwidenHigh, I16X8),
            I64x2ExtMulLowI32x4S => self.mul_halves(Clif::SwidenLow, I32X4),
            I64x2ExtMulHighI32x4S => self.mul_halves(Clif::SwidenHigh, I32X4),
            I64x2ExtMulLowI32x4U => self.mul_halves(Clif::UwidenLow, I32X4),
            I64x2ExtMulHighI32x4U => self.mul_halves(Clif::UwidenHigh, I32X4),
            I16x8ExtAddPairwiseI8x16S => self.add_pairs(Clif::SwidenLow, Clif::SwidenHigh, I8X16),
            I16x8ExtAddPairwiseI8x16U => self.add_pairs(Clif::UwidenLow, Clif::UwidenHigh, I8X16),
            I32x4ExtAddPairwiseI16x8S => self.add_pairs(Clif::SwidenLow, Clif::SwidenHigh, I16X8),
            I32x4ExtAddPairwiseI16x8U => self.add_pairs(Clif::UwidenLow, Clif::UwidenHigh, I16X8),
            other => return self.dispatch_vector_float(other),
        }
        Ok(())
    }

    /// Floats.
    fn dispatch_vector_float(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            F32x4Abs => self.vector_unary(Clif::Fabs, F32X4),
            F64x2Abs => self.vector_unary(Clif::Fabs, F64X2),
            F32x4Neg => self.vector_unary(Clif::Fneg, F32X4),
            F64x2Neg => self.vector_unary(Clif::Fneg, F64X2),
            F32x4Ceil => self.vector_unary(Clif::Ceil, F32X4),
            F64x2Ceil => self.vector_unary(Clif::Ceil, F64X2),
            F32x4Floor => self.vector_unary(Clif::Floor, F32X4),
            F64x2Floor => self.vector_unary(Clif::Floor, F64X2),
            F32x4Trunc => self.vector_unary(Clif::Trunc, F32X4),
            F64x2Trunc => self.vector_unary(Clif::Trunc, F64X2),
            F32x4Nearest => self.vector_unary(Clif::Nearest, F32X4),
            F64x2Nearest => self.vector_unary(Clif::Nearest, F64X2),
            F32x4Sqrt => self.vector_unary(Clif::Sqrt, F32X4),
            F64x2Sqrt => self.vector_unary(Clif::Sqrt, F64X2),
            F32x4Add => self.vector_binary(Clif::Fadd, F32X4),
            F64x2Add => self.vector_binary(Clif::Fadd, F64X2),
            F32x4Sub => self.vector_binary(Clif::Fsub, F32X4),
            F64x2Sub => self.vector_binary(Clif::Fsub, F64X2),
            F32x4Mul => self.vector_binary(Clif::Fmul, F32X4),
            F64x2Mul => self.vector_binary(Clif::Fmul, F64X2),
            F32x4Div => self.vector_binary(Clif::Fdiv, F32X4),
            F64x2Div => self.vector_binary(Clif::Fdiv, F64X2),
            F32x4Min => self.vector_binary(Clif::Fmin, F32X4),
            F64x2Min => self.vector_binary(Clif::Fmin, F64X2),
            F32x4Max => self.vector_binary(Clif::Fmax, F32X4),
            F64x2Max => self.vector_binary(Clif::Fmax, F64X2),
            F32x4PMin => self.pseudo_min(F32X4),
            F64x2PMin => self.pseudo_min(F64X2),
            F32x4PMax => self.pseudo_max(F32X4),
            F64x2PMax => self.pseudo_max(F64X2),
            other => return self.dispatch_vector_conversion(other),
        }
        Ok(())
    }

    /// Conversions.
    fn dispatch_vector_conversion(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            I8x16NarrowI16x8S => self.vector_binary(Clif::Snarrow, I16X8),
            I8x16NarrowI16x8U => self.vector_binary(Clif::Unarrow, I16X8),
            I16x8NarrowI32x4S => self.vector_binary(Clif::Snarrow, I32X4),
            I16x8NarrowI32x4U => self.vector_binary(Clif::Unarrow, I32X4),
            I16x8ExtendLowI8x16S => self.vector_unary(Clif::SwidenLow, I8X16),
            I16x8ExtendHighI8x16S => self.vector_unary(Clif::SwidenHigh, I8X16),
            I16x8ExtendLowI8x16U => self.vector_unary(Clif::UwidenLow, I8X16),
            I16x8ExtendHighI8x16U => self.vector_unary(Clif::UwidenHigh, I8X16),
            I32x4ExtendLowI16x8S => self.vector_unary(Clif::SwidenLow, I16X8),
            I32x4ExtendHighI16x8S => self.vector_unary(Clif::SwidenHigh, I16X8),
            I32x4ExtendLowI16x8U => self.vector_unary(Clif::UwidenLow, I16X8),
            I32x4ExtendHighI16x8U => self.vector_unary(Clif::UwidenHigh, I16X8),
            I64x2ExtendLowI32x4S => self.vector_unary(Clif::SwidenLow, I32X4),
            I64x2ExtendHighI32x4S => self.vector_unary(Clif::SwidenHigh, I32X4),
            I64x2ExtendLowI32x4U => self.vector_unary(Clif::UwidenLow, I32X4),
            I64x2ExtendHighI32x4U => self.vector_unary(Clif::UwidenHigh, I32X4),
            I32x4TruncSatF32x4S => self.vector_convert(Clif::FcvtToSintSat, F32X4, I32X4),
            I32x4TruncSatF32x4U => self.vector_convert(Clif::FcvtToUintSat, F32X4, I32X4),
            I32x4TruncSatF64x2SZero => self.trunc_zero(Clif::FcvtToSintSat, Clif::Snarrow),
            I32x4TruncSatF64x2UZero => self.trunc_zero(Clif::FcvtToUintSat, Clif::Uunarrow),
            F32x4ConvertI32x4S => self.vector_convert(Clif::FcvtFromSint, I32X4, F32X4),
            F32x4ConvertI32x4U => self.vector_convert(Clif::FcvtFromUint, I32X4, F32X4),
            F64x2ConvertLowI32x4S => self.convert_low(Clif::SwidenLow, Clif::FcvtFromSint),
            F64x2ConvertLowI32x4U => self.convert_low(Clif::UwidenLow, Clif::FcvtFromUint),
            F32x4DemoteF64x2Zero => self.vector_unary(Clif::Fvdemote, F64X2),
            F64x2PromoteLowF32x4 => self.vector_unary(Clif::FvpromoteLow, F32X4),
            other => return self.dispatch_relaxed(other),
        }
        Ok(())
    }

    /// Relaxed operators: what is chosen, and why, is in `op/simd/relaxed.rs`.
    fn dispatch_relaxed(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            I8x16RelaxedSwizzle => self.vector_binary(Clif::Swizzle, I8X16),
            I32x4RelaxedTruncF32x4S => self.vector_convert(Clif::FcvtToSintSat, F32X4, I32X4),
            I32x4RelaxedTruncF32x4U => self.vector_convert(Clif::FcvtToUintSat, F32X4, I32X4),
            I32x4RelaxedTruncF64x2SZero => self.trunc_zero(Clif::FcvtToSintSat, Clif::Snarrow),
            I32x4RelaxedTruncF64x2UZero => self.trunc_zero(Clif::FcvtToUintSat, Clif::Uunarrow),
            F32x4RelaxedMadd => self.relaxed_madd(F32X4),
            F64x2RelaxedMadd => self.relaxed_madd(F64X2),
            F32x4RelaxedNmadd => self.relaxed_nmadd(F32X4),
            F64x2RelaxedNmadd => self.relaxed_nmadd(F64X2),
            I8x16RelaxedLaneselect | I16x8RelaxedLaneselect | I32x4RelaxedLaneselect | I64x2RelaxedLaneselect => self.bitselect(),
            F32x4RelaxedMin => self.vector_binary(Clif::Fmin, F32X4),
            F64x2RelaxedMin => self.vector_binary(Clif::Fmin, F64X2),
            F32x4RelaxedMax => self.vector_binary(Clif::Fmax, F32X4),
            F64x2RelaxedMax => self.vector_binary(Clif::Fmax, F64X2),
            I16x8RelaxedQ15mulrS => self.vector_binary(Clif::SqmulRoundSat, I16X8),
            I16x8RelaxedDotI8x16I7x16S => self.relaxed_dot(),
            I32x4RelaxedDotI8x16I7x16AddS => self.relaxed_dot_add(),
            other => return Err(self.not_supported(other)),
        }
        Ok(())
    }
}
