//! Linear memories: the bytes a guest may load and store.
//!
//! ```text
//!   reserved   base                   base + length          + 4 GiB        + 2 GiB + a page
//!              | readable, writable   | PROT_NONE            | guard        |
//!   bounded    base                   base + length
//!              | readable, writable   |
//! ```
//!
//! In the *reserved* style a 32-bit index plus an offset below 2 GiB cannot leave the reservation: an access is not
//! checked, one beyond the length faults, and the signal handler asks whether the address lies in a reservation. The page
//! at the end is for the bytes of an access that begins at the last such address. In the *bounded* style compiled code
//! compares with the length, and the memory may move when it grows: small ones lie in a slab (`linear/slab.rs`). A memory with 64-bit addresses or with pages of one byte
//! is always bounded; its length need not be a multiple of the host's page size, but its place is.
//!
//! Invariants
//! 1. `[base, base + length)` is mapped readable and writable, and belongs to this memory alone. What is mapped so behind it, up
//!    to the end of the host's page, is zero: nobody writes there.
//! 2. `base` of a reserved or shared memory never changes; of a bounded one only in [`LinearMemory::grow`].
//! 3. Bytes of a reserved memory between `base + length` and `base + reservation_bytes` fault.
//! 4. A memory's bytes are zero, or its module's image, before its own guest or host writes them: addresses are used again
//!    (`linear/pool.rs`), bytes never.
//!
//! Who may touch the bytes: the guest of the store that owns the memory, and the host through `&LinearMemory` and `&mut
//! LinearMemory`, which the store lends only while the guest does not run. A shared memory is lent to nobody: `shared.rs`.

mod image;
mod mapping;
mod pool;
mod slab;

pub(crate) use image::Image;
pub(crate) use pool::MemoryPool;

use super::kept::Kept;
use crate::error::{Context, Error, Result};
use mapping::{Access, Mapping};
use pool::Slot;
use selvedge_compiler::{MemoryStyle, MemoryType, layout};
use slab::{Block, Slab};
use std::mem::{self, offset_of};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What generated code and the signal handler know of a memory. Its address never changes while the memory lives.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VMMemory {
    pub(crate) base: *mut u8,
    /// Atomic because a shared memory grows while others look. Compiled code loads it by one aligned instruction.
    pub(crate) length_bytes: AtomicU64,
    /// How far from the base a fault is this memory's: the whole mapping.
    pub(crate) reservation_bytes: u64,
}

const _: () = {
    assert!(offset_of!(VMMemory, base) == layout::MEMORY_BASE as usize);
    assert!(offset_of!(VMMemory, length_bytes) == layout::MEMORY_LENGTH as usize);
};

/// For the last bytes of an access that begins just below the end of the guard.
const OVERRUN_BYTES: u64 = 64 << 10;
const RESERVATION_BYTES: u64 = MemoryStyle::RESERVED_BYTES + MemoryStyle::GUARD_BYTES + OVERRUN_BYTES;
/// A linear memory. Dropping it gives its addresses to the next one, or back to the kernel.
#[derive(Debug)]
pub(crate) struct LinearMemory {
    /// Generated code holds copies of its address.
    def: Kept<VMMemory>,
    ty: MemoryType,
    layout: MemoryLayout,
    backing: Backing,
    pool: Arc<MemoryPool>,
}

/// Whose the addresses are.
#[derive(Debug)]
enum Backing {
    /// No bytes.
    Nothing,
    /// A reservation of the pool's.
    Slot(Slot),
    /// Of the slab.
    Block(Block),
    /// A mapping of its own.
    Own(Mapping),
}

impl Backing {
    /// Room for a bounded memory.
    fn bounded(length: u64, pool: &MemoryPool) -> Result<Backing> {
        if length == 0 {
            return Ok(Backing::Nothing);
        }
        if let Some(bytes) = Slab::block_bytes(length)
            && let Ok(block) = pool.slab.take(bytes)
        {
            return Ok(Backing::Block(block));
        }
        let mapped = whole_pages(length).with_context(|| refused(length))?;
        let own = Mapping::new(mapped, Access::ReadWrite).with_context(|| refused(length))?;
        Ok(Backing::Own(own))
    }

    /// Room for a memory that does not move, up to `most` bytes.
    fn maximum(length: u64, most: u64) -> Result<Backing> {
        if most == 0 {
            return Ok(Backing::Nothing);
        }
        let reserve = || format!("cannot reserve {most} bytes of addresses for a memory");
        let own = Mapping::new(most, Access::None).with_context(reserve)?;
        if length > 0 {
            own.open(0, length).with_context(|| refused(length))?;
        }
        Ok(Backing::Own(own))
    }

    /// The first byte, and how many there may be.
    fn place(&self) -> (*mut u8, u64) {
        match self {
            // Slices of no bytes want an address that is not null.
            Backing::Nothing => (ptr::without_provenance_mut(MemoryType::PAGE_BYTES as usize), 0),
            Backing::Slot(slot) => (slot.mapping().base(), slot.mapping().bytes()),
            Backing::Block(block) => (block.base, block.bytes),
            Backing::Own(mapping) => (mapping.base(), mapping.bytes()),
        }
    }

    /// Gives everything back, of a memory that has `length` bytes.
    fn give_back(self, pool: &MemoryPool, length: u64) {
        match self {
            Backing::Slot(slot) => pool.give_back(slot, length),
            Backing::Block(block) => pool.slab.put(block, length),
            Backing::Nothing | Backing::Own(_) => {}
        }
    }
}

/// What lies behind a memory's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryLayout {
    /// 4 GiB and the guard.
    Reserved,
    /// Nothing: the memory moves when it grows.
    Bounded,
    /// As much as the maximum, for a shared memory whose accesses are checked: it does not move.
    Maximum,
}

impl MemoryLayout {
    /// How a memory of this type has to lie for code that was compiled for `style`.
    pub(crate) fn of(ty: &MemoryType, style: MemoryStyle) -> MemoryLayout {
        match (style.of(ty), ty.is_shared()) {
            (MemoryStyle::Reserved, _) => MemoryLayout::Reserved,
            (_, true) => MemoryLayout::Maximum,
            (_, false) => MemoryLayout::Bounded,
        }
    }
}

// SAFETY: the memory owns its mapping and its definition, and both are plain bytes that any thread may use.
unsafe impl Send for LinearMemory {}
// SAFETY: through `&LinearMemory` the bytes and the definition are only read.
unsafe impl Sync for LinearMemory {}

impl LinearMemory {
    /// A memory of `ty.minimum` pages, all zero, in the style that `style` means for its type.
    ///
    /// # Errors
    /// When the type is not valid, or the kernel refuses the addresses or the memory.
    pub(crate) fn new(ty: &MemoryType, style: MemoryStyle, pool: &Arc<MemoryPool>) -> Result<LinearMemory> {
        LinearMemory::with_image(ty, style, pool, None)
    }

    /// As [`new`](LinearMemory::new), holding an image that was made for this type and style. The only place where linear
    /// memories come from.
    pub(crate) fn with_image(
        ty: &MemoryType,
        style: MemoryStyle,
        pool: &Arc<MemoryPool>,
        image: Option<&Arc<Image>>,
    ) -> Result<LinearMemory> {
        check_type(ty)?;
        let length = length_bytes(ty, ty.minimum).with_context(|| too_many(ty, ty.minimum))?;
        let layout = MemoryLayout::of(ty, style);
        let backing = match layout {
            MemoryLayout::Reserved => Backing::Slot(pool.take(length, image)?),
            MemoryLayout::Bounded => Backing::bounded(length, pool)?,
            MemoryLayout::Maximum => {
                let most = ty.maximum.context("a shared memory needs a maximum")?;
                let bytes = length_bytes(ty, most).and_then(whole_pages);
                Backing::maximum(length, bytes.with_context(|| too_many(ty, most))?)?
            }
        };
        let (base, reservation_bytes) = backing.place();
        let def = VMMemory {
            base,
            length_bytes: length.into(),
            reservation_bytes,
        };
        let def = match Kept::try_new(def, "a memory's definition") {
            Ok(def) => def,
            Err(error) => {
                backing.give_back(pool, length);
                return Err(error);
            }
        };
        Ok(LinearMemory {
            def,
            ty: *ty,
            layout,
            backing,
            pool: pool.clone(),
        })
    }

    /// What generated code knows of this memory; valid until the memory is dropped, wherever it is moved.
    pub(crate) fn vm(&self) -> *mut VMMemory {
        self.def.as_ptr()
    }

    /// The type it was made with: `minimum` is not its present size.
    pub(crate) fn ty(&self) -> MemoryType {
        self.ty
    }

    pub(crate) fn layout(&self) -> MemoryLayout {
        self.layout
    }

    /// Where the bytes are. The address stays what it is but for [`grow`](LinearMemory::grow) of a bounded memory.
    pub(crate) fn base(&self) -> *mut u8 {
        self.def.base
    }

    pub(crate) fn length_bytes(&self) -> u64 {
        self.def.length_bytes.load(Ordering::SeqCst)
    }

    /// The type as it is now: its minimum is the present size.
    pub(crate) fn current_ty(&self) -> MemoryType {
        self.ty.with_limits(self.size_pages(), self.ty.maximum)
    }

    pub(crate) fn size_pages(&self) -> u64 {
        self.length_bytes() >> self.ty.page_size_log2()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        let def = &*self.def;
        // SAFETY: invariant 1; the guest does not run while this is borrowed (the head).
        unsafe { std::slice::from_raw_parts(def.base, self.length_bytes() as usize) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        let def = &*self.def;
        // SAFETY: invariant 1; the guest does not run while this is borrowed (the head), and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(def.base, self.length_bytes() as usize) }
    }

    /// Adds zeroed pages and gives the number there was before. None, with nothing changed, when that is more than the
    /// type or its addresses allow, or when the kernel has no memory.
    ///
    /// The base of a bounded memory may change.
    pub(crate) fn grow(&mut self, delta_pages: u64) -> Option<u64> {
        if self.layout != MemoryLayout::Bounded {
            // SAFETY: the borrow is unique.
            return unsafe { self.grow_in_place(delta_pages) };
        }
        let (old_pages, new) = self.grown(delta_pages)?;
        let old = self.length_bytes();
        if new > old {
            self.grow_bounded(old, new)?;
        }
        Some(old_pages)
    }

    /// [`grow`](LinearMemory::grow) of a memory that does not move, while others read and write it.
    ///
    /// # Safety
    /// Nobody else grows it meanwhile, and it is not bounded.
    pub(crate) unsafe fn grow_in_place(&self, delta_pages: u64) -> Option<u64> {
        let (old_pages, new) = self.grown(delta_pages)?;
        let old = self.length_bytes();
        if new > old {
            match &self.backing {
                Backing::Slot(slot) => slot.mapping().open(old, new - old).ok()?,
                Backing::Own(mapping) => mapping.open(old, new - old).ok()?,
                Backing::Nothing | Backing::Block(_) => return None, // has no room
            }
            self.def.length_bytes.store(new, Ordering::SeqCst);
        }
        Some(old_pages)
    }

    /// The size in pages, and the length in bytes after growing, if the type and the host allow it.
    fn grown(&self, delta_pages: u64) -> Option<(u64, u64)> {
        let old_pages = self.size_pages();
        let new_pages = old_pages.checked_add(delta_pages)?;
        let most = self.ty.most_pages();
        if new_pages > self.ty.maximum.unwrap_or(most).min(most) {
            return None;
        }
        Some((old_pages, length_bytes(&self.ty, new_pages)?))
    }

    fn grow_bounded(&mut self, old: u64, new: u64) -> Option<()> {
        match &mut self.backing {
            Backing::Own(mapping) => {
                let mapped = whole_pages(new)?;
                if mapped != mapping.bytes() {
                    mapping.resize(mapped).ok()?;
                }
            }
            // What lies behind the length in a block is zero.
            Backing::Block(block) if new <= block.bytes => {}
            _ => self.move_to(Backing::bounded(new, &self.pool).ok()?, old),
        }
        let (base, reservation_bytes) = self.backing.place();
        *self.def = VMMemory {
            base,
            length_bytes: new.into(),
            reservation_bytes,
        };
        Some(())
    }

    /// Copies the bytes to another place, which is large enough, and gives the one they had back.
    fn move_to(&mut self, backing: Backing, length: u64) {
        let (to, _) = backing.place();
        // SAFETY: invariant 1 for the bytes there are; the new place is larger, its own, and nobody's yet.
        unsafe { ptr::copy_nonoverlapping(self.base(), to, length as usize) };
        let old = mem::replace(&mut self.backing, backing);
        old.give_back(&self.pool, length);
    }
}

impl Drop for LinearMemory {
    fn drop(&mut self) {
        let length = self.length_bytes();
        let backing = mem::replace(&mut self.backing, Backing::Nothing);
        backing.give_back(&self.pool, length);
    }
}

/// So many pages in bytes. None if a slice cannot be so long.
fn length_bytes(ty: &MemoryType, pages: u64) -> Option<u64> {
    let bytes = pages.checked_mul(ty.page_size())?;
    // The last page of the host is left out: what rounds up to it would be too long.
    (bytes <= isize::MAX as u64 - MemoryType::PAGE_BYTES).then_some(bytes)
}

/// The least length of whole pages of the host's.
fn whole_pages(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(region::page::size() as u64)
}

fn check_type(ty: &MemoryType) -> Result<()> {
    let most = ty.most_pages();
    let maximum = ty.maximum.unwrap_or(most);
    if ty.minimum > most {
        return Err(Error::msg(format!(
            "a memory of {} pages is beyond the limit of {most}",
            ty.minimum
        )));
    }
    if ty.minimum > maximum {
        return Err(Error::msg(format!(
            "a memory's minimum of {} pages is above its maximum of {maximum}",
            ty.minimum
        )));
    }
    Ok(())
}

fn too_many(ty: &MemoryType, pages: u64) -> String {
    format!(
        "{pages} pages of {} bytes are more than this host addresses",
        ty.page_size()
    )
}

fn refused(length: u64) -> String {
    format!("cannot get {length} bytes for a memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::child;
    use std::os::unix::process::ExitStatusExt;

    const PAGE: usize = MemoryType::PAGE_BYTES as usize;
    const MEMORY32_PAGES: u64 = 1 << 16;
    const STYLES: [MemoryStyle; 2] = [MemoryStyle::Reserved, MemoryStyle::Bounded];

    fn new(ty: &MemoryType, style: MemoryStyle) -> Result<LinearMemory> {
        LinearMemory::new(ty, style, &MemoryPool::new(4))
    }

    fn memory(minimum: u64, maximum: Option<u64>, style: MemoryStyle) -> LinearMemory {
        new(&MemoryType::new(minimum, maximum), style).unwrap()
    }

    #[test]
    fn a_new_memory_is_zero_and_writable() {
        for style in STYLES {
            let mut memory = memory(2, None, style);
            assert_eq!(memory.size_pages(), 2);
            assert_eq!(memory.as_slice().len(), 2 * PAGE);
            assert!(memory.as_slice().iter().all(|&byte| byte == 0));
            memory.as_mut_slice()[2 * PAGE - 1] = 7;
            assert_eq!(memory.as_slice()[2 * PAGE - 1], 7);
        }
    }

    #[test]
    fn growing_keeps_the_bytes_and_adds_zeros() {
        for style in STYLES {
            let mut memory = memory(1, Some(40), style);
            memory.as_mut_slice().fill(9);
            assert_eq!(memory.grow(2), Some(1));
            assert_eq!(memory.grow(30), Some(3));
            let (old, new) = memory.as_slice().split_at(PAGE);
            assert!(old.iter().all(|&byte| byte == 9) && new.iter().all(|&byte| byte == 0));
            assert_eq!(memory.as_slice().len(), 33 * PAGE);
        }
    }

    #[test]
    fn growing_ends_at_the_maximum_and_changes_nothing() {
        for style in STYLES {
            let mut memory = memory(1, Some(3), style);
            assert_eq!(memory.grow(3), None);
            assert_eq!(memory.grow(u64::MAX), None);
            assert_eq!(memory.grow(2), Some(1));
            assert_eq!(memory.grow(1), None);
            assert_eq!(memory.grow(0), Some(3));
            assert_eq!(memory.size_pages(), 3);
        }
    }

    #[test]
    fn an_empty_memory_has_no_bytes_and_can_grow() {
        for style in STYLES {
            let mut memory = memory(0, None, style);
            assert!(memory.as_slice().is_empty());
            assert_eq!(memory.grow(1), Some(0));
            memory.as_mut_slice()[PAGE - 1] = 1;
        }
    }

    #[test]
    fn a_memory_without_maximum_grows_to_four_gibibytes() {
        let mut memory = memory(0, None, MemoryStyle::Reserved);
        assert_eq!(memory.grow(MEMORY32_PAGES + 1), None);
        assert_eq!(memory.grow(MEMORY32_PAGES), Some(0));
        assert_eq!(memory.as_slice().len(), 1 << 32);
        assert_eq!(memory.as_slice()[(1 << 32) - 1], 0);
        assert_eq!(memory.grow(1), None);
    }

    #[test]
    fn a_memory_of_64_bit_addresses_grows_beyond_four_gibibytes() {
        let mut memory = new(&MemoryType::new64(0, None), MemoryStyle::Reserved).unwrap();
        let pages = MEMORY32_PAGES + 1;
        assert_eq!(memory.grow(pages), Some(0));
        *memory.as_mut_slice().last_mut().unwrap() = 5;
        assert_eq!(memory.grow(1), Some(pages));
        assert_eq!(memory.as_slice()[pages as usize * PAGE - 1], 5);
    }

    #[test]
    fn growing_beyond_the_host_fails_and_changes_nothing() {
        let mut memory = new(&MemoryType::new64(1, None), MemoryStyle::Reserved).unwrap();
        for delta in [1 << 32, 1 << 47, (1 << 48) - 1, 1 << 48, u64::MAX] {
            assert_eq!(memory.grow(delta), None, "{delta}");
        }
        assert_eq!(memory.size_pages(), 1);
        let bytes = MemoryType::new64(1, None).with_page_size_log2(0);
        let mut memory = new(&bytes, MemoryStyle::Reserved).unwrap();
        for delta in [1 << 62, i64::MAX as u64 - 1, u64::MAX - 1] {
            assert_eq!(memory.grow(delta), None, "{delta}");
        }
        let error = new(&MemoryType::new64(1 << 48, None), MemoryStyle::Reserved).unwrap_err();
        assert!(
            format!("{error:#}").contains("281474976710656 pages"),
            "{error:#}"
        );
    }

    #[test]
    fn pages_of_one_byte_are_counted_exactly() {
        for style in STYLES {
            let ty = MemoryType::new(3, Some(10_000)).with_page_size_log2(0);
            let mut memory = new(&ty, style).unwrap();
            assert_eq!(memory.as_slice(), [0; 3]);
            memory.as_mut_slice().fill(7);
            assert_eq!(memory.grow(1), Some(3));
            assert_eq!(memory.as_slice(), [7, 7, 7, 0]);
            assert_eq!(memory.grow(9_000), Some(4));
            assert_eq!(memory.as_slice().len(), 9_004);
            assert_eq!(memory.grow(997), None);
            assert_eq!(memory.grow(996), Some(9_004));
            assert_eq!(&memory.as_slice()[..4], [7, 7, 7, 0]);
        }
    }

    #[test]
    fn a_reserved_memory_never_moves_and_the_definition_never_does() {
        for style in STYLES {
            let mut memory = memory(1, None, style);
            let (def, base) = (memory.vm(), memory.as_slice().as_ptr());
            memory.grow(100).unwrap();
            let memory = Box::new(memory);
            assert_eq!(memory.vm(), def);
            if style == MemoryStyle::Reserved {
                assert_eq!(memory.as_slice().as_ptr(), base);
            }
        }
    }

    #[test]
    fn the_definition_tells_what_the_memory_is() {
        let mut memory = memory(1, None, MemoryStyle::Reserved);
        memory.grow(1).unwrap();
        // SAFETY: the memory lives, and nobody writes to its definition.
        let def = unsafe { &*memory.vm() };
        assert_eq!(def.base.cast_const(), memory.as_slice().as_ptr());
        assert_eq!(
            def.length_bytes.load(Ordering::Relaxed),
            2 * MemoryType::PAGE_BYTES
        );
        assert!(def.reservation_bytes >= 6 << 30);
    }

    #[test]
    fn types_beyond_the_limits_are_refused_with_numbers() {
        let error = |minimum, maximum| {
            let ty = MemoryType::new(minimum, maximum);
            new(&ty, MemoryStyle::Bounded).unwrap_err().to_string()
        };
        assert_eq!(
            error(65_537, None),
            "a memory of 65537 pages is beyond the limit of 65536"
        );
        assert_eq!(
            error(4, Some(3)),
            "a memory's minimum of 4 pages is above its maximum of 3"
        );
    }

    /// Reads one byte at `offset` from the base of a fresh reserved memory of one page, in a child.
    fn signal_of_a_read(test: &str, offset: u64) -> Option<i32> {
        let output = child::run(test, || {
            // The standard library's handler would print; the default action is what is wanted.
            // SAFETY: a plain call that touches no memory of ours.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            let memory = memory(1, None, MemoryStyle::Reserved);
            let address = memory.as_slice().as_ptr().wrapping_add(offset as usize);
            // SAFETY: an address of the memory's own reservation: it reads, or it faults and ends the child.
            unsafe { address.read_volatile() };
        });
        output.status.signal()
    }

    #[test]
    fn the_last_byte_can_be_read() {
        let test = "vm::linear::tests::the_last_byte_can_be_read";
        assert_eq!(signal_of_a_read(test, MemoryType::PAGE_BYTES - 1), None);
    }

    #[test]
    fn a_read_behind_the_last_byte_faults() {
        let test = "vm::linear::tests::a_read_behind_the_last_byte_faults";
        assert_eq!(
            signal_of_a_read(test, MemoryType::PAGE_BYTES),
            Some(libc::SIGSEGV)
        );
    }

    #[test]
    fn the_farthest_unchecked_read_faults() {
        let test = "vm::linear::tests::the_farthest_unchecked_read_faults";
        // The highest index, the highest offset, the last byte of sixteen.
        let farthest = u64::from(u32::MAX) + (MemoryStyle::GUARD_BYTES - 1) + 15;
        assert_eq!(signal_of_a_read(test, farthest), Some(libc::SIGSEGV));
    }

    #[test]
    fn a_full_address_space_is_an_error_with_the_numbers() {
        child::check(
            "vm::linear::tests::a_full_address_space_is_an_error_with_the_numbers",
            || {
                let limit = libc::rlimit {
                    rlim_cur: 4 << 30,
                    rlim_max: 4 << 30,
                };
                // SAFETY: the struct lives through the call.
                assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
                let error = new(&MemoryType::new(1, None), MemoryStyle::Reserved).unwrap_err();
                let text = format!("{error:#}");
                assert!(
                    text.contains(&RESERVATION_BYTES.to_string()) && text.contains("21843"),
                    "{text}"
                );
            },
        );
    }

    #[test]
    fn dropped_memories_give_their_addresses_back() {
        // More than the address space holds at a time.
        for _ in 0..25_000 {
            drop(memory(1, None, MemoryStyle::Reserved));
        }
    }

    #[test]
    fn a_pool_keeps_no_more_than_it_may_and_none_that_it_cannot_clean() {
        let pool = MemoryPool::new(2);
        let ty = MemoryType::new(1, None);
        let make = || LinearMemory::new(&ty, MemoryStyle::Reserved, &pool).unwrap();
        drop([make(), make(), make()]);
        assert_eq!(pool.idle_count(), 2);
        let mut memory = make();
        assert_eq!(pool.idle_count(), 1);
        memory.as_mut_slice().fill(7);
        // The kernel does not take locked pages back.
        // SAFETY: pages of the memory's own.
        assert_eq!(unsafe { libc::mlock(memory.base().cast(), PAGE) }, 0);
        drop(memory);
        assert_eq!(pool.idle_count(), 1);
        for _ in 0..3 {
            assert!(make().as_slice().iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_bounded_memory_moves_from_the_slab_to_a_mapping_and_leaves_nothing() {
        let pool = MemoryPool::new(0);
        let ty = MemoryType::new(1, None);
        for _ in 0..3 {
            let mut memory = LinearMemory::new(&ty, MemoryStyle::Bounded, &pool).unwrap();
            for pages in 1..40usize {
                assert!(
                    memory.as_slice()[(pages - 1) * PAGE..]
                        .iter()
                        .all(|&byte| byte == 0)
                );
                memory.as_mut_slice().fill(pages as u8);
                assert_eq!(memory.grow(1), Some(pages as u64));
                assert!(
                    memory.as_slice()[..pages * PAGE]
                        .iter()
                        .all(|&byte| byte == pages as u8)
                );
            }
        }
    }
}
