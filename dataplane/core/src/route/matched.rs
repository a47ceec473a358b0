//! What the table hands out.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

/// Number of an origin in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginId(pub u32);

/// The route of a request; a copy, so that no row is held while the request runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// Where misses go.
    pub origin: OriginId,
    /// Responses may be stored.
    pub cache: bool,
    /// Lifetime of responses that state none, ms; 0: none.
    pub default_ttl_ms: u64,
    /// Purge generation of the host: goes into every lookup of the store.
    pub generation: u64,
    /// Place of the row, for [`super::RouteTable::counters`] and [`super::RouteTable::row_name`].
    pub row: u32,
    /// Which row of that place: places are used again.
    pub serial: u64,
    /// Index of the route in its row.
    pub route: u32,
}

/// Servers with the same content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name.
    pub name: Box<str>,
    /// Tried in order from a hashed start.
    pub addresses: Box<[SocketAddr]>,
    /// Host field sent upstream; absent: the client's.
    pub host: Option<Box<str>>,
}

/// Counters of a host.
#[derive(Debug, Default)]
pub struct RowCounters {
    /// Requests routed to it.
    pub requests: AtomicU64,
    /// Answered from the store.
    pub hits: AtomicU64,
    /// Bytes of response bodies sent to clients.
    pub bytes_out: AtomicU64,
}

/// Why a row was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct RowError {
    /// Path of the field (`routes[0].path`; in a change `sites[3].routes[0].path`).
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// Size of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Sites.
    pub sites: u64,
    /// Origins.
    pub origins: u64,
    /// Routes beyond the one each site has.
    pub extra_routes: u64,
    /// Bytes of memory held for all of it, allocator overhead included, counters not.
    pub bytes: u64,
}
