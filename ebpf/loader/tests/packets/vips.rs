//! The table of VIPs when a bucket is full, seen by the loader and by the program.

use super::frame::*;
use super::run::root;
use sluice_abi::reason::Event;
use sluice_abi::vips::{BUCKET_WORDS, IPV4, Key, PROBES, buckets, ports};
use sluice_loader::{Balancer, Config, Error, Mode, Proto, VipKey, VipOptions, VipSpec};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

const VIPS: u32 = 128;
/// What fits into the buckets that a key may be in.
const ROOM: usize = PROBES as usize * BUCKET_WORDS;

/// Addresses whose VIPs on port 80 all want the same bucket.
fn crowd(n: usize) -> Vec<Ipv4Addr> {
    (0x0a09_0000u32..)
        .map(Ipv4Addr::from)
        .filter(|addr| {
            let lo = u64::from(u32::from_le_bytes(addr.octets()));
            let key = Key { lo, hi: 0, ports: ports(80u16.to_be(), 6, IPV4) };
            // The last bucket, so that the search also goes round.
            key.hash() as u32 % buckets(VIPS) == buckets(VIPS) - 1
        })
        .take(n)
        .collect()
}

fn spec(addr: Ipv4Addr) -> VipSpec {
    let key = VipKey { addr: addr.into(), port: 80, proto: Proto::Tcp };
    VipSpec { key, mode: Mode::Local, flow_idle_ms: 1_000, options: VipOptions::default() }
}

/// The program finds exactly these.
fn check(balancer: &mut Balancer, all: &[Ipv4Addr], there: &BTreeSet<Ipv4Addr>) {
    let state: BTreeSet<VipKey> = balancer.state().unwrap().vips.iter().map(|v| v.spec.key).collect();
    assert_eq!(state, there.iter().map(|&addr| spec(addr).key).collect());
    for addr in all {
        let frame = ethernet(V4, &ipv4("10.9.0.101", &addr.to_string(), TCP, &tcp(80, SYN)));
        let local = |b: &Balancer| *b.counters().unwrap().events.get(&Event::PassLocal).unwrap_or(&0);
        let before = local(balancer);
        balancer.test_run(&frame).unwrap();
        assert_eq!(local(balancer) - before, u64::from(there.contains(addr)), "{addr}");
    }
}

#[test]
fn a_crowded_bucket_goes_on_in_the_next_ones() {
    if !root() {
        return;
    }
    let mut config = Config::new("/nonexistent", vec![]);
    (config.flow_buckets, config.vips, config.backends) = (1, VIPS, 2);
    let mut balancer = Balancer::open_detached(&config).unwrap();
    let all = crowd(ROOM + 1);
    let mut there = BTreeSet::new();
    for &addr in &all[..ROOM] {
        balancer.set_vip(&spec(addr), &[]).unwrap();
        there.insert(addr);
    }
    check(&mut balancer, &all, &there);
    let refused = balancer.set_vip(&spec(all[ROOM]), &[]).unwrap_err();
    assert!(matches!(refused, Error::Full { what: "VIP bucket", .. }), "{refused}");
    check(&mut balancer, &all, &there);
    // What leaves the first bucket does not hide what is in the ones behind it, and makes room.
    for &addr in all[..BUCKET_WORDS].iter().chain(&all[ROOM - 1..ROOM]) {
        balancer.remove_vip(&spec(addr).key).unwrap();
        there.remove(&addr);
        check(&mut balancer, &all, &there);
    }
    for &addr in &[&all[..3], &all[ROOM..]].concat() {
        balancer.set_vip(&spec(addr), &[]).unwrap();
        there.insert(addr);
    }
    check(&mut balancer, &all, &there);
}

#[test]
fn ids_are_given_in_turn_until_all_are_taken() {
    if !root() {
        return;
    }
    let mut config = Config::new("/nonexistent", vec![]);
    (config.flow_buckets, config.vips, config.backends) = (1, 4, 2);
    let mut balancer = Balancer::open_detached(&config).unwrap();
    let addr = |n: u8| Ipv4Addr::new(10, 9, 0, n);
    let ids = |b: &mut Balancer| -> Vec<u32> { b.state().unwrap().vips.iter().map(|v| v.id).collect() };
    balancer.set_vip(&spec(addr(1)), &[]).unwrap();
    balancer.set_vip(&spec(addr(2)), &[]).unwrap();
    balancer.remove_vip(&spec(addr(2)).key).unwrap();
    balancer.set_vip(&spec(addr(3)), &[]).unwrap();
    assert_eq!(ids(&mut balancer), [1, 3], "the id just given up rests");
    balancer.set_vip(&spec(addr(4)), &[]).unwrap();
    assert_eq!(ids(&mut balancer), [1, 3, 2]);
    let refused = balancer.set_vip(&spec(addr(5)), &[]).unwrap_err();
    assert!(matches!(refused, Error::Full { what: "VIP", limit: 3 }), "{refused}");
}
