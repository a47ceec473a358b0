//! What the agents say, once a second, made into what the views show.

use super::Lab;
use super::load::Interval;
use super::plan::Role;
use crate::client::AgentClient;
use sluice_api::rest::{EventList, NodeStats};
use sluice_api::status::NodeStatus;
use std::collections::BTreeMap;
use std::time::Duration;

/// An agent that takes longer is shown as silent in this sample.
const POLL_TIMEOUT: Duration = Duration::from_millis(800);

/// One agent now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentSample {
    /// Its node.
    pub node: String,
    /// It answered.
    pub reachable: bool,
    /// All is carried out.
    pub converged: bool,
    /// Name, generation in force, generation carried out, newest version refused.
    pub documents: Vec<(String, u64, u64, bool)>,
    /// Times its proxy was started again.
    pub proxy_restarts: u64,
}

/// A backend's part of what the balancer forwards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendSample {
    /// Node.
    pub name: String,
    /// `healthy`, `down`, `unknown`.
    pub health: String,
    /// `active`, `drain`.
    pub state: String,
    /// Share of the slots, 0..=1, in the first VIP.
    pub slots: f64,
    /// Packets since its row was made.
    pub packets: u64,
}

/// All that is shown of one second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Seconds since the lab was up.
    pub t_s: u64,
    /// The load, when there is any and it said something.
    pub load: Option<Interval>,
    /// Agents.
    pub agents: Vec<AgentSample>,
    /// Backends of the balancer.
    pub backends: Vec<BackendSample>,
    /// Drops and refusals by name, over all nodes.
    pub drops: BTreeMap<String, u64>,
    /// Requests answered from a store and requests in all, over the proxies of the edge.
    pub proxy_hits: (u64, u64),
    /// New events, `node: message`.
    pub events: Vec<String>,
}

/// Remembers which events were shown.
#[derive(Debug, Default)]
pub struct Observer {
    seen: BTreeMap<String, u64>,
}

impl Observer {
    /// Asks every agent. One that does not answer costs a bounded time and is shown so.
    pub async fn sample(&mut self, lab: &Lab, t_s: u64, load: Option<Interval>) -> Sample {
        let mut sample = Sample { t_s, load, ..Sample::default() };
        for role in lab.agents() {
            let node = role.name();
            let client = lab.client(role);
            let after = self.seen.get(&node).copied().unwrap_or(0);
            let asked = tokio::time::timeout(POLL_TIMEOUT, ask(&client, after)).await;
            let Ok(Some((status, stats, events))) = asked else {
                sample.agents.push(AgentSample { node, ..AgentSample::default() });
                continue;
            };
            for event in &events.events {
                sample.events.push(format!("{node}: {} {}", event.item, event.message));
            }
            if let Some(last) = events.events.last() {
                self.seen.insert(node, last.sequence);
            }
            add(&mut sample, role, &status, &stats);
        }
        sample
    }
}

async fn ask(client: &AgentClient, after: u64) -> Option<(NodeStatus, NodeStats, EventList)> {
    let status = client.get("/v1/status").await.ok()?;
    let stats = client.get("/v1/stats").await.ok()?;
    let events = client.get(&format!("/v1/events?after={after}")).await.ok()?;
    Some((status, stats, events))
}

fn add(sample: &mut Sample, role: Role, status: &NodeStatus, stats: &NodeStats) {
    sample.agents.push(AgentSample {
        node: role.name(),
        reachable: true,
        converged: status.converged,
        documents: status
            .documents
            .iter()
            .map(|d| (d.name.clone(), d.generation, d.observed_generation, !d.refused.is_empty()))
            .collect(),
        proxy_restarts: status.proxy.as_ref().map_or(0, |p| p.restarts),
    });
    for (reason, n) in &stats.drops {
        *sample.drops.entry(reason.clone()).or_default() += n;
    }
    if let Some(proxy) = &stats.proxy {
        for (reason, n) in &proxy.refused {
            *sample.drops.entry(format!("http_{reason}")).or_default() += n;
        }
        if let Role::Node(_) = role {
            let count = |name: &str| proxy.counters.get(name).copied().unwrap_or(0);
            sample.proxy_hits.0 += count("hits");
            sample.proxy_hits.1 += count("hits") + count("misses");
        }
    }
    if role == Role::Front {
        sample.backends = backends(status);
    }
}

fn backends(status: &NodeStatus) -> Vec<BackendSample> {
    let Some(vip) = status.vips.first() else { return Vec::new() };
    vip.backends
        .iter()
        .map(|b| BackendSample {
            name: b.name.clone(),
            health: b.health.clone(),
            state: b.state.clone(),
            slots: b.share,
            packets: b.packets,
        })
        .collect()
}

/// What is left of an event counter when it is not zero.
pub fn nonzero(drops: &BTreeMap<String, u64>) -> Vec<String> {
    drops.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect()
}
