//! The end of a guest that calls `proc_exit`.

use std::fmt;

/// The error with which a call ends when its guest calls `proc_exit`. It carries the guest's code.
///
/// Recover it with `error.downcast_ref::<Exit>()`. A guest that returns from `_start` has ended with
/// code 0 and makes no `Exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub i32);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest exited with code {}", self.0)
    }
}

impl std::error::Error for Exit {}
