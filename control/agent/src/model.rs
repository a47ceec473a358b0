//! What a node should have and what it has: plain values, compared by the planner.
//!
//! [`Goal`] is made by [`crate::goal`] from the checked documents; [`Observed`] comes from a host and is
//! moved on by [`Observed::apply`] as steps succeed, so that fake and real hosts agree on what a step means.

use crate::plan::Step;
use sluice_api::check::types::{Origin, Site, VipAddress};
use sluice_api::proxy_admin::GroupView;
use sluice_loader::BackendSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Owner of each Maglev slot, by backend id; shared by VIPs with the same members.
pub type Owners = Arc<[u16]>;

/// Everything this node should have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Goal {
    /// VIPs balanced here; the XDP program is attached while there are any.
    pub vips: BTreeMap<VipAddress, VipGoal>,
    /// Rows of the backend table by id.
    pub backends: BTreeMap<u16, BackendSpec>,
    /// Virtual addresses this node answers for.
    pub addresses: BTreeMap<IpAddr, Place>,
    /// What to decapsulate, if anything.
    pub decap: Option<Decap>,
    /// The proxy, if this node is a member of a group.
    pub proxy: Option<ProxyGoal>,
    /// Addresses to announce to routers; none: this node speaks to no router.
    pub routes: Option<BTreeSet<IpAddr>>,
}

/// A VIP in the kernel tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipGoal {
    /// Forwarding mode.
    pub mode: sluice_loader::Mode,
    /// Longest silence of a flow, ms.
    pub flow_idle_ms: u32,
    /// What it wants beyond its mode.
    pub options: sluice_loader::VipOptions,
    /// Owner per slot; empty for a local VIP.
    pub owners: Owners,
}

/// Where a virtual address lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On the loopback interface, not announced on any segment: a backend of direct return or IPIP.
    Hidden,
    /// Announced: the node that balances the VIP or serves it itself.
    Announced,
}

/// What a node decapsulates: the node's own backend addresses outside, its VIPs inside.
pub use sluice_loader::DecapSpec as Decap;

/// What a proxy process is started with; a change needs a successor process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySpec {
    /// Addresses to listen on, sorted.
    pub listen: Vec<SocketAddr>,
    /// RAM of its cache, bytes.
    pub cache_bytes: u64,
}

/// The rows of a proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyRows {
    /// Group the node is a member of: written into each site row sent.
    pub own_group: String,
    /// The group as this member sees it.
    pub view: GroupView,
    /// Origins its sites name, sorted by name.
    pub origins: Vec<Arc<Origin>>,
    /// Sites of its group and of the groups below it, sorted by host.
    pub sites: Vec<Arc<Site>>,
}

/// The proxy a node should run.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyGoal {
    /// Process.
    pub spec: ProxySpec,
    /// Rows.
    pub rows: Arc<ProxyRows>,
    /// Refuse new work politely.
    pub drain: bool,
    /// Revisions up to this one were used before.
    pub revision_floor: u64,
}

/// The proxy a node runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedProxy {
    /// Process id.
    pub pid: u32,
    /// What it was started with.
    pub spec: ProxySpec,
    /// Revision in effect; 0: none yet.
    pub revision: u64,
    /// Rows in effect; `None` when not known, which means: send all.
    pub rows: Option<Arc<ProxyRows>>,
    /// Draining.
    pub draining: bool,
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The XDP program is attached and its maps are open.
    pub balancer: bool,
    /// VIPs in the tables.
    pub vips: BTreeMap<VipAddress, VipGoal>,
    /// Rows of the backend table.
    pub backends: BTreeMap<u16, BackendSpec>,
    /// VIPs with slots whose previous owner is remembered.
    pub windows: BTreeSet<VipAddress>,
    /// Virtual addresses the agent put there.
    pub addresses: BTreeMap<IpAddr, Place>,
    /// Decapsulation in force.
    pub decap: Option<Decap>,
    /// Proxy that runs.
    pub proxy: Option<ObservedProxy>,
    /// Addresses announced to routers; none: not known, or nobody speaks to them.
    pub routes: Option<BTreeSet<IpAddr>>,
}

impl VipGoal {
    /// All but the owners is the same, so that a change is one of owners alone.
    pub fn same_row(&self, other: &VipGoal) -> bool {
        self.mode == other.mode && self.flow_idle_ms == other.flow_idle_ms && self.options == other.options
    }
}

impl Observed {
    /// The proxy has rows and takes new work.
    pub fn proxy_serves(&self) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.revision > 0 && !proxy.draining)
    }

    /// Addresses whose packets this node would lose now: it balances them, and they are not in the tables.
    pub fn unserved(&self, goal: &Goal) -> BTreeSet<IpAddr> {
        let missing = |vip: &&VipAddress| !self.balancer || !self.vips.contains_key(*vip);
        goal.vips.keys().filter(missing).map(|vip| vip.address).collect()
    }

    /// What a successful step leaves behind. Process ids come from the host afterwards.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::OpenBalancer => self.balancer = true,
            Step::CloseBalancer => {
                self.balancer = false;
                self.vips.clear();
                self.backends.clear();
                self.windows.clear();
            }
            Step::PutBackend(row) => {
                self.backends.insert(row.id, *row);
            }
            Step::RemoveBackend(id) => {
                self.backends.remove(id);
            }
            Step::PutVip { vip, goal } => {
                let before = self.vips.insert(*vip, goal.clone());
                if before.is_some_and(|b| !b.owners.is_empty() && b.owners != goal.owners) {
                    self.windows.insert(*vip);
                }
            }
            Step::SetOwners { vip, owners } => {
                if let Some(now) = self.vips.get_mut(vip) {
                    now.owners = Arc::clone(owners);
                    self.windows.insert(*vip);
                }
            }
            Step::RemoveVip(vip) => {
                self.vips.remove(vip);
                self.windows.remove(vip);
            }
            Step::SetDecap(decap) => self.decap = decap.clone(),
            Step::AddAddress { address, place } => {
                self.addresses.insert(*address, *place);
            }
            Step::RemoveAddress(address) => {
                self.addresses.remove(address);
            }
            Step::StartProxy(spec) | Step::UpgradeProxy(spec) => {
                self.proxy = Some(ObservedProxy {
                    pid: 0,
                    spec: spec.clone(),
                    revision: 0,
                    rows: None,
                    draining: false,
                });
            }
            Step::ApplyRows { apply, rows } => {
                if let Some(proxy) = &mut self.proxy {
                    proxy.revision = apply.revision;
                    proxy.rows = Some(Arc::clone(rows));
                }
            }
            Step::DrainProxy(on) => {
                if let Some(proxy) = &mut self.proxy {
                    proxy.draining = *on;
                }
            }
            Step::StopProxy => self.proxy = None,
            Step::Withdraw(left) => self.routes = Some(left.clone()),
            Step::Announce(routes) => self.routes = Some(routes.clone()),
        }
    }
}
