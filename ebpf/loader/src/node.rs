//! The node's side: decapsulation of what balancers send.

use crate::balancer::typed;
use crate::error::{Error, Result, map_error};
use crate::kernel::values::Val;
use crate::tables::{addr_bytes, is_not_found};
use crate::types::AttachMode;
use crate::{attach, bpffs, object, test_run, xdp, xdp_mut};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use sluice_abi::layout::{DropCounts, EventCounts, PORT_WORDS, decap_flag, map};
use sluice_abi::reason::{DROP_REASONS, DropReason, EVENTS, Event};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

const DECAP: &str = "sluice_decap";
const PINNED: [&str; 5] = [map::DECAP_OUTER, map::DECAP_INNER, map::DECAP_PORTS, map::DROPS, map::EVENTS];

/// What a machine takes off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecapSpec {
    /// Outer destinations of IP in IP.
    pub ipip: BTreeSet<IpAddr>,
    /// Outer destinations of GUE.
    pub gue: BTreeSet<IpAddr>,
    /// UDP destination ports of GUE.
    pub gue_ports: BTreeSet<u16>,
    /// Inner destinations: the VIPs. Anything else inside is refused.
    pub inner: BTreeSet<IpAddr>,
}

/// The maps behind a [`DecapSpec`].
pub(crate) struct DecapMaps {
    outer: HashMap<MapData, [u8; 16], u32>,
    inner: HashMap<MapData, [u8; 16], u32>,
    ports: Array<MapData, u64>,
}

impl DecapMaps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(DecapMaps {
            outer: typed(ebpf, map::DECAP_OUTER)?,
            inner: typed(ebpf, map::DECAP_INNER)?,
            ports: typed(ebpf, map::DECAP_PORTS)?,
        })
    }

    /// Makes the maps say what `spec` does: new rows are in before old ones go, and no outer address is listed
    /// before what may be inside.
    pub(crate) fn set(&mut self, spec: &DecapSpec) -> Result<()> {
        let inner: BTreeMap<[u8; 16], u32> = spec.inner.iter().map(|a| (addr_bytes(*a), 1)).collect();
        replace(&mut self.inner, map::DECAP_INNER, &inner)?;
        let mut words = vec![0u64; PORT_WORDS];
        for port in &spec.gue_ports {
            words[usize::from(*port) / 64] |= 1 << (port % 64);
        }
        for (at, word) in (0u32..).zip(words) {
            if self.ports.get(&at, 0).map_err(map_error("read", map::DECAP_PORTS))? != word {
                self.ports.set(at, word, 0).map_err(map_error("write", map::DECAP_PORTS))?;
            }
        }
        let mut outer: BTreeMap<[u8; 16], u32> = BTreeMap::new();
        for (addrs, flag) in [(&spec.ipip, decap_flag::IPIP), (&spec.gue, decap_flag::GUE)] {
            for addr in addrs {
                *outer.entry(addr_bytes(*addr)).or_default() |= flag;
            }
        }
        replace(&mut self.outer, map::DECAP_OUTER, &outer)
    }
}

/// How to make a node's side.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Directory of pins, on a bpffs; mounted there when it is not one. May be the balancer's.
    pub pin_dir: PathBuf,
    /// Interfaces packets arrive on.
    pub ifaces: Vec<String>,
    /// Attach mode of all of them.
    pub mode: AttachMode,
}

/// Handle on a node's maps and program.
pub struct Node {
    config: NodeConfig,
    ebpf: Ebpf,
    decap: DecapMaps,
    drops: PerCpuArray<MapData, Val<DropCounts>>,
    events: PerCpuArray<MapData, Val<EventCounts>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Node {
    /// Attaches the decapsulating program, or takes over the one that is there with its addresses. Returns the
    /// interfaces that were attached already.
    ///
    /// The program passes what is not for it, so it also serves as the XDP program a veth needs at the peer of
    /// a balancer that sends with XDP_TX.
    pub fn open_or_adopt(config: &NodeConfig) -> Result<(Node, Vec<String>)> {
        bpffs::prepare(&config.pin_dir)?;
        let dir = bpffs::sub(&config.pin_dir, "node")?;
        let maps = bpffs::sub(&dir, &format!("maps-v{}", sluice_abi::ABI_VERSION))?;
        let links = bpffs::sub(&dir, "links")?;
        let mut node = Self::load(config, Some(&maps))?;
        let mut adopted = Vec::new();
        for iface in &config.ifaces {
            if attach::attach(xdp_mut(&mut node.ebpf, DECAP)?, &links, iface, config.mode)? {
                adopted.push(iface.clone());
            }
        }
        Ok((node, adopted))
    }

    /// For this process only: nothing pinned, nothing attached.
    pub fn open_detached() -> Result<Node> {
        let config = NodeConfig { pin_dir: PathBuf::new(), ifaces: Vec::new(), mode: AttachMode::Native };
        Self::load(&config, None)
    }

    fn load(config: &NodeConfig, pins: Option<&Path>) -> Result<Node> {
        let mut loader = EbpfLoader::new();
        if let Some(pins) = pins {
            for name in PINNED {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let mut ebpf = loader
            .load(object::NODE)
            .map_err(|e| Error::Load { program: "node.bpf.o", source: Box::new(e) })?;
        xdp_mut(&mut ebpf, DECAP)?.load().map_err(|e| Error::Load { program: DECAP, source: Box::new(e) })?;
        Ok(Node {
            config: config.clone(),
            decap: DecapMaps::take(&mut ebpf)?,
            drops: typed(&mut ebpf, map::DROPS)?,
            events: typed(&mut ebpf, map::EVENTS)?,
            ebpf,
        })
    }

    /// Says what is taken off, in place of what was said before.
    pub fn set_local(&mut self, spec: &DecapSpec) -> Result<()> {
        self.decap.set(spec)
    }

    /// Drops by reason and events, zeros left out.
    pub fn counters(&self) -> Result<(BTreeMap<DropReason, u64>, BTreeMap<Event, u64>)> {
        let drops = self.drops.get(&0, 0).map_err(map_error("read", map::DROPS))?;
        let events = self.events.get(&0, 0).map_err(map_error("read", map::EVENTS))?;
        let sum = |n| drops.iter().map(|c| c.0.packets[n]).sum::<u64>();
        let drops =
            (0..DROP_REASONS).filter_map(|n| Some((DropReason::from_number(n)?, sum(n)))).filter(|d| d.1 > 0);
        let sum = |n| events.iter().map(|c| c.0.packets[n]).sum::<u64>();
        let events = (0..EVENTS).filter_map(|n| Some((Event::from_number(n)?, sum(n)))).filter(|e| e.1 > 0);
        Ok((drops.collect(), events.collect()))
    }

    /// Runs the loaded program once over a frame (BPF_PROG_TEST_RUN): verdict and frame after it.
    pub fn test_run(&self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        test_run(xdp(&self.ebpf, DECAP)?, frame)
    }

    /// Detaches, removes the node's pins, and the bpffs if it was mounted at the pin directory and is empty.
    pub fn detach_and_unpin(self) -> Result<()> {
        let dir = self.config.pin_dir.clone();
        drop(self);
        Self::remove_pins(&dir)
    }

    /// Removes a node's pins under `dir` without opening them. Absent is fine.
    pub fn remove_pins(dir: &Path) -> Result<()> {
        let node = dir.join("node");
        bpffs::clear(&node.join("links"))?;
        bpffs::clear(&node.join(format!("maps-v{}", sluice_abi::ABI_VERSION)))?;
        bpffs::clear(&node)?;
        bpffs::release(dir)
    }
}

fn replace(
    map: &mut HashMap<MapData, [u8; 16], u32>,
    name: &'static str,
    wanted: &BTreeMap<[u8; 16], u32>,
) -> Result<()> {
    for (addr, value) in wanted {
        map.insert(addr, value, 0).map_err(map_error("write", name))?;
    }
    let held: Vec<[u8; 16]> =
        map.keys().collect::<std::result::Result<_, MapError>>().map_err(map_error("read", name))?;
    for addr in held.iter().filter(|a| !wanted.contains_key(*a)) {
        match map.remove(addr) {
            Ok(()) => {}
            Err(e) if is_not_found(&e) => {}
            Err(e) => return Err(map_error("write", name)(e)),
        }
    }
    Ok(())
}
