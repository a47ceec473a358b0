//! One fill: its writer, and the readers that wait for it.
//!
//! ```text
//!          start            append*, finish
//! Waiting -------> Ready --------------------> object complete, found by lookups
//!    |               +-- drop: object failed, readers are cut at what is there
//!    +-- freshen, serve_stale: Ready with an object that is whole already
//!    +-- uncacheable, refused reservation: Released, all at once
//!    +-- drop: Retry (readers look up again, the first becomes the writer), the second time Failed
//!    +-- fail_all: Failed
//! ```
//!
//! Readers never hold up the writer: bytes go into the arena, each reader takes them at its own pace, and is woken
//! only after it found nothing new. The order that makes no wake-up be lost: a reader puts itself on the list and
//! looks again, a writer publishes and takes the list, both under the fill's lock.

use super::{CONTINUE_MAX_BYTES, Object, ObjectMeta, ObjectRef, Store};
use crate::store::object::Stamp;
use parking_lot::Mutex;
use sluice_core::cache::{CacheKey, FieldSource, Now, PassReason, Vary, VarySpec};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Writers a key may lose before its readers are told it failed: one re-election.
pub(super) const ELECTIONS_MAX: u8 = 1;

/// Who is woken: the caller's worker and a token that means something to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber {
    /// Index of the worker.
    pub worker: u32,
    /// The worker's own name for the waiting session.
    pub token: u64,
}

/// Tells a waiting session to poll again. Called without a lock held, from the thread that writes the fill.
pub trait Wakeup: Send + Sync {
    /// May be called more often than needed, and after the session is gone.
    fn wake(&self, who: Subscriber);
}

/// Why bytes were not stored. The writer's own client is not concerned: it is answered from upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// Larger than an eighth of the cache, known or grown so.
    #[error("larger than an eighth of the cache")]
    TooLarge,
    /// No room could be made.
    #[error("no room in the cache")]
    Full,
    /// More or fewer bytes than declared.
    #[error("more or fewer bytes than declared")]
    Length,
}

/// What a reader learns before the head is there.
#[derive(Debug)]
pub enum FillPoll {
    /// Nothing yet; the subscriber is woken.
    Pending,
    /// The head is there, and the response is for this request. Go on with [`FillReader::poll_body`].
    Ready(ObjectRef),
    /// Look up again, with [`super::Query::attempt`] one higher: the writer died and one reader takes its place, or
    /// the response was for another variant.
    Retry,
    /// The response is not to be shared: go to the next hop for yourself, do not look up again.
    Released(Option<PassReason>),
    /// The writer died and so did its successor, or the next hop failed for all.
    Failed,
}

/// What a reader learns about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPoll {
    /// That many bytes of the body are there, more than `seen`.
    Available(u64),
    /// All are seen.
    End,
    /// The fill died; what is there is all that comes.
    Failed,
    /// Nothing new; the subscriber is woken.
    Pending,
}

#[derive(Debug)]
enum Verdict {
    Waiting,
    Ready { object: ObjectRef, variant: Option<Variant> },
    Retry,
    Released(Option<PassReason>),
    Failed,
}

/// What a request must select for the response to be its own.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) spec: VarySpec,
    pub(super) epoch: u64,
    pub(super) key: CacheKey,
}

#[derive(Debug)]
struct State {
    verdict: Verdict,
    waiters: Vec<Subscriber>,
}

/// A fill in flight.
#[derive(Debug)]
pub(super) struct Fill {
    /// Key of the URL; the slot's key is that or a variant's.
    pub(super) url: CacheKey,
    pub(super) stamp: Stamp,
    /// Writers lost before this one.
    pub(super) elections: u8,
    /// Its URL was purged since it began: readers are served, nothing is kept.
    pub(super) purged: AtomicBool,
    readers: AtomicUsize,
    state: Mutex<State>,
}

impl Fill {
    pub(super) fn new(url: CacheKey, stamp: Stamp, elections: u8) -> Arc<Self> {
        Arc::new(Self {
            url,
            stamp,
            elections,
            purged: AtomicBool::new(false),
            readers: AtomicUsize::new(0),
            state: Mutex::new(State { verdict: Verdict::Waiting, waiters: Vec::new() }),
        })
    }

    pub(super) fn join(self: &Arc<Self>, subscriber: Subscriber) -> FillReader {
        self.readers.fetch_add(1, Ordering::Relaxed);
        FillReader { fill: self.clone(), subscriber, object: None }
    }

    /// Wakes everyone who found nothing new.
    fn wake(&self, wakeup: &dyn Wakeup) {
        let waiters = std::mem::take(&mut self.state.lock().waiters);
        waiters.into_iter().for_each(|who| wakeup.wake(who));
    }

    fn decide(&self, verdict: Verdict, wakeup: &dyn Wakeup) {
        self.state.lock().verdict = verdict;
        self.wake(wakeup);
    }
}

/// The right and duty to fetch a response for a key. Dropping it without a verdict means the fill died.
#[derive(Debug)]
pub struct FillWriter {
    store: Arc<Store>,
    fill: Arc<Fill>,
    /// Key of the slot it was begun under.
    slot_key: CacheKey,
    /// The stored object being revalidated.
    stored: Option<ObjectRef>,
    begun: Now,
    open: bool,
}

impl FillWriter {
    pub(super) fn new(
        store: Arc<Store>,
        fill: Arc<Fill>,
        slot_key: CacheKey,
        stored: Option<ObjectRef>,
        begun: Now,
    ) -> Self {
        Self { store, fill, slot_key, stored, begun, open: true }
    }

    /// A response head came: reserves room, stores the head, tells the readers. `head` is in stored form, at most
    /// 65,535 bytes. On an error the readers are released: nothing is stored, the writer's client is answered from
    /// upstream. `request` is the writer's own, for Vary ([`Vary::Any`] is never stored, see
    /// [`sluice_core::cache::storable`]).
    pub fn start(
        mut self,
        meta: ObjectMeta,
        vary: &Vary,
        request: &dyn FieldSource,
        head: &[u8],
        body_len: Option<u64>,
    ) -> Result<BodyWriter, NotStored> {
        assert!(head.len() <= usize::from(u16::MAX), "a stored head has at most 65,535 bytes");
        let reserved = self.store.reserve(head.len() as u64, body_len);
        let blob = match reserved {
            Ok(blob) => blob,
            Err(error) => {
                self.refused(error);
                return Err(error);
            }
        };
        let written = blob.append(head);
        assert_eq!(written, head.len(), "the reservation holds the head");
        let object = Arc::new(Object::filling(meta, self.fill.stamp, blob, head.len() as u32, body_len));
        let variant = self.store.place(&self.fill, &mut self.slot_key, vary, request);
        self.open = false;
        self.fill.decide(Verdict::Ready { object: object.clone(), variant }, self.store.wakeup());
        let (store, fill) = (self.store.clone(), self.fill.clone());
        Ok(BodyWriter { store, fill, slot_key: self.slot_key, object, begun: self.begun, open: true })
    }

    /// 304 came for the object being revalidated: new head and freshness, same body.
    ///
    /// # Panics
    /// If this writer does not revalidate anything.
    pub fn freshen(mut self, meta: ObjectMeta, head: &[u8]) -> Result<ObjectRef, NotStored> {
        assert!(head.len() <= usize::from(u16::MAX), "a stored head has at most 65,535 bytes");
        let stored = self.stored.take().expect("only a revalidation is freshened");
        let blob = match self.store.reserve(head.len() as u64, Some(0)) {
            Ok(blob) => blob,
            Err(error) => {
                self.refused(error);
                return Err(error);
            }
        };
        blob.append(head);
        let object = Arc::new(stored.freshened(meta, self.fill.stamp, blob));
        self.open = false;
        self.store.insert(&self.fill, self.slot_key, &object);
        self.fill.decide(Verdict::Ready { object: object.clone(), variant: None }, self.store.wakeup());
        Ok(object)
    }

    /// The response is not to be stored: releases all readers at once. With `remember_ms` other than 0 the key is
    /// remembered as uncacheable for so long, and requests for it neither wait nor fill. What was stored for it
    /// is outdated then, and goes.
    pub fn uncacheable(mut self, reason: PassReason, now: Now, remember_ms: u64) {
        self.open = false;
        let until = (remember_ms > 0).then(|| now.mono_ms.saturating_add(remember_ms));
        self.store.end_uncacheable(&self.fill, self.slot_key, until);
        self.fill.decide(Verdict::Released(Some(reason)), self.store.wakeup());
    }

    /// The next hop failed and the stale object is served instead (RFC 5861 section 4): readers get it too.
    ///
    /// # Panics
    /// If this writer does not revalidate anything.
    pub fn serve_stale(mut self) -> ObjectRef {
        let object = self.stored.take().expect("only a revalidation has a stale object");
        self.open = false;
        self.store.end(&self.fill, self.slot_key);
        self.fill.decide(Verdict::Ready { object: object.clone(), variant: None }, self.store.wakeup());
        object
    }

    /// The next hop failed in a way that trying again at once would not heal: readers fail too, instead of going
    /// there one after the other.
    pub fn fail_all(mut self) {
        self.open = false;
        self.store.end(&self.fill, self.slot_key);
        self.store.count_failed_fill();
        self.fill.decide(Verdict::Failed, self.store.wakeup());
    }

    /// The object being revalidated.
    pub fn stored(&self) -> Option<&ObjectRef> {
        self.stored.as_ref()
    }

    /// Readers waiting now.
    pub fn readers(&self) -> usize {
        self.fill.readers.load(Ordering::Relaxed)
    }

    fn refused(&mut self, error: NotStored) {
        self.open = false;
        self.store.end_refused(&self.fill, self.slot_key, self.begun, error);
        self.fill.decide(Verdict::Released(None), self.store.wakeup());
    }
}

impl Drop for FillWriter {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        self.store.end(&self.fill, self.slot_key);
        self.store.count_failed_fill();
        let last = self.fill.elections >= ELECTIONS_MAX;
        self.fill.decide(if last { Verdict::Failed } else { Verdict::Retry }, self.store.wakeup());
    }
}

/// Writes the body of a started fill. Dropping it unfinished means the fill died.
#[derive(Debug)]
pub struct BodyWriter {
    store: Arc<Store>,
    fill: Arc<Fill>,
    slot_key: CacheKey,
    object: ObjectRef,
    begun: Now,
    open: bool,
}

impl BodyWriter {
    /// Copies body bytes in and wakes the readers that wait for them. On an error the readers are told that no
    /// more bytes come, nothing is stored, and the writer is spent.
    pub fn append(&mut self, data: &[u8]) -> Result<(), NotStored> {
        if !self.open {
            return Err(NotStored::Full);
        }
        let before = self.object.body_available();
        if let Some(declared) = self.object.body_len()
            && before + data.len() as u64 > declared
        {
            return self.give_up(NotStored::Length);
        }
        let mut rest = data;
        loop {
            let written = self.object.blob().append(rest);
            rest = &rest[written..];
            if rest.is_empty() {
                break;
            }
            if let Err(error) = self.store.grow(self.object.blob(), rest.len() as u64) {
                return self.give_up(error);
            }
        }
        self.fill.wake(self.store.wakeup());
        Ok(())
    }

    /// The body ended as it should: the object can be found from now on.
    pub fn finish(mut self) -> Result<ObjectRef, NotStored> {
        if !self.open {
            return Err(NotStored::Full);
        }
        if self.object.body_len().is_some_and(|declared| declared != self.object.body_available()) {
            return self.give_up(NotStored::Length).map(|()| self.object.clone());
        }
        self.open = false;
        self.object.blob().trim();
        self.object.complete();
        self.store.insert(&self.fill, self.slot_key, &self.object);
        self.fill.wake(self.store.wakeup());
        Ok(self.object.clone())
    }

    /// Readers attached now.
    pub fn readers(&self) -> usize {
        self.fill.readers.load(Ordering::Relaxed)
    }

    /// Whether to go on when the writer's own client has left: yes while readers are attached, or at most
    /// [`CONTINUE_MAX_BYTES`] are missing, or more than half is there already.
    pub fn worth_continuing(&self) -> bool {
        let have = self.object.body_available();
        self.readers() > 0
            || self
                .object
                .body_len()
                .is_some_and(|whole| whole - have <= CONTINUE_MAX_BYTES || have > whole / 2)
    }

    /// The object being written.
    pub fn object(&self) -> &ObjectRef {
        &self.object
    }

    fn give_up(&mut self, error: NotStored) -> Result<(), NotStored> {
        self.open = false;
        self.object.fail();
        self.store.end_refused(&self.fill, self.slot_key, self.begun, error);
        self.store.count_failed_fill();
        self.fill.wake(self.store.wakeup());
        Err(error)
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if self.open {
            let _ = self.give_up(NotStored::Length);
        }
    }
}

/// A place in the queue for a fill in flight. Dropping it leaves the queue.
#[derive(Debug)]
pub struct FillReader {
    fill: Arc<Fill>,
    subscriber: Subscriber,
    object: Option<ObjectRef>,
}

impl FillReader {
    /// Until [`FillPoll::Ready`]. `request` selects the variant.
    pub fn poll(&mut self, request: &dyn FieldSource) -> FillPoll {
        let mut state = self.fill.state.lock();
        match &state.verdict {
            Verdict::Waiting => {
                if !state.waiters.contains(&self.subscriber) {
                    state.waiters.push(self.subscriber);
                }
                FillPoll::Pending
            }
            Verdict::Ready { object, variant } => {
                let own = |v: &Variant| v.spec.variant_key(self.fill.url, v.epoch, request) == v.key;
                if !variant.as_ref().is_none_or(own) {
                    return FillPoll::Retry;
                }
                self.object = Some(object.clone());
                FillPoll::Ready(object.clone())
            }
            Verdict::Retry => FillPoll::Retry,
            Verdict::Released(reason) => FillPoll::Released(*reason),
            Verdict::Failed => FillPoll::Failed,
        }
    }

    /// After [`FillPoll::Ready`]; `seen` bytes of the body were taken.
    pub fn poll_body(&mut self, seen: u64) -> BodyPoll {
        let Some(object) = &self.object else { return BodyPoll::Pending };
        let news = body_news(object, seen);
        if news != BodyPoll::Pending {
            return news;
        }
        let mut state = self.fill.state.lock();
        let news = body_news(object, seen);
        if news == BodyPoll::Pending && !state.waiters.contains(&self.subscriber) {
            state.waiters.push(self.subscriber);
        }
        news
    }
}

fn body_news(object: &Object, seen: u64) -> BodyPoll {
    // State first: bytes published before the end are then seen too.
    let (complete, failed) = (object.is_complete(), object.is_failed());
    let available = object.body_available();
    if available > seen {
        BodyPoll::Available(available)
    } else if complete {
        BodyPoll::End
    } else if failed {
        BodyPoll::Failed
    } else {
        BodyPoll::Pending
    }
}

impl Drop for FillReader {
    fn drop(&mut self) {
        self.fill.readers.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.fill.state.lock();
        if let Some(at) = state.waiters.iter().position(|w| *w == self.subscriber) {
            state.waiters.swap_remove(at);
        }
    }
}
