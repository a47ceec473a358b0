//! Statistics in Prometheus' text format.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use sluice_api::rest::NodeStats;
use sluice_api::status::NodeStatus;
use std::fmt;

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text.
pub fn text(stats: &NodeStats, status: &NodeStatus) -> String {
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(Snapshot { stats: stats.clone(), status: status.clone() }));
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Snapshot {
    stats: NodeStats,
    status: NodeStatus,
}

type Labels = Vec<(&'static str, String)>;

/// Writes one family: name, help and a value per set of labels.
fn family<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    values: impl Iterator<Item = (Labels, u64)>,
    metric: impl Fn(u64) -> M,
) -> fmt::Result {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        // The encoder writes label values as they are.
        let labels: Labels = labels.into_iter().map(|(name, value)| (name, escaped(&value))).collect();
        metric(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A label value with the three characters escaped that the text format names.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Snapshot {
    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        family(encoder, name, help, MetricType::Counter, values, ConstCounter::new)
    }

    fn gauges(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let metric = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        family(encoder, name, help, MetricType::Gauge, values, metric)
    }

    fn packets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.stats;
        let backend = |b: &sluice_api::rest::BackendStats| {
            vec![("backend", b.name.clone()), ("address", b.address.clone())]
        };
        let packets = stats.backends.iter().map(|b| (backend(b), b.packets));
        self.counters(encoder, "backend_packets", "Packets forwarded to a backend", packets)?;
        let bytes = stats.backends.iter().map(|b| (backend(b), b.bytes));
        self.counters(encoder, "backend_bytes", "IP bytes forwarded to a backend", bytes)?;
        let drops = stats.vips.iter().flat_map(|vip| {
            vip.drops
                .iter()
                .map(|(reason, n)| (vec![("vip", vip.name.clone()), ("reason", reason.clone())], *n))
        });
        self.counters(encoder, "vip_drops", "Packets of a VIP dropped, by reason", drops)?;
        self.counters(encoder, "drops", "Packets dropped, by reason", named("reason", &stats.drops))?;
        self.counters(
            encoder,
            "packet_events",
            "Packets by what happened to them",
            named("event", &stats.packet_events),
        )?;
        self.gauges(encoder, "flow_table", "Flow table at the last sweep", named("field", &stats.flow_table))
    }

    fn proxy(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(proxy) = &self.stats.proxy else { return Ok(()) };
        self.counters(encoder, "proxy", "Counters of the proxy", named("counter", &proxy.counters))?;
        self.counters(
            encoder,
            "proxy_refused",
            "Requests refused, by reason",
            named("reason", &proxy.refused),
        )?;
        let responses = proxy.status.iter().map(|(code, n)| (vec![("code", code.to_string())], *n));
        self.counters(encoder, "proxy_responses", "Responses by status code", responses)?;
        self.gauges(encoder, "proxy_gauge", "Gauges of the proxy", named("gauge", &proxy.gauges))?;
        let latency = named("percentile", &proxy.latency_us);
        self.gauges(encoder, "proxy_latency_us", "Time to the first byte of a response", latency)
    }

    fn state(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.status;
        let one = |value: u64| std::iter::once((Labels::new(), value));
        self.gauges(
            encoder,
            "converged",
            "1 when every desired step is done",
            one(u64::from(status.converged)),
        )?;
        self.gauges(encoder, "errors", "Items in error now", one(status.errors.len() as u64))?;
        let label = |name: &str| vec![("document", name.to_owned())];
        let held = status.documents.iter().map(|d| (label(&d.name), d.generation));
        self.gauges(encoder, "document_generation", "Generation in the ledger", held)?;
        let observed = status.documents.iter().map(|d| (label(&d.name), d.observed_generation));
        self.gauges(encoder, "document_observed_generation", "Generation carried out", observed)?;
        let up = status.vips.iter().flat_map(|vip| {
            vip.backends.iter().map(|b| {
                let labels = vec![("vip", vip.name.clone()), ("backend", b.name.clone())];
                (labels, u64::from(b.health != "down"))
            })
        });
        self.gauges(encoder, "backend_up", "1 unless found down", up)?;
        self.counters(encoder, "agent", "Counters of the agent", named("counter", &self.stats.agent))
    }
}

fn named(
    label: &'static str,
    values: &std::collections::BTreeMap<String, u64>,
) -> impl Iterator<Item = (Labels, u64)> {
    values.iter().map(move |(name, n)| (vec![(label, name.clone())], *n))
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.packets(&mut encoder)?;
        self.proxy(&mut encoder)?;
        self.state(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_api::rest::BackendStats;

    #[test]
    fn values_and_awkward_labels_are_written() {
        let backend = BackendStats { id: 1, name: "web/\"a\"".into(), packets: 7, ..BackendStats::default() };
        let stats = NodeStats { backends: vec![backend], ..NodeStats::default() };
        let text = text(&stats, &NodeStatus::default());
        let line = "sluice_backend_packets_total{backend=\"web/\\\"a\\\"\",address=\"\"} 7";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("sluice_converged{} 0"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
