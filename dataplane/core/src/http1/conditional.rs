//! Conditional requests against a stored response (RFC 9110 section 13, RFC 9111 section 4.3.2).

use super::RequestHead;

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
    let _ = (head, buf, stored);
    unimplemented!()
}

/// Weak comparison of two entity tags (RFC 9110 section 8.8.3.2).
pub fn etag_matches(a: &[u8], b: &[u8]) -> bool {
    let _ = (a, b);
    unimplemented!()
}

/// Parses an HTTP-date in any of the three formats; seconds since 1970. Dates before are 0.
pub fn parse_http_date(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let when = httpdate::parse_http_date(text).ok()?;
    Some(when.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}
