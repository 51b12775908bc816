//! Stores: the owner of everything of one guest, and the ways to lend it.

use crate::engine::Engine;
use crate::error::{Error, Result};
pub use crate::vm::block::{AsContext, AsContextMut, Caller, Store, StoreContext, StoreContextMut};
pub use crate::vm::fuel::FuelPolicy;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

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

    /// Sets the fuel left, in units: about one a guest operator.
    ///
    /// # Errors
    /// An engine without [`Config::fuel`](crate::Config::fuel).
    pub fn set_fuel(&mut self, units: u64) -> Result<()> {
        self.as_context_mut().set_fuel(units)
    }

    /// The fuel left, in units. Exact whenever the host looks: after a trap, in a host function, at a yield.
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
    pub fn set_fuel_policy(&mut self, policy: FuelPolicy) -> Result<()> {
        let mut context = self.as_context_mut();
        check_metered(context.engine())?;
        context.vm_mut().set_fuel_policy(policy);
        Ok(())
    }
}

fn check_metered(engine: &Engine) -> Result<()> {
    if engine.fuel() {
        return Ok(());
    }
    Err(Error::msg(
        "fuel is not on in this engine: set `Config::fuel(true)` before making it",
    ))
}

impl<T> StoreContext<'_, T> {
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
