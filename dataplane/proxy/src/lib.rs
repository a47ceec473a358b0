//! The L7 proxy and cache.

pub mod store;
