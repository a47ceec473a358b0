//! Decapsulation and its model: the same frames through BPF_PROG_TEST_RUN and through `sluice-core::l4::decap`,
//! whole and mutated, of every encapsulation over both families.

use sluice_abi::hash::mix64;
use sluice_abi::layout::{GUE_PORT, decap_flag, proto};
use sluice_abi::reason::DropReason;
use sluice_core::l4::decap::{Listed, Taken, decapsulate};
use sluice_loader::{DecapSpec, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const FRAMES: u64 = 20_000;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix64(self.0) % n
    }
}

/// The node is .1 for IPIP, .2 for GUE, .3 for both; VIPs are .8 and .9.
fn address(v6: bool, last: u8) -> IpAddr {
    if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]) } else { [10, 8, 0, last].into() }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn key(address: IpAddr) -> [u8; 16] {
    let mut key = [0; 16];
    let bytes = bytes(address);
    key[..bytes.len()].copy_from_slice(&bytes);
    key
}

fn world() -> (Node, Listed) {
    let both = |lasts: &[u8]| -> BTreeSet<IpAddr> {
        lasts.iter().flat_map(|&n| [address(false, n), address(true, n)]).collect()
    };
    let spec = DecapSpec {
        ipip: both(&[1, 3]),
        gue: both(&[2, 3]),
        gue_ports: BTreeSet::from([GUE_PORT, 0, 65_535]),
        inner: both(&[8, 9]),
    };
    let mut node = Node::open_detached().unwrap();
    // What was said before is forgotten.
    node.set_local(&DecapSpec { ipip: both(&[5]), inner: both(&[7]), gue: both(&[1]), ..spec.clone() })
        .unwrap();
    node.set_local(&spec).unwrap();
    let mut outer: BTreeMap<[u8; 16], u32> = BTreeMap::new();
    for (addresses, flag) in [(&spec.ipip, decap_flag::IPIP), (&spec.gue, decap_flag::GUE)] {
        addresses.iter().for_each(|a| *outer.entry(key(*a)).or_default() |= flag);
    }
    let inner = spec.inner.iter().map(|a| key(*a)).collect();
    (node, Listed { outer, inner, ports: spec.gue_ports })
}

fn ip(r: &mut Random, v6: bool, dst: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let src = bytes(address(v6, 100 + r.below(9) as u8));
    let mut ip = if v6 {
        let length = (payload.len() as u16).to_be_bytes();
        vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64]
    } else {
        let length = (20 + payload.len() as u16).to_be_bytes();
        let fragment = if r.below(40) == 0 { 0x20 } else { 0x40 };
        vec![0x45, 0, length[0], length[1], 0, 0, fragment, 0, 64, protocol, 0, 0]
    };
    ip.extend(src);
    ip.extend(bytes(address(v6, dst)));
    ip.extend(payload);
    ip
}

fn frame(r: &mut Random) -> Vec<u8> {
    let (outer6, inner6) = (r.below(2) == 0, r.below(2) == 0);
    let body = vec![0x5a; r.below(40) as usize];
    let vip = 7 + r.below(3) as u8;
    let inner = ip(r, inner6, vip, proto::TCP, &body);
    let (protocol, payload) = if r.below(2) == 0 {
        (if inner6 { proto::IPV6 } else { proto::IPIP }, inner)
    } else {
        let port = [GUE_PORT, 6081, 0, 65_535][r.below(4) as usize];
        let mut udp = 50_000u16.to_be_bytes().to_vec();
        udp.extend(port.to_be_bytes());
        udp.extend((8 + inner.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(inner);
        (proto::UDP, udp)
    };
    let node = r.below(5) as u8;
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    f.extend(if outer6 { [0x86, 0xdd] } else { [8, 0] });
    f.extend(ip(r, outer6, node, protocol, &payload));
    match r.below(5) {
        0 => {
            let at = 12 + r.below(f.len() as u64 - 12) as usize;
            f[at] ^= 1 << r.below(8);
        }
        1 => f.truncate(14 + r.below(f.len() as u64 - 13) as usize),
        2 => f.extend(vec![0; r.below(20) as usize]),
        _ => {}
    }
    f
}

#[test]
fn program_and_model_agree_on_decapsulation() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u64);
    let mut random = Random(seed << 32);
    let (node, listed) = world();
    let mut drops: BTreeMap<DropReason, u64> = BTreeMap::new();
    let (mut passed, mut off) = (0, 0);
    for n in 0..FRAMES {
        let frame = frame(&mut random);
        let (verdict, after) = node.test_run(&frame).unwrap();
        match decapsulate(&listed, &frame) {
            Taken::NotOurs => {
                assert!(verdict == 2 && after == frame, "seed {seed} frame {n}: {verdict}\n{frame:02x?}");
                passed += 1;
            }
            Taken::Off(out) => {
                assert_eq!((verdict, &after), (2, &out), "seed {seed} frame {n}\n{frame:02x?}");
                off += 1;
            }
            Taken::Drop(reason) => {
                assert_eq!(verdict, 1, "seed {seed} frame {n}: {reason:?}\n{frame:02x?}");
                *drops.entry(reason).or_default() += 1;
            }
        }
    }
    assert_eq!(node.counters().unwrap().0, drops, "seed {seed}");
    assert!(passed > 1000 && off > 1000 && drops.len() == 2, "seed {seed}: {passed} {off} {drops:?}");
}
