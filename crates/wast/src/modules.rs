//! The modules of a script: from text, quoted text or bytes to a compiled module, or to its refusal.
//!
//! Scripts tell *malformed* modules (they cannot be parsed) from *invalid* ones (they break a rule). Where that
//! line runs is not for an embedder to see, so both are refusals here. But a refusal says that the module is wrong: one that runs into a
//! limit was not refused, and of one that asks for types that nobody here knows ([`UNKNOWN_TYPES`]) nobody can say, so the command is skipped.
//!
//! Custom sections are nothing that a runtime refuses a module for. Where a script asserts that it should, they are read here.

use crate::Options;
use crate::runner::Stop;
use selvedge::{CompileError, Engine, Error, Module};
use wasmparser::{BinaryReader, BranchHintSectionReader, Name, NameSectionReader, Parser, Payload};
use wast::{QuoteWat, Wat};

/// `\0asm`. Spec: core/binary/modules, binary-magic.
const MAGIC: &[u8] = b"\0asm";

/// Proposals that no setting turns on: a module that needs one was not looked at any further.
const UNKNOWN_TYPES: [&str; 2] = ["garbage collection", "custom descriptors"];

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
        Err(error) => is_refusal(&error, &bytes).unwrap_or_else(|| {
            let message = format!("no refusal: {error:#}, expected: {expected}");
            Err(Stop::Failed(message))
        }),
    }
}

/// Whether compilation refused a module for what it is. `None` if it failed for another reason. Bytes without the magic are taken for
/// text, and refused in that format's own words.
fn is_refusal(error: &Error, bytes: &[u8]) -> Option<Result<(), Stop>> {
    match error.downcast_ref::<CompileError>() {
        Some(CompileError::Unsupported { feature, .. }) if UNKNOWN_TYPES.contains(feature) => {
            Some(Err(Stop::unsupported(feature)))
        }
        Some(CompileError::Invalid { .. } | CompileError::Unsupported { .. }) => Some(Ok(())),
        None if !bytes.starts_with(MAGIC) => Some(Ok(())),
        Some(_) | None => None,
    }
}

/// Checks that a custom section of a module cannot be read: by the parser of the text format, for annotations, or else in its bytes.
pub(crate) fn refuse_malformed_custom(module: &mut QuoteWat<'_>, expected: &str) -> Result<(), Stop> {
    if are_custom_sections_malformed(module)? {
        return Ok(());
    }
    let message = format!("its custom sections were read to their ends, expected: {expected}");
    Err(Stop::Failed(message))
}

/// As [`refuse_malformed_custom`], but skipped if the sections can be read: whether what they say holds for the module is not looked at.
pub(crate) fn refuse_invalid_custom(module: &mut QuoteWat<'_>) -> Result<(), Stop> {
    if are_custom_sections_malformed(module)? {
        return Ok(());
    }
    Err(Stop::unsupported(
        "checks of custom sections against their module",
    ))
}

fn are_custom_sections_malformed(module: &mut QuoteWat<'_>) -> Result<bool, Stop> {
    refuse_components(module)?;
    Ok(match module.encode() {
        Ok(bytes) => read_custom_sections(&bytes).is_err(),
        Err(_) => true,
    })
}

/// Reads names and branch hints to their ends.
fn read_custom_sections(bytes: &[u8]) -> wasmparser::Result<()> {
    for payload in Parser::new(0).parse_all(bytes) {
        let Payload::CustomSection(section) = payload? else {
            continue;
        };
        let reader = BinaryReader::new(section.data(), section.data_offset());
        match section.name() {
            "name" => NameSectionReader::new(reader).try_for_each(|name| read_name(name?))?,
            "metadata.code.branch_hint" => {
                for function in BranchHintSectionReader::new(reader)? {
                    function?.hints.into_iter().try_for_each(|hint| hint.map(drop))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_name(name: Name<'_>) -> wasmparser::Result<()> {
    match name {
        Name::Function(mut names)
        | Name::Type(mut names)
        | Name::Table(mut names)
        | Name::Memory(mut names)
        | Name::Global(mut names)
        | Name::Element(mut names)
        | Name::Data(mut names)
        | Name::Tag(mut names) => names.try_for_each(|naming| naming.map(drop)),
        Name::Local(mut owners)
        | Name::Label(mut owners)
        | Name::Field(mut owners)
        | Name::Parameter(mut owners)
        | Name::TagParameter(mut owners) => {
            owners.try_for_each(|owner| owner?.names.try_for_each(|naming| naming.map(drop)))
        }
        Name::Module { .. } | Name::Unknown { .. } => Ok(()),
    }
}

fn refuse_components(module: &QuoteWat<'_>) -> Result<(), Stop> {
    match module {
        QuoteWat::Wat(Wat::Component(_)) | QuoteWat::QuoteComponent(..) => {
            Err(Stop::unsupported("components"))
        }
        QuoteWat::Wat(Wat::Module(_)) | QuoteWat::QuoteModule(..) => Ok(()),
    }
}
