//! See [`sluice_fuzz::cache_fields`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_fuzz::cache_fields(data));
