//! What callers say to the loader and hear from it. No kernel handles here.

use crate::nat::SourceList;
use crate::options::VipOptions;
use sluice_abi::layout::{VipValue, mode};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::slot::Slot;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Transport of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
}

impl Proto {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Proto::Tcp => sluice_abi::layout::proto::TCP,
            Proto::Udp => sluice_abi::layout::proto::UDP,
        }
    }

    /// From an IP protocol number.
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            sluice_abi::layout::proto::TCP => Some(Proto::Tcp),
            sluice_abi::layout::proto::UDP => Some(Proto::Udp),
            _ => None,
        }
    }
}

/// Identity of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipKey {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Transport.
    pub proto: Proto,
}

impl fmt::Display for VipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proto = match self.proto {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        };
        write!(f, "{}/{proto}", std::net::SocketAddr::new(self.addr, self.port))
    }
}

/// How packets of a VIP reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Rewrite the destination MAC.
    L2Direct,
    /// Encapsulate: 4in4 and 6in6, or 4in6 for a backend without an IPv4 address.
    Ipip,
    /// Pass up to this box's own stack.
    Local,
    /// Encapsulate in IP and UDP (GUE variant 1), to this UDP port; families as [`Mode::Ipip`].
    Gue {
        /// UDP destination port.
        port: u16,
    },
    /// Rewrite source and destination, both ways through here.
    Nat {
        /// Port of the backends.
        backend_port: u16,
        /// Source addresses on this box.
        sources: SourceList,
    },
}

impl Mode {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Mode::L2Direct => mode::L2_DIRECT,
            Mode::Ipip => mode::IPIP,
            Mode::Local => mode::LOCAL,
            Mode::Gue { .. } => mode::GUE,
            Mode::Nat { .. } => mode::NAT,
        }
    }

    /// What [`sluice_abi::layout::VipValue::port_be`] holds.
    pub(crate) const fn port_be(self) -> u16 {
        match self {
            Mode::Gue { port } => port.to_be(),
            Mode::Nat { backend_port, .. } => backend_port.to_be(),
            _ => 0,
        }
    }

    /// From the row of a VIP that is not of mode NAT.
    pub(crate) const fn from_row(row: &VipValue) -> Option<Self> {
        match row.mode {
            mode::GUE => Some(Mode::Gue { port: u16::from_be(row.port_be) }),
            mode::L2_DIRECT => Some(Mode::L2Direct),
            mode::IPIP => Some(Mode::Ipip),
            mode::LOCAL => Some(Mode::Local),
            _ => None,
        }
    }
}

/// A VIP as the caller wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipSpec {
    /// Identity.
    pub key: VipKey,
    /// Forwarding mode.
    pub mode: Mode,
    /// Longest silence of a flow, ms, at most 24 h.
    pub flow_idle_ms: u32,
    /// What it wants beyond its mode.
    pub options: VipOptions,
}

/// Where the frames of a backend leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface out.
    pub ifindex: u32,
    /// MAC of the backend, or of the next hop towards it.
    pub dst_mac: [u8; 6],
    /// MAC of the interface.
    pub src_mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// A backend as the caller wants it. The caller gives the id, 1..=[`sluice_abi::BACKEND_ID_MAX`], and gives it
/// to another backend only when [`crate::Balancer::ids_in_use`] no longer holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Id, as in the slots.
    pub id: u16,
    /// Outer destination of 4in4.
    pub addr4: Option<Ipv4Addr>,
    /// Outer destination of 6in6 and 4in6.
    pub addr6: Option<Ipv6Addr>,
    /// Absent while the next hop is not resolved: packets are dropped as `backend_unreachable`.
    pub link: Option<Link>,
    /// Healthy or draining: flows stay. `false`: its flows move to the slot's current owner.
    pub alive: bool,
}

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver; an error when it cannot.
    #[default]
    Native,
    /// After the kernel built its packet buffer: slower, works anywhere. Never chosen silently.
    Generic,
}

/// How to make a balancer.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of pins, on a bpffs; mounted there when it is not one.
    pub pin_dir: PathBuf,
    /// Interfaces to attach to.
    pub ifaces: Vec<String>,
    /// Attach mode of all of them.
    pub mode: AttachMode,
    /// Buckets of the flow table, a power of two; 8 flows each.
    pub flow_buckets: u32,
    /// Size of the VIP tables.
    pub vips: u32,
    /// Size of the backend table.
    pub backends: u32,
    /// Secret of the group; balancers of a group have the same. 0: none.
    pub secret: u64,
    /// Outer source of 4in4; the low 16 bits vary with the flow.
    pub outer_src4: Ipv4Addr,
    /// Outer source of 6in6 and 4in6; the low 16 bits vary with the flow.
    pub outer_src6: Ipv6Addr,
    /// Echo replies, and again too-big messages, that one processor makes a second; 0: none.
    pub icmp_per_second: u32,
    /// NAT flows the table has room for, when it is made.
    pub nat_flows: u32,
}

impl Config {
    /// Defaults: native mode, default sizes, no secret, outer sources `172.16.0.0/16` and `100::/112`
    /// (RFC 6666's discard prefix).
    pub fn new(pin_dir: impl Into<PathBuf>, ifaces: Vec<String>) -> Self {
        Config {
            pin_dir: pin_dir.into(),
            ifaces,
            mode: AttachMode::Native,
            flow_buckets: sluice_abi::FLOW_BUCKETS_DEFAULT,
            vips: sluice_abi::VIPS_DEFAULT,
            backends: sluice_abi::BACKENDS_DEFAULT,
            secret: 0,
            outer_src4: Ipv4Addr::new(172, 16, 0, 0),
            outer_src6: Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0),
            icmp_per_second: sluice_abi::icmp::PER_SECOND_DEFAULT,
            nat_flows: sluice_abi::nat::NAT_FLOWS_DEFAULT,
        }
    }
}

/// What [`crate::Balancer::open_or_adopt`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Pinned maps of this layout were there and are in use now, with everything in them.
    pub maps: bool,
    /// Interfaces whose link was there: the program was replaced in it without a gap.
    pub links: Vec<String>,
}

/// A VIP as it is in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipState {
    /// Specification.
    pub spec: VipSpec,
    /// Id in tables and counters.
    pub id: u32,
    /// Slots; empty for a local VIP.
    pub slots: Vec<Slot>,
}

/// Everything in the maps that callers put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// VIPs in order of key.
    pub vips: Vec<VipState>,
    /// Backends in order of id.
    pub backends: Vec<BackendSpec>,
}

/// Result of [`crate::Balancer::sweep`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Live entries.
    pub live: u64,
    /// Entries freed because their flow was silent too long.
    pub expired: u64,
    /// Slots that still ask the flow table, with the window open or exceptions left.
    pub asking_slots: u64,
    /// Slots that stopped asking.
    pub settled_slots: u64,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// IP bytes before encapsulation.
    pub bytes: u64,
}

/// Sums over processors since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By VIP (`None`: an address of several VIPs) and reason; zeros left out.
    pub drops: BTreeMap<(Option<VipKey>, DropReason), u64>,
    /// By event; zeros left out.
    pub events: BTreeMap<Event, u64>,
    /// By backend id; every backend in the table.
    pub backends: BTreeMap<u16, Traffic>,
}

/// A flow to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FiveTuple {
    /// Transport.
    pub proto: Proto,
    /// Client.
    pub src: IpAddr,
    /// Client port.
    pub sport: u16,
    /// VIP address.
    pub dst: IpAddr,
    /// VIP port.
    pub dport: u16,
    /// The packet is a TCP SYN.
    pub syn: bool,
}

/// Where a packet of a flow would go now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// VIP it matches.
    pub vip: Option<VipKey>,
    /// Mode of the VIP.
    pub mode: Option<Mode>,
    /// Flow hash.
    pub hash: u64,
    /// Maglev slot number.
    pub slot: Option<u32>,
    /// The slot's content.
    pub owners: Option<Slot>,
    /// Entry in the flow table, if the slot asks: backend, units of silence, confirmed.
    pub entry: Option<TraceEntry>,
    /// Backend it would reach; `None`: passed up or dropped.
    pub backend: Option<u16>,
    /// The backend's row.
    pub backend_row: Option<BackendSpec>,
    /// One sentence per decision, in order.
    pub why: Vec<String>,
}

/// A flow entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    /// Backend id.
    pub backend: u16,
    /// Silence in clock units of 17.2 s.
    pub age_units: u32,
    /// A second packet was seen.
    pub confirmed: bool,
}
