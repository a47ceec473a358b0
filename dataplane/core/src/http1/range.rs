//! Range requests on stored bodies (RFC 9110 section 14).

use super::conditional::{etag_matches_strongly, parse_http_date};
use super::{FieldId, Method, RequestHead, Validators};

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeOutcome {
    /// The whole body with 200: no Range, a unit other than bytes, several ranges, malformed, or If-Range does
    /// not match. All of them are a server's right (RFC 9110 section 14.2); several ranges are refused so that
    /// no request can ask for more bytes than the body has.
    Whole,
    /// `start..end` of the body with 206.
    Part {
        /// First byte.
        start: u64,
        /// First byte behind the part.
        end: u64,
    },
    /// 416 with `Content-Range: bytes */len`.
    Unsatisfiable,
}

/// Evaluates Range and If-Range of a GET against a stored body of `len` bytes. Preconditions come first
/// ([`super::evaluate_conditional`]).
pub fn evaluate_range(head: &RequestHead, buf: &[u8], len: u64, stored: &Validators<'_>) -> RangeOutcome {
    if !head.fields.has(FieldId::Range)
        || head.fields.is_repeated(FieldId::Range)
        || head.method != Method::Get
    {
        return RangeOutcome::Whole;
    }
    let fields = head.fields(buf);
    if let Some(condition) = fields.get(FieldId::IfRange)
        && (head.fields.is_repeated(FieldId::IfRange) || !if_range_matches(condition, stored))
    {
        return RangeOutcome::Whole;
    }
    fields.get(FieldId::Range).and_then(|value| byte_range(value, len)).unwrap_or(RangeOutcome::Whole)
}

/// `None`: ignore the field.
fn byte_range(value: &[u8], len: u64) -> Option<RangeOutcome> {
    let (unit, spec) = value.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let dash = spec.iter().position(|&b| b == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        let suffix = number(last)?.min(len);
        return Some(match suffix {
            0 => RangeOutcome::Unsatisfiable,
            _ => RangeOutcome::Part { start: len - suffix, end: len },
        });
    }
    let start = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < start {
        return None;
    }
    if start >= len {
        return Some(RangeOutcome::Unsatisfiable);
    }
    Some(RangeOutcome::Part { start, end: last.saturating_add(1).min(len) })
}

/// Digits only; too large ones count as the largest.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |n: u64, &d| n.saturating_mul(10).saturating_add(u64::from(d - b'0'))))
}

/// RFC 9110 section 13.1.5: strong comparison; a date counts only if it is the stored one and that is strong,
/// which takes a Date at least a second later (section 8.8.2.2).
fn if_range_matches(condition: &[u8], stored: &Validators<'_>) -> bool {
    if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
        return stored.etag.is_some_and(|etag| etag_matches_strongly(condition, etag));
    }
    match (parse_http_date(condition), stored.last_modified_s, stored.date_s) {
        (Some(condition), Some(modified), Some(date)) => condition == modified && date > modified,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{RangeOutcome, byte_range};

    #[test]
    fn single_ranges() {
        let part = |start, end| Some(RangeOutcome::Part { start, end });
        let table: &[(&str, u64, Option<RangeOutcome>)] = &[
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=0-9", 10, part(0, 10)),
            ("bytes=0-99", 10, part(0, 10)),
            ("Bytes=3-", 10, part(3, 10)),
            ("bytes=-3", 10, part(7, 10)),
            ("bytes=-30", 10, part(0, 10)),
            ("bytes=9-18446744073709551616", 10, part(9, 10)),
            ("bytes=10-", 10, Some(RangeOutcome::Unsatisfiable)),
            ("bytes=99999999999999999999999-", 10, Some(RangeOutcome::Unsatisfiable)),
            ("bytes=-0", 10, Some(RangeOutcome::Unsatisfiable)),
            ("bytes=0-", 0, Some(RangeOutcome::Unsatisfiable)),
            ("bytes=5-4", 10, None),
            ("bytes=0-1,3-4", 10, None),
            ("bytes= 0-1", 10, None),
            ("bytes=+0-1", 10, None),
            ("bytes=--1", 10, None),
            ("bytes=-", 10, None),
            ("bytes=", 10, None),
            ("items=0-1", 10, None),
            ("bytes", 10, None),
        ];
        for &(value, len, expected) in table {
            assert_eq!(byte_range(value.as_bytes(), len), expected, "{value} of {len}");
        }
    }
}
