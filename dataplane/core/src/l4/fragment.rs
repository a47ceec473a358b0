//! The model of fragments, IPv6 extension headers and IPv4 options.

use super::flows::FlowTable;
use super::packet::{
    ETH, Parsed, Tables, Verdict, be16, begins, forwarded, le16, le64, owner, refuse, send, transport,
};
use sluice_abi::fragment::{
    AGE_MAX, BUCKET_ENTRIES, BUCKETS, CHAIN_BYTES_MAX, CHAIN_HEADERS_MAX, Place, id4, id6, key,
};
use sluice_abi::hash::{flow_hash4, flow_hash6};
use sluice_abi::layout::{VipKey4, VipKey6, VipValue, ip_option, mode, proto};
use sluice_abi::reason::DropReason;

/// Datagrams of which a first fragment was seen.
#[derive(Clone, Debug)]
pub struct Fragments {
    buckets: Vec<[(u64, Place); BUCKET_ENTRIES]>,
    /// Units of [`sluice_abi::fragment::units`]; whoever decides frames keeps it.
    pub now: u64,
}

impl Default for Fragments {
    fn default() -> Self {
        Fragments { buckets: vec![[(0, Place(0)); BUCKET_ENTRIES]; BUCKETS as usize], now: 0 }
    }
}

impl Fragments {
    fn bucket(&mut self, key: u64) -> &mut [(u64, Place); BUCKET_ENTRIES] {
        &mut self.buckets[(key % u64::from(BUCKETS)) as usize]
    }

    fn find(&mut self, key: u64) -> Option<Place> {
        let now = self.now;
        let of = |(k, place): &&(u64, Place)| *k == key && place.is_used() && place.age(now) <= AGE_MAX;
        self.bucket(key).iter().find(of).map(|(_, place)| *place)
    }

    /// Over itself, else into a free place, else over the oldest; of equals the last.
    fn put(&mut self, key: u64, place: Place) {
        let now = self.now;
        let rank = |(k, place): &(u64, Place)| match place.is_used() {
            true if *k == key => (2, 0),
            true => (0, place.age(now)),
            // The key of a free place is nobody's, whatever its bits.
            false => (1, place.age(now)),
        };
        let bucket = self.bucket(key);
        let best = (0..BUCKET_ENTRIES).max_by_key(|&i| rank(&bucket[i])).unwrap_or(0);
        bucket[best] = (key, place);
    }
}

/// A packet that may be one of several, with its transport header found.
struct Piece<'a> {
    v6: bool,
    ip: &'a [u8],
    /// Bytes before the transport header or the later fragment's payload.
    header: usize,
    ip_len: usize,
    protocol: u8,
    /// Byte offset, and whether it is a fragment at all.
    offset: usize,
    fragment: bool,
    key: u64,
}

impl Piece<'_> {
    fn dst(&self) -> &[u8] {
        if self.v6 { &self.ip[24..40] } else { &self.ip[16..20] }
    }
}

/// A drop reason where the address only forwards; `None`: passed up.
type End = Option<DropReason>;

/// Decides what the plain path does not: fragments, IPv6 extension headers, and IPv4 options that end a packet.
pub(super) fn decide(
    tables: &Tables,
    flows: &mut FlowTable,
    now: u64,
    secret: u64,
    frame: &[u8],
) -> Option<Verdict> {
    let ip = frame.get(ETH..).filter(|ip| ip.len() >= 20)?;
    let (dst, found) = match be16(frame, 12) {
        0x0800 if ip[0] >> 4 == 4 && ip[0] & 15 >= 5 => (&ip[16..20], piece4(secret, ip)),
        0x86dd if ip.len() >= 40 && ip[0] >> 4 == 6 => (&ip[24..40], piece6(secret, ip)),
        _ => return None,
    };
    let end = |reason: DropReason| refuse(tables, dst, reason);
    let mut known = [0; 16];
    known[..dst.len()].copy_from_slice(dst);
    let known = tables.addrs.contains_key(&known);
    match found {
        Ok(None) => None,
        _ if !known => Some(Verdict::Pass),
        Ok(Some(piece)) => Some(piece_decided(tables, flows, now, &piece, frame)),
        Err(None) => Some(Verdict::Pass),
        Err(Some(reason)) => Some(end(reason)),
    }
}

/// What the options end the packet for.
fn options(ip: &[u8]) -> Option<DropReason> {
    let header = usize::from(ip[0] & 15) * 4;
    let mut at = 20;
    while at < header {
        let Some(&kind) = ip.get(at) else { return Some(DropReason::Truncated) };
        match kind {
            ip_option::END => return None,
            ip_option::LOOSE_ROUTE | ip_option::STRICT_ROUTE => return Some(DropReason::SourceRoute),
            ip_option::NOTHING => at += 1,
            _ => match ip.get(at + 1) {
                None => return Some(DropReason::Truncated),
                Some(&n) if n < 2 || at + usize::from(n) > header => return Some(DropReason::BadIpHeader),
                Some(&n) => at += usize::from(n),
            },
        }
    }
    None
}

fn piece4(secret: u64, ip: &[u8]) -> Result<Option<Piece<'_>>, End> {
    if let Some(reason) = options(ip) {
        return Err(Some(reason));
    }
    let word = be16(ip, 6);
    if word & 0x3fff == 0 {
        return Ok(None);
    }
    if !matches!(ip[9], proto::TCP | proto::UDP) {
        return Err(Some(DropReason::Fragment));
    }
    let (header, ip_len) = (usize::from(ip[0] & 15) * 4, usize::from(be16(ip, 2)));
    if ip_len > ip.len() || ip_len < header {
        return Err(Some(DropReason::BadLength));
    }
    let word4 = |at| u64::from(u32::from_le_bytes(std::array::from_fn(|i| ip[at + i])));
    let id = id4(u16::from_ne_bytes([ip[4], ip[5]]), ip[9]);
    Ok(Some(Piece {
        v6: false,
        ip,
        header,
        ip_len,
        protocol: ip[9],
        offset: usize::from(word & 0x1fff) * 8,
        fragment: true,
        key: key(secret, [word4(12), 0], [word4(16), 0], id),
    }))
}

fn piece6(secret: u64, ip: &[u8]) -> Result<Option<Piece<'_>>, End> {
    let plain = !(ip[6] == proto::IPV6_FRAGMENT || proto::is_ipv6_extension(ip[6]));
    if plain {
        return Ok(None);
    }
    let (mut next, mut at, mut fragment) = (ip[6], 40, None);
    for n in 0..=CHAIN_HEADERS_MAX {
        if matches!(next, proto::TCP | proto::UDP) {
            break;
        }
        if n == CHAIN_HEADERS_MAX {
            return Err(Some(DropReason::Ipv6Extension));
        }
        if next == proto::ICMPV6 {
            return Err(None);
        }
        let Some(header) = ip.get(at..at + 8) else { return Err(Some(DropReason::Truncated)) };
        let mut bytes = (usize::from(header[1]) + 1) * 8;
        match next {
            proto::IPV6_FRAGMENT => {
                let id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
                let word = be16(header, 2) & 0xfff9;
                // A whole one (RFC 6946) with id 0 may come twice.
                if fragment.is_some_and(|seen| seen != (0, 0)) {
                    return Err(Some(DropReason::Fragment));
                }
                fragment = Some((word, id));
                bytes = 8;
                if word & 0xfff8 != 0 {
                    (next, at) = (header[0], at + bytes);
                    break;
                }
            }
            proto::IPV6_ROUTING if header[3] != 0 => return Err(Some(DropReason::SourceRoute)),
            proto::IPV6_ROUTING | proto::IPV6_DESTINATION => {}
            proto::IPV6_HOP_BY_HOP if n == 0 => {}
            _ => return Err(Some(DropReason::Ipv6Extension)),
        }
        (next, at) = (header[0], at + bytes);
        if at > 40 + CHAIN_BYTES_MAX as usize {
            return Err(Some(DropReason::Ipv6Extension));
        }
    }
    let ip_len = 40 + usize::from(be16(ip, 4));
    if ip_len > ip.len() || ip_len < at {
        return Err(Some(DropReason::BadLength));
    }
    let (word, id) = fragment.unwrap_or((0, 0));
    Ok(Some(Piece {
        v6: true,
        ip,
        header: at,
        ip_len,
        protocol: next,
        offset: usize::from(word & 0xfff8),
        fragment: word != 0,
        key: key(secret, [le64(ip, 8), le64(ip, 16)], [le64(ip, 24), le64(ip, 32)], id6(id)),
    }))
}

fn piece_decided(
    tables: &Tables,
    flows: &mut FlowTable,
    now: u64,
    piece: &Piece<'_>,
    frame: &[u8],
) -> Verdict {
    let refuse = |reason| refuse(tables, piece.dst(), reason);
    if piece.offset > 0 {
        if piece.protocol == proto::TCP && piece.offset < 20 {
            return refuse(DropReason::FragmentOverlap);
        }
        let Some(place) = flows.fragments.find(piece.key) else {
            return refuse(DropReason::FragmentUnknown);
        };
        let Some(vip) = tables.vips4.values().chain(tables.vips6.values()).find(|v| v.id == place.vip())
        else {
            return refuse(DropReason::FragmentUnknown);
        };
        let vip = match forwarded(Some(vip)) {
            Ok(vip) if takes_fragments(&vip) => vip,
            Ok(vip) => return Verdict::Drop(vip.id, DropReason::Fragment),
            Err(verdict) => return verdict,
        };
        let parsed = Parsed { vip, hash: piece.key, ip_len: piece.ip_len, v6: piece.v6, syn: false };
        return send(tables, &parsed, place.backend(), frame);
    }
    let l4 = &piece.ip[piece.header..piece.ip_len];
    if l4.len() < 8 {
        return refuse(if piece.fragment { DropReason::FragmentTiny } else { DropReason::Truncated });
    }
    let (vip, hash) = match lookup(tables, piece, l4) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let syn = if !piece.fragment && vip.mode == mode::NAT {
        Err(DropReason::Ipv6Extension)
    } else if !piece.fragment {
        transport(l4, l4, piece.protocol)
    } else if takes_fragments(&vip) {
        first(l4, piece.protocol)
    } else {
        Err(DropReason::Fragment)
    };
    let syn = match syn {
        Ok(syn) => syn,
        Err(reason) => return Verdict::Drop(vip.id, reason),
    };
    let parsed = Parsed { vip, hash, ip_len: piece.ip_len, v6: piece.v6, syn };
    match owner(tables, flows, now, &parsed) {
        Ok(backend) => {
            if piece.fragment {
                let place = Place::new(vip.id, backend, flows.fragments.now);
                flows.fragments.put(piece.key, place);
            }
            send(tables, &parsed, backend, frame)
        }
        Err(reason) => Verdict::Drop(vip.id, reason),
    }
}

/// The forwarding modes that need nothing of a packet that a later fragment lacks.
fn takes_fragments(vip: &VipValue) -> bool {
    matches!(vip.mode, mode::L2_DIRECT | mode::IPIP | mode::GUE)
}

fn lookup(tables: &Tables, piece: &Piece<'_>, l4: &[u8]) -> Result<(VipValue, u64), Verdict> {
    let port_be = u16::from_ne_bytes([l4[2], l4[3]]);
    let (dst, ip, proto) = (piece.dst(), piece.ip, piece.protocol);
    if piece.v6 {
        let addr = std::array::from_fn(|i| dst[i]);
        let vip = forwarded(tables.vips6.get(&VipKey6 { addr, port_be, proto, pad: 0 }))?;
        Ok((vip, flow_hash6(vip.seed, le64(ip, 8), le64(ip, 16), le16(l4, 0))))
    } else {
        let addr = std::array::from_fn(|i| dst[i]);
        let vip = forwarded(tables.vips4.get(&VipKey4 { addr, port_be, proto, pad: 0 }))?;
        let src = u32::from_le_bytes(std::array::from_fn(|i| ip[12 + i]));
        Ok((vip, flow_hash4(vip.seed, src, le16(l4, 0))))
    }
}

/// Whether a first fragment begins a flow: its transport header must be whole.
fn first(l4: &[u8], protocol: u8) -> Result<bool, DropReason> {
    if protocol == proto::UDP {
        return if be16(l4, 4) >= 8 { Ok(false) } else { Err(DropReason::BadLength) };
    }
    let header = l4.get(12).map_or(0, |b| usize::from(b >> 4) * 4);
    match l4.len() {
        0..20 => Err(DropReason::FragmentTiny),
        _ if header < 20 => Err(DropReason::BadTcpHeader),
        room if header > room => Err(DropReason::FragmentTiny),
        _ => begins(l4[13]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_age_ends_an_entry() {
        let mut table = Fragments::default();
        let step = u64::from(BUCKETS);
        // Keys of one bucket.
        for n in 1..=4u64 {
            table.now = n;
            table.put(n * step, Place::new(1, n as u16, n));
        }
        table.now = 5;
        table.put(5 * step, Place::new(1, 5, 5));
        assert_eq!(table.find(step), None, "the oldest gave way");
        for n in 2..=5u64 {
            assert_eq!(table.find(n * step).map(Place::backend), Some(n as u16));
        }
        table.put(3 * step, Place::new(1, 9, 5));
        assert_eq!(table.find(3 * step).map(Place::backend), Some(9), "itself, replaced in place");
        assert!(table.find(2 * step).is_some());
        table.now = 2 + u64::from(AGE_MAX) + 1;
        assert_eq!(table.find(2 * step), None, "too old");
        assert!(table.find(4 * step).is_some());
    }
}
