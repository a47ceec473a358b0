//! Failures while serving: each brings one about under load, states what a client may see, and counts it.
//!
//! ```text
//!   load + kept flows → baseline → failure → recovery → load ends → promises judged on counts
//! ```
//! Promises are about counts, never about time; the time to recovery is told, not judged.

mod failures;

use super::Lab;
use super::load::{Interval, Load, LoadPlan, Summary, UdpSummary};
use super::plan::{Role, VIPS};
use super::probe::{Fate, Fates, TcpFlows, UdpFlows};
use crate::args::ScenarioName;
use anyhow::{Context, Result};
use serde::Serialize;
use std::time::{Duration, Instant};

/// HTTP requests a second of a scenario: leaves room on two processors for what the failure causes.
const RATE: u64 = 400;
/// Objects asked for: after the baseline most are stored.
const KEYS: u32 = 400;
/// Objects asked for where misses matter: most of the rare ones are not stored.
const MANY_KEYS: u32 = 20_000;
/// Kept flows of each kind.
const FLOWS: usize = 60;
/// Good seconds before the failure.
const BASELINE_S: usize = 2;
/// Good seconds in a row after the failure that count as recovered.
const CALM_S: usize = 3;
/// Longest wait for them.
const RECOVERY_MAX: Duration = Duration::from_secs(25);

/// Something promised, and whether it held.
#[derive(Clone, Debug, Serialize)]
pub struct Promise {
    /// What was promised.
    pub what: String,
    /// It held.
    pub held: bool,
    /// What was counted.
    pub seen: String,
}

/// A promise with what was seen.
pub fn promise(what: impl Into<String>, held: bool, seen: impl std::fmt::Display) -> Promise {
    Promise { what: what.into(), held, seen: seen.to_string() }
}

/// Failed requests a scenario allows.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Classes that may occur.
    pub classes: &'static [&'static str],
    /// How many must fail: what was broken is seen to be broken.
    pub at_least: u64,
    /// How many may fail in all.
    pub at_most: u64,
    /// Why, in words.
    pub why: &'static str,
}

impl Allowance {
    /// Not one failed request.
    pub const NONE: Allowance = Allowance { classes: &[], at_least: 0, at_most: 0, why: "no request fails" };

    fn judge(&self, summary: &Summary) -> Promise {
        let others = summary.errors_by_class.keys().any(|class| !self.classes.contains(&class.as_str()));
        let seen = match summary.errors {
            0 => format!("0 of {} failed", summary.requests),
            n => format!("{n} of {} failed: {:?}", summary.requests, summary.errors_by_class),
        };
        let what = match self.at_most {
            0 => self.why.to_owned(),
            n => format!("{} (at most {n}, only {})", self.why, self.classes.join(", ")),
        };
        promise(what, (self.at_least..=self.at_most).contains(&summary.errors) && !others, seen)
    }
}

/// What a scenario found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// What a client may see.
    pub expectation: &'static str,
    /// Every promise held.
    pub held: bool,
    /// Promises, in the order they were judged.
    pub promises: Vec<Promise>,
    /// What HTTP clients saw.
    pub clients: Summary,
    /// What UDP clients saw.
    pub udp: Vec<UdpSummary>,
    /// Seconds from the failure to the last second with a failed request; absent: none failed.
    pub recovery_s: Option<u64>,
}

/// Load and kept flows of one scenario.
pub struct Round {
    load: Load,
    intervals: Vec<Interval>,
    failed_at: Option<usize>,
    /// Kept connections to the layer-2 VIP.
    pub tcp: TcpFlows,
    /// Kept connections to the IPIP VIP.
    pub tcp_ipip: TcpFlows,
    /// UDP flows to the layer-2 VIP.
    pub udp: UdpFlows,
}

impl Round {
    async fn begin(lab: &mut Lab, keys: u32, seed: u64) -> Result<Self> {
        let client = lab.plan.netns(Role::Client);
        let plan = LoadPlan { keys, ttl_s: 600, ..LoadPlan::steady(RATE, seed) };
        let load = Load::start(&lab.plan, plan, &mut lab.processes, &lab.run, &mut lab.state)?;
        let vip =
            |name: &str| VIPS.iter().find(|v| v.name == name).map(|v| v.socket()).context("no such VIP");
        let mut round = Round {
            load,
            intervals: Vec::new(),
            failed_at: None,
            tcp: TcpFlows::open(&client, vip("web4")?, FLOWS)?,
            tcp_ipip: TcpFlows::open(&client, vip("web4-ipip")?, FLOWS)?,
            udp: UdpFlows::open(&client, vip("echo")?, FLOWS)?,
        };
        round.seconds(BASELINE_S).await;
        Ok(round)
    }

    /// Lets some seconds of load pass.
    pub async fn seconds(&mut self, n: usize) {
        let wanted = self.intervals.len() + n;
        let end = Instant::now() + Duration::from_secs(n as u64 * 2 + 5);
        while self.intervals.len() < wanted && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.intervals.extend(self.load.intervals());
        }
    }

    /// The failure is brought about now.
    pub fn failure(&mut self) {
        self.intervals.extend(self.load.intervals());
        self.failed_at = Some(self.intervals.len());
    }

    /// Waits for some seconds in a row in which no request failed.
    pub async fn recovered(&mut self) -> Promise {
        let end = Instant::now() + RECOVERY_MAX;
        let start = self.intervals.len();
        loop {
            self.seconds(1).await;
            let calm =
                self.intervals[start..].iter().rev().take_while(|i| i.errors == 0 && i.requests > 0).count();
            if calm >= CALM_S || Instant::now() >= end {
                let what = format!("service is whole again ({CALM_S} seconds without a failed request)");
                return promise(what, calm >= CALM_S, format!("{calm} seconds"));
            }
        }
    }

    async fn end(mut self, lab: &mut Lab, verdict: Verdict, name: ScenarioName) -> Result<Report> {
        self.load.stop(&mut lab.processes).await?;
        self.intervals.extend(self.load.intervals());
        let clients = self.load.summary.take().unwrap_or_default();
        let mut promises = vec![verdict.allowance.judge(&clients)];
        promises.extend(verdict.promises);
        let failed_at = self.failed_at.unwrap_or(0);
        let last_bad = self.intervals.iter().skip(failed_at).rposition(|i| i.errors > 0);
        Ok(Report {
            scenario: name_of(name),
            expectation: verdict.expectation,
            held: promises.iter().all(|p| p.held),
            promises,
            clients,
            udp: std::mem::take(&mut self.load.udp),
            recovery_s: last_bad.map(|n| n as u64 + 1),
        })
    }
}

/// What a scenario says at its end.
pub struct Verdict {
    /// What a client may see.
    pub expectation: &'static str,
    /// Failed requests allowed.
    pub allowance: Allowance,
    /// Everything else that was promised.
    pub promises: Vec<Promise>,
}

/// Fates of flows that were on `node`, and of all others.
pub fn split(fates: &[(String, Fate)], node: &str) -> (Fates, Fates) {
    let on = |wanted: bool| Fates::of(fates.iter().filter(|(n, _)| (n == node) == wanted).map(|(_, f)| f));
    (on(true), on(false))
}

/// Name as typed.
pub fn name_of(name: ScenarioName) -> String {
    use clap::ValueEnum;
    name.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// Scenarios of `all`, in an order in which each leaves the lab as the next wants it.
const ALL: [ScenarioName; 8] = [
    ScenarioName::RestartAgent,
    ScenarioName::BrokenPlacement,
    ScenarioName::UpgradeProxy,
    ScenarioName::CutOrigin,
    ScenarioName::DrainNode,
    ScenarioName::AddNode,
    ScenarioName::KillNode,
    ScenarioName::FillFlowTable,
];

/// Runs one scenario, or all.
pub async fn run(
    lab: &mut Lab,
    name: ScenarioName,
    seed: u64,
    tell: &dyn Fn(&Report),
) -> Result<Vec<Report>> {
    let names: Vec<ScenarioName> = if name == ScenarioName::All { ALL.to_vec() } else { vec![name] };
    let mut reports = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        let keys = if name == ScenarioName::CutOrigin { MANY_KEYS } else { KEYS };
        let mut round = Round::begin(lab, keys, seed + number as u64).await.context("before the failure")?;
        let verdict = match name {
            ScenarioName::KillNode => failures::kill_node(lab, &mut round).await,
            ScenarioName::AddNode => failures::add_node(lab, &mut round).await,
            ScenarioName::DrainNode => failures::drain_node(lab, &mut round).await,
            ScenarioName::RestartAgent => failures::restart_agent(lab, &mut round).await,
            ScenarioName::UpgradeProxy => failures::upgrade_proxy(lab, &mut round).await,
            ScenarioName::BrokenPlacement => failures::broken_placement(lab, &mut round).await,
            ScenarioName::FillFlowTable => failures::fill_flow_table(lab, &mut round).await,
            ScenarioName::CutOrigin => failures::cut_origin(lab, &mut round).await,
            ScenarioName::All => continue,
        };
        let verdict = verdict.with_context(|| format!("scenario {}", name_of(name)))?;
        let report = round.end(lab, verdict, name).await?;
        tell(&report);
        reports.push(report);
    }
    Ok(reports)
}

/// A report in sentences.
pub fn in_words(report: &Report) -> String {
    let mut text = format!(
        "scenario {}: {}\n  may be seen: {}\n",
        report.scenario,
        if report.held { "as promised" } else { "NOT AS PROMISED" },
        report.expectation
    );
    let recovery = report
        .recovery_s
        .map_or("no failed request".to_owned(), |s| format!("last failed request {s} s after"));
    text.push_str(&format!(
        "  clients: {} requests, {} failed {:?}, {} stale retries, {recovery}\n",
        report.clients.requests,
        report.clients.errors,
        report.clients.errors_by_class,
        report.clients.stale_retries
    ));
    for udp in &report.udp {
        text.push_str(&format!(
            "  udp: {} sent, {} lost, {} of {} flows moved\n",
            udp.requests, udp.lost, udp.moved, udp.flows
        ));
    }
    for p in &report.promises {
        let mark = if p.held { "held  " } else { "BROKEN" };
        text.push_str(&format!("  {mark} {}: {}\n", p.what, p.seen));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_broken_by_number_and_by_class() {
        let seen = |class: &str, n: u64| Summary {
            requests: 100,
            errors: n,
            errors_by_class: if n == 0 { Default::default() } else { [(class.to_owned(), n)].into() },
            ..Summary::default()
        };
        let some = Allowance { classes: &["timeout"], at_least: 1, at_most: 5, why: "those under way fail" };
        assert!(some.judge(&seen("timeout", 5)).held);
        assert!(!some.judge(&seen("timeout", 6)).held);
        assert!(!some.judge(&seen("timeout", 0)).held, "the failure was not seen");
        assert!(!some.judge(&seen("body_mismatch", 1)).held);
        assert!(Allowance::NONE.judge(&seen("", 0)).held && !Allowance::NONE.judge(&seen("reset", 1)).held);
    }

    #[test]
    fn flows_are_split_by_the_node_they_were_on() {
        let fates = [
            ("a".to_owned(), Fate::Stayed),
            ("b".to_owned(), Fate::Moved("a".into())),
            ("b".to_owned(), Fate::Stayed),
        ];
        let (on_b, others) = split(&fates, "b");
        assert_eq!((on_b.moved, on_b.stayed, others.stayed, others.total()), (1, 1, 1, 1));
    }
}
