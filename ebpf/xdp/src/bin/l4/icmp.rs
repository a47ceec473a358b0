//! ICMP for VIP addresses: an error goes where the flow it quotes goes, an echo request is answered here, and a
//! packet too large for the way to its backend is answered with the size that fits.
//!
//! Cold: no function here is on the way of a TCP or UDP packet that is forwarded. What is made here is bounded a
//! processor and a second ([`sluice_abi::icmp`]).

use crate::forward::{Packet, VIP_GONE, hand_on, shape};
use crate::maps::{REPLIES, count_event, drop_for};
use crate::{IPV4_MIN, IPV6_LEN, addr_row, bad, flow, maps, vips};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use sluice_abi::hash::{flow_hash4, flow_hash6, slot_of};
use sluice_abi::icmp::{ECHO, answerable4, answerable6, next_due};
use sluice_abi::layout::{OUTER_TTL, VipValue, mode, proto};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::sum;
use sluice_abi::vips::{IPV4, IPV6, Key, ports as port_word};
use sluice_xdp::{ETH_LEN, distance, end, load, start, store};

/// ICMP header, bytes.
pub const ICMP_LEN: usize = 8;
/// As much of a quoted TCP or UDP header as every ICMP error holds (RFC 792).
const QUOTED_L4: usize = 8;
const FRAGMENT_OFFSET: u16 = 0x1fffu16.to_be();

/// Nanoseconds between two messages; the loader writes it before it loads the program.
#[unsafe(no_mangle)]
static ICMP_INTERVAL_NS: u64 = 0x1c3f_00d6;

/// Whether one more message of a kind may be made now.
#[inline(always)]
pub fn may_send(kind: u32) -> bool {
    let Some(due) = REPLIES.get_ptr_mut(kind) else { return false };
    // SAFETY: a word of read-only data, valid as long as the program.
    let interval = unsafe { (&raw const ICMP_INTERVAL_NS).read_volatile() };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: this processor's own copy, valid while the program runs.
    match next_due(unsafe { *due }, now, interval) {
        Some(next) => {
            // SAFETY: as above.
            unsafe { *due = next };
            true
        }
        None => false,
    }
}

/// Passed up: the kernel answers, or knows nothing of it.
fn pass() -> u32 {
    count_event(Event::PassIcmp as u32);
    XDP_PASS
}

/// ICMP to any IPv4 address, not fragmented.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn icmp4(ctx: *mut xdp_md) -> u32 {
    let Some((vip, forwards_only)) = addr_row(ctx) else { return XDP_PASS };
    let ctx = XdpContext::new(ctx);
    let (data, data_end) = (start(&ctx), end(&ctx));
    let ip = data + ETH_LEN;
    if ip + IPV4_MIN > data_end {
        return XDP_PASS;
    }
    // SAFETY: 20 bytes at `ip` were checked.
    let (vihl, total): (u8, u16) = unsafe { (load(ip), load(ip + 2)) };
    let header = ((vihl & 0x0f) as usize) << 2;
    let l4 = ip + header;
    if header < IPV4_MIN || l4 + ICMP_LEN > data_end {
        return bad(vip, forwards_only, DropReason::Truncated as u32);
    }
    let ip_len = u16::from_be(total) as u32;
    if ip_len > distance(data_end, ip) || ip_len < (header + ICMP_LEN) as u32 {
        return bad(vip, forwards_only, DropReason::BadLength as u32);
    }
    // SAFETY: 8 bytes at `l4` were checked.
    match unsafe { load::<u8>(l4) } {
        8 if forwards_only == 1 && header == IPV4_MIN => echo4(data, data_end, vip),
        3 | 11 | 12 => steer4(&ctx, vip, forwards_only, ip, l4, ip_len - header as u32),
        _ => pass(),
    }
}

/// Answers in place.
#[inline(always)]
fn echo4(data: usize, data_end: usize, vip: u32) -> u32 {
    let (ip, l4) = (data + ETH_LEN, data + ETH_LEN + IPV4_MIN);
    if l4 + ICMP_LEN > data_end {
        // Never so: the header is 20 bytes here. Said again for the verifier.
        return XDP_PASS;
    }
    // SAFETY: 42 bytes at `data` were checked.
    let (src, dst, kind, hops): (u32, u32, u16, u16) =
        unsafe { (load(ip + 12), load(ip + 16), load(l4), load(ip + 8)) };
    // To a group or from no host: the kernel's own stack judges it.
    // SAFETY: as above.
    if !answerable4(src as u8) || src == dst || kind >> 8 != 0 || unsafe { load::<u8>(data) } & 1 != 0 {
        return pass();
    }
    if !may_send(ECHO) {
        return drop_for(vip, DropReason::EchoLimited as u32);
    }
    swap_macs(data);
    let fresh = hops & 0xff00 | OUTER_TTL as u16;
    // SAFETY: 42 bytes at `data` were checked.
    unsafe {
        store(ip + 10, sum::update(load(ip + 10), hops, fresh));
        store(ip + 8, fresh);
        store(ip + 12, dst);
        store(ip + 16, src);
        // Type 8 becomes 0, and it is the low byte of its word. Over nothing but zeros the sum must be the
        // other zero, which is as good elsewhere.
        let check = sum::update(load(l4 + 2), kind, 0);
        store(l4 + 2, if check == 0 { 0xffff } else { check });
        store(l4, 0u16);
    }
    count_event(Event::EchoAnswered as u32);
    XDP_TX
}

/// The first 12 bytes from `data` were compared with the end of the frame.
#[inline(always)]
fn swap_macs(data: usize) {
    // SAFETY: 12 bytes at `data` were checked.
    unsafe {
        let (dst, dst_end, src, src_end): (u32, u16, u32, u16) =
            (load(data), load(data + 4), load(data + 6), load(data + 10));
        store(data, src);
        store(data + 4, src_end);
        store(data + 6, dst);
        store(data + 10, dst_end);
    }
}

/// Sends an error to the backend of the flow it quotes: the packet in it went from the VIP to a client. 20 bytes
/// at `ip` and 8 at `l4` were compared with the end of the frame; `room`: bytes of IP payload.
#[inline(always)]
fn steer4(ctx: &XdpContext, id: u32, forwards_only: u32, ip: usize, l4: usize, room: u32) -> u32 {
    let wrong = DropReason::BadIcmp as u32;
    let (quote, data_end) = (l4 + ICMP_LEN, end(ctx));
    if quote + IPV4_MIN > data_end || ((ICMP_LEN + IPV4_MIN) as u32) > room {
        return bad(id, forwards_only, wrong);
    }
    // SAFETY: 20 bytes at `quote` were checked.
    let (vihl, fragment, protocol, vip_addr, client): (u8, u16, u8, u32, u32) =
        unsafe { (load(quote), load(quote + 6), load(quote + 9), load(quote + 12), load(quote + 16)) };
    let header = ((vihl & 0x0f) as usize) << 2;
    // SAFETY: 20 bytes at `ip` were checked.
    let dst: u32 = unsafe { load(ip + 16) };
    if vihl >> 4 != 4 || header < IPV4_MIN || vip_addr != dst {
        return bad(id, forwards_only, wrong);
    }
    if (protocol != proto::TCP && protocol != proto::UDP) || fragment & FRAGMENT_OFFSET != 0 {
        // Honest, and about nothing that a slot could be told from.
        return pass();
    }
    let ports = quote + header;
    if ports + QUOTED_L4 > data_end || (ICMP_LEN + header + QUOTED_L4) as u32 > room {
        return bad(id, forwards_only, wrong);
    }
    // SAFETY: 8 bytes at `ports` were checked.
    let (vip_port, client_port): (u16, u16) = unsafe { (load(ports), load(ports + 2)) };
    let key = Key { lo: vip_addr as u64, hi: 0, ports: port_word(vip_port, protocol, IPV4) };
    let Some(vip) = vips::find_cold(key) else { return pass() };
    let hash = flow_hash4(vip.seed, client, client_port);
    send(ctx, vip, Packet { ip, hash, ip_len: room + distance(l4, ip), v6: false })
}

/// Sends a packet that belongs to a flow without being of it: the flow table is asked, never written.
#[inline(always)]
fn send(ctx: &XdpContext, vip: &VipValue, packet: Packet) -> u32 {
    // A quote from beyond NAT names addresses the backend knows nothing of.
    if vip.mode == mode::LOCAL || vip.mode == mode::NAT {
        return pass();
    }
    let Some(slot) = maps::slot(vip.id, slot_of(packet.hash)) else {
        return drop_for(vip.id, DropReason::NoTable as u32);
    };
    let mut owner = slot.current() as u32;
    let (always, history) = flow::tracking(vip.flags);
    if (slot.previous() & history) as u32 | always != 0 {
        owner = flow::owner_of(packet.hash, slot.0);
    }
    let verdict = hand_on(ctx.ctx, vip.id, owner, packet.hash, shape(packet.ip_len, packet.v6, false));
    if verdict == VIP_GONE {
        return pass();
    }
    if verdict != XDP_DROP {
        count_event(Event::IcmpSteered as u32);
    }
    verdict
}

/// ICMPv6 to any address, directly behind the IPv6 header.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn icmp6(ctx: *mut xdp_md) -> u32 {
    let Some((vip, forwards_only)) = addr_row(ctx) else { return XDP_PASS };
    let ctx = XdpContext::new(ctx);
    let (data, data_end) = (start(&ctx), end(&ctx));
    let ip = data + ETH_LEN;
    let l4 = ip + IPV6_LEN;
    if l4 + ICMP_LEN > data_end {
        return bad(vip, forwards_only, DropReason::Truncated as u32);
    }
    // SAFETY: 48 bytes at `ip` were checked.
    let (length, kind): (u16, u8) = unsafe { (load(ip + 4), load(l4)) };
    let room = u16::from_be(length) as u32;
    if room > distance(data_end, l4) || room < ICMP_LEN as u32 {
        return bad(vip, forwards_only, DropReason::BadLength as u32);
    }
    match kind {
        128 if forwards_only == 1 => echo6(data, vip),
        1..=4 => steer6(&ctx, vip, forwards_only, ip, room),
        _ => pass(),
    }
}

/// Answers in place: 62 bytes from `data` were compared with the end of the frame.
#[inline(always)]
fn echo6(data: usize, vip: u32) -> u32 {
    let (ip, l4) = (data + ETH_LEN, data + ETH_LEN + IPV6_LEN);
    // SAFETY: 62 bytes at `data` were checked.
    let (src_lo, src_hi, dst_lo, dst_hi, kind): (u64, u64, u64, u64, u16) =
        unsafe { (load(ip + 8), load(ip + 16), load(ip + 24), load(ip + 32), load(l4)) };
    let first = [src_lo as u8, (src_lo >> 8) as u8];
    let itself = src_lo == dst_lo && src_hi == dst_hi;
    // SAFETY: as above.
    if !answerable6(first) || itself || kind >> 8 != 0 || unsafe { load::<u8>(data) } & 1 != 0 {
        return pass();
    }
    if !may_send(ECHO) {
        return drop_for(vip, DropReason::EchoLimited as u32);
    }
    swap_macs(data);
    // SAFETY: 62 bytes at `data` were checked.
    unsafe {
        store(ip + 7, OUTER_TTL);
        store(ip + 8, dst_lo);
        store(ip + 16, dst_hi);
        store(ip + 24, src_lo);
        store(ip + 32, src_hi);
        // The pseudo header's sum does not change when its addresses trade places; 128 becomes 129.
        store(l4 + 2, sum::update(load(l4 + 2), kind, kind + 1));
        store(l4, kind + 1);
    }
    count_event(Event::EchoAnswered as u32);
    XDP_TX
}

/// As [`steer4`]. 48 bytes at `ip` were compared with the end of the frame.
#[inline(always)]
fn steer6(ctx: &XdpContext, id: u32, forwards_only: u32, ip: usize, room: u32) -> u32 {
    const ALL: usize = ICMP_LEN + IPV6_LEN + QUOTED_L4;
    let wrong = DropReason::BadIcmp as u32;
    let quote = ip + IPV6_LEN + ICMP_LEN;
    let data_end = end(ctx);
    if quote + IPV6_LEN > data_end || ((ICMP_LEN + IPV6_LEN) as u32) > room {
        return bad(id, forwards_only, wrong);
    }
    // SAFETY: 40 bytes at `quote` were checked.
    let (first, next, vip_lo, vip_hi): (u8, u8, u64, u64) =
        unsafe { (load(quote), load(quote + 6), load(quote + 8), load(quote + 16)) };
    // SAFETY: 40 bytes at `ip` were checked.
    let (dst_lo, dst_hi): (u64, u64) = unsafe { (load(ip + 24), load(ip + 32)) };
    if first >> 4 != 6 || vip_lo != dst_lo || vip_hi != dst_hi {
        return bad(id, forwards_only, wrong);
    }
    if next != proto::TCP && next != proto::UDP {
        return pass();
    }
    let ports = quote + IPV6_LEN;
    if ports + QUOTED_L4 > data_end || ALL as u32 > room {
        return bad(id, forwards_only, wrong);
    }
    // SAFETY: 48 bytes at `quote` were checked.
    let (client_lo, client_hi, vip_port, client_port): (u64, u64, u16, u16) =
        unsafe { (load(quote + 24), load(quote + 32), load(ports), load(ports + 2)) };
    let key = Key { lo: vip_lo, hi: vip_hi, ports: port_word(vip_port, next, IPV6) };
    let Some(vip) = vips::find_cold(key) else { return pass() };
    let hash = flow_hash6(vip.seed, client_lo, client_hi, client_port);
    send(ctx, vip, Packet { ip, hash, ip_len: room + IPV6_LEN as u32, v6: true })
}
