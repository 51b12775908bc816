//! What an image promises, and what is refused.
#![cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), unix))]

use selvedge_compiler::{
    CompileError, Features, FuncType, Image, MemoryStyle, Proposal, Settings, TrapCode, ValType, compile,
    compile_host_trampolines, image,
};

fn settings() -> Settings {
    Settings::host().unwrap()
}

fn compiled(wat: &str, settings: &Settings) -> Image {
    compile(&wat::parse_str(wat).unwrap(), settings).unwrap().image
}

const SOME: &str = r#"(module
    (import "" "f" (func $f (param i32) (result i32)))
    (memory 1) (table 2 funcref) (elem (i32.const 0) $f $g)
    (func $g (export "g") (param i32) (result i32)
        (i32.div_u (i32.load (local.get 0)) (call $f (i32.load offset=8 (local.get 0)))))
    (func (export "h") (result f64) (f64.const 1.25)
        (if (i32.load8_u (i32.const 1)) (then (drop (call $g (i32.const 1)))))
        (drop (call_indirect (param i32) (result i32) (i32.const 1) (i32.const 0)))))"#;

/// `SOME` with many functions after it.
fn many() -> String {
    let more: String = (0..200)
        .map(|i| {
            format!("(func (param i32) (result i32) (i32.div_s (call $g (i32.const {i})) (local.get 0)))")
        })
        .collect();
    format!("{}{more})", SOME.strip_suffix(')').unwrap())
}

#[test]
fn sites_ascend_and_lie_in_functions() {
    let image = compiled(SOME, &settings().fuel(true));
    assert!(image.fault_sites.is_sorted_by(|a, b| a.code < b.code));
    assert!(image.call_sites.is_sorted_by(|a, b| a.code < b.code));
    assert!(
        image
            .fault_sites
            .iter()
            .filter(|s| s.trap == TrapCode::MemoryOutOfBounds)
            .count()
            >= 3
    );
    for site in &image.fault_sites {
        assert!(image.function_at(site.code).is_some());
        assert_eq!(image.fault_site(site.code), Some(site));
    }
    for site in &image.call_sites {
        assert!(image.function_at(site.code - 1).is_some());
        assert_eq!(image.call_site(site.code), Some(site));
    }
    assert_eq!(image.function_at(image.functions[0].start), Some(1));
    assert_eq!(image.function_at(image.functions[1].end - 1), Some(2));
    assert_eq!(image.function_at(image.functions[1].end), None);
    assert_eq!(image.function_at(0), None);
}

#[test]
fn slots_are_zero_and_stubs_lead_through_them() {
    let image = compiled(SOME, &settings());
    assert!(
        image.text[..image::RUNTIME_SLOTS_BYTES]
            .iter()
            .all(|byte| *byte == 0)
    );
    for trap in TrapCode::ALL {
        let at = Image::trap_stub(trap) as usize;
        assert_eq!(read_stub(&image.text, at), (trap as u32, 8 * image::SLOT_RAISE));
    }
}

/// The number that a stub loads, and the offset of the slot that it jumps through.
#[cfg(target_arch = "x86_64")]
fn read_stub(text: &[u8], at: usize) -> (u32, usize) {
    assert_eq!((text[at], &text[at + 5..at + 7]), (0xb8, &[0xff, 0x25][..]));
    let word = |at: usize| u32::from_le_bytes(text[at..at + 4].try_into().unwrap());
    (
        word(at + 1),
        (at + 11).wrapping_add_signed(word(at + 7).cast_signed() as isize),
    )
}

/// The number that a stub loads, and the offset of the slot that it branches through.
#[cfg(target_arch = "aarch64")]
fn read_stub(text: &[u8], at: usize) -> (u32, usize) {
    let word = |at: usize| u32::from_le_bytes(text[at..at + 4].try_into().unwrap());
    // movz w17, number; ldr x16, slot; br x16
    let (movz, ldr) = (word(at), word(at + 4));
    assert_eq!(
        (movz & 0xffe0_001f, ldr & 0xff00_001f),
        (0x5280_0011, 0x5800_0010)
    );
    assert_eq!(word(at + 8), 0xd61f_0200);
    let words = (ldr << 8).cast_signed() >> 13;
    (
        movz >> 5 & 0xffff,
        (at + 4).wrapping_add_signed(4 * words as isize),
    )
}

#[test]
fn calls_go_to_where_functions_are() {
    let image = compiled(&many(), &settings());
    let starts: Vec<_> = image.functions.iter().map(|range| range.start).collect();
    let mut direct = 0;
    for site in &image.call_sites {
        if let Some(target) = direct_call(&image.text, site.code as usize) {
            let is_stub = TrapCode::ALL.iter().any(|trap| Image::trap_stub(*trap) == target);
            assert!(
                is_stub || starts.contains(&target),
                "{target:#x} from {:#x}",
                site.code
            );
            direct += 1;
        }
    }
    assert!(direct > 400, "{direct} direct calls");
}

/// Where the call goes that returns to `at`, if it is direct.
#[cfg(target_arch = "x86_64")]
fn direct_call(text: &[u8], at: usize) -> Option<u32> {
    let distance = i32::from_le_bytes(text[at - 4..at].try_into().unwrap());
    (text[at - 5] == 0xe8).then(|| (at as u32).wrapping_add_signed(distance))
}

/// Where the call goes that returns to `at`, if it is direct.
#[cfg(target_arch = "aarch64")]
fn direct_call(text: &[u8], at: usize) -> Option<u32> {
    let instruction = u32::from_le_bytes(text[at - 4..at].try_into().unwrap());
    let distance = (instruction << 6).cast_signed() >> 4;
    (instruction >> 26 == 0b10_0101).then(|| (at as u32 - 4).wrapping_add_signed(distance))
}

#[test]
fn the_image_does_not_depend_on_threads() {
    let wat = many();
    for settings in [
        settings(),
        settings().fuel(true).memory_style(MemoryStyle::Bounded),
    ] {
        let alone = compiled(&wat, &settings.clone().parallel(false));
        for threads in [1, 2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let image = pool.unwrap().install(|| compiled(&wat, &settings));
            assert!(alone.text == image.text, "the text of {threads} threads differs");
            assert_eq!(alone, image, "{threads} threads");
        }
    }
}

#[test]
fn trampolines_are_shared_by_equal_types() {
    let image = compiled(
        r#"(module (type $a (func)) (type $b (func)) (type $unused (func (param i32)))
            (import "" "x" (func (type $a))) (import "" "y" (func (type $b)))
            (func (export "f") (type $a)) (func (export "g") (type $b)))"#,
        &settings(),
    );
    assert!(image.entry_trampolines[0].is_some());
    assert_eq!(image.entry_trampolines[0], image.entry_trampolines[1]);
    assert_eq!(image.entry_trampolines[2], None);
    assert_eq!(image.import_trampolines[0], image.import_trampolines[1]);
}

#[test]
fn host_trampolines_come_as_an_image() {
    let ty = FuncType::new([ValType::I32, ValType::EXTERNREF], [ValType::F64]);
    let made = compile_host_trampolines(&ty, &settings().fuel(true)).unwrap();
    assert_ne!(made.entry, made.import);
    assert_eq!(made.image.entry_trampolines, [Some(made.entry)]);
    assert!(made.image.functions.is_empty());
    if cfg!(target_arch = "x86_64") {
        assert!(made.image.cpu_features.iter().any(|name| name == "has_sse41"));
    }
}

#[test]
fn other_proposals_are_refused_by_name_and_place() {
    let refused = [
        (
            "legacy exceptions",
            "(module (tag $e) (func try nop catch $e nop end))",
        ),
        ("garbage collection", "(module (type (struct)))"),
        ("garbage collection", "(module (type (array i8)))"),
        (
            "garbage collection",
            "(module (rec (type (func)) (type (struct))))",
        ),
        ("garbage collection", "(module (type (sub (func))))"),
        (
            "garbage collection",
            "(module (rec (type (sub (func))) (type (sub final 0 (func)))))",
        ),
        ("garbage collection", "(module (global anyref (ref.null any)))"),
        ("garbage collection", "(module (table 1 eqref))"),
        ("garbage collection", "(module (type (func (param i31ref))))"),
        ("garbage collection", "(module (elem structref))"),
        ("stack switching", "(module (type $f (func)) (type (cont $f)))"),
        ("stack switching", "(module (func (local contref)))"),
        ("garbage collection", "(module (func (local anyref)))"),
        ("garbage collection", "(module (func (drop (ref.null any))))"),
        (
            "garbage collection",
            "(module (func (drop (ref.i31 (i32.const 1)))))",
        ),
        (
            "garbage collection",
            "(module (table 1 (ref null i31) (ref.i31 (i32.const 1))))",
        ),
    ];
    for (name, wat) in refused {
        is_refused(name, wat, &settings());
    }
}

#[test]
fn what_is_not_supported_is_refused_where_it_is_not_reached() {
    let dead = [
        "(drop (ref.i31 (i32.const 1)))",
        "(drop (ref.eq))",
        "(drop (any.convert_extern))",
        "(drop (ref.cast funcref))",
        "(drop (ref.null any))",
        "(drop (select (result anyref)))",
        "(drop (block (result anyref) (unreachable)))",
        "(drop (loop (result structref) (unreachable)))",
        "(drop (if (result nullref) (then (unreachable)) (else (unreachable))))",
        "(drop (try_table (result eqref) (unreachable)))",
        "(drop (block (result funcref) (unreachable) (br_on_cast 0 funcref (ref func))))",
    ];
    for operators in dead {
        let wat = format!("(module (func (unreachable) {operators}))");
        is_refused("garbage collection", &wat, &settings());
        // The same below a block that is not reached.
        let wat = format!("(module (func (return) (block (unreachable) {operators})))");
        is_refused("garbage collection", &wat, &settings());
    }
    compiled(
        "(module (type $t (func)) (func (unreachable) (drop (ref.null $t)) (drop (select (result (ref $t))))))",
        &settings(),
    );
}

#[test]
fn functions_whose_types_contain_each_other_are_compiled() {
    let image = compiled(
        r#"(module
            (rec (type $a (func (param (ref null $b)) (result (ref null $a)))) (type $b (func (param (ref $a)))))
            (rec (type $c (func (param (ref null $d)) (result (ref null $c)))) (type $d (func (param (ref $c)))))
            (func (export "a") (type $a) (call_ref $c (local.get 0) (ref.func 0)))
            (func (export "c") (type $c) (ref.null $a))
            (rec) (rec (type (func)) (type (func))) (func (export "e") (type 4)) (func (export "f") (type 5)))"#,
        &settings(),
    );
    // Equal groups share their trampolines; types at other places in a group are others.
    assert!(image.entry_trampolines[0].is_some());
    assert_eq!(image.entry_trampolines[0], image.entry_trampolines[2]);
    assert_ne!(image.entry_trampolines[4], image.entry_trampolines[5]);
}

#[test]
fn what_is_supported_is_refused_by_the_switch_that_is_off() {
    let off = switched(Proposal::FunctionReferences, false);
    let references = "typed function references";
    for (name, wat) in [
        (references, "(module (rec (type (func)) (type (func))))"),
        (references, "(module (func (param nullfuncref)))"),
        (
            references,
            "(module (global i32 (i32.const 1)) (global i32 (global.get 0)))",
        ),
        ("garbage collection", "(module (type (struct)))"),
        ("garbage collection", "(module (func (param (ref null struct))))"),
        (
            "garbage collection",
            "(module (func (drop (ref.i31 (i32.const 1)))))",
        ),
        (
            "garbage collection",
            "(module (func) (func (unreachable) (drop (ref.null eq))))",
        ),
    ] {
        is_refused(name, wat, &off);
    }
    let off = switched(Proposal::ExtendedConst, false);
    let wat = "(module (global i32 (i32.const 1)) (global i32 (global.get 0)))";
    is_refused("extended constant expressions", wat, &off);
    compiled(wat, &settings());
    compiled(
        "(module (global (import \"\" \"g\") i32) (global i32 (global.get 0)) (rec (type (func)) (type (func))))",
        &off,
    );
}

#[test]
fn what_version_2_has_is_on_and_can_be_switched_off() {
    use Proposal::*;
    for (proposal, name, wat) in [
        (
            MutableGlobal,
            "imported and exported mutable globals",
            "(module (global (export \"g\") (mut i32) (i32.const 0)))",
        ),
        (
            NontrappingFloatToInt,
            "non-trapping conversions of floats to integers",
            "(module (func (drop (i32.trunc_sat_f32_s (f32.const 1)))))",
        ),
        (
            SignExtension,
            "sign extension",
            "(module (func (drop (i32.extend8_s (i32.const 1)))))",
        ),
        (
            MultiValue,
            "multiple values",
            "(module (type (func (result i32 i32))))",
        ),
        (
            MultiValue,
            "multiple values",
            "(module (func (i32.const 0) (block (param i32) (drop))))",
        ),
        (
            BulkMemory,
            "bulk memory operations",
            "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))",
        ),
        (
            BulkMemory,
            "bulk memory operations",
            "(module (memory 1) (data \"passive\"))",
        ),
        (
            ReferenceTypes,
            "reference types",
            "(module (func (param externref)))",
        ),
        (
            ReferenceTypes,
            "reference types",
            "(module (table 1 funcref) (table 1 funcref))",
        ),
        (
            ReferenceTypes,
            "reference types",
            "(module (type $t (func)) (func (param (ref $t))))",
        ),
    ] {
        is_refused(name, wat, &switched(proposal, false));
        compiled(wat, &settings());
    }
}

#[test]
fn tail_calls_of_references_need_both_switches() {
    let off = switched(Proposal::TailCall, false);
    for wat in [
        "(module (type $t (func)) (func (param (ref null $t)) (return_call_ref $t (local.get 0))))",
        "(module (type $t (func)) (func (unreachable) (return_call_ref $t)))",
    ] {
        is_refused("tail calls", wat, &off);
        is_refused(
            "typed function references",
            wat,
            &switched(Proposal::FunctionReferences, false),
        );
        compiled(wat, &settings());
    }
}

#[test]
fn components_are_refused_as_such() {
    let error = compile(b"\0asm\x0d\0\x01\0", &settings()).unwrap_err();
    let CompileError::Unsupported { feature, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*feature, "components");
    // Some other version of a module is no component.
    let error = compile(b"\0asm\x02\0\0\0", &settings()).unwrap_err();
    assert!(matches!(error, CompileError::Invalid { .. }), "{error:?}");
}

#[test]
fn switched_off_proposals_are_refused_by_name_and_place() {
    let (simd, relaxed, wide) = (
        [
            "(module (func (result v128) (v128.const i64x2 0 0)))",
            "(module (func (drop (i8x16.splat (i32.const 1)))))",
        ],
        "(module (func (param v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 0)))))",
        "(module (func (drop (drop (i64.mul_wide_u (i64.const 1) (i64.const 2))))))",
    );
    for wat in simd {
        is_refused("SIMD", wat, &switched(Proposal::Simd, false));
        compiled(wat, &switched(Proposal::RelaxedSimd, false));
        compiled(wat, &settings());
    }
    is_refused("relaxed SIMD", relaxed, &switched(Proposal::RelaxedSimd, false));
    is_refused("SIMD", relaxed, &switched(Proposal::Simd, false));
    compiled(relaxed, &settings());
    is_refused(
        "64-bit memories",
        "(module (memory i64 1))",
        &switched(Proposal::Memory64, false),
    );
    let memories = "(module (memory 1) (memory 1))";
    is_refused(
        "multiple memories",
        memories,
        &switched(Proposal::MultiMemory, false),
    );
    is_refused("wide arithmetic", wide, &settings());
    compiled(wide, &switched(Proposal::WideArithmetic, true));
}

#[test]
fn what_version_3_has_is_on_and_can_be_switched_off() {
    let references = "typed function references";
    for (proposal, name, wat) in [
        (Proposal::TailCall, "tail calls", "(module (func return_call 0))"),
        (
            Proposal::FunctionReferences,
            references,
            "(module (type $t (func)) (func (param (ref $t))))",
        ),
        (
            Proposal::FunctionReferences,
            references,
            "(module (type $t (func)) (func (param funcref) (call_ref $t (unreachable))))",
        ),
        (
            Proposal::ExtendedConst,
            "extended constant expressions",
            "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))",
        ),
        (Proposal::Memory64, "64-bit memories", "(module (memory i64 1))"),
        (
            Proposal::MultiMemory,
            "multiple memories",
            "(module (memory 1) (memory 1))",
        ),
        (
            Proposal::Threads,
            "threads",
            "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
        ),
        (Proposal::Threads, "threads", "(module (memory 1 1 shared))"),
    ] {
        is_refused(name, wat, &switched(proposal, false));
        compiled(wat, &settings());
    }
}

#[test]
fn what_no_proposal_makes_valid_is_not_blamed_on_one() {
    for wat in [
        "(module (func (result i32)))",
        "(module (func (param v128) (result i32) (local.get 0)))",
    ] {
        let error = compile(&wat::parse_str(wat).unwrap(), &settings()).unwrap_err();
        assert!(matches!(error, CompileError::Invalid { .. }), "{error:?}");
    }
    // The first error is told, not one behind it that a proposal would explain.
    let wat = "(module (func (result i32)) (func return_call 0))";
    let error = compile(&wat::parse_str(wat).unwrap(), &settings()).unwrap_err();
    assert!(matches!(error, CompileError::Invalid { .. }), "{error:?}");
}

fn switched(proposal: Proposal, on: bool) -> Settings {
    let mut features = Features::default();
    features.set(proposal, on);
    settings().features(features)
}

fn is_refused(name: &str, wat: &str, settings: &Settings) {
    let error = compile(&wat::parse_str(wat).unwrap(), settings).unwrap_err();
    let CompileError::Unsupported { feature, offset, .. } = &error else {
        panic!("{wat}: {error:?}")
    };
    assert!(*offset > 8, "{wat}: {error:?}");
    assert_eq!(*feature, name, "{wat}: {error:?}");
    let words = format!("{feature} not supported (at offset 0x");
    assert!(error.to_string().starts_with(&words), "{error}");
}

#[test]
fn invalid_modules_are_told_in_the_words_of_the_specification() {
    let invalid = [
        ("type mismatch", "(module (func (result i32)))"),
        (
            "type mismatch",
            "(module (func (result i32) (i32.add (i64.const 1) (i32.const 1))))",
        ),
        ("unknown local", "(module (func (drop (local.get 3))))"),
        ("unknown function", "(module (func (call 7)))"),
        ("unknown table", "(module (func (call_indirect (i32.const 0))))"),
        (
            "duplicate export name",
            "(module (func) (export \"a\" (func 0)) (export \"a\" (func 0)))",
        ),
    ];
    for (words, wat) in invalid {
        let error = compile(&wat::parse_str(wat).unwrap(), &settings()).unwrap_err();
        let CompileError::Invalid { message, .. } = &error else {
            panic!("{wat}: {error:?}")
        };
        assert!(message.contains(words), "{wat}: {message}");
        assert!(error.offset().is_some_and(|offset| offset > 8));
    }
}

#[test]
fn of_many_errors_the_first_function_is_told() {
    let bad = "(func (result i32) (local.get 9))".repeat(50);
    let wasm = wat::parse_str(format!("(module (func) {bad})")).unwrap();
    let errors: Vec<_> = (0..5).map(|_| compile(&wasm, &settings()).unwrap_err()).collect();
    assert!(errors.iter().all(|error| *error == errors[0]));
    assert_eq!(
        compile(&wasm, &settings().parallel(false)).unwrap_err(),
        errors[0]
    );
}

#[test]
fn what_is_out_of_proportion_is_refused() {
    let table = "0 ".repeat(70_000);
    let wat = format!("(module (func (br_table {table} (i32.const 0))))");
    let error = compile(&wat::parse_str(wat).unwrap(), &settings()).unwrap_err();
    assert!(
        matches!(
            error,
            CompileError::TooLarge {
                count: 69_999,
                limit: 65_536,
                ..
            }
        ),
        "{error:?}"
    );

    // A call of 1 000 parameters and results, over and over.
    let types = "i32 ".repeat(1000);
    let zeros = "(i32.const 0)".repeat(1000);
    let calls = "(call $f)".repeat(3000);
    let wat = format!(
        "(module (func $f (param {types}) (result {types}) unreachable)
        (func (result {types}) {zeros} {calls}))"
    );
    let error = compile(&wat::parse_str(wat).unwrap(), &settings()).unwrap_err();
    assert!(matches!(error, CompileError::TooLarge { .. }), "{error:?}");

    // 50 000 locals in 1 000 loops inside each other: raw bytes, the text format would nest too deep.
    let mut body = vec![1, 0xd0, 0x86, 0x03, 0x7f];
    body.extend([0x03, 0x40].repeat(1000));
    body.extend([0x0b].repeat(1001));
    let error = compile(&one_function(&body), &settings()).unwrap_err();
    assert!(
        matches!(error, CompileError::TooLarge { limit: 4_194_304, .. }),
        "{error:?}"
    );
}

/// What `wat` is refused for, in all ways of compiling alike: what there is too much of, how much is taken.
fn shared_limit(wat: &str) -> (&'static str, u64) {
    let wasm = wat::parse_str(wat).unwrap();
    let alone = compile(&wasm, &settings().parallel(false)).unwrap_err();
    for _ in 0..3 {
        assert_eq!(compile(&wasm, &settings()).unwrap_err(), alone);
    }
    let CompileError::TooLarge {
        what, count, limit, ..
    } = alone
    else {
        panic!("{alone:?}")
    };
    assert_eq!(count, limit + 1);
    assert_eq!(limit, (1 << 17) + 64 * wasm.len() as u64);
    (what, limit)
}

#[test]
fn many_small_functions_that_carry_much_are_refused_as_one() {
    let results = "i32 ".repeat(1000);
    let body = "(call $f)";
    let functions = |count: usize, body: &str| format!("(func (result {results}) {body})").repeat(count);
    let wat = |more: &str| format!("(module (func $f (result {results}) unreachable) {more})");
    let (what, _) = shared_limit(&wat(&functions(200, body)));
    assert_eq!(what, "values that the functions carry, declare and return");
    compiled(&wat(&functions(20, body)), &settings());

    // Whatever else is wrong with it, and wherever.
    let invalid = "(func (result i32))";
    shared_limit(&wat(&format!("{invalid} {} {invalid}", functions(200, body))));

    // Declared locals are five bytes.
    let locals = "i64 ".repeat(30_000);
    shared_limit(&format!(
        "(module {})",
        format!("(func (local {locals}))").repeat(8)
    ));
    compiled(&format!("(module (func (local {locals})))"), &settings());
}

#[test]
fn many_locals_in_many_blocks_are_refused() {
    // 50 000 locals, each set behind 10 000 branches: a table of 500 million places.
    let mut body = vec![1, 0xd0, 0x86, 0x03, 0x7f];
    body.extend([0x20, 0x00, 0x0d, 0x00].repeat(10_000));
    for local in 0..50_000 {
        body.extend([0x41, 0x01, 0x21]);
        body.extend(leb(local));
    }
    body.push(0x0b);
    let error = compile(&one_function(&body), &settings()).unwrap_err();
    assert!(
        matches!(
            error,
            CompileError::TooLarge {
                what: "locals times blocks of code",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn many_values_are_refused() {
    // Each operator makes two: the comparison, and its result widened.
    let mut body = vec![0, 0x41, 0x00];
    body.extend([0x45].repeat(2_200_000));
    body.extend([0x1a, 0x0b]);
    let error = compile(&one_function(&body), &settings()).unwrap_err();
    assert!(
        matches!(
            error,
            CompileError::TooLarge {
                what: "values in a function",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_large_function_is_compiled_or_refused() {
    let mut body = vec![0];
    for offset in 0..200_000 {
        body.extend([0x41, 0x01, 0x28, 0x02]);
        body.extend(leb(offset));
        body.push(0x1a);
    }
    body.push(0x0b);
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    wasm.extend([1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 5, 3, 1, 0, 1]);
    wasm.extend(&one_function(&body)[8 + 10..]);
    let image = compile(&wasm, &settings().verify(false)).unwrap().image;
    assert_eq!(image.fault_sites.len(), 200_000);
}

#[test]
fn nesting_uses_no_stack_of_the_host() {
    let mut body = vec![0];
    body.extend([0x02, 0x40].repeat(60_000));
    body.extend([0x0b].repeat(60_001));
    compile(&one_function(&body), &settings()).unwrap();
    let mut body = vec![0];
    body.extend([0x41, 0x01, 0x04, 0x40].repeat(5_000));
    body.extend([0x0b].repeat(5_001));
    compile(&one_function(&body), &settings()).unwrap();
}

/// A module of one function without parameters and results.
fn one_function(body: &[u8]) -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    wasm.extend([1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 10]);
    let size = leb(body.len());
    wasm.extend(leb(1 + size.len() + body.len()));
    wasm.push(1);
    wasm.extend(size);
    wasm.extend(body);
    wasm
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[test]
fn bad_bytes_never_panic() {
    let good = wat::parse_str(SOME).unwrap();
    let settings = settings().parallel(false);
    let mut refused = 0;
    for end in 0..good.len() {
        refused += usize::from(compile(&good[..end], &settings).is_err());
    }
    // Between sections, what is left can be a module.
    assert!(
        refused > good.len() - 10,
        "{refused} of {} cuts refused",
        good.len()
    );
    let mut refused = 0;
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            refused += usize::from(compile(&bad, &settings).is_err());
        }
    }
    assert!(refused > good.len(), "{refused} of {} refused", 3 * good.len());
    assert!(compile(&[], &settings).is_err());
    assert!(compile(b"\0asm", &settings).is_err());
    assert!(compile(b"\0asm\x0d\0\x01\0", &settings).is_err());
}

#[test]
fn the_frame_section_describes_every_function() {
    let plain = described(&compiled(&many(), &settings()));
    let metered = described(&compiled(&many(), &settings().fuel(true)));
    // Cold calls are pieces of their own where they are appended: `cold.rs`.
    let has_cold_pieces = metered > plain;
    assert_eq!(
        has_cold_pieces,
        cfg!(target_arch = "x86_64"),
        "{metered} metered, {plain} plain"
    );
}

/// How many pieces of code the frame section describes: every function, in one piece or in two without a gap.
fn described(image: &Image) -> usize {
    let section = image.text.len().next_multiple_of(16) as i64;
    let word = |at: usize| u32::from_le_bytes(image.eh_frame[at..at + 4].try_into().unwrap());
    let (mut at, mut described) = (0, Vec::new());
    // Records: length, then 0 in a CIE or the distance to it in an FDE, then pc (relative to its place) and size.
    while word(at) != 0 {
        if word(at + 4) != 0 {
            let start = section + (at as i64 + 8) + i64::from(word(at + 8) as i32);
            described.push((start as u32, start as u32 + word(at + 12)));
        }
        at += 4 + word(at) as usize;
    }
    assert_eq!(at + 4, image.eh_frame.len());
    for range in &image.functions {
        let first = described.iter().find(|(start, _)| *start == range.start);
        let (_, end) = *first.unwrap_or_else(|| panic!("{range:?}"));
        assert!(
            end == range.end || described.contains(&(end, range.end)),
            "{range:?} up to {end}"
        );
    }
    described.len()
}
