//! Which proposals are supported, which of them a caller may switch off, and what to call the others.

use wasmparser::{Operator, Parser, ValidPayload, Validator, WasmFeatures};

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
    /// Exceptions: tags, `throw`, `try_table` and references to exceptions. The older form of the proposal is refused.
    Exceptions,
    /// More than one memory in a module.
    MultiMemory,
    /// Memories and tables with 64-bit addresses.
    Memory64,
    /// Memories whose pages are one byte.
    CustomPageSizes,
    /// Vectors of 128 bits.
    Simd,
    /// Vector operators whose results the specification leaves open; ours are the same on every processor. Nothing
    /// without [`Proposal::Simd`].
    RelaxedSimd,
    /// Addition, subtraction and multiplication of integers to 128 bits.
    WideArithmetic,
    /// Shared memories, and atomic accesses to any.
    Threads,
}

impl Proposal {
    /// Every proposal that can be switched, with whether it is on by default: those of version 3 are, and those that others have on too.
    const DEFAULTS: &[(Proposal, bool)] = &[
        (Proposal::TailCall, true),
        (Proposal::FunctionReferences, true),
        (Proposal::ExtendedConst, true),
        (Proposal::Exceptions, true),
        (Proposal::MultiMemory, true),
        (Proposal::Memory64, true),
        (Proposal::CustomPageSizes, false),
        (Proposal::Simd, true),
        (Proposal::RelaxedSimd, true),
        (Proposal::WideArithmetic, false),
        (Proposal::Threads, true),
    ];

    /// The one whose [`Debug`] is `name`.
    pub(crate) fn named(name: &str) -> Option<Proposal> {
        let mut all = Proposal::DEFAULTS.iter().map(|(proposal, _)| *proposal);
        all.find(|proposal| format!("{proposal:?}") == name)
    }

    /// What embedders switch it by.
    fn setting(self) -> &'static str {
        match self {
            Proposal::TailCall => "wasm_tail_call",
            Proposal::FunctionReferences => "wasm_function_references",
            Proposal::ExtendedConst => "wasm_extended_const",
            Proposal::Exceptions => "wasm_exceptions",
            Proposal::MultiMemory => "wasm_multi_memory",
            Proposal::Memory64 => "wasm_memory64",
            Proposal::CustomPageSizes => "wasm_custom_page_sizes",
            Proposal::Simd => "wasm_simd",
            Proposal::RelaxedSimd => "wasm_relaxed_simd",
            Proposal::WideArithmetic => "wasm_wide_arithmetic",
            Proposal::Threads => "wasm_threads",
        }
    }

    fn flag(self) -> WasmFeatures {
        match self {
            Proposal::TailCall => WasmFeatures::TAIL_CALL,
            Proposal::FunctionReferences => WasmFeatures::FUNCTION_REFERENCES,
            Proposal::ExtendedConst => WasmFeatures::EXTENDED_CONST,
            Proposal::Exceptions => WasmFeatures::EXCEPTIONS,
            Proposal::MultiMemory => WasmFeatures::MULTI_MEMORY,
            Proposal::Memory64 => WasmFeatures::MEMORY64,
            Proposal::CustomPageSizes => WasmFeatures::CUSTOM_PAGE_SIZES,
            Proposal::Simd => WasmFeatures::SIMD,
            Proposal::RelaxedSimd => WasmFeatures::RELAXED_SIMD,
            Proposal::WideArithmetic => WasmFeatures::WIDE_ARITHMETIC,
            Proposal::Threads => WasmFeatures::THREADS,
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

    /// The names of those that modules may use: see [`Proposal::named`].
    pub(crate) fn names(self) -> Vec<String> {
        let all = Proposal::DEFAULTS.iter().map(|(proposal, _)| *proposal);
        all.filter(|proposal| self.has(*proposal))
            .map(|proposal| format!("{proposal:?}"))
            .collect()
    }

    /// As the validator wants to know it.
    ///
    /// It takes constant expressions that ask for an earlier global of the same module, which version 3 allows, only together
    /// with garbage collection: so it lets pass that too, and what else belongs to it is refused where it is read
    /// ([`CompileError::garbage_collection`]).
    pub(crate) fn flags(self) -> WasmFeatures {
        let mut flags = self.0;
        // It implies function references.
        if self.has(Proposal::ExtendedConst) && self.has(Proposal::FunctionReferences) {
            flags |= WasmFeatures::GC;
        }
        match flags.contains(WasmFeatures::SIMD) {
            true => flags,
            false => flags.difference(WasmFeatures::RELAXED_SIMD),
        }
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
const NAMES: [(WasmFeatures, &str); 20] = [
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

/// Whether an operator is of the garbage collection proposal, which validation lets pass.
pub(crate) fn is_garbage_collection(operator: &Operator<'_>) -> bool {
    macro_rules! is_it {
        ($(@$proposal:ident $op:ident $({ $($field:ident: $ty:ty),* })? => $visit:ident ($($arity:tt)*))*) => {
            match operator {
                $(Operator::$op { .. } => stringify!($proposal) == "gc",)*
                _ => false, // of a later version of the parser
            }
        };
    }
    wasmparser::for_each_operator!(is_it)
}

/// Says of a module that is invalid with the features `given` which proposal it needs, if it is valid up to there
/// with one.
///
/// Validates anew, of the functions at most the one that the error is in. The names are searched by halves, since
/// what is valid stays so with one more proposal: seven times in all.
pub(crate) fn explain(wasm: &[u8], given: Features, error: CompileError) -> CompileError {
    let CompileError::Invalid { offset, message } = error else {
        return error;
    };
    let helps = |count: usize| {
        let more = NAMES[..count].iter().map(|(feature, _)| *feature);
        is_valid_up_to(wasm, more.fold(given.flags(), WasmFeatures::union), offset)
    };
    if helps(0) || !helps(NAMES.len()) {
        return CompileError::Invalid { offset, message };
    }
    let (mut too_few, mut enough) = (0, NAMES.len());
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        match helps(middle) {
            true => enough = middle,
            false => too_few = middle,
        }
    }
    let (flag, feature) = NAMES[enough - 1];
    let mut all = Proposal::DEFAULTS.iter();
    let message = match all.find(|(proposal, _)| proposal.flag() == flag) {
        Some((proposal, _)) => format!("switched off by the setting `{}`", proposal.setting()),
        None => message,
    };
    CompileError::Unsupported {
        feature,
        offset,
        message,
    }
}

/// Whether validation with these features gets beyond `offset`. The functions' bodies before it are taken
/// to be valid.
fn is_valid_up_to(wasm: &[u8], features: WasmFeatures, offset: u64) -> bool {
    match validate(wasm, features, offset) {
        Ok(()) => true,
        Err(error) => error.offset() > offset,
    }
}

fn validate(wasm: &[u8], features: WasmFeatures, offset: u64) -> wasmparser::Result<()> {
    let mut parser = Parser::new(0);
    parser.set_features(features);
    let mut validator = Validator::new_with_features(features);
    let mut culprit = None;
    for payload in parser.parse_all(wasm) {
        if let ValidPayload::Func(func, body) = validator.payload(&payload?)?
            && (body.range().start..=body.range().end).contains(&offset)
        {
            culprit = Some((func, body));
        }
    }
    match culprit {
        Some((func, body)) => func.into_validator(Default::default()).validate(&body),
        None => Ok(()),
    }
}
