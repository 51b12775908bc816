//! Signatures of functions, each there once in the process.
//!
//! Types of functions are compared when modules are linked and by every indirect call, and they may contain each other:
//! written out, one of a few hundred bytes can be larger than any memory. So each distinct signature is kept once, for the
//! life of the process, and two are equal if they are the same one.
//!
//! A signature is made from types that exist already, or as one of a *group* whose members may contain each other: a module
//! writes `(rec ..)`. Two groups are the same if all of their members are, in order, where a member of the own group counts by its
//! place in it: so a group is looked up by its [`Shape`]s, which contain types that exist already and such places. A
//! group of one that does not contain itself is no group. Spec: core/valid/conventions, rolling and unrolling.
//!
//! What is kept is never given back. How much of it modules can make is bounded ([`FuncType::try_new`]); compiled images
//! do not depend on the numbers.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

use crate::{HeapType, RefType, ValType};

/// The signature of a function. A copy is a number, and equality compares numbers.
///
/// Each distinct one is kept as long as the process lives, also when the module that brought it was dropped or refused. Modules together may
/// make some sixteen million parameters and results (a signature counts for eight more): then one with a signature that is new is
/// refused as too large. Three modules of 3 MB that are made for it get there, so a host that loads strangers' modules bounds how many bytes of them a
/// process takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FuncType {
    number: NonZeroU32,
}

/// Parameters and results.
type Key = (&'static [ValType], &'static [ValType]);

/// Parameters and results by number, to be read without a lock: chunk `k` has those from 2^k to the next power. They are set before
/// anybody gets to see the number; members of a group have numbers before that.
static CHUNKS: [OnceLock<Box<[OnceLock<Key>]>>; 32] = [const { OnceLock::new() }; 32];

fn slot(number: NonZeroU32) -> Option<&'static OnceLock<Key>> {
    let chunk = number.ilog2();
    let place = number.get() - (1 << chunk);
    CHUNKS[chunk as usize].get()?.get(place as usize)
}

/// A parameter or result of a signature in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Of a type that exists already.
    Known(ValType),
    /// A reference to a function of the group's own, by its place in it.
    Own {
        /// Whether null is a value of it.
        nullable: bool,
        /// The place.
        place: u32,
    },
}

/// A signature in a group, its parameters and its results.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) params: Vec<Part>,
    pub(crate) results: Vec<Part>,
}

impl Shape {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.params.iter().chain(&self.results)
    }

    /// Its types, where `group` are those of the group.
    fn types(&self, group: &[FuncType]) -> (Vec<ValType>, Vec<ValType>) {
        let list = |parts: &[Part]| parts.iter().map(|part| part.of(group)).collect();
        (list(&self.params), list(&self.results))
    }
}

impl Part {
    fn of(&self, group: &[FuncType]) -> ValType {
        match *self {
            Part::Known(ty) => ty,
            Part::Own { nullable, place } => ValType::Ref(RefType::new(
                nullable,
                HeapType::ConcreteFunc(group[place as usize]),
            )),
        }
    }
}

/// Every signature of the process.
#[derive(Default)]
struct Table {
    by_types: HashMap<Key, FuncType>,
    groups: HashMap<Vec<Shape>, Vec<FuncType>>,
    /// How many numbers are taken: those from 1 on.
    count: u32,
    /// How many parameters and results all of them have.
    values: usize,
}

/// What a signature counts for besides its parameters and results.
const OVERHEAD_VALUES: usize = 8;

static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(RwLock::default);

impl Table {
    fn add(&mut self, params: &[ValType], results: &[ValType]) -> FuncType {
        let ty = self.reserve();
        let types = self.define(ty, params, results);
        self.by_types.insert(types, ty);
        ty
    }

    fn add_group(&mut self, shapes: &[Shape]) -> Vec<FuncType> {
        let group = shapes.iter().map(|_| self.reserve()).collect::<Vec<_>>();
        for (ty, shape) in group.iter().zip(shapes) {
            let (params, results) = shape.types(&group);
            self.define(*ty, &params, &results);
        }
        self.groups.insert(shapes.to_vec(), group.clone());
        group
    }

    /// A number whose signature is to be defined.
    fn reserve(&mut self) -> FuncType {
        let next = self.count.checked_add(1).and_then(NonZeroU32::new);
        let number = next.expect("fewer than 2^32 signatures");
        self.count = number.get();
        let chunk = number.ilog2();
        CHUNKS[chunk as usize].get_or_init(|| (0..1_u32 << chunk).map(|_| OnceLock::new()).collect());
        FuncType { number }
    }

    fn define(&mut self, ty: FuncType, params: &[ValType], results: &[ValType]) -> Key {
        self.values += weight(params.len() + results.len());
        let leak = |types: &[ValType]| -> &'static [ValType] { Vec::leak(types.to_vec()) };
        let slot = slot(ty.number).expect("it was reserved");
        *slot.get_or_init(|| (leak(params), leak(results)))
    }

    /// Whether signatures of this weight may be added.
    fn has_room(&self, weight: usize, limit: usize) -> bool {
        self.values
            .checked_add(weight)
            .is_some_and(|values| values <= limit)
    }
}

/// What a signature with so many parameters and results counts for.
fn weight(values: usize) -> usize {
    values + OVERHEAD_VALUES
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
        let weight = weight(params.len() + results.len());
        table.has_room(weight, limit).then(|| table.add(params, results))
    }

    /// The signatures of a group, for a module; none when modules have made as many as they may.
    pub(crate) fn try_group(shapes: &[Shape]) -> Option<Vec<FuncType>> {
        let refers = |shape: &Shape| shape.parts().any(|part| matches!(part, Part::Own { .. }));
        if let [shape] = shapes
            && !refers(shape)
        {
            let (params, results) = shape.types(&[]);
            return Some(vec![FuncType::try_new(&params, &results)?]);
        }
        let find = |table: &Table| table.groups.get(shapes).cloned();
        let known = find(&TABLE.read().unwrap_or_else(PoisonError::into_inner));
        if known.is_some() {
            return known;
        }
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = find(&table) {
            return Some(group);
        }
        let weight = shapes.iter().map(|shape| weight(shape.parts().count())).sum();
        let has_room = table.has_room(weight, FuncType::MODULE_VALUES);
        has_room.then(|| table.add_group(shapes))
    }

    fn types(&self) -> Key {
        let types = slot(self.number).and_then(OnceLock::get);
        *types.expect("set before it is handed out")
    }

    /// The types of the parameters, in order.
    pub fn params(&self) -> &'static [ValType] {
        self.types().0
    }

    /// The types of the results, in order.
    pub fn results(&self) -> &'static [ValType] {
        self.types().1
    }

    /// Its number in this process: equal signatures have equal numbers, and none has 0.
    pub fn number(&self) -> u32 {
        self.number.get()
    }

    /// The signature with a number, if there is one.
    pub fn of_number(number: u32) -> Option<FuncType> {
        let number = NonZeroU32::new(number)?;
        slot(number)?.get().map(|_| FuncType { number })
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

    fn own(place: u32) -> Part {
        Part::Own {
            nullable: false,
            place,
        }
    }

    fn taking(param: Part) -> Shape {
        Shape {
            params: vec![Part::Known(ValType::I32), param],
            results: Vec::new(),
        }
    }

    fn group(shapes: &[Shape]) -> Vec<FuncType> {
        FuncType::try_group(shapes).expect("there is room")
    }

    #[test]
    fn groups_are_the_same_if_their_members_are_in_order() {
        let pair = [taking(own(1)), taking(own(0))];
        let made = group(&pair);
        assert_eq!(made, group(&pair));
        assert_ne!(made[0], made[1]);
        assert_eq!(made[0].params(), [ValType::I32, concrete(made[1])]);
        // What looks alike from outside, but is another place in another group, is another type.
        let alone = group(&[taking(own(0))]);
        assert_eq!(alone[0].params()[1], concrete(alone[0]));
        assert!(!made.contains(&alone[0]));
        let other = group(&[taking(own(0)), taking(own(1))]);
        assert!(other.iter().all(|ty| !made.contains(ty) && !alone.contains(ty)));
        assert_eq!(FuncType::of_number(other[1].number()), Some(other[1]));
    }

    #[test]
    fn a_group_of_one_that_does_not_contain_itself_is_no_group() {
        let plain = FuncType::new([ValType::I32, ValType::F32], []);
        let known = taking(Part::Known(ValType::F32));
        assert_eq!(group(std::slice::from_ref(&known)), [plain]);
        let two = group(&[known.clone(), known]);
        assert!(!two.contains(&plain) && two[0] != two[1]);
    }

    #[test]
    fn a_signature_that_contains_itself_is_printed_at_once() {
        let ty = group(&[taking(own(0))])[0];
        assert_eq!(
            ty.to_string(),
            "(func (param i32 (ref (func (param i32 (ref (func ..)))))))"
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
