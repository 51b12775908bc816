//! The place of parked host futures: a stack of chunks that never move.
//!
//! A host future is written here once and polled here until it is done; a nested call may park a second one above
//! it. Memory is therefore given back last in, first out, to a mark taken before.
//!
//! Invariants
//! 1. A chunk's bytes stay where they are until the chunk is freed, and a chunk is freed only when every mark in
//!    it has been given back.
//! 2. After [`Arena::abandon`] no byte handed out before is handed out again: a forgotten future is never touched.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// The least size of the first chunk, in bytes; each further one has at least twice as many as the one before. It is as large as
/// the first future: a million guests may wait for one each.
const FIRST_CHUNK_BYTES: usize = 64;
const CHUNK_ALIGN: usize = 16;

/// A place in the arena to go back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArenaMark {
    chunk: usize,
    offset: usize,
}

impl ArenaMark {
    pub(crate) const START: ArenaMark = ArenaMark { chunk: 0, offset: 0 };
}

struct Chunk {
    start: NonNull<u8>,
    size: usize,
}

impl Chunk {
    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, CHUNK_ALIGN).expect("a chunk is smaller than the address space")
    }

    fn new(size: usize) -> Chunk {
        let layout = Chunk::layout(size);
        // SAFETY: the layout's size is at least FIRST_CHUNK_BYTES, not zero.
        let start = unsafe { alloc(layout) };
        match NonNull::new(start) {
            Some(start) => Chunk { start, size },
            None => handle_alloc_error(layout),
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated in `Chunk::new` with this very layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), Chunk::layout(self.size)) };
    }
}

/// Chunks in the order of nesting, and how far they are used.
pub(crate) struct Arena {
    chunks: Vec<Chunk>,
    at: ArenaMark,
    abandoned: bool,
}

impl Arena {
    pub(crate) fn new() -> Arena {
        Arena {
            chunks: Vec::new(),
            at: ArenaMark::START,
            abandoned: false,
        }
    }

    /// Room for one object, and the mark that gives it back. Allocates only when no chunk has room.
    pub(crate) fn push(&mut self, layout: Layout) -> (NonNull<u8>, ArenaMark) {
        let mark = self.at;
        loop {
            if let Some(chunk) = self.chunks.get(self.at.chunk) {
                let start = chunk.start.as_ptr() as usize;
                let offset = (start + self.at.offset).next_multiple_of(layout.align()) - start;
                if offset + layout.size() <= chunk.size {
                    self.at.offset = offset + layout.size();
                    // SAFETY: `offset` is inside the chunk, as just compared.
                    let place = unsafe { chunk.start.add(offset) };
                    return (place, mark);
                }
                self.at = ArenaMark {
                    chunk: self.at.chunk + 1,
                    offset: 0,
                };
            } else {
                let wanted = layout.size() + layout.align().saturating_sub(CHUNK_ALIGN);
                if self.chunks.is_empty() {
                    self.chunks.reserve_exact(1);
                }
                let doubled = self.chunks.last().map_or(FIRST_CHUNK_BYTES, |last| last.size * 2);
                self.chunks.push(Chunk::new(wanted.max(doubled)));
            }
        }
    }

    /// Gives back everything since `mark`, and the chunks that nobody has needed since but one.
    pub(crate) fn pop(&mut self, mark: ArenaMark) {
        if self.abandoned {
            return; // invariant 2
        }
        self.at = mark;
        self.chunks.truncate(mark.chunk + 2);
    }

    /// Futures in here were forgotten by their owner: go on above them, touch them never again.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// The nest is empty: what was abandoned is given up, so that a fresh arena begins.
    pub(crate) fn reset(&mut self) {
        if self.abandoned {
            std::mem::forget(std::mem::take(&mut self.chunks));
            self.abandoned = false;
            self.at = ArenaMark::START;
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.abandoned {
            std::mem::forget(std::mem::take(&mut self.chunks));
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
        let (first, mark) = arena.push(layout);
        arena.pop(mark);
        let (again, mark) = arena.push(layout);
        assert_eq!(first, again);
        arena.abandon();
        arena.pop(mark);
        let (other, _) = arena.push(layout);
        assert_ne!(first, other);
        arena.reset();
        let (fresh, _) = arena.push(layout);
        assert_ne!(first, fresh);
    }

    #[test]
    fn large_and_aligned_objects_get_chunks_of_their_own_size() {
        let mut arena = Arena::new();
        #[repr(align(256))]
        struct Wide {
            _bytes: [u8; 5000],
        }
        let (small, _) = arena.push(Layout::new::<u8>());
        let (wide, mark) = arena.push(Layout::new::<Wide>());
        assert_eq!(wide.as_ptr() as usize % 256, 0);
        assert_ne!(small, wide);
        arena.pop(mark);
        assert!(std::mem::size_of::<Wide>() >= 5000);
    }
}
