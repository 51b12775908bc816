//! What is done to a changed module so that engines can be compared over it, without changing what it computes.

use crate::operators::{
    Float, calls_by_reference, constant_of, float_result, is_relaxed_madd, named, naming, push_unsigned,
    relaxed_dot,
};
use crate::parts::{Function, Op, Parts};
use crate::sections::{EXPORT, MEMORY, START, number};
use crate::value::Value;
use wasmparser::{BinaryReader, ExportSectionReader, ExternalKind, ValType};

/// The bit of a memory's limits that says that it is shared.
const SHARED: u8 = 2;

const LOCAL_GET: u8 = 0x20;
const LOCAL_SET: u8 = 0x21;
const V128_AND: [u8; 2] = [0xfd, 78];

/// Exports everything: what is exported already keeps its name, the rest is called by a letter and its number.
pub fn export_all(parts: &mut Parts) -> Option<()> {
    let counts = parts.counts;
    let section = parts.pieces.section(EXPORT);
    let old = section.body.clone();
    let reader = ExportSectionReader::new(BinaryReader::new(&old, 0)).ok()?;
    let mut entries = Vec::new();
    let mut seen = Vec::new();
    for export in reader {
        let export = export.ok()?;
        entries.push((export.name.to_owned(), kind_byte(export.kind)?, export.index));
        seen.push((kind_byte(export.kind)?, export.index));
    }
    for (kind, (letter, count)) in [
        ('f', counts.functions),
        ('t', counts.tables),
        ('m', counts.memories),
        ('g', counts.globals),
    ]
    .into_iter()
    .enumerate()
    {
        for index in (0..count).filter(|index| !seen.contains(&(kind as u8, *index))) {
            entries.push((format!("${letter}{index}"), kind as u8, index));
        }
    }
    let mut body = Vec::new();
    push_unsigned(&mut body, entries.len() as u64);
    for (name, kind, index) in entries {
        push_unsigned(&mut body, name.len() as u64);
        body.extend(name.as_bytes());
        body.push(kind);
        push_unsigned(&mut body, index.into());
    }
    section.body = body;
    Some(())
}

fn kind_byte(kind: ExternalKind) -> Option<u8> {
    match kind {
        ExternalKind::Func => Some(0),
        ExternalKind::Table => Some(1),
        ExternalKind::Memory => Some(2),
        ExternalKind::Global => Some(3),
        ExternalKind::Tag => Some(4),
        ExternalKind::FuncExact => None,
    }
}

/// Makes memories of the module's own shared, those with a maximum, or the store's: a wait traps there.
pub fn share(parts: &mut Parts, is_shared: bool) -> Option<()> {
    let sections = parts.pieces.sections.iter_mut();
    for section in sections.filter(|section| section.id == MEMORY) {
        let old = section.body.clone();
        let mut reader = BinaryReader::new(&old, 0);
        for _ in 0..reader.read_var_u32().ok()? {
            let at = reader.original_position() as usize;
            let flags = reader.read_u8().ok()?;
            section.body[at] = match is_shared && flags & 1 != 0 {
                true => flags | SHARED,
                false => flags & !SHARED,
            };
            // The least, the most, the page size.
            for _ in 0..1 + (flags & 1) + (flags >> 3 & 1) {
                reader.read_var_u64().ok()?;
            }
        }
    }
    Some(())
}

/// Empties the functions that none of `wanted` calls, so that engines have less to compile. False: it cannot be told which.
pub fn thin(parts: &mut Parts, wanted: &[u32]) -> bool {
    let mut needed = wanted.to_vec();
    let start = parts.pieces.sections.iter().find(|section| section.id == START);
    needed.extend(
        start
            .and_then(|start| number(&start.body))
            .map(|(index, _)| index),
    );
    let mut at = 0;
    while at < needed.len() {
        let function = parts
            .functions
            .iter()
            .find(|function| function.index == needed[at]);
        for op in function.iter().flat_map(|function| &function.ops) {
            if calls_by_reference(&op.bytes) {
                return false;
            }
            if let Some((0x10 | 0x12, callee)) = named(&op.bytes)
                && !needed.contains(&callee)
            {
                needed.push(callee);
            }
        }
        at += 1;
    }
    for function in parts
        .functions
        .iter_mut()
        .filter(|function| !needed.contains(&function.index))
    {
        function.groups.clear();
        function.locals.truncate(function.ty.0.len());
        function.ops = [vec![0x00], vec![0x0b]].map(Op::new).to_vec();
    }
    true
}

/// Clears the high bits of the second operand of each `relaxed_dot`: without them nothing of its result is the engine's to choose.
pub fn tame_dots(parts: &mut Parts) {
    for function in &mut parts.functions {
        let mut addend = None;
        let ops = std::mem::take(&mut function.ops);
        for op in ops {
            if let Some(has_addend) = relaxed_dot(&op.bytes) {
                let mut before = low_bits();
                if has_addend {
                    let add = || function.add_local(ValType::V128).expect("no reference");
                    let local = *addend.get_or_insert_with(add);
                    before.insert(0, naming(LOCAL_SET, local));
                    before.push(naming(LOCAL_GET, local));
                }
                function.ops.extend(before.into_iter().map(Op::new));
            }
            function.ops.push(op);
        }
    }
}

/// `and` with seven bits of each byte.
fn low_bits() -> Vec<Vec<u8>> {
    let mask = Value::V128(u128::from_le_bytes([0x7f; 16]));
    vec![constant_of(mask), V128_AND.to_vec()]
}

/// Whether there is a result that is the engine's to choose: of `relaxed_madd`, or of `relaxed_dot`, if that is not [tame](tame_dots).
pub fn is_of_choice(parts: &Parts, dots_are_tame: bool) -> bool {
    let mut ops = parts.functions.iter().flat_map(|function| &function.ops);
    ops.any(|op| is_relaxed_madd(&op.bytes) || !dots_are_tame && relaxed_dot(&op.bytes).is_some())
}

/// Whether an operator computes with floats, and so may make a NaN whose bits are the engine's choice.
pub fn makes_nans(parts: &Parts) -> bool {
    let mut ops = parts.functions.iter().flat_map(|function| &function.ops);
    ops.any(|op| float_result(&op.bytes).is_some())
}

/// Puts operators behind each that makes NaNs that make them one: then engines that make others can be compared.
pub fn canonicalize(parts: &mut Parts) {
    for function in &mut parts.functions {
        canonicalize_in(function);
    }
}

fn canonicalize_in(function: &mut Function) {
    let mut locals = [None; 3];
    let ops = std::mem::take(&mut function.ops);
    let mut new = Vec::with_capacity(ops.len());
    for op in ops {
        let made = float_result(&op.bytes);
        new.push(op);
        let Some(float) = made else { continue };
        let (slot, ty) = match float {
            Float::F32 => (0, ValType::F32),
            Float::F64 => (1, ValType::F64),
            Float::F32x4 | Float::F64x2 => (2, ValType::V128),
        };
        let local = *locals[slot].get_or_insert_with(|| function.add_local(ty).expect("no reference"));
        let (canonical, equal, select): (_, &[u8], &[u8]) = match float {
            Float::F32 => (Value::F32(0x7fc0_0000), &[0x5b], &[0x1b]),
            Float::F64 => (Value::F64(0x7ff8_0000_0000_0000), &[0x61], &[0x1b]),
            Float::F32x4 => (
                Value::V128(u128::from_le_bytes(repeated(&0x7fc0_0000_u32.to_le_bytes()))),
                &[0xfd, 65],
                &[0xfd, 82],
            ),
            Float::F64x2 => (
                Value::V128(u128::from_le_bytes(repeated(
                    &0x7ff8_0000_0000_0000_u64.to_le_bytes(),
                ))),
                &[0xfd, 71],
                &[0xfd, 82],
            ),
        };
        let bytes = [
            naming(0x22, local),
            constant_of(canonical),
            naming(0x20, local),
            naming(0x20, local),
            equal.to_vec(),
            select.to_vec(),
        ];
        new.extend(bytes.map(Op::new));
    }
    function.ops = new;
}

fn repeated(lane: &[u8]) -> [u8; 16] {
    std::array::from_fn(|at| lane[at % lane.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Parts {
        Parts::of(&wat::parse_str(text).expect("text")).expect("valid")
    }

    #[test]
    fn what_nobody_calls_is_emptied() {
        let text = r#"(module (table 1 funcref) (func $a (call $b)) (func $b nop) (func $c nop) (func $d (call_indirect (i32.const 0)))
            (func $e nop) (start $e))"#;
        let mut some = parts(text);
        assert!(thin(&mut some, &[0]));
        let lengths = some
            .functions
            .iter()
            .map(|function| function.ops[0].bytes.clone());
        assert_eq!(
            lengths.collect::<Vec<_>>(),
            [vec![0x10, 1], vec![1], vec![0], vec![0], vec![1]]
        );
        assert!(Parts::of(&some.join()).is_some());
        assert!(!thin(&mut parts(text), &[3]), "it may call any");
    }

    #[test]
    fn everything_is_exported_once() {
        let mut parts = parts(
            r#"(module (import "a" "f" (func)) (memory 1) (table 1 funcref) (global i32 (i32.const 1))
                (func (export "g")) (func) (data "x"))"#,
        );
        export_all(&mut parts).expect("it can be");
        let text = wasmprinter::print_bytes(parts.join()).expect("a module");
        let exports = text.lines().filter(|line| line.trim().starts_with("(export"));
        assert_eq!(exports.count(), 6, "{text}");
        assert!(Parts::of(&parts.join()).is_some(), "{text}");
    }

    #[test]
    fn a_module_with_canonical_nans_is_valid() {
        let mut parts = parts(
            "(module (func (param f32 v128) (result f32)
                (drop (f64x2.sqrt (f32x4.add (local.get 1) (local.get 1)))) (f32.div (local.get 0) (f32.demote_f64 (f64.const 1)))))",
        );
        assert!(makes_nans(&parts));
        canonicalize(&mut parts);
        let again = Parts::of(&parts.join()).expect("valid");
        assert_eq!(again.functions[0].ops.len(), 10 + 4 * 6);
    }

    #[test]
    fn dots_are_tamed_and_nothing_else_is_changed() {
        let mut parts = parts(
            "(module (func (param v128 v128 v128) (result v128 v128)
                (i32x4.relaxed_dot_i8x16_i7x16_add_s (local.get 0) (local.get 1) (local.get 2))
                (i16x8.relaxed_dot_i8x16_i7x16_s (local.get 0) (v128.and (local.get 1) (local.get 2)))))",
        );
        assert!(is_of_choice(&parts, false) && !is_of_choice(&parts, true));
        let before = parts.functions[0].ops.len();
        tame_dots(&mut parts);
        let again = Parts::of(&parts.join()).expect("valid");
        assert_eq!(again.functions[0].ops.len(), before + 4 + 2);
    }

    #[test]
    fn memories_become_shared_and_the_stores_own() {
        let mut parts =
            parts("(module (memory 1 3 shared) (memory 2) (func (drop (i32.atomic.load (i32.const 0)))))");
        for (is_shared, expected) in [(false, "(memory (;0;) 1 3)"), (true, "(memory (;0;) 1 3 shared)")] {
            share(&mut parts, is_shared).expect("it can be");
            let text = wasmprinter::print_bytes(parts.join()).expect("a module");
            assert!(
                text.contains(expected) && text.contains("(memory (;1;) 2)"),
                "{text}"
            );
        }
    }
}
