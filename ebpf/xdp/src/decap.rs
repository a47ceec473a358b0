//! Decapsulation: takes off the outer header of a packet that a balancer sent to this machine.
//!
//! The same lines run in the node's program and, on a machine that balances as well, in the balancer: each says
//! through [`Listed`] which addresses and ports are its own. Handled are 4in4, 4in6, 6in6 and GUE variant 1 over
//! both families. Nonzero outer UDP checksums are not verified: what is inside has checksums of its own.

use crate::{ETH_IPV4, ETH_IPV6, ETH_LEN, distance, end, load, start, store};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use sluice_abi::layout::{decap_flag, proto};
use sluice_abi::reason::DropReason;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const FRAGMENT: u16 = 0x3fffu16.to_be();

/// Not encapsulated for this machine; nothing was changed.
pub const NOT_OURS: u32 = 0;
/// The outer header is off. Any other answer is the number of a drop reason (1 is never one here).
pub const TAKEN_OFF: u32 = 1;

/// What this machine takes off, by map lookups of the program at hand. IPv4 addresses are in the first four bytes.
pub trait Listed {
    /// [`decap_flag`] of an outer destination; 0: not ours.
    fn outer(addr: &[u8; 16]) -> u32;
    /// An inner destination that is ours.
    fn inner(addr: &[u8; 16]) -> bool;
    /// GUE arrives at this UDP port, given in network order.
    fn port(port_be: u16) -> bool;
}

/// Takes the outer header off, if this is such a packet.
#[inline(always)]
pub fn decapsulate<L: Listed>(ctx: &XdpContext) -> u32 {
    let (data, data_end) = (start(ctx), end(ctx));
    let ip = data + ETH_LEN;
    if ip + IPV4_LEN > data_end {
        return NOT_OURS;
    }
    // SAFETY: 34 bytes were checked.
    let ether_type: u16 = unsafe { load(data + 12) };
    if ether_type == ETH_IPV4 {
        return outer4::<L>(ctx, ip, data_end);
    }
    if ether_type != ETH_IPV6 || ip + IPV6_LEN > data_end {
        return NOT_OURS;
    }
    outer6::<L>(ctx, ip, data_end)
}

/// 20 bytes at `ip` were compared with `data_end`.
#[inline(always)]
fn outer4<L: Listed>(ctx: &XdpContext, ip: usize, data_end: usize) -> u32 {
    // SAFETY: 20 bytes at `ip` were checked.
    let (vihl, fragment, protocol): (u8, u16, u8) = unsafe { (load(ip), load(ip + 6), load(ip + 9)) };
    let udp = protocol == proto::UDP;
    if udp {
        // A datagram in fragments is put together by the stack: it is none of a balancer's, which forbids them.
        if vihl != 0x45 || fragment & FRAGMENT != 0 || !gue_port::<L>(ip + IPV4_LEN, data_end) {
            return NOT_OURS;
        }
    } else if protocol != proto::IPIP {
        return NOT_OURS;
    }
    // SAFETY: 20 bytes at `ip` were checked.
    let dst: [u8; 4] = unsafe { load(ip + 16) };
    let wanted = if udp { decap_flag::GUE } else { decap_flag::IPIP };
    if L::outer(&widen(dst)) & wanted == 0 {
        return NOT_OURS;
    }
    if vihl != 0x45 || fragment & FRAGMENT != 0 {
        return DropReason::DecapMalformed as u32;
    }
    // SAFETY: 20 bytes at `ip` were checked.
    let length = u16::from_be(unsafe { load(ip + 2) }) as u32;
    if length > distance(data_end, ip) || length < IPV4_LEN as u32 {
        return DropReason::DecapMalformed as u32;
    }
    let room = length - IPV4_LEN as u32;
    if !udp {
        return inner4::<L>(ctx.ctx, IPV4_LEN as u32, room);
    }
    inside_udp::<L>(ctx, ip + IPV4_LEN, data_end, IPV4_LEN, room)
}

/// 40 bytes at `ip` were compared with `data_end`.
#[inline(always)]
fn outer6<L: Listed>(ctx: &XdpContext, ip: usize, data_end: usize) -> u32 {
    // SAFETY: 40 bytes at `ip` were checked.
    let (next, length): (u8, u16) = unsafe { (load(ip + 6), load(ip + 4)) };
    let wanted = match next {
        proto::IPIP | proto::IPV6 => decap_flag::IPIP,
        proto::UDP if gue_port::<L>(ip + IPV6_LEN, data_end) => decap_flag::GUE,
        _ => return NOT_OURS,
    };
    // SAFETY: 40 bytes at `ip` were checked.
    let dst: [u64; 2] = unsafe { [load(ip + 24), load(ip + 32)] };
    // SAFETY: 16 bytes are 16 bytes.
    if L::outer(unsafe { &*(&raw const dst).cast::<[u8; 16]>() }) & wanted == 0 {
        return NOT_OURS;
    }
    let room = u16::from_be(length) as u32;
    if room + IPV6_LEN as u32 > distance(data_end, ip) {
        return DropReason::DecapMalformed as u32;
    }
    match next {
        proto::IPIP => inner4::<L>(ctx.ctx, IPV6_LEN as u32, room),
        proto::IPV6 => inner6::<L>(ctx.ctx, IPV6_LEN as u32, room),
        _ => inside_udp::<L>(ctx, ip + IPV6_LEN, data_end, IPV6_LEN, room),
    }
}

/// The UDP header at `udp`, if it is whole, is for a port of ours.
#[inline(always)]
fn gue_port<L: Listed>(udp: usize, data_end: usize) -> bool {
    // SAFETY: 8 bytes at `udp` are checked first.
    udp + UDP_LEN <= data_end && L::port(unsafe { load(udp + 2) })
}

/// What follows the UDP header, in `room` bytes with it.
#[inline(always)]
fn inside_udp<L: Listed>(ctx: &XdpContext, udp: usize, data_end: usize, outer: usize, room: u32) -> u32 {
    if udp + UDP_LEN + 1 > data_end {
        return DropReason::DecapMalformed as u32;
    }
    // SAFETY: 9 bytes at `udp` were checked.
    let (length, first): (u16, u8) = unsafe { (load(udp + 4), load(udp + UDP_LEN)) };
    let length = u16::from_be(length) as u32;
    if length > room || length < UDP_LEN as u32 {
        return DropReason::DecapMalformed as u32;
    }
    let (outer, room) = (outer as u32 + UDP_LEN as u32, length - UDP_LEN as u32);
    // The version field of what follows is 01 (variant 1) for both families; other variants have other bits.
    match first >> 4 {
        4 => inner4::<L>(ctx.ctx, outer, room),
        6 => inner6::<L>(ctx.ctx, outer, room),
        _ => DropReason::DecapMalformed as u32,
    }
}

/// `outer`: bytes before the inner header. It comes as a constant of each call, which the verifier follows.
#[inline(never)]
fn inner4<L: Listed>(ctx: *mut xdp_md, outer: u32, room: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let inner = start(&ctx) + ETH_LEN + outer as usize;
    if inner + IPV4_LEN > end(&ctx) {
        return DropReason::DecapMalformed as u32;
    }
    // SAFETY: 20 bytes at `inner` were checked.
    let (vihl, length, dst): (u8, u16, [u8; 4]) = unsafe { (load(inner), load(inner + 2), load(inner + 16)) };
    let length = u16::from_be(length) as u32;
    if vihl >> 4 != 4 || vihl & 0xf < 5 || length > room || length < IPV4_LEN as u32 {
        return DropReason::DecapMalformed as u32;
    }
    if !L::inner(&widen(dst)) {
        return DropReason::DecapUnknownVip as u32;
    }
    take_off(&ctx, outer, ETH_IPV4)
}

#[inline(never)]
fn inner6<L: Listed>(ctx: *mut xdp_md, outer: u32, room: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let inner = start(&ctx) + ETH_LEN + outer as usize;
    if inner + IPV6_LEN > end(&ctx) {
        return DropReason::DecapMalformed as u32;
    }
    // SAFETY: 40 bytes at `inner` were checked.
    let (first, length, dst): (u8, u16, [u64; 2]) =
        unsafe { (load(inner), load(inner + 4), [load(inner + 24), load(inner + 32)]) };
    if first >> 4 != 6 || u16::from_be(length) as u32 + IPV6_LEN as u32 > room {
        return DropReason::DecapMalformed as u32;
    }
    // SAFETY: 16 bytes are 16 bytes.
    if !L::inner(unsafe { &*(&raw const dst).cast::<[u8; 16]>() }) {
        return DropReason::DecapUnknownVip as u32;
    }
    take_off(&ctx, outer, ETH_IPV6)
}

#[inline(always)]
fn take_off(ctx: &XdpContext, outer: u32, ether_type: u16) -> u32 {
    let data = start(ctx);
    if data + ETH_LEN > end(ctx) {
        return DropReason::DecapMalformed as u32;
    }
    // SAFETY: 14 bytes were checked.
    let (macs, rest): (u64, u32) = unsafe { (load(data), load(data + 8)) };
    // SAFETY: the helper moves the start of the frame; bounds are read again below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, outer as i32) } != 0 {
        return DropReason::DecapMalformed as u32;
    }
    let data = start(ctx);
    if data + ETH_LEN > end(ctx) {
        return DropReason::DecapMalformed as u32;
    }
    // SAFETY: 14 bytes were checked.
    unsafe {
        store(data, macs);
        store(data + 8, rest);
        store(data + 12, ether_type);
    }
    TAKEN_OFF
}

#[inline(always)]
fn widen(a: [u8; 4]) -> [u8; 16] {
    [a[0], a[1], a[2], a[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}
