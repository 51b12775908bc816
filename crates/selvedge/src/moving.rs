//! Wasmtime's names for what is called otherwise here: they work, and the compiler's warning says the name that documentation knows. So a program
//! that moves compiles early, and is renamed a warning at a time.
//!
//! Only what means exactly the same is here. What would be silently another thing is not, such as deadlines by epochs.

use crate::backtrace::FrameInfo;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::limits::StoreLimitsBuilder;
use crate::store::{AsContextMut, Caller, FuelPolicy, Store, StoreContextMut};
use crate::trap::Trap;
use crate::value::{Val, WasmTyList};
use selvedge_compiler::OptLevel;
use std::num::NonZeroU64;

#[doc(hidden)]
impl Config {
    #[deprecated(since = "0.1.0", note = "named `fuel` here")]
    pub fn consume_fuel(&mut self, on: bool) -> &mut Config {
        self.fuel(on)
    }

    #[deprecated(since = "0.1.0", note = "named `stack_bytes` here")]
    pub fn max_wasm_stack(&mut self, bytes: usize) -> &mut Config {
        self.stack_bytes(bytes)
    }

    #[deprecated(
        since = "0.1.0",
        note = "not needed: guests have stacks of `stack_bytes`, and host functions run on the thread's"
    )]
    pub fn async_stack_size(&mut self, _: usize) -> &mut Config {
        self
    }

    #[deprecated(since = "0.1.0", note = "not needed: every engine has both kinds of calls")]
    pub fn async_support(&mut self, _: bool) -> &mut Config {
        self
    }

    #[deprecated(since = "0.1.0", note = "named `opt_level` here")]
    pub fn cranelift_opt_level(&mut self, level: OptLevel) -> &mut Config {
        self.opt_level(level)
    }

    #[deprecated(since = "0.1.0", note = "named `canonical_nans` here")]
    pub fn cranelift_nan_canonicalization(&mut self, on: bool) -> &mut Config {
        self.canonical_nans(on)
    }
}

#[doc(hidden)]
impl Instance {
    #[deprecated(since = "0.1.0", note = "named `typed` here")]
    pub fn get_typed_func<P: WasmTyList, R: WasmTyList>(
        &self,
        store: impl AsContextMut,
        name: &str,
    ) -> Result<crate::TypedFunc<P, R>> {
        self.typed(store, name)
    }
}

/// The policy that goes on after so many units.
fn policy(interval: Option<u64>) -> Result<FuelPolicy> {
    let Some(units) = interval else {
        return Ok(FuelPolicy::Trap);
    };
    let every =
        NonZeroU64::new(units).ok_or_else(|| Error::msg("a guest cannot yield every 0 units of fuel"))?;
    Ok(FuelPolicy::Yield { every })
}

#[doc(hidden)]
impl<T> Store<T> {
    #[deprecated(since = "0.1.0", note = "named `set_fuel_policy` here")]
    pub fn fuel_async_yield_interval(&mut self, interval: Option<u64>) -> Result<()> {
        self.set_fuel_policy(policy(interval)?)
    }
}

#[doc(hidden)]
impl<T> StoreContextMut<'_, T> {
    #[deprecated(since = "0.1.0", note = "named `set_fuel_policy` here")]
    pub fn fuel_async_yield_interval(&mut self, interval: Option<u64>) -> Result<()> {
        self.set_fuel_policy(policy(interval)?)
    }
}

#[doc(hidden)]
impl<T> Caller<'_, T> {
    #[deprecated(since = "0.1.0", note = "named `set_fuel_policy` here")]
    pub fn fuel_async_yield_interval(&mut self, interval: Option<u64>) -> Result<()> {
        self.set_fuel_policy(policy(interval)?)
    }
}

#[doc(hidden)]
impl StoreLimitsBuilder {
    #[deprecated(since = "0.1.0", note = "named `memory_bytes` here")]
    pub fn memory_size(self, bytes: usize) -> StoreLimitsBuilder {
        self.memory_bytes(bytes as u64)
    }

    #[deprecated(since = "0.1.0", note = "named `fail_on_refusal` here")]
    pub fn trap_on_grow_failure(self, on: bool) -> StoreLimitsBuilder {
        self.fail_on_refusal(on)
    }
}

#[doc(hidden)]
impl Val {
    #[deprecated(since = "0.1.0", note = "`Val::FuncRef(None)` here")]
    pub const fn null_func_ref() -> Val {
        Val::FuncRef(None)
    }

    #[deprecated(since = "0.1.0", note = "`Val::ExternRef(None)` here")]
    pub const fn null_extern_ref() -> Val {
        Val::ExternRef(None)
    }
}

#[doc(hidden)]
impl FrameInfo {
    #[deprecated(since = "0.1.0", note = "named `wasm_offset` here")]
    pub fn module_offset(&self) -> Option<usize> {
        self.wasm_offset()
    }
}

#[doc(hidden)]
#[allow(non_upper_case_globals)]
impl Trap {
    #[deprecated(since = "0.1.0", note = "named `Unreachable` here")]
    pub const UnreachableCodeReached: Trap = Trap::Unreachable;
    #[deprecated(since = "0.1.0", note = "named `UnalignedAtomic` here")]
    pub const HeapMisaligned: Trap = Trap::UnalignedAtomic;
    #[deprecated(since = "0.1.0", note = "named `ExpectedSharedMemory` here")]
    pub const AtomicWaitNonSharedMemory: Trap = Trap::ExpectedSharedMemory;
}
