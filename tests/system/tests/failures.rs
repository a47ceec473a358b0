//! The failures of `sluice lab --scenario`, each with its promise. Counts are judged, times are only shown.

use sluice_system_tests::{Lab, leftovers, skip};
use std::time::Duration;

/// Eight scenarios of about ten seconds, on a slow machine.
const ALL_TIMEOUT: Duration = Duration::from_secs(420);

#[test]
fn every_failure_is_seen_by_clients_as_promised() {
    if skip() {
        return;
    }
    let mut lab = Lab::start("fail", &["--scenario", "all"]);
    let name = lab.name().to_owned();
    let (summary, _) = lab.summary(ALL_TIMEOUT);
    let reports = summary["scenarios"].as_array().expect("a list");
    let mut broken = Vec::new();
    for report in reports {
        let clients = &report["clients"];
        println!(
            "{}: {} requests, {} failed {}, recovery {}",
            report["scenario"],
            clients["requests"],
            clients["errors"],
            clients["errors_by_class"],
            report["recovery_s"]
        );
        assert!(clients["requests"].as_u64() > Some(0), "{report}");
        for promise in report["promises"].as_array().expect("a list") {
            if promise["held"] != true {
                broken.push(format!("{}: {}: {}", report["scenario"], promise["what"], promise["seen"]));
            }
        }
    }
    let mut ran: Vec<&str> = reports.iter().filter_map(|r| r["scenario"].as_str()).collect();
    ran.sort_unstable();
    let all = [
        "add-node",
        "broken-placement",
        "cut-origin",
        "drain-node",
        "fill-flow-table",
        "kill-node",
        "restart-agent",
        "upgrade-proxy",
    ];
    assert_eq!(ran, all);
    assert_eq!(broken, [""; 0], "{broken:#?}");
    assert_eq!(summary["held"], true);
    assert_eq!(leftovers(&name), [""; 0]);
}
