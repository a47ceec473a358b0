//! Full NAT from outside: source addresses of VIPs, and the flows in the map.

use crate::balancer::Balancer;
use crate::error::{Error, Result, map_error};
use crate::kernel::values::Val;
use crate::tables::{addr_bytes, is_not_found};
use crate::types::Mode;
use aya::maps::MapError;
use rustix::time::{ClockId, clock_gettime};
use sluice_abi::layout::{feature, map};
use sluice_abi::nat::{NAT_SOURCES_MAX, NatFlow, NatKey, NatSources, nat_flag, nat_over, nat_units};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Source addresses of a VIP on this box: 1 to [`NAT_SOURCES_MAX`], of the VIP's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceList {
    addrs: [IpAddr; NAT_SOURCES_MAX],
    count: u8,
}

impl SourceList {
    /// The list, if it is neither empty nor too long, and of one family.
    pub fn new(sources: &[IpAddr]) -> Option<Self> {
        let first = *sources.first()?;
        if sources.len() > NAT_SOURCES_MAX || sources.iter().any(|s| s.is_ipv4() != first.is_ipv4()) {
            return None;
        }
        let mut addrs = [first; NAT_SOURCES_MAX];
        addrs[..sources.len()].copy_from_slice(sources);
        Some(SourceList { addrs, count: sources.len() as u8 })
    }

    /// The addresses, in order.
    pub fn addrs(&self) -> &[IpAddr] {
        &self.addrs[..usize::from(self.count)]
    }

    fn row(&self) -> NatSources {
        NatSources { addrs: self.addrs.map(addr_bytes), count: self.count.into() }
    }

    fn of(row: &NatSources, v4: bool) -> Option<Self> {
        let addr = |a: &[u8; 16]| -> IpAddr {
            if v4 { Ipv4Addr::new(a[0], a[1], a[2], a[3]).into() } else { Ipv6Addr::from(*a).into() }
        };
        let addrs: Vec<IpAddr> = row.addrs.iter().take(row.count as usize).map(addr).collect();
        Self::new(&addrs)
    }
}

/// Result of [`Balancer::nat_sweep`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatSwept {
    /// Flows that go on.
    pub live: u64,
    /// Flows that were over and are gone.
    pub expired: u64,
}

fn now() -> u32 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    nat_units(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Key of the packets that answer those of a flow.
fn opposite(key: &NatKey, flow: &NatFlow) -> NatKey {
    NatKey {
        src: flow.dst,
        dst: flow.src,
        sport_be: flow.dport_be,
        dport_be: flow.sport_be,
        proto: key.proto,
        pad: [0; 3],
    }
}

impl Balancer {
    /// Writes a VIP's source addresses, before the VIP is named.
    pub(crate) fn put_nat_sources(&mut self, id: u32, mode: Mode) -> Result<()> {
        if let Mode::Nat { sources, .. } = mode {
            let row = Val(sources.row());
            return self.nat_sources.insert(id, row, 0).map_err(map_error("write", map::NAT_SOURCES));
        }
        match self.nat_sources.remove(&id) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(e) if is_not_found(&e) => Ok(()),
            Err(e) => Err(map_error("write", map::NAT_SOURCES)(e)),
        }
    }

    /// Reads them back.
    pub(crate) fn nat_sources_of(&self, id: u32, v4: bool) -> Result<SourceList> {
        let Val(row) = self.nat_sources.get(&id, 0).map_err(map_error("read", map::NAT_SOURCES))?;
        SourceList::of(&row, v4).ok_or_else(|| Error::OutOfRange {
            what: "number of source addresses in the maps",
            value: row.count.to_string(),
        })
    }

    /// Features that VIPs in the table ask for.
    pub(crate) fn refresh_features(&mut self) -> Result<()> {
        // Only VIPs of mode NAT have a row there.
        let nat = self.nat_sources.keys().next().is_some();
        let Val(mut meta) = self.meta.get(&0, 0).map_err(map_error("read", map::META))?;
        let features = meta.features & !feature::NAT | if nat { feature::NAT } else { 0 };
        if meta.features != features {
            meta.features = features;
            self.meta.set(0, Val(meta), 0).map_err(map_error("write", map::META))?;
        }
        Ok(())
    }

    /// All entries of NAT flows, both directions.
    fn nat_entries(&self) -> Result<Vec<(NatKey, NatFlow)>> {
        let entry = |item: std::result::Result<(Val<NatKey>, Val<NatFlow>), MapError>| match item {
            Ok((key, flow)) => Ok(Some((key.0, flow.0))),
            // Taken out while we walk.
            Err(MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(map_error("read", map::NAT_FLOWS)(e)),
        };
        self.nat_flows.iter().filter_map(|item| entry(item).transpose()).collect()
    }

    /// Frees flows that are over, so that their ports can be given again and the table does not fill up. Call it
    /// every few seconds while there are flows: the program itself frees only a flow whose port it wants.
    pub fn nat_sweep(&mut self) -> Result<NatSwept> {
        let mut swept = NatSwept::default();
        let now = now();
        for (key, flow) in self.nat_entries()? {
            let other = opposite(&key, &flow);
            let found = match self.nat_flows.get(&Val(other), 0) {
                Ok(Val(found)) => Some(found),
                Err(MapError::KeyNotFound) => None,
                Err(e) => return Err(map_error("read", map::NAT_FLOWS)(e)),
            };
            let reverse = flow.flags & nat_flag::REVERSE != 0;
            if reverse && found.is_some() {
                // Judged by its forward entry.
                continue;
            }
            let (flags, seen) = found.map_or((0, flow.seen), |f| (f.flags, f.seen));
            if !nat_over(flow.flags, flags, flow.idle, (flow.seen, seen), now) {
                swept.live += u64::from(!reverse);
                continue;
            }
            for key in [key, other] {
                match self.nat_flows.remove(&Val(key)) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(e) if is_not_found(&e) => {}
                    Err(e) => return Err(map_error("write", map::NAT_FLOWS)(e)),
                }
            }
            swept.expired += u64::from(!reverse);
        }
        Ok(swept)
    }

    /// Backend ids that NAT flows name.
    pub(crate) fn nat_ids(&self) -> Result<BTreeSet<u16>> {
        Ok(self.nat_entries()?.into_iter().map(|(_, flow)| flow.backend).collect())
    }
}
