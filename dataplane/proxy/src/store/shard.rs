//! One part of the index: slots found by key, ranked for eviction. All methods run under the shard's lock.
//!
//! ```text
//! slot: nothing -> fill -> object -> (fill beside object: revalidation) -> object
//!                       -> note (vary: the key of a URL whose variants have keys of their own;
//!                                uncacheable: until a time)
//! ```
//!
//! What must stay true: each slot is charged [`ENTRY_BYTES`] from its making to its end; a slot with an object or a
//! note is in the heap, one with only a fill is not; an empty slot is removed at once.

use super::fill::Fill;
use super::object::{ObjectRef, Stamp};
use super::rank::{RankHeap, Use};
use hashbrown::HashTable;
use sluice_core::cache::{CacheKey, VarySpec};
use sluice_uring::arena::Arena;
use std::collections::VecDeque;
use std::sync::Arc;

/// Memory of an index entry beside the arena, charged against the capacity: slot (64), its place in table and heap
/// (26), object (152) and blob (88) with their allocations, blocks of the allocator (56); rounded up.
pub const ENTRY_BYTES: u64 = 400;
/// Variants kept of one URL: beyond it the one made first is dropped.
pub const VARIANTS_MAX: usize = 64;
/// Objects in use that are passed over in one search for a victim.
const PINNED_MAX: usize = 256;

/// Something remembered about a key that is no response.
pub(super) enum Note {
    /// Requests neither wait nor fill until then.
    Uncacheable { until_mono_ms: u64, stamp: Stamp },
    /// Responses are found under keys made from the request.
    Vary { spec: VarySpec, epoch: u64, variants: VecDeque<CacheKey> },
}

pub(super) struct Slot {
    pub(super) key: CacheKey,
    pub(super) object: Option<ObjectRef>,
    pub(super) fill: Option<Arc<Fill>>,
    pub(super) note: Option<Box<Note>>,
    pub(super) uses: Use,
}

/// What leaves the index: dropped by the caller once the lock is released, for dropping may punch pages.
pub(super) type Removed = Option<ObjectRef>;

pub(super) struct Shard {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    spare: Vec<u32>,
    heap: RankHeap,
    /// Fills in flight, by the key of their URL, whatever became of their slots.
    fills: HashTable<Arc<Fill>>,
    arena: Arc<Arena>,
    objects: u64,
}

impl Shard {
    pub(super) fn new(arena: Arc<Arena>) -> Self {
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            spare: Vec::new(),
            heap: RankHeap::default(),
            fills: HashTable::new(),
            arena,
            objects: 0,
        }
    }

    pub(super) fn objects(&self) -> u64 {
        self.objects
    }

    /// Lower bound of the lowest rank; `u64::MAX` when there is nothing to evict.
    pub(super) fn lowest(&self) -> u64 {
        self.heap.top().map_or(u64::MAX, |t| t.0)
    }

    #[inline]
    pub(super) fn find(&self, key: CacheKey) -> Option<u32> {
        self.table.find(key.table_hash(), |&i| self.slots[i as usize].key == key).copied()
    }

    #[inline]
    pub(super) fn slot(&self, id: u32) -> &Slot {
        &self.slots[id as usize]
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, id: u32) -> &mut Slot {
        &mut self.slots[id as usize]
    }

    /// The slot of a key, made if need be; `None` when its charge is refused.
    pub(super) fn find_or_make(&mut self, key: CacheKey) -> Option<u32> {
        if let Some(id) = self.find(key) {
            return Some(id);
        }
        if !self.arena.charge(ENTRY_BYTES) {
            return None;
        }
        let slot = Slot { key, object: None, fill: None, note: None, uses: Use::default() };
        let id = if let Some(id) = self.spare.pop() {
            self.slots[id as usize] = slot;
            id
        } else {
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        };
        let slots = &self.slots;
        self.table.insert_unique(key.table_hash(), id, |&i| slots[i as usize].key.table_hash());
        Some(id)
    }

    /// Puts an object into a slot; what was there before comes back.
    pub(super) fn put_object(&mut self, id: u32, object: ObjectRef, level: u64) -> Removed {
        let slot = &mut self.slots[id as usize];
        slot.note = None;
        let old = slot.object.replace(object);
        if old.is_none() {
            slot.uses = Use::first(level);
            self.objects += 1;
        }
        self.rerank(id);
        old
    }

    /// Puts a note into a slot in place of an object.
    pub(super) fn put_note(&mut self, id: u32, note: Note, level: u64) -> Removed {
        let slot = &mut self.slots[id as usize];
        let old = slot.object.take();
        slot.note = Some(Box::new(note));
        slot.uses = Use::first(level);
        self.objects -= u64::from(old.is_some());
        self.rerank(id);
        old
    }

    /// Takes object and note out of a slot; the slot goes if no fill is left.
    pub(super) fn clear(&mut self, id: u32) -> Removed {
        let slot = &mut self.slots[id as usize];
        slot.note = None;
        let old = slot.object.take();
        self.objects -= u64::from(old.is_some());
        self.heap.remove(id);
        self.remove_if_empty(id);
        old
    }

    pub(super) fn add_fill(&mut self, id: u32, fill: Arc<Fill>) {
        self.fills.insert_unique(fill.url.table_hash(), fill.clone(), |f| f.url.table_hash());
        self.slots[id as usize].fill = Some(fill);
    }

    /// Takes a fill out of its slot and the list.
    pub(super) fn end_fill(&mut self, key: CacheKey, fill: &Arc<Fill>) {
        if let Ok(entry) = self.fills.find_entry(fill.url.table_hash(), |f| Arc::ptr_eq(f, fill)) {
            entry.remove();
        }
        self.detach_fill(key, fill);
    }

    /// Takes a fill out of its slot only: nobody joins it any more.
    pub(super) fn detach_fill(&mut self, key: CacheKey, fill: &Arc<Fill>) {
        let Some(id) = self.find(key) else { return };
        if self.slots[id as usize].fill.as_ref().is_some_and(|f| Arc::ptr_eq(f, fill)) {
            self.slots[id as usize].fill = None;
            self.remove_if_empty(id);
        }
    }

    /// Fills in flight for a URL, under whatever variant.
    pub(super) fn fills_of(&self, url: CacheKey) -> impl Iterator<Item = &Arc<Fill>> {
        self.fills.iter_hash(url.table_hash()).filter(move |f| f.url == url)
    }

    /// Removes the object or note of lowest rank that nobody holds. Returns it with its rank.
    pub(super) fn evict(&mut self, level: u64) -> Option<(u64, Removed)> {
        let mut pinned = 0;
        loop {
            let (bound, id) = self.heap.top()?;
            let bytes = self.bytes_of(id);
            let slot = &mut self.slots[id as usize];
            let rank = slot.uses.rank(bytes);
            if rank > bound {
                self.heap.set(id, rank);
                continue;
            }
            if slot.object.as_ref().is_some_and(|o| o.is_held()) {
                pinned += 1;
                if pinned > PINNED_MAX {
                    return None;
                }
                // Its memory would not come free now; it is in use, and treated so.
                slot.uses.defer(level.max(bound));
                let rank = slot.uses.rank(bytes).max(bound + 1);
                self.heap.set(id, rank);
                continue;
            }
            return Some((rank, self.clear(id)));
        }
    }

    fn rerank(&mut self, id: u32) {
        let rank = self.slots[id as usize].uses.rank(self.bytes_of(id));
        self.heap.set(id, rank);
    }

    fn bytes_of(&self, id: u32) -> u64 {
        ENTRY_BYTES + self.slots[id as usize].object.as_ref().map_or(0, |o| o.room())
    }

    fn remove_if_empty(&mut self, id: u32) {
        let slot = &self.slots[id as usize];
        if slot.object.is_some() || slot.fill.is_some() || slot.note.is_some() {
            return;
        }
        let key = slot.key;
        if let Ok(entry) = self.table.find_entry(key.table_hash(), |&i| i == id) {
            entry.remove();
            self.spare.push(id);
            self.arena.uncharge(ENTRY_BYTES);
        }
    }
}
