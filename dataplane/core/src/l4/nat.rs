//! The model of full NAT: what becomes of a packet of a client, and of the reply.
//!
//! **Promise.** A source address and port belong to one flow for each backend and transport at a time; a flow keeps
//! its backend and its port while it lasts; its packets and their replies cross over to each other's addresses and
//! back without a trace. What lasts, and how a port is picked, is said in `sluice_abi::nat`.

use super::flows::FlowTable;
use super::packet::{Parsed, Tables, Verdict, age, alive, decide as decide_other, parse};
use sluice_abi::hash::slot_of;
use sluice_abi::layout::{BackendValue, backend_flag, mode, proto};
use sluice_abi::nat::{
    NAT_PROBES, NatFlow, NatKey, NatSources, nat_closed, nat_deltas, nat_flag, nat_idle, nat_over, nat_try,
};
use sluice_abi::reason::DropReason;
use sluice_abi::sum::fold;
use std::collections::BTreeMap;

const ETH: usize = 14;

/// What the maps of NAT hold.
#[derive(Clone, Debug, Default)]
pub struct NatTable {
    /// Entries of both directions.
    pub flows: BTreeMap<NatKey, NatFlow>,
    /// Source addresses by VIP id.
    pub sources: BTreeMap<u32, NatSources>,
    /// Room for entries.
    pub room: usize,
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn address(bytes: &[u8]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..bytes.len()].copy_from_slice(bytes);
    address
}

fn words(a: &[u8; 16], b: &[u8; 16]) -> [u64; 4] {
    let word = |a: &[u8; 16], at: usize| u64::from_le_bytes(std::array::from_fn(|i| a[at + i]));
    [word(a, 0), word(a, 8), word(b, 0), word(b, 8)]
}

fn port_word(sport_be: u16, dport_be: u16) -> u32 {
    u32::from(sport_be.to_le()) | u32::from(dport_be.to_le()) << 16
}

/// TCP or UDP packet, whole up to its ports: key, whether it is IPv6, where the transport header is.
fn key_of(ip: &[u8], v6: bool) -> Option<(NatKey, usize)> {
    let least = if v6 { 40 } else { 20 };
    if ip.len() < least || (!v6 && (ip[0] >> 4 != 4 || ip[0] & 15 < 5 || be16(ip, 6) & 0x3fff != 0)) {
        return None;
    }
    let (header, protocol) = if v6 { (40, ip[6]) } else { (usize::from(ip[0] & 15) * 4, ip[9]) };
    if (v6 && ip[0] >> 4 != 6) || (protocol != proto::TCP && protocol != proto::UDP) || ip.len() < header + 8
    {
        return None;
    }
    let (src, dst) = if v6 { (&ip[8..24], &ip[24..40]) } else { (&ip[12..16], &ip[16..20]) };
    let port = |at: usize| u16::from_ne_bytes([ip[at], ip[at + 1]]);
    let key = NatKey {
        src: address(src),
        dst: address(dst),
        sport_be: port(header),
        dport_be: port(header + 2),
        proto: protocol,
        pad: [0; 3],
    };
    Some((key, header))
}

fn opposite(flow: &NatFlow, protocol: u8) -> NatKey {
    NatKey {
        src: flow.dst,
        dst: flow.src,
        sport_be: flow.dport_be,
        dport_be: flow.sport_be,
        proto: protocol,
        pad: [0; 3],
    }
}

/// What `from` becomes by leaving as `to`.
fn rewriting(from: &NatKey, to: &NatKey, flow: NatFlow) -> NatFlow {
    let (l4_delta, ip_delta) = nat_deltas(
        words(&from.src, &from.dst),
        port_word(from.sport_be, from.dport_be),
        words(&to.src, &to.dst),
        port_word(to.sport_be, to.dport_be),
    );
    let (src, dst, sport_be, dport_be) = (to.src, to.dst, to.sport_be, to.dport_be);
    NatFlow { src, dst, sport_be, dport_be, l4_delta, ip_delta, ..flow }
}

const fn turned(key: &NatKey) -> NatKey {
    NatKey { src: key.dst, dst: key.src, sport_be: key.dport_be, dport_be: key.sport_be, ..*key }
}

/// Decides a frame on a box with VIPs of mode NAT. `now` is in units of [`sluice_abi::nat::nat_units`], `flow_now`
/// in those of the flow table.
pub fn decide(
    tables: &Tables,
    flows: &mut FlowTable,
    nat: &mut NatTable,
    (now, flow_now): (u32, u64),
    frame: &[u8],
) -> Verdict {
    let v6 = frame.len() >= ETH && be16(frame, 12) == 0x86dd;
    let ip_packet = v6 || (frame.len() >= ETH && be16(frame, 12) == 0x0800);
    match parse(tables, frame) {
        Ok(parsed) if parsed.vip.mode == mode::NAT => match forward(tables, nat, &parsed, now, frame) {
            Ok((ifindex, out)) if ifindex == tables.ifindex => Verdict::Transmit(out),
            Ok((ifindex, out)) => Verdict::Redirect(ifindex, out),
            Err(reason) => Verdict::Drop(parsed.vip.id, reason),
        },
        Err(Verdict::Pass) if ip_packet => {
            match key_of(&frame[ETH..], v6).and_then(|(key, at)| back(tables, nat, &key, at, now, frame)) {
                Some(verdict) => verdict,
                None => decide_other(tables, flows, flow_now, frame),
            }
        }
        _ => decide_other(tables, flows, flow_now, frame),
    }
}

fn forward(
    tables: &Tables,
    nat: &mut NatTable,
    p: &Parsed,
    now: u32,
    frame: &[u8],
) -> Result<(u32, Vec<u8>), DropReason> {
    let (key, at) = key_of(&frame[ETH..], p.v6).ok_or(DropReason::Truncated)?;
    if let Some(flow) = nat.flows.get(&key).copied() {
        let reverse = opposite(&flow, key.proto);
        let ended = match nat.flows.get(&reverse) {
            Some(back) => nat_closed(flow.flags, back.flags),
            None => true,
        };
        if !alive(tables, flow.backend) || (p.syn && ended) {
            nat.flows.remove(&reverse);
            nat.flows.remove(&key);
        }
    }
    if !nat.flows.contains_key(&key) {
        if key.proto == proto::TCP && !p.syn {
            return Err(DropReason::NatNoFlow);
        }
        begin(tables, nat, p, &key, now, frame)?;
    }
    let flow = nat.flows[&key];
    let row = &tables.backends[&flow.backend];
    if row.flags & backend_flag::HAS_LINK == 0 {
        return Err(DropReason::BackendUnreachable);
    }
    if p.ip_len > usize::from(row.mtu) {
        return Err(DropReason::TooBig);
    }
    let arrived = arrival(tables, frame, flow);
    if (arrived.macs, arrived.ifindex) != (flow.macs, flow.ifindex) {
        for key in [key, opposite(&flow, key.proto)] {
            if let Some(entry) = nat.flows.get_mut(&key) {
                (entry.macs, entry.ifindex) = (arrived.macs, arrived.ifindex);
            }
        }
    }
    let mut out = [&row.dst_mac[..], &row.src_mac[..], &frame[12..]].concat();
    let flags = rewrite(&mut out[ETH..], at, p.v6, &flow)?;
    note(nat, &key, flags, now);
    Ok((row.ifindex, out))
}

fn arrival(tables: &Tables, frame: &[u8], flow: NatFlow) -> NatFlow {
    let macs = std::array::from_fn(|i| frame[(i + 6) % 12]);
    NatFlow { macs, ifindex: tables.ifindex, ..flow }
}

fn begin(
    tables: &Tables,
    nat: &mut NatTable,
    p: &Parsed,
    key: &NatKey,
    now: u32,
    frame: &[u8],
) -> Result<(), DropReason> {
    let slots = tables.slots.get(&p.vip.id).ok_or(DropReason::NoTable)?;
    let owner = slots[slot_of(p.hash) as usize].current();
    let row = tables.backends.get(&owner).filter(|row| row.flags & backend_flag::PRESENT != 0);
    let row = row.ok_or(DropReason::NoBackend)?;
    let addr = backend_address(row, p.v6).ok_or(DropReason::BackendUnreachable)?;
    let idle = nat_idle(p.vip.flow_idle_ms.into());
    let fresh = NatFlow { seen: now, idle, backend: owner, vip: p.vip.id, ..NatFlow::default() };
    let fresh = arrival(tables, frame, fresh);
    let sources = *nat.sources.get(&p.vip.id).ok_or(DropReason::NatNoSource)?;
    let port_be = if p.vip.port_be == 0 { key.dport_be } else { p.vip.port_be };
    for n in 0..NAT_PROBES {
        let (source, port) = nat_try(p.hash, n, sources.count);
        let leaving = NatKey {
            src: sources.addrs[source as usize],
            dst: addr,
            sport_be: port.to_be(),
            dport_be: port_be,
            ..*key
        };
        let answer = turned(&leaving);
        if let Some(held) = nat.flows.get(&answer).copied() {
            let there = opposite(&held, key.proto);
            let (flags, seen) =
                nat.flows.get(&there).map_or((nat_flag::SEEN, held.seen), |f| (f.flags, f.seen));
            if !nat_over(flags, held.flags, held.idle, (seen, held.seen), now) {
                continue;
            }
            nat.flows.remove(&there);
            nat.flows.remove(&answer);
        }
        if nat.flows.len() + 2 > nat.room {
            return Err(DropReason::NatTableFull);
        }
        let back = rewriting(&answer, &turned(key), NatFlow { flags: nat_flag::REVERSE, ..fresh });
        let there = rewriting(key, &leaving, NatFlow { flags: nat_flag::SEEN, ..fresh });
        nat.flows.insert(answer, back);
        nat.flows.insert(*key, there);
        return Ok(());
    }
    Err(DropReason::NatPortsExhausted)
}

fn backend_address(row: &BackendValue, v6: bool) -> Option<[u8; 16]> {
    let has = |flag: u16| row.flags & (flag | backend_flag::HAS_LINK) == flag | backend_flag::HAS_LINK;
    match v6 {
        true => has(backend_flag::HAS_V6).then_some(row.addr6),
        false => has(backend_flag::HAS_V4).then(|| address(&row.addr4)),
    }
}

/// A backend's packet, if it is of a flow.
fn back(
    tables: &Tables,
    nat: &mut NatTable,
    key: &NatKey,
    at: usize,
    now: u32,
    frame: &[u8],
) -> Option<Verdict> {
    let flow = *nat.flows.get(key).filter(|flow| flow.flags & nat_flag::REVERSE != 0)?;
    let v6 = be16(frame, 12) == 0x86dd;
    let ip = &frame[ETH..];
    let length = if v6 { 40 + usize::from(be16(ip, 4)) } else { usize::from(be16(ip, 2)) };
    if length > ip.len() {
        return Some(Verdict::Drop(flow.vip, DropReason::BadLength));
    }
    let mut out = [&flow.macs[..], &frame[12..]].concat();
    Some(match rewrite(&mut out[ETH..], at, v6, &flow) {
        Err(reason) => Verdict::Drop(flow.vip, reason),
        Ok(flags) => {
            note(nat, key, flags, now);
            if flow.ifindex == tables.ifindex {
                Verdict::Transmit(out)
            } else {
                Verdict::Redirect(flow.ifindex, out)
            }
        }
    })
}

fn note(nat: &mut NatTable, key: &NatKey, tcp_flags: u8, now: u32) {
    let Some(flow) = nat.flows.get_mut(key) else { return };
    flow.seen = now;
    flow.flags |= nat_flag::SEEN;
    if tcp_flags & 1 != 0 {
        flow.flags |= nat_flag::FIN;
    }
    if tcp_flags & 4 != 0 {
        flow.flags |= nat_flag::RST;
    }
}

/// Writes addresses, ports and checksums; the TCP flags of the packet, 0 for UDP.
fn rewrite(ip: &mut [u8], at: usize, v6: bool, flow: &NatFlow) -> Result<u8, DropReason> {
    let tcp = (if v6 { ip[6] } else { ip[9] }) == proto::TCP;
    if tcp && ip.len() < at + 20 {
        return Err(DropReason::BadTcpHeader);
    }
    age(ip, v6)?;
    let add = |ip: &mut [u8], at: usize, delta: u16| {
        let check = u16::from_le_bytes([ip[at], ip[at + 1]]);
        let new = !fold(u32::from(!check) + u32::from(delta));
        ip[at..at + 2].copy_from_slice(&new.to_le_bytes());
        new
    };
    if tcp {
        add(ip, at + 16, flow.l4_delta);
    } else if ip[at + 6..at + 8] != [0, 0] && add(ip, at + 6, flow.l4_delta) == 0 {
        ip[at + 6..at + 8].fill(0xff);
    }
    ip[at..at + 2].copy_from_slice(&flow.sport_be.to_ne_bytes());
    ip[at + 2..at + 4].copy_from_slice(&flow.dport_be.to_ne_bytes());
    if v6 {
        ip[8..24].copy_from_slice(&flow.src);
        ip[24..40].copy_from_slice(&flow.dst);
    } else {
        add(ip, 10, flow.ip_delta);
        ip[12..16].copy_from_slice(&flow.src[..4]);
        ip[16..20].copy_from_slice(&flow.dst[..4]);
    }
    Ok(if tcp { ip[at + 13] } else { 0 })
}
