//! What one parked guest takes from the allocator: so many can wait at once.

use selvedge::{Caller, Config, Engine, Linker, MemoryStyle, Module, Result, Store};
use selvedge_tests::allocator::{TestAllocator, start_listing, stop_listing};
use selvedge_tests::{poll_once, wait};
use std::pin::pin;

/// The stack's page, the page tables of a stack of 60 KiB with its guard (a table of a page for 512 pages), and what is left of
/// 5 KiB for everything else of a guest, with what the embedder keeps of it.
const MAX_HEAP_BYTES: usize = 5 * 1024 - 4096 - 128;
/// What keeps a guest in the example: a store, an instance, a call's future.
const EMBEDDER_BYTES: usize = 48;
/// What the C library's allocator keeps before each block. Source: malloc/malloc.c of glibc, "minimum overhead per allocated chunk".
const HEAD_BYTES: usize = 8;

#[global_allocator]
static ALLOCATOR: TestAllocator = TestAllocator;

/// What the allocator takes for a block.
fn taken(address: usize) -> usize {
    // SAFETY: a block of the C library's, alive: Rust's `System` hands out those, at these alignments.
    unsafe { libc::malloc_usable_size(std::ptr::with_exposed_provenance_mut(address)) + HEAD_BYTES }
}

/// Parks one guest of `text` and lists what is alive then: bytes asked for, and taken.
fn alive_while_parked(text: &str) -> Result<Vec<(usize, usize)>> {
    let mut config = Config::new();
    config.memory_style(MemoryStyle::Bounded);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, text)?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "wait", async |_: Caller<'_, ()>, number: i32| {
        wait(1).await;
        number
    })?;
    let park = |list: bool| -> Result<Vec<(usize, usize)>> {
        if list {
            start_listing();
        }
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &module)?;
        let mut call = pin!(instance.call_async::<_, _, i32>(&mut store, "run", 5));
        assert!(poll_once(call.as_mut()).is_pending());
        let alive = stop_listing().into_iter();
        let listed = alive.map(|(address, bytes)| (bytes, taken(address))).collect();
        let std::task::Poll::Ready(Ok(10)) = poll_once(call) else {
            panic!("a wrong answer")
        };
        Ok(listed)
    };
    park(false)?; // what is made once a process or an engine
    park(true)
}

fn print(what: &str, alive: &[(usize, usize)]) -> usize {
    println!("{what}: allocations, by bytes asked for and taken: {alive:?}");
    let taken = alive.iter().map(|(_, taken)| taken).sum();
    println!("{what}: {taken} bytes in {} allocations", alive.len());
    taken
}

#[test]
fn a_parked_guest_fits_into_five_kib_with_its_stack() -> Result<()> {
    let alive = alive_while_parked(
        r#"(module
            (import "host" "wait" (func $wait (param i32) (result i32)))
            (func (export "run") (param $number i32) (result i32)
                (i32.add (local.get $number) (call $wait (local.get $number)))))"#,
    )?;
    let taken = print("a parked guest", &alive);
    assert_eq!(alive.len(), 3, "its store, its instance, its future");
    assert!(taken + EMBEDDER_BYTES <= MAX_HEAP_BYTES, "{taken} bytes");
    Ok(())
}

#[test]
fn a_memory_and_a_table_take_little_beside_their_contents() -> Result<()> {
    let alive = alive_while_parked(
        r#"(module
            (import "host" "wait" (func $wait (param i32) (result i32)))
            (memory 1) (table 10 funcref)
            (func (export "run") (param $number i32) (result i32)
                (i32.store (i32.const 4096) (local.get $number))
                (i32.add (call $wait (local.get $number)) (i32.load (i32.const 4096)))))"#,
    )?;
    let taken = print("with a memory and a table", &alive);
    // The memory's bytes lie in the engine's slab, and the table waited in its pool.
    assert_eq!(
        alive.len(),
        3 + 3,
        "the memory, its definition, the signal handler's list"
    );
    assert!(taken <= 1024, "{taken} bytes");
    Ok(())
}
