//! Host and path routing over a table made for 100,000 domains.
//!
//! Hosts are rows changed in place; no configuration generation is ever rebuilt. Any number of workers look up
//! without a lock and without writing to memory they share; one administrative thread at a time changes rows.

mod match_;

pub use match_::{Origin, OriginId, RouteMatch, RowCounters, RowError, TableStats};

use sluice_api::placement;
use std::sync::Arc;

/// The table of hosts, and of the origins their routes name.
pub struct RouteTable {
    _p: (),
}

impl Default for RouteTable {
    fn default() -> Self {
        Self::new()
    }
}

impl RouteTable {
    /// An empty table.
    pub fn new() -> Self {
        unimplemented!()
    }

    /// The route for a request: exact host, else the longest `*.suffix`, else `*`; in it the longest prefix of the
    /// path. `host` is normalised (lower case, no port, no trailing dot). Wait-free, no shared writes.
    pub fn lookup(&self, _host: &[u8], _path: &[u8]) -> Option<RouteMatch> {
        unimplemented!()
    }

    /// An origin by the id in a [`RouteMatch`]; `None` if it was removed since.
    pub fn origin(&self, _id: OriginId) -> Option<Arc<Origin>> {
        unimplemented!()
    }

    /// Counters of a matched row, made at its first hit. `None` if the row is gone.
    pub fn counters(&self, _matched: &RouteMatch) -> Option<Arc<RowCounters>> {
        unimplemented!()
    }

    /// Adds or replaces one origin. A bad row changes nothing.
    pub fn upsert_origin(&self, _row: &placement::Origin) -> Result<(), RowError> {
        unimplemented!()
    }

    /// Removes an origin no site names.
    pub fn remove_origin(&self, _name: &str) -> Result<bool, RowError> {
        unimplemented!()
    }

    /// Adds or replaces one site. A bad row changes nothing.
    pub fn upsert_site(&self, _row: &placement::Site) -> Result<(), RowError> {
        unimplemented!()
    }

    /// Removes a site; `false` if there is none. What was stored for it is forgotten.
    pub fn remove_site(&self, _host: &str) -> bool {
        unimplemented!()
    }

    /// Checks a change as a whole against the table and, if all is good, carries it out:
    /// `full`, `origins`, `sites`, `sites_removed`, `origins_removed`. Errors name fields as the admin protocol does
    /// (`sites[3].routes[0].path`).
    pub fn apply(&self, _change: &sluice_api::proxy_admin::Apply) -> Result<(), RowError> {
        unimplemented!()
    }

    /// Gives a host a new purge generation; `false` if there is no such row (`host` as in the row: `*.x` too).
    pub fn purge_host(&self, _host: &str) -> bool {
        unimplemented!()
    }

    /// Rows, origins, bytes.
    pub fn stats(&self) -> TableStats {
        unimplemented!()
    }
}
