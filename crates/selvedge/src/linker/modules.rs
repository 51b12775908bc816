//! Modules as definitions: commands, which live as long as one call, and reactors, which are initialised once.
//!
//! What is which: WASI, "application ABI" (design/application-abi.md), which Wasmtime's linker goes by as well.

use super::{InstancePre, Linker};
use crate::error::{Context, Error, Result};
use crate::externs::Extern;
use crate::func::Func;
use crate::instance::Instance;
use crate::module::Module;
use crate::store::{AsContextMut, Caller};
use crate::value::Val;
use selvedge_compiler::{ExternType, FuncType};

/// What a command is entered by.
const START: &str = "_start";
/// What a reactor is initialised by.
const INITIALIZE: &str = "_initialize";

/// Exports of commands that are no functions, which toolchains add and nobody links to.
const IGNORED: [&str; 8] = [
    "memory",
    "__indirect_function_table",
    "table",
    "__data_end",
    "__heap_base",
    "__dso_handle",
    "__rtti_base",
    "__stack_pointer",
];

impl<T: 'static> Linker<T> {
    /// Defines the exports of a module under `name`.
    ///
    /// Of a *command*, which exports `_start`, every call of a function makes an instance of its own, which is never used again and
    /// goes with the store; things of it other than functions cannot be linked to. Any other module is a *reactor*: it is instantiated
    /// now, and its `_initialize` is called, if it exports one.
    ///
    /// # Errors
    /// An import that is not defined; a command that exports what is no function; what instantiating or initialising a reactor ends with; and as for
    /// [`define`](Linker::define). Nothing is defined then; an instance that was made before stays in the store, without a handle.
    pub fn module(
        &mut self,
        mut store: impl AsContextMut<Data = T>,
        name: &str,
        module: &Module,
    ) -> Result<&mut Linker<T>> {
        if is_command(module)? {
            return self.command(name, module, |linker, export, ty, pre| {
                linker.func_new(name, export, ty, call(pre, export)).map(drop)
            });
        }
        // Nothing runs whose exports cannot be defined.
        self.check_free(name, module.exports().map(|export| export.name()))?;
        let instance = self.instantiate(&mut store.as_context_mut(), module)?;
        if let Some(initialize) = initializer(&mut store, instance)? {
            initialize
                .call(&mut store.as_context_mut(), ())
                .context("calling the reactor's `_initialize`")?;
        }
        self.instance(store, name, instance)
    }

    /// As [`module`](Linker::module), for modules whose functions may wait: a reactor's initialisation, and the calls of a command.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// Dropped before it is ready, it has defined nothing.
    pub async fn module_async(
        &mut self,
        mut store: impl AsContextMut<Data = T>,
        name: &str,
        module: &Module,
    ) -> Result<&mut Linker<T>>
    where
        T: Send,
    {
        if is_command(module)? {
            return self.command(name, module, |linker, export, ty, pre| {
                let export = export.to_owned();
                let call = {
                    let export = export.clone();
                    async move |mut caller: Caller<'_, T>,
                                params: &[Val],
                                results: &mut [Val]|
                                -> Result<()> {
                        let instance = pre.instantiate_async(&mut caller).await?;
                        let func = instance.get_func(&mut caller, &export);
                        let func = func.context("a module keeps its exports")?;
                        func.call_async(&mut caller, params, results).await
                    }
                };
                linker.func_new_async(name, &export, ty, call).map(drop)
            });
        }
        // Nothing runs whose exports cannot be defined.
        self.check_free(name, module.exports().map(|export| export.name()))?;
        let instance = self
            .instantiate_async(&mut store.as_context_mut(), module)
            .await?;
        if let Some(initialize) = initializer(&mut store, instance)? {
            initialize
                .call_async(&mut store.as_context_mut(), ())
                .await
                .context("calling the reactor's `_initialize`")?;
        }
        self.instance(store, name, instance)
    }

    /// Defines each function of a command as `define` says.
    fn command(
        &mut self,
        name: &str,
        module: &Module,
        define: impl Fn(&mut Linker<T>, &str, FuncType, InstancePre<T>) -> Result<()>,
    ) -> Result<&mut Linker<T>> {
        let pre = self.instantiate_pre(module)?;
        let is_left_out = |export| self.allow_unknown_exports || IGNORED.contains(&export);
        let mut functions = Vec::new();
        for export in module.exports() {
            match export.ty() {
                ExternType::Func(ty) => functions.push((export.name(), ty)),
                _ if is_left_out(export.name()) => {}
                other => {
                    return Err(Error::msg(format!(
                        "command `{name}` exports `{}`, a {other}: only functions of a command can be linked to (see `allow_unknown_exports`)",
                        export.name()
                    )));
                }
            }
        }
        self.check_free(name, functions.iter().map(|(export, _)| *export))?;
        for (export, ty) in functions {
            define(self, export, ty, pre.clone())?;
        }
        Ok(self)
    }

    /// What a module under `name` does by default: its export `""`, or else `_start`, or else nothing.
    ///
    /// # Errors
    /// That export is no function, or no room for the trampolines of a new signature.
    pub fn get_default(&self, mut store: impl AsContextMut<Data = T>, name: &str) -> Result<Func> {
        for export in ["", START] {
            if self.find(name, export).is_none() {
                continue;
            }
            match self.get(store.as_context_mut(), name, export)? {
                Extern::Func(func) => return Ok(func),
                _ => {
                    return Err(Error::msg(format!(
                        "the default export `{name}::{export}` is no function"
                    )));
                }
            }
        }
        Func::wrap(store, || ())
    }
}

/// A call of a command's function, in an instance of its own.
fn call<T: 'static>(
    pre: InstancePre<T>,
    export: &str,
) -> impl Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()> + Send + Sync + 'static {
    let export = export.to_owned();
    move |mut caller, params, results| {
        let instance = pre.instantiate(&mut caller)?;
        let func = instance.get_func(&mut caller, &export);
        let func = func.context("a module keeps its exports")?;
        func.call(&mut caller, params, results)
    }
}

/// Whether a module is a command, and not a reactor.
fn is_command(module: &Module) -> Result<bool> {
    let is_func = |name| matches!(module.get_export(name), Some(ExternType::Func(_)));
    match (is_func(START), is_func(INITIALIZE)) {
        (true, true) => Err(Error::msg(
            "the module exports `_start` as a command does and `_initialize` as a reactor does",
        )),
        (is_command, _) => Ok(is_command),
    }
}

/// The function that a reactor is initialised by.
fn initializer(
    mut store: impl AsContextMut,
    instance: Instance,
) -> Result<Option<crate::func::TypedFunc<(), ()>>> {
    match instance.get_func(store.as_context_mut(), INITIALIZE) {
        Some(func) => func.typed(store.as_context_mut()).map(Some),
        None => Ok(None),
    }
}
