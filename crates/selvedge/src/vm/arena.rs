//! The place of parked host futures: a stack of chunks that never move.
//!
//! A host future is written here once and polled here until it is done; a nested call may park a second one above
//! it. Memory is therefore given back last in, first out, to a mark taken before.
//!
//! ```text
//!   top -> | below, size | future | future | free ~     below -> the chunk before, down to the bottom one
//!   spare -> | a chunk in which nothing is, the largest that there was |
//! ```
//!
//! Invariants
//! 1. A chunk's bytes stay where they are until the chunk is freed, and a chunk is freed only when every mark in
//!    it has been given back.
//! 2. After [`Arena::abandon`] no byte handed out before is handed out again: a forgotten future is never touched.
//! 3. A chunk in the list or the spare one is a block of `size` bytes that begins with its [`Chunk`]; nobody else refers to it.
//! 4. An object takes at least one byte, so nothing is in the top chunk, and no mark is in it, if and only if `offset` is `START`.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::{self, NonNull};

const CHUNK_ALIGN: usize = 16;
/// Offset of the first free byte of a chunk in which nothing is.
const START: usize = size_of::<Chunk>();

/// A place in the arena to go back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArenaMark {
    chunk: *mut Chunk,
    offset: usize,
}

/// What each chunk begins with.
#[derive(Debug)]
#[repr(C, align(16))]
struct Chunk {
    below: *mut Chunk,
    /// With this head.
    size: usize,
}

impl Chunk {
    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, CHUNK_ALIGN).expect("a chunk is smaller than the address space")
    }

    /// None where the system has no memory for it.
    fn new(size: usize) -> Option<*mut Chunk> {
        let layout = Chunk::layout(size);
        // SAFETY: a chunk has at least its head, so the size is not zero.
        let chunk = unsafe { alloc(layout) }.cast::<Chunk>();
        if chunk.is_null() {
            return None;
        }
        let below = ptr::null_mut();
        // SAFETY: just allocated, with room for the head, which is aligned.
        unsafe { chunk.write(Chunk { below, size }) };
        Some(chunk)
    }

    /// # Safety
    /// Made by [`new`](Chunk::new), and not used after.
    unsafe fn free(chunk: *mut Chunk) {
        // SAFETY: the caller's promise; a plain word.
        let layout = Chunk::layout(unsafe { (*chunk).size });
        // SAFETY: allocated with this very layout.
        unsafe { dealloc(chunk.cast(), layout) };
    }

    /// # Safety
    /// Null, or a chunk.
    unsafe fn size_or_zero(chunk: *mut Chunk) -> usize {
        // SAFETY: the caller's promise.
        unsafe { chunk.as_ref() }.map_or(0, |chunk| chunk.size)
    }

    /// Where in the chunk an object of `layout` fits at `offset` or after: its offset.
    ///
    /// # Safety
    /// Null, or a chunk.
    #[inline(always)]
    unsafe fn fit(chunk: *mut Chunk, offset: usize, layout: Layout) -> Option<usize> {
        // SAFETY: the caller's promise.
        let size = unsafe { chunk.as_ref() }?.size;
        let start = chunk.addr();
        let offset = (start + offset).next_multiple_of(layout.align()) - start;
        (offset + bytes_of(layout) <= size).then_some(offset)
    }
}

/// What an object takes (invariant 4).
#[inline(always)]
fn bytes_of(layout: Layout) -> usize {
    layout.size().max(1)
}

/// Chunks in the order of nesting, and how far they are used.
pub(crate) struct Arena {
    /// The innermost chunk; null before the first future.
    top: *mut Chunk,
    /// The first free byte in it.
    offset: usize,
    /// Null, or a chunk that is used again before another is made.
    spare: *mut Chunk,
    abandoned: bool,
}

impl Arena {
    pub(crate) fn new() -> Arena {
        Arena {
            top: ptr::null_mut(),
            offset: START,
            spare: ptr::null_mut(),
            abandoned: false,
        }
    }

    /// Room for one object, and the mark that gives it back. Allocates only when no chunk has room; none where the system refuses.
    #[inline]
    pub(crate) fn push(&mut self, layout: Layout) -> Option<(NonNull<u8>, ArenaMark)> {
        // SAFETY: invariant 3.
        let mut offset = unsafe { Chunk::fit(self.top, self.offset, layout) };
        if offset.is_none() {
            self.add_chunk(layout)?;
            // SAFETY: as above.
            offset = unsafe { Chunk::fit(self.top, self.offset, layout) };
        }
        let offset = offset.expect("a chunk is made for the object");
        let mark = ArenaMark {
            chunk: self.top,
            offset: self.offset,
        };
        self.offset = offset + bytes_of(layout);
        let place = self.top.wrapping_byte_add(offset).cast();
        Some((NonNull::new(place).expect("inside a chunk"), mark))
    }

    /// Makes the spare chunk or a new one the top, with room for an object. The first is as large as the first future, since a
    /// million guests may wait for one each; each further one has at least twice as many bytes as the one before.
    #[cold]
    fn add_chunk(&mut self, layout: Layout) -> Option<()> {
        let wanted = START + bytes_of(layout) + layout.align().saturating_sub(CHUNK_ALIGN);
        // SAFETY: invariant 3.
        let old_size = unsafe { Chunk::size_or_zero(self.top) };
        if !self.top.is_null() && self.offset == START {
            self.take_top(); // invariant 4: it is too small to be of use
        }
        // SAFETY: invariant 3.
        let mut chunk = match unsafe { Chunk::fit(self.spare, START, layout) } {
            Some(_) => std::mem::replace(&mut self.spare, ptr::null_mut()),
            None => ptr::null_mut(),
        };
        if chunk.is_null() {
            chunk = Chunk::new(wanted.max(2 * old_size))?;
        }
        // SAFETY: invariant 3; a plain word.
        unsafe { (*chunk).below = self.top };
        self.top = chunk;
        self.offset = START;
        Some(())
    }

    /// Takes the top chunk off the list, which has one. The larger of it and the spare one is the spare one from now on.
    fn take_top(&mut self) {
        let chunk = self.top;
        // SAFETY: invariant 3; a plain word.
        self.top = unsafe { (*chunk).below };
        // SAFETY: invariant 3.
        let size = unsafe { Chunk::size_or_zero(chunk) };
        // SAFETY: as above.
        let spare_size = unsafe { Chunk::size_or_zero(self.spare) };
        let other = match size > spare_size {
            true => std::mem::replace(&mut self.spare, chunk),
            false => chunk,
        };
        if !other.is_null() {
            // SAFETY: invariant 3; neither in the list nor the spare one any more.
            unsafe { Chunk::free(other) };
        }
    }

    /// Gives back everything since `mark`, and the chunks that nobody has needed since but one.
    #[inline(always)]
    pub(crate) fn pop(&mut self, mark: ArenaMark) {
        if self.abandoned {
            return; // invariant 2
        }
        if self.top != mark.chunk && !self.take_down_to(mark.chunk) {
            return;
        }
        self.offset = mark.offset;
    }

    /// Takes the chunks above this one off. Whether it is in the list: [`reset`](Arena::reset) may have given it up meanwhile, when
    /// who gives back was not an activation's.
    #[cold]
    #[inline(never)]
    fn take_down_to(&mut self, chunk: *mut Chunk) -> bool {
        let mut below = self.top;
        while below != chunk {
            // SAFETY: invariant 3.
            match unsafe { below.as_ref() } {
                Some(next) => below = next.below,
                None => return false,
            }
        }
        while self.top != chunk {
            self.take_top();
        }
        true
    }

    /// Futures in here were forgotten by their owner: go on above them, touch them never again.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// The nest is empty: what was abandoned is given up, so that a fresh arena begins.
    #[inline]
    pub(crate) fn reset(&mut self) {
        if self.abandoned {
            self.top = ptr::null_mut();
            self.offset = START;
            self.abandoned = false;
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.reset();
        while !self.top.is_null() {
            self.take_top();
        }
        if !self.spare.is_null() {
            // SAFETY: invariant 3; the last that is left.
            unsafe { Chunk::free(self.spare) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_reused_after_a_pop_and_never_after_abandon() {
        let mut arena = Arena::new();
        let layout = Layout::new::<[u64; 4]>();
        let (first, mark) = arena.push(layout).unwrap();
        arena.pop(mark);
        let (again, mark) = arena.push(layout).unwrap();
        assert_eq!(first, again);
        arena.abandon();
        arena.pop(mark);
        let (other, _) = arena.push(layout).unwrap();
        assert_ne!(first, other);
        arena.reset();
        let (fresh, _) = arena.push(layout).unwrap();
        assert_ne!(first, fresh);
    }

    #[test]
    fn large_and_aligned_objects_get_chunks_of_their_own_size() {
        let mut arena = Arena::new();
        #[repr(align(256))]
        struct Wide {
            _bytes: [u8; 5000],
        }
        let (small, _) = arena.push(Layout::new::<u8>()).unwrap();
        let (wide, mark) = arena.push(Layout::new::<Wide>()).unwrap();
        assert_eq!(wide.as_ptr() as usize % 256, 0);
        assert_ne!(small, wide);
        arena.pop(mark);
        assert!(std::mem::size_of::<Wide>() >= 5000);
    }

    /// Random nests beside a plain list of what is alive: nothing overlaps, and everything keeps what was written to it.
    #[test]
    fn what_is_alive_is_never_written_over() {
        let mut arena = Arena::new();
        let mut alive: Vec<(NonNull<u8>, ArenaMark, Layout, u8)> = Vec::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for round in 0..20_000_u64 {
            // Also objects of no bytes, and many that fit into no chunk that there is.
            if next(100) < 55 && alive.len() < 40 {
                let (bytes, align) = (next(300) * next(2), 1 << next(8));
                let layout = Layout::from_size_align(bytes as usize, align).unwrap();
                let (place, mark) = arena.push(layout).unwrap();
                assert_eq!(place.as_ptr().addr() % layout.align(), 0);
                let byte = round as u8;
                // SAFETY: the object's own bytes.
                unsafe { place.as_ptr().write_bytes(byte, layout.size()) };
                alive.push((place, mark, layout, byte));
            } else if let Some((place, mark, layout, byte)) = alive.pop() {
                // SAFETY: written above, and nobody writes meanwhile.
                let bytes = unsafe { std::slice::from_raw_parts(place.as_ptr(), layout.size()) };
                assert!(bytes.iter().all(|&seen| seen == byte), "round {round}");
                arena.pop(mark);
            }
        }
    }

    #[test]
    fn what_was_given_up_meanwhile_is_not_given_back() {
        let mut arena = Arena::new();
        let (_, outer) = arena.push(Layout::new::<u64>()).unwrap();
        let (_, inner) = arena.push(Layout::new::<[u64; 20]>()).unwrap();
        arena.abandon();
        arena.reset();
        arena.pop(inner);
        let (alive, mark) = arena.push(Layout::new::<u64>()).unwrap();
        arena.pop(outer);
        let (other, _) = arena.push(Layout::new::<u64>()).unwrap();
        assert_ne!(alive, other, "the mark was of a list that is no more");
        arena.pop(mark);
        assert_eq!(arena.push(Layout::new::<u64>()).unwrap().0, alive);
    }

    #[test]
    fn a_warm_nest_makes_no_chunk() {
        let mut arena = Arena::new();
        let nest = |arena: &mut Arena| {
            let (_, outer) = arena.push(Layout::new::<[u8; 40]>()).unwrap();
            let (place, inner) = arena.push(Layout::new::<[u8; 200]>()).unwrap();
            arena.pop(inner);
            arena.pop(outer);
            place
        };
        nest(&mut arena);
        let warm = nest(&mut arena);
        for _ in 0..10 {
            assert_eq!(nest(&mut arena), warm);
        }
    }
}
