//! Fuel as the runtime sees it: slices for the guest, a reserve behind them, yields when a slice is used up.
//!
//! The guest counts its *slice* down in a register and comes here ([`refill`]) when a check finds it below zero. What it
//! overspent until then is taken off the next slice, so the sum of slice and reserve is exact at all times.
//!
//! With a policy of yielding every `n` units, slices are `n` units long and each refill is one yield: a guest whose last check
//! finds it at `c` units spent has yielded once for every multiple of `n` that is below `c`.

use super::arch::{DONE, EXIT_TRAP, SUSPEND};
use super::store::{StoreVm, VMStoreContext};
use crate::trap::Trap;
use std::num::NonZeroU64;

/// What happens when a guest has used up its fuel, or a slice of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FuelPolicy {
    /// The guest runs until its fuel is used up, and then traps with [`Trap::OutOfFuel`].
    #[default]
    Trap,
    /// As `Trap`, and each time another `every` units are spent the call's future wakes its task and returns
    /// `Pending` once, so that other tasks run. Only for async calls: a sync `call` from the store is refused.
    Yield {
        /// Units between two yields.
        every: NonZeroU64,
    },
}

/// The part of a store's fuel that is not in the guest's register.
pub(crate) struct FuelState {
    /// Units beyond the slice.
    reserve: u64,
    policy: FuelPolicy,
    /// Yields that the last refill owes beside the one it makes itself.
    owed: u64,
}

impl FuelState {
    pub(crate) fn new() -> FuelState {
        FuelState {
            reserve: 0,
            policy: FuelPolicy::Trap,
            owed: 0,
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

    /// The call that owed yields is over.
    pub(crate) fn forget_owed_yields(&mut self) {
        self.owed = 0;
    }

    /// Units of the next slice, at most what the reserve holds.
    fn next_slice(&mut self) -> i64 {
        let wanted = match self.policy {
            FuelPolicy::Trap => i64::MAX as u64,
            FuelPolicy::Yield { every } => every.get().min(i64::MAX as u64),
        };
        let units = wanted.min(self.reserve);
        self.reserve -= units;
        units as i64
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
        self.cx.fuel = self.fuel.next_slice();
    }

    /// Sets what happens at zero. The slice begins anew.
    pub(crate) fn set_fuel_policy(&mut self, policy: FuelPolicy) {
        let left = self.fuel_left();
        self.fuel.policy = policy;
        self.refuel(left);
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

    /// Fills the slice up from the reserve until it is not negative, and counts the yields that this owes.
    fn next_slices(&mut self, may_yield: bool) -> Result<(), Trap> {
        while self.cx.fuel < 0 {
            if self.fuel.reserve == 0 {
                return Err(Trap::OutOfFuel);
            }
            self.cx.fuel += self.fuel.next_slice();
            if may_yield && self.fuel.policy != FuelPolicy::Trap {
                self.fuel.owed += 1;
            }
        }
        Ok(())
    }
}

/// Called by [`super::arch::fuel_check`] on the host's stack when a check found the slice below zero; `site` and `frame` say
/// where. Answers with the word for the trampoline.
///
/// # Safety
/// `store` is the store of the guest that just left its stack; no reference into it is held.
pub(crate) unsafe extern "sysv64" fn refill(store: *mut VMStoreContext, site: usize, frame: usize) -> u64 {
    // SAFETY: a store context is the first field of its `StoreVm`; the caller's promise.
    let store = unsafe { &mut *store.cast::<StoreVm>() };
    // SAFETY: the guest runs, so `top` is its activation (activation invariant 2).
    let is_async = unsafe { (*store.top).is_async };
    if let Err(trap) = store.next_slices(is_async) {
        store.set_trap(trap, site, frame);
        return EXIT_TRAP;
    }
    if store.fuel.take_owed_yield() {
        SUSPEND
    } else {
        DONE
    }
}
