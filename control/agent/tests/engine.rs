//! The engine over a node in memory: documents in, steps out, crashes anywhere.

use sluice_agent::clock::FakeClock;
use sluice_agent::engine::{ApiError, Config, Engine, Put, SourceEvent};
use sluice_agent::goal::Target;
use sluice_agent::health::Outcome;
use sluice_agent::host::HostError;
use sluice_agent::host::fake::{FakeHost, Fault};
use sluice_agent::ledger::{Ledger, Opened};
use sluice_api::rest::{Change, DrainKind, DrainRequest};
use std::collections::BTreeSet;

const SITE: &str = include_str!("../../../docs/examples/cdn.yaml");
const HOSTS: &str = include_str!("../../../docs/examples/sites.yaml");

struct Node {
    engine: Engine<FakeHost>,
    files: BTreeSet<String>,
    clock: FakeClock,
}

fn config(node: &str) -> Config {
    Config { node: node.into(), announce: true, with_proxy: true, placements: None }
}

fn memory() -> Ledger {
    Ledger::on(redb::backends::InMemoryBackend::new()).expect("ledger")
}

impl Node {
    fn start(name: &str, ledger: Ledger, host: FakeHost, clock: FakeClock) -> Node {
        let engine = Engine::start(config(name), Box::new(clock.clone()), ledger, &Opened::default(), host);
        Node { engine: engine.expect("start"), files: BTreeSet::new(), clock }
    }

    fn new(name: &str) -> Node {
        let mut host = FakeHost::new();
        for last in 11..=13 {
            host.add_link(format!("10.2.0.{last}").parse().expect("address"));
        }
        Node::start(name, memory(), host, FakeClock::default())
    }

    /// The agent dies and a new one starts on what is left.
    fn restart(self, name: &str) -> Node {
        let clock = self.clock;
        let (ledger, host) = self.engine.into_parts();
        Node::start(name, ledger, host, clock)
    }

    fn files(&mut self, files: &[(&str, &str)]) {
        let event = |(file, text): &(&str, &str)| SourceEvent::File {
            file: (*file).into(),
            text: Ok(text.as_bytes().to_vec()),
        };
        let mut events: Vec<SourceEvent> = files.iter().map(event).collect();
        self.files.extend(files.iter().map(|(file, _)| (*file).to_owned()));
        events.push(SourceEvent::Listing { files: self.files.clone() });
        self.engine.on_source(events, self.engine.now_us());
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            self.clock.advance_ms(50);
            self.engine.tick();
        }
    }

    fn share(&mut self, vip: usize, backend: usize) -> f64 {
        self.engine.status().vips[vip].backends[backend].share
    }

    fn events(&self, kind: &str) -> usize {
        self.engine.events_after(0).iter().filter(|e| e.kind == kind).count()
    }

    fn probe(&mut self, name: &str, outcome: Outcome, times: u32) {
        let target = Target::Backend { pool: "edge".into(), name: name.into() };
        (0..times).for_each(|_| self.engine.probe_result(&target, outcome));
    }
}

fn with(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not there");
        text.replacen(from, to, 1)
    })
}

#[test]
fn a_balancer_fills_its_tables_and_a_member_runs_its_proxy() {
    let mut front = Node::new("front-1");
    front.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
    assert!(front.engine.converged(), "{:?}", front.engine.status());
    for backend in 0..3 {
        assert!((front.share(0, backend) - 1.0 / 3.0).abs() < 0.02);
    }
    assert!(front.engine.host().state.proxy.is_none(), "the balancer is no member");
    let mut edge = Node::new("edge-2");
    edge.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
    let status = edge.engine.status();
    assert!(status.converged && status.vips.is_empty(), "{status:?}");
    assert_eq!(status.proxy.map(|p| p.sites), Some(2));
    let host = edge.engine.host();
    assert!(!host.state.balancer);
    assert!(host.state.addresses.contains_key(&"192.0.2.20".parse().expect("address")));
    // The parent answers for the sites of the group below, as its own.
    let mut parent = Node::new("parent-1");
    parent.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
    let sites: Vec<_> = parent.engine.host().proxy.sites.values().map(|s| s.group.clone()).collect();
    assert_eq!(sites, ["parent", "parent"]);
}

#[test]
fn the_generation_rule_and_broken_files_keep_the_old_state() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", &with(SITE, &[("generation: 1", "generation: 5")]))]);
    let log = node.engine.host().log.len();
    let cases = [
        (with(SITE, &[("generation: 1", "generation: 4")]), "generation", "older than 5"),
        (
            with(SITE, &[("generation: 1", "generation: 5"), ("port: 80", "port: 81")]),
            "generation",
            "other content",
        ),
        (
            with(SITE, &[("generation: 1", "generation: 6"), ("mode: l2_direct", "mode: dnat")]),
            "vips[0].mode",
            "dnat",
        ),
        (SITE[..SITE.len() / 2].to_owned(), "", "cut off"),
    ];
    for (text, item, part) in cases {
        node.files(&[("cdn.yaml", &text)]);
        let status = node.engine.status();
        let refused = &status.documents[0].refused;
        assert!(refused.iter().any(|e| e.item == item && e.message.contains(part)), "{item}: {refused:?}");
        assert_eq!(status.documents[0].generation, 5);
        assert_eq!(node.engine.host().log.len(), log, "nothing was done");
    }
    // The same content again clears the refusal and does nothing.
    node.files(&[("cdn.yaml", &with(SITE, &[("generation: 1", "generation: 5")]))]);
    assert!(node.engine.status().documents[0].refused.is_empty());
    assert_eq!(node.engine.host().log.len(), log);
}

#[test]
fn a_document_that_needs_another_waits_for_it() {
    let mut node = Node::new("edge-1");
    node.files(&[("sites.yaml", HOSTS)]);
    assert!(node.engine.status().documents[0].refused.iter().any(|e| e.message.contains("no group")));
    node.files(&[("cdn.yaml", SITE)]);
    let status = node.engine.status();
    assert_eq!(status.documents.len(), 2);
    assert!(
        status.documents.iter().all(|d| d.refused.is_empty() && d.observed_generation == 1),
        "{status:?}"
    );
}

#[test]
fn an_empty_or_unreadable_directory_removes_nothing_and_a_gone_file_removes_its_document() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
    node.engine.on_source(vec![SourceEvent::Listing { files: BTreeSet::new() }], 0);
    node.engine.on_source(vec![SourceEvent::Unreadable { message: "gone".into() }], 0);
    node.pass(1000);
    assert_eq!(node.engine.status().documents.len(), 2);
    assert!(node.engine.status().errors.iter().any(|e| e.item == "source"));
    // The group is still named by the sites: its removal is refused, and said.
    let only = |file: &str| vec![SourceEvent::Listing { files: BTreeSet::from([file.to_owned()]) }];
    node.engine.on_source(only("sites.yaml"), 0);
    node.pass(1000);
    let status = node.engine.status();
    assert_eq!(status.documents.len(), 2);
    assert!(!status.documents[0].refused.is_empty(), "{status:?}");
    node.engine.on_source(only("cdn.yaml"), 0);
    assert_eq!(node.engine.status().documents.len(), 2, "an editor may be about to write it");
    node.pass(1000);
    let names: Vec<String> = node.engine.status().documents.into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["cdn"]);
}

#[test]
fn health_takes_a_backend_out_and_back_and_panic_keeps_all() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", SITE)]);
    for name in ["edge-1", "edge-2", "edge-3"] {
        node.probe(name, Outcome::Good, 1);
    }
    node.probe("edge-1", Outcome::Dead, 2);
    assert!(node.share(0, 0) > 0.3, "two bad probes are not three");
    node.probe("edge-1", Outcome::Dead, 1);
    assert_eq!(node.share(0, 0), 0.0);
    let row = |node: &Node| node.engine.host().state.backends.values().find(|r| !r.alive).map(|r| r.id);
    assert!(row(&node).is_some(), "its flows move");
    node.probe("edge-1", Outcome::Good, 2);
    assert!(node.share(0, 0) > 0.3);
    // One that refuses gets no new flow and keeps those it has.
    node.probe("edge-2", Outcome::Refusing, 3);
    assert_eq!((node.share(0, 1), row(&node)), (0.0, None));
    for name in ["edge-1", "edge-2", "edge-3"] {
        node.probe(name, Outcome::Dead, 3);
    }
    assert!((0..3).all(|b| node.share(0, b) > 0.3));
    assert_eq!(node.events("pool_panic"), 1);
}

#[test]
fn below_the_panic_threshold_all_backends_keep_their_slots() {
    let mut node = Node::new("front-1");
    let text = with(
        SITE,
        &[("  - name: edge\n    backends", "  - name: edge\n    panic_percent: 50\n    backends")],
    );
    node.files(&[("cdn.yaml", &text)]);
    for name in ["edge-1", "edge-2", "edge-3"] {
        node.probe(name, Outcome::Good, 1);
    }
    node.probe("edge-1", Outcome::Dead, 3);
    assert_eq!(node.share(0, 0), 0.0, "two of three are more than half");
    node.probe("edge-2", Outcome::Dead, 3);
    assert!((0..3).all(|b| node.share(0, b) > 0.3), "one of three is less than half");
    assert_eq!(node.engine.stats().agent.get("pools_in_panic"), Some(&1));
    node.probe("edge-2", Outcome::Good, 2);
    assert_eq!(node.share(0, 0), 0.0);
    let off = [("panic_percent: 50", "panic_percent: 0"), ("generation: 1", "generation: 2")];
    node.files(&[("cdn.yaml", &with(&text, &off))]);
    for name in ["edge-2", "edge-3"] {
        node.probe(name, Outcome::Dead, 3);
    }
    assert!((0..3).all(|b| node.share(0, b) == 0.0), "nobody is believed up against the probes");
}

#[test]
fn a_backend_that_comes_back_gets_its_share_in_steps() {
    let mut node = Node::new("front-1");
    let text = with(
        SITE,
        &[("  - name: edge\n    backends", "  - name: edge\n    slow_start_ms: 8000\n    backends")],
    );
    node.files(&[("cdn.yaml", &text)]);
    for name in ["edge-1", "edge-2", "edge-3"] {
        node.probe(name, Outcome::Good, 1);
    }
    assert!(node.share(0, 0) > 0.3, "found up at the start is not come back");
    node.probe("edge-1", Outcome::Dead, 3);
    node.probe("edge-1", Outcome::Good, 2);
    let mut shares = vec![node.share(0, 0)];
    for _ in 0..8 {
        node.pass(1000);
        shares.push(node.share(0, 0));
    }
    for (step, share) in shares.iter().take(8).enumerate() {
        let part = (step + 1) as f64 / 8.0;
        let wanted = part / (2.0 + part);
        assert!((share - wanted).abs() < 0.02, "step {step}: {share} where {wanted} was due");
    }
    assert_eq!(shares[7], shares[8], "the last step is the last change");
    assert_eq!(node.engine.host().state.windows.len(), 1, "flows of before each step keep their backend");
    node.probe("edge-1", Outcome::Dead, 3);
    node.pass(3000);
    assert_eq!(node.share(0, 0), 0.0, "one that goes down in its slow start is out");
}

#[test]
fn a_drain_with_a_deadline_ends_even_across_a_restart() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", SITE)]);
    let drain = DrainRequest { kind: DrainKind::Backend, name: "edge/edge-3".into() };
    let report = node.engine.drain_for(&drain, true, Some(60_000)).expect("drain");
    assert_eq!(report.deadlines.len(), 1);
    let alive = |node: &Node| node.engine.host().state.backends.values().filter(|row| row.alive).count();
    assert_eq!((node.share(0, 2), alive(&node)), (0.0, 3), "its flows stay for now");
    node.pass(30_000);
    let mut node = node.restart("front-1");
    node.pass(29_900);
    assert_eq!(alive(&node), 3);
    node.pass(200);
    assert_eq!(alive(&node), 2, "its flows go to others");
    assert_eq!(node.events("drain_over"), 1);
    let mut node = node.restart("front-1");
    node.pass(1000);
    assert_eq!((node.share(0, 2), alive(&node)), (0.0, 2));
    node.engine.drain(&drain, false).expect("undrain");
    assert_eq!(alive(&node), 3);
    assert!(node.share(0, 2) > 0.3);
    let member = DrainRequest { kind: DrainKind::Member, name: "edge-1".into() };
    assert!(matches!(node.engine.drain_for(&member, true, Some(1)), Err(ApiError::BadRequest(_))));
}

fn announced(node: &Node) -> Vec<String> {
    node.engine.host().state.routes.iter().flatten().map(ToString::to_string).collect()
}

#[test]
fn an_address_is_announced_while_a_backend_is_healthy_and_the_node_not_drained() {
    let text = with(SITE, &[("mode: l2_direct", "mode: l2_direct\n    announce: true")]);
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", &text)]);
    let errors = node.engine.status().errors;
    assert!(errors.iter().any(|e| e.message.contains("--bird-include")), "{errors:?}");
    node.engine.host_mut().speaks = true;
    node.files(&[("cdn.yaml", &with(&text, &[("generation: 1", "generation: 2")]))]);
    assert_eq!(announced(&node), ["192.0.2.20"]);
    assert!(node.engine.converged(), "{:?}", node.engine.status());
    let log = node.engine.host().log.clone();
    let at =
        |part: &str| log.iter().position(|l| l.contains(part)).unwrap_or_else(|| panic!("{part}: {log:?}"));
    assert!(at("put VIP") < at("announce 1 addresses"), "first there, then announced");
    // A restart finds it announced and leaves it.
    let steps = node.engine.host().log.len();
    let mut node = node.restart("front-1");
    node.pass(15_000);
    assert_eq!((announced(&node), node.engine.host().log.len()), (vec!["192.0.2.20".to_owned()], steps));
    let drain = DrainRequest { kind: DrainKind::Node, name: "front-1".into() };
    let report = node.engine.drain(&drain, true).expect("drain");
    assert_eq!(report.affected, ["announcement of vip cdn by front-1"]);
    assert!(announced(&node).is_empty() && node.engine.converged());
    assert!(!node.engine.host().state.vips.is_empty(), "what still comes is still served");
    node.engine.drain(&drain, false).expect("undrain");
    assert_eq!(announced(&node), ["192.0.2.20"]);
    for name in ["edge-1", "edge-2", "edge-3"] {
        node.probe(name, Outcome::Dead, 3);
    }
    assert!(announced(&node).is_empty(), "nobody is healthy, whatever panic keeps in the table");
    node.probe("edge-2", Outcome::Good, 2);
    assert_eq!(announced(&node), ["192.0.2.20"]);
}

#[test]
fn what_is_not_in_the_tables_is_not_announced() {
    let text = with(SITE, &[("mode: l2_direct", "mode: l2_direct\n    announce: true")]);
    let mut node = Node::new("front-1");
    node.engine.host_mut().speaks = true;
    // The address is put there first, then the program is refused.
    let refused = Fault::Refuse(HostError::passing("no XDP"));
    node.engine.host_mut().faults.extend([Fault::None, refused]);
    node.files(&[("cdn.yaml", &text)]);
    assert!(announced(&node).is_empty() && !node.engine.converged());
    node.pass(200);
    assert_eq!(announced(&node), ["192.0.2.20"]);
    // The program goes, and cannot be put back at first.
    let state = &mut node.engine.host_mut().state;
    (state.balancer, state.vips, state.backends) = (false, Default::default(), Default::default());
    for _ in 0..4 {
        node.engine.host_mut().faults.push_back(Fault::Refuse(HostError::passing("no XDP")));
        node.engine.host_mut().faults.push_back(Fault::None);
    }
    node.pass(10_050);
    let withdrawn = node.engine.host().log.iter().filter(|l| l.starts_with("withdraw")).count();
    assert!(withdrawn >= 1, "{:?}", node.engine.host().log);
    node.pass(10_000);
    assert_eq!(announced(&node), ["192.0.2.20"]);
    assert!(node.engine.converged(), "{:?}", node.engine.status());
}

#[test]
fn a_local_vip_is_announced_while_the_proxy_serves() {
    let local = "apiVersion: sluice/v1\nname: own\ngeneration: 1\nvips:\n  - {name: own, address: 192.0.2.30, port: 80, protocol: tcp, mode: local, nodes: [edge-1], announce: true}\n";
    let mut node = Node::new("edge-1");
    node.engine.host_mut().speaks = true;
    node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS), ("own.yaml", local)]);
    assert_eq!(announced(&node), ["192.0.2.30"], "announced in the same breath as the proxy has its rows");
    let pid = node.engine.host().state.proxy.as_ref().map_or(0, |p| p.pid);
    node.engine.host_mut().kill_proxy();
    node.engine.proxy_ended(pid);
    assert_eq!(announced(&node), ["192.0.2.30"], "back at once");
    assert!(node.engine.host().log.iter().any(|l| l.starts_with("withdraw")), "not while it was gone");
    let pid = node.engine.host().state.proxy.as_ref().map_or(0, |p| p.pid);
    node.engine.host_mut().kill_proxy();
    node.engine.proxy_ended(pid);
    assert!(announced(&node).is_empty(), "the proxy waits to be started");
    node.pass(500);
    assert_eq!(announced(&node), ["192.0.2.30"]);
}

#[test]
fn drain_takes_new_flows_away_keeps_the_row_and_survives_a_restart() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", SITE)]);
    let drain = DrainRequest { kind: DrainKind::Backend, name: "edge/edge-3".into() };
    let report = node.engine.drain(&drain, true).expect("drain");
    assert_eq!(report.affected, ["backend edge/edge-3"]);
    assert_eq!(node.share(0, 2), 0.0);
    assert_eq!(node.engine.host().state.backends.len(), 3);
    assert!(node.engine.host().state.backends.values().all(|row| row.alive));
    let mut node = node.restart("front-1");
    assert_eq!(node.share(0, 2), 0.0);
    node.engine.drain(&drain, false).expect("undrain");
    assert!(node.share(0, 2) > 0.3);
    let unknown = DrainRequest { kind: DrainKind::Node, name: "nobody".into() };
    assert!(matches!(node.engine.drain(&unknown, true), Err(ApiError::NotFound(_))));
}

#[test]
fn a_restarted_agent_adopts_and_changes_nothing() {
    for name in ["front-1", "edge-1", "parent-1"] {
        let mut node = Node::new(name);
        node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
        let (log, pid) =
            (node.engine.host().log.clone(), node.engine.host().state.proxy.as_ref().map(|p| p.pid));
        let mut node = node.restart(name);
        node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
        node.pass(20_000);
        assert_eq!(node.engine.host().log, log, "{name}");
        assert_eq!(node.engine.host().state.proxy.as_ref().map(|p| p.pid), pid);
        assert!(node.engine.converged());
    }
}

#[test]
fn a_node_that_reboots_alone_brings_its_work_back() {
    let mut node = Node::new("edge-1");
    node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
    node.engine.host_mut().reboot();
    let node = node.restart("edge-1");
    assert!(node.engine.converged(), "no source was read");
    assert_eq!(node.engine.host().proxy.sites.len(), 2);
}

#[test]
fn a_proxy_that_dies_is_started_again_with_all_rows() {
    let mut node = Node::new("edge-1");
    node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
    let pid = node.engine.host().state.proxy.as_ref().map_or(0, |p| p.pid);
    node.engine.host_mut().kill_proxy();
    node.engine.proxy_ended(pid);
    assert_eq!(node.engine.host().proxy.sites.len(), 2);
    let status = node.engine.status().proxy.expect("proxy");
    assert_eq!((status.restarts, status.pid != pid), (1, true));
}

#[test]
fn a_proxy_that_keeps_dying_is_started_later_each_time() {
    let mut node = Node::new("edge-1");
    node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
    let kill = |node: &mut Node| {
        let pid = node.engine.host().state.proxy.as_ref().map_or(0, |p| p.pid);
        node.engine.host_mut().kill_proxy();
        node.engine.proxy_ended(pid);
        node.engine.host().state.proxy.is_some()
    };
    assert!(kill(&mut node), "the first time it is back at once");
    assert!(!kill(&mut node), "the second time it waits");
    let errors = node.engine.status().errors;
    assert!(errors.iter().any(|e| e.item == "proxy" && e.message.contains("2 times in a row")), "{errors:?}");
    assert!(!node.engine.converged());
    node.pass(200);
    assert!(node.engine.host().state.proxy.is_none());
    node.pass(100);
    assert!(node.engine.host().state.proxy.is_some() && node.engine.converged());
    assert!(!kill(&mut node));
    node.pass(450);
    assert!(node.engine.host().state.proxy.is_none(), "twice as long");
    node.pass(100);
    assert!(node.engine.converged());
    node.pass(61_000);
    assert!(kill(&mut node), "a proxy that lived a minute did not fail to start");
}

#[test]
fn a_next_hop_that_moves_is_followed_when_the_node_says_so() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", SITE)]);
    let backend: std::net::IpAddr = "10.2.0.12".parse().expect("address");
    let link = node.engine.host_mut().links.get_mut(&backend).expect("resolved");
    link.dst_mac = [2, 0, 0, 0, 9, 9];
    node.engine.links_changed();
    let rows = &node.engine.host().state.backends;
    assert!(rows.values().any(|row| row.link.is_some_and(|l| l.dst_mac == [2, 0, 0, 0, 9, 9])));
    assert_eq!(node.engine.stats().agent.get("next_hop_moves"), Some(&1));
}

#[test]
fn row_changes_go_as_differences_and_revisions_only_grow() {
    let mut node = Node::new("edge-1");
    node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
    let before = node.engine.host().proxy.revision;
    let changed =
        with(HOSTS, &[("generation: 1", "generation: 2"), ("default_ttl_ms: 60000", "default_ttl_ms: 1")]);
    node.files(&[("sites.yaml", &changed)]);
    let last = node.engine.host().log.last().cloned().unwrap_or_default();
    assert!(last.contains("changed rows") && last.contains("1 sites, 0 sites removed, 0 origins"), "{last}");
    let after = node.engine.host().proxy.revision;
    assert!(after > before);
    let upgraded = node.engine.upgrade_proxy().expect("upgrade");
    assert!(upgraded.revision > after && upgraded.new_pid != upgraded.old_pid);
    assert_eq!(node.engine.host().proxy.sites.len(), 2, "the successor got all rows");
}

#[test]
fn an_unresolved_backend_gets_no_slots_until_it_resolves() {
    let mut node = Node::start("front-1", memory(), FakeHost::new(), FakeClock::default());
    node.engine.host_mut().add_link("10.2.0.11".parse().expect("address"));
    node.files(&[("cdn.yaml", SITE)]);
    assert_eq!(node.share(0, 0), 1.0);
    assert_eq!(node.engine.status().errors.len(), 2);
    node.engine.host_mut().add_link("10.2.0.12".parse().expect("address"));
    node.pass(200);
    assert!((node.share(0, 1) - 0.5).abs() < 0.02);
    node.pass(5000);
    assert!(!node.engine.converged(), "one that should take flows cannot be reached");
    let drain = DrainRequest { kind: DrainKind::Backend, name: "edge/edge-3".into() };
    node.engine.drain(&drain, true).expect("drain");
    assert!(node.engine.converged(), "a drained machine may be off: {:?}", node.engine.status().errors);
}

#[test]
fn windows_close_when_the_flows_before_a_change_are_dead() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", SITE)]);
    assert!(node.engine.host().state.windows.is_empty(), "a new VIP has no past");
    node.probe("edge-1", Outcome::Dead, 1);
    assert_eq!(node.engine.host().state.windows.len(), 1);
    let mut node = node.restart("front-1");
    node.pass(119_000);
    assert_eq!(node.engine.host().state.windows.len(), 1);
    node.pass(2_000);
    assert!(node.engine.host().state.windows.is_empty());
    assert_eq!(node.events("window_closed"), 1);
}

/// A step whose answer was lost opens a window that only a look at the node can find.
#[test]
fn a_window_found_on_the_node_closes_too() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", SITE)]);
    let state = &mut node.engine.host_mut().state;
    let vip = *state.vips.keys().next().expect("a VIP");
    state.windows.insert(vip);
    node.pass(120_000);
    assert_eq!(node.engine.host().state.windows.len(), 1, "flows of before may live yet");
    node.pass(15_000);
    assert!(node.engine.host().state.windows.is_empty());
}

#[test]
fn ids_rest_before_they_are_given_again() {
    let mut node = Node::new("front-1");
    node.files(&[("cdn.yaml", SITE)]);
    let ids = |node: &Node| node.engine.host().state.backends.keys().copied().collect::<BTreeSet<u16>>();
    let first = ids(&node);
    let moved = [("generation: 1", "generation: 2"), ("address: 10.2.0.13", "address: 10.2.0.14")];
    node.files(&[("cdn.yaml", &with(SITE, &moved))]);
    let second = ids(&node);
    let gone: Vec<u16> = first.difference(&second).copied().collect();
    assert_eq!(gone.len(), 1, "another address is another backend");
    node.engine.host_mut().flow_ids.extend(&gone);
    node.pass(10_000);
    let back = [("generation: 1", "generation: 3"), ("address: 10.2.0.13", "address: 10.2.0.15")];
    node.files(&[("cdn.yaml", &with(SITE, &back))]);
    assert!(ids(&node).is_disjoint(&gone.iter().copied().collect()));
}

#[test]
fn every_failure_at_every_step_ends_converged() {
    for lost in [false, true] {
        for name in ["front-1", "edge-1"] {
            for at in 0..12 {
                let mut node = Node::new(name);
                let error = HostError::passing("injected");
                let fault = if lost { Fault::LoseAnswer(error) } else { Fault::Refuse(error) };
                let faults = &mut node.engine.host_mut().faults;
                faults.extend(std::iter::repeat_n(Fault::None, at));
                faults.push_back(fault);
                node.files(&[("cdn.yaml", SITE), ("sites.yaml", HOSTS)]);
                node.pass(15_000);
                assert!(node.engine.converged(), "{name} {at} {lost}: {:?}", node.engine.status().errors);
            }
        }
    }
}

#[test]
fn documents_over_the_api() {
    let dir = tempfile::tempdir().expect("directory");
    let config = Config { placements: Some(dir.path().to_owned()), ..config("front-1") };
    let clock = Box::new(FakeClock::default());
    let mut engine =
        Engine::start(config, clock, memory(), &Opened::default(), FakeHost::new()).expect("start");
    let mut put = Put { name: "cdn".into(), text: SITE.into(), dry_run: true, seen_us: 0 };
    let applied = engine.put_document(&put).expect("dry run");
    assert_eq!((applied.change, applied.dry_run), (Change::Created, true));
    assert!(applied.steps.iter().any(|s| s.contains("put VIP 192.0.2.20:80/tcp")), "{:?}", applied.steps);
    assert!(engine.kept().is_empty() && std::fs::read_dir(dir.path()).expect("list").count() == 0);
    put.dry_run = false;
    engine.put_document(&put).expect("put");
    assert_eq!(std::fs::read_to_string(dir.path().join("cdn.yaml")).expect("file"), SITE);
    assert_eq!(engine.put_document(&put).expect("again").change, Change::Unchanged);
    put.text = with(
        SITE,
        &[("generation: 1", "generation: 2"), ("cache_bytes: 1073741824", "cache_bytes: 2097152")],
    )
    .into();
    let diff = engine.diff(&put.text).expect("diff");
    let paths: Vec<&str> = diff.fields.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["generation", "groups[edge].cache_bytes"]);
    put.text = with(SITE, &[("port: 80", "port: 81")]).into();
    assert!(matches!(engine.put_document(&put), Err(ApiError::Generation(_))));
    put.text = with(SITE, &[("port: 80", "prt: 81")]).into();
    assert!(matches!(engine.put_document(&put), Err(ApiError::Invalid(_))));
    put.name = "other".into();
    put.text = with(SITE, &[("generation: 1", "generation: 9")]).into();
    assert!(matches!(engine.put_document(&put), Err(ApiError::BadRequest(_))));
    assert!(matches!(engine.delete_document("nobody", false), Err(ApiError::NotFound(_))));
    assert_eq!(engine.delete_document("cdn", false).expect("delete").change, Change::Deleted);
    assert!(engine.kept().is_empty() && !dir.path().join("cdn.yaml").exists());
    assert!(!engine.host().state.balancer, "the last VIP went");
}
