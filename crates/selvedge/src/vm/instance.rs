//! Instances: the steps of instantiation.
//!
//! The memory of an instance is in `instance/block.rs`.
//!
//! Invariant: what a vmctx points to (definitions, cells, records) belongs to the same store.

mod block;

pub(crate) use block::{InstanceBox, InstanceVm};

use super::host::HostFunc;
use super::racing;
use super::shared::{MemoryVm, SharedLinear};
use super::store::{StoreVm, TagEntry};
use super::vmctx::{VMFuncRef, VMImportedFunc, VMMemoryRef, VMTable, ValRaw};
use crate::error::{Error, Result};
use crate::module::Module;
use crate::room;
use crate::trap::Trap;
use selvedge_compiler::{
    ConstExpr, DataMode, ElementItems, ElementMode, ExternIndex, FuncType, GlobalType, ModuleInfo,
    evaluate_const,
};
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;

/// What an import was linked to, checked already.
pub(crate) enum Linked {
    /// A function that a handle of this store names: its record, and the host function if it is one.
    Func(NonNull<VMFuncRef>, Option<Arc<HostFunc>>),
    /// A host function that no store holds yet.
    Host(Arc<HostFunc>),
    /// By index in the store.
    Table(u32),
    Memory(u32),
    Global(u32),
    Tag(u32),
    /// A memory of no store.
    Shared(Arc<SharedLinear>),
}

impl InstanceVm {
    /// The store's number of a tag.
    pub(crate) fn tag(&self, index: u32) -> u32 {
        let place = self.at::<u32>(self.layout().tag_id(index));
        // SAFETY: written by `link_objects`, inside the vmctx.
        unsafe { place.read() }
    }

    /// The bytes of a data segment; none when it was dropped.
    pub(crate) fn data(&self, segment: u32) -> &[u8] {
        match self.is_data_dropped(segment) {
            true => &[],
            false => &self.info().data[segment as usize].bytes,
        }
    }

    /// The record of a function that escapes.
    pub(crate) fn func_ref(&self, function: u32) -> Option<NonNull<VMFuncRef>> {
        let offset = self.layout().func_ref(function)?;
        NonNull::new(self.at(offset))
    }

    /// The address of a global's cell.
    fn global_cell(&self, global: u32) -> *mut ValRaw {
        let imported = self.info().imported_globals;
        if global < imported {
            let entry = self.at::<*mut ValRaw>(self.layout().imported_global(global));
            // SAFETY: written by `link`, inside the vmctx.
            unsafe { entry.read() }
        } else {
            self.at(self.layout().defined_global(global - imported))
        }
    }

    /// The cells of the globals that the instance defines, with their types.
    pub(crate) fn defined_globals(&self) -> impl Iterator<Item = (*mut ValRaw, GlobalType)> + '_ {
        let defined = self.info().imported_globals..self.info().globals.len() as u32;
        defined.map(|global| (self.global_cell(global), self.info().globals[global as usize]))
    }

    /// The value of a constant expression, as a cell holds it; a table element is its low word.
    fn evaluate(&self, expr: &ConstExpr) -> ValRaw {
        match *expr {
            ConstExpr::I32(value) => ValRaw::from_u32(value as u32),
            ConstExpr::I64(value) => ValRaw::from_u64(value as u64),
            ConstExpr::F32(bits) => ValRaw::from_u32(bits),
            ConstExpr::F64(bits) => ValRaw::from_u64(bits),
            ConstExpr::V128(bits) => ValRaw::from_u128(bits),
            ConstExpr::RefNull => ValRaw::ZERO,
            ConstExpr::RefFunc(function) => ValRaw::from_u64(self.func_ref_word(function)),
            ConstExpr::GlobalGet(global) => {
                // SAFETY: a cell of this store (the head's invariant); no generated code runs meanwhile.
                unsafe { self.global_cell(global).read() }
            }
            ConstExpr::Extended(start, end) => {
                let ops = &self.info().const_ops[start as usize..end as usize];
                let word = evaluate_const(ops, |value| Some(self.evaluate(&value).u64()));
                ValRaw::from_u64(word.expect("validated"))
            }
            ref other => unreachable!("constant expression {other:?} is not known here"),
        }
    }

    /// The value of a constant expression that is an address or an index. An i32 may be a cell's, whose other bytes are
    /// unspecified.
    fn address(&self, expr: &ConstExpr, is_64: bool) -> u64 {
        let value = self.evaluate(expr);
        if is_64 {
            value.u64()
        } else {
            u64::from(value.u32())
        }
    }

    fn func_ref_word(&self, function: u32) -> u64 {
        let record = self
            .func_ref(function)
            .expect("a function that is referred to escapes");
        record.as_ptr() as u64
    }

    /// Element `index` of an element segment.
    fn element(&self, segment: u32, index: usize) -> u64 {
        match &self.info().elements[segment as usize].items {
            ElementItems::Funcs(functions) => self.func_ref_word(functions[index]),
            ElementItems::Exprs(exprs) => self.evaluate(&exprs[index]).u64(),
        }
    }

    fn element_count(&self, segment: u32) -> u64 {
        match self.are_elements_dropped(segment) {
            true => 0,
            false => self.info().elements[segment as usize].items.len() as u64,
        }
    }
}

/// Whether `table.init` of `length` references, from `src` of a segment to `dst` of a table, stays inside of both.
///
/// # Errors
/// It does not.
pub(crate) fn check_table_init(
    store: &StoreVm,
    instance: &InstanceVm,
    table: u32,
    segment: u32,
    [dst, src, length]: [u64; 3],
) -> std::result::Result<(), Trap> {
    let table = &store.tables[instance.tables()[table as usize] as usize];
    let end = src.checked_add(length);
    let fits = end.is_some_and(|end| end <= instance.element_count(segment));
    match fits && table.range(dst, length).is_some() {
        true => Ok(()),
        false => Err(Trap::TableOutOfBounds),
    }
}

/// `table.init`.
///
/// # Errors
/// As for [`check_table_init`]; nothing was written then.
pub(crate) fn table_init(
    store: &mut StoreVm,
    instance: &InstanceVm,
    table: u32,
    segment: u32,
    [dst, src, length]: [u64; 3],
) -> std::result::Result<(), Trap> {
    check_table_init(store, instance, table, segment, [dst, src, length])?;
    let table = &mut store.tables[instance.tables()[table as usize] as usize];
    let elements = table.range_mut(dst, length).ok_or(Trap::TableOutOfBounds)?;
    for (element, index) in elements.iter_mut().zip(src as usize..) {
        *element = instance.element(segment, index);
    }
    Ok(())
}

/// Copies a data segment.
fn copy_data(memory: &mut MemoryVm, offset: u64, data: &[u8]) -> std::result::Result<(), Trap> {
    let end = offset.checked_add(data.len() as u64);
    if end.is_none_or(|end| end > memory.length_bytes()) {
        return Err(Trap::MemoryOutOfBounds);
    }
    let offset = offset as usize;
    match memory.own_mut() {
        Some(memory) => memory.as_mut_slice()[offset..][..data.len()].copy_from_slice(data),
        None => {
            let to = memory.base().wrapping_add(offset);
            // SAFETY: inside, as just compared, and a shared memory does not shrink; the segment is never written.
            unsafe { racing::copy(data.as_ptr(), to, data.len()) };
        }
    }
    Ok(())
}

impl StoreVm {
    /// Makes an instance of `module` with imports that match its types. The start function is left to the caller.
    ///
    /// # Errors
    /// A memory or table that cannot be had; a trap of an active segment. What segments wrote before it stays, as
    /// the specification says, and the instance stays too: its functions may be in tables.
    pub(crate) fn instantiate(&mut self, module: &Module, imports: Vec<Linked>) -> Result<u32> {
        let info = module.info();
        let (mut memories, mut tables) = self.split(info, &imports)?;
        // All are made before one is added, so that a failure leaves nothing in the store.
        let style = self.engine.memory_style();
        let pool = self.engine.memories().clone();
        let own = info
            .memories
            .iter()
            .zip(0..)
            .skip(info.imported_memories as usize);
        let own_memories = own.map(|(ty, index)| MemoryVm::new(ty, style, &pool, module.image(index)));
        let own_memories = room::collect(own_memories, "an instance's memories")?;
        let own = info.tables[info.imported_tables as usize..].iter();
        let own_tables = room::collect(own.map(|ty| self.new_table(*ty, 0)), "an instance's tables")?;
        let own = info.imported_tags..info.tags.len() as u32;
        let own_tags = own.map(|tag| TagEntry::new(info.tag_type(tag).clone()));
        let own_tags = room::collect(own_tags, "an instance's tags")?;
        let is_host = |import: &&Linked| matches!(import, Linked::Func(_, Some(_)) | Linked::Host(_));
        let host_records = imports.iter().filter(is_host).count() as u32;
        let mut instance = InstanceBox::new(module.clone(), self.this(), host_records)?;
        self.reserve(own_memories.len(), own_tables.len(), own_tags.len())?;
        for memory in own_memories {
            memories.push(self.add_memory(memory)?);
        }
        for table in own_tables {
            tables.push(self.add_table(table)?);
        }
        instance.set_objects(&memories, &tables);
        for (index, id) in module.type_ids().iter().enumerate() {
            instance.write(info.layout.type_id(index as u32), *id);
        }
        self.link_funcs(&mut instance, &imports);
        self.link_objects(&instance, &imports, own_tags)?;
        self.write_func_refs(&instance);
        self.fill_tables(&instance);
        for (index, init) in info.global_inits.iter().enumerate() {
            let cell = info.layout.defined_global(index as u32);
            instance.write(cell, instance.evaluate(init));
        }
        self.instances.push(instance);
        let index = self.instances.len() as u32 - 1;
        self.write_segments(index)?;
        Ok(index)
    }

    /// The memories and tables among the imports, for the front of the instance's index spaces, and room for its own.
    fn split(&mut self, info: &ModuleInfo, imports: &[Linked]) -> Result<(Vec<u32>, Vec<u32>)> {
        let (mut memories, mut tables) = (Vec::new(), Vec::new());
        room::reserve(&mut memories, info.memories.len(), "an instance's memories")?;
        room::reserve(&mut tables, info.tables.len(), "an instance's tables")?;
        for import in imports {
            match import {
                Linked::Memory(index) => memories.push(*index),
                Linked::Shared(memory) => memories.push(self.add_shared(memory)?),
                Linked::Table(index) => tables.push(*index),
                _ => {}
            }
        }
        Ok((memories, tables))
    }

    /// Writes the imported functions' code and contexts.
    fn link_funcs(&mut self, instance: &mut InstanceBox, imports: &[Linked]) {
        let address = instance.as_ptr();
        let (mut index, mut records) = (0, 0);
        let fuel = self.engine.fuel();
        for import in imports {
            let entry = match import {
                Linked::Func(record, None) => {
                    // SAFETY: a record of this store, as the caller checked.
                    let record = unsafe { record.read() };
                    VMImportedFunc {
                        code: record.code,
                        ctx: record.ctx,
                    }
                }
                Linked::Func(_, Some(host)) | Linked::Host(host) => {
                    let record = self.host_record(host, address);
                    mem::forget(host.clone());
                    // SAFETY: the count that was just forgotten.
                    let record = unsafe { instance.set_record(records, record) };
                    records += 1;
                    VMImportedFunc {
                        code: host
                            .code(fuel)
                            .unwrap_or_else(|| instance.module.import_trampoline(index)),
                        ctx: record.cast(),
                    }
                }
                _ => continue,
            };
            instance.write(instance.layout().imported_function(index), entry);
            index += 1;
        }
    }

    /// Writes where memories, tables and imported globals are, and the tags.
    ///
    /// # Errors
    /// No room in the store for its tags.
    fn link_objects(
        &mut self,
        instance: &InstanceVm,
        imports: &[Linked],
        own_tags: Vec<TagEntry>,
    ) -> Result<()> {
        let layout = instance.layout();
        for (index, memory) in instance.memories().iter().enumerate() {
            let memory = &self.memories[*memory as usize];
            let def = memory.vm();
            let base = memory.base();
            instance.write(layout.memory(index as u32), VMMemoryRef { def, base });
        }
        for (index, table) in instance.tables().iter().enumerate() {
            let def: *mut VMTable = self.tables[*table as usize].vm();
            instance.write(layout.table(index as u32), def);
        }
        let imported = imports.iter().filter_map(|import| match import {
            Linked::Tag(tag) => Some(*tag),
            _ => None,
        });
        for (index, tag) in imported.enumerate() {
            instance.write(layout.tag_id(index as u32), tag);
        }
        for (index, tag) in (instance.info().imported_tags..).zip(own_tags) {
            let tag = self.add_tag(tag)?;
            instance.write(layout.tag_id(index), tag);
        }
        let globals = imports.iter().filter_map(|import| match import {
            Linked::Global(global) => Some(*global),
            _ => None,
        });
        for (index, global) in globals.enumerate() {
            let cell = self.globals[global as usize].cell;
            instance.write(layout.imported_global(index as u32), cell);
        }
        Ok(())
    }

    /// Writes the records of the functions that escape.
    fn write_func_refs(&mut self, instance: &InstanceVm) {
        let info = instance.info();
        for (function, offset) in instance.layout().func_refs() {
            let type_index = info.functions[function as usize];
            let (code, ctx) = if function < info.imported_functions {
                let entry = instance.at::<VMImportedFunc>(instance.layout().imported_function(function));
                // SAFETY: written by `link_funcs`.
                let entry = unsafe { entry.read() };
                (entry.code, entry.ctx)
            } else {
                (instance.module.function(function), instance.vmctx())
            };
            let record = VMFuncRef {
                code,
                ctx,
                entry: instance.module.entry_trampoline(type_index),
                type_id: instance.module.type_ids()[type_index as usize],
            };
            instance.write(offset, record);
        }
    }

    /// Writes the first values of the instance's own tables, where they are not null. No global of its own counts for them.
    fn fill_tables(&mut self, instance: &InstanceVm) {
        let info = instance.info();
        let own = &instance.tables()[info.imported_tables as usize..];
        for (table, init) in own.iter().zip(&info.table_inits) {
            if let Some(init) = init {
                let value = instance.evaluate(init).u64();
                self.tables[*table as usize].fill(value);
            }
        }
    }

    /// Writes the active segments: elements, then data, each in order.
    fn write_segments(&mut self, index: u32) -> Result<()> {
        let instance = self.instances[index as usize].as_ptr();
        // SAFETY: kept by this store at an address of its own; nothing below makes or drops an instance.
        let instance = unsafe { &mut *instance };
        let module = instance.module.clone();
        let written = self.write_elements(instance, &module).map_err(|error| (0, error));
        let written = written.and_then(|()| self.write_data(instance, &module));
        written.map_err(|(segment, error)| {
            self.take_images_back(instance, &module, segment);
            error
        })
    }

    fn write_elements(&mut self, instance: &mut InstanceVm, module: &Module) -> Result<()> {
        for (segment, element) in module.info().elements.iter().enumerate() {
            let segment = segment as u32;
            if let ElementMode::Active { table, ref offset } = element.mode {
                let is_64 = module.info().tables[table as usize].is_64;
                let offset = instance.address(offset, is_64);
                let length = element.items.len() as u64;
                table_init(self, instance, table, segment, [offset, 0, length]).map_err(|trap| {
                    Error::from(trap).context(format!(
                        "element segment {segment} does not fit: {length} elements from {offset} on"
                    ))
                })?;
            }
            if element.mode != ElementMode::Passive {
                instance.drop_elements(segment);
            }
        }
        Ok(())
    }

    /// Copies the data segments, but for those that images hold. The first that does not fit is named beside the error.
    fn write_data(
        &mut self,
        instance: &mut InstanceVm,
        module: &Module,
    ) -> std::result::Result<(), (usize, Error)> {
        for (segment, data) in module.info().data.iter().enumerate() {
            let DataMode::Active { memory, ref offset } = data.mode else {
                continue;
            };
            if module.image(memory).is_none() {
                let is_64 = module.info().memories[memory as usize].is_64();
                let offset = instance.address(offset, is_64);
                let memory = &mut self.memories[instance.memories()[memory as usize] as usize];
                copy_data(memory, offset, &data.bytes).map_err(|trap| {
                    let what = format!(
                        "data segment {segment} does not fit: {} bytes from {offset} on",
                        data.bytes.len()
                    );
                    (segment, Error::from(trap).context(what))
                })?;
            }
            instance.drop_data(segment as u32);
        }
        Ok(())
    }

    /// A segment did not fit: images held also those that come after it, which must not be there. Somebody may see the memory
    /// yet, by a function that an element segment put into a table of another instance.
    #[cold]
    fn take_images_back(&mut self, instance: &InstanceVm, module: &Module, segment: usize) {
        let info = module.info();
        for memory in info.imported_memories..info.memories.len() as u32 {
            let Some(image) = module.image(memory) else {
                continue;
            };
            let place = instance.memories()[memory as usize] as usize;
            let bytes = self.memories[place].own_mut().expect("a memory with an image");
            bytes.as_mut_slice()[image.range()].fill(0);
        }
        for data in &info.data[..segment] {
            match data.mode {
                DataMode::Active { memory, ref offset } if module.image(memory).is_some() => {
                    let offset = instance.address(offset, false);
                    let memory = &mut self.memories[instance.memories()[memory as usize] as usize];
                    copy_data(memory, offset, &data.bytes).expect("an image's segment fits");
                }
                _ => {}
            }
        }
    }

    /// The handle index of a function of an instance.
    pub(crate) fn instance_func(&mut self, instance: u32, function: u32) -> u32 {
        let vm = &self.instances[instance as usize];
        let record = vm.func_ref(function).expect("an exported function escapes");
        let ty = vm.info().function_type(function).clone();
        let host = vm.host_func(function);
        self.func_index(record, || (ty, host))
    }

    /// The handle index of a global of an instance.
    pub(crate) fn instance_global(&mut self, instance: u32, global: u32) -> u32 {
        let vm = &self.instances[instance as usize];
        let ty = vm.info().globals[global as usize];
        let cell = vm.global_cell(global);
        self.global_index(cell, ty)
    }

    /// The function record behind an export, without making a handle.
    pub(crate) fn exported_func(&self, instance: u32, name: &str) -> Option<(NonNull<VMFuncRef>, &FuncType)> {
        let vm = &self.instances[instance as usize];
        match vm.module.export(name)? {
            ExternIndex::Func(function) => Some((vm.func_ref(function)?, vm.info().function_type(function))),
            _ => None,
        }
    }
}
