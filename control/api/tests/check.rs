//! What the checks accept and refuse, and which field they name.

use proptest::prelude::*;
use sluice_api::check::{CheckedDocument, FieldError, check_set, parse_document};
use std::path::PathBuf;

const L4: &str = include_str!("../../../docs/examples/l4.yaml");
const CDN: &str = include_str!("../../../docs/examples/cdn.yaml");
const SITES: &str = include_str!("../../../docs/examples/sites.yaml");
const ONE: &str = include_str!("../../../docs/examples/one-node.json");

fn good(text: &str) -> CheckedDocument {
    parse_document(text.as_bytes()).unwrap_or_else(|errors| panic!("refused: {errors:?}\n{text}"))
}

fn refused(text: &str) -> Vec<FieldError> {
    parse_document(text.as_bytes()).expect_err(&format!("accepted:\n{text}"))
}

/// Replaces exactly one place of a good document.
fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in the document");
    text.replacen(from, to, 1)
}

#[track_caller]
fn names_field(errors: &[FieldError], path: &str, part: &str) {
    assert!(
        errors.iter().any(|e| e.path == path && e.message.contains(part)),
        "no error at {path:?} with {part:?} in {errors:#?}"
    );
}

#[track_caller]
fn names_set_field(documents: &[&str], document: &str, path: &str, part: &str) {
    let documents: Vec<_> = documents.iter().map(|text| good(text)).collect();
    let errors = check_set(&documents).expect_err("the set was accepted");
    names_field(&errors, path, part);
    assert!(errors.iter().any(|e| e.path == path && e.document == document), "{errors:#?}");
}

#[test]
fn every_example_parses_and_the_set_resolves() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(dir).expect("docs/examples") {
        let path = entry.expect("entry").path();
        let bytes = std::fs::read(&path).expect("example");
        match parse_document(&bytes) {
            Ok(document) => documents.push(document),
            Err(errors) => panic!("{}: {errors:?}", path.display()),
        }
    }
    assert!(documents.len() >= 4);
    let desired = check_set(&documents).unwrap_or_else(|e| panic!("{e:#?}"));
    assert_eq!(desired.sites().len(), 3);
    assert_eq!(desired.group_of("edge-2").map(|g| g.name()), Some("edge"));
    assert_eq!(desired.group_of("front-1"), None);
}

#[test]
fn yaml_and_json_of_the_same_content_are_equal() {
    let yaml = good(SITES);
    let value: serde_norway::Value = serde_norway::from_str(SITES).expect("yaml");
    let json = good(&serde_json::to_string(&value).expect("json"));
    assert!(yaml.same_content(&json));
    assert_eq!(yaml, json);
}

#[test]
fn unknown_fields_and_wrong_types_are_named() {
    let errors = refused(&with(L4, "    port: 80\n    protocol", "    prt: 80\n    protocol"));
    names_field(&errors, "vips[0].prt", "unknown field");
    let errors = refused(&with(L4, "    port: 80\n    protocol", "    port: eighty\n    protocol"));
    names_field(&errors, "vips[0].port", "invalid type");
    let errors = refused(&with(L4, "    port: 80\n    protocol", "    port: 65536\n    protocol"));
    names_field(&errors, "vips[0].port", "65536");
    let errors = refused(&with(L4, "protocol: tcp", "protocol: sctp"));
    names_field(&errors, "vips[0].protocol", "unknown variant");
    let errors = refused(&with(ONE, "\"port\": 80", "\"port\": -1"));
    names_field(&errors, "vips[0].port", "invalid value");
    let errors = refused(&with(L4, "generation: 1", "generation: -1"));
    names_field(&errors, "generation", "invalid");
    let errors = refused(&with(L4, "    cidr: 10.1.0.0/24\n", ""));
    names_field(&errors, "networks[0]", "missing field `cidr`");
}

#[test]
fn values_out_of_range_are_named_all_at_once() {
    let mut text = with(L4, "weight: 50 ", "weight: 1001 ");
    text = with(&text, "interval_ms: 500", "interval_ms: 49");
    text = with(&text, "address: 10.1.0.11", "address: 224.0.0.1");
    text = with(&text, "port: 80\n    protocol", "port: 0\n    protocol");
    text = with(&text, "flow_idle_ms: 300000", "flow_idle_ms: 999");
    text = with(&text, "path: /healthz", "path: healthz");
    let errors = refused(&text);
    names_field(&errors, "pools[0].backends[1].weight", "1001 is not within 0..=1000");
    names_field(&errors, "pools[0].health.interval_ms", "49");
    names_field(&errors, "pools[0].health.timeout_ms", "250");
    names_field(&errors, "pools[0].health.path", "starts with");
    names_field(&errors, "pools[0].backends[0].address", "not an address of one host");
    names_field(&errors, "vips[0].port", "port 0");
    names_field(&errors, "vips[1].flow_idle_ms", "999");
    assert!(errors.iter().all(|e| e.document == "web"), "{errors:?}");
}

#[test]
fn single_fields() {
    let cases = [
        (L4, "apiVersion: sluice/v1", "apiVersion: sluice/v2", "apiVersion", "sluice/v2"),
        (L4, "generation: 1", "generation: 0", "generation", "start at 1"),
        (L4, "name: web\ngen", "name: Web\ngen", "name", "document name"),
        (L4, "name: web\ngen", "name: ../web\ngen", "name", "document name"),
        (L4, "cidr: 10.1.0.0/24", "cidr: 10.1.0.1/24", "networks[0].cidr", "below its prefix"),
        (L4, "cidr: 10.1.0.0/24", "cidr: 10.1.0.0/33", "networks[0].cidr", "prefix"),
        (L4, "cidr: 10.1.0.0/24", "cidr: 10.1.0.0", "networks[0].cidr", "address/prefix"),
        (L4, "name: web-2", "name: web-1", "pools[0].backends[1].name", "twice"),
        (L4, "address: 10.1.0.12", "address: 10.1.0.11", "pools[0].backends[1].address", "another backend"),
        (L4, "address: 10.1.0.11", "address: fd00::1", "pools[0].backends[0].address", "no IPv4"),
        (L4, "name: web-1", "name: \"\"", "pools[0].backends[0].name", "a name is"),
        (L4, "    pool: web\n", "", "vips[0].pool", "missing"),
        (L4, "mode: l2_direct", "mode: local", "vips[0].pool", "has no pool"),
        (L4, "nodes: [front-1]", "nodes: []", "vips[0].nodes", "empty"),
        (L4, "name: web-v6", "name: web-v4", "vips[1].name", "twice"),
        (CDN, "listen: [\"0.0.0.0:80\"]", "listen: []", "groups[0].listen", "empty"),
        (CDN, "listen: [\"0.0.0.0:80\"]", "listen: [\"0.0.0.0:0\"]", "groups[0].listen[0]", "port 0"),
        (CDN, "cache_bytes: 1073741824", "cache_bytes: 1048575", "groups[0].cache_bytes", "1048575"),
        (CDN, "address: 10.2.0.11:80", "address: 0.0.0.0:80", "groups[0].members[0].address", "one host"),
        (CDN, "address: 10.2.0.11:80", "address: 10.2.0.12:80", "groups[0].members[1].address", "twice"),
        (CDN, "name: parent-1", "name: edge-1", "groups[0].parents[0].name", "twice"),
        (SITES, "addresses: [\"10.3.0.41:8080\"]", "addresses: []", "origins[1].addresses", "empty"),
        (SITES, "host: images.internal", "host: images.internal:0", "origins[1].host", "no port"),
        (SITES, "www.example.com", "WWW.example.com", "sites[0].host", "label"),
        (SITES, "www.example.com", "www.example.com.", "sites[0].host", "label"),
        (SITES, "www.example.com", "\"www.exa mple.com\"", "sites[0].host", "label"),
        (SITES, "www.example.com", "\"*.*.example.com\"", "sites[0].host", "label"),
        (SITES, "www.example.com", "\"*.example.com\"", "sites[1].host", "also sites[0]"),
        (SITES, "path: /img/", "path: img/", "sites[0].routes[0].path", "starts with"),
        (SITES, "path: /img/", "path: /img/../x", "sites[0].routes[0].path", "segments"),
        (SITES, "path: /img/", "path: /img?x", "sites[0].routes[0].path", "does not belong"),
        (SITES, "path: /img/", "path: /img%2", "sites[0].routes[0].path", "hex"),
        (SITES, "path: /account/", "path: /img/", "sites[0].routes[1].path", "twice"),
    ];
    for (text, from, to, path, part) in cases {
        names_field(&refused(&with(text, from, to)), path, part);
    }
}

#[test]
fn duplicate_vips_are_refused_in_one_document_and_across() {
    let mut text = with(L4, "address: 2001:db8::10", "address: 192.0.2.10");
    text = with(&text, "mode: ipip", "mode: l2_direct");
    names_field(&refused(&text), "vips[1].address", "192.0.2.10:80/tcp is there twice");
    // Same address, other protocol: a different VIP.
    good(&with(&text, "protocol: tcp", "protocol: udp"));
    let other = with(CDN, "address: 192.0.2.20", "address: 192.0.2.10");
    names_set_field(&[L4, &other], "web", "vips[0].address", "192.0.2.10:80/tcp is also");
}

#[test]
fn references_and_addresses_across_documents() {
    names_set_field(&[L4, SITES], "sites", "sites[0].group", "no group \"edge\"");
    let text = with(SITES, "        origin: images\n", "        origin: nowhere\n");
    names_set_field(&[CDN, &text], "sites", "sites[0].routes[0].origin", "no origin \"nowhere\"");
    names_set_field(&[&with(L4, "pool: web", "pool: wob")], "web", "vips[0].pool", "no pool");
    let text = with(L4, "        address6: fd00:1::12\n", "");
    names_set_field(&[&text], "web", "vips[1].pool", "has not an IPv6 address");
    let text = with(L4, "address: 10.1.0.12", "address: 10.9.0.12");
    names_set_field(&[&text], "web", "pools[0].backends[1].address", "in no network");
    let text = with(L4, "address: 192.0.2.10", "address: 10.1.0.12");
    names_set_field(&[&text], "web", "vips[0].address", "has this address");
    let text = with(L4, "nodes: [front-1]", "nodes: [web-2]");
    names_set_field(&[&text], "web", "vips[0].nodes", "onto itself");
    let text = with(CDN, "address: 10.2.0.21:80", "address: 10.99.0.21:80");
    names_set_field(&[&text], "cdn", "groups[0].parents[0].address", "in no network");
}

#[test]
fn groups_share_no_node_and_have_no_cycle() {
    let text =
        CDN.replace("parent-1", "edge-9").replacen("      - name: edge-9", "      - name: parent-1", 1);
    // The second group's member is now edge-9; naming it edge-3 puts that node into two groups.
    let text = text.replace("edge-9", "edge-3");
    names_set_field(&[&text], "cdn", "groups[1].members[0].name", "already a member of group \"edge\"");
    let tail = "    parents:\n      - name: edge-1\n        address: 10.2.0.11:80\n";
    names_set_field(&[&format!("{CDN}{tail}")], "cdn", "groups[0].parents", "lead back");
}

#[test]
fn half_written_files_are_refused() {
    for text in [L4, CDN, SITES] {
        for cut in 1..text.len() {
            let part = &text[..cut];
            if part.ends_with('\n') {
                continue; // Only a writer that closed the file can leave this; the generation rule sees it.
            }
            assert!(parse_document(part.as_bytes()).is_err(), "accepted {cut} bytes:\n{part}");
        }
    }
    let json = ONE.trim_end();
    for cut in 0..json.len() {
        assert!(parse_document(&json.as_bytes()[..cut]).is_err(), "accepted {cut} bytes");
    }
    names_field(&refused(&format!("{ONE} {{}}")), "", "trailing");
}

#[test]
fn duplicate_keys_aliases_and_nesting_are_refused() {
    names_field(
        &refused(&with(L4, "generation: 1", "generation: 1\ngeneration: 2")),
        "generation",
        "duplicate field",
    );
    let json = with(ONE, "\"generation\": 1", "\"generation\": 1, \"generation\": 2");
    names_field(&refused(&json), "generation", "duplicate field");
    let text = with(L4, "  - name: servers\n", "  - &a\n    name: servers\n");
    names_field(&refused(&text), "", "anchors");
    names_field(&refused(&"[".repeat(100_000)), "", "cut off");
    names_field(&refused(&format!("a: {}\n", "[".repeat(100_000))), "", "nested deeper");
    names_field(&refused(&format!("{}x\n", "- ".repeat(100_000))), "", "indented");
    let json = format!("{{\"vips\":{}", "[".repeat(100_000));
    assert!(parse_document(json.as_bytes()).is_err());
    names_field(&refused(&format!("{SITES}---\n{SITES}")), "", "more than one document");
    assert!(parse_document(b"\xff\xfe").is_err());
    assert!(parse_document(b"").is_err());
    assert!(parse_document(b"\n \n").is_err());
}

#[test]
fn errors_shown_are_bounded() {
    let mut text = "apiVersion: sluice/v1\nname: many\ngeneration: 1\nsites:\n".to_owned();
    for i in 0..500 {
        text.push_str(&format!("  - host: BAD{i}\n    origin: o\n    group: g\n"));
    }
    let errors = refused(&text);
    assert_eq!(errors.len(), 101);
    assert_eq!(errors[100].message, "400 more errors are not shown");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse_document(&bytes);
    }

    /// One changed byte of a good document: accepted or refused, never a panic, and what is accepted can
    /// be checked as a set.
    #[test]
    fn no_changed_byte_panics(which in 0..4usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = [L4, CDN, SITES, ONE][which].as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(document) = parse_document(&bytes) {
            let _ = check_set([&document]);
        }
    }
}

#[test]
fn a_health_check_has_the_fields_of_its_kind() {
    let check = |health: &str| {
        let text = format!(
            "apiVersion: sluice/v1\nname: d\ngeneration: 1\npools:\n  - name: p\n    backends: [{{name: b, address: 10.0.0.1}}]\n    health: {{{health}}}\n"
        );
        parse_document(text.as_bytes())
    };
    for good in [
        "kind: tcp, port: 80, jitter_percent: 0",
        "kind: http, port: 80, host: www.example",
        "kind: https, port: 443, verify: none",
        "kind: https, port: 443, verify: ca, host: www.example",
        "kind: udp, port: 53, send: \"hex:00fF\", expect: \"hex:\"",
        "kind: udp, port: 53, send: ping",
        "kind: script, script: check-disk.sh",
    ] {
        check(good).unwrap_or_else(|errors| panic!("{good}: {errors:?}"));
    }
    for (bad, field, part) in [
        ("kind: tcp", "port", "no port"),
        ("kind: tcp, port: 80, path: /", "path", "kind tcp has no path"),
        ("kind: http, port: 80, verify: none", "verify", "kind http has no verify"),
        ("kind: https, port: 443", "verify", "is missing"),
        ("kind: https, port: 443, verify: ca", "host", "checked for a name"),
        ("kind: udp, port: 53", "send", "is missing"),
        ("kind: udp, port: 53, send: \"hex:0\"", "send", "hexadecimal"),
        ("kind: udp, port: 53, send: \"hex:+1\"", "send", "hexadecimal"),
        ("kind: script", "script", "is missing"),
        ("kind: script, script: ../sh", "script", "file name"),
        ("kind: script, script: .hidden", "script", "file name"),
        ("kind: tcp, port: 80, through: vip", "through", "own address only"),
        ("kind: tcp, port: 80, jitter_percent: 51", "jitter_percent", "0..=50"),
        ("kind: tcp, port: 80, through: tunnel", "through", "unknown variant"),
    ] {
        let errors = check(bad).expect_err(bad);
        names_field(&errors, &format!("pools[0].health.{field}"), part);
    }
    let long = format!("kind: udp, port: 53, send: {}", "x".repeat(513));
    names_field(&check(&long).expect_err("long"), "pools[0].health.send", "more than 512");
    let text = with(
        L4,
        "  - name: web\n    backends",
        "  - name: web\n    panic_percent: 101\n    slow_start_ms: 3600001\n    backends",
    );
    let errors = refused(&text);
    names_field(&errors, "pools[0].panic_percent", "0..=100");
    names_field(&errors, "pools[0].slow_start_ms", "3600001");
}
