//! Each check, from facts made by hand.

use super::checks::{Finding, Intent, Level, check};
use super::facts::*;

fn healthy_machine() -> Machine {
    Machine {
        kernel: (6, 18),
        btf: true,
        io_uring_disabled: Some(0),
        bpf_jit: Some(1),
        nofile_hard: Some(1 << 20),
        memlock: None,
        bpffs: vec!["/sys/fs/bpf".into()],
        huge_pages: 512,
        root: true,
        shell_pid: 1,
        missing_programs: Vec::new(),
    }
}

fn place(netns: &str, iface: &str) -> Place {
    Place { netns: Some(netns.into()), iface: iface.into() }
}

fn veth(name: &str, peer: Place) -> Link {
    Link {
        name: name.into(),
        kind: "veth".into(),
        driver: "veth".into(),
        up: true,
        mtu: 1600,
        peer: Some(peer),
        gro: true,
        ..Link::default()
    }
}

/// A client and a balancer on one bridge, all as it should be.
fn healthy() -> Facts {
    let mut front = veth("eth0", place("fabric", "ve-front"));
    front.xdp = Xdp::Driver;
    let mut front_end = veth("ve-front", place("front", "eth0"));
    front_end.xdp = Xdp::Driver;
    let mut client_end = veth("ve-client", place("client", "eth0"));
    for end in [&mut front_end, &mut client_end] {
        end.master = Some("br0".into());
        end.port_state = Some("forwarding".into());
    }
    let mut client = veth("eth0", place("fabric", "ve-client"));
    client.mtu = 1500;
    let bridge = Link { name: "br0".into(), kind: "bridge".into(), up: true, mtu: 1600, ..Link::default() };
    let netns = |name: &str, links| Netns {
        name: Some(name.into()),
        links,
        arp_ignore: 1,
        arp_announce: 2,
        ..Netns::default()
    };
    Facts {
        machine: healthy_machine(),
        namespaces: vec![
            netns("client", vec![client]),
            netns("fabric", vec![bridge, client_end, front_end]),
            netns("front", vec![front]),
        ],
    }
}

fn link<'a>(facts: &'a mut Facts, netns: &str, iface: &str) -> &'a mut Link {
    let netns = facts.namespaces.iter_mut().find(|n| n.name.as_deref() == Some(netns)).unwrap();
    netns.links.iter_mut().find(|l| l.name == iface).unwrap()
}

fn findings(facts: &Facts) -> Vec<Finding> {
    check(facts, &Intent { expect_ipip: true, ..Intent::default() })
}

/// Exactly one finding, of this check; its repair.
fn only(facts: &Facts, name: &str) -> String {
    let found = findings(facts);
    assert_eq!(found.iter().map(|f| f.check).collect::<Vec<_>>(), [name]);
    found[0].fix.as_ref().map(|f| f.command()).unwrap_or_default()
}

#[test]
fn a_healthy_machine_has_no_finding() {
    assert_eq!(findings(&healthy()), []);
}

#[test]
fn checksum_offload_matters_on_every_cable_of_a_segment_with_xdp() {
    let mut facts = healthy();
    link(&mut facts, "client", "eth0").tx_checksum = true;
    assert_eq!(only(&facts, "tx-checksum-offload"), "ip netns exec client ethtool -K eth0 tx off");
    // Without XDP on the segment the offload is a good thing.
    link(&mut facts, "front", "eth0").xdp = Xdp::None;
    link(&mut facts, "fabric", "ve-front").xdp = Xdp::None;
    assert_eq!(findings(&facts), []);
}

#[test]
fn a_peer_without_a_program_loses_what_xdp_transmits() {
    let mut facts = healthy();
    link(&mut facts, "fabric", "ve-front").xdp = Xdp::None;
    assert_eq!(only(&facts, "xdp-tx-peer"), "sluice veth-pass --iface ve-front --netns fabric");
    link(&mut facts, "front", "eth0").xdp_program = "sluice_decap".into();
    assert_eq!(findings(&facts), [], "a node's program transmits nothing");
}

#[test]
fn a_peer_without_gro_loses_what_xdp_redirects() {
    let mut facts = healthy();
    let out = veth("eth1", place("fabric", "ve-out"));
    let mut end = veth("ve-out", place("front", "eth1"));
    end.gro = false;
    facts.namespaces[2].links.push(out);
    facts.namespaces[1].links.push(end);
    assert_eq!(only(&facts, "xdp-redirect-peer"), "ip netns exec fabric ethtool -K ve-out gro on");
    link(&mut facts, "fabric", "ve-out").gro = true;
    assert_eq!(findings(&facts), []);
}

#[test]
fn every_interface_that_carries_outer_headers_needs_room_and_no_other() {
    let mut facts = healthy();
    link(&mut facts, "front", "eth0").mtu = 1500;
    assert_eq!(only(&facts, "encapsulation-room"), "ip netns exec front ip link set dev eth0 mtu 1540");
    let found = check(&facts, &Intent::default());
    assert_eq!((found.len(), found[0].level), (1, Level::Warning), "without ipip it may be meant");
    let mut facts = healthy();
    link(&mut facts, "fabric", "ve-front").mtu = 1500;
    assert!(only(&facts, "encapsulation-room").contains("fabric"));
}

#[test]
fn generic_mode_and_its_causes_are_told() {
    let mut facts = healthy();
    link(&mut facts, "front", "eth0").xdp = Xdp::Generic;
    assert!(only(&facts, "xdp-generic-mode").ends_with("xdpgeneric off"));
    let mut facts = healthy();
    link(&mut facts, "front", "eth0").lro = true;
    assert!(only(&facts, "receive-merging").ends_with("ethtool -K eth0 lro off"));
    let mut facts = healthy();
    link(&mut facts, "front", "eth0").hardware_gro = true;
    assert!(only(&facts, "receive-merging").ends_with("ethtool -K eth0 rx-gro-hw off"));
}

#[test]
fn what_would_refuse_driver_mode_is_told_before_the_program_is_attached() {
    let nic = |driver: &str, mtu| Link {
        name: "eth0".into(),
        driver: driver.into(),
        up: true,
        mtu,
        ..Link::default()
    };
    let facts = |link| Facts {
        machine: healthy_machine(),
        namespaces: vec![Netns { links: vec![link], ..Netns::default() }],
    };
    let intent = Intent { ifaces: vec!["eth0".into()], expect_xdp: true, expect_ipip: false };
    let checks = |link| check(&facts(link), &intent).iter().map(|f| f.check).collect::<Vec<_>>();
    assert_eq!(checks(nic("ice", 1600)), [] as [&str; 0]);
    assert_eq!(checks(nic("ice", 9000)), ["xdp-mtu-large"]);
    assert_eq!(checks(nic("e1000e", 1600)), ["xdp-driver-unknown"]);
}

#[test]
fn a_backend_with_the_vip_on_its_loopback_must_keep_it_to_itself() {
    let mut facts = healthy();
    let node = &mut facts.namespaces[2];
    node.local_vips = vec!["10.9.0.1".parse().unwrap()];
    node.arp_ignore = 0;
    assert!(only(&facts, "arp-ignore").ends_with("net.ipv4.conf.all.arp_ignore=1"));
    facts.namespaces[2].arp_ignore = 1;
    facts.namespaces[2].arp_announce = 0;
    assert!(only(&facts, "arp-announce").ends_with("net.ipv4.conf.all.arp_announce=2"));
    facts.namespaces[2].arp_announce = 2;
    facts.namespaces[2].rp_filter = 1;
    assert!(only(&facts, "rp-filter").ends_with("net.ipv4.conf.eth0.rp_filter=2"));
    // Loose on the interface wins over strict for all.
    link(&mut facts, "front", "eth0").rp_filter = 2;
    assert_eq!(findings(&facts), []);
}

#[test]
fn each_limit_of_the_machine_is_told() {
    let with = |change: &dyn Fn(&mut Machine)| {
        let mut facts = healthy();
        change(&mut facts.machine);
        facts
    };
    assert!(only(&with(&|m| m.io_uring_disabled = Some(2)), "io-uring-disabled").contains("=0"));
    assert_eq!(findings(&with(&|m| m.io_uring_disabled = Some(1))), []);
    only(&with(&|m| (m.io_uring_disabled, m.root) = (Some(1), false)), "io-uring-disabled");
    only(&with(&|m| m.bpf_jit = Some(0)), "bpf-jit-off");
    assert_eq!(only(&with(&|m| m.bpffs.clear()), "bpffs-missing"), "mount -t bpf bpf /sys/fs/bpf");
    only(&with(&|m| m.nofile_hard = Some(1024)), "nofile-low");
    only(&with(&|m| m.kernel = (6, 0)), "kernel-old");
    only(&with(&|m| m.huge_pages = 0), "huge-pages-none");
    only(&with(&|m| m.btf = false), "btf-missing");
    only(&with(&|m| m.missing_programs = vec!["ethtool".into()]), "program-missing");
    let old = with(&|m| (m.kernel, m.memlock) = ((5, 4), Some(65_536)));
    assert!(findings(&old).iter().any(|f| f.check == "memlock-low"));
    let new = with(&|m| m.memlock = Some(65_536));
    assert_eq!(findings(&new), [], "charged to the cgroup since 5.11");
}

#[test]
fn neighbours_bridges_and_links_that_are_down() {
    let mut facts = healthy();
    facts.namespaces[2].failed_neighbours =
        vec![Neighbour { address: "10.7.0.21".into(), iface: "eth0".into() }];
    assert!(only(&facts, "neighbour-unresolved").contains("ping -c 1 -I eth0 10.7.0.21"));
    let mut facts = healthy();
    link(&mut facts, "fabric", "ve-front").port_state = Some("listening".into());
    assert!(only(&facts, "bridge-port-blocked").ends_with("type bridge stp_state 0"));
    let mut facts = healthy();
    link(&mut facts, "front", "eth0").up = false;
    assert!(only(&facts, "link-down").ends_with("ip link set dev eth0 up"));
    let mut facts = healthy();
    facts.namespaces.push(Netns::default());
    let intent = Intent { ifaces: vec!["eth7".into()], ..Intent::default() };
    assert_eq!(check(&facts, &intent).iter().map(|f| f.check).collect::<Vec<_>>(), ["interface-missing"]);
}

#[test]
fn a_strange_interface_name_cannot_become_a_command() {
    let mut facts = healthy();
    let client = link(&mut facts, "client", "eth0");
    client.name = "$(reboot)'".into();
    client.tx_checksum = true;
    let fabric_end = link(&mut facts, "fabric", "ve-client");
    fabric_end.peer = Some(place("client", "$(reboot)'"));
    assert!(only(&facts, "tx-checksum-offload").ends_with(r"ethtool -K '$(reboot)'\''' tx off"));
}
