//! Boxes that break one rule on purpose. Each is the product's model with one call changed on the way in;
//! the checker named beside it must catch it.

use super::model::Model;
use super::rules::{Row, RowState, Rules, Verdict};
use super::scenario::Scenario;
use super::world::MakeRules;
use crate::queue::Tick;
use sluice_abi::slot::Slot;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// The previous owner of a slot is not remembered.
    PreviousOwner,
    /// The flow table forgets everything at each change.
    FlowTable,
    /// A draining backend stays in the slots.
    Drain,
    /// A backend that is down counts as alive.
    Death,
    /// The slots are dealt out in turn, not by Maglev.
    Disruption,
    /// Each box of the group hashes in its own way.
    Hash,
}

struct BrokenBox {
    inner: Model,
    broken: Broken,
}

impl Rules for BrokenBox {
    fn publish(&mut self, rows: &[Row]) {
        let heal = |from: RowState| {
            rows.iter()
                .map(|r| if r.state == from { Row { state: RowState::Active, ..*r } } else { *r })
                .collect::<Vec<_>>()
        };
        match self.broken {
            Broken::Drain => self.inner.publish(&heal(RowState::Draining)),
            Broken::Death => self.inner.publish(&heal(RowState::Down)),
            Broken::PreviousOwner => {
                self.inner.publish(rows);
                self.inner.close_windows(0);
            }
            Broken::FlowTable => {
                self.inner.publish(rows);
                self.inner.forget_flows();
            }
            Broken::Disruption => {
                let takers: Vec<u16> = rows.iter().filter(|r| r.share() > 0).map(|r| r.id).collect();
                self.inner.publish_owners(rows, |n| {
                    takers.get(n as usize % takers.len().max(1)).copied().unwrap_or(0)
                });
            }
            Broken::Hash => self.inner.publish(rows),
        }
    }

    fn close_windows(&mut self, now: Tick) {
        self.inner.close_windows(now);
    }

    fn sweep(&mut self, now: Tick) {
        self.inner.sweep(now);
    }

    fn decide(&mut self, now: Tick, frame: &[u8]) -> Verdict {
        self.inner.decide(now, frame)
    }

    fn slots(&self) -> &[Slot] {
        self.inner.slots()
    }

    fn slot_of(&self, frame: &[u8]) -> u32 {
        self.inner.slot_of(frame)
    }
}

fn make(scenario: &Scenario, at: usize, broken: Broken) -> Box<dyn Rules> {
    let secret = if broken == Broken::Hash { at as u64 } else { 0 };
    Box::new(BrokenBox { inner: Model::with_secret(scenario, secret), broken })
}

/// Every mutation: what is broken, how to make it, and the checkers of which one must catch it.
pub const MUTATIONS: &[(&str, MakeRules, &[&str])] = &[
    ("previous owner not remembered", |s, at| make(s, at, Broken::PreviousOwner), &["flow_keeps_backend"]),
    ("flow table forgets at a change", |s, at| make(s, at, Broken::FlowTable), &["flow_keeps_backend"]),
    (
        "draining backend stays in the slots",
        |s, at| make(s, at, Broken::Drain),
        &["draining_gets_no_new_flow", "shares_follow_weights"],
    ),
    (
        "dead backend counts as alive",
        |s, at| make(s, at, Broken::Death),
        &["goes_to_living_backend", "shares_follow_weights"],
    ),
    (
        "slots dealt out in turn",
        |s, at| make(s, at, Broken::Disruption),
        &["disruption_is_bounded", "shares_follow_weights"],
    ),
    ("boxes of a group hash in different ways", |s, at| make(s, at, Broken::Hash), &["flow_keeps_backend"]),
];
