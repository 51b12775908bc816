//! The labels in scope: what `br` goes to. Spec: core/exec/runtime, labels.

use cranelift_codegen::ir::{Block, Value};
use smallvec::SmallVec;

use crate::{FuncType, HeapType, ValType};

/// What a structured operator takes from the stack and leaves there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BlockSig<'a> {
    pub(crate) params: &'a [ValType],
    pub(crate) results: &'a [ValType],
}

impl<'a> BlockSig<'a> {
    pub(crate) fn of(ty: &'a FuncType) -> BlockSig<'a> {
        BlockSig {
            params: ty.params(),
            results: ty.results(),
        }
    }

    /// No parameters, one result.
    pub(crate) fn result(ty: ValType) -> BlockSig<'a> {
        BlockSig {
            params: &[],
            results: one(ty),
        }
    }
}

/// A list of one type. Of references, the type that says how they are represented: nothing else counts here.
fn one(ty: ValType) -> &'static [ValType] {
    match ty {
        ValType::I32 => &[ValType::I32],
        ValType::I64 => &[ValType::I64],
        ValType::F32 => &[ValType::F32],
        ValType::F64 => &[ValType::F64],
        ValType::V128 => &[ValType::V128],
        ValType::Ref(ty) => match ty.heap_type().top() {
            HeapType::Extern => &[ValType::EXTERNREF],
            HeapType::Exn => &[ValType::EXNREF],
            _ => &[ValType::FUNCREF],
        },
    }
}

/// Which operator a label belongs to.
#[derive(Debug)]
pub(crate) enum LabelKind {
    /// `block`, or the function's body.
    Block,
    /// `loop`, with its header, where branches go, and its number in the function.
    Loop(Block, u32),
    /// `try_table`; its clauses are the innermost of the translator's.
    Try,
    /// `if`, before its `else`.
    If(Otherwise),
    /// `if`, after its `else`.
    Else,
    /// Any of them, in code that is not reached: nothing branches to it.
    Dead,
}

/// What an `if` keeps for its `else`.
#[derive(Debug)]
pub(crate) struct Otherwise {
    /// Where the condition is zero.
    pub(crate) block: Block,
    /// The parameters.
    pub(crate) params: SmallVec<[Value; 2]>,
    /// The fuel that is pending there.
    pub(crate) fuel: u32,
}

/// A label.
#[derive(Debug)]
pub(crate) struct Label<'a> {
    pub(crate) kind: LabelKind,
    pub(crate) sig: BlockSig<'a>,
    /// The code after the `end`, as a CLIF block: made by the first branch to it. Its parameters are
    /// the results.
    pub(crate) next: Option<Block>,
    /// The fuel that is pending there, once there is such a block.
    pub(crate) owed: u32,
    /// Height of the operand stack below the parameters.
    pub(crate) height: usize,
    /// How much was known of bounds where it was entered.
    pub(crate) learnt: usize,
    /// How many operators branch to it so far.
    pub(crate) branches: u64,
}

/// Where a branch goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) block: Block,
    /// How many values it carries.
    pub(crate) arity: usize,
    /// The fuel that is pending there.
    pub(crate) owed: u32,
    /// If it is the header of a loop: the loop's number.
    pub(crate) back: Option<u32>,
}

impl<'a> Label<'a> {
    /// The types of the values that a branch carries.
    pub(crate) fn branch_types(&self) -> &'a [ValType] {
        match self.kind {
            LabelKind::Loop(..) => self.sig.params,
            _ => self.sig.results,
        }
    }
}
