//! The limits of a store: what its guests may have, and how far they grow.

use selvedge::{
    Engine, Error, Growth, GrowthKind, Instance, Memory, MemoryType, Module, RefType, ResourceLimiter,
    Result, Store, StoreLimitsBuilder, Table, TableType, Val,
};
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

const PAGE: u64 = 65_536;

const GROWING: &str = r#"(module (memory (export "m") 1) (table (export "t") 2 externref)
    (func (export "memory") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "table") (param i32) (result i32) (table.grow (ref.null extern) (local.get 0)))
    (func (export "both") (param i32) (result i32)
      (i32.add (i32.mul (memory.grow (local.get 0)) (i32.const 100)) (table.grow (ref.null extern) (local.get 0)))))"#;

fn instance<T>(engine: &Engine, store: &mut Store<T>) -> Instance {
    Instance::new(store, &Module::new(engine, GROWING).unwrap(), &[]).unwrap()
}

fn grow<T>(store: &mut Store<T>, instance: Instance, what: &str, delta: i32) -> i32 {
    instance.call(store, what, delta).unwrap()
}

#[test]
fn a_guest_grows_as_far_as_its_limits_and_gets_minus_one_beyond() {
    let engine = Engine::default();
    let limits = StoreLimitsBuilder::new()
        .memory_bytes(3 * PAGE)
        .table_elements(5)
        .build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    let instance = instance(&engine, &mut store);
    assert_eq!(grow(&mut store, instance, "memory", 3), -1);
    assert_eq!(grow(&mut store, instance, "memory", 2), 1);
    assert_eq!(grow(&mut store, instance, "memory", 1), -1);
    assert_eq!(grow(&mut store, instance, "memory", 0), 3);
    assert_eq!(grow(&mut store, instance, "table", 3), 2);
    assert_eq!(grow(&mut store, instance, "table", 1), -1);
    let memory = instance.get_memory(&mut store, "m").unwrap();
    assert_eq!(memory.size(&store), 3);
    let error = memory.grow(&mut store, 1).unwrap_err();
    assert!(error.to_string().contains("262144 bytes"), "{error}");
    let table = instance.get_table(&mut store, "t").unwrap();
    assert!(table.grow(&mut store, 1, Val::ExternRef(None)).is_err());
    assert_eq!(table.size(&store), 5);
}

#[test]
fn a_limit_that_fails_ends_the_call_with_its_numbers() {
    let engine = Engine::default();
    let limits = StoreLimitsBuilder::new()
        .memory_bytes(PAGE)
        .fail_on_refusal(true)
        .build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    let instance = instance(&engine, &mut store);
    let error = instance.call::<_, i32>(&mut store, "memory", 1).unwrap_err();
    assert!(
        format!("{error:#}").contains("131072 bytes exceeds the store's limit of 65536"),
        "{error:#}"
    );
    assert_eq!(grow(&mut store, instance, "memory", 0), 1); // usable yet
}

#[test]
fn what_is_made_counts_and_is_asked_about() {
    let engine = Engine::default();
    let limits = StoreLimitsBuilder::new()
        .instances(2)
        .memories(3)
        .tables(2)
        .memory_bytes(2 * PAGE)
        .build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    instance(&engine, &mut store);
    let too_large = Memory::new(&mut store, MemoryType::new(3, None)).unwrap_err();
    assert!(too_large.to_string().contains("196608"), "{too_large}");
    Memory::new(&mut store, MemoryType::new(2, None)).unwrap();
    let big = Module::new(&engine, "(module (memory 3))").unwrap();
    assert!(Instance::new(&mut store, &big, &[]).is_err());
    instance(&engine, &mut store);
    let error = Instance::new(&mut store, &Module::new(&engine, "(module)").unwrap(), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the store's limiter allows 2 instances: 2 in use, 1 more wanted"
    );
    assert!(Memory::new(&mut store, MemoryType::new(0, None)).is_err());
    let table = TableType::new(RefType::FUNCREF, 1, None);
    assert!(Table::new(&mut store, table, Val::FuncRef(None)).is_err());
}

/// Is ready when it is polled for the second time.
#[derive(Default)]
struct Once {
    is_polled: bool,
}

impl Future for Once {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match std::mem::replace(&mut self.is_polled, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Asked for, in order; then answers.
struct Quota {
    asked: Vec<Growth>,
    answers: Vec<Result<bool, &'static str>>,
}

fn waiting_store(engine: &Engine, answers: &[Result<bool, &'static str>]) -> (Store<Quota>, Instance) {
    let quota = Quota {
        asked: Vec::new(),
        answers: answers.iter().rev().copied().collect(),
    };
    let mut store = Store::new(engine, quota);
    let instance = instance(engine, &mut store);
    store.limiter_async(async |mut caller, growth: Growth| {
        caller.data_mut().asked.push(growth);
        Once::default().await;
        let answer = caller
            .data_mut()
            .answers
            .pop()
            .expect("no more questions than answers");
        answer.map_err(Error::msg)
    });
    (store, instance)
}

#[test]
fn a_guest_waits_for_the_answer_and_goes_on_with_it() {
    let engine = Engine::default();
    let (mut store, instance) = waiting_store(
        &engine,
        &[Ok(true), Ok(true), Ok(false), Ok(true), Err("no more")],
    );
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut call = pin!(instance.call_async::<_, _, i32>(&mut store, "both", 3));
        assert!(call.as_mut().poll(&mut context).is_pending());
        assert!(call.as_mut().poll(&mut context).is_pending());
        match call.poll(&mut context) {
            Poll::Ready(Ok(102)) => {} // 1 page, 2 elements
            other => panic!("{other:?}"),
        }
    }
    {
        let mut call = pin!(instance.call_async::<_, _, i32>(&mut store, "both", 1));
        assert!(call.as_mut().poll(&mut context).is_pending());
        assert!(call.as_mut().poll(&mut context).is_pending());
        match call.poll(&mut context) {
            Poll::Ready(Ok(answer)) => assert_eq!(answer, -100 + 5),
            other => panic!("{other:?}"),
        }
    }
    {
        let mut call = pin!(instance.call_async::<_, _, i32>(&mut store, "memory", 1));
        assert!(call.as_mut().poll(&mut context).is_pending());
        match call.poll(&mut context) {
            Poll::Ready(Err(error)) => assert!(error.to_string().contains("no more"), "{error:#}"),
            other => panic!("{other:?}"),
        }
    }
    let memory = instance.get_memory(&mut store, "m").unwrap();
    assert_eq!(memory.size(&store), 4);
    let asked: Vec<_> = store
        .data()
        .asked
        .iter()
        .map(|growth| (growth.kind, growth.current, growth.desired))
        .collect();
    use GrowthKind::{Memory, Table};
    let expected = [
        (Memory, PAGE, 4 * PAGE),
        (Table, 2, 5),
        (Memory, 4 * PAGE, 5 * PAGE),
        (Table, 5, 6),
    ];
    assert_eq!(asked[..4], expected);
}

#[test]
fn a_growth_that_is_given_up_while_it_waits_does_not_happen() {
    let engine = Engine::default();
    let (mut store, instance) = waiting_store(&engine, &[Ok(true)]);
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut call = pin!(instance.call_async::<_, _, i32>(&mut store, "memory", 3));
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    let memory = instance.get_memory(&mut store, "m").unwrap();
    assert_eq!(memory.size(&store), 1);
    assert_eq!(store.data().asked.len(), 1);
}

#[test]
fn where_nobody_can_wait_an_answer_that_is_not_ready_is_an_error() {
    let engine = Engine::default();
    let (mut store, instance) = waiting_store(&engine, &[]);
    let error = instance.call::<_, i32>(&mut store, "memory", 1).unwrap_err();
    assert!(format!("{error:#}").contains("limiter"), "{error:#}");
    let memory = instance.get_memory(&mut store, "m").unwrap();
    let error = memory.grow(&mut store, 1).unwrap_err();
    assert!(format!("{error:#}").contains("limiter"), "{error:#}");
    assert!(Memory::new(&mut store, MemoryType::new(1, None)).is_err());
    assert_eq!(memory.size(&store), 1);
}

/// Polls until ready; how many polls were pending.
fn waited<T>(future: impl Future<Output = T>) -> (T, u64) {
    selvedge_tests::drive(future)
}

#[test]
fn the_host_waits_for_the_answer_when_it_grows_something() {
    let engine = Engine::default();
    let (mut store, instance) = waiting_store(
        &engine,
        &[Ok(true), Ok(false), Err("no more"), Ok(true), Ok(false)],
    );
    let memory = instance.get_memory(&mut store, "m").unwrap();
    let (result, pending) = waited(memory.grow_async(&mut store, 2));
    assert_eq!((result.unwrap(), pending), (1, 1));
    let refused = waited(memory.grow_async(&mut store, 1)).0.unwrap_err();
    assert!(
        refused.to_string().contains("refused a memory of 262144 bytes"),
        "{refused}"
    );
    let failed = waited(memory.grow_async(&mut store, 1)).0.unwrap_err();
    assert!(failed.to_string().contains("no more"), "{failed}");
    assert_eq!(memory.size(&store), 3);

    let table = instance.get_table(&mut store, "t").unwrap();
    let (result, pending) = waited(table.grow_async(&mut store, 3, Val::ExternRef(None)));
    assert_eq!((result.unwrap(), pending), (2, 1));
    let refused = waited(table.grow_async(&mut store, 1, Val::ExternRef(None)))
        .0
        .unwrap_err();
    assert!(
        refused.to_string().contains("refused a table of 6 elements"),
        "{refused}"
    );
    assert_eq!(table.size(&store), 5);
    assert_eq!(store.data().asked.len(), 5);
}

#[test]
fn the_host_waits_for_the_answer_when_it_makes_something() {
    let engine = Engine::default();
    let (mut store, _) = waiting_store(&engine, &[Ok(true), Ok(false), Ok(true), Ok(false)]);
    let (memory, pending) = waited(Memory::new_async(&mut store, MemoryType::new(2, None)));
    assert_eq!((memory.unwrap().size(&store), pending), (2, 1));
    assert!(
        waited(Memory::new_async(&mut store, MemoryType::new(2, None)))
            .0
            .is_err()
    );
    let ty = TableType::new(RefType::FUNCREF, 4, None);
    let (table, pending) = waited(Table::new_async(&mut store, ty, Val::FuncRef(None)));
    assert_eq!((table.unwrap().size(&store), pending), (4, 1));
    assert!(
        waited(Table::new_async(&mut store, ty, Val::FuncRef(None)))
            .0
            .is_err()
    );
    let asked: Vec<_> = store
        .data()
        .asked
        .iter()
        .map(|growth| (growth.kind, growth.current, growth.desired))
        .collect();
    let (memory, table) = ((GrowthKind::Memory, 0, 2 * PAGE), (GrowthKind::Table, 0, 4));
    assert_eq!(asked, [memory, memory, table, table]);
}

#[test]
fn an_instance_waits_for_the_answers_for_what_it_has() {
    let engine = Engine::default();
    let module = Module::new(&engine, GROWING).unwrap();
    let (mut store, _) = waiting_store(
        &engine,
        &[Ok(true), Ok(true), Ok(true), Ok(false), Err("no more")],
    );
    let (made, pending) = waited(Instance::new_async(&mut store, &module, &[]));
    assert_eq!((made.is_ok(), pending), (true, 2), "a memory and a table");
    let linker = selvedge::Linker::<Quota>::new(&engine);
    let refused = waited(linker.instantiate_async(&mut store, &module))
        .0
        .unwrap_err();
    assert!(
        refused.to_string().contains("refused a table of 2 elements"),
        "{refused}"
    );
    let failed = waited(
        linker
            .instantiate_pre(&module)
            .unwrap()
            .instantiate_async(&mut store),
    )
    .0
    .unwrap_err();
    assert!(failed.to_string().contains("no more"), "{failed}");
    // Nobody is asked about what cannot be made.
    let unknown = Module::new(&engine, r#"(module (import "no" "such" (func)) (memory 1))"#).unwrap();
    assert!(waited(linker.instantiate_async(&mut store, &unknown)).0.is_err());
    assert!(waited(Instance::new_async(&mut store, &unknown, &[])).0.is_err());
    assert_eq!(store.data().asked.len(), 5);
}

#[test]
fn what_is_given_up_while_the_limiter_thinks_does_not_happen() {
    let engine = Engine::default();
    let module = Module::new(&engine, GROWING).unwrap();
    let (mut store, instance) = waiting_store(&engine, &[]);
    let memory = instance.get_memory(&mut store, "m").unwrap();
    let table = instance.get_table(&mut store, "t").unwrap();
    for _ in 0..3 {
        let mut context = Context::from_waker(Waker::noop());
        assert!(
            pin!(memory.grow_async(&mut store, 1))
                .poll(&mut context)
                .is_pending()
        );
        assert!(
            pin!(table.grow_async(&mut store, 1, Val::ExternRef(None)))
                .poll(&mut context)
                .is_pending()
        );
        assert!(
            pin!(Memory::new_async(&mut store, MemoryType::new(1, None)))
                .poll(&mut context)
                .is_pending()
        );
        assert!(
            pin!(Instance::new_async(&mut store, &module, &[]))
                .poll(&mut context)
                .is_pending()
        );
    }
    assert_eq!((memory.size(&store), table.size(&store)), (1, 2));
    assert_eq!(store.data().asked.len(), 12);
}

#[test]
fn a_limiter_that_is_ready_or_plain_serves_the_async_ways_too() {
    let engine = Engine::default();
    let limits = StoreLimitsBuilder::new()
        .memory_bytes(2 * PAGE)
        .memories(2)
        .build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    let (memory, pending) = waited(Memory::new_async(&mut store, MemoryType::new(1, None)));
    let memory = memory.unwrap();
    assert_eq!(pending, 0);
    assert_eq!(waited(memory.grow_async(&mut store, 1)).0.unwrap(), 1);
    assert!(waited(memory.grow_async(&mut store, 1)).0.is_err());
    assert!(
        waited(Memory::new_async(&mut store, MemoryType::new(1, None)))
            .0
            .is_ok()
    );
    let error = waited(Memory::new_async(&mut store, MemoryType::new(1, None)))
        .0
        .unwrap_err();
    assert!(error.to_string().contains("allows 2 memories"), "{error}");
    let mut without = Store::new(&engine, ());
    let memory = waited(Memory::new_async(&mut without, MemoryType::new(1, None)))
        .0
        .unwrap();
    assert_eq!(waited(memory.grow_async(&mut without, 1)).0.unwrap(), 1);
}

/// A host function grows its guest's memory and waits for the limiter, which uses the store meanwhile.
#[test]
fn a_host_function_waits_for_the_limiter_in_the_middle_of_a_call() {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "more" (func $more (result i32))) (memory (export "m") 1)
            (func (export "run") (result i32) (i32.add (call $more) (i32.mul (memory.size) (i32.const 10)))))"#,
    )
    .unwrap();
    let mut linker = selvedge::Linker::<u64>::new(&engine);
    linker
        .func_wrap_async(
            "host",
            "more",
            async |mut caller: selvedge::Caller<'_, u64>, (): ()| -> Result<i32, Error> {
                let memory = caller
                    .get_export("m")
                    .and_then(selvedge::Extern::into_memory)
                    .expect("exported");
                Ok(memory.grow_async(&mut caller, 2).await? as i32)
            },
        )
        .unwrap();
    let mut store = Store::new(&engine, 0);
    let instance = linker.instantiate(&mut store, &module).unwrap();
    store.limiter_async(async |mut caller: selvedge::Caller<'_, u64>, growth: Growth| {
        Once::default().await;
        *caller.data_mut() += growth.desired;
        Ok(true)
    });
    let (result, pending) = waited(instance.call_async::<_, (), i32>(&mut store, "run", ()));
    assert_eq!((result.unwrap(), pending), (31, 1));
    assert_eq!(*store.data(), 3 * PAGE);
}

/// Grants everything, and counts what fails all the same.
struct Granting {
    failures: Vec<String>,
    ends: bool,
}

impl ResourceLimiter for Granting {
    fn memory_growing(&mut self, _: u64, _: u64, _: Option<u64>) -> Result<bool> {
        Ok(true)
    }

    fn table_growing(&mut self, _: u64, _: u64, _: Option<u64>) -> Result<bool> {
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        self.failures.push(error.to_string());
        match self.ends {
            true => Err(error),
            false => Ok(()),
        }
    }
}

#[test]
fn a_limiter_hears_of_what_it_granted_and_the_system_refuses() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (memory (export "memory") i64 1)
            (func (export "grow") (param i64) (result i64) (memory.grow (local.get 0))))"#,
    )?;
    let mut store = Store::new(
        &engine,
        Granting {
            failures: Vec::new(),
            ends: false,
        },
    );
    store.limiter(|data| data);
    let instance = Instance::new(&mut store, &module, &[])?;
    // More than a processor can address, and less than the type allows.
    let too_much = 1_i64 << 40;
    assert_eq!(instance.call::<_, i64>(&mut store, "grow", too_much)?, -1);
    let words = format!(
        "memory of 65536 bytes cannot grow to {}: the system refuses",
        (too_much + 1) << 16
    );
    assert_eq!(store.data().failures, std::slice::from_ref(&words));
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    let error = memory.grow(&mut store, too_much as u64).unwrap_err();
    assert!(error.to_string().contains("the system refuses"), "{error}");
    assert_eq!(store.data().failures.len(), 2);
    // What the type does not allow nobody is asked about.
    assert_eq!(instance.call::<_, i64>(&mut store, "grow", 1_i64 << 50)?, -1);
    assert_eq!(store.data().failures.len(), 2);
    store.data_mut().ends = true;
    let error = instance.call::<_, i64>(&mut store, "grow", too_much).unwrap_err();
    assert_eq!(error.to_string(), words);
    store.data_mut().ends = false;
    assert_eq!(
        instance.call::<_, i64>(&mut store, "grow", 1_i64)?,
        1,
        "usable as before"
    );
    Ok(())
}
