//! Taking a lab away: its own on a clean end, a killed one's at the next start.
//!
//! Order matters: processes first (they hold files in the mounts), then namespaces (their interfaces let go of
//! attached programs), then mounts (pins), then the directory. Everything is safe to repeat.

use super::netns;
use super::plan::netns_prefix;
use super::state::{LabState, ProcessRecord, RunDir};
use rustix::process::Signal;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process that ignores SIGTERM this long gets SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(3);
/// After SIGKILL the kernel needs this at most to take a process away.
const KILL_GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// What was there to take away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Processes ended.
    pub processes: usize,
    /// Namespaces deleted.
    pub namespaces: usize,
    /// Mounts undone.
    pub mounts: usize,
    /// The run directory existed.
    pub run_dir: bool,
}

impl Removed {
    /// There was something.
    pub fn any(&self) -> bool {
        *self != Removed::default()
    }
}

/// Takes away all that an instance made. Whatever would not go is found by [`leftovers`].
pub fn remove(prefix: &str) -> Removed {
    let run = RunDir::new(prefix);
    let state = run.load().unwrap_or_default();
    let mut removed = Removed { run_dir: run.path().exists(), ..Removed::default() };
    let names = namespaces(prefix, &state);
    let mut processes: Vec<ProcessRecord> = state.processes.iter().filter(|p| p.alive()).cloned().collect();
    // Children of the agents (proxies) are not in the record, but they can only live in the lab's namespaces.
    for p in processes_in(&names) {
        if !processes.iter().any(|known| known.pid == p.pid) {
            processes.push(p);
        }
    }
    removed.processes = processes.len();
    end(&processes, &names);
    for name in &names {
        if netns::ip_batch(None, &format!("netns del {name}\n")).is_ok() {
            removed.namespaces += 1;
        }
    }
    for mount in mounts_below(run.path()) {
        if rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH).is_ok() {
            removed.mounts += 1;
        }
    }
    if mounts_below(run.path()).is_empty() {
        // Refusal shows in `leftovers`.
        let _ = fs::remove_dir_all(run.path());
    }
    removed
}

/// What of an instance is still there, in words; empty when nothing is.
pub fn leftovers(prefix: &str, before: &LabState) -> Vec<String> {
    let run = RunDir::new(prefix);
    let mut left = Vec::new();
    for p in before.processes.iter().filter(|p| p.alive()) {
        left.push(format!("process {} ({})", p.pid, p.name));
    }
    let names = namespaces(prefix, before);
    left.extend(names.iter().map(|n| format!("network namespace {n}")));
    left.extend(mounts_below(run.path()).iter().map(|m| format!("mount {}", m.display())));
    if run.path().exists() {
        left.push(format!("directory {}", run.path().display()));
    }
    left
}

fn namespaces(prefix: &str, state: &LabState) -> Vec<String> {
    let mut names = netns::names_with_prefix(&netns_prefix(prefix));
    let own = netns_prefix(prefix);
    for name in &state.namespaces {
        let there = Path::new(netns::NETNS_DIR).join(name).exists();
        if there && name.starts_with(&own) && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Every process whose network namespace is one of `names`.
pub fn processes_in(names: &[String]) -> Vec<ProcessRecord> {
    use std::os::unix::fs::MetadataExt;
    let inodes: Vec<(u64, u64)> = names
        .iter()
        .filter_map(|n| fs::metadata(Path::new(netns::NETNS_DIR).join(n)).ok())
        .map(|m| (m.dev(), m.ino()))
        .collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(meta) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if pid != own && inodes.contains(&(meta.dev(), meta.ino())) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(ProcessRecord::of(name.trim(), pid));
        }
    }
    found
}

/// SIGTERM, a grace, SIGKILL; then once more for children that were started meanwhile.
fn end(processes: &[ProcessRecord], names: &[String]) {
    for p in processes {
        p.signal(Signal::TERM);
    }
    if !wait_gone(processes, TERM_GRACE) {
        for p in processes {
            p.signal(Signal::KILL);
        }
        wait_gone(processes, KILL_GRACE);
    }
    let late = processes_in(names);
    for p in &late {
        p.signal(Signal::KILL);
    }
    wait_gone(&late, KILL_GRACE);
}

fn wait_gone(processes: &[ProcessRecord], grace: Duration) -> bool {
    let end = Instant::now() + grace;
    while processes.iter().any(ProcessRecord::alive) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Mount points below `dir`, deepest first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    parse_mounts(&table, dir)
}

fn parse_mounts(table: &str, dir: &Path) -> Vec<PathBuf> {
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect();
    mounts.sort_by_key(|m| std::cmp::Reverse(m.components().count()));
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_the_own_directory_are_undone_and_the_deepest_first() {
        let table = "bpf /run/sluice-lab/bpf bpf rw 0 0\n\
                     bpf /run/sluice-lab2/bpf bpf rw 0 0\n\
                     tmpfs /run/sluice-lab/bpf/a\\040b tmpfs rw 0 0\n";
        let mounts = parse_mounts(table, Path::new("/run/sluice-lab"));
        assert_eq!(mounts, [PathBuf::from("/run/sluice-lab/bpf/a b"), PathBuf::from("/run/sluice-lab/bpf")]);
    }
}
