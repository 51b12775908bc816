//! Stores: the owner of everything of one guest, and the ways to lend it.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::host_fn::FuelAsyncFn;
pub use crate::vm::block::{AsContext, AsContextMut, Caller, Store, StoreContext, StoreContextMut};
pub use crate::vm::fuel::FuelPolicy;
use crate::vm::host::HostFunc;
pub use crate::vm::interrupt::InterruptHandle;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A store of an engine with the default settings: [`Store::engine`] has it, for modules and linkers.
impl<T: Default> Default for Store<T> {
    /// # Panics
    /// As [`Engine::default`].
    fn default() -> Store<T> {
        Store::new(&Engine::default(), T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug("Store", self.data(), f)
    }
}

impl<T: fmt::Debug> fmt::Debug for StoreContext<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug("StoreContext", self.data(), f)
    }
}

impl<T: fmt::Debug> fmt::Debug for StoreContextMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug("StoreContextMut", self.data(), f)
    }
}

impl<T: fmt::Debug> fmt::Debug for Caller<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug("Caller", self.data(), f)
    }
}

/// What lends a store, as the host's data.
fn debug(name: &str, data: &impl fmt::Debug, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.debug_struct(name).field("data", data).finish_non_exhaustive()
}

/// So that functions may ask for `impl Into<StoreContext<'a, T>>`.
impl<'a, C: AsContext> From<&'a C> for StoreContext<'a, C::Data> {
    fn from(store: &'a C) -> StoreContext<'a, C::Data> {
        store.as_context()
    }
}

impl<'a, C: AsContext> From<&'a mut C> for StoreContext<'a, C::Data> {
    fn from(store: &'a mut C) -> StoreContext<'a, C::Data> {
        C::as_context(store)
    }
}

/// So that functions may ask for `impl Into<StoreContextMut<'a, T>>`.
impl<'a, C: AsContextMut> From<&'a mut C> for StoreContextMut<'a, C::Data> {
    fn from(store: &'a mut C) -> StoreContextMut<'a, C::Data> {
        store.as_context_mut()
    }
}

impl<'a, T> From<Caller<'a, T>> for StoreContextMut<'a, T> {
    fn from(caller: Caller<'a, T>) -> StoreContextMut<'a, T> {
        caller.into_context()
    }
}

impl<T> Store<T> {
    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.as_context().into_vm().engine
    }

    /// The host's data.
    pub fn data(&self) -> &T {
        self.as_context().data()
    }

    /// The host's data, to change.
    pub fn data_mut(&mut self) -> &mut T {
        self.as_context_mut().into_parts().1
    }

    /// Sets whether the store keeps its guest stack between calls: see [`Config::keep_stacks`](crate::Config::keep_stacks). A store
    /// that is told not to gives back at once what it has kept.
    pub fn keep_stack(&mut self, keep: bool) {
        self.as_context_mut().vm_mut().set_keep_stack(keep);
    }

    /// Sets the fuel left, in units: about one a guest operator.
    ///
    /// # Errors
    /// An engine without [`Config::fuel`](crate::Config::fuel).
    pub fn set_fuel(&mut self, units: u64) -> Result<()> {
        self.as_context_mut().set_fuel(units)
    }

    /// The fuel left, in units. Costs a few loads. Exact whenever the host looks: after a trap, in a host function, at a yield.
    ///
    /// # Errors
    /// As for [`set_fuel`](Store::set_fuel).
    pub fn get_fuel(&self) -> Result<u64> {
        self.as_context().get_fuel()
    }

    /// Sets what happens when fuel is used up. Default: [`FuelPolicy::Trap`].
    ///
    /// # Errors
    /// As for [`set_fuel`](Store::set_fuel).
    #[doc(alias = "fuel_async_yield_interval")]
    pub fn set_fuel_policy(&mut self, policy: FuelPolicy) -> Result<()> {
        self.as_context_mut().set_fuel_policy(policy)
    }

    /// Sets what is asked when all fuel is used up, before the guest traps: it answers how many units to go on with, or
    /// ends the call with an error. No units at all are [`Trap::OutOfFuel`](crate::Trap::OutOfFuel). It runs on the host's stack, as a host
    /// function does, and may use the store like one.
    ///
    /// ```
    /// # use selvedge::{Config, Engine, Instance, Module, Store};
    /// # let engine = Engine::new(Config::new().fuel(true))?;
    /// # let module = Module::new(&engine, "(module (func (export \"f\") (loop (br 0))))")?;
    /// let mut store = Store::new(&engine, 3); // how often it may go on
    /// store.on_fuel_zero(|mut caller| {
    ///     *caller.data_mut() -= 1;
    ///     Ok(if *caller.data() > 0 { 10_000 } else { 0 })
    /// })?;
    /// # let instance = Instance::new(&mut store, &module, &[])?;
    /// let error = instance.call::<(), ()>(&mut store, "f", ()).unwrap_err();
    /// assert_eq!(error.downcast_ref(), Some(&selvedge::Trap::OutOfFuel));
    /// assert_eq!(*store.data(), 0);
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`set_fuel`](Store::set_fuel).
    #[doc(alias = "epoch_deadline_callback")]
    pub fn on_fuel_zero<F>(&mut self, f: F) -> Result<()>
    where
        T: 'static,
        F: Fn(Caller<'_, T>) -> Result<u64> + Send + Sync + 'static,
    {
        let mut context = self.as_context_mut();
        check_metered(context.engine())?;
        let func = HostFunc::sync::<T, _, _, _>(f, Some(ON_FUEL_ZERO.to_owned()));
        context.vm_mut().set_on_fuel_zero(func);
        Ok(())
    }

    /// As [`on_fuel_zero`](Store::on_fuel_zero), from an `async` closure that may wait before it answers: for more fuel to be
    /// bought, or just for its turn. An embedder with rules of its own for taking turns gives a guest little fuel, and here awaits
    /// what the executor offers for yielding. Under a sync `call` it must be ready at once.
    ///
    /// ```
    /// # use selvedge::{Config, Engine, Store};
    /// # let engine = Engine::new(Config::new().fuel(true))?;
    /// # async fn yield_now() {}
    /// let mut store = Store::new(&engine, ());
    /// store.set_fuel(10_000)?;
    /// store.on_fuel_zero_async(async |_caller| {
    ///     yield_now().await; // the executor's
    ///     Ok(10_000)
    /// })?;
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`set_fuel`](Store::set_fuel).
    pub fn on_fuel_zero_async<F>(&mut self, f: F) -> Result<()>
    where
        T: 'static,
        F: AsyncFn(Caller<'_, T>) -> Result<u64>,
        F: for<'a> FuelAsyncFn<'a, T>,
    {
        let mut context = self.as_context_mut();
        check_metered(context.engine())?;
        let f = move |caller: Caller<'static, T>, (): ()| f.start(caller);
        let func = HostFunc::wait::<T, (), Result<u64>, _>(f, Some(ON_FUEL_ZERO.to_owned()));
        context.vm_mut().set_on_fuel_zero(func);
        Ok(())
    }

    /// A handle that stops this store's guest from any thread: see [`InterruptHandle::interrupt`].
    ///
    /// An engine without fuel stops a guest by a signal, SIGURG, to the thread it runs on: compiled code has no checks for it
    /// and costs nothing. With fuel the guest stops at a fuel check, so that what it spent is exact. Either stops where a host function or
    /// a bulk operation returns as well, and within a long bulk operation, which is paid for as a whole.
    ///
    /// Until the guest has stopped, the signal is sent again each millisecond. A host function that blocks on that thread may see it: system
    /// calls that the kernel does not restart (sleeps, `poll`, `epoll_wait`, reads with a timeout: signal(7)) end with `EINTR`.
    ///
    /// # Errors
    /// No handler can be installed for the signal, or no thread be started that sends it again.
    #[doc(alias = "set_epoch_deadline")]
    #[doc(alias = "increment_epoch")]
    pub fn interrupt_handle(&mut self) -> Result<InterruptHandle> {
        self.as_context_mut().interrupt_handle()
    }
}

/// What errors call the function of [`Store::on_fuel_zero`].
const ON_FUEL_ZERO: &str = "on_fuel_zero";

fn check_metered(engine: &Engine) -> Result<()> {
    if engine.fuel() {
        return Ok(());
    }
    Err(Error::msg(
        "fuel is not on in this engine: set `Config::fuel(true)` before making it",
    ))
}

impl<T> StoreContext<'_, T> {
    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.vm().engine
    }

    /// The fuel left: see [`Store::get_fuel`].
    ///
    /// # Errors
    /// As for [`Store::set_fuel`].
    pub fn get_fuel(&self) -> Result<u64> {
        check_metered(&self.vm().engine)?;
        Ok(self.vm().fuel_left())
    }
}

impl<T> StoreContextMut<'_, T> {
    /// Sets the fuel left: see [`Store::set_fuel`].
    ///
    /// # Errors
    /// As for [`Store::set_fuel`].
    pub fn set_fuel(&mut self, units: u64) -> Result<()> {
        check_metered(self.engine())?;
        self.vm_mut().refuel(units);
        Ok(())
    }

    /// The fuel left: see [`Store::get_fuel`].
    ///
    /// # Errors
    /// As for [`Store::set_fuel`].
    pub fn get_fuel(&self) -> Result<u64> {
        self.as_context().get_fuel()
    }

    /// Sets what happens when fuel is used up: see [`Store::set_fuel_policy`].
    ///
    /// # Errors
    /// As for [`Store::set_fuel`].
    pub fn set_fuel_policy(&mut self, policy: FuelPolicy) -> Result<()> {
        check_metered(self.engine())?;
        self.vm_mut().set_fuel_policy(policy);
        Ok(())
    }

    /// A handle that stops the guest: see [`Store::interrupt_handle`].
    ///
    /// # Errors
    /// As there.
    pub fn interrupt_handle(&mut self) -> Result<InterruptHandle> {
        let runs = self.is_in_host_function();
        Ok(InterruptHandle::new(self.vm_mut().watch(runs)?))
    }
}

impl<T> Caller<'_, T> {
    /// The fuel left: see [`Store::get_fuel`].
    ///
    /// # Errors
    /// As for [`Store::set_fuel`].
    pub fn get_fuel(&self) -> Result<u64> {
        self.as_context().get_fuel()
    }

    /// Sets the fuel left; the guest goes on with it.
    ///
    /// # Errors
    /// As for [`Store::set_fuel`].
    pub fn set_fuel(&mut self, units: u64) -> Result<()> {
        self.as_context_mut().set_fuel(units)
    }

    /// Sets what happens when fuel is used up: see [`Store::set_fuel_policy`]. The guest that called goes by it when it goes on.
    ///
    /// # Errors
    /// As for [`Store::set_fuel`].
    pub fn set_fuel_policy(&mut self, policy: FuelPolicy) -> Result<()> {
        self.as_context_mut().set_fuel_policy(policy)
    }

    /// A handle that stops the guest: see [`Store::interrupt_handle`].
    ///
    /// # Errors
    /// As there.
    pub fn interrupt_handle(&mut self) -> Result<InterruptHandle> {
        self.as_context_mut().interrupt_handle()
    }
}

/// Data that stays on its thread: a `Store<Local<T>>` is never `Send`, so its futures need not be either, and the
/// `async` closures of a [`Linker<Local<T>>`](crate::Linker::func_wrap_async_local) may lend what they capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local<T> {
    value: T,
    _not_send: PhantomData<*mut ()>,
}

impl<T> Local<T> {
    /// Wraps `value`.
    pub fn new(value: T) -> Local<T> {
        Local {
            value,
            _not_send: PhantomData,
        }
    }

    /// The value again.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Local<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Local<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
