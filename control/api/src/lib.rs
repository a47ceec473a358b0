//! What center, node, proxy and operator say to each other.
//!
//! Raw wire types only: every struct here denies unknown fields and is checked by [`check`] into types
//! that cannot hold a wrong state. Nothing here performs I/O.
//!
//! * [`placement`]: the documents an operator or a center writes.
//! * [`proxy_admin`]: the line protocol between the agent and one proxy process.
//! * [`rest`]: bodies of the agent's REST API.
//! * [`status`]: what a node reports back.
//! * [`check`]: from raw documents to a checked desired state, or the paths of the fields at fault.

#![forbid(unsafe_code)]

pub mod check;
pub mod placement;
pub mod proxy_admin;
pub mod rest;
pub mod status;
