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
pub(crate) use super::grow::Grow;
use super::grow::{FAILED, of_memory, of_table};
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
use std::slice;
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

/// What is about to be made or to grow.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// A memory of the host's.
    Memory(&'a MemoryType),
    /// A table of the host's.
    Table(&'a TableType),
    /// By the host. What its type does not allow is not asked about.
    Growth(Grow),
    /// An instance, with its memories and tables.
    Instance(&'a Module),
}

impl<'a> Asked<'a> {
    /// The memories and tables that it makes.
    fn made(self) -> (&'a [MemoryType], &'a [TableType]) {
        match self {
            Asked::Memory(ty) => (slice::from_ref(ty), &[]),
            Asked::Table(ty) => (&[], slice::from_ref(ty)),
            Asked::Growth(_) => (&[], &[]),
            Asked::Instance(module) => {
                let info = module.info();
                (
                    &info.memories[info.imported_memories as usize..],
                    &info.tables[info.imported_tables as usize..],
                )
            }
        }
    }

    /// What the limiter is asked, in this order.
    ///
    /// # Errors
    /// There are as many as there may be.
    fn growths(self, store: &StoreVm) -> Result<impl Iterator<Item = Growth> + use<'a>> {
        let (memories, tables) = self.made();
        let instances = usize::from(matches!(self, Asked::Instance(_)));
        store.check_counts(instances, memories.len(), tables.len())?;
        let grown = match self {
            Asked::Growth(grow) => grow.growth(store),
            _ => None,
        };
        let memories = memories.iter().map(|ty| of_memory(ty, 0, ty.minimum));
        let tables = tables.iter().map(|ty| of_table(ty, 0, ty.minimum));
        Ok(memories.chain(tables).chain(grown))
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

    /// Whom to ask whether something of the guest's may grow, and what; none if it cannot be. Nothing is collected until the answer.
    fn question(&mut self, grow: Grow) -> Option<(*mut HostRecord, Growth)> {
        let growth = grow.growth(self)?;
        let record = self.limiter.as_ref().map(|limiter| limiter.record.as_ptr());
        self.heap.forbid_collections();
        Some((record.expect("the store has a limiter"), growth))
    }

    /// A growth of the guest's was answered in `slots`: does it, or refuses it, and puts the result there.
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
pub(crate) unsafe fn run(vmctx: *mut u8, slots: *mut ValRaw, builtin: Builtin, operands: [u64; 5]) -> u64 {
    let instance = InstanceVm::from_vmctx(vmctx);
    // SAFETY: the caller's promise; the instance lives as long as the store. The reference ends with this statement.
    let vm = unsafe { &*instance }.store();
    // SAFETY: as above.
    let grow = Grow::of_guest(unsafe { &*instance }, builtin, operands);
    // SAFETY: the caller's promise.
    let question = unsafe { &mut *vm }.question(grow);
    let Some((record, growth)) = question else {
        // SAFETY: the caller's promise: there is at least one slot.
        unsafe { slots.write(ValRaw::from_u64(FAILED)) };
        return DONE;
    };
    let mut answer = [ValRaw::ZERO; 4];
    // SAFETY: the caller's promise, and the references above are over.
    let word = unsafe { call(record, &mut answer, growth.to_raw()) };
    // SAFETY: as above; user code is over.
    let store = unsafe { &mut *vm };
    store.heap.allow_collections(); // while it is parked, its activation forbids them: `waits_for_answer`
    match word {
        DONE => {}
        SUSPEND => {
            // The answer goes where the guest expects the result, which outlives this frame.
            // SAFETY: parked just now, so `top` is the guest's activation.
            let act: &mut Activation = unsafe { &mut *store.top };
            let pending = act.pending.as_mut().expect("what is parked waits for something");
            (pending.slots, pending.grow) = (slots, Some(grow));
            return SUSPEND;
        }
        other => return other, // the reason is in the store
    }
    // SAFETY: the caller's promise: there is at least one slot.
    unsafe { slots.write(answer[0]) };
    if let Err(trap) = store.settle_growth(grow, slots) {
        return builtins::leave(store, trap);
    }
    // SAFETY: as above: the result is there now.
    let has_failed = unsafe { slots.read() }.u64() == FAILED;
    if answer[0].u32() == 0 || !has_failed || !store.is_limiter_told() {
        return DONE;
    }
    // SAFETY: the caller's promise, and nothing refers into the store any more.
    unsafe { tell(vm, record, growth) }
}

/// Tells the limiter that what a guest wanted, and it granted, has failed; the word for the swap.
///
/// # Safety
/// As for [`call`], of this store and its limiter's record.
unsafe fn tell(vm: *mut StoreVm, record: *mut HostRecord, growth: Growth) -> u64 {
    // SAFETY: the caller's promise; the reference ends with this statement.
    unsafe { &mut *vm }.heap.forbid_collections();
    let mut answer = [ValRaw::ZERO; 4];
    // SAFETY: the caller's promise.
    let word = unsafe { call(record, &mut answer, growth.to_raw_failure()) };
    // SAFETY: as above; user code is over.
    unsafe { &mut *vm }.heap.allow_collections();
    word
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
    /// Asks whether something may be made or grow.
    ///
    /// # Errors
    /// Refused, or as many as there may be.
    pub(crate) fn check(&mut self, asked: Asked<'_>) -> Result<()> {
        if !self.has_limiter() {
            return Ok(());
        }
        for growth in asked.growths(self.vm())? {
            self.ask(growth)?;
        }
        Ok(())
    }

    /// As [`check`](StoreContextMut::check); the limiter may wait.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn check_async(&mut self, asked: Asked<'_>) -> Result<()> {
        if !self.has_limiter() {
            return Ok(());
        }
        for growth in asked.growths(self.vm())? {
            self.ask_async(growth).await?;
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
