//! Short loops, of which two turns are translated where fuel is metered.
//!
//! A turn of a few operators takes a processor a cycle or two. What a branch back pays and looks at is an operation and a branch more, and
//! can take a quarter of that. So the body of a *short* loop is translated twice: the first turn goes on to the second, owing what it
//! cost, and the second's branch back pays for both and looks. Whoever leaves by the first turn pays for it on the way out; what
//! traps in the second has both turns pending, as far as they went. So what is spent is exact as everywhere, but the loop looks at
//! the end of each second turn only, and never in a first one.
//!
//! *Short* is a loop that takes nothing from the stack and leaves nothing there, with one way back, its last operator, `br_if 0` or `br 0`. In front of
//! that are at most [`MOST_OPERATORS`] others, which compute, access memory, or leave the loop by a `br_if`, for no loop's label. None of them calls, waits, or opens
//! a block: nobody sees the counter in the midst of the turns. Which loops are short is told by their bytes alone, not by how
//! payments are made: so checks are at the same places on every processor.
//!
//! Four turns were tried: they gain in loops of one byte a turn (looking for a byte: 1.13 of the time without fuel beside 1.25, which was 1.50 with one
//! turn) and lose in others (`quicksort`: 1.03 beside 0.97).
//!
//! The look ahead ends at the next operator with a body at the latest: each operator is looked at once in all.

use wasmparser::{BlockType, FuncValidator, Operator, OperatorsReader, ValidatorResources};

use crate::CompileError;
use crate::translate::Translator;

/// The most operators of a short loop's turn in front of its branch back.
const MOST_OPERATORS: u32 = 24;

/// The body of a short loop, which comes next.
pub(crate) struct ShortLoop<'a> {
    /// At its first operator.
    start: OperatorsReader<'a>,
    /// How many operators there are in front of the branch back.
    operators: u32,
}

impl<'a> ShortLoop<'a> {
    /// The loop whose body comes next, if it is short. Its operators are not validated yet. `is_loop` says of the labels around it which are loops.
    fn ahead(next: &OperatorsReader<'a>, is_loop: impl Fn(u32) -> bool) -> Option<ShortLoop<'a>> {
        let start = OperatorsReader::new(next.get_binary_reader());
        let mut ahead = start.clone();
        for operators in 0..=MOST_OPERATORS {
            match ahead.read().ok()? {
                Operator::Br { relative_depth: 0 } | Operator::BrIf { relative_depth: 0 } => {
                    let is_last = matches!(ahead.read(), Ok(Operator::End));
                    return is_last.then_some(ShortLoop { start, operators });
                }
                Operator::BrIf { relative_depth } if is_loop(relative_depth) => return None,
                operator if goes_on(&operator) => {}
                _ => return None,
            }
        }
        None
    }
}

/// Whether control goes on with the next operator, unless it leaves the loop or traps, and nothing is called.
#[rustfmt::skip]
fn goes_on(operator: &Operator<'_>) -> bool {
    use Operator::*;
    !matches!(
        operator,
        Block { .. } | Loop { .. } | If { .. } | Else | End | TryTable { .. }
        | Unreachable | Br { .. } | BrTable { .. } | BrOnNull { .. } | BrOnNonNull { .. } | Return | Throw { .. } | ThrowRef
        | Call { .. } | CallIndirect { .. } | CallRef { .. }
        | ReturnCall { .. } | ReturnCallIndirect { .. } | ReturnCallRef { .. }
        | MemoryGrow { .. } | MemoryFill { .. } | MemoryCopy { .. } | MemoryInit { .. } | DataDrop { .. }
        | TableGrow { .. } | TableFill { .. } | TableCopy { .. } | TableInit { .. } | ElemDrop { .. }
        | MemoryAtomicWait32 { .. } | MemoryAtomicWait64 { .. } | MemoryAtomicNotify { .. }
    )
}

impl Translator<'_> {
    /// The body of the loop that this operator has just begun, if two turns of it are to be translated.
    pub(crate) fn short_loop<'a>(
        &self,
        operator: &Operator<'_>,
        next: &OperatorsReader<'a>,
    ) -> Option<ShortLoop<'a>> {
        let Operator::Loop {
            blockty: BlockType::Empty,
        } = operator
        else {
            return None;
        };
        let is_loop = |depth: u32| (depth as usize) < self.labels.len() && self.is_loop(depth);
        match self.reachable && self.fuel.is_on() {
            true => ShortLoop::ahead(next, is_loop),
            false => None,
        }
    }

    /// Translates two turns of a short loop, up to its `end`.
    pub(crate) fn two_turns<'a>(
        &mut self,
        body: ShortLoop<'a>,
        operators: &mut OperatorsReader<'a>,
        validator: &mut FuncValidator<ValidatorResources>,
    ) -> Result<(), CompileError> {
        for _ in 0..body.operators {
            let (operator, offset) = operators.read_with_offset()?;
            validator.op(offset, &operator)?;
            self.operator(&operator, offset as u32)?;
        }
        let (back, back_offset) = operators.read_with_offset()?;
        validator.op(back_offset, &back)?;
        self.next_turn(&back, back_offset as u32);
        // The same operators, on the same operands below them: validated.
        let mut again = body.start;
        for _ in 0..body.operators {
            let (operator, offset) = again.read_with_offset()?;
            self.operator(&operator, offset as u32)?;
        }
        self.operator(&back, back_offset as u32)
    }

    /// The first turn's branch back: what comes is the second turn.
    fn next_turn(&mut self, back: &Operator<'_>, offset: u32) {
        self.begin_operator(back, offset);
        if let Operator::BrIf { .. } = back {
            let condition = self.pop();
            self.go_on_if(condition);
        }
        // What a `br` leaves behind is not needed any more.
        let height = self.labels.last().expect("the loop's label").height;
        self.stack.truncate(height);
    }
}
