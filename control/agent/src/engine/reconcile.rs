//! From what is desired to steps carried out.

use super::Engine;
use super::tick::window_item;
use crate::goal::{self, Inputs, Seen, Target};
use crate::health::TargetState;
use crate::host::Host;
use crate::ledger::LedgerError;
use crate::plan::{Lane, Step, plan};
use sluice_api::status::ItemError;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A retired backend id rests at least this long even when every VIP's flows are shorter, ms: a flow entry's
/// age is counted in units of 17 s.
const RETIRE_MS_MIN: u64 = 60_000;

/// Item of errors in giving ids.
const IDS_ITEM: &str = "backend ids";

impl<H: Host> Engine<H> {
    /// Makes the goal, plans, carries out. Returns how many steps succeeded.
    pub(crate) fn reconcile(&mut self) -> usize {
        if self.released {
            return 0;
        }
        self.update_ids();
        self.pass_time();
        self.update_targets();
        self.update_links_wanted();
        let served = self.observed.proxy_serves();
        let mut done = self.one_round();
        if self.observed.proxy_serves() != served && self.made.goal.routes.is_some() {
            // Whether a local VIP is announced depends on what the steps just did.
            done += self.one_round();
        }
        self.tables.forget_unused();
        done
    }

    fn one_round(&mut self) -> usize {
        self.remake_goal();
        self.adopt_rows();
        let steps = plan(&self.made.goal, &self.observed);
        self.counts.add("plans");
        let done = self.carry_out(&steps);
        self.withdraw_unserved();
        self.settle(steps.len() == done && self.ids_given());
        done
    }

    /// Steps failed that the announced addresses need: routers are better off with another box.
    fn withdraw_unserved(&mut self) {
        let Some(wanted) = &self.made.goal.routes else { return };
        let lost = self.observed.unserved(&self.made.goal);
        let now = self.observed.routes.as_ref().unwrap_or(wanted);
        if now.is_disjoint(&lost) {
            return;
        }
        let step = Step::Withdraw(now.difference(&lost).copied().collect());
        self.counts.add("withdrawals_unserved");
        match self.host.apply(&step) {
            Ok(()) => self.observed.apply(&step),
            Err(error) => {
                let message = format!("{step}: {}", error.message);
                self.step_errors.push(ItemError { item: step.item(), message, retry: error.retry });
            }
        }
    }

    fn update_targets(&mut self) {
        let wanted = goal::targets(&self.config.node, &self.desired, self.config.with_proxy);
        let same = self.targets.len() == wanted.len()
            && self.targets.iter().zip(&wanted).all(|((a, (check, _)), (b, other))| a == b && check == other);
        if same {
            return;
        }
        let mut next = BTreeMap::new();
        for target in self.targets.keys().filter(|target| !wanted.contains_key(*target)) {
            self.passing.gone(target);
        }
        for (target, check) in wanted {
            // A check that moved to another address says nothing of the old one's health.
            let state = match self.targets.get(&target) {
                Some((old, state)) if old.address == check.address => *state,
                _ => TargetState::new(self.adopted_health(&target)),
            };
            next.insert(target, (check, state));
        }
        self.targets = next;
        self.targets_version += 1;
    }

    fn update_ids(&mut self) {
        let wanted = goal::id_keys(&self.config.node, &self.desired);
        if self.ledger.ids().are_exactly(&wanted) {
            self.other_errors.remove(IDS_ITEM);
            return;
        }
        let busy = match self.host.ids_in_use() {
            Ok(busy) => busy,
            Err(error) => return self.id_error(error.message),
        };
        let idle_ms =
            self.desired.vips().values().map(|v| v.flow_idle_ms()).max().unwrap_or(0).max(RETIRE_MS_MIN);
        let now = self.clock.now().wall_ms();
        let result = self.ledger.ids().change_to(&wanted, &busy, now, idle_ms, self.host.backend_id_max());
        let result = match result {
            Ok(None) => Ok(()),
            Ok(Some(change)) => self.ledger.commit_ids(&change),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => drop(self.other_errors.remove(IDS_ITEM)),
            Err(error) => {
                if !matches!(error, LedgerError::NoId { .. }) {
                    self.ledger_failed(&error.to_string());
                }
                self.id_error(error.to_string());
            }
        }
    }

    /// Every backend has its id: else its rows and slots are not in the steps at all.
    fn ids_given(&self) -> bool {
        self.made.without_id == 0 && !self.other_errors.contains_key(IDS_ITEM)
    }

    fn id_error(&mut self, message: String) {
        self.counts.add("id_errors");
        let item = IDS_ITEM.to_owned();
        self.other_errors.insert(item.clone(), ItemError { item, message, retry: true });
    }

    pub(crate) fn health_seen(&self) -> BTreeMap<Target, Seen> {
        let now = self.clock.now();
        let seen = |target: &Target, state: &TargetState| Seen {
            up: state.counts_as_up(),
            keeps_flows: state.keeps_flows(),
            step: self.passing.step(target, now),
        };
        self.targets.iter().map(|(target, (_, state))| (target.clone(), seen(target, state))).collect()
    }

    pub(crate) fn inputs<'a>(&'a self, health: &'a BTreeMap<Target, Seen>) -> Inputs<'a> {
        Inputs {
            node: &self.config.node,
            desired: &self.desired,
            drains: self.ledger.drains(),
            drains_over: self.passing.drains_over(),
            ids: self.ledger.ids(),
            health,
            links: &self.links,
            revision_floor: self.ledger.proxy_rows().0,
            announce: self.config.announce,
            with_proxy: self.config.with_proxy,
            speaks: self.host.speaks(),
            proxy_serves: self.observed.proxy_serves(),
        }
    }

    fn remake_goal(&mut self) {
        let health = self.health_seen();
        let (mut tables, mut rows) = (std::mem::take(&mut self.tables), std::mem::take(&mut self.rows));
        let made = goal::make(&self.inputs(&health), &mut tables, &mut rows);
        (self.tables, self.rows) = (tables, rows);
        let now = self.clock.now();
        for pool in made.panics.iter().filter(|pool| !self.made.panics.contains(pool)) {
            self.counts.add("pool_panics");
            let message = "too few active backends look healthy: all keep their slots".to_owned();
            self.events.add(now, "pool_panic", pool.clone(), message);
        }
        self.made = made;
    }

    /// Rows of an adopted proxy are known if the ledger noted the same digest at the proxy's revision.
    fn adopt_rows(&mut self) {
        let (revision, digest) = self.ledger.proxy_rows();
        if let (Some(goal), Some(proxy)) = (&self.made.goal.proxy, &mut self.observed.proxy)
            && proxy.rows.is_none()
            && proxy.revision > 0
            && proxy.revision == revision
            && rows_digest(&goal.rows) == digest
        {
            proxy.rows = Some(std::sync::Arc::clone(&goal.rows));
        }
    }

    /// Carries out steps; after a failure the rest of its lane waits. Returns how many succeeded.
    fn carry_out(&mut self, steps: &[Step]) -> usize {
        let mut failed: BTreeSet<Lane> = BTreeSet::new();
        let mut done = 0;
        self.step_errors.clear();
        for step in steps {
            if failed.contains(&step.lane()) {
                continue;
            }
            if matches!(step, Step::StartProxy(_)) && self.start_waits(step) {
                failed.insert(step.lane());
                continue;
            }
            self.counts.add("steps");
            match self.host.apply(step) {
                Ok(()) => {
                    done += 1;
                    self.observed.apply(step);
                    self.after_step(step);
                }
                Err(error) => {
                    failed.insert(step.lane());
                    self.counts.add("step_errors");
                    let now = self.clock.now();
                    self.events.add(now, "step_failed", step.item(), format!("{step}: {error}"));
                    let message = format!("{step}: {}", error.message);
                    self.step_errors.push(ItemError { item: step.item(), message, retry: error.retry });
                }
            }
        }
        done
    }

    /// A proxy that keeps ending is not started at once again; says so as long as that holds.
    fn start_waits(&mut self, step: &Step) -> bool {
        let Some(wait_ms) = self.restarts.wanted(self.clock.now().mono_ms()) else { return false };
        self.counts.add("proxy_starts_held");
        let ends = self.restarts.strikes();
        let message =
            format!("{step}: it ended early {ends} times in a row; the next start is in {wait_ms} ms");
        self.step_errors.push(ItemError { item: step.item(), message, retry: true });
        true
    }

    fn after_step(&mut self, step: &Step) {
        let now = self.clock.now();
        if let Step::PutVip { goal, .. } = step
            && matches!(goal.mode, sluice_loader::Mode::Nat { .. })
        {
            self.sweep_soon(now);
        }
        match step {
            Step::PutVip { vip, .. } | Step::SetOwners { vip, .. } if self.observed.windows.contains(vip) => {
                self.window_opened(*vip, now);
            }
            Step::RemoveVip(vip) => {
                self.windows.remove(vip);
                self.other_errors.remove(&window_item(*vip));
            }
            Step::CloseBalancer => {
                for vip in std::mem::take(&mut self.windows).into_keys() {
                    self.other_errors.remove(&window_item(vip));
                }
                self.other_errors.remove("sweep");
            }
            Step::ApplyRows { .. } => self.note_proxy_rows(),
            Step::StartProxy(_) | Step::UpgradeProxy(_) => {
                let pid = self.read_pid();
                self.restarts.started(now.mono_ms());
                let upgraded = matches!(step, Step::UpgradeProxy(_));
                let kind = if upgraded { "proxy_upgraded" } else { "proxy_started" };
                self.events.add_with(
                    now,
                    kind,
                    "proxy",
                    format!("process {pid}"),
                    &[("pid", u64::from(pid))],
                );
            }
            _ => {}
        }
    }

    /// The host knows the process id of a proxy it started.
    fn read_pid(&mut self) -> u32 {
        let pid = self.host.observe().ok().and_then(|o| o.proxy).map_or(0, |p| p.pid);
        if let Some(proxy) = &mut self.observed.proxy {
            proxy.pid = pid;
        }
        pid
    }

    fn settle(&mut self, all_done: bool) {
        let now = self.clock.now();
        let was = std::mem::replace(&mut self.steps_done, all_done);
        let worth_it = !self.ids_given() || self.step_errors.iter().any(|error| error.retry);
        self.timers.after_steps(all_done, worth_it, now);
        if !all_done {
            return;
        }
        let mut news = !was;
        for (name, generation) in self.desired.generations() {
            if self.observed_generations.insert(name.clone(), *generation) != Some(*generation) {
                news = true;
            }
        }
        if news {
            let message = format!("{} documents carried out", self.desired.generations().len());
            self.events.add(now, "converged", self.config.node.clone(), message);
        }
    }
}

/// Digest of rows, to recognise after a restart what a proxy has. Equal rows of one program build have equal
/// digests; a wrong "different" only sends all rows again.
pub(crate) fn rows_digest(rows: &crate::model::ProxyRows) -> u64 {
    let mut hasher = DefaultHasher::new();
    rows.own_group.hash(&mut hasher);
    // Debug shows every field of this small plain type.
    format!("{:?}", rows.view).hash(&mut hasher);
    rows.origins.iter().for_each(|origin| origin.raw().hash(&mut hasher));
    rows.sites.iter().for_each(|site| site.raw().hash(&mut hasher));
    hasher.finish()
}
