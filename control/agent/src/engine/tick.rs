//! What time brings: retries, next hops, windows, sweeps, drift, removals.

use super::Engine;
use crate::clock::Now;
use crate::host::Host;
use sluice_api::check::types::VipAddress;
use sluice_api::status::ItemError;
use sluice_loader::Link;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// First retry after a failed step, ms; doubles each time.
const RETRY_MS_MIN: u64 = 50;
/// Longest time between retries, ms.
const RETRY_MS_MAX: u64 = 5_000;
/// Time between tries of what only a change from outside can mend, ms: that change may come unseen.
const RETRY_LASTING_MS: u64 = 30_000;
/// Next hops are asked for this often while one that is wanted is new, ms.
const LINK_HURRY_MS: u64 = 100;
/// A next hop not found this long after it was first wanted is an error that no longer hurries, ms.
const LINK_SETTLE_MS: u64 = 3_000;
/// Next hops are looked at this often otherwise, ms: about the time a failed MAC takes to be noticed.
const LINK_REFRESH_MS: u64 = 2_000;
/// Flow entries are swept this often while slots ask for them, ms.
const SWEEP_MS: u64 = 5_000;
/// Flow entries are swept at least this often, ms: their clock must not wrap.
const SWEEP_IDLE_MS: u64 = 600_000;
/// The node is looked at for drift this often, ms: somebody flushed an address, detached the program.
const DRIFT_MS: u64 = 10_000;

/// When the next of each is due, monotonic ms.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    retry_at: Option<u64>,
    retry_ms: u64,
    links_at: u64,
    sweep_at: u64,
    drift_at: u64,
    /// The ledger refused: when it is tried again, and after how long.
    ledger_at: Option<u64>,
    ledger_ms: u64,
    /// Next hops wanted and when they were first wanted.
    wanted: BTreeMap<IpAddr, u64>,
}

impl Timers {
    /// Success forgets the retries; failure makes the next one later, and much later if only a change from
    /// outside helps.
    pub(crate) fn after_steps(&mut self, all_done: bool, worth_it: bool, now: Now) {
        if all_done {
            (self.retry_at, self.retry_ms) = (None, 0);
            return;
        }
        let range = if worth_it { RETRY_MS_MIN..=RETRY_MS_MAX } else { RETRY_LASTING_MS..=RETRY_LASTING_MS };
        self.retry_ms = (self.retry_ms * 2).clamp(*range.start(), *range.end());
        self.retry_at = Some(now.mono_ms() + self.retry_ms);
    }

    /// A commit failed: the next try comes later than the last one did.
    pub(crate) fn after_ledger_failed(&mut self, now: Now) {
        if self.ledger_at.is_none() {
            self.ledger_ms = (self.ledger_ms * 2).clamp(RETRY_MS_MIN, RETRY_MS_MAX);
            self.ledger_at = Some(now.mono_ms() + self.ledger_ms);
        }
    }

    /// A commit succeeded.
    pub(crate) const fn after_ledger_works(&mut self) {
        (self.ledger_at, self.ledger_ms) = (None, 0);
    }

    /// The try that was due is made.
    pub(crate) const fn ledger_retried(&mut self) {
        self.ledger_at = None;
    }

    /// A commit failed and none succeeded since.
    pub(crate) const fn ledger_fails(&self) -> bool {
        self.ledger_at.is_some()
    }
}

/// Item of errors in closing a window.
pub(crate) fn window_item(vip: VipAddress) -> String {
    format!("window of vip {vip}")
}

impl<H: Host> Engine<H> {
    /// Time of the next [`Self::tick`] that has something to do, monotonic ms.
    pub fn next_tick_ms(&self) -> u64 {
        let timers = &self.timers;
        let mut due = vec![timers.drift_at];
        due.extend(timers.retry_at);
        due.extend(timers.ledger_at);
        due.extend(self.restarts.due());
        due.extend(self.passing.due());
        due.extend(self.next_removal_ms());
        due.extend(self.windows.values().min());
        if !timers.wanted.is_empty() {
            due.push(timers.links_at);
        }
        if self.observed.balancer {
            due.push(timers.sweep_at);
        }
        due.into_iter().min().unwrap_or(timers.drift_at)
    }

    /// Does what is due.
    pub fn tick(&mut self) {
        if self.released {
            return;
        }
        let now = self.clock.now();
        let mut again = self.timers.retry_at.is_some_and(|at| at <= now.mono_ms());
        again |= self.restarts.take_due(now.mono_ms());
        again |= self.passing.take_due(now);
        if self.timers.ledger_at.is_some_and(|at| at <= now.mono_ms()) {
            self.retry_ledger();
        }
        if self.next_removal_ms().is_some_and(|at| at <= now.mono_ms()) {
            self.try_waiting();
        }
        self.close_due_windows(now);
        if !self.timers.wanted.is_empty() && self.timers.links_at <= now.mono_ms() {
            again |= self.refresh_links(now);
        }
        if self.observed.balancer && self.timers.sweep_at <= now.mono_ms() {
            self.sweep(now);
        }
        if self.timers.drift_at <= now.mono_ms() {
            again |= self.look_for_drift(now);
        }
        if again {
            self.reconcile();
        }
    }

    /// A supervised proxy ended: look now instead of at the next drift check.
    pub fn proxy_ended(&mut self, pid: u32) {
        if self.observed.proxy.as_ref().is_some_and(|p| p.pid == pid) && self.look_for_drift(self.clock.now())
        {
            self.reconcile();
        }
    }

    fn close_due_windows(&mut self, now: Now) {
        let due: Vec<_> =
            self.windows.iter().filter(|(_, at)| **at <= now.mono_ms()).map(|(vip, _)| *vip).collect();
        for vip in due {
            let item = window_item(vip);
            match self.host.close_window(vip) {
                Ok(()) => {
                    self.windows.remove(&vip);
                    self.observed.windows.remove(&vip);
                    self.other_errors.remove(&item);
                    self.counts.add("windows_closed");
                    let message = "flows of before the last change are dead".to_owned();
                    self.events.add(now, "window_closed", vip.to_string(), message);
                }
                Err(error) => {
                    self.windows.insert(vip, now.mono_ms() + RETRY_MS_MAX);
                    self.host_error(item, error.message);
                }
            }
        }
    }

    fn host_error(&mut self, item: String, message: String) {
        self.counts.add("host_errors");
        self.other_errors.insert(item.clone(), ItemError { item, message, retry: true });
    }

    fn has_nat(&self) -> bool {
        self.observed.vips.values().any(|vip| matches!(vip.mode, sluice_loader::Mode::Nat { .. }))
    }

    /// A VIP came whose flows are aged from here.
    pub(crate) fn sweep_soon(&mut self, now: Now) {
        self.timers.sweep_at = self.timers.sweep_at.min(now.mono_ms() + SWEEP_MS);
    }

    fn sweep(&mut self, now: Now) {
        let mut pause = SWEEP_IDLE_MS;
        match self.host.sweep() {
            Ok(swept) => {
                self.other_errors.remove("sweep");
                self.last_sweep = swept;
                self.counts.add_n("flows_expired", swept.expired);
                self.counts.add_n("nat_flows_expired", swept.nat_expired);
                if self.has_nat() || swept.asking_slots > 0 || !self.windows.is_empty() {
                    pause = SWEEP_MS;
                }
            }
            Err(error) => self.host_error("sweep".to_owned(), error.message),
        }
        self.timers.sweep_at = now.mono_ms() + pause;
    }

    /// Next hops that the goal needs; new ones are asked for at once.
    pub(crate) fn update_links_wanted(&mut self) {
        let now = self.clock.now();
        let wanted: BTreeSet<IpAddr> = crate::goal::pools_balanced(&self.config.node, &self.desired)
            .values()
            .flat_map(|pool| pool.backends().iter().map(|b| b.probe_address()))
            .collect();
        let known = wanted.len() == self.timers.wanted.len()
            && wanted.iter().all(|a| self.timers.wanted.contains_key(a));
        if known {
            return;
        }
        let before = std::mem::take(&mut self.timers.wanted);
        let since = |address: &IpAddr| before.get(address).copied().unwrap_or(now.mono_ms());
        self.timers.wanted = wanted.iter().map(|address| (*address, since(address))).collect();
        self.links.retain(|address, _| wanted.contains(address));
        self.refresh_links(now);
    }

    /// The node says that neighbours or routes changed: looks at once, without asking for any.
    pub fn links_changed(&mut self) {
        if self.timers.wanted.is_empty() || self.released {
            return;
        }
        self.counts.add("link_looks");
        let wanted: BTreeSet<IpAddr> = self.timers.wanted.keys().copied().collect();
        let links = self.host.look(&wanted);
        if self.take_links(links, self.clock.now()) {
            self.reconcile();
        }
    }

    /// Asks the host; `true` if something changed.
    fn refresh_links(&mut self, now: Now) -> bool {
        let wanted: BTreeSet<IpAddr> = self.timers.wanted.keys().copied().collect();
        let links = self.host.resolve(&wanted);
        let changed = self.take_links(links, now);
        let hurry = self.links_settling(now);
        self.timers.links_at = now.mono_ms() + if hurry { LINK_HURRY_MS } else { LINK_REFRESH_MS };
        changed
    }

    fn take_links(&mut self, mut links: BTreeMap<IpAddr, Link>, now: Now) -> bool {
        // An adopted or former next hop is better than none while the question is fresh.
        for (address, link) in &self.links {
            let fresh =
                self.timers.wanted.get(address).is_some_and(|since| since + LINK_SETTLE_MS > now.mono_ms());
            if fresh {
                links.entry(*address).or_insert(*link);
            }
        }
        let changed = links != self.links;
        let moved = |(address, link): (&IpAddr, &Link)| {
            links.get(address).is_some_and(|new| new.dst_mac != link.dst_mac)
        };
        let moves = self.links.iter().filter(|pair| moved(*pair)).count();
        self.counts.add_n("next_hop_moves", u64::try_from(moves).unwrap_or(u64::MAX));
        self.links = links;
        changed
    }

    /// Some next hop has been asked for only a short time.
    fn links_settling(&self, now: Now) -> bool {
        let open = |(address, since): (&IpAddr, &u64)| {
            !self.links.contains_key(address) && since + LINK_SETTLE_MS > now.mono_ms()
        };
        self.timers.wanted.iter().any(open)
    }

    /// Compares the node with what the agent believes; `true` if they differ.
    fn look_for_drift(&mut self, now: Now) -> bool {
        self.timers.drift_at = now.mono_ms() + DRIFT_MS;
        let mut found = match self.host.observe() {
            Ok(found) => found,
            Err(error) => {
                self.host_error("observe".to_owned(), error.message);
                return false;
            }
        };
        self.other_errors.remove("observe");
        if let (Some(found), Some(known)) = (&mut found.proxy, &self.observed.proxy)
            && found.pid == known.pid
            && found.revision == known.revision
        {
            found.rows = known.rows.clone();
        }
        if found == self.observed {
            return false;
        }
        if let Some(gone) = self
            .observed
            .proxy
            .as_ref()
            .filter(|known| found.proxy.as_ref().is_none_or(|p| p.pid != known.pid))
        {
            self.proxy_restarts += 1;
            self.restarts.ended(now.mono_ms());
            self.counts.add("proxy_deaths");
            let message = format!("process {} is gone", gone.pid);
            self.events.add_with(now, "proxy_died", "proxy", message, &[("pid", u64::from(gone.pid))]);
        }
        self.counts.add("drifts");
        self.observed = found;
        self.open_windows_found();
        true
    }
}
