//! Answers of our own, and the line that tells what the cache did (RFC 9211).

use sluice_core::http1::{HttpDate, write_decimal};

/// What the cache did for a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// From the store, fresh.
    Hit,
    /// From the store, stale as the request or `stale-while-revalidate` allows.
    HitStale,
    /// From the store, stale because nobody could be asked.
    HitOnError,
    /// Not stored; this request's fill stores it.
    MissStored,
    /// Not stored, and the response may not be.
    Miss,
    /// Not stored; shares another request's fill.
    Collapsed,
    /// Stored but stale; fetched anew.
    Stale,
    /// Stored but stale; a 304 made it fresh.
    Revalidated,
    /// Forwarded to the member that owns the key.
    Owner,
    /// The method is not cached.
    Method,
    /// The request asked not to be answered from a cache.
    Request,
    /// The route does not cache.
    Bypass,
}

const TEXT: [(Why, &str); 12] = [
    (Why::Hit, "; hit"),
    (Why::HitStale, "; hit; detail=stale"),
    (Why::HitOnError, "; hit; detail=stale-if-error"),
    (Why::MissStored, "; fwd=uri-miss; stored"),
    (Why::Miss, "; fwd=uri-miss"),
    (Why::Collapsed, "; fwd=uri-miss; collapsed"),
    (Why::Stale, "; fwd=stale; stored"),
    (Why::Revalidated, "; fwd=stale; fwd-status=304"),
    (Why::Owner, "; fwd=miss; detail=owner"),
    (Why::Method, "; fwd=method"),
    (Why::Request, "; fwd=request"),
    (Why::Bypass, "; fwd=bypass"),
];

/// `Cache-Status` lines, made once per name.
#[derive(Debug)]
pub struct CacheStatus {
    lines: Vec<Vec<u8>>,
}

impl CacheStatus {
    /// Lines that name the cache `name`; bytes that are not part of a token become `_`.
    pub fn new(name: &str) -> Self {
        let token: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' })
            .collect();
        // A structured-field token starts with a letter.
        let prefix = if token.starts_with(|c: char| c.is_ascii_alphabetic()) { "" } else { "n" };
        let mut lines = vec![Vec::new(); TEXT.len()];
        for (why, text) in TEXT {
            lines[why as usize] = format!("Cache-Status: {prefix}{token}{text}\r\n").into_bytes();
        }
        Self { lines }
    }

    /// The line, with CRLF.
    pub fn line(&self, why: Why) -> &[u8] {
        &self.lines[why as usize]
    }
}

/// Seconds after which a client told 503 may come again.
const RETRY_AFTER_S: u32 = 1;

/// Appends the answer of the health check of a proxy that serves.
pub(crate) fn write_health(keep: bool, head_only: bool, date: &HttpDate, out: &mut Vec<u8>) {
    write_text(b"HTTP/1.1 200 OK\r\n", b"ok\n", keep, head_only, date, out);
}

/// Appends a 503 that says when to come again.
pub(crate) fn write_unavailable(
    reason: &str,
    keep: bool,
    head_only: bool,
    date: &HttpDate,
    out: &mut Vec<u8>,
) {
    let head = format!("HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_AFTER_S}\r\n");
    let body = format!("{reason}\n");
    write_text(head.as_bytes(), body.as_bytes(), keep, head_only, date, out);
}

fn write_text(head: &[u8], body: &[u8], keep: bool, head_only: bool, date: &HttpDate, out: &mut Vec<u8>) {
    out.extend_from_slice(head);
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nContent-Length: ");
    write_decimal(body.len() as u64, out);
    let connection: &[u8] =
        if keep { b"\r\nConnection: keep-alive\r\n\r\n" } else { b"\r\nConnection: close\r\n\r\n" };
    out.extend_from_slice(connection);
    if !head_only {
        out.extend_from_slice(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_line() {
        let lines = CacheStatus::new("edge 1");
        for (why, text) in TEXT {
            assert_eq!(lines.line(why), format!("Cache-Status: edge_1{text}\r\n").as_bytes());
        }
        assert_eq!(CacheStatus::new("7").line(Why::Hit), b"Cache-Status: n7; hit\r\n");
    }
}
