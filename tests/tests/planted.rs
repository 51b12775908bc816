//! A fault on purpose: `.ci/sanitizers` runs it under AddressSanitizer and fails if that says nothing.

use selvedge::{Caller, Engine, Linker, Module, Result, Store};
use std::hint::black_box;

#[test]
#[ignore = "reads freed memory on purpose, for a sanitizer to find"]
fn a_read_after_a_drop_in_a_host_function() -> Result<()> {
    let engine = Engine::default();
    let mut linker = Linker::<()>::new(&engine);
    linker.func_wrap("host", "read", |_: Caller<'_, ()>| -> i32 {
        let numbers = vec![7_i32; 64];
        let first = black_box(numbers.as_ptr());
        drop(numbers);
        // SAFETY: deliberately not: the vector is gone, which is the test.
        unsafe { first.read_volatile() }
    })?;
    let module = r#"(module (func $read (import "host" "read") (result i32))
        (func (export "f") (result i32) (call $read)))"#;
    let module = Module::new(&engine, module)?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    instance.call::<(), i32>(&mut store, "f", ())?;
    Ok(())
}
