//! What a module holds for debuggers: DWARF, in custom sections of its names.
//!
//! The compiler looks at none of it; it keeps the sections that lead from an address to a line, if it is told to.

use std::collections::BTreeMap;

/// The sections that say where code came from. Those about variables, types and macros are never kept.
const KEPT: [&str; 9] = [
    ".debug_abbrev",
    ".debug_addr",
    ".debug_info",
    ".debug_line",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_str",
    ".debug_str_offsets",
];

/// The section whose presence is remembered.
pub(crate) const INFO: &str = ".debug_info";

/// Whether a section of this name leads from an address to a line.
pub(crate) fn is_kept(name: &str) -> bool {
    KEPT.contains(&name)
}

/// DWARF of a module, as it was found: nothing in it has been checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DebugSections {
    /// Bytes from the start of the module to where code addresses count from: the contents of the code section.
    pub code_offset: u32,
    /// Whether the module has a `.debug_info`, kept or not.
    pub is_present: bool,
    kept: BTreeMap<&'static str, Box<[u8]>>,
}

impl DebugSections {
    /// A section's bytes; none where there is no such section, or it was not kept.
    pub fn get(&self, name: &str) -> &[u8] {
        self.kept.get(name).map_or(&[], |bytes| bytes)
    }

    /// How many bytes of memory the sections take.
    pub fn bytes(&self) -> usize {
        self.kept.values().map(|bytes| bytes.len()).sum()
    }

    /// Notes a custom section. Of several with one name, the first counts.
    pub(crate) fn section(&mut self, name: &str, bytes: &[u8], keep: bool) {
        self.is_present |= name == INFO;
        let known = KEPT.iter().find(|known| **known == name);
        if let Some(name) = known.filter(|_| keep) {
            self.kept.entry(name).or_insert_with(|| bytes.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_kept_by_name_and_only_if_asked_for() {
        let mut sections = DebugSections::default();
        sections.section(".debug_info", b"not kept", false);
        assert!(sections.is_present);
        assert_eq!(sections.bytes(), 0);
        sections.section(".debug_line", b"lines", true);
        sections.section(".debug_line", b"more lines", true);
        sections.section(".debug_loc", b"variables", true);
        sections.section("name", b"names", true);
        assert_eq!(sections.get(".debug_line"), b"lines");
        assert_eq!(sections.get(".debug_loc"), b"");
        assert_eq!(sections.bytes(), 5);
    }
}
