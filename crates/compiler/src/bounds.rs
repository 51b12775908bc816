//! Which accesses to memories need no check of bounds.
//!
//! A memory never shrinks. So an index that was found to lie within it once does from then on, whatever is called in between: the
//! *end* of a check is how far behind the index it looked, `index + end <= length`. And an index that is small by
//! itself, as a constant is, lies within the memory's least length always.
//!
//! An index is a CLIF value, and so never changes; a loop's next turn has another. What a check found holds in the code that its block dominates.
//! Control is structured: whatever is between the entry of a label and its `end`, and the code behind that, is
//! dominated by the entry. So what is known at the entry stays known; what is learnt behind it is forgotten at an `else`,
//! and at an `end` that something branches to.

use std::collections::HashMap;

use cranelift_codegen::ir::{DataFlowGraph, InstructionData, Opcode, Type, Value};

/// A memory, and an index into it.
type Place = (u32, Value);

/// What is known of bounds at the place that is translated.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// The largest end that was checked.
    ends: HashMap<Place, u64>,
    /// What was learnt, in this order, each with what was known before.
    learnt: Vec<(Place, Option<u64>)>,
}

impl Bounds {
    /// How much is known here, for [`Self::forget`].
    pub(crate) fn learnt(&self) -> usize {
        self.learnt.len()
    }

    /// Forgets what was learnt since so much was known.
    pub(crate) fn forget(&mut self, learnt: usize) {
        for (place, before) in self.learnt.drain(learnt..).rev() {
            match before {
                Some(end) => self.ends.insert(place, end),
                None => self.ends.remove(&place),
            };
        }
    }

    /// Whether `index + end` is known to lie within a memory.
    pub(crate) fn are_known(&self, memory: u32, index: Value, end: u64) -> bool {
        self.ends.get(&(memory, index)).is_some_and(|known| *known >= end)
    }

    /// From here on `index + end` lies within a memory.
    pub(crate) fn learn(&mut self, memory: u32, index: Value, end: u64) {
        let place = (memory, index);
        self.learnt.push((place, self.ends.insert(place, end)));
    }
}

/// How deep [`most`] looks.
const DEPTH: usize = 4;

/// No value of this integer is larger than this.
pub(crate) fn most(dfg: &DataFlowGraph, value: Value) -> u64 {
    most_within(dfg, value, DEPTH)
}

fn most_within(dfg: &DataFlowGraph, value: Value, depth: usize) -> u64 {
    let most_of_type = most_of(dfg.value_type(value));
    let (Some(inst), Some(depth)) = (dfg.value_def(value).inst(), depth.checked_sub(1)) else {
        return most_of_type;
    };
    let most = |value| most_within(dfg, value, depth);
    let known = match dfg.insts[inst] {
        InstructionData::UnaryImm {
            opcode: Opcode::Iconst,
            imm,
        } => Some(imm.bits() as u64 & most_of_type),
        InstructionData::Unary {
            opcode: Opcode::Uextend,
            arg,
        } => Some(most(arg)),
        InstructionData::Binary { opcode, args: [a, b] } => match opcode {
            Opcode::Band => Some(most(a).min(most(b))),
            Opcode::Iadd => most(a).checked_add(most(b)),
            Opcode::Imul => most(a).checked_mul(most(b)),
            Opcode::Ishl => shift_of(dfg, b).and_then(|shift| most(a).checked_mul(1 << shift)),
            Opcode::Ushr => shift_of(dfg, b).map(|shift| most(a) >> shift),
            _ => None,
        },
        InstructionData::Load {
            opcode: Opcode::Uload8,
            ..
        } => Some(u8::MAX.into()),
        InstructionData::Load {
            opcode: Opcode::Uload16,
            ..
        } => Some(u16::MAX.into()),
        _ => None,
    };
    // What is larger may have wrapped around.
    known.filter(|most| *most <= most_of_type).unwrap_or(most_of_type)
}

fn most_of(ty: Type) -> u64 {
    match ty.bits() {
        bits @ ..64 if ty.is_int() => (1 << bits) - 1,
        _ => u64::MAX,
    }
}

/// By how much a constant shifts.
fn shift_of(dfg: &DataFlowGraph, count: Value) -> Option<u32> {
    let inst = dfg.value_def(count).inst()?;
    let InstructionData::UnaryImm {
        opcode: Opcode::Iconst,
        imm,
    } = dfg.insts[inst]
    else {
        return None;
    };
    Some(imm.bits() as u32 & (dfg.value_type(count).bits() - 1))
}
