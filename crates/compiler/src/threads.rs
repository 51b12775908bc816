//! The threads that functions are compiled on: one pool a process, made when a module is first compiled in parallel.
//!
//! Rayon's own pool is not used: if its threads cannot be started, it panics, and again each time it is asked.

use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

static POOL: OnceLock<ThreadPool> = OnceLock::new();
/// Held while the pool is made.
static MAKING: Mutex<()> = Mutex::new(());

/// Threads to compile on.
pub(crate) enum Threads {
    /// Those of the pool that this thread is in.
    Own,
    /// Ours.
    Pool(&'static ThreadPool),
}

impl Threads {
    /// Those there are; none if the system has none to give. Then it is asked again next time.
    pub(crate) fn available() -> Option<Threads> {
        match rayon::current_thread_index() {
            Some(_) => Some(Threads::Own),
            None => pool().map(Threads::Pool),
        }
    }

    /// Runs `work`, whose parallel iterators then run on these threads.
    pub(crate) fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Threads::Own => work(),
            Threads::Pool(pool) => pool.install(work),
        }
    }
}

fn pool() -> Option<&'static ThreadPool> {
    if let Some(pool) = POOL.get() {
        return Some(pool);
    }
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if POOL.get().is_none() {
        let builder = ThreadPoolBuilder::new().thread_name(|number| format!("selvedge-compile-{number}"));
        let _ = POOL.set(builder.build().ok()?); // nobody else does
    }
    POOL.get()
}
