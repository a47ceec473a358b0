//! The command line: a document by file, or its common fields by flags.

use crate::config::document::{Api, Boot, Console, Cpus, Disk, Document, Memory, Nic, OnReset, Pages, Size};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Runs one virtual machine until it ends.
///
/// Exit status: 0 powered off or reset, 1 the VM could not be made, 2 wrong usage, 3 the guest crashed, 4 stopped.
#[derive(Debug, Parser)]
#[command(name = "sluice-vmm", version, max_term_width = 100)]
pub struct Args {
    /// Document of the VM, YAML or JSON; excludes the flags below
    #[arg(long, value_name = "FILE", exclusive = true)]
    pub config: Option<PathBuf>,
    /// Name
    #[arg(long, default_value = "vm")]
    pub name: String,
    /// ELF kernel, firmware with a PVH entry, or bzImage
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, default_value = "")]
    pub cmdline: String,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// Host CPU of each vCPU
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    pub pin: Vec<u32>,
    /// Host CPUs of the other threads
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    pub housekeeping: Vec<u32>,
    /// The pinned CPUs are this VM's alone: halting does not exit
    #[arg(long)]
    pub dedicated: bool,
    /// Memory
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    pub memory: String,
    /// Huge pages
    #[arg(long, value_name = "SIZE")]
    pub hugepages: Option<HugePages>,
    /// NUMA node of the memory
    #[arg(long, value_name = "NODE")]
    pub node: Option<u32>,
    /// Raw disk image or block device; ":ro" after it for read-only
    #[arg(long, value_name = "FILE[:ro]")]
    pub disk: Vec<String>,
    /// Tap device
    #[arg(long, value_name = "TAP")]
    pub net: Vec<String>,
    /// Serial console on standard input and output
    #[arg(long, conflicts_with = "console_socket")]
    pub console: bool,
    /// Serial console on a UNIX socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// API socket
    #[arg(long, value_name = "SOCKET")]
    pub api: Option<PathBuf>,
    /// Start anew when the guest resets
    #[arg(long)]
    pub restart: bool,
    /// Ports of the test guest
    #[arg(long, hide = true)]
    pub debug_port: bool,
    /// Print all counters as JSON on standard error at the end
    #[arg(long)]
    pub stats: bool,
}

/// Size of a huge page.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs)] // the names are the values
pub enum HugePages {
    #[value(name = "2M")]
    Huge2M,
    #[value(name = "1G")]
    Huge1G,
}

impl Args {
    /// The document that the flags stand for.
    pub fn document(self) -> Document {
        let disk = |text: String| match text.strip_suffix(":ro") {
            Some(path) => Disk { id: None, path: path.into(), read_only: true, direct: None },
            None => Disk { id: None, path: text.into(), read_only: false, direct: None },
        };
        Document {
            name: Some(self.name),
            cpus: Cpus {
                count: Some(self.cpus),
                pin: self.pin,
                housekeeping: self.housekeeping,
                dedicated: self.dedicated,
                halt_poll_ns: None,
            },
            memory: Memory {
                size: Some(Size::Text(self.memory)),
                pages: self.hugepages.map(|pages| match pages {
                    HugePages::Huge2M => Pages::Huge2M,
                    HugePages::Huge1G => Pages::Huge1G,
                }),
                node: self.node,
                ..Memory::default()
            },
            boot: Boot {
                kernel: self.kernel.unwrap_or_default(),
                initrd: self.initrd,
                cmdline: self.cmdline,
            },
            serial: match (self.console, self.console_socket) {
                (true, _) => Some(Console::Stdio),
                (false, Some(path)) => Some(Console::Unix(path)),
                (false, None) => None,
            },
            disks: self.disk.into_iter().map(disk).collect(),
            nics: self
                .net
                .into_iter()
                .map(|tap| Nic { id: None, tap, mac: None, host_address: None })
                .collect(),
            api: self.api.map(|socket| Api { socket }),
            on_reset: self.restart.then_some(OnReset::Restart),
            debug_port: self.debug_port,
            ..Document::default()
        }
    }
}
