//! What `sluice doctor` knows of a machine, as data. Collected by [`super::collect`], judged by [`super::checks`].

use std::net::IpAddr;

/// Everything looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The machine.
    pub machine: Machine,
    /// Its network namespaces that were looked into.
    pub namespaces: Vec<Netns>,
}

/// Facts that hold for all namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Kernel version, major and minor.
    pub kernel: (u32, u32),
    /// The kernel describes its own types (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// `kernel.io_uring_disabled`; `None`: the kernel has no such setting.
    pub io_uring_disabled: Option<u32>,
    /// `net.core.bpf_jit_enable`.
    pub bpf_jit: Option<u32>,
    /// Hard limit of open files; `None`: unlimited.
    pub nofile_hard: Option<u64>,
    /// Soft limit of locked memory, bytes; `None`: unlimited.
    pub memlock: Option<u64>,
    /// Where BPF file systems are mounted.
    pub bpffs: Vec<String>,
    /// `vm.nr_hugepages`.
    pub huge_pages: u64,
    /// Looked at by root.
    pub root: bool,
    /// Process that a limit would be raised for: the shell doctor was started from.
    pub shell_pid: u32,
    /// Programs that were missing, so that something could not be looked at.
    pub missing_programs: Vec<String>,
}

/// One network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Netns {
    /// Name below `/run/netns`; `None`: the one doctor runs in.
    pub name: Option<String>,
    /// Its interfaces.
    pub links: Vec<Link>,
    /// Addresses on `lo` that are not loopback addresses: VIPs answered directly.
    pub local_vips: Vec<IpAddr>,
    /// `net.ipv4.conf.all.arp_ignore`.
    pub arp_ignore: u32,
    /// `net.ipv4.conf.all.arp_announce`.
    pub arp_announce: u32,
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter: u32,
    /// Neighbours that do not answer.
    pub failed_neighbours: Vec<Neighbour>,
}

/// An address that did not resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: String,
    /// Interface it was asked for on.
    pub iface: String,
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xdp {
    /// Not at all.
    #[default]
    None,
    /// In the driver.
    Driver,
    /// In the stack, after the packet buffer was made.
    Generic,
    /// In the NIC.
    Offload,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, ... or empty for hardware.
    pub kind: String,
    /// Kernel driver.
    pub driver: String,
    /// Administratively up.
    pub up: bool,
    /// MTU, bytes.
    pub mtu: u32,
    /// XDP.
    pub xdp: Xdp,
    /// Name of the XDP program, if the kernel told.
    pub xdp_program: String,
    /// Other end of a veth, if it is in a namespace that was looked into.
    pub peer: Option<Place>,
    /// Bridge it is a port of.
    pub master: Option<String>,
    /// As a port of a bridge: `forwarding`, `listening`, ...
    pub port_state: Option<String>,
    /// `tx-checksumming`.
    pub tx_checksum: bool,
    /// `generic-receive-offload`.
    pub gro: bool,
    /// `large-receive-offload`.
    pub lro: bool,
    /// `rx-gro-hw`.
    pub hardware_gro: bool,
    /// `net.ipv4.conf.IFACE.rp_filter`.
    pub rp_filter: u32,
}

/// Where an interface is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Namespace, as in [`Netns::name`].
    pub netns: Option<String>,
    /// Interface.
    pub iface: String,
}

impl Netns {
    /// Where an interface of this namespace is.
    pub fn place(&self, link: &Link) -> Place {
        Place { netns: self.name.clone(), iface: link.name.clone() }
    }
}

impl Facts {
    /// Finds an interface.
    pub fn link(&self, place: &Place) -> Option<&Link> {
        let netns = self.namespaces.iter().find(|n| n.name == place.netns)?;
        netns.links.iter().find(|l| l.name == place.iface)
    }

    /// Every interface with its place, namespaces and interfaces in the order they were found.
    pub fn places(&self) -> impl Iterator<Item = (Place, &Link)> {
        self.namespaces.iter().flat_map(|n| n.links.iter().map(|l| (n.place(l), l)))
    }
}
