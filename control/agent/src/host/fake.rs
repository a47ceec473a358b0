//! A node in memory.
//!
//! Deterministic, without clock, thread or random source of its own. It checks what a kernel would not: that
//! slots never name a backend without a row, that a row goes only when no slot names it, and that row changes
//! sent to the proxy add up to the rows the agent believes in. A broken rule panics: it is a fault of the agent.

use super::{Adoption, Host, HostError, Swept};
use crate::model::{Observed, ProxyRows};
use crate::plan::Step;
use sluice_api::check::types::VipAddress;
use sluice_api::placement::{Origin, Site};
use sluice_api::proxy_admin::{Answer, Apply, GroupView, Request, Stats};
use sluice_loader::{Counters, FiveTuple, Link, Trace};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// What happens to an apply call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It succeeds.
    None,
    /// It fails and nothing happened.
    Refuse(HostError),
    /// It happened, and the answer is lost.
    LoseAnswer(HostError),
}

/// The node.
#[derive(Clone, Debug, Default)]
pub struct FakeHost {
    /// What outlives the agent: kernel tables, addresses, the proxy.
    pub state: Observed,
    /// Rows in the proxy, as a proxy keeps them.
    pub proxy: FakeProxy,
    /// Next hops that resolve.
    pub links: BTreeMap<IpAddr, Link>,
    /// Ids that flow entries name.
    pub flow_ids: BTreeSet<u16>,
    /// Faults of the next apply calls, in order.
    pub faults: VecDeque<Fault>,
    /// Steps carried out, in words.
    pub log: Vec<String>,
    /// Process id of the next proxy.
    pub next_pid: u32,
    /// It can tell routers of addresses.
    pub speaks: bool,
}

/// Rows of a proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FakeProxy {
    /// Revision in effect.
    pub revision: u64,
    /// Group view.
    pub view: Option<GroupView>,
    /// Origins by name.
    pub origins: BTreeMap<String, Origin>,
    /// Sites by host.
    pub sites: BTreeMap<String, Site>,
}

impl FakeProxy {
    fn apply(&mut self, apply: &Apply) -> Result<(), HostError> {
        if apply.revision <= self.revision {
            return Err(HostError::lasting(format!("revision {} after {}", apply.revision, self.revision)));
        }
        let mut next =
            if apply.full { FakeProxy { view: self.view.clone(), ..Self::default() } } else { self.clone() };
        next.revision = apply.revision;
        next.view = apply.group.clone().or(next.view);
        next.origins.extend(apply.origins.iter().map(|o| (o.name.clone(), o.clone())));
        next.sites.extend(apply.sites.iter().map(|s| (s.host.clone(), s.clone())));
        next.sites.retain(|host, _| !apply.sites_removed.contains(host));
        next.origins.retain(|name, _| !apply.origins_removed.contains(name));
        for site in next.sites.values() {
            let named = site.routes.iter().filter_map(|r| r.origin.as_ref()).chain([&site.origin]);
            for origin in named {
                if !next.origins.contains_key(origin) {
                    return Err(HostError::lasting(format!("site {} names no origin {origin}", site.host)));
                }
            }
        }
        *self = next;
        Ok(())
    }

    fn has(&self, rows: &ProxyRows) -> bool {
        self.view.as_ref() == Some(&rows.view)
            && self.origins.values().eq(rows.origins.iter().map(|o| o.raw()))
            && self.sites.len() == rows.sites.len()
            && self
                .sites
                .values()
                .zip(&rows.sites)
                .all(|(have, want)| *have == Site { group: rows.own_group.clone(), ..want.raw().clone() })
    }
}

impl FakeHost {
    /// An empty node.
    pub fn new() -> Self {
        FakeHost { next_pid: 100, ..Self::default() }
    }

    /// Makes an address resolve.
    pub fn add_link(&mut self, address: IpAddr) {
        let last = match address {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        };
        let link =
            Link { ifindex: 2, dst_mac: [2, 0, 0, 0, 0, last], src_mac: [2, 0, 0, 0, 1, 0], mtu: 1500 };
        self.links.insert(address, link);
    }

    /// The proxy process dies.
    pub fn kill_proxy(&mut self) {
        self.state.proxy = None;
        self.proxy = FakeProxy::default();
    }

    /// The node reboots: kernel tables, addresses and processes are gone.
    pub fn reboot(&mut self) {
        self.state = Observed::default();
        self.proxy = FakeProxy::default();
        self.flow_ids.clear();
    }

    fn carry_out(&mut self, step: &Step) -> Result<(), HostError> {
        match step {
            Step::PutBackend(_) | Step::RemoveBackend(_) | Step::PutVip { .. } | Step::SetOwners { .. } => {
                assert!(self.state.balancer, "tables are written before they are open: {step}");
            }
            Step::StartProxy(_) if self.state.proxy.is_some() => {
                return Err(HostError::lasting("a proxy runs already"));
            }
            Step::UpgradeProxy(_) | Step::DrainProxy(_) | Step::ApplyRows { .. }
                if self.state.proxy.is_none() =>
            {
                return Err(HostError::passing("no proxy runs"));
            }
            _ => {}
        }
        match step {
            Step::PutVip { goal, .. } => self.need_rows(&goal.owners),
            Step::SetOwners { owners, .. } => self.need_rows(owners),
            Step::RemoveBackend(id) => {
                let named = self.state.vips.values().any(|vip| vip.owners.contains(id));
                assert!(!named, "backend {id} goes while a slot names it");
            }
            Step::ApplyRows { apply, rows } => {
                self.proxy.apply(apply)?;
                assert!(self.proxy.has(rows), "rows sent do not add up to the rows wanted");
            }
            Step::StartProxy(_) | Step::UpgradeProxy(_) | Step::StopProxy => {
                self.proxy = FakeProxy::default()
            }
            _ => {}
        }
        self.state.apply(step);
        if let (Step::StartProxy(_) | Step::UpgradeProxy(_), Some(proxy)) = (step, &mut self.state.proxy) {
            proxy.pid = self.next_pid;
            self.next_pid += 1;
        }
        self.log.push(step.to_string());
        Ok(())
    }

    fn need_rows(&self, owners: &[u16]) {
        let missing = owners.iter().find(|id| **id != 0 && !self.state.backends.contains_key(id));
        assert!(missing.is_none(), "a slot would name backend {missing:?} that has no row");
    }
}

impl Host for FakeHost {
    fn adopt(&mut self) -> Result<Adoption, HostError> {
        Ok(Adoption { maps: self.state.balancer, proxy_pid: self.state.proxy.as_ref().map(|p| p.pid) })
    }

    fn observe(&mut self) -> Result<Observed, HostError> {
        let mut observed = self.state.clone();
        if let Some(proxy) = &mut observed.proxy {
            // A process tells its revision, not its rows.
            proxy.rows = None;
        }
        Ok(observed)
    }

    fn apply(&mut self, step: &Step) -> Result<(), HostError> {
        match self.faults.pop_front().unwrap_or(Fault::None) {
            Fault::None => self.carry_out(step),
            Fault::Refuse(error) => Err(error),
            Fault::LoseAnswer(error) => self.carry_out(step).and(Err(error)),
        }
    }

    fn speaks(&self) -> bool {
        self.speaks
    }

    fn resolve(&mut self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Link> {
        self.links.iter().filter(|(a, _)| addresses.contains(a)).map(|(a, l)| (*a, *l)).collect()
    }

    fn close_window(&mut self, vip: VipAddress) -> Result<(), HostError> {
        self.state.windows.remove(&vip);
        self.log.push(format!("close window of {vip}"));
        Ok(())
    }

    fn sweep(&mut self) -> Result<Swept, HostError> {
        let live = u64::try_from(self.flow_ids.len()).unwrap_or(u64::MAX);
        Ok(Swept { live, ..Swept::default() })
    }

    fn ids_in_use(&mut self) -> Result<BTreeSet<u16>, HostError> {
        let mut ids = self.flow_ids.clone();
        ids.extend(self.state.vips.values().flat_map(|vip| vip.owners.iter().copied().filter(|id| *id != 0)));
        Ok(ids)
    }

    fn backend_id_max(&self) -> u16 {
        sluice_abi::BACKEND_ID_MAX
    }

    fn counters(&mut self) -> Result<Option<Counters>, HostError> {
        if !self.state.balancer {
            return Ok(None);
        }
        let backends =
            self.state.backends.keys().map(|id| (*id, sluice_loader::Traffic::default())).collect();
        Ok(Some(Counters { backends, ..Counters::default() }))
    }

    fn trace(&mut self, _flow: &FiveTuple) -> Result<Option<Trace>, HostError> {
        Err(HostError::lasting("a fake node has no packet path"))
    }

    fn ask_proxy(&mut self, request: &Request) -> Result<Answer, HostError> {
        match request {
            _ if self.state.proxy.is_none() => Err(HostError::passing("no proxy runs")),
            Request::Stats {} => {
                Ok(Answer::Stats(Stats { revision: self.proxy.revision, ..Stats::default() }))
            }
            _ => Err(HostError::lasting("a fake proxy answers stats only")),
        }
    }

    fn release(&mut self) -> Vec<HostError> {
        self.reboot();
        Vec::new()
    }
}
