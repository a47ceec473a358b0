//! The node's side: takes off the outer header of packets a balancer sent here, and passes them up.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use sluice_abi::layout::{DropCounts, EventCounts, PORT_WORDS};
use sluice_abi::reason::{DROP_REASONS, Event};
use sluice_xdp::decap::{Listed, NOT_OURS, TAKEN_OFF, decapsulate};

const ADDRESSES: usize = sluice_abi::VIPS_DEFAULT as usize;

#[btf_map]
static DECAP_OUTER: HashMap<[u8; 16], u32, ADDRESSES> = HashMap::new();
#[btf_map]
static DECAP_INNER: HashMap<[u8; 16], u32, ADDRESSES> = HashMap::new();
#[btf_map]
static DECAP_PORTS: Array<u64, PORT_WORDS> = Array::new();
#[btf_map]
static DROPS: PerCpuArray<DropCounts, 1> = PerCpuArray::new();
#[btf_map]
static EVENTS: PerCpuArray<EventCounts, 1> = PerCpuArray::new();

struct Node;

impl Listed for Node {
    #[inline(always)]
    fn outer(addr: &[u8; 16]) -> u32 {
        // SAFETY: a row is one word and stays valid while the program runs.
        unsafe { DECAP_OUTER.get(addr) }.copied().unwrap_or(0)
    }
    #[inline(always)]
    fn inner(addr: &[u8; 16]) -> bool {
        // SAFETY: only asks whether the row is there.
        unsafe { DECAP_INNER.get(addr) }.is_some()
    }
    #[inline(always)]
    fn port(port_be: u16) -> bool {
        let port = u16::from_be(port_be) as u32;
        DECAP_PORTS.get(port >> 6).is_some_and(|word| *word >> (port & 63) & 1 == 1)
    }
}

/// Passes everything: for the peer of a veth that frames are sent into.
#[xdp]
pub fn sluice_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Decapsulates for this node's addresses and VIPs.
#[xdp]
pub fn sluice_decap(ctx: XdpContext) -> u32 {
    match decapsulate::<Node>(&ctx) {
        NOT_OURS => XDP_PASS,
        TAKEN_OFF => {
            if let Some(counts) = EVENTS.get_ptr_mut(0) {
                // SAFETY: this processor's own copy; the index is a constant in range.
                unsafe { (*counts).packets[Event::Decapsulated as usize] += 1 };
            }
            XDP_PASS
        }
        reason => {
            if let Some(counts) = DROPS.get_ptr_mut(0) {
                // SAFETY: this processor's own copy; the index is masked to the list's size.
                unsafe { (*counts).packets[reason as usize & (DROP_REASONS - 1)] += 1 };
            }
            XDP_DROP
        }
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
