//! Bodies of the agent's REST API, shared with the operator's command.
//!
//! HTTP/1.1 over a UNIX socket, JSON unless stated. Every error is a [`Problem`] with media type
//! `application/problem+json` (RFC 9457). The agent's `http` module lists the routes.

use crate::check::FieldError;
use crate::proxy_admin::{Stats as ProxyStats, UrlTrace};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An error answer (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:sluice:problem:KIND`; kinds are `invalid-document`, `generation`, `not-found`,
    /// `method-not-allowed`, `too-large`, `media-type`, `bad-request`, `proxy`, `internal`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short text for the kind.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Fields at fault, for documents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One document in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DocumentInfo {
    /// Name.
    pub name: String,
    /// Generation in the ledger.
    pub generation: u64,
    /// Generation whose steps were all carried out.
    pub observed_generation: u64,
    /// Items in it by kind (`vips`, `sites`, ...).
    pub items: BTreeMap<String, u64>,
}

/// Answer of `GET /v1/documents`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DocumentList {
    /// Documents in force, by name.
    pub documents: Vec<DocumentInfo>,
}

/// What a document did, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Change {
    /// Not there before.
    Created,
    /// Newer generation.
    Replaced,
    /// Same generation and content.
    Unchanged,
    /// Taken away.
    Deleted,
}

/// Answer of `PUT` and `DELETE /v1/documents/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Applied {
    /// Name of the document.
    pub name: String,
    /// Its generation now.
    pub generation: u64,
    /// What happened.
    pub change: Change,
    /// Nothing was written (`?dry_run=true`).
    pub dry_run: bool,
    /// Steps this node carries out for it, in words and in order.
    pub steps: Vec<String>,
}

/// Answer of `POST /v1/diff`: what applying the document in the body would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Diff {
    /// Name of the document.
    pub name: String,
    /// Generation in force, if the document is.
    pub generation_now: Option<u64>,
    /// Generation of the body.
    pub generation_new: u64,
    /// What it would be.
    pub change: Change,
    /// Fields that differ, in document order, at most 1,000.
    pub fields: Vec<FieldChange>,
    /// Fields that differ beyond those listed.
    pub fields_left_out: u64,
    /// Steps this node would carry out, in words and in order.
    pub steps: Vec<String>,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldChange {
    /// Path; named entries of lists appear by name: `pools[web].backends[web-1].weight`.
    pub path: String,
    /// Value in force; absent: added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub from: Option<serde_json::Value>,
    /// Value of the body; absent: removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub to: Option<serde_json::Value>,
}

/// What a drain is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DrainKind {
    /// An L4 backend: `pool/name`, or `name` for that node in every pool.
    Backend,
    /// A member of a group, as this agent's proxy sees it; on the member itself its proxy drains.
    Member,
    /// Both, everywhere this node name appears.
    Node,
}

/// Body of `POST /v1/drain` and `POST /v1/undrain`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainRequest {
    /// What kind of thing.
    pub kind: DrainKind,
    /// Its name.
    pub name: String,
}

/// Body of `POST /v1/drain`: what [`DrainRequest`] says, and for how long flows may stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainOrder {
    /// What kind of thing.
    pub kind: DrainKind,
    /// Its name.
    pub name: String,
    /// After this time a drained backend keeps no flow: they move to other backends; absent: they stay until they
    /// end. Not for members, whose proxies end their connections themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// A drain that ends at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainDeadline {
    /// What kind of thing.
    pub kind: DrainKind,
    /// Its name.
    pub name: String,
    /// From then on it keeps no flow; wall clock, ms since 1970.
    pub at_ms: u64,
}

/// Answer of `POST /v1/drain` and `POST /v1/undrain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainReport {
    /// Drains in force now, from the ledger.
    pub drains: Vec<DrainRequest>,
    /// Those that end at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deadlines: Vec<DrainDeadline>,
    /// Items the request touched, in words.
    pub affected: Vec<String>,
}

/// Answer of `GET /v1/stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeStats {
    /// Name of the node.
    pub node: String,
    /// VIPs balanced here.
    pub vips: Vec<VipStats>,
    /// Backends in the table.
    pub backends: Vec<BackendStats>,
    /// Drops of all VIPs by reason name, with those of no VIP.
    pub drops: BTreeMap<String, u64>,
    /// Other packet events by name.
    pub packet_events: BTreeMap<String, u64>,
    /// Flow table: `buckets`, `entries_max`, `window_slots`, ...
    pub flow_table: BTreeMap<String, u64>,
    /// The agent's own counters: `plans`, `steps`, `step_errors`, `refused_documents`, `proxy_restarts`, ...
    pub agent: BTreeMap<String, u64>,
    /// Proxy of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyStats>,
}

/// Counters of a VIP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VipStats {
    /// Name.
    pub name: String,
    /// `address:port/protocol`.
    pub address: String,
    /// Packets to the backends of its pool (backends shared with other VIPs count in each).
    pub packets: u64,
    /// See `packets`.
    pub bytes: u64,
    /// Drops by reason name.
    pub drops: BTreeMap<String, u64>,
    /// Previous owners of slots are remembered now.
    pub window_open: bool,
}

/// Counters of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackendStats {
    /// Id in the kernel tables.
    pub id: u16,
    /// Node name.
    pub name: String,
    /// Its address or addresses.
    pub address: String,
    /// Packets forwarded since its row was made.
    pub packets: u64,
    /// IP bytes before encapsulation.
    pub bytes: u64,
}

/// Body of `POST /v1/trace`: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TraceRequest {
    /// Where would this packet go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketQuery>,
    /// Where would this URL go: `http://host[:port]/path?query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Method of the URL; `GET` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// A packet to trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PacketQuery {
    /// Source address.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub src: std::net::IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination address.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub dst: std::net::IpAddr,
    /// Destination port.
    pub dst_port: u16,
    /// `tcp` or `udp`.
    pub protocol: crate::placement::Protocol,
}

/// Answer of `POST /v1/trace`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Trace {
    /// `pass`, `forward`, `drop`, or the next hop of a URL.
    pub verdict: String,
    /// VIP that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// Maglev slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Backend of a new flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Backend of flows older than the last change of the slot, while its window is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_backend: Option<String>,
    /// The proxy's account, for a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<UrlTrace>,
    /// One sentence per decision, in order.
    pub why: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Number since the agent started, from 1; a gap means the ring was full.
    pub sequence: u64,
    /// Wall clock, microseconds since 1970.
    pub at_us: u64,
    /// Kind: `document_applied`, `document_refused`, `document_removed`, `converged`, `step_failed`,
    /// `backend_down`, `backend_up`, `member_down`, `member_up`, `proxy_started`, `proxy_adopted`,
    /// `proxy_died`, `proxy_upgraded`, `window_closed`, `drain`, `undrain`, `source_unreadable`, ...
    pub kind: String,
    /// What it is about.
    pub item: String,
    /// In words.
    pub message: String,
    /// Numbers that belong to it (`generation`, `seen_to_durable_us`, `seen_to_applied_us`, `steps`, ...).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, u64>,
}

/// Answer of `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventList {
    /// Newest last, at most the ring's size.
    pub events: Vec<Event>,
}

/// Answer of `POST /v1/proxy/upgrade`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Upgraded {
    /// Process that served until now; it drains and exits by itself.
    pub old_pid: u32,
    /// Process that serves now.
    pub new_pid: u32,
    /// Revision it has.
    pub revision: u64,
}

/// Answer of `GET /v1/healthz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Healthz {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Every desired step is done.
    pub converged: bool,
}
