//! Putting functions together into an [`Image`].

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::isa::TargetIsa;

use crate::function::{Compiled, Relocation, Target};
use crate::settings::processor_features;
use crate::tight::LINE;
use crate::unwind::Frames;
use crate::{CallSite, CompileError, FaultSite, Image, Settings, TryCall, limits, stubs};

/// Functions start at multiples of this, so that a short one does not share its first cache line's half.
const ALIGNMENT: usize = 16;
/// Functions with loops start at a place in a cache line that suits these (`tight.rs`): how fast a loop is depends on how it lies in lines
/// (by half, where branches are hard to predict), and that should not change with the functions before it.
pub(crate) const LOOP_ALIGNMENT: u32 = 64;
/// Between functions: breakpoints, so that running into them is noticed.
#[cfg(not(target_arch = "aarch64"))]
const PADDING: &[u8] = &[0xcc];
#[cfg(target_arch = "aarch64")]
const PADDING: &[u8] = &0xd420_0000_u32.to_le_bytes();

/// Fills the text up to the next multiple of `alignment`. Instructions are complete in it.
pub(crate) fn pad(text: &mut Vec<u8>, alignment: usize) {
    pad_to(text, text.len().next_multiple_of(alignment));
}

fn pad_to(text: &mut Vec<u8>, end: usize) {
    text.extend(PADDING.iter().cycle().take(end - text.len()));
}

/// Where a function starts that comes behind so many bytes. One that fits into a line does not lie across two.
fn start_of(end: usize, compiled: &Compiled) -> usize {
    let (alignment, shift) = (
        ALIGNMENT.max(compiled.alignment as usize),
        compiled.shift as usize,
    );
    let start = (end - shift).next_multiple_of(alignment) + shift;
    let bytes = compiled.code.len();
    match bytes <= LINE && start % LINE + bytes > LINE {
        true => start.next_multiple_of(LINE.max(alignment)),
        false => start,
    }
}

/// An image in the making.
pub(crate) struct Linker {
    image: Image,
    /// Relocations of everything placed so far, with offsets in the text.
    relocations: Vec<Relocation>,
    frames: Frames,
}

impl Linker {
    pub(crate) fn new(imported_functions: u32) -> Linker {
        let image = Image {
            text: stubs::text_start(),
            imported_functions,
            ..Image::default()
        };
        Linker {
            image,
            relocations: Vec::new(),
            frames: Frames::default(),
        }
    }

    /// Places a function of the module: the one after those placed before.
    pub(crate) fn function(&mut self, mut compiled: Compiled) -> Result<(), CompileError> {
        let start = self.place(&mut compiled)?;
        let image = &mut self.image;
        image.functions.push(start..start + compiled.code.len() as u32);
        let moved = |site: &FaultSite| FaultSite {
            code: start + site.code,
            ..*site
        };
        image.fault_sites.extend(compiled.fault_sites.iter().map(moved));
        let moved = |site: &CallSite| CallSite {
            code: start + site.code,
            ..*site
        };
        image.call_sites.extend(compiled.call_sites.iter().map(moved));
        for (code, below) in &compiled.stack_maps {
            image.stack_maps.push(start + code, below);
        }
        for site in &mut compiled.try_calls {
            for clause in &mut site.clauses {
                clause.code += start;
            }
            let call = TryCall {
                frame_bytes: site.frame_bytes,
                vmctx_below: site.vmctx_below,
                clauses: &site.clauses,
            };
            image.try_calls.push(start + site.code, call);
        }
        Ok(())
    }

    /// Places a trampoline, whose sites are nobody's: no operator is there. Returns its offset.
    pub(crate) fn trampoline(&mut self, mut compiled: Compiled) -> Result<u32, CompileError> {
        self.place(&mut compiled)
    }

    fn place(&mut self, compiled: &mut Compiled) -> Result<u32, CompileError> {
        let text = &mut self.image.text;
        let start = start_of(text.len(), compiled);
        limits::text_bytes(start + compiled.code.len())?;
        pad_to(text, start);
        text.extend_from_slice(&compiled.code);
        let start = start as u32;
        let moved = |reloc: &Relocation| Relocation {
            offset: start + reloc.offset,
            ..*reloc
        };
        self.relocations.extend(compiled.relocations.iter().map(moved));
        if let Some(info) = compiled.unwind.take() {
            self.frames.add(start, info);
            self.frames
                .add_cold(start + compiled.cold..start + compiled.code.len() as u32);
        }
        Ok(start)
    }

    /// The image, with every reference resolved.
    pub(crate) fn finish(
        mut self,
        entry_trampolines: Vec<Option<u32>>,
        import_trampolines: Vec<u32>,
        settings: &Settings,
        isa: &dyn TargetIsa,
    ) -> Image {
        for relocation in std::mem::take(&mut self.relocations) {
            self.resolve(relocation);
        }
        let image = &mut self.image;
        image.fault_sites.sort_by_key(|site| site.code);
        image.fault_sites.dedup_by_key(|site| site.code);
        image.call_sites.sort_by_key(|site| site.code);
        image.entry_trampolines = entry_trampolines;
        image.import_trampolines = import_trampolines;
        image.fuel = settings.fuel;
        image.memory_style = settings.memory_style;
        image.cpu_features = processor_features(isa);
        image.eh_frame = self.frames.section(image.text.len(), isa);
        self.image
    }

    fn resolve(&mut self, relocation: Relocation) {
        let target = match relocation.target {
            Target::Function(index) => {
                self.image.functions[(index - self.image.imported_functions) as usize].start
            }
            Target::TrapStub(trap) => stubs::trap_stub(trap),
            Target::FuelStub { has_vectors } => stubs::fuel_stub(has_vectors),
        };
        let distance = i64::from(target) + relocation.addend - i64::from(relocation.offset);
        let at = relocation.offset as usize;
        let place = self.image.text[at..]
            .first_chunk_mut()
            .expect("calls are in the text");
        set_distance(place, distance);
    }
}

/// What the compiler's calls and tail calls of a function refer to it with.
#[cfg(not(target_arch = "aarch64"))]
pub(crate) const CALLS: &[Reloc] = &[Reloc::X86CallPCRel4, Reloc::X86PCRel4];
#[cfg(target_arch = "aarch64")]
pub(crate) const CALLS: &[Reloc] = &[Reloc::Arm64Call];

/// Sets the distance of such a reference: 32 bits.
#[cfg(not(target_arch = "aarch64"))]
fn set_distance(place: &mut [u8; 4], distance: i64) {
    let distance = i32::try_from(distance).expect("the text is smaller than the reach of a call");
    *place = distance.to_le_bytes();
}

/// Sets the distance of such a reference: the low 26 bits of `b` or `bl`, in instructions.
#[cfg(target_arch = "aarch64")]
fn set_distance(place: &mut [u8; 4], distance: i64) {
    let words = distance / 4;
    assert!(
        distance % 4 == 0 && (-(1 << 25)..1 << 25).contains(&words),
        "the text is smaller than the reach of a call"
    );
    let instruction = u32::from_le_bytes(*place) | words as u32 & 0x03ff_ffff;
    *place = instruction.to_le_bytes();
}
