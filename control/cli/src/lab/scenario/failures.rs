//! The failures themselves. Each leaves the lab whole again, so that they can follow one another.

use super::{Allowance, Promise, Round, Verdict, promise, split};
use crate::lab::documents::{BALANCER, write_document};
use crate::lab::load::{CONNECTIONS, TIMEOUT_MS};
use crate::lab::netns::in_netns;
use crate::lab::plan::{Role, VIPS};
use crate::lab::probe::{Fates, TcpFlows};
use crate::lab::{CONVERGE_TIMEOUT, Lab, topology};
use anyhow::{Context, Result};
use hyper::Method;
use sluice_api::rest::{NodeStats, Upgraded};
use sluice_api::status::{DocumentStatus, NodeStatus};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Between two looks at a status.
const POLL: Duration = Duration::from_millis(50);
/// Longest wait for a status to become as expected; only its coming is judged.
const STATUS_MAX: Duration = Duration::from_secs(20);

async fn stats(lab: &Lab, role: Role) -> Result<NodeStats> {
    Ok(lab.client(role).get("/v1/stats").await?)
}

/// Packets that the balancer has sent to a node.
async fn packets_to(lab: &Lab, node: &str) -> Result<u64> {
    let status: NodeStatus = lab.client(Role::Front).get("/v1/status").await?;
    let vip = status.vips.first().context("the balancer reports no VIP")?;
    // The pool is the same in every VIP, and so is the backend's counter.
    let backend =
        vip.backends.iter().find(|b| b.name == node).context("the balancer reports no such backend")?;
    Ok(backend.packets)
}

/// Waits for a node's status to be as wanted; the promise that it came so.
async fn becomes(lab: &Lab, role: Role, what: &str, wanted: impl Fn(&NodeStatus) -> bool) -> Promise {
    let end = Instant::now() + STATUS_MAX;
    loop {
        let status = lab.client(role).get::<NodeStatus>("/v1/status").await;
        if let Ok(status) = &status
            && wanted(status)
        {
            return promise(format!("{} {what}", role.name()), true, "yes");
        }
        if Instant::now() >= end {
            let seen = status.map_or_else(|e| e.to_string(), |s| format!("{s:?}"));
            return promise(format!("{} {what}", role.name()), false, seen);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn health_is(status: &NodeStatus, node: &str, health: &str) -> bool {
    !status.vips.is_empty()
        && status.vips.iter().all(|v| v.backends.iter().any(|b| b.name == node && b.health == health))
}

fn no_share(status: &NodeStatus, node: &str) -> bool {
    status.vips.iter().flat_map(|v| &v.backends).filter(|b| b.name == node).all(|b| b.share == 0.0)
}

fn whole(fates: &Fates) -> bool {
    fates.stayed == fates.total()
}

/// Kept flows of all kinds stay with their node.
fn all_stay(round: &mut Round, promises: &mut Vec<Promise>) {
    let tcp = split(&round.tcp.fates(), "").1;
    let ipip = split(&round.tcp_ipip.fates(), "").1;
    let udp = split(&round.udp.fates(), "").1;
    promises.push(promise("every kept connection stays with its node", whole(&tcp), tcp));
    promises.push(promise("every kept connection through IPIP stays with its node", whole(&ipip), ipip));
    promises.push(promise("every UDP flow stays with its node", whole(&udp), udp));
}

pub(super) async fn restart_agent(lab: &mut Lab, round: &mut Round) -> Result<Verdict> {
    let before = stats(lab, Role::Front).await?;
    let packets = |stats: &NodeStats| stats.backends.iter().map(|b| b.packets).sum::<u64>();
    round.failure();
    lab.processes.kill("agent front");
    round.seconds(3).await;
    let mut promises = Vec::new();
    all_stay(round, &mut promises);
    lab.start_agent(Role::Front)?;
    lab.wait_converged(CONVERGE_TIMEOUT).await?;
    promises.push(round.recovered().await);
    all_stay(round, &mut promises);
    let after = stats(lab, Role::Front).await?;
    let seen = format!("{} packets before, {} after", packets(&before), packets(&after));
    promises.push(promise(
        "the new agent adopts the tables with their counters",
        packets(&after) > packets(&before),
        seen,
    ));
    Ok(Verdict {
        expectation: "nothing: XDP forwards with no agent alive, and the new agent adopts what it finds",
        allowance: Allowance::NONE,
        promises,
    })
}

pub(super) async fn broken_placement(lab: &mut Lab, round: &mut Round) -> Result<Verdict> {
    let dir = lab.run.placements();
    let held = lab.documents.generation(BALANCER);
    round.failure();
    let mut broken = lab.documents.balancer();
    broken.generation += 1;
    broken.pools[0].backends[0].weight = 1001;
    write_document(&dir, &broken).context("write the broken document")?;
    let refused = |path: &'static str| {
        move |s: &NodeStatus| {
            s.documents.iter().any(|d: &DocumentStatus| {
                d.name == BALANCER
                    && d.generation == held
                    && d.observed_generation == held
                    && d.refused.iter().any(|e| e.item.contains(path))
            })
        }
    };
    let mut promises = Vec::new();
    let what = "refuses it, names pools[0].backends[0].weight, and keeps the generation it had";
    for role in lab.agents() {
        promises.push(becomes(lab, role, what, refused("pools[0].backends[0].weight")).await);
    }
    // Half a file, as a writer without rename leaves it for a moment, or a crash for ever.
    let whole_text = serde_norway::to_string(&lab.documents.balancer())?;
    std::fs::write(dir.join("balancer.yaml"), &whole_text.as_bytes()[..whole_text.len() / 2])?;
    let what = "refuses half a document and keeps the generation it had";
    promises.push(becomes(lab, Role::Front, what, refused("")).await);
    promises.push(round.recovered().await);
    all_stay(round, &mut promises);
    lab.documents.write(&dir)?;
    let whole_again = |s: &NodeStatus| {
        s.converged
            && s.documents.iter().all(|d| d.refused.is_empty() && d.observed_generation == d.generation)
    };
    for role in lab.agents() {
        promises.push(becomes(lab, role, "takes the good document again", whole_again).await);
    }
    Ok(Verdict {
        expectation: "nothing: a document with any field at fault is refused as a whole, the old state stays in force",
        allowance: Allowance::NONE,
        promises,
    })
}

pub(super) async fn upgrade_proxy(lab: &mut Lab, round: &mut Round) -> Result<Verdict> {
    let node = Role::Node(1);
    round.failure();
    let answer = lab.client(node).send(Method::POST, "/v1/proxy/upgrade", None).await?;
    let upgraded: Upgraded = serde_json::from_value(answer)?;
    let mut promises = vec![promise(
        "another process serves, with the old one's revision",
        upgraded.old_pid != upgraded.new_pid && upgraded.revision > 0,
        format!("process {} -> {}, revision {}", upgraded.old_pid, upgraded.new_pid, upgraded.revision),
    )];
    promises.push(round.recovered().await);
    let (on_node, others) = split(&round.tcp.fates(), &node.name());
    promises.push(promise(
        "kept connections of the node are served on, or closed between two requests; none breaks",
        on_node.broken == 0 && on_node.moved == 0 && on_node.total() > 0,
        on_node,
    ));
    promises.push(promise("connections of other nodes do not notice", whole(&others), others));
    let is_new =
        move |s: &NodeStatus| s.converged && s.proxy.as_ref().is_some_and(|p| p.pid == upgraded.new_pid);
    promises.push(becomes(lab, node, "reports the new process", is_new).await);
    Ok(Verdict {
        expectation: "no failed request; connections of that node may be closed politely between two requests",
        allowance: Allowance::NONE,
        promises,
    })
}

pub(super) async fn cut_origin(lab: &mut Lab, round: &mut Round) -> Result<Verdict> {
    let client = lab.plan.netns(Role::Client);
    let vip = VIPS[0].socket();
    round.failure();
    topology::set_cable(&lab.plan, Role::Origin, false)?;
    let mut promises = Vec::new();
    // Its object is stored: asked for without an origin.
    let mut stored = 0;
    for _ in 0..3 {
        let fresh = TcpFlows::open(&client, vip, 8);
        stored += usize::from(fresh.is_ok());
        round.seconds(1).await;
    }
    promises.push(promise(
        "stored objects are served while the origin is away",
        stored == 3,
        format!("{stored} of 3 times"),
    ));
    topology::set_cable(&lab.plan, Role::Origin, true)?;
    promises.push(round.recovered().await);
    all_stay(round, &mut promises);
    Ok(Verdict {
        expectation: "objects no node has stored fail with 502 or 504, or wait as long as the client does; \
                      stored ones are served; service is whole when the origin is back",
        allowance: Allowance {
            classes: &["bad_status", "timeout", "not_sent"],
            at_least: 1,
            at_most: 2000,
            why: "only requests for what is not stored fail",
        },
        promises,
    })
}

pub(super) async fn drain_node(lab: &mut Lab, round: &mut Round) -> Result<Verdict> {
    let node = Role::Node(1);
    let name = node.name();
    let client = lab.plan.netns(Role::Client);
    round.failure();
    lab.documents.drain_node(1, true);
    lab.documents.write(&lab.run.placements())?;
    lab.wait_converged(CONVERGE_TIMEOUT).await?;
    let mut promises = Vec::new();
    promises
        .push(becomes(lab, Role::Front, "gives the drained node no slot", |s| no_share(s, "node1")).await);
    round.seconds(2).await;
    let udp = split(&round.udp.fates(), "").1;
    promises.push(promise("every UDP flow stays with its node, also on the drained one", whole(&udp), udp));
    let tcp = split(&round.tcp.fates(), "").1;
    promises.push(promise(
        "no kept connection breaks or moves; those of the drained node may be closed between two requests",
        tcp.broken == 0 && tcp.moved == 0,
        tcp,
    ));
    let fresh = TcpFlows::open(&client, VIPS[0].socket(), 60)?.nodes();
    promises.push(promise(
        "no new connection reaches the drained node",
        !fresh.contains_key(&name),
        format!("{fresh:?}"),
    ));
    promises.push(round.recovered().await);
    lab.documents.drain_node(1, false);
    lab.documents.write(&lab.run.placements())?;
    lab.wait_converged(CONVERGE_TIMEOUT).await?;
    let udp = split(&round.udp.fates(), "").1;
    promises.push(promise("every UDP flow stays with its node when it is back", whole(&udp), udp));
    let fresh = TcpFlows::open(&client, VIPS[0].socket(), 60)?.nodes();
    promises.push(promise("new connections reach it again", fresh.contains_key(&name), format!("{fresh:?}")));
    Ok(Verdict {
        expectation: "no failed request and no moved flow; connections of the drained node may be closed politely; \
                      UDP flows, whose first packet nothing marks, may begin there until the window of the change \
                      (flow_idle_ms) is over",
        allowance: Allowance::NONE,
        promises,
    })
}

pub(super) async fn add_node(lab: &mut Lab, round: &mut Round) -> Result<Verdict> {
    let number = lab.nodes.iter().max().copied().unwrap_or(0) + 1;
    let name = Role::Node(number).name();
    round.failure();
    lab.add_node(number).await?;
    let mut promises = Vec::new();
    let gets_share = |s: &NodeStatus| s.converged && !no_share(s, &name);
    promises.push(becomes(lab, Role::Front, "gives the new node slots", gets_share).await);
    promises.push(round.recovered().await);
    all_stay(round, &mut promises);
    let fresh = TcpFlows::open(&lab.plan.netns(Role::Client), VIPS[0].socket(), 60)?.nodes();
    promises.push(promise("new connections reach it", fresh.contains_key(&name), format!("{fresh:?}")));
    Ok(Verdict {
        expectation: "nothing: flows keep their node, new connections find the new node too (new UDP flows when \
                      the window of the change is over)",
        allowance: Allowance::NONE,
        promises,
    })
}

/// Sends from many ports, twice each, so that each becomes a confirmed flow.
fn flood(netns: &str, targets: &[std::net::SocketAddr], ports: std::ops::Range<u16>) -> Result<u64> {
    let send = || -> std::io::Result<u64> {
        let mut sent = 0;
        for port in ports {
            // A port that is taken is one flow less.
            let Ok(socket) = UdpSocket::bind(("0.0.0.0", port)) else { continue };
            for target in targets {
                for _ in 0..2 {
                    sent += u64::from(socket.send_to(b"fill", target).is_ok());
                }
            }
        }
        Ok(sent)
    };
    Ok(in_netns(netns, send)??)
}

pub(super) async fn fill_flow_table(lab: &mut Lab, round: &mut Round) -> Result<Verdict> {
    let client = lab.plan.netns(Role::Client);
    let events = |stats: &NodeStats| {
        let event = |name: &str| stats.packet_events.get(name).copied().unwrap_or(0);
        (
            event("flow_untracked"),
            event("flow_evicted"),
            stats.drops.get("flow_table_full").copied().unwrap_or(0),
        )
    };
    let before = events(&stats(lab, Role::Front).await?);
    round.failure();
    // A change of the tables makes slots ask the flow table; the flows of the round enter it first.
    lab.documents.drain_node(1, true);
    lab.documents.write(&lab.run.placements())?;
    lab.wait_converged(CONVERGE_TIMEOUT).await?;
    let mut promises = Vec::new();
    let udp = split(&round.udp.fates(), "").1;
    promises.push(promise("flows of before the change stay", whole(&udp), udp));
    round.tcp_ipip.fates();
    let targets = [VIPS[3].socket(), VIPS[4].socket()];
    let sent = flood(&client, &targets, 2000..60_000)?;
    let after = events(&stats(lab, Role::Front).await?);
    promises.push(promise(
        "the table is full and says so by name",
        after.0 > before.0 || after.2 > before.2,
        format!(
            "{sent} datagrams; flow_untracked +{}, flow_evicted +{}, flow_table_full +{}",
            after.0 - before.0,
            after.1 - before.1,
            after.2 - before.2
        ),
    ));
    let udp = split(&round.udp.fates(), "").1;
    promises.push(promise("flows that talk keep their entry and their node", whole(&udp), udp));
    let tcp = split(&round.tcp.fates(), "").1;
    promises.push(promise("no kept connection breaks or moves", tcp.broken == 0 && tcp.moved == 0, tcp));
    round.seconds(2).await;
    lab.documents.drain_node(1, false);
    lab.documents.write(&lab.run.placements())?;
    lab.wait_converged(CONVERGE_TIMEOUT).await?;
    Ok(Verdict {
        expectation: "kept flows stay; new TCP connections on slots that just changed may have to be tried again, \
                      counted as flow_table_full; UDP is served without an entry, counted as flow_untracked",
        allowance: Allowance {
            classes: &["connect_timeout", "timeout", "not_sent"],
            at_least: 0,
            at_most: u64::from(CONNECTIONS) * 2,
            why: "only new connections fail",
        },
        promises,
    })
}

pub(super) async fn kill_node(lab: &mut Lab, round: &mut Round) -> Result<Verdict> {
    let number = 2.min(lab.plan.nodes);
    let node = Role::Node(number);
    let name = node.name();
    let on_node = round.tcp.nodes().get(&name).copied().unwrap_or(0);
    let udp_on_node = round.udp.nodes().get(&name).copied().unwrap_or(0);
    round.failure();
    lab.kill_node(number)?;
    let mut promises = Vec::new();
    let down = |s: &NodeStatus| health_is(s, &name, "down") && no_share(s, &name);
    promises.push(becomes(lab, Role::Front, "finds the node down and gives it no slot", down).await);
    // Requests that wait for the dead node fail only when the client gives up.
    round.seconds(TIMEOUT_MS.div_ceil(1000) as usize + 1).await;
    promises.push(round.recovered().await);
    let (dead, others) = split(&round.udp.fates(), &name);
    promises.push(promise("UDP flows of living nodes stay", whole(&others), others));
    promises.push(promise(
        "UDP flows of the dead node are answered by another",
        dead.moved == udp_on_node,
        format!("{dead} of {udp_on_node}"),
    ));
    let (dead, others) = split(&round.tcp.fates(), &name);
    promises.push(promise("kept connections of living nodes stay", whole(&others), others));
    promises.push(promise(
        "only connections of the dead node are lost",
        dead.stayed == 0 && dead.total() == on_node,
        format!("{dead} of {on_node}"),
    ));
    let before = packets_to(lab, &name).await?;
    round.seconds(2).await;
    let late = packets_to(lab, &name).await?.saturating_sub(before);
    promises.push(promise(
        "no packet is sent to the dead node any more",
        late == 0 && before > 0,
        format!("{before} before, {late} after"),
    ));
    lab.revive_node(number).await?;
    let up = |s: &NodeStatus| health_is(s, &name, "healthy") && !no_share(s, &name);
    promises.push(becomes(lab, Role::Front, "takes the node back when it lives again", up).await);
    promises.push(round.recovered().await);
    Ok(Verdict {
        expectation: "connections of the dead node are lost: their requests fail by timeout or reset, and new ones \
                      until the health check has taken it out; all others go on",
        allowance: Allowance {
            classes: &[
                "timeout",
                "reset",
                "closed",
                "connect_timeout",
                "connect_refused",
                "bad_status",
                "short_body",
                "not_sent",
            ],
            at_least: 0,
            at_most: 400,
            why: "only requests of connections of the dead node, of keys it owned, and those that queued for them fail",
        },
        promises,
    })
}
