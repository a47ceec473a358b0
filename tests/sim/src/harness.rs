//! Which seeds to run, and how a failing one is replayed.
//!
//! The only part of this crate that reads the environment: `SLUICE_SIM_SEEDS` (how many seeds a family
//! runs), `SLUICE_SIM_SEED` and `SLUICE_SIM_FAMILY` (the one to replay).

use crate::report::{Counters, Run, Violation};
use crate::trace::Trace;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds per family when the environment does not say: what a developer waits for. CI runs 1000.
pub const DEFAULT_SEEDS: u64 = 200;

/// A kind of scenario.
#[derive(Clone, Copy)]
pub struct Family {
    /// Its name, as in `SLUICE_SIM_FAMILY`.
    pub name: &'static str,
    /// Play the scenario of a seed.
    pub run: fn(u64) -> Run,
    /// Counters that must not be 0 after all seeds.
    pub must_happen: &'static [&'static str],
}

/// What a family did over many seeds.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Seeds played.
    pub seeds: u64,
    /// Events in all traces.
    pub events: u64,
    /// Counters of all runs.
    pub counters: Counters,
    /// The first run with a violation.
    pub failed: Option<Run>,
}

impl Family {
    /// Play one seed. A panic of the code under test is a violation like any other.
    pub fn play_seed(&self, seed: u64) -> Run {
        let run = self.run;
        catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a message");
            let violation = Violation::new("nothing_panics", text);
            Run::new(seed, "not known".to_owned(), Err(violation), Counters::default(), Trace::default())
        })
    }

    /// Play seeds `1..=seeds`, stopping at the first violation.
    pub fn play(&self, seeds: u64) -> Outcome {
        let mut outcome = Outcome::default();
        for seed in 1..=seeds {
            let run = self.play_seed(seed);
            outcome.seeds += 1;
            outcome.events += run.events;
            outcome.counters.merge(&run.counters);
            if run.violation.is_some() {
                outcome.failed = Some(run);
                break;
            }
        }
        outcome
    }

    /// Counters of [`Family::must_happen`] that stayed 0.
    pub fn missing(&self, counters: &Counters) -> Vec<&'static str> {
        self.must_happen.iter().copied().filter(|name| counters.get(name) == 0).collect()
    }

    /// What the reader of a failure needs: the rule, the seed, how to play it again, the last events.
    pub fn failure(&self, run: &Run) -> String {
        let mut text = String::new();
        for line in &run.tail {
            writeln!(text, "{line}").expect("writing to a string does not fail");
        }
        let violation = run.violation.as_ref().map(ToString::to_string).unwrap_or_default();
        let (family, seed) = (self.name, run.seed);
        write!(
            text,
            "violation of {violation}\nscenario: {}\nfamily {family}, seed {seed}, {} events; play it again with\n  \
             SLUICE_SIM_FAMILY={family} SLUICE_SIM_SEED={seed} cargo test -p sluice-sim replay -- --nocapture",
            run.scenario, run.events
        )
        .expect("writing to a string does not fail");
        text
    }

    /// Play the seeds of a test run; panic with a replayable report on a violation, and when a thing that
    /// the checkers are there for never happened.
    pub fn test(&self) {
        let seeds = seeds_from_env();
        let outcome = self.play(seeds);
        println!("{}: {} seeds, {} events", self.name, outcome.seeds, outcome.events);
        for (name, n) in outcome.counters.iter() {
            println!("  {name}: {n}");
        }
        if let Some(run) = &outcome.failed {
            panic!("{}", self.failure(run));
        }
        // Few seeds may honestly miss a rare case; the default number and more may not.
        if seeds >= DEFAULT_SEEDS {
            let missing = self.missing(&outcome.counters);
            assert!(missing.is_empty(), "{}: never happened in {seeds} seeds: {missing:?}", self.name);
        }
    }
}

/// `SLUICE_SIM_SEEDS`, or [`DEFAULT_SEEDS`].
pub fn seeds_from_env() -> u64 {
    number_from_env("SLUICE_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS)
}

/// The seed and family to replay, if the environment names them.
pub fn replay_from_env() -> Option<(u64, Option<String>)> {
    Some((number_from_env("SLUICE_SIM_SEED")?, std::env::var("SLUICE_SIM_FAMILY").ok()))
}

fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}
