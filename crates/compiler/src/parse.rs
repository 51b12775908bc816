//! From bytes to a [`ModuleInfo`] and the bodies of the functions, each section validated as it comes.

use std::collections::BTreeSet;

use wasmparser::{
    FuncToValidate, FuncValidator, FuncValidatorAllocations, FunctionBody, Parser, Payload, ValidPayload,
    Validator, ValidatorResources,
};

use crate::error::Origin;
use crate::layout::{VmCounts, VmLayout};
use crate::{
    CompileError, ConstExpr, ConstOp, DataMode, DataSegment, ElementItems, ElementMode, ElementSegment,
    Export, ExternIndex, ExternType, Features, FuncType, GlobalType, HeapType, Import, MemoryType,
    ModuleInfo, Proposal, RefType, Settings, TableType, TagType, ValType, const_expr, limits, rec_group,
};

/// A module, its functions still in Wasm.
pub(crate) struct Parsed<'a> {
    pub(crate) info: ModuleInfo,
    pub(crate) bodies: Vec<Body<'a>>,
}

/// A defined function's code, and what is needed to validate it.
pub(crate) struct Body<'a> {
    pub(crate) validate: FuncToValidate<ValidatorResources>,
    pub(crate) body: FunctionBody<'a>,
}

impl Body<'_> {
    /// Which function it is, for errors.
    pub(crate) fn origin(&self) -> Origin {
        Origin::Function {
            index: self.validate.index,
            offset: self.body.range().start,
        }
    }

    /// What validates the function, operator by operator.
    pub(crate) fn validator(
        &self,
        allocations: FuncValidatorAllocations,
    ) -> FuncValidator<ValidatorResources> {
        let FuncToValidate {
            ref resources,
            index,
            ty,
            features,
        } = self.validate;
        let validate = FuncToValidate {
            resources: resources.clone(),
            index,
            ty,
            features,
        };
        validate.into_validator(allocations)
    }
}

/// Reads a module and validates all of it but the functions' bodies, with the proposals of these settings.
pub(crate) fn parse<'a>(wasm: &'a [u8], settings: &Settings) -> Result<Parsed<'a>, CompileError> {
    limits::module_bytes(wasm.len())?;
    let features = settings.features;
    let mut reader = Reader {
        features,
        info: ModuleInfo::default(),
        bodies: Vec::new(),
        escaping: BTreeSet::new(),
        keep_debug: settings.keep_debug,
        type_values: 0,
    };
    let mut validator = Validator::new_with_features(features.flags());
    let mut parser = Parser::new(0);
    parser.set_features(features.flags());
    for payload in parser.parse_all(wasm) {
        let payload = payload?;
        if let ValidPayload::Func(validate, body) = validator.payload(&payload)? {
            reader.bodies.push(Body { validate, body });
        }
        let start = payload.as_section().map_or(0, |(_, range)| range.start);
        reader.payload(payload).map_err(|error| error.at(start))?;
    }
    Ok(reader.finish())
}

struct Reader<'a> {
    features: Features,
    info: ModuleInfo,
    bodies: Vec<Body<'a>>,
    /// The functions that get a record in the vmctx.
    escaping: BTreeSet<u32>,
    /// Whether sections for debuggers are kept.
    keep_debug: bool,
    /// What its types count for: see [`limits::types`].
    type_values: usize,
}

impl<'a> Reader<'a> {
    fn payload(&mut self, payload: Payload<'a>) -> Result<(), CompileError> {
        match payload {
            Payload::TypeSection(types) => each(types, |group| self.types(group)),
            Payload::ImportSection(imports) => each(imports.into_imports(), |import| self.import(import)),
            Payload::FunctionSection(functions) => each(functions, |ty| {
                self.info.functions.push(ty);
                Ok(())
            }),
            Payload::TableSection(tables) => each(tables, |table| self.table(&table)),
            Payload::MemorySection(memories) => each(memories, |memory| {
                self.info.memories.push(memory_type(&memory));
                Ok(())
            }),
            Payload::GlobalSection(globals) => each(globals, |global| self.global(&global)),
            Payload::TagSection(tags) => each(tags, |tag| {
                self.info.tags.push(tag.func_type_idx);
                Ok(())
            }),
            Payload::ExportSection(exports) => each(exports, |export| self.export(export)),
            Payload::ElementSection(elements) => each(elements, |element| self.element(element)),
            Payload::DataSection(segments) => each(segments, |data| self.data(data)),
            other => {
                self.around_the_sections(other);
                Ok(())
            }
        }
    }

    /// What is no list.
    fn around_the_sections(&mut self, payload: Payload<'a>) {
        let debug = &mut self.info.debug;
        match payload {
            Payload::StartSection { func, .. } => {
                self.escaping.insert(func);
                self.info.start = Some(func);
            }
            // Addresses in debug sections count from here ("DWARF for WebAssembly", code addresses).
            Payload::CodeSectionStart { unchecked_range, .. } => {
                debug.code_offset = unchecked_range.start as u32; // below 4 GiB: `limits::module_bytes`
            }
            Payload::CustomSection(section) => {
                debug.section(section.name(), section.data(), self.keep_debug);
                // Spec: appendix/custom: a malformed name section is ignored, as every custom section.
                if let wasmparser::KnownCustom::Name(names) = section.as_known() {
                    let _ = self.names(names);
                }
            }
            _ => {}
        }
    }

    fn types(&mut self, group: wasmparser::RecGroup) -> Result<(), CompileError> {
        let group = rec_group::signatures(&self.info.types, group, &mut self.type_values)?;
        self.info.types.extend(group);
        Ok(())
    }

    fn table(&mut self, table: &wasmparser::Table<'a>) -> Result<(), CompileError> {
        let ty = table_type(&self.info.types, &table.ty)?;
        self.info.tables.push(ty);
        let init = match &table.init {
            wasmparser::TableInit::RefNull => None,
            wasmparser::TableInit::Expr(init) => Some(self.const_expr(init)?),
        };
        self.info.table_inits.push(init);
        Ok(())
    }

    fn global(&mut self, global: &wasmparser::Global<'a>) -> Result<(), CompileError> {
        let ty = global_type(&self.info.types, &global.ty)?;
        self.info.globals.push(ty);
        let init = self.const_expr(&global.init_expr)?;
        self.info.global_inits.push(init);
        Ok(())
    }

    fn import(&mut self, import: wasmparser::Import<'a>) -> Result<(), CompileError> {
        let info = &mut self.info;
        let mut type_index = None;
        let ty = match import.ty {
            wasmparser::TypeRef::Func(index) | wasmparser::TypeRef::FuncExact(index) => {
                type_index = Some(index);
                info.functions.push(index);
                info.imported_functions += 1;
                ExternType::Func(info.types[index as usize].clone())
            }
            wasmparser::TypeRef::Table(ty) => {
                let ty = table_type(&info.types, &ty)?;
                info.tables.push(ty);
                info.imported_tables += 1;
                ExternType::Table(ty)
            }
            wasmparser::TypeRef::Memory(ty) => {
                let ty = memory_type(&ty);
                info.memories.push(ty);
                info.imported_memories += 1;
                ExternType::Memory(ty)
            }
            wasmparser::TypeRef::Global(ty) => {
                let ty = global_type(&info.types, &ty)?;
                info.globals.push(ty);
                info.imported_globals += 1;
                ExternType::Global(ty)
            }
            wasmparser::TypeRef::Tag(ty) => {
                type_index = Some(ty.func_type_idx);
                info.tags.push(ty.func_type_idx);
                info.imported_tags += 1;
                ExternType::Tag(TagType::new(info.types[ty.func_type_idx as usize].clone()))
            }
        };
        let (module, name) = (import.module.to_owned(), import.name.to_owned());
        info.imports.push(Import {
            module,
            name,
            ty,
            type_index,
        });
        Ok(())
    }

    fn export(&mut self, export: wasmparser::Export<'a>) -> Result<(), CompileError> {
        let index = match export.kind {
            wasmparser::ExternalKind::Func | wasmparser::ExternalKind::FuncExact => {
                self.escaping.insert(export.index);
                ExternIndex::Func(export.index)
            }
            wasmparser::ExternalKind::Table => ExternIndex::Table(export.index),
            wasmparser::ExternalKind::Memory => ExternIndex::Memory(export.index),
            wasmparser::ExternalKind::Global => ExternIndex::Global(export.index),
            wasmparser::ExternalKind::Tag => ExternIndex::Tag(export.index),
        };
        self.info.exports.push(Export {
            name: export.name.to_owned(),
            index,
        });
        Ok(())
    }

    fn element(&mut self, element: wasmparser::Element<'a>) -> Result<(), CompileError> {
        let mode = match element.kind {
            wasmparser::ElementKind::Active {
                table_index,
                offset_expr,
            } => {
                let offset = self.const_expr(&offset_expr)?;
                ElementMode::Active {
                    table: table_index.unwrap_or(0),
                    offset,
                }
            }
            wasmparser::ElementKind::Passive => ElementMode::Passive,
            wasmparser::ElementKind::Declared => ElementMode::Declared,
        };
        let (ty, items) = match element.items {
            wasmparser::ElementItems::Functions(functions) => {
                let functions = functions.into_iter().collect::<Result<Vec<_>, _>>()?;
                self.escaping.extend(&functions);
                (RefType::FUNCREF, ElementItems::Funcs(functions))
            }
            wasmparser::ElementItems::Expressions(ty, exprs) => {
                let exprs = exprs
                    .into_iter()
                    .map(|e| self.const_expr(&e?))
                    .collect::<Result<_, _>>()?;
                (ref_type(&self.info.types, ty)?, ElementItems::Exprs(exprs))
            }
        };
        self.info.elements.push(ElementSegment { mode, ty, items });
        Ok(())
    }

    fn data(&mut self, data: wasmparser::Data<'a>) -> Result<(), CompileError> {
        let mode = match data.kind {
            wasmparser::DataKind::Active {
                memory_index,
                offset_expr,
            } => DataMode::Active {
                memory: memory_index,
                offset: self.const_expr(&offset_expr)?,
            },
            wasmparser::DataKind::Passive => DataMode::Passive,
        };
        self.info.data.push(DataSegment {
            mode,
            bytes: data.data.into(),
        });
        Ok(())
    }

    /// A constant expression: nearly always a single operator and the end.
    fn const_expr(&mut self, expr: &wasmparser::ConstExpr<'_>) -> Result<ConstExpr, CompileError> {
        let mut operators = expr.get_operators_reader();
        let first = self.const_op(&operators.read()?)?;
        let mut next = operators.read()?;
        if let (ConstOp::Value(value), wasmparser::Operator::End) = (first, &next) {
            return Ok(value);
        }
        let start = self.info.const_ops.len();
        self.info.const_ops.push(first);
        while !matches!(next, wasmparser::Operator::End) {
            let op = self.const_op(&next)?;
            self.info.const_ops.push(op);
            next = operators.read()?;
        }
        let ops = &mut self.info.const_ops;
        Ok(match const_expr::fold(&ops[start..]) {
            Some(folded) => {
                ops.truncate(start);
                folded
            }
            None => ConstExpr::Extended(start as u32, ops.len() as u32),
        })
    }

    fn const_op(&mut self, operator: &wasmparser::Operator<'_>) -> Result<ConstOp, CompileError> {
        use wasmparser::Operator as Op;
        Ok(match operator {
            Op::I32Add => ConstOp::I32Add,
            Op::I32Sub => ConstOp::I32Sub,
            Op::I32Mul => ConstOp::I32Mul,
            Op::I64Add => ConstOp::I64Add,
            Op::I64Sub => ConstOp::I64Sub,
            Op::I64Mul => ConstOp::I64Mul,
            value => ConstOp::Value(self.const_value(value)?),
        })
    }

    fn const_value(&mut self, operator: &wasmparser::Operator<'_>) -> Result<ConstExpr, CompileError> {
        use wasmparser::Operator as Op;
        Ok(match *operator {
            Op::I32Const { value } => ConstExpr::I32(value),
            Op::I64Const { value } => ConstExpr::I64(value),
            Op::F32Const { value } => ConstExpr::F32(value.bits()),
            Op::F64Const { value } => ConstExpr::F64(value.bits()),
            Op::V128Const { value } => ConstExpr::V128(u128::from_le_bytes(*value.bytes())),
            Op::GlobalGet { global_index } => self.const_global(global_index)?,
            Op::RefNull { .. } => ConstExpr::RefNull,
            Op::RefFunc { function_index } => {
                self.escaping.insert(function_index);
                ConstExpr::RefFunc(function_index)
            }
            _ => {
                return Err(CompileError::garbage_collection(
                    0,
                    format!("constant {operator:?}"),
                ));
            }
        })
    }

    /// The value of an earlier global that cannot be set: if it is known now, that.
    fn const_global(&self, global: u32) -> Result<ConstExpr, CompileError> {
        let Some(defined) = global.checked_sub(self.info.imported_globals) else {
            return Ok(ConstExpr::GlobalGet(global));
        };
        self.features.require(Proposal::ExtendedConst)?;
        Ok(match self.info.global_inits[defined as usize] {
            value if value.is_known() => value,
            _ => ConstExpr::GlobalGet(global),
        })
    }

    fn names(&mut self, names: wasmparser::NameSectionReader<'a>) -> wasmparser::Result<()> {
        for subsection in names {
            match subsection? {
                wasmparser::Name::Module { name, .. } => self.info.name = Some(name.to_owned()),
                wasmparser::Name::Function(functions) => {
                    for naming in functions {
                        let naming = naming?;
                        self.info
                            .function_names
                            .push((naming.index, naming.name.to_owned()));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(self) -> Parsed<'a> {
        let mut info = self.info;
        info.function_names.sort_by_key(|(index, _)| *index);
        info.function_names.dedup_by_key(|(index, _)| *index);
        let counts = VmCounts {
            functions: info.functions.len() as u32,
            imported_functions: info.imported_functions,
            memories: info.memories.len() as u32,
            tables: info.tables.len() as u32,
            imported_globals: info.imported_globals,
            defined_globals: info.globals.len() as u32 - info.imported_globals,
            types: info.types.len() as u32,
            tags: info.tags.len() as u32,
        };
        info.layout = VmLayout::new(counts, self.escaping.into_iter().collect());
        Parsed {
            info,
            bodies: self.bodies,
        }
    }
}

/// Reads the items of a section, up to the first that is wrong.
fn each<T>(
    items: impl IntoIterator<Item = wasmparser::Result<T>>,
    mut read: impl FnMut(T) -> Result<(), CompileError>,
) -> Result<(), CompileError> {
    for item in items {
        read(item?)?;
    }
    Ok(())
}

/// What validation should have refused; said instead of panicking.
fn unexpected(what: &str) -> CompileError {
    CompileError::Invalid {
        offset: 0,
        message: format!("unexpected {what}"),
    }
}

/// A value's type, in a module that has defined `types` so far.
pub(crate) fn val_type(types: &[FuncType], ty: wasmparser::ValType) -> Result<ValType, CompileError> {
    Ok(match ty {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        wasmparser::ValType::Ref(ty) => ValType::Ref(ref_type(types, ty)?),
    })
}

fn ref_type(types: &[FuncType], ty: wasmparser::RefType) -> Result<RefType, CompileError> {
    Ok(RefType::new(ty.is_nullable(), heap_type(types, ty.heap_type())?))
}

/// What a reference refers to, in a module that has defined `types` so far.
pub(crate) fn heap_type(types: &[FuncType], ty: wasmparser::HeapType) -> Result<HeapType, CompileError> {
    use wasmparser::AbstractHeapType as Abstract;
    Ok(match ty {
        wasmparser::HeapType::Abstract { shared: false, ty } => match ty {
            Abstract::Func => HeapType::Func,
            Abstract::NoFunc => HeapType::NoFunc,
            Abstract::Extern => HeapType::Extern,
            Abstract::NoExtern => HeapType::NoExtern,
            Abstract::Exn => HeapType::Exn,
            Abstract::NoExn => HeapType::NoExn,
            _ => {
                return Err(CompileError::garbage_collection(
                    0,
                    format!("reference type {ty:?}"),
                ));
            }
        },
        wasmparser::HeapType::Concrete(index) => {
            let index = index.as_module_index().map(|index| index as usize);
            let ty = index.and_then(|index| types.get(index));
            let recursive = || CompileError::garbage_collection(0, "recursive type");
            HeapType::ConcreteFunc(ty.ok_or_else(recursive)?.id())
        }
        _ => return Err(unexpected("heap type")),
    })
}

fn table_type(types: &[FuncType], ty: &wasmparser::TableType) -> Result<TableType, CompileError> {
    Ok(TableType {
        element: ref_type(types, ty.element_type)?,
        is_64: ty.table64,
        minimum: ty.initial,
        maximum: ty.maximum,
    })
}

fn memory_type(ty: &wasmparser::MemoryType) -> MemoryType {
    let new = match ty.memory64 {
        true => MemoryType::new64,
        false => MemoryType::new,
    };
    let mut memory = new(ty.initial, ty.maximum);
    if let Some(log2) = ty.page_size_log2 {
        memory = memory.with_page_size_log2(log2 as u8);
    }
    if ty.shared {
        memory = memory.with_shared();
    }
    memory
}

fn global_type(types: &[FuncType], ty: &wasmparser::GlobalType) -> Result<GlobalType, CompileError> {
    Ok(GlobalType {
        content: val_type(types, ty.content_type)?,
        mutable: ty.mutable,
    })
}
