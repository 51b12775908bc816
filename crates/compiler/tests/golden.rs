//! The CLIF of every file in `golden/`, compared with the listing beside it.
//!
//! A file may begin with `;; settings: fuel bounded wide`. `UPDATE_GOLDEN=1` writes the listings anew: read the
//! difference before it is committed.
#![cfg(all(target_arch = "x86_64", unix))]

use std::fs;
use std::path::{Path, PathBuf};

use selvedge_compiler::{Features, Listing, MemoryStyle, Proposal, Settings, listing};

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

/// A metered loop: no frame, no spills, and for fuel a subtraction, a test and a branch.
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
    assert!(!sum.contains("rsp)"), "a spill or a saved register:\n{sum}");
    let count = |what: &str| {
        sum.lines()
            .filter(|line| line.trim_start().starts_with(what))
            .count()
    };
    // Before the loop, in it, and after it.
    assert_eq!(count("subq"), 3, "{sum}");
    assert_eq!(count("testq"), 1, "{sum}");
    assert_eq!(count("jl "), 1, "{sum}");
}
