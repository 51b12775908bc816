use core::ptr::without_provenance_mut;
use std::collections::HashSet;
use std::sync::mpsc::channel;

use super::super::{PoolConfig, resident, slot_of};
use super::*;
use crate::stack::PAGE_BYTES;

fn pool(max_stacks: usize) -> StackPool {
    pool_of(64 << 10, max_stacks)
}

/// A pool with a stack size of its own, where a test looks at extents.
fn pool_of(stack_bytes: usize, max_stacks: usize) -> StackPool {
    let config = PoolConfig {
        stack_bytes,
        max_stacks,
        keep_resident_bytes: 0,
        ..PoolConfig::default()
    };
    StackPool::new(config).expect("a pool")
}

#[track_caller]
fn lease(pool: &StackPool) -> LeasedStack<'_> {
    match pool.lease().expect("there is a stack") {
        Lent::Leased(stack) => stack,
        Lent::Taken(stack) => panic!("{stack:?} is not leased"),
    }
}

/// Leases a stack, leaves a word on it, and gives its id and its base.
fn leave(pool: &StackPool, word: u64) -> (LeaseId, usize) {
    let stack = lease(pool);
    // SAFETY: the stack is ours, and has a page at least.
    unsafe { ((stack.base() - 8) as *mut u64).write(word) };
    (stack.id(), stack.base())
}

fn read(base: usize) -> u64 {
    // SAFETY: the top of a stack of the test's pool, which nobody else uses.
    unsafe { ((base - 8) as *const u64).read() }
}

fn in_use(pool: &StackPool) -> (usize, usize) {
    let stats = pool.stats();
    (stats.in_use, stats.parked)
}

fn full(pool: &StackPool) -> bool {
    matches!(pool.take(), Err(PoolError::Full { .. })) && matches!(pool.lease(), Err(PoolError::Full { .. }))
}

#[test]
fn a_lease_goes_on_with_the_stack_as_it_was_left() {
    let pool = pool(4);
    let (id, base) = leave(&pool, 7);
    for word in 7..20 {
        let again = pool.renew(Some(id)).expect("nobody else came");
        assert_eq!((again.id(), again.base(), read(base)), (id, base, word));
        // SAFETY: the stack is ours.
        unsafe { ((base - 8) as *mut u64).write(word + 1) };
    }
}

#[test]
fn a_lease_in_use_is_not_renewed_and_others_on_the_thread_take_a_stack() {
    let pool = pool(2);
    let first = lease(&pool);
    assert!(pool.renew(Some(first.id())).is_none());
    let second = match pool.lease() {
        Ok(Lent::Taken(stack)) => stack,
        other => panic!("{other:?}"),
    };
    assert_ne!(first.base(), second.base());
    assert!(full(&pool));
    drop(first);
    drop(second);
    assert_eq!(in_use(&pool), (0, 2));
}

#[test]
fn what_names_no_lease_is_not_renewed() {
    let pool = pool(1);
    assert!(pool.renew(None).is_none());
    drop(lease(&pool));
    assert!(pool.renew(None).is_none());
    for tag in [0, 1, 255] {
        assert!(pool.renew(Some(LeaseId::none(tag))).is_none());
    }
}

#[test]
fn a_lease_counts_as_parked_while_it_waits_and_as_taken_while_it_is_in_use() {
    let pool = pool(3);
    let stack = lease(&pool);
    let id = stack.id();
    let created = pool.stats().created;
    assert_eq!(in_use(&pool), (1, created - 1));
    drop(stack);
    assert_eq!(in_use(&pool), (0, created));
    let stack = pool.renew(Some(id)).expect("nobody else came");
    assert_eq!(in_use(&pool), (1, created - 1));
    drop(stack);
    assert_eq!(in_use(&pool), (0, created));
}

#[test]
fn the_next_lease_of_the_thread_gets_the_stack_under_another_number() {
    let pool = pool(4);
    let (id, base) = leave(&pool, 1);
    let (other, other_base) = leave(&pool, 2);
    assert_eq!(base, other_base);
    assert_ne!(id, other);
    assert!(pool.renew(Some(id)).is_none());
    assert!(pool.renew(Some(other)).is_some());
}

#[test]
fn a_waiting_lease_is_taken_on_its_own_thread_when_nothing_else_is_there() {
    let pool = pool(1);
    let stack = lease(&pool);
    stack.header().register(without_provenance_mut(16));
    let (id, base) = (stack.id(), stack.base());
    assert!(full(&pool));
    drop(stack);
    let taken = pool.take().expect("nobody uses it");
    assert_eq!(taken.base(), base);
    assert!(taken.header().owner().is_null(), "its user is forgotten");
    assert!(pool.renew(Some(id)).is_none());
    assert_eq!(in_use(&pool), (1, 0));
    drop(taken);
    assert_eq!(lease(&pool).base(), base);
}

#[test]
fn another_thread_that_finds_the_pool_exhausted_gets_a_waiting_lease_but_none_in_use() {
    let pool = pool(1);
    let stack = lease(&pool);
    stack.header().register(without_provenance_mut(16));
    let (id, base) = (stack.id(), stack.base());
    std::thread::scope(|scope| {
        scope
            .spawn(|| assert!(full(&pool), "it is in use"))
            .join()
            .unwrap();
    });
    drop(stack);
    std::thread::scope(|scope| {
        let robber = scope.spawn(|| {
            let taken = pool.take().expect("nobody uses it");
            assert_eq!(taken.base(), base);
            assert!(taken.header().owner().is_null(), "its user is forgotten");
            assert!(pool.renew(Some(id)).is_none(), "it is another thread's");
        });
        robber.join().unwrap();
    });
    assert!(pool.renew(Some(id)).is_none());
    assert_eq!(in_use(&pool), (0, 1));
    drop(lease(&pool));
}

#[test]
fn trimming_ends_leases_that_wait_and_spares_those_in_use() {
    let pool = pool(4);
    let (id, base) = leave(&pool, 5);
    let deep = base - 3 * PAGE_BYTES;
    // SAFETY: the stack waits for this thread, and nobody else uses it.
    unsafe { (deep as *mut u8).write(1) };
    pool.trim();
    assert!(pool.renew(Some(id)).is_none());
    // SAFETY: as above; the memory is the pool's.
    assert_eq!(unsafe { (deep as *const u8).read() }, 0);
    let stack = lease(&pool);
    let deep = stack.base() - 3 * PAGE_BYTES;
    // SAFETY: the stack is ours.
    unsafe { (deep as *mut u8).write(1) };
    let id = stack.id();
    pool.trim();
    drop(stack);
    // SAFETY: as above.
    assert_eq!(unsafe { (deep as *const u8).read() }, 1);
    assert!(pool.renew(Some(id)).is_some(), "its bin is still the pool's");
}

#[test]
fn a_thread_that_ends_gives_its_waiting_lease_back() {
    let pool = pool(1);
    let theirs = std::thread::scope(|scope| scope.spawn(|| leave(&pool, 1)).join().unwrap());
    assert_eq!(in_use(&pool), (0, 1));
    assert!(pool.renew(Some(theirs.0)).is_none());
    assert_eq!(lease(&pool).base(), theirs.1);
}

#[test]
fn a_forgotten_lease_is_lost_to_its_pool_and_harms_nobody_when_its_thread_is_gone() {
    let pool = pool(2);
    let thread = || std::mem::forget(lease(&pool));
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap());
    assert_eq!(pool.stats().in_use, 1);
    let other = pool.take().expect("one is left");
    assert!(
        full(&pool),
        "whose search does not come by the thread that is gone"
    );
    pool.trim();
    drop(other);
    drop(lease(&pool));
}

#[test]
#[cfg_attr(
    not(target_arch = "x86_64"),
    ignore = "emulators do not tell what is resident"
)]
fn a_pool_that_is_dropped_gives_the_memory_of_a_waiting_lease_back() {
    let pool = pool_of(88 << 10, 2);
    let (id, base) = leave(&pool, 3);
    let page = (base - 8) / PAGE_BYTES * PAGE_BYTES;
    assert_eq!(resident::resident_bytes(page, PAGE_BYTES), PAGE_BYTES);
    drop(pool);
    assert_eq!(resident::resident_bytes(page, PAGE_BYTES), 0);
    let next = pool_of(88 << 10, 2);
    assert!(next.renew(Some(id)).is_none(), "numbers are not used again");
    assert_eq!(
        slot_of(page).map(|slot| slot.owner()),
        Some(core::ptr::null_mut())
    );
}

#[test]
fn leases_of_more_pools_than_a_thread_has_bins_are_in_use_at_once() {
    let pools: Vec<_> = (0..7).map(|_| pool(2)).collect();
    let mut leased = Vec::new();
    let mut taken = Vec::new();
    for pool in &pools {
        match pool.lease().expect("there is a stack") {
            Lent::Leased(stack) => leased.push(stack),
            Lent::Taken(stack) => taken.push(stack),
        }
    }
    assert_eq!((leased.len(), taken.len()), (4, 3), "one in each bin");
    let bases: HashSet<_> = leased
        .iter()
        .map(Stack::base)
        .chain(taken.iter().map(Stack::base))
        .collect();
    assert_eq!(bases.len(), 7);
    drop((leased, taken));
    // Each in turn: bins whose lease is in use no more are given up for others.
    for _ in 0..3 {
        for pool in &pools {
            let id = lease(pool).id();
            assert!(pool.renew(Some(id)).is_some());
            assert_eq!(pool.stats().in_use, 0);
        }
    }
}

#[test]
fn a_lease_of_one_pool_and_then_of_another_does_not_go_on_but_is_made_anew() {
    let pools = [pool(2), pool(2)];
    let (first, base) = leave(&pools[0], 1);
    let (second, _) = leave(&pools[1], 2);
    assert!(
        pools[0].renew(Some(first)).is_none(),
        "the thread has one lease at hand"
    );
    assert!(pools[1].renew(Some(second)).is_some());
    let again = lease(&pools[0]);
    assert_eq!(again.base(), base, "its stack is still there");
}

#[test]
fn numbers_of_leases_are_given_once() {
    let pool = pool(8);
    let (send, receive) = channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let send = send.clone();
            let pool = &pool;
            scope.spawn(move || (0..1000).for_each(|word| send.send(leave(pool, word).0).unwrap()));
        }
    });
    drop(send);
    let ids: HashSet<_> = receive.iter().collect();
    assert_eq!(ids.len(), 4000);
}

#[test]
fn a_thread_keeps_its_lease_from_destructors_of_its_thread_locals_too() {
    /// Uses the pool when the thread ends, before or after the pool's own destructor.
    struct Late(StackPool);
    impl Drop for Late {
        fn drop(&mut self) {
            for _ in 0..2 {
                drop(self.0.lease().expect("there is a stack"));
                drop(self.0.take().expect("there is a stack"));
            }
        }
    }
    thread_local! {
        static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) };
    }
    for pool_first in [true, false] {
        let pool = pool(1);
        let use_both = || {
            if pool_first {
                drop(lease(&pool));
            }
            LATE.set(Some(Late(pool.clone())));
            drop(lease(&pool));
        };
        std::thread::scope(|scope| scope.spawn(use_both).join().unwrap());
        assert_eq!(in_use(&pool), (0, 1));
        drop(pool.take().expect("it came back"));
    }
}
