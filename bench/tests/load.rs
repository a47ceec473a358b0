//! The load generator against the origin and against servers that misbehave, over loopback.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Origin {
    child: Child,
    address: SocketAddr,
}

impl Origin {
    fn start(args: &[&str]) -> Self {
        Self::listen("127.0.0.1:0", args)
    }

    fn listen(listen: &str, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-origin"))
            .args(["--listen", listen, "--name", "o1"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start sluice-origin");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
        let address = line.trim().rsplit(' ').next().expect("an address").parse().expect("an address");
        Self { child, address }
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    fn stats(&self) -> Value {
        let (_, body) =
            sluice_bench::suite::subject::get(self.address, "o", "/.origin/stats").expect("stats");
        serde_json::from_slice(&body).expect("JSON")
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn load(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice-load"))
        .args(args)
        .args(["--output", "json", "--duration", "20"])
        .stderr(Stdio::inherit())
        .output()
        .expect("run sluice-load");
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    serde_json::from_str(text.lines().last().expect("a summary")).expect("JSON")
}

/// A server that gives every connection to `serve`, on a thread that ends with the test's process.
fn server(serve: fn(std::net::TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

#[test]
fn every_request_is_answered_and_verified() {
    let origin = Origin::start(&[]);
    let template = origin.url("/obj/{key}?size={size}&ttl=60");
    let common = ["--url-template", &template, "--verify", "--requests", "600"];
    for extra in [
        &["--saturate", "--sizes", "1..300k", "--connections", "7", "--threads", "2"][..],
        &["--rate", "6000", "--poisson", "--methods", "GET:3,HEAD:1,POST", "--request-body", "5000"],
        &["--saturate", "--new-connection", "--connections", "20"],
    ] {
        let summary = load(&[&common[..], extra].concat());
        assert_eq!(
            (summary["good"].as_u64(), summary["errors"].as_u64()),
            (Some(600), Some(0)),
            "{extra:?} {summary}"
        );
        assert_eq!(summary["served_by"]["o1"], 600);
    }
    let stats = origin.stats();
    assert_eq!((stats["total"].as_u64(), stats["malformed"].as_u64()), (Some(1800), Some(0)));
}

#[test]
fn chunked_bodies_and_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6 loopback");
        return;
    }
    let origin = Origin::listen("[::1]:0", &[]);
    let url = origin.url("/obj/a?size=100000&chunked=1");
    let summary = load(&["--url", &url, "--verify", "--saturate", "--requests", "100"]);
    assert_eq!(summary["good"], 100, "{summary}");
    assert_eq!(summary["body_bytes"], 10_000_000);
}

#[test]
fn errors_have_their_class() {
    let origin = Origin::start(&[]);
    let wrong = server(|mut stream| {
        let mut head = [0; 4096];
        while stream.read(&mut head).is_ok_and(|n| n > 0) {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong").expect("write");
        }
    });
    let garbage = server(|mut stream| {
        let mut head = [0; 4096];
        let _asked = stream.read(&mut head);
        stream.write_all(b"no http\r\n\r\n").expect("write");
    });
    let silent = server(|mut stream| {
        let mut head = [0; 4096];
        let _asked = stream.read(&mut head);
        std::thread::sleep(Duration::from_secs(30));
    });
    let refused = TcpListener::bind("127.0.0.1:0").expect("listen").local_addr().expect("an address");
    for (url, class) in [
        (origin.url("/obj/a?status=503"), "bad_status"),
        (origin.url("/obj/a?size=5000&cut=1000"), "short_body"),
        (format!("http://{wrong}/obj/a?size=5"), "body_mismatch"),
        (format!("http://{garbage}/obj/a?size=5"), "malformed"),
        (format!("http://{silent}/obj/a?size=5"), "timeout"),
        (format!("http://{refused}/"), "connect_refused"),
    ] {
        let args =
            ["--rate", "500", "--requests", "20", "--connections", "20", "--verify", "--timeout-ms", "300"];
        let summary = load(&[&["--url", &url], &args[..]].concat());
        assert_eq!(summary["errors_by_class"][class], 20, "{class}: {summary}");
        assert_eq!((summary["requests"].as_u64(), summary["good"].as_u64()), (Some(20), Some(0)));
    }
}

/// Ten requests are meant for the first 10 ms, one connection answers each in 50 ms: the last one waited for
/// the nine before it, and its latency must say so. A lower bound, so a slow machine cannot fail it.
#[test]
fn latency_counts_from_the_intended_time() {
    let origin = Origin::start(&[]);
    let url = origin.url("/obj/a?delay_ms=50");
    let summary = load(&["--url", &url, "--rate", "1000", "--requests", "10", "--connections", "1"]);
    assert_eq!(summary["good"], 10, "{summary}");
    let max = summary["latency_us"]["max"].as_f64().expect("a number");
    assert!(max >= 480_000.0, "{max} us: the wait for the connection is not counted");
}

#[test]
fn stale_connections_may_be_retried() {
    // Answers one request, says nothing of closing, and closes when the next one comes.
    let address = server(|mut stream| {
        let mut head = [0; 4096];
        let _asked = stream.read(&mut head);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("write");
        let _second = stream.read(&mut head);
    });
    let url = format!("http://{address}/");
    let args = ["--url", &url, "--saturate", "--connections", "1", "--requests", "10"];
    let plain = load(&args);
    assert_eq!(plain["errors"], 5, "{plain}");
    let retried = load(&[&args[..], &["--retry-stale"]].concat());
    assert_eq!((retried["good"].as_u64(), retried["errors"].as_u64()), (Some(10), Some(0)), "{retried}");
    assert_eq!(retried["stale_retries"], 9);
}

#[test]
fn held_connections_that_break_are_counted() {
    let origin = Origin::start(&[]);
    let hold = |target: &str| {
        let url = origin.url(target);
        load(&["tcp-hold", "--url", &url, "--connections", "50", "--interval-ms", "50", "--requests", "100"])
    };
    let kept = hold("/obj/a");
    assert_eq!(
        (kept["held"].as_u64(), kept["broken"].as_u64(), kept["moved"].as_u64()),
        (Some(50), Some(0), Some(0))
    );
    let broken = hold("/obj/a?close=1");
    assert_eq!(broken["broken"], 50, "{broken}");
}

#[test]
fn datagram_flows_stay_or_are_seen_to_move() {
    let port = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let echo = port.to_string();
    let _origin = Origin::start(&["--udp-echo", &echo]);
    let udp = |target: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_sluice-load"))
            .args(["udp", "--target", target, "--flows", "10", "--rate", "400", "--duration", "0.2"])
            .args(["--linger-ms", "5000", "--output", "json"])
            .output()
            .expect("run sluice-load udp");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let started = Instant::now();
    let mut stable = udp(&echo);
    // The echo thread may not have bound its port yet.
    while stable["answered"] == 0 && started.elapsed() < Duration::from_secs(30) {
        stable = udp(&echo);
    }
    assert_eq!((stable["moved"].as_u64(), stable["silent"].as_u64()), (Some(0), Some(0)), "{stable}");
    assert_eq!(stable["served_by"]["o1"], stable["answered"]);

    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        let mut names: std::collections::HashMap<SocketAddr, bool> = std::collections::HashMap::new();
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let odd = names.entry(from).or_default();
            *odd = !*odd;
            let mut answer = if *odd { b"n1\n".to_vec() } else { b"n2\n".to_vec() };
            answer.extend_from_slice(&buffer[..len]);
            let _sent = socket.send_to(&answer, from);
        }
    });
    assert_eq!(udp(&address)["moved"], 10);
}

#[test]
fn the_whole_histogram_is_written() {
    let origin = Origin::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("h.hgrm");
    let file = path.to_str().expect("text");
    load(&["--url", &origin.url("/obj/a"), "--saturate", "--requests", "50", "--histogram", file]);
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(text.contains("Total count    =           50]"), "{text}");
    assert!(text.contains("#[V2 base64 ns = HIST"));
}
