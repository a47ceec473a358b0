//! HTTP/1.1 messages: parsing, framing, rewriting (RFC 9110, RFC 9112).
//!
//! Owns the message layer of the proxy: bytes in, spans and decisions out. Runs on the worker thread that owns
//! the connection; nothing here blocks, reads a clock or allocates per request (head structs are reused and
//! keep their capacity).
//!
//! What must stay true:
//! * All offsets in a head are relative to the start of the slice given to the parser. After
//!   [`Parse::Partial`] call again with the same bytes and more behind them (they may have moved in memory) and
//!   the same head; the work done is not done again.
//! * Framing is never copied. A message leaves with framing regenerated from the parsed [`BodyFraming`], so a
//!   message with two readings is either refused on the way in or has one reading on the way out.
//! * A result depends only on the bytes, never on how they were split.
//!
//! ```text
//! bytes -> parse_request  -> RequestHead  -> write_upstream_request    -> bytes
//!       -> parse_response -> ResponseHead -> write_downstream_response -> bytes
//!                                         -> write_stored_head -> store -> write_hit -> bytes
//! body  -> BodyDecoder (Length | Chunked | UntilClose) -> spans of data
//! ```

mod body;
mod chunked;
mod conditional;
mod copy;
mod error;
mod field;
mod framing;
mod host;
mod policy;
mod range;
mod request;
mod respond;
mod response;
mod rewrite;
mod scan;
mod section;
mod stored;
mod text;

pub use body::{BodyDecoder, BodyStep};
pub use chunked::{ChunkedDecoder, LAST_CHUNK, write_chunk_end, write_chunk_header};
pub use conditional::{Conditional, Validators, etag_matches, evaluate_conditional, parse_http_date};
pub use error::{BodyError, RequestError, ResponseError};
pub use field::{Field, FieldId, FieldTable, Fields, Span};
pub use framing::{BodyFraming, ConnectionOptions, OutFraming, downstream_framing};
pub use host::normalise_authority;
pub use policy::{LocalAnswer, expects_continue, local_answer};
pub use range::{RangeOutcome, evaluate_range};
pub use request::{Method, RequestHead, TargetForm, Version, parse_request};
pub use respond::{
    CONTINUE_100, DownstreamContext, reason_phrase, write_downstream_response, write_error,
    write_options_answer,
};
pub use response::{ResponseHead, parse_response};
pub use rewrite::{ClientAddr, ForwardedPolicy, ProxyName, UpstreamContext, write_upstream_request};
pub use stored::{
    HitContext, stored_fields, write_freshened_head, write_hit, write_not_modified, write_partial_hit,
    write_stored_head,
};
pub use text::{HttpDate, write_decimal, write_hex};

/// Result of parsing a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse {
    /// More bytes are needed.
    Partial,
    /// The head ends at `head_len`; body bytes follow there.
    Complete {
        /// Bytes from the start of the input to the first byte after the empty line.
        head_len: usize,
    },
}

/// Size limits of one message. Each limit has an error of its own, so each can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head with its empty line, at most [`Limits::HEAD_BYTES_CEILING`].
    pub head_bytes: usize,
    /// Bytes of the request line with its CRLF.
    pub request_line_bytes: usize,
    /// Field lines in a head, at most [`Limits::FIELDS_CEILING`].
    pub fields: usize,
    /// Value of a request's Content-Length.
    pub content_length: u64,
    /// Bytes of one chunk-size line with its extensions and CRLF.
    pub chunk_line_bytes: usize,
    /// Bytes of chunk extensions in one body, all chunks together.
    pub chunk_ext_bytes: usize,
    /// Bytes of a trailer section with its empty line.
    pub trailer_bytes: usize,
    /// Field lines in a trailer section.
    pub trailer_fields: usize,
}

impl Limits {
    /// Spans hold 16-bit offsets, so no head is longer.
    pub const HEAD_BYTES_CEILING: usize = 65_535;
    /// Field indexes are 8 bits wide.
    pub const FIELDS_CEILING: usize = 255;
    /// Defaults: 32 KiB of head hold the largest cookies that browsers send (80 cookies of 4 KiB are refused by
    /// every public server too); 8 KiB of request line is what RFC 9112 section 3 asks servers to support
    /// (8,000 octets); 128 fields are twice what Apache allows by default and four times what browsers send.
    pub const DEFAULT: Limits = Limits {
        head_bytes: 32 << 10,
        request_line_bytes: 8 << 10,
        fields: 128,
        content_length: i64::MAX as u64,
        chunk_line_bytes: 1 << 10,
        chunk_ext_bytes: 16 << 10,
        trailer_bytes: 8 << 10,
        trailer_fields: 32,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
