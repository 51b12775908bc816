//! Fibers: functions that can suspend in the middle, each on a stack of its own.
//!
//! A *fiber* is a stack and the context to resume it. Whoever *resumes* it gets control back when the fiber
//! *suspends*, returns or panics, and may give and gets a value each time. A switch costs about as much as a call.
//!
#![cfg_attr(feature = "pool", doc = "```")]
#![cfg_attr(not(feature = "pool"), doc = "```ignore")]
//! use fibers::{Fiber, FiberResult};
//!
//! let mut sums = Fiber::new(|suspender, first: u32| {
//!     let mut sum = first;
//!     while sum < 100 {
//!         sum += suspender.suspend(sum);
//!     }
//!     "enough"
//! })?;
//! assert_eq!(sums.resume(30), FiberResult::Yield(30));
//! assert_eq!(sums.resume(60), FiberResult::Yield(90));
//! assert_eq!(sums.resume(10), FiberResult::Return("enough"));
//! # Ok::<(), fibers::pool::PoolError>(())
//! ```
//!
//! - [`Fiber`] is the safe face, [`ScopedFiber`] one that may borrow, [`on_stack`] a mere call on another stack. `Team` is for
//!   fibers that hand control to each other.
//! - `pool` has stacks that are reused, bounded in number; [`GuardedStack`] is one by `mmap`; [`Stack`] is the trait for your own.
//!   All end in a guard: an overflow faults.
//! - [`raw`] is the layer below, on addresses and words, for runtimes that build their own fibers.
//!
//! # Linked stacks
//! At the base of a fiber's stack lies the *parent link*: who resumed it, and so where a suspend goes. It is written anew on each resume,
//! so a fiber may be resumed from anywhere. It is a frame record too, and described to unwinders: debuggers, profilers and
//! backtraces go on from a fiber to its resumer as if that had called it. A panic goes on there as well, with its payload.
//!
//! ```text
//!   thread's stack          fiber A                fiber B
//!   | main           |      | link -> main  |      | link -> A       |
//!   | a.resume()     |      | A's function  |      | B's function    |   a backtrace here: B's function,
//!   |   parked here  |      | b.resume()    |      | running         |   A's function, main
//!   |                |      |   parked here |      |                 |
//! ```
//!
//! A fiber that is dropped while it is suspended is unwound, so that what lies on its stack is dropped; code in it sees a panic
//! whose payload is [`ForcedUnwind`].
//!
//! # Ending a fiber from a signal handler
//! A fiber whose code faults, by running into its guard for one, can be ended with a value. The handler asks
//! [`TrapHandler::setup_trap_trampoline`] for the registers to return with; then a function runs at the fiber's base, and its value
//! is what the resume returns. A signal handler cannot run on a stack that is full: it needs one of its own.
//!
//! ```standalone_crate
//! use std::cell::Cell;
//! use fibers::raw::interrupted_stack_pointer;
//! use fibers::{Fiber, FiberResult, GuardedStack, TrapHandler};
//!
//! type Answer = Result<u64, &'static str>;
//! thread_local! { static RUNNING: Cell<Option<TrapHandler<Answer>>> = const { Cell::new(None) } }
//!
//! extern "C" fn on_fault(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
//!     let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
//!     match RUNNING.get() {
//!         // Only a fault on the fiber's own stack is the fiber's, and only code like `recurse` may be abandoned.
//!         Some(handler) if handler.is_stack_pointer_inside(interrupted_stack_pointer(context)) => {
//!             let regs = unsafe { handler.setup_trap_trampoline(|| Err("overflow")) };
//!             regs.write_to(context); // the handler returns into the trampoline
//!         }
//!         // Anything else is a bug: let the instruction fault again, and end the process.
//!         _ => unsafe { libc::signal(signal, libc::SIG_DFL); },
//!     }
//! }
//!
//! fn recurse(depth: u64) -> u64 {
//!     let frame = std::hint::black_box([depth; 16]);
//!     if depth == u64::MAX { 0 } else { recurse(std::hint::black_box(depth + 1)) + frame[3] }
//! }
//!
//! // A stack for the handler, for as long as the thread runs.
//! let space = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
//! let stack = libc::stack_t { ss_sp: space.as_mut_ptr().cast(), ss_flags: 0, ss_size: space.len() };
//! assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
//! let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
//! action.sa_sigaction = on_fault as *const () as usize;
//! action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
//! assert_eq!(unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) }, 0);
//!
//! let mut stack = GuardedStack::new(64 << 10)?;
//! for _ in 0..2 {
//!     let mut fiber = Fiber::<(), (), Answer, _>::with_stack(stack, |_, ()| Ok(recurse(0)));
//!     RUNNING.set(Some(fiber.trap_handler()));
//!     assert_eq!(fiber.resume(()), FiberResult::Return(Err("overflow")));
//!     RUNNING.set(None);
//!     stack = fiber.into_stack(); // as good as new
//! }
//! # Ok::<(), fibers::StackError>(())
//! ```
//!
//! # What it costs
//! Seen on x86-64 (AMD Zen 4, about 3.6 GHz); the bench `switch` says so beside other crates.
//!
//! | | ns |
//! | --- | --- |
//! | resume and suspend, a word each way | 3.1 |
//! | make, run and drop a fiber, on a stack that is there | 2.8 |
//! | the same with a stack from the pool | 16 |
//! | the same with a stack by `mmap` | 10 000 |
//! | a call on another stack | 1.4 |
//! | make a fiber, and drop it suspended: one unwind | 1500 |
//! | the same by [`Fiber::force_reset`], where nothing needs dropping | 3.1 |
//! | an overflow caught | 4100 |
//!
//! A parked fiber has the pages of its stack that it touched, one at least, and a handle of at most 64 bytes.
//!
//! # When something goes wrong
//! | what | what to do |
//! | --- | --- |
//! | [`StackError`]`::Size` | the message has the sizes that a stack can have |
//! | `StackError::Map`, `Protect`; `PoolError::Reserve`, `Commit` | the kernel has no address space or memory: fewer or smaller stacks; see `ulimit -v`, `vm.overcommit_memory`, and for stacks by `mmap` `vm.max_map_count` |
//! | `PoolError::Full` | drop fibers, or wait until others do; the bound is `PoolConfig::max_stacks` |
//! | `PoolError::Config` | the message has the number that is out of range, and the range |
//! | `PoolError::RegionFull` | the process's pools together are too large: fewer or smaller stacks, or fewer different sizes, as a closed pool's addresses go to pools of its size. The region has 1 TiB, or, as the message says, what a limit of the kernel left |
//! | `PoolError::Guard` | a kernel before 6.13 needs two mappings a stack: raise `vm.max_map_count` |
//! | any [`KernelLimit`] in these | the message names it, with what is in use and how to raise it |
//! | `TeamError::Finished`, `Running`, `Unknown`, `Ending` | nothing has happened, but the value is gone: choose another member; `Ending` is met by destructors of a team that is dropped |
//! | panic "a finished fiber was resumed" | ask [`Fiber::done`], or look at the [`FiberResult`] |
//! | panic "a stack of .. bytes has no room" | box what the fiber's function captures, or take a larger stack |
//! | abort "a suspended fiber was dropped, .." | without unwinding: let fibers finish, or `force_reset` them |
//! | abort "a fiber that was unwound has caught that .." | resume a panic whose payload is [`ForcedUnwind`] |
//! | abort "what a fiber suspended with while it was unwound has panicked in its drop" | see to it that the values that fibers suspend with drop without a panic |
//! | abort "a fiber suspended while it ran on its parent's stack", "lent its parent's stack while it ran there" | suspend, and borrow again, outside of [`Suspender::on_parent_stack`] |
//! | abort "membarrier failed" | a filter of system calls (seccomp) came after the first pool: allow `membarrier`, or set the filter up before |
//! | SIGSEGV just below a stack | an overflow: a larger stack, `on_stack` for what is deep, or a handler as above |
//!
//! # Features
//! - `std` (default): the standard library, and `Team`. Without it the crate is `no_std`, needs the C library only, and allocates
//!   nothing: `Fiber`, `ScopedFiber`, `on_stack`, `GuardedStack`, your own [`Stack`]s and [`raw`] are there. A panic in a fiber
//!   ends in the program's panic handler.
//! - `unwind` (default): without it a panic in a fiber, and the drop of a suspended one, abort.
//! - `pool` (default): reused stacks, and `Fiber::new` on one of them.
//! - `sanitizer`, `valgrind`: tell these tools of stacks and switches.
#![warn(missing_docs)]
#![cfg_attr(not(feature = "std"), no_std)]

mod arch;
mod fiber;
mod gauge;
mod hooks;
mod on_stack;
mod parked;
pub mod raw;
mod scoped;
mod stack;
mod start;
mod suspender;
#[cfg(feature = "std")]
mod team;
mod trap;
mod unwind;
mod value;

pub use arch::TrapHandlerRegs;
pub use fiber::Fiber;
pub use gauge::StackGauge;
pub use on_stack::on_stack;
pub use parked::FiberResult;
pub use scoped::{ScopedFiber, ScopedFiberRef};
pub use stack::Stack;
pub use stack::limits::KernelLimit;
pub use stack::mapped::{GuardedStack, StackError};
#[cfg(feature = "pool")]
pub use stack::pool;
pub use suspender::Suspender;
#[cfg(feature = "std")]
pub use team::{Member, MemberId, Team, TeamError};
pub use trap::TrapHandler;
pub use unwind::ForcedUnwind;

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod testing;
