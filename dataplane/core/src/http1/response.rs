//! Response heads.

use super::framing::{connection_options, stated_framing};
use super::scan;
use super::section::{Colon, Cursor, parse_section};
use super::{
    BodyFraming, ConnectionOptions, FieldId, FieldTable, Fields, Limits, Method, Parse, ResponseError, Span,
    Version,
};

/// Where a parse stands: status line, then fields, then done (complete or failed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Line,
    /// In the reason phrase, which is clean up to `scanned`.
    Reason,
    Fields,
    Done,
}

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
    pub(super) fields_end: usize,
    /// A field name had whitespace before its colon, so lines are rewritten one by one.
    pub(super) irregular: bool,
    reason: Span,
    stage: Stage,
    cursor: Cursor,
    scanned: usize,
}

impl ResponseHead {
    /// An empty head.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a partial parse. Needed only where a parse is given up before it was complete or failed.
    pub fn reset(&mut self) {
        self.fields.clear();
        self.stage = Stage::Line;
        self.cursor = Cursor::default();
        self.irregular = false;
        self.framing = BodyFraming::None;
        self.declared_length = None;
        self.connection = ConnectionOptions::default();
        self.reason = Span::default();
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
    if head.stage == Stage::Done {
        head.reset();
    }
    let head_max = limits.head_bytes.min(Limits::HEAD_BYTES_CEILING);
    let result = parse_stages(&buf[..buf.len().min(head_max)], limits, method, head);
    match result {
        Ok(Parse::Partial) if buf.len() >= head_max => {
            head.stage = Stage::Done;
            Err(ResponseError::HeadTooLarge)
        }
        Ok(Parse::Partial) => Ok(Parse::Partial),
        done => {
            head.stage = Stage::Done;
            done
        }
    }
}

fn parse_stages(
    buf: &[u8],
    limits: &Limits,
    method: Method,
    head: &mut ResponseHead,
) -> Result<Parse, ResponseError> {
    if head.stage != Stage::Fields {
        if !parse_line(buf, head)? {
            return Ok(Parse::Partial);
        }
        head.stage = Stage::Fields;
    }
    let fields_max = limits.fields.min(Limits::FIELDS_CEILING);
    let colon = Colon::Lenient(&mut head.irregular);
    let parse = parse_section(buf, fields_max, &mut head.cursor, &mut head.fields, colon)?;
    if let Parse::Complete { head_len } = parse {
        head.fields_end = head_len - 2;
        finish(buf, method, head)?;
    }
    Ok(parse)
}

/// Status line; `false` if more bytes are needed. The space before an empty reason phrase may be missing, as
/// many servers leave it out.
fn parse_line(buf: &[u8], head: &mut ResponseHead) -> Result<bool, ResponseError> {
    /// `d` stands for a digit.
    const PATTERN: &[u8; 12] = b"HTTP/d.d ddd";
    if head.stage == Stage::Line {
        for (i, want) in PATTERN.iter().enumerate() {
            match buf.get(i) {
                None => return Ok(false),
                Some(b'0'..=b'9') if *want == b'd' => {}
                Some(got) if got == want && *want != b'd' => {}
                Some(_) => return Err(ResponseError::InvalidStatusLine),
            }
        }
        if buf[5] != b'1' {
            return Err(ResponseError::UnsupportedVersion);
        }
        head.version = if buf[7] == b'0' { Version::Http10 } else { Version::Http11 };
        head.status = buf[9..12].iter().fold(0, |n, &d| n * 10 + u16::from(d - b'0'));
        if !(100..=599).contains(&head.status) {
            return Err(ResponseError::InvalidStatus);
        }
        head.scanned = match buf.get(PATTERN.len()) {
            None => return Ok(false),
            Some(b' ') => PATTERN.len() + 1,
            Some(b'\r') => PATTERN.len(),
            Some(b'\n') => return Err(ResponseError::BareLf),
            Some(_) => return Err(ResponseError::InvalidStatusLine),
        };
        head.reason.off = head.scanned as u16;
        head.stage = Stage::Reason;
    }
    let end = scan::skip_value(buf, head.scanned);
    head.scanned = end;
    match (buf.get(end), buf.get(end + 1)) {
        (None, _) | (Some(b'\r'), None) => return Ok(false),
        (Some(b'\r'), Some(b'\n')) => {}
        (Some(b'\r'), Some(_)) => return Err(ResponseError::BareCr),
        (Some(b'\n'), _) => return Err(ResponseError::BareLf),
        _ => return Err(ResponseError::InvalidStatusLine),
    }
    head.reason = Span::between(usize::from(head.reason.off), end);
    head.cursor = Cursor::at(end + 2);
    Ok(true)
}

/// Framing by RFC 9112 section 6.3, and whether the connection can be used again.
fn finish(buf: &[u8], method: Method, head: &mut ResponseHead) -> Result<(), ResponseError> {
    if head.status == 101 {
        return Err(ResponseError::UnexpectedUpgrade);
    }
    let stated = stated_framing(head.fields.view(buf), head.version)?;
    if head.fields.has(FieldId::Connection) {
        head.connection = connection_options(head.fields.view(buf))?;
    }
    head.keep_alive = head.connection.persists(head.version);
    if let BodyFraming::Length(n) = stated {
        head.declared_length = Some(n);
    }
    let never_a_body = head.is_interim() || head.status == 204;
    if never_a_body {
        // A body announced where none may be: some of its bytes may come, so nothing else may follow them.
        head.keep_alive &= matches!(stated, BodyFraming::None | BodyFraming::Length(0));
        head.declared_length = None;
    }
    head.framing = match stated {
        _ if never_a_body || head.status == 304 || method == Method::Head => BodyFraming::None,
        BodyFraming::None => {
            head.keep_alive = false;
            BodyFraming::UntilClose
        }
        stated => stated,
    };
    Ok(())
}
