//! Host and path routing over a table made for 100,000 domains.
//!
//! Hosts are rows changed in place; no configuration generation is ever rebuilt. Any number of workers look up
//! without a lock and without writing to memory they share; one administrative thread at a time changes rows.
//!
//! ```text
//! host -> hash -> index word (tag, row number) -> row (name, routes, state) -> longest prefix -> RouteMatch
//! ```
//!
//! What must stay true:
//! * A lookup that runs beside a change sees the row before it or after it, never neither and never a mixture; rows
//!   that do not change are always found.
//! * Changing a row costs the same at ten rows and at a million; the index doubles now and then, which reads no
//!   row and stops no reader.
//! * A purge generation is never given twice, so what was stored for a removed host is never found again.
//! * An origin that a row names cannot be removed.

mod change;
mod index;
mod matched;
mod row;
mod slots;
#[cfg(test)]
mod tests;

pub use matched::{Origin, OriginId, RouteMatch, RowCounters, RowError, TableStats};

use arc_swap::ArcSwap;
use change::Writer;
use index::Index;
use row::Row;
use siphasher::sip::SipHasher13;
use slots::Slots;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Row number for "no row".
const NO_ROW: u32 = u32::MAX;
/// Names with more labels share the last bit of the set of wildcard depths.
const DEPTH_MAX: usize = 63;

/// The table of hosts, and of the origins their routes name.
pub struct RouteTable {
    seed: u64,
    index: ArcSwap<Index>,
    rows: Slots<Row>,
    origins: Slots<Origin>,
    /// Bit n: there is a wildcard whose suffix has n labels.
    wildcard_depths: AtomicU64,
    /// The row for `*`.
    default_row: AtomicU32,
    writer: Mutex<Writer>,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self::new()
    }
}

impl RouteTable {
    /// An empty table with a fixed hash seed.
    pub fn new() -> Self {
        Self::with_seed(0x736c_7569_6365_7631)
    }

    /// An empty table. A seed that tenants do not know keeps them from choosing names that collide.
    pub fn with_seed(seed: u64) -> Self {
        Self {
            seed,
            index: ArcSwap::from_pointee(Index::with_room_for(0)),
            rows: Slots::new(),
            origins: Slots::new(),
            wildcard_depths: AtomicU64::new(0),
            default_row: AtomicU32::new(NO_ROW),
            writer: Mutex::new(Writer::default()),
        }
    }

    /// The route for a request: exact host, else the longest `*.suffix`, else `*`; in it the longest prefix of the
    /// path, byte by byte (`/a` is a prefix of `/ab`). A host whose routes do not cover the path has no route: no
    /// other row is tried. `host` is normalised: lower case, no port, no trailing dot.
    pub fn lookup(&self, host: &[u8], path: &[u8]) -> Option<RouteMatch> {
        let index = self.index.load();
        if let Some(found) = self.find(&index, host, |name| name == host, path) {
            return found;
        }
        let depths = self.wildcard_depths.load(Ordering::Acquire);
        if depths != 0
            && let Some(found) = self.lookup_wildcard(&index, depths, host, path)
        {
            return found;
        }
        let row = self.default_row.load(Ordering::Acquire);
        if row == NO_ROW {
            return None;
        }
        let guard = self.rows.load(row);
        guard.as_ref().filter(|r| r.name() == b"*").and_then(|r| matched(r, row, path))
    }

    /// The host of a matched row, as written; `None` if the row is gone.
    pub fn row_name(&self, of: &RouteMatch) -> Option<String> {
        self.with_row(of, |row| String::from_utf8_lossy(row.name()).into_owned())
    }

    /// The prefix of a matched route; `None` if the row is gone.
    pub fn route_prefix(&self, of: &RouteMatch) -> Option<String> {
        self.with_row(of, |row| String::from_utf8_lossy(row.prefix(of.route)).into_owned())
    }

    /// Counters of a matched row, made at its first hit; they stay when the row is replaced. `None` if the row
    /// is gone.
    pub fn counters(&self, of: &RouteMatch) -> Option<Arc<RowCounters>> {
        self.with_row(of, |row| row.state.counters.get_or_init(Arc::default).clone())
    }

    /// Adds to the counters of a matched row without taking a handle of them.
    pub fn count(&self, of: &RouteMatch, hit: bool, bytes_out: u64) {
        self.count_many(of, 1, u64::from(hit), bytes_out);
    }

    /// As [`RouteTable::count`], for what a worker collected before it touches counters that all share.
    pub fn count_many(&self, of: &RouteMatch, requests: u64, hits: u64, bytes_out: u64) {
        self.with_row(of, |row| {
            let counters = row.state.counters.get_or_init(Arc::default);
            counters.requests.fetch_add(requests, Ordering::Relaxed);
            counters.hits.fetch_add(hits, Ordering::Relaxed);
            counters.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        });
    }

    /// An origin by the id in a [`RouteMatch`]; `None` if it was removed since.
    pub fn origin(&self, id: OriginId) -> Option<Arc<Origin>> {
        (*self.origins.load(id.0)).clone()
    }

    /// Outer `None`: no such row; inner: a row without a route for the path.
    #[inline]
    fn find(
        &self,
        index: &Index,
        key: &[u8],
        is: impl Fn(&[u8]) -> bool,
        path: &[u8],
    ) -> Option<Option<RouteMatch>> {
        for number in index.candidates(self.hash(key)) {
            let guard = self.rows.load(number);
            if let Some(row) = guard.as_ref().filter(|r| is(r.name())) {
                return Some(matched(row, number, path));
            }
        }
        None
    }

    fn lookup_wildcard(
        &self,
        index: &Index,
        depths: u64,
        host: &[u8],
        path: &[u8],
    ) -> Option<Option<RouteMatch>> {
        let mut depth = host.iter().filter(|b| **b == b'.').count();
        for dot in memchr::memchr_iter(b'.', host) {
            // From the longest suffix to the shortest; `*.suffix` is found by its part from the dot on.
            if depths & (1 << depth.min(DEPTH_MAX)) != 0 {
                let suffix = &host[dot..];
                let is = |name: &[u8]| name.first() == Some(&b'*') && name[1..] == *suffix;
                if let Some(found) = self.find(index, suffix, is, path) {
                    return Some(found);
                }
            }
            depth -= 1;
        }
        None
    }

    fn with_row<T>(&self, of: &RouteMatch, f: impl FnOnce(&Row) -> T) -> Option<T> {
        let guard = self.rows.load(of.row);
        guard.as_ref().filter(|r| r.state.serial == of.serial).map(|r| f(r))
    }

    /// Hash of a host, or of a wildcard's suffix with its dot: no host begins with one.
    fn hash(&self, key: &[u8]) -> u64 {
        let mut hash = SipHasher13::new_with_keys(self.seed, 0);
        hash.write(key);
        hash.finish()
    }
}

fn matched(row: &Row, number: u32, path: &[u8]) -> Option<RouteMatch> {
    let (route, target) = row.route(path)?;
    Some(RouteMatch {
        origin: target.origin,
        cache: target.cache,
        default_ttl_ms: target.default_ttl_ms,
        generation: row.state.generation(),
        row: number,
        serial: row.state.serial,
        route,
    })
}
