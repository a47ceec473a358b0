//! Rounds and rows.

use super::packets::{Packet, packets};
use super::subject::{Does, Subject};
use super::{katran, ours};
use crate::suite::row::{Better, Case, Row};
use anyhow::{Context as _, Result, bail};
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
    let steady = ours::balancer(false)?;
    let fd = steady.program()?.fd()?.try_clone()?;
    subjects.push(Subject::program(SLUICE, &fd, Box::new(steady), all, Does::balance)?);
    let window = ours::balancer(true)?;
    let fd = window.program()?.fd()?.try_clone()?;
    let during: fn(&Packet) -> bool = |p| p.name.starts_with("v4 TCP,") && p.flows != 1 << 10;
    subjects.push(Subject::program("sluice, window open", &fd, Box::new(window), during, Does::balance)?);
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
    let mut subjects = subjects(options)?;
    let mut rows = Vec::new();
    for packet in packets() {
        if options.only.as_ref().is_some_and(|only| !packet.name.contains(only.as_str())) {
            continue;
        }
        let case = measure(&mut subjects, &packet, options)?;
        let bases: &[&str] = if packet.syn { &[KATRAN_NORATE, KATRAN, LRU] } else { &[KATRAN, LRU, SLUICE] };
        for row in case.rows(GROUP, bases) {
            say(&format!(
                "{:24} {:22} {:8.1} ns   base {:18} {:8.1}   ratio {:.3}",
                row.case, row.subject, row.value, row.base, row.base_value, row.ratio
            ));
            rows.push(row);
        }
    }
    Ok(rows)
}

fn measure(subjects: &mut [Subject], packet: &Packet, options: &Options) -> Result<Case> {
    let mut case = Case::new(packet.name, UNIT, Better::Lower);
    let mut taking: Vec<&mut Subject> = subjects.iter_mut().filter(|s| (s.takes)(packet)).collect();
    for subject in &mut taking {
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
        // Every flow of the row is seen twice before it counts, but for the row of ever new flows.
        let warm = (packet.flows * 2).clamp(200_000, 4 << 20);
        let warm = subject.run(packet, warm)?;
        if warm.verdict != does.verdict {
            bail!("{} in row {}: verdict {} once warm", subject.name, packet.name, warm.verdict);
        }
    }
    for _ in 0..options.rounds {
        let null = taking[0].run(packet, options.repeat)?.ns;
        for subject in &taking[1..] {
            let answer = subject.run(packet, options.repeat)?;
            case.push(&subject.name, answer.ns - null);
        }
    }
    Ok(case)
}
