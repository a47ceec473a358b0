//! The programs the lab starts, each in its namespace, each on record before anything else happens.

use super::state::{LabState, ProcessRecord, RunDir};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A program beside this one (`sluice-agent` beside `sluice`).
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own path")?;
    let path = own.parent().unwrap_or(Path::new("/")).join(name);
    anyhow::ensure!(path.exists(), "{} is missing: build it with `make build`", path.display());
    Ok(path)
}

/// A program to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// Name on record and of its log.
    pub name: String,
    /// Namespace it runs in.
    pub netns: String,
    /// Program.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<OsString>,
    /// Its standard output is read by the lab, not logged.
    pub piped: bool,
}

/// Programs now running.
#[derive(Debug, Default)]
pub struct Processes {
    children: BTreeMap<String, Child>,
}

impl Processes {
    /// Starts a program and puts it on record.
    pub fn start(&mut self, start: Start, run: &RunDir, state: &mut LabState) -> Result<ProcessRecord> {
        let log_path = run.logs().join(format!("{}.log", start.name.replace(' ', "-")));
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("open {}", log_path.display()))?;
        let stdout = if start.piped { Stdio::piped() } else { Stdio::from(log.try_clone()?) };
        // `ip netns exec` becomes the program (same process id). A group of its own: Ctrl-C in the terminal is for
        // the lab, which ends its programs in order.
        let child = Command::new("ip")
            .args(["netns", "exec", &start.netns])
            .arg(&start.program)
            .args(&start.args)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", start.program.display()))?;
        let record = ProcessRecord::of(&start.name, child.id());
        state.processes.retain(ProcessRecord::alive);
        state.processes.push(record.clone());
        run.save(state).context("write the lab's record")?;
        self.children.insert(start.name, child);
        Ok(record)
    }

    /// Process id of a running program.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.children.get(name).map(Child::id)
    }

    /// The program's standard output, once, if it was started `piped`.
    pub fn take_stdout(&mut self, name: &str) -> Option<std::process::ChildStdout> {
        self.children.get_mut(name)?.stdout.take()
    }

    /// Programs that ended by themselves since the last call.
    pub fn reap(&mut self) -> Vec<(String, ExitStatus)> {
        let mut ended = Vec::new();
        for (name, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                ended.push((name.clone(), status));
            }
        }
        for (name, _) in &ended {
            self.children.remove(name);
        }
        ended
    }

    /// Kills a program at once (SIGKILL) and reaps it.
    pub fn kill(&mut self, name: &str) {
        if let Some(mut child) = self.children.remove(name) {
            // An error means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks a program to end (SIGTERM); [`Processes::reap`] sees it go.
    pub fn terminate(&self, name: &str) {
        if let Some(pid) = self.pid(name) {
            ProcessRecord::of(name, pid).signal(rustix::process::Signal::TERM);
        }
    }
}
