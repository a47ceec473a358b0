//! Our balancer filled for measuring, in shapes.

use super::packets::{VIP4, VIP6, VIPS4};
use anyhow::{Context as _, Result};
use sluice_abi::SLOTS;
use sluice_abi::hash::mix64;
use sluice_abi::slot::Slot;
use sluice_loader::{
    BackendSpec, Balancer, Config, Link, Mode, Proto, Tracking, VipKey, VipOptions, VipSpec,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `lo`, which a test run arrives on.
const LOOPBACK: u32 = 1;
/// Room for a million flows at half load.
const FLOW_BUCKETS: u32 = 1 << 18;

/// What the balancer holds.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Forwarding mode.
    pub mode: Mode,
    /// Which flows have an entry.
    pub tracking: Tracking,
    /// Every slot changed owner a moment ago.
    pub window: bool,
    /// Backends of each family.
    pub backends: u16,
    /// VIPs beside the three of every shape.
    pub vips: u32,
    /// Buckets of the flow table.
    pub flow_buckets: u32,
}

impl Default for Shape {
    /// As Katran is filled: IPIP, a hundred backends.
    fn default() -> Self {
        Self {
            mode: Mode::Ipip,
            tracking: Tracking::Window,
            window: false,
            backends: 100,
            vips: 0,
            flow_buckets: FLOW_BUCKETS,
        }
    }
}

impl Shape {
    /// Its VIP at an address.
    pub fn vip(&self, addr: IpAddr, proto: Proto) -> VipSpec {
        let key = VipKey { addr, port: 80, proto };
        #[allow(clippy::needless_update, reason = "options of a VIP grow")]
        let options = VipOptions { tracking: self.tracking, ..VipOptions::default() };
        VipSpec { key, mode: self.mode, flow_idle_ms: 120_000, options }
    }

    /// The slots of a VIP whose first backend is after `shift`.
    pub fn slots(&self, shift: u16) -> Vec<Slot> {
        let owner = |n: u32, salt: u64| {
            (mix64(u64::from(n) ^ salt << 32) % u64::from(self.backends)) as u16 + 1 + shift
        };
        (0..SLOTS).map(|n| Slot::new(owner(n, 0), if self.window { owner(n, 1) } else { 0 })).collect()
    }
}

/// A balancer in this process only.
pub fn balancer(shape: &Shape) -> Result<Balancer> {
    let mut config = Config::new("/nonexistent", vec![]);
    config.flow_buckets = shape.flow_buckets;
    config.backends = u32::from(shape.backends) * 2 + 1;
    config.vips = shape.vips + 16;
    // Answers are measured, not their limit.
    config.icmp_per_second = 1_000_000_000;
    let mut balancer = Balancer::open_detached(&config).context("load our balancer")?;
    let link =
        Link { ifindex: LOOPBACK, dst_mac: [2, 0, 0, 0, 1, 1], src_mac: [2, 0, 0, 0, 0, 1], mtu: 1500 };
    fill(&mut balancer, shape, link)?;
    Ok(balancer)
}

/// Backends behind `link`, and the VIPs.
pub fn fill(balancer: &mut Balancer, shape: &Shape, link: Link) -> Result<()> {
    for n in 1..=shape.backends {
        let [high, low] = n.to_be_bytes();
        let link = Link {
            dst_mac: if shape.mode == Mode::L2Direct { link.dst_mac } else { [2, 0, 0, 0, 1, low] },
            ..link
        };
        for (id, addr4, addr6) in [
            (n, Some(Ipv4Addr::new(10, 0, high, low)), None),
            (n + shape.backends, None, Some(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, n))),
        ] {
            balancer.set_backend(&BackendSpec { id, addr4, addr6, link: Some(link), alive: true })?;
        }
    }
    for (addr, proto, shift) in [
        (IpAddr::V4(VIP4), Proto::Tcp, 0),
        (IpAddr::V4(VIP4), Proto::Udp, 0),
        (IpAddr::V6(VIP6), Proto::Tcp, shape.backends),
        (IpAddr::V6(VIP6), Proto::Udp, shape.backends),
    ] {
        balancer.set_vip(&shape.vip(addr, proto), &shape.slots(shift))?;
    }
    let slots = shape.slots(0);
    for n in 0..shape.vips {
        let addr = IpAddr::V4(Ipv4Addr::from(u32::from(VIPS4) + n));
        balancer.set_vip(&shape.vip(addr, Proto::Tcp), &slots)?;
    }
    Ok(())
}
