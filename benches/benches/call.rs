//! What does it cost to cross between host and guest, to wait, to cancel, to make an instance, and to trap?
//! Selvedge beside wasmtime.
//!
//! wasmtime has its defaults, and what its documentation names as fast: typed functions, `InstancePre`, and
//! the pooling allocator where the row says so. With the feature `wasmer`, Wasmer is asked too.

#[path = "call/parked.rs"]
mod parked;
#[cfg(feature = "wasmer")]
#[path = "call/wasmer.rs"]
mod wasmer;

use fibers::Stack;
use fibers::pool::{PoolConfig, StackPool};
use selvedge_benches::guest::{CALLS, HOST_CALLS, Once, SMALL, block_on, page_of_data, start_and_cancel};
use selvedge_benches::{Contest, Question, side};
use std::hint::black_box;
use wasmtime::{InstanceAllocationStrategy, PoolingAllocationConfig};

struct Ours {
    store: selvedge::Store<()>,
    instance: selvedge::Instance,
}

impl Ours {
    fn new(backtrace_frames: usize) -> selvedge::Result<Ours> {
        let mut config = selvedge::Config::new();
        config.max_backtrace_frames(backtrace_frames);
        let engine = selvedge::Engine::new(&config)?;
        let module = selvedge::Module::new(&engine, CALLS)?;
        let mut linker = selvedge::Linker::<()>::new(&engine);
        linker.func_wrap("host", "sync", |n: i32| n + 1)?;
        linker.func_wrap_async(
            "host",
            "ready",
            async |_: selvedge::Caller<'_, ()>, n: i32| -> i32 { n + 1 },
        )?;
        linker.func_wrap_async(
            "host",
            "once",
            async |_: selvedge::Caller<'_, ()>, n: i32| -> i32 {
                Once::default().await;
                n + 1
            },
        )?;
        linker.func_wrap_async("host", "never", async |_: selvedge::Caller<'_, ()>, (): ()| {
            std::future::pending::<()>().await;
        })?;
        let mut store = selvedge::Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &module)?;
        Ok(Ours { store, instance })
    }

    fn typed<P: selvedge::WasmTyList, R: selvedge::WasmTyList>(
        &mut self,
        name: &str,
    ) -> selvedge::TypedFunc<P, R> {
        let func = self.instance.typed(&mut self.store, name);
        func.unwrap_or_else(|error| panic!("selvedge: {error:#}"))
    }
}

struct Theirs {
    store: wasmtime::Store<()>,
    instance: wasmtime::Instance,
}

impl Theirs {
    /// wasmtime refuses synchronous calls in a store that has async host functions, so there the functions
    /// that wait are of two kinds.
    fn new(config: &wasmtime::Config, may_wait: bool) -> wasmtime::Result<Theirs> {
        let engine = wasmtime::Engine::new(config)?;
        let module = wasmtime::Module::new(&engine, CALLS)?;
        let mut linker = wasmtime::Linker::<()>::new(&engine);
        linker.func_wrap("host", "sync", |n: i32| n + 1)?;
        match may_wait {
            true => define_waiting(&mut linker)?,
            false => define_stubs(&mut linker)?,
        }
        let mut store = wasmtime::Store::new(&engine, ());
        let instance = block_on(linker.instantiate_async(&mut store, &module))?;
        Ok(Theirs { store, instance })
    }

    fn typed<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        name: &str,
    ) -> wasmtime::TypedFunc<P, R> {
        let func = self.instance.get_typed_func(&mut self.store, name);
        func.unwrap_or_else(|error| panic!("wasmtime: {error:#}"))
    }
}

fn define_waiting(linker: &mut wasmtime::Linker<()>) -> wasmtime::Result<()> {
    linker.func_wrap_async("host", "ready", |_, (n,): (i32,)| Box::new(async move { n + 1 }))?;
    linker.func_wrap_async("host", "once", |_, (n,): (i32,)| {
        Box::new(async move {
            Once::default().await;
            n + 1
        })
    })?;
    linker.func_wrap_async(
        "host",
        "never",
        |_, (): ()| Box::new(std::future::pending::<()>()),
    )?;
    Ok(())
}

fn define_stubs(linker: &mut wasmtime::Linker<()>) -> wasmtime::Result<()> {
    linker.func_wrap("host", "ready", |n: i32| n + 1)?;
    linker.func_wrap("host", "once", |n: i32| n + 1)?;
    linker.func_wrap("host", "never", || ())?;
    Ok(())
}

fn sync_calls(contest: &mut Contest, ours: &mut Ours, theirs: &mut Theirs) {
    let (nop, their_nop) = (ours.typed::<(), ()>("nop"), theirs.typed::<(), ()>("nop"));
    contest.duel(
        Question::new("sync call, nop", 0.5),
        side("selvedge", || nop.call(&mut ours.store, ()).expect("nop returns")),
        side("wasmtime", || {
            their_nop.call(&mut theirs.store, ()).expect("nop returns")
        }),
    );
    let (add, their_add) = (
        ours.typed::<(i32, i32), i32>("add"),
        theirs.typed::<(i32, i32), i32>("add"),
    );
    contest.duel(
        Question::new("sync call, add", 0.5),
        side("selvedge", || {
            let sum = add.call(&mut ours.store, black_box((3, 4)));
            black_box(sum.expect("add returns"));
        }),
        side("wasmtime", || {
            let sum = their_add.call(&mut theirs.store, black_box((3, 4)));
            black_box(sum.expect("add returns"));
        }),
    );
}

/// As the first of [`sync_calls`], with the stack kept from call to call.
fn kept_stack(contest: &mut Contest, ours: &mut Ours, theirs: &mut Theirs) {
    let (nop, their_nop) = (ours.typed::<(), ()>("nop"), theirs.typed::<(), ()>("nop"));
    ours.store.keep_stack(true);
    contest.duel(
        Question::new("sync call, nop, in a store that keeps its stack", 0.5),
        side("selvedge", || nop.call(&mut ours.store, ()).expect("nop returns")),
        side("wasmtime", || {
            their_nop.call(&mut theirs.store, ()).expect("nop returns")
        }),
    );
    ours.store.keep_stack(false);
}

fn async_calls(contest: &mut Contest, ours: &mut Ours, theirs: &mut Theirs) {
    let (add, their_add) = (
        ours.typed::<(i32, i32), i32>("add"),
        theirs.typed::<(i32, i32), i32>("add"),
    );
    contest.duel(
        Question::new("call_async, warm store, never waits", 0.2),
        side("selvedge", || {
            let sum = block_on(add.call_async(&mut ours.store, black_box((3, 4))));
            black_box(sum.expect("add returns"));
        }),
        side("wasmtime", || {
            let sum = block_on(their_add.call_async(&mut theirs.store, black_box((3, 4))));
            black_box(sum.expect("add returns"));
        }),
    );
}

fn sync_host_calls(contest: &mut Contest, ours: &mut Ours, theirs: &mut Theirs) {
    let turns = HOST_CALLS as i32;
    let (func, their_func) = (ours.typed::<i32, i32>("sync"), theirs.typed::<i32, i32>("sync"));
    contest.duel(
        Question::new("guest -> host, sync closure", 0.8).times(HOST_CALLS),
        side("selvedge", || {
            assert_eq!(func.call(&mut ours.store, turns).ok(), Some(turns))
        }),
        side("wasmtime", || {
            assert_eq!(their_func.call(&mut theirs.store, turns).ok(), Some(turns))
        }),
    );
}

fn async_host_calls(contest: &mut Contest, ours: &mut Ours, theirs: &mut Theirs) {
    let turns = HOST_CALLS as i32;
    let questions = [
        (
            Question::new("guest -> async host function, ready at once", 0.25),
            "ready",
        ),
        (
            Question::new("guest -> async host function, pending once", 0.25),
            "once",
        ),
    ];
    for (question, name) in questions {
        let (func, their_func) = (ours.typed::<i32, i32>(name), theirs.typed::<i32, i32>(name));
        contest.duel(
            question.times(HOST_CALLS),
            side("selvedge", || {
                let result = block_on(func.call_async(&mut ours.store, turns));
                assert_eq!(result.ok(), Some(turns));
            }),
            side("wasmtime", || {
                let result = block_on(their_func.call_async(&mut theirs.store, turns));
                assert_eq!(result.ok(), Some(turns));
            }),
        );
    }
    let (func, their_func) = (ours.typed::<(), ()>("never"), theirs.typed::<(), ()>("never"));
    contest.duel(
        Question::new("cancel: call, suspend, drop the future", 0.1),
        side("selvedge", || {
            start_and_cancel(func.call_async(&mut ours.store, ()))
        }),
        side("wasmtime", || {
            start_and_cancel(their_func.call_async(&mut theirs.store, ()))
        }),
    );
}

fn traps(contest: &mut Contest, ours: &mut Ours, theirs: &mut Theirs) {
    let questions = [
        (Question::new("trap: unreachable", 0.02), "unreachable"),
        (Question::new("trap: out-of-bounds load", 0.9), "oob"),
    ];
    for (question, name) in questions {
        let (func, their_func) = (ours.typed::<(), ()>(name), theirs.typed::<(), ()>(name));
        contest.duel(
            question,
            side("selvedge", || assert!(func.call(&mut ours.store, ()).is_err())),
            side("wasmtime", || {
                assert!(their_func.call(&mut theirs.store, ()).is_err())
            }),
        );
    }
}

fn overflow(contest: &mut Contest, question: Question, ours: &mut Ours, theirs: &mut Theirs) {
    let (func, their_func) = (ours.typed::<i32, i32>("deep"), theirs.typed::<i32, i32>("deep"));
    contest.duel(
        question,
        side("selvedge", || assert!(func.call(&mut ours.store, 1).is_err())),
        side("wasmtime", || {
            assert!(their_func.call(&mut theirs.store, 1).is_err())
        }),
    );
}

/// Levels of a recursion that ends before the stack does: nearly as many as overflow 512 KiB, at 32 bytes each.
const LEVELS: i32 = 16_000;

/// An overflow beside the recursion alone, which an explicit trap ends, for a tenth of a microsecond.
fn recursion(contest: &mut Contest, ours: &mut Ours) {
    let (deep, fall) = (ours.typed::<i32, i32>("deep"), ours.typed::<i32, i32>("fall"));
    let store = std::cell::RefCell::new(&mut ours.store);
    contest.duel(
        Question::new(
            "bound: stack overflow, no backtrace, beside the recursion alone",
            1.0,
        )
        .without_goal(),
        side("selvedge", || {
            assert!(deep.call(&mut **store.borrow_mut(), 1).is_err())
        }),
        side("recursion", || {
            assert!(fall.call(&mut **store.borrow_mut(), LEVELS).is_err())
        }),
    );
}

/// The same crossings, by hand: a pooled stack taken, an empty function called on it, the stack given back; and a closure called on
/// another stack.
fn bounds(contest: &mut Contest, ours: &mut Ours) {
    let pool = StackPool::new(PoolConfig::default()).expect("there is room for stacks");
    let nop = ours.typed::<(), ()>("nop");
    contest.duel(
        Question::new("bound: sync call, nop, beside take + call on a stack + give", 1.0).without_goal(),
        side("selvedge", || nop.call(&mut ours.store, ()).expect("nop returns")),
        side("by hand", || {
            let stack = pool.take().expect("there is a stack");
            // SAFETY: the stack was just taken, so nobody uses it.
            unsafe { fibers::raw::on_stack(stack.base(), || black_box(())) }
        }),
    );
    let turns = HOST_CALLS as i32;
    let func = ours.typed::<i32, i32>("sync");
    let stack = pool.take().expect("there is a stack");
    contest.duel(
        Question::new("bound: guest -> host, beside a closure on another stack", 1.0)
            .times(HOST_CALLS)
            .without_goal(),
        side("selvedge", || {
            assert_eq!(func.call(&mut ours.store, turns).ok(), Some(turns))
        }),
        side("by hand", || {
            for turn in 0..turns {
                // SAFETY: nobody else uses the stack.
                black_box(unsafe { fibers::raw::on_stack(stack.base(), || black_box(turn) + 1) });
            }
        }),
    );
}

/// A module in both, to make instances of.
struct Instances {
    engine: selvedge::Engine,
    module: selvedge::Module,
    linker: selvedge::Linker<()>,
    their_engine: wasmtime::Engine,
    theirs: wasmtime::InstancePre<()>,
}

impl Instances {
    fn new(text: &str, config: &wasmtime::Config) -> Instances {
        let engine = selvedge::Engine::default();
        let module = selvedge::Module::new(&engine, text);
        let their_engine = wasmtime::Engine::new(config);
        let their_engine = their_engine.unwrap_or_else(|error| panic!("wasmtime: {error:#}"));
        let theirs = wasmtime::Module::new(&their_engine, text)
            .and_then(|module| wasmtime::Linker::new(&their_engine).instantiate_pre(&module));
        Instances {
            linker: selvedge::Linker::new(&engine),
            module: module.unwrap_or_else(|error| panic!("selvedge: {error:#}")),
            engine,
            their_engine,
            theirs: theirs.unwrap_or_else(|error| panic!("wasmtime: {error:#}")),
        }
    }

    fn make(&self) -> (selvedge::Store<()>, selvedge::Instance) {
        let mut store = selvedge::Store::new(&self.engine, ());
        let instance = self.linker.instantiate(&mut store, &self.module);
        (store, instance.expect("there is room for an instance"))
    }

    fn make_theirs(&self) -> (wasmtime::Store<()>, wasmtime::Instance) {
        let mut store = wasmtime::Store::new(&self.their_engine, ());
        let instance = self.theirs.instantiate(&mut store);
        (store, instance.expect("there is room for an instance"))
    }
}

fn pooled() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(
        PoolingAllocationConfig::default(),
    ));
    config
}

fn instances(contest: &mut Contest) {
    let small = Instances::new(SMALL, &wasmtime::Config::new());
    contest.duel(
        Question::new("store + instance + sync call + drop", 0.5),
        side("selvedge", || {
            let (mut store, instance) = small.make();
            let add = instance
                .typed::<(i32, i32), i32>(&mut store, "add")
                .expect("is there");
            assert_eq!(add.call(&mut store, (3, 4)).ok(), Some(7));
        }),
        side("wasmtime", || {
            let (mut store, instance) = small.make_theirs();
            let add = instance
                .get_typed_func::<(i32, i32), i32>(&mut store, "add")
                .expect("is there");
            assert_eq!(add.call(&mut store, (3, 4)).ok(), Some(7));
        }),
    );
    let small = Instances::new(SMALL, &pooled());
    contest.duel(
        Question::new("store + instance + call_async + drop, pooled", 0.5),
        side("selvedge", || {
            let (mut store, instance) = small.make();
            let add = instance
                .typed::<(i32, i32), i32>(&mut store, "add")
                .expect("is there");
            assert_eq!(block_on(add.call_async(&mut store, (3, 4))).ok(), Some(7));
        }),
        side("wasmtime", || {
            let (mut store, instance) = small.make_theirs();
            let add = instance
                .get_typed_func::<(i32, i32), i32>(&mut store, "add")
                .expect("is there");
            assert_eq!(block_on(add.call_async(&mut store, (3, 4))).ok(), Some(7));
        }),
    );
    let page = Instances::new(&page_of_data(), &pooled());
    contest.duel(
        Question::new("instantiate, 1 page, 64 KiB of data, + drop, pooled", 0.6),
        side("selvedge", || drop(black_box(page.make()))),
        side("wasmtime", || drop(black_box(page.make_theirs()))),
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut contest = Contest::from_args("call");
    parked::note(&mut contest)?;
    let mut ours = Ours::new(64)?;
    let mut theirs = Theirs::new(&wasmtime::Config::new(), false)?;
    let mut waiting = Theirs::new(&wasmtime::Config::new(), true)?;
    sync_calls(&mut contest, &mut ours, &mut theirs);
    kept_stack(&mut contest, &mut ours, &mut theirs);
    async_calls(&mut contest, &mut ours, &mut waiting);
    sync_host_calls(&mut contest, &mut ours, &mut theirs);
    async_host_calls(&mut contest, &mut ours, &mut waiting);
    instances(&mut contest);
    traps(&mut contest, &mut ours, &mut theirs);
    let question = Question::new("trap: stack overflow, with backtrace", 0.06);
    overflow(&mut contest, question, &mut ours, &mut theirs);
    let mut config = wasmtime::Config::new();
    config.wasm_backtrace_max_frames(None);
    let (mut bare, mut theirs) = (Ours::new(0)?, Theirs::new(&config, false)?);
    let question = Question::new("trap: stack overflow, no backtrace", 0.45);
    overflow(&mut contest, question, &mut bare, &mut theirs);
    recursion(&mut contest, &mut bare);
    bounds(&mut contest, &mut bare);
    #[cfg(feature = "wasmer")]
    wasmer::rows(&mut contest, &mut ours, &mut bare);
    contest.finish();
    Ok(())
}
