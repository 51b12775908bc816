//! Unwinds at every instruction of a switch: a thread steps itself through it, and each step looks for the thread's start.
//!
//! ```text
//!   reference = the frames from `window`'s caller to the thread's start, with their CFAs
//!   window:  trap   the handler takes the reference, and starts to step
//!            ...    before each instruction the handler unwinds: its frames have to end in the reference
//!            trap   the handler stops
//! ```
//!
//! The handler allocates nothing, as it may interrupt the allocator. How a step is made is in `machine`.
#![cfg(all(target_os = "linux", feature = "unwind"))]

mod common;
#[cfg(not(target_arch = "x86_64"))]
#[path = "single_step/breakpoints.rs"]
mod machine;
#[cfg(target_arch = "x86_64")]
#[path = "single_step/x86_64.rs"]
mod machine;

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Half, child_command, in_both_orders, is_child};
use fibers::{Fiber, FiberResult, Member, Stack, Suspender, Team};

/// Frames that a walk keeps.
const MAX_FRAMES: usize = 128;

unsafe extern "C" {
    fn _Unwind_Backtrace(each: extern "C" fn(*mut c_void, *mut Walk) -> i32, walk: *mut Walk) -> i32;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
    fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void;
    // Set by the linker: ld(1), PROVIDE.
    static __executable_start: u8;
    static etext: u8;
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Frame {
    ip: usize,
    cfa: usize,
}

/// The frames of one walk, innermost first.
#[repr(C)]
struct Walk {
    frames: [Frame; MAX_FRAMES],
    count: usize,
}

impl Walk {
    const fn empty() -> Walk {
        Walk {
            frames: [Frame { ip: 0, cfa: 0 }; MAX_FRAMES],
            count: 0,
        }
    }

    fn now() -> Walk {
        let mut walk = Walk::empty();
        // SAFETY: the callback gets the walk, which is exclusively its own meanwhile.
        unsafe { _Unwind_Backtrace(add_frame, &raw mut walk) };
        walk
    }

    fn frames(&self) -> &[Frame] {
        &self.frames[..self.count]
    }

    /// Cuts off what is inside the function that starts at `start`, and its own frame.
    fn keep_callers_of(&mut self, start: usize) {
        let at = self
            .frames()
            .iter()
            .position(|frame| function_of(frame.ip.wrapping_sub(1)) == start);
        let from = at.map_or(self.count, |at| at + 1);
        self.frames.copy_within(from..self.count, 0);
        self.count -= from;
    }
}

extern "C" fn add_frame(context: *mut c_void, walk: *mut Walk) -> i32 {
    // SAFETY: `Walk::now` gives its own.
    let walk = unsafe { &mut *walk };
    if walk.count == MAX_FRAMES {
        return 5; // _URC_END_OF_STACK: too many is a failure, found by the missing end
    }
    // SAFETY: the unwinder gives a context.
    let ip = unsafe { _Unwind_GetIP(context) };
    // SAFETY: as above.
    let cfa = unsafe { _Unwind_GetCFA(context) };
    walk.frames[walk.count] = Frame { ip, cfa };
    walk.count += 1;
    0
}

/// Whether this is code of the test binary: not of the C library or the unwinder, nor a jump of the linker's into them, whose
/// unwind data is not ours to prove.
fn is_ours(address: usize) -> bool {
    is_in_binary(address) && function_of(address) != 0
}

fn is_in_binary(address: usize) -> bool {
    ((&raw const __executable_start) as usize..(&raw const etext) as usize).contains(&address)
}

/// Where the function with this address starts, by its unwind data.
fn function_of(address: usize) -> usize {
    // SAFETY: any address can be looked up.
    unsafe { _Unwind_FindEnclosingFunction(address as *mut c_void) as usize }
}

/// What the handler found.
struct Record {
    stepping: bool,
    reference: Walk,
    /// Addresses of the fiber's stack.
    fiber: std::ops::Range<usize>,
    steps: usize,
    steps_in_fiber: usize,
    wrong: [Wrong; 64],
    wrong_count: usize,
}

#[derive(Clone, Copy)]
struct Wrong {
    ip: usize,
    what: &'static str,
}

/// The address that is unwound from, for [`on_fault`].
static UNWINDING_AT: AtomicUsize = AtomicUsize::new(0);

/// The unwinder followed wrong unwind data into nothing: says where from.
extern "C" fn on_fault(_: i32) {
    let text = describe(UNWINDING_AT.load(Ordering::Relaxed));
    eprintln!("the unwinder crashed at {text}");
    std::process::abort();
}

fn describe(ip: usize) -> String {
    let mut text = format!("{ip:#x}");
    backtrace::resolve(ip as *mut c_void, |symbol| {
        let name = symbol.name().map(|name| name.to_string());
        text += &format!(
            " in {}:{}",
            name.unwrap_or_default(),
            symbol.lineno().unwrap_or(0)
        );
    });
    text
}

thread_local! {
    static RECORD: RefCell<Record> = const { RefCell::new(Record::empty()) };
    /// Where the function that switches and its caller start.
    static FUNCTIONS: Cell<[usize; 2]> = const { Cell::new([0; 2]) };
}

impl Record {
    const fn empty() -> Record {
        Record {
            stepping: false,
            reference: Walk::empty(),
            fiber: 0..0,
            steps: 0,
            steps_in_fiber: 0,
            wrong: [Wrong { ip: 0, what: "" }; 64],
            wrong_count: 0,
        }
    }

    fn note(&mut self, ip: usize, what: &'static str) {
        if self.wrong_count < self.wrong.len() {
            self.wrong[self.wrong_count] = Wrong { ip, what };
        }
        self.wrong_count += 1;
    }

    /// After an instruction: `ip` and `sp` are those of the next. `decides` says whether the fiber's own frames have to be in the walk
    /// when it lies in the fiber's stack as the stack pointer does.
    fn step(&mut self, ip: usize, sp: usize, decides: usize) {
        if !is_ours(ip) {
            return;
        }
        self.steps += 1;
        UNWINDING_AT.store(ip, Ordering::Relaxed);
        let walk = Walk::now();
        let (frames, expected) = (walk.frames(), self.reference.frames());
        if !frames.ends_with(expected) {
            return self.note(ip, "the walk does not end at the thread's start");
        }
        let next = frames[frames.len() - expected.len() - 1];
        if function_of(next.ip.wrapping_sub(1)) != window as *const () as usize {
            self.note(ip, "the walk passes `window` by");
        }
        if !self.fiber.contains(&sp) {
            return;
        }
        self.steps_in_fiber += 1;
        let [function, caller] = FUNCTIONS.get();
        let is_whole = self.fiber.contains(&decides);
        if is_whole
            && function_of(ip) == function
            && !frames
                .iter()
                .any(|frame| function_of(frame.ip.wrapping_sub(1)) == caller)
        {
            self.note(ip, "the walk passes the fiber's frames by");
        }
    }
}

extern "C" fn on_trap(_: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: SA_SIGINFO: the kernel gives a context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let is_step = machine::is_step(info, context);
    let (ip, sp) = machine::pc_and_sp(context);
    let was_stepping = RECORD.with_borrow_mut(|record| {
        let was_stepping = record.stepping;
        if was_stepping && is_step {
            record.step(ip, sp, machine::decides(context));
        } else if was_stepping {
            record.stepping = false;
        } else {
            record.stepping = true;
            record.reference = Walk::now();
            record.reference.keep_callers_of(window as *const () as usize);
        }
        was_stepping
    });
    match (was_stepping, is_step) {
        (false, _) => machine::start(context, is_in_binary),
        (true, true) => machine::go_on(context, is_in_binary),
        (true, false) => machine::stop(context),
    }
}

/// Steps through `body`.
#[inline(never)]
fn window(body: &mut dyn FnMut()) {
    machine::trap();
    body();
    machine::trap();
}

/// Takes SIGTRAP and SIGSEGV, on an alternate stack.
fn take_traps() {
    let space = Box::leak(vec![0u8; 256 << 10].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: space.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: space.len(),
    };
    // SAFETY: the space is never freed.
    let done = unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    set_handler(libc::SIGTRAP, on_trap as *const () as usize);
    set_handler(libc::SIGSEGV, on_fault as *const () as usize);
}

fn set_handler(signal: i32, handler: usize) {
    // SAFETY: zeros are a value of this type.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a handler that takes three arguments, or fewer.
    let done = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

/// Steps through `body`, which runs `in_fiber` on the stack with these addresses, and expects each walk to be right.
fn every_instruction_unwinds(what: &str, fiber: std::ops::Range<usize>, body: impl FnMut()) {
    let functions = [
        in_fiber as *const () as usize,
        caller_in_fiber as *const () as usize,
    ];
    every_instruction_of_functions_unwinds(what, fiber, functions, body);
}

/// The same for any function that switches, and its caller.
#[inline(never)]
fn every_instruction_of_functions_unwinds(
    what: &str,
    fiber: std::ops::Range<usize>,
    functions: [usize; 2],
    mut body: impl FnMut(),
) {
    RECORD.set(Record {
        fiber,
        ..Record::empty()
    });
    FUNCTIONS.set(functions);
    window(&mut body);
    RECORD.with_borrow(|record| {
        let mut text = String::new();
        for wrong in &record.wrong[..record.wrong_count.min(record.wrong.len())] {
            text += &format!("\n  {} at {}", wrong.what, describe(wrong.ip));
        }
        eprintln!(
            "{what}: {} steps, {} on the fiber",
            record.steps, record.steps_in_fiber
        );
        assert_eq!(
            record.wrong_count, 0,
            "{what}: {} of {} steps:{text}",
            record.wrong_count, record.steps
        );
        assert!(
            record.steps > 20 && record.steps_in_fiber > 5,
            "nothing was stepped through"
        );
        assert!(
            record.reference.count > 5,
            "the reference has {} frames",
            record.reference.count
        );
    });
}

#[inline(never)]
fn in_fiber(suspender: &Suspender<u64, u64>, value: u64) -> u64 {
    let next = suspender.suspend(std::hint::black_box(value) + 1);
    std::hint::black_box(next) + 1
}

#[inline(never)]
fn caller_in_fiber(suspender: &Suspender<u64, u64>, value: u64) -> u64 {
    let mut value = value;
    for _ in 0..2 {
        value = in_fiber(suspender, value) + 1;
    }
    value
}

type Stepped = Fiber<u64, u64, u64, Half>;

fn addresses(stack: &Half) -> std::ops::Range<usize> {
    stack.limit()..stack.base()
}

fn resume_all(stack: Half) {
    take_traps();
    let range = addresses(&stack);
    let mut fiber = Stepped::with_stack(stack, caller_in_fiber);
    for (what, expected) in [
        ("first resume", FiberResult::Yield(11)),
        ("resume", FiberResult::Yield(13)),
        ("last resume", FiberResult::Return(12)),
    ] {
        let mut result = FiberResult::Yield(0);
        every_instruction_unwinds(what, range.clone(), || result = fiber.resume(10));
        assert_eq!(result, expected);
    }
}

/// Runs a test, in a process of its own where stepping needs that.
fn step_through(name: &str, test: fn(Half)) {
    if machine::NEEDS_OWN_PROCESS && !is_child() {
        let output = child_command(&[], name)
            .output()
            .expect("a test binary can be run");
        let text = String::from_utf8_lossy(&output.stderr);
        eprint!("{text}");
        return assert!(output.status.success(), "{}", output.status);
    }
    in_both_orders(test);
}

#[test]
fn every_instruction_of_a_resume_and_a_suspend_unwinds() {
    step_through("every_instruction_of_a_resume_and_a_suspend_unwinds", resume_all);
}

fn borrow(stack: Half) {
    take_traps();
    let range = addresses(&stack);
    let mut fiber = Stepped::with_stack(stack, |suspender, value| {
        suspender.on_parent_stack(|| std::hint::black_box(value) + 1)
    });
    let mut result = FiberResult::Yield(0);
    every_instruction_unwinds("on_parent_stack", range, || result = fiber.resume(10));
    assert_eq!(result, FiberResult::Return(11));
}

#[test]
fn every_instruction_of_a_borrowed_stack_unwinds() {
    step_through("every_instruction_of_a_borrowed_stack_unwinds", borrow);
}

fn unwind(stack: Half) {
    take_traps();
    let range = addresses(&stack);
    let mut fiber = Stepped::with_stack(stack, caller_in_fiber);
    fiber.resume(1);
    every_instruction_unwinds("force_unwind", range, || fiber.force_unwind());
    assert!(fiber.done());
}

#[test]
fn every_instruction_of_a_forced_unwind_unwinds() {
    step_through("every_instruction_of_a_forced_unwind_unwinds", unwind);
}

/// Transfers to whoever transferred to this one last.
#[inline(never)]
fn passes_back(me: &Member<'_, u64>, value: u64) -> u64 {
    let sender = me.sender().expect("somebody transferred to this one");
    let next = me.transfer(sender, std::hint::black_box(value) + 1);
    std::hint::black_box(next.expect("the other is parked")) + 1
}

#[inline(never)]
fn caller_of_passes_back(me: &Member<'_, u64>, value: u64) -> u64 {
    let mut value = value;
    loop {
        value = passes_back(me, value) + 1;
    }
}

fn transfer(stack: Half) {
    take_traps();
    let range = addresses(&stack);
    let functions = [passes_back, caller_of_passes_back].map(|function| function as *const () as usize);
    let mut team = Team::<u64, Half>::new();
    let back = team.add(stack, caller_of_passes_back);
    let first = team.add(Half::alone(), move |me, value| {
        let value = me.transfer(back, value + 100).expect("the other is new");
        let value = me.leave(value);
        me.transfer(back, value + 100).expect("the other is parked")
    });
    // A new member and a parked one are transferred to, on the stack that is looked at, and transfer back.
    for (what, expected) in [
        ("transfer to a new member", FiberResult::Yield(111)),
        ("transfer to a parked member", FiberResult::Return(113)),
    ] {
        let mut result = None;
        every_instruction_of_functions_unwinds(what, range.clone(), functions, || {
            result = Some(team.run(first, 10).expect("it is parked"));
        });
        assert_eq!(result, Some((first, expected)));
    }
    every_instruction_of_functions_unwinds("drop of a team", range, functions, || {
        drop(std::mem::take(&mut team));
    });
}

#[test]
fn every_instruction_of_a_transfer_unwinds() {
    step_through("every_instruction_of_a_transfer_unwinds", transfer);
}
