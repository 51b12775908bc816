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
use super::vmctx::{HostRecord, ValRaw};
use crate::error::{Error, Result};
use crate::host_fn::{HostAsyncFn, HostFn, HostValsAsyncFn, HostValsFn};
use crate::value::{RawList, Ret, Val};
use selvedge_compiler::FuncType;
use std::alloc::Layout;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::drop_in_place;
use std::slice;
use std::task::{Context, Poll, Waker};

/// How a shim's body ended.
type Outcome = std::thread::Result<Result<u64>>;

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
        unsafe { HostFunc::new(ty, sync_shim::<T, P, R, F>, f, name) }
    }

    /// A host function that may wait.
    pub(crate) fn wait<T: 'static, P, R, F>(f: F, name: Option<String>) -> HostFunc
    where
        P: RawList + 'static,
        R: Ret + 'static,
        F: HostAsyncFn<'static, T, P, R>,
    {
        let ty = signature::<P, R::Values>();
        // SAFETY: as above.
        unsafe { HostFunc::new(ty, async_shim::<T, P, R, F>, f, name) }
    }

    /// A host function that may wait and lends its captures, for data that stays on its thread.
    pub(crate) fn wait_local<T: 'static, P, R, F>(f: F, name: Option<String>) -> HostFunc
    where
        P: RawList + 'static,
        R: Ret + 'static,
        F: AsyncFn(Caller<'_, T>, P) -> R + Send + Sync + 'static,
    {
        let ty = signature::<P, R::Values>();
        // SAFETY: as above.
        unsafe { HostFunc::new(ty, local_shim::<T, P, R, F>, f, name) }
    }

    /// A host function over slices of values.
    pub(crate) fn vals<T: 'static, F: HostValsFn<T>>(ty: FuncType, f: F, name: Option<String>) -> HostFunc {
        // SAFETY: as above; the shim reads the signature from the record's function.
        unsafe { HostFunc::new(ty, vals_shim::<T, F>, f, name) }
    }

    /// A host function over slices of values that may wait.
    pub(crate) fn vals_wait<T: 'static, F>(ty: FuncType, f: F, name: Option<String>) -> HostFunc
    where
        F: for<'a> HostValsAsyncFn<'a, T>,
    {
        // SAFETY: as above.
        unsafe { HostFunc::new(ty, vals_async_shim::<T, F>, f, name) }
    }
}

/// A call of a host function: what every shim needs, taken out of the record.
struct Call<'a> {
    record: *const HostRecord,
    func: &'a HostFunc,
    vm: *mut StoreVm,
    /// The activation whose guest called.
    act: *mut Activation,
    slots: *mut ValRaw,
    /// Where the scope of the references that the host function makes begins.
    roots: usize,
}

impl<'a> Call<'a> {
    /// # Safety
    /// `record` and `slots` are those of a running call of this host function.
    #[inline(always)]
    unsafe fn new(record: *const HostRecord, slots: *mut ValRaw) -> Call<'a> {
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

    /// Reads parameters from the slots.
    #[inline(always)]
    fn read<P: RawList>(&mut self) -> P {
        // SAFETY: an import trampoline has a slot for each parameter.
        let slots = unsafe { slice::from_raw_parts(self.slots, P::TYPES.len()) };
        P::from_slots(slots, self.store())
    }

    /// Writes results to the slots.
    #[inline(always)]
    fn write<R: RawList>(&mut self, values: R) -> Result<()> {
        // SAFETY: an import trampoline has a slot for each result.
        let slots = unsafe { slice::from_raw_parts_mut(self.slots, R::TYPES.len()) };
        values.to_slots(self.store(), slots)
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
    fn settle(mut self, outcome: Outcome) -> u64 {
        match outcome {
            Ok(Ok(SUSPEND)) => SUSPEND,
            Ok(Ok(word)) => {
                let roots = self.roots;
                self.store().roots.truncate(roots);
                word
            }
            Ok(Err(error)) => self.stop(Stop::Error(error)),
            Err(payload) => self.stop(Stop::Panic(payload)),
        }
    }

    #[cold]
    fn stop(&mut self, stop: Stop) -> u64 {
        self.back();
        let (roots, slots) = (self.roots, self.slots);
        let store = self.store();
        store.roots.truncate(roots);
        if let Stop::Error(error) = &stop
            && !store.is_answer(slots)
            && store.is_caught(error)
        {
            return UNWIND;
        }
        store.stop = Some(stop);
        EXIT
    }

    /// Polls a new future once where it will stay.
    ///
    /// # Safety
    /// As for [`Call::new`]; `fut` yields values for this call's signature.
    #[inline(always)]
    unsafe fn first_poll<Fut, R>(&mut self, fut: Fut) -> Result<u64>
    where
        Fut: Future<Output = R>,
        R: Ret,
    {
        let (place, mark) = self.store().arena.push(Layout::new::<Fut>());
        let place = place.cast::<Fut>().as_ptr();
        // SAFETY: `push` made room for a `Fut` here, aligned.
        unsafe { place.write(fut) };
        let guard = Parked {
            vm: self.vm,
            act: self.act,
            future: place,
            mark,
        };
        // SAFETY: the activation has not ended; its context, if any, belongs to the poll that runs it. There is none when the host
        // asks a limiter.
        let (context, is_async) = match unsafe { self.act.as_ref() } {
            Some(activation) => (activation.poll_context, activation.is_async),
            None => (std::ptr::null_mut(), false),
        };
        let mut noop = Context::from_waker(Waker::noop());
        let context = if context.is_null() {
            &mut noop
        } else {
            // SAFETY: as above: set for the time of the poll that we are in.
            unsafe { &mut *context }
        };
        // SAFETY: written above, and nobody else refers to it.
        let future = unsafe { &mut *place };
        // SAFETY: an arena's bytes do not move, and are given back only after the drop.
        let pinned = unsafe { Pin::new_unchecked(future) };
        match pinned.poll(context) {
            Poll::Ready(values) => {
                drop(guard);
                self.back();
                self.write(values.into_values()?)?;
                Ok(DONE)
            }
            Poll::Pending if !is_async => {
                drop(guard);
                Err(would_wait(self.func))
            }
            Poll::Pending => {
                std::mem::forget(guard);
                let pending = Pending {
                    future: place.cast(),
                    vtable: &Later::<Fut>::VTABLE,
                    slots: self.slots,
                    mark,
                    roots: self.roots,
                    grow: None,
                };
                // SAFETY: the activation has not ended.
                unsafe { (*self.act).pending = Some(pending) };
                Ok(SUSPEND)
            }
        }
    }
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
    ($record:ident, $slots:ident, |$call:ident| $body:expr) => {{
        // SAFETY: the swap passes the record and the slots of a running call.
        let mut $call = unsafe { Call::new($record, $slots) };
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<u64> { $body }));
        $call.settle(outcome)
    }};
}

unsafe extern "C" fn sync_shim<T: 'static, P: 'static, R: 'static, F: HostFn<T, P, R>>(
    record: *mut HostRecord,
    slots: *mut ValRaw,
) -> u64 {
    shim!(record, slots, |call| {
        // SAFETY: `HostFunc::sync` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() };
        let params = call.read::<F::Params>();
        // SAFETY: and with stores of `T`; nobody else uses the store while the guest is in here.
        let caller = unsafe { Caller::of_record(record) };
        let results = f.invoke(caller, params);
        call.back();
        call.write(results?)?;
        Ok(DONE)
    })
}

unsafe extern "C" fn async_shim<T: 'static, P, R, F>(record: *mut HostRecord, slots: *mut ValRaw) -> u64
where
    P: RawList + 'static,
    R: Ret + 'static,
    F: HostAsyncFn<'static, T, P, R>,
{
    shim!(record, slots, |call| {
        // SAFETY: `HostFunc::wait` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() };
        let params = call.read::<P>();
        // SAFETY: as in `sync_shim`; the future is dropped before the call ends, and with it the caller.
        let caller = unsafe { Caller::of_record(record) };
        let fut = f.start(caller, params);
        // SAFETY: the shim's own call, of this signature.
        unsafe { call.first_poll(fut) }
    })
}

unsafe extern "C" fn local_shim<T: 'static, P, R, F>(record: *mut HostRecord, slots: *mut ValRaw) -> u64
where
    P: RawList + 'static,
    R: Ret + 'static,
    F: AsyncFn(Caller<'_, T>, P) -> R + Send + Sync + 'static,
{
    shim!(record, slots, |call| {
        // SAFETY: `HostFunc::wait_local` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() };
        let params = call.read::<P>();
        // SAFETY: as in `async_shim`.
        let caller = unsafe { Caller::of_record(record) };
        let fut = f(caller, params);
        // SAFETY: the shim's own call, of this signature.
        unsafe { call.first_poll(fut) }
    })
}

/// Reads parameters by a signature known at run time, and makes room for the results.
fn read_vals(call: &mut Call<'_>) -> Result<(Vec<Val>, Vec<Val>)> {
    let func = call.func;
    let params = func.ty.params();
    // SAFETY: an import trampoline has a slot for each parameter.
    let slots = unsafe { slice::from_raw_parts(call.slots, params.len()) };
    let store = call.store();
    let params = params
        .iter()
        .zip(slots)
        .map(|(ty, raw)| Val::from_raw(*raw, *ty, store))
        .collect();
    let results = func
        .ty
        .results()
        .iter()
        .map(|ty| Val::placeholder_for(*ty))
        .collect::<Result<_>>()?;
    Ok((params, results))
}

unsafe extern "C" fn vals_shim<T: 'static, F: HostValsFn<T>>(
    record: *mut HostRecord,
    slots: *mut ValRaw,
) -> u64 {
    shim!(record, slots, |call| {
        // SAFETY: `HostFunc::vals` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() };
        let (params, mut results) = read_vals(&mut call)?;
        // SAFETY: as in `sync_shim`.
        let caller = unsafe { Caller::of_record(record) };
        let returned = f(caller, &params, &mut results);
        call.back();
        returned?;
        let func = call.func;
        // SAFETY: an import trampoline has a slot for each result.
        let slots = unsafe { slice::from_raw_parts_mut(call.slots, results.len()) };
        write_vals(func.ty.results(), &results, call.store(), slots)?;
        Ok(DONE)
    })
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
    shim!(record, slots, |call| {
        // SAFETY: `HostFunc::vals_wait` pairs this shim with an `F`.
        let f = unsafe { call.closure::<F>() }.clone();
        let (params, mut results) = read_vals(&mut call)?;
        // SAFETY: as in `async_shim`.
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
    })
}
