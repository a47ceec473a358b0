//! The RAM store: an index of responses over an arena, and the fills in flight.
//!
//! Shared by all workers of a process. A lookup takes one short lock, of the index part its key falls into, and
//! hands out a counted handle; bytes are read and sent without any lock. No method blocks on I/O, reads a clock or
//! draws a random number: `now` comes with the query, and with one shard the whole store is deterministic.
//!
//! What must stay true:
//! * Bytes in use, index included, never exceed [`StoreConfig::capacity_bytes`]: room is reserved before a byte is
//!   stored, and where none can be made the response is passed through.
//! * A lookup never returns bytes of another key, of an unfinished fill, or of an older purge generation.
//! * One fill in flight per key; all its readers are told its end.
//! * No two locks are held at once, and handles are dropped, wake-ups called, outside of locks.

mod fill;
mod object;
mod place;
mod rank;
mod shard;
#[cfg(test)]
mod tests;

pub use fill::{BodyPoll, BodyWriter, FillPoll, FillReader, FillWriter, NotStored, Subscriber, Wakeup};
pub use object::{Object, ObjectMeta, ObjectRef};
pub use shard::{ENTRY_BYTES, VARIANTS_MAX};

use fill::{ELECTIONS_MAX, Fill};
use object::Stamp;
use parking_lot::{Mutex, MutexGuard};
use shard::{Note, Removed, Shard};
use sluice_core::cache::{CacheKey, FieldSource, Now, RequestControl, Reuse, reuse};
use sluice_uring::arena::{Arena, ArenaStats};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Objects larger than this part of the cache are passed through: one of them must not empty the rest.
pub const OBJECT_SHARE_MAX: u64 = 8;
/// A fill without readers goes on if no more than this is missing.
pub const CONTINUE_MAX_BYTES: u64 = 1 << 20;
/// Fills in flight at once: more upstream connections than a machine has ports for; each costs under 300 bytes
/// beside its reservation.
pub const FILLS_MAX: u64 = 65_536;
/// Lookups of one request: itself, after a writer's death, after a response for another variant.
pub const ATTEMPTS_MAX: u8 = 3;
/// Victims of one reservation: a few milliseconds of work. Beyond it the response is passed through.
pub const EVICTIONS_MAX: usize = 16_384;
/// How long a URL whose response was too large is remembered as uncacheable, so that requests for it do not wait for
/// one another; short, for the next response may be smaller.
const LARGE_REMEMBER_MS: u64 = 10_000;
/// First reservation for a body of unknown length; later ones double what is there.
const UNKNOWN_FIRST_BYTES: u64 = 16 << 10;

/// How a store is made.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes it may use, index included.
    pub capacity_bytes: u64,
    /// Parts of the index with a lock each: a few per worker are enough. Rounded up to a power of two.
    pub shards: usize,
}

/// One lookup.
pub struct Query<'a> {
    /// Key of the URL.
    pub key: CacheKey,
    /// Purge generation of the host row.
    pub host_generation: u64,
    /// Clocks.
    pub now: Now,
    /// Directives of the request.
    pub control: RequestControl,
    /// Fields of the request, for Vary.
    pub request: &'a dyn FieldSource,
    /// A miss may begin or join a fill: GET, no Range, no content, and the route stores. Others are answered from
    /// what is stored or pass.
    pub may_fill: bool,
    /// 0, or one more than last time after [`FillPoll::Retry`].
    pub attempt: u8,
    /// Who is woken if this becomes a [`Lookup::Join`].
    pub subscriber: Subscriber,
}

/// What a lookup found.
#[derive(Debug)]
pub enum Lookup {
    /// Serve it. `stale` when the request allowed that, or another session revalidates it in the background.
    Hit {
        /// The object.
        object: ObjectRef,
        /// Past its lifetime.
        stale: bool,
    },
    /// Stored, to be validated by this session: send a conditional request, and call one of the writer's methods.
    Revalidate {
        /// The stored object, for its validators.
        object: ObjectRef,
        /// The right to replace it.
        writer: FillWriter,
        /// Answer the client with the stale object now, validate behind its back (RFC 5861 section 3).
        serve_now: bool,
        /// Answer with the stale object if validation fails (RFC 5861 section 4).
        stale_if_error: bool,
    },
    /// Another session fetches it: wait with the reader.
    Join(FillReader),
    /// Nobody has it: fetch it.
    Begin(FillWriter),
    /// Fetch without storing.
    Pass(LookupPass),
    /// `only-if-cached`, and nothing usable is stored: answer 504.
    OnlyIfCached,
}

/// Why a lookup neither found nor begins anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupPass {
    /// [`Query::may_fill`] was false.
    NotFillable,
    /// The key is remembered as uncacheable.
    Uncacheable,
    /// Fills in flight, or what they hold of the memory, are at their limit.
    TooManyFills,
    /// Too many attempts.
    Attempts,
    /// Another session is at it, and this request must not share its answer.
    Unshared,
}

/// Counters since start and gauges of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes in use, index and fills included.
    pub bytes: u64,
    /// Bytes it may use.
    pub capacity_bytes: u64,
    /// Responses that can be found.
    pub objects: u64,
    /// Fills in flight.
    pub fills: u64,
    /// Objects and notes evicted.
    pub evicted: u64,
    /// Reservations refused: larger than [`OBJECT_SHARE_MAX`] allows.
    pub refused_large: u64,
    /// Reservations refused: no room could be made.
    pub refused_full: u64,
    /// Lookups that passed because fills were at their limit.
    pub refused_fills: u64,
    /// Requests that joined a fill.
    pub joined: u64,
    /// Fills that died.
    pub fills_failed: u64,
    /// Figures of the memory beneath.
    pub arena: ArenaStats,
}

/// What is stored for a key, for `trace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Fresh.
    Fresh,
    /// Stale.
    Stale,
    /// Nothing.
    Absent,
    /// A fill is in flight.
    Filling,
    /// Remembered as uncacheable.
    Uncacheable,
}

#[derive(Default)]
struct Counters {
    fills: AtomicU64,
    evicted: AtomicU64,
    refused_large: AtomicU64,
    refused_full: AtomicU64,
    refused_fills: AtomicU64,
    joined: AtomicU64,
    fills_failed: AtomicU64,
}

/// A shard on cache lines of its own.
#[repr(align(128))]
struct Part {
    shard: Mutex<Shard>,
    /// [`Shard::lowest`] as of the last change, for choosing where to evict without a lock.
    lowest: AtomicU64,
}

/// The store; shared by all workers of a process.
pub struct Store {
    parts: Box<[Part]>,
    arena: Arc<Arena>,
    wakeup: Arc<dyn Wakeup>,
    /// Rank of the last victim: see `rank`.
    level: AtomicU64,
    /// Purge generation of everything.
    generation: AtomicU64,
    /// Source of the epochs of Vary notes.
    epoch: AtomicU64,
    counters: Counters,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("stats", &self.stats()).finish()
    }
}

impl Store {
    /// Makes an empty store. `wakeup` is called when readers should poll again.
    pub fn new(config: StoreConfig, wakeup: Arc<dyn Wakeup>) -> std::io::Result<Arc<Self>> {
        let arena = Arena::new(config.capacity_bytes)?;
        let part = || Part { shard: Mutex::new(Shard::new(arena.clone())), lowest: AtomicU64::new(u64::MAX) };
        Ok(Arc::new(Self {
            parts: (0..config.shards.max(1).next_power_of_two()).map(|_| part()).collect(),
            arena: arena.clone(),
            wakeup,
            level: AtomicU64::new(0),
            generation: AtomicU64::new(1),
            epoch: AtomicU64::new(1),
            counters: Counters::default(),
        }))
    }

    /// Looks a key up, and begins or joins its fill.
    pub fn lookup_or_begin(self: &Arc<Self>, query: &Query<'_>) -> Lookup {
        let stamp = self.stamp(query);
        let mut removed: Vec<Removed> = Vec::new();
        // A new slot is charged; when that is refused, room is made without the lock, and all is looked at again.
        for _ in 0..2 {
            let found = {
                let part = self.part(query.key);
                let mut shard = part.shard.lock();
                let found = self.look(&mut shard, query, stamp, &mut removed);
                part.note(&shard);
                found
            };
            if let Some(found) = found {
                return found;
            }
            if !self.make_room(ENTRY_BYTES) {
                break;
            }
        }
        self.counters.refused_fills.fetch_add(1, Ordering::Relaxed);
        Lookup::Pass(LookupPass::TooManyFills)
    }

    /// What is stored, without touching it.
    pub fn peek(&self, query: &Query<'_>) -> Stored {
        let stamp = self.stamp(query);
        let shard = self.part(query.key).shard.lock();
        let (_, id) = variant(&shard, query);
        let Some(slot) = id.map(|id| shard.slot(id)) else { return Stored::Absent };
        if let Some(object) = slot.object.as_ref().filter(|o| o.stamp == stamp) {
            return if object.meta().freshness.is_fresh(query.now) { Stored::Fresh } else { Stored::Stale };
        }
        match slot.note.as_deref() {
            Some(Note::Uncacheable { until_mono_ms, stamp: s })
                if *until_mono_ms > query.now.mono_ms && *s == stamp =>
            {
                Stored::Uncacheable
            }
            _ if slot.fill.is_some() => Stored::Filling,
            _ => Stored::Absent,
        }
    }

    /// Forgets one URL with all its variants; a fill in flight for it is not kept either. Also for invalidation
    /// by unsafe methods.
    pub fn purge(&self, key: CacheKey) {
        let part = self.part(key);
        let mut shard = part.shard.lock();
        let fills: Vec<Arc<Fill>> = shard.fills_of(key).cloned().collect();
        for fill in &fills {
            fill.purged.store(true, Ordering::Relaxed);
        }
        let mut removed = Vec::new();
        if let Some(id) = shard.find(key) {
            // The variants' keys follow from the epoch of the note: without it nobody finds them.
            if let Some(Note::Vary { variants, .. }) = shard.slot(id).note.as_deref() {
                let variants: Vec<CacheKey> = variants.iter().copied().collect();
                for variant in variants {
                    if let Some(id) = shard.find(variant) {
                        removed.push(shard.clear(id));
                    }
                }
            }
            removed.push(shard.clear(id));
        }
        part.note(&shard);
        drop(shard);
    }

    /// Forgets everything.
    pub fn purge_all(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Counters and gauges.
    pub fn stats(&self) -> StoreStats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        StoreStats {
            bytes: self.arena.used(),
            capacity_bytes: self.arena.capacity(),
            objects: self.parts.iter().map(|p| p.shard.lock().objects()).sum(),
            fills: get(&self.counters.fills),
            evicted: get(&self.counters.evicted),
            refused_large: get(&self.counters.refused_large),
            refused_full: get(&self.counters.refused_full),
            refused_fills: get(&self.counters.refused_fills),
            joined: get(&self.counters.joined),
            fills_failed: get(&self.counters.fills_failed),
            arena: self.arena.stats(),
        }
    }

    fn stamp(&self, query: &Query<'_>) -> Stamp {
        Stamp { all: self.generation.load(Ordering::Relaxed), host: query.host_generation }
    }

    fn part(&self, key: CacheKey) -> &Part {
        // The table uses the low half of the key from both ends; the part comes from the other half.
        &self.parts[(key.owner_hash() >> 16) as usize & (self.parts.len() - 1)]
    }

    /// `None`: a slot must be made, and its charge was refused.
    fn look(
        self: &Arc<Self>,
        shard: &mut MutexGuard<'_, Shard>,
        query: &Query<'_>,
        stamp: Stamp,
        removed: &mut Vec<Removed>,
    ) -> Option<Lookup> {
        let level = self.level.load(Ordering::Relaxed);
        if let Some(at) = shard.find(query.key)
            && matches!(shard.slot(at).note.as_deref(), Some(Note::Vary { .. }))
        {
            shard.slot_mut(at).uses.touch(level);
        }
        let (key, mut id) = variant(shard, query);
        if let Some(at) = id {
            let slot = shard.slot_mut(at);
            if slot.object.as_ref().is_some_and(|o| o.stamp != stamp) {
                removed.push(shard.clear(at));
                id = shard.find(key);
            } else if let Some(object) = &slot.object {
                let object = object.clone();
                slot.uses.touch(level);
                return self.look_stored(shard, query, stamp, key, at, object);
            }
        }
        if query.control.only_if_cached {
            return Some(Lookup::OnlyIfCached);
        }
        if let Some(at) = id
            && let Some(Note::Uncacheable { until_mono_ms, stamp: noted }) = shard.slot(at).note.as_deref()
        {
            if *until_mono_ms > query.now.mono_ms && *noted == stamp {
                return Some(Lookup::Pass(LookupPass::Uncacheable));
            }
            removed.push(shard.clear(at));
        }
        self.join_or_begin(shard, query, stamp, key, None)
    }

    fn look_stored(
        self: &Arc<Self>,
        shard: &mut MutexGuard<'_, Shard>,
        query: &Query<'_>,
        stamp: Stamp,
        key: CacheKey,
        id: u32,
        object: ObjectRef,
    ) -> Option<Lookup> {
        let (serve_now, stale_if_error) = match reuse(&object.meta().freshness, &query.control, query.now) {
            Reuse::Fresh => return Some(Lookup::Hit { object, stale: false }),
            Reuse::StaleAllowed => return Some(Lookup::Hit { object, stale: true }),
            Reuse::StaleWhileRevalidate if shard.slot(id).fill.is_some() => {
                return Some(Lookup::Hit { object, stale: true });
            }
            _ if query.control.only_if_cached => return Some(Lookup::OnlyIfCached),
            Reuse::StaleWhileRevalidate => (true, true),
            Reuse::Revalidate { stale_if_error } => (false, stale_if_error),
        };
        let must_not_share = object.meta().freshness.always_validate || query.control.no_cache;
        if must_not_share && shard.slot(id).fill.is_some() {
            return Some(Lookup::Pass(LookupPass::Unshared));
        }
        match self.join_or_begin(shard, query, stamp, key, Some(&object))? {
            Lookup::Begin(writer) => Some(Lookup::Revalidate { object, writer, serve_now, stale_if_error }),
            other => Some(other),
        }
    }

    fn join_or_begin(
        self: &Arc<Self>,
        shard: &mut MutexGuard<'_, Shard>,
        query: &Query<'_>,
        stamp: Stamp,
        key: CacheKey,
        stored: Option<&ObjectRef>,
    ) -> Option<Lookup> {
        if !query.may_fill {
            return Some(Lookup::Pass(LookupPass::NotFillable));
        }
        if query.attempt >= ATTEMPTS_MAX {
            return Some(Lookup::Pass(LookupPass::Attempts));
        }
        if let Some(fill) = shard.find(key).and_then(|id| shard.slot(id).fill.clone()) {
            if query.control.no_cache {
                return Some(Lookup::Pass(LookupPass::Unshared));
            }
            if fill.stamp == stamp && !fill.purged.load(Ordering::Relaxed) {
                self.counters.joined.fetch_add(1, Ordering::Relaxed);
                return Some(Lookup::Join(fill.join(query.subscriber)));
            }
            // It began before a purge: its readers keep it, newcomers begin another.
            shard.detach_fill(key, &fill);
        }
        if self.counters.fills.load(Ordering::Relaxed) >= FILLS_MAX {
            self.counters.refused_fills.fetch_add(1, Ordering::Relaxed);
            return Some(Lookup::Pass(LookupPass::TooManyFills));
        }
        let id = shard.find_or_make(key)?;
        let fill = Fill::new(query.key, stamp, query.attempt.min(ELECTIONS_MAX));
        shard.add_fill(id, fill.clone());
        self.counters.fills.fetch_add(1, Ordering::Relaxed);
        Some(Lookup::Begin(FillWriter::new(self.clone(), fill, key, stored.cloned(), query.now)))
    }
}

impl Part {
    fn note(&self, shard: &Shard) {
        let lowest = shard.lowest();
        if self.lowest.load(Ordering::Relaxed) != lowest {
            self.lowest.store(lowest, Ordering::Relaxed);
        }
    }
}

/// The key this request selects, and its slot.
fn variant(shard: &Shard, query: &Query<'_>) -> (CacheKey, Option<u32>) {
    let id = shard.find(query.key);
    if let Some(at) = id
        && let Some(Note::Vary { spec, epoch, .. }) = shard.slot(at).note.as_deref()
    {
        let key = spec.variant_key(query.key, *epoch, query.request);
        return (key, shard.find(key));
    }
    (query.key, id)
}
