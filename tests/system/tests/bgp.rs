//! Two balancers that announce their VIPs to a router by BGP: who gets traffic, and what connections notice.

use serde_json::json;
use sluice_system_tests::site::{PORT, Site, VIPS, v4, v6};
use sluice_system_tests::{run_in, skip, until};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);
const BIRD: &str = "/usr/sbin/bird";
/// Connections of each family.
const CONNECTIONS: usize = 48;

#[test]
#[ignore = "a role of the other tests, started by them"]
fn in_a_namespace() {
    sluice_system_tests::site::play();
}

fn document(generation: u64) -> serde_json::Value {
    let vip = |(name, address): (&str, &str)| {
        json!({"name": name, "address": address, "port": PORT, "protocol": "tcp", "mode": "l2_direct",
               "pool": "backs", "nodes": ["front1", "front2"], "flow_idle_ms": 60_000, "announce": true})
    };
    let back = |name: &str| json!({"name": name, "address": v4(name), "address6": v6(name)});
    json!({
        "apiVersion": "sluice/v1", "name": "site", "generation": generation,
        "networks": [{"name": "segment4", "cidr": "10.97.1.0/24"}, {"name": "segment6", "cidr": "fd97:1::/64"}],
        "pools": [{"name": "backs", "backends": [back("back1"), back("back2")],
                   "health": {"kind": "tcp", "port": PORT, "interval_ms": 300, "timeout_ms": 300, "rise": 1, "fall": 2}}],
        "vips": [vip(("vip4", VIPS[0])), vip(("vip6", VIPS[1]))],
    })
}

/// One session for each family and neighbour. Timers are short: the test waits for them.
fn session(name: &str, own: &str, own_as: u32, peer: &str, peer_as: u32, channel: &str) -> String {
    let multihop = if own.contains(':') { "" } else { "direct;" };
    format!(
        "protocol bgp {name} {{ local {own} as {own_as}; neighbor {peer} as {peer_as}; {multihop}\n  connect delay time 1; connect retry time 2; error wait time 1, 2; hold time 9;\n  {channel} }}\n"
    )
}

fn bird_of_router() -> String {
    let mut text = format!(
        "router id {};\nprotocol device {{ }}\n\
         protocol kernel k4 {{ merge paths on; ipv4 {{ export all; }}; }}\n\
         protocol kernel k6 {{ merge paths on; ipv6 {{ export all; }}; }}\n",
        v4("router")
    );
    for front in ["front1", "front2"] {
        let family4 = "ipv4 { import all; export none; };";
        text += &session(&format!("{front}_4"), &v4("router"), 65000, &v4(front), 65001, family4);
        let family6 = "ipv6 { import all; export none; };";
        text += &session(&format!("{front}_6"), &v6("router"), 65000, &v6(front), 65001, family6);
    }
    text
}

fn bird_of(site: &Site, front: &str) -> String {
    let mut text = format!("router id {};\nprotocol device {{ }}\n", v4(front));
    // The file is not there before the agent made it: a pattern may match nothing.
    text += &format!("include \"{}*.conf\";\n", site.path(&format!("sluice-{front}")).display());
    let family4 = "ipv4 { import none; export where proto = \"sluice4\"; };";
    text += &session("router_4", &v4(front), 65001, &v4("router"), 65000, family4);
    let family6 = "ipv6 { import none; export where proto = \"sluice6\"; };";
    text += &session("router_6", &v6(front), 65001, &v6("router"), 65000, family6);
    text
}

fn start_bird(site: &mut Site, host: &str, text: &str) {
    let (config, socket) = (site.path(&format!("bird-{host}.cfg")), site.path(&format!("{host}.ctl")));
    std::fs::write(&config, text).expect("write");
    let args = ["-f", "-c", config.to_str().expect("path"), "-s", socket.to_str().expect("path")];
    site.start(&format!("bird {host}"), host, Path::new(BIRD), &args.map(str::to_owned));
}

/// Fronts that the router sends a VIP's packets to.
fn next_hops(site: &Site, vip: &str) -> Vec<&'static str> {
    let family = if vip.contains(':') { "-6" } else { "-4" };
    let shown = run_in(&site.netns("router"), "ip", &[family, "route", "show", vip]).out;
    let named = |front: &&str| {
        let address = if vip.contains(':') { v6(front) } else { v4(front) };
        shown.contains(&format!("via {address} "))
    };
    ["front1", "front2"].into_iter().filter(named).collect()
}

fn routed_to(site: &Site, fronts: &[&str]) {
    until(&format!("the router sends to {fronts:?}"), SOON, || {
        VIPS.iter().all(|vip| next_hops(site, vip) == fronts)
    });
}

fn converged(site: &Site, front: &str) {
    until(&format!("{front} has converged"), SOON, || site.status(front)["converged"] == true);
}

#[test]
fn a_group_of_boxes_is_announced_withdrawn_and_keeps_connections() {
    if skip() {
        return;
    }
    if !Path::new(BIRD).exists() {
        println!("skipped: BIRD 2 is not installed (Debian package bird2)");
        return;
    }
    let mut site = Site::new("bgp");
    site.document("site", &document(1));
    let mut backs: Vec<_> =
        ["back1", "back2"].iter().map(|back| site.role(back, &format!("server {back}"))).collect();
    backs.iter().for_each(|back| assert_eq!(back.answer(), "ready"));
    start_bird(&mut site, "router", &bird_of_router());
    for front in ["front1", "front2"] {
        let text = bird_of(&site, front);
        start_bird(&mut site, front, &text);
        site.start_agent(front);
    }
    ["front1", "front2"].iter().for_each(|front| converged(&site, front));
    routed_to(&site, &["front1", "front2"]);

    let mut client = site.role("client", &format!("client {CONNECTIONS}"));
    let opened = client.ask("open");
    assert!(
        opened.starts_with("failed 0 ") && opened.contains("back1") && opened.contains("back2"),
        "{opened}"
    );
    for front in ["front1", "front2"] {
        assert!(site.packets(front).iter().sum::<u64>() > 0, "{front} got nothing of the traffic");
    }
    let whole = format!("{{\"lost\": 0, \"moved\": 0, \"same\": {}}}", 2 * CONNECTIONS);
    assert_eq!(client.ask("ask"), whole);

    site.sluice("front2", &["drain", "node", "front2"]).good();
    routed_to(&site, &["front1"]);
    assert_eq!(client.ask("ask"), whole, "connections of the box that left go on by the other");

    restarted_agent_stays_announced(&mut site);
    assert_eq!(client.ask("ask"), whole);

    site.sluice("front2", &["undrain", "node", "front2"]).good();
    routed_to(&site, &["front1", "front2"]);
    assert_eq!(client.ask("ask"), whole);

    moved_mac_is_followed(&site);
    assert_eq!(client.ask("ask"), whole);

    // Nobody is healthy: whoever else has the VIP may get its traffic.
    backs.clear();
    routed_to(&site, &[]);
    let back = site.role("back1", "server back1");
    assert_eq!(back.answer(), "ready");
    routed_to(&site, &["front1", "front2"]);
}

/// The route must be there at every look, with no agent alive and while the new one starts.
fn restarted_agent_stays_announced(site: &mut Site) {
    site.kill("agent front1");
    let there = |site: &Site| VIPS.iter().all(|vip| next_hops(site, vip).contains(&"front1"));
    for _ in 0..10 {
        assert!(there(site), "announced with no agent alive");
        std::thread::sleep(Duration::from_millis(100));
    }
    site.start_agent("front1");
    until("front1 has converged again", SOON, || {
        assert!(there(site), "announced while the agent starts");
        site.status("front1")["converged"] == true
    });
    assert!(there(site));
}

/// A backend gets another MAC, as after a replaced machine, and says so.
fn moved_mac_is_followed(site: &Site) {
    let moves = |front: &str| {
        let stats = site.sluice(front, &["--output", "json", "stats"]).json();
        stats["agent"]["next_hop_moves"].as_u64().unwrap_or(0)
    };
    site.sysctl("back1", "net/ipv4/conf/eth0/arp_notify", "1");
    site.in_ip("back1", "link set eth0 address 02:97:00:00:00:99");
    for front in ["front1", "front2"] {
        until(&format!("{front} follows the MAC"), SOON, || moves(front) > 0);
    }
}
