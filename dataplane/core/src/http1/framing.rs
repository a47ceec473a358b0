//! Body framing and connection persistence (RFC 9112 sections 6, 7 and 9).

use super::{Method, Version};

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
