//! References into the store's heap, as the host holds them.
//!
//! A reference is a copyable handle that is good for a *scope*: in a host function, until that returns; elsewhere, until the
//! [`RootScope`] ends in which it was made, or else as long as the store. What no handle, no global, no table and no frame of a guest
//! refers to any more is freed when the heap has grown enough, or by [`Store::gc`](crate::Store::gc).

use crate::error::Result;
use crate::exception::Exception;
use crate::store::{AsContext, AsContextMut, Store, StoreContext, StoreContextMut};
use crate::vm::roots::{OwnedRoot, Root};
use crate::vm::store::StoreVm;
use std::any::Any;
use std::fmt;

/// A value of the host's that guests can hold and pass on, but not look into. A copyable handle, good for its scope.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "Rooted")]
pub struct ExternRef(Root);

impl ExternRef {
    /// A new reference to `value`, which is dropped when nothing refers to it any more, at the latest with the store.
    ///
    /// Cost: the value's box, 16 bytes of the heap and 16 of a list, and 16 for the handle until its scope ends; 0.16 us. May
    /// collect, which takes as long as the heap is large and the guest deep.
    ///
    /// # Errors
    /// The heap is full: see [`Config::max_reference_heap_bytes`](crate::Config::max_reference_heap_bytes).
    pub fn new(mut store: impl AsContextMut, value: impl Any + Send + Sync) -> Result<ExternRef> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let reference = vm.new_external(Box::new(value));
        let root = reference.map(|reference| vm.root(reference));
        let dead = vm.take_dead();
        drop(dead);
        root.map(ExternRef)
    }

    /// What it refers to.
    ///
    /// # Errors
    /// A reference of another store, or one whose scope has ended.
    pub fn data<'a, T: 'a>(
        &self,
        store: &'a impl AsContext<Data = T>,
    ) -> Result<&'a (dyn Any + Send + Sync)> {
        let vm = store.as_context().into_vm();
        let reference = vm.rooted(self.0)?;
        Ok(vm
            .heap
            .external(reference)
            .expect("an external reference refers to a host value"))
    }

    /// As [`data`](ExternRef::data), to change.
    ///
    /// # Errors
    /// As there.
    pub fn data_mut<'a, S: AsContextMut>(&self, store: &'a mut S) -> Result<&'a mut (dyn Any + Send + Sync)>
    where
        S::Data: 'a,
    {
        let (vm, _) = store.as_context_mut().into_parts();
        let reference = vm.rooted(self.0)?;
        let value = vm.heap.external_mut(reference);
        Ok(value.expect("an external reference refers to a host value"))
    }

    /// Whether two references refer to the same value.
    ///
    /// # Errors
    /// As for [`data`](ExternRef::data).
    pub fn ref_eq(store: impl AsContext, a: ExternRef, b: ExternRef) -> Result<bool> {
        let context = store.as_context();
        let vm = context.vm();
        Ok(vm.rooted(a.0)? == vm.rooted(b.0)?)
    }

    /// A handle of the same value that outlives the scope.
    ///
    /// # Errors
    /// As for [`data`](ExternRef::data).
    #[doc(alias = "to_owned_rooted")]
    pub fn to_owned(&self, mut store: impl AsContextMut) -> Result<OwnedExternRef> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let reference = vm.rooted(self.0)?;
        vm.own(reference).map(OwnedExternRef)
    }

    pub(crate) fn of_word(reference: u32, store: &mut StoreVm) -> Option<ExternRef> {
        (reference != 0).then(|| ExternRef(store.root(reference)))
    }
}

/// As generated code holds it: 0 is null.
pub(crate) fn extern_word(value: Option<ExternRef>, store: &StoreVm) -> Result<u32> {
    value.map_or(Ok(0), |value| store.rooted(value.0))
}

/// A reference to an exception that guests can hold, pass on and throw again. A copyable handle, good for its scope.
#[derive(Clone, Copy, Debug)]
pub struct ExnRef(Root);

impl ExnRef {
    /// A reference to an exception.
    ///
    /// # Errors
    /// An exception of another store.
    pub fn new(mut store: impl AsContextMut, exception: &Exception) -> Result<ExnRef> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let reference = vm.owned(&exception.root)?;
        Ok(ExnRef(vm.root(reference)))
    }

    /// The exception, which outlives the scope.
    ///
    /// # Errors
    /// A reference of another store, or one whose scope has ended.
    pub fn to_exception(&self, mut store: impl AsContextMut) -> Result<Exception> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let reference = vm.rooted(self.0)?;
        Ok(Exception {
            root: vm.own(reference)?,
        })
    }

    pub(crate) fn of_word(reference: u32, store: &mut StoreVm) -> Option<ExnRef> {
        (reference != 0).then(|| ExnRef(store.root(reference)))
    }
}

/// As generated code holds it: 0 is null.
pub(crate) fn exn_word(value: Option<ExnRef>, store: &StoreVm) -> Result<u32> {
    value.map_or(Ok(0), |value| store.rooted(value.0))
}

/// A reference that keeps what it refers to as long as it lives, or the store. A clone is a count.
#[derive(Clone, Debug)]
#[doc(alias = "OwnedRooted")]
pub struct OwnedExternRef(OwnedRoot);

impl OwnedExternRef {
    /// A handle of the same value for the scope that the store is in.
    ///
    /// # Errors
    /// A reference of another store.
    #[doc(alias = "to_rooted")]
    pub fn to_scoped(&self, mut store: impl AsContextMut) -> Result<ExternRef> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let reference = vm.owned(&self.0)?;
        Ok(ExternRef(vm.root(reference)))
    }
}

/// A scope for references: those that are made through it end with it. It lends the store it was made of.
///
/// ```
/// # let engine = selvedge::Engine::default();
/// let mut store = selvedge::Store::new(&engine, ());
/// for number in 0..1_000 {
///     let mut scope = selvedge::RootScope::new(&mut store);
///     let reference = selvedge::ExternRef::new(&mut scope, number)?;
///     assert!(reference.data(&scope)?.is::<i32>());
/// }
/// # Ok::<(), selvedge::Error>(())
/// ```
pub struct RootScope<C: AsContextMut> {
    store: C,
    mark: usize,
}

impl<C: AsContextMut> fmt::Debug for RootScope<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootScope").finish_non_exhaustive()
    }
}

impl<C: AsContextMut> RootScope<C> {
    /// Begins a scope.
    pub fn new(mut store: C) -> RootScope<C> {
        let mark = store.as_context_mut().vm().roots.mark();
        RootScope { store, mark }
    }
}

impl<C: AsContextMut> Drop for RootScope<C> {
    fn drop(&mut self) {
        self.store.as_context_mut().vm_mut().roots.truncate(self.mark);
    }
}

impl<C: AsContextMut> AsContext for RootScope<C> {
    type Data = C::Data;
    fn as_context(&self) -> StoreContext<'_, C::Data> {
        self.store.as_context()
    }
}

impl<C: AsContextMut> AsContextMut for RootScope<C> {
    fn as_context_mut(&mut self) -> StoreContextMut<'_, C::Data> {
        self.store.as_context_mut()
    }
}

impl<T> Store<T> {
    /// Frees every reference that nothing can reach any more, and drops the host's values behind them.
    ///
    /// Takes as long as the heap is large and the guest deep. The store does so by itself as its heap grows.
    pub fn gc(&mut self) {
        self.as_context_mut().gc();
    }

    /// Bytes that the objects of references take, those that nothing reaches any more included until they are freed.
    #[doc(alias = "gc_heap_capacity")]
    pub fn reference_heap_bytes(&self) -> usize {
        self.as_context().vm().heap.used_bytes()
    }
}

impl<T> StoreContextMut<'_, T> {
    /// See [`Store::gc`].
    pub fn gc(&mut self) {
        let vm = self.vm_mut();
        vm.collect();
        let dead = vm.take_dead();
        drop(dead);
    }
}

impl<T> crate::Caller<'_, T> {
    /// See [`Store::gc`]. Finds what the guest that called holds, too.
    pub fn gc(&mut self) {
        self.as_context_mut().gc();
    }
}
