//! A host function as the runtime keeps it: a shim, the closure behind it, its signature and its name.

use super::vmctx::HostShim;
use selvedge_compiler::FuncType;
use std::any::Any;
use std::sync::Arc;

/// A host function, shared by linkers, stores and instances.
pub struct HostFunc {
    /// The signature that the shim reads and writes its slots by.
    pub(crate) ty: FuncType,
    pub(crate) shim: HostShim,
    /// Of the type that `shim` was made for.
    closure: Arc<dyn Any + Send + Sync>,
    /// `module::name` where it has one, for errors.
    pub(crate) name: Option<Box<str>>,
}

impl HostFunc {
    /// # Safety
    /// `shim` may be called with a pointer to an `F` as its record's closure, with the slots of `ty`, in stores whose data is
    /// of the type it was made for.
    pub(crate) unsafe fn new<F: Send + Sync + 'static>(
        ty: FuncType,
        shim: HostShim,
        closure: F,
        name: Option<String>,
    ) -> HostFunc {
        HostFunc {
            ty,
            shim,
            closure: Arc::new(closure),
            name: name.map(String::into_boxed_str),
        }
    }

    /// The closure's address, for [`super::vmctx::HostRecord::closure`].
    pub(crate) fn closure(&self) -> *const () {
        Arc::as_ptr(&self.closure).cast()
    }

    /// What errors call it.
    pub(crate) fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or("<host function>")
    }
}
