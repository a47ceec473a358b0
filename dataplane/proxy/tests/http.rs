//! HTTP/1.1 through a real proxy process: framing, persistence, errors.

mod common;

use common::{Client, Origin, Proxy, by_target, eventually, respond};
use std::io::Write;

const NO_STORE: &str = "Cache-Control: no-store\r\n";

#[test]
fn requests_of_one_connection_are_answered_in_order_and_share_an_upstream() {
    let origin = Origin::fixed(NO_STORE);
    let proxy = Proxy::to(&origin, &["--workers", "1"]);
    let mut client = proxy.connect();
    let many: String = (0..50).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a.example\r\n\r\n")).collect();
    client.write(many);
    for i in 0..50 {
        let response = client.read("GET");
        assert_eq!((response.status, response.text()), (200, format!("body of /{i}")));
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), 50);
    assert!(seen.iter().all(|s| s.connection == seen[0].connection), "one upstream connection is enough");
    assert_eq!(seen[0].field("host"), Some("a.example"));
    assert_eq!(seen[0].field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(seen[0].field("via").is_some_and(|v| v.starts_with("1.1 ")));
}

#[test]
fn bodies_pass_in_both_directions_whatever_their_framing() {
    let origin = Origin::new(|seen, stream| {
        let body = [b"echo ", seen.body.as_slice()].concat();
        if seen.target == "/chunked" {
            let head = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut out = head.as_bytes().to_vec();
            for part in body.chunks(7) {
                out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                out.extend_from_slice(part);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\nX-Sum: 9\r\n\r\n");
            stream.write_all(&out).unwrap();
            true
        } else if seen.target == "/close" {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n")
                .unwrap();
            stream.write_all(&body).unwrap();
            false
        } else {
            respond(stream, "200 OK", "Cache-Control: no-store\r\n", &body);
            true
        }
    });
    let proxy = Proxy::to(&origin, &[]);
    let mut client = proxy.connect();
    for target in ["/length", "/chunked", "/close"] {
        client.write(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"));
        let response = client.read("POST");
        assert_eq!((response.status, response.text()), (200, "echo hello world".into()), "{target}");
        client.write(format!(
            "PUT {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n"
        ));
        let response = client.read("PUT");
        assert_eq!((response.status, response.text()), (200, "echo hello world".into()), "{target}");
        let trailers = if target == "/chunked" { vec!["X-Sum: 9".to_owned()] } else { vec![] };
        assert_eq!(response.trailers, trailers);
    }
    // An HTTP/1.0 client gets no chunks; the end of the connection ends the body.
    let mut old = proxy.connect();
    old.write("GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n");
    let response = old.read("GET");
    assert_eq!(response.field("transfer-encoding"), None);
    assert_eq!(response.text(), "echo ");
    let large = vec![b'x'; 3_000_000];
    client.write(format!("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", large.len()));
    let mut writer = client.stream.try_clone().unwrap();
    let copy = large.clone();
    let sender = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    assert!(client.read("POST").body == [b"echo ", large.as_slice()].concat());
    sender.join().unwrap();
}

#[test]
fn every_ambiguous_request_is_refused_and_the_connection_closed() {
    let origin = Origin::fixed(NO_STORE);
    let proxy = Proxy::to(&origin, &[]);
    let cases: &[(&str, u16, &str)] = &[
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            400,
            "duplicate_content_length",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "content_length_with_transfer_encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            "unknown_transfer_coding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            400,
            "invalid_transfer_encoding",
        ),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "transfer_encoding_http10"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400, "invalid_content_length"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400, "obs_fold"),
        ("GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", 400, "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n", 400, "bare_cr"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "space_before_colon"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "missing_host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "duplicate_host"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "invalid_host"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "unsupported_version"),
        ("GET /\r\n\r\n", 400, "http09"),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_method"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400, "invalid_field_value"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 200-ok\r\n\r\n",
            417,
            "unknown_expectation",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            400,
            "invalid_chunk_size",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            400,
            "chunk_data_end",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nab\r\n", 400, "bare_lf"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            400,
            "chunk_size_overflow",
        ),
    ];
    for (request, status, reason) in cases {
        let before = proxy.refused(reason);
        let mut client = proxy.connect();
        // What follows must not be taken for a request.
        client.write(format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.read("GET");
        assert_eq!(response.status, *status, "{request:?}");
        assert!(response.text().contains(reason), "{request:?}: {}", response.text());
        assert!(client.is_closed(), "{request:?}");
        assert_eq!(proxy.refused(reason), before + 1, "{request:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(40_000));
    assert_eq!(proxy.connect().write(long).read("GET").status, 431);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(9_000));
    assert_eq!(proxy.connect().write(long).read("GET").status, 414);
    assert!(!by_target(&origin.seen()).contains_key("/smuggled"));
}

#[test]
fn requests_arriving_byte_by_byte_mean_the_same() {
    let origin = Origin::fixed(NO_STORE);
    let proxy = Proxy::to(&origin, &[]);
    let mut client = proxy.connect();
    let request = "POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for byte in request.bytes() {
        client.write([byte]);
    }
    assert_eq!(client.read("POST").text(), "body of /slow");
    assert_eq!(client.read("GET").text(), "body of /next");
    assert_eq!(origin.seen()[0].body, b"abc");
}

#[test]
fn interim_100_head_options_and_upgrade() {
    let origin = Origin::fixed(NO_STORE);
    let proxy = Proxy::to(&origin, &[]);
    let mut client = proxy.connect();
    client.write("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.read("POST").status, 100);
    client.write("ok");
    assert_eq!(client.read("POST").status, 200);
    assert_eq!(origin.seen()[0].field("expect"), None);
    client.write("HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.read("HEAD");
    assert_eq!((head.status, head.field("content-length"), head.body.len()), (200, Some("10"), 0));
    client.write("GET /up HTTP/1.1\r\nHost: a\r\nConnection: upgrade, x-secret\r\nUpgrade: websocket\r\nX-Secret: 1\r\n\r\n");
    assert_eq!(client.read("GET").status, 200);
    let seen = origin.seen().pop().unwrap();
    assert_eq!((seen.field("upgrade"), seen.field("x-secret")), (None, None));
    client.write("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read("TRACE").status, 405);
    let mut other = proxy.connect();
    other.write("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
    assert_eq!(other.read("CONNECT").status, 501);
    assert!(other.is_closed());
}

#[test]
fn a_stale_pooled_connection_costs_a_retry_and_no_error() {
    // Each connection serves one request, says it stays, and closes.
    let origin = Origin::new(|seen, stream| {
        respond(stream, "200 OK", "Cache-Control: no-store\r\n", seen.target.as_bytes());
        seen.target != "/last"
    });
    let proxy = Proxy::to(&origin, &["--workers", "1"]);
    let mut client = proxy.connect();
    for i in 0..20 {
        assert_eq!(client.get("/last").status, 200, "request {i}");
    }
    assert_eq!(origin.count(), 20);
}

#[test]
fn upstream_failures_have_their_status() {
    let origin = Origin::new(|seen, stream| {
        match seen.target.as_str() {
            "/garbage" => stream.write_all(b"HTTP/9 what\r\n\r\n").unwrap(),
            "/both" => stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
                .unwrap(),
            "/short" => stream
                .write_all(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 100\r\n\r\nabc")
                .unwrap(),
            _ => {}
        }
        false
    });
    let proxy = Proxy::to(&origin, &[]);
    for target in ["/garbage", "/both", "/nothing"] {
        assert_eq!(proxy.get(target).status, 502, "{target}");
    }
    let mut client = proxy.connect();
    client.write("GET /short HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.try_read("GET").is_err(), "a body cut short must not look whole");
    origin.stop();
    assert_eq!(proxy.get("/down").status, 502);
    assert!(proxy.counter("upstream_cut") >= 1);
}

#[test]
fn a_slow_client_does_not_make_the_proxy_hold_the_whole_body() {
    let origin = Origin::new(|_, stream| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 268435456\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let block = vec![0; 1 << 20];
        for _ in 0..256 {
            if stream.write_all(&block).is_err() {
                return false;
            }
        }
        true
    });
    let proxy = Proxy::to(&origin, &["--workers", "1"]);
    let mut client = proxy.connect();
    client.write("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 200);
    // What is buffered: the sockets of both sides (some MiB each) and the queue; then nothing moves.
    let mut last = 0;
    eventually("the upstream is no longer read", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = proxy.counter("upstream_bytes_in");
        std::mem::replace(&mut last, now) == now && now > 0
    });
    assert!(last < 64 << 20, "{last} bytes were read for a client that reads none");
    let mut total = 0;
    let mut buffer = vec![0; 1 << 20];
    while total < 256 << 20 {
        let n = std::io::Read::read(&mut client.stream, &mut buffer).unwrap();
        assert!(n > 0, "ended after {total}");
        total += n;
        if total > 200 << 20 {
            break;
        }
    }
}

#[test]
fn health_unknown_hosts_and_no_configuration() {
    let proxy = Proxy::start(&["--workers", "1", "--no-pin", "--cache", "4M"]);
    let health = proxy.get("/.sluice/health");
    assert_eq!((health.status, health.field("retry-after")), (503, Some("1")));
    assert_eq!(proxy.get("/").status, 503);
    let origin = Origin::fixed(NO_STORE);
    let change = serde_json::json!({"op": "apply", "revision": 3,
        "origins": [{"name": "o", "addresses": [origin.addr.to_string()]}],
        "sites": [{"host": "a.example", "origin": "o", "group": "g",
                   "routes": [{"path": "/"}, {"path": "/none", "origin": "o", "cache": false}]}]});
    assert_eq!(proxy.admin(&change)["ok"]["sites"], 1);
    assert_eq!(proxy.get("/.sluice/health").status, 200);
    assert_eq!(proxy.get("/x").text(), "body of /x");
    let mut client = Client::connect(proxy.addr);
    client.write("GET / HTTP/1.1\r\nHost: b.example\r\n\r\n");
    assert_eq!(client.read("GET").status, 421);
    let bad = serde_json::json!({"op": "apply", "revision": 4, "sites": [{"host": "c.example", "origin": "nope", "group": "g"}]});
    let reply = proxy.admin(&bad);
    assert_eq!(reply["error"]["field"], "sites[0].origin", "{reply}");
    let reply = proxy.admin(&serde_json::json!({"op": "apply", "revision": 2}));
    assert_eq!(reply["error"]["field"], "revision", "{reply}");
    let reply = proxy.admin(&serde_json::json!({"op": "apply", "revision": 5, "bogus": 1}));
    assert!(reply["error"]["message"].as_str().is_some_and(|m| m.contains("bogus")), "{reply}");
    assert_eq!(proxy.stats()["revision"], 3);
}
