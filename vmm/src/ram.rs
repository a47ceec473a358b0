//! Guest memory as the rest of the VMM sees it: checked access by guest address, shared by all threads.
//!
//! Invariant: regions do not overlap, are sorted by guest address, and stay mapped at one host address for the life of
//! the value. The guest writes at any moment: whoever validates bytes copies them first.

use crate::sys::mapping::Mapping;
use std::io;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, VolatileSlice};

/// One region, as numbers.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Guest physical address.
    pub guest: u64,
    /// Length in bytes.
    pub len: usize,
    /// Host address.
    pub host: usize,
}

/// A guest address range that is not wholly memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at guest address {addr:#x} are not memory")]
pub struct OutsideMemory {
    /// First byte.
    pub addr: u64,
    /// Length.
    pub len: u64,
}

/// The guest's memory.
#[derive(Debug)]
pub struct GuestRam {
    /// Dropped first: it refers to the mappings.
    memory: GuestMemoryMmap,
    regions: Vec<Region>,
    mappings: Vec<Mapping>,
}

impl GuestRam {
    /// Takes mappings and the guest addresses they appear at, in ascending order.
    pub fn new(mappings: Vec<(u64, Mapping)>) -> io::Result<Self> {
        let mut parts = Vec::with_capacity(mappings.len());
        let mut regions = Vec::with_capacity(mappings.len());
        for (guest, mapping) in &mappings {
            let region = GuestRegionMmap::new(mapping.region()?, GuestAddress(*guest));
            parts.push(region.ok_or_else(|| io::Error::other("guest address overflow"))?);
            regions.push(Region { guest: *guest, len: mapping.len(), host: mapping.address() });
        }
        let memory = GuestMemoryMmap::from_regions(parts).map_err(io::Error::other)?;
        Ok(Self { memory, regions, mappings: mappings.into_iter().map(|(_, mapping)| mapping).collect() })
    }

    /// Anonymous memory at guest address 0, for tests and tools.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::new(vec![(0, Mapping::new(len, 2 << 20, None)?)])
    }

    /// The regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The host mappings, in the regions' order.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The same memory for linux-loader.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Total bytes.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(|r| r.len as u64).sum()
    }

    /// `len` bytes at `addr`, all within one region.
    pub fn slice(&self, addr: u64, len: usize) -> Result<VolatileSlice<'_>, OutsideMemory> {
        self.memory.get_slice(GuestAddress(addr), len).map_err(|_| OutsideMemory { addr, len: len as u64 })
    }

    /// Whether `len` bytes at `addr` are memory within one region.
    pub fn holds(&self, addr: u64, len: u64) -> bool {
        self.regions.iter().any(|r| {
            addr >= r.guest && addr.checked_add(len).is_some_and(|end| end <= r.guest + r.len as u64)
        })
    }

    /// Copies bytes out.
    pub fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), OutsideMemory> {
        let len = into.len() as u64;
        self.memory.read_slice(into, GuestAddress(addr)).map_err(|_| OutsideMemory { addr, len })
    }

    /// Copies bytes in.
    pub fn write(&self, addr: u64, from: &[u8]) -> Result<(), OutsideMemory> {
        let len = from.len() as u64;
        self.memory.write_slice(from, GuestAddress(addr)).map_err(|_| OutsideMemory { addr, len })
    }

    /// Reads a little-endian number at one blow; `addr` must be even.
    pub fn load_u16(&self, addr: u64, order: Ordering) -> Result<u16, OutsideMemory> {
        let raw: u16 =
            self.memory.load(GuestAddress(addr), order).map_err(|_| OutsideMemory { addr, len: 2 })?;
        Ok(u16::from_le(raw))
    }

    /// Writes a little-endian number at one blow; `addr` must be even.
    pub fn store_u16(&self, addr: u64, value: u16, order: Ordering) -> Result<(), OutsideMemory> {
        self.memory
            .store(value.to_le(), GuestAddress(addr), order)
            .map_err(|_| OutsideMemory { addr, len: 2 })
    }
}
