//! Where compiled code lives: one reservation a process, and the way from a program counter to its module.
//!
//! The reservation is address space only (`PROT_NONE`) and is made at the first module, never freed. It is cut into
//! *chunks* of 64 KiB; a module's text starts on a chunk and takes as many as it needs.
//!
//! ```text
//!   START                                                        END
//!   | text of A |none| text of B                |none| free          |
//!   ^ chunk 0        ^ chunk 1    ^ chunk 2          ^ chunk 3
//!   OWNERS: A          B            B                  null ..
//! ```
//!
//! So "is this guest code?" is two compares, and "whose?" is one load: the signal handler asks both.
//!
//! Invariants
//! 1. A page is writable or executable, never both; code is executable only once it is complete.
//! 2. `OWNERS[chunk]` is null or the address of a living [`ModuleCode`] whose text covers the chunk: it is written after
//!    the text is executable and cleared before the pages are given back.
//! 3. A chunk is in the free list, perhaps as one that is stuck, or belongs to exactly one [`CodeSpace`].

use super::arch;
use crate::error::{Context, Error, Result};
use crate::source::{FrameSymbol, SourceMap};
use selvedge_compiler::image::{RUNTIME_SLOTS_BYTES, SLOT_FUEL_CHECK, SLOT_FUEL_CHECK_INTEGERS, SLOT_RAISE};
use selvedge_compiler::{CompiledModule, Image, ModuleInfo};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Granularity of the reservation. Any page size in use divides it.
const CHUNK_BYTES: usize = 64 << 10;
/// What is asked for first; halved as long as the kernel refuses.
const RESERVATION_MAX_BYTES: usize = 16 << 30;
/// Below this we give up.
const RESERVATION_MIN_BYTES: usize = 1 << 30;
/// Addresses that agree in all bits above these are near each other.
const WINDOW_BYTES: usize = 1 << 37;
/// How far below the program's own code the reservation ends, or how far above, for the heap to grow, it begins; and how much farther at random.
const BELOW_BYTES: usize = 1 << 30;
const ABOVE_BYTES: usize = 32 << 30;
const RANDOM_BYTES: usize = 16 << 30;
const CHUNKS_MAX: usize = RESERVATION_MAX_BYTES / CHUNK_BYTES;

/// Address of the first byte of the reservation; before it is made, beyond every address.
static START: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Address behind the last byte of the reservation; written after `START`.
static END: AtomicUsize = AtomicUsize::new(0);
/// Whose text a chunk holds (invariant 2). 2 MiB of zero pages, touched where there is code.
static OWNERS: [AtomicPtr<ModuleCode>; CHUNKS_MAX] = [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS_MAX];
/// The chunks nobody has (invariant 3). Never locked in a signal handler.
static FREE: Mutex<FreeList> = Mutex::new(FreeList::new());

/// Whether `pc` lies in the code reservation. Async-signal-safe.
pub(crate) fn is_guest_code(pc: usize) -> bool {
    START.load(Ordering::Relaxed) <= pc && pc < END.load(Ordering::Relaxed)
}

/// The module whose text `pc` lies in. Lock-free and async-signal-safe.
///
/// The pointer is valid as long as the module lives: whoever found `pc` in a frame of a running store may use it until
/// that store is dropped.
pub(crate) fn find(pc: usize) -> Option<*const ModuleCode> {
    if !is_guest_code(pc) {
        return None;
    }
    let chunk = (pc - START.load(Ordering::Relaxed)) / CHUNK_BYTES;
    // Acquire: pairs with the store in `publish`, so that the module is seen complete.
    let code = OWNERS[chunk].load(Ordering::Acquire);
    (!code.is_null()).then_some(code.cast_const())
}

/// A share of the module whose text `pc` lies in.
///
/// # Safety
/// That module, if there is one, is not being dropped: somebody holds a share of it during the call.
pub(crate) unsafe fn find_arc(pc: usize) -> Option<Arc<ModuleCode>> {
    let code = find(pc)?;
    // SAFETY: `code` came from `Arc::as_ptr` in `publish`, and the caller's promise: the count is not zero.
    unsafe { Arc::increment_strong_count(code) };
    // SAFETY: the share that was just counted becomes ours.
    Some(unsafe { Arc::from_raw(code) })
}

/// What the loader writes into the runtime slots in front of the text: code addresses of [`super::arch`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RuntimeSlots {
    /// Where trap stubs jump to.
    pub(crate) raise: usize,
    /// Where the fuel stub jumps to.
    pub(crate) fuel_check: usize,
    /// The same in functions without a value in a vector register.
    pub(crate) fuel_check_integers: usize,
}

/// A module's code, executable, and what is known about it. Lives in an `Arc`; dropping the last share unmaps it.
#[derive(Debug)]
pub(crate) struct ModuleCode {
    info: ModuleInfo,
    /// The tables of the code. `text` is empty: it was moved to where it runs.
    image: Image,
    text_bytes: usize,
    source: SourceMap,
    // Declared last, dropped last: the chunks are free only when nothing refers to the code.
    space: CodeSpace,
}

impl ModuleCode {
    /// Makes a compiled module executable.
    ///
    /// # Errors
    /// When the code reservation is full, or the kernel refuses memory or a change of protection.
    pub(crate) fn publish(module: CompiledModule, slots: RuntimeSlots) -> Result<Arc<ModuleCode>> {
        let CompiledModule { info, mut image } = module;
        let text = std::mem::take(&mut image.text);
        let space = CodeSpace::take(text.len())?;
        space.fill(&text, slots)?;
        let code = Arc::new(ModuleCode {
            info,
            image,
            text_bytes: text.len(),
            source: SourceMap::default(),
            space,
        });
        let address = Arc::as_ptr(&code).cast_mut();
        for owner in code.space.owners() {
            owner.store(address, Ordering::Release); // invariant 2
        }
        Ok(code)
    }

    /// What the module says besides its code.
    pub(crate) fn info(&self) -> &ModuleInfo {
        &self.info
    }

    /// The functions of the source that the operator at `offset` of the module lies in, innermost first.
    pub(crate) fn symbols(&self, offset: u32) -> Vec<FrameSymbol> {
        self.source.symbols(&self.info.debug, offset)
    }

    /// The tables of the code; the text itself is no longer in it. Async-signal-safe, as are the image's lookups.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Address of the text's first byte.
    pub(crate) fn text_base(&self) -> usize {
        self.space.start()
    }

    /// The text, as it is executed.
    pub(crate) fn text(&self) -> &[u8] {
        let start = ptr::with_exposed_provenance(self.text_base());
        // SAFETY: filled when it was published, readable and not written since (invariant 1), and ours as long as `self` lives (invariant 3).
        unsafe { std::slice::from_raw_parts(start, self.text_bytes) }
    }

    /// Address of the code at an offset that the image names.
    pub(crate) fn code_at(&self, offset: u32) -> *const u8 {
        debug_assert!((offset as usize) < self.text_bytes);
        ptr::with_exposed_provenance(self.text_base() + offset as usize)
    }

    /// The offset of `pc` in the text, if it lies there (its end included: a return address may be there).
    /// Async-signal-safe.
    pub(crate) fn offset_of(&self, pc: usize) -> Option<u32> {
        let offset = pc.checked_sub(self.text_base())?;
        (offset <= self.text_bytes).then_some(offset as u32) // `CodeSpace::take` keeps texts below 4 GiB
    }
}

impl Drop for ModuleCode {
    fn drop(&mut self) {
        for owner in self.space.owners() {
            owner.store(ptr::null_mut(), Ordering::Release); // invariant 2; the pages go with `space`
        }
    }
}

/// A run of chunks of the reservation, given back on drop.
#[derive(Debug)]
struct CodeSpace {
    first_chunk: u32,
    chunks: u32,
}

impl CodeSpace {
    /// Takes chunks for `bytes` of text.
    fn take(bytes: usize) -> Result<CodeSpace> {
        if bytes < RUNTIME_SLOTS_BYTES || u32::try_from(bytes).is_err() {
            return Err(Error::msg(format!(
                "an image has {bytes} bytes of text, expected {RUNTIME_SLOTS_BYTES} to {}",
                u32::MAX
            )));
        }
        let chunks = bytes.div_ceil(CHUNK_BYTES) as u32;
        let mut free = lock_free_list();
        if END.load(Ordering::Relaxed) == 0 {
            reserve(&mut free)?;
        }
        free.give_stuck();
        match free.take(chunks) {
            Some(first_chunk) => Ok(CodeSpace { first_chunk, chunks }),
            None => Err(Error::msg(format!(
                "code reservation is full: no {} bytes in a row, {} of {} in use",
                chunks as usize * CHUNK_BYTES,
                reserved_bytes() - free.bytes(),
                reserved_bytes(),
            ))),
        }
    }

    fn start(&self) -> usize {
        START.load(Ordering::Relaxed) + self.first_chunk as usize * CHUNK_BYTES
    }

    /// The entries of `OWNERS` for these chunks.
    fn owners(&self) -> &'static [AtomicPtr<ModuleCode>] {
        let first = self.first_chunk as usize;
        &OWNERS[first..first + self.chunks as usize]
    }

    /// Writes the text with its slots and makes it executable.
    fn fill(&self, text: &[u8], slots: RuntimeSlots) -> Result<()> {
        self.protect(text.len(), region::Protection::READ_WRITE)?;
        let start = ptr::with_exposed_provenance_mut::<u8>(self.start());
        // SAFETY: the pages are ours alone (invariant 3), writable since a line ago, and `take` made room for the text.
        let target = unsafe { std::slice::from_raw_parts_mut(start, text.len()) };
        target.copy_from_slice(text);
        for (slot, address) in [
            (SLOT_RAISE, slots.raise),
            (SLOT_FUEL_CHECK, slots.fuel_check),
            (SLOT_FUEL_CHECK_INTEGERS, slots.fuel_check_integers),
        ] {
            target[slot * 8..][..8].copy_from_slice(&(address as u64).to_ne_bytes());
        }
        self.protect(text.len(), region::Protection::READ_EXECUTE)?;
        arch::make_instructions_visible(self.start(), text.len())
            .context("cannot make new code visible to all threads (membarrier)")?;
        Ok(())
    }

    fn protect(&self, bytes: usize, protection: region::Protection) -> Result<()> {
        let start = ptr::with_exposed_provenance::<u8>(self.start());
        // SAFETY: the pages are ours alone (invariant 3), and nobody refers to or runs what is in them yet.
        unsafe { region::protect(start, bytes, protection) }.with_context(|| {
            format!("cannot make {bytes} bytes of code {protection} (the process may have too many mappings)")
        })
    }
}

impl Drop for CodeSpace {
    fn drop(&mut self) {
        // SAFETY: ours until now (invariant 3), and the module is gone.
        let is_clear = unsafe { clear(self.first_chunk, self.chunks) };
        let mut free = lock_free_list();
        if is_clear {
            free.give(self.first_chunk, self.chunks);
        } else {
            free.stuck.push((self.first_chunk, self.chunks));
        }
    }
}

/// Makes chunks that nobody uses any more reserved pages again, which drops the memory and the protection in one step. Whether
/// the kernel did so: it may have no room for another mapping.
///
/// # Safety
/// They are chunks of the reservation, and in nobody's hands but the caller's (invariant 3).
unsafe fn clear(first_chunk: u32, chunks: u32) -> bool {
    let flags = libc::MAP_FIXED | RESERVE_FLAGS;
    let start = START.load(Ordering::Relaxed) + first_chunk as usize * CHUNK_BYTES;
    let start = ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller's promise.
    let mapped = unsafe {
        libc::mmap(
            start,
            chunks as usize * CHUNK_BYTES,
            libc::PROT_NONE,
            flags,
            -1,
            0,
        )
    };
    mapped == start
}

const RESERVE_FLAGS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Makes the reservation and puts all of it into `free`.
fn reserve(free: &mut FreeList) -> Result<()> {
    let mut bytes = RESERVATION_MAX_BYTES;
    let start = loop {
        // SAFETY: a new mapping at an address of the kernel's choice, which may take our hint, touches nothing that exists.
        let start = unsafe { libc::mmap(near_the_host(bytes), bytes, libc::PROT_NONE, RESERVE_FLAGS, -1, 0) };
        if start != libc::MAP_FAILED {
            break start.expose_provenance();
        }
        if bytes == RESERVATION_MIN_BYTES {
            let error = io::Error::last_os_error();
            return Err(
                Error::new(error).context(format!("cannot reserve {bytes} bytes of addresses for code"))
            );
        }
        bytes /= 2;
    };
    free.give(0, (bytes / CHUNK_BYTES) as u32);
    START.store(start, Ordering::Relaxed);
    // Release: whoever sees the end sees the start. A handler that runs between the two finds no guest code.
    END.store(start + bytes, Ordering::Release);
    Ok(())
}

/// Where the reservation should lie: in the same window of addresses as the program's own code, below it, or else above its heap.
///
/// Some processors predict a branch later whose target differs from it in the high bits of the address: on a Zen 4 a call from guest to
/// host and back took 3.5 ns in a bare loop with code where the kernel puts mappings, and 2.7 ns wherever all bits from the 37th on were
/// the same. How far away it lies is random, so that who knows one address does not know the other: one of 2^18 places, fewer
/// than the kernel's own choice would leave to be guessed.
fn near_the_host(bytes: usize) -> *mut libc::c_void {
    let random = RandomState::new().build_hasher().finish() as usize % RANDOM_BYTES;
    let here = reserve as *const () as usize;
    let window = here & !(WINDOW_BYTES - 1);
    let below = here.checked_sub(bytes + BELOW_BYTES + random);
    let start = below
        .filter(|below| *below >= window)
        .unwrap_or(here + ABOVE_BYTES + random);
    ptr::without_provenance_mut(start & !(CHUNK_BYTES - 1))
}

fn reserved_bytes() -> usize {
    END.load(Ordering::Relaxed) - START.load(Ordering::Relaxed)
}

fn lock_free_list() -> MutexGuard<'static, FreeList> {
    // Nothing panics between two changes that belong together.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs of free chunks, start to length, with no two adjacent. First fit: low addresses stay dense.
#[derive(Debug)]
struct FreeList {
    runs: BTreeMap<u32, u32>,
    /// Chunks of modules that are gone, which could not be cleared yet.
    stuck: Vec<(u32, u32)>,
}

impl FreeList {
    const fn new() -> FreeList {
        FreeList {
            runs: BTreeMap::new(),
            stuck: Vec::new(),
        }
    }

    /// Tries again to clear what is stuck.
    fn give_stuck(&mut self) {
        for (start, count) in std::mem::take(&mut self.stuck) {
            // SAFETY: stuck chunks are the list's (invariant 3), and this one was just taken off.
            match unsafe { clear(start, count) } {
                true => self.give(start, count),
                false => self.stuck.push((start, count)),
            }
        }
    }

    /// Takes `count` chunks in a row and gives the first.
    fn take(&mut self, count: u32) -> Option<u32> {
        let (&start, &length) = self.runs.iter().find(|&(_, &length)| length >= count)?;
        self.runs.remove(&start);
        if length > count {
            self.runs.insert(start + count, length - count);
        }
        Some(start)
    }

    /// Puts chunks back, joined with their free neighbours.
    fn give(&mut self, mut start: u32, mut count: u32) {
        if let Some((&before, &length)) = self.runs.range(..start).next_back() {
            debug_assert!(before + length <= start, "chunk {start} is given back twice");
            if before + length == start {
                start = before;
                count += length;
            }
        }
        if let Some(length) = self.runs.remove(&(start + count)) {
            count += length;
        }
        self.runs.insert(start, count);
    }

    fn bytes(&self) -> usize {
        self.runs
            .values()
            .map(|&length| length as usize * CHUNK_BYTES)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::child;

    const SLOTS: RuntimeSlots = RuntimeSlots {
        raise: 0x1234,
        fuel_check: 0x5678,
        fuel_check_integers: 0x9abc,
    };

    fn module(text: Vec<u8>) -> CompiledModule {
        let mut image = Image::default();
        image.text = text;
        CompiledModule {
            info: ModuleInfo::default(),
            image,
        }
    }

    /// A text of `bytes` whose code, behind the slots, returns `answer`.
    fn answering(answer: u32, bytes: usize) -> CompiledModule {
        let mut text = vec![0; RUNTIME_SLOTS_BYTES];
        if cfg!(target_arch = "aarch64") {
            text.extend((0x5280_0000 | answer << 5).to_le_bytes()); // movz w0, imm16
            text.extend(0xd65f_03c0_u32.to_le_bytes()); // ret
        } else {
            text.push(0xb8); // mov eax, imm32
            text.extend(answer.to_le_bytes());
            text.push(0xc3); // ret
        }
        text.resize(bytes, 0);
        module(text)
    }

    fn call(code: &ModuleCode) -> u32 {
        let entry = code.code_at(RUNTIME_SLOTS_BYTES as u32);
        // SAFETY: `answering` put a function of this type there.
        let function = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(entry) };
        function()
    }

    #[test]
    fn published_code_runs_and_sees_its_slots() {
        let code = ModuleCode::publish(answering(42, 100), SLOTS).unwrap();
        assert_eq!(call(&code), 42);
        let slots = ptr::with_exposed_provenance::<[u64; 3]>(code.text_base());
        // SAFETY: the text begins with eight words and is readable.
        assert_eq!(unsafe { slots.read() }, [0x1234, 0x5678, 0x9abc]);
        assert!(code.image.text.is_empty());
    }

    #[test]
    fn every_pc_of_a_text_finds_its_module() {
        let small = ModuleCode::publish(answering(1, 100), SLOTS).unwrap();
        let large = ModuleCode::publish(answering(2, 3 * CHUNK_BYTES + 1), SLOTS).unwrap();
        for (code, bytes) in [(&small, 100), (&large, 3 * CHUNK_BYTES + 1)] {
            for offset in [0, 64, bytes / 2, bytes - 1] {
                let pc = code.text_base() + offset;
                assert!(is_guest_code(pc));
                assert_eq!(find(pc), Some(Arc::as_ptr(code)));
                assert_eq!(code.offset_of(pc), Some(offset as u32));
            }
            assert_eq!(code.offset_of(code.text_base() + bytes + 1), None);
        }
        assert_eq!(small.offset_of(large.text_base()), None);
    }

    #[test]
    fn other_addresses_are_not_guest_code() {
        assert_eq!(find(0), None);
        assert_eq!(find(usize::MAX), None);
        assert!(!is_guest_code(call as *const () as usize));
        let local = 0;
        assert!(!is_guest_code((&raw const local).addr()));
    }

    #[test]
    fn a_found_share_keeps_the_code_alive() {
        let code = ModuleCode::publish(answering(7, 100), SLOTS).unwrap();
        // SAFETY: `code` is a share.
        let share = unsafe { find_arc(code.text_base()) }.unwrap();
        drop(code);
        assert_eq!(call(&share), 7);
        let base = share.text_base();
        drop(share);
        assert!(is_guest_code(base), "the reservation stays");
    }

    #[test]
    fn freed_space_is_used_again_and_joined() {
        child::check("vm::code::tests::freed_space_is_used_again_and_joined", || {
            let small = |answer| ModuleCode::publish(answering(answer, 100), SLOTS).unwrap();
            let (first, second, _third) = (small(1), small(2), small(3));
            let base = first.text_base();
            drop(first);
            drop(second);
            let joined = ModuleCode::publish(answering(4, CHUNK_BYTES + 100), SLOTS).unwrap();
            assert_eq!(
                joined.text_base(),
                base,
                "two freed chunks make room for a text of two"
            );
            assert_eq!(call(&joined), 4);
        });
    }

    #[test]
    fn all_is_free_when_all_is_dropped() {
        child::check("vm::code::tests::all_is_free_when_all_is_dropped", || {
            drop(ModuleCode::publish(answering(0, 100), SLOTS).unwrap());
            let before = lock_free_list().bytes();
            let codes: Vec<_> = (1..50)
                .map(|n| ModuleCode::publish(answering(n as u32, n * 20_000), SLOTS).unwrap())
                .collect();
            assert!(lock_free_list().bytes() < before);
            for (n, code) in (1..).zip(&codes) {
                assert_eq!(call(code), n);
            }
            let bases: Vec<_> = codes.iter().map(|code| code.text_base()).collect();
            drop(codes);
            assert_eq!(lock_free_list().bytes(), before);
            assert!(bases.into_iter().all(|base| find(base).is_none()));
        });
    }

    #[test]
    fn a_text_without_room_for_the_slots_is_refused() {
        let error = ModuleCode::publish(module(vec![0; 63]), SLOTS).unwrap_err();
        assert!(error.to_string().contains("63 bytes"), "{error}");
    }

    #[test]
    fn the_free_list_takes_the_first_fit() {
        let mut free = FreeList::new();
        free.give(10, 2);
        free.give(20, 5);
        assert_eq!(free.take(3), Some(20));
        assert_eq!(free.take(2), Some(10));
        assert_eq!(free.take(3), None);
        assert_eq!(free.take(2), Some(23));
        assert!(free.runs.is_empty());
    }

    #[test]
    fn the_free_list_joins_neighbours_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2]] {
            let mut free = FreeList::new();
            for run in order {
                free.give(run * 4, 4);
            }
            assert_eq!(
                free.runs,
                BTreeMap::from([(0, 12)]),
                "given back in the order {order:?}"
            );
        }
    }
}
