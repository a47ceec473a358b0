//! The program and its model: the same frames through BPF_PROG_TEST_RUN and through `sluice-core::l4::packet`
//! must end the same, over every mode and family, whole and mutated frames, settled and changing slots.
//!
//! The first world holds one VIP of each kind at each place, so that every end is reached; further ones hold
//! random placements. Between frames the tables change ([`changes`]). `SLUICE_SEED` and
//! `SLUICE_DIFFERENTIAL_FRAMES` make other and longer runs: `scripts/fuzz.sh differential FRAMES`.

#[path = "differential/changes.rs"]
mod changes;

use changes::Changes;
use sluice_abi::flow::{idle_units, units};
use sluice_abi::fragment;
use sluice_abi::hash::{mix64, vip_seed};
use sluice_abi::layout::{
    AddrValue, BackendValue, GUE_PORT, OUTER_TTL, VipKey4, VipKey6, VipValue, backend_flag, mode, proto,
    vip_flag,
};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::slot::{ASK, Slot};
use sluice_abi::{SLOTS, sum};
use sluice_core::l4::flows::FlowTable;
use sluice_core::l4::packet::{Tables, Verdict, decide};
use sluice_loader::{
    BackendSpec, Balancer, Config, Link, Mode, Proto, Tracking, VipKey, VipOptions, VipSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LOOPBACK: u32 = 1;
const IDLE_MS: u32 = 60_000;
const FLOW_BUCKETS: u32 = 32;
/// Frames of a run, when the environment does not say.
const FRAMES: u64 = 20_000;
/// Frames of one world in a short run, and in a long one.
const WORLD_FRAMES: (u64, u64) = (5_000, 50_000);
/// One in so many frames is followed by a change of the tables.
const CHANGE_ONE_IN: u64 = 60;
const PORTS: [u16; 2] = [80, 443];

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix64(self.0) % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn v4(last: u8) -> [u8; 4] {
    [10, 9, 0, last]
}
fn v6(last: u8) -> [u8; 16] {
    let mut a = [0; 16];
    (a[0], a[15]) = (0xfd, last);
    a
}

const PLAIN: VipOptions = VipOptions { tracking: Tracking::Window };
const ALWAYS: VipOptions = VipOptions { tracking: Tracking::Always };
const NEVER: VipOptions = VipOptions { tracking: Tracking::Never };

/// VIPs at .1 and on, in both families and transports: mode, its number, options and their flags. None at .7.
const KINDS: [(u8, Mode, u8, VipOptions, u16); 6] = [
    (1, Mode::L2Direct, mode::L2_DIRECT, PLAIN, 0),
    (2, Mode::Ipip, mode::IPIP, PLAIN, 0),
    (3, Mode::Local, mode::LOCAL, PLAIN, 0),
    (4, Mode::L2Direct, mode::L2_DIRECT, ALWAYS, vip_flag::TRACK),
    (5, Mode::Ipip, mode::IPIP, NEVER, vip_flag::BYPASS),
    (6, Mode::Gue { port: GUE_PORT }, mode::GUE, PLAIN, 0),
];

struct World {
    balancer: Balancer,
    tables: Tables,
    flows: FlowTable,
    expected_drops: BTreeMap<(u32, DropReason), u64>,
}

fn backend(id: u16) -> (BackendSpec, BackendValue) {
    let last = id as u8;
    // 1..=3 whole, 4 only IPv6, 5 without a link, 6 dead, 7 with a small MTU, 2 with one below 1500.
    let link = Link {
        ifindex: LOOPBACK,
        dst_mac: [2, 0, 0, 0, 1, last],
        src_mac: [2; 6],
        // One for each family to be too small and to be told of.
        mtu: match id {
            7 => 100,
            2 => 1400,
            _ => 1500,
        },
    };
    let spec = BackendSpec {
        id,
        addr4: (id != 4).then(|| Ipv4Addr::new(10, 8, 0, last)),
        addr6: (id != 3).then(|| Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, id)),
        link: (id != 5).then_some(link),
        alive: id != 6,
    };
    let mut row = BackendValue { flags: backend_flag::PRESENT, ..BackendValue::default() };
    if spec.alive {
        row.flags |= backend_flag::ALIVE;
    }
    if spec.link.is_some() {
        row.flags |= backend_flag::HAS_LINK;
        (row.dst_mac, row.src_mac, row.mtu, row.ifindex) =
            (link.dst_mac, link.src_mac, link.mtu, link.ifindex);
    }
    if let Some(a) = spec.addr4 {
        row.flags |= backend_flag::HAS_V4;
        (row.addr4, row.outer_src4) = (a.octets(), [172, 16, 0, 0]);
        row.outer4_sum = sum::outer4_base(&row.outer_src4, &row.addr4, OUTER_TTL, proto::IPIP);
    }
    if let Some(a) = spec.addr6 {
        row.flags |= backend_flag::HAS_V6;
        row.addr6 = a.octets();
        row.outer_src6[0] = 1;
    }
    (spec, row)
}

/// Every kind at a place of its own, or, with a source of randomness, any kind or none at each.
fn world(mut random: Option<&mut Random>) -> World {
    let mut config = Config::new("/nonexistent", vec![]);
    config.flow_buckets = FLOW_BUCKETS;
    // The model knows no clock for messages.
    config.icmp_per_second = 1_000_000_000;
    let mut balancer = Balancer::open_detached(&config).unwrap();
    let mut tables = Tables { ifindex: LOOPBACK, ..Tables::default() };
    for id in 1..=7 {
        let (spec, row) = backend(id);
        balancer.set_backend(&spec).unwrap();
        tables.backends.insert(id, row);
    }
    let salt = random.as_mut().map_or(0, |r| r.below(u64::MAX));
    for kind in KINDS {
        let last = kind.0;
        for six in [false, true] {
            for proto in [Proto::Tcp, Proto::Udp] {
                for port in PORTS {
                    if random.as_mut().is_some_and(|r| r.one_in(6)) {
                        continue;
                    }
                    let drawn = random.as_mut().map(|r| KINDS[r.below(KINDS.len() as u64) as usize]);
                    let (_, spec_mode, number, options, flags) = drawn.unwrap_or(kind);
                    let addr = if six { IpAddr::from(v6(last)) } else { IpAddr::from(v4(last)) };
                    let key = VipKey { addr, port, proto };
                    let spec = VipSpec { key, mode: spec_mode, flow_idle_ms: IDLE_MS, options };
                    let port_be = if number == mode::GUE { GUE_PORT.to_be() } else { 0 };
                    let row = VipValue { mode: number, flags, port_be, ..VipValue::default() };
                    add_vip(&mut balancer, &mut tables, spec, row, salt);
                }
            }
        }
    }
    let flows = FlowTable::new(FLOW_BUCKETS, idle_units(u64::from(IDLE_MS)));
    World { balancer, tables, flows, expected_drops: BTreeMap::new() }
}

fn add_vip(balancer: &mut Balancer, tables: &mut Tables, spec: VipSpec, row: VipValue, salt: u64) {
    let ip_proto = spec.key.proto.number();
    let local = spec.mode == Mode::Local;
    // Settled, window open, exceptions, nobody.
    let slot = |n: u32| match mix64(u64::from(n) ^ salt) % 16 {
        0 => Slot::settled(0),
        k @ 1..=7 => Slot::settled(k as u16),
        k @ 8..=11 => Slot::new(k as u16 - 7, 1 + (mix64(u64::from(n) + 99) % 7) as u16),
        k => Slot::new(k as u16 - 11, ASK),
    };
    let slots: Vec<Slot> = if local { vec![] } else { (0..SLOTS).map(slot).collect() };
    balancer.set_vip(&spec, &slots).unwrap();
    let id = balancer.state().unwrap().vips.iter().find(|v| v.spec == spec).unwrap().id;
    let mut addr = [0; 16];
    match spec.key.addr {
        IpAddr::V4(a) => addr[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => addr = a.octets(),
    }
    let port_be = spec.key.port.to_be();
    let value =
        VipValue { id, seed: vip_seed(&addr, port_be, ip_proto, 0), flow_idle_ms: spec.flow_idle_ms, ..row };
    match spec.key.addr {
        IpAddr::V4(a) => {
            tables.vips4.insert(VipKey4 { addr: a.octets(), port_be, proto: ip_proto, pad: 0 }, value);
        }
        IpAddr::V6(a) => {
            tables.vips6.insert(VipKey6 { addr: a.octets(), port_be, proto: ip_proto, pad: 0 }, value);
        }
    }
    name_addr(tables, addr);
    if !local {
        tables.slots.insert(id, slots);
    }
}

/// What is known of an address: its one forwarded VIP if it has one, and whether none of its VIPs is local.
fn name_addr(tables: &mut Tables, addr: [u8; 16]) {
    let wide = |a: [u8; 4]| [a[0], a[1], a[2], a[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let v4 = tables.vips4.iter().map(|(k, v)| (wide(k.addr), v));
    let here = v4.chain(tables.vips6.iter().map(|(k, v)| (k.addr, v))).filter(|(a, _)| *a == addr);
    let (mut forwarded, mut local) = (Vec::new(), 0);
    for (_, vip) in here {
        if vip.mode == mode::LOCAL { local += 1 } else { forwarded.push(vip.id) }
    }
    let row = AddrValue {
        vip: if let [one] = forwarded[..] { one } else { 0 },
        forwards_only: u32::from(!forwarded.is_empty() && local == 0),
    };
    tables.addrs.insert(addr, row);
}

/// Frames sent lately: a flow is more than one packet.
struct Recent(Vec<Vec<u8>>);

impl Recent {
    const KEPT: usize = 256;

    /// One of them again, or a new one.
    fn next(&mut self, r: &mut Random) -> Vec<u8> {
        if !self.0.is_empty() && r.one_in(2) {
            return self.0[r.below(self.0.len() as u64) as usize].clone();
        }
        let frame = frame(r);
        if self.0.len() < Self::KEPT {
            self.0.push(frame.clone());
        } else {
            self.0[r.below(Self::KEPT as u64) as usize] = frame.clone();
        }
        frame
    }
}

fn frame(r: &mut Random) -> Vec<u8> {
    let six = r.one_in(2);
    let tcp = r.one_in(2);
    let last = 1 + r.below(7) as u8;
    let port: u16 = [80, 443, 8080][r.below(3) as usize];
    let sport = 1024 + r.below(200) as u16;
    if r.one_in(12) {
        return icmp(r, six);
    }
    let body = vec![0x5a; if r.one_in(16) { 1290 + r.below(160) } else { r.below(60) } as usize];
    let mut l4 = sport.to_be_bytes().to_vec();
    l4.extend(port.to_be_bytes());
    if tcp {
        let flags = [0x10, 0x10, 0x02, 0x12, 0x11, 0x04, 0x03, 0x06][r.below(8) as usize];
        let offset = if r.one_in(16) { (r.below(16) as u8) << 4 } else { 0x50 };
        l4.extend([0, 0, 0, 1, 0, 0, 0, 2, offset, flags, 0x20, 0, 0, 0, 0, 0]);
    } else {
        l4.extend((8 + body.len() as u16).to_be_bytes());
        l4.extend([0, 0]);
    }
    l4.extend(body);
    let ttl = if r.one_in(16) { r.below(2) as u8 } else { 64 };
    let protocol = if r.one_in(24) {
        [1, 47, 58, 0, 44, 43][r.below(6) as usize]
    } else if tcp {
        6
    } else {
        17
    };
    if r.one_in(16) {
        l4.truncate(r.below(24) as usize);
    }
    let (protocol, l4) = if six && r.one_in(6) { extended(r, protocol, l4) } else { (protocol, l4) };
    let mut f = wrapped(r, six, protocol, last, &l4);
    f[if six { 21 } else { 22 }] = ttl;
    if !six {
        checksum4(&mut f);
    }
    mutate(r, &mut f);
    f
}

/// Extension headers of IPv6 before a payload.
fn extended(r: &mut Random, protocol: u8, mut l4: Vec<u8>) -> (u8, Vec<u8>) {
    let mut next = protocol;
    let most = if r.one_in(8) { 8 } else { 2 };
    for _ in 0..=r.below(most) {
        let kind = [44, 44, 44, 60, 43, 0, 51, 60][r.below(8) as usize];
        let length = if r.one_in(8) { r.below(3) as u8 } else { 0 };
        let word: u16 = [0, 1, 1, 32, 33, 8, 16, 1][r.below(8) as usize];
        let mut header = vec![next, length];
        // Of a routing header the last byte is the segments left.
        header.extend(if kind == 44 { word.to_be_bytes() } else { [0, u8::from(r.one_in(8))] });
        header.extend([0, 0, 0, r.below(3) as u8]);
        header.extend(vec![0; if kind == 44 { 0 } else { usize::from(length) * 8 }]);
        header.extend(l4);
        (l4, next) = (header, kind);
    }
    (next, l4)
}

/// Ethernet and IP around a payload for the VIP address `last`.
fn wrapped(r: &mut Random, six: bool, protocol: u8, last: u8, l4: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if six {
        f.extend([0x86, 0xdd, 0x60 | r.below(16) as u8, r.below(256) as u8, 0, 0]);
        f.extend((l4.len() as u16).to_be_bytes());
        f.extend([protocol, 64]);
        // Fragments come from one client, so that they meet.
        f.extend(v6(100 + if protocol == 44 { 0 } else { r.below(50) as u8 }));
        f.extend(v6(last));
    } else {
        let options = if r.one_in(8) { 4 * r.below(11) as usize } else { 0 };
        f.extend([0x08, 0x00, 0x45 + (options / 4) as u8, r.below(256) as u8]);
        f.extend((20 + options as u16 + l4.len() as u16).to_be_bytes());
        let fragment: u16 = if r.one_in(8) {
            [0x2000, 0x0001, 0x4001, 0x8000, 0x2000, 0x2004, 0x0009, 0x0002][r.below(8) as usize]
        } else {
            0x4000
        };
        // Few ids, so that fragments meet.
        f.extend([0, r.below(3) as u8]);
        f.extend(fragment.to_be_bytes());
        f.extend([64, protocol, 0, 0]);
        f.extend(v4(100 + if fragment == 0x4000 { r.below(50) as u8 } else { 0 }));
        f.extend(v4(last));
        f.extend(vec![1; options]);
        if options > 0 && r.one_in(4) {
            let at = f.len() - 1 - r.below(options as u64) as usize;
            f[at] = [0, 131, 137, 7, 0x94, 2][r.below(6) as usize];
        }
        checksum4(&mut f);
    }
    f.extend(l4);
    f
}

fn checksum4(f: &mut [u8]) {
    let header = usize::from(f[14] & 15) * 4;
    f[24..26].copy_from_slice(&[0, 0]);
    let words = f[14..14 + header].chunks(2).map(|c| u32::from(u16::from_le_bytes([c[0], c[1]])));
    let check = !sum::fold(words.sum());
    f[24..26].copy_from_slice(&check.to_le_bytes());
}

/// Echo, errors that quote a packet of a VIP, and what is neither.
fn icmp(r: &mut Random, six: bool) -> Vec<u8> {
    let last = 1 + r.below(4) as u8;
    let kinds: &[u8] = if six { &[128, 129, 1, 2, 3, 4, 2, 135] } else { &[8, 0, 3, 3, 11, 12, 4, 13] };
    let kind = kinds[r.below(8) as usize];
    let code = if r.one_in(8) { r.below(256) as u8 } else { 0 };
    let mut message = vec![kind, code, r.below(256) as u8, r.below(256) as u8, 0, 0, 5, 0x78];
    let mut ports = [80u16, 443, 8080][r.below(3) as usize].to_be_bytes().to_vec();
    ports.extend((1024 + r.below(200) as u16).to_be_bytes());
    ports.extend(vec![7; r.below(20) as usize]);
    let protocol = [6, 17, 6, 17, 6, 17, 47, 44][r.below(8) as usize];
    let mut quote = wrapped(r, six, protocol, last, &ports).split_off(14);
    // The quoted packet went the other way.
    let (at, size) = if six { (8, 16) } else { (12, 4) };
    if !r.one_in(16) {
        for i in 0..size {
            quote.swap(at + i, at + size + i);
        }
    }
    message.extend(quote);
    if r.one_in(4) {
        message.truncate(8 + r.below(message.len() as u64 - 7) as usize);
    }
    let mut f = wrapped(r, six, if six { 58 } else { 1 }, last, &message);
    mutate(r, &mut f);
    f
}

fn mutate(r: &mut Random, f: &mut Vec<u8>) {
    match r.below(6) {
        0 => {
            let at = 12 + r.below(f.len() as u64 - 12) as usize;
            f[at] ^= 1 << r.below(8);
        }
        1 => f.truncate(14 + r.below(f.len() as u64 - 13) as usize),
        2 => f.extend(vec![0; r.below(20) as usize]),
        _ => {}
    }
}

/// Units of the flow table and of the fragment table.
fn kernel_clock() -> (u64, u64) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    (units(ns), fragment::units(ns))
}

/// What the model says, with its drop counted.
fn expect(world: &mut World, (now, seconds): (u64, u64), frame: &[u8]) -> Verdict {
    world.flows.fragments.now = seconds;
    let verdict = decide(&world.tables, &mut world.flows, now, frame);
    if let Verdict::Drop(vip, reason) | Verdict::Answer(vip, reason, _) = &verdict {
        *world.expected_drops.entry((*vip, *reason)).or_default() += 1;
    }
    verdict
}

fn check(world: &mut World, frame: &[u8], n: u64) {
    let (clock, (verdict, after)) = loop {
        let before = kernel_clock();
        let answer = world.balancer.test_run(frame).unwrap();
        if before == kernel_clock() {
            break (before, answer);
        }
        // A clock ticked between: the model could not know which side the program saw. The same packet again is
        // the same decision in both.
        expect(world, before, frame);
    };
    let expected = expect(world, clock, frame);
    let got = match verdict {
        1 => "drop",
        2 => "pass",
        3 => "transmit",
        _ => "other",
    };
    match &expected {
        Verdict::Pass => {
            assert!(got == "pass" && after == frame, "frame {n}: {got}, model passes\n{frame:02x?}")
        }
        Verdict::Drop(_, reason) => {
            assert!(got == "drop", "frame {n}: {got}, model drops for {reason:?}\n{frame:02x?}");
        }
        Verdict::Answer(_, _, out) => {
            assert!(got == "transmit", "frame {n}: {got}, model answers\n{frame:02x?}");
            assert_eq!(&after, out, "frame {n}\n{frame:02x?}");
        }
        Verdict::Transmit(out) => {
            assert!(
                got == "transmit",
                "frame {n}: {got}, model transmits; drops {:?}\n{frame:02x?}",
                world.balancer.counters().unwrap().drops
            );
            assert_eq!(&after, out, "frame {n}\n{frame:02x?}");
        }
        Verdict::Redirect(..) => panic!("every backend is behind the interface the test runs on"),
    }
}

/// More datagrams under way than their bucket has places: the oldest gives way in both.
#[test]
fn a_full_bucket_of_fragments() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let mut world = world(None);
    let (src, dst) = (v4(100), v4(1));
    let word = |a: [u8; 4]| u64::from(u32::from_le_bytes(a));
    let bucket = |id: u16| {
        let id = fragment::id4(u16::from_le_bytes(id.to_be_bytes()), 17);
        fragment::key(0, [word(src), 0], [word(dst), 0], id) % u64::from(fragment::BUCKETS)
    };
    let ids: Vec<u16> = (0..=u16::MAX).filter(|&id| bucket(id) == bucket(0)).take(7).collect();
    assert_eq!(ids.len(), 7);
    let piece = |id: u16, offset: u16| {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 44];
        f.extend(id.to_be_bytes());
        f.extend(offset.to_be_bytes());
        f.extend([64, 17, 0, 0]);
        f.extend(src);
        f.extend(dst);
        f.extend([4, 1, 0, 80, 0, 64, 0, 0]);
        f.extend([0; 16]);
        checksum4(&mut f);
        f
    };
    for (n, &id) in ids.iter().enumerate() {
        check(&mut world, &piece(id, 0x2000), n as u64);
        for (m, &other) in ids.iter().enumerate() {
            check(&mut world, &piece(other, 0x0003), 100 * n as u64 + m as u64);
        }
    }
    let counters = world.balancer.counters().unwrap();
    assert!(counters.events.contains_key(&Event::FragmentEvicted), "{counters:?}");
}

#[test]
fn program_and_model_agree() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seed = number("SLUICE_SEED").unwrap_or(1);
    let frames = number("SLUICE_DIFFERENTIAL_FRAMES").unwrap_or(FRAMES);
    let of_a_world = if frames > FRAMES { WORLD_FRAMES.1 } else { WORLD_FRAMES.0 };
    let mut random = Random(seed << 32);
    let (mut reasons, mut events, mut made) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for first in (0..frames).step_by(of_a_world as usize) {
        let mut world = if first == 0 { world(None) } else { world(Some(&mut random)) };
        let mut changes = Changes::new(&mut world);
        let mut recent = Recent(Vec::new());
        for n in first..frames.min(first + of_a_world) {
            let frame = recent.next(&mut random);
            check(&mut world, &frame, n);
            if random.one_in(CHANGE_ONE_IN) {
                changes.make(&mut world, &mut random);
            }
        }
        let counters = world.balancer.counters().unwrap();
        let state = world.balancer.state().unwrap();
        let id =
            |key: Option<VipKey>| key.map_or(0, |k| state.vips.iter().find(|v| v.spec.key == k).unwrap().id);
        let counted: BTreeMap<(u32, DropReason), u64> =
            counters.drops.iter().map(|(&(key, reason), &n)| ((id(key), reason), n)).collect();
        assert_eq!(counted, world.expected_drops, "seed {seed}, world of frame {first}");
        reasons.extend(counted.keys().map(|k| k.1));
        events.extend(counters.events.keys().copied());
        for (what, n) in changes.made {
            *made.entry(what).or_insert(0u64) += n;
        }
        println!("seed {seed}: {} of {frames} frames agree", frames.min(first + of_a_world));
    }
    println!("changes between them: {made:?}; events: {events:?}");
    assert_eq!(made.len(), 6, "seed {seed}: a kind of change was never made: {made:?}");
    for event in [
        Event::IcmpSteered,
        Event::EchoAnswered,
        Event::TooBigSent,
        Event::FragmentFirst,
        Event::FragmentFollowed,
        Event::FlowHit,
        Event::FlowKept,
        Event::FlowNew,
        Event::FlowRehomed,
        Event::FlowEvicted,
    ] {
        assert!(events.contains(&event), "seed {seed}: no {event:?}, the test lost its reach");
    }
    for reason in [
        DropReason::Truncated,
        DropReason::BadIpHeader,
        DropReason::BadLength,
        DropReason::Fragment,
        DropReason::TtlExpired,
        DropReason::BadTcpHeader,
        DropReason::BadTcpFlags,
        DropReason::Ipv6Extension,
        DropReason::NoBackend,
        DropReason::BackendUnreachable,
        DropReason::TooBig,
        DropReason::BadIcmp,
        DropReason::FragmentUnknown,
        DropReason::FragmentTiny,
        DropReason::FragmentOverlap,
        DropReason::SourceRoute,
    ] {
        assert!(
            reasons.contains(&reason),
            "seed {seed}: no frame ended as {reason:?}, the test lost its reach"
        );
    }
}
