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

use crate::link::{CALLS, LOOP_ALIGNMENT};
use crate::parse::Body;
use crate::sites::{Site, Sites};
use crate::translate::{Env, translate};
use crate::{CallSite, CatchClause, CompileError, FaultSite, TrapCode, abi, in_place, regions};

/// A function's machine code. Offsets are from its start.
pub(crate) struct Compiled {
    pub(crate) code: Vec<u8>,
    pub(crate) alignment: u32,
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
    /// The fuel stub.
    FuelStub,
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
    pub(crate) fn translate(&mut self, env: Env<'_>, body: Body<'_>) -> Result<(), CompileError> {
        env.budget.check()?;
        let index = body.validate.index;
        let ty = env.info.function_type(index);
        self.start(abi::NAMESPACE_FUNCTION, index, abi::wasm_signature(ty));
        let mut validator = body
            .validate
            .into_validator(std::mem::take(&mut self.allocations));
        let func = &mut self.context.func;
        let result = translate(
            env,
            ty,
            &mut validator,
            &body.body,
            func,
            &mut self.builder,
            &mut self.sites,
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
        let index = body.validate.index;
        self.translate(env, body)?;
        self.compile(index, env.isa)
    }

    /// A fresh function in the context.
    pub(crate) fn start(&mut self, namespace: u32, index: u32, signature: Signature) {
        self.context.clear();
        self.sites.clear();
        // The cleared function keeps its allocations.
        self.context.func.name = UserFuncName::user(namespace, index);
        self.context.func.signature = signature;
    }

    /// Compiles the CLIF in the context. `index` is for the error.
    pub(crate) fn compile(&mut self, index: u32, isa: &dyn TargetIsa) -> Result<Compiled, CompileError> {
        self.context
            .compile(isa, &mut ControlPlane::default())
            .map_err(|error| CompileError::codegen(index, format!("{:?}", error.inner)))?;
        let compiled = self.context.compiled_code().expect("just compiled");
        let unwind = compiled
            .create_unwind_info(isa)
            .map_err(|error| CompileError::codegen(index, error))?;
        let sites = SiteLookup {
            sites: &self.sites,
            ranges: compiled.buffer.get_srclocs_sorted(),
        };
        let mut code = compiled.code_buffer().to_vec();
        if isa.name() == "x64" {
            for start in sites.metering() {
                in_place::rewrite(&mut code[start as usize..]);
            }
        }
        Ok(Compiled {
            code,
            alignment: match self.context.loop_analysis.loops().next() {
                Some(_) => compiled.buffer.alignment.max(LOOP_ALIGNMENT),
                None => compiled.buffer.alignment,
            },
            relocations: relocations(&self.context.func, compiled)
                .map_err(|what| CompileError::codegen(index, what))?,
            fault_sites: sites.faults(compiled.buffer.traps()),
            call_sites: compiled
                .buffer
                .call_sites()
                .map(|call| sites.call(call.ret_addr))
                .collect(),
            stack_maps: stack_maps(compiled),
            try_calls: try_calls(compiled).map_err(|what| CompileError::codegen(index, what))?,
            unwind,
        })
    }
}

impl Worker {
    /// The instructions of the CLIF in the context, as Cranelift prints them.
    pub(crate) fn disassemble(&mut self, index: u32, isa: &dyn TargetIsa) -> Result<String, CompileError> {
        self.context.set_disasm(true);
        self.compile(index, isa)?;
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
    fn metering(&self) -> impl Iterator<Item = u32> {
        let ranges = self.ranges.iter();
        let metering = ranges.filter(|range| self.sites.is_metering(range.loc));
        metering.map(|range| range.start)
    }

    fn call(&self, return_address: u32) -> CallSite {
        let Site { wasm, fuel, .. } = self.sites.get(self.location(return_address - 1));
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
        abi::NAMESPACE_FUEL_STUB => Some(Target::FuelStub),
        _ => None,
    }
}
