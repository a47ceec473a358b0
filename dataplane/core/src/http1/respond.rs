//! Responses on their way to the client (RFC 9110 section 7.6, RFC 9112 section 9).

use super::copy::{NamedFields, copy_kept};
use super::framing::HOP_BY_HOP;
use super::{FieldId, HttpDate, OutFraming, ProxyName, ResponseHead, Version, write_decimal};

/// The interim response that lets a client send its body.
pub const CONTINUE_100: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Methods answered here or forwarded; all but TRACE and CONNECT.
const ALLOW: &[u8] = b"Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n";

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
    /// Now; sent if the response came without Date (RFC 9110 section 6.6.1).
    pub date: &'a HttpDate,
    /// Fields left out, as [`super::FieldId::bit`]s.
    pub strip: u64,
    /// Field lines added, each with CRLF. Must be well-formed.
    pub extra: &'a [u8],
}

/// Never copied into a response, forwarded or stored.
pub(super) const OURS: u64 =
    HOP_BY_HOP | FieldId::ContentLength.bit() | FieldId::Via.bit() | FieldId::SluiceHop.bit();

/// What the lines written by us need at most, beside what is copied; more is fine, only slower.
const OWN_BYTES: usize = 256;

/// Appends the response head as sent to the client, with the empty line. An interim response (1xx) is written
/// without framing and connection fields and must not be sent to an HTTP/1.0 client.
pub fn write_downstream_response(
    buf: &[u8],
    head: &ResponseHead,
    ctx: &DownstreamContext<'_>,
    out: &mut Vec<u8>,
) {
    let mut drop = OURS | ctx.strip;
    if ctx.age_s.is_some() {
        drop |= FieldId::Age.bit();
    }
    if ctx.framing != OutFraming::Chunked {
        drop |= FieldId::Trailer.bit(); // announces trailers that only a chunked body can have
    }
    out.reserve(head.fields_end + OWN_BYTES);
    write_status_line(head.status, head.reason(buf), out);
    write_fields(buf, head, drop, out);
    ctx.name.write_via(head.fields(buf), head.version, out);
    if !head.is_interim() {
        if !head.fields.has(FieldId::Date) {
            write_date(ctx.date, out);
        }
        if let Some(age_s) = ctx.age_s {
            write_age(age_s, out);
        }
        write_framing(ctx.framing, out);
        write_connection(ctx.client, ctx.keep_alive, ctx.framing, out);
    }
    out.extend_from_slice(ctx.extra);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_fields(buf: &[u8], head: &ResponseHead, drop: u64, out: &mut Vec<u8>) {
    let named = NamedFields::of(head.fields(buf), head.connection.names_fields);
    copy_kept(buf, &head.fields, head.fields_end, drop, &named, head.irregular, out);
}

/// Appends a status line with our version and the given reason phrase.
#[inline]
pub(super) fn write_status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub(super) fn write_framing(framing: OutFraming, out: &mut Vec<u8>) {
    match framing {
        OutFraming::Length(n) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(n, out);
            out.extend_from_slice(b"\r\n");
        }
        OutFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        OutFraming::None | OutFraming::UntilClose => {}
    }
}

/// Only what the client's version does not take for granted.
#[inline]
pub(super) fn write_connection(client: Version, keep_alive: bool, framing: OutFraming, out: &mut Vec<u8>) {
    match (client, keep_alive && framing != OutFraming::UntilClose) {
        (Version::Http11, true) => {}
        (Version::Http10, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (_, false) => out.extend_from_slice(b"Connection: close\r\n"),
    }
}

#[inline]
pub(super) fn write_age(age_s: u64, out: &mut Vec<u8>) {
    /// Age is capped where recipients may overflow (RFC 9111 section 1.2.2).
    const AGE_MAX_S: u64 = 1 << 31;
    out.extend_from_slice(b"Age: ");
    write_decimal(age_s.min(AGE_MAX_S), out);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_date(date: &HttpDate, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole error response with a small problem+json body (RFC 9457). `reason` is a stable name such as
/// [`super::RequestError::name`]: letters, digits and `_` only, others become `_`. With `head_only` the body is
/// left out, its length is not. No answer tells an HTTP/1.0 client to stay: with `close` false it may go by itself.
pub fn write_error(
    status: u16,
    reason: &str,
    close: bool,
    head_only: bool,
    date: &HttpDate,
    out: &mut Vec<u8>,
) {
    let title = reason_phrase(status);
    write_status_line(status, title.as_bytes(), out);
    write_date(date, out);
    if status == 405 {
        out.extend_from_slice(ALLOW);
    }
    if status == 204 || status == 304 {
        // No body by rule, so no problem document either.
        out.extend_from_slice(if close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
        return;
    }
    out.extend_from_slice(
        b"Content-Type: application/problem+json\r\nCache-Control: no-store\r\nContent-Length: ",
    );
    let fixed = "{\"title\":\"\",\"status\":,\"detail\":\"\"}\n".len();
    write_decimal((fixed + title.len() + 3 + reason.len()) as u64, out);
    out.extend_from_slice(if close { b"\r\nConnection: close\r\n\r\n" } else { b"\r\n\r\n" });
    if head_only {
        return;
    }
    out.extend_from_slice(b"{\"title\":\"");
    out.extend_from_slice(title.as_bytes());
    out.extend_from_slice(b"\",\"status\":");
    write_decimal(u64::from(status), out);
    out.extend_from_slice(b",\"detail\":\"");
    out.extend(reason.bytes().map(|b| if b.is_ascii_alphanumeric() { b } else { b'_' }));
    out.extend_from_slice(b"\"}\n");
}

/// Appends the answer to an OPTIONS that ends here.
pub fn write_options_answer(keep_alive: bool, client: Version, date: &HttpDate, out: &mut Vec<u8>) {
    write_status_line(204, b"No Content", out);
    write_date(date, out);
    out.extend_from_slice(ALLOW);
    write_connection(client, keep_alive, OutFraming::None, out);
    out.extend_from_slice(b"\r\n");
}

/// Reason phrase of a status (IANA registry); `Unknown` if it has none.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "Unknown",
    }
}
