//! Random histories of fibers beside a slow model that knows no stacks: what each step gives, and what is dropped when.
//!
//! A fiber interprets the commands that it is resumed with: it calls deeper, returns, panics, traps, borrows its parent's
//! stack, has a fiber of its own and hands commands on to it. Around it fibers are made, dropped, unwound, forgotten,
//! moved in memory and to other threads, and their stacks used again. The model ([`ModelFiber`]) is a list of frames.
//!
//! A history follows from its seed. A failure names it; `FIBERS_MODEL_SEED` runs that one alone, and
//! `FIBERS_MODEL_RUNS` says how many there are.
#![cfg(all(target_os = "linux", feature = "unwind", feature = "pool"))]

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard};

use fibers::pool::{PoolConfig, PooledStack, StackPool};
use fibers::{Fiber, FiberResult, ForcedUnwind, GuardedStack, Stack, Suspender, TrapHandler};

/// Bytes of a stack: a sanitizer's frames are large.
const STACK_BYTES: usize = 256 << 10;
const MAX_DEPTH: usize = 6;
const MAX_FIBERS: usize = 6;
/// What a fiber returns that has trapped.
const TRAPPED: u64 = 777;

/// What a running fiber is told. Larger than a word, as `Report` is; what a fiber returns is a word.
#[derive(Clone, Debug)]
enum Command {
    Echo(u64),
    Push { id: i64, guarded: bool },
    Pop,
    Return(u64),
    Panic(u64),
    Trap,
    Borrow(u64),
    BorrowAndPanic(u64),
    MakeChild(i64),
    ToChild(Box<Command>),
    DropChild,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Report {
    value: u64,
    depth: usize,
}

/// What a resume comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Yield(Report),
    Return(u64),
    Panicked(u64),
    WasFinished,
}

/// What stands for an outcome in a report of the fiber that resumed.
fn digest(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Yield(report) => 1000 + report.value * 3 + report.depth as u64,
        Outcome::Return(value) => 2000 + value,
        Outcome::Panicked(_) | Outcome::WasFinished => unreachable!("these unwind"),
    }
}

// ---- the real thing

/// Drops (the id) and catches (its negative), in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<i64>>>);

impl Log {
    fn entries(&self) -> MutexGuard<'_, Vec<i64>> {
        self.0.lock().expect("no panic while it is held")
    }
}

struct Tracker(i64, Log);

impl Drop for Tracker {
    fn drop(&mut self) {
        self.1.entries().push(self.0);
    }
}

enum EitherStack {
    Guarded(GuardedStack),
    Pooled(PooledStack),
}

// SAFETY: each is a stack, and stays what it is.
unsafe impl Stack for EitherStack {
    fn base(&self) -> usize {
        match self {
            EitherStack::Guarded(stack) => stack.base(),
            EitherStack::Pooled(stack) => stack.base(),
        }
    }

    fn limit(&self) -> usize {
        match self {
            EitherStack::Guarded(stack) => stack.limit(),
            EitherStack::Pooled(stack) => stack.limit(),
        }
    }

    fn guard_bytes(&self) -> usize {
        match self {
            EitherStack::Guarded(stack) => stack.guard_bytes(),
            EitherStack::Pooled(stack) => stack.guard_bytes(),
        }
    }
}

fn new_stack(id: i64) -> EitherStack {
    static POOL: std::sync::OnceLock<StackPool> = std::sync::OnceLock::new();
    let config = PoolConfig {
        stack_bytes: STACK_BYTES,
        max_stacks: 1 << 16,
        ..PoolConfig::default()
    };
    if id % 3 == 0 {
        return EitherStack::Guarded(GuardedStack::new(STACK_BYTES).expect("a stack"));
    }
    let pool = POOL.get_or_init(|| StackPool::new(config).expect("a pool"));
    EitherStack::Pooled(pool.take().expect("a stack"))
}

type Real = Fiber<Command, Report, u64, EitherStack>;
type RealSuspender = Suspender<Command, Report>;

fn real_fiber(stack: EitherStack, id: i64, log: &Log) -> Real {
    let (captured, log) = (Tracker(id, log.clone()), log.clone());
    Fiber::with_stack(stack, move |suspender, first| {
        let _captured = &captured;
        match frame(suspender, &log, 1, first) {
            Exit::Pop => 0,
            Exit::Return(value) => value,
        }
    })
}

enum Exit {
    Pop,
    Return(u64),
}

/// One call in a fiber: does `command`, and those that follow, until it returns.
#[inline(never)]
fn frame(suspender: &RealSuspender, log: &Log, depth: usize, mut command: Command) -> Exit {
    let mut child: Option<Real> = None;
    loop {
        let value = match command {
            Command::Echo(value) => value + 1,
            Command::Push { id, guarded } if depth < MAX_DEPTH => {
                match deeper(suspender, log, depth, id, guarded) {
                    Exit::Pop => id as u64,
                    exit => return exit,
                }
            }
            Command::Push { .. } => 1,
            Command::Pop => return Exit::Pop,
            Command::Return(value) => return Exit::Return(value),
            Command::Panic(value) => resume_unwind(Box::new(value)),
            Command::Trap => trap(),
            Command::Borrow(value) => suspender.on_parent_stack(move || value * 2),
            Command::BorrowAndPanic(value) => {
                suspender.on_parent_stack(move || resume_unwind(Box::new(value)))
            }
            Command::MakeChild(id) => {
                child = Some(real_fiber(new_stack(id), id, log));
                2
            }
            Command::ToChild(command) => match &mut child {
                Some(child) if !child.done() => digest(resume_uncaught(child, *command)),
                _ => 3,
            },
            Command::DropChild => {
                child = None;
                4
            }
        };
        command = suspender.suspend(Report { value, depth });
    }
}

#[inline(never)]
fn deeper(suspender: &RealSuspender, log: &Log, depth: usize, id: i64, guarded: bool) -> Exit {
    let _tracker = Tracker(id, log.clone());
    let call = || frame(suspender, log, depth + 1, Command::Echo(0));
    if !guarded {
        return call();
    }
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        assert!(payload.is::<ForcedUnwind>() || payload.is::<u64>());
        log.entries().push(-id);
        resume_unwind(payload)
    })
}

fn resume_uncaught(fiber: &mut Real, command: Command) -> Outcome {
    TRAPS.with_borrow_mut(|traps| traps.push(fiber.trap_handler()));
    struct Pop;
    impl Drop for Pop {
        fn drop(&mut self) {
            TRAPS.with_borrow_mut(|traps| traps.pop());
        }
    }
    let _pop = Pop;
    match fiber.resume(command) {
        FiberResult::Yield(report) => Outcome::Yield(report),
        FiberResult::Return(value) => Outcome::Return(value),
    }
}

fn resume_real(fiber: &mut Real, command: Command) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| resume_uncaught(fiber, command))) {
        Ok(outcome) => outcome,
        Err(payload) => match payload.downcast_ref::<u64>() {
            Some(value) => Outcome::Panicked(*value),
            None => {
                assert_eq!(payload.downcast_ref(), Some(&"a finished fiber was resumed"));
                Outcome::WasFinished
            }
        },
    }
}

/// Lets a fiber be used on another thread.
struct Moved<T>(T);

// SAFETY: what lies on the stacks of this test's fibers is `Send`: numbers, trackers, and fibers of the same kind.
unsafe impl<T> Send for Moved<T> {}

impl<T> Moved<T> {
    fn get(self) -> T {
        self.0
    }
}

fn resume_on_another_thread(fiber: &mut Real, command: Command) -> Outcome {
    let fiber = Moved(fiber);
    std::thread::scope(|scope| {
        let resume = move || resume_real(fiber.get(), command);
        scope.spawn(resume).join().expect("panics are caught")
    })
}

/// What is on its stack is dropped there, and the stack goes to that thread's bin, and then to the pool.
fn drop_on_another_thread(fiber: Real) {
    let fiber = Moved(fiber);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || drop(fiber.get()));
        thread.join().expect("trackers do not panic")
    });
}

// ---- traps

thread_local! {
    /// Of the fibers that run, outermost first.
    static TRAPS: RefCell<Vec<TrapHandler<u64>>> = const { RefCell::new(Vec::new()) };
}

#[inline(never)]
fn trap() -> u64 {
    // SAFETY: a fault, which the handler answers.
    unsafe { (16 as *const u64).read_volatile() }
}

extern "C" fn on_fault(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: SA_SIGINFO: the kernel gives a context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let stack_pointer = fibers::raw::interrupted_stack_pointer(context);
    let handler = TRAPS.with_borrow(|traps| traps.last().copied());
    if let Some(handler) = handler.filter(|handler| handler.is_stack_pointer_inside(stack_pointer)) {
        // SAFETY: the fiber is in `trap`; the model knows that its frames are lost.
        unsafe { handler.setup_trap_trampoline(|| TRAPPED) }.write_to(context);
    } else {
        // SAFETY: the default action, which ends the process when the instruction runs again.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Takes SIGSEGV, on the alternate stacks that the standard library gives its threads.
fn take_faults() {
    // SAFETY: zeros are a value of this type.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a handler of the right signature.
    let done = unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

// ---- the model

struct ModelFrame {
    id: i64,
    guarded: bool,
    child: Option<ModelFiber>,
}

impl ModelFrame {
    fn new(id: i64, guarded: bool) -> ModelFrame {
        ModelFrame {
            id,
            guarded,
            child: None,
        }
    }
}

struct ModelFiber {
    captured: i64,
    state: State,
}

enum State {
    New,
    Parked(Vec<ModelFrame>),
    Finished,
}

#[derive(Clone, Copy, PartialEq)]
enum Leave {
    Return,
    Unwind,
}

impl ModelFiber {
    fn new(captured: i64) -> ModelFiber {
        ModelFiber {
            captured,
            state: State::New,
        }
    }

    fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// A drop, a forced unwind.
    fn end(&mut self, log: &mut Vec<i64>) {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::New => log.push(self.captured),
            State::Parked(frames) => self.leave_all(frames, Leave::Unwind, log),
            State::Finished => (),
        }
    }

    fn leave_all(&self, mut frames: Vec<ModelFrame>, how: Leave, log: &mut Vec<i64>) {
        while let Some(frame) = frames.pop() {
            leave(frame, frames.is_empty(), how, log);
        }
        log.push(self.captured);
    }

    fn resume(&mut self, command: &Command, log: &mut Vec<i64>) -> Outcome {
        let mut frames = match std::mem::replace(&mut self.state, State::Finished) {
            State::New => vec![ModelFrame::new(0, false)],
            State::Parked(frames) => frames,
            State::Finished => return Outcome::WasFinished,
        };
        match command {
            Command::Pop if frames.len() == 1 => {
                self.leave_with(frames, Leave::Return, Outcome::Return(0), log)
            }
            Command::Return(value) => self.leave_with(frames, Leave::Return, Outcome::Return(*value), log),
            Command::Panic(value) | Command::BorrowAndPanic(value) => {
                self.leave_with(frames, Leave::Unwind, Outcome::Panicked(*value), log)
            }
            Command::Trap => Outcome::Return(TRAPPED), // what was on the stack is lost
            _ => match obey(&mut frames, command, log) {
                Ok(value) => {
                    let depth = frames.len();
                    self.state = State::Parked(frames);
                    Outcome::Yield(Report { value, depth })
                }
                Err(panic) => self.leave_with(frames, Leave::Unwind, Outcome::Panicked(panic), log),
            },
        }
    }

    fn leave_with(
        &self,
        frames: Vec<ModelFrame>,
        how: Leave,
        outcome: Outcome,
        log: &mut Vec<i64>,
    ) -> Outcome {
        self.leave_all(frames, how, log);
        outcome
    }
}

/// A command that leaves the fiber parked: the value that it yields, or the panic of its child that goes through it.
fn obey(frames: &mut Vec<ModelFrame>, command: &Command, log: &mut Vec<i64>) -> Result<u64, u64> {
    let depth = frames.len();
    let top = frames.last_mut().expect("a fiber that runs has a frame");
    Ok(match command {
        Command::Echo(value) => value + 1,
        Command::Push { id, guarded } => {
            if depth < MAX_DEPTH {
                frames.push(ModelFrame::new(*id, *guarded));
            }
            1
        }
        Command::Pop => {
            let frame = frames.pop().expect("there are two");
            let id = frame.id as u64;
            leave(frame, false, Leave::Return, log);
            id
        }
        Command::Borrow(value) => value * 2,
        Command::MakeChild(id) => {
            if let Some(mut old) = top.child.replace(ModelFiber::new(*id)) {
                old.end(log);
            }
            2
        }
        Command::ToChild(command) => match &mut top.child {
            Some(child) if !child.is_finished() => match child.resume(command, log) {
                Outcome::Panicked(value) => return Err(value),
                outcome => digest(outcome),
            },
            _ => 3,
        },
        Command::DropChild => {
            if let Some(mut child) = top.child.take() {
                child.end(log);
            }
            4
        }
        Command::Return(_) | Command::Panic(_) | Command::BorrowAndPanic(_) | Command::Trap => {
            unreachable!("these leave the fiber")
        }
    })
}

/// One call ends: its fiber is dropped, and then what its caller keeps for it.
fn leave(mut frame: ModelFrame, is_first: bool, how: Leave, log: &mut Vec<i64>) {
    if let Some(child) = &mut frame.child {
        child.end(log);
    }
    if is_first {
        return;
    }
    if frame.guarded && how == Leave::Unwind {
        log.push(-frame.id);
    }
    log.push(frame.id);
}

// ---- histories

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

struct History {
    random: Random,
    next_id: i64,
    log: Log,
    expected: Vec<i64>,
    fibers: Vec<(Real, ModelFiber)>,
    steps: usize,
    /// A planted fault: fibers are dropped, and not unwound.
    forgets_frames: bool,
}

impl History {
    fn new(seed: u64) -> History {
        History {
            forgets_frames: false,
            random: Random(seed),
            next_id: 0,
            log: Log::default(),
            expected: Vec::new(),
            fibers: Vec::new(),
            steps: 0,
        }
    }

    fn id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    fn command(&mut self) -> Command {
        let value = self.random.next() % 100;
        match self.random.below(32) {
            0..5 => Command::Echo(value),
            5..12 => Command::Push {
                id: self.id(),
                guarded: value < 50,
            },
            12..14 => Command::Pop,
            14 => Command::Return(value),
            15 => Command::Panic(value),
            16 if value < 30 => Command::Trap,
            16..19 => Command::Borrow(value),
            19 => Command::BorrowAndPanic(value),
            20..24 => Command::MakeChild(self.id()),
            24..31 => Command::ToChild(Box::new(self.command())),
            _ => Command::DropChild,
        }
    }

    fn create(&mut self) {
        let id = self.id();
        let real = real_fiber(new_stack(id), id, &self.log);
        self.fibers.push((real, ModelFiber::new(id)));
    }

    fn resume(&mut self, at: usize) {
        let command = self.command();
        let moved = self.random.below(16) == 0;
        let (real, model) = &mut self.fibers[at];
        let expected = model.resume(&command, &mut self.expected);
        let outcome = if moved {
            resume_on_another_thread(real, command.clone())
        } else {
            resume_real(real, command.clone())
        };
        assert_eq!(outcome, expected, "step {}: {command:?}", self.steps);
    }

    /// Ends a fiber, and makes another one on its stack.
    fn use_stack_again(&mut self, at: usize) {
        let (real, mut model) = self.fibers.swap_remove(at);
        model.end(&mut self.expected);
        let stack = real.into_stack();
        let id = self.id();
        self.fibers
            .push((real_fiber(stack, id, &self.log), ModelFiber::new(id)));
    }

    fn step(&mut self) {
        self.steps += 1;
        if self.fibers.is_empty() {
            self.create();
        }
        let at = self.random.below(self.fibers.len());
        if self.fibers[at].1.is_finished() && self.random.below(8) > 0 {
            drop(self.fibers.swap_remove(at)); // most of its steps would say the same
            return self.check();
        }
        match self.random.below(64) {
            0..6 if self.fibers.len() < MAX_FIBERS => self.create(),
            6 => {
                let (mut real, mut model) = self.fibers.swap_remove(at);
                model.end(&mut self.expected);
                if self.forgets_frames {
                    // SAFETY: what is forgotten is never looked for.
                    unsafe { real.force_reset() };
                }
                if self.random.below(4) == 0 {
                    drop_on_another_thread(real);
                } else {
                    drop(real);
                }
            }
            7 => {
                let (real, model) = &mut self.fibers[at];
                model.end(&mut self.expected);
                real.force_unwind();
            }
            8 => self.use_stack_again(at),
            9 if self.random.below(8) == 0 => std::mem::forget(self.fibers.swap_remove(at).0),
            10 => self.fibers.rotate_left(at), // moved in memory
            _ => self.resume(at),
        }
        self.check();
    }

    fn check(&self) {
        let dropped = self.log.entries().clone(); // a lock held in a panic would be broken for the trackers
        assert_eq!(dropped, self.expected, "dropped, after step {}", self.steps);
        for (real, model) in &self.fibers {
            assert_eq!(real.done(), model.is_finished(), "step {}", self.steps);
            assert_eq!(
                real.started(),
                !matches!(model.state, State::New),
                "step {}",
                self.steps
            );
        }
    }

    fn run(mut self, steps: usize) -> usize {
        for _ in 0..steps {
            self.step();
        }
        while let Some((real, mut model)) = self.fibers.pop() {
            model.end(&mut self.expected);
            drop(real);
        }
        self.check();
        self.steps
    }
}

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}

#[test]
fn random_histories_go_as_the_model_says() {
    take_faults();
    let seeds = match number_in("FIBERS_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_in("FIBERS_MODEL_RUNS").unwrap_or(400),
    };
    let mut steps = 0;
    for seed in seeds.clone() {
        let run = AssertUnwindSafe(|| History::new(seed).run(100));
        steps += catch_unwind(run).unwrap_or_else(|payload| {
            eprintln!("to see this again: FIBERS_MODEL_SEED={seed}");
            resume_unwind(payload)
        });
    }
    eprintln!("{} histories, {steps} steps", seeds.end - seeds.start);
}

#[test]
fn a_fiber_that_is_dropped_and_not_unwound_is_noticed() {
    take_faults();
    let notices = |seed: &u64| {
        let mut history = History::new(*seed);
        history.forgets_frames = true;
        catch_unwind(AssertUnwindSafe(|| history.run(100))).is_err()
    };
    // Those in which no suspended fiber is dropped go well.
    let noticed = (0..20).filter(notices).count();
    assert!(noticed >= 10, "{noticed} of 20");
}
