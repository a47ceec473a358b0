//! What a VM is: the document that describes it, and the checked [`Spec`] made from it.
//!
//! The document is parsed once ([`document`]) into types that refuse unknown fields, then checked ([`check`]) as a
//! whole. Every error names the field. Nothing here opens files or touches the host.

mod check;
pub mod document;
pub mod size;

pub use check::check;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Most vCPUs: local APIC ids are 8 bits wide in the tables that every guest reads, 255 is the broadcast.
pub const MAX_CPUS: u32 = 254;
/// Most disks, NICs and other PCI devices together: slots 1 to 31 of bus 0.
pub const MAX_DEVICES: usize = 31;
/// Least memory: below it no kernel starts.
pub const MIN_MEMORY: u64 = 2 << 20;
/// Most memory: well below the smallest physical address width in use (39 bits) and its IOMMU windows.
pub const MAX_MEMORY: u64 = 256 << 30;
/// Largest document; real ones are a few hundred bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// Why a document was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    /// Path of the field, as in the document.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// Parses and checks a document: YAML, of which JSON is a part.
pub fn parse(text: &str) -> Result<Spec, ConfigError> {
    check(document::parse(text)?)
}

/// A checked VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub(crate) name: String,
    pub(crate) cpus: Cpus,
    pub(crate) memory: Memory,
    pub(crate) boot: Boot,
    pub(crate) serial: ConsoleTo,
    pub(crate) console: ConsoleTo,
    pub(crate) disks: Vec<Disk>,
    pub(crate) nics: Vec<Nic>,
    pub(crate) rng: bool,
    pub(crate) api: Option<PathBuf>,
    pub(crate) on_reset: OnReset,
    pub(crate) debug_port: bool,
}

impl Spec {
    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The API socket, if one is asked for.
    pub fn api(&self) -> Option<&Path> {
        self.api.as_deref()
    }

    /// Host CPUs of everything that is no vCPU; empty: any.
    pub fn housekeeping(&self) -> &[u32] {
        &self.cpus.housekeeping
    }

    /// Number of vCPUs.
    pub fn cpu_count(&self) -> u32 {
        self.cpus.count
    }

    /// What a reset by the guest does.
    pub fn on_reset(&self) -> OnReset {
        self.on_reset
    }

    /// Bytes of memory.
    pub fn memory_size(&self) -> u64 {
        self.memory.size
    }
}

/// Virtual CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpus {
    pub count: u32,
    /// Host CPU of each vCPU, or empty.
    pub pin: Vec<u32>,
    /// Host CPUs of the VMM's own threads, or empty.
    pub housekeeping: Vec<u32>,
    /// The pinned CPUs belong to this VM alone: HLT, PAUSE and MWAIT stay in the guest.
    pub dedicated: bool,
    /// Bound of KVM's polling before a halted vCPU sleeps; `None` leaves the module's.
    pub halt_poll_ns: Option<u32>,
}

/// Page size behind guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB; transparent huge pages where the host gives them.
    Base,
    /// 2 MiB from the host's pool.
    Huge2M,
    /// 1 GiB from the host's pool.
    Huge1G,
}

impl Pages {
    /// Bytes of a page.
    pub fn size(self) -> u64 {
        match self {
            Self::Base => 4 << 10,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub size: u64,
    pub pages: Pages,
    pub node: Option<u32>,
    pub shared: bool,
    pub lock: bool,
    pub prefault: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub cmdline: String,
}

/// Where a console's bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConsoleTo {
    None,
    Stdio,
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub id: String,
    pub path: PathBuf,
    pub read_only: bool,
    /// `None`: where the file takes it.
    pub direct: Option<bool>,
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    pub id: String,
    pub tap: String,
    pub mac: Mac,
    /// Address given to the host's end of a tap that is made here.
    pub host_address: Option<(Ipv4Addr, u8)>,
}

/// What a reset by the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReset {
    /// The process ends.
    Exit,
    /// The VM starts anew with the same document.
    Restart,
}
