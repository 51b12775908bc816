//! A map of guest code for profilers that see the process from outside.
//!
//! `perf` looks for the names of code without a file in `/tmp/perf-PID.map`, one line a function: address and size in hexadecimal, name
//! (tools/perf/Documentation/jit-interface.txt of Linux). The file is the process's, so all engines write into one.
//!
//! Lines are added and never taken back, as the format has no way to: addresses of a module that is gone are used again, and `perf` then
//! takes one of the names.

use crate::error::{Context, Result};
use crate::source::text;
use crate::vm::code::ModuleCode;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much of a module's name, and of a function's, a line has: each of a million functions has one, and a guest chooses the names.
const MODULE_NAME_BYTES: usize = 64;
const FUNCTION_NAME_BYTES: usize = 256;

/// Whom an engine tells where guests' code is: see [`Config::profiler`](crate::Config::profiler).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProfilingStrategy {
    /// Nobody.
    #[default]
    None,
    /// `perf`, by the file `/tmp/perf-PID.map`.
    PerfMap,
}

/// The file of this process. After a fork the child's is another.
struct Map {
    process: u32,
    file: File,
}

static MAP: Mutex<Option<Map>> = Mutex::new(None);

/// The map, begun anew by the first engine of the process that wants it.
///
/// # Errors
/// The file cannot be made.
fn map() -> Result<MutexGuard<'static, Option<Map>>> {
    let mut map = MAP.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if map.as_ref().is_none_or(|map| map.process != process) {
        let path = format!("/tmp/perf-{process}.map");
        let file = begin(&path)
            .with_context(|| format!("cannot write `{path}`, where `Config::profiler` has perf look"))?;
        *map = Some(Map { process, file });
    }
    Ok(map)
}

/// A new file at a place where anybody may have put something: what an earlier process of this number has left, a link to a file that is not to be
/// overwritten, a pipe that nobody reads.
///
/// # Errors
/// What is there is somebody else's, or the system refuses.
fn begin(path: &str) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
}

impl ProfilingStrategy {
    /// Makes ready to tell.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn begin(self) -> Result<()> {
        match self {
            ProfilingStrategy::None => Ok(()),
            ProfilingStrategy::PerfMap => map().map(drop),
        }
    }

    /// Tells of code that is about to be used.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn tell(self, code: &ModuleCode) -> Result<()> {
        if self == ProfilingStrategy::None {
            return Ok(());
        }
        let lines = lines(code);
        match &mut *map()? {
            Some(map) => map
                .file
                .write_all(lines.as_bytes())
                .context("cannot write the map of guest code for perf"),
            None => Ok(()),
        }
    }
}

/// The lines of one module.
fn lines(code: &ModuleCode) -> String {
    let (info, image) = (code.info(), code.image());
    let mut places: Vec<(u32, String)> = Vec::new();
    let mut text_of = |range: &std::ops::Range<u32>, name: String| {
        places.push((range.start, name));
        places.push((range.end, String::new()));
    };
    let module = info.name.as_deref().unwrap_or("<unnamed>");
    let module = &module[..module.floor_char_boundary(MODULE_NAME_BYTES)];
    for (defined, range) in image.functions.iter().enumerate() {
        let index = image.imported_functions + defined as u32;
        let function = match info.function_name(index) {
            Some(name) => text::demangled(&rustc_demangle::demangle(name)),
            None => format!("<wasm function {index}>"),
        };
        let function = &function[..function.floor_char_boundary(FUNCTION_NAME_BYTES)];
        text_of(range, format!("{module}!{function}"));
    }
    let entries = image.entry_trampolines.iter().flatten();
    places.extend(entries.map(|start| (*start, "selvedge: into a guest".to_owned())));
    let imports = image.import_trampolines.iter();
    places.extend(imports.map(|start| (*start, "selvedge: out of a guest".to_owned())));
    // What follows one function may begin where it ends: a name comes after none.
    places.sort();
    write_lines(code.text_base(), &places, code.text().len() as u32)
}

/// One line for each named place, up to the next.
fn write_lines(base: usize, places: &[(u32, String)], end: u32) -> String {
    let mut lines = String::new();
    let ends = places.iter().skip(1).map(|(start, _)| *start).chain([end]);
    for ((start, name), end) in places.iter().zip(ends) {
        if name.is_empty() || *start == end {
            continue;
        }
        // A guest's name is one line, whatever is in it.
        let name: String = name
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        let _ = writeln!(lines, "{:x} {:x} {name}", base + *start as usize, end - start);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_line_break_is_one_line_and_gaps_have_none() {
        let places = [
            (0x10, "a\nfff 1 b".to_owned()),
            (0x18, String::new()),
            (0x20, "last".to_owned()),
        ];
        let lines = write_lines(0x1000, &places, 0x28);
        assert_eq!(lines, "1010 8 a?fff 1 b\n1020 8 last\n");
    }
}
