//! Compiled code really runs: calls in both directions, memory, traps.
#![cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix))]

mod harness;

use harness::{Guest, HOST_ADDS, Outcome};
use selvedge_compiler::{Builtin, MemoryStyle, Settings, TrapCode};

fn settings() -> Settings {
    Settings::host().unwrap()
}

/// Every combination of what changes the code.
fn all_settings() -> Vec<Settings> {
    let mut all = Vec::new();
    for fuel in [false, true] {
        for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
            for level in [
                selvedge_compiler::OptLevel::None,
                selvedge_compiler::OptLevel::Speed,
            ] {
                all.push(settings().fuel(fuel).memory_style(style).opt_level(level));
            }
        }
    }
    all
}

fn for_all(wat: &str, mut test: impl FnMut(&mut Guest)) {
    for settings in all_settings() {
        let mut guest = Guest::new(wat, &settings);
        *guest.fuel() = 1 << 40;
        test(&mut guest);
    }
}

#[test]
fn numbers_go_in_and_out() {
    let wat = r#"(module
        (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
        (func (export "mix") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
            local.get 3 local.get 2 local.get 1 local.get 0))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.run("add", &[3, u64::from(u32::MAX)]), 2);
        let args = [1, 2, u64::from(3f32.to_bits()), 4f64.to_bits()];
        let reversed = args.iter().rev().copied().collect();
        assert_eq!(guest.call("mix", &args), Outcome::Returned(reversed));
    });
}

#[test]
fn recursion_and_loops_run() {
    let wat = r#"(module
        (func $fac (export "fac") (param i64) (result i64)
            (if (result i64) (i64.eqz (local.get 0))
                (then (i64.const 1))
                (else (i64.mul (local.get 0) (call $fac (i64.sub (local.get 0) (i64.const 1)))))))
        (func (export "sum") (param i32) (result i32) (local i32)
            (block (loop
                (br_if 1 (i32.eqz (local.get 0)))
                (local.set 1 (i32.add (local.get 1) (local.get 0)))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br 0)))
            (local.get 1)))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.run("fac", &[20]), 2432902008176640000);
        assert_eq!(guest.run("sum", &[1000]), 500500);
    });
}

#[test]
fn more_results_than_registers_come_back() {
    let results = "i32 i64 f64 ".repeat(20);
    let body: String = (0..20)
        .map(|i| format!("i32.const {i} i64.const {i} f64.const {i} "))
        .collect();
    let wat = format!(
        r#"(module
        (import "" "host" (func $host (param i32) (result {results})))
        (func $many (result {results}) {body})
        (func (export "many") (result {results}) (call $many))
        (func (export "blocks") (result {results})
            (block (result {results}) (br 0 (call $many))))
        (func (export "host") (result i32) (call $host (i32.const 7))
            {drops}))"#,
        drops = "drop ".repeat(59),
    );
    for_all(&wat, |guest| {
        let expected: Vec<u64> = (0..20u64).flat_map(|i| [i, i, (i as f64).to_bits()]).collect();
        assert_eq!(guest.call("many", &[]), Outcome::Returned(expected.clone()));
        assert_eq!(guest.call("blocks", &[]), Outcome::Returned(expected));
        assert_eq!(guest.run("host", &[]), 7 + HOST_ADDS);
    });
}

#[test]
fn many_parameters_arrive() {
    let params = "i32 f64 i64 ".repeat(10);
    let wat = format!(
        r#"(module
        (func $last (param {params}) (result i64) (i64.add (local.get 29) (i64.extend_i32_u (local.get 27))))
        (func (export "last") (param {params}) (result i64) {args} call $last))"#,
        args = (0..30).map(|i| format!("local.get {i} ")).collect::<String>(),
    );
    for_all(&wat, |guest| {
        let args: Vec<u64> = (100..130).collect();
        assert_eq!(guest.run("last", &args), 129 + 127);
    });
}

#[test]
fn memory_is_read_and_written() {
    let wat = r#"(module (memory 1)
        (func (export "set") (param i32 i64) (i64.store offset=8 (local.get 0) (local.get 1)))
        (func (export "get8s") (param i32) (result i64) (i64.load8_s offset=8 (local.get 0)))
        (func (export "get16u") (param i32) (result i32) (i32.load16_u offset=8 (local.get 0)))
        (func (export "add") (param i32 i32) (i32.store (local.get 0) (i32.add (i32.load (local.get 0)) (local.get 1))))
        (func (export "size") (result i32) memory.size)
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#;
    for_all(wat, |guest| {
        guest.call("set", &[16, 0x8182_8384_8586_8788]);
        assert_eq!(guest.memory()[3], 0x8182_8384_8586_8788);
        assert_eq!(guest.run("get8s", &[16]) as i64, 0x88u8 as i8 as i64);
        assert_eq!(guest.run("get16u", &[17]), 0x8687);
        guest.call("add", &[24, 1]);
        assert_eq!(guest.memory()[3], 0x8182_8384_8586_8789);
        assert_eq!(guest.run("size", &[]), 1);
        assert_eq!(guest.run("grow", &[2]), 1);
        assert_eq!(guest.run("grow", &[2]), u64::from(u32::MAX));
        assert_eq!(guest.run("size", &[]), 3);
    });
}

#[test]
fn bounded_accesses_and_far_offsets_are_checked() {
    let wat = r#"(module (memory 1)
        (func (export "near") (param i32) (result i32) (i32.load offset=4 (local.get 0)))
        (func (export "far") (param i32) (result i32) (i32.load offset=0xffffffff (local.get 0))))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.run("near", &[65536 - 8]), 0);
        let (trap, site) = guest.trap("far", &[0]);
        assert_eq!(trap, TrapCode::MemoryOutOfBounds);
        assert!(site.wasm > 0);
    });
    let mut guest = Guest::new(wat, &settings().memory_style(MemoryStyle::Bounded));
    for index in [65536 - 7, 65536, u32::MAX - 3, u32::MAX] {
        assert_eq!(guest.trap("near", &[index.into()]).0, TrapCode::MemoryOutOfBounds);
    }
}

#[test]
fn explicit_traps_name_themselves_and_their_site() {
    let wat = r#"(module
        (func (export "unreachable") unreachable)
        (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
        (func (export "rem") (param i64 i64) (result i64) (i64.rem_s (local.get 0) (local.get 1)))
        (func (export "divu") (param i64 i64) (result i64) (i64.div_u (local.get 0) (local.get 1)))
        (func (export "trunc") (param f64) (result i32) (i32.trunc_f64_s (local.get 0)))
        (func (export "truncu") (param f32) (result i64) (i64.trunc_f32_u (local.get 0))))"#;
    for_all(wat, |guest| {
        let least = u64::from(i32::MIN as u32);
        let minus = u64::from(u32::MAX);
        assert_eq!(guest.trap("unreachable", &[]).0, TrapCode::Unreachable);
        assert_eq!(guest.trap("div", &[1, 0]).0, TrapCode::IntegerDivisionByZero);
        assert_eq!(guest.trap("div", &[least, minus]).0, TrapCode::IntegerOverflow);
        assert_eq!(guest.run("div", &[7, minus]) as i32, -7);
        assert_eq!(guest.run("rem", &[i64::MIN as u64, u64::MAX]), 0);
        assert_eq!(guest.trap("divu", &[1, 0]).0, TrapCode::IntegerDivisionByZero);
        let trunc = |guest: &mut Guest, x: f64| guest.run("trunc", &[x.to_bits()]) as i32;
        assert_eq!(trunc(guest, -2147483648.9), i32::MIN);
        assert_eq!(trunc(guest, 2147483647.9), i32::MAX);
        assert_eq!(
            guest.trap("trunc", &[2147483648f64.to_bits()]).0,
            TrapCode::IntegerOverflow
        );
        assert_eq!(
            guest.trap("trunc", &[(-2147483649f64).to_bits()]).0,
            TrapCode::IntegerOverflow
        );
        assert_eq!(
            guest.trap("trunc", &[f64::NAN.to_bits()]).0,
            TrapCode::BadConversionToInteger
        );
        assert_eq!(guest.run("truncu", &[u64::from((-0.9f32).to_bits())]), 0);
        assert_eq!(
            guest.trap("truncu", &[u64::from((-1f32).to_bits())]).0,
            TrapCode::IntegerOverflow
        );
    });
}

#[test]
fn indirect_calls_check_bounds_null_and_type() {
    let wat = r#"(module (table 3 funcref) (elem (i32.const 0) $seven $other)
        (type $t (func (result i32)))
        (func $seven (result i32) i32.const 7)
        (func $other (param i32))
        (func (export "call") (param i32) (result i32) (call_indirect (type $t) (local.get 0))))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.run("call", &[0]), 7);
        assert_eq!(guest.trap("call", &[1]).0, TrapCode::BadSignature);
        // A null is a fault, for which there is no handler here.
        let mut faults = guest.module.image.fault_sites.iter();
        assert!(faults.any(|site| site.trap == TrapCode::IndirectCallToNull));
        assert_eq!(guest.trap("call", &[3]).0, TrapCode::TableOutOfBounds);
        assert_eq!(
            guest.trap("call", &[u64::from(u32::MAX)]).0,
            TrapCode::TableOutOfBounds
        );
    });
}

#[test]
fn host_functions_are_called_and_globals_kept() {
    let wat = r#"(module
        (import "" "f" (func $f (param i32 i64) (result i32)))
        (global $g (mut i64) (i64.const 5)) (global $c f64 (f64.const 1.5))
        (func (export "host") (param i32) (result i32) (call $f (local.get 0) (i64.const 1)))
        (func (export "bump") (result i64) (global.set $g (i64.add (global.get $g) (i64.const 1))) (global.get $g))
        (func (export "const") (result f64) (global.get $c)))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.run("host", &[5]), 5 + HOST_ADDS);
        assert_eq!(guest.run("bump", &[]), 6);
        assert_eq!(guest.run("bump", &[]), 7);
        assert_eq!(guest.run("const", &[]), 1.5f64.to_bits());
    });
}

#[test]
fn tables_and_references_work() {
    let wat = r#"(module
        (table $f 2 funcref) (table $e 3 10 externref)
        (func $one (export "one") (result i32) i32.const 1)
        (elem declare func $one)
        (func (export "ref") (result i32)
            (table.set $f (i32.const 1) (ref.func $one))
            (call_indirect $f (result i32) (i32.const 1)))
        (func (export "ext") (param externref) (result externref)
            (table.set $e (i32.const 2) (local.get 0))
            (table.get $e (i32.const 2)))
        (func (export "null") (result i32 i32)
            (ref.is_null (table.get $e (i32.const 1)))
            (ref.is_null (ref.func $one)))
        (func (export "size") (result i32) (table.size $e))
        (func (export "grow") (result i32) (table.grow $e (ref.null extern) (i32.const 9)))
        (func (export "select") (param i32) (result externref)
            (select (result externref) (table.get $e (i32.const 2)) (ref.null extern) (local.get 0))))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.run("ref", &[]), 1);
        assert_eq!(guest.run("ext", &[0xffff_fff1]), 0xffff_fff1);
        assert_eq!(guest.call("null", &[]), Outcome::Returned(vec![1, 0]));
        assert_eq!(guest.run("size", &[]), 3);
        assert_eq!(guest.run("grow", &[]), u64::from(u32::MAX));
        assert_eq!(guest.builtins.pop().unwrap().1[..3], [1, 0, 9]);
        assert_eq!(guest.run("select", &[1]), 0xffff_fff1);
        assert_eq!(guest.run("select", &[0]), 0);
    });
}

#[test]
fn builtins_get_their_operands_in_order() {
    let wat = r#"(module (memory 1) (table 1 funcref) (table 1 funcref)
        (data $d "x") (elem $e func)
        (func (export "all") (param i32)
            (memory.fill (i32.const 1) (i32.const 2) (local.get 0))
            (memory.copy (i32.const 3) (i32.const 4) (local.get 0))
            (memory.init $d (i32.const 5) (i32.const 6) (local.get 0))
            (data.drop $d)
            (table.fill 1 (i32.const 7) (ref.null func) (local.get 0))
            (table.copy 1 0 (i32.const 8) (i32.const 9) (local.get 0))
            (table.init 1 $e (i32.const 10) (i32.const 11) (local.get 0))
            (elem.drop $e)))"#;
    for_all(wat, |guest| {
        let n = u64::from(u32::MAX);
        guest.call("all", &[n]);
        let calls = std::mem::take(&mut guest.builtins);
        let expected: [(Builtin, &[u64]); 8] = [
            (Builtin::MemoryFill, &[0, 1, 2, n]),
            (Builtin::MemoryCopy, &[0, 0, 3, 4, n]),
            (Builtin::MemoryInit, &[0, 0, 5, 6, n]),
            (Builtin::DataDrop, &[0]),
            (Builtin::TableFill, &[1, 7, 0, n]),
            (Builtin::TableCopy, &[1, 0, 8, 9, n]),
            (Builtin::TableInit, &[1, 0, 10, 11, n]),
            (Builtin::ElemDrop, &[0]),
        ];
        assert_eq!(calls.len(), expected.len());
        for ((builtin, operands), (want, words)) in calls.iter().zip(expected) {
            assert_eq!((*builtin, &operands[..words.len()]), (want, words));
        }
    });
}

#[test]
fn branch_tables_carry_values() {
    let wat = r#"(module
        (func (export "pick") (param i32) (result i32)
            (block $a (result i32) (block $b (result i32) (block $c (result i32)
                (br_table $a $b $c $a (i32.const 10) (local.get 0)))
                (i32.add (i32.const 100)) (br $a))
                (i32.add (i32.const 1000))))
        (func (export "plain") (param i32) (result i32)
            (block $a (block $b (br_table $a $b (local.get 0))) (return (i32.const 2)))
            (i32.const 1)))"#;
    for_all(wat, |guest| {
        assert_eq!([0, 1, 2, 3].map(|i| guest.run("pick", &[i])), [10, 1010, 110, 10]);
        assert_eq!([0, 1, 9].map(|i| guest.run("plain", &[i])), [1, 2, 2]);
    });
}

#[test]
fn large_frames_and_deep_blocks_compile() {
    let locals = "i64 ".repeat(1000);
    let sets: String = (0..1000)
        .map(|i| format!("(local.set {i} (call $id (i64.const {i})))"))
        .collect();
    let sum: String = (0..1000).map(|i| format!("local.get {i} i64.add ")).collect();
    let wat = format!(
        "(module (func $id (param i64) (result i64) local.get 0)
         (func (export \"f\") (result i64) (local {locals}) {sets} {nest}{sum_of_all}{ends}))",
        nest = "(block (result i64) ".repeat(3000),
        sum_of_all = format_args!("i64.const 0 {sum}"),
        ends = ")".repeat(3000),
    );
    let mut guest = Guest::new(&wat, &settings());
    assert_eq!(guest.run("f", &[]), 999 * 500);
}
