//! The tables: which operator is translated by what. There is one for each chapter of the specification, and what has no row in one
//! is looked for in the next, those that functions have most of first. Vectors have their own.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F64, I8, I16, I32, I64};
use cranelift_codegen::ir::{AtomicRmwOp as Rmw, Opcode as Clif};
use wasmparser::Operator;

use crate::translate::Translator;
use crate::{Builtin, CompileError};

mod simd;

#[rustfmt::skip]
impl Translator<'_> {
    /// Translates an operator that is reached: control, parametric operators, variables and constants, or one of the tables below.
    pub(crate) fn dispatch(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            // Control.
            Nop => {}
            Unreachable => self.unreachable(),
            Block { blockty } => self.block(*blockty)?,
            Loop { blockty } => self.r#loop(*blockty)?,
            If { blockty } => self.r#if(*blockty)?,
            Else => self.r#else(),
            End => self.end(),
            Br { relative_depth } => self.br(*relative_depth),
            BrIf { relative_depth } => self.br_if(*relative_depth),
            BrTable { targets } => self.br_table(targets)?,
            Return => self.r#return(),
            Call { function_index } => self.call(*function_index),
            CallIndirect { type_index, table_index } => self.call_indirect(*type_index, *table_index),
            CallRef { type_index } => self.call_ref(*type_index),
            ReturnCall { function_index } => self.return_call(*function_index),
            ReturnCallIndirect { type_index, table_index } => self.return_call_indirect(*type_index, *table_index),
            ReturnCallRef { type_index } => self.return_call_ref(*type_index)?,
            BrOnNull { relative_depth } => self.br_on_null(*relative_depth),
            BrOnNonNull { relative_depth } => self.br_on_non_null(*relative_depth),

            // Parametric.
            Drop => { self.pop(); }
            Select => self.select(),
            TypedSelect { ty } => self.typed_select(*ty)?,

            // Variables.
            LocalGet { local_index } => self.local_get(*local_index),
            LocalSet { local_index } => self.local_set(*local_index),
            LocalTee { local_index } => self.local_tee(*local_index),
            GlobalGet { global_index } => self.global_get(*global_index),
            GlobalSet { global_index } => self.global_set(*global_index),

            // Constants.
            I32Const { value } => self.i32_const(*value),
            I64Const { value } => self.i64_const(*value),
            F32Const { value } => self.f32_const(value.bits()),
            F64Const { value } => self.f64_const(value.bits()),
            other => return self.dispatch_memory(other),
        }
        Ok(())
    }

    /// Memories.
    fn dispatch_memory(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            I32Load { memarg } => self.load(Clif::Load, I32, 4, memarg),
            I64Load { memarg } => self.load(Clif::Load, I64, 8, memarg),
            F32Load { memarg } => self.load(Clif::Load, F32, 4, memarg),
            F64Load { memarg } => self.load(Clif::Load, F64, 8, memarg),
            I32Load8S { memarg } => self.load(Clif::Sload8, I32, 1, memarg),
            I32Load8U { memarg } => self.load(Clif::Uload8, I32, 1, memarg),
            I32Load16S { memarg } => self.load(Clif::Sload16, I32, 2, memarg),
            I32Load16U { memarg } => self.load(Clif::Uload16, I32, 2, memarg),
            I64Load8S { memarg } => self.load(Clif::Sload8, I64, 1, memarg),
            I64Load8U { memarg } => self.load(Clif::Uload8, I64, 1, memarg),
            I64Load16S { memarg } => self.load(Clif::Sload16, I64, 2, memarg),
            I64Load16U { memarg } => self.load(Clif::Uload16, I64, 2, memarg),
            I64Load32S { memarg } => self.load(Clif::Sload32, I64, 4, memarg),
            I64Load32U { memarg } => self.load(Clif::Uload32, I64, 4, memarg),
            I32Store { memarg } | F32Store { memarg } => self.store(Clif::Store, 4, memarg),
            I64Store { memarg } | F64Store { memarg } => self.store(Clif::Store, 8, memarg),
            I32Store8 { memarg } | I64Store8 { memarg } => self.store(Clif::Istore8, 1, memarg),
            I32Store16 { memarg } | I64Store16 { memarg } => self.store(Clif::Istore16, 2, memarg),
            I64Store32 { memarg } => self.store(Clif::Istore32, 4, memarg),
            MemorySize { mem } => self.memory_size(*mem),
            MemoryGrow { mem } => self.memory_grow(*mem),
            MemoryFill { mem } => self.memory_fill(*mem),
            MemoryCopy { dst_mem, src_mem } => self.memory_copy(*dst_mem, *src_mem),
            MemoryInit { data_index, mem } => self.memory_init(*mem, *data_index),
            DataDrop { data_index } => self.data_drop(*data_index),
            other => return self.dispatch_integer(other),
        }
        Ok(())
    }

    /// Numbers: integers.
    fn dispatch_integer(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            I32Clz | I64Clz => self.unary(Clif::Clz),
            I32Ctz | I64Ctz => self.unary(Clif::Ctz),
            I32Popcnt | I64Popcnt => self.unary(Clif::Popcnt),
            I32Add | I64Add => self.binary(Clif::Iadd),
            I32Sub | I64Sub => self.binary(Clif::Isub),
            I32Mul | I64Mul => self.binary(Clif::Imul),
            I32DivS | I64DivS => self.div_s(),
            I32DivU | I64DivU => self.divide(Clif::Udiv),
            I32RemS | I64RemS => self.divide(Clif::Srem),
            I32RemU | I64RemU => self.divide(Clif::Urem),
            I32And | I64And => self.binary(Clif::Band),
            I32Or | I64Or => self.binary(Clif::Bor),
            I32Xor | I64Xor => self.binary(Clif::Bxor),
            I32Shl | I64Shl => self.binary(Clif::Ishl),
            I32ShrS | I64ShrS => self.binary(Clif::Sshr),
            I32ShrU | I64ShrU => self.binary(Clif::Ushr),
            I32Rotl | I64Rotl => self.binary(Clif::Rotl),
            I32Rotr | I64Rotr => self.binary(Clif::Rotr),
            I32Eqz | I64Eqz => self.eqz(),
            I32Eq | I64Eq => self.int_compare(IntCC::Equal),
            I32Ne | I64Ne => self.int_compare(IntCC::NotEqual),
            I32LtS | I64LtS => self.int_compare(IntCC::SignedLessThan),
            I32LtU | I64LtU => self.int_compare(IntCC::UnsignedLessThan),
            I32GtS | I64GtS => self.int_compare(IntCC::SignedGreaterThan),
            I32GtU | I64GtU => self.int_compare(IntCC::UnsignedGreaterThan),
            I32LeS | I64LeS => self.int_compare(IntCC::SignedLessThanOrEqual),
            I32LeU | I64LeU => self.int_compare(IntCC::UnsignedLessThanOrEqual),
            I32GeS | I64GeS => self.int_compare(IntCC::SignedGreaterThanOrEqual),
            I32GeU | I64GeU => self.int_compare(IntCC::UnsignedGreaterThanOrEqual),
            other => return self.dispatch_float(other),
        }
        Ok(())
    }

    /// Numbers: floats.
    fn dispatch_float(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            F32Abs | F64Abs => self.unary(Clif::Fabs),
            F32Neg | F64Neg => self.unary(Clif::Fneg),
            F32Ceil | F64Ceil => self.unary(Clif::Ceil),
            F32Floor | F64Floor => self.unary(Clif::Floor),
            F32Trunc | F64Trunc => self.unary(Clif::Trunc),
            F32Nearest | F64Nearest => self.unary(Clif::Nearest),
            F32Sqrt | F64Sqrt => self.unary(Clif::Sqrt),
            F32Add | F64Add => self.binary(Clif::Fadd),
            F32Sub | F64Sub => self.binary(Clif::Fsub),
            F32Mul | F64Mul => self.binary(Clif::Fmul),
            F32Div | F64Div => self.binary(Clif::Fdiv),
            F32Min | F64Min => self.binary(Clif::Fmin),
            F32Max | F64Max => self.binary(Clif::Fmax),
            F32Copysign | F64Copysign => self.binary(Clif::Fcopysign),
            F32Eq | F64Eq => self.float_compare(FloatCC::Equal),
            F32Ne | F64Ne => self.float_compare(FloatCC::NotEqual),
            F32Lt | F64Lt => self.float_compare(FloatCC::LessThan),
            F32Gt | F64Gt => self.float_compare(FloatCC::GreaterThan),
            F32Le | F64Le => self.float_compare(FloatCC::LessThanOrEqual),
            F32Ge | F64Ge => self.float_compare(FloatCC::GreaterThanOrEqual),
            other => return self.dispatch_conversion(other),
        }
        Ok(())
    }

    /// Numbers: conversions.
    fn dispatch_conversion(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            I32WrapI64 => self.convert(Clif::Ireduce, I32),
            I64ExtendI32S => self.convert(Clif::Sextend, I64),
            I64ExtendI32U => self.convert(Clif::Uextend, I64),
            I32Extend8S => self.extend(I8, I32),
            I32Extend16S => self.extend(I16, I32),
            I64Extend8S => self.extend(I8, I64),
            I64Extend16S => self.extend(I16, I64),
            I64Extend32S => self.extend(I32, I64),
            I32TruncF32S | I32TruncF64S => self.trunc(Clif::FcvtToSintSat, I32),
            I32TruncF32U | I32TruncF64U => self.trunc(Clif::FcvtToUintSat, I32),
            I64TruncF32S | I64TruncF64S => self.trunc(Clif::FcvtToSintSat, I64),
            I64TruncF32U | I64TruncF64U => self.trunc(Clif::FcvtToUintSat, I64),
            I32TruncSatF32S | I32TruncSatF64S => self.convert(Clif::FcvtToSintSat, I32),
            I32TruncSatF32U | I32TruncSatF64U => self.convert(Clif::FcvtToUintSat, I32),
            I64TruncSatF32S | I64TruncSatF64S => self.convert(Clif::FcvtToSintSat, I64),
            I64TruncSatF32U | I64TruncSatF64U => self.convert(Clif::FcvtToUintSat, I64),
            F32ConvertI32S | F32ConvertI64S => self.convert(Clif::FcvtFromSint, F32),
            F32ConvertI32U | F32ConvertI64U => self.convert(Clif::FcvtFromUint, F32),
            F64ConvertI32S | F64ConvertI64S => self.convert(Clif::FcvtFromSint, F64),
            F64ConvertI32U | F64ConvertI64U => self.convert(Clif::FcvtFromUint, F64),
            F32DemoteF64 => self.convert(Clif::Fdemote, F32),
            F64PromoteF32 => self.convert(Clif::Fpromote, F64),
            I32ReinterpretF32 => self.reinterpret(I32),
            I64ReinterpretF64 => self.reinterpret(I64),
            F32ReinterpretI32 => self.reinterpret(F32),
            F64ReinterpretI64 => self.reinterpret(F64),
            other => return self.dispatch_wide(other),
        }
        Ok(())
    }

    /// Numbers: wide arithmetic.
    fn dispatch_wide(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            I64Add128 => self.wide_binary(Clif::Iadd),
            I64Sub128 => self.wide_binary(Clif::Isub),
            I64MulWideS => self.mul_wide(Clif::Sextend),
            I64MulWideU => self.mul_wide(Clif::Uextend),
            other => return self.dispatch_reference(other),
        }
        Ok(())
    }

    /// References, tables and exceptions.
    fn dispatch_reference(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            // References.
            RefNull { hty } => self.ref_null(*hty)?,
            RefIsNull => self.ref_is_null(),
            RefAsNonNull => self.ref_as_non_null(),
            RefFunc { function_index } => self.ref_func(*function_index),

            // Tables.
            TableGet { table } => self.table_get(*table),
            TableSet { table } => self.table_set(*table),
            TableSize { table } => self.table_size(*table),
            TableGrow { table } => self.table_grow(*table),
            TableFill { table } => self.table_fill(*table),
            TableCopy { dst_table, src_table } => self.table_copy(*dst_table, *src_table),
            TableInit { elem_index, table } => self.table_init(*table, *elem_index),
            ElemDrop { elem_index } => self.elem_drop(*elem_index),

            // Exceptions.
            TryTable { try_table } => self.try_table(try_table)?,
            Throw { tag_index } => self.throw(*tag_index),
            ThrowRef => self.throw_ref(),
            other => return self.dispatch_atomic(other),
        }
        Ok(())
    }

    /// Atomics.
    fn dispatch_atomic(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        use Operator::*;
        match operator {
            MemoryAtomicNotify { memarg } => self.atomic_notify(memarg),
            MemoryAtomicWait32 { memarg } => self.atomic_wait(Builtin::MemoryAtomicWait32, memarg),
            MemoryAtomicWait64 { memarg } => self.atomic_wait(Builtin::MemoryAtomicWait64, memarg),
            AtomicFence { .. } => self.atomic_fence(),
            I32AtomicLoad { memarg } | I32AtomicLoad8U { memarg } | I32AtomicLoad16U { memarg } => self.atomic_load(I32, memarg),
            I64AtomicLoad { memarg } | I64AtomicLoad8U { memarg } | I64AtomicLoad16U { memarg } | I64AtomicLoad32U { memarg } => self.atomic_load(I64, memarg),
            I32AtomicStore { memarg } | I32AtomicStore8 { memarg } | I32AtomicStore16 { memarg }
            | I64AtomicStore { memarg } | I64AtomicStore8 { memarg } | I64AtomicStore16 { memarg } | I64AtomicStore32 { memarg } => self.atomic_store(memarg),
            I32AtomicRmwAdd { memarg } | I32AtomicRmw8AddU { memarg } | I32AtomicRmw16AddU { memarg }
            | I64AtomicRmwAdd { memarg } | I64AtomicRmw8AddU { memarg } | I64AtomicRmw16AddU { memarg } | I64AtomicRmw32AddU { memarg } => self.atomic_rmw(Rmw::Add, memarg),
            I32AtomicRmwSub { memarg } | I32AtomicRmw8SubU { memarg } | I32AtomicRmw16SubU { memarg }
            | I64AtomicRmwSub { memarg } | I64AtomicRmw8SubU { memarg } | I64AtomicRmw16SubU { memarg } | I64AtomicRmw32SubU { memarg } => self.atomic_rmw(Rmw::Sub, memarg),
            I32AtomicRmwAnd { memarg } | I32AtomicRmw8AndU { memarg } | I32AtomicRmw16AndU { memarg }
            | I64AtomicRmwAnd { memarg } | I64AtomicRmw8AndU { memarg } | I64AtomicRmw16AndU { memarg } | I64AtomicRmw32AndU { memarg } => self.atomic_rmw(Rmw::And, memarg),
            I32AtomicRmwOr { memarg } | I32AtomicRmw8OrU { memarg } | I32AtomicRmw16OrU { memarg }
            | I64AtomicRmwOr { memarg } | I64AtomicRmw8OrU { memarg } | I64AtomicRmw16OrU { memarg } | I64AtomicRmw32OrU { memarg } => self.atomic_rmw(Rmw::Or, memarg),
            I32AtomicRmwXor { memarg } | I32AtomicRmw8XorU { memarg } | I32AtomicRmw16XorU { memarg }
            | I64AtomicRmwXor { memarg } | I64AtomicRmw8XorU { memarg } | I64AtomicRmw16XorU { memarg } | I64AtomicRmw32XorU { memarg } => self.atomic_rmw(Rmw::Xor, memarg),
            I32AtomicRmwXchg { memarg } | I32AtomicRmw8XchgU { memarg } | I32AtomicRmw16XchgU { memarg }
            | I64AtomicRmwXchg { memarg } | I64AtomicRmw8XchgU { memarg } | I64AtomicRmw16XchgU { memarg } | I64AtomicRmw32XchgU { memarg } => self.atomic_rmw(Rmw::Xchg, memarg),
            I32AtomicRmwCmpxchg { memarg } | I32AtomicRmw8CmpxchgU { memarg } | I32AtomicRmw16CmpxchgU { memarg }
            | I64AtomicRmwCmpxchg { memarg } | I64AtomicRmw8CmpxchgU { memarg } | I64AtomicRmw16CmpxchgU { memarg } | I64AtomicRmw32CmpxchgU { memarg } => self.atomic_cmpxchg(memarg),
            other => return self.dispatch_vector(other),
        }
        Ok(())
    }

    /// An operator that validation lets pass, but that has no row.
    pub(crate) fn not_supported(&self, operator: &Operator<'_>) -> CompileError {
        CompileError::garbage_collection(self.offset.into(), format!("{operator:?}"))
    }
}
