//! Proxy cores: sessions of several members over the simulated twin of the ring.
//!
//! Members and parent are the product's workers, stores and admin code; clients and origin are this crate's,
//! with a parser of their own. See [`world`] for the picture; the rules stand in [`client`], [`origin`] and
//! [`peers`].

pub mod client;
pub mod content;
pub mod origin;
pub mod peers;
pub mod wire;
pub mod world;

use crate::harness::Family;
use crate::report::Run;
use crate::rng::Rng;
use world::{Plan, World};

/// The family with the product's rules.
pub const FAMILY: Family = Family {
    name: "proxy",
    run,
    must_happen: &[
        "answers_refused",
        "answers_right",
        "asked_again",
        "links_cut",
        "members_killed",
        "rows_changed",
        "runs_with_faults",
        "runs_without_faults",
        "urls_fetched",
    ],
};

/// Play the scenario of a seed.
pub fn run(seed: u64) -> Run {
    let rng = Rng::new(seed);
    let plan = Plan::draw(&mut rng.fork(1));
    let text = format!("{plan:?}");
    let (outcome, counters, trace) = World::new(plan, rng.fork(2)).play();
    Run::new(seed, text, outcome, counters, trace)
}
