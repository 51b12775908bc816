//! Random sequences of what can be done with pools, against a slow model that knows nothing of bins' code.
//!
//! In the first half one operation runs at a time, on one of several threads, so that the model can tell what
//! has to come of it; in the second all threads run at once, and what must hold in any order is checked. A failure
//! prints its seed; `POOL_SEED=n` runs that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::without_provenance_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use fibers::Stack;
use fibers::pool::{LeaseId, Lent, PoolConfig, PoolError, PooledStack, StackPool};

const PAGE_BYTES: usize = 4096;

/// The stacks that a thread has at hand, at most, without giving their memory back.
const AT_HAND: usize = 16;

/// The stacks at hand that were returned last stay there when others spill.
const SURELY_AT_HAND: usize = 8;

/// Fewer where an emulator is at work.
const SEQUENCES: u64 = if cfg!(target_arch = "x86_64") { 1500 } else { 75 };
const CONTENDED: u64 = if cfg!(target_arch = "x86_64") { 60 } else { 3 };
const STEPS: usize = 40;
const MAX_THREADS: usize = 4;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

/// Prints the seed of a sequence that fails.
struct SeedOf(u64);

impl Drop for SeedOf {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("POOL_SEED={}", self.0);
        }
    }
}

/// The seeds to run.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let chosen = std::env::var("POOL_SEED").ok();
    chosen.map_or(0..count, |seed| {
        let seed = seed.parse().expect("POOL_SEED is a number");
        seed..seed + 1
    })
}

/// What is written into a stack: at its base, and sometimes as deep as it goes.
fn write(stack: &impl Stack, tag: u64, is_deep: bool) {
    // SAFETY: the stack is ours, and has a page at least.
    unsafe { ((stack.base() - 8) as *mut u64).write(tag) };
    if is_deep {
        // SAFETY: as above; the guard ends there.
        unsafe { ((stack.limit() + stack.guard_bytes()) as *mut u64).write(tag) };
    }
}

/// The words that `write` writes.
fn read(stack: &impl Stack) -> [u64; 2] {
    [stack.base() - 8, stack.limit() + stack.guard_bytes()].map(|at| {
        // SAFETY: the stack is ours, and both ends of it are readable.
        unsafe { (at as *const u64).read() }
    })
}

/// A thread that does what it is told.
struct Worker {
    tasks: Sender<Box<dyn FnOnce() + Send>>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn new() -> Worker {
        let (tasks, received) = channel::<Box<dyn FnOnce() + Send>>();
        let thread = std::thread::spawn(move || received.iter().for_each(|task| task()));
        Worker { tasks, thread }
    }

    /// Runs `task` there, and waits for it.
    fn run<R: Send + 'static>(&self, task: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, answers): (Sender<R>, Receiver<R>) = channel();
        let task = move || drop(answer.send(task()));
        self.tasks.send(Box::new(task)).expect("the worker lives");
        answers.recv().expect("the task does not panic")
    }

    fn end(self) {
        drop(self.tasks);
        self.thread.join().expect("the worker ends well");
    }
}

/// A pool, and what the model knows of it.
struct Modelled {
    pool: StackPool,
    max_stacks: usize,
    /// Every stack it ever gave, by limit.
    seen: BTreeSet<usize>,
    /// Those that are taken, with their tags.
    taken: Vec<(PooledStack, u64)>,
    /// The stacks that each thread has returned, hottest last, as far as the model knows what it has.
    at_hand: BTreeMap<usize, Vec<usize>>,
}

impl Modelled {
    fn new(random: &mut Random) -> Modelled {
        let max_stacks = 1 + random.below(70);
        let config = PoolConfig {
            stack_bytes: (3 + random.below(3)) * PAGE_BYTES,
            max_stacks,
            keep_resident_bytes: random.below(2) * PAGE_BYTES,
            ..PoolConfig::default()
        };
        Modelled {
            pool: StackPool::new(config).expect("a pool"),
            max_stacks,
            seen: BTreeSet::new(),
            taken: Vec::new(),
            at_hand: BTreeMap::new(),
        }
    }

    fn take(&mut self, on: usize, worker: &Worker, tag: u64, is_deep: bool) {
        let pool = self.pool.clone();
        let result = worker.run(move || pool.take());
        if self.taken.len() == self.max_stacks {
            let full = PoolError::Full {
                in_use: self.max_stacks,
                max_stacks: self.max_stacks,
            };
            assert_eq!(result.expect_err("all are taken"), full);
            return;
        }
        let stack = result.expect("not all are taken");
        self.check_choice(on, stack.limit());
        let is_taken = |(other, _): &(PooledStack, u64)| other.limit() == stack.limit();
        assert!(!self.taken.iter().any(is_taken), "handed out twice");
        assert!(stack.header().owner().is_null());
        if self.seen.insert(stack.limit()) {
            assert_eq!(read(&stack), [0; 2], "a new stack is empty");
        }
        stack.header().register(without_provenance_mut(tag as usize));
        write(&stack, tag, is_deep);
        self.taken.push((stack, tag));
    }

    /// Whether it is the stack that had to be taken.
    fn check_choice(&mut self, on: usize, limit: usize) {
        if let Some(hottest) = self.at_hand.entry(on).or_default().pop() {
            assert_eq!(limit, hottest, "what this thread has returned last comes first");
            return;
        }
        let is_there = |stacks: &Vec<usize>| stacks.contains(&limit);
        let Some(victim) = self.at_hand.values_mut().find(|stacks| is_there(stacks)) else {
            return;
        };
        assert_eq!(
            self.seen.len(),
            self.max_stacks,
            "robbed before all stacks were made"
        );
        let mut robbed = std::mem::take(victim);
        assert_eq!(robbed.pop(), Some(limit), "the hottest of the other thread");
        self.at_hand.insert(on, robbed); // the others come along
    }

    fn give(&mut self, on: usize, worker: &Worker, at: usize) {
        let (stack, tag) = self.taken.swap_remove(at);
        let at_hand = self.at_hand.entry(on).or_default();
        at_hand.push(stack.limit());
        if at_hand.len() > SURELY_AT_HAND {
            at_hand.remove(0);
        }
        give_back(stack, tag, worker);
    }

    fn trim(&mut self, worker: &Worker) {
        let pool = self.pool.clone();
        worker.run(move || pool.trim());
        self.at_hand.clear();
        let parked = self.seen.len() - self.taken.len();
        // The ends of those that are taken may both be there.
        assert!(self.pool.resident_bytes() <= (parked + 2 * self.taken.len()) * PAGE_BYTES);
    }

    fn check(&self, threads: usize) {
        let stats = self.pool.stats();
        let expected = (self.taken.len(), self.seen.len(), self.max_stacks);
        assert_eq!((stats.in_use, stats.created, stats.max_stacks), expected);
        assert_eq!(stats.parked, self.seen.len() - self.taken.len());
        for (stack, tag) in &self.taken {
            assert_eq!(
                read(stack)[0],
                *tag,
                "somebody else has written into a taken stack"
            );
            assert_eq!(stack.header().owner() as u64, *tag);
        }
        let with_both_ends = self.taken.len() + stats.parked.min(threads * AT_HAND);
        assert!(self.pool.resident_bytes() <= (self.seen.len() + with_both_ends) * PAGE_BYTES);
    }
}

fn give_back(stack: PooledStack, tag: u64, worker: &Worker) {
    assert_eq!(
        read(&stack)[0],
        tag,
        "somebody else has written into a taken stack"
    );
    worker.run(move || drop(stack));
}

/// What a sequence has: threads with a number each, pools, and stacks of pools that are gone.
struct World {
    random: Random,
    workers: BTreeMap<usize, Worker>,
    next_worker: usize,
    pools: Vec<Modelled>,
    late: Vec<(PooledStack, u64)>,
    next_tag: u64,
    counts: [usize; 6],
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        // As many as a thread serves without giving others' stacks back.
        let pools = (0..1 + random.below(3))
            .map(|_| Modelled::new(&mut random))
            .collect();
        let mut world = World {
            random,
            workers: BTreeMap::new(),
            next_worker: 0,
            pools,
            late: Vec::new(),
            next_tag: 1,
            counts: [0; 6],
        };
        world.add_worker();
        world
    }

    fn add_worker(&mut self) {
        self.workers.insert(self.next_worker, Worker::new());
        self.next_worker += 1;
    }

    fn step(&mut self) {
        let random = &mut self.random;
        let chosen = random.below(self.workers.len());
        let (&on, worker) = self.workers.iter().nth(chosen).expect("there is a thread");
        let at = random.below(self.pools.len());
        let pool = &mut self.pools[at];
        let kind = match random.below(100) {
            0..45 => 0,
            45..82 => 1,
            82..86 => 2,
            86..92 => 3,
            92..97 => 4,
            _ => 5,
        };
        self.counts[kind] += 1;
        match kind {
            // Some at once, so that bins spill and pools are exhausted.
            0 => (0..=random.below(12)).for_each(|_| {
                self.next_tag += 1;
                pool.take(on, worker, self.next_tag, random.below(2) == 0);
            }),
            1 => (0..random.below(12).min(pool.taken.len())).for_each(|_| {
                pool.give(on, worker, random.below(pool.taken.len()));
            }),
            2 => pool.trim(worker),
            3 if self.workers.len() < MAX_THREADS => self.add_worker(),
            4 if self.workers.len() > 1 => {
                self.workers.remove(&on).expect("chosen above").end();
                for pool in &mut self.pools {
                    pool.at_hand.remove(&on);
                }
            }
            5 if random.below(4) == 0 => {
                let gone = std::mem::replace(pool, Modelled::new(random));
                self.late.extend(gone.taken);
            }
            _ if !self.late.is_empty() => {
                let (stack, tag) = self.late.swap_remove(random.below(self.late.len()));
                give_back(stack, tag, worker);
            }
            _ => {}
        }
        for pool in &self.pools {
            pool.check(self.workers.len());
        }
    }

    /// Returns everything; the pools are whole then.
    fn end(mut self) -> [usize; 6] {
        let worker = self.workers.values().next().expect("there is a thread");
        for (stack, tag) in self.late.drain(..) {
            give_back(stack, tag, worker);
        }
        for pool in &mut self.pools {
            pool.taken.clear();
            let all: Vec<_> = (0..pool.max_stacks).map(|_| pool.pool.take()).collect();
            let limits: BTreeSet<_> = all.iter().flatten().map(PooledStack::limit).collect();
            assert_eq!(limits.len(), pool.max_stacks, "no stack is lost");
        }
        self.workers.into_values().for_each(Worker::end);
        self.counts
    }
}

#[test]
fn random_sequences_do_what_the_model_says() {
    let mut counts = [0; 6];
    for seed in seeds(SEQUENCES) {
        let shown = SeedOf(seed);
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        for (sum, count) in counts.iter_mut().zip(world.end()) {
            *sum += count;
        }
        drop(shown);
    }
    println!("takes, returns, trims, starts and ends of threads, ends of pools: {counts:?}");
    if std::env::var("POOL_SEED").is_err() {
        assert!(
            counts.iter().all(|&count| count > SEQUENCES as usize),
            "{counts:?}"
        );
    }
}

/// What the threads of a contended run share.
struct Contended {
    pool: StackPool,
    max_stacks: usize,
    /// How many stacks are taken, or about to be.
    permits: AtomicUsize,
    next_tag: AtomicU64,
    /// How many leases went on.
    renewed: AtomicUsize,
    /// Stacks on their way to other threads.
    exchange: Mutex<Vec<(PooledStack, u64)>>,
}

impl Contended {
    /// Takes a stack, unless as many are taken as there are: so it has to succeed.
    fn take(&self) -> Option<(PooledStack, u64)> {
        let more = |permits| (permits < self.max_stacks).then_some(permits + 1);
        let update = self
            .permits
            .fetch_update(Ordering::Relaxed, Ordering::Acquire, more);
        update.ok()?;
        let stack = self.pool.take().expect("not all are taken");
        assert!(stack.header().owner().is_null());
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        stack.header().register(without_provenance_mut(tag as usize));
        write(&stack, tag, tag.is_multiple_of(3));
        Some((stack, tag))
    }

    fn give(&self, (stack, tag): (PooledStack, u64)) {
        assert_eq!(read(&stack)[0], tag, "two have the stack");
        assert_eq!(stack.header().owner() as u64, tag);
        drop(stack);
        self.permits.fetch_sub(1, Ordering::Release);
    }

    /// Goes on with a lease, or makes one, unless as many stacks are taken as there are; and ends its use. What was left there is there.
    fn lease(&self, left: &mut Option<(LeaseId, u64)>) -> bool {
        let more = |permits| (permits < self.max_stacks).then_some(permits + 1);
        let update = self
            .permits
            .fetch_update(Ordering::Relaxed, Ordering::Acquire, more);
        if update.is_err() {
            return false;
        }
        let renewed = self.pool.renew(left.map(|(id, _)| id));
        let is_renewed = renewed.is_some();
        let stack = match renewed {
            Some(stack) => Ok(stack),
            None => match self.pool.lease().expect("not all are taken") {
                Lent::Leased(stack) => Ok(stack),
                Lent::Taken(stack) => Err(stack),
            },
        };
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        match stack {
            Ok(stack) => {
                let (id, there) = left.unwrap_or((LeaseId::none(0), 0));
                assert!(
                    !is_renewed || (stack.id(), read(&stack)[0]) == (id, there),
                    "somebody has used it"
                );
                write(&stack, tag, tag.is_multiple_of(3));
                stack.header().register(without_provenance_mut(tag as usize));
                assert!(self.pool.renew(Some(stack.id())).is_none(), "it is in use");
                *left = Some((stack.id(), tag));
            }
            Err(stack) => drop(stack), // no lease is to be had here
        }
        self.permits.fetch_sub(1, Ordering::Release);
        is_renewed
    }

    /// One thread's work, from its start to its end.
    fn work(&self, seed: u64) {
        let mut random = Random(seed);
        let mut mine = Vec::new();
        let mut left = None;
        for _ in 0..random.below(400) {
            match random.below(100) {
                0..50 => mine.extend(self.take()),
                50..85 if !mine.is_empty() => self.give(mine.swap_remove(random.below(mine.len()))),
                85..98 => {
                    let mut exchange = self.exchange.lock().unwrap();
                    std::mem::swap(&mut *exchange, &mut mine);
                }
                98 => self.pool.trim(),
                _ => {}
            }
            for _ in 0..random.below(4) {
                let renewed = usize::from(self.lease(&mut left));
                self.renewed.fetch_add(renewed, Ordering::Relaxed);
            }
        }
        mine.into_iter().for_each(|stack| self.give(stack));
    }
}

#[test]
fn threads_at_random_share_no_stack_and_find_what_was_returned() {
    let mut renewed = 0;
    for seed in seeds(CONTENDED) {
        let shown = SeedOf(seed);
        let max_stacks = 1 + Random(seed).below(60);
        let config = PoolConfig {
            stack_bytes: 4 * PAGE_BYTES,
            max_stacks,
            keep_resident_bytes: 0,
            ..PoolConfig::default()
        };
        let contended = Contended {
            pool: StackPool::new(config).expect("a pool"),
            max_stacks,
            permits: AtomicUsize::new(0),
            next_tag: AtomicU64::new(1),
            renewed: AtomicUsize::new(0),
            exchange: Mutex::new(Vec::new()),
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let contended = &contended;
                // Short lives, so that ends of threads meet robbers.
                scope.spawn(move || {
                    for life in 0..4 {
                        let work = || contended.work(seed * 1000 + thread * 10 + life);
                        std::thread::scope(|scope| scope.spawn(work).join().expect("a life ends well"));
                    }
                });
            }
        });
        renewed += contended.renewed.load(Ordering::Relaxed);
        let left = contended.exchange.lock().unwrap().split_off(0);
        left.into_iter().for_each(|stack| contended.give(stack));
        let stats = contended.pool.stats();
        assert_eq!((stats.in_use, stats.parked), (0, stats.created));
        assert!(stats.created <= max_stacks);
        // Their last threads have ended, so nothing is at hand but what came from the exchange.
        contended.pool.trim();
        if cfg!(target_arch = "x86_64") {
            // Emulators do not tell what is resident.
            assert_eq!(contended.pool.resident_bytes(), stats.created * PAGE_BYTES);
        }
        drop(shown);
    }
    println!("{renewed} leases went on");
    assert!(renewed > 0 || std::env::var("POOL_SEED").is_ok());
}
