//! Tools that look at fibers from outside: gdb, perf, callgrind. A test says when its tool is missing or may not work; for
//! tools that `FIBERS_NO_SKIP` names, as on the build machines, that is a failure.
#![cfg(all(target_arch = "x86_64", target_os = "linux", feature = "unwind"))]

mod common;

use std::cell::Cell;
use std::process::Command;

use common::{Half, child_command, has_tool, in_both_orders, is_child, skip, stack};
use fibers::{Fiber, Suspender, TrapHandler};

type Watched = Fiber<u64, u64, u64, Half>;

/// What a command printed, both ways; it has to succeed.
fn output_of(command: &mut Command) -> String {
    let output = command.output().expect("the tool can be run");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// Whether `names` occur in `text`, in this order.
fn in_order(text: &str, names: &[&str]) -> bool {
    let mut rest = text;
    names.iter().all(|name| match rest.find(name) {
        Some(at) => {
            rest = &rest[at + name.len()..];
            true
        }
        None => false,
    })
}

/// Stops the process under a debugger.
#[inline(always)]
fn stop() {
    // SAFETY: the debugger takes it; the registers stay.
    unsafe { std::arch::asm!("int3") };
}

// ---- gdb

#[inline(never)]
fn inner_of_fiber(suspender: &Suspender<u64, u64>, value: u64) -> u64 {
    stop();
    suspender.suspend(value);
    // SAFETY: a fault, which the handler answers.
    unsafe { (16 as *const u64).read_volatile() }
}

#[inline(never)]
fn resumer_of_fiber(fiber: &mut Watched) {
    for value in 0..2 {
        fiber.resume(value);
    }
    stop(); // the end
}

thread_local! {
    static TRAP: Cell<Option<TrapHandler<u64>>> = const { Cell::new(None) };
}

#[inline(never)]
extern "C" fn handler_of_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    stop();
    let handler = TRAP.get().expect("a fiber runs");
    // SAFETY: SA_SIGINFO: the kernel gives a context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: the fiber has nothing to drop.
    unsafe { handler.setup_trap_trampoline(|| 9) }.write_to(context);
}

fn debugged(stack: Half) {
    // SAFETY: zeros are a value of this type.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler_of_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a handler of the right signature.
    let done = unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    let mut fiber = Watched::with_stack(stack, inner_of_fiber);
    TRAP.set(Some(fiber.trap_handler()));
    resumer_of_fiber(&mut fiber);
}

/// Runs this test's child under gdb, which does `commands` after the start.
fn gdb(name: &str, commands: &[&str]) -> Option<String> {
    if !has_tool("gdb") {
        skip(name, "gdb", "there is no gdb");
        return None;
    }
    let mut wrapper = vec![
        "gdb",
        "-batch",
        "-nx",
        "-ex",
        "set width 0",
        "-ex",
        "set pagination off",
    ];
    wrapper.extend([
        "-ex",
        "set debuginfod enabled off",
        "-ex",
        "handle SIGSEGV nostop noprint pass",
    ]);
    for command in ["run"].iter().chain(commands) {
        wrapper.extend(["-ex", command]);
    }
    wrapper.push("--args");
    let text = output_of(&mut child_command(&wrapper, name));
    if text.contains("ptrace: Operation not permitted") {
        skip(name, "gdb", "gdb may not trace a process");
        return None;
    }
    Some(text)
}

#[test]
fn gdb_walks_from_a_fiber_and_from_its_trap_handler_to_the_resumer() {
    if is_child() {
        return in_both_orders(debugged);
    }
    let name = "gdb_walks_from_a_fiber_and_from_its_trap_handler_to_the_resumer";
    let mut commands = Vec::new();
    for _ in 0..2 {
        // In the fiber, in the handler, at the end.
        commands.extend([
            "echo WALK\\n",
            "bt",
            "continue",
            "echo WALK\\n",
            "bt",
            "continue",
            "continue",
        ]);
    }
    let Some(text) = gdb(name, &commands) else { return };
    let walks: Vec<&str> = text.split("WALK\n").skip(1).collect();
    assert_eq!(walks.len(), 4, "{text}");
    let to_resumer = [
        "inner_of_fiber",
        "resumer_of_fiber",
        "debugged",
        "in_both_orders",
        name,
    ];
    for (number, walk) in walks.iter().enumerate() {
        let in_handler = number % 2 == 1;
        let from = ["handler_of_fault", "<signal handler called>"];
        let names: Vec<&str> = from
            .into_iter()
            .filter(|_| in_handler)
            .chain(to_resumer)
            .collect();
        assert!(in_order(walk, &names), "walk {number}: {walk}");
        assert!(!walk.contains("Backtrace stopped"), "walk {number}: {walk}");
    }
}

#[inline(never)]
fn stepped(stack: Half) {
    let mut fiber = Watched::with_stack(stack, |suspender, mut value| {
        loop {
            value = suspender.suspend(value);
        }
    });
    stop();
    for value in 0..100 {
        fiber.resume(value);
    }
}

#[test]
fn gdb_walks_at_every_instruction() {
    if is_child() {
        return in_both_orders(stepped);
    }
    let name = "gdb_walks_at_every_instruction";
    // gdb's -ex takes one line: Python has a one-line form.
    let line = "python exec(\"import gdb\\nfor i in range(160):\\n gdb.execute('stepi', to_string=True)\\n \
                print('WALK')\\n gdb.execute('bt')\")";
    let both = [line, "continue", line, "continue"];
    let Some(text) = gdb(name, &both) else { return };
    let walks: Vec<&str> = text.split("WALK\n").skip(1).collect();
    assert_eq!(walks.len(), 320, "{text}");
    for walk in walks {
        assert!(in_order(walk, &["stepped", "in_both_orders", name]), "{walk}");
        assert!(!walk.contains("Backtrace stopped"), "{walk}");
    }
}

// ---- perf

#[inline(never)]
fn spin_in_fiber(mut value: u64) -> u64 {
    for _ in 0..20_000 {
        value = std::hint::black_box(value).wrapping_mul(3);
    }
    value
}

#[inline(never)]
fn resumer_of_spinning(fiber: &mut Watched) {
    for value in 0..4000 {
        fiber.resume(value);
    }
}

#[inline(never)]
fn sampled(stack: Half) {
    let mut fiber = Watched::with_stack(stack, |suspender, mut value| {
        loop {
            value = suspender.suspend(spin_in_fiber(value));
        }
    });
    resumer_of_spinning(&mut fiber);
    std::hint::black_box(&fiber);
}

#[test]
fn perf_walks_by_frame_pointer_from_a_fiber_to_its_resumer() {
    if is_child() {
        return in_both_orders(sampled);
    }
    let name = "perf_walks_by_frame_pointer_from_a_fiber_to_its_resumer";
    if !has_tool("perf") {
        return skip(name, "perf", "there is no perf");
    }
    let data = std::env::temp_dir().join(format!("fibers-perf-{}", std::process::id()));
    let data = data.to_str().expect("a path in UTF-8");
    let record = [
        "perf",
        "record",
        "-q",
        "-e",
        "cpu-clock:u",
        "-F",
        "999",
        "--call-graph",
        "fp",
        "-o",
        data,
        "--",
    ];
    let recorded = child_command(&record, name).output().expect("perf can be run");
    if !recorded.status.success() {
        return skip(
            name,
            "perf",
            &format!(
                "perf cannot record: {}",
                String::from_utf8_lossy(&recorded.stderr)
            ),
        );
    }
    let text = output_of(Command::new("perf").args(["script", "-F", "ip,sym", "-i", data]));
    std::fs::remove_file(data).expect("perf wrote it");
    let samples: Vec<&str> = text
        .split("\n\n")
        .filter(|sample| sample.contains("spin_in_fiber"))
        .collect();
    let names = ["spin_in_fiber", "resumer_of_spinning", "in_both_orders"];
    let right = samples.iter().filter(|sample| in_order(sample, &names)).count();
    assert!(
        samples.len() >= 20,
        "{} samples in the fiber: {text}",
        samples.len()
    );
    // Some hit the first instructions of the function, before it has a frame.
    assert!(
        right * 100 >= samples.len() * 95,
        "{right} of {}: {}",
        samples.len(),
        samples[0]
    );
}

// ---- callgrind

/// Instructions of a resume and the suspend that answers, with the loops around them: 37 in a release build, and 39 for
/// corosensei 0.3.4 in the same loops. A debug build checks pointers before it copies: `.ci/sanitizers` runs this test in a release
/// build too.
const INSTRUCTIONS_BOUND: f64 = if cfg!(debug_assertions) { 60.0 } else { 38.0 };

/// The variable that has another bound, to see the test fail.
const BOUND: &str = "FIBERS_TEST_BOUND";

/// The variable that says how many round trips a child makes.
const TRIPS: &str = "FIBERS_TEST_TRIPS";

fn make_round_trips() {
    let trips = std::env::var(TRIPS)
        .expect("the parent sets it")
        .parse()
        .expect("a number");
    let mut fiber = Fiber::<usize, usize, (), _>::with_stack(stack(), |suspender, mut word| {
        loop {
            word = suspender.suspend(word);
        }
    });
    for trip in 0..trips {
        std::hint::black_box(fiber.resume(std::hint::black_box(trip)));
    }
}

fn instructions_of(name: &str, trips: usize) -> f64 {
    let wrapper = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let text = output_of(child_command(&wrapper, name).env(TRIPS, trips.to_string()));
    let mut lines = text.lines().filter_map(|line| line.split_once("Collected : "));
    let (_, count) = lines
        .next()
        .unwrap_or_else(|| panic!("callgrind gives no count: {text}"));
    count.trim().parse().expect("a number")
}

#[test]
fn a_round_trip_takes_few_instructions() {
    if is_child() {
        return make_round_trips();
    }
    let name = "a_round_trip_takes_few_instructions";
    if !has_tool("valgrind") {
        return skip(name, "valgrind", "there is no valgrind");
    }
    let (few, many) = (1_000, 201_000);
    let each = (instructions_of(name, many) - instructions_of(name, few)) / (many - few) as f64;
    let bound = std::env::var(BOUND).map_or(INSTRUCTIONS_BOUND, |bound| bound.parse().expect("a number"));
    let text = format!("{each:.2} instructions a round trip, at most {bound}");
    eprintln!("{text}");
    assert!(each > 15.0 && each <= bound, "{text}");
}
