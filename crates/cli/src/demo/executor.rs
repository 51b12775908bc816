//! Timers of the host and an executor for one thread: a heap of deadlines and a list of who was woken.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Deadlines that futures wait for. Clones are the same timers.
#[derive(Clone, Default)]
pub(super) struct Timers {
    heap: Arc<Mutex<Heap>>,
}

#[derive(Default)]
struct Heap {
    /// Soonest first; the second number tells timers of the same deadline apart.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    wakers: std::collections::HashMap<u64, Waker>,
    next: u64,
}

impl Timers {
    fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A future that is ready when `time` has passed since its first poll.
    pub(super) fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let timers = self.clone();
        let mut deadline = None;
        std::future::poll_fn(move |cx| match deadline {
            None => {
                let at = Instant::now() + time;
                deadline = Some(at);
                timers.heap().add(at, cx.waker().clone());
                Poll::Pending
            }
            Some(at) if Instant::now() >= at => Poll::Ready(()),
            Some(_) => Poll::Pending,
        })
    }

    /// Sleeps until the soonest deadline and wakes everyone whose time has come. False when nobody waits.
    fn wake_due(&self) -> bool {
        let soonest = self.heap().deadlines.peek().map(|Reverse((at, _))| *at);
        let Some(soonest) = soonest else { return false };
        std::thread::sleep(soonest.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        while let Some(waker) = self.heap().take_due(now) {
            waker.wake();
        }
        true
    }
}

impl Heap {
    fn add(&mut self, at: Instant, waker: Waker) {
        self.deadlines.push(Reverse((at, self.next)));
        self.wakers.insert(self.next, waker);
        self.next += 1;
    }

    fn take_due(&mut self, now: Instant) -> Option<Waker> {
        let Reverse((at, id)) = *self.deadlines.peek()?;
        if at > now {
            return None;
        }
        self.deadlines.pop();
        self.wakers.remove(&id)
    }
}

/// Who is to be polled next.
#[derive(Default)]
struct Woken(Mutex<Vec<usize>>);

struct TaskWaker {
    task: usize,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.task);
    }
}

/// Runs all futures on this thread and answers their outputs in order. `all_polled` is called once, after the first poll of each.
///
/// # Panics
/// When a future is pending and neither woken nor waiting for a timer.
pub(super) fn run_all<F: Future + Unpin>(
    timers: &Timers,
    mut tasks: Vec<F>,
    all_polled: impl FnOnce(),
) -> Vec<F::Output> {
    let woken = Arc::new(Woken::default());
    let wakers: Vec<_> = (0..tasks.len())
        .map(|task| {
            let woken = woken.clone();
            Waker::from(Arc::new(TaskWaker { task, woken }))
        })
        .collect();
    let mut outputs: Vec<_> = tasks.iter().map(|_| None).collect();
    let mut left = tasks.len();
    let mut poll = |task: usize| {
        if outputs[task].is_some() {
            return;
        }
        let mut cx = Context::from_waker(&wakers[task]);
        if let Poll::Ready(output) = Pin::new(&mut tasks[task]).poll(&mut cx) {
            outputs[task] = Some(output);
            left -= 1;
        }
    };
    (0..wakers.len()).for_each(&mut poll);
    all_polled();
    loop {
        let ready = std::mem::take(&mut *woken.0.lock().unwrap_or_else(PoisonError::into_inner));
        if ready.is_empty() && !timers.wake_due() {
            break;
        }
        ready.into_iter().for_each(&mut poll);
    }
    assert_eq!(left, 0, "a guest waits for nobody");
    outputs
        .into_iter()
        .map(|output| output.expect("none is left"))
        .collect()
}
