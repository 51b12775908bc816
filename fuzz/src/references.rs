//! Typed references to functions, put into a random module: `wasm-smith` makes them with garbage collection only, which Selvedge has not.
//!
//! ```text
//!   types      up to three that functions have; for each
//!                a table and a global of references, elements for the table, locals
//!                two functions that take a reference behind the type's own parameters and call it
//!   calls      call, return_call  ->  a reference, perhaps by way of a local or a branch, and call_ref, return_call_ref, or one of the two
//!   anywhere   a statement that calls what a reference from anywhere refers to, null now and then, or moves references
//! ```
//!
//! Rules
//! 1. What is added ends if the module did: statements are behind what a function pays with, and the new functions call those of a kind, which
//!    are the module's own, and not each other.
//! 2. Results are mixed into a global, so they are seen.

use crate::operators::{named, naming, push_signed, push_unsigned};
use crate::parts::{Function, Op, Parts, bytes_of};
use crate::rewrite::export_all;
use crate::sections::{ELEMENT, GLOBAL, TABLE};
use crate::statements::{Ground, Ops, argument, has_argument, insert};
use arbitrary::{Result, Unstructured};
use std::collections::HashMap;
use wasmparser::{
    CompositeInnerType, FuncType, HeapType, Parser, Payload, RefType, TypeRef, UnpackedIndex, ValType,
};

const MAX_KINDS: usize = 3;
/// At most so many statements are put into a function.
const MAX_STATEMENTS: u32 = 6;
/// How many elements a table has at first, and at most.
const TABLE_ELEMENTS: u8 = 6;
const MAX_TABLE_ELEMENTS: u8 = 20;

const END: u8 = 0x0b;
const CALL: u8 = 0x10;
const RETURN_CALL: u8 = 0x12;
const CALL_REF: u8 = 0x14;
const RETURN_CALL_REF: u8 = 0x15;
const LOCAL_GET: u8 = 0x20;
const LOCAL_SET: u8 = 0x21;
const LOCAL_TEE: u8 = 0x22;
const GLOBAL_GET: u8 = 0x23;
const GLOBAL_SET: u8 = 0x24;
const TABLE_GET: u8 = 0x25;
const TABLE_SET: u8 = 0x26;
const REF_IS_NULL: u8 = 0xd1;
const REF_FUNC: u8 = 0xd2;
const REF_AS_NON_NULL: u8 = 0xd4;
const BR_ON_NULL: u8 = 0xd5;
const BR_ON_NON_NULL: u8 = 0xd6;

/// A module that was made to end, with references. None: it has no function that they can be to, or is not what was expected.
pub fn add(wasm: &[u8], u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    let (Some(mut parts), Some(signatures)) = (Parts::of(wasm), Signatures::of(wasm)) else {
        return Ok(None);
    };
    let own = parts.functions.len();
    let Some(ground) = Ground::add(&mut parts) else {
        return Ok(None);
    };
    let kinds = add_kinds(&mut parts, &signatures, u)?;
    if kinds.is_empty() {
        return Ok(None);
    }
    let mut functions = std::mem::take(&mut parts.functions);
    for function in &mut functions[..own] {
        Writer::new(function, &kinds, &signatures, ground).write(u)?;
    }
    parts.functions = functions;
    let is_valid = export_all(&mut parts).is_some() && parts.validate();
    Ok(is_valid.then(|| parts.join()))
}

/// The types of functions, by number, and the numbers of those that functions have.
struct Signatures {
    types: Vec<Option<FuncType>>,
    functions: Vec<u32>,
}

impl Signatures {
    fn of(wasm: &[u8]) -> Option<Signatures> {
        let (mut types, mut functions) = (Vec::new(), Vec::new());
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.ok()? {
                Payload::TypeSection(groups) => {
                    for ty in groups
                        .into_iter()
                        .map_while(|group| group.ok())
                        .flat_map(|group| group.into_types())
                    {
                        types.push(match ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => Some(ty),
                            _ => None,
                        });
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports().map_while(|import| import.ok()) {
                        if let TypeRef::Func(ty) = import.ty {
                            functions.push(ty);
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    functions.extend(section.into_iter().map_while(|ty| ty.ok()))
                }
                _ => {}
            }
        }
        Some(Signatures { types, functions })
    }

    fn of_function(&self, function: u32) -> Option<(u32, &FuncType)> {
        let ty = *self.functions.get(function as usize)?;
        Some((ty, self.types.get(ty as usize)?.as_ref()?))
    }
}

/// A type of which there are references.
struct Kind {
    ty: u32,
    params: Vec<ValType>,
    results: Vec<ValType>,
    /// Those that have it.
    functions: Vec<u32>,
    /// Its elements are never null if this is not.
    table: u32,
    has_nulls: bool,
    segment: u32,
    global: u32,
    /// Functions that call a reference behind the arguments, and their type.
    callers: [u32; 2],
    caller_ty: u32,
}

/// A reference to functions of a type.
fn typed(nullable: bool, ty: u32) -> ValType {
    let heap = HeapType::Concrete(UnpackedIndex::Module(ty));
    let reference = RefType::new(nullable, heap).expect("a module of `wasm-smith` has few types");
    ValType::Ref(reference)
}

fn type_bytes(nullable: bool, ty: u32) -> Vec<u8> {
    bytes_of(typed(nullable, ty)).expect("it names a type")
}

fn null(ty: u32) -> Vec<u8> {
    let mut bytes = vec![0xd0];
    push_signed(&mut bytes, ty.into());
    bytes
}

fn add_kinds(parts: &mut Parts, signatures: &Signatures, u: &mut Unstructured<'_>) -> Result<Vec<Kind>> {
    let mut kinds: Vec<Kind> = Vec::new();
    for _ in 0..MAX_KINDS {
        let function = u.choose_index(signatures.functions.len().max(1))? as u32;
        let Some((ty, signature)) = signatures.of_function(function) else {
            continue;
        };
        let mut values = signature.params().iter().chain(signature.results());
        if kinds.iter().any(|kind| kind.ty == ty) || !values.all(|ty| has_argument(*ty)) {
            continue;
        }
        if let Some(kind) = add_kind(parts, signatures, ty, u)? {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

fn add_kind(
    parts: &mut Parts,
    signatures: &Signatures,
    ty: u32,
    u: &mut Unstructured<'_>,
) -> Result<Option<Kind>> {
    let all = (0..).zip(&signatures.functions);
    let functions = all.filter(|(_, own)| **own == ty);
    let functions: Vec<u32> = functions.map(|(function, _)| function).collect();
    let entries = Entries::choose(ty, &functions, u)?;
    let signature = signatures.types.get(ty as usize).and_then(Option::as_ref);
    Ok(signature.and_then(|signature| entries.add(parts, signature, ty, functions)))
}

/// What a type of references has in the module's sections.
struct Entries {
    has_nulls: bool,
    table: Vec<u8>,
    global: Vec<u8>,
    /// A passive segment.
    segment: Vec<u8>,
}

impl Entries {
    fn choose(ty: u32, functions: &[u32], u: &mut Unstructured<'_>) -> Result<Entries> {
        let has_nulls = u.ratio(3, 4)?;
        let element = |u: &mut Unstructured<'_>| -> Result<Vec<u8>> {
            let value = match has_nulls && u.ratio(1, 4)? {
                true => null(ty),
                false => naming(REF_FUNC, *u.choose(functions)?),
            };
            Ok([value, vec![END]].concat())
        };
        // Spec: core/binary/modules, table section and element section.
        let limits = vec![1, TABLE_ELEMENTS, MAX_TABLE_ELEMENTS];
        let table = match has_nulls {
            true => [type_bytes(true, ty), limits].concat(),
            false => [vec![0x40, 0], type_bytes(false, ty), limits, element(u)?].concat(),
        };
        let global = [type_bytes(true, ty), vec![1], element(u)?].concat();
        let mut segment = [vec![5], type_bytes(has_nulls, ty), vec![3]].concat();
        for _ in 0..3 {
            segment.extend(element(u)?);
        }
        Ok(Entries {
            has_nulls,
            table,
            global,
            segment,
        })
    }

    fn add(self, parts: &mut Parts, signature: &FuncType, ty: u32, functions: Vec<u32>) -> Option<Kind> {
        let table = parts.add(TABLE, &self.table)?;
        // The same elements, from the table's second on.
        let active = [&[6], &index(table)[..], &[0x41, 1, END], &self.segment[1..]].concat();
        parts.add(ELEMENT, &active)?;
        let with_reference = [signature.params(), &[typed(true, ty)]].concat();
        let mut kind = Kind {
            ty,
            params: signature.params().to_vec(),
            results: signature.results().to_vec(),
            functions,
            table,
            has_nulls: self.has_nulls,
            segment: parts.add(ELEMENT, &self.segment)?,
            global: parts.add(GLOBAL, &self.global)?,
            callers: [0; 2],
            caller_ty: parts.add_type(&with_reference, signature.results())?,
        };
        for (slot, at_once) in [true, false].into_iter().enumerate() {
            let function = parts.new_function(kind.caller_ty, &with_reference)?;
            kind.callers[slot] = function.index;
            let function = caller(&kind, function, at_once)?;
            parts.functions.push(function);
        }
        Some(kind)
    }
}

fn index(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_unsigned(&mut bytes, number.into());
    bytes
}

/// A function that calls its last parameter with the others: as a tail, or if it is not null and else another.
fn caller(kind: &Kind, mut function: Function, at_once: bool) -> Option<Function> {
    let reference = kind.params.len() as u32;
    let arguments: Ops = (0..reference).map(|local| naming(LOCAL_GET, local)).collect();
    let given = naming(LOCAL_GET, reference);
    let ops: Ops = if at_once {
        [
            arguments,
            vec![given, naming(RETURN_CALL_REF, kind.ty), vec![END]],
        ]
        .concat()
    } else {
        let known = function.add_local(typed(false, kind.ty))?;
        let guard = vec![
            vec![0x02, 0x40],
            given,
            naming(BR_ON_NULL, 0),
            naming(LOCAL_SET, known),
        ];
        let call = vec![
            naming(LOCAL_GET, known),
            naming(CALL_REF, kind.ty),
            vec![0x0f],
            vec![END],
        ];
        let other = vec![naming(CALL, *kind.functions.first()?), vec![END]];
        [guard, arguments.clone(), call, arguments, other].concat()
    };
    function.ops = ops.into_iter().map(Op::new).collect();
    Some(function)
}

/// Writes into one function.
struct Writer<'a> {
    function: &'a mut Function,
    kinds: &'a [Kind],
    signatures: &'a Signatures,
    ground: Ground,
    /// Locals of references, by type and whether they may be null.
    locals: HashMap<(u32, bool), u32>,
}

impl<'a> Writer<'a> {
    fn new(
        function: &'a mut Function,
        kinds: &'a [Kind],
        signatures: &'a Signatures,
        ground: Ground,
    ) -> Writer<'a> {
        Writer {
            function,
            kinds,
            signatures,
            ground,
            locals: HashMap::new(),
        }
    }

    fn write(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if !self.function.is_open() {
            return Ok(());
        }
        self.replace_calls(u)?;
        for _ in 0..u.int_in_range(0..=MAX_STATEMENTS)? {
            let Some(at) = self.ground.place(self.function, u)? else {
                return Ok(());
            };
            let kinds = self.kinds;
            let ops = self.statement(u.choose(kinds)?, u)?;
            insert(self.function, at, ops);
        }
        Ok(())
    }

    fn local(&mut self, ty: u32, nullable: bool) -> u32 {
        let function = &mut *self.function;
        let add = || function.add_local(typed(nullable, ty)).expect("it names a type");
        *self.locals.entry((ty, nullable)).or_insert_with(add)
    }

    /// Half of the calls that there are become ones by reference.
    fn replace_calls(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut at = 0;
        while at < self.function.ops.len() {
            let call = named(&self.function.ops[at].bytes);
            if let Some((code @ (CALL | RETURN_CALL), callee)) = call
                && u.arbitrary()?
                && let Some((ty, _)) = self.signatures.of_function(callee)
            {
                let ops = self.call_of(code, callee, ty, u)?;
                self.function.ops.remove(at);
                at += ops.len();
                insert(self.function, at - ops.len(), ops);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// The arguments lie on the stack.
    fn call_of(&mut self, code: u8, callee: u32, ty: u32, u: &mut Unstructured<'_>) -> Result<Ops> {
        let mut ops = vec![naming(REF_FUNC, callee)];
        let kind = self.kinds.iter().find(|kind| kind.ty == ty);
        match u.int_in_range(0..=5)? {
            0 => ops.push(vec![REF_AS_NON_NULL]),
            1 => {
                let local = self.local(ty, true);
                ops.extend([naming(LOCAL_SET, local), naming(LOCAL_GET, local)]);
            }
            2 => ops.push(naming(LOCAL_TEE, self.local(ty, false))),
            3 => {
                ops.insert(0, [vec![0x02], type_bytes(false, ty)].concat());
                ops.extend([naming(BR_ON_NON_NULL, 0), vec![0], vec![END]]);
            }
            4 if let Some(kind) = kind => {
                ops.push(naming(code, *u.choose(&kind.callers)?));
                return Ok(ops);
            }
            _ => {}
        }
        let by_reference = match code {
            CALL => CALL_REF,
            _ => RETURN_CALL_REF,
        };
        ops.push(naming(by_reference, ty));
        Ok(ops)
    }

    /// A reference that may be null.
    fn reference(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        Ok(match u.int_in_range(0..=9)? {
            0..=2 => vec![naming(REF_FUNC, *u.choose(&kind.functions)?)],
            3 => vec![null(kind.ty)],
            4..=6 => [self.place(u)?, vec![naming(TABLE_GET, kind.table)]].concat(),
            7 => vec![naming(GLOBAL_GET, kind.global)],
            8 => vec![naming(LOCAL_GET, self.local(kind.ty, true))],
            _ => {
                let one = naming(REF_FUNC, *u.choose(&kind.functions)?);
                let other = naming(GLOBAL_GET, kind.global);
                let select = [vec![0x1c, 1], type_bytes(true, kind.ty)].concat();
                vec![one, other, self.number(u)?, select]
            }
        })
    }

    /// An i32.
    fn number(&mut self, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        argument(self.function, ValType::I32, u)
    }

    /// A place in a table: seldom none of it.
    fn place(&mut self, u: &mut Unstructured<'_>) -> Result<Ops> {
        Ok(match u.int_in_range(0..=7)? {
            0 => vec![self.number(u)?],
            1..=3 => vec![self.number(u)?, vec![0x41, 3], vec![0x71]],
            _ => vec![vec![0x41, u.int_in_range(0..=TABLE_ELEMENTS)?]],
        })
    }

    fn arguments(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        let params = kind.params.iter();
        params.map(|ty| argument(self.function, *ty, u)).collect()
    }

    fn mix_results(&self, kind: &Kind) -> Ops {
        let results = kind.results.iter().rev();
        results.flat_map(|ty| self.ground.mix(*ty)).collect()
    }

    fn statement(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        Ok(match u.int_in_range(0..=13)? {
            0..=3 => self.call(kind, u)?,
            4 | 5 => self.call_if_not_null(kind, u)?,
            6 => self.call_in_place_of_null(kind, u)?,
            7 => self.call_with_reference(kind, u)?,
            8 => self.tail_call(kind, u)?,
            9 => [
                self.reference(kind, u)?,
                vec![naming(LOCAL_SET, self.local(kind.ty, true))],
            ]
            .concat(),
            10 => [self.reference(kind, u)?, vec![naming(GLOBAL_SET, kind.global)]].concat(),
            11 => [
                self.reference(kind, u)?,
                vec![vec![REF_IS_NULL]],
                self.ground.mix(ValType::I32),
            ]
            .concat(),
            _ => self.table(kind, u)?,
        })
    }

    fn call(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        let mut ops = [self.arguments(kind, u)?, self.reference(kind, u)?].concat();
        if u.ratio(1, 3)? {
            ops.push(vec![REF_AS_NON_NULL]);
        }
        ops.push(naming(CALL_REF, kind.ty));
        Ok([ops, self.mix_results(kind)].concat())
    }

    fn call_if_not_null(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        let known = self.local(kind.ty, false);
        let guard = vec![naming(BR_ON_NULL, 0), naming(LOCAL_SET, known)];
        let call = vec![naming(LOCAL_GET, known), naming(CALL_REF, kind.ty)];
        let ops = [self.reference(kind, u)?, guard, self.arguments(kind, u)?, call];
        let block = (vec![vec![0x02, 0x40]], vec![vec![END]]);
        Ok([block.0, ops.concat(), self.mix_results(kind), block.1].concat())
    }

    fn call_in_place_of_null(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        let block = [vec![0x02], type_bytes(false, kind.ty)].concat();
        let other = [
            vec![naming(BR_ON_NON_NULL, 0), vec![0x41, 1]],
            self.ground.mix(ValType::I32),
            vec![naming(REF_FUNC, *u.choose(&kind.functions)?), vec![END]],
        ];
        let arguments = self.arguments(kind, u)?;
        let reference = [vec![block], self.reference(kind, u)?, other.concat()].concat();
        let call = vec![naming(CALL_REF, kind.ty)];
        Ok([arguments, reference, call, self.mix_results(kind)].concat())
    }

    fn call_with_reference(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        let caller = *u.choose(&kind.callers)?;
        let call = match u.arbitrary()? {
            true => vec![naming(CALL, caller)],
            false => vec![naming(REF_FUNC, caller), naming(CALL_REF, kind.caller_ty)],
        };
        let operands = [self.arguments(kind, u)?, self.reference(kind, u)?].concat();
        Ok([operands, call, self.mix_results(kind)].concat())
    }

    /// Once in eight times, if the results are the function's own; else a call.
    fn tail_call(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        let own = self.signatures.of_function(self.function.index);
        if own.is_none_or(|(_, ty)| ty.results() != kind.results) {
            return self.call(kind, u);
        }
        let condition = [self.ground.seldom_zero(), vec![vec![0x45], vec![0x04, 0x40]]].concat();
        let operands = [self.arguments(kind, u)?, self.reference(kind, u)?].concat();
        let call = match u.ratio(1, 3)? {
            true => naming(RETURN_CALL, *u.choose(&kind.callers)?),
            false => naming(RETURN_CALL_REF, kind.ty),
        };
        Ok([condition, operands, vec![call, vec![END]]].concat())
    }

    fn table(&mut self, kind: &Kind, u: &mut Unstructured<'_>) -> Result<Ops> {
        let bulk = |code: u8, numbers: &[u32]| {
            let mut bytes = vec![0xfc, code];
            numbers.iter().for_each(|number| bytes.extend(index(*number)));
            vec![bytes]
        };
        let mut reference = self.reference(kind, u)?;
        if !kind.has_nulls {
            reference.push(vec![REF_AS_NON_NULL]);
        }
        let (place, other) = (self.place(u)?, self.place(u)?);
        let count = vec![vec![0x41, u.int_in_range(0..=3)?]];
        Ok(match u.int_in_range(0..=5)? {
            0 | 1 => [place, reference, vec![naming(TABLE_SET, kind.table)]].concat(),
            2 => [place, other, count, bulk(12, &[kind.segment, kind.table])].concat(),
            3 => [place, other, count, bulk(14, &[kind.table, kind.table])].concat(),
            4 => {
                let grow = bulk(15, &[kind.table]);
                [reference, count, grow, self.ground.mix(ValType::I32)].concat()
            }
            _ => [place, reference, count, bulk(17, &[kind.table])].concat(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::generate::{Beyond, case_beyond};
    use crate::inputs::bytes_of;
    use crate::parts::Parts;

    #[test]
    fn random_modules_have_references_of_all_uses() {
        let (mut modules, mut uses) = (0, [0_u32; 256]);
        for seed in 1..=60 {
            let Some(case) = case_beyond(Beyond::References, &bytes_of(seed)) else {
                continue;
            };
            modules += 1;
            let parts = Parts::of(&case.wasm).expect("valid");
            for op in parts.functions.iter().flat_map(|function| &function.ops) {
                uses[usize::from(op.bytes[0])] += 1;
            }
        }
        assert!(modules > 30, "{modules} of 60");
        for code in [0x14, 0x15, 0xd2, 0xd4, 0xd5, 0xd6] {
            assert!(uses[code] > 20, "{code:#x}: {}", uses[code]);
        }
    }
}
