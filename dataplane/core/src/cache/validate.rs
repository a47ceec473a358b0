//! Freshening a stored response by a 304 (RFC 9111 section 4.3.4).

use super::FieldSource;
use crate::http1::FieldId;

/// Does a 304 belong to the stored response it was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotModified {
    /// It does: the stored fields are updated, its lifetime starts anew.
    Freshens,
    /// It names another representation: the stored response must not be used for it, fetch again without
    /// conditions.
    Other,
}

/// Compares the validators of a 304 with those stored.
///
/// A strong validator in the 304 must be the stored one; a weak one must match weakly; one that names none
/// belongs to the response that was asked about, for one condition is sent for one stored response.
pub fn not_modified_matches<S, R>(stored: &S, not_modified: &R) -> NotModified
where
    S: FieldSource + ?Sized,
    R: FieldSource + ?Sized,
{
    let answer = |matches| if matches { NotModified::Freshens } else { NotModified::Other };
    if let Some(new) = first(not_modified, FieldId::Etag) {
        let Some(old) = first(stored, FieldId::Etag) else { return NotModified::Other };
        let strong = !new.starts_with(b"W/");
        return answer(if strong { old == new } else { opaque(&old) == opaque(&new) });
    }
    match (first(stored, FieldId::LastModified), first(not_modified, FieldId::LastModified)) {
        (Some(old), Some(new)) => answer(old == new),
        _ => NotModified::Freshens,
    }
}

fn first<F: FieldSource + ?Sized>(fields: &F, id: FieldId) -> Option<Vec<u8>> {
    let mut found = None;
    fields.each(id, &mut |value| {
        found.get_or_insert_with(|| value.to_vec());
    });
    found
}

fn opaque(etag: &[u8]) -> &[u8] {
    etag.strip_prefix(b"W/").unwrap_or(etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_are_matched_strong_first() {
        let verdict = |stored: &[(&str, &str)], new: &[(&str, &str)]| not_modified_matches(stored, new);
        let stored: &[_] = &[("etag", "\"a\""), ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")];
        assert_eq!(verdict(stored, &[]), NotModified::Freshens);
        assert_eq!(verdict(stored, &[("etag", "\"a\"")]), NotModified::Freshens);
        assert_eq!(verdict(stored, &[("etag", "W/\"a\"")]), NotModified::Freshens);
        assert_eq!(verdict(stored, &[("etag", "\"b\"")]), NotModified::Other);
        assert_eq!(verdict(&[], &[("etag", "\"b\"")]), NotModified::Other);
        assert_eq!(verdict(&[("etag", "W/\"a\"")], &[("etag", "\"a\"")]), NotModified::Other);
        let newer: &[_] = &[("last-modified", "Tue, 02 Jan 2024 00:00:00 GMT")];
        assert_eq!(verdict(stored, newer), NotModified::Other);
    }
}
