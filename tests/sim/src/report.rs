//! What a run hands back: a violation if a checker found one, counters, the trace.

use crate::trace::Trace;
use std::collections::BTreeMap;
use std::fmt;

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the checker.
    pub checker: &'static str,
    /// What it saw, with the values.
    pub context: String,
}

impl Violation {
    /// A violation found by `checker`.
    pub fn new(checker: &'static str, context: impl Into<String>) -> Self {
        Self { checker, context: context.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.context)
    }
}

/// What a checker says.
pub type Check = Result<(), Violation>;

/// How often things of interest happened, by name. A family names those that must not stay 0 over a whole
/// test run: a checker that never met its case shows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    sums: BTreeMap<&'static str, u64>,
    peaks: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// One more.
    pub fn add(&mut self, name: &'static str) {
        self.add_n(name, 1);
    }

    /// `n` more.
    pub fn add_n(&mut self, name: &'static str, n: u64) {
        *self.sums.entry(name).or_default() += n;
    }

    /// The largest `value` seen.
    pub fn peak(&mut self, name: &'static str, value: u64) {
        let held = self.peaks.entry(name).or_default();
        *held = value.max(*held);
    }

    /// How often so far.
    pub fn get(&self, name: &str) -> u64 {
        self.sums.get(name).or_else(|| self.peaks.get(name)).copied().unwrap_or(0)
    }

    /// Add the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        for (name, n) in &other.sums {
            self.add_n(name, *n);
        }
        for (name, value) in &other.peaks {
            self.peak(name, *value);
        }
    }

    /// Sums in the order of the names, then peaks.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.sums.iter().chain(&self.peaks).map(|(name, n)| (*name, *n))
    }
}

/// The outcome of one seed.
#[derive(Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What the scenario drawn from the seed looks like, one line.
    pub scenario: String,
    /// The first violation, which ends a run.
    pub violation: Option<Violation>,
    /// How often things of interest happened.
    pub counters: Counters,
    /// Hash over the whole event trace.
    pub hash: u64,
    /// Events in the trace.
    pub events: u64,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

impl Run {
    /// Close a run.
    pub fn new(seed: u64, scenario: String, outcome: Check, counters: Counters, trace: Trace) -> Self {
        let (hash, events) = (trace.hash(), trace.count());
        let violation = outcome.err();
        Self { seed, scenario, violation, counters, hash, events, tail: trace.into_lines() }
    }
}
