//! The last step: rewrite or encapsulate, and send.

use crate::gue;
use crate::maps::{BACKENDS, DEVS, VIP_ROWS, count_traffic, drop_for};
use crate::too_big::too_big;
use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use sluice_abi::hash::outer_entropy;
use sluice_abi::layout::{BackendValue, OUTER_TTL, VipValue, backend_flag, mode, proto};
use sluice_abi::reason::DropReason;
use sluice_abi::sum;
use sluice_xdp::{ETH_IPV4, ETH_IPV6, ETH_LEN, end, load, start, store};

/// IPv4 header without options, bytes.
pub const IPV4_LEN: usize = 20;
/// IPv6 header, bytes.
pub const IPV6_LEN: usize = 40;
/// Don't-fragment flag, as the wire bytes read little-endian.
pub const DONT_FRAGMENT: u16 = 0x4000u16.to_be();

/// What the parser learned of a packet.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Start of the IP header; at least 20 bytes from it (40 for IPv6) were compared with the end of the frame.
    pub ip: usize,
    /// Flow hash.
    pub hash: u64,
    /// Length of the IP packet, bytes.
    pub ip_len: u32,
    /// It is IPv6.
    pub v6: bool,
}

/// Sends the packet to backend `id`; `hit`: its flow entry said so.
#[inline(always)]
pub fn forward(ctx: &XdpContext, vip: &VipValue, packet: Packet, id: u32, hit: bool) -> u32 {
    let Some(row) = BACKENDS.get(id) else { return drop_for(vip.id, DropReason::NoBackend as u32) };
    const READY: u16 = backend_flag::PRESENT | backend_flag::HAS_LINK;
    if row.flags & READY != READY {
        // Row 0 is never present: a slot without an owner ends here too.
        let absent = row.flags & backend_flag::PRESENT == 0;
        let reason = if absent { DropReason::NoBackend } else { DropReason::BackendUnreachable };
        return drop_for(vip.id, reason as u32);
    }
    let result = if vip.mode == mode::L2_DIRECT {
        direct(row, packet)
    } else if vip.mode != mode::IPIP {
        let kind = vip.port_be as u32 | if packet.v6 { gue::V6 } else { 0 };
        gue::encapsulate(ctx.ctx, row, packet.hash, packet.ip_len, kind)
    } else if !packet.v6 && row.flags & backend_flag::HAS_V4 != 0 {
        encapsulate4(ctx, row, packet)
    } else {
        encapsulate6(ctx, row, packet)
    };
    if result == DropReason::TooBig as u32 {
        return too_big(ctx.ctx, vip.id, room(vip, row, packet));
    }
    if result != 0 {
        return drop_for(vip.id, result);
    }
    count_traffic(id, packet.ip_len, hit);
    transmit(ctx, vip.id, row.ifindex)
}

/// Sends the frame out of an interface; `vip` counts it when that cannot be.
#[inline(always)]
pub fn transmit(ctx: &XdpContext, vip: u32, ifindex: u32) -> u32 {
    // SAFETY: reading the context's own field.
    if ifindex == unsafe { (*ctx.ctx).ingress_ifindex } {
        return XDP_TX;
    }
    match DEVS.redirect(ifindex, 0) {
        Ok(verdict) => verdict,
        Err(_) => drop_for(vip, DropReason::BackendUnreachable as u32),
    }
}

/// What [`hand_on`] returns when there is no such VIP any more.
pub const VIP_GONE: u32 = u32::MAX;

/// [`forward`] for packets off the steady path: one copy of it, verified by itself. `shape`: [`shape`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn hand_on(ctx: *mut xdp_md, vip: u32, backend: u32, hash: u64, shape: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    let ip = start(&ctx) + ETH_LEN;
    let v6 = shape >> 32 & 1 != 0;
    if ip + IPV4_LEN > end(&ctx) || (v6 && ip + IPV6_LEN > end(&ctx)) {
        return VIP_GONE;
    }
    match VIP_ROWS.get(vip) {
        Some(row) if row.value.id == vip => {
            let packet = Packet { ip, hash, ip_len: shape as u32, v6 };
            forward(&ctx, &row.value, packet, backend, shape >> 33 & 1 != 0)
        }
        _ => VIP_GONE,
    }
}

/// Length and family of an IP packet, and whether its flow's entry named the backend, in one word.
#[inline(always)]
pub fn shape(ip_len: u32, v6: bool, hit: bool) -> u64 {
    ip_len as u64 | (v6 as u64) << 32 | (hit as u64) << 33
}

/// Largest IP packet of a client that fits the way to the backend.
#[inline(always)]
fn room(vip: &VipValue, row: &BackendValue, packet: Packet) -> u32 {
    let overhead = if vip.mode == mode::L2_DIRECT {
        0
    } else if !packet.v6 && row.flags & backend_flag::HAS_V4 != 0 {
        IPV4_LEN as u32
    } else {
        IPV6_LEN as u32
    };
    let udp = if vip.mode == mode::GUE { gue::UDP_LEN as u32 } else { 0 };
    (row.mtu as u32).saturating_sub(overhead + udp)
}

/// Takes one from the TTL or hop limit; `false` when none is left. The caller compared the IP header at `ip` with
/// the end of the frame.
#[inline(always)]
pub fn age(ip: usize, v6: bool) -> bool {
    // SAFETY: offsets 7..12 are inside the IP header, which was checked.
    unsafe {
        if v6 {
            let hops: u8 = load(ip + 7);
            if hops <= 1 {
                return false;
            }
            store(ip + 7, hops - 1);
        } else {
            let ttl: u8 = load(ip + 8);
            if ttl <= 1 {
                return false;
            }
            let check: u16 = load(ip + 10);
            // The TTL is the low byte of its word: taking one from it changes the complement sum by -1.
            store(ip + 8, ttl - 1);
            store(ip + 10, !sum::fold((!check) as u32 + 0xfffe));
        }
    }
    true
}

/// 0, or the number of a drop reason.
#[inline(always)]
fn direct(row: &BackendValue, packet: Packet) -> u32 {
    if packet.ip_len > row.mtu as u32 {
        return DropReason::TooBig as u32;
    }
    if !age(packet.ip, packet.v6) {
        return DropReason::TtlExpired as u32;
    }
    write_macs(packet.ip - ETH_LEN, row);
    0
}

/// Traffic class or TOS of the IP header at `ip`, which the caller compared with the end of the frame.
#[inline(always)]
pub fn class(ip: usize, v6: bool) -> u8 {
    // SAFETY: the IP header was checked.
    let (b0, b1): (u8, u8) = unsafe { (load(ip), load(ip + 1)) };
    if v6 { b0 << 4 | b1 >> 4 } else { b1 }
}

/// Flow label of an outer header: the flow's entropy, for routers that spread by it (RFC 6438).
#[inline(always)]
pub fn label(hash: u64) -> u32 {
    (hash >> 12) as u32 & 0xf_ffff
}

/// Destination and source MAC. The caller checked the Ethernet header against the end of the frame.
#[inline(always)]
pub fn write_macs(data: usize, row: &BackendValue) {
    let macs = &raw const *row as *const u64;
    // SAFETY: the row starts with the two MACs, 12 bytes, in wire order, and is aligned to 8; the first 12
    // bytes of the frame were checked by the caller.
    unsafe {
        store(data, macs.read());
        store(data + 8, (macs.add(1) as *const u32).read());
    }
}

/// 0, or the number of a drop reason.
#[inline(always)]
fn encapsulate4(ctx: &XdpContext, row: &BackendValue, packet: Packet) -> u32 {
    let outer_len = packet.ip_len + IPV4_LEN as u32;
    if outer_len > row.mtu as u32 {
        return DropReason::TooBig as u32;
    }
    if !age(packet.ip, packet.v6) {
        return DropReason::TtlExpired as u32;
    }
    // SAFETY: the IP header was checked.
    let tos: u8 = unsafe { load(packet.ip + 1) };
    // SAFETY: the helper moves the start of the frame; bounds are read again below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IPV4_LEN as i32)) } != 0 {
        return DropReason::NoHeadroom as u32;
    }
    let data = start(ctx);
    if data + ETH_LEN + IPV4_LEN > end(ctx) {
        return DropReason::NoHeadroom as u32;
    }
    write_macs(data, row);
    let length = (outer_len as u16).to_be();
    let entropy = outer_entropy(packet.hash);
    let total = row.outer4_sum as u32 + ((tos as u32) << 8) + length as u32 + entropy as u32;
    let check = !sum::fold(total);
    // The header in two words and the addresses: EtherType, version and TOS, length, id 0; fragment word, TTL
    // and protocol, checksum, high half of the source.
    let first = ETH_IPV4 as u64 | 0x45 << 16 | (tos as u64) << 24 | (length as u64) << 32;
    const FIXED: u64 = DONT_FRAGMENT as u64 | (u16::from_le_bytes([OUTER_TTL, proto::IPIP]) as u64) << 16;
    let src = u16::from_le_bytes([row.outer_src4[0], row.outer_src4[1]]);
    let second = FIXED | (check as u64) << 32 | (src as u64) << 48;
    let dst = &raw const row.addr4 as *const u32;
    // SAFETY: 34 bytes from `data` were checked above; `addr4` lies at a multiple of 4 in the row.
    unsafe {
        store(data + 12, first);
        store(data + 20, second);
        store(data + 28, entropy);
        store(data + 30, dst.read());
    }
    0
}

/// 0, or the number of a drop reason.
#[inline(always)]
fn encapsulate6(ctx: &XdpContext, row: &BackendValue, packet: Packet) -> u32 {
    if row.flags & backend_flag::HAS_V6 == 0 {
        return DropReason::BackendUnreachable as u32;
    }
    if packet.ip_len + IPV6_LEN as u32 > row.mtu as u32 {
        return DropReason::TooBig as u32;
    }
    if !age(packet.ip, packet.v6) {
        return DropReason::TtlExpired as u32;
    }
    let class = class(packet.ip, packet.v6);
    let next = if packet.v6 { proto::IPV6 } else { proto::IPIP };
    // SAFETY: the helper moves the start of the frame; bounds are read again below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IPV6_LEN as i32)) } != 0 {
        return DropReason::NoHeadroom as u32;
    }
    let data = start(ctx);
    if data + ETH_LEN + IPV6_LEN > end(ctx) {
        return DropReason::NoHeadroom as u32;
    }
    write_macs(data, row);
    let ip = data + ETH_LEN;
    let first = 0x6000_0000 | (class as u32) << 20 | label(packet.hash);
    let length = (packet.ip_len as u16).to_be();
    let words = &raw const *row as *const u32;
    // SAFETY: 54 bytes from `data` were checked above; the row is 16 words: `addr6` is words 6..10 and
    // `outer_src6` 14 bytes from word 11 (asserted below).
    unsafe {
        store(data + 12, ETH_IPV6);
        store(ip, first.to_be());
        store(ip + 4, length as u32 | (next as u32) << 16 | (OUTER_TTL as u32) << 24);
        store(ip + 8, words.add(11).read());
        store(ip + 12, words.add(12).read());
        store(ip + 16, words.add(13).read());
        store(ip + 20, (words.add(14) as *const u16).read());
        store(ip + 22, outer_entropy(packet.hash));
        store(ip + 24, words.add(6).read());
        store(ip + 28, words.add(7).read());
        store(ip + 32, words.add(8).read());
        store(ip + 36, words.add(9).read());
    }
    0
}

const _: () = {
    assert!(core::mem::offset_of!(BackendValue, addr4) == 20);
    assert!(core::mem::offset_of!(BackendValue, addr6) == 24);
    assert!(core::mem::offset_of!(BackendValue, outer_src6) == 44);
};
