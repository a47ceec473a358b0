//! Pure decisions of the data plane.
//!
//! Nothing here owns a socket, thread, clock, random source or environment variable: functions take state,
//! input and `now`, and hand back what to do. Iteration orders are fixed, so a simulation replays exactly.

#![forbid(unsafe_code)]

pub mod cache;
pub mod http1;
pub mod l4;
pub mod ring;
pub mod route;
