//! Which proposals are supported, and what to call the others.

use wasmparser::{Parser, ValidPayload, Validator, WasmFeatures};

use crate::CompileError;

/// What is compiled whatever the settings: version 2 of WebAssembly without vectors.
const ALWAYS: WasmFeatures = WasmFeatures::MVP
    .union(WasmFeatures::MUTABLE_GLOBAL)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::REFERENCE_TYPES);

/// A proposal that can be switched on and off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Proposal {
    /// Calls that take the place of their caller.
    TailCall,
    /// References to functions of one signature, and calls of them.
    FunctionReferences,
    /// Arithmetic in constant expressions.
    ExtendedConst,
    /// More than one memory in a module.
    MultiMemory,
    /// Memories and tables with 64-bit addresses.
    Memory64,
    /// Memories whose pages are one byte.
    CustomPageSizes,
}

impl Proposal {
    /// Every proposal that can be switched, with whether it is on by default: those of version 3 are.
    const DEFAULTS: &[(Proposal, bool)] = &[
        (Proposal::MultiMemory, true),
        (Proposal::Memory64, true),
        (Proposal::CustomPageSizes, false),
    ];

    fn flag(self) -> WasmFeatures {
        match self {
            Proposal::TailCall => WasmFeatures::TAIL_CALL,
            Proposal::FunctionReferences => WasmFeatures::FUNCTION_REFERENCES,
            Proposal::ExtendedConst => WasmFeatures::EXTENDED_CONST,
            Proposal::MultiMemory => WasmFeatures::MULTI_MEMORY,
            Proposal::Memory64 => WasmFeatures::MEMORY64,
            Proposal::CustomPageSizes => WasmFeatures::CUSTOM_PAGE_SIZES,
        }
    }
}

/// Which proposals modules may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features(WasmFeatures);

impl Features {
    /// Switches a proposal.
    pub fn set(&mut self, proposal: Proposal, on: bool) {
        self.0.set(proposal.flag(), on);
    }

    /// Whether modules may use a proposal.
    pub fn has(&self, proposal: Proposal) -> bool {
        self.0.contains(proposal.flag())
    }

    /// As the validator wants to know it.
    pub(crate) fn flags(self) -> WasmFeatures {
        self.0
    }
}

impl Default for Features {
    /// What each proposal's documentation says.
    fn default() -> Features {
        let mut features = Features(ALWAYS);
        for (proposal, on) in Proposal::DEFAULTS.iter().copied() {
            features.set(proposal, on);
        }
        features
    }
}

/// The proposals that are refused by name if they are off or not supported. Where one needs another, the needed one comes first.
const REFUSED: [(WasmFeatures, &str); 20] = [
    (WasmFeatures::SIMD, "SIMD"),
    (WasmFeatures::RELAXED_SIMD, "relaxed SIMD"),
    (WasmFeatures::THREADS, "threads"),
    (WasmFeatures::TAIL_CALL, "tail calls"),
    (WasmFeatures::MULTI_MEMORY, "multiple memories"),
    (WasmFeatures::EXCEPTIONS, "exceptions"),
    (WasmFeatures::LEGACY_EXCEPTIONS, "legacy exceptions"),
    (WasmFeatures::MEMORY64, "64-bit memories"),
    (WasmFeatures::EXTENDED_CONST, "extended constant expressions"),
    (WasmFeatures::FUNCTION_REFERENCES, "typed function references"),
    (WasmFeatures::GC, "garbage collection"),
    (WasmFeatures::CUSTOM_PAGE_SIZES, "custom page sizes"),
    (WasmFeatures::MEMORY_CONTROL, "memory control"),
    (
        WasmFeatures::SHARED_EVERYTHING_THREADS,
        "shared-everything threads",
    ),
    (WasmFeatures::STACK_SWITCHING, "stack switching"),
    (WasmFeatures::WIDE_ARITHMETIC, "wide arithmetic"),
    (WasmFeatures::CUSTOM_DESCRIPTORS, "custom descriptors"),
    (WasmFeatures::COMPACT_IMPORTS, "compact imports"),
    (WasmFeatures::ACQUIRE_RELEASE_ATOMICS, "acquire-release atomics"),
    (WasmFeatures::COMPONENT_MODEL, "the component model"),
];

/// Says of an invalid module which proposal it needs, if it is valid up to there with one.
///
/// Validates anew, at most once per proposal: linear in the module, and only after an error.
pub(crate) fn explain(wasm: &[u8], given: Features, error: CompileError) -> CompileError {
    let CompileError::Invalid { offset, message } = error else {
        return error;
    };
    let helps = |features| first_error(wasm, given.flags() | features).is_none_or(|at| at > offset);
    if helps(WasmFeatures::all()) {
        let mut features = WasmFeatures::empty();
        for (feature, name) in REFUSED {
            if given.flags().contains(feature) {
                continue;
            }
            features |= feature;
            if helps(feature) || helps(features) {
                return CompileError::Unsupported {
                    feature: name,
                    offset,
                    message,
                };
            }
        }
    }
    CompileError::Invalid { offset, message }
}

/// Where validation with these features stops, if it does.
fn first_error(wasm: &[u8], features: WasmFeatures) -> Option<u64> {
    validate(wasm, features).err().map(|error| error.offset())
}

fn validate(wasm: &[u8], features: WasmFeatures) -> wasmparser::Result<()> {
    let mut parser = Parser::new(0);
    parser.set_features(features);
    let mut validator = Validator::new_with_features(features);
    let mut bodies = Vec::new();
    for payload in parser.parse_all(wasm) {
        if let ValidPayload::Func(func, body) = validator.payload(&payload?)? {
            bodies.push((func, body));
        }
    }
    let mut allocations = Default::default();
    for (func, body) in bodies {
        let mut validator = func.into_validator(allocations);
        validator.validate(&body)?;
        allocations = validator.into_allocations();
    }
    Ok(())
}
