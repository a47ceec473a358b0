//! Why vCPUs left the guest for us: one counter for each reason and vCPU, and KVM's own statistics by name.

use crate::sys::kvm_stats;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// An exit to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Reason {
    PortIn,
    PortOut,
    PortUnclaimed,
    MmioRead,
    MmioWrite,
    MmioUnclaimed,
    Halt,
    Interrupted,
    Shutdown,
    SystemEvent,
    MsrRead,
    MsrWrite,
    Other,
}

impl Reason {
    const NAMES: [&'static str; 13] = [
        "port_in",
        "port_out",
        "port_unclaimed",
        "mmio_read",
        "mmio_write",
        "mmio_unclaimed",
        "halt",
        "interrupted",
        "shutdown",
        "system_event",
        "msr_read",
        "msr_write",
        "other",
    ];
}

/// Exits of one vCPU.
#[derive(Debug, Default)]
pub struct Exits([AtomicU64; Reason::NAMES.len()]);

impl Exits {
    /// Counts one.
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counters by name. `*_unclaimed` are part of no other.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        Reason::NAMES.into_iter().zip(&self.0).map(|(name, n)| (name, n.load(Ordering::Relaxed))).collect()
    }

    /// All exits.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }
}

/// KVM's statistics of a VM or vCPU (Documentation/virt/kvm/api.rst, 4.133).
#[derive(Debug)]
pub struct KvmStats {
    file: File,
    /// Name and place of each counter.
    places: Vec<(String, u64)>,
}

/// More descriptors than any kernel has; a broken header must not make us allocate.
const MAX_COUNTERS: u32 = 1024;
/// Longest name.
const MAX_NAME: u32 = 256;

impl KvmStats {
    /// Opens the statistics. Fails on kernels before 5.14.
    pub fn open(kvm: &impl AsRawFd) -> io::Result<Self> {
        let file = kvm_stats::open(kvm)?;
        let mut header = [0; 24];
        file.read_exact_at(&mut header, 0)?;
        let word = |bytes: &[u8], at: usize| {
            bytes[at..].first_chunk().map(|b| u32::from_ne_bytes(*b)).unwrap_or_default()
        };
        let (name_size, count) = (word(&header, 4), word(&header, 8));
        let (descriptors, data) = (word(&header, 16), word(&header, 20));
        if name_size == 0 || name_size > MAX_NAME || count > MAX_COUNTERS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "statistics in an unknown form"));
        }
        let step = 16 + name_size as usize;
        let mut raw = vec![0; step * count as usize];
        file.read_exact_at(&mut raw, u64::from(descriptors))?;
        let places = raw
            .chunks_exact(step)
            .map(|d| {
                let name = d[16..].split(|b| *b == 0).next().unwrap_or_default();
                (String::from_utf8_lossy(name).into_owned(), u64::from(data) + u64::from(word(d, 8)))
            })
            .collect();
        Ok(Self { file, places })
    }

    /// The first value of each counter (histograms give their first bucket; they are left out of sums).
    pub fn read(&self) -> io::Result<Vec<(String, u64)>> {
        let mut values = Vec::with_capacity(self.places.len());
        for (name, at) in &self.places {
            let mut raw = [0; 8];
            self.file.read_exact_at(&mut raw, *at)?;
            values.push((name.clone(), u64::from_ne_bytes(raw)));
        }
        Ok(values)
    }
}
