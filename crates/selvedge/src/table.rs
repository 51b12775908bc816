//! Tables of references.

use crate::error::{Error, Result};
use crate::store::{AsContext, AsContextMut};
use crate::value::Val;
use crate::vm::grow::Grow;
use crate::vm::limits::Asked;
use crate::vm::store::StoreVm;
use crate::vm::table::TableVm;
use crate::vm::vmctx::ValRaw;
use selvedge_compiler::{HeapType, TableType, ValType};

/// A table of a store. A copyable handle.
///
/// ```
/// # use selvedge::{Func, RefType, Store, Table, TableType, Val};
/// # let mut store = Store::<()>::default();
/// let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 4, None), Val::FuncRef(None))?;
/// let one = Func::wrap(&mut store, || 1)?;
/// table.set(&mut store, 2, one.into())?;
/// assert_eq!(table.get(&mut store, 2).and_then(|value| value.unwrap_funcref()), Some(one));
/// assert!(table.get(&mut store, 4).is_none(), "beyond the end");
/// # Ok::<(), selvedge::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    store: u64,
    index: u32,
}

/// A value as a table's element: an `externref` takes the low half.
fn element(value: Val, ty: TableType, vm: &StoreVm) -> Result<u64> {
    let raw = value.to_raw(ValType::Ref(ty.element), vm)?;
    Ok(match ty.element.heap_type().top() {
        HeapType::Func => raw.u64(),
        _ => u64::from(raw.u32()),
    })
}

impl Table {
    pub(crate) fn new_handle(store: u64, index: u32) -> Table {
        Table { store, index }
    }

    /// A table of the host's, of `ty.minimum` elements that are `init`. It lives as long as the store. Cost: 8 bytes an element.
    ///
    /// # Errors
    /// An `init` of another type than the elements', or more elements than the limit.
    pub fn new(mut store: impl AsContextMut, ty: TableType, init: Val) -> Result<Table> {
        let mut context = store.as_context_mut();
        context.check(Asked::Table(&ty))?;
        Table::allocate(context.vm_mut(), ty, init)
    }

    /// As [`new`](Table::new), for a store whose limiter may wait: [`Store::limiter_async`](crate::Store::limiter_async).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// Dropped before it is ready, it has made nothing.
    pub async fn new_async(mut store: impl AsContextMut, ty: TableType, init: Val) -> Result<Table> {
        let mut context = store.as_context_mut();
        context.check_async(Asked::Table(&ty)).await?;
        Table::allocate(context.vm_mut(), ty, init)
    }

    /// A new table that nobody need be asked about any more.
    fn allocate(vm: &mut StoreVm, ty: TableType, init: Val) -> Result<Table> {
        let table = vm.new_table(ty, element(init, ty, vm)?)?;
        vm.keep_type(ValType::Ref(ty.element))?;
        let index = vm.add_table(table)?;
        Ok(Table::new_handle(vm.id, index))
    }

    /// Its place in the store.
    pub(crate) fn index(&self, vm: &StoreVm) -> Result<usize> {
        vm.check(self.store, "a table")?;
        Ok(self.index as usize)
    }

    #[track_caller]
    fn held<'a>(&self, vm: &'a StoreVm) -> &'a TableVm {
        match self.index(vm) {
            Ok(index) => &vm.tables[index],
            Err(error) => panic!("{error}"),
        }
    }

    /// The type; its minimum is the size now.
    ///
    /// # Panics
    /// With another store than the table's.
    pub fn ty(&self, store: impl AsContext) -> TableType {
        let context = store.as_context();
        let table = self.held(context.vm());
        TableType {
            minimum: table.len(),
            ..table.ty
        }
    }

    /// How many elements it has.
    ///
    /// # Panics
    /// With another store than the table's.
    pub fn size(&self, store: impl AsContext) -> u64 {
        self.held(store.as_context().vm()).len()
    }

    /// An element; none beyond the end, and with another store. Cost: a load; the first handle of a function adds a record of it to the store.
    pub fn get(&self, mut store: impl AsContextMut, index: u64) -> Option<Val> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let table = &vm.tables[self.index(vm).ok()?];
        let (word, ty) = (table.get(index)?, table.ty.element);
        Some(Val::from_raw(ValRaw::from_u64(word), ValType::Ref(ty), vm))
    }

    /// Sets an element.
    ///
    /// # Errors
    /// An index beyond the end, or a value of another type or store.
    pub fn set(&self, mut store: impl AsContextMut, index: u64, value: Val) -> Result<()> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let table = self.index(vm)?;
        let word = element(value, vm.tables[table].ty, vm)?;
        let table = &mut vm.tables[table];
        let size = table.len();
        match table.range_mut(index, 1) {
            Some(place) => place[0] = word,
            None => {
                return Err(Error::msg(format!(
                    "element {index} lies beyond the end of a table of {size}"
                )));
            }
        }
        Ok(())
    }

    /// Sets `length` elements from `start` on.
    ///
    /// # Errors
    /// A range beyond the end, or a value of another type or store; nothing changed then.
    pub fn fill(&self, mut store: impl AsContextMut, start: u64, value: Val, length: u64) -> Result<()> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let table = self.index(vm)?;
        let word = element(value, vm.tables[table].ty, vm)?;
        let table = &mut vm.tables[table];
        let size = table.len();
        let elements = table.range_mut(start, length);
        elements
            .ok_or_else(|| out_of_bounds(start, length, size))?
            .fill(word);
        Ok(())
    }

    /// Copies `length` elements of `from`, which may be the same table, from `from_start` on to `to` from `to_start` on. Ranges may overlap.
    ///
    /// # Errors
    /// A range beyond the end, elements of a type that does not fit, or a table of another store; nothing changed then.
    pub fn copy(
        mut store: impl AsContextMut,
        to: &Table,
        to_start: u64,
        from: &Table,
        from_start: u64,
        length: u64,
    ) -> Result<()> {
        let mut context = store.as_context_mut();
        let vm = context.vm_mut();
        let (to, from) = (to.index(vm)?, from.index(vm)?);
        let (wanted, found) = (vm.tables[to].ty.element, vm.tables[from].ty.element);
        if !found.matches(&wanted) {
            return Err(Error::msg(format!(
                "elements of type {found} do not fit into a table of {wanted}"
            )));
        }
        let size = vm.tables[from].len();
        let words = vm.tables[from].range(from_start, length);
        let words = words
            .ok_or_else(|| out_of_bounds(from_start, length, size))?
            .to_vec();
        let size = vm.tables[to].len();
        let elements = vm.tables[to].range_mut(to_start, length);
        elements
            .ok_or_else(|| out_of_bounds(to_start, length, size))?
            .copy_from_slice(&words);
        Ok(())
    }

    /// Adds `delta` elements that are `init` and answers the old size. Cost: a copy of the table, where it has to move.
    ///
    /// # Errors
    /// Beyond the maximum, no memory, or an `init` of another type or store; nothing changed then.
    pub fn grow(&self, mut store: impl AsContextMut, delta: u64, init: Val) -> Result<u64> {
        let mut context = store.as_context_mut();
        let index = self.index(context.vm())?;
        context.check(Asked::Growth(growth(index, delta, 0)))?;
        let word = element(init, context.vm().tables[index].ty, context.vm())?;
        let grow = growth(index, delta, word);
        grow.run_for_host(context.vm_mut()).or_else(|error| {
            context.tell_failure(grow)?;
            Err(error)
        })
    }

    /// As [`grow`](Table::grow), for a store whose limiter may wait: [`Store::limiter_async`](crate::Store::limiter_async).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancellation
    /// Dropped before it is ready, it has changed nothing.
    pub async fn grow_async(&self, mut store: impl AsContextMut, delta: u64, init: Val) -> Result<u64> {
        let mut context = store.as_context_mut();
        let index = self.index(context.vm())?;
        context
            .check_async(Asked::Growth(growth(index, delta, 0)))
            .await?;
        let word = element(init, context.vm().tables[index].ty, context.vm())?;
        growth(index, delta, word).run_for_host(context.vm_mut())
    }
}

fn out_of_bounds(start: u64, length: u64, size: u64) -> Error {
    Error::msg(format!(
        "{length} elements from {start} on lie beyond the end of a table of {size}"
    ))
}

/// What is asked for; what the new elements are is not the limiter's business.
fn growth(index: usize, elements: u64, init: u64) -> Grow {
    Grow::Table {
        index,
        elements,
        init,
    }
}
