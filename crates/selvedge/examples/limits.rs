//! Limits: what a guest may have, who decides it, and what it sees when there is no more.
//!
//! A stack is limited for all guests of an engine, fuel and time for each call (see `fuel_plugin` and `timeout`), memories, tables and instances
//! for each store: by numbers, by a function, or by one that waits for somebody's answer.

use selvedge::{
    Config, Engine, Growth, GrowthKind, Instance, Module, Result, Store, StoreLimits, StoreLimitsBuilder,
    Trap,
};

const PAGE: u64 = 65_536;

/// Grows its memory page by page until it is refused, and says how many pages it has; or recurses without end.
const GREEDY: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "take_all") (result i32)
      (loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (memory.size))
    (func $recurse (export "recurse") (result i32) (i32.add (call $recurse) (i32.const 1))))"#;

fn main() -> Result<()> {
    // How much stack a guest has is the only thing about stacks there is to choose: host functions run on the host's.
    let engine = Engine::new(Config::new().stack_bytes(64 << 10))?;
    let module = Module::new(&engine, GREEDY)?;

    // By numbers, which are part of the store's data: a guest that is refused gets -1, as WebAssembly says.
    let limits = StoreLimitsBuilder::new()
        .memory_bytes(4 * PAGE)
        .instances(2)
        .build();
    let mut store = Store::<StoreLimits>::new(&engine, limits);
    store.limiter(|limits| limits);
    let instance = Instance::new(&mut store, &module, &[])?;
    let pages: i32 = instance.call(&mut store, "take_all", ())?;
    println!("by numbers: {pages} pages");
    assert_eq!(pages, 4);
    // The host is held to them too, and gets an error that says what was asked for.
    let memory = instance.get_memory(&mut store, "memory").expect("exported");
    println!("the host: {}", memory.grow(&mut store, 1).expect_err("no more"));

    // The stack: the instance stays usable.
    let error = instance
        .call::<(), i32>(&mut store, "recurse", ())
        .expect_err("no more");
    println!("recursion: {error}");
    assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow));
    assert_eq!(instance.call::<(), i32>(&mut store, "take_all", ())?, 4);

    // By somebody who is asked, and may take time to answer: the guest is parked meanwhile.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        let mut store = Store::new(&engine, 0_u64); // bytes granted
        store.limiter_async(async |mut caller, growth: Growth| {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await; // the quota service
            let granted = growth.kind == GrowthKind::Memory && growth.desired <= 3 * PAGE;
            if granted {
                *caller.data_mut() = growth.desired;
            }
            Ok(granted)
        });
        // Instances have memories, so who makes one waits as well.
        let instance = Instance::new_async(&mut store, &module, &[]).await?;
        let pages: i32 = instance.call_async(&mut store, "take_all", ()).await?;
        println!("by a service: {pages} pages");
        assert_eq!((pages, *store.data()), (3, 3 * PAGE));
        Ok(())
    })
}
