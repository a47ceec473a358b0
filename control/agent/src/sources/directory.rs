//! A watched directory of documents.
//!
//! Owns one thread. Files ending in `.yaml`, `.yml` or `.json` that do not begin with a dot are documents; all
//! else is ignored. inotify tells of a file when its writer closed it or moved it there, so a file being
//! written is not read. A scan every [`RESCAN`] catches what inotify lost (a full queue, a network file
//! system); it reads a changed file only when two scans in a row saw it unchanged.

use crate::clock::{Clock, SystemClock};
use crate::engine::{FileText, SourceEvent};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RemoveKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use sluice_api::check::limits::JSON_BYTES_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

/// Time between scans.
pub const RESCAN: Duration = Duration::from_secs(5);
/// Notifications taken together when they wait already; none is waited for.
const BATCH_MAX: usize = 4096;

/// Where batches go: events and the engine's clock when they were seen.
pub type Deliver = Box<dyn Fn(Vec<SourceEvent>, u64) + Send>;

/// What a file looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

/// The watcher's state.
struct Directory {
    path: PathBuf,
    clock: SystemClock,
    deliver: Deliver,
    /// Files as last read.
    read: BTreeMap<String, Look>,
    /// Names last listed: another list is due when a scan finds others.
    listed: BTreeSet<String>,
    /// Files that the last scan saw changed.
    changing: BTreeMap<String, Look>,
    readable: bool,
}

/// Watches until `deliver`'s receiver is gone; call on a thread of its own.
pub fn watch(path: PathBuf, clock: SystemClock, deliver: Deliver) {
    let mut directory = Directory {
        path,
        clock,
        deliver,
        read: BTreeMap::new(),
        listed: BTreeSet::new(),
        changing: BTreeMap::new(),
        readable: true,
    };
    let (tell, told) = channel();
    let mut watcher = directory.start_watching(tell.clone());
    directory.scan(true);
    loop {
        let next = Instant::now() + RESCAN;
        directory.follow(&told, next);
        if watcher.is_none() || !directory.same_directory() {
            watcher = directory.start_watching(tell.clone());
        }
        directory.scan(false);
    }
}

type Told = Result<notify::Event, notify::Error>;

impl Directory {
    fn start_watching(&mut self, tell: std::sync::mpsc::Sender<Told>) -> Option<RecommendedWatcher> {
        let started = notify::recommended_watcher(move |event| drop(tell.send(event)))
            .and_then(|mut watcher| watcher.watch(&self.path, RecursiveMode::NonRecursive).map(|()| watcher));
        match started {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "no notifications; the directory is scanned");
                None
            }
        }
    }

    /// Handles notifications until it is time for a scan.
    fn follow(&mut self, told: &Receiver<Told>, until: Instant) {
        loop {
            let first = match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                    return;
                }
            };
            let seen_us = self.clock.now().mono_us;
            let mut events = vec![first];
            while events.len() < BATCH_MAX
                && let Ok(more) = told.try_recv()
            {
                events.push(more);
            }
            let mut lost = false;
            let mut touched: BTreeSet<String> = BTreeSet::new();
            for event in events {
                match event {
                    Ok(event) if event.need_rescan() => lost = true,
                    Ok(event) if matters(&event.kind) => {
                        touched.extend(event.paths.iter().filter_map(|path| document_file(path)));
                    }
                    Ok(_) => {}
                    Err(_) => lost = true,
                }
            }
            if lost {
                return;
            }
            let batch: Vec<SourceEvent> = touched.into_iter().filter_map(|file| self.look(file)).collect();
            if !batch.is_empty() {
                (self.deliver)(batch, seen_us);
            }
        }
    }

    /// Reads a file that changed, or notes that it is gone.
    fn look(&mut self, file: String) -> Option<SourceEvent> {
        match look_at(&self.path.join(&file)) {
            Some(look) => Some(self.read_file(file, look)),
            None => {
                self.changing.remove(&file);
                self.read.remove(&file).map(|_| SourceEvent::Gone { file })
            }
        }
    }

    fn read_file(&mut self, file: String, look: Look) -> SourceEvent {
        self.read.insert(file.clone(), look);
        self.changing.remove(&file);
        let text = read_bounded(&self.path.join(&file));
        SourceEvent::File { file, text }
    }

    /// The path still names the directory that is watched.
    fn same_directory(&self) -> bool {
        self.readable && self.path.is_dir()
    }

    fn scan(&mut self, first: bool) {
        let seen_us = self.clock.now().mono_us;
        let files = match list(&self.path) {
            Ok(files) => files,
            Err(error) => {
                self.readable = false;
                let message = format!("{}: {error}", self.path.display());
                return (self.deliver)(vec![SourceEvent::Unreadable { message }], seen_us);
            }
        };
        let came_back = !std::mem::replace(&mut self.readable, true);
        let mut batch = Vec::new();
        let names: BTreeSet<String> = files.keys().cloned().collect();
        let gone: Vec<String> = self.read.keys().filter(|file| !names.contains(*file)).cloned().collect();
        let listing = first || came_back || names != self.listed;
        self.read.retain(|file, _| !gone.contains(file));
        let before = std::mem::take(&mut self.changing);
        for (file, look) in files {
            if self.read.get(&file) == Some(&look) {
                continue;
            }
            if first || before.get(&file) == Some(&look) {
                batch.push(self.read_file(file, look));
            } else {
                self.changing.insert(file, look);
            }
        }
        if listing {
            self.listed.clone_from(&names);
            batch.push(SourceEvent::Listing { files: names });
        }
        if !batch.is_empty() {
            (self.deliver)(batch, seen_us);
        }
    }
}

/// A change that may have left a whole file, or taken one away.
fn matters(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(RemoveKind::File | RemoveKind::Any)
    )
}

/// Name of a file that is a document by its name.
fn document_file(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let ending = path.extension()?.to_str()?;
    let wanted = !name.starts_with('.') && matches!(ending, "yaml" | "yml" | "json");
    wanted.then(|| name.to_owned())
}

fn look_at(path: &Path) -> Option<Look> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some(Look { modified: metadata.modified().ok(), len: metadata.len(), inode: metadata.ino() })
}

fn list(path: &Path) -> std::io::Result<BTreeMap<String, Look>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if let Some(name) = document_file(&path)
            && let Some(look) = look_at(&path)
        {
            files.insert(name, look);
        }
    }
    Ok(files)
}

/// Reads a file no further than one byte past the largest document.
fn read_bounded(path: &Path) -> FileText {
    let limit = u64::try_from(JSON_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map(|_| text)
        .map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Sender;

    fn start(path: &Path) -> Receiver<Vec<SourceEvent>> {
        let (send, receive): (Sender<Vec<SourceEvent>>, _) = channel();
        let path = path.to_owned();
        let deliver: Deliver = Box::new(move |events, _| drop(send.send(events)));
        std::thread::spawn(move || watch(path, SystemClock::start(), deliver));
        receive
    }

    fn next(receive: &Receiver<Vec<SourceEvent>>) -> Vec<SourceEvent> {
        receive.recv_timeout(Duration::from_secs(60)).expect("the watcher tells")
    }

    /// The next batch that is more than the list of a scan.
    fn next_change(receive: &Receiver<Vec<SourceEvent>>) -> Vec<SourceEvent> {
        let only_list = |batch: &Vec<SourceEvent>| matches!(batch[..], [SourceEvent::Listing { .. }]);
        std::iter::repeat_with(|| next(receive)).find(|batch| !only_list(batch)).expect("endless")
    }

    fn file(name: &str, text: &str) -> SourceEvent {
        SourceEvent::File { file: name.into(), text: Ok(text.into()) }
    }

    #[test]
    fn writes_moves_and_removals_are_told_and_other_files_are_not() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join("a.yaml"), "a").expect("write");
        std::fs::write(dir.path().join(".hidden.yaml"), "x").expect("write");
        let receive = start(dir.path());
        let files = BTreeSet::from(["a.yaml".to_owned()]);
        assert_eq!(next(&receive), [file("a.yaml", "a"), SourceEvent::Listing { files }]);
        std::fs::write(dir.path().join("notes.txt"), "x").expect("write");
        std::fs::write(dir.path().join("b.json.tmp"), "b").expect("write");
        std::fs::rename(dir.path().join("b.json.tmp"), dir.path().join("b.json")).expect("rename");
        assert_eq!(next_change(&receive), [file("b.json", "b")]);
        std::fs::remove_file(dir.path().join("a.yaml")).expect("remove");
        assert_eq!(next_change(&receive), [SourceEvent::Gone { file: "a.yaml".into() }]);
    }

    #[test]
    fn after_single_changes_a_scan_lists_all_files() {
        let dir = tempfile::tempdir().expect("directory");
        let receive = start(dir.path());
        assert_eq!(next(&receive), [SourceEvent::Listing { files: BTreeSet::new() }]);
        std::fs::write(dir.path().join("a.yaml"), "a").expect("write");
        let files = BTreeSet::from(["a.yaml".to_owned()]);
        let listed = |batch: Vec<SourceEvent>| batch.contains(&SourceEvent::Listing { files: files.clone() });
        assert!((0..3).any(|_| listed(next(&receive))), "the next scan confirms what single changes said");
    }

    #[test]
    fn a_file_held_open_is_not_read_before_it_is_closed() {
        use std::io::Write;
        let dir = tempfile::tempdir().expect("directory");
        let receive = start(dir.path());
        assert_eq!(next(&receive), [SourceEvent::Listing { files: BTreeSet::new() }]);
        let mut out = std::fs::File::create(dir.path().join("a.yaml")).expect("create");
        out.write_all(b"half").expect("write");
        out.flush().expect("flush");
        std::fs::write(dir.path().join("b.yaml"), "whole").expect("write");
        assert_eq!(next_change(&receive), [file("b.yaml", "whole")], "a.yaml is still being written");
        out.write_all(b" and half").expect("write");
        drop(out);
        assert_eq!(next_change(&receive), [file("a.yaml", "half and half")]);
    }
}
