//! What a linker holds, by name: one definition, or all of them.

use super::{Definition, Linker};
use crate::error::{Error, Result};
use crate::externs::Extern;
use crate::func::Func;
use crate::module::ImportType;
use crate::store::AsContextMut;

impl<T: 'static> Linker<T> {
    /// What a name stands for in a store.
    ///
    /// Cost: hashes two names, and the first time adds a host function to the store, as [`Func::wrap`] does.
    ///
    /// # Errors
    /// A name that is not defined, or no room for the trampolines of a new signature.
    pub fn get(&self, store: impl AsContextMut<Data = T>, module: &str, name: &str) -> Result<Extern> {
        match self.find(module, name) {
            Some(definition) => definition.in_store(store),
            None => Err(Error::msg(format!(
                "`{module}::{name}` has not been defined in the linker"
            ))),
        }
    }

    /// What would be linked to an import, by its names alone: its type is compared when a module is instantiated.
    ///
    /// # Errors
    /// An [`UnknownImportError`](crate::UnknownImportError), or no room for the trampolines of a new signature.
    pub fn get_by_import(
        &self,
        store: impl AsContextMut<Data = T>,
        import: &ImportType<'_>,
    ) -> Result<Extern> {
        match self.find(import.module(), import.name()) {
            Some(definition) => definition.in_store(store),
            None => Err(super::link::unknown(import)),
        }
    }

    /// Everything that is defined, in the order of its names: module, name, and what that stands for in the store.
    ///
    /// Cost: that of [`get`](Linker::get) for each; sorts.
    ///
    /// ```
    /// # use selvedge::{Engine, Linker, Store};
    /// # let engine = Engine::default();
    /// let mut linker = Linker::<()>::new(&engine);
    /// linker.func_wrap("host", "now", || 0_i64)?;
    /// let mut store = Store::new(&engine, ());
    /// for (module, name, item) in linker.iter(&mut store)? {
    ///     assert_eq!((module, name), ("host", "now"));
    ///     assert_eq!(item.ty(&store).to_string(), "(func (result i64))");
    /// }
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    ///
    /// # Errors
    /// No room for the trampolines of a new signature.
    pub fn iter(
        &self,
        mut store: impl AsContextMut<Data = T>,
    ) -> Result<std::vec::IntoIter<(&str, &str, Extern)>> {
        let mut all = Vec::new();
        for (module, names) in &self.definitions {
            for (name, definition) in names {
                let item = definition.in_store(store.as_context_mut())?;
                all.push((module.as_str(), name.as_str(), item));
            }
        }
        all.sort_by_key(|(module, name, _)| (*module, *name));
        Ok(all.into_iter())
    }

    /// Defines what is under a name under another as well: the same thing, whatever the first name stands for later.
    ///
    /// # Errors
    /// A name that is not defined, and as for [`define`](Linker::define).
    pub fn alias(
        &mut self,
        module: &str,
        name: &str,
        as_module: &str,
        as_name: &str,
    ) -> Result<&mut Linker<T>> {
        let definition = self.find(module, name).cloned();
        let definition = definition.ok_or_else(|| {
            Error::msg(format!(
                "`{module}::{name}` has not been defined, so `{as_module}::{as_name}` cannot be its alias"
            ))
        })?;
        self.insert(as_module, as_name, definition)
    }
}

impl Definition {
    /// As something of a store.
    fn in_store(&self, mut store: impl AsContextMut) -> Result<Extern> {
        match self {
            Definition::Held(item) => Ok(item.clone()),
            Definition::Host(func) => {
                let mut context = store.as_context_mut();
                let vm = context.vm_mut();
                let index = vm.host_func_index(func)?;
                Ok(Extern::Func(Func::new_handle(vm.id, index)))
            }
        }
    }
}
