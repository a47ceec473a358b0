//! Checks of all documents of a node together.

use super::error::{Errors, FieldError};
use super::limits::{DOCUMENTS_MAX, GROUPS_MAX, NETWORKS_MAX, ORIGINS_MAX, POOLS_MAX, SITES_MAX, VIPS_MAX};
use super::types::*;
use crate::placement::Mode;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Checks documents together: names, VIP addresses and hosts unique, references resolved, addresses in
/// networks, groups free of cycles.
///
/// # Errors
/// Every field at fault, with the document it is in.
pub fn check_set<'a>(
    documents: impl IntoIterator<Item = &'a CheckedDocument>,
) -> Result<Desired, Vec<FieldError>> {
    let mut documents: Vec<&CheckedDocument> = documents.into_iter().collect();
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    let mut e = Errors::new("");
    if documents.len() > DOCUMENTS_MAX {
        e.add("", format!("{} documents are more than {DOCUMENTS_MAX}", documents.len()));
        return Err(e.into_list());
    }
    let mut desired = Desired::default();
    for document in &documents {
        if desired.generations.insert(document.name.clone(), document.generation).is_some() {
            e.add_in(&document.name, "name", "two documents have this name");
        }
    }
    desired.pools = union(&documents, "pools", POOLS_MAX, |d| &d.pools, |p| &p.name, &mut e);
    desired.vips = union(&documents, "vips", VIPS_MAX, |d| &d.vips, |v| &v.name, &mut e);
    desired.groups = union(&documents, "groups", GROUPS_MAX, |d| &d.groups, |g| &g.name, &mut e);
    desired.origins = union(&documents, "origins", ORIGINS_MAX, |d| &d.origins, |o| &o.0.name, &mut e);
    desired.sites = merge_sites(&documents, &mut e);
    vip_addresses(&documents, &mut e);
    vip_pools(&documents, &desired, &mut e);
    nat_sources(&documents, &desired, &mut e);
    networks(&documents, &mut e);
    groups(&documents, &mut e);
    group_cycles(&documents, &desired, &mut e);
    site_references(&documents, &desired, &mut e);
    if e.is_empty() { Ok(desired) } else { Err(e.into_list()) }
}

/// All items of one kind by name.
fn union<'a, T>(
    documents: &[&'a CheckedDocument],
    kind: &str,
    max: usize,
    items: impl Fn(&'a CheckedDocument) -> &'a [Arc<T>],
    name: impl Fn(&T) -> &String,
    e: &mut Errors,
) -> BTreeMap<String, Arc<T>>
where
    T: 'a,
{
    let mut out: BTreeMap<String, Arc<T>> = BTreeMap::new();
    for document in documents {
        for (i, item) in items(document).iter().enumerate() {
            if out.insert(name(item).clone(), Arc::clone(item)).is_some() {
                let home = documents
                    .iter()
                    .find(|d| items(d).iter().any(|other| name(other) == name(item)))
                    .map_or("", |d| d.name.as_str());
                let message = format!("{:?} is also in document {home}", name(item));
                e.add_in(&document.name, format!("{kind}[{i}].name"), message);
            }
        }
    }
    if out.len() > max {
        e.add("", format!("{} {kind} in all are more than {max}", out.len()));
    }
    out
}

/// Merges the sorted sites of all documents; the same host twice is an error.
fn merge_sites(documents: &[&CheckedDocument], e: &mut Errors) -> Vec<Arc<Site>> {
    let total: usize = documents.iter().map(|d| d.sites.len()).sum();
    if total > SITES_MAX {
        e.add("", format!("{total} sites in all are more than {SITES_MAX}"));
        return Vec::new();
    }
    let mut all: Vec<(&Arc<Site>, &CheckedDocument, u32)> = Vec::with_capacity(total);
    for document in documents {
        all.extend(document.sites.iter().map(|(site, i)| (site, *document, *i)));
    }
    // Runs are sorted already: the stable sort merges them in linear time.
    all.sort_by(|a, b| a.0.0.host.cmp(&b.0.0.host));
    for pair in all.windows(2) {
        if pair[0].0.0.host == pair[1].0.0.host {
            let message = format!("{:?} is also in document {}", pair[1].0.0.host, pair[0].1.name);
            e.add_in(&pair[1].1.name, format!("sites[{}].host", pair[1].2), message);
        }
    }
    all.into_iter().map(|(site, _, _)| Arc::clone(site)).collect()
}

fn vip_addresses(documents: &[&CheckedDocument], e: &mut Errors) {
    let mut seen: HashMap<VipAddress, &str> = HashMap::new();
    for document in documents {
        for (i, vip) in document.vips.iter().enumerate() {
            if let Some(other) = seen.insert(vip.address, &vip.name) {
                let message = format!("{} is also the address of VIP {other:?}", vip.address);
                e.add_in(&document.name, format!("vips[{i}].address"), message);
            }
        }
    }
}

/// A source address of mode nat is nothing else.
fn nat_sources(documents: &[&CheckedDocument], desired: &Desired, e: &mut Errors) {
    let vips: HashMap<IpAddr, &str> =
        desired.vips.values().map(|vip| (vip.address.address, vip.name.as_str())).collect();
    let backends = |pool: &Pool| -> Vec<IpAddr> {
        let both = |b: &Backend| [b.address.map(IpAddr::V4), b.address6.map(IpAddr::V6)];
        pool.backends.iter().flat_map(both).flatten().collect()
    };
    for document in documents {
        for (i, vip) in document.vips.iter().enumerate() {
            let Forward::Nat { pool, sources, .. } = &vip.forward else { continue };
            let taken = desired.pools.get(pool).map(|pool| backends(pool)).unwrap_or_default();
            for source in sources.values().flatten() {
                let path = || format!("vips[{i}].nat.sources");
                if let Some(other) = vips.get(source) {
                    e.add_in(&document.name, path(), format!("{source} is the address of VIP {other:?}"));
                }
                if taken.contains(source) {
                    e.add_in(&document.name, path(), format!("{source} is the address of a backend"));
                }
            }
        }
    }
}

fn vip_pools(documents: &[&CheckedDocument], desired: &Desired, e: &mut Errors) {
    for document in documents {
        for (i, vip) in document.vips.iter().enumerate() {
            let Some(name) = vip.pool() else { continue };
            let at = || format!("vips[{i}].pool");
            let Some(pool) = desired.pools.get(name) else {
                e.add_in(&document.name, at(), format!("there is no pool {name:?}"));
                continue;
            };
            for backend in &pool.backends {
                let address = vip.address.address;
                if backend.target(address, vip.mode()).is_none() {
                    let needs = match (address, vip.mode()) {
                        (IpAddr::V4(_), Mode::Ipip | Mode::Gue) => "an address",
                        (IpAddr::V4(_), _) => "an IPv4 address",
                        (IpAddr::V6(_), _) => "an IPv6 address",
                    };
                    let message = format!("backend {:?} of pool {name:?} has not {needs}", backend.name);
                    e.add_in(&document.name, at(), message);
                }
                if backend.address.map(IpAddr::V4) == Some(address)
                    || backend.address6.map(IpAddr::V6) == Some(address)
                {
                    let message = format!("backend {:?} of pool {name:?} has this address", backend.name);
                    e.add_in(&document.name, format!("vips[{i}].address"), message);
                }
                if vip.nodes.contains(&backend.name) {
                    let message = format!("node {:?} would balance the VIP onto itself", backend.name);
                    e.add_in(&document.name, format!("vips[{i}].nodes"), message);
                }
            }
        }
    }
}

fn networks(documents: &[&CheckedDocument], e: &mut Errors) {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut all: Vec<Cidr> = Vec::new();
    for document in documents {
        for (i, network) in document.networks.iter().enumerate() {
            if let Some(home) = names.insert(&network.name, &document.name) {
                let message = format!("{:?} is also in document {home}", network.name);
                e.add_in(&document.name, format!("networks[{i}].name"), message);
            }
            all.push(network.cidr);
        }
    }
    if all.len() > NETWORKS_MAX {
        e.add("", format!("{} networks in all are more than {NETWORKS_MAX}", all.len()));
        return;
    }
    let inside = |address: IpAddr| all.iter().any(|cidr| cidr.contains(address));
    for document in documents {
        let mut need = |address: IpAddr, path: String| {
            if !inside(address) {
                e.add_in(&document.name, path, format!("{address} is in no network"));
            }
        };
        for (p, pool) in document.pools.iter().enumerate() {
            for (b, backend) in pool.backends.iter().enumerate() {
                if let Some(address) = backend.address {
                    need(address.into(), format!("pools[{p}].backends[{b}].address"));
                }
                if let Some(address) = backend.address6 {
                    need(address.into(), format!("pools[{p}].backends[{b}].address6"));
                }
            }
        }
        for (g, group) in document.groups.iter().enumerate() {
            for (list, members) in [("members", &group.members), ("parents", &group.parents)] {
                for (m, member) in members.iter().enumerate() {
                    need(member.address.ip(), format!("groups[{g}].{list}[{m}].address"));
                }
            }
        }
        for (o, origin) in document.origins.iter().enumerate() {
            for (a, text) in origin.0.addresses.iter().enumerate() {
                if let Ok(address) = text.parse::<SocketAddr>() {
                    need(address.ip(), format!("origins[{o}].addresses[{a}]"));
                }
            }
        }
    }
}

/// A node runs one proxy, so it is a member of one group.
fn groups(documents: &[&CheckedDocument], e: &mut Errors) {
    let mut home: HashMap<&str, &str> = HashMap::new();
    for document in documents {
        for (g, group) in document.groups.iter().enumerate() {
            for (m, member) in group.members.iter().enumerate() {
                if let Some(other) = home.insert(&member.name, &group.name)
                    && other != group.name
                {
                    let message = format!("node {:?} is already a member of group {other:?}", member.name);
                    e.add_in(&document.name, format!("groups[{g}].members[{m}].name"), message);
                }
            }
        }
    }
}

/// Follows parents from each group; coming back to it would send a miss round for ever.
fn group_cycles(documents: &[&CheckedDocument], desired: &Desired, e: &mut Errors) {
    let home: HashMap<&str, &str> = desired
        .groups
        .values()
        .flat_map(|group| group.members.iter().map(|m| (m.name.as_str(), group.name.as_str())))
        .collect();
    let above = |group: &Group| -> Vec<&str> {
        group.parents.iter().filter_map(|p| home.get(p.name.as_str()).copied()).collect()
    };
    for document in documents {
        for (g, group) in document.groups.iter().enumerate() {
            let mut to_visit = above(group);
            let mut visited: Vec<&str> = Vec::new();
            while let Some(name) = to_visit.pop() {
                if name == group.name {
                    e.add_in(
                        &document.name,
                        format!("groups[{g}].parents"),
                        "the parents lead back to this group",
                    );
                    break;
                }
                if !visited.contains(&name) {
                    visited.push(name);
                    to_visit.extend(desired.groups.get(name).map(|g| above(g)).unwrap_or_default());
                }
            }
        }
    }
}

fn site_references(documents: &[&CheckedDocument], desired: &Desired, e: &mut Errors) {
    for document in documents {
        for (name, path) in &document.site_origins {
            if !desired.origins.contains_key(name) {
                e.add_in(&document.name, path.clone(), format!("there is no origin {name:?}"));
            }
        }
        for (name, path) in &document.site_groups {
            if !desired.groups.contains_key(name) {
                e.add_in(&document.name, path.clone(), format!("there is no group {name:?}"));
            }
        }
    }
}
