//! What a trap left in the store, as an error with a backtrace.
//!
//! Frames are walked by frame pointer: see [`super::frames`].

use super::code::{self, ModuleCode};
use super::frames;
use super::store::StoreVm;
use crate::backtrace::{COUNTED_FRAMES, FrameInfo, WasmBacktrace};
use crate::error::Error;
use crate::trap::Trap;
use std::sync::Arc;

impl StoreVm {
    /// Notes a trap that the runtime itself raises at a call site of the guest.
    pub(crate) fn set_trap(&mut self, trap: Trap, site: usize, frame: usize) {
        self.cx.trap_code = trap as u32;
        self.cx.trap_pc = site;
        self.cx.trap_is_fault = false;
        self.cx.trap_fp = frame;
        self.cx.trap_fuel = self.cx.fuel;
    }

    /// [`set_trap`](StoreVm::set_trap) at the call by which the guest left for the host.
    ///
    /// # Safety
    /// `guest_fp` names the frame record that a swap or a fuel check made, and the guest's stack is still there.
    pub(crate) unsafe fn set_trap_at_exit(&mut self, trap: Trap) {
        // SAFETY: the caller's promise: the record's two words, the frame before it and the return address.
        let [frame, site] = unsafe { (self.cx.guest_fp as *const [usize; 2]).read() };
        self.set_trap(trap, site, frame);
    }
}

/// The trap that the innermost activation has just been left with.
///
/// Puts the exact fuel back: what the site had spent but not yet subtracted is subtracted now.
pub(crate) fn take(store: &mut StoreVm) -> Error {
    let trap = Trap::from_code(store.cx.trap_code).unwrap_or(Trap::Unreachable);
    let pc = store.cx.trap_pc;
    let is_fault = std::mem::take(&mut store.cx.trap_is_fault);
    if store.engine.fuel() {
        store.cx.fuel = store.cx.trap_fuel - i64::from(pending_fuel(pc, is_fault));
    }
    let backtrace = walk(store, Some((pc, is_fault)), store.cx.trap_fp);
    Error::trap(trap, Some(backtrace))
}

/// The error of a guest that is stopped while it is parked, or before it has run.
pub(crate) fn interrupted(store: &StoreVm) -> Error {
    Error::trap(Trap::Interrupt, Some(backtrace(store)))
}

/// The frames of guests that are parked.
pub(crate) fn backtrace(store: &StoreVm) -> WasmBacktrace {
    walk(store, None, store.cx.guest_fp)
}

/// Gives an error that a host function ended the guest with a backtrace, if it has none.
pub(crate) fn add_backtrace(store: &mut StoreVm, error: &mut Error) {
    error.set_backtrace(|| walk(store, None, store.cx.guest_fp));
}

/// Units spent at a site but not yet subtracted from the register. A call may return to an instruction that faults: an address alone does not
/// tell which of the two it is.
fn pending_fuel(pc: usize, is_fault: bool) -> u32 {
    let Some((code, offset)) = code_at(pc) else {
        return 0;
    };
    let image = code.image();
    let fuel = match is_fault {
        true => image.fault_site(offset).map(|site| site.fuel),
        false => image.call_site(offset).map(|site| site.fuel),
    };
    fuel.unwrap_or(0)
}

/// The module that an address of guest code lies in, and the offset in its text.
pub(crate) fn code_at(pc: usize) -> Option<(Arc<ModuleCode>, u32)> {
    // SAFETY: the address was found in a frame of a guest of this store, whose instances keep their modules.
    let code = unsafe { code::find_arc(pc) }?;
    let offset = u32::try_from(pc - code.text_base()).ok()?;
    Some((code, offset))
}

/// The frame of the instruction at `pc`, or before it where `pc` is a return address.
fn frame_at(pc: usize, is_return: bool) -> Option<FrameInfo> {
    let (code, offset) = code_at(pc)?;
    let function = code.image().function_at(offset - u32::from(is_return))?;
    let wasm = match is_return {
        true => code.image().call_site(offset).map(|site| site.wasm),
        false => code.image().fault_site(offset).map(|site| site.wasm),
    };
    Some(FrameInfo::new(code, function, wasm))
}

/// The frames of all activations, innermost first; `pc` is where the innermost one stopped, if that is not a call of the host, and whether it is
/// what faulted.
fn walk(store: &StoreVm, pc: Option<(usize, bool)>, fp: usize) -> WasmBacktrace {
    let cap = store.engine.config().max_backtrace_frames;
    let mut frames = Frames::new(cap);
    if cap == 0 {
        return WasmBacktrace::new(frames.kept, 0); // who keeps none does not pay for the walk
    }
    if let Some((pc, is_fault)) = pc {
        // A cold call's return address may be the first byte after its function: ask for the byte before.
        frames.push(pc, !is_fault);
    }
    for frame in frames::segments(store, fp).flatten() {
        if frames.is_full() {
            break;
        }
        frames.push(frame.pc, true);
    }
    WasmBacktrace::new(frames.kept, frames.omitted)
}

/// Frames up to a cap, and the number beyond it.
struct Frames {
    kept: Vec<FrameInfo>,
    omitted: usize,
    cap: usize,
}

impl Frames {
    fn new(cap: usize) -> Frames {
        Frames {
            kept: Vec::new(),
            omitted: 0,
            cap,
        }
    }

    /// Whether enough was counted.
    fn is_full(&self) -> bool {
        self.omitted >= COUNTED_FRAMES
    }

    /// Adds the frame of an address, unless it is a trampoline's.
    fn push(&mut self, pc: usize, is_return: bool) {
        if !code::is_guest_code(pc) {
            return;
        }
        if self.kept.len() == self.cap || self.kept.try_reserve(1).is_err() {
            self.cap = self.kept.len(); // what comes after it would not be next to it
            self.omitted += 1;
        } else if let Some(frame) = frame_at(pc, is_return) {
            self.kept.push(frame);
        }
    }
}
