//! What does a stack cost, and what does a parked fiber take? The pool beside stacks by `mmap`, which are corosensei's.

use std::hint::black_box;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use corosensei::Coroutine;
use corosensei::stack::DefaultStack;
use fibers::pool::{PoolConfig, StackPool};
use fibers::{Fiber, GuardedStack, Stack};
use selvedge_benches::{Contest, Question, side};

use super::{STACK_BYTES, TIMES};

/// More than a thread keeps at hand, so that the pool's list is asked.
const MANY: usize = 64;
/// Fibers that are parked to see what they take.
const PARKED: usize = 4000;

fn make_pool() -> StackPool {
    let config = PoolConfig {
        stack_bytes: STACK_BYTES,
        max_stacks: 2 * PARKED,
        ..PoolConfig::default()
    };
    StackPool::new(config).expect("a pool")
}

/// Writes to the first word that a fiber would use.
fn touch(base: usize) {
    let word = (base - size_of::<usize>()) as *mut usize;
    // SAFETY: the word below the base of a stack that nobody uses.
    unsafe { word.write_volatile(1) };
}

fn theirs() -> DefaultStack {
    DefaultStack::new(STACK_BYTES).expect("there is room for a stack")
}

fn touch_theirs(stack: &DefaultStack) {
    touch(corosensei::stack::Stack::base(stack).get());
}

/// Puts the questions.
pub fn ask(contest: &mut Contest) {
    warm(contest);
    many(contest);
    trimmed(contest);
    across_threads(contest);
    memory(contest);
}

fn warm(contest: &mut Contest) {
    let pool = make_pool();
    contest.duel(
        Question::new("pool: take + touch + return, warm", 1.0)
            .times(TIMES)
            .without_goal(),
        side("fibers", || {
            for _ in 0..TIMES {
                touch(pool.take().expect("a stack").base());
            }
        }),
        side("corosensei", || {
            for _ in 0..TIMES {
                touch_theirs(&theirs());
            }
        }),
    );
}

fn many(contest: &mut Contest) {
    let pool = make_pool();
    contest.duel(
        Question::new("pool: the same, 64 at a time", 1.0)
            .times(MANY as u32)
            .without_goal(),
        side("fibers", || {
            let stacks = [(); MANY].map(|()| pool.take().expect("a stack"));
            stacks.iter().for_each(|stack| touch(stack.base()));
        }),
        side("corosensei", || {
            let stacks = [(); MANY].map(|()| theirs());
            stacks.iter().for_each(touch_theirs);
        }),
    );
}

/// The lowest address of a stack that can be written to.
fn deepest(stack: &impl Stack) -> usize {
    stack.limit() + stack.guard_bytes()
}

/// Stacks that were used to their ends, so that each return gives memory back, and each use faults.
fn trimmed(contest: &mut Contest) {
    let config = PoolConfig {
        stack_bytes: STACK_BYTES,
        max_stacks: 2 * MANY,
        keep_resident_bytes: 0,
        ..PoolConfig::default()
    };
    let pool = StackPool::new(config).expect("a pool");
    contest.duel(
        Question::new("pool: used to the end and trimmed, 64 at a time", 1.0)
            .times(MANY as u32)
            .without_goal(),
        side("fibers", || {
            let stacks = [(); MANY].map(|()| pool.take().expect("a stack"));
            for stack in &stacks {
                touch(stack.base());
                touch(deepest(stack) + 8);
            }
            drop(stacks);
            pool.trim();
        }),
        side("fibers' mmap", || {
            let stacks = [(); MANY].map(|()| GuardedStack::new(STACK_BYTES).expect("a stack"));
            for stack in &stacks {
                touch(stack.base());
                touch(deepest(stack) + 8);
            }
        }),
    );
}

/// A thread that drops what it is sent, and says so.
struct Dropper<T> {
    send: Option<Sender<Vec<T>>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Dropper<T> {
    fn new() -> Self {
        let (send, receive) = channel::<Vec<T>>();
        let (answer, done) = channel();
        let thread = std::thread::spawn(move || {
            for values in receive {
                drop(values);
                answer.send(()).expect("somebody waits");
            }
        });
        Dropper {
            send: Some(send),
            done,
            thread: Some(thread),
        }
    }

    fn give(&self, values: Vec<T>) {
        let send = self.send.as_ref().expect("open until the drop");
        send.send(values).expect("the thread runs");
        self.done.recv().expect("the thread runs");
    }
}

impl<T> Drop for Dropper<T> {
    fn drop(&mut self) {
        self.send = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the thread ends");
        }
    }
}

/// A stack of theirs that goes to another thread.
struct Sent(DefaultStack);

// SAFETY: it owns its mapping, and which thread unmaps that does not matter.
unsafe impl Send for Sent {}

fn across_threads(contest: &mut Contest) {
    let pool = make_pool();
    let (ours, theirs_too) = (Dropper::new(), Dropper::new());
    contest.duel(
        Question::new("pool: taken here, returned by another thread, 64 at a time", 1.0)
            .times(MANY as u32)
            .without_goal(),
        side("fibers", || {
            let stacks: Vec<_> = (0..MANY).map(|_| pool.take().expect("a stack")).collect();
            stacks.iter().for_each(|stack| touch(stack.base()));
            ours.give(stacks);
        }),
        side("corosensei", || {
            let stacks: Vec<_> = (0..MANY).map(|_| Sent(theirs())).collect();
            stacks.iter().for_each(|stack| touch_theirs(&stack.0));
            theirs_too.give(stacks);
        }),
    );
}

/// Resident memory and page tables of this process, in bytes.
fn memory_bytes() -> [usize; 2] {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    ["VmRSS:", "VmPTE:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .and_then(|text| text.parse::<usize>().ok())
            .expect("a number")
            * 1024
    })
}

/// What `make` adds to the process, for each of its fibers.
fn taken_by<T>(make: impl Fn() -> T) -> String {
    let mut parked = Vec::with_capacity(PARKED);
    let before = memory_bytes();
    parked.extend((0..PARKED).map(|_| make()));
    let after = memory_bytes();
    black_box(&parked);
    let each = [0, 1].map(|i| (after[i] - before[i]) / PARKED);
    let handle = size_of::<T>();
    format!(
        "{} B resident, {} B of page tables, a handle of {handle} B",
        each[0], each[1]
    )
}

fn memory(contest: &mut Contest) {
    if !contest.is_measured() || !contest.asks("memory of a parked fiber") {
        return;
    }
    let pool = make_pool();
    let ours = taken_by(|| {
        let stack = pool.take().expect("a stack");
        let mut fiber = Fiber::<(), (), (), _>::with_stack(stack, |suspender, ()| suspender.suspend(()));
        fiber.resume(());
        fiber
    });
    let theirs = taken_by(|| {
        let mut fiber =
            Coroutine::<(), (), (), _>::with_stack(theirs(), |suspender, ()| suspender.suspend(()));
        fiber.resume(());
        fiber
    });
    contest.note(format!(
        "memory of a parked fiber: fibers {ours}; corosensei {theirs}"
    ));
}
