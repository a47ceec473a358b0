//! The ledger on disks that lose what was not synced, and on torn files.

use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use sluice_agent::ledger::{Kept, Ledger, LedgerError};
use sluice_api::rest::{DrainKind, DrainRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

/// A disk: what a reader sees, and what a power cut leaves.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    seen: Vec<u8>,
    synced: Vec<u8>,
    /// Writes after the last sync, in order: offset and bytes, or a new length.
    pending: Vec<Write>,
    writes: usize,
    /// From this many writes on, everything fails.
    power_cut_at: Option<usize>,
    /// Calls that change something until one fails; the disk lives on.
    fails_in: Option<usize>,
}

impl State {
    fn count_down(&mut self) -> io::Result<()> {
        let Some(left) = self.fails_in else { return Ok(()) };
        self.fails_in = left.checked_sub(1);
        if left == 0 { Err(io::Error::other("the disk refuses once")) } else { Ok(()) }
    }
}

#[derive(Clone, Debug)]
enum Write {
    At(u64, Vec<u8>),
    Len(u64),
}

fn apply(bytes: &mut Vec<u8>, write: &Write) {
    match write {
        Write::At(offset, data) => {
            let at = *offset as usize;
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Write::Len(len) => bytes.resize(*len as usize, 0),
    }
}

impl Disk {
    /// What is on the disk after a power cut: the synced bytes and any part of what was under way.
    fn after_power_cut(&self, keep: impl Fn(usize) -> bool) -> Disk {
        let state = self.0.lock().expect("disk");
        let mut bytes = state.synced.clone();
        for (i, write) in state.pending.iter().enumerate() {
            if matches!(write, Write::Len(_)) || keep(i) {
                apply(&mut bytes, write);
            }
        }
        let state = State { seen: bytes.clone(), synced: bytes, ..State::default() };
        Disk(Arc::new(Mutex::new(state)))
    }

    fn write(&self, write: Write) -> io::Result<()> {
        let mut state = self.0.lock().expect("disk");
        state.count_down()?;
        state.writes += 1;
        if state.power_cut_at.is_some_and(|at| state.writes > at) {
            return Err(io::Error::other("power cut"));
        }
        apply(&mut state.seen, &write);
        state.pending.push(write);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("disk").seen.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().expect("disk");
        let at = offset as usize;
        let bytes = state.seen.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write(Write::Len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock().expect("disk");
        if state.power_cut_at.is_some_and(|at| state.writes > at) {
            return Err(io::Error::other("power cut"));
        }
        state.count_down()?;
        state.synced = state.seen.clone();
        state.pending.clear();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(Write::At(offset, data.to_vec()))
    }
}

fn kept(generation: u64) -> Kept {
    Kept { generation, file: "a.yaml".into(), text: format!("text of {generation}").into_bytes() }
}

fn put(ledger: &mut Ledger, generation: u64) -> Result<(), LedgerError> {
    ledger.commit_documents(&BTreeMap::from([("a".to_owned(), kept(generation))]), &BTreeSet::new())
}

#[test]
fn a_power_cut_at_any_write_leaves_the_old_or_the_new_generation() {
    // How many writes two commits make.
    let disk = Disk::default();
    let mut ledger = Ledger::on(disk.clone()).expect("ledger");
    put(&mut ledger, 1).expect("commit");
    let start = disk.0.lock().expect("disk").writes;
    put(&mut ledger, 2).expect("commit");
    let end = disk.0.lock().expect("disk").writes;
    assert!(end > start);
    for cut in start..=end {
        for pattern in 0..8usize {
            let disk = Disk::default();
            let mut ledger = Ledger::on(disk.clone()).expect("ledger");
            put(&mut ledger, 1).expect("commit");
            disk.0.lock().expect("disk").power_cut_at = Some(cut);
            let told = put(&mut ledger, 2).is_ok();
            drop(ledger);
            let left = disk.after_power_cut(|i| (pattern >> (i % 3)) & 1 == 1);
            let ledger = Ledger::on(left).unwrap_or_else(|e| panic!("cut {cut} pattern {pattern}: {e}"));
            let found = ledger.documents().get("a").expect("the document");
            assert!(*found == kept(1) || *found == kept(2), "cut {cut} pattern {pattern}: {found:?}");
            if told {
                assert_eq!(*found, kept(2), "cut {cut} pattern {pattern}: what was promised is there");
            }
        }
    }
}

#[test]
fn after_a_failed_commit_the_next_one_works_and_what_was_refused_stays_out() {
    let drain = DrainRequest { kind: DrainKind::Backend, name: "edge-1".into() };
    let mut refused = 0;
    for call in 0..20 {
        let disk = Disk::default();
        let mut ledger = Ledger::on(disk.clone()).expect("ledger");
        put(&mut ledger, 1).expect("commit");
        disk.0.lock().expect("disk").fails_in = Some(call);
        if put(&mut ledger, 2).is_ok() {
            continue;
        }
        refused += 1;
        assert_eq!(ledger.documents().get("a"), Some(&kept(1)), "call {call}: the old state stays");
        disk.0.lock().expect("disk").fails_in = None;
        ledger.set_drain(&drain, true).unwrap_or_else(|e| panic!("call {call}: {e}"));
        // What it promised is on the disk, with nothing of what it refused.
        drop(ledger);
        for keep in [false, true] {
            let ledger = Ledger::on(disk.after_power_cut(|_| keep)).expect("ledger");
            assert_eq!(ledger.documents().get("a"), Some(&kept(1)), "call {call}");
            assert!(ledger.drains().contains(&drain), "call {call}");
        }
    }
    assert!(refused > 1, "a commit makes several calls");
}

#[test]
fn a_ledger_that_cannot_be_opened_again_keeps_its_state_and_says_so_until_it_can() {
    let disk = Disk::default();
    let mut ledger = Ledger::on(disk.clone()).expect("ledger");
    put(&mut ledger, 1).expect("commit");
    let writes = disk.0.lock().expect("disk").writes;
    disk.0.lock().expect("disk").power_cut_at = Some(writes);
    for generation in 2..5 {
        assert!(put(&mut ledger, generation).is_err() && ledger.mend().is_err());
        assert_eq!(ledger.documents().get("a"), Some(&kept(1)));
    }
    disk.0.lock().expect("disk").power_cut_at = None;
    ledger.mend().expect("the disk is back");
    put(&mut ledger, 5).expect("commit");
    drop(ledger);
    let ledger = Ledger::on(disk.after_power_cut(|_| false)).expect("ledger");
    assert_eq!(ledger.documents().get("a"), Some(&kept(5)));
}

#[test]
fn a_damaged_file_is_kept_aside_and_a_new_ledger_begun() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("ledger.redb");
    let (mut ledger, opened) = Ledger::open(&path).expect("open");
    assert_eq!(opened.damaged, None);
    put(&mut ledger, 1).expect("commit");
    assert!(Ledger::open(&path).is_err(), "another agent holds it");
    drop(ledger);
    let whole = std::fs::read(&path).expect("file");
    for text in [b"not a ledger at all".to_vec(), whole[..100].to_vec(), whole[..whole.len() / 2].to_vec()] {
        std::fs::write(&path, &text).expect("write");
        let (ledger, opened) = Ledger::open(&path).unwrap_or_else(|e| panic!("{} bytes: {e}", text.len()));
        let aside = opened.damaged.expect("it is damaged");
        assert_eq!(std::fs::read(aside).expect("aside"), text);
        assert!(ledger.documents().is_empty());
        drop(ledger);
    }
    std::fs::write(&path, &whole).expect("write");
    let (ledger, opened) = Ledger::open(&path).expect("whole");
    assert_eq!((opened.damaged, ledger.documents().get("a")), (None, Some(&kept(1))));
}

#[test]
fn ids_are_kept_given_back_and_not_given_twice() {
    let mut ledger = Ledger::on(InMemoryBackend::new()).expect("ledger");
    let set = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect::<BTreeSet<_>>();
    let change = |ledger: &mut Ledger, keys: &[&str], busy: &[u16], now: u64| {
        let change = ledger.ids().change_to(&set(keys), &busy.iter().copied().collect(), now, 1000, 4);
        match change {
            Ok(Some(change)) => ledger.commit_ids(&change).expect("commit"),
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        Ok(keys.iter().map(|k| ledger.ids().get(k).expect("an id")).collect::<Vec<u16>>())
    };
    assert_eq!(change(&mut ledger, &["a", "b"], &[], 0).expect("ids"), [1, 2]);
    assert_eq!(change(&mut ledger, &["b", "c"], &[], 10).expect("ids"), [2, 3]);
    assert_eq!(change(&mut ledger, &["a", "b"], &[], 20).expect("ids"), [1, 2], "back in time: the old id");
    assert_eq!(change(&mut ledger, &["b", "d"], &[1], 30).expect("ids"), [2, 4], "1 and 3 rest");
    let full = change(&mut ledger, &["b", "d", "e"], &[1], 40);
    assert!(matches!(full, Err(LedgerError::NoId { max: 4 })));
    assert_eq!(
        change(&mut ledger, &["b", "d", "e"], &[1], 5000).expect("ids"),
        [2, 4, 3],
        "1 is still named"
    );
}
