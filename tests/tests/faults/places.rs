//! Where in the sources the system is called, and which of these places failures have reached.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::path::Path;

/// A call in the sources: file, line, and what it calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    pub line: usize,
    pub function: String,
}

/// The crates that call the system for a guest.
const SOURCES: [&str; 3] = ["crates/fibers/src", "crates/selvedge/src", "crates/compiler/src"];

/// What calls the system without `libc` in its name.
const OTHERS: [&str; 4] = ["region::protect(", ".spawn(", ".set_len(", ".write_all_at("];

/// Calls that are not failed, by the ends of their files' names, and why.
const EXEMPT: [(&str, &str, &str); 23] = [
    ("stack.rs", "__errno_location", "cannot fail"),
    (
        "limits.rs",
        "open",
        "only words an error: the limit is then not known",
    ),
    ("limits.rs", "read", "as above"),
    ("limits.rs", "close", "as above"),
    ("limits.rs", "getrlimit", "as above"),
    ("mapped.rs", "mmap", "a stack of one fiber: the runtime has none"),
    ("mapped.rs", "mprotect", "as above"),
    ("mapped.rs", "munmap", "as above"),
    ("guard.rs", "write", "made to fail: it asks by its error"),
    ("guard.rs", "close", "a descriptor is gone whatever it says"),
    ("region.rs", "sysconf", "cannot fail for the page size"),
    (
        "resident.rs",
        "mincore",
        "statistics, which a guest does not need",
    ),
    ("unwind.rs", "write", "last words before an abort"),
    ("unwind.rs", "abort", "does not return"),
    ("host_stack.rs", "pthread_self", "cannot fail"),
    (
        "host_stack.rs",
        "pthread_attr_getstack",
        "cannot fail for attributes that were read",
    ),
    ("host_stack.rs", "pthread_attr_destroy", "as above"),
    ("interrupt.rs", "gettid", "cannot fail"),
    ("signals.rs", "sigaddset", "cannot fail for a signal"),
    ("signals.rs", "pthread_sigmask", "cannot fail for a mask"),
    ("signals.rs", "raise", "ends the process"),
    ("signals.rs", "write", "last words before the process ends"),
    (
        "poke.rs",
        "syscall",
        "tgkill of a thread that may be gone: its failure is its answer",
    ),
];

fn is_exempt(place: &Place) -> bool {
    EXEMPT
        .iter()
        .any(|(file, function, _)| place.file.ends_with(&format!("/{file}")) && place.function == *function)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
}

/// The name after `libc::` of each call in a line.
fn calls_in(line: &str) -> Vec<String> {
    let after = line.split("libc::").skip(1);
    let named = after.filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_')?;
        (rest[end..].starts_with('(')).then(|| rest[..end].to_owned())
    });
    let others = OTHERS.iter().filter(|other| line.contains(**other));
    named.chain(others.map(|other| (*other).to_owned())).collect()
}

/// All places but those of tests.
fn all() -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    let mut folders: Vec<_> = SOURCES.iter().map(|source| root().join(source)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let file = path.strip_prefix(root()).expect("in the workspace");
            let file = file.to_string_lossy().into_owned();
            let is_foreign =
                |arch: &str| arch != std::env::consts::ARCH && file.ends_with(&format!("/arch/{arch}.rs"));
            if ["x86_64", "aarch64", "riscv64"].into_iter().any(is_foreign) {
                continue; // not in this binary
            }
            if ["/tests.rs", "/testing.rs", "/child.rs"]
                .iter()
                .any(|end| file.ends_with(end))
            {
                continue; // for tests alone
            }
            let text = std::fs::read_to_string(&path).expect("a source");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for (line, number) in code.lines().zip(1..) {
                if line.trim_start().starts_with("//") {
                    continue;
                }
                places.extend(calls_in(line).into_iter().map(|function| Place {
                    file: file.clone(),
                    line: number,
                    function,
                }));
            }
        }
    }
    places
}

/// File and line in our sources that is innermost in a trace.
pub fn own_line(trace: &[usize]) -> Option<(String, usize)> {
    let mut found = None;
    for address in trace {
        // The call is before its return address.
        backtrace::resolve(address.saturating_sub(1) as *mut c_void, |symbol| {
            let path = symbol.filename().map(|path| path.to_string_lossy().into_owned());
            let path = path.unwrap_or_default();
            let own = SOURCES.iter().find_map(|source| path.find(&format!("{source}/")));
            if let (None, Some(start), Some(line)) = (&found, own, symbol.lineno()) {
                found = Some((path[start..].to_owned(), line as usize));
            }
        });
        if found.is_some() {
            break;
        }
    }
    found
}

/// What has failed.
#[derive(Default)]
pub struct Reached {
    traces: BTreeSet<Vec<usize>>,
}

impl Reached {
    /// Adds traces as they were written by [`write`].
    pub fn read(&mut self, text: &str) {
        let trace = |line: &str| {
            line.split(' ')
                .map(|word| word.parse().expect("an address"))
                .collect()
        };
        self.traces.extend(text.lines().map(trace));
    }

    /// Fails unless every place was reached, or says why it need not be: so none can be forgotten.
    pub fn check(&self) {
        let all = all();
        let mut reached = BTreeSet::new();
        for (file, line) in self.traces.iter().filter_map(|trace| own_line(trace)) {
            // A call may go over several lines, and be reported at any of them.
            let of_file = all.iter().filter(|place| place.file == file);
            let nearest = of_file.filter(|place| place.line <= line && line < place.line + 8);
            reached.extend(nearest.max_by_key(|place| place.line).cloned());
        }
        for place in &reached {
            println!("fails: {}:{} {}", place.file, place.line, place.function);
        }
        let missing: Vec<_> = all
            .difference(&reached)
            .filter(|place| !is_exempt(place))
            .collect();
        println!(
            "{} places in the sources call the system: {} failed, {} need not",
            all.len(),
            reached.len(),
            all.len() - reached.len() - missing.len()
        );
        assert!(missing.is_empty(), "no failure has reached these: {missing:#?}");
    }
}

/// Traces as text, a line each.
pub fn write(traces: &[Vec<usize>]) -> String {
    let line = |trace: &Vec<usize>| {
        let words: Vec<String> = trace.iter().map(usize::to_string).collect();
        words.join(" ") + "\n"
    };
    traces.iter().map(line).collect()
}
