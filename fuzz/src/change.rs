//! Changes to a valid module that leave it a module, and often a valid one.
//!
//! ```text
//!   an operator     another of its type, another constant, offset, local, global, label, function
//!   a piece         removed, doubled, moved, put into a block, a branch of an if, a loop that counts
//!   an expression   replaced by a constant, a local, one of its type from anywhere; masked, shifted, negated
//!   a body          replaced by one of its type, of this module or of another
//!   a function      added, with parameters of all types, for all of this to be done in it
//!   what is around  limits of a memory, bytes of a segment, any byte of a section
//! ```
//!
//! What comes from another place brings its numbers with it: locals become some of their types here, the rest is left to chance and to the
//! validator. A change that makes a module invalid is dropped and another tried, so that all that is tried is executed.

use crate::mutate::edit;
use crate::operators::{constant, constant_type, named, naming, push_unsigned, sibling, with_other_offset};
use crate::parts::{Counts, Function, Op, Parts, Piece};
use crate::sections::{EXPORT, MEMORY};
use arbitrary::{Result, Unstructured};
use wasmparser::ValType;

/// A change is tried so often before another is chosen.
const TRIES: usize = 4;
/// A loop that is put around a statement turns at most so often.
const MAX_TURNS: u32 = 40;
/// Bodies do not grow beyond.
const MAX_OPS: usize = 2_000;

/// A changed module, and the functions of its own that are different.
pub struct Changed {
    /// The module.
    pub parts: Parts,
    /// Their numbers, those of imports before them.
    pub functions: Vec<u32>,
}

/// `original` with up to `count` changes; `donor` lends pieces and bodies.
pub fn change(original: &Parts, donor: &Parts, count: usize, u: &mut Unstructured<'_>) -> Result<Changed> {
    let mut parts = original.clone();
    let mut functions = Vec::new();
    if count > 0 && u.ratio(3, 4)? {
        functions.extend(own_function(&mut parts, u)?);
    }
    for _ in 0..count {
        for _ in 0..TRIES {
            if let Some(what) = change_once(&mut parts, donor, &functions, u)? {
                functions.extend(what.filter(|function| !functions.contains(function)));
                break;
            }
        }
    }
    Ok(Changed { parts, functions })
}

/// A new function that returns one of its parameters, of which there are some of each type: what is put into it later computes with what it is
/// called with, where scripts often have constants.
fn own_function(parts: &mut Parts, u: &mut Unstructured<'_>) -> Result<Option<u32>> {
    use ValType::{F32, F64, I32, I64, V128};
    const PARAMS: [ValType; 8] = [I32, I32, I64, I64, F32, F64, V128, V128];
    let result = u.choose_index(PARAMS.len())?;
    let ops = [naming(0x20, result as u32), vec![0x0b]];
    Ok(parts.add_function(&PARAMS, PARAMS[result], &ops))
}

/// What was changed: nothing, what is around the functions, or one of them.
type What = Option<Option<u32>>;

/// Tries a change, and takes it back if the module is not valid with it.
fn change_once(parts: &mut Parts, donor: &Parts, before: &[u32], u: &mut Unstructured<'_>) -> Result<What> {
    let open = parts.functions.iter().enumerate();
    let open = open.filter(|(_, function)| function.is_open());
    let open: Vec<usize> = open.map(|(at, _)| at).collect();
    if open.is_empty() || u.ratio(1, 12)? {
        let pieces = parts.pieces.clone();
        let is_kept = around(parts, u)? && parts.validate();
        if !is_kept {
            parts.pieces = pieces;
        }
        return Ok(is_kept.then_some(None));
    }
    // One function that is changed often differs more than many that are changed once.
    let mut again = open.iter().copied();
    let at = match again.find(|at| before.contains(&parts.functions[*at].index)) {
        Some(at) if u.ratio(2, 3)? => at,
        _ => *u.choose(&open)?,
    };
    let old = parts.functions[at].clone();
    let changed = change_function(parts, at, donor, u)?;
    let is_kept = changed && parts.functions[at].ops.len() <= MAX_OPS && parts.validate();
    if is_kept {
        return Ok(Some(Some(old.index)));
    }
    parts.functions[at] = old;
    Ok(None)
}

fn change_function(parts: &mut Parts, at: usize, donor: &Parts, u: &mut Unstructured<'_>) -> Result<bool> {
    let counts = parts.counts;
    let function = &mut parts.functions[at];
    match u.int_in_range(0..=17)? {
        0..=3 => operator(function, counts, u),
        4..=5 => statement(function, u),
        6..=9 => expression(function, u),
        10..=12 if counts.memories > 0 => accesses(function, counts.memories, u),
        kind => {
            let lender = match u.arbitrary()? && !donor.functions.is_empty() {
                true => u.choose(&donor.functions)?.clone(),
                false => u.choose(&parts.functions)?.clone(),
            };
            let function = &mut parts.functions[at];
            match kind {
                ..=16 => transplant(function, &lender, u),
                _ => body(function, &donor.functions, u),
            }
        }
    }
}

fn operator(function: &mut Function, counts: Counts, u: &mut Unstructured<'_>) -> Result<bool> {
    let first = u.choose_index(function.ops.len())?;
    // Most operators have no sibling: the next one that has.
    for at in (first..function.ops.len()).chain(0..first) {
        if let Some(new) = another(function, at, counts, u)? {
            let changed = new != function.ops[at].bytes;
            function.ops[at].bytes = new;
            return Ok(changed);
        }
    }
    Ok(false)
}

fn another(
    function: &Function,
    at: usize,
    counts: Counts,
    u: &mut Unstructured<'_>,
) -> Result<Option<Vec<u8>>> {
    let op = &function.ops[at];
    if let Some(ty) = constant_type(&op.bytes) {
        return match u.choose(&function.locals_of(ty)) {
            Ok(local) if u.arbitrary()? => Ok(Some(naming(0x20, *local))),
            _ => constant(ty, u),
        };
    }
    if let Some((code, number)) = named(&op.bytes) {
        return renamed(function, op, (code, number), counts, u);
    }
    if u.ratio(1, 3)?
        && let Some(new) = with_other_offset(&op.bytes, u)?
    {
        return Ok(Some(new));
    }
    sibling(&op.bytes, u)
}

fn renamed(
    function: &Function,
    op: &Op,
    (code, number): (u8, u32),
    counts: Counts,
    u: &mut Unstructured<'_>,
) -> Result<Option<Vec<u8>>> {
    let new = match code {
        0x20..=0x22 => {
            let Some(ty) = function.locals.get(number as usize) else {
                return Ok(None);
            };
            *u.choose(&function.locals_of(*ty))?
        }
        0x0c | 0x0d => u.int_in_range(0..=op.labels().saturating_sub(1))?,
        0x23 | 0x24 => u.int_in_range(0..=counts.globals.saturating_sub(1))?,
        0x10 | 0x12 | 0xd2 => u.int_in_range(0..=counts.functions.saturating_sub(1))?,
        _ => return Ok(None),
    };
    // `local.set` and `local.tee` are as good as each other where the value is dropped, which the validator knows.
    Ok((new != number).then(|| naming(code, new)))
}

/// A random piece of a kind.
fn piece(
    function: &Function,
    of_kind: impl Fn(&Piece) -> bool,
    u: &mut Unstructured<'_>,
) -> Result<Option<Piece>> {
    let first = u.choose_index(function.ops.len())?;
    for start in (first..function.ops.len()).chain(0..first) {
        let pieces: Vec<Piece> = function.pieces_at(start).into_iter().filter(&of_kind).collect();
        if !pieces.is_empty() {
            return Ok(Some(u.choose(&pieces)?.clone()));
        }
    }
    Ok(None)
}

fn is_statement(piece: &Piece) -> bool {
    piece.leaves.is_none()
}

fn statement(function: &mut Function, u: &mut Unstructured<'_>) -> Result<bool> {
    let Some(Piece { range, .. }) = piece(function, is_statement, u)? else {
        return Ok(false);
    };
    let ops = function.ops[range.clone()].to_vec();
    match u.int_in_range(0..=6)? {
        0 => drop(function.ops.drain(range)),
        1 => drop(function.ops.splice(range.end..range.end, ops)),
        2 => {
            let Some(Piece { range: other, .. }) = piece(function, is_statement, u)? else {
                return Ok(false);
            };
            let place = match other.start >= range.end {
                true => other.start - range.len(),
                false if other.start < range.start => other.start,
                false => return Ok(false),
            };
            function.ops.drain(range);
            function.ops.splice(place..place, ops);
        }
        3 => around_it(function, range, &[vec![0x02, 0x40]], &[vec![0x0b]]),
        4 => {
            let condition = match u.choose(&function.locals_of(ValType::I32)) {
                Ok(local) => naming(0x20, *local),
                Err(_) => vec![0x41, u.int_in_range(0..=1)?],
            };
            around_it(function, range, &[condition, vec![0x04, 0x40]], &[vec![0x0b]]);
        }
        _ => return counting_loop(function, range, u),
    }
    Ok(true)
}

/// A statement, some number of times.
fn counting_loop(
    function: &mut Function,
    range: std::ops::Range<usize>,
    u: &mut Unstructured<'_>,
) -> Result<bool> {
    let Some(local) = function.add_local(ValType::I32) else {
        return Ok(false);
    };
    let turns = u.int_in_range(1..=MAX_TURNS)? as u8;
    let before = [vec![0x41, turns], naming(0x21, local), vec![0x03, 0x40]];
    let after = [
        naming(0x20, local),
        vec![0x41, 1],
        vec![0x6b],
        naming(0x22, local),
        vec![0x0d, 0],
        vec![0x0b],
    ];
    around_it(function, range, &before, &after);
    Ok(true)
}

fn around_it(function: &mut Function, range: std::ops::Range<usize>, before: &[Vec<u8>], after: &[Vec<u8>]) {
    let ops = |bytes: &[Vec<u8>]| bytes.iter().cloned().map(Op::new).collect::<Vec<_>>();
    function.ops.splice(range.end..range.end, ops(after));
    function.ops.splice(range.start..range.start, ops(before));
}

fn expression(function: &mut Function, u: &mut Unstructured<'_>) -> Result<bool> {
    let Some(Piece {
        range,
        leaves: Some(ty),
    }) = piece(function, |piece| !is_statement(piece), u)?
    else {
        return Ok(false);
    };
    let locals = function.locals_of(ty);
    match u.int_in_range(0..=3)? {
        0 if !locals.is_empty() => {
            let get = Op::new(naming(0x20, *u.choose(&locals)?));
            function.ops.splice(range, [get]);
        }
        0 | 1 => {
            let Some(constant) = constant(ty, u)? else {
                return Ok(false);
            };
            function.ops.splice(range, [Op::new(constant)]);
        }
        _ => {
            let after = modified(ty, u)?;
            if after.is_empty() {
                return Ok(false);
            }
            around_it(function, range, &[], &after);
        }
    }
    Ok(true)
}

/// Operators behind an expression that make another value of it: what bounds of accesses and rules of an optimiser go by.
fn modified(ty: ValType, u: &mut Unstructured<'_>) -> Result<Vec<Vec<u8>>> {
    let second = constant(ty, u)?.unwrap_or_default();
    let pick = u.int_in_range(0..=7)?;
    Ok(match ty {
        ValType::I32 => {
            let masks: [&[u8]; 4] = [
                &[0xff, 0x01],
                &[0xff, 0xff, 0x03],
                &[0xf8, 0xff, 0x03],
                &[0xff, 0x3f],
            ];
            let mask = [&[0x41], *u.choose(&masks)?].concat();
            let shift = vec![0x41, u.int_in_range(0..=31)?];
            match pick {
                0 | 1 => vec![mask, vec![0x71]],
                2 => vec![shift, vec![*u.choose(&[0x74, 0x75, 0x76, 0x77, 0x78])?]],
                3 => vec![vec![0x45]],
                4 => vec![vec![0xad], vec![0xa7]],
                5 => [
                    &[vec![0xfd, u.int_in_range(15..=17)?]],
                    &vectors(u)?[..],
                    &lane(ty, u)?,
                ]
                .concat(),
                _ => vec![second, vec![u.int_in_range(0x6a..=0x78)?]],
            }
        }
        ValType::I64 => match pick {
            0 => vec![vec![0xa7], vec![*u.choose(&[0xac, 0xad])?]],
            1 => vec![vec![0x50], vec![0xad]],
            2 => [&[vec![0xfd, 18]], &vectors(u)?[..], &lane(ty, u)?].concat(),
            _ => vec![second, vec![u.int_in_range(0x7c..=0x8a)?]],
        },
        ValType::F32 => match pick {
            0 => vec![vec![0xbb], vec![0xb6]],
            1 => vec![vec![u.int_in_range(0x8b..=0x91)?]],
            2 => [&[vec![0xfd, 19]], &vectors(u)?[..], &lane(ty, u)?].concat(),
            _ => vec![second, vec![u.int_in_range(0x92..=0x98)?]],
        },
        ValType::F64 => match pick {
            0 => vec![vec![u.int_in_range(0x99..=0x9f)?]],
            1 => [&[vec![0xfd, 20]], &vectors(u)?[..], &lane(ty, u)?].concat(),
            _ => vec![second, vec![u.int_in_range(0xa0..=0xa6)?]],
        },
        ValType::V128 => vectors(u)?,
        ValType::Ref(_) => Vec::new(),
    })
}

/// Operators that make another vector of one.
fn vectors(u: &mut Unstructured<'_>) -> Result<Vec<Vec<u8>>> {
    // Some operator of the same type as these: `not`, `and`, a shift, `any_true`, a splat.
    let mut like = |bytes: &[u8]| Ok(sibling(bytes, u)?.unwrap_or_else(|| bytes.to_vec()));
    let (unary, binary, shift) = (like(&[0xfd, 77])?, like(&[0xfd, 78])?, like(&[0xfd, 107])?);
    let (test, splat) = (like(&[0xfd, 83])?, like(&[0xfd, 15])?);
    let count = vec![0x41, u.int_in_range(0..=63)?];
    let second = constant(ValType::V128, u)?.unwrap_or_default();
    Ok(match u.int_in_range(0..=6)? {
        0 | 1 => vec![unary],
        2 | 3 => vec![second, binary],
        4 => vec![count, shift],
        5 => vec![test, splat],
        _ => [&lane(ValType::I32, u)?[..], &[splat]].concat(),
    })
}

/// A lane of a vector, of a number type.
fn lane(ty: ValType, u: &mut Unstructured<'_>) -> Result<[Vec<u8>; 1]> {
    let (code, lanes) = match ty {
        ValType::I64 => (29, 2),
        ValType::F32 => (31, 4),
        ValType::F64 => (33, 2),
        _ => *u.choose(&[(21, 16), (22, 16), (24, 8), (25, 8), (27, 4)])?,
    };
    Ok([vec![0xfd, code, u.int_in_range(0..=lanes - 1)?]])
}

/// Loads and stores whose addresses are computed from one local, and lie at the same place but for their offsets: what one of them finds to be in
/// bounds an optimiser may take to be so in the next.
fn accesses(function: &mut Function, memories: u32, u: &mut Unstructured<'_>) -> Result<bool> {
    let address = *u.choose(&[ValType::I32, ValType::I32, ValType::I64])?;
    let locals = function.locals_of(address);
    let at = u.choose_index(function.ops.len())?;
    let base = match u.choose(&locals) {
        Ok(local) => *local,
        Err(_) => return Ok(false),
    };
    let Some(sum) = function.add_local(ValType::I64) else {
        return Ok(false);
    };
    let memory = u.int_in_range(0..=memories.min(3) - 1)?;
    let computed = match (address, u.int_in_range(0..=3)?) {
        (_, 0 | 1) => Vec::new(),
        (ValType::I32, 2) => {
            let small = vec![0x41, u.int_in_range(0..=63)?];
            // add, mul, and, shl, shr_u
            vec![small, vec![*u.choose(&[0x6a, 0x6c, 0x71, 0x74, 0x76])?]]
        }
        _ => modified(address, u)?,
    };
    let place: u64 = *u.choose(&[0, 0, 0, 8, 0xfff0, 0xfff8, 0x1_0000])?;
    let mut ops = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        let offset = place + u.int_in_range(0..=8)?;
        let access = |code: u8| {
            // Aligned to a byte.
            let mut bytes = match memory {
                0 => vec![code, 0],
                memory => vec![code, 0x40, memory as u8],
            };
            push_unsigned(&mut bytes, offset);
            bytes
        };
        let index = || [&[naming(0x20, base)], &computed[..]].concat();
        match u.ratio(1, 4)? {
            true => {
                ops.extend(index());
                ops.extend([naming(0x20, sum), access(u.int_in_range(0x3c..=0x3e)?)]);
            }
            false => {
                ops.push(naming(0x20, sum));
                ops.extend(index());
                ops.extend([
                    access(*u.choose(&[0x29, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35])?),
                    vec![0x7c],
                    naming(0x21, sum),
                ]);
            }
        }
    }
    // Where it can be seen.
    let address = match address {
        ValType::I32 => vec![0x41, 16],
        _ => vec![0x42, 16],
    };
    ops.extend([address, naming(0x20, sum), vec![0x37, 0, 0]]);
    around_it(function, at..at, &ops, &[]);
    Ok(true)
}

/// A piece of another function in the place of one of the same kind, or a statement before another.
fn transplant(function: &mut Function, lender: &Function, u: &mut Unstructured<'_>) -> Result<bool> {
    if !lender.is_open() {
        return Ok(false);
    }
    let Some(place) = piece(function, |_| true, u)? else {
        return Ok(false);
    };
    let Some(lent) = piece(lender, |piece| piece.leaves == place.leaves, u)? else {
        return Ok(false);
    };
    let mut ops = lender.ops[lent.range].to_vec();
    let mut names = vec![None; lender.locals.len()];
    for op in &mut ops {
        if let Some((code @ 0x20..=0x22, number)) = named(&op.bytes) {
            let Some(local) = own_local(function, lender, number, &mut names, u)? else {
                return Ok(false);
            };
            op.bytes = naming(code, local);
        }
    }
    let range = match (place.leaves, u.arbitrary()?) {
        (None, true) => place.range.start..place.range.start,
        // Behind what there is, and both seen.
        (Some(ty), true) => {
            let Some(both) = both(ty, u)? else {
                return Ok(false);
            };
            ops.push(Op::new(both));
            place.range.end..place.range.end
        }
        (_, false) => place.range,
    };
    function.ops.splice(range, ops);
    Ok(true)
}

/// An operator that makes one value of two, by which either is seen.
fn both(ty: ValType, u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    Ok(match ty {
        ValType::I32 => Some(vec![*u.choose(&[0x6a, 0x6b, 0x73, 0x46, 0x4b])?]),
        ValType::I64 => Some(vec![*u.choose(&[0x7c, 0x7d, 0x85])?]),
        ValType::F32 => Some(vec![*u.choose(&[0x92, 0x93, 0x98])?]),
        ValType::F64 => Some(vec![*u.choose(&[0xa0, 0xa1, 0xa6])?]),
        ValType::V128 => sibling(&[0xfd, 78], u)?,
        ValType::Ref(_) => None,
    })
}

/// The local here that stands for a lender's.
fn own_local(
    function: &mut Function,
    lender: &Function,
    number: u32,
    names: &mut [Option<u32>],
    u: &mut Unstructured<'_>,
) -> Result<Option<u32>> {
    let (Some(ty), Some(name)) = (lender.locals.get(number as usize), names.get_mut(number as usize)) else {
        return Ok(None);
    };
    if name.is_none() {
        let own = function.locals_of(*ty);
        *name = match u.choose(&own) {
            Ok(local) => Some(*local),
            Err(_) => function.add_local(*ty),
        };
    }
    Ok(*name)
}

/// The whole body of a function of the same type.
fn body(function: &mut Function, lenders: &[Function], u: &mut Unstructured<'_>) -> Result<bool> {
    let same = |other: &&Function| other.ty == function.ty && other.is_open();
    let same: Vec<&Function> = lenders.iter().filter(same).collect();
    if same.is_empty() {
        return Ok(false);
    }
    let (index, ty) = (function.index, function.ty.clone());
    *function = Function {
        index,
        ty,
        ..(*u.choose(&same)?).clone()
    };
    Ok(true)
}

/// What is around the functions. Exports stay: they are how functions are found.
fn around(parts: &mut Parts, u: &mut Unstructured<'_>) -> Result<bool> {
    // Types, imports and functions must fit to what refers to them: tables, memories, globals, segments.
    let sections = parts.pieces.sections.iter_mut();
    let mut sections: Vec<_> = sections
        .filter(|section| matches!(section.id, 4..=6 | 9 | 11))
        .collect();
    if sections.is_empty() {
        return Ok(false);
    }
    let at = u.choose_index(sections.len())?;
    let section = &mut sections[at];
    debug_assert_ne!(section.id, EXPORT);
    let before = section.body.clone();
    match section.id == MEMORY && u.ratio(2, 3)? {
        true => limits(&mut section.body, u)?,
        false => edit(&mut section.body, u)?,
    }
    Ok(section.body != before)
}

/// Other limits for a module's only memory.
fn limits(memories: &mut Vec<u8>, u: &mut Unstructured<'_>) -> Result<()> {
    // One memory without a page size of its own.
    let [1, flags @ (0..=1 | 4..=5), ..] = memories[..] else {
        return edit(memories, u);
    };
    let min: u64 = *u.choose(&[0, 0, 1, 1, 2, 3, 16])?;
    let max: Option<u64> = u.ratio(2, 3)?.then_some(min + u.int_in_range(0..=3)?);
    let flags = flags & !1 | u8::from(max.is_some());
    *memories = vec![1, flags];
    push_unsigned(memories, min);
    if let Some(max) = max {
        push_unsigned(memories, max);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Numbers;
    use crate::corpus::MODULES;

    #[test]
    fn changed_modules_are_valid_and_others() {
        let modules: Vec<Parts> = MODULES
            .iter()
            .step_by(17)
            .filter_map(|module| Parts::of(module))
            .collect();
        let (mut tried, mut different) = (0, 0);
        for (seed, pair) in modules.windows(2).enumerate() {
            let [original, donor] = pair else { continue };
            if original.functions.is_empty() {
                continue;
            }
            let data = Numbers::new(seed as u64).bytes(4_096);
            let changed = change(original, donor, 4, &mut Unstructured::new(&data)).expect("choices");
            assert!(Parts::of(&changed.parts.join()).is_some());
            tried += 1;
            different += u32::from(changed.parts.join() != original.join());
        }
        assert!(tried > 30 && different * 10 > tried * 9, "{different} of {tried}");
    }
}
