//! Full NAT: keys and entries of its flows, how a source port is picked, and when a flow is over.
//!
//! A flow has two entries in one map. The key of each is the packet as it arrives, its entry says how that packet
//! leaves:
//!
//! ```text
//! forward   client:port -> vip:port        becomes   source:p -> backend:port
//! reverse   backend:port -> source:p       becomes   vip:port -> client:port
//! ```
//! The reverse entry is put in first, and only if its key is free: that is what gives port `p` of a source
//! address to one flow for each backend and transport.

use crate::hash::mix64;
use crate::sum::{fold, halves, quarters};

/// Most source addresses of a VIP on one balancer: 8 x 64,512 flows to each backend.
pub const NAT_SOURCES_MAX: usize = 8;

/// Ports tried for a new flow before it is refused. At half of the ports taken all are taken once in 65,536
/// flows, at four fifths once in 36.
pub const NAT_PROBES: u32 = 16;

/// Lowest source port given out (RFC 6056 section 3.2).
pub const NAT_PORT_MIN: u32 = 1024;

/// Ports of a source address.
pub const NAT_PORTS: u32 = 65_536 - NAT_PORT_MIN;

/// Default number of flows: 4 MiB for the buckets, and some 340 B for each flow while it lasts.
pub const NAT_FLOWS_DEFAULT: u32 = 1 << 17;

/// Log2 of the clock unit in nanoseconds: 1.07 s.
pub const NAT_UNIT_SHIFT: u32 = 30;

/// Silence after which a flow that no reply was seen of is over, units of the clock.
pub const NAT_NEW_IDLE: u32 = 28;

/// Silence after which a flow with an RST or both FINs is over, units of the clock: time for what is still on
/// its way, short enough to give 64,512 ports to some 6,000 flows a second.
pub const NAT_CLOSED_IDLE: u32 = 10;

/// Flags of an entry.
pub mod nat_flag {
    /// From the backend to the client.
    pub const REVERSE: u16 = 1;
    /// A packet went this way; always set on a forward entry.
    pub const SEEN: u16 = 2;
    /// A FIN went this way.
    pub const FIN: u16 = 4;
    /// An RST went this way.
    pub const RST: u16 = 8;
    /// `next_seq` is set: the client's first byte is told from the rest.
    pub const SEQ: u16 = 16;
}

/// A packet of a flow as it arrives. IPv4 addresses are in the first four bytes, the rest zero.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatKey {
    /// Source on the wire.
    pub src: [u8; 16],
    /// Destination on the wire.
    pub dst: [u8; 16],
    /// Source port, network order.
    pub sport_be: u16,
    /// Destination port, network order.
    pub dport_be: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<NatKey>() == 40);

/// How the packets of one direction leave.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatFlow {
    /// New source.
    pub src: [u8; 16],
    /// New destination.
    pub dst: [u8; 16],
    /// New source port, network order.
    pub sport_be: u16,
    /// New destination port, network order.
    pub dport_be: u16,
    /// What the change adds to the sum of a transport checksum.
    pub l4_delta: u16,
    /// What it adds to the sum of an IPv4 header.
    pub ip_delta: u16,
    /// When the last packet went this way, see [`nat_units`].
    pub seen: u32,
    /// Longest silence of the flow, units.
    pub idle: u32,
    /// Backend id.
    pub backend: u16,
    /// See [`nat_flag`].
    pub flags: u16,
    /// Interface the client's packets come in on, and replies leave by.
    pub ifindex: u32,
    /// Ethernet destination and source of a reply: those of the client's packets, exchanged.
    pub macs: [u8; 12],
    /// Id of the VIP.
    pub vip: u32,
    /// Sequence number of the client's first byte, if [`nat_flag::SEQ`] is set.
    pub next_seq: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<NatFlow>() == 80);

/// Source addresses of a VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatSources {
    /// IPv4 addresses in the first four bytes.
    pub addrs: [[u8; 16]; NAT_SOURCES_MAX],
    /// How many of them are set, at least one.
    pub count: u32,
}
const _: () = assert!(size_of::<NatSources>() == 132);

/// Clock of NAT flows, from nanoseconds of the kernel's monotonic clock.
#[inline(always)]
pub const fn nat_units(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> NAT_UNIT_SHIFT) as u32
}

/// Units of silence of a flow that may be silent for `idle_ms`.
pub const fn nat_idle(idle_ms: u64) -> u32 {
    ((idle_ms * 1_000_000) >> NAT_UNIT_SHIFT) as u32 + 1
}

/// The `n`th try for a new flow: number of the source address among `count`, and port.
#[inline(always)]
pub const fn nat_try(hash: u64, n: u32, count: u32) -> (u32, u16) {
    let x = mix64(hash ^ (n as u64) << 58);
    let source = ((x >> 32) * count as u64) >> 32;
    let port = ((x & 0xffff_ffff) * NAT_PORTS as u64) >> 32;
    (source as u32, NAT_PORT_MIN as u16 + port as u16)
}

/// What a change of addresses and ports adds to the sum of a transport checksum, and what the addresses alone add
/// to that of an IPv4 header. Each side is source and destination in four words, and the ports in one.
#[inline(always)]
pub const fn nat_deltas(old: [u64; 4], old_ports: u32, new: [u64; 4], new_ports: u32) -> (u16, u16) {
    let addrs = quarters(!old[0])
        + quarters(!old[1])
        + quarters(!old[2])
        + quarters(!old[3])
        + quarters(new[0])
        + quarters(new[1])
        + quarters(new[2])
        + quarters(new[3]);
    (fold(addrs + halves(!old_ports) + halves(new_ports)), fold(addrs))
}

/// Both directions have ended, or one was reset.
#[inline(always)]
pub const fn nat_closed(forward: u16, reverse: u16) -> bool {
    (forward | reverse) & nat_flag::RST != 0 || forward & reverse & nat_flag::FIN != 0
}

/// The flow of these two entries is over. A reverse entry that is gone counts as one without flags.
#[inline(always)]
pub const fn nat_over(forward: u16, reverse: u16, idle: u32, seen: (u32, u32), now: u32) -> bool {
    let (a, b) = (now.wrapping_sub(seen.0), now.wrapping_sub(seen.1));
    // A clock read on another processor may be one unit ahead: that is no age.
    let age = if (a as i32) < (b as i32) { a } else { b };
    let limit = if nat_closed(forward, reverse) {
        NAT_CLOSED_IDLE
    } else if reverse & nat_flag::SEEN == 0 {
        NAT_NEW_IDLE
    } else {
        idle
    };
    let limit = if limit < idle { limit } else { idle };
    age as i32 > limit as i32
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn tries_spread_over_sources_and_ports() {
        let mut sources = [0u32; 3];
        let mut halves = [0u32; 2];
        for hash in 0..3000u64 {
            let (source, port) = nat_try(mix64(hash), 0, 3);
            sources[source as usize] += 1;
            halves[usize::from(u32::from(port) >= NAT_PORT_MIN + NAT_PORTS / 2)] += 1;
            assert!(u32::from(port) >= NAT_PORT_MIN);
        }
        assert!(sources.iter().all(|&n| (850..1150).contains(&n)), "{sources:?}");
        assert!(halves.iter().all(|&n| (1350..1650).contains(&n)), "{halves:?}");
        let one: std::collections::BTreeSet<_> = (0..NAT_PROBES).map(|n| nat_try(7, n, 1)).collect();
        assert_eq!(one.len() as u32, NAT_PROBES, "each try is another");
    }

    #[test]
    fn a_flow_is_over_by_its_state() {
        const ESTABLISHED: (u16, u16) = (nat_flag::SEEN, nat_flag::SEEN);
        let over = |(f, r): (u16, u16), age: u32| nat_over(f, r, 1000, (500, 400), 500 + age);
        assert!(!over(ESTABLISHED, 1000) && over(ESTABLISHED, 1001));
        assert!(!over((nat_flag::SEEN, 0), NAT_NEW_IDLE) && over((nat_flag::SEEN, 0), NAT_NEW_IDLE + 1));
        let half = (nat_flag::SEEN | nat_flag::FIN, nat_flag::SEEN);
        assert!(!over(half, 1000), "one FIN is half a close");
        let closed = (half.0, half.0);
        assert!(!over(closed, NAT_CLOSED_IDLE) && over(closed, NAT_CLOSED_IDLE + 1));
        assert!(over((nat_flag::SEEN, nat_flag::SEEN | nat_flag::RST), NAT_CLOSED_IDLE + 1));
        assert!(!nat_over(2, 2, 1000, (501, 400), 500), "seen a moment ahead");
        assert!(nat_over(2, 0, 5, (0, 0), 6), "no state lasts longer than the VIP's own time");
    }
}
