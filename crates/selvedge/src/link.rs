//! Whether what is given fits what a module imports. Spec: core/valid/matching.

use crate::error::{Context, Error, Result};
use crate::externs::Extern;
use crate::linker::UnknownImportError;
use crate::module::ImportType;
use crate::vm::instance::Linked;
use crate::vm::linear::MemoryLayout;
use crate::vm::store::StoreVm;
use selvedge_compiler::{ExternType, FuncType, TableType, TagType};

/// A given import, checked against the type that is asked for.
pub(crate) fn check(vm: &StoreVm, import: &ImportType<'_>, given: &Extern) -> Result<Linked> {
    let (found, linked) = describe(vm, given)?;
    if fits(&import.ty(), &found) {
        Ok(linked)
    } else {
        Err(incompatible(import, &found))
    }
}

/// A host function that no store holds yet, checked.
pub(crate) fn check_func(import: &ImportType<'_>, ty: &FuncType) -> Result<()> {
    match import.ty() {
        ExternType::Func(wanted) if wanted == *ty => Ok(()),
        _ => Err(incompatible(import, &ExternType::Func(ty.clone()))),
    }
}

/// Nothing was given.
pub(crate) fn unknown(import: &ImportType<'_>) -> Error {
    Error::new(UnknownImportError::new(import))
}

fn incompatible(import: &ImportType<'_>, found: &ExternType) -> Error {
    let (module, name, wanted) = (import.module(), import.name(), import.ty());
    Error::msg(format!(
        "incompatible import type for `{module}::{name}`: expected {wanted}, found {found}"
    ))
}

/// The type of something given, as it is now, and its place in the store.
fn describe(vm: &StoreVm, given: &Extern) -> Result<(ExternType, Linked)> {
    Ok(match given {
        Extern::Func(func) => {
            let entry = func.entry(vm)?;
            (
                ExternType::Func(entry.ty.clone()),
                Linked::Func(entry.func_ref, entry.host.clone()),
            )
        }
        Extern::Table(table) => {
            let index = table.index(vm)?;
            let held = &vm.tables[index];
            let ty = TableType {
                minimum: held.len(),
                ..held.ty
            };
            (ExternType::Table(ty), Linked::Table(index as u32))
        }
        Extern::Memory(memory) => {
            let index = memory.index(vm)?;
            let held = vm.memories[index]
                .own()
                .context("a memory's handle names a shared memory")?;
            (
                ExternType::Memory(held.current_ty()),
                Linked::Memory(index as u32),
            )
        }
        Extern::SharedMemory(memory) => {
            let inner = memory.inner();
            let ty = inner.current_ty();
            let (found, wanted) = (inner.layout(), MemoryLayout::of(&ty, vm.engine.memory_style()));
            if found != wanted {
                return Err(Error::msg(format!(
                    "the shared memory was made by an engine with another memory style than the store's ({found:?}, not {wanted:?}): make it with `Store::engine`"
                )));
            }
            (ExternType::Memory(ty), Linked::Shared(inner.clone()))
        }
        Extern::Global(global) => {
            let index = global.index(vm)?;
            (
                ExternType::Global(vm.globals[index].ty),
                Linked::Global(index as u32),
            )
        }
        Extern::Tag(tag) => {
            let index = tag.index(vm)?;
            let ty = TagType::new(vm.tags[index as usize].ty.clone());
            (ExternType::Tag(ty), Linked::Tag(index))
        }
    })
}

/// Limits fit when there is at least as much as asked for, and no more may come than is allowed.
fn limits_fit(wanted: (u64, Option<u64>), found: (u64, Option<u64>)) -> bool {
    let maximum_fits = match (wanted.1, found.1) {
        (None, _) => true,
        (Some(wanted), Some(found)) => found <= wanted,
        (Some(_), None) => false,
    };
    found.0 >= wanted.0 && maximum_fits
}

fn fits(wanted: &ExternType, found: &ExternType) -> bool {
    match (wanted, found) {
        (ExternType::Func(wanted), ExternType::Func(found)) => wanted == found,
        (ExternType::Tag(wanted), ExternType::Tag(found)) => wanted == found,
        (ExternType::Global(wanted), ExternType::Global(found)) => match wanted.mutable {
            true => wanted == found,
            false => !found.mutable && found.content.matches(&wanted.content),
        },
        (ExternType::Table(wanted), ExternType::Table(found)) => {
            wanted.element == found.element
                && wanted.is_64 == found.is_64
                && limits_fit((wanted.minimum, wanted.maximum), (found.minimum, found.maximum))
        }
        (ExternType::Memory(wanted), ExternType::Memory(found)) => {
            wanted.is_64() == found.is_64()
                && wanted.is_shared() == found.is_shared()
                && wanted.page_size() == found.page_size()
                && limits_fit((wanted.minimum, wanted.maximum), (found.minimum, found.maximum))
        }
        _ => false,
    }
}
