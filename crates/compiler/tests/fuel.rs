//! Fuel is exact: after a return, after a trap, and whenever it is looked at.
#![cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix))]

mod harness;

use harness::{Guest, Outcome};
use selvedge_compiler::{MemoryStyle, Settings, TrapCode};

/// Much more than any test spends.
const PLENTY: i64 = 1 << 40;

fn metered() -> Settings {
    Settings::host().unwrap().fuel(true)
}

/// What a call spends, the pending part included.
fn spent(guest: &mut Guest, name: &str, args: &[u64]) -> i64 {
    *guest.fuel() = PLENTY;
    let pending = match guest.call(name, args) {
        Outcome::Returned(_) => 0,
        Outcome::Trapped(_, site) => i64::from(site.fuel),
    };
    PLENTY - *guest.fuel() + pending
}

#[test]
fn a_straight_function_costs_its_operators_and_its_entry() {
    let mut guest = Guest::new(
        r#"(module
        (func (export "empty"))
        (func (export "free") nop (block (drop (i32.const 1))) return)
        (func (export "five") (result i32)
            (i32.add (i32.const 1) (i32.mul (i32.const 2) (i32.const 3)))))"#,
        &metered(),
    );
    assert_eq!(spent(&mut guest, "empty", &[]), 1);
    assert_eq!(spent(&mut guest, "free", &[]), 2);
    assert_eq!(spent(&mut guest, "five", &[]), 6);
}

#[test]
fn each_path_pays_for_what_it_executes() {
    let mut guest = Guest::new(
        r#"(module
        (func (export "if") (param i32) (result i32)
            (if (result i32) (local.get 0)
                (then (i32.add (i32.const 1) (i32.const 2)))
                (else (i32.const 3))))
        (func (export "when") (param i32)
            (if (local.get 0) (then (drop (i32.const 1)) (drop (i32.const 1)))))
        (func (export "br_if") (param i32)
            (block (br_if 0 (local.get 0)) (drop (i32.const 1)) (drop (i32.const 1)))
            (drop (i32.const 1)))
        (func (export "br_table") (param i32)
            (block (block (block (br_table 0 1 2 (local.get 0))) (drop (i32.const 1))) (drop (i32.const 1)))
            (drop (i32.const 1)))
        (func (export "return") (param i32)
            (if (local.get 0) (then return))
            (drop (i32.const 1))))"#,
        &metered(),
    );
    let mut spent = |name, arg| spent(&mut guest, name, &[arg]);
    // Entry, local.get and if are 3.
    assert_eq!([0, 1].map(|x| spent("if", x)), [3 + 1, 3 + 3]);
    assert_eq!([0, 1].map(|x| spent("when", x)), [3, 3 + 2]);
    assert_eq!([0, 1].map(|x| spent("br_if", x)), [3 + 3, 3 + 1]);
    assert_eq!(
        [0, 1, 2, 9].map(|x| spent("br_table", x)),
        [3 + 3, 3 + 2, 3 + 1, 3 + 1]
    );
    assert_eq!([0, 1].map(|x| spent("return", x)), [3 + 1, 3]);
}

#[test]
fn loops_pay_for_each_turn() {
    let mut guest = Guest::new(
        r#"(module
        (func (export "down") (param i32)
            (loop
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br_if 0 (local.get 0))))
        (func (export "up") (param i32)
            (block (loop
                (br_if 1 (i32.eqz (local.get 0)))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br 0)))))"#,
        &metered(),
    );
    assert_eq!(spent(&mut guest, "down", &[10]), 1 + 10 * 6);
    assert_eq!(spent(&mut guest, "up", &[10]), 1 + 10 * (3 + 4 + 1) + 3);
}

#[test]
fn calls_pay_for_the_callee_too() {
    let mut guest = Guest::new(
        r#"(module (import "" "f" (func $f (param i32) (result i32)))
        (table 1 funcref) (elem (i32.const 0) $g)
        (func $g (drop (i32.const 1)))
        (func (export "call") (call $g) (call $g))
        (func (export "indirect") (call_indirect (i32.const 0)))
        (func (export "host") (drop (call $f (i32.const 1)))))"#,
        &metered(),
    );
    assert_eq!(spent(&mut guest, "call", &[]), 1 + 2 * (1 + 2));
    assert_eq!(spent(&mut guest, "indirect", &[]), 1 + 2 + 2);
    assert_eq!(spent(&mut guest, "host", &[]), 1 + 2);
}

#[test]
fn a_trap_has_paid_up_to_its_operator() {
    let mut guest = Guest::new(
        r#"(module (memory 1)
        (func (export "unreachable") (drop (i32.const 1)) unreachable)
        (func (export "div") (param i32) (result i32)
            (i32.add (i32.const 5) (i32.div_u (i32.const 1) (local.get 0))))
        (func (export "load") (param i32) (result i32)
            (drop (i32.const 1))
            (i32.add (i32.load (local.get 0)) (i32.const 1)))
        (func (export "trunc") (drop (i32.trunc_f32_s (f32.const nan))) (drop (i32.const 1)))
        (func (export "in_else") (param i32)
            (if (i32.eqz (local.get 0)) (then nop) (else (drop (i32.const 1)) unreachable))))"#,
        &metered().memory_style(MemoryStyle::Bounded),
    );
    assert_eq!(spent(&mut guest, "unreachable", &[]), 2);
    assert_eq!(spent(&mut guest, "div", &[0]), 1 + 4);
    assert_eq!(spent(&mut guest, "load", &[65536]), 1 + 3);
    assert_eq!(spent(&mut guest, "trunc", &[]), 1 + 2);
    assert_eq!(spent(&mut guest, "in_else", &[1]), 1 + 3 + 1);
}

#[test]
fn a_loop_asks_for_more_when_the_slice_is_used_up() {
    // The block costs nothing, but no loop with one in it is short.
    let wat = r#"(module (func (export "loop") (param i32)
        (loop (block) (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))))"#;
    let mut guest = Guest::new(wat, &metered());
    // The entry takes 1, each turn 6; at its end it looks, before it branches back or goes on.
    *guest.fuel() = 0;
    assert_eq!(
        guest.call_refilled("loop", &[100], PLENTY),
        (Outcome::Returned(vec![]), 1)
    );
    assert_eq!(PLENTY - *guest.fuel(), 99 * 6);
    *guest.fuel() = 1 + 6 * 6;
    assert_eq!(
        guest.call_refilled("loop", &[100], 11),
        (Outcome::Returned(vec![]), 47)
    );
}

#[test]
fn a_short_loop_asks_for_more_at_the_end_of_a_second_turn() {
    let wat = r#"(module (func (export "loop") (param i32)
        (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))))"#;
    let mut guest = Guest::new(wat, &metered());
    // As above, but after two turns.
    *guest.fuel() = 0;
    assert_eq!(
        guest.call_refilled("loop", &[100], PLENTY),
        (Outcome::Returned(vec![]), 1)
    );
    assert_eq!(PLENTY - *guest.fuel(), 98 * 6);
    // 37 units are the entry and six turns: the eighth is the first that finds them overspent, and 30 more last for five.
    *guest.fuel() = 1 + 6 * 6;
    let asked = (8..=100).step_by(6).count() as u64;
    assert_eq!(
        guest.call_refilled("loop", &[100], 30),
        (Outcome::Returned(vec![]), asked)
    );
    // One turn does not look.
    *guest.fuel() = 0;
    assert_eq!(
        guest.call_refilled("loop", &[1], PLENTY),
        (Outcome::Returned(vec![]), 0)
    );
    assert_eq!(*guest.fuel(), -7);
}

/// Counts the first local down, and goes on while it is not zero: four operators and the branch.
const DOWN: &str = "(br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))";

/// Leaves at the count's end; what is behind it leads back.
const LEAVE: &str = "(br_if $out (i32.eqz (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))";

/// How often this looks in so many turns.
fn looks(body: &str, turns: u64) -> u64 {
    let wat = format!(
        r#"(module (import "" "f" (func $f)) (memory 1) (global i32 (i32.const 3))
            (func (export "f") (param i32) (block $out {body})))"#
    );
    let mut guest = Guest::new(&wat, &metered().memory_style(MemoryStyle::Bounded));
    *guest.fuel() = -1;
    let (outcome, looks) = guest.call_refilled("f", &[turns], -1);
    assert_eq!(outcome, Outcome::Returned(vec![]), "{body}");
    looks
}

#[test]
fn short_loops_are_those_of_few_operators_with_one_way_back_at_the_end() {
    let compute = "(drop (i32.div_u (i32.load (i32.const 8)) (local.get 0)))
        (i32.store8 (i32.const 9) (global.get 0))";
    let at_the_end = [
        format!("(loop $l {DOWN})"),
        format!("(loop $l {} {DOWN})", "nop ".repeat(20)),
        format!("(loop $l {compute} {DOWN})"),
        format!("(loop $l (br_if $out (i32.const 0)) {DOWN})"),
        format!("(block $in (loop $l (br_if $in (i32.const 0)) {DOWN}))"),
        format!("(drop (i32.const 7) (loop $l {DOWN}))"),
    ];
    // The last turn does not get to its end.
    let in_the_midst = [
        format!("(loop $l {LEAVE} (br $l))"),
        format!("(loop $l {LEAVE} (i32.const 1) (f32.const 2) (br $l))"),
    ];
    for turns in 1..8 {
        for body in &at_the_end {
            assert_eq!(looks(body, turns), turns / 2, "{turns} turns of {body}");
        }
        for body in &in_the_midst {
            assert_eq!(looks(body, turns), (turns - 1) / 2, "{turns} turns of {body}");
        }
    }
}

#[test]
fn all_other_loops_look_in_every_turn() {
    let at_the_end = [
        format!("(loop $l {} {DOWN})", "nop ".repeat(21)),
        format!("(loop $l (block) {DOWN})"),
        format!("(loop $l (loop) {DOWN})"),
        format!("(loop $l (if (i32.const 0) (then)) {DOWN})"),
        format!("(loop $l (try_table) {DOWN})"),
        format!("(loop $l (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)) {DOWN})"),
        format!("(loop $l (drop (memory.grow (i32.const 0))) {DOWN})"),
        format!("(loop $l {DOWN} nop)"),
        format!("(loop $l {DOWN} return)"),
        format!("(drop (loop $l (result i32) {DOWN} (i32.const 1)))"),
        format!("(local.get 0) (loop $l (param i32) (drop) (local.get 0) {DOWN} (drop))"),
    ];
    let in_the_midst = [
        format!("(loop $l {LEAVE} (br $l) nop)"),
        format!("(loop $l {LEAVE} (br_table $l $l (i32.const 0)))"),
    ];
    let calls = format!("(loop $l (call $f) {DOWN})");
    let two_ways_back = format!("(loop $l (br_if $l (i32.const 0)) {DOWN})");
    for turns in 1..8 {
        for body in &at_the_end {
            assert_eq!(looks(body, turns), turns, "{turns} turns of {body}");
        }
        for body in &in_the_midst {
            assert_eq!(looks(body, turns), turns - 1, "{turns} turns of {body}");
        }
        assert_eq!(looks(&calls, turns), 1 + turns, "its function looks at its entry");
        assert_eq!(looks(&two_ways_back, turns), 2 * turns, "each of them looks");
    }
}

#[test]
fn a_way_back_to_an_outer_loop_makes_no_loop_short() {
    let mut guest = Guest::new(
        r#"(module (func (export "f") (param i32 i32)
            (loop $o
                (loop $l
                    (br_if $o (i32.eq (local.tee 1 (i32.add (local.get 1) (i32.const 1))) (i32.const 3)))
                    (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))))"#,
        &metered(),
    );
    *guest.fuel() = -1;
    // Nine turns look twice; the one that goes to the outer loop looks there alone.
    assert_eq!(guest.call_refilled("f", &[9, 0], -1).1, 2 * 9 + 1);
}

#[test]
fn a_short_loop_pays_for_each_turn_wherever_it_ends() {
    let wat = r#"(module (memory 1)
        (func (export "end") (param i32) (result i32) (local i32)
            (i32.const 1000)
            (loop $l
                (local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 3)) (local.get 0)))
                (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i32.add (local.get 1)))
        (func (export "midst") (param i32) (result i32) (local i32)
            (block $out (result i32)
                (i32.const 1000)
                (loop $l
                    (local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 3)) (local.get 0)))
                    (drop (br_if $out (local.get 1) (i32.eqz (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
                    (i64.const 5)
                    (br $l))
                unreachable))
        (func (export "either") (param i32 i32) (result i32) (local i32)
            (block $out
                (loop $l
                    (local.set 2 (i32.add (i32.mul (local.get 2) (i32.const 3)) (local.get 0)))
                    (br_if $out (i32.eq (local.get 0) (local.get 1)))
                    (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                (local.set 2 (i32.add (local.get 2) (i32.const 7000))))
            (local.get 2))
        (func (export "never") (param i32) (result i32)
            (if (local.get 0) (then (return (i32.const 4))))
            unreachable
            (loop $l (br_if $l (local.get 0)))))"#;
    let mut guest = Guest::new(wat, &metered());
    // What the turns from one number down to another compute.
    let value = |from: u64, to: u64| (to..=from).rev().fold(0, |sum, n| sum * 3 + n);
    for turns in 1..=9 {
        // Entry and const; 11 a turn; get and add.
        assert_eq!(spent(&mut guest, "end", &[turns]), 2 + 11 * turns as i64 + 2);
        assert_eq!(guest.run("end", &[turns]), 1000 + value(turns, 1));
        // Entry and const; 13 a turn up to its br_if, and const and br.
        assert_eq!(
            spent(&mut guest, "midst", &[turns]),
            2 + 13 * turns as i64 + 2 * (turns as i64 - 1)
        );
        assert_eq!(guest.run("midst", &[turns]), value(turns, 1));
        for last in 1..=turns {
            // Entry; 10 a turn up to the way out, 5 more up to the branch back; get.
            let more = (turns - last) as i64;
            assert_eq!(
                spent(&mut guest, "either", &[turns, last]),
                1 + 10 * (more + 1) + 5 * more + 1
            );
            assert_eq!(guest.run("either", &[turns, last]), value(turns, last));
        }
        // At its end: get, const, add, set, and get.
        assert_eq!(
            spent(&mut guest, "either", &[turns, 99]),
            1 + 15 * turns as i64 + 5
        );
        assert_eq!(guest.run("either", &[turns, 99]), 7000 + value(turns, 1));
    }
    assert_eq!(spent(&mut guest, "never", &[1]), 4);
    assert_eq!(guest.trap("never", &[0]).0, TrapCode::Unreachable);
}

#[test]
fn a_trap_in_either_turn_of_a_short_loop_has_paid_up_to_its_operator() {
    let wat = r#"(module (memory 1)
        (func (export "load") (param i32)
            (loop $l
                (drop (i32.load (local.get 0)))
                (local.set 0 (i32.add (local.get 0) (i32.const 4)))
                (br_if $l (local.get 0))))
        (func (export "store") (param i32)
            (loop $l
                (i32.store (local.get 0) (i32.const 7))
                (local.set 0 (i32.add (local.get 0) (i32.const 4)))
                (br $l)))
        (func (export "div") (param i32)
            (loop $l
                (drop (i32.div_u (i32.const 9) (local.get 0)))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br $l))))"#;
    let wasm = wat::parse_str(wat).unwrap();
    let mut guest = Guest::new(wat, &metered().memory_style(MemoryStyle::Bounded));
    // Name, the argument for so many turns before the one that traps, what a turn costs, what the last one costs, and its operator.
    type Case = (&'static str, fn(u64) -> u64, i64, i64, &'static [u8]);
    let cases: [Case; 3] = [
        ("load", |turns| 65_536 - 4 * turns, 8, 2, &[0x28, 2, 0]),
        ("store", |turns| 65_536 - 4 * turns, 8, 3, &[0x36, 2, 0]),
        ("div", |turns| turns, 8, 3, &[0x6e]),
    ];
    for (name, argument, turn, last, operator) in cases {
        let at = wasm.windows(operator.len()).position(|bytes| bytes == operator);
        for turns in 0..7 {
            let args = [argument(turns)];
            let cost = 1 + turn * turns as i64 + last;
            assert_eq!(spent(&mut guest, name, &args), cost, "{name} after {turns} turns");
            let (_, site) = guest.trap(name, &args);
            assert_eq!(Some(site.wasm as usize), at, "{name} after {turns} turns");
        }
    }
}

#[test]
fn where_nothing_costs_anything_a_short_loop_looks_all_the_same() {
    let mut costs = selvedge_compiler::FuelCosts::new();
    for name in ["local.get", "local.tee", "i32.const", "i32.sub", "br_if"] {
        costs.set(name, 0).unwrap();
    }
    let wat = format!(r#"(module (func (export "f") (param i32) (loop $l {DOWN})))"#);
    let mut guest = Guest::new(&wat, &metered().fuel_costs(costs));
    *guest.fuel() = -1;
    assert_eq!(guest.call_refilled("f", &[10], -1).1, 5);
    assert_eq!(spent(&mut guest, "f", &[10]), 1);
}

#[test]
fn a_recursion_asks_for_more_and_a_leaf_does_not() {
    let wat = r#"(module
        (func $down (export "down") (param i32)
            (if (local.get 0) (then (call $down (i32.sub (local.get 0) (i32.const 1))))))
        (func (export "leaf") (drop (i32.const 1))))"#;
    let mut guest = Guest::new(wat, &metered());
    *guest.fuel() = -1;
    assert_eq!(guest.call_refilled("down", &[10], PLENTY).1, 1);
    *guest.fuel() = -1;
    assert_eq!(guest.call_refilled("leaf", &[], PLENTY).1, 0);
    assert_eq!(*guest.fuel(), -3);
}

#[test]
fn a_check_that_comes_back_keeps_every_value() {
    let sets: String = (0..24)
        .map(|i| format!("(local.set {i} (i64.add (local.get {i}) (i64.const {i})))"))
        .collect();
    let floats: String = (24..44)
        .map(|i| format!("(local.set {i} (f64.add (local.get {i}) (f64.const {i})))"))
        .collect();
    let sum: String = (0..24).map(|i| format!("(local.get {i}) i64.add ")).collect();
    let float_sum: String = (24..44).map(|i| format!("(local.get {i}) f64.add ")).collect();
    let wat = format!(
        r#"(module (func (export "f") (param $n i64) (result i64 f64) (local {i} {f})
            (loop {sets} {floats} (br_if 0 (i64.ne (local.get 1) (i64.const 50))))
            (i64.const 0) {sum} (f64.const 0) {float_sum}))"#,
        i = "i64 ".repeat(23),
        f = "f64 ".repeat(20),
    );
    let mut guest = Guest::new(&wat, &metered());
    *guest.fuel() = -1;
    let (outcome, refills) = guest.call_refilled("f", &[7], -1);
    let ints = 7 + 50 * (0..24).sum::<u64>();
    let floats = 50.0 * (24..44).map(f64::from).sum::<f64>();
    assert_eq!(outcome, Outcome::Returned(vec![ints, floats.to_bits()]));
    assert_eq!(refills, 50);
}

#[test]
fn a_load_that_is_merged_into_its_user_keeps_its_own_site() {
    // local.get, i32.load, and then two operators before the one that uses the value.
    let wat = r#"(module (memory 1) (func (export "f") (param i32 i32) (result i32)
        local.get 0
        i32.load offset=12
        local.get 1
        i32.const 3
        i32.shl
        i32.add))"#;
    let wasm = wat::parse_str(wat).unwrap();
    let image = selvedge_compiler::compile(&wasm, &metered()).unwrap().image;
    let load = wasm.windows(3).position(|bytes| bytes == [0x28, 2, 12]).unwrap();
    assert_eq!(image.fault_sites.len(), 1);
    let site = image.fault_sites[0];
    assert_eq!(
        (site.trap, site.wasm, site.fuel),
        (TrapCode::MemoryOutOfBounds, load as u32, 1 + 2)
    );
}

#[test]
fn a_load_that_is_merged_into_the_address_of_another_keeps_its_own_site() {
    let wat = r#"(module (memory 1) (func (export "f") (param i32) (result i32)
        (i32.load8_u offset=5 (i32.load offset=12 (local.get 0)))))"#;
    let image = selvedge_compiler::compile(&wat::parse_str(wat).unwrap(), &metered())
        .unwrap()
        .image;
    let fuel = image.fault_sites.iter().map(|site| site.fuel).collect::<Vec<_>>();
    assert_eq!(fuel, [1 + 2, 1 + 3]);
}

#[test]
fn a_store_to_what_was_loaded_faults_as_the_load() {
    let wat = r#"(module (memory 1) (func (export "f") (param i32)
        (i32.store (local.get 0) (i32.add (i32.load (local.get 0)) (i32.const 1)))))"#;
    let wasm = wat::parse_str(wat).unwrap();
    let image = selvedge_compiler::compile(&wasm, &metered()).unwrap().image;
    let load = wasm.windows(3).position(|bytes| bytes == [0x28, 2, 0]).unwrap();
    let first = image.fault_sites[0];
    assert_eq!((first.wasm, first.fuel), (load as u32, 1 + 3));
}

#[test]
fn a_store_that_is_overwritten_keeps_its_own_site() {
    let wat = r#"(module (memory 1)
        (func (export "f") (param i32 i32) (result i32)
            (i32.store (local.get 0) (i32.const 1))
            (local.set 1 (i32.mul (local.get 1) (i32.const 3)))
            (i32.store (local.get 0) (i32.const 2))
            (local.get 1)))"#;
    let guest = Guest::new(wat, &metered());
    let sites: Vec<_> = guest
        .module
        .image
        .fault_sites
        .iter()
        .map(|site| site.fuel)
        .collect();
    // The entry, two operands and the store; four operators and another store.
    assert_eq!(sites, [4, 11]);
}

#[test]
fn payments_and_checks_are_one_instruction_each() {
    let wat = r#"(module (memory 1)
        (func (export "f") (param i32) (result i32)
            (loop
                (i32.store8 (local.get 0) (i32.const 1))
                (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (local.get 0)))"#;
    let image = selvedge_compiler::compile(&wat::parse_str(wat).unwrap(), &metered())
        .unwrap()
        .image;
    let range = image.functions[0].clone();
    let code = &image.text[range.start as usize..range.end as usize];
    assert_eq!(
        paid_in(code),
        (4, 1),
        "before the loop, where the first turn leaves, at the second's end, where it looks too, and at the function's"
    );
}

/// How many payments and how many checks there are, each one instruction. Nothing else of them is left.
#[cfg(target_arch = "x86_64")]
fn paid_in(code: &[u8]) -> (usize, usize) {
    let count = |bytes: &[u8]| {
        code.windows(bytes.len())
            .filter(|window| *window == bytes)
            .count()
    };
    // No place was left empty.
    assert_eq!(count(&[0x0f, 0xae, 0xf0]), 0);
    let copies = code
        .windows(3)
        .filter(|window| matches!(window, [0x4c | 0x4d, 0x89, 0xf8..=0xff]));
    assert_eq!(copies.count(), 0);
    // sub r15, and a byte; jl behind it
    let payments: Vec<_> = code
        .windows(6)
        .filter(|code| code[..3] == [0x49, 0x83, 0xef])
        .collect();
    let checks = payments.iter().filter(|code| code[4..] == [0x0f, 0x8c]).count();
    assert_eq!(count(&[0x4d, 0x85, 0xff]), 0, "test r15, r15");
    (payments.len(), checks)
}

/// How many payments and how many checks there are, each one instruction. Nothing else of them is left.
#[cfg(target_arch = "aarch64")]
fn paid_in(code: &[u8]) -> (usize, usize) {
    let count = |mask: u32, value: u32| {
        let (words, _) = code.as_chunks();
        let words = words.iter().map(|word| u32::from_le_bytes(*word));
        words.filter(|word| word & mask == value).count()
    };
    // mov, from x21 and to it
    assert_eq!(count(!31, 0xaa15_03e0) + count(!(31 << 16), 0xaa00_03f5), 0);
    // sub x21, x21, and a constant; subs xzr, x21, #0
    (count(!(0xfff << 10), 0xd100_02b5), count(!0, 0xf100_02bf))
}

#[test]
fn where_paths_meet_one_of_them_pays_nothing() {
    // What a way costs is exact whichever it is, and the empty arm has no code.
    let mut guest = Guest::new(
        r#"(module (func (export "f") (param i32) (result i32)
            (block
                (br_if 0 (i32.eqz (local.get 0)))
                (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                (if (i32.eq (local.get 0) (i32.const 3)) (then (local.set 0 (i32.const 9)))))
            (local.get 0)))"#,
        &metered(),
    );
    assert_eq!(spent(&mut guest, "f", &[0]), 1 + 3 + 1);
    assert_eq!(spent(&mut guest, "f", &[1]), 1 + 3 + 4 + 4 + 1);
    assert_eq!(spent(&mut guest, "f", &[2]), 1 + 3 + 4 + 4 + 2 + 1);
}
