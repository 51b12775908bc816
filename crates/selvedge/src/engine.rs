//! What modules and stores share: settings, signal handlers, guest stacks, trampolines of host functions.

use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::module::to_binary;
use crate::profiling::ProfilingStrategy;
use crate::vm::arch;
use crate::vm::code::{ModuleCode, RuntimeSlots};
use crate::vm::linear::MemoryPool;
use crate::vm::signals;
use crate::vm::table_pool::TablePool;
use fibers::pool::{PoolConfig, PoolStats, StackPool};
use selvedge_compiler::{
    CompiledModule, FuncType, MemoryStyle, Settings, compile_host_trampolines, is_precompiled, precompile,
    precompile_conditions,
};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::hash::Hash;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Settings, compiled host trampolines and the pool of guest stacks. Cheap to clone; clones are the same engine.
///
/// The first one of a process installs handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL, which pass on what is not a guest's.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// A handle of an engine that does not keep it alive: [`Engine::weak`].
#[derive(Clone)]
pub struct EngineWeak {
    inner: Weak<Inner>,
}

impl EngineWeak {
    /// The engine, if anybody still has it: modules and stores do.
    pub fn upgrade(&self) -> Option<Engine> {
        self.inner.upgrade().map(|inner| Engine { inner })
    }
}

impl fmt::Debug for EngineWeak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineWeak").finish_non_exhaustive()
    }
}

/// So many bytes of a file say whether it is a precompiled module.
const PRECOMPILED_HEAD_BYTES: u64 = 16;

struct Inner {
    config: Config,
    settings: Settings,
    stacks: StackPool,
    memories: Arc<MemoryPool>,
    tables: TablePool,
    trampolines: Mutex<Trampolines>,
}

/// The trampolines of host functions' signatures. Modules bring signatures too, where their imports are defined by what they ask for: so of those that
/// no store uses the engine keeps some, not all that there ever were.
struct Trampolines {
    known: HashMap<FuncType, HostCode>,
    /// How many there are when it is time to look for those that nobody uses.
    sweep_at: usize,
}

/// So many trampolines are kept, used or not.
const IDLE_TRAMPOLINES: usize = 256;

impl Default for Trampolines {
    fn default() -> Trampolines {
        Trampolines {
            known: HashMap::new(),
            sweep_at: IDLE_TRAMPOLINES,
        }
    }
}

impl Trampolines {
    /// Adds those of a signature. If there are many, those that nobody uses are dropped: a constant part of the time that it took to make them.
    fn insert(&mut self, ty: FuncType, code: HostCode) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, code| Arc::strong_count(&code.code) > 1);
            self.known.shrink_to(IDLE_TRAMPOLINES);
            self.sweep_at = IDLE_TRAMPOLINES.max(2 * self.known.len());
        }
        self.known.insert(ty, code);
    }
}

/// The trampolines of one signature, for host functions that no module imports. Who uses the code holds this: else the engine may drop it.
#[derive(Clone)]
pub(crate) struct HostCode {
    code: Arc<ModuleCode>,
    entry: u32,
    import: u32,
}

impl HostCode {
    pub(crate) fn entry(&self) -> *const u8 {
        self.code.code_at(self.entry)
    }

    pub(crate) fn import(&self) -> *const u8 {
        self.code.code_at(self.import)
    }
}

/// The most parameters or results a module's functions may have, and so the host's. Spec: the JavaScript interface's limits.
const MAX_SIGNATURE: usize = 1000;

/// Where images reach the runtime.
pub(crate) fn runtime_slots() -> RuntimeSlots {
    RuntimeSlots {
        raise: arch::raise as *const () as usize,
        fuel_check: arch::fuel_check as *const () as usize,
        fuel_check_integers: arch::fuel_check_integers as *const () as usize,
    }
}

impl Default for Engine {
    /// # Panics
    /// Where [`Engine::new`] with the defaults fails: a processor that is not supported.
    fn default() -> Engine {
        match Engine::new(&Config::new()) {
            Ok(engine) => engine,
            Err(error) => panic!("cannot make an engine with the default settings: {error:#}"),
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine with these settings.
    ///
    /// Cost: asks what the processor has, and reserves addresses for guest stacks; memory is taken as guests run. Make one for a process, or one for each
    /// kind of guest: modules and stores of two engines do not meet.
    ///
    /// # Errors
    /// A processor that lacks what compiled code needs, or signal handlers that cannot be installed.
    pub fn new(config: &Config) -> Result<Engine> {
        let settings = Settings::host()?
            .fuel(config.fuel)
            .fuel_costs(config.fuel_costs.clone())
            .memory_style(config.memory_style)
            .opt_level(config.opt_level)
            .parallel(config.parallel_compilation)
            .features(config.features)
            .portable(config.portable_code)
            .canonical_nans(config.canonical_nans)
            .keep_debug(config.backtrace_details.is_on());
        config.profiler.begin()?;
        if config.signal_handlers {
            signals::install()?;
        }
        let stacks = StackPool::new(PoolConfig {
            stack_bytes: config.stack_bytes,
            max_stacks: config.max_guest_stacks,
            ..PoolConfig::default()
        })?;
        Ok(Engine {
            inner: Arc::new(Inner {
                config: config.clone(),
                settings,
                stacks,
                memories: MemoryPool::new(config.max_pooled_memories),
                tables: TablePool::default(),
                trampolines: Mutex::default(),
            }),
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Compiles a module, in either format as [`Module::new`](crate::Module::new) takes it, to bytes that
    /// [`Module::deserialize`](crate::Module::deserialize) loads: by an engine of the same version of this crate, with the same fuel, costs, memory
    /// style and at least these proposals, on a processor that has what this one has ([`Config::portable_code`]: what every one has).
    ///
    /// Size: the code and the tables that go with it, and what the module has besides its code. The same for the same module.
    ///
    /// # Errors
    /// As for [`Module::new`](crate::Module::new).
    #[doc(alias = "serialize")]
    pub fn precompile_module(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(precompile(&to_binary(bytes)?, &self.inner.settings)?)
    }

    /// Whether bytes begin as those of [`Engine::precompile_module`] do, of whatever version: no module does.
    pub fn detect_precompiled(bytes: &[u8]) -> bool {
        is_precompiled(bytes)
    }

    /// [`Engine::detect_precompiled`] of a file, of which it reads the beginning.
    ///
    /// # Errors
    /// What reading the file ends with.
    pub fn detect_precompiled_file(path: impl AsRef<Path>) -> Result<bool> {
        let path = path.as_ref();
        let read = || -> std::io::Result<bool> {
            let mut bytes = Vec::new();
            File::open(path)?
                .take(PRECOMPILED_HEAD_BYTES)
                .read_to_end(&mut bytes)?;
            Ok(is_precompiled(&bytes))
        };
        read().with_context(|| format!("cannot read `{}`", path.display()))
    }

    /// Something whose hash is a key for what [`Engine::precompile_module`] makes: where it is the same, in any process, one engine
    /// loads what the other has made. It says version, target, processor and settings; not the module.
    ///
    /// ```
    /// use std::hash::{DefaultHasher, Hash, Hasher};
    /// # use selvedge::{Config, Engine};
    /// let key = |engine: &Engine| {
    ///     let mut hasher = DefaultHasher::new();
    ///     engine.precompile_compatibility_hash().hash(&mut hasher);
    ///     hasher.finish()
    /// };
    /// let metered = Engine::new(Config::new().fuel(true))?;
    /// assert_eq!(key(&Engine::default()), key(&Engine::default()));
    /// assert_ne!(key(&Engine::default()), key(&metered));
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    pub fn precompile_compatibility_hash(&self) -> impl Hash + '_ {
        precompile_conditions(&self.inner.settings)
    }

    /// Whether two handles are of one engine.
    pub fn same(a: &Engine, b: &Engine) -> bool {
        Arc::ptr_eq(&a.inner, &b.inner)
    }

    /// A handle that does not keep the engine alive: for caches that modules are to be dropped from with their engine.
    pub fn weak(&self) -> EngineWeak {
        EngineWeak {
            inner: Arc::downgrade(&self.inner),
        }
    }

    /// How many stacks guests have, and how many they may have ([`Config::max_guest_stacks`]). A guest has one while it runs or waits,
    /// and with [`Config::keep_stacks`] as long as its store lives. Takes a lock that making a call mostly does not.
    #[doc(alias = "pooling_allocator_metrics")]
    pub fn stack_stats(&self) -> PoolStats {
        self.inner.stacks.stats()
    }

    /// How much memory guests' stacks have now, in bytes, those included that wait to be used again.
    ///
    /// Cost: asks the kernel, 4 ns for each page that there could be; blocks nobody.
    pub fn resident_stack_bytes(&self) -> usize {
        self.inner.stacks.resident_bytes()
    }

    /// Gives the memory of stacks that nobody uses back to the kernel: for a host that has been busy, and is idle now.
    ///
    /// Cost: about half a microsecond for each stack that was used since the last time.
    pub fn trim_stacks(&self) {
        self.inner.stacks.trim();
    }

    #[inline(always)]
    pub(crate) fn fuel(&self) -> bool {
        self.inner.config.fuel
    }

    pub(crate) fn profiler(&self) -> ProfilingStrategy {
        self.inner.config.profiler
    }

    pub(crate) fn memory_style(&self) -> MemoryStyle {
        self.inner.config.memory_style
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    #[inline(always)]
    pub(crate) fn stacks(&self) -> &StackPool {
        &self.inner.stacks
    }

    pub(crate) fn memories(&self) -> &Arc<MemoryPool> {
        &self.inner.memories
    }

    pub(crate) fn tables(&self) -> &TablePool {
        &self.inner.tables
    }

    /// The trampolines of a signature, compiled when first asked for.
    ///
    /// # Errors
    /// More parameters or results than a module could import, or no room for the code.
    pub(crate) fn trampolines(&self, ty: &FuncType) -> Result<HostCode> {
        let most = ty.params().len().max(ty.results().len());
        if most > MAX_SIGNATURE {
            return Err(Error::msg(format!(
                "a function of {most} parameters or results exceeds the limit of {MAX_SIGNATURE}"
            )));
        }
        let mut trampolines = self
            .inner
            .trampolines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = trampolines.known.get(ty) {
            return Ok(code.clone());
        }
        let made = compile_host_trampolines(ty, &self.inner.settings)?;
        let module = CompiledModule {
            info: Default::default(),
            image: made.image,
        };
        let code = ModuleCode::publish(module, runtime_slots())?;
        self.profiler().tell(&code)?;
        let code = HostCode {
            code,
            entry: made.entry,
            import: made.import,
        };
        trampolines.insert(ty.clone(), code.clone());
        Ok(code)
    }
}

/// An engine is shared between threads.
const _: fn() = || {
    fn shared<X: Send + Sync>() {}
    shared::<Engine>();
    shared::<Error>();
};
