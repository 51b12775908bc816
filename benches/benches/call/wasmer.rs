//! The same questions to Wasmer: Selvedge beside it, in the process in which wasmtime was asked.
//!
//! These ratios have no goals: the goals are about wasmtime. Sync calls take a `Store`, async ones a `StoreAsync`, so there are two.

use super::Ours;
use selvedge_benches::guest::{CALLS, HOST_CALLS, SMALL, block_on, page_of_data, start_and_cancel};
use selvedge_benches::{Contest, Question, Side, side, third};
use std::hint::black_box;
use wasmer::{Engine, Imports, Instance, Module, Store, StoreAsync, TypedFunction, WasmTypeList};

/// Its stacks hold a megabyte; these hold what those of the others do. For all stacks made after this.
const STACK_BYTES: usize = 512 << 10;

/// An instance of the functions, in a store of one kind or the other.
struct Rival<S> {
    store: S,
    instance: Instance,
}

impl Rival<Store> {
    fn new() -> Rival<Store> {
        let mut store = Store::new(Engine::default());
        let module = Module::new(&store, binary(CALLS)).expect("the module is valid");
        let imports = third::host(&mut store);
        let instance = Instance::new(&mut store, &module, &imports).expect("the module links");
        Rival { store, instance }
    }

    fn typed<P: WasmTypeList, R: WasmTypeList>(&self, name: &str) -> TypedFunction<P, R> {
        let func = self.instance.exports.get_typed_function(&self.store, name);
        func.unwrap_or_else(|error| panic!("wasmer: {error}"))
    }
}

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the text is a module")
}

/// A question of this file, in the words of the one to wasmtime.
fn question(what: &'static str) -> Question {
    let what: &'static str = format!("{what} (wasmer)").leak();
    Question::new(what, 1.0).without_goal()
}

fn wasmer<F: FnMut()>(run: F) -> Side<F> {
    side("wasmer", run)
}

fn sync_calls(contest: &mut Contest, ours: &mut Ours, theirs: &mut Rival<Store>) {
    let (nop, their_nop) = (ours.typed::<(), ()>("nop"), theirs.typed::<(), ()>("nop"));
    contest.duel(
        question("sync call, nop"),
        side("selvedge", || nop.call(&mut ours.store, ()).expect("nop returns")),
        wasmer(|| their_nop.call(&mut theirs.store).expect("nop returns")),
    );
    let (add, their_add) = (
        ours.typed::<(i32, i32), i32>("add"),
        theirs.typed::<(i32, i32), i32>("add"),
    );
    contest.duel(
        question("sync call, add"),
        side("selvedge", || {
            let sum = add.call(&mut ours.store, black_box((3, 4)));
            black_box(sum.expect("add returns"));
        }),
        wasmer(|| {
            let (left, right) = black_box((3, 4));
            let sum = their_add.call(&mut theirs.store, left, right);
            black_box(sum.expect("add returns"));
        }),
    );
    let turns = HOST_CALLS as i32;
    let (func, their_func) = (ours.typed::<i32, i32>("sync"), theirs.typed::<i32, i32>("sync"));
    contest.duel(
        question("guest -> host, sync closure").times(HOST_CALLS),
        side("selvedge", || {
            assert_eq!(func.call(&mut ours.store, turns).ok(), Some(turns))
        }),
        wasmer(|| assert_eq!(their_func.call(&mut theirs.store, turns).ok(), Some(turns))),
    );
}

fn async_calls(contest: &mut Contest, ours: &mut Ours, theirs: Rival<Store>) {
    let add = ours.typed::<(i32, i32), i32>("add");
    let their_add = theirs.typed::<(i32, i32), i32>("add");
    let loops = [
        ("guest -> async host function, ready at once", "ready"),
        ("guest -> async host function, pending once", "once"),
    ]
    .map(|(what, name)| {
        let func = ours.typed::<i32, i32>(name);
        (what, func, theirs.typed::<i32, i32>(name))
    });
    let (never, their_never) = (ours.typed::<(), ()>("never"), theirs.typed::<(), ()>("never"));
    let their_store = theirs.store.into_async();
    contest.duel(
        question("call_async, warm store, never waits"),
        side("selvedge", || {
            let sum = block_on(add.call_async(&mut ours.store, black_box((3, 4))));
            black_box(sum.expect("add returns"));
        }),
        wasmer(|| {
            let (left, right) = black_box((3, 4));
            let sum = block_on(their_add.call_async(&their_store, left, right));
            black_box(sum.expect("add returns"));
        }),
    );
    let turns = HOST_CALLS as i32;
    for (what, func, their_func) in loops {
        contest.duel(
            question(what).times(HOST_CALLS),
            side("selvedge", || {
                let result = block_on(func.call_async(&mut ours.store, turns));
                assert_eq!(result.ok(), Some(turns));
            }),
            wasmer(|| {
                let result = block_on(their_func.call_async(&their_store, turns));
                assert_eq!(result.ok(), Some(turns));
            }),
        );
    }
    contest.duel(
        question("cancel: call, suspend, drop the future"),
        side("selvedge", || {
            start_and_cancel(never.call_async(&mut ours.store, ()))
        }),
        wasmer(|| start_and_cancel(their_never.call_async(&their_store))),
    );
}

/// A module in both, to make instances of.
struct Instances {
    ours: super::Instances,
    engine: Engine,
    module: Module,
}

impl Instances {
    fn new(text: &str) -> Instances {
        let engine = Engine::default();
        Instances {
            ours: super::Instances::new(text, &super::pooled()),
            module: Module::new(&engine, binary(text)).expect("the module is valid"),
            engine,
        }
    }

    fn make(&self) -> (Store, Instance) {
        let mut store = Store::new(self.engine.clone());
        let instance = Instance::new(&mut store, &self.module, &Imports::new());
        (store, instance.expect("there is room for an instance"))
    }
}

fn instances(contest: &mut Contest) {
    let small = Instances::new(SMALL);
    contest.duel(
        question("store + instance + sync call + drop"),
        side("selvedge", || {
            let (mut store, instance) = small.ours.make();
            let add = instance
                .typed::<(i32, i32), i32>(&mut store, "add")
                .expect("is there");
            assert_eq!(add.call(&mut store, (3, 4)).ok(), Some(7));
        }),
        wasmer(|| {
            let (mut store, instance) = small.make();
            let add: TypedFunction<(i32, i32), i32> = instance
                .exports
                .get_typed_function(&store, "add")
                .expect("is there");
            assert_eq!(add.call(&mut store, 3, 4).ok(), Some(7));
        }),
    );
    contest.duel(
        question("store + instance + call_async + drop"),
        side("selvedge", || {
            let (mut store, instance) = small.ours.make();
            let add = instance
                .typed::<(i32, i32), i32>(&mut store, "add")
                .expect("is there");
            assert_eq!(block_on(add.call_async(&mut store, (3, 4))).ok(), Some(7));
        }),
        wasmer(|| {
            let (store, instance) = small.make();
            let add: TypedFunction<(i32, i32), i32> = instance
                .exports
                .get_typed_function(&store, "add")
                .expect("is there");
            let store: StoreAsync = store.into_async();
            assert_eq!(block_on(add.call_async(&store, 3, 4)).ok(), Some(7));
        }),
    );
    let page = Instances::new(&page_of_data());
    contest.duel(
        question("instantiate, 1 page, 64 KiB of data, + drop"),
        side("selvedge", || drop(black_box(page.ours.make()))),
        wasmer(|| drop(black_box(page.make()))),
    );
}

fn traps(contest: &mut Contest, ours: &mut Ours, theirs: &mut Rival<Store>) {
    let questions = [
        ("trap: unreachable", "unreachable"),
        ("trap: out-of-bounds load", "oob"),
    ];
    for (what, name) in questions {
        let (func, their_func) = (ours.typed::<(), ()>(name), theirs.typed::<(), ()>(name));
        contest.duel(
            question(what),
            side("selvedge", || assert!(func.call(&mut ours.store, ()).is_err())),
            wasmer(|| assert!(their_func.call(&mut theirs.store).is_err())),
        );
    }
}

fn overflow(contest: &mut Contest, what: &'static str, ours: &mut Ours, theirs: &mut Rival<Store>) {
    let (func, their_func) = (ours.typed::<i32, i32>("deep"), theirs.typed::<i32, i32>("deep"));
    contest.duel(
        question(what),
        side("selvedge", || assert!(func.call(&mut ours.store, 1).is_err())),
        wasmer(|| assert!(their_func.call(&mut theirs.store, 1).is_err())),
    );
}

/// All questions; `bare` makes no backtraces. Wasmer has no such switch.
pub(super) fn rows(contest: &mut Contest, ours: &mut Ours, bare: &mut Ours) {
    wasmer::sys::vm::set_stack_size(STACK_BYTES);
    let mut theirs = Rival::new();
    sync_calls(contest, ours, &mut theirs);
    async_calls(contest, ours, Rival::new());
    instances(contest);
    traps(contest, ours, &mut theirs);
    overflow(contest, "trap: stack overflow, with backtrace", ours, &mut theirs);
    overflow(
        contest,
        "trap: stack overflow, no backtrace of ours",
        bare,
        &mut theirs,
    );
}

/// A call that is parked for ever, with a store and an instance of its own.
pub(super) fn parker() -> impl FnMut() -> super::parked::Parked {
    let engine = Engine::default();
    let module = Module::new(&engine, binary(super::parked::GUEST)).expect("the module is valid");
    move || {
        let mut store = Store::new(engine.clone());
        let imports = third::host(&mut store);
        let instance = Instance::new(&mut store, &module, &imports).expect("the module links");
        let run: TypedFunction<(), ()> = instance
            .exports
            .get_typed_function(&store, "run")
            .expect("is there");
        let store = store.into_async();
        Box::pin(async move {
            _ = run.call_async(&store).await;
        })
    }
}
