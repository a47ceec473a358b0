//! Requests on their way upstream (RFC 9110 section 7.6).

use super::copy::{NamedFields, copy_kept, write_list_so_far};
use super::framing::HOP_BY_HOP;
use super::policy::max_forwards;
use super::{BodyFraming, FieldId, Method, RequestHead, Version, scan, write_decimal};
use std::net::IpAddr;

/// How the proxy names itself; made once per process.
#[derive(Clone, Debug)]
pub struct ProxyName {
    pseudonym: Vec<u8>,
}

impl ProxyName {
    /// `pseudonym` is a token, e.g. the node's name; other bytes become `_`. Empty becomes `sluice`.
    pub fn new(pseudonym: &str) -> Self {
        let name = if pseudonym.is_empty() { "sluice" } else { pseudonym };
        let pseudonym = name.bytes().map(|b| if scan::is_token(b) { b } else { b'_' }).collect();
        ProxyName { pseudonym }
    }

    /// Appends the Via line: what came so far and us.
    #[inline]
    pub(super) fn write_via(&self, fields: super::Fields<'_>, received: Version, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Via: ");
        write_list_so_far(fields, FieldId::Via, out);
        out.extend_from_slice(match received {
            Version::Http11 => b"1.1 ",
            Version::Http10 => b"1.0 ",
        });
        out.extend_from_slice(&self.pseudonym);
        out.extend_from_slice(b"\r\n");
    }
}

/// The client's address in the forms the fields want; made once per connection.
#[derive(Clone, Debug)]
pub struct ClientAddr {
    /// `192.0.2.1` or `2001:db8::1`
    plain: String,
    /// As a node of RFC 7239 section 6: `192.0.2.1` or `"[2001:db8::1]"`
    node: String,
}

impl ClientAddr {
    /// Of the peer of a connection. IPv4-mapped IPv6 addresses become IPv4.
    pub fn new(addr: IpAddr) -> Self {
        let addr = addr.to_canonical();
        let plain = addr.to_string();
        let node = if addr.is_ipv6() { format!("\"[{plain}]\"") } else { plain.clone() };
        ClientAddr { plain, node }
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
    /// Host field instead of the client's. Give one where HTTP/1.0 clients may leave theirs out: without either,
    /// an empty Host goes upstream (RFC 9112 section 3.2).
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

const FORWARDING: u64 = FieldId::XForwardedFor.bit()
    | FieldId::XForwardedProto.bit()
    | FieldId::XForwardedHost.bit()
    | FieldId::Forwarded.bit();

/// Written by us or answered by us.
const OURS: u64 = HOP_BY_HOP
    | FieldId::Host.bit()
    | FieldId::ContentLength.bit()
    | FieldId::Expect.bit()
    | FieldId::Via.bit()
    | FieldId::SluiceHop.bit();

/// What the lines written by us need at most, beside what is copied; more is fine, only slower.
const OWN_BYTES: usize = 384;

/// Appends the request as sent upstream, with the empty line; the body follows with the framing of
/// [`RequestHead::framing`].
///
/// Removed: hop-by-hop fields, fields named in Connection, framing, Expect (the proxy answers it), Sluice-Hop.
/// Written: request line in origin-form with HTTP/1.1, Host in normal form, framing, Via, the forwarding fields.
/// Max-Forwards of an OPTIONS is counted down (RFC 9110 section 7.6.2).
pub fn write_upstream_request(buf: &[u8], head: &RequestHead, ctx: &UpstreamContext<'_>, out: &mut Vec<u8>) {
    let fields = head.fields(buf);
    out.reserve(head.fields_end + OWN_BYTES);
    write_request_line(buf, head, ctx.method, out);
    out.extend_from_slice(b"Host: ");
    match ctx.host {
        Some(host) => out.extend_from_slice(host),
        None => write_authority(head, out),
    }
    out.extend_from_slice(b"\r\n");

    let mut drop = OURS | ctx.strip;
    if ctx.forwarded != ForwardedPolicy::Keep {
        drop |= FORWARDING;
    }
    if head.framing != BodyFraming::Chunked {
        drop |= FieldId::Trailer.bit(); // announces trailers that only a chunked body can have
    }
    let max_forwards = (head.method == Method::Options).then(|| max_forwards(head, buf)).flatten();
    if max_forwards.is_some() {
        drop |= FieldId::MaxForwards.bit();
    }
    let named = NamedFields::of(fields, head.connection.names_fields);
    copy_kept(buf, &head.fields, head.fields_end, drop, &named, false, out);

    if let Some(n) = max_forwards {
        out.extend_from_slice(b"Max-Forwards: ");
        write_decimal(u64::from(n.saturating_sub(1)), out);
        out.extend_from_slice(b"\r\n");
    }
    if ctx.forwarded != ForwardedPolicy::Keep {
        write_forwarding(head, fields, ctx, out);
    }
    ctx.name.write_via(fields, head.version, out);
    match head.framing {
        BodyFraming::Length(n) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(n, out);
            out.extend_from_slice(b"\r\n");
        }
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyFraming::None | BodyFraming::UntilClose => {}
    }
    if let Some(hop) = ctx.hop {
        super::copy::write_line(b"Sluice-Hop", hop, out);
    }
    out.extend_from_slice(ctx.extra);
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn write_request_line(buf: &[u8], head: &RequestHead, method: Option<Method>, out: &mut Vec<u8>) {
    match method {
        Some(method) if method != Method::Other => out.extend_from_slice(method.token()),
        _ => out.extend_from_slice(head.method_token(buf)),
    }
    out.push(b' ');
    let target = head.path_and_query(buf);
    if target.first() == Some(&b'?') {
        out.push(b'/');
    }
    // OPTIONS of an absolute-form target without a path asks about the server (RFC 9112 section 3.2.4).
    match head.asks_about_server() {
        true => out.push(b'*'),
        false => out.extend_from_slice(target),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Host and port in normal form: what was routed and cached by is what the origin sees.
#[inline]
fn write_authority(head: &RequestHead, out: &mut Vec<u8>) {
    out.extend_from_slice(head.host());
    if let Some(port) = head.port {
        out.push(b':');
        write_decimal(u64::from(port), out);
    }
}

/// X-Forwarded-For, -Proto, -Host and Forwarded (RFC 7239). One line each, as many readers look at one only.
fn write_forwarding(
    head: &RequestHead,
    fields: super::Fields<'_>,
    ctx: &UpstreamContext<'_>,
    out: &mut Vec<u8>,
) {
    let append = ctx.forwarded == ForwardedPolicy::Append && fields.present() & FORWARDING != 0;
    out.extend_from_slice(b"X-Forwarded-For: ");
    if append {
        write_list_so_far(fields, FieldId::XForwardedFor, out);
    }
    out.extend_from_slice(ctx.client.plain.as_bytes());
    out.extend_from_slice(b"\r\nX-Forwarded-Proto: ");
    out.extend_from_slice(ctx.scheme.as_bytes());
    if !head.host().is_empty() {
        out.extend_from_slice(b"\r\nX-Forwarded-Host: ");
        write_authority(head, out);
    }
    out.extend_from_slice(b"\r\nForwarded: ");
    if append {
        write_list_so_far(fields, FieldId::Forwarded, out);
    }
    out.extend_from_slice(b"for=");
    out.extend_from_slice(ctx.client.node.as_bytes());
    if !head.host().is_empty() {
        // Quoted, as a port or an IPv6 address holds a colon; the normal form holds nothing to escape.
        out.extend_from_slice(b";host=\"");
        write_authority(head, out);
        out.push(b'"');
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(ctx.scheme.as_bytes());
    out.extend_from_slice(b"\r\n");
}
