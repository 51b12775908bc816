//! A module's bytes as sections, as far as they are whole, and the numbers that say how long they are.

/// A module's first eight bytes.
const HEADER_BYTES: usize = 8;
/// Sections by number. Spec: core/binary/modules, sections.
pub(crate) const TYPE: u8 = 1;
pub(crate) const FUNCTION: u8 = 3;
pub(crate) const TABLE: u8 = 4;
pub(crate) const MEMORY: u8 = 5;
pub(crate) const GLOBAL: u8 = 6;
pub(crate) const EXPORT: u8 = 7;
pub(crate) const START: u8 = 8;
pub(crate) const ELEMENT: u8 = 9;
pub(crate) const CODE: u8 = 10;

/// The order in which sections are: tags behind memories, the count of data before the code. Custom ones (0) are anywhere.
const ORDER: [u8; 13] = [
    1, 2, FUNCTION, TABLE, MEMORY, 13, GLOBAL, EXPORT, START, ELEMENT, 12, CODE, 11,
];

/// A section's id and contents.
#[derive(Clone)]
pub(crate) struct Section {
    pub(crate) id: u8,
    pub(crate) body: Vec<u8>,
}

/// A module in pieces.
#[derive(Clone)]
pub(crate) struct Pieces {
    pub(crate) header: Vec<u8>,
    pub(crate) sections: Vec<Section>,
    /// What is behind the last whole section.
    pub(crate) rest: Vec<u8>,
}

impl Pieces {
    pub(crate) fn of(bytes: &[u8]) -> Pieces {
        let (header, mut rest) = bytes.split_at(HEADER_BYTES.min(bytes.len()));
        let mut sections = Vec::new();
        while let [id, behind @ ..] = rest
            && let Some((body, behind)) = sized(behind)
        {
            sections.push(Section {
                id: *id,
                body: body.to_vec(),
            });
            rest = behind;
        }
        Pieces {
            header: header.to_vec(),
            sections,
            rest: rest.to_vec(),
        }
    }

    /// The section of a kind. If there is none, one without entries is put where it belongs.
    pub(crate) fn section(&mut self, id: u8) -> &mut Section {
        let sections = &mut self.sections;
        let place = sections.iter().position(|section| section.id == id);
        let place = place.unwrap_or_else(|| {
            let rank = |id| ORDER.iter().position(|known| *known == id);
            let behind = sections.iter().position(|section| rank(section.id) > rank(id));
            let place = behind.unwrap_or(sections.len());
            let body = vec![0];
            sections.insert(place, Section { id, body });
            place
        });
        &mut sections[place]
    }

    pub(crate) fn join(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        for section in &self.sections {
            bytes.push(section.id);
            push_sized(&mut bytes, &section.body);
        }
        bytes.extend(&self.rest);
        bytes
    }
}

/// The count that a code section states, and its bodies, if they are whole.
pub(crate) fn bodies(section: &[u8]) -> Option<(u32, Vec<Vec<u8>>)> {
    let (count, mut rest) = number(section)?;
    let mut bodies = Vec::new();
    while !rest.is_empty() {
        let (body, behind) = sized(rest)?;
        bodies.push(body.to_vec());
        rest = behind;
    }
    Some((count, bodies))
}

/// A number of 32 bits in LEB128, and what is behind it.
pub(crate) fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

pub(crate) fn push_number(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// What a size in front tells to take, and what is behind that.
pub(crate) fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = number(bytes)?;
    rest.split_at_checked(size as usize)
}

pub(crate) fn push_sized(bytes: &mut Vec<u8>, body: &[u8]) {
    push_number(bytes, body.len() as u32);
    bytes.extend(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_taken_apart_and_joined_is_as_it_was() {
        let module = wat::parse_str(r#"(module (memory 1) (func (param i32)) (func) (data "x"))"#);
        let module = module.expect("well-formed");
        let pieces = Pieces::of(&module);
        assert!(pieces.sections.len() > 3 && pieces.rest.is_empty());
        assert_eq!(pieces.join(), module);
        let code = pieces.sections.iter().find(|section| section.id == CODE);
        let (count, bodies) = bodies(&code.expect("it has functions").body).expect("it is whole");
        assert_eq!((count, bodies.len()), (2, 2));
    }
}
