//! Counters of a worker: written by one thread, read by the admin thread.
//!
//! Each worker has a page of its own, aligned so that two workers never share a cache line. Only the owner
//! writes, so an increment is a plain load and store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter or gauge with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only the owner calls it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts; only the owner calls it.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Replaces; only the owner calls it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counts {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[doc = $doc])* pub $field: Count,)* }

        impl $name {
            /// Adds every value to the entry of its name.
            pub fn sum_into(&self, out: &mut BTreeMap<String, u64>) {
                $(*out.entry(stringify!($field).to_owned()).or_default() += self.$field.get();)*
            }
        }
    };
}

counts! {
    /// What happened since the start.
    Counters {
        /// Connections accepted.
        connections,
        /// Request heads read in full.
        requests,
        /// Answered from the store without asking anyone.
        hits,
        /// Cacheable requests not answerable from the store.
        misses,
        /// Of the hits, answered stale because no upstream could be asked.
        stale_hits,
        /// Requests passed through without the cache.
        passes,
        /// Requests forwarded to the member that owns the key.
        peer_forwards,
        /// Requests for another member's key answered here because the key is hot.
        hot_requests,
        /// Requests that came from a peer with its hop mark.
        peer_requests,
        /// Fills started.
        fills,
        /// Fills that stored a response.
        fills_stored,
        /// Fills whose response may not be stored.
        fills_uncacheable,
        /// Fills cut off before their end.
        fills_failed,
        /// Requests that joined a fill already under way.
        coalesced,
        /// Requests sent with a validator of a stale stored response.
        revalidations,
        /// Of those, answered 304.
        revalidated,
        /// Of those, answered by a 304 for another response: fetched again without conditions.
        revalidations_mismatched,
        /// Requests sent to origins.
        origin_requests,
        /// Requests sent to parents.
        parent_requests,
        /// Bytes received from clients.
        bytes_in,
        /// Bytes sent to clients.
        bytes_out,
        /// Bytes received from upstreams.
        upstream_bytes_in,
        /// Bytes sent to upstreams.
        upstream_bytes_out,
        /// Connections opened to upstreams.
        upstream_connects,
        /// Connects that failed.
        upstream_connect_failures,
        /// Requests sent on a pooled connection.
        upstream_reuses,
        /// Requests sent again after a failure, from the budget.
        retries,
        /// Retries the budget did not grant.
        retries_exhausted,
        /// Upstream responses cut off before their end.
        upstream_cut,
        /// Upstream responses refused by the parser.
        upstream_invalid,
        /// Client connections closed while a response was under way.
        client_aborts,
        /// Idle client connections closed by us (timeout, drain).
        idle_closed,
        /// Idle client connections told to go because of a drain or handover.
        drain_closed,
        /// Connections closed at the deadline of a handover with work under way.
        drain_cut,
        /// Upgrade offers ignored.
        upgrades_ignored,
        /// Interim 100 sent.
        continues,
        /// Hop marks ignored because the sender is no member.
        hop_untrusted,
        /// Times the receive buffers ran out.
        buffers_exhausted,
        /// Calls of io_uring_enter.
        ring_enters,
        /// Completions handled.
        ring_completions,
        /// sendfile calls.
        sendfiles,
    }
}

counts! {
    /// What is now.
    Gauges {
        /// Client connections open.
        connections_open,
        /// Of those, without a request.
        connections_idle,
        /// Upstream connections open.
        upstreams_open,
        /// Of those, pooled.
        upstreams_idle,
        /// Requests under way upstream.
        exchanges,
    }
}

counts! {
    /// Requests and connections refused or ended by us, by reason; those of the parsers are counted apart.
    Refused {
        /// No connection slot left.
        too_many_connections,
        /// No request head within the time.
        head_timeout,
        /// No body within the time.
        body_timeout,
        /// The client takes nothing.
        send_stall,
        /// No site has this host.
        unknown_host,
        /// No configuration yet.
        not_configured,
        /// Draining.
        draining,
        /// Hop or Via says this request was here before.
        loop_detected,
        /// Method refused.
        method_refused,
        /// No upstream could be connected.
        upstream_unreachable,
        /// The upstream did not answer in time.
        upstream_timeout,
        /// The upstream broke off or answered badly.
        upstream_failed,
        /// Too many connections to the upstream.
        upstream_full,
        /// `only-if-cached` and not stored.
        only_if_cached,
        /// More pipelined bytes than the limit.
        pipelined_too_much,
    }
}

/// Sub-buckets of an octave: 32 keep the error below 3.2 %.
const SUB_BITS: u32 = 5;
const BUCKETS: usize = (32 - SUB_BITS as usize + 1) << SUB_BITS;

/// Log-linear histogram of microseconds, up to 71 minutes.
#[derive(Debug)]
pub struct Histogram {
    buckets: Vec<Count>,
    max: Count,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Count::default()).collect(), max: Count::default() }
    }
}

fn bucket(us: u64) -> usize {
    let us = us.min(u64::from(u32::MAX)) as u32;
    if us < 1 << SUB_BITS {
        return us as usize;
    }
    let shift = us.ilog2() - SUB_BITS;
    (((shift + 1) << SUB_BITS) + ((us >> shift) & ((1 << SUB_BITS) - 1))) as usize
}

/// Largest value of a bucket.
fn bucket_top(index: usize) -> u64 {
    let (octave, sub) = ((index >> SUB_BITS) as u32, (index & ((1 << SUB_BITS) - 1)) as u64);
    if octave == 0 {
        return sub;
    }
    let shift = octave - 1;
    ((((1 << SUB_BITS) + sub + 1) << shift) - 1).min(u64::from(u32::MAX))
}

impl Histogram {
    /// Records a value `n` times; only the owner calls it.
    #[inline]
    pub fn record(&self, us: u64, n: u64) {
        self.buckets[bucket(us)].add(n);
        if us > self.max.get() {
            self.max.0.store(us, Relaxed);
        }
    }
}

/// Percentiles over many histograms: `p50`, `p90`, `p99`, `p999`, `max`.
pub fn percentiles<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> BTreeMap<String, u64> {
    let mut sum = vec![0u64; BUCKETS];
    let mut max = 0;
    for histogram in histograms {
        for (total, count) in sum.iter_mut().zip(&histogram.buckets) {
            *total += count.get();
        }
        max = max.max(histogram.max.get());
    }
    let total: u64 = sum.iter().sum();
    let mut out = BTreeMap::new();
    for (name, part) in [("p50", 500), ("p90", 900), ("p99", 990), ("p999", 999)] {
        let rank = (total * part).div_ceil(1000).max(1);
        let mut seen = 0;
        let at = sum.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        out.insert(name.to_owned(), at.map_or(0, |i| bucket_top(i).min(max)));
    }
    out.insert("max".to_owned(), max);
    out
}

/// Everything one worker counts.
#[repr(align(128))]
#[derive(Debug)]
pub struct WorkerStats {
    /// Counters.
    pub counters: Counters,
    /// Gauges.
    pub gauges: Gauges,
    /// Refusals of the session code.
    pub refused: Refused,
    /// Refusals of the request parser, by [`sluice_core::http1::RequestError::index`].
    pub bad_requests: Vec<Count>,
    /// Refusals of the body decoder, by [`sluice_core::http1::BodyError::index`].
    pub bad_bodies: Vec<Count>,
    /// Responses by status minus 100.
    pub status: Vec<Count>,
    /// Last head byte of the request to first byte of the response handed over, microseconds.
    pub latency: Histogram,
}

impl Default for WorkerStats {
    fn default() -> Self {
        let counts = |n: usize| (0..n).map(|_| Count::default()).collect();
        Self {
            counters: Counters::default(),
            gauges: Gauges::default(),
            refused: Refused::default(),
            bad_requests: counts(sluice_core::http1::RequestError::ALL.len()),
            bad_bodies: counts(sluice_core::http1::BodyError::ALL.len()),
            status: counts(500),
            latency: Histogram::default(),
        }
    }
}

impl WorkerStats {
    /// Counts a response by its status.
    #[inline]
    pub fn response(&self, status: u16) {
        if let Some(count) = self.status.get(usize::from(status).wrapping_sub(100)) {
            count.add(1);
        }
    }
}

/// Sums the pages of all workers into the wire form.
pub fn collect(pages: &[std::sync::Arc<WorkerStats>]) -> sluice_api::proxy_admin::Stats {
    use sluice_core::http1::{BodyError, RequestError};
    let mut out = sluice_api::proxy_admin::Stats::default();
    for page in pages {
        page.counters.sum_into(&mut out.counters);
        page.gauges.sum_into(&mut out.gauges);
        page.refused.sum_into(&mut out.refused);
        for (error, count) in RequestError::ALL.iter().zip(&page.bad_requests) {
            *out.refused.entry(error.name().to_owned()).or_default() += count.get();
        }
        for (error, count) in BodyError::ALL.iter().zip(&page.bad_bodies) {
            *out.refused.entry(error.name().to_owned()).or_default() += count.get();
        }
        for (i, count) in page.status.iter().enumerate().filter(|(_, c)| c.get() > 0) {
            *out.status.entry(i as u16 + 100).or_default() += count.get();
        }
    }
    out.refused.retain(|_, n| *n > 0);
    out.latency_us = percentiles(pages.iter().map(|p| &p.latency));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut last = 0;
        for us in
            (0..5_000u64).chain((5_000..50_000_000).step_by(9_973)).chain([u64::from(u32::MAX), u64::MAX])
        {
            let index = bucket(us);
            assert!(index >= last && index < BUCKETS);
            last = index;
            let top = bucket_top(index);
            let value = us.min(u64::from(u32::MAX));
            assert!(top >= value && top - value <= value / 32 + 1, "{us} in {index} to {top}");
        }
    }

    #[test]
    fn percentiles_name_the_right_ranks() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.record(10, 900);
        b.record(20, 99);
        b.record(30, 1);
        let p = percentiles([&a, &b].into_iter());
        assert_eq!((p["p50"], p["p90"], p["p99"], p["p999"], p["max"]), (10, 10, 20, 20, 30));
        assert_eq!(percentiles([].into_iter())["p99"], 0);
    }
}
