//! `sluice-bench --quick`: the shape of what it writes, never a figure.

use sluice_bench::suite::row::Row;
use std::process::Command;

fn quick(group: &str) -> (tempfile::TempDir, Vec<Row>) {
    let dir = tempfile::tempdir().expect("a directory");
    let status = Command::new(env!("CARGO_BIN_EXE_sluice-bench"))
        .args(["--quick", "--group", group, "--out"])
        .arg(dir.path())
        .status()
        .expect("run sluice-bench");
    assert!(status.success(), "{status}");
    let text = std::fs::read_to_string(dir.path().join("results.json")).expect("results.json");
    (dir, serde_json::from_str(&text).expect("rows and nothing else"))
}

#[test]
fn proxy_rows_have_their_shape() {
    let (dir, rows) = quick("proxy");
    assert!(rows.iter().any(|r| r.subject == "floor"), "our own floor needs nothing installed");
    for row in &rows {
        assert_eq!(row.group, "proxy");
        assert!(row.value.is_finite() && row.value >= 0.0, "{row:?}");
        let again = if row.base_value > 0.0 { row.value / row.base_value } else { row.ratio };
        assert!((row.ratio - again).abs() <= 0.01 * again.max(0.01), "{row:?}");
        let base = rows.iter().find(|r| r.case == row.case && r.subject == row.base);
        assert_eq!(base.map(|b| b.value), Some(row.base_value), "the base is a row too: {row:?}");
    }
    for file in ["proxy.txt", "proxy.svg", "machine.json"] {
        assert!(dir.path().join(file).metadata().is_ok_and(|m| m.len() > 0), "{file}");
    }
    let picture = std::fs::read_to_string(dir.path().join("proxy.svg")).expect("a picture");
    assert_eq!(picture.matches("<title>").count(), rows.len());
}

#[test]
fn vmm_says_that_it_is_not_there() {
    let (_dir, rows) = quick("vmm");
    assert!(rows.is_empty());
}
