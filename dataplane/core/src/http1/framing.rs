//! Body framing and connection persistence (RFC 9112 sections 6, 7 and 9).

use super::field::{FieldId, Fields};
use super::scan;
use super::{Method, RequestError, ResponseError, Version};

/// Longest decimal that fits 64 bits has 20 digits; 19 always fit.
const LENGTH_DIGITS_MAX: usize = 19;

/// Members of Connection that name fields. Real ones name one or two; each costs a comparison with each field.
pub(super) const CONNECTION_NAMES_MAX: usize = 16;

/// Fields that belong to one connection and are never passed on (RFC 9110 section 7.6.1), and those by which a
/// proxy authenticates its own client.
pub(super) const HOP_BY_HOP: u64 = FieldId::Connection.bit()
    | FieldId::KeepAlive.bit()
    | FieldId::ProxyConnection.bit()
    | FieldId::ProxyAuthenticate.bit()
    | FieldId::ProxyAuthorization.bit()
    | FieldId::ProxyAuthenticationInfo.bit()
    | FieldId::Te.bit()
    | FieldId::TransferEncoding.bit()
    | FieldId::Upgrade.bit()
    | FieldId::Http2Settings.bit();

/// Fields that a Connection option cannot remove: they steer routing, framing, caching or authorisation, and a
/// sender must not list them (RFC 9110 section 7.6.1).
pub(super) const NOT_REMOVABLE: u64 = FieldId::Host.bit()
    | FieldId::ContentLength.bit()
    | FieldId::ContentType.bit()
    | FieldId::ContentEncoding.bit()
    | FieldId::ContentRange.bit()
    | FieldId::CacheControl.bit()
    | FieldId::Pragma.bit()
    | FieldId::Authorization.bit()
    | FieldId::Cookie.bit()
    | FieldId::SetCookie.bit()
    | FieldId::Range.bit()
    | FieldId::Vary.bit()
    | FieldId::Age.bit()
    | FieldId::Date.bit()
    | FieldId::Expires.bit()
    | FieldId::Etag.bit()
    | FieldId::LastModified.bit()
    | FieldId::CdnCacheControl.bit()
    | FieldId::SurrogateControl.bit()
    | FieldId::Via.bit()
    | FieldId::XForwardedFor.bit()
    | FieldId::XForwardedProto.bit()
    | FieldId::XForwardedHost.bit()
    | FieldId::Forwarded.bit();

/// How the end of a received body is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body, and no Content-Length either.
    #[default]
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

/// How a body is framed on the way out. Always written by us, never copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutFraming {
    /// No body and no framing field (204, 304 without length, requests without body).
    None,
    /// `Content-Length: n`, and n bytes follow unless the request was HEAD or the status is 304.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// No framing field; the connection closes after the body.
    UntilClose,
}

/// What a Connection field asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// Names of fields that are to be removed besides the hop-by-hop ones always removed.
    pub names_fields: bool,
}

impl ConnectionOptions {
    /// The sender will take another message on this connection (RFC 9112 section 9.3).
    pub const fn persists(self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// Framing of a response towards the client. The connection must close after the body if
/// [`OutFraming::UntilClose`] comes back.
///
/// `declared` is the Content-Length of a response that carries no body by rule (HEAD, 304).
pub fn downstream_framing(
    upstream: BodyFraming,
    declared: Option<u64>,
    client: Version,
    method: Method,
    status: u16,
) -> OutFraming {
    if status < 200 || status == 204 {
        return OutFraming::None;
    }
    if method == Method::Head || status == 304 {
        return declared.map_or(OutFraming::None, OutFraming::Length);
    }
    match (upstream, client) {
        (BodyFraming::None, _) => OutFraming::Length(0),
        (BodyFraming::Length(n), _) => OutFraming::Length(n),
        (BodyFraming::Chunked | BodyFraming::UntilClose, Version::Http11) => OutFraming::Chunked,
        (BodyFraming::Chunked | BodyFraming::UntilClose, Version::Http10) => OutFraming::UntilClose,
    }
}

/// What is wrong with the framing, before it is known whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramingError {
    InvalidContentLength,
    DuplicateContentLength,
    ContentLengthWithTransferEncoding,
    TransferEncodingHttp10,
    InvalidTransferEncoding,
    UnknownTransferCoding,
    InvalidConnection,
}

macro_rules! from_framing_error {
    ($($enum:ident)*) => {$(
        impl From<FramingError> for $enum {
            fn from(e: FramingError) -> Self {
                match e {
                    FramingError::InvalidContentLength => $enum::InvalidContentLength,
                    FramingError::DuplicateContentLength => $enum::DuplicateContentLength,
                    FramingError::ContentLengthWithTransferEncoding => $enum::ContentLengthWithTransferEncoding,
                    FramingError::TransferEncodingHttp10 => $enum::TransferEncodingHttp10,
                    FramingError::InvalidTransferEncoding => $enum::InvalidTransferEncoding,
                    FramingError::UnknownTransferCoding => $enum::UnknownTransferCoding,
                    FramingError::InvalidConnection => $enum::InvalidConnection,
                }
            }
        }
    )*};
}
from_framing_error!(RequestError ResponseError);

/// Framing that the fields state: chunked, a length, or nothing (`None`). One reading or an error.
pub(super) fn stated_framing(fields: Fields<'_>, version: Version) -> Result<BodyFraming, FramingError> {
    let present = fields.present();
    if present & (FieldId::TransferEncoding.bit() | FieldId::ContentLength.bit()) == 0 {
        return Ok(BodyFraming::None);
    }
    if present & FieldId::TransferEncoding.bit() == 0 {
        return content_length(fields).map(BodyFraming::Length);
    }
    if present & FieldId::ContentLength.bit() != 0 {
        return Err(FramingError::ContentLengthWithTransferEncoding);
    }
    if version == Version::Http10 {
        return Err(FramingError::TransferEncodingHttp10);
    }
    transfer_encoding(fields).map(|()| BodyFraming::Chunked)
}

fn content_length(fields: Fields<'_>) -> Result<u64, FramingError> {
    if fields.is_repeated(FieldId::ContentLength) {
        return Err(FramingError::DuplicateContentLength);
    }
    let value = fields.get(FieldId::ContentLength).unwrap_or_default();
    if value.contains(&b',') {
        return Err(FramingError::DuplicateContentLength);
    }
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX || !value.iter().all(u8::is_ascii_digit) {
        return Err(FramingError::InvalidContentLength);
    }
    Ok(value.iter().fold(0, |n, &d| n * 10 + u64::from(d - b'0')))
}

/// Exactly one coding, `chunked`. Empty list members are refused too: recipients differ about them.
fn transfer_encoding(fields: Fields<'_>) -> Result<(), FramingError> {
    let mut chunked = false;
    let mut others = false;
    for member in fields.all(FieldId::TransferEncoding).flat_map(|value| value.split(|&b| b == b',')) {
        let coding = scan::trim(member);
        if chunked || !scan::is_token_str(coding) {
            return Err(FramingError::InvalidTransferEncoding);
        }
        match coding.eq_ignore_ascii_case(b"chunked") {
            true => chunked = true,
            false => others = true,
        }
    }
    match (chunked, others) {
        (false, _) => Err(FramingError::InvalidTransferEncoding),
        (true, true) => Err(FramingError::UnknownTransferCoding),
        (true, false) => Ok(()),
    }
}

/// Reads all Connection lines.
pub(super) fn connection_options(fields: Fields<'_>) -> Result<ConnectionOptions, FramingError> {
    let mut options = ConnectionOptions::default();
    if !fields.is_repeated(FieldId::Connection) {
        // What nearly all senders send, without taking the list apart.
        let value = fields.get(FieldId::Connection).unwrap_or_default();
        options.keep_alive = value.eq_ignore_ascii_case(b"keep-alive");
        options.close = value.eq_ignore_ascii_case(b"close");
        if options != ConnectionOptions::default() {
            return Ok(options);
        }
    }
    let mut names = 0;
    for option in fields.list(FieldId::Connection) {
        if option.eq_ignore_ascii_case(b"keep-alive") {
            options.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"close") {
            options.close = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            options.upgrade = true;
        } else if !scan::is_token_str(option) {
            return Err(FramingError::InvalidConnection);
        } else if scan::field_id(option).bit() & (HOP_BY_HOP | NOT_REMOVABLE) == 0 {
            options.names_fields = true;
            names += 1;
        }
    }
    if names > CONNECTION_NAMES_MAX {
        return Err(FramingError::InvalidConnection);
    }
    Ok(options)
}
