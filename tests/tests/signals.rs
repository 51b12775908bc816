//! Foreign signal handlers keep what is theirs: each test in a process of its own.

use selvedge::{Config, Engine, Func, Instance, Module, Store, Trap};
use selvedge_tests::in_child;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

static FOREIGN: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);

type Action = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler, on the stack that is current when the signal comes unless flags say otherwise.
fn install(signal: libc::c_int, action: Action, flags: libc::c_int) {
    // SAFETY: all zeros is a valid value of this struct of the C library.
    let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_sigaction = action as *const () as usize;
    new.sa_flags = libc::SA_SIGINFO | flags;
    // SAFETY: `new` is initialised and the old action is not asked for.
    assert_eq!(unsafe { libc::sigaction(signal, &new, ptr::null_mut()) }, 0);
}

/// A page that faults until [`open_page`] has run.
fn closed_page() -> *mut u32 {
    // SAFETY: a new anonymous mapping.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    PAGE.store(page as usize, Ordering::SeqCst);
    page.cast()
}

/// A foreign SIGSEGV handler: makes the page accessible and counts; anything else is not its business.
extern "C" fn open_page(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let page = PAGE.load(Ordering::SeqCst);
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let info = unsafe { &*info };
    // SAFETY: SIGSEGV's siginfo carries an address.
    let address = unsafe { info.si_addr() } as usize;
    if address & !4095 != page {
        std::process::abort();
    }
    // SAFETY: the page that `closed_page` mapped.
    unsafe {
        libc::mprotect(
            page as *mut libc::c_void,
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
        )
    };
    FOREIGN.fetch_add(1, Ordering::SeqCst);
}

fn touch(page: *mut u32) -> u32 {
    // SAFETY: faults once; the handler opens the page and the read goes on.
    unsafe { black_box(page).read_volatile() }
}

fn expect_success(child: &std::process::Output) {
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn a_handler_installed_before_us_gets_its_faults() {
    let child = in_child("a_handler_installed_before_us_gets_its_faults", || {
        install(libc::SIGSEGV, open_page, 0);
        let engine = Engine::default();
        assert_eq!(touch(closed_page()), 0, "outside of a guest");
        let mut store = Store::new(&engine, ());
        let inside = Func::wrap(&mut store, || touch(closed_page()) as i32).expect("a host function");
        let mut results = [selvedge::Val::I32(1)];
        inside
            .call(&mut store, &[], &mut results)
            .expect("the fault was repaired");
        assert_eq!(results[0].i32(), Some(0));
        assert_eq!(FOREIGN.load(Ordering::SeqCst), 2);
        // And the guest's own faults still are traps.
        let module = Module::new(
            &engine,
            "(module (memory 1) (func (export \"f\") i32.const 65536 i32.load drop))",
        );
        let instance = Instance::new(&mut store, &module.expect("valid"), &[]).expect("an instance");
        let error = instance
            .call::<(), ()>(&mut store, "f", ())
            .expect_err("out of bounds");
        assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::MemoryOutOfBounds));
        assert_eq!(FOREIGN.load(Ordering::SeqCst), 2);
    });
    expect_success(&child);
}

/// A foreign handler without SA_ONSTACK: it runs on the guest's stack, and faults there itself.
extern "C" fn faults_on_the_guests_stack(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let here = 0_u8;
    let slot = fibers_slot(&raw const here as usize);
    if slot && FOREIGN.load(Ordering::SeqCst) == 0 {
        touch(PAGE.load(Ordering::SeqCst) as *mut u32);
    }
}

/// Whether an address lies on a guest's stack: not near where this thread's own was seen, whose frames are small here.
fn fibers_slot(address: usize) -> bool {
    let own = OWN_STACK.load(Ordering::SeqCst);
    address.abs_diff(own) > 1 << 20
}

static OWN_STACK: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_handler_that_faults_on_the_guests_stack_is_not_the_guests_fault() {
    let child = in_child(
        "a_handler_that_faults_on_the_guests_stack_is_not_the_guests_fault",
        || {
            install(libc::SIGSEGV, open_page, libc::SA_ONSTACK);
            install(libc::SIGALRM, faults_on_the_guests_stack, 0);
            closed_page();
            let here = 0_u8;
            OWN_STACK.store(&raw const here as usize, Ordering::SeqCst);
            let engine = Engine::default();
            let module = Module::new(
                &engine,
                r#"(module (func (export "spin") (param i64) (result i64)
                loop $l local.get 0 i64.const 1 i64.sub local.tee 0 i64.const 0 i64.ne br_if $l end local.get 0))"#,
            );
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module.expect("valid"), &[]).expect("an instance");
            // The alarm comes while the guest spins; the guest goes on afterwards as if nothing had been.
            for _ in 0..200 {
                let every = libc::timeval {
                    tv_sec: 0,
                    tv_usec: 2000,
                };
                let once = libc::itimerval {
                    it_interval: libc::timeval {
                        tv_sec: 0,
                        tv_usec: 0,
                    },
                    it_value: every,
                };
                // SAFETY: `once` is initialised and the old timer is not asked for.
                let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &once, ptr::null_mut()) };
                assert_eq!(set, 0);
                assert_eq!(
                    instance
                        .call::<i64, i64>(&mut store, "spin", 20_000_000)
                        .expect("no trap"),
                    0
                );
                if FOREIGN.load(Ordering::SeqCst) > 0 {
                    return;
                }
            }
            panic!("no alarm came while the guest was running");
        },
    );
    expect_success(&child);
}

/// An embedder's own handler, which asks for the guests first.
extern "C" fn ask_first(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: in a handler installed with SA_SIGINFO and SA_ONSTACK, with its own arguments.
    if unsafe { selvedge::handle_signal(signal, info, context) } {
        FOREIGN.fetch_add(1, Ordering::SeqCst);
    } else {
        open_page(signal, info, context);
    }
}

#[test]
fn signals_that_are_left_to_the_embedder_are_the_embedders() {
    let output = in_child("signals_that_are_left_to_the_embedder_are_the_embedders", || {
        install(libc::SIGSEGV, ask_first, libc::SA_ONSTACK);
        let engine = Engine::new(Config::new().signal_handlers(false)).expect("an engine");
        let module = Module::new(
            &engine,
            r#"(module (memory 1) (func (export "load") (drop (i32.load (i32.const 65536))))
                (func $f (export "overflow") (call $f)))"#,
        );
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module.expect("a module"), &[]).expect("an instance");
        for (name, trap) in [
            ("load", Trap::MemoryOutOfBounds),
            ("overflow", Trap::StackOverflow),
        ] {
            let error = instance.call::<(), ()>(&mut store, name, ()).expect_err("a trap");
            assert_eq!(error.downcast_ref(), Some(&trap));
        }
        assert_eq!(FOREIGN.load(Ordering::SeqCst), 2);
        // SAFETY: a page that the handler opens.
        unsafe { closed_page().write_volatile(1) };
        let error = store.interrupt_handle().expect_err("no signal of ours");
        assert!(error.to_string().contains("fuel"), "{error}");
    });
    assert!(output.status.success(), "{output:?}");
}

/// A foreign SIGURG handler: counts.
extern "C" fn count_urgent(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    FOREIGN.fetch_add(1, Ordering::SeqCst);
}

/// SIGURG is what stops a guest without fuel. Somebody else's goes to somebody else's handler, however it was sent and wherever it meets the
/// thread; ours never does.
#[test]
fn urgent_signals_of_others_reach_their_handler_and_ours_do_not() {
    let child = in_child(
        "urgent_signals_of_others_reach_their_handler_and_ours_do_not",
        || {
            install(libc::SIGURG, count_urgent, libc::SA_ONSTACK);
            let engine = Engine::default();
            let module =
                Module::new(&engine, r#"(module (func (export "spin") (loop (br 0))))"#).expect("valid");
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[]).expect("an instance");
            let handle = store.interrupt_handle().expect("a handle");
            // SAFETY: takes nothing and cannot fail.
            let thread = unsafe { libc::gettid() };
            let process = std::process::id() as libc::pid_t;
            let sender = std::thread::spawn(move || {
                // SAFETY: integers; the signal has a handler.
                let send = || unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGURG) };
                for sent in 1..=100 {
                    assert_eq!(send(), 0);
                    while FOREIGN.load(Ordering::SeqCst) < sent {
                        std::thread::yield_now();
                    }
                }
                handle.interrupt();
            });
            let error = instance
                .call::<(), ()>(&mut store, "spin", ())
                .expect_err("it was stopped");
            assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
            sender.join().expect("no panic");
            assert_eq!(FOREIGN.load(Ordering::SeqCst), 100, "ours are not handed on");
            // While no guest runs, and sent in another way.
            // SAFETY: the signal has a handler.
            unsafe { libc::raise(libc::SIGURG) };
            // SAFETY: as above; this is the only thread left that does not block it.
            unsafe { libc::kill(process, libc::SIGURG) };
            while FOREIGN.load(Ordering::SeqCst) < 102 {
                std::thread::yield_now();
            }
        },
    );
    expect_success(&child);
}
