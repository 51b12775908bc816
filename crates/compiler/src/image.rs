//! What comes out: position-independent text and the tables that go with it.
//!
//! ```text
//!   text   0   8 runtime slots, zero here, filled by the loader before the text is made executable
//!          64  stubs: one per trap code, and two for the fuel check
//!              functions, in the order of their indices
//!              entry trampolines, by type; import trampolines, by imported function
//! ```
//!
//! Invariants
//! 1. Nothing in the text depends on where it is loaded, and nothing refers outside of it.
//! 2. `fault_sites` and `call_sites` ascend by code offset, without repetition; `functions` ascend.
//! 3. The image is the same for the same bytes and settings, however many threads made it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{MemoryStyle, TrapCode};

/// The number of runtime slots at the start of the text.
pub const RUNTIME_SLOTS: usize = 8;
/// Size of the runtime slots in bytes.
pub const RUNTIME_SLOTS_BYTES: usize = 8 * RUNTIME_SLOTS;
/// The slot of the code that trap stubs jump to, with the trap's number in `eax` (`w17`) and the site's return
/// address on the stack (in `x30`). It does not come back.
pub const SLOT_RAISE: usize = 0;
/// The slot of the code that the fuel stub jumps to. It comes back with every register as it was but the
/// pinned one (on aarch64 x16 and x17 too, in which code keeps nothing).
pub const SLOT_FUEL_CHECK: usize = 1;
/// The same for functions without a value in a vector register: those need not be as they were.
pub const SLOT_FUEL_CHECK_INTEGERS: usize = 2;

/// An instruction whose fault is a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSite {
    /// Offset of the instruction in the text.
    pub code: u32,
    /// The trap.
    pub trap: TrapCode,
    /// Offset of the operator in the module.
    pub wasm: u32,
    /// Fuel spent but not yet subtracted from the pinned register, the operator's own included.
    pub fuel: u32,
}

/// A call: of a function, a stub or the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSite {
    /// Offset of the return address in the text.
    pub code: u32,
    /// Offset of the operator in the module.
    pub wasm: u32,
    /// Fuel spent but not yet subtracted from the pinned register, the operator's own included.
    pub fuel: u32,
}

/// Where frames hold references into the store's heap, by the return addresses of the calls across which they live.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StackMaps {
    /// Return address, and the end of its entries in `below`.
    calls: Vec<(u32, u32)>,
    /// How far below the frame's record each reference lies, in bytes.
    below: Vec<u32>,
}

impl StackMaps {
    /// Adds a call. They come in the order of their return addresses.
    pub(crate) fn push(&mut self, code: u32, below: &[u32]) {
        debug_assert!(self.calls.last().is_none_or(|(last, _)| *last < code));
        if !below.is_empty() {
            self.below.extend_from_slice(below);
            self.calls.push((code, self.below.len() as u32));
        }
    }

    /// The references of the frame that is in the call that returns to this offset.
    fn get(&self, code: u32) -> &[u32] {
        let Ok(at) = self.calls.binary_search_by_key(&code, |(code, _)| *code) else {
            return &[];
        };
        let start = at.checked_sub(1).map_or(0, |before| self.calls[before].1);
        &self.below[start as usize..self.calls[at].1 as usize]
    }
}

/// A `catch` clause that a call is in the scope of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchClause {
    /// The index in the module of the tag it catches; none: it catches every one.
    pub tag: Option<u32>,
    /// Offset of the code that goes on, in the text. It finds the exception's reference in the first payload register.
    pub code: u32,
}

/// A call within a `try_table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TryCall<'a> {
    /// How far the stack pointer lies below the frame record while the call runs, in bytes.
    pub frame_bytes: u32,
    /// How far below the frame record the frame keeps its vmctx, in bytes. None: what is called is the runtime, which was given it.
    pub vmctx_below: Option<u32>,
    /// What catches, the first that fits.
    pub clauses: &'a [CatchClause],
}

/// The calls within `try_table`s, by their return addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TryCalls {
    /// Return address, frame bytes, vmctx, and the end of its clauses.
    calls: Vec<[u32; 4]>,
    clauses: Vec<CatchClause>,
}

/// Instead of the vmctx's place: it is in a register. No frame is that large.
const NOT_KEPT: u32 = u32::MAX;

impl TryCalls {
    /// Adds a call. They come in the order of their return addresses.
    pub(crate) fn push(&mut self, code: u32, call: TryCall<'_>) {
        debug_assert!(self.calls.last().is_none_or(|[last, ..]| *last < code));
        self.clauses.extend_from_slice(call.clauses);
        let end = self.clauses.len() as u32;
        let vmctx = call.vmctx_below.unwrap_or(NOT_KEPT);
        self.calls.push([code, call.frame_bytes, vmctx, end]);
    }

    fn get(&self, code: u32) -> Option<TryCall<'_>> {
        let at = self.calls.binary_search_by_key(&code, |[code, ..]| *code).ok()?;
        let start = at.checked_sub(1).map_or(0, |before| self.calls[before][3]);
        let [_, frame_bytes, vmctx, end] = self.calls[at];
        Some(TryCall {
            frame_bytes,
            vmctx_below: (vmctx != NOT_KEPT).then_some(vmctx),
            clauses: &self.clauses[start as usize..end as usize],
        })
    }
}

/// Compiled code and its tables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// The code, with the runtime slots in front.
    pub text: Vec<u8>,
    /// The number of imported functions: the index of the first of `functions`.
    pub imported_functions: u32,
    /// Where the defined functions are.
    pub functions: Vec<Range<u32>>,
    /// Offset of the entry trampoline by type index, for every type that some escaping function has.
    pub entry_trampolines: Vec<Option<u32>>,
    /// Offset of the import trampoline by imported function.
    pub import_trampolines: Vec<u32>,
    /// The instructions whose fault is a trap.
    pub fault_sites: Vec<FaultSite>,
    /// The calls that functions make. Trampolines have none: no operator is there.
    pub call_sites: Vec<CallSite>,
    /// Where frames hold references.
    pub stack_maps: StackMaps,
    /// Where exceptions are caught.
    pub try_calls: TryCalls,
    /// A DWARF `.eh_frame` section for the text, with its terminator. Its addresses are relative: it is right
    /// only if it is loaded behind the text, at the next multiple of 16 of the text's size.
    pub eh_frame: Vec<u8>,
    /// The processor features that the code may use.
    pub cpu_features: Vec<String>,
    /// Whether the code counts fuel: then the pinned register is the counter.
    pub fuel: bool,
    /// How the code takes memories to be laid out.
    pub memory_style: MemoryStyle,
}

impl Image {
    /// The site of a fault at this offset.
    pub fn fault_site(&self, code: u32) -> Option<&FaultSite> {
        let at = self
            .fault_sites
            .binary_search_by_key(&code, |site| site.code)
            .ok()?;
        Some(&self.fault_sites[at])
    }

    /// The site of a call that returns to this offset.
    pub fn call_site(&self, code: u32) -> Option<&CallSite> {
        let at = self
            .call_sites
            .binary_search_by_key(&code, |site| site.code)
            .ok()?;
        Some(&self.call_sites[at])
    }

    /// What catches an exception that the call that returns to this offset ends with.
    pub fn try_call(&self, code: u32) -> Option<TryCall<'_>> {
        self.try_calls.get(code)
    }

    /// Where the frame that is in the call that returns to this offset holds references into the heap: how far below
    /// the frame record, in bytes. Each is a `u32`.
    pub fn stack_map(&self, code: u32) -> &[u32] {
        self.stack_maps.get(code)
    }

    /// The index (imports first) of the function whose code this offset is in.
    pub fn function_at(&self, code: u32) -> Option<u32> {
        let at = self.functions.partition_point(|range| range.end <= code);
        let range = self.functions.get(at)?;
        range.contains(&code).then(|| self.imported_functions + at as u32)
    }

    /// Offset of the stub of a trap.
    pub fn trap_stub(trap: TrapCode) -> u32 {
        crate::stubs::trap_stub(trap)
    }
}

/// An image with the trampolines of one signature, for functions of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTrampolines {
    /// The text; the tables of sites are empty.
    pub image: Image,
    /// Offset of the entry trampoline.
    pub entry: u32,
    /// Offset of the import trampoline.
    pub import: u32,
}
