//! Too-big messages: what a router says of a packet that does not fit the next link (RFC 792, RFC 1191, RFC 4443).
//!
//! The balancer never fragments, so the message goes out whether or not an IPv4 sender set don't-fragment: one that
//! did not fragments from then on. It leaves by the interface the packet came from, to the machine it came from.

use crate::icmp::{ICMP_LEN, may_send};
use crate::maps::{count_event, drop_for};
use crate::{IPV4_MIN, IPV6_LEN};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use sluice_abi::icmp::{MTU4_MIN, MTU6_MIN, QUOTE4_MAX, QUOTE6_MAX, TOO_BIG, answerable4, answerable6};
use sluice_abi::layout::{OUTER_TTL, proto};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::sum;
use sluice_xdp::{ETH_IPV4, ETH_IPV6, ETH_LEN, distance, end, load, opaque, start, store};

/// Class selector 6, internetwork control (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;
const DONT_FRAGMENT: u16 = 0x4000u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fffu16.to_be();

/// Drops a packet of a VIP that is too big for the way to its backend, of which `mtu` bytes are left to it, and
/// answers its sender where that is of use. The frame is as it arrived.
#[inline(never)]
pub fn too_big(ctx: *mut xdp_md, vip: u32, mtu: u32) -> u32 {
    drop_for(vip, DropReason::TooBig as u32);
    let ctx = XdpContext::new(ctx);
    let (data, data_end) = (start(&ctx), end(&ctx));
    if data + ETH_LEN + IPV4_MIN > data_end {
        return XDP_DROP;
    }
    // SAFETY: 34 bytes were checked.
    let (ether_type, first): (u16, u8) = unsafe { (load(data + 12), load(data)) };
    // To a group of machines: nobody is told (RFC 1122 section 3.2.2).
    if first & 1 != 0 {
        return XDP_DROP;
    }
    let sent = if ether_type == ETH_IPV4 { answer4(&ctx, mtu) } else { answer6(&ctx, mtu) };
    if sent { XDP_TX } else { XDP_DROP }
}

fn allowed() -> bool {
    let allowed = may_send(TOO_BIG);
    if !allowed {
        count_event(Event::TooBigLimited as u32);
    }
    allowed
}

/// MACs of the frame, destination first, as they must be written to send it back.
#[derive(Clone, Copy)]
struct Back {
    to: (u32, u16),
    from: (u32, u16),
}

impl Back {
    /// 14 bytes at `data` were compared with the end of the frame.
    #[inline(always)]
    fn of(data: usize) -> Self {
        // SAFETY: see above.
        unsafe { Back { to: (load(data + 6), load(data + 10)), from: (load(data), load(data + 4)) } }
    }

    /// As [`Back::of`].
    #[inline(always)]
    fn write(self, data: usize, ether_type: u16) {
        // SAFETY: see above.
        unsafe {
            store(data, self.to.0);
            store(data + 4, self.to.1);
            store(data + 6, self.from.0);
            store(data + 10, self.from.1);
            store(data + 12, ether_type);
        }
    }
}

/// Sum over the first `bytes` from `from`, at most `4 * WORDS`.
#[inline(always)]
fn sum_of<const WORDS: u32>(from: usize, bytes: u32, data_end: usize) -> u64 {
    let (mut sum, mut i) = (0u64, 0u32);
    while i < WORDS {
        let offset = opaque(i << 2);
        let at = from + offset as usize;
        if offset >= bytes || at + 4 > data_end {
            break;
        }
        // SAFETY: 4 bytes at `at` were checked.
        sum += unsafe { load::<u32>(at) } as u64;
        i += 1;
    }
    sum
}

/// Cuts the frame after `quote` bytes of its IP packet and makes `headers` bytes of room before them.
#[inline(always)]
fn reshape(ctx: &XdpContext, quote: u32, headers: usize) -> bool {
    let surplus = distance(end(ctx), start(ctx)) as i32 - (ETH_LEN as i32 + quote as i32);
    // SAFETY: the helper moves the end of the frame; no pointer into it is used after it.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, -surplus) } != 0 {
        return false;
    }
    // SAFETY: the helper moves the start of the frame; no pointer into it is used after it.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, -(headers as i32)) == 0 }
}

#[inline(always)]
fn answer4(ctx: &XdpContext, mtu: u32) -> bool {
    let (data, data_end) = (start(ctx), end(ctx));
    let ip = data + ETH_LEN;
    if ip + IPV4_MIN > data_end {
        return false;
    }
    // SAFETY: 20 bytes at `ip` were checked.
    let (total, fragment, protocol, src, dst): (u16, u16, u8, u32, u32) =
        unsafe { (load(ip + 2), load(ip + 6), load(ip + 9), load(ip + 12), load(ip + 16)) };
    // Not about an ICMP error, not about a later fragment, not to a source that is no host.
    let silent = protocol == proto::ICMP || fragment & FRAGMENT_OFFSET != 0 || !answerable4(src as u8);
    if silent || mtu < MTU4_MIN || !allowed() {
        return false;
    }
    let length = u16::from_be(total) as u32 & !3;
    let quote = if length < QUOTE4_MAX { length } else { QUOTE4_MAX };
    let icmp = sum_of::<{ QUOTE4_MAX / 4 }>(ip, quote, data_end);
    let back = Back::of(data);
    if !reshape(ctx, quote, IPV4_MIN + ICMP_LEN) {
        return false;
    }
    let (data, data_end) = (start(ctx), end(ctx));
    if data + ETH_LEN + IPV4_MIN + ICMP_LEN > data_end {
        return false;
    }
    back.write(data, ETH_IPV4);
    let ip = data + ETH_LEN;
    let length = ((IPV4_MIN + ICMP_LEN) as u32 + quote) as u16;
    let first = 0x45 | (TOS as u32) << 8 | (length.to_be() as u32) << 16;
    let second = (DONT_FRAGMENT as u32) << 16;
    let third = OUTER_TTL as u32 | (proto::ICMP as u32) << 8;
    let check = !sum::fold64(first as u64 + second as u64 + third as u64 + src as u64 + dst as u64);
    // Type 3, code 4; the low half of the second word is the next hop's MTU (RFC 1191 section 4).
    let kind = u16::from_le_bytes([3, 4]) as u32;
    let room = ((mtu as u16).to_be() as u32) << 16;
    let icmp_check = !sum::fold64(icmp + kind as u64 + room as u64);
    // SAFETY: 42 bytes at `data` were checked.
    unsafe {
        store(ip, first);
        store(ip + 4, second);
        store(ip + 8, third | (check as u32) << 16);
        store(ip + 12, dst);
        store(ip + 16, src);
        store(ip + 20, kind | (icmp_check as u32) << 16);
        store(ip + 24, room);
    }
    count_event(Event::TooBigSent as u32);
    true
}

#[inline(always)]
fn answer6(ctx: &XdpContext, mtu: u32) -> bool {
    let (data, data_end) = (start(ctx), end(ctx));
    let ip = data + ETH_LEN;
    if ip + IPV6_LEN > data_end {
        return false;
    }
    // SAFETY: 40 bytes at `ip` were checked.
    let (length, next, src_lo, src_hi, dst_lo, dst_hi): (u16, u8, u64, u64, u64, u64) =
        unsafe { (load(ip + 4), load(ip + 6), load(ip + 8), load(ip + 16), load(ip + 24), load(ip + 32)) };
    let unanswerable = !answerable6([src_lo as u8, (src_lo >> 8) as u8]);
    if next == proto::ICMPV6 || unanswerable || mtu < MTU6_MIN || !allowed() {
        return false;
    }
    let length = (u16::from_be(length) as u32 + IPV6_LEN as u32) & !3;
    let quote = if length < QUOTE6_MAX { length } else { QUOTE6_MAX };
    let icmp = sum_of::<{ QUOTE6_MAX / 4 }>(ip, quote, data_end);
    let back = Back::of(data);
    if !reshape(ctx, quote, IPV6_LEN + ICMP_LEN) {
        return false;
    }
    let (data, data_end) = (start(ctx), end(ctx));
    if data + ETH_LEN + IPV6_LEN + ICMP_LEN > data_end {
        return false;
    }
    back.write(data, ETH_IPV6);
    let ip = data + ETH_LEN;
    let length = ((ICMP_LEN as u32 + quote) as u16).to_be();
    let addresses = halves(src_lo) + halves(src_hi) + halves(dst_lo) + halves(dst_hi);
    let pseudo = addresses + length as u64 + ((proto::ICMPV6 as u64) << 8);
    let room = mtu.to_be();
    let check = !sum::fold64(icmp + pseudo + 2 + room as u64);
    // SAFETY: 62 bytes at `data` were checked.
    unsafe {
        store(ip, u32::from_le_bytes([0x60, 0, 0, 0]));
        store(ip + 4, length as u32 | (proto::ICMPV6 as u32) << 16 | (OUTER_TTL as u32) << 24);
        store(ip + 8, dst_lo);
        store(ip + 16, dst_hi);
        store(ip + 24, src_lo);
        store(ip + 32, src_hi);
        store(ip + 40, 2 | (check as u32) << 16);
        store(ip + 44, room);
    }
    count_event(Event::TooBigSent as u32);
    true
}

#[inline(always)]
fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}
