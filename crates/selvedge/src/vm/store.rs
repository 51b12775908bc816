//! What a store owns, apart from the host's data: the part that knows nothing of the data's type.
//!
//! A store is one heap block `{ vm: StoreVm, data: T }` ([`crate::store`]). [`StoreVm`] begins with the
//! [`VMStoreContext`], so that the pointer that generated code carries is also the pointer to the block.
//!
//! Invariants
//! 1. A `&mut StoreVm` is never held while user code runs (a host function, a poll, a destructor, a waker) or while
//!    the guest runs: all of these come back here through the raw pointer.
//! 2. `top` is the innermost activation, or null; activations form a list through `parent`, last in first out.
//! 3. The store holds a stack if `top` is not null, and otherwise only if it was told to keep one ([`super::guest_stack`]).
//! 4. Objects (instances, memories, tables, globals, function records) live until the store is dropped: handles
//!    are indices, and generated code holds their addresses.

use super::activation::Activation;
use super::arch;
use super::arena::Arena;
use super::collect::is_in_heap;
use super::fuel::FuelState;
use super::guest_stack::GuestStack;
use super::host::HostFunc;
use super::instance::{InstanceBox, InstanceVm};
use super::interrupt::InterruptState;
use super::kept::Kept;
use super::lazy_heap::LazyHeap;
use super::limits::Limiter;
use super::linear::VMMemory;
use super::roots::Roots;
use super::shared::{MemoryVm, SharedLinear};
use super::table::TableVm;
use super::thin::Thin;
use super::vmctx::{HostRecord, VMFuncRef, ValRaw};
use crate::engine::{Engine, HostCode};
use crate::error::{Error, Result};
use crate::room::{self, refused};
use selvedge_compiler::{FuncType, GlobalType, HeapType, TableType, ValType};
use smallvec::SmallVec;
use std::any::Any;
use std::collections::HashMap;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of a store that generated code, the trampolines and the signal handler know.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VMStoreContext {
    /// The fuel slice: in the pinned register while the guest runs, here while it does not.
    pub(crate) fuel: i64,
    /// [`arch::builtin_call`] in the variant that fits the engine.
    pub(crate) builtin_call: *const u8,
    /// The region of the reference heap: [`super::heap::Heap::base`].
    pub(crate) heap_base: *const u8,
    /// Address of the parent link of the activation that runs.
    pub(crate) link: usize,
    /// Frame record at which the innermost activation left the guest for the host.
    pub(crate) guest_fp: usize,
    /// Why the guest was left by a trap; the five fields after it belong to that trap.
    pub(crate) trap_code: u32,
    /// Whether `trap_pc` is the instruction that faulted: else a call returns to it, perhaps the one before such an instruction.
    pub(crate) trap_is_fault: bool,
    pub(crate) trap_pc: usize,
    pub(crate) trap_fp: usize,
    pub(crate) fault_address: usize,
    pub(crate) trap_fuel: i64,
    /// Where the handler of an exception is, and with which stack pointer, frame and payload it goes on.
    pub(crate) unwind_pc: usize,
    pub(crate) unwind_sp: usize,
    pub(crate) unwind_fp: usize,
    pub(crate) unwind_exception: u64,
    /// The store's memories, for the signal handler's question whether a fault lies in one.
    pub(crate) memories: *const *const VMMemory,
    pub(crate) memory_count: usize,
    /// What is shared with those who may stop the guest; null while nobody may.
    pub(crate) interrupt: *const InterruptState,
}

impl VMStoreContext {
    fn new(builtin_call: *const u8, heap_base: *const u8) -> VMStoreContext {
        VMStoreContext {
            fuel: 0,
            builtin_call,
            heap_base,
            link: 0,
            guest_fp: 0,
            trap_code: 0,
            trap_is_fault: false,
            trap_pc: 0,
            trap_fp: 0,
            fault_address: 0,
            trap_fuel: 0,
            unwind_pc: 0,
            unwind_sp: 0,
            unwind_fp: 0,
            unwind_exception: 0,
            memories: ptr::null(),
            memory_count: 0,
            interrupt: ptr::null(),
        }
    }
}

/// A global's cell, wherever it lives, and its type.
pub(crate) struct GlobalEntry {
    pub(crate) cell: *mut ValRaw,
    pub(crate) ty: GlobalType,
}

impl GlobalEntry {
    /// The cell's contents.
    pub(crate) fn read(&self) -> ValRaw {
        // SAFETY: cells live as long as the store (invariant 4), and no generated code runs meanwhile.
        unsafe { self.cell.read() }
    }

    /// Sets the cell. What a short value does not occupy is unspecified, as generated code leaves it.
    pub(crate) fn write(&self, raw: ValRaw) {
        // SAFETY: as above.
        unsafe { self.cell.write(raw) };
    }
}

/// A function that a handle can name.
pub(crate) struct FuncEntry {
    pub(crate) func_ref: NonNull<VMFuncRef>,
    pub(crate) ty: FuncType,
    /// Present when the function is the host's: an instance that imports it makes its own record.
    pub(crate) host: Option<Arc<HostFunc>>,
}

/// An exception tag.
pub(crate) struct TagEntry {
    pub(crate) ty: FuncType,
    /// Which of its values are references into the heap.
    references: Vec<u32>,
}

impl TagEntry {
    /// # Errors
    /// No memory.
    pub(crate) fn new(ty: FuncType) -> Result<TagEntry> {
        let values = ty.params().iter().zip(0..);
        let references = values
            .filter(|(ty, _)| is_in_heap(**ty))
            .map(|(_, field)| Ok(field));
        let references = room::collect(references, "an exception tag")?;
        Ok(TagEntry { references, ty })
    }

    pub(crate) fn references(&self) -> &[u32] {
        &self.references
    }
}

/// Why the guest was left early; taken by whoever resumed it.
pub(crate) enum Stop {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

/// Everything of one guest but the host's data.
#[repr(C)]
#[allow(missing_debug_implementations)] // named in signatures that users do not see
pub struct StoreVm {
    pub(crate) cx: VMStoreContext,
    /// This store's own address, as the pointer to the whole block: host functions reach the data behind through it, which a
    /// pointer made from a reference to this part would not allow.
    this: *mut StoreVm,
    /// Innermost activation (invariant 2).
    pub(crate) top: *mut Activation,
    /// The guest stack while something is active (invariant 3).
    pub(crate) stack: GuestStack,
    /// Whether a call is a switch to the guest and nothing else: there is no fuel, and nobody may stop the guest.
    pub(crate) is_plain: bool,
    /// Whether it stays when nothing is active. A store that keeps one has no lease.
    pub(crate) keep_stack: bool,
    /// The host's stack pointer when the outermost activation was last entered or polled.
    pub(crate) outer_host_sp: usize,
    pub(crate) max_host_stack: usize,
    /// Set by whoever ends the guest with an error or a panic before it leaves.
    pub(crate) stop: Option<Stop>,
    /// Why the last async call that was not entered was not, until its future tells.
    pub(crate) entry_error: Option<Error>,
    pub(crate) arena: Arena,
    pub(crate) fuel: FuelState,
    /// What `cx.interrupt` points to.
    pub(crate) interrupt: Option<Arc<InterruptState>>,
    pub(crate) id: u64,
    pub(crate) engine: Engine,
    pub(crate) funcs: Thin<FuncEntry>,
    /// By the addresses of records, and of host functions that others keep.
    func_by_ref: Option<Index>,
    pub(crate) memories: Thin<MemoryVm>,
    memory_list: Thin<*const VMMemory>,
    pub(crate) tables: SmallVec<[Kept<TableVm>; 2]>,
    pub(crate) globals: Thin<GlobalEntry>,
    global_by_cell: Option<Index>,
    pub(crate) instances: SmallVec<[InstanceBox; 2]>,
    pub(crate) tags: Thin<TagEntry>,
    pub(crate) heap: LazyHeap,
    pub(crate) roots: Roots,
    /// Asked before something grows.
    pub(crate) limiter: Option<Box<Limiter>>,
    // What the host made, at addresses that stay.
    host_cells: Thin<Kept<ValRaw>>,
    host_refs: Thin<Kept<(HostRecord, VMFuncRef, HostCode)>>,
    /// Signatures that the types of the host's tables and globals name.
    host_types: Thin<FuncType>,
}

/// From an address to a handle's index; one word in a store that has none.
#[allow(clippy::box_collection)]
type Index = Box<HashMap<usize, u32>>;

/// The index of no handle: there was no memory to make one. Who uses it finds nothing at this index.
pub(crate) const NO_HANDLE: u32 = u32::MAX;
/// What errors call handles.
const HANDLES: &str = "a store's handles";

/// The index of an address, which is `next` if it is new; or [`NO_HANDLE`] without memory for that.
fn index_in(indices: &mut Option<Index>, address: usize, next: u32) -> u32 {
    let indices = indices.get_or_insert_default();
    if let Some(index) = indices.get(&address) {
        return *index;
    }
    if indices.try_reserve(1).is_err() {
        return NO_HANDLE;
    }
    indices.insert(address, next);
    next
}

/// The index of an address whose entry was pushed; forgets it again where there was no memory for that.
fn or_forget(pushed: Result<()>, indices: &mut Option<Index>, address: usize, index: u32) -> u32 {
    if pushed.is_ok() {
        return index;
    }
    if let Some(indices) = indices {
        indices.remove(&address);
    }
    NO_HANDLE
}

static NEXT_STORE: AtomicU64 = AtomicU64::new(1);

impl StoreVm {
    pub(crate) fn new(engine: Engine) -> StoreVm {
        let fuel_on = engine.fuel();
        let heap = LazyHeap::new(engine.config().max_reference_heap_bytes);
        StoreVm {
            cx: VMStoreContext::new(arch::builtin_call(fuel_on), heap.base()),
            this: ptr::null_mut(),
            top: ptr::null_mut(),
            stack: GuestStack::none(),
            is_plain: !fuel_on,
            keep_stack: engine.config().keep_stacks,
            outer_host_sp: 0,
            max_host_stack: engine.config().max_host_stack_bytes,
            stop: None,
            entry_error: None,
            arena: Arena::new(),
            fuel: FuelState::new(),
            interrupt: None,
            id: NEXT_STORE.fetch_add(1, Ordering::Relaxed),
            engine,
            funcs: Thin::new(),
            func_by_ref: None,
            memories: Thin::new(),
            memory_list: Thin::new(),
            tables: SmallVec::new(),
            globals: Thin::new(),
            global_by_cell: None,
            instances: SmallVec::new(),
            tags: Thin::new(),
            heap,
            roots: Roots::default(),
            limiter: None,
            host_cells: Thin::new(),
            host_refs: Thin::new(),
            host_types: Thin::new(),
        }
    }

    /// Adds an exception tag.
    ///
    /// # Errors
    /// No memory, or more tags than there are numbers.
    pub(crate) fn add_tag(&mut self, tag: TagEntry) -> Result<u32> {
        self.tags.push(tag, "a store's tags")?;
        Ok(self.tags.len() as u32 - 1)
    }

    /// Makes room for what an instance adds: so that adding it, however much it is, is no failure.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn reserve(&mut self, memories: usize, tables: usize, tags: usize) -> Result<()> {
        self.reserve_memories(memories)?;
        self.tags.reserve(tags, "a store's tags")?;
        let bytes = |held: usize, more: usize| (held + more) * size_of::<usize>();
        let reserved = self.tables.try_reserve(tables);
        reserved.map_err(|_| refused(bytes(self.tables.len(), tables), "a store's tables"))?;
        let reserved = self.instances.try_reserve(1);
        reserved.map_err(|_| refused(bytes(self.instances.len(), 1), "a store's instances"))
    }

    /// The pointer generated code carries.
    pub(crate) fn context_ptr(&self) -> *mut VMStoreContext {
        self.this.cast()
    }

    /// The pointer to the whole block; see the field.
    pub(crate) fn this(&self) -> *mut StoreVm {
        self.this
    }

    /// Says where the block lies, once, right after it was made.
    pub(crate) fn set_this(&mut self, this: *mut StoreVm) {
        self.this = this;
    }

    /// Checks that a handle was made by this store.
    #[inline]
    pub(crate) fn check(&self, store_id: u64, what: &'static str) -> Result<()> {
        match store_id == self.id {
            true => Ok(()),
            false => Err(of_another_store(what, store_id, self.id)),
        }
    }

    /// As [`reserve`](StoreVm::reserve). The list that the signal handler reads may move.
    fn reserve_memories(&mut self, more: usize) -> Result<()> {
        self.memories.reserve(more, "a store's memories")?;
        let reserved = self.memory_list.reserve(more, "a store's memories");
        self.cx.memories = self.memory_list.as_ptr();
        reserved
    }

    /// Adds a memory and tells the signal handler of it.
    ///
    /// # Errors
    /// No memory for the lists.
    pub(crate) fn add_memory(&mut self, memory: MemoryVm) -> Result<u32> {
        self.reserve_memories(1)?;
        self.memory_list.push(memory.vm(), "a store's memories")?;
        self.memories.push(memory, "a store's memories")?;
        self.cx.memory_count = self.memory_list.len();
        Ok(self.memories.len() as u32 - 1)
    }

    /// The index of a shared memory, the same one each time.
    ///
    /// # Errors
    /// As for [`add_memory`](StoreVm::add_memory).
    pub(crate) fn add_shared(&mut self, memory: &Arc<SharedLinear>) -> Result<u32> {
        let is_known = |held: &MemoryVm| matches!(held, MemoryVm::Shared(held) if Arc::ptr_eq(held, memory));
        match self.memories.iter().position(is_known) {
            Some(index) => Ok(index as u32),
            None => self.add_memory(MemoryVm::Shared(memory.clone())),
        }
    }

    /// A table of the engine's pool, which is to be added.
    ///
    /// # Errors
    /// More elements than a table may have, or than there is memory for.
    pub(crate) fn new_table(&self, ty: TableType, init: u64) -> Result<Kept<TableVm>> {
        self.engine.tables().take(ty, init)
    }

    /// # Errors
    /// No memory for the list.
    pub(crate) fn add_table(&mut self, table: Kept<TableVm>) -> Result<u32> {
        self.reserve(0, 1, 0)?;
        self.tables.push(table);
        Ok(self.tables.len() as u32 - 1)
    }

    /// The handle index of a function record, the same one each time; or [`NO_HANDLE`] where there is no memory for one.
    ///
    /// `ty` and `host` are only asked for when the record is new.
    pub(crate) fn func_index(
        &mut self,
        func_ref: NonNull<VMFuncRef>,
        describe: impl FnOnce() -> (FuncType, Option<Arc<HostFunc>>),
    ) -> u32 {
        let next = self.funcs.len() as u32;
        let index = index_in(&mut self.func_by_ref, func_ref.as_ptr().addr(), next);
        if index == next {
            let (ty, host) = describe();
            let pushed = self.funcs.push(FuncEntry { func_ref, ty, host }, HANDLES);
            return or_forget(pushed, &mut self.func_by_ref, func_ref.as_ptr().addr(), index);
        }
        index
    }

    /// The error of using a handle that there was no memory for.
    #[cold]
    pub(crate) fn no_handle(&self) -> Error {
        refused((self.funcs.len() + 1) * size_of::<FuncEntry>(), HANDLES)
    }

    /// The handle index behind a `funcref`; none for null.
    pub(crate) fn func_of_word(&mut self, word: u64) -> Option<u32> {
        let func_ref = NonNull::new(word as *mut VMFuncRef)?;
        let describe = || {
            // SAFETY: a funcref of this store's guest is the address of a record of this store (invariant 4).
            let type_id = unsafe { (*func_ref.as_ptr()).type_id };
            // A record that no handle names yet is an instance's: called through its own code and context, also on import. The instance
            // has its module, and that the signature.
            let ty = FuncType::of_number(type_id);
            (ty.expect("records have numbers of signatures"), None)
        };
        Some(self.func_index(func_ref, describe))
    }

    /// The handle index of a global's cell, the same one each time; or [`NO_HANDLE`] as for functions.
    pub(crate) fn global_index(&mut self, cell: *mut ValRaw, ty: GlobalType) -> u32 {
        let next = self.globals.len() as u32;
        let index = index_in(&mut self.global_by_cell, cell.addr(), next);
        if index == next {
            let pushed = self.globals.push(GlobalEntry { cell, ty }, HANDLES);
            return or_forget(pushed, &mut self.global_by_cell, cell.addr(), index);
        }
        index
    }

    /// Keeps the signature that a type of the host's names, if there is still one: so that modules that name an equal one can import what is
    /// of that type, whoever had it when it was made.
    ///
    /// # Errors
    /// No memory for the list.
    pub(crate) fn keep_type(&mut self, ty: ValType) -> Result<()> {
        let named = ty.as_ref().and_then(|ty| match ty.heap_type() {
            HeapType::ConcreteFunc(id) => id.get(),
            _ => None,
        });
        match named {
            Some(ty) => self.host_types.push(ty, "a store's types"),
            None => Ok(()),
        }
    }

    /// Makes a cell for a global of the host.
    ///
    /// # Errors
    /// No memory for the list.
    pub(crate) fn new_cell(&mut self, value: ValRaw) -> Result<*mut ValRaw> {
        let cell = Kept::new(value);
        let address = cell.as_ptr();
        self.host_cells.push(cell, "a store's globals")?;
        Ok(address)
    }

    /// The context with which generated code calls `func` for `instance` (null: for no instance).
    pub(crate) fn host_record(&mut self, func: &Arc<HostFunc>, instance: *mut InstanceVm) -> HostRecord {
        let (_, shim) = func.way();
        HostRecord {
            store: self.context_ptr(),
            host_call: arch::host_call(self.engine.fuel()),
            shim,
            closure: func.closure(),
            instance,
            func: Arc::as_ptr(func),
        }
    }

    /// The handle's index of a host function that others keep, such as a linker: the same one each time.
    pub(crate) fn host_func_index(&mut self, func: &Arc<HostFunc>) -> Result<u32> {
        // The handle keeps the function, so nothing else comes to be at its address.
        let address = Arc::as_ptr(func).addr();
        let known = self
            .func_by_ref
            .as_ref()
            .and_then(|indices| indices.get(&address));
        if let Some(index) = known {
            return Ok(*index);
        }
        let index = self.add_host_func(func.clone())?;
        match index_in(&mut self.func_by_ref, address, index) {
            NO_HANDLE => Err(self.no_handle()),
            index => Ok(index),
        }
    }

    /// A function handle's index for a host function of this store.
    pub(crate) fn add_host_func(&mut self, func: Arc<HostFunc>) -> Result<u32> {
        let trampolines = self.engine.trampolines(&func.ty)?;
        let (entry, import) = (trampolines.entry(), trampolines.import());
        let mut kept = Kept::new((
            self.host_record(&func, ptr::null_mut()),
            VMFuncRef {
                code: func.code(self.engine.fuel()).unwrap_or(import),
                ctx: ptr::null_mut(),
                entry,
                type_id: func.ty.number(),
            },
            trampolines,
        ));
        kept.1.ctx = ptr::from_mut(&mut kept.0).cast();
        let func_ref = NonNull::from(&mut kept.1);
        self.host_refs.push(kept, "a store's host functions")?;
        match self.func_index(func_ref, || (func.ty.clone(), Some(func))) {
            NO_HANDLE => Err(self.no_handle()),
            index => Ok(index),
        }
    }
}

// Not in line: what a message is made of would be written to memory beforehand.
#[cold]
#[inline(never)]
fn of_another_store(what: &str, store_id: u64, id: u64) -> Error {
    Error::msg(format!(
        "{what} belongs to store {store_id}, but was used with store {id}"
    ))
}

impl Drop for StoreVm {
    /// No guest runs any more, and none of this store will.
    fn drop(&mut self) {
        for table in self.tables.drain(..) {
            self.engine.tables().put(table);
        }
    }
}
