//! The balancer: one XDP program from frame to verdict.
//!
//! ```text
//! frame -> parse -> VIP? -no-> pass up
//!                    | yes
//!                    v
//!          checks -> slot of the hash -> history? -no-> current owner -+-> rewrite or encapsulate -> send
//!                                          | yes                       |
//!                                          +-> flow table (flow.rs) ---+
//! ```
//! What a VIP wants beyond that is behind one test of its flags.
//! Every other end is a named drop of the VIP. What cannot be told to be for a forwarded VIP is passed up: the
//! kernel's own stack judges it.

#![no_std]
#![no_main]
// Compare-and-exchange: the library hides it for this target, the instruction set has had it since v3.
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod flow;
mod forward;
mod fragment;
mod gue;
mod icmp;
mod maps;
mod nat;
mod options;
mod too_big;
mod vips;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use forward::{Packet, forward};
use maps::{ADDRS, count_event, drop_for};
use sluice_abi::hash::{flow_hash4, flow_hash6, slot_of};
use sluice_abi::layout::{VipValue, feature, mode, proto, vip_flag};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::vips::{IPV4, IPV6, Key, ports};
use sluice_xdp::{ETH_IPV4, ETH_IPV6, ETH_LEN, distance, end, load, start};

const IPV4_MIN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_MIN: usize = 20;
/// UDP header, and as much of a TCP header as holds its ports.
const UDP_LEN: usize = 8;
/// More-fragments flag and fragment offset, as the wire bytes read little-endian.
const FRAGMENT: u16 = 0x3fffu16.to_be();
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// The XDP program.
#[xdp]
pub fn sluice_l4(ctx: XdpContext) -> u32 {
    let (data, data_end) = (start(&ctx), end(&ctx));
    if data + ETH_LEN + IPV4_MIN > data_end {
        return XDP_PASS;
    }
    // SAFETY: 34 bytes were checked.
    let ether_type: u16 = unsafe { load(data + 12) };
    if ether_type == ETH_IPV4 {
        ipv4(&ctx, data + ETH_LEN, data_end)
    } else if ether_type == ETH_IPV6 {
        ipv6(&ctx, data + ETH_LEN, data_end)
    } else {
        XDP_PASS
    }
}

/// 20 bytes at `ip` were compared with `data_end`.
#[inline(always)]
fn ipv4(ctx: &XdpContext, ip: usize, data_end: usize) -> u32 {
    // SAFETY: 20 bytes at `ip` were checked.
    let (vihl, fragment, protocol): (u8, u16, u8) = unsafe { (load(ip), load(ip + 6), load(ip + 9)) };
    let mut header = IPV4_MIN;
    if vihl != 0x45 {
        header = ((vihl & 0x0f) as usize) << 2;
        if vihl >> 4 != 4 || header < IPV4_MIN {
            return refuse(ctx.ctx, DropReason::BadIpHeader as u32);
        }
        let reason = options::judge_options(ctx.ctx);
        if reason != 0 {
            return refuse(ctx.ctx, reason);
        }
    }
    if fragment & FRAGMENT != 0 {
        return fragment::fragment4(ctx.ctx);
    }
    if protocol != proto::TCP && protocol != proto::UDP {
        return if protocol == proto::ICMP { icmp::icmp4(ctx.ctx) } else { XDP_PASS };
    }
    let l4 = ip + header;
    if l4 + UDP_LEN > data_end {
        return refuse(ctx.ctx, DropReason::Truncated as u32);
    }
    // SAFETY: 20 bytes at `ip` and 8 at `l4` were checked.
    let (dst, dport): (u32, u16) = unsafe { (load(ip + 16), load(l4 + 2)) };
    let key = Key { lo: dst as u64, hi: 0, ports: ports(dport, protocol, IPV4) };
    let Some(vip) = vips::find(key) else { return no_vip(ctx.ctx) };
    if vip.mode == mode::LOCAL {
        return pass_local();
    }
    // SAFETY: 20 bytes at `ip` and 8 at `l4` were checked.
    let (src, total, sport): (u32, u16, u16) = unsafe { (load(ip + 12), load(ip + 2), load(l4)) };
    let ip_len = u16::from_be(total) as u32;
    if ip_len > distance(data_end, ip) || ip_len < header as u32 {
        return drop_for(vip.id, DropReason::BadLength as u32);
    }
    let verdict = transport(l4, data_end, ip_len - header as u32, protocol);
    if verdict > 1 {
        return drop_for(vip.id, verdict);
    }
    let hash = flow_hash4(vip.seed, src, sport);
    deliver(ctx, vip, verdict, Packet { ip, hash, ip_len, v6: false })
}

/// 20 bytes at `ip` were compared with `data_end`.
#[inline(always)]
fn ipv6(ctx: &XdpContext, ip: usize, data_end: usize) -> u32 {
    let l4 = ip + IPV6_LEN;
    if l4 > data_end {
        return XDP_PASS;
    }
    // SAFETY: 40 bytes at `ip` were checked.
    let (first, next): (u8, u8) = unsafe { (load(ip), load(ip + 6)) };
    if first >> 4 != 6 {
        return refuse(ctx.ctx, DropReason::BadIpHeader as u32);
    }
    if next != proto::TCP && next != proto::UDP {
        return ipv6_other(ctx.ctx, next as u32);
    }
    if l4 + UDP_LEN > data_end {
        return refuse(ctx.ctx, DropReason::Truncated as u32);
    }
    // SAFETY: 48 bytes at `ip` were checked.
    let (lo, hi, dport): (u64, u64, u16) = unsafe { (load(ip + 24), load(ip + 32), load(l4 + 2)) };
    let key = Key { lo, hi, ports: ports(dport, next, IPV6) };
    let Some(vip) = vips::find(key) else { return no_vip(ctx.ctx) };
    if vip.mode == mode::LOCAL {
        return pass_local();
    }
    // SAFETY: 48 bytes at `ip` were checked.
    let (length, src_lo, src_hi, sport): (u16, u64, u64, u16) =
        unsafe { (load(ip + 4), load(ip + 8), load(ip + 16), load(l4)) };
    let payload = u16::from_be(length) as u32;
    let ip_len = payload + IPV6_LEN as u32;
    if ip_len > distance(data_end, ip) {
        return drop_for(vip.id, DropReason::BadLength as u32);
    }
    let verdict = transport(l4, data_end, payload, next);
    if verdict > 1 {
        return drop_for(vip.id, verdict);
    }
    let hash = flow_hash6(vip.seed, src_lo, src_hi, sport);
    deliver(ctx, vip, verdict, Packet { ip, hash, ip_len, v6: true })
}

/// Checks a TCP or UDP header of which 8 bytes were compared with `data_end`, in `room` bytes of payload.
/// 1: begins a flow; 0: does not; above: the number of a drop reason (`Truncated`, which is 1, is never one).
#[inline(always)]
fn transport(l4: usize, data_end: usize, room: u32, protocol: u8) -> u32 {
    if protocol == proto::UDP {
        // SAFETY: 8 bytes at `l4` were checked.
        let length = u16::from_be(unsafe { load(l4 + 4) }) as u32;
        return if length < UDP_LEN as u32 || length > room { DropReason::BadLength as u32 } else { 0 };
    }
    if room < TCP_MIN as u32 {
        return DropReason::BadLength as u32;
    }
    if l4 + TCP_MIN > data_end {
        // Never so: `room` ends in the frame. Said again for the verifier.
        return DropReason::BadLength as u32;
    }
    // SAFETY: 20 bytes at `l4` were checked.
    let (offset, flags): (u8, u8) = unsafe { (load(l4 + 12), load(l4 + 13)) };
    let header = (offset >> 4) as u32 * 4;
    if header < TCP_MIN as u32 || header > room {
        return DropReason::BadTcpHeader as u32;
    }
    tcp_begins(flags)
}

/// As [`transport`], from the flags alone.
#[inline(always)]
fn tcp_begins(flags: u8) -> u32 {
    if flags & TCP_SYN == 0 {
        return 0;
    }
    if flags & (TCP_FIN | TCP_RST) != 0 {
        return DropReason::BadTcpFlags as u32;
    }
    (flags & TCP_ACK == 0) as u32
}

#[inline(always)]
fn deliver(ctx: &XdpContext, vip: &VipValue, syn: u32, packet: Packet) -> u32 {
    if vip.flags != 0 && vip.flags & vip_flag::NAT != 0 {
        let family = if packet.v6 { nat::V6 } else { 0 };
        return nat::forward(ctx.ctx, vip, packet.hash, packet.ip_len | family | syn * nat::SYN);
    }
    match owner_of(vip, syn, packet.hash) {
        Ok((owner, hit)) => forward(ctx, vip, packet, owner, hit),
        Err(reason) => drop_for(vip.id, reason),
    }
}

/// Backend id for a packet of a flow, and whether its entry said so; `Err`: a drop reason.
#[inline(always)]
fn owner_of(vip: &VipValue, syn: u32, hash: u64) -> Result<(u32, bool), u32> {
    // What the flow table is asked, and of which slots.
    let (mut always, mut history) = (0, u16::MAX);
    if vip.flags != 0 {
        (always, history) = flow::tracking(vip.flags);
    }
    let Some(slot) = maps::slot(vip.id, slot_of(hash)) else {
        return Err(DropReason::NoTable as u32);
    };
    if (slot.previous() & history) as u32 | always == 0 {
        return Ok((slot.current() as u32, false));
    }
    match flow::owner(hash, slot, syn | always) {
        (flow::FULL, _) => Err(DropReason::FlowTableFull as u32),
        found => Ok(found),
    }
}

/// A TCP or UDP packet for no VIP.
#[inline(never)]
fn no_vip(ctx: *mut xdp_md) -> u32 {
    if maps::features() & feature::NAT != 0 { nat::back(ctx) } else { XDP_PASS }
}

#[inline(never)]
fn pass_local() -> u32 {
    count_event(Event::PassLocal as u32);
    XDP_PASS
}

/// What is known of the destination address.
#[inline(always)]
fn addr_row(ctx: *mut xdp_md) -> Option<(u32, u32)> {
    let ctx = XdpContext::new(ctx);
    let (data, data_end) = (start(&ctx), end(&ctx));
    if data + ETH_LEN + IPV4_MIN > data_end {
        return None;
    }
    let mut addr = [0u64; 2];
    // SAFETY: 34 bytes were checked.
    if unsafe { load::<u16>(data + 12) } == ETH_IPV4 {
        // SAFETY: 34 bytes were checked.
        addr[0] = unsafe { load::<u32>(data + ETH_LEN + 16) } as u64;
    } else {
        if data + ETH_LEN + IPV6_LEN > data_end {
            return None;
        }
        // SAFETY: 54 bytes were checked.
        addr = unsafe { [load(data + ETH_LEN + 24), load(data + ETH_LEN + 32)] };
    }
    // SAFETY: 16 bytes are 16 bytes; rows are replaced whole and stay valid while the program runs.
    let row = unsafe { ADDRS.get(&*(&raw const addr).cast::<[u8; 16]>()) }?;
    Some((row.vip, row.forwards_only))
}

/// A packet that cannot be forwarded and whose VIP cannot be told: dropped when its address only forwards,
/// else passed up.
#[inline(never)]
fn refuse(ctx: *mut xdp_md, reason: u32) -> u32 {
    match addr_row(ctx) {
        Some((vip, forwards_only)) => bad(vip, forwards_only, reason),
        None => XDP_PASS,
    }
}

/// As [`refuse`], when the address was looked up.
#[inline(always)]
fn bad(vip: u32, forwards_only: u32, reason: u32) -> u32 {
    if forwards_only == 1 { drop_for(vip, reason) } else { XDP_PASS }
}

/// An IPv6 packet whose next header is neither TCP nor UDP.
#[inline(never)]
fn ipv6_other(ctx: *mut xdp_md, next: u32) -> u32 {
    let next = next as u8;
    if next == proto::ICMPV6 {
        icmp::icmp6(ctx)
    } else if next == proto::IPV6_FRAGMENT || proto::is_ipv6_extension(next) {
        fragment::extended6(ctx)
    } else {
        XDP_PASS
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
