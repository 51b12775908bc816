//! Signatures of functions, each there once in the process.
//!
//! Types of functions are compared when modules are linked and by every indirect call, and they may contain each other:
//! written out, one of a few hundred bytes can be larger than any memory. So each distinct signature is kept once, and two are equal if
//! they are the same one.
//!
//! A signature is made from types that exist already, or as one of a *group* whose members may contain each other: a module
//! writes `(rec ..)`. Two groups are the same if all of their members are, in order, where a member of the own group counts by its
//! place in it: so a group is looked up by its [`Shape`]s, which contain types that exist already and such places. A
//! group of one that does not contain itself is no group. Spec: core/valid/conventions, rolling and unrolling.
//!
//! A group is kept as long as it has users: handles ([`FuncType`]), and groups whose types name it. Who compares *numbers*, as compiled code
//! does, has a handle: a module has those of its types, a store has its modules, a host function has its own. So a number that is used
//! again is in no record, no table and no code that can still run: `func_type/registry.rs`.
//!
//! Types of values, which are copied everywhere, name a signature by a [`FuncTypeId`]. It keeps nothing alive and is never used again: one
//! of a signature that is gone equals no other. So nothing that compares types can be led to take one for another, whoever kept what;
//! at worst a type is refused that would have fitted.
//!
//! Compiled images do not depend on the numbers, and how much one module may make (`limits.rs`) not on what others made.

mod registry;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::{HeapType, RefType, ValType};
use registry::Group;

/// The signature of a function. A clone counts a reference, and equality compares two words.
///
/// Each distinct one is kept once in the process, as long as anybody has it: a handle like this, a module, a store that has a function of it, or
/// another signature that contains it. Then its memory is given back. A handle that is forgotten (`mem::forget`) keeps it for good.
///
/// Types in [`params`](FuncType::params) and [`results`](FuncType::results) name other signatures by [`FuncTypeId`].
#[derive(Clone)]
pub struct FuncType {
    group: Arc<Group>,
    place: u32,
}

/// The name of a signature, in types of references: [`HeapType::ConcreteFunc`]. A copy is two numbers.
///
/// It keeps nothing alive. While anybody has the signature, equal signatures have equal names; once nobody has it, its name
/// equals no other any more, also if a signature of the same types is made again. So keep the [`FuncType`] as long as you use types that name
/// it. Signatures that contain it do so themselves, and stores do for tables and globals.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FuncTypeId {
    number: NonZeroU32,
    generation: u32,
}

impl FuncTypeId {
    /// The signature, if anybody has it.
    pub fn get(&self) -> Option<FuncType> {
        registry::of_id(*self)
    }

    /// Writes the signature, without the types of functions in it.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(ty) => ty.write(f, false),
            None => f.write_str("(func ..)"),
        }
    }
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

impl Part {
    /// The type, where `own` are those of the group.
    fn of(&self, own: impl Fn(u32) -> FuncTypeId) -> ValType {
        match *self {
            Part::Known(ty) => ty,
            Part::Own { nullable, place } => {
                ValType::Ref(RefType::new(nullable, HeapType::ConcreteFunc(own(place))))
            }
        }
    }
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

    /// Its types that exist already.
    fn known(&self) -> impl Iterator<Item = ValType> {
        self.parts().filter_map(|part| match part {
            Part::Known(ty) => Some(*ty),
            Part::Own { .. } => None,
        })
    }

    /// How many parameters and results it has.
    pub(crate) fn values(&self) -> usize {
        self.params.len() + self.results.len()
    }
}

impl FuncType {
    /// A signature from its parameters and results, in order. Takes a lock.
    ///
    /// A type in them that names a signature that nobody has any more stays such a type, which only itself equals.
    ///
    /// # Panics
    ///
    /// If there are 2^32 signatures, which takes some 900 GB.
    pub fn new(
        params: impl IntoIterator<Item = ValType>,
        results: impl IntoIterator<Item = ValType>,
    ) -> FuncType {
        let shape = Shape {
            params: params.into_iter().map(Part::Known).collect(),
            results: results.into_iter().map(Part::Known).collect(),
        };
        let group = registry::intern(&[shape]).expect("fewer than 2^32 signatures");
        FuncType { group, place: 0 }
    }

    /// The signatures of a group; none if there are 2^32 in the process.
    pub(crate) fn group(shapes: &[Shape]) -> Option<Vec<FuncType>> {
        let group = registry::intern(shapes)?;
        let member = |place| FuncType {
            group: group.clone(),
            place,
        };
        Some((0..shapes.len() as u32).map(member).collect())
    }

    /// The types of the parameters, in order.
    pub fn params(&self) -> &[ValType] {
        self.group.params(self.place)
    }

    /// The types of the results, in order.
    pub fn results(&self) -> &[ValType] {
        self.group.results(self.place)
    }

    /// What types of references name it by.
    pub fn id(&self) -> FuncTypeId {
        self.group.id(self.place)
    }

    /// Its number in this process: those of different signatures that somebody has are different, and none is 0. When nobody has a signature any more,
    /// its number may become another's.
    pub fn number(&self) -> u32 {
        self.id().number.get()
    }

    /// The signature with a number, if there is one now: for who knows that somebody has it.
    pub fn of_number(number: u32) -> Option<FuncType> {
        registry::of_number(number)
    }

    /// How many there are in the process. For tests.
    #[doc(hidden)]
    pub fn count() -> usize {
        registry::count()
    }

    /// Writes it, and types of functions in it too if `nested`: those in turn only by name, as they might not end.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, nested: bool) -> fmt::Result {
        f.write_str("(func")?;
        write_list(f, "param", self.params(), nested)?;
        write_list(f, "result", self.results(), nested)?;
        f.write_str(")")
    }
}

impl PartialEq for FuncType {
    fn eq(&self, other: &FuncType) -> bool {
        Arc::ptr_eq(&self.group, &other.group) && self.place == other.place
    }
}

impl Eq for FuncType {}

impl Hash for FuncType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number().hash(state);
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

impl fmt::Debug for FuncTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn concrete(ty: &FuncType) -> ValType {
        ValType::Ref(RefType::new(false, HeapType::ConcreteFunc(ty.id())))
    }

    #[test]
    fn equal_signatures_are_one() {
        let (one, two) = (
            FuncType::new([ValType::I32], [ValType::F64]),
            FuncType::new([ValType::I32], [ValType::F64]),
        );
        assert_eq!((&one, one.number()), (&two, two.number()));
        assert_ne!(one, FuncType::new([ValType::F64], [ValType::I32]));
        assert_eq!(FuncType::of_number(one.number()), Some(one.clone()));
        assert_eq!(FuncType::of_number(0), None);
        assert_eq!(
            FuncType::new([concrete(&one)], []),
            FuncType::new([concrete(&two)], [])
        );
    }

    #[test]
    fn a_signature_that_doubles_at_each_step_is_compared_and_printed_at_once() {
        let double = |ty: FuncType| FuncType::new([concrete(&ty), concrete(&ty)], []);
        let first = FuncType::new([], []);
        let last = (0..200).fold(first.clone(), |ty, _| double(ty));
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
        FuncType::group(shapes).expect("there is room")
    }

    #[test]
    fn groups_are_the_same_if_their_members_are_in_order() {
        let pair = [taking(own(1)), taking(own(0))];
        let made = group(&pair);
        assert_eq!(made, group(&pair));
        assert_ne!(made[0], made[1]);
        assert_eq!(made[0].params(), [ValType::I32, concrete(&made[1])]);
        // What looks alike from outside, but is another place in another group, is another type.
        let alone = group(&[taking(own(0))]);
        assert_eq!(alone[0].params()[1], concrete(&alone[0]));
        assert!(!made.contains(&alone[0]));
        let other = group(&[taking(own(0)), taking(own(1))]);
        assert!(other.iter().all(|ty| !made.contains(ty) && !alone.contains(ty)));
        assert_eq!(FuncType::of_number(other[1].number()), Some(other[1].clone()));
    }

    #[test]
    fn a_group_of_one_that_does_not_contain_itself_is_no_group() {
        let plain = FuncType::new([ValType::I32, ValType::F32], []);
        let known = taking(Part::Known(ValType::F32));
        assert_eq!(group(std::slice::from_ref(&known)), std::slice::from_ref(&plain));
        let two = group(&[known.clone(), known]);
        assert!(!two.contains(&plain) && two[0] != two[1]);
    }

    #[test]
    fn a_signature_that_contains_itself_is_printed_at_once() {
        let ty = &group(&[taking(own(0))])[0];
        assert_eq!(
            ty.to_string(),
            "(func (param i32 (ref (func (param i32 (ref (func ..)))))))"
        );
    }

    /// Parameters that no other test uses.
    fn unusual(length: usize) -> Vec<ValType> {
        vec![ValType::F32; length]
    }

    #[test]
    fn a_signature_that_nobody_has_is_gone_and_its_name_names_nothing() {
        let ty = FuncType::new(unusual(41), []);
        let (id, number) = (ty.id(), ty.number());
        let other = ty.clone();
        drop(ty);
        assert_eq!(id.get().as_ref(), Some(&other));
        drop(other);
        assert_eq!(id.get(), None);
        assert!(FuncType::of_number(number).is_none_or(|ty| ty.params() != unusual(41)));
        let again = FuncType::new(unusual(41), []);
        assert_ne!(again.id(), id, "a name is never used again");
        let dead = ValType::Ref(RefType::new(true, HeapType::ConcreteFunc(id)));
        assert!(!dead.matches(&concrete(&again)) && !concrete(&again).matches(&dead));
        assert_eq!(dead.to_string(), "(ref null (func ..))");
        assert_eq!(FuncType::new([dead], []), FuncType::new([dead], []));
    }

    #[test]
    fn a_signature_keeps_those_that_it_contains() {
        let inner = FuncType::new(unusual(42), []);
        let id = inner.id();
        let outer = FuncType::new([concrete(&inner), concrete(&inner)], []);
        drop(inner);
        assert_eq!(id.get().expect("kept by the other").params(), unusual(42));
        assert_eq!(FuncType::new(unusual(42), []).id(), id);
        drop(outer);
        assert_eq!(id.get(), None);
    }

    #[test]
    fn a_group_goes_as_one_although_its_members_contain_each_other() {
        let shape = |place| Shape {
            params: unusual(43)
                .into_iter()
                .map(Part::Known)
                .chain([own(place)])
                .collect(),
            results: Vec::new(),
        };
        let mut made = group(&[shape(1), shape(0)]);
        let ids = [made[0].id(), made[1].id()];
        let second = made.pop();
        drop(made);
        assert_eq!(ids[0].get(), group(&[shape(1), shape(0)]).first().cloned());
        drop(second);
        assert_eq!(ids.map(|id| id.get()), [None, None]);
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_signatures_ends_on_a_small_stack() {
        let chain = || {
            let mut ty = FuncType::new(unusual(44), []);
            let first = ty.id();
            for _ in 0..100_000 {
                ty = FuncType::new([concrete(&ty)], []);
            }
            assert!(first.get().is_some());
            drop(ty);
            assert_eq!(first.get(), None);
        };
        let small = thread::Builder::new().stack_size(128 << 10);
        small.spawn(chain).expect("a thread").join().expect("no overflow");
    }

    /// Threads make and drop the same few signatures: whoever has one finds what it asked for, and equal ones equal.
    #[test]
    fn threads_that_come_and_go_agree_on_signatures() {
        let failed = AtomicBool::new(false);
        let work = &|seed: usize| {
            for round in 0..4_000 {
                let inner = FuncType::new(unusual(50 + (round + seed) % 3), []);
                let outer = FuncType::new([concrete(&inner)], [ValType::F32; 3]);
                let (id, number) = (inner.id(), inner.number());
                let again = FuncType::new(unusual(50 + (round + seed) % 3), []);
                let mut ring = group(&[taking(own(0)), taking(Part::Known(concrete(&inner)))]);
                let holds = inner == again
                    && outer.params() == [concrete(&again)]
                    && id.get().as_ref() == Some(&inner)
                    && FuncType::of_number(number).as_ref() == Some(&inner)
                    && ring[1].params()[1] == concrete(&again)
                    && ring[0].params()[1] == concrete(&ring[0]);
                if round % 2 == 0 {
                    ring.swap(0, 1);
                }
                drop((inner, again));
                if !holds || id.get().is_none() {
                    failed.store(true, Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || work(seed));
            }
        });
        assert!(!failed.load(Ordering::Relaxed));
    }

    #[test]
    fn what_is_forgotten_stays() {
        let ty = FuncType::new(unusual(45), []);
        let id = ty.id();
        std::mem::forget(ty);
        assert_eq!(FuncType::new(unusual(45), []).id(), id);
    }
}
