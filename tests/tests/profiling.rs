//! Guests as profilers see them from outside: the map of their code that `perf` reads, and what a module says of its code.

use selvedge::{Config, Engine, Instance, Module, ProfilingStrategy, Result, Store};
use selvedge_tests::in_child;
use std::process::Command;

const GUEST: &str = r#"(module $guest (import "" "" (func $host))
    (func $_ZN5guest4spin17h0123456789abcdefE (param i32) (result i32) (local i32)
        (loop $next
            (local.set 1 (i32.mul (i32.add (local.get 1) (local.get 0)) (i32.const 3)))
            (br_if $next (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
        (local.get 1))
    (func (param i64))
    (func $outer (export "run") (param i32) (result i32)
        (call $host) (i32.add (i32.const 1) (call 1 (local.get 0)))))"#;

fn profiled() -> Result<Engine> {
    Engine::new(Config::new().profiler(ProfilingStrategy::PerfMap))
}

/// The map of this process, as numbers and names.
fn map() -> Vec<(usize, usize, String)> {
    let path = format!("/tmp/perf-{}.map", std::process::id());
    let text = std::fs::read_to_string(path).expect("the engine made it");
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut number = || usize::from_str_radix(words.next().expect("a number"), 16).expect("hexadecimal");
        let (start, bytes) = (number(), number());
        (start, bytes, words.next().expect("a name").to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn functions_are_in_the_map_that_perf_reads() {
    let child = in_child("functions_are_in_the_map_that_perf_reads", || {
        let engine = profiled().expect("an engine");
        let module = Module::new(&engine, GUEST).expect("a module");
        let other = Module::new(&profiled().expect("another"), "(module (func $f))").expect("a module");
        let map = map();
        std::fs::remove_file(format!("/tmp/perf-{}.map", std::process::id())).expect("read above");
        let text = module.image_range();
        let text = text.start.addr()..text.end.addr();
        for (start, bytes, name) in &map {
            let is_other = other
                .image_range()
                .contains(&std::ptr::without_provenance(*start));
            assert!(
                is_other || (text.contains(start) && start + bytes <= text.end),
                "{name}"
            );
        }
        for function in module.functions() {
            let name = match function.name.as_deref() {
                Some("outer") => "guest!outer",
                Some(_) => "guest!guest::spin",
                None => "guest!<wasm function 2>",
            };
            let (start, bytes, _) = map
                .iter()
                .find(|(.., found)| found == name)
                .unwrap_or_else(|| panic!("{name}"));
            let code = function.code.start as usize..function.code.end as usize;
            assert_eq!((start - text.start, *bytes), (code.start, code.len()), "{name}");
        }
        assert!(map.iter().any(|(.., name)| name == "<unnamed>!f"));
        assert!(map.iter().any(|(.., name)| name.starts_with("selvedge: into")));
        assert!(map.iter().any(|(.., name)| name.starts_with("selvedge: out of")));
    });
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn what_lies_at_the_maps_place_is_replaced_and_never_written_to() {
    let child = in_child(
        "what_lies_at_the_maps_place_is_replaced_and_never_written_to",
        || {
            let map = format!("/tmp/perf-{}.map", std::process::id());
            let victim = format!("{map}.victim");
            std::fs::write(&victim, "mine").expect("/tmp can be written");
            let name = std::ffi::CString::new(map.as_str()).expect("no zeros");
            let _ = std::fs::remove_file(&map);
            for what in 0..4 {
                match what {
                    0 => std::os::unix::fs::symlink(&victim, &map).expect("a link"),
                    1 => std::fs::hard_link(&victim, &map).expect("a link"),
                    // What an earlier process of this number has left.
                    2 => std::fs::write(&map, "1000 10 old\n").expect("/tmp can be written"),
                    // SAFETY: a string that ends with zero, for the time of the call.
                    _ => assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) }, 0),
                }
                // SAFETY: this process has one thread that makes engines; its child makes one and leaves.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // The child's map is another: it takes the place that was prepared for it.
                    let own = format!("/tmp/perf-{}.map", std::process::id());
                    std::fs::rename(&map, &own).expect("prepared above");
                    let made = profiled().is_ok();
                    let text = std::fs::read_to_string(&own).unwrap_or_default();
                    std::fs::remove_file(&own).expect("made above");
                    let is_well = made && text.is_empty();
                    // SAFETY: ends the child at once, without destructors.
                    unsafe { libc::_exit(i32::from(!is_well)) };
                }
                let mut status = 0;
                // SAFETY: our child, and a place for its status.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "{what}");
                assert_eq!(
                    std::fs::read_to_string(&victim).expect("it is there"),
                    "mine",
                    "{what}"
                );
            }
            std::fs::remove_file(&victim).expect("it is there");
        },
    );
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn names_of_guests_neither_forge_lines_nor_fill_the_disk() {
    const FUNCTIONS: usize = 2_000;
    let child = in_child("names_of_guests_neither_forge_lines_nor_fill_the_disk", || {
        // A name that is long wherever it is repeated, and one that would be a line of its own.
        let long = "m".repeat(4096);
        let forged = r#"(func $"f\n1000 10 forged\r\1b[31m\c2\85")"#;
        let module = format!("(module ${long} {forged} {})", "(func)".repeat(FUNCTIONS));
        let engine = profiled().expect("an engine");
        let module = Module::new(&engine, module).expect("a module");
        let path = format!("/tmp/perf-{}.map", std::process::id());
        let text = std::fs::read_to_string(&path).expect("the engine made it");
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(text.lines().count(), module.functions().len());
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        let bytes = text.len() / FUNCTIONS;
        assert!(bytes < 500, "{bytes} bytes for each function");
    });
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn engines_make_no_map_unless_they_are_told_to() {
    let child = in_child("engines_make_no_map_unless_they_are_told_to", || {
        Module::new(&Engine::default(), GUEST).expect("a module");
        let path = format!("/tmp/perf-{}.map", std::process::id());
        assert!(!std::fs::exists(path).expect("/tmp can be read"));
    });
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn a_module_says_where_its_functions_are() -> Result<()> {
    let module = Module::new(&Engine::default(), GUEST)?;
    let functions: Vec<_> = module.functions().collect();
    let indices: Vec<_> = functions.iter().map(|function| function.index).collect();
    assert_eq!(indices, [1, 2, 3], "the import is not the module's own");
    let mut end = 0;
    for function in functions {
        assert!(
            function.code.start >= end && !function.code.is_empty(),
            "{function:?}"
        );
        end = function.code.end;
        let code = &module.text()[function.code.start as usize..function.code.end as usize];
        assert!(code.iter().any(|byte| *byte != 0), "{function:?}");
    }
    let range = module.image_range();
    assert_eq!(range.end.addr() - range.start.addr(), module.text().len());
    Ok(())
}

/// What perf is asked for: samples with the way to them by frame pointers.
const RECORD: [&str; 9] = [
    "record",
    "-q",
    "-e",
    "cpu-clock:u",
    "-F",
    "999",
    "--call-graph",
    "fp",
    "-o",
];

/// The child that perf looks at.
const PROFILED: &str = "SELVEDGE_TEST_PROFILED";

/// What the child does.
fn spin() -> Result<()> {
    let engine = profiled()?;
    let module = Module::new(&engine, GUEST)?;
    let mut store = Store::new(&engine, ());
    let host = selvedge::Func::wrap(&mut store, || ())?;
    let instance = Instance::new(&mut store, &module, &[host.into()])?;
    instance.call::<i32, i32>(&mut store, "run", 100_000_000)?;
    Ok(())
}

/// Runs the test of this name in a child under perf: the samples, or why perf took none.
fn record(name: &str) -> Result<Result<String, String>> {
    let data = std::env::temp_dir().join(format!("selvedge-perf-{}", std::process::id()));
    let recorded = Command::new("perf")
        .args(RECORD)
        .arg(&data)
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PROFILED, "1")
        .output()?;
    if !recorded.status.success() {
        return Ok(Err(String::from_utf8_lossy(&recorded.stderr).into_owned()));
    }
    let script = Command::new("perf")
        .args(["script", "-F", "pid,ip,sym", "-i"])
        .arg(&data)
        .output()?;
    std::fs::remove_file(&data)?;
    Ok(Ok(String::from_utf8_lossy(&script.stdout).into_owned()))
}

#[test]
fn perf_names_functions_of_guests_and_who_called_them() -> Result<()> {
    let name = "perf_names_functions_of_guests_and_who_called_them";
    if std::env::var_os(PROFILED).is_some() {
        return spin();
    }
    let skip = |why: &str| {
        eprintln!("SKIPPED {name}: {why}");
        let needed = std::env::var("FIBERS_NO_SKIP").unwrap_or_default();
        let is_needed = needed.split(' ').any(|word| word == "perf" || word == "1");
        assert!(!is_needed, "{name} was skipped: {why}");
        Ok(())
    };
    let works = Command::new("perf").arg("--version").output();
    if !works.is_ok_and(|output| output.status.success()) {
        return skip("there is no perf");
    }
    let text = match record(name)? {
        Ok(text) => text,
        Err(why) => return skip(&why),
    };
    let samples: Vec<&str> = text
        .split("\n\n")
        .filter(|sample| sample.contains("guest!guest::spin"))
        .collect();
    let process = text.split_whitespace().next().unwrap_or_default();
    let _ = std::fs::remove_file(format!("/tmp/perf-{process}.map"));
    assert!(
        samples.len() >= 20,
        "{} samples in the guest: {text}",
        samples.len()
    );
    // From the guest to the base of its stack, where the host's begins: how far the walk goes there is up to how the host was compiled.
    let way = ["guest!guest::spin", "guest!outer", "fiber_base"];
    let in_order = |sample: &&&str| {
        let places = way.map(|name| sample.find(name));
        places.iter().all(Option::is_some) && places.is_sorted()
    };
    let through = samples.iter().filter(in_order);
    let through = through.count();
    assert!(
        through * 100 >= samples.len() * 95,
        "{through} of {}: {}",
        samples.len(),
        samples[0]
    );
    Ok(())
}
