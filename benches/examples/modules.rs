//! Real modules, side by side: how long they take to compile on one thread and on two, how much memory that takes, and how large
//! the code is.
//!
//!     cargo run --release -p selvedge-benches --example modules -- [--rounds N] [WORDS of names ...]
//!
//! Each compilation is a process of its own, so that its peak of memory is its own too; the engines take turns. Time is the clock's and,
//! as others may use the machine, the processor's; the best of the rounds counts. Without names, all modules that
//! `.ci/fetch-modules` got. With the feature `wasmer`, Wasmer is a third engine. Linux only: the figures come from `/proc`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Ours is the first.
const ENGINES: &[&str] = &[
    "selvedge",
    "wasmtime",
    #[cfg(feature = "wasmer")]
    "wasmer",
];
const THREADS: [usize; 2] = [1, 2];
/// How the program calls itself: with the engine, the threads and the module's path after it.
const CHILD: &str = "--compile";

/// What one compilation took.
#[derive(Clone, Copy)]
struct Taken {
    clock: Duration,
    processor: Duration,
    /// Of the process: the module itself is a part of it.
    peak_bytes: u64,
    /// Mapped executable, so in whole pages.
    code_bytes: u64,
}

impl Taken {
    /// The better one in each respect.
    fn best(self, other: Taken) -> Taken {
        Taken {
            clock: self.clock.min(other.clock),
            processor: self.processor.min(other.processor),
            peak_bytes: self.peak_bytes.min(other.peak_bytes),
            code_bytes: self.code_bytes.min(other.code_bytes),
        }
    }

    fn to_line(self) -> String {
        let (clock, processor) = (self.clock.as_nanos(), self.processor.as_nanos());
        format!("{clock} {processor} {} {}", self.peak_bytes, self.code_bytes)
    }

    fn from_line(line: &str) -> Option<Taken> {
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        let mut next = || words.next()?.ok();
        Some(Taken {
            clock: Duration::from_nanos(next()?),
            processor: Duration::from_nanos(next()?),
            peak_bytes: next()?,
            code_bytes: next()?,
        })
    }

    /// In the table's units: seconds, seconds, MB, MB.
    fn columns(self) -> [f64; 4] {
        [
            self.clock.as_secs_f64(),
            self.processor.as_secs_f64(),
            self.peak_bytes as f64 / 1e6,
            self.code_bytes as f64 / 1e6,
        ]
    }
}

/// The time that all threads of this process have computed: `utime` and `stime`, in ticks. Source: proc_pid_stat(5).
fn processor_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit(')').next().ok_or("no name in /proc/self/stat")?;
    // `state` is the third field, and the first one after the name.
    let times = fields.split_whitespace().skip(14 - 3).take(2);
    let ticks = times
        .map(str::parse::<u64>)
        .sum::<std::result::Result<u64, _>>()?;
    // USER_HZ is 100 on every architecture that is asked here.
    Ok(Duration::from_millis(ticks * 10))
}

/// The most memory that this process ever had.
fn peak_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no VmHWM in /proc/self/status")?.parse::<u64>()? * 1024)
}

/// Bytes that are mapped executable.
fn executable_bytes() -> Result<u64> {
    let mut sum = 0;
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let (range, rest) = line.split_once(' ').ok_or("a mapping has two words")?;
        if rest.as_bytes().get(2) == Some(&b'x') {
            let (start, end) = range.split_once('-').ok_or("a mapping has two ends")?;
            sum += u64::from_str_radix(end, 16)? - u64::from_str_radix(start, 16)?;
        }
    }
    Ok(sum)
}

/// Makes an engine and a module, and looks at the process before and after the latter.
fn measure<E, M>(
    make_engine: impl FnOnce() -> Result<E>,
    make: impl FnOnce(&E) -> Result<M>,
) -> Result<Taken> {
    let engine = make_engine()?;
    let (clock, processor, executable) = (Instant::now(), processor_time()?, executable_bytes()?);
    let module = make(&engine)?;
    let taken = Taken {
        clock: clock.elapsed(),
        processor: processor_time()? - processor,
        peak_bytes: peak_bytes()?,
        code_bytes: executable_bytes()? - executable,
    };
    drop(module);
    Ok(taken)
}

/// Compiles once, in this process.
fn compile(engine: &str, threads: NonZeroUsize, wasm: &[u8]) -> Result<Taken> {
    let parallel = threads.get() > 1;
    match engine {
        "selvedge" => measure(
            || {
                Ok(selvedge::Engine::new(
                    selvedge::Config::new().parallel_compilation(parallel),
                )?)
            },
            |engine| Ok(selvedge::Module::new(engine, wasm)?),
        ),
        "wasmtime" => measure(
            || {
                Ok(wasmtime::Engine::new(
                    wasmtime::Config::new().parallel_compilation(parallel),
                )?)
            },
            |engine| Ok(wasmtime::Module::new(engine, wasm)?),
        ),
        #[cfg(feature = "wasmer")]
        "wasmer" => measure(
            || Ok(selvedge_benches::third::engine(threads)),
            |engine| Ok(wasmer::Module::new(engine, wasm)?),
        ),
        other => Err(format!("no engine {other}").into()),
    }
}

/// Compiles once, in a process of its own with so many threads.
fn compile_apart(engine: &str, threads: usize, module: &Path) -> Result<Taken> {
    let output = Command::new(std::env::current_exe()?)
        .args([CHILD, engine, &threads.to_string()])
        .arg(module)
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let taken = text.lines().next().and_then(Taken::from_line);
    taken.ok_or_else(|| format!("{engine}, {}: {}", module.display(), output.status).into())
}

/// The rounds of one module, and its rows. An engine that fails is said and left out.
fn module(path: &Path, rounds: usize) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    println!("| {name}, {} bytes | | | | | |", path.metadata()?.len());
    for threads in THREADS {
        let mut best = vec![None::<Taken>; ENGINES.len()];
        for round in 0..rounds {
            for index in 0..ENGINES.len() {
                // Each is the first as often as the others.
                let index = (index + round) % ENGINES.len();
                match compile_apart(ENGINES[index], threads, path) {
                    Ok(taken) => best[index] = Some(best[index].map_or(taken, |best| best.best(taken))),
                    Err(error) => eprintln!("left out: {error}"),
                }
            }
        }
        let ours = best[0].map(Taken::columns);
        for (engine, taken) in ENGINES.iter().zip(best) {
            let Some(columns) = taken.map(Taken::columns) else {
                continue;
            };
            let mut cells = String::new();
            for (index, column) in columns.iter().enumerate() {
                let ratio = ours.map_or("-".to_owned(), |ours| format!("{:.2}", ours[index] / column));
                cells += &format!(" {column:.2} ({ratio}) |");
            }
            println!("| {engine} | {threads} |{cells}");
        }
    }
    Ok(())
}

fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("real-programs")
}

/// The modules whose names contain one of the words, the smallest first.
fn modules(words: &[String]) -> Result<Vec<PathBuf>> {
    let folder = folder();
    let mut found = Vec::new();
    let entries = std::fs::read_dir(&folder)
        .map_err(|error| format!("{}: {error} (.ci/fetch-modules makes it)", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_asked = words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
        if name.ends_with(".wasm") && is_asked {
            found.push((path.metadata()?.len(), path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).collect::<Vec<_>>();
    if let [first, engine, threads, path] = arguments.as_slice()
        && first == CHILD
    {
        println!(
            "{}",
            compile(engine, threads.parse()?, &std::fs::read(path)?)?.to_line()
        );
        return Ok(());
    }
    let mut rounds = 3;
    if let Some(index) = arguments.iter().position(|argument| argument == "--rounds") {
        rounds = arguments
            .get(index + 1)
            .ok_or("--rounds takes a number")?
            .parse()?;
        arguments.drain(index..index + 2);
    }
    println!("best of {rounds} rounds; in brackets, ours divided by this");
    println!("| engine | threads | clock, s | processor, s | peak memory, MB | code, MB |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for path in modules(&arguments)? {
        module(&path, rounds)?;
    }
    Ok(())
}
