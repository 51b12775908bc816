//! The hand-assembled code at the start of the text (x86-64): trap stubs and the fuel check.
//!
//! ```text
//!   trap stub    b8 code32          mov eax, code
//!                ff 25 rel32        jmp qword ptr [rip + rel]   through the slot `raise`
//!                cc ..              int3, up to 16 bytes
//!   fuel stub    ff 25 rel32        jmp qword ptr [rip + rel]   through the slot `fuel_check`
//! ```
//!
//! They are called, so that the return address on the stack names the site; they touch no stack and,
//! the trap stub's `eax` aside, no register.

use crate::TrapCode;
use crate::image::{RUNTIME_SLOTS_BYTES, SLOT_FUEL_CHECK, SLOT_RAISE};

/// Size of a stub in bytes.
const STUB_BYTES: usize = 16;
/// Where the functions start.
pub(crate) const END: usize = RUNTIME_SLOTS_BYTES + (TrapCode::ALL.len() + 1) * STUB_BYTES;

/// Offset of the stub of a trap.
pub(crate) fn trap_stub(trap: TrapCode) -> u32 {
    (RUNTIME_SLOTS_BYTES + (trap as usize - 1) * STUB_BYTES) as u32
}

/// Offset of the stub of the fuel check.
pub(crate) fn fuel_stub() -> u32 {
    (END - STUB_BYTES) as u32
}

/// The start of a text: zeroed slots, then the stubs.
pub(crate) fn text_start() -> Vec<u8> {
    let mut text = vec![0; RUNTIME_SLOTS_BYTES];
    for trap in TrapCode::ALL {
        text.push(0xb8);
        text.extend(u32::from(trap as u8).to_le_bytes());
        jump_through(&mut text, SLOT_RAISE);
        pad(&mut text);
    }
    jump_through(&mut text, SLOT_FUEL_CHECK);
    pad(&mut text);
    debug_assert_eq!(text.len(), END);
    text
}

fn jump_through(text: &mut Vec<u8>, slot: usize) {
    let after = text.len() + 6;
    let rel = (slot * 8) as i32 - after as i32;
    text.extend([0xff, 0x25]);
    text.extend(rel.to_le_bytes());
}

fn pad(text: &mut Vec<u8>) {
    text.resize(text.len().next_multiple_of(STUB_BYTES), 0xcc);
}
