//! Who waits at which address of a shared memory: threads, and parked guests.
//!
//! A *waiter* is queued under its address while it waits. Queues are lists through the *nodes* of one vector a memory, by numbers, so that a waiter that
//! leaves takes itself out without going through the others, and room for one is made where that may fail. Who notifies takes the oldest ones out
//! of the queue, marks them woken, and wakes them: a thread by its condition variable, a parked guest by its task's waker. All of it happens under one
//! lock a memory, so a value that was found as expected under the lock cannot be changed and notified before the waiter is queued.
//!
//! Invariants
//! 1. A waiter is in the queue of its address exactly while it is neither woken nor gone; its `node` is that of its place, or [`NO_NODE`].
//! 2. Wakers are cloned, woken and dropped without the lock: they are the embedder's code.
//! 3. A node is in one list: that of an address, or that of those that are free, which have no waiter.

use crate::error::Result;
use crate::room::{self, refused};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
#[derive(Debug)]
pub(crate) struct Waiter {
    woken: AtomicBool,
    /// Its place, written and read under the lock.
    node: AtomicUsize,
    thread: Condvar,
    task: Mutex<Option<Waker>>,
    /// Who is to be woken after it.
    next: Mutex<Option<Arc<Waiter>>>,
}

impl Default for Waiter {
    fn default() -> Waiter {
        Waiter {
            woken: AtomicBool::new(false),
            node: AtomicUsize::new(NO_NODE),
            thread: Condvar::new(),
            task: Mutex::default(),
            next: Mutex::default(),
        }
    }
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

/// The number of no node.
const NO_NODE: usize = usize::MAX;

/// What errors call the list of nodes.
const WHAT: &str = "those who wait in a shared memory";

/// A place in a queue, or a free one.
#[derive(Debug)]
struct Node {
    waiter: Option<Arc<Waiter>>,
    before: usize,
    after: usize,
}

/// The oldest and the youngest node of an address.
#[derive(Clone, Copy, Debug)]
struct Queue {
    first: usize,
    last: usize,
}

/// The queues by address; none is empty.
#[derive(Debug)]
struct Queues {
    by_address: HashMap<u64, Queue>,
    nodes: Vec<Node>,
    /// The first free node.
    free: usize,
}

impl Default for Queues {
    fn default() -> Queues {
        Queues {
            by_address: HashMap::new(),
            nodes: Vec::new(),
            free: NO_NODE,
        }
    }
}

impl Queues {
    fn node(&mut self, number: usize) -> &mut Node {
        #[cfg(test)]
        tests::LOOKED_AT.set(tests::LOOKED_AT.get() + 1);
        &mut self.nodes[number]
    }

    /// A free node.
    ///
    /// # Errors
    /// No memory.
    fn take_free(&mut self) -> Result<usize> {
        if self.free == NO_NODE {
            let node = Node {
                waiter: None,
                before: NO_NODE,
                after: NO_NODE,
            };
            room::push(&mut self.nodes, node, WHAT)?;
            return Ok(self.nodes.len() - 1);
        }
        let number = self.free;
        self.free = self.node(number).after;
        Ok(number)
    }

    /// Queues a waiter behind the others of its address.
    ///
    /// # Errors
    /// No memory; it is not queued then.
    fn add(&mut self, address: u64, waiter: &Arc<Waiter>) -> Result<()> {
        let reserved = self.by_address.try_reserve(1);
        reserved.map_err(|_| refused((self.by_address.len() + 1) * size_of::<(u64, Queue)>(), WHAT))?;
        let number = self.take_free()?;
        let alone = Queue {
            first: number,
            last: number,
        };
        let queue = self.by_address.entry(address).or_insert(alone);
        let before = if queue.first == number {
            NO_NODE
        } else {
            queue.last
        };
        queue.last = number;
        if before != NO_NODE {
            self.node(before).after = number;
        }
        *self.node(number) = Node {
            waiter: Some(waiter.clone()),
            before,
            after: NO_NODE,
        };
        waiter.node.store(number, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a waiter out, if it is still in.
    fn remove(&mut self, address: u64, waiter: &Waiter) {
        let number = waiter.node.load(Ordering::Relaxed);
        if number != NO_NODE {
            self.take(address, number);
        }
    }

    /// Takes the oldest waiter of an address out.
    fn take_first(&mut self, address: u64) -> Option<Arc<Waiter>> {
        let first = self.by_address.get(&address)?.first;
        self.take(address, first)
    }

    /// Takes the waiter of a node out of its queue; the node is free.
    fn take(&mut self, address: u64, number: usize) -> Option<Arc<Waiter>> {
        let free = self.free;
        let node = self.node(number);
        let (before, after) = (node.before, node.after);
        let waiter = node.waiter.take();
        (node.before, node.after) = (NO_NODE, free);
        self.free = number;
        if before != NO_NODE {
            self.node(before).after = after;
        }
        if after != NO_NODE {
            self.node(after).before = before;
        }
        if (before, after) == (NO_NODE, NO_NODE) {
            self.by_address.remove(&address);
        } else if let Some(queue) = self.by_address.get_mut(&address) {
            if before == NO_NODE {
                queue.first = after;
            }
            if after == NO_NODE {
                queue.last = before;
            }
        }
        if let Some(waiter) = &waiter {
            waiter.node.store(NO_NODE, Ordering::Relaxed);
        }
        waiter
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

    /// Queues a waiter, if `is_expected` holds under the lock. Whether it did.
    ///
    /// # Errors
    /// No memory for its place.
    pub(crate) fn join(
        &self,
        address: u64,
        waiter: &Arc<Waiter>,
        is_expected: impl FnOnce() -> bool,
    ) -> Result<bool> {
        let mut queues = self.lock();
        let joins = is_expected();
        if joins {
            queues.add(address, waiter)?;
        }
        Ok(joins)
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
        while woken.count < most
            && let Some(waiter) = queues.take_first(address)
        {
            waiter.woken.store(true, Ordering::Release);
            waiter.thread.notify_one();
            woken.add(waiter);
        }
        woken
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock()
            .nodes
            .iter()
            .filter(|node| node.waiter.is_some())
            .count()
    }
}

/// Waiters that were marked woken, the oldest first: a list through themselves, since there must be room for as many as there are.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    pub(crate) count: u32,
    first: Option<Arc<Waiter>>,
    last: Option<Arc<Waiter>>,
}

impl Woken {
    fn add(&mut self, waiter: Arc<Waiter>) {
        self.count += 1;
        match self.last.replace(waiter.clone()) {
            Some(last) => *last.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(waiter),
            None => self.first = Some(waiter),
        }
    }

    fn take_first(&mut self) -> Option<Arc<Waiter>> {
        let waiter = self.first.take()?;
        self.first = waiter.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(waiter)
    }

    /// Wakes the tasks. Runs the embedder's code: when a waker panics, the others are woken before the first panic goes on.
    pub(crate) fn wake(mut self) {
        let mut first = None;
        while let Some(waiter) = self.take_first() {
            let woken = catch_unwind(AssertUnwindSafe(|| waiter.wake_task()));
            first = first.or(woken.err());
        }
        if let Some(payload) = first {
            resume_unwind(payload);
        }
    }
}

/// One by one: each would drop the next, as deep as the list is long.
impl Drop for Woken {
    fn drop(&mut self) {
        while self.take_first().is_some() {}
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
        /// How many nodes this thread has looked at.
        pub(super) static LOOKED_AT: Cell<u64> = const { Cell::new(0) };
    }

    fn never() -> Option<Infallible> {
        None
    }

    #[test]
    fn the_oldest_waiters_are_woken_first_and_only_those_of_the_address() {
        let waiters = Waiters::default();
        let [a, b, c, other] = std::array::from_fn(|_| Arc::new(Waiter::default()));
        for waiter in [&a, &b, &c] {
            assert!(waiters.join(8, waiter, || true).unwrap());
        }
        assert!(waiters.join(16, &other, || true).unwrap());
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
            assert!(waiters.join(8, waiter, || true).unwrap());
        }
        LOOKED_AT.set(0);
        // Forwards, backwards, and from the middle.
        for (index, waiter) in all.iter().enumerate().filter(|(index, _)| index % 3 == 0) {
            assert!(!waiters.leave(8, waiter), "{index}");
        }
        for waiter in all.iter().rev() {
            waiters.leave(8, waiter); // some have left before
        }
        assert_eq!(waiters.count(), 0);
        let each = LOOKED_AT.get() / COUNT;
        assert!(each <= 3, "{each} nodes for each");
    }

    /// Beside a model: queues of some addresses, which join, leave from anywhere, and are notified.
    #[test]
    fn random_queues_are_first_come_first_served() {
        let waiters = Waiters::default();
        let mut model: Vec<(u64, Arc<Waiter>)> = Vec::new();
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (address, choice) = ((random >> 40) % 4, (random >> 50) % 8);
            match choice {
                0..4 => {
                    let waiter = Arc::default();
                    assert!(waiters.join(address, &waiter, || true).unwrap());
                    model.push((address, waiter));
                }
                4..6 if !model.is_empty() => {
                    let (address, waiter) = model.remove((random >> 20) as usize % model.len());
                    assert!(!waiters.leave(address, &waiter));
                    assert!(!waiters.leave(address, &waiter), "once more does nothing");
                }
                _ => {
                    let oldest = model.iter().filter(|(of, _)| *of == address).take(3);
                    let oldest: Vec<_> = oldest.map(|(_, waiter)| waiter.clone()).collect();
                    assert_eq!(waiters.notify(address, 3).count as usize, oldest.len());
                    assert!(oldest.iter().all(|waiter| waiter.is_woken()));
                    model.retain(|(_, waiter)| !waiter.is_woken());
                }
            }
            assert_eq!(waiters.count(), model.len());
        }
    }

    #[test]
    fn one_that_never_joined_takes_nobody_with_it() {
        let waiters = Waiters::default();
        let queued = Arc::default();
        waiters.join(8, &queued, || true).unwrap();
        assert!(!waiters.leave(8, &Arc::default()));
        assert_eq!(waiters.count(), 1);
        assert_eq!(waiters.notify(8, 1).count, 1);
        assert!(waiters.leave(8, &queued), "it was woken, and leaves all the same");
    }

    #[test]
    fn who_does_not_find_what_it_expects_does_not_wait() {
        let waiters = Waiters::default();
        assert!(!waiters.join(0, &Arc::default(), || false).unwrap());
        assert_eq!(waiters.count(), 0);
    }

    #[test]
    fn a_wait_that_times_out_leaves_the_queue() {
        let waiters = Waiters::default();
        let waiter = Arc::default();
        waiters.join(0, &waiter, || true).unwrap();
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
            waiters.join(8, &waiter, || true).unwrap();
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
                waiters.join(4, &waiter, || true).unwrap();
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
        waiters.join(4, &waiter, || true).unwrap();
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
