//! Full NAT and its model: the same frames, both ways, through BPF_PROG_TEST_RUN and `sluice-core::l4::nat`; what
//! comes out has right checksums; and what happens when ports, places or addresses run out.

use aya::maps::{HashMap, Map, MapData};
use sluice_abi::flow::units;
use sluice_abi::hash::{mix64, vip_seed};
use sluice_abi::layout::{
    AddrValue, BackendValue, VipKey4, VipKey6, VipValue, backend_flag, map, mode, vip_flag,
};
use sluice_abi::nat::{NAT_PORTS, NatSources, nat_units};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::slot::Slot;
use sluice_abi::{SLOTS, sum};
use sluice_core::l4::flows::FlowTable;
use sluice_core::l4::nat::{NatTable, decide};
use sluice_core::l4::packet::{Tables, Verdict};
use sluice_loader::{
    BackendSpec, Balancer, Config, Link, Mode, Proto, SourceList, VipKey, VipOptions, VipSpec,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LOOPBACK: u32 = 1;
const IDLE_MS: u32 = 60_000;
const FRAMES: u64 = 20_000;
const BACKEND_PORT: u16 = 8080;
/// Small enough that the table fills up, and that the kernel counts it exactly.
const NAT_FLOWS: u32 = 48;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix64(self.0) % n
    }
}

fn addr(six: bool, last: u8) -> IpAddr {
    if six {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into()
    } else {
        Ipv4Addr::new(10, 9, 0, last).into()
    }
}

fn octets(a: IpAddr) -> Vec<u8> {
    match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn wide(a: IpAddr) -> [u8; 16] {
    let mut wide = [0; 16];
    let octets = octets(a);
    wide[..octets.len()].copy_from_slice(&octets);
    wide
}

struct World {
    balancer: Balancer,
    tables: Tables,
    flows: FlowTable,
    nat: NatTable,
}

/// Backends 1 and 2 whole, 3 without a link, 4 dead; VIP .1 with sources .200 and .201.
fn world(nat_flows: u32, sources: u8, backends: &[u16]) -> World {
    let mut config = Config::new("/nonexistent", vec![]);
    (config.flow_buckets, config.vips, config.nat_flows) = (4, 16, nat_flows);
    let mut balancer = Balancer::open_detached(&config).unwrap();
    let mut tables = Tables { ifindex: LOOPBACK, ..Tables::default() };
    let mut nat = NatTable { room: 2 * nat_flows as usize, ..NatTable::default() };
    for id in 1..=4u16 {
        let last = id as u8;
        let (mac, own) = ([2, 0, 0, 0, 1, last], [2, 0, 0, 0, 2, last]);
        let link = Link { ifindex: LOOPBACK, dst_mac: mac, src_mac: own, mtu: 200 };
        let (a4, a6) = (Ipv4Addr::new(10, 8, 0, last), Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, id));
        let spec = BackendSpec {
            id,
            addr4: Some(a4),
            addr6: Some(a6),
            link: (id != 3).then_some(link),
            alive: id != 4,
        };
        balancer.set_backend(&spec).unwrap();
        let mut row = BackendValue { addr4: a4.octets(), addr6: a6.octets(), ..BackendValue::default() };
        row.flags = backend_flag::PRESENT | backend_flag::HAS_V4 | backend_flag::HAS_V6;
        if id != 3 {
            row.flags |= backend_flag::HAS_LINK;
            (row.dst_mac, row.src_mac, row.mtu, row.ifindex) = (mac, own, link.mtu, LOOPBACK);
        }
        if id != 4 {
            row.flags |= backend_flag::ALIVE;
        }
        tables.backends.insert(id, row);
    }
    for six in [false, true] {
        let list: Vec<IpAddr> = (0..sources).map(|n| addr(six, 200 + n)).collect();
        for proto in [Proto::Tcp, Proto::Udp] {
            let key = VipKey { addr: addr(six, 1), port: 80, proto };
            let mode = Mode::Nat { backend_port: BACKEND_PORT, sources: SourceList::new(&list).unwrap() };
            let spec = VipSpec { key, mode, flow_idle_ms: IDLE_MS, options: VipOptions::default() };
            let owner = |n: u32| Slot::settled(backends[(mix64(n.into()) % backends.len() as u64) as usize]);
            let slots: Vec<Slot> = (0..SLOTS).map(owner).collect();
            balancer.set_vip(&spec, &slots).unwrap();
            let state = balancer.state().unwrap();
            let held = state.vips.iter().find(|v| v.spec.key == key).unwrap();
            assert_eq!(held.spec, spec, "read back");
            let row = VipValue {
                id: held.id,
                mode: mode::NAT,
                flags: vip_flag::NAT,
                seed: vip_seed(&wide(key.addr), 80u16.to_be(), proto.number(), 0),
                flow_idle_ms: IDLE_MS,
                port_be: BACKEND_PORT.to_be(),
                ..VipValue::default()
            };
            let (port_be, number) = (80u16.to_be(), proto.number());
            match key.addr {
                IpAddr::V4(a) => drop(
                    tables.vips4.insert(VipKey4 { addr: a.octets(), port_be, proto: number, pad: 0 }, row),
                ),
                IpAddr::V6(a) => drop(
                    tables.vips6.insert(VipKey6 { addr: a.octets(), port_be, proto: number, pad: 0 }, row),
                ),
            }
            tables.slots.insert(held.id, slots);
            let mut row = NatSources { addrs: [wide(list[0]); 8], count: list.len() as u32 };
            list.iter().enumerate().for_each(|(n, a)| row.addrs[n] = wide(*a));
            nat.sources.insert(held.id, row);
        }
        tables.addrs.insert(wide(addr(six, 1)), AddrValue { vip: 0, forwards_only: 1 });
    }
    World { balancer, tables, flows: FlowTable::new(4, 9), nat }
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|c| u32::from(u16::from_le_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum()
}

/// Sum over pseudo header and transport; 0xffff when right.
fn transport_sum(ip: &[u8]) -> u16 {
    let six = ip[0] >> 4 == 6;
    let (at, proto, addrs) = if six { (40, ip[6], &ip[8..40]) } else { (20, ip[9], &ip[12..20]) };
    let length = (ip.len() - at) as u16;
    sum::fold(sum_of(&ip[at..]) + sum_of(addrs) + u32::from(length.to_be()) + u32::from(proto) * 256)
}

struct Packet {
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    /// TCP with these flags; `None`: UDP.
    tcp: Option<u8>,
    body: usize,
    /// UDP has a checksum.
    summed: bool,
}

/// A packet with right checksums from MAC ..2 to MAC ..1.
fn frame(p: &Packet) -> Vec<u8> {
    let mut l4 = [p.src.1.to_be_bytes(), p.dst.1.to_be_bytes()].concat();
    match p.tcp {
        Some(flags) => l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x20, 0, 0, 0, 0, 0]),
        None => {
            l4.extend((8 + p.body as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
    }
    l4.extend((0..p.body).map(|n| n as u8));
    let (src, dst) = (octets(p.src.0), octets(p.dst.0));
    let proto = if p.tcp.is_some() { 6 } else { 17 };
    let mut ip = if src.len() == 16 {
        let length = (l4.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0, length[0], length[1], proto, 64][..], &src, &dst].concat()
    } else {
        let length = (20 + l4.len() as u16).to_be_bytes();
        let mut ip =
            [&[0x45, 0, length[0], length[1], 0, 1, 0x40, 0, 64, proto, 0, 0][..], &src, &dst].concat();
        let check = !sum::fold(sum_of(&ip));
        ip[10..12].copy_from_slice(&check.to_le_bytes());
        ip
    };
    let header = ip.len();
    ip.extend(l4);
    if p.tcp.is_some() || p.summed {
        let at = header + if p.tcp.is_some() { 16 } else { 6 };
        let check = !transport_sum(&ip);
        ip[at..at + 2].copy_from_slice(&if check == 0 { [0xff; 2] } else { check.to_le_bytes() });
    }
    let ether_type = if src.len() == 16 { [0x86, 0xdd] } else { [8, 0] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ether_type, &ip].concat()
}

/// Addresses and ports of a frame without IPv4 options, and its protocol.
fn ends(frame: &[u8]) -> ((IpAddr, u16), (IpAddr, u16), u8) {
    let ip = &frame[14..];
    let six = ip[0] >> 4 == 6;
    let at = if six { 40 } else { 20 };
    let read = |i: usize| -> IpAddr {
        if six {
            IpAddr::from(<[u8; 16]>::try_from(&ip[8 + 16 * i..24 + 16 * i]).unwrap())
        } else {
            IpAddr::from(<[u8; 4]>::try_from(&ip[12 + 4 * i..16 + 4 * i]).unwrap())
        }
    };
    let port = |i: usize| u16::from_be_bytes([ip[at + i], ip[at + i + 1]]);
    ((read(0), port(0)), (read(1), port(2)), if six { ip[6] } else { ip[9] })
}

fn right_sums(frame: &[u8]) -> bool {
    let ip = &frame[14..];
    let six = ip[0] >> 4 == 6;
    let at = if six { 40 } else { 20 };
    let udp = (if six { ip[6] } else { ip[9] }) == 17;
    let unsummed = udp && ip[at + 6..at + 8] == [0, 0];
    (six || sum::fold(sum_of(&ip[..20])) == 0xffff) && (unsummed || transport_sum(ip) == 0xffff)
}

fn clocks() -> (u32, u64) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    (nat_units(ns), units(ns))
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Both answers; the frame is run again when the clock ticked meanwhile.
fn check(w: &mut World, frame: &[u8], n: u64) -> Verdict {
    loop {
        let before = clocks();
        let (got, after) = w.balancer.test_run(frame).unwrap();
        let tables = &w.tables;
        let expected = decide(tables, &mut w.flows, &mut w.nat, before, frame);
        if before != clocks() {
            // Which side of the tick the program saw is not known; the same packet again settles it in both.
            continue;
        }
        match &expected {
            Verdict::Pass => {
                assert!(got == 2 && after == frame, "frame {n}: {got}, model passes\n{frame:02x?}")
            }
            Verdict::Drop(_, reason) => assert!(got == 1, "frame {n}: {got}, {reason:?}\n{frame:02x?}"),
            Verdict::Transmit(out) => {
                assert_eq!((got, &after), (3, out), "frame {n}\n{frame:02x?}");
            }
            other => panic!("frame {n}: {other:?}"),
        }
        return expected;
    }
}

fn random_frame(r: &mut Random, sent: &[Vec<u8>]) -> Vec<u8> {
    let six = r.below(2) == 0;
    let tcp = (r.below(3) > 0).then(|| [SYN, SYN, ACK, ACK, ACK, FIN | ACK, RST][r.below(7) as usize]);
    let (body, summed) = (r.below(120) as usize, six || r.below(3) > 0);
    let mut p = Packet {
        src: (addr(six, 100 + r.below(4) as u8), 1024 + r.below(12) as u16),
        dst: (addr(six, 1), if r.below(20) == 0 { 81 } else { 80 }),
        tcp,
        body,
        summed,
    };
    if !sent.is_empty() && r.below(2) == 0 {
        // A reply to something sent, or to its neighbour.
        let (src, dst, proto) = ends(&sent[r.below(sent.len() as u64) as usize]);
        (p.src, p.dst) = (dst, src);
        p.summed |= src.0.is_ipv6();
        p.tcp = (proto == 6).then(|| [SYN | ACK, ACK, ACK, FIN | ACK, RST][r.below(5) as usize]);
        p.dst.1 ^= u16::from(r.below(10) == 0);
    }
    frame(&p)
}

#[test]
fn program_and_model_agree_on_nat() {
    if !root() {
        return;
    }
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u64);
    let mut r = Random(seed << 32);
    let mut w = world(NAT_FLOWS, 2, &[1, 2, 3, 4]);
    let (mut sent, mut replies) = (Vec::new(), 0u64);
    for n in 0..FRAMES {
        let mut frame = random_frame(&mut r, &sent);
        if r.below(40) == 0 {
            // Another router of the client.
            frame[11] ^= 1;
        }
        let whole = r.below(8) > 0;
        if !whole {
            let at = 14 + r.below(frame.len() as u64 - 14) as usize;
            frame[at] ^= 1 << r.below(8);
            frame.truncate(frame.len() - (r.below(frame.len() as u64 - 14) * (r.below(4) / 3)) as usize);
        }
        if let Verdict::Transmit(out) = check(&mut w, &frame, n)
            && whole
        {
            assert!(right_sums(&frame) && right_sums(&out), "frame {n}: {frame:02x?}\n{out:02x?}");
            let (src, dst, _) = ends(&out);
            if dst.1 == BACKEND_PORT {
                sent.push(out);
            } else {
                assert_eq!(src, (addr(src.0.is_ipv6(), 1), 80), "frame {n}: a reply comes from the VIP");
                replies += 1;
            }
        }
    }
    let counters = w.balancer.counters().unwrap();
    let dropped = |reason| counters.drops.iter().filter(|(k, _)| k.1 == reason).map(|(_, n)| n).sum::<u64>();
    assert!(sent.len() > 1000 && replies > 1000, "seed {seed}: {} sent, {replies} replies", sent.len());
    for reason in [DropReason::NatNoFlow, DropReason::NatTableFull, DropReason::BackendUnreachable] {
        assert!(dropped(reason) > 0, "seed {seed}: no frame ended as {reason:?}, the test lost its reach");
    }
    assert!(counters.events[&Event::NatFlowReplaced] > 0, "seed {seed}: {:?}", counters.events);
    let swept = w.balancer.nat_sweep().unwrap();
    assert_eq!(swept.live + swept.expired, w.nat.flows.len() as u64 / 2, "each flow is judged once");
}

/// Rows that the loader never takes away under a VIP.
fn take_sources_away(balancer: &Balancer) {
    let ids = balancer.program().unwrap().info().unwrap().map_ids().unwrap().unwrap();
    let named =
        |id: &u32| MapData::from_id(*id).unwrap().info().unwrap().name_as_str() == Some(map::NAT_SOURCES);
    let id = ids.into_iter().find(named).unwrap();
    const BYTES: usize = size_of::<NatSources>();
    let mut rows: HashMap<MapData, u32, [u8; BYTES]> =
        Map::from_map_data(MapData::from_id(id).unwrap()).unwrap().try_into().unwrap();
    for key in rows.keys().collect::<Result<Vec<u32>, _>>().unwrap() {
        rows.remove(&key).unwrap();
    }
}

fn udp_from(client: u8, port: u16) -> Vec<u8> {
    let (src, dst) = ((addr(false, client), port), (addr(false, 1), 80));
    frame(&Packet { src, dst, tcp: None, body: 4, summed: true })
}

#[test]
fn no_two_flows_share_a_port_and_the_last_ones_are_refused() {
    if !root() {
        return;
    }
    let w = world(70_000, 1, &[1]);
    let mut given = std::collections::BTreeSet::new();
    let mut refused = 0u32;
    for n in 0..66_000u32 {
        let (verdict, out) =
            w.balancer.test_run(&udp_from(100 + (n >> 14) as u8, 1024 + (n & 0x3fff) as u16)).unwrap();
        if verdict == 3 {
            let (src, _, _) = ends(&out);
            assert!(given.insert(src.1), "port {} is given twice", src.1);
        } else {
            refused += 1;
        }
    }
    let counters = w.balancer.counters().unwrap();
    let ports: BTreeMap<_, _> =
        counters.drops.into_iter().filter(|(k, _)| k.1 == DropReason::NatPortsExhausted).collect();
    assert_eq!(ports.values().sum::<u64>(), u64::from(refused), "{ports:?}");
    assert!(refused > 0 && given.len() as u32 + refused == 66_000, "{refused}");
    assert!(given.len() as u32 > NAT_PORTS * 8 / 10, "{} of {NAT_PORTS} ports were of use", given.len());
}

#[test]
fn without_a_source_nothing_begins_and_a_removed_vip_leaves_no_feature() {
    if !root() {
        return;
    }
    let mut w = world(8, 1, &[1]);
    let (verdict, out) = w.balancer.test_run(&udp_from(100, 2000)).unwrap();
    assert_eq!(verdict, 3);
    let (src, dst, _) = ends(&out);
    let reply = frame(&Packet { src: dst, dst: src, tcp: None, body: 9, summed: true });
    assert_eq!(w.balancer.test_run(&reply).unwrap().0, 3);
    assert!(w.balancer.ids_in_use().unwrap().contains(&1), "a flow names its backend");
    let keys: Vec<VipKey> = w.balancer.state().unwrap().vips.iter().map(|v| v.spec.key).collect();
    take_sources_away(&w.balancer);
    assert_eq!(w.balancer.test_run(&udp_from(100, 2001)).unwrap().0, 1);
    let drops = w.balancer.counters().unwrap().drops;
    assert!(drops.keys().any(|k| k.1 == DropReason::NatNoSource), "{drops:?}");
    for key in keys {
        w.balancer.remove_vip(&key).unwrap();
    }
    assert_eq!(w.balancer.test_run(&reply).unwrap().0, 2, "no VIP of this mode, nothing is asked");
}
