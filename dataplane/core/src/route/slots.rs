//! Numbered places that are filled, replaced and emptied while others read: chunks that never move.

use arc_swap::{ArcSwapOption, Guard};
use std::sync::{Arc, OnceLock};

/// Places of the first chunk; each further one is twice as long.
const FIRST: usize = 64;
/// 64 * (2^26 - 1) places: row numbers are 32 bits wide.
const CHUNKS: usize = 26;

type Chunk<T> = OnceLock<Box<[ArcSwapOption<T>]>>;

pub(super) struct Slots<T> {
    chunks: [Chunk<T>; CHUNKS],
}

fn place(index: u32) -> (usize, usize) {
    let m = index as usize + FIRST;
    let chunk = (usize::BITS - 1 - m.leading_zeros() - FIRST.trailing_zeros()) as usize;
    (chunk, m - (FIRST << chunk))
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS] }
    }

    /// Bytes held for places.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().filter_map(|c| c.get()).map(|c| size_of_val(&**c)).sum()
    }

    /// What is in a place, borrowed: no shared counter is touched.
    #[inline]
    pub(super) fn load(&self, index: u32) -> Guard<Option<Arc<T>>> {
        let (chunk, at) = place(index);
        match self.chunks.get(chunk).and_then(|c| c.get()) {
            Some(chunk) => chunk[at].load(),
            None => Guard::from_inner(None),
        }
    }

    /// Puts something, or nothing, into a place.
    pub(super) fn store(&self, index: u32, value: Option<Arc<T>>) {
        let (chunk, at) = place(index);
        let chunk =
            self.chunks[chunk].get_or_init(|| (0..FIRST << chunk).map(|_| ArcSwapOption::empty()).collect());
        chunk[at].store(value);
    }
}
