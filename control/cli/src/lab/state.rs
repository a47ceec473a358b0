//! The lab's run directory and the record of what it made, kept on disk so that a later start can take away
//! what a killed one left.
//!
//! A process is named by id *and* start time: an id given again to a stranger is never signalled.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A process the lab started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// What it is (`agent front`, `origin`, `load http`).
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub start_ticks: u64,
}

/// What the lab made, in the order it made it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabState {
    /// Instance name.
    pub prefix: String,
    /// The lab itself.
    pub lab: Option<ProcessRecord>,
    /// Every process started by it, ended ones too.
    pub processes: Vec<ProcessRecord>,
    /// Network namespaces.
    pub namespaces: Vec<String>,
    /// Mount points.
    pub mounts: Vec<PathBuf>,
}

/// The lab's directory below `/run`.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Directory of the instance `prefix`.
    pub fn new(prefix: &str) -> Self {
        RunDir(PathBuf::from(format!("/run/sluice-{prefix}")))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the placement documents are.
    pub fn placements(&self) -> PathBuf {
        self.0.join("placements")
    }

    /// Where processes write what they say.
    pub fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Mount point of the BPF file system.
    pub fn bpffs(&self) -> PathBuf {
        self.0.join("bpf")
    }

    /// Where one agent pins its maps.
    pub fn pins(&self, node: &str) -> PathBuf {
        self.bpffs().join(node)
    }

    /// Where one agent keeps its ledger.
    pub fn agent_state(&self, node: &str) -> PathBuf {
        self.0.join("state").join(node)
    }

    /// UNIX socket of one agent.
    pub fn agent_socket(&self, node: &str) -> PathBuf {
        self.0.join(format!("{node}.sock"))
    }

    /// Makes the directories; the placements must not be writable by others.
    pub fn create(&self) -> io::Result<()> {
        for dir in [self.0.clone(), self.placements(), self.logs(), self.bpffs(), self.0.join("state")] {
            fs::create_dir_all(dir)?;
        }
        Ok(())
    }

    fn state_file(&self) -> PathBuf {
        self.0.join("lab.json")
    }

    /// The record, if there is one. An unreadable one is no reason not to clean what else is found.
    pub fn load(&self) -> Option<LabState> {
        serde_json::from_slice(&fs::read(self.state_file()).ok()?).ok()
    }

    /// Replaces the record in one step.
    pub fn save(&self, state: &LabState) -> io::Result<()> {
        write_atomically(&self.state_file(), &serde_json::to_vec_pretty(state)?)
    }
}

/// Writes beside and renames: a reader sees the old or the new file, never half of one.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = dir.join(format!(".{name}.new"));
    fs::write(&beside, content)?;
    fs::rename(beside, path)
}

/// Start time of a process in clock ticks after boot; `None`: there is none of that id (a zombie counts as none).
pub fn start_ticks(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<u64> {
    // The name in parentheses may hold spaces and parentheses itself: count from the last one.
    let rest = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // `rest` starts at field 3 (state); field 22 is at index 19.
    if fields.first()? == &"Z" {
        return None;
    }
    fields.get(19)?.parse().ok()
}

impl ProcessRecord {
    /// Records a process that was just started.
    pub fn of(name: impl Into<String>, pid: u32) -> Self {
        ProcessRecord { name: name.into(), pid, start_ticks: start_ticks(pid).unwrap_or(0) }
    }

    /// It is still the same process and lives.
    pub fn alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Signals it, if it still is the same process.
    pub fn signal(&self, signal: rustix::process::Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) else {
            return false;
        };
        self.alive() && rustix::process::kill_process(pid, signal).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 0 0";
        assert_eq!(parse_stat(stat), Some(987_654));
        assert_eq!(parse_stat("42 (x) Z 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1"), None);
    }

    #[test]
    fn a_recycled_id_is_not_the_process() {
        let own = ProcessRecord::of("self", std::process::id());
        assert!(own.alive());
        let other = ProcessRecord { start_ticks: own.start_ticks + 1, ..own };
        assert!(!other.alive());
        assert!(!other.signal(rustix::process::Signal::TERM));
    }

    #[test]
    fn the_record_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir(dir.path().join("run"));
        run.create().unwrap();
        let state = LabState {
            prefix: "x".into(),
            processes: vec![ProcessRecord::of("a", 1)],
            namespaces: vec!["sluice-x-client".into()],
            ..LabState::default()
        };
        run.save(&state).unwrap();
        assert_eq!(run.load(), Some(state));
    }
}
