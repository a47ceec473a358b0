//! Responses on their way to the client.

use super::{HttpDate, OutFraming, ProxyName, ResponseHead, Version};

/// The interim response that lets a client send its body.
pub const CONTINUE_100: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a forwarded response needs beside the parsed one.
#[derive(Clone, Copy, Debug)]
pub struct DownstreamContext<'a> {
    /// Us.
    pub name: &'a ProxyName,
    /// Version of the client's request.
    pub client: Version,
    /// As decided by [`super::downstream_framing`].
    pub framing: OutFraming,
    /// The client's connection stays open after this response. Ignored with [`OutFraming::UntilClose`].
    pub keep_alive: bool,
    /// Age instead of the one received, seconds; absent: the received one is passed on.
    pub age_s: Option<u64>,
    /// Now; sent if the response came without Date.
    pub date: &'a HttpDate,
    /// Fields left out, as [`super::FieldId::bit`]s.
    pub strip: u64,
    /// Field lines added, each with CRLF. Must be well-formed.
    pub extra: &'a [u8],
}

/// Appends the response head as sent to the client, with the empty line. An interim response (1xx) is written
/// with its fields only and must not be sent to an HTTP/1.0 client.
pub fn write_downstream_response(
    buf: &[u8],
    head: &ResponseHead,
    ctx: &DownstreamContext<'_>,
    out: &mut Vec<u8>,
) {
    let _ = (buf, head, ctx, out);
    unimplemented!()
}

/// Appends a whole error response with a small problem+json body (RFC 9457). `reason` is a stable name such as
/// [`super::RequestError::name`]. With `head_only` the body is left out, its length is not.
pub fn write_error(
    status: u16,
    reason: &str,
    close: bool,
    head_only: bool,
    date: &HttpDate,
    out: &mut Vec<u8>,
) {
    let _ = (status, reason, close, head_only, date, out);
    unimplemented!()
}

/// Appends the answer to an OPTIONS that ends here.
pub fn write_options_answer(keep_alive: bool, client: Version, date: &HttpDate, out: &mut Vec<u8>) {
    let _ = (keep_alive, client, date, out);
    unimplemented!()
}

/// Reason phrase of a status; `Unknown` if it has none.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        _ => "Unknown",
    }
}
