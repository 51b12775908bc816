//! Exceptions. Spec: core/exec/instructions, throw, throw_ref, try_table.
//!
//! A call within a `try_table` names in a table of the image what catches around it; nothing is done on the way of a
//! call that returns. A throw is the runtime's: it walks the frames, and goes on at the first clause that fits.
//!
//! ```text
//!   try_call f  --returns-->  the block of what follows
//!       |
//!       +--tag 0---> cold, one a call and clause --> cold, one a clause: loads the values --> the label
//!       +--any-----> cold, one a call and clause --> ..
//! ```
//!
//! A block for each call: with one for several, its register moves would be in the way of the calls that return.
//! What the clauses of all `try_table`s around a call have in common (the same tag, or what comes after a
//! clause that catches everything) is left out.
//!
//! Fuel: everything owed is paid before a call, so where a clause goes on nothing is owed, and the pinned register is as it was
//! at the throw: the runtime keeps it.

use cranelift_codegen::ir::{
    Block, BlockArg, ExceptionTableData, ExceptionTableItem, ExceptionTag, InstBuilder, StackSlot,
    StackSlotData, StackSlotKind, Value, types,
};
use smallvec::SmallVec;
use wasmparser::{Catch, TryTable};

use super::calls::Code;
use crate::abi::{POINTER, clif_type};
use crate::labels::LabelKind;
use crate::layout::{ARG_SLOT_BYTES, CONTEXT_STORE, EXCEPTION_VALUES, STORE_HEAP_BASE};
use crate::regions::{self, Region};
use crate::translate::Translator;
use crate::{Builtin, CompileError, TrapCode, ValType};

/// The results of a call.
pub(crate) type Results = SmallVec<[Value; 4]>;

/// What the exceptions of one function share.
#[derive(Debug, Default)]
pub(crate) struct Exceptions {
    /// The `try_table`s in scope, outermost first.
    tries: Vec<Try>,
    /// The arrays for what is thrown, of 1, 2, 4.. slots.
    slots: [Option<StackSlot>; 12],
}

/// The clauses of a `try_table` in scope.
#[derive(Debug)]
struct Try {
    clauses: Vec<Clause>,
}

/// A clause.
#[derive(Debug, Clone, Copy)]
struct Clause {
    /// None: every exception.
    tag: Option<u32>,
    /// Whether the label takes the exception itself, too.
    takes_exception: bool,
    /// The place of the label it goes to.
    label: usize,
    /// Where it goes on with the exception, once a call has asked for that.
    block: Option<Block>,
    /// How many calls go there.
    calls: u64,
}

impl<'a> Translator<'a> {
    /// `try_table bt c*`: a block whose calls and throws may go on at the labels of the clauses.
    pub(crate) fn try_table(&mut self, table: &TryTable) -> Result<(), CompileError> {
        if table.catches.is_empty() {
            // It catches nothing: a block, that calls need not look through.
            return self.block(table.ty);
        }
        self.check_nesting(false)?;
        let sig = self.block_sig(table.ty)?;
        let labels = self.labels.len();
        let clauses = table.catches.iter().map(|catch| {
            let (tag, takes_exception, depth) = match *catch {
                Catch::One { tag, label } => (Some(tag), false, label),
                Catch::OneRef { tag, label } => (Some(tag), true, label),
                Catch::All { label } => (None, false, label),
                Catch::AllRef { label } => (None, true, label),
            };
            Clause {
                tag,
                takes_exception,
                label: labels - 1 - depth as usize,
                block: None,
                calls: 0,
            }
        });
        self.exceptions.tries.push(Try {
            clauses: clauses.collect(),
        });
        self.push_label(LabelKind::Try, sig);
        Ok(())
    }

    /// The end of a `try_table`: no more calls have its clauses.
    pub(crate) fn leave_try(&mut self) {
        let ended = self
            .exceptions
            .tries
            .pop()
            .expect("one for each label of its kind");
        for block in ended.clauses.iter().filter_map(|clause| clause.block) {
            self.b.seal_block(block);
        }
    }

    /// `throw x`: pop the tag's values, make an exception of them and throw it.
    pub(crate) fn throw(&mut self, tag: u32) {
        self.fuel_flush();
        let count = self.env.info.tag_type(tag).params().len();
        self.carried += count;
        let values = self.stack.split_off(self.stack.len() - count);
        let args = self.thrown(1 + count as u32);
        let tag = self.b.ins().iconst(types::I64, i64::from(tag));
        let mut offset = 0;
        self.store_arg(tag, args, &mut offset);
        for value in values {
            self.store_arg(value, args, &mut offset);
        }
        self.call_throw(Builtin::Throw, args);
    }

    /// `throw_ref`: pop an exception and throw it again.
    pub(crate) fn throw_ref(&mut self) {
        self.fuel_flush();
        let exception = self.pop();
        let args = self.thrown(1);
        let exception = self.widen(exception);
        self.store_arg(exception, args, &mut 0);
        self.call_throw(Builtin::ThrowRef, args);
    }

    /// The address of an array of at least `slots` slots. All throws of a function share those of a size.
    fn thrown(&mut self, slots: u32) -> Value {
        let slots = slots.next_power_of_two();
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, slots * ARG_SLOT_BYTES, 4);
        let place = slots.trailing_zeros() as usize;
        let slot = match self.exceptions.slots[place] {
            Some(slot) => slot,
            None => self.b.create_sized_stack_slot(data),
        };
        self.exceptions.slots[place] = Some(slot);
        self.b.ins().stack_addr(POINTER, slot, 0)
    }

    /// Calls a builtin that does not come back here.
    fn call_throw(&mut self, builtin: Builtin, args: Value) {
        let sig = self.imports.builtin(self.b.func);
        let code = self.builtin_code();
        let id = self.b.ins().iconst(types::I32, builtin as i64);
        self.emit_call(Code::At(sig, code), &[self.vmctx, args, id]);
        self.b.ins().trap(regions::clif_trap(TrapCode::Unreachable));
        self.stop();
    }

    /// A call of what may throw: the operators' own way to call.
    pub(crate) fn emit_call(&mut self, callee: Code, args: &[Value]) -> Results {
        self.count_call();
        if !self.exceptions.tries.is_empty() {
            return self.try_call(callee, args);
        }
        let call = match callee {
            Code::Here(callee) => self.b.ins().call(callee, args),
            Code::At(sig, code) => self.b.ins().call_indirect(sig, code, args),
        };
        self.b.inst_results(call).into()
    }

    /// A call within a `try_table`.
    fn try_call(&mut self, callee: Code, args: &[Value]) -> Results {
        let sig = match callee {
            Code::Here(callee) => self.b.func.dfg.ext_funcs[callee].signature,
            Code::At(sig, _) => sig,
        };
        let next = self.b.create_block();
        let returns: SmallVec<[_; 4]> = self.b.func.dfg.signatures[sig].returns.as_slice().into();
        let mut returned: SmallVec<[BlockArg; 4]> = SmallVec::new();
        for (index, result) in returns.iter().enumerate() {
            self.b.append_block_param(next, result.value_type);
            returned.push(BlockArg::TryCallRet(index as u32));
        }
        let normal = self.b.func.dfg.block_call(next, &returned);
        let (items, blocks) = self.exception_items();
        let table = ExceptionTableData::new(sig, normal, items);
        let table = self.b.func.dfg.exception_tables.push(table);
        match callee {
            Code::Here(callee) => self.b.ins().try_call(callee, args, table),
            Code::At(_, code) => self.b.ins().try_call_indirect(code, args, table),
        };
        for (level, index, block) in blocks {
            self.resume(block);
            self.jump_to_clause(level, index);
        }
        self.resume(next);
        self.b.block_params(next).into()
    }

    /// What catches around a call: the items of its table, and for each clause, by its place in `tries`, the block that is the call's own.
    fn exception_items(&mut self) -> (Vec<ExceptionTableItem>, Vec<(usize, usize, Block)>) {
        let mut items = vec![ExceptionTableItem::Context(self.vmctx)];
        let caught = self.caught();
        let mut blocks = Vec::with_capacity(caught.len());
        for (level, index) in caught {
            let block = self.b.create_block();
            self.b.set_cold_block(block);
            self.b.append_block_param(block, types::I64);
            let call = self.b.func.dfg.block_call(block, &[BlockArg::TryCallExn(0)]);
            items.push(match self.exceptions.tries[level].clauses[index].tag {
                Some(tag) => ExceptionTableItem::Tag(ExceptionTag::from_u32(tag), call),
                None => ExceptionTableItem::Default(call),
            });
            blocks.push((level, index, block));
        }
        (items, blocks)
    }

    /// Goes from the block in hand, whose parameter is the exception, to where a clause goes on with it.
    fn jump_to_clause(&mut self, level: usize, index: usize) {
        let block = self.b.current_block().expect("a block is being filled");
        let exception = BlockArg::Value(self.b.block_params(block)[0]);
        let clause = &mut self.exceptions.tries[level].clauses[index];
        // One more way into it, as a branch is into a label: see `limits.rs`.
        self.pairs += clause.calls;
        clause.calls += 1;
        if let Some(clause) = clause.block {
            self.b.ins().jump(clause, &[exception]);
            return;
        }
        let block = self.b.create_block();
        clause.block = Some(block);
        self.b.set_cold_block(block);
        self.b.append_block_param(block, types::I64);
        self.b.ins().jump(block, &[exception]);
        self.fill_clause(level, index, block);
    }

    /// The block where a clause goes on, which takes the exception as a 64-bit word: it loads the values and goes to the label.
    fn fill_clause(&mut self, level: usize, index: usize, block: Block) {
        let clause = self.exceptions.tries[level].clauses[index];
        self.b.switch_to_block(block);
        let exception = self.b.block_params(block)[0];
        let mut args = match clause.tag {
            Some(tag) => self.exception_values(tag, exception),
            None => Results::new(),
        };
        if clause.takes_exception {
            let reference = self.b.ins().ireduce(types::I32, exception);
            self.track(ValType::EXNREF, reference);
            args.push(reference);
        }
        self.carried += args.len();
        let args: SmallVec<[BlockArg; 4]> = args.into_iter().map(BlockArg::Value).collect();
        let target = self.target((self.labels.len() - 1 - clause.label) as u32);
        // A call owes nothing, and its code goes on with that.
        self.jump_with(target, &args);
        if target.owed > 0 {
            self.fuel.set_pending(0);
            self.mark_site();
        }
    }

    /// The values of an exception of a tag.
    fn exception_values(&mut self, tag: u32, exception: Value) -> Results {
        let types = self.env.info.tag_type(tag).params();
        if types.is_empty() {
            return Results::new();
        }
        let flags = Region::Vmctx.anywhere(self.b.func);
        let store = self.b.ins().load(POINTER, flags, self.vmctx, CONTEXT_STORE);
        let flags = Region::Store.mutable(self.b.func);
        let heap = self.b.ins().load(POINTER, flags, store, STORE_HEAP_BASE);
        let object = self.b.ins().iadd(heap, exception);
        let flags = Region::Heap.mutable(self.b.func);
        let mut values = Results::new();
        for (ty, index) in types.iter().zip(0..) {
            let offset = EXCEPTION_VALUES + index * ARG_SLOT_BYTES as i32;
            let value = self.b.ins().load(clif_type(*ty), flags, object, offset);
            self.track(*ty, value);
            values.push(value);
        }
        values
    }

    /// The clauses that a call here can end at, the innermost first, by their places in `tries`.
    fn caught(&mut self) -> SmallVec<[(usize, usize); 4]> {
        let (mut caught, mut tags) = (SmallVec::new(), SmallVec::<[u32; 8]>::new());
        for (level, r#try) in self.exceptions.tries.iter().enumerate().rev() {
            for (index, clause) in r#try.clauses.iter().enumerate() {
                self.carried += 1;
                match clause.tag {
                    None => {
                        caught.push((level, index));
                        return caught;
                    }
                    Some(tag) if !tags.contains(&tag) => {
                        self.carried += tags.len();
                        tags.push(tag);
                        caught.push((level, index));
                    }
                    Some(_) => {}
                }
            }
        }
        caught
    }
}
