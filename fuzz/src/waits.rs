//! Waits, and what else threads do with memories, by one thread.
//!
//! A wait may last for ever where nobody notifies. So each gets a time, or a value to expect that is not there:
//!
//! ```text
//!   address  expected  time   ->   the time cut to a few bits: what it is about may or may not be there
//!                             ->   what is there, and a time: 2
//!                             ->   another value than is there, and no end: 1
//! ```
//!
//! [`add`] puts in waits of its own, with stores and notifications at the few addresses they are about.

use crate::operators::{code, is_wait, naming, push_unsigned};
use crate::parts::{Function, Op, Parts};
use crate::rewrite::{export_all, share};
use crate::sections::number;
use crate::statements::{Ground, Ops, insert};
use arbitrary::{Result, Unstructured};
use wasmparser::{MemoryType, Parser, Payload, TypeRef, ValType};

/// The longest wait of a random module in nanoseconds, one less than a power of two: there may be thousands.
pub const MAX_WAIT: i64 = 1023;
/// At most so many statements are put into a function.
const MAX_STATEMENTS: u32 = 5;
/// What waits are about: few addresses, so that stores hit them, and some that no memory has or that are not aligned.
const ADDRESSES: [i64; 12] = [0, 0, 0, 8, 8, 16, 24, 4, 2, 0xfff8, 0x1_0000, -8];

/// A bit of a number of 64 bits that one of 32 has not.
const HIGH: i64 = 1 << 32;

const DROP: u8 = 0x1a;
const LOCAL_GET: u8 = 0x20;
const LOCAL_TEE: u8 = 0x22;

/// `memory.atomic.wait32`, of 64 bits one more. Spec: threads, binary/instructions.
const WAIT: u8 = 0x01;
/// As above: loads, stores, the addition; `notify` and the fence.
const LOAD: u8 = 0x10;
const STORE: u8 = 0x17;
const ADD: u8 = 0x1e;
const NOTIFY: u8 = 0x00;
const FENCE: u8 = 0x03;

/// A module that was made to end, with atomic operators on memories that are shared or, seldom, not. None: it has no memory.
pub fn add(wasm: &[u8], u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    let memories = memories(wasm);
    let Some(mut parts) = Parts::of(wasm).filter(|_| !memories.is_empty()) else {
        return Ok(None);
    };
    let Some(ground) = Ground::add(&mut parts) else {
        return Ok(None);
    };
    for function in parts.functions.iter_mut().filter(|function| function.is_open()) {
        for _ in 0..u.int_in_range(0..=MAX_STATEMENTS)? {
            if let Some(at) = ground.place(function, u)? {
                insert(function, at, statement(&memories, ground, u)?);
            }
        }
    }
    let is_shared = u.ratio(7, 8)?;
    let is_valid =
        share(&mut parts, is_shared).is_some() && export_all(&mut parts).is_some() && parts.validate();
    if !is_valid || !bound(&mut parts, MAX_WAIT, u)? {
        return Ok(None);
    }
    Ok(Some(parts.join()))
}

/// Makes every wait of the module's own code end, in `longest` nanoseconds, one less than a power of two. False: it cannot be done.
pub fn bound(parts: &mut Parts, longest: i64, u: &mut Unstructured<'_>) -> Result<bool> {
    let has_waits = |function: &Function| function.ops.iter().any(|op| is_wait(&op.bytes));
    if !parts.functions.iter().any(has_waits) {
        return Ok(true);
    }
    let memories = memories(&parts.join());
    for function in parts.functions.iter_mut().filter(|function| has_waits(function)) {
        let mut locals = [None; 2];
        let ops = std::mem::take(&mut function.ops);
        for op in ops {
            if is_wait(&op.bytes) {
                let Some(before) = ending(&op.bytes, &memories, function, &mut locals, longest, u)? else {
                    return Ok(false);
                };
                function.ops.extend(before.into_iter().map(Op::new));
            }
            function.ops.push(op);
        }
    }
    Ok(parts.validate())
}

/// What to do with the operands of a wait so that it ends.
fn ending(
    wait: &[u8],
    memories: &[MemoryType],
    function: &mut Function,
    locals: &mut [Option<u32>; 2],
    longest: i64,
    u: &mut Unstructured<'_>,
) -> Result<Option<Ops>> {
    let time = u.int_in_range(0..=longest)? & u.int_in_range(0..=longest)?;
    let form = u.int_in_range(0..=3)?;
    if form < 2 {
        return Ok(Some(vec![i64_const(time), vec![0x83]]));
    }
    let (wait_code, access) = code(wait);
    let width = wait_code as u8 - WAIT;
    let Some(address) = memory_of(&wait[access..]).and_then(|memory| memories.get(memory as usize)) else {
        return Ok(None);
    };
    let slot = &mut locals[usize::from(address.memory64)];
    let Some(local) = slot.or_else(|| function.add_local(address.index_type())) else {
        return Ok(None);
    };
    *slot = Some(local);
    let load = [&[0xfe, LOAD + width], &wait[access..]].concat();
    let mut ops = vec![
        vec![DROP],
        vec![DROP],
        naming(LOCAL_TEE, local),
        naming(LOCAL_GET, local),
        load,
    ];
    if form == 2 {
        ops.push(i64_const(time));
    } else {
        let another: [Vec<u8>; 2] = match width {
            0 => [vec![0x41, 1], vec![0x6a]],
            _ => [i64_const(*u.choose(&[1, HIGH])?), vec![0x7c]],
        };
        ops.extend(another);
        ops.push(i64_const(-1));
    }
    Ok(Some(ops))
}

/// The memory that an access is to, by the bytes of its alignment and what follows.
fn memory_of(access: &[u8]) -> Option<u32> {
    let (align, rest) = number(access)?;
    match align & 0x40 {
        0 => Some(0),
        _ => Some(number(rest)?.0),
    }
}

/// A module's memories, imported ones first.
fn memories(wasm: &[u8]) -> Vec<MemoryType> {
    let mut memories = Vec::new();
    for payload in Parser::new(0).parse_all(wasm).map_while(|payload| payload.ok()) {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports().map_while(|import| import.ok()) {
                    if let TypeRef::Memory(memory) = import.ty {
                        memories.push(memory);
                    }
                }
            }
            Payload::MemorySection(section) => {
                memories.extend(section.into_iter().map_while(|memory| memory.ok()))
            }
            _ => {}
        }
    }
    memories
}

fn statement(memories: &[MemoryType], ground: Ground, u: &mut Unstructured<'_>) -> Result<Ops> {
    let memory = u.choose_index(memories.len())?;
    let address = *u.choose(&ADDRESSES)?;
    let address = match memories[memory].memory64 {
        true => i64_const(address),
        false => i32_const(address as i32),
    };
    // Of 32 or 64 bits: small numbers, so that some are equal.
    let width = u.int_in_range(0..=1)?;
    let value = i64::from(u.int_in_range(0..=2)?);
    let (value, ty) = match width {
        0 => (i32_const(value as i32), ValType::I32),
        _ => (i64_const(value + *u.choose(&[0, 0, HIGH])?), ValType::I64),
    };
    let offset = *u.choose(&[0, 0, 0, 8, 4, 1])?;
    let access = |operator: u8, width: u8| access(operator + width, 2 + width, memory as u32, offset);
    let i32_result = ground.mix(ValType::I32);
    Ok(match u.int_in_range(0..=9)? {
        0..=3 => {
            let time = i64_const(u.int_in_range(-1..=MAX_WAIT)?);
            [vec![address, value, time, access(WAIT, width)], i32_result].concat()
        }
        4 | 5 => vec![address, value, access(STORE, width)],
        6 => [vec![address, value, access(ADD, width)], ground.mix(ty)].concat(),
        7 => [vec![address, access(LOAD, width)], ground.mix(ty)].concat(),
        8 => vec![vec![0xfe, FENCE, 0]],
        _ => [
            vec![address, i32_const(u.int_in_range(-1..=2)?), access(NOTIFY, 0)],
            i32_result,
        ]
        .concat(),
    })
}

fn access(operator: u8, align: u8, memory: u32, offset: u8) -> Vec<u8> {
    let mut bytes = vec![0xfe, operator];
    match memory {
        0 => bytes.push(align),
        memory => {
            bytes.push(align | 0x40);
            push_unsigned(&mut bytes, memory.into());
        }
    }
    bytes.push(offset);
    bytes
}

fn i32_const(value: i32) -> Vec<u8> {
    crate::operators::constant_of(crate::value::Value::I32(value))
}

fn i64_const(value: i64) -> Vec<u8> {
    crate::operators::constant_of(crate::value::Value::I64(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, Setup};
    use crate::generate::{Beyond, case_beyond};
    use crate::inputs::bytes_of;
    use crate::ours;
    use crate::trace::{End, Stop};
    use crate::value::Value;
    use std::collections::BTreeMap;

    #[test]
    fn random_modules_wait_on_shared_memories() {
        let (mut modules, mut waits) = (0, 0);
        for seed in 1..=60 {
            let Some(case) = case_beyond(Beyond::Waits, &bytes_of(seed)) else {
                continue;
            };
            modules += 1;
            let parts = Parts::of(&case.wasm).expect("valid");
            let mut ops = parts.functions.iter().flat_map(|function| &function.ops);
            let is_shared = memories(&case.wasm).iter().any(|memory| memory.shared);
            waits += u32::from(is_shared && ops.any(|op| is_wait(&op.bytes)));
        }
        assert!(
            modules > 30 && waits * 2 > modules,
            "{waits} of {modules} modules"
        );
    }

    /// Whatever becomes of a wait without end, it ends; and in each way that it can.
    #[test]
    fn bounded_waits_end_in_every_way() {
        let text = r#"(module (memory 1 1 shared) (func (export "f") (param i32) (result i32)
            (memory.atomic.wait64 offset=8 (local.get 0) (i64.const 0) (i64.const -1))))"#;
        let wasm = wat::parse_str(text).expect("well-formed");
        let mut ends = BTreeMap::new();
        for seed in 0..40 {
            let data = bytes_of(seed);
            let mut parts = Parts::of(&wasm).expect("valid");
            assert!(bound(&mut parts, 7, &mut Unstructured::new(&data)).expect("choices"));
            let trace = ours::run(&Case::new(parts.join(), seed), Setup::Plain);
            for step in &trace.steps[1..] {
                *ends.entry(format!("{:?}", step.end)).or_insert(0) += 1;
            }
        }
        let returned = |value| format!("{:?}", End::Returned(vec![Value::I32(value)]));
        let stopped = |stop| format!("{:?}", End::Stopped(stop));
        let all = [
            returned(1),
            returned(2),
            stopped(Stop::MemoryOutOfBounds),
            stopped(Stop::Unaligned),
        ];
        assert!(
            all.iter().all(|end| ends.contains_key(end)) && ends.len() == 4,
            "{ends:?}"
        );
    }
}
