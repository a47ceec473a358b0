//! Checked types. Fields are private: a value that exists has passed its checks.

use crate::placement::{self, BackendState, Mode, Protocol, Tracking};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

pub use super::health::{Health, Probe};

/// A document whose fields were checked alone. Equal documents mean the same, however they are written.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedDocument {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) networks: Vec<Network>,
    pub(super) pools: Vec<Arc<Pool>>,
    pub(super) vips: Vec<Arc<Vip>>,
    pub(super) groups: Vec<Arc<Group>>,
    pub(super) origins: Vec<Arc<Origin>>,
    /// Sorted by host, with the index each site had in the document.
    pub(super) sites: Vec<(Arc<Site>, u32)>,
    /// Origins and groups the sites name, with the path of the first field that does.
    pub(super) site_origins: BTreeMap<String, String>,
    pub(super) site_groups: BTreeMap<String, String>,
}

impl CheckedDocument {
    /// Name of the document.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Generation, at least 1.
    pub const fn generation(&self) -> u64 {
        self.generation
    }
    /// Same content, whatever the generation.
    pub fn same_content(&self, other: &Self) -> bool {
        self.name == other.name
            && self.networks == other.networks
            && self.pools == other.pools
            && self.vips == other.vips
            && self.groups == other.groups
            && self.origins == other.origins
            && self.sites().eq(other.sites())
    }
    /// Networks, in document order.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }
    /// Pools, in document order.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }
    /// VIPs, in document order.
    pub fn vips(&self) -> &[Arc<Vip>] {
        &self.vips
    }
    /// Groups, in document order.
    pub fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }
    /// Origins, in document order.
    pub fn origins(&self) -> &[Arc<Origin>] {
        &self.origins
    }
    /// Sites, sorted by host.
    pub fn sites(&self) -> impl ExactSizeIterator<Item = &Arc<Site>> {
        self.sites.iter().map(|(site, _)| site)
    }
}

/// All documents of a node together, references resolved and unique things unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub(super) generations: BTreeMap<String, u64>,
    pub(super) pools: BTreeMap<String, Arc<Pool>>,
    pub(super) vips: BTreeMap<String, Arc<Vip>>,
    pub(super) groups: BTreeMap<String, Arc<Group>>,
    pub(super) origins: BTreeMap<String, Arc<Origin>>,
    pub(super) sites: Vec<Arc<Site>>,
}

impl Desired {
    /// Generation per document name.
    pub const fn generations(&self) -> &BTreeMap<String, u64> {
        &self.generations
    }
    /// Pools by name.
    pub const fn pools(&self) -> &BTreeMap<String, Arc<Pool>> {
        &self.pools
    }
    /// VIPs by name.
    pub const fn vips(&self) -> &BTreeMap<String, Arc<Vip>> {
        &self.vips
    }
    /// Groups by name.
    pub const fn groups(&self) -> &BTreeMap<String, Arc<Group>> {
        &self.groups
    }
    /// Origins by name.
    pub const fn origins(&self) -> &BTreeMap<String, Arc<Origin>> {
        &self.origins
    }
    /// Sites, sorted by host, each host once.
    pub fn sites(&self) -> &[Arc<Site>] {
        &self.sites
    }
    /// The group a node is a member of; there is at most one.
    pub fn group_of(&self, node: &str) -> Option<&Arc<Group>> {
        self.groups.values().find(|group| group.members.iter().any(|m| m.name == node))
    }
}

/// An address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// A prefix, if its length fits the family and no address bit below it is set.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        if prefix > width || bits(address) != bits(address) & mask(address, prefix) {
            return None;
        }
        Some(Self { address, prefix })
    }
    /// Whether an address lies in the prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && bits(address) & mask(address, self.prefix) == bits(self.address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn mask(address: IpAddr, prefix: u8) -> u128 {
    let width: u32 = if address.is_ipv4() { 32 } else { 128 };
    let below = width.saturating_sub(u32::from(prefix));
    u128::MAX.checked_shl(below).unwrap_or(0)
}

/// A subnet of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub(super) name: String,
    pub(super) cidr: Cidr,
}

impl Network {
    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Prefix.
    pub const fn cidr(&self) -> Cidr {
        self.cidr
    }
}

/// A set of backends, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub(super) name: String,
    pub(super) backends: Vec<Backend>,
    pub(super) health: Option<Health>,
    pub(super) panic_percent: u32,
    pub(super) slow_start_ms: u64,
}

impl Pool {
    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Backends, in document order, names and addresses unique.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }
    /// Health check; none: every backend counts as healthy.
    pub const fn health(&self) -> Option<&Health> {
        self.health.as_ref()
    }
    /// Share of the active backends below which probes are not believed; 0: never.
    pub const fn panic_percent(&self) -> u32 {
        self.panic_percent
    }
    /// Time in which the weight of a backend that came back rises, ms.
    pub const fn slow_start_ms(&self) -> u64 {
        self.slow_start_ms
    }
}

/// An L4 backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub(super) name: String,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) address6: Option<Ipv6Addr>,
    pub(super) weight: u16,
    pub(super) state: BackendState,
}

impl Backend {
    /// Node name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// IPv4 address; at least one of the two is there.
    pub const fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }
    /// IPv6 address.
    pub const fn address6(&self) -> Option<Ipv6Addr> {
        self.address6
    }
    /// Share of new flows, 0..=1000.
    pub const fn weight(&self) -> u16 {
        self.weight
    }
    /// What the document wants of it.
    pub const fn state(&self) -> BackendState {
        self.state
    }
    /// The address packets of a VIP go to: of the VIP's family, or the other one where the mode can carry
    /// it (4in6). `None` cannot happen for a pool that a checked VIP names.
    pub fn target(&self, vip: IpAddr, mode: Mode) -> Option<IpAddr> {
        let v4 = self.address.map(IpAddr::V4);
        let v6 = self.address6.map(IpAddr::V6);
        match (vip, mode) {
            (IpAddr::V4(_), Mode::Ipip | Mode::Gue) => v4.or(v6),
            (IpAddr::V4(_), _) => v4,
            (IpAddr::V6(_), _) => v6,
        }
    }
    /// The address health checks go to: IPv4 where there is one.
    pub fn probe_address(&self) -> IpAddr {
        let v6 = self.address6.map(IpAddr::V6);
        self.address.map(IpAddr::V4).or(v6).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// What identifies a VIP on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipAddress {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl fmt::Display for VipAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}/{protocol}", SocketAddr::new(self.address, self.port))
    }
}

/// Where packets of a VIP go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Up to the node's own stack.
    Local,
    /// To a backend of a pool, destination MAC rewritten.
    L2Direct {
        /// Name of the pool.
        pool: String,
    },
    /// To a backend of a pool, encapsulated.
    Ipip {
        /// Name of the pool.
        pool: String,
    },
    /// To a backend of a pool, encapsulated in UDP.
    Gue {
        /// Name of the pool.
        pool: String,
        /// UDP destination port.
        port: u16,
    },
    /// To a backend of a pool, source and destination rewritten.
    Nat {
        /// Name of the pool.
        pool: String,
        /// Port of the backends.
        backend_port: u16,
        /// Source addresses by node, at least one for each node of the VIP.
        sources: BTreeMap<String, Vec<IpAddr>>,
    },
}

/// A virtual IP and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    pub(super) name: String,
    pub(super) address: VipAddress,
    pub(super) forward: Forward,
    pub(super) nodes: BTreeSet<String>,
    pub(super) flow_idle_ms: u64,
    pub(super) announce: bool,
    pub(super) balance: Balance,
}

/// How a VIP spreads its flows and keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub(super) tracking: Tracking,
}

impl Balance {
    /// Which flows have an entry in the flow table.
    pub const fn tracking(&self) -> Tracking {
        self.tracking
    }
}

impl Vip {
    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Address, port and protocol, unique in the set.
    pub const fn address(&self) -> VipAddress {
        self.address
    }
    /// Where packets go.
    pub const fn forward(&self) -> &Forward {
        &self.forward
    }
    /// Mode as written in documents.
    pub const fn mode(&self) -> Mode {
        match self.forward {
            Forward::Local => Mode::Local,
            Forward::L2Direct { .. } => Mode::L2Direct,
            Forward::Ipip { .. } => Mode::Ipip,
            Forward::Gue { .. } => Mode::Gue,
            Forward::Nat { .. } => Mode::Nat,
        }
    }
    /// Name of the pool; none in mode local.
    pub fn pool(&self) -> Option<&str> {
        match &self.forward {
            Forward::Local => None,
            Forward::L2Direct { pool }
            | Forward::Ipip { pool }
            | Forward::Gue { pool, .. }
            | Forward::Nat { pool, .. } => Some(pool),
        }
    }
    /// Nodes that balance it, at least one.
    pub const fn nodes(&self) -> &BTreeSet<String> {
        &self.nodes
    }
    /// Announced by BGP while it is healthy.
    pub const fn announce(&self) -> bool {
        self.announce
    }
    /// How long the previous owner of a changed slot is remembered, ms.
    pub const fn flow_idle_ms(&self) -> u64 {
        self.flow_idle_ms
    }
    /// How flows are spread and kept.
    pub const fn balance(&self) -> &Balance {
        &self.balance
    }
}

/// A cache group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub(super) name: String,
    pub(super) members: Vec<Member>,
    pub(super) parents: Vec<Member>,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) cache_bytes: u64,
    pub(super) bounded_load_percent: u32,
}

impl Group {
    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Members, names and addresses unique, at least one.
    pub fn members(&self) -> &[Member] {
        &self.members
    }
    /// Parent tier, may be empty.
    pub fn parents(&self) -> &[Member] {
        &self.parents
    }
    /// Addresses each member listens on for clients, at least one.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }
    /// RAM of each member's cache, bytes.
    pub const fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }
    /// Bound on a member's load, percent of the mean.
    pub const fn bounded_load_percent(&self) -> u32 {
        self.bounded_load_percent
    }
}

/// A member of a group or parent tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) weight: u16,
    pub(super) state: BackendState,
}

impl Member {
    /// Node name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Address of its proxy as others reach it.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
    /// Share of the URLs, 1..=1000.
    pub const fn weight(&self) -> u16 {
        self.weight
    }
    /// What the document wants of it.
    pub const fn state(&self) -> BackendState {
        self.state
    }
    /// As written in documents and sent to a proxy.
    pub fn to_raw(&self) -> placement::Member {
        placement::Member {
            name: self.name.clone(),
            address: self.address.to_string(),
            weight: u32::from(self.weight),
            state: self.state,
        }
    }
}

/// A checked origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin(pub(super) placement::Origin);

impl Origin {
    /// As written in documents and sent to a proxy.
    pub const fn raw(&self) -> &placement::Origin {
        &self.0
    }
}

/// A checked site.
#[derive(Clone, Debug, PartialEq)]
pub struct Site(pub(super) placement::Site);

impl Site {
    /// As written in documents and sent to a proxy.
    pub const fn raw(&self) -> &placement::Site {
        &self.0
    }
}
