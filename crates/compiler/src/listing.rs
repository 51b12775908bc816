//! Listings of what is made of a module, to be read by people and compared by tests.

use std::fmt::Write;

use crate::fuel::Payments;
use crate::function::Worker;
use crate::limits::Budget;
use crate::parse::parse;
use crate::translate::Env;
use crate::{CompileError, Settings, features};

/// What to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listing {
    /// The functions in Cranelift's intermediate form, as translated, before it is optimised.
    Clif,
    /// The functions in machine instructions, before they are linked.
    Assembly,
}

/// Lists every defined function of a module.
///
/// The text is for reading: it has no fixed format, and names what it refers to by number. CLIF shows payments of fuel as they would be
/// computed, machine instructions the places that are kept for them on x86-64 (`crates/compiler/src/fuel.rs`), neither what
/// becomes of payments and checks in the machine code (`crates/compiler/src/in_place.rs`, `crates/compiler/src/cold.rs`).
///
/// # Errors
///
/// As [`crate::compile`].
pub fn listing(wasm: &[u8], settings: &Settings, what: Listing) -> Result<String, CompileError> {
    list(wasm, settings, what).map_err(|error| features::explain(wasm, settings.features, error))
}

fn list(wasm: &[u8], settings: &Settings, what: Listing) -> Result<String, CompileError> {
    let isa = settings.isa()?;
    let parsed = parse(wasm, settings)?;
    let env = Env {
        info: &parsed.info,
        settings,
        isa: &*isa,
        budget: &Budget::of(wasm.len()),
    };
    let mut worker = Worker::new();
    let mut text = String::new();
    for body in parsed.bodies {
        let index = body.validate.index;
        let payments = match what {
            Listing::Clif => Payments::Computed,
            Listing::Assembly => Payments::FIRST,
        };
        worker.translate(env, &body, payments)?;
        let function = match what {
            Listing::Clif => worker.context.func.display().to_string(),
            Listing::Assembly => worker.disassemble(body.origin(), &*isa)?,
        };
        let name = parsed.info.function_name(index).unwrap_or("");
        writeln!(text, ";; function {index} {name}\n{function}").expect("a string takes all");
    }
    Ok(text)
}
