//! Numeric instructions.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, Opcode, Type, Value, types};

use crate::TrapCode;
use crate::translate::Translator;

/// Constants.
impl Translator<'_> {
    pub(crate) fn i32_const(&mut self, value: i32) {
        let value = self.b.ins().iconst(types::I32, i64::from(value as u32));
        self.push(value);
    }

    pub(crate) fn i64_const(&mut self, value: i64) {
        let value = self.b.ins().iconst(types::I64, value);
        self.push(value);
    }

    pub(crate) fn f32_const(&mut self, bits: u32) {
        let value = self.b.ins().f32const(Ieee32::with_bits(bits));
        self.push(value);
    }

    pub(crate) fn f64_const(&mut self, bits: u64) {
        let value = self.b.ins().f64const(Ieee64::with_bits(bits));
        self.push(value);
    }
}

/// Operators that CLIF has, with the same meaning: shift counts are taken modulo the width, floats follow
/// IEEE 754, `min`, `max` and comparisons treat NaN as Wasm does.
impl Translator<'_> {
    /// Pop a value, push one of the same type.
    pub(crate) fn unary(&mut self, opcode: Opcode) {
        let operand = self.pop();
        let ty = self.b.func.dfg.value_type(operand);
        let (inst, dfg) = self.b.ins().Unary(opcode, ty, operand);
        let result = dfg.first_result(inst);
        self.push(result);
    }

    /// Pop two values, push one of the same type.
    pub(crate) fn binary(&mut self, opcode: Opcode) {
        let (left, right) = self.pop2();
        let result = self.binary_of(opcode, left, right);
        self.push(result);
    }

    pub(crate) fn binary_of(&mut self, opcode: Opcode, left: Value, right: Value) -> Value {
        let ty = self.b.func.dfg.value_type(left);
        let (inst, dfg) = self.b.ins().Binary(opcode, ty, left, right);
        dfg.first_result(inst)
    }

    /// Pop a value, push its conversion to another type.
    pub(crate) fn convert(&mut self, opcode: Opcode, to: Type) {
        let operand = self.pop();
        let result = self.converted(opcode, to, operand);
        self.push(result);
    }

    pub(crate) fn converted(&mut self, opcode: Opcode, to: Type, operand: Value) -> Value {
        let (inst, dfg) = self.b.ins().Unary(opcode, to, operand);
        dfg.first_result(inst)
    }

    /// `extendN_s`: sign extend the low bits.
    pub(crate) fn extend(&mut self, from: Type, to: Type) {
        let operand = self.pop();
        let low = self.b.ins().ireduce(from, operand);
        let result = self.b.ins().sextend(to, low);
        self.push(result);
    }

    /// `reinterpret`: the same bits as another type.
    pub(crate) fn reinterpret(&mut self, to: Type) {
        let operand = self.pop();
        let result = self.b.ins().bitcast(to, MemFlagsData::new(), operand);
        self.push(result);
    }

    /// `eqz`
    pub(crate) fn eqz(&mut self) {
        let operand = self.pop();
        let zero = self.b.ins().icmp_imm_s(IntCC::Equal, operand, 0);
        self.push_bool(zero);
    }

    /// Compare two integers.
    pub(crate) fn int_compare(&mut self, condition: IntCC) {
        let (left, right) = self.pop2();
        let holds = self.b.ins().icmp(condition, left, right);
        self.push_bool(holds);
    }

    /// Compare two floats.
    pub(crate) fn float_compare(&mut self, condition: FloatCC) {
        let (left, right) = self.pop2();
        let holds = self.b.ins().fcmp(condition, left, right);
        self.push_bool(holds);
    }

    pub(crate) fn push_bool(&mut self, holds: Value) {
        let holds = self.b.ins().uextend(types::I32, holds);
        self.push(holds);
    }
}

/// Division. A constant divisor needs no checks; else they stand before the division, so that the trap is a
/// branch and not a fault.
impl Translator<'_> {
    /// `div_s`: traps if the divisor is zero, or the quotient one too large.
    pub(crate) fn div_s(&mut self) {
        let (dividend, divisor) = self.pop2();
        self.trap_if_zero(divisor);
        self.trap_if_quotient_overflows(dividend, divisor);
        let result = self.binary_of(Opcode::Sdiv, dividend, divisor);
        self.push(result);
    }

    /// `div_u`, `rem_s` and `rem_u`: traps if the divisor is zero.
    pub(crate) fn divide(&mut self, opcode: Opcode) {
        let (dividend, divisor) = self.pop2();
        self.trap_if_zero(divisor);
        let result = self.binary_of(opcode, dividend, divisor);
        self.push(result);
    }

    fn trap_if_zero(&mut self, divisor: Value) {
        if self.constant(divisor).is_none_or(|c| c == 0) {
            let zero = self.b.ins().icmp_imm_s(IntCC::Equal, divisor, 0);
            self.trap_if(zero, TrapCode::IntegerDivisionByZero);
        }
    }

    fn trap_if_quotient_overflows(&mut self, dividend: Value, divisor: Value) {
        if self.constant(divisor).is_none_or(|c| c == -1) {
            let least = match self.b.func.dfg.value_type(dividend) {
                types::I32 => i64::from(i32::MIN),
                _ => i64::MIN,
            };
            // Minus one is rare: what it is divided into is looked at on the cold path.
            let minus_one = self.b.ins().icmp_imm_s(IntCC::Equal, divisor, -1);
            let next = self.branch_cold(minus_one);
            let least = self.b.ins().icmp_imm_s(IntCC::Equal, dividend, least);
            self.trap_if_in_cold(least, TrapCode::IntegerOverflow);
            self.b.ins().jump(next, &[]);
            self.resume(next);
        }
    }
}

/// Conversion of floats to integers.
impl Translator<'_> {
    /// `trunc`: traps on NaN and on what does not fit. The hot path compares with both bounds, which NaN
    /// fails too; which trap it is, is found out on the cold path.
    pub(crate) fn trunc(&mut self, opcode: Opcode, to: Type) {
        let operand = self.pop();
        let (fails, next) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(fails);
        self.branch_if_in_bounds(operand, opcode == Opcode::FcvtToSintSat, to, next, fails);
        self.resume(fails);
        let nan = self.b.ins().fcmp(FloatCC::Unordered, operand, operand);
        self.trap_if_in_cold(nan, TrapCode::BadConversionToInteger);
        self.trap(TrapCode::IntegerOverflow);
        self.resume(next);
        // The operand fits: saturating never happens, but unlike its trapping sister it needs no faults.
        let result = self.converted(opcode, to, operand);
        self.push(result);
    }

    /// Branches on whether a float, truncated, is an integer of this width and signedness.
    fn branch_if_in_bounds(&mut self, operand: Value, signed: bool, to: Type, fits: Block, fails: Block) {
        let from = self.b.func.dfg.value_type(operand);
        let (condition, low, above) = bounds(from, signed, to);
        let low = self.float(from, low);
        let not_below = self.b.ins().fcmp(condition, operand, low);
        let between = self.b.create_block();
        self.b.ins().brif(not_below, between, &[], fails, &[]);
        self.resume(between);
        let above = self.float(from, above);
        let below = self.b.ins().fcmp(FloatCC::LessThan, operand, above);
        self.b.ins().brif(below, fits, &[], fails, &[]);
    }

    fn float(&mut self, ty: Type, value: f64) -> Value {
        match ty {
            types::F32 => self.b.ins().f32const(value as f32),
            _ => self.b.ins().f64const(value),
        }
    }
}

/// The floats of type `from` that truncate to an integer of type `to`: those that compare so with the first,
/// and are less than the second. Exact: each bound is a float of that type. The greatest that is too small
/// is `-2^31 - 1` as an f64; the other types have no float between it and the least integer.
fn bounds(from: Type, signed: bool, to: Type) -> (FloatCC, f64, f64) {
    let two_to = |exponent: u32| 2f64.powi(exponent as i32);
    let bits = to.bits();
    match (signed, from, to) {
        (false, _, _) => (FloatCC::GreaterThan, -1.0, two_to(bits)),
        (true, types::F64, types::I32) => (FloatCC::GreaterThan, -two_to(31) - 1.0, two_to(31)),
        (true, _, _) => (FloatCC::GreaterThanOrEqual, -two_to(bits - 1), two_to(bits - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_conversions_are_exact() {
        let (_, low, above) = bounds(types::F64, true, types::I32);
        assert_eq!((low, above), (-2147483649.0, 2147483648.0));
        let (_, low, above) = bounds(types::F32, true, types::I32);
        assert_eq!((low as f32, above as f32), (i32::MIN as f32, 2147483648.0));
        let (_, low, above) = bounds(types::F32, false, types::I64);
        assert_eq!((low as f32, above as f32), (-1.0, 18446744073709551616.0));
    }
}
