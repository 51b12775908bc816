//! Modules made to take long, or much memory: each is compiled or refused within a bound, on a small stack.
//!
//! `ADVERSARIES=nested cargo test --test adversaries -- --nocapture` runs those whose names begin so, and prints what each took.
#![cfg(all(target_arch = "x86_64", unix))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use selvedge_compiler::{CompileError, Settings, compile};

/// How long the processor may be at any of them, whatever runs beside it. Each takes a few seconds at most.
const LIMIT: Duration = Duration::from_secs(120);
/// How many bytes of the heap any of them may have at once: so many, and for each byte of the module so many more. LIMITS.md says what builds
/// without debug assertions take, the half of this.
const HEAP_BASE: usize = 64 << 20;
const HEAP_PER_BYTE: usize = 9 << 10;
/// And never more than this.
const HEAP_MOST: usize = 3 << 30;
/// What the thread that compiles has: a quarter of what a thread gets.
const STACK_BYTES: usize = 512 << 10;

/// The system's allocator, which counts what each thread has.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// How many bytes this thread has allocated and not freed; less than none if it frees what others allocated.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The most there were.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call is passed on as it came to the system's allocator, which keeps the promises. Counting neither allocates nor
// unwinds: the cells are made when the thread is, and have nothing to drop.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: our caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: our caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both at once: it may have to copy.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: our caller's promise, passed on.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: our caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

const I32: u8 = 0x7f;
const EXTERNREF: u8 = 0x6f;
const END: u8 = 0x0b;
const DROP: u8 = 0x1a;

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A number of items, and the items.
fn list(count: usize, items: impl AsRef<[u8]>) -> Vec<u8> {
    [&leb(count), items.as_ref()].concat()
}

fn sized(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    list(bytes.as_ref().len(), bytes)
}

fn module(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (id, section) in sections {
        wasm.push(*id);
        wasm.extend(sized(section));
    }
    wasm
}

/// A function type.
fn func(params: &[u8], results: &[u8]) -> Vec<u8> {
    [vec![0x60], sized(params), sized(results)].concat()
}

/// A body with `locals` locals of a type.
fn body(locals: usize, ty: u8, operators: &[u8]) -> Vec<u8> {
    let declared = match locals {
        0 => vec![0],
        _ => [vec![1], leb(locals), vec![ty]].concat(),
    };
    sized([&declared, operators, &[END]].concat())
}

/// Functions with these bodies, all of type 0; a memory, a table, a tag of type 0 and a mutable i32 global.
fn functions(types: &[Vec<u8>], bodies: &[Vec<u8>]) -> Vec<u8> {
    module(&[
        (1, list(types.len(), types.concat())),
        (3, list(bodies.len(), vec![0; bodies.len()])),
        (4, vec![1, 0x70, 0, 1]),
        (5, vec![1, 0, 1]),
        (13, vec![1, 0, 0]),
        (6, vec![1, I32, 1, 0x41, 0, END]),
        (10, list(bodies.len(), bodies.concat())),
    ])
}

/// One function of this type.
fn one(ty: Vec<u8>, locals: usize, local: u8, operators: &[u8]) -> Vec<u8> {
    functions(&[ty], &[body(locals, local, operators)])
}

/// `open` so many times, then `middle`, then as many ends.
fn nested(open: &[u8], count: usize, middle: &[u8]) -> Vec<u8> {
    [open.repeat(count), middle.to_vec(), vec![END; count]].concat()
}

/// A `br_table` of so many targets, each what `target` makes of its place.
fn br_table(count: usize, target: impl Fn(usize) -> usize) -> Vec<u8> {
    let targets = (0..=count).flat_map(|place| leb(target(place)));
    let targets: Vec<u8> = targets.collect();
    [vec![0x41, 0, 0x0e], leb(count), targets].concat()
}

/// What has to come of a module.
#[derive(Clone, Copy)]
enum Answer {
    Compiled,
    /// There is too much of this.
    TooLarge(&'static str),
    /// The validator's words begin so.
    Invalid(&'static str),
}
use Answer::{Compiled, Invalid, TooLarge};

type Case = (&'static str, Answer, Vec<u8>);

const PLAIN: [u8; 3] = [0x60, 0, 0];
const BLOCK: [u8; 2] = [0x02, 0x40];
const LOOP: [u8; 2] = [0x03, 0x40];
const IF: [u8; 4] = [0x20, 0, 0x04, 0x40];
/// A `try_table` that catches tag 0.
const TRY: [u8; 6] = [0x1f, 0x40, 1, 0, 0, 0];
const TRY_ALL: [u8; 5] = [0x1f, 0x40, 1, 2, 0];
const CALL: [u8; 2] = [0x10, 0];

/// One function without parameters and results, with `locals` locals of type i32.
fn plain(locals: usize, operators: &[u8]) -> Vec<u8> {
    one(PLAIN.to_vec(), locals, I32, operators)
}

#[test]
fn nesting() {
    let blocks = TooLarge("blocks inside each other");
    let dead = [vec![0], nested(&BLOCK, 1_000_000, &[])].concat();
    let value = [nested(&[0x02, I32], 65_536, &[0x41, 0]), vec![DROP]].concat();
    check(vec![
        ("nested-1e6", blocks, plain(0, &nested(&BLOCK, 1_000_000, &[]))),
        ("nested-dead-1e6", blocks, plain(0, &dead)),
        ("nested-65536", Compiled, plain(0, &nested(&BLOCK, 65_536, &[]))),
        ("nested-values", Compiled, plain(0, &value)),
        (
            "nested-branches",
            Compiled,
            plain(
                0,
                &[BLOCK.repeat(20_000), [0x23, 0, 0x0d, 0, END].repeat(20_000)].concat(),
            ),
        ),
    ]);
}

#[test]
fn nested_loops() {
    let loops = TooLarge("loops inside each other");
    let squares = TooLarge("operators, each times the square of the loops around it");
    let back = [0x41, 0, 0x0d, 0xf4, 0x03, 0x20, 5, DROP];
    // Each with a branch back, and this in the innermost.
    let backs = |loops: usize, middle: &[u8]| {
        let ends = [0x20, 0, 0x0d, 0, END].repeat(loops);
        [&LOOP.repeat(loops), middle, &ends].concat()
    };
    // Different ones: what was computed before is not computed again.
    let sums = |count: usize| -> Vec<u8> {
        let load = |at: usize| [&[0x41, 0, 0x28, 2][..], &leb(4 * at)].concat();
        (0..count)
            .flat_map(|at| [load(at), load(at + 1), vec![0x6a, 0x24, 0]].concat())
            .collect()
    };
    check(vec![
        ("nested-loops-backs", Compiled, plain(10, &backs(512, &[]))),
        (
            "nested-loops-sums",
            Compiled,
            plain(10, &backs(128, &sums(10_000))),
        ),
        (
            "nested-loops-sums-512",
            squares,
            plain(10, &backs(512, &sums(10_000))),
        ),
        ("nested-loops-65000", loops, plain(0, &nested(&LOOP, 65_000, &[]))),
        (
            "nested-loops-512",
            Compiled,
            plain(10, &nested(&LOOP, 512, &back)),
        ),
        (
            "nested-loops-locals",
            TooLarge("locals times loops inside each other"),
            plain(10_000, &nested(&LOOP, 512, &back)),
        ),
        (
            "nested-loops-global",
            Compiled,
            plain(
                10,
                &[LOOP.repeat(512), [0x23, 0, 0x0d, 0, END].repeat(512)].concat(),
            ),
        ),
    ]);
}

#[test]
fn nested_ifs() {
    let ifs = nested(&IF, 20_000, &[]);
    check(vec![
        (
            "nested-ifs",
            Compiled,
            plain(10, &nested(&IF, 16_384, &[0x41, 1, 0x21, 5])),
        ),
        (
            "nested-ifs-global",
            Compiled,
            plain(10, &nested(&[0x23, 0, 0x04, 0x40], 16_384, &[0x41, 1, 0x21, 5])),
        ),
        (
            "nested-ifs-20000",
            TooLarge("ifs inside each other"),
            plain(1, &ifs),
        ),
    ]);
}

#[test]
fn nested_tries() {
    let carried = TooLarge("values that calls and branches carry");
    check(vec![
        ("nested-tries", Compiled, plain(0, &nested(&TRY, 65_536, &CALL))),
        (
            "nested-tries-calls",
            carried,
            plain(0, &nested(&TRY, 2_000, &CALL.repeat(100_000))),
        ),
        (
            "nested-tries-all",
            Compiled,
            plain(0, &nested(&TRY_ALL, 3_000, &CALL.repeat(1_000))),
        ),
        (
            "nested-tries-each",
            carried,
            plain(0, &nested(&[&TRY[..], &CALL].concat(), 60_000, &[])),
        ),
    ]);
}

#[test]
fn branches() {
    let targets = TooLarge("targets of a br_table");
    let distinct = br_table(60_000, |place| place);
    let many = |count: usize, table: &[u8]| [&BLOCK, table, &[END]].concat().repeat(count);
    let huge = [vec![0x41, 0, 0x0e], leb(1_000_000_000), vec![0, 0]].concat();
    // Of short loops two turns are translated where fuel is metered.
    let short = [&LOOP[..], &[0x23, 0, 0x0d, 0, END]].concat();
    let exits = [
        &BLOCK[..],
        &LOOP,
        &[0x23, 0, 0x0d, 1].repeat(11),
        &[0x23, 0, 0x0d, 0, END, END],
    ]
    .concat();
    let sets = (0..4_000).flat_map(|i| [0x41, 1, 0x21, (i % 100) as u8, 0x20, 7, 0x0d, 0]);
    check(vec![
        ("br-table-1e6", targets, plain(0, &br_table(1_000_000, |_| 0))),
        ("br-table-1e9", Invalid("br_table size"), plain(0, &huge)),
        (
            "br-table-same",
            Compiled,
            plain(0, &many(8, &br_table(65_000, |_| 0))),
        ),
        (
            "br-table-distinct",
            Compiled,
            plain(0, &nested(&BLOCK, 60_100, &distinct)),
        ),
        (
            "br-table-distinct-many",
            Compiled,
            plain(0, &nested(&BLOCK, 60_100, &many(3, &distinct))),
        ),
        ("br-loops-short", Compiled, plain(10, &short.repeat(10_000))),
        ("br-loops-short-exits", Compiled, plain(10, &exits.repeat(3_000))),
        ("br-ifs", Compiled, plain(100, &[0x20, 0, 0x0d, 0].repeat(5_000))),
        ("br-ifs-sets", Compiled, plain(100, &sets.collect::<Vec<u8>>())),
    ]);
}

#[test]
fn exceptions() {
    let pairs = TooLarge("pairs of branches to one label");
    let one_try = |calls: usize| plain(0, &nested(&TRY, 1, &CALL.repeat(calls)));
    let own = [&BLOCK, &TRY[..], &CALL, &[END, END]].concat();
    let tries = |count: usize| plain(0, &own.repeat(count));
    check(vec![
        ("exceptions-calls", pairs, one_try(200_000)),
        ("exceptions-calls-some", Compiled, one_try(7_000)),
        ("exceptions-tries", pairs, tries(200_000)),
        ("exceptions-tries-some", Compiled, tries(10_000)),
    ]);
}

#[test]
fn parameters_of_blocks() {
    // `if (result i32)`, whose result is the only thing kept.
    let chosen = [0x20, 0, 0x04, I32, 0x23, 0, 0x05, 0x20, 1, END, 0x24, 0];
    let ifs = |count: usize| plain(2, &chosen.repeat(count));
    check(vec![
        (
            "parameters-more",
            TooLarge("pairs of branches to one label"),
            ifs(300_000),
        ),
        ("parameters-some", Compiled, ifs(20_000)),
    ]);
}

#[test]
fn values() {
    let three = || func(&[I32; 3], &[]);
    let depth = 10_000;
    let tree = [[0x20, 0].repeat(depth), vec![0x6a; depth - 1], vec![DROP]].concat();
    let chain = |step: &[u8]| [&[0x20, 0], &step.repeat(depth)[..], &[0x21, 0]].concat();
    check(vec![
        ("values-tree", Compiled, one(three(), 0, I32, &tree)),
        (
            "values-chain",
            Compiled,
            one(three(), 0, I32, &chain(&[0x20, 1, 0x6a])),
        ),
        (
            "values-constants",
            Compiled,
            one(three(), 0, I32, &chain(&[0x41, 1, 0x6a])),
        ),
        (
            "values-selects",
            Compiled,
            one(three(), 0, I32, &chain(&[0x20, 1, 0x20, 2, 0x1b])),
        ),
        (
            "values-loads",
            Compiled,
            one(three(), 0, I32, &chain(&[0x28, 0, 0])),
        ),
        (
            "values-divisions",
            Compiled,
            one(three(), 0, I32, &chain(&[0x20, 1, 0x6d])),
        ),
        (
            "values-divisions-more",
            TooLarge("blocks of code and calls in a function"),
            one(
                three(),
                0,
                I32,
                &[&[0x20, 0], &[0x20, 1, 0x6d].repeat(500_000)[..], &[0x21, 0]].concat(),
            ),
        ),
    ]);
}

#[test]
fn values_of_calls() {
    let wide = module(&[
        (1, list(1, func(&[], &[I32; 1000]))),
        (3, list(1_000, [0_u8; 1_000])),
        (10, list(1_000, body(0, I32, &CALL).repeat(1_000))),
    ]);
    check(vec![
        ("values-calls", Compiled, plain(0, &CALL.repeat(10_000))),
        (
            "values-calls-more",
            TooLarge("blocks of code and calls in a function"),
            plain(0, &CALL.repeat(1_100_000)),
        ),
        (
            "values-grows",
            Compiled,
            plain(0, &[0x41, 0, 0x40, 0, DROP].repeat(50_000)),
        ),
        (
            "values-results",
            TooLarge("values that the functions carry, declare and return"),
            wide,
        ),
    ]);
}

#[test]
fn values_of_long_bodies() {
    let locals = (0..50_000).flat_map(|i| [vec![0x41, 1, 0x21], leb(i)].concat());
    check(vec![
        ("values-nops", Compiled, plain(0, &vec![1; 7_600_000])),
        (
            "values-locals",
            Compiled,
            plain(50_000, &locals.collect::<Vec<_>>()),
        ),
        (
            "values-body",
            Invalid("function body size"),
            plain(0, &vec![1; 7_700_000]),
        ),
    ]);
}

/// A function that takes `count` references from function 2 into locals, calls function 1 so often, and uses them.
fn references(count: usize, calls: usize) -> Vec<u8> {
    let made = (0..count).flat_map(|i| [vec![0x10, 2, 0x21], leb(i)].concat());
    let used = (0..count).flat_map(|i| [vec![0x20], leb(i), vec![0xd1, DROP]].concat());
    let operators = made
        .chain([0x10, 1].repeat(calls))
        .chain(used)
        .collect::<Vec<u8>>();
    let bodies = [
        body(count, EXTERNREF, &operators),
        body(0, I32, &[]),
        body(0, I32, &[0xd0, EXTERNREF]),
    ];
    module(&[
        (1, list(2, [func(&[], &[]), func(&[], &[EXTERNREF])].concat())),
        (3, vec![3, 0, 0, 1]),
        (10, list(3, bodies.concat())),
    ])
}

#[test]
fn references_held() {
    let held = TooLarge("references held across calls");
    let stacked = [[0x10, 2].repeat(5_000), vec![DROP; 5_000]].concat();
    let stacked = module(&[
        (1, list(2, [func(&[], &[]), func(&[], &[EXTERNREF])].concat())),
        (3, vec![3, 0, 0, 1]),
        (
            10,
            list(
                3,
                [
                    body(0, I32, &stacked),
                    body(0, I32, &[]),
                    body(0, I32, &[0xd0, EXTERNREF]),
                ]
                .concat(),
            ),
        ),
    ]);
    check(vec![
        ("references-locals", held, references(3_000, 30_000)),
        ("references-operands", held, stacked),
        ("references-some", Compiled, references(100, 2_000)),
    ]);
}

/// A type's index in a type of references, never null.
fn reference(index: usize) -> Vec<u8> {
    let mut bytes = vec![0x64];
    let mut value = index;
    // Signed: bit 6 of the last byte has to be clear.
    while value >= 0x40 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A type of functions that take references to functions of these types.
fn taking(indices: &[usize]) -> Vec<u8> {
    let params: Vec<u8> = indices.iter().flat_map(|index| reference(*index)).collect();
    [vec![0x60], leb(indices.len()), params, vec![0]].concat()
}

fn group(types: &[Vec<u8>]) -> Vec<u8> {
    [vec![0x4e], leb(types.len()), types.concat()].concat()
}

#[test]
fn types() {
    let many = |count: usize| module(&[(1, list(count, PLAIN.repeat(count)))]);
    let groups = |types: &[Vec<u8>]| module(&[(1, list(types.len(), types.concat()))]);
    let doubling = (0..100_000_usize).map(|i| match i {
        0 => PLAIN.to_vec(),
        _ => taking(&[i - 1, i - 1]),
    });
    let count = 50_000;
    let ring = (0..count).map(|i| taking(&[(i + 1) % count, (i + 7) % count]));
    let alone = (0..50_000).map(|i| group(&[taking(&[i])]));
    let distinct = |count: usize| {
        let bits = |i: usize| {
            (0..20)
                .map(move |bit| I32 - (i >> bit & 1) as u8)
                .collect::<Vec<_>>()
        };
        groups(&(0..count).map(|i| func(&bits(i), &[])).collect::<Vec<_>>())
    };
    let wide = (0..500).map(|i| group(&[taking(&[vec![i; 900], vec![0; 2]].concat())]));
    check(vec![
        ("types-1e6", Compiled, many(1_000_000)),
        (
            "types-more",
            Invalid("types count exceeds limit of 1000000"),
            many(1_000_001),
        ),
        ("types-doubling", Compiled, groups(&doubling.collect::<Vec<_>>())),
        (
            "types-ring",
            Compiled,
            groups(&[group(&ring.collect::<Vec<_>>())]),
        ),
        ("types-alone", Compiled, groups(&alone.collect::<Vec<_>>())),
        ("types-wide", Compiled, groups(&wide.collect::<Vec<_>>())),
        ("types-distinct", Compiled, distinct(599_000)),
        (
            "types-distinct-more",
            TooLarge("parameters and results of the types"),
            distinct(600_000),
        ),
        (
            "types-params",
            Invalid("function params size"),
            groups(&[func(&[I32; 1001], &[])]),
        ),
        (
            "types-results",
            Invalid("function returns size"),
            groups(&[func(&[], &[I32; 1001])]),
        ),
        (
            "types-count",
            Invalid("types count"),
            module(&[(1, leb(u32::MAX as usize))]),
        ),
    ]);
}

#[test]
fn trampolines() {
    // Signatures of 1000 parameters, no two alike, each of a function that a table may hold.
    let signatures = |count: usize| {
        let ty = |i: usize| {
            let bits = (0..20).map(|bit| I32 - (i >> bit & 1) as u8);
            func(&bits.chain([0x7b; 980]).collect::<Vec<_>>(), &[])
        };
        let indices = (0..count).flat_map(leb).collect::<Vec<_>>();
        let types = (0..count).flat_map(ty).collect::<Vec<_>>();
        module(&[
            (1, list(count, types)),
            (3, list(count, &indices)),
            (9, [vec![1, 3, 0], list(count, &indices)].concat()),
            (10, list(count, [2, 0, END].repeat(count))),
        ])
    };
    check(vec![
        (
            "trampolines-more",
            TooLarge("pairs of branches to one label"),
            signatures(2_000),
        ),
        ("trampolines-some", Compiled, signatures(5)),
    ]);
}

/// The local of this number, modulo 100.
fn get(local: usize) -> [u8; 2] {
    [0x20, (local % 100) as u8]
}

/// All locals, into the global.
fn all_locals() -> Vec<u8> {
    let one = |i: usize| [&get(i)[..], &[0x24, 0]].concat();
    (0..100).flat_map(one).collect()
}

/// So many times, in a block: a branch on a local, and a value into another.
fn chained_branches(count: usize, value: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let set = |i: usize| [0x21, (i % 100) as u8];
    let one = |i: usize| [&get(i)[..], &[0x0d, 0], &value(i), &set(7 * i)].concat();
    nested(&BLOCK, 1, &(0..count).flat_map(one).collect::<Vec<_>>())
}

#[test]
fn chains() {
    let adds = [&get(0)[..], &[0x41, 1, 0x6a].repeat(40_000), &[0x24, 0]].concat();
    let mixed = [0x41, 3, 0x6a, 0x41, 5, 0x73, 0x41, 7, 0x6c];
    let mixed = [&get(0)[..], &mixed.repeat(10_000), &[0x24, 0]].concat();
    check(vec![
        ("chain-adds", Compiled, plain(100, &adds)),
        ("chain-mixed", Compiled, plain(100, &mixed)),
    ]);
}

#[test]
fn chains_of_branches() {
    let pairs = TooLarge("pairs of branches to one label");
    let constant = |_| vec![0x41, 1];
    let sum = |i: usize| [&get(i + 3)[..], &get(i + 5), &[0x6a]].concat();
    let global = |_| vec![0x23, 0];
    let branches = |count, value: &dyn Fn(usize) -> Vec<u8>| plain(100, &chained_branches(count, value));
    let live = |count, value: &dyn Fn(usize) -> Vec<u8>| {
        plain(100, &[chained_branches(count, value), all_locals()].concat())
    };
    let back = nested(&LOOP, 1, &[0x41, 1, 0x0d, 0].repeat(1_000_000));
    check(vec![
        ("chain-branches-constant", Compiled, branches(10_000, &constant)),
        ("chain-branches-more", pairs, branches(40_000, &constant)),
        ("chain-branches-loop", pairs, plain(0, &back)),
        ("chain-branches-sum", Compiled, branches(10_000, &sum)),
        ("chain-branches-global", Compiled, branches(10_000, &global)),
        ("chain-branches-sum-live", Compiled, live(10_000, &sum)),
        ("chain-branches-global-live", Compiled, live(5_000, &global)),
    ]);
}

#[test]
fn constants() {
    let adds = [vec![I32, 0, 0x41, 0], [0x41, 1, 0x6a].repeat(500_000), vec![END]].concat();
    let chain = |of: fn(Vec<u8>) -> Vec<u8>| {
        let rest = (1..200_000)
            .flat_map(|i| [vec![I32, 0], of([vec![0x23], leb(i - 1)].concat()), vec![END]].concat());
        let globals: Vec<u8> = [I32, 0, 0x41, 1, END].into_iter().chain(rest).collect();
        module(&[(6, list(200_000, globals))])
    };
    check(vec![
        ("constants-adds", Compiled, module(&[(6, list(1, adds))])),
        ("constants-chain", Compiled, chain(|get| get)),
        (
            "constants-sums",
            Compiled,
            chain(|get| [get.clone(), get, vec![0x6a]].concat()),
        ),
    ]);
}

/// A section of so many of the same item.
fn many(count: usize, item: &[u8]) -> Vec<u8> {
    list(count, item.repeat(count))
}

/// Sections: the type of functions without parameters and results, a function of it, and its body.
fn plain_type() -> (u8, Vec<u8>) {
    (1, list(1, PLAIN))
}

fn one_function() -> (u8, Vec<u8>) {
    (3, vec![1, 0])
}

fn code() -> (u8, Vec<u8>) {
    (10, vec![1, 2, 0, END])
}

#[test]
fn sections() {
    check(vec![
        (
            "functions",
            Compiled,
            module(&[
                plain_type(),
                (3, many(4_000, &[0])),
                (10, many(4_000, &[2, 0, END])),
            ]),
        ),
        (
            "functions-more",
            Invalid("functions count exceeds limit of 1000000"),
            module(&[plain_type(), (3, many(1_000_001, &[0]))]),
        ),
        (
            "globals",
            Compiled,
            module(&[(6, many(300_000, &[I32, 0, 0x41, 0, END]))]),
        ),
        (
            "tags",
            Compiled,
            module(&[plain_type(), (13, many(300_000, &[0, 0]))]),
        ),
        ("customs", Compiled, module(&vec![(0, sized("x")); 300_000])),
        ("locals", Invalid("too many locals"), plain(50_001, &[])),
    ]);
}

#[test]
fn imports_and_exports() {
    let name = |i: usize| sized(format!("{i:06}"));
    let exports: Vec<u8> = (0..100_000)
        .flat_map(|i| [name(i), vec![0, 0]].concat())
        .collect();
    let imports: Vec<u8> = (0..100_000)
        .flat_map(|i| [sized("m"), name(i), vec![0, 0]].concat())
        .collect();
    let same: Vec<u8> = [sized("x"), vec![0, 0]].concat();
    let long = [sized(vec![b'x'; 100_001]), vec![0, 0]].concat();
    check(vec![
        (
            "exports",
            Compiled,
            module(&[plain_type(), one_function(), (7, list(100_000, &exports)), code()]),
        ),
        (
            "exports-wide",
            TooLarge("parameters and results of imports and exports, and of these themselves"),
            module(&[
                (1, list(1, func(&[I32; 20], &[]))),
                one_function(),
                (7, list(50_000, &exports[..50_000 * 9])),
                code(),
            ]),
        ),
        (
            "exports-same",
            Invalid("duplicate export name"),
            module(&[plain_type(), one_function(), (7, many(1_000_000, &same)), code()]),
        ),
        (
            "exports-long",
            Invalid("string size"),
            module(&[plain_type(), one_function(), (7, list(1, long)), code()]),
        ),
        (
            "imports",
            Compiled,
            module(&[plain_type(), (2, list(100_000, imports))]),
        ),
    ]);
}

#[test]
fn segments_and_what_they_fill() {
    let memory = || (5, vec![1, 0, 1]);
    let table = || (4, vec![1, 0x70, 0, 1]);
    let datum = [0, 0x41, 0, END, 1, 7];
    let elements = [vec![1, 0, 0x41, 0, END], many(1_000_000, &[0])].concat();
    let nulls = [vec![1, 4, 0x41, 0, END], many(200_000, &[0xd0, 0x70, END])].concat();
    let huge = leb(u32::MAX as usize);
    check(vec![
        ("data", Compiled, module(&[memory(), (11, many(100_000, &datum))])),
        (
            "data-more",
            Invalid("data segments count exceeds limit of 100000"),
            module(&[memory(), (11, many(100_001, &datum))]),
        ),
        (
            "data-count",
            Invalid("data count"),
            module(&[memory(), (12, huge.clone()), (11, huge)]),
        ),
        (
            "elements",
            Compiled,
            module(&[plain_type(), one_function(), table(), (9, elements), code()]),
        ),
        ("elements-nulls", Compiled, module(&[table(), (9, nulls)])),
        ("tables", Compiled, module(&[(4, many(10_000, &[0x70, 0, 1]))])),
        (
            "tables-more",
            Invalid("tables count exceeds limit of 100000"),
            module(&[(4, many(100_001, &[0x70, 0, 1]))]),
        ),
        (
            "memories",
            Invalid("memories count exceeds limit of 100"),
            module(&[(5, many(101, &[0, 1]))]),
        ),
    ]);
}

/// Compiles each, with and without fuel, on a small stack.
fn check(cases: Vec<Case>) {
    let wanted = std::env::var("ADVERSARIES").unwrap_or_default();
    for (name, expected, wasm) in cases {
        if !name.starts_with(&wanted) {
            continue;
        }
        let attempts = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                attempt(name, expected, &wasm, false);
                attempt(name, expected, &wasm, true);
            });
        attempts.unwrap().join().unwrap();
    }
}

/// How long this thread has run, to a hundredth of a second. See proc(5), `stat`.
fn time_of_this_thread() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let times = fields.split_whitespace().skip(11).take(2);
    let hundredths: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * hundredths)
}

fn attempt(name: &str, expected: Answer, wasm: &[u8], fuel: bool) {
    let settings = Settings::host().unwrap().fuel(fuel).parallel(false).verify(false);
    let start = time_of_this_thread();
    let held = HELD.get();
    PEAK.set(held);
    let result = compile(wasm, &settings).map(|module| module.image.text.len());
    let heap = (PEAK.get() - held) as usize;
    let took = time_of_this_thread() - start;
    println!(
        "{name}, {} bytes, fuel {fuel}: {took:?}, {heap} bytes of heap, {} each, {result:?}",
        wasm.len(),
        heap / wasm.len()
    );
    assert!(is_right(expected, &result, wasm), "{name}: {result:?}");
    assert!(took < LIMIT, "{name} took {took:?}");
    let most = HEAP_MOST.min(HEAP_BASE + HEAP_PER_BYTE * wasm.len());
    assert!(
        heap <= most,
        "{name} took {heap} bytes of heap, at most {most} were expected"
    );
}

fn is_right(expected: Answer, result: &Result<usize, CompileError>, wasm: &[u8]) -> bool {
    match (expected, result) {
        (Compiled, Ok(_)) => true,
        (
            TooLarge(wanted),
            Err(CompileError::TooLarge {
                what, count, limit, ..
            }),
        ) => wanted == *what && count > limit,
        (Invalid(words), Err(CompileError::Invalid { message, offset })) => {
            message.starts_with(words) && *offset <= wasm.len() as u64
        }
        _ => false,
    }
}
