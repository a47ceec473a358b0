//! The balancer as its owner sees it: one handle on the pinned maps and links.
//!
//! A [`Balancer`] is used from one thread (`&mut self` for every change) and holds no state of its own: what is
//! in the maps is what there is, so a process that dies and one that adopts see the same.

use crate::error::{Error, Result, map_error};
use crate::kernel::delete::delete;
use crate::kernel::ifaces;
use crate::kernel::shared::Shared;
use crate::kernel::values::{Table, Val};
use crate::types::{Adopted, Config, Link};
use crate::vips::{VipTable, bucket_words, row_words};
use crate::{attach, bpffs, object};
use aya::maps::{Array, ArrayOfMaps, DevMapHash, HashMap, Map, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use sluice_abi::layout::{AddrValue, DropCounts, EventCounts, META_MAGIC, Meta, Traffic, map};
use sluice_abi::nat::{NatFlow, NatKey, NatSources};
use sluice_abi::vips::buckets;
use sluice_abi::{ABI_VERSION, BACKEND_ID_MAX, BUCKET_ENTRIES, FLOW_BUCKETS_MAX, SLOTS, icmp};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64};

const PINNED: [&str; 13] = [
    map::VIP_BUCKETS,
    map::VIP_ROWS,
    map::ADDRS,
    map::TABLES,
    map::BACKENDS,
    map::FLOWS,
    map::DEVS,
    map::DROPS,
    map::TRAFFIC,
    map::EVENTS,
    map::META,
    map::NAT_FLOWS,
    map::NAT_SOURCES,
];

const L4_PROGRAM: &str = "sluice_l4";

/// Constant of the program: number of flow buckets minus one.
const FLOW_MASK: &str = "FLOW_MASK";

/// Constant of the program: number of buckets of the VIP table minus one.
const VIP_MASK: &str = "VIP_BUCKET_MASK";

/// Words of a backend row.
pub(crate) const ROW_WORDS: usize = 8;

pub(crate) type Slots = Array<MapData, Table>;

/// Handle on a balancer's maps and program.
pub struct Balancer {
    pub(crate) config: Config,
    pub(crate) ebpf: Ebpf,
    pub(crate) vips: VipTable,
    pub(crate) addrs: HashMap<MapData, [u8; 16], Val<AddrValue>>,
    /// For putting tables in.
    pub(crate) tables: ArrayOfMaps<MapData, Slots>,
    /// The same map, for taking tables out.
    tables_out: ArrayOfMaps<MapData, MapData>,
    /// The same map, for deleting.
    tables_fd: MapData,
    pub(crate) devs: DevMapHash<MapData>,
    pub(crate) drops: PerCpuArray<MapData, Val<DropCounts>>,
    pub(crate) traffic: PerCpuArray<MapData, Val<Traffic>>,
    pub(crate) events: PerCpuArray<MapData, Val<EventCounts>>,
    pub(crate) meta: Array<MapData, Val<Meta>>,
    pub(crate) nat_flows: HashMap<MapData, Val<NatKey>, Val<NatFlow>>,
    pub(crate) nat_sources: HashMap<MapData, u32, Val<NatSources>>,
    /// Rows of [`ROW_WORDS`] words.
    pub(crate) backends: Shared<AtomicU64>,
    /// Buckets of [`BUCKET_ENTRIES`] words.
    pub(crate) flows: Shared<AtomicU64>,
    /// Slots by VIP id, mapped when first needed.
    pub(crate) slots: BTreeMap<u32, Shared<AtomicU32>>,
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Balancer {
    /// Makes the balancer, or takes over the one whose pins are in `config.pin_dir`: its VIPs, backends, slots,
    /// flows and counters stay, and its program is replaced by this build's in one step on each interface.
    ///
    /// Sizes in `config` are used only when the maps are made; adopted maps keep theirs.
    pub fn open_or_adopt(config: &Config) -> Result<(Balancer, Adopted)> {
        check(config)?;
        for iface in &config.ifaces {
            ifaces::iface(iface)?;
        }
        bpffs::prepare(&config.pin_dir)?;
        let maps = bpffs::sub(&config.pin_dir, "maps")?;
        let links = bpffs::sub(&config.pin_dir, "links")?;
        let found = pinned_meta(&maps)?;
        let mut balancer = Self::load(config, Some(&maps), found)?;
        let mut adopted = Adopted { maps: found.is_some(), links: Vec::new() };
        for iface in &config.ifaces {
            // Replies of NAT flows leave by the interface their client's packets came in on.
            let ifindex = ifaces::iface(iface)?.ifindex;
            balancer.devs.insert(ifindex, ifindex, None, 0).map_err(map_error("write", map::DEVS))?;
            if attach::attach(crate::xdp_mut(&mut balancer.ebpf, L4_PROGRAM)?, &links, iface, config.mode)? {
                adopted.links.push(iface.clone());
            }
        }
        Ok((balancer, adopted))
    }

    /// Loads maps and program for this process only: nothing pinned, nothing attached. For tests and for
    /// measuring with BPF_PROG_TEST_RUN; everything goes when the handle does.
    pub fn open_detached(config: &Config) -> Result<Balancer> {
        check(config)?;
        Self::load(config, None, None)
    }

    fn load(config: &Config, pins: Option<&Path>, found: Option<Meta>) -> Result<Balancer> {
        let meta = found.unwrap_or(Meta {
            magic: META_MAGIC,
            abi_version: ABI_VERSION,
            flow_buckets: config.flow_buckets,
            vips: config.vips,
            backends: config.backends,
            idle_units: 0,
            secret: config.secret,
            ..Meta::default()
        });
        let interval = icmp::interval_ns(config.icmp_per_second);
        let mut loader = EbpfLoader::new();
        loader.override_global(icmp::INTERVAL_SYMBOL, &interval, true);
        for name in [map::VIP_ROWS, map::ADDRS, map::TABLES, map::DROPS, map::NAT_SOURCES] {
            loader.map_max_entries(name, meta.vips);
        }
        for name in [map::BACKENDS, map::TRAFFIC] {
            loader.map_max_entries(name, meta.backends);
        }
        loader.map_max_entries(map::FLOWS, meta.flow_buckets);
        loader.map_max_entries(map::NAT_FLOWS, 2 * config.nat_flows);
        let mask = meta.flow_buckets - 1;
        loader.override_global(FLOW_MASK, &mask, true);
        let vip_buckets = buckets(meta.vips);
        let vip_mask = vip_buckets - 1;
        loader.override_global(VIP_MASK, &vip_mask, true);
        loader.map_max_entries(map::VIP_BUCKETS, vip_buckets);
        if let Some(pins) = pins {
            for name in PINNED {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let mut ebpf =
            loader.load(object::L4).map_err(|e| Error::Load { program: "l4.bpf.o", source: Box::new(e) })?;
        crate::xdp_mut(&mut ebpf, L4_PROGRAM)?
            .load()
            .map_err(|e| Error::Load { program: L4_PROGRAM, source: Box::new(e) })?;
        let mut balancer = Self::take(config, ebpf, meta)?;
        if found.is_none() {
            // Last: a directory with this row is a complete one.
            balancer.meta.set(0, Val(meta), 0).map_err(map_error("write", map::META))?;
        }
        Ok(balancer)
    }

    fn take(config: &Config, mut ebpf: Ebpf, meta: Meta) -> Result<Balancer> {
        let e = &mut ebpf;
        let backends = Shared::map(data(e, map::BACKENDS)?.fd(), meta.backends as usize * ROW_WORDS)
            .map_err(map_error("map into memory", map::BACKENDS))?;
        let flows = Shared::map(data(e, map::FLOWS)?.fd(), meta.flow_buckets as usize * BUCKET_ENTRIES)
            .map_err(map_error("map into memory", map::FLOWS))?;
        let vip_buckets = Shared::map(data(e, map::VIP_BUCKETS)?.fd(), bucket_words(meta.vips))
            .map_err(map_error("map into memory", map::VIP_BUCKETS))?;
        let vip_rows = Shared::map(data(e, map::VIP_ROWS)?.fd(), row_words(meta.vips))
            .map_err(map_error("map into memory", map::VIP_ROWS))?;
        let vips = VipTable::new(vip_buckets, vip_rows);
        let tables_id = data(e, map::TABLES)?.info().map_err(map_error("open", map::TABLES))?.id();
        let tables_fd = MapData::from_id(tables_id).map_err(map_error("open", map::TABLES))?;
        let tables_out = MapData::from_id(tables_id)
            .and_then(Map::from_map_data)
            .and_then(ArrayOfMaps::try_from)
            .map_err(map_error("open", map::TABLES))?;
        Ok(Balancer {
            config: Config {
                flow_buckets: meta.flow_buckets,
                vips: meta.vips,
                backends: meta.backends,
                secret: meta.secret,
                ..config.clone()
            },
            vips,
            addrs: typed(e, map::ADDRS)?,
            tables: typed(e, map::TABLES)?,
            tables_out,
            tables_fd,
            devs: typed(e, map::DEVS)?,
            drops: typed(e, map::DROPS)?,
            traffic: typed(e, map::TRAFFIC)?,
            events: typed(e, map::EVENTS)?,
            meta: typed(e, map::META)?,
            nat_flows: typed(e, map::NAT_FLOWS)?,
            nat_sources: typed(e, map::NAT_SOURCES)?,
            backends,
            flows,
            slots: BTreeMap::new(),
            ebpf,
        })
    }

    /// Configuration in effect; after adoption with the sizes and the secret of the adopted maps.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Index, MAC and MTU of `iface`, towards a next hop.
    pub fn link(iface: &str, dst_mac: [u8; 6]) -> Result<Link> {
        let known = ifaces::iface(iface)?;
        let mtu = known.mtu.min(u32::from(u16::MAX)) as u16;
        Ok(Link { ifindex: known.ifindex, dst_mac, src_mac: known.mac, mtu })
    }

    /// Runs the loaded program once over a frame (BPF_PROG_TEST_RUN): verdict and frame after it.
    pub fn test_run(&self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        crate::test_run(self.program()?, frame)
    }

    /// The loaded program, for the measurer's tail call.
    pub fn program(&self) -> Result<&Xdp> {
        crate::xdp(&self.ebpf, L4_PROGRAM)
    }

    /// Slots of a VIP as shared memory.
    pub(crate) fn slots_of(&mut self, id: u32) -> Result<&[AtomicU32]> {
        if !self.slots.contains_key(&id) {
            let slots = self.map_slots(id)?;
            self.slots.insert(id, slots);
        }
        Ok(self.slots[&id].words())
    }

    /// Takes a VIP's table away.
    pub(crate) fn drop_table(&mut self, id: u32) -> Result<()> {
        self.slots.remove(&id);
        delete(self.tables_fd.fd().as_fd(), id).map_err(map_error("write", map::TABLES))
    }

    /// A mapping of a VIP's slots.
    pub(crate) fn map_slots(&self, id: u32) -> Result<Shared<AtomicU32>> {
        let table = self.tables_out.get(&id, 0).map_err(map_error("open", map::TABLES))?;
        Shared::map(table.fd(), SLOTS as usize).map_err(map_error("map into memory", map::TABLES))
    }

    /// Detaches from every interface, removes every pin, unmounts the bpffs if it was mounted at the pin
    /// directory. With no process holding a handle the kernel then frees maps and program.
    pub fn detach_and_unpin(self) -> Result<()> {
        let dir = self.config.pin_dir.clone();
        drop(self);
        remove_pins(&dir)
    }
}

/// Removes links and maps pinned under `dir` by any version, without opening them: the way out when
/// [`Balancer::open_or_adopt`] refuses a layout. Absent is fine.
pub fn remove_pins(dir: &Path) -> Result<()> {
    bpffs::clear(&dir.join("links"))?;
    bpffs::clear(&dir.join("maps"))?;
    bpffs::release(dir)
}

fn check(config: &Config) -> Result<()> {
    let range = |what, value: u32, good: bool| {
        if good { Ok(()) } else { Err(Error::OutOfRange { what, value: value.to_string() }) }
    };
    let buckets = config.flow_buckets;
    range("flow_buckets", buckets, buckets.is_power_of_two() && buckets <= FLOW_BUCKETS_MAX)?;
    range("nat_flows", config.nat_flows, (1..=1 << 26).contains(&config.nat_flows))?;
    range("vips", config.vips, (2..=1 << 20).contains(&config.vips))?;
    range("backends", config.backends, (2..=u32::from(BACKEND_ID_MAX) + 1).contains(&config.backends))
}

/// What the pinned maps say of themselves; `None` when there are none.
fn pinned_meta(maps: &Path) -> Result<Option<Meta>> {
    let pin = maps.join(map::META);
    let refuse = |why: String| Error::Layout { path: maps.to_path_buf(), why };
    let present = PINNED.iter().filter(|name| maps.join(name).exists()).count();
    if present == 0 {
        return Ok(None);
    }
    let data = MapData::from_pin(&pin).map_err(|e| refuse(format!("{present} maps but no META: {e}")))?;
    let meta: Array<MapData, Val<Meta>> = Map::from_map_data(data)
        .and_then(Array::try_from)
        .map_err(|e| refuse(format!("META has another shape: {e}")))?;
    let Val(meta) = meta.get(&0, 0).map_err(map_error("read", map::META))?;
    if meta.magic == 0 {
        // A loader died between making the maps and writing this row: nothing was ever forwarded by them.
        bpffs::clear(maps)?;
        bpffs::sub(maps.parent().unwrap_or(maps), "maps")?;
        return Ok(None);
    }
    if meta.magic != META_MAGIC || meta.abi_version != ABI_VERSION {
        return Err(refuse(format!("layout version {}, ours is {ABI_VERSION}", meta.abi_version)));
    }
    if present != PINNED.len() {
        return Err(refuse(format!("{present} of {} maps are there", PINNED.len())));
    }
    Ok(Some(meta))
}

/// The untyped handle of a map in `ebpf`.
fn data<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData> {
    match ebpf.map(name) {
        Some(Map::Array(data) | Map::ArrayOfMaps(data)) => Ok(data),
        _ => Err(Error::Map {
            operation: "find",
            map: name,
            source: "not in the object, or not an array".into(),
        }),
    }
}

pub(crate) fn typed<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let map = ebpf.take_map(name).ok_or_else(|| Error::Map {
        operation: "find",
        map: name,
        source: "not in the object".into(),
    })?;
    M::try_from(map).map_err(map_error("open", name))
}
