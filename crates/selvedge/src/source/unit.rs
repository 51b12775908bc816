//! One unit of a module's DWARF: its functions, what is inlined in them, its lines.

use super::text::{TEXT_BYTES, demangled};
use super::{Answer, Budget, Bytes, INLINED, NoAnswer};
use gimli::{
    AttributeValue, EntriesRaw, IncompleteLineProgram, Reader, Section, UnitHeader, UnitOffset,
    constants as dw,
};
use std::sync::Arc;

type Value<'a> = AttributeValue<Bytes<'a>>;
type Dwarf<'a> = gimli::Dwarf<Bytes<'a>>;

/// The most bytes of a unit's table of abbreviations: each takes some thirty times its bytes in memory while it is used.
const ABBREVIATION_BYTES: usize = 1 << 20;
/// The most bytes of a line program's head, with its files: a file takes some hundred times its bytes at worst.
const LINE_HEADER_BYTES: usize = 512 << 10;
/// How often an entry may refer to another for its name.
const REFERENCES: usize = 8;

/// What is read of an entry.
#[derive(Debug, Clone, Default)]
struct Entry<'a> {
    low: Option<Value<'a>>,
    high: Option<Value<'a>>,
    ranges: Option<Value<'a>>,
    names: Names<'a>,
    call: Place,
}

/// Where an entry's name is.
#[derive(Debug, Clone, Default)]
pub(super) struct Names<'a> {
    linkage: Option<Value<'a>>,
    name: Option<Value<'a>>,
    origin: Option<Value<'a>>,
}

/// A place in the source: a file by its number, a line, a column.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) file: Option<u64>,
    pub(super) line: Option<u32>,
    pub(super) column: Option<u32>,
}

/// A function around an address: the first is no inlined one, each other is inlined in the one before.
#[derive(Debug)]
pub(super) struct Inlined<'a> {
    pub(super) names: Names<'a>,
    /// Where it is called, in the one before.
    pub(super) call: Place,
}

/// What only the first entry of a unit says.
#[derive(Debug, Default, Clone, Copy)]
struct Root<'a> {
    line_program: Option<gimli::DebugLineOffset<usize>>,
    name: Option<Value<'a>>,
    comp_dir: Option<Value<'a>>,
    low: Option<Value<'a>>,
}

/// A unit whose abbreviations and first entry were read.
pub(super) struct Unit<'d, 'a> {
    dwarf: &'d Dwarf<'a>,
    unit: gimli::Unit<Bytes<'a>>,
    root: Root<'a>,
}

impl<'d, 'a> Unit<'d, 'a> {
    /// Reads what is needed to read its entries.
    ///
    /// Not by `gimli::Unit::new`, which also reads all of a line program's head, however large.
    pub(super) fn open(
        dwarf: &'d Dwarf<'a>,
        header: UnitHeader<Bytes<'a>>,
        budget: &mut Budget,
    ) -> Answer<Unit<'d, 'a>> {
        check_abbreviations(dwarf, header.debug_abbrev_offset().0, budget)?;
        let abbreviations = header.abbreviations(&dwarf.debug_abbrev)?;
        let (encoding, file_type) = (header.encoding(), gimli::DwarfFileType::Main);
        let mut unit = Unit {
            dwarf,
            root: Root::default(),
            unit: gimli::Unit {
                header,
                abbreviations: Arc::new(abbreviations),
                name: None,
                comp_dir: None,
                low_pc: 0,
                str_offsets_base: gimli::DebugStrOffsetsBase::default_for_encoding_and_file(
                    encoding, file_type,
                ),
                addr_base: gimli::DebugAddrBase(0),
                loclists_base: gimli::DebugLocListsBase::default_for_encoding_and_file(encoding, file_type),
                rnglists_base: gimli::DebugRngListsBase::default_for_encoding_and_file(encoding, file_type),
                line_program: None,
                dwo_id: None,
            },
        };
        let root = unit.read_root(budget)?;
        // The bases are known now, which this may need.
        if let Some(low) = root.low {
            unit.unit.low_pc = dwarf.attr_address(&unit.unit, low)?.unwrap_or(0);
        }
        unit.root = root;
        Ok(unit)
    }

    fn read_root(&mut self, budget: &mut Budget) -> Answer<Root<'a>> {
        let abbreviations = self.unit.abbreviations.clone();
        let mut entries = self.unit.header.entries_raw(&abbreviations, None)?;
        let start = entries.next_offset();
        let abbreviation = entries.read_abbreviation()?.ok_or(NoAnswer)?;
        budget.take(1 + abbreviation.attributes().len())?;
        let mut root = Root::default();
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            let value = attribute.value();
            match (attribute.name(), value) {
                (dw::DW_AT_stmt_list, AttributeValue::DebugLineRef(at)) => root.line_program = Some(at),
                (dw::DW_AT_str_offsets_base, AttributeValue::DebugStrOffsetsBase(base)) => {
                    self.unit.str_offsets_base = base;
                }
                (dw::DW_AT_addr_base | dw::DW_AT_GNU_addr_base, AttributeValue::DebugAddrBase(base)) => {
                    self.unit.addr_base = base;
                }
                (
                    dw::DW_AT_rnglists_base | dw::DW_AT_GNU_ranges_base,
                    AttributeValue::DebugRngListsBase(base),
                ) => self.unit.rnglists_base = base,
                (dw::DW_AT_name, value) => root.name = Some(value),
                (dw::DW_AT_comp_dir, value) => root.comp_dir = Some(value),
                (dw::DW_AT_low_pc, value) => root.low = Some(value),
                _ => {}
            }
        }
        budget.take(entries.next_offset().0 - start.0)?;
        Ok(root)
    }

    /// A text up to its NUL; as long as it likes, so one without an end ends the search.
    fn string(&self, value: Value<'a>, budget: &mut Budget) -> Answer<Bytes<'a>> {
        match self.dwarf.attr_string(&self.unit, value) {
            Ok(text) => budget.take(text.len()).map(|()| text),
            Err(_) => budget.take(usize::MAX).and(Err(NoAnswer)),
        }
    }

    fn entries(&self, from: Option<UnitOffset>) -> Answer<EntriesRaw<'_, Bytes<'a>>> {
        Ok(self.unit.header.entries_raw(&self.unit.abbreviations, from)?)
    }

    /// Tells each range of addresses that a function has, and its entry.
    pub(super) fn each_function(
        &self,
        budget: &mut Budget,
        mut tell: impl FnMut(u64, u64, UnitOffset),
    ) -> Answer<()> {
        let mut entries = self.entries(None)?;
        while !entries.is_empty() {
            let at = entries.next_offset();
            budget.take(1)?;
            let Some(abbreviation) = entries.read_abbreviation()? else {
                continue;
            };
            budget.take(abbreviation.attributes().len())?;
            if abbreviation.tag() != dw::DW_TAG_subprogram {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let entry = read_entry(&mut entries, abbreviation.attributes())?;
            self.each_range(&entry, budget, |begin, end| tell(begin, end, at))?;
        }
        Ok(())
    }

    /// The function at `entry` and what is inlined in it around `address`, from the outside.
    pub(super) fn inlined_at(
        &self,
        entry: UnitOffset,
        address: u64,
        budget: &mut Budget,
    ) -> Answer<Vec<Inlined<'a>>> {
        let mut entries = self.entries(Some(entry))?;
        let mut chain = Vec::new();
        // Depth of the entry that the last of the chain is: what is inlined in it lies deeper.
        let mut innermost = 0;
        while !entries.is_empty() {
            let depth = entries.next_depth();
            if !chain.is_empty() && depth <= 0 {
                break; // the function's entry is complete
            }
            budget.take(1)?;
            let Some(abbreviation) = entries.read_abbreviation()? else {
                continue;
            };
            budget.take(abbreviation.attributes().len())?;
            let is_function = chain.is_empty();
            if !is_function && abbreviation.tag() != dw::DW_TAG_inlined_subroutine {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let entry = read_entry(&mut entries, abbreviation.attributes())?;
            let mut is_around = false;
            self.each_range(&entry, budget, |begin, end| {
                is_around |= begin <= address && address < end;
            })?;
            if is_function || (is_around && depth > innermost && chain.len() < INLINED) {
                innermost = depth;
                chain.push(Inlined {
                    names: entry.names,
                    call: entry.call,
                });
            }
        }
        Ok(chain)
    }

    /// Tells each range of addresses of an entry. Those that begin with the code section, where there is no code, are of functions that
    /// the linker left out.
    fn each_range(
        &self,
        entry: &Entry<'a>,
        budget: &mut Budget,
        mut tell: impl FnMut(u64, u64),
    ) -> Answer<()> {
        let mut tell = |begin: u64, end: u64| {
            if 0 < begin && begin < end {
                tell(begin, end);
            }
        };
        if let Some(value) = entry.ranges {
            let Some(mut ranges) = self.dwarf.attr_ranges(&self.unit, value)? else {
                return Ok(());
            };
            // One raw item at a time: an iterator of ranges reads any number of items that are none.
            while let Some(raw) = ranges.next_raw()? {
                budget.take(1)?;
                if let Some(range) = ranges.convert_raw(raw)? {
                    tell(range.begin, range.end);
                }
            }
            return Ok(());
        }
        let (Some(low), Some(high)) = (entry.low, entry.high) else {
            return Ok(());
        };
        let Some(begin) = self.dwarf.attr_address(&self.unit, low)? else {
            return Ok(());
        };
        let end = match high.udata_value() {
            Some(length) => begin.checked_add(length),
            None => self.dwarf.attr_address(&self.unit, high)?,
        };
        if let Some(end) = end {
            tell(begin, end);
        }
        Ok(())
    }

    /// A function's name: the one that is linked if that is a Rust one, which has the path; else the one in the source.
    pub(super) fn name(&self, names: &Names<'a>, budget: &mut Budget) -> Answer<Option<String>> {
        let mut found = Found::default();
        let mut other = self.note_names(names, &mut found, budget)?;
        let mut elsewhere: Option<Unit<'d, 'a>> = None;
        for _ in 0..REFERENCES {
            let (None, Some(value)) = (&found.linkage, other) else {
                break;
            };
            let at = match value {
                AttributeValue::UnitRef(at) => at,
                AttributeValue::DebugInfoRef(at) => {
                    let (unit, at) = self.find_unit(at, budget)?;
                    elsewhere = Some(unit);
                    at
                }
                _ => break,
            };
            let unit = elsewhere.as_ref().unwrap_or(self);
            let mut entries = unit.entries(Some(at))?;
            let abbreviation = entries.read_abbreviation()?.ok_or(NoAnswer)?;
            budget.take(1 + abbreviation.attributes().len())?;
            let entry = read_entry(&mut entries, abbreviation.attributes())?;
            // Anyone may refer to it again, however long its texts are.
            budget.take(entries.next_offset().0 - at.0)?;
            other = unit.note_names(&entry.names, &mut found, budget)?;
        }
        Ok(found.into_name())
    }

    /// Takes what names there are, and gives where there may be more.
    fn note_names(
        &self,
        names: &Names<'a>,
        found: &mut Found,
        budget: &mut Budget,
    ) -> Answer<Option<Value<'a>>> {
        for (place, value) in [(&mut found.linkage, names.linkage), (&mut found.name, names.name)] {
            if let (None, Some(value)) = (&place, value) {
                *place = Some(text(self.string(value, budget)?));
            }
        }
        Ok(names.origin)
    }

    /// The unit that an offset of the section lies in, and the offset in it.
    fn find_unit(
        &self,
        at: gimli::DebugInfoOffset<usize>,
        budget: &mut Budget,
    ) -> Answer<(Unit<'d, 'a>, UnitOffset)> {
        let mut headers = self.dwarf.units();
        while let Some(header) = headers.next()? {
            budget.take(1)?;
            if let Some(inside) = at.to_unit_offset(&header) {
                return Ok((Unit::open(self.dwarf, header, budget)?, inside));
            }
        }
        Err(NoAnswer)
    }

    /// The unit's line program, with its files.
    pub(super) fn lines(&self, budget: &mut Budget) -> Answer<Lines<'a>> {
        let at = self.root.line_program.ok_or(NoAnswer)?;
        budget.take(line_header_bytes(self.dwarf, at.0)?)?;
        let mut string = |value: Option<Value<'a>>| value.map(|value| self.string(value, budget)).transpose();
        let (directory, name) = (string(self.root.comp_dir)?, string(self.root.name)?);
        let address_size = self.unit.header.address_size();
        let program = self.dwarf.debug_line.program(at, address_size, directory, name)?;
        Ok(Lines { program, directory })
    }
}

/// The names of an entry and of those that it refers to.
#[derive(Debug, Default)]
struct Found {
    linkage: Option<String>,
    name: Option<String>,
}

impl Found {
    fn into_name(self) -> Option<String> {
        let rust = self
            .linkage
            .as_deref()
            .and_then(|name| rustc_demangle::try_demangle(name).ok())
            .map(|name| demangled(&name));
        rust.or(self.name).or(self.linkage)
    }
}

/// A unit's line program: which row of it is of which address, and the files.
pub(super) struct Lines<'a> {
    program: IncompleteLineProgram<Bytes<'a>>,
    /// Where the compiler ran.
    directory: Option<Bytes<'a>>,
}

impl<'a> Lines<'a> {
    /// The place that an address comes from.
    pub(super) fn row_at(&self, address: u64, budget: &mut Budget) -> Answer<Place> {
        let mut program = self.program.clone();
        let mut instructions = program.header().instructions();
        let mut row = gimli::LineRow::new(program.header());
        let mut before: Option<(u64, Place)> = None;
        while let Some(instruction) = instructions.next_instruction(program.header())? {
            budget.take(1)?;
            // A program may add files to its head, any number of them. No compiler does.
            let adds_file = matches!(instruction, gimli::LineInstruction::DefineFile(_));
            if adds_file || !row.execute(instruction, &mut program)? {
                continue;
            }
            // A sequence that begins with the code section was left out, as in `each_range`.
            let around =
                before.filter(|(begin, _)| 0 < *begin && *begin <= address && address < row.address());
            if let Some((_, place)) = around {
                return Ok(place);
            }
            let place = Place {
                file: Some(row.file_index()),
                line: row.line().and_then(|line| u32::try_from(line.get()).ok()),
                column: match row.column() {
                    gimli::ColumnType::LeftEdge => None,
                    gimli::ColumnType::Column(column) => u32::try_from(column.get()).ok(),
                },
            };
            before = (!row.end_sequence()).then(|| (row.address(), place));
            row.reset(program.header());
        }
        Err(NoAnswer)
    }

    /// The path of a file by its number.
    pub(super) fn file(&self, unit: &Unit<'_, 'a>, index: u64, budget: &mut Budget) -> Answer<String> {
        let header = self.program.header();
        let file = header.file(index).ok_or(NoAnswer)?;
        let mut path = self.directory.map(text).unwrap_or_default();
        if let Some(directory) = file.directory(header).filter(|_| file.directory_index() != 0) {
            push(&mut path, &text(unit.string(directory, budget)?));
        }
        push(&mut path, &text(unit.string(file.path_name(), budget)?));
        Ok(path)
    }
}

/// Goes on with `part` from `path`, or begins with it, if it is absolute.
fn push(path: &mut String, part: &str) {
    if part == "." {
        return;
    }
    if part.starts_with('/') || part.get(1..3).is_some_and(|rest| rest == ":\\" || rest == ":/") {
        path.clear();
    } else if !path.is_empty() && !path.ends_with(['/', '\\']) {
        path.push('/');
    }
    path.push_str(part);
}

fn text(bytes: Bytes<'_>) -> String {
    let bytes = bytes.slice();
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES)]).into_owned()
}

fn read_entry<'a>(
    entries: &mut EntriesRaw<'_, Bytes<'a>>,
    specs: &[gimli::AttributeSpecification],
) -> Answer<Entry<'a>> {
    let mut entry = Entry::default();
    for spec in specs {
        let attribute = entries.read_attribute(*spec)?;
        let value = attribute.value();
        let number = || {
            attribute
                .udata_value()
                .and_then(|value| u32::try_from(value).ok())
        };
        match attribute.name() {
            dw::DW_AT_low_pc => entry.low = Some(value),
            dw::DW_AT_high_pc => entry.high = Some(value),
            dw::DW_AT_ranges => entry.ranges = Some(value),
            dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name => entry.names.linkage = Some(value),
            dw::DW_AT_name => entry.names.name = Some(value),
            dw::DW_AT_abstract_origin | dw::DW_AT_specification => entry.names.origin = Some(value),
            dw::DW_AT_call_file => {
                if let AttributeValue::FileIndex(index) = value {
                    entry.call.file = Some(index);
                }
            }
            dw::DW_AT_call_line => entry.call.line = number(),
            dw::DW_AT_call_column => entry.call.column = number(),
            _ => {}
        }
    }
    Ok(entry)
}

/// Pays for a table of abbreviations, and looks that it is not too large. DWARF 5, 7.5.3: code, tag, whether there are children, then names and
/// forms up to a pair of zeros, and a value for DW_FORM_implicit_const; a code of 0 ends the table.
fn check_abbreviations(dwarf: &Dwarf<'_>, offset: usize, budget: &mut Budget) -> Answer<()> {
    let mut table = *dwarf.debug_abbrev.reader();
    table.skip(offset)?;
    table.truncate(table.len().min(ABBREVIATION_BYTES))?;
    let mut paid = table.len();
    while table.read_uleb128()? != 0 {
        let _tag = table.read_uleb128()?;
        let _has_children = table.read_u8()?;
        loop {
            let (name, form) = (table.read_uleb128()?, table.read_uleb128()?);
            if (name, form) == (0, 0) {
                break;
            }
            if form == u64::from(dw::DW_FORM_implicit_const.0) {
                table.read_sleb128()?;
            }
            budget.take(paid - table.len())?;
            paid = table.len();
        }
        budget.take(paid - table.len())?;
        paid = table.len();
    }
    Ok(())
}

/// How many bytes the head of a line program has, if we read so many. DWARF 5, 6.2.4: length, version, from version 5 on the sizes of
/// addresses and segment selectors, length of the head.
fn line_header_bytes(dwarf: &Dwarf<'_>, offset: usize) -> Answer<usize> {
    let mut rest = *dwarf.debug_line.reader();
    rest.skip(offset)?;
    let (_length, format) = rest.read_initial_length()?;
    if rest.read_u16()? >= 5 {
        rest.read_u16()?;
    }
    let head = rest.read_length(format)?;
    if head > LINE_HEADER_BYTES {
        return Err(NoAnswer);
    }
    Ok(head)
}
