//! The guest frames that were active when a guest stopped, innermost first.
//!
//! A frame is kept as numbers and a share of its module's code; names are looked up when somebody prints it. So taking
//! a backtrace costs the walk, and a host that handles its traps silently never pays for the symbols.

use crate::vm::code::ModuleCode;
use std::fmt;
use std::sync::Arc;

/// How many frames beyond the cap are counted: the walk of a deep recursion would cost more than the trap.
pub(crate) const COUNTED_FRAMES: usize = 1000;

/// The guest frames at a trap, innermost first. Host frames between activations are not in it.
#[derive(Clone)]
pub struct WasmBacktrace {
    frames: Vec<FrameInfo>,
    omitted: usize,
}

impl WasmBacktrace {
    /// A backtrace of `frames`, after which the walk met `omitted` more that the cap left out.
    pub(crate) fn new(frames: Vec<FrameInfo>, omitted: usize) -> WasmBacktrace {
        WasmBacktrace { frames, omitted }
    }

    /// The frames, innermost first, at most as many as the engine's cap.
    pub fn frames(&self) -> &[FrameInfo] {
        &self.frames
    }

    /// How many outer frames there were beyond the cap. Counted up to 1000: a deep recursion is not walked to its end.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

/// One line a frame, `index: offset - module!function`, without a newline at the end.
impl fmt::Display for WasmBacktrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wasm backtrace:")?;
        for (index, frame) in self.frames.iter().enumerate() {
            write!(f, "\n{index:>5}: {frame}")?;
        }
        if self.omitted > 0 {
            let at_least = if self.omitted >= COUNTED_FRAMES {
                "at least "
            } else {
                ""
            };
            write!(f, "\n       {at_least}{} more frames", self.omitted)?;
        }
        Ok(())
    }
}

impl fmt::Debug for WasmBacktrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One guest frame of a [`WasmBacktrace`].
#[derive(Clone)]
pub struct FrameInfo {
    code: Arc<ModuleCode>,
    func_index: u32,
    wasm_offset: Option<u32>,
}

impl FrameInfo {
    /// A frame of function `func_index` (imports counted) of the module `code` belongs to.
    pub(crate) fn new(code: Arc<ModuleCode>, func_index: u32, wasm_offset: Option<u32>) -> FrameInfo {
        FrameInfo {
            code,
            func_index,
            wasm_offset,
        }
    }

    /// The function's index in its module, imported functions counted.
    pub fn func_index(&self) -> u32 {
        self.func_index
    }

    /// The function's name in the module's name section, as written there (not demangled).
    pub fn func_name(&self) -> Option<&str> {
        self.code.info().function_name(self.func_index)
    }

    /// The module's name in its name section.
    pub fn module_name(&self) -> Option<&str> {
        self.code.info().name.as_deref()
    }

    /// The offset in bytes, from the start of the module, of the operator the frame was at. None where the code belongs to no
    /// operator (a function's entry).
    pub fn wasm_offset(&self) -> Option<usize> {
        self.wasm_offset.map(|offset| offset as usize)
    }
}

/// `0x1f - module!function`, a Rust name demangled.
impl fmt::Display for FrameInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wasm_offset {
            Some(offset) => write!(f, "{offset:#8x} - ")?,
            None => write!(f, "{:>8} - ", "?")?,
        }
        f.write_str(self.module_name().unwrap_or("<unnamed>"))?;
        match self.func_name() {
            Some(name) => write!(f, "!{:#}", rustc_demangle::demangle(name)),
            None => write!(f, "!<wasm function {}>", self.func_index),
        }
    }
}

impl fmt::Debug for FrameInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameInfo")
            .field("module_name", &self.module_name())
            .field("func_index", &self.func_index)
            .field("func_name", &self.func_name())
            .field("wasm_offset", &self.wasm_offset)
            .finish()
    }
}
