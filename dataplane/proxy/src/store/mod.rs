//! The RAM store: an index of responses over an arena, and the fills in flight.

mod fill;
mod object;

pub use fill::{BodyPoll, BodyWriter, FillPoll, FillReader, FillWriter, NotStored, Subscriber, Wakeup};
pub use object::{Object, ObjectMeta, ObjectRef};

use sluice_core::cache::{CacheKey, FieldSource, Now, RequestControl};
use std::sync::Arc;

/// Objects larger than this part of the cache are passed through: one of them must not empty the rest.
pub const OBJECT_SHARE_MAX: u64 = 8;
/// A fill without readers goes on if no more than this is missing.
pub const CONTINUE_MAX_BYTES: u64 = 1 << 20;

/// How a store is made.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Bytes it may use, index included.
    pub capacity_bytes: u64,
    /// Parts of the index with a lock each: one per worker is enough.
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
    /// Fills in flight are at their limit.
    TooManyFills,
    /// Too many attempts.
    Attempts,
    /// Stored but validated for each request, and another session is at it: requests must not share its answer.
    Unshared,
}

/// Counters since start and gauges of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes in use, index included.
    pub bytes: u64,
    /// Responses that can be found.
    pub objects: u64,
    /// Fills in flight.
    pub fills: u64,
    /// Objects evicted.
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

/// The store; shared by all workers of a process.
pub struct Store {
    _p: (),
}

impl Store {
    /// Makes an empty store. `wakeup` is called when readers should poll again.
    pub fn new(_config: StoreConfig, _wakeup: Arc<dyn Wakeup>) -> std::io::Result<Arc<Self>> {
        unimplemented!()
    }

    /// Looks a key up, and begins or joins its fill.
    pub fn lookup_or_begin(self: &Arc<Self>, _query: &Query<'_>) -> Lookup {
        unimplemented!()
    }

    /// What is stored, without touching it.
    pub fn peek(&self, _query: &Query<'_>) -> Stored {
        unimplemented!()
    }

    /// Forgets one URL with all its variants; a fill in flight for it is not kept either. Also for invalidation
    /// by unsafe methods.
    pub fn purge(&self, _key: CacheKey) {
        unimplemented!()
    }

    /// Forgets everything.
    pub fn purge_all(&self) {
        unimplemented!()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> StoreStats {
        unimplemented!()
    }
}
