//! L4: flows of many clients through balancer boxes while backends come, go, drain, fail and change weight.
//!
//! The boxes run the model of the XDP program from `sluice-core`, over the layouts of `sluice-abi`; the
//! frames are whole, from Ethernet up. See [`world`] for the picture and [`checks`] for the rules.

pub mod checks;
pub mod frame;
pub mod model;
pub mod mutations;
pub mod rules;
pub mod scenario;
pub mod world;

use crate::harness::Family;
use crate::report::Run;
use crate::rng::Rng;
use scenario::Scenario;
use world::{MakeRules, World};

/// The family with the product's rules.
pub const FAMILY: Family = Family {
    name: "l4",
    run: |seed| run(seed, |scenario, _| Box::new(model::Model::new(scenario))),
    must_happen: &[
        "boxes_failed",
        "changes_in_open_window",
        "changes_of_settled_table",
        "excuse_moved_box_began_in_window",
        "excuse_moved_box_outlived_window",
        "rehashes",
        "excuse_silent",
        "excuse_syn_raced",
        "flow_evicted",
        "flow_hit",
        "flow_kept",
        "flow_new",
        "flow_rehomed",
        "flow_table_full",
        "flow_untracked",
        "flows_lost_their_backend",
        "flows_moved_box_and_kept",
        "flows_moved_box_in_window_and_kept",
        "flows_reset",
        "flows_whole",
        "packets_kept_in_window",
        "udp_began_on_previous_owner",
        "windows_closed",
    ],
};

/// Play the scenario of a seed with these rules in every box.
pub fn run(seed: u64, make: MakeRules) -> Run {
    let rng = Rng::new(seed);
    let scenario = Scenario::draw(&mut rng.fork(1));
    let text = scenario.to_string();
    let (outcome, counters, trace) = World::new(scenario, rng.fork(2), make).play();
    Run::new(seed, text, outcome, counters, trace)
}
