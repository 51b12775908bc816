//! The guest frames that were active when a guest stopped, innermost first.
//!
//! A frame is kept as numbers and a share of its module's code; names are looked up when somebody prints it. So taking
//! a backtrace costs the walk, and a host that handles its traps silently never pays for the symbols.

use crate::source::{FrameSymbol, text};
use crate::store::AsContext;
use crate::vm::code::ModuleCode;
use crate::vm::trap;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// What to do for lines of the source.
const HINT: &str = "note: the module has source lines, which Config::wasm_backtrace_details or SELVEDGE_BACKTRACE_DETAILS=1 would show";

/// How many frames beyond the cap are counted: the walk of a deep recursion would cost more than the trap.
pub(crate) const COUNTED_FRAMES: usize = 1000;

/// The guest frames at a trap, innermost first. Host frames between activations are not in it.
///
/// ```
/// # use selvedge::{Instance, Module, Store};
/// # let mut store = Store::<()>::default();
/// let module = Module::new(store.engine(), r#"(module $app
///     (func $inner (unreachable)) (func $outer (export "run") (call $inner)))"#)?;
/// let instance = Instance::new(&mut store, &module, &[])?;
/// let error = instance.call::<(), ()>(&mut store, "run", ()).unwrap_err();
/// let frames = error.backtrace().expect("traps have one").frames();
/// let names: Vec<_> = frames.iter().map(|frame| (frame.module_name(), frame.func_name())).collect();
/// assert_eq!(names, [(Some("app"), Some("inner")), (Some("app"), Some("outer"))]);
/// # Ok::<(), selvedge::Error>(())
/// ```
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

    /// The guest frames below a host function, which is what it is for: those that called it. Empty where no guest runs or waits.
    ///
    /// Cost: a walk of the frames, up to [`Config::max_backtrace_frames`](crate::Config::max_backtrace_frames) of which are kept; names are looked up when they
    /// are printed.
    pub fn capture(store: impl AsContext) -> WasmBacktrace {
        trap::backtrace(store.as_context().vm())
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

/// One line a frame, `index: offset - module!function`, and below it `at file:line:column` where the module says so
/// ([`Config::wasm_backtrace_details`](crate::Config::wasm_backtrace_details)), once for each function that was inlined. No newline at
/// the end.
impl fmt::Display for WasmBacktrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wasm backtrace:")?;
        for (index, frame) in self.frames.iter().enumerate() {
            write!(f, "\n{index:>5}: {frame}")?;
            frame.write_places(f)?;
        }
        if self.frames.iter().any(FrameInfo::could_say_more) {
            write!(f, "\n{HINT}")?;
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
    /// Looked up when somebody asks.
    symbols: OnceLock<Box<[FrameSymbol]>>,
}

impl FrameInfo {
    /// A frame of function `func_index` (imports counted) of the module `code` belongs to.
    pub(crate) fn new(code: Arc<ModuleCode>, func_index: u32, wasm_offset: Option<u32>) -> FrameInfo {
        FrameInfo {
            code,
            func_index,
            wasm_offset,
            symbols: OnceLock::new(),
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
    #[doc(alias = "module")]
    pub fn module_name(&self) -> Option<&str> {
        self.code.info().name.as_deref()
    }

    /// The offset in bytes, from the start of the module, of the operator the frame was at. None where the code belongs to no
    /// operator (a function's entry).
    #[doc(alias = "module_offset")]
    pub fn wasm_offset(&self) -> Option<usize> {
        self.wasm_offset.map(|offset| offset as usize)
    }

    /// Where in the source the operator came from: the function that it is written in, and if that was inlined, the one it was inlined
    /// in, and so on outwards. Empty where the module does not say, or was compiled without
    /// [`Config::wasm_backtrace_details`](crate::Config::wasm_backtrace_details).
    ///
    /// Cost: the first time reads all of the module's DWARF, some tens of milliseconds a megabyte; then some hundred microseconds for
    /// each frame, once. Time and memory are bounded, whatever the module holds; what is malformed or too much is left out.
    pub fn symbols(&self) -> &[FrameSymbol] {
        self.symbols.get_or_init(|| {
            let symbols = self.wasm_offset.map(|offset| self.code.symbols(offset));
            symbols.unwrap_or_default().into_boxed_slice()
        })
    }

    /// Prints the places in the source, one a line, and before all but the first the name of the function.
    fn write_places(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, symbol) in self.symbols().iter().enumerate() {
            if index > 0 {
                let name = symbol.name().unwrap_or("<inlined function>");
                write!(f, "\n{:>15} - {name}", "")?;
            }
            if symbol.file().is_some() || symbol.line().is_some() {
                write!(f, "\n{:>20}at {symbol}", "")?;
            }
        }
        Ok(())
    }

    /// Whether the module has source lines that were not kept.
    fn could_say_more(&self) -> bool {
        let debug = &self.code.info().debug;
        debug.is_present && debug.bytes() == 0
    }
}

/// `0x1f - module!function`, a Rust name demangled; of each name 4096 bytes at most.
impl fmt::Display for FrameInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wasm_offset {
            Some(offset) => write!(f, "{offset:#8x} - ")?,
            None => write!(f, "{:>8} - ", "?")?,
        }
        f.write_str(text::cut(self.module_name().unwrap_or("<unnamed>")))?;
        match self.func_name() {
            Some(name) => write!(f, "!{}", text::demangled(&rustc_demangle::demangle(name))),
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
