//! Memories that several stores share.

use crate::engine::Engine;
use crate::error::Result;
use crate::trap::Trap;
use crate::vm::grow::refused_memory;
use crate::vm::shared::SharedLinear;
use crate::vm::waiters::WaitResult;
use selvedge_compiler::MemoryType;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

/// A shared linear memory: of no store, imported into as many as you like, on as many threads. Clones are the same memory,
/// which ends with the last of its users.
///
/// ```
/// use selvedge::{Engine, Instance, MemoryType, Module, SharedMemory, Store};
/// use std::sync::atomic::Ordering;
/// let engine = Engine::default();
/// let memory = SharedMemory::new(&engine, MemoryType::shared(1, 2))?;
/// let module = Module::new(&engine, r#"(module (import "env" "memory" (memory 1 2 shared))
///     (func (export "add") (param i32) (drop (i32.atomic.rmw.add (i32.const 0) (local.get 0)))))"#)?;
/// std::thread::scope(|scope| {
///     for _ in 0..2 {
///         scope.spawn(|| -> selvedge::Result<()> {
///             let mut store = Store::new(&engine, ());
///             let instance = Instance::new(&mut store, &module, &[memory.clone().into()])?;
///             instance.call(&mut store, "add", 21)
///         });
///     }
/// });
/// assert_eq!(memory.data()[0].load(Ordering::SeqCst), 42);
/// # Ok::<(), selvedge::Error>(())
/// ```
#[derive(Clone)]
pub struct SharedMemory {
    inner: Arc<SharedLinear>,
}

impl SharedMemory {
    /// A memory of `ty.minimum` pages of zeros. Addresses for its maximum are reserved now: it never moves.
    ///
    /// # Errors
    /// A type that is not shared, or no address space or memory for it.
    pub fn new(engine: &Engine, ty: MemoryType) -> Result<SharedMemory> {
        let inner = SharedLinear::new(&ty, engine.memory_style(), engine.memories())?;
        Ok(SharedMemory::of(Arc::new(inner)))
    }

    pub(crate) fn of(inner: Arc<SharedLinear>) -> SharedMemory {
        SharedMemory { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<SharedLinear> {
        &self.inner
    }

    /// The type; its minimum is the size now.
    pub fn ty(&self) -> MemoryType {
        self.inner.current_ty()
    }

    /// The size in pages.
    pub fn size(&self) -> u64 {
        self.inner.size_pages()
    }

    /// The size of a page in bytes: 65 536, or 1.
    pub fn page_size(&self) -> u64 {
        self.inner.ty().page_size()
    }

    /// The size in bytes.
    pub fn data_size(&self) -> usize {
        self.inner.length_bytes() as usize
    }

    /// The bytes that there are now, without a copy. Guests may change them at any time, by any instruction.
    pub fn data(&self) -> &[AtomicU8] {
        self.inner.bytes()
    }

    /// Adds `delta` pages of zeros and answers the old size in pages. What others have of [`data`](SharedMemory::data) stays valid.
    ///
    /// # Errors
    /// Beyond the maximum, or no memory; nothing changed then.
    pub fn grow(&self, delta: u64) -> Result<u64> {
        let refused = || refused_memory(&self.ty(), self.size(), delta);
        self.inner.grow(delta).ok_or_else(refused)
    }

    /// Wakes at most `count` of those that wait at `address`, the oldest first, and answers how many there were. May run the wakers
    /// of parked guests' tasks.
    ///
    /// # Errors
    /// An address that is not a multiple of 4, or beyond the end.
    pub fn atomic_notify(&self, address: u64, count: u32) -> Result<u32, Trap> {
        self.inner.notify(address, count)
    }

    /// Blocks this thread until somebody notifies `address`, if the 32 bits there are `expected`. Without a timeout for as long as
    /// it takes.
    ///
    /// # Errors
    /// An address that is not a multiple of 4, or beyond the end.
    pub fn atomic_wait32(
        &self,
        address: u64,
        expected: u32,
        timeout: Option<Duration>,
    ) -> Result<WaitResult, Trap> {
        self.inner.wait(address, 4, expected.into(), timeout)
    }

    /// As [`atomic_wait32`](SharedMemory::atomic_wait32), of 64 bits.
    ///
    /// # Errors
    /// An address that is not a multiple of 8, or beyond the end.
    pub fn atomic_wait64(
        &self,
        address: u64,
        expected: u64,
        timeout: Option<Duration>,
    ) -> Result<WaitResult, Trap> {
        self.inner.wait(address, 8, expected, timeout)
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedMemory").field(&self.ty()).finish()
    }
}

/// The same memory, not the same bytes.
impl PartialEq for SharedMemory {
    fn eq(&self, other: &SharedMemory) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for SharedMemory {}

impl Hash for SharedMemory {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.inner).hash(state);
    }
}
