//! The node's side: takes off the outer header of packets a balancer sent here, and passes them up.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use sluice_abi::layout::{DropCounts, EventCounts, proto};
use sluice_abi::reason::{DropReason, Event};
use sluice_xdp::{ETH_IPV4, ETH_IPV6, ETH_LEN, distance, end, load, start, store};

const ADDRESSES: usize = sluice_abi::VIPS_DEFAULT as usize;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const FRAGMENT: u16 = 0x3fffu16.to_be();

#[btf_map]
static DECAP_OUTER: HashMap<[u8; 16], u32, ADDRESSES> = HashMap::new();
#[btf_map]
static DECAP_INNER: HashMap<[u8; 16], u32, ADDRESSES> = HashMap::new();
#[btf_map]
static DROPS: PerCpuArray<DropCounts, 1> = PerCpuArray::new();
#[btf_map]
static EVENTS: PerCpuArray<EventCounts, 1> = PerCpuArray::new();

/// Passes everything: for the peer of a veth that frames are sent into.
#[xdp]
pub fn sluice_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Decapsulates 4in4, 4in6 and 6in6 for this node's addresses and VIPs.
#[xdp]
pub fn sluice_decap(ctx: XdpContext) -> u32 {
    let (data, data_end) = (start(&ctx), end(&ctx));
    let ip = data + ETH_LEN;
    if ip + IPV4_LEN > data_end {
        return XDP_PASS;
    }
    // SAFETY: 34 bytes were checked.
    let ether_type: u16 = unsafe { load(data + 12) };
    if ether_type == ETH_IPV4 {
        // SAFETY: 20 bytes at `ip` were checked.
        if unsafe { load::<u8>(ip + 9) } != proto::IPIP {
            return XDP_PASS;
        }
        // SAFETY: 20 bytes at `ip` were checked.
        if !listed(&DECAP_OUTER, widen(unsafe { load(ip + 16) })) {
            return XDP_PASS;
        }
        // SAFETY: 20 bytes at `ip` were checked.
        let (vihl, fragment): (u8, u16) = unsafe { (load(ip), load(ip + 6)) };
        if vihl != 0x45 || fragment & FRAGMENT != 0 {
            return refuse(DropReason::DecapMalformed);
        }
        // SAFETY: 20 bytes at `ip` were checked.
        let length = u16::from_be(unsafe { load(ip + 2) }) as usize;
        if length < 2 * IPV4_LEN || length as u32 > distance(data_end, ip) {
            return refuse(DropReason::DecapMalformed);
        }
        return inner4(&ctx, IPV4_LEN, length - IPV4_LEN);
    }
    if ether_type != ETH_IPV6 || ip + IPV6_LEN > data_end {
        return XDP_PASS;
    }
    // SAFETY: 40 bytes at `ip` were checked.
    let (next, length, dst): (u8, u16, [u8; 16]) = unsafe { (load(ip + 6), load(ip + 4), load(ip + 24)) };
    if (next != proto::IPIP && next != proto::IPV6) || !listed(&DECAP_OUTER, dst) {
        return XDP_PASS;
    }
    let length = u16::from_be(length) as usize;
    if (length + IPV6_LEN) as u32 > distance(data_end, ip) {
        return refuse(DropReason::DecapMalformed);
    }
    if next == proto::IPIP { inner4(&ctx, IPV6_LEN, length) } else { inner6(&ctx, length) }
}

#[inline(always)]
fn inner4(ctx: &XdpContext, outer: usize, room: usize) -> u32 {
    let inner = start(ctx) + ETH_LEN + outer;
    if inner + IPV4_LEN > end(ctx) {
        return refuse(DropReason::DecapMalformed);
    }
    // SAFETY: 20 bytes at `inner` were checked.
    let (vihl, length, dst): (u8, u16, [u8; 4]) = unsafe { (load(inner), load(inner + 2), load(inner + 16)) };
    let length = u16::from_be(length) as usize;
    if vihl >> 4 != 4 || vihl & 0xf < 5 || length > room || length < IPV4_LEN {
        return refuse(DropReason::DecapMalformed);
    }
    take_off(ctx, outer, widen(dst), ETH_IPV4)
}

#[inline(always)]
fn inner6(ctx: &XdpContext, room: usize) -> u32 {
    let inner = start(ctx) + ETH_LEN + IPV6_LEN;
    if inner + IPV6_LEN > end(ctx) {
        return refuse(DropReason::DecapMalformed);
    }
    // SAFETY: 40 bytes at `inner` were checked.
    let (first, length, dst): (u8, u16, [u8; 16]) =
        unsafe { (load(inner), load(inner + 4), load(inner + 24)) };
    if first >> 4 != 6 || u16::from_be(length) as usize + IPV6_LEN > room {
        return refuse(DropReason::DecapMalformed);
    }
    take_off(ctx, IPV6_LEN, dst, ETH_IPV6)
}

#[inline(always)]
fn take_off(ctx: &XdpContext, outer: usize, dst: [u8; 16], ether_type: u16) -> u32 {
    if !listed(&DECAP_INNER, dst) {
        return refuse(DropReason::DecapUnknownVip);
    }
    let data = start(ctx);
    if data + ETH_LEN > end(ctx) {
        return XDP_PASS;
    }
    // SAFETY: 14 bytes were checked.
    let (macs, rest): (u64, u32) = unsafe { (load(data), load(data + 8)) };
    // SAFETY: the helper moves the start of the frame; bounds are read again below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, outer as i32) } != 0 {
        return refuse(DropReason::DecapMalformed);
    }
    let data = start(ctx);
    if data + ETH_LEN > end(ctx) {
        return refuse(DropReason::DecapMalformed);
    }
    // SAFETY: 14 bytes were checked.
    unsafe {
        store(data, macs);
        store(data + 8, rest);
        store(data + 12, ether_type);
    }
    if let Some(counts) = EVENTS.get_ptr_mut(0) {
        // SAFETY: this processor's own copy; the index is a constant in range.
        unsafe { (*counts).packets[Event::Decapsulated as usize] += 1 };
    }
    XDP_PASS
}

#[inline(always)]
fn listed(map: &HashMap<[u8; 16], u32, ADDRESSES>, addr: [u8; 16]) -> bool {
    // SAFETY: only asks whether the row is there.
    unsafe { map.get(&addr) }.is_some()
}

#[inline(always)]
fn widen(a: [u8; 4]) -> [u8; 16] {
    [a[0], a[1], a[2], a[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[inline(always)]
fn refuse(reason: DropReason) -> u32 {
    if let Some(counts) = DROPS.get_ptr_mut(0) {
        // SAFETY: this processor's own copy; the index is in range by the list's own size.
        unsafe { (*counts).packets[reason as usize & (sluice_abi::reason::DROP_REASONS - 1)] += 1 };
    }
    XDP_DROP
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
