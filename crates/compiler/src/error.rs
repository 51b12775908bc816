//! Why a module was not compiled.

use crate::limits;

/// Why a module was not compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The bytes are not a module, or not a valid one. `message` has the specification's words.
    #[error("{message} (at offset {offset:#x})")]
    Invalid {
        /// Where, in bytes from the start of the module.
        offset: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The module is valid with a proposal that is not supported, or switched off in the settings.
    #[error("{feature} not supported (at offset {offset:#x}): {message}")]
    Unsupported {
        /// The proposal, by name.
        feature: &'static str,
        /// Where it is first needed, in bytes from the start of the module.
        offset: u64,
        /// What needs it.
        message: String,
    },
    /// The module is valid, but larger than this compiler takes.
    #[error("too many {what}: {count}, the limit is {limit} (at offset {offset:#x})")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is (at least).
        count: u64,
        /// How much is taken.
        limit: u64,
        /// Where, in bytes from the start of the module.
        offset: u64,
    },
    /// The processor lacks something that compiled code needs.
    #[error("processor feature {feature} is missing")]
    Processor {
        /// The feature's usual name.
        feature: &'static str,
    },
    /// Code is not made for this architecture or system.
    #[error("target {target} not supported")]
    Target {
        /// The target, as in a target triple.
        target: String,
    },
    /// The code generator refused a valid function, most likely because it is larger than it takes.
    #[error("function {function}: code generation failed: {message} (at offset {offset:#x})")]
    Codegen {
        /// The function's index, imports first.
        function: u32,
        /// Where its body starts, in bytes from the start of the module.
        offset: u64,
        /// The code generator's words.
        message: String,
    },
    /// The code generator refused the code that hosts call functions of a type by, or those call the host by.
    #[error("trampoline of type {ty}: code generation failed: {message}")]
    Trampoline {
        /// The type's index.
        ty: u32,
        /// The code generator's words.
        message: String,
    },
}

impl CompileError {
    /// The offset in the module that the error is about, if it is about one.
    pub fn offset(&self) -> Option<u64> {
        match self {
            CompileError::Invalid { offset, .. }
            | CompileError::Unsupported { offset, .. }
            | CompileError::TooLarge { offset, .. }
            | CompileError::Codegen { offset, .. } => Some(*offset),
            _ => None,
        }
    }

    /// Something that is valid, and that only the garbage collection proposal has.
    pub(crate) fn garbage_collection(offset: u64, message: impl Into<String>) -> CompileError {
        CompileError::Unsupported {
            feature: "garbage collection",
            offset,
            message: message.into(),
        }
    }

    /// Something that is valid with a proposal of this name, and has no offset yet.
    pub(crate) fn unsupported(feature: &'static str, message: impl Into<String>) -> CompileError {
        CompileError::Unsupported {
            feature,
            offset: 0,
            message: message.into(),
        }
    }

    /// With an offset, where it has none of its own.
    pub(crate) fn at(mut self, place: u64) -> CompileError {
        if let CompileError::Invalid { offset, .. } | CompileError::Unsupported { offset, .. } = &mut self
            && *offset == 0
        {
            *offset = place;
        }
        self
    }

    /// The code generator has refused what was made of this.
    pub(crate) fn codegen(origin: Origin, message: impl ToString) -> CompileError {
        let message = message.to_string();
        match origin {
            Origin::Function { index, offset } => CompileError::Codegen {
                function: index,
                offset,
                message,
            },
            Origin::Trampoline { ty } => CompileError::Trampoline { ty, message },
        }
    }
}

/// What code is made of, for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// A function of the module, and where its body starts.
    Function { index: u32, offset: u64 },
    /// A signature, by its index.
    Trampoline { ty: u32 },
}

impl From<wasmparser::Error> for CompileError {
    fn from(error: wasmparser::Error) -> CompileError {
        if error.message().starts_with(limits::TYPE_SIZE_MESSAGE) {
            return limits::type_size(error.offset());
        }
        CompileError::Invalid {
            offset: error.offset(),
            message: error.message().to_owned(),
        }
    }
}
