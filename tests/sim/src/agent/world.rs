//! Three nodes, their agents, one operator, and everything that goes wrong between them. One tick is one
//! millisecond.
//!
//! ```text
//! operator's book --files, late, lost, torn, stale--> source events --> agent (product) --> NodeHost --> kernel
//!                                         probes, drains, ticks ----------^        |
//!                                                                        ledger on a Disk
//! ```

use super::book::{Book, CONFLICT, FLOW_IDLE_MS, FRONTS, Shown, bytes};
use super::checks;
use super::kernel::{Kernel, NodeHost};
use super::storage::DiskStorage;
use crate::disk::{Death, Disk};
use crate::queue::{Queue, Tick};
use crate::report::{Check, Counters, Violation};
use crate::rng::Rng;
use crate::trace::Trace;
use sluice_agent::clock::{Clock, Now};
use sluice_agent::engine::{Config, Engine, SourceEvent};
use sluice_agent::health::Outcome;
use sluice_agent::ledger::{Ledger, Opened};
use sluice_api::rest::{DrainKind, DrainRequest};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

/// Nodes of a run: two that balance, one that is backend and member.
pub const NODES: [&str; 3] = [FRONTS[0], FRONTS[1], "node1"];

/// Time after the faults until everything must be in step: the longest flow idle time and the rest of a
/// retired id, twice over.
const SETTLE_MS: Tick = 150_000;

/// Time that a restarted agent is watched for steps it should not take.
const WATCH_MS: Tick = 15_000;

/// Between two rounds of probes.
const PROBE_MS: Tick = 700;

/// Rules that a mutation breaks; none in the family itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// A sync returns before anything is on disk.
    pub lying_sync: bool,
    /// Every file that arrives claims a newer generation than the one held.
    pub stale_is_newer: bool,
    /// Retired ids rest no time, and entries do not hold them.
    pub hasty_ids: bool,
    /// Previous owners are forgotten as soon as the slots change.
    pub no_windows: bool,
}

/// How a run goes wrong, drawn from its seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Time with faults.
    pub length: Tick,
    /// Right edits.
    pub edits: u64,
    /// Bad versions shown.
    pub spoils: u64,
    /// Crashes of agents.
    pub crashes: u64,
    /// Health changes of backends.
    pub flaps: u64,
    /// Operator drains and undrains.
    pub drains: u64,
    /// Proxies killed, addresses flushed.
    pub drifts: u64,
    /// Syncs that fail.
    pub sync_failures: u64,
    /// Flows that clients begin.
    pub flows: u64,
    /// Steps that fail, of 1000.
    pub fault_per_mille: u64,
    /// Source events lost, of 1000.
    pub lost_per_mille: u64,
    /// Longest time from a file's change to its event.
    pub source_delay: Tick,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let calm = rng.chance(200);
        let most = |rng: &mut Rng, n: u64| if calm { 0 } else { rng.between(0, n) };
        Self {
            length: rng.between(20_000, 100_000),
            edits: rng.between(2, 14),
            spoils: most(rng, 8),
            crashes: most(rng, 6),
            flaps: most(rng, 8),
            drains: rng.between(0, 4),
            drifts: most(rng, 4),
            sync_failures: most(rng, 2),
            flows: rng.between(5, 40),
            fault_per_mille: most(rng, 80),
            lost_per_mille: most(rng, 200),
            source_delay: rng.between(1, 2_000),
        }
    }
}

#[derive(Debug)]
enum Event {
    Edit,
    Spoil,
    Show { node: usize, shown: Shown },
    Scan { node: usize },
    SourceBad { node: usize },
    Tick { node: usize, token: u64 },
    Probe { node: usize },
    Flap,
    Drain,
    ProxyDies { node: usize },
    AddressFlushed { node: usize },
    SyncFails { node: usize },
    Crash { node: usize },
    Start { node: usize },
    FlowBegins { node: usize },
    Packet { node: usize, number: u64, left: u32 },
    Calm,
    Judge,
    Restart { node: usize },
    JudgeRestart { node: usize, steps: usize },
}

/// Virtual time as an agent sees it: the monotonic clock starts with the machine.
struct NodeClock {
    now_ms: Rc<Cell<Tick>>,
    booted_ms: Tick,
    /// The wall clock of a mutation runs this much too fast.
    haste: u64,
}

impl Clock for NodeClock {
    fn now(&self) -> Now {
        let ms = self.now_ms.get();
        // 2020-09-13: never mistaken for the monotonic clock.
        Now { mono_us: (ms - self.booted_ms) * 1000, wall_us: 1_600_000_000_000_000 + ms * 1000 * self.haste }
    }
}

struct Node {
    name: &'static str,
    disk: Disk,
    kernel: Rc<RefCell<Kernel>>,
    engine: Option<Engine<NodeHost>>,
    booted_ms: Tick,
    token: u64,
    /// Generations that this node has held durably.
    durable: BTreeMap<String, u64>,
    /// Generations that this agent process has reported as carried out.
    reported: BTreeMap<String, u64>,
    /// Events and steps at the last look.
    news: (u64, usize),
    /// Drains that were acknowledged to the operator.
    drains: BTreeSet<DrainRequest>,
    /// The ledger was opened once.
    has_ledger: bool,
}

/// One run.
pub struct World {
    plan: Plan,
    quirks: Quirks,
    rng: Rng,
    queue: Queue<Event>,
    now_ms: Rc<Cell<Tick>>,
    trace: Trace,
    counters: Counters,
    book: Book,
    /// What the placement directory holds.
    files: BTreeMap<String, Vec<u8>>,
    nodes: Vec<Node>,
    /// Addresses whose probes fail, and how.
    down: BTreeMap<IpAddr, Outcome>,
    calm: bool,
}

fn file_of(document: &str) -> String {
    format!("{document}.json")
}

impl World {
    /// The world of a plan before its first event.
    pub fn new(plan: Plan, quirks: Quirks, mut rng: Rng) -> Self {
        let book = Book::new(&mut rng);
        let files = book.newest().values().map(|d| (file_of(&d.name), bytes(d))).collect();
        let nodes = NODES
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let mut kernel = Kernel::new(rng.fork(100 + n as u64));
                kernel.fault_per_mille = plan.fault_per_mille;
                kernel.hasty_ids = quirks.hasty_ids;
                kernel.no_windows = quirks.no_windows;
                Node {
                    name,
                    disk: Disk::new(),
                    kernel: Rc::new(RefCell::new(kernel)),
                    engine: None,
                    booted_ms: 0,
                    token: 0,
                    durable: BTreeMap::new(),
                    reported: BTreeMap::new(),
                    news: (0, 0),
                    drains: BTreeSet::new(),
                    has_ledger: false,
                }
            })
            .collect();
        let mut world = Self {
            queue: Queue::default(),
            now_ms: Rc::new(Cell::new(0)),
            trace: Trace::default(),
            counters: Counters::default(),
            down: BTreeMap::new(),
            calm: false,
            plan,
            quirks,
            rng,
            book,
            files,
            nodes,
        };
        world.plan_events();
        world
    }

    fn plan_events(&mut self) {
        let plan = self.plan.clone();
        for node in 0..self.nodes.len() {
            let starts = self.rng.below(500);
            self.queue.at(starts, Event::Start { node });
            self.queue.at(starts + 1_000, Event::Probe { node });
        }
        let rng = &mut self.rng;
        let mut some = |n: u64, queue: &mut Queue<Event>, make: &dyn Fn(&mut Rng) -> Event| {
            for _ in 0..n {
                queue.at(rng.between(1_000, plan.length), make(rng));
            }
        };
        let queue = &mut self.queue;
        let any = |rng: &mut Rng| rng.index(NODES.len());
        some(plan.edits, queue, &|_| Event::Edit);
        some(plan.spoils, queue, &|_| Event::Spoil);
        some(plan.spoils / 3, queue, &|rng| Event::SourceBad { node: any(rng) });
        some(plan.crashes, queue, &|rng| Event::Crash { node: any(rng) });
        some(plan.flaps, queue, &|_| Event::Flap);
        some(plan.drains, queue, &|_| Event::Drain);
        some(plan.drifts, queue, &|rng| Event::ProxyDies { node: any(rng) });
        some(plan.drifts, queue, &|rng| Event::AddressFlushed { node: any(rng) });
        some(plan.sync_failures, queue, &|rng| Event::SyncFails { node: any(rng) });
        some(plan.flows, queue, &|rng| Event::FlowBegins { node: any(rng) });
        self.queue.at(plan.length, Event::Calm);
    }

    /// Play every event.
    pub fn play(mut self) -> (Check, Counters, Trace) {
        let mut outcome = Ok(());
        let end = self.plan.length + SETTLE_MS + 2 * WATCH_MS;
        // Agents tick for ever: the run ends by the clock.
        while let Some(event) = self.queue.take().filter(|_| self.queue.now() <= end) {
            self.now_ms.set(self.queue.now());
            for node in &self.nodes {
                node.kernel.borrow_mut().set_now(self.queue.now());
            }
            outcome = self.on(event);
            if outcome.is_err() {
                break;
            }
        }
        for node in &self.nodes {
            self.counters.merge(&node.kernel.borrow().counts);
        }
        (outcome, self.counters, self.trace)
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.queue.now(), what);
    }

    fn on(&mut self, event: Event) -> Check {
        match event {
            Event::Edit => self.edit(),
            Event::Spoil => self.spoil(),
            Event::Show { node, shown } => return self.show(node, shown),
            Event::Scan { node } => return self.scan(node),
            Event::SourceBad { node } => return self.source_bad(node),
            Event::Tick { node, token } => return self.tick(node, token),
            Event::Probe { node } => return self.probe(node),
            Event::Flap => self.flap(),
            Event::Drain => return self.drain(),
            Event::ProxyDies { node } => return self.proxy_dies(node),
            Event::AddressFlushed { node } => self.flush_address(node),
            Event::SyncFails { node } => {
                if !self.calm {
                    self.nodes[node].disk.fail_sync_after(self.rng.below(3));
                }
            }
            Event::Crash { node } => return self.crash(node),
            Event::Start { node } => return self.start(node),
            Event::FlowBegins { node } => self.flow_begins(node),
            Event::Packet { node, number, left } => return self.packet(node, number, left),
            Event::Calm => return self.make_calm(),
            Event::Judge => return self.judge(),
            Event::Restart { node } => return self.restart(node),
            Event::JudgeRestart { node, steps } => {
                checks::restart_changes_nothing(
                    NODES[node],
                    steps,
                    self.nodes[node].kernel.borrow().steps(),
                )?;
            }
        }
        Ok(())
    }

    /// Call into an agent, then look at what it has done: the one place where agents run.
    fn with(&mut self, node: usize, call: impl FnOnce(&mut Engine<NodeHost>)) -> Check {
        let Some(mut engine) = self.nodes[node].engine.take() else { return Ok(()) };
        let steps = self.nodes[node].kernel.borrow().steps().len();
        call(&mut engine);
        let new: Vec<String> = self.nodes[node].kernel.borrow().steps()[steps..].to_vec();
        for step in new {
            self.note(format_args!("{} {step}", NODES[node]));
        }
        let state = &mut self.nodes[node];
        std::mem::replace(&mut state.kernel.borrow_mut().found, Ok(()))?;
        if state.kernel.borrow().dead || state.disk.is_dead() {
            drop(engine);
            return self.died(node);
        }
        // A status is made from all slots of all VIPs: worth it only when there is news.
        let news = (engine.last_event(), state.kernel.borrow().steps().len());
        let status = (state.news != news).then(|| engine.status());
        state.news = news;
        checks::documents_are_the_operators(state.name, engine.kept(), self.book.versions())?;
        checks::generations_grow(state.name, &state.durable, engine.kept())?;
        for (name, kept) in engine.kept() {
            state.durable.insert(name.clone(), kept.generation);
        }
        if let Some(status) = status {
            checks::status_grows(state.name, &mut state.reported, &status)?;
            if status.errors.iter().any(|e| e.message.contains("commit ledger")) {
                self.counters.add("ledger_commits_failed");
            }
        }
        let next = state.booted_ms + engine.next_tick_ms();
        state.token += 1;
        let token = state.token;
        state.engine = Some(engine);
        self.queue.at(next.max(self.queue.now() + 1), Event::Tick { node, token });
        Ok(())
    }

    /// The agent of a node is gone; its node may be too.
    fn died(&mut self, node: usize) -> Check {
        let death = if self.rng.chance(300) { Death::Power } else { Death::Process };
        let state = &mut self.nodes[node];
        state.disk = state.disk.die(death, &mut self.rng);
        state.disk.set_lying(self.quirks.lying_sync);
        state.reported.clear();
        let mut kernel = state.kernel.borrow_mut();
        kernel.dead = false;
        kernel.steps_left = None;
        if death == Death::Power {
            kernel.lose_power();
            state.booted_ms = self.queue.now();
        }
        drop(kernel);
        self.counters.add(if death == Death::Power { "power_cuts" } else { "process_deaths" });
        self.note(format_args!("{} dies: {death:?}", NODES[node]));
        let delay = self.rng.between(1, 5_000);
        self.queue.after(delay, Event::Start { node });
        Ok(())
    }

    fn crash(&mut self, node: usize) -> Check {
        if self.calm || self.nodes[node].engine.is_none() {
            return Ok(());
        }
        match self.rng.below(3) {
            0 => {
                self.nodes[node].engine = None;
                self.died(node)
            }
            // In the middle of whatever it does next.
            1 => {
                let steps = self.rng.below(6);
                self.nodes[node].kernel.borrow_mut().steps_left = Some(steps);
                Ok(())
            }
            _ => {
                let calls = self.rng.below(12);
                self.nodes[node].disk.die_after(calls);
                Ok(())
            }
        }
    }

    fn start(&mut self, node: usize) -> Check {
        let state = &mut self.nodes[node];
        if state.engine.is_some() {
            return Ok(());
        }
        state.disk.set_lying(self.quirks.lying_sync);
        let ledger = match Ledger::on(DiskStorage(state.disk.clone())) {
            Ok(ledger) => ledger,
            // The agent ends when its ledger cannot be opened; its supervisor tries again.
            Err(_) if state.disk.is_dead() || state.disk.refused() > 0 => return self.died(node),
            Err(error) => {
                checks::ledger_opens(state.name, state.has_ledger, &error.to_string())?;
                // A file whose first commit was cut off holds nothing yet: it is moved aside.
                state.disk = Disk::new();
                self.counters.add("ledgers_begun_anew");
                self.queue.after(100, Event::Start { node });
                return Ok(());
            }
        };
        state.has_ledger = true;
        let config =
            Config { node: state.name.to_owned(), announce: true, with_proxy: true, placements: None };
        let haste = if self.quirks.hasty_ids { 1_000 } else { 1 };
        let clock =
            Box::new(NodeClock { now_ms: Rc::clone(&self.now_ms), booted_ms: state.booted_ms, haste });
        let host = NodeHost(Rc::clone(&state.kernel));
        match Engine::start(config, clock, ledger, &Opened::default(), host) {
            Ok(engine) => state.engine = Some(engine),
            Err(_) => {
                // Only a node that died meanwhile refuses: the next start tries again.
                if state.kernel.borrow().dead || state.disk.is_dead() {
                    return self.died(node);
                }
                self.counters.add("starts_failed");
                self.queue.after(1_000, Event::Start { node });
                return Ok(());
            }
        }
        self.counters.add("starts");
        self.note(format_args!("{} starts", NODES[node]));
        let in_force = self.drains_in_force(node);
        checks::drains_survive(NODES[node], &self.nodes[node].drains, &in_force)?;
        self.with(node, |_| {})?;
        self.scan(node)
    }

    /// Asked by taking back a drain that nobody made.
    fn drains_in_force(&mut self, node: usize) -> BTreeSet<DrainRequest> {
        let nobody = DrainRequest { kind: DrainKind::Backend, name: "nobody".to_owned() };
        let report = self.nodes[node].engine.as_mut().and_then(|e| e.drain(&nobody, false).ok());
        report.map(|r| r.drains.into_iter().collect()).unwrap_or_default()
    }

    fn tick(&mut self, node: usize, token: u64) -> Check {
        if self.nodes[node].token != token {
            return Ok(());
        }
        self.with(node, Engine::tick)
    }

    fn edit(&mut self) {
        let shown = self.book.edit(&mut self.rng);
        self.counters.add(shown.what);
        self.note(format_args!("operator {} {}", shown.what, shown.document));
        // New backends resolve soon; some only when everything is calm.
        if !self.rng.chance(100) {
            self.resolve_links();
        }
        self.publish(shown);
    }

    fn spoil(&mut self) {
        if self.calm {
            return;
        }
        let shown = self.book.spoil(&mut self.rng);
        self.counters.add(shown.what);
        self.note(format_args!("source shows {} {}", shown.what, shown.document));
        self.publish(shown);
        // The operator notices and writes the right file again.
        let again = self.book.show_newest(&mut self.rng);
        self.publish(again);
    }

    fn publish(&mut self, shown: Shown) {
        // Other content under a number in force: whoever has not seen the right one first cannot tell, so
        // only those that hold it are shown it, and it does not stay in the directory.
        if shown.what != CONFLICT {
            self.files.insert(file_of(&shown.document), shown.bytes.clone());
        }
        for node in 0..self.nodes.len() {
            if self.calm || !self.rng.chance(self.plan.lost_per_mille) {
                let delay = self.rng.between(1, self.plan.source_delay);
                self.queue.after(delay, Event::Show { node, shown: shown.clone() });
            } else {
                self.counters.add("source_events_lost");
            }
        }
    }

    fn show(&mut self, node: usize, shown: Shown) -> Check {
        let held = self.nodes[node].durable.get(&shown.document).copied().unwrap_or(0);
        if shown.what == CONFLICT && held < generation_of(&shown.bytes).unwrap_or(0) {
            return Ok(());
        }
        let text = if self.quirks.stale_is_newer {
            renumbered(&shown.bytes, held + 1).unwrap_or(shown.bytes)
        } else {
            shown.bytes
        };
        let events = vec![SourceEvent::File { file: file_of(&shown.document), text: Ok(text) }];
        let seen_us = self.mono_us(node);
        self.with(node, |engine| engine.on_source(events, seen_us))
    }

    fn mono_us(&self, node: usize) -> u64 {
        (self.queue.now() - self.nodes[node].booted_ms) * 1000
    }

    /// The whole directory is looked at again: after a start, and after events were lost.
    fn scan(&mut self, node: usize) -> Check {
        let mut events = vec![SourceEvent::Listing { files: self.files.keys().cloned().collect() }];
        let files = self.files.iter().map(|(f, t)| (f.clone(), t.clone())).collect::<Vec<_>>();
        events.extend(files.into_iter().map(|(file, text)| SourceEvent::File { file, text: Ok(text) }));
        let seen_us = self.mono_us(node);
        self.with(node, |engine| engine.on_source(events, seen_us))
    }

    /// The source answers nonsense: nothing may be concluded from it.
    fn source_bad(&mut self, node: usize) -> Check {
        let event = match self.rng.below(3) {
            0 => SourceEvent::Listing { files: BTreeSet::new() },
            1 => SourceEvent::Unreadable { message: "I/O error".to_owned() },
            _ => SourceEvent::File { file: "base.json".to_owned(), text: Err("I/O error".to_owned()) },
        };
        self.counters.add("source_nonsense");
        let seen_us = self.mono_us(node);
        self.with(node, |engine| engine.on_source(vec![event], seen_us))?;
        self.queue.after(2_000, Event::Scan { node });
        Ok(())
    }

    fn probe(&mut self, node: usize) -> Check {
        let targets = self.nodes[node].engine.as_ref().map(|e| e.targets().1).unwrap_or_default();
        for (target, check) in targets {
            let outcome = self.down.get(&check.address.ip()).copied().unwrap_or(Outcome::Good);
            self.with(node, |engine| engine.probe_result(&target, outcome))?;
        }
        if self.queue.now() < self.plan.length + SETTLE_MS {
            self.queue.after(PROBE_MS, Event::Probe { node });
        }
        Ok(())
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let pools = self.book.newest().values().flat_map(|d| &d.pools);
        let backends = pools.flat_map(|p| &p.backends);
        backends.filter_map(|b| b.address.as_ref()?.parse().ok()).collect()
    }

    fn resolve_links(&mut self) {
        let addresses = self.addresses();
        for node in &self.nodes {
            let mut kernel = node.kernel.borrow_mut();
            addresses.iter().for_each(|address| kernel.fake.add_link(*address));
        }
    }

    fn flap(&mut self) {
        if self.calm {
            return;
        }
        let address = *self.rng.pick(&self.addresses());
        if self.down.remove(&address).is_none() {
            let outcome = if self.rng.chance(300) { Outcome::Refusing } else { Outcome::Dead };
            self.down.insert(address, outcome);
        }
        self.counters.add("flaps");
        let now = self.down.get(&address).copied().unwrap_or(Outcome::Good);
        self.note(format_args!("probes of {address}: {now:?}"));
    }

    fn drain(&mut self) -> Check {
        let node = self.rng.index(self.nodes.len());
        let drains = self.nodes[node].drains.clone();
        let (request, on) = match drains.first() {
            Some(request) if self.rng.chance(500) => (request.clone(), false),
            _ => {
                let pools = self.book.newest().values().flat_map(|d| &d.pools);
                let names: Vec<&str> = pools.flat_map(|p| &p.backends).map(|b| b.name.as_str()).collect();
                let name = (*self.rng.pick(&names)).to_owned();
                (DrainRequest { kind: DrainKind::Backend, name }, true)
            }
        };
        self.note(format_args!("{} drain {request:?} {on}", NODES[node]));
        let mut acknowledged = false;
        self.with(node, |engine| acknowledged = engine.drain(&request, on).is_ok())?;
        // An answer from an agent that died in the call never reached the operator.
        if acknowledged && self.nodes[node].engine.is_some() {
            self.counters.add("drains_acknowledged");
            if on {
                self.nodes[node].drains.insert(request);
            } else {
                self.nodes[node].drains.remove(&request);
            }
        } else if !on {
            // It may or may not be in force now: nothing is promised about it any more.
            self.nodes[node].drains.remove(&request);
        }
        Ok(())
    }

    fn proxy_dies(&mut self, node: usize) -> Check {
        let pid = {
            let mut kernel = self.nodes[node].kernel.borrow_mut();
            let Some(pid) = kernel.fake.state.proxy.as_ref().map(|p| p.pid) else { return Ok(()) };
            kernel.fake.kill_proxy();
            pid
        };
        self.counters.add("proxies_killed");
        self.note(format_args!("{} proxy {pid} dies", NODES[node]));
        if self.rng.chance(500) {
            return self.with(node, |engine| engine.proxy_ended(pid));
        }
        Ok(())
    }

    fn flush_address(&mut self, node: usize) {
        let mut kernel = self.nodes[node].kernel.borrow_mut();
        if kernel.fake.state.addresses.pop_first().is_some() {
            self.counters.add("addresses_flushed");
        }
    }

    fn flow_begins(&mut self, node: usize) {
        let number = self.nodes[node].kernel.borrow_mut().begin_flow(&mut self.rng);
        if let Some(number) = number {
            let left = self.rng.between(5, 200) as u32;
            self.queue.after(1, Event::Packet { node, number, left });
        }
    }

    fn packet(&mut self, node: usize, number: u64, left: u32) -> Check {
        let goes_on = self.nodes[node].kernel.borrow_mut().packet(number)?;
        if goes_on && left > 0 {
            // Always within the shortest promise: the rules excuse nothing here.
            let gap = self.rng.between(50, FLOW_IDLE_MS.0 - 1);
            self.queue.after(gap, Event::Packet { node, number, left: left - 1 });
        } else if self.rng.chance(500) {
            self.nodes[node].kernel.borrow_mut().end_flow(number);
        }
        Ok(())
    }

    /// The faults stop: files are right, links resolve, disks and steps work, everyone answers probes.
    fn make_calm(&mut self) -> Check {
        self.calm = true;
        self.down.clear();
        self.resolve_links();
        self.files = self.book.newest().values().map(|d| (file_of(&d.name), bytes(d))).collect();
        self.note(format_args!("calm"));
        for node in 0..self.nodes.len() {
            {
                let mut kernel = self.nodes[node].kernel.borrow_mut();
                kernel.fault_per_mille = 0;
                kernel.steps_left = None;
            }
            self.nodes[node].disk.live_on();
            let late = self.plan.source_delay + 6_000;
            self.queue.after(late, Event::Scan { node });
        }
        self.queue.after(SETTLE_MS, Event::Judge);
        Ok(())
    }

    fn judge(&mut self) -> Check {
        for node in 0..self.nodes.len() {
            let state = &mut self.nodes[node];
            let Some(engine) = state.engine.as_mut() else {
                return Err(Violation::new("converges", format!("{} has no agent", state.name)));
            };
            let status = engine.status();
            checks::converges(state.name, &status, engine.converged(), self.book.newest())?;
            checks::tables_are_the_documents(state.name, &state.kernel.borrow(), self.book.newest())?;
            self.counters.add("nodes_converged");
            self.queue.after(1 + node as u64, Event::Restart { node });
        }
        Ok(())
    }

    /// An agent that starts on a node in order changes nothing.
    fn restart(&mut self, node: usize) -> Check {
        self.nodes[node].engine = None;
        let disk = self.nodes[node].disk.die(Death::Process, &mut self.rng);
        self.nodes[node].disk = disk;
        self.nodes[node].reported.clear();
        let steps = self.nodes[node].kernel.borrow().steps().len();
        self.queue.after(WATCH_MS, Event::JudgeRestart { node, steps });
        self.start(node)
    }
}

fn generation_of(bytes: &[u8]) -> Option<u64> {
    let document: sluice_api::placement::Document = serde_json::from_slice(bytes).ok()?;
    Some(document.generation)
}

/// The same document with another generation number.
fn renumbered(bytes: &[u8], generation: u64) -> Option<Vec<u8>> {
    let mut document: sluice_api::placement::Document = serde_json::from_slice(bytes).ok()?;
    document.generation = generation;
    Some(super::book::bytes(&document))
}
