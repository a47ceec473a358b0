//! From a hash to row numbers: one array of words, probed linearly, changed in place.
//!
//! A word is a 32-bit tag of the hash and a row number. Readers load words and never wait; only the holder of the
//! table's writer lock stores. A word is written once its row is there and overwritten by a tombstone before
//! its row goes, so a reader may find too much, never too little of what stays; it compares names.

use std::sync::atomic::{AtomicU64, Ordering};

const EMPTY: u64 = 0;
const TOMB: u64 = 1;
/// Row numbers are stored above the two marks.
const FIRST_ROW: u64 = 2;
/// Words of the smallest index.
const CELLS_MIN: usize = 64;

pub(super) struct Index {
    cells: Box<[AtomicU64]>,
}

const fn tag(hash: u64) -> u64 {
    hash >> 32
}

impl Index {
    /// An index that takes `rows` rows before it is due.
    pub(super) fn with_room_for(rows: usize) -> Self {
        let cells = (rows * 2).next_power_of_two().max(CELLS_MIN);
        Self { cells: (0..cells).map(|_| AtomicU64::new(EMPTY)).collect() }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.cells.len() * size_of::<AtomicU64>()
    }

    /// Used words, tombstones included, at which a larger index is due: at 5/8 a miss looks at four words.
    pub(super) fn is_due(&self, used: usize) -> bool {
        used * 8 >= self.cells.len() * 5
    }

    fn probe(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        let mask = self.cells.len() - 1;
        let start = tag(hash) as usize;
        (0..=mask).map(move |step| &self.cells[(start + step) & mask])
    }

    /// Rows that may have this hash.
    #[inline]
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> {
        self.probe(hash)
            .map(|cell| cell.load(Ordering::Acquire))
            .take_while(|word| *word != EMPTY)
            .filter(move |word| *word != TOMB && *word >> 32 == tag(hash))
            .filter_map(|word| u32::try_from((word & 0xffff_ffff) - FIRST_ROW).ok())
    }

    /// Adds a row; `true` if a tombstone was used again.
    pub(super) fn insert(&self, hash: u64, row: u32) -> bool {
        let word = tag(hash) << 32 | (u64::from(row) + FIRST_ROW);
        for cell in self.probe(hash) {
            let old = cell.load(Ordering::Relaxed);
            if old <= TOMB {
                cell.store(word, Ordering::Release);
                return old == TOMB;
            }
        }
        unreachable!("the index grows before it is full")
    }

    /// Marks a row as gone.
    pub(super) fn remove(&self, hash: u64, row: u32) {
        let word = tag(hash) << 32 | (u64::from(row) + FIRST_ROW);
        if let Some(cell) = self.probe(hash).find(|cell| cell.load(Ordering::Relaxed) == word) {
            cell.store(TOMB, Ordering::Release);
        }
    }

    /// The same rows in an index of another size. Places follow from tags alone: no row is read.
    pub(super) fn rebuilt(&self, rows: usize) -> Self {
        let new = Self::with_room_for(rows);
        for word in self.cells.iter().map(|c| c.load(Ordering::Relaxed)).filter(|w| *w > TOMB) {
            new.insert(word, ((word & 0xffff_ffff) - FIRST_ROW) as u32);
        }
        new
    }
}
