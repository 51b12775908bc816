//! Linear memories.

use crate::error::{Error, Result};
use crate::store::{AsContext, AsContextMut};
use crate::vm::grow::Grow;
use crate::vm::limits::Asked;
use crate::vm::linear::LinearMemory;
use crate::vm::shared::MemoryVm;
use crate::vm::store::StoreVm;
use selvedge_compiler::MemoryType;

/// A linear memory of a store. A copyable handle. Sizes are in pages, of 64 KiB unless its type says otherwise, or a name says bytes.
///
/// ```
/// # use selvedge::{Memory, MemoryType, Store};
/// # let mut store = Store::<()>::default();
/// let memory = Memory::new(&mut store, MemoryType::new(1, Some(2)))?;
/// memory.write(&mut store, 8, b"hello")?;
/// assert_eq!(&memory.data(&store)[8..13], b"hello");
/// memory.data_mut(&mut store)[8] = b'H';
/// assert_eq!(memory.grow(&mut store, 1)?, 1);
/// let error = memory.grow(&mut store, 1).unwrap_err();
/// assert_eq!(error.to_string(), "memory of 2 pages cannot grow by 1: its maximum is 2 pages");
/// # Ok::<(), selvedge::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    store: u64,
    index: u32,
}

/// Handles of this type are made only of memories that their store owns.
const OWN: &str = "the memory is its store's own";

impl Memory {
    pub(crate) fn new_handle(store: u64, index: u32) -> Memory {
        Memory { store, index }
    }

    /// A memory of the host's, of `ty.minimum` pages of zeros. It lives as long as the store.
    ///
    /// Cost: a place of the engine's pool, or a reservation of addresses; pages take memory when they are written.
    ///
    /// # Errors
    /// No address space or memory for it, a shared memory's type, or the store's limiter refuses.
    pub fn new(mut store: impl AsContextMut, ty: MemoryType) -> Result<Memory> {
        let mut context = store.as_context_mut();
        refuse_shared(&ty)?;
        context.check(Asked::Memory(&ty))?;
        Memory::allocate(context.vm_mut(), ty)
    }

    /// As [`new`](Memory::new), for a store whose limiter may wait: [`Store::limiter_async`](crate::Store::limiter_async).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// Dropped before it is ready, it has made nothing.
    pub async fn new_async(mut store: impl AsContextMut, ty: MemoryType) -> Result<Memory> {
        let mut context = store.as_context_mut();
        refuse_shared(&ty)?;
        context.check_async(Asked::Memory(&ty)).await?;
        Memory::allocate(context.vm_mut(), ty)
    }

    /// A new memory that nobody need be asked about any more.
    fn allocate(vm: &mut StoreVm, ty: MemoryType) -> Result<Memory> {
        let memory = LinearMemory::new(&ty, vm.engine.memory_style(), vm.engine.memories())?;
        let index = vm.add_memory(MemoryVm::Own(memory))?;
        Ok(Memory::new_handle(vm.id, index))
    }

    /// Its place in the store.
    pub(crate) fn index(&self, vm: &StoreVm) -> Result<usize> {
        vm.check(self.store, "a memory")?;
        Ok(self.index as usize)
    }

    #[track_caller]
    fn get<'a>(&self, vm: &'a StoreVm) -> &'a LinearMemory {
        match self.index(vm) {
            Ok(index) => vm.memories[index].own().expect(OWN),
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    fn get_mut<'a>(&self, vm: &'a mut StoreVm) -> &'a mut LinearMemory {
        match self.index(vm) {
            Ok(index) => vm.memories[index].own_mut().expect(OWN),
            Err(error) => panic!("{error}"),
        }
    }

    /// The type; its minimum is the size now.
    ///
    /// # Panics
    /// With another store than the memory's, as all of these but those that answer a `Result`.
    pub fn ty(&self, store: impl AsContext) -> MemoryType {
        let context = store.as_context();
        let memory = self.get(context.vm());
        memory.current_ty()
    }

    /// The bytes, as a slice: no copy, and no guest runs as long as it is borrowed. Cost: two loads.
    ///
    /// # Panics
    /// With another store than the memory's.
    pub fn data<'a, T: 'a>(&self, store: &'a impl AsContext<Data = T>) -> &'a [u8] {
        self.get(store.as_context().into_vm()).as_slice()
    }

    /// The bytes, to change.
    ///
    /// # Panics
    /// With another store than the memory's.
    pub fn data_mut<'a, S: AsContextMut>(&self, store: &'a mut S) -> &'a mut [u8]
    where
        S::Data: 'a,
    {
        self.data_and_store_mut(store).0
    }

    /// The bytes and the host's data, both to change.
    ///
    /// # Panics
    /// With another store than the memory's.
    pub fn data_and_store_mut<'a, S: AsContextMut>(&self, store: &'a mut S) -> (&'a mut [u8], &'a mut S::Data)
    where
        S::Data: 'a,
    {
        let (vm, data) = store.as_context_mut().into_parts();
        (self.get_mut(vm).as_mut_slice(), data)
    }

    /// The address of the first byte, for who reads and writes by hand: right until the memory grows, be it by a guest, or the store is dropped. Not
    /// null, also of a memory of no bytes. Who uses it keeps to the rules of references: none of [`data`](Memory::data) is alive while it is written
    /// through, and no guest of the store runs on another thread meanwhile.
    ///
    /// # Panics
    /// With another store than the memory's.
    pub fn data_ptr(&self, store: impl AsContext) -> *mut u8 {
        self.get(store.as_context().vm()).base()
    }

    /// The size in pages.
    ///
    /// # Panics
    /// With another store than the memory's.
    pub fn size(&self, store: impl AsContext) -> u64 {
        self.get(store.as_context().vm()).size_pages()
    }

    /// The size of a page in bytes: 65 536, or 1.
    ///
    /// # Panics
    /// With another store than the memory's.
    pub fn page_size(&self, store: impl AsContext) -> u64 {
        self.get(store.as_context().vm()).ty().page_size()
    }

    /// The size in bytes.
    ///
    /// # Panics
    /// With another store than the memory's.
    pub fn data_size(&self, store: impl AsContext) -> usize {
        self.get(store.as_context().vm()).as_slice().len()
    }

    /// Adds `delta` pages of zeros and answers the old size in pages.
    ///
    /// Cost: a call to the system, or in a bounded memory that has to move a copy of it. Slices and pointers are to be taken anew.
    ///
    /// # Errors
    /// Beyond the maximum, refused by the store's limiter, or no memory; nothing changed then.
    pub fn grow(&self, mut store: impl AsContextMut, delta: u64) -> Result<u64> {
        let mut context = store.as_context_mut();
        let index = self.index(context.vm())?;
        let grow = Grow::Memory { index, pages: delta };
        context.check(Asked::Growth(grow))?;
        grow.run_for_host(context.vm_mut()).or_else(|error| {
            context.tell_failure(grow)?;
            Err(error)
        })
    }

    /// As [`grow`](Memory::grow), for a store whose limiter may wait: [`Store::limiter_async`](crate::Store::limiter_async).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// Dropped before it is ready, it has changed nothing.
    pub async fn grow_async(&self, mut store: impl AsContextMut, delta: u64) -> Result<u64> {
        let mut context = store.as_context_mut();
        let index = self.index(context.vm())?;
        let grow = Grow::Memory { index, pages: delta };
        context.check_async(Asked::Growth(grow)).await?;
        grow.run_for_host(context.vm_mut())
    }

    /// Copies bytes out of the memory. Cost: the copy.
    ///
    /// # Errors
    /// A range beyond the end.
    pub fn read(&self, store: impl AsContext, offset: usize, buffer: &mut [u8]) -> Result<()> {
        let context = store.as_context();
        let bytes = context.vm().memories[self.index(context.vm())?]
            .own()
            .expect(OWN)
            .as_slice();
        let from = bytes.get(offset..).and_then(|bytes| bytes.get(..buffer.len()));
        let from = from.ok_or_else(|| out_of_bounds(offset, buffer.len(), bytes.len()))?;
        buffer.copy_from_slice(from);
        Ok(())
    }

    /// Copies bytes into the memory. Cost: the copy.
    ///
    /// # Errors
    /// A range beyond the end; nothing is written then.
    pub fn write(&self, mut store: impl AsContextMut, offset: usize, bytes: &[u8]) -> Result<()> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let index = self.index(vm)?;
        let memory = vm.memories[index].own_mut().expect(OWN).as_mut_slice();
        let size = memory.len();
        let to = memory
            .get_mut(offset..)
            .and_then(|memory| memory.get_mut(..bytes.len()));
        to.ok_or_else(|| out_of_bounds(offset, bytes.len(), size))?
            .copy_from_slice(bytes);
        Ok(())
    }
}

/// A shared memory is of no store.
fn refuse_shared(ty: &MemoryType) -> Result<()> {
    match ty.is_shared() {
        true => Err(Error::msg(
            "a shared memory is of no store: see `SharedMemory::new`",
        )),
        false => Ok(()),
    }
}

fn out_of_bounds(offset: usize, length: usize, size: usize) -> Error {
    Error::msg(format!(
        "{length} bytes at {offset} lie beyond the end of a memory of {size} bytes"
    ))
}
