//! What does a switch between two stacks cost, and what comes with it? `fibers` beside corosensei, wasmtime's fibers and generator.
//!
//! A question that is answered in nanoseconds is asked [`TIMES`] times in a loop, on both sides, so that the answer is not
//! mostly the loop around it.
//!
//! What the times consist of, on x86-64 (AMD Zen 4), found by looking at the instructions and by trying:
//!
//! - *Resume + suspend*: stores. This processor writes one a cycle to its cache: two more in the same loop (`by hand, 13 stores`)
//!   cost two cycles. A round trip in this bench has 11, and 13 with corosensei, whose words travel through memory: 0.85, which is
//!   what is measured. The goal of 0.77 would want 10. Of ours four are the switch (`by hand, 4 stores`), four are rbx and rbp of both
//!   sides, which belong to the compiler, and three the bench's own: what is asked, and a result of two words. A switch by
//!   hand with the same 11 has 0.84. benches/README.md has both, instruction by instruction, and what was tried.
//! - *Create + run + drop*: a fiber that is moved while its words are still in the store buffer waits for them; a fiber in
//!   registers does not. corosensei's `into_stack` copies it.
//! - *On another stack*: one call and one return, where corosensei has two of each; a taken jump costs about two cycles.
//! - *Overflow caught*: one fault and one signal each (`a bare fault`), and 64 KiB of recursion.
//! - *Drop while suspended*: one Rust unwind each. Ours takes no longer than a bare `catch_unwind` around a `resume_unwind` (`a bare
//!   unwind`), which is the floor of whatever is unwound in Rust, and 0.88 to 0.96 of corosensei; so 0.8 cannot be reached.
//! - *The ring*: each resume waits for lines of a stack that no cache has, and for its page's translation. A scheduler that knows
//!   what it runs next starts these loads early ([`Fiber::prefetch`]).

#[path = "switch/bound.rs"]
mod bound;
#[path = "switch/pool.rs"]
mod pool;

use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use corosensei::stack::DefaultStack;
use corosensei::trap::CoroutineTrapHandler;
use corosensei::{Coroutine, CoroutineResult, ScopedCoroutine};
use fibers::pool::{PoolConfig, PooledStack, StackPool};
use fibers::{Fiber, FiberResult, GuardedStack, ScopedFiber, Stack, TrapHandler};
use selvedge_benches::{Contest, Question, side};

const STACK_BYTES: usize = 1 << 16;
/// How often a short question is asked in a row.
const TIMES: u32 = 64;
/// Fibers in the ring.
const RING: usize = 100_000;
/// How many fibers ahead the ring loads.
const AHEAD: usize = 6;

fn stack() -> GuardedStack {
    GuardedStack::new(STACK_BYTES).expect("there is room for a stack")
}

fn their_stack() -> DefaultStack {
    DefaultStack::new(STACK_BYTES).expect("there is room for a stack")
}

fn echo() -> Fiber<usize, usize, usize, GuardedStack> {
    echo_on(stack())
}

fn echo_on<S: Stack + 'static>(stack: S) -> Fiber<usize, usize, usize, S> {
    Fiber::with_stack(stack, |suspender, mut word| {
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
        Question::new("resume + suspend, a word each way", 0.77).times(TIMES),
        side("fibers", || resume_often(&mut ours)),
        side("corosensei", || resume_theirs_often(&mut theirs)),
    );
    contest.duel(
        Question::new("resume + suspend, a handle that the compiler cannot see", 1.0)
            .times(TIMES)
            .without_goal(),
        side("fibers", || {
            for _ in 0..TIMES {
                black_box(black_box(&mut ours).resume(black_box(7)));
            }
        }),
        side("corosensei", || {
            for _ in 0..TIMES {
                black_box(black_box(&mut theirs).resume(black_box(7)));
            }
        }),
    );
}

// Functions of their own, so that what the harness keeps in registers and frames does not count.
#[inline(never)]
fn resume_often(fiber: &mut Fiber<usize, usize, usize, GuardedStack>) {
    for _ in 0..TIMES {
        black_box(fiber.resume(black_box(7)));
    }
}

#[inline(never)]
fn resume_theirs_often(fiber: &mut Coroutine<usize, usize, usize>) {
    for _ in 0..TIMES {
        black_box(fiber.resume(black_box(7)));
    }
}

/// Beside switches by hand: each has what the one before has, and more.
fn switch_by_hand(contest: &mut Contest) {
    const STEPS: [(&str, &str, bound::RoundTrips); 4] = [
        (
            "resume + suspend, the lower bound",
            "by hand, 4 stores",
            bound::four_stores,
        ),
        (
            "resume + suspend, and rbx, rbp, the flag",
            "by hand, 8 stores",
            bound::eight_stores,
        ),
        (
            "resume + suspend, and checks, values in memory",
            "by hand, 11 stores",
            bound::eleven_stores,
        ),
        (
            "resume + suspend, and two stores more",
            "by hand, 13 stores",
            bound::thirteen_stores,
        ),
    ];
    let (mut ours, mut theirs, by_hand) = (echo(), their_echo(), stack());
    let base = by_hand.base();
    for (what, who, round_trips) in STEPS {
        contest.duel(
            Question::new(what, 1.0).times(TIMES).without_goal(),
            side("fibers", || resume_often(&mut ours)),
            side(who, || {
                // SAFETY: the stack is ours, and used by nobody else.
                black_box(unsafe { round_trips(TIMES.into(), base) });
            }),
        );
    }
    contest.duel(
        Question::new("resume + suspend, all of it by hand", 0.77)
            .times(TIMES)
            .without_goal(),
        side("by hand, 11 stores", || {
            // SAFETY: as above.
            black_box(unsafe { bound::eleven_stores(TIMES.into(), base) });
        }),
        side("corosensei", || resume_theirs_often(&mut theirs)),
    );
}

fn switch_wasmtime(contest: &mut Contest) {
    let mut ours = echo();
    let their_stack = wasmtime_internal_fiber::FiberStack::new(STACK_BYTES, false).expect("a stack");
    let wasmtime =
        wasmtime_internal_fiber::Fiber::<usize, usize, usize>::new(their_stack, |mut word, suspend| {
            while word != usize::MAX {
                word = suspend.suspend(word);
            }
            0
        });
    let Ok(wasmtime) = wasmtime else {
        panic!("wasmtime makes no fiber");
    };
    contest.duel(
        Question::new("resume + suspend, wasmtime", 1.0)
            .times(TIMES)
            .without_goal(),
        side("fibers", || resume_often(&mut ours)),
        side("wasmtime-internal-fiber", || {
            for _ in 0..TIMES {
                black_box(wasmtime.resume(black_box(7)).is_err());
            }
        }),
    );
    assert_eq!(wasmtime.resume(usize::MAX).ok(), Some(0)); // one that is dropped before would panic
}

fn switch_generator(contest: &mut Contest) {
    let mut ours = echo();
    let mut generator = generator::Gn::<usize>::new_scoped(|mut scope| {
        let mut word = 0;
        loop {
            word = scope.yield_(word).unwrap_or(0);
        }
    });
    generator.raw_send(None);
    contest.duel(
        Question::new("resume + suspend, generator", 1.0)
            .times(TIMES)
            .without_goal(),
        side("fibers", || resume_often(&mut ours)),
        side("generator", || {
            for _ in 0..TIMES {
                black_box(generator.send(black_box(7)));
            }
        }),
    );
}

/// A stack of our pool for their fibers, so that both rings lie in the same kind of memory: their own stacks have two mappings
/// each, of which there are 65 530.
struct Lent(PooledStack);

// SAFETY: it is a stack for `fibers`, which asks for as much.
unsafe impl corosensei::stack::Stack for Lent {
    fn base(&self) -> corosensei::stack::StackPointer {
        self.0.base().try_into().expect("not 0")
    }

    fn limit(&self) -> corosensei::stack::StackPointer {
        self.0.limit().try_into().expect("not 0")
    }
}

fn ring(contest: &mut Contest) {
    if !contest.asks("ring") {
        return;
    }
    let pool = StackPool::new(PoolConfig {
        stack_bytes: STACK_BYTES,
        max_stacks: 2 * RING,
        ..PoolConfig::default()
    });
    let pool = pool.expect("a pool");
    let take = || pool.take().expect("the pool has a stack");
    let mut ours: Vec<Fiber<usize, usize, usize>> = (0..RING).map(|_| echo_on(take())).collect();
    let mut theirs: Vec<_> = (0..RING)
        .map(|_| {
            Coroutine::<usize, usize, usize, _>::with_stack(Lent(take()), |suspender, mut word| {
                loop {
                    word = suspender.suspend(word);
                }
            })
        })
        .collect();
    contest.duel(
        Question::new("a ring of 100 000", 0.6).times(RING as u32),
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
    contest.duel(
        Question::new("a ring of 100 000, loaded ahead", 0.6).times(RING as u32),
        side("fibers", || {
            for at in 0..RING {
                ours[(at + AHEAD) % RING].prefetch();
                black_box(ours[at].resume(black_box(7)));
            }
        }),
        side("corosensei", || {
            for fiber in &mut theirs {
                black_box(fiber.resume(black_box(7)));
            }
        }),
    );
}

/// Makes, runs and ends fibers on one stack.
#[inline(never)]
fn live_often(stack: &mut Option<GuardedStack>) {
    let mut own = stack.take().expect("put back below");
    for _ in 0..TIMES {
        let mut fiber = Fiber::<usize, (), usize, _>::with_stack(own, |_, word| word + 1);
        let result = fiber.resume(black_box(7));
        assert!(matches!(result, FiberResult::Return(8)));
        own = fiber.into_stack();
    }
    *stack = Some(own);
}

fn create(contest: &mut Contest) {
    let (mut ours, mut theirs) = (Some(stack()), Some(their_stack()));
    contest.duel(
        Question::new("create + run + drop, owned stack reused", 0.33).times(TIMES),
        side("fibers", || live_often(&mut ours)),
        side("corosensei", || {
            let mut own = theirs.take().expect("put back below");
            for _ in 0..TIMES {
                let mut fiber = Coroutine::<usize, (), usize, _>::with_stack(own, |_, word| word + 1);
                let result = fiber.resume(black_box(7));
                assert!(matches!(result, CoroutineResult::Return(8)));
                own = fiber.into_stack();
            }
            theirs = Some(own);
        }),
    );
}

fn create_wasmtime(contest: &mut Contest) {
    let their_stack = wasmtime_internal_fiber::FiberStack::new(STACK_BYTES, false).expect("a stack");
    let (mut ours, mut theirs) = (Some(stack()), Some(their_stack));
    contest.duel(
        Question::new("create + run + drop, wasmtime", 1.0)
            .times(TIMES)
            .without_goal(),
        side("fibers", || live_often(&mut ours)),
        side("wasmtime-internal-fiber", || {
            for _ in 0..TIMES {
                let own = theirs.take().expect("put back below");
                let fiber = wasmtime_internal_fiber::Fiber::<usize, (), usize>::new(own, |word, _| word + 1);
                let Ok(fiber) = fiber else {
                    panic!("wasmtime makes no fiber");
                };
                assert_eq!(fiber.resume(black_box(7)), Ok(8));
                theirs = Some(fiber.into_stack());
            }
        }),
    );
}

fn create_generator(contest: &mut Contest) {
    let mut ours = Some(stack());
    let body =
        |mut scope: generator::Scope<'_, '_, usize, usize>| scope.get_yield().map_or(0, |word| word + 1);
    // A size in words.
    let mut theirs = generator::Gn::<usize>::new_scoped_opt(STACK_BYTES / 8, body);
    assert_eq!(theirs.raw_send(Some(7)), Some(8));
    contest.duel(
        Question::new("create + run + drop, generator", 1.0)
            .times(TIMES)
            .without_goal(),
        side("fibers", || live_often(&mut ours)),
        side("generator", || {
            for _ in 0..TIMES {
                theirs.scoped_init(body);
                assert_eq!(theirs.raw_send(Some(black_box(7))), Some(8));
            }
        }),
    );
}

fn create_scoped(contest: &mut Contest) {
    let (mut ours, mut theirs) = (stack(), their_stack());
    contest.duel(
        Question::new("create + run + drop, borrowed stack", 0.91).times(TIMES),
        side("fibers", || {
            for _ in 0..TIMES {
                let fiber = ScopedFiber::<usize, (), usize, _, _>::with_stack(&mut ours, |_, word| word + 1);
                fiber.scope(|mut fiber| {
                    let result = fiber.resume(black_box(7));
                    assert!(matches!(result, FiberResult::Return(8)));
                });
            }
        }),
        side("corosensei", || {
            for _ in 0..TIMES {
                let fiber =
                    ScopedCoroutine::<usize, (), usize, _>::with_stack(&mut theirs, |_, word| word + 1);
                fiber.scope(|mut fiber| {
                    let result = fiber.resume(black_box(7));
                    assert!(matches!(result, CoroutineResult::Return(8)));
                });
            }
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

/// What the forced unwind ends with, without a fiber: the standard library's throw and catch, with nothing between.
fn unwind_bound(contest: &mut Contest) {
    let mut ours = Some(stack());
    contest.duel(
        Question::new("drop while suspended, the lower bound", 1.0).without_goal(),
        side("fibers", || {
            let own = ours.take().expect("put back below");
            let mut fiber = Fiber::<(), (), (), _>::with_stack(own, |suspender, ()| suspender.suspend(()));
            black_box(fiber.resume(()));
            ours = Some(fiber.into_stack());
        }),
        side("a bare unwind", || {
            let thrown = std::panic::catch_unwind(|| {
                std::panic::resume_unwind(Box::new(black_box(7u8)));
            });
            black_box(thrown.is_err());
        }),
    );
    let mut theirs = Some(their_stack());
    contest.duel(
        Question::new("drop while suspended, a bare unwind", 0.8).without_goal(),
        side("a bare unwind", || {
            let thrown = std::panic::catch_unwind(|| {
                std::panic::resume_unwind(Box::new(black_box(7u8)));
            });
            black_box(thrown.is_err());
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

fn reset(contest: &mut Contest) {
    let (mut ours, mut theirs) = (Some(stack()), Some(their_stack()));
    contest.duel(
        Question::new("drop while suspended, nothing to drop", 1.0).times(TIMES),
        side("fibers", || {
            let mut own = ours.take().expect("put back below");
            for _ in 0..TIMES {
                let mut fiber =
                    Fiber::<(), (), (), _>::with_stack(own, |suspender, ()| suspender.suspend(()));
                black_box(fiber.resume(()));
                // SAFETY: nothing on the fiber's stack needs dropping.
                unsafe { fiber.force_reset() };
                own = fiber.into_stack();
            }
            ours = Some(own);
        }),
        side("corosensei", || {
            let mut own = theirs.take().expect("put back below");
            for _ in 0..TIMES {
                let mut fiber =
                    Coroutine::<(), (), (), _>::with_stack(own, |suspender, ()| suspender.suspend(()));
                black_box(fiber.resume(()));
                // SAFETY: nothing on the fiber's stack needs dropping.
                unsafe { fiber.force_reset() };
                own = fiber.into_stack();
            }
            theirs = Some(own);
        }),
    );
}

fn on_stack(contest: &mut Contest) {
    let (mut ours, mut theirs) = (stack(), their_stack());
    contest.duel(
        Question::new("call a function on another stack", 0.75).times(TIMES),
        side("fibers", || {
            for _ in 0..TIMES {
                black_box(fibers::on_stack(&mut ours, || black_box(7)));
            }
        }),
        side("corosensei", || {
            for _ in 0..TIMES {
                black_box(corosensei::on_stack(&mut theirs, || black_box(7)));
            }
        }),
    );
}

thread_local! {
    static OURS: Cell<Option<TrapHandler<bool>>> = const { Cell::new(None) };
    static THEIRS: Cell<Option<CoroutineTrapHandler<bool>>> = const { Cell::new(None) };
}

/// Ends whichever fiber has overflowed.
unsafe extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: SA_SIGINFO: the kernel gives a context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let stack_pointer = fibers::raw::interrupted_stack_pointer(context);
    if let Some(handler) = OURS.get()
        && handler.is_stack_pointer_inside(stack_pointer)
    {
        // SAFETY: the fiber recursed, and has nothing to drop.
        unsafe { handler.setup_trap_trampoline(|| true) }.write_to(context);
    } else if let Some(handler) = THEIRS.get()
        && handler.stack_ptr_in_bounds(stack_pointer)
    {
        // SAFETY: the fiber recursed, and has nothing to drop.
        let regs = unsafe { handler.setup_trap_handler(|| true) };
        let gregs = &mut context.uc_mcontext.gregs;
        gregs[libc::REG_RIP as usize] = regs.rip as i64;
        gregs[libc::REG_RSP as usize] = regs.rsp as i64;
        gregs[libc::REG_RBP as usize] = regs.rbp as i64;
        gregs[libc::REG_RDI as usize] = regs.rdi as i64;
        gregs[libc::REG_RSI as usize] = regs.rsi as i64;
    } else if context.uc_mcontext.gregs[libc::REG_CR2 as usize] as usize == SKIPPED.load(Ordering::Relaxed) {
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += FAULT_BYTES;
    } else {
        std::process::abort();
    }
}

/// The address whose faults `on_fault` skips.
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of the instruction in `fault`.
const FAULT_BYTES: i64 = 3;

/// Reads a word that nobody may read. The handler goes on behind that.
fn fault(address: usize) {
    // SAFETY: nothing is read, and nothing changes but what the handler changes: the instruction's address.
    unsafe { std::arch::asm!("mov rax, [rax]", inout("rax") address => _, options(nostack)) };
}

/// Makes `on_fault` the handler of SIGSEGV, on a stack that is leaked.
fn handle_faults() {
    let space = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: space.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: space.len(),
    };
    // SAFETY: the space is there for ever.
    assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
    // SAFETY: zeros are a value of this type.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a handler of the right signature.
    let installed = unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
}

#[expect(unconditional_recursion, reason = "the guard ends it")]
fn recurse(depth: u64) -> u64 {
    let local = black_box([depth; 16]);
    recurse(black_box(depth + 1)) + local[3]
}

fn overflow(contest: &mut Contest) {
    handle_faults();
    let (mut ours, mut theirs) = (Some(stack()), Some(their_stack()));
    contest.duel(
        Question::new("overflow caught, 64 KiB", 1.0),
        side("fibers", || {
            let own = ours.take().expect("put back below");
            let mut fiber = Fiber::<(), (), bool, _>::with_stack(own, |_, ()| recurse(0) == 0);
            OURS.set(Some(fiber.trap_handler()));
            assert!(matches!(fiber.resume(()), FiberResult::Return(true)));
            ours = Some(fiber.into_stack());
        }),
        side("corosensei", || {
            let own = theirs.take().expect("put back below");
            let mut fiber = Coroutine::<(), (), bool, _>::with_stack(own, |_, ()| recurse(0) == 0);
            THEIRS.set(Some(fiber.trap_handler()));
            assert!(matches!(fiber.resume(()), CoroutineResult::Return(true)));
            theirs = Some(fiber.into_stack());
        }),
    );
    THEIRS.set(None);
    let (mut ours, forbidden) = (Some(stack()), stack());
    SKIPPED.store(forbidden.limit(), Ordering::Relaxed);
    contest.duel(
        Question::new("overflow caught, the lower bound", 1.0).without_goal(),
        side("fibers", || {
            let own = ours.take().expect("put back below");
            let mut fiber = Fiber::<(), (), bool, _>::with_stack(own, |_, ()| recurse(0) == 0);
            OURS.set(Some(fiber.trap_handler()));
            assert!(matches!(fiber.resume(()), FiberResult::Return(true)));
            ours = Some(fiber.into_stack());
        }),
        side("a bare fault", || {
            OURS.set(None);
            fault(forbidden.limit());
        }),
    );
    OURS.set(None);
}

fn main() {
    let mut contest = Contest::from_args("switch");
    switch(&mut contest);
    switch_by_hand(&mut contest);
    switch_wasmtime(&mut contest);
    switch_generator(&mut contest);
    ring(&mut contest);
    create(&mut contest);
    create_wasmtime(&mut contest);
    create_generator(&mut contest);
    create_scoped(&mut contest);
    create_default(&mut contest);
    unwind(&mut contest);
    unwind_bound(&mut contest);
    reset(&mut contest);
    on_stack(&mut contest);
    overflow(&mut contest);
    pool::ask(&mut contest);
    contest.finish();
}
