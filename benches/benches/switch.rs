//! What does a switch between two stacks cost, and what comes with it? `fibers` beside corosensei.

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, ScopedCoroutine};
use fibers::{Fiber, FiberResult, GuardedStack};
use selvedge_benches::{Contest, Question, side};
use std::hint::black_box;

const STACK_BYTES: usize = 1 << 16;
/// Fibers in the ring: corosensei needs two mappings each, of 65 530.
const RING: usize = 10_000;

fn stack() -> GuardedStack {
    GuardedStack::new(STACK_BYTES).expect("there is room for a stack")
}

fn their_stack() -> DefaultStack {
    DefaultStack::new(STACK_BYTES).expect("there is room for a stack")
}

fn echo() -> Fiber<usize, usize, usize, GuardedStack> {
    Fiber::with_stack(stack(), |suspender, mut word| {
        loop {
            word = suspender.suspend(word);
        }
    })
}

fn their_echo() -> Coroutine<usize, usize, usize> {
    Coroutine::with_stack(their_stack(), |suspender, mut word| {
        loop {
            word = suspender.suspend(word);
        }
    })
}

fn switch(contest: &mut Contest) {
    let (mut ours, mut theirs) = (echo(), their_echo());
    contest.duel(
        Question::new("resume + suspend, a word each way", 0.77),
        side("fibers", || {
            black_box(ours.resume(black_box(7)));
        }),
        side("corosensei", || {
            black_box(theirs.resume(black_box(7)));
        }),
    );
}

fn ring(contest: &mut Contest) {
    let mut ours = (0..RING).map(|_| echo()).collect::<Vec<_>>();
    let mut theirs = (0..RING).map(|_| their_echo()).collect::<Vec<_>>();
    contest.duel(
        Question::new("the same over a ring of 10 000", 0.6).times(RING as u32),
        side("fibers", || {
            for fiber in &mut ours {
                black_box(fiber.resume(black_box(7)));
            }
        }),
        side("corosensei", || {
            for fiber in &mut theirs {
                black_box(fiber.resume(black_box(7)));
            }
        }),
    );
}

fn create(contest: &mut Contest) {
    let (mut ours, mut theirs) = (Some(stack()), Some(their_stack()));
    contest.duel(
        Question::new("create + run + drop, owned stack reused", 0.33),
        side("fibers", || {
            let own = ours.take().expect("put back below");
            let mut fiber = Fiber::<usize, (), usize, _>::with_stack(own, |_, word| word + 1);
            let result = fiber.resume(black_box(7));
            assert!(matches!(result, FiberResult::Return(8)));
            ours = Some(fiber.into_stack());
        }),
        side("corosensei", || {
            let own = theirs.take().expect("put back below");
            let mut fiber = Coroutine::<usize, (), usize, _>::with_stack(own, |_, word| word + 1);
            let result = fiber.resume(black_box(7));
            assert!(matches!(result, CoroutineResult::Return(8)));
            theirs = Some(fiber.into_stack());
        }),
    );
}

fn create_scoped(contest: &mut Contest) {
    let mut ours = Some(stack());
    let mut theirs = their_stack();
    contest.duel(
        Question::new("create + run + drop, theirs on a borrowed stack", 0.91),
        side("fibers", || {
            let own = ours.take().expect("put back below");
            let mut fiber = Fiber::<usize, (), usize, _>::with_stack(own, |_, word| word + 1);
            let result = fiber.resume(black_box(7));
            assert!(matches!(result, FiberResult::Return(8)));
            ours = Some(fiber.into_stack());
        }),
        side("corosensei scoped", || {
            let fiber = ScopedCoroutine::<usize, (), usize, _>::with_stack(&mut theirs, |_, word| word + 1);
            fiber.scope(|mut fiber| {
                let result = fiber.resume(black_box(7));
                assert!(matches!(result, CoroutineResult::Return(8)));
            });
        }),
    );
}

fn create_default(contest: &mut Contest) {
    contest.duel(
        Question::new("create + run + drop, default stack", 0.01),
        side("fibers", || {
            let mut fiber = Fiber::<usize, (), usize>::new(|_, word| word + 1).expect("the pool has a stack");
            black_box(fiber.resume(black_box(7)));
        }),
        side("corosensei", || {
            let mut fiber = Coroutine::<usize, (), usize>::new(|_, word| word + 1);
            black_box(fiber.resume(black_box(7)));
        }),
    );
}

fn unwind(contest: &mut Contest) {
    let (mut ours, mut theirs) = (Some(stack()), Some(their_stack()));
    contest.duel(
        Question::new("drop while suspended, unwound", 0.8),
        side("fibers", || {
            let own = ours.take().expect("put back below");
            let mut fiber = Fiber::<(), (), (), _>::with_stack(own, |suspender, ()| suspender.suspend(()));
            black_box(fiber.resume(()));
            ours = Some(fiber.into_stack());
        }),
        side("corosensei", || {
            let own = theirs.take().expect("put back below");
            let mut fiber =
                Coroutine::<(), (), (), _>::with_stack(own, |suspender, ()| suspender.suspend(()));
            black_box(fiber.resume(()));
            fiber.force_unwind();
            theirs = Some(fiber.into_stack());
        }),
    );
}

fn on_stack(contest: &mut Contest) {
    use fibers::Stack;
    let ours = stack();
    let mut theirs = their_stack();
    contest.duel(
        Question::new("call a function on another stack", 0.75),
        side("fibers", || {
            // SAFETY: the stack is ours, is used by nobody else, and its base is 16-aligned.
            let word = unsafe { fibers::raw::on_stack(ours.base(), || black_box(7)) };
            black_box(word);
        }),
        side("corosensei", || {
            black_box(corosensei::on_stack(&mut theirs, || black_box(7)));
        }),
    );
}

fn main() {
    let mut contest = Contest::from_args("switch");
    switch(&mut contest);
    ring(&mut contest);
    create(&mut contest);
    create_scoped(&mut contest);
    create_default(&mut contest);
    unwind(&mut contest);
    on_stack(&mut contest);
    contest.finish();
}
