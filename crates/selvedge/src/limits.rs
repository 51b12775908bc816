//! What a store's guests may have: memories, tables and instances, and how far they grow.

use crate::error::{Error, Result};
use crate::host_fn::HostAsyncFn;
use crate::store::{AsContextMut, Caller, Store};
use crate::vm::limits::Maxima;

/// Decides how far the memories and tables of a store grow, and how many there may be: see [`Store::limiter`].
pub trait ResourceLimiter {
    /// Whether a memory may grow from `current` bytes to `desired`, where its type allows `maximum` bytes. A new one grows from 0.
    ///
    /// # Errors
    /// An error ends the guest's call, or is what the host's call answers.
    fn memory_growing(&mut self, current: u64, desired: u64, maximum: Option<u64>) -> Result<bool>;

    /// As [`memory_growing`](ResourceLimiter::memory_growing), of a table, in elements.
    ///
    /// # Errors
    /// As there.
    fn table_growing(&mut self, current: u64, desired: u64, maximum: Option<u64>) -> Result<bool>;

    /// A memory that was granted its growth does not grow: the system refuses, as the error says. The guest gets -1, and the host the error.
    /// Default: nothing is done.
    ///
    /// # Errors
    /// An error ends the guest's call, or is what the host's call answers.
    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        drop(error);
        Ok(())
    }

    /// As [`memory_grow_failed`](ResourceLimiter::memory_grow_failed), of a table.
    ///
    /// # Errors
    /// As there.
    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        drop(error);
        Ok(())
    }

    /// How many instances there may be. Asked once, by [`Store::limiter`]. Default: 10 000.
    fn instances(&self) -> usize {
        DEFAULT_COUNT
    }

    /// How many memories, as [`instances`](ResourceLimiter::instances).
    fn memories(&self) -> usize {
        DEFAULT_COUNT
    }

    /// How many tables, as [`instances`](ResourceLimiter::instances).
    fn tables(&self) -> usize {
        DEFAULT_COUNT
    }

    /// How many bytes the objects of the store's references may take, exceptions among them: the smaller of this and
    /// [`Config::max_reference_heap_bytes`](crate::Config::max_reference_heap_bytes), which says what is counted. Asked once, by
    /// [`Store::limiter`]. Default: no limit but that.
    fn reference_heap_bytes(&self) -> usize {
        usize::MAX
    }
}

const DEFAULT_COUNT: usize = 10_000;

/// A memory or table that is about to grow, or to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// What grows.
    pub kind: GrowthKind,
    /// Its size, in bytes or elements; 0 for a new one.
    pub current: u64,
    /// The size asked for.
    pub desired: u64,
    /// What its type allows.
    pub maximum: Option<u64>,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrowthKind {
    /// A memory, measured in bytes.
    Memory,
    /// A table, measured in elements.
    Table,
}

/// What a [`Growth`] is as parameters of a host function: kind, sizes, maximum or -1.
pub(crate) type RawGrowth = (i32, i64, i64, i64);

/// Added to the kind: it was granted, and failed.
const HAS_FAILED: i32 = 2;

impl Growth {
    /// Tells a limiter that answers at once that what it granted has failed.
    pub(crate) fn to_raw_failure(self) -> RawGrowth {
        let (kind, current, desired, maximum) = self.to_raw();
        (kind | HAS_FAILED, current, desired, maximum)
    }

    /// What it failed with, for the limiter.
    fn failure(self) -> Error {
        let (what, unit) = match self.kind {
            GrowthKind::Memory => ("memory", "bytes"),
            GrowthKind::Table => ("table", "elements"),
        };
        let Growth { current, desired, .. } = self;
        Error::msg(format!(
            "{what} of {current} {unit} cannot grow to {desired}: the system refuses"
        ))
    }

    pub(crate) fn to_raw(self) -> RawGrowth {
        let kind = i32::from(self.kind == GrowthKind::Table);
        let maximum = self
            .maximum
            .map_or(-1, |maximum| maximum.min(i64::MAX as u64) as i64);
        (kind, self.current as i64, self.desired as i64, maximum)
    }

    fn from_raw((kind, current, desired, maximum): RawGrowth) -> Growth {
        Growth {
            kind: if kind & !HAS_FAILED == 0 {
                GrowthKind::Memory
            } else {
                GrowthKind::Table
            },
            current: current as u64,
            desired: desired as u64,
            maximum: u64::try_from(maximum).ok(),
        }
    }
}

impl<T: 'static> Store<T> {
    /// Sets who decides how far memories and tables grow, and how many there may be: part of the store's data, as a rule, such as a
    /// [`StoreLimits`]. It is asked before a guest or the host grows or makes one. A guest that is refused gets -1, the host an error.
    ///
    /// ```
    /// # use selvedge::{Engine, Instance, Module, Store, StoreLimits, StoreLimitsBuilder};
    /// # let engine = Engine::default();
    /// # let module = Module::new(&engine, r#"(module (memory 1) (func (export "grow") (param i32) (result i32)
    /// #   (memory.grow (local.get 0))))"#)?;
    /// let limits = StoreLimitsBuilder::new().memory_bytes(2 << 16).build();
    /// let mut store = Store::new(&engine, limits);
    /// store.limiter(|limits| limits);
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// assert_eq!(instance.call::<_, i32>(&mut store, "grow", 1)?, 1);
    /// assert_eq!(instance.call::<_, i32>(&mut store, "grow", 1)?, -1);
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    pub fn limiter<F>(&mut self, limiter: F)
    where
        F: (Fn(&mut T) -> &mut dyn ResourceLimiter) + Send + Sync + 'static,
    {
        let maxima = Maxima::of(limiter(self.data_mut()));
        let ask = move |mut caller: Caller<'_, T>, kind: i32, current: i64, desired: i64, maximum: i64| {
            let growth = Growth::from_raw((kind, current, desired, maximum));
            let limiter = limiter(caller.data_mut());
            if kind & HAS_FAILED != 0 {
                return match growth.kind {
                    GrowthKind::Memory => limiter.memory_grow_failed(growth.failure()),
                    GrowthKind::Table => limiter.table_grow_failed(growth.failure()),
                }
                .map(|()| 0);
            }
            let granted = match growth.kind {
                GrowthKind::Memory => limiter.memory_growing(growth.current, growth.desired, growth.maximum),
                GrowthKind::Table => limiter.table_growing(growth.current, growth.desired, growth.maximum),
            };
            granted.map(i32::from)
        };
        self.as_context_mut()
            .vm_mut()
            .set_limiter_sync::<T, _, _, _>(ask, maxima);
    }

    /// As [`limiter`](Store::limiter), by an `async` closure: a guest that grows something waits for the answer. It may use the store as a
    /// host function does.
    ///
    /// Where the host itself grows or makes something, [`Memory::grow_async`](crate::Memory::grow_async),
    /// [`Memory::new_async`](crate::Memory::new_async), their like of [`Table`](crate::Table), and
    /// [`Linker::instantiate_async`](crate::Linker::instantiate_async) wait for the answer. Under a sync `call`, and in their sync
    /// sisters, the closure must be ready at once.
    ///
    /// ```
    /// # use selvedge::{Engine, Growth, Store};
    /// # async fn ask_the_quota_service(_: Growth) -> bool { true }
    /// # let engine = Engine::default();
    /// let mut store = Store::new(&engine, ());
    /// store.limiter_async(async |_caller, growth: Growth| Ok(ask_the_quota_service(growth).await));
    /// ```
    ///
    /// How many instances, memories and tables there may be is not limited: [`limiter_async_within`](Store::limiter_async_within) does that.
    pub fn limiter_async<F>(&mut self, limiter: F)
    where
        F: AsyncFn(Caller<'_, T>, Growth) -> Result<bool>,
        F: for<'a> HostAsyncFn<'a, T, Growth, Result<bool>>,
    {
        self.ask_async(None, limiter);
    }

    /// As [`limiter_async`](Store::limiter_async), with the numbers of `limits`, which are asked now: of instances, memories and tables, and of bytes of the
    /// reference heap. How far things grow the closure alone decides.
    ///
    /// ```
    /// # use selvedge::{Engine, Growth, Instance, Module, Store, StoreLimitsBuilder};
    /// # let engine = Engine::default();
    /// # let module = Module::new(&engine, "(module)")?;
    /// let mut store = Store::new(&engine, ());
    /// let limits = StoreLimitsBuilder::new().instances(1).build();
    /// store.limiter_async_within(&limits, async |_caller, growth: Growth| Ok(growth.desired <= 1 << 20));
    /// Instance::new(&mut store, &module, &[])?;
    /// let error = Instance::new(&mut store, &module, &[]).unwrap_err();
    /// assert_eq!(error.to_string(), "the store's limiter allows 1 instances: 1 in use, 1 more wanted");
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    pub fn limiter_async_within<F>(&mut self, limits: &dyn ResourceLimiter, limiter: F)
    where
        F: AsyncFn(Caller<'_, T>, Growth) -> Result<bool>,
        F: for<'a> HostAsyncFn<'a, T, Growth, Result<bool>>,
    {
        self.ask_async(Some(Maxima::of(limits)), limiter);
    }

    fn ask_async<F>(&mut self, maxima: Option<Maxima>, limiter: F)
    where
        F: for<'a> HostAsyncFn<'a, T, Growth, Result<bool>>,
    {
        let ask = move |caller: Caller<'static, T>, raw: RawGrowth| {
            let answer = limiter.start(caller, Growth::from_raw(raw));
            async move { answer.await.map(i32::from) }
        };
        self.as_context_mut()
            .vm_mut()
            .set_limiter_async::<T, _>(ask, maxima);
    }
}

impl Maxima {
    fn of(limits: &(impl ResourceLimiter + ?Sized)) -> Maxima {
        Maxima {
            instances: limits.instances(),
            memories: limits.memories(),
            tables: limits.tables(),
            reference_heap_bytes: limits.reference_heap_bytes(),
        }
    }
}

/// Limits of a store as numbers: a [`ResourceLimiter`]. Default: what that trait's defaults and types allow.
#[derive(Clone, Debug)]
pub struct StoreLimits {
    memory_bytes: Option<u64>,
    table_elements: Option<u64>,
    instances: usize,
    memories: usize,
    tables: usize,
    reference_heap_bytes: usize,
    fails: bool,
}

impl Default for StoreLimits {
    fn default() -> StoreLimits {
        StoreLimits {
            memory_bytes: None,
            table_elements: None,
            instances: DEFAULT_COUNT,
            memories: DEFAULT_COUNT,
            tables: DEFAULT_COUNT,
            reference_heap_bytes: usize::MAX,
            fails: false,
        }
    }
}

impl StoreLimits {
    fn decide(&self, what: &str, unit: &str, desired: u64, limit: Option<u64>) -> Result<bool> {
        match limit {
            Some(limit) if desired > limit && self.fails => Err(Error::msg(format!(
                "a {what} of {desired} {unit} exceeds the store's limit of {limit}"
            ))),
            Some(limit) => Ok(desired <= limit),
            None => Ok(true),
        }
    }
}

impl ResourceLimiter for StoreLimits {
    fn memory_growing(&mut self, _: u64, desired: u64, _: Option<u64>) -> Result<bool> {
        self.decide("memory", "bytes", desired, self.memory_bytes)
    }

    fn table_growing(&mut self, _: u64, desired: u64, _: Option<u64>) -> Result<bool> {
        self.decide("table", "elements", desired, self.table_elements)
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn memories(&self) -> usize {
        self.memories
    }

    fn tables(&self) -> usize {
        self.tables
    }

    fn reference_heap_bytes(&self) -> usize {
        self.reference_heap_bytes
    }
}

/// Makes [`StoreLimits`].
#[derive(Clone, Debug, Default)]
pub struct StoreLimitsBuilder {
    limits: StoreLimits,
}

impl StoreLimitsBuilder {
    /// No limits but the defaults.
    pub fn new() -> StoreLimitsBuilder {
        StoreLimitsBuilder::default()
    }

    /// How many bytes each memory may have.
    #[doc(alias = "memory_size")]
    pub fn memory_bytes(mut self, bytes: u64) -> StoreLimitsBuilder {
        self.limits.memory_bytes = Some(bytes);
        self
    }

    /// How many elements each table may have.
    pub fn table_elements(mut self, count: u64) -> StoreLimitsBuilder {
        self.limits.table_elements = Some(count);
        self
    }

    /// How many instances the store may have. Default: 10 000.
    pub fn instances(mut self, count: usize) -> StoreLimitsBuilder {
        self.limits.instances = count;
        self
    }

    /// How many memories the store may have. Default: 10 000.
    pub fn memories(mut self, count: usize) -> StoreLimitsBuilder {
        self.limits.memories = count;
        self
    }

    /// How many tables the store may have. Default: 10 000.
    pub fn tables(mut self, count: usize) -> StoreLimitsBuilder {
        self.limits.tables = count;
        self
    }

    /// How many bytes the objects of the store's references may take, exceptions among them. An allocation beyond ends the guest's call with an
    /// error. Default: [`Config::max_reference_heap_bytes`](crate::Config::max_reference_heap_bytes), which this does not raise.
    pub fn reference_heap_bytes(mut self, bytes: usize) -> StoreLimitsBuilder {
        self.limits.reference_heap_bytes = bytes;
        self
    }

    /// Whether growing beyond a limit ends the guest's call with an error, not -1. Default: no.
    #[doc(alias = "trap_on_grow_failure")]
    pub fn fail_on_refusal(mut self, on: bool) -> StoreLimitsBuilder {
        self.limits.fails = on;
        self
    }

    /// The limits.
    pub fn build(self) -> StoreLimits {
        self.limits
    }
}
