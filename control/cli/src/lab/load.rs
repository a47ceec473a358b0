//! The load: `sluice-load` processes in the client's namespace, read line by line.
//!
//! Each line is one JSON document: an interval each second, a summary at the end. A reader thread per process
//! hands them to the lab; a process that is asked to end (SIGTERM) still sends its summary.

use super::plan::{LabPlan, Role, SITE_HOST, VIPS};
use super::process::{Processes, Start, sibling};
use super::state::{LabState, RunDir};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::time::Duration;
use tokio::sync::mpsc;

/// Objects asked for; at about 20 KiB each they do not all fit one node's cache.
const KEYS: u32 = 6000;
/// A request that takes longer failed.
pub const TIMEOUT_MS: u64 = 3000;
/// Connections of the HTTP load, enough that each node gets its share.
pub const CONNECTIONS: u32 = 96;
/// UDP flows and their requests a second.
const UDP_FLOWS: u32 = 200;
const UDP_RATE: u32 = 200;
/// "Until asked": longer than anyone looks at a lab.
const FOREVER_S: u64 = 7 * 86_400;
/// The summary comes when the last request was answered or has failed.
const SUMMARY_TIMEOUT: Duration = Duration::from_millis(TIMEOUT_MS + 3000);

/// One second of HTTP load.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Interval {
    /// Seconds since the load's start.
    pub t_s: u64,
    /// Requests that ended in it.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// By class of failure.
    pub errors_by_class: BTreeMap<String, u64>,
    /// By percentile name.
    pub latency_us: BTreeMap<String, f64>,
    /// Share answered from a store; absent while nothing said so.
    pub hit_ratio: Option<f64>,
    /// Answers by node.
    pub served_by: BTreeMap<String, u64>,
    /// Answers by status code.
    pub status: BTreeMap<u16, u64>,
}

/// A whole HTTP run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Requests that ended.
    pub requests: u64,
    /// Good answers.
    pub good: u64,
    /// Those that failed.
    pub errors: u64,
    /// By class of failure.
    pub errors_by_class: BTreeMap<String, u64>,
    /// Answers by status code.
    pub status: BTreeMap<u16, u64>,
    /// By percentile name.
    pub latency_us: BTreeMap<String, f64>,
    /// Share answered from a store.
    pub hit_ratio: Option<f64>,
    /// Answers by node.
    pub served_by: BTreeMap<String, u64>,
    /// Length of the run.
    pub duration_s: f64,
    /// Connections made.
    pub connected: u64,
    /// Idempotent requests sent once more because a reused connection had been closed.
    pub stale_retries: u64,
    /// Connections the server closed between requests.
    pub idle_closed: u64,
    /// Requests under way when the run ended; counted nowhere else.
    pub unfinished: u64,
}

/// A whole UDP run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UdpSummary {
    /// Flows.
    pub flows: u64,
    /// Datagrams sent.
    pub requests: u64,
    /// Answers.
    pub answered: u64,
    /// Datagrams not answered.
    pub lost: u64,
    /// Flows answered by more than one node.
    pub moved: u64,
    /// Flows never answered.
    pub silent: u64,
    /// Answers by node.
    pub served_by: BTreeMap<String, u64>,
}

/// A line of a load process.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A second of HTTP load.
    Interval(Interval),
    /// The end of the HTTP load.
    Summary(Box<Summary>),
    /// The end of a UDP load.
    UdpSummary(UdpSummary),
}

fn parse(line: &str, udp: bool) -> Option<Line> {
    let value: Value = serde_json::from_str(line).ok()?;
    match value.get("kind")?.as_str()? {
        "interval" => serde_json::from_value(value).ok().map(Line::Interval),
        "summary" if udp => serde_json::from_value(value).ok().map(Line::UdpSummary),
        "summary" => serde_json::from_value(value).ok().map(|s| Line::Summary(Box::new(s))),
        _ => None,
    }
}

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    /// HTTP requests a second.
    pub rate: u64,
    /// Objects.
    pub keys: u32,
    /// Freshness the origin states, seconds.
    pub ttl_s: u32,
    /// Seed.
    pub seed: u64,
    /// A connection for each request instead of kept ones.
    pub new_connection: bool,
}

impl LoadPlan {
    /// The load of an ordinary run.
    pub fn steady(rate: u64, seed: u64) -> Self {
        LoadPlan { rate, keys: KEYS, ttl_s: 60, seed, new_connection: false }
    }
}

/// Running load processes.
pub struct Load {
    lines: mpsc::UnboundedReceiver<Line>,
    names: Vec<String>,
    /// End of the HTTP load, once it came.
    pub summary: Option<Summary>,
    /// Ends of the UDP loads.
    pub udp: Vec<UdpSummary>,
}

impl Load {
    /// Starts HTTP load on every TCP VIP and UDP load on every UDP VIP.
    pub fn start(
        plan: &LabPlan,
        load: LoadPlan,
        processes: &mut Processes,
        run: &RunDir,
        state: &mut LabState,
    ) -> Result<Self> {
        let (sender, lines) = mpsc::unbounded_channel();
        let mut names = Vec::new();
        let mut begin = |name: String, args: Vec<String>, udp: bool| -> Result<()> {
            let start = Start {
                name: name.clone(),
                netns: plan.netns(Role::Client),
                program: sibling("sluice-load")?,
                args: args.into_iter().map(Into::into).collect(),
                piped: true,
            };
            processes.start(start, run, state)?;
            let stdout = processes.take_stdout(&name).context("read the load's lines")?;
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Some(line) = parse(&line, udp)
                        && sender.send(line).is_err()
                    {
                        break;
                    }
                }
            });
            names.push(name);
            Ok(())
        };
        begin("load http".into(), http_arguments(load), false)?;
        for vip in VIPS.iter().filter(|v| v.protocol == "udp") {
            begin(format!("load {}", vip.name), udp_arguments(&vip.socket().to_string()), true)?;
        }
        Ok(Load { lines, names, summary: None, udp: Vec::new() })
    }

    /// Intervals that came since the last call.
    pub fn intervals(&mut self) -> Vec<Interval> {
        let mut intervals = Vec::new();
        while let Ok(line) = self.lines.try_recv() {
            intervals.extend(self.take(line));
        }
        intervals
    }

    fn take(&mut self, line: Line) -> Option<Interval> {
        match line {
            Line::Interval(i) => return Some(i),
            Line::Summary(s) => self.summary = Some(*s),
            Line::UdpSummary(s) => self.udp.push(s),
        }
        None
    }

    /// Ends all load and waits for the summaries.
    pub async fn stop(&mut self, processes: &mut Processes) -> Result<()> {
        for name in &self.names {
            processes.terminate(name);
        }
        let udp = self.names.len() - 1;
        let all = async {
            while self.summary.is_none() || self.udp.len() < udp {
                let Some(line) = self.lines.recv().await else { break };
                self.take(line);
            }
        };
        let in_time = tokio::time::timeout(SUMMARY_TIMEOUT, all).await.is_ok();
        for name in self.names.clone() {
            processes.kill(&name);
        }
        anyhow::ensure!(
            in_time && self.summary.is_some(),
            "the load ended without a summary (see log/load-*.log)"
        );
        Ok(())
    }
}

fn http_arguments(load: LoadPlan) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    for vip in VIPS.iter().filter(|v| v.protocol == "tcp") {
        let template = format!("http://{}/obj/{{key}}?size={{size}}&ttl={}&etag=1", vip.socket(), load.ttl_s);
        args.extend(["--url-template".into(), template]);
    }
    let rest = [
        ("--host", SITE_HOST.to_owned()),
        ("--keys", load.keys.to_string()),
        ("--zipf", "0.9".into()),
        ("--sizes", "small".into()),
        ("--rate", load.rate.to_string()),
        ("--connections", CONNECTIONS.to_string()),
        ("--timeout-ms", TIMEOUT_MS.to_string()),
        ("--duration", FOREVER_S.to_string()),
        ("--seed", load.seed.to_string()),
        ("--output", "json".into()),
    ];
    args.extend(rest.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    args.extend(["--verify", "--poisson", "--retry-stale"].map(str::to_owned));
    if load.new_connection {
        args.push("--new-connection".into());
    }
    args
}

fn udp_arguments(target: &str) -> Vec<String> {
    let flags = [
        ("--target", target.to_owned()),
        ("--flows", UDP_FLOWS.to_string()),
        ("--rate", UDP_RATE.to_string()),
        ("--duration", FOREVER_S.to_string()),
        ("--output", "json".into()),
    ];
    std::iter::once("udp".to_owned()).chain(flags.into_iter().flat_map(|(f, v)| [f.to_owned(), v])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_kinds_are_told_apart() {
        let interval = r#"{"kind":"interval","t_s":1,"requests":10,"errors":1,"errors_by_class":{"timeout":1},
            "rps":9,"latency_us":{"p50":100.5,"p99":300},"hit_ratio":null,"served_by":{"node1":9},"status":{"200":9}}"#;
        let Some(Line::Interval(i)) = parse(&interval.replace('\n', ""), false) else { panic!() };
        assert_eq!((i.requests, i.errors, i.latency_us["p50"], i.status[&200]), (10, 1, 100.5, 9));
        let summary =
            r#"{"kind":"summary","flows":2,"requests":5,"answered":5,"lost":0,"moved":1,"silent":0}"#;
        assert!(matches!(parse(summary, true), Some(Line::UdpSummary(s)) if s.moved == 1));
        assert!(matches!(parse(summary, false), Some(Line::Summary(s)) if s.requests == 5));
        assert_eq!(parse("no json", false), None);
    }

    #[test]
    fn every_vip_gets_load() {
        let args = http_arguments(LoadPlan::steady(100, 1)).join(" ");
        for vip in VIPS.iter().filter(|v| v.protocol == "tcp") {
            assert!(args.contains(&vip.socket().to_string()), "{args}");
        }
    }
}
