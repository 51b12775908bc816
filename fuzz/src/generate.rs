//! Bytes to a case.

use crate::case::{Case, Numbers};
use crate::parts::Parts;
use crate::rewrite::tame_dots;
use crate::{references, waits};
use arbitrary::Unstructured;
use std::sync::LazyLock;
use wasm_smith::Config;

/// What a module may import.
pub const IMPORTS: &str = r#"(module
    (import "host" "mix" (func (param i32 i64) (result i64)))
    (import "host" "blend" (func (param f32 f64) (result f64)))
    (import "host" "many" (func (param i64 f32 i32) (result i32 f64 i64)))
    (import "host" "turn" (func (param v128 i32) (result v128 i64)))
    (import "host" "pass" (func (param externref funcref) (result funcref externref)))
    (import "host" "stop" (func (param i32)))
    (import "host" "again" (func (param i32) (result i32)))
    (import "host" "memory" (memory 1 8))
    (import "host" "table" (table 4 20 funcref))
    (import "host" "constant" (global i64))
    (import "host" "variable" (global (mut i32))))"#;

static IMPORT_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bytes = wat::parse_str(IMPORTS);
    bytes.unwrap_or_else(|error| panic!("the available imports are no module: {error}"))
});

/// What `wasmi` does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Modules throw and catch; they may have atomic operators.
    Exceptions,
    /// They have typed references to functions; they may throw and catch.
    References,
    /// They wait on shared memories; they may throw and catch.
    Waits,
}

/// How many bytes what is put into a module is chosen by.
const CHOICES: usize = 8 << 10;
/// How often a module may enter a function or a loop: few times, or many.
const BUDGETS: [u32; 2] = [300, 20_000];

/// The case that `data` stands for: 8 bytes of seed, then what `wasm-smith` chooses by.
pub fn case(data: &[u8]) -> Option<Case> {
    let (seed, data) = data.split_first_chunk::<8>()?;
    let mut u = Unstructured::new(data);
    let config = config(&mut u).ok()?;
    let has_dots = config.relaxed_simd_enabled;
    let mut wasm = module(config, *u.choose(&BUDGETS).ok()?, &mut u)?;
    if has_dots {
        let mut parts = Parts::of(&wasm)?;
        tame_dots(&mut parts);
        wasm = parts.join();
    }
    let is_compared = !may_meet_rival_bug(&wasm) && !may_differ_by_choice(&wasm);
    is_compared.then(|| Case::new(wasm, u64::from_le_bytes(*seed)))
}

/// As [`case`], with something that `wasmi` does not have.
pub fn case_beyond(what: Beyond, data: &[u8]) -> Option<Case> {
    let (seed, data) = data.split_first_chunk::<8>()?;
    let seed = u64::from_le_bytes(*seed);
    let mut u = Unstructured::new(data);
    let mut config = config(&mut u).ok()?;
    config.relaxed_simd_enabled = false; // what is an engine's choice there says nothing
    config.exceptions_enabled = what == Beyond::Exceptions || u.ratio(1, 4).ok()?;
    config.threads_enabled = match what {
        Beyond::Exceptions => u.ratio(1, 3).ok()?,
        Beyond::References => false,
        Beyond::Waits => true,
    };
    config.min_memories = u32::from(what == Beyond::Waits);
    // Waits take long.
    let budget = match config.threads_enabled {
        true => BUDGETS[0],
        false => *u.choose(&BUDGETS).ok()?,
    };
    let wasm = module(config, budget, &mut u)?;
    // `wasm-smith` may have used all that there is.
    let choices = Numbers::new(seed).bytes(CHOICES);
    let mut u = Unstructured::new(&choices);
    let wasm = match what {
        Beyond::References => references::add(&wasm, &mut u).ok()??,
        Beyond::Waits => waits::add(&wasm, &mut u).ok()??,
        Beyond::Exceptions => {
            let mut parts = Parts::of(&wasm)?;
            waits::bound(&mut parts, waits::MAX_WAIT, &mut u)
                .ok()?
                .then(|| parts.join())?
        }
    };
    Some(Case::new(wasm, seed))
}

/// A module that ends.
fn module(config: Config, budget: u32, u: &mut Unstructured<'_>) -> Option<Vec<u8>> {
    let mut module = wasm_smith::Module::new(config, u).ok()?;
    module.ensure_termination(budget).ok()?;
    Some(module.to_bytes())
}

/// Whether the bytes of a select on `i32.eqz`, `ref.is_null` or a comparison with zero are in a module. `wasmi` 2.0.0 takes the wrong
/// operand there: `(select (i32.const 1) (local.get 0) (i32.eqz (local.get 0)))` is 1 for it, whatever the local.
pub(crate) fn may_meet_rival_bug(wasm: &[u8]) -> bool {
    let is_null = wasm.windows(2).any(|bytes| matches!(bytes, [0x45 | 0xd1, 0x1b]));
    is_null || wasm.windows(4).any(|bytes| bytes == [0x41, 0x00, 0x46, 0x1b])
}

/// Whether the bytes of a relaxed operator are in a module that the engines rightly do differently: `madd` and `nmadd` round once in
/// `wasmi` and twice in Selvedge; the NaNs that `min` and `max` make are not made canonical by `wasm-smith`.
fn may_differ_by_choice(wasm: &[u8]) -> bool {
    wasm.windows(3)
        .any(|bytes| matches!(bytes, [0xfd, 0x85..=0x88 | 0x8d..=0x90, 0x02]))
}

/// Whether the bytes of an operation on many bytes or elements are in a module: those pay for what they move, in each engine otherwise.
pub fn has_bulk_operators(wasm: &[u8]) -> bool {
    wasm.windows(2)
        .any(|bytes| matches!(bytes, [0xfc, 0x08 | 0x0a..=0x0c | 0x0e | 0x0f | 0x11]))
}

/// Whether something is thrown or caught in a module, perhaps.
pub(crate) fn has_exceptions(wasm: &[u8]) -> bool {
    let payloads = wasmparser::Parser::new(0).parse_all(wasm);
    payloads
        .flatten()
        .any(|payload| matches!(payload, wasmparser::Payload::TagSection(_)))
}

/// The features that Selvedge has, some of them left out now and then.
fn config(u: &mut Unstructured<'_>) -> arbitrary::Result<Config> {
    let mut config = base_config();
    config.max_instructions = *u.choose(&[30, 100, 400])?;
    config.max_funcs = u.int_in_range(2..=12)?;
    config.max_nesting_depth = u.int_in_range(3..=12)?;
    config.disallow_traps = u.ratio(1, 4)?;
    config.allow_floats = u.ratio(4, 5)?;
    config.bulk_memory_enabled = u.ratio(9, 10)?;
    config.reference_types_enabled = u.ratio(9, 10)?;
    config.multi_value_enabled = u.ratio(9, 10)?;
    config.tail_call_enabled = u.ratio(3, 4)?;
    config.extended_const_enabled = u.ratio(3, 4)?;
    config.simd_enabled = u.ratio(1, 2)?;
    config.relaxed_simd_enabled = config.simd_enabled && u.ratio(1, 4)?;
    config.wide_arithmetic_enabled = config.multi_value_enabled && u.ratio(1, 4)?;
    if u.ratio(2, 3)? && config.reference_types_enabled && config.multi_value_enabled && config.allow_floats {
        config.available_imports = Some(IMPORT_BYTES.clone());
    }
    config.max_memories = if u.ratio(1, 4)? { 3 } else { 1 };
    config.memory64_enabled = u.ratio(1, 4)?;
    config.custom_page_sizes_enabled = u.ratio(1, 6)?;
    config.max_tables = if config.reference_types_enabled { 3 } else { 1 };
    Ok(config)
}

fn base_config() -> Config {
    Config {
        canonicalize_nans: true,
        export_everything: true,
        max_memories: 1,
        max_memory32_bytes: 16 << 16,
        max_memory64_bytes: 16 << 16,
        memory_max_size_required: true,
        max_table_elements: 200,
        table_max_size_required: true,
        // Without types there are no functions.
        min_types: 3,
        min_funcs: 2,
        min_exports: 1,
        max_imports: 0,
        max_types: 20,
        max_globals: 10,
        max_data_segments: 6,
        max_element_segments: 6,
        max_elements: 20,
        // What Selvedge does not have, and what only some of the engines have: `case_beyond` switches that on.
        acquire_release_atomics_enabled: false,
        compact_imports_enabled: false,
        custom_descriptors_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        multibyte_array_access_enabled: false,
        shared_everything_threads_enabled: false,
        threads_enabled: false,
        ..Config::default()
    }
}
