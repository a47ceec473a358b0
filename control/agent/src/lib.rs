//! The node agent: ledger, plan, apply, observe.
//!
//! * [`engine`]: the one owner of state; everything else feeds it or carries out what it decides.
//! * [`goal`] → [`plan`]: pure decisions, from checked documents to steps.
//! * [`host`]: the seam to the node, with a real and a fake one.
//! * [`ledger`]: what must survive; [`generation`]: which version wins; [`health`]: who is up.
//! * [`driver`]: the engine's thread; [`sources`], [`probe`], [`http`]: the rim.

#![forbid(unsafe_code)]

pub mod clock;
pub mod driver;
pub mod engine;
pub mod events;
pub mod generation;
pub mod goal;
pub mod health;
pub mod host;
pub mod http;
pub mod ledger;
mod maglev;
pub mod model;
pub mod plan;
pub mod probe;
pub mod sources;
