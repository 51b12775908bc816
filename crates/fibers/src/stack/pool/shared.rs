//! What the threads of a pool share, under its lock: the lists of free stacks, the extents, the bins.
//!
//! ```text
//!            take                  take_slow: 8                     trim
//!   user <---------- a thread's bin <---------- free, keep_resident ------> cold, a page each
//!        ---------->               ----------> (in transit) -->
//!            drop                  give_slow: 8, thread exit
//! ```
//!
//! Invariants
//! 1. A stack in `free` keeps at most `keep_resident_bytes`, one in `cold` its header's page: whatever leaves a bin
//!    is trimmed on its way, without the lock (`settle`).

use core::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::list::{Handful, List};
use super::magazine::{self, Bin, OwnBin};
use super::region::{self, Run, SlotHeader};
use super::{Guards, PoolConfig, PoolError, PoolStats, bin, resident};
use crate::stack::{PAGE_BYTES, whole_pages};

/// How many slots an extent is opened for, and how many guards are made at a time, at least.
const FIRST_SLOTS: usize = 16;

/// Colours: 37 of them, 64 bytes apart, so that the tops of stacks lie in different cache sets; the lowest leaves 1728
/// bytes of the page that the header is in, so that a parked fiber with small frames has one page.
///
/// Measured, ns a switch in a ring of fibers (64 / 1000 / 100 000 of them): without colours 6.7 / 7.4 / 66, 15 of 256
/// bytes 4.9 / 5.2 / 82, 10 of 256 bytes 4.9 / 5.5 / 89, 37 of 64 bytes 4.5 / 5.0 / 72. Resident bytes of a fiber that is
/// parked with 256 / 1024 / 2048 bytes in its frames: 15 of 256 bytes 4369 / 5187 / 6280, 37 of 64 bytes 4096 / 4096 / 5091.
const COLOURS: usize = 37;
const COLOUR_BYTES: usize = 64;

/// How long to wait for stacks on their way into the list: some calls into the kernel.
const TRANSIT_PAUSE: Duration = Duration::from_micros(20);

/// The largest stack, in bytes: a 64th of the smallest region.
const MAX_STACK_BYTES: usize = 256 << 20;

/// A configuration in whole pages.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    stride: usize,
    guard_bytes: usize,
    max_stacks: usize,
    keep_resident_bytes: usize,
    guards: Guards,
}

impl Shape {
    pub(super) fn new(config: &PoolConfig) -> Result<Shape, PoolError> {
        let stack_bytes = pages("stack_bytes", config.stack_bytes, 2 * PAGE_BYTES)?;
        let guard_bytes = pages("guard_bytes", config.guard_bytes, PAGE_BYTES)?;
        check("max_stacks", config.max_stacks, 1, usize::MAX / 2)?;
        Ok(Shape {
            stride: stack_bytes + guard_bytes,
            guard_bytes,
            max_stacks: config.max_stacks,
            keep_resident_bytes: config.keep_resident_bytes,
            guards: config.guards,
        })
    }
}

fn pages(field: &'static str, value: usize, min: usize) -> Result<usize, PoolError> {
    check(field, value, min, MAX_STACK_BYTES)?;
    Ok(whole_pages(value).expect("the maximum is far from overflow"))
}

fn check(field: &'static str, value: usize, min: usize, max: usize) -> Result<(), PoolError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(PoolError::Config {
            field,
            value,
            min,
            max,
        })
    }
}

/// A pool's control block.
pub(super) struct Shared {
    state: Mutex<State>,
}

struct State {
    shape: Shape,
    is_open: bool,
    /// Free stacks, hottest first.
    free: List,
    /// Free stacks that have nothing but their header's page.
    cold: List,
    /// Returned stacks that threads trim without the lock, on their way into a list.
    in_transit: usize,
    /// Stacks made: in a list, on their way there, in a bin, or taken.
    created: usize,
    runs: Vec<Run>,
    bins: Vec<NonNull<Bin>>,
}

// SAFETY: the pointers are to headers (mapped for ever) and to bins of threads, which unbind them before they
// vanish (invariant 3 of `magazine`); both hold atomics only.
unsafe impl Send for State {}

/// Control blocks of pools that are gone.
static SPARE: Mutex<Vec<&'static Shared>> = Mutex::new(Vec::new());

impl Shared {
    /// A control block for a new pool.
    pub(super) fn open(shape: Shape) -> &'static Shared {
        let state = State {
            shape,
            is_open: true,
            free: List::new(),
            cold: List::new(),
            in_transit: 0,
            created: 0,
            runs: Vec::new(),
            bins: Vec::new(),
        };
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(shared) = spare {
            *shared.lock() = state;
            return shared;
        }
        Box::leak(Box::new(Shared {
            state: Mutex::new(state),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a stack when this thread's bin has none, and fills the bin.
#[cold]
pub(super) fn take_slow(shared: &'static Shared) -> Result<NonNull<SlotHeader>, PoolError> {
    let bin = magazine::claim(shared);
    let mut robbed = Handful::new();
    let mut state = shared.lock();
    let slot = loop {
        match state.obtain(shared, &mut robbed) {
            // These were returned before, so the pool is not full. Their threads need the lock.
            Err(PoolError::Full { .. }) if state.in_transit > 0 => {
                drop(state);
                std::thread::sleep(TRANSIT_PAUSE);
                state = shared.lock();
            }
            result => break result?,
        }
    };
    if let Some(bin) = bin {
        state.bind(bin, shared);
        state.fill(bin.as_bin(), &mut robbed);
    }
    drop(settle(shared, state, &robbed));
    Ok(slot)
}

/// Returns a stack when this thread's bin does not take it, and makes room in the bin.
#[cold]
pub(super) fn give_slow(shared: &'static Shared, slot: NonNull<SlotHeader>) {
    let bin = magazine::claim(shared);
    let mut spilled = Handful::new();
    let mut state = shared.lock();
    match bin {
        Some(bin) if state.is_open => {
            state.bind(bin, shared);
            if !bin.as_bin().push(slot) {
                bin.as_bin().spill(|slot| spilled.push(slot));
                bin.as_bin().push(slot);
            }
        }
        _ => spilled.push(slot),
    }
    let state = settle(shared, state, &spilled);
    retire_if_over(shared, state);
}

/// When a thread gives up a bin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Unless its lease is in use.
    IfUnused,
    /// Whatever it has: the thread ends.
    ForEver,
}

/// Returns the stacks of a bin of this thread and unbinds it, if it is still bound to this pool.
pub(super) fn drain_bin(shared: &'static Shared, bin: &Bin, leaving: Leaving) {
    let mut drained = Handful::new();
    let each = |slot| take_back(slot, &mut drained);
    let mut state = shared.lock();
    if !bin.is_bound_to(shared) {
        return; // robbed meanwhile
    }
    let stays = match leaving {
        Leaving::IfUnused => bin.drain(shared, each),
        Leaving::ForEver => bin.drain_for_ever(each),
    };
    if !stays {
        state.bins.retain(|other| !ptr::eq(other.as_ptr(), bin));
    }
    let state = settle(shared, state, &drained);
    retire_if_over(shared, state);
}

/// Closes a pool: its last handle is gone.
pub(super) fn close(shared: &'static Shared) {
    let mut state = shared.lock();
    state.is_open = false;
    state.rob_all(shared);
    if state.len() < state.created {
        state = chill(shared, state); // the last stack may come late
    }
    retire_if_over(shared, state);
}

/// Gives the memory of all free stacks back, those in bins too, but for a page each.
pub(super) fn trim(shared: &'static Shared) {
    let mut state = shared.lock();
    state.rob_all(shared);
    drop(chill(shared, state));
}

pub(super) fn stats(shared: &Shared) -> PoolStats {
    let state = shared.lock();
    // SAFETY: bins in the list are alive while the lock is held (invariant 1 of `magazine`).
    let in_bins: usize = state.bins.iter().map(|bin| unsafe { bin.as_ref() }.idle()).sum();
    let parked = (state.len() + state.in_transit + in_bins).min(state.created);
    PoolStats {
        in_use: state.created - parked,
        parked,
        created: state.created,
        max_stacks: state.shape.max_stacks,
    }
}

/// The memory of all stacks, taken or not, in bytes.
pub(super) fn resident_bytes(shared: &Shared) -> usize {
    let ranges: Vec<_> = shared.lock().runs.iter().map(Run::cut_bytes).collect();
    // An open pool keeps its extents, so the lock is not needed.
    ranges
        .iter()
        .map(|&(start, bytes)| resident::resident_bytes(start, bytes))
        .sum()
}

/// Takes a stack out of a bin, be it one that was leased.
fn take_back(slot: NonNull<SlotHeader>, into: &mut Handful) {
    magazine::disown(&slot);
    into.push(slot);
}

/// Puts stacks into the list of free ones, coldest first, after having trimmed them without the lock.
fn settle<'a>(
    shared: &'static Shared,
    mut state: MutexGuard<'a, State>,
    stacks: &Handful,
) -> MutexGuard<'a, State> {
    if stacks.len() == 0 {
        return state;
    }
    let keep_bytes = if state.is_open {
        state.shape.keep_resident_bytes
    } else {
        0 // nobody will take them again
    };
    if keep_bytes < state.shape.stride {
        state.in_transit += stacks.len();
        drop(state); // the kernel may take its time
        resident::trim(stacks, keep_bytes);
        state = shared.lock();
        state.in_transit -= stacks.len();
    }
    stacks.iter().for_each(|slot| state.free.push(slot));
    state
}

/// Moves the stacks that are free now to the cold ones, a handful at a time and trimmed without the lock.
fn chill<'a>(shared: &'static Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let mut left = state.free.len();
    while left > 0 {
        let mut stacks = Handful::new();
        while !stacks.is_full()
            && let Some(slot) = state.free.pop()
        {
            stacks.push(slot);
        }
        if stacks.len() == 0 {
            break; // others have taken them
        }
        left = left.saturating_sub(stacks.len());
        state.in_transit += stacks.len();
        drop(state);
        resident::trim(&stacks, 0);
        state = shared.lock();
        state.in_transit -= stacks.len();
        stacks.iter().for_each(|slot| state.cold.push(slot));
    }
    state
}

/// Gives the extents of a closed pool back when its last stack is here, and the control block too.
///
/// That happens once: afterwards nobody has a handle, a stack or a bin of the pool.
fn retire_if_over(shared: &'static Shared, mut state: MutexGuard<'_, State>) {
    if state.is_open || state.len() < state.created {
        return;
    }
    let runs = core::mem::take(&mut state.runs);
    state.free = List::new();
    state.cold = List::new();
    state.created = 0;
    drop(state);
    for run in runs {
        // SAFETY: the pool was closed and all its stacks were in the lists, which are gone.
        unsafe { region::release(run) };
    }
    SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(shared);
}

impl State {
    /// How many stacks are in the lists.
    fn len(&self) -> usize {
        self.free.len() + self.cold.len()
    }

    /// A stack from a list, or a new one, or one of another thread's bin, with the rest of which `robbed` is filled.
    fn obtain(
        &mut self,
        shared: &'static Shared,
        robbed: &mut Handful,
    ) -> Result<NonNull<SlotHeader>, PoolError> {
        if let Some(slot) = self.get() {
            return Ok(slot);
        }
        let max_stacks = self.shape.max_stacks;
        if self.created < max_stacks {
            return self.cut(shared);
        }
        self.rob_one(shared, robbed);
        robbed.pop().ok_or(PoolError::Full {
            in_use: max_stacks,
            max_stacks,
        })
    }

    /// The hottest stack of the lists.
    fn get(&mut self) -> Option<NonNull<SlotHeader>> {
        self.free.pop().or_else(|| self.cold.pop())
    }

    /// Moves what was robbed to an empty bin, or some stacks of the lists, the hottest on top. Makes no new ones.
    fn fill(&mut self, bin: &Bin, robbed: &mut Handful) {
        let mut chosen = Handful::new(); // hottest first
        while let Some(slot) = robbed.pop() {
            chosen.push(slot);
        }
        while chosen.len() < magazine::CAPACITY / 2
            && let Some(slot) = self.get()
        {
            chosen.push(slot);
        }
        while let Some(slot) = chosen.pop() {
            if !bin.push(slot) {
                robbed.push(slot);
            }
        }
    }

    /// Makes sure that a bin of this thread is bound to this pool.
    fn bind(&mut self, bin: OwnBin, shared: &'static Shared) {
        if !bin.as_bin().is_bound_to(shared) {
            bin.as_bin().bind(shared);
            self.bins.push(bin.as_ptr());
        }
    }

    /// Empties one bin that has stacks, if there is one.
    fn rob_one(&mut self, shared: &'static Shared, robbed: &mut Handful) {
        // SAFETY: bins in the list are alive while the lock is held (invariant 1 of `magazine`).
        let has_stacks = |bin: &NonNull<Bin>| unsafe { bin.as_ref() }.idle() > 0;
        while robbed.len() == 0
            && let Some(at) = self.bins.iter().position(has_stacks)
        {
            // SAFETY: as above; it may vanish when it is unbound, after the last use.
            let victim = unsafe { self.bins[at].as_ref() };
            bin::mark_all(core::iter::once(victim));
            if !victim.rob(shared, |slot| take_back(slot, robbed)) {
                self.bins.remove(at);
            }
        }
        if robbed.len() == 0 {
            self.rob_first(shared, robbed);
        }
    }

    /// Empties the first bin that has stacks, while no thread takes one out of any: so there is none only if at one moment all were in use.
    /// A look at one bin after the other does not see a stack that comes back to the first while one is taken from the last.
    fn rob_first(&mut self, shared: &'static Shared, robbed: &mut Handful) {
        // SAFETY: as in `rob_one`.
        bin::mark_all(self.bins.iter().map(|bin| unsafe { bin.as_ref() }));
        self.bins.retain(|bin| {
            // SAFETY: as in `rob_one`.
            let bin = unsafe { bin.as_ref() };
            if robbed.len() > 0 {
                bin.spare(shared);
                return true;
            }
            bin.rob(shared, |slot| take_back(slot, robbed))
        });
    }

    /// Empties all bins, into the list of free stacks.
    fn rob_all(&mut self, shared: &'static Shared) {
        if self.bins.is_empty() {
            return; // no fence for nothing
        }
        // SAFETY: bins in the list are alive while the lock is held (invariant 1 of `magazine`).
        bin::mark_all(self.bins.iter().map(|bin| unsafe { bin.as_ref() }));
        self.bins.retain(|bin| {
            // SAFETY: as above; it may vanish when it is unbound, after the last use.
            let bin = unsafe { bin.as_ref() };
            bin.rob(shared, |slot| {
                magazine::disown(&slot);
                self.free.push(slot);
            })
        });
    }

    /// Makes a new stack.
    fn cut(&mut self, shared: &'static Shared) -> Result<NonNull<SlotHeader>, PoolError> {
        let shape = self.shape;
        let wanted = shape.max_stacks - self.created;
        if self.runs.last().is_none_or(|run| run.cut == run.slots) {
            // Twice as many as there are, so that the number of extents stays small.
            let wanted = wanted.min(self.created.max(FIRST_SLOTS));
            self.runs
                .push(region::acquire(shape.stride, shape.guard_bytes, wanted)?);
        }
        let run = self.runs.last_mut().expect("pushed above");
        let index = run.cut;
        if index == run.guarded {
            // A quarter more than there are: one that needs many needs the next soon.
            run.make_guards(wanted.min((self.created / 4).max(FIRST_SLOTS)), shape.guards)?;
        }
        run.cut += 1;
        self.created += 1;
        run.write_header(index, COLOUR_BYTES * (index % COLOURS), shared);
        Ok(run.header(index))
    }
}
