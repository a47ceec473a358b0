//! Adoption: what one process puts into the maps, the next finds.

use sluice_abi::slot::Slot;
use sluice_abi::{FLOW_BUCKETS_DEFAULT, SLOTS};
use sluice_loader::{
    BackendSpec, Balancer, Config, Link, Mode, Proto, Tracking, VipKey, VipOptions, VipSpec,
};
use std::net::Ipv4Addr;

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn adopts_everything_and_leaves_nothing() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pins = dir.path().join("pins");
    let mut config = Config::new(&pins, vec![]);
    config.flow_buckets = FLOW_BUCKETS_DEFAULT >> 7;
    config.secret = 7;
    let vip = VipSpec {
        key: VipKey { addr: Ipv4Addr::new(10, 0, 0, 1).into(), port: 80, proto: Proto::Tcp },
        mode: Mode::Ipip,
        flow_idle_ms: 60_000,
        options: VipOptions { tracking: Tracking::Always },
    };
    let backend = BackendSpec {
        id: 9,
        addr4: Some(Ipv4Addr::new(10, 1, 0, 1)),
        addr6: None,
        link: Some(Link { ifindex: 1, dst_mac: [2; 6], src_mac: [4; 6], mtu: 1500 }),
        alive: true,
    };
    let (mut first, adopted) = Balancer::open_or_adopt(&config).unwrap();
    assert!(!adopted.maps);
    first.set_backend(&backend).unwrap();
    first.set_owners(&vip, &vec![9; SLOTS as usize]).unwrap();
    assert_eq!(first.set_owners(&vip, &vec![8; SLOTS as usize]).unwrap(), SLOTS);
    let state = first.state().unwrap();
    assert_eq!(state.vips[0].slots[5], Slot::new(8, 9));
    assert_eq!(state.backends, [backend]);
    drop(first);

    config.secret = 0;
    let (mut second, adopted) = Balancer::open_or_adopt(&config).unwrap();
    assert!(adopted.maps);
    assert_eq!(second.config().secret, 7);
    assert_eq!(second.state().unwrap(), state);
    second.remove_vip(&vip.key).unwrap();
    second.remove_backend(9).unwrap();
    assert_eq!(second.state().unwrap(), Default::default());
    second.detach_and_unpin().unwrap();
    assert_eq!(std::fs::read_dir(&pins).unwrap().count(), 0);
}
