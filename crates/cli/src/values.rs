//! Wasm values as words of the command line.

use selvedge::{V128, Val, ValType};
use std::num::ParseIntError;

/// Parses `text` as a value of type `ty`: decimal or `0x` integers, signed or unsigned, floats as Rust
/// writes them, vectors as one integer of 128 bits, lane 0 lowest, `null` for references.
///
/// # Errors
///
/// A phrase that goes on after "argument 1 ".
pub(crate) fn parse(text: &str, ty: &ValType) -> Result<Val, String> {
    let value = match ty {
        ValType::I32 => integer(text, i32::MIN.into(), u32::MAX.into()).map(|value| Val::I32(value as i32)),
        ValType::I64 => integer(text, i64::MIN.into(), u64::MAX.into()).map(|value| Val::I64(value as i64)),
        ValType::F32 => text.parse::<f32>().ok().map(|value| Val::F32(value.to_bits())),
        ValType::F64 => text.parse::<f64>().ok().map(|value| Val::F64(value.to_bits())),
        ValType::V128 => magnitude(text).ok().map(|value| Val::V128(V128::from(value))),
        ValType::Ref(reference) => match Val::default_for(*ty) {
            Ok(null) => (text == "null").then_some(null),
            Err(_) => return Err(format!("would be a {reference}, which cannot be written here")),
        },
        other => return Err(format!("would be a {other}, which cannot be written here")),
    };
    value.ok_or_else(|| format!("is not of type {ty}: `{text}`"))
}

/// An integer of at least `min` and at most `max`; its low bits are the value.
fn integer(text: &str, min: i128, max: i128) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let magnitude = i128::try_from(magnitude(digits).ok()?).ok()?;
    let value = sign * magnitude;
    (min..=max).contains(&value).then_some(value)
}

fn magnitude(digits: &str) -> Result<u128, ParseIntError> {
    // A second sign is refused here: `from_str_radix` would take `+`.
    let digits = if digits.starts_with('+') { "" } else { digits };
    match digits.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16),
        None => digits.parse(),
    }
}

/// Writes a result: integers signed, floats as Rust writes them, references as `null` or their type.
pub(crate) fn format(value: &Val) -> String {
    match value {
        Val::I32(value) => value.to_string(),
        Val::I64(value) => value.to_string(),
        Val::F32(bits) => format!("{:?}", f32::from_bits(*bits)),
        Val::F64(bits) => format!("{:?}", f64::from_bits(*bits)),
        Val::V128(vector) => format!("{:#034x}", u128::from(*vector)),
        Val::FuncRef(None) | Val::ExternRef(None) => "null".to_owned(),
        other => other.ty().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_taken_signed_or_unsigned_within_their_width() {
        let i32 = |text| parse(text, &ValType::I32).ok().and_then(|value| value.i32());
        assert_eq!(i32("-1"), Some(-1));
        assert_eq!(i32("4294967295"), Some(-1));
        assert_eq!(i32("0xffffffff"), Some(-1));
        assert_eq!(i32("-2147483648"), Some(i32::MIN));
        for refused in [
            "4294967296",
            "-2147483649",
            "",
            "-",
            "--1",
            "-+1",
            "+1",
            "0x",
            "1.0",
            "x",
        ] {
            assert_eq!(i32(refused), None, "{refused}");
        }
        let i64 = parse("18446744073709551615", &ValType::I64).unwrap();
        assert_eq!(format(&i64), "-1");
    }

    #[test]
    fn vectors_are_integers_of_128_bits() {
        let text = "0x0f0e0d0c0b0a09080706050403020100";
        assert_eq!(format(&parse(text, &ValType::V128).unwrap()), text);
        assert!(parse("-1", &ValType::V128).is_err());
        assert!(parse("340282366920938463463374607431768211456", &ValType::V128).is_err());
    }

    #[test]
    fn floats_are_written_so_that_they_read_back() {
        for text in ["1.0", "-0.0", "1e300", "NaN", "inf", "-inf", "0.1"] {
            assert_eq!(format(&parse(text, &ValType::F64).unwrap()), text);
        }
        assert!(parse("one", &ValType::F32).unwrap_err().contains("`one`"));
    }
}
