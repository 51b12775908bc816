//! What a trap says: which one, where in the module, and where in its source.

use selvedge::{
    Caller, Config, Engine, Error, Extern, FrameInfo, Instance, Linker, Module, Result, Store, Trap,
    WasmBacktrace, WasmBacktraceDetails,
};
use selvedge_tests::in_child;

/// The lines that these tests expect are in the fixture's source: `fixtures/lines/lines.c`, `inner.h`.
const LINES: [&[u8]; 2] = [
    include_bytes!("../fixtures/lines/lines.wasm"),
    include_bytes!("../fixtures/lines/lines5.wasm"),
];

fn trap_of(
    wasm: &[u8],
    details: WasmBacktraceDetails,
    name: &str,
    call: impl FnOnce(&mut Store<()>, Instance) -> Error,
) -> Result<Error> {
    let engine = Engine::new(Config::new().wasm_backtrace_details(details))?;
    let module = Module::new(&engine, wasm)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let error = call(&mut store, instance);
    assert!(error.is::<Trap>(), "{name}: {error:?}");
    Ok(error)
}

fn divide(store: &mut Store<()>, instance: Instance) -> Error {
    instance
        .call::<i32, i32>(store, "divide", 0)
        .expect_err("a division by zero")
}

fn stop(store: &mut Store<()>, instance: Instance) -> Error {
    instance.call::<(), ()>(store, "stop", ()).expect_err("a trap")
}

fn frames(error: &Error) -> &[FrameInfo] {
    error.backtrace().expect("a trap has a backtrace").frames()
}

/// Name, file and line of each function, the innermost first.
fn symbols(frame: &FrameInfo) -> Vec<(&str, &str, u32)> {
    let known = "the fixture says all";
    let symbols = frame.symbols().iter();
    symbols
        .map(|symbol| {
            assert!(symbol.column().is_some());
            (
                symbol.name().expect(known),
                symbol.file().expect(known),
                symbol.line().expect(known),
            )
        })
        .collect()
}

#[test]
fn a_trap_says_the_lines_of_its_source_and_what_was_inlined() -> Result<()> {
    for wasm in LINES {
        let error = trap_of(wasm, WasmBacktraceDetails::Enable, "divide", divide)?;
        let frames = frames(&error);
        assert_eq!(frames.len(), 2);
        let inner = [
            ("innermost", "/src/inner.h", 3),
            ("middle", "/src/inner.h", 8),
            ("outer", "/src/lines.c", 8),
        ];
        assert_eq!(symbols(&frames[0]), inner);
        assert_eq!(symbols(&frames[1]), [("divide", "/src/lines.c", 12)]);

        let error = trap_of(wasm, WasmBacktraceDetails::Enable, "stop", stop)?;
        assert_eq!(symbols(&self::frames(&error)[0]), [("stop", "/src/lines.c", 16)]);
    }
    Ok(())
}

#[test]
fn a_printed_backtrace_has_a_line_for_each_place() -> Result<()> {
    let error = trap_of(LINES[0], WasmBacktraceDetails::Enable, "divide", divide)?;
    let text = error.backtrace().expect("a trap has one").to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert!(lines[1].ends_with("!outer"), "{text}");
    assert!(lines[2].starts_with("at /src/inner.h:3:"), "{text}");
    assert_eq!(lines[3], "- middle", "{text}");
    assert!(lines[4].starts_with("at /src/inner.h:8:"), "{text}");
    assert_eq!(lines[5], "- outer", "{text}");
    assert!(lines[6].starts_with("at /src/lines.c:8:"), "{text}");
    assert!(lines[7].ends_with("!divide"), "{text}");
    Ok(())
}

#[test]
fn lines_that_were_not_kept_are_pointed_at_and_cost_nothing() -> Result<()> {
    let error = trap_of(LINES[0], WasmBacktraceDetails::Disable, "divide", divide)?;
    assert!(frames(&error)[0].symbols().is_empty());
    let text = error.backtrace().expect("a trap has one").to_string();
    assert!(
        text.contains("wasm_backtrace_details") && !text.contains("/src/"),
        "{text}"
    );
    let without = trap_of(
        br#"(module (func (export "stop") unreachable))"#,
        WasmBacktraceDetails::Disable,
        "stop",
        stop,
    )?;
    assert!(!format!("{without:?}").contains("wasm_backtrace_details"));
    Ok(())
}

#[test]
fn the_environment_asks_for_lines_by_default() {
    let output = in_child("the_environment_asks_for_lines_by_default", || {
        let says_lines = || {
            let error =
                trap_of(LINES[0], WasmBacktraceDetails::Environment, "divide", divide).expect("a module");
            format!("{error:?}").contains("/src/inner.h:3")
        };
        assert!(!says_lines());
        // SAFETY: this process has no other thread that reads the environment.
        unsafe { std::env::set_var("SELVEDGE_BACKTRACE_DETAILS", "1") };
        assert!(says_lines());
    });
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_module_with_malformed_lines_traps_as_any_other() -> Result<()> {
    // The last bytes of the fixture are of its sections for debuggers and its names.
    let mut wasm = LINES[0].to_vec();
    let start = wasm.len() / 2;
    for byte in &mut wasm[start..] {
        if *byte == 0x02 {
            *byte = 0xff;
        }
    }
    let Ok(error) = trap_of(&wasm, WasmBacktraceDetails::Enable, "divide", divide) else {
        return Ok(()); // a section's length was hit
    };
    assert_eq!(error.downcast_ref(), Some(&Trap::IntegerDivisionByZero));
    Ok(())
}

/// A function that traps, for each trap that a guest can have by itself, by name.
const TRAPS: &[(&str, Trap)] = &[
    ("call stack exhausted", Trap::StackOverflow),
    ("out of bounds load", Trap::MemoryOutOfBounds),
    ("out of bounds store", Trap::MemoryOutOfBounds),
    ("out of bounds fill", Trap::MemoryOutOfBounds),
    ("out of bounds get", Trap::TableOutOfBounds),
    ("out of bounds call", Trap::TableOutOfBounds),
    ("call of null", Trap::IndirectCallToNull),
    ("call of another type", Trap::BadSignature),
    ("overflow", Trap::IntegerOverflow),
    ("too large", Trap::IntegerOverflow),
    ("division by zero", Trap::IntegerDivisionByZero),
    ("remainder by zero", Trap::IntegerDivisionByZero),
    ("not a number", Trap::BadConversionToInteger),
    ("unreachable", Trap::Unreachable),
    ("null", Trap::NullReference),
    ("unaligned", Trap::UnalignedAtomic),
    ("not shared", Trap::ExpectedSharedMemory),
];

const TRAPPING: &str = r#"(module $trapping
    (import "host" "nothing" (func $nothing))
    (type $unit (func)) (memory 1) (table 4 funcref) (elem (i32.const 1) func $number)
    (func $number (result i32) (i32.const 0))
    (func $f0 (export "call stack exhausted") (call $f0) (call $nothing))
    (func $f1 (export "out of bounds load") (drop (i32.load (i32.const 65536))))
    (func $f2 (export "out of bounds store") (i64.store (i32.const 65529) (i64.const 0)))
    (func $f3 (export "out of bounds fill") (memory.fill (i32.const 65535) (i32.const 0) (i32.const 2)))
    (func $f4 (export "out of bounds get") (drop (table.get (i32.const 4))))
    (func $f5 (export "out of bounds call") (call_indirect (type $unit) (i32.const 4)))
    (func $f6 (export "call of null") (call_indirect (type $unit) (i32.const 0)))
    (func $f7 (export "call of another type") (call_indirect (type $unit) (i32.const 1)))
    (func $f8 (export "overflow") (drop (i32.div_s (i32.const 0x80000000) (i32.const -1))))
    (func $f9 (export "too large") (drop (i32.trunc_f64_s (f64.const 1e10))))
    (func $f10 (export "division by zero") (drop (i64.div_u (i64.const 1) (i64.const 0))))
    (func $f11 (export "remainder by zero") (drop (i32.rem_s (i32.const 1) (i32.const 0))))
    (func $f12 (export "not a number") (drop (i32.trunc_f32_u (f32.const nan))))
    (func $f13 (export "unreachable") (unreachable))
    (func $f14 (export "null") (call_ref $unit (ref.null $unit)))
    (func $f15 (export "unaligned") (drop (i32.atomic.load (i32.const 2))))
    (func $f16 (export "not shared")
      (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))"#;

#[test]
fn every_trap_says_its_module_function_name_and_offset() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, TRAPPING)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "nothing", || ())?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let mut before = 0;
    for (index, (name, trap)) in TRAPS.iter().enumerate() {
        let error = instance.call::<(), ()>(&mut store, name, ()).expect_err(name);
        assert_eq!(error.downcast_ref(), Some(trap), "{name}: {error:?}");
        let frame = &frames(&error)[0];
        assert_eq!(frame.module_name(), Some("trapping"), "{name}");
        assert_eq!(frame.func_name(), Some(format!("f{index}").as_str()), "{name}");
        assert_eq!(
            frame.func_index(),
            2 + index as u32,
            "{name}: the import and $number come before"
        );
        let Some(offset) = frame.wasm_offset() else {
            assert_eq!(
                *trap,
                Trap::StackOverflow,
                "{name}: only what faults before the first operator has none"
            );
            continue;
        };
        assert!(
            offset > before,
            "{name}: functions lie in order, at {offset} after {before}"
        );
        before = offset;
    }
    Ok(())
}

#[test]
fn the_list_of_traps_is_complete() {
    let elsewhere = [Trap::OutOfFuel, Trap::Interrupt]; // by the host's will: `fuel.rs`, `interrupts.rs`
    for trap in Trap::ALL {
        let listed = TRAPS.iter().any(|(_, listed)| *listed == trap);
        assert_ne!(listed, elsewhere.contains(&trap), "{trap:?}");
    }
}

#[test]
fn a_trap_has_the_offset_of_its_operator() -> Result<()> {
    let engine = Engine::default();
    // Magic and version 8, types 6, functions 4, exports 7: the code section's contents begin at 27, `unreachable` is behind
    // a count, a size, no locals and a nop.
    let wasm =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x05\x01\x01f\0\0\x0a\x06\x01\x04\0\x01\0\x0b";
    let module = Module::new(&engine, wasm)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let error = instance
        .call::<(), ()>(&mut store, "f", ())
        .expect_err("unreachable");
    let frame = &frames(&error)[0];
    assert_eq!(frame.wasm_offset(), Some(31));
    assert_eq!(
        (frame.module_name(), frame.func_name(), frame.func_index()),
        (None, None, 0)
    );
    assert_eq!(wasm[31], 0);
    Ok(())
}

#[test]
fn a_host_function_sees_the_guests_that_called_it() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        r#"(module (import "host" "look" (func $look (param i32)))
            (func $inner (param i32) (call $look (local.get 0)))
            (func $outer (export "run") (param i32) (call $inner (local.get 0))))"#,
    )?;
    let mut linker = Linker::<Vec<String>>::new(&engine);
    linker.func_wrap(
        "host",
        "look",
        |mut caller: Caller<'_, Vec<String>>, depth: i32| -> Result<()> {
            if depth > 0 {
                let run = caller
                    .get_export("run")
                    .and_then(Extern::into_func)
                    .expect("exported");
                return run.typed::<i32, ()>(&caller)?.call(&mut caller, depth - 1);
            }
            let backtrace = WasmBacktrace::capture(&caller);
            let names = backtrace
                .frames()
                .iter()
                .map(|frame| frame.func_name().unwrap_or_default().to_owned());
            *caller.data_mut() = names.collect();
            Ok(())
        },
    )?;
    let mut store = Store::new(&engine, Vec::new());
    let instance = linker.instantiate(&mut store, &module)?;
    instance.call::<i32, ()>(&mut store, "run", 1)?;
    assert_eq!(store.data(), &["inner", "outer", "inner", "outer"]);
    assert!(WasmBacktrace::capture(&store).frames().is_empty(), "nothing runs");
    Ok(())
}

#[test]
fn long_names_are_cut_where_they_are_printed() {
    let long = "n".repeat(60_000);
    let engine = Engine::default();
    let module = Module::new(
        &engine,
        format!("(module $m{long} (func $f{long} (export \"f\") unreachable))"),
    )
    .unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let error = instance.call::<(), ()>(&mut store, "f", ()).unwrap_err();
    let printed = format!("{error:?}");
    assert!(
        printed.contains("mnnnn") && printed.contains("!fnnnn"),
        "{printed:.100}"
    );
    assert!(printed.len() < 9_000, "{} bytes", printed.len());
    let frames = error.backtrace().expect("a trap has one").frames();
    assert_eq!(frames[0].func_name().expect("named").len(), 60_001);
}
