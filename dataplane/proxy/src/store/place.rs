//! What writers do to the index: make room, place a variant, insert, end.

use super::fill::{Fill, NotStored, Variant, Wakeup};
use super::object::ObjectRef;
use super::shard::{Note, Removed};
use super::{EVICTIONS_MAX, LARGE_REMEMBER_MS, OBJECT_SHARE_MAX, Store, UNKNOWN_FIRST_BYTES, VARIANTS_MAX};
use sluice_core::cache::{CacheKey, FieldSource, Now, Vary, VarySpec};
use sluice_uring::arena::{Blob, PIECE_MAX_BYTES, ReserveError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Store {
    pub(super) fn wakeup(&self) -> &dyn Wakeup {
        &*self.wakeup
    }

    pub(super) fn count_failed_fill(&self) {
        self.counters.fills_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Room for head and body, evicting if need be.
    pub(super) fn reserve(&self, head: u64, body: Option<u64>) -> Result<Blob, NotStored> {
        let bytes = head.saturating_add(body.unwrap_or(UNKNOWN_FIRST_BYTES));
        self.check_size(bytes)?;
        self.with_evictions(|| self.arena.reserve(bytes, head.max(1)))
    }

    /// More room for a body of unknown length: at least `missing`, and as much again as is there.
    pub(super) fn grow(&self, blob: &Blob, missing: u64) -> Result<(), NotStored> {
        self.check_size(blob.len() + missing)?;
        let bytes = missing.max(blob.room()).min(PIECE_MAX_BYTES);
        self.with_evictions(|| blob.grow(bytes))
    }

    fn check_size(&self, bytes: u64) -> Result<(), NotStored> {
        if bytes > self.arena.capacity() / OBJECT_SHARE_MAX {
            self.counters.refused_large.fetch_add(1, Ordering::Relaxed);
            return Err(NotStored::TooLarge);
        }
        Ok(())
    }

    fn with_evictions<T>(
        &self,
        mut reserve: impl FnMut() -> Result<T, ReserveError>,
    ) -> Result<T, NotStored> {
        for _ in 0..EVICTIONS_MAX {
            match reserve() {
                Ok(done) => return Ok(done),
                Err(ReserveError::TooLarge) => break,
                Err(ReserveError::OverCapacity | ReserveError::Fragmented) => {
                    if !self.evict_one() {
                        break;
                    }
                }
            }
        }
        self.counters.refused_full.fetch_add(1, Ordering::Relaxed);
        Err(NotStored::Full)
    }

    /// Evicts until a charge of `bytes` would be taken.
    pub(super) fn make_room(&self, bytes: u64) -> bool {
        for _ in 0..EVICTIONS_MAX {
            if self.arena.used() + bytes <= self.arena.capacity() {
                return true;
            }
            if !self.evict_one() {
                return false;
            }
        }
        false
    }

    /// Evicts the object of lowest rank, as far as the parts' notes tell which that is.
    fn evict_one(&self) -> bool {
        let mut order: Option<(u64, usize)> = None;
        for (index, part) in self.parts.iter().enumerate() {
            let lowest = part.lowest.load(Ordering::Relaxed);
            if lowest < order.map_or(u64::MAX, |o| o.0) {
                order = Some((lowest, index));
            }
        }
        let Some((_, first)) = order else { return false };
        // What a part noted may be gone or in use by now: then the others get their turn.
        for step in 0..self.parts.len() {
            let part = &self.parts[(first + step) % self.parts.len()];
            let victim = {
                let mut shard = part.shard.lock();
                let victim = shard.evict(self.level.load(Ordering::Relaxed));
                part.note(&shard);
                victim
            };
            if let Some((rank, removed)) = victim {
                self.level.fetch_max(rank, Ordering::Relaxed);
                self.counters.evicted.fetch_add(1, Ordering::Relaxed);
                drop(removed);
                return true;
            }
        }
        false
    }

    /// A response head came, and with it the key its variant is found under: moves the fill there. Returns what
    /// requests that joined must select.
    pub(super) fn place(
        &self,
        fill: &Arc<Fill>,
        slot_key: &mut CacheKey,
        vary: &Vary,
        request: &dyn FieldSource,
    ) -> Option<Variant> {
        let part = self.part(fill.url);
        let mut removed = Vec::new();
        let mut shard = part.shard.lock();
        let level = self.level.load(Ordering::Relaxed);
        let current = !fill.purged.load(Ordering::Relaxed);
        let noted = shard.find(fill.url).and_then(|id| match shard.slot(id).note.as_deref() {
            Some(Note::Vary { spec, epoch, .. }) => Some((spec.clone(), *epoch)),
            _ => None,
        });
        let variant = match vary {
            Vary::None | Vary::Any => {
                if noted.is_some()
                    && current
                    && let Some(id) = shard.find(fill.url)
                {
                    removed.push(shard.clear(id));
                }
                None
            }
            Vary::Fields(spec) => {
                let epoch = noted.filter(|(s, _)| s == spec).map(|(_, epoch)| epoch);
                let epoch = epoch.unwrap_or_else(|| self.epoch.fetch_add(1, Ordering::Relaxed));
                let key = spec.variant_key(fill.url, epoch, request);
                Some(Variant { spec: spec.clone(), epoch, key })
            }
        };
        let target = variant.as_ref().map_or(fill.url, |v| v.key);
        if current && let Some(variant) = &variant {
            let note = (&variant.spec, variant.epoch);
            note_variant(&mut shard, fill, note, variant.key, level, &mut removed);
        }
        if target != *slot_key {
            shard.detach_fill(*slot_key, fill);
            *slot_key = target;
            // Nobody joins a fill whose slot was refused, or taken by another; it is stored all the same.
            if current
                && let Some(id) = shard.find_or_make(target)
                && shard.slot(id).fill.is_none()
            {
                shard.slot_mut(id).fill = Some(fill.clone());
            }
        }
        part.note(&shard);
        drop(shard);
        variant
    }

    /// The fill is complete: its object can be found, unless a purge came between.
    pub(super) fn insert(&self, fill: &Arc<Fill>, key: CacheKey, object: &ObjectRef) {
        let part = self.part(fill.url);
        let mut removed: Removed = None;
        for _ in 0..2 {
            let mut shard = part.shard.lock();
            let current = !fill.purged.load(Ordering::Relaxed)
                && fill.stamp.all == self.generation.load(Ordering::Relaxed);
            let slot = if current { shard.find_or_make(key) } else { None };
            if let Some(id) = slot {
                removed = shard.put_object(id, object.clone(), self.level.load(Ordering::Relaxed));
            }
            if slot.is_some() || !current {
                shard.end_fill(key, fill);
                part.note(&shard);
                self.counters.fills.fetch_sub(1, Ordering::Relaxed);
                return drop(shard);
            }
            drop(shard);
            if !self.make_room(super::ENTRY_BYTES) {
                break;
            }
        }
        drop(removed);
        self.counters.refused_full.fetch_add(1, Ordering::Relaxed);
        self.end(fill, key);
    }

    /// The fill ended without anything to store.
    pub(super) fn end(&self, fill: &Arc<Fill>, key: CacheKey) {
        let part = self.part(fill.url);
        let mut shard = part.shard.lock();
        shard.end_fill(key, fill);
        part.note(&shard);
        self.counters.fills.fetch_sub(1, Ordering::Relaxed);
    }

    /// The response could not be stored. One that is too large now will be again.
    pub(super) fn end_refused(&self, fill: &Arc<Fill>, key: CacheKey, begun: Now, error: NotStored) {
        match error {
            NotStored::TooLarge => {
                self.end_uncacheable(fill, key, Some(begun.mono_ms.saturating_add(LARGE_REMEMBER_MS)));
            }
            NotStored::Full | NotStored::Length => self.end(fill, key),
        }
    }

    /// The response is not to be stored: what was is outdated, and until then nobody waits for the key.
    pub(super) fn end_uncacheable(&self, fill: &Arc<Fill>, key: CacheKey, until_mono_ms: Option<u64>) {
        let part = self.part(fill.url);
        let mut shard = part.shard.lock();
        let mut removed: Removed = None;
        let current = !fill.purged.load(Ordering::Relaxed);
        if let Some(until_mono_ms) = until_mono_ms.filter(|_| current)
            && let Some(id) = shard.find(key)
        {
            let note = Note::Uncacheable { until_mono_ms, stamp: fill.stamp };
            removed = shard.put_note(id, note, self.level.load(Ordering::Relaxed));
        }
        shard.end_fill(key, fill);
        part.note(&shard);
        self.counters.fills.fetch_sub(1, Ordering::Relaxed);
        drop(shard);
        drop(removed);
    }
}

/// Writes down at the URL's own key that its responses vary, and this variant among them.
fn note_variant(
    shard: &mut super::Shard,
    fill: &Arc<Fill>,
    (spec, epoch): (&VarySpec, u64),
    key: CacheKey,
    level: u64,
    removed: &mut Vec<Removed>,
) {
    let Some(id) = shard.find_or_make(fill.url) else { return };
    let same = matches!(shard.slot(id).note.as_deref(), Some(Note::Vary { epoch: e, .. }) if *e == epoch);
    if !same {
        let note = Note::Vary { spec: spec.clone(), epoch, variants: VecDeque::new() };
        removed.push(shard.put_note(id, note, level));
    }
    let mut oldest = None;
    if let Some(Note::Vary { variants, .. }) = shard.slot_mut(id).note.as_deref_mut() {
        if !variants.contains(&key) {
            variants.push_back(key);
        }
        if variants.len() > VARIANTS_MAX {
            oldest = variants.pop_front();
        }
    }
    if let Some(id) = oldest.and_then(|key| shard.find(key)) {
        removed.push(shard.clear(id));
    }
}
