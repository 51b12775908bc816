//! The CLIF of every file in `golden/`, compared with the listing beside it.
//!
//! A file may begin with `;; settings: fuel bounded wide`. `UPDATE_GOLDEN=1` writes the listings anew: read the
//! difference before it is committed.
#![cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix))]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use selvedge_compiler::{Features, Listing, MemoryStyle, Proposal, Settings, listing};
use wasmparser::{Parser, Payload};

fn modules() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut modules: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|end| end == "wat"))
        .collect();
    modules.sort();
    modules
}

fn settings(source: &str) -> Settings {
    let words = source
        .lines()
        .next()
        .and_then(|line| line.strip_prefix(";; settings:"))
        .unwrap_or("");
    words
        .split_whitespace()
        .fold(Settings::host().unwrap(), |settings, word| match word {
            "fuel" => settings.fuel(true),
            "wide" => {
                let mut features = Features::default();
                features.set(Proposal::WideArithmetic, true);
                settings.features(features)
            }
            "bounded" => settings.memory_style(MemoryStyle::Bounded),
            "custom-page-sizes" => settings.features(with(Proposal::CustomPageSizes)),
            other => panic!("unknown setting {other}"),
        })
}

fn with(proposal: Proposal) -> Features {
    let mut features = Features::default();
    features.set(proposal, true);
    features
}

#[test]
fn listings_are_as_they_were() {
    let modules = modules();
    assert!(modules.len() >= 10, "only {} listings", modules.len());
    let mut changed = Vec::new();
    for module in modules {
        let source = fs::read_to_string(&module).unwrap();
        let wasm = wat::parse_str(&source).unwrap();
        let is = listing(&wasm, &settings(&source), Listing::Clif).unwrap();
        let beside = module.with_extension("clif");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&beside, &is).unwrap();
        } else if fs::read_to_string(&beside).unwrap_or_default() != is {
            changed.push(format!("{}:\n{is}", module.display()));
        }
    }
    assert!(
        changed.is_empty(),
        "changed (UPDATE_GOLDEN=1 accepts):\n{}",
        changed.join("\n")
    );
}

/// The operators that are supported, by their names in the parser: those of each of its proposals but some.
fn supported() -> BTreeSet<&'static str> {
    const NOT: [&str; 7] = [
        "gc",
        "legacy_exceptions",
        "stack_switching",
        "shared_everything_threads",
        "custom_descriptors",
        "memory_control",
        "acquire_release_atomics",
    ];
    macro_rules! names {
        ($(@$proposal:ident $op:ident $({ $($field:ident: $ty:ty),* })? => $visit:ident ($($arity:tt)*))*) => {
            [$((stringify!($proposal), stringify!($op))),*]
        };
    }
    let all = wasmparser::for_each_operator!(names);
    all.into_iter()
        .filter(|(proposal, _)| !NOT.contains(proposal))
        .map(|(_, name)| name)
        .filter(|name| *name != "TypedSelectMulti") // never valid
        .collect()
}

/// The operators of a module, by their names in the parser: what `Debug` writes before the operands.
fn operators(wasm: &[u8]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CodeSectionEntry(body) = payload.unwrap() else {
            continue;
        };
        for operator in body.get_operators_reader().unwrap() {
            let text = format!("{:?}", operator.unwrap());
            let end = text
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(text.len());
            names.insert(text[..end].to_owned());
        }
    }
    names
}

#[test]
fn every_operator_that_is_supported_has_a_listing() {
    let mut listed = BTreeSet::new();
    for module in modules() {
        listed.extend(operators(&wat::parse_file(module).unwrap()));
    }
    let supported = supported();
    assert!(supported.len() > 500, "only {} operators", supported.len());
    let missing: Vec<_> = supported.iter().filter(|name| !listed.contains(**name)).collect();
    assert!(missing.is_empty(), "without a listing: {missing:?}");
}

/// A metered loop: no spills, and for fuel a comparison that becomes a subtraction, and a branch; or a subtraction, a test and a branch.
#[test]
fn a_metered_loop_keeps_its_registers() {
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fuel.wat")).unwrap();
    let wasm = wat::parse_str(&source).unwrap();
    let assembly = listing(&wasm, &settings(&source), Listing::Assembly).unwrap();
    let sum = assembly
        .split(";; function")
        .find(|text| text.contains("sum"))
        .unwrap();
    // Two fences keep the place of a subtraction, in the loop a comparison does; on aarch64 it is computed, and made one
    // instruction later.
    let ([stack, payment, test, branch], pieces) = match cfg!(target_arch = "aarch64") {
        true => (["[sp", "mov x21, ", "subs xzr", "b.lt"], 4),
        false => (["rsp)", "mfence", "cmpq", "jl "], 3 * 2),
    };
    let spill = sum
        .lines()
        .find(|line| line.contains(stack) && !line.contains(" fp, lr, ["));
    assert_eq!(spill, None, "a spill or a saved register:\n{sum}");
    let count = |what: &str| {
        sum.lines()
            .filter(|line| line.trim_start().starts_with(what))
            .count()
    };
    // Before the loop, where its first turn leaves, at the end of the second (on aarch64), and after it.
    assert_eq!(count(payment), pieces, "{sum}");
    assert_eq!(count(test), 1, "{sum}");
    assert_eq!(count(branch), 1, "{sum}");
}
