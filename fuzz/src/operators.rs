//! Operators as bytes: which have the same type, what their immediates are, how new ones are written.

use crate::case::Numbers;
use crate::value::{Type, Value};
use arbitrary::{Result, Unstructured};
use wasmparser::ValType;

/// Behind a prefix: the prefix times this, plus the number.
const PREFIX: u32 = 1 << 16;
const FC: u32 = 0xfc * PREFIX;
const FD: u32 = 0xfd * PREFIX;
const FE: u32 = 0xfe * PREFIX;

/// Operators of one type each, as ranges of codes.
const CLASSES: &[&[(u32, u32)]] = &[
    // i32: of one, of two
    &[(0x45, 0x45), (0x67, 0x69), (0xc0, 0xc1)],
    &[(0x46, 0x4f), (0x6a, 0x78)],
    // i64
    &[(0x79, 0x7b), (0xc2, 0xc4)],
    &[(0x7c, 0x8a)],
    &[(0x51, 0x5a)],
    &[(0x50, 0x50), (0xa7, 0xa7)],
    &[(0xac, 0xad)],
    // floats: comparisons, of one, of two
    &[(0x5b, 0x60)],
    &[(0x61, 0x66)],
    &[(0x8b, 0x91)],
    &[(0x92, 0x98)],
    &[(0x99, 0x9f)],
    &[(0xa0, 0xa6)],
    // conversions
    &[(0xa8, 0xa9), (0xbc, 0xbc), (FC, FC + 1)],
    &[(0xaa, 0xab), (FC + 2, FC + 3)],
    &[(0xae, 0xaf), (FC + 4, FC + 5)],
    &[(0xb0, 0xb1), (0xbd, 0xbd), (FC + 6, FC + 7)],
    &[(0xb2, 0xb3), (0xbe, 0xbe)],
    &[(0xb4, 0xb5)],
    &[(0xb7, 0xb8)],
    &[(0xb9, 0xba), (0xbf, 0xbf)],
    // 128 bits of two integers
    &[(FC + 19, FC + 20)],
    &[(FC + 21, FC + 22)],
    // loads and stores
    &[(0x28, 0x28), (0x2c, 0x2f)],
    &[(0x29, 0x29), (0x30, 0x35)],
    &[(0x36, 0x36), (0x3a, 0x3b)],
    &[(0x37, 0x37), (0x3c, 0x3e)],
    &[(FD, FD + 10), (FD + 92, FD + 93)],
    // vectors: of two, of one, of three, tests, shifts
    &[
        (FD + 14, FD + 14),
        (FD + 35, FD + 76),
        (FD + 78, FD + 81),
        (FD + 101, FD + 102),
        (FD + 110, FD + 115),
        (FD + 118, FD + 121),
        (FD + 123, FD + 123),
        (FD + 130, FD + 130),
        (FD + 133, FD + 134),
        (FD + 142, FD + 147),
        (FD + 149, FD + 153),
        (FD + 155, FD + 159),
        (FD + 174, FD + 174),
        (FD + 177, FD + 177),
        (FD + 181, FD + 186),
        (FD + 188, FD + 191),
        (FD + 206, FD + 206),
        (FD + 209, FD + 209),
        (FD + 213, FD + 223),
        (FD + 228, FD + 235),
        (FD + 240, FD + 247),
        (FD + 0x100, FD + 0x100),
        (FD + 0x10d, FD + 0x112),
    ],
    &[
        (FD + 77, FD + 77),
        (FD + 94, FD + 98),
        (FD + 103, FD + 106),
        (FD + 116, FD + 117),
        (FD + 122, FD + 122),
        (FD + 124, FD + 129),
        (FD + 135, FD + 138),
        (FD + 148, FD + 148),
        (FD + 160, FD + 161),
        (FD + 167, FD + 170),
        (FD + 192, FD + 193),
        (FD + 199, FD + 202),
        (FD + 224, FD + 225),
        (FD + 227, FD + 227),
        (FD + 236, FD + 237),
        (FD + 239, FD + 239),
        (FD + 248, FD + 255),
        (FD + 0x101, FD + 0x104),
    ],
    &[
        (FD + 82, FD + 82),
        (FD + 0x105, FD + 0x10c),
        (FD + 0x113, FD + 0x113),
    ],
    &[
        (FD + 83, FD + 83),
        (FD + 99, FD + 100),
        (FD + 131, FD + 132),
        (FD + 163, FD + 164),
        (FD + 195, FD + 196),
    ],
    &[
        (FD + 107, FD + 109),
        (FD + 139, FD + 141),
        (FD + 171, FD + 173),
        (FD + 203, FD + 205),
    ],
    &[(FD + 15, FD + 17)],
    // lanes, each with a byte that says which
    &[(FD + 21, FD + 22), (FD + 24, FD + 25), (FD + 27, FD + 27)],
    &[(FD + 23, FD + 23), (FD + 26, FD + 26), (FD + 28, FD + 28)],
];

/// Of the atomic operators that read and write: the first, how many types each has, the last.
const ATOMIC_RMW: (u32, u32, u32) = (FE + 0x1e, 7, FE + 0x47);

/// Offsets at which something changes: alignment, pages, what is guarded, 32 bits.
const OFFSETS: [u64; 16] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    0xfff,
    0x7fff,
    0xfff8,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
];

/// The code of an operator, and where its immediates begin.
pub fn code(bytes: &[u8]) -> (u32, usize) {
    match bytes[0] {
        prefix @ 0xfc..=0xfe => {
            let (number, length) = unsigned(&bytes[1..]);
            (u32::from(prefix) * PREFIX + number as u32, 1 + length)
        }
        code => (code.into(), 1),
    }
}

/// Another operator of the same type with the same immediates, or nothing.
pub fn sibling(bytes: &[u8], u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    let (code, at) = code(bytes);
    let codes = siblings(code);
    if codes.is_empty() {
        return Ok(None);
    }
    let mut new = written(*u.choose(&codes)?);
    let is_access = has_memarg(code) && code < FE;
    new.extend(&bytes[at..]);
    if is_access {
        // An access may be narrower than what it was aligned to.
        let at = written_length(&new);
        new[at] &= 0x40;
    }
    Ok(Some(new))
}

fn siblings(code: u32) -> Vec<u32> {
    let (first, step, last) = ATOMIC_RMW;
    if (first..=last).contains(&code) {
        let same = (first..=last).filter(|other| other % step == code % step && *other != code);
        return same.collect();
    }
    let is_in = |class: &&&[(u32, u32)]| class.iter().any(|(from, to)| (*from..=*to).contains(&code));
    let class = CLASSES.iter().find(is_in);
    let all = class
        .into_iter()
        .flat_map(|class| class.iter())
        .flat_map(|(from, to)| *from..=*to);
    all.filter(|other| *other != code).collect()
}

fn written(code: u32) -> Vec<u8> {
    match code / PREFIX {
        0 => vec![code as u8],
        prefix => {
            let mut bytes = vec![prefix as u8];
            push_unsigned(&mut bytes, (code % PREFIX).into());
            bytes
        }
    }
}

fn written_length(bytes: &[u8]) -> usize {
    code(bytes).1
}

/// Whether an operator accesses a memory at an address and an offset.
pub fn has_memarg(code: u32) -> bool {
    const FD_11: u32 = FD + 11;
    matches!(code, 0x28..=0x3e | FD..=FD_11)
        || (FD + 84..=FD + 93).contains(&code)
        || code >= FE && code != FE + 3
}

/// The operator with another offset, and perhaps with less alignment.
pub fn with_other_offset(bytes: &[u8], u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    let (code, at) = code(bytes);
    if !has_memarg(code) {
        return Ok(None);
    }
    let (align, length) = unsigned(&bytes[at..]);
    let mut new = bytes[..at].to_vec();
    let mut rest = at + length;
    let keeps_align = code >= FE || u.ratio(1, 2)?;
    push_unsigned(&mut new, if keeps_align { align } else { align & 0x40 });
    if align & 0x40 != 0 {
        let (memory, length) = unsigned(&bytes[rest..]);
        push_unsigned(&mut new, memory);
        rest += length;
    }
    let (_, length) = unsigned(&bytes[rest..]);
    let offset = match u.ratio(1, 4)? {
        true => u.int_in_range(0..=70_000)?,
        false => *u.choose(&OFFSETS)?,
    };
    push_unsigned(&mut new, offset);
    new.extend(&bytes[rest + length..]);
    Ok(Some(new))
}

/// The type of a constant, if the operator is one.
pub fn constant_type(bytes: &[u8]) -> Option<ValType> {
    match code(bytes).0 {
        0x41 => Some(ValType::I32),
        0x42 => Some(ValType::I64),
        0x43 => Some(ValType::F32),
        0x44 => Some(ValType::F64),
        code if code == FD + 12 => Some(ValType::V128),
        _ => None,
    }
}

/// A constant of a number or vector type: often one at which operators change.
pub fn constant(ty: ValType, u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    let neutral = match ty {
        ValType::I32 => Type::I32,
        ValType::I64 => Type::I64,
        ValType::F32 => Type::F32,
        ValType::F64 => Type::F64,
        ValType::V128 => Type::V128,
        ValType::Ref(_) => return Ok(None),
    };
    let mut numbers = Numbers::new(u.arbitrary()?);
    let value = match Value::argument(neutral, &mut numbers) {
        Value::I32(_) if u.ratio(1, 3)? => Value::I32(u.int_in_range(-9..=70)?),
        value => value,
    };
    Ok(Some(constant_of(value)))
}

/// A constant of this value.
pub fn constant_of(value: Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    match value {
        Value::I32(value) => {
            bytes.push(0x41);
            push_signed(&mut bytes, value.into());
        }
        Value::I64(value) => {
            bytes.push(0x42);
            push_signed(&mut bytes, value);
        }
        Value::F32(bits) => {
            bytes.push(0x43);
            bytes.extend(bits.to_le_bytes());
        }
        Value::F64(bits) => {
            bytes.push(0x44);
            bytes.extend(bits.to_le_bytes());
        }
        Value::V128(bits) => {
            bytes.extend([0xfd, 12]);
            bytes.extend(bits.to_le_bytes());
        }
        Value::Func(_) | Value::Extern(_) | Value::Opaque(_) => bytes.extend([0xd0, 0x6f]),
    }
    bytes
}

/// `local.get` and its like: the operator's byte and the number of what it names.
pub fn named(bytes: &[u8]) -> Option<(u8, u32)> {
    match bytes[0] {
        // br, br_if, call, return_call, local.*, global.*, table.get and set, ref.func
        code @ (0x0c | 0x0d | 0x10 | 0x12 | 0x20..=0x26 | 0xd2) => {
            Some((code, unsigned(&bytes[1..]).0 as u32))
        }
        _ => None,
    }
}

/// An operator of one byte with one number.
pub fn naming(code: u8, number: u32) -> Vec<u8> {
    let mut bytes = vec![code];
    push_unsigned(&mut bytes, number.into());
    bytes
}

/// What makes a NaN of its own: of which shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Float {
    F32,
    F64,
    F32x4,
    F64x2,
}

/// The shape of the result, if the operator computes with floats and so may make a NaN.
pub fn float_result(bytes: &[u8]) -> Option<Float> {
    let code = code(bytes).0;
    match code {
        // ceil to sqrt; add to max. Not abs, neg, copysign.
        0x8d..=0x97 | 0xb6 => return Some(Float::F32),
        0x9b..=0xa5 | 0xbb => return Some(Float::F64),
        _ => {}
    }
    let number = code.checked_sub(FD)?;
    match number {
        94 | 103..=106 | 227..=233 | 0x105 | 0x106 | 0x10d | 0x10e => Some(Float::F32x4),
        95 | 116 | 117 | 122 | 148 | 239..=245 | 0x107 | 0x108 | 0x10f | 0x110 => Some(Float::F64x2),
        _ => None,
    }
}

/// Whether the engines rightly differ: whether `relaxed_madd` and `relaxed_nmadd` round once or twice is theirs to choose.
pub fn is_relaxed_madd(bytes: &[u8]) -> bool {
    matches!(code(bytes).0.checked_sub(FD), Some(0x105..=0x108))
}

/// Whether a lane of the second operand that has a high bit is the engine's to read: `relaxed_dot`, and whether it has an addend.
pub fn relaxed_dot(bytes: &[u8]) -> Option<bool> {
    match code(bytes).0.checked_sub(FD) {
        Some(0x112) => Some(false),
        Some(0x113) => Some(true),
        _ => None,
    }
}

/// Whether the operator calls what a table or an operand says.
pub fn calls_by_reference(bytes: &[u8]) -> bool {
    matches!(bytes[0], 0x11 | 0x13..=0x15)
}

/// Whether the operator waits for another thread.
pub fn is_wait(bytes: &[u8]) -> bool {
    matches!(code(bytes).0.checked_sub(FE), Some(1 | 2))
}

/// A number in LEB128 and its length.
fn unsigned(bytes: &[u8]) -> (u64, usize) {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (value, index + 1);
        }
    }
    (value, bytes.len().min(10))
}

/// Writes a number in LEB128.
pub fn push_unsigned(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Writes a number with a sign in LEB128.
pub fn push_signed(bytes: &mut Vec<u8>, mut value: i64) {
    loop {
        let byte = value as u8 & 0x7f;
        value >>= 7;
        let is_last = value == 0 && byte & 0x40 == 0 || value == -1 && byte & 0x40 != 0;
        bytes.push(if is_last { byte } else { byte | 0x80 });
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Numbers;
    use crate::parts::Parts;

    /// Every class: an operator put in another's place is as valid as that was.
    #[test]
    fn siblings_have_the_same_type() {
        let data = Numbers::new(1).bytes(1 << 16);
        let mut u = Unstructured::new(&data);
        let (mut tried, mut valid) = (0, 0);
        for module in crate::corpus::MODULES.iter().step_by(7) {
            let Some(mut parts) = Parts::of(module).filter(|parts| !parts.functions.is_empty()) else {
                continue;
            };
            for function in 0..parts.functions.len().min(20) {
                for at in 0..parts.functions[function].ops.len().min(20) {
                    let old = parts.functions[function].ops[at].bytes.clone();
                    let Some(new) = sibling(&old, &mut u).expect("choices") else {
                        continue;
                    };
                    parts.functions[function].ops[at].bytes = new;
                    tried += 1;
                    valid += u32::from(Parts::of(&parts.join()).is_some());
                    parts.functions[function].ops[at].bytes = old;
                }
            }
        }
        // A lane's number may be too large for its sibling.
        assert!(
            tried > 300 && valid * 100 > tried * 97,
            "{valid} of {tried} are valid"
        );
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for value in [0, 1, -1, 63, 64, -64, -65, i64::MAX, i64::MIN] {
            let bytes = constant_of(Value::I64(value));
            let mut reader = wasmparser::BinaryReader::new(&bytes[1..], 0);
            assert_eq!(reader.read_var_i64().expect("a number"), value);
        }
        let mut bytes = Vec::new();
        push_unsigned(&mut bytes, u64::MAX);
        assert_eq!(unsigned(&bytes), (u64::MAX, 10));
    }
}
