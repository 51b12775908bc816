//! The raw layer: switching between stacks, on addresses and words.
//!
//! Everything here is `unsafe` and machine-dependent; [`Fiber`](crate::Fiber) is the safe face. Use it
//! to build another kind of fiber: it takes a base address and not a stack, so that several
//! activations can nest on one stack.
//!
//! A base `B` is 16-aligned, `link = B - 16` holds the parent link P. In the registers of each architecture:
//!
//! ```text
//!                   x86-64                     aarch64                    riscv64
//!   into a fiber    rdi = word, rsi = link,    x0 = word, x1 = link,      a0 = word, a1 = link,
//!                   r8 = P                     x3 = P                     t0 = P
//!   back            rax = word, rdx = sp       x0 = word, x2 = sp         a0 = word, a2 = sp
//!   parked fiber    [sp] = code address; the stack pointer is then
//!                   sp + 8                     sp + 16                    sp + 16
//!   new fiber       [B-8] = base_return(), [sp] = code address, which starts with the stack pointer at the link; sp is
//!                   B - 24                     B - 32                     B - 32
//!   parked parent   its frame record is at
//!                   P                          P                          P - 16
//!                   and in it lie, from its start on
//!                   rbp, return address, rbx   x29, x30, x19              s0, ra, s1
//!                   and its stack pointer is behind
//!                   24 bytes                   32                         32
//!   CFI at a base   rbp = link                 x29 = link                 s0 = link + 16 = B
//! ```
//!
//! | operation | what it does |
//! | --- | --- |
//! | [`init_stack`] | writes a function, an object and the entry's address on a stack, so that the first switch runs it |
//! | [`init_entry`] | the same for an entry written in assembly |
//! | [`switch_and_link`], [`switch_and_link_direct`] | into a fiber: parks the caller, writes the parent link, passes one word |
//! | [`switch_yield`] | back to the parent, resumable |
//! | [`switch_and_reset`] | back to the parent for the last time (`sp` 0) |
//! | [`switch_transfer`] | parks a fiber and continues another with its parent |
//! | [`switch_and_throw`] | resumes a parked fiber with the flag that says: unwind |
//! | [`drop_initial_obj`] | drops the object of a fiber that never started |
//! | [`setup_trap_trampoline`], [`setup_trap_trampoline_raw`] | registers for a signal handler to return with, so that a function runs at a fiber's base |
//! | [`on_stack`], [`call_on_stack`] | a call on another stack |
//! | [`prefetch`] | starts to load what a resume touches first |
//!
//! The constants here say the same. Below its frame record a parked parent's stack is free to be borrowed. An `sp` of 0 on the
//! way back says that the fiber never comes back.
//!
//! [`switch_and_link`] clobbers every register but the stack pointer, the frame pointer, the one that the compiler
//! reserves (rbx, x19, s1), and those of the platform and the thread: so r12 to r15, x20 to x28, d8 to d15, s2 to s11 and fs0 to
//! fs11 too. Code addresses that are preceded by `parking_prelude_x86_64!` (`_aarch64`, `_riscv64`) can be resumed by
//! [`switch_and_link_direct`], which is faster. For assembly at the base of a fiber there is `base_cfi_x86_64!`, and so on.

pub use crate::arch::*;

/// Runs `body` on the stack whose unused part ends at `base`, and comes back. Panics pass through.
///
/// Cost: two calls. Never suspends.
///
/// # Safety
/// `base` is 16-aligned, and the memory below it is a stack that nobody uses until this returns, with room
/// for `body`.
#[inline]
pub unsafe fn on_stack<F: FnOnce() -> R, R>(base: usize, body: F) -> R {
    // SAFETY: the caller's promise.
    unsafe { crate::start::call_on(base, body) }
}

#[cfg(all(test, feature = "unwind", feature = "pool"))]
pub(crate) mod tests {
    use super::*;

    /// A stack for tests, aligned, without a guard.
    #[repr(align(4096))]
    struct Area(#[expect(dead_code)] [u8; 64 * 1024]);

    fn area() -> (Box<Area>, usize) {
        let area = Box::new(Area([0; 64 * 1024]));
        let base = (&raw const *area) as usize + size_of::<Area>();
        (area, base)
    }

    /// Adds what it is given to the object, and gives the sum, until it is told to unwind.
    unsafe extern "C" fn summing(word: u64, link: usize, object: *mut u64) -> ! {
        // SAFETY: `init_stack` put a `u64` there.
        let mut sum = unsafe { object.read() } + word;
        loop {
            // SAFETY: this runs on the fiber whose link this is.
            let (word, unwind) = unsafe { switch_yield(sum, link) };
            if unwind {
                // SAFETY: as above; nothing here needs dropping.
                unsafe { switch_and_reset(sum + 1000, link) }
            }
            sum += word;
        }
    }

    #[test]
    fn words_travel_both_ways_and_the_flag_ends_it() {
        let (_area, base) = area();
        let link = base - LINK_OFFSET;
        // SAFETY: the area is ours, and large enough.
        let mut sp = unsafe { init_stack(base, summing, 100u64) };
        for (word, expected) in [(1, 101), (2, 103), (3, 106)] {
            // SAFETY: `sp` is the fiber's newest, and is replaced.
            let (sum, next) = unsafe { switch_and_link(word, sp, link) };
            assert_eq!(sum, expected);
            assert_ne!(next, 0);
            sp = next;
        }
        // SAFETY: the fiber is parked in `switch_yield`.
        assert_eq!(unsafe { switch_and_throw(sp, link) }, (1106, 0));
    }

    /// Two fibers that transfer to each other: the object is the place of the other's `sp` and link, and of the own `sp`.
    #[repr(C)]
    struct Partner {
        other: *mut [usize; 2],
        own: *mut [usize; 2],
    }

    /// Adds 1 to each word and transfers it on; goes to the parent with multiples of 10, and resets when told to unwind.
    unsafe extern "C" fn transferring(mut word: u64, link: usize, partner: *mut Partner) -> ! {
        // SAFETY: `init_stack` put it there.
        let Partner { other, own } = unsafe { partner.read() };
        loop {
            word += 1;
            let (next, unwind) = if word.is_multiple_of(10) {
                // SAFETY: this is the fiber's link.
                unsafe { switch_yield(word, link) }
            } else {
                // SAFETY: the other is parked there.
                let [sp, to] = unsafe { other.read() };
                // SAFETY: as above; the place is the first word of `own`.
                unsafe { switch_transfer(word, link, sp, to, own.cast()) }
            };
            if unwind {
                // SAFETY: this is the fiber's link, and nothing needs dropping.
                unsafe { switch_and_reset(word, link) }
            }
            word = next;
        }
    }

    #[test]
    fn a_transfer_gives_the_parent_to_the_other_and_parks_like_a_suspend() {
        let (area, top) = area();
        let low = (&raw const *area) as usize + 32 * 1024;
        let mut places = [[0, top - LINK_OFFSET], [0, low - LINK_OFFSET]];
        let at = places.as_mut_ptr();
        for (i, base) in [top, low].into_iter().enumerate() {
            let partner = Partner {
                other: at.wrapping_add(1 - i),
                own: at.wrapping_add(i),
            };
            // SAFETY: the two halves of the area are two stacks.
            let sp = unsafe { init_stack(base, transferring, partner) };
            // SAFETY: one of the two places.
            unsafe { at.wrapping_add(i).cast::<usize>().write(sp) };
        }
        let mut word = 0;
        for round in 1..=5 {
            // SAFETY: a place.
            let [sp, link] = unsafe { at.read() };
            // SAFETY: the first is parked there: new, in a transfer, or (never) in a yield.
            let (given, sp) = unsafe { switch_and_link_direct(word, sp, link) };
            assert_eq!(
                given,
                10 * round,
                "ten steps, the last by the second, as the first begins"
            );
            // SAFETY: the second yielded: this is its `sp`.
            unsafe { at.wrapping_add(1).cast::<usize>().write(sp) };
            word = given;
        }
        for i in 0..2 {
            // SAFETY: a place.
            let [sp, link] = unsafe { at.wrapping_add(i).read() };
            // SAFETY: each is parked, in a transfer and in a yield.
            let (_, end) = unsafe { switch_and_throw(sp, link) };
            assert_eq!(end, 0);
        }
    }

    /// Looks at the bytes before the code of a parked fiber.
    fn assert_prelude(sp: usize) {
        // SAFETY: the fiber is parked: the word is a code address.
        let code = unsafe { (sp as *const usize).read() };
        // SAFETY: code can be read, and this is the same function's.
        let bytes = unsafe { ((code - PRELUDE_BYTES) as *const [u8; PRELUDE_BYTES]).read() };
        assert_eq!(bytes, crate::arch::tests::PRELUDE);
    }

    #[test]
    fn fibers_with_the_prelude_are_resumed_either_way() {
        let (_area, base) = area();
        let link = base - LINK_OFFSET;
        // SAFETY: the area is ours, and large enough.
        let sp = unsafe { init_stack(base, summing, 0u64) };
        assert_prelude(sp);
        // SAFETY: `sp` is the fiber's newest; `init_stack`'s entry has the prelude.
        let (sum, sp) = unsafe { switch_and_link_direct(1, sp, link) };
        // SAFETY: `sp` is the fiber's newest.
        let (sum2, sp) = unsafe { switch_and_link(2, sp, link) };
        assert_prelude(sp);
        // SAFETY: `sp` is the fiber's newest; `switch_yield` has the prelude.
        let (sum3, sp) = unsafe { switch_and_link_direct(3, sp, link) };
        assert_eq!((sum, sum2, sum3), (1, 3, 6));
        // SAFETY: the fiber is parked in `switch_yield`.
        assert_eq!(unsafe { switch_and_throw(sp, link) }, (1006, 0));
    }

    #[test]
    fn an_initial_object_can_be_dropped_and_keeps_its_alignment() {
        use std::rc::Rc;
        #[repr(align(64))]
        struct Aligned(#[expect(dead_code)] Rc<()>);
        unsafe extern "C" fn never(_: u64, _: usize, _: *mut Aligned) -> ! {
            std::process::abort()
        }
        unsafe fn drop_aligned(at: *mut u8) {
            assert_eq!(at as usize % 64, 0);
            // SAFETY: the object's address, as `drop_initial_obj` promises.
            unsafe { at.cast::<Aligned>().drop_in_place() }
        }
        let (_area, base) = area();
        let rc = Rc::new(());
        // SAFETY: the area is ours, and large enough.
        let sp = unsafe { init_stack(base, never, Aligned(rc.clone())) };
        assert_eq!(Rc::strong_count(&rc), 2);
        // SAFETY: it was never resumed.
        unsafe { drop_initial_obj(sp, drop_aligned) };
        assert_eq!(Rc::strong_count(&rc), 1);
    }

    #[test]
    fn on_stack_returns_values_and_lets_panics_through() {
        let (_area, base) = area();
        let range = base - size_of::<Area>()..base;
        // SAFETY: the area is ours and unused.
        let (at, text) = unsafe { on_stack(base, || ((&raw const range) as usize, String::from("answer"))) };
        assert!(at != 0 && text == "answer");
        // SAFETY: as above.
        let inside = unsafe {
            on_stack(base, || {
                let local = 0u8;
                range.contains(&((&raw const local) as usize))
            })
        };
        assert!(inside);
        // SAFETY: as above.
        let call = || unsafe { on_stack(base, || std::panic::resume_unwind(Box::new(7u8))) };
        let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&7u8));
    }

    #[derive(Default, Debug)]
    pub(crate) struct Walks {
        by_frame_pointer: Vec<usize>,
        by_dwarf: Vec<usize>,
    }

    /// Called by `walking_entry` with the word and the link.
    pub(crate) extern "C" fn walk(walks: &mut Walks, record: *const [usize; 2]) {
        // SAFETY: the entry gives the link, which is a frame record (invariant 3 of the architecture).
        let [next, code] = unsafe { record.read() };
        // SAFETY: the parent's P names one too.
        let [_, parent] = unsafe { ((next - FRAME_POINTER_OFFSET) as *const [usize; 2]).read() };
        walks.by_frame_pointer = vec![code, parent];
        backtrace::trace(|frame| {
            walks.by_dwarf.push(frame.ip() as usize);
            true
        });
    }

    #[inline(never)]
    fn walk_on(base: usize) -> Walks {
        let mut walks = Walks::default();
        // SAFETY: the caller gives a free piece of stack.
        let sp = unsafe { init_entry(base, crate::arch::tests::walking_entry as *const () as usize) };
        assert_eq!(sp, base - ENTRY_OFFSET);
        let word = (&raw mut walks) as u64;
        // SAFETY: the fiber is new; the entry uses the word as the walks.
        let answer = unsafe { switch_and_link(word, sp, base - LINK_OFFSET) };
        assert_eq!(answer, (5, 0));
        walks
    }

    fn check(walks: &Walks) {
        assert_eq!(walks.by_frame_pointer[0], base_return());
        let parent = walks.by_frame_pointer[1];
        let at = walks.by_dwarf.iter().position(|ip| ip.abs_diff(parent) <= 1);
        let at = at.unwrap_or_else(|| panic!("{parent:#x} is not in {walks:#x?}"));
        assert!(
            walks.by_dwarf.len() > at + 5,
            "the walk goes on to the thread's start: {walks:#x?}"
        );
        let mut names = String::new();
        for ip in &walks.by_dwarf[at..] {
            backtrace::resolve(*ip as *mut _, |symbol| names += &format!("{:?} ", symbol.name()));
        }
        assert!(names.contains("walk_on"), "{names}");
    }

    #[test]
    fn walks_reach_the_parent_in_both_address_orders() {
        let (area, top) = area();
        let low = (&raw const *area) as usize + 32 * 1024;
        for (outer, inner) in [(top, low), (low, top)] {
            // SAFETY: the two halves of the area are two stacks; each is used once at a time.
            let walks = unsafe { on_stack(outer, || walk_on(inner)) };
            check(&walks);
        }
    }
}
