//! From an address of a guest's code to lines of its source, by the DWARF that its module holds.
//!
//! Nothing is read before somebody asks. The first question indexes the functions of the module, all others go to one function's
//! entry and its unit's line program:
//!
//! ```text
//!   address --index--> function (unit, entry) --walk--> [function, inlined in it, inlined in that ..]   names, lines of calls
//!                                             --rows--> file, line, column of the address itself
//! ```
//!
//! DWARF comes from whoever wrote the module, and `gimli` takes it as it is. So
//! 1. every entry, attribute, range and instruction is paid from a [`Budget`], and whatever is read at once (a table of
//!    abbreviations, the head of a line program, an entry that others refer to, a text) by its bytes: sections may
//!    point anywhere, so the same bytes may be asked for again and again. What takes memory beyond its bytes has a limit of its own;
//! 2. nothing recurses: functions inlined in each other are a list, references to other entries are followed a few times;
//! 3. what is malformed, missing or too much is no answer. A backtrace is then without lines, never an error.
//!
//! `addr2line` does the same for DWARF that is to be trusted. It recurses for each inlined function, keeps the rows of every unit that it
//! has met, and bounds neither.

pub(crate) mod text;
mod unit;

use gimli::{DebugInfoOffset, EndianSlice, LittleEndian, UnitOffset};
use selvedge_compiler::DebugSections;
use std::fmt;
use std::sync::OnceLock;
use unit::Unit;

/// Bytes of a section.
type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Steps that indexing a module may take: less than a second.
const INDEX_STEPS: u64 = 64 << 20;
/// Steps that one question may take: some hundred milliseconds at most.
const LOOKUP_STEPS: u64 = 16 << 20;
/// The most functions that are indexed, of 32 bytes each.
const INDEXED_FUNCTIONS: usize = 1 << 20;
/// The most functions inlined in each other that are told.
const INLINED: usize = 64;

/// A function of the source that an address lies in, as [`FrameInfo::symbols`](crate::FrameInfo::symbols) tells it. What the
/// module does not say is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameSymbol {
    name: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    column: Option<u32>,
}

impl FrameSymbol {
    /// The function's name, demangled if it is a Rust one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The file's path, as the compiler that made the module wrote it: mostly absolute, on its own machine.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The line, from 1.
    pub fn line(&self) -> Option<u32> {
        self.line
    }

    /// The column, from 1.
    pub fn column(&self) -> Option<u32> {
        self.column
    }
}

/// `file:line:column`, as far as it is known.
impl fmt::Display for FrameSymbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file().unwrap_or("<unknown>"))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        Ok(())
    }
}

/// Why there is no answer: the sections are malformed, or it would take too much. Nobody is told more.
#[derive(Debug)]
struct NoAnswer;

impl From<gimli::Error> for NoAnswer {
    fn from(_: gimli::Error) -> NoAnswer {
        NoAnswer
    }
}

type Answer<T> = std::result::Result<T, NoAnswer>;

/// How many more steps may be taken.
#[derive(Debug)]
struct Budget {
    steps: u64,
}

impl Budget {
    /// Pays for what is read next. Once there was too little, there is nothing left: who goes on with the next unit must not
    /// try it again.
    fn take(&mut self, steps: usize) -> Answer<()> {
        match self.steps.checked_sub(steps as u64) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                self.steps = 0;
                Err(NoAnswer)
            }
        }
    }
}

/// Where a function's code is, and its entry.
#[derive(Debug, Clone, Copy)]
struct Function {
    begin: u64,
    end: u64,
    unit: DebugInfoOffset<usize>,
    entry: UnitOffset<usize>,
}

/// The functions of a module's source, found by the addresses of their code.
#[derive(Debug, Default)]
pub(crate) struct SourceMap {
    functions: OnceLock<Box<[Function]>>,
}

impl SourceMap {
    /// The functions that the operator at `offset` of the module lies in, innermost first: what was inlined, then what it was inlined
    /// in. None where the module does not say.
    pub(crate) fn symbols(&self, sections: &DebugSections, offset: u32) -> Vec<FrameSymbol> {
        let Some(address) = offset.checked_sub(sections.code_offset) else {
            return Vec::new();
        };
        if sections.get(".debug_info").is_empty() {
            return Vec::new();
        }
        let dwarf = load(sections);
        let functions = self.functions.get_or_init(|| index(&dwarf));
        lookup(&dwarf, functions, u64::from(address)).unwrap_or_default()
    }
}

/// The sections by what they are. Reads nothing.
fn load(sections: &DebugSections) -> gimli::Dwarf<Bytes<'_>> {
    let section = |id: gimli::SectionId| -> std::result::Result<_, std::convert::Infallible> {
        Ok(Bytes::new(sections.get(id.name()), LittleEndian))
    };
    match gimli::Dwarf::load(section) {
        Ok(dwarf) => dwarf,
        Err(never) => match never {},
    }
}

/// The functions that have code, as far as the sections are well-formed and the budget goes.
fn index(dwarf: &gimli::Dwarf<Bytes<'_>>) -> Box<[Function]> {
    let mut functions = Vec::new();
    let mut budget = Budget { steps: INDEX_STEPS };
    let mut headers = dwarf.units();
    while let (Ok(Some(header)), Ok(())) = (headers.next(), budget.take(1)) {
        let Some(place) = header.debug_info_offset() else {
            continue;
        };
        // What one unit has wrong is not the others' fault.
        let _ = Unit::open(dwarf, header, &mut budget).and_then(|unit| {
            unit.each_function(&mut budget, |begin, end, entry| {
                let unit = place;
                if functions.len() < INDEXED_FUNCTIONS {
                    functions.push(Function {
                        begin,
                        end,
                        unit,
                        entry,
                    });
                }
            })
        });
    }
    functions.into_boxed_slice()
}

/// The functions around an address, innermost first.
fn lookup(dwarf: &gimli::Dwarf<Bytes<'_>>, functions: &[Function], address: u64) -> Answer<Vec<FrameSymbol>> {
    let around = functions.iter().filter(|f| f.begin <= address && address < f.end);
    let function = around.min_by_key(|f| f.end - f.begin).ok_or(NoAnswer)?;
    let mut budget = Budget { steps: LOOKUP_STEPS };
    let header = dwarf.unit_header(function.unit)?;
    let unit = Unit::open(dwarf, header, &mut budget)?;
    let chain = unit.inlined_at(function.entry, address, &mut budget)?;
    let lines = unit.lines(&mut budget).ok();
    // The innermost function is at the address's own row; each other one where the next is called.
    let own = lines
        .as_ref()
        .and_then(|lines| lines.row_at(address, &mut budget).ok())
        .unwrap_or_default();
    let mut calls = chain.iter().map(|inlined| inlined.call);
    calls.next(); // the function itself was not inlined
    let places = calls.chain([own]);
    let mut symbols = Vec::with_capacity(chain.len());
    for (entry, place) in chain.iter().zip(places) {
        let name = unit.name(&entry.names, &mut budget).ok().flatten();
        let file = lines
            .as_ref()
            .and_then(|lines| lines.file(&unit, place.file?, &mut budget).ok());
        symbols.push(FrameSymbol {
            name,
            file,
            line: place.line.filter(|&line| line != 0),
            column: place.column.filter(|&column| column != 0),
        });
    }
    symbols.reverse();
    Ok(symbols)
}

#[cfg(test)]
mod tests;
