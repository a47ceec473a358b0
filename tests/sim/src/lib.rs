//! Deterministic simulation: the product's own decision code, many nodes, one thread, a virtual clock.
//!
//! A *family* is a kind of scenario. `run(seed)` draws a whole scenario from the seed, plays it, and hands
//! back a [`report::Run`]: what a checker found, how often each thing of interest happened, and a hash over every
//! line of the event trace. The same seed always gives the same hash; nothing here reads a clock, starts a
//! thread, or iterates over anything whose order is not fixed.
//!
//! * [`rng`]: the seeded random source.
//! * [`queue`]: the event queue and its virtual clock.
//! * [`net`]: links that lose, delay, reorder, repeat and part.
//! * [`trace`]: the last events, and the hash over all of them.
//! * [`report`]: violations, counters and what a run hands back.
//! * [`harness`]: which seeds to run, and how a failing one is replayed.
//! * [`disk`]: a disk that forgets what was not synced.
//! * [`l4`]: flows through balancer boxes while their tables change.
//! * [`agent`]: agents under crashes, bad documents and flapping health.
//! * [`proxy`]: members of a cache group under crashes, cuts and slow origins.
//!
//! The parts under test are the product's crates. A checker is shown to be able to fail by a *mutation*: a
//! test double in this crate that breaks one rule on purpose, and that the checker must catch.

#![forbid(unsafe_code)]

pub mod agent;
pub mod disk;
pub mod harness;
pub mod l4;
pub mod net;
pub mod proxy;
pub mod queue;
pub mod report;
pub mod rng;
pub mod trace;

/// Every family, in the order in which a fault is cheapest to understand.
pub const FAMILIES: &[harness::Family] = &[l4::FAMILY, agent::FAMILY, proxy::FAMILY];
