//! See [`sluice_fuzz::proxy_admin`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_fuzz::proxy_admin(data));
