//! Vector operators: that every one compiles without a library call, whatever the processor has, and traps where it should.
#![cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix))]

mod harness;

use std::fs;
use std::path::Path;

use harness::Guest;
use selvedge_compiler::{MemoryStyle, OptLevel, Settings, TrapCode, compile};

fn settings() -> Settings {
    Settings::host().unwrap()
}

/// The modules of the golden listings with one function for each operator.
fn every_operator() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    [
        "bits",
        "conversion",
        "float",
        "integer",
        "integer_compare",
        "lanes",
        "memory",
        "relaxed",
    ]
    .map(|chapter| fs::read_to_string(folder.join(format!("simd_{chapter}.wat"))).unwrap())
    .to_vec()
}

/// The features that portable code names: what it depends on always.
#[cfg(target_arch = "x86_64")]
const REQUIRED: [&str; 3] = ["has_sse3", "has_sse41", "has_ssse3"];
#[cfg(target_arch = "aarch64")]
const REQUIRED: [&str; 0] = [];

#[test]
fn every_operator_compiles_for_any_processor_and_for_this_one() {
    let mut operators = 0;
    for wat in every_operator() {
        let wasm = wat::parse_str(&wat).unwrap();
        for portable in [false, true] {
            for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
                for level in [OptLevel::None, OptLevel::Speed] {
                    let settings = settings().portable(portable).memory_style(style).opt_level(level);
                    // A library call would be an error here: the image has no place for one.
                    let image = compile(&wasm, &settings).unwrap().image;
                    if portable {
                        assert_eq!(image.cpu_features, REQUIRED);
                    }
                    if (portable, style, level) == (true, MemoryStyle::Reserved, OptLevel::None) {
                        operators += image.functions.len();
                    }
                }
            }
        }
    }
    assert_eq!(operators, 236 + 20, "SIMD and relaxed SIMD");
}

#[test]
fn every_access_has_its_site_with_its_trap() {
    let memory = every_operator()
        .into_iter()
        .find(|wat| wat.contains("v128.load64_zero"));
    let wasm = wat::parse_str(memory.unwrap()).unwrap();
    for portable in [false, true] {
        let reserved = compile(&wasm, &settings().portable(portable)).unwrap().image;
        for function in &reserved.functions {
            let mut sites = reserved.fault_sites.iter();
            let site = sites.find(|site| function.contains(&site.code));
            assert_eq!(site.map(|site| site.trap), Some(TrapCode::MemoryOutOfBounds));
        }
    }
}

#[test]
fn the_last_bytes_are_reached_and_no_more() {
    let wat = r#"(module (memory 1)
        (func (export "load") (param i32) (result i64) (i64x2.extract_lane 1 (v128.load (local.get 0))))
        (func (export "half") (param i32) (result i64) (i64x2.extract_lane 0 (v128.load32x2_u (local.get 0))))
        (func (export "lane") (param i32) (result i32)
            (i16x8.extract_lane_u 3 (v128.load16_lane 3 (local.get 0) (v128.const i64x2 -1 -1))))
        (func (export "store") (param i32) (result i32)
            (v128.store8_lane 2 (local.get 0) (v128.const i8x16 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16))
            (i32.load8_u (local.get 0))))"#;
    for portable in [false, true] {
        let settings = settings().memory_style(MemoryStyle::Bounded).portable(portable);
        let mut guest = Guest::new(wat, &settings);
        guest.memory()[8191] = 0x0102_0304_0506_0708;
        for (name, bytes, value) in [
            ("load", 16, 0x0102_0304_0506_0708),
            ("half", 8, 0x0506_0708),
            ("lane", 2, 0x0102),
            ("store", 1, 3),
        ] {
            assert_eq!(guest.run(name, &[65536 - bytes]), value, "{name}");
            let (trap, _) = guest.trap(name, &[65536 - bytes + 1]);
            assert_eq!(trap, TrapCode::MemoryOutOfBounds, "{name}");
        }
    }
}

#[test]
fn relaxed_products_are_rounded_whatever_the_processor_has() {
    // (1 + 2^-30)^2 - 1 - 2^-29 is 2^-60 if the product is not rounded, else 0.
    let wat = r#"(module (func (export "madd") (result i64)
        (i64x2.extract_lane 0 (f64x2.relaxed_madd
            (f64x2.splat (f64.const 0x1.00000004p0)) (f64x2.splat (f64.const 0x1.00000004p0))
            (f64x2.splat (f64.const -0x1.00000008p0))))))"#;
    for portable in [false, true] {
        assert_eq!(
            Guest::new(wat, &settings().portable(portable)).run("madd", &[]),
            0
        );
    }
}
