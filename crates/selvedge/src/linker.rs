//! Linkers: names for what modules import.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::externs::Extern;
use crate::host_fn::{HostAsyncFn, HostFn, HostValsAsyncFn, HostValsFn};
use crate::instance::Instance;
use crate::link;
use crate::module::{ImportType, Module};
use crate::room;
use crate::store::{AsContextMut, Caller, Local};
use crate::value::{Val, WasmRet, WasmTyList};
use crate::vm::host::HostFunc;
use crate::vm::instance::Linked;
use crate::vm::limits::Asked;
use crate::vm::store::StoreVm;
use selvedge_compiler::FuncType;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

mod lookup;
mod modules;
mod pre;
mod unknown;

pub use pre::InstancePre;
pub use unknown::UnknownImportError;

/// A definition: of the host and good for every store, or of one store.
#[derive(Clone)]
enum Definition {
    Host(Arc<HostFunc>),
    Held(Extern),
}

/// Names for what modules import. Host functions in it serve any number of stores with data of type `T`; it holds no `T` and
/// is shared between threads. Things of a store (memories, instances) serve that store alone.
///
/// ```
/// # use selvedge::{Engine, Linker, Module, Store};
/// let engine = Engine::default();
/// let mut linker = Linker::<()>::new(&engine);
/// linker
///     .func_wrap("host", "add", |a: i32, b: i32| a + b)?
///     .func_wrap("host", "now", || -> i64 { 0 })?;
/// let module = Module::new(&engine, r#"(module (import "host" "add" (func $add (param i32 i32) (result i32)))
///     (func (export "run") (result i32) (call $add (i32.const 40) (i32.const 2))))"#)?;
/// for _ in 0..3 {
///     let mut store = Store::new(&engine, ());
///     let instance = linker.instantiate(&mut store, &module)?;
///     assert_eq!(instance.call::<(), i32>(&mut store, "run", ())?, 42);
/// }
/// # Ok::<(), selvedge::Error>(())
/// ```
pub struct Linker<T> {
    engine: Engine,
    allow_shadowing: bool,
    allow_unknown_exports: bool,
    definitions: HashMap<String, HashMap<String, Definition>>,
    _data: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Linker<T> {
    fn clone(&self) -> Linker<T> {
        Linker {
            engine: self.engine.clone(),
            allow_shadowing: self.allow_shadowing,
            allow_unknown_exports: self.allow_unknown_exports,
            definitions: self.definitions.clone(),
            _data: PhantomData,
        }
    }
}

/// Of an engine with the default settings, which stores and modules get by [`Linker::engine`].
impl<T: 'static> Default for Linker<T> {
    /// # Panics
    /// As [`Engine::default`].
    fn default() -> Linker<T> {
        Linker::new(&Engine::default())
    }
}

impl<T> fmt::Debug for Linker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .definitions
            .iter()
            .map(|(module, names)| (module, names.keys().collect::<Vec<_>>()));
        f.debug_map().entries(names).finish()
    }
}

impl<T: 'static> Linker<T> {
    /// An empty linker. Cost: nothing; each definition is an entry in a table with its names, and a host function an allocation. A clone copies the table.
    pub fn new(engine: &Engine) -> Linker<T> {
        Linker {
            engine: engine.clone(),
            allow_shadowing: false,
            allow_unknown_exports: false,
            definitions: HashMap::new(),
            _data: PhantomData,
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether a name may be defined again, the last one counting. Default: no.
    pub fn allow_shadowing(&mut self, allow: bool) -> &mut Linker<T> {
        self.allow_shadowing = allow;
        self
    }

    /// Whether [`module`](Linker::module) leaves out what a command exports besides functions, and does not refuse it. Default: no.
    pub fn allow_unknown_exports(&mut self, allow: bool) -> &mut Linker<T> {
        self.allow_unknown_exports = allow;
        self
    }

    fn insert(&mut self, module: &str, name: &str, definition: Definition) -> Result<&mut Linker<T>> {
        let names = self.definitions.entry(module.to_owned()).or_default();
        match names.entry(name.to_owned()) {
            Entry::Occupied(_) if !self.allow_shadowing => {
                return Err(defined_already(module, name));
            }
            Entry::Occupied(mut entry) => drop(entry.insert(definition)),
            Entry::Vacant(entry) => drop(entry.insert(definition)),
        }
        Ok(self)
    }

    /// Checks that names may be defined under `module`: so that either all of them are defined, or none.
    fn check_free<'a>(&self, module: &str, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        if self.allow_shadowing {
            return Ok(());
        }
        match names.into_iter().find(|name| self.find(module, name).is_some()) {
            Some(name) => Err(defined_already(module, name)),
            None => Ok(()),
        }
    }

    fn insert_host(&mut self, module: &str, name: &str, func: HostFunc) -> Result<&mut Linker<T>> {
        self.insert(module, name, Definition::Host(Arc::new(func)))
    }

    /// Defines something of a store, for that store, or a shared memory, for every store.
    ///
    /// # Errors
    /// The name is defined already; see [`allow_shadowing`](Linker::allow_shadowing).
    pub fn define(&mut self, module: &str, name: &str, item: impl Into<Extern>) -> Result<&mut Linker<T>> {
        self.insert(module, name, Definition::Held(item.into()))
    }

    /// Defines a host function from a closure: `|caller: Caller<'_, T>, a: i32, b: i64| ..`, or without the caller. See [`HostFn`].
    ///
    /// # Errors
    /// As for [`define`](Linker::define).
    pub fn func_wrap<P: 'static, R: 'static>(
        &mut self,
        module: &str,
        name: &str,
        f: impl HostFn<T, P, R>,
    ) -> Result<&mut Linker<T>> {
        self.insert_host(module, name, HostFunc::sync(f, full_name(module, name)))
    }

    /// Defines a host function that may wait, from an `async` closure:
    /// `async |mut caller: Caller<'_, T>, (a, b): (i32, i32)| -> Result<i32> { .. }`.
    ///
    /// While it waits the guest is parked; its future is kept in the store, not on the guest's stack, and is polled with the
    /// context of whoever polls the guest's call.
    ///
    /// # Errors
    /// As for [`define`](Linker::define).
    pub fn func_wrap_async<F, P, R>(&mut self, module: &str, name: &str, f: F) -> Result<&mut Linker<T>>
    where
        P: WasmTyList + 'static,
        R: WasmRet + 'static,
        F: AsyncFn(Caller<'_, T>, P) -> R,
        F: for<'a> HostAsyncFn<'a, T, P, R>,
    {
        self.insert_host(module, name, HostFunc::wait(f, full_name(module, name)))
    }

    /// Defines a host function over slices of values, with a signature known only at run time.
    ///
    /// # Errors
    /// As for [`define`](Linker::define).
    pub fn func_new(
        &mut self,
        module: &str,
        name: &str,
        ty: FuncType,
        f: impl HostValsFn<T> + Fn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()>,
    ) -> Result<&mut Linker<T>> {
        self.insert_host(module, name, HostFunc::vals(ty, f, full_name(module, name)))
    }

    /// As [`func_new`](Linker::func_new), from an `async` closure.
    ///
    /// # Errors
    /// As for [`define`](Linker::define).
    pub fn func_new_async<F>(
        &mut self,
        module: &str,
        name: &str,
        ty: FuncType,
        f: F,
    ) -> Result<&mut Linker<T>>
    where
        F: AsyncFn(Caller<'_, T>, &[Val], &mut [Val]) -> Result<()>,
        F: for<'a> HostValsAsyncFn<'a, T>,
    {
        self.insert_host(module, name, HostFunc::vals_wait(ty, f, full_name(module, name)))
    }

    /// Defines every export of an instance under `module`. Cost: a handle and an entry for each.
    ///
    /// # Errors
    /// An instance of another store, and as for [`define`](Linker::define); nothing is defined then.
    pub fn instance(
        &mut self,
        mut store: impl AsContextMut,
        module: &str,
        instance: Instance,
    ) -> Result<&mut Linker<T>> {
        instance.check(store.as_context_mut().vm())?;
        let exports = instance.exports(store);
        self.check_free(module, exports.iter().map(|(name, _)| name.as_str()))?;
        for (name, item) in exports {
            self.insert(module, &name, Definition::Held(item))?;
        }
        Ok(self)
    }

    /// Defines everything that is under `from` under `to` as well.
    ///
    /// # Errors
    /// As for [`define`](Linker::define); nothing is defined then.
    pub fn alias_module(&mut self, from: &str, to: &str) -> Result<()> {
        let names = self.definitions.get(from).cloned().unwrap_or_default();
        self.check_free(to, names.keys().map(String::as_str))?;
        for (name, definition) in names {
            self.insert(to, &name, definition)?;
        }
        Ok(())
    }

    fn find(&self, module: &str, name: &str) -> Option<&Definition> {
        self.definitions.get(module)?.get(name)
    }

    /// Makes an instance, with every import looked up here, and runs its start function.
    ///
    /// Cost: hashes two names for each import, then that of [`Instance::new`]; compiles nothing. For many instances of a module,
    /// [`instantiate_pre`](Linker::instantiate_pre) looks the names up once.
    ///
    /// # Errors
    /// A name that is not defined, or is of another type: the message names it. Then as for [`Instance::new`].
    pub fn instantiate(&self, store: &mut impl AsContextMut<Data = T>, module: &Module) -> Result<Instance> {
        let mut context = store.as_context_mut();
        let linked = self.link_all(context.vm(), module)?;
        Instance::link(context.reborrow(), module, linked)
    }

    /// Looks every import up, once for many instances: see [`InstancePre`]. Cost: hashes two names for each import.
    ///
    /// # Errors
    /// A name that is not defined, or a host function of another type. What belongs to a store is compared when an instance is made.
    pub fn instantiate_pre(&self, module: &Module) -> Result<InstancePre<T>> {
        Ok(InstancePre::new(module, self.resolve(module)?))
    }

    /// The definition of each import, in order. Host functions are of the type that is asked for.
    fn resolve(&self, module: &Module) -> Result<Vec<Definition>> {
        let resolve = |import: ImportType<'_>| {
            let found = self.find(import.module(), import.name());
            let definition = found.ok_or_else(|| link::unknown(&import))?;
            if let Definition::Host(func) = definition {
                link::check_func(&import, &func.ty)?;
            }
            Ok(definition.clone())
        };
        room::collect(module.imports().map(resolve), "an instance's imports")
    }

    /// As [`instantiate`](Linker::instantiate), with a start function that may wait, and that fuel may make yield.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// As for [`Instance::new_async`].
    pub async fn instantiate_async(
        &self,
        store: &mut impl AsContextMut<Data = T>,
        module: &Module,
    ) -> Result<Instance> {
        let mut context = store.as_context_mut();
        let is_asked = context.has_limiter();
        if is_asked {
            // Nobody is asked for what cannot be.
            self.link_all(context.vm(), module).map(drop)?;
            context.check_async(Asked::Instance(module)).await?;
        }
        let (instance, start) = {
            let linked = self.link_all(context.vm(), module)?;
            Instance::link_async(context.reborrow(), module, linked, is_asked)?
        };
        Instance::started(instance, start).await
    }

    fn link_all(&self, vm: &StoreVm, module: &Module) -> Result<Vec<Linked>> {
        let imports = module.imports();
        room::collect(
            imports.map(|import| self.link(vm, &import)),
            "an instance's imports",
        )
    }

    fn link(&self, vm: &StoreVm, import: &ImportType<'_>) -> Result<Linked> {
        match self.find(import.module(), import.name()) {
            None => Err(link::unknown(import)),
            Some(Definition::Held(item)) => link::check(vm, import, item),
            Some(Definition::Host(func)) => {
                link::check_func(import, &func.ty)?;
                Ok(Linked::Host(func.clone()))
            }
        }
    }
}

impl<T: 'static> Linker<Local<T>> {
    /// As [`func_wrap_async`](Linker::func_wrap_async), for data that stays on its thread: the future need not be `Send` and may lend the
    /// closure's captures.
    ///
    /// # Errors
    /// As for [`define`](Linker::define).
    pub fn func_wrap_async_local<F, P, R>(
        &mut self,
        module: &str,
        name: &str,
        f: F,
    ) -> Result<&mut Linker<Local<T>>>
    where
        P: WasmTyList + 'static,
        R: WasmRet + 'static,
        F: AsyncFn(Caller<'_, Local<T>>, P) -> R + Send + Sync + 'static,
    {
        self.insert_host(module, name, HostFunc::wait_local(f, full_name(module, name)))
    }
}

#[cold]
fn defined_already(module: &str, name: &str) -> Error {
    Error::msg(format!(
        "`{module}::{name}` is defined already: see `allow_shadowing`"
    ))
}

fn full_name(module: &str, name: &str) -> Option<String> {
    Some(format!("{module}::{name}"))
}

/// A linker is shared between threads, whatever its stores' data.
const _: fn() = || {
    fn shared<X: Send + Sync>() {}
    shared::<Linker<std::rc::Rc<()>>>();
};
