//! Compiled modules: what they import and export, and their code.

use crate::engine::{self, Engine};
use crate::error::{Context, Error, Result};
use crate::vm::code::ModuleCode;
use crate::vm::linear::Image;
use selvedge_compiler::{
    CompiledModule, ExternIndex, ExternType, FuncType, ModuleInfo, compile, is_precompiled, load,
};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

mod inspect;

pub use inspect::{ModuleExport, ModuleFunction, ResourcesRequired};

/// A compiled module, ready to be instantiated any number of times, in any store of its engine. Cheap to clone.
///
/// ```
/// # use selvedge::{Engine, Module};
/// let module = Module::new(&Engine::default(), r#"(module $math (import "host" "log" (func (param i32)))
///     (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2))))"#)?;
/// assert_eq!(module.name(), Some("math"));
/// for import in module.imports() {
///     assert_eq!((import.module(), import.name()), ("host", "log"));
/// }
/// let half = module.get_export("half").expect("it has one");
/// assert_eq!(half.unwrap_func().to_string(), "(func (param f64) (result f64))");
/// # Ok::<(), selvedge::Error>(())
/// ```
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    code: Arc<ModuleCode>,
    /// The process-wide number of each of the module's types.
    type_ids: Vec<u32>,
    exports: HashMap<String, ExternIndex>,
    /// First contents of each memory that has an image, made when the module is first instantiated.
    images: OnceLock<Box<[Option<Arc<Image>>]>>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

impl Module {
    /// Compiles a module from the binary format, or from the text format with feature `wat`.
    ///
    /// Cost: about a second and processor a megabyte of the module's functions, and machine code of 1.4 to 2.3 times their size. Where the system has no
    /// memory left for compiling, the process ends, as Rust's collections end it.
    ///
    /// # Errors
    /// What is not valid, not supported or [too large](crate::implementation_limits), with the byte offset (a
    /// [`CompileError`](crate::CompileError) inside), or no room for the code.
    pub fn new(engine: &Engine, bytes: impl AsRef<[u8]>) -> Result<Module> {
        let bytes = to_binary(bytes.as_ref())?;
        Module::publish(engine, compile(&bytes, engine.settings())?)
    }

    /// [`Module::new`] of the binary format alone, whatever features this crate was built with: for bytes that come from elsewhere.
    ///
    /// # Errors
    /// As there, and bytes that do not begin as a module does.
    pub fn from_binary(engine: &Engine, bytes: &[u8]) -> Result<Module> {
        Module::publish(engine, compile(bytes, engine.settings())?)
    }

    /// The module in bytes that a caller vouches for.
    fn loaded(engine: &Engine, bytes: &[u8]) -> Result<Module> {
        Module::publish(engine, load(bytes, engine.settings())?)
    }

    fn publish(engine: &Engine, compiled: CompiledModule) -> Result<Module> {
        let type_ids = compiled.info.types.iter().map(FuncType::number).collect();
        let exports = compiled
            .info
            .exports
            .iter()
            .map(|export| (export.name.clone(), export.index))
            .collect();
        let code = ModuleCode::publish(compiled, engine::runtime_slots())?;
        engine.profiler().tell(&code)?;
        Ok(Module {
            inner: Arc::new(Inner {
                engine: engine.clone(),
                code,
                type_ids,
                exports,
                images: OnceLock::new(),
            }),
        })
    }

    /// [`Module::new`] of a file's bytes.
    ///
    /// # Errors
    /// As there, and what reading the file ends with.
    pub fn from_file(engine: &Engine, path: impl AsRef<Path>) -> Result<Module> {
        of_file(path.as_ref(), |bytes| Module::new(engine, bytes))
    }

    /// Loads what [`Engine::precompile_module`] made, here or on another machine, without compiling anything.
    ///
    /// Cost: some milliseconds a megabyte.
    ///
    /// ```
    /// use selvedge::{Engine, Module, Store, Instance};
    ///
    /// let engine = Engine::default();
    /// let bytes = engine.precompile_module(br#"(module (func (export "one") (result i32) i32.const 1))"#)?;
    /// // SAFETY: the bytes were made a line ago.
    /// let module = unsafe { Module::deserialize(&engine, &bytes)? };
    /// let mut store = Store::new(&engine, ());
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// assert_eq!(instance.call::<(), i32>(&mut store, "one", ())?, 1);
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    ///
    /// # Errors
    /// A [`LoadError`](crate::LoadError): the bytes are damaged or of another version, or the code is not right for this processor or
    /// this engine's settings; and no room for the code. Where the system has no memory for the module's tables, the process ends.
    ///
    /// # Safety
    /// The bytes are those that [`Engine::precompile_module`] returned: machine code, which is run as it is. A sum finds damage that happened by
    /// chance, but whoever can write these bytes can do in this process what they like: keep them where only you write.
    pub unsafe fn deserialize(engine: &Engine, bytes: impl AsRef<[u8]>) -> Result<Module> {
        Module::loaded(engine, bytes.as_ref())
    }

    /// [`Module::deserialize`] of a file's bytes.
    ///
    /// # Errors
    /// As there, and what reading the file ends with.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn deserialize_file(engine: &Engine, path: impl AsRef<Path>) -> Result<Module> {
        of_file(path.as_ref(), |bytes| Module::loaded(engine, bytes))
    }

    /// Whether [`Module::new`] would take it, without keeping the code. Cost: that of [`Module::new`].
    ///
    /// # Errors
    /// As for [`Module::new`].
    pub fn validate(engine: &Engine, bytes: &[u8]) -> Result<()> {
        compile(&to_binary(bytes)?, engine.settings())?;
        Ok(())
    }

    /// The engine that compiled it.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The name that the module gives itself.
    pub fn name(&self) -> Option<&str> {
        self.info().name.as_deref()
    }

    /// The imports, in order.
    pub fn imports(&self) -> impl ExactSizeIterator<Item = ImportType<'_>> {
        self.info().imports.iter().map(|import| ImportType {
            module: &import.module,
            name: &import.name,
            ty: &import.ty,
        })
    }

    /// The exports, in order.
    pub fn exports(&self) -> impl ExactSizeIterator<Item = ExportType<'_>> {
        let info = self.info();
        info.exports.iter().map(move |export| ExportType {
            name: &export.name,
            ty: info.extern_type(export.index),
        })
    }

    /// The type of an export. Cost: hashes the name.
    pub fn get_export(&self, name: &str) -> Option<ExternType> {
        Some(self.info().extern_type(self.export(name)?))
    }

    pub(crate) fn info(&self) -> &ModuleInfo {
        self.inner.code.info()
    }

    pub(crate) fn type_ids(&self) -> &[u32] {
        &self.inner.type_ids
    }

    pub(crate) fn export(&self, name: &str) -> Option<ExternIndex> {
        self.inner.exports.get(name).copied()
    }

    /// What a memory holds at first, if its data segments were made an image; else they are to be copied.
    pub(crate) fn image(&self, memory: u32) -> Option<&Arc<Image>> {
        let images = self.inner.images.get_or_init(|| {
            let engine = &self.inner.engine;
            let memories = 0..self.info().memories.len() as u32;
            let image = |memory| Image::of(self.info(), memory, engine.memory_style(), engine.memories());
            memories.map(|memory| image(memory).map(Arc::new)).collect()
        });
        images[memory as usize].as_ref()
    }

    /// The code of a defined function.
    pub(crate) fn function(&self, function: u32) -> *const u8 {
        let defined = function - self.info().imported_functions;
        self.inner
            .code
            .code_at(self.inner.code.image().functions[defined as usize].start)
    }

    /// The code with which an imported host function is called.
    pub(crate) fn import_trampoline(&self, import: u32) -> *const u8 {
        self.inner
            .code
            .code_at(self.inner.code.image().import_trampolines[import as usize])
    }

    /// The code with which the host calls functions of a type, for types of functions that escape.
    pub(crate) fn entry_trampoline(&self, type_index: u32) -> *const u8 {
        let offset = self.inner.code.image().entry_trampolines[type_index as usize];
        self.inner
            .code
            .code_at(offset.expect("the type of a function that escapes has an entry trampoline"))
    }
}

/// What `make` makes of a file's bytes; errors name the file.
fn of_file(path: &Path, make: impl FnOnce(&[u8]) -> Result<Module>) -> Result<Module> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    make(&bytes).with_context(|| format!("`{}`", path.display()))
}

/// The binary format of a module in either format.
pub(crate) fn to_binary(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    if is_precompiled(bytes) {
        return Err(Error::msg(
            "the bytes are a precompiled module's, which `Module::deserialize` loads",
        ));
    }
    #[cfg(feature = "wat")]
    if !bytes.starts_with(b"\0asm") {
        if std::str::from_utf8(bytes).is_err() {
            return Err(Error::msg(format!(
                "the {} bytes are no module: they do not begin with \\0asm, and are no text",
                bytes.len()
            )));
        }
        return Ok(wat::parse_bytes(bytes)?);
    }
    Ok(Cow::Borrowed(bytes))
}

/// An import of a module.
#[derive(Clone, Copy, Debug)]
pub struct ImportType<'a> {
    module: &'a str,
    name: &'a str,
    ty: &'a ExternType,
}

impl<'a> ImportType<'a> {
    /// The module to import from.
    pub fn module(&self) -> &'a str {
        self.module
    }

    /// The name in that module.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// What is wanted.
    pub fn ty(&self) -> ExternType {
        self.ty.clone()
    }
}

/// An export of a module.
#[derive(Clone, Debug)]
pub struct ExportType<'a> {
    name: &'a str,
    ty: ExternType,
}

impl<'a> ExportType<'a> {
    /// The name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// What it is.
    pub fn ty(&self) -> ExternType {
        self.ty.clone()
    }
}

/// A module is shared between threads.
const _: fn() = || {
    fn shared<X: Send + Sync>() {}
    shared::<Module>();
};
