//! The balancer's maps. Sizes here are placeholders where the loader sets its own.

use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use sluice_abi::fragment::Bucket as FragmentBucket;
use sluice_abi::layout::{AddrValue, BackendValue, Bucket, DropCounts, EventCounts, Meta, Traffic};
use sluice_abi::nat::{NatFlow, NatKey, NatSources};
use sluice_abi::slot::Slot;
use sluice_abi::vips::{VipBucket, VipRow};
use sluice_xdp::{below_64, opaque};

/// `BPF_F_MMAPABLE`: the loader stores and reads through a mapping, and the array starts on a page, so that a
/// bucket is one cache line.
const MMAPABLE: usize = 1 << 10;

/// `BPF_F_NO_PREALLOC`: a box without NAT pays for the buckets only.
const NO_PREALLOC: usize = 1;
const NAT_ENTRIES: usize = 2 * sluice_abi::nat::NAT_FLOWS_DEFAULT as usize;

const SLOTS: usize = sluice_abi::SLOTS as usize;
const VIPS: usize = sluice_abi::VIPS_DEFAULT as usize;
const BACKEND_ROWS: usize = sluice_abi::BACKENDS_DEFAULT as usize;
const FRAGMENT_BUCKETS: usize = sluice_abi::fragment::BUCKETS as usize;
const REPLY_KINDS: usize = sluice_abi::icmp::KINDS as usize;
const BUCKETS: usize = sluice_abi::FLOW_BUCKETS_DEFAULT as usize;

#[btf_map]
pub static VIP_BUCKETS: Array<VipBucket, VIPS, MMAPABLE> = Array::new();
#[btf_map]
pub static VIP_ROWS: Array<VipRow, VIPS, MMAPABLE> = Array::new();
#[btf_map]
pub static ADDRS: HashMap<[u8; 16], AddrValue, VIPS> = HashMap::new();
#[btf_map]
pub static TABLES: ArrayOfMaps<Array<[u32; SLOTS], 1, MMAPABLE>, VIPS> = ArrayOfMaps::new();
#[btf_map]
pub static BACKENDS: Array<BackendValue, BACKEND_ROWS, MMAPABLE> = Array::new();
#[btf_map]
pub static FLOWS: Array<Bucket, BUCKETS, MMAPABLE> = Array::new();
/// Not pinned: datagrams under way when the program is replaced are sent again.
#[btf_map]
pub static FRAGMENTS: Array<FragmentBucket, FRAGMENT_BUCKETS> = Array::new();
#[btf_map]
pub static DEVS: DevMapHash<256> = DevMapHash::new();
#[btf_map]
pub static DROPS: PerCpuArray<DropCounts, VIPS> = PerCpuArray::new();
#[btf_map]
pub static TRAFFIC: PerCpuArray<Traffic, BACKEND_ROWS> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: PerCpuArray<EventCounts, 1> = PerCpuArray::new();
/// When the next ICMP message of a kind is due, see [`sluice_abi::icmp`]. Not pinned: it starts anew with the program.
#[btf_map]
pub static REPLIES: PerCpuArray<u64, REPLY_KINDS> = PerCpuArray::new();
#[btf_map]
pub static META: Array<Meta, 1> = Array::new();
#[btf_map]
pub static NAT_FLOWS: HashMap<NatKey, NatFlow, NAT_ENTRIES, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static NAT_SOURCES: HashMap<u32, NatSources, VIPS> = HashMap::new();
/// Where this processor makes the two entries of a new flow. Not pinned.
#[btf_map]
pub static NAT_SCRATCH: PerCpuArray<[NatFlow; 2], 1> = PerCpuArray::new();

/// What some VIP of the box wants, see [`sluice_abi::layout::feature`].
#[inline(always)]
pub fn features() -> u32 {
    match META.get_ptr(0) {
        // SAFETY: the only row; one aligned word, read whole.
        Some(meta) => unsafe { (&raw const (*meta).features).read_volatile() },
        None => 0,
    }
}

/// Slot `index` of a VIP's table. One value holds the whole table: an array of single slots would take 8 bytes
/// for each.
#[inline(always)]
pub fn slot(vip: u32, index: u32) -> Option<Slot> {
    let table = TABLES.get_value_ptr_mut(vip, &0)? as *const u32;
    // SAFETY: `index` comes from `slot_of`, below the number of slots; one aligned word, read whole.
    Some(Slot(unsafe { table.add(opaque(index) as usize).read_volatile() }))
}

/// Counts a drop of a VIP; returns the verdict. A call of its own: cold, and many places end here.
#[inline(never)]
pub fn drop_for(vip: u32, reason: u32) -> u32 {
    if let Some(counts) = DROPS.get_ptr_mut(vip) {
        let packets = counts as *mut u64;
        // SAFETY: this processor's own copy, 64 counters, valid while the program runs; the index is masked.
        unsafe { *packets.add(below_64(reason)) += 1 };
    }
    XDP_DROP
}

/// Counts an event. A call of its own, as [`drop_for`].
#[inline(never)]
pub fn count_event(event: u32) -> u32 {
    if let Some(counts) = EVENTS.get_ptr_mut(0) {
        let packets = counts as *mut u64;
        // SAFETY: this processor's own copy, 64 counters, valid while the program runs; the index is masked.
        unsafe { *packets.add(below_64(event)) += 1 };
    }
    0
}

/// Counts a packet handed to a backend; `hit`: its flow was found in the flow table.
#[inline(always)]
pub fn count_traffic(backend: u32, bytes: u32, hit: bool) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(backend) {
        // SAFETY: this processor's own copy, valid while the program runs.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += bytes as u64;
            if hit {
                (*traffic).flow_hits += 1;
            }
        }
    }
}

const _: () = assert!(sluice_abi::reason::DROP_REASONS == 64 && sluice_abi::reason::EVENTS == 64);
