//! Values that cross between host and guest: [`Val`] untyped, [`WasmTy`] typed.

use crate::error::{Error, Result};
use crate::func::Func;
use crate::reference::{ExnRef, ExternRef, exn_word, extern_word};
use crate::vector::V128;
use crate::vm::store::StoreVm;
use crate::vm::vmctx::ValRaw;
use selvedge_compiler::{HeapType, RefType, ValType};

/// A value of any type.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Val {
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float, by its bits.
    F32(u32),
    /// A 64-bit float, by its bits.
    F64(u64),
    /// A vector.
    V128(V128),
    /// A function or null.
    FuncRef(Option<Func>),
    /// A value of the host's or null.
    ExternRef(Option<ExternRef>),
    /// An exception or null.
    ExnRef(Option<ExnRef>),
}

impl Val {
    /// The type; of a reference, the one that all of its kind have, null too.
    pub fn ty(&self) -> ValType {
        match self {
            Val::I32(_) => ValType::I32,
            Val::I64(_) => ValType::I64,
            Val::F32(_) => ValType::F32,
            Val::F64(_) => ValType::F64,
            Val::V128(_) => ValType::V128,
            Val::FuncRef(_) => ValType::FUNCREF,
            Val::ExternRef(_) => ValType::EXTERNREF,
            Val::ExnRef(_) => ValType::EXNREF,
        }
    }

    /// The value of an `i32`.
    pub fn i32(&self) -> Option<i32> {
        if let Val::I32(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// The value of an `i64`.
    pub fn i64(&self) -> Option<i64> {
        if let Val::I64(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// The value of an `f32`.
    pub fn f32(&self) -> Option<f32> {
        if let Val::F32(bits) = self {
            Some(f32::from_bits(*bits))
        } else {
            None
        }
    }

    /// The value of an `f64`.
    pub fn f64(&self) -> Option<f64> {
        if let Val::F64(bits) = self {
            Some(f64::from_bits(*bits))
        } else {
            None
        }
    }

    /// The value of a `v128`.
    pub fn v128(&self) -> Option<V128> {
        if let Val::V128(vector) = self {
            Some(*vector)
        } else {
            None
        }
    }

    /// The value of a reference to a function: within, none for null.
    pub fn funcref(&self) -> Option<Option<Func>> {
        if let Val::FuncRef(func) = self {
            Some(*func)
        } else {
            None
        }
    }

    /// The value of a reference to something of the host's: within, none for null.
    pub fn externref(&self) -> Option<Option<ExternRef>> {
        if let Val::ExternRef(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// The value of a reference to an exception: within, none for null.
    pub fn exnref(&self) -> Option<Option<ExnRef>> {
        if let Val::ExnRef(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// Whether it is a null reference.
    pub fn is_null(&self) -> bool {
        matches!(
            self,
            Val::FuncRef(None) | Val::ExternRef(None) | Val::ExnRef(None)
        )
    }

    /// Zero, or null, of a type.
    ///
    /// # Errors
    /// A type of references that are never null, or whose values are not supported yet.
    #[doc(alias = "default_value")]
    pub fn default_for(ty: ValType) -> Result<Val> {
        match ty.as_ref() {
            Some(reference) if !reference.is_nullable() => {
                Err(Error::msg(format!("type {ty} has no default value")))
            }
            _ => Val::placeholder_for(ty),
        }
    }

    /// As [`default_for`](Val::default_for), and null also for references that must not be: to be overwritten.
    pub(crate) fn placeholder_for(ty: ValType) -> Result<Val> {
        Ok(match ty {
            ValType::I32 => Val::I32(0),
            ValType::I64 => Val::I64(0),
            ValType::F32 => Val::F32(0),
            ValType::F64 => Val::F64(0),
            ValType::V128 => Val::V128(V128::default()),
            ValType::Ref(reference) => return Val::null(reference.heap_type()),
            other => return Err(unsupported(other)),
        })
    }

    /// The null of references to something.
    ///
    /// # Errors
    /// References of a kind that is not supported yet.
    #[doc(alias = "null_ref")]
    pub fn null(heap: HeapType) -> Result<Val> {
        match heap.top() {
            HeapType::Func => Ok(Val::FuncRef(None)),
            HeapType::Extern => Ok(Val::ExternRef(None)),
            HeapType::Exn => Ok(Val::ExnRef(None)),
            _ => Err(unsupported(ValType::Ref(RefType::new(true, heap)))),
        }
    }

    /// Whether it may be used where `ty` is asked for.
    ///
    /// # Errors
    /// A reference of another store.
    pub(crate) fn fits(self, ty: ValType, store: &StoreVm) -> Result<bool> {
        let ValType::Ref(wanted) = ty else {
            return Ok(self.ty() == ty);
        };
        let heap = match self {
            Val::FuncRef(Some(func)) => HeapType::ConcreteFunc(func.entry(store)?.ty.id()),
            Val::ExternRef(Some(_)) => HeapType::Extern,
            Val::FuncRef(None) => HeapType::NoFunc,
            Val::ExternRef(None) => HeapType::NoExtern,
            Val::ExnRef(Some(_)) => HeapType::Exn,
            Val::ExnRef(None) => HeapType::NoExn,
            _ => return Ok(false),
        };
        Ok(RefType::new(self.is_null(), heap).matches(&wanted))
    }

    /// As generated code holds it, if it is of this type and of this store.
    pub(crate) fn to_raw(self, ty: ValType, store: &StoreVm) -> Result<ValRaw> {
        if !self.fits(ty, store)? {
            return Err(Error::msg(format!(
                "expected a value of type {ty}, found {}",
                self.ty()
            )));
        }
        Ok(match self {
            Val::I32(value) => ValRaw::from_u32(value as u32),
            Val::I64(value) => ValRaw::from_u64(value as u64),
            Val::F32(bits) => ValRaw::from_u32(bits),
            Val::F64(bits) => ValRaw::from_u64(bits),
            Val::V128(vector) => ValRaw::from_u128(vector.into()),
            Val::FuncRef(func) => ValRaw::from_u64(func_word(func, store)?),
            Val::ExternRef(value) => ValRaw::from_u32(extern_word(value, store)?),
            Val::ExnRef(value) => ValRaw::from_u32(exn_word(value, store)?),
        })
    }

    /// From what generated code holds.
    pub(crate) fn from_raw(raw: ValRaw, ty: ValType, store: &mut StoreVm) -> Val {
        match ty {
            ValType::I32 => Val::I32(raw.u32() as i32),
            ValType::I64 => Val::I64(raw.u64() as i64),
            ValType::F32 => Val::F32(raw.u32()),
            ValType::F64 => Val::F64(raw.u64()),
            ValType::V128 => Val::V128(raw.u128().into()),
            ValType::Ref(reference) => match reference.heap_type().top() {
                HeapType::Func => Val::FuncRef(func_of_word(raw.u64(), store)),
                HeapType::Extern => Val::ExternRef(ExternRef::of_word(raw.u32(), store)),
                HeapType::Exn => Val::ExnRef(ExnRef::of_word(raw.u32(), store)),
                other => unreachable!("the compiler refuses references to {other}"),
            },
            other => unreachable!("the compiler refuses values of type {other}"),
        }
    }
}

fn unsupported(ty: ValType) -> Error {
    Error::msg(format!("values of type {ty} are not supported"))
}

/// One accessor that panics for each that answers an option.
macro_rules! unwrap {
    ($($name:ident $of:ident $ty:ty),* $(,)?) => {
        impl Val {$(
            #[doc = concat!("As [`", stringify!($of), "`](Val::", stringify!($of), "), where the type is known.")]
            ///
            /// # Panics
            /// If the value is of another type.
            #[track_caller]
            pub fn $name(&self) -> $ty {
                match self.$of() {
                    Some(value) => value,
                    None => panic!("expected an {}, found a value of type {}", stringify!($of), self.ty()),
                }
            }
        )*}
    };
}

unwrap! {
    unwrap_i32 i32 i32,
    unwrap_i64 i64 i64,
    unwrap_f32 f32 f32,
    unwrap_f64 f64 f64,
    unwrap_v128 v128 V128,
    unwrap_funcref funcref Option<Func>,
    unwrap_externref externref Option<ExternRef>,
    unwrap_exnref exnref Option<ExnRef>,
}

/// The record's address, or 0.
fn func_word(func: Option<Func>, store: &StoreVm) -> Result<u64> {
    let Some(func) = func else { return Ok(0) };
    Ok(func.entry(store)?.func_ref.as_ptr() as u64)
}

fn func_of_word(word: u64, store: &mut StoreVm) -> Option<Func> {
    let index = store.func_of_word(word)?;
    Some(Func::new_handle(store.id, index))
}

macro_rules! val_from {
    ($($variant:ident($ty:ty, $to:expr)),* $(,)?) => {$(
        impl From<$ty> for Val {
            fn from(value: $ty) -> Val {
                let to: fn($ty) -> _ = $to;
                Val::$variant(to(value))
            }
        }
    )*};
}

val_from! {
    I32(i32, |value| value),
    I64(i64, |value| value),
    F32(f32, f32::to_bits),
    F64(f64, f64::to_bits),
    V128(V128, |value| value),
    V128(u128, V128::from),
    FuncRef(Func, Some),
    FuncRef(Option<Func>, |value| value),
    ExternRef(ExternRef, Some),
    ExternRef(Option<ExternRef>, |value| value),
    ExnRef(ExnRef, Some),
    ExnRef(Option<ExnRef>, |value| value),
}

mod sealed {
    use super::*;

    /// How a typed value is written and read; not for users to implement.
    pub trait Raw: Sized {
        const TYPE: ValType;
        fn to_raw(self, store: &StoreVm) -> Result<ValRaw>;
        fn from_raw(raw: ValRaw, store: &mut StoreVm) -> Self;
    }

    /// As [`Raw`], for several.
    pub trait RawList: Sized {
        /// The types, in order.
        const TYPES: &'static [ValType];
        fn to_slots(self, store: &StoreVm, slots: &mut [ValRaw]) -> Result<()>;
        fn from_slots(slots: &[ValRaw], store: &mut StoreVm) -> Self;
    }
}
pub(crate) use sealed::{Raw, RawList};

/// A Rust type that is a WebAssembly type: `i32`, `u32`, `i64`, `u64`, `f32`, `f64`, [`V128`],
/// `Option<Func>` for `funcref` and `Func` for `(ref func)`, `Option<ExnRef>` for `exnref`,
/// `Option<ExternRef>` for `externref` and `ExternRef` for `(ref extern)`.
pub trait WasmTy: Raw {}
impl<V: Raw> WasmTy for V {}

/// Parameters or results: a tuple of up to 16 [`WasmTy`], `()`, or one value bare.
pub trait WasmTyList: RawList {}
impl<L: RawList> WasmTyList for L {}

macro_rules! raw_number {
    ($($ty:ty: $val:ident, $from:expr, $read:ident, $to:expr);* $(;)?) => {$(
        impl Raw for $ty {
            const TYPE: ValType = ValType::$val;
            #[inline(always)]
            fn to_raw(self, _: &StoreVm) -> Result<ValRaw> {
                let from: fn($ty) -> ValRaw = $from;
                Ok(from(self))
            }
            #[inline(always)]
            fn from_raw(raw: ValRaw, _: &mut StoreVm) -> $ty {
                let to: fn(_) -> $ty = $to;
                to(raw.$read())
            }
        }
    )*};
}

raw_number! {
    i32: I32, |v| ValRaw::from_u32(v as u32), u32, |bits| bits as i32;
    u32: I32, ValRaw::from_u32, u32, |bits| bits;
    i64: I64, |v| ValRaw::from_u64(v as u64), u64, |bits| bits as i64;
    u64: I64, ValRaw::from_u64, u64, |bits| bits;
    f32: F32, |v| ValRaw::from_u32(v.to_bits()), u32, f32::from_bits;
    f64: F64, |v| ValRaw::from_u64(v.to_bits()), u64, f64::from_bits;
    V128: V128, |v| ValRaw::from_u128(v.into()), u128, V128::from;
}

impl Raw for Option<Func> {
    const TYPE: ValType = ValType::FUNCREF;
    fn to_raw(self, store: &StoreVm) -> Result<ValRaw> {
        func_word(self, store).map(ValRaw::from_u64)
    }
    fn from_raw(raw: ValRaw, store: &mut StoreVm) -> Self {
        func_of_word(raw.u64(), store)
    }
}

impl Raw for Option<ExternRef> {
    const TYPE: ValType = ValType::EXTERNREF;
    fn to_raw(self, store: &StoreVm) -> Result<ValRaw> {
        extern_word(self, store).map(ValRaw::from_u32)
    }
    fn from_raw(raw: ValRaw, store: &mut StoreVm) -> Self {
        ExternRef::of_word(raw.u32(), store)
    }
}

/// A function, never null.
impl Raw for Func {
    const TYPE: ValType = ValType::Ref(RefType::new(false, HeapType::Func));
    fn to_raw(self, store: &StoreVm) -> Result<ValRaw> {
        func_word(Some(self), store).map(ValRaw::from_u64)
    }
    fn from_raw(raw: ValRaw, store: &mut StoreVm) -> Self {
        func_of_word(raw.u64(), store).expect("validated: the reference is not null")
    }
}

/// A value of the host's, never null.
impl Raw for ExternRef {
    const TYPE: ValType = ValType::Ref(RefType::new(false, HeapType::Extern));
    fn to_raw(self, store: &StoreVm) -> Result<ValRaw> {
        extern_word(Some(self), store).map(ValRaw::from_u32)
    }
    fn from_raw(raw: ValRaw, store: &mut StoreVm) -> Self {
        ExternRef::of_word(raw.u32(), store).expect("validated: the reference is not null")
    }
}

impl Raw for Option<ExnRef> {
    const TYPE: ValType = ValType::EXNREF;
    fn to_raw(self, store: &StoreVm) -> Result<ValRaw> {
        exn_word(self, store).map(ValRaw::from_u32)
    }
    fn from_raw(raw: ValRaw, store: &mut StoreVm) -> Self {
        ExnRef::of_word(raw.u32(), store)
    }
}

impl<V: Raw> RawList for V {
    const TYPES: &'static [ValType] = &[V::TYPE];
    #[inline(always)]
    fn to_slots(self, store: &StoreVm, slots: &mut [ValRaw]) -> Result<()> {
        slots[0] = self.to_raw(store)?;
        Ok(())
    }
    #[inline(always)]
    fn from_slots(slots: &[ValRaw], store: &mut StoreVm) -> V {
        V::from_raw(slots[0], store)
    }
}

macro_rules! raw_tuple {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Raw),*> RawList for ($($name,)*) {
            const TYPES: &'static [ValType] = &[$($name::TYPE),*];
            #[inline(always)]
            #[allow(unused_variables)]
            fn to_slots(self, store: &StoreVm, slots: &mut [ValRaw]) -> Result<()> {
                $(slots[$index] = self.$index.to_raw(store)?;)*
                Ok(())
            }
            #[inline(always)]
            #[allow(unused_variables, clippy::unused_unit)]
            fn from_slots(slots: &[ValRaw], store: &mut StoreVm) -> Self {
                ($($name::from_raw(slots[$index], store),)*)
            }
        }
    };
}

raw_tuple!();
raw_tuple!(A 0);
raw_tuple!(A 0, B 1);
raw_tuple!(A 0, B 1, C 2);
raw_tuple!(A 0, B 1, C 2, D 3);
raw_tuple!(A 0, B 1, C 2, D 3, E 4);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14);
raw_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14, P 15);

mod sealed_ret {
    use super::*;

    /// What a host function may return.
    pub trait Ret: Sized {
        type Values: RawList;
        fn into_values(self) -> Result<Self::Values>;
    }
}
pub(crate) use sealed_ret::Ret;

/// What a host function returns: a [`WasmTyList`], or a `Result` of one whose error becomes an [`Error`].
pub trait WasmRet: Ret {}
impl<R: Ret> WasmRet for R {}

impl<L: RawList> Ret for L {
    type Values = L;
    #[inline(always)]
    fn into_values(self) -> Result<L> {
        Ok(self)
    }
}

impl<L: RawList, E: Into<Error>> Ret for std::result::Result<L, E> {
    type Values = L;
    #[inline(always)]
    fn into_values(self) -> Result<L> {
        self.map_err(Into::into)
    }
}
