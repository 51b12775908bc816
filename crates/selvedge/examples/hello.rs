//! A guest that calls the host: the smallest embedding.

use selvedge::{Caller, Engine, Error, Extern, Linker, Module, Result, Store};

fn main() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module
            (import "host" "print" (func $print (param i32 i32)))
            (memory (export "memory") 1)
            (data (i32.const 8) "hello from a guest")
            (func (export "run") i32.const 8 i32.const 18 call $print))"#,
    )?;
    let mut linker = Linker::<u32>::new(&engine);
    linker.func_wrap(
        "host",
        "print",
        |mut caller: Caller<'_, u32>, start: u32, length: u32| -> Result<()> {
            let memory = caller.get_export("memory").and_then(Extern::into_memory);
            let memory = memory.ok_or_else(|| Error::msg("the guest exports no memory"))?;
            let mut text = vec![0; length as usize];
            memory.read(&caller, start as usize, &mut text)?;
            println!("{}", String::from_utf8_lossy(&text));
            *caller.data_mut() += 1;
            Ok(())
        },
    )?;
    let mut store = Store::new(&engine, 0);
    let instance = linker.instantiate(&mut store, &module)?;
    instance.call::<(), ()>(&mut store, "run", ())?;
    assert_eq!(*store.data(), 1);
    Ok(())
}
