//! Which operator, and how much pending fuel, each machine instruction belongs to.
//!
//! Cranelift carries one number with every instruction, the source location. Here it is an index into a table of
//! *sites*, made while a function is translated: the operator's offset and the fuel that is pending there.
//!
//! Cranelift may move a load down into the instruction that uses its value. That instruction then has the user's
//! site. But nothing with an effect lies between the two, no other access either, so the load's
//! site is the last one of an access before the user's: each site knows it.
//!
//! A user that the optimiser rewrote has no location, and what stands next to it may be a constant from anywhere. Where fuel
//! counts, loads are therefore numbered in their trap codes (`crates/compiler/src/regions.rs`); the location only says which
//! of those with one number is meant, in functions with more accesses than numbers.

use cranelift_codegen::ir::{Inst, SourceLoc};

/// What a source location stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    /// The operator's offset in the module.
    pub(crate) wasm: u32,
    /// Fuel accumulated and not yet subtracted, the operator's own included.
    pub(crate) fuel: u32,
    /// The last site, up to this one, of an operator that accesses linear memory.
    access: u32,
    /// Whether the code is a payment or a check of fuel, and which.
    metering: Option<Metering>,
}

/// Code that concerns fuel alone. It is rewritten: see `in_place.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metering {
    /// A place for a payment of so much, or for what is paid back: filled by fences.
    Place(i32),
    /// A payment or a check as CLIF computes it.
    Computed,
    /// A check that pays so much in one: a comparison, and a conditional trap.
    Check(i32),
    /// A branch back to a loop, by its number: nothing is counted there, but it tells where the loop lies.
    Branch(u32),
    /// So many fences that only take space.
    Space(u8),
}

/// The sites of one function.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    sites: Vec<Site>,
    /// The sites of accesses, ascending.
    accesses: Vec<u32>,
    /// The sites of places and of space, ascending, and the first fence of each.
    kept: Vec<(u32, Inst)>,
    /// Whether the function may have something to keep in vector registers where fuel is checked.
    has_vectors: bool,
}

impl Sites {
    pub(crate) fn clear(&mut self) {
        self.sites.clear();
        self.accesses.clear();
        self.kept.clear();
        self.has_vectors = false;
    }

    /// A new site, current from now on.
    pub(crate) fn push(&mut self, wasm: u32, fuel: u32) -> SourceLoc {
        let access = self.sites.last().map_or(0, |last| last.access);
        self.sites.push(Site {
            wasm,
            fuel,
            access,
            metering: None,
        });
        SourceLoc::new(self.sites.len() as u32 - 1)
    }

    /// Says that the current site's operator accesses linear memory.
    pub(crate) fn mark_access(&mut self) {
        let index = self.sites.len() as u32 - 1;
        if let Some(last) = self.sites.last_mut() {
            last.access = index;
            self.accesses.push(index);
        }
    }

    /// The number of the access that was marked last.
    pub(crate) fn last_access(&self) -> usize {
        self.accesses.len().saturating_sub(1)
    }

    /// Says that what is made at the current site is this payment or check of fuel, and nothing else.
    pub(crate) fn mark_metering(&mut self, metering: Metering) {
        if let Some(last) = self.sites.last_mut() {
            last.metering = Some(metering);
        }
    }

    /// Says that the current site is a place or space that begins with this fence.
    pub(crate) fn keep(&mut self, fence: Inst) {
        self.kept.push((self.sites.len() as u32 - 1, fence));
    }

    /// The places and the space that were kept, ascending by location, and the first fence of each.
    pub(crate) fn kept(&self) -> &[(u32, Inst)] {
        &self.kept
    }

    /// Says whether the function may have something to keep in vector registers where fuel is checked.
    pub(crate) fn set_vectors(&mut self, has_vectors: bool) {
        self.has_vectors = has_vectors;
    }

    /// Whether it may.
    pub(crate) fn has_vectors(&self) -> bool {
        self.has_vectors
    }

    /// The payment or check of fuel that an instruction belongs to.
    pub(crate) fn metering(&self, loc: SourceLoc) -> Option<Metering> {
        self.get(loc).metering
    }

    /// The site of an instruction.
    pub(crate) fn get(&self, loc: SourceLoc) -> Site {
        let none = Site {
            wasm: 0,
            fuel: 0,
            access: 0,
            metering: None,
        };
        self.sites.get(loc.bits() as usize).copied().unwrap_or(none)
    }

    /// The access that a faulting instruction of this location makes.
    pub(crate) fn access(&self, loc: SourceLoc) -> SourceLoc {
        SourceLoc::new(self.get(loc).access)
    }

    /// Of the accesses with these numbers, the one whose site is nearest to a location.
    pub(crate) fn nearest(&self, numbers: impl Iterator<Item = usize>, loc: SourceLoc) -> Option<SourceLoc> {
        let sites = numbers.map_while(|number| self.accesses.get(number));
        let nearest = sites.min_by_key(|site| site.abs_diff(loc.bits()));
        nearest.map(|site| SourceLoc::new(*site))
    }
}
