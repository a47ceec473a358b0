//! Group `proxy`: CPU per request, rate, latency and memory beside nginx and HAProxy.
//!
//! One worker of each program on one CPU; load generator and origin on another. CPU per request is the CPU
//! time of the program's processes over the turn, divided by the requests answered in it. What the kernel
//! does in the program's own context (its half of the loopback) is in it, for all alike.

use super::load::{Load, Summary};
use super::row::{Better, Case, Row};
use super::subject::{self, Endpoint, Origin, Subject};
use super::{Context, domains, external};
use anyhow::{Context as _, Result, bail};
use std::process::Child;
use std::time::Duration;

const GROUP: &str = "proxy";
/// The program compared with.
const BASE: &[&str] = &["nginx"];
/// Idle connections of the memory case: both sides of each fit below a limit of 20,000 descriptors.
const IDLE_CONNECTIONS: u32 = 9_000;
/// Part of the slowest program's rate at which latency is compared.
const LATENCY_LOAD: f64 = 0.5;
/// Hits that may reach the origin, in one thousand.
const MISSES_ALLOWED: u64 = 10;

/// Which listener of a subject a case uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Proxy,
    Cache,
}

struct Scenario {
    name: &'static str,
    side: Side,
    path: &'static str,
    connections: u32,
    new_connection: bool,
    with_latency: bool,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "proxy 1 KiB",
        side: Side::Proxy,
        path: "/obj/p1?size=1024&cc=no-store",
        connections: 64,
        new_connection: false,
        with_latency: true,
    },
    Scenario {
        name: "proxy 1 KiB, new connection",
        side: Side::Proxy,
        path: "/obj/p1?size=1024&cc=no-store",
        connections: 64,
        new_connection: true,
        with_latency: false,
    },
    Scenario {
        name: "hit 1 KiB",
        side: Side::Cache,
        path: "/obj/h1?size=1024&ttl=86400",
        connections: 64,
        new_connection: false,
        with_latency: true,
    },
    Scenario {
        name: "hit 16 KiB",
        side: Side::Cache,
        path: "/obj/h16?size=16384&ttl=86400",
        connections: 64,
        new_connection: false,
        with_latency: false,
    },
    Scenario {
        name: "hit 1 MiB",
        side: Side::Cache,
        path: "/obj/h1m?size=1048576&ttl=86400",
        connections: 16,
        new_connection: false,
        with_latency: false,
    },
    Scenario {
        name: "hit 1 KiB, new connection",
        side: Side::Cache,
        path: "/obj/h1?size=1024&ttl=86400",
        connections: 64,
        new_connection: true,
        with_latency: false,
    },
];

/// Runs the group.
pub fn run(context: &Context) -> Result<Vec<Row>> {
    let origin = Origin::start(context)?;
    let subjects = subject::start_all(context, origin.address);
    let mut rows = Vec::new();
    for scenario in SCENARIOS {
        rows.extend(saturated(context, scenario, &subjects, &origin)?);
    }
    rows.extend(idle_memory(context, &subjects)?);
    drop(subjects);
    rows.extend(poll_modes(context, &origin)?);
    match datagrams(context) {
        Ok(new) => rows.extend(new),
        Err(e) => context.note(format!("datagram echo is not measured: {e:#}")),
    }
    rows.extend(domains::run(context, &origin)?);
    context.note("floor: a relay (proxy) or an answerer of one fixed response (hit) on our io_uring driver that understands nothing");
    Ok(rows)
}

fn endpoint(subject: &Subject, side: Side) -> Option<&Endpoint> {
    match side {
        Side::Proxy => subject.proxy.as_ref(),
        Side::Cache => subject.cache.as_ref(),
    }
}

/// One turn: CPU per request, us, and the generator's summary.
fn turn(context: &Context, endpoint: &Endpoint, load: &Load) -> Result<(f64, Summary)> {
    context.check_stop()?;
    let before = endpoint.process.cpu_ns()?;
    let summary = load.run(context)?;
    let spent = endpoint.process.cpu_ns()? - before;
    Ok((spent as f64 / 1000.0 / summary.good() as f64, summary))
}

fn load_of(scenario: &Scenario, endpoint: &Endpoint, seconds: f64) -> Load {
    Load {
        connections: scenario.connections,
        new_connection: scenario.new_connection,
        ..Load::saturate(endpoint.address, scenario.path, seconds)
    }
}

fn saturated(
    context: &Context,
    scenario: &Scenario,
    subjects: &[Subject],
    origin: &Origin,
) -> Result<Vec<Row>> {
    println!("  {}", scenario.name);
    let mut taking = Vec::new();
    let floor = floor(context, scenario);
    for subject in subjects.iter().chain(&floor) {
        // The relay opens an upstream connection for each of its own: no floor where each carries one request.
        let one_each = subject.cache.is_none() && scenario.new_connection && scenario.side == Side::Proxy;
        let Some(endpoint) = endpoint(subject, scenario.side).filter(|_| !one_each) else { continue };
        // Also the warm-up: pools fill, the object is stored.
        match load_of(scenario, endpoint, 0.2).run(context) {
            Ok(_) => taking.push((subject, endpoint)),
            Err(e) => context.note(format!("{}: {} is not measured: {e:#}", scenario.name, subject.name)),
        }
    }
    let mut cpu = Case::new(scenario.name, "us CPU/req", Better::Lower);
    let mut rate = Case::new(format!("{}, rate", scenario.name), "req/s", Better::Higher);
    for _ in 0..context.rounds {
        for (subject, endpoint) in &taking {
            let asked = origin.total()?;
            let (us, summary) = turn(context, endpoint, &load_of(scenario, endpoint, context.seconds))?;
            let missed = origin.total()? - asked;
            if scenario.side == Side::Cache && missed * 1000 > summary.good() * MISSES_ALLOWED {
                bail!(
                    "{}: {} asked the origin {missed} times instead of hitting",
                    scenario.name,
                    subject.name
                );
            }
            cpu.push(&subject.name, us);
            rate.push(&subject.name, summary.rps());
        }
    }
    let mut rows = cpu.rows(GROUP, BASE);
    rows.extend(rate.rows(GROUP, BASE));
    if scenario.with_latency {
        let slowest = taking.iter().filter_map(|(s, _)| rate.median(&s.name)).fold(f64::MAX, f64::min);
        rows.extend(latency(context, scenario, &taking, slowest * LATENCY_LOAD)?);
    }
    Ok(rows)
}

/// What answering hits costs on our driver when nothing is read or looked up.
fn floor(context: &Context, scenario: &Scenario) -> Option<Subject> {
    if scenario.side != Side::Cache {
        return None;
    }
    match subject::answerer(context, scenario.path) {
        Ok(endpoint) => Some(Subject { name: "floor".to_owned(), proxy: None, cache: Some(endpoint) }),
        Err(e) => {
            context.note(format!("{}: the floor is not measured: {e:#}", scenario.name));
            None
        }
    }
}

fn latency(
    context: &Context,
    scenario: &Scenario,
    taking: &[(&Subject, &Endpoint)],
    rate: f64,
) -> Result<Vec<Row>> {
    let rate = (rate / 100.0).floor().max(1.0) * 100.0;
    let percentiles = ["p50", "p99", "p999"];
    let mut cases: Vec<_> = percentiles
        .iter()
        .map(|p| Case::new(format!("{}, {rate} req/s, {p}", scenario.name), "us", Better::Lower))
        .collect();
    let mut cpu = Case::new(format!("{}, {rate} req/s, CPU", scenario.name), "us CPU/req", Better::Lower);
    for _ in 0..context.rounds {
        for (subject, endpoint) in taking {
            let load = Load { rate: Some(rate), ..load_of(scenario, endpoint, context.seconds) };
            let (us, summary) = turn(context, endpoint, &load)?;
            cpu.push(&subject.name, us);
            for (case, percentile) in cases.iter_mut().zip(percentiles) {
                case.push(&subject.name, summary.latency_us(percentile));
            }
        }
    }
    cases.push(cpu);
    Ok(cases.iter().flat_map(|case| case.rows(GROUP, BASE)).collect())
}

/// What an idle kept connection costs in the program's own memory.
fn idle_memory(context: &Context, subjects: &[Subject]) -> Result<Vec<Row>> {
    println!("  idle connections");
    let connections = if context.quick { 200 } else { IDLE_CONNECTIONS };
    // Each connection carries one request before it is idle.
    let interval_ms = if context.quick { 500 } else { 4000 };
    let mut case = Case::new(format!("idle connection, of {connections}"), "bytes", Better::Lower);
    let mut start = Case::new("memory at start", "MiB", Better::Lower);
    for subject in subjects.iter().filter(|s| s.name != "floor") {
        let Some(endpoint) = &subject.proxy else { continue };
        let before = endpoint.process.pss_bytes()?;
        start.push(&subject.name, before as f64 / f64::from(1 << 20));
        let seconds = interval_ms as f64 / 1000.0 * 2.0;
        let load = Load {
            connections,
            ..Load::saturate(endpoint.address, "/obj/idle?size=64&cc=no-store", seconds)
        };
        let mut child = load.spawn_hold(context, interval_ms)?;
        std::thread::sleep(Duration::from_secs_f64(seconds * 0.75));
        let during = endpoint.process.pss_bytes();
        let broken = held(&mut child)?;
        if broken > 0 {
            context.note(format!("idle connections: {broken} of {}'s broke or did not open", subject.name));
        }
        case.push(&subject.name, during?.saturating_sub(before) as f64 / f64::from(connections));
        context.check_stop()?;
    }
    context.note("idle connections: proportional set size of the process; socket memory of the kernel is the same for all and not in it");
    let mut rows = case.rows(GROUP, BASE);
    rows.extend(start.rows(GROUP, BASE));
    Ok(rows)
}

fn held(child: &mut Child) -> Result<u64> {
    use std::io::Read as _;
    let mut text = String::new();
    child.stdout.take().context("no output of tcp-hold")?.read_to_string(&mut text)?;
    child.wait()?;
    let last = text.lines().last().context("tcp-hold said nothing")?;
    let summary: serde_json::Value = serde_json::from_str(last)?;
    Ok(summary["broken"].as_u64().unwrap_or(0) + summary["preconnect_failed"].as_u64().unwrap_or(0))
}

/// The poll modes and AF_XDP over one datagram echo.
fn datagrams(context: &Context) -> Result<Vec<Row>> {
    println!("  poll modes, datagrams");
    context.note("datagram echo: what the device's receive costs before the socket is on the client's processor, see 'client and server'");
    let args = ["--rounds", &context.rounds.to_string(), "--seconds", &(context.seconds / 2.0).to_string()];
    let cpus =
        ["--server-cpu", &context.subject_cpu.to_string(), "--client-cpu", &context.load_cpu.to_string()];
    let args: Vec<String> = args.iter().chain(&cpus).map(|a| (*a).to_owned()).collect();
    external::run(context, "polled", "sluice-bench-polled", &args)
}

/// Interrupt-driven, kernel-polled and busy-polled, beside each other.
fn poll_modes(context: &Context, origin: &Origin) -> Result<Vec<Row>> {
    println!("  poll modes");
    let mut endpoints = Vec::new();
    for mode in ["interrupt", "sqpoll", "napi"] {
        let name = format!("sluice {mode}");
        match subject::sluice_with(
            context,
            &name.replace(' ', "-"),
            origin.address,
            &["--cache", "0", "--poll", mode],
        ) {
            Ok(endpoint) => endpoints.push((name, endpoint)),
            Err(e) => context.note(format!("{name} is not measured: {e:#}")),
        }
    }
    let scenario = &SCENARIOS[0];
    let mut cpu = Case::new("poll mode, proxy 1 KiB saturated", "us CPU/req", Better::Lower);
    let mut slow_cpu = Case::new("poll mode, proxy 1 KiB, 5000 req/s", "us CPU/req", Better::Lower);
    let mut p50 = Case::new("poll mode, proxy 1 KiB, 5000 req/s, p50", "us", Better::Lower);
    let mut p99 = Case::new("poll mode, proxy 1 KiB, 5000 req/s, p99", "us", Better::Lower);
    for _ in 0..context.rounds {
        for (name, endpoint) in &endpoints {
            let load = load_of(scenario, endpoint, context.seconds);
            cpu.push(name, turn(context, endpoint, &load)?.0);
            let (us, summary) = turn(context, endpoint, &Load { rate: Some(5000.0), ..load })?;
            slow_cpu.push(name, us);
            p50.push(name, summary.latency_us("p50"));
            p99.push(name, summary.latency_us("p99"));
        }
    }
    context.note("poll modes: the CPU of the kernel's polling thread is in the figure; on loopback NAPI has no device queue to poll");
    Ok([cpu, slow_cpu, p50, p99].iter().flat_map(|c| c.rows(GROUP, &["sluice interrupt"])).collect())
}
