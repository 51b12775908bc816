//! Fuel through every control structure: what a path costs, counted by hand, and how often it yields on its way.

use selvedge::{Config, Engine, FuelPolicy, Instance, Module, Result, Store};
use selvedge_tests::drive;
use std::num::NonZeroU64;

/// A function `f` of one i32, in a module, and what it does with its argument.
struct Case {
    name: &'static str,
    module: &'static str,
    /// Arguments; for each of them, units spent in all, and units spent when the last check is passed.
    paths: fn(i32) -> (u64, u64),
    arguments: &'static [i32],
}

/// Entering a function.
const ENTRY: u64 = 1;

/// As the guest counts: an operator that does something is a unit. A function that calls looks at its entry, before it pays
/// for that; a loop before each branch back to it, whether that is taken or not, when all up to it is paid; a short loop, which has
/// its one branch back at its end, in every second turn.
const CASES: &[Case] = &[
    Case {
        name: "br",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block $out (br $out) (drop (i32.const 1))) (i32.const 1)))"#,
        // br, const
        paths: |_| (ENTRY + 2, 0),
        arguments: &[0],
    },
    Case {
        name: "br_if",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block $out (br_if $out (local.get 0)) (drop (i32.const 5)) (drop (i32.const 5))) (i32.const 1)))"#,
        // get, br_if; two consts where it goes on; const
        paths: |n| (ENTRY + 2 + if n == 0 { 2 } else { 0 } + 1, 0),
        arguments: &[0, 1, -1],
    },
    Case {
        name: "br_if with a value, out of a loop",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block $out (result i32)
              (loop $again
                (drop (br_if $out (i32.const 7) (i32.eqz (local.get 0))))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br $again))
              unreachable)))"#,
        // const, get, eqz, br_if; get, const, sub, set, br, which looks in every second turn
        paths: |n| (ENTRY + 9 * n as u64 + 4, ENTRY + 9 * (n as u64 / 2 * 2)),
        arguments: &[0, 1, 2, 100],
    },
    Case {
        name: "br_table",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block $a (block $b (block $c (br_table $c $b $a (local.get 0)))
              (drop (i32.const 1)))
              (drop (i32.const 1)) (drop (i32.const 1)))
            (i32.const 9)))"#,
        // get, br_table; then one const, two, and one, from where it leads
        paths: |n| (ENTRY + 2 + [4, 3, 1][(n as usize).min(2)], 0),
        arguments: &[0, 1, 2, 3, -1],
    },
    Case {
        name: "br_table with values, back to a loop",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block $out (result i32)
              (loop $again (result i32)
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br_if $again (i32.gt_s (local.get 0) (i32.const 0)))
                (br_table $out $out (i32.const 3) (local.get 0))))))"#,
        // get, const, sub, set, get, const, gt, br_if; at the end const, get, br_table
        paths: |n| (ENTRY + 8 * n as u64 + 3, ENTRY + 8 * n as u64),
        arguments: &[1, 2, 50],
    },
    Case {
        name: "loop",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 0)))"#,
        // get, const, sub, tee, br_if, which looks in every second turn; const
        paths: |n| (ENTRY + 5 * n as u64 + 1, ENTRY + 5 * (n as u64 / 2 * 2)),
        arguments: &[1, 2, 3, 999, 1000],
    },
    Case {
        name: "loop with a block",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (loop $l (block) (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 0)))"#,
        // as before, but it is not short
        paths: |n| (ENTRY + 5 * n as u64 + 1, ENTRY + 5 * n as u64),
        arguments: &[1, 2, 3, 1000],
    },
    Case {
        name: "a short loop with two ways out",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block $out
              (loop $l
                (br_if $out (i32.eq (local.get 0) (i32.const 40)))
                (br_if $l (i32.and (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 31)))))
            (i32.const 0)))"#,
        // get, const, eq, br_if; get, const, sub, tee, const, and, br_if; const. It ends where what is left is 40 or a multiple of 32.
        paths: |n| {
            let ends = (1..=n as u64).rev().enumerate();
            let mut ends = ends.filter(|(_, left)| *left == 40 || (*left - 1) % 32 == 0);
            let (turns, left) = ends.next().expect("it gets to 1");
            let last = if left == 40 { 4 } else { 11 };
            let looked = (turns + usize::from(left != 40)) as u64 / 2 * 2;
            (ENTRY + 11 * turns as u64 + last + 1, ENTRY + 11 * looked)
        },
        arguments: &[1, 2, 3, 8, 31, 40, 41, 42, 43, 60],
    },
    Case {
        name: "a loop in a loop",
        module: r#"(module (func (export "f") (param i32) (result i32) (local $i i32)
            (loop $o (local.set $i (i32.const 3))
              (loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
              (br_if $o (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i32.const 0)))"#,
        // const, set; three turns of five, of which the second looks; five. The last check is the outer loop's.
        paths: |n| (ENTRY + 22 * n as u64 + 1, ENTRY + 22 * n as u64),
        arguments: &[1, 2, 70],
    },
    Case {
        name: "br_table, back to a loop",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block $out
              (loop $again
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br_table $again $out (i32.lt_s (local.get 0) (i32.const 1)))))
            (i32.const 0)))"#,
        // get, const, sub, set, get, const, lt, br_table; const
        paths: |n| (ENTRY + 8 * n as u64 + 1, ENTRY + 8 * n as u64),
        arguments: &[1, 2, 50],
    },
    Case {
        name: "br_table with a value, back to a loop that takes it",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block $out (result i32)
              (i32.const 1)
              (loop $again (param i32) (result i32)
                (i32.add (local.get 0))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br_table $again $out (i32.lt_s (local.get 0) (i32.const 1)))))))"#,
        // const; get, add, get, const, sub, set, get, const, lt, br_table
        paths: |n| (ENTRY + 1 + 10 * n as u64, ENTRY + 1 + 10 * n as u64),
        arguments: &[1, 2, 50],
    },
    Case {
        name: "several ways back to a loop, and on",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (loop $again
              (if (local.get 0) (then
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br_if $again (i32.and (local.get 0) (i32.const 1)))
                (br $again))))
            (i32.const 0)))"#,
        // get, if; get, const, sub, set, get, const, and, br_if, which looks; br, which looks too, where what is left is even
        paths: |n| {
            let (n, brs) = (n as u64, n as u64 / 2 + n as u64 % 2);
            (
                ENTRY + 10 * n + brs + 3,
                if n == 0 { 0 } else { ENTRY + 10 * n + brs },
            )
        },
        arguments: &[0, 1, 2, 51],
    },
    Case {
        name: "br_on_null and br_on_non_null, back to a loop",
        module: r#"(module (table $t 4 funcref) (elem (i32.const 1) func $f $f)
            (func $f (export "f") (param i32) (result i32) (local $i i32)
              (loop $again
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_on_null $again (table.get $t (i32.and (local.get $i) (i32.const 3)))) drop
                (br_if $again (i32.lt_u (local.get $i) (local.get 0))))
              (i32.const 1)))"#,
        // get, const, add, set, get, const, and, table.get, br_on_null; get, get, lt, br_if; const. Each third and fourth is null.
        paths: |n| {
            let turns = (1..)
                .find(|i| i % 4 != 3 && i % 4 != 0 && *i >= n as u64)
                .unwrap_or(0);
            let some = (1..=turns).filter(|i| i % 4 != 3 && i % 4 != 0).count() as u64;
            (ENTRY + 9 * turns + 4 * some + 1, ENTRY + 9 * turns + 4 * some)
        },
        arguments: &[0, 1, 2, 3, 40],
    },
    Case {
        name: "an exception that is caught by a way back to a loop",
        module: r#"(module (tag $e)
            (func (export "f") (param i32) (result i32)
              (loop $again
                (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (try_table (catch $e $again) (throw $e)))
              (i32.const 2)))"#,
        // get, eqz, if; get, const, sub, set, try_table, throw; the clause looks; at the end const
        paths: |n| {
            (
                ENTRY + 9 * n as u64 + 4,
                if n == 0 { 0 } else { ENTRY + 9 * n as u64 },
            )
        },
        arguments: &[0, 1, 2, 20],
    },
    Case {
        name: "if and else",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (if (result i32) (local.get 0)
              (then (i32.const 1))
              (else (i32.add (i32.const 1) (i32.const 2))))))"#,
        // get, if; const, or const, const, add
        paths: |n| (ENTRY + 2 + if n == 0 { 3 } else { 1 }, 0),
        arguments: &[0, 1],
    },
    Case {
        name: "if without else",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (if (local.get 0) (then (drop (i32.const 1)) (drop (i32.const 1)))) (i32.const 1)))"#,
        // get, if; two consts; const
        paths: |n| (ENTRY + 2 + if n == 0 { 0 } else { 2 } + 1, 0),
        arguments: &[0, 1],
    },
    Case {
        name: "return out of blocks",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (block (loop (if (local.get 0) (then (return (i32.const 3))))))
            (i32.add (i32.const 1) (i32.const 1))))"#,
        // get, if; const, or const, const, add. Nothing leads back to the loop.
        paths: |n| (ENTRY + 2 + if n == 0 { 3 } else { 1 }, 0),
        arguments: &[0, 1],
    },
    Case {
        name: "a chain of calls",
        module: r#"(module (func $f (export "f") (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
            (call $f (i32.sub (local.get 0) (i32.const 1)))))"#,
        // get, eqz, if; get, const, sub, call; at the end const. The innermost entry is the last check.
        paths: |n| ((ENTRY + 7) * n as u64 + ENTRY + 4, (ENTRY + 7) * n as u64),
        arguments: &[0, 1, 2, 100],
    },
    Case {
        name: "a tree of calls",
        module: r#"(module (func $f (export "f") (param i32) (result i32)
            (if (result i32) (i32.lt_u (local.get 0) (i32.const 2))
              (then (local.get 0))
              (else (i32.add (call $f (i32.sub (local.get 0) (i32.const 1)))
                             (call $f (i32.sub (local.get 0) (i32.const 2))))))))"#,
        paths: |n| {
            let (mut spent, mut last_check) = (0, 0);
            tree(n, &mut spent, &mut last_check);
            (spent, last_check)
        },
        arguments: &[0, 1, 2, 3, 12],
    },
    Case {
        name: "an indirect call",
        module: r#"(module (type $t (func (param i32) (result i32))) (table funcref (elem $g))
            (func $g (type $t) (local.get 0))
            (func (export "f") (type $t) (call_indirect (type $t) (local.get 0) (i32.const 0))))"#,
        // get, const, call_indirect; the callee is a leaf: it does not look
        paths: |_| (ENTRY + 3 + ENTRY + 1, 0),
        arguments: &[0],
    },
    Case {
        name: "tail calls",
        module: r#"(module (func $f (export "f") (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
            (return_call $f (i32.sub (local.get 0) (i32.const 1)))))"#,
        // as the chain of calls
        paths: |n| ((ENTRY + 7) * n as u64 + ENTRY + 4, (ENTRY + 7) * n as u64),
        arguments: &[0, 1, 2, 10_000],
    },
    Case {
        name: "indirect tail calls",
        module: r#"(module (type $t (func (param i32) (result i32))) (table funcref (elem $f))
            (func $f (export "f") (type $t)
              (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
              (return_call_indirect (type $t) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0))))"#,
        // get, eqz, if; get, const, sub, const, return_call_indirect
        paths: |n| ((ENTRY + 8) * n as u64 + ENTRY + 4, (ENTRY + 8) * n as u64),
        arguments: &[0, 1, 2, 1000],
    },
    Case {
        name: "tail calls of references",
        module: r#"(module (type $t (func (param i32) (result i32))) (elem declare func $f)
            (func $f (export "f") (type $t)
              (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
              (return_call_ref $t (i32.sub (local.get 0) (i32.const 1)) (ref.func $f))))"#,
        paths: |n| ((ENTRY + 8) * n as u64 + ENTRY + 4, (ENTRY + 8) * n as u64),
        arguments: &[0, 1, 2, 1000],
    },
    Case {
        name: "a call of a reference",
        module: r#"(module (type $t (func (param i32) (result i32))) (elem declare func $g)
            (func $g (type $t) (local.get 0))
            (func (export "f") (type $t) (call_ref $t (local.get 0) (ref.func $g))))"#,
        // get, ref.func, call_ref
        paths: |_| (ENTRY + 3 + ENTRY + 1, 0),
        arguments: &[0],
    },
    Case {
        name: "br_on_null",
        module: r#"(module (table $t 2 funcref) (elem (i32.const 1) func $f)
            (func $f (export "f") (param i32) (result i32)
              (block $null
                (br_on_null $null (table.get $t (local.get 0))) drop
                (return (i32.const 1)))
              (i32.add (i32.const 2) (i32.const 3))))"#,
        // get, table.get, br_on_null; const, const, add, or const
        paths: |n| (ENTRY + 3 + if n == 0 { 3 } else { 1 }, 0),
        arguments: &[0, 1],
    },
    Case {
        name: "br_on_non_null",
        module: r#"(module (table $t 2 funcref) (elem (i32.const 1) func $f)
            (func $f (export "f") (param i32) (result i32)
              (block $some (result (ref func))
                (br_on_non_null $some (table.get $t (local.get 0)))
                (return (i32.const 1)))
              drop
              (i32.add (i32.const 2) (i32.const 3))))"#,
        paths: |n| (ENTRY + 3 + if n == 0 { 1 } else { 3 }, 0),
        arguments: &[0, 1],
    },
    Case {
        name: "an exception that is caught",
        module: r#"(module (tag $e (param i32))
            (func (export "f") (param i32) (result i32)
              (block $caught (result i32)
                (try_table (catch $e $caught)
                  (if (local.get 0) (then (throw $e (local.get 0)))))
                (return (i32.const 5)))
              (i32.add (i32.const 1))))"#,
        // try_table, get, if; const, or get, throw, const, add
        paths: |n| (ENTRY + 3 + if n == 0 { 1 } else { 4 }, 0),
        arguments: &[0, 1],
    },
    Case {
        name: "select",
        module: r#"(module (func (export "f") (param i32) (result i32)
            (select (i32.const 1) (i32.const 2) (local.get 0))))"#,
        paths: |_| (ENTRY + 4, 0),
        arguments: &[0, 1],
    },
    Case {
        name: "dropped segments",
        module: r#"(module (memory 1) (data $d "data") (elem $e func)
            (func (export "f") (param i32) (result i32) (data.drop $d) (elem.drop $e) (local.get 0)))"#,
        paths: |_| (ENTRY + 3, 0),
        arguments: &[0],
    },
];

/// What the tree of calls costs, as its guest spends it.
fn tree(n: i32, spent: &mut u64, last_check: &mut u64) {
    *last_check = *spent;
    // get, const, lt, if
    *spent += ENTRY + 4;
    if n < 2 {
        *spent += 1;
        return;
    }
    for less in [1, 2] {
        // get, const, sub, call
        *spent += 4;
        tree(n - less, spent, last_check);
    }
    *spent += 1;
}

fn set_up(module: &str) -> Result<(Store<()>, Instance)> {
    let engine = Engine::new(Config::new().fuel(true))?;
    let module = Module::new(&engine, module)?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(0)?;
    let instance = Instance::new(&mut store, &module, &[])?;
    Ok((store, instance))
}

const FUEL: u64 = 1 << 40;

#[test]
fn every_path_costs_its_operators() -> Result<()> {
    for case in CASES {
        let (mut store, instance) = set_up(case.module)?;
        for &argument in case.arguments {
            store.set_fuel(FUEL)?;
            instance.call::<i32, i32>(&mut store, "f", argument)?;
            let (cost, _) = (case.paths)(argument);
            assert_eq!(FUEL - store.get_fuel()?, cost, "{}, f({argument})", case.name);
            store.set_fuel(cost)?;
            instance.call::<i32, i32>(&mut store, "f", argument)?;
            assert_eq!(store.get_fuel()?, 0, "{}: exactly enough is enough", case.name);
        }
    }
    Ok(())
}

#[test]
fn every_path_yields_once_for_each_slice_that_a_check_finds_used_up() -> Result<()> {
    for case in CASES {
        let (mut store, instance) = set_up(case.module)?;
        for &argument in case.arguments {
            let (cost, last_check) = (case.paths)(argument);
            for every in [1, 2, 7, 8, 9, 64, 1000] {
                store.set_fuel(FUEL)?;
                let policy = NonZeroU64::new(every).expect("not zero");
                store.set_fuel_policy(FuelPolicy::Yield { every: policy })?;
                let call = instance.call_async::<_, i32, i32>(&mut store, "f", argument);
                let (result, pending) = drive(call);
                result?;
                let what = format!("{}, f({argument}), a yield every {every}", case.name);
                assert_eq!(pending, last_check.saturating_sub(1) / every, "{what}");
                assert_eq!(FUEL - store.get_fuel()?, cost, "{what}: yields cost nothing");
            }
        }
    }
    Ok(())
}

/// An operator with its operands but the length, units by length, and lengths.
type Operation = (&'static str, fn(u64) -> u64, &'static [i32]);

/// A unit for 64 bytes each, or for an element.
#[test]
fn bulk_operations_cost_what_they_move() -> Result<()> {
    let module = |operation: &str| {
        format!(
            r#"(module (memory 4) (table $t 1000 funcref)
                (data $d "{}") (elem $e func {})
                (func $f (export "f") (param i32) {operation}))"#,
            "x".repeat(640),
            "$f ".repeat(100),
        )
    };
    let bytes: fn(u64) -> u64 = |n| n / 64;
    let elements: fn(u64) -> u64 = |n| n;
    let operations: [Operation; 6] = [
        ("memory.fill (i32.const 0) (i32.const 1)", bytes, &[0, 64, 65_536]),
        (
            "memory.copy (i32.const 64) (i32.const 0)",
            bytes,
            &[0, 64, 65_536],
        ),
        ("memory.init $d (i32.const 0) (i32.const 0)", bytes, &[0, 64, 640]),
        (
            "table.fill $t (i32.const 0) (ref.null func)",
            elements,
            &[0, 1, 1000],
        ),
        (
            "table.copy $t $t (i32.const 1) (i32.const 0)",
            elements,
            &[0, 1, 999],
        ),
        (
            "table.init $t $e (i32.const 0) (i32.const 0)",
            elements,
            &[0, 1, 100],
        ),
    ];
    for (operation, units, lengths) in operations {
        let (mut store, instance) = set_up(&module(&format!("({operation} (local.get 0))")))?;
        for &length in lengths {
            store.set_fuel(FUEL)?;
            instance.call::<i32, ()>(&mut store, "f", length)?;
            let expected = ENTRY + 3 + 1 + units(length as u64);
            assert_eq!(FUEL - store.get_fuel()?, expected, "{operation}, {length}");
            store.set_fuel(expected)?;
            instance.call::<i32, ()>(&mut store, "f", length)?;
            assert_eq!(store.get_fuel()?, 0, "{operation}: exactly enough is enough");
        }
    }
    Ok(())
}

/// A table pays for each element that it gets, a memory for nothing but the operator: its pages cost nothing before they are used.
#[test]
fn growing_costs_what_is_made_and_nothing_where_it_fails() -> Result<()> {
    let module = |operation: &str| {
        format!(
            r#"(module (memory 1 4) (table $t 10 1000 funcref)
                (func (export "f") (param i32) (result i32) {operation}))"#
        )
    };
    // What it returns when it is done, and what its operands cost; the argument, and units beside the operators.
    let table = ("(table.grow $t (ref.null func) (local.get 0))", 10, 2);
    let memory = ("(memory.grow (local.get 0))", 1, 1);
    for ((operation, before, operands), delta, units) in [
        (table, 0, 0),
        (table, 1, 1),
        (table, 990, 990),
        (table, 991, 0),
        (table, -1, 0),
        (memory, 0, 0),
        (memory, 3, 0),
        (memory, 4, 0),
    ] {
        let (mut store, instance) = set_up(&module(operation))?;
        store.set_fuel(FUEL)?;
        let result: i32 = instance.call(&mut store, "f", delta)?;
        let fails = delta == -1 || delta == 991 || operation == memory.0 && delta == 4;
        assert_eq!(result, if fails { -1 } else { before }, "{operation}, {delta}");
        let expected = ENTRY + operands + 1 + units;
        assert_eq!(FUEL - store.get_fuel()?, expected, "{operation}, {delta}");
        let (mut store, instance) = set_up(&module(operation))?;
        store.set_fuel(expected)?;
        instance.call::<i32, i32>(&mut store, "f", delta)?;
        assert_eq!(
            store.get_fuel()?,
            0,
            "{operation}, {delta}: exactly enough is enough"
        );
    }
    Ok(())
}
