//! The L7 proxy and cache.
