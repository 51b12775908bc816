//! Who waits at which address of a shared memory: threads, and parked guests.
//!
//! A *waiter* is queued under its address while it waits, by a *ticket*: tickets ascend, so that the queue is one of first come, first served, and
//! finds a waiter that leaves without going through the others. Who notifies takes the oldest ones out of the queue, marks them woken, and wakes them: a thread by its condition variable, a parked guest by its task's waker. All of it happens under one lock a memory,
//! so a value that was found as expected under the lock cannot be changed and notified before the waiter is queued.
//!
//! Invariants
//! 1. A waiter is in the queue of its address exactly while it is neither woken nor gone.
//! 2. Wakers are cloned, woken and dropped without the lock: they are the embedder's code.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// How a wait ended. The numbers are the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitResult {
    /// Somebody notified.
    Woken = 0,
    /// The memory did not hold what was expected.
    Mismatch = 1,
    /// The time was over.
    TimedOut = 2,
}

/// One that waits.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    woken: AtomicBool,
    /// Its ticket, written and read under the lock; 0 before it joined.
    ticket: AtomicU64,
    thread: Condvar,
    task: Mutex<Option<Waker>>,
}

impl Waiter {
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Sets the task to wake. The one before is dropped without the lock (invariant 2).
    pub(crate) fn set_task(&self, waker: Waker) {
        let before = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(waker);
        drop(before);
    }

    /// Wakes the task, if there is one. Runs the embedder's code.
    pub(crate) fn wake_task(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// The queues by address, each by ticket.
#[derive(Debug, Default)]
struct Queues {
    by_address: HashMap<u64, BTreeMap<Ticket, Arc<Waiter>>>,
    /// The last ticket given out.
    last: u64,
}

impl Queues {
    fn add(&mut self, address: u64, waiter: &Arc<Waiter>) {
        self.last += 1;
        waiter.ticket.store(self.last, Ordering::Relaxed);
        let queue = self.by_address.entry(address).or_default();
        queue.insert(Ticket(self.last), waiter.clone());
    }

    /// Takes a waiter out, if it is still in.
    fn remove(&mut self, address: u64, waiter: &Waiter) {
        if let Some(queue) = self.by_address.get_mut(&address) {
            queue.remove(&Ticket(waiter.ticket.load(Ordering::Relaxed)));
            if queue.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

/// A waiter's place in its queue.
#[derive(Debug, PartialEq, Eq)]
struct Ticket(u64);

impl Ord for Ticket {
    fn cmp(&self, other: &Ticket) -> std::cmp::Ordering {
        #[cfg(test)]
        tests::COMPARED.set(tests::COMPARED.get() + 1);
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Ticket {
    fn partial_cmp(&self, other: &Ticket) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The queues of one memory.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    queues: Mutex<Queues>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a waiter, if `is_expected` holds under the lock.
    pub(crate) fn join(
        &self,
        address: u64,
        waiter: &Arc<Waiter>,
        is_expected: impl FnOnce() -> bool,
    ) -> bool {
        let mut queues = self.lock();
        let joins = is_expected();
        if joins {
            queues.add(address, waiter);
        }
        joins
    }

    /// Takes a waiter out, unless it was woken. Whether it was.
    pub(crate) fn leave(&self, address: u64, waiter: &Arc<Waiter>) -> bool {
        self.lock().remove(address, waiter);
        waiter.is_woken()
    }

    /// Blocks this thread until the waiter, which has joined, is woken. Asks `give_up` every `slice`; when it says so, or the
    /// time is over, the waiter leaves.
    pub(crate) fn block<E>(
        &self,
        address: u64,
        waiter: &Arc<Waiter>,
        until: Option<Instant>,
        slice: Option<Duration>,
        give_up: impl Fn() -> Option<E>,
    ) -> Result<WaitResult, E> {
        let mut queues = self.lock();
        loop {
            if waiter.is_woken() {
                return Ok(WaitResult::Woken);
            }
            if let Some(error) = give_up() {
                queues.remove(address, waiter);
                return Err(error);
            }
            let left = until.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                queues.remove(address, waiter);
                return Ok(WaitResult::TimedOut);
            }
            let time = [left, slice].into_iter().flatten().min();
            queues = match time {
                None => waiter.thread.wait(queues).unwrap_or_else(PoisonError::into_inner),
                Some(time) => {
                    let waited = waiter.thread.wait_timeout(queues, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Marks the oldest `most` waiters of an address woken and wakes threads. The others are for the caller to
    /// wake, without any lock.
    pub(crate) fn notify(&self, address: u64, most: u32) -> Woken {
        let mut queues = self.lock();
        let mut woken = Woken::default();
        let Some(queue) = queues.by_address.get_mut(&address) else {
            return woken;
        };
        while woken.count < most
            && let Some((_, waiter)) = queue.pop_first()
        {
            waiter.woken.store(true, Ordering::Release);
            waiter.thread.notify_one();
            woken.count += 1;
            woken.waiters.push(waiter);
        }
        if queue.is_empty() {
            queues.by_address.remove(&address);
        }
        woken
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock().by_address.values().map(BTreeMap::len).sum()
    }
}

/// Waiters that were marked woken.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    pub(crate) count: u32,
    waiters: Vec<Arc<Waiter>>,
}

impl Woken {
    /// Wakes the tasks. Runs the embedder's code: when a waker panics, the others are woken before the first panic goes on.
    pub(crate) fn wake(self) {
        let mut first = None;
        for waiter in self.waiters {
            let woken = catch_unwind(AssertUnwindSafe(|| waiter.wake_task()));
            first = first.or(woken.err());
        }
        if let Some(payload) = first {
            resume_unwind(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    thread_local! {
        /// How often this thread compared tickets.
        pub(super) static COMPARED: Cell<u64> = const { Cell::new(0) };
    }

    fn never() -> Option<Infallible> {
        None
    }

    #[test]
    fn the_oldest_waiters_are_woken_first_and_only_those_of_the_address() {
        let waiters = Waiters::default();
        let [a, b, c, other] = std::array::from_fn(|_| Arc::new(Waiter::default()));
        for waiter in [&a, &b, &c] {
            assert!(waiters.join(8, waiter, || true));
        }
        assert!(waiters.join(16, &other, || true));
        assert_eq!(waiters.notify(8, 2).count, 2);
        assert!(a.is_woken() && b.is_woken() && !c.is_woken() && !other.is_woken());
        assert_eq!(waiters.notify(8, u32::MAX).count, 1);
        assert_eq!(waiters.notify(8, 1).count, 0);
        assert_eq!(waiters.count(), 1);
    }

    #[test]
    fn a_hundred_thousand_leave_without_looking_at_each_other() {
        const COUNT: u64 = 100_000;
        let waiters = Waiters::default();
        let all: Vec<_> = (0..COUNT).map(|_| Arc::<Waiter>::default()).collect();
        for waiter in &all {
            assert!(waiters.join(8, waiter, || true));
        }
        COMPARED.set(0);
        // Forwards, backwards, and from the middle.
        for (index, waiter) in all.iter().enumerate().filter(|(index, _)| index % 3 == 0) {
            assert!(!waiters.leave(8, waiter), "{index}");
        }
        for waiter in all.iter().rev() {
            waiters.leave(8, waiter); // some have left before
        }
        assert_eq!(waiters.count(), 0);
        let each = COMPARED.get() / COUNT;
        assert!(each < 200, "{each} comparisons for each");
    }

    #[test]
    fn one_that_never_joined_takes_nobody_with_it() {
        let waiters = Waiters::default();
        let queued = Arc::default();
        waiters.join(8, &queued, || true);
        assert!(!waiters.leave(8, &Arc::default()));
        assert_eq!(waiters.count(), 1);
        assert_eq!(waiters.notify(8, 1).count, 1);
        assert!(waiters.leave(8, &queued), "it was woken, and leaves all the same");
    }

    #[test]
    fn who_does_not_find_what_it_expects_does_not_wait() {
        let waiters = Waiters::default();
        assert!(!waiters.join(0, &Arc::default(), || false));
        assert_eq!(waiters.count(), 0);
    }

    #[test]
    fn a_wait_that_times_out_leaves_the_queue() {
        let waiters = Waiters::default();
        let waiter = Arc::default();
        waiters.join(0, &waiter, || true);
        let until = Instant::now() + Duration::from_millis(5);
        assert_eq!(
            waiters.block(0, &waiter, Some(until), None, never),
            Ok(WaitResult::TimedOut)
        );
        assert_eq!(waiters.count(), 0);
    }

    /// Counts how often it is woken, and panics the first time.
    #[derive(Default)]
    struct Startled(AtomicUsize);

    impl Wake for Startled {
        fn wake(self: Arc<Self>) {
            assert_ne!(self.0.fetch_add(1, Ordering::SeqCst), 0, "startled");
        }
    }

    #[test]
    fn a_waker_that_panics_leaves_nobody_asleep() {
        let waiters = Waiters::default();
        let startled = Arc::new(Startled::default());
        for _ in 0..3 {
            let waiter = Arc::<Waiter>::default();
            waiter.set_task(startled.clone().into());
            waiters.join(8, &waiter, || true);
        }
        let woken = waiters.notify(8, u32::MAX);
        assert!(catch_unwind(AssertUnwindSafe(|| woken.wake())).is_err());
        assert_eq!(startled.0.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_blocked_thread_is_woken() {
        let waiters = Waiters::default();
        std::thread::scope(|scope| {
            let blocked = scope.spawn(|| {
                let waiter = Arc::default();
                waiters.join(4, &waiter, || true);
                waiters.block(4, &waiter, None, None, never)
            });
            while waiters.notify(4, 1).count == 0 {
                std::thread::yield_now();
            }
            assert_eq!(blocked.join().unwrap(), Ok(WaitResult::Woken));
        });
    }

    #[test]
    fn a_blocked_thread_can_be_made_to_give_up() {
        let waiters = Waiters::default();
        let waiter = Arc::default();
        waiters.join(4, &waiter, || true);
        let slice = Some(Duration::from_millis(1));
        let asked = std::cell::Cell::new(0);
        let give_up = || {
            asked.set(asked.get() + 1);
            (asked.get() == 3).then_some("enough")
        };
        assert_eq!(waiters.block(4, &waiter, None, slice, give_up), Err("enough"));
        assert_eq!(waiters.count(), 0);
    }
}
