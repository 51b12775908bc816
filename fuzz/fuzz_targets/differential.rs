//! `cargo fuzz run differential --features libfuzzer`
#![no_main]

use selvedge_fuzz::Outcome;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Outcome::Differs(difference) = selvedge_fuzz::run(data) {
        panic!("{difference}");
    }
});
