//! The model of the XDP program: a frame in, a verdict out, by the same tables.
//!
//! Written apart from the program, in plain safe code, so that the differential test compares two readings of the
//! rules. Shared with it are only layouts, hashes and checksum arithmetic of `sluice-abi`.

use super::flows::{FlowTable, Owner, Tracking};
use super::{fragment, gue, icmp};
use sluice_abi::hash::{flow_hash4, flow_hash6, outer_entropy, slot_of};
use sluice_abi::layout::{
    AddrValue, BackendValue, OUTER_TTL, VipKey4, VipKey6, VipValue, backend_flag, mode, proto, vip_flag,
};
use sluice_abi::reason::DropReason;
use sluice_abi::slot::Slot;
use sluice_abi::sum;
use std::collections::BTreeMap;

pub(super) const ETH: usize = 14;
/// Of the fuzzed backend's link.
const MTU: usize = 1500;

/// What the maps hold.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// IPv4 VIPs.
    pub vips4: BTreeMap<VipKey4, VipValue>,
    /// IPv6 VIPs.
    pub vips6: BTreeMap<VipKey6, VipValue>,
    /// Addresses, IPv4 in the first four bytes.
    pub addrs: BTreeMap<[u8; 16], AddrValue>,
    /// Slots by VIP id.
    pub slots: BTreeMap<u32, Vec<Slot>>,
    /// Backends by id.
    pub backends: BTreeMap<u16, BackendValue>,
    /// Interface the frames arrive on.
    pub ifindex: u32,
    /// Secret of the group.
    pub secret: u64,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To this box's own stack, unchanged.
    Pass,
    /// Named drop of a VIP (id; 0: of an address).
    Drop(u32, DropReason),
    /// As [`Verdict::Drop`], and this frame goes back out of the interface.
    Answer(u32, DropReason, Vec<u8>),
    /// Out of the interface it came from.
    Transmit(Vec<u8>),
    /// Out of another interface.
    Redirect(u32, Vec<u8>),
}

/// A TCP or UDP packet for a VIP, as parsed.
pub(super) struct Parsed {
    pub(super) vip: VipValue,
    pub(super) hash: u64,
    pub(super) ip_len: usize,
    pub(super) v6: bool,
    pub(super) syn: bool,
}

/// Decides a frame. `now` is in units of [`sluice_abi::flow::units`].
pub fn decide(tables: &Tables, flows: &mut FlowTable, now: u64, frame: &[u8]) -> Verdict {
    if let Some(verdict) = fragment::decide(tables, flows, now, tables.secret, frame) {
        return verdict;
    }
    if let Some(verdict) = icmp::decide(tables, flows, frame) {
        return verdict;
    }
    let parsed = match parse(tables, frame) {
        Ok(parsed) => parsed,
        Err(verdict) => return verdict,
    };
    match owner(tables, flows, now, &parsed) {
        Ok(owner) => send(tables, &parsed, owner, frame),
        Err(reason) => Verdict::Drop(parsed.vip.id, reason),
    }
}

/// The backend of a packet's flow.
pub(super) fn owner(
    tables: &Tables,
    flows: &mut FlowTable,
    now: u64,
    parsed: &Parsed,
) -> Result<u16, DropReason> {
    let slots = tables.slots.get(&parsed.vip.id).ok_or(DropReason::NoTable)?;
    let slot = slots[slot_of(parsed.hash) as usize];
    let tracking = tracking(&parsed.vip);
    match flows.owner(tracking, parsed.hash, slot, parsed.syn, now, |b| alive(tables, b)) {
        Owner::Full => Err(DropReason::FlowTableFull),
        Owner::Backend(owner) => Ok(owner),
    }
}

/// Which flows of a VIP have an entry.
pub(super) const fn tracking(vip: &VipValue) -> Tracking {
    if vip.flags & vip_flag::BYPASS != 0 {
        Tracking::Never
    } else if vip.flags & vip_flag::TRACK != 0 {
        Tracking::Always
    } else {
        Tracking::Window
    }
}

/// The backend may keep its flows.
pub(super) fn alive(tables: &Tables, backend: u16) -> bool {
    const NEED: u16 = backend_flag::PRESENT | backend_flag::ALIVE;
    tables.backends.get(&backend).is_some_and(|row| row.flags & NEED == NEED)
}

/// The packet to its owner, or what becomes of it instead.
pub(super) fn send(tables: &Tables, parsed: &Parsed, owner: u16, frame: &[u8]) -> Verdict {
    let id = parsed.vip.id;
    match forward(tables, parsed, owner, frame) {
        Ok((ifindex, out)) if ifindex == tables.ifindex => Verdict::Transmit(out),
        Ok((ifindex, out)) => Verdict::Redirect(ifindex, out),
        Err(DropReason::TooBig) => {
            let room = tables
                .backends
                .get(&owner)
                .map(|row| usize::from(row.mtu) - overhead(parsed, row).min(row.mtu.into()));
            match icmp::too_big(frame, parsed.v6, parsed.ip_len, room.unwrap_or(0)) {
                Some(answer) => Verdict::Answer(id, DropReason::TooBig, answer),
                None => Verdict::Drop(id, DropReason::TooBig),
            }
        }
        Err(reason) => Verdict::Drop(id, reason),
    }
}

/// Any bytes as a frame over empty and over small tables: for fuzzing. Panics when an answer breaks what holds
/// for every frame, see `hold`.
pub fn fuzz_frame(bytes: &[u8]) {
    let mut flows = FlowTable::new(4, 2);
    let mut tables = Tables::default();
    assert_eq!(decide(&tables, &mut flows, 0, bytes), Verdict::Pass, "no VIP, nothing to decide");
    // The VIP is whatever the bytes are sent to, so that the deeper paths are reached.
    let key = |at: usize, n: usize| -> Option<&[u8]> { bytes.get(at..at + n) };
    let vip = VipValue { id: 1, mode: bytes.last().copied().unwrap_or(0) % 5, ..VipValue::default() };
    let ihl = bytes.get(ETH).map_or(20, |b| usize::from(b & 15) * 4);
    if let (Some(addr), Some(port), Some(&proto)) =
        (key(ETH + 16, 4), key(ETH + ihl + 2, 2), bytes.get(ETH + 9))
    {
        let addr = [addr[0], addr[1], addr[2], addr[3]];
        let mut known = [0; 16];
        known[..4].copy_from_slice(&addr);
        // Not forwarding only: errors are steered, echo is left to others.
        tables.addrs.insert(known, AddrValue::default());
        tables
            .vips4
            .insert(VipKey4 { addr, port_be: u16::from_ne_bytes([port[0], port[1]]), proto, pad: 0 }, vip);
    }
    if let (Some(addr), Some(port), Some(&proto)) = (key(ETH + 24, 16), key(ETH + 42, 2), bytes.get(ETH + 6))
    {
        let addr = std::array::from_fn(|i| addr[i]);
        tables.addrs.insert(addr, AddrValue::default());
        tables
            .vips6
            .insert(VipKey6 { addr, port_be: u16::from_ne_bytes([port[0], port[1]]), proto, pad: 0 }, vip);
    }
    // With and without an IPv4 address, so that IPv4 also goes into IPv6.
    let flags = if bytes.len().is_multiple_of(2) { 0x1f } else { 0x1f & !backend_flag::HAS_V4 };
    tables.slots.insert(1, vec![Slot::new(1, 2); sluice_abi::SLOTS as usize]);
    tables.backends.insert(1, BackendValue { flags, mtu: MTU as u16, ..BackendValue::default() });
    hold(bytes, &decide(&tables, &mut flows, 0, bytes));
    hold(bytes, &decide(&tables, &mut flows, 9, bytes));
}

/// What holds for every frame that is sent: it is the one that came with one hop taken off, behind nothing or
/// behind one outer header whose length and checksum are right.
fn hold(bytes: &[u8], verdict: &Verdict) {
    let Verdict::Transmit(out) = verdict else {
        if let Verdict::Answer(_, reason, out) = verdict {
            assert!(
                *reason == DropReason::TooBig && out.len() <= ETH + 1280,
                "{reason:?}, {} bytes",
                out.len()
            );
        }
        assert!(!matches!(verdict, Verdict::Redirect(..)), "there is one interface");
        return;
    };
    let overhead = out.len() - bytes.len();
    let inner = &out[ETH + overhead..];
    let v6 = be16(bytes, 12) == 0x86dd;
    let hops = if v6 { 7 } else { 8 };
    assert_eq!(inner[hops] + 1, bytes[ETH + hops], "hops");
    for at in (0..inner.len()).filter(|&at| at != hops && (v6 || !(10..12).contains(&at))) {
        assert_eq!(inner[at], bytes[ETH + at], "byte {at} of the packet");
    }
    let words = |ip: &[u8], n: usize| -> u32 { (0..n).map(|i| u32::from(le16(ip, 2 * i))).sum() };
    let ip_len = if v6 { 40 + usize::from(be16(inner, 4)) } else { usize::from(be16(inner, 2)) };
    assert!(ip_len <= inner.len() && ip_len + overhead <= MTU, "{ip_len} bytes, {overhead} before");
    // A right checksum stays right, and a wrong one as wrong as it was.
    assert!(v6 || words(inner, 10) % 0xffff == words(&bytes[ETH..], 10) % 0xffff, "inner checksum");
    let outer = &out[ETH..];
    match overhead {
        0 => {}
        20 => {
            assert_eq!(usize::from(be16(outer, 2)), ip_len + 20);
            assert_eq!(sum::fold(words(outer, 10)), 0xffff, "outer checksum");
        }
        40 => assert_eq!(usize::from(be16(outer, 4)), ip_len),
        28 => {
            assert_eq!(
                (usize::from(be16(outer, 2)), usize::from(be16(outer, 24))),
                (ip_len + 28, ip_len + 8)
            );
            assert_eq!(sum::fold(words(outer, 10)), 0xffff, "outer checksum");
        }
        48 => {
            assert_eq!((usize::from(be16(outer, 4)), usize::from(be16(outer, 44))), (ip_len + 8, ip_len + 8));
        }
        other => panic!("{other} bytes before the packet"),
    }
}

pub(super) fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

pub(super) fn le16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

pub(super) fn le64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| b[at + i]))
}

pub(super) fn parse(tables: &Tables, frame: &[u8]) -> Result<Parsed, Verdict> {
    if frame.len() < ETH + 20 {
        return Err(Verdict::Pass);
    }
    match be16(frame, 12) {
        0x0800 => parse4(tables, &frame[ETH..]),
        0x86dd if frame.len() >= ETH + 40 => parse6(tables, &frame[ETH..]),
        _ => Err(Verdict::Pass),
    }
}

/// What cannot be told to be for one VIP: dropped if its address only forwards.
pub(super) fn refuse(tables: &Tables, addr: &[u8], reason: DropReason) -> Verdict {
    let mut key = [0; 16];
    key[..addr.len()].copy_from_slice(addr);
    match tables.addrs.get(&key) {
        Some(row) if row.forwards_only == 1 => Verdict::Drop(row.vip, reason),
        _ => Verdict::Pass,
    }
}

fn parse4(tables: &Tables, ip: &[u8]) -> Result<Parsed, Verdict> {
    let refuse = |reason| Err(refuse(tables, &ip[16..20], reason));
    let header = usize::from(ip[0] & 15) * 4;
    if ip[0] >> 4 != 4 || header < 20 {
        return refuse(DropReason::BadIpHeader);
    }
    if ip[9] != proto::TCP && ip[9] != proto::UDP {
        return Err(Verdict::Pass);
    }
    if ip.len() < header + 8 {
        return refuse(DropReason::Truncated);
    }
    let l4 = &ip[header..];
    let key = VipKey4 {
        addr: [ip[16], ip[17], ip[18], ip[19]],
        port_be: u16::from_ne_bytes([l4[2], l4[3]]),
        proto: ip[9],
        pad: 0,
    };
    let vip = forwarded(tables.vips4.get(&key))?;
    let ip_len = usize::from(be16(ip, 2));
    if ip_len > ip.len() || ip_len < header {
        return Err(Verdict::Drop(vip.id, DropReason::BadLength));
    }
    let syn = transport(&l4[..ip_len - header], l4, ip[9]).map_err(|r| Verdict::Drop(vip.id, r))?;
    let src = u32::from_le_bytes([ip[12], ip[13], ip[14], ip[15]]);
    Ok(Parsed { vip, hash: flow_hash4(vip.seed, src, le16(l4, 0)), ip_len, v6: false, syn })
}

fn parse6(tables: &Tables, ip: &[u8]) -> Result<Parsed, Verdict> {
    let refuse = |reason| Err(refuse(tables, &ip[24..40], reason));
    if ip[0] >> 4 != 6 {
        return refuse(DropReason::BadIpHeader);
    }
    match ip[6] {
        proto::TCP | proto::UDP => {}
        _ => return Err(Verdict::Pass),
    }
    if ip.len() < 48 {
        return refuse(DropReason::Truncated);
    }
    let l4 = &ip[40..];
    let key = VipKey6 {
        addr: std::array::from_fn(|i| ip[24 + i]),
        port_be: u16::from_ne_bytes([l4[2], l4[3]]),
        proto: ip[6],
        pad: 0,
    };
    let vip = forwarded(tables.vips6.get(&key))?;
    let room = usize::from(be16(ip, 4));
    if 40 + room > ip.len() {
        return Err(Verdict::Drop(vip.id, DropReason::BadLength));
    }
    let syn = transport(&l4[..room], l4, ip[6]).map_err(|r| Verdict::Drop(vip.id, r))?;
    let hash = flow_hash6(vip.seed, le64(ip, 8), le64(ip, 16), le16(l4, 0));
    Ok(Parsed { vip, hash, ip_len: 40 + room, v6: true, syn })
}

pub(super) fn forwarded(row: Option<&VipValue>) -> Result<VipValue, Verdict> {
    match row {
        Some(vip) if vip.mode != mode::LOCAL => Ok(*vip),
        _ => Err(Verdict::Pass),
    }
}

/// Whether the segment begins a flow. `payload` is what the IP header claims, `l4` what the frame holds, which
/// is at least 8 bytes.
pub(super) fn transport(payload: &[u8], l4: &[u8], protocol: u8) -> Result<bool, DropReason> {
    if protocol == proto::UDP {
        let length = usize::from(be16(l4, 4));
        return if (8..=payload.len()).contains(&length) { Ok(false) } else { Err(DropReason::BadLength) };
    }
    if payload.len() < 20 {
        return Err(DropReason::BadLength);
    }
    let header = usize::from(payload[12] >> 4) * 4;
    if header < 20 || header > payload.len() {
        return Err(DropReason::BadTcpHeader);
    }
    begins(payload[13])
}

/// Whether these TCP flags begin a flow.
pub(super) fn begins(flags: u8) -> Result<bool, DropReason> {
    let (fin, syn, rst, ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
    if syn && (fin || rst) {
        return Err(DropReason::BadTcpFlags);
    }
    Ok(syn && !ack)
}

fn forward(tables: &Tables, p: &Parsed, owner: u16, frame: &[u8]) -> Result<(u32, Vec<u8>), DropReason> {
    let row = tables.backends.get(&owner).filter(|row| row.flags & backend_flag::PRESENT != 0);
    let row = row.ok_or(DropReason::NoBackend)?;
    if row.flags & backend_flag::HAS_LINK == 0 {
        return Err(DropReason::BackendUnreachable);
    }
    let overhead = overhead(p, row);
    if overhead >= 40 && row.flags & backend_flag::HAS_V6 == 0 {
        return Err(DropReason::BackendUnreachable);
    }
    if p.ip_len + overhead > usize::from(row.mtu) {
        return Err(DropReason::TooBig);
    }
    let mut inner = frame[ETH..].to_vec();
    age(&mut inner, p.v6)?;
    let mut out = Vec::with_capacity(ETH + overhead + inner.len());
    out.extend(row.dst_mac);
    out.extend(row.src_mac);
    match overhead {
        0 => out.extend(&frame[12..ETH]),
        20 | 28 => outer4(&mut out, p, row, inner[1]),
        _ => outer6(&mut out, p, row, &inner),
    }
    if p.vip.mode == mode::GUE {
        gue::follow(&mut out, overhead - gue::UDP_LEN, p.vip.port_be, p.hash, p.ip_len);
    }
    out.extend(inner);
    Ok((row.ifindex, out))
}

/// Bytes the forwarding mode puts before the packet.
fn overhead(p: &Parsed, row: &BackendValue) -> usize {
    match (p.vip.mode, p.v6, row.flags & backend_flag::HAS_V4 != 0) {
        (mode::L2_DIRECT, ..) => 0,
        (mode::GUE, false, true) => 20 + gue::UDP_LEN,
        (mode::GUE, ..) => 40 + gue::UDP_LEN,
        (_, false, true) => 20,
        _ => 40,
    }
}

pub(super) fn age(ip: &mut [u8], v6: bool) -> Result<(), DropReason> {
    let at = if v6 { 7 } else { 8 };
    if ip[at] <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let old = le16(ip, 8);
    ip[at] -= 1;
    if !v6 {
        let check = sum::update(le16(ip, 10), old, le16(ip, 8));
        ip[10..12].copy_from_slice(&check.to_le_bytes());
    }
    Ok(())
}

fn outer4(out: &mut Vec<u8>, p: &Parsed, row: &BackendValue, tos: u8) {
    let entropy = outer_entropy(p.hash).to_le_bytes();
    let length = (p.ip_len as u16 + 20).to_be_bytes();
    let mut ip = vec![0x45, tos, length[0], length[1], 0, 0, 0x40, 0, OUTER_TTL, proto::IPIP, 0, 0];
    ip.extend([row.outer_src4[0], row.outer_src4[1], entropy[0], entropy[1]]);
    ip.extend(row.addr4);
    let check = !sum::fold(ip.chunks(2).map(|c| u32::from(le16(c, 0))).sum());
    ip[10..12].copy_from_slice(&check.to_le_bytes());
    out.extend([0x08, 0x00]);
    out.extend(ip);
}

fn outer6(out: &mut Vec<u8>, p: &Parsed, row: &BackendValue, inner: &[u8]) {
    let class = if p.v6 { inner[0] << 4 | inner[1] >> 4 } else { inner[1] };
    let label = (p.hash >> 12) as u32 & 0xf_ffff;
    out.extend([0x86, 0xdd]);
    out.extend((6 << 28 | u32::from(class) << 20 | label).to_be_bytes());
    out.extend((p.ip_len as u16).to_be_bytes());
    out.extend([if p.v6 { proto::IPV6 } else { proto::IPIP }, OUTER_TTL]);
    out.extend(row.outer_src6);
    out.extend(outer_entropy(p.hash).to_le_bytes());
    out.extend(row.addr6);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_decided(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..3u8) {
            if bytes.len() > 14 && kind > 0 {
                let v6 = kind == 2;
                (bytes[12], bytes[13]) = if v6 { (0x86, 0xdd) } else { (8, 0) };
                bytes[14] = if v6 { 0x60 } else { 0x45 };
            }
            fuzz_frame(&bytes);
        }
    }
}
