//! Our balancer filled for measuring: 100 backends, IPIP, as Katran's.

use super::packets::{VIP4, VIP6};
use anyhow::{Context as _, Result};
use sluice_abi::SLOTS;
use sluice_abi::hash::mix64;
use sluice_abi::slot::Slot;
use sluice_loader::{BackendSpec, Balancer, Config, Link, Mode, Proto, VipKey, VipOptions, VipSpec};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Backends of a VIP.
pub const BACKENDS: u16 = 100;
/// `lo`, which a test run arrives on.
const LOOPBACK: u32 = 1;
/// Room for a million flows at half load.
const FLOW_BUCKETS: u32 = 1 << 18;

/// A balancer in this process only. With `window`, every slot changed owner a moment ago.
pub fn balancer(window: bool) -> Result<Balancer> {
    let mut config = Config::new("/nonexistent", vec![]);
    config.flow_buckets = FLOW_BUCKETS;
    let mut balancer = Balancer::open_detached(&config).context("load our balancer")?;
    for n in 1..=BACKENDS {
        let last = n as u8;
        for (id, addr4, addr6) in [
            (n, Some(Ipv4Addr::new(10, 0, 0, last)), None),
            (n + BACKENDS, None, Some(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, n))),
        ] {
            let link = Link {
                ifindex: LOOPBACK,
                dst_mac: [2, 0, 0, 0, 1, last],
                src_mac: [2, 0, 0, 0, 0, 1],
                mtu: 1500,
            };
            balancer.set_backend(&BackendSpec { id, addr4, addr6, link: Some(link), alive: true })?;
        }
    }
    let owner = |slot: u32, salt: u64| (mix64(u64::from(slot) ^ salt << 32) % u64::from(BACKENDS)) as u16 + 1;
    for (addr, proto, shift) in [
        (IpAddr::V4(VIP4), Proto::Tcp, 0),
        (IpAddr::V4(VIP4), Proto::Udp, 0),
        (IpAddr::V6(VIP6), Proto::Tcp, BACKENDS),
    ] {
        let key = VipKey { addr, port: 80, proto };
        let options = VipOptions::default();
        let spec = VipSpec { key, mode: Mode::Ipip, flow_idle_ms: 120_000, options };
        let slot = |n| {
            let (now, before) = (owner(n, 0) + shift, owner(n, 1) + shift);
            Slot::new(now, if window { before } else { 0 })
        };
        let slots: Vec<Slot> = (0..SLOTS).map(slot).collect();
        balancer.set_vip(&spec, &slots)?;
    }
    Ok(balancer)
}
