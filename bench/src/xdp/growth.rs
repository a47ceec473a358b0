//! Cost of a packet as tables grow, time of changes, memory and load time.

use super::katran;
use super::ours::{Shape, balancer};
use super::packets::{VIP4, over_vips, packets};
use super::run::{GROUP, Options, measure};
use super::subject::{Does, Subject};
use crate::suite::row::{Better, Case, Row, median};
use anyhow::{Context as _, Result};
use sluice_abi::BUCKET_ENTRIES;
use sluice_abi::layout::Bucket;
use sluice_core::l4::maglev::{Member, owners};
use sluice_loader::Proto;
use std::net::IpAddr;
use std::time::Instant;

const VIPS: [u32; 3] = [1, 100, 10_000];
const BACKENDS: [u16; 3] = [10, 1_000, 10_000];
/// Backends of the VIP whose change is timed.
const CHANGED: u16 = 1_000;
/// Backends may be so many in one load of VIPs that is timed.
const FLOW_BUCKETS_SMALL: u32 = 1 << 16;
/// Memory of one VIP's slots.
const VIP_BYTES: u64 = 4 * sluice_abi::SLOTS as u64;

/// Runs the cases.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let mut rows = vips(options, say)?;
    say("as backends grow");
    let mut subjects = vec![null()?];
    for backends in BACKENDS {
        let shape = Shape { backends, flow_buckets: FLOW_BUCKETS_SMALL, ..Shape::default() };
        subjects.push(subject(&format!("{backends} backends"), &shape)?);
    }
    let packet =
        packets().into_iter().find(|p| p.name == "v4 TCP, 64k flows").context("the row of 64k flows")?;
    let case =
        measure("v4 TCP, 64k flows, as backends grow", &mut subjects, |_| packet.clone(), options, say)?;
    rows.extend(case.rows(GROUP, &["10 backends"]));
    drop(subjects);
    rows.extend(times(options)?);
    rows.extend(memory(options)?);
    Ok(rows)
}

fn null() -> Result<Subject> {
    Subject::floor("null", "floor_null", 1, |_| true, Does::send)
}

fn subject(name: &str, shape: &Shape) -> Result<Subject> {
    let balancer = balancer(shape)?;
    let fd = balancer.program()?.fd()?.try_clone()?;
    Subject::program(name, &fd, Box::new(balancer), |_| true, Does::balance)
}

/// Bytes the kernel says it can still give.
fn available() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("read meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).context("no number")?;
    Ok(kib * 1024)
}

/// Flows over more and more VIPs; what loading them costs in time and memory.
fn vips(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    say("as VIPs grow");
    let (mut subjects, mut counts) = (vec![null()?], vec![0]);
    let mut load = Case::new("load of 10000 VIPs", "s", Better::Lower);
    let mut each = Case::new("memory of a VIP, of 10000", "bytes", Better::Lower);
    for vips in VIPS {
        if available()? < 2 * VIP_BYTES * u64::from(vips) {
            say(&format!("note: no memory for {vips} VIPs"));
            continue;
        }
        let shape = Shape { vips, flow_buckets: FLOW_BUCKETS_SMALL, ..Shape::default() };
        let (before, started) = (available()?, Instant::now());
        subjects.push(subject(&format!("{vips} VIPs"), &shape)?);
        if vips == VIPS[2] {
            load.push("sluice", started.elapsed().as_secs_f64());
            each.push("sluice", before.saturating_sub(available()?) as f64 / f64::from(vips));
        }
        counts.push(vips);
    }
    let case =
        measure("v4 TCP, 64k flows, as VIPs grow", &mut subjects, |n| over_vips(counts[n]), options, say)?;
    let mut rows = case.rows(GROUP, &["1 VIPs"]);
    rows.extend(load.rows(GROUP, &[]));
    rows.extend(each.rows(GROUP, &[]));
    Ok(rows)
}

/// One backend of a thousand changes its weight.
fn times(options: &Options) -> Result<Vec<Row>> {
    let shape = Shape { backends: CHANGED, flow_buckets: FLOW_BUCKETS_SMALL, ..Shape::default() };
    let mut balancer = balancer(&shape)?;
    let spec = shape.vip(IpAddr::V4(VIP4), Proto::Tcp);
    let names: Vec<String> = (1..=CHANGED).map(|n| format!("backend-{n}")).collect();
    let (mut made, mut written) = (Vec::new(), Vec::new());
    for round in 0..options.rounds as u32 {
        let weight = |id: u16| if id == 7 { 50 + round } else { 100 };
        let members: Vec<Member<'_>> =
            (1..=CHANGED).zip(&names).map(|(id, name)| Member { name, weight: weight(id), id }).collect();
        let started = Instant::now();
        let owners = owners(&members);
        made.push(started.elapsed().as_secs_f64() * 1000.0);
        let started = Instant::now();
        balancer.set_owners(&spec, &owners).context("write the table")?;
        written.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    let mut case = Case::new("change of one of 1000 backends", "ms", Better::Lower);
    case.push("Maglev table made", median(&made).unwrap_or(0.0));
    case.push("slots written", median(&written).unwrap_or(0.0));
    Ok(case.rows(GROUP, &[]))
}

/// Memory of a flow that is tracked, time and size of the program's load.
fn memory(options: &Options) -> Result<Vec<Row>> {
    let mut flow = Case::new("memory of a tracked flow", "bytes", Better::Lower);
    flow.push("sluice", size_of::<Bucket>() as f64 / BUCKET_ENTRIES as f64);
    let mut time = Case::new("load of program and small maps", "ms", Better::Lower);
    let mut size = Case::new("instructions verified", "instructions", Better::Lower);
    let small = Shape { flow_buckets: 1 << 10, backends: 1, ..Shape::default() };
    for _ in 0..options.rounds.min(3) {
        let started = Instant::now();
        let balancer = balancer(&small)?;
        time.push("sluice", started.elapsed().as_secs_f64() * 1000.0);
        let verified = balancer.program()?.info()?.verified_instruction_count();
        size.push("sluice", f64::from(verified.unwrap_or(0)));
        if let Some(path) = &options.katran {
            let loaded = katran::time_of_load(path)?;
            time.push("katran", loaded.milliseconds);
            size.push("katran", f64::from(loaded.instructions));
        }
    }
    if options.katran.is_some() {
        flow.push("katran", katran::bytes_of_a_flow()?);
    }
    let bases = &["katran"];
    Ok([flow, time, size].iter().flat_map(|case| case.rows(GROUP, bases)).collect())
}
