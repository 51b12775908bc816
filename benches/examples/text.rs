//! Writes what a module is compiled to, by us and by wasmtime, for a disassembler: `text FILE.wasm FOLDER [fuel] [bounded]`.
//!
//!     objdump -D -b binary -m i386:x86-64 -M intel FOLDER/selvedge.bin

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, folder, ..] = &args[..] else {
        return Err("text FILE.wasm FOLDER [fuel] [bounded]".into());
    };
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let wasm = std::fs::read(file)?;
    let folder = Path::new(folder);
    let style = match has("bounded") {
        true => selvedge_compiler::MemoryStyle::Bounded,
        false => selvedge_compiler::MemoryStyle::Reserved,
    };
    let settings = selvedge_compiler::Settings::host()?.fuel(has("fuel"));
    let ours = selvedge_compiler::compile(&wasm, &settings.memory_style(style))?;
    std::fs::write(folder.join("selvedge.bin"), &ours.image.text)?;
    let engine = wasmtime::Engine::new(wasmtime::Config::new().consume_fuel(has("fuel")))?;
    let theirs = wasmtime::Module::new(&engine, &wasm)?;
    std::fs::write(folder.join("wasmtime.bin"), theirs.text())?;
    println!(
        "selvedge {} bytes, wasmtime {}",
        ours.image.text.len(),
        theirs.text().len()
    );
    Ok(())
}
