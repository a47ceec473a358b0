//! A scenario of the L4 family, drawn from a seed: who balances for whom, in which weather, and what changes
//! when. One tick is one millisecond.

use crate::net::Weather;
use crate::queue::Tick;
use crate::rng::Rng;
use std::fmt;

/// Flows of a run: enough that every backend owns several at once.
const FLOWS: (u64, u64) = (20, 120);

/// Packets of a flow after its first.
const PACKETS: (u64, u64) = (2, 60);

/// Changes of a run: several meet one open window.
const CHANGES: (u64, u64) = (1, 10);

/// Backends at the start.
const BACKENDS: (u64, u64) = (1, 12);

/// A change that an operator, a health check or the network makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A backend that was not there.
    Add {
        /// Its id, never used before.
        id: u16,
        /// Share of new flows.
        weight: u32,
    },
    /// Keeps its flows, takes no new one.
    Drain(u16),
    /// Takes new flows again.
    Undrain(u16),
    /// Gone, with its flows.
    Remove(u16),
    /// Another share of new flows.
    Weight(u16, u32),
    /// Found down by its health check.
    Down(u16),
    /// Found healthy again.
    Up(u16),
    /// A box fails: its flows come to another, which never saw them.
    BoxFails(u32),
    /// The router spreads the flows over the boxes in another way: some come to a box that never saw them.
    Rehash(u64),
}

/// Room of the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// No flow ever lacks an entry.
    Ample,
    /// A few entries for all flows: the full-behaviour is part of the run.
    Tight,
}

/// What a flow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPlan {
    /// UDP, otherwise TCP.
    pub udp: bool,
    /// When its first packet leaves.
    pub begins_at: Tick,
    /// Packets after the first.
    pub packets: u32,
    /// Shortest and longest time between two packets.
    pub gap: (Tick, Tick),
    /// Times that the same addresses and ports are used again after the end.
    pub reuses: u32,
}

/// A whole scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Balancer boxes behind one router that spreads flows over them.
    pub boxes: u32,
    /// IPv6, otherwise IPv4.
    pub v6: bool,
    /// Backends at the start: id and weight.
    pub backends: Vec<(u16, u32)>,
    /// The VIP's promise: a flow silent for less keeps its backend.
    pub flow_idle_ms: u64,
    /// Room of the flow table.
    pub room: Room,
    /// Links between clients, boxes and backends.
    pub weather: Weather,
    /// Longest time from a change to a box's tables.
    pub change_delay: Tick,
    /// The flows.
    pub flows: Vec<FlowPlan>,
    /// The changes, by time.
    pub changes: Vec<(Tick, Change)>,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let backends: Vec<(u16, u32)> =
            (1..=rng.between(BACKENDS.0, BACKENDS.1)).map(|id| (id as u16, draw_weight(rng))).collect();
        let flow_idle_ms = rng.between(1_000, 60_000);
        let length = flow_idle_ms * rng.between(1, 4);
        let boxes = if rng.chance(400) { 2 } else { 1 };
        let mut changes = draw_changes(rng, &backends, length);
        if boxes > 1 {
            changes.extend(draw_rehashes(rng, &changes, length));
            changes.sort_by_key(|(at, _)| *at);
        }
        if boxes > 1 && rng.chance(700) {
            changes.push((rng.below(length), Change::BoxFails(rng.below(2) as u32)));
            changes.sort_by_key(|(at, _)| *at);
        }
        Self {
            boxes,
            v6: rng.chance(300),
            backends,
            flow_idle_ms,
            room: if rng.chance(250) { Room::Tight } else { Room::Ample },
            weather: Weather::draw(rng, 40),
            change_delay: rng.between(0, 300),
            flows: (0..rng.between(FLOWS.0, FLOWS.1)).map(|_| draw_flow(rng, length, flow_idle_ms)).collect(),
            changes,
        }
    }
}

fn draw_weight(rng: &mut Rng) -> u32 {
    // Mostly equal weights, as operators write them; sometimes any.
    if rng.chance(600) { 100 } else { rng.between(1, 1000) as u32 }
}

fn draw_flow(rng: &mut Rng, length: Tick, flow_idle_ms: u64) -> FlowPlan {
    // The longest gap stays below the promise, also when the packet before or after it is late; one flow in
    // twenty breaks that, and may then lose its backend.
    let longest = if rng.chance(50) { flow_idle_ms * 3 } else { (flow_idle_ms / 3).max(100) };
    let low = rng.between(10, longest / 2 + 10);
    FlowPlan {
        udp: rng.chance(300),
        begins_at: rng.below(length),
        packets: rng.between(PACKETS.0, PACKETS.1) as u32,
        gap: (low, rng.between(low, longest.max(low))),
        reuses: if rng.chance(100) { rng.between(1, 3) as u32 } else { 0 },
    }
}

/// Longest time from a change to the re-hash that meets it: while the tables of two boxes differ.
const SOON: Tick = 600;

/// Re-hashes at any time, and some just after a change, while the boxes' tables differ.
fn draw_rehashes(rng: &mut Rng, changes: &[(Tick, Change)], length: Tick) -> Vec<(Tick, Change)> {
    let mut rehashes: Vec<(Tick, Change)> =
        (0..rng.between(0, 3)).map(|n| (rng.below(length), Change::Rehash(n + 1))).collect();
    for (at, _) in changes {
        if rng.chance(400) {
            rehashes.push((at + rng.below(SOON), Change::Rehash(100 + at)));
        }
    }
    rehashes
}

/// What the operator knows of a backend while changes are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Active,
    Draining,
    Down,
}

fn draw_changes(rng: &mut Rng, backends: &[(u16, u32)], length: Tick) -> Vec<(Tick, Change)> {
    let mut times: Vec<Tick> = (0..rng.between(CHANGES.0, CHANGES.1)).map(|_| rng.below(length)).collect();
    times.sort_unstable();
    let mut known: Vec<(u16, Known)> = backends.iter().map(|(id, _)| (*id, Known::Active)).collect();
    let mut next_id = backends.len() as u16 + 1;
    times.into_iter().map(|at| (at, draw_change(rng, &mut known, &mut next_id))).collect()
}

fn draw_change(rng: &mut Rng, known: &mut Vec<(u16, Known)>, next_id: &mut u16) -> Change {
    if known.is_empty() || rng.chance(250) {
        let id = *next_id;
        *next_id += 1;
        known.push((id, Known::Active));
        return Change::Add { id, weight: draw_weight(rng) };
    }
    let at = rng.index(known.len());
    let (id, state) = known[at];
    match (state, rng.below(4)) {
        (_, 0) => {
            known.remove(at);
            Change::Remove(id)
        }
        (Known::Active, 1) => {
            known[at].1 = Known::Draining;
            Change::Drain(id)
        }
        (Known::Active, 2) => {
            known[at].1 = Known::Down;
            Change::Down(id)
        }
        (Known::Active, _) => Change::Weight(id, if rng.chance(100) { 0 } else { draw_weight(rng) }),
        (Known::Draining, _) => {
            known[at].1 = Known::Active;
            Change::Undrain(id)
        }
        (Known::Down, _) => {
            known[at].1 = Known::Active;
            Change::Up(id)
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} boxes, IPv{}, backends {:?}, flow_idle {} ms, {:?} flow table, {:?}, {} flows, changes within {} ms: \
             {:?}",
            self.boxes,
            if self.v6 { 6 } else { 4 },
            self.backends,
            self.flow_idle_ms,
            self.room,
            self.weather,
            self.flows.len(),
            self.change_delay,
            self.changes
        )
    }
}
