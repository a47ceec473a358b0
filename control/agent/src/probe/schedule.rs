//! When each target is probed next: a heap of times, pure.
//!
//! ```text
//!  waiting ──due, pop──► under way ──done──► waiting (interval ± jitter after the former start)
//! ```
//! One probe of a target at a time. A target taken off the list while its probe is under way is forgotten: its
//! result has no ticket any more. Cost: O(log n) a probe; random numbers and time are handed in.

use crate::goal::{Check, Target};
use crate::health::jittered_ms;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// First probes of targets that are new together: so many start in each millisecond.
const FIRST_PER_MS: u64 = 25;
/// The first probes of a short list are spread over this long, ms, so that they do not start in step.
const FIRST_SPREAD_MS: u64 = 20;

/// Names one probe under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What is probed.
    pub target: Target,
    serial: u64,
}

#[derive(Debug)]
struct Item {
    check: Check,
    serial: u64,
    /// When the next probe starts, ms; of one under way: the one after it.
    next_ms: u64,
}

/// Targets and their times.
#[derive(Debug, Default)]
pub struct Schedule {
    items: BTreeMap<Target, Item>,
    due: BinaryHeap<Reverse<(u64, u64, Target)>>,
    serial: u64,
}

impl Schedule {
    /// Takes a new list. Targets whose check did not change keep their times.
    pub fn set(&mut self, wanted: &BTreeMap<Target, Check>, now_ms: u64, mut random: impl FnMut() -> u64) {
        self.items.retain(|target, item| wanted.get(target) == Some(&item.check));
        let fresh: Vec<&Target> = wanted.keys().filter(|target| !self.items.contains_key(target)).collect();
        let count = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
        let spread_ms = (count / FIRST_PER_MS).max(FIRST_SPREAD_MS);
        for target in fresh {
            self.serial += 1;
            let next_ms = now_ms + random() % spread_ms;
            let item = Item { check: wanted[target].clone(), serial: self.serial, next_ms };
            self.due.push(Reverse((next_ms, self.serial, target.clone())));
            self.items.insert(target.clone(), item);
        }
    }

    /// The next target that is due, now under way, with its check and how late it starts, ms.
    pub fn pop(&mut self, now_ms: u64, random: u64) -> Option<(Ticket, Check, u64)> {
        loop {
            if self.due.peek()?.0.0 > now_ms {
                return None;
            }
            let Reverse((at, serial, target)) = self.due.pop()?;
            let Some(item) = self.items.get_mut(&target).filter(|item| item.serial == serial) else {
                continue;
            };
            let health = &item.check.health;
            item.next_ms = now_ms + jittered_ms(health.interval_ms(), health.jitter_percent(), random);
            return Some((Ticket { target, serial }, item.check.clone(), now_ms - at));
        }
    }

    /// A probe ended; `false` if its target is not wanted any more.
    pub fn done(&mut self, ticket: &Ticket, now_ms: u64) -> bool {
        let Some(item) = self.items.get(&ticket.target).filter(|item| item.serial == ticket.serial) else {
            return false;
        };
        self.due.push(Reverse((item.next_ms.max(now_ms), item.serial, ticket.target.clone())));
        true
    }

    /// When the next target is due, ms.
    pub fn next_ms(&self) -> Option<u64> {
        self.due.peek().map(|due| due.0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_api::check::types::Health;

    fn list(n: u32) -> BTreeMap<Target, Check> {
        let check = Check {
            address: "127.0.0.1:80".parse().expect("address"),
            health: Health::of_member(80),
            path: None,
        };
        (0..n).map(|i| (Target::Member { name: format!("n{i:05}") }, check.clone())).collect()
    }

    /// A generator of its own, so that the test is the same each time.
    fn numbers(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        }
    }

    #[test]
    fn thousands_of_targets_are_probed_in_time_each_once_at_a_time_and_spread() {
        const TARGETS: u32 = 5_000;
        const SLOTS: usize = 512;
        let (wanted, mut schedule, mut random) = (list(TARGETS), Schedule::default(), numbers(7));
        schedule.set(&wanted, 0, &mut random);
        let mut running: Vec<(u64, Ticket)> = Vec::new();
        let mut starts: BTreeMap<Target, Vec<u64>> = BTreeMap::new();
        let mut busiest = 0;
        for now in 0..10_000u64 {
            let (over, left) = running.into_iter().partition(|(end, _)| *end <= now);
            running = left;
            let over: Vec<(u64, Ticket)> = over;
            over.iter().for_each(|(_, ticket)| assert!(schedule.done(ticket, now)));
            let mut started = 0;
            while running.len() < SLOTS
                && let Some((ticket, _, late)) = schedule.pop(now, random())
            {
                assert!(late <= 1, "there was room");
                assert!(!running.iter().any(|(_, other)| other.target == ticket.target));
                starts.entry(ticket.target.clone()).or_default().push(now);
                running.push((now + 1 + random() % 30, ticket));
                started += 1;
            }
            busiest = busiest.max(started);
        }
        assert_eq!(starts.len(), TARGETS as usize);
        for times in starts.values() {
            assert!(times.len() >= 9, "{times:?}");
            assert!(times.windows(2).all(|w| (900..=1_101).contains(&(w[1] - w[0]))), "{times:?}");
        }
        assert!(busiest <= 60, "{busiest} in one millisecond, where 5 are the mean");
    }

    #[test]
    fn a_full_prober_is_late_and_catches_up_without_bursts_of_one_target() {
        let (wanted, mut schedule, mut random) = (list(3), Schedule::default(), numbers(1));
        schedule.set(&wanted, 0, &mut random);
        let (first, ..) = schedule.pop(50, 0).expect("due");
        let (_, _, late) = schedule.pop(5_000, 0).expect("still due");
        assert!(late > 4_000);
        assert!(schedule.done(&first, 5_000), "a probe that took long is followed by the next at once");
        let mut again = 0;
        while let Some((ticket, ..)) = schedule.pop(5_000, 0) {
            again += u32::from(ticket.target == first.target);
        }
        assert_eq!(again, 1);
    }

    #[test]
    fn results_of_targets_that_went_or_changed_are_not_taken() {
        let (mut wanted, mut schedule) = (list(2), Schedule::default());
        schedule.set(&wanted, 0, || 0);
        let (gone, ..) = schedule.pop(0, 0).expect("due");
        let (changed, ..) = schedule.pop(0, 0).expect("due");
        wanted.remove(&gone.target);
        wanted.get_mut(&changed.target).expect("there").address.set_port(81);
        schedule.set(&wanted, 10, || 0);
        assert!(!schedule.done(&gone, 20) && !schedule.done(&changed, 20));
        let (again, check, _) = schedule.pop(20, 0).expect("the changed one is new");
        assert_eq!((again.target, check.address.port()), (changed.target, 81));
        assert_eq!(schedule.pop(20, 0), None);
    }
}
