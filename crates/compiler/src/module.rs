//! What a module says besides its code, in the form a runtime instantiates from.

use std::sync::Arc;

use crate::layout::VmLayout;
use crate::{
    ConstExpr, ConstOp, DebugSections, ExternType, FuncType, GlobalType, Image, MemoryType, RefType,
    TableType, TagType,
};

/// A compiled module.
#[derive(Debug, Clone)]
pub struct CompiledModule {
    /// What it says besides its code.
    pub info: ModuleInfo,
    /// The code.
    pub image: Image,
}

/// What a module says besides its code. Index spaces begin with the imports.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ModuleInfo {
    /// The name in the name section.
    pub name: Option<String>,
    /// The function types, by type index.
    pub types: Vec<FuncType>,
    /// The imports, in order.
    pub imports: Vec<Import>,
    /// The type index of each function.
    pub functions: Vec<u32>,
    /// How many of `functions` are imported.
    pub imported_functions: u32,
    /// The tables.
    pub tables: Vec<TableType>,
    /// How many of `tables` are imported.
    pub imported_tables: u32,
    /// The memories.
    pub memories: Vec<MemoryType>,
    /// How many of `memories` are imported.
    pub imported_memories: u32,
    /// The globals.
    pub globals: Vec<GlobalType>,
    /// How many of `globals` are imported.
    pub imported_globals: u32,
    /// The type index of each exception tag.
    pub tags: Vec<u32>,
    /// How many of `tags` are imported.
    pub imported_tags: u32,
    /// The initial values of the defined globals, in order.
    pub global_inits: Vec<ConstExpr>,
    /// The values that the elements of the defined tables have at first, in order; none: null.
    pub table_inits: Vec<Option<ConstExpr>>,
    /// The operators of extended constant expressions.
    pub const_ops: Vec<ConstOp>,
    /// The exports, in order.
    pub exports: Vec<Export>,
    /// The start function.
    pub start: Option<u32>,
    /// The data segments.
    pub data: Vec<DataSegment>,
    /// The element segments.
    pub elements: Vec<ElementSegment>,
    /// Names of functions from the name section, ascending by function index.
    pub function_names: Vec<(u32, String)>,
    /// What it holds for debuggers.
    pub debug: DebugSections,
    /// The vmctx of its instances.
    pub layout: VmLayout,
}

impl ModuleInfo {
    /// The signature of a function.
    ///
    /// # Panics
    ///
    /// If there is no function of this index.
    pub fn function_type(&self, function: u32) -> &FuncType {
        &self.types[self.functions[function as usize] as usize]
    }

    /// The values that the exceptions of a tag carry.
    ///
    /// # Panics
    ///
    /// If there is no tag of this index.
    pub fn tag_type(&self, tag: u32) -> &FuncType {
        &self.types[self.tags[tag as usize] as usize]
    }

    /// The name of a function in the name section.
    pub fn function_name(&self, function: u32) -> Option<&str> {
        let at = self
            .function_names
            .binary_search_by_key(&function, |(index, _)| *index)
            .ok()?;
        Some(&self.function_names[at].1)
    }

    /// The type of what an index names.
    ///
    /// # Panics
    ///
    /// If the index names nothing.
    pub fn extern_type(&self, index: ExternIndex) -> ExternType {
        match index {
            ExternIndex::Func(i) => ExternType::Func(self.function_type(i).clone()),
            ExternIndex::Table(i) => ExternType::Table(self.tables[i as usize]),
            ExternIndex::Memory(i) => ExternType::Memory(self.memories[i as usize]),
            ExternIndex::Global(i) => ExternType::Global(self.globals[i as usize]),
            ExternIndex::Tag(i) => ExternType::Tag(TagType::new(self.tag_type(i).clone())),
        }
    }
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The module to import from.
    pub module: String,
    /// The name in that module.
    pub name: String,
    /// What is wanted.
    pub ty: ExternType,
    /// The index of its type, if it is a function.
    pub type_index: Option<u32>,
}

/// An export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The name.
    pub name: String,
    /// What it names.
    pub index: ExternIndex,
}

/// Something of a module that can be exported, by its index (imports first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExternIndex {
    /// A function.
    Func(u32),
    /// A table.
    Table(u32),
    /// A memory.
    Memory(u32),
    /// A global.
    Global(u32),
    /// An exception tag.
    Tag(u32),
}

/// A data segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSegment {
    /// When it is used.
    pub mode: DataMode,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

/// When a data segment is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataMode {
    /// It is copied when the module is instantiated.
    Active {
        /// The memory's index.
        memory: u32,
        /// The address.
        offset: ConstExpr,
    },
    /// It is copied by `memory.init`.
    Passive,
}

/// An element segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementSegment {
    /// When it is used.
    pub mode: ElementMode,
    /// The type of its references.
    pub ty: RefType,
    /// Its references.
    pub items: ElementItems,
}

/// When an element segment is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementMode {
    /// It is copied when the module is instantiated.
    Active {
        /// The table's index.
        table: u32,
        /// The first element.
        offset: ConstExpr,
    },
    /// It is copied by `table.init`.
    Passive,
    /// Never: it only says that its functions may be referred to.
    Declared,
}

/// The references of an element segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementItems {
    /// Functions, by index.
    Funcs(Vec<u32>),
    /// Constant expressions.
    Exprs(Vec<ConstExpr>),
}

impl ElementItems {
    /// How many references there are.
    pub fn len(&self) -> usize {
        match self {
            ElementItems::Funcs(funcs) => funcs.len(),
            ElementItems::Exprs(exprs) => exprs.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
