//! Faults on purpose, one for each tool that watches the tests: `.ci/sanitizers` runs each, and fails when the tool is silent.
#![cfg(feature = "unwind")]

mod common;

use common::stack;
use fibers::{Fiber, FiberResult};

/// For AddressSanitizer and valgrind: reads from a box that another fiber has dropped.
#[test]
#[ignore = "a planted fault"]
fn a_read_after_a_drop() {
    let owner = Box::new(7u64);
    let address = &raw const *owner as usize;
    let mut drops = Fiber::<(), (), (), _>::with_stack(stack(), move |suspender, ()| {
        suspender.suspend(());
        drop(owner);
    });
    let mut reads = Fiber::<(), (), u64, _>::with_stack(stack(), move |suspender, ()| {
        suspender.suspend(());
        // SAFETY: none: this is the fault. What is read is not used but for a branch.
        unsafe { (address as *const u64).read_volatile() }
    });
    drops.resume(());
    reads.resume(());
    drops.resume(());
    if let FiberResult::Return(8) = reads.resume(()) {
        println!("eight");
    }
}

/// For ThreadSanitizer: a fiber and a thread write to one place.
#[test]
#[ignore = "a planted fault"]
fn a_data_race_with_a_fiber() {
    let place = Box::leak(Box::new(0u64)) as *mut u64 as usize;
    let write = move |value| {
        // SAFETY: none: this is the fault.
        unsafe { (place as *mut u64).write(value) };
    };
    let thread = std::thread::spawn(move || (0..1000).for_each(write));
    let mut fiber = Fiber::<(), (), (), _>::with_stack(stack(), move |suspender, ()| {
        for value in 0..1000 {
            write(value);
            suspender.suspend(());
        }
    });
    for _ in 0..1000 {
        fiber.resume(());
    }
    thread.join().expect("it does not panic");
}
