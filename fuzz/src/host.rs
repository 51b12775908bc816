//! What the host functions do, in both engines alike.

use crate::case::{Numbers, mix};
use crate::value::{Type, Value};

/// How deep guests may be called from host functions.
const MAX_DEPTH: u32 = 6;

/// What a memory and a table of a script's module may grow to.
pub const MAX_MEMORY_BYTES: usize = 4 << 20;
pub const MAX_TABLE_ELEMENTS: usize = 2_000;

/// The functions of `spectest`, which return nothing.
pub const SPECTEST_FUNCTIONS: [(&str, &[Type]); 7] = [
    ("print", &[]),
    ("print_i32", &[Type::I32]),
    ("print_i64", &[Type::I64]),
    ("print_f32", &[Type::F32]),
    ("print_f64", &[Type::F64]),
    ("print_i32_f32", &[Type::I32, Type::F32]),
    ("print_f64_f64", &[Type::F64, Type::F64]),
];
/// The globals of `spectest`, which nobody sets.
pub const SPECTEST_GLOBALS: [(&str, Value); 4] = [
    ("global_i32", Value::I32(666)),
    ("global_i64", Value::I64(666)),
    ("global_f32", Value::F32(0x4426_a666)),
    ("global_f64", Value::F64(0x4084_d4cc_cccc_cccd)),
];

/// The data of a store. `F` is an engine's function, `L` its limiter.
#[derive(Debug)]
pub struct Host<F, L> {
    calls: u64,
    hash: u64,
    depth: u32,
    /// What `again` may call, by name.
    pub functions: Vec<(F, Vec<Type>)>,
    /// Whether functions that can wait do.
    pub may_wait: bool,
    /// For modules of scripts, which may ask for much.
    pub limits: L,
}

impl<F, L: Default> Default for Host<F, L> {
    fn default() -> Host<F, L> {
        Host {
            calls: 0,
            hash: 0,
            depth: 0,
            functions: Vec::new(),
            may_wait: false,
            limits: L::default(),
        }
    }
}

impl<F: Clone, L> Host<F, L> {
    /// Calls since the start, and a hash of their arguments in order.
    pub fn seen(&self) -> (u64, u64) {
        (self.calls, self.hash)
    }

    /// Writes down a call.
    pub fn note(&mut self, values: &[Value]) {
        self.calls += 1;
        for value in values {
            self.hash = mix(self.hash ^ value.word());
        }
    }

    pub fn mix(&mut self, a: i32, b: i64) -> i64 {
        self.note(&[Value::I32(a), Value::I64(b)]);
        b.rotate_left(a as u32 & 63) ^ i64::from(a)
    }

    pub fn blend(&mut self, a: f32, b: f64) -> f64 {
        self.note(&[Value::f32(a.to_bits()), Value::f64(b.to_bits())]);
        let sum = f64::from(a) * 0.5 + b;
        if sum.is_nan() { f64::NAN } else { sum }
    }

    /// The results of `many` follow from its arguments' bits.
    pub fn many(&mut self, a: i64, b: u32, c: i32) -> (i32, u64, i64) {
        self.note(&[Value::I64(a), Value::f32(b), Value::I32(c)]);
        let float = (a as f64 / 3.0).to_bits();
        (c.wrapping_mul(3), float, a.wrapping_sub(i64::from(c)))
    }

    pub fn turn(&mut self, a: u128, b: i32) -> u128 {
        self.note(&[Value::V128(a), Value::I32(b)]);
        a.rotate_left(b as u32 & 127) ^ u128::from(b as u32)
    }

    /// Whether `stop` stops the guest.
    pub fn stops(&mut self, a: i32) -> bool {
        self.note(&[Value::I32(a)]);
        a % 4 == 0
    }

    /// What `again` calls, with which arguments; nothing when it is deep already.
    ///
    /// After it, [`end_again`](Host::end_again).
    pub fn begin_again(&mut self, a: i32) -> Option<(F, Vec<Value>)> {
        self.note(&[Value::I32(a)]);
        if self.depth == MAX_DEPTH || self.functions.is_empty() {
            return None;
        }
        self.depth += 1;
        let (func, types) = &self.functions[a as u32 as usize % self.functions.len()];
        let mut numbers = Numbers::new(self.calls);
        let params = types.iter().map(|ty| Value::argument(*ty, &mut numbers));
        Some((func.clone(), params.collect()))
    }

    /// After the call that [`begin_again`](Host::begin_again) asked for, whatever its end.
    pub fn end_again(&mut self) {
        self.depth -= 1;
    }
}
