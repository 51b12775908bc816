//! Ends guests that run for ever where they should not: a fault is to be found, not to hang.

use selvedge::InterruptHandle;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// No case runs so long. What is ended looks like a trap that is never right.
const LIMIT: Duration = Duration::from_secs(60);

/// Since when a guest runs, and how it is ended.
type Watched = (u64, Instant, InterruptHandle);

static WATCHED: LazyLock<Mutex<(u64, Vec<Watched>)>> = LazyLock::new(|| {
    thread::spawn(|| {
        loop {
            thread::sleep(LIMIT / 10);
            let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
            let late = watched.1.iter().filter(|(_, since, _)| since.elapsed() > LIMIT);
            late.for_each(|(_, _, handle)| handle.interrupt());
        }
    });
    Mutex::default()
});

/// Ends its watch when dropped.
pub struct Watch(u64);

/// Interrupts by `handle` after a long time.
pub fn watch(handle: InterruptHandle) -> Watch {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched.0 += 1;
    let id = watched.0;
    watched.1.push((id, Instant::now(), handle));
    Watch(id)
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.1.retain(|(id, _, _)| *id != self.0);
    }
}
