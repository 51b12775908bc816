//! The n-th allocation of a life fails, for each n: it is an error, or the process ends in Rust's `handle_alloc_error`.
//!
//! Rust's collections end the process when there is no memory for them, and an embedder can do nothing about it. So what a guest decides the size or
//! the number of, while it runs or is instantiated, is asked for by ways that give an error. What remains is of a size that no guest decides, or
//! is the host's own to ask for: [`ENDS`] lists it, place by place, and a place that is not in it fails the test until somebody has judged it.

use crate::lives::{LIVES, Life, Ready, is_failure};
use crate::places::own_line;
use selvedge::MemoryStyle;
use selvedge_tests::allocator::{live_bytes, with_refusal};
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The functions in which an allocation that fails ends the process, by file, and why it may.
const ENDS: &[(&str, &str, &str)] = &[
    // What the host makes, one by one.
    ("selvedge/src/vm/block.rs", "new", "a store's block"),
    ("selvedge/src/vm/host.rs", "new", "a host function of the host's"),
    ("selvedge/src/func.rs", "of_host", "as above"),
    (
        "selvedge/src/engine.rs",
        "insert",
        "the trampolines of a signature of the host's",
    ),
    (
        "selvedge/src/shared_memory.rs",
        "new",
        "a shared memory of the host's",
    ),
    ("selvedge/src/vm/limits.rs", "set_limiter", "a store's limiter"),
    ("selvedge/src/vm/limits.rs", "set_limiter_sync", "its name"),
    ("selvedge/src/vm/limits.rs", "set_limiter_async", "as above"),
    (
        "selvedge/src/vm/interrupt.rs",
        "watch",
        "what a store shares with those who may stop it",
    ),
    ("selvedge/src/vm/signals/poke.rs", "install", "once a process"),
    ("selvedge/src/vm/interrupt/clock.rs", "start", "once a process"),
    (
        "fibers/src/stack/pool/shared.rs",
        "bind",
        "a word for a thread that enters guests",
    ),
    (
        "fibers/src/stack/pool/shared.rs",
        "cut",
        "a word for each doubling of the number of stacks",
    ),
    // Names that the host gives, or asks for.
    ("selvedge/src/linker.rs", "insert", "a definition of the host's"),
    ("selvedge/src/linker.rs", "insert_host", "as above"),
    ("selvedge/src/linker.rs", "full_name", "as above"),
    ("selvedge/src/linker.rs", "alias_module", "as above"),
    ("selvedge/src/linker/modules.rs", "call", "as above"),
    ("selvedge/src/linker/modules.rs", "command", "as above"),
    ("selvedge/src/linker/pre.rs", "new", "a list's count"),
    (
        "selvedge/src/instance.rs",
        "exports",
        "a list of names that the host asks for",
    ),
    // A word or two for each of what has a limit of its own, or is the host's to make.
    (
        "selvedge/src/vm/kept.rs",
        "new",
        "a cell or a record of the host's",
    ),
    (
        "selvedge/src/module.rs",
        "image",
        "where the images of a module's memories are, of which it has 100 at most",
    ),
    (
        "selvedge/src/vm/store.rs",
        "index_in",
        "the head of a store's map",
    ),
    (
        "selvedge/src/vm/lazy_heap.rs",
        "made",
        "the head of a store's heap of references",
    ),
    (
        "selvedge/src/vm/roots.rs",
        "add",
        "the head of a store's list of references",
    ),
    (
        "selvedge/src/vm/roots.rs",
        "own",
        "a count for a reference that the host owns",
    ),
    (
        "selvedge/src/vm/wait.rs",
        "park",
        "one that waits, for a call that the host made",
    ),
    ("selvedge/src/vm/wait.rs", "block", "as above"),
    (
        "selvedge/src/vm/interrupt/clock.rs",
        "add",
        "a time, for a call that the host made",
    ),
    // What an error says: some hundred bytes, of which there must be as many left.
    ("selvedge/src/error.rs", "of", "an error"),
    ("selvedge/src/error.rs", "new", "as above"),
    ("selvedge/src/error.rs", "msg", "as above"),
    ("selvedge/src/error.rs", "context", "as above"),
    ("selvedge/src/error.rs", "fmt", "as above"),
    // What goes with compiling.
    (
        "selvedge/src/module.rs",
        "to_binary",
        "the parser of the text format",
    ),
    (
        "selvedge/src/module.rs",
        "publish",
        "the names of a module's exports",
    ),
    (
        "selvedge/src/vm/code.rs",
        "publish",
        "the head of a module's code",
    ),
];

/// Compiling allocates for all that a module holds, in its own code and in that of dependencies, of which neither can do without: whoever compiles modules that
/// nobody vouches for where memory is short does so in a process of its own, and loads what it has precompiled.
const COMPILER: &str = "crates/compiler/src/";

/// Codes of a fork: as in [`End`], and what a panic ends with.
const NOT_REACHED: u8 = 0;
const DONE_WITHOUT: u8 = 1;
const ERROR: u8 = 2;
const PANIC: u8 = 101;

/// How a life ended in which an allocation failed.
enum End {
    /// It has fewer allocations.
    NotReached,
    /// With a result.
    Returned { is_error: bool },
    /// By `handle_alloc_error`: where.
    Aborted { file: String, function: String },
}

const WORDS: usize = 512;

/// How many return addresses, and these: written by a fork, in memory that it shares.
static TRACE: AtomicPtr<[usize; WORDS]> = AtomicPtr::new(ptr::null_mut());

fn share_trace() {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    let bytes = size_of::<[usize; WORDS]>();
    // SAFETY: a new mapping.
    let place = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert_ne!(place, libc::MAP_FAILED);
    TRACE.store(place.cast(), Ordering::SeqCst);
}

/// Where the allocation is made that fails.
fn note_trace() {
    // SAFETY: the mapping of `share_trace`; nobody else uses it while a fork runs.
    let words = unsafe { &mut *TRACE.load(Ordering::SeqCst) };
    words[0] = 0;
    backtrace::trace(|frame| {
        words[0] += 1;
        words[words[0]] = frame.ip().addr();
        words[0] + 1 < WORDS
    });
}

fn trace() -> Vec<usize> {
    // SAFETY: as above; no fork runs.
    let words = unsafe { &*TRACE.load(Ordering::SeqCst) };
    words[1..=words[0]].to_vec()
}

/// The function whose body a line of ours lies in.
fn function_at(file: &str, line: usize) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let text = std::fs::read_to_string(root.join(file)).expect("a source");
    let lines: Vec<&str> = text.lines().take(line).collect();
    let name = lines.iter().rev().find_map(|line| {
        let (before, after) = line.split_once("fn ")?;
        let is_start = before
            .split_whitespace()
            .all(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        (is_start && end > 0).then(|| after[..end].to_owned())
    });
    name.unwrap_or_default()
}

/// Leads a life while its `n`-th allocation fails, and then again without; how the first ended, as a fork's code.
fn lead_here(ready: &Ready, (name, life): (&str, Life), n: u64) -> u8 {
    let (is_reached, result) = with_refusal(n, note_trace, || life(ready));
    let is_error = result.is_err();
    if let Err(error) = result {
        assert!(is_reached && is_failure(&error), "{name}, {n}: {error:#}");
        println!("{name}, allocation {n}: {error:#}");
    }
    life(ready).expect("the next one works");
    match (is_reached, is_error) {
        (false, _) => NOT_REACHED,
        (true, false) => DONE_WITHOUT,
        (true, true) => ERROR,
    }
}

/// How often a life is led at most, to see whether it leaves something.
const TRIES: usize = 8;

/// [`lead_here`] in a process where the life was led twice before, and then again: what a life leaves behind it leaves each time.
///
/// Growth that is seen once is another thread's: the one that keeps the time copies its name when it first runs, which may be in the midst of any life.
fn lead_again(ready: &Ready, (name, life): (&str, Life), n: u64) -> u8 {
    (0..2).for_each(|_| life(ready).expect("nothing fails"));
    let code = lead_here(ready, (name, life), n);
    let mut grown = (0..TRIES).map(|_| {
        let before = live_bytes();
        lead_here(ready, (name, life), n);
        live_bytes() - before
    });
    let is_given_back = grown.any(|bytes| bytes <= 0);
    assert!(
        is_given_back,
        "{name}, {n}: each of {TRIES} lives leaves something"
    );
    code
}

/// Leads a life in a fork while its `n`-th allocation fails.
fn lead(name: &str, n: u64, body: impl FnOnce() -> u8) -> End {
    // SAFETY: this process has no other thread whose locks the child could miss.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no fork");
    if child == 0 {
        let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANIC);
        // SAFETY: ends the child here.
        unsafe { libc::_exit(c_int::from(code)) };
    }
    let mut status: c_int = 0;
    // SAFETY: `status` is a place for the status.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    let is_aborted = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT;
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status) as u8);
    match code {
        Some(NOT_REACHED) => return End::NotReached,
        Some(DONE_WITHOUT) => return End::Returned { is_error: false },
        Some(ERROR) => return End::Returned { is_error: true },
        _ => {}
    }
    let (file, line) = own_line(&trace()).expect("a life is led by ours");
    let is_compiling = file.starts_with(COMPILER);
    // Some of what compiles panics instead.
    assert!(
        is_aborted || (is_compiling && code == Some(PANIC)),
        "{name}, allocation {n}, at {file}:{line}: ended with {status:#x}"
    );
    let function = function_at(&file, line);
    println!("{name}, allocation {n}: the process ends at {file}:{line} {function}");
    End::Aborted { file, function }
}

/// Places where a process ended: file and function.
pub type Reached = BTreeSet<(String, String)>;

/// Leads all lives in one style of memory, and fails where a process ended at a place that is not in [`ENDS`]. Adds those that are.
pub fn lead_all(style: MemoryStyle, is_first: bool, reached: &mut Reached) {
    share_trace();
    let ready = Ready::new(style).expect("nothing fails");
    for (name, life, in_both_styles) in LIVES {
        if is_first || in_both_styles {
            let life = (name, life);
            let first = lead_each(name, |n| lead_here(&ready, life, n), reached);
            let again = lead_each(name, |n| lead_again(&ready, life, n), reached);
            println!("{name}, {style:?}: {first}; again: {again}");
        }
    }
}

/// Leads a life for each of its allocations. Says how they ended.
fn lead_each(name: &str, body: impl Fn(u64) -> u8, reached: &mut Reached) -> String {
    let (mut errors, mut without, mut ends) = (0, 0, 0);
    for n in 1.. {
        assert!(n < 10_000, "it never ends");
        match lead(name, n, || body(n)) {
            End::NotReached => break,
            End::Returned { is_error: true } => errors += 1,
            End::Returned { is_error: false } => without += 1,
            End::Aborted { file, function } => {
                ends += 1;
                let is_known = ENDS
                    .iter()
                    .any(|(known, of, _)| is_place(&file, &function, known, of));
                assert!(
                    is_known || file.starts_with(COMPILER),
                    "{name}, allocation {n}: nobody has judged {file}, {function}"
                );
                reached.insert((file, function));
            }
        }
    }
    format!("{errors} errors, {without} done without, {ends} ends of the process")
}

fn is_place(file: &str, function: &str, known: &str, of: &str) -> bool {
    file.strip_prefix("crates/") == Some(known) && function == of
}

/// Fails unless every place of [`ENDS`] was reached: so none stays there that is no more.
pub fn check_reached(reached: &Reached) {
    for (known, of, _) in ENDS {
        let is_reached = reached
            .iter()
            .any(|(file, function)| is_place(file, function, known, of));
        assert!(is_reached, "no allocation failed in {known}, {of}");
    }
    println!(
        "{} places in the sources where an allocation that fails ends the process, beside compiling",
        ENDS.len()
    );
}
