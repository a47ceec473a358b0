//! Response heads.

use super::{
    BodyFraming, ConnectionOptions, FieldTable, Fields, Limits, Method, Parse, ResponseError, Span, Version,
};

/// A parsed response head. Reuse it as [`super::RequestHead`].
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// Status code, 100..=599.
    pub status: u16,
    /// Version.
    pub version: Version,
    /// Field lines.
    pub fields: FieldTable,
    /// How the body ends, given the method of the request.
    pub framing: BodyFraming,
    /// Content-Length as stated, also where no body follows (HEAD, 304).
    pub declared_length: Option<u64>,
    /// Connection options.
    pub connection: ConnectionOptions,
    /// The upstream connection can be used again once the body has ended.
    pub keep_alive: bool,
    pub(crate) reason: Span,
    /// A field name had whitespace before its colon, so lines are rewritten one by one.
    pub(crate) irregular: bool,
}

impl ResponseHead {
    /// An empty head.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a partial parse.
    pub fn reset(&mut self) {
        unimplemented!()
    }

    /// 1xx: another head follows on the same connection. 101 is refused by the parser.
    pub const fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Reason phrase, maybe empty.
    pub fn reason<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.reason.of(buf)
    }

    /// The fields with their bytes.
    pub fn fields<'a>(&'a self, buf: &'a [u8]) -> Fields<'a> {
        self.fields.view(buf)
    }
}

/// Parses a response head from the start of `buf`; `method` is that of the request it answers. Resumes as
/// [`super::parse_request`] does. An interim response ([`ResponseHead::is_interim`]) is complete by itself: parse
/// again behind it.
pub fn parse_response(
    buf: &[u8],
    limits: &Limits,
    method: Method,
    head: &mut ResponseHead,
) -> Result<Parse, ResponseError> {
    let _ = (buf, limits, method, head);
    unimplemented!()
}
