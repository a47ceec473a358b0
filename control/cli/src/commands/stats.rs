//! `stats`: counters of the balancer and of the proxy, once or every second with rates.

use super::print_json;
use crate::args::{Global, StatsArgs};
use crate::client::AgentClient;
use crate::exit::{self, CommandResult};
use crate::table::Table;
use sluice_api::rest::NodeStats;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two prints of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn run(args: &StatsArgs, global: &Global) -> CommandResult {
    let client = AgentClient::new(&global.socket);
    let mut before: Option<(Instant, BTreeMap<String, u64>)> = None;
    loop {
        let stats: NodeStats = client.get("/v1/stats").await?;
        let now = (Instant::now(), flat(&stats));
        if global.json() && args.watch {
            println!("{}", serde_json::to_string(&stats).map_err(anyhow::Error::from)?);
        } else if global.json() {
            print_json(&stats)?;
        } else {
            print!("{}", table(&stats.node, &now, before.as_ref()));
        }
        if !args.watch {
            return Ok(exit::OK);
        }
        before = Some(now);
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = tokio::signal::ctrl_c() => return Ok(exit::OK),
        }
    }
}

/// All counters by dotted name.
pub fn flat(stats: &NodeStats) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for v in &stats.vips {
        all.insert(format!("vip.{}.packets", v.name), v.packets);
        all.insert(format!("vip.{}.bytes", v.name), v.bytes);
        for (reason, n) in &v.drops {
            all.insert(format!("vip.{}.drop.{reason}", v.name), *n);
        }
    }
    for b in &stats.backends {
        all.insert(format!("backend.{}#{}.packets", b.name, b.id), b.packets);
        all.insert(format!("backend.{}#{}.bytes", b.name, b.id), b.bytes);
    }
    let mut add = |group: &str, values: &BTreeMap<String, u64>| {
        all.extend(values.iter().map(|(name, n)| (format!("{group}.{name}"), *n)));
    };
    add("drop", &stats.drops);
    add("event", &stats.packet_events);
    add("flow_table", &stats.flow_table);
    add("agent", &stats.agent);
    if let Some(proxy) = &stats.proxy {
        add("proxy", &proxy.counters);
        add("proxy.refused", &proxy.refused);
        add("proxy.now", &proxy.gauges);
        add("proxy.latency_us", &proxy.latency_us);
        all.extend(proxy.status.iter().map(|(code, n)| (format!("proxy.status.{code}"), *n)));
    }
    all
}

fn table(
    node: &str,
    now: &(Instant, BTreeMap<String, u64>),
    before: Option<&(Instant, BTreeMap<String, u64>)>,
) -> String {
    let mut table = Table::new(if before.is_some() {
        &["counter", "value", "per second"]
    } else {
        &["counter", "value"]
    });
    for (name, value) in &now.1 {
        let mut row = vec![name.clone(), value.to_string()];
        if let Some((at, old)) = before {
            let seconds = now.0.duration_since(*at).as_secs_f64();
            // A counter smaller than before was started anew, or is a gauge: no rate.
            if let Some(grown) = value.checked_sub(old.get(name).copied().unwrap_or(0)).filter(|g| *g > 0) {
                row.push(format!("{:.1}", grown as f64 / seconds));
            }
        }
        table.row(row);
    }
    format!("node {node}\n{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_growth_and_a_restart_shows_none() {
        let start = Instant::now();
        let map = |n| BTreeMap::from([("a".to_owned(), n), ("b".to_owned(), 5)]);
        let text = table("n", &(start + Duration::from_secs(2), map(30)), Some(&(start, map(10))));
        assert!(text.contains("a        30     10.0"), "{text}");
        let text = table("n", &(start + Duration::from_secs(2), map(3)), Some(&(start, map(10))));
        assert!(!text.contains("-"), "{text}");
    }
}
