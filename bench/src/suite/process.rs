//! Programs under measurement: started pinned, asked for their CPU time and memory, ended by id.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program has this long to open its port: 100,000 server blocks take a while.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// A program that was asked to end has this long.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a program could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not to be found or not executable.
    #[error("start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Ended before it served.
    #[error("{program} ended at once ({status}); its last words: {words}")]
    Ended {
        /// The program.
        program: String,
        /// How.
        status: String,
        /// End of its output.
        words: String,
    },
    /// Did not open its port.
    #[error("{program} did not listen on {address} in time")]
    Silent {
        /// The program.
        program: String,
        /// Where it should.
        address: SocketAddr,
    },
    /// `/proc` cannot be read.
    #[error("read {path}: {source}")]
    Proc {
        /// The file.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// A running program; ends with the value.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts `command` on one CPU, its output in `log`.
    pub fn start(name: &str, mut command: Command, cpu: usize, log: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Start { program: name.to_owned(), source };
        let out = fs::File::create(log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // A child inherits the affinity of the thread that starts it.
        let started = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    crate::poll::pin(cpu)?;
                    command.spawn()
                })
                .join()
        });
        let child = started.map_err(|_| failed(io::Error::other("the starting thread panicked")))?;
        Ok(Self { name: name.to_owned(), child: child.map_err(failed)?, log: log.to_owned() })
    }

    /// Waits until `address` takes connections; the time that took.
    pub fn wait_for(&mut self, address: SocketAddr) -> Result<Duration, Error> {
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok() {
                return Ok(started.elapsed());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::Ended {
                    program: self.name.clone(),
                    status: status.to_string(),
                    words: self.last_words(),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(Error::Silent { program: self.name.clone(), address })
    }

    /// The end of its output.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.char_indices().rev().nth(400).map_or(0, |(at, _)| at);
        text[from..].trim().replace('\n', " | ")
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// This process and its descendants.
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        let mut pids = vec![self.pid()];
        let mut at = 0;
        while at < pids.len() {
            let path = format!("/proc/{0}/task/{0}/children", pids[at]);
            let children = read(&path)?;
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        Ok(pids)
    }

    /// CPU time of all threads of the process and its descendants, ns. Kernel threads of a ring
    /// (submission polling, io-wq) are threads of the process and so are counted.
    pub fn cpu_ns(&self) -> Result<u64, Error> {
        let mut total = 0;
        for pid in self.pids()? {
            let tasks = format!("/proc/{pid}/task");
            let entries = fs::read_dir(&tasks).map_err(|source| Error::Proc { path: tasks, source })?;
            for entry in entries.flatten() {
                let path = entry.path().join("schedstat");
                // A thread that ended meanwhile takes its share with it; workers do not end in a run.
                let Ok(text) = fs::read_to_string(&path) else { continue };
                total += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(total)
    }

    /// Proportional resident memory of the process and its descendants, bytes.
    pub fn pss_bytes(&self) -> Result<u64, Error> {
        let mut total = 0;
        for pid in self.pids()? {
            let text = read(&format!("/proc/{pid}/smaps_rollup"))?;
            let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap_or("0");
            total += line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024;
        }
        Ok(total)
    }

    /// Asks it to end, and makes it when it does not; then its descendants that outlived it, as an agent's
    /// proxy does by design.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let family = self.pids().unwrap_or_default();
        let family: Vec<_> =
            family.into_iter().skip(1).filter_map(|pid| Some((pid, started_at(pid)?))).collect();
        terminate(self.child.id());
        if !within(STOP_TIMEOUT, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
        // The start time tells a descendant from another process that was given its id.
        let alive = |(pid, started): &(u32, String)| started_at(*pid).as_ref() == Some(started);
        for one in family.iter().filter(|one| alive(one)) {
            terminate(one.0);
            if !within(STOP_TIMEOUT, || !alive(one)) {
                eprintln!("{}: process {} does not end", self.name, one.0);
            }
        }
    }
}

fn terminate(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // Gone already is as good.
        let _sent = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Polls `done` until it is true or the time is over.
fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < limit {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    done()
}

/// Start time of a running process, in ticks since boot; `None` once it ended.
fn started_at(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and brackets: fields are counted from its end.
    let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
    (fields.first() != Some(&"Z")).then(|| fields.get(19).map(|s| (*s).to_owned()))?
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Proc { path: path.to_owned(), source })
}

/// A free TCP port of the loopback address.
pub fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_that_outlive_their_parent_are_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        // The parent ends at TERM, its child is in a session of its own and stays.
        command.args(["-c", "setsid sleep 600 & wait"]);
        let mut parent = Process::start("sh", command, 0, &dir.path().join("log")).expect("start sh");
        assert!(within(STOP_TIMEOUT, || parent.pids().is_ok_and(|pids| pids.len() > 1)));
        let pids = parent.pids().expect("pids");
        assert!(pids.iter().all(|&pid| started_at(pid).is_some()));
        parent.stop();
        assert!(pids.iter().all(|&pid| started_at(pid).is_none()), "{pids:?}");
    }
}
