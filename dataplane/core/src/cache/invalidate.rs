//! Invalidation by unsafe methods (RFC 9111 section 4.4).

use super::FieldSource;
use crate::http1::{FieldId, Method};

/// A response with this status to a request with this method invalidates what is stored for its target.
/// Methods not known to be safe count as unsafe.
pub fn invalidates(method: Method, status: u16) -> bool {
    let safe = matches!(method, Method::Get | Method::Head | Method::Options | Method::Trace);
    !safe && (200..400).contains(&status)
}

/// Other targets on the same host that the response names in Location and Content-Location: path and query.
///
/// A URI of another origin is left alone, as section 4.4 demands. `host` is the normalised host of the request,
/// with the port if that is not the default one.
pub fn invalidation_targets<R: FieldSource + ?Sized>(
    response: &R,
    scheme: &str,
    host: &[u8],
) -> Vec<Vec<u8>> {
    let mut targets = Vec::new();
    for id in [FieldId::Location, FieldId::ContentLocation] {
        response.each(id, &mut |value| {
            if let Some(target) = same_origin_target(value, scheme, host) {
                targets.push(target);
            }
        });
    }
    targets
}

/// Path and query of a reference if it is absolute and of this origin, or an absolute path.
fn same_origin_target(value: &[u8], scheme: &str, host: &[u8]) -> Option<Vec<u8>> {
    let value = value.split(|b| *b == b'#').next()?;
    if value.starts_with(b"//") {
        return after_authority(&value[2..], host);
    }
    if value.starts_with(b"/") {
        return Some(value.to_vec());
    }
    let (prefix, rest) = value.split_at_checked(scheme.len())?;
    let rest = rest.strip_prefix(b"://")?;
    prefix.eq_ignore_ascii_case(scheme.as_bytes()).then(|| after_authority(rest, host))?
}

fn after_authority(rest: &[u8], host: &[u8]) -> Option<Vec<u8>> {
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if !authority.eq_ignore_ascii_case(host) {
        return None;
    }
    if target.starts_with(b"/") { Some(target.to_vec()) } else { Some([b"/", target].concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_and_unknown_methods_with_a_good_status() {
        assert!(invalidates(Method::Post, 200) && invalidates(Method::Delete, 303));
        assert!(!invalidates(Method::Post, 404) && !invalidates(Method::Get, 200));
        assert!(!invalidates(Method::Head, 200) && !invalidates(Method::Options, 204));
    }

    #[test]
    fn only_targets_of_the_same_origin() {
        let targets = |location: &str| {
            invalidation_targets([("location", location)].as_slice(), "http", b"a.example")
                .iter()
                .map(|t| String::from_utf8_lossy(t).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(targets("/x?y#z"), ["/x?y"]);
        assert_eq!(targets("HTTP://A.example/x"), ["/x"]);
        assert_eq!(targets("http://a.example?q"), ["/?q"]);
        assert_eq!(targets("//a.example"), ["/"]);
        assert_eq!(targets("https://a.example/x"), [""; 0]);
        assert_eq!(targets("http://a.example.evil/x"), [""; 0]);
        assert_eq!(targets("x/y"), [""; 0], "relative references are not resolved");
    }
}
