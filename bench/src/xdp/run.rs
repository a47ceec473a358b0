//! Rounds and rows.

use super::ours::{self, Shape};
use super::packets::{Packet, packets};
use super::subject::{Does, Subject};
use super::{growth, katran, path};
use crate::suite::row::{Better, Case, Row};
use anyhow::{Context as _, Result, bail};
use sluice_loader::{Mode, Tracking};
use std::path::PathBuf;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interleaved rounds; the median counts.
    pub rounds: usize,
    /// Packets of one figure.
    pub repeat: u32,
    /// Katran's object.
    pub katran: Option<PathBuf>,
    /// Katran's object with its new-connection guard off, for rows of new flows.
    pub katran_norate: Option<PathBuf>,
    /// Processor to run on.
    pub cpu: u32,
    /// Rows whose name contains this.
    pub only: Option<String>,
}

/// Name of the group and unit of its rows.
pub const GROUP: &str = "xdp";
const UNIT: &str = "ns/packet over null";
const SLUICE: &str = "sluice";
const KATRAN: &str = "katran";
const KATRAN_NORATE: &str = "katran, guard off";
const RING: &str = "floor: ring only";
const LRU: &str = "floor: kernel LRU";
const PARSE: &str = "floor: parse only";
/// Room for the flows of every row but the 16M one, which evicts.
const LRU_ENTRIES: u32 = 2 << 20;

fn tcp4(p: &Packet) -> bool {
    p.name.starts_with("v4 TCP")
}

fn subjects(options: &Options) -> Result<Vec<Subject>> {
    let all: fn(&Packet) -> bool = |_| true;
    let mut subjects = vec![
        Subject::floor("null", "floor_null", 1, all, Does::send)?,
        Subject::floor(PARSE, "floor_parse", 1, |p| p.name == "v4 TCP, 1 flow", Does::send)?,
        Subject::floor(RING, "floor_ring", 1, tcp4, Does::send)?,
        Subject::floor(LRU, "floor_lru", LRU_ENTRIES, tcp4, Does::send)?,
    ];
    type Takes = fn(&Packet) -> bool;
    let plain = Shape::default();
    let during: Takes = |p| p.name.starts_with("v4 TCP,") && p.flows != 1 << 10;
    type DoesWith = fn(&Packet) -> Does;
    let shapes: [(&str, Shape, Takes, DoesWith); 4] = [
        (SLUICE, plain, all, Does::balance),
        ("sluice, window open", Shape { window: true, ..plain }, during, Does::balance),
        ("sluice, always tracking", Shape { tracking: Tracking::Always, ..plain }, during, Does::balance),
        ("sluice, direct return", Shape { mode: Mode::L2Direct, ..plain }, during, Does::direct),
    ];
    for (name, shape, takes, does) in shapes {
        let balancer = ours::balancer(&shape)?;
        let fd = balancer.program()?.fd()?.try_clone()?;
        subjects.push(Subject::program(name, &fd, Box::new(balancer), takes, does)?);
    }
    if let Some(path) = &options.katran {
        let (fd, keep) = katran::load(path, options.cpu)?;
        subjects.push(Subject::program(KATRAN, &fd, keep, all, Does::balance)?);
    }
    if let Some(path) = &options.katran_norate {
        let (fd, keep) = katran::load(path, options.cpu)?;
        subjects.push(Subject::program(KATRAN_NORATE, &fd, keep, |p| p.syn, Does::balance)?);
    }
    Ok(subjects)
}

/// Runs everything and says how it goes through `say`.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(options.cpu as usize);
    rustix::thread::sched_setaffinity(None, &set).context("run on one processor")?;
    let mut rows = Vec::new();
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut keep = |new: Vec<Row>, say: &mut dyn FnMut(&str)| {
        for row in new {
            say(&format!(
                "{:34} {:24} {:10.1} {:20} base {:18} {:8.1}   ratio {:.3}",
                row.case, row.subject, row.value, row.unit, row.base, row.base_value, row.ratio
            ));
            rows.push(row);
        }
    };
    let packets: Vec<Packet> = packets().into_iter().filter(|p| wanted(p.name)).collect();
    if !packets.is_empty() {
        let mut subjects = subjects(options)?;
        for packet in packets {
            let case = measure(packet.name, &mut subjects, |_| packet.clone(), options, say)?;
            let bases: &[&str] =
                if packet.syn { &[KATRAN_NORATE, KATRAN, LRU] } else { &[KATRAN, LRU, SLUICE] };
            keep(case.rows(GROUP, bases), say);
        }
    }
    for (name, part) in [("growth", growth::run as Part), ("path", path::run)] {
        if wanted(name) {
            match part(options, say) {
                Ok(new) => keep(new, say),
                Err(e) => say(&format!("note: {name} is not measured: {e:#}")),
            }
        }
    }
    Ok(rows)
}

type Part = fn(&Options, &mut dyn FnMut(&str)) -> Result<Vec<Row>>;

/// One case: the subjects that take the packet, turn about; the first is the null program. `packet` gives each
/// subject its packet, by number. A subject of others that does not do its work has no figure.
pub(super) fn measure(
    name: &str,
    subjects: &mut [Subject],
    packet: impl Fn(usize) -> Packet,
    options: &Options,
    say: &mut dyn FnMut(&str),
) -> Result<Case> {
    let mut case = Case::new(name, UNIT, Better::Lower);
    let mut taking: Vec<(&mut Subject, Packet)> = Vec::new();
    for (n, subject) in subjects.iter_mut().enumerate() {
        let packet = packet(n);
        if !(subject.takes)(&packet) {
            continue;
        }
        match warm(subject, &packet) {
            Ok(()) => taking.push((subject, packet)),
            Err(e) if subject.name.starts_with(KATRAN) => say(&format!("note: {e:#}")),
            Err(e) => return Err(e),
        }
    }
    for _ in 0..options.rounds {
        let null = taking[0].0.run(&taking[0].1, options.repeat)?.ns;
        for (subject, packet) in &taking[1..] {
            let answer = subject.run(packet, options.repeat)?;
            case.push(&subject.name, answer.ns - null);
        }
    }
    Ok(case)
}

/// Every flow of the row is seen twice before it counts, but for the row of ever new flows.
fn warm(subject: &mut Subject, packet: &Packet) -> Result<()> {
    subject.prepare(packet)?;
    let answer = subject.run(packet, 1)?;
    let does = (subject.does)(packet);
    let length = packet.frame.len() as u32 + does.grows;
    if (answer.verdict, answer.length) != (does.verdict, length) {
        bail!(
            "{} in row {}: verdict {} and {} bytes, verdict {} and {length} bytes expected",
            subject.name,
            packet.name,
            answer.verdict,
            answer.length,
            does.verdict,
        );
    }
    let warm = subject.run(packet, (packet.flows * 2).clamp(200_000, 4 << 20))?;
    if warm.verdict != does.verdict {
        bail!("{} in row {}: verdict {} once warm", subject.name, packet.name, warm.verdict);
    }
    Ok(())
}
