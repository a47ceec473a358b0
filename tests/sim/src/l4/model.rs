//! The product's L4 rules as one box: Maglev tables and slots of `sluice-core`, and its model of the XDP
//! program, [`decide`], over the layouts of `sluice-abi`.
//!
//! The box keeps the rows and the clock. Which backend a frame went to is read from the frame that came out:
//! every backend has a MAC of its own. What the flow table had to do with it is read from the table before
//! and after.

use super::frame::{VIP_PORT, vip_address};
use super::rules::{Row, Rules, Verdict};
use super::scenario::{Room, Scenario};
use crate::queue::Tick;
use sluice_abi::SLOTS;
use sluice_abi::flow::{idle_units, units};
use sluice_abi::hash::{flow_hash4, flow_hash6, slot_of, vip_seed};
use sluice_abi::layout::{BackendValue, VipKey4, VipKey6, VipValue, backend_flag, mode, proto};
use sluice_abi::reason::Event;
use sluice_abi::slot::{ASK, Slot};
use sluice_core::l4::flows::FlowTable;
use sluice_core::l4::maglev::{Member, owners};
use sluice_core::l4::packet::{self, Tables, decide};
use sluice_core::l4::slots::next_slots;
use std::collections::BTreeMap;

/// Buckets of a table that no run fills: eight entries each for some hundred flows.
const AMPLE_BUCKETS: u32 = 1 << 9;
/// The VIP of TCP and the one of UDP share one table of slots: their pool is the same.
const VIP: u32 = 1;
const DEVICE: u32 = 1;
const MTU: u16 = 1500;

/// A box.
pub struct Model {
    v6: bool,
    tables: Tables,
    flows: FlowTable,
    seeds: [u64; 2],
    /// Some slot has a history: there may be entries.
    asks: bool,
}

/// What a frame says.
struct Seen {
    hash: u64,
    syn: bool,
}

impl Model {
    /// A box with nothing in its tables.
    pub fn new(scenario: &Scenario) -> Self {
        Self::with_secret(scenario, 0)
    }

    /// A box of the group with this secret.
    pub fn with_secret(scenario: &Scenario, secret: u64) -> Self {
        let buckets = if scenario.room == Room::Ample { AMPLE_BUCKETS } else { 1 };
        let addr = vip_address(scenario.v6);
        let port_be = VIP_PORT.to_be();
        let seed = |protocol| vip_seed(&addr, port_be, protocol, secret);
        let mut tables = Tables { ifindex: DEVICE, ..Tables::default() };
        tables.slots.insert(VIP, vec![Slot::settled(0); SLOTS as usize]);
        for protocol in [proto::TCP, proto::UDP] {
            let value = VipValue {
                id: VIP,
                mode: mode::L2_DIRECT,
                seed: seed(protocol),
                flow_idle_ms: scenario.flow_idle_ms as u32,
                ..VipValue::default()
            };
            if scenario.v6 {
                tables.vips6.insert(VipKey6 { addr, port_be, proto: protocol, pad: 0 }, value);
            } else {
                let addr = [addr[0], addr[1], addr[2], addr[3]];
                tables.vips4.insert(VipKey4 { addr, port_be, proto: protocol, pad: 0 }, value);
            }
        }
        Self {
            v6: scenario.v6,
            tables,
            flows: FlowTable::new(buckets, idle_units(scenario.flow_idle_ms)),
            seeds: [seed(proto::TCP), seed(proto::UDP)],
            asks: false,
        }
    }

    /// Mutation: forget every flow.
    pub fn forget_flows(&mut self) {
        self.flows.clear();
    }

    /// Mutation: owners by another rule than Maglev's.
    pub fn publish_owners(&mut self, rows: &[Row], owner: impl Fn(u32) -> u16) {
        let owners: Vec<u16> = (0..SLOTS).map(owner).collect();
        self.take(rows, &owners);
    }

    fn take(&mut self, rows: &[Row], owners: &[u16]) {
        let slots = self.tables.slots.entry(VIP).or_default();
        *slots = next_slots(slots, owners);
        self.asks = true;
        self.tables.backends = rows.iter().map(|row| (row.id, value(row))).collect();
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
        Seen { hash, syn: !udp && frame[ports + 13] & 0x12 == 0x02 }
    }

    /// What the flow table had to do with a packet, from its entry and the entries of its bucket before and
    /// after.
    fn event(&self, seen: &Seen, slot: Slot, before: (Option<u16>, usize)) -> Option<Event> {
        let after = (self.flows.entry(seen.hash).map(|e| e.backend()), self.flows.crowd(seen.hash));
        match (before.0, after.0) {
            (Some(was), Some(is)) if was == is => Some(Event::FlowHit),
            (Some(_), _) if seen.syn => Some(Event::FlowNew),
            (Some(_), _) => Some(Event::FlowRehomed),
            (None, Some(_)) if after.1 == before.1 => Some(Event::FlowEvicted),
            (None, Some(is)) if is == slot.current() => Some(Event::FlowNew),
            (None, Some(_)) => Some(Event::FlowKept),
            (None, None) if slot.window_open() => Some(Event::FlowUntracked),
            (None, None) => None,
        }
    }
}

/// A backend's MAC carries its id.
fn mac(id: u16) -> [u8; 6] {
    let [high, low] = id.to_be_bytes();
    [2, 0, 0, 1, high, low]
}

fn value(row: &Row) -> BackendValue {
    let alive = if row.is_alive() { backend_flag::ALIVE } else { 0 };
    BackendValue {
        dst_mac: mac(row.id),
        flags: backend_flag::PRESENT | backend_flag::HAS_LINK | alive,
        mtu: MTU,
        ifindex: DEVICE,
        ..BackendValue::default()
    }
}

impl Rules for Model {
    fn publish(&mut self, rows: &[Row]) {
        let names: Vec<String> = rows.iter().map(|r| format!("node{}", r.id)).collect();
        let members: Vec<Member<'_>> =
            rows.iter().zip(&names).map(|(r, name)| Member { name, weight: r.share(), id: r.id }).collect();
        self.take(rows, &owners(&members));
    }

    fn close_windows(&mut self, _now: Tick) {
        self.tables.slots.values_mut().flatten().for_each(|slot| *slot = slot.closed());
    }

    fn sweep(&mut self, now: Tick) {
        if !self.asks {
            return;
        }
        self.flows.sweep(units(now * 1_000_000));
        let mut named: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        for entry in self.flows.entries().filter(|e| !e.is_free()) {
            named.entry(entry.slot()).or_default().push(entry.backend());
        }
        self.asks = false;
        for (n, slot) in (0..).zip(self.tables.slots.values_mut().flatten()) {
            let agrees = || named.get(&n).is_none_or(|ids| ids.iter().all(|id| *id == slot.current()));
            if slot.previous() == ASK && agrees() {
                *slot = Slot::settled(slot.current());
            }
            self.asks |= slot.previous() != 0;
        }
    }

    fn decide(&mut self, now: Tick, frame: &[u8]) -> Verdict {
        let seen = self.read(frame);
        let slot = self.slots()[slot_of(seen.hash) as usize];
        let before = (self.flows.entry(seen.hash).map(|e| e.backend()), self.flows.crowd(seen.hash));
        match decide(&self.tables, &mut self.flows, units(now * 1_000_000), frame) {
            // Clients send neither ICMP nor packets larger than a link.
            packet::Verdict::Pass | packet::Verdict::Answer(..) => Verdict::Passed,
            packet::Verdict::Drop(_, reason) => Verdict::Dropped(reason),
            packet::Verdict::Transmit(out) | packet::Verdict::Redirect(_, out) => {
                let backend = u16::from_be_bytes([out[4], out[5]]);
                Verdict::To { backend, event: self.event(&seen, slot, before) }
            }
        }
    }

    fn slots(&self) -> &[Slot] {
        &self.tables.slots[&VIP]
    }

    fn slot_of(&self, frame: &[u8]) -> u32 {
        slot_of(self.read(frame).hash)
    }
}
