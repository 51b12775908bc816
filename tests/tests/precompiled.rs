//! Modules that are compiled in one process and run in another.

use selvedge::{
    Config, Engine, Error, Instance, Linker, LoadError, MemoryStyle, Module, OptLevel, Result, Store, Trap,
    WasmBacktraceDetails,
};
use selvedge_tests::in_child;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

const GUEST: &str = r#"(module $guest
    (import "host" "double" (func $double (param i32) (result i32)))
    (memory (export "memory") 1) (data (i32.const 8) "\2a")
    (table 2 funcref) (elem (i32.const 0) $answer)
    (func $answer (result i32) (i32.load (i32.const 8)))
    (func $fails (export "fails") (result i32) (i32.load (i32.const 65536)))
    (func (export "overflows") (call 3))
    (func (export "run") (result i32) (call $double (call_indirect (result i32) (i32.const 0)))))"#;

fn linker(engine: &Engine) -> Result<Linker<()>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("host", "double", |n: i32| n * 2)?;
    Ok(linker)
}

/// Runs all of the guest's functions.
fn exercise(engine: &Engine, module: &Module) -> Result<()> {
    let mut store = Store::new(engine, ());
    let instance = linker(engine)?.instantiate(&mut store, module)?;
    assert_eq!(instance.call::<(), i32>(&mut store, "run", ())?, 84);
    let error = instance
        .call::<(), i32>(&mut store, "fails", ())
        .expect_err("a trap");
    assert_eq!(error.downcast_ref(), Some(&Trap::MemoryOutOfBounds));
    let frame = &error.backtrace().expect("frames").frames()[0];
    assert_eq!(
        (frame.func_name(), frame.module_name()),
        (Some("fails"), Some("guest"))
    );
    assert!(frame.wasm_offset().is_some(), "{error:?}");
    let error = instance
        .call::<(), ()>(&mut store, "overflows", ())
        .expect_err("a trap");
    assert_eq!(error.downcast_ref(), Some(&Trap::StackOverflow));
    assert_eq!(instance.call::<(), i32>(&mut store, "run", ())?, 84);
    Ok(())
}

/// A file of the process with this number.
fn file(process: u32) -> PathBuf {
    std::env::temp_dir().join(format!("selvedge-precompiled-{process}"))
}

#[test]
fn a_module_runs_in_another_process_than_it_was_compiled_in() -> Result<()> {
    let own = file(std::process::id());
    let bytes = Engine::default().precompile_module(GUEST.as_bytes())?;
    std::fs::write(&own, &bytes).expect("a file can be written");
    let child = in_child("a_module_runs_in_another_process_than_it_was_compiled_in", || {
        std::fs::remove_file(&own).expect("written above"); // the child's, which is not to be used
        let engine = Engine::default();
        let parent = file(std::os::unix::process::parent_id());
        // SAFETY: the parent wrote the file a moment ago.
        let module = unsafe { Module::deserialize_file(&engine, parent) };
        exercise(&engine, &module.expect("it was just compiled")).expect("as compiled");
    });
    std::fs::remove_file(own).expect("the file is there");
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
    Ok(())
}

#[test]
fn a_module_runs_with_whatever_may_differ() -> Result<()> {
    let portable = Engine::new(Config::new().portable_code(true).parallel_compilation(false))?;
    let bytes = portable.precompile_module(GUEST.as_bytes())?;
    assert!(Engine::detect_precompiled(&bytes));
    assert!(!Engine::detect_precompiled(GUEST.as_bytes()) && !Engine::detect_precompiled(b"\0asm\x01\0\0\0"));
    let engine = Engine::new(Config::new().wasm_backtrace_details(WasmBacktraceDetails::Enable))?;
    // SAFETY: the bytes were made above.
    let module = unsafe { Module::deserialize(&engine, &bytes)? };
    exercise(&engine, &module)?;
    // The bytes are not needed any more, and the module not by its instances.
    drop(bytes);
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine)?.instantiate(&mut store, &module)?;
    drop(module);
    assert_eq!(instance.call::<(), i32>(&mut store, "run", ())?, 84);
    Ok(())
}

#[test]
fn source_lines_survive() -> Result<()> {
    let wasm = include_bytes!("../fixtures/lines/lines.wasm");
    let engine = Engine::new(Config::new().wasm_backtrace_details(WasmBacktraceDetails::Enable))?;
    let bytes = engine.precompile_module(wasm)?;
    // SAFETY: the bytes were made a line ago.
    let loaded = unsafe { Module::deserialize(&engine, bytes)? };
    let divide = |module: &Module| -> Result<Error> {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, module, &[])?;
        Ok(instance
            .call::<i32, i32>(&mut store, "divide", 0)
            .expect_err("a division by zero"))
    };
    let (compiled, loaded) = (divide(&Module::new(&engine, wasm)?)?, divide(&loaded)?);
    let [compiled, loaded] = [compiled, loaded].map(|error| error.backtrace().expect("frames").to_string());
    assert!(loaded.contains("lines.c"), "{loaded}");
    assert_eq!(loaded, compiled);
    Ok(())
}

#[test]
fn what_is_not_right_here_is_refused_and_says_why() -> Result<()> {
    let engine = Engine::default();
    let bytes = engine.precompile_module(GUEST.as_bytes())?;
    let refusal = |engine: &Engine, bytes: &[u8]| -> (LoadError, String) {
        // SAFETY: they are refused.
        let error = unsafe { Module::deserialize(engine, bytes) }.expect_err("not right here");
        let load = error.downcast_ref::<LoadError>().expect("a load error");
        (load.clone(), format!("{error:#}"))
    };
    let metered = Engine::new(Config::new().fuel(true))?;
    assert_eq!(
        refusal(&metered, &bytes).1,
        "precompiled with fuel off, which is on here"
    );
    let canonical = Engine::new(Config::new().canonical_nans(true))?;
    assert_eq!(
        refusal(&canonical, &bytes).1,
        "precompiled with canonical NaNs off, which is on here"
    );
    assert_eq!(refusal(&engine, GUEST.as_bytes()).0, LoadError::NotPrecompiled);
    assert!(matches!(
        refusal(&engine, &bytes[..bytes.len() - 1]).0,
        LoadError::Damaged { .. }
    ));
    let path = file(std::process::id()).with_extension("none");
    // SAFETY: there is no such file.
    let error = unsafe { Module::deserialize_file(&engine, &path) }.expect_err("no file");
    assert!(
        error.to_string().contains(&path.display().to_string()),
        "{error:#}"
    );
    assert!(Engine::detect_precompiled_file(&path).is_err());
    std::fs::write(&path, &bytes).expect("a file can be written");
    assert!(Engine::detect_precompiled_file(&path)?);
    std::fs::write(&path, b"\0asm").expect("a file can be written");
    assert!(!Engine::detect_precompiled_file(&path)?, "shorter than a head");
    std::fs::remove_file(&path).expect("written above");
    // And it is no module in the other two formats.
    assert!(Module::new(&engine, &bytes).is_err());
    Ok(())
}

#[test]
fn what_one_engine_makes_another_loads_if_their_hashes_are_equal() -> Result<()> {
    let key = |engine: &Engine| {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    };
    let configs: [fn(&mut Config) -> &mut Config; 7] = [
        |config| config,
        |config| config.fuel(true),
        |config| config.memory_style(MemoryStyle::Bounded),
        |config| config.portable_code(true),
        |config| config.canonical_nans(true),
        |config| config.wasm_simd(false),
        |config| config.opt_level(OptLevel::None),
    ];
    let engines = configs
        .iter()
        .map(|set| Engine::new(set(&mut Config::new())))
        .collect::<Result<Vec<_>>>()?;
    for (at, engine) in engines.iter().enumerate() {
        let same = Engine::new(configs[at](&mut Config::new()).stack_bytes(1 << 20))?;
        assert_eq!(key(engine), key(&same), "the size of stacks is not the code's");
        let bytes = engine.precompile_module(GUEST.as_bytes())?;
        // SAFETY: made above.
        unsafe { Module::deserialize(&same, bytes)? };
        for other in &engines[at + 1..] {
            assert_ne!(key(engine), key(other));
        }
    }
    Ok(())
}

#[test]
fn a_weak_handle_does_not_keep_its_engine() -> Result<()> {
    let engine = Engine::default();
    let weak = engine.weak();
    assert!(Engine::same(&weak.upgrade().expect("it is there"), &engine));
    assert!(!Engine::same(&engine, &Engine::default()));
    let module = Module::new(&engine, GUEST)?;
    drop(engine);
    assert!(weak.upgrade().is_some(), "a module has it");
    drop(module);
    assert!(weak.upgrade().is_none());
    Ok(())
}
