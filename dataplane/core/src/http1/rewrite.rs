//! Requests on their way upstream.

use super::{Method, RequestHead};
use std::net::IpAddr;

/// How the proxy names itself; made once per process.
#[derive(Clone, Debug)]
pub struct ProxyName {
    pub(crate) via: Vec<u8>,
}

impl ProxyName {
    /// `pseudonym` is a token, e.g. the node's name; other bytes become `_`.
    pub fn new(pseudonym: &str) -> Self {
        let _ = pseudonym;
        unimplemented!()
    }
}

/// The client's address in the forms the fields want; made once per connection.
#[derive(Clone, Debug)]
pub struct ClientAddr {
    pub(crate) plain: Vec<u8>,
    pub(crate) forwarded: Vec<u8>,
}

impl ClientAddr {
    /// Of the peer of a connection. IPv4-mapped IPv6 addresses become IPv4.
    pub fn new(addr: IpAddr) -> Self {
        let _ = addr;
        unimplemented!()
    }
}

/// What happens to X-Forwarded-For, -Proto, -Host and Forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedPolicy {
    /// The client's address is appended to what came; Proto and Host are ours.
    #[default]
    Append,
    /// What came is dropped, then as `Append`: for proxies that face the Internet directly.
    Replace,
    /// Left as they came: the sender is a Sluice peer that has set them.
    Keep,
}

/// What a rewritten request needs beside the parsed one.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamContext<'a> {
    /// Us.
    pub name: &'a ProxyName,
    /// The client.
    pub client: &'a ClientAddr,
    /// Scheme the client used: `http` or `https`.
    pub scheme: &'a str,
    /// Policy for the forwarding fields.
    pub forwarded: ForwardedPolicy,
    /// Host field instead of the client's.
    pub host: Option<&'a [u8]>,
    /// Value of `Sluice-Hop`; a client's is never passed on.
    pub hop: Option<&'a [u8]>,
    /// Method instead of the client's (a HEAD miss filled by GET).
    pub method: Option<Method>,
    /// Fields left out, as [`super::FieldId::bit`]s (a fill drops Range and the client's conditions).
    pub strip: u64,
    /// Field lines added, each with CRLF (`If-None-Match: "x"\r\n` of a revalidation). Must be well-formed.
    pub extra: &'a [u8],
}

/// Appends the request as sent upstream, with the empty line; the body follows with the framing of
/// [`RequestHead::framing`].
///
/// Removed: hop-by-hop fields, fields named in Connection, framing, Expect (the proxy answers it), Sluice-Hop.
/// Written: request line in origin-form with HTTP/1.1, Host, framing, Via, the forwarding fields.
pub fn write_upstream_request(buf: &[u8], head: &RequestHead, ctx: &UpstreamContext<'_>, out: &mut Vec<u8>) {
    let _ = (buf, head, ctx, out);
    unimplemented!()
}
