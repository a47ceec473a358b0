//! What is shown while the lab runs, and its summary.

pub mod json;
pub mod text;
pub mod tui;

use super::load::{Summary, UdpSummary};
use super::observe::Sample;
use serde_json::{Value, json};

/// Shows samples. The lab owns the loop; a view only draws.
pub trait View {
    /// A second passed.
    fn sample(&mut self, sample: &Sample);
    /// The operator asked for the end from within the view (`q`).
    fn quit(&mut self) -> bool {
        false
    }
    /// Leaves the screen as it was.
    fn close(&mut self) {}
}

/// The summary of a run as a document.
pub fn summary(load: Option<&Summary>, udp: &[UdpSummary], last: &Sample) -> Value {
    let none = Summary::default();
    let http = load.unwrap_or(&none);
    let (hits, lookups) = last.proxy_hits;
    // What clients saw of caches counts; the proxies' own counters when no client asked.
    let hit_ratio = http.hit_ratio.or((lookups > 0).then(|| hits as f64 / lookups as f64));
    json!({
        "event": "summary",
        "requests": http.requests,
        "good": http.good,
        "errors": http.errors,
        "errors_by_class": http.errors_by_class,
        "status": http.status,
        "latency_us": http.latency_us,
        "hit_ratio": hit_ratio,
        "served_by": http.served_by,
        "connected": http.connected,
        "stale_retries": http.stale_retries,
        "duration_s": http.duration_s,
        "drops": last.drops,
        "udp": udp,
        "agents": last.agents.iter().map(|a| json!({
            "node": a.node,
            "reachable": a.reachable,
            "converged": a.converged,
            "documents": a.documents.iter().map(|(name, generation, observed, refused)| json!({
                "name": name, "generation": generation, "observed_generation": observed, "refused": refused,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "backends": last.backends.iter().map(|b| json!({
            "name": b.name, "health": b.health, "state": b.state, "share": b.slots, "packets": b.packets,
        })).collect::<Vec<_>>(),
    })
}
