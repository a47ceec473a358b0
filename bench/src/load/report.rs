//! Lines while a run goes on and its summary, for people or as JSON.

use super::plan::{Mode, Plan};
use super::stats::Counts;
use super::worker::Report;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::mpsc::Receiver;

/// Points per half-distance of the percentile text.
const TICKS_PER_HALF: u32 = 5;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Lines to read.
    Text,
    /// One JSON document a line.
    Json,
}

/// All of a run.
#[derive(Debug, Default)]
pub struct Totals {
    /// Counters.
    pub counts: Counts,
    /// Requests under way when the run was interrupted; in no other counter.
    pub unfinished: u64,
    /// Length of the run, s.
    pub seconds: f64,
}

/// Prints a line a second until all threads are done.
pub fn collect(plan: &Plan, output: Output, reports: &Receiver<Report>) -> Totals {
    let started = std::time::Instant::now();
    let mut totals = Totals::default();
    let mut seconds: BTreeMap<u64, (usize, Counts)> = BTreeMap::new();
    let mut done = 0;
    let mut printed = 0;
    while let Ok(report) = reports.recv() {
        let (second, counts) = match report {
            Report::Second(second, counts) => (second, counts),
            Report::Done(second, counts, unfinished) => {
                done += 1;
                totals.unfinished += unfinished;
                (second, counts)
            }
        };
        totals.counts.add(&counts);
        let entry = seconds.entry(second).or_default();
        entry.0 += 1;
        entry.1.add(&counts);
        while let Some(first) = seconds.first_entry().filter(|e| e.get().0 + done >= plan.threads) {
            let (second, (_, counts)) = first.remove_entry();
            if second < printed || done == plan.threads && counts.requests == 0 {
                continue;
            }
            printed = second + 1;
            print_second(output, second, &counts);
        }
    }
    totals.seconds = started.elapsed().as_secs_f64();
    totals
}

fn print_second(output: Output, second: u64, counts: &Counts) {
    let latency = counts.latency_us();
    let line = match output {
        Output::Json => json!({
            "kind": "interval",
            "t_s": second + 1,
            "requests": counts.requests,
            "errors": counts.error_count(),
            "errors_by_class": counts.errors_by_class(),
            "rps": counts.latency_ns.len(),
            "latency_us": latency,
            "hit_ratio": counts.hit_ratio(),
            "served_by": counts.served_by,
            "status": counts.status,
        })
        .to_string(),
        Output::Text => format!(
            "{:>4} s {:>8} req/s {:>6} errors  p50 {:>8} p99 {:>8} p99.9 {:>8} us{}{}",
            second + 1,
            counts.latency_ns.len(),
            counts.error_count(),
            latency["p50"],
            latency["p99"],
            latency["p999"],
            hit_text(counts),
            shares_text(counts),
        ),
    };
    print_line(&line);
}

/// A closed pipe ends the output, not the run.
fn print_line(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn hit_text(counts: &Counts) -> String {
    counts.hit_ratio().map_or_else(String::new, |r| format!("  hits {:.1} %", r * 100.0))
}

fn shares_text(counts: &Counts) -> String {
    let total: u64 = counts.served_by.values().sum();
    counts.served_by.iter().fold(String::new(), |mut text, (name, n)| {
        // Writing into a string cannot fail.
        let _ok = write!(text, "  {name} {:.0} %", *n as f64 * 100.0 / total as f64);
        text
    })
}

/// The summary as a document.
pub fn summary(plan: &Plan, totals: &Totals) -> Value {
    let counts = &totals.counts;
    let mut document = json!({
        "kind": "summary",
        "requests": counts.requests,
        "good": counts.good,
        "errors": counts.error_count(),
        "errors_by_class": counts.errors_by_class(),
        "status": counts.status,
        "duration_s": (totals.seconds * 1000.0).round() / 1000.0,
        "rps": (counts.latency_ns.len() as f64 / totals.seconds * 10.0).round() / 10.0,
        "latency_us": counts.latency_us(),
        "hit_ratio": counts.hit_ratio(),
        "served_by": counts.served_by,
        "body_bytes": counts.body_bytes,
        "connections": plan.connections,
        "connected": counts.connected,
        "idle_closed": counts.idle_closed,
        "preconnect_failed": counts.preconnect_failed,
        "connect_retries": counts.connect_retries,
        "stale_retries": counts.stale_retries,
        "unfinished": totals.unfinished,
    });
    if plan.hold {
        document["held"] = json!(counts.connected - counts.broken);
        document["broken"] = json!(counts.broken);
        document["moved"] = json!(counts.moved);
    }
    if let Mode::Open { rate, poisson } = plan.mode {
        document["intended_rate"] = json!(rate);
        document["poisson"] = json!(poisson);
    }
    document
}

/// Prints the summary.
pub fn print_summary(plan: &Plan, output: Output, totals: &Totals) {
    let document = summary(plan, totals);
    if output == Output::Json {
        return print_line(&document.to_string());
    }
    let counts = &totals.counts;
    let latency = &document["latency_us"];
    print_line(&format!(
        "{} requests in {:.1} s, {} answered a second, {} errors{}{}",
        counts.requests,
        totals.seconds,
        document["rps"],
        counts.error_count(),
        hit_text(counts),
        shares_text(counts),
    ));
    print_line(&format!(
        "latency us: p50 {} p90 {} p99 {} p99.9 {} max {}",
        latency["p50"], latency["p90"], latency["p99"], latency["p999"], latency["max"]
    ));
    for (class, n) in counts.errors_by_class() {
        print_line(&format!("  {class}: {n}"));
    }
    if plan.hold {
        print_line(&format!(
            "connections: {} opened, {} not opened, {} broken, {} answered by more than one server",
            counts.connected, counts.preconnect_failed, counts.broken, counts.moved
        ));
    }
    if totals.unfinished > 0 {
        print_line(&format!("interrupted with {} requests unfinished", totals.unfinished));
    }
}

/// The whole histogram: percentile text as other HDR tools write it (values in us), then a comment line
/// with the V2 encoding in base64 (values in ns).
pub fn histogram_text(latency_ns: &Histogram<u64>) -> Result<String, std::fmt::Error> {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    for value in latency_ns.iter_quantiles(TICKS_PER_HALF) {
        let quantile = value.quantile_iterated_to();
        let us = value.value_iterated_to() as f64 / 1000.0;
        let count = latency_ns.count_between(0, value.value_iterated_to());
        if quantile < 1.0 {
            writeln!(text, "{us:>12.3} {quantile:2.12} {count:>10} {:>14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(text, "{us:>12.3} {quantile:2.12} {count:>10}")?;
        }
    }
    writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]",
        latency_ns.mean() / 1000.0,
        latency_ns.stdev() / 1000.0
    )?;
    writeln!(
        text,
        "#[Max     = {:>12.3}, Total count    = {:>12}]",
        latency_ns.max() as f64 / 1000.0,
        latency_ns.len()
    )?;
    writeln!(
        text,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        latency_ns.buckets(),
        latency_ns.distinct_values() / usize::from(latency_ns.buckets()).max(1)
    )?;
    let mut encoded = Vec::new();
    V2Serializer::new().serialize(latency_ns, &mut encoded).map_err(|_| std::fmt::Error)?;
    writeln!(text, "#[V2 base64 ns = {}]", base64(&encoded))?;
    Ok(text)
}

/// Standard alphabet with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * at)) as usize & 63] as char;
            out.push(if at <= group.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_vectors() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn histogram_text_is_whole() {
        let mut h = super::super::stats::histogram();
        for n in 1..=1000 {
            h.saturating_record(n * 1000);
        }
        let text = histogram_text(&h).expect("text");
        let last = text.lines().rfind(|l| !l.starts_with('#') && !l.is_empty()).expect("rows");
        assert_eq!(last.split_whitespace().nth(2), Some("1000"), "{last}");
        assert!(text.lines().any(|l| l.starts_with("#[V2 base64 ns = HIST")));
    }
}
