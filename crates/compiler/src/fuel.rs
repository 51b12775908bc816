//! Metering: what operators cost, and when what is owed is paid.
//!
//! The counter lives in the pinned register. The front end adds up what the operators of a straight piece
//! of code cost (*pending*), and subtracts the sum at once, as late as can be: before calls, builtins, loops and
//! returns. Where paths part, each goes on with what is pending: both arms of an `if`, and what a `br_if`
//! leaves and goes on to. Where paths meet, all of them must owe the same: the first branch to a label says
//! how much that is, and pays nothing; each other pays the difference on its way, or is paid it back.
//! At any time the exact counter is the register minus the pending fuel, which is noted with every site.
//!
//! What leads back to a loop, taken or not, and entries of functions that can call, look at the sign of the register: so every
//! cycle does, but for a first turn of a short loop's two (`turns.rs`). A leaf without loops cannot run for long, nor can a loop that is entered once. The cold path calls
//! a stub that preserves every register, so that a loop's values stay where they are. To Cranelift that path is a trap, on x86-64: `cold.rs`.
//!
//! So what a guest overspends until a check finds it is what it can execute without one: a straight way through code, a leaf, or two turns of at most
//! two dozen operators. It is taken off what it gets next, or, if it gets nothing, given by the host.
//!
//! To Cranelift a computation with the pinned register is four instructions and three values, which every pass and the
//! allocator of registers look at: for as many payments as real modules have, a fifth of the time. So a payment is
//! a *place* instead on x86-64, two or three fences of three bytes each (`mfence`), which have no operands and move nowhere; `in_place.rs` puts the
//! subtraction there, once the machine code is known. The one thing that is lost is that Cranelift takes no value of an earlier
//! load for a later one across a payment: calls are as strict, and so is a loop with a check.
//!
//! Where a loop leads back, the check is the payment: to Cranelift it compares the counter with what is owed, and `in_place.rs`
//! makes the comparison a subtraction, whose flags are the same. What reads the counter keeps its order to other effects, as a fence does,
//! and a sequence point behind it keeps what was loaded before from being taken for what is there behind: the host may have run.
//!
//! A function of which a place or such a comparison was torn apart is compiled again with payments *computed*. That was seen for 18
//! functions of esbuild, where a constant of the program equals what is owed: there is one of them, made between the copy of the
//! counter and the comparison. Now the two change places, and no function of sqlite3 or esbuild is compiled again.
//!
//! Invariants
//! 1. Whichever way a place is reached, the same fuel is pending there.
//! 2. At a loop's header none is, nor at the check before a branch back to it. A short loop's second turn owes what the first one cost.

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, FuncRef, Function, InstBuilder, SourceLoc, Value, types};
use wasmparser::{FunctionBody, Operator};

use crate::costs::FuelCosts;
use crate::in_place;
use crate::regions;
use crate::sites::Metering;
use crate::translate::Translator;

/// Makes the cold blocks call the fuel stub.
///
/// Done when the function is complete and its references are in their places: every call that the builder sees
/// is a safepoint, and across one of a loop's header references would live in memory. This one never collects.
pub(crate) fn insert_calls(func: &mut Function, stub: FuncRef, blocks: &[(Block, SourceLoc)]) {
    for (block, site) in blocks {
        let mut cursor = FuncCursor::new(func)
            .at_first_insertion_point(*block)
            .with_srcloc(*site);
        cursor.ins().call(stub, &[]);
    }
}

/// What a call of a function costs by itself.
const FUNCTION_ENTRY: u32 = 1;

/// How payments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payments<'a> {
    /// Written into places that are kept for them, if they are not too large.
    InPlaces {
        /// How many fences there are to be in front of each loop: see `crates/compiler/src/tight.rs`.
        padding: &'a [u8],
    },
    /// Computed by CLIF.
    Computed,
}

impl Payments<'_> {
    /// The form that is tried first: places are filled on x86-64 only.
    pub(crate) const FIRST: Payments<'static> = match cfg!(target_arch = "x86_64") {
        true => Payments::InPlaces { padding: &[] },
        false => Payments::Computed,
    };
}

/// The state of metering in one function.
#[derive(Debug)]
pub(crate) struct Fuel<'a> {
    on: bool,
    payments: Payments<'a>,
    costs: &'a FuelCosts,
    pending: u32,
    /// How many loops there were so far.
    loops: u32,
}

impl<'a> Fuel<'a> {
    pub(crate) fn new(on: bool, costs: &'a FuelCosts, payments: Payments<'a>) -> Fuel<'a> {
        Fuel {
            on,
            payments,
            costs,
            pending: 0,
            loops: 0,
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// What is owed here.
    pub(crate) fn pending(&self) -> u32 {
        self.pending
    }

    /// An operator that is about to be executed.
    pub(crate) fn spend(&mut self, operator: &Operator<'_>) {
        if self.on {
            self.pending += self.costs.of(operator);
        }
    }

    /// The code from here on is reached from a place where this was pending.
    pub(crate) fn set_pending(&mut self, pending: u32) {
        self.pending = pending;
    }
}

/// Whether a function can call another. Malformed operators are left to validation.
fn can_call(body: &FunctionBody<'_>) -> bool {
    let Ok(mut operators) = body.get_operators_reader() else {
        return false;
    };
    while !operators.eof() {
        match operators.read() {
            Ok(
                Operator::Call { .. }
                | Operator::CallIndirect { .. }
                | Operator::CallRef { .. }
                | Operator::ReturnCall { .. }
                | Operator::ReturnCallIndirect { .. }
                | Operator::ReturnCallRef { .. },
            ) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

impl Translator<'_> {
    /// The entry of a function: its cost, and the check.
    pub(crate) fn fuel_entry(&mut self, body: &FunctionBody<'_>) {
        if self.fuel.on {
            self.fuel.pending = FUNCTION_ENTRY;
            self.mark_site();
            if can_call(body) {
                self.fuel_check();
            }
        }
    }

    /// Pays what is owed.
    pub(crate) fn fuel_flush(&mut self) {
        self.fuel_pay_to(0);
    }

    /// Pays so much that this is owed from here on; pays back if that is more than is owed now.
    pub(crate) fn fuel_pay_to(&mut self, owed: u32) {
        let amount = i64::from(self.fuel.pending) - i64::from(owed);
        if amount != 0 {
            match (i32::try_from(amount), self.fuel.payments) {
                (Ok(amount), Payments::InPlaces { .. }) => self.keep_place(amount),
                _ => self.compute_payment(amount),
            }
            self.fuel.pending = owed;
            self.mark_site();
        }
    }

    /// Keeps a place for a payment.
    fn keep_place(&mut self, amount: i32) {
        self.keep(Metering::Place(amount), in_place::fences(amount));
    }

    fn keep(&mut self, what: Metering, fences: usize) {
        self.mark_metering(what);
        for place in 0..fences {
            let fence = self.b.ins().fence();
            if place == 0 {
                self.sites.keep(fence);
            }
        }
    }

    /// In front of a loop: what moves it to where it lies well, if that is known. Its number.
    pub(crate) fn fuel_loop_padding(&mut self) -> u32 {
        let number = self.fuel.loops;
        self.fuel.loops += 1;
        if let Payments::InPlaces { padding } = self.fuel.payments
            && let Some(fences @ 1..) = padding.get(number as usize).copied()
        {
            self.keep(Metering::Space(fences), fences.into());
            self.mark_site();
        }
        number
    }

    /// Before a branch back to a loop: pays what is owed, and looks whether the slice is used up.
    pub(crate) fn fuel_before_branch_back(&mut self) {
        if !self.fuel.on {
            return;
        }
        match (self.fuel.payments, i32::try_from(self.fuel.pending)) {
            (Payments::InPlaces { .. }, Ok(amount)) => {
                self.fuel.pending = 0;
                self.check_in_place(amount);
            }
            _ => {
                self.fuel_flush();
                self.fuel_check();
            }
        }
    }

    /// Says that the branch that comes next may lead back to a loop, by its number.
    pub(crate) fn mark_branch_back(&mut self, number: u32) {
        self.mark_metering(Metering::Branch(number));
    }

    /// A payment in CLIF. A subtraction of a mostly positive constant: shorter than an addition of a negative one.
    fn compute_payment(&mut self, amount: i64) {
        self.mark_metering(Metering::Computed);
        let amount = self.b.ins().iconst(types::I64, amount);
        let fuel = self.b.ins().get_pinned_reg(types::I64);
        let left = self.b.ins().isub(fuel, amount);
        self.b.ins().set_pinned_reg(left);
    }

    /// Looks whether the slice is used up.
    fn fuel_check(&mut self) {
        match self.fuel.payments {
            Payments::InPlaces { .. } => self.check_in_place(0),
            Payments::Computed => self.compute_check(),
        }
    }

    /// Looks whether the slice is used up by a payment of so much. To Cranelift it does not pay, and traps if it is: see `cold.rs`.
    fn check_in_place(&mut self, amount: i32) {
        self.mark_metering(Metering::Check(amount));
        let (fuel, used_up) = self.is_less_than(amount);
        self.sites.keep(self.b.func.dfg.value_def(fuel).unwrap_inst());
        self.b.ins().trapnz(used_up, regions::FUEL_CHECK);
        // The host may run there: what was loaded before is not what is there behind. Takes no space.
        self.b.ins().sequence_point();
        self.mark_site();
    }

    /// The counter, and whether there is less than this.
    fn is_less_than(&mut self, amount: i32) -> (Value, Value) {
        let fuel = self.b.ins().get_pinned_reg(types::I64);
        let amount = i64::from(amount);
        let is_less = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, fuel, amount);
        (fuel, is_less)
    }

    /// A check in CLIF: asks for more fuel on a cold path.
    fn compute_check(&mut self) {
        self.mark_metering(Metering::Computed);
        let (_, used_up) = self.is_less_than(0);
        let next = self.branch_cold(used_up);
        self.mark_site();
        let cold = self.b.current_block().expect("the cold block is being filled");
        self.fuel_calls.push((cold, self.b.srcloc()));
        self.b.ins().jump(next, &[]);
        self.resume(next);
    }

    /// A site of its own for a payment or a check: its code is rewritten (see `in_place.rs`).
    fn mark_metering(&mut self, metering: Metering) {
        self.mark_site();
        self.sites.mark_metering(metering);
    }
}
