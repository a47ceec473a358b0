//! Fragments: the first one is decided by its ports, those that follow go where it went.
//!
//! Cold, and for addresses with a VIP only. What the table of datagrams under way holds, and how processors share
//! it, is in [`sluice_abi::fragment`].

use crate::forward::{VIP_GONE, hand_on, shape};
use crate::maps::{FRAGMENTS, META, VIP_ROWS, count_event, drop_for};
use crate::{IPV4_MIN, IPV6_LEN, TCP_MIN, UDP_LEN, addr_row, bad, owner_of, pass_local, tcp_begins, vips};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use sluice_abi::fragment::{
    AGE_MAX, BUCKET_ENTRIES, BUCKETS, CHAIN_BYTES_MAX, CHAIN_HEADERS_MAX, Place, id4, id6, key, units,
};
use sluice_abi::hash::{flow_hash4, flow_hash6};
use sluice_abi::layout::{VipValue, mode, proto};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::vips::{IPV4, IPV6, Key, ports};
use sluice_xdp::{ETH_LEN, distance, end, load, opaque, start, top_bit};

/// More-fragments flag and fragment offset of IPv6, as the wire bytes read little-endian.
const MORE6: u16 = 0x0001u16.to_be();
const OFFSET6: u16 = 0xfff8u16.to_be();
const OFFSET4: u16 = 0x1fffu16.to_be();

/// Key of a datagram.
#[inline(always)]
fn datagram(src: [u64; 2], dst: [u64; 2], id: u64) -> u64 {
    match META.get_ptr(0) {
        // SAFETY: the only row; the secret is written once.
        Some(meta) => key(unsafe { (*meta).secret }, src, dst, id),
        None => 1,
    }
}

#[inline(always)]
fn clock() -> u64 {
    // SAFETY: a helper without arguments.
    units(unsafe { bpf_ktime_get_coarse_ns() })
}

#[inline(always)]
fn bucket_of(key: u64) -> Option<*mut u64> {
    Some(FRAGMENTS.get_ptr_mut(key as u32 & (BUCKETS - 1))? as *mut u64)
}

#[inline(always)]
fn read(bucket: *mut u64, i: usize) -> (u64, Place) {
    // SAFETY: `i` is below BUCKET_ENTRIES; two aligned words of the map, each read whole.
    unsafe { (bucket.add(2 * i).read_volatile(), Place(bucket.add(2 * i + 1).read_volatile())) }
}

/// Where a datagram's first fragment went, as [`Place`]; 0: not known.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn find_datagram(key: u64) -> u64 {
    let Some(bucket) = bucket_of(key) else { return 0 };
    let now = clock();
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        let (word, place) = read(bucket, i);
        if word ^ place.0 == key && place.is_used() && place.age(now) <= AGE_MAX {
            return place.0;
        }
        i += 1;
    }
    0
}

/// Puts a datagram over itself, else into a free place, else over the oldest.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn put_datagram(key: u64, vip: u32, backend: u32) -> u32 {
    let Some(bucket) = bucket_of(key) else { return 0 };
    let now = clock();
    // Without a branch, as in `flow::insert`: rank and index of the best candidate.
    let (mut best, mut i) = (0u64, 0);
    while i < BUCKET_ENTRIES {
        let (word, old) = read(bucket, i);
        let differs = word ^ old.0 ^ key;
        let same = top_bit(differs | differs.wrapping_neg()) ^ 1;
        let free = (old.0 & 1) ^ 1;
        let rank = (same << 18 | free << 17) + old.age(now) as u64 + 1;
        let score = rank << 2 | i as u64;
        let behind = best.wrapping_sub(score);
        best = best.wrapping_sub(behind.wrapping_mul(top_bit(behind)));
        i += 1;
    }
    let best = opaque(best as u32);
    let at = (best & 3) as usize * 2;
    let place = Place::new(vip, backend as u16, now);
    // SAFETY: `at` is below the bucket's 8 words; aligned words of the map, each written whole.
    unsafe {
        bucket.add(at + 1).write_volatile(place.0);
        bucket.add(at).write_volatile(key ^ place.0);
    }
    if best >> 2 <= AGE_MAX + 1 {
        count_event(Event::FragmentEvicted as u32);
    }
    count_event(Event::FragmentFirst as u32)
}

/// [`owner_of`] of a VIP by its id: backend id, its hit in bit 32, or a drop reason in the third half.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn owner_by_id(vip: u32, begins: u32, hash: u64) -> u64 {
    let Some(row) = VIP_ROWS.get(vip) else { return (DropReason::NoTable as u64) << 40 };
    match owner_of(&row.value, begins, hash) {
        Ok((owner, hit)) => owner as u64 | (hit as u64) << 32,
        Err(reason) => (reason as u64) << 40,
    }
}

/// Sends a packet on that no fragment precedes, and remembers where it went if others follow: `key` is not 0.
#[inline(always)]
fn lead(ctx: *mut xdp_md, vip: u32, begins: u32, hash: u64, shape: u64, key: u64) -> u32 {
    let found = owner_by_id(vip, begins, hash);
    if found >> 40 != 0 {
        return drop_for(vip, (found >> 40) as u32);
    }
    if key != 0 {
        put_datagram(key, vip, found as u32);
    }
    hand_on(ctx, vip, found as u32, hash, shape | (found >> 32 & 1) << 33)
}

/// Sends a later fragment after its first one.
#[inline(always)]
fn follow(ctx: *mut xdp_md, id: u32, forwards_only: u32, shape: u64, key: u64) -> u32 {
    let place = Place(find_datagram(key));
    if !place.is_used() {
        return bad(id, forwards_only, DropReason::FragmentUnknown as u32);
    }
    let Some(row) = VIP_ROWS.get(place.vip()) else { return XDP_PASS };
    if row.value.id == place.vip() {
        if row.value.mode == mode::LOCAL {
            return pass_local();
        }
        if !takes_fragments(&row.value) {
            return drop_for(place.vip(), DropReason::Fragment as u32);
        }
    }
    match hand_on(ctx, place.vip(), place.backend() as u32, key, shape) {
        VIP_GONE => bad(id, forwards_only, DropReason::FragmentUnknown as u32),
        XDP_DROP => XDP_DROP,
        verdict => {
            count_event(Event::FragmentFollowed as u32);
            verdict
        }
    }
}

/// The forwarding modes that need nothing of a packet that a later fragment lacks.
#[inline(always)]
fn takes_fragments(vip: &VipValue) -> bool {
    vip.mode == mode::L2_DIRECT || vip.mode == mode::IPIP || vip.mode == mode::GUE
}

/// Checks the transport header of a first fragment, of which 8 bytes were compared with `data_end`, in `room`
/// bytes of payload: all of it must be there (RFC 1858, RFC 7112). As [`crate::transport`].
#[inline(always)]
fn transport(l4: usize, data_end: usize, room: u32, protocol: u8) -> u32 {
    if protocol == proto::UDP {
        // SAFETY: 8 bytes at `l4` were checked.
        let length = u16::from_be(unsafe { load(l4 + 4) }) as u32;
        return if length < UDP_LEN as u32 { DropReason::BadLength as u32 } else { 0 };
    }
    if room < TCP_MIN as u32 || l4 + TCP_MIN > data_end {
        return DropReason::FragmentTiny as u32;
    }
    // SAFETY: 20 bytes at `l4` were checked.
    let (offset, flags): (u8, u8) = unsafe { (load(l4 + 12), load(l4 + 13)) };
    let header = (offset >> 4) as u32 * 4;
    if header < TCP_MIN as u32 {
        return DropReason::BadTcpHeader as u32;
    }
    if header > room {
        return DropReason::FragmentTiny as u32;
    }
    tcp_begins(flags)
}

/// A fragment to any IPv4 address.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn fragment4(ctx: *mut xdp_md) -> u32 {
    let Some((id, forwards_only)) = addr_row(ctx) else { return XDP_PASS };
    let ctx = XdpContext::new(ctx);
    let (data, data_end) = (start(&ctx), end(&ctx));
    let ip = data + ETH_LEN;
    if ip + IPV4_MIN > data_end {
        return XDP_PASS;
    }
    // SAFETY: 20 bytes at `ip` were checked.
    let (vihl, total, ident, fragment): (u8, u16, u16, u16) =
        unsafe { (load(ip), load(ip + 2), load(ip + 4), load(ip + 6)) };
    // SAFETY: as above.
    let (protocol, src, dst): (u8, u32, u32) = unsafe { (load(ip + 9), load(ip + 12), load(ip + 16)) };
    if protocol != proto::TCP && protocol != proto::UDP {
        return bad(id, forwards_only, DropReason::Fragment as u32);
    }
    let header = ((vihl & 0x0f) as usize) << 2;
    let ip_len = u16::from_be(total) as u32;
    if ip_len > distance(data_end, ip) || ip_len < header as u32 {
        return bad(id, forwards_only, DropReason::BadLength as u32);
    }
    let key = datagram([src as u64, 0], [dst as u64, 0], id4(ident, protocol));
    let offset = u16::from_be(fragment & OFFSET4) as u32 * 8;
    if offset != 0 {
        if protocol == proto::TCP && offset < TCP_MIN as u32 {
            // Over the header that the first fragment was judged by (RFC 3128).
            return bad(id, forwards_only, DropReason::FragmentOverlap as u32);
        }
        return follow(ctx.ctx, id, forwards_only, shape(ip_len, false, false), key);
    }
    let l4 = ip + header;
    let room = ip_len - header as u32;
    if room < UDP_LEN as u32 || l4 + UDP_LEN > data_end {
        return bad(id, forwards_only, DropReason::FragmentTiny as u32);
    }
    // SAFETY: 8 bytes at `l4` were checked.
    let (sport, dport): (u16, u16) = unsafe { (load(l4), load(l4 + 2)) };
    let vip_key = Key { lo: dst as u64, hi: 0, ports: ports(dport, protocol, IPV4) };
    let Some(vip) = vips::find_cold(vip_key) else { return XDP_PASS };
    if vip.mode == mode::LOCAL {
        return pass_local();
    }
    if !takes_fragments(vip) {
        return drop_for(vip.id, DropReason::Fragment as u32);
    }
    let verdict = transport(l4, data_end, room, protocol);
    if verdict > 1 {
        return drop_for(vip.id, verdict);
    }
    let hash = flow_hash4(vip.seed, src, sport);
    lead(ctx.ctx, vip.id, verdict, hash, shape(ip_len, false, false), key)
}

/// What the walk over extension headers found, in one word.
///
/// ```text
/// 63..56 drop reason, 0xff: pass up | 47..32 fragment offset and flag as on the wire, 0: whole
/// 31..24 its header, in 8 bytes from the IPv6 header | 23..16 transport | 15..0 where that is, bytes
/// ```
#[derive(Clone, Copy)]
struct Chain(u64);

impl Chain {
    const PASS: Self = Chain(0xff << 56);

    #[inline(always)]
    fn reason(self) -> u32 {
        (self.0 >> 56) as u32
    }
    #[inline(always)]
    fn fragment(self) -> u16 {
        (self.0 >> 32) as u16
    }
    #[inline(always)]
    fn fragment_at(self) -> usize {
        (self.0 >> 24 & 0x7f) as usize * 8
    }
    #[inline(always)]
    fn next(self) -> u8 {
        (self.0 >> 16) as u8
    }
    #[inline(always)]
    fn at(self) -> u32 {
        // Below the longest chain and one header more, as the verifier is to know.
        (self.0 & 0x3ff) as u32
    }
}

const _: () = assert!(IPV6_LEN as u32 + CHAIN_BYTES_MAX + 8 < 0x400);

#[inline(always)]
fn ended(reason: DropReason) -> u64 {
    (reason as u64) << 56
}

/// Walks to the transport header or to a later fragment's payload: a [`Chain`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn walk6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let (data, data_end) = (start(&ctx), end(&ctx));
    let ip = data + ETH_LEN;
    if ip + IPV6_LEN > data_end {
        return Chain::PASS.0;
    }
    // SAFETY: 40 bytes at `ip` were checked.
    let mut next: u8 = unsafe { load(ip + 6) };
    // 40, the version being 6; the verifier is to know no more than a bound, as in `options`.
    // SAFETY: as above.
    let mut at = (IPV6_LEN as u32 + (unsafe { load::<u8>(ip) } >> 4) as u32 - 6) & 0x3ff;
    let (mut found, mut ident) = (0u64, 0u32);
    let mut i = 0;
    while i <= CHAIN_HEADERS_MAX {
        if next == proto::TCP || next == proto::UDP {
            return found | (next as u64) << 16 | at as u64;
        }
        if i == CHAIN_HEADERS_MAX {
            break;
        }
        if next == proto::ICMPV6 {
            return Chain::PASS.0;
        }
        let header = ip + opaque(at) as usize;
        if header + 8 > data_end {
            return ended(DropReason::Truncated);
        }
        // SAFETY: 8 bytes at `header` were checked.
        let (following, length, word, left, id): (u8, u8, u16, u8, u32) =
            unsafe { (load(header), load(header + 1), load(header + 2), load(header + 3), load(header + 4)) };
        let mut bytes = (length as u32 + 1) * 8;
        if next == proto::IPV6_FRAGMENT {
            if found != 0 || ident != 0 {
                return ended(DropReason::Fragment);
            }
            let part = word & (OFFSET6 | MORE6);
            ident = id;
            bytes = 8;
            if part != 0 {
                found = (part as u64) << 32 | (at as u64 >> 3) << 24;
            }
            if word & OFFSET6 != 0 {
                return found | (following as u64) << 16 | (at + bytes) as u64;
            }
        } else if next == proto::IPV6_ROUTING {
            // The destination of a packet with segments left is another host (RFC 8200 section 4.4).
            if left != 0 {
                return ended(DropReason::SourceRoute);
            }
        } else if next != proto::IPV6_DESTINATION && (next != proto::IPV6_HOP_BY_HOP || i != 0) {
            break;
        }
        next = following;
        at += bytes;
        if at > IPV6_LEN as u32 + CHAIN_BYTES_MAX {
            break;
        }
        i += 1;
    }
    ended(DropReason::Ipv6Extension)
}

/// An IPv6 packet to any address with a fragment header or other extension headers.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn extended6(ctx: *mut xdp_md) -> u32 {
    let Some((id, forwards_only)) = addr_row(ctx) else { return XDP_PASS };
    let chain = Chain(walk6(ctx));
    if chain.reason() == Chain::PASS.reason() {
        count_event(Event::PassIcmp as u32);
        return XDP_PASS;
    }
    if chain.reason() != 0 {
        return bad(id, forwards_only, chain.reason());
    }
    let ctx = XdpContext::new(ctx);
    let (data, data_end) = (start(&ctx), end(&ctx));
    let ip = data + ETH_LEN;
    let part = ip + opaque(chain.fragment_at() as u32) as usize;
    if ip + IPV6_LEN > data_end || part + 8 > data_end {
        return XDP_PASS;
    }
    // SAFETY: 40 bytes at `ip` and 8 at `part` were checked.
    let (length, ident): (u16, u32) = unsafe { (load(ip + 4), load(part + 4)) };
    let ip_len = u16::from_be(length) as u32 + IPV6_LEN as u32;
    if ip_len > distance(data_end, ip) || ip_len < chain.at() {
        return bad(id, forwards_only, DropReason::BadLength as u32);
    }
    // SAFETY: 40 bytes at `ip` were checked.
    let (src, dst): ([u64; 2], [u64; 2]) =
        unsafe { ([load(ip + 8), load(ip + 16)], [load(ip + 24), load(ip + 32)]) };
    let key = datagram(src, dst, id6(ident));
    let offset = u16::from_be(chain.fragment() & OFFSET6) as u32;
    if offset != 0 {
        if chain.next() == proto::TCP && offset < TCP_MIN as u32 {
            return bad(id, forwards_only, DropReason::FragmentOverlap as u32);
        }
        return follow(ctx.ctx, id, forwards_only, shape(ip_len, true, false), key);
    }
    let l4 = ip + opaque(chain.at()) as usize;
    let room = ip_len - chain.at();
    let short = if chain.fragment() != 0 { DropReason::FragmentTiny } else { DropReason::Truncated };
    if room < UDP_LEN as u32 || l4 + UDP_LEN > data_end {
        return bad(id, forwards_only, short as u32);
    }
    // SAFETY: 8 bytes at `l4` were checked.
    let (sport, dport): (u16, u16) = unsafe { (load(l4), load(l4 + 2)) };
    let vip_key = Key { lo: dst[0], hi: dst[1], ports: ports(dport, chain.next(), IPV6) };
    let Some(vip) = vips::find_cold(vip_key) else { return XDP_PASS };
    if vip.mode == mode::LOCAL {
        return pass_local();
    }
    let verdict = if chain.fragment() == 0 && vip.mode == mode::NAT {
        // What is translated lies right behind the IPv6 header.
        DropReason::Ipv6Extension as u32
    } else if chain.fragment() == 0 {
        crate::transport(l4, data_end, room, chain.next())
    } else if takes_fragments(vip) {
        transport(l4, data_end, room, chain.next())
    } else {
        DropReason::Fragment as u32
    };
    if verdict > 1 {
        return drop_for(vip.id, verdict);
    }
    let hash = flow_hash6(vip.seed, src[0], src[1], sport);
    let key = if chain.fragment() != 0 { key } else { 0 };
    lead(ctx.ctx, vip.id, verdict, hash, shape(ip_len, true, false), key)
}
