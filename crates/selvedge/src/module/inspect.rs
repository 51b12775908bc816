//! What a module is made of, for those who look at it from outside: its code, what an instance takes, exports by a name looked up once.

use super::Module;
use selvedge_compiler::{ExternIndex, MemoryType};
use std::ops::Range;
use std::sync::Arc;

/// What one instance of a module makes: see [`Module::resources_required`]. Imports are not counted: somebody else has made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourcesRequired {
    /// How many memories.
    pub memories: u32,
    /// How many bytes they begin with, together.
    pub memory_bytes: u64,
    /// How many bytes the largest of them begins with; 0 without memories.
    pub largest_memory_bytes: u64,
    /// How many tables.
    pub tables: u32,
    /// How many elements they begin with, together.
    pub table_elements: u64,
    /// How many elements the largest of them begins with; 0 without tables.
    pub largest_table_elements: u64,
}

/// A function of a module's code: see [`Module::functions`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleFunction {
    /// Its index in the module, imported functions counted.
    pub index: u32,
    /// Its name in the module's name section, as written there.
    pub name: Option<String>,
    /// Where its code is: offsets in bytes from the start of [`Module::text`].
    pub code: Range<u32>,
}

/// An export of a module, looked up by name once: [`Module::get_export_index`]. It holds the module.
#[derive(Clone, Debug)]
pub struct ModuleExport {
    pub(crate) module: Module,
    pub(crate) index: ExternIndex,
}

impl Module {
    /// Whether two handles are of one compiled module. The same bytes compiled twice are two.
    pub fn same(a: &Module, b: &Module) -> bool {
        Arc::ptr_eq(&a.inner, &b.inner)
    }

    /// An export, for [`Instance::get_module_export`](crate::Instance::get_module_export) to find in any instance without comparing names.
    pub fn get_export_index(&self, name: &str) -> Option<ModuleExport> {
        let index = self.export(name)?;
        let module = self.clone();
        Some(ModuleExport { module, index })
    }

    /// What one instance makes, so that a host knows before it makes one. Besides, an instance is an allocation that grows with
    /// what the module imports and exports: 144 bytes with one function of each.
    ///
    /// ```
    /// # use selvedge::{Engine, Module};
    /// let module = Module::new(&Engine::default(), "(module (memory 2) (memory 3) (table 10 funcref))")?;
    /// let required = module.resources_required();
    /// assert_eq!((required.memories, required.memory_bytes), (2, 5 * 65_536));
    /// assert_eq!((required.tables, required.table_elements), (1, 10));
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    pub fn resources_required(&self) -> ResourcesRequired {
        let info = self.info();
        let bytes = |ty: &MemoryType| ty.minimum.saturating_mul(ty.page_size());
        let memories = &info.memories[info.imported_memories as usize..];
        let tables = &info.tables[info.imported_tables as usize..];
        ResourcesRequired {
            memories: memories.len() as u32,
            memory_bytes: memories.iter().map(bytes).fold(0, u64::saturating_add),
            largest_memory_bytes: memories.iter().map(bytes).max().unwrap_or(0),
            tables: tables.len() as u32,
            table_elements: tables.iter().map(|ty| ty.minimum).fold(0, u64::saturating_add),
            largest_table_elements: tables.iter().map(|ty| ty.minimum).max().unwrap_or(0),
        }
    }

    /// The machine code, as it is executed: functions, trampolines and stubs, and before them a few words of the runtime's.
    pub fn text(&self) -> &[u8] {
        self.inner.code.text()
    }

    /// Where the machine code is: whoever samples the process finds guests by it. [`Config::profiler`](crate::Config::profiler) tells `perf`.
    pub fn image_range(&self) -> Range<*const u8> {
        self.text().as_ptr_range()
    }

    /// The functions of the module's own, in the order of their indices, with their code.
    pub fn functions(&self) -> impl ExactSizeIterator<Item = ModuleFunction> + '_ {
        let (info, code) = (self.info(), &self.inner.code.image().functions);
        code.iter().enumerate().map(|(defined, code)| {
            let index = info.imported_functions + defined as u32;
            ModuleFunction {
                index,
                name: info.function_name(index).map(str::to_owned),
                code: code.clone(),
            }
        })
    }
}
