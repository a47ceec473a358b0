//! The engine: the one owner of the agent's state.
//!
//! ```text
//!  sources ─► intake ─► generation rule ─► check_set ─► ledger (fsync) ─┐
//!  probes ──► health ───────────────────────────────────────────────────┤
//!  operator ► drains (fsync) ───────────────────────────────────────────┼─► goal ─► plan ─► steps ─► Host
//!  tick ────► next hops, windows, sweep, drift, retries ────────────────┘
//! ```
//! Runs on one thread, owns no socket, thread or clock (the clock is a seam), and takes one input at a time.
//! What must stay true: nothing is acted on before it is durable; a refused input changes nothing; the steps
//! come from [`crate::plan::plan`] only.

mod diff;
mod documents;
mod durable;
mod operator;
mod passing;
mod reconcile;
mod report;
mod restart;
mod tick;

pub use documents::{FileText, SourceEvent};
pub use operator::{ApiError, Put};

use crate::clock::{Clock, Now};
use crate::events::{Counts, Events};
use crate::goal::{Check, Made, RowCache, Tables, Target};
use crate::health::{Health, Outcome, TargetState};
use crate::host::{Adoption, Host, HostError, Swept};
use crate::ledger::{Kept, Ledger, LedgerError, Opened};
use crate::model::Observed;
use documents::Documents;
use sluice_api::check::types::VipAddress;
use sluice_api::check::{CheckedDocument, Desired};
use sluice_api::rest::Event;
use sluice_api::status::ItemError;
use sluice_loader::Link;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What the engine is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node in the documents.
    pub node: String,
    /// Put the addresses of balanced VIPs on this node, announced.
    pub announce: bool,
    /// Run a proxy when the node is a member of a group.
    pub with_proxy: bool,
    /// Directory that documents put over the API are written to.
    pub placements: Option<PathBuf>,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What runs on the node cannot be taken over.
    #[error("adopt what runs on this node: {0}")]
    Adopt(HostError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The agent without its rim.
pub struct Engine<H: Host> {
    pub(crate) config: Config,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) ledger: Ledger,
    pub(crate) host: H,
    pub(crate) documents: Documents,
    pub(crate) desired: Desired,
    pub(crate) tables: Tables,
    pub(crate) rows: RowCache,
    pub(crate) made: Made,
    pub(crate) observed: Observed,
    pub(crate) targets: BTreeMap<Target, (Check, TargetState)>,
    /// Raised when the list of targets changes, for the prober.
    pub(crate) targets_version: u64,
    pub(crate) links: BTreeMap<IpAddr, Link>,
    pub(crate) timers: tick::Timers,
    pub(crate) windows: BTreeMap<VipAddress, u64>,
    /// Errors of the last run of steps.
    pub(crate) step_errors: Vec<ItemError>,
    /// Errors that belong to no step (source, window, sweep), by item.
    pub(crate) other_errors: BTreeMap<String, ItemError>,
    pub(crate) steps_done: bool,
    pub(crate) observed_generations: BTreeMap<String, u64>,
    pub(crate) events: Events,
    pub(crate) counts: Counts,
    pub(crate) proxy_restarts: u64,
    pub(crate) restarts: restart::Restarts,
    pub(crate) passing: passing::Passing,
    pub(crate) released: bool,
    pub(crate) last_sweep: Swept,
}

impl<H: Host> Engine<H> {
    /// Adopts what runs, reads the ledger back and carries out what it says.
    ///
    /// # Errors
    /// Nothing was changed on the node.
    pub fn start(
        config: Config,
        clock: Box<dyn Clock>,
        ledger: Ledger,
        opened: &Opened,
        mut host: H,
    ) -> Result<Self, StartError> {
        let adoption = host.adopt().map_err(StartError::Adopt)?;
        let observed = host.observe().map_err(StartError::Adopt)?;
        let mut engine = Engine {
            config,
            clock,
            ledger,
            host,
            documents: Documents::default(),
            desired: Desired::default(),
            tables: Tables::default(),
            rows: RowCache::default(),
            made: Made::default(),
            observed,
            targets: BTreeMap::new(),
            targets_version: 0,
            links: BTreeMap::new(),
            timers: tick::Timers::default(),
            windows: BTreeMap::new(),
            step_errors: Vec::new(),
            other_errors: BTreeMap::new(),
            steps_done: false,
            observed_generations: BTreeMap::new(),
            events: Events::default(),
            counts: Counts::default(),
            proxy_restarts: 0,
            restarts: restart::Restarts::default(),
            passing: passing::Passing::default(),
            released: false,
            last_sweep: Swept::default(),
        };
        engine.tell_start(&adoption, opened);
        engine.read_back();
        engine.adopt_links();
        engine.open_windows_found();
        if !engine.documents.held.is_empty() {
            engine.reconcile();
        }
        Ok(engine)
    }

    fn tell_start(&mut self, adoption: &Adoption, opened: &Opened) {
        let now = self.clock.now();
        if let Some(path) = &opened.damaged {
            let message =
                format!("the ledger was damaged; it is kept as {} and a new one begun", path.display());
            self.events.add(now, "ledger_damaged", "ledger", message);
        }
        if adoption.maps {
            let message = format!(
                "pinned tables in use again: {} VIPs, {} backends",
                self.observed.vips.len(),
                self.observed.backends.len()
            );
            self.events.add(now, "tables_adopted", "balancer", message);
        }
        if let Some(pid) = adoption.proxy_pid {
            self.events.add_with(
                now,
                "proxy_adopted",
                "proxy",
                format!("process {pid}"),
                &[("pid", u64::from(pid))],
            );
        }
    }

    /// Documents of the ledger become the desired state again, without any source.
    fn read_back(&mut self) {
        let now = self.clock.now();
        let mut held: BTreeMap<String, Arc<CheckedDocument>> = BTreeMap::new();
        for (name, kept) in self.ledger.documents() {
            match sluice_api::check::parse_document(&kept.text) {
                Ok(document) => drop(held.insert(name.clone(), Arc::new(document))),
                Err(errors) => {
                    // Only a program with other rules than the one that wrote it comes here.
                    let message = format!("{} in the ledger is refused now: {errors:?}", kept.generation);
                    self.events.add(now, "document_refused", name.clone(), message);
                }
            }
        }
        match sluice_api::check::check_set(held.values().map(Arc::as_ref)) {
            Ok(desired) => {
                self.desired = desired;
                self.documents.held = held;
            }
            Err(errors) => {
                let message = format!("the documents in the ledger are refused together: {errors:?}");
                self.events.add(now, "document_refused", "ledger", message);
            }
        }
        self.rows.documents_changed();
    }

    /// Next hops in adopted rows stay in use until resolved anew: a restart takes no backend out.
    fn adopt_links(&mut self) {
        for row in self.observed.backends.values() {
            if let Some(link) = row.link {
                let addresses = row.addr4.map(IpAddr::V4).into_iter().chain(row.addr6.map(IpAddr::V6));
                self.links.extend(addresses.map(|address| (address, link)));
            }
        }
    }

    /// Health of a backend as the tables of a former agent have it.
    pub(crate) fn adopted_health(&self, target: &Target) -> Health {
        let Target::Backend { pool, name } = target else { return Health::Unknown };
        if crate::goal::drained_by_operator(self.passing.drains_over(), pool, name) {
            // Its row says that the drain is over, nothing of its health.
            return Health::Unknown;
        }
        let id = self.desired.pools().get(pool).and_then(|pool| {
            let backend = pool.backends().iter().find(|b| b.name() == name)?;
            self.ledger.ids().get(&crate::goal::id_key(pool.name(), backend))
        });
        match id.and_then(|id| self.observed.backends.get(&id)) {
            Some(row) if !row.alive => Health::Down,
            _ => Health::Unknown,
        }
    }

    /// Takes the result of a probe.
    pub fn probe_result(&mut self, target: &Target, outcome: Outcome) {
        self.counts.add("probes");
        let Some((check, state)) = self.targets.get_mut(target) else { return };
        let before = state.health();
        if !state.on_probe(outcome, check.health.rise(), check.health.fall()) {
            return;
        }
        let after = state.health();
        let (kind, now) = (matches!(target, Target::Member { .. }), self.clock.now());
        if before != Health::Down && after == Health::Down {
            self.counts.add("health_down");
            self.passing.gone(target);
            let kind = if kind { "member_down" } else { "backend_down" };
            self.events.add(now, kind, target.to_string(), format!("found down ({outcome:?})"));
        } else if before == Health::Down && after == Health::Up {
            self.counts.add("health_up");
            self.passing.came_back(target, now, self.slow_start_ms(target));
            let kind = if kind { "member_up" } else { "backend_up" };
            self.events.add(now, kind, target.to_string(), "answers again".to_owned());
        }
        self.reconcile();
    }

    fn slow_start_ms(&self, target: &Target) -> u64 {
        let Target::Backend { pool, .. } = target else { return 0 };
        self.desired.pools().get(pool).map_or(0, |pool| pool.slow_start_ms())
    }

    /// A probe had to wait for a place among those under way.
    pub fn probe_waited(&mut self) {
        self.counts.add("probe_waits");
    }

    /// What to probe; the version changes with the list.
    pub fn targets(&self) -> (u64, BTreeMap<Target, Check>) {
        (
            self.targets_version,
            self.targets.iter().map(|(t, (check, _))| (t.clone(), check.clone())).collect(),
        )
    }

    /// Version of [`Self::targets`].
    pub const fn targets_version(&self) -> u64 {
        self.targets_version
    }

    /// Everything was taken off the node; the engine has nothing more to do.
    pub const fn is_released(&self) -> bool {
        self.released
    }

    /// The engine's monotonic clock, microseconds.
    pub fn now_us(&self) -> u64 {
        self.clock.now().mono_us
    }

    /// Number of the newest event.
    pub const fn last_event(&self) -> u64 {
        self.events.last()
    }

    /// Events after a number, oldest first.
    pub fn events_after(&self, sequence: u64) -> Vec<Event> {
        self.events.after(sequence)
    }

    /// The node under the engine.
    pub const fn host(&self) -> &H {
        &self.host
    }

    /// The node under the engine, for tests and simulations that break it.
    pub const fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// Gives the ledger and the node back, as a crash leaves them.
    pub fn into_parts(self) -> (Ledger, H) {
        (self.ledger, self.host)
    }

    /// Documents in the ledger.
    pub const fn kept(&self) -> &BTreeMap<String, Kept> {
        self.ledger.documents()
    }

    /// Every desired step is done and no error stands. The next hop of a backend that should take new flows is
    /// part of that; one that is drained may be switched off.
    pub fn converged(&self) -> bool {
        let errors =
            !self.step_errors.is_empty() || !self.made.errors.is_empty() || !self.other_errors.is_empty();
        self.steps_done && !errors
    }

    /// A window that was observed and is not timed yet (adopted, or of a step whose answer was lost) closes as if
    /// it had opened now.
    pub(crate) fn open_windows_found(&mut self) {
        let now = self.clock.now();
        let untimed = |vip: &&VipAddress| !self.windows.contains_key(vip);
        let found: Vec<VipAddress> = self.observed.windows.iter().filter(untimed).copied().collect();
        for vip in found {
            self.window_opened(vip, now);
        }
    }

    /// A window closes when the longest silent flow of before the change is dead.
    pub(crate) fn window_opened(&mut self, vip: VipAddress, now: Now) {
        let idle = self.observed.vips.get(&vip).map_or(0, |v| u64::from(v.flow_idle_ms));
        self.windows.insert(vip, now.mono_ms() + idle);
    }
}
