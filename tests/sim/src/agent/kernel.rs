//! A node under an agent: the product's fake host, with slots, flows and sudden death added.
//!
//! What outlives an agent lives in [`Kernel`]; the agent holds a [`NodeHost`], a handle that goes dead with
//! it. Slots are words of `sluice-abi`, moved by its own rule; flows talk through them whatever the agent
//! does, and each packet is checked.

use super::book::FLOW_IDLE_MS;
use crate::queue::Tick;
use crate::report::{Check, Counters as Counts, Violation};
use crate::rng::Rng;
use sluice_abi::slot::Slot;
use sluice_agent::host::fake::{FakeHost, Fault};
use sluice_agent::host::{Adoption, Host, HostError, Swept};
use sluice_agent::model::{Observed, Owners};
use sluice_agent::plan::Step;
use sluice_api::check::types::VipAddress;
use sluice_api::proxy_admin::{Answer, Request};
use sluice_loader::{BackendSpec, Counters, FiveTuple, Link, Trace};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

/// An entry of the flow table is freed this long after the idle time: its clock counts in units of 17 s.
const ENTRY_SLACK_MS: u64 = 35_000;

/// Backend ids of a node: so few that they come round within a run.
const BACKEND_IDS: u16 = 24;

/// Ids of a node whose mutation rests none.
const HASTY_IDS: u16 = 8;

type Place = (Option<Ipv4Addr>, Option<Ipv6Addr>);

fn place(row: &BackendSpec) -> Place {
    (row.addr4, row.addr6)
}

/// A flow of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    vip: VipAddress,
    slot: usize,
    id: u16,
    /// Where its packets arrive: the backend itself, whatever its id.
    place: Place,
    entry: bool,
    last_ms: u64,
}

/// A node without its agent.
pub struct Kernel {
    /// Tables, addresses, proxy.
    pub fake: FakeHost,
    slots: BTreeMap<VipAddress, Vec<Slot>>,
    /// Which backend an id meant last.
    places: BTreeMap<u16, Place>,
    flows: BTreeMap<u64, Flow>,
    next_flow: u64,
    rng: Rng,
    now_ms: u64,
    /// Of 1000 steps, how many fail or lose their answer.
    pub fault_per_mille: u64,
    /// Steps until the agent dies in the middle of one.
    pub steps_left: Option<u64>,
    /// The agent's handle is dead.
    pub dead: bool,
    /// Mutation: neither entries nor slots hold a retired id.
    pub hasty_ids: bool,
    /// Mutation: the previous owner of a slot is forgotten at once.
    pub no_windows: bool,
    /// What a checker found inside a call of the agent.
    pub found: Check,
    /// Counts of things of interest.
    pub counts: Counts,
}

impl Kernel {
    /// An empty node.
    pub fn new(rng: Rng) -> Self {
        Self {
            fake: FakeHost::new(),
            slots: BTreeMap::new(),
            places: BTreeMap::new(),
            flows: BTreeMap::new(),
            next_flow: 0,
            rng,
            now_ms: 0,
            fault_per_mille: 0,
            steps_left: None,
            dead: false,
            hasty_ids: false,
            no_windows: false,
            found: Ok(()),
            counts: Counts::default(),
        }
    }

    /// Time passes.
    pub fn set_now(&mut self, now_ms: Tick) {
        self.now_ms = now_ms;
    }

    /// Power is lost: nothing of the kernel survives.
    pub fn lose_power(&mut self) {
        self.fake.reboot();
        self.slots.clear();
        self.flows.clear();
        self.places.clear();
    }

    /// Steps carried out since the node was made, in words.
    pub fn steps(&self) -> &[String] {
        &self.fake.log
    }

    /// A VIP with an open window.
    pub fn unsettled(&self) -> Option<VipAddress> {
        self.slots.iter().find(|(_, slots)| slots.iter().any(|s| s.window_open())).map(|(vip, _)| *vip)
    }

    /// A client begins a flow; gives its number.
    pub fn begin_flow(&mut self, rng: &mut Rng) -> Option<u64> {
        let vips: Vec<VipAddress> = self.slots.keys().copied().collect();
        if vips.is_empty() {
            return None;
        }
        let vip = *rng.pick(&vips);
        let slots = &self.slots[&vip];
        let at = rng.index(slots.len());
        let slot = slots[at];
        let id = slot.current();
        let row = self.fake.state.backends.get(&id)?;
        self.next_flow += 1;
        let entry = slot.window_open();
        let flow = Flow { vip, slot: at, id, place: place(row), entry, last_ms: self.now_ms };
        self.flows.insert(self.next_flow, flow);
        self.note_entries();
        self.counts.add("flows");
        Some(self.next_flow)
    }

    /// A client ends a flow. Its entry, if there is one, stays until it is swept.
    pub fn end_flow(&mut self, number: u64) {
        self.flows.remove(&number);
    }

    /// A packet of a flow; `false` when the flow is over.
    pub fn packet(&mut self, number: u64) -> Result<bool, Violation> {
        let Some(flow) = self.flows.get(&number).cloned() else { return Ok(false) };
        let Some(slots) = self.slots.get(&flow.vip) else {
            self.flows.remove(&number);
            self.counts.add("flows_whose_vip_went");
            return Ok(false);
        };
        let slot = slots[flow.slot];
        let alive = |id: u16| self.fake.state.backends.get(&id).is_some_and(|row| row.alive);
        let (to, entry) = match (flow.entry, slot.window_open()) {
            (true, _) if alive(flow.id) => (flow.id, true),
            (true, _) => (slot.current(), true),
            (false, true) if alive(slot.previous()) => (slot.previous(), true),
            (false, true) => (slot.current(), true),
            (false, false) => (slot.current(), false),
        };
        let rows = &self.fake.state.backends;
        let arrives = rows.get(&to).map(place);
        let silent = self.now_ms - flow.last_ms;
        flow_stays(number, &flow, arrives, rows, silent)?;
        let Some(arrives) = arrives else {
            self.flows.remove(&number);
            self.counts.add("flows_without_backend");
            return Ok(false);
        };
        if arrives != flow.place {
            self.counts.add("flows_whose_backend_went");
        } else if slot.current() != flow.id {
            self.counts.add("flows_kept_on_previous_owner");
        }
        let next = Flow { id: to, place: arrives, entry, last_ms: self.now_ms, ..flow };
        self.flows.insert(number, next);
        self.note_entries();
        Ok(true)
    }

    /// The flow table names the ids of all entries.
    fn note_entries(&mut self) {
        self.fake.flow_ids = self.flows.values().filter(|f| f.entry).map(|f| f.id).collect();
    }

    fn step(&mut self, step: &Step) -> Result<(), HostError> {
        if self.dead {
            return Err(HostError::passing("the agent is dead"));
        }
        let dies = self.steps_left == Some(0);
        self.steps_left = self.steps_left.map(|left| left.saturating_sub(1));
        if dies {
            self.dead = true;
            self.counts.add("crashes_at_a_step");
            if self.rng.chance(500) {
                return Err(HostError::passing("the agent died before the step"));
            }
        }
        let fault = if self.rng.chance(self.fault_per_mille) {
            self.counts.add("steps_failed");
            let error = HostError::passing("a fault of the simulator");
            if self.rng.chance(500) { Fault::Refuse(error) } else { Fault::LoseAnswer(error) }
        } else {
            Fault::None
        };
        let happens = !matches!(fault, Fault::Refuse(_));
        self.fake.faults.push_back(fault);
        if let (Step::PutBackend(row), Ok(())) = (step, &self.found) {
            self.found = self.id_is_free(row);
        }
        let result = self.fake.apply(step);
        if happens {
            self.move_slots(step);
            self.counts.add(name_of(step));
        }
        if dies { Err(HostError::passing("the agent died after the step")) } else { result }
    }

    fn move_slots(&mut self, step: &Step) {
        match step {
            Step::PutBackend(row) => drop(self.places.insert(row.id, place(row))),
            Step::PutVip { vip, goal } => self.set_owners(*vip, &goal.owners),
            Step::SetOwners { vip, owners } => self.set_owners(*vip, owners),
            Step::RemoveVip(vip) => drop(self.slots.remove(vip)),
            Step::CloseBalancer => {
                self.slots.clear();
                self.flows.clear();
            }
            _ => {}
        }
    }

    fn set_owners(&mut self, vip: VipAddress, owners: &Owners) {
        match self.slots.get_mut(&vip) {
            Some(slots) if slots.len() == owners.len() => {
                slots.iter_mut().zip(owners.iter()).for_each(|(slot, owner)| *slot = slot.next(*owner));
            }
            _ => drop(self.slots.insert(vip, owners.iter().map(|id| Slot::settled(*id)).collect())),
        }
        if self.no_windows {
            self.slots.values_mut().flatten().for_each(|slot| *slot = slot.closed());
        }
    }

    /// An id is not given to another backend while a flow or a slot names it.
    fn id_is_free(&self, row: &BackendSpec) -> Check {
        let entry = self.flows.values().find(|f| f.entry && f.id == row.id && f.place != place(row));
        if let Some(flow) = entry {
            return Err(Violation::new(
                "id_not_reused_while_named",
                format!("{row:?} while {flow:?} names it"),
            ));
        }
        let held = self.fake.state.backends.get(&row.id).map(place);
        if held.is_some_and(|held| held != place(row)) {
            return Err(Violation::new(
                "id_not_reused_while_named",
                format!("{row:?} replaces {:?}", self.fake.state.backends[&row.id]),
            ));
        }
        let former = self.places.get(&row.id).copied();
        let named = |slots: &Vec<Slot>| slots.iter().any(|s| s.window_open() && s.previous() == row.id);
        match self.slots.iter().find(|(_, slots)| former.is_some_and(|f| f != place(row)) && named(slots)) {
            None => Ok(()),
            Some((vip, _)) => Err(Violation::new(
                "id_not_reused_while_named",
                format!("{row:?} while slots of {vip} name the former one at {former:?}"),
            )),
        }
    }
}

/// A flow keeps its backend while that lives, and never meets another one under its backend's id.
fn flow_stays(
    number: u64,
    flow: &Flow,
    arrives: Option<Place>,
    rows: &BTreeMap<u16, BackendSpec>,
    silent_ms: u64,
) -> Check {
    let lives = rows.get(&flow.id).is_some_and(|row| row.alive && place(row) == flow.place);
    if arrives == Some(flow.place) || !lives || silent_ms > FLOW_IDLE_MS.0 {
        return Ok(());
    }
    Err(Violation::new(
        "flow_keeps_backend",
        format!("flow {number} {flow:?} arrives at {arrives:?} though its backend lives"),
    ))
}

/// Counter of a step that happened.
fn name_of(step: &Step) -> &'static str {
    match step {
        Step::OpenBalancer => "step_open_balancer",
        Step::CloseBalancer => "step_close_balancer",
        Step::PutBackend(_) => "step_put_backend",
        Step::RemoveBackend(_) => "step_remove_backend",
        Step::PutVip { .. } => "step_put_vip",
        Step::SetOwners { .. } => "step_set_owners",
        Step::RemoveVip(_) => "step_remove_vip",
        Step::SetDecap(_) => "step_set_decap",
        Step::AddAddress { .. } => "step_add_address",
        Step::RemoveAddress(_) => "step_remove_address",
        Step::StartProxy(_) => "step_start_proxy",
        Step::UpgradeProxy(_) => "step_upgrade_proxy",
        Step::ApplyRows { .. } => "step_apply_rows",
        Step::DrainProxy(_) => "step_drain_proxy",
        Step::StopProxy => "step_stop_proxy",
        Step::Withdraw(_) => "step_withdraw",
        Step::Announce(_) => "step_announce",
    }
}

/// The agent's handle of a node.
#[derive(Clone)]
pub struct NodeHost(pub Rc<RefCell<Kernel>>);

impl NodeHost {
    fn alive<T>(&self, call: impl FnOnce(&mut Kernel) -> Result<T, HostError>) -> Result<T, HostError> {
        let mut kernel = self.0.borrow_mut();
        if kernel.dead { Err(HostError::passing("the agent is dead")) } else { call(&mut kernel) }
    }
}

impl Host for NodeHost {
    fn adopt(&mut self) -> Result<Adoption, HostError> {
        self.alive(|k| k.fake.adopt())
    }

    fn observe(&mut self) -> Result<Observed, HostError> {
        self.alive(|k| {
            let mut observed = k.fake.observe()?;
            observed.windows = k
                .slots
                .iter()
                .filter(|(_, s)| s.iter().any(|s| s.window_open()))
                .map(|(vip, _)| *vip)
                .collect();
            Ok(observed)
        })
    }

    fn apply(&mut self, step: &Step) -> Result<(), HostError> {
        self.0.borrow_mut().step(step)
    }

    fn resolve(&mut self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Link> {
        self.0.borrow_mut().fake.resolve(addresses)
    }

    fn close_window(&mut self, vip: VipAddress) -> Result<(), HostError> {
        self.alive(|k| {
            if let Some(slots) = k.slots.get_mut(&vip) {
                slots.iter_mut().for_each(|slot| *slot = slot.closed());
            }
            k.counts.add("windows_closed");
            k.fake.close_window(vip)
        })
    }

    fn sweep(&mut self) -> Result<Swept, HostError> {
        self.alive(|k| {
            let (now, before) = (k.now_ms, k.fake.flow_ids.len());
            for flow in k.flows.values_mut() {
                flow.entry &= now - flow.last_ms <= FLOW_IDLE_MS.1 + ENTRY_SLACK_MS;
            }
            k.note_entries();
            let named: BTreeSet<VipAddress> = k.flows.values().filter(|f| f.entry).map(|f| f.vip).collect();
            let mut asking = 0;
            for (vip, slots) in &mut k.slots {
                for slot in slots.iter_mut().filter(|s| s.previous() != 0 && !s.window_open()) {
                    if named.contains(vip) {
                        asking += 1;
                    } else {
                        *slot = Slot::settled(slot.current());
                    }
                }
            }
            k.counts.add("sweeps");
            let live = k.fake.flow_ids.len();
            Ok(Swept {
                live: live as u64,
                expired: (before - live.min(before)) as u64,
                asking_slots: asking,
                ..Swept::default()
            })
        })
    }

    fn ids_in_use(&mut self) -> Result<BTreeSet<u16>, HostError> {
        self.alive(|k| {
            if k.hasty_ids {
                return Ok(BTreeSet::new());
            }
            // All slots of all VIPs: a bitmap, not a tree.
            let mut seen = vec![false; usize::from(u16::MAX) + 1];
            for slot in k.slots.values().flatten() {
                seen[usize::from(slot.current())] = true;
                seen[usize::from(slot.previous())] = true;
            }
            let mut ids = k.fake.flow_ids.clone();
            ids.extend((1..sluice_abi::slot::ASK).filter(|id| seen[usize::from(*id)]));
            Ok(ids)
        })
    }

    fn backend_id_max(&self) -> u16 {
        // A mutation that gives ids again at once has so few that they come round soon.
        if self.0.borrow().hasty_ids { HASTY_IDS } else { BACKEND_IDS }
    }

    fn counters(&mut self) -> Result<Option<Counters>, HostError> {
        self.alive(|k| k.fake.counters())
    }

    fn trace(&mut self, flow: &FiveTuple) -> Result<Option<Trace>, HostError> {
        self.alive(|k| k.fake.trace(flow))
    }

    fn ask_proxy(&mut self, request: &Request) -> Result<Answer, HostError> {
        self.alive(|k| k.fake.ask_proxy(request))
    }

    fn release(&mut self) -> Vec<HostError> {
        self.0.borrow_mut().fake.release()
    }
}
