//! Host functions as generated code calls them: values in, values out, panics caught, futures parked.
//!
//! A shim is monomorphic in the closure's type and runs on the host's stack, called by [`super::arch::host_call`]. Nothing unwinds
//! out of it: an error or a panic is put into the store and the answer is [`EXIT`].
//!
//! An async host function's future is written to the store's arena and polled there once. When it is ready at once, nothing
//! else happens. When it is not, the activation remembers it ([`Pending`]) and the guest is parked; later polls
//! go to the future directly.

use super::activation::{Activation, GiveBack, Pending, PendingVTable};
use super::arch::{DONE, EXIT, SUSPEND, UNWIND};
use super::arena::ArenaMark;
use super::block::Caller;
use super::host::HostFunc;
use super::store::{Stop, StoreVm};
use super::trap;
use super::vmctx::{Answer, HostRecord, ValRaw};
use crate::error::{Error, Result};
use crate::host_fn::{HostAsyncFn, HostFn, HostValsAsyncFn, HostValsFn};
use crate::room::{self, refused};
use crate::value::{RawList, Ret, Val};
use selvedge_compiler::FuncType;
use selvedge_compiler::layout::MAX_REGISTERS;
use std::alloc::Layout;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::drop_in_place;
use std::slice;
use std::task::{Context, Poll, Waker};

/// How a shim's body ended.
type Outcome = std::thread::Result<Result<Answer>>;

impl Answer {
    fn of(word: u64) -> Answer {
        Answer { word, bits: 0 }
    }
}

/// How the values of a call travel.
trait Values: Copy {
    /// Reads the parameters.
    ///
    /// # Safety
    /// The values are those of a running call with such parameters.
    unsafe fn read<P: RawList>(self, store: &mut StoreVm) -> P;

    /// Writes the results, of which those that travel in registers are the answer.
    ///
    /// # Safety
    /// The values are those of a running call with such results.
    unsafe fn write<R: RawList>(self, results: R, store: &StoreVm) -> Result<u64>;
}

/// In slots, one for each parameter and for each result.
#[derive(Clone, Copy)]
struct InSlots(*mut ValRaw);

impl Values for InSlots {
    #[inline(always)]
    unsafe fn read<P: RawList>(self, store: &mut StoreVm) -> P {
        // SAFETY: the caller's promise: an import trampoline has a slot for each parameter.
        let slots = unsafe { slice::from_raw_parts(self.0, P::TYPES.len()) };
        P::from_slots(slots, store)
    }

    #[inline(always)]
    unsafe fn write<R: RawList>(self, results: R, store: &StoreVm) -> Result<u64> {
        // SAFETY: the caller's promise: an import trampoline has a slot for each result.
        let slots = unsafe { slice::from_raw_parts_mut(self.0, R::TYPES.len()) };
        results.to_slots(store, slots)?;
        Ok(0)
    }
}

/// As bits in registers.
#[derive(Clone, Copy)]
struct InRegisters([u64; MAX_REGISTERS]);

impl Values for InRegisters {
    #[inline(always)]
    unsafe fn read<P: RawList>(self, store: &mut StoreVm) -> P {
        P::from_slots(&self.0.map(ValRaw::from_u64)[..P::TYPES.len()], store)
    }

    #[inline(always)]
    unsafe fn write<R: RawList>(self, results: R, store: &StoreVm) -> Result<u64> {
        let mut slot = [ValRaw::ZERO];
        results.to_slots(store, &mut slot[..R::TYPES.len()])?;
        Ok(slot[0].u64())
    }
}

/// The signature that a list of parameters and a list of results make.
fn signature<P: RawList, R: RawList>() -> FuncType {
    FuncType::new(P::TYPES.iter().copied(), R::TYPES.iter().copied())
}

impl HostFunc {
    /// A host function that returns at once.
    pub(crate) fn sync<T: 'static, P: 'static, R: 'static, F: HostFn<T, P, R>>(
        f: F,
        name: Option<String>,
    ) -> HostFunc {
        let ty = signature::<F::Params, F::Results>();
        // SAFETY: the shim is made for `F`, `T` and this signature.
        unsafe {
            HostFunc::new(
                ty,
                sync_shim::<T, P, R, F>,
                Some(sync_register_shim::<T, P, R, F>),
                f,
                name,
            )
        }
    }

    /// A host function that may wait.
    pub(crate) fn wait<T: 'static, P, R, F>(f: F, name: Option<String>) -> HostFunc
    where
        P: RawList + 'static,
        R: Ret + 'static,
        F: HostAsyncFn<'static, T, P, R>,
    {
        HostFunc::waiting::<T, P, R, _>(Owning(f), name)
    }

    /// A host function that may wait and lends its captures, for data that stays on its thread.
    pub(crate) fn wait_local<T: 'static, P, R, F>(f: F, name: Option<String>) -> HostFunc
    where
        P: RawList + 'static,
        R: Ret + 'static,
        F: AsyncFn(Caller<'_, T>, P) -> R + Send + Sync + 'static,
    {
        HostFunc::waiting::<T, P, R, _>(Lending(f), name)
    }

    fn waiting<T: 'static, P, R, F>(f: F, name: Option<String>) -> HostFunc
    where
        P: RawList + 'static,
        R: Ret + 'static,
        F: Waiting<T, P, R>,
    {
        let ty = signature::<P, R::Values>();
        // SAFETY: as above.
        unsafe {
            HostFunc::new(
                ty,
                async_shim::<T, P, R, F>,
                Some(async_register_shim::<T, P, R, F>),
                f,
                name,
            )
        }
    }

    /// A host function over slices of values.
    pub(crate) fn vals<T: 'static, F: HostValsFn<T>>(ty: FuncType, f: F, name: Option<String>) -> HostFunc {
        // SAFETY: as above; the shim reads the signature from the record's function.
        unsafe { HostFunc::new(ty, vals_shim::<T, F>, None, f, name) }
    }

    /// A host function over slices of values that may wait.
    pub(crate) fn vals_wait<T: 'static, F>(ty: FuncType, f: F, name: Option<String>) -> HostFunc
    where
        F: for<'a> HostValsAsyncFn<'a, T>,
    {
        // SAFETY: as above.
        unsafe { HostFunc::new(ty, vals_async_shim::<T, F>, None, f, name) }
    }
}

/// A call of a host function: what every shim needs, taken out of the record.
struct Call<'a, V> {
    values: V,
    record: *const HostRecord,
    func: &'a HostFunc,
    vm: *mut StoreVm,
    /// The activation whose guest called.
    act: *mut Activation,
    /// Where results go if the call parks.
    slots: *mut ValRaw,
    /// Where the scope of the references that the host function makes begins.
    roots: usize,
}

impl<'a, V: Values> Call<'a, V> {
    /// # Safety
    /// `record`, `values` and `slots` are those of a running call of this host function.
    #[inline(always)]
    unsafe fn new(record: *const HostRecord, values: V, slots: *mut ValRaw) -> Call<'a, V> {
        // SAFETY: the caller's promise.
        let HostRecord { store, func, .. } = *unsafe { &*record };
        let vm = store.cast::<StoreVm>();
        // SAFETY: kept alive by the record's owner.
        let func = unsafe { &*func };
        // SAFETY: a store context is the first field of its `StoreVm`; a plain word.
        let act = unsafe { (*vm).top };
        // SAFETY: as above; a field of plain data.
        let roots = unsafe { &(*vm).roots }.mark();
        Call {
            values,
            roots,
            record,
            func,
            vm,
            act,
            slots,
        }
    }

    /// The closure.
    ///
    /// # Safety
    /// It is an `F`.
    #[inline(always)]
    unsafe fn closure<F>(&self) -> &'a F {
        // SAFETY: `new`'s promise.
        let closure = unsafe { (*self.record).closure };
        // SAFETY: the caller's promise.
        unsafe { &*closure.cast::<F>() }
    }

    /// The store, while no user code runs.
    #[inline(always)]
    fn store(&mut self) -> &mut StoreVm {
        // SAFETY: the guest is parked in this call, and the reference ends with the borrow of `self`.
        unsafe { &mut *self.vm }
    }

    /// Reads the parameters.
    #[inline(always)]
    fn read<P: RawList>(&mut self) -> P {
        let values = self.values;
        // SAFETY: `new`'s promise.
        unsafe { values.read(self.store()) }
    }

    /// Writes the results.
    #[inline(always)]
    fn write<R: RawList>(&mut self, results: R) -> Result<Answer> {
        let values = self.values;
        // SAFETY: `new`'s promise.
        let bits = unsafe { values.write(results, self.store()) }?;
        Ok(Answer { word: DONE, bits })
    }

    /// User code has run: cuts off what it leaked.
    #[inline(always)]
    fn back(&mut self) {
        let act = self.act;
        let store = self.store();
        if store.top != act {
            store.cut_to(act);
        }
    }

    /// Turns the end of a shim's body into the word for the swap.
    #[inline(always)]
    fn settle(mut self, outcome: Outcome) -> Answer {
        match outcome {
            Ok(Ok(answer)) if answer.word == SUSPEND => answer,
            Ok(Ok(answer)) => {
                let (act, slots, roots) = (self.act, self.slots, self.roots);
                let store = self.store();
                store.roots.truncate(roots);
                if store.cx.interrupt.is_null() {
                    answer
                } else {
                    look(store, act, slots, answer)
                }
            }
            Ok(Err(error)) => Answer::of(self.stop(Stop::Error(error))),
            Err(payload) => Answer::of(self.stop(Stop::Panic(payload))),
        }
    }

    #[inline(always)]
    fn stop(&mut self, stop: Stop) -> u64 {
        // SAFETY: the call's own words; its user code is over.
        unsafe { end(self.vm, self.act, stop, self.slots, self.roots) }
    }

    /// Polls a new future once where it will stay.
    ///
    /// # Safety
    /// As for [`Call::new`]; `fut` yields values for this call's signature.
    #[inline(always)]
    unsafe fn first_poll<Fut, R>(&mut self, fut: Fut) -> Result<Answer>
    where
        Fut: Future<Output = R>,
        R: Ret,
    {
        let room = self.store().arena.push(Layout::new::<Fut>());
        let (place, mark) = room.ok_or_else(|| refused(size_of::<Fut>(), "a host function's future"))?;
        let place = place.cast::<Fut>().as_ptr();
        // SAFETY: `push` made room for a `Fut` here, aligned.
        unsafe { place.write(fut) };
        let guard = Parked {
            vm: self.vm,
            act: self.act,
            future: place,
            mark,
        };
        // SAFETY: the call's own activation, which has not ended; null when the host asks a limiter.
        let (context, is_async) = match unsafe { self.act.as_ref() } {
            Some(activation) => (activation.poll_context, activation.is_async),
            None => (std::ptr::null_mut(), false),
        };
        let mut noop = Context::from_waker(Waker::noop());
        // SAFETY: null, or set for the time of the poll that we are in.
        let context = unsafe { context.as_mut() }.unwrap_or(&mut noop);
        // SAFETY: written above, and nobody else refers to it.
        let future = unsafe { &mut *place };
        // SAFETY: an arena's bytes do not move, and are given back only after the drop.
        let pinned = unsafe { Pin::new_unchecked(future) };
        match pinned.poll(context) {
            Poll::Ready(values) => {
                drop(guard);
                self.back();
                self.write(values.into_values()?)
            }
            Poll::Pending if !is_async => {
                drop(guard);
                Err(would_wait(self.func))
            }
            Poll::Pending => {
                std::mem::forget(guard);
                self.park(place.cast(), &Later::<Fut>::VTABLE, mark);
                Ok(Answer::of(SUSPEND))
            }
        }
    }

    /// Notes that the activation waits for a future, which stays where it is in the arena.
    #[inline(always)]
    fn park(&mut self, future: *mut u8, vtable: &'static PendingVTable, mark: ArenaMark) {
        let pending = Pending {
            future,
            vtable,
            slots: self.slots,
            mark,
            roots: self.roots,
            grow: None,
        };
        // SAFETY: the activation has not ended; one that waits is not a limiter's, which has none.
        unsafe { (*self.act).pending = Some(pending) };
    }
}

/// A host function has failed: says with which word the guest goes on or is left.
///
/// The call's words one by one: a reference to the call would keep all of them in memory, whether it fails or not. Nothing unwinds out of this:
/// what is dropped on the way, wakers and what was said about the error, is user code.
///
/// # Safety
/// They are those of a running call ([`Call`]), and no reference into the store is held.
#[cold]
#[inline(never)]
unsafe fn end(vm: *mut StoreVm, act: *mut Activation, stop: Stop, slots: *mut ValRaw, roots: usize) -> u64 {
    // SAFETY: the caller's promise.
    let cut = catch_unwind(AssertUnwindSafe(|| unsafe { &mut *vm }.cut_to(act)));
    // SAFETY: as above.
    let store = unsafe { &mut *vm };
    store.roots.truncate(roots);
    let is_caught = match &stop {
        Stop::Error(error) => cut.is_ok() && !store.is_answer(slots) && store.is_caught(error),
        Stop::Panic(_) => false,
    };
    if cut.is_ok() && !is_caught {
        store.stop = Some(stop);
        return EXIT;
    }
    let dropped = cut.and(catch_unwind(AssertUnwindSafe(|| drop(stop))));
    // SAFETY: as above; user code is over.
    let store = unsafe { &mut *vm };
    store.stop = match dropped {
        Err(payload) => Some(Stop::Panic(payload)),
        Ok(()) if store.is_stopped_on_return() => Some(Stop::Error(trap::interrupted(store))),
        Ok(()) => return UNWIND,
    };
    EXIT
}

/// A host function of a watched store returns to the guest, unless that has to stop.
#[cold]
#[inline(never)]
fn look(store: &mut StoreVm, act: *mut Activation, slots: *mut ValRaw, answer: Answer) -> Answer {
    // No guest waits for the answer when the host asks a limiter; and at a fuel check the units that it was given count first.
    if act.is_null() || store.is_answer(slots) || !store.is_stopped_on_return() {
        return answer;
    }
    store.stop = Some(Stop::Error(trap::interrupted(store)));
    Answer::of(EXIT)
}

#[cold]
fn would_wait(func: &HostFunc) -> Error {
    Error::msg(format!(
        "host function `{}` would wait, but its guest was entered by a synchronous `call`: use `call_async`",
        func.display_name()
    ))
}

/// A future in the arena, dropped and given back unless it stays there.
struct Parked<Fut> {
    vm: *mut StoreVm,
    act: *mut Activation,
    future: *mut Fut,
    mark: ArenaMark,
}

impl<Fut> Drop for Parked<Fut> {
    fn drop(&mut self) {
        let _give_back = GiveBack {
            vm: self.vm,
            act: self.act,
            mark: self.mark,
        };
        // SAFETY: written by `first_poll` and not dropped since.
        unsafe { drop_in_place(self.future) };
    }
}

/// Later polls of a parked future, without its type.
pub(crate) struct Later<Fut>(Fut);

impl<Fut, R> Later<Fut>
where
    Fut: Future<Output = R>,
    R: Ret,
{
    pub(crate) const VTABLE: PendingVTable = PendingVTable {
        poll: Self::poll,
        drop: Self::drop,
        forget: Self::forget,
    };

    /// # Safety
    /// [`PendingVTable::poll`].
    unsafe fn poll(
        future: *mut u8,
        vm: *mut StoreVm,
        slots: *mut ValRaw,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        // SAFETY: the caller's promise: a `Fut` lies there, and nobody else refers to it.
        let future = unsafe { &mut *future.cast::<Fut>() };
        // SAFETY: it was pinned when it was written there.
        let pinned = unsafe { Pin::new_unchecked(future) };
        let values = match pinned.poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(values) => values,
        };
        let values = match values.into_values() {
            Ok(values) => values,
            Err(error) => return Poll::Ready(Err(error)),
        };
        // SAFETY: the slots of the parked call, one for each result.
        let slots = unsafe { slice::from_raw_parts_mut(slots, R::Values::TYPES.len()) };
        // SAFETY: user code is over for this poll.
        Poll::Ready(values.to_slots(unsafe { &*vm }, slots))
    }

    /// # Safety
    /// [`PendingVTable::drop`].
    unsafe fn drop(future: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { drop_in_place(future.cast::<Fut>()) };
    }

    /// A user's future that was forgotten is left as it lies.
    ///
    /// # Safety
    /// [`PendingVTable::forget`].
    unsafe fn forget(_: *mut u8) {}
}

/// The body of every shim: `$body` with panics caught, then settled.
macro_rules! shim {
    ($record:ident, $values:expr, $slots:ident, |$call:ident| $body:expr) => {{
        // SAFETY: the swap passes the record, the values and the slots of a running call.
        let mut $call = unsafe { Call::new($record, $values, $slots) };
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<Answer> { $body }));
        $call.settle(outcome)
    }};
}

/// A closure that returns at once.
///
/// # Safety
/// `record`, `values` and `slots` are those of a running call of a host function that this was made for.
#[inline(always)]
unsafe fn sync_call<V: Values, T: 'static, P: 'static, R: 'static, F>(
    record: *mut HostRecord,
    values: V,
    slots: *mut ValRaw,
) -> Answer
where
    F: HostFn<T, P, R>,
{
    shim!(record, values, slots, |call| {
        // SAFETY: `HostFunc::sync` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() };
        let params = call.read::<F::Params>();
        // SAFETY: and with stores of `T`; nobody else uses the store while the guest is in here.
        let caller = unsafe { Caller::of_record(record) };
        let results = f.invoke(caller, params);
        call.back();
        call.write(results?)
    })
}

unsafe extern "C" fn sync_shim<T: 'static, P: 'static, R: 'static, F>(
    record: *mut HostRecord,
    slots: *mut ValRaw,
) -> u64
where
    F: HostFn<T, P, R>,
{
    // SAFETY: the swap passes the record and the slots of a running call.
    unsafe { sync_call::<_, T, P, R, F>(record, InSlots(slots), slots) }.word
}

unsafe extern "C" fn sync_register_shim<T: 'static, P: 'static, R: 'static, F>(
    record: *mut HostRecord,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    slots: *mut ValRaw,
) -> Answer
where
    F: HostFn<T, P, R>,
{
    // SAFETY: as above, with the values in registers.
    unsafe { sync_call::<_, T, P, R, F>(record, InRegisters([a, b, c, d]), slots) }
}

/// A host function that may wait, whichever way its future is started.
///
/// It polls the new future itself: that of a closure that lends its captures has no name.
trait Waiting<T: 'static, P, R>: Send + Sync + 'static {
    /// Starts the future and polls it once.
    ///
    /// # Safety
    /// As for [`Call::first_poll`].
    unsafe fn begin<V: Values>(
        &self,
        call: &mut Call<'_, V>,
        caller: Caller<'static, T>,
        params: P,
    ) -> Result<Answer>;
}

/// A closure whose future owns what it uses.
struct Owning<F>(F);

impl<T: 'static, P, R: Ret, F> Waiting<T, P, R> for Owning<F>
where
    F: HostAsyncFn<'static, T, P, R>,
{
    #[inline(always)]
    unsafe fn begin<V: Values>(
        &self,
        call: &mut Call<'_, V>,
        caller: Caller<'static, T>,
        params: P,
    ) -> Result<Answer> {
        let fut = self.0.start(caller, params);
        // SAFETY: the caller's promise.
        unsafe { call.first_poll(fut) }
    }
}

/// A closure that lends its captures to its future.
struct Lending<F>(F);

impl<T: 'static, P, R: Ret, F> Waiting<T, P, R> for Lending<F>
where
    F: AsyncFn(Caller<'_, T>, P) -> R + Send + Sync + 'static,
{
    #[inline(always)]
    unsafe fn begin<V: Values>(
        &self,
        call: &mut Call<'_, V>,
        caller: Caller<'static, T>,
        params: P,
    ) -> Result<Answer> {
        let fut = (self.0)(caller, params);
        // SAFETY: the caller's promise.
        unsafe { call.first_poll(fut) }
    }
}

/// A closure that may wait.
///
/// # Safety
/// `record`, `values` and `slots` are those of a running call of a host function that this was made for.
#[inline(always)]
unsafe fn async_call<V: Values, T: 'static, P, R, F>(
    record: *mut HostRecord,
    values: V,
    slots: *mut ValRaw,
) -> Answer
where
    P: RawList + 'static,
    R: Ret + 'static,
    F: Waiting<T, P, R>,
{
    shim!(record, values, slots, |call| {
        // SAFETY: `HostFunc::waiting` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() };
        let params = call.read::<P>();
        // SAFETY: as in `sync_call`; the future is dropped before the call ends, and with it the caller.
        let caller = unsafe { Caller::of_record(record) };
        // SAFETY: the shim's own call, of this signature.
        unsafe { f.begin(&mut call, caller, params) }
    })
}

unsafe extern "C" fn async_shim<T: 'static, P, R, F>(record: *mut HostRecord, slots: *mut ValRaw) -> u64
where
    P: RawList + 'static,
    R: Ret + 'static,
    F: Waiting<T, P, R>,
{
    // SAFETY: the swap passes the record and the slots of a running call.
    unsafe { async_call::<_, T, P, R, F>(record, InSlots(slots), slots) }.word
}

unsafe extern "C" fn async_register_shim<T: 'static, P, R, F>(
    record: *mut HostRecord,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    slots: *mut ValRaw,
) -> Answer
where
    P: RawList + 'static,
    R: Ret + 'static,
    F: Waiting<T, P, R>,
{
    // SAFETY: as above, with the values in registers.
    unsafe { async_call::<_, T, P, R, F>(record, InRegisters([a, b, c, d]), slots) }
}

/// Reads parameters by a signature known at run time, and makes room for the results.
fn read_vals(call: &mut Call<'_, InSlots>) -> Result<(Vec<Val>, Vec<Val>)> {
    let func = call.func;
    let params = func.ty.params();
    // SAFETY: an import trampoline has a slot for each parameter.
    let slots = unsafe { slice::from_raw_parts(call.slots, params.len()) };
    let store = call.store();
    let params = params.iter().zip(slots);
    let params = params.map(|(ty, raw)| Ok(Val::from_raw(*raw, *ty, store)));
    let results = func.ty.results().iter().map(|ty| Val::placeholder_for(*ty));
    Ok((
        room::collect(params, "a host function's parameters")?,
        room::collect(results, "a host function's results")?,
    ))
}

unsafe extern "C" fn vals_shim<T: 'static, F: HostValsFn<T>>(
    record: *mut HostRecord,
    slots: *mut ValRaw,
) -> u64 {
    let answer = shim!(record, InSlots(slots), slots, |call| {
        // SAFETY: `HostFunc::vals` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() };
        let (params, mut results) = read_vals(&mut call)?;
        // SAFETY: as in `sync_call`.
        let caller = unsafe { Caller::of_record(record) };
        let returned = f(caller, &params, &mut results);
        call.back();
        returned?;
        let func = call.func;
        // SAFETY: an import trampoline has a slot for each result.
        let slots = unsafe { slice::from_raw_parts_mut(call.slots, results.len()) };
        write_vals(func.ty.results(), &results, call.store(), slots)?;
        Ok(Answer::of(DONE))
    });
    answer.word
}

/// Writes results by a signature known at run time.
fn write_vals(
    types: &[selvedge_compiler::ValType],
    values: &[Val],
    store: &StoreVm,
    slots: &mut [ValRaw],
) -> Result<()> {
    for ((ty, value), slot) in types.iter().zip(values).zip(slots) {
        *slot = value.to_raw(*ty, store)?;
    }
    Ok(())
}

unsafe extern "C" fn vals_async_shim<T: 'static, F>(record: *mut HostRecord, slots: *mut ValRaw) -> u64
where
    F: for<'a> HostValsAsyncFn<'a, T>,
{
    let answer = shim!(record, InSlots(slots), slots, |call| {
        // SAFETY: `HostFunc::vals_wait` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() }.clone();
        let (params, mut results) = read_vals(&mut call)?;
        // SAFETY: as in `async_call`.
        let caller = unsafe { Caller::<'static, T>::of_record(record) };
        let (func, vm, slots) = (call.func, call.vm, call.slots);
        let fut = async move {
            f.start(caller, &params, &mut results).await?;
            // SAFETY: an import trampoline has a slot for each result; the call is parked until this future is done.
            let slots = unsafe { slice::from_raw_parts_mut(slots, results.len()) };
            // SAFETY: the user's future is done, so nobody else uses the store.
            write_vals(func.ty.results(), &results, unsafe { &*vm }, slots)
        };
        // SAFETY: the shim's own call; the future writes the slots itself and yields no values.
        unsafe { call.first_poll(fut) }
    });
    answer.word
}
