//! The line protocol between the agent and one proxy process.
//!
//! Over a UNIX stream socket: one JSON [`Request`] a line, answered by one JSON [`Reply`] a line, in order.
//! A request of kind `apply` is checked as a whole before any of it is published.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you.
    Hello {},
    /// Publish a change.
    Apply(Box<Apply>),
    /// Counters and gauges.
    Stats {},
    /// Where would this URL go, and why.
    Trace {
        /// Method; `GET` when absent.
        #[serde(default)]
        method: Option<String>,
        /// `http://host[:port]/path?query`.
        url: String,
    },
    /// Forget stored responses.
    Purge(Purge),
    /// Refuse new work politely: `Connection: close` everywhere, health check answers 503.
    Drain {
        /// `false` takes the drain back.
        on: bool,
    },
    /// Send the listening sockets (SCM_RIGHTS with the reply line), stop accepting, drain and exit.
    Handover {
        /// Connections still open then are closed, ms.
        deadline_ms: u64,
    },
}

/// What to forget; each kind compares generation numbers at lookup, none walks a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Purge {
    /// One URL.
    Url {
        /// `http://host/path?query`.
        url: String,
    },
    /// A whole host.
    Host {
        /// As in the site row.
        host: String,
    },
    /// Everything.
    All {},
}

/// A change to the rows of a proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Number of the change; goes back never, reported by `hello` and `stats`.
    pub revision: u64,
    /// Rows not named in this change are dropped.
    #[serde(default)]
    pub full: bool,
    /// New group view; absent: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupView>,
    /// Origins added or replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<crate::placement::Origin>,
    /// Names of origins removed; refused while a site names one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins_removed: Vec<String>,
    /// Sites added or replaced (their `group` field is this proxy's own).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<crate::placement::Site>,
    /// Hosts removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites_removed: Vec<String>,
}

/// The group as one member sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GroupView {
    /// Name of this member.
    pub own_name: String,
    /// All members, this one too.
    pub members: Vec<crate::placement::Member>,
    /// Members of the parent tier.
    #[serde(default)]
    pub parents: Vec<crate::placement::Member>,
    /// See [`crate::placement::Group::bounded_load_percent`].
    pub bounded_load_percent: u32,
    /// Names of members and parents that the agent's probes found down.
    #[serde(default)]
    pub down: Vec<String>,
}

/// A reply line: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The request was carried out.
    Ok(Answer),
    /// Nothing was changed.
    Error {
        /// Path of the field at fault (`sites[3].routes[0].path`), or empty.
        field: String,
        /// What is wrong with it.
        message: String,
    },
}

/// The body of a good reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// To `hello`.
    Hello {
        /// Process id.
        pid: u32,
        /// Version of the program.
        version: String,
        /// Revision in effect; 0: none applied yet.
        revision: u64,
        /// Addresses listened on.
        listen: Vec<String>,
        /// Draining.
        draining: bool,
    },
    /// To `apply`.
    Applied {
        /// Revision now in effect.
        revision: u64,
        /// Hosts in the table now.
        sites: u64,
    },
    /// To `stats`.
    Stats(Stats),
    /// To `trace`.
    Trace(UrlTrace),
    /// To `purge`, `drain` and `handover`.
    Done {},
}

/// Counters since start and gauges of now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stats {
    /// Revision in effect.
    pub revision: u64,
    /// Draining.
    pub draining: bool,
    /// Counters by name (`requests`, `hits`, `misses`, `peer_forwards`, `fills`, `coalesced`, `revalidated`,
    /// `origin_requests`, `parent_requests`, `bytes_in`, `bytes_out`, ...).
    pub counters: BTreeMap<String, u64>,
    /// Requests refused by reason name.
    pub refused: BTreeMap<String, u64>,
    /// Responses by status code.
    #[serde(deserialize_with = "by_code")]
    pub status: BTreeMap<u16, u64>,
    /// Gauges by name (`connections_open`, `connections_idle`, `cache_bytes`, `cache_objects`, `sites`, ...).
    pub gauges: BTreeMap<String, u64>,
    /// Time from a request's last head byte to its response's first byte, microseconds, by percentile name
    /// (`p50`, `p90`, `p99`, `p999`, `max`).
    pub latency_us: BTreeMap<String, u64>,
    /// Sites with the most requests, most first; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_sites: Vec<SiteCount>,
}

/// What one site was asked since it was added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SiteCount {
    /// As in the site row.
    pub host: String,
    /// Requests routed to it.
    pub requests: u64,
    /// Of those, answered from the store without asking anyone.
    pub hits: u64,
}

/// JSON keys are text. Inside a tagged enum ([`Answer`]) serde hands them over as such, not as numbers.
fn by_code<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<u16, u64>, D::Error> {
    let texts = BTreeMap::<String, u64>::deserialize(from)?;
    let code = |text: String| {
        text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is no status code")))
    };
    texts.into_iter().map(|(text, n)| Ok((code(text)?, n))).collect()
}

/// Where a URL would go, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UrlTrace {
    /// Site row that matched.
    pub site: String,
    /// Route prefix that matched.
    pub route: String,
    /// Cache key, printable.
    pub key: String,
    /// Hash of the key.
    pub key_hash: u64,
    /// Members in ring order for this key.
    pub owners: Vec<String>,
    /// `stored_fresh`, `stored_stale`, `absent`, `filling`, `uncacheable`.
    pub stored: String,
    /// The next hop: `store`, `peer:NAME`, `parent:NAME`, `origin:NAME`.
    pub next_hop: String,
    /// One sentence per decision, in order.
    pub why: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stats_reply_survives_the_line() {
        let stats = Stats { status: BTreeMap::from([(200, 7), (404, 1)]), ..Stats::default() };
        let reply = Reply::Ok(Answer::Stats(stats));
        let line = serde_json::to_string(&reply).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
    }
}
