//! How flows are spread and kept: frame in, verdict and backend out, by the options of a VIP.
//!
//! World: client 10.9.0.101 or fd00::65. VIPs at 10.9.0.N and fd00::N, port 80, TCP and UDP, l2_direct:
//!
//! | N | tracking | slots |
//! |---|---|---|
//! | 1 | always | backend 1, later given to 8 |
//! | 2 | never | window open: backend 8 follows 1 |
//!
//! Backends and MACs as in `l4`.

use super::frame::*;
use super::l4::{Row, Want, row, to4, to6};
use super::run::{LOOPBACK, backend, play, root, v4};
use sluice_abi::SLOTS;
use sluice_abi::reason::Event;
use sluice_abi::slot::Slot;
use sluice_loader::{Balancer, Config, Mode, Proto, Tracking, VipKey, VipOptions, VipSpec};
use std::net::{IpAddr, Ipv6Addr};

/// Sent to backend `id` by L2: the MACs are its own and a hop is gone.
fn direct_to(id: u16, frame: &[u8]) -> Want {
    let mut out = edit(frame, 0, &hex(&format!("0200000001{id:02x} 0200000002{id:02x}")));
    if out[12..14] == [0x86, 0xdd] {
        out[IP + 7] -= 1;
    } else {
        out[IP + 8] -= 1;
        // One less in the high byte of a word is 0x100 more in the complement sum.
        let check = u32::from(u16::from_be_bytes([out[IP + 10], out[IP + 11]])) + 0x100;
        out[IP + 10..IP + 12].copy_from_slice(&((check + (check >> 16)) as u16).to_be_bytes());
    }
    Want::Tx(out)
}

fn goes(name: &str, id: u16, frame: Vec<u8>, events: &'static [Event]) -> Row {
    let want = direct_to(id, &frame);
    Row { events, ..row(name, frame, want) }
}

fn spec(addr: IpAddr, proto: Proto, options: VipOptions) -> VipSpec {
    VipSpec { key: VipKey { addr, port: 80, proto }, mode: Mode::L2Direct, flow_idle_ms: 3_600_000, options }
}

fn balancer() -> Balancer {
    let mut config = Config::new("/nonexistent", vec![]);
    (config.flow_buckets, config.vips, config.backends) = (64, 64, 16);
    let mut balancer = Balancer::open_detached(&config).unwrap();
    for id in [1, 2, 8] {
        balancer.set_backend(&backend(id, LOOPBACK)).unwrap();
    }
    balancer
}

/// Both families and transports at N.
fn keys(n: u8) -> [(IpAddr, Proto); 4] {
    let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()));
    [(v4(n), Proto::Tcp), (v4(n), Proto::Udp), (v6, Proto::Tcp), (v6, Proto::Udp)]
}

#[test]
fn tracking() {
    if !root() {
        return;
    }
    let mut balancer = balancer();
    let always = VipOptions { tracking: Tracking::Always };
    let never = VipOptions { tracking: Tracking::Never };
    for (addr, proto) in keys(1) {
        balancer.set_vip(&spec(addr, proto, always), &vec![Slot::settled(1); SLOTS as usize]).unwrap();
    }
    for (addr, proto) in keys(2) {
        balancer.set_vip(&spec(addr, proto, never), &vec![Slot::new(8, 1); SLOTS as usize]).unwrap();
    }
    let (syn, ack, dns) = (tcp(80, SYN), tcp(80, ACK), udp(80, b"query"));
    let new = &[Event::FlowNew];
    let hit = &[Event::FlowHit];
    play(
        &mut balancer,
        &[
            goes("always: a flow begins on a settled slot", 1, to4(1, TCP, &syn), new),
            goes("always: and talks", 1, to4(1, TCP, &ack), hit),
            goes("always: UDP", 1, to4(1, UDP, &dns), new),
            goes("always: UDP again", 1, to4(1, UDP, &dns), hit),
            goes("always: v6", 1, to6(1, TCP, &syn), new),
            goes("always: v6 talks", 1, to6(1, TCP, &ack), hit),
            goes("always: v6 UDP", 1, to6(1, UDP, &dns), new),
            goes("never: a flow from before", 8, to4(2, TCP, &ack), &[]),
            goes("never: UDP", 8, to4(2, UDP, &dns), &[]),
            goes("never: v6", 8, to6(2, TCP, &ack), &[]),
            goes("never: v6 UDP", 8, to6(2, UDP, &dns), &[]),
        ],
        None,
    );
    // Settled on another backend, without a window: only the entries know.
    for (addr, proto) in keys(1) {
        balancer.set_vip(&spec(addr, proto, always), &vec![Slot::settled(8); SLOTS as usize]).unwrap();
    }
    play(
        &mut balancer,
        &[
            goes("always: a flow stays though its slot says another", 1, to4(1, TCP, &ack), hit),
            goes("always: so does UDP", 1, to4(1, UDP, &dns), hit),
            goes("always: and v6", 1, to6(1, TCP, &ack), hit),
            goes("always: it begins anew with the owner", 8, to4(1, TCP, &syn), &[]),
            goes("always: and stays there", 8, to4(1, TCP, &ack), hit),
        ],
        None,
    );
    balancer.set_backend(&sluice_loader::BackendSpec { alive: false, ..backend(1, LOOPBACK) }).unwrap();
    play(
        &mut balancer,
        &[
            goes("always: a dead backend's UDP flow moves", 8, to4(1, UDP, &dns), &[Event::FlowRehomed]),
            goes("always: and has an entry there", 8, to4(1, UDP, &dns), hit),
        ],
        None,
    );
}
