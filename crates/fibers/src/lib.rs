//! Fibers: stacks that a program switches between.
#![warn(missing_docs)]
#![cfg_attr(not(feature = "std"), no_std)]

mod arch;
pub mod raw;
mod stack;

pub use stack::Stack;
#[cfg(feature = "std")]
pub use stack::pool;

#[cfg(test)]
mod testing;
