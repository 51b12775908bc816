//! Signatures: of Wasm functions, of trampolines, of stubs, of the runtime's entry points.

use cranelift_codegen::ir::{
    AbiParam, ArgumentExtension, ExtFuncData, ExternalName, FuncRef, Function, SigRef, Signature, Type,
    UserExternalName, types,
};
use cranelift_codegen::isa::CallConv;

use crate::{FuncType, HeapType, TrapCode, ValType};

/// The type of addresses.
pub(crate) const POINTER: Type = types::I64;

/// Namespaces of the names that relocations refer to.
pub(crate) const NAMESPACE_FUNCTION: u32 = 0;
/// The stub of the trap whose number is the index.
pub(crate) const NAMESPACE_TRAP_STUB: u32 = 1;
/// The fuel stub: 0 for functions without a value in a vector register, 1 for the others.
pub(crate) const NAMESPACE_FUEL_STUB: u32 = 2;

/// The CLIF type of a Wasm type: a funcref is the address of its record, an externref 32 bits.
pub(crate) fn clif_type(ty: ValType) -> Type {
    match ty {
        ValType::I32 => types::I32,
        ValType::I64 => types::I64,
        ValType::F32 => types::F32,
        ValType::F64 => types::F64,
        ValType::V128 => types::I8X16,
        ValType::Ref(ty) => clif_ref_type(ty.heap_type()),
    }
}

/// The CLIF type of references to something.
pub(crate) fn clif_ref_type(heap: HeapType) -> Type {
    match heap.top() {
        HeapType::Func => POINTER,
        _ => types::I32,
    }
}

/// The CLIF type of addresses of a memory and indices into a table.
pub(crate) fn address_type(is_64: bool) -> Type {
    match is_64 {
        true => types::I64,
        false => types::I32,
    }
}

/// A Wasm function: `(context, parameters..) -> results`.
pub(crate) fn wasm_signature(ty: &FuncType) -> Signature {
    let mut sig = Signature::new(CallConv::Tail);
    sig.params.push(AbiParam::new(POINTER));
    sig.params
        .extend(ty.params().iter().map(|ty| AbiParam::new(clif_type(*ty))));
    sig.returns
        .extend(ty.results().iter().map(|ty| AbiParam::new(clif_type(*ty))));
    sig
}

/// An entry trampoline: `fn(code, context, args)`.
pub(crate) fn entry_signature() -> Signature {
    pointers(3)
}

/// The host side of an import: `host_call(context, args)`.
pub(crate) fn host_call_signature() -> Signature {
    pointers(2)
}

/// The runtime's side of a builtin: `builtin_call(vmctx, args, id)`.
pub(crate) fn builtin_signature() -> Signature {
    let mut sig = pointers(2);
    let id = AbiParam {
        extension: ArgumentExtension::Uext,
        ..AbiParam::new(types::I32)
    };
    sig.params.push(id);
    sig
}

fn pointers(count: usize) -> Signature {
    let mut sig = Signature::new(CallConv::SystemV);
    sig.params = vec![AbiParam::new(POINTER); count];
    sig
}

/// What a function refers to, declared in it once.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    functions: std::collections::HashMap<u32, FuncRef>,
    signatures: std::collections::HashMap<u32, SigRef>,
    builtin: Option<SigRef>,
    stub_signature: Option<SigRef>,
    trap_stubs: [Option<FuncRef>; TrapCode::ALL.len() + 1],
}

impl Imports {
    /// The signature of a type.
    pub(crate) fn signature(&mut self, func: &mut Function, index: u32, ty: &FuncType) -> SigRef {
        *self
            .signatures
            .entry(index)
            .or_insert_with(|| func.import_signature(wasm_signature(ty)))
    }

    /// A function of the same image.
    pub(crate) fn function(&mut self, func: &mut Function, index: u32, sig: SigRef) -> FuncRef {
        *self
            .functions
            .entry(index)
            .or_insert_with(|| declare(func, NAMESPACE_FUNCTION, index, sig))
    }

    /// The signature of `builtin_call`.
    pub(crate) fn builtin(&mut self, func: &mut Function) -> SigRef {
        *self
            .builtin
            .get_or_insert_with(|| func.import_signature(builtin_signature()))
    }

    /// The stub of a trap.
    pub(crate) fn trap_stub(&mut self, func: &mut Function, trap: TrapCode) -> FuncRef {
        let sig = self.stub_signature(func);
        let stub = &mut self.trap_stubs[trap as usize];
        *stub.get_or_insert_with(|| declare(func, NAMESPACE_TRAP_STUB, trap as u32, sig))
    }

    /// The stub of the fuel check, for a function that is complete.
    pub(crate) fn fuel_stub(&mut self, func: &mut Function) -> FuncRef {
        let sig = self.stub_signature(func);
        let has_vectors = has_vectors(func);
        declare(func, NAMESPACE_FUEL_STUB, has_vectors.into(), sig)
    }

    /// Stubs preserve every register: a cold call must not cost the hot path its registers.
    fn stub_signature(&mut self, func: &mut Function) -> SigRef {
        *self
            .stub_signature
            .get_or_insert_with(|| func.import_signature(Signature::new(CallConv::PreserveAll)))
    }
}

/// Whether a function that is complete may have something to keep in vector registers at a check of fuel.
///
/// Where no value is of a type that lives in them, none of these has to be kept: what an instruction is lowered to uses one at most
/// for itself.
pub(crate) fn has_vectors(func: &Function) -> bool {
    let mut values = func.dfg.values();
    values.any(|value| !func.dfg.value_type(value).is_int())
}

fn declare(func: &mut Function, namespace: u32, index: u32, signature: SigRef) -> FuncRef {
    let name = func.declare_imported_user_function(UserExternalName { namespace, index });
    let name = ExternalName::user(name);
    func.import_function(ExtFuncData {
        name,
        signature,
        colocated: true,
        patchable: false,
    })
}
