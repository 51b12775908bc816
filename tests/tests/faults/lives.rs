//! What is done with guests while allocations fail: each life alone is short, and together they come to where the runtime allocates.

use selvedge::{
    Caller, Config, Engine, Error, Exception, Extern, ExternRef, Func, FuncType, GuestCall, Instance, Linker,
    Memory, MemoryStyle, MemoryType, Module, Result, RootScope, SharedMemory, Store, StoreLimits,
    StoreLimitsBuilder, Table, TableType, Tag, TagType, Val, ValType, WasmBacktrace,
};
use selvedge_tests::{drive, poll_once, wait};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// A guest of everything: what it imports and has is more than one of each.
const GUEST: &str = r#"(module $guest
    (import "host" "sync" (func $sync (param i32) (result i32)))
    (import "host" "wide" (func $wide (param i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64) (result i64)))
    (import "host" "wait" (func $wait)) (import "host" "wait untyped" (func $wait_untyped (param i64) (result i64)))
    (import "host" "nest" (func $nest))
    (import "host" "make" (func $make (result externref))) (import "host" "take" (func $take (param externref funcref)))
    (import "host" "throw" (func $throw)) (import "host" "fail" (func $fail))
    (import "host" "shared" (memory $shared 1 4 shared))
    (memory $own (export "memory") 1) (memory $other 2 3)
    (data (memory $own) (i32.const 100) "an image") (data $passive "passive")
    (table $refs (export "table") 4 externref) (table $funcs 4 funcref) (table $kept 40 exnref)
    (elem (table $funcs) (i32.const 0) func $add $down) (elem $more func $add $down $add)
    (global $number (export "number") (mut i32) (i32.const 7)) (global $ref (export "ref") (mut externref) (ref.null extern))
    (tag $a) (tag $b (param i32)) (tag $pair (param i32 externref)) (tag $c (param i64 i64 i64 i64))
    (func (export "start"))
    (func $add (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "many") (param i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64) (result i64)
      (call $wide (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 6) (local.get 7) (local.get 8)
        (local.get 9) (local.get 10) (local.get 11) (local.get 12) (local.get 13) (local.get 14) (local.get 15) (local.get 16) (local.get 17)))
    (func (export "sync") (param i32) (result i32) (call $sync (local.get 0)))
    (func (export "wait") (call $wait) (drop (call $wait_untyped (i64.const 1))))
    (func (export "nest") (call $nest))
    (func (export "references") (param $n i32)
      (loop $again
        (global.set $ref (call $make))
        (table.set $refs (i32.and (local.get $n) (i32.const 3)) (call $make))
        (call $take (call $make) (ref.func $down))
        (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
    (func (export "exceptions") (param $n i32) (local $made exnref)
      (loop $again
        (local.set $made (block $caught (result exnref)
          (try_table (catch_all_ref $caught) (throw $pair (local.get $n) (call $make)))
          unreachable))
        (table.set $kept (local.get $n) (local.get $made))
        (block $hosts (try_table (catch_all $hosts) (call $throw)))
        (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
    (func (export "uncaught") (throw $c (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))
    (func (export "fail") (call $fail))
    ;; Tables that were so large are not kept for others.
    (func (export "grow") (result i32)
      (drop (memory.grow $own (i32.const 1))) (drop (memory.grow $own (i32.const 40)))
      (drop (memory.grow $other (i32.const 1))) (drop (memory.grow $shared (i32.const 1)))
      (drop (table.grow $refs (ref.null extern) (i32.const 40000)))
      (table.grow $funcs (ref.null func) (i32.const 40000)))
    (func (export "segments")
      (memory.init $own $passive (i32.const 0) (i32.const 0) (i32.const 7)) (data.drop $passive)
      (table.init $funcs $more (i32.const 1) (i32.const 0) (i32.const 3)) (elem.drop $more))
    (func (export "notify") (param i32) (result i32) (memory.atomic.notify $shared (i32.const 8) (local.get 0)))
    (func (export "sleep") (param i64) (result i32)
      (memory.atomic.wait32 $shared (i32.const 8) (i32.const 0) (local.get 0)))
    (func $down (export "down") (call $down))
    (func (export "beyond") (drop (i32.load $own (i32.const 0x10000000))))
    (start $begin) (func $begin (drop (call $sync (i32.const 1)))))"#;

/// A command, which a linker instantiates at each call, and a reactor.
const COMMAND: &str = r#"(module (func (export "_start")))"#;
const REACTOR: &str = r#"(module (memory (export "m") 1) (func (export "_initialize")) (func (export "f")))"#;

/// What lives begin with.
pub struct Ready {
    engine: Engine,
    guest: Module,
    command: Module,
    reactor: Module,
    linker: Linker<StoreLimits>,
    precompiled: Vec<u8>,
}

impl Ready {
    pub fn new(style: MemoryStyle) -> Result<Ready> {
        let mut config = Config::new();
        // No thread may be there when the process forks; and each collection that could be is one.
        config.memory_style(style).parallel_compilation(false);
        config.collect_at_every_allocation(true);
        let engine = Engine::new(&config)?;
        Ok(Ready {
            guest: Module::new(&engine, GUEST)?,
            command: Module::new(&engine, COMMAND)?,
            reactor: Module::new(&engine, REACTOR)?,
            linker: linker(&engine)?,
            precompiled: engine.precompile_module(GUEST.as_bytes())?,
            engine,
        })
    }

    fn store(&self) -> Store<StoreLimits> {
        Store::new(&self.engine, StoreLimitsBuilder::new().build())
    }

    fn guest(&self) -> Result<(Store<StoreLimits>, Instance)> {
        let mut store = self.store();
        let instance = self.linker.instantiate(&mut store, &self.guest)?;
        Ok((store, instance))
    }
}

fn throw(caller: &mut Caller<'_, StoreLimits>) -> Result<()> {
    let tag = Tag::new(&mut *caller, TagType::new(FuncType::new([ValType::I32], [])))?;
    Err(Exception::new(&mut *caller, tag, &[Val::I32(1)])?.into())
}

fn linker(engine: &Engine) -> Result<Linker<StoreLimits>> {
    let mut linker = Linker::<StoreLimits>::new(engine);
    linker.func_wrap("host", "sync", |n: i32| n + 1)?;
    let wide = FuncType::new([ValType::I64; 18], [ValType::I64]);
    linker.func_new("host", "wide", wide, |_, params, results| {
        results[0] = params[17];
        Ok(())
    })?;
    linker.func_wrap_async("host", "wait", async |_: Caller<'_, StoreLimits>, (): ()| {
        wait(2).await
    })?;
    let one = FuncType::new([ValType::I64], [ValType::I64]);
    linker.func_new_async("host", "wait untyped", one, async |_, params, results| {
        wait(1).await;
        results[0] = params[0];
        Ok(())
    })?;
    linker.func_wrap_async(
        "host",
        "nest",
        async |mut caller: Caller<'_, StoreLimits>, (): ()| -> Result<()> {
            let inner = exported(caller.get_export("wait").and_then(Extern::into_func))?;
            inner.typed::<(), ()>(&caller)?.call_async(&mut caller, ()).await
        },
    )?;
    linker.func_wrap(
        "host",
        "make",
        |mut caller: Caller<'_, StoreLimits>| -> Result<Option<ExternRef>> {
            ExternRef::new(&mut caller, ()).map(Some)
        },
    )?;
    linker.func_wrap(
        "host",
        "take",
        |mut caller: Caller<'_, StoreLimits>, given: Option<ExternRef>, _: Option<Func>| -> Result<()> {
            let owned = given.expect("not null").to_owned(&mut caller)?;
            owned.to_scoped(&mut caller).map(drop)
        },
    )?;
    linker.func_wrap("host", "throw", |mut caller: Caller<'_, StoreLimits>| {
        throw(&mut caller)
    })?;
    linker.func_wrap("host", "fail", |caller: Caller<'_, StoreLimits>| -> Result<()> {
        let frames = WasmBacktrace::capture(&caller).frames().len();
        Err(Error::msg("as it should").context(frames))
    })?;
    let shared = SharedMemory::new(engine, MemoryType::shared(1, 4))?;
    linker.define("host", "shared", shared)?;
    Ok(linker)
}

/// A life ends as it should, or by a failure.
pub type Life = fn(&Ready) -> Result<()>;

/// Lives, and whether they are led in both styles of memory.
pub const LIVES: [(&str, Life, bool); 13] = [
    ("stores", stores, false),
    ("instances", instances, true),
    ("calls", calls, false),
    ("waiting calls", waiting_calls, false),
    ("references", references, false),
    ("exceptions", exceptions, false),
    ("growth", growth, true),
    ("atomic waits", atomic_waits, false),
    ("traps", traps, false),
    ("host objects", host_objects, true),
    ("linkers", linkers, false),
    ("precompiled modules", precompiled_modules, false),
    ("modules", modules, false),
];

/// What ends in an error that is not a failure's is as it should be: those of lives say so, or are traps.
fn expect_error(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if is_failure(&error) => Err(error),
        Err(_) => Ok(()),
        Ok(()) => Err(Error::msg("no error")),
    }
}

/// Whether an error says that there was no memory.
pub fn is_failure(error: &Error) -> bool {
    format!("{error:#}").contains("the system refuses")
}

/// What every guest exports, unless there is no memory for a handle.
fn exported<T>(item: Option<T>) -> Result<T> {
    item.ok_or_else(|| Error::msg("the system refuses a handle"))
}

fn stores(ready: &Ready) -> Result<()> {
    let mut store = ready.store();
    store.limiter(|limits| limits);
    store.keep_stack(true);
    store.interrupt_handle().map(drop)?;
    let instance = ready.linker.instantiate(&mut store, &ready.guest)?;
    let sum: i32 = instance.call(&mut store, "add", (1, 2))?;
    assert_eq!(sum, 3);
    store.limiter_async(async |_caller, _growth| Ok(true));
    drive(instance.call_async::<_, (), i32>(&mut store, "grow", ())).0?;
    let sum = instance.call_async::<_, _, i32>(&mut store, "add", (1, 2));
    drive(sum.with_timeout(Duration::from_secs(100))).0.map(drop)
}

fn instances(ready: &Ready) -> Result<()> {
    let (mut store, first) = ready.guest()?;
    let second = drive(ready.linker.instantiate_async(&mut store, &ready.guest)).0?;
    let third = ready
        .linker
        .instantiate_pre(&ready.guest)?
        .instantiate(&mut store)?;
    for instance in [first, second, third] {
        let mut linker = Linker::<StoreLimits>::new(&ready.engine);
        for (name, item) in instance.exports(&mut store) {
            linker.define("guest", &name, item)?;
        }
        exported(instance.get_func(&mut store, "add"))?;
        exported(instance.get_global(&mut store, "ref"))?;
        exported(instance.get_table(&mut store, "table"))?;
        instance.call::<(), ()>(&mut store, "segments", ())?;
    }
    Ok(())
}

fn calls(ready: &Ready) -> Result<()> {
    let (mut store, instance) = ready.guest()?;
    for n in 0..3 {
        assert_eq!(instance.call::<_, i32>(&mut store, "add", (n, 2))?, n + 2);
        assert_eq!(instance.call::<_, i32>(&mut store, "sync", n)?, n + 1);
        let many = exported(instance.get_func(&mut store, "many"))?;
        let mut results = [Val::I64(0)];
        many.call(&mut store, &[const { Val::I64(5) }; 18], &mut results)?;
        assert_eq!(results[0].i64(), Some(5));
    }
    let typed = instance.typed::<(i32, i32), i32>(&mut store, "add")?;
    assert_eq!(typed.call(&mut store, (1, 1))?, 2);
    Ok(())
}

fn waiting_calls(ready: &Ready) -> Result<()> {
    let (mut store, instance) = ready.guest()?;
    let (mut other, second) = ready.guest()?;
    for name in ["wait", "nest"] {
        let mut parked = pin!(second.call_async::<_, (), ()>(&mut other, name, ()));
        if let Poll::Ready(ended) = poll_once(parked.as_mut()) {
            return ended;
        }
        drive(instance.call_async::<_, (), ()>(&mut store, name, ())).0?;
    }
    let wait = exported(instance.get_func(&mut store, "wait"))?;
    drive(wait.call_async(&mut store, &[], &mut [])).0
}

fn references(ready: &Ready) -> Result<()> {
    let (mut store, instance) = ready.guest()?;
    instance.call::<_, ()>(&mut store, "references", 12)?;
    let global = exported(instance.get_global(&mut store, "ref"))?;
    let mut scope = RootScope::new(&mut store);
    global.get(&mut scope);
    let mut owned = [const { None }; 70];
    for place in &mut owned {
        *place = Some(ExternRef::new(&mut scope, ())?.to_owned(&mut scope)?);
    }
    Ok(())
}

fn exceptions(ready: &Ready) -> Result<()> {
    let (mut store, instance) = ready.guest()?;
    instance.call::<_, ()>(&mut store, "exceptions", 9)?;
    let ended = instance.call::<_, ()>(&mut store, "uncaught", ());
    let ended = match ended {
        Err(error) if error.is::<Exception>() => error,
        other => return other,
    };
    let exception = ended.downcast_ref::<Exception>().expect("just asked");
    let values = exception.values(&mut store)?;
    assert_eq!(values[3].i64(), Some(4));
    Ok(())
}

fn growth(ready: &Ready) -> Result<()> {
    let (mut store, instance) = ready.guest()?;
    instance.call::<_, i32>(&mut store, "grow", ())?;
    let memory = exported(instance.get_memory(&mut store, "memory"))?;
    let table = exported(instance.get_table(&mut store, "table"))?;
    for (pages, elements) in [(1, 40_000), (3, 1), (20, 5)] {
        memory.grow(&mut store, pages)?;
        table.grow(&mut store, elements, Val::ExternRef(None))?;
    }
    assert_eq!(&memory.data(&store)[100..108], b"an image");
    Ok(())
}

fn atomic_waits(ready: &Ready) -> Result<()> {
    let (mut store, instance) = ready.guest()?;
    let (mut other, second) = ready.guest()?;
    let (mut third, notifier) = ready.guest()?;
    assert_eq!(
        instance.call::<_, i32>(&mut store, "sleep", 1_000_i64)?,
        2,
        "the time is over"
    );
    let mut parked = pin!(instance.call_async::<_, i64, i32>(&mut store, "sleep", -1));
    let mut timed = pin!(second.call_async::<_, i64, i32>(&mut other, "sleep", 1 << 50));
    for parked in [&mut parked, &mut timed] {
        if let Poll::Ready(ended) = poll_once(parked.as_mut()) {
            return ended.map(drop);
        }
    }
    let woken = notifier.call::<_, i32>(&mut third, "notify", 5)?;
    assert_eq!(woken, 2);
    for parked in [parked, timed] {
        match poll_once(parked) {
            Poll::Ready(ended) => assert_eq!(ended?, 0, "woken"),
            Poll::Pending => panic!("woken, and it waits"),
        }
    }
    Ok(())
}

fn traps(ready: &Ready) -> Result<()> {
    let (mut store, instance) = ready.guest()?;
    for name in ["down", "beyond", "fail"] {
        expect_error(instance.call::<_, ()>(&mut store, name, ()))?;
        expect_error(drive(instance.call_async::<_, (), ()>(&mut store, name, ())).0)?;
    }
    Ok(())
}

fn host_objects(ready: &Ready) -> Result<()> {
    let mut store = ready.store();
    for _ in 0..3 {
        Memory::new(&mut store, MemoryType::new(1, Some(3)))?;
        let ty = TableType::new(selvedge::RefType::EXTERNREF, 5, None);
        Table::new(&mut store, ty, Val::ExternRef(None))?;
        SharedMemory::new(&ready.engine, MemoryType::shared(1, 2))?;
        let ty = selvedge::GlobalType {
            content: ValType::I32,
            mutable: true,
        };
        selvedge::Global::new(&mut store, ty, Val::I32(1))?;
        Func::wrap(&mut store, |n: i64| n)?;
    }
    Ok(())
}

fn linkers(ready: &Ready) -> Result<()> {
    let mut linker = linker(&ready.engine)?;
    let mut store = ready.store();
    let instance = linker.instantiate(&mut store, &ready.guest)?;
    linker.instance(&mut store, "guest", instance)?;
    linker.alias_module("guest", "alias")?;
    linker.module(&mut store, "command", &ready.command)?;
    linker.module(&mut store, "reactor", &ready.reactor)?;
    linker.define_unknown_imports_as_traps(&ready.guest)?;
    let start = linker.get(&mut store, "command", "_start")?.into_func();
    exported(start)?.call(&mut store, &[], &mut [])
}

fn precompiled_modules(ready: &Ready) -> Result<()> {
    // SAFETY: made by this process.
    let module = unsafe { Module::deserialize(&ready.engine, &ready.precompiled) }?;
    assert_eq!(module.name(), Some("guest"));
    Ok(())
}

fn modules(ready: &Ready) -> Result<()> {
    let module = Module::new(&ready.engine, COMMAND)?;
    assert_eq!(module.exports().len(), 1);
    Ok(())
}
