//! Load generator, deterministic origin and side-by-side measurements.
//!
//! Nothing depends on this crate. The programs are `sluice-load` (open-loop load), `sluice-origin` (the
//! server behind what is measured) and `sluice-bench` (interleaved comparisons with public programs).
//!
//! `unsafe` lives in [`polled::xsk`] only: the AF_XDP crate has no safe rings.

#![deny(unsafe_code)]

pub mod cache;
pub mod chunked;
pub mod load;
pub mod netns;
pub mod origin;
pub mod pattern;
pub mod poll;
pub mod polled;
pub mod relay;
pub mod rng;
pub mod suite;
pub mod xdp;
