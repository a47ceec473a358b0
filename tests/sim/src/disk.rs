//! A disk that forgets what was not synced.
//!
//! Holds the bytes of one file. Writes since the last sync are kept apart: a crash of the process leaves them
//! all (the kernel has them), a power cut keeps any of them, drops any, and tears any at a sector. Once dead,
//! a disk answers every call with an error, so that a program that is dropped cannot tidy up after its death.

use crate::rng::Rng;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes as one: the rest of a torn write is the old content.
const SECTOR: usize = 512;

#[derive(Debug)]
enum Pending {
    Write { offset: usize, old: Vec<u8>, new: Vec<u8> },
    Resize { old: Vec<u8>, from: usize, to: usize },
}

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    pending: Vec<Pending>,
    dead: bool,
    /// Calls that change something until the disk dies by itself.
    calls_left: Option<u64>,
    /// Syncs until one fails; the disk lives on.
    syncs_until_failure: Option<u64>,
    syncs: u64,
    refused: u64,
    /// A sync returns before anything is on the disk.
    lying: bool,
}

/// A handle of the disk; all handles are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Inner>>);

/// How a disk lost its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The program was killed; the kernel keeps what was written.
    Process,
    /// The machine lost power.
    Power,
}

fn dead() -> io::Error {
    io::Error::other("the disk is gone")
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk dies by itself at the `calls`-th change from now: in the middle of a commit.
    pub fn die_after(&self, calls: u64) {
        self.inner().calls_left = Some(calls);
    }

    /// It does not die by itself after all.
    pub fn live_on(&self) {
        self.inner().calls_left = None;
    }

    /// From now on a sync returns before anything is on the disk: what a mutation breaks.
    pub fn set_lying(&self, lying: bool) {
        self.inner().lying = lying;
    }

    /// The `syncs`-th sync from now fails, once.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.inner().syncs_until_failure = Some(syncs);
    }

    /// It has died.
    pub fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.inner().syncs
    }

    /// Syncs refused so far.
    pub fn refused(&self) -> u64 {
        self.inner().refused
    }

    /// Let it die now, and give the disk that the next program finds.
    pub fn die(&self, death: Death, rng: &mut Rng) -> Self {
        let mut inner = self.inner();
        inner.dead = true;
        let pending = std::mem::take(&mut inner.pending);
        let mut bytes = std::mem::take(&mut inner.bytes);
        if death == Death::Power {
            for change in pending.iter().rev() {
                change.undo(&mut bytes);
            }
            for change in &pending {
                change.redo_in_part(&mut bytes, rng);
            }
        }
        Self(Arc::new(Mutex::new(Inner { bytes, ..Inner::default() })))
    }

    /// Number of bytes.
    pub fn length(&self) -> io::Result<u64> {
        let inner = self.inner();
        if inner.dead { Err(dead()) } else { Ok(inner.bytes.len() as u64) }
    }

    /// Read at an offset, all of `out` or an error.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.inner();
        if inner.dead {
            return Err(dead());
        }
        let start = offset as usize;
        let from = inner.bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    /// Cut or lengthen with zeros.
    pub fn resize(&self, length: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.spend_call()?;
        let (from, to) = (inner.bytes.len(), length as usize);
        let old = inner.bytes.get(to..).map(<[u8]>::to_vec).unwrap_or_default();
        inner.bytes.resize(to, 0);
        inner.pending.push(Pending::Resize { old, from, to });
        Ok(())
    }

    /// Write at an offset inside the length.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        inner.spend_call()?;
        let offset = offset as usize;
        let place = inner.bytes.get_mut(offset..offset + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let old = place.to_vec();
        place.copy_from_slice(data);
        inner.pending.push(Pending::Write { offset, old, new: data.to_vec() });
        Ok(())
    }

    /// What was written stays.
    pub fn sync(&self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.spend_call()?;
        if let Some(left) = inner.syncs_until_failure {
            inner.syncs_until_failure = left.checked_sub(1);
            if left == 0 {
                inner.refused += 1;
                return Err(io::Error::other("the disk refuses a sync"));
            }
        }
        inner.syncs += 1;
        if !inner.lying {
            inner.pending.clear();
        }
        Ok(())
    }
}

impl Inner {
    fn spend_call(&mut self) -> io::Result<()> {
        if let Some(left) = self.calls_left {
            self.calls_left = left.checked_sub(1);
            self.dead |= left == 0;
        }
        if self.dead { Err(dead()) } else { Ok(()) }
    }
}

impl Pending {
    fn undo(&self, bytes: &mut Vec<u8>) {
        match self {
            Pending::Write { offset, old, .. } => bytes[*offset..*offset + old.len()].copy_from_slice(old),
            Pending::Resize { old, from, .. } => {
                bytes.resize(*from - old.len(), 0);
                bytes.extend_from_slice(old);
            }
        }
    }

    fn redo_in_part(&self, bytes: &mut Vec<u8>, rng: &mut Rng) {
        match self {
            // Lengths are metadata, which a journal keeps in order.
            Pending::Resize { to, .. } => bytes.resize(*to, 0),
            Pending::Write { offset, new, .. } => {
                let sectors = new.len().div_ceil(SECTOR);
                let kept = match rng.below(3) {
                    0 => 0,
                    1 => new.len(),
                    _ => rng.index(sectors + 1) * SECTOR,
                };
                let kept = kept.min(new.len());
                bytes[*offset..*offset + kept].copy_from_slice(&new[..kept]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(disk: &Disk) -> Vec<u8> {
        let mut out = vec![0; disk.length().expect("alive") as usize];
        disk.read_at(0, &mut out).expect("alive");
        out
    }

    fn written() -> Disk {
        let disk = Disk::new();
        disk.resize(2048).expect("alive");
        disk.write_at(0, &[1; 2048]).expect("alive");
        disk.sync().expect("alive");
        disk.write_at(0, &[2; 2048]).expect("alive");
        disk
    }

    #[test]
    fn a_killed_program_leaves_its_writes_and_can_write_no_more() {
        let disk = written();
        let next = disk.die(Death::Process, &mut Rng::new(1));
        assert_eq!(content(&next), [2; 2048]);
        assert!(disk.write_at(0, &[3]).is_err() && disk.sync().is_err() && disk.length().is_err());
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let next = written().die(Death::Power, &mut Rng::new(seed));
            let bytes = content(&next);
            let torn_at = bytes.iter().position(|b| *b == 1).unwrap_or(2048);
            assert!(bytes[torn_at..].iter().all(|b| *b == 1) && torn_at % SECTOR == 0);
            seen.insert(torn_at);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 512, 1024, 1536, 2048]);
    }

    #[test]
    fn resizes_are_undone_in_order() {
        let disk = written();
        disk.resize(100).expect("alive");
        disk.resize(300).expect("alive");
        let mut bytes = content(&disk);
        for change in disk.inner().pending.iter().rev() {
            change.undo(&mut bytes);
        }
        assert_eq!(bytes, [1; 2048]);
    }

    #[test]
    fn it_dies_in_the_middle_and_refuses_one_sync() {
        let disk = written();
        disk.fail_sync_after(0);
        assert!(disk.sync().is_err() && disk.sync().is_ok() && !disk.is_dead());
        disk.die_after(1);
        assert!(disk.write_at(0, &[4]).is_ok());
        assert!(disk.write_at(1, &[4]).is_err() && disk.is_dead());
    }
}
