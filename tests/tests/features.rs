//! Each proposal has a switch of its own in [`Config`], and what is off is refused by that switch's name.

use selvedge::{Config, Engine, Module};
use std::collections::BTreeSet;

/// A switch, whether it is on by default, and a module that needs it and nothing else that can be off.
type Switch = (
    &'static str,
    fn(&mut Config, bool) -> &mut Config,
    bool,
    &'static str,
);

macro_rules! switches {
    ($($name:ident $default:literal $fields:literal)*) => {
        [$((stringify!($name), Config::$name, $default, concat!("(module ", $fields, ")"))),*]
    };
}

const SWITCHES: [Switch; 17] = switches! {
    wasm_mutable_global true r#"(global (export "g") (mut i32) (i32.const 0))"#
    wasm_nontrapping_float_to_int true "(func (drop (i32.trunc_sat_f32_s (f32.const 1))))"
    wasm_sign_extension true "(func (drop (i32.extend8_s (i32.const 1))))"
    wasm_multi_value true "(type (func (result i32 i32)))"
    wasm_bulk_memory true "(memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)))"
    wasm_reference_types true "(func (drop (ref.null extern)))"
    wasm_tail_call true "(func (return_call 0))"
    wasm_function_references true "(type $t (func)) (func (param (ref $t)))"
    wasm_extended_const true "(global i32 (i32.add (i32.const 1) (i32.const 2)))"
    wasm_exceptions true "(tag)"
    wasm_multi_memory true "(memory 1) (memory 1)"
    wasm_memory64 true "(memory i64 1)"
    wasm_custom_page_sizes false "(memory 1 (pagesize 1))"
    wasm_simd true "(func (drop (v128.const i64x2 0 0)))"
    wasm_relaxed_simd true "(func (drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0))))"
    wasm_wide_arithmetic false "(func (result i64 i64) (i64.mul_wide_s (i64.const 1) (i64.const 2)))"
    wasm_threads true "(memory 1 1 shared)"
};

/// Which proposals cannot be used without which others.
const NEEDS: [(&str, &str); 2] = [
    ("wasm_function_references", "wasm_reference_types"),
    ("wasm_relaxed_simd", "wasm_simd"),
];

fn compile(config: &Config, wat: &str) -> Result<(), String> {
    let engine = Engine::new(config).map_err(|error| error.to_string())?;
    Module::new(&engine, wat)
        .map(drop)
        .map_err(|error| error.to_string())
}

#[test]
fn each_proposal_is_switched_by_its_own_name() {
    for (name, switch, is_default, wat) in SWITCHES {
        assert_eq!(
            compile(&Config::new(), wat).is_ok(),
            is_default,
            "{name} by default"
        );
        assert_eq!(compile(switch(&mut Config::new(), true), wat), Ok(()), "{name}");
        let error = compile(switch(&mut Config::new(), false), wat).expect_err(name);
        let blamed = "not supported (at offset 0x";
        let setting = format!("switched off by the setting `{name}`");
        assert!(error.contains(blamed) && error.ends_with(&setting), "{error}");
        let on = SWITCHES.iter().filter(|other| other.0 != name && other.2);
        for (other, .., wat) in on {
            let is_refused = compile(switch(&mut Config::new(), false), wat).is_err();
            let needs = NEEDS.contains(&(*other, name));
            assert_eq!(is_refused, needs, "{other} without {name}");
        }
    }
}

#[test]
fn every_switch_of_a_proposal_is_known_here() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/selvedge/src/config.rs");
    let source = std::fs::read_to_string(path).expect("readable");
    let lines = source
        .lines()
        .filter(|line| line.contains("(&mut self, on: bool)"));
    let names = lines.filter_map(|line| line.trim().strip_prefix("pub fn ")?.split('(').next());
    let there: BTreeSet<_> = names.filter(|name| name.starts_with("wasm_")).collect();
    assert_eq!(there, SWITCHES.map(|switch| switch.0).into());
}
