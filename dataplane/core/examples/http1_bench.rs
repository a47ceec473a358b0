//! Nanoseconds per message of the HTTP/1.1 layer beside httparse, in one run, rounds interleaved, medians.
//!
//! `cargo run --release -p sluice-core --example http1_bench [rounds]`

use sluice_core::http1::{
    ClientAddr, DownstreamContext, ForwardedPolicy, HitContext, HttpDate, Limits, Method, OutFraming,
    ProxyName, RequestHead, ResponseHead, UpstreamContext, Version, parse_request, parse_response,
    write_downstream_response, write_hit, write_stored_head, write_upstream_request,
};
use std::hint::black_box;
use std::time::Instant;

/// What a browser sends: 13 fields, 700 bytes.
const BROWSER: &[u8] = b"GET /static/js/app.4f3a9c1e.js?v=20240611 HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\nsec-ch-ua: \"Chromium\";v=\"124\", \"Google Chrome\";v=\"124\", \"Not-A.Brand\";v=\"99\"\r\nsec-ch-ua-mobile: ?0\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36\r\nsec-ch-ua-platform: \"Linux\"\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\nReferer: https://www.example.com/articles/2024/06/a-long-headline-about-something\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\r\n";

/// What a load generator sends.
const SMALL: &[u8] = b"GET /1k HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.26.0\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: application/javascript\r\nContent-Length: 1024\r\nLast-Modified: Sat, 05 Nov 1994 08:49:37 GMT\r\nConnection: keep-alive\r\nVary: Accept-Encoding\r\nETag: \"6650a1b2-400\"\r\nCache-Control: public, max-age=3600\r\nAccept-Ranges: bytes\r\n\r\n";

/// Calls a timed round; long enough that the clock's own cost vanishes.
const CALLS: u32 = 20_000;

struct Case {
    name: &'static str,
    run: Box<dyn FnMut()>,
    ns: Vec<f64>,
}

fn case(name: &'static str, run: impl FnMut() + 'static) -> Case {
    Case { name, run: Box::new(run), ns: Vec::new() }
}

fn upstream<'a>(name: &'a ProxyName, client: &'a ClientAddr) -> UpstreamContext<'a> {
    UpstreamContext {
        name,
        client,
        scheme: "http",
        forwarded: ForwardedPolicy::Append,
        host: None,
        hop: None,
        method: None,
        strip: 0,
        extra: b"",
    }
}

fn parse_cases(cases: &mut Vec<Case>) {
    for (name, oracle, input) in [
        ("parse_request browser", "httparse request browser", BROWSER),
        ("parse_request small", "httparse request small", SMALL),
    ] {
        let mut head = RequestHead::new();
        cases.push(case(name, move || {
            parse_request(black_box(input), &Limits::DEFAULT, &mut head).expect("good request");
            black_box(&head);
        }));
        cases.push(case(oracle, move || {
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut request = httparse::Request::new(&mut fields);
            black_box(request.parse(black_box(input)).expect("good request"));
            black_box(&request);
        }));
    }
    let mut head = ResponseHead::new();
    cases.push(case("parse_response", move || {
        parse_response(black_box(RESPONSE), &Limits::DEFAULT, Method::Get, &mut head).expect("good response");
        black_box(&head);
    }));
    cases.push(case("httparse response", || {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        black_box(response.parse(black_box(RESPONSE)).expect("good response"));
        black_box(&response);
    }));
}

fn write_cases(cases: &mut Vec<Case>) {
    let name = ProxyName::new("n1");
    let client = ClientAddr::new([192, 0, 2, 1].into());
    for (case_name, input) in [("write_upstream browser", BROWSER), ("write_upstream small", SMALL)] {
        let mut head = RequestHead::new();
        parse_request(input, &Limits::DEFAULT, &mut head).expect("good request");
        let (name, client) = (name.clone(), client.clone());
        let mut out = Vec::with_capacity(4096);
        cases.push(case(case_name, move || {
            out.clear();
            write_upstream_request(black_box(input), black_box(&head), &upstream(&name, &client), &mut out);
            black_box(&out);
        }));
    }
    let mut head = ResponseHead::new();
    parse_response(RESPONSE, &Limits::DEFAULT, Method::Get, &mut head).expect("good response");
    let date = HttpDate::new(784_111_777);
    let mut stored = Vec::new();
    write_stored_head(RESPONSE, &head, &name, &date, 0, &mut stored);
    let mut out = Vec::with_capacity(4096);
    cases.push(case("write_downstream", move || {
        out.clear();
        let ctx = DownstreamContext {
            name: &name,
            client: Version::Http11,
            framing: OutFraming::Length(1024),
            keep_alive: true,
            age_s: None,
            date: &date,
            strip: 0,
            extra: b"",
        };
        write_downstream_response(black_box(RESPONSE), black_box(&head), &ctx, &mut out);
        black_box(&out);
    }));
    let mut out = Vec::with_capacity(4096);
    cases.push(case("write_hit", move || {
        out.clear();
        let ctx = HitContext {
            client: Version::Http11,
            framing: OutFraming::Length(1024),
            keep_alive: true,
            age_s: 77,
            extra: b"",
        };
        write_hit(black_box(&stored), &ctx, &mut out);
        black_box(&out);
    }));
}

/// Nanoseconds a byte of a head of `len` bytes that comes one byte at a time; the same for any length.
fn slow_sender(len: usize) -> f64 {
    let value = "v".repeat(len / 2 - 20);
    let head_bytes = format!("GET /{value} HTTP/1.1\r\nHost: a\r\nX: {value}\r\n\r\n").into_bytes();
    let limits = Limits { head_bytes: 65_535, request_line_bytes: 65_535, ..Limits::DEFAULT };
    let mut head = RequestHead::new();
    let start = Instant::now();
    for end in 1..=head_bytes.len() {
        parse_request(black_box(&head_bytes[..end]), &limits, &mut head).expect("good so far");
    }
    start.elapsed().as_nanos() as f64 / head_bytes.len() as f64
}

fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(51);
    let mut cases = Vec::new();
    parse_cases(&mut cases);
    write_cases(&mut cases);
    for _ in 0..rounds.max(1) {
        for case in &mut cases {
            let start = Instant::now();
            for _ in 0..CALLS {
                (case.run)();
            }
            case.ns.push(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
        }
    }
    println!(
        "browser request {} bytes, small {} bytes, response {} bytes",
        BROWSER.len(),
        SMALL.len(),
        RESPONSE.len()
    );
    println!("{:<28} {:>10} {:>10}", "ns per call", "median", "min");
    for case in &mut cases {
        case.ns.sort_by(f64::total_cmp);
        println!("{:<28} {:>10.1} {:>10.1}", case.name, case.ns[case.ns.len() / 2], case.ns[0]);
    }
    for len in [1_000, 8_000, 64_000] {
        println!("slow sender, {len:>6} bytes one by one: {:.1} ns a byte", slow_sender(len));
    }
}
