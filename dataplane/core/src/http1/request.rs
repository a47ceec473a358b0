//! Request heads.

use super::framing::{connection_options, stated_framing};
use super::host::normalise_authority;
use super::scan;
use super::section::{Colon, Cursor, parse_section};
use super::{BodyFraming, ConnectionOptions, FieldId, FieldTable, Fields, Limits, Parse, RequestError, Span};

/// The longest registered method has 17 bytes (`UPDATEREDIRECTREF`).
const METHOD_BYTES_MAX: usize = 32;

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

impl Method {
    fn of(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }

    /// The token; empty for [`Method::Other`].
    pub const fn token(self) -> &'static [u8] {
        match self {
            Method::Get => b"GET",
            Method::Head => b"HEAD",
            Method::Post => b"POST",
            Method::Put => b"PUT",
            Method::Delete => b"DELETE",
            Method::Options => b"OPTIONS",
            Method::Patch => b"PATCH",
            Method::Trace => b"TRACE",
            Method::Connect => b"CONNECT",
            Method::Other => b"",
        }
    }

    /// Safe methods (RFC 9110 section 9.2.1) may be sent again after a failure.
    pub const fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }

    /// Idempotent methods (RFC 9110 section 9.2.2).
    pub const fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Method::Put | Method::Delete)
    }
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

/// Where a parse stands.
///
/// ```text
/// Start -> Method -> Target -> Version -> Fields -> Done
///                (any error goes to Done)
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// An empty line may come first.
    #[default]
    Start,
    Method,
    Target,
    Version,
    Fields,
    /// Complete or failed; the next parse starts afresh.
    Done,
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
    pub(super) fields_end: usize,
    method_span: Span,
    target: Span,
    path_and_query: Span,
    host: Vec<u8>,
    stage: Stage,
    cursor: Cursor,
    /// How far the target is clean.
    scanned: usize,
}

impl RequestHead {
    /// An empty head.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a partial parse. Needed only where a parse is given up before it was complete or failed.
    pub fn reset(&mut self) {
        self.fields.clear();
        self.host.clear();
        self.stage = Stage::Start;
        self.cursor = Cursor::default();
        self.framing = BodyFraming::None;
        self.connection = ConnectionOptions::default();
        self.expect_continue = false;
        self.te_trailers = false;
        self.port = None;
    }

    /// Method as sent.
    pub fn method_token<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.method_span.of(buf)
    }

    /// Request target as sent.
    pub fn target<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.target.of(buf)
    }

    /// Path, at least `/`; `*` for asterisk-form.
    pub fn path<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        let all = self.path_and_query.of(buf);
        let end = memchr::memchr(b'?', all).unwrap_or(all.len());
        if end == 0 { b"/" } else { &all[..end] }
    }

    /// Query without its `?`.
    pub fn query<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        let all = self.path_and_query.of(buf);
        memchr::memchr(b'?', all).map(|i| &all[i + 1..])
    }

    /// Path and query in one, as sent upstream; `/` if both are empty. Of `http://host?q` this is `?q` (and `/?q`
    /// goes upstream).
    pub fn path_and_query<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        match self.path_and_query.of(buf) {
            b"" => b"/",
            all => all,
        }
    }

    /// Host of the effective authority: lower case, no port, no trailing dot, IPv6 in brackets. An absolute-form
    /// target beats Host (RFC 9112 section 3.2.2). Empty only in HTTP/1.0 requests without Host.
    pub fn host(&self) -> &[u8] {
        &self.host
    }

    /// OPTIONS about the server as a whole: `*`, or absolute-form without path and query (RFC 9112 section 3.2.4).
    pub fn asks_about_server(&self) -> bool {
        match self.form {
            TargetForm::Asterisk => true,
            TargetForm::Absolute => self.method == Method::Options && self.path_and_query.is_empty(),
            TargetForm::Origin | TargetForm::Authority => false,
        }
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
    if head.stage == Stage::Done {
        head.reset();
    }
    let head_max = limits.head_bytes.min(Limits::HEAD_BYTES_CEILING);
    let result = parse_stages(&buf[..buf.len().min(head_max)], limits, head);
    match result {
        Ok(Parse::Partial) if buf.len() >= head_max => {
            head.stage = Stage::Done;
            Err(RequestError::HeadTooLarge)
        }
        Ok(Parse::Partial) => Ok(Parse::Partial),
        done => {
            head.stage = Stage::Done;
            done
        }
    }
}

fn parse_stages(buf: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<Parse, RequestError> {
    if head.stage != Stage::Fields {
        let line_max = limits.request_line_bytes;
        if !parse_line(&buf[..buf.len().min(line_max)], head)? {
            return if buf.len() >= line_max {
                Err(RequestError::RequestLineTooLong)
            } else {
                Ok(Parse::Partial)
            };
        }
        head.stage = Stage::Fields;
    }
    let fields_max = limits.fields.min(Limits::FIELDS_CEILING);
    let parse = parse_section(buf, fields_max, &mut head.cursor, &mut head.fields, Colon::Strict)?;
    if let Parse::Complete { head_len } = parse {
        head.fields_end = head_len - 2;
        finish(buf, limits, head)?;
    }
    Ok(parse)
}

/// Request line; `false` if more bytes are needed. Each stage leaves the cursor where the next begins.
fn parse_line(buf: &[u8], head: &mut RequestHead) -> Result<bool, RequestError> {
    if head.stage == Stage::Start {
        match buf {
            [b'\r', b'\n', ..] => head.cursor = Cursor::at(2),
            [] | [b'\r'] => return Ok(false),
            [b'\r', ..] => return Err(RequestError::BareCr),
            _ => {}
        }
        head.stage = Stage::Method;
    }
    if head.stage == Stage::Method {
        let start = head.cursor.line;
        let end = scan::skip_token(buf, start);
        if end - start > METHOD_BYTES_MAX {
            return Err(RequestError::InvalidMethod);
        }
        match buf.get(end) {
            None => return Ok(false),
            Some(b' ') if end > start => {}
            Some(b'\n') => return Err(RequestError::BareLf),
            Some(_) => return Err(RequestError::InvalidMethod),
        }
        head.method_span = Span::between(start, end);
        head.method = Method::of(&buf[start..end]);
        head.cursor = Cursor::at(end + 1);
        head.scanned = end + 1;
        head.stage = Stage::Target;
    }
    if head.stage == Stage::Target {
        let start = head.cursor.line;
        let end = scan::skip_target(buf, head.scanned);
        head.scanned = end;
        match buf.get(end) {
            None => return Ok(false),
            Some(b' ') if end > start => {}
            Some(b' ') => return Err(RequestError::InvalidTarget),
            Some(b'\r') => return Err(RequestError::Http09),
            Some(b'\n') => return Err(RequestError::BareLf),
            Some(_) => return Err(RequestError::TargetByte),
        }
        head.target = Span::between(start, end);
        head.cursor = Cursor::at(end + 1);
        head.stage = Stage::Version;
    }
    let start = head.cursor.line;
    let Some(version) = parse_version(buf, start, head)? else {
        return Ok(false);
    };
    head.version = version;
    head.cursor = Cursor::at(start + VERSION_LINE.len());
    Ok(true)
}

const VERSION_LINE: &[u8; 10] = b"HTTP/1.1\r\n";

/// HTTP-version and CRLF at `start`; `None` if more bytes are needed.
fn parse_version(buf: &[u8], start: usize, head: &RequestHead) -> Result<Option<Version>, RequestError> {
    if buf.get(start..start + VERSION_LINE.len()) == Some(VERSION_LINE) {
        return Ok(Some(Version::Http11));
    }
    let rest = buf.get(start..).unwrap_or_default();
    for (i, want) in VERSION_LINE.iter().enumerate() {
        let Some(got) = rest.get(i) else { return Ok(None) };
        match (i, got) {
            (5 | 7, b'0'..=b'9') => {}
            (5 | 7, _) => return Err(RequestError::InvalidVersion),
            (_, got) if got == want => {}
            (8, b'\n') => return Err(RequestError::BareLf),
            (9, _) => return Err(RequestError::BareCr),
            _ => return Err(RequestError::InvalidVersion),
        }
        if i == 7 && rest[5] != b'1' {
            let preface = head.method == Method::Other && rest[5] == b'2';
            return Err(if preface { RequestError::Http2Preface } else { RequestError::UnsupportedVersion });
        }
    }
    Ok(Some(if rest[7] == b'0' { Version::Http10 } else { Version::Http11 }))
}

/// All bytes are there: what do they mean.
fn finish(buf: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<(), RequestError> {
    finish_target(buf, head)?;
    head.framing = stated_framing(head.fields.view(buf), head.version)?;
    if matches!(head.framing, BodyFraming::Length(n) if n > limits.content_length) {
        return Err(RequestError::ContentLengthTooLarge);
    }
    if head.fields.has(FieldId::Connection) {
        head.connection = connection_options(head.fields.view(buf))?;
    }
    head.keep_alive = head.connection.persists(head.version);
    if head.fields.has(FieldId::Expect) {
        finish_expect(buf, head)?;
    }
    if head.fields.has(FieldId::Te) {
        head.te_trailers =
            head.fields.view(buf).list(FieldId::Te).any(|m| m.eq_ignore_ascii_case(b"trailers"));
    }
    Ok(())
}

fn finish_expect(buf: &[u8], head: &mut RequestHead) -> Result<(), RequestError> {
    if head.version == Version::Http10 {
        return Ok(()); // RFC 9110 section 10.1.1: ignored in HTTP/1.0
    }
    for expectation in head.fields.view(buf).list(FieldId::Expect) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(RequestError::UnknownExpectation);
        }
        head.expect_continue = !matches!(head.framing, BodyFraming::None | BodyFraming::Length(0));
    }
    Ok(())
}

/// Target form and effective authority (RFC 9112 sections 3.2 and 3.3).
fn finish_target(buf: &[u8], head: &mut RequestHead) -> Result<(), RequestError> {
    let target = head.target.of(buf);
    let authority = match (target, head.method) {
        (_, Method::Connect) => {
            head.form = TargetForm::Authority;
            head.path_and_query = Span::default();
            Some(target)
        }
        ([b'/', ..], _) => {
            head.form = TargetForm::Origin;
            head.path_and_query = head.target;
            None
        }
        ([b'*'], Method::Options) => {
            head.form = TargetForm::Asterisk;
            head.path_and_query = head.target;
            None
        }
        _ => Some(absolute_form(target, head)?),
    };
    match head.fields.view(buf).get(FieldId::Host) {
        _ if head.fields.is_repeated(FieldId::Host) => return Err(RequestError::DuplicateHost),
        Some(host) => {
            head.port = normalise_authority(host, &mut head.host).ok_or(RequestError::InvalidHost)?;
        }
        None if head.version == Version::Http11 => return Err(RequestError::MissingHost),
        None => {}
    }
    if let Some(authority) = authority {
        head.host.clear();
        head.port = normalise_authority(authority, &mut head.host).ok_or(RequestError::InvalidTarget)?;
        if head.form == TargetForm::Authority && head.port.is_none() {
            return Err(RequestError::InvalidTarget);
        }
    }
    Ok(())
}

/// Authority of `scheme://authority[/path][?query]`; sets form and path.
fn absolute_form<'a>(target: &'a [u8], head: &mut RequestHead) -> Result<&'a [u8], RequestError> {
    let scheme_end = memchr::memchr(b':', target).ok_or(RequestError::InvalidTarget)?;
    let (scheme, rest) = target.split_at(scheme_end);
    if !scheme.first().is_some_and(u8::is_ascii_alphabetic) || !rest.starts_with(b"://") {
        return Err(RequestError::InvalidTarget);
    }
    if scheme.eq_ignore_ascii_case(b"https") {
        return Err(RequestError::TargetHttps);
    }
    if !scheme.eq_ignore_ascii_case(b"http") {
        return Err(RequestError::TargetScheme);
    }
    let start = scheme_end + 3;
    let len = memchr::memchr2(b'/', b'?', &target[start..]).unwrap_or(target.len() - start);
    head.form = TargetForm::Absolute;
    let base = usize::from(head.target.off);
    head.path_and_query = Span::between(base + start + len, head.target.end());
    Ok(&target[start..start + len])
}
