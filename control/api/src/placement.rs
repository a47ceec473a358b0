//! Placement documents as written, in YAML or JSON.
//!
//! A directory holds any number of documents. Each has a name and a generation of its own; the desired
//! state of a node is the union of all documents. Fields keep the order a reader needs them in.

use serde::{Deserialize, Serialize};

/// The only schema version there is.
pub const API_VERSION: &str = "sluice/v1";

/// One placement document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`API_VERSION`].
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Unique among the documents of a node; `[a-z0-9-]{1,63}`.
    pub name: String,
    /// Starts at 1 and only grows. Same number with other content is refused.
    pub generation: u64,
    /// Subnets that backends, members and origins may live in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Sets of L4 backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// Virtual IPs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<Vip>,
    /// Cache groups of L7 nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Where misses end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
    /// Hosts the L7 nodes answer for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<Site>,
}

/// A subnet of the site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Unique name.
    pub name: String,
    /// `address/prefix`, IPv4 or IPv6.
    pub cidr: String,
}

/// A named set of L4 backends with one health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Unique name.
    pub name: String,
    /// Members of the pool.
    pub backends: Vec<Backend>,
    /// Absent: every backend counts as healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// When fewer than this share of the active backends are healthy (percent, rounded up to a whole backend),
    /// the probes are not believed and all active ones keep their slots; 0: always believed. 0..=100.
    #[serde(default = "default_panic_percent")]
    pub panic_percent: u32,
    /// Time in which the weight of a backend that came back rises to its full value in steps, ms; 0: at once.
    /// At most 3600000.
    #[serde(default)]
    pub slow_start_ms: u64,
}

impl Pool {
    /// A pool with everything else at its default.
    pub fn new(name: impl Into<String>, backends: Vec<Backend>) -> Self {
        let (panic_percent, slow_start_ms) = (default_panic_percent(), 0);
        Pool { name: name.into(), backends, health: None, panic_percent, slow_start_ms }
    }
}

/// Default of [`Pool::panic_percent`]: of up to 100 backends, one that is healthy is believed.
pub const fn default_panic_percent() -> u32 {
    1
}

/// One L4 backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The node's name; unique in its pool. A node that finds its own name here makes the pool's VIP
    /// addresses local to itself and decapsulates if the mode asks for it.
    pub name: String,
    /// IPv4 address, in one of the networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// IPv6 address, in one of the networks. At least one of the two is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<String>,
    /// Share of new flows, 0..=1000; 0 takes no new flow.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// `active` or `drain`.
    #[serde(default)]
    pub state: BackendState,
}

/// Default of [`Backend::weight`].
pub const fn default_weight() -> u32 {
    100
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// Takes new flows while healthy.
    #[default]
    Active,
    /// Keeps its flows, takes no new one.
    Drain,
}

/// Active health check of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What is sent, and what counts as an answer.
    pub kind: HealthKind,
    /// Port probed; 0 only for a `script` that needs none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub port: u16,
    /// Path of an `http` or `https` check; absent: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Host field of an `http` or `https` check, and the server name an `https` check asks for; absent: the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What an `https` check demands of the certificate; always written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Payload of a `udp` check: text, or bytes as `hex:00ff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// What the answer to a `udp` check begins with, written as `send`; empty: any answer. Absent: no answer is
    /// needed, and only an ICMP error says no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// File of a `script` check in the agent's directory of scripts; called with the address and the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Which way a probe takes.
    #[serde(default, skip_serializing_if = "Through::is_default")]
    pub through: Through,
    /// Time between the starts of two probes, 50..=600000 ms.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    /// A probe not answered by then failed; at most the interval.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Good probes in a row that bring a backend back, 1..=100.
    #[serde(default = "default_rise")]
    pub rise: u32,
    /// Bad probes in a row that take a backend out, 1..=100.
    #[serde(default = "default_fall")]
    pub fall: u32,
    /// How far each interval may be off, percent of it to either side, 0..=50.
    #[serde(default = "default_jitter_percent")]
    pub jitter_percent: u32,
}

impl Health {
    /// A check with everything else at its default.
    pub const fn new(kind: HealthKind, port: u16) -> Self {
        Health {
            kind,
            port,
            path: None,
            host: None,
            verify: None,
            send: None,
            expect: None,
            script: None,
            through: Through::Backend,
            interval_ms: default_interval_ms(),
            timeout_ms: default_timeout_ms(),
            rise: default_rise(),
            fall: default_fall(),
            jitter_percent: default_jitter_percent(),
        }
    }
}

const fn is_zero(port: &u16) -> bool {
    *port == 0
}

/// What an `https` check demands of the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Nothing: the check proves an answer, not who gave it.
    None,
    /// That it is valid for `host` and signed by one of the agent's authorities.
    Ca,
}

/// Which way probes take to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// To the backend's own address.
    #[default]
    Backend,
    /// The way of the VIP's own packets. Reserved: refused by this version, which cannot send that way.
    Vip,
}

impl Through {
    const fn is_default(&self) -> bool {
        matches!(self, Through::Backend)
    }
}

const fn default_interval_ms() -> u64 {
    1000
}
const fn default_timeout_ms() -> u64 {
    500
}
const fn default_rise() -> u32 {
    2
}
const fn default_fall() -> u32 {
    3
}

const fn default_jitter_percent() -> u32 {
    10
}

/// Kind of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HealthKind {
    /// A TCP handshake.
    Tcp,
    /// An HTTP/1.1 GET answered 200..=399.
    Http,
    /// The same over TLS 1.2 or 1.3.
    Https,
    /// A datagram.
    Udp,
    /// A program that ends with 0; with 75 (`EX_TEMPFAIL`) it says: alive, but no new flows.
    Script,
}

/// A virtual IP and port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// Unique name.
    pub name: String,
    /// IPv4 or IPv6 address.
    pub address: String,
    /// Port, 1..=65535.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// How packets reach a backend.
    pub mode: Mode,
    /// Pool of backends; absent only in mode `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Nodes that balance this VIP.
    pub nodes: Vec<String>,
    /// Encapsulation of mode `gue`; absent: the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gue: Option<Gue>,
    /// Addresses and port of mode `nat`, which needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<Nat>,
    /// How long the previous owner of a changed slot is remembered, 1000..=86400000 ms.
    #[serde(default = "default_flow_idle_ms")]
    pub flow_idle_ms: u64,
    /// Announce the address to routers by BGP while a backend of the pool is healthy.
    #[serde(default, skip_serializing_if = "is_false")]
    pub announce: bool,
    /// How flows are spread over the backends and kept there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How a VIP spreads its flows and keeps them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// Which flows have an entry in the flow table; mode `local` has no use for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tracking: Tracking,
}

/// Which flows have an entry in the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Tracking {
    /// Those of slots whose owner changed, and only those that need one.
    #[default]
    Window,
    /// All.
    Always,
    /// None: a flow follows the current owner of its slot.
    None,
}

const fn default_flow_idle_ms() -> u64 {
    120_000
}

/// Encapsulation of mode `gue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Gue {
    /// UDP destination port, 1..=65535.
    #[serde(default = "default_gue_port")]
    pub port: u16,
}

impl Default for Gue {
    fn default() -> Self {
        Gue { port: default_gue_port() }
    }
}

/// IANA's number for GUE.
const fn default_gue_port() -> u16 {
    6080
}

const fn is_false(value: &bool) -> bool {
    !*value
}

/// Addresses and port of mode `nat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// Source addresses, of the VIP's family, by the node that uses them; 1 to 8 for each node of the VIP. A node
    /// puts its own on its interface; they are used for nothing else.
    pub sources: Vec<NatSource>,
    /// Port of the backends; absent: the VIP's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_port: Option<u16>,
}

/// A source address of mode `nat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NatSource {
    /// Node that uses it, one of the VIP's.
    pub node: String,
    /// Address.
    pub address: String,
}

/// Transport of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
}

/// Forwarding mode of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Rewrite the destination MAC; the backend answers the client directly.
    L2Direct,
    /// IP in IP (4in4, 4in6, 6in6); the backend decapsulates and answers the client directly.
    Ipip,
    /// IP in UDP in IP (GUE variant 1), families as `ipip`; the backend decapsulates and answers the client
    /// directly.
    Gue,
    /// Rewrite source and destination; replies come back through the balancer. For backends that cannot take
    /// direct return.
    Nat,
    /// Pass up to the box's own stack, where the L7 proxy listens.
    Local,
}

/// A group of L7 nodes that keep each URL once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Unique name.
    pub name: String,
    /// Nodes of the group.
    pub members: Vec<Member>,
    /// Parent tier: members of another group that misses climb to; empty: misses go to the origin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Member>,
    /// `address:port` each member's proxy listens on for clients.
    pub listen: Vec<String>,
    /// RAM of the cache of each member, bytes, at least 1 MiB.
    #[serde(default = "default_cache_bytes")]
    pub cache_bytes: u64,
    /// A member takes at most this times the mean load before keys overflow to the next, in percent
    /// (Mirrokni, Thorup, Zadimoghaddam: consistent hashing with bounded loads), 101..=1000.
    #[serde(default = "default_load_percent")]
    pub bounded_load_percent: u32,
}

const fn default_cache_bytes() -> u64 {
    256 << 20
}
const fn default_load_percent() -> u32 {
    125
}

/// A member of a group as its peers reach it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Node name.
    pub name: String,
    /// `address:port` of its proxy.
    pub address: String,
    /// Share of the URLs, 1..=1000.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// `active` or `drain`.
    #[serde(default)]
    pub state: BackendState,
}

/// An origin: one or more servers with the same content.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Unique name.
    pub name: String,
    /// `address:port`, tried in order from a hashed start.
    pub addresses: Vec<String>,
    /// Host field sent upstream; absent: the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// A host name and its routes.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Lower-case host name, `*.suffix` for all names below it, or `*` for the rest.
    pub host: String,
    /// Longest matching prefix wins; empty `routes` with `origin` set is one route for `/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Origin of the site when no route names another.
    pub origin: String,
    /// Group that serves the site.
    pub group: String,
}

/// A path prefix of a site.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Prefix that starts with `/`.
    pub path: String,
    /// Absent: the site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// `false` proxies without storing.
    #[serde(default = "default_true")]
    pub cache: bool,
    /// Freshness of responses that state none (RFC 9111 section 4.2.2), ms; 0: none.
    #[serde(default)]
    pub default_ttl_ms: u64,
}

const fn default_true() -> bool {
    true
}
