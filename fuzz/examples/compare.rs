//! Compares the engines over one module, text or binary, with a seed:
//! `cargo run -p selvedge-fuzz --example compare -- module.wat 0x5eed`.

use selvedge_fuzz::case::Case;
use selvedge_fuzz::{Outcome, run_case};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [path, seed] = arguments.as_slice() else {
        return Err("expected a module and a seed".into());
    };
    let case = Case::new(wat::parse_file(path)?, number(seed)?);
    match run_case(&case) {
        Outcome::Differs(difference) => println!("{difference}"),
        outcome => println!("{outcome:?}"),
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}
