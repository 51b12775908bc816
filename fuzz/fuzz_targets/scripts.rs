//! `cargo fuzz run scripts --features libfuzzer`
#![no_main]

use selvedge_fuzz::{Outcome, mutants};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(mutant) = mutants::mutant(data)
        && let (Outcome::Differs(difference), _) = mutants::run(&mutant)
    {
        panic!("{difference}");
    }
});
