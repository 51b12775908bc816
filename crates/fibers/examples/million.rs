//! One million fibers, each on a guarded stack of its own, parked at once and then resumed, in one process with the
//! kernel's default limits.
//!
//!     cargo run --release -p selvedge-fibers --example million [FIBERS [STACK_KIB]]
//!
//! Prints what they cost, and fails if an answer is wrong, a parked fiber has more than a page, the mappings are more
//! than a handful (where guards need none), or a guard does not trap: of 1000 stacks, in a child process, which
//! overflows them. The default of 60 KiB of stack makes, with the guard, 64 KiB a slot.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fibers::pool::{PoolConfig, StackPool};
use fibers::{Fiber, FiberResult, Stack, TrapHandler, raw};

type Error = Box<dyn std::error::Error>;

/// Gets three numbers, and gives their sums.
type Adder = Fiber<u64, u64, u64>;

/// The third number that makes a fiber overflow its stack instead.
const OVERFLOW: u64 = u64::MAX;

/// What an overflowed fiber returns.
const TRAPPED: u64 = u64::MAX - 1;

/// How many guards are tried.
const SAMPLE: usize = 1000;

/// Mappings that may come with any number of stacks: the used part of the region, and the heap's.
const MAX_NEW_MAPPINGS: usize = 8;

/// Bytes of a page.
const PAGE_BYTES: usize = 4096;

fn adder(pool: &StackPool) -> Result<(Adder, Guard), Error> {
    let stack = pool.take()?;
    let guard = Guard {
        start: stack.limit(),
        end: stack.limit() + stack.guard_bytes(),
    };
    let fiber = Fiber::with_stack(stack, |suspender, first: u64| {
        let second = suspender.suspend(first);
        match suspender.suspend(first + second) {
            OVERFLOW => recurse(0),
            third => first + second + third,
        }
    });
    Ok((fiber, guard))
}

/// Uses more stack than there is.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let space = black_box([depth; 32]);
    if depth == u64::MAX {
        return 0;
    }
    recurse(space[7] + 1) + space[3]
}

/// Where a guard lies.
#[derive(Clone, Copy)]
struct Guard {
    start: usize,
    end: usize,
}

/// A number of `/proc/self/status`, there in KiB, in bytes.
fn status_bytes(key: &str) -> Result<usize, Error> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("a line is missing")?.parse::<usize>()? * 1024)
}

fn mappings() -> Result<usize, Error> {
    Ok(std::fs::read_to_string("/proc/self/maps")?.lines().count())
}

fn print_time(what: &str, time: Duration, fibers: usize) {
    let each = time.as_nanos() / fibers as u128;
    println!("{what:<22} {:.2} s, {each} ns a fiber", time.as_secs_f64());
}

/// Bytes resident and of page tables, and mappings.
struct Usage {
    mappings: usize,
    resident_bytes: usize,
    page_table_bytes: usize,
}

impl Usage {
    fn now() -> Result<Usage, Error> {
        Ok(Usage {
            mappings: mappings()?,
            resident_bytes: status_bytes("VmRSS:")?,
            page_table_bytes: status_bytes("VmPTE:")?,
        })
    }
}

/// Fills the list with fibers that each wait for their second number. The guards of some of them, and whose they are.
fn park(pool: &StackPool, parked: &mut Vec<Adder>) -> Result<Vec<(usize, Guard)>, Error> {
    let fibers = parked.capacity();
    let mut guards = Vec::with_capacity(SAMPLE);
    for number in 0..fibers {
        let (mut fiber, guard) = adder(pool)?;
        if fiber.resume(number as u64) != FiberResult::Yield(number as u64) {
            return Err(format!("fiber {number} did not suspend with its number").into());
        }
        parked.push(fiber);
        if number % fibers.div_ceil(SAMPLE) == 0 {
            guards.push((number, guard));
        }
    }
    Ok(guards)
}

/// Resumes each with `times` its number; `answer` says what it has to do then.
fn resume_all(
    parked: &mut [Adder],
    times: u64,
    answer: impl Fn(u64) -> FiberResult<u64, u64>,
) -> Result<(), Error> {
    for (number, fiber) in parked.iter_mut().enumerate() {
        let number = number as u64;
        if fiber.resume(times * number) != answer(number) {
            return Err(format!("fiber {number} gave a wrong answer to {times} times its number").into());
        }
    }
    Ok(())
}

fn print_usage(fibers: usize, stack_kib: usize, stack_bytes: usize, before: &Usage, after: &Usage) {
    let print_each = |what: &str, bytes: usize| {
        println!("{what:<22} {:.1} bytes a fiber", bytes as f64 / fibers as f64);
    };
    println!("{fibers} fibers parked, each on {stack_kib} KiB of stack with a guard of 4 KiB");
    println!(
        "{:<22} {} before, {} now",
        "mappings", before.mappings, after.mappings
    );
    print_each("resident stack", stack_bytes);
    print_each("page tables", after.page_table_bytes - before.page_table_bytes);
    println!("{:<22} {} bytes", "handle", size_of::<Adder>());
    print_each(
        "resident, all in all",
        after.resident_bytes - before.resident_bytes,
    );
}

fn main() -> Result<ExitCode, Error> {
    let mut arguments = std::env::args().skip(1);
    let fibers = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let stack_kib: usize = arguments.next().map_or(Ok(60), |text| text.parse())?;
    let pool = StackPool::new(PoolConfig {
        stack_bytes: stack_kib << 10,
        max_stacks: fibers,
        ..PoolConfig::default()
    })?;
    let mut parked = Vec::<Adder>::with_capacity(fibers);
    let before = Usage::now()?;
    let start = Instant::now();
    let guards = park(&pool, &mut parked)?;
    let park_time = start.elapsed();
    let after = Usage::now()?;
    let stack_bytes = pool.resident_bytes();
    print_usage(fibers, stack_kib, stack_bytes, &before, &after);
    print_time("to park", park_time, fibers);

    let start = Instant::now();
    resume_all(&mut parked, 2, |number| FiberResult::Yield(3 * number))?;
    print_time("to resume all", start.elapsed(), fibers);

    let trapped = try_guards(&mut parked, &guards)?;
    println!(
        "{:<22} {trapped} of {} tried in a child process have trapped",
        "guards",
        guards.len()
    );

    let start = Instant::now();
    resume_all(&mut parked, 3, |number| FiberResult::Return(6 * number))?;
    // The child has made the pages copies on write: this makes them ours again.
    print_time("to end, after a fork", start.elapsed(), fibers);
    let start = Instant::now();
    drop(parked);
    print_time("to drop", start.elapsed(), fibers);

    let is_small = stack_bytes <= fibers * PAGE_BYTES;
    // Guards by `mprotect` are mappings, two a stack.
    let is_one_mapping =
        after.mappings <= before.mappings + MAX_NEW_MAPPINGS || !has_guards_without_mappings();
    if !is_small || !is_one_mapping || trapped != guards.len() {
        println!("failed: pages {is_small}, mappings {is_one_mapping}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the kernel has `MADV_GUARD_INSTALL`: Linux 6.13.
fn has_guards_without_mappings() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(13))
}

/// Overflows fibers in a child process, which has copies of them; returns how many have trapped at their guard.
fn try_guards(fibers: &mut [Adder], guards: &[(usize, Guard)]) -> Result<usize, Error> {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        handle_faults();
        let trapped = guards
            .iter()
            .all(|&(number, guard)| overflow(&mut fibers[number], guard));
        // SAFETY: ends the child as it is: its fibers are not its own to drop.
        unsafe { libc::_exit(if trapped { 0 } else { 1 }) }
    }
    let mut status = 0;
    // SAFETY: our child, and room for its status.
    if child < 0 || unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(if status == 0 { guards.len() } else { 0 })
}

/// What the signal handler needs of the fiber that runs.
static TRAP: AtomicPtr<TrapHandler<u64>> = AtomicPtr::new(std::ptr::null_mut());
static GUARD_START: AtomicUsize = AtomicUsize::new(0);
static GUARD_END: AtomicUsize = AtomicUsize::new(0);

/// Whether the fiber traps at its guard when it overflows.
fn overflow(fiber: &mut Adder, guard: Guard) -> bool {
    let mut trap = fiber.trap_handler();
    GUARD_START.store(guard.start, Ordering::Relaxed);
    GUARD_END.store(guard.end, Ordering::Relaxed);
    TRAP.store(&raw mut trap, Ordering::Release);
    let result = fiber.resume(OVERFLOW);
    TRAP.store(std::ptr::null_mut(), Ordering::Release);
    result == FiberResult::Return(TRAPPED)
}

/// Sends faults of this process to `on_fault`, on a stack of their own.
fn handle_faults() {
    let space = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: space.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: space.len(),
    };
    // SAFETY: the space is never freed.
    unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    // SAFETY: zeros are a value of this type.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: a handler of the right signature.
    unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()) };
}

unsafe extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: SA_SIGINFO: the kernel gives a context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: as above, an information.
    let info = unsafe { &*info };
    // SAFETY: of a fault, it has an address.
    let address = unsafe { info.si_addr() } as usize;
    // SAFETY: null, or of the frame that resumes the fiber.
    let trap = unsafe { TRAP.load(Ordering::Acquire).as_ref() };
    let guard = GUARD_START.load(Ordering::Relaxed)..GUARD_END.load(Ordering::Relaxed);
    let inside = |trap: &&TrapHandler<u64>| {
        trap.is_stack_pointer_inside(raw::interrupted_stack_pointer(context)) && guard.contains(&address)
    };
    let Some(trap) = trap.filter(inside) else {
        // SAFETY: ends the child; async-signal-safe.
        unsafe { libc::_exit(2) }
    };
    // SAFETY: the stack pointer is inside, the fiber ran `recurse` only, whose frames need no dropping, and the stack is
    // free again when the closure runs.
    let registers = unsafe { trap.setup_trap_trampoline(|| TRAPPED) };
    registers.write_to(context);
}
