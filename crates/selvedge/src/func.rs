//! Functions, of guests and of the host: [`Func`] untyped, [`TypedFunc`] with the types checked once.

use crate::error::Result;
use crate::host_fn::{HostAsyncFn, HostFn, HostValsAsyncFn, HostValsFn};
use crate::store::{AsContext, AsContextMut, Caller, StoreContextMut};
use crate::value::{Val, WasmRet, WasmTyList};
use crate::vm::call::{CallFuture, CallValsFuture, Target};
use crate::vm::host::HostFunc;
use crate::vm::store::{FuncEntry, NO_HANDLE, StoreVm};
use crate::vm::vmctx::VMFuncRef;
use selvedge_compiler::FuncType;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

/// A function of a store. A copyable handle: the store it belongs to, and a number in it.
///
/// ```
/// # use selvedge::{Caller, Func, FuncType, Store, Val, ValType};
/// # let mut store = Store::<()>::default();
/// let ty = FuncType::new([ValType::I32; 2], [ValType::I32]);
/// let sum = Func::new(&mut store, ty, |_: Caller<'_, ()>, values, results| {
///     results[0] = Val::I32(values.iter().map(Val::unwrap_i32).sum());
///     Ok(())
/// })?;
/// let mut results = [Val::I32(0)];
/// sum.call(&mut store, &[Val::I32(40), Val::I32(2)], &mut results)?;
/// assert_eq!(results[0].i32(), Some(42));
/// // The same, with its types checked once.
/// let sum = sum.typed::<(i32, i32), i32>(&store)?;
/// assert_eq!(sum.call(&mut store, (40, 2))?, 42);
/// # Ok::<(), selvedge::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Func {
    store: u64,
    index: u32,
}

impl Func {
    pub(crate) fn new_handle(store: u64, index: u32) -> Func {
        Func { store, index }
    }

    fn of_host<T>(mut store: StoreContextMut<'_, T>, func: HostFunc) -> Result<Func> {
        let vm = store.vm_mut();
        let index = vm.add_host_func(Arc::new(func))?;
        Ok(Func::new_handle(vm.id, index))
    }

    /// A host function from a closure: see [`HostFn`] for what it may take and return. It lives as long as the store.
    ///
    /// Cost: the first of a signature in an engine compiles its trampolines, 0.09 ms under a lock of the engine's, and 0.6 ms for the first of all; then
    /// three allocations of 200 bytes together. What many stores use is better defined once, in a [`Linker`](crate::Linker), from which instantiating takes it
    /// without any of that.
    ///
    /// # Errors
    /// No room for the trampolines of a new signature.
    pub fn wrap<S, P, R>(mut store: S, f: impl HostFn<S::Data, P, R>) -> Result<Func>
    where
        S: AsContextMut<Data: 'static>,
        P: 'static,
        R: 'static,
    {
        Func::of_host(store.as_context_mut(), HostFunc::sync(f, None))
    }

    /// A host function from an `async` closure: `async |mut caller, (a, b): (i32, i32)| -> Result<i32> { .. }`.
    ///
    /// # Errors
    /// As for [`Func::wrap`].
    pub fn wrap_async<S, F, P, R>(mut store: S, f: F) -> Result<Func>
    where
        S: AsContextMut<Data: 'static>,
        P: WasmTyList + 'static,
        R: WasmRet + 'static,
        F: AsyncFn(Caller<'_, S::Data>, P) -> R,
        F: for<'a> HostAsyncFn<'a, S::Data, P, R>,
    {
        Func::of_host(store.as_context_mut(), HostFunc::wait(f, None))
    }

    /// A host function over slices of values, with a signature known only at run time.
    ///
    /// # Errors
    /// As for [`Func::wrap`]. A call in which `f` writes a result of another type than `ty` says is an error of that call.
    pub fn new<S: AsContextMut<Data: 'static>>(
        mut store: S,
        ty: FuncType,
        f: impl HostValsFn<S::Data> + Fn(Caller<'_, S::Data>, &[Val], &mut [Val]) -> Result<()>,
    ) -> Result<Func> {
        Func::of_host(store.as_context_mut(), HostFunc::vals(ty, f, None))
    }

    /// As [`Func::new`], from an `async` closure.
    ///
    /// # Errors
    /// As for [`Func::new`].
    pub fn new_async<S, F>(mut store: S, ty: FuncType, f: F) -> Result<Func>
    where
        S: AsContextMut<Data: 'static>,
        F: AsyncFn(Caller<'_, S::Data>, &[Val], &mut [Val]) -> Result<()>,
        F: for<'a> HostValsAsyncFn<'a, S::Data>,
    {
        Func::of_host(store.as_context_mut(), HostFunc::vals_wait(ty, f, None))
    }

    /// Whether there was no memory for it.
    pub(crate) fn is_none(&self) -> bool {
        self.index == NO_HANDLE
    }

    #[inline]
    pub(crate) fn entry<'a>(&self, vm: &'a StoreVm) -> Result<&'a FuncEntry> {
        vm.check(self.store, "a function")?;
        let entry = vm.funcs.get(self.index as usize);
        entry.ok_or_else(|| vm.no_handle())
    }

    /// The signature. Cost: counts a reference.
    ///
    /// # Panics
    /// With another store than the function's, or where a guest gave the function and there was no memory for a handle.
    pub fn ty(&self, store: impl AsContext) -> FuncType {
        match self.entry(store.as_context().vm()) {
            Ok(entry) => entry.ty.clone(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Whether its signature is `ty`.
    ///
    /// # Panics
    /// With another store than the function's.
    pub fn matches_ty(&self, store: impl AsContext, ty: &FuncType) -> bool {
        self.ty(store) == *ty
    }

    /// Calls the function and waits for it. Results are written to `results` when it returns.
    ///
    /// Cost: that of [`TypedFunc::call`], and comparing number and types of the values.
    ///
    /// # Errors
    /// A [`Trap`](crate::Trap); a host function's error; arguments or results of another number or type than the
    /// signature's; a host function that would wait.
    ///
    /// # Panics
    /// With the payload of a host function that panicked.
    pub fn call(&self, mut store: impl AsContextMut, params: &[Val], results: &mut [Val]) -> Result<()> {
        let mut context = store.as_context_mut();
        let (func_ref, ty) = self.record(context.vm())?;
        context.call_vals(func_ref, &ty, params, results)
    }

    /// As [`call`](Func::call), as a future that waits when the guest does. Runs nothing before it is polled.
    ///
    /// # Errors
    /// As there, told by the first poll; but a host function may wait.
    ///
    /// # Cancellation
    /// As for [`CallFuture`]; `results` are as they were.
    pub fn call_async<'s, S: AsContextMut>(
        &self,
        store: &'s mut S,
        params: &[Val],
        results: &'s mut [Val],
    ) -> CallValsFuture<'s, S::Data> {
        let mut context = store.as_context_mut();
        let func = self.record(context.vm());
        let ty = func
            .as_ref()
            .map_or_else(|_| FuncType::new([], []), |(_, ty)| ty.clone());
        CallValsFuture::new(context.start_vals(func, params, results), ty, results)
    }

    fn record(&self, vm: &StoreVm) -> Result<(NonNull<VMFuncRef>, FuncType)> {
        let entry = self.entry(vm)?;
        Ok((entry.func_ref, entry.ty.clone()))
    }

    /// The function with its types checked, so that calls need not. Cost: compares the signature.
    ///
    /// # Errors
    /// Other types than the signature's: the message has both.
    pub fn typed<P: WasmTyList, R: WasmTyList>(&self, store: impl AsContext) -> Result<TypedFunc<P, R>> {
        let context = store.as_context();
        let entry = self.entry(context.vm())?;
        Target::<P, R>::check(entry.func_ref, &entry.ty)?;
        Ok(TypedFunc {
            func: *self,
            _types: PhantomData,
        })
    }
}

/// A [`Func`] whose signature is `P` to `R`.
#[derive(Debug)]
pub struct TypedFunc<P, R> {
    func: Func,
    _types: PhantomData<fn(P) -> R>,
}

impl<P, R> Clone for TypedFunc<P, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P, R> Copy for TypedFunc<P, R> {}

impl<P: WasmTyList, R: WasmTyList> TypedFunc<P, R> {
    /// The function without its types.
    pub fn func(&self) -> &Func {
        &self.func
    }

    #[inline(always)]
    fn target(&self, vm: &StoreVm) -> Result<Target<P, R>> {
        Ok(Target::assume(self.func.entry(vm)?.func_ref))
    }

    /// Calls the function and waits for it. Allocates nothing, takes no lock, and switches stacks twice: some 10 ns for an empty function (bench `call`).
    ///
    /// # Errors
    /// As for [`Func::call`].
    ///
    /// # Panics
    /// With the payload of a host function that panicked.
    // Always: a `Result` that comes back through memory costs a third of a call. What is rare in it is out of line.
    #[inline(always)]
    pub fn call(&self, store: &mut impl AsContextMut, params: P) -> Result<R> {
        let mut context = store.as_context_mut();
        let target = self.target(context.vm())?;
        context.call_typed(target, params)
    }

    /// As [`call`](TypedFunc::call), as a future that waits when the guest does. Runs nothing before it is polled; allocates nothing, takes no
    /// lock.
    ///
    /// # Errors
    /// As there, told by the first poll; but a host function may wait.
    ///
    /// # Cancellation
    /// As for [`CallFuture`].
    #[inline]
    pub fn call_async<'s, S: AsContextMut>(&self, store: &'s mut S, params: P) -> CallFuture<'s, S::Data, R> {
        let mut context = store.as_context_mut();
        let target = self.target(context.vm());
        CallFuture::new(context.start_typed(target, params))
    }
}
