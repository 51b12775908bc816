//! Values and types in neither engine's form.

use crate::case::{Numbers, mix};

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Type {
    I32,
    I64,
    F32,
    F64,
    V128,
    Func,
    Extern,
}

/// A value. Floats are bits; a result that is a NaN is [canonical](Value::f32). Vectors are bits: modules make the NaNs in them
/// canonical themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Value {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
    /// Null or not. As an argument: the first exported function.
    Func(bool),
    /// Null or what the host put into it.
    Extern(Option<u32>),
    /// Null or not, of a type that is no argument's.
    Opaque(bool),
}

impl Value {
    /// A result: all NaNs are one.
    pub fn f32(bits: u32) -> Value {
        let is_nan = f32::from_bits(bits).is_nan();
        Value::F32(if is_nan { 0x7fc0_0000 } else { bits })
    }

    /// A result: all NaNs are one.
    pub fn f64(bits: u64) -> Value {
        let is_nan = f64::from_bits(bits).is_nan();
        Value::F64(if is_nan { 0x7ff8_0000_0000_0000 } else { bits })
    }

    /// The type. None if it is no argument's.
    pub fn ty(self) -> Option<Type> {
        match self {
            Value::I32(_) => Some(Type::I32),
            Value::I64(_) => Some(Type::I64),
            Value::F32(_) => Some(Type::F32),
            Value::F64(_) => Some(Type::F64),
            Value::V128(_) => Some(Type::V128),
            Value::Func(_) => Some(Type::Func),
            Value::Extern(_) => Some(Type::Extern),
            Value::Opaque(_) => None,
        }
    }

    /// An address near the end of a memory of few pages; of other types any argument.
    pub fn near_an_edge(ty: Type, numbers: &mut Numbers) -> Value {
        let word = numbers.next_u64();
        let address = ((word % 4) << 16).wrapping_sub((word >> 8) & 0xf);
        match ty {
            Type::I32 => Value::I32(address as i32),
            Type::I64 => Value::I64(address as i64),
            _ => Value::argument(ty, numbers),
        }
    }

    /// A value nearby: one more or less, another bit.
    pub fn nearby(self, numbers: &mut Numbers) -> Value {
        let word = numbers.next_u64();
        let bit = word >> 8;
        match (self, word % 3) {
            (Value::I32(value), 0) => Value::I32(value.wrapping_add(1)),
            (Value::I32(value), 1) => Value::I32(value.wrapping_sub(1)),
            (Value::I32(value), _) => Value::I32(value ^ 1 << (bit % 32)),
            (Value::I64(value), 0) => Value::I64(value.wrapping_add(1)),
            (Value::I64(value), 1) => Value::I64(value.wrapping_sub(1)),
            (Value::I64(value), _) => Value::I64(value ^ 1 << (bit % 64)),
            (Value::F32(bits), _) => Value::F32(bits ^ 1 << (bit % 32)),
            (Value::F64(bits), _) => Value::F64(bits ^ 1 << (bit % 64)),
            (Value::V128(bits), _) => Value::V128(bits ^ 1 << (bit % 128)),
            (other, _) => other,
        }
    }

    /// As a word of a hash.
    pub fn word(self) -> u64 {
        match self {
            Value::I32(value) => value as u32 as u64,
            Value::I64(value) => value as u64,
            Value::F32(bits) => bits.into(),
            Value::F64(bits) => bits,
            Value::V128(bits) => mix(bits as u64) ^ (bits >> 64) as u64,
            Value::Func(is_some) | Value::Opaque(is_some) => is_some.into(),
            Value::Extern(value) => value.map_or(0, |value| 1 + u64::from(value)),
        }
    }

    /// An argument: half of the time one of the values at which operators change.
    pub fn argument(ty: Type, numbers: &mut Numbers) -> Value {
        let word = numbers.next_u64();
        let pick = (word >> 32) as usize;
        let plain = word & 1 == 0;
        let random = numbers.next_u64();
        match ty {
            Type::I32 if plain => Value::I32(random as i32),
            Type::I32 => Value::I32(INTS[pick % INTS.len()] as i32),
            Type::I64 if plain => Value::I64(random as i64),
            Type::I64 => Value::I64(INTS[pick % INTS.len()]),
            Type::F32 if plain => Value::F32(random as u32),
            Type::F32 => Value::F32((FLOATS[pick % FLOATS.len()] as f32).to_bits()),
            Type::F64 if plain => Value::F64(random),
            Type::F64 => Value::F64(FLOATS[pick % FLOATS.len()].to_bits()),
            Type::V128 => Value::V128(vector(plain, pick, random, numbers)),
            Type::Func => Value::Func(plain),
            Type::Extern => Value::Extern(plain.then_some(random as u32)),
        }
    }
}

/// Two halves: of random bits, of lanes that are one of the integers, or of lanes that are one of the floats.
fn vector(plain: bool, pick: usize, random: u64, numbers: &mut Numbers) -> u128 {
    let (int, float) = (INTS[pick % INTS.len()], FLOATS[pick % FLOATS.len()]);
    let single = u64::from((float as f32).to_bits());
    let low = match pick / 16 % 6 {
        _ if plain => numbers.next_u64(),
        0 => int as u64,
        1 => (int as u32 as u64) << 32 | random & 0xffff_ffff,
        2 => (int as u16 as u64).wrapping_mul(0x1_0001_0001_0001),
        3 => (int as u8 as u64).wrapping_mul(0x101_0101_0101_0101),
        4 => single << 32 | single,
        _ => float.to_bits(),
    };
    u128::from(random) << 64 | u128::from(low)
}

const INTS: [i64; 16] = [
    0,
    1,
    -1,
    2,
    7,
    31,
    32,
    63,
    64,
    0xffff,
    0x1_0000,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    i64::MAX,
    i64::MIN,
];

const FLOATS: [f64; 16] = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -1.0,
    2147483647.0,
    2147483648.0,
    -2147483649.0,
    4294967296.0,
    9223372036854775807.0,
    18446744073709551616.0,
    1e-310,
    f64::INFINITY,
    f64::NAN,
];
