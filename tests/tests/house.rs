//! The rules of the house that can be read off the files: the map is true, the arrows point one way, files have one name.

#[path = "house/code.rs"]
mod code;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests lie in the workspace")
        .to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below a folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Words in backquotes that look like paths.
fn paths_in(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|word| {
        word.contains('/') && !word.contains([' ', '*', ':', '(']) && word.starts_with(char::is_alphabetic)
    })
}

#[test]
fn every_path_of_the_map_exists() {
    let map = read("ARCHITECTURE.md");
    let paths: Vec<_> = paths_in(&map).collect();
    assert!(paths.len() > 30, "only {} paths were found", paths.len());
    for path in paths {
        assert!(root().join(path).exists(), "ARCHITECTURE.md names {path}");
    }
}

#[test]
fn the_arrows_point_one_way() {
    // What a crate's manifest must not name among its dependencies.
    let rules: [(&str, &[&str]); 5] = [
        ("fibers", &["selvedge", "wasm", "cranelift"]),
        ("compiler", &["fibers", "selvedge.", "selvedge-w", "libc"]),
        ("selvedge", &["cranelift", "wasmparser", "selvedge-w", "tokio"]),
        ("wasi", &["fibers", "selvedge-compiler", "cranelift"]),
        ("wast", &["fibers", "selvedge-compiler", "cranelift"]),
    ];
    for (name, forbidden) in rules {
        let manifest = read(format!("crates/{name}/Cargo.toml"));
        let (_, dependencies) = manifest
            .split_once("[dependencies]")
            .expect("every crate has dependencies");
        let dependencies = dependencies.split("\n[").next().expect("a section");
        for line in dependencies.lines() {
            for word in forbidden {
                assert!(!line.starts_with(word), "crates/{name} depends on {line}");
            }
        }
    }
}

#[test]
fn vm_does_not_reach_up_into_the_embedding_api() {
    // The vm names errors, the engine, host function traits and handles it makes; never instances, linkers or calls of the API.
    for path in sources("crates/selvedge/src/vm") {
        let text = fs::read_to_string(&path).expect("readable");
        for above in [
            "crate::linker",
            "crate::instance",
            "crate::func::",
            "crate::memory",
            "crate::global",
        ] {
            assert!(!text.contains(above), "{} uses {above}", path.display());
        }
    }
}

#[test]
fn unsafe_code_lives_in_fibers_and_vm() {
    for crate_name in ["compiler", "selvedge", "wasi", "wast", "cli"] {
        for path in sources(&format!("crates/{crate_name}/src")) {
            let shown = path.display().to_string();
            if shown.contains("crates/selvedge/src/vm") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("readable");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let found = code
                .filter(|line| line.contains("unsafe {") || line.contains("unsafe impl"))
                .count();
            assert_eq!(found, 0, "unsafe code in {shown}");
        }
    }
}

#[test]
fn files_are_short_enough_to_have_one_name() {
    for folder in ["crates", "tests", "benches", "fuzz"] {
        for path in sources(folder) {
            let lines = fs::read_to_string(&path).expect("readable").lines().count();
            assert!(
                lines <= 1000,
                "{} has {lines} lines: one name or two?",
                path.display()
            );
        }
    }
}

/// The longest a function may be: one screen.
const FUNCTION_LINES: usize = 60;

/// Functions that are longer, and why that is no trouble to read.
const LONGER: [(&str, &str, &str); 1] = [(
    "crates/selvedge/src/vm/arch/aarch64.rs",
    "fuel_check",
    "assembly that stores all registers, and loads them again",
)];

#[test]
fn functions_are_short_enough_to_be_seen_at_once() {
    let mut longer = Vec::new();
    let mut count = 0;
    for path in ["crates", "tests", "benches", "fuzz"]
        .into_iter()
        .flat_map(sources)
    {
        let text = fs::read_to_string(&path).expect("readable");
        let path = path.strip_prefix(root()).expect("in the workspace");
        for (name, lines) in code::functions(&text) {
            count += 1;
            if lines > FUNCTION_LINES {
                longer.push((path.display().to_string(), name, lines));
            }
        }
    }
    assert!(count > 4000, "only {count} functions were found");
    for (path, name, why) in LONGER {
        let known = longer
            .iter()
            .position(|longer| longer.0 == path && longer.1 == name);
        longer.remove(known.unwrap_or_else(|| panic!("{name} in {path} is not long: {why}")));
    }
    assert!(longer.is_empty(), "more than {FUNCTION_LINES} lines: {longer:#?}");
}
