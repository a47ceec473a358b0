//! The model of decapsulation: a frame in, the frame without its outer header out.

use sluice_abi::layout::{decap_flag, proto};
use sluice_abi::reason::DropReason;
use std::collections::{BTreeMap, BTreeSet};

const ETH: usize = 14;

/// What a machine takes off. IPv4 addresses are in the first four bytes.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Outer destinations with their [`decap_flag`].
    pub outer: BTreeMap<[u8; 16], u32>,
    /// Inner destinations.
    pub inner: BTreeSet<[u8; 16]>,
    /// UDP ports of GUE.
    pub ports: BTreeSet<u16>,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Not encapsulated for this machine.
    NotOurs,
    /// Without its outer header.
    Off(Vec<u8>),
    /// Refused.
    Drop(DropReason),
}

fn be16(b: &[u8], at: usize) -> usize {
    usize::from(b[at]) << 8 | usize::from(b[at + 1])
}

fn address(bytes: &[u8]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..bytes.len()].copy_from_slice(bytes);
    address
}

/// An outer header that this machine takes off: its length, what it says follows, and how many bytes of that.
struct Outer {
    header: usize,
    protocol: u8,
    room: Option<usize>,
}

/// Decides a frame.
pub fn decapsulate(listed: &Listed, frame: &[u8]) -> Taken {
    let Some(outer) = outer(listed, frame) else { return Taken::NotOurs };
    match inside(listed, frame, &outer) {
        Ok((bytes, v6)) => {
            let mut out = frame[..12].to_vec();
            out.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
            out.extend(&frame[ETH + bytes..]);
            Taken::Off(out)
        }
        Err(reason) => Taken::Drop(reason),
    }
}

fn outer(listed: &Listed, frame: &[u8]) -> Option<Outer> {
    let ip = frame.get(ETH..).filter(|ip| ip.len() >= 20)?;
    let (v6, header) = match be16(frame, 12) {
        0x0800 => (false, 20),
        0x86dd if ip.len() >= 40 => (true, 40),
        _ => return None,
    };
    let protocol = if v6 { ip[6] } else { ip[9] };
    let whole = v6 || (ip[0] == 0x45 && be16(ip, 6) & 0x3fff == 0);
    let wanted = match protocol {
        proto::IPIP => decap_flag::IPIP,
        proto::IPV6 if v6 => decap_flag::IPIP,
        proto::UDP if whole && ip.len() >= header + 8 => {
            let port = be16(ip, header + 2) as u16;
            listed.ports.contains(&port).then_some(decap_flag::GUE)?
        }
        _ => return None,
    };
    let dst = if v6 { address(&ip[24..40]) } else { address(&ip[16..20]) };
    if listed.outer.get(&dst).is_none_or(|flags| flags & wanted == 0) {
        return None;
    }
    let says = if v6 { Some(be16(ip, 4)) } else { be16(ip, 2).checked_sub(20) };
    let room = says.filter(|room| whole && room + header <= ip.len());
    Some(Outer { header, protocol, room })
}

/// Bytes before the inner header, and whether it is IPv6.
fn inside(listed: &Listed, frame: &[u8], outer: &Outer) -> Result<(usize, bool), DropReason> {
    let bad = DropReason::DecapMalformed;
    let (mut at, mut room) = (outer.header, outer.room.ok_or(bad)?);
    let mut v6 = outer.protocol == proto::IPV6;
    if outer.protocol == proto::UDP {
        let length = be16(frame, ETH + at + 4);
        if length > room || length < 8 {
            return Err(bad);
        }
        (at, room) = (at + 8, length - 8);
        v6 = match frame.get(ETH + at).ok_or(bad)? >> 4 {
            4 => false,
            6 => true,
            _ => return Err(bad),
        };
    }
    let inner = frame.get(ETH + at..).unwrap_or_default();
    let header = if v6 { 40 } else { 20 };
    if inner.len() < header {
        return Err(bad);
    }
    let good = if v6 {
        inner[0] >> 4 == 6 && be16(inner, 4) + 40 <= room
    } else {
        let length = be16(inner, 2);
        inner[0] >> 4 == 4 && inner[0] & 15 >= 5 && (20..=room).contains(&length)
    };
    if !good {
        return Err(bad);
    }
    let dst = if v6 { address(&inner[24..40]) } else { address(&inner[16..20]) };
    if listed.inner.contains(&dst) { Ok((at, v6)) } else { Err(DropReason::DecapUnknownVip) }
}
