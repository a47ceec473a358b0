//! Health probes: a thread of its own with a runtime of its own, so that thousands of them slow no request down.
//!
//! Decides nothing: results go to the engine, which counts rows of them. At most [`PROBES_MAX`] are under way
//! and of these [`SCRIPTS_MAX`] are programs; those that had to wait for a place are counted as `probe_waits`.
//!
//! * `schedule`: who is next.
//! * `wire`: sockets, TCP, HTTP and UDP; `tls`: HTTPS; `script`: programs.

pub mod schedule;
pub mod script;
pub mod tls;
mod wire;

use crate::goal::{Check, Target};
use crate::health::Outcome;
use schedule::{Schedule, Ticket};
use script::Scripts;
use sluice_api::check::types::Probe;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// Probes under way at once: well below the usual limit of 1,024 open files.
pub const PROBES_MAX: usize = 512;
/// Programs under way at once: each is a process.
pub const SCRIPTS_MAX: usize = 16;
/// A probe that starts this late had to wait for a place, ms; less is the timer.
const LATE_MS: u64 = 5;

/// Targets, with the version of the list.
pub type Targets = (u64, BTreeMap<Target, Check>);

/// What the prober tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A probe ended.
    Result(Target, Outcome),
    /// A probe started late for want of a place.
    Waited,
}

/// Takes what is told; `false` when nobody listens any more.
pub type Report = Arc<dyn Fn(Told) -> bool + Send + Sync>;

/// What probes need besides their targets.
#[derive(Clone)]
pub struct Means {
    /// Certificates that `verify: ca` trusts, and the checks themselves.
    pub tls: tls::Clients,
    /// Programs of `script` checks.
    pub scripts: Scripts,
}

/// Probes what the list says until its sender is gone or nobody listens.
pub async fn run(mut targets: watch::Receiver<Targets>, means: Means, report: Report) {
    let (mut schedule, start) = (Schedule::default(), Instant::now());
    let now = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut random = Random::new();
    let mut running: JoinSet<(Ticket, Outcome)> = JoinSet::new();
    schedule.set(&targets.borrow_and_update().1, now(), || random.next());
    loop {
        while running.len() < PROBES_MAX
            && let Some((ticket, check, late_ms)) = schedule.pop(now(), random.next())
        {
            if late_ms > LATE_MS && !report(Told::Waited) {
                return;
            }
            running.spawn(probe_once(ticket, check, means.clone()));
        }
        let due = schedule.next_ms().filter(|_| running.len() < PROBES_MAX);
        let due = due.map(|ms| start + Duration::from_millis(ms));
        tokio::select! {
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                schedule.set(&targets.borrow_and_update().1, now(), || random.next());
            }
            Some(ended) = running.join_next() => {
                if !take(ended, &mut schedule, now(), &report) {
                    return;
                }
            }
            () = sleep_until(due) => {}
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Passes a result on; `false` when nobody listens.
fn take(
    ended: Result<(Ticket, Outcome), JoinError>,
    schedule: &mut Schedule,
    now: u64,
    report: &Report,
) -> bool {
    match ended {
        Ok((ticket, outcome)) => !schedule.done(&ticket, now) || report(Told::Result(ticket.target, outcome)),
        // A probe panicked: its target would never be probed again and nobody would know.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn probe_once(ticket: Ticket, check: Check, means: Means) -> (Ticket, Outcome) {
    let timeout = Duration::from_millis(check.health.timeout_ms());
    let outcome = match check.health.probe() {
        // These two end by the timeout themselves: silence may be good, and a program has to be ended.
        Probe::Udp { send, expect, .. } => {
            wire::udp(check.address, check.path, send, expect.as_deref(), timeout).await
        }
        Probe::Script { name, .. } => means.scripts.run(name, check.address, timeout).await,
        other => {
            let asked = ask(&check, other, &means.tls);
            tokio::time::timeout(timeout, asked).await.unwrap_or(Outcome::Dead)
        }
    };
    (ticket, outcome)
}

async fn ask(check: &Check, probe: &Probe, tls: &tls::Clients) -> Outcome {
    let Ok(mut stream) = wire::connect(check.address, check.path).await else { return Outcome::Dead };
    match probe {
        Probe::Http { path, host, .. } => wire::get(&mut stream, path, host.as_deref(), check.address).await,
        Probe::Https { path, host, verify, .. } => {
            let asked = tls.connect(stream, *verify, host.as_deref(), check.address).await;
            match asked {
                Ok(mut stream) => wire::get(&mut stream, path, host.as_deref(), check.address).await,
                Err(error) => {
                    tracing::debug!(address = %check.address, %error, "TLS of a health check failed");
                    Outcome::Dead
                }
            }
        }
        _ => Outcome::Good,
    }
}

/// Numbers to spread probes with; seeds of hash maps are random.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Random(RandomState::new().build_hasher().finish())
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 1
    }
}

#[cfg(test)]
mod tests;
