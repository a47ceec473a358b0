//! Time of the agent's decision alone: checked documents to goal, goal and host to steps. No disk, no kernel.

use super::Context;
use super::row::{Better, Case, Row};
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use sluice_abi::BACKEND_ID_MAX;
use sluice_agent::goal::{self, Inputs, RowCache, Tables};
use sluice_agent::ledger::Ids;
use sluice_agent::model::{Goal, Observed};
use sluice_agent::plan::plan;
use sluice_api::check::types::CheckedDocument;
use sluice_api::check::{Desired, check_set, parse_document};
use sluice_loader::Link;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

const GROUP: &str = "control";
const NODE: &str = "bench";
/// Pools of a hundred backends each, and VIPs dealt over them.
const POOLS: usize = 10;
const POOL_BACKENDS: usize = 100;
const VIPS: usize = 1_000;

/// What differs between what is wanted and what is there.
#[derive(Clone, Copy)]
enum Change {
    Nothing,
    OneHost,
    OneWeight,
}

impl Change {
    const ALL: [(Change, &'static str); 3] = [
        (Change::Nothing, "nothing changed"),
        (Change::OneHost, "one host added"),
        (Change::OneWeight, "one weight changed"),
    ];
}

/// Runs the cases.
pub fn run(context: &Context) -> Result<Vec<Row>> {
    println!("  plan time");
    let counts: &[usize] = if context.quick { &[1_000] } else { &[1_000, 10_000, 100_000] };
    let rounds = context.rounds.max(3);
    let mut rows = Vec::new();
    for &hosts in counts {
        context.check_stop()?;
        for (change, what) in Change::ALL {
            let mut case =
                Case::new(format!("plan, {hosts} hosts, {VIPS} VIPs, {what}"), "ms", Better::Lower);
            let before = Documents::new(hosts, Change::Nothing)?;
            let after = Documents::new(hosts, change)?;
            for _ in 0..rounds {
                measure(&before, &after, &mut case)?;
            }
            rows.extend(case.rows(GROUP, &["check of the set"]));
        }
    }
    context.note("plan: the first two subjects are what comes before it, the set checked and the goal made");
    Ok(rows)
}

struct Documents {
    checked: Vec<CheckedDocument>,
}

impl Documents {
    fn new(hosts: usize, change: Change) -> Result<Self> {
        let hosts = hosts + usize::from(matches!(change, Change::OneHost));
        let texts = [balancing(matches!(change, Change::OneWeight)), serving(hosts)];
        let checked = texts.iter().map(|text| {
            parse_document(text.to_string().as_bytes())
                .map_err(|e| anyhow!("the bench's own document: {e:?}"))
        });
        Ok(Self { checked: checked.collect::<Result<_>>()? })
    }

    fn set(&self) -> Result<Desired> {
        check_set(&self.checked).map_err(|e| anyhow!("the bench's own documents: {e:?}"))
    }
}

fn backend(pool: usize, n: usize) -> String {
    format!("10.1.{pool}.{}", n + 1)
}

fn balancing(other_weight: bool) -> Value {
    let pool = |p: usize| {
        let backends: Vec<Value> = (0..POOL_BACKENDS)
            .map(|n| {
                let weight = if other_weight && (p, n) == (0, 7) { 50 } else { 100 };
                json!({"name": format!("b{p}-{n}"), "address": backend(p, n), "weight": weight})
            })
            .collect();
        json!({"name": format!("p{p}"), "backends": backends})
    };
    let vip = |n: usize| {
        json!({
            "name": format!("v{n}"), "address": format!("10.2.{}.{}", n / 250, n % 250 + 1), "port": 80,
            "protocol": "tcp", "mode": "ipip", "pool": format!("p{}", n % POOLS), "nodes": [NODE],
        })
    };
    json!({
        "apiVersion": "sluice/v1", "name": "edge", "generation": 1,
        "networks": [{"name": "n", "cidr": "10.0.0.0/8"}],
        "pools": (0..POOLS).map(pool).collect::<Vec<_>>(),
        "vips": (0..VIPS).map(vip).collect::<Vec<_>>(),
    })
}

fn serving(hosts: usize) -> Value {
    let site = |n: usize| json!({"host": super::domains::host(n), "origin": "o", "group": "g"});
    json!({
        "apiVersion": "sluice/v1", "name": "cdn", "generation": 1,
        "origins": [{"name": "o", "addresses": ["10.3.0.1:80"]}],
        "groups": [{"name": "g", "listen": ["0.0.0.0:80"], "members": [{"name": NODE, "address": "10.3.0.2:80"}]}],
        "sites": (0..hosts).map(site).collect::<Vec<_>>(),
    })
}

struct Node {
    ids: Ids,
    links: BTreeMap<IpAddr, Link>,
    tables: Tables,
}

impl Node {
    fn new(desired: &Desired) -> Result<Self> {
        let mut ids = Ids::default();
        let wanted = goal::id_keys(NODE, desired);
        if let Some(change) = ids.change_to(&wanted, &BTreeSet::new(), 0, 0, BACKEND_ID_MAX)? {
            ids.take(&change);
        }
        let link = Link { ifindex: 1, dst_mac: [2, 0, 0, 0, 0, 1], src_mac: [2, 0, 0, 0, 0, 2], mtu: 1500 };
        let all = (0..POOLS).flat_map(|p| (0..POOL_BACKENDS).map(move |n| backend(p, n)));
        let links = all
            .map(|text| text.parse::<Ipv4Addr>().map(|a| (IpAddr::V4(a), link)).context("an address"))
            .collect::<Result<_>>()?;
        Ok(Self { ids, links, tables: Tables::default() })
    }

    fn goal(&mut self, desired: &Desired) -> Goal {
        let (drains, health) = (BTreeSet::new(), BTreeMap::new());
        let inputs = Inputs {
            node: NODE,
            desired,
            drains: &drains,
            drains_over: &drains,
            ids: &self.ids,
            health: &health,
            links: &self.links,
            revision_floor: 0,
            announce: true,
            with_proxy: true,
            speaks: false,
            proxy_serves: true,
        };
        goal::make(&inputs, &mut self.tables, &mut RowCache::default()).goal
    }
}

fn measure(before: &Documents, after: &Documents, case: &mut Case) -> Result<()> {
    let desired = before.set()?;
    let mut node = Node::new(&desired)?;
    let first = node.goal(&desired);
    let mut observed = Observed::default();
    for step in plan(&first, &observed) {
        observed.apply(&step);
    }
    let mut timed = |name: &str, started: Instant| case.push(name, started.elapsed().as_secs_f64() * 1000.0);
    let started = Instant::now();
    let desired = after.set()?;
    timed("check of the set", started);
    let started = Instant::now();
    let goal = node.goal(&desired);
    timed("goal", started);
    let started = Instant::now();
    let steps = black_box(plan(&goal, &observed));
    timed("plan", started);
    drop(steps);
    Ok(())
}
