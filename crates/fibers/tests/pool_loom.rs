//! The lock-free part of the pool under a model checker: `loom` runs the code of `src/stack/pool/bin.rs` itself, in every
//! order of steps that two or three threads can take (with a bounded number of preemptions), and with every
//! value that the memory model lets a load see.
//!
//! Around it there is a pool of a few lines: a list and the bins under one lock, as in `src/stack/pool/shared.rs`.
//!
//! What is checked: no stack has two users, and each user sees what the one before wrote (loom's cells
//! notice both); no stack is lost; who was told of a return finds the stack; where a lease and a robber meet, one of them gets the stack.
//!
//! What it does not prove: the product's fences are `membarrier(2)` on one side and nothing but a compiler fence on
//! the other, which no model of the language has. Here both are sequentially consistent fences. That
//! models them honestly as far as the kernel's promise goes, that after the system call each running thread has passed a
//! full fence: then of "mark, light fence, look" and "take, heavy fence, look" one side at least sees the
//! other. The promise itself, and that the compiler fence keeps the owner's two accesses in order, are assumed.
//!
//! The last tests plant errors and see that they are found: without them a model that explores nothing would pass.
#![cfg(target_arch = "x86_64")] // elsewhere the code is the same, and tests run in an emulator

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;

#[path = "../src/stack/pool/bin.rs"]
mod bin;

use bin::{Engaged, FIRST_LEASE};

/// In the place of the product's module of that name: loom's atomics, and fences that a test can leave out.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    use super::{Planted, planted};

    /// The type of `busy`.
    pub(super) struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(super) fn new(value: bool) -> AtomicBool {
            AtomicBool(loom::sync::atomic::AtomicBool::new(value))
        }

        pub(super) fn load(&self, order: Ordering) -> bool {
            let value = self.0.load(order);
            value && planted() != Planted::RobberDoesNotWait
        }

        pub(super) fn store(&self, value: bool, order: Ordering) {
            if planted() == Planted::BusyIsRelaxed {
                return self.0.store(value, Ordering::Relaxed);
            }
            self.0.store(value, order);
        }
    }

    /// The type of a lease's number.
    pub(super) struct AtomicU64(loom::sync::atomic::AtomicU64);

    impl AtomicU64 {
        pub(super) fn new(value: u64) -> AtomicU64 {
            AtomicU64(loom::sync::atomic::AtomicU64::new(value))
        }

        pub(super) fn load(&self, order: Ordering) -> u64 {
            let value = self.0.load(order);
            // A robber's look is the only one that acquires.
            match planted() == Planted::RobberTakesWhatIsUsed && order == Ordering::Acquire {
                true => value.max(super::bin::FIRST_LEASE),
                false => value,
            }
        }

        pub(super) fn store(&self, value: u64, order: Ordering) {
            if planted() == Planted::LeaseEndIsRelaxed {
                return self.0.store(value, Ordering::Relaxed);
            }
            self.0.store(value, order);
        }
    }

    pub(super) fn light() {
        if planted() != Planted::NoLightFence {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    pub(super) use light as light_if_asymmetric;

    pub(super) fn heavy() {
        if planted() != Planted::NoHeavyFence {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    pub(super) fn pause() {
        loom::thread::yield_now();
    }
}

/// An error that a test puts into the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    None,
    NoLightFence,
    NoHeavyFence,
    BusyIsRelaxed,
    RobberDoesNotWait,
    LeaseEndIsRelaxed,
    RobberTakesWhatIsUsed,
}

thread_local! {
    // Of the system's thread: loom runs a model's threads on the one that started it.
    static PLANTED: Cell<Planted> = const { Cell::new(Planted::None) };
}

fn planted() -> Planted {
    PLANTED.get()
}

/// Small, so that bins overflow and run dry.
const CAPACITY: usize = 2;

type Bin = bin::Bin<Pool, Stack, CAPACITY>;

/// A stack: what its users write, which loom checks.
struct Stack(UnsafeCell<usize>);

impl Stack {
    /// What a user does: it is alone, and sees what the last one wrote.
    fn use_it(&self) {
        self.0.with_mut(|uses| {
            // SAFETY: if nobody else has the stack; that is what is checked, by loom.
            let uses = unsafe { &mut *uses };
            *uses += 1;
        });
    }
}

struct Pool {
    stacks: Vec<Stack>,
    state: Mutex<State>,
}

struct State {
    free: Vec<NonNull<Stack>>,
    bins: Vec<NonNull<Bin>>,
    is_open: bool,
}

// SAFETY: bins and stacks live as long as the model's run, and are what is checked.
unsafe impl Send for State {}

impl Pool {
    fn new(stacks: usize) -> Arc<Pool> {
        let mut pool = Pool {
            stacks: (0..stacks).map(|_| Stack(UnsafeCell::new(0))).collect(),
            state: Mutex::new(State {
                free: Vec::new(),
                bins: Vec::new(),
                is_open: true,
            }),
        };
        // Vectors do not move their contents with themselves.
        let all: Vec<_> = pool.stacks.iter().map(NonNull::from).collect();
        pool.state.get_mut().unwrap().free = all;
        Arc::new(pool)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// As `StackPool::take`: from the bin, else from the list, else from one other bin.
    fn take(&self, own: &Bin) -> Option<NonNull<Stack>> {
        let pop = |bin: &Bin| bin.pop().or_else(|| bin.end_lease());
        if let Some(stack) = own.own(self, pop).flatten() {
            return Some(stack);
        }
        let mut state = self.lock();
        if state.free.is_empty() {
            state.rob_one(self);
        }
        let stack = state.free.pop();
        self.bind(&mut state, own);
        stack
    }

    /// As `PooledStack::drop`.
    fn give(&self, own: &Bin, stack: NonNull<Stack>) {
        if own.own(self, |bin| bin.push(stack)) == Some(true) {
            return;
        }
        let mut state = self.lock();
        if !state.is_open {
            return state.free.push(stack);
        }
        self.bind(&mut state, own);
        if !own.push(stack) {
            own.spill(|stack| state.free.push(stack));
            assert!(own.push(stack));
        }
    }

    fn bind(&self, state: &mut State, own: &Bin) {
        if !own.is_bound_to(self) {
            own.bind(self);
            state.bins.push(NonNull::from(own));
        }
    }

    /// As `StackPool::renew`, and else `StackPool::lease`: uses a lease, once. Whether it was one that there was.
    fn lease_and_use(&self, own: &Bin, number: u64) -> bool {
        let was_there = own.renew(number);
        if !was_there {
            match own.own(self, |bin| bin.engage(number)) {
                Some(Engaged::Stack(_)) => {}
                Some(Engaged::InUse) => panic!("this thread uses one lease at a time"),
                Some(Engaged::Empty) | None => {
                    let Some(stack) = self.take(own) else {
                        return false;
                    };
                    if own.own(self, |bin| bin.engage_new(stack, number)) != Some(true) {
                        self.use_and_give(own, stack);
                        return false;
                    }
                }
            }
        }
        // SAFETY: the pool lives as long as the run.
        unsafe { own.leased().as_ref() }.use_it();
        own.rest();
        was_there
    }

    /// As a thread's end.
    fn leave(&self, own: &Bin) {
        if own.settled_pool().is_null() {
            return;
        }
        self.leave_undisturbed(own);
    }

    /// As a thread's end that comes when nobody robs: two that wait for a robber at once may take turns without end, where nothing says that he
    /// gets his.
    fn leave_undisturbed(&self, own: &Bin) {
        let mut state = self.lock();
        if own.is_bound_to(self) {
            state.bins.retain(|bin| !std::ptr::eq(bin.as_ptr(), own));
            own.drain_for_ever(|stack| state.free.push(stack));
        }
        assert!(own.is_unbound());
    }

    /// As `close` and `StackPool::trim`.
    fn rob_all(&self, then_is_open: bool) {
        let mut state = self.lock();
        state.is_open = then_is_open;
        let State { bins, free, .. } = &mut *state;
        // SAFETY: bins in the list are alive while the lock is held.
        bin::mark_all(bins.iter().map(|bin| unsafe { bin.as_ref() }));
        bins.retain(|bin| {
            // SAFETY: as above.
            let bin = unsafe { bin.as_ref() };
            bin.rob(self, |stack| free.push(stack))
        });
    }

    /// Takes one and uses it.
    fn take_and_use(&self, own: &Bin) -> Option<NonNull<Stack>> {
        let stack = self.take(own)?;
        // SAFETY: the pool lives as long as the run.
        unsafe { stack.as_ref() }.use_it();
        Some(stack)
    }

    fn use_and_give(&self, own: &Bin, stack: NonNull<Stack>) {
        // SAFETY: the pool lives as long as the run.
        unsafe { stack.as_ref() }.use_it();
        self.give(own, stack);
    }

    /// Takes and returns, if there is one.
    fn round(&self, own: &Bin) {
        if let Some(stack) = self.take_and_use(own) {
            self.use_and_give(own, stack);
        }
    }

    /// All threads have left: every stack is in the list, once.
    fn check_all_are_here(&self) {
        let state = self.lock();
        let mut found: Vec<_> = state.free.iter().map(|stack| stack.as_ptr()).collect();
        found.sort();
        found.dedup();
        assert_eq!(
            (found.len(), state.free.len()),
            (self.stacks.len(), self.stacks.len())
        );
        self.stacks.iter().for_each(Stack::use_it);
    }
}

impl State {
    fn rob_one(&mut self, pool: &Pool) {
        // SAFETY: bins in the list are alive while the lock is held.
        let has_stacks = |bin: &NonNull<Bin>| unsafe { bin.as_ref() }.idle() > 0;
        while self.free.is_empty()
            && let Some(at) = self.bins.iter().position(has_stacks)
        {
            // SAFETY: as above.
            let victim = unsafe { self.bins[at].as_ref() };
            bin::mark_all(std::iter::once(victim));
            if !victim.rob(pool, |stack| self.free.push(stack)) {
                self.bins.remove(at);
            }
        }
        if self.free.is_empty() {
            self.rob_first(pool);
        }
    }

    fn rob_first(&mut self, pool: &Pool) {
        let State { bins, free, .. } = self;
        // SAFETY: as above.
        bin::mark_all(bins.iter().map(|bin| unsafe { bin.as_ref() }));
        bins.retain(|bin| {
            // SAFETY: as above.
            let bin = unsafe { bin.as_ref() };
            if !free.is_empty() {
                bin.spare(pool);
                return true;
            }
            bin.rob(pool, |stack| free.push(stack))
        });
    }
}

fn unbound() -> Bin {
    Bin::from_parts(
        [(); 2].map(|()| sync::AtomicU64::new(bin::VACANT)),
        sync::AtomicPtr::new(std::ptr::null_mut()),
        sync::AtomicPtr::new(std::ptr::null_mut()),
        sync::AtomicBool::new(false),
        sync::AtomicUsize::new(0),
        std::array::from_fn(|_| sync::AtomicPtr::new(std::ptr::null_mut())),
    )
}

/// Explores `run`; returns how many orders there were.
fn explore(preemptions: usize, run: impl Fn() + Sync + Send + 'static) -> usize {
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = runs.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        run();
    });
    let orders = runs.load(std::sync::atomic::Ordering::Relaxed);
    println!("{orders} orders");
    orders
}

/// The thread that owns a bin takes and returns, while another takes and robs it.
fn owner_and_robber() {
    let pool = Pool::new(1);
    let other = pool.clone();
    let robber = thread::spawn(move || {
        let bin = unbound();
        other.round(&bin);
        other.leave(&bin);
    });
    let bin = unbound();
    pool.round(&bin); // now it is bound
    pool.round(&bin);
    robber.join().unwrap();
    pool.leave(&bin);
    pool.check_all_are_here();
}

/// The pool is closed, or trimmed, while a thread takes, returns and ends.
fn owner_and_close(then_is_open: bool) {
    let pool = Pool::new(2);
    let other = pool.clone();
    let owner = thread::spawn(move || {
        let bin = unbound();
        let stack = other.take_and_use(&bin).expect("two stacks for one thread");
        let second = other.take_and_use(&bin).expect("two stacks for one thread");
        other.use_and_give(&bin, stack);
        other.use_and_give(&bin, second);
        if then_is_open {
            other.round(&bin);
        }
        other.leave(&bin);
    });
    pool.rob_all(then_is_open);
    owner.join().unwrap();
    pool.check_all_are_here();
}

/// A bin with stacks spills, is robbed by two threads, and its thread ends.
fn owner_and_two_robbers() {
    let pool = Pool::new(2);
    let robbers = [(); 2].map(|()| {
        let pool = pool.clone();
        thread::spawn(move || {
            let bin = unbound();
            pool.round(&bin);
            pool.leave_undisturbed(&bin);
        })
    });
    let bin = unbound();
    pool.round(&bin);
    pool.leave_undisturbed(&bin);
    for robber in robbers {
        robber.join().unwrap();
    }
    pool.check_all_are_here();
}

/// One thread returns the only stack and says so; the other, told, takes it.
fn a_told_thread_finds_the_stack() {
    let pool = Pool::new(1);
    let (told, other) = (Arc::new(sync::AtomicUsize::new(0)), pool.clone());
    let tell = told.clone();
    let owner = thread::spawn(move || {
        let bin = unbound();
        other.round(&bin);
        tell.store(1, sync::Ordering::Release);
        other.leave(&bin);
    });
    let bin = unbound();
    if told.load(sync::Ordering::Acquire) == 1 {
        let stack = pool.take_and_use(&bin).expect("it was returned before");
        pool.use_and_give(&bin, stack);
    }
    owner.join().unwrap();
    pool.leave(&bin);
    pool.check_all_are_here();
}

/// A thread returns more than its bin holds, and takes again, while another robs.
fn a_bin_spills_while_it_is_robbed() {
    let pool = Pool::new(CAPACITY + 1);
    let bin = unbound();
    let stacks = [(); CAPACITY + 1].map(|()| pool.take_and_use(&bin).expect("as many as there are"));
    let other = pool.clone();
    let robber = thread::spawn(move || {
        let bin = unbound();
        other.round(&bin);
        other.leave(&bin);
    });
    for stack in stacks {
        pool.use_and_give(&bin, stack);
    }
    pool.round(&bin);
    robber.join().unwrap();
    pool.leave(&bin);
    pool.check_all_are_here();
}

/// A thread goes on with its lease, while another takes the only stack. One of them gets it, or both do.
fn lease_and_robber() {
    let pool = Pool::new(1);
    let other = pool.clone();
    let bin = unbound();
    assert!(!pool.lease_and_use(&bin, FIRST_LEASE), "there is none yet");
    let robber = thread::spawn(move || {
        let bin = unbound();
        let stack = other.take_and_use(&bin);
        stack.inspect(|stack| other.use_and_give(&bin, *stack));
        other.leave(&bin);
        stack.is_some()
    });
    let is_renewed = pool.lease_and_use(&bin, FIRST_LEASE);
    let is_robbed = robber.join().unwrap();
    assert!(is_renewed || is_robbed, "nobody got the stack, which nobody had");
    pool.leave(&bin);
    pool.check_all_are_here();
}

/// The pool is closed, or trimmed, while a thread uses leases and ends.
fn lease_and_close(then_is_open: bool) {
    let pool = Pool::new(1);
    let other = pool.clone();
    let owner = thread::spawn(move || {
        let bin = unbound();
        other.lease_and_use(&bin, FIRST_LEASE);
        other.lease_and_use(&bin, FIRST_LEASE);
        other.leave(&bin);
    });
    pool.rob_all(then_is_open);
    owner.join().unwrap();
    pool.check_all_are_here();
}

/// A lease is robbed by two threads, and made anew.
fn lease_and_two_robbers() {
    let pool = Pool::new(1);
    let bin = unbound();
    pool.lease_and_use(&bin, FIRST_LEASE);
    let robbers = [(); 2].map(|()| {
        let pool = pool.clone();
        thread::spawn(move || {
            let bin = unbound();
            pool.round(&bin);
            pool.leave(&bin);
        })
    });
    pool.lease_and_use(&bin, FIRST_LEASE);
    pool.leave(&bin);
    for robber in robbers {
        robber.join().unwrap();
    }
    pool.check_all_are_here();
}

/// One thread ends the use of a lease and says so; the other, told, takes the only stack.
fn a_told_thread_finds_the_leased_stack() {
    let pool = Pool::new(1);
    let (told, other) = (Arc::new(sync::AtomicUsize::new(0)), pool.clone());
    let tell = told.clone();
    let owner = thread::spawn(move || {
        let bin = unbound();
        other.lease_and_use(&bin, FIRST_LEASE);
        tell.store(1, sync::Ordering::Release);
        other.leave(&bin);
    });
    let bin = unbound();
    if told.load(sync::Ordering::Acquire) == 1 {
        let stack = pool.take_and_use(&bin).expect("its use was over before");
        pool.use_and_give(&bin, stack);
    }
    owner.join().unwrap();
    pool.leave(&bin);
    pool.check_all_are_here();
}

#[test]
fn every_order_of_a_lease_and_a_robber_is_right() {
    let orders = explore(5, lease_and_robber);
    assert!(orders > 500, "only {orders}");
}

#[test]
fn every_order_of_a_lease_and_a_closing_pool_is_right() {
    let orders = explore(5, || lease_and_close(false));
    assert!(orders > 100, "only {orders}");
}

#[test]
fn every_order_of_a_lease_and_a_trim_is_right() {
    let orders = explore(5, || lease_and_close(true));
    assert!(orders > 100, "only {orders}");
}

#[test]
fn every_order_of_a_lease_and_two_robbers_is_right() {
    let orders = explore(2, lease_and_two_robbers);
    assert!(orders > 500, "only {orders}");
}

#[test]
fn a_thread_that_was_told_of_a_leases_end_finds_the_stack_in_every_order() {
    let orders = explore(5, a_told_thread_finds_the_leased_stack);
    assert!(orders >= 20, "only {orders}");
}

#[test]
fn every_order_of_an_owner_and_a_robber_is_right() {
    let orders = explore(4, owner_and_robber);
    assert!(orders > 500, "only {orders}");
}

#[test]
fn every_order_of_an_owner_and_a_closing_pool_is_right() {
    let orders = explore(5, || owner_and_close(false));
    assert!(orders > 500, "only {orders}");
}

#[test]
fn every_order_of_an_owner_and_a_trim_is_right() {
    let orders = explore(5, || owner_and_close(true));
    assert!(orders > 500, "only {orders}");
}

#[test]
fn every_order_of_an_owner_and_two_robbers_is_right() {
    let orders = explore(3, owner_and_two_robbers);
    assert!(orders > 500, "only {orders}");
}

#[test]
fn a_thread_that_was_told_of_a_return_finds_the_stack_in_every_order() {
    let orders = explore(5, a_told_thread_finds_the_stack);
    assert!(orders >= 20, "only {orders}");
}

#[test]
fn every_order_of_a_spilling_bin_and_a_robber_is_right() {
    let orders = explore(3, a_bin_spills_while_it_is_robbed);
    assert!(orders > 500, "only {orders}");
}

/// Plants an error; the model has to fail.
fn assert_found(error: Planted) {
    assert_found_in(error, owner_and_robber);
}

fn assert_found_in(error: Planted, run: fn()) {
    PLANTED.set(error);
    let found = catch_unwind(AssertUnwindSafe(|| explore(4, run)));
    PLANTED.set(Planted::None);
    assert!(
        found.is_err(),
        "{error:?} was not found in {} orders",
        found.unwrap()
    );
}

#[test]
fn a_lease_without_a_fence_is_found() {
    assert_found_in(Planted::NoLightFence, lease_and_robber);
    assert_found_in(Planted::NoHeavyFence, lease_and_robber);
}

#[test]
fn a_relaxed_end_of_a_lease_is_found() {
    assert_found_in(Planted::LeaseEndIsRelaxed, lease_and_robber);
}

#[test]
fn a_robber_that_takes_what_is_used_is_found() {
    assert_found_in(Planted::RobberTakesWhatIsUsed, lease_and_robber);
}

#[test]
fn a_missing_light_fence_is_found() {
    assert_found(Planted::NoLightFence);
}

#[test]
fn a_missing_heavy_fence_is_found() {
    assert_found(Planted::NoHeavyFence);
}

#[test]
fn a_relaxed_end_of_work_is_found() {
    assert_found(Planted::BusyIsRelaxed);
}

#[test]
fn a_robber_that_does_not_wait_is_found() {
    assert_found(Planted::RobberDoesNotWait);
}
