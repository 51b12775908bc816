//! A valid module taken apart to operators, each with what lies on the stacks before it; and put together again.
//!
//! ```text
//!   bytes --validate--> sections                           as they are
//!                       functions: signature, locals,
//!                         operators: bytes, [labels, operands, type of the uppermost] before each
//! ```
//!
//! A *piece* is a range of operators that is whole: it ends at as many labels as it began at and opens none that it does not close. It is
//! a *statement* if it leaves as many operands as it found, and an *expression* if it leaves one more.

use crate::operators::push_signed;
use crate::sections::{CODE, FUNCTION, GLOBAL, Pieces, TABLE, TYPE, number, push_number, push_sized};
use std::ops::Range;
use wasmparser::{
    BinaryReader, FuncToValidate, FunctionBody, HeapType, OperatorsReader, Parser, Payload, UnpackedIndex,
    ValType, ValidPayload, Validator, ValidatorResources, WasmFeatures, WasmModuleResources,
};

/// Functions with more locals are left as they are.
const MAX_LOCALS: usize = 200;
/// Pieces are at most so long.
const MAX_PIECE: usize = 200;

/// What Selvedge has or refuses by name, and the rest of version 3.
pub const FEATURES: WasmFeatures = WasmFeatures::WASM3
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::WIDE_ARITHMETIC)
    .union(WasmFeatures::CUSTOM_PAGE_SIZES);

/// An operator.
#[derive(Clone, Debug)]
pub struct Op {
    /// It and its immediates.
    pub bytes: Vec<u8>,
    /// Labels before it, the function's own among them.
    labels: u32,
    /// Operands before it.
    operands: u32,
    /// The type of the uppermost of them, if there is one and it has a type.
    top: Option<ValType>,
}

/// A function of the module's own.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its number, those of imports before it.
    pub index: u32,
    /// Types of parameters and results.
    pub ty: (Vec<ValType>, Vec<ValType>),
    /// Types of all locals, parameters first.
    pub locals: Vec<ValType>,
    /// Counts and types of locals behind the parameters, as bytes.
    pub(crate) groups: Vec<(u32, Vec<u8>)>,
    /// The operators, the last `end` among them.
    pub ops: Vec<Op>,
}

/// A piece of a function.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Which operators.
    pub range: Range<usize>,
    /// What it leaves. None: a statement.
    pub leaves: Option<ValType>,
}

/// How many of each there are, imports among them.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub types: u32,
    pub functions: u32,
    pub tables: u32,
    pub memories: u32,
    pub globals: u32,
}

/// A valid module in parts.
#[derive(Clone)]
pub struct Parts {
    pub(crate) pieces: Pieces,
    /// How much there is to refer to.
    pub counts: Counts,
    /// The functions of its own.
    pub functions: Vec<Function>,
}

impl Parts {
    /// The parts of a module. None if it is not valid.
    pub fn of(wasm: &[u8]) -> Option<Parts> {
        let mut validator = Validator::new_with_features(FEATURES);
        let mut bodies = Vec::new();
        let mut counts = Counts::default();
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.ok()?;
            match validator.payload(&payload).ok()? {
                ValidPayload::Func(function, body) => bodies.push((function, body)),
                ValidPayload::End(types) => {
                    let types = types.as_ref();
                    counts = Counts {
                        types: types.core_type_count_in_module(),
                        functions: types.function_count(),
                        tables: types.table_count(),
                        memories: types.memory_count(),
                        globals: types.global_count(),
                    };
                }
                _ => {}
            }
            if matches!(payload, Payload::ComponentTypeSection(_)) {
                return None;
            }
        }
        let functions = bodies
            .into_iter()
            .map(|(function, body)| function_of(wasm, function, &body));
        Some(Parts {
            functions: functions.collect::<Option<_>>()?,
            pieces: Pieces::of(wasm),
            counts,
        })
    }

    /// Adds a function that returns one value, of number and vector types. Its number, if it is valid; else the parts are as they were.
    pub fn add_function(&mut self, params: &[ValType], result: ValType, ops: &[Vec<u8>]) -> Option<u32> {
        let mut new = self.clone();
        let ty = new.add_type(params, &[result])?;
        let mut function = new.new_function(ty, params)?;
        function.ops = ops.iter().cloned().map(Op::new).collect();
        let number = function.index;
        new.functions.push(function);
        let is_valid = new.validate();
        if is_valid {
            *self = new;
        }
        is_valid.then_some(number)
    }

    /// Adds the type of a function: its number.
    pub fn add_type(&mut self, params: &[ValType], results: &[ValType]) -> Option<u32> {
        let mut ty = vec![0x60];
        for list in [params, results] {
            push_number(&mut ty, list.len() as u32);
            for item in list {
                ty.extend(bytes_of(*item)?);
            }
        }
        self.add(TYPE, &ty)
    }

    /// A function of a type, without operators, that has its number but has to be pushed still.
    pub fn new_function(&mut self, ty: u32, params: &[ValType]) -> Option<Function> {
        let mut entry = Vec::new();
        push_number(&mut entry, ty);
        Some(Function {
            index: self.add(FUNCTION, &entry)?,
            ty: (params.to_vec(), Vec::new()),
            locals: params.to_vec(),
            groups: Vec::new(),
            ops: Vec::new(),
        })
    }

    /// Puts an entry to the end of a section: its number, where imports come first.
    pub fn add(&mut self, id: u8, entry: &[u8]) -> Option<u32> {
        let section = self.pieces.section(id);
        let (count, rest) = number(&section.body)?;
        let mut body = Vec::new();
        push_number(&mut body, count + 1);
        body.extend(rest);
        body.extend(entry);
        section.body = body;
        let all = match id {
            TYPE => &mut self.counts.types,
            FUNCTION => &mut self.counts.functions,
            TABLE => &mut self.counts.tables,
            GLOBAL => &mut self.counts.globals,
            _ => return Some(count),
        };
        *all += 1;
        Some(*all - 1)
    }

    /// Whether the parts are a valid module's. Then what lies on the stacks is found anew.
    pub fn validate(&mut self) -> bool {
        let valid = Parts::of(&self.join());
        let is_valid = valid.is_some();
        if let Some(valid) = valid {
            *self = valid;
        }
        is_valid
    }

    /// The module of these parts: not always a valid one.
    pub fn join(&self) -> Vec<u8> {
        let mut pieces = self.pieces.clone();
        if let Some(code) = pieces.sections.iter_mut().find(|section| section.id == CODE) {
            code.body.clear();
            push_number(&mut code.body, self.functions.len() as u32);
            for function in &self.functions {
                push_sized(&mut code.body, &function.join());
            }
        }
        pieces.join()
    }
}

fn function_of(
    wasm: &[u8],
    function: FuncToValidate<ValidatorResources>,
    body: &FunctionBody<'_>,
) -> Option<Function> {
    let (index, ty) = (function.index, function.ty);
    let mut validator = function.into_validator(Default::default());
    let signature = validator
        .resources()
        .sub_type_at(ty)?
        .composite_type
        .unwrap_func()
        .clone();
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader).ok()?;
    let mut ops = Vec::new();
    let mut reader = OperatorsReader::new(reader);
    while !reader.eof() {
        let (operator, start) = reader.read_with_offset().ok()?;
        let end = reader.original_position();
        ops.push(Op {
            bytes: wasm.get(start as usize..end as usize)?.to_vec(),
            labels: validator.control_stack_height(),
            operands: validator.operand_stack_height(),
            top: validator.get_operand_type(0).flatten(),
        });
        validator.op(start, &operator).ok()?;
    }
    let locals = (0..validator.len_locals()).map_while(|local| validator.get_local_type(local));
    Some(Function {
        index,
        ty: (signature.params().to_vec(), signature.results().to_vec()),
        locals: locals.collect(),
        groups: groups_of(wasm, body.get_binary_reader())?,
        ops,
    })
}

fn groups_of(wasm: &[u8], mut reader: BinaryReader<'_>) -> Option<Vec<(u32, Vec<u8>)>> {
    let count = reader.read_var_u32().ok()?;
    let group = || {
        let count = reader.read_var_u32().ok()?;
        let start = reader.original_position();
        reader.read::<ValType>().ok()?;
        Some((
            count,
            wasm[start as usize..reader.original_position() as usize].to_vec(),
        ))
    };
    std::iter::repeat_with(group).take(count as usize).collect()
}

impl Function {
    /// The body's bytes.
    fn join(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_number(&mut bytes, self.groups.len() as u32);
        for (count, ty) in &self.groups {
            push_number(&mut bytes, *count);
            bytes.extend(ty);
        }
        bytes.extend(self.ops.iter().flat_map(|op| &op.bytes));
        bytes
    }

    /// Whether it can be changed: what has too many locals, or nothing but its end, is not.
    pub fn is_open(&self) -> bool {
        self.locals.len() <= MAX_LOCALS && self.ops.len() > 1
    }

    /// Another local and its index.
    pub fn add_local(&mut self, ty: ValType) -> Option<u32> {
        self.groups.push((1, bytes_of(ty)?));
        self.locals.push(ty);
        Some(self.locals.len() as u32 - 1)
    }

    /// Locals of a type.
    pub fn locals_of(&self, ty: ValType) -> Vec<u32> {
        let all = self.locals.iter().enumerate();
        all.filter(|(_, own)| **own == ty)
            .map(|(index, _)| index as u32)
            .collect()
    }

    /// The pieces that begin at an operator, the shortest first.
    pub fn pieces_at(&self, start: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let Some(first) = self.ops.get(start) else {
            return pieces;
        };
        if is_seam(&first.bytes) {
            return pieces;
        }
        for end in start + 1..self.ops.len().min(start + MAX_PIECE) {
            let op = &self.ops[end];
            if op.labels < first.labels {
                break;
            }
            if op.labels == first.labels {
                let piece = |leaves| Piece {
                    range: start..end,
                    leaves,
                };
                match op.operands.checked_sub(first.operands) {
                    Some(0) => pieces.push(piece(None)),
                    Some(1) if op.top.is_some() => pieces.push(piece(op.top)),
                    _ => {}
                }
                if is_seam(&op.bytes) {
                    break;
                }
            }
        }
        pieces
    }
}

/// Whether an operator ends a piece before it: `else`, `end`.
fn is_seam(bytes: &[u8]) -> bool {
    matches!(bytes[0], 0x05 | 0x0b)
}

/// The bytes of a type: of a reference, if it has a short form or names a function's type.
pub fn bytes_of(ty: ValType) -> Option<Vec<u8>> {
    let byte = match ty {
        ValType::I32 => 0x7f,
        ValType::I64 => 0x7e,
        ValType::F32 => 0x7d,
        ValType::F64 => 0x7c,
        ValType::V128 => 0x7b,
        ValType::FUNCREF => 0x70,
        ValType::EXTERNREF => 0x6f,
        ValType::EXNREF => 0x69,
        ValType::Ref(reference) => {
            let HeapType::Concrete(UnpackedIndex::Module(index)) = reference.heap_type() else {
                return None;
            };
            let mut bytes = vec![if reference.is_nullable() { 0x63 } else { 0x64 }];
            push_signed(&mut bytes, index.into());
            return Some(bytes);
        }
    };
    Some(vec![byte])
}

impl Op {
    /// A new operator, in a place of which nothing is known.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Op {
        Op {
            bytes: bytes.into(),
            labels: 0,
            operands: 0,
            top: None,
        }
    }

    /// Labels around it.
    pub fn labels(&self) -> u32 {
        self.labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Parts {
        Parts::of(&wat::parse_str(text).expect("text")).expect("valid")
    }

    #[test]
    fn a_module_joined_is_as_it_was() {
        for module in crate::corpus::MODULES
            .iter()
            .filter(|module| module.len() < 2_000)
        {
            if let Some(parts) = Parts::of(module) {
                let again = Parts::of(&parts.join()).expect("valid as before");
                assert_eq!(again.join(), parts.join());
                assert_eq!(again.counts.functions, parts.counts.functions);
            }
        }
    }

    #[test]
    fn pieces_are_whole() {
        let parts = parts(
            "(module (func (param i32) (result i32)
                (if (local.get 0) (then (local.set 0 (i32.add (local.get 0) (i32.const 1)))) (else nop)) local.get 0))",
        );
        let function = &parts.functions[0];
        let ends = |start| {
            let pieces = function.pieces_at(start).into_iter();
            pieces
                .map(|piece| (piece.range.end, piece.leaves.is_some()))
                .collect::<Vec<_>>()
        };
        // 0 get, 1 if, 2 get, 3 const, 4 add, 5 set, 6 else, 7 nop, 8 end, 9 get, 10 end
        assert_eq!(ends(0), [(1, true), (9, false), (10, true)]);
        assert_eq!(ends(2), [(3, true), (5, true), (6, false)]);
        assert_eq!(ends(5), [], "what it takes was there before");
        assert_eq!(ends(6), []);
        assert_eq!(ends(7), [(8, false)]);
    }
}
