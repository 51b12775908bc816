//! Which proposals are supported, which of them a caller may switch off, and what to call the others.

use wasmparser::{Operator, Parser, ValidPayload, Validator, WasmFeatures};

use crate::CompileError;

/// What is compiled whatever the settings: version 1 of WebAssembly, without what was a proposal then.
const ALWAYS: WasmFeatures = WasmFeatures::MVP;

/// A proposal that can be switched on and off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Proposal {
    /// Globals that can be set, imported and exported.
    MutableGlobal,
    /// Conversions of floats to integers that never trap.
    NontrappingFloatToInt,
    /// Sign extension of the low bits of an integer.
    SignExtension,
    /// More than one result, and blocks that take parameters.
    MultiValue,
    /// Copying, filling and initializing ranges of memories and tables; passive segments.
    BulkMemory,
    /// References as values, in locals, globals and tables; more than one table in a module.
    ReferenceTypes,
    /// Calls that take the place of their caller.
    TailCall,
    /// References to functions of one signature, and calls of them; types that contain each other. Nothing without
    /// [`Proposal::ReferenceTypes`].
    FunctionReferences,
    /// Arithmetic in constant expressions, and earlier globals of the same module in them: the latter as version 3 has it, so not without
    /// [`Proposal::FunctionReferences`].
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
    /// Every proposal that can be switched, with whether it is on by default: those of versions 2 and 3 are, and those that others have on
    /// too.
    const DEFAULTS: &[(Proposal, bool)] = &[
        (Proposal::MutableGlobal, true),
        (Proposal::NontrappingFloatToInt, true),
        (Proposal::SignExtension, true),
        (Proposal::MultiValue, true),
        (Proposal::BulkMemory, true),
        (Proposal::ReferenceTypes, true),
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
            Proposal::MutableGlobal => "wasm_mutable_global",
            Proposal::NontrappingFloatToInt => "wasm_nontrapping_float_to_int",
            Proposal::SignExtension => "wasm_sign_extension",
            Proposal::MultiValue => "wasm_multi_value",
            Proposal::BulkMemory => "wasm_bulk_memory",
            Proposal::ReferenceTypes => "wasm_reference_types",
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

    /// What is said of the module that asks for it while it is off.
    fn switched_off(self) -> String {
        format!("switched off by the setting `{}`", self.setting())
    }

    /// What it is called where it is refused.
    pub(crate) fn name(self) -> &'static str {
        let mut names = NAMES.iter();
        let (_, name) = names
            .find(|(flag, _)| *flag == self.flag())
            .expect("each that can be switched has a name");
        name
    }

    fn flag(self) -> WasmFeatures {
        match self {
            Proposal::MutableGlobal => WasmFeatures::MUTABLE_GLOBAL,
            Proposal::NontrappingFloatToInt => WasmFeatures::SATURATING_FLOAT_TO_INT,
            Proposal::SignExtension => WasmFeatures::SIGN_EXTENSION,
            Proposal::MultiValue => WasmFeatures::MULTI_VALUE,
            Proposal::BulkMemory => WasmFeatures::BULK_MEMORY,
            Proposal::ReferenceTypes => WasmFeatures::REFERENCE_TYPES,
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

    /// Whether a proposal is on, or the refusal of what asked for it, by its name.
    pub(crate) fn require(self, proposal: Proposal) -> Result<(), CompileError> {
        match self.has(proposal) {
            true => Ok(()),
            false => Err(CompileError::unsupported(
                proposal.name(),
                proposal.switched_off(),
            )),
        }
    }

    /// As the validator wants to know it.
    ///
    /// Version 3 has types that contain each other, and constant expressions that ask for an earlier global of the same module: the validator
    /// takes them for garbage collection. So that is on where function references are, and what else belongs to it is refused where it is
    /// read ([`CompileError::garbage_collection`]), or, if it is one of those globals without extended constant expressions, by their name.
    pub(crate) fn flags(self) -> WasmFeatures {
        let mut flags = self.0;
        if !self.has(Proposal::ReferenceTypes) {
            flags.remove(WasmFeatures::FUNCTION_REFERENCES);
        }
        if flags.contains(WasmFeatures::FUNCTION_REFERENCES) {
            flags |= WasmFeatures::GC;
        }
        if !self.has(Proposal::Simd) {
            flags.remove(WasmFeatures::RELAXED_SIMD);
        }
        flags
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
const NAMES: [(WasmFeatures, &str); 25] = [
    (
        WasmFeatures::MUTABLE_GLOBAL,
        "imported and exported mutable globals",
    ),
    (
        WasmFeatures::SATURATING_FLOAT_TO_INT,
        "non-trapping conversions of floats to integers",
    ),
    (WasmFeatures::SIGN_EXTENSION, "sign extension"),
    (WasmFeatures::MULTI_VALUE, "multiple values"),
    (WasmFeatures::BULK_MEMORY, "bulk memory operations"),
    (WasmFeatures::REFERENCE_TYPES, "reference types"),
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
///
/// With function references the validator takes garbage collection too: what is blamed on them may need that.
pub(crate) fn explain(wasm: &[u8], given: Features, error: CompileError) -> CompileError {
    let CompileError::Invalid { offset, message } = error else {
        return error;
    };
    let helps = |count: usize| {
        let more = NAMES[..count].iter().map(|(feature, _)| *feature);
        let features = Features(more.fold(given.0, WasmFeatures::union));
        is_valid_up_to(wasm, features.flags(), offset)
    };
    if is_component(wasm) {
        return CompileError::Unsupported {
            feature: "components",
            offset,
            message,
        };
    }
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
        Some((proposal, _)) => proposal.switched_off(),
        None => message,
    };
    CompileError::Unsupported {
        feature,
        offset,
        message,
    }
}

/// Whether these are a component's bytes. Component model, binary format: after the magic number and a version, the layer is 1.
fn is_component(wasm: &[u8]) -> bool {
    wasm.starts_with(b"\0asm") && wasm.get(6..8) == Some(&[1, 0])
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
