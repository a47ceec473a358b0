//! Keys and values of the maps.

use crate::BUCKET_ENTRIES;
use crate::reason::{DROP_REASONS, EVENTS};

/// Map names, as pinned.
pub mod map {
    /// [`crate::vips::VipBucket`].
    pub const VIP_BUCKETS: &str = "VIP_BUCKETS";
    /// VIP id to [`crate::vips::VipRow`].
    pub const VIP_ROWS: &str = "VIP_ROWS";
    /// Address (IPv4 in the first four bytes, rest zero) to [`super::AddrValue`].
    pub const ADDRS: &str = "ADDRS";
    /// VIP id to its array of slots.
    pub const TABLES: &str = "TABLES";
    /// Backend id to [`super::BackendValue`].
    pub const BACKENDS: &str = "BACKENDS";
    /// [`super::Bucket`].
    pub const FLOWS: &str = "FLOWS";
    /// Interface index to itself, for redirects.
    pub const DEVS: &str = "DEVS";
    /// VIP id to [`super::DropCounts`], per CPU.
    pub const DROPS: &str = "DROPS";
    /// Backend id to [`super::Traffic`], per CPU.
    pub const TRAFFIC: &str = "TRAFFIC";
    /// One [`super::EventCounts`], per CPU.
    pub const EVENTS: &str = "EVENTS";
    /// One [`super::Meta`].
    pub const META: &str = "META";
    /// Outer address to [`super::decap_flag`], on a node.
    pub const DECAP_OUTER: &str = "DECAP_OUTER";
    /// Inner address to 1, on a node.
    pub const DECAP_INNER: &str = "DECAP_INNER";
    /// [`crate::nat::NatKey`] to [`crate::nat::NatFlow`].
    pub const NAT_FLOWS: &str = "NAT_FLOWS";
    /// VIP id to [`crate::nat::NatSources`].
    pub const NAT_SOURCES: &str = "NAT_SOURCES";
    /// One bit for each UDP port, in words of 64, on a node: set where GUE arrives.
    pub const DECAP_PORTS: &str = "DECAP_PORTS";
}

/// IP protocol numbers.
pub mod proto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// Hop-by-hop options of IPv6.
    pub const IPV6_HOP_BY_HOP: u8 = 0;
    /// Routing header of IPv6.
    pub const IPV6_ROUTING: u8 = 43;
    /// Fragment header of IPv6.
    pub const IPV6_FRAGMENT: u8 = 44;
    /// Destination options of IPv6.
    pub const IPV6_DESTINATION: u8 = 60;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;

    /// Extension headers of IPv6 other than the fragment header (IANA registry, 2024): hop-by-hop, routing,
    /// ESP, AH, destination options, mobility, HIP, shim6.
    #[inline(always)]
    pub const fn is_ipv6_extension(next: u8) -> bool {
        matches!(next, 0 | 43 | 50 | 51 | 60 | 135 | 139 | 140)
    }
}

/// IPv4 options that are looked for (RFC 791 section 3.1).
pub mod ip_option {
    /// End of the list.
    pub const END: u8 = 0;
    /// One byte of nothing.
    pub const NOTHING: u8 = 1;
    /// Loose source and record route.
    pub const LOOSE_ROUTE: u8 = 131;
    /// Strict source and record route.
    pub const STRICT_ROUTE: u8 = 137;
}

/// Forwarding modes, [`VipValue::mode`].
pub mod mode {
    /// Rewrite the destination MAC.
    pub const L2_DIRECT: u8 = 1;
    /// Encapsulate in IP.
    pub const IPIP: u8 = 2;
    /// Pass up to this box's own stack.
    pub const LOCAL: u8 = 3;
    /// Encapsulate in IP and UDP.
    pub const GUE: u8 = 4;
    /// Rewrite source and destination.
    pub const NAT: u8 = 5;
}

/// What a VIP wants beyond the steady path, [`VipValue::flags`].
pub mod vip_flag {
    /// Every flow has an entry in the flow table, not only those of changed slots.
    pub const TRACK: u16 = 1 << 0;
    /// The flow table is never asked: a flow follows its slot's current owner.
    pub const BYPASS: u16 = 1 << 1;
    /// The mode is [`super::mode::NAT`].
    pub const NAT: u16 = 1 << 6;
}

/// What some VIP of this box wants, [`Meta::features`]: asked off the steady path only.
pub mod feature {
    /// Packets of backends may be replies of NAT flows.
    pub const NAT: u32 = 1 << 0;
}

/// Flags of a backend.
pub mod backend_flag {
    /// The row is in use.
    pub const PRESENT: u16 = 1;
    /// Healthy or draining: flows stay. Without it flows move to the slot's current owner.
    pub const ALIVE: u16 = 2;
    /// `addr4` is set.
    pub const HAS_V4: u16 = 4;
    /// `addr6` is set.
    pub const HAS_V6: u16 = 8;
    /// MACs and interface are set.
    pub const HAS_LINK: u16 = 16;
}

/// What may arrive encapsulated at an outer address.
pub mod decap_flag {
    /// IP in IP.
    pub const IPIP: u32 = 1;
    /// IP in UDP, at a listed port.
    pub const GUE: u32 = 2;
}

/// Words of the bit set of UDP ports.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Default UDP destination port of GUE (IANA registry: gue).
pub const GUE_PORT: u16 = 6080;

/// Key of an IPv4 VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipKey4 {
    /// Address on the wire.
    pub addr: [u8; 4],
    /// Port, network order.
    pub port_be: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<VipKey4>() == 8);

/// Key of an IPv6 VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipKey6 {
    /// Address on the wire.
    pub addr: [u8; 16],
    /// Port, network order.
    pub port_be: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<VipKey6>() == 20);

/// A VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipValue {
    /// Starts at 1; index into the tables and drop counters. 0 there counts for an address of several VIPs.
    pub id: u32,
    /// See [`mode`].
    pub mode: u8,
    /// Zero.
    pub pad: u8,
    /// See [`vip_flag`]; 0 for a VIP without extras, which is all the steady path asks.
    pub flags: u16,
    /// [`crate::hash::vip_seed`].
    pub seed: u64,
    /// Longest silence of a flow, ms.
    pub flow_idle_ms: u32,
    /// UDP destination port of [`mode::GUE`], port of the backends in [`mode::NAT`], network order; zero in other
    /// modes.
    pub port_be: u16,
    /// Zero.
    pub pad2: [u8; 2],
    /// Zero: room for what the flags need to know.
    pub spare: [u32; 10],
}
const _: () = assert!(size_of::<VipValue>() == 64);

/// What is known of an address that carries VIPs, asked when the ports are of no use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddrValue {
    /// The one forwarded VIP at this address, or 0 when there are several.
    pub vip: u32,
    /// 1: at least one VIP here is forwarded, and none is local.
    pub forwards_only: u32,
}
const _: () = assert!(size_of::<AddrValue>() == 8);

/// A backend: one cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendValue {
    /// MAC of the backend, or of the next hop towards it.
    pub dst_mac: [u8; 6],
    /// MAC of the interface out.
    pub src_mac: [u8; 6],
    /// See [`backend_flag`].
    pub flags: u16,
    /// Largest IP packet out, bytes.
    pub mtu: u16,
    /// Interface out.
    pub ifindex: u32,
    /// Outer destination for IPv4.
    pub addr4: [u8; 4],
    /// Outer destination for IPv6.
    pub addr6: [u8; 16],
    /// Outer source for IPv4; its low half is replaced by [`crate::hash::outer_entropy`].
    pub outer_src4: [u8; 4],
    /// Outer source for IPv6, first 14 bytes; the last two are the entropy.
    pub outer_src6: [u8; 14],
    /// [`crate::sum::outer4_base`] for a protocol of [`proto::IPIP`].
    pub outer4_sum: u16,
    /// Zero.
    pub pad: [u8; 4],
}
const _: () = assert!(size_of::<BackendValue>() == 64);

/// TTL and hop limit of outer headers (RFC 1700's default).
pub const OUTER_TTL: u8 = 64;

/// A bucket of the flow table: one cache line, since mmapable arrays start on a page.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// See [`crate::flow::Entry`].
    pub entries: [u64; BUCKET_ENTRIES],
}
const _: () = assert!(size_of::<Bucket>() == 64);

/// Drops of a VIP by reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCounts {
    /// By [`crate::reason::DropReason`] number.
    pub packets: [u64; DROP_REASONS],
}
const _: () = assert!(size_of::<DropCounts>() == 512);

impl Default for DropCounts {
    fn default() -> Self {
        DropCounts { packets: [0; DROP_REASONS] }
    }
}

/// Events.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCounts {
    /// By [`crate::reason::Event`] number.
    pub packets: [u64; EVENTS],
}
const _: () = assert!(size_of::<EventCounts>() == 512);

impl Default for EventCounts {
    fn default() -> Self {
        EventCounts { packets: [0; EVENTS] }
    }
}

/// Traffic to a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// IP bytes before encapsulation.
    pub bytes: u64,
    /// Packets whose flow was found in the flow table: [`crate::reason::Event::FlowHit`], counted here because this
    /// line is written for every packet anyway. Not set back with the others when an id is given again.
    pub flow_hits: u64,
}
const _: () = assert!(size_of::<Traffic>() == 24);

/// Written when the maps are made, and checked before they are adopted; `idle_units` and `features` follow the
/// VIPs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// [`META_MAGIC`].
    pub magic: u32,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// Buckets of the flow table, a power of two.
    pub flow_buckets: u32,
    /// Size of the VIP tables.
    pub vips: u32,
    /// Size of the backend table.
    pub backends: u32,
    /// Units of silence after which any VIP's flow is dead: the largest over the VIPs.
    pub idle_units: u32,
    /// Secret of the group, see [`crate::hash::vip_seed`].
    pub secret: u64,
    /// See [`feature`].
    pub features: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<Meta>() == 40);

/// `SLUI`.
pub const META_MAGIC: u32 = 0x534c_5549;
