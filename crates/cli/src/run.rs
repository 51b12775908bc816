//! `selvedge run`.

use crate::args::{RunArgs, UnknownImports};
use crate::entry::Entry;
use crate::failure::Failure;
use selvedge::{Config, Engine, Linker, Module, Store, WasmBacktraceDetails};
use selvedge_wasi::WasiCtx;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// What every binary module begins with (core specification, binary format, modules).
const MAGIC: &[u8] = b"\0asm";

/// Runs the program and gives the exit code.
pub(crate) fn run(args: &RunArgs) -> Result<u8, Failure> {
    let (file, guest_args) = args.program.split_first().expect("clap requires FILE");
    let file = Path::new(file);
    let guest_args = guest_args.iter().map(utf8).collect::<Result<Vec<_>, _>>()?;

    let binary = read(file)?;
    let ctx = context(args, file, &guest_args)?;
    let engine = engine(args)?;
    let module = Module::new(&engine, &binary)
        .map_err(|error| Failure::input(format_args!("`{}`: {error:#}", file.display())))?;
    let entry = Entry::find(&module, args.invoke.as_deref(), &guest_args)?;
    let mut store = Store::new(&engine, ctx);
    let linker = linker(args, &mut store, &module)?;
    if let Some(fuel) = args.fuel {
        store
            .set_fuel(fuel)
            .map_err(|error| Failure::input(format_args!("{error:#}")))?;
    }
    let instance = linker
        .instantiate(&mut store, &module)
        .map_err(Failure::of_instantiation)?;
    entry.call(&mut store, instance)?;
    Ok(0)
}

/// The module's bytes, translated if the file is in the text format.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = fs::read(file)
        .map_err(|error| Failure::input(format_args!("cannot read `{}`: {error}", file.display())))?;
    if bytes.starts_with(MAGIC) {
        return Ok(bytes);
    }
    // A name that says binary is believed; the text format goes by any other.
    let says_binary = file.extension().is_some_and(|extension| extension == "wasm");
    if says_binary || std::str::from_utf8(&bytes).is_err() {
        return Err(Failure::input(format_args!(
            "`{}` is not WebAssembly: it does not begin with \\0asm",
            file.display()
        )));
    }
    let translated = wat::Parser::new()
        .parse_bytes(Some(file), &bytes)
        .map_err(Failure::input)?;
    Ok(translated.into_owned())
}

fn engine(args: &RunArgs) -> Result<Engine, Failure> {
    let mut config = Config::new();
    args.proposals.switch(&mut config);
    config.fuel(args.fuel.is_some());
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    if let Some(bytes) = args.stack_bytes {
        config.stack_bytes(bytes);
    }
    Engine::new(&config).map_err(|error| Failure::input(format_args!("{error:#}")))
}

/// What the guest sees of the host: its arguments, its variables, its directories, our streams.
fn context(args: &RunArgs, file: &Path, guest_args: &[String]) -> Result<WasiCtx, Failure> {
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    let mut builder = WasiCtx::builder().inherit_stdio().arg(name).args(guest_args);
    for variable in &args.env {
        builder = builder.env(&variable.name, &variable.value);
    }
    for dir in &args.dirs {
        builder = builder.preopened_dir(&dir.host, &dir.guest);
    }
    builder
        .build()
        .map_err(|error| Failure::input(format_args!("{error:#}")))
}

fn linker(args: &RunArgs, store: &mut Store<WasiCtx>, module: &Module) -> Result<Linker<WasiCtx>, Failure> {
    let mut linker = Linker::new(store.engine());
    let defined =
        selvedge_wasi::add_to_linker(&mut linker, |ctx| ctx).and_then(|()| match args.unknown_imports {
            UnknownImports::Refuse => Ok(()),
            UnknownImports::Trap => linker.define_unknown_imports_as_traps(module),
            UnknownImports::Default => linker.define_unknown_imports_as_default_values(store, module),
        });
    defined.map_err(|error| Failure::input(format_args!("{error:#}")))?;
    Ok(linker)
}

/// WASI hands arguments over as UTF-8.
fn utf8(arg: &OsString) -> Result<String, Failure> {
    arg.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::input(format_args!("argument `{}` is not UTF-8", arg.to_string_lossy())))
}
