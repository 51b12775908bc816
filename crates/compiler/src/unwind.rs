//! DWARF call frame information for an image, for debuggers and profilers that ask for it.
//!
//! The section is made for a place: directly behind the text, at the next multiple of [`ALIGNMENT`]. Its
//! addresses are relative to themselves, so the two move together. The runtime itself does not need it: it walks
//! frame pointers.

use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::isa::unwind::UnwindInfo;
use std::ops::Range;

use gimli::write::{Address, CallFrameInstruction, EhFrame, EndianVec, FrameDescriptionEntry, FrameTable};
use gimli::{LittleEndian, X86_64, constants};

/// The section starts at the next multiple of this after the text.
pub(crate) const ALIGNMENT: usize = 16;

/// Call frame information of functions, by their offset in the text.
#[derive(Default)]
pub(crate) struct Frames {
    functions: Vec<(u32, UnwindInfo)>,
    /// Cold calls, but for what lies where Cranelift's code ended: see `crates/compiler/src/cold.rs`.
    cold: Vec<Range<u32>>,
}

impl Frames {
    pub(crate) fn add(&mut self, start: u32, info: UnwindInfo) {
        self.functions.push((start, info));
    }

    /// Code behind a function's, where its frame is complete.
    pub(crate) fn add_cold(&mut self, code: Range<u32>) {
        if !code.is_empty() {
            self.cold.push(code);
        }
    }

    /// The `.eh_frame` section for a text of this size, with the terminator that registering wants.
    pub(crate) fn section(&self, text_bytes: usize, isa: &dyn TargetIsa) -> Vec<u8> {
        let Some(mut common) = isa.create_systemv_cie() else {
            return Vec::new();
        };
        common.fde_address_encoding = constants::DW_EH_PE_pcrel | constants::DW_EH_PE_sdata4;
        let mut table = FrameTable::default();
        let common = table.add_cie(common);
        let section = text_bytes.next_multiple_of(ALIGNMENT) as u64;
        for (start, info) in &self.functions {
            if let UnwindInfo::SystemV(info) = info {
                // The section is written as if it began at zero.
                let address = Address::Constant(u64::from(*start).wrapping_sub(section));
                table.add_fde(common, info.to_fde(address));
            }
        }
        for code in &self.cold {
            let address = Address::Constant(u64::from(code.start).wrapping_sub(section));
            table.add_fde(common, complete_frame(address, code.len() as u32));
        }
        let mut out = EhFrame(EndianVec::new(LittleEndian));
        // Fails only on encodings that are not used here.
        table
            .write_eh_frame(&mut out)
            .expect("pc-relative addresses of 4 bytes can be written");
        let mut bytes = out.0.into_vec();
        bytes.extend([0; 4]);
        bytes
    }
}

/// Of code in which the frame is complete (x86-64): the frame pointer leads to the caller's and to the return address.
fn complete_frame(address: Address, bytes: u32) -> FrameDescriptionEntry {
    let mut frame = FrameDescriptionEntry::new(address, bytes);
    frame.add_instruction(0, CallFrameInstruction::Cfa(X86_64::RBP, 16));
    frame.add_instruction(0, CallFrameInstruction::Offset(X86_64::RBP, -16));
    frame
}
