//! Fibers: functions that can suspend in the middle, each on a stack of its own.
//!
//! A *fiber* is a stack and the context to resume it. Whoever *resumes* it gets control back when the fiber
//! *suspends*, returns or panics, and may give and gets a value each time. A switch costs about as much as a call.
//!
//! ```
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
//! - [`Fiber`] is the safe face, [`ScopedFiber`] one that may borrow, [`on_stack`] a mere call on another stack. A panic in a fiber goes on in its resumer; a fiber that is dropped while it is
//!   suspended is unwound; debuggers and backtraces go on from a fiber to its resumer.
//! - `pool` has stacks that are reused, bounded in number; [`GuardedStack`] is one by `mmap`. Both end in a guard:
//!   an overflow faults. [`Fiber::trap_handler`] lets a signal handler end the fiber with a value instead.
//! - [`raw`] is the layer below, on addresses and words, for runtimes that build their own fibers.
//!
//! # Features
//! - `std` (default): the standard library. Without it the crate is `no_std`, and needs the C library only.
//! - `unwind` (default): without it a panic in a fiber, and the drop of a suspended one, abort.
//! - `pool` (default): reused stacks, and [`Fiber::new`] on one of them.
//! - `sanitizer`, `valgrind`: tell these tools of stacks and switches.
#![warn(missing_docs)]
#![cfg_attr(not(feature = "std"), no_std)]

mod arch;
mod fiber;
mod hooks;
mod on_stack;
mod parked;
pub mod raw;
mod scoped;
mod stack;
mod start;
mod suspender;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
mod team;
mod trap;
mod unwind;
mod value;

pub use fiber::Fiber;
pub use on_stack::on_stack;
pub use parked::FiberResult;
pub use raw::TrapHandlerRegs;
pub use scoped::{ScopedFiber, ScopedFiberRef};
pub use stack::Stack;
pub use stack::limits::KernelLimit;
pub use stack::mapped::{GuardedStack, StackError};
#[cfg(feature = "pool")]
pub use stack::pool;
pub use suspender::Suspender;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
pub use team::{Member, MemberId, Team, TeamError};
pub use trap::TrapHandler;
pub use unwind::ForcedUnwind;

#[cfg(all(test, feature = "unwind", feature = "pool"))]
mod testing;
