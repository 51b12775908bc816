//! Signatures of functions, each there once in the process.
//!
//! Types of functions are compared when modules are linked and by every indirect call, and they may contain each other:
//! written out, one of a few hundred bytes can be larger than any memory. So each distinct signature is kept once, for the
//! life of the process, and two are equal if they are the same one. A signature is made from types that exist
//! already, so it contains none but older ones: there are no cycles.
//!
//! What is kept is never given back. How much of it modules can make is bounded ([`FuncType::try_new`]); compiled images
//! do not depend on the numbers.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{LazyLock, PoisonError, RwLock};

use crate::{HeapType, ValType};

/// The signature of a function. A copy is a pointer, and equality compares pointers.
#[derive(Clone, Copy)]
pub struct FuncType {
    interned: &'static Interned,
}

struct Interned {
    number: u32,
    params: &'static [ValType],
    results: &'static [ValType],
}

/// Parameters and results.
type Key = (&'static [ValType], &'static [ValType]);

/// Every signature of the process.
#[derive(Default)]
struct Table {
    by_types: HashMap<Key, FuncType>,
    /// By number, from 1.
    all: Vec<FuncType>,
    /// How many parameters and results all of them have.
    values: usize,
}

/// What a signature counts for besides its parameters and results.
const OVERHEAD_VALUES: usize = 8;

static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(RwLock::default);

impl Table {
    fn add(&mut self, params: &[ValType], results: &[ValType]) -> FuncType {
        let params: &'static [ValType] = Vec::leak(params.to_vec());
        let results: &'static [ValType] = Vec::leak(results.to_vec());
        let number = u32::try_from(self.all.len() + 1).expect("fewer than 2^32 signatures");
        let interned = Box::leak(Box::new(Interned {
            number,
            params,
            results,
        }));
        let ty = FuncType { interned };
        self.by_types.insert((params, results), ty);
        self.all.push(ty);
        self.values += params.len() + results.len() + OVERHEAD_VALUES;
        ty
    }
}

impl FuncType {
    /// The most parameters and results of all signatures together that modules may make: some 400 MB.
    pub(crate) const MODULE_VALUES: usize = 1 << 24;

    /// A signature from its parameters and results, in order.
    pub fn new(
        params: impl IntoIterator<Item = ValType>,
        results: impl IntoIterator<Item = ValType>,
    ) -> FuncType {
        let params = params.into_iter().collect::<Vec<_>>();
        let results = results.into_iter().collect::<Vec<_>>();
        FuncType::within(&params, &results, usize::MAX).expect("no limit was set")
    }

    /// As [`FuncType::new`], for a module; none when modules have made as many as they may.
    pub(crate) fn try_new(params: &[ValType], results: &[ValType]) -> Option<FuncType> {
        FuncType::within(params, results, FuncType::MODULE_VALUES)
    }

    fn within(params: &[ValType], results: &[ValType], limit: usize) -> Option<FuncType> {
        let find = |table: &Table| table.by_types.get(&(params, results)).copied();
        let known = find(&TABLE.read().unwrap_or_else(PoisonError::into_inner));
        if known.is_some() {
            return known;
        }
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(ty) = find(&table) {
            return Some(ty);
        }
        let more = params.len() + results.len() + OVERHEAD_VALUES;
        (table.values.checked_add(more)? <= limit).then(|| table.add(params, results))
    }

    /// The types of the parameters, in order.
    pub fn params(&self) -> &'static [ValType] {
        self.interned.params
    }

    /// The types of the results, in order.
    pub fn results(&self) -> &'static [ValType] {
        self.interned.results
    }

    /// Its number in this process: equal signatures have equal numbers, and none has 0.
    pub fn number(&self) -> u32 {
        self.interned.number
    }

    /// The signature with a number, if there is one.
    pub fn of_number(number: u32) -> Option<FuncType> {
        let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
        table.all.get(number.checked_sub(1)? as usize).copied()
    }

    /// Writes it, and types of functions in it too if `nested`: those in turn only by name, as they might not end.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, nested: bool) -> fmt::Result {
        f.write_str("(func")?;
        write_list(f, "param", self.params(), nested)?;
        write_list(f, "result", self.results(), nested)?;
        f.write_str(")")
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, what: &str, types: &[ValType], nested: bool) -> fmt::Result {
    if types.is_empty() {
        return Ok(());
    }
    write!(f, " ({what}")?;
    for ty in types {
        match ty {
            ValType::Ref(ty) if !nested && matches!(ty.heap_type(), HeapType::ConcreteFunc(_)) => {
                f.write_str(match ty.is_nullable() {
                    true => " (ref null (func ..))",
                    false => " (ref (func ..))",
                })?;
            }
            _ => write!(f, " {ty}")?,
        }
    }
    f.write_str(")")
}

impl PartialEq for FuncType {
    fn eq(&self, other: &FuncType) -> bool {
        std::ptr::eq(self.interned, other.interned)
    }
}

impl Eq for FuncType {}

impl Hash for FuncType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}

impl fmt::Debug for FuncType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for FuncType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RefType;

    fn concrete(ty: FuncType) -> ValType {
        ValType::Ref(RefType::new(false, HeapType::ConcreteFunc(ty)))
    }

    #[test]
    fn equal_signatures_are_one() {
        let (one, two) = (
            FuncType::new([ValType::I32], [ValType::F64]),
            FuncType::new([ValType::I32], [ValType::F64]),
        );
        assert_eq!((one, one.number()), (two, two.number()));
        assert_ne!(one, FuncType::new([ValType::F64], [ValType::I32]));
        assert_eq!(FuncType::of_number(one.number()), Some(one));
        assert_eq!(FuncType::of_number(0), None);
        assert_eq!(
            FuncType::new([concrete(one)], []),
            FuncType::new([concrete(two)], [])
        );
    }

    #[test]
    fn a_signature_that_doubles_at_each_step_is_compared_and_printed_at_once() {
        let double = |ty: FuncType| FuncType::new([concrete(ty), concrete(ty)], []);
        let first = FuncType::new([], []);
        let last = (0..200).fold(first, |ty, _| double(ty));
        assert_eq!(last, (0..200).fold(first, |ty, _| double(ty)));
        assert_eq!(
            last.to_string(),
            "(func (param (ref (func (param (ref (func ..)) (ref (func ..))))) (ref (func (param (ref (func ..)) (ref (func ..)))))))"
        );
    }

    #[test]
    fn modules_make_no_more_than_a_limit() {
        let unusual = [ValType::F32; 37];
        assert_eq!(FuncType::within(&unusual, &[], 1), None);
        let made = FuncType::within(&unusual, &[], usize::MAX);
        assert_eq!(FuncType::within(&unusual, &[], 1), made);
    }
}
