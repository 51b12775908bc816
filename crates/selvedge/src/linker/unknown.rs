//! Imports that nobody defined: the error that says so, and what may stand in for them.

use super::{Linker, full_name};
use crate::error::{Context, Error, Result};
use crate::externs::Extern;
use crate::host_fn::HostValsFn;
use crate::module::{ImportType, Module};
use crate::store::{AsContextMut, Caller};
use crate::trap::Trap;
use crate::value::Val;
use crate::vm::host::HostFunc;
use selvedge_compiler::{ExternType, FuncType};
use std::fmt;

/// A module imports what a linker does not define: found by `error.downcast_ref::<UnknownImportError>()` where a module is instantiated, and
/// where a function is called that [`Linker::define_unknown_imports_as_traps`] has put in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownImportError {
    module: String,
    name: String,
    ty: ExternType,
}

impl UnknownImportError {
    pub(crate) fn new(import: &ImportType<'_>) -> UnknownImportError {
        UnknownImportError {
            module: import.module().to_owned(),
            name: import.name().to_owned(),
            ty: import.ty(),
        }
    }

    /// The module to import from.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The name in that module.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is wanted.
    pub fn ty(&self) -> ExternType {
        self.ty.clone()
    }
}

impl fmt::Display for UnknownImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownImportError { module, name, ty } = self;
        write!(
            f,
            "unknown import: `{module}::{name}` has not been defined, expected {ty}"
        )
    }
}

impl std::error::Error for UnknownImportError {}

impl<T: 'static> Linker<T> {
    /// The imports of `module` that are not defined.
    fn unknown<'a>(&self, module: &'a Module) -> Vec<ImportType<'a>> {
        let is_unknown = |import: &ImportType<'_>| self.find(import.module(), import.name()).is_none();
        module.imports().filter(is_unknown).collect()
    }

    /// Defines a function in place of an import.
    fn stand_in(&mut self, import: &ImportType<'_>, ty: FuncType, f: impl HostValsFn<T>) -> Result<()> {
        let (module, name) = (import.module(), import.name());
        // A module may import one name twice, with two signatures: the second fails when it is linked.
        if self.find(module, name).is_some() {
            return Ok(());
        }
        let func = HostFunc::vals(ty, f, full_name(module, name));
        self.insert_host(module, name, func).map(drop)
    }

    /// Defines each function that `module` imports and that is not defined yet so that calling it traps: with
    /// [`Trap::Unreachable`], and an [`UnknownImportError`] that names it. Other imports stay unknown.
    ///
    /// # Errors
    /// None at present.
    pub fn define_unknown_imports_as_traps(&mut self, module: &Module) -> Result<()> {
        for import in self.unknown(module) {
            let ExternType::Func(ty) = import.ty() else {
                continue;
            };
            let error = UnknownImportError::new(&import);
            self.stand_in(&import, ty, move |_: Caller<'_, T>, _: &[Val], _: &mut [Val]| {
                Err(Error::from(Trap::Unreachable).context(error.clone()))
            })?;
        }
        Ok(())
    }

    /// Defines everything that `module` imports and that is not defined yet by default values: functions that return zeros and nulls, memories and
    /// tables as small as is asked for, globals that are zero or null, tags. All but functions are made in `store`, and serve it alone.
    ///
    /// # Errors
    /// What has no default value: references that are never null; and as for making such a thing, [`Memory::new`](crate::Memory::new) and the
    /// others.
    pub fn define_unknown_imports_as_default_values(
        &mut self,
        mut store: impl AsContextMut<Data = T>,
        module: &Module,
    ) -> Result<()> {
        for import in self.unknown(module) {
            let (from, name, ty) = (import.module(), import.name(), import.ty());
            let defined = match ty.clone() {
                ExternType::Func(ty) => zeros(&ty).and_then(|zeros| {
                    self.stand_in(
                        &import,
                        ty,
                        move |_: Caller<'_, T>, _: &[Val], results: &mut [Val]| {
                            results.copy_from_slice(&zeros);
                            Ok(())
                        },
                    )
                }),
                _ if self.find(from, name).is_some() => Ok(()),
                ty => Extern::default_for(store.as_context_mut(), ty)
                    .and_then(|item| self.define(from, name, item).map(drop)),
            };
            defined.with_context(|| format!("`{from}::{name}`, {ty}, cannot be defined by default"))?;
        }
        Ok(())
    }
}

/// What a function returns by default.
fn zeros(ty: &FuncType) -> Result<Vec<Val>> {
    ty.results().iter().map(|ty| Val::default_for(*ty)).collect()
}
