//! The hand-assembled code at the start of the text: trap stubs and the fuel check.
//!
//! ```text
//!                x86-64                                      aarch64
//!   trap stub    mov eax, code                               movz w17, code
//!                jmp qword ptr [rip + rel]                   ldr x16, slot `raise`
//!                int3, up to 16 bytes                        br x16
//!                                                            brk
//!   fuel stubs   jmp qword ptr [rip + rel]                   ldr x16, slot `fuel_check`
//!                                                            br x16
//! ```
//!
//! They are called, so that the return address (on the stack, or in x30) names the site; they touch no stack and,
//! the trap stub's `eax` or `w17` and `x16` aside, no register.

use crate::TrapCode;
use crate::image::{RUNTIME_SLOTS_BYTES, SLOT_FUEL_CHECK, SLOT_FUEL_CHECK_INTEGERS, SLOT_RAISE};
use crate::link::pad;

/// Size of a stub in bytes.
const STUB_BYTES: usize = 16;
/// Where the functions start.
pub(crate) const END: usize = RUNTIME_SLOTS_BYTES + (TrapCode::ALL.len() + FUEL_STUBS.len()) * STUB_BYTES;
/// The slots of the fuel stubs, which come last.
const FUEL_STUBS: [usize; 2] = [SLOT_FUEL_CHECK_INTEGERS, SLOT_FUEL_CHECK];

/// Offset of the stub of a trap.
pub(crate) fn trap_stub(trap: TrapCode) -> u32 {
    (RUNTIME_SLOTS_BYTES + (trap as usize - 1) * STUB_BYTES) as u32
}

/// Offset of the stub of the fuel check, for functions that keep values in vector registers or for those that do not.
pub(crate) fn fuel_stub(has_vectors: bool) -> u32 {
    let from_end = FUEL_STUBS.len() - usize::from(has_vectors);
    (END - from_end * STUB_BYTES) as u32
}

/// The start of a text: zeroed slots, then the stubs.
pub(crate) fn text_start() -> Vec<u8> {
    let mut text = vec![0; RUNTIME_SLOTS_BYTES];
    for trap in TrapCode::ALL {
        load_number(&mut text, trap as u8);
        jump_through(&mut text, SLOT_RAISE);
        pad(&mut text, STUB_BYTES);
    }
    for slot in FUEL_STUBS {
        jump_through(&mut text, slot);
        pad(&mut text, STUB_BYTES);
    }
    debug_assert_eq!(text.len(), END);
    text
}

#[cfg(not(target_arch = "aarch64"))]
fn load_number(text: &mut Vec<u8>, number: u8) {
    text.push(0xb8);
    text.extend(u32::from(number).to_le_bytes());
}

#[cfg(not(target_arch = "aarch64"))]
fn jump_through(text: &mut Vec<u8>, slot: usize) {
    let after = text.len() + 6;
    let rel = (slot * 8) as i32 - after as i32;
    text.extend([0xff, 0x25]);
    text.extend(rel.to_le_bytes());
}

#[cfg(target_arch = "aarch64")]
fn load_number(text: &mut Vec<u8>, number: u8) {
    let movz_w17 = 0x5280_0011;
    text.extend((movz_w17 | u32::from(number) << 5).to_le_bytes());
}

#[cfg(target_arch = "aarch64")]
fn jump_through(text: &mut Vec<u8>, slot: usize) {
    let (ldr_x16, br_x16) = (0x5800_0010, 0xd61f_0200_u32);
    let words = (slot * 8) as i32 / 4 - text.len() as i32 / 4;
    text.extend((ldr_x16 | (words as u32 & 0x7_ffff) << 5).to_le_bytes());
    text.extend(br_x16.to_le_bytes());
}
