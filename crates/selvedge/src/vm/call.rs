//! Calls with typed values: on the host's stack for a sync call, on the guest's for a future.

use super::activation::{self, Activation};
use super::block::StoreContextMut;
use super::deadline::Watched;
use super::interrupt::index_of;
use super::store::StoreVm;
use super::trap;
use super::vmctx::{VMFuncRef, ValRaw};
use crate::backtrace::WasmBacktrace;
use crate::error::{Error, Result};
use crate::value::{RawList, Val};
use crate::vm::fuel::FuelPolicy;
use selvedge_compiler::{FuncType, ValType};
use std::future::Future;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::slice;
use std::task::{Context, Poll};

/// The most typed parameters or results.
const MAX_TYPED: usize = 16;

/// A function record whose signature was compared with the types a call uses.
pub(crate) struct Target<P, R> {
    func_ref: NonNull<VMFuncRef>,
    _types: PhantomData<fn(P) -> R>,
}

impl<P: RawList, R: RawList> Target<P, R> {
    /// Compares the types.
    ///
    /// # Errors
    /// A message with both signatures.
    #[inline]
    pub(crate) fn check(func_ref: NonNull<VMFuncRef>, ty: &FuncType) -> Result<Target<P, R>> {
        if !fit(P::TYPES, ty.params()) || !fit(ty.results(), R::TYPES) {
            return Err(mismatch(ty, P::TYPES, R::TYPES));
        }
        Ok(Target::assume(func_ref))
    }

    /// For a record that [`check`](Target::check) has accepted before.
    #[inline(always)]
    pub(crate) fn assume(func_ref: NonNull<VMFuncRef>) -> Target<P, R> {
        Target {
            func_ref,
            _types: PhantomData,
        }
    }
}

/// Whether values of the first types may be used where the second are asked for.
#[inline]
fn fit(have: &[ValType], want: &[ValType]) -> bool {
    have == want || (have.len() == want.len() && have.iter().zip(want).all(|(have, want)| have.matches(want)))
}

#[cold]
fn mismatch(ty: &FuncType, params: &[ValType], results: &[ValType]) -> Error {
    let asked = FuncType::new(params.iter().copied(), results.iter().copied());
    Error::msg(format!("function has type {ty}, but is called as {asked}"))
}

/// A sync call from the store under a policy that yields has nobody to yield to.
#[inline(always)]
fn check_policy(vm: &StoreVm, owner: *mut Activation) -> Result<()> {
    if owner.is_null() && vm.fuel.policy() != FuelPolicy::Trap {
        return Err(Error::msg(
            "the store's fuel policy is to yield, which a synchronous `call` cannot: use `call_async` (or `instantiate_async`), or FuelPolicy::Trap",
        ));
    }
    Ok(())
}

impl<T> StoreContextMut<'_, T> {
    /// Calls a function with typed values and waits for it.
    #[inline(always)]
    pub(crate) fn call_typed<P: RawList, R: RawList>(
        &mut self,
        target: Target<P, R>,
        params: P,
    ) -> Result<R> {
        let mut slots = [const { MaybeUninit::<ValRaw>::uninit() }; MAX_TYPED];
        let (vm, owner) = self.raw();
        {
            // SAFETY: the context holds the store; the reference ends before the call.
            let vm = unsafe { &*vm };
            check_policy(vm, owner)?;
            // SAFETY: `ValRaw`s may hold anything, and only written ones are read; at most MAX_TYPED.
            let slots =
                unsafe { slice::from_raw_parts_mut(slots.as_mut_ptr().cast::<ValRaw>(), P::TYPES.len()) };
            params.to_slots(vm, slots)?;
        }
        // SAFETY: the types were compared when the target was made; MAX_TYPED slots are enough for both sides.
        unsafe { activation::call_sync(vm, owner, target.func_ref, slots.as_mut_ptr().cast())? };
        // SAFETY: the function returned, so the entry trampoline wrote its results.
        let slots = unsafe { slice::from_raw_parts(slots.as_ptr().cast::<ValRaw>(), R::TYPES.len()) };
        // SAFETY: the call is over.
        Ok(R::from_slots(slots, unsafe { &mut *vm }))
    }

    /// Calls a function with values whose types and number fit its signature.
    pub(crate) fn call_vals(
        &mut self,
        func_ref: NonNull<VMFuncRef>,
        ty: &FuncType,
        params: &[Val],
        results: &mut [Val],
    ) -> Result<()> {
        let (vm, owner) = self.raw();
        // SAFETY: the context holds the store; the reference ends with the statement.
        check_policy(unsafe { &*vm }, owner)?;
        let count = ty.params().len().max(ty.results().len());
        let mut few = [ValRaw::ZERO; MAX_TYPED];
        let mut many;
        let slots = if count <= MAX_TYPED {
            &mut few[..count]
        } else {
            many = vec![ValRaw::ZERO; count];
            &mut many[..]
        };
        write_params(ty, params, self.vm(), slots)?;
        check_results(ty, results)?;
        // SAFETY: one slot for each parameter and each result of `func_ref`'s own signature.
        unsafe { self.call_slots(func_ref, slots)? };
        read_results(ty, slots, self.vm_mut(), results);
        Ok(())
    }

    /// Enters a function with typed values; nothing runs before the first poll.
    pub(crate) fn start_typed<P: RawList, R: RawList>(
        &mut self,
        target: Result<Target<P, R>>,
        params: P,
    ) -> Started {
        let slots = P::TYPES.len().max(R::TYPES.len());
        self.start(target.map(|target| target.func_ref), slots, |vm, slots| {
            params.to_slots(vm, slots)
        })
    }

    /// As [`call_vals`](StoreContextMut::call_vals), as a future.
    pub(crate) fn start_vals(
        &mut self,
        func: Result<(NonNull<VMFuncRef>, FuncType)>,
        params: &[Val],
        results: &[Val],
    ) -> Started {
        let (func, ty) = match func {
            Ok((func, ty)) => (Ok(func), ty),
            Err(error) => (Err(error), FuncType::new([], [])),
        };
        let func = func.and_then(|func| check_results(&ty, results).map(|()| func));
        let slots = ty.params().len().max(ty.results().len());
        self.start(func, slots, |vm, slots| write_params(&ty, params, vm, slots))
    }

    fn start(
        &mut self,
        func: Result<NonNull<VMFuncRef>>,
        slots: usize,
        write: impl FnOnce(&StoreVm, &mut [ValRaw]) -> Result<()>,
    ) -> Started {
        let (vm, owner) = self.raw();
        let entered = func.and_then(|func| {
            // At least one slot, so that the activation has a place of its own for them.
            // SAFETY: the context holds the store; the record is the store's.
            let act = unsafe { activation::push(vm, owner, func, ptr::null_mut(), slots.max(1), true)? };
            // SAFETY: just made.
            let args = unsafe { (*act).args };
            for index in 0..slots {
                // SAFETY: `push` reserved this many slots.
                let slot = unsafe { args.add(index) };
                // SAFETY: as above; what an earlier guest left there needs no drop.
                unsafe { slot.write(ValRaw::ZERO) };
            }
            // SAFETY: just initialised.
            let args = unsafe { slice::from_raw_parts_mut(args, slots) };
            // SAFETY: as for `push`.
            match write(unsafe { &*vm }, args) {
                Ok(()) => Ok(act),
                Err(error) => {
                    // SAFETY: just made, never run.
                    unsafe { activation::pop(vm, act) };
                    Err(error)
                }
            }
        });
        match entered {
            Ok(act) => Started { vm, act, error: None },
            Err(error) => Started {
                vm,
                act: ptr::null_mut(),
                error: Some(error),
            },
        }
    }
}

/// An async call as it was entered, or why it was not.
pub(crate) struct Started {
    vm: *mut StoreVm,
    act: *mut Activation,
    error: Option<Error>,
}

fn write_params(ty: &FuncType, params: &[Val], vm: &StoreVm, slots: &mut [ValRaw]) -> Result<()> {
    if params.len() != ty.params().len() {
        let (wanted, given) = (ty.params().len(), params.len());
        return Err(Error::msg(format!(
            "function {ty} takes {wanted} arguments, but {given} were given"
        )));
    }
    for (index, ((param, ty), slot)) in params.iter().zip(ty.params()).zip(slots).enumerate() {
        *slot = param
            .to_raw(*ty, vm)
            .map_err(|error| error.context(format!("argument {index}")))?;
    }
    Ok(())
}

fn check_results(ty: &FuncType, results: &[Val]) -> Result<()> {
    if results.len() != ty.results().len() {
        let (wanted, given) = (ty.results().len(), results.len());
        return Err(Error::msg(format!(
            "function {ty} returns {wanted} results, but there is room for {given}"
        )));
    }
    Ok(())
}

fn read_results(ty: &FuncType, slots: &[ValRaw], vm: &mut StoreVm, results: &mut [Val]) {
    for ((result, ty), slot) in results.iter_mut().zip(ty.results()).zip(slots) {
        *result = Val::from_raw(*slot, *ty, vm);
    }
}

/// An entered activation, which ends when this is dropped. It carries the store's lifetime itself, because it has a
/// destructor: beside a field that has none, the store could be dropped first.
struct Leave<'s> {
    vm: *mut StoreVm,
    /// Null once it has ended.
    act: *mut Activation,
    _store: PhantomData<&'s mut StoreVm>,
}

impl Leave<'_> {
    fn backtrace(&self) -> WasmBacktrace {
        if self.act.is_null() {
            return WasmBacktrace::new(Vec::new(), 0);
        }
        // SAFETY: `'s` keeps the store for us, and nothing of it runs while the future is not polled.
        trap::backtrace(unsafe { &*self.vm })
    }

    fn fuel(&self) -> u64 {
        // SAFETY: as above.
        unsafe { &*self.vm }.fuel_left()
    }

    /// The call as others may stop it. None when there is none to stop.
    fn watch(&mut self) -> Result<Option<Watched>> {
        if self.act.is_null() {
            return Ok(None);
        }
        // SAFETY: it has not ended.
        let index = unsafe { index_of(self.act) };
        // SAFETY: `'s` keeps the store for us alone, and nothing of it runs.
        let store = unsafe { &mut *self.vm };
        Ok(Some((store.watch()?, index)))
    }

    /// Polls the activation; when it has ended, reads its result slots first.
    #[inline]
    fn poll<O>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&[ValRaw], &mut StoreVm) -> O,
        results: usize,
    ) -> Poll<Result<O>> {
        let act = self.act;
        // `poll` has popped the activation when it answers an error or panics: nothing to leave then.
        self.act = ptr::null_mut();
        // SAFETY: an activation that has not ended, made for an async call; `'s` keeps the store for us alone.
        match unsafe { activation::poll(self.vm, act, cx) } {
            Poll::Pending => {
                self.act = act;
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                // SAFETY: it has returned and was not popped.
                let args = unsafe { (*act).args };
                // SAFETY: as above: its slots hold the results.
                let slots = unsafe { slice::from_raw_parts(args, results) };
                // SAFETY: nothing runs.
                let output = read(slots, unsafe { &mut *self.vm });
                // SAFETY: it has not ended, and nothing above it is in use.
                unsafe { activation::pop(self.vm, act) };
                Poll::Ready(Ok(output))
            }
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if !self.act.is_null() {
            // SAFETY: it has not ended; the future that owns this is gone, so nothing above it is in use.
            unsafe { activation::leave(self.vm, self.act) };
        }
    }
}

/// A guest call that may wait: for async host functions, or because fuel yields.
///
/// Nothing runs before it is polled, by any executor. It may be polled on another thread each time. Errors found when the call was made are what the
/// first poll says.
///
/// # Cancellation
/// Dropping it drops the host future that the guest waits for, then cuts the guest's frames off, in constant time: nothing
/// unwinds, no guest code runs. The store stays usable; memories, tables and globals are as the guest left them.
///
/// # Panics
/// When polled after it was ready.
#[must_use = "a guest call runs only when its future is polled"]
pub struct CallFuture<'s, T, R> {
    leave: Leave<'s>,
    error: Option<Error>,
    _store: PhantomData<&'s mut T>,
    _results: PhantomData<fn() -> R>,
}

// SAFETY: it stands for `&mut Store<T>`, which is `Send` when `T` is (see `Store`); results are made when it is ready.
unsafe impl<T: Send, R> Send for CallFuture<'_, T, R> {}

impl<'s, T, R> CallFuture<'s, T, R> {
    pub(crate) fn new(started: Started) -> CallFuture<'s, T, R> {
        CallFuture {
            leave: Leave {
                vm: started.vm,
                act: started.act,
                _store: PhantomData,
            },
            error: started.error,
            _store: PhantomData,
            _results: PhantomData,
        }
    }
}

impl<T, R> CallFuture<'_, T, R> {
    /// The guest frames of the call as it is parked, innermost first, those of nested calls included; none before it has run and
    /// when it is over. Costs a walk of the frames.
    pub fn backtrace(&self) -> WasmBacktrace {
        self.leave.backtrace()
    }

    /// The fuel left, in units: see [`Store::get_fuel`](crate::Store::get_fuel). 0 without fuel.
    pub fn fuel(&self) -> u64 {
        self.leave.fuel()
    }

    pub(crate) fn watch(&mut self) -> Result<Option<Watched>> {
        self.leave.watch()
    }
}

impl<T, R> Unpin for CallFuture<'_, T, R> {}

impl<T, R: RawList> Future for CallFuture<'_, T, R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R>> {
        if self.leave.act.is_null() {
            let error = self.error.take();
            return Poll::Ready(Err(error.expect("a call's future was polled after it was ready")));
        }
        self.leave.poll(cx, R::from_slots, R::TYPES.len())
    }
}

/// As [`CallFuture`], for a call over slices of values.
#[must_use = "a guest call runs only when its future is polled"]
pub struct CallValsFuture<'s, T> {
    leave: Leave<'s>,
    error: Option<Error>,
    ty: FuncType,
    results: &'s mut [Val],
    _store: PhantomData<&'s mut T>,
}

// SAFETY: as for `CallFuture`.
unsafe impl<T: Send> Send for CallValsFuture<'_, T> {}

impl<'s, T> CallValsFuture<'s, T> {
    pub(crate) fn new(started: Started, ty: FuncType, results: &'s mut [Val]) -> CallValsFuture<'s, T> {
        CallValsFuture {
            leave: Leave {
                vm: started.vm,
                act: started.act,
                _store: PhantomData,
            },
            error: started.error,
            ty,
            results,
            _store: PhantomData,
        }
    }
}

impl<T> CallValsFuture<'_, T> {
    /// See [`CallFuture::backtrace`].
    pub fn backtrace(&self) -> WasmBacktrace {
        self.leave.backtrace()
    }

    /// See [`CallFuture::fuel`].
    pub fn fuel(&self) -> u64 {
        self.leave.fuel()
    }

    pub(crate) fn watch(&mut self) -> Result<Option<Watched>> {
        self.leave.watch()
    }
}

impl<T> Unpin for CallValsFuture<'_, T> {}

impl<T> Future for CallValsFuture<'_, T> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        if this.leave.act.is_null() {
            let error = this.error.take();
            return Poll::Ready(Err(error.expect("a call's future was polled after it was ready")));
        }
        let (ty, results) = (&this.ty, &mut *this.results);
        let count = ty.results().len();
        this.leave
            .poll(cx, |slots, vm| read_results(ty, slots, vm, results), count)
    }
}
