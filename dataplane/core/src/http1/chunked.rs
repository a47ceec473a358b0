//! Chunked transfer coding (RFC 9112 section 7.1).
//!
//! ```text
//! Size -> (Ext ->)* SizeLf -> Data -> DataCr -> DataLf -> Size ...
//!                      \ size 0 -> TrailerLine ... -> End
//! ```

use super::field::FieldId;
use super::scan;
use super::{BodyError, BodyStep, Limits};

/// Last chunk and empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// 15 hexadecimal digits are 2^60 bytes; 16 would let sizes reach the sign bit that careless peers read.
const SIZE_DIGITS_MAX: u8 = 15;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the digits of a chunk size.
    #[default]
    Size,
    Ext(Ext),
    /// CR of the chunk line seen.
    SizeLf,
    Data,
    /// Data complete, CR expected.
    DataCr,
    DataLf,
    /// In a trailer line (held in `line`).
    Trailer,
    /// CR of a trailer line seen.
    TrailerLf,
    End,
}

/// Inside a chunk extension: `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`. Whitespace before
/// the first `;` is refused: it cannot be told from a padded size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ext {
    /// Behind `;`.
    BeforeName,
    Name,
    /// Whitespace behind a name or value.
    AfterName,
    /// Behind `=`.
    BeforeValue,
    Value,
    Quoted,
    QuotedPair,
    /// Right behind the closing quote.
    QuotedEnd,
    AfterValue,
}

/// Incremental decoder. Yields spans of data inside the caller's input; copies nothing but trailers.
#[derive(Clone, Debug, Default)]
pub struct ChunkedDecoder {
    state: State,
    digits: u8,
    /// Size being read, then bytes of data left.
    size: u64,
    /// Bytes of data in the chunks so far.
    total: u64,
    line_bytes: usize,
    ext_bytes: usize,
    trailer_bytes: usize,
    trailer_count: usize,
    line: Vec<u8>,
    trailers: Vec<u8>,
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Consumes some of `input` and tells what it was. Call again with the input behind
    /// [`BodyStep::consumed`] until [`BodyStep::More`] or [`BodyStep::End`]. After an error the decoder must not
    /// be used again.
    pub fn step(&mut self, input: &[u8], limits: &Limits) -> Result<BodyStep, BodyError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data => return Ok(self.take_data(input, at)),
                State::Size | State::Ext(_) => self.chunk_line(byte, limits)?,
                State::SizeLf => self.chunk_line_end(byte, limits)?,
                State::DataCr if byte == b'\r' => self.state = State::DataLf,
                State::DataLf if byte == b'\n' => self.start_chunk(),
                State::DataCr | State::DataLf => return Err(BodyError::ChunkDataEnd),
                State::Trailer | State::TrailerLf => self.trailer_byte(byte, limits)?,
                State::End => return Ok(BodyStep::End { consumed: at }),
            }
            at += 1;
        }
        match self.state {
            State::End => Ok(BodyStep::End { consumed: at }),
            _ => Ok(BodyStep::More),
        }
    }

    /// Trailer field lines that may be forwarded, each `name: value\r\n`; complete after [`BodyStep::End`].
    /// Fields that must not stand in trailers (framing, routing, authentication, caching controls; RFC 9110
    /// section 6.5.1) were dropped.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// The last chunk and the trailers have been read.
    pub fn is_ended(&self) -> bool {
        self.state == State::End
    }

    fn start_chunk(&mut self) {
        self.state = State::Size;
        self.digits = 0;
        self.size = 0;
        self.line_bytes = 0;
    }

    fn take_data(&mut self, input: &[u8], start: usize) -> BodyStep {
        let here = input.len() - start;
        let n = usize::try_from(self.size).map_or(here, |left| left.min(here));
        self.size -= n as u64;
        if self.size == 0 {
            self.state = State::DataCr;
        }
        BodyStep::Data { start, end: start + n }
    }

    fn chunk_line(&mut self, byte: u8, limits: &Limits) -> Result<(), BodyError> {
        self.line_bytes += 1;
        if self.line_bytes + 1 > limits.chunk_line_bytes {
            return Err(BodyError::ChunkLineTooLong);
        }
        let (before, after) = match self.state {
            State::Ext(ext) => (true, extension(ext, byte)?),
            _ => (false, self.size_byte(byte)?),
        };
        if before || matches!(after, State::Ext(_)) {
            self.ext_bytes += 1;
            if self.ext_bytes > limits.chunk_ext_bytes {
                return Err(BodyError::ChunkExtensionsTooLarge);
            }
        }
        self.state = after;
        Ok(())
    }

    fn size_byte(&mut self, byte: u8) -> Result<State, BodyError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.digits > 0 => return Ok(State::SizeLf),
            b';' if self.digits > 0 => return Ok(State::Ext(Ext::BeforeName)),
            b'\n' if self.digits > 0 => return Err(BodyError::BareLf),
            _ => return Err(BodyError::InvalidChunkSize),
        };
        if self.digits == SIZE_DIGITS_MAX {
            return Err(BodyError::ChunkSizeOverflow);
        }
        self.digits += 1;
        self.size = self.size << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn chunk_line_end(&mut self, byte: u8, limits: &Limits) -> Result<(), BodyError> {
        if byte != b'\n' {
            return Err(BodyError::BareCr);
        }
        // Sizes are below 2^60, and the sum was at most the limit before: no overflow below 2^63 + 2^60.
        self.total = self.total.saturating_add(self.size);
        if self.total > limits.content_length {
            return Err(BodyError::BodyTooLarge);
        }
        self.state = if self.size == 0 { State::Trailer } else { State::Data };
        Ok(())
    }

    fn trailer_byte(&mut self, byte: u8, limits: &Limits) -> Result<(), BodyError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > limits.trailer_bytes {
            return Err(BodyError::TrailersTooLarge);
        }
        match (self.state, byte) {
            (State::TrailerLf, b'\n') if self.line.is_empty() => self.state = State::End,
            (State::TrailerLf, b'\n') => {
                self.trailer_count += 1;
                if self.trailer_count > limits.trailer_fields {
                    return Err(BodyError::TooManyTrailers);
                }
                self.keep_trailer()?;
                self.line.clear();
                self.state = State::Trailer;
            }
            (State::TrailerLf, _) => return Err(BodyError::BareCr),
            (_, b'\r') => self.state = State::TrailerLf,
            (_, b'\n') => return Err(BodyError::BareLf),
            (_, byte) => self.line.push(byte),
        }
        Ok(())
    }

    /// Checks the trailer line in `line` and keeps it if it may be forwarded.
    fn keep_trailer(&mut self) -> Result<(), BodyError> {
        let colon = self.line.iter().position(|&b| b == b':').ok_or(BodyError::InvalidTrailer)?;
        let (name, value) = (&self.line[..colon], scan::trim(&self.line[colon + 1..]));
        if !scan::is_token_str(name) || !value.iter().all(|&b| scan::is_value(b)) {
            return Err(BodyError::InvalidTrailer);
        }
        if may_be_trailer(name) {
            self.trailers.extend_from_slice(name);
            self.trailers.extend_from_slice(b": ");
            self.trailers.extend_from_slice(value);
            self.trailers.extend_from_slice(b"\r\n");
        }
        Ok(())
    }
}

/// Recipients merge trailers into the head at their peril. Every name that steers anything here is known, so
/// only unknown names pass, and of those none of the families that other software trusts.
fn may_be_trailer(name: &[u8]) -> bool {
    const FAMILIES: [&[u8]; 5] = [b"proxy-", b"x-forwarded-", b"x-real-", b"if-", b"access-control-"];
    let in_family = |family: &&[u8]| name.get(..family.len()).is_some_and(|p| p.eq_ignore_ascii_case(family));
    scan::field_id(name) == FieldId::Other && !FAMILIES.iter().any(in_family)
}

/// Next state behind one byte of a chunk extension.
fn extension(ext: Ext, byte: u8) -> Result<State, BodyError> {
    let next = match (ext, byte) {
        (Ext::BeforeName | Ext::BeforeValue | Ext::AfterName | Ext::AfterValue, b' ' | b'\t') => ext,
        (Ext::BeforeName | Ext::Name, b) if scan::is_token(b) => Ext::Name,
        (Ext::BeforeValue | Ext::Value, b) if scan::is_token(b) => Ext::Value,
        (Ext::Name, b' ' | b'\t') => Ext::AfterName,
        (Ext::Value | Ext::QuotedEnd, b' ' | b'\t') => Ext::AfterValue,
        (Ext::Name | Ext::AfterName, b'=') => Ext::BeforeValue,
        (Ext::BeforeValue, b'"') => Ext::Quoted,
        (Ext::Quoted, b'"') => Ext::QuotedEnd,
        (Ext::Quoted, b'\\') => Ext::QuotedPair,
        (Ext::Quoted | Ext::QuotedPair, b) if scan::is_value(b) => Ext::Quoted,
        (Ext::Name | Ext::AfterName | Ext::Value | Ext::QuotedEnd | Ext::AfterValue, b';') => Ext::BeforeName,
        // Whitespace behind the last extension is no part of the grammar.
        (Ext::Name | Ext::Value | Ext::QuotedEnd, b'\r') => return Ok(State::SizeLf),
        (_, b'\n') => return Err(BodyError::BareLf),
        _ => return Err(BodyError::InvalidChunkExtension),
    };
    Ok(State::Ext(next))
}

/// Appends a chunk header, `len` in hexadecimal and CRLF. `len` is not 0: that would end the body.
pub fn write_chunk_header(len: usize, out: &mut Vec<u8>) {
    debug_assert!(len > 0);
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
