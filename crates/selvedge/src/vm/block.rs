//! The heap block of a store and the three ways to hold it: [`Store`], [`StoreContextMut`], [`Caller`].
//!
//! Invariants (with those of [`super::store`])
//! 1. One token: only the innermost of a `Store`, a parked call's future and a [`Caller`] may touch the block; each borrows
//!    the one before, so the types see to it.
//! 2. There is never a reference to the whole block: only to fields, made from the raw pointer as places. A host function may
//!    thus hold `&mut T` while `vm` is used, and never the reverse ([`super::store`], invariant 1).
//! 3. `owner` is the activation that a context acts for: null for a store. What lies above it when it is used was leaked.

use super::activation::{self, Activation};
use super::instance::InstanceVm;
use super::store::StoreVm;
use super::vmctx::{HostRecord, VMFuncRef, ValRaw};
use crate::engine::Engine;
use crate::error::Result;
use crate::externs::Extern;
use crate::module::ModuleExport;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// What a store allocates: the part that knows nothing of `T`, and the host's data.
#[repr(C)]
pub(crate) struct Block<T> {
    vm: StoreVm,
    data: T,
}

/// Makes a type invariant in `T`: host functions were typed for exactly that `T`.
type Invariant<T> = PhantomData<fn(T) -> T>;

/// The owner of everything of one guest: its instances, memories, tables, globals, its stack while it runs, and the
/// host's data of type `T`, which host functions reach through their [`Caller`].
///
/// Making one allocates one block and maps nothing. Everything lives until the store is dropped.
///
/// ```
/// # use selvedge::{Caller, Engine, Linker, Module, Store};
/// # let engine = Engine::default();
/// # let module = Module::new(&engine, r#"(module (import "host" "count" (func $count)) (func (export "run") (call $count) (call $count)))"#)?;
/// let mut linker = Linker::<u32>::new(&engine);
/// linker.func_wrap("host", "count", |mut caller: Caller<'_, u32>| *caller.data_mut() += 1)?;
/// let mut store = Store::new(&engine, 0);
/// let instance = linker.instantiate(&mut store, &module)?;
/// instance.call::<(), ()>(&mut store, "run", ())?;
/// assert_eq!(store.into_data(), 2);
/// # Ok::<(), selvedge::Error>(())
/// ```
pub struct Store<T> {
    block: NonNull<Block<T>>,
    _owns: PhantomData<Block<T>>,
    _invariant: Invariant<T>,
}

// SAFETY: a store is its data, plain memory that only it refers to, and host futures; these were asked to be `Send` by every
// function that takes them, except where the data is `Local`, which is never `Send`. Host functions are `Send + Sync`. A parked
// guest stack holds guest frames alone, that is integers and addresses of the store (activation invariant 4).
// Test: `futures_are_send_when_the_data_is` in tests/tests/send.rs.
unsafe impl<T: Send> Send for Store<T> {}
// SAFETY: through a shared store only its data and plain memory can be read; nothing changes.
unsafe impl<T: Sync> Sync for Store<T> {}

impl<T> Store<T> {
    /// A store of `engine` with the host's `data`.
    ///
    /// Cost: one allocation of some 500 bytes and the data; takes no lock and asks nothing of the system. Store, instance, a call and their end are 0.4 us
    /// together (bench `call`). Dropping it costs what is in it: each instance, memory and table is given back.
    pub fn new(engine: &Engine, data: T) -> Store<T> {
        let vm = StoreVm::new(engine.clone());
        let block = Box::into_raw(Box::new(Block { vm, data }));
        let block = NonNull::new(block).expect("a box is not null");
        let vm = Block::vm(block);
        // SAFETY: just made, and nobody else refers to it.
        unsafe { (*vm).set_this(vm) };
        Store {
            block,
            _owns: PhantomData,
            _invariant: PhantomData,
        }
    }

    /// Takes the store apart and hands the data back. Costs what dropping the store does.
    pub fn into_data(self) -> T {
        let block = self.block;
        std::mem::forget(self);
        let vm = Block::vm(block);
        // SAFETY: the store was owned; it is forgotten, so nothing is used after.
        unsafe { abandon_all(vm) };
        // SAFETY: made by `Box::into_raw` in `new`, taken back once: `self` is forgotten.
        let block = unsafe { Box::from_raw(block.as_ptr()) };
        block.data
    }
}

impl<T> Drop for Store<T> {
    fn drop(&mut self) {
        // SAFETY: the store is owned and not used after.
        unsafe { abandon_all(Block::vm(self.block)) };
        // SAFETY: made by `Box::into_raw` in `new`; dropped once.
        drop(unsafe { Box::from_raw(self.block.as_ptr()) });
    }
}

/// Cuts off what was leaked before the store goes.
///
/// # Safety
/// `vm` is a live store that nobody else refers to.
unsafe fn abandon_all(vm: *mut StoreVm) {
    // SAFETY: the caller's promise.
    unsafe { &mut *vm }.cut_to(ptr::null_mut());
}

impl<T> Block<T> {
    fn vm(block: NonNull<Block<T>>) -> *mut StoreVm {
        block.as_ptr().cast()
    }

    /// The data, as a place.
    fn data(block: NonNull<Block<T>>) -> *mut T {
        // SAFETY: in bounds of the block, which lives as long as whoever holds this pointer; no reference is made.
        unsafe { &raw mut (*block.as_ptr()).data }
    }
}

/// A store, shared, for as long as `'a`.
pub struct StoreContext<'a, T> {
    block: NonNull<Block<T>>,
    _borrow: PhantomData<&'a Block<T>>,
    _invariant: Invariant<T>,
}

impl<'a, T> StoreContext<'a, T> {
    /// For as long as the block is borrowed, which is for the caller to see to.
    fn of(block: NonNull<Block<T>>) -> StoreContext<'a, T> {
        StoreContext {
            block,
            _borrow: PhantomData,
            _invariant: PhantomData,
        }
    }

    /// The host's data.
    pub fn data(&self) -> &'a T {
        // SAFETY: invariant 1: the context borrows the token for `'a`.
        unsafe { &*Block::data(self.block) }
    }

    pub(crate) fn into_vm(self) -> &'a StoreVm {
        // SAFETY: as above.
        unsafe { &*Block::vm(self.block) }
    }

    pub(crate) fn vm(&self) -> &'a StoreVm {
        // SAFETY: as above.
        unsafe { &*Block::vm(self.block) }
    }
}

/// A store or a caller, exclusively, for as long as `'a`.
pub struct StoreContextMut<'a, T> {
    block: NonNull<Block<T>>,
    owner: *mut Activation,
    _borrow: PhantomData<&'a mut Block<T>>,
    _invariant: Invariant<T>,
}

// SAFETY: as `&mut Store<T>` is.
unsafe impl<T: Send> Send for StoreContextMut<'_, T> {}
// SAFETY: as `&Store<T>` is.
unsafe impl<T: Sync> Sync for StoreContextMut<'_, T> {}

impl<'a, T> StoreContextMut<'a, T> {
    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.vm().engine
    }

    /// The host's data.
    pub fn data(&self) -> &T {
        // SAFETY: invariant 1: the context holds the token.
        unsafe { &*Block::data(self.block) }
    }

    /// The host's data, to change.
    pub fn data_mut(&mut self) -> &mut T {
        // SAFETY: as above, exclusively.
        unsafe { &mut *Block::data(self.block) }
    }

    /// As [`data_mut`](StoreContextMut::data_mut), for as long as the context was.
    pub(crate) fn into_parts(self) -> (&'a mut StoreVm, &'a mut T) {
        // SAFETY: invariant 1; two fields, two places (invariant 2).
        let vm = unsafe { &mut *Block::vm(self.block) };
        // SAFETY: as above.
        (vm, unsafe { &mut *Block::data(self.block) })
    }

    pub(crate) fn vm(&self) -> &StoreVm {
        // SAFETY: invariant 1.
        unsafe { &*Block::vm(self.block) }
    }

    pub(crate) fn vm_mut(&mut self) -> &mut StoreVm {
        // SAFETY: invariant 1, exclusively; the reference ends before user code runs, as its users are in this crate.
        unsafe { &mut *Block::vm(self.block) }
    }

    /// The same for a shorter time.
    pub(crate) fn reborrow(&mut self) -> StoreContextMut<'_, T> {
        StoreContextMut {
            block: self.block,
            owner: self.owner,
            _borrow: PhantomData,
            _invariant: PhantomData,
        }
    }

    /// Whether a host function has it from its guest, and not the store's owner.
    pub(crate) fn is_in_host_function(&self) -> bool {
        !self.owner.is_null()
    }

    /// For the vm's own entry points.
    pub(crate) fn raw(&mut self) -> (*mut StoreVm, *mut Activation) {
        (Block::vm(self.block), self.owner)
    }

    /// Calls `func` with the slots. Results, if it returns, are in the same slots.
    ///
    /// # Safety
    /// `func` is a record of this store, and there are as many slots as it has parameters or results.
    #[inline]
    pub(crate) unsafe fn call_slots(&mut self, func: NonNull<VMFuncRef>, slots: &mut [ValRaw]) -> Result<()> {
        let (vm, owner) = self.raw();
        // SAFETY: the caller's promise, and invariant 1: nobody holds a reference into the store.
        unsafe { activation::call_sync(vm, owner, func, slots.as_mut_ptr()) }
    }
}

/// What a host function is given: the store, for as long as its call lasts, and the instance that imported the function.
///
/// ```
/// # use selvedge::{Caller, Context, Engine, Extern, Linker, Module, Result, Store};
/// # let engine = Engine::default();
/// let mut linker = Linker::<Vec<String>>::new(&engine);
/// linker.func_wrap("host", "log", |mut caller: Caller<'_, Vec<String>>, at: u32, length: u32| -> Result<()> {
///     let memory = caller.get_export("memory").and_then(Extern::into_memory);
///     let memory = memory.context("the guest exports no memory")?;
///     // The guest's bytes and the host's data, both at once.
///     let (bytes, lines) = memory.data_and_store_mut(&mut caller);
///     let line = bytes.get(at as usize..).and_then(|bytes| bytes.get(..length as usize));
///     lines.push(String::from_utf8_lossy(line.context("beyond the memory's end")?).into_owned());
///     Ok(())
/// })?;
/// let module = Module::new(&engine, r#"(module (import "host" "log" (func $log (param i32 i32)))
///     (memory (export "memory") 1) (data (i32.const 8) "hello")
///     (func (export "run") (call $log (i32.const 8) (i32.const 5))))"#)?;
/// let mut store = Store::new(&engine, Vec::new());
/// let instance = linker.instantiate(&mut store, &module)?;
/// instance.call::<(), ()>(&mut store, "run", ())?;
/// assert_eq!(store.data(), &["hello"]);
/// # Ok::<(), selvedge::Error>(())
/// ```
pub struct Caller<'a, T> {
    context: StoreContextMut<'a, T>,
    instance: *const InstanceVm,
}

// SAFETY: as `StoreContextMut`; the instance is the store's.
unsafe impl<T: Send> Send for Caller<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Caller<'_, T> {}

impl<'a, T> Caller<'a, T> {
    /// The caller for the host function that `record` belongs to.
    ///
    /// # Safety
    /// `record` belongs to a store of data `T` whose guest is in this host function, and nobody else uses the store for `'a`.
    #[inline(always)]
    pub(crate) unsafe fn of_record(record: *const HostRecord) -> Caller<'a, T> {
        // SAFETY: the caller's promise.
        let HostRecord { store, instance, .. } = *unsafe { &*record };
        // SAFETY: a store context is the first field of its block.
        let block = unsafe { NonNull::new_unchecked(store.cast::<Block<T>>()) };
        // SAFETY: the caller's promise; a plain word.
        let owner = unsafe { (*store.cast::<StoreVm>()).top };
        Caller {
            context: StoreContextMut {
                block,
                owner,
                _borrow: PhantomData,
                _invariant: PhantomData,
            },
            instance,
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        self.context.engine()
    }

    /// The host's data.
    pub fn data(&self) -> &T {
        self.context.data()
    }

    /// The host's data, to change.
    pub fn data_mut(&mut self) -> &mut T {
        self.context.data_mut()
    }

    /// An export of the instance that imported the function: usually its memory.
    ///
    /// None where it has no such export, and where the host called the function through a handle.
    ///
    /// Cost: looks at the store's instances, the latest first, until it is the one, then hashes the name; where it is called often, keep the handle in the
    /// store's data.
    pub fn get_export(&mut self, name: &str) -> Option<Extern> {
        let index = self.instance_index()?;
        Extern::of_export(self.context.vm_mut(), index, name)
    }

    /// As [`get_export`](Caller::get_export), of an export that was looked up by name before. None with the export of another module, too.
    pub fn get_module_export(&mut self, export: &ModuleExport) -> Option<Extern> {
        let index = self.instance_index()?;
        Extern::of_module_export(self.context.vm_mut(), index, export)
    }

    /// The place in the store of the instance that imported the function.
    fn instance_index(&self) -> Option<u32> {
        let mut held = self.context.vm().instances.iter();
        let index = held.rposition(|held| ptr::eq(held.as_ptr(), self.instance))?;
        Some(index as u32)
    }

    /// The store, for as long as the caller had it.
    pub(crate) fn into_context(self) -> StoreContextMut<'a, T> {
        self.context
    }
}

/// Something that lends a store: [`Store`], [`Caller`], [`StoreContextMut`], and references to them.
pub trait AsContext {
    /// The type of the store's data.
    type Data;

    /// The store, shared.
    fn as_context(&self) -> StoreContext<'_, Self::Data>;
}

/// Something that lends a store exclusively.
pub trait AsContextMut: AsContext {
    /// The store, exclusively.
    fn as_context_mut(&mut self) -> StoreContextMut<'_, Self::Data>;
}

impl<T> AsContext for Store<T> {
    type Data = T;
    fn as_context(&self) -> StoreContext<'_, T> {
        StoreContext::of(self.block)
    }
}

impl<T> AsContextMut for Store<T> {
    #[inline(always)]
    fn as_context_mut(&mut self) -> StoreContextMut<'_, T> {
        StoreContextMut {
            block: self.block,
            owner: ptr::null_mut(),
            _borrow: PhantomData,
            _invariant: PhantomData,
        }
    }
}

impl<T> AsContext for StoreContextMut<'_, T> {
    type Data = T;
    fn as_context(&self) -> StoreContext<'_, T> {
        StoreContext::of(self.block)
    }
}

impl<T> AsContextMut for StoreContextMut<'_, T> {
    #[inline(always)]
    fn as_context_mut(&mut self) -> StoreContextMut<'_, T> {
        self.reborrow()
    }
}

impl<T> AsContext for StoreContext<'_, T> {
    type Data = T;
    fn as_context(&self) -> StoreContext<'_, T> {
        StoreContext::of(self.block)
    }
}

impl<T> AsContext for Caller<'_, T> {
    type Data = T;
    fn as_context(&self) -> StoreContext<'_, T> {
        self.context.as_context()
    }
}

impl<T> AsContextMut for Caller<'_, T> {
    #[inline(always)]
    fn as_context_mut(&mut self) -> StoreContextMut<'_, T> {
        self.context.reborrow()
    }
}

impl<C: AsContext> AsContext for &C {
    type Data = C::Data;
    fn as_context(&self) -> StoreContext<'_, C::Data> {
        C::as_context(self)
    }
}

impl<C: AsContext> AsContext for &mut C {
    type Data = C::Data;
    fn as_context(&self) -> StoreContext<'_, C::Data> {
        C::as_context(self)
    }
}

impl<C: AsContextMut> AsContextMut for &mut C {
    #[inline(always)]
    fn as_context_mut(&mut self) -> StoreContextMut<'_, C::Data> {
        C::as_context_mut(self)
    }
}
