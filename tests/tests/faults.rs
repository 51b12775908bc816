//! The system says no: each call to it that a guest's life needs fails once, and it is an error or is done without.
//!
//! This binary defines the C library's functions itself, for all that is linked into it, and hands them on; the
//! library's own calls inside it are not ours to fail. Armed, the n-th call of the thread that armed fails.
//!
//! Not failed: `munmap`, which can only leak; and allocation, where Rust aborts by design. What a guest may ask for
//! without limit is allocated fallibly, and that is failed.

use selvedge::{
    Caller, Config, Engine, Error, Extern, GuestCall, Linker, MemoryStyle, Module, Result, Store, Trap,
};
use selvedge_tests::{drive, in_child, mapping_count, wait};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_int, c_long, c_void};
use std::time::Duration;

/// A function of the system's that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Map,
    /// Over an older mapping: where code was.
    MapOver,
    Protect,
    Advise,
    Remap,
    Action,
    AlternateStack,
    Thread,
}

const CALLS: [Call; 8] = [
    Call::Map,
    Call::MapOver,
    Call::Protect,
    Call::Advise,
    Call::Remap,
    Call::Action,
    Call::AlternateStack,
    Call::Thread,
];

thread_local! {
    /// How many calls until the one that fails; 0 when none does.
    static LEFT: Cell<u32> = const { Cell::new(0) };
    /// What has failed.
    static FAILED: Cell<Option<Call>> = const { Cell::new(None) };
    /// Allocations of so many bytes or more fail.
    static LARGEST: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Whether this call is the one that fails.
fn fails(call: Call) -> bool {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    if left == 1 {
        FAILED.set(Some(call));
    }
    left == 1
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

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    start: *mut c_void,
    bytes: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    let over = flags & libc::MAP_FIXED != 0;
    if fails(if over { Call::MapOver } else { Call::Map }) {
        set_errno(libc::ENOMEM);
        return libc::MAP_FAILED;
    }
    // SAFETY: as the caller has it.
    (unsafe { libc::syscall(libc::SYS_mmap, start, bytes, protection, flags, file, offset) }) as *mut c_void
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mprotect(start: *mut c_void, bytes: usize, protection: c_int) -> c_int {
    if fails(Call::Protect) {
        set_errno(libc::ENOMEM);
        return -1;
    }
    // SAFETY: as the caller has it.
    (unsafe { libc::syscall(libc::SYS_mprotect, start, bytes, protection) }) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int {
    if fails(Call::Advise) {
        set_errno(libc::EINVAL);
        return -1;
    }
    // SAFETY: as the caller has it.
    (unsafe { libc::syscall(libc::SYS_madvise, start, bytes, advice) }) as c_int
}

/// With the flags that are in use, there is no fifth argument.
#[unsafe(no_mangle)]
unsafe extern "C" fn mremap(start: *mut c_void, bytes: usize, wanted: usize, flags: c_int) -> *mut c_void {
    if fails(Call::Remap) {
        set_errno(libc::ENOMEM);
        return libc::MAP_FAILED;
    }
    // SAFETY: as the caller has it.
    (unsafe { libc::syscall(libc::SYS_mremap, start, bytes, wanted, flags) }) as *mut c_void
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sigaltstack(new: *const libc::stack_t, old: *mut libc::stack_t) -> c_int {
    if fails(Call::AlternateStack) {
        set_errno(libc::ENOMEM);
        return -1;
    }
    // SAFETY: as the caller has it.
    (unsafe { libc::syscall(libc::SYS_sigaltstack, new, old) }) as c_int
}

type SigAction = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;

#[unsafe(no_mangle)]
unsafe extern "C" fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    if fails(Call::Action) {
        set_errno(libc::EINVAL);
        return -1;
    }
    // SAFETY: the function of that name has this type.
    let hidden: SigAction = unsafe { std::mem::transmute(hidden(c"sigaction")) };
    // SAFETY: as the caller has it.
    unsafe { hidden(signal, new, old) }
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate =
    unsafe extern "C" fn(*mut libc::pthread_t, *const libc::pthread_attr_t, Start, *mut c_void) -> c_int;

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    if fails(Call::Thread) {
        return libc::EAGAIN;
    }
    // SAFETY: the function of that name has this type.
    let hidden: PthreadCreate = unsafe { std::mem::transmute(hidden(c"pthread_create")) };
    // SAFETY: as the caller has it.
    unsafe { hidden(thread, attributes, start, argument) }
}

/// Fails allocations that are too large.
struct Limited;

// SAFETY: passes everything on to the system's allocator, or gives null.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGEST.get() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size >= LARGEST.get() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;

const GUEST: &str = r#"(module
    (import "host" "wait" (func $wait))
    (import "host" "nest" (func $nest))
    (memory (export "memory") 1)
    (table $t 1 externref)
    (func $down (export "overflow") (call $down))
    (func (export "wait") (call $wait))
    (func (export "nest") (call $nest))
    (func (export "spin") (loop $l (br $l)))
    (func (export "grow") (result i32)
      (i32.store8 (i32.const 5) (i32.const 77))
      (drop (memory.grow (i32.const 1)))
      (drop (memory.grow (i32.const 100)))
      (drop (table.grow $t (ref.null extern) (i32.const 1000)))
      (i32.load8_u (i32.const 5))))"#;

/// All that is done with guests, once.
fn live(style: MemoryStyle) -> Result<()> {
    let mut config = Config::new();
    config.parallel_compilation(false).memory_style(style);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, GUEST)?;
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap_async("host", "wait", async |_: Caller<'_, ()>, (): ()| wait(2).await)?;
    linker.func_wrap("host", "nest", |mut caller: Caller<'_, ()>| -> Result<()> {
        let down = caller.get_export("overflow").and_then(Extern::into_func);
        let down = down.expect("exported").typed::<(), ()>(&caller)?;
        is_trap(down.call(&mut caller, ()), Trap::StackOverflow)
    })?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    is_trap(instance.call(&mut store, "overflow", ()), Trap::StackOverflow)?;
    let kept: i32 = instance.call(&mut store, "grow", ())?;
    assert_eq!(kept, 77, "what was there is there");
    instance.call::<(), ()>(&mut store, "nest", ())?;
    drive(instance.call_async::<_, (), ()>(&mut store, "wait", ())).0?;
    let spin = instance.call_async::<_, (), ()>(&mut store, "spin", ());
    is_trap(
        drive(spin.with_timeout(Duration::from_millis(1))).0,
        Trap::Interrupt,
    )?;
    // Two guests at a time, and one whose memory the host makes and grows.
    let mut other = Store::new(&engine, ());
    let second = linker.instantiate(&mut other, &module)?;
    let memory = second.get_memory(&mut other, "memory").expect("exported");
    memory.grow(&mut other, 1)?;
    let parked = second.call_async::<_, (), ()>(&mut other, "wait", ());
    let mut parked = Box::pin(parked);
    if let std::task::Poll::Ready(result) = selvedge_tests::poll_once(parked.as_mut()) {
        return result;
    }
    instance.call::<(), i32>(&mut store, "grow", ())?;
    Ok(())
}

/// What ended a call as it should have is no failure.
fn is_trap(result: Result<()>, trap: Trap) -> Result<()> {
    match result {
        Err(error) if error.downcast_ref() == Some(&trap) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(Error::msg(format!("no {trap:?}"))),
    }
}

/// Lives with the n-th call failing. What failed, if there were as many, and how that went.
fn live_with_failure(n: u32, style: MemoryStyle) -> (Option<Call>, Result<()>) {
    FAILED.set(None);
    LEFT.set(n);
    let result = live(style);
    LEFT.set(0);
    (FAILED.get(), result)
}

/// How the failure of a call may end: an error that tells the system's, or without it.
fn check(call: Call, n: u32, result: &Result<()>) {
    let Err(error) = result else {
        println!("call {n}, {call:?}: done without");
        return;
    };
    let text = format!("{error:#}");
    println!("call {n}, {call:?}: {text}");
    assert!(
        error.downcast_ref::<Trap>().is_none(),
        "{call:?} is no guest's fault: {text}"
    );
    let is_the_systems = ["error ", "the system refuses"]
        .iter()
        .any(|part| text.contains(part));
    assert!(is_the_systems, "{call:?} says whose it is: {text}");
}

/// Runs `body` in a fork of this process, which has one thread; what it returns, or else panics.
fn in_fork(body: impl FnOnce() -> u8) -> u8 {
    // SAFETY: this process has no other thread whose locks the child could miss.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no fork");
    if child == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        // SAFETY: ends the child here.
        unsafe { libc::_exit(c_int::from(code)) };
    }
    let mut status = 0;
    // SAFETY: `status` is a place for the status.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    assert!(libc::WIFEXITED(status), "the child was killed: {status:#x}");
    libc::WEXITSTATUS(status) as u8
}

/// Bytes of address space in use.
fn address_bytes() -> c_long {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = text
        .lines()
        .find(|line| line.starts_with("VmSize:"))
        .expect("a line of it");
    let number = line.split_whitespace().nth(1).expect("a number");
    number.parse::<c_long>().expect("a number") << 10
}

const STYLES: [MemoryStyle; 2] = [MemoryStyle::Reserved, MemoryStyle::Bounded];

/// Most of these calls are made once a process: so each failure has a process of its own.
#[test]
fn every_call_that_fails_in_a_new_process_is_an_error_or_done_without() {
    let test = "every_call_that_fails_in_a_new_process_is_an_error_or_done_without";
    let child = in_child(test, || {
        let mut failed = BTreeSet::new();
        for style in STYLES {
            for n in 1.. {
                assert!(n < 1000, "it never ends");
                let code = in_fork(|| {
                    let (failed, result) = live_with_failure(n, style);
                    let Some(call) = failed else {
                        result.expect("nothing failed");
                        return 0;
                    };
                    check(call, n, &result);
                    for _ in 0..2 {
                        live(style).expect("the next one works");
                    }
                    1 + call as u8
                });
                match code {
                    0 => break,
                    101 => panic!("call {n} ({style:?})"),
                    call => failed.insert(CALLS[usize::from(call) - 1]),
                };
            }
        }
        assert_eq!(Vec::from_iter(failed), CALLS, "all of them were made, and failed");
    });
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn a_call_that_fails_again_and_again_leaks_nothing() {
    let child = in_child("a_call_that_fails_again_and_again_leaks_nothing", || {
        for style in STYLES {
            for _ in 0..3 {
                live(style).expect("nothing fails");
            }
            for n in 1.. {
                // Once for what the failure itself makes for good.
                let (Some(call), result) = live_with_failure(n, style) else {
                    break;
                };
                check(call, n, &result);
                let before = (mapping_count(), address_bytes());
                for _ in 0..8 {
                    let (failed, _) = live_with_failure(n, style);
                    assert_eq!(failed, Some(call), "a life is like the other");
                }
                let after = (mapping_count(), address_bytes());
                // Code that cannot be taken back stays where it is, in the reservation, as the only one.
                let most = if call == Call::MapOver { 16 } else { 2 };
                assert!(
                    after.0 <= before.0 + most,
                    "call {n}, {call:?}: {before:?}, then {after:?}"
                );
                assert!(
                    after.1 - before.1 < 64 << 10,
                    "call {n}, {call:?}: {before:?}, then {after:?}"
                );
            }
        }
    });
    assert!(
        child.status.success(),
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn a_table_that_cannot_be_allocated_does_not_grow() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (table $t 1 externref)
            (func (export "grow") (param i32) (result i32)
              (table.grow $t (ref.null extern) (local.get 0))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = selvedge::Instance::new(&mut store, &module, &[])?;
    let mut grow = |delta: i32, largest: usize| -> Result<i32> {
        LARGEST.set(largest);
        let old = instance.call(&mut store, "grow", delta);
        LARGEST.set(usize::MAX);
        old
    };
    assert_eq!(grow(100_000, 100_000)?, -1);
    assert_eq!(grow(10, 100_000)?, 1, "a little more still fits");
    assert_eq!(grow(100_000, usize::MAX)?, 11);
    Ok(())
}

/// Exceptions live in the store's heap of references, which grows as a guest makes them.
#[test]
fn a_heap_of_references_that_cannot_be_allocated_is_an_error() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (tag $e) (table $kept 100000 exnref)
            (func (export "make") (param $n i32) (local $made exnref)
              (loop $again
                (local.set $made (block $caught (result exnref)
                  (try_table (catch_all_ref $caught) (throw $e))
                  unreachable))
                (table.set $kept (local.get $n) (local.get $made))
                (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#,
    )?;
    let mut store = Store::new(&engine, ());
    let instance = selvedge::Instance::new(&mut store, &module, &[])?;
    LARGEST.set(1 << 20);
    let made = instance.call::<i32, ()>(&mut store, "make", 99_999);
    LARGEST.set(usize::MAX);
    let error = made.expect_err("a hundred thousand exceptions do not fit into 1 MiB");
    println!("{error:#}");
    assert!(error.to_string().contains("heap"), "{error:#}");
    instance.call::<i32, ()>(&mut store, "make", 99_999)
}
