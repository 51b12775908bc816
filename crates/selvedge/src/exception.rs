//! Exceptions as the host makes and meets them, and their tags.
//!
//! ```
//! # use selvedge::{Caller, Engine, Exception, FuncType, Linker, Module, Result, Store, Tag, TagType, Val, ValType};
//! # let engine = Engine::default();
//! let mut store = Store::new(&engine, ());
//! let tag = Tag::new(&mut store, TagType::new(FuncType::new([ValType::I32], [])))?;
//! let mut linker = Linker::<()>::new(&engine);
//! linker.define("host", "error", tag)?;
//! linker.func_wrap("host", "fail", move |mut caller: Caller<'_, ()>, code: i32| -> Result<()> {
//!     Err(Exception::new(&mut caller, tag, &[Val::I32(code)])?.into())
//! })?;
//! let module = Module::new(&engine, r#"(module
//!     (import "host" "error" (tag $error (param i32)))
//!     (import "host" "fail" (func $fail (param i32)))
//!     (func (export "catch") (result i32)
//!       (block $caught (result i32)
//!         (try_table (catch $error $caught) (call $fail (i32.const 42)))
//!         (i32.const 0)))
//!     (func (export "throw") (throw $error (i32.const 7))))"#)?;
//! let instance = linker.instantiate(&mut store, &module)?;
//! assert_eq!(instance.call::<_, i32>(&mut store, "catch", ())?, 42);
//!
//! let error = instance.call::<_, ()>(&mut store, "throw", ()).unwrap_err();
//! let exception = error.downcast_ref::<Exception>().expect("not caught");
//! assert_eq!(exception.tag(&store)?, tag);
//! assert_eq!(exception.values(&mut store)?[0].i32(), Some(7));
//! # Ok::<(), selvedge::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::room;
use crate::store::{AsContext, AsContextMut};
use crate::value::Val;
use crate::vm::store::{StoreVm, TagEntry};
pub use crate::vm::throw::Exception;
use selvedge_compiler::TagType;

/// An exception tag of a store: what catches exceptions goes by it. A copyable handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    store: u64,
    index: u32,
}

impl Tag {
    pub(crate) fn new_handle(store: u64, index: u32) -> Tag {
        Tag { store, index }
    }

    /// A tag of the host's.
    ///
    /// # Errors
    /// A signature with results, or no memory for another tag.
    pub fn new(mut store: impl AsContextMut, ty: TagType) -> Result<Tag> {
        if !ty.signature.results().is_empty() {
            return Err(Error::msg(format!(
                "a tag has no results, but {} has",
                ty.signature
            )));
        }
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let index = vm.add_tag(TagEntry::new(ty.signature)?)?;
        Ok(Tag::new_handle(vm.id, index))
    }

    /// Its place in the store.
    pub(crate) fn index(&self, vm: &StoreVm) -> Result<u32> {
        vm.check(self.store, "a tag")?;
        Ok(self.index)
    }

    /// The type.
    ///
    /// # Panics
    /// With another store than the tag's.
    pub fn ty(&self, store: impl AsContext) -> TagType {
        let context = store.as_context();
        match self.index(context.vm()) {
            Ok(index) => TagType::new(context.vm().tags[index as usize].ty.clone()),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Exception {
    /// A new exception. Returned from a host function as its error, it is thrown in the guest that called.
    ///
    /// # Errors
    /// Values of other number or types than the tag's, a tag or a value of another store, a full heap.
    pub fn new(mut store: impl AsContextMut, tag: Tag, values: &[Val]) -> Result<Exception> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let tag = tag.index(vm)?;
        let ty = vm.tags[tag as usize].ty.clone();
        if values.len() != ty.params().len() {
            return Err(Error::msg(format!(
                "an exception of the tag has {} values, {} were given",
                ty.params().len(),
                values.len()
            )));
        }
        let typed = values.iter().zip(ty.params());
        let slots = typed.map(|(value, ty)| value.to_raw(*ty, vm));
        let slots = room::collect(slots, "an exception's values")?;
        let made = vm.make_exception(tag, &slots);
        let owned = made.and_then(|reference| vm.own(reference));
        let exception = owned.map(|root| Exception { root });
        let dead = vm.take_dead();
        drop(dead);
        exception
    }

    /// Its tag.
    ///
    /// # Errors
    /// An exception of another store.
    pub fn tag(&self, store: impl AsContext) -> Result<Tag> {
        let context = store.as_context();
        let vm = context.vm();
        let index = vm.heap.exception_tag(vm.owned(&self.root)?);
        Ok(Tag::new_handle(vm.id, index.expect("the root of an exception")))
    }

    /// The values that it carries. References among them are good for the scope that the store is in.
    ///
    /// # Errors
    /// An exception of another store.
    pub fn values(&self, mut store: impl AsContextMut) -> Result<Vec<Val>> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let reference = vm.owned(&self.root)?;
        let tag = vm
            .heap
            .exception_tag(reference)
            .expect("the root of an exception");
        let ty = vm.tags[tag as usize].ty.clone();
        let values = ty.params().iter().enumerate().map(|(index, ty)| {
            let raw = vm.heap.exception_value(reference, index);
            Ok(Val::from_raw(raw, *ty, vm))
        });
        room::collect(values, "an exception's values")
    }
}
