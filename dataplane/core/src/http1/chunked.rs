//! Chunked transfer coding (RFC 9112 section 7.1).

use super::{BodyError, BodyStep, Limits};

/// Last chunk and empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Incremental decoder. Yields spans of data inside the caller's input; copies nothing but kept trailers.
#[derive(Clone, Debug, Default)]
pub struct ChunkedDecoder {
    trailers: Vec<u8>,
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Consumes some of `input` and tells what it was. Call again with the input behind
    /// [`BodyStep::consumed`] until [`BodyStep::More`] or [`BodyStep::End`].
    pub fn step(&mut self, input: &[u8], limits: &Limits) -> Result<BodyStep, BodyError> {
        let _ = (input, limits);
        unimplemented!()
    }

    /// Trailer field lines that may be forwarded, each `name: value\r\n`; complete after [`BodyStep::End`].
    /// Fields that must not stand in trailers (framing, routing, authentication, caching controls; RFC 9110
    /// section 6.5.1) were dropped.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }
}

/// Appends a chunk header, `len` in hexadecimal and CRLF. `len` is not 0: that would end the body.
pub fn write_chunk_header(len: usize, out: &mut Vec<u8>) {
    super::write_hex(len as u64, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk, `trailers` (as from [`ChunkedDecoder::trailers`], may be empty) and the empty line.
/// The CRLF that ends the data of the chunk before is the caller's.
pub fn write_chunk_end(trailers: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}
