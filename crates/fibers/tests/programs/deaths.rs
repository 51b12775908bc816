//! Ways to end a process with a fiber, for `tests/deaths.rs`, which builds this without unwinding.

use fibers::{Fiber, GuardedStack};

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let stack = GuardedStack::new(64 << 10).expect("a stack");
    let panics = what == "panic";
    let mut fiber = Fiber::<(), (), (), _>::with_stack(stack, move |suspender, ()| {
        assert!(!panics, "a panic in the fiber");
        suspender.suspend(());
    });
    fiber.resume(());
    match what.as_str() {
        "drop" => drop(fiber),
        "finish" => {
            fiber.resume(());
        }
        "reset" => {
            // SAFETY: nothing on the fiber's stack needs to be dropped.
            unsafe { fiber.force_reset() };
            drop(fiber);
        }
        other => panic!("what is {other:?}? drop, panic, finish or reset"),
    }
    println!("lived");
}
