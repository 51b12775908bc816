//! The table for users, `crates/selvedge/LIMITS.md`, has the numbers of this crate and of the validator, and no row that nobody checks.

use super::*;
use crate::{Settings, compile};

/// A number as LIMITS.md writes it: 16 777 216, but 4096.
fn written(number: u64) -> String {
    let digits = number.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups = groups.map(|group| std::str::from_utf8(group).unwrap());
    groups.collect::<Vec<_>>().join(" ")
}

/// The rows about modules, in order: what, and how much.
fn rows() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../selvedge/LIMITS.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = page.split("| --- | --- | --- |\n").nth(1).expect("a table");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row.split('|').skip(1).map(|cell| cell.trim().to_owned());
        (cells.next().unwrap(), cells.next().unwrap())
    })
    .collect()
}

/// What is beside a row's first words.
fn row(what: &str) -> String {
    let mut found = rows().into_iter().filter(|row| row.0 == what);
    let row = found.next().unwrap_or_else(|| panic!("no row `{what}`"));
    assert_eq!(found.next(), None, "two rows `{what}`");
    row.1
}

fn per_byte(base: u64, each: u64) -> String {
    format!(
        "{}, and {} for each byte of the module",
        written(base),
        written(each)
    )
}

/// The rows with numbers of this crate, about a module as a whole.
fn of_modules() -> Vec<(&'static str, String)> {
    vec![
        ("bytes of a module", format!("{} GiB", (MODULE_BYTES + 1) >> 30)),
        (
            "imports and exports, and parameters and results of the functions among them, together",
            written(TYPE_SIZE - 1),
        ),
        (
            "parameters and results of a module's types, together",
            format!(
                "{}, each type counting for {TYPE_VALUES} more",
                written(TYPES_VALUES)
            ),
        ),
        (
            "bytes of machine code of a module",
            "1 GiB, on aarch64 128 MiB".to_owned(),
        ),
        (
            "values that a module's functions carry, declare and return, together",
            per_byte(SHARED_BASE, SHARED_PER_BYTE),
        ),
        (
            "pairs of branches to one label, in a module",
            per_byte(PAIRS_BASE, PAIRS_PER_BYTE),
        ),
        (
            "pairs of calls that may go on at one clause of a `try_table`",
            "the same, together with those".to_owned(),
        ),
        (
            "pairs of blocks' parameters and the values that branches bring them",
            format!("the same, {PARAMETER_PAIRS} counting for one of those"),
        ),
        (
            "pairs of parameters and results of a signature, of functions that are imported, exported or referred to",
            format!("the same, each counting for {TRAMPOLINE_PAIRS} of those"),
        ),
        (
            "operators, each times the square of the loops around it, in a module",
            per_byte(SQUARES_BASE, SQUARES_PER_BYTE),
        ),
    ]
}

/// The rows with numbers of this crate, about a function.
fn of_functions() -> Vec<(&'static str, String)> {
    vec![
        ("targets of a `br_table`", written(BR_TABLE_TARGETS)),
        (
            "blocks, `if`s, loops inside each other",
            [NESTING, IFS, LOOPS].map(written).join(", "),
        ),
        (
            "locals times loops inside each other",
            written(LOCALS_TIMES_LOOPS),
        ),
        ("locals times blocks of code", written(LOCALS_TIMES_BLOCKS)),
        ("blocks of code and calls in a function", written(PLACES)),
        (
            "values of a function, and values that its calls and branches carry",
            format!("{} each", written(VALUES)),
        ),
        (
            "references that frames hold across calls, in a function",
            written(HELD),
        ),
    ]
}

#[test]
fn the_table_for_users_has_these_numbers() {
    for (what, most) in of_modules().into_iter().chain(of_functions()) {
        assert_eq!(row(what), most, "{what}");
    }
    assert_eq!(VALUES, CARRIED);
    let text_mib = if cfg!(target_arch = "aarch64") { 128 } else { 1024 };
    assert_eq!(TEXT_BYTES, text_mib << 20);
}

// The validator's numbers. It does not tell them: modules on both sides of each do.

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn module(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (id, section) in sections {
        wasm.push(*id);
        wasm.extend(leb(section.len()));
        wasm.extend(section);
    }
    wasm
}

/// A section that says it has so many items, and ends there.
fn counted(id: u8) -> impl Fn(usize) -> Vec<u8> {
    move |count| module(&[(id, leb(count))])
}

/// A function of `() -> ()` with this body, `end` included.
fn function(body: Vec<u8>) -> Vec<u8> {
    let code = [vec![1], leb(body.len()), body].concat();
    module(&[(1, vec![1, 0x60, 0, 0]), (3, vec![1, 0]), (10, code)])
}

/// A type of functions with so many of these values, at its end what comes after them.
fn signature(before: &'static [u8], after: &'static [u8]) -> impl Fn(usize) -> Vec<u8> {
    move |count| {
        let values = [leb(count), vec![0x7f; count]].concat();
        module(&[(1, [&[1, 0x60], before, &values, after].concat())])
    }
}

/// A row with a number of the validator.
struct Row {
    what: &'static str,
    most: usize,
    /// What is said of more.
    words: &'static str,
    /// Modules with so much, each of another thing. That much is not refused for its number.
    modules: Vec<Box<dyn Fn(usize) -> Vec<u8>>>,
}

/// The rows with the validator's numbers, about sections.
fn of_sections() -> Vec<Row> {
    let counts = |what, most, words, ids: &[u8]| Row {
        what,
        most,
        words,
        modules: ids.iter().map(|id| Box::new(counted(*id)) as _).collect(),
    };
    let name = |count| module(&[(7, [vec![1], leb(count), vec![b'x'; count], vec![0, 0]].concat())]);
    // Of functions that there are not: that is said only after their number.
    let items = |count| {
        let segment = [vec![1, 1, 0], leb(count), vec![0; count]].concat();
        module(&[(4, vec![1, 0x70, 0, 1]), (9, segment)])
    };
    vec![
        counts(
            "types, functions, imports, exports, globals, tags",
            1_000_000,
            "count exceeds limit of 1000000",
            &[1, 3, 2, 7, 6, 13],
        ),
        counts(
            "tables, data segments, element segments",
            100_000,
            "count exceeds limit of 100000",
            &[4, 11, 9],
        ),
        counts("memories", 100, "count exceeds limit of 100", &[5]),
        Row {
            what: "bytes of a name",
            most: 100_000,
            words: "string size out of bounds",
            modules: vec![Box::new(name)],
        },
        Row {
            what: "elements of an element segment",
            most: 10_000_000,
            words: "number of elements is out of bounds",
            modules: vec![Box::new(items)],
        },
    ]
}

/// The rows with the validator's numbers, about functions.
fn of_bodies() -> Vec<Row> {
    let body = |count: usize| function([vec![0], vec![1; count - 2], vec![0x0b]].concat());
    let locals = |count| function([vec![1], leb(count), vec![0x7f, 0x0b]].concat());
    let catches = |count| {
        let clauses = [leb(count), [2, 0].repeat(count)].concat();
        function([vec![0, 0x1f, 0x40], clauses, vec![0x0b, 0x0b]].concat())
    };
    vec![
        Row {
            what: "parameters, and results, of a function, of the host's too",
            most: 1000,
            words: "size is out of bounds",
            modules: vec![Box::new(signature(&[], &[0])), Box::new(signature(&[0], &[]))],
        },
        Row {
            what: "locals of a function",
            most: 50_000,
            words: "too many locals",
            modules: vec![Box::new(locals)],
        },
        Row {
            what: "bytes of a function's body",
            most: 7_654_321,
            words: "function body size count exceeds limit of 7654321",
            modules: vec![Box::new(body)],
        },
        Row {
            what: "catch clauses of a `try_table`",
            most: 10_000,
            words: "catches size is out of bounds",
            modules: vec![Box::new(catches)],
        },
    ]
}

#[test]
fn the_table_for_users_has_the_validators_numbers() {
    let settings = Settings::host().unwrap();
    let said =
        |wasm: &[u8]| compile(wasm, &settings).map_or_else(|error| error.to_string(), |_| String::new());
    for known in of_sections().into_iter().chain(of_bodies()) {
        let Row {
            what, most, words, ..
        } = known;
        assert_eq!(
            row(what).trim_end_matches(" each"),
            written(most as u64),
            "{what}"
        );
        for module in known.modules {
            let (at, beyond) = (said(&module(most)), said(&module(most + 1)));
            assert!(!at.contains(words), "{what}: {at}");
            assert!(beyond.contains(words), "{what}: {beyond}");
        }
    }
}

#[test]
fn every_row_of_the_table_for_users_is_checked() {
    let ours = of_modules().into_iter().chain(of_functions()).map(|row| row.0);
    let validators = of_sections().into_iter().chain(of_bodies()).map(|row| row.what);
    let known: Vec<_> = ours.chain(validators).collect();
    let rows = rows();
    for (what, _) in &rows {
        assert!(known.contains(&what.as_str()), "nobody checks `{what}`");
    }
    assert_eq!(rows.len(), known.len());
}
