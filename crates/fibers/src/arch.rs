//! The machine-dependent half, one file for each architecture, with the same sections in the same order.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use x86_64::*;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("fibers: this target is not supported; supported is x86-64 Linux");
