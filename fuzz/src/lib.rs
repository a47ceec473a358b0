//! The properties that the fuzz targets assert, one function a target.
//!
//! They are plain functions so that `cargo test` in this directory runs them over the kept corpus without a
//! fuzzer. Each panics when its property is broken; the input that did it is the bug report.

#![forbid(unsafe_code)]

mod cache;
mod chunked;
mod control;
mod frame;
mod request;
mod response;

pub use cache::cache_fields;
pub use chunked::http1_chunked;
pub use control::{placement, proxy_admin};
pub use frame::frame;
pub use request::http1_request;
pub use response::http1_response;

/// Places to cut `len` bytes at, ascending, taken from the bytes themselves so that a seed is nothing but a
/// message.
fn cuts(data: &[u8]) -> Vec<usize> {
    let mut x =
        data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut cuts: Vec<usize> = (0..4)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x % (data.len() as u64 + 1)) as usize
        })
        .collect();
    cuts.sort_unstable();
    cuts
}
