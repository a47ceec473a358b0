//! The document as it is written. Field by field the same as in `docs/vmm.md`.

use super::{ConfigError, MAX_DOCUMENT};
use serde::Deserialize;
use std::path::PathBuf;

/// A VM.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Name: letters, digits, `-`, `_`, `.`; 63 at most. Default `vm`.
    pub name: Option<String>,
    /// Virtual CPUs.
    #[serde(default)]
    pub cpus: Cpus,
    /// Memory.
    #[serde(default)]
    pub memory: Memory,
    /// What to start.
    pub boot: Boot,
    /// The 16550 serial port. Default `none`.
    pub serial: Option<Console>,
    /// The virtio console. Default: no such device.
    pub console: Option<Console>,
    /// Disks, `/dev/vda` first.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Network interfaces.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// An entropy device. Default true.
    pub rng: Option<bool>,
    /// The API.
    pub api: Option<Api>,
    /// What a reset by the guest does. Default `exit`.
    pub on_reset: Option<OnReset>,
    /// Ports of the test guest: text and exit code. Default false.
    #[serde(default)]
    pub debug_port: bool,
}

/// Virtual CPUs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpus {
    /// How many. Default 1.
    pub count: Option<u32>,
    /// Host CPU of each vCPU, in order.
    #[serde(default)]
    pub pin: Vec<u32>,
    /// Host CPUs of the VMM's other threads.
    #[serde(default)]
    pub housekeeping: Vec<u32>,
    /// The pinned CPUs are this VM's alone: HLT, PAUSE and MWAIT do not exit. Needs `pin`.
    #[serde(default)]
    pub dedicated: bool,
    /// Longest polling before a halted vCPU sleeps, in nanoseconds.
    pub halt_poll_ns: Option<u32>,
}

/// Memory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Size: bytes or a text such as `512M`. Default 512M.
    pub size: Option<Size>,
    /// Page size. Default `base`.
    pub pages: Option<Pages>,
    /// NUMA node of the host that all pages come from.
    pub node: Option<u32>,
    /// Base pages from a sealed memfd instead of anonymous memory, for devices in other processes.
    #[serde(default)]
    pub shared: bool,
    /// Never swapped.
    #[serde(default)]
    pub lock: bool,
    /// All pages faulted in before the start. Default: true for huge pages, false for base ones.
    pub prefault: Option<bool>,
}

/// A size.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// In bytes.
    Bytes(u64),
    /// With a unit.
    Text(String),
}

/// Page size.
#[derive(Clone, Copy, Debug, Deserialize)]
#[allow(missing_docs)] // the names are the values
pub enum Pages {
    #[serde(rename = "base")]
    Base,
    #[serde(rename = "2M")]
    Huge2M,
    #[serde(rename = "1G")]
    Huge1G,
}

/// What to start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// ELF kernel (PVH or 64-bit Linux), firmware with a PVH entry, or bzImage.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// Command line. Default: empty.
    #[serde(default)]
    pub cmdline: String,
}

/// Where a console's bytes go.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are the values
pub enum Console {
    None,
    Stdio,
    /// A socket that is made there; one client at a time, with scroll-back.
    Unix(PathBuf),
}

/// A raw disk image or block device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Serial number that the guest sees. Default `disk0`, `disk1`, …
    pub id: Option<String>,
    /// File or block device.
    pub path: PathBuf,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// Past the host's page cache: required, forbidden, or (left out) where the file takes it.
    pub direct: Option<bool>,
}

/// A network interface on a tap device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// Name in counters. Default `nic0`, `nic1`, …
    pub id: Option<String>,
    /// Tap device. Made when there is none; used when it is there and free.
    pub tap: String,
    /// Hardware address. Default: made from the VM's name and the NIC's place.
    pub mac: Option<String>,
    /// Address of the host's end, as `10.0.0.1/24`; the interface is brought up with it.
    pub host_address: Option<String>,
}

/// The API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// Socket, made with mode 0600.
    pub socket: PathBuf,
}

/// What a reset does.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are the values
pub enum OnReset {
    Exit,
    Restart,
}

/// Parses YAML (JSON is a part of it).
pub fn parse(text: &str) -> Result<Document, ConfigError> {
    if text.len() > MAX_DOCUMENT {
        return Err(ConfigError::new("document", format!("{} bytes, at most {MAX_DOCUMENT}", text.len())));
    }
    let refused = |path: String, reason: String| {
        let field = if path == "." || path == "?" { "document".to_owned() } else { path };
        ConfigError::new(field, reason)
    };
    if text.trim_start().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(text);
        let document = serde_path_to_error::deserialize(&mut json)
            .map_err(|e| refused(e.path().to_string(), e.inner().to_string()))?;
        json.end().map_err(|e| refused("document".to_owned(), e.to_string()))?;
        return Ok(document);
    }
    serde_path_to_error::deserialize(serde_norway::Deserializer::from_str(text))
        .map_err(|e| refused(e.path().to_string(), e.inner().to_string()))
}
