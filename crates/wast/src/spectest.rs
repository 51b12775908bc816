//! The host module `spectest`, which every script may import.
//!
//! Its contents are those of the reference interpreter (spec/interpreter/host/spectest.ml). The functions
//! print nothing: no assertion looks at what they print.

use selvedge::{
    Error, Global, GlobalType, Linker, Memory, MemoryType, RefType, SharedMemory, Store, Table, TableType,
    Val,
};

/// Defines the module in `linker`, with a table and a memory of `store`.
pub(crate) fn define(linker: &mut Linker<()>, store: &mut Store<()>) -> Result<(), Error> {
    define_functions(linker)?;
    define_globals(linker, store)?;
    let table = TableType::new(RefType::FUNCREF, 10, Some(20));
    let table = Table::new(&mut *store, table, Val::FuncRef(None))?;
    linker.define("spectest", "table", table)?;
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2)))?;
    linker.define("spectest", "memory", memory)?;
    let shared = SharedMemory::new(linker.engine(), MemoryType::shared(1, 2))?;
    linker.define("spectest", "shared_memory", shared)?;
    Ok(())
}

fn define_functions(linker: &mut Linker<()>) -> Result<(), Error> {
    linker.func_wrap("spectest", "print", || {})?;
    linker.func_wrap("spectest", "print_i32", |_: i32| {})?;
    linker.func_wrap("spectest", "print_i64", |_: i64| {})?;
    linker.func_wrap("spectest", "print_f32", |_: f32| {})?;
    linker.func_wrap("spectest", "print_f64", |_: f64| {})?;
    linker.func_wrap("spectest", "print_i32_f32", |_: i32, _: f32| {})?;
    linker.func_wrap("spectest", "print_f64_f64", |_: f64, _: f64| {})?;
    Ok(())
}

fn define_globals(linker: &mut Linker<()>, store: &mut Store<()>) -> Result<(), Error> {
    let globals = [
        ("global_i32", Val::I32(666)),
        ("global_i64", Val::I64(666)),
        ("global_f32", Val::F32(666.6_f32.to_bits())),
        ("global_f64", Val::F64(666.6_f64.to_bits())),
    ];
    for (name, value) in globals {
        let ty = GlobalType {
            content: value.ty(),
            mutable: false,
        };
        let global = Global::new(&mut *store, ty, value)?;
        linker.define("spectest", name, global)?;
    }
    Ok(())
}
