//! Request heads.

use crate::chunked::decode;
use sluice_core::http1::{
    BodyFraming, ClientAddr, FieldId, ForwardedPolicy, Limits, Method, Parse, ProxyName, RequestError,
    RequestHead, UpstreamContext, Validators, Version, evaluate_conditional, evaluate_range, local_answer,
    parse_request, write_upstream_request,
};

/// A parse in pieces equals a parse of the whole; what is accepted httparse accepts with the same fields; what
/// is rewritten parses, means the same and names its framing once; pieces of a body behind it decode alike.
pub fn http1_request(data: &[u8]) {
    let small = Limits { head_bytes: 300, request_line_bytes: 60, fields: 6, ..Limits::DEFAULT };
    let cuts = crate::cuts(data);
    let every_byte: Vec<usize> = (0..data.len().min(2_000)).collect();
    for limits in [Limits::DEFAULT, small] {
        let (result, head) = parse(data, &[], &limits);
        for at in [&cuts, &every_byte] {
            let (again, pieces) = parse(data, at, &limits);
            assert_eq!(again, result, "split");
            if matches!(result, Ok(Parse::Complete { .. })) {
                assert_eq!(format!("{pieces:?}"), format!("{head:?}"), "split");
            }
        }
        if let Ok(Parse::Complete { head_len }) = result {
            assert!(head_len <= limits.head_bytes && head.fields.as_slice().len() <= limits.fields);
            accepted(data, head_len, &head);
        }
    }
}

/// Feeds prefixes that end at `cuts`, then the whole, until the parse is decided.
fn parse(data: &[u8], cuts: &[usize], limits: &Limits) -> (Result<Parse, RequestError>, RequestHead) {
    let mut head = RequestHead::new();
    for &cut in cuts {
        match parse_request(&data[..cut], limits, &mut head) {
            Ok(Parse::Partial) => {}
            decided => return (decided, head),
        }
    }
    let result = parse_request(data, limits, &mut head);
    (result, head)
}

fn accepted(data: &[u8], head_len: usize, head: &RequestHead) {
    oracle(data, head_len, head);
    let stored = Validators { etag: Some(b"\"e\""), last_modified_s: Some(1), date_s: Some(2) };
    let _ = (local_answer(head, data), evaluate_conditional(head, data, &stored));
    let _ = evaluate_range(head, data, 1000, &stored);
    let framings = usize::from(head.fields.has(FieldId::ContentLength))
        + usize::from(head.fields.has(FieldId::TransferEncoding));
    assert_eq!(framings, usize::from(head.framing != BodyFraming::None), "one framing or none");
    assert!(!head.fields.is_repeated(FieldId::Host) && !head.fields.is_repeated(FieldId::ContentLength));
    if head.method != Method::Connect {
        rewritten(data, head);
    }
    if head.framing == BodyFraming::Chunked {
        let body = &data[head_len..];
        assert_eq!(decode(body, &crate::cuts(body), &Limits::DEFAULT), decode(body, &[], &Limits::DEFAULT));
    }
}

fn oracle(data: &[u8], head_len: usize, head: &RequestHead) {
    // httparse knows minor versions 0 and 1 only.
    let mut copy = data[..head_len].to_vec();
    let version = copy.windows(8).position(|w| w == b" HTTP/1.").expect("an accepted head has a version") + 8;
    copy[version] = if head.version == Version::Http10 { b'0' } else { b'1' };
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut theirs = httparse::Request::new(&mut fields);
    assert_eq!(theirs.parse(&copy), Ok(httparse::Status::Complete(head_len)));
    assert_eq!(theirs.method.map(str::as_bytes), Some(head.method_token(data)));
    assert_eq!(theirs.path.map(str::as_bytes), Some(head.target(data)));
    let ours = head.fields(data).iter().map(|(name, value, _)| (name, value));
    assert!(ours.eq(theirs.headers.iter().map(|h| (h.name.as_bytes(), h.value))), "fields");
}

fn rewritten(data: &[u8], head: &RequestHead) {
    let (name, client) = (ProxyName::new("n1"), ClientAddr::new([192, 0, 2, 1].into()));
    for forwarded in [ForwardedPolicy::Append, ForwardedPolicy::Keep] {
        let host = head.host().is_empty().then_some(&b"h"[..]);
        let ctx = UpstreamContext {
            name: &name,
            client: &client,
            scheme: "http",
            forwarded,
            host,
            hop: Some(b"x"),
            method: None,
            strip: 0,
            extra: b"",
        };
        let mut out = Vec::new();
        write_upstream_request(data, head, &ctx, &mut out);
        let wide = Limits { head_bytes: 65_535, request_line_bytes: 65_535, fields: 255, ..Limits::DEFAULT };
        let mut again = RequestHead::new();
        assert_eq!(parse_request(&out, &wide, &mut again), Ok(Parse::Complete { head_len: out.len() }));
        assert_eq!(again.method_token(&out), head.method_token(data));
        assert_eq!(again.framing, head.framing);
        assert_eq!(again.query(&out), head.query(data));
        if host.is_none() {
            assert_eq!((again.host(), again.port), (head.host(), head.port));
        }
        if !head.asks_about_server() {
            assert_eq!(again.path(&out), head.path(data));
        }
        assert!(!(again.fields.has(FieldId::ContentLength) && again.fields.has(FieldId::TransferEncoding)));
        assert!(!again.fields.is_repeated(FieldId::SluiceHop));
        for id in [FieldId::Connection, FieldId::Upgrade, FieldId::Te, FieldId::KeepAlive, FieldId::Expect] {
            assert!(!again.fields.has(id), "{id:?}");
        }
    }
}
