//! Agents: ledger, plan and steps under crashes, stale placements and flapping health.

pub mod book;
