//! Imports that were looked up before: [`InstancePre`].

use super::{Definition, link};
use crate::error::Result;
use crate::instance::Instance;
use crate::module::Module;
use crate::room;
use crate::store::AsContextMut;
use crate::vm::instance::Linked;
use crate::vm::limits::Asked;
use crate::vm::store::StoreVm;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A module with its imports looked up in a [`Linker`](crate::Linker), to be instantiated in any number of stores of its engine. What the linker gets
/// later does not change it. Cheap to clone.
///
/// ```
/// # use selvedge::{Engine, Linker, Module, Store};
/// # let engine = Engine::default();
/// # let module = Module::new(&engine, r#"(module (func (export "run") (result i32) (i32.const 1)))"#)?;
/// # let linker = Linker::<()>::new(&engine);
/// let plugin = linker.instantiate_pre(&module)?; // what is missing is an error now
/// for _request in 0..3 {
///     let mut store = Store::new(plugin.module().engine(), ());
///     let instance = plugin.instantiate(&mut store)?;
///     instance.call::<(), i32>(&mut store, "run", ())?;
/// }
/// # Ok::<(), selvedge::Error>(())
/// ```
pub struct InstancePre<T> {
    module: Module,
    definitions: Arc<Vec<Definition>>,
    _data: PhantomData<fn(T) -> T>,
}

impl<T> Clone for InstancePre<T> {
    fn clone(&self) -> InstancePre<T> {
        InstancePre {
            module: self.module.clone(),
            definitions: self.definitions.clone(),
            _data: PhantomData,
        }
    }
}

impl<T> fmt::Debug for InstancePre<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstancePre")
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}

impl<T: 'static> InstancePre<T> {
    /// With a definition for each import, host functions of the type that is asked for.
    pub(super) fn new(module: &Module, definitions: Vec<Definition>) -> InstancePre<T> {
        InstancePre {
            module: module.clone(),
            definitions: Arc::new(definitions),
            _data: PhantomData,
        }
    }

    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Makes an instance and runs its start function. Cost: that of [`Instance::new`]; host functions are not compared again.
    ///
    /// # Errors
    /// A definition that belongs to another store, or is of another type now; then as for [`Instance::new`].
    pub fn instantiate(&self, mut store: impl AsContextMut<Data = T>) -> Result<Instance> {
        let mut context = store.as_context_mut();
        let linked = self.link(context.vm())?;
        Instance::link(context.reborrow(), &self.module, linked)
    }

    /// As [`instantiate`](InstancePre::instantiate), with a start function and a limiter that may wait.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// As for [`Instance::new_async`].
    pub async fn instantiate_async(&self, mut store: impl AsContextMut<Data = T>) -> Result<Instance> {
        let mut context = store.as_context_mut();
        let is_asked = context.has_limiter();
        if is_asked {
            // Nobody is asked for what cannot be.
            self.link(context.vm()).map(drop)?;
            context.check_async(Asked::Instance(&self.module)).await?;
        }
        let (instance, start) = {
            let linked = self.link(context.vm())?;
            Instance::link_async(context.reborrow(), &self.module, linked, is_asked)?
        };
        Instance::started(instance, start).await
    }

    fn link(&self, vm: &StoreVm) -> Result<Vec<Linked>> {
        let pairs = self.module.imports().zip(&*self.definitions);
        let linked = pairs.map(|(import, definition)| match definition {
            Definition::Held(item) => link::check(vm, &import, item),
            Definition::Host(func) => Ok(Linked::Host(func.clone())),
        });
        room::collect(linked, "an instance's imports")
    }
}

/// Shared between threads, whatever its stores' data.
const _: fn() = || {
    fn shared<X: Send + Sync>() {}
    shared::<InstancePre<std::rc::Rc<()>>>();
};
