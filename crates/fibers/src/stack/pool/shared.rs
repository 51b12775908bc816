//! What the threads of a pool share, under its lock: the list of free stacks, the extents, the bins.

use core::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::magazine::{self, BATCH, Bin};
use super::region::{self, HEADER_BYTES, Run, SlotHeader};
use super::{Guards, PoolConfig, PoolError, PoolStats, guard};
use crate::stack::{PAGE_BYTES, whole_pages};

/// How many guards are made ahead of need, as one needs the next soon.
const GUARDS_AHEAD: usize = 16;

/// Colours: 15 of them, 256 bytes apart, so that they differ from each other in every cache set's address bits.
const COLOURS: usize = 15;
const COLOUR_BYTES: usize = 256;

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
    /// The list of free stacks, hottest first, linked through their headers.
    free: *mut SlotHeader,
    free_len: usize,
    /// Returned stacks that threads trim without the lock, on their way into the list.
    in_transit: usize,
    /// Stacks made: in the list, on their way there, in a bin, or taken.
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
            free: ptr::null_mut(),
            free_len: 0,
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
    let mut state = shared.lock();
    let slot = loop {
        match state.obtain(shared) {
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
        state.fill(bin.as_bin());
    }
    Ok(slot)
}

/// Returns a stack when this thread's bin does not take it, and makes room in the bin.
#[cold]
pub(super) fn give_slow(shared: &'static Shared, slot: NonNull<SlotHeader>) {
    let bin = magazine::claim(shared);
    let mut spilled = None;
    let mut state = shared.lock();
    match bin {
        Some(bin) if state.is_open => {
            state.bind(bin, shared);
            if !bin.as_bin().push_own(slot) {
                spilled = Some(bin.as_bin().take_coldest());
                bin.as_bin().push_own(slot);
            }
        }
        _ => state.put(slot),
    }
    let keep = state.shape.keep_resident_bytes;
    if let Some(batch) = spilled {
        state.in_transit += BATCH;
        drop(state); // the kernel may take its time
        batch.iter().for_each(|slot| trim(*slot, keep));
        state = shared.lock();
        state.in_transit -= BATCH;
        batch.iter().for_each(|slot| state.put(*slot));
    }
    retire_if_over(shared, state);
}

/// Returns the stacks of a bin of this thread and unbinds it, if it is still bound to this pool.
pub(super) fn drain_bin(shared: &'static Shared, bin: &Bin) {
    let mut state = shared.lock();
    if !bin.is_bound_to(shared) {
        return; // robbed meanwhile
    }
    state.bins.retain(|other| !ptr::eq(other.as_ptr(), bin));
    bin.drain(&mut |slot| state.put(slot));
    retire_if_over(shared, state);
}

/// Closes a pool: its last handle is gone.
pub(super) fn close(shared: &'static Shared) {
    let mut state = shared.lock();
    state.is_open = false;
    state.rob(|_| true);
    retire_if_over(shared, state);
}

pub(super) fn stats(shared: &Shared) -> PoolStats {
    let state = shared.lock();
    // SAFETY: bins in the list are alive while the lock is held (invariant 3 of `magazine`).
    let in_bins: usize = state.bins.iter().map(|bin| unsafe { bin.as_ref() }.len()).sum();
    PoolStats {
        in_use: state
            .created
            .saturating_sub(state.free_len + state.in_transit + in_bins),
        created: state.created,
        max_stacks: state.shape.max_stacks,
    }
}

/// Gives the extents of a closed pool back when its last stack is here, and the control block too.
///
/// That happens once: afterwards nobody has a handle, a stack or a bin of the pool.
fn retire_if_over(shared: &'static Shared, mut state: MutexGuard<'_, State>) {
    if state.is_open || state.free_len < state.created {
        return;
    }
    let runs = core::mem::take(&mut state.runs);
    state.free = ptr::null_mut();
    state.free_len = 0;
    state.created = 0;
    drop(state);
    for run in runs {
        // SAFETY: the pool was closed and all its stacks were in the list, which is gone.
        unsafe { region::release(run) };
    }
    SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(shared);
}

/// Gives what lies deeper than `keep` bytes back to the kernel.
fn trim(slot: NonNull<SlotHeader>, keep: usize) {
    // SAFETY: headers are always valid (invariant 1 of the pool).
    let header = unsafe { slot.as_ref() };
    let top = slot.as_ptr() as usize + HEADER_BYTES;
    let keep = keep
        .max(PAGE_BYTES)
        .div_ceil(PAGE_BYTES)
        .saturating_mul(PAGE_BYTES);
    let end = top.saturating_sub(keep);
    if end > header.guard_end() {
        let start = header.guard_end();
        // SAFETY: the stack is free and this thread has it (invariant 2 of the pool); its header's page is kept.
        unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_DONTNEED) };
    }
}

impl State {
    /// A stack from the list, or a new one, or one of another thread's bin.
    fn obtain(&mut self, shared: &'static Shared) -> Result<NonNull<SlotHeader>, PoolError> {
        if let Some(slot) = self.get() {
            return Ok(slot);
        }
        let max_stacks = self.shape.max_stacks;
        if self.created < max_stacks {
            return self.cut(shared);
        }
        self.rob(|bin| bin.len() > 0);
        self.get().ok_or(PoolError::Full {
            in_use: max_stacks,
            max_stacks,
        })
    }

    /// Moves some stacks of the list to a bin, the hottest on top. Makes no new ones.
    fn fill(&mut self, bin: &Bin) {
        let mut batch = [None; BATCH];
        batch.fill_with(|| self.get());
        for slot in batch.into_iter().rev().flatten() {
            if !bin.push_own(slot) {
                self.put(slot);
            }
        }
    }

    /// Makes sure that a bin of this thread is bound to this pool.
    fn bind(&mut self, bin: magazine::OwnBin, shared: &'static Shared) {
        if !bin.as_bin().is_bound_to(shared) {
            bin.as_bin().bind(shared);
            self.bins.push(bin.as_ptr());
        }
    }

    /// Empties and unbinds the bins that `choose` picks.
    fn rob(&mut self, choose: impl Fn(&Bin) -> bool) {
        for bin in core::mem::take(&mut self.bins) {
            // SAFETY: bins in the list are alive while the lock is held (invariant 3 of `magazine`).
            let robbed = unsafe { bin.as_ref() };
            if choose(robbed) {
                robbed.rob(|slot| self.put(slot));
            } else {
                self.bins.push(bin);
            }
        }
    }

    /// The hottest stack of the list.
    fn get(&mut self) -> Option<NonNull<SlotHeader>> {
        let slot = NonNull::new(self.free)?;
        // SAFETY: headers are always valid (invariant 1 of the pool).
        self.free = unsafe { slot.as_ref() }.next();
        self.free_len -= 1;
        Some(slot)
    }

    fn put(&mut self, slot: NonNull<SlotHeader>) {
        // SAFETY: headers are always valid (invariant 1 of the pool).
        unsafe { slot.as_ref() }.set_next(self.free);
        self.free = slot.as_ptr();
        self.free_len += 1;
    }

    /// Makes a new stack.
    fn cut(&mut self, shared: &'static Shared) -> Result<NonNull<SlotHeader>, PoolError> {
        let shape = self.shape;
        let wanted = shape.max_stacks - self.created;
        if self.runs.last().is_none_or(|run| run.cut == run.slots) {
            // Twice as many as there are, so that the number of extents stays small.
            let wanted = wanted.min(self.created.max(GUARDS_AHEAD));
            self.runs
                .push(region::acquire(shape.stride, shape.guard_bytes, wanted)?);
        }
        let run = self.runs.last_mut().expect("pushed above");
        let index = run.cut;
        if index == run.guarded {
            let end = run.slots.min(index + wanted.min(GUARDS_AHEAD));
            for next in index..end {
                // SAFETY: the guard of a slot that was not cut yet lies in its extent and holds nothing.
                let made = unsafe { guard::install(run.slot(next), run.guard_bytes, shape.guards, next) };
                match made {
                    Ok(()) => run.guarded += 1,
                    Err(_) if next > index => break, // enough for this one
                    Err(error) => return Err(error),
                }
            }
        }
        run.cut += 1;
        self.created += 1;
        run.write_header(index, COLOUR_BYTES * (index % COLOURS), shared);
        Ok(run.header(index))
    }
}
