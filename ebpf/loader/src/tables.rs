//! Changes to VIPs, backends and slots.
//!
//! Order keeps every packet in a whole world: a VIP's table is filled before the VIP is named, a backend's row is
//! whole before its flags say so, and a removed VIP is unnamed before its table goes.

use crate::balancer::{Balancer, ROW_WORDS, Slots};
use crate::error::{Error, Result, map_error};
use crate::kernel::values::{Val, backend_row, backend_words};
use crate::types::{BackendSpec, Mode, VipKey, VipSpec};
use aya::maps::{MapError, PerCpuValues};
use sluice_abi::SLOTS;
use sluice_abi::flow::idle_units;
use sluice_abi::hash::vip_seed;
use sluice_abi::layout::{
    AddrValue, BackendValue, DropCounts, OUTER_TTL, Traffic, VipValue, backend_flag, map, proto, vip_flag,
};
use sluice_abi::slot::Slot;
use sluice_abi::sum::outer4_base;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Longest `flow_idle_ms`: what the flow clock can tell.
const FLOW_IDLE_MAX_MS: u32 = 24 * 3600 * 1000;

impl Balancer {
    /// Adds or replaces a VIP, with its slots given whole. A local VIP takes none.
    pub fn set_vip(&mut self, spec: &VipSpec, slots: &[Slot]) -> Result<()> {
        if slots.len() != self.slots_wanted(spec.mode) {
            return Err(out_of_range("number of slots", slots.len()));
        }
        let id = self.place(spec)?;
        if spec.mode != Mode::Local {
            for (word, slot) in self.slots_of(id)?.iter().zip(slots) {
                word.store(slot.0, Ordering::Release);
            }
        }
        self.name_vip(spec, id)
    }

    /// Adds a VIP, or gives the slots of one to `owners`: the one call for every change of a table. Slots that
    /// change owner open their window ([`Slot::next`]); a new VIP starts settled.
    pub fn set_owners(&mut self, spec: &VipSpec, owners: &[u16]) -> Result<u32> {
        if owners.len() != self.slots_wanted(spec.mode) {
            return Err(out_of_range("number of owners", owners.len()));
        }
        let id = self.place(spec)?;
        let mut changed = 0;
        if spec.mode != Mode::Local {
            for (word, &owner) in self.slots_of(id)?.iter().zip(owners) {
                let old = Slot(word.load(Ordering::Acquire));
                let new = old.next(owner);
                if new != old {
                    word.store(new.0, Ordering::Release);
                    changed += 1;
                }
            }
        }
        self.name_vip(spec, id)?;
        Ok(changed)
    }

    /// Removes a VIP: from the next packet on its traffic is passed up. Absent is fine.
    pub fn remove_vip(&mut self, key: &VipKey) -> Result<()> {
        let Some(row) = self.vips.get(key) else { return Ok(()) };
        self.vips.unname(key);
        self.slots.remove(&row.id);
        if row.mode != Mode::Local.number() {
            // The kernel waits here until no packet that found the table is under way.
            self.drop_table(row.id)?;
        }
        self.put_nat_sources(row.id, Mode::Local)?;
        self.vips.clear(row.id);
        self.refresh_addr(key.addr)?;
        self.refresh_features()?;
        self.refresh_idle()
    }

    /// Ends the window of a VIP: its slots ask the flow table only for exceptions from now on, and
    /// [`Balancer::sweep`] settles them as those end. Call it `flow_idle_ms` after the last change.
    pub fn close_window(&mut self, key: &VipKey) -> Result<u32> {
        let row = self.vips.get(key).ok_or(Error::NoVip(*key))?;
        if row.mode == Mode::Local.number() {
            return Ok(0);
        }
        let mut closed = 0;
        for word in self.slots_of(row.id)? {
            let old = Slot(word.load(Ordering::Acquire));
            if old.window_open() {
                word.store(old.closed().0, Ordering::Release);
                closed += 1;
            }
        }
        Ok(closed)
    }

    /// Adds or replaces a backend.
    pub fn set_backend(&mut self, spec: &BackendSpec) -> Result<()> {
        let id = spec.id;
        let row = self.backend_value(spec);
        if let Some(link) = spec.link {
            self.devs.insert(link.ifindex, link.ifindex, None, 0).map_err(map_error("write", map::DEVS))?;
        }
        let fresh = Val::<BackendValue>::default();
        let place = self.backend_place(id)?;
        let was = backend_row(std::array::from_fn(|i| place[i].load(Ordering::Acquire)));
        if was == fresh.0 {
            self.zero_traffic(id)?;
        }
        let place = self.backend_place(id)?;
        let words = backend_words(row);
        // The word with the flags last, so that a new row is whole before it is present.
        for i in (0..ROW_WORDS).filter(|&i| i != FLAGS_WORD).chain([FLAGS_WORD]) {
            place[i].store(words[i], Ordering::Release);
        }
        Ok(())
    }

    /// Takes a backend's row away; flows and slots that still name it count as `flow_rehomed` or `no_backend`.
    /// Absent is fine.
    pub fn remove_backend(&mut self, id: u16) -> Result<()> {
        let place = self.backend_place(id)?;
        for i in [FLAGS_WORD].into_iter().chain((0..ROW_WORDS).filter(|&i| i != FLAGS_WORD)) {
            place[i].store(0, Ordering::Release);
        }
        Ok(())
    }

    fn slots_wanted(&self, mode: Mode) -> usize {
        if mode == Mode::Local { 0 } else { SLOTS as usize }
    }

    pub(crate) fn backend_place(&self, id: u16) -> Result<&[AtomicU64]> {
        let at = usize::from(id) * ROW_WORDS;
        match self.backends.words().get(at..at + ROW_WORDS) {
            Some(place) if id != 0 => Ok(place),
            _ => Err(out_of_range("backend id", id)),
        }
    }

    fn backend_value(&self, spec: &BackendSpec) -> BackendValue {
        let mut row = BackendValue { flags: backend_flag::PRESENT, ..BackendValue::default() };
        if spec.alive {
            row.flags |= backend_flag::ALIVE;
        }
        if let Some(link) = spec.link {
            row.flags |= backend_flag::HAS_LINK;
            (row.dst_mac, row.src_mac, row.mtu, row.ifindex) =
                (link.dst_mac, link.src_mac, link.mtu, link.ifindex);
        }
        if let Some(addr) = spec.addr4 {
            row.flags |= backend_flag::HAS_V4;
            row.addr4 = addr.octets();
            row.outer_src4 = self.config.outer_src4.octets();
            row.outer4_sum = outer4_base(&row.outer_src4, &row.addr4, OUTER_TTL, proto::IPIP);
        }
        if let Some(addr) = spec.addr6 {
            row.flags |= backend_flag::HAS_V6;
            row.addr6 = addr.octets();
            row.outer_src6.copy_from_slice(&self.config.outer_src6.octets()[..14]);
        }
        row
    }

    fn zero_traffic(&mut self, id: u16) -> Result<()> {
        let was = self.traffic.get(&u32::from(id), 0).map_err(map_error("read", map::TRAFFIC))?;
        let kept = was.iter().map(|t| Val(Traffic { flow_hits: t.0.flow_hits, ..Traffic::default() }));
        let kept = PerCpuValues::try_from(kept.collect::<Vec<_>>())
            .map_err(map_error("count processors for", map::TRAFFIC))?;
        self.traffic.set(u32::from(id), kept, 0).map_err(map_error("write", map::TRAFFIC))
    }

    /// Finds the VIP's id and table, or makes them.
    fn place(&mut self, spec: &VipSpec) -> Result<u32> {
        if spec.flow_idle_ms == 0 || spec.flow_idle_ms > FLOW_IDLE_MAX_MS {
            return Err(out_of_range("flow_idle_ms", spec.flow_idle_ms));
        }
        let row = self.vips.get(&spec.key);
        if let Some(row) = row
            && (row.mode == Mode::Local.number()) == (spec.mode == Mode::Local)
        {
            return Ok(row.id);
        }
        let id = match row {
            Some(row) => row.id,
            None => {
                let id = self.vips.free_id()?;
                let zeros = per_cpu(Val(DropCounts::default()))?;
                self.drops.set(id, zeros, 0).map_err(map_error("write", map::DROPS))?;
                id
            }
        };
        if spec.mode == Mode::Local {
            // The table of a VIP that turns local goes once the VIP says so, in `name_vip`.
            return Ok(id);
        }
        let table = Slots::create(1, MMAPABLE).map_err(map_error("make", map::TABLES))?;
        self.slots.remove(&id);
        self.tables.set(id, &table, 0).map_err(map_error("write", map::TABLES))?;
        Ok(id)
    }

    fn name_vip(&mut self, spec: &VipSpec, id: u32) -> Result<()> {
        let addr = addr_bytes(spec.key.addr);
        let port_be = spec.key.port.to_be();
        let mut value = VipValue {
            id,
            mode: spec.mode.number(),
            seed: vip_seed(&addr, port_be, spec.key.proto.number(), self.config.secret),
            flow_idle_ms: spec.flow_idle_ms,
            port_be: spec.mode.port_be(),
            ..VipValue::default()
        };
        spec.options.write(&mut value);
        if matches!(spec.mode, Mode::Nat { .. }) {
            value.flags |= vip_flag::NAT;
        }
        self.put_nat_sources(id, spec.mode)?;
        let was = self.vips.get(&spec.key);
        if was != Some(value) {
            self.vips.put(&spec.key, value)?;
            if spec.mode == Mode::Local && was.is_some_and(|w| w.mode != value.mode) {
                self.slots.remove(&id);
                self.drop_table(id)?;
            }
            self.refresh_addr(spec.key.addr)?;
            self.refresh_idle()?;
            self.refresh_features()?;
        }
        Ok(())
    }

    /// Recomputes what is known of an address from the VIPs it carries.
    fn refresh_addr(&mut self, addr: IpAddr) -> Result<()> {
        let rows: Vec<VipValue> = self.vips.at(addr).collect();
        let key = addr_bytes(addr);
        if rows.is_empty() {
            return match self.addrs.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
                Err(e) if is_not_found(&e) => Ok(()),
                Err(e) => Err(map_error("write", map::ADDRS)(e)),
            };
        }
        let local = rows.iter().any(|r| r.mode == Mode::Local.number());
        let vip = if rows.len() == 1 { rows[0].id } else { 0 };
        let value = AddrValue { vip, forwards_only: u32::from(!local) };
        self.addrs.insert(key, Val(value), 0).map_err(map_error("write", map::ADDRS))
    }

    fn refresh_idle(&mut self) -> Result<()> {
        let longest = self.vips.longest_idle_ms();
        let Val(mut meta) = self.meta.get(&0, 0).map_err(map_error("read", map::META))?;
        let units = idle_units(u64::from(longest));
        if meta.idle_units != units {
            meta.idle_units = units;
            self.meta.set(0, Val(meta), 0).map_err(map_error("write", map::META))?;
        }
        Ok(())
    }
}

/// Word of a backend row that holds `flags` (byte 12).
const FLAGS_WORD: usize = 1;

/// Address as the maps hold it: IPv4 in the first four bytes.
pub(crate) fn addr_bytes(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V6(a) => a.octets(),
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            bytes
        }
    }
}

pub(crate) fn is_not_found(e: &MapError) -> bool {
    matches!(e, MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::ENOENT))
}

fn per_cpu<T: aya::Pod>(value: T) -> Result<PerCpuValues<T>> {
    let cpus = aya::util::nr_cpus().map_err(|(what, e)| Error::Map {
        operation: "count processors for",
        map: what,
        source: Box::new(e),
    })?;
    PerCpuValues::try_from(vec![value; cpus]).map_err(map_error("count processors for", "per-CPU values"))
}

fn out_of_range(what: &'static str, value: impl ToString) -> Error {
    Error::OutOfRange { what, value: value.to_string() }
}
