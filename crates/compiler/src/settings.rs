//! How to compile: what the caller may choose, and what Cranelift is told.
//!
//! What is not the caller's choice, and why:
//! - `unwind_info` costs little and lets an image be registered with a debugger.
//! - Frames keep the frame pointer: backtraces and stack walks go by it alone.
//! - Frames larger than a page are probed inline, page by page: the guard is the only stack limit.
//! - Spectre: the unchecked accesses of a reserved memory cannot leave the reservation even in
//!   speculation, since the index is 32 bits wide. A *checked* access (a bounded memory, an offset beyond
//!   the guard, a table) is guarded by a branch alone, which speculation may pass: it is not masked. Hosts that
//!   run guests of different owners in one process and fear that should use reserved memories.

use std::sync::Arc;

use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use serde::{Deserialize, Serialize};

use crate::{CompileError, Features, FuelCosts, MemoryType};

/// How far Cranelift goes to make code fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OptLevel {
    /// Compile quickly.
    None,
    /// Compile to fast code.
    #[default]
    Speed,
}

/// How linear memories are laid out and their accesses checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemoryStyle {
    /// Each memory has 4 GiB of address space and 2 GiB of guard behind its base, which never moves.
    /// Accesses with an offset below 2 GiB are unchecked: a fault is the trap. Memories that cannot be
    /// laid out so are bounded: see [`MemoryStyle::of`].
    #[default]
    Reserved,
    /// A memory may be anywhere and may move when it grows. Accesses are compared with the length, unless an earlier comparison
    /// or the index itself tells that they are in bounds.
    Bounded,
}

impl MemoryStyle {
    /// Address space behind the base of a reserved memory that an index alone reaches, in bytes.
    pub const RESERVED_BYTES: u64 = 1 << 32;
    /// Guard behind that, in bytes: offsets up to this one need no check.
    pub const GUARD_BYTES: u64 = 1 << 31;

    /// How a memory of this type is laid out where this style is chosen. Only what 32-bit indices address, in
    /// pages that the hardware can protect, can be reserved.
    pub fn of(self, ty: &MemoryType) -> MemoryStyle {
        match ty.is_64() || ty.page_size() < MemoryType::PAGE_BYTES {
            true => MemoryStyle::Bounded,
            false => self,
        }
    }
}

/// How to compile a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub(crate) fuel: bool,
    pub(crate) fuel_costs: FuelCosts,
    pub(crate) memory_style: MemoryStyle,
    pub(crate) opt_level: OptLevel,
    pub(crate) parallel: bool,
    pub(crate) verify: bool,
    pub(crate) portable: bool,
    pub(crate) keep_debug: bool,
    pub(crate) canonical_nans: bool,
    pub(crate) features: Features,
}

impl Settings {
    /// The defaults for the processor this runs on: no fuel, reserved memories, fast code, compiled in
    /// parallel.
    ///
    /// # Errors
    ///
    /// `Target` on another architecture than x86-64 and aarch64; `Processor` if an x86-64 lacks SSE4.1 or what is older
    /// (without it, rounding would be a call on the guest's stack).
    pub fn host() -> Result<Settings, CompileError> {
        let settings = Settings {
            fuel: false,
            fuel_costs: FuelCosts::new(),
            memory_style: MemoryStyle::Reserved,
            opt_level: OptLevel::Speed,
            parallel: true,
            verify: cfg!(debug_assertions),
            portable: false,
            keep_debug: false,
            canonical_nans: false,
            features: Features::default(),
        };
        settings.isa()?;
        Ok(settings)
    }

    /// Whether guests pay fuel, counted in the pinned register. Default: no.
    pub fn fuel(mut self, on: bool) -> Settings {
        self.fuel = on;
        self
    }

    /// What operators cost. Default: 1, if they do anything.
    pub fn fuel_costs(mut self, costs: FuelCosts) -> Settings {
        self.fuel_costs = costs;
        self
    }

    /// How memories are laid out. Default: reserved.
    pub fn memory_style(mut self, style: MemoryStyle) -> Settings {
        self.memory_style = style;
        self
    }

    /// How far to optimise. Default: for speed.
    pub fn opt_level(mut self, level: OptLevel) -> Settings {
        self.opt_level = level;
        self
    }

    /// Whether functions are compiled on a pool of threads, one for each processor, which the process keeps: ours, or rayon's that the caller is in.
    /// Where the system has no threads to give they are compiled on the caller's. The image does not depend on it. Default: yes.
    pub fn parallel(mut self, on: bool) -> Settings {
        self.parallel = on;
        self
    }

    /// Whether Cranelift checks its input and itself. Default: in builds with debug assertions.
    pub fn verify(mut self, on: bool) -> Settings {
        self.verify = on;
        self
    }

    /// Whether code uses only what every supported processor has, and not what this one has more. What guests compute
    /// is the same either way. Default: no.
    pub fn portable(mut self, on: bool) -> Settings {
        self.portable = on;
        self
    }

    /// Whether what a module holds for debuggers is kept in [`ModuleInfo::debug`](crate::ModuleInfo::debug): often as many bytes as
    /// the rest of the module. The image is the same either way. Default: no.
    pub fn keep_debug(mut self, on: bool) -> Settings {
        self.keep_debug = on;
        self
    }

    /// Whether each operator that computes a NaN computes the canonical one with a clear sign. Default: no.
    pub fn canonical_nans(mut self, on: bool) -> Settings {
        self.canonical_nans = on;
        self
    }

    /// Which proposals modules may use. Default: those of version 3 that are supported.
    pub fn features(mut self, features: Features) -> Settings {
        self.features = features;
        self
    }

    /// The code generator for these settings.
    pub(crate) fn isa(&self) -> Result<Arc<dyn TargetIsa>, CompileError> {
        if !cfg!(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix)) {
            let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
            return Err(CompileError::Target { target });
        }
        let native = cranelift_native::builder_with_options(!self.portable);
        let mut builder = native.map_err(|message| CompileError::Target {
            target: message.to_owned(),
        })?;
        if self.portable {
            for (name, _) in REQUIRED {
                let known = builder.enable(name);
                known.unwrap_or_else(|e| panic!("cranelift flag {name}: {e}"));
            }
        }
        let isa = builder
            .finish(settings::Flags::new(self.flags()))
            .map_err(|error| CompileError::Target {
                target: error.to_string(),
            })?;
        require_features(&*isa)?;
        Ok(isa)
    }

    fn flags(&self) -> settings::Builder {
        let mut flags = settings::builder();
        let mut set = |name: &str, value: &str| {
            flags
                .set(name, value)
                .unwrap_or_else(|e| panic!("cranelift flag {name}={value}: {e}"));
        };
        let bool = |on: bool| if on { "true" } else { "false" };
        set(
            "opt_level",
            if self.opt_level == OptLevel::Speed {
                "speed"
            } else {
                "none"
            },
        );
        set("enable_verifier", bool(self.verify));
        set("enable_nan_canonicalization", bool(self.canonical_nans));
        set("enable_pinned_reg", bool(self.fuel));
        set("preserve_frame_pointers", "true");
        set("unwind_info", "true");
        set("enable_probestack", "true");
        set("probestack_strategy", "inline");
        set("probestack_size_log2", "12");
        set("is_pic", "true");
        // More results than registers are returned through an area of the caller's frame.
        set("enable_multi_ret_implicit_sret", "true");
        // Read by another front end only; said here so that nobody looks for it (see the module's head).
        set("enable_heap_access_spectre_mitigation", "false");
        set("enable_table_access_spectre_mitigation", "false");
        set("stack_switch_model", "none");
        flags
    }
}

/// The processor features of this machine, by Cranelift's names, sorted.
pub(crate) fn host_features(settings: &Settings) -> Result<Vec<String>, CompileError> {
    let settings = settings.clone().portable(false);
    Ok(processor_features(&*settings.isa()?))
}

/// The processor features that code depends on always, by Cranelift's name and by the usual one. What every aarch64 has is enough.
#[cfg(target_arch = "aarch64")]
const REQUIRED: [(&str, &str); 0] = [];
#[cfg(not(target_arch = "aarch64"))]
const REQUIRED: [(&str, &str); 3] = [
    ("has_sse3", "SSE3"),
    ("has_ssse3", "SSSE3"),
    ("has_sse41", "SSE4.1"),
];

fn require_features(isa: &dyn TargetIsa) -> Result<(), CompileError> {
    let present = processor_features(isa);
    for (name, feature) in REQUIRED {
        if !present.iter().any(|have| have == name) {
            return Err(CompileError::Processor { feature });
        }
    }
    Ok(())
}

/// The processor features that code for `isa` may use, by Cranelift's names, sorted.
pub(crate) fn processor_features(isa: &dyn TargetIsa) -> Vec<String> {
    let flags = isa.isa_flags();
    let mut names: Vec<_> = flags
        .iter()
        .filter(|f| f.as_bool() == Some(true))
        .map(|f| f.name.to_owned())
        .collect();
    names.sort_unstable();
    names
}
