//! Clients, boxes and backends of one run.
//!
//! ```text
//! client --SYN, data, datagrams--> router --ECMP--> box (rules under test) --> backend
//!    ^------------------- SYN-ACK, reset: straight back --------------------------+
//! ```
//! A flow's backend is the one whose SYN-ACK its client took, or that of its first datagram. It is checked
//! where the decision falls: at the box, against the rows that box holds.

use super::checks;
use super::frame::{Kind, frame};
use super::rules::{Row, RowState, Rules, Verdict};
use super::scenario::{Change, Room, Scenario};
use crate::net::Net;
use crate::queue::{Queue, Tick};
use crate::report::{Check, Counters};
use crate::rng::Rng;
use crate::trace::Trace;
use sluice_abi::hash::mix64;
use sluice_abi::reason::{DropReason, Event as FlowEvent};
use sluice_abi::slot::Slot;
use std::collections::{BTreeMap, BTreeSet};

/// A client repeats its SYN after this, as Linux does (RFC 6298: 1 s).
const SYN_RETRY: Tick = 1_000;

/// SYNs of one flow before its client gives up.
const SYN_TRIES: u32 = 5;

/// Silence beyond the VIP's promise before the addresses and ports of an ended flow are used again: TIME-WAIT.
const TIME_WAIT: Tick = 60_000;

/// Between two sweeps of a box's flow table, as its agent does them.
const SWEEP: Tick = 5_000;

/// Node numbers of the network.
const CLIENT: u32 = 0;
const fn box_node(at: u32) -> u32 {
    1 + at
}
const fn backend_node(id: u16) -> u32 {
    1_000 + id as u32
}

/// Reasons for which the stated rules let a flow change its backend while that lives. Each is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excuses {
    /// It was silent for longer than the VIP's `flow_idle_ms`.
    pub silent: bool,
    /// It came to another box, whose table cannot know its backend: it began inside a window, or it outlived one,
    /// so that an entry of the first box alone keeps it.
    pub moved_box: bool,
    /// Its own SYN was repeated or late and met another owner than the first.
    pub syn_raced: bool,
    /// The flow table had no room for it.
    pub no_room: bool,
    /// It sent while its backend was down and no other was up: nobody is remembered for it.
    pub nobody_up: bool,
}

impl Excuses {
    /// At least one.
    pub fn any(self) -> bool {
        self.silent || self.moved_box || self.syn_raced || self.no_room || self.nobody_up
    }
}

/// A packet of a client.
#[derive(Clone, Copy, Debug)]
struct Packet {
    flow: usize,
    incarnation: u32,
    kind: Kind,
}

#[derive(Debug)]
enum Event {
    Begin { flow: usize },
    Next { flow: usize, incarnation: u32 },
    Retry { flow: usize, incarnation: u32 },
    AtBox { at: usize, packet: Packet },
    AtBackend { id: u16, packet: Packet },
    AtClient { flow: usize, incarnation: u32, from: u16, reset: bool },
    Change(Change),
    Apply { at: usize, rows: Vec<Row>, number: u64 },
    CloseWindows { at: usize, number: u64 },
}

/// Where a flow stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Opening,
    Open,
    Done,
}

struct Flow {
    phase: Phase,
    incarnation: u32,
    owner: Option<u16>,
    left: u32,
    syns: u32,
    /// Verdict of the first SYN of this incarnation.
    first_syn: Option<u16>,
    excuses: Excuses,
    /// When a box last saw it, and which.
    seen: Option<(Tick, usize)>,
    /// Its slot had an open window when it began.
    began_in_window: bool,
    /// A window closed while its slot named another owner: it lives on by an entry, which one box has.
    outlived_window: bool,
}

struct Balancer {
    rules: Box<dyn Rules>,
    rows: Vec<Row>,
    up: bool,
    number: u64,
    evicted: bool,
    swept_at: Tick,
}

/// Makes the rules of a numbered box from the scenario.
pub type MakeRules = fn(&Scenario, usize) -> Box<dyn Rules>;

/// One run.
pub struct World {
    scenario: Scenario,
    rng: Rng,
    queue: Queue<Event>,
    net: Net,
    trace: Trace,
    counters: Counters,
    flows: Vec<Flow>,
    boxes: Vec<Balancer>,
    rows: Vec<Row>,
    number: u64,
    /// How the router spreads flows.
    salt: u64,
    connections: BTreeSet<(u16, usize, u32)>,
}

impl World {
    /// The world of a scenario before its first event.
    pub fn new(scenario: Scenario, rng: Rng, make: MakeRules) -> Self {
        let rows: Vec<Row> = scenario
            .backends
            .iter()
            .map(|(id, weight)| Row { id: *id, weight: *weight, state: RowState::Active })
            .collect();
        let boxes = (0..scenario.boxes)
            .map(|at| {
                let mut rules = make(&scenario, at as usize);
                rules.publish(&rows);
                rules.close_windows(0);
                Balancer { rules, rows: rows.clone(), up: true, number: 0, evicted: false, swept_at: 0 }
            })
            .collect();
        let flows = scenario
            .flows
            .iter()
            .map(|plan| Flow {
                phase: Phase::Idle,
                incarnation: 0,
                owner: None,
                left: plan.packets,
                syns: 0,
                first_syn: None,
                excuses: Excuses::default(),
                seen: None,
                began_in_window: false,
                outlived_window: false,
            })
            .collect();
        let mut queue = Queue::default();
        for (flow, plan) in scenario.flows.iter().enumerate() {
            queue.at(plan.begins_at, Event::Begin { flow });
        }
        for (at, change) in &scenario.changes {
            queue.at(*at, Event::Change(*change));
        }
        let net = Net::new(scenario.weather);
        Self {
            scenario,
            rng,
            queue,
            net,
            trace: Trace::default(),
            counters: Counters::default(),
            flows,
            boxes,
            rows,
            number: 0,
            salt: 0,
            connections: BTreeSet::new(),
        }
    }

    /// Play every event, then look at what is left.
    pub fn play(mut self) -> (Check, Counters, Trace) {
        let mut outcome = Ok(());
        while let Some(event) = self.queue.take() {
            outcome = self.on(event);
            if outcome.is_err() {
                break;
            }
        }
        if outcome.is_ok() {
            outcome = self.converged();
        }
        (outcome, self.counters, self.trace)
    }

    fn on(&mut self, event: Event) -> Check {
        match event {
            Event::Begin { flow } => self.begin(flow),
            Event::Next { flow, incarnation } => self.next(flow, incarnation),
            Event::Retry { flow, incarnation } => self.retry(flow, incarnation),
            Event::AtBox { at, packet } => return self.at_box(at, packet),
            Event::AtBackend { id, packet } => self.at_backend(id, packet),
            Event::AtClient { flow, incarnation, from, reset } => {
                self.at_client(flow, incarnation, from, reset);
            }
            Event::Change(change) => self.change(change),
            Event::Apply { at, rows, number } => return self.apply(at, rows, number),
            Event::CloseWindows { at, number } => self.close_windows(at, number),
        }
        Ok(())
    }

    fn begin(&mut self, flow: usize) {
        let plan = self.scenario.flows[flow];
        let state = &mut self.flows[flow];
        state.incarnation += 1;
        state.phase = if plan.udp { Phase::Open } else { Phase::Opening };
        state.owner = None;
        state.left = plan.packets;
        state.syns = 0;
        state.first_syn = None;
        state.excuses = Excuses::default();
        state.seen = None;
        state.began_in_window = false;
        state.outlived_window = false;
        let incarnation = state.incarnation;
        self.counters.add(if plan.udp { "flows_udp" } else { "flows_tcp" });
        if plan.udp {
            self.send(flow, Kind::Datagram);
            self.plan_next(flow);
        } else {
            self.send_syn(flow, incarnation);
        }
    }

    fn send_syn(&mut self, flow: usize, incarnation: u32) {
        self.flows[flow].syns += 1;
        self.send(flow, Kind::Syn);
        self.queue.after(SYN_RETRY, Event::Retry { flow, incarnation });
    }

    fn retry(&mut self, flow: usize, incarnation: u32) {
        let state = &self.flows[flow];
        if state.incarnation != incarnation || state.phase != Phase::Opening {
            return;
        }
        if state.syns < SYN_TRIES {
            self.send_syn(flow, incarnation);
        } else {
            self.counters.add("flows_never_opened");
            self.end(flow);
        }
    }

    fn plan_next(&mut self, flow: usize) {
        let (low, high) = self.scenario.flows[flow].gap;
        let gap = self.rng.between(low, high);
        let incarnation = self.flows[flow].incarnation;
        self.queue.after(gap, Event::Next { flow, incarnation });
    }

    fn next(&mut self, flow: usize, incarnation: u32) {
        let udp = self.scenario.flows[flow].udp;
        let state = &mut self.flows[flow];
        if state.incarnation != incarnation || state.phase != Phase::Open {
            return;
        }
        if state.left == 0 {
            if !udp {
                self.send(flow, Kind::Fin);
            }
            self.counters.add("flows_whole");
            self.end(flow);
            return;
        }
        state.left -= 1;
        self.send(flow, if udp { Kind::Datagram } else { Kind::Data });
        self.plan_next(flow);
    }

    fn end(&mut self, flow: usize) {
        self.flows[flow].phase = Phase::Done;
        if self.flows[flow].incarnation <= self.scenario.flows[flow].reuses {
            // Not before the table has forgotten the old one: its clock counts in units of 17 s.
            let rest = TIME_WAIT + self.scenario.flow_idle_ms;
            self.queue.after(rest + self.rng.below(1_000), Event::Begin { flow });
        }
    }

    /// The router: flows are spread over the boxes that are up.
    fn route(&self, flow: usize) -> Option<usize> {
        let up: Vec<usize> = (0..self.boxes.len()).filter(|at| self.boxes[*at].up).collect();
        (!up.is_empty()).then(|| up[(mix64(flow as u64 ^ self.salt << 32) % up.len() as u64) as usize])
    }

    fn send(&mut self, flow: usize, kind: Kind) {
        let Some(at) = self.route(flow) else { return };
        let packet = Packet { flow, incarnation: self.flows[flow].incarnation, kind };
        for delay in self.net.carry(&mut self.rng, CLIENT, box_node(at as u32)) {
            self.queue.after(delay, Event::AtBox { at, packet });
        }
    }

    fn at_box(&mut self, at: usize, packet: Packet) -> Check {
        if !self.boxes[at].up {
            self.counters.add("packets_to_failed_box");
            return Ok(());
        }
        let now = self.queue.now();
        if now - self.boxes[at].swept_at >= SWEEP {
            self.boxes[at].swept_at = now;
            self.boxes[at].rules.sweep(now);
        }
        let bytes = frame(self.scenario.v6, packet.flow as u32, packet.kind);
        let current = packet.incarnation == self.flows[packet.flow].incarnation;
        if current {
            self.excuse(at, packet, &bytes);
        }
        let slot = self.slot(at, &bytes);
        let verdict = self.boxes[at].rules.decide(now, &bytes);
        self.trace.note(
            now,
            format_args!(
                "box {at} flow {}.{} {:?} slot {}<-{} {verdict:?}",
                packet.flow,
                packet.incarnation,
                packet.kind,
                slot.current(),
                slot.previous()
            ),
        );
        self.counters.add(if slot.window_open() { "packets_in_window" } else { "packets_settled" });
        let name = format!("flow {}.{} {:?}", packet.flow, packet.incarnation, packet.kind);
        match verdict {
            Verdict::To { backend, event } => {
                self.note_event(at, packet.flow, event);
                checks::goes_to_living_backend(&name, backend, &self.boxes[at].rows)?;
                if current {
                    self.check_owner(at, packet, backend, &name, slot.window_open())?;
                }
                for delay in self.net.carry(&mut self.rng, box_node(at as u32), backend_node(backend)) {
                    self.queue.after(delay, Event::AtBackend { id: backend, packet });
                }
                Ok(())
            }
            Verdict::Dropped(reason) => {
                self.counters.add("packets_dropped");
                if reason == DropReason::FlowTableFull {
                    self.counters.add("flow_table_full");
                }
                if reason == DropReason::NoBackend && current {
                    let rows = &self.boxes[at].rows;
                    let flow = &mut self.flows[packet.flow];
                    let down = flow.owner.is_some_and(|o| !rows.iter().any(|r| r.id == o && r.is_alive()));
                    if down && !flow.excuses.nobody_up {
                        flow.excuses.nobody_up = true;
                        self.counters.add("excuse_nobody_up");
                    }
                }
                let tight = self.scenario.room == Room::Tight;
                checks::drops_have_a_cause(&name, reason, &self.boxes[at].rows, tight)
            }
            Verdict::Passed => {
                checks::drops_have_a_cause(&name, DropReason::NoTable, &self.boxes[at].rows, false)
            }
        }
    }

    /// Note what lets this flow move, before the box decides.
    fn excuse(&mut self, at: usize, packet: Packet, bytes: &[u8]) {
        let now = self.queue.now();
        let slot = self.slot(at, bytes);
        let flow = &mut self.flows[packet.flow];
        let seen = flow.seen.replace((now, at));
        if seen.is_none() || packet.kind == Kind::Syn {
            flow.began_in_window |= slot.window_open();
        }
        let Some((last, last_at)) = seen else { return };
        if now - last > self.scenario.flow_idle_ms && !flow.excuses.silent {
            flow.excuses.silent = true;
            self.counters.add("excuse_silent");
        }
        let Some(owner) = flow.owner.filter(|_| last_at != at && !flow.excuses.moved_box) else { return };
        // Without an entry the box goes by the slot.
        let named = if slot.window_open() { slot.previous() } else { slot.current() };
        let what = if owner == named {
            if slot.window_open() { "flows_moved_box_in_window_and_kept" } else { "flows_moved_box_and_kept" }
        } else {
            flow.excuses.moved_box = true;
            if flow.began_in_window {
                "excuse_moved_box_began_in_window"
            } else if flow.outlived_window {
                "excuse_moved_box_outlived_window"
            } else {
                // Older than the window, and yet the slot's previous owner is not its own: nothing excuses that.
                flow.excuses.moved_box = false;
                "flows_moved_box_unexplained"
            }
        };
        self.counters.add(what);
    }

    /// The slot of a frame at a box.
    fn slot(&self, at: usize, bytes: &[u8]) -> Slot {
        let rules = &self.boxes[at].rules;
        rules.slots()[rules.slot_of(bytes) as usize]
    }

    fn note_event(&mut self, at: usize, flow: usize, event: Option<FlowEvent>) {
        match event {
            Some(FlowEvent::FlowHit) => self.counters.add("flow_hit"),
            Some(FlowEvent::FlowKept) => self.counters.add("flow_kept"),
            Some(FlowEvent::FlowNew) => self.counters.add("flow_new"),
            Some(FlowEvent::FlowRehomed) => self.counters.add("flow_rehomed"),
            Some(FlowEvent::FlowEvicted) => {
                self.boxes[at].evicted = true;
                self.counters.add("flow_evicted");
            }
            Some(FlowEvent::FlowUntracked) => {
                self.flows[flow].excuses.no_room = true;
                self.counters.add("flow_untracked");
            }
            _ => {}
        }
    }

    fn check_owner(&mut self, at: usize, packet: Packet, went_to: u16, name: &str, window: bool) -> Check {
        let rows = &self.boxes[at].rows;
        let flow = &mut self.flows[packet.flow];
        // An entry gave way to another's: the table does not say whose, so any flow of a tight table may miss.
        flow.excuses.no_room |= self.scenario.room == Room::Tight && self.boxes[at].evicted;
        if packet.kind == Kind::Syn {
            match flow.first_syn {
                None => {
                    flow.first_syn = Some(went_to);
                    if packet.incarnation == 1 {
                        checks::draining_gets_no_new_flow(name, went_to, rows)?;
                    }
                }
                Some(first) if first != went_to && !flow.excuses.syn_raced => {
                    flow.excuses.syn_raced = true;
                    self.counters.add("excuse_syn_raced");
                }
                Some(_) => {}
            }
            return Ok(());
        }
        let Some(owner) = flow.owner else {
            if packet.kind == Kind::Datagram {
                flow.owner = Some(went_to);
                let share = rows.iter().find(|r| r.id == went_to).map_or(0, Row::share);
                if share == 0 && window {
                    // A datagram does not say whether it is a flow's first: in the window it may not be.
                    self.counters.add("udp_began_on_previous_owner");
                    return Ok(());
                }
                return checks::draining_gets_no_new_flow(name, went_to, rows);
            }
            return Ok(());
        };
        let excuses = flow.excuses;
        checks::flow_keeps_backend(name, checks::Forwarded { owner, went_to, rows, excuses })?;
        if owner != went_to {
            self.counters.add(if excuses.any() {
                "flows_broken_excused"
            } else {
                "flows_lost_their_backend"
            });
            // On its new backend it begins again, for whoever asks which table can know of it.
            flow.owner = Some(went_to);
            flow.began_in_window |= window;
        } else if window {
            self.counters.add("packets_kept_in_window");
        }
        Ok(())
    }

    fn at_backend(&mut self, id: u16, packet: Packet) {
        let Packet { flow, incarnation, kind } = packet;
        let known = match kind {
            Kind::Syn => {
                self.connections.insert((id, flow, incarnation));
                true
            }
            Kind::Fin => self.connections.remove(&(id, flow, incarnation)),
            Kind::Data => self.connections.contains(&(id, flow, incarnation)),
            Kind::Datagram => return,
        };
        if known && kind != Kind::Syn {
            return;
        }
        for delay in self.net.carry(&mut self.rng, backend_node(id), CLIENT) {
            self.queue.after(delay, Event::AtClient { flow, incarnation, from: id, reset: !known });
        }
    }

    fn at_client(&mut self, flow: usize, incarnation: u32, from: u16, reset: bool) {
        let state = &mut self.flows[flow];
        if state.incarnation != incarnation || state.phase == Phase::Done {
            return;
        }
        if reset {
            self.counters.add("flows_reset");
            self.trace.note(self.queue.now(), format_args!("flow {flow}.{incarnation} reset by {from}"));
            self.end(flow);
        } else if state.phase == Phase::Opening {
            state.phase = Phase::Open;
            state.owner = Some(from);
            self.trace.note(self.queue.now(), format_args!("flow {flow}.{incarnation} lives on {from}"));
            self.plan_next(flow);
        }
    }

    fn change(&mut self, change: Change) {
        self.trace.note(self.queue.now(), format_args!("{change:?}"));
        let set = |rows: &mut Vec<Row>, id: u16, state: RowState| {
            rows.iter_mut().filter(|r| r.id == id).for_each(|r| r.state = state);
        };
        match change {
            Change::Add { id, weight } => self.rows.push(Row { id, weight, state: RowState::Active }),
            Change::Drain(id) => set(&mut self.rows, id, RowState::Draining),
            Change::Undrain(id) | Change::Up(id) => set(&mut self.rows, id, RowState::Active),
            Change::Down(id) => set(&mut self.rows, id, RowState::Down),
            Change::Remove(id) => self.rows.retain(|r| r.id != id),
            Change::Weight(id, weight) => {
                self.rows.iter_mut().filter(|r| r.id == id).for_each(|r| r.weight = weight);
            }
            Change::BoxFails(at) => {
                self.boxes[at as usize].up = false;
                self.counters.add("boxes_failed");
                return;
            }
            Change::Rehash(salt) => {
                self.salt = salt;
                self.counters.add("rehashes");
                return;
            }
        }
        self.number += 1;
        for at in 0..self.boxes.len() {
            let delay = self.rng.between(0, self.scenario.change_delay);
            let (rows, number) = (self.rows.clone(), self.number);
            self.queue.after(delay, Event::Apply { at, rows, number });
        }
    }

    fn apply(&mut self, at: usize, rows: Vec<Row>, number: u64) -> Check {
        let balancer = &mut self.boxes[at];
        // The agent takes the newest state only: a change that comes late is no longer asked for.
        if !balancer.up || number <= balancer.number {
            return Ok(());
        }
        let before = balancer.rules.slots().to_vec();
        let had_window = before.iter().any(|s| s.window_open());
        balancer.rules.publish(&rows);
        balancer.rows = rows;
        balancer.number = number;
        let extra = checks::disruption_is_bounded(&before, balancer.rules.slots())?;
        checks::shares_follow_weights(&balancer.rows, balancer.rules.slots())?;
        self.counters.add(if had_window { "changes_in_open_window" } else { "changes_of_settled_table" });
        self.counters.peak("disruption_extra_per_mille_worst", extra);
        self.trace.note(self.queue.now(), format_args!("box {at} holds change {number}"));
        self.queue.after(self.scenario.flow_idle_ms, Event::CloseWindows { at, number });
        Ok(())
    }

    fn close_windows(&mut self, at: usize, number: u64) {
        // A later change has opened windows that must stay open for the whole promise.
        if self.boxes[at].up && self.boxes[at].number == number {
            for flow in 0..self.flows.len() {
                let kind = if self.scenario.flows[flow].udp { Kind::Datagram } else { Kind::Data };
                let slot = self.slot(at, &frame(self.scenario.v6, flow as u32, kind));
                let flow = &mut self.flows[flow];
                flow.outlived_window |= flow.owner.is_some_and(|owner| owner != slot.current());
            }
            self.boxes[at].rules.close_windows(self.queue.now());
            self.counters.add("windows_closed");
            self.trace.note(self.queue.now(), format_args!("box {at} closes the windows of change {number}"));
        }
    }

    /// After everything: no window is open, and a new flow lives on one backend that takes flows.
    fn converged(&mut self) -> Check {
        let now = self.queue.now() + self.scenario.flow_idle_ms;
        for at in (0..self.boxes.len()).filter(|at| self.boxes[*at].up).collect::<Vec<_>>() {
            checks::no_window_is_open(self.boxes[at].rules.slots())?;
            let mut shares = BTreeMap::<u16, u64>::new();
            for n in 0..200 {
                // Numbers that no flow of the run has.
                let flow = 10_000 + n;
                let rows = self.boxes[at].rows.clone();
                let mut lives_on = None;
                for kind in [Kind::Syn, Kind::Data, Kind::Fin] {
                    let bytes = frame(self.scenario.v6, flow, kind);
                    let name = format!("probe {flow} {kind:?} at box {at}");
                    match self.boxes[at].rules.decide(now, &bytes) {
                        Verdict::To { backend, .. } => {
                            checks::draining_gets_no_new_flow(&name, backend, &rows)?;
                            let owner = *lives_on.get_or_insert(backend);
                            let excuses = Excuses::default();
                            let seen = checks::Forwarded { owner, went_to: backend, rows: &rows, excuses };
                            checks::flow_keeps_backend(&name, seen)?;
                            *shares.entry(backend).or_default() += 1;
                        }
                        Verdict::Dropped(reason) => checks::drops_have_a_cause(&name, reason, &rows, false)?,
                        Verdict::Passed => {
                            checks::drops_have_a_cause(&name, DropReason::NoTable, &rows, false)?;
                        }
                    }
                }
            }
            self.trace.note(now, format_args!("box {at} at the end {shares:?}"));
        }
        Ok(())
    }
}
