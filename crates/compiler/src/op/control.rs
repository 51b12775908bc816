//! Control instructions.
//!
//! A label's code after its `end` becomes a CLIF block only if something branches there; else the code just
//! goes on. Where paths meet, they owe the same fuel: see `fuel.rs`.

use std::collections::BTreeMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, JumpTableData, Value};
use wasmparser::{BlockType, BrTable};

use crate::labels::{BlockSig, LabelKind, Otherwise, Target};
use crate::translate::Translator;
use crate::{CompileError, TrapCode, limits, parse};

impl<'a> Translator<'a> {
    pub(crate) fn block_sig(&self, ty: BlockType) -> Result<BlockSig<'a>, CompileError> {
        Ok(match ty {
            BlockType::Empty => BlockSig::default(),
            BlockType::Type(ty) => BlockSig::result(parse::val_type(&self.env.info.types, ty)?),
            BlockType::FuncType(index) => BlockSig::of(&self.env.info.types[index as usize]),
        })
    }

    /// `unreachable`
    pub(crate) fn unreachable(&mut self) {
        self.trap(TrapCode::Unreachable);
        self.stop();
    }

    /// `block bt`: branches to the label go to its `end`.
    pub(crate) fn block(&mut self, ty: BlockType) -> Result<(), CompileError> {
        self.check_nesting(false)?;
        let sig = self.block_sig(ty)?;
        self.push_label(LabelKind::Block, sig);
        Ok(())
    }

    /// `loop bt`: branches to the label come back here.
    pub(crate) fn r#loop(&mut self, ty: BlockType) -> Result<(), CompileError> {
        self.check_nesting(true)?;
        self.fuel_flush();
        let sig = self.block_sig(ty)?;
        let header = self.block_taking(sig.params);
        let args = self.top_args(sig.params.len());
        let number = self.fuel_loop_padding();
        let before = self.before_loop();
        let entry = self.b.ins().jump(header, &args);
        self.stack.truncate(self.stack.len() - sig.params.len());
        self.continue_in(header);
        self.enter_loop(before, entry);
        self.push_label(LabelKind::Loop(header, number), sig);
        Ok(())
    }

    /// `if bt`: pop an i32; enter if it is not zero, else go to the `else`.
    pub(crate) fn r#if(&mut self, ty: BlockType) -> Result<(), CompileError> {
        self.check_if()?;
        let condition = self.pop();
        let sig = self.block_sig(ty)?;
        let (then, block) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, then, &[], block, &[]);
        self.b.seal_block(block);
        self.resume(then);
        let params = self.top(sig.params.len()).into();
        let otherwise = Otherwise {
            block,
            params,
            fuel: self.fuel.pending(),
        };
        self.push_label(LabelKind::If(otherwise), sig);
        Ok(())
    }

    /// `else`: what was reached before it goes to the `end`; what comes is reached if the `if` was.
    pub(crate) fn r#else(&mut self) {
        self.leave_to_end();
        let label = self.labels.last_mut().expect("validated: an if is open");
        let otherwise = match std::mem::replace(&mut label.kind, LabelKind::Else) {
            LabelKind::If(otherwise) => otherwise,
            dead => {
                label.kind = dead;
                return;
            }
        };
        self.stack.truncate(label.height);
        self.stack.extend(otherwise.params);
        self.bounds.forget(label.learnt);
        self.b.switch_to_block(otherwise.block);
        self.reachable = true;
        self.fuel.set_pending(otherwise.fuel);
        self.mark_site();
    }

    /// `end`
    pub(crate) fn end(&mut self) {
        let label = self.labels.last().expect("validated: a label is open");
        if let LabelKind::If(otherwise) = &label.kind {
            // Without an else, the parameters are the results. The empty arm pays nothing.
            let owed = otherwise.fuel;
            self.end_block(self.labels.len() - 1, owed);
            self.r#else();
            self.leave_to_end();
        }
        let label = self.labels.last().expect("as above");
        if label.next.is_some() {
            self.leave_to_end();
        }
        let label = self.labels.pop().expect("as above");
        match label.kind {
            LabelKind::Loop(header, _) => {
                self.b.seal_block(header);
                self.leave_loop();
            }
            LabelKind::Try => self.leave_try(),
            LabelKind::Else => self.leave_if(),
            _ => {}
        }
        if let Some(next) = label.next {
            self.b.seal_block(next);
            self.stack.truncate(label.height);
            self.bounds.forget(label.learnt);
            self.continue_in(next);
            self.reachable = true;
            self.fuel.set_pending(label.owed);
            self.mark_site();
        } else if !self.reachable {
            self.stack.truncate(label.height);
        }
        if self.labels.is_empty() && self.reachable {
            self.return_top(label.sig.results.len());
        }
    }

    /// Goes to the end of the innermost label, if that can be reached from here.
    fn leave_to_end(&mut self) {
        if self.reachable {
            let at = self.labels.len() - 1;
            let block = self.end_block(at, self.fuel.pending());
            let label = &self.labels[at];
            let (arity, owed) = (label.sig.results.len(), label.owed);
            self.jump_to(Target {
                block,
                arity,
                owed,
                back: None,
            });
            self.stop();
        }
    }

    /// `br_if` of a turn of a short loop that another turn follows: goes on there if `condition` is not zero, and owes what it owes; else leaves
    /// the loop, with nothing on the stack.
    pub(crate) fn go_on_if(&mut self, condition: Value) {
        let (next, leave) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(leave); // in the turns' way it takes what they gain: benches/README.md
        self.b.ins().brif(condition, next, &[], leave, &[]);
        self.resume(leave);
        let pending = self.fuel.pending();
        let block = self.end_block(self.labels.len() - 1, 0);
        self.jump_to(Target {
            block,
            arity: 0,
            owed: 0,
            back: None,
        });
        self.resume(next);
        self.fuel.set_pending(pending);
        self.mark_site();
    }

    /// The code after a label's `end`. If this is the first way there, so much fuel is owed there.
    fn end_block(&mut self, at: usize, owed: u32) -> Block {
        if let Some(next) = self.labels[at].next {
            return next;
        }
        let next = self.block_taking(self.labels[at].sig.results);
        self.labels[at].next = Some(next);
        self.labels[at].owed = owed;
        next
    }

    /// Where a branch to a label goes.
    pub(crate) fn target(&mut self, depth: u32) -> Target {
        let at = self.labels.len() - 1 - depth as usize;
        self.pairs += self.labels[at].branches;
        self.labels[at].branches += 1;
        let arity = self.labels[at].branch_types().len();
        let (block, owed, back) = match self.labels[at].kind {
            LabelKind::Loop(header, number) => (header, 0, Some(number)),
            _ => {
                let block = self.end_block(at, self.fuel.pending());
                (block, self.labels[at].owed, None)
            }
        };
        Target {
            block,
            arity,
            owed,
            back,
        }
    }

    /// Jumps with the topmost operands, which stay.
    pub(crate) fn jump_to(&mut self, target: Target) {
        let args = self.top_args(target.arity);
        self.jump_with(target, &args);
    }

    /// Jumps with these values.
    pub(crate) fn jump_with(&mut self, target: Target, args: &[BlockArg]) {
        match target.back {
            Some(number) => {
                self.fuel_before_branch_back();
                self.mark_branch_back(number);
            }
            None => self.fuel_pay_to(target.owed),
        }
        self.b.ins().jump(target.block, args);
    }

    /// `br l`
    pub(crate) fn br(&mut self, depth: u32) {
        let target = self.target(depth);
        self.jump_to(target);
        self.stop();
    }

    /// `br_if l`: pop an i32; when it is not zero, branch to `l`.
    pub(crate) fn br_if(&mut self, depth: u32) {
        let condition = self.pop();
        self.branch_if(condition, depth);
    }

    /// `br_on_null l`: pop a reference; branch to `l` without it if it is null, else push it again.
    pub(crate) fn br_on_null(&mut self, depth: u32) {
        let reference = self.pop();
        let is_null = self.b.ins().icmp_imm_s(IntCC::Equal, reference, 0);
        self.branch_if(is_null, depth);
        self.push(reference);
    }

    /// `br_on_non_null l`: pop a reference; branch to `l` with it if it is not null.
    pub(crate) fn br_on_non_null(&mut self, depth: u32) {
        let reference = self.top(1)[0];
        let is_some = self.b.ins().icmp_imm_s(IntCC::NotEqual, reference, 0);
        self.branch_if(is_some, depth);
        self.pop();
    }

    /// Branches to a label if `condition` is not zero, with the topmost operands, which stay.
    fn branch_if(&mut self, condition: Value, depth: u32) {
        let target = self.target(depth);
        if let Some(number) = target.back {
            self.fuel_before_branch_back();
            self.mark_branch_back(number);
        }
        let next = self.b.create_block();
        match self.fuel.pending() {
            pending if pending == target.owed => {
                let args = self.top_args(target.arity);
                self.b.ins().brif(condition, target.block, &args, next, &[]);
            }
            pending => {
                let leave = self.b.create_block();
                self.b.ins().brif(condition, leave, &[], next, &[]);
                self.resume(leave);
                self.jump_to(target);
                self.fuel.set_pending(pending);
                self.mark_site();
            }
        }
        self.resume(next);
    }

    /// `br_table l* l`: pop an i32; branch to the label at that place, or to the last.
    pub(crate) fn br_table(&mut self, table: &BrTable<'_>) -> Result<(), CompileError> {
        limits::br_table_targets(table.len(), self.offset)?;
        let index = self.pop();
        let mut depths = table.targets().collect::<Result<Vec<_>, _>>()?;
        depths.push(table.default());
        let at = self.labels.len() - 1 - table.default() as usize;
        let arity = self.labels[at].branch_types().len();
        limits::carried(self.carried + arity * depths.len(), self.offset)?;
        match depths.iter().any(|depth| self.is_loop(*depth)) {
            true => self.fuel_before_branch_back(),
            false => {
                let known = depths.iter().find_map(|depth| self.known_owed(*depth));
                self.fuel_pay_to(known.unwrap_or(self.fuel.pending()));
            }
        }
        self.br_table_to(index, &depths);
        self.stop();
        Ok(())
    }

    pub(crate) fn is_loop(&self, depth: u32) -> bool {
        let label = &self.labels[self.labels.len() - 1 - depth as usize];
        matches!(label.kind, LabelKind::Loop(..))
    }

    /// What is owed where a label leads to that is no loop's, if that is settled already.
    fn known_owed(&self, depth: u32) -> Option<u32> {
        let label = &self.labels[self.labels.len() - 1 - depth as usize];
        label.next.map(|_| label.owed)
    }

    /// `return`
    pub(crate) fn r#return(&mut self) {
        self.return_top(self.labels[0].sig.results.len());
        self.stop();
    }

    /// Returns the topmost `count` operands.
    fn return_top(&mut self, count: usize) {
        self.fuel_flush();
        self.carried += count;
        let results = self.stack.split_off(self.stack.len() - count);
        self.b.ins().return_(&results);
    }
}

/// Jump tables.
impl Translator<'_> {
    /// CLIF's jump tables carry no values, and pay nothing: where that is needed they go to blocks of their own, one for
    /// each label, that do.
    fn br_table_to(&mut self, index: Value, depths: &[u32]) {
        let pending = self.fuel.pending();
        let mut between = BTreeMap::new();
        let mut targets = BTreeMap::new();
        let mut blocks = Vec::with_capacity(depths.len());
        for depth in depths {
            // One way to each label, however many entries lead there.
            let target = *targets.entry(*depth).or_insert_with(|| self.target(*depth));
            blocks.push(match (target.arity, target.owed) {
                (0, owed) if owed == pending => target.block,
                _ => *between.entry(*depth).or_insert_with(|| self.b.create_block()),
            });
        }
        self.jump_table(index, &blocks);
        for (depth, block) in between {
            self.resume(block);
            self.fuel.set_pending(pending);
            self.mark_site();
            let target = self.target(depth);
            // The check, if one of them is a loop, was before the table.
            self.fuel_pay_to(target.owed);
            let args = self.top_args(target.arity);
            self.b.ins().jump(target.block, &args);
        }
    }

    /// Jumps to the block at `index`, or to the last.
    fn jump_table(&mut self, index: Value, blocks: &[Block]) {
        let mut calls: Vec<_> = blocks
            .iter()
            .map(|block| self.b.func.dfg.block_call(*block, &[]))
            .collect();
        let default = calls.pop().expect("there is always a default");
        let table = self.b.create_jump_table(JumpTableData::new(default, &calls));
        self.b.ins().br_table(index, table);
    }
}
