//! The types of a module, group by group: those of functions, which may contain each other.
//!
//! Everything else that the type section can hold is refused by name here: structs and arrays, types that have others below or above
//! them. The section is valid when it comes here.

use wasmparser::{CompositeInnerType, RecGroup, SubType};

use crate::func_type::{Part, Shape};
use crate::{CompileError, FuncType, limits, parse};

/// The signatures of a group, in a module that has defined `types` before it, which count for `taken`.
pub(crate) fn signatures(
    types: &[FuncType],
    group: RecGroup,
    taken: &mut usize,
) -> Result<Vec<FuncType>, CompileError> {
    let mut shapes = Vec::with_capacity(group.types().len());
    let mut first = None;
    for (offset, ty) in group.into_types_and_offsets() {
        first.get_or_insert(offset);
        let shape = shape(types, &ty).map_err(|error| error.at(offset))?;
        limits::types(taken, shape.values(), offset)?;
        shapes.push(shape);
    }
    limits::signatures(FuncType::group(&shapes), first.unwrap_or(0))
}

fn shape(types: &[FuncType], ty: &SubType) -> Result<Shape, CompileError> {
    let refused = |what: &str| Err(CompileError::garbage_collection(0, what));
    let function = match &ty.composite_type.inner {
        CompositeInnerType::Func(function) => function,
        CompositeInnerType::Struct(_) => return refused("struct type"),
        CompositeInnerType::Array(_) => return refused("array type"),
        CompositeInnerType::Cont(_) => {
            return Err(CompileError::unsupported("stack switching", "continuation type"));
        }
    };
    if !ty.is_final || !ty.supertype_idxs.is_empty() {
        return refused("type with types below or above it");
    }
    let list = |list: &[wasmparser::ValType]| {
        let parts = list.iter().map(|ty| part(types, *ty));
        parts.collect::<Result<Vec<_>, _>>()
    };
    Ok(Shape {
        params: list(function.params())?,
        results: list(function.results())?,
    })
}

/// A type that is not among those before the group is in it, as the section is valid.
fn part(types: &[FuncType], ty: wasmparser::ValType) -> Result<Part, CompileError> {
    let wasmparser::ValType::Ref(reference) = ty else {
        return parse::val_type(types, ty).map(Part::Known);
    };
    let index = reference.type_index().and_then(|index| index.as_module_index());
    match index.and_then(|index| index.checked_sub(types.len() as u32)) {
        Some(place) => Ok(Part::Own {
            nullable: reference.is_nullable(),
            place,
        }),
        None => parse::val_type(types, ty).map(Part::Known),
    }
}
