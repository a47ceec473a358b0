//! Conformance table of request heads: bytes in, reading or refusal out (RFC 9112, RFC 9110).

use sluice_core::http1::{
    BodyFraming, FieldId, Limits, LocalAnswer, Method, Parse, RequestError, RequestHead, TargetForm, Version,
    local_answer, parse_request,
};

use BodyFraming as B;
use RequestError as E;

fn parse(input: &[u8]) -> (Result<Parse, RequestError>, RequestHead) {
    let mut head = RequestHead::new();
    let result = parse_request(input, &Limits::DEFAULT, &mut head);
    (result, head)
}

fn show(input: &[u8]) -> String {
    input.escape_ascii().to_string()
}

/// Refused, with the reason and its status.
const REFUSED: &[(&[u8], RequestError, u16)] = &[
    // Request line (RFC 9112 section 3).
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", E::InvalidMethod, 400),
    (b" GET / HTTP/1.1\r\n", E::InvalidMethod, 400),
    (b"G\x00T / HTTP/1.1\r\n", E::InvalidMethod, 400),
    (b"G(T / HTTP/1.1\r\n", E::InvalidMethod, 400),
    (b"GET\t/ HTTP/1.1\r\n", E::InvalidMethod, 400),
    (b"GET\r\n", E::InvalidMethod, 400),
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\n", E::InvalidMethod, 400),
    (b"\r\n\r\nGET / HTTP/1.1\r\n", E::InvalidMethod, 400),
    (b"GET  / HTTP/1.1\r\n", E::InvalidTarget, 400),
    (b"GET index.html HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"GET http:///p HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidTarget, 400),
    (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetScheme, 400),
    (b"GET HTTPS://a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetHttps, 421),
    (b"GET /a\tb HTTP/1.1\r\n", E::TargetByte, 400),
    (b"GET /a\x00b HTTP/1.1\r\n", E::TargetByte, 400),
    (b"GET /a#b HTTP/1.1\r\n", E::TargetByte, 400),
    (b"GET /\xc3\xa9 HTTP/1.1\r\n", E::TargetByte, 400),
    (b"GET /\x7f HTTP/1.1\r\n", E::TargetByte, 400),
    (b"GET /\r\n", E::Http09, 400),
    (b"GET /\n", E::BareLf, 400),
    (b"GET /a b HTTP/1.1\r\n", E::InvalidVersion, 400),
    (b"GET / HTTP/1.1 \r\n", E::InvalidVersion, 400),
    (b"GET /  HTTP/1.1\r\n", E::InvalidVersion, 400),
    (b"GET / http/1.1\r\n", E::InvalidVersion, 400),
    (b"GET / HTTP/11\r\n", E::InvalidVersion, 400),
    (b"GET / HTTP/1.10\r\n", E::InvalidVersion, 400),
    (b"GET / HTTP/1.\r\n", E::InvalidVersion, 400),
    (b"GET / HTTP/x.1\r\n", E::InvalidVersion, 400),
    (b"GET / \r\n", E::InvalidVersion, 400),
    (b"GET / HTTP/2.0\r\n", E::UnsupportedVersion, 505),
    (b"GET / HTTP/0.9\r\n", E::UnsupportedVersion, 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E::Http2Preface, 505),
    (b"GET / HTTP/1.1\n", E::BareLf, 400),
    (b"GET / HTTP/1.1\rX", E::BareCr, 400),
    (b"\rGET / HTTP/1.1\r\n", E::BareCr, 400),
    (b"\nGET / HTTP/1.1\r\n", E::BareLf, 400),
    // Field lines (RFC 9112 section 5).
    (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", E::BareLf, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\n", E::BareLf, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\rX", E::BareCr, 400),
    (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", E::BareCr, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", E::BareCr, 400),
    (b"GET / HTTP/1.1\r\nHo\nst: a\r\n\r\n", E::BareLf, 400),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", E::SpaceBeforeColon, 400),
    (b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", E::SpaceBeforeColon, 400),
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", E::ObsFold, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", E::ObsFold, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", E::ObsFold, 400),
    (b"GET / HTTP/1.1\r\n: a\r\n\r\n", E::InvalidFieldName, 400),
    (b"GET / HTTP/1.1\r\nHost\r\n\r\n", E::InvalidFieldName, 400),
    (b"GET / HTTP/1.1\r\nX@Y: a\r\n\r\n", E::InvalidFieldName, 400),
    (b"GET / HTTP/1.1\r\nX\x00Y: a\r\n\r\n", E::InvalidFieldName, 400),
    (b"GET / HTTP/1.1\r\n\xc3\xa9: a\r\n\r\n", E::InvalidFieldName, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", E::InvalidFieldValue, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n", E::InvalidFieldValue, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", E::InvalidFieldValue, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: 0123456789abcdef\t0123456789\x1b\r\n\r\n", E::InvalidFieldValue, 400),
    // Host (RFC 9112 section 3.2).
    (b"GET / HTTP/1.1\r\n\r\n", E::MissingHost, 400),
    (b"GET http://a/ HTTP/1.1\r\n\r\n", E::MissingHost, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", E::DuplicateHost, 400),
    (b"GET / HTTP/1.0\r\nHost: a\r\nhOST: b\r\n\r\n", E::DuplicateHost, 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", E::InvalidHost, 400),
    (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", E::InvalidHost, 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", E::InvalidHost, 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", E::InvalidHost, 400),
    (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", E::InvalidHost, 400),
    (b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", E::InvalidHost, 400),
    (b"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n", E::InvalidHost, 400),
    (b"GET http://a/ HTTP/1.1\r\nHost: b c\r\n\r\n", E::InvalidHost, 400),
    // Content-Length (RFC 9112 section 6.3).
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        E::DuplicateContentLength,
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        E::DuplicateContentLength,
        400,
    ),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", E::DuplicateContentLength, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\n", E::DuplicateContentLength, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", E::InvalidContentLength, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", E::InvalidContentLength, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", E::InvalidContentLength, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", E::InvalidContentLength, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", E::InvalidContentLength, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n", E::InvalidContentLength, 400),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n",
        E::InvalidContentLength,
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n",
        E::ContentLengthTooLarge,
        413,
    ),
    // Transfer-Encoding (RFC 9112 section 6.1).
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::ContentLengthWithTransferEncoding,
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nContent-Length: 5\r\n\r\n",
        E::ContentLengthWithTransferEncoding,
        400,
    ),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncodingHttp10, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", E::InvalidTransferEncoding, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", E::InvalidTransferEncoding, 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", E::InvalidTransferEncoding, 400),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        E::InvalidTransferEncoding,
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        E::InvalidTransferEncoding,
        400,
    ),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", E::InvalidTransferEncoding, 400),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;x=y\r\n\r\n",
        E::InvalidTransferEncoding,
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
        E::InvalidTransferEncoding,
        400,
    ),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", E::InvalidTransferEncoding, 400),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::InvalidTransferEncoding,
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        E::InvalidTransferEncoding,
        400,
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        E::UnknownTransferCoding,
        501,
    ),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow, chunked\r\n\r\n", E::UnknownTransferCoding, 501),
    // Others.
    (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", E::InvalidConnection, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: \"close\"\r\n\r\n", E::InvalidConnection, 400),
    (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\r\n\r\n",
        E::InvalidConnection,
        400,
    ),
    (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", E::UnknownExpectation, 417),
    (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\n\r\n", E::UnknownExpectation, 417),
];

#[test]
fn refused() {
    for (input, error, status) in REFUSED {
        let (result, _) = parse(input);
        assert_eq!(result, Err(*error), "{}", show(input));
        assert_eq!(error.status(), *status, "{}", error.name());
    }
}

/// What an accepted request means.
struct Reading {
    input: &'static [u8],
    method: Method,
    form: TargetForm,
    version: Version,
    host: &'static str,
    port: Option<u16>,
    path: &'static str,
    query: Option<&'static str>,
    framing: BodyFraming,
    keep_alive: bool,
}

const PLAIN: Reading = Reading {
    input: b"",
    method: Method::Get,
    form: TargetForm::Origin,
    version: Version::Http11,
    host: "a",
    port: None,
    path: "/",
    query: None,
    framing: B::None,
    keep_alive: true,
};

const ACCEPTED: &[Reading] = &[
    Reading { input: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ..PLAIN },
    Reading { input: b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", ..PLAIN },
    Reading { input: b"GET / HTTP/1.7\r\nHost: a\r\n\r\n", ..PLAIN },
    Reading { input: b"GET / HTTP/1.1\r\nhOsT:a\r\n\r\n", ..PLAIN },
    Reading { input: b"GET / HTTP/1.1\r\nHost:  \t A. \t\r\n\r\n", ..PLAIN },
    Reading { input: b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", ..PLAIN },
    Reading { input: b"GET / HTTP/1.1\r\nHost: a\r\nX: \t \r\n\r\n", ..PLAIN },
    Reading { input: b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\xfe\t\x80\r\n\r\n", ..PLAIN },
    Reading { input: b"GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n", port: Some(8080), ..PLAIN },
    Reading { input: b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", host: "[::1]", port: Some(80), ..PLAIN },
    Reading { input: b"GET /p?q?r HTTP/1.1\r\nHost: a\r\n\r\n", path: "/p", query: Some("q?r"), ..PLAIN },
    Reading { input: b"GET /? HTTP/1.1\r\nHost: a\r\n\r\n", query: Some(""), ..PLAIN },
    Reading { input: b"GET //x HTTP/1.1\r\nHost: a\r\n\r\n", path: "//x", ..PLAIN },
    Reading { input: b"GET /a|b{c}\"<>\\^` HTTP/1.1\r\nHost: a\r\n\r\n", path: "/a|b{c}\"<>\\^`", ..PLAIN },
    Reading {
        input: b"GET http://B:1/p?q HTTP/1.1\r\nHost: a\r\n\r\n",
        form: TargetForm::Absolute,
        host: "b",
        port: Some(1),
        path: "/p",
        query: Some("q"),
        ..PLAIN
    },
    Reading {
        input: b"GET hTTp://b HTTP/1.1\r\nHost: a:9\r\n\r\n",
        form: TargetForm::Absolute,
        host: "b",
        ..PLAIN
    },
    Reading {
        input: b"GET http://b?q=/ HTTP/1.1\r\nHost: a\r\n\r\n",
        form: TargetForm::Absolute,
        host: "b",
        query: Some("q=/"),
        ..PLAIN
    },
    Reading {
        input: b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        method: Method::Options,
        form: TargetForm::Asterisk,
        path: "*",
        ..PLAIN
    },
    Reading { input: b"get / HTTP/1.1\r\nHost: a\r\n\r\n", method: Method::Other, ..PLAIN },
    Reading { input: b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", method: Method::Other, ..PLAIN },
    Reading { input: b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", keep_alive: false, ..PLAIN },
    Reading {
        input: b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, ,CLOSE\r\n\r\n",
        keep_alive: false,
        ..PLAIN
    },
    Reading {
        input: b"GET / HTTP/1.0\r\n\r\n",
        version: Version::Http10,
        host: "",
        keep_alive: false,
        ..PLAIN
    },
    Reading {
        input: b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n",
        version: Version::Http10,
        ..PLAIN
    },
    Reading {
        input: b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n",
        version: Version::Http10,
        keep_alive: false,
        ..PLAIN
    },
    Reading {
        input: b"GET / HTTP/1.0\r\nHost: a\r\nExpect: x\r\n\r\n",
        version: Version::Http10,
        keep_alive: false,
        ..PLAIN
    },
    Reading {
        input: b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        method: Method::Post,
        framing: B::Length(0),
        ..PLAIN
    },
    Reading {
        input: b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0042\r\n\r\n",
        method: Method::Post,
        framing: B::Length(42),
        ..PLAIN
    },
    Reading {
        input: b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n",
        framing: B::Length(i64::MAX as u64),
        ..PLAIN
    },
    Reading {
        input: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
        method: Method::Post,
        framing: B::Chunked,
        ..PLAIN
    },
    Reading {
        input: b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ..PLAIN
    },
];

#[test]
fn accepted() {
    for reading in ACCEPTED {
        // Bytes behind the head belong to the body or the next request and change nothing.
        let mut input = reading.input.to_vec();
        input.extend_from_slice(b"\x00 Content-Length: 7\r\n\r\n");
        let (result, head) = parse(&input);
        let what = show(reading.input);
        assert_eq!(result, Ok(Parse::Complete { head_len: reading.input.len() }), "{what}");
        assert_eq!(head.method, reading.method, "{what}");
        assert_eq!(head.form, reading.form, "{what}");
        assert_eq!(head.version, reading.version, "{what}");
        assert_eq!(head.host(), reading.host.as_bytes(), "{what}");
        assert_eq!(head.port, reading.port, "{what}");
        assert_eq!(head.path(&input), reading.path.as_bytes(), "{what}");
        assert_eq!(head.query(&input), reading.query.map(str::as_bytes), "{what}");
        assert_eq!(head.framing, reading.framing, "{what}");
        assert_eq!(head.keep_alive, reading.keep_alive, "{what}");
    }
}

#[test]
fn every_proper_prefix_is_partial() {
    for reading in ACCEPTED {
        for end in 0..reading.input.len() {
            let (result, _) = parse(&reading.input[..end]);
            assert_eq!(result, Ok(Parse::Partial), "{}", show(&reading.input[..end]));
        }
    }
}

#[test]
fn every_reason_is_in_a_test() {
    // Sizes are tested in `limits`; all other reasons stand in the table.
    let by_size = [E::RequestLineTooLong, E::HeadTooLarge, E::TooManyFields, E::FieldNameTooLong];
    for error in RequestError::ALL {
        assert!(
            by_size.contains(error) || REFUSED.iter().any(|(_, e, _)| e == error),
            "{} is not in the table",
            error.name()
        );
        assert_eq!(RequestError::ALL[error.index()], *error);
    }
}

#[test]
fn limits() {
    let limits = Limits { head_bytes: 200, request_line_bytes: 40, fields: 3, ..Limits::DEFAULT };
    let parse = |input: &[u8]| parse_request(input, &limits, &mut RequestHead::new());
    let fits = Ok(Parse::Complete { head_len: 200 });

    let line = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(n - 16));
    assert_eq!(parse(line(40).as_bytes()), Ok(Parse::Complete { head_len: 51 }));
    assert_eq!(parse(line(41).as_bytes()), Err(E::RequestLineTooLong));
    assert_eq!(
        parse(&b"GET /pppppppppppppppppppppppppppppppppppppppppppppppp"[..40]),
        Err(E::RequestLineTooLong)
    );
    assert_eq!(E::RequestLineTooLong.status(), 414);

    let head = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "v".repeat(n - 32));
    assert_eq!(parse(head(200).as_bytes()), fits);
    assert_eq!(parse(head(201).as_bytes()), Err(E::HeadTooLarge));
    assert_eq!(parse(&head(300).as_bytes()[..199]), Ok(Parse::Partial));
    assert_eq!(parse(&head(300).as_bytes()[..200]), Err(E::HeadTooLarge));
    assert_eq!(E::HeadTooLarge.status(), 431);

    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    assert!(parse(fields(3).as_bytes()).is_ok());
    assert_eq!(parse(fields(4).as_bytes()), Err(E::TooManyFields));
    assert_eq!(E::TooManyFields.status(), 431);

    let name = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}: y\r\n\r\n", "n".repeat(n));
    let wide = |input: &str| parse_request(input.as_bytes(), &Limits::DEFAULT, &mut RequestHead::new());
    assert!(wide(&name(256)).is_ok());
    assert_eq!(wide(&name(257)), Err(E::FieldNameTooLong));
}

#[test]
fn limits_above_the_ceilings_are_cut() {
    let limits = Limits {
        head_bytes: usize::MAX,
        request_line_bytes: usize::MAX,
        fields: usize::MAX,
        ..Limits::DEFAULT
    };
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(70_000));
    assert_eq!(parse_request(long.as_bytes(), &limits, &mut RequestHead::new()), Err(E::HeadTooLarge));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(255));
    assert_eq!(parse_request(many.as_bytes(), &limits, &mut RequestHead::new()), Err(E::TooManyFields));
    let full = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "v".repeat(65_535 - 32));
    assert_eq!(
        parse_request(full.as_bytes(), &limits, &mut RequestHead::new()),
        Ok(Parse::Complete { head_len: 65_535 })
    );
}

#[test]
fn known_fields_are_found_whatever_their_case() {
    for &id in FieldId::KNOWN {
        if matches!(id, FieldId::Host | FieldId::ContentLength | FieldId::TransferEncoding | FieldId::Expect)
        {
            continue; // their values are checked by the parser
        }
        for name in [id.name().to_owned(), id.name().to_uppercase()] {
            let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: v\r\nX-{name}: w\r\n\r\n");
            let (result, head) = parse(input.as_bytes());
            assert!(result.is_ok(), "{input}");
            let fields = head.fields(input.as_bytes());
            assert_eq!(fields.get(id), Some(&b"v"[..]), "{name}");
            assert_eq!(fields.named(name.to_lowercase().as_bytes()).collect::<Vec<_>>(), [b"v"]);
            assert_eq!(fields.named(format!("x-{name}").as_bytes()).collect::<Vec<_>>(), [b"w"]);
        }
    }
}

#[test]
fn lists_and_repeated_fields() {
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 x, 1.1 y\r\nAccept: a\r\nvia: ,, \"q,r\" ,\r\n\r\n";
    let (_, head) = parse(input);
    let fields = head.fields(input);
    let list: Vec<&[u8]> = fields.list(FieldId::Via).collect();
    assert_eq!(list, [&b"1.1 x"[..], b"1.1 y", b"\"q,r\""]);
    assert_eq!(fields.all(FieldId::Via).count(), 2);
    assert!(head.fields.is_repeated(FieldId::Via) && !head.fields.is_repeated(FieldId::Accept));
    assert_eq!(fields.get(FieldId::Accept), Some(&b"a"[..]));
    assert_eq!(fields.get(FieldId::Range), None);
    assert_eq!(fields.iter().count(), 4);
}

#[test]
fn answered_without_upstream() {
    let table: &[(&[u8], Option<LocalAnswer>)] = &[
        (b"GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", None),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Some(LocalAnswer::TraceRefused)),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Some(LocalAnswer::ConnectRefused)),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Some(LocalAnswer::Options)),
        (b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", Some(LocalAnswer::Options)),
        (b"OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 00\r\n\r\n", Some(LocalAnswer::Options)),
        (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\n\r\n", None),
        (b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: -\r\n\r\n", None),
    ];
    for (input, expected) in table {
        let (result, head) = parse(input);
        assert!(matches!(result, Ok(Parse::Complete { .. })), "{}", show(input));
        assert_eq!(local_answer(&head, input), *expected, "{}", show(input));
    }
}

#[test]
fn expect_and_te() {
    let with_body = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-Continue\r\nTE: trailers;q=1, trailers\r\n\r\n";
    let (_, head) = parse(with_body);
    assert!(head.expect_continue && head.te_trailers);
    let (_, head) = parse(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n");
    assert!(!head.expect_continue && !head.te_trailers, "nothing to wait for");
    let (_, head) = parse(b"PUT / HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(!head.expect_continue, "RFC 9110 section 10.1.1");
}

#[test]
fn a_head_can_be_used_again() {
    let first = b"PUT /x?y HTTP/1.0\r\nHost: b:1\r\nContent-Length: 3\r\nConnection: keep-alive, x\r\nTE: trailers\r\n\r\n";
    let second = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut head = RequestHead::new();
    let limits = Limits::DEFAULT;
    for before in [
        &first[..],
        b"GET / HTTP/1.1\r\nHost : \r\n",
        b"POST / HTTP/1.1\r\nHost: a:7\r\nContent-Length: x\r\n\r\n",
    ] {
        let _ = parse_request(before, &limits, &mut head);
        assert!(matches!(parse_request(second, &limits, &mut head), Ok(Parse::Complete { .. })));
        let (_, fresh) = parse(second);
        assert_eq!(format!("{head:?}"), format!("{fresh:?}"), "nothing is left of the request before");
    }
    assert_eq!(parse_request(&first[..40], &limits, &mut head), Ok(Parse::Partial));
    head.reset();
    assert!(matches!(parse_request(second, &limits, &mut head), Ok(Parse::Complete { .. })));
}
