//! Conditional requests against a stored response (RFC 9110 section 13, RFC 9111 section 4.3.2).

use super::scan;
use super::{FieldId, Method, RequestHead};

/// Validators of a stored response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validators<'a> {
    /// ETag as stored, with quotes and `W/`.
    pub etag: Option<&'a [u8]>,
    /// Last-Modified, seconds since 1970.
    pub last_modified_s: Option<u64>,
    /// Date, seconds since 1970.
    pub date_s: Option<u64>,
}

/// What the preconditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// Answer as if unconditional.
    Proceed,
    /// Answer 304.
    NotModified,
}

/// Evaluates If-None-Match, else If-Modified-Since, of a GET or HEAD. If-Match and If-Unmodified-Since are the
/// origin's (RFC 9110 section 13.1.1): requests that carry them are not for a cache to answer.
pub fn evaluate_conditional(head: &RequestHead, buf: &[u8], stored: &Validators<'_>) -> Conditional {
    const CONDITIONS: u64 = FieldId::IfNoneMatch.bit() | FieldId::IfModifiedSince.bit();
    if head.fields.present() & CONDITIONS == 0 || !matches!(head.method, Method::Get | Method::Head) {
        return Conditional::Proceed;
    }
    let fields = head.fields(buf);
    let not_modified = if head.fields.has(FieldId::IfNoneMatch) {
        // If-Modified-Since is ignored beside it (RFC 9110 section 13.1.3).
        fields.all(FieldId::IfNoneMatch).any(|value| {
            value == b"*"
                || stored.etag.is_some_and(|etag| EntityTags(value).any(|tag| etag_matches(tag, etag)))
        })
    } else {
        let since = fields.get(FieldId::IfModifiedSince).and_then(parse_http_date);
        let modified = stored.last_modified_s.or(stored.date_s);
        !head.fields.is_repeated(FieldId::IfModifiedSince)
            && matches!((since, modified), (Some(since), Some(modified)) if modified <= since)
    };
    if not_modified { Conditional::NotModified } else { Conditional::Proceed }
}

/// Weak comparison of two entity tags (RFC 9110 section 8.8.3.2).
pub fn etag_matches(a: &[u8], b: &[u8]) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).starts_with(b"\"");
    opaque(a) && a.strip_prefix(b"W/").unwrap_or(a) == b.strip_prefix(b"W/").unwrap_or(b)
}

/// Strong comparison of two entity tags.
pub(super) fn etag_matches_strongly(a: &[u8], b: &[u8]) -> bool {
    a.starts_with(b"\"") && a == b
}

/// Entity tags of a list. Ends at the first malformed member.
struct EntityTags<'a>(&'a [u8]);

impl<'a> Iterator for EntityTags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let [b',' | b' ' | b'\t', tail @ ..] = rest {
            rest = tail;
        }
        let weak = if rest.starts_with(b"W/") { 2 } else { 0 };
        self.0 = b"";
        if rest.get(weak) != Some(&b'"') {
            return None;
        }
        // No escapes in entity tags: a backslash is a character like others.
        let close = memchr::memchr(b'"', &rest[weak + 1..])?;
        let (tag, tail) = rest.split_at(weak + close + 2);
        if matches!(scan::trim(tail), [] | [b',', ..]) {
            self.0 = tail;
        }
        Some(tag)
    }
}

/// Parses an HTTP-date in any of the three formats; seconds since 1970. Dates before are 0.
pub fn parse_http_date(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let when = httpdate::parse_http_date(text).ok()?;
    Some(when.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}
