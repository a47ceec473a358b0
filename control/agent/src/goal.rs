//! From the checked documents of a site to the goal of one node.
//!
//! Pure. Each node acts only on what names it: a VIP whose `nodes` list has it is balanced here, a pool
//! backend of its name makes the pool's VIP addresses local here, a group member of its name runs a proxy
//! here. Names, not ids, order the members of a Maglev table, so that all balancers of a VIP agree.

use crate::health::{SLOW_START_STEPS, slow_weight};
use crate::ledger::Ids;
use crate::model::{Decap, Goal, Owners, Place, ProxyGoal, ProxyRows, ProxySpec, VipGoal};
use sluice_api::check::Desired;
use sluice_api::check::types::{Backend, Forward, Group, Health, Member, Pool, Vip};
use sluice_api::placement::{self, BackendState};
use sluice_api::proxy_admin::GroupView;
use sluice_api::rest::{DrainKind, DrainRequest};
use sluice_api::status::ItemError;
use sluice_loader::{BackendSpec, Link, Mode, SourceList, Tracking, VipOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Something to probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A backend of a pool.
    Backend {
        /// Pool.
        pool: String,
        /// Backend.
        name: String,
    },
    /// A member or parent of the own group.
    Member {
        /// Node name.
        name: String,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Backend { pool, name } => write!(f, "backend {pool}/{name}"),
            Target::Member { name } => write!(f, "member {name}"),
        }
    }
}

/// How to probe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Where.
    pub address: SocketAddr,
    /// How and how often.
    pub health: Health,
    /// Id of the backend whose probe path it takes; none: straight to the address.
    pub path: Option<u16>,
}

/// What the goal says about one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counts as up.
    pub up: bool,
    /// Its flows may stay.
    pub keeps_flows: bool,
    /// Step of its slow start, 1..=[`crate::health::SLOW_START_STEPS`].
    pub step: u8,
}

impl Seen {
    /// What holds for a target that is not probed.
    pub const UNPROBED: Seen = Seen { up: true, keeps_flows: true, step: SLOW_START_STEPS };
}

/// A member of a Maglev table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableMember {
    /// Name: what the table is made from.
    pub name: String,
    /// Share.
    pub weight: u16,
    /// What the slots hold.
    pub id: u16,
}

/// Makes Maglev tables, and keeps those in use since making one costs milliseconds.
#[derive(Default)]
pub struct Tables {
    made: BTreeMap<Vec<TableMember>, Owners>,
}

impl Tables {
    fn owners(&mut self, members: Vec<TableMember>) -> Owners {
        let make = |members: &Vec<TableMember>| crate::maglev::owners(members);
        Arc::clone(self.made.entry(members).or_insert_with_key(make))
    }

    /// Forgets tables nobody else holds any more.
    pub fn forget_unused(&mut self) {
        self.made.retain(|_, owners| Arc::strong_count(owners) > 1);
    }
}

/// What the goal of a node is made from.
pub struct Inputs<'a> {
    /// The node.
    pub node: &'a str,
    /// Checked documents.
    pub desired: &'a Desired,
    /// Operator drains.
    pub drains: &'a BTreeSet<DrainRequest>,
    /// Those of them whose deadline has passed.
    pub drains_over: &'a BTreeSet<DrainRequest>,
    /// Backend ids.
    pub ids: &'a Ids,
    /// Health by target; one not there counts as up.
    pub health: &'a BTreeMap<Target, Seen>,
    /// Next hops by backend address.
    pub links: &'a BTreeMap<IpAddr, Link>,
    /// The last proxy revision used.
    pub revision_floor: u64,
    /// Put balanced VIP addresses on this node, announced.
    pub announce: bool,
    /// Run a proxy at all.
    pub with_proxy: bool,
    /// Routers can be told of addresses.
    pub speaks: bool,
    /// The proxy has rows and takes new work.
    pub proxy_serves: bool,
}

/// The goal and what is wrong on the way to it.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// Goal.
    pub goal: Goal,
    /// Items that cannot be had now.
    pub errors: Vec<ItemError>,
    /// How many of them are backends without an id.
    pub without_id: usize,
    /// Pools with so few healthy backends that all active ones keep their slots.
    pub panics: Vec<String>,
    /// Pools with a healthy backend that takes new flows.
    pub healthy: BTreeSet<String>,
}

/// Key of a backend in the ledger's ids. Another address is another backend: flows to the old one end.
pub fn id_key(pool: &str, backend: &Backend) -> String {
    let show = |address: Option<IpAddr>| address.map_or("-".to_owned(), |a| a.to_string());
    let (v4, v6) = (backend.address().map(IpAddr::V4), backend.address6().map(IpAddr::V6));
    format!("{pool}/{}/{}/{}", backend.name(), show(v4), show(v6))
}

/// VIPs this node balances.
pub fn balanced<'a>(node: &str, desired: &'a Desired) -> impl Iterator<Item = &'a Arc<Vip>> {
    let node = node.to_owned();
    desired.vips().values().filter(move |vip| vip.nodes().contains(&node))
}

/// Pools of the VIPs this node balances, by name.
pub fn pools_balanced<'a>(node: &str, desired: &'a Desired) -> BTreeMap<&'a str, &'a Arc<Pool>> {
    balanced(node, desired)
        .filter_map(|vip| vip.pool())
        .filter_map(|name| desired.pools().get(name).map(|pool| (pool.name(), pool)))
        .collect()
}

/// Keys of the ids this node needs.
pub fn id_keys(node: &str, desired: &Desired) -> BTreeSet<String> {
    let pools = pools_balanced(node, desired);
    pools.values().flat_map(|pool| pool.backends().iter().map(|b| id_key(pool.name(), b))).collect()
}

/// Everything this node probes.
pub fn targets(node: &str, desired: &Desired, with_proxy: bool) -> BTreeMap<Target, Check> {
    let mut out = BTreeMap::new();
    for pool in pools_balanced(node, desired).values() {
        let Some(health) = pool.health() else { continue };
        for backend in pool.backends() {
            let address = SocketAddr::new(backend.probe_address(), health.probe().port());
            let target = Target::Backend { pool: pool.name().to_owned(), name: backend.name().to_owned() };
            out.insert(target, Check { address, health: health.clone(), path: None });
        }
    }
    if let Some(group) = desired.group_of(node).filter(|_| with_proxy) {
        for member in group.members().iter().chain(group.parents()).filter(|m| m.name() != node) {
            let address = member.address();
            let check = Check { address, health: Health::of_member(address.port()), path: None };
            out.insert(Target::Member { name: member.name().to_owned() }, check);
        }
    }
    out
}

/// Makes the goal of a node.
pub fn make(inputs: &Inputs<'_>, tables: &mut Tables, rows: &mut RowCache) -> Made {
    let mut made = Made::default();
    let mut owners: BTreeMap<&str, Owners> = BTreeMap::new();
    for (name, pool) in pools_balanced(inputs.node, inputs.desired) {
        let members = pool_rows(inputs, pool, &mut made);
        owners.insert(name, tables.owners(members));
    }
    for vip in balanced(inputs.node, inputs.desired) {
        let (mode, pool) = match vip.forward() {
            Forward::Local => (Mode::Local, None),
            Forward::L2Direct { pool } => (Mode::L2Direct, Some(pool)),
            Forward::Ipip { pool } => (Mode::Ipip, Some(pool)),
            Forward::Gue { pool, port } => (Mode::Gue { port: *port }, Some(pool)),
            Forward::Nat { pool, backend_port, sources } => {
                let own = sources.get(inputs.node).map_or(&[][..], Vec::as_slice);
                // The check gave each node of the VIP its addresses.
                let Some(list) = SourceList::new(own) else { continue };
                let places = own.iter().map(|source| (*source, Place::Announced));
                made.goal.addresses.extend(places.filter(|_| inputs.announce));
                (Mode::Nat { backend_port: *backend_port, sources: list }, Some(pool))
            }
        };
        let owners = pool.and_then(|p| owners.get(p.as_str())).cloned().unwrap_or_else(|| Arc::from([]));
        let flow_idle_ms = u32::try_from(vip.flow_idle_ms()).unwrap_or(u32::MAX);
        made.goal.vips.insert(vip.address(), VipGoal { mode, flow_idle_ms, options: options(vip), owners });
        if inputs.announce || mode == Mode::Local {
            made.goal.addresses.insert(vip.address().address, Place::Announced);
        }
    }
    backend_side(inputs, &mut made.goal);
    if inputs.with_proxy {
        made.goal.proxy = proxy(inputs, rows);
    }
    routes(inputs, &mut made);
    made
}

/// Addresses to announce: those of announced VIPs that this node can serve now, unless it is drained. An address
/// of several VIPs is announced while one of them is served.
fn routes(inputs: &Inputs<'_>, made: &mut Made) {
    let drained =
        inputs.drains.contains(&DrainRequest { kind: DrainKind::Node, name: inputs.node.to_owned() });
    let mut routes = BTreeSet::new();
    for vip in balanced(inputs.node, inputs.desired).filter(|vip| vip.announce()) {
        if !inputs.speaks {
            let message = "announce: the agent was started without --bird-include".to_owned();
            made.errors.push(ItemError { item: format!("vip {}", vip.name()), message, retry: false });
            continue;
        }
        let served = match vip.pool() {
            Some(pool) => made.healthy.contains(pool),
            // What is served here without a proxy of ours cannot be judged.
            None => made.goal.proxy.is_none() || inputs.proxy_serves,
        };
        if served && !drained {
            routes.insert(vip.address().address);
        }
    }
    made.goal.routes = inputs.speaks.then_some(routes);
}

/// What a VIP wants beyond its mode.
const fn options(vip: &Vip) -> VipOptions {
    let tracking = match vip.balance().tracking() {
        placement::Tracking::Window => Tracking::Window,
        placement::Tracking::Always => Tracking::Always,
        placement::Tracking::None => Tracking::Never,
    };
    VipOptions { tracking }
}

/// Rows of a pool, and the members of its table.
fn pool_rows(inputs: &Inputs<'_>, pool: &Pool, made: &mut Made) -> Vec<TableMember> {
    let mut candidates = Vec::new();
    for backend in pool.backends() {
        let item = || format!("backend {}/{}", pool.name(), backend.name());
        let Some(id) = inputs.ids.get(&id_key(pool.name(), backend)) else {
            let message = "has no id in the tables yet".to_owned();
            made.errors.push(ItemError { item: item(), message, retry: true });
            made.without_id += 1;
            continue;
        };
        let link = inputs.links.get(&backend.probe_address()).copied();
        let wanted = backend.weight() > 0 && !backend_drained(inputs, pool, backend);
        if link.is_none() && wanted {
            let message =
                format!("next hop to {} is not resolved: it gets no new flow", backend.probe_address());
            made.errors.push(ItemError { item: item(), message, retry: true });
        }
        let target = Target::Backend { pool: pool.name().to_owned(), name: backend.name().to_owned() };
        let seen = inputs.health.get(&target).copied().unwrap_or(Seen::UNPROBED);
        let spec = BackendSpec {
            id,
            addr4: backend.address(),
            addr6: backend.address6(),
            link,
            alive: seen.keeps_flows && !drain_is_over(inputs, pool, backend),
        };
        made.goal.backends.insert(id, spec);
        if wanted && link.is_some() {
            let member = TableMember { name: backend.name().to_owned(), weight: backend.weight(), id };
            candidates.push((member, seen));
        }
    }
    let healthy = candidates.iter().filter(|(_, seen)| seen.up).count();
    if healthy > 0 {
        made.healthy.insert(pool.name().to_owned());
    }
    let panic = crate::health::in_panic(healthy, candidates.len(), pool.panic_percent());
    if panic {
        // So many look dead that the probes are as likely wrong as the backends, and the few that are left would
        // get more than they can take.
        made.panics.push(pool.name().to_owned());
        for (member, _) in &candidates {
            if let Some(row) = made.goal.backends.get_mut(&member.id) {
                row.alive = true;
            }
        }
    }
    let weighed = |(member, seen): (TableMember, Seen)| {
        let weight = if panic { member.weight } else { slow_weight(member.weight, seen.step) };
        TableMember { weight, ..member }
    };
    let mut members: Vec<TableMember> =
        candidates.into_iter().filter(|(_, seen)| panic || seen.up).map(weighed).collect();
    members.sort();
    members
}

/// Whether documents or the operator drain a backend.
pub fn backend_drained(inputs: &Inputs<'_>, pool: &Pool, backend: &Backend) -> bool {
    backend.state() == BackendState::Drain || drained_by_operator(inputs.drains, pool.name(), backend.name())
}

/// The deadline of an operator's drain of this backend has passed: its flows stay no longer.
fn drain_is_over(inputs: &Inputs<'_>, pool: &Pool, backend: &Backend) -> bool {
    drained_by_operator(inputs.drains_over, pool.name(), backend.name())
}

/// Whether the operator drains a backend.
pub fn drained_by_operator(drains: &BTreeSet<DrainRequest>, pool: &str, name: &str) -> bool {
    let has = |kind, name: &str| drains.contains(&DrainRequest { kind, name: name.to_owned() });
    has(DrainKind::Node, name)
        || has(DrainKind::Backend, name)
        || has(DrainKind::Backend, &format!("{pool}/{name}"))
}

fn member_drained(inputs: &Inputs<'_>, member: &Member) -> bool {
    let has = |kind| inputs.drains.contains(&DrainRequest { kind, name: member.name().to_owned() });
    member.state() == BackendState::Drain || has(DrainKind::Node) || has(DrainKind::Member)
}

/// Addresses and decapsulation of a node that is a backend.
fn backend_side(inputs: &Inputs<'_>, goal: &mut Goal) {
    let mut decap = Decap::default();
    for vip in inputs.desired.vips().values() {
        let Some(pool) = vip.pool().and_then(|name| inputs.desired.pools().get(name)) else { continue };
        let Some(own) = pool.backends().iter().find(|b| b.name() == inputs.node) else { continue };
        if matches!(vip.forward(), Forward::Nat { .. }) {
            // It sees packets to its own address only.
            continue;
        }
        let address = vip.address().address;
        goal.addresses.entry(address).or_insert(Place::Hidden);
        let outer = match vip.forward() {
            Forward::Ipip { .. } => &mut decap.ipip,
            Forward::Gue { port, .. } => {
                decap.gue_ports.insert(*port);
                &mut decap.gue
            }
            _ => continue,
        };
        outer.extend(own.address().map(IpAddr::V4));
        outer.extend(own.address6().map(IpAddr::V6));
        decap.inner.insert(address);
    }
    if !decap.inner.is_empty() {
        goal.decap = Some(decap);
    }
}

/// The rows made last: health changes alone do not walk all sites again.
#[derive(Default)]
pub struct RowCache {
    /// Origins and sites for documents with these generations and this group.
    origins: Vec<Arc<sluice_api::check::types::Origin>>,
    sites: Vec<Arc<sluice_api::check::types::Site>>,
    group: String,
    valid: bool,
}

impl RowCache {
    /// The documents changed.
    pub const fn documents_changed(&mut self) {
        self.valid = false;
    }
}

fn proxy(inputs: &Inputs<'_>, cache: &mut RowCache) -> Option<ProxyGoal> {
    let group = inputs.desired.group_of(inputs.node)?;
    let own = group.members().iter().find(|m| m.name() == inputs.node)?;
    if !cache.valid || cache.group != group.name() {
        let (origins, sites) = rows(inputs, group);
        *cache = RowCache { origins, sites, group: group.name().to_owned(), valid: true };
    }
    let raw = |member: &Member| {
        let state = if member_drained(inputs, member) { BackendState::Drain } else { BackendState::Active };
        sluice_api::placement::Member { state, ..member.to_raw() }
    };
    let is_down = |name: &str| {
        inputs.health.get(&Target::Member { name: name.to_owned() }).is_some_and(|seen| !seen.up)
    };
    let everyone = group.members().iter().chain(group.parents());
    let view = GroupView {
        own_name: inputs.node.to_owned(),
        members: group.members().iter().map(raw).collect(),
        parents: group.parents().iter().map(raw).collect(),
        bounded_load_percent: group.bounded_load_percent(),
        down: everyone.map(Member::name).filter(|name| is_down(name)).map(str::to_owned).collect(),
    };
    let rows = ProxyRows {
        own_group: group.name().to_owned(),
        view,
        origins: cache.origins.clone(),
        sites: cache.sites.clone(),
    };
    let spec = ProxySpec { listen: listen(group, own), cache_bytes: group.cache_bytes() };
    let drain = member_drained(inputs, own);
    Some(ProxyGoal { spec, rows: Arc::new(rows), drain, revision_floor: inputs.revision_floor })
}

/// Client addresses of the group, and the address peers use unless one of those covers it.
fn listen(group: &Group, own: &Member) -> Vec<SocketAddr> {
    let mut listen: Vec<SocketAddr> = group.listen().to_vec();
    let own = own.address();
    let covers = |l: &SocketAddr| {
        l.port() == own.port()
            && (l.ip() == own.ip() || (l.ip().is_unspecified() && l.is_ipv4() == own.is_ipv4()))
    };
    if !listen.iter().any(covers) {
        listen.push(own);
    }
    listen.sort();
    listen
}

type Rows = (Vec<Arc<sluice_api::check::types::Origin>>, Vec<Arc<sluice_api::check::types::Site>>);

/// Sites of the own group and of the groups whose misses climb to this node, with the origins they name.
fn rows(inputs: &Inputs<'_>, group: &Group) -> Rows {
    let served = groups_served(inputs.node, group, inputs.desired);
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut sites = Vec::new();
    for site in inputs.desired.sites() {
        let raw = site.raw();
        if !served.contains(raw.group.as_str()) {
            continue;
        }
        names.insert(&raw.origin);
        names.extend(raw.routes.iter().filter_map(|route| route.origin.as_deref()));
        sites.push(Arc::clone(site));
    }
    let origins = names.into_iter().filter_map(|name| inputs.desired.origins().get(name).cloned()).collect();
    (origins, sites)
}

fn groups_served<'a>(node: &'a str, own: &'a Group, desired: &'a Desired) -> BTreeSet<&'a str> {
    let mut served: BTreeSet<&str> = BTreeSet::from([own.name()]);
    let mut nodes: BTreeSet<&str> = BTreeSet::from([node]);
    loop {
        let below = desired.groups().values().find(|group| {
            !served.contains(group.name()) && group.parents().iter().any(|p| nodes.contains(p.name()))
        });
        let Some(below) = below else { return served };
        served.insert(below.name());
        nodes.extend(below.members().iter().map(Member::name));
    }
}
