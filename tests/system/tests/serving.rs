//! One lab, steered from outside: documents of the lab itself, traffic through every VIP, every command.
//!
//! One lab serves all steps, since starting one costs more than any of them; a step names itself when it fails.

use rustix::process::Signal;
use serde_json::{Value, json};
use sluice_system_tests::{Lab, alive, leftovers, run_in, signal, skip, sluice, until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const SITE: &str = "www.lab.test";

#[test]
fn a_lab_drives_traffic_and_leaves_nothing() {
    if skip() {
        return;
    }
    let mut lab = Lab::start("traffic", &["--duration", "6", "--rate", "300"]);
    ready_document(&lab);
    let name = lab.name().to_owned();
    let (summary, status) = lab.summary(Duration::from_secs(120));
    assert!(status.success(), "{status}");
    assert!(summary["requests"].as_u64().expect("a number") > 100, "{summary}");
    assert_eq!(summary["errors"], 0, "{summary}");
    assert!(summary["hit_ratio"].as_f64().expect("a number") > 0.0, "{summary}");
    for percentile in ["p50", "p90", "p99", "p999", "max"] {
        assert!(summary["latency_us"][percentile].as_f64().expect("a number") > 0.0, "{summary}");
    }
    let served = summary["served_by"].as_object().expect("an object");
    assert_eq!(served.keys().collect::<Vec<_>>(), ["node1", "node2", "node3"], "{summary}");
    assert!(summary["drops"].is_object(), "{summary}");
    for backend in summary["backends"].as_array().expect("a list") {
        assert!(backend["packets"].as_u64() > Some(0) && backend["health"] == "healthy", "{backend}");
    }
    for udp in summary["udp"].as_array().expect("a list") {
        assert!(udp["answered"].as_u64() > Some(0) && udp["moved"] == 0 && udp["silent"] == 0, "{udp}");
    }
    assert_eq!(summary["udp"].as_array().map(Vec::len), Some(2), "l2_direct and ipip");
    assert_eq!(leftovers(&name), [""; 0]);
}

fn ready_document(lab: &Lab) {
    let ready = &lab.ready;
    let names = ["fabric", "client", "front", "node1", "node2", "node3", "parent", "origin"];
    for name in names {
        assert!(ready["namespaces"][name].is_string(), "{name} in {ready}");
    }
    let modes: Vec<(&str, &str)> = ready["vips"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|v| (v["protocol"].as_str().expect("text"), v["mode"].as_str().expect("text")))
        .collect();
    for wanted in [("tcp", "l2_direct"), ("tcp", "ipip"), ("udp", "l2_direct"), ("udp", "ipip")] {
        assert!(modes.contains(&wanted), "{wanted:?} in {modes:?}");
    }
    for host in ["front", "parent"] {
        assert!(std::path::Path::new(lab.socket(host)).exists());
        assert!(alive(ready[host]["agent_pid"].as_u64().expect("a pid")), "{host}");
    }
    assert!(alive(ready["origin"]["pid"].as_u64().expect("a pid")) && ready["origin"]["port"] == 80);
    for field in ["run_dir", "placements_dir", "log_dir"] {
        assert!(std::path::Path::new(ready[field].as_str().expect("a path")).is_dir(), "{field}");
    }
    assert_eq!(ready["nodes"].as_array().map(Vec::len), Some(3));
}

#[test]
fn an_operator_steers_a_lab() {
    if skip() {
        return;
    }
    let mut lab = Lab::start("steer", &["--no-load"]);
    traffic_through_every_vip(&lab);
    reading(&lab);
    tracing(&lab);
    documents(&lab);
    draining(&lab);
    purging(&lab);
    healthy(&lab);
    second_lab_of_the_name_is_refused(&lab);
    let name = lab.name().to_owned();
    let summary = lab.end();
    assert_eq!((&summary["event"], &summary["errors"]), (&json!("summary"), &json!(0)));
    assert_eq!(leftovers(&name), [""; 0]);
}

fn traffic_through_every_vip(lab: &Lab) {
    for vip in ["web4", "web6", "web4-ipip"] {
        for _ in 0..2 {
            let got = lab.curl(vip, "/obj/tour?size=3000&ttl=60").good();
            assert!(got.out.starts_with("HTTP/1.1 200"), "{vip}: {got:?}");
            assert!(got.out.to_ascii_lowercase().contains("\r\nvia: "), "{vip}: {got:?}");
        }
    }
    // Larger than a packet both ways: nothing depends on small requests.
    let big = lab.curl("web4-ipip", "/obj/big?size=300000&ttl=60").good();
    assert!(big.out.len() > 300_000 || big.out.contains("\r\n\r\n"), "{}", big.out.len());
    let second = lab.curl("web4", "/obj/big?size=300000&ttl=60").good();
    assert!(hit(&second.out), "asked for through another VIP before: {}", &second.out[..600]);
}

/// Some cache of the way answered from its store (RFC 9211).
fn hit(response: &str) -> bool {
    let head = response.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
    head.lines().any(|l| l.starts_with("cache-status:") && l.contains("; hit"))
}

fn reading(lab: &Lab) {
    let status = lab.sluice("front", &["get", "status", "-o", "json"]).json();
    assert_eq!((&status["node"], &status["converged"]), (&json!("front"), &json!(true)));
    let vips = lab.sluice("front", &["get", "vips", "-o", "json"]).json();
    assert_eq!(vips.as_array().map(Vec::len), lab.ready["vips"].as_array().map(Vec::len));
    let backends = lab.sluice("front", &["get", "backends", "-o", "json"]).json();
    let shares: f64 = backends
        .as_array()
        .expect("a list")
        .iter()
        .filter(|b| b["vip"] == "web4")
        .map(|b| b["backend"]["share"].as_f64().expect("a share"))
        .sum();
    assert!((shares - 1.0).abs() < 0.001, "{backends}");
    for kind in ["documents", "vips", "backends", "sites", "status", "events"] {
        let table = lab.sluice("front", &["get", kind]).good();
        assert!(table.out.lines().count() > 1, "{kind}: {table:?}");
    }
    for (kind, name) in [
        ("document", "cache"),
        ("vip", "web4"),
        ("backend", "node1"),
        ("pool", "nodes"),
        ("group", "edge"),
        ("site", SITE),
    ] {
        let described = lab.sluice("front", &["describe", kind, name]).good();
        assert!(described.out.contains(name), "{described:?}");
    }
    assert_eq!(lab.sluice("front", &["describe", "vip", "nosuch"]).code, 3);
    let stats = lab.sluice("front", &["stats", "-o", "json"]).json();
    let packets: u64 = stats["backends"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|b| b["packets"].as_u64().unwrap_or(0))
        .sum();
    assert!(packets > 0, "{stats}");
    assert!(lab.sluice("node1", &["stats"]).good().out.contains("proxy.requests"));
    assert_eq!(sluice(&["--socket", "/nonexistent/agent.sock", "get"]).code, 4);
}

fn tracing(lab: &Lab) {
    let packet = format!("tcp 10.7.0.2:4000 {}", lab.vip("web4"));
    let trace = lab.sluice("front", &["trace", "--packet", &packet, "-o", "json"]).json();
    assert_eq!((&trace["verdict"], &trace["vip"]), (&json!("forward"), &json!("web4")), "{trace}");
    assert!(trace["backend"].as_str().is_some_and(|b| b.starts_with("node")), "{trace}");
    let pass =
        lab.sluice("front", &["trace", "--packet", "tcp 10.7.0.2:4000 10.99.0.1:80", "-o", "json"]).json();
    assert_eq!(pass["verdict"], "pass", "{pass}");
    let url = format!("http://{SITE}/obj/tour?size=3000&ttl=60");
    let trace = lab.sluice("node1", &["trace", &url, "-o", "json"]).json();
    assert_eq!(trace["url"]["site"], SITE, "{trace}");
    assert!(lab.sluice("node1", &["trace", &url]).good().out.contains("owners"));
    assert_eq!(lab.sluice("front", &["trace", "--packet", "tcp nonsense"]).code, 2);
}

fn write(dir: &std::path::Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("write a document");
    path.to_str().expect("UTF-8").to_owned()
}

fn documents(lab: &Lab) {
    let dir = tempfile::tempdir().expect("a directory");
    let document = |generation: u64, ttl: u64, extra: &str| {
        format!(
            "apiVersion: sluice/v1\nname: shop\ngeneration: {generation}\nsites:\n  - host: shop.lab.test\n    \
             origin: origin\n    group: edge\n    routes: [{{path: /, default_ttl_ms: {ttl}}}]\n{extra}"
        )
    };
    let good = write(dir.path(), "shop.yaml", &document(1, 1000, ""));
    let diff = lab.sluice("node1", &["diff", "-f", &good]).good();
    assert!(diff.out.contains("created"), "{diff:?}");
    let dry = lab.sluice("node1", &["apply", "--dry-run", "-f", &good]).good();
    assert!(dry.out.contains("dry run"), "{dry:?}");
    assert_eq!(lab.sluice("node1", &["describe", "document", "shop"]).code, 3, "a dry run writes nothing");
    for host in ["node1", "node2", "node3", "parent"] {
        lab.sluice(host, &["apply", "--wait", "-f", &good]).good();
    }
    let unchanged = lab.sluice("node1", &["apply", "-o", "json", "-f", &good]).json();
    assert_eq!(unchanged[0]["change"], "unchanged");
    let newer = write(dir.path(), "shop2.yaml", &document(2, 2000, ""));
    let diff = lab.sluice("node1", &["diff", "-o", "json", "-f", &newer]).json();
    let fields = diff[0]["fields"].to_string();
    assert!(fields.contains("default_ttl_ms") && fields.contains("2000"), "{diff}");
    lab.sluice("node1", &["apply", "--wait", "-f", &newer]).good();

    // Older generation; same number with other content; unknown field; half a file: refused, the field named.
    let older = lab.sluice("node1", &["apply", "-f", &good]);
    assert_eq!(older.code, 3, "{older:?}");
    let other = write(dir.path(), "shop3.yaml", &document(2, 3000, ""));
    assert_eq!(lab.sluice("node1", &["apply", "-f", &other]).code, 3);
    let unknown = write(dir.path(), "shop4.yaml", &document(3, 1, "surprise: 1\n"));
    let refused = lab.sluice("node1", &["apply", "-f", &unknown]);
    assert!(refused.code == 3 && refused.err.contains("surprise"), "{refused:?}");
    let network = "pools: [{name: far, backends: [{name: x, address: 192.0.2.1}]}]\n";
    let far = write(dir.path(), "shop5.yaml", &document(3, 1, network));
    let refused = lab.sluice("node1", &["apply", "-f", &far]);
    assert!(refused.code == 3 && refused.err.contains("pools[0].backends[0].address"), "{refused:?}");
    let half = write(dir.path(), "half.yaml", "apiVersion: sluice/v1\nname: shop\nsites: [");
    assert_eq!(lab.sluice("node1", &["apply", "-f", &half]).code, 3);
    let in_force = lab.sluice("node1", &["describe", "document", "shop", "-o", "json"]).json();
    assert_eq!(
        (&in_force["generation"], &in_force["sites"][0]["routes"][0]["default_ttl_ms"]),
        (&json!(2), &json!(2000))
    );

    for host in ["node1", "node2", "node3", "parent"] {
        lab.sluice(host, &["delete", "shop"]).good();
    }
    assert_eq!(lab.sluice("node1", &["describe", "document", "shop"]).code, 3);
    let openapi = run_in(
        lab.netns("node1"),
        "curl",
        &["-sS", "--unix-socket", lab.socket("node1"), "http://agent/v1/openapi.json"],
    )
    .json();
    assert!(openapi["openapi"].as_str().is_some_and(|v| v.starts_with("3.")), "{openapi}");
    for path in ["/v1/documents/{name}", "/v1/drain", "/v1/trace"] {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
}

fn share(lab: &Lab, backend: &str) -> f64 {
    let all = lab.sluice("front", &["get", "backends", "-o", "json"]).json();
    let mut shares = all.as_array().expect("a list").iter().filter(|b| b["backend"]["name"] == backend);
    shares.next().and_then(|b| b["backend"]["share"].as_f64()).expect("a share")
}

fn draining(lab: &Lab) {
    assert!(share(lab, "node2") > 0.2);
    lab.sluice("front", &["drain", "backend", "node2"]).good();
    until("node2 has no share", SOON, || share(lab, "node2") == 0.0);
    lab.sluice("front", &["undrain", "backend", "node2"]).good();
    until("node2 has a share again", SOON, || share(lab, "node2") > 0.2);
    let refused = lab.sluice("front", &["drain", "backend", "nosuch"]);
    assert_ne!(refused.code, 0, "{refused:?}");
}

fn purging(lab: &Lab) {
    let path = "/obj/purge?size=100&ttl=600";
    lab.curl("web4", path).good();
    until("it is stored", SOON, || hit(&lab.curl("web4", path).good().out));
    for host in ["node1", "node2", "node3", "parent"] {
        lab.sluice(host, &["purge", "--all"]).good();
    }
    let after = lab.curl("web4", path).good();
    assert!(!hit(&after.out), "{after:?}");
}

fn healthy(lab: &Lab) {
    let mut args = vec!["doctor", "-o", "json", "--only-netns", "--expect-ipip"];
    let names = lab.ready["namespaces"].as_object().expect("an object");
    args.extend(names.values().flat_map(|n| ["--netns", n.as_str().expect("text")]));
    let ran = sluice(&args);
    let document: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let problems: Vec<&Value> =
        document["problems"].as_array().expect("a list").iter().filter(|p| !p["netns"].is_null()).collect();
    assert!(problems.is_empty(), "the lab's own network has problems: {problems:?}");
}

fn second_lab_of_the_name_is_refused(lab: &Lab) {
    let second = sluice(&["lab", "--prefix", lab.name(), "--duration", "1"]);
    assert!(second.code == 1 && second.err.contains("is running"), "{second:?}");
    let listed = lab.curl("web4", "/obj/still?size=10").good();
    assert!(listed.out.starts_with("HTTP/1.1 200"), "the first goes on: {listed:?}");
}

#[test]
fn a_start_cleans_up_after_kill_9_of_everything() {
    if skip() {
        return;
    }
    let mut first = Lab::start("kill", &["--no-load"]);
    let pids: Vec<u64> =
        first.ready["pids"].as_object().expect("an object").values().filter_map(Value::as_u64).collect();
    assert!(pids.len() >= 9, "{pids:?}");
    // The lab and every second process die; proxies and some agents are left as orphans.
    first.kill();
    for pid in pids.iter().step_by(2) {
        signal(*pid, Signal::KILL);
    }
    let name = first.name().to_owned();
    assert_ne!(leftovers(&name), [""; 0]);
    let mut second = Lab::start_named(&name, &["--no-load"]);
    assert!(pids.iter().all(|pid| !alive(*pid)), "an orphan of the first lab lives");
    let got = second.curl("web4", "/obj/again?size=10").good();
    assert!(got.out.starts_with("HTTP/1.1 200"), "{got:?}");
    second.end();
    assert_eq!(leftovers(&name), [""; 0]);
}
