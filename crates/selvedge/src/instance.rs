//! Instances: a module with its imports, ready to be called.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::exception::Tag;
use crate::externs::Extern;
use crate::func::{Func, TypedFunc};
use crate::global::Global;
use crate::link;
use crate::memory::Memory;
use crate::module::{Module, ModuleExport};
use crate::room;
use crate::shared_memory::SharedMemory;
use crate::source::text;
use crate::store::{AsContext, AsContextMut, StoreContextMut};
use crate::table::Table;
use crate::value::WasmTyList;
use crate::vm::call::{CallFuture, Target};
use crate::vm::instance::Linked;
use crate::vm::limits::Asked;
use crate::vm::store::StoreVm;
use selvedge_compiler::ExternType;

/// An instance of a module. A copyable handle; the instance lives as long as its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    store: u64,
    index: u32,
}

impl Instance {
    /// Makes an instance with one import for each the module asks for, in order, and runs its start function, if it has one, as a
    /// synchronous call.
    ///
    /// Cost: one allocation that grows with what the module imports and exports, of 32 bytes for an empty module and of 144 with a host function imported
    /// and a function exported; comparing the type of each import; a place in a pool for each memory and table; and writing what segments hold.
    /// 0.4 us with a store, a call and the end of all; 1 us with a memory whose 64 KiB of data are mapped (bench `call`). The first instance of a
    /// module also makes the image of its data. It lives until the store is dropped: hosts that make one instance a request make one store a request.
    ///
    /// # Errors
    /// Imports of another number or type, no room for a memory or table, a segment that does not fit, a trap of the start function.
    pub fn new(mut store: impl AsContextMut, module: &Module, imports: &[Extern]) -> Result<Instance> {
        let mut context = store.as_context_mut();
        let linked = check_imports(context.vm(), module, imports)?;
        Instance::link(context.reborrow(), module, linked)
    }

    /// As [`new`](Instance::new), with a start function that may wait, and that fuel may make yield. A limiter that may wait
    /// ([`Store::limiter_async`](crate::Store::limiter_async)) is waited for.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// As for [`CallFuture`]; the instance stays in the store, without a handle.
    pub async fn new_async(
        mut store: impl AsContextMut,
        module: &Module,
        imports: &[Extern],
    ) -> Result<Instance> {
        let mut context = store.as_context_mut();
        let is_asked = context.has_limiter();
        if is_asked {
            // Nobody is asked for what cannot be.
            check_imports(context.vm(), module, imports).map(drop)?;
            context.check_async(Asked::Instance(module)).await?;
        }
        let (instance, start) = {
            let linked = check_imports(context.vm(), module, imports)?;
            Instance::link_async(context.reborrow(), module, linked, is_asked)?
        };
        Instance::started(instance, start).await
    }

    /// With imports that were checked already.
    pub(crate) fn link<T>(
        mut context: StoreContextMut<'_, T>,
        module: &Module,
        imports: Vec<Linked>,
    ) -> Result<Instance> {
        let (instance, start) = Instance::allocate(&mut context, module, imports, false)?;
        if let Some(start) = start {
            let () = context.call_typed(start, ()).map_err(of_start)?;
        }
        Ok(instance)
    }

    /// As [`link`](Instance::link), with a start function that may wait: its call, for [`started`](Instance::started). What was
    /// linked is not part of the future that awaits it, which is `Send` for that. `is_granted` says that the limiter was asked.
    pub(crate) fn link_async<'s, T>(
        mut context: StoreContextMut<'s, T>,
        module: &Module,
        imports: Vec<Linked>,
        is_granted: bool,
    ) -> Result<(Instance, Option<CallFuture<'s, T, ()>>)> {
        let (instance, start) = Instance::allocate(&mut context, module, imports, is_granted)?;
        let call = start.map(|start| CallFuture::new(context.start_typed(Ok(start), ())));
        Ok((instance, call))
    }

    /// The instance, when its start function has run.
    pub(crate) async fn started<T>(
        instance: Instance,
        start: Option<CallFuture<'_, T, ()>>,
    ) -> Result<Instance> {
        if let Some(start) = start {
            start.await.map_err(of_start)?;
        }
        Ok(instance)
    }

    /// Everything but running the start function.
    fn allocate<T>(
        context: &mut StoreContextMut<'_, T>,
        module: &Module,
        imports: Vec<Linked>,
        is_granted: bool,
    ) -> Result<(Instance, Option<Target<(), ()>>)> {
        let vm = context.vm();
        if !Engine::same(&vm.engine, module.engine()) {
            return Err(Error::msg(
                "the module was compiled by another engine than the store's: compile it with `Store::engine`",
            ));
        }
        if !is_granted {
            context.check(Asked::Instance(module))?;
        }
        let vm = context.vm_mut();
        let index = vm.instantiate(module, imports)?;
        let instance = Instance { store: vm.id, index };
        let start = module.info().start.map(|start| {
            let func = vm.instances[index as usize].func_ref(start);
            Target::assume(func.expect("a start function escapes"))
        });
        Ok((instance, start))
    }

    /// Checks that it is of this store.
    pub(crate) fn check(&self, vm: &StoreVm) -> Result<()> {
        vm.check(self.store, "an instance")
    }

    /// An export.
    ///
    /// Cost: hashes the name; the first handle of a function or a global adds a record of it to the store. To do it once for all
    /// instances: [`get_module_export`](Instance::get_module_export).
    ///
    /// None where there is no such export, with another store, and where the system has no memory for a handle.
    pub fn get_export(&self, mut store: impl AsContextMut, name: &str) -> Option<Extern> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        self.check(vm).ok()?;
        Extern::of_export(vm, self.index, name)
    }

    /// As [`get_export`](Instance::get_export), of an export that was looked up by name before: nothing is hashed or compared but the
    /// module.
    ///
    /// None with the export of another module, and with another store.
    pub fn get_module_export(&self, mut store: impl AsContextMut, export: &ModuleExport) -> Option<Extern> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        self.check(vm).ok()?;
        Extern::of_module_export(vm, self.index, export)
    }

    /// The module that it is an instance of.
    ///
    /// # Panics
    /// With another store than the instance's.
    pub fn module<'a, T: 'a>(&self, store: &'a impl AsContext<Data = T>) -> &'a Module {
        let vm = store.as_context().into_vm();
        match self.check(vm) {
            Ok(()) => &vm.instances[self.index as usize].module,
            Err(error) => panic!("{error}"),
        }
    }

    /// An exported function.
    pub fn get_func(&self, store: impl AsContextMut, name: &str) -> Option<Func> {
        self.get_export(store, name)?.into_func()
    }

    /// An exported memory that is this store's alone.
    pub fn get_memory(&self, store: impl AsContextMut, name: &str) -> Option<Memory> {
        self.get_export(store, name)?.into_memory()
    }

    /// An exported memory that other stores may use too.
    pub fn get_shared_memory(&self, store: impl AsContextMut, name: &str) -> Option<SharedMemory> {
        self.get_export(store, name)?.into_shared_memory()
    }

    /// An exported table.
    pub fn get_table(&self, store: impl AsContextMut, name: &str) -> Option<Table> {
        self.get_export(store, name)?.into_table()
    }

    /// An exported global.
    pub fn get_global(&self, store: impl AsContextMut, name: &str) -> Option<Global> {
        self.get_export(store, name)?.into_global()
    }

    /// An exported exception tag.
    pub fn get_tag(&self, store: impl AsContextMut, name: &str) -> Option<Tag> {
        self.get_export(store, name)?.into_tag()
    }

    /// All exports, in the module's order, with their names. None with another store. Allocates a list, and each name.
    /// One that the system had no memory for is an error to use.
    pub fn exports(&self, mut store: impl AsContextMut) -> Vec<(String, Extern)> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        if self.check(vm).is_err() {
            return Vec::new();
        }
        let module = vm.instances[self.index as usize].module.clone();
        let exports = module.info().exports.iter();
        exports
            .map(|export| {
                (
                    export.name.clone(),
                    Extern::of_index(vm, self.index, export.index),
                )
            })
            .collect()
    }

    /// An exported function of these types, looked up and compared.
    #[inline]
    fn target<P: WasmTyList, R: WasmTyList, T>(
        &self,
        context: &StoreContextMut<'_, T>,
        name: &str,
    ) -> Result<Target<P, R>> {
        let vm = context.vm();
        self.check(vm)?;
        let (func, ty) = vm
            .exported_func(self.index, name)
            .ok_or_else(|| no_such_function(&vm.instances[self.index as usize].module, name))?;
        Target::check(func, ty).map_err(|error| error.context(format!("calling `{name}`")))
    }

    /// Calls an exported function and waits for it.
    ///
    /// Cost: hashes the name and compares the types, then that of [`TypedFunc::call`]; allocates nothing.
    ///
    /// ```
    /// # use selvedge::{Engine, Instance, Module, Store};
    /// # let engine = Engine::default();
    /// let module = Module::new(&engine, r#"(module (func (export "add") (param i32 i32) (result i32)
    ///     local.get 0 local.get 1 i32.add))"#)?;
    /// let mut store = Store::new(&engine, ());
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// let sum: i32 = instance.call(&mut store, "add", (1, 2))?;
    /// assert_eq!(sum, 3);
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    ///
    /// # Errors
    /// No such function, other types, and what [`Func::call`] says.
    ///
    /// # Panics
    /// With the payload of a host function that panicked.
    pub fn call<P: WasmTyList, R: WasmTyList>(
        &self,
        store: &mut impl AsContextMut,
        name: &str,
        params: P,
    ) -> Result<R> {
        let mut context = store.as_context_mut();
        let target = self.target(&context, name)?;
        context.call_typed(target, params)
    }

    /// As [`call`](Instance::call), as a future that waits when the guest does. Runs nothing before it is polled.
    ///
    /// # Errors
    /// As there, told by the first poll; but a host function may wait.
    ///
    /// # Cancellation
    /// As for [`CallFuture`].
    pub fn call_async<'s, S: AsContextMut, P: WasmTyList, R: WasmTyList>(
        &self,
        store: &'s mut S,
        name: &str,
        params: P,
    ) -> CallFuture<'s, S::Data, R> {
        let mut context = store.as_context_mut();
        let target = self.target::<P, R, _>(&context, name);
        CallFuture::new(context.start_typed(target, params))
    }

    /// An exported function with its types checked, to call it often. Cost: that of [`get_export`](Instance::get_export), and comparing the types.
    ///
    /// # Errors
    /// No such function, other types, or no memory for a handle.
    #[doc(alias = "get_typed_func")]
    pub fn typed<P: WasmTyList, R: WasmTyList>(
        &self,
        mut store: impl AsContextMut,
        name: &str,
    ) -> Result<TypedFunc<P, R>> {
        let mut context = store.as_context_mut();
        self.check(context.vm())?;
        let Some(func) = self.get_func(context.reborrow(), name) else {
            let is_there = context.vm().exported_func(self.index, name).is_some();
            return Err(match is_there {
                true => context.vm().no_handle(),
                false => no_such_function(self.module(&context), name),
            });
        };
        func.typed(context)
            .map_err(|error| error.context(format!("export `{name}`")))
    }
}

/// What the start function ended with.
#[cold]
fn of_start(error: Error) -> Error {
    error.context("the module's start function")
}

/// So many names are in a message at most.
const NAMED: usize = 8;

/// Names for a message, those beyond [`NAMED`] counted.
fn list(mut names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.by_ref().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// No export of this name is a function.
#[cold]
fn no_such_function(module: &Module, name: &str) -> Error {
    if let Some(found) = module.get_export(name) {
        return Error::msg(format!(
            "the instance exports no function named `{name}`: its export of that name is {found}"
        ));
    }
    let functions: Vec<_> = module
        .exports()
        .filter(|export| matches!(export.ty(), ExternType::Func(_)))
        .map(|export| format!("`{}`", text::cut(export.name())))
        .collect();
    let there_are = match functions.is_empty() {
        true => "it exports no functions".to_owned(),
        false => format!("there are {}", list(functions.into_iter())),
    };
    Error::msg(format!(
        "the instance exports no function named `{name}`: {there_are}"
    ))
}

/// The imports in the module's order, each of the type that is asked for.
fn check_imports(vm: &StoreVm, module: &Module, imports: &[Extern]) -> Result<Vec<Linked>> {
    let wanted = module.imports().len();
    if imports.len() != wanted {
        let names = module
            .imports()
            .map(|import| format!("`{}::{}`", import.module(), import.name()));
        let names = match wanted {
            0 => String::new(),
            _ => format!(" ({})", list(names)),
        };
        return Err(Error::msg(format!(
            "the module has {wanted} imports{names}, but {} were given",
            imports.len()
        )));
    }
    let pairs = module.imports().zip(imports);
    let linked = pairs.map(|(import, given)| link::check(vm, &import, given));
    room::collect(linked, "an instance's imports")
}
