//! What a run counted: per thread and second, added up by the reporter.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Server names told apart; further ones are counted under `other`.
const SERVERS_MAX: usize = 256;
/// Longest latency told apart, ns: longer ones count as this.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// Shortest latency told apart, ns.
const LATENCY_MIN_NS: u64 = 100;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// Why a request was not answered well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// The connection was refused.
    ConnectRefused,
    /// No connection in time.
    ConnectTimeout,
    /// No route, no port, no descriptor.
    ConnectOther,
    /// The connection was reset.
    Reset,
    /// The connection ended before the response did begin.
    Closed,
    /// No whole response in time.
    Timeout,
    /// Status 400 or above.
    BadStatus,
    /// The connection ended inside the body.
    ShortBody,
    /// The body is not the object's.
    BodyMismatch,
    /// No HTTP response.
    Malformed,
    /// No connection was free until the run ended, or too many requests were waiting for one.
    NotSent,
}

impl ErrorClass {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectOther => "connect_other",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::BadStatus => "bad_status",
            Self::ShortBody => "short_body",
            Self::BodyMismatch => "body_mismatch",
            Self::Malformed => "malformed",
            Self::NotSent => "not_sent",
        }
    }
}

/// A histogram of latencies in ns.
pub fn histogram() -> Histogram<u64> {
    // The bounds are constants that satisfy the constructor's conditions; see the test.
    Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, DIGITS).expect("valid bounds")
}

/// Counters of an interval or a run.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Those that ended well.
    pub good: u64,
    /// Errors by class; a response counts in one class at most.
    pub errors: BTreeMap<ErrorClass, u64>,
    /// Responses by status.
    pub status: BTreeMap<u16, u64>,
    /// Latency from the intended send to the last byte, ns; every whole response, bad status included.
    pub latency_ns: Histogram<u64>,
    /// Responses that said whether they came from a cache.
    pub cache_told: u64,
    /// Those that did.
    pub cache_hits: u64,
    /// Responses by server name.
    pub served_by: BTreeMap<String, u64>,
    /// Body bytes received.
    pub body_bytes: u64,
    /// Connections established.
    pub connected: u64,
    /// Idle connections that the server closed.
    pub idle_closed: u64,
    /// Connections opened ahead of the first request that failed.
    pub preconnect_failed: u64,
    /// Requests sent again because their reused connection turned out to be closed.
    pub stale_retries: u64,
    /// Connects tried again.
    pub connect_retries: u64,
    /// Held connections lost.
    pub broken: u64,
    /// Held connections whose answers came from more than one server.
    pub moved: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            requests: 0,
            good: 0,
            errors: BTreeMap::new(),
            status: BTreeMap::new(),
            latency_ns: histogram(),
            cache_told: 0,
            cache_hits: 0,
            served_by: BTreeMap::new(),
            body_bytes: 0,
            connected: 0,
            idle_closed: 0,
            preconnect_failed: 0,
            stale_retries: 0,
            connect_retries: 0,
            broken: 0,
            moved: 0,
        }
    }
}

impl Counts {
    /// Counts a failed request.
    pub fn error(&mut self, class: ErrorClass) {
        self.requests += 1;
        *self.errors.entry(class).or_default() += 1;
    }

    /// Counts a latency.
    pub fn latency(&mut self, ns: u64) {
        self.latency_ns.saturating_record(ns.max(1));
    }

    /// Counts a response of `name`.
    pub fn server(&mut self, name: &[u8]) {
        if name.is_empty() {
            return;
        }
        let name = String::from_utf8_lossy(name);
        if let Some(n) = self.served_by.get_mut(name.as_ref()) {
            *n += 1;
        } else {
            let name =
                if self.served_by.len() < SERVERS_MAX { name.into_owned() } else { "other".to_owned() };
            *self.served_by.entry(name).or_default() += 1;
        }
    }

    /// Adds another interval or thread.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.requests, other.requests),
            (&mut self.good, other.good),
            (&mut self.cache_told, other.cache_told),
            (&mut self.cache_hits, other.cache_hits),
            (&mut self.body_bytes, other.body_bytes),
            (&mut self.connected, other.connected),
            (&mut self.idle_closed, other.idle_closed),
            (&mut self.preconnect_failed, other.preconnect_failed),
            (&mut self.stale_retries, other.stale_retries),
            (&mut self.connect_retries, other.connect_retries),
            (&mut self.broken, other.broken),
            (&mut self.moved, other.moved),
        ] {
            *mine += theirs;
        }
        merge(&mut self.errors, &other.errors);
        merge(&mut self.status, &other.status);
        merge(&mut self.served_by, &other.served_by);
        // Both have the same bounds, so the addition cannot fail.
        self.latency_ns.add(&other.latency_ns).expect("equal bounds");
    }

    /// Requests that ended badly.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Share of the responses that said so which came from a cache; `None`: none said.
    pub fn hit_ratio(&self) -> Option<f64> {
        (self.cache_told > 0).then(|| self.cache_hits as f64 / self.cache_told as f64)
    }

    /// Percentiles, us.
    pub fn latency_us(&self) -> Value {
        percentiles_us(&self.latency_ns)
    }

    /// Errors by name.
    pub fn errors_by_class(&self) -> BTreeMap<&'static str, u64> {
        self.errors.iter().map(|(class, n)| (class.name(), *n)).collect()
    }
}

/// `{p50, p90, p99, p999, max, mean}` of latencies in ns, as us.
pub fn percentiles_us(latency_ns: &Histogram<u64>) -> Value {
    let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
    let at = |q: f64| us(latency_ns.value_at_quantile(q));
    json!({
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
        "max": us(latency_ns.max()), "mean": us(latency_ns.mean() as u64),
    })
}

fn merge<K: Ord + Clone>(mine: &mut BTreeMap<K, u64>, theirs: &BTreeMap<K, u64>) {
    for (key, n) in theirs {
        *mine.entry(key.clone()).or_default() += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let (mut a, mut b) = (Counts::default(), Counts::default());
        a.latency(1_000);
        a.server(b"n1");
        b.latency(3_000_000);
        b.server(b"n1");
        b.server(b"n2");
        b.error(ErrorClass::Reset);
        a.add(&b);
        assert_eq!(a.latency_ns.len(), 2);
        assert_eq!(a.served_by, BTreeMap::from([("n1".to_owned(), 2), ("n2".to_owned(), 1)]));
        assert_eq!((a.requests, a.error_count()), (1, 1));
        let max = a.latency_us()["max"].as_f64().expect("a number");
        assert!((2_990.0..3_010.0).contains(&max), "{max}");
    }

    #[test]
    fn server_names_are_bounded() {
        let mut counts = Counts::default();
        for n in 0..SERVERS_MAX + 50 {
            counts.server(format!("s{n}").as_bytes());
        }
        assert_eq!(counts.served_by["other"], 50);
    }
}
