//! `plan(goal, observed)`: the steps from what a node has to what it should have.
//!
//! Pure and deterministic. Each step is safe to repeat, and the order keeps traffic whole at every prefix,
//! so that a crash between two steps needs nothing but a new plan:
//!
//! ```text
//! proxy stopped? no ──► addresses ──► decapsulation ──► proxy ──► rows           (a node that serves)
//! attach ──► backend rows ──► VIPs and slots ──► VIPs out ──► backends out ──► detach   (a node that balances)
//! last: what is no longer wanted of proxy, decapsulation and addresses
//! ```

use crate::model::{
    Decap, Goal, Observed, ObservedProxy, Owners, Place, ProxyGoal, ProxyRows, ProxySpec, VipGoal,
};
use sluice_api::check::types::VipAddress;
use sluice_api::placement;
use sluice_api::proxy_admin::Apply;
use sluice_loader::BackendSpec;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Load or adopt the XDP program and its maps, and attach it.
    OpenBalancer,
    /// Detach it and remove its pins.
    CloseBalancer,
    /// Add or replace a row of the backend table.
    PutBackend(BackendSpec),
    /// Remove a row no slot names.
    RemoveBackend(u16),
    /// Add a VIP, or change its mode, idle time or options, with its slots.
    PutVip {
        /// Which.
        vip: VipAddress,
        /// What it should be.
        goal: VipGoal,
    },
    /// Give slots to other owners; the previous ones are remembered.
    SetOwners {
        /// Of which VIP.
        vip: VipAddress,
        /// New owners.
        owners: Owners,
    },
    /// Remove a VIP.
    RemoveVip(VipAddress),
    /// Attach the decapsulation program with these addresses, or detach it.
    SetDecap(Option<Decap>),
    /// Add a virtual address to the node.
    AddAddress {
        /// Which.
        address: IpAddr,
        /// Where.
        place: Place,
    },
    /// Remove it.
    RemoveAddress(IpAddr),
    /// Start a proxy.
    StartProxy(ProxySpec),
    /// Start a successor that takes the sockets over.
    UpgradeProxy(ProxySpec),
    /// Send a change of rows.
    ApplyRows {
        /// What goes over the socket.
        apply: Arc<Apply>,
        /// The rows in effect afterwards.
        rows: Arc<ProxyRows>,
    },
    /// Let the proxy refuse new work politely, or take that back.
    DrainProxy(bool),
    /// Drain and stop the proxy.
    StopProxy,
    /// Stop announcing all but these addresses to routers.
    Withdraw(BTreeSet<IpAddr>),
    /// Announce exactly these addresses to routers, now that what they lead to is there.
    Announce(BTreeSet<IpAddr>),
}

/// Steps of one lane depend on each other: after a failure the rest of the lane waits for the next plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Kernel tables of the balancer.
    Balancer,
    /// Addresses and decapsulation.
    Addresses,
    /// Proxy process and rows.
    Proxy,
    /// What routers are no longer told.
    Routes,
}

impl Step {
    /// The lane it belongs to.
    pub const fn lane(&self) -> Lane {
        match self {
            Step::OpenBalancer
            | Step::CloseBalancer
            | Step::PutBackend(_)
            | Step::RemoveBackend(_)
            | Step::PutVip { .. }
            | Step::SetOwners { .. }
            | Step::RemoveVip(_) => Lane::Balancer,
            Step::SetDecap(_) | Step::AddAddress { .. } | Step::RemoveAddress(_) => Lane::Addresses,
            Step::StartProxy(_)
            | Step::UpgradeProxy(_)
            | Step::ApplyRows { .. }
            | Step::DrainProxy(_)
            | Step::StopProxy => Lane::Proxy,
            Step::Withdraw(_) => Lane::Routes,
            // Last of its lane: nothing is announced that is not in the tables.
            Step::Announce(_) => Lane::Balancer,
        }
    }

    /// The item it is about, as status and events name it.
    pub fn item(&self) -> String {
        match self {
            Step::OpenBalancer | Step::CloseBalancer => "balancer".to_owned(),
            Step::PutBackend(row) => format!("backend id {}", row.id),
            Step::RemoveBackend(id) => format!("backend id {id}"),
            Step::PutVip { vip, .. } | Step::SetOwners { vip, .. } | Step::RemoveVip(vip) => {
                format!("vip {vip}")
            }
            Step::SetDecap(_) => "decapsulation".to_owned(),
            Step::AddAddress { address, .. } | Step::RemoveAddress(address) => format!("address {address}"),
            Step::Withdraw(_) | Step::Announce(_) => "announcement".to_owned(),
            _ => "proxy".to_owned(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::OpenBalancer => f.write_str("attach the XDP program, adopting pinned maps"),
            Step::CloseBalancer => f.write_str("detach the XDP program and remove its maps"),
            Step::PutBackend(row) => {
                let alive = if row.alive { "alive" } else { "down" };
                write!(f, "put backend id {} into the table ({alive})", row.id)
            }
            Step::RemoveBackend(id) => write!(f, "remove backend id {id} from the table"),
            Step::PutVip { vip, .. } => write!(f, "put VIP {vip} with its slots"),
            Step::SetOwners { vip, .. } => {
                write!(f, "change slot owners of VIP {vip}, remembering the previous")
            }
            Step::RemoveVip(vip) => write!(f, "remove VIP {vip}"),
            Step::SetDecap(Some(decap)) => {
                write!(
                    f,
                    "decapsulate {} inner addresses at {} outer ones",
                    decap.inner.len(),
                    decap.ipip.union(&decap.gue).count()
                )
            }
            Step::SetDecap(None) => f.write_str("stop decapsulating"),
            Step::AddAddress { address, place: Place::Hidden } => {
                write!(f, "add address {address}, not announced")
            }
            Step::AddAddress { address, place: Place::Announced } => {
                write!(f, "add address {address}, announced")
            }
            Step::RemoveAddress(address) => write!(f, "remove address {address}"),
            Step::StartProxy(spec) => write!(f, "start the proxy on {:?}", spec.listen),
            Step::UpgradeProxy(spec) => write!(f, "start a successor of the proxy on {:?}", spec.listen),
            Step::ApplyRows { apply, .. } => fmt_apply(apply, f),
            Step::DrainProxy(true) => f.write_str("drain the proxy"),
            Step::DrainProxy(false) => f.write_str("take the proxy's drain back"),
            Step::StopProxy => f.write_str("drain and stop the proxy"),
            Step::Withdraw(left) => write!(f, "withdraw all but {} addresses from routers", left.len()),
            Step::Announce(routes) => write!(f, "announce {} addresses to routers", routes.len()),
        }
    }
}

fn fmt_apply(apply: &Apply, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let all = if apply.full { "all rows" } else { "changed rows" };
    write!(f, "send {all} to the proxy as revision {}: ", apply.revision)?;
    write!(f, "{} sites, {} sites removed, ", apply.sites.len(), apply.sites_removed.len())?;
    write!(f, "{} origins, {} origins removed", apply.origins.len(), apply.origins_removed.len())?;
    if apply.group.is_some() { f.write_str(", group view") } else { Ok(()) }
}

/// The steps from `observed` to `goal`; empty exactly when nothing is left to do.
pub fn plan(goal: &Goal, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let routes = withdrawn(goal, observed, &mut steps);
    addresses_in(goal, observed, &mut steps);
    if goal.decap.is_some() && goal.decap != observed.decap {
        steps.push(Step::SetDecap(goal.decap.clone()));
    }
    if let Some(proxy) = &goal.proxy {
        proxy_steps(proxy, observed.proxy.as_ref(), &mut steps);
    }
    balancer_steps(goal, observed, &mut steps);
    if goal.proxy.is_none() && observed.proxy.is_some() {
        steps.push(Step::StopProxy);
    }
    if goal.decap.is_none() && observed.decap.is_some() {
        steps.push(Step::SetDecap(None));
    }
    for address in observed.addresses.keys().filter(|a| !goal.addresses.contains_key(a)) {
        steps.push(Step::RemoveAddress(*address));
    }
    if let Some(wanted) = goal.routes.as_ref().filter(|wanted| routes.as_ref() != Some(*wanted)) {
        steps.push(Step::Announce(wanted.clone()));
    }
    steps
}

/// Routers stop sending before anything is taken away; what they are told afterwards.
fn withdrawn(goal: &Goal, observed: &Observed, steps: &mut Vec<Step>) -> Option<BTreeSet<IpAddr>> {
    let (wanted, now) = (goal.routes.as_ref()?, observed.routes.as_ref()?);
    let left: BTreeSet<IpAddr> = now.intersection(wanted).copied().collect();
    if left != *now {
        steps.push(Step::Withdraw(left.clone()));
    }
    Some(left)
}

fn addresses_in(goal: &Goal, observed: &Observed, steps: &mut Vec<Step>) {
    for (&address, &place) in &goal.addresses {
        match observed.addresses.get(&address) {
            Some(now) if *now == place => {}
            Some(_) => {
                steps.push(Step::RemoveAddress(address));
                steps.push(Step::AddAddress { address, place });
            }
            None => steps.push(Step::AddAddress { address, place }),
        }
    }
}

fn balancer_steps(goal: &Goal, observed: &Observed, steps: &mut Vec<Step>) {
    if goal.vips.is_empty() {
        if observed.balancer {
            steps.push(Step::CloseBalancer);
        }
        return;
    }
    if !observed.balancer {
        steps.push(Step::OpenBalancer);
    }
    for (id, row) in &goal.backends {
        if observed.backends.get(id) != Some(row) {
            steps.push(Step::PutBackend(*row));
        }
    }
    for (&vip, wanted) in &goal.vips {
        match observed.vips.get(&vip) {
            Some(now) if now.same_row(wanted) => {
                if !same_owners(&now.owners, &wanted.owners) {
                    steps.push(Step::SetOwners { vip, owners: Arc::clone(&wanted.owners) });
                }
            }
            _ => steps.push(Step::PutVip { vip, goal: wanted.clone() }),
        }
    }
    for vip in observed.vips.keys().filter(|vip| !goal.vips.contains_key(vip)) {
        steps.push(Step::RemoveVip(*vip));
    }
    for id in observed.backends.keys().filter(|id| !goal.backends.contains_key(id)) {
        steps.push(Step::RemoveBackend(*id));
    }
}

fn same_owners(a: &Owners, b: &Owners) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

fn proxy_steps(goal: &ProxyGoal, observed: Option<&ObservedProxy>, steps: &mut Vec<Step>) {
    let (revision, rows, draining) = match observed {
        Some(now) if now.spec == goal.spec => (now.revision, now.rows.as_deref(), now.draining),
        Some(_) => {
            steps.push(Step::UpgradeProxy(goal.spec.clone()));
            (0, None, false)
        }
        None => {
            steps.push(Step::StartProxy(goal.spec.clone()));
            (0, None, false)
        }
    };
    let next = revision.max(goal.revision_floor) + 1;
    if let Some(apply) = row_change(rows, &goal.rows, next) {
        steps.push(Step::ApplyRows { apply: Arc::new(apply), rows: Arc::clone(&goal.rows) });
    }
    if goal.drain != draining {
        steps.push(Step::DrainProxy(goal.drain));
    }
}

/// The change from known rows (`None`: unknown, send all) to the wanted ones; `None`: nothing to send.
fn row_change(now: Option<&ProxyRows>, wanted: &ProxyRows, revision: u64) -> Option<Apply> {
    // A move to another group changes the group field of every site row.
    let Some(now) = now.filter(|now| now.own_group == wanted.own_group) else {
        return Some(Apply {
            revision,
            full: true,
            group: Some(wanted.view.clone()),
            origins: wanted.origins.iter().map(|o| o.raw().clone()).collect(),
            sites: wanted.sites.iter().map(|s| site_row(s.raw(), &wanted.own_group)).collect(),
            ..Apply::default()
        });
    };
    let (origins, origins_removed) = merge_diff(&now.origins, &wanted.origins, |o| o.raw().name.as_str());
    let (sites, sites_removed) = merge_diff(&now.sites, &wanted.sites, |s| s.raw().host.as_str());
    let apply = Apply {
        revision,
        full: false,
        group: (now.view != wanted.view).then(|| wanted.view.clone()),
        origins: origins.into_iter().map(|o| o.raw().clone()).collect(),
        origins_removed,
        sites: sites.into_iter().map(|s| site_row(s.raw(), &wanted.own_group)).collect(),
        sites_removed,
    };
    let empty = apply.group.is_none()
        && apply.origins.is_empty()
        && apply.origins_removed.is_empty()
        && apply.sites.is_empty()
        && apply.sites_removed.is_empty();
    (!empty).then_some(apply)
}

fn site_row(site: &placement::Site, group: &str) -> placement::Site {
    placement::Site { group: group.to_owned(), ..site.clone() }
}

/// Walks two sorted lists: entries of `new` that are not in `old` or differ, and keys gone from `old`.
fn merge_diff<'a, T: PartialEq>(
    old: &'a [Arc<T>],
    new: &'a [Arc<T>],
    key: impl Fn(&T) -> &str,
) -> (Vec<&'a Arc<T>>, Vec<String>) {
    let (mut upserts, mut removed) = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let order = match (old.get(i), new.get(j)) {
            // Unchanged documents share their rows: most pairs end here, without a string compared.
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                i += 1;
                j += 1;
                continue;
            }
            (Some(a), Some(b)) => key(a).cmp(key(b)),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        match order {
            Ordering::Less => {
                removed.push(key(&old[i]).to_owned());
                i += 1;
            }
            Ordering::Greater => {
                upserts.push(&new[j]);
                j += 1;
            }
            Ordering::Equal => {
                if old[i] != new[j] {
                    upserts.push(&new[j]);
                }
                i += 1;
                j += 1;
            }
        }
    }
    (upserts, removed)
}
