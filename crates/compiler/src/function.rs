//! One function from CLIF to machine code, with the tables that go with it.

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{
    ExternalName, Function, Signature, SourceLoc, UserExternalName, UserFuncName, UserStackMap,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::isa::unwind::UnwindInfo;
use cranelift_codegen::{
    CompiledCode, Context, ExceptionContextLoc, FinalizedMachExceptionHandler as Handler,
    FinalizedRelocTarget, MachSrcLoc, MachTrap,
};
use cranelift_frontend::FunctionBuilderContext;
use wasmparser::FuncValidatorAllocations;

use crate::cold::{Checks, ColdCalls};
use crate::error::Origin;
use crate::fuel::Payments;
use crate::limits::Budget;
use crate::link::{CALLS, LOOP_ALIGNMENT};
use crate::parse::Body;
use crate::sites::{Metering, Site, Sites};
use crate::tight::Lie;
use crate::translate::{Env, translate};
use crate::{CallSite, CatchClause, CompileError, FaultSite, TrapCode, abi, in_place, regions};

/// A function's machine code. Offsets are from its start.
pub(crate) struct Compiled {
    pub(crate) code: Vec<u8>,
    /// How much of it `unwind` describes: the rest are cold calls (`crates/compiler/src/cold.rs`).
    pub(crate) cold: u32,
    pub(crate) alignment: u32,
    /// By how much it starts behind a multiple of that.
    pub(crate) shift: u32,
    pub(crate) relocations: Vec<Relocation>,
    pub(crate) fault_sites: Vec<FaultSite>,
    pub(crate) call_sites: Vec<CallSite>,
    pub(crate) stack_maps: Vec<(u32, Vec<u32>)>,
    pub(crate) try_calls: Vec<TrySite>,
    pub(crate) unwind: Option<UnwindInfo>,
}

/// A place in the code that depends on where something else lies: `target + addend - place`, one of [`CALLS`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relocation {
    pub(crate) offset: u32,
    pub(crate) target: Target,
    pub(crate) addend: i64,
}

/// What code can refer to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// A function, by its index (imports first).
    Function(u32),
    /// The stub of a trap.
    TrapStub(TrapCode),
    /// The fuel stub of functions that keep values in vector registers, or of those that do not.
    FuelStub { has_vectors: bool },
}

/// What is worth keeping from one function to the next.
pub(crate) struct Worker {
    pub(crate) context: Context,
    pub(crate) builder: FunctionBuilderContext,
    allocations: FuncValidatorAllocations,
    sites: Sites,
}

impl Worker {
    pub(crate) fn new() -> Worker {
        Worker {
            context: Context::new(),
            builder: FunctionBuilderContext::new(),
            allocations: FuncValidatorAllocations::default(),
            sites: Sites::default(),
        }
    }

    /// Validates and translates a function; the CLIF is left in the context.
    pub(crate) fn translate(
        &mut self,
        env: Env<'_>,
        body: &Body<'_>,
        payments: Payments<'_>,
    ) -> Result<(), CompileError> {
        env.budget.check()?;
        let index = body.validate.index;
        let ty = env.info.function_type(index);
        self.start(abi::NAMESPACE_FUNCTION, index, abi::wasm_signature(ty));
        let mut validator = body.validator(std::mem::take(&mut self.allocations));
        let func = &mut self.context.func;
        let result = translate(
            env,
            &mut validator,
            &body.body,
            func,
            &mut self.builder,
            &mut self.sites,
            payments,
        );
        if result.is_err() {
            // The builder was left in the middle.
            self.builder = FunctionBuilderContext::new();
        }
        self.allocations = validator.into_allocations();
        result
    }

    /// Compiles a function of the module.
    pub(crate) fn function(&mut self, env: Env<'_>, body: Body<'_>) -> Result<Compiled, CompileError> {
        self.translate(env, &body, Payments::FIRST)?;
        let budget = &Budget::taken_before();
        let again = Env { budget, ..env };
        let Some(compiled) = self.compile(body.origin(), env.isa)? else {
            return self.function_computing_payments(again, &body);
        };
        let lie = self.lie(&compiled);
        let compiled = Compiled {
            shift: lie.shift,
            ..compiled
        };
        if lie.padding.is_empty() {
            return Ok(compiled);
        }
        let padding = &lie.padding;
        self.translate(again, &body, Payments::InPlaces { padding })?;
        let Some(moved) = self.compile(body.origin(), env.isa)? else {
            return Ok(compiled);
        };
        let after = self.lie(&moved);
        Ok(match after.cost < lie.cost {
            true => Compiled {
                shift: after.shift,
                ..moved
            },
            false => compiled,
        })
    }

    /// How the function just compiled lies best.
    fn lie(&self, function: &Compiled) -> Lie {
        if Payments::FIRST == Payments::Computed {
            return Lie::default();
        }
        let compiled = self.context.compiled_code().expect("just compiled");
        let ranges = compiled.buffer.get_srclocs_sorted().iter();
        let branches = ranges.filter_map(|range| match self.sites.metering(range.loc) {
            Some(Metering::Branch(number)) => Some((number, range.start)),
            _ => None,
        });
        Lie::of(
            &function.code,
            &branches.collect::<Vec<_>>(),
            compiled.buffer.alignment,
        )
    }

    /// As [`Self::function`], of one whose places for payments do not take them.
    fn function_computing_payments(
        &mut self,
        env: Env<'_>,
        body: &Body<'_>,
    ) -> Result<Compiled, CompileError> {
        self.translate(env, body, Payments::Computed)?;
        self.compile_plain(body.origin(), env.isa)
    }

    /// A fresh function in the context.
    pub(crate) fn start(&mut self, namespace: u32, index: u32, signature: Signature) {
        self.context.clear();
        self.sites.clear();
        // The cleared function keeps its allocations.
        self.context.func.name = UserFuncName::user(namespace, index);
        self.context.func.signature = signature;
    }

    /// As [`Self::compile`], of CLIF that keeps no places.
    pub(crate) fn compile_plain(
        &mut self,
        origin: Origin,
        isa: &dyn TargetIsa,
    ) -> Result<Compiled, CompileError> {
        let compiled = self.compile(origin, isa)?;
        Ok(compiled.expect("no place is kept, so none is torn"))
    }

    /// Compiles the CLIF in the context. `origin` is for the error. None if a place for a payment was torn apart.
    pub(crate) fn compile(
        &mut self,
        origin: Origin,
        isa: &dyn TargetIsa,
    ) -> Result<Option<Compiled>, CompileError> {
        self.context
            .compile(isa, &mut ControlPlane::default())
            .map_err(|error| CompileError::codegen(origin, format!("{:?}", error.inner)))?;
        let compiled = self.context.compiled_code().expect("just compiled");
        let unwind = compiled
            .create_unwind_info(isa)
            .map_err(|error| CompileError::codegen(origin, error))?;
        let sites = SiteLookup {
            sites: &self.sites,
            ranges: compiled.buffer.get_srclocs_sorted(),
        };
        let mut code = compiled.code_buffer().to_vec();
        let Some(cold) = self.meter(&mut code, &sites, compiled.buffer.traps(), isa) else {
            return Ok(None);
        };
        let mut relocations =
            relocations(&self.context.func, compiled).map_err(|what| CompileError::codegen(origin, what))?;
        relocations.extend(cold.relocations(self.sites.has_vectors()));
        let call_sites = compiled.buffer.call_sites().map(|call| sites.call(call.ret_addr));
        let cold_sites = cold
            .returns
            .iter()
            .map(|(code, site)| sites.call_at(*code, *site));
        Ok(Some(Compiled {
            code,
            cold: compiled.code_buffer().len() as u32,
            alignment: match self.context.loop_analysis.loops().next() {
                Some(_) => compiled.buffer.alignment.max(LOOP_ALIGNMENT),
                None => compiled.buffer.alignment,
            },
            shift: 0,
            relocations,
            fault_sites: sites.faults(compiled.buffer.traps()),
            call_sites: call_sites.chain(cold_sites).collect(),
            stack_maps: stack_maps(compiled),
            try_calls: try_calls(compiled).map_err(|what| CompileError::codegen(origin, what))?,
            unwind,
        }))
    }
}

impl Worker {
    /// Makes payments and checks what they are. None if one of them was torn apart.
    fn meter(
        &self,
        code: &mut Vec<u8>,
        sites: &SiteLookup<'_>,
        traps: &[MachTrap],
        isa: &dyn TargetIsa,
    ) -> Option<ColdCalls> {
        let mut checks = Checks::of(traps);
        let mut listed = Vec::with_capacity(self.sites.kept().len());
        for (start, location, metering) in sites.metering() {
            let code = &mut code[start as usize..];
            let is_as_expected = match metering {
                Metering::Place(amount) => in_place::fill(code, amount),
                Metering::Space(fences) => in_place::clear(code, fences),
                Metering::Check(_) if checks.is_known(start, location) => continue,
                Metering::Check(amount) => {
                    let branch = in_place::pay_in_check(code, amount)?;
                    checks.found(start + branch as u32, location);
                    true
                }
                Metering::Computed => {
                    in_place::rewrite(code, isa.name());
                    continue;
                }
                Metering::Branch(_) => continue,
            };
            if !is_as_expected {
                return None;
            }
            listed.push(location.bits());
        }
        match self.all_are_listed(listed) {
            true => checks.go_to_calls(code),
            false => None,
        }
    }

    /// Whether all places that were kept are at these locations, but for those in code that Cranelift found to be never reached. One that is not is
    /// a payment that nobody would miss: fences, where there should be a subtraction.
    fn all_are_listed(&self, mut listed: Vec<u32>) -> bool {
        let kept = self.sites.kept();
        listed.sort_unstable();
        listed.dedup();
        if listed.len() == kept.len() {
            return true; // they are locations of places that were kept, each once
        }
        let layout = &self.context.func.layout;
        kept.iter().all(|(location, fence)| {
            listed.binary_search(location).is_ok() || layout.inst_block(*fence).is_none()
        })
    }

    /// The instructions of the CLIF in the context, as Cranelift prints them.
    pub(crate) fn disassemble(
        &mut self,
        origin: Origin,
        isa: &dyn TargetIsa,
    ) -> Result<String, CompileError> {
        self.context.set_disasm(true);
        self.compile(origin, isa)?;
        Ok(self
            .context
            .compiled_code()
            .and_then(|code| code.vcode.clone())
            .unwrap_or_default())
    }
}

/// From code offsets to sites.
struct SiteLookup<'a> {
    sites: &'a Sites,
    ranges: &'a [MachSrcLoc<cranelift_codegen::Final>],
}

impl SiteLookup<'_> {
    /// What can fault.
    fn faults(&self, traps: &[MachTrap]) -> Vec<FaultSite> {
        let mut faults = Vec::with_capacity(traps.len());
        let mut last_access = None;
        for trap in traps {
            let Some(code) = regions::trap_of(trap.code) else {
                continue;
            };
            let mut loc = self.location(trap.offset);
            if code == TrapCode::MemoryOutOfBounds {
                loc = self.access(trap, loc, last_access);
                last_access = Some(loc);
            }
            let Site { wasm, fuel, .. } = self.sites.get(loc);
            faults.push(FaultSite {
                code: trap.offset,
                trap: code,
                wasm,
                fuel,
            });
        }
        faults
    }

    /// The access that an instruction makes. `last` is the one before it in the code.
    fn access(&self, trap: &MachTrap, loc: SourceLoc, last: Option<SourceLoc>) -> SourceLoc {
        let seeming = self.sites.access(loc);
        let Some(numbers) = regions::accesses_of(trap.code) else {
            return seeming;
        };
        let near = match self.is_located(trap.offset) {
            true => seeming,
            false => last.unwrap_or(seeming),
        };
        self.sites.nearest(numbers, near).unwrap_or(seeming)
    }

    /// Where payments and checks of fuel may begin.
    fn metering(&self) -> impl Iterator<Item = (u32, SourceLoc, Metering)> {
        let ranges = self.ranges.iter();
        ranges.filter_map(|range| Some((range.start, range.loc, self.sites.metering(range.loc)?)))
    }

    fn call(&self, return_address: u32) -> CallSite {
        self.call_at(return_address, self.location(return_address - 1))
    }

    fn call_at(&self, return_address: u32, location: SourceLoc) -> CallSite {
        let Site { wasm, fuel, .. } = self.sites.get(location);
        CallSite {
            code: return_address,
            wasm,
            fuel,
        }
    }

    /// The location of the instruction at an offset. One that the optimiser rewrote may have none: it has that of the next
    /// one that has.
    fn location(&self, code: u32) -> SourceLoc {
        let locations = self.ranges_from(code).iter().map(|range| range.loc);
        let mut known = locations.filter(|location| !location.is_default());
        known.next().unwrap_or_default()
    }

    /// Whether the instruction at an offset has a location of its own.
    fn is_located(&self, code: u32) -> bool {
        let range = self.ranges_from(code).first();
        range.is_some_and(|range| range.start <= code && !range.loc.is_default())
    }

    /// The ranges of locations that end behind an offset.
    fn ranges_from(&self, code: u32) -> &[MachSrcLoc<cranelift_codegen::Final>] {
        &self.ranges[self.ranges.partition_point(|range| range.end <= code)..]
    }
}

/// The return addresses of calls across which references live, and how far below the frame record each of them lies.
fn stack_maps(compiled: &CompiledCode) -> Vec<(u32, Vec<u32>)> {
    let maps = compiled.buffer.user_stack_maps().iter();
    let below = |frame: u32, map: &UserStackMap| map.entries().map(|(_, above)| frame - above).collect();
    maps.map(|(code, frame, map)| (*code, below(*frame, map)))
        .collect()
}

/// A call within a `try_table`: [`crate::TryCall`] with its return address.
pub(crate) struct TrySite {
    pub(crate) code: u32,
    pub(crate) frame_bytes: u32,
    pub(crate) vmctx_below: Option<u32>,
    pub(crate) clauses: Vec<CatchClause>,
}

/// The calls within `try_table`s. Each has the vmctx as its only context: on the stack, since a call of a guest function that ends
/// with an exception keeps no register, or in a register that a call of the runtime keeps.
fn try_calls(compiled: &CompiledCode) -> Result<Vec<TrySite>, String> {
    let mut sites = Vec::new();
    for call in compiled.buffer.call_sites() {
        if call.exception_handlers.is_empty() {
            continue;
        }
        let frame_bytes = call.frame_offset.ok_or("a try_call without a frame size")?;
        let (mut vmctx, mut clauses) = (None, Vec::new());
        for handler in call.exception_handlers {
            match handler {
                Handler::Context(ExceptionContextLoc::SPOffset(above)) => vmctx = Some(frame_bytes - above),
                Handler::Context(ExceptionContextLoc::GPR(_)) => {}
                Handler::Tag(tag, code) => clauses.push(CatchClause {
                    tag: Some(tag.as_u32()),
                    code: *code,
                }),
                Handler::Default(code) => clauses.push(CatchClause {
                    tag: None,
                    code: *code,
                }),
            }
        }
        sites.push(TrySite {
            code: call.ret_addr,
            frame_bytes,
            vmctx_below: vmctx,
            clauses,
        });
    }
    Ok(sites)
}

/// The relocations of a function, or the name of one that a position-independent image cannot have.
fn relocations(func: &Function, compiled: &CompiledCode) -> Result<Vec<Relocation>, String> {
    let convert = |reloc: &cranelift_codegen::FinalizedMachReloc| {
        let FinalizedRelocTarget::ExternalName(name) = &reloc.target else {
            return Err(format!("relocation within the function: {}", reloc.kind));
        };
        let target = match name {
            ExternalName::User(name) => target(&func.params.user_named_funcs()[*name]),
            _ => None,
        };
        match (reloc.kind, target) {
            (kind, Some(target)) if CALLS.contains(&kind) => Ok(Relocation {
                offset: reloc.offset,
                target,
                addend: reloc.addend,
            }),
            (kind, _) => Err(format!("relocation {kind:?} of {name:?}")),
        }
    };
    compiled.buffer.relocs().iter().map(convert).collect()
}

fn target(name: &UserExternalName) -> Option<Target> {
    match name.namespace {
        abi::NAMESPACE_FUNCTION => Some(Target::Function(name.index)),
        abi::NAMESPACE_TRAP_STUB => TrapCode::from_u8(name.index as u8).map(Target::TrapStub),
        abi::NAMESPACE_FUEL_STUB => Some(Target::FuelStub {
            has_vectors: name.index != 0,
        }),
        _ => None,
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::Settings;
    use crate::parse::{Parsed, parse};

    /// What `compile` makes of a module's first function, with fuel.
    fn compiled<T>(wat: &str, compile: impl FnOnce(&mut Worker, Env<'_>, Body<'_>) -> T) -> T {
        compiled_with(wat, true, compile)
    }

    fn compiled_with<T>(
        wat: &str,
        fuel: bool,
        compile: impl FnOnce(&mut Worker, Env<'_>, Body<'_>) -> T,
    ) -> T {
        let wasm = wat::parse_str(wat).expect("the text is valid");
        let settings = Settings::host()
            .expect("a processor that is supported")
            .fuel(fuel);
        let isa = settings.isa().expect("as above");
        let Parsed { info, mut bodies } = parse(&wasm, &settings).expect("the module is valid");
        let env = Env {
            info: &info,
            settings: &settings,
            isa: &*isa,
            budget: &Budget::of(wasm.len()),
        };
        compile(&mut Worker::new(), env, bodies.swap_remove(0))
    }

    /// The amounts of the instructions `sub r15, amount`, in order.
    fn payments(code: &[u8]) -> Vec<i32> {
        let at = |window: &[u8]| match *window {
            [0x49, 0x83, 0xef, amount, ..] => Some(i32::from(amount as i8)),
            [0x49, 0x81, 0xef, a, b, c, d] => Some(i32::from_le_bytes([a, b, c, d])),
            _ => None,
        };
        code.windows(7).filter_map(at).collect()
    }

    #[test]
    fn payments_that_are_computed_are_the_same() {
        let some = "(drop (i32.const 1)) ".repeat(100);
        let wat = format!(
            "(module (func $f (param i32)
                (if (local.get 0) (then {some}))
                (loop (call $f (i32.const 0)) (br_if 0 (local.get 0)))))"
        );
        compiled(&wat, |worker, env, body| {
            let computed = worker.function_computing_payments(env, &body);
            let computed = payments(&computed.expect("the function is valid").code);
            let places = worker.function(env, body).expect("as above");
            assert_eq!(payments(&places.code), computed);
            assert!(computed.contains(&100), "{computed:?}");
        });
    }

    /// The locations of the places that were kept, and the fences of the CLIF that have one of them.
    fn fences_of_places(worker: &Worker) -> Vec<(u32, Vec<cranelift_codegen::ir::Inst>)> {
        let func = &worker.context.func;
        let all = func
            .layout
            .blocks()
            .flat_map(|block| func.layout.block_insts(block));
        let all = all.collect::<Vec<_>>();
        let kept = worker.sites.kept().iter().map(|(location, _)| {
            let has = |inst: &cranelift_codegen::ir::Inst| func.srcloc(*inst).bits() == *location;
            (*location, all.iter().copied().filter(has).collect())
        });
        kept.collect()
    }

    const SOME_PAYMENTS: &str = "(module (func $f (param i32)
        (if (local.get 0) (then (call $f (i32.const 2))) (else (call $f (i32.const 1)) (call $f (i32.const 3))))
        (loop (call $f (i32.const 0)) (br_if 0 (local.get 0)))))";

    #[test]
    fn a_place_that_is_not_listed_is_no_code_of_a_function() {
        let places = compiled(SOME_PAYMENTS, |worker, env, body| {
            worker
                .translate(env, &body, Payments::FIRST)
                .expect("the function is valid");
            worker.sites.kept().len()
        });
        assert!(places > 3, "{places} places");
        for lost in 0..places {
            compiled(SOME_PAYMENTS, |worker, env, body| {
                worker.translate(env, &body, Payments::FIRST).expect("as above");
                for fence in fences_of_places(worker)[lost].1.clone() {
                    worker.context.func.set_srcloc(fence, SourceLoc::default());
                }
                let compiled = worker.compile(body.origin(), env.isa);
                assert!(
                    compiled.expect("it compiles").is_none(),
                    "place {lost} of {places}"
                );
            });
        }
    }

    #[test]
    fn a_check_that_is_torn_apart_does_not_pay() {
        use cranelift_codegen::cursor::{Cursor, FuncCursor};
        use cranelift_codegen::ir::{InstBuilder, Opcode};
        compiled(SOME_PAYMENTS, |worker, env, body| {
            worker
                .translate(env, &body, Payments::FIRST)
                .expect("the function is valid");
            let func = &mut worker.context.func;
            let mut kept = worker.sites.kept().iter().map(|(_, inst)| *inst);
            let check = kept.find(|inst| func.dfg.insts[*inst].opcode() == Opcode::GetPinnedReg);
            let check = check.expect("the loop has a check that pays");
            let site = func.srcloc(check);
            let mut between = FuncCursor::new(func).after_inst(check).with_srcloc(site);
            between.ins().fence();
            let compiled = worker.compile(body.origin(), env.isa);
            assert!(compiled.expect("it compiles").is_none());
        });
    }

    #[test]
    fn a_place_that_cranelift_finds_to_be_never_reached_is_not_missed() {
        // The first block ends with a jump over the rest, which keeps its places.
        compiled(SOME_PAYMENTS, |worker, env, body| {
            worker
                .translate(env, &body, Payments::FIRST)
                .expect("the function is valid");
            use cranelift_codegen::ir::InstBuilder;
            let func = &mut worker.context.func;
            let entry = func.layout.entry_block().expect("it has blocks");
            let last = func.layout.last_inst(entry).expect("a block has a branch");
            func.replace(last)
                .trap(cranelift_codegen::ir::TrapCode::unwrap_user(1));
            let compiled = worker.compile(body.origin(), env.isa).expect("it compiles");
            assert!(compiled.is_some(), "places in dead code are missed");
        });
    }

    /// From the header to the end of the last loop whose branch back is near, in a function that starts so far behind a line.
    fn turn(code: &[u8], shift: usize) -> (usize, usize) {
        let back = |at: usize| {
            let (head, distance) = (&code[at..at + 2], &code[at + 2..at + 6]);
            let distance = i32::from_le_bytes(distance.try_into().expect("four bytes"));
            (head == [0x0f, 0x85] && (-64..0).contains(&distance)).then_some((at + 6, distance))
        };
        let (end, distance) = (0..code.len() - 6)
            .rev()
            .find_map(back)
            .expect("a loop has a branch back");
        let start = end
            .checked_add_signed(distance as isize)
            .expect("within the code");
        (shift + start, shift + end)
    }

    #[test]
    fn a_tight_loop_lies_in_one_line_wherever_it_would() {
        let turn_of =
            |local: u32| format!("(br_if 0 (local.tee {local} (i32.sub (local.get {local}) (i32.const 1))))");
        for fuel in [true, false] {
            let (mut shifted, mut moved) = (0, 0);
            for before in 0..16 {
                // The first loop fills a line by itself, so that the function's start is not for the second to choose.
                let long = "(global.set 0 (i32.add (global.get 0) (i32.const 9)))".repeat(4);
                let before = "(global.set 0 (i32.add (global.get 0) (i32.const 9)))".repeat(before);
                let wat = format!(
                    "(module (global (mut i32) (i32.const 0)) (func (param i32 i32)
                        (loop {long} {}) {before} (loop {})))",
                    turn_of(0),
                    turn_of(1),
                );
                compiled_with(&wat, fuel, |worker, env, body| {
                    let function = worker.function(env, body).expect("the function is valid");
                    let (start, end) = turn(&function.code, function.shift as usize);
                    assert!(end - start <= 64, "a tight loop");
                    assert_eq!(start / 64, (end - 1) / 64, "fuel {fuel}: from {start} to {end}");
                    shifted += usize::from(function.shift > 0);
                    let nop = [0x0f, 0x1f, 0x00];
                    moved += usize::from(function.code.windows(3).any(|code| code == nop));
                });
            }
            assert!(shifted + moved > 0, "fuel {fuel}: none had to be moved");
        }
    }

    #[test]
    fn a_function_that_is_compiled_again_takes_from_the_budget_once() {
        let locals = "i32 ".repeat(49_000);
        let turn = "(br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))";
        for before in 0..16 {
            let before = "(global.set 0 (i32.add (global.get 0) (i32.const 9)))".repeat(before);
            let one = format!("(func (param i32) (local {locals}) {before} (loop {turn}))");
            let wasm = wat::parse_str(format!("(module (global (mut i32) (i32.const 0)) {one} {one})"));
            let settings = Settings::host().expect("a processor that is supported");
            let compiled = crate::compile(&wasm.expect("the text is valid"), &settings.fuel(true));
            assert!(compiled.is_ok(), "{:?}", compiled.err());
        }
    }
}
