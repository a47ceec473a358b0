//! A program under test behind its own harness.

use super::packets::Packet;
use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use std::any::Any;

/// Bytes of the harness's plan: six numbers, 64 bytes of headers.
const PLAN: usize = 24 + 64;
/// Odd, so that every flow is visited; scattered, so that the prefetcher does not guess.
const STRIDE: u32 = 0x9e37_79b1;
/// Room for the frame after encapsulation.
const ROOM: usize = 2048;

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// What a subject must do with a row, lest one be measured that does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Does {
    /// XDP verdict.
    pub verdict: u32,
    /// Bytes put before the packet.
    pub grows: u32,
}

impl Does {
    /// Sends it as it is long: the floors.
    pub fn send(_packet: &Packet) -> Does {
        Does { verdict: XDP_TX, grows: 0 }
    }

    /// Sends what is for a VIP as it is long and passes up the rest: direct return.
    pub fn direct(packet: &Packet) -> Does {
        Does { grows: 0, ..Does::balance(packet) }
    }

    /// Encapsulates what is for a VIP and passes up the rest: the balancers.
    pub fn balance(packet: &Packet) -> Does {
        match (packet.to_vip, packet.v6) {
            (true, _) if !packet.grows => Does::send(packet),
            (false, _) => Does { verdict: XDP_PASS, grows: 0 },
            (true, false) => Does { verdict: XDP_TX, grows: 20 },
            (true, true) => Does { verdict: XDP_TX, grows: 40 },
        }
    }
}

/// A program ready to be measured.
pub struct Subject {
    /// Name in the rows.
    pub name: String,
    /// Rows it takes part in.
    pub takes: fn(&Packet) -> bool,
    /// What it must do with a row.
    pub does: fn(&Packet) -> Does,
    harness: Ebpf,
    plan: Array<MapData, [u8; PLAN]>,
    _targets: ProgramArray<MapData>,
    _keep: Box<dyn Any>,
}

/// One answer of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Nanoseconds per packet, harness included.
    pub ns: f64,
    /// XDP verdict of the last repetition.
    pub verdict: u32,
    /// Length of the frame after it.
    pub length: u32,
}

impl Subject {
    /// A floor program of the harness's own object; `lru_entries` sizes its LRU table.
    pub fn floor(
        name: &str,
        program: &'static str,
        lru_entries: u32,
        takes: fn(&Packet) -> bool,
        does: fn(&Packet) -> Does,
    ) -> Result<Self> {
        let mut harness = load(lru_entries)?;
        let target = xdp(&mut harness, program)?;
        target.load().with_context(|| format!("load {program}"))?;
        let fd = target.fd()?.try_clone()?;
        fill_ring(&mut harness)?;
        Self::assemble(name, harness, &fd, Box::new(()), takes, does)
    }

    /// Any loaded program; `keep` holds its maps.
    pub fn program(
        name: &str,
        fd: &ProgramFd,
        keep: Box<dyn Any>,
        takes: fn(&Packet) -> bool,
        does: fn(&Packet) -> Does,
    ) -> Result<Self> {
        Self::assemble(name, load(1)?, fd, keep, takes, does)
    }

    fn assemble(
        name: &str,
        mut harness: Ebpf,
        target: &ProgramFd,
        keep: Box<dyn Any>,
        takes: fn(&Packet) -> bool,
        does: fn(&Packet) -> Does,
    ) -> Result<Self> {
        xdp(&mut harness, "harness")?.load().context("load the harness")?;
        let mut targets = ProgramArray::try_from(harness.take_map("TARGET").context("no map TARGET")?)?;
        targets.set(0, target, 0).context("put the program behind the harness")?;
        let plan = Array::try_from(harness.take_map("PLAN").context("no map PLAN")?)?;
        Ok(Subject { name: name.to_owned(), takes, does, harness, plan, _targets: targets, _keep: keep })
    }

    /// Sets the row.
    pub fn prepare(&mut self, packet: &Packet) -> Result<()> {
        if !packet.flows.is_power_of_two() || packet.frame.len() < 64 {
            bail!("row {} does not fit the harness", packet.name);
        }
        let mut plan = [0u8; PLAN];
        let words =
            [packet.flows - 1, STRIDE, 0, packet.frame.len() as u32, u32::from(packet.v6), packet.vips];
        for (place, word) in plan.chunks_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        plan[24..].copy_from_slice(&packet.frame[..64]);
        self.plan.set(0, plan, 0).context("write PLAN")
    }

    /// Runs the row `repeat` times.
    pub fn run(&self, packet: &Packet, repeat: u32) -> Result<Answer> {
        let program: &Xdp = self.harness.program("harness").context("no harness")?.try_into()?;
        let mut out = vec![0; ROOM];
        let result = program.test_run(TestRunOptions {
            data_in: Some(&packet.frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok(Answer {
            ns: result.duration.as_nanos() as f64,
            verdict: result.return_value,
            length: result.data_size_out,
        })
    }
}

/// The harness's object, its LRU table of `lru_entries`.
pub fn load(lru_entries: u32) -> Result<Ebpf> {
    EbpfLoader::new()
        .map_max_entries("LRU", lru_entries)
        .load(sluice_loader::object::BENCH)
        .context("load the harness object")
}

/// A program of an object by name.
pub fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn fill_ring(harness: &mut Ebpf) -> Result<()> {
    let mut ring: Array<_, u64> = Array::try_from(harness.map_mut("RING").context("no map RING")?)?;
    for slot in 0..sluice_abi::SLOTS {
        ring.set(slot, u64::from_le_bytes([2, 0, 0, 0, 1, (slot % 100) as u8, 2, 0]), 0)?;
    }
    Ok(())
}
