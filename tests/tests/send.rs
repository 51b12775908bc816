//! What the types promise: futures are `Send` when the data is, and what would be unsound does not compile.
//!
//! The programs that must not compile are the documentation tests of [`selvedge_tests::must_not_compile`].

use selvedge::{
    CallFuture, CallValsFuture, Caller, Engine, Error, Instance, Linker, Local, Module, Store, TypedFunc,
};

fn is_send<T: Send>() {}
fn is_shared<T: Send + Sync>() {}

#[test]
fn futures_are_send_when_the_data_is() {
    is_send::<CallFuture<'_, u32, i32>>();
    is_send::<CallFuture<'_, u32, Option<selvedge::Func>>>();
    is_send::<CallValsFuture<'_, u32>>();
    is_send::<Store<u32>>();
    is_send::<Caller<'_, u32>>();
    is_send::<Store<std::cell::Cell<u32>>>();
    is_shared::<Store<u32>>();
    is_shared::<Engine>();
    is_shared::<Module>();
    is_shared::<Instance>();
    is_shared::<TypedFunc<i32, i32>>();
    is_shared::<Error>();
    is_shared::<Linker<u32>>();
    is_shared::<Linker<Local<std::rc::Rc<u32>>>>();
}

#[test]
fn instantiating_is_send_when_the_data_is() {
    fn is_send<T: Send>(future: T) -> T {
        future
    }
    let engine = Engine::default();
    let module = Module::new(&engine, "(module (func $start) (start $start))").expect("a module");
    let linker = Linker::<u32>::new(&engine);
    let mut store = Store::new(&engine, 1);
    for _ in 0..2 {
        let (instance, _) = selvedge_tests::drive(is_send(linker.instantiate_async(&mut store, &module)));
        instance.expect("an instance");
        let (instance, _) = selvedge_tests::drive(is_send(Instance::new_async(&mut store, &module, &[])));
        instance.expect("an instance");
    }
}

#[test]
fn a_future_is_one_word() {
    assert_eq!(
        size_of::<CallFuture<'_, [u64; 100], [u64; 100]>>(),
        size_of::<usize>()
    );
}
