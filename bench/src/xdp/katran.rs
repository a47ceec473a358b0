//! Fills the maps of Katran's own object (plain IPIP build), loaded unmodified from a path.
//!
//! Shapes are those of its public headers: `vip_definition` 20 bytes (address, port, protocol) to `vip_meta`
//! (flags, number), `ch_rings` of 65,537 places a VIP, `reals` of 20 bytes (address, flags; 1: IPv6), and one LRU
//! table of `flow_key` (40) to `real_pos_lru` (16) a processor.

use super::packets::{VIP4, VIP6};
use anyhow::{Context as _, Result};
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader};
use sluice_abi::hash::mix64;
use std::any::Any;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::Instant;

const PROGRAM: &str = "balancer_ingress";
const RING: u32 = 65_537;
const REALS: u32 = 100;
const REAL_IS_V6: u8 = 1;
/// `BPF_MAP_TYPE_LRU_HASH`.
const LRU_HASH: u32 = 9;
/// Entries of each processor's table: twice the largest row of established flows.
const LRU_ENTRIES: u32 = 2 << 20;

fn fill<const N: usize>(
    ebpf: &mut Ebpf,
    name: &str,
    rows: impl Iterator<Item = (u32, [u8; N])>,
) -> Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("not a Katran object: no map {name}"))?;
    let mut map: Array<_, [u8; N]> = Array::try_from(map)?;
    for (index, row) in rows {
        map.set(index, row, 0).with_context(|| format!("write {name}[{index}]"))?;
    }
    Ok(())
}

/// Loads and fills the object at `path`; `cpu` is the processor it will run on.
pub fn load(path: &Path, cpu: u32) -> Result<(ProgramFd, Box<dyn Any>)> {
    let mut ebpf = EbpfLoader::new().load_file(path).with_context(|| format!("load {}", path.display()))?;
    fill(&mut ebpf, "ctl_array", [(0, [0, 0, 0xde, 0xad, 0xbe, 0xaf, 0, 0])].into_iter())?;
    fill(&mut ebpf, "reals", (1..=REALS).flat_map(|n| [(n, real4(n as u8)), (n + REALS, real6(n as u8))]))?;
    let place = |vip: u32, slot: u32| {
        let real = (mix64(u64::from(slot) + (u64::from(vip) << 32)) % u64::from(REALS)) as u32 + 1;
        (vip * RING + slot, (real + if vip == 1 { REALS } else { 0 }).to_ne_bytes())
    };
    fill(&mut ebpf, "ch_rings", (0..2).flat_map(|vip| (0..RING).map(move |slot| place(vip, slot))))?;
    let mut source4 = [0; 20];
    source4[..4].copy_from_slice(&[10, 0, 13, 37]);
    if ebpf.map("pckt_srcs").is_some() {
        // Only builds for GUE have it; the plain build makes its outer source itself.
        fill(&mut ebpf, "pckt_srcs", [(0, source4), (1, real6(0x37))].into_iter())?;
    }

    let vips = ebpf.map_mut("vip_map").context("not a Katran object: no map vip_map")?;
    let mut vips: HashMap<_, [u8; 20], [u8; 8]> = HashMap::try_from(vips)?;
    for (addr, proto, number) in [
        (&VIP4.octets()[..], 6, 0u32),
        (&VIP4.octets()[..], 17, 0),
        (&VIP6.octets()[..], 6, 1),
        (&VIP6.octets()[..], 17, 1),
    ] {
        let mut key = [0; 20];
        key[..addr.len()].copy_from_slice(addr);
        key[16..19].copy_from_slice(&[0, 80, proto]);
        let mut meta = [0; 8];
        meta[4..].copy_from_slice(&number.to_ne_bytes());
        vips.insert(key, meta, 0).context("write vip_map")?;
    }
    let table = aya_obj::Map::new_from_params(LRU_HASH, 40, 16, LRU_ENTRIES, 0);
    let table = MapData::create(table, "katran_lru", None).context("make Katran's flow table")?;
    let table: HashMap<MapData, [u8; 40], [u8; 16]> = HashMap::try_from(Map::from_map_data(table)?)?;
    let tables = ebpf.map_mut("lru_mapping").context("not a Katran object: no map lru_mapping")?;
    let mut tables: ArrayOfMaps<_, HashMap<MapData, [u8; 40], [u8; 16]>> = ArrayOfMaps::try_from(tables)?;
    tables.set(cpu, &table, 0).context("write lru_mapping")?;

    let program: &mut Xdp = ebpf.program_mut(PROGRAM).context("no program balancer_ingress")?.try_into()?;
    program.load().context("load balancer_ingress")?;
    let fd = program.fd()?.try_clone()?;
    Ok((fd, Box::new((ebpf, table))))
}

/// What the kernel says of a load of the object.
pub struct Loaded {
    /// Maps made, program verified and compiled, ms.
    pub milliseconds: f64,
    /// Instructions that the verifier went through.
    pub instructions: u32,
}

/// Loads the object at `path` and lets it go.
pub fn time_of_load(path: &Path) -> Result<Loaded> {
    let started = Instant::now();
    let mut ebpf = EbpfLoader::new().load_file(path).with_context(|| format!("load {}", path.display()))?;
    let program: &mut Xdp = ebpf.program_mut(PROGRAM).context("no program balancer_ingress")?.try_into()?;
    program.load().context("load balancer_ingress")?;
    let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
    Ok(Loaded { milliseconds, instructions: program.info()?.verified_instruction_count().unwrap_or(0) })
}

/// Kernel memory of one place of a flow table of Katran's shape.
pub fn bytes_of_a_flow() -> Result<f64> {
    let table =
        MapData::create(aya_obj::Map::new_from_params(LRU_HASH, 40, 16, LRU_ENTRIES, 0), "katran_lru", None);
    let table = table.context("make Katran's flow table")?;
    let path = format!("/proc/self/fdinfo/{}", table.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("memlock:")).context("no memlock")?;
    let bytes: f64 = line.trim().parse().context("memlock")?;
    Ok(bytes / f64::from(LRU_ENTRIES))
}

fn real4(n: u8) -> [u8; 20] {
    let mut row = [0; 20];
    row[..4].copy_from_slice(&[10, 0, 0, n]);
    row
}

fn real6(n: u8) -> [u8; 20] {
    let mut row = [0; 20];
    (row[0], row[15], row[16]) = (0xfc, n, REAL_IS_V6);
    row
}
