//! Properties of the parsers: httparse as oracle, any split gives the same result.

use proptest::prelude::*;
use sluice_core::http1::{
    Limits, Method, Parse, RequestError, RequestHead, ResponseError, ResponseHead, Version, parse_request,
    parse_response,
};

const LIMITS: Limits = Limits { head_bytes: 400, request_line_bytes: 80, fields: 12, ..Limits::DEFAULT };

/// Pieces that requests are made of, good and bad; random ones are added by the strategies.
const PIECES: &[&str] = &[
    "GET",
    "POST",
    "OPTIONS",
    "PRI",
    " ",
    "  ",
    "/",
    "*",
    "/a?b",
    "http://h",
    "http://H:81/x",
    "https://h/",
    "#",
    "é",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.5",
    "HTTP/2.0",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "\t",
    "\0",
    "\x7f",
    ":",
    ": ",
    ",",
    "Host: h\r\n",
    "Host: h\r\n",
    "host:H.:80 \r\n",
    "Host: \r\n",
    "Content-Length: 5\r\n",
    "content-length:5, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: close\r\n",
    "Connection: x-a, keep-alive\r\n",
    "X-A: b\r\n",
    "X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
    "Expect: 100-continue\r\n",
    "Expect: y\r\n",
    " folded\r\n",
    "Name : v\r\n",
    "ETag: \"x\"\r\n",
    "Via: 1.1 a\r\n",
    "TE: trailers\r\n",
    "Set-Cookie: \u{ff}\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 204\r\n",
    "HTTP/1.0 304 N\r\n",
    "100",
    "600",
];

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        12 => prop::sample::select(PIECES).prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
        1 => "[a-zA-Z-]{1,40}: [ -~]{0,60}\r\n".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A request that is mostly right: line, fields, end.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        3 => prop::sample::select(PIECES).prop_filter("field lines", |s| s.ends_with("\r\n") && s.contains(':')),
        1 => Just("X: y\r\n"),
    ];
    let line = prop::sample::select(
        &[
            "GET / HTTP/1.1\r\n",
            "POST /p?q=1 HTTP/1.1\r\n",
            "GET http://o:8/ HTTP/1.1\r\n",
            "HEAD /x HTTP/1.0\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "\r\nBREW /pot HTTP/1.1\r\n",
        ][..],
    );
    (line, prop::collection::vec(field, 0..8), any::<bool>()).prop_map(|(line, fields, host)| {
        let host = if host { "Host: example.com\r\n" } else { "" };
        format!("{line}{host}{}\r\n", fields.concat()).into_bytes()
    })
}

fn response() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(
        &["HTTP/1.1 200 OK\r\n", "HTTP/1.1 304\r\n", "HTTP/1.0 404 \r\n", "HTTP/1.1 100 C\r\n"][..],
    );
    let field =
        prop::sample::select(PIECES).prop_filter("field lines", |s| s.ends_with("\r\n") && s.contains(':'));
    (line, prop::collection::vec(field, 0..8))
        .prop_map(|(line, fields)| format!("{line}{}\r\n", fields.concat()).into_bytes())
}

/// Everything a caller can see of a parse, as text.
fn seen(result: Result<Parse, RequestError>, head: &RequestHead, buf: &[u8]) -> String {
    match result {
        Ok(Parse::Complete { .. }) => {
            let fields: Vec<_> = head.fields(buf).iter().collect();
            format!("{result:?} {head:?} {fields:?}")
        }
        other => format!("{other:?}"),
    }
}

/// Feeds growing prefixes that end at `cuts`, then all, until the parse is decided.
fn fed<T: std::fmt::Debug, E: Copy>(
    input: &[u8],
    cuts: &[usize],
    mut parse: impl FnMut(&[u8]) -> Result<Parse, E>,
    show: impl Fn(Result<Parse, E>, &[u8]) -> T,
) -> T {
    for &cut in cuts {
        // A copy at another address: heads hold offsets, not pointers.
        let prefix = input[..cut].to_vec();
        match parse(&prefix) {
            Ok(Parse::Partial) => {}
            decided => return show(decided, &prefix),
        }
    }
    show(parse(input), input)
}

fn cuts(len: usize, seeds: &[prop::sample::Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> = seeds.iter().map(|i| i.index(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

fn check_request_splits(input: &[u8], at: &[usize]) -> Result<(), TestCaseError> {
    let mut whole = RequestHead::new();
    let result = parse_request(input, &LIMITS, &mut whole);
    let expected = seen(result, &whole, input);
    let head = std::cell::RefCell::new(RequestHead::new());
    let got = fed(
        input,
        at,
        |bytes| parse_request(bytes, &LIMITS, &mut head.borrow_mut()),
        |result, bytes| seen(result, &head.borrow(), bytes),
    );
    prop_assert_eq!(got, expected);
    Ok(())
}

fn check_against_httparse(input: &[u8]) -> Result<(), TestCaseError> {
    let mut head = RequestHead::new();
    let Ok(Parse::Complete { head_len }) = parse_request(input, &LIMITS, &mut head) else { return Ok(()) };
    // httparse knows minor versions 0 and 1 only; RFC 9110 section 2.5 wants higher ones read as 1.1.
    let mut copy = input.to_vec();
    let version = copy.windows(7).position(|w| w == b"HTTP/1.").expect("accepted, so it has a version") + 7;
    copy[version] = if head.version == Version::Http10 { b'0' } else { b'1' };
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut oracle = httparse::Request::new(&mut fields);
    prop_assert_eq!(oracle.parse(&copy), Ok(httparse::Status::Complete(head_len)));
    prop_assert_eq!(oracle.method.map(str::as_bytes), Some(head.method_token(input)));
    prop_assert_eq!(oracle.path.map(str::as_bytes), Some(head.target(input)));
    prop_assert_eq!(oracle.version, Some(if head.version == Version::Http10 { 0 } else { 1 }));
    let ours: Vec<(&[u8], &[u8])> = head.fields(input).iter().map(|(name, value, _)| (name, value)).collect();
    let theirs: Vec<(&[u8], &[u8])> = oracle.headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
    prop_assert_eq!(ours, theirs);
    Ok(())
}

fn seen_response(result: Result<Parse, ResponseError>, head: &ResponseHead, buf: &[u8]) -> String {
    match result {
        Ok(Parse::Complete { .. }) => {
            let fields: Vec<_> = head.fields(buf).iter().collect();
            format!("{result:?} {head:?} {fields:?}")
        }
        other => format!("{other:?}"),
    }
}

fn check_response_splits(input: &[u8], at: &[usize], method: Method) -> Result<(), TestCaseError> {
    let mut whole = ResponseHead::new();
    let result = parse_response(input, &LIMITS, method, &mut whole);
    let expected = seen_response(result, &whole, input);
    let head = std::cell::RefCell::new(ResponseHead::new());
    let got = fed(
        input,
        at,
        |bytes| parse_response(bytes, &LIMITS, method, &mut head.borrow_mut()),
        |result, bytes| seen_response(result, &head.borrow(), bytes),
    );
    prop_assert_eq!(got, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn accepted_requests_are_accepted_by_httparse(input in prop_oneof![request(), pieces()]) {
        check_against_httparse(&input)?;
    }

    #[test]
    fn requests_may_be_split_anywhere(
        input in prop_oneof![request(), pieces()],
        seeds in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        check_request_splits(&input, &cuts(input.len(), &seeds))?;
    }

    #[test]
    fn requests_may_come_byte_by_byte(input in prop_oneof![request(), pieces()]) {
        check_request_splits(&input, &(0..=input.len()).collect::<Vec<_>>())?;
    }

    #[test]
    fn responses_may_be_split_anywhere(
        input in prop_oneof![response(), pieces()],
        seeds in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        head in any::<bool>(),
    ) {
        let method = if head { Method::Head } else { Method::Get };
        check_response_splits(&input, &cuts(input.len(), &seeds), method)?;
        check_response_splits(&input, &(0..=input.len()).collect::<Vec<_>>(), method)?;
    }

    #[test]
    fn accepted_responses_are_accepted_by_httparse(input in response()) {
        let mut head = ResponseHead::new();
        if let Ok(Parse::Complete { head_len }) = parse_response(&input, &LIMITS, Method::Get, &mut head) {
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut oracle = httparse::Response::new(&mut fields);
            let mut config = httparse::ParserConfig::default();
            config.allow_spaces_after_header_name_in_responses(true);
            let parsed = config.parse_response(&mut oracle, &input);
            prop_assert_eq!(parsed, Ok(httparse::Status::Complete(head_len)));
            prop_assert_eq!(oracle.code, Some(head.status));
            let ours: Vec<(&[u8], &[u8])> = head.fields(&input).iter().map(|(n, v, _)| (n, v)).collect();
            let theirs: Vec<(&[u8], &[u8])> = oracle.headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}

/// The strategies reach both outcomes, or the properties above say nothing.
#[test]
fn generated_requests_are_accepted_and_refused() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..500 {
        let input = request().new_tree(&mut runner).expect("a request").current();
        match parse_request(&input, &LIMITS, &mut RequestHead::new()) {
            Ok(Parse::Complete { .. }) => accepted += 1,
            Ok(Parse::Partial) => {}
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 50 && refused > 50, "{accepted} accepted, {refused} refused");
}
