//! Which operator, and how much pending fuel, each machine instruction belongs to.
//!
//! Cranelift carries one number with every instruction, the source location. Here it is an index into a table of
//! *sites*, made while a function is translated: the operator's offset and the fuel that is pending there.
//!
//! Cranelift may move a load down into the instruction that uses its value. That instruction then has the user's
//! site. But nothing with an effect lies between the two, no other access either, so the load's
//! site is the last one of an access before the user's: each site knows it.

use cranelift_codegen::ir::SourceLoc;

/// What a source location stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    /// The operator's offset in the module.
    pub(crate) wasm: u32,
    /// Fuel accumulated and not yet subtracted, the operator's own included.
    pub(crate) fuel: u32,
    /// The last site, up to this one, of an operator that accesses linear memory.
    access: u32,
}

/// The sites of one function.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    sites: Vec<Site>,
}

impl Sites {
    pub(crate) fn clear(&mut self) {
        self.sites.clear();
    }

    /// A new site, current from now on.
    pub(crate) fn push(&mut self, wasm: u32, fuel: u32) -> SourceLoc {
        let access = self.sites.last().map_or(0, |last| last.access);
        self.sites.push(Site { wasm, fuel, access });
        SourceLoc::new(self.sites.len() as u32 - 1)
    }

    /// Says that the current site's operator accesses linear memory.
    pub(crate) fn mark_access(&mut self) {
        let index = self.sites.len() as u32 - 1;
        if let Some(last) = self.sites.last_mut() {
            last.access = index;
        }
    }

    /// The site of an instruction.
    pub(crate) fn get(&self, loc: SourceLoc) -> Site {
        let none = Site {
            wasm: 0,
            fuel: 0,
            access: 0,
        };
        self.sites.get(loc.bits() as usize).copied().unwrap_or(none)
    }

    /// The site of the access that a faulting instruction makes.
    pub(crate) fn access(&self, loc: SourceLoc) -> Site {
        self.get(SourceLoc::new(self.get(loc).access))
    }
}
