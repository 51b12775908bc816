//! One function from Wasm to CLIF, in one pass.
//!
//! The operand stack of Wasm is a stack of CLIF values; locals are variables of the CLIF builder, which finds
//! out where they need block parameters. Each operator has a row in `opcodes.rs` and a small
//! function in `op/`. What concerns all operators is here, around the dispatch: validation, reachability,
//! fuel and sites.
//!
//! Invariants
//! 1. An operator is translated only after it has been validated, and only if it can be reached: so the stack
//!    has what it pops, with the right types.
//! 2. While code is not reached, no instruction is made; labels are pushed as dead ones.

use std::collections::HashSet;

use cranelift_codegen::ir::{Block, BlockArg, Function, InstBuilder, SourceLoc, StackSlot, Value, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use smallvec::SmallVec;
use wasmparser::{BlockType, FuncValidator, FunctionBody, Operator, ValidatorResources};

use crate::abi::{self, Imports, clif_type};
use crate::bounds::Bounds;
use crate::fuel::{Fuel, Payments};
use crate::labels::{BlockSig, Label, LabelKind};
use crate::loops::Loops;
use crate::op::exceptions::Exceptions;
use crate::sites::Sites;
use crate::{
    CompileError, FuncType, ModuleInfo, Settings, TrapCode, ValType, features, limits, parse, regions,
};

/// What functions of a module are translated against.
#[derive(Clone, Copy)]
pub(crate) struct Env<'a> {
    pub(crate) info: &'a ModuleInfo,
    pub(crate) settings: &'a Settings,
    pub(crate) isa: &'a dyn TargetIsa,
    pub(crate) budget: &'a limits::Budget,
}

/// A function in translation.
pub(crate) struct Translator<'a> {
    pub(crate) b: FunctionBuilder<'a>,
    pub(crate) env: Env<'a>,
    pub(crate) stack: Vec<Value>,
    pub(crate) labels: Vec<Label<'a>>,
    pub(crate) reachable: bool,
    pub(crate) vmctx: Value,
    pub(crate) imports: Imports,
    pub(crate) fuel: Fuel<'a>,
    pub(crate) bounds: Bounds,
    /// What is known of the loops, where that helps checks of bounds.
    pub(crate) known_loops: Loops,
    pub(crate) sites: &'a mut Sites,
    /// Offset of the operator in hand.
    pub(crate) offset: u32,
    /// The array for builtins' operands, once there is one.
    pub(crate) builtin_args: Option<StackSlot>,
    /// How many values calls and branches have carried so far, and returns may.
    pub(crate) carried: usize,
    /// How much was taken from the module's budget so far.
    shared: u64,
    /// How many pairs of branches to one label there are so far.
    pub(crate) pairs: u64,
    /// How many of them were taken from the module's budget.
    shared_pairs: u64,
    /// What the operators so far come to, each counting for the square of the loops around it.
    squares: u64,
    /// The `try_table`s in scope.
    pub(crate) exceptions: Exceptions,
    /// The cold blocks that are to call the fuel stub.
    pub(crate) fuel_calls: Vec<(Block, SourceLoc)>,
    /// Immediate offsets and sizes of the stores so far, if fuel is on.
    pub(crate) stores: HashSet<(i32, u64)>,
    /// How many locals hold references into the heap, and whether any value is such a reference.
    reference_locals: usize,
    has_references: bool,
    /// How many references the calls so far may have left in the frame.
    held: usize,
    /// How many calls there are so far.
    calls: usize,
    locals: usize,
    loops: usize,
    ifs: usize,
}

/// Translates a function into `func`, whose signature is set, and validates it on the way.
pub(crate) fn translate(
    env: Env<'_>,
    validator: &mut FuncValidator<ValidatorResources>,
    body: &FunctionBody<'_>,
    func: &mut Function,
    context: &mut FunctionBuilderContext,
    sites: &mut Sites,
    payments: Payments<'_>,
) -> Result<(), CompileError> {
    sites.clear();
    let ty = env.info.function_type(validator.index());
    let b = FunctionBuilder::new(&mut *func, context);
    let mut t = Translator::new(env, b, body, sites, payments);
    t.enter(ty);
    let mut reader = body.get_binary_reader();
    t.declare_locals(&mut reader, validator)?;
    t.fuel_entry(body);
    t.look_at_loops(body);
    t.push_label(
        LabelKind::Block,
        BlockSig {
            params: &[],
            results: ty.results(),
        },
    );
    t.operators(reader, validator)?;
    t.check_parameters()?;
    let fuel_calls = std::mem::take(&mut t.fuel_calls);
    let stub = (!fuel_calls.is_empty()).then(|| t.imports.fuel_stub(t.b.func));
    t.sites
        .set_vectors(env.settings.fuel && abi::has_vectors(t.b.func));
    t.b.finalize(env.isa.frontend_config());
    if let Some(stub) = stub {
        crate::fuel::insert_calls(func, stub, &fuel_calls);
    }
    Ok(())
}

impl<'a> Translator<'a> {
    /// At the start of the entry block, with nothing translated.
    fn new(
        env: Env<'a>,
        mut b: FunctionBuilder<'a>,
        body: &FunctionBody<'_>,
        sites: &'a mut Sites,
        payments: Payments<'a>,
    ) -> Translator<'a> {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let vmctx = b.block_params(entry)[0];
        Translator {
            b,
            env,
            stack: Vec::new(),
            labels: Vec::new(),
            reachable: true,
            vmctx,
            imports: Imports::default(),
            fuel: Fuel::new(env.settings.fuel, &env.settings.fuel_costs, payments),
            bounds: Bounds::default(),
            known_loops: Loops::default(),
            sites,
            offset: body.range().start as u32,
            builtin_args: None,
            carried: 0,
            shared: 0,
            pairs: 0,
            shared_pairs: 0,
            squares: 0,
            exceptions: Exceptions::default(),
            fuel_calls: Vec::new(),
            stores: HashSet::new(),
            reference_locals: 0,
            has_references: false,
            held: 0,
            calls: 0,
            locals: 0,
            loops: 0,
            ifs: 0,
        }
    }

    /// The parameters become locals, and the results count as carried.
    fn enter(&mut self, ty: &FuncType) {
        self.mark_site();
        self.carried = ty.results().len();
        let entry = self.b.current_block().expect("the entry block is being filled");
        for (i, ty) in ty.params().iter().enumerate() {
            let param = self.b.block_params(entry)[1 + i];
            self.declare_local(*ty, param);
        }
    }

    /// The operators of the body, each validated before it is translated: invariant 1.
    fn operators(
        &mut self,
        reader: wasmparser::BinaryReader<'_>,
        validator: &mut FuncValidator<ValidatorResources>,
    ) -> Result<(), CompileError> {
        let mut operators = wasmparser::OperatorsReader::new(reader);
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            validator.op(offset, &operator)?;
            self.operator(&operator, offset as u32)?;
            if let Some(body) = self.short_loop(&operator, &operators) {
                self.two_turns(body, &mut operators, validator)?;
            }
        }
        operators.finish()?;
        Ok(())
    }

    /// The declared locals, which start as zero.
    fn declare_locals(
        &mut self,
        reader: &mut wasmparser::BinaryReader<'_>,
        validator: &mut FuncValidator<ValidatorResources>,
    ) -> Result<(), CompileError> {
        let groups = reader.read_var_u32()?;
        for _ in 0..groups {
            let offset = reader.original_position();
            let count = reader.read_var_u32()?;
            let ty = reader.read::<wasmparser::ValType>()?;
            validator.define_locals(offset, count, ty)?;
            let ty = parse::val_type(&self.env.info.types, ty).map_err(|error| error.at(offset))?;
            let zero = self.zero(ty);
            for _ in 0..count {
                self.declare_local(ty, zero);
            }
        }
        Ok(())
    }

    fn declare_local(&mut self, ty: ValType, value: Value) {
        let variable = self.b.declare_var(clif_type(ty));
        if ty.is_heap_reference() {
            self.b.declare_var_needs_stack_map(variable);
            self.reference_locals += 1;
            self.has_references = true;
        }
        debug_assert_eq!(variable, Variable::from_u32(self.locals as u32));
        self.locals += 1;
        self.b.def_var(variable, value);
    }

    /// How many locals there are, parameters included.
    pub(crate) fn locals(&self) -> u32 {
        self.locals as u32
    }

    /// One operator, already validated.
    pub(crate) fn operator(&mut self, operator: &Operator<'_>, offset: u32) -> Result<(), CompileError> {
        self.offset = offset;
        if !self.reachable {
            limits::nesting(self.labels.len(), offset)?;
            self.check_dead(operator)
                .map_err(|error| error.at(self.offset.into()))?;
            self.dead_operator(operator);
            return Ok(());
        }
        self.begin_operator(operator, offset);
        self.dispatch(operator)
            .map_err(|error| error.at(self.offset.into()))?;
        self.check_size()
    }

    /// What comes is made for this operator, which is reached.
    pub(crate) fn begin_operator(&mut self, operator: &Operator<'_>, offset: u32) {
        self.offset = offset;
        self.fuel.spend(operator);
        self.mark_site();
    }

    /// Guards against code that grows out of proportion to its bytes.
    fn check_size(&mut self) -> Result<(), CompileError> {
        let dfg = &self.b.func.dfg;
        limits::values(dfg.num_values(), self.offset)?;
        limits::blocks(self.locals, dfg.num_blocks(), self.offset)?;
        limits::places(dfg.num_blocks() + self.calls, self.offset)?;
        limits::carried(self.carried, self.offset)?;
        limits::held(self.held, self.offset)?;
        let before = std::mem::replace(&mut self.shared_pairs, self.pairs);
        self.env.budget.take_pairs(before, self.pairs)?;
        let before = self.squares;
        self.squares += (self.loops as u64).pow(2);
        self.env.budget.take_squares(before, self.squares)?;
        self.share(self.carried + self.locals)
    }

    /// Takes the finished function's block parameters from the module's budget, by their pairs. All blocks are sealed, so they have all of theirs.
    fn check_parameters(&mut self) -> Result<(), CompileError> {
        let dfg = &self.b.func.dfg;
        let (mut parameters, mut brought) = (0, 0);
        for block in self.b.func.layout.blocks() {
            parameters += dfg.num_block_params(block) as u64;
            let branch = self.b.func.layout.last_inst(block).map(|inst| &dfg.insts[inst]);
            let calls = branch.map_or(&[][..], |branch| {
                branch.branch_destination(&dfg.jump_tables, &dfg.exception_tables)
            });
            brought += calls
                .iter()
                .map(|call| call.len(&dfg.value_lists) as u64)
                .sum::<u64>();
        }
        let pairs = limits::parameter_pairs(parameters, brought);
        self.env.budget.take_pairs(self.pairs, self.pairs + pairs)
    }

    /// Takes what is new from the module's budget: so many values in all.
    fn share(&mut self, values: usize) -> Result<(), CompileError> {
        let before = std::mem::replace(&mut self.shared, values as u64);
        self.env.budget.take(before, values as u64)
    }

    /// What is not supported is refused where it is not reached too: validation lets pass more than we translate.
    fn check_dead(&self, operator: &Operator<'_>) -> Result<(), CompileError> {
        let types = &self.env.info.types;
        let of_block = |ty: BlockType| match ty {
            BlockType::Type(ty) => parse::val_type(types, ty).map(drop),
            BlockType::Empty | BlockType::FuncType(_) => Ok(()),
        };
        match operator {
            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                of_block(*blockty)
            }
            Operator::TryTable { try_table } => of_block(try_table.ty),
            Operator::TypedSelect { ty } => parse::val_type(types, *ty).map(drop),
            Operator::RefNull { hty } => parse::heap_type(types, *hty).map(drop),
            Operator::ReturnCallRef { .. } => self.require_tail_calls(),
            _ if features::is_garbage_collection(operator) => Err(self.not_supported(operator)),
            _ => Ok(()),
        }
    }

    /// An operator that is not reached: only the structure counts.
    fn dead_operator(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::TryTable { .. } => {
                self.push_label(LabelKind::Dead, BlockSig::default());
            }
            Operator::Else => {
                self.mark_site();
                self.r#else();
            }
            Operator::End => {
                self.mark_site();
                self.end();
            }
            _ => {}
        }
    }

    /// Makes what follows belong to the operator in hand, with the fuel that is pending now.
    pub(crate) fn mark_site(&mut self) {
        let loc = self.sites.push(self.offset, self.fuel.pending());
        self.b.set_srcloc(loc);
    }

    // The operand stack.

    pub(crate) fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    pub(crate) fn pop(&mut self) -> Value {
        self.stack.pop().expect("validated: the operand is there")
    }

    pub(crate) fn pop2(&mut self) -> (Value, Value) {
        let second = self.pop();
        (self.pop(), second)
    }

    pub(crate) fn pop3(&mut self) -> (Value, Value, Value) {
        let third = self.pop();
        let (first, second) = self.pop2();
        (first, second, third)
    }

    /// The topmost `count` operands, left where they are.
    pub(crate) fn top(&self, count: usize) -> &[Value] {
        &self.stack[self.stack.len() - count..]
    }

    /// The topmost `count` operands, as arguments of a branch.
    pub(crate) fn top_args(&mut self, count: usize) -> SmallVec<[BlockArg; 4]> {
        self.carried += count;
        self.top(count)
            .iter()
            .map(|value| BlockArg::Value(*value))
            .collect()
    }

    // Labels.

    /// Enters a structured operator, its parameters on the stack.
    pub(crate) fn push_label(&mut self, kind: LabelKind, sig: BlockSig<'a>) {
        let height = self.stack.len() - sig.params.len();
        self.labels.push(Label {
            kind,
            sig,
            next: None,
            owed: 0,
            height,
            learnt: self.bounds.learnt(),
            branches: 0,
        });
    }

    /// Guards against code whose translation would grow out of proportion.
    pub(crate) fn check_nesting(&mut self, is_loop: bool) -> Result<(), CompileError> {
        self.loops += usize::from(is_loop);
        limits::nesting(self.labels.len(), self.offset)?;
        limits::loops(self.locals, self.loops, self.offset)
    }

    /// As [`Self::check_nesting`], of an `if`.
    pub(crate) fn check_if(&mut self) -> Result<(), CompileError> {
        self.ifs += 1;
        limits::ifs(self.ifs, self.offset)?;
        self.check_nesting(false)
    }

    /// An `if` has ended.
    pub(crate) fn leave_if(&mut self) {
        self.ifs -= 1;
    }

    /// A loop has ended.
    pub(crate) fn leave_loop(&mut self) {
        self.loops -= 1;
        self.known_loops.leave();
    }

    /// A block that takes values of these types.
    pub(crate) fn block_taking(&mut self, types: &[ValType]) -> Block {
        let block = self.b.create_block();
        for ty in types {
            let param = self.b.append_block_param(block, clif_type(*ty));
            self.track(*ty, param);
        }
        block
    }

    /// Says that a value is a reference into the heap, if its type is one: stack maps then name it where it is live
    /// across a call.
    pub(crate) fn track(&mut self, ty: ValType, value: Value) {
        if ty.is_heap_reference() {
            self.b.declare_value_needs_stack_map(value);
            self.has_references = true;
        }
    }

    /// Counts a call, and what it may leave in the frame: operands as if they were references, where there are any.
    pub(crate) fn count_call(&mut self) {
        self.calls += 1;
        if self.has_references {
            self.held += self.reference_locals + self.stack.len();
        }
    }

    /// Goes on in `block`, its parameters on the stack.
    pub(crate) fn continue_in(&mut self, block: Block) {
        self.b.switch_to_block(block);
        self.stack.extend_from_slice(self.b.block_params(block));
    }

    /// The code from here on, up to the next `else` or `end`, is not reached.
    pub(crate) fn stop(&mut self) {
        self.reachable = false;
        self.fuel.set_pending(0);
    }

    // Traps.

    /// Branches to a new cold block if `condition` holds, and goes on in that. Returns the other side, for
    /// the caller to go on in with [`Self::resume`] once the cold block has ended.
    pub(crate) fn branch_cold(&mut self, condition: Value) -> Block {
        let (cold, next) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(cold);
        self.b.ins().brif(condition, cold, &[], next, &[]);
        self.b.seal_block(cold);
        self.b.switch_to_block(cold);
        next
    }

    /// Goes on in a block that nothing more will branch to.
    pub(crate) fn resume(&mut self, next: Block) {
        self.b.seal_block(next);
        self.b.switch_to_block(next);
    }

    /// Traps if `condition` holds.
    pub(crate) fn trap_if(&mut self, condition: Value, trap: TrapCode) {
        let next = self.branch_cold(condition);
        self.trap(trap);
        self.resume(next);
    }

    /// Traps if `condition` holds, in a block that is cold already: what goes on is cold too.
    pub(crate) fn trap_if_in_cold(&mut self, condition: Value, trap: TrapCode) {
        self.trap_if(condition, trap);
        let rest = self.b.current_block().expect("a block is being filled");
        self.b.set_cold_block(rest);
    }

    /// Traps. The stub does not come back: what follows only ends the block.
    pub(crate) fn trap(&mut self, trap: TrapCode) {
        let stub = self.imports.trap_stub(self.b.func, trap);
        self.b.ins().call(stub, &[]);
        self.b.ins().trap(regions::clif_trap(trap));
    }

    // Values.

    /// The zero (or null) of a type.
    pub(crate) fn zero(&mut self, ty: ValType) -> Value {
        match ty {
            ValType::F32 => self.b.ins().f32const(0.0),
            ValType::F64 => self.b.ins().f64const(0.0),
            ValType::V128 => self.vector_of(types::I8X16, [0; 16]),
            _ => self.b.ins().iconst(clif_type(ty), 0),
        }
    }

    /// An i32 as the 64-bit address it stands for; an i64 is one already.
    pub(crate) fn widen(&mut self, index: Value) -> Value {
        match self.b.func.dfg.value_type(index) {
            types::I32 => self.b.ins().uextend(types::I64, index),
            _ => index,
        }
    }

    /// The value of an integer constant, sign extended, if this is one.
    pub(crate) fn constant(&self, value: Value) -> Option<i64> {
        use cranelift_codegen::ir::{InstructionData, Opcode};
        let inst = self.b.func.dfg.value_def(value).inst()?;
        match self.b.func.dfg.insts[inst] {
            InstructionData::UnaryImm {
                opcode: Opcode::Iconst,
                imm,
            } => {
                let unused = 64 - self.b.func.dfg.value_type(value).bits();
                Some(imm.bits() << unused >> unused)
            }
            _ => None,
        }
    }
}
