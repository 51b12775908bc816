use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::find::tests::find_by_assembly;
use super::*;
use crate::stack::limits::KernelLimit;
use crate::testing::in_child;

/// A small pool; each test has a stack size of its own where it looks at extents.
fn pool(max_stacks: usize) -> StackPool {
    StackPool::new(PoolConfig {
        stack_bytes: 64 << 10,
        max_stacks,
        ..PoolConfig::default()
    })
    .expect("a pool")
}

/// Runs `body` in a child process, where it may change limits, and expects it to return.
#[track_caller]
fn succeeds(name: &str, body: impl FnOnce()) {
    let output = in_child(name, || {
        body();
        std::process::exit(0);
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
}

fn write_at(address: usize) {
    // SAFETY: a stack that the test has, or a fault that the test is about.
    unsafe { (address as *mut u8).write_volatile(1) };
}

#[test]
fn the_hottest_stack_is_reused_first() {
    let pool = pool(8);
    let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
    let (a_base, b_base) = (a.base(), b.base());
    drop(a);
    drop(b);
    let again = pool.take().unwrap();
    assert_eq!(again.base(), b_base);
    assert_eq!(pool.take().unwrap().base(), a_base);
}

#[test]
fn a_stack_is_usable_between_its_guard_and_its_base() {
    let pool = pool(40);
    let stacks: Vec<_> = (0..40).map(|_| pool.take().unwrap()).collect();
    for stack in &stacks {
        assert_eq!(stack.base() % 16, 0);
        assert_eq!(stack.guard_bytes(), 4096);
        assert!(stack.base() - stack.limit() <= 68 << 10);
        assert!(stack.base() - stack.limit() - stack.guard_bytes() >= (64 << 10) - 2368);
        assert!(
            stack.base() % 4096 >= 1728,
            "a small frame lies in the header's page"
        );
        write_at(stack.base() - 1);
        write_at(stack.limit() + stack.guard_bytes());
    }
    let colours: std::collections::HashSet<_> = stacks.iter().map(|stack| stack.base() % 4096).collect();
    assert_eq!(colours.len(), 37);
    assert_eq!(stacks[1].limit() - stacks[0].limit(), 68 << 10);
}

#[test]
fn a_full_pool_says_its_numbers() {
    let pool = pool(3);
    let stacks: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
    let error = pool.take().unwrap_err();
    assert_eq!(
        error,
        PoolError::Full {
            in_use: 3,
            max_stacks: 3
        }
    );
    assert_eq!(error.to_string(), "stack pool is full: 3 of 3 in use");
    assert_eq!(
        pool.stats(),
        PoolStats {
            in_use: 3,
            parked: 0,
            created: 3,
            max_stacks: 3
        }
    );
    drop(stacks);
    assert_eq!(
        pool.stats(),
        PoolStats {
            in_use: 0,
            parked: 3,
            created: 3,
            max_stacks: 3
        }
    );
    pool.take().unwrap();
}

#[test]
fn sizes_out_of_range_are_refused_with_their_numbers() {
    let config = PoolConfig {
        stack_bytes: 4096,
        ..PoolConfig::default()
    };
    let error = StackPool::new(config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "stack pool: stack_bytes is 4096, allowed is 8192 to 268435456"
    );
    let config = PoolConfig {
        max_stacks: 0,
        ..PoolConfig::default()
    };
    assert!(matches!(
        StackPool::new(config),
        Err(PoolError::Config {
            field: "max_stacks",
            ..
        })
    ));
    type Change = fn(&mut PoolConfig);
    let refused: [(&str, Change); 6] = [
        ("stack_bytes", |config| config.stack_bytes = 0),
        ("stack_bytes", |config| config.stack_bytes = usize::MAX),
        ("stack_bytes", |config| config.stack_bytes = (256 << 20) + 1),
        ("guard_bytes", |config| config.guard_bytes = 0),
        ("guard_bytes", |config| config.guard_bytes = usize::MAX),
        ("max_stacks", |config| config.max_stacks = usize::MAX),
    ];
    for (name, change) in refused {
        let mut config = PoolConfig::default();
        change(&mut config);
        match StackPool::new(config) {
            Err(PoolError::Config { field, .. }) => assert_eq!(field, name),
            result => panic!("{name}: {result:?}"),
        }
    }
}

#[test]
fn sizes_are_rounded_up_to_pages_and_the_largest_make_stacks() {
    let config = PoolConfig {
        stack_bytes: 8193,
        max_stacks: usize::MAX / 2,
        guard_bytes: 4097,
        keep_resident_bytes: usize::MAX,
        guards: Guards::Auto,
    };
    let pool = StackPool::new(config).unwrap();
    let stacks: Vec<_> = (0..100).map(|_| pool.take().unwrap()).collect();
    for stack in &stacks {
        assert_eq!(stack.guard_bytes(), 2 * PAGE_BYTES);
        assert!(stack.base() - stack.limit() > 16 << 10);
        write_at(stack.limit() + stack.guard_bytes());
    }
    drop(stacks);
    pool.trim();
    let config = PoolConfig {
        stack_bytes: 256 << 20,
        guard_bytes: 256 << 20,
        max_stacks: 1,
        keep_resident_bytes: 0,
        guards: Guards::Auto,
    };
    let stack = StackPool::new(config).unwrap().take().unwrap();
    assert_eq!(stack.guard_bytes(), 256 << 20);
    write_at(stack.limit() + stack.guard_bytes());
    write_at(stack.base() - 1);
}

#[test]
fn a_stack_returned_on_another_thread_is_reused() {
    let pool = pool(1);
    let stack = pool.take().unwrap();
    let base = stack.base();
    std::thread::spawn(move || drop(stack)).join().unwrap();
    assert_eq!(pool.take().unwrap().base(), base);
}

#[test]
fn stacks_in_the_magazine_of_a_living_thread_can_be_taken_by_another() {
    let pool = pool(4);
    drop((0..4).map(|_| pool.take().unwrap()).collect::<Vec<_>>());
    let other = pool.clone();
    let taken = std::thread::spawn(move || (0..4).map(|_| other.take().unwrap()).collect::<Vec<_>>());
    let taken = taken.join().unwrap();
    assert_eq!(
        pool.take().unwrap_err(),
        PoolError::Full {
            in_use: 4,
            max_stacks: 4
        }
    );
    drop(taken);
    pool.take().unwrap();
}

#[test]
fn a_thread_serves_more_pools_than_it_has_bins() {
    let pools: Vec<_> = (0..9).map(|_| pool(2)).collect();
    for _ in 0..3 {
        for pool in &pools {
            let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
            assert!(pool.take().is_err());
            drop((a, b));
        }
    }
}

#[test]
fn stacks_beyond_a_magazine_spill_and_come_back() {
    let pool = StackPool::new(PoolConfig {
        stack_bytes: 32 << 10,
        max_stacks: 100,
        keep_resident_bytes: 8 << 10,
        ..PoolConfig::default()
    });
    let pool = pool.unwrap();
    for round in 0..3 {
        let stacks: Vec<_> = (0..100).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_err());
        let deep: Vec<_> = stacks
            .iter()
            .map(|stack| stack.limit() + stack.guard_bytes())
            .collect();
        let kept = deep.iter().filter(|&&deep| {
            // SAFETY: the stack is taken.
            let found = unsafe { (deep as *const u8).read_volatile() };
            found == 1
        });
        // What waited in the list was trimmed, what waited in the magazine was not.
        assert_eq!(kept.count(), if round == 0 { 0 } else { 12 });
        deep.iter().for_each(|&deep| write_at(deep));
        drop(stacks);
    }
    assert_eq!(pool.stats().created, 100);
}

#[test]
fn many_threads_never_share_a_stack_and_never_find_the_pool_full() {
    const THREADS: usize = 4;
    let pool = pool(THREADS * 2);
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pool, taken) = (&pool, &taken);
            scope.spawn(move || {
                for round in 0..3000 {
                    // Other threads may have stacks on their way into the list: two each, of two each.
                    let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
                    for stack in [&a, &b] {
                        let mine = ((thread << 32) | (round + 1)) as *mut ();
                        assert!(stack.header().owner().is_null());
                        stack.header().register(mine);
                        assert_eq!(stack.header().owner(), mine);
                    }
                    taken.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(taken.load(Ordering::Relaxed), THREADS * 2 * 3000);
    assert!(pool.stats().created <= THREADS * 2);
}

#[test]
fn returned_stacks_on_their_way_into_the_list_do_not_make_a_pool_full() {
    const ROUNDS: usize = 40;
    let pool = StackPool::new(PoolConfig {
        stack_bytes: 1 << 20,
        max_stacks: magazine::CAPACITY + 1,
        keep_resident_bytes: 0,
        ..PoolConfig::default()
    });
    let pool = pool.unwrap();
    let mut errors = Vec::new();
    let turn = AtomicUsize::new(0);
    let wait_for = |wanted| {
        while turn.load(Ordering::Acquire) < wanted {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let mut stacks: Vec<_> = (0..=magazine::CAPACITY).map(|_| pool.take().unwrap()).collect();
                for stack in &stacks {
                    // What trimming a batch of them takes time for.
                    (stack.limit() + stack.guard_bytes()..stack.base())
                        .step_by(PAGE_BYTES)
                        .for_each(write_at);
                }
                stacks.truncate(1);
                turn.store(2 * round + 1, Ordering::Release);
                drop(stacks); // the bin spills
                wait_for(2 * round + 2);
            }
        });
        for round in 0..ROUNDS {
            wait_for(2 * round + 1);
            let taken: Vec<_> = (0..magazine::CAPACITY).map(|_| pool.take()).collect();
            errors.extend(taken.into_iter().filter_map(Result::err));
            turn.store(2 * round + 2, Ordering::Release);
        }
    });
    assert_eq!(errors, [], "only one stack of 17 was not returned");
}

#[test]
fn a_pool_gives_its_memory_back_when_the_last_stack_is_gone() {
    let config = PoolConfig {
        stack_bytes: 52 << 10,
        max_stacks: 4,
        ..PoolConfig::default()
    };
    let first = StackPool::new(config).unwrap();
    let stack = first.take().unwrap();
    let (limit, deep) = (stack.limit(), stack.base() - 100);
    write_at(deep);
    drop(first);
    write_at(deep); // still ours
    drop(stack);
    let second = StackPool::new(config).unwrap();
    let stack = second.take().unwrap();
    assert_eq!(stack.limit(), limit, "the extent is reused");
    // SAFETY: the same stack, taken again.
    let found = unsafe { (deep as *const u8).read_volatile() };
    assert_eq!(found, 0, "and was empty");
}

#[test]
fn slot_of_finds_the_slot_of_any_address_in_it_and_no_other() {
    let pool = StackPool::new(PoolConfig {
        stack_bytes: 44 << 10,
        max_stacks: 50,
        ..PoolConfig::default()
    });
    let pool = pool.unwrap();
    let stacks: Vec<_> = (0..50).map(|_| pool.take().unwrap()).collect();
    for stack in &stacks {
        let header = core::ptr::from_ref(&*stack.header()) as usize;
        for address in [
            stack.limit(),
            stack.limit() + 4096,
            stack.base() - 1,
            stack.base(),
            header,
            header + 63,
        ] {
            assert_eq!(
                slot_of(address).map(|slot| core::ptr::from_ref(slot) as usize),
                Some(header)
            );
            assert_eq!(find_by_assembly(address), header);
        }
    }
    let local = 0u8;
    let start = REGION_START.load(Ordering::Relaxed);
    let end = start + REGION_BYTES.load(Ordering::Relaxed);
    for address in [
        0,
        1,
        (&raw const local) as usize,
        start - 1,
        end,
        end + 1,
        end - 1,
        usize::MAX,
    ] {
        assert!(slot_of(address).is_none(), "{address:#x}");
        assert_eq!(find_by_assembly(address), 0);
    }
    // The rest of an extent, too small for a slot.
    let id = GRANULES[(stacks[0].limit() - start) / GRANULE_BYTES].load(Ordering::Relaxed) as usize;
    let extent = &EXTENTS[id];
    let rest = extent.start.load(Ordering::Relaxed)
        + extent.stride.load(Ordering::Relaxed) * extent.slots.load(Ordering::Relaxed);
    assert!(rest < extent.start.load(Ordering::Relaxed) + GRANULE_BYTES);
    assert!(slot_of(rest).is_none());
    assert_eq!(find_by_assembly(rest), 0);
}

#[test]
fn the_reciprocal_of_a_stride_divides_every_page_of_the_region() {
    const PAGES: usize = GRANULE_COUNT * GRANULE_BYTES / PAGE_BYTES;
    for stride in (2..2000).chain([1 << 20, (1 << 20) + 1, PAGES - 1, PAGES]) {
        let reciprocal = super::region::reciprocal_of(stride * PAGE_BYTES) as u128;
        // Where the quotient changes it is decided by least.
        for multiple in [1, 2, 3, PAGES / stride / 2, PAGES / stride] {
            let first = (multiple * stride).clamp(1, PAGES - 1);
            for page in [first - 1, first, PAGES - 1] {
                let index = (page as u128 * reciprocal) >> 64;
                assert_eq!(index, (page / stride) as u128, "page {page}, stride {stride}");
            }
        }
    }
}

fn touch_the_guard(name: &str, guards: Guards, offset: usize) {
    let output = in_child(name, || {
        let config = PoolConfig {
            guards,
            max_stacks: 4,
            ..PoolConfig::default()
        };
        let stacks: Vec<_> = StackPool::new(config)
            .map(|pool| [(); 4].map(|()| pool.take().unwrap()))
            .into_iter()
            .collect();
        let stack = &stacks[0][2];
        write_at(stack.limit() + stack.guard_bytes());
        write_at(stack.limit() - 1); // the header of the slot below
        write_at(stack.limit() + offset);
    });
    let signal = output.status.signal();
    assert_eq!(
        signal,
        Some(libc::SIGSEGV),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_guard_faults_at_its_last_byte() {
    touch_the_guard(
        "stack::pool::tests::the_guard_faults_at_its_last_byte",
        Guards::Auto,
        4095,
    );
}

#[test]
fn the_guard_faults_at_its_first_byte() {
    touch_the_guard(
        "stack::pool::tests::the_guard_faults_at_its_first_byte",
        Guards::Auto,
        0,
    );
}

#[test]
fn a_protected_guard_faults_too() {
    touch_the_guard(
        "stack::pool::tests::a_protected_guard_faults_too",
        Guards::Protect,
        4095,
    );
}

#[test]
fn stacks_of_more_than_a_granule_are_found_from_end_to_end() {
    let config = PoolConfig {
        stack_bytes: 100 << 20,
        max_stacks: 3,
        ..PoolConfig::default()
    };
    let pool = StackPool::new(config).unwrap();
    let stacks = [(); 3].map(|()| pool.take().unwrap());
    assert!(pool.take().is_err());
    for stack in &stacks {
        let header = core::ptr::from_ref(&*stack.header()) as usize;
        for address in (stack.limit()..stack.base())
            .step_by(8 << 20)
            .chain([stack.base() - 1])
        {
            assert_eq!(find_by_assembly(address), header);
            assert!(slot_of(address).is_some_and(|slot| core::ptr::eq(slot, &*stack.header())));
        }
    }
}

#[test]
fn thousands_of_guarded_stacks_are_a_few_mappings() {
    succeeds(
        "stack::pool::tests::thousands_of_guarded_stacks_are_a_few_mappings",
        || {
            let mappings = || {
                std::fs::read_to_string("/proc/self/maps")
                    .expect("maps")
                    .lines()
                    .count()
            };
            let pool = StackPool::new(PoolConfig {
                stack_bytes: 16 << 10,
                max_stacks: 5000,
                ..PoolConfig::default()
            });
            let pool = pool.unwrap();
            let mut stacks = Vec::with_capacity(5000);
            let before = mappings();
            stacks.extend((0..5000).map(|_| pool.take().unwrap()));
            let after = mappings();
            if guard::is_supported() {
                assert!(after <= before + 3, "{before} before, {after} after");
            } else {
                assert!(after >= before + 5000, "{before} before, {after} after");
            }
        },
    );
}

#[test]
fn threads_that_end_give_their_stacks_back() {
    let pool = pool(8);
    for _ in 0..20 {
        let other = pool.clone();
        let take = move || drop((0..8).map(|_| other.take().unwrap()).collect::<Vec<_>>());
        std::thread::spawn(take).join().unwrap();
        assert_eq!(
            pool.stats(),
            PoolStats {
                in_use: 0,
                parked: 8,
                created: 8,
                max_stacks: 8
            }
        );
    }
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "emulators count their own mappings")]
fn too_many_protected_guards_are_an_error_that_names_the_limit() {
    const MAX_STACKS: usize = 40_000;
    let name = "stack::pool::tests::too_many_protected_guards_are_an_error_that_names_the_limit";
    succeeds(name, || {
        let guards = Guards::Protect;
        let pool = StackPool::new(PoolConfig {
            stack_bytes: 8192,
            max_stacks: MAX_STACKS,
            guards,
            ..PoolConfig::default()
        });
        let pool = pool.unwrap();
        let mut stacks = Vec::with_capacity(MAX_STACKS + 1);
        let error = loop {
            match pool.take() {
                Ok(stack) => stacks.push(stack),
                Err(error) => break error,
            }
        };
        match error {
            PoolError::Guard {
                errno: libc::ENOMEM,
                limit: KernelLimit::Mappings { in_use, max },
                ..
            } => {
                assert!(in_use >= max - 2);
                assert!(stacks.len() > max / 3 && stacks.len() < max);
                let text = error.to_string();
                assert!(
                    text.contains(&format!("vm.max_map_count is {max}: raise that")),
                    "{text}"
                );
                stacks.pop();
                pool.take().unwrap();
            }
            // A machine with a higher limit.
            error => assert_eq!(
                error,
                PoolError::Full {
                    in_use: MAX_STACKS,
                    max_stacks: MAX_STACKS
                }
            ),
        }
    });
}

/// Writes to the deepest byte of each stack, and returns them.
fn use_deeply(stacks: Vec<PooledStack>) {
    for stack in &stacks {
        write_at(stack.limit() + stack.guard_bytes());
    }
    drop(stacks);
}

/// A pool of its own extent, whose stacks keep two pages.
fn keeping_pool(stack_bytes: usize, max_stacks: usize) -> StackPool {
    let config = PoolConfig {
        stack_bytes,
        max_stacks,
        keep_resident_bytes: 2 * PAGE_BYTES,
        ..PoolConfig::default()
    };
    StackPool::new(config).expect("a pool")
}

#[test]
#[cfg_attr(
    not(target_arch = "x86_64"),
    ignore = "emulators do not tell what is resident"
)]
fn a_thread_that_ends_trims_what_it_returns() {
    let pool = keeping_pool(72 << 10, 16);
    let other = pool.clone();
    let work = move || {
        use_deeply((0..16).map(|_| other.take().unwrap()).collect());
        assert_eq!(other.resident_bytes(), 32 * PAGE_BYTES, "what is at hand is kept");
    };
    std::thread::spawn(work).join().unwrap();
    assert_eq!(pool.resident_bytes(), 16 * PAGE_BYTES, "the rest is given back");
}

#[test]
#[cfg_attr(
    not(target_arch = "x86_64"),
    ignore = "emulators do not tell what is resident"
)]
fn trimming_leaves_a_page_to_each_parked_stack_of_any_thread() {
    let pool = keeping_pool(76 << 10, 40);
    let kept = pool.take().unwrap();
    let deep = kept.limit() + kept.guard_bytes();
    write_at(deep);
    use_deeply((0..20).map(|_| pool.take().unwrap()).collect());
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (other, (ready, is_ready)) = (pool.clone(), std::sync::mpsc::channel());
    let thread = std::thread::spawn(move || {
        use_deeply((0..9).map(|_| other.take().unwrap()).collect());
        ready.send(()).unwrap();
        wait.recv().unwrap();
        other.take().unwrap().limit() // its bin was taken away
    });
    is_ready.recv().unwrap();
    let before = pool.resident_bytes();
    pool.trim();
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.parked), (1, stats.created - 1));
    assert_eq!(pool.resident_bytes(), (stats.parked + 2) * PAGE_BYTES);
    assert!(before > pool.resident_bytes());
    // SAFETY: the stack is taken.
    let found = unsafe { (deep as *const u8).read_volatile() };
    assert_eq!(found, 1, "a taken stack keeps what it has");
    go.send(()).unwrap();
    assert_ne!(thread.join().unwrap(), kept.limit());
    pool.trim(); // nothing to do but for one stack
    assert_eq!(pool.resident_bytes(), (stats.parked + 2) * PAGE_BYTES);
}

#[test]
#[cfg_attr(
    not(target_arch = "x86_64"),
    ignore = "emulators do not tell what is resident"
)]
fn stacks_that_come_back_after_their_pool_is_gone_give_their_memory_back() {
    let pool = keeping_pool(80 << 10, 4);
    let stacks = [(); 3].map(|()| pool.take().unwrap());
    let starts = stacks.each_ref().map(|stack| stack.limit() + stack.guard_bytes());
    starts.iter().for_each(|&start| write_at(start));
    drop(pool);
    let resident = |at: usize| resident::resident_bytes(starts[at], 72 << 10);
    let [a, b, c] = stacks;
    assert_eq!(resident(0), PAGE_BYTES);
    drop(a);
    assert_eq!(resident(0), 0);
    std::thread::spawn(move || drop(b)).join().unwrap();
    assert_eq!((resident(1), resident(2)), (0, PAGE_BYTES));
    drop(c);
    assert_eq!(resident(2), 0);
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "emulators do not lock memory")]
fn a_guard_in_locked_memory_is_protected_instead() {
    let name = "stack::pool::tests::a_guard_in_locked_memory_is_protected_instead";
    succeeds(name, || {
        let config = PoolConfig {
            stack_bytes: 8192,
            max_stacks: 64,
            ..PoolConfig::default()
        };
        let pool = StackPool::new(config).unwrap();
        let mut stacks = vec![pool.take().unwrap()];
        let stride = 12 << 10;
        let behind = stacks[0].limit() + 16 * stride; // the first 16 have guards
        // SAFETY: locking changes nothing but where pages are.
        let locked = unsafe { libc::mlock2(behind as *const _, stride, libc::MLOCK_ONFAULT) };
        assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
        stacks.extend((1..64).map(|_| pool.take().unwrap()));
        for stack in &stacks {
            assert_eq!(guard::is_unreadable(stack.limit() as *const _), Some(true));
            let usable = stack.limit() + stack.guard_bytes();
            assert_eq!(guard::is_unreadable(usable as *const _), Some(false));
        }
        if !guard::is_supported() {
            std::process::exit(0); // then it is protected anyway
        }
        // SAFETY: a page that is a guard already.
        let advised = unsafe { libc::madvise(behind as *mut _, PAGE_BYTES, 102) };
        assert_eq!(advised, -1, "this kernel makes guards in locked memory too");
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let protected = format!("{behind:x}-{:x} ---p", behind + PAGE_BYTES);
        assert!(maps.contains(&protected), "{protected}\n{maps}");
    });
}

#[test]
fn a_readable_page_is_told_from_one_that_is_not() {
    let byte = 0u8;
    assert_eq!(guard::is_unreadable((&raw const byte).cast()), Some(false));
    assert_eq!(guard::is_unreadable(core::ptr::null()), Some(true));
}

/// Sets a limit of this process, for child processes.
fn set_limit(resource: libc::__rlimit_resource_t, bytes: usize) {
    let limit = libc::rlimit {
        rlim_cur: bytes as u64,
        rlim_max: bytes as u64,
    };
    // SAFETY: a valid limit.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "emulators do not apply limits")]
fn too_little_address_space_is_an_error_that_names_the_limit() {
    let name = "stack::pool::tests::too_little_address_space_is_an_error_that_names_the_limit";
    succeeds(name, || {
        set_limit(libc::RLIMIT_AS, 8 << 30);
        let error = StackPool::new(PoolConfig::default()).unwrap_err();
        let PoolError::Reserve { bytes, errno, limit } = error else {
            panic!("{error}");
        };
        assert_eq!((bytes, errno), (16 << 30, libc::ENOMEM));
        assert!(matches!(
            limit,
            KernelLimit::AddressSpace {
                max_bytes: 0x2_0000_0000,
                ..
            }
        ));
        let text = error.to_string();
        assert!(
            text.contains("RLIMIT_AS is 8589934592: raise that (ulimit -v)"),
            "{text}"
        );
    });
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "emulators do not apply limits")]
fn less_address_space_than_wanted_makes_a_smaller_region() {
    let name = "stack::pool::tests::less_address_space_than_wanted_makes_a_smaller_region";
    succeeds(name, || {
        set_limit(libc::RLIMIT_AS, 40 << 30);
        let pool = StackPool::new(PoolConfig::default()).unwrap();
        assert_eq!(REGION_BYTES.load(Ordering::Relaxed), 32 << 30);
        pool.take().unwrap();
        // What is full then says why it is not larger.
        let large = StackPool::new(PoolConfig {
            stack_bytes: 256 << 20,
            ..PoolConfig::default()
        });
        let large = large.unwrap();
        let mut stacks = Vec::new();
        let error = loop {
            match large.take() {
                Ok(stack) => stacks.push(stack),
                Err(error) => break error,
            }
        };
        assert!(stacks.len() > 60, "{}", stacks.len());
        let PoolError::RegionFull {
            region_bytes, limit, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(region_bytes, 32 << 30);
        assert!(matches!(limit, Some(KernelLimit::AddressSpace { max_bytes, .. }) if max_bytes == 40 << 30));
        let text = error.to_string();
        assert!(
            text.contains("of 34359738368 free; a larger one was refused: ")
                && text.contains("RLIMIT_AS is 42949672960"),
            "{text}"
        );
    });
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "emulators do not apply limits")]
fn scarce_address_space_is_left_to_others() {
    let name = "stack::pool::tests::scarce_address_space_is_left_to_others";
    succeeds(name, || {
        set_limit(libc::RLIMIT_AS, 500 << 30);
        let pool = StackPool::new(PoolConfig::default()).unwrap();
        assert_eq!(REGION_BYTES.load(Ordering::Relaxed), 64 << 30);
        pool.take().unwrap();
    });
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "emulators do not apply limits")]
fn too_little_writable_memory_is_an_error_that_names_the_limit() {
    let name = "stack::pool::tests::too_little_writable_memory_is_an_error_that_names_the_limit";
    succeeds(name, || {
        set_limit(libc::RLIMIT_DATA, 60 << 20);
        let pool = StackPool::new(PoolConfig::default()).unwrap();
        let error = pool.take().unwrap_err();
        assert!(
            matches!(error, PoolError::Commit { bytes, limit: KernelLimit::Data { max_bytes, .. }, .. }
                if bytes == GRANULE_BYTES && max_bytes == 60 << 20),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("RLIMIT_DATA is 62914560: raise that (ulimit -d)"),
            "{text}"
        );
        set_limit(libc::RLIMIT_DATA, 60 << 20);
        assert!(pool.take().is_err(), "and again");
    });
}

/// A stack that its thread returns when it ends.
struct LastStack(PooledStack);

thread_local! {
    static EARLY: std::cell::RefCell<Option<LastStack>> = const { std::cell::RefCell::new(None) };
    static LATE: std::cell::RefCell<Option<LastStack>> = const { std::cell::RefCell::new(None) };
}

impl Drop for LastStack {
    fn drop(&mut self) {
        // The thread's bins may be gone already: all of this works without.
        let address = self.0.base() - 8;
        write_at(address);
    }
}

#[test]
#[cfg_attr(
    not(target_arch = "x86_64"),
    ignore = "emulators do not tell what is resident"
)]
fn stacks_in_thread_locals_are_returned_and_trimmed_whatever_the_order() {
    let pool = keeping_pool(84 << 10, 8);
    let other = pool.clone();
    let work = move || {
        EARLY.with(|early| assert!(early.borrow().is_none())); // dropped before or after the thread's bins
        let stacks = (0..6).map(|_| other.take().unwrap()).collect::<Vec<_>>();
        stacks
            .iter()
            .for_each(|stack| write_at(stack.limit() + stack.guard_bytes()));
        let mut stacks = stacks.into_iter();
        EARLY.set(stacks.next().map(LastStack));
        drop(stacks.next());
        LATE.set(stacks.next().map(LastStack));
    };
    std::thread::spawn(work).join().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.parked, stats.created), (0, 6, 6));
    assert_eq!(pool.resident_bytes(), 6 * PAGE_BYTES);
}
