//! What workers know about sites, origins and the group.
//!
//! One admin thread changes it, any number of workers read it. Rows change in place inside the route table;
//! the group view is replaced as a whole, and a worker looks at one number per turn to learn of it.

use arc_swap::ArcSwapOption;
use sluice_api::placement::{BackendState, Member};
use sluice_api::proxy_admin::GroupView;
use sluice_core::ring::{Ring, RingError, RingMember};
use sluice_core::route::RouteTable;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A member or parent as this proxy reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its proxy.
    pub addr: SocketAddr,
    /// Share of the URLs.
    pub weight: u32,
    /// Takes requests: active and not known to be down.
    pub up: bool,
}

/// The group as this member sees it.
#[derive(Debug)]
pub struct Group {
    /// Name of this member.
    pub own_name: String,
    /// All members, this one too.
    pub members: Vec<Node>,
    /// Members of the parent tier.
    pub parents: Vec<Node>,
    ring: Ring,
    parent_ring: Ring,
    /// Index of this member.
    own: Option<usize>,
    load_percent: u32,
    /// Addresses whose hop marks are believed.
    trusted: Vec<IpAddr>,
}

/// Why a group view was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct GroupError {
    /// Path below the view (`members[1].address`).
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Group {
    /// Checks a view.
    pub fn new(view: &GroupView) -> Result<Self, GroupError> {
        let error = |field: String, message: &str| GroupError { field, message: message.to_owned() };
        let members = nodes(&view.members, "members", &view.down)?;
        let parents = nodes(&view.parents, "parents", &view.down)?;
        if !members.iter().any(|m| m.name == view.own_name) {
            return Err(error("own_name".into(), "is not among the members"));
        }
        if !(101..=1000).contains(&view.bounded_load_percent) {
            return Err(error("bounded_load_percent".into(), "must be 101..=1000"));
        }
        for (i, name) in view.down.iter().enumerate() {
            if !members.iter().chain(&parents).any(|n| &n.name == name) {
                return Err(error(format!("down[{i}]"), "is neither a member nor a parent"));
            }
        }
        let mut trusted: Vec<IpAddr> =
            members.iter().chain(&parents).map(|n| n.addr.ip().to_canonical()).collect();
        trusted.sort_unstable();
        trusted.dedup();
        let ring = ring_of(&members).map_err(|e| error("members".into(), &e.to_string()))?;
        let parent_ring = ring_of(&parents).map_err(|e| error("parents".into(), &e.to_string()))?;
        Ok(Self {
            own: members.iter().position(|m| m.name == view.own_name),
            own_name: view.own_name.clone(),
            load_percent: view.bounded_load_percent,
            members,
            parents,
            ring,
            parent_ring,
            trusted,
        })
    }

    /// All members in ring order for a key, those that are down too.
    pub fn order(&self, hash: u64) -> impl Iterator<Item = &Node> {
        self.ring.all_owners(hash).map(|i| &self.members[i])
    }

    /// Parents that are up, in ring order for a key.
    pub fn parent_order(&self, hash: u64) -> impl Iterator<Item = &Node> {
        self.parent_ring.owners(hash).map(|i| &self.parents[i])
    }

    /// Members to ask for a key instead of answering it here, best first; empty when it is this member's.
    ///
    /// The first one below its share of the load takes the key (consistent hashing with bounded loads);
    /// `load_of` is what this worker has in flight at an address, `None` for one that does not answer.
    pub(crate) fn peers_before_own(
        &self,
        hash: u64,
        load_of: impl Fn(&SocketAddr) -> Option<u64>,
    ) -> Vec<SocketAddr> {
        if self.ring.owner(hash) == self.own {
            return Vec::new();
        }
        let load = |i: usize| load_of(&self.members[i].addr).unwrap_or(0);
        let total = self.ring.total_load(load);
        let mut peers: Vec<SocketAddr> = Vec::new();
        let mut full: Vec<SocketAddr> = Vec::new();
        for member in self.ring.owners(hash) {
            if Some(member) == self.own {
                break;
            }
            let addr = self.members[member].addr;
            match load_of(&addr) {
                None => {}
                Some(load) if load < self.ring.cap(member, self.load_percent, total) => peers.push(addr),
                Some(_) => full.push(addr),
            }
        }
        peers.append(&mut full);
        peers
    }

    /// The address belongs to a member or a parent.
    pub fn trusts(&self, addr: IpAddr) -> bool {
        self.trusted.binary_search(&addr.to_canonical()).is_ok()
    }
}

fn ring_of(nodes: &[Node]) -> Result<Ring, RingError> {
    let member = |n: &Node| RingMember { name: n.name.clone(), weight: n.weight, up: n.up };
    Ring::new(nodes.iter().map(member).collect())
}

fn nodes(list: &[Member], field: &str, down: &[String]) -> Result<Vec<Node>, GroupError> {
    let mut out: Vec<Node> = Vec::with_capacity(list.len());
    for (i, member) in list.iter().enumerate() {
        let error = |name: &str, message: &str| GroupError {
            field: format!("{field}[{i}].{name}"),
            message: message.to_owned(),
        };
        let addr = member.address.parse().map_err(|_| error("address", "is not address:port"))?;
        if !(1..=1000).contains(&member.weight) {
            return Err(error("weight", "must be 1..=1000"));
        }
        if member.name.is_empty() || out.iter().any(|n| n.name == member.name) {
            return Err(error("name", "is empty or given twice"));
        }
        let up = member.state == BackendState::Active && !down.contains(&member.name);
        out.push(Node { name: member.name.clone(), addr, weight: member.weight, up });
    }
    Ok(out)
}

/// Configuration in effect.
#[derive(Default)]
pub struct Published {
    /// Hosts and origins; rows change in place.
    pub table: RouteTable,
    group: ArcSwapOption<Group>,
    revision: AtomicU64,
    /// Grows with every change a worker must notice.
    epoch: AtomicU64,
}

impl Published {
    /// Nothing configured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Revision in effect; 0: none.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// The group view in effect.
    pub fn group(&self) -> Option<Arc<Group>> {
        self.group.load_full()
    }

    /// Replaces the group view.
    pub fn set_group(&self, group: Option<Group>) {
        self.group.store(group.map(Arc::new));
    }

    /// Makes a change visible to workers.
    pub fn publish(&self, revision: u64) {
        self.revision.store(revision, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Number workers compare.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}
