//! The values of a script: arguments, and what results are compared with.
//!
//! Floats are compared by their bits. A NaN *pattern* stands for a set of bits, its sign being free:
//! `nan:canonical` has only the highest bit of the payload, `nan:arithmetic` has at least that one.
//!
//! `(ref.extern 7)` is the host value 7: an `externref` to a `u32` made by the runner. Two of them are equal
//! if the numbers are, whatever objects carry them.

use crate::runner::Stop;
use selvedge::{ExternRef, Store, V128, Val};
use std::fmt::{self, LowerHex};
use wast::core::{AbstractHeapType, HeapType, NanPattern, V128Pattern, WastArgCore, WastRetCore};
use wast::{WastArg, WastRet};

/// The value that a script writes as an argument.
pub(crate) fn argument(store: &mut Store<()>, arg: &WastArg<'_>) -> Result<Val, Stop> {
    let WastArg::Core(arg) = arg else {
        return Err(Stop::unsupported("component values"));
    };
    Ok(match arg {
        WastArgCore::I32(value) => Val::I32(*value),
        WastArgCore::I64(value) => Val::I64(*value),
        WastArgCore::F32(value) => Val::F32(value.bits),
        WastArgCore::F64(value) => Val::F64(value.bits),
        WastArgCore::RefNull(heap) => null(heap)?,
        WastArgCore::RefExtern(host) => Val::ExternRef(Some(ExternRef::new(store, *host)?)),
        WastArgCore::V128(value) => Val::V128(V128::from_le_bytes(value.to_le_bytes())),
        WastArgCore::RefHost(_) => return Err(Stop::unsupported("ref.host values")),
    })
}

fn null(heap: &HeapType<'_>) -> Result<Val, Stop> {
    if is_heap(heap, AbstractHeapType::Func) {
        Ok(Val::FuncRef(None))
    } else if is_heap(heap, AbstractHeapType::Extern) {
        Ok(Val::ExternRef(None))
    } else if is_heap(heap, AbstractHeapType::Exn) {
        Ok(Val::ExnRef(None))
    } else {
        Err(Stop::unsupported(
            "null references other than func, extern and exn",
        ))
    }
}

fn is_heap(heap: &HeapType<'_>, expected: AbstractHeapType) -> bool {
    matches!(heap, HeapType::Abstract { shared: false, ty } if *ty == expected)
}

/// Compares results with what the script expects, and says both where they differ.
pub(crate) fn compare(store: &Store<()>, got: &[Val], want: &[WastRet<'_>]) -> Result<(), Stop> {
    if got.len() != want.len() {
        let message = format!(
            "expected {} results, got {}: {}",
            want.len(),
            got.len(),
            list(store, got)
        );
        return Err(Stop::Failed(message));
    }
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let WastRet::Core(want) = want else {
            return Err(Stop::unsupported("component values"));
        };
        if !is_match(store, got, want)? {
            let got = Shown { store, value: got };
            return Err(Stop::Failed(format!(
                "result {index}: expected {}, got {got}",
                Expected(want)
            )));
        }
    }
    Ok(())
}

fn is_match(store: &Store<()>, got: &Val, want: &WastRetCore<'_>) -> Result<bool, Stop> {
    Ok(match (want, got) {
        (WastRetCore::Either(choices), _) => {
            for choice in choices {
                if is_match(store, got, choice)? {
                    return Ok(true);
                }
            }
            false
        }
        (WastRetCore::I32(want), Val::I32(got)) => want == got,
        (WastRetCore::I64(want), Val::I64(got)) => want == got,
        (WastRetCore::F32(want), Val::F32(got)) => is_f32(want, *got),
        (WastRetCore::F64(want), Val::F64(got)) => is_f64(want, *got),
        (WastRetCore::V128(want), Val::V128(got)) => is_v128(want, got.to_le_bytes()),
        (WastRetCore::RefNull(heap), Val::FuncRef(None)) => is_null_of(heap, AbstractHeapType::Func),
        (WastRetCore::RefNull(heap), Val::ExternRef(None)) => is_null_of(heap, AbstractHeapType::Extern),
        (WastRetCore::RefNull(heap), Val::ExnRef(None)) => is_null_of(heap, AbstractHeapType::Exn),
        (WastRetCore::RefFunc(_), Val::FuncRef(got)) => got.is_some(),
        (WastRetCore::RefExtern(None), Val::ExternRef(got)) => got.is_some(),
        (WastRetCore::RefExtern(Some(want)), Val::ExternRef(Some(got))) => {
            host_value(store, got) == Some(*want)
        }
        (
            WastRetCore::RefHost(_)
            | WastRetCore::RefAny
            | WastRetCore::RefEq
            | WastRetCore::RefArray
            | WastRetCore::RefStruct
            | WastRetCore::RefI31
            | WastRetCore::RefI31Shared,
            _,
        ) => return Err(Stop::unsupported("references of the garbage collection proposal")),
        _ => false,
    })
}

fn is_null_of(want: &Option<HeapType<'_>>, got: AbstractHeapType) -> bool {
    want.as_ref().is_none_or(|heap| is_heap(heap, got))
}

/// The highest bit of an f32's payload, and its exponent. IEEE 754-2019, 3.4 and 6.2.1.
const F32_QUIET: u32 = 0x7fc0_0000;
/// The highest bit of an f64's payload, and its exponent.
const F64_QUIET: u64 = 0x7ff8_0000_0000_0000;

fn is_f32(want: &NanPattern<wast::token::F32>, got: u32) -> bool {
    match want {
        NanPattern::CanonicalNan => got & 0x7fff_ffff == F32_QUIET,
        NanPattern::ArithmeticNan => got & F32_QUIET == F32_QUIET,
        NanPattern::Value(want) => got == want.bits,
    }
}

fn is_f64(want: &NanPattern<wast::token::F64>, got: u64) -> bool {
    match want {
        NanPattern::CanonicalNan => got & 0x7fff_ffff_ffff_ffff == F64_QUIET,
        NanPattern::ArithmeticNan => got & F64_QUIET == F64_QUIET,
        NanPattern::Value(want) => got == want.bits,
    }
}

/// Lane by lane; lanes of floats may be patterns.
fn is_v128(want: &V128Pattern, got: [u8; 16]) -> bool {
    match want {
        V128Pattern::I8x16(want) => lanes(got, i8::from_le_bytes).eq(want.iter().copied()),
        V128Pattern::I16x8(want) => lanes(got, i16::from_le_bytes).eq(want.iter().copied()),
        V128Pattern::I32x4(want) => lanes(got, i32::from_le_bytes).eq(want.iter().copied()),
        V128Pattern::I64x2(want) => lanes(got, i64::from_le_bytes).eq(want.iter().copied()),
        V128Pattern::F32x4(want) => {
            let mut pairs = want.iter().zip(lanes(got, u32::from_le_bytes));
            pairs.all(|(want, got)| is_f32(want, got))
        }
        V128Pattern::F64x2(want) => {
            let mut pairs = want.iter().zip(lanes(got, u64::from_le_bytes));
            pairs.all(|(want, got)| is_f64(want, got))
        }
    }
}

/// The lanes of a vector, each of `N` bytes.
fn lanes<T, const N: usize>(vector: [u8; 16], of: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    (0..16 / N).map(move |lane| of(std::array::from_fn(|byte| vector[lane * N + byte])))
}

fn host_value(store: &Store<()>, reference: &ExternRef) -> Option<u32> {
    reference.data(store).ok()?.downcast_ref::<u32>().copied()
}

/// Values as a script would write them, for messages.
pub(crate) fn list(store: &Store<()>, values: &[Val]) -> String {
    let shown: Vec<String> = values
        .iter()
        .map(|value| Shown { store, value }.to_string())
        .collect();
    format!("[{}]", shown.join(" "))
}

struct Shown<'a> {
    store: &'a Store<()>,
    value: &'a Val,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Val::I32(value) => write!(f, "(i32.const {value})"),
            Val::I64(value) => write!(f, "(i64.const {value})"),
            Val::F32(bits) => float(f, "f32", f32::from_bits(*bits), bits),
            Val::F64(bits) => float(f, "f64", f64::from_bits(*bits), bits),
            Val::V128(vector) => {
                let lanes: Vec<String> = lanes(vector.to_le_bytes(), u32::from_le_bytes)
                    .map(|lane| format!("{lane:#010x}"))
                    .collect();
                write!(f, "(v128.const i32x4 {})", lanes.join(" "))
            }
            Val::FuncRef(None) => f.write_str("(ref.null func)"),
            Val::FuncRef(Some(_)) => f.write_str("(ref.func)"),
            Val::ExternRef(None) => f.write_str("(ref.null extern)"),
            Val::ExnRef(None) => f.write_str("(ref.null exn)"),
            Val::ExnRef(Some(_)) => f.write_str("(ref.exn)"),
            Val::ExternRef(Some(reference)) => match host_value(self.store, reference) {
                Some(value) => write!(f, "(ref.extern {value})"),
                None => f.write_str("(ref.extern)"),
            },
            other => write!(f, "(a value of type {})", other.ty()),
        }
    }
}

fn float(f: &mut fmt::Formatter<'_>, ty: &str, value: impl fmt::Debug, bits: &impl LowerHex) -> fmt::Result {
    write!(f, "({ty}.const {value:?} (;{bits:#x};))")
}

fn null_name(heap: &Option<HeapType<'_>>) -> &'static str {
    match heap {
        Some(heap) if is_heap(heap, AbstractHeapType::Func) => "(ref.null func)",
        Some(heap) if is_heap(heap, AbstractHeapType::Extern) => "(ref.null extern)",
        Some(heap) if is_heap(heap, AbstractHeapType::Exn) => "(ref.null exn)",
        Some(_) => "(ref.null of another type)",
        None => "(ref.null)",
    }
}

struct Expected<'a, 'b>(&'a WastRetCore<'b>);

impl fmt::Display for Expected<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WastRetCore::I32(value) => write!(f, "(i32.const {value})"),
            WastRetCore::I64(value) => write!(f, "(i64.const {value})"),
            WastRetCore::F32(NanPattern::Value(value)) => {
                float(f, "f32", f32::from_bits(value.bits), &value.bits)
            }
            WastRetCore::F64(NanPattern::Value(value)) => {
                float(f, "f64", f64::from_bits(value.bits), &value.bits)
            }
            WastRetCore::F32(NanPattern::CanonicalNan) => f.write_str("(f32.const nan:canonical)"),
            WastRetCore::F64(NanPattern::CanonicalNan) => f.write_str("(f64.const nan:canonical)"),
            WastRetCore::F32(NanPattern::ArithmeticNan) => f.write_str("(f32.const nan:arithmetic)"),
            WastRetCore::F64(NanPattern::ArithmeticNan) => f.write_str("(f64.const nan:arithmetic)"),
            WastRetCore::RefExtern(Some(value)) => write!(f, "(ref.extern {value})"),
            WastRetCore::RefExtern(None) => f.write_str("(ref.extern)"),
            WastRetCore::RefFunc(_) => f.write_str("(ref.func)"),
            WastRetCore::RefNull(heap) => f.write_str(null_name(heap)),
            WastRetCore::Either(choices) => {
                f.write_str("(either")?;
                for choice in choices {
                    write!(f, " {}", Expected(choice))?;
                }
                f.write_str(")")
            }
            other => write!(f, "{other:?}"),
        }
    }
}
