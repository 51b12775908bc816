//! Globals.

use crate::error::{Error, Result};
use crate::store::{AsContext, AsContextMut};
use crate::value::Val;
use crate::vm::store::NO_HANDLE;
use crate::vm::store::{GlobalEntry, StoreVm};
use selvedge_compiler::GlobalType;

/// A global of a store. A copyable handle.
///
/// ```
/// # use selvedge::{Global, GlobalType, Store, Val, ValType};
/// # let mut store = Store::<()>::default();
/// let global = Global::new(&mut store, GlobalType::new(ValType::I64, true), Val::I64(7))?;
/// global.set(&mut store, Val::I64(8))?;
/// assert_eq!(global.get(&mut store).i64(), Some(8));
/// # Ok::<(), selvedge::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Global {
    store: u64,
    index: u32,
}

impl Global {
    pub(crate) fn new_handle(store: u64, index: u32) -> Global {
        Global { store, index }
    }

    /// A global of the host's. It lives as long as the store. Cost: an allocation.
    ///
    /// # Errors
    /// A value of another type than `ty` says, or of another store.
    pub fn new(mut store: impl AsContextMut, ty: GlobalType, value: Val) -> Result<Global> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let raw = value.to_raw(ty.content, vm)?;
        vm.keep_type(ty.content)?;
        let cell = vm.new_cell(raw)?;
        let global = Global::new_handle(vm.id, vm.global_index(cell, ty));
        global.index(vm)?;
        Ok(global)
    }

    /// Whether there was no memory for it.
    pub(crate) fn is_none(&self) -> bool {
        self.index == NO_HANDLE
    }

    /// Its place in the store.
    pub(crate) fn index(&self, vm: &StoreVm) -> Result<usize> {
        vm.check(self.store, "a global")?;
        match self.index {
            NO_HANDLE => Err(vm.no_handle()),
            index => Ok(index as usize),
        }
    }

    #[track_caller]
    fn entry<'a>(&self, vm: &'a StoreVm) -> &'a GlobalEntry {
        match self.index(vm) {
            Ok(index) => &vm.globals[index],
            Err(error) => panic!("{error}"),
        }
    }

    /// The type.
    ///
    /// # Panics
    /// With another store than the global's.
    pub fn ty(&self, store: impl AsContext) -> GlobalType {
        self.entry(store.as_context().vm()).ty
    }

    /// The value. Cost: a load; a reference gets a handle in the store's scope.
    ///
    /// # Panics
    /// With another store than the global's.
    pub fn get(&self, mut store: impl AsContextMut) -> Val {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let entry = self.entry(vm);
        let (raw, ty) = (entry.read(), entry.ty.content);
        Val::from_raw(raw, ty, vm)
    }

    /// Sets the value.
    ///
    /// # Errors
    /// A global that is not mutable, or a value of another type or store.
    pub fn set(&self, mut store: impl AsContextMut, value: Val) -> Result<()> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let entry = &vm.globals[self.index(vm)?];
        if !entry.ty.mutable {
            return Err(Error::msg(format!("global of type {} is not mutable", entry.ty)));
        }
        let raw = value.to_raw(entry.ty.content, vm)?;
        entry.write(raw);
        Ok(())
    }
}
