//! Forwarding modes end to end: documents, agents, XDP on veth, and sockets that compare every byte.

use sluice_system_tests::l4::{Site, echo, serve_tcp, serve_udp, transfer, wait_for};
use sluice_system_tests::{skip, until};
use std::net::SocketAddr;

const MEGABYTES: usize = 3 << 20;
const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 7777;

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse().expect("an address"), port)
}

/// TCP and UDP servers on every node: TCP at any address, UDP at these.
fn servers(site: &Site, nodes: &[&'static str], udp: &[&'static str]) {
    for name in nodes.iter().copied() {
        site.spawn(name, move || serve_tcp(name, at("::", TCP_PORT), MEGABYTES));
        for address in udp.iter().copied() {
            site.spawn(name, move || serve_udp(name, at(address, UDP_PORT)));
        }
        wait_for(site, name, at("127.0.0.1", TCP_PORT));
    }
}

/// A VIP for each family and transport in flow style, with `fields` of their mode.
fn vips(mode: &str, fields: &str) -> String {
    let mut text = "vips:\n".to_owned();
    for (name, address) in [("four", "10.9.0.1"), ("six", "fd09::1")] {
        for (protocol, port) in [("tcp", TCP_PORT), ("udp", UDP_PORT)] {
            text.push_str(&format!(
                "  - {{name: {name}-{protocol}, address: '{address}', port: {port}, protocol: {protocol}, \
                 mode: {mode}, pool: nodes, nodes: [front]{fields}}}\n"
            ));
        }
    }
    text
}

fn pool(nodes: &[&str]) -> String {
    let mut text = "pools:\n  - name: nodes\n    backends:\n".to_owned();
    for (name, last) in [("node1", 21), ("node2", 22), ("node3", 23)] {
        if nodes.contains(&name) {
            text.push_str(&format!(
                "      - {{name: {name}, address: 10.5.0.{last}, address6: 'fd05::{last}'}}\n"
            ));
        }
    }
    text
}

#[test]
fn gue_carries_both_families_and_transports() {
    if skip() {
        return;
    }
    let mut site = Site::start("gue", 2);
    site.agent("front", &[]);
    site.agent("node1", &[]);
    site.agent("node2", &[]);
    servers(&site, &["node1", "node2"], &["10.9.0.1", "fd09::1"]);
    site.place(1, &(pool(&["node1", "node2"]) + &vips("gue", ", gue: {port: 6081}")));
    let mut seen = std::collections::BTreeSet::new();
    for address in ["10.9.0.1", "fd09::1"] {
        for _ in 0..6 {
            let (name, peer) = site.within("client", || transfer(at(address, TCP_PORT), MEGABYTES));
            assert!(peer.ip().to_canonical().to_string().ends_with('2'), "{peer} is not the client");
            seen.insert(name);
        }
        let answers = site.within("client", || echo(at(address, UDP_PORT), 20, 1200));
        assert!(answers.iter().all(|a| a == &answers[0]), "one flow, one backend: {answers:?}");
    }
    assert_eq!(seen.len(), 2, "both nodes serve");
    for node in ["node1", "node2"] {
        assert!(site.events(node, "decapsulated") > 1000, "{}", site.log(node));
    }
    // Another port is another document, carried out without an interruption.
    site.place(2, &(pool(&["node1", "node2"]) + &vips("gue", "")));
    site.within("client", || transfer(at("10.9.0.1", TCP_PORT), MEGABYTES));
    assert_eq!(site.dropped("node1", "decap_malformed") + site.dropped("node2", "decap_malformed"), 0);
}

#[test]
fn nat_carries_both_ways_and_ends_what_is_over() {
    if skip() {
        return;
    }
    let mut site = Site::start("nat", 2);
    site.agent("front", &[]);
    for (name, own) in [("node1", ["10.5.0.21", "fd05::21"]), ("node2", ["10.5.0.22", "fd05::22"])] {
        servers(&site, &[name], &own);
    }
    let sources = |addresses: [&str; 2]| {
        let one = |a: &str| format!("{{node: front, address: '{a}'}}");
        format!(", nat: {{backend_port: PORT, sources: [{}, {}]}}", one(addresses[0]), one(addresses[1]))
    };
    let mut text = pool(&["node1", "node2"]) + "vips:\n";
    for (name, address, from) in
        [("four", "10.9.0.1", ["10.5.0.200", "10.5.0.201"]), ("six", "fd09::1", ["fd05::200", "fd05::201"])]
    {
        for (protocol, port) in [("tcp", TCP_PORT), ("udp", UDP_PORT)] {
            let fields = sources(from).replace("PORT", &port.to_string());
            text.push_str(&format!(
                "  - {{name: {name}-{protocol}, address: '{address}', port: 80, protocol: {protocol}, \
                 mode: nat, pool: nodes, nodes: [front]{fields}}}\n"
            ));
        }
    }
    site.place(1, &text);
    let mut seen = std::collections::BTreeSet::new();
    let mut peers = std::collections::BTreeSet::new();
    for (address, sources) in
        [("10.9.0.1", ["10.5.0.200", "10.5.0.201"]), ("fd09::1", ["fd05::200", "fd05::201"])]
    {
        for _ in 0..8 {
            let (name, peer) = site.within("client", || transfer(at(address, 80), MEGABYTES));
            let from = peer.ip().to_canonical().to_string();
            assert!(sources.contains(&from.as_str()), "{peer} is none of {sources:?}");
            assert!(peers.insert(peer), "{peer} twice within seconds");
            seen.insert(name);
        }
        let answers = site.within("client", || echo(at(address, 80), 20, 1200));
        assert!(answers.iter().all(|a| a == &answers[0]), "one flow, one port: {answers:?}");
    }
    assert_eq!(seen.len(), 2, "both nodes serve");
    assert!(site.events("front", "nat_flow_new") >= 18);
    for reason in ["nat_no_flow", "nat_ports_exhausted", "nat_table_full", "no_backend"] {
        assert_eq!(site.dropped("front", reason), 0, "{reason}");
    }
    // Closed flows give their ports back: the agent ages them.
    until("closed flows are gone", std::time::Duration::from_secs(40), || {
        let stats = site.sluice("front", &["stats", "-o", "json"]).json();
        stats["agent"]["nat_flows_expired"].as_u64() >= Some(16)
    });
}
