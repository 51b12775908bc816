//! Directives that are not the same on every system, for all architectures.
#![allow(unused_macros, reason = "on targets that are refused")]

/// Marks a function's frames as signal frames, for gdb. Darwin's unwinder stops at such frames, and its debugger does
/// not ask for them.
#[cfg(not(target_vendor = "apple"))]
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

/// Text of CFI in inlined code. With `panic = "abort"` there may be no tables to write to, so that says nothing.
#[cfg(panic = "unwind")]
macro_rules! inline_cfi {
    ($text:literal) => {
        $text
    };
}
#[cfg(not(panic = "unwind"))]
macro_rules! inline_cfi {
    ($text:literal) => {
        ""
    };
}
