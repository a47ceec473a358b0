//! Checks of one document alone.

use super::error::{Errors, FieldError};
use super::forward::forward;
use super::limits::*;
use super::types::*;
use super::{health, names};
use crate::placement::{self, API_VERSION, Mode};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Checks a raw document.
pub(super) fn check(raw: placement::Document) -> Result<CheckedDocument, Vec<FieldError>> {
    let mut e = Errors::new(&raw.name);
    if raw.api_version != API_VERSION {
        e.add("apiVersion", format!("{:?} is not {API_VERSION:?}", raw.api_version));
    }
    e.check(|| "name".into(), names::document_name(&raw.name));
    if raw.generation == 0 {
        e.add("generation", "generations start at 1");
    }
    let networks = networks(raw.networks, &mut e);
    let pools = pools(raw.pools, &mut e);
    let vips = vips(raw.vips, &mut e);
    let groups = groups(raw.groups, &mut e);
    let origins = origins(raw.origins, &mut e);
    let sites = sites(raw.sites, &mut e);
    if !e.is_empty() {
        return Err(e.into_list());
    }
    let mut document = CheckedDocument {
        name: raw.name,
        generation: raw.generation,
        networks,
        pools,
        vips,
        groups,
        origins,
        sites,
        site_origins: BTreeMap::new(),
        site_groups: BTreeMap::new(),
    };
    collect_references(&mut document);
    Ok(document)
}

/// A name that is good and not seen before in its list.
fn unique(seen: &mut HashSet<String>, path: impl Fn() -> String, name: &str, e: &mut Errors) {
    e.check(&path, names::name(name));
    if !seen.insert(name.to_owned()) {
        e.add(path(), format!("{name:?} is there twice"));
    }
}

fn networks(raw: Vec<placement::Network>, e: &mut Errors) -> Vec<Network> {
    e.check(|| "networks".into(), names::count(raw.len(), 0, NETWORKS_MAX));
    let mut seen = HashSet::new();
    let mut out = Vec::with_capacity(raw.len().min(NETWORKS_MAX));
    for (i, network) in raw.into_iter().enumerate() {
        unique(&mut seen, || format!("networks[{i}].name"), &network.name, e);
        if let Some(cidr) = e.take(|| format!("networks[{i}].cidr"), names::cidr(&network.cidr)) {
            out.push(Network { name: network.name, cidr });
        }
    }
    out
}

fn pools(raw: Vec<placement::Pool>, e: &mut Errors) -> Vec<Arc<Pool>> {
    e.check(|| "pools".into(), names::count(raw.len(), 0, POOLS_MAX));
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for (i, pool) in raw.into_iter().enumerate() {
        unique(&mut seen, || format!("pools[{i}].name"), &pool.name, e);
        e.check(|| format!("pools[{i}].backends"), names::count(pool.backends.len(), 1, POOL_BACKENDS_MAX));
        let backends = backends(&format!("pools[{i}]"), pool.backends, e);
        let health = pool.health.and_then(|h| health::check(&format!("pools[{i}].health"), h, e));
        let (panic_percent, slow_start_ms) = (pool.panic_percent, pool.slow_start_ms);
        e.check(|| format!("pools[{i}].panic_percent"), names::within(panic_percent, 0, 100));
        e.check(|| format!("pools[{i}].slow_start_ms"), names::within(slow_start_ms, 0, SLOW_START_MS_MAX));
        out.push(Arc::new(Pool { name: pool.name, backends, health, panic_percent, slow_start_ms }));
    }
    out
}

fn backends(pool: &str, raw: Vec<placement::Backend>, e: &mut Errors) -> Vec<Backend> {
    let mut seen = HashSet::new();
    let mut addresses = HashSet::new();
    let mut out = Vec::new();
    for (i, backend) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("{pool}.backends[{i}]{field}");
        unique(&mut seen, || at(".name"), &backend.name, e);
        let v4 = backend.address.as_deref().and_then(|a| e.take(|| at(".address"), names::ipv4(a)));
        let v6 = backend.address6.as_deref().and_then(|a| e.take(|| at(".address6"), names::ipv6(a)));
        if backend.address.is_none() && backend.address6.is_none() {
            e.add(at(""), "needs address or address6");
        }
        if v4.is_some_and(|a| !addresses.insert(std::net::IpAddr::V4(a))) {
            e.add(at(".address"), "another backend of the pool has this address");
        }
        if v6.is_some_and(|a| !addresses.insert(std::net::IpAddr::V6(a))) {
            e.add(at(".address6"), "another backend of the pool has this address");
        }
        e.check(|| at(".weight"), names::within(backend.weight, 0, WEIGHT_MAX));
        out.push(Backend {
            name: backend.name,
            address: v4,
            address6: v6,
            weight: u16::try_from(backend.weight).unwrap_or(u16::MAX),
            state: backend.state,
        });
    }
    out
}

fn vips(raw: Vec<placement::Vip>, e: &mut Errors) -> Vec<Arc<Vip>> {
    e.check(|| "vips".into(), names::count(raw.len(), 0, VIPS_MAX));
    let mut seen = HashSet::new();
    let mut addresses = HashSet::new();
    let mut out = Vec::new();
    for (i, vip) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("vips[{i}].{field}");
        unique(&mut seen, || at("name"), &vip.name, e);
        let address = e.take(|| at("address"), names::ip(&vip.address));
        if vip.port == 0 {
            e.add(at("port"), "port 0 is no port");
        }
        e.check(|| at("nodes"), names::count(vip.nodes.len(), 1, VIP_NODES_MAX));
        e.check(|| at("flow_idle_ms"), names::within(vip.flow_idle_ms, FLOW_IDLE_MS_MIN, FLOW_IDLE_MS_MAX));
        let forward = forward(i, &vip, e);
        let mut nodes = BTreeSet::new();
        for (n, node) in vip.nodes.into_iter().enumerate() {
            e.check(|| format!("vips[{i}].nodes[{n}]"), names::name(&node));
            if !nodes.insert(node) {
                e.add(format!("vips[{i}].nodes[{n}]"), "is there twice");
            }
        }
        let balance = balance(&at("balance"), vip.mode, vip.balance, e);
        let (Some(address), Some(forward)) = (address, forward) else { continue };
        let address = VipAddress { address, port: vip.port, protocol: vip.protocol };
        if !addresses.insert(address) {
            e.add(at("address"), format!("{address} is there twice"));
        }
        out.push(Arc::new(Vip {
            name: vip.name,
            address,
            forward,
            nodes,
            flow_idle_ms: vip.flow_idle_ms,
            announce: vip.announce,
            balance,
        }));
    }
    out
}

fn balance(path: &str, mode: Mode, raw: placement::Balance, e: &mut Errors) -> Balance {
    if mode == Mode::Local && raw != placement::Balance::default() {
        e.add(path, "a VIP of mode local is not balanced");
    }
    Balance { tracking: raw.tracking }
}

fn groups(raw: Vec<placement::Group>, e: &mut Errors) -> Vec<Arc<Group>> {
    e.check(|| "groups".into(), names::count(raw.len(), 0, GROUPS_MAX));
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for (i, group) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("groups[{i}].{field}");
        unique(&mut seen, || at("name"), &group.name, e);
        e.check(|| at("members"), names::count(group.members.len(), 1, GROUP_MEMBERS_MAX));
        e.check(|| at("parents"), names::count(group.parents.len(), 0, GROUP_MEMBERS_MAX));
        e.check(|| at("listen"), names::count(group.listen.len(), 1, GROUP_LISTEN_MAX));
        let mut names_seen = HashSet::new();
        let mut addresses = HashSet::new();
        let own = members(&at("members"), group.members, &mut names_seen, &mut addresses, e);
        let parents = members(&at("parents"), group.parents, &mut names_seen, &mut addresses, e);
        let mut listen = Vec::new();
        for (n, text) in group.listen.iter().enumerate() {
            let Some(address) = e.take(|| format!("groups[{i}].listen[{n}]"), names::listen(text)) else {
                continue;
            };
            if listen.contains(&address) {
                e.add(format!("groups[{i}].listen[{n}]"), "is there twice");
            }
            listen.push(address);
        }
        e.check(|| at("cache_bytes"), names::within(group.cache_bytes, CACHE_BYTES_MIN, CACHE_BYTES_MAX));
        let percent = group.bounded_load_percent;
        e.check(|| at("bounded_load_percent"), names::within(percent, LOAD_PERCENT_MIN, LOAD_PERCENT_MAX));
        out.push(Arc::new(Group {
            name: group.name,
            members: own,
            parents,
            listen,
            cache_bytes: group.cache_bytes,
            bounded_load_percent: percent,
        }));
    }
    out
}

/// Parents share the name and address space of the members: one that is both would forward to itself.
fn members(
    path: &str,
    raw: Vec<placement::Member>,
    names_seen: &mut HashSet<String>,
    addresses: &mut HashSet<SocketAddr>,
    e: &mut Errors,
) -> Vec<Member> {
    let mut out = Vec::new();
    for (i, member) in raw.into_iter().enumerate() {
        unique(names_seen, || format!("{path}[{i}].name"), &member.name, e);
        e.check(|| format!("{path}[{i}].weight"), names::within(member.weight, 1, WEIGHT_MAX));
        let at = || format!("{path}[{i}].address");
        let Some(address) = e.take(at, names::endpoint(&member.address)) else { continue };
        if !addresses.insert(address) {
            e.add(at(), format!("{address} is there twice"));
        }
        out.push(Member {
            name: member.name,
            address,
            weight: u16::try_from(member.weight).unwrap_or(u16::MAX),
            state: member.state,
        });
    }
    out
}

fn origins(raw: Vec<placement::Origin>, e: &mut Errors) -> Vec<Arc<Origin>> {
    e.check(|| "origins".into(), names::count(raw.len(), 0, ORIGINS_MAX));
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for (i, origin) in raw.into_iter().enumerate() {
        unique(&mut seen, || format!("origins[{i}].name"), &origin.name, e);
        e.check(
            || format!("origins[{i}].addresses"),
            names::count(origin.addresses.len(), 1, ORIGIN_ADDRESSES_MAX),
        );
        let mut addresses = HashSet::new();
        for (n, text) in origin.addresses.iter().enumerate() {
            let at = || format!("origins[{i}].addresses[{n}]");
            if let Some(address) = e.take(at, names::endpoint(text))
                && !addresses.insert(address)
            {
                e.add(at(), "is there twice");
            }
        }
        if let Some(host) = &origin.host {
            e.check(|| format!("origins[{i}].host"), names::upstream_host(host));
        }
        out.push(Arc::new(Origin(origin)));
    }
    out
}

fn sites(raw: Vec<placement::Site>, e: &mut Errors) -> Vec<(Arc<Site>, u32)> {
    e.check(|| "sites".into(), names::count(raw.len(), 0, SITES_MAX));
    let mut out = Vec::with_capacity(raw.len().min(SITES_MAX));
    for (i, site) in raw.into_iter().take(SITES_MAX).enumerate() {
        e.check(|| format!("sites[{i}].host"), names::site_host(&site.host));
        e.check(|| format!("sites[{i}].routes"), names::count(site.routes.len(), 0, SITE_ROUTES_MAX));
        let mut paths: Vec<&str> = Vec::with_capacity(site.routes.len());
        for (r, route) in site.routes.iter().take(SITE_ROUTES_MAX).enumerate() {
            let at = |field: &str| format!("sites[{i}].routes[{r}].{field}");
            e.check(|| at("path"), names::path(&route.path));
            if paths.contains(&route.path.as_str()) {
                e.add(at("path"), format!("{:?} is there twice", route.path));
            }
            paths.push(&route.path);
            e.check(|| at("default_ttl_ms"), names::within(route.default_ttl_ms, 0, DEFAULT_TTL_MS_MAX));
        }
        out.push((Arc::new(Site(site)), u32::try_from(i).unwrap_or(u32::MAX)));
    }
    out.sort_by(|a, b| a.0.0.host.cmp(&b.0.0.host).then(a.1.cmp(&b.1)));
    for pair in out.windows(2) {
        if pair[0].0.0.host == pair[1].0.0.host {
            let host = &pair[1].0.0.host;
            e.add(format!("sites[{}].host", pair[1].1), format!("{host:?} is also sites[{}]", pair[0].1));
        }
    }
    out
}

/// The few distinct names that many sites refer to, so that a set is checked without walking all sites.
fn collect_references(document: &mut CheckedDocument) {
    let mut in_order: Vec<&(Arc<Site>, u32)> = document.sites.iter().collect();
    in_order.sort_by_key(|(_, i)| *i);
    for (site, i) in in_order {
        if !document.site_groups.contains_key(&site.0.group) {
            document.site_groups.insert(site.0.group.clone(), format!("sites[{i}].group"));
        }
        if !document.site_origins.contains_key(&site.0.origin) {
            document.site_origins.insert(site.0.origin.clone(), format!("sites[{i}].origin"));
        }
        for (r, route) in site.0.routes.iter().enumerate() {
            if let Some(origin) = &route.origin
                && !document.site_origins.contains_key(origin)
            {
                document.site_origins.insert(origin.clone(), format!("sites[{i}].routes[{r}].origin"));
            }
        }
    }
}
