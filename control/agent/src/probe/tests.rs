//! Probes against small servers on loopback.

use super::*;
use sluice_api::check::types::Health;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

/// A check from a document, as everybody else gets one.
fn check(health: &str, address: SocketAddr) -> Check {
    let text = format!(
        "apiVersion: sluice/v1\nname: d\ngeneration: 1\npools:\n  - name: p\n    backends: [{{name: b, address: 10.0.0.1}}]\n    health: {{port: {}, timeout_ms: 400, {health}}}\n",
        address.port()
    );
    let document = sluice_api::check::parse_document(text.as_bytes()).expect("document");
    let health: Health = document.pools()[0].health().expect("health").clone();
    Check { address, health, path: None }
}

fn means(scripts: Option<&std::path::Path>) -> Means {
    let authorities = std::path::PathBuf::from(format!("{DATA}/ca.pem"));
    Means {
        tls: tls::Clients::new(Some(&authorities)).expect("clients"),
        scripts: Scripts::new(scripts).expect("scripts"),
    }
}

async fn outcome(health: &str, address: SocketAddr) -> Outcome {
    outcome_with(health, address, means(None)).await
}

async fn outcome_with(health: &str, address: SocketAddr, means: Means) -> Outcome {
    let mut schedule = Schedule::default();
    let target = Target::Member { name: "x".into() };
    schedule.set(&BTreeMap::from([(target, check(health, address))]), 0, || 0);
    let (ticket, check, _) = schedule.pop(0, 0).expect("due");
    probe_once(ticket, check, means).await.1
}

async fn answering(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            drop(stream.read(&mut request).await);
            drop(stream.write_all(text.as_bytes()).await);
        }
    });
    address
}

fn closed() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address")
}

#[tokio::test]
async fn answers_refusals_and_silence_are_told_apart() {
    let ok = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(outcome("kind: http", ok).await, Outcome::Good);
    assert_eq!(outcome("kind: tcp", ok).await, Outcome::Good);
    let refusing = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    assert_eq!(outcome("kind: http", refusing).await, Outcome::Refusing);
    let garbage = answering("hello\n").await;
    assert_eq!(outcome("kind: http", garbage).await, Outcome::Dead);
    assert_eq!(outcome("kind: http", closed()).await, Outcome::Dead);
    assert_eq!(outcome("kind: tcp", closed()).await, Outcome::Dead);
}

async fn tls_server() -> SocketAddr {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(format!("{DATA}/server.pem")).expect("certificate");
    let key = PrivateKeyDer::from_pem_file(format!("{DATA}/server.key")).expect("key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("certificate and key");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            let len = stream.read(&mut request).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&request[..len]).into_owned();
            let good = asked.starts_with("GET /ready HTTP/1.1\r\n");
            let status: &[u8] = if good { b"HTTP/1.1 200 OK\r\n\r\n" } else { b"HTTP/1.1 404 No\r\n\r\n" };
            drop(stream.write_all(status).await);
            drop(stream.shutdown().await);
        }
    });
    address
}

#[tokio::test]
async fn a_certificate_is_checked_as_the_document_says() {
    let server = tls_server().await;
    for (health, wanted) in [
        ("kind: https, verify: ca, host: www.example, path: /ready", Outcome::Good),
        ("kind: https, verify: ca, host: www.example, path: /other", Outcome::Refusing),
        ("kind: https, verify: ca, host: else.example, path: /ready", Outcome::Dead),
        ("kind: https, verify: none, host: else.example, path: /ready", Outcome::Good),
        ("kind: https, verify: none, path: /ready", Outcome::Good),
    ] {
        assert_eq!(outcome(health, server).await, wanted, "{health}");
    }
    let nobody = Means { tls: tls::Clients::new(None).expect("clients"), ..means(None) };
    let ca = "kind: https, verify: ca, host: www.example, path: /ready";
    assert_eq!(outcome_with(ca, server, nobody).await, Outcome::Dead, "no authority, no trust");
    let plain = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    assert_eq!(outcome("kind: https, verify: none", plain).await, Outcome::Dead);
}

#[tokio::test]
async fn datagrams_are_answered_refused_or_lost() {
    let server = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let address = server.local_addr().expect("address");
    tokio::spawn(async move {
        let mut datagram = [0; 512];
        while let Ok((len, from)) = server.recv_from(&mut datagram).await {
            match &datagram[..len] {
                b"ping" => drop(server.send_to(b"pong 7", from).await),
                [0, 0xff] => drop(server.send_to(&[0xff, 0, 1], from).await),
                _ => {}
            }
        }
    });
    for (health, wanted) in [
        ("kind: udp, send: ping, expect: pong", Outcome::Good),
        ("kind: udp, send: ping, expect: PONG", Outcome::Refusing),
        ("kind: udp, send: \"hex:00ff\", expect: \"hex:ff00\"", Outcome::Good),
        ("kind: udp, send: quiet, expect: \"\"", Outcome::Dead),
        ("kind: udp, send: quiet", Outcome::Good),
    ] {
        assert_eq!(outcome(health, address).await, wanted, "{health}");
    }
    let nobody = UdpSocket::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address");
    assert_eq!(outcome("kind: udp, send: ping", nobody).await, Outcome::Dead, "port unreachable");
}

fn script(dir: &std::path::Path, name: &str, body: &str) {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode");
}

#[tokio::test]
async fn scripts_say_by_their_exit_and_are_ended_with_what_they_started() {
    let dir = tempfile::tempdir().expect("directory");
    // Readable for the user the programs run as.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
    script(dir.path(), "good", "[ \"$1\" = 127.0.0.1 ] && [ \"$2\" = 7 ] && [ -z \"$HOME\" ]");
    script(dir.path(), "full", "exit 75");
    script(dir.path(), "bad", "exit 1");
    script(dir.path(), "whoami", "[ \"$(id -u)\" != 0 ]");
    let mark = format!("sluice-script-test-{}", std::process::id());
    script(dir.path(), "slow", &format!("sh -c 'sleep 30; : {mark}' & wait"));
    let address = "127.0.0.1:7".parse().expect("address");
    for (name, wanted) in [
        ("good", Outcome::Good),
        ("full", Outcome::Refusing),
        ("bad", Outcome::Dead),
        ("whoami", Outcome::Good),
        ("absent", Outcome::Dead),
        ("slow", Outcome::Dead),
    ] {
        let health = format!("kind: script, script: {name}");
        assert_eq!(outcome_with(&health, address, means(Some(dir.path()))).await, wanted, "{name}");
    }
    assert!(!a_process_names(&mark), "the child of a script that took too long is gone too");
    assert_eq!(outcome("kind: script, script: good", address).await, Outcome::Dead, "no directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("mode");
    assert!(matches!(Scripts::new(Some(dir.path())), Err(script::ScriptsError::Open(_))));
}

fn a_process_names(text: &str) -> bool {
    let lines = std::fs::read_dir("/proc").expect("proc").flatten();
    let mut lines = lines.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let dead = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']));
        (!dead).then(|| String::from_utf8_lossy(&line).into_owned())
    });
    lines.any(|line| line.contains(text))
}

#[tokio::test]
async fn the_prober_follows_its_list_and_ends_with_it() {
    let up = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let named = |name: &str| Target::Member { name: name.into() };
    let fast = |address| check("kind: http, interval_ms: 400", address);
    let told: Arc<Mutex<Vec<(Target, Outcome)>>> = Arc::default();
    let sink = Arc::clone(&told);
    let report: Report = Arc::new(move |what| {
        if let Told::Result(target, outcome) = what {
            sink.lock().expect("lock").push((target, outcome));
        }
        true
    });
    let list = BTreeMap::from([(named("up"), fast(up)), (named("down"), fast(closed()))]);
    let (tell, targets) = watch::channel((1, list));
    let prober = tokio::spawn(run(targets, means(None), report));
    let seen = |wanted: (Target, Outcome)| {
        let told = Arc::clone(&told);
        async move {
            while !told.lock().expect("lock").contains(&wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    seen((named("up"), Outcome::Good)).await;
    seen((named("down"), Outcome::Dead)).await;
    tell.send_replace((2, BTreeMap::from([(named("down"), fast(up))])));
    seen((named("down"), Outcome::Good)).await;
    drop(tell);
    prober.await.expect("ends by itself");
}
