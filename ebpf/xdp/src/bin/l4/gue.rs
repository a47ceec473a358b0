//! Generic UDP encapsulation, variant 1: the packet follows the UDP header directly and its version tells the
//! family (draft-ietf-intarea-gue-09 section 3.2.2). Cold: a mode of its own, so a call of its own.
//!
//! The outer checksum is zero, over IPv4 as RFC 768 allows and over IPv6 as RFC 6935 allows tunnels: what is
//! inside carries checksums that cover its own addresses.

use crate::forward::{DONT_FRAGMENT, IPV4_LEN, IPV6_LEN, age, class, label, write_macs};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use sluice_abi::hash::{gue_source_port, outer_entropy};
use sluice_abi::layout::{BackendValue, OUTER_TTL, backend_flag, proto};
use sluice_abi::reason::DropReason;
use sluice_abi::sum;
use sluice_xdp::{ETH_IPV4, ETH_IPV6, ETH_LEN, end, start, store};

/// UDP header, bytes.
pub const UDP_LEN: usize = 8;

/// Bit of `kind` in [`encapsulate`]: the packet is IPv6. The low half is the UDP destination port as on the wire.
pub const V6: u32 = 1 << 16;

/// Puts outer IP and UDP headers before the IP packet of `ip_len` bytes. 0, or the number of a drop reason.
#[inline(never)]
pub fn encapsulate(ctx: *mut xdp_md, row: &BackendValue, hash: u64, ip_len: u32, kind: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let v6 = kind & V6 != 0;
    let outer6 = v6 || row.flags & backend_flag::HAS_V4 == 0;
    if outer6 && row.flags & backend_flag::HAS_V6 == 0 {
        return DropReason::BackendUnreachable as u32;
    }
    let udp_len = ip_len + UDP_LEN as u32;
    let overhead = if outer6 { IPV6_LEN } else { IPV4_LEN } as u32;
    if udp_len + overhead > row.mtu as u32 {
        return DropReason::TooBig as u32;
    }
    let ip = start(&ctx) + ETH_LEN;
    if ip + if v6 { IPV6_LEN } else { IPV4_LEN } > end(&ctx) {
        return DropReason::Truncated as u32;
    }
    if !age(ip, v6) {
        return DropReason::TtlExpired as u32;
    }
    let class = class(ip, v6);
    let udp = (gue_source_port(hash).to_be() as u64)
        | (kind as u16 as u64) << 16
        | ((udp_len as u16).to_be() as u64) << 32;
    if outer6 {
        outer6_header(&ctx, row, hash, class, udp)
    } else {
        outer4_header(&ctx, row, hash, class, udp)
    }
}

/// Length of the UDP datagram, from the header's word.
#[inline(always)]
fn length(udp: u64) -> u16 {
    u16::from_be((udp >> 32) as u16)
}

#[inline(always)]
fn outer4_header(ctx: &XdpContext, row: &BackendValue, hash: u64, tos: u8, udp: u64) -> u32 {
    let Some(data) = make_room(ctx, IPV4_LEN + UDP_LEN) else { return DropReason::NoHeadroom as u32 };
    write_macs(data, row);
    let length = (length(udp) + IPV4_LEN as u16).to_be();
    let entropy = outer_entropy(hash);
    // The row's sum is for IPIP; the protocol is the high byte of its word.
    const OTHER_PROTOCOL: u32 = ((proto::UDP - proto::IPIP) as u32) << 8;
    let total = row.outer4_sum as u32 + OTHER_PROTOCOL + ((tos as u32) << 8) + length as u32 + entropy as u32;
    let check = !sum::fold(total);
    let first = ETH_IPV4 as u64 | 0x45 << 16 | (tos as u64) << 24 | (length as u64) << 32;
    const FIXED: u64 = DONT_FRAGMENT as u64 | (u16::from_le_bytes([OUTER_TTL, proto::UDP]) as u64) << 16;
    let src = u16::from_le_bytes([row.outer_src4[0], row.outer_src4[1]]);
    let second = FIXED | (check as u64) << 32 | (src as u64) << 48;
    let dst = &raw const row.addr4 as *const u32;
    // SAFETY: 42 bytes from `data` were checked by `make_room`; `addr4` lies at a multiple of 4 in the row.
    unsafe {
        store(data + 12, first);
        store(data + 20, second);
        store(data + 28, entropy);
        store(data + 30, dst.read());
        store(data + 34, udp);
    }
    0
}

#[inline(always)]
fn outer6_header(ctx: &XdpContext, row: &BackendValue, hash: u64, class: u8, udp: u64) -> u32 {
    let Some(data) = make_room(ctx, IPV6_LEN + UDP_LEN) else { return DropReason::NoHeadroom as u32 };
    write_macs(data, row);
    let ip = data + ETH_LEN;
    let first = 0x6000_0000 | (class as u32) << 20 | label(hash);
    let next = (proto::UDP as u32) << 16 | (OUTER_TTL as u32) << 24;
    let words = &raw const *row as *const u32;
    // SAFETY: 62 bytes from `data` were checked by `make_room`; the row's words are laid out as `forward` asserts.
    unsafe {
        store(data + 12, ETH_IPV6);
        store(ip, first.to_be());
        store(ip + 4, length(udp).to_be() as u32 | next);
        store(ip + 8, words.add(11).read());
        store(ip + 12, words.add(12).read());
        store(ip + 16, words.add(13).read());
        store(ip + 20, (words.add(14) as *const u16).read());
        store(ip + 22, outer_entropy(hash));
        store(ip + 24, words.add(6).read());
        store(ip + 28, words.add(7).read());
        store(ip + 32, words.add(8).read());
        store(ip + 36, words.add(9).read());
        store(ip + 40, udp);
    }
    0
}

/// Start of the frame with `bytes` more before its IP header, and the Ethernet header and those compared with the
/// end of the frame.
#[inline(always)]
fn make_room(ctx: &XdpContext, bytes: usize) -> Option<usize> {
    // SAFETY: the helper moves the start of the frame; bounds are read again below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(bytes as i32)) } != 0 {
        return None;
    }
    let data = start(ctx);
    if data + ETH_LEN + bytes > end(ctx) { None } else { Some(data) }
}
