//! The ring of recent events and the agent's counters.

use crate::clock::Now;
use sluice_api::rest::Event;
use std::collections::{BTreeMap, VecDeque};

/// Events kept: a day of a calm node, a minute of a flapping one.
pub const EVENTS_MAX: usize = 4096;

/// A bounded ring; the oldest go first, and the sequence shows the gap.
#[derive(Debug, Default)]
pub struct Events {
    ring: VecDeque<Event>,
    last: u64,
}

impl Events {
    /// Adds an event.
    pub fn add(&mut self, now: Now, kind: &str, item: impl Into<String>, message: impl Into<String>) {
        self.add_with(now, kind, item, message, &[]);
    }

    /// Adds an event with numbers.
    pub fn add_with(
        &mut self,
        now: Now,
        kind: &str,
        item: impl Into<String>,
        message: impl Into<String>,
        values: &[(&str, u64)],
    ) {
        if self.ring.len() >= EVENTS_MAX {
            self.ring.pop_front();
        }
        self.last += 1;
        let event = Event {
            sequence: self.last,
            at_us: now.wall_us,
            kind: kind.to_owned(),
            item: item.into(),
            message: message.into(),
            values: values.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
        };
        tracing::info!(kind, item = event.item, values = ?event.values, "{}", event.message);
        self.ring.push_back(event);
    }

    /// Events after a sequence number, oldest first.
    pub fn after(&self, sequence: u64) -> Vec<Event> {
        self.ring.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    /// Number of the newest event.
    pub const fn last(&self) -> u64 {
        self.last
    }
}

/// Counters by name, all since the agent started.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// Adds one.
    pub fn add(&mut self, name: &'static str) {
        self.add_n(name, 1);
    }
    /// Adds many.
    pub fn add_n(&mut self, name: &'static str, n: u64) {
        *self.0.entry(name).or_default() += n;
    }
    /// By name.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_drops_the_oldest_and_shows_the_gap() {
        let mut events = Events::default();
        for i in 0..EVENTS_MAX + 3 {
            events.add(Now::default(), "test", i.to_string(), "");
        }
        let all = events.after(0);
        assert_eq!(all.len(), EVENTS_MAX);
        assert_eq!(all[0].sequence, 4);
        assert_eq!(events.after(events.last() - 1).len(), 1);
        assert!(events.after(events.last()).is_empty());
    }
}
