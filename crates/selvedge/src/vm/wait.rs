//! `memory.atomic.wait` and `notify`.
//!
//! A guest that was entered by `call_async` waits as it does for a host future: it is parked, and a [`Waiting`] in the store's arena
//! stands for what it waits for. Who notifies wakes its task; a wait with a time has one more who wakes it, the thread that keeps the
//! time ([`super::interrupt`]). A guest that was entered by `call` blocks its thread, no longer than the configuration allows
//! ([`Config::max_blocking_wait`](crate::Config::max_blocking_wait)) and not beyond an interrupt of its store.
//!
//! Nothing of this runs on the guest's stack, and no lock is held while a waker is cloned, woken or dropped.

use super::activation::{Activation, Pending, PendingVTable};
use super::arch::{DONE, EXIT, SUSPEND};
use super::builtins;
use super::instance::InstanceVm;
use super::interrupt::WakeUp;
use super::shared::{MemoryVm, SharedLinear};
use super::shim::Later;
use super::store::{Stop, StoreVm};
use super::vmctx::ValRaw;
use super::waiters::{WaitResult, Waiter};
use crate::error::Error;
use crate::room::refused;
use crate::trap::Trap;
use selvedge_compiler::Builtin;
use std::alloc::{Layout, handle_alloc_error};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How often a blocked thread looks whether it is interrupted, where somebody can do so.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How an operator ended.
enum End {
    /// With this result.
    Value(u32),
    /// The guest is parked.
    Parked,
}

/// Why it did not.
enum Failure {
    Trap(Trap),
    Stop(Stop),
}

impl From<Trap> for Failure {
    fn from(trap: Trap) -> Failure {
        Failure::Trap(trap)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Stop(Stop::Error(error))
    }
}

/// Runs one of the three operators, and answers with the word for the swap.
///
/// # Safety
/// As for [`builtins::dispatch`]; no reference into the store is held.
pub(crate) unsafe fn run(vmctx: *mut u8, slots: *mut ValRaw, builtin: Builtin, operands: [u64; 5]) -> u64 {
    let instance = InstanceVm::from_vmctx(vmctx);
    // SAFETY: the caller's promise; the instance lives as long as the store.
    let vm = unsafe { &*instance }.store();
    // SAFETY: the caller's promise.
    let end = catch_unwind(AssertUnwindSafe(|| unsafe {
        operate(vm, instance, slots, builtin, operands)
    }));
    let failure = match end {
        Ok(Ok(End::Value(value))) => {
            // SAFETY: the caller's promise: there is at least one slot.
            unsafe { slots.write(ValRaw::from_u32(value)) };
            return DONE;
        }
        Ok(Ok(End::Parked)) => return SUSPEND,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::Stop(Stop::Panic(payload)),
    };
    // SAFETY: the caller's promise; user code is over.
    let store = unsafe { &mut *vm };
    match failure {
        Failure::Trap(trap) => builtins::leave(store, trap),
        Failure::Stop(stop) => {
            store.stop = Some(stop);
            EXIT
        }
    }
}

/// # Safety
/// As for [`run`], of this store and instance.
unsafe fn operate(
    vm: *mut StoreVm,
    instance: *const InstanceVm,
    slots: *mut ValRaw,
    builtin: Builtin,
    [memory, index, offset, fourth, fifth]: [u64; 5],
) -> Result<End, Failure> {
    let size = if builtin == Builtin::MemoryAtomicWait64 {
        8
    } else {
        4
    };
    let place = {
        // SAFETY: the caller's promise; the reference ends with this block.
        let store = unsafe { &*vm };
        // SAFETY: as above.
        let instance = unsafe { &*instance };
        let held = &store.memories[instance.memories()[memory as usize] as usize];
        Place::find(held, index, offset, size)?
    };
    if builtin == Builtin::MemoryAtomicNotify {
        let Some(shared) = place.shared else {
            return Ok(End::Value(0)); // nobody can wait there
        };
        let woken = shared.waiters.notify(place.address, fourth as u32);
        let count = woken.count;
        woken.wake();
        return Ok(End::Value(count));
    }
    let shared = place.shared.ok_or(Trap::ExpectedSharedMemory)?;
    let wait = Wait {
        shared,
        address: place.address,
        size,
        expected: fourth,
        timeout: u64::try_from(fifth as i64).ok().map(Duration::from_nanos),
    };
    // SAFETY: the caller's promise; a plain word.
    let act = unsafe { (*vm).top };
    // SAFETY: the guest runs, so `top` is its activation.
    let is_async = unsafe { (*act).is_async };
    if is_async {
        // SAFETY: the caller's promise.
        unsafe { wait.park(vm, slots) }
    } else {
        // SAFETY: the caller's promise; nothing in it is user code.
        Ok(End::Value(wait.block(unsafe { &*vm })? as u32))
    }
}

/// A checked address.
struct Place {
    /// None if the memory is not shared.
    shared: Option<Arc<SharedLinear>>,
    address: u64,
}

impl Place {
    fn find(memory: &MemoryVm, index: u64, offset: u64, size: u64) -> Result<Place, Trap> {
        // The low bits of a sum do not depend on whether it overflows.
        if !index.wrapping_add(offset).is_multiple_of(size) {
            return Err(Trap::UnalignedAtomic);
        }
        let address = index.checked_add(offset).ok_or(Trap::MemoryOutOfBounds)?;
        let end = address.checked_add(size).ok_or(Trap::MemoryOutOfBounds)?;
        if end > memory.length_bytes() {
            return Err(Trap::MemoryOutOfBounds);
        }
        let shared = match memory {
            MemoryVm::Shared(shared) => Some(shared.clone()),
            MemoryVm::Own(_) => None,
        };
        Ok(Place { shared, address })
    }
}

/// What is asked for.
struct Wait {
    shared: Arc<SharedLinear>,
    address: u64,
    size: u64,
    expected: u64,
    timeout: Option<Duration>,
}

impl Wait {
    fn is_expected(&self) -> bool {
        match self.size {
            8 => self.shared.word64(self.address).load(Ordering::SeqCst) == self.expected,
            _ => self.shared.word32(self.address).load(Ordering::SeqCst) == self.expected as u32,
        }
    }

    /// Queues a new waiter, or says how the wait ends at once.
    ///
    /// # Errors
    /// No memory for its place.
    fn join(&self, waiter: &Arc<Waiter>) -> Result<Option<WaitResult>, Error> {
        if self.timeout == Some(Duration::ZERO) {
            return Ok(Some(match self.is_expected() {
                true => WaitResult::TimedOut,
                false => WaitResult::Mismatch,
            }));
        }
        let waiters = &self.shared.waiters;
        let joined = waiters.join(self.address, waiter, || self.is_expected())?;
        Ok((!joined).then_some(WaitResult::Mismatch))
    }

    /// Blocks this thread.
    fn block(&self, store: &StoreVm) -> Result<WaitResult, Failure> {
        let waiter = Arc::default();
        if let Some(end) = self.join(&waiter)? {
            return Ok(end);
        }
        let limit = store.engine.config().max_blocking_wait;
        let is_cut = limit.is_some_and(|limit| self.timeout.is_none_or(|timeout| limit < timeout));
        let time = if is_cut { limit } else { self.timeout };
        let until = time.and_then(|time| Instant::now().checked_add(time));
        let slice = store.interrupt.is_some().then_some(LOOK_EVERY);
        let give_up = || store.is_stopped().then_some(Trap::Interrupt);
        match self
            .shared
            .waiters
            .block(self.address, &waiter, until, slice, give_up)?
        {
            WaitResult::TimedOut if is_cut => Err(Trap::Interrupt.into()),
            end => Ok(end),
        }
    }

    /// Parks the guest.
    ///
    /// # Safety
    /// As for [`run`], in a guest that was entered by an async call.
    unsafe fn park(self, vm: *mut StoreVm, slots: *mut ValRaw) -> Result<End, Failure> {
        // SAFETY: the guest runs, so `top` is its activation; a plain word.
        let act: *mut Activation = unsafe { (*vm).top };
        // SAFETY: it has not ended; a plain word.
        let context = unsafe { (*act).poll_context };
        // SAFETY: set for the time of the poll that we are in.
        let waker = unsafe { context.as_ref() }
            .map_or_else(|| Waker::noop().clone(), |context| context.waker().clone());
        let waiter = Arc::<Waiter>::default();
        waiter.set_task(waker);
        if let Some(end) = self.join(&waiter)? {
            return Ok(End::Value(end as u32));
        }
        let until = self
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let mut waiting = Waiting {
            shared: self.shared,
            address: self.address,
            waiter,
            until,
            wake_up: None,
        };
        if let Some(at) = until {
            waiting.wake_up = Some(WakeUp::new(at, &waiting.waiter)?);
        }
        // SAFETY: the caller's promise; no user code runs while this lives.
        let store = unsafe { &mut *vm };
        let layout = Layout::new::<Waiting>();
        let Some((place, mark)) = store.arena.push(layout) else {
            return Err(refused(layout.size(), "a guest that waits").into());
        };
        // SAFETY: `push` made room for it here, aligned.
        unsafe { place.cast::<Waiting>().as_ptr().write(waiting) };
        let pending = Pending {
            future: place.as_ptr().cast(),
            vtable: &Waiting::VTABLE,
            slots,
            mark,
            roots: store.roots.mark(),
            grow: None,
        };
        // SAFETY: the activation has not ended.
        unsafe { (*act).pending = Some(pending) };
        Ok(End::Parked)
    }
}

/// The future of a parked wait: its number is the operator's result.
pub(crate) struct Waiting {
    shared: Arc<SharedLinear>,
    address: u64,
    waiter: Arc<Waiter>,
    until: Option<Instant>,
    wake_up: Option<WakeUp>,
}

impl Waiting {
    const VTABLE: PendingVTable = PendingVTable {
        forget: Waiting::forget,
        ..Later::<Waiting>::VTABLE
    };

    /// A call that was forgotten waits no more: no notify is spent on it.
    ///
    /// # Safety
    /// [`PendingVTable::forget`].
    unsafe fn forget(future: *mut u8) {
        // SAFETY: the caller's promise: a `Waiting` lies there, and nobody else refers to it.
        let waiting = unsafe { &mut *future.cast::<Waiting>() };
        waiting.give_up(); // the waker stays in the waiter, which is not dropped
    }

    fn give_up(&mut self) {
        self.wake_up = None;
        self.shared.waiters.leave(self.address, &self.waiter);
    }

    /// How it ended, if it did. One look at the clock: who is told that the time is over has left the queue, and no later notify
    /// counts it.
    fn end(&self) -> Option<WaitResult> {
        if self.waiter.is_woken() {
            return Some(WaitResult::Woken);
        }
        let is_over = self.until.is_some_and(|at| at <= Instant::now());
        // Who was notified while leaving was notified.
        is_over.then(|| match self.shared.waiters.leave(self.address, &self.waiter) {
            true => WaitResult::Woken,
            false => WaitResult::TimedOut,
        })
    }
}

impl Future for Waiting {
    type Output = std::result::Result<i32, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let end = self.end().or_else(|| {
            // Then look again: who notified in between took the task before.
            self.waiter.set_task(cx.waker().clone());
            self.end()
        });
        end.map_or(Poll::Pending, |end| Poll::Ready(Ok(end as i32)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl SharedLinear {
    /// The host's notify.
    pub(crate) fn notify(&self, address: u64, most: u32) -> Result<u32, Trap> {
        self.check(address, 4)?;
        let woken = self.waiters.notify(address, most);
        let count = woken.count;
        woken.wake();
        Ok(count)
    }

    /// The host's wait: blocks the thread. Ends the process where there is no memory for it: as many as the host blocks.
    pub(crate) fn wait(
        self: &Arc<Self>,
        address: u64,
        size: u64,
        expected: u64,
        timeout: Option<Duration>,
    ) -> Result<WaitResult, Trap> {
        self.check(address, size)?;
        let wait = Wait {
            shared: self.clone(),
            address,
            size,
            expected,
            timeout,
        };
        let waiter = Arc::default();
        match wait.join(&waiter) {
            Ok(None) => {}
            Ok(Some(end)) => return Ok(end),
            Err(_) => handle_alloc_error(Layout::new::<Waiter>()),
        }
        let until = timeout.and_then(|time| Instant::now().checked_add(time));
        self.waiters.block(address, &waiter, until, None, || None)
    }

    fn check(&self, address: u64, size: u64) -> Result<(), Trap> {
        if !address.is_multiple_of(size) {
            return Err(Trap::UnalignedAtomic);
        }
        match address.checked_add(size) {
            Some(end) if end <= self.length_bytes() => Ok(()),
            _ => Err(Trap::MemoryOutOfBounds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::linear::MemoryPool;
    use selvedge_compiler::{MemoryStyle, MemoryType};

    #[test]
    fn a_parked_wait_whose_time_is_over_is_not_counted_by_a_notify() {
        let shared = SharedLinear::new(
            &MemoryType::shared(1, 1),
            MemoryStyle::Reserved,
            &MemoryPool::new(0),
        )
        .unwrap();
        let shared = Arc::new(shared);
        for nanos in 0..20_000 {
            let waiter = Arc::<Waiter>::default();
            shared.waiters.join(8, &waiter, || true).unwrap();
            let mut waiting = Waiting {
                shared: shared.clone(),
                address: 8,
                waiter,
                until: Some(Instant::now() + Duration::from_nanos(nanos)),
                wake_up: None,
            };
            let mut context = Context::from_waker(Waker::noop());
            let end = loop {
                if let Poll::Ready(end) = Pin::new(&mut waiting).poll(&mut context) {
                    break end.unwrap();
                }
            };
            assert_eq!(end, WaitResult::TimedOut as i32);
            assert_eq!(shared.notify(8, 1), Ok(0), "after {nanos} ns");
        }
    }
}
