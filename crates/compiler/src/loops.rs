//! What the loops of a function do, found before they are translated: by then it would be too late.
//!
//! A look at the body, which is not validated yet: whatever is odd there ends it, and nothing is known then. Nor is where
//! loops in each other name so many locals that the look would take out of proportion.

use cranelift_codegen::ir::{Inst, Value};
use wasmparser::{FunctionBody, Operator};

/// How many locals may be noted for each byte of the body.
const NOTES_PER_BYTE: usize = 2;

/// What is known of the loops of a function.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    /// By offset.
    known: Vec<Loop>,
    /// Those around the operator in hand, outermost first.
    open: Vec<Open>,
}

/// A loop, with what is inside of it.
#[derive(Debug, Default)]
struct Loop {
    /// Offset of its operator in the module.
    offset: u32,
    /// Whether it calls anything.
    calls: bool,
    /// The locals that it reads, and those that it sets.
    gets: Vec<u32>,
    sets: Vec<u32>,
}

/// A loop in translation.
#[derive(Debug)]
pub(crate) struct Open {
    /// How control gets into it.
    pub(crate) entry: Inst,
    /// The length of the first memory before the loop, if that does not change in it.
    pub(crate) length: Option<Value>,
    /// What was computed before the loop for checks in it: for an end, the largest index that has it.
    pub(crate) last: Vec<(u64, Value)>,
}

impl Loops {
    /// Looks at a function.
    pub(crate) fn of(body: &FunctionBody<'_>) -> Loops {
        let mut found = Found::default();
        let range = body.range();
        let notes = NOTES_PER_BYTE * (range.end - range.start) as usize;
        let mut known = match found.look(body, notes) {
            Some(()) => found.done,
            None => Vec::new(),
        };
        known.sort_unstable_by_key(|l| l.offset);
        Loops {
            known,
            open: Vec::new(),
        }
    }

    /// Of the loop at this offset: the locals that it reads and does not set, and whether it may call something.
    pub(crate) fn look_at(&mut self, offset: u32) -> (Vec<u32>, bool) {
        let Ok(at) = self.known.binary_search_by_key(&offset, |l| l.offset) else {
            return (Vec::new(), true);
        };
        let Loop {
            calls, gets, sets, ..
        } = &mut self.known[at];
        gets.retain(|local| sets.binary_search(local).is_err());
        (std::mem::take(gets), *calls)
    }

    /// A loop begins.
    pub(crate) fn enter(&mut self, open: Open) {
        self.open.push(open);
    }

    /// The innermost loop has ended.
    pub(crate) fn leave(&mut self) {
        self.open.pop();
    }

    /// The outermost loop around the operator in hand in which the length of the first memory does not change.
    pub(crate) fn of_one_length(&mut self) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.length.is_some())
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    done: Vec<Loop>,
    open: Vec<Loop>,
    /// For each structured operator around, whether it is a loop.
    labels: Vec<bool>,
}

impl Found {
    /// None if the body is malformed, or takes more notes.
    fn look(&mut self, body: &FunctionBody<'_>, mut notes: usize) -> Option<()> {
        let mut operators = body.get_operators_reader().ok()?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset().ok()?;
            match operator {
                Operator::Loop { .. } => self.enter(offset as u32),
                Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                    self.labels.push(false);
                }
                Operator::End => {
                    let taken = self.end();
                    notes = notes.checked_sub(taken)?;
                }
                _ => {
                    if let Some(inner) = self.open.last_mut() {
                        inner.note(&operator);
                    }
                }
            }
        }
        Some(())
    }

    fn enter(&mut self, offset: u32) {
        self.labels.push(true);
        self.open.push(Loop {
            offset,
            ..Loop::default()
        });
    }

    /// How many notes went from a loop to the one around it.
    fn end(&mut self) -> usize {
        // The last `end` is the function's.
        let Some(true) = self.labels.pop() else {
            return 0;
        };
        let Some(mut inner) = self.open.pop() else {
            return 0;
        };
        for locals in [&mut inner.gets, &mut inner.sets] {
            locals.sort_unstable();
            locals.dedup();
        }
        let notes = inner.gets.len() + inner.sets.len();
        if let Some(outer) = self.open.last_mut() {
            outer.calls |= inner.calls;
            outer.gets.extend(&inner.gets);
            outer.sets.extend(&inner.sets);
        }
        self.done.push(inner);
        notes
    }
}

impl Loop {
    fn note(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::LocalGet { local_index } => self.gets.push(*local_index),
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                self.sets.push(*local_index);
            }
            Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::MemoryGrow { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryInit { .. }
            | Operator::TableGrow { .. } => self.calls = true,
            _ => {}
        }
    }
}
