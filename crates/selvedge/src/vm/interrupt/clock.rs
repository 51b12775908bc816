//! The thread that keeps the time: deadlines of calls, and signals that have to be sent again.
//!
//! One for the process, started when a store is first watched. It sleeps until the next job is due, and for ever while there is none.

use super::{InterruptState, NONE};
use crate::error::{Error, Result};
use crate::vm::waiters::Waiter;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a request that a signal did not answer waits for the next one.
const POKE_AGAIN: Duration = Duration::from_millis(1);

/// When a job is due, and a number that makes it unique.
type Key = (Instant, u64);

enum Job {
    /// Ends the activation with this index and what is nested in it.
    Deadline {
        state: Weak<InterruptState>,
        index: u32,
    },
    Poke {
        state: Weak<InterruptState>,
    },
    /// The time of a guest that waits on a shared memory is over.
    Wake {
        waiter: Weak<Waiter>,
    },
}

/// Who is to be told, once the lock is given back.
enum Due {
    Press(Arc<InterruptState>),
    Wake(Arc<Waiter>),
}

struct Jobs {
    due: BTreeMap<Key, Job>,
    next: u64,
}

struct Clock {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

static CLOCK: Clock = Clock {
    jobs: Mutex::new(Jobs {
        due: BTreeMap::new(),
        next: 0,
    }),
    changed: Condvar::new(),
};

impl Clock {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, at: Instant, job: Job) -> Key {
        let mut jobs = self.jobs();
        let key = (at, jobs.next);
        jobs.next += 1;
        let is_first = jobs.due.first_key_value().is_none_or(|(first, _)| key < *first);
        jobs.due.insert(key, job);
        if is_first {
            self.changed.notify_one();
        }
        key
    }

    fn run(&self) {
        let mut jobs = self.jobs();
        loop {
            let now = Instant::now();
            match jobs.due.first_key_value().map(|((at, _), _)| *at) {
                None => jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                Some(at) if at > now => {
                    let waited = self.changed.wait_timeout(jobs, at - now);
                    jobs = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(_) => {
                    let (_, job) = jobs.due.pop_first().expect("seen above");
                    let late = job.note();
                    drop(jobs); // wakers run, and new jobs are added, without the lock
                    if let Some(due) = late {
                        // A waker of the user's may panic; the others' deadlines do not depend on it.
                        let _ = catch_unwind(AssertUnwindSafe(|| match due {
                            Due::Press(state) => state.press(),
                            Due::Wake(waiter) => waiter.wake_task(),
                        }));
                    }
                    jobs = self.jobs();
                }
            }
        }
    }
}

impl Job {
    /// Writes the request, under the clock's lock, so that an [`Alarm`] that is gone leaves none behind. Who is to be pressed.
    fn note(self) -> Option<Due> {
        match self {
            Job::Wake { waiter } => waiter.upgrade().map(Due::Wake),
            Job::Poke { state } => state.upgrade().map(Due::Press),
            Job::Deadline { state, index } => {
                let state = state.upgrade()?;
                // `NONE` is the largest index.
                state.late.fetch_min(index, Ordering::SeqCst);
                Some(Due::Press(state))
            }
        }
    }
}

/// A time at which a waiter's task is woken, unless this is dropped before.
pub(crate) struct WakeUp {
    key: Key,
}

impl WakeUp {
    /// # Errors
    /// The thread that keeps the time cannot be started.
    pub(crate) fn new(at: Instant, waiter: &Arc<Waiter>) -> Result<WakeUp> {
        start()?;
        let waiter = Arc::downgrade(waiter);
        let key = CLOCK.add(at, Job::Wake { waiter });
        Ok(WakeUp { key })
    }
}

impl Drop for WakeUp {
    fn drop(&mut self) {
        CLOCK.jobs().due.remove(&self.key);
    }
}

/// Starts the thread, once a process.
///
/// # Errors
/// When the system refuses; the next call tries again.
pub(super) fn start() -> Result<()> {
    static STARTED: OnceLock<()> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if STARTED.get().is_some() {
        return Ok(());
    }
    let thread = std::thread::Builder::new().name("selvedge-clock".to_owned());
    thread
        .spawn(|| CLOCK.run())
        .map_err(|error| Error::new(error).context("cannot start the thread that watches deadlines"))?;
    let _ = STARTED.set(());
    Ok(())
}

/// Has the state pressed again in a while.
pub(super) fn poke_again(state: &Arc<InterruptState>) {
    let state = Arc::downgrade(state);
    CLOCK.add(Instant::now() + POKE_AGAIN, Job::Poke { state });
}

/// Takes back the deadlines of the activation with this index and of those nested in it.
pub(super) fn forget(ended: &Arc<InterruptState>, outermost: u32) {
    CLOCK.jobs().due.retain(|_, job| match job {
        Job::Deadline { state, index } => *index < outermost || state.as_ptr() != Arc::as_ptr(ended),
        Job::Poke { .. } | Job::Wake { .. } => true,
    });
}

/// A deadline that is being watched, until this is dropped.
pub(crate) struct Alarm {
    key: Key,
    state: Arc<InterruptState>,
    index: u32,
}

impl Alarm {
    pub(crate) fn new(state: Arc<InterruptState>, index: u32, at: Instant) -> Alarm {
        let job = Job::Deadline {
            state: Arc::downgrade(&state),
            index,
        };
        let key = CLOCK.add(at, job);
        Alarm { key, state, index }
    }

    /// Takes it back, and says whether it rang before.
    pub(crate) fn has_rung(self) -> bool {
        CLOCK.jobs().due.remove(&self.key).is_none()
    }
}

/// Its call has ended: a request that came too late to be answered is taken back.
impl Drop for Alarm {
    fn drop(&mut self) {
        let is_over = CLOCK.jobs().due.remove(&self.key).is_none();
        if is_over {
            let state = &self.state.late;
            let _ = state.compare_exchange(self.index, NONE, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}
