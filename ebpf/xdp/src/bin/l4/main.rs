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
//! Every other end is a named drop of the VIP. What cannot be told to be for a forwarded VIP is passed up: the
//! kernel's own stack judges it.

#![no_std]
#![no_main]
// Compare-and-exchange: the library hides it for this target, the instruction set has had it since v3.
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod flow;
mod forward;
mod maps;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use forward::{Packet, forward};
use maps::{ADDRS, VIPS4, VIPS6, count_drop, count_event};
use sluice_abi::hash::{flow_hash4, flow_hash6, slot_of};
use sluice_abi::layout::{VipKey4, VipKey6, VipValue, mode, proto};
use sluice_abi::reason::{DropReason, Event};
use sluice_xdp::{ETH_IPV4, ETH_IPV6, ETH_LEN, below_32, distance, end, load, start};

const IPV4_MIN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_MIN: usize = 20;
const UDP_LEN: usize = 8;
/// More-fragments flag and fragment offset, as the wire bytes read little-endian.
const FRAGMENT: u16 = 0x3fffu16.to_be();
const TCP_FIN_SYN_RST: u8 = 0x07;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// The XDP program.
#[xdp]
pub fn sluice_l4(ctx: XdpContext) -> u32 {
    let data = start(&ctx);
    if data + ETH_LEN + IPV4_MIN > end(&ctx) {
        return XDP_PASS;
    }
    // SAFETY: 34 bytes were checked.
    let ether_type: u16 = unsafe { load(data + 12) };
    if ether_type == ETH_IPV4 {
        ipv4(&ctx)
    } else if ether_type == ETH_IPV6 {
        ipv6(&ctx)
    } else {
        XDP_PASS
    }
}

/// TCP or UDP header of a packet whose IP header was read.
#[derive(Clone, Copy)]
struct Transport {
    sport: u16,
    dport: u16,
    syn: bool,
    /// Header length it claims, or all it claims for UDP, bytes.
    need: u32,
    fault: u8,
}

#[inline(always)]
fn tcp(l4: usize) -> Transport {
    // SAFETY: the caller checked 20 bytes at `l4`.
    let (sport, dport, offset, flags): (u16, u16, u8, u8) =
        unsafe { (load(l4), load(l4 + 2), load(l4 + 12), load(l4 + 13)) };
    let need = (offset >> 4) as u32 * 4;
    let pair = flags & TCP_FIN_SYN_RST;
    let fault = if need < TCP_MIN as u32 {
        DropReason::BadTcpHeader as u8
    } else if pair & TCP_SYN != 0 && pair != TCP_SYN {
        DropReason::BadTcpFlags as u8
    } else {
        0
    };
    Transport { sport, dport, syn: flags & (TCP_SYN | TCP_ACK) == TCP_SYN, need, fault }
}

#[inline(always)]
fn udp(l4: usize) -> Transport {
    // SAFETY: the caller checked 8 bytes at `l4`.
    let (sport, dport, length): (u16, u16, u16) = unsafe { (load(l4), load(l4 + 2), load(l4 + 4)) };
    let need = u16::from_be(length) as u32;
    let fault = if need < UDP_LEN as u32 { DropReason::BadLength as u8 } else { 0 };
    Transport { sport, dport, syn: false, need, fault }
}

#[inline(always)]
fn ipv4(ctx: &XdpContext) -> u32 {
    let (data, data_end) = (start(ctx), end(ctx));
    let ip = data + ETH_LEN;
    if ip + IPV4_MIN > data_end {
        return XDP_PASS;
    }
    // SAFETY: 20 bytes at `ip` were checked.
    let (vihl, fragment, protocol): (u8, u16, u8) = unsafe { (load(ip), load(ip + 6), load(ip + 9)) };
    let header = ((vihl & 0x0f) as usize) << 2;
    if vihl >> 4 != 4 || header < IPV4_MIN {
        return refuse(ctx, DropReason::BadIpHeader);
    }
    if fragment & FRAGMENT != 0 {
        return refuse(ctx, DropReason::Fragment);
    }
    let l4 = ip + header;
    let (transport, header4) = if protocol == proto::TCP {
        if l4 + TCP_MIN > data_end {
            return refuse(ctx, DropReason::Truncated);
        }
        (tcp(l4), TCP_MIN)
    } else if protocol == proto::UDP {
        if l4 + UDP_LEN > data_end {
            return refuse(ctx, DropReason::Truncated);
        }
        (udp(l4), UDP_LEN)
    } else if protocol == proto::ICMP {
        return icmp(ctx);
    } else {
        return XDP_PASS;
    };
    // SAFETY: 20 bytes at `ip` were checked.
    let (src, dst, total): (u32, [u8; 4], u16) = unsafe { (load(ip + 12), load(ip + 16), load(ip + 2)) };
    let key = VipKey4 { addr: dst, port_be: transport.dport, proto: protocol, pad: 0 };
    // SAFETY: rows are replaced whole by the kernel's hash map and stay valid while the program runs.
    let Some(vip) = (unsafe { VIPS4.get(&key) }) else { return XDP_PASS };
    let ip_len = u16::from_be(total) as u32;
    let frame = distance(data_end, ip);
    let payload = ip_len.wrapping_sub(header as u32);
    let short = ip_len > frame || ip_len < (header + header4) as u32;
    let hash = flow_hash4(vip.seed, src, transport.sport);
    decide(ctx, vip, transport, short || transport.need > payload, Packet { hash, ip_len, v6: false })
}

#[inline(always)]
fn ipv6(ctx: &XdpContext) -> u32 {
    let (data, data_end) = (start(ctx), end(ctx));
    let ip = data + ETH_LEN;
    if ip + IPV6_LEN > data_end {
        return XDP_PASS;
    }
    // SAFETY: 40 bytes at `ip` were checked.
    let (first, next): (u8, u8) = unsafe { (load(ip), load(ip + 6)) };
    if first >> 4 != 6 {
        return refuse(ctx, DropReason::BadIpHeader);
    }
    let l4 = ip + IPV6_LEN;
    let (transport, header4) = if next == proto::TCP {
        if l4 + TCP_MIN > data_end {
            return refuse(ctx, DropReason::Truncated);
        }
        (tcp(l4), TCP_MIN)
    } else if next == proto::UDP {
        if l4 + UDP_LEN > data_end {
            return refuse(ctx, DropReason::Truncated);
        }
        (udp(l4), UDP_LEN)
    } else if next == proto::ICMPV6 {
        return icmp(ctx);
    } else if next == proto::IPV6_FRAGMENT {
        return refuse(ctx, DropReason::Fragment);
    } else if proto::is_ipv6_extension(next) {
        return refuse(ctx, DropReason::Ipv6Extension);
    } else {
        return XDP_PASS;
    };
    // SAFETY: 40 bytes at `ip` were checked.
    let (length, src_lo, src_hi, dst): (u16, u64, u64, [u8; 16]) =
        unsafe { (load(ip + 4), load(ip + 8), load(ip + 16), load(ip + 24)) };
    let key = VipKey6 { addr: dst, port_be: transport.dport, proto: next, pad: 0 };
    // SAFETY: rows are replaced whole by the kernel's hash map and stay valid while the program runs.
    let Some(vip) = (unsafe { VIPS6.get(&key) }) else { return XDP_PASS };
    let payload = u16::from_be(length) as u32;
    let ip_len = payload + IPV6_LEN as u32;
    let frame = distance(data_end, ip);
    let short = ip_len > frame || payload < header4 as u32;
    let hash = flow_hash6(vip.seed, src_lo, src_hi, transport.sport);
    decide(ctx, vip, transport, short || transport.need > payload, Packet { hash, ip_len, v6: true })
}

#[inline(always)]
fn decide(ctx: &XdpContext, vip: &VipValue, transport: Transport, bad_length: bool, packet: Packet) -> u32 {
    if vip.mode == mode::LOCAL {
        count_event(Event::PassLocal);
        return XDP_PASS;
    }
    if transport.fault != 0 {
        return drop_numbered(vip.id, transport.fault);
    }
    if bad_length {
        count_drop(vip.id, DropReason::BadLength);
        return XDP_DROP;
    }
    let Some(slot) = maps::slot(vip.id, slot_of(packet.hash)) else {
        count_drop(vip.id, DropReason::NoTable);
        return XDP_DROP;
    };
    let mut owner = slot.current() as u32;
    if slot.previous() != 0 {
        owner = flow::tracked(packet.hash, slot.0, transport.syn as u32);
        if owner == flow::FULL {
            count_drop(vip.id, DropReason::FlowTableFull);
            return XDP_DROP;
        }
    }
    forward(ctx, vip, packet, owner)
}

#[inline(always)]
fn drop_numbered(vip: u32, reason: u8) -> u32 {
    if reason == DropReason::BadTcpHeader as u8 {
        count_drop(vip, DropReason::BadTcpHeader);
    } else if reason == DropReason::BadTcpFlags as u8 {
        count_drop(vip, DropReason::BadTcpFlags);
    } else {
        count_drop(vip, DropReason::BadLength);
    }
    XDP_DROP
}

/// Destination address of a packet, IPv4 in the first four bytes.
#[inline(always)]
fn destination(ctx: &XdpContext) -> Option<[u8; 16]> {
    let (data, data_end) = (start(ctx), end(ctx));
    if data + ETH_LEN + IPV4_MIN > data_end {
        return None;
    }
    let mut addr = [0u8; 16];
    // SAFETY: 34 bytes were checked.
    if unsafe { load::<u16>(data + 12) } == ETH_IPV4 {
        // SAFETY: 34 bytes were checked.
        let dst: [u8; 4] = unsafe { load(data + ETH_LEN + 16) };
        addr[0] = dst[0];
        addr[1] = dst[1];
        addr[2] = dst[2];
        addr[3] = dst[3];
        return Some(addr);
    }
    if data + ETH_LEN + IPV6_LEN > data_end {
        return None;
    }
    // SAFETY: 54 bytes were checked.
    Some(unsafe { load(data + ETH_LEN + 24) })
}

/// A packet that cannot be forwarded and whose VIP cannot be told: dropped when its address only forwards,
/// else passed up.
#[inline(always)]
fn refuse(ctx: &XdpContext, reason: DropReason) -> u32 {
    refuse_numbered(ctx.ctx, reason as u32)
}

#[inline(never)]
fn refuse_numbered(ctx: *mut aya_ebpf::bindings::xdp_md, reason: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(addr) = destination(&ctx) else { return XDP_PASS };
    // SAFETY: rows are replaced whole by the kernel's hash map and stay valid while the program runs.
    let Some(row) = (unsafe { ADDRS.get(&addr) }) else { return XDP_PASS };
    if row.forwards_only == 0 {
        return XDP_PASS;
    }
    if let Some(counts) = maps::DROPS.get_ptr_mut(row.vip) {
        // SAFETY: this processor's own copy; the index is masked into range.
        unsafe { *(&raw mut (*counts).packets as *mut u64).add(below_32(reason)) += 1 };
    }
    XDP_DROP
}

/// ICMP goes up: the kernel answers echo, and errors it knows nothing of are counted here.
#[inline(never)]
fn icmp_up(ctx: *mut aya_ebpf::bindings::xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(addr) = destination(&ctx) else { return XDP_PASS };
    // SAFETY: rows are replaced whole by the kernel's hash map and stay valid while the program runs.
    if unsafe { ADDRS.get(&addr) }.is_some() {
        count_event(Event::PassIcmp);
    }
    XDP_PASS
}

#[inline(always)]
fn icmp(ctx: &XdpContext) -> u32 {
    icmp_up(ctx.ctx)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
