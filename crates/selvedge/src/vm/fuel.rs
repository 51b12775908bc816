//! Fuel as the runtime sees it: slices for the guest, a reserve behind them, yields when a slice is used up.
//!
//! The guest counts its *slice* down in a register and comes here ([`refill`]) when a check finds it below zero. What it
//! overspent until then is taken off the next slice, so the sum of slice and reserve is exact at all times.
//!
//! With a policy of yielding every `n` units, slices are `n` units long and each refill is one yield: a guest whose last check
//! finds it at `c` units spent has yielded once for every multiple of `n` that is below `c`.

use super::activation::{Activation, Pending};
use super::arch::{DONE, EXIT_TRAP, SUSPEND};
use super::host::HostFunc;
use super::kept::Kept;
use super::store::{StoreVm, VMStoreContext};
use super::vmctx::{HostRecord, ValRaw};
use crate::trap::Trap;
use std::num::NonZeroU64;
use std::sync::Arc;

/// What happens when a guest has used up its fuel, or a slice of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FuelPolicy {
    /// The guest runs until its fuel is used up, and then traps with [`Trap::OutOfFuel`].
    ///
    /// It looks where a function is entered that calls others, and at the end of a loop's turn; of a loop of at most 24 operators and its branch back,
    /// without a call or a block in it, at the end of every second turn. So it traps, or yields, a little late, and at the same place each
    /// time, on every processor: what it does until then is what it can do without looking.
    #[default]
    Trap,
    /// As `Trap`, and each time another `every` units are spent the call's future wakes its task and returns
    /// `Pending` once, so that other tasks run. Only for async calls: a sync `call` from the store is refused.
    Yield {
        /// Units between two yields.
        every: NonZeroU64,
    },
}

/// Units of a slice of a store whose guest others may stop: it looks whether to stop when a slice is used up.
const WATCHED_SLICE: u64 = 1 << 16;

/// The part of a store's fuel that is not in the guest's register.
pub(crate) struct FuelState {
    /// Units beyond the slice.
    reserve: u64,
    policy: FuelPolicy,
    /// Units of the reserve that come before the next yield, under a policy that yields.
    before_yield: u64,
    /// Yields that the last refill owes beside the one it makes itself.
    owed: u64,
    /// Whether slices are short.
    watched: bool,
    /// Asked when there is no reserve left, before the guest traps.
    on_zero: Option<Kept<OnZero>>,
}

/// The function that is asked at zero.
struct OnZero {
    record: HostRecord,
    /// Where its answer goes: the units to go on with.
    answer: ValRaw,
    /// What the record points to.
    _func: Arc<HostFunc>,
}

impl FuelState {
    pub(crate) fn new() -> FuelState {
        FuelState {
            reserve: 0,
            policy: FuelPolicy::Trap,
            before_yield: 0,
            owed: 0,
            watched: false,
            on_zero: None,
        }
    }

    pub(crate) fn policy(&self) -> FuelPolicy {
        self.policy
    }

    /// Whether one more yield is due before the guest goes on; counts it as made.
    pub(crate) fn take_owed_yield(&mut self) -> bool {
        let due = self.owed > 0;
        self.owed -= u64::from(due);
        due
    }

    #[inline(always)]
    pub(crate) fn owes_yields(&self) -> bool {
        self.owed > 0
    }

    /// The call that owed yields is over.
    pub(crate) fn forget_owed_yields(&mut self) {
        self.owed = 0;
    }

    /// Takes the next slice out of the reserve, at most what it holds and what comes before the next yield.
    fn next_slice(&mut self) -> i64 {
        let mut units = self.reserve.min(i64::MAX as u64);
        if self.watched {
            units = units.min(WATCHED_SLICE);
        }
        if self.policy != FuelPolicy::Trap {
            units = units.min(self.before_yield);
            self.before_yield -= units;
        }
        self.reserve -= units;
        units as i64
    }

    /// The way to the next yield begins anew.
    fn begin_period(&mut self) {
        if let FuelPolicy::Yield { every } = self.policy {
            self.before_yield = every.get();
        }
    }
}

impl StoreVm {
    /// Units left: what the guest may still spend.
    pub(crate) fn fuel_left(&self) -> u64 {
        let left = i128::from(self.fuel.reserve) + i128::from(self.cx.fuel);
        u64::try_from(left.max(0)).unwrap_or(u64::MAX)
    }

    /// Sets the units left. The slice begins anew.
    pub(crate) fn refuel(&mut self, units: u64) {
        self.fuel.reserve = units;
        self.fuel.begin_period();
        self.cx.fuel = self.fuel.next_slice();
    }

    /// Sets what happens at zero. The slice begins anew.
    pub(crate) fn set_fuel_policy(&mut self, policy: FuelPolicy) {
        let left = self.fuel_left();
        self.fuel.policy = policy;
        self.refuel(left);
    }

    /// Sets whom to ask when all fuel is used up.
    pub(crate) fn set_on_fuel_zero(&mut self, func: HostFunc) {
        let func = Arc::new(func);
        self.fuel.on_zero = Some(Kept::new(OnZero {
            record: self.host_record(&func, std::ptr::null_mut()),
            answer: ValRaw::ZERO,
            _func: func,
        }));
    }

    /// Others may stop the guest from now on: what is beyond a short slice goes back to the reserve.
    pub(crate) fn shorten_slices(&mut self) {
        self.fuel.watched = true;
        let beyond = u64::try_from(self.cx.fuel).map_or(0, |units| units.saturating_sub(WATCHED_SLICE));
        self.cx.fuel -= beyond as i64;
        self.fuel.reserve += beyond;
        if self.fuel.policy != FuelPolicy::Trap {
            self.fuel.before_yield += beyond;
        }
    }

    /// Takes `units` for an operation of the host's, if that many are left; else what there is, and the guest traps.
    pub(crate) fn charge(&mut self, units: u64) -> Result<(), Trap> {
        if !self.engine.fuel() {
            return Ok(());
        }
        if units > self.fuel_left() {
            self.refuel(0);
            return Err(Trap::OutOfFuel);
        }
        // At most i64::MAX below a slice that is at least i64::MIN: the next check finds it.
        self.cx.fuel = self.cx.fuel.saturating_sub_unsigned(units);
        Ok(())
    }

    /// [`charge`](StoreVm::charge)s what moving `bytes` costs.
    pub(crate) fn charge_bytes(&mut self, bytes: u64) -> Result<(), Trap> {
        let bytes_per_unit = self.engine.config().fuel_costs.bytes_per_unit();
        self.charge(bytes / u64::from(bytes_per_unit.get()))
    }

    /// Fills the slice up from the reserve until it is not negative, and counts the yields that this owes. Whether it is
    /// filled: the reserve may be used up before.
    fn next_slices(&mut self, may_yield: bool) -> bool {
        while self.cx.fuel < 0 {
            if self.fuel.reserve == 0 {
                return false;
            }
            if self.fuel.policy != FuelPolicy::Trap && self.fuel.before_yield == 0 {
                self.fuel.begin_period();
                self.fuel.owed += u64::from(may_yield);
            }
            self.cx.fuel += self.fuel.next_slice();
        }
        true
    }

    /// What [`next_slices`](StoreVm::next_slices) comes to when a period of a policy that yields is over, the reserve has
    /// the next one, and that is enough: it is the slice, and this check makes the one yield that is due. Nobody may stop the guest.
    ///
    /// Whether it was so; otherwise nothing has changed.
    #[inline(always)]
    fn next_period(&mut self) -> bool {
        let FuelPolicy::Yield { every } = self.fuel.policy else {
            return false;
        };
        let units = every.get();
        let (slice, overflows) = self.cx.fuel.overflowing_add_unsigned(units);
        let is_so = self.cx.interrupt.is_null()
            && (self.fuel.before_yield | self.fuel.owed) == 0
            && units <= self.fuel.reserve
            && slice >= 0
            && !overflows;
        if is_so {
            self.fuel.reserve -= units;
            self.cx.fuel = slice;
        }
        is_so
    }

    /// Where the answer of the function that is asked at zero goes; null without one.
    fn answer_slot(&self) -> *mut ValRaw {
        let Some(on_zero) = &self.fuel.on_zero else {
            return std::ptr::null_mut();
        };
        // SAFETY: kept by the store; a place in it, no reference is made.
        unsafe { &raw mut (*on_zero.as_ptr()).answer }
    }

    /// Whether a host function that writes to `slots` is the one that is asked at zero: nothing is thrown at a fuel check.
    pub(crate) fn is_answer(&mut self, slots: *mut ValRaw) -> bool {
        !slots.is_null() && slots == self.answer_slot()
    }

    /// Whether a call waits at a fuel check for the function that is asked at zero, or to grow something: what lives across the one, and
    /// what would be written by the other, is in no stack map.
    pub(crate) fn waits_for_answer(&mut self) -> bool {
        let (mut act, answer) = (self.top, self.answer_slot());
        while !act.is_null() {
            // SAFETY: on the list of activations, hence not ended (activation invariant 2).
            let activation: &Activation = unsafe { &*act };
            let is_answer = |pending: Pending| !answer.is_null() && pending.slots == answer;
            let waits = |pending: Pending| is_answer(pending) || pending.grow.is_some();
            if activation.pending.is_some_and(waits) {
                return true;
            }
            act = activation.parent;
        }
        false
    }

    /// That function has answered: adds its units to the reserve.
    ///
    /// # Errors
    /// [`Trap::OutOfFuel`] when they do not bring the guest above zero.
    fn take_answer(&mut self, may_yield: bool) -> Result<(), Trap> {
        let on_zero = self.fuel.on_zero.as_mut();
        let units = on_zero.map_or(0, |on_zero| {
            std::mem::replace(&mut on_zero.answer, ValRaw::ZERO).u64()
        });
        self.fuel.reserve = self.fuel.reserve.saturating_add(units);
        if self.next_slices(may_yield) {
            Ok(())
        } else {
            Err(Trap::OutOfFuel)
        }
    }

    /// A parked host future is done that wrote to `slots`: if it was asked at zero, its answer counts from now on.
    ///
    /// # Errors
    /// As for [`take_answer`](StoreVm::take_answer).
    pub(crate) fn settle_answer(&mut self, slots: *mut ValRaw) -> Result<(), Trap> {
        if self.is_answer(slots) {
            self.take_answer(true)
        } else {
            Ok(())
        }
    }

    /// Notes a trap at a fuel check.
    fn stop_at_check(&mut self, trap: Trap, site: usize, frame: usize) -> u64 {
        self.set_trap(trap, site, frame);
        EXIT_TRAP
    }
}

/// Called by [`super::arch::fuel_check`] on the host's stack when a check found the slice below zero; `site` and `frame` say
/// where. Answers with the word for the trampoline.
///
/// # Safety
/// `store` is the store of the guest that just left its stack; no reference into it is held.
pub(crate) unsafe extern "C" fn refill(store: *mut VMStoreContext, site: usize, frame: usize) -> u64 {
    let vm = store.cast::<StoreVm>();
    // SAFETY: a store context is the first field of its `StoreVm`; the caller's promise.
    let store = unsafe { &mut *vm };
    let act = store.top;
    // SAFETY: the guest runs, so `top` is its activation (activation invariant 2).
    let is_async = unsafe { (*act).is_async };
    if is_async && store.next_period() {
        return SUSPEND;
    }
    // SAFETY: the caller's promise; the reference into the store is over.
    unsafe { refill_any(vm, is_async, site, frame) }
}

/// [`refill`], whatever the store's fuel is like.
///
/// # Safety
/// As for [`refill`].
#[inline(never)]
unsafe extern "C" fn refill_any(vm: *mut StoreVm, is_async: bool, site: usize, frame: usize) -> u64 {
    // SAFETY: the caller's promise.
    let store = unsafe { &mut *vm };
    if store.is_stopped() {
        return store.stop_at_check(Trap::Interrupt, site, frame);
    }
    if !store.next_slices(is_async) {
        let Some(on_zero) = &store.fuel.on_zero else {
            return store.stop_at_check(Trap::OutOfFuel, site, frame);
        };
        // SAFETY: kept by the store; a place in it, no reference is made.
        let record = unsafe { &raw mut (*on_zero.as_ptr()).record };
        let answer = store.answer_slot();
        // No stack map names what lives across a fuel check.
        store.heap.forbid_collections();
        // SAFETY: made by `set_on_fuel_zero`; the reference into the store is over. What it is called with is what the swap passes.
        let shim = unsafe { HostRecord::slot_shim(record) };
        // SAFETY: as above; it has no parameters and one result. User code may replace it while it runs: `Kept`.
        let word = unsafe { shim(record, answer) };
        // SAFETY: the caller's promise; user code is over.
        unsafe { &mut *vm }.heap.allow_collections();
        if word != DONE {
            return word; // parked, or the reason is in the store
        }
        // SAFETY: the caller's promise; user code is over.
        let store = unsafe { &mut *vm };
        if let Err(trap) = store.take_answer(is_async) {
            return store.stop_at_check(trap, site, frame);
        }
    }
    // SAFETY: as above.
    let store = unsafe { &mut *vm };
    if store.fuel.take_owed_yield() {
        SUSPEND
    } else {
        DONE
    }
}
