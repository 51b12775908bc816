//! The ways into and out of compiled code.
//!
//! ```text
//!   entry    fn(code, context, args), System V          import   (context, parameters..), tail
//!            parameters from the slots of `args`                 parameters into slots on its own stack
//!            fuel: r15 = [[context + 0] + 0]                     [context + 8](context, slots), System V
//!            code(context, parameters..), tail                   results from the slots
//!            fuel: [[context + 0] + 0] = r15
//!            results into the slots of `args`
//! ```
//!
//! A slot has 16 bytes, the value in its low ones: 4 bytes of an i32, f32 or externref, 8 of the others. The
//! `host_call` of an import does not come back if the host function fails; it stores and reloads the fuel.

use cranelift_codegen::ir::{Block, InstBuilder, StackSlotData, StackSlotKind, Value, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::FunctionBuilder;

use crate::abi::{POINTER, clif_type, entry_signature, host_call_signature, wasm_signature};
use crate::error::Origin;
use crate::function::{Compiled, Worker};
use crate::layout::{ARG_SLOT_BYTES, CONTEXT_STORE, HOST_RECORD_CALL, STORE_FUEL};
use crate::regions::Region;
use crate::{CompileError, FuncType, ValType};

/// Namespaces of the trampolines' names, for listings.
const NAMESPACE_ENTRY: u32 = 8;
const NAMESPACE_IMPORT: u32 = 9;

/// Compiles the entry trampoline of a signature. `index` names it in errors.
pub(crate) fn entry(
    worker: &mut Worker,
    ty: &FuncType,
    index: u32,
    fuel: bool,
    isa: &dyn TargetIsa,
) -> Result<Compiled, CompileError> {
    worker.start(NAMESPACE_ENTRY, index, entry_signature());
    let mut b = FunctionBuilder::new(&mut worker.context.func, &mut worker.builder);
    let params = entry_block(&mut b);
    let (code, context, args) = (params[0], params[1], params[2]);
    let mut call_args = vec![context];
    call_args.extend(load_slots(&mut b, args, ty.params()));
    if fuel {
        load_fuel(&mut b, context);
    }
    let sig = b.import_signature(wasm_signature(ty));
    let call = b.ins().call_indirect(sig, code, &call_args);
    if fuel {
        store_fuel(&mut b, context);
    }
    let results = b.inst_results(call).to_vec();
    store_slots(&mut b, args, &results);
    b.ins().return_(&[]);
    b.finalize(isa.frontend_config());
    worker.compile_plain(Origin::Trampoline { ty: index }, isa)
}

/// Compiles the import trampoline of a signature. `index` names it in errors.
pub(crate) fn import(
    worker: &mut Worker,
    ty: &FuncType,
    index: u32,
    isa: &dyn TargetIsa,
) -> Result<Compiled, CompileError> {
    worker.start(NAMESPACE_IMPORT, index, wasm_signature(ty));
    let mut b = FunctionBuilder::new(&mut worker.context.func, &mut worker.builder);
    let params = entry_block(&mut b);
    let context = params[0];
    let slots = ty.params().len().max(ty.results().len()).max(1) as u32;
    let slots = StackSlotData::new(StackSlotKind::ExplicitSlot, slots * ARG_SLOT_BYTES, 4);
    let slots = b.create_sized_stack_slot(slots);
    let args = b.ins().stack_addr(POINTER, slots, 0);
    store_slots(&mut b, args, &params[1..]);
    let flags = Region::Vmctx.anywhere(b.func);
    let host_call = b.ins().load(POINTER, flags, context, HOST_RECORD_CALL);
    let sig = b.import_signature(host_call_signature());
    b.ins().call_indirect(sig, host_call, &[context, args]);
    let results = load_slots(&mut b, args, ty.results());
    b.ins().return_(&results);
    b.finalize(isa.frontend_config());
    worker.compile_plain(Origin::Trampoline { ty: index }, isa)
}

fn entry_block(b: &mut FunctionBuilder<'_>) -> Vec<Value> {
    let block: Block = b.create_block();
    b.append_block_params_for_function_params(block);
    b.switch_to_block(block);
    b.seal_block(block);
    b.block_params(block).to_vec()
}

fn load_slots(b: &mut FunctionBuilder<'_>, args: Value, types: &[ValType]) -> Vec<Value> {
    let flags = Region::Args.mutable(b.func);
    let load = |(i, ty): (usize, &ValType)| b.ins().load(clif_type(*ty), flags, args, slot(i));
    types.iter().enumerate().map(load).collect()
}

fn store_slots(b: &mut FunctionBuilder<'_>, args: Value, values: &[Value]) {
    let flags = Region::Args.mutable(b.func);
    for (i, value) in values.iter().enumerate() {
        b.ins().store(flags, *value, args, slot(i));
    }
}

fn slot(index: usize) -> i32 {
    (index as u32 * ARG_SLOT_BYTES) as i32
}

fn load_fuel(b: &mut FunctionBuilder<'_>, context: Value) {
    let store = store_of(b, context);
    let flags = Region::Store.mutable(b.func);
    let fuel = b.ins().load(types::I64, flags, store, STORE_FUEL);
    b.ins().set_pinned_reg(fuel);
}

fn store_fuel(b: &mut FunctionBuilder<'_>, context: Value) {
    let store = store_of(b, context);
    let flags = Region::Store.mutable(b.func);
    let fuel = b.ins().get_pinned_reg(types::I64);
    b.ins().store(flags, fuel, store, STORE_FUEL);
}

/// The store context of a context; for host records too it is at this place.
fn store_of(b: &mut FunctionBuilder<'_>, context: Value) -> Value {
    let flags = Region::Vmctx.anywhere(b.func);
    b.ins().load(POINTER, flags, context, CONTEXT_STORE)
}
