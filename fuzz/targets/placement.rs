//! See [`sluice_fuzz::placement`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_fuzz::placement(data));
