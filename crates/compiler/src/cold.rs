//! What checks of fuel go to once the slice is used up, behind the code of a function (x86-64).
//!
//! To Cranelift a check is a conditional trap: a branch to an undefined instruction, which it puts behind the function's code. A cold block of
//! CLIF would be two blocks more for each check, across which every live value has to be kept: that was two thirds of what metering cost
//! to compile. Here the undefined instructions are taken away again, and each check gets what such a block would be:
//!
//! ```text
//!         sub r15, 7 | jl stub          the check: in_place.rs
//!   back: ...
//!
//!   stub: call fuel_stub
//!         jmp back
//! ```
//!
//! The fuel stub preserves every register, and frames are complete wherever there is a check: nothing else is to be done.
//!
//! Invariant: each undefined instruction was one check's, and no branch leads to one any more. Whatever is not as expected is refused, and
//! the function compiled otherwise.

use cranelift_codegen::MachTrap;
use cranelift_codegen::ir::SourceLoc;

use crate::function::{Relocation, Target};
use crate::regions;

/// `ud2`.
const UNDEFINED: [u8; 2] = [0x0f, 0x0b];
/// `call` and `jmp` with a distance of 32 bits, and `jmp` with one of 8.
const CALL: u8 = 0xe8;
const JMP: u8 = 0xe9;
const JMP_SHORT: u8 = 0xeb;
/// The length of a conditional branch with a distance of 32 bits.
const BRANCH_BYTES: usize = 6;

/// The checks of a function's code. Offsets are from its start.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// The undefined instructions that they go to, ascending.
    traps: Vec<u32>,
    /// Their branches, and the sites.
    branches: Vec<(u32, SourceLoc)>,
}

/// The cold calls of a function.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ColdCalls {
    /// Their return addresses, and the sites.
    pub(crate) returns: Vec<(u32, SourceLoc)>,
    /// Where the calls get their distance.
    pub(crate) relocations: Vec<u32>,
}

impl Checks {
    /// Of a function with these traps.
    pub(crate) fn of(traps: &[MachTrap]) -> Checks {
        let is_check = |trap: &&MachTrap| trap.code == regions::FUEL_CHECK;
        let mut traps: Vec<_> = traps.iter().filter(is_check).map(|trap| trap.offset).collect();
        traps.sort_unstable();
        let branches = Vec::with_capacity(traps.len());
        Checks { traps, branches }
    }

    /// Whether what begins here is the rest of the check that was found last, or what one goes to.
    pub(crate) fn is_known(&self, offset: u32, site: SourceLoc) -> bool {
        let last = self.branches.last();
        last.is_some_and(|(_, last)| *last == site) || self.traps.binary_search(&offset).is_ok()
    }

    /// There is a check, whose branch is here.
    pub(crate) fn found(&mut self, branch: u32, site: SourceLoc) {
        self.branches.push((branch, site));
    }

    /// Gives each check its cold call. None if a check was not found, or does not look as expected.
    #[must_use]
    pub(crate) fn go_to_calls(self, code: &mut Vec<u8>) -> Option<ColdCalls> {
        let mut targets = Vec::with_capacity(self.branches.len());
        for (branch, _) in &self.branches {
            targets.push(target(code, *branch as usize)?);
        }
        targets.sort_unstable();
        if targets != self.traps {
            return None;
        }
        self.take_traps(code)?;
        let mut calls = ColdCalls::default();
        for (branch, site) in &self.branches {
            call(code, *branch as usize, *site, &mut calls);
        }
        Some(calls)
    }

    /// Takes the undefined instructions away that the code ends with. Others, in front of another trap or of a constant, stay.
    fn take_traps(&self, code: &mut Vec<u8>) -> Option<()> {
        for trap in self.traps.iter().rev() {
            let at = *trap as usize;
            if !code.get(at..)?.starts_with(&UNDEFINED) {
                return None;
            }
            if at + UNDEFINED.len() == code.len() {
                code.truncate(at);
            }
        }
        Some(())
    }
}

impl ColdCalls {
    /// What the calls refer to.
    pub(crate) fn relocations(&self, has_vectors: bool) -> impl Iterator<Item = Relocation> {
        self.relocations.iter().map(move |offset| Relocation {
            offset: *offset,
            target: Target::FuelStub { has_vectors },
            addend: -4, // from the end of the distance
        })
    }
}

/// Where the branch leads that begins here.
fn target(code: &[u8], branch: usize) -> Option<u32> {
    let end = branch + BRANCH_BYTES;
    let distance = code.get(branch + 2..end)?.first_chunk()?;
    u32::try_from(end)
        .ok()?
        .checked_add_signed(i32::from_le_bytes(*distance))
}

/// Appends the cold call of a check, and lets its branch go there.
fn call(code: &mut Vec<u8>, branch: usize, site: SourceLoc, calls: &mut ColdCalls) {
    let (back, stub) = (branch + BRANCH_BYTES, code.len());
    code[branch + 2..back].copy_from_slice(&distance(back, stub).to_le_bytes());
    code.push(CALL);
    calls.relocations.push(code.len() as u32);
    code.extend([0; 4]);
    calls.returns.push((code.len() as u32, site));
    match i8::try_from(distance(code.len() + 2, back)) {
        Ok(distance) => code.extend([JMP_SHORT, distance as u8]),
        Err(_) => {
            let distance = distance(code.len() + 5, back);
            code.push(JMP);
            code.extend(distance.to_le_bytes());
        }
    }
}

/// The distance in a branch that ends here and leads there.
fn distance(end: usize, target: usize) -> i32 {
    (target as i64 - end as i64) as i32 // Cranelift's code is below 2 GiB
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing, a check at 1, nothing, a check at 8, `ret`, with undefined instructions at 15 and 17, and then this.
    fn code(behind: &[u8]) -> Vec<u8> {
        let mut code = vec![0x90, 0x0f, 0x8c, 8, 0, 0, 0, 0x90, 0x0f, 0x8c, 3, 0, 0, 0, 0xc3];
        code.extend(UNDEFINED.repeat(2));
        code.extend(behind);
        code
    }

    fn checks(traps: &[u32], branches: &[u32]) -> Checks {
        let site = |(number, branch): (usize, &u32)| (*branch, SourceLoc::new(number as u32));
        Checks {
            traps: traps.to_vec(),
            branches: branches.iter().enumerate().map(site).collect(),
        }
    }

    #[test]
    fn each_check_gets_a_call_that_comes_back_behind_it() {
        let mut code = code(&[]);
        let calls = checks(&[15, 17], &[1, 8])
            .go_to_calls(&mut code)
            .expect("as expected");
        assert_eq!(code[1..7], [0x0f, 0x8c, 8, 0, 0, 0], "from 7 to 15");
        assert_eq!(code[8..14], [0x0f, 0x8c, 8, 0, 0, 0], "from 14 to 22");
        let calls_and_jumps = [
            [CALL, 0, 0, 0, 0, JMP_SHORT, -15_i8 as u8], // 22 to 7
            [CALL, 0, 0, 0, 0, JMP_SHORT, -15_i8 as u8], // 29 to 14
        ];
        assert_eq!(code[15..], calls_and_jumps.concat());
        assert_eq!(calls.relocations, [16, 23]);
        assert_eq!(calls.returns, [(20, SourceLoc::new(0)), (27, SourceLoc::new(1))]);
    }

    #[test]
    fn a_jump_back_that_is_long_has_32_bits() {
        let mut code = code(&[]);
        code.splice(14..14, [0x90; 200]);
        code[3] += 200;
        code[10] += 200;
        let calls = checks(&[215, 217], &[1, 8]).go_to_calls(&mut code);
        assert_eq!(calls.expect("as expected").returns[1].0, 230);
        assert_eq!(code[230], JMP);
        assert_eq!(code[231..], (14_i32 - 235).to_le_bytes());
    }

    #[test]
    fn undefined_instructions_in_front_of_something_else_stay() {
        let mut code = code(&[1, 2, 3]);
        assert!(checks(&[15, 17], &[1, 8]).go_to_calls(&mut code).is_some());
        assert_eq!(code[15..23], [0x0f, 0x0b, 0x0f, 0x0b, 1, 2, 3, CALL]);
        assert_eq!(target(&code, 1), Some(22));
    }

    #[test]
    fn what_is_not_as_expected_is_refused() {
        for (traps, branches) in [
            (&[15, 17][..], &[1][..]), // a check was not found
            (&[15, 17], &[1, 1]),      // found twice
            (&[15], &[1, 8]),          // a branch to something else
            (&[], &[1]),
            (&[14, 15, 17], &[1, 8]),
            (&[17], &[8, 100]), // behind the end
        ] {
            let mut code = code(&[]);
            assert_eq!(
                checks(traps, branches).go_to_calls(&mut code),
                None,
                "{traps:?} {branches:?}"
            );
        }
        let mut code = code(&[]);
        code[17] = 0x90;
        assert_eq!(
            checks(&[15, 17], &[1, 8]).go_to_calls(&mut code),
            None,
            "no undefined instruction"
        );
    }
}
