//! The allocator of test binaries: the system's, which counts, lists, refuses or locks for the threads that ask for it.
//!
//! A binary that wants it has `#[global_allocator] static ALLOCATOR: TestAllocator = TestAllocator;`. What is not asked for costs a look
//! at a thread-local word.

pub mod lock;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicIsize, Ordering};

/// See the head of this file.
pub struct TestAllocator;

/// How many allocations a [`listed`] run may have alive at a time.
const LISTED: usize = 64;

thread_local! {
    /// This thread's allocations so far.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Its allocations of so many bytes or more fail.
    static LARGEST: Cell<usize> = const { Cell::new(usize::MAX) };
    /// How many of its allocations until the one that fails; 0: none does.
    static LEFT: Cell<u64> = const { Cell::new(0) };
    /// What is done when it does.
    static ON_REFUSAL: Cell<fn()> = const { Cell::new(|| ()) };
    static IS_LISTING: Cell<bool> = const { Cell::new(false) };
    /// Address and bytes asked for of what is alive, in the order in which it was made.
    static ALIVE: RefCell<[(usize, usize); LISTED]> = const { RefCell::new([(0, 0); LISTED]) };
}

/// Bytes asked for and not given back, by all threads.
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

/// How many allocations `run` makes on this thread.
pub fn counted(run: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    run();
    COUNT.get() - before
}

/// Bytes that the process has from here.
pub fn live_bytes() -> isize {
    LIVE_BYTES.load(Ordering::SeqCst)
}

/// Runs while this thread's allocations of so many bytes or more fail.
pub fn with_largest<R>(bytes: usize, run: impl FnOnce() -> R) -> R {
    LARGEST.set(bytes);
    let result = run();
    LARGEST.set(usize::MAX);
    result
}

/// Runs while this thread's `n`-th allocation fails, counted from 1, and says whether there were as many. `on_refusal` is called in the middle of that
/// allocation, and may allocate.
pub fn with_refusal<R>(n: u64, on_refusal: fn(), run: impl FnOnce() -> R) -> (bool, R) {
    ON_REFUSAL.set(on_refusal);
    LEFT.set(n);
    let result = run();
    (LEFT.replace(0) == 0, result)
}

/// Lists this thread's allocations from now on.
pub fn start_listing() {
    ALIVE.set([(0, 0); LISTED]);
    IS_LISTING.set(true);
}

/// Ends the list: address and bytes asked for of what is alive.
pub fn stop_listing() -> Vec<(usize, usize)> {
    IS_LISTING.set(false);
    let alive = ALIVE.replace([(0, 0); LISTED]);
    alive.into_iter().filter(|(address, _)| *address != 0).collect()
}

/// Whether an allocation of so many bytes fails.
fn is_refused(bytes: usize) -> bool {
    COUNT.set(COUNT.get() + 1);
    let left = LEFT.get();
    if left > 0 {
        LEFT.set(left - 1);
        if left == 1 {
            ON_REFUSAL.get()();
        }
    }
    left == 1 || bytes >= LARGEST.get()
}

/// What was at one place is at another, or nowhere: address and bytes.
fn note(from: (usize, usize), to: (usize, usize)) {
    LIVE_BYTES.fetch_add(to.1 as isize - from.1 as isize, Ordering::SeqCst);
    if IS_LISTING.get() {
        ALIVE.with_borrow_mut(|alive| {
            let place = alive.iter_mut().find(|(address, _)| *address == from.0);
            *place.expect("a list is short, and what is on it is given back by its thread") = to;
        });
    }
}

/// A new block.
fn made(bytes: usize, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    if is_refused(bytes) {
        return std::ptr::null_mut();
    }
    let block = lock::locked(allocate);
    if !block.is_null() {
        note((0, 0), (block.addr(), bytes));
    }
    block
}

// SAFETY: passes everything on to the system's allocator, or gives null.
unsafe impl GlobalAlloc for TestAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        made(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        made(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note((block.addr(), layout.size()), (0, 0));
        // SAFETY: the caller's promise.
        lock::locked(|| unsafe { System.dealloc(block, layout) });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if is_refused(bytes) {
            return std::ptr::null_mut();
        }
        let from = (block.addr(), layout.size());
        // SAFETY: the caller's promise.
        let moved = lock::locked(|| unsafe { System.realloc(block, layout, bytes) });
        if !moved.is_null() {
            note(from, (moved.addr(), bytes));
        }
        moved
    }
}
