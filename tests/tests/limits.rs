//! The limits of a store: what its guests may have, and how far they grow.

use selvedge::{
    Engine, Error, Growth, GrowthKind, Instance, Memory, MemoryType, Module, RefType, Store,
    StoreLimitsBuilder, Table, TableType, Val,
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
        format!("{error:#}").contains("131072 exceeds the store's limit of 65536"),
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
