//! The frames of the rows.

use std::net::{Ipv4Addr, Ipv6Addr};

/// IPv4 VIP, TCP and UDP port 80.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
/// IPv6 VIP, TCP port 80.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfc00, 1, 0, 0, 0, 0, 0, 1);
/// First of several IPv4 VIPs, TCP port 80; the harness varies them.
pub const VIPS4: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 0);
const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 99);
const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfc00, 2, 0, 0, 0, 0, 0, 1);
const CLIENT_PORT: u16 = 31_337;
const VIP_PORT: u16 = 80;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
/// The harness restores this much.
const FRAME_MIN: usize = 64;

/// A frame and how many flows it is varied over.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Name of the row.
    pub name: &'static str,
    /// The frame.
    pub frame: Vec<u8>,
    /// It is IPv6.
    pub v6: bool,
    /// Flows, a power of two.
    pub flows: u32,
    /// Flows are new ones.
    pub syn: bool,
    /// It is for a VIP.
    pub to_vip: bool,
    /// IPv4 VIPs from [`VIPS4`] that take turns; 0: the frame's own.
    pub vips: u32,
    /// Whether the balancer encapsulates it; else it answers or passes it up as it is long.
    pub grows: bool,
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(FRAME_MIN), 0);
    frame
}

fn ipv4(dst: Ipv4Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_from(CLIENT4, dst, proto, payload)
}

fn ipv4_from(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((20 + payload.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, proto, 0, 0]);
    ip.extend(src.octets());
    ip.extend(dst.octets());
    let sum: u32 = ip.chunks(2).map(|c| u32::from(u16::from_le_bytes([c[0], c[1]]))).sum();
    let check = !sluice_abi::sum::fold(sum);
    ip[10..12].copy_from_slice(&check.to_le_bytes());
    ip.extend(payload);
    ethernet(0x0800, &ip)
}

fn ipv6(proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([proto, 64]);
    ip.extend(CLIENT6.octets());
    ip.extend(VIP6.octets());
    ip.extend(payload);
    ethernet(0x86dd, &ip)
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut tcp = CLIENT_PORT.to_be_bytes().to_vec();
    tcp.extend(VIP_PORT.to_be_bytes());
    tcp.extend([0; 8]);
    tcp.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    tcp.extend(b"a short segment");
    tcp
}

fn udp() -> Vec<u8> {
    let body = b"a short datagram";
    let mut udp = CLIENT_PORT.to_be_bytes().to_vec();
    udp.extend(VIP_PORT.to_be_bytes());
    udp.extend((8 + body.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(body);
    udp
}

/// All rows.
pub fn packets() -> Vec<Packet> {
    let ack = ipv4(VIP4, 6, &tcp(TCP_ACK));
    let row = |name, frame: &[u8], v6, flows| Packet {
        name,
        frame: frame.to_vec(),
        v6,
        flows,
        syn: false,
        to_vip: true,
        vips: 0,
        grows: true,
    };
    let v6 = ipv6(6, &tcp(TCP_ACK));
    let datagram = ipv4(VIP4, 17, &udp());
    vec![
        Packet { to_vip: false, ..row("not IP, passed", &ethernet(0x0806, &[0; 50]), false, 1) },
        Packet { to_vip: false, ..row("not a VIP, passed", &ipv4(OTHER4, 6, &tcp(TCP_ACK)), false, 1) },
        row("v4 TCP, 1 flow", &ack, false, 1),
        row("v4 TCP, 1k flows", &ack, false, 1 << 10),
        row("v4 TCP, 64k flows", &ack, false, 1 << 16),
        row("v4 TCP, 1M flows", &ack, false, 1 << 20),
        Packet { syn: true, ..row("v4 TCP SYN, 16M flows", &ipv4(VIP4, 6, &tcp(TCP_SYN)), false, 1 << 24) },
        row("v6 TCP, 1 flow", &v6, true, 1),
        row("v6 TCP, 64k flows", &v6, true, 1 << 16),
        row("v4 UDP, 1 flow", &datagram, false, 1),
        row("v4 UDP, 64k flows", &datagram, false, 1 << 16),
        row("v4 UDP, 1M flows", &datagram, false, 1 << 20),
        row("v6 TCP, 1M flows", &v6, true, 1 << 20),
        row("v6 UDP, 64k flows", &ipv6(17, &udp()), true, 1 << 16),
        Packet { grows: false, ..row("v4 ICMP echo", &ipv4(VIP4, 1, &echo()), false, 1) },
        row("v4 ICMP too big, quoting a flow", &ipv4(VIP4, 1, &too_big()), false, 1),
    ]
}

/// 64k flows over several VIPs.
pub fn over_vips(vips: u32) -> Packet {
    Packet {
        name: "v4 TCP, 64k flows, over VIPs",
        frame: ipv4(VIPS4, 6, &tcp(TCP_ACK)),
        v6: false,
        flows: 1 << 16,
        syn: false,
        to_vip: true,
        vips,
        grows: true,
    }
}

/// A datagram for a kernel to forward, to the IPv4 VIP. The harness varies its port and, beyond 32k flows, its
/// source: that would break the header's checksum, which XDP programs do not look at and kernels do.
pub fn datagram(dst_mac: [u8; 6]) -> Vec<u8> {
    let mut frame = ipv4_from(Ipv4Addr::new(10, 100, 0, 0), VIP4, 17, &udp());
    frame[..6].copy_from_slice(&dst_mac);
    frame
}

fn checksummed(mut message: Vec<u8>) -> Vec<u8> {
    let sum = message.chunks(2).map(|c| u32::from(u16::from_le_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    let check = !sluice_abi::sum::fold(sum);
    message[2..4].copy_from_slice(&check.to_le_bytes());
    message
}

fn echo() -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend(b"sixteen and more bytes, even");
    checksummed(message)
}

/// Fragmentation needed, from a router on the way to the client, about a segment that the VIP sent.
fn too_big() -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0x78];
    message.extend([0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    message.extend(VIP4.octets());
    message.extend(CLIENT4.octets());
    message.extend(VIP_PORT.to_be_bytes());
    message.extend(CLIENT_PORT.to_be_bytes());
    message.extend([0, 0, 0, 1]);
    let check = !sluice_abi::sum::fold(
        message[8..28].chunks(2).map(|c| u32::from(u16::from_le_bytes([c[0], c[1]]))).sum(),
    );
    message[18..20].copy_from_slice(&check.to_le_bytes());
    checksummed(message)
}
