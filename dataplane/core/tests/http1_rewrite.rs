//! What leaves the proxy: golden heads, and the property that a rewritten message has one reading.

use proptest::prelude::*;
use sluice_core::http1::{
    BodyFraming, ClientAddr, Conditional, DownstreamContext, FieldId, ForwardedPolicy, HitContext, HttpDate,
    Limits, Method, OutFraming, Parse, ProxyName, RangeOutcome, RequestHead, ResponseHead, UpstreamContext,
    Validators, Version, downstream_framing, evaluate_conditional, evaluate_range, parse_request,
    parse_response, stored_fields, write_downstream_response, write_error, write_freshened_head, write_hit,
    write_not_modified, write_options_answer, write_partial_hit, write_stored_head, write_upstream_request,
};

/// 1994-11-06T08:49:37Z, the date of RFC 9110.
const NOW_S: u64 = 784_111_777;

fn request(input: &[u8]) -> RequestHead {
    let mut head = RequestHead::new();
    let parse = parse_request(input, &Limits::DEFAULT, &mut head);
    assert!(matches!(parse, Ok(Parse::Complete { .. })), "{parse:?} {}", input.escape_ascii());
    head
}

fn response(input: &[u8], method: Method) -> ResponseHead {
    let mut head = ResponseHead::new();
    let parse = parse_response(input, &Limits::DEFAULT, method, &mut head);
    assert!(matches!(parse, Ok(Parse::Complete { .. })), "{parse:?} {}", input.escape_ascii());
    head
}

struct Us {
    name: ProxyName,
    client: ClientAddr,
}

fn us() -> Us {
    Us { name: ProxyName::new("n1"), client: ClientAddr::new([192, 0, 2, 7].into()) }
}

impl Us {
    fn context(&self) -> UpstreamContext<'_> {
        UpstreamContext {
            name: &self.name,
            client: &self.client,
            scheme: "http",
            forwarded: ForwardedPolicy::Append,
            host: None,
            hop: None,
            method: None,
            strip: 0,
            extra: b"",
        }
    }
}

fn rewritten(input: &[u8], ctx: &UpstreamContext<'_>) -> String {
    let mut out = Vec::new();
    write_upstream_request(input, &request(input), ctx, &mut out);
    String::from_utf8(out).expect("the test sends ASCII")
}

#[test]
fn a_plain_request() {
    let out = rewritten(
        b"GET /p?q HTTP/1.1\r\nHost: Example.com:80\r\nUser-Agent:x  \r\nAccept: */*\r\n\r\n",
        &us().context(),
    );
    assert_eq!(
        out,
        "GET /p?q HTTP/1.1\r\nHost: example.com:80\r\nUser-Agent:x  \r\nAccept: */*\r\n\
         X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: example.com:80\r\n\
         Forwarded: for=192.0.2.7;host=\"example.com:80\";proto=http\r\nVia: 1.1 n1\r\n\r\n"
    );
}

#[test]
fn everything_at_once() {
    let us = Us {
        name: ProxyName::new("n 1"),
        client: ClientAddr::new("2001:db8::7".parse().expect("an address")),
    };
    let ctx = UpstreamContext { hop: Some(b"n1"), extra: b"If-None-Match: \"e\"\r\n", ..us.context() };
    let out = rewritten(
        b"POST http://b/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, X-Gone, Cookie\r\nKeep-Alive: 5\r\nx-gone: 1\r\n\
          Cookie: c\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: trailers\r\nUpgrade: h2c\r\n\
          HTTP2-Settings: x\r\nExpect: 100-continue\r\nTrailer: X\r\nSluice-Hop: evil\r\nContent-Length: 007\r\n\
          Via: 1.0 fred, 1.1 p\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Proto: https\r\n\
          X-Forwarded-Host: evil\r\nForwarded: for=10.0.0.1\r\nX-Gone-Not: 2\r\n\r\n",
        &ctx,
    );
    assert_eq!(
        out,
        "POST /x HTTP/1.1\r\nHost: b\r\nCookie: c\r\nX-Gone-Not: 2\r\n\
         X-Forwarded-For: 10.0.0.1, 10.0.0.2, 2001:db8::7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: b\r\n\
         Forwarded: for=10.0.0.1, for=\"[2001:db8::7]\";host=\"b\";proto=http\r\n\
         Via: 1.0 fred, 1.1 p, 1.0 n_1\r\nContent-Length: 7\r\nSluice-Hop: n1\r\nIf-None-Match: \"e\"\r\n\r\n"
    );
}

#[test]
fn as_many_fields_as_connection_may_name_are_removed() {
    let names: Vec<String> = (0..16).map(|i| format!("x-{i}")).collect();
    let fields: String = names.iter().map(|name| format!("{}: 1\r\n", name.to_uppercase())).collect();
    let closes = "close, ".repeat(20);
    let input =
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}Connection: {closes}{}\r\n\r\n", names.join(","));
    let out = rewritten(input.as_bytes(), &us().context());
    assert!(names.iter().all(|name| !out.contains(&name.to_uppercase())), "{out}");
}

#[test]
fn policies_of_a_rewrite() {
    let us = us();
    let input = b"HEAD /?q HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=x\r\nRange: bytes=0-1\r\nIf-None-Match: \"x\"\r\n\r\n";
    let replace = UpstreamContext { forwarded: ForwardedPolicy::Replace, ..us.context() };
    assert!(!rewritten(input, &replace).contains("10.0.0.1"));
    assert!(!rewritten(input, &replace).contains("for=x"));
    let keep = UpstreamContext { forwarded: ForwardedPolicy::Keep, ..us.context() };
    assert_eq!(rewritten(input, &keep).matches("orwarded").count(), 2);
    let strip = FieldId::Range.bit() | FieldId::IfNoneMatch.bit();
    let fill =
        UpstreamContext { method: Some(Method::Get), strip, host: Some(b"origin:8080"), ..us.context() };
    let out = rewritten(input, &fill);
    assert!(
        out.starts_with("GET /?q HTTP/1.1\r\nHost: origin:8080\r\nX-Forwarded-For: 10.0.0.1, 192.0.2.7\r\n"),
        "{out}"
    );
    assert!(!out.contains("Range") && !out.contains("None"), "{out}");
}

#[test]
fn targets_of_a_rewrite() {
    let us = us();
    let line = |input: &[u8]| rewritten(input, &us.context()).lines().next().map(str::to_owned);
    let of = |s: &str| Some(s.to_owned());
    assert_eq!(line(b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n"), of("GET / HTTP/1.1"));
    assert_eq!(line(b"GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n"), of("GET /?q HTTP/1.1"));
    assert_eq!(line(b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n"), of("OPTIONS * HTTP/1.1"));
    assert_eq!(line(b"BREW /pot HTTP/1.0\r\n\r\n"), of("BREW /pot HTTP/1.1"));
    let counted = rewritten(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n", &us.context());
    assert!(counted.contains("\r\nMax-Forwards: 2\r\n") && !counted.contains('3'), "{counted}");
    let hostless = rewritten(b"GET / HTTP/1.0\r\n\r\n", &us.context());
    assert!(
        hostless.starts_with("GET / HTTP/1.1\r\nHost: \r\n") && !hostless.contains("Forwarded-Host"),
        "{hostless}"
    );
}

fn downstream<'a>(us: &'a Us, date: &'a HttpDate) -> DownstreamContext<'a> {
    DownstreamContext {
        name: &us.name,
        client: Version::Http11,
        framing: OutFraming::Length(3),
        keep_alive: true,
        age_s: None,
        date,
        strip: 0,
        extra: b"",
    }
}

const UPSTREAM: &[u8] =
    b"HTTP/1.0 200 Fine\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\nContent-Length: 3\r\nAge: 7\r\n\
    ETag : \"e\"\r\nVia: 1.1 o\r\nTrailer: X\r\nUpgrade: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n";

#[test]
fn a_forwarded_response() {
    let (us, date) = (us(), HttpDate::new(NOW_S));
    let head = response(UPSTREAM, Method::Get);
    let mut out = Vec::new();
    write_downstream_response(UPSTREAM, &head, &downstream(&us, &date), &mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 200 Fine\r\nAge: 7\r\nETag: \"e\"\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nVia: 1.1 o, 1.0 n1\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 3\r\n\r\n"
    );
    for (client, framing, keep_alive, tail) in [
        (Version::Http11, OutFraming::Chunked, true, "Transfer-Encoding: chunked\r\n\r\n"),
        (Version::Http11, OutFraming::Length(3), false, "Content-Length: 3\r\nConnection: close\r\n\r\n"),
        (Version::Http10, OutFraming::Length(3), true, "Content-Length: 3\r\nConnection: keep-alive\r\n\r\n"),
        (Version::Http10, OutFraming::UntilClose, true, "GMT\r\nAge: 9\r\nConnection: close\r\n\r\n"),
        (Version::Http11, OutFraming::None, true, "GMT\r\nAge: 9\r\n\r\n"),
    ] {
        out.clear();
        let ctx = DownstreamContext { client, framing, keep_alive, age_s: Some(9), ..downstream(&us, &date) };
        write_downstream_response(UPSTREAM, &head, &ctx, &mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(text.ends_with(tail), "{text}");
        assert_eq!(text.matches("Age:").count(), 1, "{text}");
    }
}

#[test]
fn an_interim_response() {
    let (us, date) = (us(), HttpDate::new(NOW_S));
    let input = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\r\n";
    let mut out = Vec::new();
    let ctx = DownstreamContext { framing: OutFraming::None, keep_alive: false, ..downstream(&us, &date) };
    write_downstream_response(input, &response(input, Method::Get), &ctx, &mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nVia: 1.1 n1\r\n\r\n"
    );
}

fn stored() -> Vec<u8> {
    let input = b"HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nContent-Length: 10\r\nETag: \"e\"\r\nAge: 5\r\nX-A: 1\r\n\
        Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\nVary: Accept\r\nTransfer-Encoding : chunked\r\n\r\n";
    let input = String::from_utf8_lossy(input).replace("Content-Length: 10\r\n", "").into_bytes();
    let mut out = Vec::new();
    write_stored_head(&input, &response(&input, Method::Get), &us().name, &HttpDate::new(NOW_S), 0, &mut out);
    out
}

fn hit() -> HitContext<'static> {
    HitContext {
        client: Version::Http11,
        framing: OutFraming::Length(10),
        keep_alive: true,
        age_s: 42,
        extra: b"X-Cache: hit\r\n",
    }
}

#[test]
fn a_hit() {
    let stored = stored();
    let fields = "Content-Type: text/css\r\nETag: \"e\"\r\nX-A: 1\r\nLast-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\n\
        Vary: Accept\r\nVia: 1.1 n1\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    assert_eq!(String::from_utf8_lossy(&stored), format!("HTTP/1.1 200 OK\r\n{fields}"));
    let mut out = Vec::new();
    write_hit(&stored, &hit(), &mut out);
    let tail = "Content-Length: 10\r\nAge: 42\r\nX-Cache: hit\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), format!("HTTP/1.1 200 OK\r\n{fields}{tail}"));
    let names: Vec<FieldId> = stored_fields(&stored).map(|(_, _, id)| id).collect();
    assert_eq!(names.len(), 7);
    assert!(names.contains(&FieldId::Vary));

    out.clear();
    write_partial_hit(&stored, Some((2, 5)), 10, &hit(), &mut out);
    let tail = "Content-Range: bytes 2-4/10\r\nContent-Length: 3\r\nAge: 42\r\nX-Cache: hit\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), format!("HTTP/1.1 206 Partial Content\r\n{fields}{tail}"));

    out.clear();
    write_partial_hit(&stored, None, 10, &hit(), &mut out);
    let text = String::from_utf8_lossy(&out);
    assert!(text.starts_with("HTTP/1.1 416 Range Not Satisfiable\r\n"), "{text}");
    assert!(text.contains("Content-Range: bytes */10\r\nContent-Length: 0\r\n"), "{text}");
}

#[test]
fn not_modified_and_freshened() {
    let stored = stored();
    let mut out = Vec::new();
    write_not_modified(&stored, &hit(), &mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\nVary: Accept\r\nVia: 1.1 n1\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nAge: 42\r\nX-Cache: hit\r\n\r\n"
    );
    let fresh = b"HTTP/1.1 304 Not Modified\r\nx-a: 2\r\nX-B: 3\r\nCache-Control: max-age=9\r\nContent-Type: no\r\nContent-Length: 77\r\n\
        Date: Sun, 06 Nov 1994 09:00:00 GMT\r\nETag: \"e\"\r\n\r\n";
    let head = response(fresh, Method::Get);
    out.clear();
    write_freshened_head(&stored, fresh, &head, &us().name, &HttpDate::new(0), &mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nLast-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\nVary: Accept\r\n\
         x-a: 2\r\nX-B: 3\r\nCache-Control: max-age=9\r\nDate: Sun, 06 Nov 1994 09:00:00 GMT\r\nETag: \"e\"\r\nVia: 1.1 n1\r\n"
    );
}

#[test]
fn conditions() {
    let stored =
        Validators { etag: Some(b"W/\"b\\\""), last_modified_s: Some(NOW_S), date_s: Some(NOW_S + 60) };
    let nothing = Validators { date_s: Some(NOW_S), ..Validators::default() };
    let same = "Sun, 06 Nov 1994 08:49:37 GMT";
    let before = "Sunday, 06-Nov-94 08:49:36 GMT";
    let table: &[(&str, &Validators<'_>, bool)] = &[
        ("If-None-Match: *", &stored, true),
        ("If-None-Match: *", &nothing, true),
        ("If-None-Match: \"b\\\"", &stored, true),
        ("If-None-Match: W/\"b\\\"", &stored, true),
        ("If-None-Match: \"a,\", \"c\" ,,W/\"b\\\"", &stored, true),
        ("If-None-Match: \"a\"\r\nIf-None-Match: \"b\\\"", &stored, true),
        ("If-None-Match: \"a\"", &stored, false),
        ("If-None-Match: b", &stored, false),
        ("If-None-Match: \"b\\\"", &nothing, false),
        ("If-None-Match: \"a\"x, \"b\\\"", &stored, false),
        (&format!("If-Modified-Since: {same}"), &stored, true),
        (&format!("If-Modified-Since: {same}"), &nothing, true),
        (&format!("If-Modified-Since: {before}"), &stored, false),
        ("If-Modified-Since: Sun Nov  6 08:49:37 1994", &stored, true),
        ("If-Modified-Since: yesterday", &stored, false),
        (&format!("If-Modified-Since: {same}\r\nIf-Modified-Since: {same}"), &stored, false),
        (&format!("If-Modified-Since: {same}\r\nIf-None-Match: \"a\""), &stored, false),
        ("X: y", &stored, false),
    ];
    for (fields, validators, not_modified) in table {
        let expected = if *not_modified { Conditional::NotModified } else { Conditional::Proceed };
        let get = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        assert_eq!(
            evaluate_conditional(&request(get.as_bytes()), get.as_bytes(), validators),
            expected,
            "{fields}"
        );
        let post = get.replace("GET", "POST");
        let outcome = evaluate_conditional(&request(post.as_bytes()), post.as_bytes(), validators);
        assert_eq!(outcome, Conditional::Proceed, "POST {fields}");
    }
}

#[test]
fn ranges() {
    let strong = Validators { etag: Some(b"\"e\""), last_modified_s: Some(NOW_S), date_s: Some(NOW_S + 60) };
    let weak = Validators { etag: Some(b"W/\"e\""), last_modified_s: Some(NOW_S), date_s: Some(NOW_S) };
    let part = RangeOutcome::Part { start: 1, end: 3 };
    let date = "If-Range: Sun, 06 Nov 1994 08:49:37 GMT";
    let table: &[(&str, &str, &Validators<'_>, RangeOutcome)] = &[
        ("GET", "Range: bytes=1-2", &strong, part),
        ("HEAD", "Range: bytes=1-2", &strong, RangeOutcome::Whole),
        ("GET", "X: y", &strong, RangeOutcome::Whole),
        ("GET", "Range: bytes=1-2\r\nRange: bytes=1-2", &strong, RangeOutcome::Whole),
        ("GET", "Range: bytes=1-2\r\nIf-Range: \"e\"", &strong, part),
        ("GET", "Range: bytes=1-2\r\nIf-Range: \"f\"", &strong, RangeOutcome::Whole),
        ("GET", "Range: bytes=1-2\r\nIf-Range: W/\"e\"", &weak, RangeOutcome::Whole),
        ("GET", &format!("Range: bytes=1-2\r\n{date}"), &strong, part),
        ("GET", &format!("Range: bytes=1-2\r\n{date}"), &weak, RangeOutcome::Whole),
        ("GET", "Range: bytes=10-", &strong, RangeOutcome::Unsatisfiable),
    ];
    for (method, fields, validators, expected) in table {
        let input = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let outcome = evaluate_range(&request(input.as_bytes()), input.as_bytes(), 10, validators);
        assert_eq!(outcome, *expected, "{method} {fields}");
    }
}

#[test]
fn own_answers_parse_and_end_where_they_say() {
    let date = HttpDate::new(NOW_S);
    for status in [204, 400, 404, 405, 413, 414, 417, 431, 501, 502, 503, 504, 505, 599] {
        for (close, head_only) in [(true, false), (false, false), (false, true)] {
            let mut out = Vec::new();
            write_error(status, "bare_lf\"\r\n", close, head_only, &date, &mut out);
            let head = response(&out, if head_only { Method::Head } else { Method::Get });
            assert_eq!((head.status, head.keep_alive), (status, !close), "{}", out.escape_ascii());
            let head_len = out.windows(4).position(|w| w == b"\r\n\r\n").expect("an empty line") + 4;
            let body = &out[head_len..];
            match head.framing {
                BodyFraming::Length(n) => assert_eq!(n, body.len() as u64),
                framing => assert!(framing == BodyFraming::None && body.is_empty(), "{status} {framing:?}"),
            }
            if status == 400 && !head_only {
                let text = "{\"title\":\"Bad Request\",\"status\":400,\"detail\":\"bare_lf___\"}\n";
                assert_eq!(String::from_utf8_lossy(body), text);
            }
        }
    }
    let mut out = Vec::new();
    write_options_answer(true, Version::Http10, &date, &mut out);
    let head = response(&out, Method::Options);
    assert_eq!((head.status, head.framing), (204, BodyFraming::None));
    assert!(head.fields(&out).get(FieldId::Connection).is_some() && out.windows(7).any(|w| w == b"Allow: "));
}

const FIELDS: &[&str] = &[
    "Content-Length: 5",
    "Content-Length: 0",
    "Transfer-Encoding: chunked",
    "transfer-ENCODING:chunked",
    "Connection: close",
    "Connection: content-length, x-a",
    "Connection: transfer-encoding",
    "Connection: host",
    "X-A: b",
    "Upgrade: h2c",
    "Keep-Alive: x",
    "Via: 1.1 a",
    "X-Forwarded-For: 1.2.3.4",
    "Forwarded: for=x",
    "TE: trailers",
    "Expect: 100-continue",
    "Trailer: X",
    "Sluice-Hop: x",
    "Cookie: a=b",
    "Accept:*/*",
    "ETag \t: \"x\"",
    "Content_Length: 5",
    "X-Content-Length: 7",
];

fn fields() -> impl Strategy<Value = String> {
    let line = prop_oneof![4 => prop::sample::select(FIELDS).prop_map(str::to_owned), 1 => "[A-Za-z-]{1,20}:[ -~]{0,30}"];
    prop::collection::vec(line.prop_map(|line| line + "\r\n"), 0..8).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// What goes upstream parses, means the same, and names its framing once.
    #[test]
    fn a_rewritten_request_has_one_reading(
        fields in fields(),
        line in prop::sample::select(&["GET /a?b HTTP/1.1", "POST http://b:8/x HTTP/1.1", "PUT /x HTTP/1.0", "M /x HTTP/1.9"][..]),
    ) {
        let input = format!("{line}\r\nHost: A:80\r\n{fields}\r\n").into_bytes();
        let mut head = RequestHead::new();
        if let Ok(Parse::Complete { .. }) = parse_request(&input, &Limits::DEFAULT, &mut head) {
            let us = us();
            let mut out = Vec::new();
            write_upstream_request(&input, &head, &UpstreamContext { hop: Some(b"h"), ..us.context() }, &mut out);
            let mut again = RequestHead::new();
            let parse = parse_request(&out, &Limits::DEFAULT, &mut again);
            prop_assert_eq!(parse, Ok(Parse::Complete { head_len: out.len() }), "{}", out.escape_ascii());
            prop_assert_eq!(again.method_token(&out), head.method_token(&input));
            prop_assert_eq!(again.path_and_query(&out), head.path_and_query(&input));
            prop_assert_eq!((again.host(), again.port), (head.host(), head.port));
            prop_assert_eq!(again.framing, head.framing);
            prop_assert_eq!(again.version, Version::Http11);
            let lengths = usize::from(again.fields.has(FieldId::ContentLength));
            let codings = usize::from(again.fields.has(FieldId::TransferEncoding));
            prop_assert!(lengths + codings <= 1 && !again.fields.is_repeated(FieldId::ContentLength));
            let after = again.fields(&out);
            for id in [FieldId::Connection, FieldId::KeepAlive, FieldId::Te, FieldId::Upgrade, FieldId::Expect] {
                prop_assert!(!again.fields.has(id), "{:?}", id);
            }
            prop_assert_eq!(after.all(FieldId::SluiceHop).collect::<Vec<_>>(), [b"h"]);
            prop_assert_eq!(after.all(FieldId::Cookie).count(), head.fields(&input).all(FieldId::Cookie).count());
        }
    }

    /// What goes to the client parses with the framing that was decided, stored or not.
    #[test]
    fn a_rewritten_response_has_one_reading(
        fields in fields(),
        line in prop::sample::select(&["HTTP/1.1 200 OK", "HTTP/1.0 404", "HTTP/1.1 304 X", "HTTP/1.1 204 ", "HTTP/1.1 206 P"][..]),
        head_request in any::<bool>(),
        old_client in any::<bool>(),
    ) {
        let method = if head_request { Method::Head } else { Method::Get };
        let client = if old_client { Version::Http10 } else { Version::Http11 };
        let input = format!("{line}\r\n{fields}\r\n").into_bytes();
        let mut head = ResponseHead::new();
        if let Ok(Parse::Complete { .. }) = parse_response(&input, &Limits::DEFAULT, method, &mut head) {
            let (us, date) = (us(), HttpDate::new(NOW_S));
            let framing = downstream_framing(head.framing, head.declared_length, client, method, head.status);
            let mut out = Vec::new();
            let ctx = DownstreamContext { client, framing, ..downstream(&us, &date) };
            write_downstream_response(&input, &head, &ctx, &mut out);
            check_response(&out, method, framing)?;

            let mut stored = Vec::new();
            write_stored_head(&input, &head, &us.name, &date, 0, &mut stored);
            const NEVER: u64 = FieldId::ContentLength.bit()
                | FieldId::TransferEncoding.bit()
                | FieldId::Connection.bit()
                | FieldId::Age.bit();
            let clean = stored_fields(&stored).all(|(_, _, id)| NEVER & id.bit() == 0);
            prop_assert!(clean);
            out.clear();
            write_hit(&stored, &HitContext { client, framing, ..hit() }, &mut out);
            check_response(&out, method, framing)?;
        }
    }
}

fn check_response(out: &[u8], method: Method, framing: OutFraming) -> Result<(), TestCaseError> {
    let mut again = ResponseHead::new();
    let parse = parse_response(out, &Limits::DEFAULT, method, &mut again);
    prop_assert_eq!(parse, Ok(Parse::Complete { head_len: out.len() }), "{}", out.escape_ascii());
    let no_body = method == Method::Head || matches!(again.status, 204 | 304);
    let expected = match framing {
        _ if no_body => BodyFraming::None,
        OutFraming::Length(n) => BodyFraming::Length(n),
        OutFraming::Chunked => BodyFraming::Chunked,
        OutFraming::None | OutFraming::UntilClose => BodyFraming::UntilClose,
    };
    prop_assert_eq!(again.framing, expected);
    prop_assert!(!(again.fields.has(FieldId::ContentLength) && again.fields.has(FieldId::TransferEncoding)));
    prop_assert!(again.fields.has(FieldId::Date) || again.status < 200);
    Ok(())
}
