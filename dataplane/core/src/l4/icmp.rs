//! The model of ICMP at a VIP's address: errors steered, echo answered, too-big messages made.
//!
//! The limits of [`sluice_abi::icmp`] in messages a second are not part of it: who compares must stay below them.

use super::flows::FlowTable;
use super::packet::{
    ETH, Parsed, Tables, Verdict, alive, be16, forwarded, le16, le64, refuse, send, tracking,
};
use sluice_abi::hash::{flow_hash4, flow_hash6, slot_of};
use sluice_abi::icmp::{MTU4_MIN, MTU6_MIN, QUOTE4_MAX, QUOTE6_MAX, answerable4, answerable6};
use sluice_abi::layout::{OUTER_TTL, VipKey4, VipKey6, VipValue, mode, proto};
use sluice_abi::reason::DropReason;
use sluice_abi::sum;

/// An ICMP packet for a known address, whole as its lengths say.
struct Message<'a> {
    tables: &'a Tables,
    frame: &'a [u8],
    v6: bool,
    /// Bytes of the IP header.
    header: usize,
    /// Bytes of the IP packet.
    ip_len: usize,
}

impl<'a> Message<'a> {
    fn ip(&self) -> &'a [u8] {
        &self.frame[ETH..ETH + self.ip_len]
    }

    fn body(&self) -> &'a [u8] {
        &self.ip()[self.header..]
    }

    fn src(&self) -> &'a [u8] {
        if self.v6 { &self.ip()[8..24] } else { &self.ip()[12..16] }
    }

    fn dst(&self) -> &'a [u8] {
        if self.v6 { &self.ip()[24..40] } else { &self.ip()[16..20] }
    }

    fn refuse(&self, reason: DropReason) -> Verdict {
        refuse(self.tables, self.dst(), reason)
    }
}

/// Decides an ICMP packet; `None`: it is none, or is not for the ICMP rules.
pub(super) fn decide(tables: &Tables, flows: &FlowTable, frame: &[u8]) -> Option<Verdict> {
    let ip = frame.get(ETH..).filter(|ip| ip.len() >= 20)?;
    let v6 = match be16(frame, 12) {
        0x0800 => false,
        0x86dd if ip.len() >= 40 => true,
        _ => return None,
    };
    let (header, dst, claimed) = if v6 {
        if ip[0] >> 4 != 6 || ip[6] != proto::ICMPV6 {
            return None;
        }
        (40, &ip[24..40], 40 + usize::from(be16(ip, 4)))
    } else {
        let header = usize::from(ip[0] & 15) * 4;
        let fragment = be16(ip, 6) & 0x3fff != 0;
        if ip[0] >> 4 != 4 || header < 20 || fragment || ip[9] != proto::ICMP {
            return None;
        }
        (header, &ip[16..20], usize::from(be16(ip, 2)))
    };
    let mut key = [0; 16];
    key[..dst.len()].copy_from_slice(dst);
    if !tables.addrs.contains_key(&key) {
        return Some(Verdict::Pass);
    }
    if ip.len() < header + 8 {
        return Some(refuse(tables, dst, DropReason::Truncated));
    }
    if claimed > ip.len() || claimed < header + 8 {
        return Some(refuse(tables, dst, DropReason::BadLength));
    }
    let message = Message { tables, frame, v6, header, ip_len: claimed };
    Some(match (v6, message.body()[0]) {
        (false, 8) | (true, 128) => echo(&message),
        (false, 3 | 11 | 12) | (true, 1..=4) => steer(&message, flows),
        _ => Verdict::Pass,
    })
}

fn forwards_only(message: &Message<'_>) -> bool {
    !matches!(message.refuse(DropReason::BadIcmp), Verdict::Pass)
}

fn echo(message: &Message<'_>) -> Verdict {
    let (src, dst) = (message.src(), message.dst());
    let answerable = if message.v6 { answerable6([src[0], src[1]]) } else { answerable4(src[0]) };
    let plain = message.header == if message.v6 { 40 } else { 20 } && message.body()[1] == 0;
    let to_one_machine = message.frame[0] & 1 == 0;
    if !forwards_only(message) || !plain || !answerable || src == dst || !to_one_machine {
        return Verdict::Pass;
    }
    let mut out = message.frame.to_vec();
    out[..6].copy_from_slice(&message.frame[6..12]);
    out[6..12].copy_from_slice(&message.frame[..6]);
    let (at, size) = if message.v6 { (8, 16) } else { (12, 4) };
    out[ETH + at..ETH + at + size].copy_from_slice(dst);
    out[ETH + at + size..ETH + at + 2 * size].copy_from_slice(src);
    out[ETH + if message.v6 { 7 } else { 8 }] = OUTER_TTL;
    out[ETH + message.header] = if message.v6 { 129 } else { 0 };
    // What was wrong stays as wrong as it was. Of the two zeros of ones' complement, 0xffff is right for a
    // message of zeros and for every other.
    let icmp = ETH + message.header + 2;
    let mut adjust = |check: usize, word: usize| {
        let fixed = sum::update(le16(&out, check), le16(message.frame, word), le16(&out, word));
        let fixed = if !message.v6 && check == icmp && fixed == 0 { 0xffff } else { fixed };
        out[check..check + 2].copy_from_slice(&fixed.to_le_bytes());
    };
    adjust(icmp, ETH + message.header);
    if !message.v6 {
        adjust(ETH + 10, ETH + 8);
    }
    Verdict::Transmit(out)
}

/// What a quoted packet says of its flow.
enum Quoted {
    /// Cut short, or not sent by the address the error came to.
    Wrong,
    /// No port is in it, or no VIP sent it.
    Nothing,
    /// A flow of a VIP.
    Flow(VipValue, u64),
}

fn quoted(message: &Message<'_>) -> Quoted {
    let (quote, tables) = (&message.body()[8..], message.tables);
    let fixed = if message.v6 { 40 } else { 20 };
    if quote.len() < fixed || quote[0] >> 4 != if message.v6 { 6 } else { 4 } {
        return Quoted::Wrong;
    }
    let header = if message.v6 { 40 } else { usize::from(quote[0] & 15) * 4 };
    let src = if message.v6 { &quote[8..24] } else { &quote[12..16] };
    if header < fixed || src != message.dst() {
        return Quoted::Wrong;
    }
    let protocol = quote[if message.v6 { 6 } else { 9 }];
    let later = !message.v6 && be16(quote, 6) & 0x1fff != 0;
    if !matches!(protocol, proto::TCP | proto::UDP) || later {
        return Quoted::Nothing;
    }
    let Some(ports) = quote.get(header..header + 8) else { return Quoted::Wrong };
    let port_be = u16::from_ne_bytes([ports[0], ports[1]]);
    let client_port = le16(ports, 2);
    let found = if message.v6 {
        let addr = std::array::from_fn(|i| src[i]);
        let row = tables.vips6.get(&VipKey6 { addr, port_be, proto: protocol, pad: 0 });
        row.map(|vip| (vip, flow_hash6(vip.seed, le64(quote, 24), le64(quote, 32), client_port)))
    } else {
        let addr = std::array::from_fn(|i| src[i]);
        let client = u32::from_le_bytes(std::array::from_fn(|i| quote[16 + i]));
        let row = tables.vips4.get(&VipKey4 { addr, port_be, proto: protocol, pad: 0 });
        row.map(|vip| (vip, flow_hash4(vip.seed, client, client_port)))
    };
    match found {
        // A quote from beyond NAT names addresses the backend knows nothing of.
        Some((vip, _)) if vip.mode == mode::NAT => Quoted::Nothing,
        Some((vip, hash)) if forwarded(Some(vip)).is_ok() => Quoted::Flow(*vip, hash),
        _ => Quoted::Nothing,
    }
}

fn steer(message: &Message<'_>, flows: &FlowTable) -> Verdict {
    let (vip, hash) = match quoted(message) {
        Quoted::Wrong => return message.refuse(DropReason::BadIcmp),
        Quoted::Nothing => return Verdict::Pass,
        Quoted::Flow(vip, hash) => (vip, hash),
    };
    let Some(slots) = message.tables.slots.get(&vip.id) else {
        return Verdict::Drop(vip.id, DropReason::NoTable);
    };
    let owner =
        flows.owner_of(tracking(&vip), hash, slots[slot_of(hash) as usize], |b| alive(message.tables, b));
    let parsed = Parsed { vip, hash, ip_len: message.ip_len, v6: message.v6, syn: false };
    send(message.tables, &parsed, owner, message.frame)
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2)).map(|c| u32::from(le16(c, 0)));
    (!sum::fold(words.sum())).to_le_bytes()
}

/// The message that tells the sender of `frame` that `room` bytes fit; `None` where none is sent.
pub(super) fn too_big(frame: &[u8], v6: bool, ip_len: usize, room: usize) -> Option<Vec<u8>> {
    let ip = &frame[ETH..];
    let (error, answerable, least) = if v6 {
        (ip[6] == proto::ICMPV6, answerable6([ip[8], ip[9]]), MTU6_MIN)
    } else {
        (ip[9] == proto::ICMP, answerable4(ip[12]), MTU4_MIN)
    };
    let first = v6 || be16(ip, 6) & 0x1fff == 0;
    if error || !answerable || !first || room < least as usize || frame[0] & 1 != 0 {
        return None;
    }
    let most = if v6 { QUOTE6_MAX } else { QUOTE4_MAX };
    let quote = &ip[..ip_len.min(most as usize) & !3];
    let mut out = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
    let length = (8 + quote.len()) as u16;
    let mtu = (room as u32).to_be_bytes();
    let mut icmp = if v6 { vec![2, 0, 0, 0] } else { vec![3, 4, 0, 0] };
    icmp.extend(mtu);
    if v6 {
        let pseudo = [&ip[8..40], &[0, 0], &length.to_be_bytes(), &[0, 0, 0, proto::ICMPV6]].concat();
        let check = checksum(&[&pseudo, &icmp, quote]);
        icmp[2..4].copy_from_slice(&check);
        out.extend([0x60, 0, 0, 0]);
        out.extend(length.to_be_bytes());
        out.extend([proto::ICMPV6, OUTER_TTL]);
        out.extend(&ip[24..40]);
        out.extend(&ip[8..24]);
    } else {
        let check = checksum(&[&icmp, quote]);
        icmp[2..4].copy_from_slice(&check);
        let mut header = vec![0x45, 0xc0];
        header.extend((length + 20).to_be_bytes());
        header.extend([0, 0, 0x40, 0, OUTER_TTL, proto::ICMP, 0, 0]);
        header.extend(&ip[16..20]);
        header.extend(&ip[12..16]);
        let check = checksum(&[&header]);
        header[10..12].copy_from_slice(&check);
        out.extend(header);
    }
    out.extend(icmp);
    out.extend(quote);
    Some(out)
}
