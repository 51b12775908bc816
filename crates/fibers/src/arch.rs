//! The machine-dependent half, one file for each architecture, with the same sections in the same order.
//!
//! What each supports, and what others would need, is in TARGETS.md beside the manifest.

/// Marks a function's frames as signal frames, for gdb. Darwin's unwinder stops at such frames, and its debugger does
/// not ask for them.
#[cfg(not(target_vendor = "apple"))]
#[allow(unused_macros, reason = "on targets that are refused")]
macro_rules! signal_frame {
    () => {
        ".cfi_signal_frame"
    };
}
#[cfg(target_vendor = "apple")]
macro_rules! signal_frame {
    () => {
        ""
    };
}

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

// Without the names of an architecture, and with this message alone: those who use them import them from this module.
#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"),
    target_os = "linux",
    target_pointer_width = "64"
)))]
compile_error!("fibers: this target is not supported; supported are x86-64, aarch64 and riscv64 Linux");
