//! The life of a proxy process: timeouts, drain, handover; and several of them as a group.

mod common;

use common::{Client, Origin, Proxy, by_target, eventually, respond};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn slow_senders_are_told_and_idle_ones_closed() {
    let origin = Origin::fixed("Cache-Control: no-store\r\n");
    let proxy = Proxy::to(&origin, &["--head-ms", "200", "--body-ms", "200", "--idle-ms", "200"]);
    let mut head = proxy.connect();
    head.write("GET / HTTP/1.1\r\nHost: a");
    let response = head.read("GET");
    assert_eq!((response.status, response.field("connection")), (408, Some("close")));
    assert!(head.is_closed());
    let mut body = proxy.connect();
    body.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(body.read("POST").status, 408);
    assert!(body.is_closed());
    let mut idle = proxy.connect();
    assert_eq!(idle.get("/").status, 200);
    assert!(idle.is_closed());
    assert_eq!((proxy.refused("head_timeout"), proxy.refused("body_timeout")), (1, 1));
    assert!(proxy.counter("idle_closed") >= 1);
}

#[test]
fn a_head_cut_short_on_one_connection_says_nothing_about_another() {
    let origin = Origin::fixed("Cache-Control: no-store\r\n");
    let proxy = Proxy::to(&origin, &["--head-ms", "100", "--workers", "1"]);
    for _ in 0..5 {
        let mut slow = proxy.connect();
        slow.write("GET /slow HTTP/1.1\r\nHost: a\r\nX-Half: 1\r\nX-Ot");
        assert_eq!(slow.read("GET").status, 408);
        assert_eq!(proxy.get("/whole").text(), "body of /whole");
    }
}

#[test]
fn an_upstream_that_does_not_answer_is_504() {
    let hold = Arc::new(AtomicBool::new(true));
    let held = hold.clone();
    let origin = Origin::new(move |_, _| {
        while held.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        false
    });
    let proxy = Proxy::to(&origin, &["--response-ms", "200"]);
    let response = proxy.get("/");
    assert_eq!(response.status, 504);
    assert!(response.text().contains("upstream_timeout"));
    hold.store(false, Ordering::SeqCst);
}

#[test]
fn a_drain_speaks_to_all_and_can_be_taken_back() {
    let origin = Origin::fixed("Cache-Control: no-store\r\n");
    // The grace of this one is longer than any stall of the machine: nobody is closed by the clock.
    let proxy = Proxy::to(&origin, &["--workers", "1", "--drain-idle-ms", "600000"]);
    let (mut active, mut idle) = (proxy.connect(), proxy.connect());
    assert_eq!((active.get("/").status, idle.get("/").status), (200, 200));
    assert!(proxy.admin(&json!({"op": "drain", "on": true}))["ok"].is_object());
    eventually("all workers drain", || proxy.get("/.sluice/health").status == 503);
    let response = active.get("/");
    assert_eq!((response.status, response.field("connection")), (200, Some("close")));
    assert!(active.is_closed());
    assert_eq!(proxy.get("/.sluice/health").status, 503);
    assert_eq!(proxy.get("/").status, 200, "a draining proxy still serves who comes");
    proxy.admin(&json!({"op": "drain", "on": false}));
    eventually("serving again", || proxy.get("/.sluice/health").status == 200);
    let response = idle.get("/");
    assert_eq!((response.status, response.field("connection")), (200, None), "it was never told to go");
    assert_eq!(proxy.counter("drain_closed"), 0);
}

#[test]
fn a_drain_closes_who_has_nothing_to_ask() {
    let origin = Origin::fixed("Cache-Control: no-store\r\n");
    let proxy = Proxy::to(&origin, &["--drain-idle-ms", "50"]);
    let mut idle = proxy.connect();
    assert_eq!(idle.get("/").status, 200);
    assert!(proxy.admin(&json!({"op": "drain", "on": true}))["ok"].is_object());
    assert!(idle.is_closed());
    assert_eq!(proxy.counter("drain_closed"), 1);
}

#[test]
fn a_signal_lets_requests_under_way_finish() {
    let release = Arc::new(AtomicBool::new(false));
    let released = release.clone();
    let origin = Origin::new(move |_, stream| {
        while !released.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        respond(stream, "200 OK", "Cache-Control: no-store\r\n", b"late");
        true
    });
    let proxy = Proxy::to(&origin, &[]);
    let mut client = proxy.connect();
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the origin has the request", || origin.count() == 1);
    proxy.signal();
    eventually("nobody listens", || TcpStream::connect(proxy.addr).is_err());
    release.store(true, Ordering::SeqCst);
    assert_eq!(client.read("GET").text(), "late");
    drop(client);
    assert!(proxy.ended());
}

#[test]
fn a_successor_takes_over_under_load_without_a_failed_request() {
    let origin = Origin::fixed("Cache-Control: max-age=60\r\n");
    let old = Proxy::to(&origin, &[]);
    let (addr, stop) = (old.addr, Arc::new(AtomicBool::new(false)));
    let (fresh, kept) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let spawn = |keep: bool, count: &Arc<AtomicU64>| {
        let (stop, count) = (stop.clone(), count.clone());
        std::thread::spawn(move || {
            let mut client = Client::connect(addr);
            while !stop.load(Ordering::SeqCst) {
                let response = client.get("/x");
                assert_eq!((response.status, response.text().as_str()), (200, "body of /x"));
                count.fetch_add(1, Ordering::SeqCst);
                if !keep || response.field("connection") == Some("close") {
                    client = Client::connect(addr);
                }
            }
        })
    };
    let clients: Vec<_> = (0..4).flat_map(|_| [spawn(false, &fresh), spawn(true, &kept)]).collect();
    eventually("load runs", || fresh.load(Ordering::SeqCst) > 50 && kept.load(Ordering::SeqCst) > 50);
    let dir = tempfile::tempdir().unwrap();
    let admin = dir.path().join("new.sock");
    let to = format!("http://{}", origin.addr);
    let takeover = old.admin.to_str().unwrap().to_owned();
    let args = ["--to", &to, "--workers", "2", "--no-pin", "--cache", "64M", "--takeover", &takeover];
    let (mut child, mut lines) = Proxy::spawn(&admin, &args);
    assert_eq!(Proxy::await_ready(&mut child, &mut lines), addr);
    let new = Proxy::from_child(addr, &admin, child);
    assert!(old.ended(), "the old process leaves by itself");
    let before = (fresh.load(Ordering::SeqCst), kept.load(Ordering::SeqCst));
    eventually("load goes on", || {
        fresh.load(Ordering::SeqCst) > before.0 + 50 && kept.load(Ordering::SeqCst) > before.1 + 50
    });
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|c| c.join().unwrap());
    assert!(new.counter("requests") >= 100);
    assert!(origin.count() <= 2, "each process fetched it once at most");
    let second = new.admin(&json!({"op": "hello"}));
    assert_eq!(second["ok"]["listen"][0], addr.to_string());
}

#[test]
fn a_successor_waits_for_its_first_change() {
    let origin = Origin::fixed("Cache-Control: no-store\r\n");
    let old = Proxy::to(&origin, &[]);
    let dir = tempfile::tempdir().unwrap();
    let admin = dir.path().join("new.sock");
    let takeover = old.admin.to_str().unwrap().to_owned();
    let (mut child, mut lines) =
        Proxy::spawn(&admin, &["--workers", "2", "--no-pin", "--takeover", &takeover]);
    eventually("the successor's admin socket", || admin.exists());
    assert_eq!(old.get("/").status, 200);
    assert_eq!(old.admin(&json!({"op": "hello"}))["ok"]["draining"], false);
    let change = json!({"op": "apply", "revision": 1,
        "origins": [{"name": "o", "addresses": [origin.addr.to_string()]}],
        "sites": [{"host": "*", "origin": "o", "group": "g"}]});
    assert!(common::admin_at(&admin, &change)["ok"].is_object());
    assert_eq!(Proxy::await_ready(&mut child, &mut lines), old.addr);
    let new = Proxy::from_child(old.addr, &admin, child);
    assert!(old.ended());
    assert_eq!(new.get("/").status, 200);
}

/// Proxies that form a group, in front of one origin, with or without a parent.
struct Group {
    proxies: Vec<Proxy>,
    names: Vec<String>,
}

impl Group {
    fn new(size: usize, origin: SocketAddr, parent: Option<&Proxy>) -> Self {
        let names: Vec<String> = (0..size).map(|i| format!("n{i}")).collect();
        let proxies: Vec<Proxy> = names
            .iter()
            .map(|n| Proxy::start(&["--workers", "1", "--no-pin", "--cache", "16M", "--name", n]))
            .collect();
        let group = Self { proxies, names };
        for i in 0..size {
            let reply = group.proxies[i].admin(&group.change(i, origin, parent, &[], 1));
            assert!(reply["ok"].is_object(), "{reply}");
        }
        group
    }

    fn change(
        &self,
        i: usize,
        origin: SocketAddr,
        parent: Option<&Proxy>,
        down: &[&str],
        revision: u64,
    ) -> Value {
        let member = |name: &str, addr: SocketAddr| json!({"name": name, "address": addr.to_string()});
        let members: Vec<Value> =
            self.names.iter().zip(&self.proxies).map(|(n, p)| member(n, p.addr)).collect();
        let parents: Vec<Value> = parent.iter().map(|p| member("parent", p.addr)).collect();
        json!({"op": "apply", "revision": revision, "full": true,
            "group": {"own_name": self.names[i], "members": members, "parents": parents,
                      "bounded_load_percent": 125, "down": down},
            "origins": [{"name": "o", "addresses": [origin.to_string()]}],
            "sites": [{"host": "*", "origin": "o", "group": "g"}]})
    }
}

#[test]
fn a_group_fetches_each_url_once_and_goes_on_when_a_member_dies() {
    let origin = Origin::fixed("Cache-Control: max-age=60\r\n");
    let mut group = Group::new(3, origin.addr, None);
    for target in (0..60).map(|i| format!("/u{i}")) {
        for proxy in &group.proxies {
            assert_eq!(proxy.get(&target).text(), format!("body of {target}"));
        }
    }
    let counts = by_target(&origin.seen());
    assert!(counts.len() == 60 && counts.values().all(|n| *n == 1), "{counts:?}");
    assert!(group.proxies.iter().all(|p| p.counter("peer_forwards") > 0), "keys are spread");
    let trace = group.proxies[0].admin(&json!({"op": "trace", "url": "http://a.example/u1"}));
    assert_eq!(trace["ok"]["owners"].as_array().map(Vec::len), Some(3), "{trace}");
    // One dies without a word: its keys are answered by others, no request fails.
    drop(group.proxies.remove(2));
    group.names.truncate(2);
    for target in (0..60).map(|i| format!("/u{i}")) {
        for proxy in &group.proxies {
            assert_eq!(proxy.get(&target).status, 200, "{target}");
        }
    }
}

#[test]
fn the_busiest_sites_are_named_with_their_counts() {
    let origin = Origin::fixed("Cache-Control: max-age=60\r\n");
    let proxy = Proxy::start(&["--workers", "2", "--no-pin", "--cache", "4M"]);
    let change = json!({"op": "apply", "revision": 1,
        "origins": [{"name": "o", "addresses": [origin.addr.to_string()]}],
        "sites": [{"host": "a.example", "origin": "o", "group": "g"},
                  {"host": "b.example", "origin": "o", "group": "g"},
                  {"host": "quiet.example", "origin": "o", "group": "g"}]});
    assert!(proxy.admin(&change)["ok"].is_object());
    let mut client = proxy.connect();
    for host in ["a", "b", "b", "b", "a", "b"] {
        client.write(format!("GET / HTTP/1.1\r\nHost: {host}.example\r\n\r\n"));
        assert_eq!(client.read("GET").status, 200);
    }
    let wanted = json!([{"host": "b.example", "requests": 4, "hits": 3},
                        {"host": "a.example", "requests": 2, "hits": 1}]);
    eventually("workers add up", || proxy.stats()["top_sites"] == wanted);
}

#[test]
fn a_full_change_without_a_group_leaves_the_group() {
    let origin = Origin::fixed("Cache-Control: max-age=60\r\n");
    let group = Group::new(2, origin.addr, None);
    let mut change = group.change(0, origin.addr, None, &[], 2);
    change.as_object_mut().unwrap().remove("group");
    assert!(group.proxies[0].admin(&change)["ok"].is_object());
    let trace = group.proxies[0].admin(&json!({"op": "trace", "url": "http://a.example/"}));
    assert_eq!(trace["ok"]["owners"].as_array().map(Vec::len), Some(2), "{trace}");
}

#[test]
fn misses_climb_to_the_parent_and_only_it_asks_the_origin() {
    let origin = Origin::fixed("Cache-Control: max-age=60\r\n");
    let parent = Proxy::to(&origin, &["--name", "parent"]);
    // The children know no working origin: what they answer came through the parent.
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let group = Group::new(2, nowhere, Some(&parent));
    for i in 0..20 {
        for proxy in &group.proxies {
            assert_eq!(proxy.get(&format!("/p{i}")).text(), format!("body of /p{i}"));
        }
    }
    assert!(by_target(&origin.seen()).values().all(|n| *n == 1));
    let seen = origin.seen();
    assert_eq!(seen[0].field("sluice-hop"), None, "hop marks do not leave the tiers");
    assert_eq!(
        seen[0].field("via").map(|v| v.matches("1.1").count()),
        seen[0].field("via").map(|v| v.split(',').count())
    );
    assert_eq!(group.proxies.iter().map(|p| p.counter("parent_requests")).sum::<u64>(), 20);
}

fn connect_from(source: Ipv4Addr, to: SocketAddr) -> Client {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddrV4::new(source, 0)).unwrap();
    connect(&fd, &to).unwrap();
    Client::over(TcpStream::from(fd))
}

#[test]
fn loops_are_refused_and_strangers_hop_marks_ignored() {
    let origin = Origin::fixed("Cache-Control: no-store\r\n");
    let group = Group::new(2, origin.addr, None);
    let proxy = &group.proxies[0];
    let mut member = proxy.connect();
    assert_eq!(member.get_with("/", "Sluice-Hop: n1, n0\r\n").status, 508);
    assert_eq!(member.get_with("/", "Sluice-Hop: a, b, c, d\r\n").status, 508);
    assert_eq!(member.get_with("/", "Via: 1.1 other, 1.1 n0 (x)\r\n").status, 508);
    assert_eq!(proxy.refused("loop_detected"), 3);
    // From an address of no member the mark says nothing.
    let mut stranger = connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.addr);
    assert_eq!(stranger.get_with("/", "Sluice-Hop: n1, n0\r\n").status, 200);
    assert_eq!(proxy.counter("hop_untrusted"), 1);
    assert!(origin.seen().iter().all(|s| s.field("sluice-hop").is_none()));
    // A proxy that is its own origin answers 508, once.
    let own = Group::new(1, origin.addr, None);
    let itself = own.change(0, own.proxies[0].addr, None, &[], 2);
    assert!(own.proxies[0].admin(&itself)["ok"].is_object());
    assert_eq!(own.proxies[0].get("/").status, 508);
    assert_eq!(own.proxies[0].refused("loop_detected"), 1);
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_thousand_sites_in_one_change() {
    const SITES: u64 = 100_000;
    let origin = Origin::fixed("Cache-Control: no-store\r\n");
    let proxy = Proxy::start(&["--workers", "1", "--no-pin", "--cache", "4M"]);
    let before = resident_kib(proxy.pid);
    let sites: Vec<Value> = (0..SITES)
        .map(|i| json!({"host": format!("www.site-{i}.example"), "origin": "o", "group": "g"}))
        .collect();
    let change = json!({"op": "apply", "revision": 1, "sites": sites,
        "origins": [{"name": "o", "addresses": [origin.addr.to_string()]}]});
    assert_eq!(proxy.admin(&change)["ok"]["sites"], SITES);
    let mut client = proxy.connect();
    for i in [0, 1, 4711, SITES - 1] {
        client.write(format!("GET /{i} HTTP/1.1\r\nHost: www.site-{i}.example\r\n\r\n"));
        assert_eq!(client.read("GET").text(), format!("body of /{i}"));
    }
    client.write(format!("GET / HTTP/1.1\r\nHost: www.site-{SITES}.example\r\n\r\n"));
    assert_eq!(client.read("GET").status, 421);
    let table = proxy.stats()["gauges"]["table_bytes"].as_u64().unwrap();
    let grown = (resident_kib(proxy.pid) - before) * 1024;
    println!("{SITES} sites: table {} B a site, resident {} B a site", table / SITES, grown / SITES);
    assert!(table / SITES < 512, "{table}");
    let one = json!({"op": "apply", "revision": 2, "sites_removed": ["www.site-1.example"]});
    assert_eq!(proxy.admin(&one)["ok"]["sites"], SITES - 1);
    let _ = client.stream.flush();
}
