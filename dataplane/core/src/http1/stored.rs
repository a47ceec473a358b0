//! Response heads in the store: serialised once, so that a hit appends only what changes.
//!
//! A stored head is a status line and field lines, each with CRLF, without the empty line and without
//! hop-by-hop, framing, Age and connection fields. Via and Date are in it.

use super::{FieldId, HttpDate, OutFraming, ProxyName, ResponseHead, Version};

/// What a hit adds to its stored head.
#[derive(Clone, Copy, Debug)]
pub struct HitContext<'a> {
    /// Version of the client's request.
    pub client: Version,
    /// Framing; [`OutFraming::Length`] once the body is whole.
    pub framing: OutFraming,
    /// The client's connection stays open.
    pub keep_alive: bool,
    /// Current age (RFC 9111 section 4.2.3), seconds.
    pub age_s: u64,
    /// Field lines added, each with CRLF. Must be well-formed.
    pub extra: &'a [u8],
}

/// Appends `head` in stored form.
pub fn write_stored_head(
    buf: &[u8],
    head: &ResponseHead,
    name: &ProxyName,
    date: &HttpDate,
    out: &mut Vec<u8>,
) {
    let _ = (buf, head, name, date, out);
    unimplemented!()
}

/// Appends the head of a hit: the stored head, framing, Age, connection fields and the empty line.
pub fn write_hit(stored: &[u8], ctx: &HitContext<'_>, out: &mut Vec<u8>) {
    let _ = (stored, ctx, out);
    unimplemented!()
}

/// Appends a whole 304 made from a stored head (RFC 9110 section 15.4.5).
pub fn write_not_modified(stored: &[u8], ctx: &HitContext<'_>, out: &mut Vec<u8>) {
    let _ = (stored, ctx, out);
    unimplemented!()
}

/// Appends the head of a 206 for `start..end` of `len` stored bytes, or with `part` absent of a whole 416.
/// [`HitContext::framing`] is ignored: the length is that of the part.
pub fn write_partial_hit(
    stored: &[u8],
    part: Option<(u64, u64)>,
    len: u64,
    ctx: &HitContext<'_>,
    out: &mut Vec<u8>,
) {
    let _ = (stored, part, len, ctx, out);
    unimplemented!()
}

/// Field lines of a stored head: name, value, id.
pub fn stored_fields(stored: &[u8]) -> impl Iterator<Item = (&[u8], &[u8], FieldId)> {
    let _ = stored;
    std::iter::empty()
}
