//! A deterministic HTTP/1.1 origin.
//!
//! `/obj/{key}` answers bytes that are a function of the key and the offset ([`crate::pattern`]); the query
//! says how (`spec`). `/.origin/stats` tells how often each URL was asked for. One thread serves all
//! connections by edge-triggered epoll; several threads share the listeners' addresses by `SO_REUSEPORT`.

mod conn;
mod server;
mod spec;
mod stats;
mod udp;

pub use server::{Config, Error, Origin};
pub use spec::Spec;
pub use stats::Stats;
pub use udp::echo as udp_echo;
