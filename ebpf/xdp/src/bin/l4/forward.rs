//! The last step: rewrite or encapsulate, and send.

use crate::maps::{BACKENDS, DEVS, count_drop, count_traffic};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use sluice_abi::hash::outer_entropy;
use sluice_abi::layout::{BackendValue, OUTER_TTL, VipValue, backend_flag, mode, proto};
use sluice_abi::reason::DropReason;
use sluice_abi::sum;
use sluice_xdp::{ETH_IPV4, ETH_IPV6, ETH_LEN, end, load, start, store};

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// Don't-fragment flag, as the wire bytes read little-endian.
const DONT_FRAGMENT: u16 = 0x4000u16.to_be();

/// What the parser learned of a packet.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Flow hash.
    pub hash: u64,
    /// Length of the IP packet, bytes.
    pub ip_len: u32,
    /// It is IPv6.
    pub v6: bool,
}

#[inline(always)]
fn drop(vip: &VipValue, reason: DropReason) -> u32 {
    count_drop(vip.id, reason);
    XDP_DROP
}

/// Sends the packet to backend `id`. Headers up to the addresses are known to be in the frame.
#[inline(always)]
pub fn forward(ctx: &XdpContext, vip: &VipValue, packet: Packet, id: u32) -> u32 {
    let Some(row) = BACKENDS.get(id) else { return drop(vip, DropReason::NoBackend) };
    if id == 0 || row.flags & backend_flag::PRESENT == 0 {
        return drop(vip, DropReason::NoBackend);
    }
    if row.flags & backend_flag::HAS_LINK == 0 {
        return drop(vip, DropReason::BackendUnreachable);
    }
    let result = if vip.mode == mode::L2_DIRECT {
        direct(ctx, row, packet)
    } else if packet.v6 {
        encapsulate6(ctx, row, packet, proto::IPV6)
    } else if row.flags & backend_flag::HAS_V4 != 0 {
        encapsulate4(ctx, row, packet)
    } else {
        encapsulate6(ctx, row, packet, proto::IPIP)
    };
    if let Err(reason) = result {
        return drop(vip, reason);
    }
    count_traffic(id, packet.ip_len);
    // SAFETY: reading the context's own field.
    if row.ifindex == unsafe { (*ctx.ctx).ingress_ifindex } {
        return XDP_TX;
    }
    DEVS.redirect(row.ifindex, 0).unwrap_or_else(|_| drop(vip, DropReason::BackendUnreachable))
}

/// Takes one from the TTL or hop limit at the front of the frame.
#[inline(always)]
fn age(data: usize, data_end: usize, v6: bool) -> Result<(), DropReason> {
    if data + ETH_LEN + IPV4_LEN > data_end {
        return Err(DropReason::Truncated);
    }
    // SAFETY: offsets 7..=11 of the IP header are inside the 20 bytes checked above.
    unsafe {
        if v6 {
            let hops: u8 = load(data + ETH_LEN + 7);
            if hops <= 1 {
                return Err(DropReason::TtlExpired);
            }
            store(data + ETH_LEN + 7, hops - 1);
        } else {
            let ttl: u8 = load(data + ETH_LEN + 8);
            if ttl <= 1 {
                return Err(DropReason::TtlExpired);
            }
            let check: u16 = load(data + ETH_LEN + 10);
            // The TTL is the low byte of its word: taking one from it adds one to the complement sum.
            store(data + ETH_LEN + 8, ttl - 1);
            store(data + ETH_LEN + 10, !sum::fold((!check) as u32 + 0xfffe));
        }
    }
    Ok(())
}

#[inline(always)]
fn direct(ctx: &XdpContext, row: &BackendValue, packet: Packet) -> Result<(), DropReason> {
    if packet.ip_len > row.mtu as u32 {
        return Err(DropReason::TooBig);
    }
    let data = start(ctx);
    age(data, end(ctx), packet.v6)?;
    write_macs(data, row);
    Ok(())
}

/// Destination and source MAC. The caller checked the Ethernet header against the end of the frame.
#[inline(always)]
fn write_macs(data: usize, row: &BackendValue) {
    let macs = &raw const *row as *const u64;
    // SAFETY: the row starts with the two MACs, 12 bytes, in wire order, and is aligned to 8; the first 12
    // bytes of the frame were checked by the caller.
    unsafe {
        store(data, macs.read());
        store(data + 8, (macs.add(1) as *const u32).read());
    }
}

#[inline(always)]
fn encapsulate4(ctx: &XdpContext, row: &BackendValue, packet: Packet) -> Result<(), DropReason> {
    let outer_len = packet.ip_len + IPV4_LEN as u32;
    if outer_len > row.mtu as u32 {
        return Err(DropReason::TooBig);
    }
    let data = start(ctx);
    age(data, end(ctx), false)?;
    // SAFETY: `age` checked 34 bytes.
    let tos: u8 = unsafe { load(data + ETH_LEN + 1) };
    // SAFETY: the helper moves the start of the frame; bounds are read again below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IPV4_LEN as i32)) } != 0 {
        return Err(DropReason::NoHeadroom);
    }
    let data = start(ctx);
    if data + ETH_LEN + IPV4_LEN > end(ctx) {
        return Err(DropReason::NoHeadroom);
    }
    write_macs(data, row);
    let ip = data + ETH_LEN;
    let version_tos = 0x45u16 | (tos as u16) << 8;
    let length = (outer_len as u16).to_be();
    let entropy = outer_entropy(packet.hash);
    let total = row.outer4_sum as u32 + ((tos as u32) << 8) + length as u32 + entropy as u32;
    // SAFETY: 34 bytes from `data` were checked above.
    unsafe {
        store(data + 12, ETH_IPV4);
        store(ip, version_tos);
        store(ip + 2, length);
        store(ip + 4, (DONT_FRAGMENT as u32) << 16);
        store(ip + 8, u16::from_le_bytes([OUTER_TTL, proto::IPIP]));
        store(ip + 10, !sum::fold(total));
        store(ip + 12, u16::from_le_bytes([row.outer_src4[0], row.outer_src4[1]]));
        store(ip + 14, entropy);
        store(ip + 16, u32::from_le_bytes(row.addr4));
    }
    Ok(())
}

#[inline(always)]
fn encapsulate6(ctx: &XdpContext, row: &BackendValue, packet: Packet, next: u8) -> Result<(), DropReason> {
    if row.flags & backend_flag::HAS_V6 == 0 {
        return Err(DropReason::BackendUnreachable);
    }
    if packet.ip_len + IPV6_LEN as u32 > row.mtu as u32 {
        return Err(DropReason::TooBig);
    }
    let data = start(ctx);
    age(data, end(ctx), packet.v6)?;
    // SAFETY: `age` checked 34 bytes.
    let (b0, b1): (u8, u8) = unsafe { (load(data + ETH_LEN), load(data + ETH_LEN + 1)) };
    let class = if packet.v6 { b0 << 4 | b1 >> 4 } else { b1 };
    // SAFETY: the helper moves the start of the frame; bounds are read again below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IPV6_LEN as i32)) } != 0 {
        return Err(DropReason::NoHeadroom);
    }
    let data = start(ctx);
    if data + ETH_LEN + IPV6_LEN > end(ctx) {
        return Err(DropReason::NoHeadroom);
    }
    write_macs(data, row);
    let ip = data + ETH_LEN;
    // RFC 6438: the flow label carries the flow's entropy for routers that spread by it.
    let first = 0x6000_0000 | (class as u32) << 20 | (packet.hash >> 12) as u32 & 0xf_ffff;
    let src = &raw const row.outer_src6 as *const u16;
    let dst = &raw const row.addr6 as *const u16;
    // SAFETY: 54 bytes from `data` were checked above; the row holds 14 and 16 bytes at those addresses, which
    // are aligned to 2.
    unsafe {
        store(data + 12, ETH_IPV6);
        store(ip, first.to_be());
        store(ip + 4, (packet.ip_len as u16).to_be());
        store(ip + 6, u16::from_le_bytes([next, OUTER_TTL]));
        let mut i = 0;
        while i < 7 {
            store(ip + 8 + 2 * i, src.add(i).read());
            i += 1;
        }
        store(ip + 22, outer_entropy(packet.hash));
        let mut i = 0;
        while i < 8 {
            store(ip + 24 + 2 * i, dst.add(i).read());
            i += 1;
        }
    }
    Ok(())
}
