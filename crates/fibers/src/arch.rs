//! The machine-dependent half, one file for each architecture, with the same sections in the same order; what needs no
//! assembly is in `common`.
//!
//! What each supports, and what others would need, is in TARGETS.md beside the manifest.

#[macro_use]
mod text;

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_pointer_width = "64"))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_pointer_width = "64"))]
pub use x86_64::*;

#[cfg(all(target_arch = "aarch64", target_os = "linux", target_pointer_width = "64"))]
mod aarch64;
#[cfg(all(target_arch = "aarch64", target_os = "linux", target_pointer_width = "64"))]
pub use aarch64::*;

#[cfg(all(target_arch = "riscv64", target_os = "linux", target_pointer_width = "64"))]
mod riscv64;
#[cfg(all(target_arch = "riscv64", target_os = "linux", target_pointer_width = "64"))]
pub use riscv64::*;

#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"),
    target_os = "linux",
    target_pointer_width = "64"
))]
mod common;
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"),
    target_os = "linux",
    target_pointer_width = "64"
))]
pub use common::*;

// Without the names of an architecture, and with this message alone: those who use them import them from this module.
#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"),
    target_os = "linux",
    target_pointer_width = "64"
)))]
compile_error!("fibers: this target is not supported; supported are x86-64, aarch64 and riscv64 Linux");
