//! Proxy cores: sessions of several members over the simulated twin of the ring.

pub mod client;
pub mod content;
pub mod origin;
pub mod wire;
