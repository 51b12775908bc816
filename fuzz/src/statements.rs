//! What statements have in common that are put into the functions of a random module.

use crate::operators::{constant, naming};
use crate::parts::{Function, Op, Parts};
use crate::sections::GLOBAL;
use arbitrary::{Result, Unstructured};
use wasmparser::ValType;

/// Operators, each with its immediates.
pub type Ops = Vec<Vec<u8>>;

const LOCAL_GET: u8 = 0x20;
const GLOBAL_GET: u8 = 0x23;
const GLOBAL_SET: u8 = 0x24;

/// How many operators `wasm-smith` puts in front of each function, by which the module ends.
const PAYMENT: usize = 9;

/// The globals that statements go by.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// What the module lets itself do still: an i32.
    fuel: u32,
    /// What results are mixed into.
    sum: u32,
}

impl Ground {
    /// Adds to a module that was made to end what statements need.
    pub fn add(parts: &mut Parts) -> Option<Ground> {
        let fuel = parts.counts.globals.checked_sub(1)?;
        // A variable i64 that is 0.
        let sum = parts.add(GLOBAL, &[0x7e, 1, 0x42, 0, 0x0b])?;
        Some(Ground { fuel, sum })
    }

    /// The operator before which to put a statement: behind the function's payment, and in none of a loop's, which would pay with what there was
    /// before the statement. None, if the function does not pay.
    pub fn place(&self, function: &Function, u: &mut Unstructured<'_>) -> Result<Option<usize>> {
        let is = |at: usize, code| {
            function
                .ops
                .get(at)
                .is_some_and(|op| op.bytes == naming(code, self.fuel))
        };
        if !is(0, GLOBAL_GET) || !is(PAYMENT - 1, GLOBAL_SET) {
            return Ok(None);
        }
        let first = u.int_in_range(PAYMENT..=function.ops.len() - 1)?;
        let is_paying = |place: &usize| {
            let paid = (0..*place).rfind(|at| is(*at, GLOBAL_GET) || is(*at, GLOBAL_SET));
            paid.is_some_and(|at| is(at, GLOBAL_GET))
        };
        Ok((first..function.ops.len()).find(|place| !is_paying(place)))
    }

    /// An i32 that is 0 once in eight times, more or less.
    pub fn seldom_zero(&self) -> Ops {
        vec![
            naming(GLOBAL_GET, self.sum),
            vec![0xa7],
            vec![0x41, 7],
            vec![0x71],
        ]
    }

    /// Takes a result from the stack, so that it is seen.
    pub fn mix(&self, ty: ValType) -> Ops {
        let to_i64: &[&[u8]] = match ty {
            ValType::I32 => &[&[0xad]],
            ValType::I64 => &[],
            ValType::F32 => &[&[0xbc], &[0xad]],
            ValType::F64 => &[&[0xbd]],
            ValType::V128 => &[&[0xfd, 29, 0]],
            ValType::Ref(_) => &[&[0xd1], &[0xad]],
        };
        let mut ops: Ops = to_i64.iter().map(|bytes| bytes.to_vec()).collect();
        // sum = rotl(sum, 1) ^ result
        ops.extend([
            naming(GLOBAL_GET, self.sum),
            vec![0x42, 1],
            vec![0x89],
            vec![0x85],
        ]);
        ops.push(naming(GLOBAL_SET, self.sum));
        ops
    }
}

/// Whether [`argument`] has a value of the type.
pub fn has_argument(ty: ValType) -> bool {
    match ty {
        ValType::Ref(_) => matches!(ty, ValType::FUNCREF | ValType::EXTERNREF | ValType::EXNREF),
        _ => true,
    }
}

/// A value of a type that [has one](has_argument): a local's, a constant, null.
pub fn argument(function: &Function, ty: ValType, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let locals = function.locals_of(ty);
    if !locals.is_empty() && u.ratio(2, 3)? {
        return Ok(naming(LOCAL_GET, *u.choose(&locals)?));
    }
    let null = match ty {
        ValType::FUNCREF => 0x70,
        ValType::EXTERNREF => 0x6f,
        _ => 0x69,
    };
    Ok(constant(ty, u)?.unwrap_or_else(|| vec![0xd0, null]))
}

/// Puts a statement before an operator.
pub fn insert(function: &mut Function, at: usize, ops: Ops) {
    function.ops.splice(at..at, ops.into_iter().map(Op::new));
}
