//! Changes to a module's bytes that keep some of its structure.
//!
//! A change of plain bytes is refused at the first size that no longer fits, and nothing behind it is read. So most changes here
//! take the module apart, as far as that goes, and put it together with sizes that are right:
//!
//! ```text
//!   module     sections, then a rest that is none     swap, drop, double, rename, take one of another module
//!   section    its bytes                              edit
//!   code       its bodies                             edit one, double one, drop one, the count adjusted or not
//!   bytes      a bit, a byte, a number too large, a piece removed or doubled, the end cut off
//! ```

use crate::sections::{CODE, Pieces, bodies, push_number, push_sized};
use arbitrary::{Result, Unstructured};

/// One more than the greatest section that the specification or a proposal knows.
const SECTION_IDS: u8 = 15;
/// The most that a doubled piece adds.
const MAX_PIECE_BYTES: usize = 256;
/// Bytes that mean something in many places: the ends of numbers, types, `end`, prefixes of operators.
const TELLING: [u8; 24] = [
    0x00, 0x01, 0x02, 0x0b, 0x1f, 0x40, 0x4e, 0x50, 0x5e, 0x5f, 0x60, 0x63, 0x64, 0x69, 0x6f, 0x70, 0x7b,
    0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xfe, 0xff,
];
/// Numbers at the edges, in LEB128: the largest of 32 bits, of 64, too long, without an end.
const NUMBERS: [&[u8]; 8] = [
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x08],
    &[0x80, 0x80, 0x80, 0x80, 0x00],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
    &[0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0x80, 0x80, 0x04],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
];

/// `module` with one to eight changes. `other` lends sections.
pub fn mutate(module: &[u8], other: &[u8], u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = module.to_vec();
    for _ in 0..u.int_in_range(1..=8)? {
        match u.int_in_range(0..=9)? {
            0 => edit(&mut bytes, u)?,
            1..=3 => bytes = change_sections(&bytes, other, u)?,
            4..=6 => bytes = change_in_section(&bytes, u)?,
            _ => bytes = change_in_code(&bytes, u)?,
        }
    }
    Ok(bytes)
}

fn change_sections(bytes: &[u8], other: &[u8], u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut pieces = Pieces::of(bytes);
    let sections = &mut pieces.sections;
    if sections.is_empty() {
        return Ok(bytes.to_vec());
    }
    let (a, b) = (u.choose_index(sections.len())?, u.choose_index(sections.len())?);
    match u.int_in_range(0..=5)? {
        0 => sections.swap(a, b),
        1 => drop(sections.remove(a)),
        2 => sections.insert(b, sections[a].clone()),
        3 => sections[a].id = u.int_in_range(0..=SECTION_IDS)?,
        _ => {
            let lent = Pieces::of(other).sections;
            if !lent.is_empty() {
                let section = u.choose(&lent)?.clone();
                // In the place of its like, where there is one.
                match sections.iter().position(|own| own.id == section.id) {
                    Some(place) => sections[place] = section,
                    None => sections.insert(a, section),
                }
            }
        }
    }
    Ok(pieces.join())
}

fn change_in_section(bytes: &[u8], u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut pieces = Pieces::of(bytes);
    if pieces.sections.is_empty() {
        return Ok(bytes.to_vec());
    }
    let index = u.choose_index(pieces.sections.len())?;
    edit(&mut pieces.sections[index].body, u)?;
    Ok(pieces.join())
}

fn change_in_code(bytes: &[u8], u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut pieces = Pieces::of(bytes);
    let code = pieces.sections.iter_mut().find(|section| section.id == CODE);
    if let Some(code) = code
        && let Some((count, mut bodies)) = bodies(&code.body)
        && !bodies.is_empty()
    {
        let index = u.choose_index(bodies.len())?;
        match u.int_in_range(0..=7)? {
            0 => bodies.insert(index, bodies[index].clone()),
            1 => drop(bodies.remove(index)),
            _ => edit(&mut bodies[index], u)?,
        }
        let count = match u.ratio(1, 8)? {
            true => count,
            false => bodies.len() as u32,
        };
        code.body.clear();
        push_number(&mut code.body, count);
        for body in &bodies {
            push_sized(&mut code.body, body);
        }
    }
    Ok(pieces.join())
}

/// Changes plain bytes.
pub(crate) fn edit(bytes: &mut Vec<u8>, u: &mut Unstructured<'_>) -> Result<()> {
    if bytes.is_empty() {
        bytes.push(u.arbitrary()?);
        return Ok(());
    }
    let at = u.choose_index(bytes.len())?;
    let piece = at..(at + u.int_in_range(1..=MAX_PIECE_BYTES)?).min(bytes.len());
    match u.int_in_range(0..=8)? {
        0 | 1 => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
        2 => bytes[at] = u.arbitrary()?,
        3 | 4 => bytes[at] = *u.choose(&TELLING)?,
        5 => drop(bytes.splice(at..=at, u.choose(&NUMBERS)?.iter().copied())),
        6 => drop(bytes.drain(piece)),
        7 => {
            let doubled = bytes[piece].to_vec();
            bytes.splice(at..at, doubled);
        }
        _ => bytes.truncate(at),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::MODULES;

    #[test]
    fn a_module_is_changed_by_the_bytes_alone() {
        let mut seed = 1_u64;
        let mut byte = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        };
        let mut changed = 0;
        for (module, other) in MODULES.iter().zip(&MODULES[1000..]).take(100) {
            let choices: Vec<u8> = (0..512).map(|_| byte()).collect();
            let change =
                || mutate(module, other, &mut Unstructured::new(&choices)).expect("enough to choose by");
            assert_eq!(change(), change());
            changed += u32::from(change() != *module);
        }
        // A change may put back what was there.
        assert!(changed > 50, "{changed} of 100 modules were changed");
    }
}
