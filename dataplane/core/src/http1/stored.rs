//! Response heads in the store: serialised once, so that a hit appends only what changes.
//!
//! A stored head is a status line and field lines, each `name: value` or as received, each with CRLF, without
//! the empty line and without hop-by-hop, framing, Age, Trailer and connection fields. Via and Date are in it.

use super::respond::{
    OURS, write_age, write_connection, write_date, write_fields, write_framing, write_status_line,
};
use super::{FieldId, HttpDate, OutFraming, ProxyName, ResponseHead, Version, scan, write_decimal};

/// What a hit adds to its stored head.
#[derive(Clone, Copy, Debug)]
pub struct HitContext<'a> {
    /// Version of the client's request.
    pub client: Version,
    /// Framing; [`OutFraming::Length`] once the body is whole.
    pub framing: OutFraming,
    /// The client's connection stays open. Ignored with [`OutFraming::UntilClose`].
    pub keep_alive: bool,
    /// Current age (RFC 9111 section 4.2.3), seconds.
    pub age_s: u64,
    /// Field lines added, each with CRLF. Must be well-formed.
    pub extra: &'a [u8],
}

/// What a 304 carries of the stored fields (RFC 9110 section 15.4.5); Last-Modified only if there is no ETag.
const IN_304: u64 = FieldId::CacheControl.bit()
    | FieldId::ContentLocation.bit()
    | FieldId::Date.bit()
    | FieldId::Etag.bit()
    | FieldId::Expires.bit()
    | FieldId::Vary.bit()
    | FieldId::Via.bit()
    | FieldId::CdnCacheControl.bit()
    | FieldId::SurrogateControl.bit();

/// Room for what a hit appends.
const HIT_BYTES: usize = 160;

/// Appends `head` in stored form. `date` is when it was received, kept if it came without Date. `strip` are
/// fields left out, as [`FieldId::bit`]s.
pub fn write_stored_head(
    buf: &[u8],
    head: &ResponseHead,
    name: &ProxyName,
    date: &HttpDate,
    strip: u64,
    out: &mut Vec<u8>,
) {
    write_status_line(head.status, head.reason(buf), out);
    write_fields(buf, head, OURS | FieldId::Age.bit() | FieldId::Trailer.bit() | strip, out);
    name.write_via(head.fields(buf), head.version, out);
    if !head.fields.has(FieldId::Date) {
        write_date(date, out);
    }
}

/// Appends the stored form of `stored` freshened by the fields of a 304 (RFC 9111 section 3.2): a field of the
/// 304 replaces the stored ones of its name; framing and content fields stay as stored.
pub fn write_freshened_head(
    stored: &[u8],
    buf: &[u8],
    head: &ResponseHead,
    name: &ProxyName,
    date: &HttpDate,
    out: &mut Vec<u8>,
) {
    const KEPT: u64 = OURS
        | FieldId::Age.bit()
        | FieldId::Trailer.bit()
        | FieldId::ContentEncoding.bit()
        | FieldId::ContentType.bit()
        | FieldId::ContentRange.bit();
    let fresh = head.fields(buf);
    let status_end = status_line_end(stored);
    out.extend_from_slice(&stored[..status_end]);
    for (field, value, id) in stored_fields(stored) {
        let replaced = match id {
            FieldId::Via | FieldId::Date => true,
            FieldId::Other => fresh.named(field).next().is_some(),
            id => KEPT & id.bit() == 0 && head.fields.has(id),
        };
        if !replaced {
            super::copy::write_line(field, value, out);
        }
    }
    write_fields(buf, head, KEPT, out);
    name.write_via(fresh, head.version, out);
    if !head.fields.has(FieldId::Date) {
        write_date(date, out);
    }
}

/// Appends the head of a hit: the stored head, framing, Age, connection fields and the empty line.
#[inline]
pub fn write_hit(stored: &[u8], ctx: &HitContext<'_>, out: &mut Vec<u8>) {
    out.reserve(stored.len() + HIT_BYTES + ctx.extra.len());
    out.extend_from_slice(stored);
    write_framing(ctx.framing, out);
    write_tail(ctx, ctx.framing, out);
}

/// Appends a whole 304 made from a stored head (RFC 9110 section 15.4.5).
pub fn write_not_modified(stored: &[u8], ctx: &HitContext<'_>, out: &mut Vec<u8>) {
    write_status_line(304, b"Not Modified", out);
    let has_etag = stored_fields(stored).any(|(_, _, id)| id == FieldId::Etag);
    for (name, value, id) in stored_fields(stored) {
        if IN_304 & id.bit() != 0 || (id == FieldId::LastModified && !has_etag) {
            super::copy::write_line(name, value, out);
        }
    }
    write_tail(ctx, OutFraming::None, out);
}

/// Appends the head of a 206 for `start..end` of `len` stored bytes, or with `part` absent a whole 416.
/// [`HitContext::framing`] is ignored: the length is that of the part.
pub fn write_partial_hit(
    stored: &[u8],
    part: Option<(u64, u64)>,
    len: u64,
    ctx: &HitContext<'_>,
    out: &mut Vec<u8>,
) {
    let body = match part {
        Some((start, end)) => {
            write_status_line(206, b"Partial Content", out);
            out.extend_from_slice(&stored[status_line_end(stored)..]);
            out.extend_from_slice(b"Content-Range: bytes ");
            write_decimal(start, out);
            out.push(b'-');
            write_decimal(end.saturating_sub(1), out);
            out.push(b'/');
            end.saturating_sub(start)
        }
        None => {
            write_status_line(416, b"Range Not Satisfiable", out);
            for (name, value, id) in stored_fields(stored) {
                if matches!(id, FieldId::Date | FieldId::Via | FieldId::Vary) {
                    super::copy::write_line(name, value, out);
                }
            }
            out.extend_from_slice(b"Content-Range: bytes */");
            0
        }
    };
    write_decimal(len, out);
    out.extend_from_slice(b"\r\n");
    write_framing(OutFraming::Length(body), out);
    write_tail(ctx, OutFraming::Length(body), out);
}

#[inline]
fn write_tail(ctx: &HitContext<'_>, framing: OutFraming, out: &mut Vec<u8>) {
    write_age(ctx.age_s, out);
    write_connection(ctx.client, ctx.keep_alive, framing, out);
    out.extend_from_slice(ctx.extra);
    out.extend_from_slice(b"\r\n");
}

fn status_line_end(stored: &[u8]) -> usize {
    memchr::memchr(b'\n', stored).map_or(stored.len(), |i| i + 1)
}

/// Field lines of a stored head: name, value, id.
pub fn stored_fields(stored: &[u8]) -> impl Iterator<Item = (&[u8], &[u8], FieldId)> {
    let mut rest = &stored[status_line_end(stored)..];
    std::iter::from_fn(move || {
        let line_end = memchr::memchr(b'\n', rest)?;
        let line = rest[..line_end].strip_suffix(b"\r")?;
        rest = &rest[line_end + 1..];
        let colon = memchr::memchr(b':', line)?;
        let name = &line[..colon];
        Some((name, scan::trim(&line[colon + 1..]), scan::field_id(name)))
    })
}
