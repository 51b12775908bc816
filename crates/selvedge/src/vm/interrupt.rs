//! Stopping a guest from another thread.
//!
//! A store that is *watched*, because somebody holds an [`InterruptHandle`] of it or has set a deadline, has an
//! [`InterruptState`] that both sides share. Who asks for a stop writes it there, and then makes the guest look:
//!
//! ```text
//!   the guest is about to be entered or resumed    `activation::run` looks
//!   it waits for a host future                     its task is woken, and the poll looks
//!   it runs, metered                               `fuel::refill` looks: slices of a watched store are short
//!   it runs, not metered                           a signal to its thread looks (`super::signals`): compiled code has no check
//!   a host function of it runs                     its return looks (`super::shim`): the guest does not go on
//!   an operation of the runtime runs               its return looks, and a long one looks between its pieces (`super::builtins`)
//! ```
//!
//! A signal may arrive while a host function runs, and then finds no guest to stop; so may one that comes between that function's look and the
//! guest. So it is sent again each millisecond ([`clock`]) until the request was answered.
//!
//! A guest may be stopped between any two instructions of its own code, because nothing of it is unwound or resumed: what
//! the runtime must keep whole is written by host code, which a signal leaves alone.
//!
//! A request names the *index* of an activation, 0 for the outermost: that one and those nested in it have to end.
//! It is answered when that activation has ended.
//!
//! Invariants
//! 1. `VMStoreContext::interrupt` is null, or the address of the state that the store shares, until the store is dropped.
//! 2. `thread` is the thread on which a guest of the store runs or called the host that runs, or 0; always 0 where guests are metered and
//!    need no signal. It is written before the request is read, and a request is written before `thread` is read, all in one
//!    order (`SeqCst`): one of the two sides sees the other.
//! 3. `waker` wakes the task of a call that waits for a host future, or is there for nothing. A call that yields has woken its task
//!    itself before it parked, so that it is polled, and looks, whether a request comes or not.

mod clock;

pub(crate) use clock::{Alarm, WakeUp};

use super::activation::Activation;
use super::signals;
use super::store::{StoreVm, VMStoreContext};
use crate::error::{Error, Result};
use std::cell::Cell;
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

/// No request: no activation has this index.
const NONE: u32 = u32::MAX;

/// What a watched store and those who may stop it share.
#[derive(Debug)]
pub struct InterruptState {
    /// A handle asks for the end of everything.
    all: AtomicBool,
    /// Index of the outermost activation whose deadline has passed, or [`NONE`].
    late: AtomicU32,
    /// Where the guest runs (invariant 2): a thread's number with the kernel.
    thread: AtomicI32,
    /// The task that polls a parked call.
    waker: Mutex<Option<Waker>>,
    /// Whether the guest looks by itself, being metered.
    metered: bool,
}

thread_local! {
    /// This thread's number with the kernel; 0 before it was asked for.
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

fn this_thread() -> i32 {
    if THREAD.get() == 0 {
        // SAFETY: takes nothing and cannot fail: gettid(2).
        THREAD.set(unsafe { libc::gettid() });
    }
    THREAD.get()
}

impl InterruptState {
    fn new(metered: bool) -> InterruptState {
        InterruptState {
            all: AtomicBool::new(false),
            late: AtomicU32::new(NONE),
            thread: AtomicI32::new(0),
            waker: Mutex::new(None),
            metered,
        }
    }

    /// The outermost activation that has to end, if any. Async-signal-safe.
    fn asked(&self) -> Option<u32> {
        if self.all.load(Ordering::SeqCst) {
            return Some(0);
        }
        Some(self.late.load(Ordering::SeqCst)).filter(|&late| late != NONE)
    }

    /// Whether the activation with this index has to end.
    pub(crate) fn stops(&self, index: u32) -> bool {
        self.asked().is_some_and(|outermost| index >= outermost)
    }

    /// Asks for the end of everything that runs or waits, or of the next call if nothing does.
    fn ask_all(self: &Arc<Self>) {
        self.all.store(true, Ordering::SeqCst);
        self.press();
    }

    /// Makes the guest look, now and until the request is answered. The waker comes last: it is user code, and may panic.
    fn press(self: &Arc<Self>) {
        if self.poke() {
            clock::poke_again(self);
        }
        let waker = self.take_waker();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the waker out of its lock: whatever is done to it may come back here.
    fn take_waker(&self) -> Option<Waker> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sends the signal, if one is needed. Whether it may have to be sent again.
    fn poke(&self) -> bool {
        if self.metered || self.asked().is_none() {
            return false;
        }
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            signals::poke(thread);
        }
        thread != 0
    }

    /// A call is parked: remembers whom to wake.
    pub(crate) fn remember(&self, waker: &Waker) {
        let slot = || self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if slot().as_ref().is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        // Cloned and dropped without the lock: both are user code.
        let waker = waker.clone();
        let known = slot().replace(waker);
        drop(known);
    }

    /// An activation has ended and `left` are left: requests that this answers are over.
    fn answered(&self, left: u32) {
        if left == 0 {
            self.all.store(false, Ordering::SeqCst);
        }
        let late = self.late.load(Ordering::SeqCst);
        if late != NONE && late >= left {
            // One that comes in between is of an activation further out, and stays.
            let _ = self
                .late
                .compare_exchange(late, NONE, Ordering::SeqCst, Ordering::SeqCst);
        }
        if left == 0 {
            self.nothing_runs();
            drop(self.take_waker());
        }
    }

    /// The outermost activation has parked, or has ended. Where it runs may have been written without a [`Running`]: when its host function
    /// had it watched.
    pub(crate) fn nothing_runs(&self) {
        if self.thread.load(Ordering::SeqCst) != 0 {
            self.thread.store(0, Ordering::SeqCst);
        }
    }

    /// A host function returns to its guest, on this thread. It may have had the store watched from another.
    fn runs_here(&self) {
        if !self.metered && self.thread.load(Ordering::SeqCst) != this_thread() {
            self.thread.store(this_thread(), Ordering::SeqCst);
        }
    }
}

/// The time a guest runs: says on which thread, if that matters.
pub(crate) struct Running<'a> {
    state: &'a InterruptState,
    outer: i32,
}

impl<'a> Running<'a> {
    #[inline]
    pub(crate) fn new(state: &'a InterruptState) -> Running<'a> {
        let outer = match state.metered {
            true => 0,
            false => state.thread.swap(this_thread(), Ordering::SeqCst),
        };
        Running { state, outer }
    }
}

impl Drop for Running<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.state.metered {
            self.state.thread.store(self.outer, Ordering::SeqCst);
        }
    }
}

/// How many activations lie below this one: its index.
///
/// # Safety
/// `act` and its parents have not ended.
pub(crate) unsafe fn index_of(act: *const Activation) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { count(act) - 1 }
}

/// How many activations there are, this one included.
///
/// # Safety
/// As for [`index_of`], but for null, which counts 0.
unsafe fn count(mut act: *const Activation) -> u32 {
    let mut count = 0;
    while !act.is_null() {
        count += 1;
        // SAFETY: the caller's promise.
        act = unsafe { (*act).parent };
    }
    count
}

/// Whether the guest of `store` that runs here and now has to stop. Async-signal-safe.
///
/// # Safety
/// `store` is that of the guest that this thread runs, interrupted in guest code or in a call of the host.
pub(crate) unsafe fn must_stop(store: *const VMStoreContext) -> bool {
    // SAFETY: the caller's promise; a plain word.
    let state = unsafe { (*store).interrupt };
    // SAFETY: invariant 1.
    let Some(state) = (unsafe { state.as_ref() }) else {
        return false;
    };
    // SAFETY: a store context is the first field of its `StoreVm`; a plain word.
    let top = unsafe { (*store.cast::<StoreVm>()).top };
    // SAFETY: the guest runs, so `top` is its activation.
    state.stops(unsafe { index_of(top) })
}

impl StoreVm {
    /// The state that those who may stop the guest share, made when first asked for. `runs` says that a host function asks, or
    /// what it called: its guest goes on on this thread.
    ///
    /// # Errors
    /// The signal's handler cannot be installed, or may not be; the thread that keeps the time cannot be started.
    pub(crate) fn watch(&mut self, runs: bool) -> Result<Arc<InterruptState>> {
        if let Some(state) = &self.interrupt {
            return Ok(state.clone());
        }
        let metered = self.engine.fuel();
        if !metered {
            if !self.engine.config().signal_handlers {
                return Err(Error::msg(
                    "without fuel a guest is stopped by a signal, but this engine leaves signals to its embedder: set Config::fuel(true)",
                ));
            }
            signals::install_poke()?;
        }
        clock::start()?;
        let state = Arc::new(InterruptState::new(metered));
        self.cx.interrupt = Arc::as_ptr(&state);
        self.is_plain = false;
        self.stack.forget_ready();
        self.interrupt = Some(state.clone());
        self.shorten_slices();
        if runs && !metered {
            state.thread.store(this_thread(), Ordering::SeqCst);
        }
        Ok(state)
    }

    /// Whether the guest, which is at a check or in a call of the host, has to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        // SAFETY: the guest is this thread's, and at a check of its own code or in a call.
        !self.cx.interrupt.is_null() && unsafe { must_stop(ptr::from_ref(self).cast()) }
    }

    /// A host function or an operation returns to the guest of a watched store: whether that has to stop instead.
    pub(crate) fn is_stopped_on_return(&self) -> bool {
        let Some(state) = &self.interrupt else {
            return false;
        };
        state.runs_here(); // before the request is read: invariant 2
        self.is_stopped()
    }

    /// The innermost activation was forgotten, and with it whoever would take its deadline back.
    pub(crate) fn forget_deadlines(&self) {
        if let Some(state) = &self.interrupt {
            // SAFETY: the activations on the list have not ended.
            clock::forget(state, unsafe { index_of(self.top) });
        }
    }

    /// An activation has ended.
    #[cold]
    pub(crate) fn answer_requests(&self) {
        if let Some(state) = &self.interrupt {
            // SAFETY: the activations on the list have not ended.
            state.answered(unsafe { count(self.top) });
        }
    }
}

/// Stops the guest of one store, from any thread. Cheap to clone; made by
/// [`Store::interrupt_handle`](crate::Store::interrupt_handle).
///
/// ```
/// # use selvedge::{Instance, Module, Store, Trap};
/// # let mut store = Store::<()>::default();
/// # let module = Module::new(store.engine(), r#"(module (func (export "spin") (loop (br 0))))"#)?;
/// # let instance = Instance::new(&mut store, &module, &[])?;
/// let handle = store.interrupt_handle()?;
/// let watchdog = std::thread::spawn(move || handle.interrupt()); // when it must end
/// let error = instance.call::<(), ()>(&mut store, "spin", ()).unwrap_err();
/// assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
/// # watchdog.join().unwrap();
/// # Ok::<(), selvedge::Error>(())
/// ```
#[derive(Clone)]
pub struct InterruptHandle {
    state: Arc<InterruptState>,
}

impl InterruptHandle {
    pub(crate) fn new(state: Arc<InterruptState>) -> InterruptHandle {
        InterruptHandle { state }
    }

    /// Ends the call that runs or waits in the store, with all that is nested in it, as
    /// [`Trap::Interrupt`](crate::Trap::Interrupt); or the next one, if there is none.
    ///
    /// Returns at once. A guest that runs stops within some milliseconds, one that waits when its task is polled, which this wakes.
    /// A host function that runs is not stopped: its guest is, when it comes back.
    pub fn interrupt(&self) {
        self.state.ask_all();
    }
}

impl fmt::Debug for InterruptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptHandle")
            .field("asked", &self.state.asked().is_some())
            .finish()
    }
}
