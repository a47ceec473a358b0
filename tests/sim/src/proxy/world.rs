//! Clients, members, a parent and an origin on one simulated network. One tick is one microsecond.
//!
//! ```text
//! clients --> members (product workers) --owner?--> member --miss--> parent (product worker) --> origin
//! ```
//! Members crash and come back empty, links part, connections break, origins dawdle; then all of it stops.

use super::client::Ask;
use super::origin::fetched_at_most;
use super::peers::{Client, Origin};
use crate::queue::Tick;
use crate::report::{Check, Counters, Violation};
use crate::rng::Rng;
use crate::trace::Trace;
use sluice_api::placement::{BackendState, Member, Origin as OriginRow, Site};
use sluice_api::proxy_admin::{Apply, GroupView};
use sluice_proxy::admin::{Admin, Notice};
use sluice_proxy::limits::Tuning;
use sluice_proxy::runtime::{Options, Shared};
use sluice_proxy::time::Now;
use sluice_proxy::worker::{Setup, Worker};
use sluice_uring::sim::{Faults, SimIo, SimNet};
use sluice_uring::{Io, Poll};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Time after which a run must have ended: every timeout of the tuning several times over, us.
const END_US: Tick = 600_000_000;

/// Hosts that clients ask for.
const HOSTS: u64 = 3;

/// How a run goes wrong.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Members of the group.
    pub members: usize,
    /// Misses climb to a parent.
    pub parent: bool,
    /// Clients.
    pub clients: usize,
    /// Requests of each client while things go wrong.
    pub asks: usize,
    /// Different paths per host.
    pub paths: u64,
    /// Requests pipelined on a connection.
    pub depth: usize,
    /// Longest time the origin takes, us.
    pub slowness_us: u64,
    /// Chances of the network.
    pub faults: Faults,
    /// When a member dies and comes back, us.
    pub crashes: Vec<(Tick, usize)>,
    /// When a link parts, and between which nodes, us.
    pub cuts: Vec<(Tick, usize, usize)>,
    /// When a site row changes under the requests, us.
    pub changes: Vec<Tick>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let calm = rng.chance(400);
        let members = rng.between(1, 4) as usize;
        let bad = |rng: &mut Rng, most: u64| if calm { 0 } else { rng.between(0, most) };
        let faults = Faults {
            delay_us: (20, rng.between(50, 5_000)),
            split: rng.between(0, 600) as u32,
            refuse: bad(rng, 30) as u32,
            reset: if calm || rng.chance(500) { 0 } else { rng.between(0, 10) as u32 },
            window: rng.between(2_000, 100_000) as usize,
            part: rng.between(100, 9_000) as usize,
        };
        let (crashes, cuts) = (bad(rng, 3), bad(rng, 3));
        Self {
            members,
            parent: rng.chance(600),
            clients: rng.between(1, 6) as usize,
            asks: rng.between(4, 40) as usize,
            paths: rng.between(2, 20),
            depth: rng.between(1, 6) as usize,
            slowness_us: rng.between(0, 200_000),
            crashes: (0..crashes).map(|_| (rng.below(3_000_000), rng.index(members))).collect(),
            cuts: (0..cuts)
                .map(|_| (rng.below(3_000_000), rng.index(members), rng.index(members + 2)))
                .collect(),
            changes: (0..rng.below(4)).map(|_| rng.below(2_000_000)).collect(),
            faults,
        }
    }

    /// Nothing breaks in this run.
    pub fn is_calm(&self) -> bool {
        self.crashes.is_empty() && self.cuts.is_empty() && self.faults.refuse == 0 && self.faults.reset == 0
    }
}

/// A proxy process with one worker.
struct Proxy {
    worker: Worker<SimIo>,
    shared: Arc<Shared>,
    admin: Arc<Admin>,
    _notices: Receiver<Notice>,
    wakes_us: Tick,
}

/// Things that happen by the clock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Kill(usize),
    Start(usize),
    Cut(usize, usize, bool),
    Change,
    Calm,
}

/// One run.
pub struct World {
    plan: Plan,
    rng: Rng,
    net: SimNet,
    proxies: Vec<Option<Proxy>>,
    clients: Vec<Client>,
    origin: Origin,
    script: Vec<(Tick, Action)>,
    revision: u64,
    changed: u64,
    is_calm: bool,
    next_id: u64,
    trace: Trace,
    counters: Counters,
}

fn address(node: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, node as u8 + 1])
}

fn endpoint(node: usize) -> SocketAddr {
    SocketAddr::new(address(node), 8080)
}

const ORIGIN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1)), 80);

impl World {
    /// The world of a plan before its first event.
    pub fn new(plan: Plan, mut rng: Rng) -> Self {
        let net = SimNet::new(rng.next(), plan.faults.clone());
        let origin = Origin::new(net.node(ORIGIN.ip()), plan.slowness_us);
        let clients = (0..plan.clients)
            .map(|n| Client::new(net.node(IpAddr::from([10, 0, 2, n as u8 + 1])), plan.depth))
            .collect();
        let mut script: Vec<(Tick, Action)> = plan.changes.iter().map(|at| (*at, Action::Change)).collect();
        for (at, member) in &plan.crashes {
            script.push((*at, Action::Kill(*member)));
            script.push((at + rng.between(1_000, 2_000_000), Action::Start(*member)));
        }
        for (at, a, b) in plan.cuts.iter().filter(|(_, a, b)| a != b) {
            script.push((*at, Action::Cut(*a, *b, true)));
            script.push((at + rng.between(1_000, 4_000_000), Action::Cut(*a, *b, false)));
        }
        let last = script.iter().map(|(at, _)| *at).max().unwrap_or(0);
        script.push((last + 1, Action::Calm));
        script.sort();
        let nodes = plan.members + usize::from(plan.parent);
        let mut world = Self {
            net,
            proxies: (0..nodes).map(|_| None).collect(),
            clients,
            origin,
            script,
            revision: 1,
            changed: 0,
            is_calm: false,
            next_id: 0,
            trace: Trace::default(),
            counters: Counters::default(),
            plan,
            rng,
        };
        world.origin.strict = world.plan.is_calm();
        for node in 0..nodes {
            world.start(node);
        }
        for n in 0..world.clients.len() {
            let asks: Vec<Ask> = (0..world.plan.asks).map(|_| world.ask()).collect();
            world.clients[n].give(asks);
        }
        world
    }

    fn ask(&mut self) -> Ask {
        self.next_id += 1;
        let method = match self.rng.below(10) {
            0 => "HEAD",
            1 => "POST",
            _ => "GET",
        };
        let letter = if method == "POST" || self.rng.chance(200) { 'p' } else { 'c' };
        Ask {
            id: self.next_id,
            method,
            host: format!("h{}.test", self.rng.below(HOSTS)),
            path: format!("/{letter}{}", self.rng.below(self.plan.paths)),
            body: if method == "POST" { vec![b'x'; self.rng.below(20_000) as usize] } else { Vec::new() },
            chunked: self.rng.chance(500),
            close: false,
        }
    }

    fn name(&self, node: usize) -> String {
        if node < self.plan.members { format!("m{node}") } else { "parent".to_owned() }
    }

    fn rows(&self, node: usize) -> Apply {
        let member = |n: usize| Member {
            name: self.name(n),
            address: endpoint(n).to_string(),
            weight: 100,
            state: BackendState::Active,
        };
        let is_parent = node >= self.plan.members;
        let everyone = 0..self.plan.members;
        let view = GroupView {
            own_name: self.name(node),
            members: if is_parent { vec![member(node)] } else { everyone.map(member).collect() },
            parents: if is_parent || !self.plan.parent {
                Vec::new()
            } else {
                vec![member(self.plan.members)]
            },
            bounded_load_percent: 125,
            down: Vec::new(),
        };
        let site =
            |host: String| Site { host, routes: Vec::new(), origin: "origin".into(), group: "g".into() };
        let mut sites: Vec<Site> = (0..HOSTS).map(|h| site(format!("h{h}.test"))).collect();
        sites.extend((0..self.changed).map(|n| site(format!("new{n}.test"))));
        Apply {
            revision: self.revision,
            full: true,
            group: Some(view),
            origins: vec![OriginRow {
                name: "origin".into(),
                addresses: vec![ORIGIN.to_string()],
                host: None,
            }],
            sites,
            ..Apply::default()
        }
    }

    fn start(&mut self, node: usize) {
        if self.proxies[node].is_some() {
            return;
        }
        let options = Options {
            workers: 1,
            pin: false,
            poll: Poll::default(),
            cache_bytes: 16 << 20,
            name: self.name(node),
            tuning: tuning(),
        };
        let (shared, mailboxes) = Shared::new(options).expect("memory for a small store");
        let (notices, heard) = std::sync::mpsc::channel();
        let admin = Admin::new(shared.clone(), notices);
        let mut io = self.net.node(address(node));
        let listener = io.listen(8080);
        mailboxes.of(0).attach(io.waker());
        let setup = Setup {
            tuning: tuning(),
            name: self.name(node),
            published: shared.published.clone(),
            stats: shared.pages[0].clone(),
            store: shared.store.clone(),
            worker: 0,
            mailbox: mailboxes.of(0),
        };
        let mut worker = Worker::new(io, setup, self.now());
        worker.listen(listener);
        let proxy = Proxy { worker, shared, admin, _notices: heard, wakes_us: 0 };
        proxy.admin.apply(&self.rows(node)).expect("good rows");
        self.proxies[node] = Some(proxy);
        self.note(format_args!("{} starts", self.name(node)));
    }

    fn now(&self) -> Now {
        let us = self.net.now_us();
        Now { us, unix_s: 1_600_000_000 + us / 1_000_000 }
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.net.now_us(), what);
    }

    /// Play to the end.
    pub fn play(mut self) -> (Check, Counters, Trace) {
        let outcome = self.run();
        for (what, n) in [("requests", self.next_id), ("urls_fetched", self.origin.log.urls().count() as u64)]
        {
            self.counters.add_n(what, n);
        }
        (outcome, self.counters, self.trace)
    }

    fn run(&mut self) -> Check {
        loop {
            let now_us = self.net.now_us();
            while self.script.first().is_some_and(|(at, _)| *at <= now_us) {
                let (_, action) = self.script.remove(0);
                self.act(action);
            }
            self.turns()?;
            if self.script.is_empty() && self.clients.iter().all(Client::is_done) {
                if self.is_calm {
                    return self.judge();
                }
                self.last_asks();
                continue;
            }
            if now_us > END_US {
                let waiting: Vec<usize> = self.clients.iter().map(Client::waiting).collect();
                let text = format!("requests without an answer, by client: {waiting:?}");
                return Err(Violation::new("every_request_is_answered", text));
            }
            let wakes = self.proxies.iter().flatten().map(|p| p.wakes_us);
            let next = wakes
                .chain(self.net.next_us())
                .chain(self.script.first().map(|(at, _)| *at))
                .chain(self.origin.next_us())
                .min()
                .unwrap_or(now_us + 1_000);
            self.net.advance(next.clamp(now_us, now_us + 1_000_000).max(now_us + 1));
        }
    }

    fn turns(&mut self) -> Check {
        let now = self.now();
        let mut events = Vec::new();
        for proxy in self.proxies.iter_mut().flatten() {
            let due = proxy.wakes_us <= now.us || self.net.is_ready(proxy.worker.io());
            if !due {
                continue;
            }
            proxy.worker.io().wait(Duration::ZERO, &mut events).expect("the simulated wait does not fail");
            for event in &events {
                self.trace.note(now.us, format_args!("{event:?}"));
            }
            proxy.worker.turn(now, &mut events, &|| now.us);
            let rest = if proxy.worker.sleep() { proxy.worker.timeout(now).as_micros() as u64 } else { 1 };
            proxy.wakes_us = now.us + rest;
        }
        let members: Vec<SocketAddr> = (0..self.plan.members).map(endpoint).collect();
        for client in &mut self.clients {
            client.turn(&self.net, &members, &mut self.rng, &mut self.counters)?;
        }
        let names: Vec<String> = (0..self.plan.members).map(|n| format!("m{n}")).collect();
        self.origin.turn(now.us, &names, &mut self.rng)
    }

    fn act(&mut self, action: Action) {
        self.note(format_args!("{action:?}"));
        match action {
            Action::Kill(node) => {
                if let Some(mut proxy) = self.proxies[node].take() {
                    self.net.kill(proxy.worker.io());
                    self.counters.add("members_killed");
                }
            }
            Action::Start(node) => self.start(node),
            Action::Cut(a, b, cut) => {
                let place = |n: usize| if n > self.plan.members { ORIGIN.ip() } else { address(n) };
                self.net.set_cut(place(a), place(b), cut);
                self.counters.add(if cut { "links_cut" } else { "links_joined" });
            }
            Action::Change => {
                self.revision += 1;
                self.changed += 1;
                for node in 0..self.proxies.len() {
                    let rows = self.rows(node);
                    if let Some(proxy) = &self.proxies[node] {
                        proxy.admin.apply(&rows).expect("good rows");
                    }
                }
                self.counters.add("rows_changed");
            }
            Action::Calm => {
                self.net.set_faults(Faults { refuse: 0, reset: 0, ..self.plan.faults.clone() });
                self.counters.add(if self.plan.is_calm() {
                    "runs_without_faults"
                } else {
                    "runs_with_faults"
                });
            }
        }
    }

    /// After the faults: what was believed down has had time to be tried again, and all must be served.
    fn last_asks(&mut self) {
        self.is_calm = true;
        let rest = self.net.now_us() + 60_000_000;
        while let Some(next) = self.net.next_us().filter(|at| *at <= rest) {
            self.net.advance(next);
            if self.turns().is_err() {
                break;
            }
        }
        self.net.advance(rest);
        for n in 0..self.clients.len() {
            let asks: Vec<Ask> = (0..10).map(|_| self.ask()).collect();
            self.clients[n].strict = true;
            self.clients[n].give(asks);
        }
        self.note(format_args!("calm, last requests"));
    }

    fn judge(&mut self) -> Check {
        for proxy in self.proxies.iter().flatten() {
            let held = proxy.shared.published.revision();
            if held != self.revision {
                let text = format!("revision {held}, newest {}", self.revision);
                return Err(Violation::new("newest_revision_everywhere", text));
            }
        }
        if !self.plan.is_calm() {
            return Ok(());
        }
        // With a parent every miss passes its one store; without, an overflowing owner's neighbours fill too.
        let allowed = if self.plan.parent { 1 } else { self.plan.members as u64 };
        for (url, times) in self.origin.log.urls().filter(|(url, _)| url.1.starts_with("/c")) {
            fetched_at_most(url, times, allowed)?;
        }
        Ok(())
    }
}

/// The product's limits with shorter times, so that a run sees them pass.
fn tuning() -> Tuning {
    Tuning {
        connect_ms: 500,
        response_ms: 3_000,
        head_ms: 3_000,
        body_ms: 3_000,
        send_stall_ms: 3_000,
        fill_stall_ms: 1_000,
        upstream_idle_ms: 10_000,
        ..Tuning::default()
    }
}
