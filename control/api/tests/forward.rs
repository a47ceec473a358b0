//! Fields that belong to one forwarding mode.

use sluice_api::check::types::Forward;
use sluice_api::check::{check_set, parse_document};

fn document(vip: &str) -> String {
    format!(
        "apiVersion: sluice/v1\nname: d\ngeneration: 1\nnetworks: [{{name: n, cidr: 10.0.0.0/8}}]\n\
         pools: [{{name: p, backends: [{{name: b, address: 10.0.0.1}}]}}]\n\
         vips: [{{name: v, address: 192.0.2.1, port: 80, protocol: tcp, pool: p, nodes: [front], {vip}}}]\n"
    )
}

/// The path of the only error, of the document or of the set.
fn wrong(vip: &str) -> String {
    let errors = match parse_document(document(vip).as_bytes()) {
        Err(errors) => errors,
        Ok(document) => check_set([&document]).expect_err("a wrong document"),
    };
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].path.clone()
}

fn forward(vip: &str) -> Forward {
    let document = parse_document(document(vip).as_bytes()).expect("a good document");
    check_set([&document]).expect("a good set").vips()["v"].forward().clone()
}

#[test]
fn gue_has_a_port() {
    assert!(matches!(forward("mode: gue"), Forward::Gue { port: 6080, .. }));
    assert!(matches!(forward("mode: gue, gue: {port: 7000}"), Forward::Gue { port: 7000, .. }));
    assert_eq!(wrong("mode: gue, gue: {port: 0}"), "vips[0].gue.port");
    assert_eq!(wrong("mode: ipip, gue: {port: 7000}"), "vips[0].gue");
}

#[test]
fn nat_has_sources_for_each_node() {
    let nat = |rest: &str| format!("mode: nat, nat: {{{rest}}}");
    let one = |address: &str| nat(&format!("sources: [{{node: front, address: '{address}'}}]"));
    let Forward::Nat { backend_port, sources, .. } = forward(&one("10.0.0.9")) else { panic!("mode nat") };
    assert_eq!((backend_port, sources["front"].len()), (80, 1));
    let port = forward(&nat("backend_port: 8080, sources: [{node: front, address: 10.0.0.9}]"));
    assert!(matches!(port, Forward::Nat { backend_port: 8080, .. }));
    assert_eq!(wrong("mode: nat"), "vips[0].nat");
    assert_eq!(wrong("mode: ipip, nat: {sources: []}"), "vips[0].nat");
    assert_eq!(wrong(&nat("sources: []")), "vips[0].nat.sources");
    assert_eq!(wrong(&one("fd00::1")), "vips[0].nat.sources[0].address");
    assert_eq!(wrong(&one("192.0.2.1")), "vips[0].nat.sources", "the address of the VIP");
    assert_eq!(wrong(&one("10.0.0.1")), "vips[0].nat.sources", "the address of a backend");
    let two = "{node: front, address: 10.0.0.9}, {node: other, address: 10.0.0.8}";
    assert_eq!(wrong(&nat(&format!("sources: [{two}]"))), "vips[0].nat.sources[1].node");
    let zero = "backend_port: 0, sources: [{node: front, address: 10.0.0.9}]";
    assert_eq!(wrong(&nat(zero)), "vips[0].nat.backend_port");
}
