//! Bounded memories: checks that are left out change nothing that anybody sees.
#![cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix))]

mod harness;

use harness::Guest;
use selvedge_compiler::{MemoryStyle, OptLevel, Settings, TrapCode};

/// Length of a memory of one page.
const LENGTH: u64 = 65536;

/// Runs a test with everything that changes checks.
fn for_all(wat: &str, mut test: impl FnMut(&mut Guest)) {
    for fuel in [false, true] {
        for level in [OptLevel::None, OptLevel::Speed] {
            let settings = Settings::host().unwrap().fuel(fuel).opt_level(level);
            let mut guest = Guest::new(wat, &settings.memory_style(MemoryStyle::Bounded));
            *guest.fuel() = 1 << 40;
            test(&mut guest);
        }
    }
}

/// The immediate offset, below 128, of the access that a call traps at.
fn trapping_access(guest: &mut Guest, wat: &str, name: &str, args: &[u64]) -> u8 {
    let (trap, site) = guest.trap(name, args);
    assert_eq!(trap, TrapCode::MemoryOutOfBounds);
    let wasm = wat::parse_str(wat).unwrap();
    // Opcode, alignment, offset.
    let [0x28..=0x3e, _, offset, ..] = wasm[site.wasm as usize..] else {
        panic!("no access at {}", site.wasm);
    };
    offset
}

#[test]
fn each_of_several_accesses_traps_for_itself() {
    let wat = r#"(module (memory 1)
        (func (export "up") (param i32) (result i64)
            (i64.load offset=0 (local.get 0)) (i64.load offset=8 (local.get 0)) (i64.load offset=16 (local.get 0))
            i64.add i64.add)
        (func (export "down") (param i32) (result i64)
            (i64.load offset=16 (local.get 0)) (i64.load offset=8 (local.get 0)) (i64.load offset=0 (local.get 0))
            i64.add i64.add)
        (func (export "stores") (param i32)
            (i64.store offset=8 (local.get 0) (i64.const 8))
            (i64.store offset=0 (local.get 0) (i64.const 7))
            (i32.store8 offset=15 (local.get 0) (i32.const 9))
            (i64.store offset=16 (local.get 0) (i64.const 10))
            (i64.store offset=24 (local.get 0) (i64.const 11))))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.run("up", &[LENGTH - 24]), 0);
        assert_eq!(guest.run("down", &[LENGTH - 24]), 0);
        for (behind, up) in [(23, 16), (16, 16), (15, 8), (8, 8), (7, 0), (0, 0)] {
            assert_eq!(trapping_access(guest, wat, "up", &[LENGTH - behind]), up);
            assert_eq!(trapping_access(guest, wat, "down", &[LENGTH - behind]), 16);
        }
        assert_eq!(trapping_access(guest, wat, "stores", &[LENGTH - 8]), 8);
        assert_eq!(guest.memory()[8191], 0, "nothing was stored before");
        assert_eq!(trapping_access(guest, wat, "stores", &[LENGTH - 16]), 16);
        let nine = 9 << 56 | 8;
        assert_eq!(guest.memory()[8190..8192], [7, nine], "stored before the trap");
        assert_eq!(trapping_access(guest, wat, "stores", &[LENGTH - 24]), 24);
        assert_eq!(guest.memory()[8189..8192], [7, nine, 10]);
    });
}

#[test]
fn what_one_path_has_checked_another_has_not() {
    let wat = r#"(module (memory 1)
        (func (export "arm") (param i32 i32) (result i32)
            (if (local.get 1) (then (drop (i32.load offset=96 (local.get 0)))))
            (i32.load offset=64 (local.get 0)))
        (func (export "else") (param i32 i32) (result i32)
            (if (result i32) (local.get 1)
                (then (i32.load offset=96 (local.get 0)))
                (else (i32.load offset=64 (local.get 0)))))
        (func (export "skip") (param i32 i32) (result i32)
            (block
                (br_if 0 (local.get 1))
                (drop (i32.load offset=96 (local.get 0))))
            (i32.load offset=64 (local.get 0)))
        (func (export "both") (param i32 i32) (result i32)
            (drop (i32.load offset=32 (local.get 0)))
            (block (block
                (br_table 0 1 (local.get 1)))
                (drop (i32.load offset=96 (local.get 0))))
            (i32.load offset=64 (local.get 0)))
        (func (export "dead") (param i32 i32) (result i32)
            (block
                (drop (i32.load offset=96 (local.get 0)))
                (br_if 0 (local.get 1))
                (return (i32.const 5)))
            (i32.load offset=64 (local.get 0))))"#;
    let (in_64, in_none) = (LENGTH - 68, LENGTH - 67);
    for_all(wat, |guest| {
        for (name, takes_96) in [("arm", 1), ("else", 1), ("skip", 0), ("both", 0)] {
            assert_eq!(
                trapping_access(guest, wat, name, &[in_64, takes_96]),
                96,
                "{name}"
            );
            assert_eq!(guest.run(name, &[in_64, 1 - takes_96]), 0, "{name}");
            assert_eq!(
                trapping_access(guest, wat, name, &[in_none, 1 - takes_96]),
                64,
                "{name}"
            );
        }
        assert_eq!(guest.run("dead", &[LENGTH - 100, 0]), 5);
        assert_eq!(guest.run("dead", &[LENGTH - 100, 1]), 0);
        assert_eq!(trapping_access(guest, wat, "dead", &[in_64, 1]), 96);
    });
}

#[test]
fn each_turn_of_a_loop_has_its_own_index() {
    let wat = r#"(module (memory 1) (global (mut i32) (i32.const 0))
        (func $none)
        (func (export "fill") (param i32)
            (i32.store8 offset=1 (local.get 0) (i32.const 1))
            (loop
                (i32.store8 offset=1 (local.get 0) (i32.const 2))
                (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                (br 0)))
        (func (export "fill calling") (param i32)
            (loop
                (i32.store8 offset=1 (local.get 0) (i32.const 3))
                (call $none)
                (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                (br 0)))
        (func (export "fixed") (param i32 i32) (result i32)
            (drop (i32.load offset=32 (local.get 0)))
            (loop
                (i32.store offset=16 (local.get 0) (i32.add (i32.load offset=16 (local.get 0)) (i32.const 1)))
                (br_if 0 (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))))
            (i32.load offset=16 (local.get 0)))
        (func (export "set late") (param i32 i32) (result i32)
            (drop (i32.load offset=32 (local.get 0)))
            (loop
                (drop (i32.load offset=16 (local.get 0)))
                (block (loop (br_if 1 (local.get 1)) (local.set 0 (i32.const -64))))
                (local.set 1 (i32.const 0))
                (br 0))
            unreachable)
        (func (export "far end") (param i32 i32) (result i32)
            (loop (result i32)
                (global.set 0 (i32.add (global.get 0) (i32.const 1)))
                (if (result i32) (local.get 1)
                    (then (i32.load offset=0x7fffffff (local.get 0)))
                    (else (i32.const 6))))))"#;
    for_all(wat, |guest| {
        assert_eq!(trapping_access(guest, wat, "fill", &[LENGTH - 9]), 1);
        assert_eq!(guest.memory()[8191], 0x0202_0202_0202_0202);
        assert_eq!(trapping_access(guest, wat, "fill calling", &[LENGTH - 5]), 1);
        assert_eq!(guest.memory()[8191], 0x0303_0303_0202_0202);
        assert_eq!(guest.run("fixed", &[64, 5]), 5);
        assert_eq!(trapping_access(guest, wat, "fixed", &[LENGTH - 35, 1]), 32);
        assert_eq!(trapping_access(guest, wat, "set late", &[LENGTH - 36, 1]), 16);
        assert_eq!(
            guest.run("far end", &[0, 0]),
            6,
            "an end beyond the memory, checked nowhere"
        );
        assert_eq!(guest.trap("far end", &[0, 1]).0, TrapCode::MemoryOutOfBounds);
        guest.memory().fill(0);
    });
}

#[test]
fn memories_grow_between_accesses_and_in_loops() {
    let wat = r#"(module (memory 1 4)
        (func $grow (result i32) (memory.grow (i32.const 1)))
        (func (export "within") (param i32) (result i64)
            (i64.store (local.get 0) (i64.const 4))
            (drop (memory.grow (i32.const 1)))
            (drop (i64.load offset=0x10000 (local.get 0)))
            (i64.load (local.get 0)))
        (func (export "until") (param i32) (result i32)
            (loop
                (br_if 0 (i32.ne (call $grow) (i32.const -1)))
                (i32.store offset=0x20000 (local.get 0) (i32.const 1)))
            (memory.size))
        (func (export "walk") (param i32) (result i32)
            (loop
                (drop (i32.load (local.get 0)))
                (drop (call $grow))
                (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 0x10000))) (i32.const 0x40000))))
            (local.get 0)))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.trap("until", &[LENGTH * 2]).0, TrapCode::MemoryOutOfBounds);
        assert_eq!(guest.run("until", &[LENGTH - 4]), 4);
    });
    for_all(wat, |guest| assert_eq!(guest.run("within", &[LENGTH - 8]), 4));
    for_all(wat, |guest| assert_eq!(guest.run("walk", &[8]), 0x40008));
}

#[test]
fn an_index_that_is_small_by_itself_may_be_at_the_end_of_the_least_memory() {
    let wat = r#"(module (memory 1)
        (func (export "constant") (result i32) (i32.load8_u (i32.const 0xffff)))
        (func (export "constant beyond") (result i32) (i32.load8_u (i32.const 0x10000)))
        (func (export "constant across") (result i32) (i32.load16_u offset=1 (i32.const 0xfffe)))
        (func (export "masked") (param i32) (result i32)
            (i32.load8_u (i32.and (local.get 0) (i32.const 0xffff))))
        (func (export "masked beyond") (param i32) (result i32)
            (i32.load8_u offset=1 (i32.and (local.get 0) (i32.const 0xffff))))
        (func (export "shifted") (param i32) (result i32)
            (i32.load8_u offset=0 (i32.shr_u (local.get 0) (i32.const 48))))
        (func (export "shifted beyond") (param i32) (result i32)
            (i32.load8_u offset=1 (i32.shr_u (local.get 0) (i32.const 48))))
        (func (export "scaled") (param i32) (result i32)
            (i32.load8_u offset=7 (i32.shl (i32.and (local.get 0) (i32.const 0x1fff)) (i32.const 3))))
        (func (export "wraps") (param i32) (result i32)
            (i32.load8_u (i32.shl (i32.and (local.get 0) (i32.const 0x1fff)) (i32.const 30))))
        (func (export "sum") (param i32) (result i32)
            (i32.load8_u (i32.add (i32.and (local.get 0) (i32.const 0x7fff)) (i32.const 0x8000))))
        (func (export "sum wraps") (param i32) (result i32)
            (i32.load8_u (i32.add (i32.and (local.get 0) (i32.const 0x7fff)) (i32.const -1))))
        (func (export "byte") (param i32) (result i32)
            (i32.load8_u offset=0xff00 (i32.load8_u (local.get 0))))
        (func (export "byte beyond") (param i32) (result i32)
            (i32.load8_u offset=0xff01 (i32.load8_u (local.get 0))))
        (func (export "signed") (param i32) (result i32)
            (i32.load8_u (i32.load8_s (local.get 0)))))"#;
    for_all(wat, |guest| {
        guest.memory()[8191] = u64::MAX;
        for (name, arg) in [
            ("masked", u64::from(u32::MAX)),
            ("shifted", u64::from(u32::MAX)),
            ("scaled", u64::from(u32::MAX)),
            ("sum", u64::from(u32::MAX)),
            ("byte", LENGTH - 1),
        ] {
            assert_eq!(guest.run(name, &[arg]), 255, "{name}");
        }
        assert_eq!(guest.run("constant", &[]), 255);
        for name in ["constant beyond", "constant across"] {
            assert_eq!(guest.trap(name, &[]).0, TrapCode::MemoryOutOfBounds, "{name}");
        }
        for (name, arg) in [
            ("masked beyond", u64::from(u32::MAX)),
            ("shifted beyond", u64::from(u32::MAX)),
            ("wraps", 1),
            ("sum wraps", 0),
            ("byte beyond", LENGTH - 1),
            ("signed", LENGTH - 1),
        ] {
            assert_eq!(guest.trap(name, &[arg]).0, TrapCode::MemoryOutOfBounds, "{name}");
        }
    });
}

#[test]
fn wide_indices_do_not_wrap() {
    let wat = r#"(module (memory i64 1)
        (func (export "near") (param i64) (result i64)
            (i64.add (i64.load (local.get 0)) (i64.load offset=8 (local.get 0))))
        (func (export "loop") (param i64 i64) (result i64)
            (loop
                (drop (i64.load offset=8 (local.get 0)))
                (br_if 0 (i64.ne (local.tee 1 (i64.sub (local.get 1) (i64.const 1))) (i64.const 0))))
            (local.get 1))
        (func (export "far") (param i64) (result i64)
            (i64.load offset=0x7fffffffffff0000 (local.get 0))))"#;
    for_all(wat, |guest| {
        assert_eq!(guest.run("near", &[LENGTH - 16]), 0);
        assert_eq!(trapping_access(guest, wat, "near", &[LENGTH - 15]), 8);
        assert_eq!(trapping_access(guest, wat, "near", &[u64::MAX]), 0);
        assert_eq!(guest.run("loop", &[LENGTH - 16, 3]), 0);
        for index in [LENGTH - 15, u64::MAX - 15, u64::MAX, 1 << 63] {
            assert_eq!(trapping_access(guest, wat, "loop", &[index, 3]), 8);
            assert_eq!(guest.trap("far", &[index]).0, TrapCode::MemoryOutOfBounds);
        }
    });
}
