//! `vips[].balance`: what is accepted, what it means, and which field an error names.

use sluice_api::check::{FieldError, check_set, parse_document};
use sluice_api::placement::Tracking;

const WEB: &str = include_str!("../../../docs/examples/l4.yaml");

/// The example with lines put into its first VIP, and other edits.
fn web(lines: &str, edits: &[(&str, &str)]) -> String {
    let mut text = WEB.replacen("    nodes: [front-1]\n", &format!("    nodes: [front-1]\n{lines}"), 1);
    for (from, to) in edits {
        assert!(text.contains(from), "{from:?} is not in the document");
        text = text.replacen(from, to, 1);
    }
    text
}

fn errors(text: &str) -> Vec<FieldError> {
    match parse_document(text.as_bytes()) {
        Ok(document) => check_set([&document]).expect_err(&format!("accepted:\n{text}")),
        Err(errors) => errors,
    }
}

#[track_caller]
fn names(text: &str, path: &str, part: &str) {
    let errors = errors(text);
    assert!(
        errors.iter().any(|e| e.path == path && e.message.contains(part)),
        "no error at {path:?} with {part:?} in {errors:#?}"
    );
}

#[test]
fn tracking() {
    for (text, tracking) in [
        ("", Tracking::Window),
        ("    balance: {}\n", Tracking::Window),
        ("    balance: {tracking: always}\n", Tracking::Always),
        ("    balance: {tracking: none}\n", Tracking::None),
    ] {
        let document = parse_document(web(text, &[]).as_bytes()).expect("good");
        assert_eq!(document.vips()[0].balance().tracking(), tracking, "{text}");
    }
    names(&web("    balance: {tracking: never}\n", &[]), "vips[0].balance.tracking", "never");
    names(&web("    balance: {trackin: none}\n", &[]), "vips[0].balance.trackin", "unknown field");
    let local = [("    mode: l2_direct\n    pool: web\n", "    mode: local\n")];
    names(&web("    balance: {tracking: always}\n", &local), "vips[0].balance", "local");
}
