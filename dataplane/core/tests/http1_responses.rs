//! Conformance table of response heads (RFC 9112 sections 4 to 6).

use sluice_core::http1::{
    BodyFraming, FieldId, Limits, Method, OutFraming, Parse, ResponseError, ResponseHead, Version,
    downstream_framing, parse_response,
};

use BodyFraming as B;
use ResponseError as E;

fn parse(input: &[u8], method: Method) -> (Result<Parse, ResponseError>, ResponseHead) {
    let mut head = ResponseHead::new();
    let result = parse_response(input, &Limits::DEFAULT, method, &mut head);
    (result, head)
}

const REFUSED: &[(&[u8], ResponseError)] = &[
    (b"HTTP 200 OK\r\n", E::InvalidStatusLine),
    (b"ICY 200 OK\r\n", E::InvalidStatusLine),
    (b"http/1.1 200 OK\r\n", E::InvalidStatusLine),
    (b"HTTP/1.1  200 OK\r\n", E::InvalidStatusLine),
    (b"HTTP/1.1 20 OK\r\n", E::InvalidStatusLine),
    (b"HTTP/1.1 2000 OK\r\n", E::InvalidStatusLine),
    (b"HTTP/1.1 200\tOK\r\n", E::InvalidStatusLine),
    (b"HTTP/1.1 200 O\x00K\r\n", E::InvalidStatusLine),
    (b"\r\nHTTP/1.1 200 OK\r\n", E::InvalidStatusLine),
    (b"HTTP/2.0 200 OK\r\n", E::UnsupportedVersion),
    (b"HTTP/1.1 099 OK\r\n", E::InvalidStatus),
    (b"HTTP/1.1 600 OK\r\n", E::InvalidStatus),
    (b"HTTP/1.1 200 OK\n", E::BareLf),
    (b"HTTP/1.1 200\n", E::BareLf),
    (b"HTTP/1.1 200 OK\rX", E::BareCr),
    (b"HTTP/1.1 200 OK\r\nA: b\n", E::BareLf),
    (b"HTTP/1.1 200 OK\r\nA: b\rc", E::BareCr),
    (b"HTTP/1.1 200 OK\r\n: b\r\n", E::InvalidFieldName),
    (b"HTTP/1.1 200 OK\r\nA b: c\r\n", E::InvalidFieldName),
    (b"HTTP/1.1 200 OK\r\nA\r\n", E::InvalidFieldName),
    (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n", E::ObsFold),
    (b"HTTP/1.1 200 OK\r\nA: \x00\r\n", E::InvalidFieldValue),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", E::DuplicateContentLength),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n", E::DuplicateContentLength),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", E::InvalidContentLength),
    (b"HTTP/1.1 200 OK\r\nContent-Length : x\r\n\r\n", E::InvalidContentLength),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::ContentLengthWithTransferEncoding,
    ),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncodingHttp10),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n", E::InvalidTransferEncoding),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", E::InvalidTransferEncoding),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::UnknownTransferCoding),
    (b"HTTP/1.1 200 OK\r\nConnection: a b\r\n\r\n", E::InvalidConnection),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", E::UnexpectedUpgrade),
];

#[test]
fn refused() {
    for (input, error) in REFUSED {
        assert_eq!(parse(input, Method::Get).0, Err(*error), "{}", input.escape_ascii());
        assert_eq!(error.status(), 502);
    }
    let by_size = [E::HeadTooLarge, E::TooManyFields, E::FieldNameTooLong];
    for error in ResponseError::ALL {
        assert!(
            by_size.contains(error) || REFUSED.iter().any(|(_, e)| e == error),
            "{} untested",
            error.name()
        );
    }
}

/// Input, method of the request, framing, declared length, the connection can be used again.
type Row = (&'static [u8], Method, BodyFraming, Option<u64>, bool);

const FRAMING: &[Row] = &[
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Get, B::Length(3), Some(3), true),
    (b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\n", Method::Get, B::Length(3), Some(3), true),
    (b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", Method::Get, B::Length(3), Some(3), true),
    (b"HTTP/1.1 200 \xff\tOK\r\ncontent-length:3\r\n\r\n", Method::Get, B::Length(3), Some(3), true),
    (b"HTTP/1.1 200 OK\r\nContent-Length \t: 3\r\n\r\n", Method::Get, B::Length(3), Some(3), true),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get, B::Chunked, None, true),
    (b"HTTP/1.1 200 OK\r\n\r\n", Method::Get, B::UntilClose, None, false),
    (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n", Method::Get, B::UntilClose, None, false),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close\r\n\r\n",
        Method::Get,
        B::Length(3),
        Some(3),
        false,
    ),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Get, B::Length(3), Some(3), false),
    (
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n",
        Method::Get,
        B::Length(3),
        Some(3),
        true,
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Head, B::None, Some(3), true),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Head, B::None, None, true),
    (b"HTTP/1.1 200 OK\r\n\r\n", Method::Head, B::None, None, true),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", Method::Get, B::None, Some(3), true),
    (b"HTTP/1.1 204 No Content\r\n\r\n", Method::Get, B::None, None, true),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Method::Get, B::None, None, true),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", Method::Get, B::None, None, false),
    (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get, B::None, None, false),
    (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Method::Get, B::Length(0), Some(0), true),
    (b"HTTP/1.1 100 Continue\r\n\r\n", Method::Post, B::None, None, true),
    (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", Method::Get, B::None, None, true),
    (b"HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n", Method::Get, B::Length(0), Some(0), true),
];

#[test]
fn framing() {
    for (input, method, framing, declared, keep_alive) in FRAMING {
        let what = input.escape_ascii();
        let (result, head) = parse(input, *method);
        assert_eq!(result, Ok(Parse::Complete { head_len: input.len() }), "{what}");
        assert_eq!(head.framing, *framing, "{what}");
        assert_eq!(head.declared_length, *declared, "{what}");
        assert_eq!(head.keep_alive, *keep_alive, "{what}");
        for end in 0..input.len() {
            assert_eq!(parse(&input[..end], *method).0, Ok(Parse::Partial), "{what} cut at {end}");
        }
    }
}

#[test]
fn reason_and_fields() {
    let input = b"HTTP/1.1 404 Not  Found \r\nX \t: y\r\nETag: \"e\"\r\n\r\nbody";
    let (_, head) = parse(input, Method::Get);
    assert_eq!((head.status, head.reason(input)), (404, &b"Not  Found "[..]));
    assert_eq!(head.fields(input).named(b"x").collect::<Vec<_>>(), [b"y"]);
    assert_eq!(head.fields(input).get(FieldId::Etag), Some(&b"\"e\""[..]));
}

#[test]
fn limits() {
    let limits = Limits { head_bytes: 100, fields: 2, ..Limits::DEFAULT };
    let parse =
        |input: &str| parse_response(input.as_bytes(), &limits, Method::Get, &mut ResponseHead::new());
    assert!(parse(&format!("HTTP/1.1 200 {}\r\n\r\n", "r".repeat(83))).is_ok());
    assert_eq!(parse(&format!("HTTP/1.1 200 {}\r\n\r\n", "r".repeat(84))), Err(E::HeadTooLarge));
    assert_eq!(parse(&format!("HTTP/1.1 200 {}", "r".repeat(87))), Err(E::HeadTooLarge));
    assert_eq!(parse("HTTP/1.1 200 OK\r\nA: b\r\nA: b\r\nA: b\r\n\r\n"), Err(E::TooManyFields));
    let wide = format!("HTTP/1.1 200 OK\r\n{}: b\r\n\r\n", "n".repeat(257));
    let result = parse_response(wide.as_bytes(), &Limits::DEFAULT, Method::Get, &mut ResponseHead::new());
    assert_eq!(result, Err(E::FieldNameTooLong));
}

#[test]
fn framing_towards_the_client() {
    let v11 = Version::Http11;
    let v10 = Version::Http10;
    let table = [
        (B::Length(3), Some(3), v11, Method::Get, 200, OutFraming::Length(3)),
        (B::Chunked, None, v11, Method::Get, 200, OutFraming::Chunked),
        (B::UntilClose, None, v11, Method::Get, 200, OutFraming::Chunked),
        (B::Chunked, None, v10, Method::Get, 200, OutFraming::UntilClose),
        (B::UntilClose, None, v10, Method::Get, 200, OutFraming::UntilClose),
        (B::None, Some(3), v11, Method::Head, 200, OutFraming::Length(3)),
        (B::None, None, v11, Method::Head, 200, OutFraming::None),
        (B::None, Some(3), v11, Method::Get, 304, OutFraming::Length(3)),
        (B::None, None, v11, Method::Get, 204, OutFraming::None),
        (B::None, None, v11, Method::Post, 100, OutFraming::None),
    ];
    for (upstream, declared, client, method, status, expected) in table {
        assert_eq!(
            downstream_framing(upstream, declared, client, method, status),
            expected,
            "{status} {upstream:?}"
        );
    }
}
