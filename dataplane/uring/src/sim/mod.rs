//! The simulated twin (being filled).
