//! The C library's functions, defined by this binary for all that is linked into it, each of which can be made to fail; the library's
//! own calls inside it are not ours to fail. [`Plan`] says which call fails, of those that armed threads make.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// A function of the system's that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Call {
    Map,
    /// Over an older mapping: where code was.
    MapOver,
    Unmap,
    Protect,
    Advise,
    /// `process_madvise`: advice about several ranges.
    AdviseList,
    Remap,
    Action,
    AlternateStack,
    Thread,
    /// `pthread_getattr_np`: where a thread's stack is.
    StackBounds,
    /// `membarrier`, but for the expedited one: for that who is registered is not refused.
    Barrier,
    Pipe,
    /// `memfd_create`.
    File,
    FileLength,
    FileWrite,
    /// `fallocate`: what was in a file goes.
    FilePunch,
    /// `getrlimit`.
    Limit,
}

pub const CALLS: [Call; 18] = [
    Call::Map,
    Call::MapOver,
    Call::Unmap,
    Call::Protect,
    Call::Advise,
    Call::AdviseList,
    Call::Remap,
    Call::Action,
    Call::AlternateStack,
    Call::Thread,
    Call::StackBounds,
    Call::Barrier,
    Call::Pipe,
    Call::File,
    Call::FileLength,
    Call::FileWrite,
    Call::FilePunch,
    Call::Limit,
];

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// One.
    Once,
    /// One and the next.
    Twice,
    /// One and all later ones of its kind.
    Always,
}

pub const PLANS: [Plan; 3] = [Plan::Once, Plan::Twice, Plan::Always];

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
}
/// How many calls until the one that fails; 0 when it was.
static LEFT: AtomicU32 = AtomicU32::new(0);
/// How many fail after it, whatever they are.
static MORE: AtomicU32 = AtomicU32::new(0);
/// The kinds of which all fail after it, a bit each.
static KINDS: AtomicU64 = AtomicU64::new(0);
static IS_ALWAYS: AtomicU32 = AtomicU32::new(0);
/// The kind of the first that failed, counted from 1.
static FAILED: AtomicUsize = AtomicUsize::new(0);
/// The return addresses where calls failed, innermost first, of each failure.
static TRACES: Mutex<Vec<Vec<usize>>> = Mutex::new(Vec::new());

/// This thread's calls count from now on, also those that it makes when it ends.
pub fn arm_thread() {
    ARMED.set(true);
}

/// Runs `body` while the `n`-th call and those that `plan` says fail: which the first was, if there were as many.
pub fn with_failure<R>(n: u32, plan: Plan, body: impl FnOnce() -> R) -> (Option<Call>, R) {
    FAILED.store(0, Ordering::SeqCst);
    KINDS.store(0, Ordering::SeqCst);
    MORE.store(u32::from(plan == Plan::Twice), Ordering::SeqCst);
    IS_ALWAYS.store(u32::from(plan == Plan::Always), Ordering::SeqCst);
    LEFT.store(n, Ordering::SeqCst);
    ARMED.set(true);
    let result = body();
    ARMED.set(false);
    LEFT.store(0, Ordering::SeqCst);
    let failed = FAILED.swap(0, Ordering::SeqCst); // threads that are armed later make calls that do not fail
    (failed.checked_sub(1).map(|index| CALLS[index]), result)
}

/// Where calls failed since this was asked.
pub fn take_traces() -> Vec<Vec<usize>> {
    std::mem::take(&mut TRACES.lock().expect("nobody panics with it"))
}

/// Whether this call fails.
fn fails(call: Call) -> bool {
    if !ARMED.get() {
        return false;
    }
    let bit = 1 << call as u8;
    let fails = match LEFT.load(Ordering::SeqCst) {
        0 if FAILED.load(Ordering::SeqCst) == 0 => false,
        0 if KINDS.load(Ordering::SeqCst) & bit != 0 => true,
        0 => {
            let more = MORE.load(Ordering::SeqCst);
            MORE.store(more.saturating_sub(1), Ordering::SeqCst);
            more > 0
        }
        left => {
            LEFT.store(left - 1, Ordering::SeqCst);
            if left == 1 {
                FAILED.store(call as usize + 1, Ordering::SeqCst);
                KINDS.store(
                    bit * u64::from(IS_ALWAYS.load(Ordering::SeqCst)),
                    Ordering::SeqCst,
                );
            }
            left == 1
        }
    };
    if fails {
        note_trace();
    }
    fails
}

fn note_trace() {
    ARMED.set(false); // the walk may map something itself
    let mut trace = Vec::new();
    backtrace::trace(|frame| {
        trace.push(frame.ip().addr());
        trace.len() < 24
    });
    TRACES.lock().expect("nobody panics with it").push(trace);
    ARMED.set(true);
}

fn set_errno(error: c_int) {
    // SAFETY: no preconditions; gives this thread's own.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: valid as long as the thread.
    unsafe { *place = error };
}

/// The C library's own function, which this binary's hides.
fn hidden(name: &CStr) -> *mut c_void {
    // SAFETY: a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?}");
    found
}

/// Defines a function of the C library's that fails with `$error` and `$result`, and else is the library's own.
macro_rules! interpose {
    ($name:ident($($argument:ident: $type:ty),*) -> $result_type:ty, $call:expr, $result:expr, $error:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result_type {
            static HIDDEN: AtomicUsize = AtomicUsize::new(0);
            if fails($call) {
                set_errno($error);
                return $result;
            }
            if HIDDEN.load(Ordering::Relaxed) == 0 {
                let name = CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes());
                HIDDEN.store(hidden(name.expect("a name")).expose_provenance(), Ordering::Relaxed);
            }
            type Function = unsafe extern "C" fn($($type),*) -> $result_type;
            let hidden = std::ptr::with_exposed_provenance::<()>(HIDDEN.load(Ordering::Relaxed));
            // SAFETY: the function of that name has this type.
            let function = unsafe { std::mem::transmute::<*const (), Function>(hidden) };
            // SAFETY: as the caller has it.
            unsafe { function($($argument),*) }
        }
    };
}

interpose!(
    mmap(start: *mut c_void, bytes: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void,
    if flags & libc::MAP_FIXED != 0 { Call::MapOver } else { Call::Map },
    libc::MAP_FAILED,
    libc::ENOMEM
);
interpose!(munmap(start: *mut c_void, bytes: usize) -> c_int, Call::Unmap, -1, libc::ENOMEM);
interpose!(
    mprotect(start: *mut c_void, bytes: usize, protection: c_int) -> c_int,
    Call::Protect,
    -1,
    libc::ENOMEM
);
interpose!(
    madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int,
    Call::Advise,
    -1,
    libc::EINVAL
);
// With the flags that are in use, there is no fifth argument.
interpose!(
    mremap(start: *mut c_void, bytes: usize, wanted: usize, flags: c_int) -> *mut c_void,
    Call::Remap,
    libc::MAP_FAILED,
    libc::ENOMEM
);
interpose!(
    sigaltstack(new: *const libc::stack_t, old: *mut libc::stack_t) -> c_int,
    Call::AlternateStack,
    -1,
    libc::ENOMEM
);
interpose!(
    sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int,
    Call::Action,
    -1,
    libc::EINVAL
);
interpose!(pipe2(ends: *mut c_int, flags: c_int) -> c_int, Call::Pipe, -1, libc::EMFILE);
interpose!(
    memfd_create(name: *const c_char, flags: c_uint) -> c_int,
    Call::File,
    -1,
    libc::EMFILE
);
interpose!(ftruncate64(file: c_int, bytes: i64) -> c_int, Call::FileLength, -1, libc::ENOMEM);
interpose!(
    pwrite64(file: c_int, from: *const c_void, bytes: usize, offset: i64) -> isize,
    Call::FileWrite,
    -1,
    libc::ENOSPC
);
interpose!(
    fallocate(file: c_int, mode: c_int, offset: i64, bytes: i64) -> c_int,
    Call::FilePunch,
    -1,
    libc::ENOSPC
);
interpose!(
    getrlimit(resource: c_uint, limit: *mut libc::rlimit) -> c_int,
    Call::Limit,
    -1,
    libc::EFAULT
);
interpose!(
    pthread_getattr_np(thread: libc::pthread_t, attributes: *mut libc::pthread_attr_t) -> c_int,
    Call::StackBounds,
    libc::ENOMEM,
    0
);
interpose!(
    pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        start: extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void
    ) -> c_int,
    Call::Thread,
    libc::EAGAIN,
    0
);
interpose!(
    syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long,
    match number {
        libc::SYS_process_madvise => Call::AdviseList,
        // Of membarrier: MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, and both of SYNC_CORE (linux/membarrier.h).
        libc::SYS_membarrier if [1 << 4, 1 << 5, 1 << 6].contains(&a) => Call::Barrier,
        _ => return pass(number, [a, b, c, d, e, f]),
    },
    -1,
    libc::EINVAL
);

/// A system call that does not fail.
fn pass(number: c_long, [a, b, c, d, e, f]: [c_long; 6]) -> c_long {
    type Function = unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;
    static HIDDEN: AtomicUsize = AtomicUsize::new(0);
    if HIDDEN.load(Ordering::Relaxed) == 0 {
        HIDDEN.store(hidden(c"syscall").expose_provenance(), Ordering::Relaxed);
    }
    let hidden = std::ptr::with_exposed_provenance::<()>(HIDDEN.load(Ordering::Relaxed));
    // SAFETY: the function of that name takes words, as many as a system call has.
    let function = unsafe { std::mem::transmute::<*const (), Function>(hidden) };
    // SAFETY: as the caller has it.
    unsafe { function(number, a, b, c, d, e, f) }
}
