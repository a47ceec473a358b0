//! Requests by site, collected by one worker.
//!
//! The counters of a site belong to all workers: adding to them at every request would make the cores that
//! serve a busy site pass its cache line around. A worker collects here and adds up at intervals.

use sluice_core::route::{RouteMatch, RouteTable};

/// Sites collected at once, by row number; two that share a place push each other out. Busy sites are few.
const PLACES: usize = 64;

struct Pending {
    of: RouteMatch,
    requests: u64,
    hits: u64,
}

/// Requests not added to the shared counters yet.
pub(super) struct SiteCounts {
    places: Vec<Option<Pending>>,
}

impl Default for SiteCounts {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| None).collect() }
    }
}

impl SiteCounts {
    /// A request was routed.
    pub(super) fn request(&mut self, of: &RouteMatch, table: &RouteTable) {
        self.pending(of, table).requests += 1;
    }

    /// It was answered from the store.
    pub(super) fn hit(&mut self, of: &RouteMatch, table: &RouteTable) {
        self.pending(of, table).hits += 1;
    }

    fn pending(&mut self, of: &RouteMatch, table: &RouteTable) -> &mut Pending {
        let place = &mut self.places[of.row as usize % PLACES];
        if place.as_ref().is_some_and(|p| (p.of.row, p.of.serial) != (of.row, of.serial)) {
            add(place, table);
        }
        place.get_or_insert(Pending { of: *of, requests: 0, hits: 0 })
    }

    /// Adds everything to the shared counters.
    pub(super) fn flush(&mut self, table: &RouteTable) {
        self.places.iter_mut().for_each(|place| add(place, table));
    }
}

fn add(place: &mut Option<Pending>, table: &RouteTable) {
    if let Some(Pending { of, requests, hits }) = place.take() {
        table.count_many(&of, requests, hits, 0);
    }
}
