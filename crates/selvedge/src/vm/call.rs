//! Calls with typed values: on the host's stack for a sync call, on the guest's for a future.

use super::activation::{self, Activation, Args};
use super::block::StoreContextMut;
use super::deadline::Watched;
use super::few;
use super::interrupt::index_of;
use super::store::StoreVm;
use super::trap;
use super::vmctx::{VMFuncRef, ValRaw};
use crate::backtrace::WasmBacktrace;
use crate::error::{Error, Result};
use crate::room;
use crate::value::{RawList, Val};
use crate::vm::fuel::FuelPolicy;
use selvedge_compiler::layout::{MAX_REGISTERS, is_few_integers};
use selvedge_compiler::{FuncType, ValType};
use std::fmt;
use std::future::Future;
use std::iter;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::ptr::NonNull;
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

/// Whether a function of these types is one of few integers.
const fn are_few<P: RawList, R: RawList>() -> bool {
    is_few_integers(P::TYPES, R::TYPES)
}

/// The arguments of a function of few integers, as bits.
#[inline(always)]
fn few_values<P: RawList>(vm: &StoreVm, params: P) -> Result<[u64; MAX_REGISTERS]> {
    let mut slots = [ValRaw::ZERO; MAX_REGISTERS];
    params.to_slots(vm, &mut slots[..P::TYPES.len()])?;
    Ok(slots.map(ValRaw::u64))
}

/// The result of a function of few integers, if it has one.
#[inline(always)]
fn few_result<R: RawList>(vm: &mut StoreVm, bits: u64) -> R {
    R::from_slots(&[ValRaw::from_u64(bits)][..R::TYPES.len()], vm)
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
    match owner.is_null() && vm.fuel.policy() != FuelPolicy::Trap {
        true => Err(cannot_yield()),
        false => Ok(()),
    }
}

#[cold]
#[inline(never)]
fn cannot_yield() -> Error {
    Error::msg(
        "the store's fuel policy is to yield, which a synchronous `call` cannot: use `call_async` (or `instantiate_async`), or FuelPolicy::Trap",
    )
}

impl<T> StoreContextMut<'_, T> {
    /// Calls a function with typed values and waits for it.
    #[inline(always)]
    pub(crate) fn call_typed<P: RawList, R: RawList>(
        &mut self,
        target: Target<P, R>,
        params: P,
    ) -> Result<R> {
        let (vm, owner) = self.raw();
        if const { are_few::<P, R>() }
            && owner.is_null()
            // SAFETY: the context holds the store; who is ready holds no reference.
            && let Some(ready) = few::Ready::new(unsafe { &*vm })
        {
            // SAFETY: as above; the reference ends with the statement.
            let values = few_values(unsafe { &*vm }, params)?;
            // SAFETY: the store is ready; the types were compared when the target was made, and are few integers.
            let result = unsafe { ready.call(vm, target.func_ref, values)? };
            // SAFETY: the call is over.
            return Ok(few_result(unsafe { &mut *vm }, result));
        }
        self.reborrow().call_out_of_line(target, params)
    }

    /// [`call_typed`](StoreContextMut::call_typed) where something is to be made for the call.
    #[inline(never)]
    fn call_out_of_line<P: RawList, R: RawList>(mut self, target: Target<P, R>, params: P) -> Result<R> {
        let (vm, owner) = self.raw();
        // SAFETY: the context holds the store; the reference ends with the statement.
        if const { are_few::<P, R>() } && few::is_open(unsafe { &*vm }, owner) {
            // SAFETY: as above.
            let values = few_values(unsafe { &*vm }, params)?;
            // SAFETY: the short way is open; the types were compared when the target was made, and are few integers.
            let result = unsafe { few::call_anew(vm, target.func_ref, values)? };
            // SAFETY: the call is over.
            return Ok(few_result(unsafe { &mut *vm }, result));
        }
        self.call_in_slots(target, params)
    }

    /// [`call_typed`](StoreContextMut::call_typed) by way of slots.
    fn call_in_slots<P: RawList, R: RawList>(mut self, target: Target<P, R>, params: P) -> Result<R> {
        let (vm, owner) = self.raw();
        let mut slots = [const { MaybeUninit::<ValRaw>::uninit() }; MAX_TYPED];
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
            many = room::collect(iter::repeat_n(ValRaw::ZERO, count).map(Ok), "a call's values")?;
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
    #[inline]
    pub(crate) fn start_typed<P: RawList, R: RawList>(
        &mut self,
        target: Result<Target<P, R>>,
        params: P,
    ) -> Started {
        let slots = P::TYPES.len().max(R::TYPES.len());
        let is_few = const { are_few::<P, R>() };
        self.start(
            target.map(|target| target.func_ref),
            slots,
            is_few,
            |vm, slots| params.to_slots(vm, slots),
        )
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
        self.start(func, slots, false, |vm, slots| {
            write_params(&ty, params, vm, slots)
        })
    }

    #[inline]
    fn start(
        &mut self,
        func: Result<NonNull<VMFuncRef>>,
        slots: usize,
        is_few: bool,
        write: impl FnOnce(&StoreVm, &mut [ValRaw]) -> Result<()>,
    ) -> Started {
        let (vm, owner) = self.raw();
        let entered = func.and_then(|func| {
            // SAFETY: the context holds the store.
            let args = match is_few && !unsafe { &*vm }.engine.fuel() {
                true => Args::Few(slots.max(1)),
                false => Args::Own(slots.max(1)),
            };
            // SAFETY: as above; the record is the store's.
            let act = unsafe { activation::push(vm, owner, func, args, true)? };
            // SAFETY: just made.
            let args = unsafe { Activation::args(act) };
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
            Ok(act) => Started(act.cast()),
            Err(error) => {
                // SAFETY: the context holds the store; a field.
                unsafe { (*vm).entry_error = Some(error) };
                Started(mark(vm, FAILED))
            }
        }
    }
}

/// An async call as it was entered, in one word: its activation; or its store, marked as [`FAILED`] or [`OVER`].
///
/// One word is moved in a register. Of several, written one by one and read as a whole by who moves them, the reader would wait for
/// the stores to reach the cache, which took a tenth of the time of a call.
pub(crate) struct Started(*mut u8);

/// The call was not entered: the store's `entry_error` says why.
const FAILED: usize = 2;
/// The call has ended, and its end was told.
const OVER: usize = 1;

/// The store as a state. Stores and activations are aligned to more than the marks.
fn mark(vm: *mut StoreVm, mark: usize) -> *mut u8 {
    vm.cast::<u8>().wrapping_add(mark)
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
    /// As in [`Started`].
    state: *mut u8,
    _store: PhantomData<&'s mut StoreVm>,
}

impl Leave<'_> {
    #[inline(always)]
    fn new(started: Started) -> Self {
        Leave {
            state: started.0,
            _store: PhantomData,
        }
    }

    #[inline(always)]
    fn has_ended(&self) -> bool {
        self.state.addr() & (FAILED | OVER) != 0
    }

    /// The activation, if it has not ended.
    #[inline(always)]
    fn act(&self) -> Option<*mut Activation> {
        (!self.has_ended()).then_some(self.state.cast())
    }

    #[inline(always)]
    fn vm(&self) -> *mut StoreVm {
        match self.act() {
            // SAFETY: it has not ended.
            Some(act) => unsafe { Activation::store_of(act) },
            None => self
                .state
                .wrapping_sub(self.state.addr() & (FAILED | OVER))
                .cast(),
        }
    }

    fn backtrace(&self) -> WasmBacktrace {
        if self.has_ended() {
            return WasmBacktrace::new(Vec::new(), 0);
        }
        // SAFETY: `'s` keeps the store for us, and nothing of it runs while the future is not polled.
        trap::backtrace(unsafe { &*self.vm() })
    }

    fn fuel(&self) -> u64 {
        // SAFETY: as above.
        unsafe { &*self.vm() }.fuel_left()
    }

    /// The call as others may stop it. None when there is none to stop.
    fn watch(&mut self) -> Result<Option<Watched>> {
        let Some(act) = self.act() else {
            return Ok(None);
        };
        // SAFETY: it has not ended.
        let index = unsafe { index_of(act) };
        // SAFETY: `'s` keeps the store for us alone, and nothing of it runs but the host function that made this call, if one did.
        let store = unsafe { &mut *self.vm() };
        Ok(Some((store.watch(index > 0)?, index)))
    }

    /// Why the call was not entered.
    ///
    /// # Panics
    /// It was, or that was told before.
    #[cold]
    fn entry_error(&mut self) -> Error {
        let vm = self.vm();
        let is_told = self.state != mark(vm, FAILED);
        self.state = mark(vm, OVER);
        // SAFETY: `'s` keeps the store for us alone; a field.
        let error = unsafe { (*vm).entry_error.take() };
        error
            .filter(|_| !is_told)
            .expect("a call's future was polled after it was ready")
    }

    /// Polls the activation; when it has ended, reads its result slots first.
    #[inline(always)]
    fn poll<O>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&[ValRaw], &mut StoreVm) -> O,
        results: usize,
    ) -> Poll<Result<O>> {
        let Some(act) = self.act() else {
            return Poll::Ready(Err(self.entry_error()));
        };
        let vm = self.vm();
        // `poll` has popped the activation when it answers an error or panics: nothing to leave then.
        self.state = mark(vm, OVER);
        // SAFETY: an activation that has not ended, made for an async call; `'s` keeps the store for us alone.
        match unsafe { activation::poll(vm, act, cx) } {
            Poll::Pending => {
                self.state = act.cast();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                // SAFETY: it has returned and was not popped.
                let args = unsafe { Activation::args(act) };
                // SAFETY: as above: its slots hold the results.
                let slots = unsafe { slice::from_raw_parts(args, results) };
                // SAFETY: nothing runs.
                let output = read(slots, unsafe { &mut *vm });
                // SAFETY: it has not ended, and nothing above it is in use.
                unsafe { activation::pop(vm, act) };
                Poll::Ready(Ok(output))
            }
        }
    }
}

impl Drop for Leave<'_> {
    #[inline]
    fn drop(&mut self) {
        let vm = self.vm();
        if let Some(act) = self.act() {
            // SAFETY: it has not ended; the future that owns this is gone, so nothing above it is in use.
            unsafe { activation::leave(vm, act) };
        } else if self.state == mark(vm, FAILED) {
            drop(self.entry_error());
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
    _store: PhantomData<&'s mut T>,
    _results: PhantomData<fn() -> R>,
}

// SAFETY: it stands for `&mut Store<T>`, which is `Send` when `T` is (see `Store`); results are made when it is ready.
unsafe impl<T: Send, R> Send for CallFuture<'_, T, R> {}

impl<'s, T, R> CallFuture<'s, T, R> {
    pub(crate) fn new(started: Started) -> CallFuture<'s, T, R> {
        CallFuture {
            leave: Leave::new(started),
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

impl<T, R> fmt::Debug for CallFuture<'_, T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").finish_non_exhaustive()
    }
}

impl<T, R> Unpin for CallFuture<'_, T, R> {}

impl<T, R: RawList> Future for CallFuture<'_, T, R> {
    type Output = Result<R>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R>> {
        self.leave.poll(cx, R::from_slots, R::TYPES.len())
    }
}

/// As [`CallFuture`], for a call over slices of values.
#[must_use = "a guest call runs only when its future is polled"]
pub struct CallValsFuture<'s, T> {
    leave: Leave<'s>,
    ty: FuncType,
    results: &'s mut [Val],
    _store: PhantomData<&'s mut T>,
}

// SAFETY: as for `CallFuture`.
unsafe impl<T: Send> Send for CallValsFuture<'_, T> {}

impl<'s, T> CallValsFuture<'s, T> {
    pub(crate) fn new(started: Started, ty: FuncType, results: &'s mut [Val]) -> CallValsFuture<'s, T> {
        CallValsFuture {
            leave: Leave::new(started),
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

impl<T> fmt::Debug for CallValsFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallValsFuture").finish_non_exhaustive()
    }
}

impl<T> Unpin for CallValsFuture<'_, T> {}

impl<T> Future for CallValsFuture<'_, T> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        let (ty, results) = (&this.ty, &mut *this.results);
        let count = ty.results().len();
        this.leave
            .poll(cx, |slots, vm| read_results(ty, slots, vm, results), count)
    }
}
