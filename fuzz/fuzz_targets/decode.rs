//! `cargo fuzz run decode --features libfuzzer`
#![no_main]

use selvedge_fuzz::decode;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(bytes) = decode::bytes(data)
        && let Err(fault) = decode::check(&bytes)
    {
        panic!("{fault}: {bytes:02x?}");
    }
});
