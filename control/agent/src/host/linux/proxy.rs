//! Supervision of the proxy process.
//!
//! ```text
//!  none ──start──► running(n) ──upgrade──► running(n+1) + draining(n) ──► running(n+1)
//!                     │ ▲                                   (n exits by itself)
//!                dies │ └── adopted by a starting agent
//!                     ▼
//!                    none
//! ```
//! The process has a session of its own and outlives the agent. Its record (`proxy.json` in the state
//! directory) is written before it is needed: pid, start time, socket and what it was started with. A pid
//! alone proves nothing, so the start time is compared. A watcher thread per process waits on its pidfd.

use super::admin;
use crate::host::HostError;
use crate::model::{ObservedProxy, ProxySpec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};
use sluice_api::proxy_admin::{Answer, Request};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A proxy that does not answer in this time did not start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between looks at a starting proxy.
const START_POLL: Duration = Duration::from_millis(5);
/// Time a stopped proxy has for its connections before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Time it has when everything is taken off the node.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Called with the process id of a proxy that ended.
pub type OnEnd = Arc<dyn Fn(u32) + Send + Sync>;

/// How proxies are started.
pub struct Supervisor {
    /// Program file.
    pub program: PathBuf,
    /// Node name.
    pub node: String,
    /// Workers; 0: one per core.
    pub workers: usize,
    /// Directory of record, sockets and log.
    pub dir: PathBuf,
    /// Told when a proxy ends.
    pub on_end: OnEnd,
    pub(super) running: Option<Record>,
}

/// A process as recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pid: u32,
    /// Clock ticks between boot and its start, field 22 of /proc/PID/stat.
    started_ticks: u64,
    socket: PathBuf,
    listen: Vec<SocketAddr>,
    cache_bytes: u64,
    number: u64,
}

impl Supervisor {
    /// A supervisor that knows of no process yet.
    pub fn new(program: PathBuf, node: String, workers: usize, dir: PathBuf, on_end: OnEnd) -> Self {
        Supervisor { program, node, workers, dir, on_end, running: None }
    }

    fn record_path(&self) -> PathBuf {
        self.dir.join("proxy.json")
    }

    /// Takes over the process of the record, if it still is that process.
    pub fn adopt(&mut self) -> Option<u32> {
        let text = std::fs::read(self.record_path()).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        if started_ticks(record.pid) != Some(record.started_ticks) {
            return None;
        }
        let pid = record.pid;
        self.watch(pid, None);
        self.running = Some(record);
        Some(pid)
    }

    /// The process as it is now.
    ///
    /// # Errors
    /// It lives and does not answer.
    pub fn observe(&mut self) -> Result<Option<ObservedProxy>, HostError> {
        let Some(record) = &self.running else { return Ok(None) };
        if started_ticks(record.pid) != Some(record.started_ticks) {
            self.running = None;
            return Ok(None);
        }
        match admin::ask(&record.socket, &Request::Hello {})? {
            Answer::Hello { revision, draining, .. } => Ok(Some(ObservedProxy {
                pid: record.pid,
                spec: ProxySpec { listen: record.listen.clone(), cache_bytes: record.cache_bytes },
                revision,
                rows: None,
                draining,
            })),
            other => Err(HostError::lasting(format!("the proxy answered hello with {other:?}"))),
        }
    }

    /// Asks the running proxy.
    ///
    /// # Errors
    /// None runs, or it refused.
    pub fn ask(&self, request: &Request) -> Result<Answer, HostError> {
        let record = self.running.as_ref().ok_or_else(|| HostError::passing("no proxy runs"))?;
        admin::ask(&record.socket, request)
    }

    /// Starts a proxy, or a successor of the running one.
    ///
    /// # Errors
    /// It did not come up; what ran before goes on.
    pub fn start(&mut self, spec: &ProxySpec, takeover: bool) -> Result<u32, HostError> {
        let old = self.running.clone();
        if let (Some(record), false) = (&old, takeover)
            && started_ticks(record.pid) == Some(record.started_ticks)
        {
            // Carried out before, and the answer was lost.
            return Ok(record.pid);
        }
        let number = old.as_ref().map_or(1, |record| record.number + 1);
        let socket = self.dir.join(format!("proxy-{number}.sock"));
        drop(std::fs::remove_file(&socket));
        let mut child = self.spawn(spec, &socket, old.as_ref().filter(|_| takeover))?;
        let pid = child.id();
        let record = Record {
            pid,
            started_ticks: started_ticks(pid).unwrap_or(0),
            socket,
            listen: spec.listen.clone(),
            cache_bytes: spec.cache_bytes,
            number,
        };
        if let Err(error) = wait_until_up(&mut child, &record.socket) {
            drop(child.kill());
            drop(child.wait());
            return Err(error);
        }
        if let Err(error) = self.write_record(&record) {
            tracing::warn!(%error, "the proxy's record was not written: a restarted agent will not adopt it");
        }
        self.watch(pid, Some(child));
        self.running = Some(record);
        Ok(pid)
    }

    fn spawn(&self, spec: &ProxySpec, socket: &Path, old: Option<&Record>) -> Result<Child, HostError> {
        let failed = |e: std::io::Error| HostError::passing(format!("start {}: {e}", self.program.display()));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("proxy.log"));
        let log = log.map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.arg("--name").arg(&self.node);
        for address in &spec.listen {
            command.arg("--listen").arg(address.to_string());
        }
        command.arg("--admin").arg(socket).arg("--cache").arg(spec.cache_bytes.to_string());
        if self.workers > 0 {
            command.arg("--workers").arg(self.workers.to_string());
        }
        if let Some(old) = old {
            command.arg("--takeover").arg(&old.socket);
        }
        let copy = log.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(log).stderr(copy).process_group(0);
        command.spawn().map_err(failed)
    }

    fn write_record(&self, record: &Record) -> std::io::Result<()> {
        let temporary = self.dir.join("proxy.json.tmp");
        std::fs::write(&temporary, serde_json::to_vec(record)?)?;
        std::fs::rename(temporary, self.record_path())
    }

    /// Waits for the end of a process, and reaps it if it is a child.
    fn watch(&self, pid: u32, child: Option<Child>) {
        let on_end = Arc::clone(&self.on_end);
        let watch = move || {
            if let Some(mut child) = child {
                drop(child.wait());
            } else if let Err(error) = wait_for_end(pid, None) {
                tracing::warn!(pid, %error, "an adopted proxy cannot be watched; its end is seen at the next check");
                return;
            }
            on_end(pid);
        };
        if let Err(error) = std::thread::Builder::new().name(format!("proxy-{pid}")).spawn(watch) {
            tracing::warn!(pid, %error, "no thread to watch the proxy; its end is seen at the next check");
        }
    }

    /// Lets the proxy drain and end; it is killed when that takes too long. Does not wait.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn stop(&mut self, wait: bool) -> Result<(), HostError> {
        let Some(record) = self.running.take() else { return Ok(()) };
        drop(std::fs::remove_file(self.record_path()));
        if started_ticks(record.pid) != Some(record.started_ticks) {
            return Ok(());
        }
        let signal = |signal: Signal| -> Result<(), HostError> {
            let pid = i32::try_from(record.pid).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| HostError::lasting("process id out of range"))?;
            match kill_process(pid, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(HostError::passing(format!("signal proxy {}: {error}", record.pid))),
            }
        };
        signal(Signal::TERM)?;
        if wait {
            if !wait_for_end(record.pid, Some(RELEASE_TIMEOUT)).unwrap_or(false) {
                signal(Signal::KILL)?;
            }
            return Ok(());
        }
        let pid = record.pid;
        let ticks = record.started_ticks;
        let reaper = move || {
            let ended = wait_for_end(pid, Some(STOP_TIMEOUT)).unwrap_or(false);
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
            if let Some(raw) = raw.filter(|_| !ended && started_ticks(pid) == Some(ticks))
                && let Err(error) = kill_process(raw, Signal::KILL)
            {
                tracing::warn!(pid, %error, "a proxy that does not end cannot be killed");
            }
        };
        let thread = std::thread::Builder::new().name(format!("stop-{pid}")).spawn(reaper);
        thread.map(drop).map_err(|e| HostError::passing(format!("no thread to wait for proxy {pid}: {e}")))
    }
}

/// Waits for a process to end; `false` after the timeout.
fn wait_for_end(pid: u32, timeout: Option<Duration>) -> std::io::Result<bool> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(true) };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let timeout = timeout.map(|t| rustix::event::Timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    loop {
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(n) => return Ok(n > 0),
        }
    }
}

fn wait_until_up(child: &mut Child, socket: &Path) -> Result<(), HostError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(HostError::passing(format!(
                "the proxy ended while it started: {status}; see proxy.log"
            )));
        }
        if socket.exists() && admin::ask(socket, &Request::Hello {}).is_ok() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(HostError::passing("the proxy did not answer in time; see proxy.log"));
        }
        std::thread::sleep(START_POLL);
    }
}

/// Start time of a live process in clock ticks since boot; `None`: there is none, or it is a zombie.
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses; fields are counted from its end.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_tells_processes_apart() {
        let own = started_ticks(std::process::id());
        assert!(own.is_some_and(|ticks| ticks > 0));
        assert_eq!(started_ticks(u32::MAX), None);
    }
}
