//! What a signal handler must not do, and where it must work all the same: our handlers allocate nothing, also when the thread
//! that they interrupt holds the allocator's lock; and a thread may have been made by anybody.

use selvedge::{Caller, Engine, Error, Instance, Linker, Module, Result, Store, Trap};
use selvedge_tests::in_child;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// An allocator with one lock, as a simple C library has: who allocates in a handler waits for ever for itself, or, as
/// here, ends the process.
struct OneLock {
    is_locked: AtomicBool,
}

thread_local! {
    /// Whether this thread's allocations are watched.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Whether it holds the lock.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
    /// Whether a signal interrupts the next allocation, while it holds the lock.
    static INTERRUPT_NEXT: Cell<bool> = const { Cell::new(false) };
}

/// How many allocations were watched, and how many were interrupted.
static SEEN: AtomicU32 = AtomicU32::new(0);
static INTERRUPTED: AtomicU32 = AtomicU32::new(0);

/// Whether this thread runs on its alternate signal stack: in a handler of ours.
fn is_in_handler() -> bool {
    let mut stack = libc::stack_t {
        ss_sp: ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    // SAFETY: asks, and changes nothing.
    let asked = unsafe { libc::sigaltstack(ptr::null(), &mut stack) };
    asked == 0 && stack.ss_flags & libc::SS_ONSTACK != 0
}

impl OneLock {
    fn locked<R>(&self, run: impl FnOnce() -> R) -> R {
        if !WATCHED.get() {
            return run();
        }
        SEEN.fetch_add(1, Ordering::Relaxed);
        if HOLDS.get() || is_in_handler() {
            std::process::abort();
        }
        while self.is_locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        HOLDS.set(true);
        if INTERRUPT_NEXT.replace(false) {
            INTERRUPTED.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the signal that stops guests, which has a handler by now.
            unsafe { libc::raise(libc::SIGURG) };
        }
        let result = run();
        HOLDS.set(false);
        self.is_locked.store(false, Ordering::Release);
        result
    }
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for OneLock {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.locked(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        self.locked(|| unsafe { System.dealloc(pointer, layout) });
    }
}

#[global_allocator]
static ALLOCATOR: OneLock = OneLock {
    is_locked: AtomicBool::new(false),
};

/// Runs with this thread's allocations watched.
fn watched<R>(run: impl FnOnce() -> R) -> R {
    WATCHED.set(true);
    let result = run();
    WATCHED.set(false);
    result
}

const GUEST: &str = r#"(module
    (import "host" "allocate" (func $allocate))
    (memory 1)
    (func $down (export "overflow") (call $down))
    (func (export "load") (drop (i32.load (i32.const 65536))))
    (func (export "divide") (drop (i32.div_s (i32.const 1) (i32.const 0))))
    (func (export "unreachable") unreachable)
    (func (export "spin") (loop $l (br $l)))
    (func (export "allocate") (call $allocate) (loop $l (br $l)))
    (func (export "answer") (result i32) (i32.const 42)))"#;

const TRAPS: [(&str, Trap); 4] = [
    ("overflow", Trap::StackOverflow),
    ("load", Trap::MemoryOutOfBounds),
    ("divide", Trap::IntegerDivisionByZero),
    ("unreachable", Trap::Unreachable),
];

fn guest() -> Result<(Store<()>, Instance)> {
    let engine = Engine::default();
    let module = Module::new(&engine, GUEST)?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap("host", "allocate", |mut caller: Caller<'_, ()>| -> Result<()> {
        // Asks for its own guest's end, and is interrupted in the middle of an allocation.
        caller.interrupt_handle()?.interrupt();
        INTERRUPT_NEXT.set(true);
        drop(std::hint::black_box(Box::new(1)));
        Ok(())
    })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    Ok((store, instance))
}

fn expect_trap(result: Result<()>, trap: Trap) {
    let error = result.expect_err("a trap");
    assert_eq!(error.downcast_ref(), Some(&trap), "{error:?}");
}

fn expect_success(child: &std::process::Output) {
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn an_allocation_inside_of_a_handler_is_noticed() {
    extern "C" fn allocates(_: libc::c_int) {
        drop(std::hint::black_box(Box::new(1)));
    }
    let child = in_child("an_allocation_inside_of_a_handler_is_noticed", || {
        guest().expect("a guest, and with it an alternate stack");
        let handler: extern "C" fn(libc::c_int) = allocates;
        // SAFETY: zeros are a value of it.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_ONSTACK;
        // SAFETY: initialised, and the old one is not asked for.
        unsafe { libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()) };
        // SAFETY: the signal has a handler.
        watched(|| unsafe { libc::raise(libc::SIGUSR1) });
    });
    assert_eq!(selvedge_tests::signal_of(&child), Some(libc::SIGABRT));
}

#[test]
fn no_handler_allocates_whatever_the_trap() {
    let child = in_child("no_handler_allocates_whatever_the_trap", || {
        let (mut store, instance) = guest().expect("a guest");
        for (name, trap) in TRAPS {
            expect_trap(watched(|| instance.call(&mut store, name, ())), trap);
        }
        let handle = store.interrupt_handle().expect("a handle");
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            watched(|| handle.interrupt());
        });
        expect_trap(watched(|| instance.call(&mut store, "spin", ())), Trap::Interrupt);
        other.join().expect("no panic");
        assert!(
            SEEN.load(Ordering::Relaxed) > 4,
            "the allocations of errors were watched"
        );
    });
    expect_success(&child);
}

#[test]
fn a_handler_may_interrupt_who_holds_the_allocators_lock() {
    let child = in_child("a_handler_may_interrupt_who_holds_the_allocators_lock", || {
        let (mut store, instance) = guest().expect("a guest");
        for _ in 0..100 {
            let ended = watched(|| instance.call(&mut store, "allocate", ()));
            expect_trap(ended, Trap::Interrupt);
        }
        assert_eq!(INTERRUPTED.load(Ordering::Relaxed), 100);
        assert_eq!(
            instance
                .call::<(), i32>(&mut store, "answer", ())
                .expect("a number"),
            42
        );
    });
    expect_success(&child);
}

/// A guest faults while another thread holds the lock and does not let go.
#[test]
fn a_guest_may_fault_while_another_thread_holds_the_allocators_lock() {
    let child = in_child(
        "a_guest_may_fault_while_another_thread_holds_the_allocators_lock",
        || {
            static FAULTED: AtomicBool = AtomicBool::new(false);
            let engine = Engine::default();
            let module = Module::new(
                &engine,
                r#"(module (import "host" "handled" (func $handled)) (memory 1)
                    (func (export "f") (drop (i32.load (i32.const 65536))) (call $handled)))"#,
            );
            let mut store = Store::new(&engine, ());
            let mut linker = Linker::<()>::new(&engine);
            linker
                .func_wrap("host", "handled", || -> Result<()> {
                    Err(Error::msg("not reached"))
                })
                .expect("a host function");
            let instance = linker
                .instantiate(&mut store, &module.expect("a module"))
                .expect("an instance");
            let holder = std::thread::spawn(|| {
                ALLOCATOR.is_locked.store(true, Ordering::Release);
                while !FAULTED.load(Ordering::Acquire) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    // The error of the trap is allocated after the handler: let go some time.
                    FAULTED.store(waiting_since_fault(), Ordering::Release);
                }
                ALLOCATOR.is_locked.store(false, Ordering::Release);
            });
            while !ALLOCATOR.is_locked.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            expect_trap(
                watched(|| instance.call(&mut store, "f", ())),
                Trap::MemoryOutOfBounds,
            );
            assert!(
                FAULTED.load(Ordering::Acquire),
                "the handler did not wait for the lock"
            );
            holder.join().expect("no panic");
        },
    );
    expect_success(&child);
}

/// Whether a watched thread waits for the lock, which it does only outside of a handler: else it aborts.
fn waiting_since_fault() -> bool {
    SEEN.load(Ordering::Relaxed) > 0
}

/// What a thread of the C library's does: its own guest overflows, and one that another thread has made; then all other traps.
extern "C" fn overflow(given: *mut c_void) -> *mut c_void {
    // SAFETY: the test passes this, and waits.
    let (store, instance) = unsafe { &mut *given.cast::<(Store<()>, Instance)>() };
    let (mut own, of_own) = guest().expect("a guest");
    for (name, trap) in TRAPS {
        expect_trap(watched(|| instance.call(store, name, ())), trap);
        expect_trap(watched(|| of_own.call(&mut own, name, ())), trap);
    }
    ptr::null_mut()
}

#[test]
fn threads_of_the_c_library_enter_guests_and_overflow() {
    let child = in_child("threads_of_the_c_library_enter_guests_and_overflow", || {
        let mut guest = guest().expect("a guest");
        let given = (&raw mut guest).cast();
        let before = selvedge_tests::mapping_count();
        for round in 0..50 {
            let mut attributes = std::mem::MaybeUninit::uninit();
            // SAFETY: a place for the attributes.
            unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) };
            // Rust makes an alternate stack for its own threads; these have none.
            // SAFETY: initialised a line ago.
            unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), 256 << 10) };
            let mut thread = std::mem::MaybeUninit::<libc::pthread_t>::uninit();
            // SAFETY: places and attributes are initialised; the function takes what it is given, which outlives the thread.
            let made =
                unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), overflow, given) };
            assert_eq!(made, 0);
            // SAFETY: the call succeeded.
            let thread = unsafe { thread.assume_init() };
            // SAFETY: a thread that nobody has joined yet.
            let joined = unsafe { libc::pthread_join(thread, ptr::null_mut()) };
            assert_eq!(joined, 0, "round {round}");
        }
        let after = selvedge_tests::mapping_count();
        assert!(after <= before + 40, "{before} mappings, then {after}");
    });
    expect_success(&child);
}
