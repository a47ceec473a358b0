//! Runs the tables against the loaded programs. Needs root; nothing is pinned or attached.

use super::frame::dump;
use super::{l4, node};
use aya::TestRun as _;
use aya::TestRunOptions;
use aya::maps::{Array, Map, MapData};
use sluice_abi::SLOTS;
use sluice_abi::layout::{VipValue, map, mode};
use sluice_abi::reason::{DropReason, Event};
use sluice_abi::slot::Slot;
use sluice_abi::vips::VipRow;
use sluice_loader::{
    BackendSpec, Balancer, Config, Counters, DecapSpec, Link, Mode, Node, Proto, Traffic, VipKey, VipOptions,
    VipSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// `lo`, which a test run arrives on.
pub const LOOPBACK: u32 = 1;
const VIPS: u32 = 128;
/// ICMP messages a second: more than the table has rows, whatever the clock.
const NO_LIMIT: u32 = 1_000_000_000;
const GUE: Mode = Mode::Gue { port: 6080 };

pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Any interface but `lo`: redirecting names it, nothing is sent to it.
fn other_interface() -> Option<u32> {
    let index = |entry: std::io::Result<std::fs::DirEntry>| -> Option<u32> {
        std::fs::read_to_string(entry.ok()?.path().join("ifindex")).ok()?.trim().parse().ok()
    };
    std::fs::read_dir("/sys/class/net").ok()?.filter_map(index).find(|&i| i != LOOPBACK)
}

pub fn backend(id: u16, ifindex: u32) -> BackendSpec {
    let last = id as u8;
    let link = Link {
        ifindex,
        dst_mac: [2, 0, 0, 0, 1, last],
        src_mac: [2, 0, 0, 0, 2, last],
        mtu: match id {
            6 => 100,
            9 => 1400,
            _ => 1500,
        },
    };
    BackendSpec {
        id,
        addr4: (id != 2).then(|| Ipv4Addr::new(10, 8, 0, last)),
        addr6: (id != 3).then(|| Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, id)),
        link: (id != 4).then_some(link),
        alive: true,
    }
}

fn vip(balancer: &mut Balancer, key: VipKey, mode: Mode, slot: Slot) {
    let slots = if mode == Mode::Local { vec![] } else { vec![slot; SLOTS as usize] };
    balancer
        .set_vip(&VipSpec { key, mode, flow_idle_ms: 3_600_000, options: VipOptions::default() }, &slots)
        .unwrap();
}

/// The world that the head of `l4` draws.
fn world(other: u32) -> Balancer {
    world_with(other, NO_LIMIT)
}

fn world_with(other: u32, icmp_per_second: u32) -> Balancer {
    let mut config = Config::new("/nonexistent", vec![]);
    (config.flow_buckets, config.vips, config.backends) = (1, VIPS, 16);
    config.icmp_per_second = icmp_per_second;
    let mut balancer = Balancer::open_detached(&config).unwrap();
    for id in [1, 2, 3, 4, 6, 8, 9] {
        balancer.set_backend(&backend(id, LOOPBACK)).unwrap();
    }
    balancer.set_backend(&backend(7, other)).unwrap();
    for (n, mode, slot) in [
        (1, Mode::L2Direct, Slot::settled(1)),
        (2, Mode::Ipip, Slot::settled(1)),
        (3, Mode::Local, Slot::settled(0)),
        (4, Mode::Ipip, Slot::settled(2)),
        (5, Mode::Ipip, Slot::settled(3)),
        (6, Mode::L2Direct, Slot::settled(4)),
        (7, Mode::L2Direct, Slot::settled(0)),
        (8, Mode::L2Direct, Slot::settled(5)),
        (9, Mode::Ipip, Slot::settled(6)),
        (10, Mode::Ipip, Slot::settled(7)),
        (11, Mode::L2Direct, Slot::new(8, 1)),
        (12, Mode::L2Direct, Slot::settled(1)),
        (15, Mode::Ipip, Slot::settled(9)),
        (41, GUE, Slot::settled(1)),
        (42, GUE, Slot::settled(2)),
        (43, GUE, Slot::settled(3)),
        (44, GUE, Slot::settled(6)),
    ] {
        for addr in [v4(n), IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()))] {
            for proto in [Proto::Tcp, Proto::Udp] {
                vip(&mut balancer, VipKey { addr, port: 80, proto }, mode, slot);
            }
        }
    }
    let tcp = |n, port| VipKey { addr: v4(n), port, proto: Proto::Tcp };
    vip(&mut balancer, tcp(12, 443), Mode::Local, Slot::settled(0));
    vip(&mut balancer, tcp(14, 80), Mode::L2Direct, Slot::settled(1));
    name_without_table(&mut balancer);
    balancer
}

pub fn v4(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 9, 0, n).into()
}

/// VIP 13: a local one, which has no table, turned into what the loader never writes.
fn name_without_table(balancer: &mut Balancer) {
    let key = VipKey { addr: v4(13), port: 80, proto: Proto::Tcp };
    vip(balancer, key, Mode::Local, Slot::settled(0));
    let vip = balancer.state().unwrap().vips.into_iter().find(|v| v.spec.key == key).unwrap().id;
    let ids = balancer.program().unwrap().info().unwrap().map_ids().unwrap().unwrap();
    let named =
        |id: &u32| MapData::from_id(*id).unwrap().info().unwrap().name_as_str() == Some(map::VIP_ROWS);
    let id = ids.into_iter().find(named).unwrap();
    let mut rows: Array<MapData, [u8; size_of::<VipRow>()]> =
        Map::from_map_data(MapData::from_id(id).unwrap()).unwrap().try_into().unwrap();
    let mut row = rows.get(&vip, 0).unwrap();
    let at = std::mem::offset_of!(VipRow, value) + std::mem::offset_of!(VipValue, mode);
    assert_eq!(std::mem::replace(&mut row[at], mode::IPIP), mode::LOCAL);
    rows.set(vip, row, 0).unwrap();
}

/// Kernels before 6.8 refuse more metadata than 32 bytes.
fn meta_fits(meta: usize) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.trim().parse::<u32>().ok());
    meta <= 32 || (numbers.next(), numbers.next()) >= (Some(6), Some(8))
}

/// Frame behind `meta` bytes of metadata. The context is `xdp_md`: where data starts and ends behind it.
/// Nothing where this kernel cannot be asked.
fn run(balancer: &Balancer, row: &l4::Row) -> Option<(u32, Vec<u8>)> {
    if row.meta == 0 {
        return Some(balancer.test_run(&row.frame).unwrap());
    }
    if !meta_fits(row.meta) {
        eprintln!("skipped: {}: this kernel's test run takes at most 32 bytes of metadata", row.name);
        return None;
    }
    let data = [vec![0; row.meta], row.frame.clone()].concat();
    let context: Vec<u8> =
        [row.meta as u32, data.len() as u32, 0, 0, 0, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let options =
        TestRunOptions { data_in: Some(&data), ctx_in: Some(&context), ..TestRunOptions::default() };
    let answer = balancer.program().unwrap().test_run(options);
    Some((answer.unwrap_or_else(|e| panic!("{}: {e}", row.name)).return_value, Vec::new()))
}

/// What was counted between two readings, zeros left out.
fn delta<K: Ord + Copy>(before: &BTreeMap<K, u64>, after: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let counted = |(k, n): (&K, &u64)| (*k, n - before.get(k).unwrap_or(&0));
    after.iter().map(counted).filter(|d| d.1 > 0).collect()
}

fn check_counts(row: &l4::Row, before: &Counters, after: &Counters) {
    let drops: BTreeMap<(String, DropReason), u64> = delta(&before.drops, &after.drops)
        .into_iter()
        .map(|((key, reason), n)| ((key.map_or("address".into(), |k| k.to_string()), reason), n))
        .collect();
    let (wanted, sent) = match &row.want {
        l4::Want::Drop(reason, who) => (BTreeMap::from([((who.to_string(), *reason), 1)]), 0),
        l4::Want::Answer(_, reason, who) => (BTreeMap::from([((who.to_string(), *reason), 1)]), 0),
        l4::Want::Pass => (BTreeMap::new(), 0),
        // An echo request is answered: no backend has it.
        l4::Want::Tx(_) if row.events == [Event::EchoAnswered] => (BTreeMap::new(), 0),
        l4::Want::Tx(_) | l4::Want::Redirect(_) => (BTreeMap::new(), 1),
    };
    assert_eq!(drops, wanted, "{}: drops counted", row.name);
    let events = delta(&before.events, &after.events);
    let wanted: BTreeMap<Event, u64> = row.events.iter().map(|e| (*e, 1)).collect();
    assert_eq!(events, wanted, "{}: events counted", row.name);
    let sum = |c: &Counters| {
        c.backends.values().fold(Traffic::default(), |t, b| Traffic {
            packets: t.packets + b.packets,
            bytes: t.bytes + b.bytes,
        })
    };
    let (was, is) = (sum(before), sum(after));
    // IPv4 total length, or IPv6 payload length and its header.
    let length = |at: usize| u64::from(u16::from_be_bytes([row.frame[at], row.frame[at + 1]]));
    let bytes = match (sent, row.frame[12]) {
        (0, _) => 0,
        (_, 0x08) => length(16),
        _ => length(18) + 40,
    };
    assert_eq!((is.packets - was.packets, is.bytes - was.bytes), (sent, bytes), "{}: traffic", row.name);
}

#[test]
fn balancer() {
    let rows = l4::table();
    if let Some(dir) = std::env::var_os("SLUICE_FRAMES") {
        for row in &rows {
            let name: String =
                row.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            std::fs::write(std::path::Path::new(&dir).join(name), &row.frame).unwrap();
        }
    }
    if !root() {
        return;
    }
    let other = other_interface();
    let mut balancer = world(other.unwrap_or(LOOPBACK));
    // The flow rows take milliseconds and entries live for an hour: the clock does not matter.
    play(&mut balancer, &rows, other);
    balancer.remove_vip(&VipKey { addr: v4(11), port: 80, proto: Proto::Tcp }).unwrap();
    let (verdict, _) = balancer.test_run(&rows.last().unwrap().frame).unwrap();
    assert_eq!(verdict, XDP_PASS, "a removed VIP is passed up");
}

/// Runs rows one after the other.
pub fn play(balancer: &mut Balancer, rows: &[l4::Row], other: Option<u32>) {
    for row in rows {
        if matches!(row.want, l4::Want::Redirect(_)) && other.is_none() {
            eprintln!("skipped: {}: there is no interface but lo", row.name);
            continue;
        }
        let before = balancer.counters().unwrap();
        let Some((verdict, after)) = run(balancer, row) else { continue };
        let (wanted, frame) = match &row.want {
            l4::Want::Pass => (XDP_PASS, Some(&row.frame)),
            l4::Want::Drop(..) => (XDP_DROP, None),
            l4::Want::Tx(frame) | l4::Want::Answer(frame, ..) => (XDP_TX, Some(frame)),
            l4::Want::Redirect(frame) => (XDP_REDIRECT, Some(frame)),
        };
        assert_eq!(verdict, wanted, "{}: verdict", row.name);
        if let Some(frame) = frame {
            assert_eq!(dump(&after), dump(frame), "{}: frame out", row.name);
        }
        check_counts(row, &before, &balancer.counters().unwrap());
    }
}

/// At one message a second a burst is one message long: of several at once the first is answered only.
#[test]
fn icmp_is_limited() {
    if !root() {
        return;
    }
    let echo = |n: &str| l4::table().into_iter().find(|r| r.name == n).unwrap().frame;
    let echo4 = echo("echo request to a VIP");
    let big = echo("4in4 of 101 bytes on 100: told that 80 fit");
    for per_second in [0, 1] {
        let balancer = world_with(LOOPBACK, per_second);
        // A stall of the machine between two runs would let a second one through, so many are run.
        let answered = (0..100).filter(|_| balancer.test_run(&echo4).unwrap().0 == XDP_TX).count() as u64;
        let told = (0..100).filter(|_| balancer.test_run(&big).unwrap().0 == XDP_TX).count() as u64;
        let counters = balancer.counters().unwrap();
        let event = |e| counters.events.get(&e).copied().unwrap_or(0);
        let dropped =
            |reason| counters.drops.iter().filter(|((_, r), _)| *r == reason).map(|(_, n)| n).sum::<u64>();
        assert_eq!((event(Event::EchoAnswered), event(Event::TooBigSent)), (answered, told));
        assert_eq!(
            (dropped(DropReason::EchoLimited), event(Event::TooBigLimited)),
            (100 - answered, 100 - told)
        );
        assert_eq!(dropped(DropReason::TooBig), 100);
        if per_second == 0 {
            assert_eq!((answered, told), (0, 0));
        } else {
            assert!((1..100).contains(&answered) && (1..100).contains(&told), "{answered} {told}");
        }
    }
}

#[test]
fn decapsulation() {
    if !root() {
        return;
    }
    let mut node = Node::open_detached().unwrap();
    let addr = |text: &str| text.parse::<IpAddr>().unwrap();
    let outer = BTreeSet::from([addr("10.8.0.1"), addr("fd08::1")]);
    let spec = DecapSpec {
        ipip: outer.clone(),
        gue: outer,
        gue_ports: BTreeSet::from([6080]),
        inner: BTreeSet::from([addr("10.9.0.2"), addr("fd00::2")]),
    };
    node.set_local(&spec).unwrap();
    for row in node::table() {
        let (drops, events) = node.counters().unwrap();
        let (verdict, after) = node.test_run(&row.frame).unwrap();
        let (drops_after, events_after) = node.counters().unwrap();
        let dropped = delta(&drops, &drops_after);
        let taken_off = delta(&events, &events_after);
        let (wanted, frame, drop, event) = match &row.want {
            node::Want::Pass => (XDP_PASS, Some(&row.frame), None, None),
            node::Want::Decap(frame) => (XDP_PASS, Some(frame), None, Some(Event::Decapsulated)),
            node::Want::Drop(reason) => (XDP_DROP, None, Some(*reason), None),
        };
        assert_eq!(verdict, wanted, "{}: verdict", row.name);
        if let Some(frame) = frame {
            assert_eq!(dump(&after), dump(frame), "{}: frame out", row.name);
        }
        assert_eq!(dropped, drop.map(|r| (r, 1)).into_iter().collect(), "{}: drops counted", row.name);
        assert_eq!(taken_off, event.map(|e| (e, 1)).into_iter().collect(), "{}: events counted", row.name);
    }
}
