//! The product's L4 rules as one box: Maglev tables and slots of `sluice-core`, hashes, slot words and flow
//! entries of `sluice-abi`.
//!
//! The verdict is put together here from those parts, in the order that the abi documents: slot, then, only
//! while the slot has a history, flow entry, then previous or current owner.

use super::frame::{VIP_PORT, vip_address};
use super::rules::{Row, Rules, Verdict};
use super::scenario::{Room, Scenario};
use crate::queue::Tick;
use sluice_abi::SLOTS;
use sluice_abi::flow::{Entry, idle_units, units};
use sluice_abi::hash::{bucket_of, flow_hash4, flow_hash6, slot_of, vip_seed};
use sluice_abi::layout::{Bucket, proto};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::slot::Slot;
use sluice_core::l4::maglev::{Member, owners};
use sluice_core::l4::slots::next_slots;

/// Buckets of a table that no run fills.
const AMPLE_BUCKETS: usize = 1 << 12;

/// A box.
pub struct Model {
    v6: bool,
    slots: Vec<Slot>,
    rows: Vec<Row>,
    buckets: Vec<Bucket>,
    idle_units: u32,
    seeds: [u64; 2],
}

/// What a frame says.
struct Seen {
    hash: u64,
    syn: bool,
    udp: bool,
}

impl Model {
    /// A box with nothing in its tables.
    pub fn new(scenario: &Scenario) -> Self {
        let buckets = if scenario.room == Room::Ample { AMPLE_BUCKETS } else { 1 };
        let seed = |protocol| vip_seed(&vip_address(scenario.v6), VIP_PORT.to_be(), protocol, 0);
        Self {
            v6: scenario.v6,
            slots: vec![Slot::settled(0); SLOTS as usize],
            rows: Vec::new(),
            buckets: vec![Bucket::default(); buckets],
            idle_units: idle_units(scenario.flow_idle_ms),
            seeds: [seed(proto::TCP), seed(proto::UDP)],
        }
    }

    /// Mutation: forget every flow.
    pub fn forget_flows(&mut self) {
        self.buckets.fill(Bucket::default());
    }

    /// Mutation: owners by another rule than Maglev's.
    pub fn publish_owners(&mut self, rows: &[Row], owner: impl Fn(u32) -> u16) {
        let owners: Vec<u16> = (0..SLOTS).map(owner).collect();
        self.slots = next_slots(&self.slots, &owners);
        self.rows = rows.to_vec();
    }

    fn read(&self, frame: &[u8]) -> Seen {
        let (protocol, ports) = if self.v6 { (frame[20], 54) } else { (frame[23], 34) };
        let udp = protocol == proto::UDP;
        let seed = self.seeds[usize::from(udp)];
        let sport = u16::from_le_bytes([frame[ports], frame[ports + 1]]);
        let word = |at: usize| {
            let bytes: [u8; 8] = frame[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let hash = if self.v6 {
            flow_hash6(seed, word(22), word(30), sport)
        } else {
            flow_hash4(seed, word(26) as u32, sport)
        };
        Seen { hash, syn: !udp && frame[ports + 13] & 0x12 == 0x02, udp }
    }

    fn alive(&self, id: u16) -> bool {
        self.rows.iter().any(|r| r.id == id && r.is_alive())
    }

    fn bucket(&mut self, hash: u64) -> &mut [u64] {
        let at = bucket_of(hash, self.buckets.len() as u32 - 1) as usize;
        &mut self.buckets[at].entries
    }

    /// Make an entry: a free or dead place, then the oldest that never talked. `None`: all talk.
    fn insert(&mut self, entry: Entry, hash: u64, now: u64) -> Option<bool> {
        let idle = self.idle_units;
        let bucket = self.bucket(hash);
        let dead = |e: &u64| Entry(*e).is_free() || Entry(*e).age(now) > idle;
        if let Some(place) = bucket.iter_mut().find(|e| dead(e)) {
            *place = entry.0;
            return Some(false);
        }
        let silent =
            bucket.iter_mut().filter(|e| !Entry(**e).confirmed()).max_by_key(|e| Entry(**e).age(now))?;
        *silent = entry.0;
        Some(true)
    }

    fn with_history(&mut self, now: u64, seen: &Seen, slot: Slot) -> Verdict {
        let hash = seen.hash;
        let idle = self.idle_units;
        let live = |e: &u64| Entry(*e).matches(hash) && Entry(*e).age(now) <= idle;
        let held = self.bucket(hash).iter().copied().find(|e| live(e)).map(Entry);
        if let Some(entry) = held {
            let (backend, event) = if self.alive(entry.backend()) {
                (entry.backend(), Event::FlowHit)
            } else {
                (slot.current(), Event::FlowRehomed)
            };
            // A slot without owner makes no entry: its flow may find its backend alive again.
            if !self.alive(backend) {
                return Verdict::Dropped(DropReason::NoBackend);
            }
            let next = Entry::new(hash, backend, now).touched(now);
            self.bucket(hash).iter_mut().filter(|e| live(e)).for_each(|e| *e = next.0);
            return self.to(backend, Some(event));
        }
        if !slot.window_open() {
            return self.to(slot.current(), None);
        }
        let (backend, event) = if seen.syn || !self.alive(slot.previous()) {
            (slot.current(), if seen.syn { Event::FlowNew } else { Event::FlowRehomed })
        } else {
            (slot.previous(), Event::FlowKept)
        };
        if !self.alive(backend) {
            return Verdict::Dropped(DropReason::NoBackend);
        }
        match self.insert(Entry::new(hash, backend, now), hash, now) {
            Some(false) => self.to(backend, Some(event)),
            Some(true) => self.to(backend, Some(Event::FlowEvicted)),
            None if seen.syn && !seen.udp => Verdict::Dropped(DropReason::FlowTableFull),
            None => self.to(backend, Some(Event::FlowUntracked)),
        }
    }

    fn to(&self, backend: u16, event: Option<Event>) -> Verdict {
        if self.alive(backend) {
            Verdict::To { backend, event }
        } else {
            Verdict::Dropped(DropReason::NoBackend)
        }
    }
}

impl Rules for Model {
    fn publish(&mut self, rows: &[Row]) {
        let names: Vec<String> = rows.iter().map(|r| format!("node{}", r.id)).collect();
        let members: Vec<Member<'_>> =
            rows.iter().zip(&names).map(|(r, name)| Member { name, weight: r.share(), id: r.id }).collect();
        self.slots = next_slots(&self.slots, &owners(&members));
        self.rows = rows.to_vec();
    }

    fn close_windows(&mut self, _now: Tick) {
        self.slots.iter_mut().for_each(|slot| *slot = slot.closed());
    }

    fn decide(&mut self, now: Tick, frame: &[u8]) -> Verdict {
        let seen = self.read(frame);
        let slot = self.slots[slot_of(seen.hash) as usize];
        if slot.previous() == 0 {
            return self.to(slot.current(), None);
        }
        self.with_history(units(now * 1_000_000), &seen, slot)
    }

    fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn slot_of(&self, frame: &[u8]) -> u32 {
        slot_of(self.read(frame).hash)
    }
}
