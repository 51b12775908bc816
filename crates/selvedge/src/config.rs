//! What an embedder may choose, once for all modules and stores of an engine.

use crate::profiling::ProfilingStrategy;
use selvedge_compiler::{Features, FuelCosts, MemoryStyle, OptLevel, Proposal};
use std::time::Duration;

/// Whether modules keep their source lines: see [`Config::wasm_backtrace_details`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WasmBacktraceDetails {
    /// They do.
    Enable,
    /// They do not.
    Disable,
    /// They do if the environment variable `SELVEDGE_BACKTRACE_DETAILS` is `1` when the engine is made.
    Environment,
}

impl WasmBacktraceDetails {
    pub(crate) fn is_on(self) -> bool {
        match self {
            WasmBacktraceDetails::Enable => true,
            WasmBacktraceDetails::Disable => false,
            WasmBacktraceDetails::Environment => {
                std::env::var_os("SELVEDGE_BACKTRACE_DETAILS").is_some_and(|value| value == "1")
            }
        }
    }
}

/// Settings of an [`Engine`](crate::Engine).
///
/// ```
/// let mut config = selvedge::Config::new();
/// config.fuel(true).stack_bytes(256 << 10);
/// let engine = selvedge::Engine::new(&config)?;
/// # Ok::<(), selvedge::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) fuel: bool,
    pub(crate) fuel_costs: FuelCosts,
    pub(crate) stack_bytes: usize,
    pub(crate) max_guest_stacks: usize,
    pub(crate) keep_stacks: bool,
    pub(crate) max_host_stack_bytes: usize,
    pub(crate) memory_style: MemoryStyle,
    pub(crate) max_pooled_memories: usize,
    pub(crate) opt_level: OptLevel,
    pub(crate) parallel_compilation: bool,
    pub(crate) max_backtrace_frames: usize,
    pub(crate) backtrace_details: WasmBacktraceDetails,
    pub(crate) signal_handlers: bool,
    pub(crate) features: Features,
    pub(crate) max_blocking_wait: Option<Duration>,
    pub(crate) portable_code: bool,
    pub(crate) canonical_nans: bool,
    pub(crate) profiler: ProfilingStrategy,
    pub(crate) max_reference_heap_bytes: usize,
    pub(crate) collect_always: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config::new()
    }
}

impl Config {
    /// The defaults that each setter names.
    pub fn new() -> Config {
        Config {
            fuel: false,
            fuel_costs: FuelCosts::new(),
            stack_bytes: 512 << 10,
            max_guest_stacks: 1 << 20,
            keep_stacks: false,
            max_host_stack_bytes: 1 << 20,
            memory_style: MemoryStyle::Reserved,
            max_pooled_memories: 1024,
            opt_level: OptLevel::Speed,
            parallel_compilation: true,
            max_backtrace_frames: 64,
            backtrace_details: WasmBacktraceDetails::Environment,
            signal_handlers: true,
            features: Features::default(),
            max_blocking_wait: Some(Duration::from_secs(10)),
            portable_code: false,
            canonical_nans: false,
            profiler: ProfilingStrategy::None,
            max_reference_heap_bytes: 1 << 30,
            collect_always: false,
        }
    }

    /// Whether guests are metered: see [`Store::set_fuel`](crate::Store::set_fuel). Default: no.
    #[doc(alias = "consume_fuel")]
    pub fn fuel(&mut self, on: bool) -> &mut Config {
        self.fuel = on;
        self
    }

    /// What operators cost, where guests are metered. Default: as in Wasmtime, 1 for each that does something.
    ///
    /// ```
    /// use selvedge::{Config, FuelCosts};
    ///
    /// let mut costs = FuelCosts::new();
    /// costs.set("f64.div", 10)?;
    /// let mut config = Config::new();
    /// config.fuel(true).fuel_costs(costs);
    /// # Ok::<(), selvedge::Error>(())
    /// ```
    #[doc(alias = "operator_cost")]
    pub fn fuel_costs(&mut self, costs: FuelCosts) -> &mut Config {
        self.fuel_costs = costs;
        self
    }

    /// How many bytes of stack a guest has, a multiple of the page size or rounded up to one. The only stack size there is: host
    /// functions run on the host's stack. Default: 512 KiB.
    #[doc(alias = "max_wasm_stack")]
    #[doc(alias = "async_stack_size")]
    pub fn stack_bytes(&mut self, bytes: usize) -> &mut Config {
        self.stack_bytes = bytes;
        self
    }

    /// How many guests may be running or parked at once. Default: 1 048 576.
    #[doc(alias = "total_stacks")]
    pub fn max_guest_stacks(&mut self, count: usize) -> &mut Config {
        self.max_guest_stacks = count;
        self
    }

    /// Whether a store keeps its guest stack between calls: it always has one, calls in turns with other stores on a thread are some
    /// nanoseconds cheaper, and each store that was ever called holds a stack, with the pages it has touched, until it is dropped. The last store
    /// that called on a thread finds its stack again in any case, unless others had none. [`Store::keep_stack`](crate::Store::keep_stack) changes
    /// it for one store. Default: no, the stack goes back to the pool.
    pub fn keep_stacks(&mut self, keep: bool) -> &mut Config {
        self.keep_stacks = keep;
        self
    }

    /// How much of the host's stack calls from host functions into guests may use, one inside the other, before the
    /// next is refused with [`Trap::StackOverflow`](crate::Trap::StackOverflow). Default: 1 MiB, half of what a Rust thread has.
    ///
    /// A thread's own stack keeps some room besides, whatever this says and in however many stores the calls are. On a stack of your own, such as a
    /// fiber's, set this below its size, by what your host functions need: there it is the only bound, and each store has its own.
    pub fn max_host_stack_bytes(&mut self, bytes: usize) -> &mut Config {
        self.max_host_stack_bytes = bytes;
        self
    }

    /// How memories are laid out and checked. Default: reserved, unchecked.
    #[doc(alias = "memory_reservation")]
    #[doc(alias = "memory_may_move")]
    pub fn memory_style(&mut self, style: MemoryStyle) -> &mut Config {
        self.memory_style = style;
        self
    }

    /// How many reserved memories are kept for the next instances when those that had them are gone. Kept ones are addresses,
    /// 6 GiB each, and at most five mappings; what guests wrote goes back to the kernel at once. Default: 1024.
    #[doc(alias = "total_memories")]
    #[doc(alias = "allocation_strategy")]
    pub fn max_pooled_memories(&mut self, count: usize) -> &mut Config {
        self.max_pooled_memories = count;
        self
    }

    /// How far to optimise. Default: for speed.
    #[doc(alias = "cranelift_opt_level")]
    pub fn opt_level(&mut self, level: OptLevel) -> &mut Config {
        self.opt_level = level;
        self
    }

    /// Whether a module's functions are compiled on all processors. The code does not depend on it. Default: yes.
    pub fn parallel_compilation(&mut self, on: bool) -> &mut Config {
        self.parallel_compilation = on;
        self
    }

    /// How many bytes the objects of a store's references may take, at most 4 GiB; an allocation beyond is an error. What a
    /// reference of the host's refers to is not counted. A heap of which less than a sixteenth was free after a collection counts as
    /// full, once that is used. Default: 1 GiB; a store's limiter may allow less
    /// ([`ResourceLimiter::reference_heap_bytes`](crate::ResourceLimiter::reference_heap_bytes)).
    #[doc(alias = "gc_heap_reservation")]
    pub fn max_reference_heap_bytes(&mut self, bytes: usize) -> &mut Config {
        self.max_reference_heap_bytes = bytes;
        self
    }

    /// Whether unreachable references are looked for at every allocation: slow, and finds in a test what would else depend on
    /// chance. Default: no.
    #[doc(alias = "gc_zeal_alloc_counter")]
    pub fn collect_at_every_allocation(&mut self, on: bool) -> &mut Config {
        self.collect_always = on;
        self
    }

    /// Whether making an engine installs handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL, once a process, which hand on what is
    /// no guest's fault; and watching a store without fuel one for SIGURG. Default: yes.
    ///
    /// Who says no has to install handlers before a guest runs, with SA_SIGINFO and SA_ONSTACK, that ask
    /// [`handle_signal`](crate::handle_signal) first. Alternate stacks are made all the same. Guests without fuel cannot be
    /// interrupted then.
    #[doc(alias = "signals_based_traps")]
    pub fn signal_handlers(&mut self, install: bool) -> &mut Config {
        self.signal_handlers = install;
        self
    }

    /// How many frames of a trap's backtrace are kept. Default: 64.
    #[doc(alias = "wasm_backtrace_max_frames")]
    #[doc(alias = "wasm_backtrace")]
    pub fn max_backtrace_frames(&mut self, count: usize) -> &mut Config {
        self.max_backtrace_frames = count;
        self
    }

    /// Whether modules keep what they hold for debuggers (DWARF), so that backtraces say files, lines and columns, and which functions were
    /// inlined: [`FrameInfo::symbols`](crate::FrameInfo::symbols). Default: [`WasmBacktraceDetails::Environment`].
    ///
    /// Cost: the bytes of those sections that say where code comes from, as long as the module lives: often as many as the rest of the module.
    /// Nothing is read before a backtrace is printed or asked; then 32 bytes a function of the source are kept as well. Compiled code and the time of
    /// a trap are the same either way.
    pub fn wasm_backtrace_details(&mut self, details: WasmBacktraceDetails) -> &mut Config {
        self.backtrace_details = details;
        self
    }

    /// Whether code uses only what every supported processor has (SSE4.1), and not what this one has more. Guests compute the same
    /// either way, some of them slower. Default: no.
    pub fn portable_code(&mut self, on: bool) -> &mut Config {
        self.portable_code = on;
        self
    }

    /// Whether every operator that computes a NaN computes the canonical one, with a clear sign: then what guests compute is the same on every
    /// processor, to the bit. Without it the specification leaves sign and payload open, and this processor's are taken. Default: no.
    ///
    /// NaNs that are no results stay as they are: constants, what is loaded, reinterpreted or passed by the host; and what operators only choose or
    /// change the sign of (`select`, `neg`, `abs`, `copysign`, `pmin`, `pmax`).
    ///
    /// Cost: a comparison and a selection for each operator on floats. The kernels of `benches`, on x86-64: nbody, which does little else, takes
    /// 3.1 times as long, matmul 2.1 times, code without floats the same. Fuel is the same.
    #[doc(alias = "cranelift_nan_canonicalization")]
    pub fn canonical_nans(&mut self, on: bool) -> &mut Config {
        self.canonical_nans = on;
        self
    }

    /// Whom to tell where guests' code is, so that a profiler shows their functions by name. Default: nobody.
    ///
    /// With [`ProfilingStrategy::PerfMap`], `perf record --call-graph fp` and `perf report` know guests: they keep frame pointers, also from a
    /// guest's stack to the host's.
    ///
    /// Cost: a line in `/tmp/perf-PID.map` for each function of each module, when it is compiled or loaded; nothing when guests run. The file stays
    /// when the process ends, for `perf` to read.
    pub fn profiler(&mut self, strategy: ProfilingStrategy) -> &mut Config {
        self.profiler = strategy;
        self
    }

    /// Whether modules may use vectors of 128 bits; without them, relaxed ones neither. Default: yes.
    pub fn wasm_simd(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::Simd, on)
    }

    /// Whether modules may use the vector operators whose results the specification leaves open. Selvedge takes the same
    /// choice on every processor: `relaxed_madd` rounds the product before it adds, the others do as their strict sisters, and
    /// dot products take both operands as signed. Default: yes.
    #[doc(alias = "relaxed_simd_deterministic")]
    pub fn wasm_relaxed_simd(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::RelaxedSimd, on)
    }

    /// Whether modules may add, subtract and multiply integers to 128 bits. The proposal is not in the standard yet.
    /// Default: no.
    pub fn wasm_wide_arithmetic(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::WideArithmetic, on)
    }

    fn proposal(&mut self, proposal: Proposal, on: bool) -> &mut Config {
        self.features.set(proposal, on);
        self
    }

    /// Whether modules may import and export globals that can be set. Default: yes.
    pub fn wasm_mutable_global(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::MutableGlobal, on)
    }

    /// Whether modules may convert floats to integers so that it never traps (`i32.trunc_sat_f32_s` and its sisters). Default: yes.
    pub fn wasm_nontrapping_float_to_int(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::NontrappingFloatToInt, on)
    }

    /// Whether modules may extend the sign of an integer's low bits (`i32.extend8_s` and its sisters). Default: yes.
    pub fn wasm_sign_extension(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::SignExtension, on)
    }

    /// Whether functions and blocks may have more than one result, and blocks parameters. Default: yes.
    pub fn wasm_multi_value(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::MultiValue, on)
    }

    /// Whether modules may copy, fill and initialize ranges of memories and tables, and have passive segments. Default: yes.
    pub fn wasm_bulk_memory(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::BulkMemory, on)
    }

    /// Whether modules may have references as values, and more than one table; without them, references to functions of one signature neither.
    /// Default: yes.
    pub fn wasm_reference_types(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::ReferenceTypes, on)
    }

    /// Whether modules may make tail calls. Default: yes.
    pub fn wasm_tail_call(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::TailCall, on)
    }

    /// Whether modules may have references to functions of one signature, references that are never null, and types that contain each
    /// other. Default: yes.
    pub fn wasm_function_references(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::FunctionReferences, on)
    }

    /// Whether modules may compute in constant expressions, and ask there for their own earlier globals, as version 3 has it: the latter needs
    /// [`Config::wasm_function_references`] too. Default: yes.
    pub fn wasm_extended_const(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::ExtendedConst, on)
    }

    /// Whether modules may use exceptions, in the form that version 3 of WebAssembly has: tags, `throw`, `try_table`, `exnref`. Default:
    /// yes.
    pub fn wasm_exceptions(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::Exceptions, on)
    }

    /// Whether a module may have more than one memory. Default: yes.
    pub fn wasm_multi_memory(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::MultiMemory, on)
    }

    /// Whether memories and tables may have 64-bit addresses. Accesses to such a memory are always checked. Default: yes.
    pub fn wasm_memory64(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::Memory64, on)
    }

    /// Whether a memory may have pages of one byte. Accesses to such a memory are always checked. Default: no.
    pub fn wasm_custom_page_sizes(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::CustomPageSizes, on)
    }

    /// Whether modules may use atomic accesses, and shared memories: [`SharedMemory`](crate::SharedMemory). Default: yes.
    pub fn wasm_threads(&mut self, on: bool) -> &mut Config {
        self.proposal(Proposal::Threads, on)
    }

    /// How long a guest that was entered by a synchronous `call` may block its thread in one `memory.atomic.wait`, whatever it
    /// asks for, before it traps with [`Trap::Interrupt`](crate::Trap::Interrupt); none: for ever. Neither fuel nor time that the guest
    /// runs bounds such a wait; an [`InterruptHandle`](crate::InterruptHandle) ends it. Guests entered by `call_async` do not
    /// block: they are parked, and a deadline or a drop ends them. Default: 10 seconds.
    pub fn max_blocking_wait(&mut self, time: Option<Duration>) -> &mut Config {
        self.max_blocking_wait = time;
        self
    }
}
