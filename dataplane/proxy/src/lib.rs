//! The L7 proxy and cache.
//!
//! Process: one pinned thread per worker with its own ring and listeners, one admin thread, one store and one
//! route table shared by all. [`worker`] holds the session code, written against [`sluice_uring::Io`] and a
//! given time, so that a simulation runs many of them in one thread.
//!
//! * [`worker`]: sessions, upstream pools, fills, timers.
//! * [`store`]: the RAM store.
//! * [`config`]: what workers know about sites, origins and the group.
//! * [`mailbox`]: wake-ups between workers.
//! * [`stats`]: counters, by worker.
//! * [`limits`]: every size and timeout.

#![forbid(unsafe_code)]

pub mod admin;
pub mod answer;
mod cached;
pub mod config;
pub mod control;
mod exchange;
pub mod handover;
pub mod limits;
pub mod mailbox;
pub mod process;
pub mod runtime;
mod session;
pub mod stats;
pub mod store;
mod targets;
pub mod time;
mod wheel;
pub mod worker;
