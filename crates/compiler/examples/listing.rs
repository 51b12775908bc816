//! Prints what a module is compiled to: `listing file.wat [clif|asm] [fuel] [bounded]`.

use selvedge_compiler::{Listing, MemoryStyle, Settings, listing};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let file = args
        .first()
        .ok_or("listing file.wat [clif|asm] [fuel] [bounded]")?;
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let style = if has("bounded") {
        MemoryStyle::Bounded
    } else {
        MemoryStyle::Reserved
    };
    let settings = Settings::host()?.fuel(has("fuel")).memory_style(style);
    let what = if has("asm") {
        Listing::Assembly
    } else {
        Listing::Clif
    };
    print!("{}", listing(&wat::parse_file(file)?, &settings, what)?);
    Ok(())
}
