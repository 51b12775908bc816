//! Constant expressions: what initial values and the places of segments are computed from.
//!
//! Most are one operator. What is longer is a list of [`ConstOp`]s in postfix order, kept by the module; if it
//! depends on nothing but numbers, it is computed when it is read. Spec: core/valid/instructions, constant expressions.

/// A constant expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConstExpr {
    /// An i32.
    I32(i32),
    /// An i64.
    I64(i64),
    /// An f32, by its bits.
    F32(u32),
    /// An f64, by its bits.
    F64(u64),
    /// A vector, lane 0 in the low bits.
    V128(u128),
    /// The value of a global with this index.
    GlobalGet(u32),
    /// A null reference.
    RefNull,
    /// A reference of the function with this index. It has a record in the vmctx.
    RefFunc(u32),
    /// The result of operators: those of the module from the first place to the one before the second.
    Extended(u32, u32),
}

impl ConstExpr {
    /// Whether it is known before there is an instance: all but what imported globals have a part in.
    pub(crate) fn is_known(self) -> bool {
        !matches!(self, ConstExpr::GlobalGet(_) | ConstExpr::Extended(..))
    }
}

/// An operator of an extended constant expression. Integers wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConstOp {
    /// Pushes a value.
    Value(ConstExpr),
    /// Adds two i32.
    I32Add,
    /// Subtracts two i32.
    I32Sub,
    /// Multiplies two i32.
    I32Mul,
    /// Adds two i64.
    I64Add,
    /// Subtracts two i64.
    I64Sub,
    /// Multiplies two i64.
    I64Mul,
}

/// The result of operators, as the low bits of a word; `value` gives those of what is pushed. None if one of those is not
/// known, or the operators are not valid.
pub fn evaluate(ops: &[ConstOp], mut value: impl FnMut(ConstExpr) -> Option<u64>) -> Option<u64> {
    let mut stack = Vec::new();
    for op in ops {
        let result = match op {
            ConstOp::Value(expr) => value(*expr)?,
            _ => {
                let (right, left) = (stack.pop()?, stack.pop()?);
                binary(*op, left, right)
            }
        };
        stack.push(result);
    }
    stack.pop()
}

fn binary(op: ConstOp, left: u64, right: u64) -> u64 {
    let (left_32, right_32) = (left as u32, right as u32);
    match op {
        ConstOp::I32Add => left_32.wrapping_add(right_32).into(),
        ConstOp::I32Sub => left_32.wrapping_sub(right_32).into(),
        ConstOp::I32Mul => left_32.wrapping_mul(right_32).into(),
        ConstOp::I64Add => left.wrapping_add(right),
        ConstOp::I64Sub => left.wrapping_sub(right),
        ConstOp::I64Mul => left.wrapping_mul(right),
        ConstOp::Value(_) => left,
    }
}

/// The number that operators compute, if they depend on nothing else.
pub(crate) fn fold(ops: &[ConstOp]) -> Option<ConstExpr> {
    let is_64 = matches!(ops.last()?, ConstOp::I64Add | ConstOp::I64Sub | ConstOp::I64Mul);
    let word = evaluate(ops, |expr| match expr {
        ConstExpr::I32(value) => Some(u64::from(value as u32)),
        ConstExpr::I64(value) => Some(value as u64),
        _ => None,
    })?;
    Some(match is_64 {
        true => ConstExpr::I64(word as i64),
        false => ConstExpr::I32(word as i32),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i32(value: i32) -> ConstOp {
        ConstOp::Value(ConstExpr::I32(value))
    }

    fn i64(value: i64) -> ConstOp {
        ConstOp::Value(ConstExpr::I64(value))
    }

    #[test]
    fn numbers_are_computed_and_wrap_around() {
        let ops = [i32(5), i32(7), ConstOp::I32Sub, i32(3), ConstOp::I32Mul];
        assert_eq!(fold(&ops), Some(ConstExpr::I32(-6)));
        let ops = [i32(i32::MAX), i32(1), ConstOp::I32Add];
        assert_eq!(fold(&ops), Some(ConstExpr::I32(i32::MIN)));
        let ops = [i64(i64::MIN), i64(1), ConstOp::I64Sub];
        assert_eq!(fold(&ops), Some(ConstExpr::I64(i64::MAX)));
        let ops = [i64(1 << 32), i64(3), ConstOp::I64Mul];
        assert_eq!(fold(&ops), Some(ConstExpr::I64(3 << 32)));
    }

    #[test]
    fn what_a_global_holds_is_asked_for() {
        let ops = [ConstOp::Value(ConstExpr::GlobalGet(4)), i32(2), ConstOp::I32Add];
        assert_eq!(fold(&ops), None);
        // The other bytes of an i32's cell may hold anything.
        let word = evaluate(&ops, |expr| match expr {
            ConstExpr::GlobalGet(4) => Some(0xdead_beef_0000_0028),
            ConstExpr::I32(value) => Some(value as u64),
            _ => None,
        });
        assert_eq!(word, Some(42));
    }
}
