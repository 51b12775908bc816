//! What a signal handler must not do, and where it must work all the same: our handlers allocate nothing, also when the thread
//! that they interrupt holds the allocator's lock; and a thread may have been made by anybody.

use selvedge::{Caller, Config, Engine, Error, Instance, Linker, MemoryStyle, Module, Result, Store, Trap};
use selvedge_tests::allocator::{TestAllocator, lock, lock::watched};
use selvedge_tests::{in_child, poll_once};
use std::ffi::c_void;
use std::pin::pin;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

#[global_allocator]
static ALLOCATOR: TestAllocator = TestAllocator;

const GUEST: &str = r#"(module
    (import "host" "allocate" (func $allocate)) (import "host" "look" (func $look))
    (memory 1)
    (func $down (call $down))
    (func (export "overflow") (call $look) (call $down))
    (func (export "load") (call $look) (drop (i32.load (i32.const 65536))))
    (func (export "divide") (call $look) (drop (i32.div_s (i32.const 1) (i32.const 0))))
    (func (export "too large") (call $look) (drop (i32.div_s (i32.const 0x80000000) (i32.const -1))))
    (func (export "unreachable") (call $look) unreachable)
    (func (export "spin") (call $look) (loop $l (br $l)))
    (func (export "allocate") (call $allocate) (loop $l (br $l)))
    (func (export "answer") (result i32) (i32.const 42)))"#;

const TRAPS: [(&str, Trap); 5] = [
    ("overflow", Trap::StackOverflow),
    ("load", Trap::MemoryOutOfBounds),
    ("divide", Trap::IntegerDivisionByZero),
    ("too large", Trap::IntegerOverflow),
    ("unreachable", Trap::Unreachable),
];

/// Whether a guest has looked, and what it saw: its thread had the allocator's lock.
static HAS_LOOKED: AtomicBool = AtomicBool::new(false);
static SAW_IT_HELD: AtomicBool = AtomicBool::new(false);

fn guest() -> Result<(Store<()>, Instance)> {
    guest_of(MemoryStyle::Reserved)
}

fn guest_of(style: MemoryStyle) -> Result<(Store<()>, Instance)> {
    let engine = Engine::new(Config::new().memory_style(style))?;
    let module = Module::new(&engine, GUEST)?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap("host", "allocate", |mut caller: Caller<'_, ()>| -> Result<()> {
        // Asks for its own guest's end, and is interrupted in the middle of an allocation.
        caller.interrupt_handle()?.interrupt();
        lock::interrupt_next(libc::SIGURG);
        drop(std::hint::black_box(Box::new(1)));
        Ok(())
    })?;
    linker.func_wrap("host", "look", || {
        SAW_IT_HELD.store(lock::is_held(), Ordering::SeqCst);
        HAS_LOOKED.store(true, Ordering::SeqCst);
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
        assert!(lock::seen() > 4, "the allocations of errors were watched");
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
        assert_eq!(lock::interrupted(), 100);
        assert_eq!(
            instance
                .call::<(), i32>(&mut store, "answer", ())
                .expect("a number"),
            42
        );
    });
    expect_success(&child);
}

/// A thread that has the lock calls a guest, as no program should: so the guest is left by a fault, or a signal, while
/// the lock is held. What comes first to the allocator is the error of the trap, on the host's stack, after the handler.
fn expect_trap_with_the_lock(run: impl FnOnce() -> Result<()>, trap: Trap) {
    SAW_IT_HELD.store(false, Ordering::SeqCst);
    lock::hold();
    let ended = watched(run);
    assert!(
        !lock::let_go(),
        "an error was made, for which the lock was let go"
    );
    assert!(SAW_IT_HELD.load(Ordering::SeqCst), "it was held until the fault");
    expect_trap(ended, trap);
}

#[test]
fn a_guest_may_fault_while_its_own_thread_holds_the_allocators_lock() {
    let test = "a_guest_may_fault_while_its_own_thread_holds_the_allocators_lock";
    let child = in_child(test, || {
        for style in [MemoryStyle::Reserved, MemoryStyle::Bounded] {
            let (mut store, instance) = guest_of(style).expect("a guest");
            for (name, trap) in TRAPS {
                // Once for the stack that it takes, and what else is made once.
                expect_trap(instance.call(&mut store, name, ()), trap);
                for _ in 0..3 {
                    expect_trap_with_the_lock(|| instance.call(&mut store, name, ()), trap);
                    let polled = || match poll_once(pin!(instance.call_async(&mut store, name, ()))) {
                        Poll::Ready(ended) => ended,
                        Poll::Pending => panic!("nothing waits"),
                    };
                    expect_trap_with_the_lock(polled, trap);
                }
            }
            assert_eq!(lock::interrupted(), 0);
        }
    });
    expect_success(&child);
}

/// By the signal that another thread sends, again and again until it is answered.
#[test]
fn a_guest_may_be_stopped_while_its_own_thread_holds_the_allocators_lock() {
    let test = "a_guest_may_be_stopped_while_its_own_thread_holds_the_allocators_lock";
    let child = in_child(test, || {
        let (mut store, instance) = guest().expect("a guest");
        let handle = store.interrupt_handle().expect("a handle");
        for round in 0..4 {
            HAS_LOOKED.store(false, Ordering::SeqCst);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !HAS_LOOKED.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    handle.interrupt();
                });
                let mut spin = || instance.call(&mut store, "spin", ());
                match round {
                    0 => expect_trap(spin(), Trap::Interrupt),
                    _ => expect_trap_with_the_lock(spin, Trap::Interrupt),
                }
            });
        }
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
            static HOLDS: AtomicBool = AtomicBool::new(false);
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
                lock::hold();
                HOLDS.store(true, Ordering::Release);
                while !FAULTED.load(Ordering::Acquire) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    // The error of the trap is allocated after the handler: let go some time.
                    FAULTED.store(waiting_since_fault(), Ordering::Release);
                }
                assert!(lock::let_go());
            });
            while !HOLDS.load(Ordering::Acquire) {
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
    lock::seen() > 0
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
