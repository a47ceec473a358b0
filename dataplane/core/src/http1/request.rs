//! Request heads.

use super::{BodyFraming, ConnectionOptions, FieldTable, Fields, Limits, Parse, RequestError, Span};

/// Request method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    #[default]
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// `PATCH`
    Patch,
    /// `TRACE`
    Trace,
    /// `CONNECT`
    Connect,
    /// Any other token; see [`RequestHead::method_token`].
    Other,
}

/// Protocol version of a message. Minor versions above 1 count as 1.1 (RFC 9110 section 2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// Form of the request target (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `host:port`, only with CONNECT
    Authority,
    /// `*`, only with OPTIONS
    Asterisk,
}

/// A parsed request head: spans into the buffer it was parsed from. Reuse it: a parse that starts on a head
/// whose last parse was complete or failed starts afresh, and no allocation is given back.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Method.
    pub method: Method,
    /// Form of the target.
    pub form: TargetForm,
    /// Version.
    pub version: Version,
    /// Field lines.
    pub fields: FieldTable,
    /// How the body ends; never [`BodyFraming::UntilClose`].
    pub framing: BodyFraming,
    /// Connection options.
    pub connection: ConnectionOptions,
    /// The client takes another response on this connection.
    pub keep_alive: bool,
    /// `Expect: 100-continue` in an HTTP/1.1 request with a body.
    pub expect_continue: bool,
    /// `TE: trailers` was sent.
    pub te_trailers: bool,
    /// Port of the effective authority, if it names one.
    pub port: Option<u16>,
    pub(crate) method_span: Span,
    pub(crate) target: Span,
    pub(crate) path_and_query: Span,
    pub(crate) host: Vec<u8>,
}

impl RequestHead {
    /// An empty head.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a partial parse.
    pub fn reset(&mut self) {
        unimplemented!()
    }

    /// Method as sent.
    pub fn method_token<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.method_span.of(buf)
    }

    /// Request target as sent.
    pub fn target<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.target.of(buf)
    }

    /// Path, at least `/`; `*` for asterisk-form; empty for authority-form.
    pub fn path<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let _ = buf;
        unimplemented!()
    }

    /// Query without its `?`.
    pub fn query<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        let _ = buf;
        unimplemented!()
    }

    /// Path and query in one, as sent upstream; `/` if both are empty. Of `http://host?q` this is `?q`.
    pub fn path_and_query<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let _ = buf;
        unimplemented!()
    }

    /// Host of the effective authority: lower case, no port, no trailing dot, IPv6 in brackets. An absolute-form
    /// target beats Host (RFC 9112 section 3.2.2). Empty only in HTTP/1.0 requests without Host.
    pub fn host(&self) -> &[u8] {
        &self.host
    }

    /// The fields with their bytes.
    pub fn fields<'a>(&'a self, buf: &'a [u8]) -> Fields<'a> {
        self.fields.view(buf)
    }
}

/// Parses a request head from the start of `buf`.
///
/// One empty line before the request line is skipped (RFC 9112 section 2.2). After [`Parse::Partial`], call with
/// the same bytes and more behind them and the same `head`. After an error answer with
/// [`RequestError::status`] and close.
pub fn parse_request(buf: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<Parse, RequestError> {
    let _ = (buf, limits, head);
    unimplemented!()
}
