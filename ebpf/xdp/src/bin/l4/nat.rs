//! Full NAT: source and destination rewritten, both ways through here. What its flows are is said in
//! `sluice_abi::nat`; the model is `sluice-core::l4::nat`.
//!
//! ```text
//! client's packet -> flow known? -yes-> rewrite -> backend
//!                       | no
//!                       v
//!     TCP without SYN: drop      owner of the slot -> source port (reverse entry, only if free) -> forward entry
//!
//! backend's packet -> reverse entry? -no-> passed up
//!                       | yes
//!                       +-> rewrite -> where the client's packets come from
//! ```
//! Cold for every other mode: reached by a flag of the VIP, or by a feature of the box where no VIP was found. The
//! values of a new flow are made in a place of this processor, for the stack is small.

use crate::flow::alive;
use crate::forward::{age, transmit, write_macs};
use crate::maps::{
    BACKENDS, NAT_FLOWS, NAT_SCRATCH, NAT_SOURCES, count_event, count_traffic, drop_for, slot,
};
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::{BPF_NOEXIST, xdp_md};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use sluice_abi::hash::slot_of;
use sluice_abi::layout::{VipValue, backend_flag, proto};
use sluice_abi::nat::{
    NAT_PROBES, NatFlow, NatKey, nat_closed, nat_deltas, nat_flag, nat_idle, nat_over, nat_try, nat_units,
};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::sum;
use sluice_xdp::{ETH_IPV6, ETH_LEN, below_8, distance, end, load, start, store};

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const TCP_FIN: u8 = 0x01;
const TCP_RST: u8 = 0x04;

/// Bit of `shape`: the packet is IPv6. The low half is the length of the IP packet.
pub const V6: u32 = 1 << 16;
/// Bit of `shape`: a TCP SYN.
pub const SYN: u32 = 1 << 17;

/// A map key as words; the last one is the transport protocol.
#[repr(C)]
struct Key([u64; 5]);

const _: () = {
    assert!(size_of::<Key>() == size_of::<NatKey>());
    assert!(core::mem::offset_of!(NatKey, sport_be) == 32 && core::mem::offset_of!(NatKey, proto) == 36);
    assert!(core::mem::offset_of!(NatFlow, sport_be) == 32 && core::mem::offset_of!(NatFlow, macs) == 56);
};

impl Key {
    #[inline(always)]
    fn get(&self) -> Option<&'static mut NatFlow> {
        // SAFETY: 40 bytes are 40 bytes. The entry stays valid memory while the program runs; its fields are
        // words that two processors may both write, and either answer is right.
        unsafe { NAT_FLOWS.get_ptr_mut(&*(&raw const *self).cast::<NatKey>()).map(|flow| &mut *flow) }
    }

    #[inline(always)]
    fn remove(&self) {
        // SAFETY: 40 bytes are 40 bytes. It may be gone already.
        let _ = NAT_FLOWS.remove(unsafe { &*(&raw const *self).cast::<NatKey>() });
    }

    /// 0, or the kernel's error.
    #[inline(always)]
    fn insert(&self, flow: &NatFlow) -> i32 {
        // SAFETY: 40 bytes are 40 bytes.
        let key = unsafe { &*(&raw const *self).cast::<NatKey>() };
        match NAT_FLOWS.insert(key, flow, BPF_NOEXIST as u64) {
            Ok(()) => 0,
            Err(errno) => errno,
        }
    }

    #[inline(always)]
    fn addrs(&self) -> [u64; 4] {
        [self.0[0], self.0[1], self.0[2], self.0[3]]
    }

    /// Source port in the low half.
    #[inline(always)]
    fn ports(&self) -> u32 {
        self.0[4] as u32
    }
}

/// Key of the packets that answer those of a flow.
#[inline(always)]
fn opposite(flow: &NatFlow, protocol: u8) -> Key {
    let words = &raw const *flow as *const u64;
    let ports = (flow.dport_be as u64) | (flow.sport_be as u64) << 16;
    // SAFETY: the entry begins with new source and destination, two words each.
    unsafe {
        Key([
            words.add(2).read(),
            words.add(3).read(),
            words.read(),
            words.add(1).read(),
            ports | (protocol as u64) << 32,
        ])
    }
}

#[inline(always)]
fn now() -> u32 {
    // SAFETY: a helper without arguments.
    nat_units(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Key of the packet at hand, which is TCP or UDP; `None` when its headers are cut.
#[inline(always)]
fn key_of(ctx: &XdpContext, v6: bool) -> Option<Key> {
    let (ip, data_end) = (start(ctx) + ETH_LEN, end(ctx));
    if v6 {
        let l4 = ip + IPV6_LEN;
        if l4 + UDP_LEN > data_end {
            return None;
        }
        // SAFETY: 48 bytes at `ip` were checked.
        return unsafe {
            let last = load::<u32>(l4) as u64 | (load::<u8>(ip + 6) as u64) << 32;
            Some(Key([load(ip + 8), load(ip + 16), load(ip + 24), load(ip + 32), last]))
        };
    }
    if ip + IPV4_LEN > data_end {
        return None;
    }
    // SAFETY: 20 bytes at `ip` were checked.
    let l4 = ip + (((unsafe { load::<u8>(ip) } & 0x0f) as usize) << 2);
    if l4 + UDP_LEN > data_end {
        return None;
    }
    // SAFETY: 20 bytes at `ip` and 8 at `l4` were checked.
    unsafe {
        let last = load::<u32>(l4) as u64 | (load::<u8>(ip + 9) as u64) << 32;
        Some(Key([load::<u32>(ip + 12) as u64, 0, load::<u32>(ip + 16) as u64, 0, last]))
    }
}

/// From a client to a VIP. `hash` is the flow's, `shape` see [`V6`].
#[inline(never)]
pub fn forward(ctx: *mut xdp_md, vip: &VipValue, hash: u64, shape: u32) -> u32 {
    let context = XdpContext::new(ctx);
    let Some(key) = key_of(&context, shape & V6 != 0) else {
        return drop_for(vip.id, DropReason::Truncated as u32);
    };
    let now = now();
    let mut known = key.get();
    if let Some(flow) = &known
        && !lasts(flow, shape)
    {
        opposite(flow, (key.0[4] >> 32) as u8).remove();
        key.remove();
        count_event(Event::NatFlowReplaced as u32);
        known = None;
    }
    if known.is_none() {
        if (key.0[4] >> 32) as u8 == proto::TCP && shape & SYN == 0 {
            return drop_for(vip.id, DropReason::NatNoFlow as u32);
        }
        let refused = begin(ctx, vip, hash, &key, now);
        if refused != 0 {
            return drop_for(vip.id, refused);
        }
        known = key.get();
    }
    let Some(flow) = known else { return drop_for(vip.id, DropReason::NatTableFull as u32) };
    to_backend(ctx, flow, shape, now, (key.0[4] >> 32) as u32)
}

/// The flow goes on with this packet: its backend lives, and it is not a SYN after the end.
#[inline(always)]
fn lasts(flow: &NatFlow, shape: u32) -> bool {
    if !alive(flow.backend) {
        return false;
    }
    if shape & SYN == 0 {
        return true;
    }
    match opposite(flow, proto::TCP).get() {
        Some(reverse) => !nat_closed(flow.flags, reverse.flags),
        None => false,
    }
}

/// Makes both entries of a new flow. 0, or the number of a drop reason.
#[inline(never)]
fn begin(ctx: *mut xdp_md, vip: &VipValue, hash: u64, key: &Key, now: u32) -> u32 {
    let Some(slot) = slot(vip.id, slot_of(hash)) else { return DropReason::NoTable as u32 };
    let Some(row) = BACKENDS.get(slot.current() as u32) else { return DropReason::NoBackend as u32 };
    if row.flags & backend_flag::PRESENT == 0 {
        return DropReason::NoBackend as u32;
    }
    let v6 = ether_type(ctx) == ETH_IPV6;
    let has = if v6 { backend_flag::HAS_V6 } else { backend_flag::HAS_V4 } | backend_flag::HAS_LINK;
    if row.flags & has != has {
        return DropReason::BackendUnreachable as u32;
    }
    let Some(values) = NAT_SCRATCH.get_ptr_mut(0) else { return DropReason::NatTableFull as u32 };
    // SAFETY: this processor's own place; nothing else runs on it meanwhile.
    let [there, back] = unsafe { &mut *values };
    let words = &raw const *row as *const u32;
    let addr = if v6 {
        // SAFETY: `addr6` is words 6..10 of the row (asserted in `forward`).
        unsafe { [pair(words.add(6)), pair(words.add(8))] }
    } else {
        // SAFETY: `addr4` is word 5 of the row (asserted in `forward`).
        [unsafe { words.add(5).read() } as u64, 0]
    };
    let dport = if vip.port_be == 0 { (key.0[4] >> 16) as u16 } else { vip.port_be };
    let idle = nat_idle(vip.flow_idle_ms as u64);
    for flow in [&mut *there, &mut *back] {
        *flow = NatFlow { seen: now, idle, backend: slot.current(), vip: vip.id, ..NatFlow::default() };
        arrival(ctx, flow);
    }
    (there.flags, back.flags) = (nat_flag::SEEN, nat_flag::REVERSE);
    store_flow(back, [key.0[2], key.0[3], key.0[0], key.0[1]], key.ports().rotate_left(16));
    let mut answer = Key([addr[0], addr[1], 0, 0, dport as u64 | key.0[4] & 0xff_0000_0000]);
    let taken = take_port(vip.id, hash, &mut answer, key, back);
    if taken != 0 {
        return taken;
    }
    let new = [answer.0[2], answer.0[3], addr[0], addr[1]];
    let ports = answer.ports().rotate_left(16);
    (there.l4_delta, there.ip_delta) = nat_deltas(key.addrs(), key.ports(), new, ports);
    store_flow(there, new, ports);
    match key.insert(there) {
        0 => {
            count_event(Event::NatFlowNew as u32);
            0
        }
        errno => {
            answer.remove();
            // Another processor began the flow with the packet before this one: its entry counts.
            if errno == -EEXIST { 0 } else { DropReason::NatTableFull as u32 }
        }
    }
}

const EEXIST: i32 = 17;

/// Finds a free source address and port, writes them into `answer`, the key of the reverse entry, and puts that
/// entry in. 0, or the number of a drop reason.
#[inline(never)]
fn take_port(vip: u32, hash: u64, answer: &mut Key, key: &Key, back: &mut NatFlow) -> u32 {
    // SAFETY: rows are replaced whole by the kernel's hash map and stay valid while the program runs.
    let Some(sources) = (unsafe { NAT_SOURCES.get(&vip) }) else { return DropReason::NatNoSource as u32 };
    let mut n = 0;
    while n < NAT_PROBES {
        let (source, port) = nat_try(hash, n, sources.count);
        let addr = &raw const sources.addrs as *const u32;
        // SAFETY: there are eight addresses of four words each.
        unsafe {
            let addr = addr.add(below_8(source) * 4);
            (answer.0[2], answer.0[3]) = (pair(addr), pair(addr.add(2)));
        }
        answer.0[4] = answer.0[4] & 0xff_0000_ffff | (port.to_be() as u64) << 16;
        let swapped = [key.0[2], key.0[3], key.0[0], key.0[1]];
        (back.l4_delta, back.ip_delta) =
            nat_deltas(answer.addrs(), answer.ports(), swapped, key.ports().rotate_left(16));
        match answer.insert(back) {
            0 => return 0,
            errno if errno == -EEXIST => {}
            _ => return DropReason::NatTableFull as u32,
        }
        if reclaim(answer, back.seen) != 0 && answer.insert(back) == 0 {
            return 0;
        }
        count_event(Event::NatPortTaken as u32);
        n += 1;
    }
    DropReason::NatPortsExhausted as u32
}

/// Removes the flow behind a taken port if it is over. 1: it was.
#[inline(never)]
fn reclaim(answer: &Key, now: u32) -> u32 {
    let Some(back) = answer.get() else { return 1 };
    let forward = opposite(back, (answer.0[4] >> 32) as u8);
    let (flags, seen) = match forward.get() {
        // The reverse entry is put in first: a forward one may be on its way.
        None => (nat_flag::SEEN, back.seen),
        Some(there) => (there.flags, there.seen),
    };
    if !nat_over(flags, back.flags, back.idle, (seen, back.seen), now) {
        return 0;
    }
    forward.remove();
    answer.remove();
    1
}

/// Two words of a row as one.
///
/// # Safety
/// Both words are readable.
#[inline(always)]
unsafe fn pair(words: *const u32) -> u64 {
    // SAFETY: see above.
    unsafe { words.read() as u64 | (words.add(1).read() as u64) << 32 }
}

#[inline(always)]
fn store_flow(flow: &mut NatFlow, addrs: [u64; 4], ports: u32) {
    let words = &raw mut *flow as *mut u64;
    // SAFETY: the entry begins with new source and destination, two words each, then the ports.
    unsafe {
        words.write(addrs[0]);
        words.add(1).write(addrs[1]);
        words.add(2).write(addrs[2]);
        words.add(3).write(addrs[3]);
        (words.add(4) as *mut u32).write(ports);
    }
}

#[inline(always)]
fn ether_type(ctx: *mut xdp_md) -> u16 {
    let ctx = XdpContext::new(ctx);
    let data = start(&ctx);
    if data + ETH_LEN > end(&ctx) {
        return 0;
    }
    // SAFETY: 14 bytes were checked.
    unsafe { load(data + 12) }
}

/// Ethernet addresses of a reply to the packet at hand, as three words.
#[inline(always)]
fn reply_macs(data: usize) -> [u32; 3] {
    // SAFETY: the caller compared 14 bytes at `data` with the end of the frame.
    unsafe {
        [load(data + 6), load::<u16>(data + 10) as u32 | (load::<u16>(data) as u32) << 16, load(data + 2)]
    }
}

/// Notes where the packet at hand came from. Returns whether that is news.
#[inline(always)]
fn arrival(ctx: *mut xdp_md, flow: &mut NatFlow) -> bool {
    let context = XdpContext::new(ctx);
    let data = start(&context);
    if data + ETH_LEN > end(&context) {
        return false;
    }
    let macs = reply_macs(data);
    let held = &raw mut flow.macs as *mut u32;
    // SAFETY: reading the context's own field.
    let ifindex = unsafe { (*ctx).ingress_ifindex };
    // SAFETY: `macs` is 12 bytes at a multiple of 8.
    unsafe {
        let same = held.read() == macs[0] && held.add(1).read() == macs[1] && held.add(2).read() == macs[2];
        if same && flow.ifindex == ifindex {
            return false;
        }
        held.write(macs[0]);
        held.add(1).write(macs[1]);
        held.add(2).write(macs[2]);
    }
    flow.ifindex = ifindex;
    true
}

/// Sends a client's packet on.
#[inline(never)]
fn to_backend(ctx: *mut xdp_md, flow: &mut NatFlow, shape: u32, now: u32, protocol: u32) -> u32 {
    let context = XdpContext::new(ctx);
    let Some(row) = BACKENDS.get(flow.backend as u32) else {
        return drop_for(flow.vip, DropReason::NoBackend as u32);
    };
    if row.flags & backend_flag::HAS_LINK == 0 {
        return drop_for(flow.vip, DropReason::BackendUnreachable as u32);
    }
    let ip_len = shape & 0xffff;
    if ip_len > row.mtu as u32 {
        return drop_for(flow.vip, DropReason::TooBig as u32);
    }
    if arrival(ctx, flow) {
        // The client's router changed: replies go to the new one.
        if let Some(back) = opposite(flow, protocol as u8).get() {
            arrival(ctx, back);
        }
    }
    let refused = rewrite(&context, flow, shape & V6 != 0);
    if refused > 0xff {
        return drop_for(flow.vip, refused >> 8);
    }
    note(flow, refused, now);
    let data = start(&context);
    if data + ETH_LEN > end(&context) {
        return drop_for(flow.vip, DropReason::Truncated as u32);
    }
    write_macs(data, row);
    count_traffic(flow.backend as u32, ip_len, false);
    transmit(&context, flow.vip, row.ifindex)
}

/// From a backend: a packet that no VIP was found for.
#[inline(never)]
pub fn back(ctx: *mut xdp_md) -> u32 {
    let context = XdpContext::new(ctx);
    let v6 = ether_type(ctx) == ETH_IPV6;
    let Some(key) = key_of(&context, v6) else { return XDP_PASS };
    let Some(flow) = key.get() else { return XDP_PASS };
    if flow.flags & nat_flag::REVERSE == 0 {
        return XDP_PASS;
    }
    let data = start(&context);
    let ip = data + ETH_LEN;
    if ip + if v6 { IPV6_LEN } else { IPV4_LEN } > end(&context) {
        return XDP_PASS;
    }
    // SAFETY: 20 or 40 bytes at `ip` were checked.
    let ip_len = unsafe {
        if v6 {
            u16::from_be(load(ip + 4)) as u32 + IPV6_LEN as u32
        } else {
            u16::from_be(load(ip + 2)) as u32
        }
    };
    if ip_len > distance(end(&context), ip) {
        return drop_for(flow.vip, DropReason::BadLength as u32);
    }
    let refused = rewrite(&context, flow, v6);
    if refused > 0xff {
        return drop_for(flow.vip, refused >> 8);
    }
    note(flow, refused, now());
    let data = start(&context);
    if data + ETH_LEN > end(&context) {
        return drop_for(flow.vip, DropReason::Truncated as u32);
    }
    let macs = &raw const flow.macs as *const u32;
    // SAFETY: `macs` is 12 bytes at a multiple of 8; 14 bytes at `data` were checked.
    unsafe {
        store(data, macs.read());
        store(data + 4, macs.add(1).read());
        store(data + 8, macs.add(2).read());
    }
    transmit(&context, flow.vip, flow.ifindex)
}

/// Notes what a packet says of its direction: that it went, and its TCP flags.
#[inline(always)]
fn note(flow: &mut NatFlow, tcp_flags: u32, now: u32) {
    let mut flags = flow.flags | nat_flag::SEEN;
    if tcp_flags as u8 & TCP_FIN != 0 {
        flags |= nat_flag::FIN;
    }
    if tcp_flags as u8 & TCP_RST != 0 {
        flags |= nat_flag::RST;
    }
    if flags != flow.flags {
        flow.flags = flags;
    }
    if flow.seen != now {
        flow.seen = now;
    }
}

/// Writes addresses, ports and checksums of the packet at hand. Returns its TCP flags (0 for UDP), or the number of
/// a drop reason in the second byte.
#[inline(always)]
fn rewrite(ctx: &XdpContext, flow: &NatFlow, v6: bool) -> u32 {
    const fn refuse(reason: DropReason) -> u32 {
        (reason as u32) << 8
    }
    let (ip, data_end) = (start(ctx) + ETH_LEN, end(ctx));
    if ip + if v6 { IPV6_LEN } else { IPV4_LEN } > data_end {
        return refuse(DropReason::Truncated);
    }
    // SAFETY: 20 or 40 bytes at `ip` were checked.
    let (vihl, protocol): (u8, u8) = unsafe { (load(ip), load(if v6 { ip + 6 } else { ip + 9 })) };
    let l4 = ip + if v6 { IPV6_LEN } else { ((vihl & 0x0f) as usize) << 2 };
    if l4 + UDP_LEN > data_end {
        return refuse(DropReason::Truncated);
    }
    let mut flags = 0;
    if protocol == proto::TCP {
        if l4 + TCP_LEN > data_end {
            return refuse(DropReason::BadTcpHeader);
        }
        if !age(ip, v6) {
            return refuse(DropReason::TtlExpired);
        }
        // SAFETY: 20 bytes at `l4` were checked.
        unsafe {
            flags = load::<u8>(l4 + 13) as u32;
            let check: u16 = load(l4 + 16);
            store(l4 + 16, !sum::fold((!check) as u32 + flow.l4_delta as u32));
        }
    } else {
        if !age(ip, v6) {
            return refuse(DropReason::TtlExpired);
        }
        // SAFETY: 8 bytes at `l4` were checked.
        unsafe {
            let check: u16 = load(l4 + 6);
            // Zero says that there is none (RFC 768); a sum that comes out as zero is sent as ones.
            if check != 0 {
                let new = !sum::fold((!check) as u32 + flow.l4_delta as u32);
                store(l4 + 6, if new == 0 { 0xffff } else { new });
            }
        }
    }
    let words = &raw const *flow as *const u64;
    // SAFETY: 8 bytes at `l4`, and 20 or 40 at `ip`, were checked; the entry begins with two addresses and ports.
    unsafe {
        store(l4, (words.add(4) as *const u32).read());
        if v6 {
            store(ip + 8, words.read());
            store(ip + 16, words.add(1).read());
            store(ip + 24, words.add(2).read());
            store(ip + 32, words.add(3).read());
        } else {
            let check: u16 = load(ip + 10);
            store(ip + 10, !sum::fold((!check) as u32 + flow.ip_delta as u32));
            store(ip + 12, words.read() as u32);
            store(ip + 16, words.add(2).read() as u32);
        }
    }
    flags
}
