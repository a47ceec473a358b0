//! Agents: ledger, plan and steps under crashes, power cuts, bad documents and flapping health.
//!
//! Every agent is the product's engine over its own ledger on a simulated disk and its own fake node. See
//! [`world`] for the picture and [`checks`] for the rules; rules about packets are in [`kernel`].

pub mod book;
pub mod checks;
pub mod kernel;
pub mod storage;
pub mod world;

use crate::harness::Family;
use crate::report::Run;
use crate::rng::Rng;
use world::{Plan, Quirks, World};

/// The family with the product's rules.
pub const FAMILY: Family = Family {
    name: "agent",
    run: |seed| run(seed, Quirks::default()),
    must_happen: &[
        "addresses_flushed",
        "bad_conflict",
        "bad_empty_pool",
        "bad_reference",
        "bad_stale",
        "bad_torn",
        "bad_unknown_field",
        "crashes_at_a_step",
        "drains_acknowledged",
        "edit_backend_removed",
        "edit_vip_removed",
        "flaps",
        "flows_kept_on_previous_owner",
        "flows_whose_backend_went",
        "nodes_converged",
        "power_cuts",
        "process_deaths",
        "proxies_killed",
        "source_events_lost",
        "source_nonsense",
        "steps_failed",
        "step_close_balancer",
        "step_remove_backend",
        "step_set_owners",
        "sweeps",
        "windows_closed",
    ],
};

/// Mutations: what is broken, and the checkers of which one must catch it.
pub const MUTATIONS: &[(&str, Quirks, &[&str])] = &[
    (
        "a sync returns before anything is on disk",
        Quirks { lying_sync: true, stale_is_newer: false, hasty_ids: false, no_windows: false },
        &["generations_grow", "ledger_opens", "drains_survive"],
    ),
    (
        "the generation rule is off",
        Quirks { lying_sync: false, stale_is_newer: true, hasty_ids: false, no_windows: false },
        &["documents_are_the_operators"],
    ),
    (
        "a retired id is given again at once",
        Quirks { lying_sync: false, stale_is_newer: false, hasty_ids: true, no_windows: false },
        &["id_not_reused_while_named"],
    ),
    (
        "previous owners are forgotten at once",
        Quirks { lying_sync: false, stale_is_newer: false, hasty_ids: false, no_windows: true },
        &["flow_keeps_backend"],
    ),
];

/// Play the scenario of a seed with these rules broken.
pub fn run(seed: u64, quirks: Quirks) -> Run {
    let rng = Rng::new(seed);
    let plan = Plan::draw(&mut rng.fork(1));
    let text = format!("{plan:?}");
    let (outcome, counters, trace) = World::new(plan, quirks, rng.fork(2)).play();
    Run::new(seed, text, outcome, counters, trace)
}
