//! Which signatures there are: each once, found by its contents, numbered, and forgotten with its last user.
//!
//! A *group* is what comes and goes as one: signatures that may contain each other, mostly a single one. Its users are the handles
//! ([`FuncType`]), counted by an `Arc`, and the groups whose types name it, which hold handles too. The registry counts for nothing: it has
//! weak references, by number and by a hash of the contents.
//!
//! ```text
//!   FuncType --Arc--> Group { members, types, holds --Arc--> Group .. }      types: by id, which keeps nothing alive
//!                       ^
//!   slots[number] --Weak+       by_hash: hash -> number of the first member
//! ```
//!
//! Invariants
//! 1. A number belongs to one living group at most: it is given back by the end of its group, and an end comes after the last handle.
//! 2. A number and a generation together are given once: whoever has an id of a group that is gone finds nothing, and equals nothing.
//! 3. A group that lives and is found by its hash is the only one of its contents: it is looked for again under the lock that adds it.
//! 4. No handle ends while the lock is held, as the end of a group takes it.
//!
//! Nothing grows with what came and went but the slots, 16 bytes for each number that was once needed at a time.
//!
//! What hash two contents have is secret and random. Should two be the same, the older group is not found any more: a signature of its
//! contents made later is another type, which is refused where it could have been taken. Nothing is taken that should be refused.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use super::{FuncType, FuncTypeId, Shape};
use crate::{HeapType, ValType};

/// Signatures that come and go together.
pub(super) struct Group {
    hash: u64,
    members: Box<[Member]>,
    /// The parameters and results of all members, in order.
    types: Box<[ValType]>,
    /// The signatures of other groups that `types` name.
    holds: Box<[FuncType]>,
}

/// A signature in a group: where its parameters begin in the group's types, where its results do, and where they end.
struct Member {
    id: FuncTypeId,
    params: u32,
    results: u32,
    end: u32,
}

impl Group {
    pub(super) fn id(&self, place: u32) -> FuncTypeId {
        self.members[place as usize].id
    }

    pub(super) fn params(&self, place: u32) -> &[ValType] {
        let member = &self.members[place as usize];
        &self.types[member.params as usize..member.results as usize]
    }

    pub(super) fn results(&self, place: u32) -> &[ValType] {
        let member = &self.members[place as usize];
        &self.types[member.results as usize..member.end as usize]
    }

    /// Whether its members are these.
    fn is(&self, shapes: &[Shape]) -> bool {
        let own = |place| self.id(place);
        let same = |types: &[ValType], parts: &[super::Part]| {
            types.len() == parts.len() && types.iter().zip(parts).all(|(ty, part)| *ty == part.of(own))
        };
        shapes.len() == self.members.len()
            && shapes.iter().zip(0..).all(|(shape, place)| {
                same(self.params(place), &shape.params) && same(self.results(place), &shape.results)
            })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        write().remove(self);
        // A signature in a signature in a signature .. would end as deep as that on the host's stack: so one after the other.
        let mut held = mem::take(&mut self.holds).into_vec();
        while let Some(ty) = held.pop() {
            // Of several threads that end the last handles, one gets the group.
            if let Some(mut last) = Arc::into_inner(ty.group) {
                held.append(&mut mem::take(&mut last.holds).into_vec());
            }
        }
    }
}

/// A number: whose it is, or when it will be used again.
#[derive(Default)]
struct Slot {
    group: Weak<Group>,
    /// The place in the group; of a number that is free, the next that is, or 0.
    place: u32,
    /// How many groups have had the number before.
    generation: u32,
}

/// All groups.
#[derive(Default)]
struct Table {
    /// By number, from 1 on.
    slots: Vec<Slot>,
    /// The number to be used next, or 0: one more than there are.
    free: u32,
    /// How many numbers are in use.
    live: usize,
    /// The number of the first member.
    by_hash: HashMap<u64, u32>,
}

static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(RwLock::default);
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn read() -> RwLockReadGuard<'static, Table> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Table> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}

/// The group with these members; none if there are no numbers left.
pub(super) fn intern(shapes: &[Shape]) -> Option<Arc<Group>> {
    let hash = HASHER.hash_one(shapes);
    let known = read().candidate(hash);
    if let Some(group) = known.filter(|group| group.is(shapes)) {
        return Some(group);
    }
    let holds = held_by(shapes);
    // Declared before the lock is taken, so that they end after it is given back (invariant 4).
    let known;
    let mut table = write();
    known = table.candidate(hash);
    match &known {
        Some(group) if group.is(shapes) => Some(group.clone()),
        _ if table.has_numbers(shapes.len()) => Some(table.add(hash, shapes, holds)),
        _ => None,
    }
}

/// The signature of a number; see [`Slot`].
pub(super) fn of_number(number: u32) -> Option<FuncType> {
    read().slot(number)?.get()
}

/// The signature of an id, if it is still there.
pub(super) fn of_id(id: FuncTypeId) -> Option<FuncType> {
    read().of_id(id)
}

/// How many signatures there are.
pub(super) fn count() -> usize {
    read().live
}

/// What the group with these members is to hold, each once.
fn held_by(shapes: &[Shape]) -> Box<[FuncType]> {
    let mut ids = shapes.iter().flat_map(Shape::known).filter_map(|ty| match ty {
        ValType::Ref(ty) => match ty.heap_type() {
            HeapType::ConcreteFunc(id) => Some(id),
            _ => None,
        },
        _ => None,
    });
    let mut held = match ids.next() {
        None => Vec::new(),
        Some(first) => {
            let mut ids = ids.collect::<Vec<_>>();
            ids.push(first);
            ids.sort_unstable_by_key(|id| id.number);
            ids.dedup();
            let table = read();
            ids.into_iter().filter_map(|id| table.of_id(id)).collect()
        }
    };
    held.shrink_to_fit();
    held.into_boxed_slice()
}

impl Slot {
    fn get(&self) -> Option<FuncType> {
        let (group, place) = (self.group.upgrade()?, self.place);
        Some(FuncType { group, place })
    }
}

impl Table {
    fn slot(&self, number: u32) -> Option<&Slot> {
        self.slots.get(number.checked_sub(1)? as usize)
    }

    fn slot_mut(&mut self, number: u32) -> &mut Slot {
        &mut self.slots[number as usize - 1]
    }

    fn of_id(&self, id: FuncTypeId) -> Option<FuncType> {
        let slot = self.slot(id.number.get())?;
        (slot.generation == id.generation).then(|| slot.get()).flatten()
    }

    /// The group that is found by this hash, which its contents are to be compared with. Not to be dropped before the lock (invariant 4).
    fn candidate(&self, hash: u64) -> Option<Arc<Group>> {
        let number = *self.by_hash.get(&hash)?;
        self.slot(number)?.group.upgrade()
    }

    /// Whether there are so many numbers that nobody had before. Some others may be free, but nobody gets there: the slots alone have 64 GiB.
    fn has_numbers(&self, count: usize) -> bool {
        count <= u32::MAX as usize - self.slots.len()
    }

    fn add(&mut self, hash: u64, shapes: &[Shape], holds: Box<[FuncType]>) -> Arc<Group> {
        let ids = shapes.iter().map(|_| self.take()).collect::<Box<_>>();
        let group = Arc::new(Group::new(hash, &ids, shapes, holds));
        for (id, place) in ids.iter().zip(0..) {
            let slot = self.slot_mut(id.number.get());
            slot.group = Arc::downgrade(&group);
            slot.place = place;
        }
        if let Some(first) = ids.first() {
            self.by_hash.insert(hash, first.number.get());
        }
        self.live += ids.len();
        group
    }

    /// A number that is nobody's.
    fn take(&mut self) -> FuncTypeId {
        if self.free == 0 {
            self.slots.push(Slot::default());
            self.free = self.slots.len() as u32;
        }
        let number = NonZeroU32::new(self.free).expect("a number was just made");
        let slot = self.slot_mut(number.get());
        let (next, generation) = (slot.place, slot.generation);
        self.free = next;
        FuncTypeId { number, generation }
    }

    /// Forgets a group that nobody has a handle of.
    fn remove(&mut self, group: &Group) {
        for member in &group.members {
            self.give_back(member.id.number.get());
        }
        self.live -= group.members.len();
        // A group of the same contents may have been made since the last handle ended: then it is the one that is found.
        let first = group.members.first().map(|member| member.id.number.get());
        if self.by_hash.get(&group.hash).copied() == first {
            self.by_hash.remove(&group.hash);
        }
        let room = self.by_hash.capacity();
        if room > 1024 && self.by_hash.len() < room / 8 {
            self.by_hash.shrink_to(room / 4);
        }
    }

    fn give_back(&mut self, number: u32) {
        let next = self.free;
        let slot = self.slot_mut(number);
        slot.group = Weak::new();
        // Of a number whose generations are used up no more is made (invariant 2).
        if let Some(generation) = slot.generation.checked_add(1) {
            slot.generation = generation;
            slot.place = next;
            self.free = number;
        }
    }
}

impl Group {
    fn new(hash: u64, ids: &[FuncTypeId], shapes: &[Shape], holds: Box<[FuncType]>) -> Group {
        let own = |place: u32| ids[place as usize];
        let mut types = Vec::with_capacity(shapes.iter().map(Shape::values).sum());
        let mut members = Vec::with_capacity(shapes.len());
        for (shape, id) in shapes.iter().zip(ids) {
            let params = types.len() as u32;
            types.extend(shape.params.iter().map(|part| part.of(own)));
            let results = types.len() as u32;
            types.extend(shape.results.iter().map(|part| part.of(own)));
            let end = types.len() as u32;
            let id = *id;
            members.push(Member {
                id,
                params,
                results,
                end,
            });
        }
        let (members, types) = (members.into_boxed_slice(), types.into_boxed_slice());
        Group {
            hash,
            members,
            types,
            holds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_with_another_generation() {
        let mut table = Table::default();
        let (first, second) = (table.take(), table.take());
        assert_ne!(first.number, second.number);
        table.give_back(first.number.get());
        let again = table.take();
        assert_eq!(again.number, first.number);
        assert_ne!(again, first);
        assert_eq!(table.of_id(first).is_none(), table.of_id(again).is_none());
    }

    #[test]
    fn a_number_whose_generations_are_used_up_is_never_used_again() {
        let mut table = Table::default();
        let id = table.take();
        table.slot_mut(id.number.get()).generation = u32::MAX;
        table.give_back(id.number.get());
        let other = table.take();
        assert_ne!(other.number, id.number);
        table.give_back(other.number.get());
        assert_eq!(table.take().number, other.number);
    }
}
