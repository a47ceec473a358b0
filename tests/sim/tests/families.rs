//! Every family over the seeds of this run, replay of one seed, and that a seed replays exactly.

use sluice_sim::harness::{Family, replay_from_env};
use sluice_sim::{agent, l4};

fn family(name: &str) -> &'static Family {
    sluice_sim::FAMILIES.iter().find(|f| f.name == name).unwrap_or_else(|| {
        let names: Vec<&str> = sluice_sim::FAMILIES.iter().map(|f| f.name).collect();
        panic!("no family {name}; there are {names:?}")
    })
}

#[test]
fn replay() {
    let Some((seed, name)) = replay_from_env() else {
        println!("skipped: SLUICE_SIM_SEED names no seed to replay");
        return;
    };
    let mut violated = Vec::new();
    for family in sluice_sim::FAMILIES.iter().filter(|f| name.as_deref().is_none_or(|n| f.name == n)) {
        let run = family.play_seed(seed);
        if run.violation.is_some() {
            println!("{}", family.failure(&run));
            violated.push(family.name);
        } else {
            println!(
                "{}: seed {seed}: no violation, {} events, hash {:016x}",
                family.name, run.events, run.hash
            );
            println!("scenario: {}", run.scenario);
        }
    }
    assert!(violated.is_empty(), "seed {seed} violates a rule in {violated:?}");
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for family in sluice_sim::FAMILIES {
        let mut hashes = std::collections::BTreeSet::new();
        for seed in 1..=10 {
            let (first, second) = (family.play_seed(seed), family.play_seed(seed));
            assert!(first.events > 0, "{}: seed {seed} plays nothing", family.name);
            assert_eq!(first.hash, second.hash, "{}: seed {seed} does not replay", family.name);
            hashes.insert(first.hash);
        }
        assert_eq!(hashes.len(), 10, "{}: different seeds play the same events", family.name);
    }
}

#[test]
fn l4_rules_hold() {
    family("l4").test();
}

#[test]
fn agent_rules_hold() {
    family("agent").test();
}

#[test]
fn proxy_rules_hold() {
    family("proxy").test();
}

/// Seeds within which a broken rule must be caught.
const MUTATION_SEEDS: u64 = 200;

fn assert_caught(what: &str, checkers: &[&str], run: impl Fn(u64) -> sluice_sim::report::Run) {
    for seed in 1..=MUTATION_SEEDS {
        if let Some(violation) = run(seed).violation {
            println!("{what}: caught by {} at seed {seed}", violation.checker);
            // Another checker may trip over the consequences first; the one named must see the cause.
            if checkers.contains(&violation.checker) {
                return;
            }
        }
    }
    panic!("{what}: not caught within {MUTATION_SEEDS} seeds by any of {checkers:?}");
}

#[test]
fn broken_agent_rules_are_caught() {
    for (what, quirks, checkers) in agent::MUTATIONS {
        assert_caught(what, checkers, |seed| agent::run(seed, *quirks));
    }
}

#[test]
fn broken_l4_rules_are_caught() {
    for (what, make, checkers) in l4::mutations::MUTATIONS {
        assert_caught(what, checkers, |seed| l4::run(seed, *make));
    }
}
