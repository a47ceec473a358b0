//! The few rtnetlink requests the agent needs (rtnetlink(7)): addresses, routes, neighbours, links.
//!
//! Blocking, one socket per question, bounded by [`TIMEOUT`]. Messages are built and read as bytes; what the
//! kernel sends is trusted in meaning, never in length.

use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The kernel answers at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Room for one datagram; the kernel fills at most 32 KiB of a dump at once.
const BUFFER_BYTES: usize = 64 << 10;
/// Datagrams read for one dump: 64k neighbours at some 500 a datagram, and spare.
const DATAGRAMS_MAX: usize = 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 1;
/// Reachable, stale, delay, probe, noarp, permanent: states with a MAC that may be used (neighbour.h).
const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
/// Reachable, noarp, permanent: states in which the kernel sends without asking.
const NUD_CONNECTED: u16 = 0x02 | 0x40 | 0x80;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const SCOPE_GLOBAL: u8 = 0;
const SCOPE_HOST: u8 = 254;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An address of an interface with the mark of who put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr {
    /// Address.
    pub address: IpAddr,
    /// Interface.
    pub ifindex: u32,
    /// `IFA_PROTO`; 0: none.
    pub proto: u8,
}

/// A neighbour with a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Address.
    pub address: IpAddr,
    /// Interface.
    pub ifindex: u32,
    /// MAC, if its state lets it be used.
    pub mac: Option<[u8; 6]>,
    /// Confirmed lately or fixed by hand: need not be asked for.
    pub confirmed: bool,
}

/// Where packets to a destination leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface.
    pub ifindex: u32,
    /// Router; `None`: the destination is on the segment.
    pub gateway: Option<IpAddr>,
}

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// MAC; zero when it has none.
    pub mac: [u8; 6],
    /// MTU.
    pub mtu: u32,
}

/// All addresses that carry one of these marks.
pub fn addresses_marked(marks: &[u8]) -> io::Result<Vec<Addr>> {
    let mut request = Message::new(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP);
    request.push(&[0; 8]);
    let mut out = Vec::new();
    ask(request, |kind, body| {
        if kind != RTM_NEWADDR || body.len() < 8 {
            return;
        }
        let (mut address, mut local, mut proto) = (None, None, 0);
        attributes(&body[8..], |kind, value| match kind {
            IFA_ADDRESS => address = ip(value),
            IFA_LOCAL => local = ip(value),
            IFA_PROTO => proto = value.first().copied().unwrap_or(0),
            _ => {}
        });
        if let Some(address) = local.or(address).filter(|_| marks.contains(&proto)) {
            out.push(Addr { address, ifindex: u32_at(body, 4), proto });
        }
    })?;
    Ok(out)
}

/// Adds a host address (/32, /128) with a mark; there already is fine. `hidden` gives an IPv4 address host
/// scope, so that the kernel never picks it as a source by itself.
pub fn add_address(address: IpAddr, ifindex: u32, mark: u8, hidden: bool) -> io::Result<()> {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut request = address_message(RTM_NEWADDR, flags, address, ifindex, hidden);
    request.attribute(IFA_PROTO, &[mark]);
    if address.is_ipv6() {
        request.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
    }
    ask(request, |_, _| {})
}

/// Removes a host address; absent is fine.
pub fn remove_address(address: IpAddr, ifindex: u32) -> io::Result<()> {
    let request = address_message(RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK, address, ifindex, false);
    match ask(request, |_, _| {}) {
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
        other => other,
    }
}

fn address_message(kind: u16, flags: u16, address: IpAddr, ifindex: u32, hidden: bool) -> Message {
    let mut request = Message::new(kind, flags);
    let (family, prefix) = if address.is_ipv4() { (AF_INET, 32) } else { (AF_INET6, 128) };
    let scope = if hidden && address.is_ipv4() { SCOPE_HOST } else { SCOPE_GLOBAL };
    request.push(&[family, prefix, 0, scope]);
    request.push(&ifindex.to_ne_bytes());
    request.ip_attribute(IFA_LOCAL, address);
    request.ip_attribute(IFA_ADDRESS, address);
    request
}

/// Where packets to an address leave; `None`: nowhere, or this machine itself.
pub fn route(address: IpAddr) -> io::Result<Option<Hop>> {
    let mut request = Message::new(RTM_GETROUTE, NLM_F_REQUEST);
    let (family, prefix) = if address.is_ipv4() { (AF_INET, 32) } else { (AF_INET6, 128) };
    request.push(&[family, prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    request.ip_attribute(RTA_DST, address);
    let mut found = None;
    let result = ask(request, |kind, body| {
        if kind != RTM_NEWROUTE || body.len() < 12 || body[7] != RTN_UNICAST {
            return;
        }
        let (mut ifindex, mut gateway) = (0, None);
        attributes(&body[12..], |kind, value| match kind {
            RTA_OIF if value.len() >= 4 => ifindex = u32_at(value, 0),
            RTA_GATEWAY => gateway = ip(value),
            RTA_VIA if value.len() > 2 => gateway = ip(&value[2..]),
            _ => {}
        });
        if ifindex != 0 {
            found = Some(Hop { ifindex, gateway });
        }
    });
    match result {
        Ok(()) => Ok(found),
        Err(e) if matches!(e.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// All neighbours.
pub fn neighbours() -> io::Result<Vec<Neighbour>> {
    let mut request = Message::new(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP);
    request.push(&[0; 12]);
    let mut out = Vec::new();
    ask(request, |kind, body| {
        if kind != RTM_NEWNEIGH || body.len() < 12 {
            return;
        }
        let state = u16::from_ne_bytes([body[8], body[9]]);
        let (mut address, mut mac) = (None, None);
        attributes(&body[12..], |kind, value| match kind {
            NDA_DST => address = ip(value),
            NDA_LLADDR => mac = <[u8; 6]>::try_from(value).ok(),
            _ => {}
        });
        if let Some(address) = address {
            let mac = mac.filter(|_| state & NUD_VALID != 0);
            let confirmed = state & NUD_CONNECTED != 0;
            out.push(Neighbour { address, ifindex: u32_at(body, 4), mac, confirmed });
        }
    })?;
    Ok(out)
}

/// Lets the kernel find or confirm a neighbour's MAC, as if a packet were to be sent.
pub fn ask_neighbour(address: IpAddr, ifindex: u32) -> io::Result<()> {
    let mut request = Message::new(RTM_NEWNEIGH, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
    request.push(&[if address.is_ipv4() { AF_INET } else { AF_INET6 }, 0, 0, 0]);
    request.push(&ifindex.to_ne_bytes());
    request.push(&[0, 0, NTF_USE, 0]);
    request.ip_attribute(NDA_DST, address);
    ask(request, |_, _| {})
}

/// MAC and MTU of an interface.
pub fn interface(ifindex: u32) -> io::Result<Interface> {
    let mut request = Message::new(RTM_GETLINK, NLM_F_REQUEST);
    request.push(&[0; 4]);
    request.push(&ifindex.to_ne_bytes());
    request.push(&[0; 8]);
    let mut found = Interface { mac: [0; 6], mtu: 0 };
    ask(request, |kind, body| {
        if kind == RTM_NEWLINK && body.len() >= 16 {
            attributes(&body[16..], |kind, value| match kind {
                IFLA_ADDRESS => found.mac = <[u8; 6]>::try_from(value).unwrap_or([0; 6]),
                IFLA_MTU if value.len() >= 4 => found.mtu = u32_at(value, 0),
                _ => {}
            });
        }
    })?;
    Ok(found)
}

/// A request under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend([0; 4]);
        Message(bytes)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.push(&len.to_ne_bytes());
        self.push(&kind.to_ne_bytes());
        self.push(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn ip_attribute(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// Sends a request and hands every answering message to `each`, until done, acknowledged or refused.
fn ask(request: Message, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let dump = u16::from_ne_bytes([request.0[6], request.0[7]]) & NLM_F_DUMP != 0;
    let acknowledged = u16::from_ne_bytes([request.0[6], request.0[7]]) & NLM_F_ACK != 0;
    let socket = open()?;
    sendto(&socket, &request.finish(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    for _ in 0..DATAGRAMS_MAX {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..len];
        while rest.len() >= 16 {
            let size = u32_at(rest, 0) as usize;
            if size < 16 || size > rest.len() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "netlink message with a wrong length",
                ));
            }
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let body = &rest[16..size];
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return error_of(body),
                _ => each(kind, body),
            }
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        if !dump && !acknowledged {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "netlink dump without end"))
}

fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    Ok(socket)
}

fn error_of(body: &[u8]) -> io::Result<()> {
    match body.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "netlink error without a code")),
    }
}

fn attributes(mut rest: &[u8], mut each: impl FnMut(u16, &[u8])) {
    while rest.len() >= 4 {
        let size = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if size < 4 || size > rest.len() {
            return;
        }
        // The two high bits are flags (nested, byte order).
        each(u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff, &rest[4..size]);
        rest = &rest[size.next_multiple_of(4).min(rest.len())..];
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_about_loopback() {
        let loopback = interface(1).expect("loopback");
        assert_eq!(loopback.mac, [0; 6]);
        assert!(loopback.mtu >= 1500);
        assert_eq!(
            route("127.0.0.1".parse().expect("address")).expect("route"),
            None,
            "local is no next hop"
        );
        assert!(addresses_marked(&[0]).expect("addresses").iter().any(|a| a.address.is_loopback()));
        neighbours().expect("neighbours");
    }

    #[test]
    fn attributes_with_wrong_lengths_end_the_walk() {
        let mut seen = Vec::new();
        attributes(&[8, 0, 1, 0, 1, 2, 3, 4, 3, 0, 2, 0], |kind, value| seen.push((kind, value.to_vec())));
        assert_eq!(seen, [(1, vec![1, 2, 3, 4])]);
        attributes(&[200, 0, 1, 0], |_, _| panic!("longer than the message"));
    }
}
