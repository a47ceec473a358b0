//! What changes the goal by time alone: slow starts and the deadlines of drains.
//!
//! ```text
//!  down ──rise good──► step 1 ──slow_start_ms / 8──► step 2 ─ … ─► full
//!  drained with a deadline ──wall clock──► keeps no flow
//! ```
//! A slow start is forgotten when the agent ends: its backend then has its full weight at once.

use super::Engine;
use crate::clock::Now;
use crate::goal::Target;
use crate::health::{SLOW_START_STEPS, slow_start_next_ms, slow_start_step};
use crate::host::Host;
use sluice_api::rest::DrainRequest;
use std::collections::{BTreeMap, BTreeSet};

/// Backends that came back, and drains that ended.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    /// When it came back (monotonic ms), and how long its slow start takes.
    ramps: BTreeMap<Target, (u64, u64)>,
    /// Drains whose deadline has passed.
    over: BTreeSet<DrainRequest>,
    /// When the goal changes next, monotonic ms.
    due: Option<u64>,
}

impl Passing {
    /// A target came back.
    pub(crate) fn came_back(&mut self, target: &Target, now: Now, slow_start_ms: u64) {
        if slow_start_ms > 0 {
            self.ramps.insert(target.clone(), (now.mono_ms(), slow_start_ms));
        }
    }

    /// A target went down, or is not probed any more.
    pub(crate) fn gone(&mut self, target: &Target) {
        self.ramps.remove(target);
    }

    /// Step of a target's slow start.
    pub(crate) fn step(&self, target: &Target, now: Now) -> u8 {
        let step =
            |(since, length): &(u64, u64)| slow_start_step(now.mono_ms().saturating_sub(*since), *length);
        self.ramps.get(target).map_or(SLOW_START_STEPS, step)
    }

    /// Drains that keep no flow any more.
    pub(crate) const fn drains_over(&self) -> &BTreeSet<DrainRequest> {
        &self.over
    }

    /// When the goal changes by itself.
    pub(crate) const fn due(&self) -> Option<u64> {
        self.due
    }

    /// Whether it does now; told once.
    pub(crate) fn take_due(&mut self, now: Now) -> bool {
        self.due.take_if(|at| *at <= now.mono_ms()).is_some()
    }

    /// Forgets slow starts that are over; finds what is next. Returns drains that ended since the last call.
    fn advance(&mut self, deadlines: &BTreeMap<DrainRequest, u64>, now: Now) -> Vec<DrainRequest> {
        self.ramps.retain(|_, (since, length)| {
            slow_start_step(now.mono_ms().saturating_sub(*since), *length) < SLOW_START_STEPS
        });
        let steps = self
            .ramps
            .iter()
            .map(|(target, (since, length))| since + slow_start_next_ms(self.step(target, now), *length));
        let is_over = |at_ms: &u64| *at_ms <= now.wall_ms();
        let open = deadlines.values().filter(|at| !is_over(at));
        let ends = open.map(|at| now.mono_ms() + (at - now.wall_ms()));
        self.due = steps.chain(ends).min();
        let over: BTreeSet<DrainRequest> =
            deadlines.iter().filter(|(_, at)| is_over(at)).map(|(drain, _)| drain.clone()).collect();
        let news = over.difference(&self.over).cloned().collect();
        self.over = over;
        news
    }
}

impl<H: Host> Engine<H> {
    /// Moves slow starts and deadlines on to now, before a goal is made.
    pub(crate) fn pass_time(&mut self) {
        let now = self.clock.now();
        for drain in self.passing.advance(self.ledger.drain_deadlines(), now) {
            self.counts.add("drain_deadlines");
            let message = "its deadline has passed: its flows move to other backends".to_owned();
            self.events.add(now, "drain_over", drain.name, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_api::rest::DrainKind;

    const fn at(ms: u64) -> Now {
        Now { mono_us: ms * 1000, wall_us: 5_000_000 + ms * 1000 }
    }

    #[test]
    fn every_step_is_due_once() {
        let (mut passing, target) = (Passing::default(), Target::Member { name: "a".into() });
        passing.came_back(&target, at(100), 8_000);
        let mut seen = Vec::new();
        let mut now = 100;
        loop {
            passing.advance(&BTreeMap::new(), at(now));
            seen.push((now, passing.step(&target, at(now))));
            let Some(due) = passing.due() else { break };
            assert!(!passing.take_due(at(due - 1)) && due > now);
            now = due;
            assert!(passing.take_due(at(now)) && !passing.take_due(at(now)));
        }
        let wanted: Vec<(u64, u8)> = (0..8).map(|n| (100 + u64::from(n) * 1000, n + 1)).collect();
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_drain_is_over_at_its_wall_clock_time_and_told_once() {
        let drain = DrainRequest { kind: DrainKind::Node, name: "n".into() };
        let (mut passing, deadlines) = (Passing::default(), BTreeMap::from([(drain.clone(), 7_000)]));
        assert!(passing.advance(&deadlines, at(0)).is_empty());
        assert_eq!(passing.due(), Some(2_000));
        assert_eq!(passing.advance(&deadlines, at(2_000)), std::slice::from_ref(&drain));
        assert!(passing.advance(&deadlines, at(2_001)).is_empty());
        assert!(passing.drains_over().contains(&drain) && passing.due().is_none());
        passing.advance(&BTreeMap::new(), at(3_000));
        assert!(passing.drains_over().is_empty(), "taken back");
    }
}
