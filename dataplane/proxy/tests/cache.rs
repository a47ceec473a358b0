//! The cache through a real proxy process.

mod common;

use common::{Origin, Proxy, Seen, respond};
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};

#[test]
fn a_fresh_response_is_fetched_once_and_served_whole() {
    let origin = Origin::new(|seen, stream| {
        let len: usize = seen.target.trim_start_matches('/').parse().unwrap();
        let body: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        respond(stream, "200 OK", "Cache-Control: max-age=60\r\nETag: \"e\"\r\n", &body);
        true
    });
    let proxy = Proxy::to(&origin, &[]);
    for len in [0usize, 1, 1024, 16 << 10, (16 << 10) + 1, 100_000, 1 << 20, 5_000_000] {
        let target = format!("/{len}");
        let first = proxy.get(&target);
        assert_eq!(first.cache_status(), "fwd=uri-miss; stored", "{len}");
        let mut client = proxy.connect();
        for _ in 0..3 {
            let hit = client.get(&target);
            assert_eq!((hit.status, hit.cache_status()), (200, "hit"), "{len}");
            assert!(hit.body == first.body && hit.body.len() == len, "{len}");
        }
    }
    assert_eq!(origin.count(), 8);
    let mut client = proxy.connect();
    let part = client.get_with("/100000", "Range: bytes=70000-70009\r\n");
    assert_eq!((part.status, part.field("content-range")), (206, Some("bytes 70000-70009/100000")));
    assert_eq!(part.body, (70_000..70_010).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    assert_eq!(client.get_with("/100000", "Range: bytes=100000-\r\n").status, 416);
    assert_eq!(client.get_with("/1024", "If-None-Match: \"e\"\r\n").status, 304);
    client.write("HEAD /1048576 HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.read("HEAD").field("content-length"), Some("1048576"));
    assert_eq!(origin.count(), 8);
}

#[test]
fn a_stale_response_is_validated_and_served_again() {
    let origin = Origin::new(|seen, stream| {
        if seen.field("if-none-match") == Some("\"v1\"") {
            stream
                .write_all(b"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nCache-Control: max-age=60\r\n\r\n")
                .unwrap();
        } else {
            respond(stream, "200 OK", "Cache-Control: max-age=0\r\nETag: \"v1\"\r\n", b"text");
        }
        true
    });
    let proxy = Proxy::to(&origin, &[]);
    assert_eq!(proxy.get("/").text(), "text");
    let again = proxy.get("/");
    assert_eq!((again.status, again.text().as_str()), (200, "text"));
    assert_eq!(again.cache_status(), "fwd=stale; fwd-status=304");
    assert_eq!(proxy.get("/").cache_status(), "hit");
    assert_eq!((origin.count(), proxy.counter("revalidated")), (2, 1));
}

#[test]
fn a_304_for_something_else_is_followed_by_a_fetch_without_conditions() {
    let origin = Origin::new(|seen, stream| {
        let mismatched = b"HTTP/1.1 304 Not Modified\r\nETag: \"other\"\r\n\r\n";
        match (seen.target.as_str(), seen.field("if-none-match")) {
            (_, Some(_)) => stream.write_all(mismatched).unwrap(),
            ("/broken", None) if seen.connection > 0 => stream.write_all(mismatched).unwrap(),
            (_, None) => {
                let body = if seen.connection == 0 { "old" } else { "new" };
                respond(stream, "200 OK", "Cache-Control: max-age=0\r\nETag: \"v1\"\r\n", body.as_bytes());
            }
        }
        true
    });
    let proxy = Proxy::to(&origin, &["--workers", "1"]);
    assert_eq!((proxy.get("/").text().as_str(), proxy.get("/broken").text().as_str()), ("old", "old"));
    let again = proxy.get("/");
    assert_eq!((again.status, again.text().as_str()), (200, "new"));
    assert_eq!((origin.count(), proxy.counter("revalidations_mismatched")), (4, 1));
    // One that answers 304 to a request without conditions has no answer.
    assert_eq!(proxy.get("/broken").status, 502);
    assert_eq!(origin.count(), 6);
    assert_eq!(proxy.get("/").status, 200, "others are not concerned");
}

#[test]
fn variants_are_kept_apart() {
    let origin = Origin::new(|seen, stream| {
        let body = seen.field("accept-language").unwrap_or("none").to_owned();
        respond(stream, "200 OK", "Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", body.as_bytes());
        true
    });
    let proxy = Proxy::to(&origin, &[]);
    let mut client = proxy.connect();
    for _ in 0..3 {
        for language in ["de", "en"] {
            assert_eq!(client.get_with("/", &format!("Accept-Language: {language}\r\n")).text(), language);
        }
        assert_eq!(client.get("/").text(), "none");
    }
    assert_eq!(origin.count(), 3);
}

#[test]
fn what_may_not_be_stored_is_not() {
    let origin = Origin::new(|seen, stream| {
        let fields = match seen.target.as_str() {
            "/private" => "Cache-Control: private, max-age=60\r\n",
            "/no-store" => "Cache-Control: no-store\r\n",
            "/cookie" => "Cache-Control: max-age=60\r\nSet-Cookie: a=1\r\n",
            _ => "Cache-Control: max-age=60\r\n",
        };
        respond(stream, "200 OK", fields, b"x");
        true
    });
    let proxy = Proxy::to(&origin, &[]);
    let mut client = proxy.connect();
    for target in ["/private", "/no-store", "/cookie"] {
        client.get(target);
        client.get(target);
    }
    client.get_with("/auth", "Authorization: Basic eA==\r\n");
    client.get_with("/auth", "Authorization: Basic eQ==\r\n");
    assert_eq!(origin.count(), 8);
    // A write forgets what is stored for its target.
    client.get("/page");
    client.write("POST /page HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n");
    client.read("POST");
    client.get("/page");
    assert_eq!(origin.count(), 11);
}

/// An origin that sends half a body, waits to be released, then sends the rest.
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self { open: Mutex::new(false), changed: Condvar::new() })
    }

    fn release(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let (guard, timeout) =
            self.changed.wait_timeout_while(self.open.lock().unwrap(), common::HANG, |open| !*open).unwrap();
        drop(guard);
        assert!(!timeout.timed_out(), "nobody released the gate");
    }
}

fn halves(gate: &Gate, fields: &str, stream: &mut TcpStream) -> bool {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 20000\r\n\r\n");
    stream.write_all(&[head.as_bytes(), &[b'a'; 10_000]].concat()).unwrap();
    gate.wait();
    stream.write_all(&[b'b'; 10_000]).unwrap();
    true
}

#[test]
fn a_hundred_clients_share_one_fill_and_get_bytes_as_they_come() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::new(move |_, stream| halves(&held, "Cache-Control: max-age=60\r\n", stream));
    let proxy = Proxy::to(&origin, &[]);
    let half = Arc::new(Barrier::new(101));
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let (mut client, half) = (proxy.connect(), half.clone());
            std::thread::spawn(move || {
                client.write("GET /one HTTP/1.1\r\nHost: a.example\r\n\r\n");
                assert_eq!(client.read_head().unwrap().status, 200);
                let mut first = vec![0; 10_000];
                client.read_exact(&mut first);
                half.wait();
                let mut second = vec![0; 10_000];
                client.read_exact(&mut second);
                assert!(first == [b'a'; 10_000] && second == [b'b'; 10_000]);
            })
        })
        .collect();
    // Everyone has the first half while the origin still holds the second.
    half.wait();
    gate.release();
    clients.into_iter().for_each(|c| c.join().unwrap());
    assert_eq!(origin.count(), 1);
    assert_eq!(proxy.counter("coalesced") + proxy.counter("hits") + 1, 100);
}

#[test]
fn uncacheable_responses_release_all_who_wait() {
    let gate = Gate::new();
    let held = gate.clone();
    let first = AtomicBool::new(true);
    let origin = Origin::new(move |_, stream| {
        if first.swap(false, Ordering::SeqCst) {
            held.wait();
        }
        respond(stream, "200 OK", "Cache-Control: private\r\n", b"mine");
        true
    });
    let proxy = Proxy::to(&origin, &[]);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = proxy.connect();
            std::thread::spawn(move || assert_eq!(client.get("/p").text(), "mine"))
        })
        .collect();
    common::eventually("all wait", || proxy.counter("coalesced") == 19);
    gate.release();
    clients.into_iter().for_each(|c| c.join().unwrap());
    assert_eq!(origin.count(), 20, "each client has a response of its own");
}

#[test]
fn the_fill_goes_on_when_its_client_leaves() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::new(move |_, stream| halves(&held, "Cache-Control: max-age=60\r\n", stream));
    let proxy = Proxy::to(&origin, &[]);
    let mut leaver = proxy.connect();
    leaver.write("GET /one HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(leaver.read_head().unwrap().status, 200);
    let mut stayer = proxy.connect();
    stayer.write("GET /one HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(stayer.read_head().unwrap().status, 200);
    drop(leaver);
    common::eventually("the leaver is seen", || proxy.counter("client_aborts") == 1);
    gate.release();
    let mut body = vec![0; 20_000];
    stayer.read_exact(&mut body);
    assert_eq!(origin.count(), 1);
    assert_eq!(proxy.get("/one").body, body);
    assert_eq!(origin.count(), 1);
}

#[test]
fn stale_is_served_when_the_origin_is_cut_and_the_rules_allow() {
    let origin = Origin::new(|seen, stream| {
        let fields = if seen.target == "/may" {
            "Cache-Control: max-age=0, stale-if-error=60\r\nETag: \"1\"\r\n"
        } else {
            "Cache-Control: max-age=0, must-revalidate, stale-if-error=60\r\nETag: \"1\"\r\n"
        };
        respond(stream, "200 OK", fields, b"old");
        true
    });
    let proxy = Proxy::to(&origin, &[]);
    assert_eq!((proxy.get("/may").status, proxy.get("/must").status), (200, 200));
    origin.stop();
    let stale = proxy.get("/may");
    assert_eq!((stale.status, stale.text().as_str()), (200, "old"));
    assert_eq!(stale.cache_status(), "hit; detail=stale-if-error");
    assert_eq!(proxy.get("/must").status, 502);
    assert_eq!(proxy.get("/never-seen").status, 502);
}

#[test]
fn purges_forget_by_url_host_and_all() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let origin = Origin::new(move |_: &Seen, stream| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        respond(stream, "200 OK", "Cache-Control: max-age=60\r\n", n.to_string().as_bytes());
        true
    });
    let proxy = Proxy::to(&origin, &[]);
    let mut client = proxy.connect();
    let mut get = || client.get("/x?y").text();
    assert_eq!((get(), get()), ("0".into(), "0".into()));
    for (n, purge) in [
        serde_json::json!({"op": "purge", "kind": "url", "url": "http://a.example/x?y"}),
        serde_json::json!({"op": "purge", "kind": "host", "host": "*"}),
        serde_json::json!({"op": "purge", "kind": "all"}),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(proxy.admin(&purge)["ok"].is_object(), "{purge}");
        let expected = (n + 1).to_string();
        assert_eq!((get(), get()), (expected.clone(), expected), "{purge}");
    }
    let other = serde_json::json!({"op": "purge", "kind": "url", "url": "http://a.example/x"});
    proxy.admin(&other);
    assert_eq!(get(), "3");
}

#[test]
fn a_body_that_outgrows_the_cache_still_reaches_its_client() {
    let origin = Origin::new(|_, stream| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        for i in 0..64u8 {
            stream.write_all(format!("{:x}\r\n", 65_536).as_bytes()).unwrap();
            stream.write_all(&[i; 65_536]).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        true
    });
    let proxy = Proxy::to(&origin, &["--cache", "8M"]);
    let expected: Vec<u8> = (0..64u8).flat_map(|i| vec![i; 65_536]).collect();
    for _ in 0..2 {
        let response = proxy.get("/large");
        assert!(response.status == 200 && response.body == expected);
    }
    assert_eq!(origin.count(), 2);
}
