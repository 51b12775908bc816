//! A walk by frame pointers, as profilers do it, goes on from a fiber at its resumer, wherever the two stacks lie.
#![cfg(all(target_arch = "x86_64", target_os = "linux", feature = "unwind"))]

mod common;

use common::{Half, in_both_orders};
use fibers::Fiber;

/// Frames of a walk: the fiber's function, its base, the resumer, and who called that. All have frame pointers: the
/// first three by what is inlined into them.
const FRAMES: usize = 4;

/// The return addresses of the functions around, by frame pointers.
#[inline(always)]
fn walk() -> [usize; FRAMES] {
    let mut record: *const [usize; 2];
    // SAFETY: a register is read.
    unsafe {
        std::arch::asm!("mov {}, rbp", out(reg) record, options(nomem, nostack, preserves_flags));
    }
    std::array::from_fn(|_| {
        // SAFETY: the frame record of a function that has not returned.
        let [next, code] = unsafe { record.read() };
        record = next as *const [usize; 2];
        code
    })
}

fn names_at(code: usize) -> String {
    let mut names = String::new();
    // The call lies before the address that it returns to.
    backtrace::resolve((code - 1) as *mut _, |symbol| {
        names += &format!("{:?} ", symbol.name())
    });
    names
}

type Walking = Fiber<(), [usize; FRAMES], (), Half>;

#[inline(never)]
fn resumer_of_walking(fiber: &mut Walking) -> [usize; FRAMES] {
    let walked = fiber.resume(()).into_yield().expect("it suspends");
    std::hint::black_box(walked)
}

#[inline(never)]
fn caller_of_resumer(stack: Half) {
    let mut fiber = Walking::with_stack(stack, |suspender, ()| {
        loop {
            suspender.suspend(walk());
        }
    });
    for _ in 0..2 {
        let [first, base, resumer, caller] = std::hint::black_box(resumer_of_walking(&mut fiber));
        assert_eq!(
            first, base,
            "the fiber's function returns to its base, and so does the link"
        );
        assert!(
            names_at(resumer).contains("resumer_of_walking"),
            "{}",
            names_at(resumer)
        );
        assert!(
            names_at(caller).contains("caller_of_resumer"),
            "{}",
            names_at(caller)
        );
    }
}

#[test]
fn a_walk_by_frame_pointers_reaches_the_resumer_in_both_address_orders() {
    in_both_orders(caller_of_resumer);
}
