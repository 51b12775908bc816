//! Says how long a module takes to compile, and what comes out: `timing file.wasm [fuel] [bounded] [alone]`.

use std::time::Instant;

use selvedge_compiler::{MemoryStyle, Settings, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let file = args.first().ok_or("timing file.wasm [fuel] [bounded] [alone]")?;
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let style = if has("bounded") {
        MemoryStyle::Bounded
    } else {
        MemoryStyle::Reserved
    };
    let settings = Settings::host()?
        .fuel(has("fuel"))
        .memory_style(style)
        .parallel(!has("alone"));
    let wasm = wat::parse_file(file)?;
    let start = Instant::now();
    let module = compile(&wasm, &settings)?;
    println!("{:.2?} for {} bytes", start.elapsed(), wasm.len());
    let (info, image) = (&module.info, &module.image);
    println!(
        "{} imports, {} functions, {} exports",
        info.imports.len(),
        info.functions.len(),
        info.exports.len()
    );
    println!("{} bytes of text", image.text.len());
    println!(
        "{} fault sites, {} call sites",
        image.fault_sites.len(),
        image.call_sites.len()
    );
    Ok(())
}
