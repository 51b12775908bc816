//! A host function as the runtime keeps it: a shim, the closure behind it, its signature and its name.

use super::arch::{self, Values};
use super::vmctx::{HostShim, RegisterShim};
use selvedge_compiler::FuncType;
use selvedge_compiler::layout::is_few_integers;
use std::any::Any;
use std::sync::Arc;

/// A host function, shared by linkers, stores and instances.
pub struct HostFunc {
    /// The signature that the shim reads and writes its slots by.
    pub(crate) ty: FuncType,
    pub(crate) shim: HostShim,
    /// The same for values in registers, where there is one.
    register_shim: Option<RegisterShim>,
    /// Of the type that the shims were made for.
    closure: Arc<dyn Any + Send + Sync>,
    /// `module::name` where it has one, for errors.
    pub(crate) name: Option<Box<str>>,
}

impl HostFunc {
    /// # Safety
    /// The shims may be called with a pointer to an `F` as their record's closure, with the values of `ty`, in stores whose data is
    /// of the type they were made for.
    pub(crate) unsafe fn new<F: Send + Sync + 'static>(
        ty: FuncType,
        shim: HostShim,
        register_shim: Option<RegisterShim>,
        closure: F,
        name: Option<String>,
    ) -> HostFunc {
        HostFunc {
            ty,
            shim,
            register_shim,
            closure: Arc::new(closure),
            name: name.map(String::into_boxed_str),
        }
    }

    /// The closure's address, for [`super::vmctx::HostRecord::closure`].
    pub(crate) fn closure(&self) -> *const () {
        Arc::as_ptr(&self.closure).cast()
    }

    /// How guests pass values to it, and the shim for that.
    pub(crate) fn way(&self) -> (Values, *const u8) {
        match (
            is_few_integers(self.ty.params(), self.ty.results()),
            self.register_shim,
        ) {
            (false, _) => (Values::Slots, self.shim as *const u8),
            (true, Some(shim)) => (Values::Registers, shim as *const u8),
            (true, None) => (Values::Spilled, self.shim as *const u8),
        }
    }

    /// The code that guests call with its record, where that is not its signature's import trampoline.
    pub(crate) fn code(&self, fuel: bool) -> Option<*const u8> {
        arch::import(fuel, self.way().0)
    }

    /// What errors call it.
    pub(crate) fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or("<host function>")
    }
}
