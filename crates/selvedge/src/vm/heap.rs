//! The store's reference heap: everything that a guest names by a 32-bit reference. A store has one behind a
//! [`LazyHeap`](super::lazy_heap::LazyHeap).
//!
//! ```text
//!   a reference          0               null
//!                        odd             a small integer, 31 bits: no object
//!                        else            an object's offset in the region, a multiple of 16
//!
//!   the region, one a store, made on first use
//!   offset 0    | never used           |
//!   offset 16   | header               | size in bytes (32 bits), kind (3), mark (1), link (28)
//!               | payload              | external: the host value's number
//!               |                      | exception: the tag's number, then one 16-byte slot a value, from the next slot on
//!               |                      | free: the next free block of its class
//!               | the next block ..    | blocks follow one another without a gap
//! ```
//!
//! Collecting is mark and sweep, stop the world, exact, and does not move objects. Objects that are marked and were not looked at yet are a list by
//! the links in their headers: a collection needs no memory, however large the region is. Nothing but [`super::collect`] and this file
//! knows so. Compiled code names its live references in stack maps and reloads them after each call, so a collector that
//! moves is a change of these two files.
//!
//! Invariants
//! 1. Blocks tile the region from offset 16 to its end; each begins with a header whose size is a multiple of 16, not zero.
//! 2. A free block is in exactly one list; adjacent free blocks were joined by the last sweep.
//! 3. An external object and its entry in `hosts` live and die together; entries whose object died wait in `dead` until
//!    somebody without a reference into the store drops them: destructors are user code.
//! 4. `base` in the store's context is the region's address whenever compiled code runs: [`Heap::base`] is published after every
//!    change.

use super::vmctx::ValRaw;
use std::any::Any;
use std::mem;

/// Size and alignment of the smallest block.
const GRAIN_BYTES: usize = 16;
/// Words of 8 bytes in it.
const GRAIN_WORDS: usize = GRAIN_BYTES / 8;
/// Free lists: of 16, 32 .. 512 bytes; then one for each power of two, of blocks up to the next one.
const CLASSES: usize = EXACT_CLASSES + 23;
/// The lists whose blocks all have one size.
const EXACT_CLASSES: usize = 32;
/// How many blocks of a list are looked at, where they may be too small: a guest decides how long it is.
const LOOKED_AT: usize = 16;
/// A full region is worth a collection when this part of it was allocated since the last.
const WORTH_COLLECTING: usize = 16;
/// What may be allocated at least between two collections.
const MIN_BETWEEN_COLLECTIONS: usize = 64 << 10;
/// Offset in an exception of its first value.
const EXCEPTION_VALUES: usize = selvedge_compiler::layout::EXCEPTION_VALUES as usize;

/// A value of the host's behind an `externref`.
pub(crate) type HostValue = Box<dyn Any + Send + Sync>;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Free = 0,
    External = 1,
    Exception = 2,
}

/// The first word of a block.
#[derive(Clone, Copy)]
struct Header(u64);

impl Header {
    const KIND_SHIFT: u32 = 32;
    const KIND: u64 = 0b111;
    const MARK: u64 = 1 << 35;
    /// The link is an offset in grains, of which a region has less than 2^28; 0: none.
    const LINK_SHIFT: u32 = 36;

    fn new(kind: Kind, bytes: usize) -> Header {
        Header((kind as u64) << Header::KIND_SHIFT | bytes as u64)
    }

    /// Of the same block, marked and linked to another one.
    fn marked(self, link: u32) -> Header {
        let grains = u64::from(link) / GRAIN_BYTES as u64;
        Header(self.unmarked().0 | Header::MARK | grains << Header::LINK_SHIFT)
    }

    fn unmarked(self) -> Header {
        Header(self.0 & (Header::MARK - 1))
    }

    fn link(self) -> u32 {
        (self.0 >> Header::LINK_SHIFT) as u32 * GRAIN_BYTES as u32
    }

    fn bytes(self) -> usize {
        self.0 as u32 as usize
    }

    fn kind(self) -> Kind {
        match self.0 >> Header::KIND_SHIFT & Header::KIND {
            1 => Kind::External,
            2 => Kind::Exception,
            _ => Kind::Free,
        }
    }

    fn is_marked(self) -> bool {
        self.0 & Header::MARK != 0
    }
}

/// See the head of this file.
pub(crate) struct Heap {
    words: Vec<u64>,
    /// The first free block of each class; 0: none.
    free: [u32; CLASSES],
    /// Bytes in objects, dead ones that were not swept yet included.
    used_bytes: usize,
    /// Of these, since the last collection.
    allocated_bytes: usize,
    /// How many lie between two collections.
    between_collections: usize,
    limit_bytes: usize,
    /// Whether the last allocation was refused.
    refused: bool,
    /// What the system refused of late; 0: nothing.
    lacked_bytes: usize,
    hosts: Vec<Option<HostValue>>,
    free_hosts: Vec<u32>,
    /// Host values whose objects died (invariant 3).
    dead: Vec<HostValue>,
    /// The first marked object whose fields were not looked at yet; 0: none.
    grey: u32,
}

impl Heap {
    pub(crate) fn new(limit_bytes: usize) -> Heap {
        Heap {
            words: Vec::new(),
            free: [0; CLASSES],
            used_bytes: 0,
            allocated_bytes: 0,
            between_collections: MIN_BETWEEN_COLLECTIONS,
            limit_bytes: limit_bytes.min(u32::MAX as usize & !(GRAIN_BYTES - 1)),
            refused: false,
            lacked_bytes: 0,
            hosts: Vec::new(),
            free_hosts: Vec::new(),
            dead: Vec::new(),
            grey: 0,
        }
    }

    /// The region's address (invariant 4).
    pub(crate) fn base(&self) -> *const u8 {
        self.words.as_ptr().cast()
    }

    /// Bytes in objects, as far as is known.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    pub(crate) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Sets how large the region may get. One that is larger already stays, and nothing more is allocated at its end.
    pub(crate) fn set_limit(&mut self, bytes: usize) {
        self.limit_bytes = bytes.min(u32::MAX as usize & !(GRAIN_BYTES - 1));
    }

    /// Size of the region.
    pub(crate) fn region_bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Whether so much was allocated that a collection is worth its time.
    pub(crate) fn is_collection_due(&self) -> bool {
        self.allocated_bytes >= self.between_collections
    }

    /// Whether to collect now that the region is full. A guest that keeps it nearly full would have it done for every few bytes, and pays
    /// for none: it is refused instead. The allocation after a refusal is not, so that what has become free since is found.
    pub(crate) fn is_collection_worthwhile(&self) -> bool {
        self.refused || self.allocated_bytes >= self.limit_bytes / WORTH_COLLECTING
    }

    /// Notes how an allocation ended. How many bytes the system refused for it.
    pub(crate) fn set_refused(&mut self, refused: bool) -> usize {
        self.refused = refused;
        mem::take(&mut self.lacked_bytes)
    }

    /// Makes room for all that a [`sweep`](Heap::sweep) may bury. Whether there is: without, there must be none.
    pub(crate) fn make_room_for_dead(&mut self) -> bool {
        let alive = self.hosts.len() - self.free_hosts.len();
        self.dead.try_reserve(alive).is_ok() && self.free_hosts.try_reserve(alive).is_ok()
    }

    /// A new external object; gives the value back when the region is full.
    pub(crate) fn new_external(&mut self, value: HostValue) -> Result<u32, HostValue> {
        if self.free_hosts.is_empty() && self.hosts.try_reserve(1).is_err() {
            self.lacked_bytes = (self.hosts.len() + 1) * size_of::<Option<HostValue>>();
            return Err(value);
        }
        let Some(object) = self.allocate(Kind::External, GRAIN_BYTES) else {
            return Err(value);
        };
        let number = match self.free_hosts.pop() {
            Some(number) => {
                self.hosts[number as usize] = Some(value);
                number
            }
            None => {
                self.hosts.push(Some(value));
                self.hosts.len() as u32 - 1
            }
        };
        self.words[index(object) + 1] = u64::from(number);
        Ok(object)
    }

    /// The host value of an external object; none of anything else.
    pub(crate) fn external(&self, reference: u32) -> Option<&(dyn Any + Send + Sync)> {
        if self.kind(reference)? != Kind::External {
            return None;
        }
        let number = self.words[index(reference) + 1];
        self.hosts[number as usize].as_deref()
    }

    /// As [`external`](Heap::external), to change.
    pub(crate) fn external_mut(&mut self, reference: u32) -> Option<&mut (dyn Any + Send + Sync)> {
        if self.kind(reference)? != Kind::External {
            return None;
        }
        let number = self.words[index(reference) + 1];
        self.hosts[number as usize].as_deref_mut()
    }

    /// A new exception with the values in `slots`; none when the region is full.
    pub(crate) fn new_exception(&mut self, tag: u32, slots: &[ValRaw]) -> Option<u32> {
        let object = self.allocate(Kind::Exception, EXCEPTION_VALUES + slots.len() * GRAIN_BYTES)?;
        let at = index(object);
        self.words[at + 1] = u64::from(tag);
        let values = &mut self.words[at + EXCEPTION_VALUES / 8..];
        for (place, slot) in values.chunks_exact_mut(GRAIN_WORDS).zip(slots) {
            place.copy_from_slice(&slot.words());
        }
        Some(object)
    }

    /// The tag of an exception; none of anything else.
    pub(crate) fn exception_tag(&self, reference: u32) -> Option<u32> {
        (self.kind(reference)? == Kind::Exception).then(|| self.words[index(reference) + 1] as u32)
    }

    /// Value `field` of an exception.
    pub(crate) fn exception_value(&self, reference: u32, field: usize) -> ValRaw {
        let at = index(reference) + EXCEPTION_VALUES / 8 + field * GRAIN_WORDS;
        ValRaw::from_words([self.words[at], self.words[at + 1]])
    }

    /// What a reference that is an object's is.
    fn kind(&self, reference: u32) -> Option<Kind> {
        is_object(reference).then(|| self.header(reference).kind())
    }

    fn header(&self, offset: u32) -> Header {
        Header(self.words[index(offset)])
    }

    // Allocation.

    /// A block of at least `bytes`, all of it zero but the header.
    fn allocate(&mut self, kind: Kind, bytes: usize) -> Option<u32> {
        let bytes = bytes.next_multiple_of(GRAIN_BYTES);
        let block = match self.take_free(bytes) {
            Some(block) => block,
            None => self.extend(bytes)?,
        };
        let at = index(block);
        self.words[at..at + bytes / 8].fill(0);
        self.words[at] = Header::new(kind, bytes).0;
        self.used_bytes += bytes;
        self.allocated_bytes += bytes;
        Some(block)
    }

    /// A block from the lists: of its own class, else a larger one whose rest stays free.
    fn take_free(&mut self, bytes: usize) -> Option<u32> {
        let own = class(bytes);
        if own >= EXACT_CLASSES
            && let Some(block) = self.take_large_enough(own, bytes)
        {
            return Some(self.split(block, bytes));
        }
        // All of these are large enough.
        for class in own + usize::from(own >= EXACT_CLASSES)..CLASSES {
            let block = self.free[class];
            if block != 0 {
                self.free[class] = self.next_free(block);
                return Some(self.split(block, bytes));
            }
        }
        None
    }

    /// The first block of a class that is large enough, among those looked at.
    fn take_large_enough(&mut self, class: usize, bytes: usize) -> Option<u32> {
        let (mut before, mut block) = (0, self.free[class]);
        for _ in 0..LOOKED_AT {
            if block == 0 {
                return None;
            }
            let next = self.next_free(block);
            if self.header(block).bytes() >= bytes {
                match before {
                    0 => self.free[class] = next,
                    before => self.words[index(before) + 1] = u64::from(next),
                }
                return Some(block);
            }
            (before, block) = (block, next);
        }
        None
    }

    fn next_free(&self, block: u32) -> u32 {
        self.words[index(block) + 1] as u32
    }

    /// Cuts a block that is in no list; what is left over becomes a free block.
    fn split(&mut self, block: u32, bytes: usize) -> u32 {
        let rest = self.header(block).bytes() - bytes;
        if rest > 0 {
            self.add_free(block + bytes as u32, rest);
        }
        block
    }

    fn add_free(&mut self, block: u32, bytes: usize) {
        let at = index(block);
        self.words[at] = Header::new(Kind::Free, bytes).0;
        self.words[at + 1] = u64::from(self.free[class(bytes)]);
        self.free[class(bytes)] = block;
    }

    /// A block at the end of the region, which grows.
    fn extend(&mut self, bytes: usize) -> Option<u32> {
        let start = self.region_bytes().max(GRAIN_BYTES);
        if bytes > self.limit_bytes.checked_sub(start)? {
            return None;
        }
        let words = (start + bytes) / 8;
        if words > self.words.capacity() {
            // Twice as much each time, but never a mapping far beyond the limit.
            let wanted = (words * 2).min(self.limit_bytes / 8).max(words);
            if self.words.try_reserve_exact(wanted - self.words.len()).is_err() {
                self.lacked_bytes = wanted * size_of::<u64>();
                return None;
            }
        }
        self.words.resize(words, 0);
        Some(start as u32)
    }

    // Collection, in this order: mark every root, trace, sweep.

    /// Marks what a root refers to.
    pub(crate) fn mark(&mut self, reference: u32) {
        if !is_object(reference) {
            return;
        }
        let header = self.header(reference);
        if !header.is_marked() {
            self.words[index(reference)] = header.marked(self.grey).0;
            self.grey = reference;
        }
    }

    /// Marks what marked objects refer to; `references` says which values of a tag's exceptions are references.
    pub(crate) fn trace<'a>(&mut self, references: impl Fn(u32) -> &'a [u32]) {
        while self.grey != 0 {
            let object = self.grey;
            self.grey = self.header(object).link();
            if let Some(tag) = self.exception_tag(object) {
                for field in references(tag) {
                    self.mark(self.exception_value(object, *field as usize).u32());
                }
            }
        }
    }

    /// Frees every block that is not marked, and takes the marks away.
    pub(crate) fn sweep(&mut self) {
        self.free = [0; CLASSES];
        self.used_bytes = 0;
        let end = self.region_bytes();
        let (mut at, mut run) = (GRAIN_BYTES, GRAIN_BYTES);
        while at < end {
            let header = self.header(at as u32);
            let next = at + header.bytes();
            if header.is_marked() {
                self.words[at / 8] = header.unmarked().0;
                self.used_bytes += header.bytes();
                if at > run {
                    self.add_free(run as u32, at - run);
                }
                run = next;
            } else if header.kind() == Kind::External {
                self.bury(self.words[at / 8 + 1] as u32);
            }
            at = next;
        }
        // What is free at the end goes back.
        if run < end {
            self.words.truncate(if run == GRAIN_BYTES { 0 } else { run / 8 });
            if self.words.capacity() > 4 * self.words.len().max(MIN_BETWEEN_COLLECTIONS / 8) {
                self.words.shrink_to(2 * self.words.len());
            }
        }
        self.allocated_bytes = 0;
        self.between_collections = self.used_bytes.max(MIN_BETWEEN_COLLECTIONS);
    }

    /// The object of a host value has died. There is room for it: [`make_room_for_dead`](Heap::make_room_for_dead).
    fn bury(&mut self, number: u32) {
        self.dead.extend(self.hosts[number as usize].take());
        self.free_hosts.push(number);
    }

    /// The host values whose objects died: to be dropped where user code may run (invariant 3).
    pub(crate) fn take_dead(&mut self) -> Vec<HostValue> {
        mem::take(&mut self.dead)
    }
}

/// Whether a reference is neither null nor a small integer.
fn is_object(reference: u32) -> bool {
    reference != 0 && reference & 1 == 0
}

/// Where a block begins in the words of the region.
fn index(offset: u32) -> usize {
    offset as usize / 8
}

/// The free list for blocks of this size.
fn class(bytes: usize) -> usize {
    let grains = bytes / GRAIN_BYTES;
    if grains <= EXACT_CLASSES {
        grains - 1
    } else {
        EXACT_CLASSES + (grains / EXACT_CLASSES).ilog2() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heap() -> Heap {
        Heap::new(1 << 20)
    }

    fn collect(heap: &mut Heap, roots: &[u32]) -> usize {
        for root in roots {
            heap.mark(*root);
        }
        heap.trace(|tag| if tag == 7 { &[0] } else { &[] });
        heap.sweep();
        heap.take_dead().len()
    }

    /// Invariants 1 and 2.
    fn check(heap: &Heap) {
        let listed = |class: usize| {
            std::iter::successors(Some(heap.free[class]), |block| Some(heap.next_free(*block)))
                .take_while(|block| *block != 0)
        };
        let mut free: Vec<u32> = (0..CLASSES).flat_map(listed).collect();
        free.sort_unstable();
        let (mut at, mut found) = (GRAIN_BYTES, Vec::new());
        while at < heap.region_bytes() {
            let header = heap.header(at as u32);
            assert!(header.bytes() >= GRAIN_BYTES && header.bytes().is_multiple_of(GRAIN_BYTES));
            assert!(!header.is_marked());
            if header.kind() == Kind::Free {
                found.push(at as u32);
            }
            at += header.bytes();
        }
        assert_eq!(found, free);
    }

    #[test]
    fn what_is_reachable_stays_and_the_rest_goes() {
        let mut heap = heap();
        let kept = heap.new_external(Box::new("kept")).unwrap();
        let _lost = heap.new_external(Box::new("lost")).unwrap();
        let inner = heap.new_external(Box::new("inner")).unwrap();
        let exception = heap.new_exception(7, &[ValRaw::from_u32(inner)]).unwrap();
        assert_eq!(collect(&mut heap, &[kept, exception, 0, 5]), 1);
        assert_eq!(heap.external(kept).unwrap().downcast_ref(), Some(&"kept"));
        assert_eq!(heap.external(inner).unwrap().downcast_ref(), Some(&"inner"));
        assert_eq!(heap.exception_value(exception, 0).u32(), inner);
        check(&heap);
        assert_eq!(collect(&mut heap, &[]), 2);
        assert_eq!((heap.used_bytes(), heap.region_bytes()), (0, 0));
    }

    #[test]
    fn freed_blocks_are_joined_and_used_again() {
        let mut heap = heap();
        let blocks: Vec<u32> = (0..8).map(|_| heap.new_exception(0, &[]).unwrap()).collect();
        collect(&mut heap, &[blocks[0], blocks[7]]);
        check(&heap);
        let slots = [ValRaw::from_u64(9); 5];
        let joined = heap.new_exception(0, &slots).unwrap();
        assert_eq!(joined, blocks[1], "the six in the middle became one");
        collect(&mut heap, &[joined, blocks[7]]);
        check(&heap);
        assert_eq!(heap.exception_value(joined, 4).u64(), 9);
    }

    #[test]
    fn blocks_of_random_sizes_never_overlap() {
        let mut heap = heap();
        let mut live: Vec<(u32, usize)> = Vec::new();
        let mut random = 12345_u64;
        for round in 0..2_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let count = (random >> 33) as usize % 200;
            let slots = vec![ValRaw::from_u64(round); count];
            if let Some(object) = heap.new_exception(1, &slots) {
                live.push((object, count));
            }
            if round % 50 == 49 {
                live.retain(|(object, _)| object >> 4 & 3 != (random >> 40) as u32 & 3);
                let roots: Vec<u32> = live.iter().map(|(object, _)| *object).collect();
                collect(&mut heap, &roots);
                check(&heap);
            }
            for (object, count) in &live {
                let first = (*count > 0).then(|| heap.exception_value(*object, 0).u64());
                let last = (*count > 0).then(|| heap.exception_value(*object, count - 1).u64());
                assert_eq!(first, last);
            }
        }
    }

    /// All of them wait to be looked at while the first is: what a list beside the region would have to hold.
    #[test]
    fn objects_at_every_place_of_a_large_region_are_found() {
        const FIELDS: usize = 1000;
        let mut heap = Heap::new(64 << 20);
        let all: Vec<u32> = (0..FIELDS as u32).collect();
        let mut level: Vec<u32> = (0..1_000_000)
            .map(|_| heap.new_exception(0, &[]).unwrap())
            .collect();
        while level.len() > 1 {
            let node = |children: &[u32]| {
                let mut slots = vec![ValRaw::from_u32(0); FIELDS];
                for (slot, child) in slots.iter_mut().zip(children) {
                    *slot = ValRaw::from_u32(*child);
                }
                heap.new_exception(7, &slots).unwrap()
            };
            level = level.chunks(FIELDS).map(node).collect();
        }
        let used = heap.used_bytes();
        for _ in 0..2 {
            heap.mark(level[0]);
            heap.trace(|tag| if tag == 7 { &all } else { &[] });
            heap.sweep();
            assert_eq!(heap.used_bytes(), used);
        }
        check(&heap);
        assert_eq!(collect(&mut heap, &[]), 0);
        assert_eq!(heap.region_bytes(), 0);
    }

    #[test]
    fn a_link_reaches_as_far_as_a_region() {
        let last = !15_u32;
        let header = Header::new(Kind::Exception, last as usize).marked(last);
        assert_eq!((header.link(), header.bytes()), (last, last as usize));
        assert!(header.is_marked() && header.kind() == Kind::Exception);
        assert_eq!(header.unmarked().0, Header::new(Kind::Exception, last as usize).0);
        assert_eq!(header.marked(0).link(), 0);
    }

    #[test]
    fn a_full_region_says_so() {
        let mut heap = Heap::new(1024);
        let made = std::iter::from_fn(|| heap.new_external(Box::new(())).ok()).count();
        assert_eq!(made, 1024 / 16 - 1);
        assert!(heap.new_exception(0, &[]).is_none());
        assert_eq!(collect(&mut heap, &[]), made);
        assert!(heap.new_exception(0, &[]).is_some());
    }
}
