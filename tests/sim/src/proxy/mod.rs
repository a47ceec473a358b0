//! Proxy cores: sessions of several members over the simulated twin of the ring.

pub mod content;
pub mod wire;
