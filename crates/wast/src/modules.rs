//! The modules of a script: from text, quoted text or bytes to a compiled module, or to its refusal.
//!
//! Scripts tell *malformed* modules (they cannot be parsed) from *invalid* ones (they break a rule). Where that
//! line runs is not for an embedder to see, so both are refusals here. But a refusal is a compile error: a module
//! that only runs into a limit of the host was not refused.

use crate::Options;
use crate::runner::Stop;
use selvedge::{CompileError, Engine, Error, Module};
use wast::{QuoteWat, Wat};

/// `\0asm`. Spec: core/binary/modules, binary-magic.
const MAGIC: &[u8] = b"\0asm";

/// Compiles a module that the script takes to be valid. Skipped if it needs a proposal that is not supported.
pub(crate) fn compile(options: &Options, module: &mut QuoteWat<'_>) -> Result<Module, Stop> {
    refuse_components(module)?;
    let bytes = module
        .encode()
        .map_err(|error| Stop::Failed(format!("cannot read the module: {error}")))?;
    (options.compile)(&options.engine, &bytes).map_err(|error| match error.downcast_ref::<CompileError>() {
        Some(CompileError::Unsupported { feature, .. }) => Stop::unsupported(feature),
        _ => Stop::Failed(format!("compilation failed: {error:#}")),
    })
}

/// Checks that a module is refused: by the parser of the text format, or else by compilation.
pub(crate) fn refuse(engine: &Engine, module: &mut QuoteWat<'_>, expected: &str) -> Result<(), Stop> {
    refuse_components(module)?;
    let Ok(bytes) = module.encode() else {
        return Ok(());
    };
    match Module::new(engine, &bytes) {
        Ok(_) => Err(Stop::Failed(format!(
            "the module was accepted, expected: {expected}"
        ))),
        Err(error) if is_refusal(&error, &bytes) => Ok(()),
        Err(error) => Err(Stop::Failed(format!(
            "no compile error: {error:#}, expected: {expected}"
        ))),
    }
}

/// Bytes without the magic are taken for text, and refused in that format's own words.
fn is_refusal(error: &Error, bytes: &[u8]) -> bool {
    error.downcast_ref::<CompileError>().is_some() || !bytes.starts_with(MAGIC)
}

fn refuse_components(module: &QuoteWat<'_>) -> Result<(), Stop> {
    match module {
        QuoteWat::Wat(Wat::Component(_)) | QuoteWat::QuoteComponent(..) => {
            Err(Stop::unsupported("components"))
        }
        QuoteWat::Wat(Wat::Module(_)) | QuoteWat::QuoteModule(..) => Ok(()),
    }
}
