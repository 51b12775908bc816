//! Asking the host's limiter before a memory or a table grows or is made.
//!
//! The limiter is a host function of the store's, called through its shim on the host's stack, with a [`Growth`] as its parameters and
//! a truth value as its result. A guest's `memory.grow` that has to wait for the answer is parked as in any host function; what it
//! wanted is kept with what it waits for ([`Grow`] in [`Pending`](super::activation::Pending)), and done when the answer is there.
//!
//! Where the host itself grows or makes something and may wait, the limiter is called as any host function is by `call_async`, by an
//! activation of its own: what it waits for is then parked, dropped and interrupted as everything else.
//!
//! A limiter that answers at once is told if what it granted fails: by the same call, with another kind ([`Growth::to_raw_failure`]).
//!
//! The references that a `table.grow` would write are in no frame's stack map while the limiter runs: nothing is collected meanwhile.

use super::activation::Activation;
use super::arch::{DONE, SUSPEND};
use super::block::StoreContextMut;
use super::builtins;
use super::call::{CallFuture, Target};
use super::host::HostFunc;
use super::instance::InstanceVm;
use super::kept::Kept;
use super::store::{Stop, StoreVm};
use super::vmctx::{HostRecord, ValRaw};
use crate::error::{Error, Result};
use crate::host_fn::{HostAsyncFn, HostFn};
use crate::limits::{Growth, GrowthKind, RawGrowth};
use crate::module::Module;
use crate::trap::Trap;
use selvedge_compiler::{Builtin, MemoryType, TableType};
use std::panic::resume_unwind;
use std::sync::Arc;

/// What errors call the limiter.
const NAME: &str = "limiter";

/// The limiter as the host calls it when it may wait.
type Ask = Target<RawGrowth, i32>;

/// How many of each a store may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maxima {
    pub(crate) instances: usize,
    pub(crate) memories: usize,
    pub(crate) tables: usize,
    pub(crate) reference_heap_bytes: usize,
}

/// A store's limiter.
pub(crate) struct Limiter {
    record: Kept<HostRecord>,
    func: Arc<HostFunc>,
    /// Its handle's index, made when the host first waits for it.
    index: Option<u32>,
    maxima: Option<Maxima>,
    /// Whether it hears of what fails: one that answers at once.
    is_told: bool,
}

/// What a guest asked for: by its store's index.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grow {
    Memory { index: usize, pages: u64 },
    Table { index: usize, elements: u64, init: u64 },
}

/// The answer of an operation that failed without a trap: -1, in 32 or 64 bits.
const FAILED: u64 = u64::MAX;

fn of_memory(ty: &MemoryType, current_pages: u64, desired_pages: u64) -> Growth {
    let bytes = |pages: u64| pages.saturating_mul(ty.page_size());
    Growth {
        kind: GrowthKind::Memory,
        current: bytes(current_pages),
        desired: bytes(desired_pages),
        maximum: ty.maximum.map(bytes),
    }
}

fn of_table(ty: &TableType, current: u64, desired: u64) -> Growth {
    Growth {
        kind: GrowthKind::Table,
        current,
        desired,
        maximum: ty.maximum,
    }
}

impl Grow {
    /// What it means, if the type allows it.
    fn growth(self, store: &StoreVm) -> Option<Growth> {
        match self {
            Grow::Memory { index, pages } => {
                let memory = &store.memories[index];
                let (ty, current) = (memory.ty(), memory.size_pages());
                let desired = current.checked_add(pages)?;
                let most = ty.maximum.unwrap_or(u64::MAX).min(ty.most_pages());
                (desired <= most).then(|| of_memory(&ty, current, desired))
            }
            Grow::Table { index, elements, .. } => {
                let table = &store.tables[index];
                Some(of_table(&table.ty, table.len(), table.grown(elements)?))
            }
        }
    }

    /// Does it; the old size, or -1. Growing a table costs fuel.
    ///
    /// # Errors
    /// No fuel for it.
    pub(crate) fn run(self, store: &mut StoreVm) -> std::result::Result<u64, Trap> {
        match self {
            Grow::Memory { index, pages } => Ok(store.memories[index].grow(pages).unwrap_or(FAILED)),
            Grow::Table {
                index,
                elements,
                init,
            } => {
                if store.tables[index].grown(elements).is_none() {
                    return Ok(FAILED);
                }
                store.charge(elements)?;
                Ok(store.tables[index].grow(elements, init).unwrap_or(FAILED))
            }
        }
    }
}

impl StoreVm {
    /// Sets a limiter that answers at once.
    pub(crate) fn set_limiter_sync<T: 'static, P: 'static, R: 'static, F: HostFn<T, P, R>>(
        &mut self,
        ask: F,
        maxima: Maxima,
    ) {
        let func = HostFunc::sync::<T, P, R, F>(ask, Some(NAME.to_owned()));
        self.set_limiter(func, Some(maxima), true);
    }

    /// Sets a limiter that may wait.
    pub(crate) fn set_limiter_async<T: 'static, F>(&mut self, ask: F, maxima: Option<Maxima>)
    where
        F: HostAsyncFn<'static, T, RawGrowth, Result<i32>>,
    {
        let func = HostFunc::wait::<T, RawGrowth, Result<i32>, F>(ask, Some(NAME.to_owned()));
        self.set_limiter(func, maxima, false);
    }

    fn set_limiter(&mut self, func: HostFunc, maxima: Option<Maxima>, is_told: bool) {
        if let Some(maxima) = &maxima {
            let most = self.engine.config().max_reference_heap_bytes;
            self.heap.set_limit(most.min(maxima.reference_heap_bytes));
        }
        let func = Arc::new(func);
        let record = Kept::new(self.host_record(&func, std::ptr::null_mut()));
        self.limiter = Some(Box::new(Limiter {
            record,
            func,
            index: None,
            maxima,
            is_told,
        }));
    }

    /// A parked growth was answered in `slots`: does it, or refuses it, and puts the result there.
    ///
    /// # Errors
    /// No fuel for it.
    pub(crate) fn settle_growth(&mut self, grow: Grow, slots: *mut ValRaw) -> std::result::Result<(), Trap> {
        // SAFETY: the slots of the parked operation, of which there is at least one; the answer was written there.
        let granted = unsafe { slots.read() }.u32() != 0;
        let result = if granted { grow.run(self)? } else { FAILED };
        // SAFETY: as above.
        unsafe { slots.write(ValRaw::from_u64(result)) };
        Ok(())
    }
}

/// Calls the limiter's shim with `growth` in `slots`; the word that it answers, and the result is in the first slot.
///
/// # Safety
/// `vm` is a live store with this limiter's record, and nobody holds a reference into it.
unsafe fn call(record: *mut HostRecord, slots: &mut [ValRaw; 4], growth: RawGrowth) -> u64 {
    let (kind, current, desired, maximum) = growth;
    let word = |value: i64| ValRaw::from_u64(value as u64);
    *slots = [
        ValRaw::from_u32(kind as u32),
        word(current),
        word(desired),
        word(maximum),
    ];
    // SAFETY: the record is its store's.
    let shim = unsafe { HostRecord::slot_shim(record) };
    // SAFETY: the caller's promise; four parameters and one result fit the slots.
    unsafe { shim(record, slots.as_mut_ptr()) }
}

/// The operation behind `memory.grow` and `table.grow` in a store with a limiter. Answers with the word for the swap.
///
/// # Safety
/// As for [`builtins::dispatch`]; no reference into the store is held.
pub(crate) unsafe fn run(
    vmctx: *mut u8,
    slots: *mut ValRaw,
    builtin: Builtin,
    [a, b, c, ..]: [u64; 5],
) -> u64 {
    let instance = InstanceVm::from_vmctx(vmctx);
    // SAFETY: the caller's promise; the instance lives as long as the store. The reference ends with this statement.
    let vm = unsafe { &*instance }.store();
    let (record, grow, growth) = {
        // SAFETY: the caller's promise; the reference ends with this block.
        let store = unsafe { &mut *vm };
        // SAFETY: as above; an instance and its store are separate allocations.
        let instance = unsafe { &*instance };
        let grow = match builtin {
            Builtin::MemoryGrow => Grow::Memory {
                index: instance.memories()[a as usize] as usize,
                pages: b,
            },
            _ => Grow::Table {
                index: instance.tables()[a as usize] as usize,
                init: b,
                elements: c,
            },
        };
        let record = store.limiter.as_ref().map(|limiter| limiter.record.as_ptr());
        let record = record.expect("the store has a limiter");
        let Some(growth) = grow.growth(store) else {
            // SAFETY: the caller's promise: there is at least one slot.
            unsafe { slots.write(ValRaw::from_u64(FAILED)) };
            return DONE;
        };
        store.heap.forbid_collections();
        (record, grow, growth)
    };
    let mut answer = [ValRaw::ZERO; 4];
    // SAFETY: the caller's promise, and the references above are over.
    let word = unsafe { call(record, &mut answer, growth.to_raw()) };
    // SAFETY: as above; user code is over.
    let store = unsafe { &mut *vm };
    store.heap.allow_collections(); // while it is parked, its activation forbids them: `waits_for_answer`
    if word == SUSPEND {
        // The answer goes where the guest expects the result, which outlives this frame.
        // SAFETY: parked just now, so `top` is the guest's activation.
        let act: &mut Activation = unsafe { &mut *store.top };
        let pending = act.pending.as_mut().expect("what is parked waits for something");
        (pending.slots, pending.grow) = (slots, Some(grow));
        return SUSPEND;
    }
    if word != DONE {
        return word; // the reason is in the store
    }
    let is_granted = answer[0].u32() != 0;
    let result = match is_granted {
        false => Ok(FAILED),
        true => grow.run(store),
    };
    if is_granted && result == Ok(FAILED) && store.is_limiter_told() {
        store.heap.forbid_collections();
        // SAFETY: the caller's promise, and nothing refers into the store: `store` is made anew below.
        let word = unsafe { call(record, &mut answer, growth.to_raw_failure()) };
        // SAFETY: as above; user code is over.
        unsafe { &mut *vm }.heap.allow_collections();
        if word != DONE {
            return word; // the reason is in the store
        }
    }
    // SAFETY: the caller's promise; user code is over.
    let store = unsafe { &mut *vm };
    match result {
        Ok(result) => {
            // SAFETY: the caller's promise: there is at least one slot.
            unsafe { slots.write(ValRaw::from_u64(result)) };
            DONE
        }
        Err(trap) => builtins::leave(store, trap),
    }
}

/// Calls the limiter, if there is one, for a growth that the host asks for: what it answers. It must answer at once.
///
/// # Errors
/// The limiter's, or that it would wait.
///
/// # Safety
/// `vm` is a live store whose guest is not running, and nobody holds a reference into it.
unsafe fn ask(vm: *mut StoreVm, growth: RawGrowth) -> Result<bool> {
    // SAFETY: the caller's promise; the reference ends with this statement.
    let record = unsafe { &*vm }
        .limiter
        .as_ref()
        .map(|limiter| limiter.record.as_ptr());
    let Some(record) = record else {
        return Ok(true);
    };
    let mut answer = [ValRaw::ZERO; 4];
    let word = {
        // SAFETY: the caller's promise.
        let _at_once = unsafe { AtOnce::new(vm) };
        // SAFETY: as above.
        unsafe { call(record, &mut answer, growth) }
    };
    // SAFETY: the caller's promise; user code is over.
    let store = unsafe { &mut *vm };
    if word != DONE {
        match store.stop.take() {
            Some(Stop::Error(error)) => return Err(error),
            Some(Stop::Panic(payload)) => resume_unwind(payload),
            _ => return Err(Error::msg("the limiter did not answer")),
        }
    }
    Ok(answer[0].u32() != 0)
}

/// What the limiter's answer to the host is.
fn granted(growth: Growth, is_granted: bool) -> Result<()> {
    if is_granted {
        return Ok(());
    }
    let (current, desired) = (growth.current, growth.desired);
    let (what, unit) = match growth.kind {
        GrowthKind::Memory => ("memory", "bytes"),
        GrowthKind::Table => ("table", "elements"),
    };
    Err(Error::msg(format!(
        "the store's limiter refused a {what} of {desired} {unit} (it has {current})"
    )))
}

/// While it lives, a host future that is not ready at once is an error: nothing may be parked, as no guest is running.
struct AtOnce {
    act: *mut Activation,
    was_async: bool,
}

impl AtOnce {
    /// # Safety
    /// `vm` is a live store, to which nobody holds a reference.
    unsafe fn new(vm: *mut StoreVm) -> AtOnce {
        // SAFETY: the caller's promise; a plain word.
        let act = unsafe { (*vm).top };
        // SAFETY: `top` is null or an activation that has not ended.
        let Some(activation) = (unsafe { act.as_mut() }) else {
            return AtOnce {
                act,
                was_async: false,
            };
        };
        let was_async = std::mem::replace(&mut activation.is_async, false);
        AtOnce { act, was_async }
    }
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        // SAFETY: what was innermost when this was made is so again: calls nest.
        if let Some(activation) = unsafe { self.act.as_mut() } {
            activation.is_async = self.was_async;
        }
    }
}

impl<T> StoreContextMut<'_, T> {
    /// Asks whether a memory of the host's may be made.
    ///
    /// # Errors
    /// Refused, or as many as there may be.
    pub(crate) fn check_new_memory(&mut self, ty: &MemoryType) -> Result<()> {
        self.vm().check_counts(0, 1, 0)?;
        self.ask(of_memory(ty, 0, ty.minimum))
    }

    /// Asks whether a table of the host's may be made.
    ///
    /// # Errors
    /// Refused, or as many as there may be.
    pub(crate) fn check_new_table(&mut self, ty: &TableType) -> Result<()> {
        self.vm().check_counts(0, 0, 1)?;
        self.ask(of_table(ty, 0, ty.minimum))
    }

    /// Asks whether the host may grow something. What its type does not allow is not asked about.
    ///
    /// # Errors
    /// Refused.
    pub(crate) fn check_growth(&mut self, grow: Grow) -> Result<()> {
        match grow.growth(self.vm()) {
            Some(growth) => self.ask(growth),
            None => Ok(()),
        }
    }

    /// Asks whether an instance may be made, with its memories and tables.
    ///
    /// # Errors
    /// Refused, or as many as there may be.
    pub(crate) fn check_instance(&mut self, module: &Module) -> Result<()> {
        if self.vm().limiter.is_none() {
            return Ok(());
        }
        let info = module.info();
        let memories = &info.memories[info.imported_memories as usize..];
        let tables = &info.tables[info.imported_tables as usize..];
        self.vm().check_counts(1, memories.len(), tables.len())?;
        for ty in memories {
            self.ask(of_memory(ty, 0, ty.minimum))?;
        }
        for ty in tables {
            self.ask(of_table(ty, 0, ty.minimum))?;
        }
        Ok(())
    }

    /// As [`check_new_memory`](StoreContextMut::check_new_memory); the limiter may wait.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn check_new_memory_async(&mut self, ty: &MemoryType) -> Result<()> {
        self.vm().check_counts(0, 1, 0)?;
        self.ask_async(of_memory(ty, 0, ty.minimum)).await
    }

    /// As [`check_new_table`](StoreContextMut::check_new_table); the limiter may wait.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn check_new_table_async(&mut self, ty: &TableType) -> Result<()> {
        self.vm().check_counts(0, 0, 1)?;
        self.ask_async(of_table(ty, 0, ty.minimum)).await
    }

    /// As [`check_growth`](StoreContextMut::check_growth); the limiter may wait.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn check_growth_async(&mut self, grow: Grow) -> Result<()> {
        match grow.growth(self.vm()) {
            Some(growth) => self.ask_async(growth).await,
            None => Ok(()),
        }
    }

    /// As [`check_instance`](StoreContextMut::check_instance); the limiter may wait.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn check_instance_async(&mut self, module: &Module) -> Result<()> {
        if !self.has_limiter() {
            return Ok(());
        }
        let info = module.info();
        let memories = &info.memories[info.imported_memories as usize..];
        let tables = &info.tables[info.imported_tables as usize..];
        self.vm().check_counts(1, memories.len(), tables.len())?;
        for ty in memories {
            self.ask_async(of_memory(ty, 0, ty.minimum)).await?;
        }
        for ty in tables {
            self.ask_async(of_table(ty, 0, ty.minimum)).await?;
        }
        Ok(())
    }

    /// Whether somebody has to be asked.
    pub(crate) fn has_limiter(&self) -> bool {
        self.vm().limiter.is_some()
    }

    async fn ask_async(&mut self, growth: Growth) -> Result<()> {
        let Some(limiter) = self.vm_mut().limiter_func()? else {
            return Ok(());
        };
        let answer = CallFuture::<T, i32>::new(self.start_typed(Ok(limiter), growth.to_raw()));
        granted(growth, answer.await? != 0)
    }

    fn ask(&mut self, growth: Growth) -> Result<()> {
        granted(growth, self.ask_raw(growth.to_raw())?)
    }

    /// What the host grew, which was granted, failed: a limiter that answers at once is told.
    ///
    /// # Errors
    /// The limiter's.
    pub(crate) fn tell_failure(&mut self, grow: Grow) -> Result<()> {
        match grow.growth(self.vm()) {
            Some(growth) if self.vm().is_limiter_told() => self.ask_raw(growth.to_raw_failure()).map(drop),
            _ => Ok(()),
        }
    }

    fn ask_raw(&mut self, growth: RawGrowth) -> Result<bool> {
        let (_, owner) = self.raw();
        // A call that was forgotten is not who asks: the limiter may enter the guest, for whoever is innermost.
        let store = self.vm_mut();
        if store.top != owner {
            store.cut_to(owner);
        }
        let vm = store.this();
        // SAFETY: this context is the token (block invariant 1), and no reference made by it is left.
        unsafe { ask(vm, growth) }
    }
}

impl StoreVm {
    /// Whether the limiter hears of what fails: one that answers at once.
    fn is_limiter_told(&self) -> bool {
        self.limiter.as_ref().is_some_and(|limiter| limiter.is_told)
    }

    /// The limiter as a function that can be called.
    ///
    /// # Errors
    /// No room for the trampolines of its signature.
    fn limiter_func(&mut self) -> Result<Option<Ask>> {
        let Some(limiter) = &self.limiter else {
            return Ok(None);
        };
        let index = match limiter.index {
            Some(index) => index,
            None => self.add_host_func(limiter.func.clone())?,
        };
        if let Some(limiter) = &mut self.limiter {
            limiter.index = Some(index);
        }
        Ok(Some(Target::assume(self.funcs[index as usize].func_ref)))
    }

    fn check_counts(&self, instances: usize, memories: usize, tables: usize) -> Result<()> {
        let Some(maxima) = self.limiter.as_ref().and_then(|limiter| limiter.maxima) else {
            return Ok(());
        };
        let counts = [
            ("instances", self.instances.len(), instances, maxima.instances),
            ("memories", self.memories.len(), memories, maxima.memories),
            ("tables", self.tables.len(), tables, maxima.tables),
        ];
        for (what, held, more, most) in counts {
            if more > 0 && held + more > most {
                return Err(Error::msg(format!(
                    "the store's limiter allows {most} {what}: {held} in use, {more} more wanted"
                )));
            }
        }
        Ok(())
    }
}
