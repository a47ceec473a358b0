//! Health probes: one task per target on the tokio thread.
//!
//! Decides nothing: results go to the engine, which counts rows of them. At most [`PROBES_MAX`] are under way;
//! more wait their turn, which shows as `probe_waits` when it happens.

use crate::goal::{Check, Target};
use crate::health::{Outcome, jittered_ms};
use sluice_api::check::types::Probe;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Probes under way at once: well below the usual limit of 1,024 open files.
pub const PROBES_MAX: usize = 512;
/// Bytes of a response head read for its status line.
const HEAD_BYTES_MAX: usize = 4096;
/// The first probes of a new list are spread over this long, so that 10,000 do not start at once.
const FIRST_SPREAD_MS: u64 = 20;

/// Targets, with the version of the list.
pub type Targets = (u64, BTreeMap<Target, Check>);
/// Takes results; `false` when nobody listens any more.
pub type Report = Arc<dyn Fn(Target, Outcome) -> bool + Send + Sync>;

/// Probes what the list says until its sender is gone.
pub async fn run(mut targets: watch::Receiver<Targets>, report: Report) {
    let slots = Arc::new(Semaphore::new(PROBES_MAX));
    let mut tasks: BTreeMap<Target, (Check, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let wanted = targets.borrow_and_update().1.clone();
        tasks.retain(|target, (check, task)| {
            let keep = wanted.get(target) == Some(check);
            if !keep {
                task.abort();
            }
            keep
        });
        for (target, check) in wanted {
            tasks.entry(target.clone()).or_insert_with(|| {
                let task = probe_forever(target, check.clone(), Arc::clone(&slots), Arc::clone(&report));
                (check, tokio::spawn(task))
            });
        }
        if targets.changed().await.is_err() {
            tasks.values().for_each(|(_, task)| task.abort());
            return;
        }
    }
}

async fn probe_forever(target: Target, check: Check, slots: Arc<Semaphore>, report: Report) {
    let mut next = Instant::now() + Duration::from_millis(random() % FIRST_SPREAD_MS);
    loop {
        tokio::time::sleep_until(next).await;
        next = Instant::now() + Duration::from_millis(jittered_ms(check.health.interval_ms(), random()));
        let Ok(slot) = slots.acquire().await else { return };
        let timeout = Duration::from_millis(check.health.timeout_ms());
        let outcome = tokio::time::timeout(timeout, probe(check.address, check.health.probe())).await;
        drop(slot);
        if !report(target.clone(), outcome.unwrap_or(Outcome::Dead)) {
            return;
        }
    }
}

async fn probe(address: SocketAddr, probe: &Probe) -> Outcome {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Outcome::Dead };
    match probe {
        Probe::Tcp { .. } => {
            // A reset instead of FIN: probes leave no TIME-WAIT behind, here or there.
            drop(stream.set_zero_linger());
            Outcome::Good
        }
        Probe::Http { path, .. } => {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: sluice-agent\r\nConnection: close\r\n\r\n"
            );
            if stream.write_all(request.as_bytes()).await.is_err() {
                return Outcome::Dead;
            }
            read_status(&mut stream).await.map_or(Outcome::Dead, outcome_of)
        }
    }
}

const fn outcome_of(status: u16) -> Outcome {
    match status {
        200..=399 => Outcome::Good,
        _ => Outcome::Refusing,
    }
}

async fn read_status(stream: &mut TcpStream) -> Option<u16> {
    let mut head = Vec::with_capacity(512);
    while head.len() < HEAD_BYTES_MAX {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = head.iter().position(|b| *b == b'\n') {
            return status_of(&head[..end]);
        }
    }
    None
}

/// Status of a status line (RFC 9112 section 4).
fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|_| rest[0].is_ascii_digit() && rest[1] == b' ')?;
    let ended = rest.get(5).is_none_or(|b| matches!(b, b' ' | b'\r'));
    let number = std::str::from_utf8(digits).ok().filter(|_| ended)?;
    number.parse().ok().filter(|status| (100..=599).contains(status))
}

/// A random number without a source to carry: seeds of hash maps are random.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(status_of(b"HTTP/1.1 200 OK\r"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 503\r"), Some(503));
        for bad in [&b"HTTP/2 200"[..], b"HTTP/1.1 20", b"HTTP/1.1 2000", b"HTTP/1.1 +20 ", b"SSH-2.0", b""] {
            assert_eq!(status_of(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    async fn answering(text: &'static str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
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

    #[tokio::test]
    async fn answers_refusals_and_silence_are_told_apart() {
        let http = Probe::Http { port: 1, path: "/".into() };
        let ok = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(probe(ok, &http).await, Outcome::Good);
        assert_eq!(probe(ok, &Probe::Tcp { port: 1 }).await, Outcome::Good);
        let refusing = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
        assert_eq!(probe(refusing, &http).await, Outcome::Refusing);
        let garbage = answering("hello\n").await;
        assert_eq!(probe(garbage, &http).await, Outcome::Dead);
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
            listener.local_addr().expect("address")
        };
        assert_eq!(probe(closed, &http).await, Outcome::Dead);
    }
}
