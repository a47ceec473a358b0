//! Reading the maps back: state, counters, and where a packet would go.

use crate::balancer::{Balancer, ROW_WORDS};
use crate::error::{Error, Result, map_error};
use crate::kernel::values::backend_row;
use crate::options::{Tracking, VipOptions};
use crate::sweep::now_units;
use crate::tables::addr_bytes;
use crate::types::{
    BackendSpec, Counters, FiveTuple, Link, Mode, State, Trace, TraceEntry, Traffic, VipKey, VipSpec,
    VipState,
};
use sluice_abi::BUCKET_ENTRIES;
use sluice_abi::flow::Entry;
use sluice_abi::hash::{bucket_of, flow_hash4, flow_hash6, slot_of};
use sluice_abi::layout::{BackendValue, VipValue, backend_flag, map, mode};
use sluice_abi::reason::{DROP_REASONS, DropReason, EVENTS, Event};
use sluice_abi::slot::{ASK, Slot};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

impl Balancer {
    /// Everything callers put into the maps.
    pub fn state(&mut self) -> Result<State> {
        let mut state = State::default();
        for (key, row) in self.vips.by_key() {
            let spec = self.spec_of(key, &row)?;
            let slots = match spec.mode {
                Mode::Local => Vec::new(),
                _ => self.slots_of(row.id)?.iter().map(|w| Slot(w.load(Ordering::Acquire))).collect(),
            };
            state.vips.push(VipState { spec, id: row.id, slots });
        }
        for id in 1..self.config.backends.min(u32::from(u16::MAX)) as u16 {
            state.backends.extend(self.backend(id)?);
        }
        Ok(state)
    }

    fn spec_of(&self, key: VipKey, row: &VipValue) -> Result<VipSpec> {
        let mode = if row.mode == mode::NAT {
            let sources = self.nat_sources_of(row.id, key.addr.is_ipv4())?;
            Mode::Nat { backend_port: u16::from_be(row.port_be), sources }
        } else {
            Mode::from_row(row).ok_or_else(|| Error::OutOfRange {
                what: "mode of a VIP in the maps",
                value: row.mode.to_string(),
            })?
        };
        Ok(VipSpec { key, mode, flow_idle_ms: row.flow_idle_ms, options: VipOptions::read(row) })
    }

    /// A backend's row.
    pub fn backend(&self, id: u16) -> Result<Option<BackendSpec>> {
        let place = self.backend_place(id)?;
        let words: [u64; ROW_WORDS] = std::array::from_fn(|i| place[i].load(Ordering::Acquire));
        Ok(backend_spec(id, &backend_row(words)))
    }

    /// Counters, summed over processors.
    pub fn counters(&self) -> Result<Counters> {
        let mut counters = Counters::default();
        let rows = self.vips.by_key();
        let ids = rows.iter().map(|(key, row)| (Some(*key), row.id)).chain([(None, 0)]);
        for (key, id) in ids {
            let cpus = self.drops.get(&id, 0).map_err(map_error("read", map::DROPS))?;
            for n in 0..DROP_REASONS {
                let sum = cpus.iter().map(|c| c.0.packets[n]).sum();
                if let (Some(reason), 1..) = (DropReason::from_number(n), sum) {
                    counters.drops.insert((key, reason), sum);
                }
            }
        }
        let cpus = self.events.get(&0, 0).map_err(map_error("read", map::EVENTS))?;
        for n in 0..EVENTS {
            let sum = cpus.iter().map(|c| c.0.packets[n]).sum();
            if let (Some(event), 1..) = (Event::from_number(n), sum) {
                counters.events.insert(event, sum);
            }
        }
        for id in 1..self.config.backends.min(u32::from(u16::MAX)) as u16 {
            let cpus = self.traffic.get(&u32::from(id), 0).map_err(map_error("read", map::TRAFFIC))?;
            let hits: u64 = cpus.iter().map(|c| c.0.flow_hits).sum();
            if hits > 0 {
                *counters.events.entry(Event::FlowHit).or_default() += hits;
            }
            if self.backend(id)?.is_some() {
                let sum = cpus.iter().fold(Traffic::default(), |t, c| Traffic {
                    packets: t.packets + c.0.packets,
                    bytes: t.bytes + c.0.bytes,
                });
                counters.backends.insert(id, sum);
            }
        }
        Ok(counters)
    }

    /// Where the next packet of a flow would go, from the live maps, without changing anything.
    pub fn trace(&self, flow: &FiveTuple) -> Result<Trace> {
        let key = VipKey { addr: flow.dst, port: flow.dport, proto: flow.proto };
        let mut t = Trace {
            vip: None,
            mode: None,
            hash: 0,
            slot: None,
            owners: None,
            entry: None,
            backend: None,
            backend_row: None,
            why: Vec::new(),
        };
        let Some(row) = self.vips.get(&key) else {
            t.why.push(format!("no VIP {key}: passed up to the box's own stack"));
            return Ok(t);
        };
        t.vip = Some(key);
        let mode = self.spec_of(key, &row)?.mode;
        t.mode = Some(mode);
        t.why.push(format!("VIP {key} has id {}", row.id));
        if mode == Mode::Local {
            t.why.push("mode local: passed up to the box's own stack".into());
            return Ok(t);
        }
        t.hash = hash_of(&row, flow)?;
        let n = slot_of(t.hash);
        let slots = self.map_slots(row.id)?;
        let slot = Slot(slots.words()[n as usize].load(Ordering::Acquire));
        (t.slot, t.owners) = (Some(n), Some(slot));
        t.why.push(format!("hash {:#018x} falls on slot {n}", t.hash));
        let owner = self.owner(flow, VipOptions::read(&row).tracking, slot, &mut t)?;
        self.verdict(mode, flow, owner, &mut t)?;
        Ok(t)
    }

    fn owner(&self, flow: &FiveTuple, tracking: Tracking, slot: Slot, t: &mut Trace) -> Result<u16> {
        let alive = |id: u16| -> Result<bool> { Ok(id != 0 && self.backend(id)?.is_some_and(|b| b.alive)) };
        let (current, previous) = (slot.current(), slot.previous());
        let mut decide = |owner: u16, why: String| -> Result<u16> {
            t.why.push(why);
            Ok(owner)
        };
        if tracking == Tracking::Never {
            return decide(current, format!("the VIP keeps no flows: current owner {current}"));
        }
        if previous == 0 && tracking == Tracking::Window {
            return decide(current, format!("the slot is settled: backend {current}, no flow table"));
        }
        let at = bucket_of(t.hash, self.config.flow_buckets - 1) as usize * BUCKET_ENTRIES;
        let bucket = &self.flows.words()[at..at + BUCKET_ENTRIES];
        let entry = bucket.iter().map(|w| Entry(w.load(Ordering::Relaxed))).find(|e| e.matches(t.hash));
        if let Some(e) = entry {
            let backend = e.backend();
            t.entry = Some(TraceEntry { backend, age_units: e.age(now_units()), confirmed: e.confirmed() });
            return if flow.syn {
                decide(current, format!("a SYN starts anew: current owner {current}"))
            } else if alive(backend)? {
                decide(backend, format!("flow entry names backend {backend}"))
            } else {
                let why = format!("backend {backend} of the flow entry is gone: current owner {current}");
                decide(current, why)
            };
        }
        if previous == 0 {
            return decide(current, format!("the slot is settled and gets an entry: backend {current}"));
        }
        if previous == ASK {
            return decide(current, format!("window closed and no flow entry: current owner {current}"));
        }
        if flow.syn {
            return decide(current, format!("window open, a SYN begins with the current owner {current}"));
        }
        if alive(previous)? {
            return decide(previous, format!("window open, not begun here: previous owner {previous}"));
        }
        decide(current, format!("previous owner {previous} is gone: current owner {current}"))
    }

    fn verdict(&self, mode: Mode, flow: &FiveTuple, owner: u16, t: &mut Trace) -> Result<()> {
        let row = if owner == 0 { None } else { self.backend(owner)? };
        let Some(row) = row else {
            t.why.push(format!("backend {owner} is not in the table: dropped, no_backend"));
            return Ok(());
        };
        t.backend_row = Some(row);
        let reachable = row.link.is_some()
            && match (mode, flow.dst) {
                (Mode::Ipip | Mode::Gue { .. }, IpAddr::V4(_)) => row.addr4.is_some() || row.addr6.is_some(),
                (Mode::Nat { .. }, IpAddr::V4(_)) => row.addr4.is_some(),
                (Mode::Ipip | Mode::Gue { .. } | Mode::Nat { .. }, IpAddr::V6(_)) => row.addr6.is_some(),
                _ => true,
            };
        if !reachable {
            t.why.push(format!(
                "backend {owner} has no link or no address for this mode: dropped, backend_unreachable"
            ));
            return Ok(());
        }
        t.backend = Some(owner);
        t.why.push(match mode {
            Mode::L2Direct => format!("destination MAC rewritten to backend {owner}"),
            Mode::Nat { backend_port, .. } => {
                format!(
                    "source and destination rewritten to backend {owner}, port {backend_port}, if it is new"
                )
            }
            Mode::Gue { port } => format!("encapsulated in UDP, port {port}, to backend {owner}"),
            _ => format!("encapsulated to backend {owner}"),
        });
        Ok(())
    }
}

fn backend_spec(id: u16, row: &BackendValue) -> Option<BackendSpec> {
    let has = |flag| row.flags & flag != 0;
    has(backend_flag::PRESENT).then(|| BackendSpec {
        id,
        addr4: has(backend_flag::HAS_V4).then(|| row.addr4.into()),
        addr6: has(backend_flag::HAS_V6).then(|| row.addr6.into()),
        link: has(backend_flag::HAS_LINK).then_some(Link {
            ifindex: row.ifindex,
            dst_mac: row.dst_mac,
            src_mac: row.src_mac,
            mtu: row.mtu,
        }),
        alive: has(backend_flag::ALIVE),
    })
}

fn hash_of(row: &VipValue, flow: &FiveTuple) -> Result<u64> {
    let src = addr_bytes(flow.src);
    let sport = u16::from_le_bytes(flow.sport.to_be_bytes());
    let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|n| src[i + n]));
    match (flow.src, flow.dst) {
        (IpAddr::V4(a), IpAddr::V4(_)) => Ok(flow_hash4(row.seed, u32::from_le_bytes(a.octets()), sport)),
        (IpAddr::V6(_), IpAddr::V6(_)) => Ok(flow_hash6(row.seed, word(0), word(8), sport)),
        _ => Err(Error::OutOfRange {
            what: "address family of the flow",
            value: format!("{} to {}", flow.src, flow.dst),
        }),
    }
}
