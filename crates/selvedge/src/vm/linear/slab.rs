//! Room for small bounded memories: blocks of a few sizes in mappings that many of them share.
//!
//! Accesses to a bounded memory are checked, so nothing has to fault behind it, and it may lie beside others. One hundred
//! thousand memories of a page take a dozen mappings, where one each would be more than a process may have.
//!
//! Invariants
//! 1. Blocks of a class tile its chunks; each is free or belongs to one [`Block`].
//! 2. A free block is zero, and takes no memory but where the kernel could not take it back.

use super::mapping::{Access, Mapping};
use crate::error::Result;
use crate::room;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest block: a larger memory has a mapping of its own.
pub(super) const MAX_BLOCK_BYTES: u64 = 1 << 20;
/// The smallest, unless the host's pages are larger.
const MIN_BLOCK_LOG2: u32 = 12;
const CLASSES: usize = (MAX_BLOCK_BYTES.trailing_zeros() - MIN_BLOCK_LOG2) as usize + 1;
/// Addresses of the first chunk of a class; each further one has twice as many, up to the last figure.
const FIRST_CHUNK_BYTES: u64 = 16 << 20;
const MAX_CHUNK_BYTES: u64 = 1 << 30;

/// A mapping cut into blocks.
#[derive(Debug)]
struct Chunk {
    mapping: Mapping,
    /// Blocks that came back, the hottest last.
    free: Vec<u32>, // with room for all that are taken
    /// The first block that was never given out.
    fresh: u32,
    used: u32,
}

/// All blocks of one size.
#[derive(Debug)]
struct Class {
    block_bytes: u64,
    chunks: Vec<Chunk>,
}

impl Class {
    fn take(&mut self) -> Result<*mut u8> {
        let block_bytes = self.block_bytes;
        let has_room = |chunk: &Chunk| {
            !chunk.free.is_empty() || u64::from(chunk.fresh) * block_bytes < chunk.mapping.bytes()
        };
        let index = match self.chunks.iter().position(has_room) {
            Some(index) => index,
            None => self.add_chunk()?,
        };
        let chunk = &mut self.chunks[index];
        let block = match chunk.free.pop() {
            Some(block) => block,
            None => {
                // Room for it in the list, for when it comes back: that must not fail.
                room::reserve(
                    &mut chunk.free,
                    chunk.fresh as usize + 1,
                    "the list of free blocks",
                )?;
                chunk.fresh += 1;
                chunk.fresh - 1
            }
        };
        chunk.used += 1;
        Ok(chunk
            .mapping
            .base()
            .wrapping_add((u64::from(block) * block_bytes) as usize))
    }

    fn add_chunk(&mut self) -> Result<usize> {
        room::reserve(&mut self.chunks, 1, "the list of chunks of memory")?;
        let bytes = FIRST_CHUNK_BYTES << self.chunks.len().min(16);
        let mapping = Mapping::new(bytes.min(MAX_CHUNK_BYTES), Access::ReadWrite)?;
        self.chunks.push(Chunk {
            mapping,
            free: Vec::new(),
            fresh: 0,
            used: 0,
        });
        Ok(self.chunks.len() - 1)
    }

    /// The chunk of a block, and the block's number in it.
    fn find(&self, base: *mut u8) -> (usize, u32) {
        let offset = |chunk: &Chunk| base.addr().wrapping_sub(chunk.mapping.base().addr()) as u64;
        let index = self
            .chunks
            .iter()
            .position(|chunk| offset(chunk) < chunk.mapping.bytes());
        let index = index.expect("a block lies in a chunk of its class");
        (index, (offset(&self.chunks[index]) / self.block_bytes) as u32)
    }

    /// Takes a block back that is zero. A chunk that this leaves empty goes, unless it is the only empty one.
    fn put(&mut self, base: *mut u8) -> Option<Chunk> {
        let (index, block) = self.find(base);
        let chunk = &mut self.chunks[index];
        chunk.free.push(block);
        chunk.used -= 1;
        let empty = self.chunks.iter().filter(|chunk| chunk.used == 0).count();
        (self.chunks[index].used == 0 && empty > 1).then(|| self.chunks.remove(index))
    }
}

/// Blocks of an engine's bounded memories.
#[derive(Debug)]
pub(super) struct Slab {
    classes: [Mutex<Class>; CLASSES],
}

/// Bytes of a slab, all zero at first. Goes back by [`Slab::put`].
#[derive(Debug)]
pub(super) struct Block {
    pub(super) base: *mut u8,
    /// All of its own, a power of two.
    pub(super) bytes: u64,
}

impl Slab {
    pub(super) fn new() -> Slab {
        let class = |index: usize| {
            Mutex::new(Class {
                block_bytes: 1 << (MIN_BLOCK_LOG2 as usize + index),
                chunks: Vec::new(),
            })
        };
        Slab {
            classes: std::array::from_fn(class),
        }
    }

    fn class(&self, block_bytes: u64) -> MutexGuard<'_, Class> {
        let index = block_bytes.trailing_zeros() - MIN_BLOCK_LOG2;
        let class = self.classes[index as usize].lock();
        class.unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of the block for so many bytes, if there are such blocks.
    pub(super) fn block_bytes(bytes: u64) -> Option<u64> {
        let least = region::page::size() as u64;
        let bytes = bytes
            .max(least)
            .max(1 << MIN_BLOCK_LOG2)
            .checked_next_power_of_two()?;
        (bytes <= MAX_BLOCK_BYTES).then_some(bytes)
    }

    /// A block of one of the sizes that there are.
    ///
    /// # Errors
    /// The kernel refuses another chunk.
    pub(super) fn take(&self, block_bytes: u64) -> Result<Block> {
        let base = self.class(block_bytes).take()?;
        Ok(Block {
            base,
            bytes: block_bytes,
        })
    }

    /// Takes a block back, of which the first `used_bytes` may have been written to.
    pub(super) fn put(&self, block: Block, used_bytes: u64) {
        debug_assert!(used_bytes <= block.bytes);
        let used_bytes = used_bytes.next_multiple_of(region::page::size() as u64);
        // SAFETY: pages of a block that is owned: nobody else uses them; they read as zeros afterwards.
        let result = unsafe { libc::madvise(block.base.cast(), used_bytes as usize, libc::MADV_DONTNEED) };
        if result != 0 {
            // Locked pages are not given back.
            // SAFETY: as above.
            unsafe { block.base.write_bytes(0, used_bytes as usize) };
        }
        let chunk = self.class(block.bytes).put(block.base);
        drop(chunk); // unmapped without the lock
    }

    /// How many mappings there are.
    #[cfg(test)]
    pub(super) fn chunk_count(&self) -> usize {
        let classes = self.classes.iter();
        classes.map(|class| class.lock().unwrap().chunks.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_come_back_zeroed() {
        let slab = Slab::new();
        let blocks: Vec<Block> = (0..300).map(|_| slab.take(65_536).unwrap()).collect();
        let mut bases: Vec<usize> = blocks.iter().map(|block| block.base.addr()).collect();
        bases.sort();
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= 65_536));
        for block in blocks {
            // SAFETY: the block's own bytes.
            unsafe { block.base.write_bytes(7, 65_536) };
            slab.put(block, 65_536);
        }
        for _ in 0..300 {
            let block = slab.take(65_536).unwrap();
            // SAFETY: the block's own bytes, which nobody writes meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts(block.base, 65_536) };
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn empty_chunks_are_unmapped_but_for_one() {
        let slab = Slab::new();
        let blocks: Vec<Block> = (0..100).map(|_| slab.take(1 << 20).unwrap()).collect();
        assert_eq!(slab.chunk_count(), 3); // of 16, 32 and 64 MiB
        for block in blocks {
            slab.put(block, 1);
        }
        assert_eq!(slab.chunk_count(), 1);
    }

    #[test]
    fn sizes_are_powers_of_two_up_to_the_largest() {
        assert_eq!(Slab::block_bytes(1), Some(region::page::size() as u64));
        assert_eq!(Slab::block_bytes(65_537), Some(131_072));
        assert_eq!(Slab::block_bytes(MAX_BLOCK_BYTES), Some(MAX_BLOCK_BYTES));
        assert_eq!(Slab::block_bytes(MAX_BLOCK_BYTES + 1), None);
    }
}
