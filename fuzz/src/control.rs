//! Documents and lines of the control side.

use sluice_api::check::{check_set, limits::ERRORS_MAX, parse_document};
use sluice_api::placement::Document;
use sluice_api::proxy_admin::{Reply, Request};

/// A refusal names at least one field and at most as many as it may; what is accepted means the same when it
/// is written anew as JSON, and a set of it can be checked.
pub fn placement(data: &[u8]) {
    match parse_document(data) {
        Err(errors) => assert!(!errors.is_empty() && errors.len() <= ERRORS_MAX, "{} errors", errors.len()),
        Ok(document) => {
            assert!(document.generation() >= 1 && !document.name().is_empty());
            let raw: Document = match data.iter().find(|b| !b.is_ascii_whitespace()) {
                Some(b'{') => serde_json::from_slice(data).expect("accepted JSON"),
                _ => serde_norway::from_slice(data).expect("accepted YAML"),
            };
            let anew = serde_json::to_vec(&raw).expect("a document is JSON");
            let again = parse_document(&anew).expect("what was accepted is accepted when written anew");
            assert!(again.same_content(&document) && again.generation() == document.generation());
            if let Err(errors) = check_set([&document]) {
                assert!(!errors.is_empty());
            }
        }
    }
}

/// A line that parses is written as one line that means the same.
pub fn proxy_admin(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let line = serde_json::to_string(&request).expect("a request is JSON");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&line).expect("what was written"), request);
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(data) {
        let line = serde_json::to_string(&reply).expect("a reply is JSON");
        assert!(!line.contains('\n'));
        let again = serde_json::from_str::<Reply>(&line).expect("what was written");
        // Floats may lose a digit once; what was written once is stable.
        assert_eq!(serde_json::to_string(&again).expect("a reply is JSON"), line);
    }
}
