//! What can be imported and exported: [`Extern`].

use crate::error::{Error, Result};
use crate::exception::Tag;
use crate::func::Func;
use crate::global::Global;
use crate::memory::Memory;
use crate::module::{Module, ModuleExport};
use crate::shared_memory::SharedMemory;
use crate::store::{AsContext, AsContextMut, Caller};
use crate::table::Table;
use crate::value::Val;
use crate::vm::shared::MemoryVm;
use crate::vm::store::StoreVm;
use selvedge_compiler::{ExternIndex, ExternType, ValType};

/// Something that can be imported and exported. A handle, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Extern {
    /// A function.
    Func(Func),
    /// A table.
    Table(Table),
    /// A linear memory.
    Memory(Memory),
    /// A linear memory that other stores may use too.
    SharedMemory(SharedMemory),
    /// A global.
    Global(Global),
    /// An exception tag.
    Tag(Tag),
}

impl Extern {
    /// The function, if it is one.
    pub fn into_func(self) -> Option<Func> {
        if let Extern::Func(func) = self {
            Some(func)
        } else {
            None
        }
    }

    /// The table, if it is one.
    pub fn into_table(self) -> Option<Table> {
        if let Extern::Table(table) = self {
            Some(table)
        } else {
            None
        }
    }

    /// The memory, if it is one.
    pub fn into_memory(self) -> Option<Memory> {
        if let Extern::Memory(memory) = self {
            Some(memory)
        } else {
            None
        }
    }

    /// The shared memory, if it is one.
    pub fn into_shared_memory(self) -> Option<SharedMemory> {
        if let Extern::SharedMemory(memory) = self {
            Some(memory)
        } else {
            None
        }
    }

    /// The global, if it is one.
    pub fn into_global(self) -> Option<Global> {
        if let Extern::Global(global) = self {
            Some(global)
        } else {
            None
        }
    }

    /// The exception tag, if it is one.
    pub fn into_tag(self) -> Option<Tag> {
        if let Extern::Tag(tag) = self {
            Some(tag)
        } else {
            None
        }
    }

    /// Its type. Of a memory or a table, the minimum is the size it has now.
    ///
    /// # Panics
    /// With another store than its own.
    pub fn ty(&self, store: impl AsContext) -> ExternType {
        match self {
            Extern::Func(func) => ExternType::Func(func.ty(store)),
            Extern::Table(table) => ExternType::Table(table.ty(store)),
            Extern::Memory(memory) => ExternType::Memory(memory.ty(store)),
            Extern::SharedMemory(memory) => ExternType::Memory(memory.ty()),
            Extern::Global(global) => ExternType::Global(global.ty(store)),
            Extern::Tag(tag) => ExternType::Tag(tag.ty(store)),
        }
    }

    /// Something of a type that is zero, null or as small as may be, made in a store: a function returns zeros and nulls.
    ///
    /// # Errors
    /// A type without a default value, such as of references that are never null, and what making such a thing ends with: [`Memory::new`] and the
    /// others.
    #[doc(alias = "default_value")]
    pub fn default_for<S: AsContextMut<Data: 'static>>(mut store: S, ty: ExternType) -> Result<Extern> {
        Ok(match ty {
            ExternType::Func(ty) => {
                let zeros = ty.results().iter().map(|ty| Val::default_for(*ty));
                let zeros = zeros.collect::<Result<Vec<Val>>>()?;
                let f = move |_: Caller<'_, S::Data>, _: &[Val], results: &mut [Val]| {
                    results.copy_from_slice(&zeros);
                    Ok(())
                };
                Func::new(store, ty, f)?.into()
            }
            ExternType::Table(ty) => {
                let init = Val::default_for(ValType::Ref(ty.element))?;
                Table::new(store, ty, init)?.into()
            }
            ExternType::Memory(ty) if ty.is_shared() => {
                SharedMemory::new(store.as_context_mut().engine(), ty)?.into()
            }
            ExternType::Memory(ty) => Memory::new(store, ty)?.into(),
            ExternType::Global(ty) => Global::new(store, ty, Val::default_for(ty.content)?)?.into(),
            ExternType::Tag(ty) => Tag::new(store, ty)?.into(),
            other => return Err(Error::msg(format!("{other} has no default value"))),
        })
    }

    /// An export of an instance, by its index in the store.
    pub(crate) fn of_export(vm: &mut StoreVm, instance: u32, name: &str) -> Option<Extern> {
        let index = vm.instances[instance as usize].module.export(name)?;
        Extern::of_index(vm, instance, index).or_none()
    }

    /// An export of an instance that was looked up in its module, if it was that module.
    pub(crate) fn of_module_export(vm: &mut StoreVm, instance: u32, export: &ModuleExport) -> Option<Extern> {
        let is_its = Module::same(&vm.instances[instance as usize].module, &export.module);
        match is_its {
            true => Extern::of_index(vm, instance, export.index).or_none(),
            false => None,
        }
    }

    /// None where there was no memory for the handle.
    fn or_none(self) -> Option<Extern> {
        match &self {
            Extern::Func(func) if func.is_none() => None,
            Extern::Global(global) if global.is_none() => None,
            _ => Some(self),
        }
    }

    /// As [`of_export`](Extern::of_export). Where there was no memory for a handle, its use is an error.
    pub(crate) fn of_index(vm: &mut StoreVm, instance: u32, index: ExternIndex) -> Extern {
        let held = &vm.instances[instance as usize];
        match index {
            ExternIndex::Func(func) => {
                Extern::Func(Func::new_handle(vm.id, vm.instance_func(instance, func)))
            }
            ExternIndex::Table(table) => {
                Extern::Table(Table::new_handle(vm.id, held.tables()[table as usize]))
            }
            ExternIndex::Memory(memory) => {
                let index = held.memories()[memory as usize];
                match &vm.memories[index as usize] {
                    MemoryVm::Own(_) => Extern::Memory(Memory::new_handle(vm.id, index)),
                    MemoryVm::Shared(memory) => Extern::SharedMemory(SharedMemory::of(memory.clone())),
                }
            }
            ExternIndex::Global(global) => {
                Extern::Global(Global::new_handle(vm.id, vm.instance_global(instance, global)))
            }
            ExternIndex::Tag(tag) => Extern::Tag(Tag::new_handle(vm.id, held.tag(tag))),
            other => unreachable!("exports of kind {other:?} are refused by the compiler"),
        }
    }
}

impl From<Tag> for Extern {
    fn from(tag: Tag) -> Extern {
        Extern::Tag(tag)
    }
}

impl From<Func> for Extern {
    fn from(func: Func) -> Extern {
        Extern::Func(func)
    }
}

impl From<Table> for Extern {
    fn from(table: Table) -> Extern {
        Extern::Table(table)
    }
}

impl From<Memory> for Extern {
    fn from(memory: Memory) -> Extern {
        Extern::Memory(memory)
    }
}

impl From<SharedMemory> for Extern {
    fn from(memory: SharedMemory) -> Extern {
        Extern::SharedMemory(memory)
    }
}

impl From<Global> for Extern {
    fn from(global: Global) -> Extern {
        Extern::Global(global)
    }
}
