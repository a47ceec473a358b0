//! The measurer's own programs: a harness that restores the packet, varies the flow and tail-calls the program
//! under test, and floors to compare with. Run by BPF_PROG_TEST_RUN only, never attached.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, LruHashMap, PerCpuArray, ProgramArray, XskMap};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use sluice_abi::hash::{flow_hash4, slot_of};
use sluice_abi::layout::proto;
use sluice_xdp::{ETH_IPV4, ETH_LEN, distance, end, load, start, store};

/// What the harness needs to know of a row.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plan {
    /// Flows minus one; 0: the template as it is.
    pub mask: u32,
    /// Odd: visits all flows in a scattered order.
    pub stride: u32,
    /// Repetitions so far.
    pub count: u32,
    /// Length of the template, bytes.
    pub length: u32,
    /// 1: IPv6.
    pub v6: u32,
    /// IPv4 VIPs from [`VIPS`] that take turns; 0: the template's.
    pub vips: u32,
    /// The first 64 bytes, which programs may have written.
    pub head: [u64; 8],
}

/// A flow's key in the LRU floor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FloorKey {
    src: u32,
    dst: u32,
    ports: u32,
    proto: u32,
}

#[btf_map]
static PLAN: Array<Plan, 1> = Array::new();
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static RING: Array<u64, { sluice_abi::SLOTS as usize }> = Array::new();
#[btf_map]
static LRU: LruHashMap<FloorKey, u64, { 1 << 21 }> = LruHashMap::new();

/// AF_XDP sockets by queue.
#[btf_map]
static SOCKETS: XskMap<1> = XskMap::new();

/// First client address of varied flows.
const CLIENTS4: u32 = 0x0a64_0000;
/// First of several VIPs.
const VIPS: u32 = 0x0ac9_0000;

#[xdp]
pub fn harness(ctx: XdpContext) -> u32 {
    run(&ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn run(ctx: &XdpContext) -> Option<u32> {
    let plan = PLAN.get_ptr_mut(0)?;
    // SAFETY: the only row, used by the one processor the test runs on.
    let p = unsafe { &mut *plan };
    let grown = distance(end(ctx), start(ctx)) as i32 - p.length as i32;
    if grown != 0 {
        // SAFETY: the helper moves the start of the frame; bounds are read again below.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) } != 0 {
            return None;
        }
    }
    let data = start(ctx);
    if data + 64 > end(ctx) {
        return None;
    }
    let mut i = 0;
    while i < 8 {
        // SAFETY: 64 bytes were checked.
        unsafe { store(data + 8 * i, p.head[i]) };
        i += 1;
    }
    let turn = p.count.wrapping_mul(p.stride);
    p.count = p.count.wrapping_add(1);
    if p.vips != 0 {
        // The high bits: those below choose the flow.
        let vip = ((turn >> 16).wrapping_mul(p.vips)) >> 16;
        // SAFETY: 64 bytes were checked.
        unsafe { store(data + 30, (VIPS + vip).to_be()) };
    }
    if p.mask != 0 {
        let flow = turn & p.mask;
        let port = (1024 + (flow & 0x7fff) as u16).to_be();
        // SAFETY: 64 bytes were checked.
        unsafe {
            if p.v6 != 0 {
                store(data + 34, (flow >> 15).to_be());
                store(data + 54, port);
            } else {
                store(data + 26, (CLIENTS4 + (flow >> 15)).to_be());
                store(data + 34, port);
            }
        }
    }
    // SAFETY: returns only when there is no target.
    let _ = unsafe { TARGET.tail_call(ctx, 0) };
    None
}

/// Floor: nothing at all.
#[xdp]
pub fn floor_null(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Reads an IPv4 TCP packet: source, destination, ports.
#[inline(always)]
fn parse(ctx: &XdpContext) -> Option<(usize, u32, u32, u32)> {
    let data = start(ctx);
    let ip = data + ETH_LEN;
    if ip + 40 > end(ctx) {
        return None;
    }
    // SAFETY: 54 bytes were checked.
    unsafe {
        if load::<u16>(data + 12) != ETH_IPV4 || load::<u8>(ip) != 0x45 || load::<u8>(ip + 9) != proto::TCP {
            return None;
        }
        Some((data, load(ip + 12), load(ip + 16), load(ip + 20)))
    }
}

/// Floor: parse only.
#[xdp]
pub fn floor_parse(ctx: XdpContext) -> u32 {
    match parse(&ctx) {
        Some((_, _, _, ports)) if (ports >> 16) as u16 == 80u16.to_be() => XDP_TX,
        _ => XDP_PASS,
    }
}

/// Floor: parse, hash, one lookup in a ring of 65,537, rewrite of the MAC.
#[xdp]
pub fn floor_ring(ctx: XdpContext) -> u32 {
    let Some((data, src, _, ports)) = parse(&ctx) else { return XDP_PASS };
    let Some(&mac) = RING.get(slot_of(flow_hash4(1, src, ports as u16))) else { return XDP_DROP };
    // SAFETY: `parse` checked 54 bytes.
    unsafe { store(data, mac) };
    XDP_TX
}

/// Floor: parse and one lookup in the kernel's LRU hash, filled on a miss.
#[xdp]
pub fn floor_lru(ctx: XdpContext) -> u32 {
    let Some((data, src, dst, ports)) = parse(&ctx) else { return XDP_PASS };
    let key = FloorKey { src, dst, ports, proto: 6 };
    // SAFETY: the value is copied at once.
    let mac = match unsafe { LRU.get(&key) } {
        Some(&mac) => mac,
        None => {
            let _ = LRU.insert(&key, 0x0200_0000_0001u64, 0);
            0x0200_0000_0001
        }
    };
    // SAFETY: `parse` checked 54 bytes.
    unsafe { store(data, mac) };
    XDP_TX
}

/// Frames that came to [`sink`].
#[btf_map]
static CAME: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The end of a path: counts and drops.
#[xdp]
pub fn sink(_ctx: XdpContext) -> u32 {
    if let Some(came) = CAME.get_ptr_mut(0) {
        // SAFETY: this processor's own copy, valid while the program runs.
        unsafe { *came += 1 };
    }
    XDP_DROP
}

/// IPv4 UDP goes to the AF_XDP socket of the queue, the rest (ARP) to the kernel.
#[xdp]
pub fn to_socket(ctx: XdpContext) -> u32 {
    let data = start(&ctx);
    if data + ETH_LEN + 28 > end(&ctx) {
        return XDP_PASS;
    }
    // SAFETY: 42 bytes were checked.
    let (kind, protocol): (u16, u8) = unsafe { (load(data + 12), load(data + ETH_LEN + 9)) };
    if kind != ETH_IPV4 || protocol != proto::UDP {
        return XDP_PASS;
    }
    // SAFETY: reading the context's own field.
    match SOCKETS.redirect(unsafe { (*ctx.ctx).rx_queue_index }, XDP_PASS as u64) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
